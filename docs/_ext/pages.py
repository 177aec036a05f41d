"""Pages that are made of the repository: the API reference, the tutorials, and llms.txt.

Written below docs/reference and docs/tutorials when a build begins, llms.txt when it ends. None of them is committed:
docstrings, notebooks and pages are the one source.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shutil
from pathlib import Path

from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx

import fastrec.all  # noqa: F401  # explains the arguments in the docstrings

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent

WINGS = {
    'data': 'From a table to codes: columns, files, splits, features, negatives.',
    'models': 'From codes to scores: modules of torch, and losses.',
    'scorers': 'From scores to answers: recommending, similar items, explanations, re-ranking, baselines, saving.',
    'evaluation': 'Answers are judged: metrics, protocols, comparisons.',
    'training': 'Models are trained: loaders, builders, the learner, choosing and tuning.',
    'interpretation': 'Models are looked at: biases, maps, gates, errors.',
}


# --- the reference


def write_reference(app: Sphinx) -> None:
    """A page for each wing, with the public names of its rooms in the order of `fastrec.all`."""
    folder = DOCS / 'reference'
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for wing, what in WINGS.items():
        parts = [f'# {wing.capitalize()}\n\n{what}\n']
        for room in rooms_of(wing):
            module = importlib.import_module(f'fastrec.{room}')
            names = [name for name in module.__all__ if is_own(module, name)]
            if names:
                parts.append(section_of(module, names))
        (folder / f'{wing}.md').write_text('\n'.join(parts))
    everything = ['progress', *(room for wing in WINGS for room in rooms_of(wing))]
    (folder / 'index.md').write_text(index_of(everything))


def rooms_of(wing: str) -> list[str]:
    """'data.splits', ... in the order in which `fastrec.all` imports them."""
    source = (ROOT / 'fastrec' / 'all.py').read_text()
    return re.findall(rf'^from \.({wing}\.\w+) import \*', source, re.M)


def is_own(module, name: str) -> bool:
    """Is it defined there, and not a number?"""
    value = getattr(module, name)
    return callable(value) and getattr(value, '__module__', None) == module.__name__


def section_of(module, names: list[str]) -> str:
    """The heading of a room, its first sentence, and a directive for each name."""
    title = module.__name__.removeprefix('fastrec.')
    first = inspect.cleandoc(module.__doc__).split('\n\n')[0]
    directives = []
    for name in names:
        value = getattr(module, name)
        is_class = inspect.isclass(value)
        directives.append(f'.. auto{"class" if is_class else "function"}:: {module.__name__}.{name}')
        if is_class:
            directives.append('   :members:')
            directives.append('   :show-inheritance:')
        directives.append('')
    return f'## `{title}`\n\n{first}\n\n```{{eval-rst}}\n' + '\n'.join(directives) + '\n```\n'


def index_of(rooms: list[str]) -> str:
    """The table of all public names, each with the first line of its docstring."""
    lines = ['# API reference', '', 'Everything that `from fastrec.all import *` brings.', '']
    lines += ['```{toctree}', ':hidden:', '', *WINGS, '```', '']
    for wing, what in WINGS.items():
        lines += [f'## [{wing.capitalize()}]({wing}.md)', '', what, '', '| | |', '|---|---|']
        for room in rooms:
            module = importlib.import_module(f'fastrec.{room}')
            if not room.startswith(wing):
                continue
            for name in module.__all__:
                if is_own(module, name):
                    said = (inspect.getdoc(getattr(module, name)) or '').split('\n')[0].replace('|', '\\|')
                    lines.append(f'| {{py:obj}}`{name} <{module.__name__}.{name}>` | {said} |')
        lines.append('')
    return '\n'.join(lines)


def plain_docstring(app, what, name, obj, options, lines) -> None:
    """Docstrings are plain text: what has a meaning in reStructuredText alone is escaped."""
    escaped = []
    for line in lines:
        if line.lstrip().startswith((':', '.. ')):  # napoleon has been here
            escaped.append(line)
            continue
        parts = re.split(r'(`[^`]*`)', line)
        outside = [
            part if part.startswith('`') else re.sub(r'([|*_])(?=\S)|(?<=\S)([|*_])', r'\\\1\2', part) for part in parts
        ]
        escaped.append(''.join(outside))
    lines[:] = escaped


# --- tutorials


def write_tutorials(app: Sphinx) -> None:
    """The notebooks as they were executed, each with a badge that opens it in Colab."""
    folder = DOCS / 'tutorials'
    folder.mkdir(exist_ok=True)
    for path in sorted((ROOT / 'nbs').glob('*.ipynb')):
        shutil.copy(path, folder / path.name)
    write_once(folder / 'index.md', tutorials_index(folder))


def tutorials_index(folder: Path) -> str:
    lines = ['# Tutorials', '', 'Executed notebooks on MovieLens 100K.', '', '```{toctree}', ':maxdepth: 1', '']
    lines += [path.stem for path in sorted(folder.glob('*.ipynb'))]
    return '\n'.join([*lines, '```', ''])


def write_once(path: Path, text: str) -> None:
    """Write, unless it is there already: Sphinx reads again what is newer."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


# --- for language models


def write_llms(app: Sphinx, error: Exception | None) -> None:
    """llms.txt (the pages, a line each) and llms-full.txt (their text) beside the site: https://llmstxt.org."""
    if error is not None or app.builder.format != 'html':
        return
    out = Path(app.outdir)
    lines = [
        '# fastrec',
        '',
        '> Recommenders the fastai way: a rating table to a tuned, evaluated, explained recommender.',
        '',
    ]
    full = list(lines)
    for name in sorted(app.env.found_docs):
        title = app.env.titles[name].astext()
        lines.append(f'- [{title}]({name}.html)')
        path = Path(app.env.doc2path(name))
        full += ['', f'<!-- {name} -->', '', text_of(path)]
    (out / 'llms.txt').write_text('\n'.join(lines) + '\n')
    (out / 'llms-full.txt').write_text('\n'.join(full) + '\n')


def text_of(path: Path) -> str:
    """A page as Markdown; of a notebook its text and code."""
    if path.suffix != '.ipynb':
        return path.read_text()
    cells = json.loads(path.read_text())['cells']
    return '\n\n'.join(
        f'```python\n{"".join(cell["source"])}\n```' if cell['cell_type'] == 'code' else ''.join(cell['source'])
        for cell in cells
    )


# --- formulas


def visit_math(self, node) -> None:
    self.body.append(latex2mathml.tex2mathml(node.astext(), as_block=False))
    raise_skip()


def visit_math_block(self, node) -> None:
    self.body.append('<div class="math">' + latex2mathml.tex2mathml(node.astext(), as_block=True) + '</div>')
    raise_skip()


def raise_skip():
    from docutils.nodes import SkipNode

    raise SkipNode


def setup(app: Sphinx) -> dict:
    app.connect('builder-inited', write_reference)
    app.connect('builder-inited', write_tutorials)
    app.connect('autodoc-process-docstring', plain_docstring, priority=600)
    app.connect('build-finished', write_llms)
    app.add_html_math_renderer('mathml', (visit_math, None), (visit_math_block, None))
    return dict(parallel_read_safe=False, version='1')
