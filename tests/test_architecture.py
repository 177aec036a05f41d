"""The house stays in order: imports run one way, fastai stays in its rooms, public names are documented."""

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
# The house, from the bottom up: wings in the order of the pipeline, and within a wing files in the order in which they
# build on each other. A file imports only what stands before it, wherever in the file the import stands.
HOUSE = {
    '': 'palette arguments keywords progress notices memory',
    'data': 'columns digest interactions files splits history conditions catalog stream datasets '
    'block transforms images features sampling',
    'models': 'view fused embedding base blocks context dot svdpp neumf content gated two_tower losses',
    'scorers': 'recommend retrieval coldstart carried influence pathways because given scorer model_scorer extend '
    'baselines linear neighbors factorization blend refine lists rerank sound packing folder artifact',
    'evaluation': 'metrics named held_out errors ranking evaluate compare fidelity card',
    'training': (
        'batches stream_batches dataloaders recipes optimizers callbacks curves decay loop finder checks learner '
        'builders clock candidates choose settings resume cross_validation spaces selection'
    ),
    'interpretation': 'tables text figures explanations maps clusters errors losses interpret',
}
ORDER = [f'{wing}.{name}'.lstrip('.') for wing, names in HOUSE.items() for name in names.split()] + [
    'renamed',
    'all',
    'flags',
    'cli',
]
WINGS = [o for o in HOUSE if o]
# what a wing must not import, beside the wings above it
FORBIDDEN = {
    'data': r'(fastai|fastcore|matplotlib)\b|torch\.nn\b',
    'models': r'(fastai|fastcore|matplotlib|pandas)\b',
    'scorers': r'(fastai|fastcore|matplotlib)\b',
    'evaluation': r'(fastai|fastcore)\b',
}
# two calls of fastai below its wing, each inside a function: where data sets come from, and where vision backbones are
EXCEPTIONS = {'data.datasets', 'data.images'}
FASTAI = {'training', 'interpretation', 'all'}
MODULES = sorted(
    '.'.join(p.relative_to(ROOT).with_suffix('').parts) for p in ROOT.rglob('*.py') if p.name != '__init__.py'
)


def source(name):
    return ROOT.joinpath(*name.split('.')).with_suffix('.py').read_text()


def imports(name):
    """(module, is it ours, is it inside a function) of every import of a module."""
    tree = ast.parse(source(name))
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((a.name, a.name.startswith('fastrec'), id(node) not in top) for a in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module, node.module.startswith('fastrec'), id(node) not in top
        elif isinstance(node, ast.ImportFrom):
            base = name.split('.')[: -node.level]
            if node.module and '.'.join([*base, node.module]) not in WINGS:
                yield '.'.join([*base, node.module]), True, id(node) not in top
            else:
                names = [node.module] if node.module else []
                yield from (('.'.join([*base, *names, a.name]), True, id(node) not in top) for a in node.names)


def test_every_module_has_its_place():
    assert sorted(ORDER) == MODULES


@pytest.mark.parametrize('name', MODULES)
def test_imports_run_one_way(name):
    for other, ours, _ in imports(name):
        other = other.removeprefix('fastrec.')
        if not ours or other in ('fastrec', '__version__'):
            continue
        assert ORDER.index(other) < ORDER.index(name), f'{name} imports {other}, which comes after it'


@pytest.mark.parametrize('name', [o for o in MODULES if o != 'cli'])
def test_no_import_of_ours_hides_in_a_function(name):
    hidden = [other for other, ours, inside in imports(name) if ours and inside]
    assert not hidden, f'{name} imports {hidden} inside a function: a way round a circle?'


@pytest.mark.parametrize('name', MODULES)
def test_each_wing_keeps_its_rule(name):
    wing = name.partition('.')[0]
    if wing not in FORBIDDEN:
        return
    for other, ours, inside in imports(name):
        if ours or not re.match(FORBIDDEN[wing], other):
            continue
        if name in EXCEPTIONS and inside and re.match(r'(fastai|fastcore)\b', other):
            continue
        pytest.fail(f'{name} imports {other}: the wing {wing!r} does without it')


def test_fastai_is_imported_in_its_wings_alone():
    users = {o for o in MODULES if any(re.match(r'fast(ai|core)\b', other) for other, *_ in imports(o))}
    assert {o.partition('.')[0] for o in users - EXCEPTIONS} <= FASTAI
    assert users >= EXCEPTIONS


def test_the_maths_runs_without_fastai_and_plots():
    names = [f'fastrec.{o}' for o in ORDER if o.partition('.')[0] not in FASTAI]
    code = (
        f'import sys, importlib\nfor n in {names!r}: importlib.import_module(n)\n'
        "print([m for m in ('fastai', 'fastcore', 'matplotlib') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
    )


def test_no_star_imports_and_no_patching():
    for name in MODULES:
        if name == 'all':
            continue
        text = source(name)
        assert 'import *' not in text, name
        assert '@patch' not in text, name


@pytest.mark.parametrize('name', [o for o in MODULES if o != 'all'])
def test_public_names_are_declared_and_documented(name):
    module = importlib.import_module(f'fastrec.{name}')
    assert module.__doc__
    defined = [
        o for o in module.__all__ if inspect.isclass(getattr(module, o)) or inspect.isfunction(getattr(module, o))
    ]
    for o in defined:
        thing = getattr(module, o)
        assert inspect.getdoc(thing), f'{name}.{o} has no docstring'
        if inspect.isclass(thing):
            for attr, method in vars(thing).items():
                if not attr.startswith('_') and inspect.isfunction(method):
                    assert inspect.getdoc(getattr(thing, attr)), f'{name}.{o}.{attr} has no docstring'


def test_star_import_shadows_no_builtin():
    import builtins

    import fastrec.all

    ours = {n for o in ORDER if o not in ('all', 'cli') for n in importlib.import_module(f'fastrec.{o}').__all__}
    assert not ours & set(dir(builtins))
    assert ours <= set(dir(fastrec.all))


def test_version_and_requirements_agree():
    from configparser import ConfigParser

    config = ConfigParser(delimiters=['='])
    config.read(ROOT.parent / 'settings.ini')
    assert config['DEFAULT']['version'] == fastrec.__version__ and config['DEFAULT']['lib_name'] == 'fastrec'


STATE = """
def state():
    return [
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
        torch.get_num_threads(),
        dict(matplotlib.rcParams),
    ]
"""


def test_import_touches_no_global_options_and_no_rng():
    code = (
        'import torch, numpy as np, random, matplotlib\nfrom fastai.basics import *\n'
        f'{STATE}before = state()\nimport fastrec.all\nprint(before == state())'
    )
    command = [sys.executable, '-W', 'ignore', '-c', code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == 'True'


def test_star_import_brings_no_submodule():
    import types

    import fastai.basics
    import fastai.callback.all

    import fastrec.all

    theirs = {*dir(fastai.basics), *dir(fastai.callback.all)}
    ours = {n for n, o in vars(fastrec.all).items() if isinstance(o, types.ModuleType) and n not in theirs}
    assert not ours


def test_public_functions_say_what_they_take_and_return():
    bare = []
    for name in MODULES:
        for node in ast.parse(source(name)).body:
            members = node.body if isinstance(node, ast.ClassDef) else [node]
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or node.name.startswith('_'):
                continue
            for f in members:
                if not isinstance(f, ast.FunctionDef) or (f.name.startswith('_') and f.name != '__init__'):
                    continue
                arguments = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]
                untyped = [a.arg for a in arguments if a.annotation is None and a.arg not in ('self', 'cls')]
                if untyped or f.returns is None:
                    bare.append(f'{name}.{node.name}.{f.name}: {untyped or "what it returns"}')
    assert not bare
