"""The pages of the site and the README: their code runs, their links lead somewhere, and all public names have a place.

The site itself is built by the tests marked slow (`make test-slow`), and by `make docs`.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import matplotlib.pyplot as plt
import numpy as np
import pytest

from fastrec.data.datasets import synthetic_ratings

ROOT = Path(__file__).parents[1]
DOCS = ROOT / 'docs'
GENERATED = ('reference', 'tutorials', 'results.md', 'rerun.md')  # made when the site is built
PAGES = [ROOT / 'README.md', *sorted(p for p in DOCS.rglob('*.md') if p.relative_to(DOCS).parts[0] not in GENERATED)]
LINKED = [*PAGES, ROOT / 'CONTRIBUTING.md', ROOT / 'CHANGELOG.md', *sorted((ROOT / 'benchmarks').glob('*.md'))]

BLOCK = re.compile(r'^(?P<indent> *)```python\n(?P<code>.*?)^(?P=indent)```', re.M | re.S)
FENCED = re.compile(r'^(?P<indent> *)(?P<fence>```+|:::+).*?^(?P=indent)(?P=fence) *$', re.M | re.S)
LINK = re.compile(r'(?<!\\)\]\((?P<target>[^()\s]+)\)')
TOCTREE = re.compile(r'^```\{toctree\}\n(?P<body>.*?)^```', re.M | re.S)
WEB = ('http://', 'https://', 'mailto:')


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


# --- the code


def blocks_of(path):
    """(line, code) of each block of Python."""
    text = path.read_text()
    return [(text.count('\n', 0, found.start('code')), dedent(found['code'])) for found in BLOCK.finditer(text)]


# test_first_screen runs the blocks of the README and looks at what comes out
WITH_CODE = [path for path in PAGES if blocks_of(path) and path.name != 'README.md']


@pytest.fixture()
def tables(tmp_path, monkeypatch):
    """An empty folder with the two files that a page may rely on: ratings.csv and movies.csv."""
    ratings, movies, _ = synthetic_ratings(
        n_users=120, n_items=80, n_factors=3, density=0.3, noise=0.2, step=0.5, seed=1
    )
    rng = np.random.default_rng(0)
    ratings['time'] = rng.integers(880_000_000, 890_000_000, len(ratings))
    movies['year'] = rng.integers(1950, 1999, len(movies))
    ratings[['user', 'item', 'rating', 'time']].to_csv(tmp_path / 'ratings.csv', index=False)
    movies[['item', 'title', 'year', 'genres']].to_csv(tmp_path / 'movies.csv', index=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings('ignore')  # a page may show what is warned of
@pytest.mark.parametrize('path', WITH_CODE, ids=names(WITH_CODE))
def test_code_runs(path, tables, request, monkeypatch):
    """The blocks of a page, in their order, in one namespace."""
    blocks = blocks_of(path)
    if any("movielens('100k')" in code for _, code in blocks):
        ml100k = request.getfixturevalue('ml100k')  # from whichever source the tests have
        monkeypatch.setattr('fastrec.all.movielens', lambda name='100k': tuple(table.copy() for table in ml100k))
    scope = {}
    exec('from fastrec.all import *\nset_seed(0)', scope)
    for line, code in blocks:
        exec(compile('\n' * line + code, str(path), 'exec'), scope)  # a traceback shows the line of the page
    plt.close('all')


# --- the links


def without_code(text):
    """The text of a page alone: links inside code are none."""
    return re.sub(r'`[^`\n]*`', '`code`', FENCED.sub('', text))


def anchors_of(path):
    """Anchors of headings, as GitHub and MyST make them, and those that are set by hand."""
    text = path.read_text()
    found, counts = set(), {}
    for title in re.findall(r'^#{1,4} +(.*?) *$', FENCED.sub('', text), re.M):
        title = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', title)  # the text of a link
        title = re.sub(r'\{[\w:]+\}', '', title)  # a role
        slug = re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-')
        counts[slug] = counts.get(slug, -1) + 1
        found.add(f'{slug}-{counts[slug]}' if counts[slug] else slug)
    found.update(re.findall(r'^\(([\w.:-]+)\)= *$', text, re.M))
    found.update(re.findall(r'\{#([\w.:-]+)[^}]*\}', text))
    found.update(re.findall(r'(?:id|name)="([\w.:-]+)"', text))
    return found


def source_of(path):
    """Where a page that is made when the site is built comes from; other paths as they are."""
    if DOCS not in path.parents:
        return path
    inside = path.relative_to(DOCS)
    if inside.parts[0] == 'tutorials':
        return ROOT / 'nbs' / path.name if path.suffix == '.ipynb' else ROOT / 'nbs'
    if inside.parts[0] == 'reference':  # index.md, the page of a wing, or of a room
        room = Path(*inside.parts[1:]).with_suffix('')
        room = Path(*(part for part in room.parts if part not in ('index', 'general')))
        return ROOT / 'fastrec' / (room if len(room.parts) < 2 and room.name != 'progress' else f'{room}.py')
    made_from = {'results.md': 'RESULTS.md', 'rerun.md': 'README.md'}
    return ROOT / 'benchmarks' / made_from[path.name] if path.name in made_from else path


@pytest.mark.parametrize('path', LINKED, ids=names(LINKED))
def test_links_lead_somewhere(path):
    dead = []
    for target in LINK.findall(without_code(path.read_text())):
        if target.startswith(WEB):
            continue
        name, _, anchor = target.partition('#')
        there = source_of((path.parent / name).resolve() if name else path)
        is_dead = not there.exists() or (anchor and there.suffix == '.md' and anchor not in anchors_of(there))
        if is_dead:
            dead.append(target)
    assert not dead


def test_every_page_is_in_one_table_of_contents():
    listed = []
    for path in PAGES[1:]:
        for body in TOCTREE.findall(path.read_text()):
            entries = [line.strip() for line in body.splitlines() if line.strip() and not line.startswith(':')]
            entries = [re.sub(r'.*<(.*)>$', r'\1', entry) for entry in entries]
            listed += [(path.parent / f'{entry}.md').resolve() for entry in entries]
    pages = [path for path in PAGES[1:] if path != DOCS / 'index.md']
    assert [str(path) for path in pages if path not in listed] == []
    missing = [path for path in listed if not source_of(path).exists()]
    assert missing == []
    assert len(listed) == len(set(listed))


def test_no_page_loads_from_the_network():
    """The pictures of pages are files beside them. (A badge of a notebook becomes a button on the site.)"""
    for path in PAGES[1:]:
        assert not re.findall(r'!\[[^\]]*\]\(https?:|<(?:img|script|iframe)[^>]*https?:', path.read_text()), path


# --- what is made


def site_module(name):
    """A module of docs/_ext; skipped where Sphinx is not installed."""
    pytest.importorskip('sphinx', reason='the site needs the extra docs: pip install -e .[docs]')
    folder = str(DOCS / '_ext')
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return __import__(name)


def public_names():
    import fastrec.all

    return {
        name
        for name, value in vars(fastrec.all).items()
        if getattr(value, '__module__', '').startswith('fastrec.') and not name.startswith('_')
    } - set(fastrec.renamed.__all__)


def test_all_public_names_are_in_the_reference():
    pages = site_module('reference').pages_of_reference()
    index = pages['index.md']
    missing = [name for name in public_names() if f'{{py:obj}}`{name} <' not in index]
    assert missing == []
    rooms = ''.join(text for path, text in pages.items() if '/' in path)
    assert [name for name in public_names() if not re.search(rf':: fastrec\.[\w.]+\.{name}$', rooms, re.M)] == []


def test_docstrings_as_restructured_text():
    docstrings = site_module('docstrings')
    text = 'Of `x`s, a_b_ and *c*: |N|.\n\n- one\n  goes on\n- two\n\n    y = x\n\nParameters\n----------\n'
    text += "*cbs : Callback, default None\n    what is called\nn : int | None, default 'a, default b'"
    prose, arguments = docstrings.split(text)
    assert docstrings.as_rst(prose) == [
        r'Of ``x``\ s, a\_b\_ and \*c\*: \|N\|.', '',
        '* one goes on', '* two', '',
        '.. code-block:: text', '', '    y = x', '',
    ]  # fmt: skip
    assert docstrings.as_fields(arguments) == [
        r':param \*cbs: what is called',
        r':type \*cbs: ``Callback``, default ``None``',
        ':param n: ',
        ":type n: ``int | None``, default ``'a, default b'``",
    ]


def test_every_docstring_is_read_without_a_warning():
    """By docutils alone: nothing in a docstring is taken for markup by mistake."""
    house, docstrings = site_module('house'), site_module('docstrings')
    from docutils.core import publish_doctree

    settings = dict(report_level=2, halt_level=5, warning_stream=False)
    for name, (_, value) in house.places().items():
        prose, arguments = docstrings.split(docstrings.inspect.getdoc(value) or '')
        lines = [*docstrings.as_rst(prose), '', *docstrings.as_fields(arguments)]
        tree = publish_doctree('\n'.join(lines), settings_overrides=settings)
        problems = [node.astext() for node in tree.findall() if node.tagname in ('system_message', 'problematic')]
        assert not [o for o in problems if 'Unknown directive type "code-block"' not in o], name


def test_names_in_prose_are_known():
    full_name = site_module('house').full_name
    assert full_name('collab_learner(dls, n_factors=50)') == 'fastrec.training.builders.collab_learner'
    assert full_name('learn.recommend').endswith('.recommend')
    assert full_name('RecLearner.fit_one_cycle(10)') == 'fastrec.training.learner.RecLearner.fit_one_cycle'
    assert full_name('learn.no_such_thing') == full_name('numpy') == ''


def test_fields_have_their_comments():
    from fastrec.evaluation.metrics import TopK

    fields = site_module('docstrings').fields_of(TopK)
    assert fields[0] == ('items', 'torch.Tensor', 'int64 (n_users, k), -1 where a list is shorter')


def test_every_picture_has_its_code():
    gallery = site_module('gallery')
    page = (DOCS / 'gallery.md').read_text()
    shown = re.findall(r'^```\{picture\} (\w+)$', page, re.M)
    assert sorted(shown) == sorted({*gallery.drawn(), *gallery.copied()})
    assert all((DOCS / 'gallery' / f'{name}.png').exists() for name in shown)
    assert sorted(path.stem for path in (DOCS / 'gallery').glob('*.png')) == sorted(shown)
    assert gallery.code_of('biases') == 'interp.plot_bias()'
    assert 'collab_learner' in gallery.setup_code()


@pytest.mark.slow
def test_code_of_the_gallery_runs(ml100k, monkeypatch):
    """What stands above the pictures that `nbs/gallery.py` draws, with a shorter training, and under each of them."""
    gallery = site_module('gallery')
    monkeypatch.setattr('fastrec.all.movielens', lambda name='100k': ml100k)
    scope = {}
    exec(re.sub(r'fit_one_cycle\(\d+\)', 'fit_one_cycle(1)', gallery.setup_code()), scope)
    for code in gallery.drawn().values():
        exec(code, scope)
        assert plt.get_fignums()
        plt.close('all')


def test_notebooks_open_in_colab():
    """The badge leads to the notebook in the repository; the first cell installs fastrec from there if need be."""
    repo_url = site_module('house').repo_url()
    for path in site_module('tutorials').NOTEBOOKS:
        text, install = (''.join(cell['source']) for cell in json.loads(path.read_text())['cells'][:2])
        repository = repo_url.removeprefix('https://github.com/')
        assert f'](https://colab.research.google.com/github/{repository}/blob/main/nbs/{path.name})' in text
        assert "if find_spec('fastrec') is None:" in install
        assert re.search(rf"%pip install -q 'fastrec-learn(\[\w+\])? @ git\+{repo_url}'", install)


def test_notebooks_on_the_site():
    tutorials = site_module('tutorials')
    source = '[![Colab](https://a/b.svg)](https://c) [r](../benchmarks/RESULTS.md)'
    text = json.dumps({'cells': [{'cell_type': 'markdown', 'source': [source]}]})
    page = tutorials.as_page(text)
    assert 'b.svg' not in page
    assert 'href=\\"https://c\\"' in page
    assert '(../results.md)' in page


def test_llms_txt(tmp_path):
    llms = site_module('llms')
    short = llms.short({'index': 'fastrec', 'reference/data': 'Data'})
    assert short.startswith('# fastrec\n\n> ')
    assert short.index('[fastrec](index.html)') < short.index('## API reference') < short.index('[Data]')
    full = llms.full({'changelog': DOCS / 'changelog.md', 'gallery': DOCS / 'gallery.md'})
    assert '# Changes' in full
    assert '{include}' not in full
    assert '{picture' not in full
    assert '## collab_learner' in full
    assert 'length of the vectors of users and items' in full, 'what stands beside an argument'


# --- the whole site


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path):
    pytest.importorskip('sphinx', reason='the site needs the extra docs: pip install -e .[docs]')
    out = tmp_path / 'site'
    command = [sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-b', 'html', str(DOCS), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (out / 'llms.txt').exists()
    assert (out / 'llms-full.txt').exists()
    loads = re.compile(
        r'<(?:script|img|iframe|source)[^>]*\ssrc="https?:|<link[^>]*rel="(?!canonical)[^>]*href="https?:'
    )
    for page in out.rglob('*.html'):
        assert not loads.search(page.read_text()), f'{page} loads from the network'
