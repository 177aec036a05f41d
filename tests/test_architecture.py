"The house stays in order: imports run one way, fastai stays in its rooms, public names are documented."
import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastrec

ROOT = Path(fastrec.__file__).parent
# the pipeline; a module imports only what stands before it
ORDER = '''
progress
interactions files datasets splits catalog
images features
sampling
recommend
rerank
dataloaders streaming
models.embedding models.blocks models.context models.dot models.svdpp models.neumf models.content models.gated models.two_tower models
scoring coldstart extend
losses optimizers metrics
baselines blend
evaluate
retrieval
refine
artifact card
callbacks resume
learner
tune
interpret
all
cli'''.split()
FASTAI = {'dataloaders', 'streaming', 'optimizers', 'callbacks', 'resume', 'learner', 'tune', 'interpret', 'all'}
MODULES = sorted('.'.join(p.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__') for p in ROOT.rglob('*.py') if p != ROOT/'__init__.py')


def source(name):
    path = ROOT/Path(*name.split('.'))
    return (path/'__init__.py' if path.is_dir() else path.with_suffix('.py')).read_text()


def imports(name, top_level=True):
    "(module, is_ours) of the imports at the top level of a module."
    for node in ast.parse(source(name)).body:
        if isinstance(node, ast.Import): yield from ((a.name, False) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            if not node.level: yield node.module, False
            else:
                base = name.split('.') if (ROOT/Path(*name.split('.'))).is_dir() else name.split('.')[:-1]
                base = base[:len(base) - node.level + 1]
                if node.module: yield '.'.join([*base, node.module]), True
                else: yield from (('.'.join([*base, a.name]), True) for a in node.names)


def test_every_module_has_its_place(): assert sorted(ORDER) == MODULES


@pytest.mark.parametrize('name', MODULES)
def test_imports_run_one_way(name):
    for other, ours in imports(name):
        if ours: assert ORDER.index(other) < ORDER.index(name), f'{name} imports {other}, which comes after it'


@pytest.mark.parametrize('name', MODULES)
def test_fastai_stays_in_its_rooms(name):
    uses = any(not ours and re.match(r'fast(ai|core)\b', other) for other, ours in imports(name))
    assert uses == (name in FASTAI)


def test_the_maths_runs_without_fastai_and_plots():
    names = [f'fastrec.{o}' for o in ORDER if o not in FASTAI]
    code = f"import sys, importlib\nfor n in {names!r}: importlib.import_module(n)\nprint([m for m in ('fastai', 'fastcore', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'


def test_no_star_imports_and_no_patching():
    for name in MODULES:
        if name in ('all', 'models'): continue
        text = source(name)
        assert 'import *' not in text, name
        assert '@patch' not in text, name


@pytest.mark.parametrize('name', [o for o in MODULES if o != 'all'])
def test_public_names_are_declared_and_documented(name):
    module = importlib.import_module(f'fastrec.{name}')
    assert module.__doc__
    if name == 'models': return
    defined = [o for o in getattr(module, '__all__') if inspect.isclass(getattr(module, o)) or inspect.isfunction(getattr(module, o))]
    assert module.__all__
    for o in defined:
        thing = getattr(module, o)
        assert inspect.getdoc(thing), f'{name}.{o} has no docstring'
        if inspect.isclass(thing):
            for attr, method in vars(thing).items():
                if not attr.startswith('_') and inspect.isfunction(method): assert inspect.getdoc(getattr(thing, attr)), f'{name}.{o}.{attr} has no docstring'


def test_star_import_shadows_no_builtin():
    import builtins
    import fastai.basics
    import fastrec.all
    ours = {n for o in ORDER if o not in ('all', 'models', 'cli') for n in getattr(importlib.import_module(f'fastrec.{o}'), '__all__')}
    assert not ours & set(dir(builtins))
    assert ours <= set(dir(fastrec.all))


def test_version_and_requirements_agree():
    from configparser import ConfigParser
    config = ConfigParser(delimiters=['='])
    config.read(ROOT.parent/'settings.ini')
    assert config['DEFAULT']['version'] == fastrec.__version__ and config['DEFAULT']['lib_name'] == 'fastrec'


def test_import_touches_no_global_options_and_no_rng():
    code = ("import torch, numpy as np, random, matplotlib\nfrom fastai.basics import *\n"
            "before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads(), dict(matplotlib.rcParams)\n"
            "import fastrec.all\n"
            "after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads(), dict(matplotlib.rcParams)\n"
            "print(torch.equal(before[0], after[0]), before[1:] == after[1:])")
    assert subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True).stdout.strip() == 'True True'
