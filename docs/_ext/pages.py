"""What is made of the repository: the reference, the tutorials, the results, the gallery's code, and llms.txt.

Pages are written below docs/ when a build begins, llms.txt when it ends. None of them is committed: docstrings,
notebooks and results are the one source.
"""

from __future__ import annotations

import docstrings
import formulas
import gallery
import llms
import reference
import tutorials
from house import DOCS, ROOT
from sphinx.application import Sphinx


def write_benchmarks(app: Sphinx) -> None:
    """The full tables of benchmarks/, and how to run them again."""
    for source, page in (('RESULTS.md', 'results.md'), ('README.md', 'rerun.md')):
        text = (ROOT / 'benchmarks' / source).read_text()
        text = text.replace('](README.md)', '](rerun.md)').replace('](RESULTS.md)', '](results.md)')
        text = text.replace('](results/', '](../benchmarks/results/')
        text = text.replace('# Benchmarks', '# How to run the benchmarks', 1) if page == 'rerun.md' else text
        reference.write_once(DOCS / page, text)


def setup(app: Sphinx) -> dict:
    app.connect('builder-inited', reference.write)
    app.connect('builder-inited', tutorials.write)
    app.connect('builder-inited', write_benchmarks)
    app.connect('autodoc-process-docstring', docstrings.process)
    app.connect('autodoc-skip-member', docstrings.skip)
    app.connect('doctree-resolved', reference.link_names)
    app.connect('build-finished', llms.write)
    gallery.setup(app)
    formulas.setup(app)
    return dict(parallel_read_safe=False, version='2')
