"""The notebooks run top to bottom on real data, and what they hold is clean."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip('nbformat')
FOLDER = Path(__file__).parents[1] / 'nbs'
NOTEBOOKS = sorted(FOLDER.glob('*.ipynb'))
# a minute each: `make test-slow` runs them, too
LONG = ('03', '04', '06', '07')
RUNS = [
    pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem.startswith(LONG) else ()) for path in NOTEBOOKS
]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize('path', RUNS)
def test_runs(path, ml100k, tmp_path):
    nbclient = pytest.importorskip('nbclient')
    notebook = nbformat.read(path, 4)
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name='python3', resources={'metadata': {'path': str(tmp_path)}}
    ).execute()


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_opens_with_what_is_on_the_screen_at_its_end(path):
    assert 'At the end of this notebook you will have' in nbformat.read(path, 4).cells[0].source


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_links_lead_somewhere(path):
    prose = '\n'.join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == 'markdown')
    targets = [o for o in re.findall(r'\]\(([^)#\s]+)', prose) if not o.startswith('https://')]
    assert [o for o in targets if not (FOLDER / o).exists()] == []


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_is_clean(path):
    notebook = nbformat.read(path, 4)
    assert set(notebook.metadata) == {'kernelspec', 'language_info'}
    text = path.read_text()
    assert not any(o in text for o in (f'{Path.home()}/', f'{FOLDER.parent}/', 'Traceback')), (
        'paths of a machine, or a failed cell'
    )
    cells = [c for c in notebook.cells if c.cell_type == 'code']
    outputs = [o for c in cells for o in c.outputs]
    assert outputs
    assert all(o.output_type != 'error' for o in outputs)
    assert path.stat().st_size < 2**20
