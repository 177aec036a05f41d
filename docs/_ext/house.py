"""What the package has: its wings, the rooms of each, and their public names. What stands in `fastrec.all` is shown."""

from __future__ import annotations

import importlib
import inspect
import re
from configparser import ConfigParser
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import fastrec.all  # noqa: F401  # explains the arguments in the docstrings

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent

WINGS = {
    'data': 'From a table to codes: columns, files, splits, features, negatives.',
    'models': 'From codes to scores: torch modules, and losses.',
    'scorers': 'From scores to answers: recommending, similar items, explanations, re-ranking, baselines, saving.',
    'evaluation': 'Answers are judged: metrics, protocols, comparisons.',
    'training': 'Models are trained: loaders, builders, the learner, choosing and tuning.',
    'interpretation': 'Models are looked at: biases, maps, gates, errors.',
    'general': 'What every wing uses.',
}


@cache
def repo_url() -> str:
    """Address of the repository, from settings.ini; '' where none is set."""
    config = ConfigParser(delimiters=['='])
    config.read(ROOT / 'settings.ini', encoding='utf-8')
    return config['DEFAULT'].get('repo_url', '').strip().rstrip('/')


@cache
def rooms_of(wing: str) -> tuple[str, ...]:
    """('data.splits', ...) in the order in which `fastrec.all` imports them. 'general' has those of no wing."""
    source = (ROOT / 'fastrec' / 'all.py').read_text()
    rooms = re.findall(r'^from \.([\w.]+) import \*', source, re.M)
    if wing == 'general':
        return tuple(room for room in rooms if '.' not in room and names_of(room))
    return tuple(room for room in rooms if room.startswith(f'{wing}.') and names_of(room))


def module_of(room: str) -> ModuleType:
    return importlib.import_module(f'fastrec.{room}')


@cache
def names_of(room: str) -> tuple[str, ...]:
    """The public functions and classes that are defined in a room."""
    module = module_of(room)
    return tuple(name for name in module.__all__ if getattr(getattr(module, name), '__module__', '') == module.__name__)


def first_sentence(value: Any) -> str:
    """The first line of its docstring; of a module's the first paragraph."""
    text = inspect.getdoc(value) or ''
    if isinstance(value, ModuleType):
        return ' '.join(text.split('\n\n')[0].split())
    return text.split('\n')[0]


# --- names as they are written in prose

# what a variable of that name holds wherever this documentation uses it
VARIABLES = {'learn': 'RecLearner', 'interp': 'RecInterpretation', 'dls': 'RecDataLoaders', 'catalog': 'Catalog'}


@cache
def places() -> dict[str, Any]:
    """{short name: (full name, value)} of every public function and class."""
    found = {}
    for wing in WINGS:
        for room in rooms_of(wing):
            for name in names_of(room):
                found[name] = (f'fastrec.{room}.{name}', getattr(module_of(room), name))
    return found


def full_name(text: str) -> str:
    """'fastrec.training.learner.RecLearner.fit' of 'RecLearner.fit' or 'learn.fit(10)'; '' of unknown names."""
    name = re.sub(r'\(.*\)$', '', text.strip(), flags=re.S)
    if name.startswith('fastrec.'):
        return name
    owner, _, method = name.partition('.')
    owner = VARIABLES.get(owner, owner) if method else owner
    if owner not in places():
        return ''
    where, value = places()[owner]
    if not method:
        return where
    for cls in inspect.getmro(value) if inspect.isclass(value) else ():
        if method in vars(cls) and cls.__module__.startswith('fastrec.'):
            return f'{cls.__module__}.{cls.__name__}.{method}'
    return ''
