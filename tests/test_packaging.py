"""What is published: the wheel and its page, what `import fastrec` costs, and files that repeat settings.ini."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml

import fastrec

ROOT = Path(__file__).parents[1]
config = ConfigParser(delimiters=['='])
config.read(ROOT / 'settings.ini', encoding='utf-8')
settings = config['DEFAULT']
REPO = settings['repo_url']
BUILD = """
import sys
from setuptools import build_meta

out = sys.argv[1]  # setuptools writes its own sys.argv
build_meta.build_sdist(out)
build_meta.build_wheel(out)
"""


def lines(key):
    return [line.strip() for line in settings[key].splitlines() if line.strip()]


# --- what `import fastrec` brings


def test_import_brings_no_library():
    code = "import sys, fastrec; print(fastrec.__version__, {'torch', 'numpy', 'pandas', 'fastai'} & set(sys.modules))"
    command = [sys.executable, '-W', 'ignore', '-c', code]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.split() == [settings['version'], 'set()']


def test_load_recommender_comes_when_it_is_asked_for():
    from fastrec.scorers.artifact import load_recommender

    assert fastrec.load_recommender is load_recommender
    assert {'load_recommender', '__version__'} <= set(dir(fastrec))


def test_other_names_say_where_they_are():
    with pytest.raises(AttributeError, match=r'from fastrec\.all import \*'):
        fastrec.svdpp_learner
    with pytest.raises(ImportError):
        from fastrec import svdpp_learner  # noqa: F401
    assert not hasattr(fastrec, 'nothing')


# --- what is built


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """A folder with the sdist and the wheel, built in a copy: building writes into its tree."""
    pytest.importorskip('setuptools', '77')
    tree, out = tmp_path_factory.mktemp('tree'), tmp_path_factory.mktemp('dist')
    for name in ('settings.ini', 'setup.py', 'pyproject.toml', 'MANIFEST.in', 'LICENSE', 'CITATION.cff'):
        shutil.copy(ROOT / name, tree)
    for path in ROOT.glob('*.md'):
        shutil.copy(path, tree)
    for folder in ('fastrec', 'tests'):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns('__pycache__', 'saved'))
    built = subprocess.run([sys.executable, '-c', BUILD, str(out)], cwd=tree, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert 'eprecat' not in built.stderr, built.stderr
    return out


@pytest.fixture(scope='module')
def metadata(built):
    with zipfile.ZipFile(next(built.glob('*.whl'))) as wheel:
        return message_from_bytes(wheel.read(next(o for o in wheel.namelist() if o.endswith('METADATA'))))


def test_the_wheel_has_the_package_and_nothing_else(built):
    with zipfile.ZipFile(next(built.glob('*.whl'))) as wheel:
        names = set(wheel.namelist())
    ours = {o.relative_to(ROOT).as_posix() for o in (ROOT / 'fastrec').rglob('*.py')}
    assert {o for o in names if '.dist-info/' not in o} == ours | {'fastrec/py.typed'}
    assert any(o.endswith('licenses/LICENSE') for o in names)


def test_the_sdist_builds_what_it_was_built_from(built):
    with tarfile.open(next(built.glob('*.tar.gz'))) as sdist:
        names = {o.partition('/')[2] for o in sdist.getnames()}
    needed = {'settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'CITATION.cff', 'LICENSE', 'fastrec/py.typed'}
    assert needed <= names


def test_the_metadata_are_complete(metadata):
    assert metadata['Name'] == settings['name'] and metadata['Version'] == fastrec.__version__
    assert metadata['Author'] == settings['author'] and metadata['License-Expression'] == 'Apache-2.0'
    links = dict(o.split(', ') for o in metadata.get_all('Project-URL'))
    assert set(links) == {'Documentation', 'Changelog', 'Issues', 'Source'}
    assert all(o.startswith(REPO) for o in links.values())
    assert metadata.get_all('Classifier') == lines('classifiers') and 'collaborative filtering' in metadata['Keywords']
    assert set(metadata.get_all('Provides-Extra')) == set(settings['extras'].split())


def test_the_extra_all_has_whatever_is_optional():
    own = {o for o in settings['extras'].split() if o not in ('all', 'docs', 'dev') and lines(f'{o}_requirements')}
    (line,) = lines('all_requirements')
    name, extras = re.fullmatch(r'([\w-]+)\[([\w,]+)\]', line).groups()
    assert name == settings['name'] and set(extras.split(',')) == own


def test_the_page_has_no_relative_link_or_picture(metadata):
    page, readme = metadata.get_payload(), (ROOT / 'README.md').read_text()
    targets = re.findall(r'(!?)\[[^]]*\]\(([^)\s]+)\)', page)
    assert targets and all(o.startswith(('https://', '#')) for _, o in targets)
    ours = [(picture, o.removeprefix(f'{REPO}/')) for picture, o in targets if o.startswith(REPO)]
    assert sum(picture == '!' for picture, _ in ours) == readme.count('![')
    for picture, address in ours:
        assert address.startswith(f'{"raw" if picture else "blob"}/{settings["branch"]}/')
    code = r'^```.*?^```'
    assert re.findall(code, page, re.M | re.S) == re.findall(code, readme, re.M | re.S)


# --- files that repeat what settings.ini says, because they cannot read it


def test_oldest_requirements_are_the_lower_ends():
    tools = {'ruff', 'mypy'}
    ranges = [
        o for key in ('requirements', *(f'{e}_requirements' for e in settings['extras'].split())) for o in lines(key)
    ]
    docs = lines('docs_requirements')
    lower = [re.match(r'([\w-]+)>=([\w.]+)', o) for o in ranges if o not in docs and '[' not in o]
    want = [f'{o[1]}=={o[2]}' for o in lower if o[1] not in tools]
    have = [o for o in (ROOT / 'tests' / 'oldest.txt').read_text().splitlines() if not o.startswith('#')]
    assert have == want


def test_workflows_run_every_python_and_upgrade_every_requirement():
    pythons = re.findall(r'Python :: (3\.\d+)', settings['classifiers'])
    assert pythons[0] == settings['min_python']
    workflows = ROOT / '.github' / 'workflows'
    jobs = yaml.safe_load((workflows / 'test.yml').read_text())['jobs']
    assert jobs['pythons']['strategy']['matrix']['python'] == pythons
    assert jobs['oldest']['steps'][1]['with']['python-version'] == pythons[0]
    weekly = yaml.safe_load((workflows / 'newest.yml').read_text())['jobs']
    assert set(weekly['within']['strategy']['matrix']['python']) == {pythons[0], pythons[-1]}
    upgraded = set(next(o['run'] for o in weekly['beyond']['steps'] if '--upgrade' in o.get('run', '')).split())
    names = {re.split(r'[>=<]', o)[0] for key in settings if key.endswith('requirements') for o in lines(key)}
    optional = {'pyarrow', 'implicit', 'timm', 'faiss-cpu', 'optuna'}
    assert {re.split(r'[>=<]', o)[0] for o in lines('requirements')} | optional <= upgraded
    assert optional <= names


def test_the_citation_says_what_the_settings_say():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == settings['version'] and citation['license'] == settings['license']
    assert citation['abstract'] == settings['description'] and citation['authors'] == [{'name': settings['author']}]
    assert citation['repository-code'] == REPO and ', '.join(citation['keywords']) == settings['keywords']


def test_the_address_of_the_repository_is_one():
    places = [
        *(ROOT / '.github').rglob('*.*'),
        *(ROOT / 'nbs').glob('*.ipynb'),
        ROOT / 'CITATION.cff',
        ROOT / 'README.md',
    ]
    owner, name = REPO.removeprefix('https://github.com/').split('/')
    for path in places:
        for found in re.findall(r'github(?:\.com)?/([\w-]+/[\w-]+)', path.read_text(encoding='utf-8')):
            if found.endswith(f'/{name}'):
                assert found == f'{owner}/{name}', path
    for badge in (ROOT / 'nbs').glob('*.ipynb'):
        text = badge.read_text(encoding='utf-8')
        assert f'github/{owner}/{name}/blob/{settings["branch"]}/nbs/{badge.name}' in text, badge.name


def test_templates_can_be_read():
    forms = [o for o in (ROOT / '.github' / 'ISSUE_TEMPLATE').glob('*.yml') if o.stem != 'config']
    assert len(forms) == 2
    for path in forms:
        form = yaml.safe_load(path.read_text())
        assert {'name', 'description', 'body'} <= set(form)
        ids = [o['id'] for o in form['body']]
        assert len(set(ids)) == len(ids)
    contacts = yaml.safe_load((ROOT / '.github' / 'ISSUE_TEMPLATE' / 'config.yml').read_text())['contact_links']
    for contact in contacts:
        assert (ROOT / contact['url'].removeprefix(f'{REPO}/blob/{settings["branch"]}/')).exists()
