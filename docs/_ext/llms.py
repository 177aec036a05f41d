"""llms.txt (the pages, a line each) and llms-full.txt (their text) beside the site: https://llmstxt.org."""

from __future__ import annotations

import json
import re
from pathlib import Path

import reference
from gallery import code_of, setup_code
from house import DOCS, WINGS, rooms_of
from sphinx.application import Sphinx

HEAD = [
    '# fastrec',
    '',
    '> Recommenders the fastai way: from a table of ratings or clicks to a tuned, evaluated, explained recommender.',
    '',
]
INCLUDE = re.compile(r'^```\{include\} (?P<path>\S+)\n(?:.*\n)*?```$', re.M)
PICTURE = re.compile(r'^```\{picture\} (?P<name>\w+)\n(?:.*\n)*?```$', re.M)
SETUP = re.compile(r'^```\{picture-setup\}\n```$', re.M)


def write(app: Sphinx, error: Exception | None) -> None:
    """When a site is made, write both beside it."""
    if error is not None or app.builder.format != 'html':
        return
    titles = {name: app.env.titles[name].astext() for name in sorted(app.env.found_docs)}
    paths = {name: Path(app.env.doc2path(name)) for name in titles}
    (Path(app.outdir) / 'llms.txt').write_text(short(titles))
    (Path(app.outdir) / 'llms-full.txt').write_text(full(paths))


def short(titles: dict[str, str]) -> str:
    """A link to each page, guides first, the reference last."""
    guides = [name for name in titles if not name.startswith('reference/')]
    others = [name for name in titles if name.startswith('reference/')]
    lines = [*HEAD, '## Guides', '']
    lines += [f'- [{titles[name]}]({name}.html)' for name in guides]
    lines += ['', '## API reference', '']
    lines += [f'- [{titles[name]}]({name}.html)' for name in others]
    return '\n'.join([*lines, ''])


def full(paths: dict[str, Path]) -> str:
    """The text of each page, and of each room of the reference."""
    parts = ['\n'.join(HEAD)]
    parts += [
        f'<!-- {name} -->\n\n{text_of(path)}' for name, path in paths.items() if not name.startswith('reference/')
    ]
    for wing in WINGS:
        parts += [f'<!-- reference/{wing} -->\n\n{reference.text_of(room)}' for room in rooms_of(wing)]
    return '\n\n'.join([*parts, ''])


def text_of(path: Path) -> str:
    """A page as Markdown, with what it includes; of a notebook its text and code."""
    if path.suffix == '.ipynb':
        cells = json.loads(path.read_text())['cells']
        return '\n\n'.join(_cell(cell) for cell in cells)
    text = INCLUDE.sub(lambda match: (DOCS / match['path']).resolve().read_text(), path.read_text())
    text = SETUP.sub(lambda match: f'```python\n{setup_code()}\n```', text)
    return PICTURE.sub(lambda match: f'```python\n{code_of(match["name"])}\n```', text)


def _cell(cell: dict) -> str:
    source = ''.join(cell['source'])
    return f'```python\n{source}\n```' if cell['cell_type'] == 'code' else source
