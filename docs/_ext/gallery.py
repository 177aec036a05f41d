"""Pictures of docs/gallery with the code that drew each: from `nbs/gallery.py`, or from the notebook of the picture."""

from __future__ import annotations

import ast
import json
from functools import cache
from textwrap import dedent
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from house import ROOT
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

SOURCE = ROOT / 'nbs' / 'gallery.py'


class Picture(SphinxDirective):
    """A picture of the gallery and the code under it: `{picture} biases` with `:alt:`."""

    required_arguments = 1
    option_spec: ClassVar = {'alt': directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        self.env.note_dependency(str(SOURCE))
        picture = nodes.image(uri=f'gallery/{name}.png', alt=self.options['alt'], classes=['picture'])
        found: list[nodes.Node] = [picture, _block(code_of(name))]
        notebook = notebook_of(name)
        if notebook:
            text = f'From the notebook [{notebook}](tutorials/{notebook}.ipynb).'
            found += self.parse_text_to_nodes(text)
        return found


class PictureSetup(SphinxDirective):
    """What comes before the pictures that `nbs/gallery.py` draws."""

    def run(self) -> list[nodes.Node]:
        return [_block(setup_code())]


def _block(code: str) -> nodes.literal_block:
    return nodes.literal_block(code, code, language='python')


# --- the code


@cache
def _drawing() -> tuple[str, list[ast.stmt]]:
    """The source of `nbs/gallery.py`, and the statements of its `draw_figures`."""
    source = SOURCE.read_text()
    tree = ast.parse(source)
    function = next(o for o in tree.body if isinstance(o, ast.FunctionDef) and o.name == 'draw_figures')
    is_text = isinstance(function.body[0], ast.Expr) and isinstance(function.body[0].value, ast.Constant)
    return source, function.body[is_text:]


def _saved(statement: ast.stmt) -> tuple[str, ast.expr] | None:
    """(name, what is drawn) of `save('name', what)`."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == 'save':
        return call.args[0].value, call.args[1]
    return None


def setup_code() -> str:
    """Tables, training and all else that is not a picture."""
    source, statements = _drawing()
    lines = ['from fastrec.all import *', '']
    for statement in statements:
        if _saved(statement) is None:
            rows = source.splitlines()[statement.lineno - 1 : statement.end_lineno]
            lines.append(dedent('\n'.join(rows)))
    return '\n'.join(lines)


@cache
def drawn() -> dict[str, str]:
    """{picture: code} of those that `nbs/gallery.py` draws."""
    source, statements = _drawing()
    found = [saved for saved in map(_saved, statements) if saved is not None]
    return {name: ast.get_source_segment(source, what) for name, what in found}


@cache
def copied() -> dict[str, tuple[str, str]]:
    """{picture: (notebook, code)} of those out of a notebook."""
    tree = ast.parse(SOURCE.read_text())
    table = next(o.value for o in tree.body if isinstance(o, ast.Assign) and o.targets[0].id == 'COPIED')
    found = {}
    for name, (number, text) in ast.literal_eval(table).items():
        path = next((ROOT / 'nbs').glob(f'{number}_*.ipynb'))
        cells = [
            ''.join(cell['source']) for cell in json.loads(path.read_text())['cells'] if cell['cell_type'] == 'code'
        ]
        found[name] = path.stem, [cell for cell in cells if text in cell][-1]
    return found


def code_of(name: str) -> str:
    """`KeyError` of a picture that nothing draws."""
    return drawn()[name] if name in drawn() else copied()[name][1]


def notebook_of(name: str) -> str:
    """'' for a picture that is not out of one."""
    return '' if name in drawn() else copied()[name][0]


def setup(app: Sphinx) -> None:
    app.add_directive('picture', Picture)
    app.add_directive('picture-setup', PictureSetup)
