"""Formulas as MathML, which browsers draw by themselves: no script, no network."""

from __future__ import annotations

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def visit_math(self, node: nodes.Node) -> None:
    self.body.append(as_mathml(node, is_block=False))
    raise nodes.SkipNode


def visit_math_block(self, node: nodes.Node) -> None:
    self.body.append('<div class="math">' + as_mathml(node, is_block=True) + '</div>')
    raise nodes.SkipNode


def as_mathml(node: nodes.Node, is_block: bool) -> str:
    """A formula that is not understood is a warning, and shown as it was written."""
    formula = node.astext().replace(r'\dots', r'\ldots')  # the one that is known there
    try:
        return latex2mathml.tex2mathml(formula, as_block=is_block)
    except MathError as error:
        logger.warning('formula: %s in %s', error, node.astext(), location=node)
        return f'<code>{node.astext()}</code>'


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer('mathml', (visit_math, None), (visit_math_block, None))
