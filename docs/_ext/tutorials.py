"""The tutorials: the notebooks of nbs/ as they were executed, each with a button that opens it in Colab."""

from __future__ import annotations

import json
import re
from pathlib import Path

from house import DOCS, ROOT
from reference import write_once
from sphinx.application import Sphinx

NOTEBOOKS = sorted((ROOT / 'nbs').glob('*.ipynb'))
INSTALLS = "if find_spec('fastrec') is None:"
# the badge is a picture from the network: on the site, which asks for nothing there, it is a button
BADGE = re.compile(r'\[!\[[^\]]*\]\([^)]*\)\]\((?P<address>[^)]*)\)')


def write(app: Sphinx) -> None:
    """Write docs/tutorials."""
    folder = DOCS / 'tutorials'
    for path in NOTEBOOKS:
        write_once(folder / path.name, as_page(path.read_text()))
    write_once(folder / 'index.md', index())


def as_page(notebook: str) -> str:
    """A notebook whose links lead to places on the site, without the cell that installs."""
    content = json.loads(notebook)
    content['cells'] = [cell for cell in content['cells'] if INSTALLS not in ''.join(cell['source'])]
    for cell in content['cells']:
        if cell['cell_type'] == 'markdown':
            cell['source'] = _on_the_site(''.join(cell['source']))
    return json.dumps(content, ensure_ascii=False, indent=1)


def _on_the_site(text: str) -> str:
    text = BADGE.sub(r'<a class="colab" href="\g<address>">Open in Colab</a>', text)
    text = text.replace('](../benchmarks/RESULTS.md', '](../results.md')
    return text.replace('](../README.md', '](../index.md').replace('](../docs/', '](../')


def title_of(path: Path) -> str:
    """The first heading of a notebook."""
    cells = json.loads(path.read_text())['cells']
    text = '\n'.join(''.join(cell['source']) for cell in cells if cell['cell_type'] == 'markdown')
    return re.search(r'^# (.*)', text, re.M).group(1)


def index() -> str:
    lines = [
        '# Tutorials',
        '',
        'Notebooks that were run on MovieLens 100K, with what came out. Each has a button that opens it in Colab.',
        '',
        '```{toctree}',
        ':maxdepth: 1',
        '',
        *(path.stem for path in NOTEBOOKS),
        '```',
    ]
    return '\n'.join([*lines, ''])
