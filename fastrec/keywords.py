"""Arguments by name: one that a function does not have, or text in the place of a number, is an error before any work.

Python would say that `RecLearner.__init__` got an unexpected argument where `collab_learner(dls, nfactors=20)` was
called, and torch would say where the text `'20'` ended up. `check_arguments` says what was written, and what to write.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from functools import wraps
from typing import Any, ParamSpec, TypeVar

__all__: list[str] = []

P = ParamSpec('P')
R = TypeVar('R')

# what other libraries call an argument -> what it may be called here
ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    'at_k': ('k',),
    'batch_size': ('bs',),
    'dim': ('n_factors',),
    'emb_dim': ('n_factors',),
    'emb_size': ('n_factors',),
    'emb_sz': ('n_factors',),
    'embedding_dim': ('n_factors',),
    'embedding_size': ('n_factors',),
    'epochs': ('n_epoch',),
    'factors': ('n_factors',),
    'filter_already_liked_items': ('exclude_seen',),
    'filter_seen': ('exclude_seen',),
    'filters': ('candidates',),
    'item_col': ('item_name',),
    'items': ('candidates', 'item'),
    'iterations': ('n_iter',),
    'latent_dim': ('n_factors',),
    'learning_rate': ('lr', 'lr_max'),
    'lr': ('lr_max', 'base_lr'),
    'lr_max': ('lr',),
    'n': ('k',),
    'n_epochs': ('n_epoch',),
    'n_items': ('k',),
    'neg_sampling': ('n_neg',),
    'negatives': ('n_neg',),
    'num_epochs': ('n_epoch', 'epochs'),
    'num_factors': ('n_factors',),
    'num_negatives': ('n_neg',),
    'optimizer': ('opt_func',),
    'random_state': ('seed',),
    'rating_col': ('rating_name',),
    'regularization': ('l2', 'wd'),
    'remove_seen': ('exclude_seen',),
    'test_size': ('valid_pct',),
    'timestamp_col': ('time_name',),
    'timestamp_name': ('time_name',),
    'top_k': ('k',),
    'top_n': ('k',),
    'topk': ('k',),
    'user_col': ('user_name',),
    'valid_size': ('valid_pct',),
    'val_pct': ('valid_pct',),
    'weight_decay': ('wd', 'l2'),
}
# what is done here in another way
OTHERWISE: Mapping[str, str] = {
    'use_nn': "for fastai's `use_nn` there is `mlp_learner(dls, n_factors=, layers=)`",
    'layers': 'hidden layers are for `mlp_learner(dls, n_factors=, layers=)`',
    'emb_szs': 'vectors of users and items have one length, n_factors=',
    'loss': 'a loss is given as loss_func=',
    'epochs': 'epochs are told when it is fitted, `learn.fit_one_cycle(5)`',
    'n_epochs': 'epochs are told when it is fitted, `learn.fit_one_cycle(5)`',
    'y_range': 'scores that only rank have no range',
}
FEW = 12  # arguments that an error lists
WHOLE = ('int', 'int | None')  # annotations of whole numbers,
NUMBER = ('float', 'float | None', 'float | slice | None')  # of numbers (a slice of them is fastai's),
FLAG = ('bool', 'bool | None')  # and of switches
EXPECTED = dict.fromkeys(WHOLE, 'a whole number') | dict.fromkeys(NUMBER, 'a number')
EXPECTED |= dict.fromkeys(FLAG, 'True or False')


def check_arguments(
    function: Callable[P, R],
) -> Callable[P, R]:
    """The function, which first looks at its arguments: a decorator of what users call.

    `TypeError` for a name that it does not have (what fastcore's `delegates` added it has; of one that takes
    `**kwargs` as they are nothing is known), and for a text, list or table where a number or a switch is expected;
    `ValueError` for a fraction where a whole number is. Signature, text and source stay the function's.
    """
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    by_place = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    kinds = _kinds(parameters)

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if not takes_any:
            for name in kwargs.keys() - parameters.keys():
                raise TypeError(_no_such(_name_of(function, args), name, list(parameters)))
        for name, value in [*zip(by_place, args), *kwargs.items()]:
            if name in kinds and value is not None:
                _check_kind(_name_of(function, args), name, value, kinds[name], parameters)
        return function(*args, **kwargs)

    return checked


def require_known(
    kwargs: Mapping[str, Any],  # what a function was given beyond its own arguments
    function: Callable,  # what it hands them on to
    caller: str,  # its name
    beside: Callable | None = None,  # another function that some of them are for
) -> None:
    """The errors of `check_arguments` for arguments that are handed on, before any work, by the name of the caller."""
    parameters = dict(inspect.signature(function).parameters)
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) and beside is None:
        return
    if beside is not None:
        parameters |= inspect.signature(beside).parameters
    kinds = _kinds(parameters)
    for name, value in kwargs.items():
        if name not in parameters:
            raise TypeError(_no_such(caller, name, [p.name for p in parameters.values() if p.default is not p.empty]))
        if name in kinds and value is not None:
            _check_kind(caller, name, value, kinds[name], parameters)


def _kinds(parameters: Mapping[str, inspect.Parameter]) -> dict[str, str]:
    """Argument -> its annotation, of numbers and switches. (Annotations are texts here; fastai's are types.)"""
    return {name: p.annotation for name, p in parameters.items() if str(p.annotation) == p.annotation in EXPECTED}


def _name_of(function: Callable, args: tuple) -> str:
    """As the user called it: a constructor by the name of its class."""
    return type(args[0]).__name__ if function.__name__ == '__init__' else function.__name__


def _no_such(function: str, name: str, names: list[str]) -> str:
    """What to say of an argument that is not there: those that it may be meant for, or all."""
    names = [other for other in names if other not in ('self', 'cls')]
    there = f'{function} has no argument {name!r}'
    near = nearest_names(name, names)
    if near:
        return f'{there}: did you mean {" or ".join(near)}?'
    if name in OTHERWISE:
        return f'{there}: {OTHERWISE[name]}'
    if not names:
        return f'{there}: it takes none'
    if len(names) <= FEW:
        return f'{there}: it takes {", ".join(names)}'
    return f'{there}: it takes {", ".join(names[:FEW])}, ... (help({function}) explains all {len(names)})'


def nearest_names(
    name: str,  # what was written
    names: list[str],  # what there is
) -> list[str]:
    """Those that may be meant: what other libraries call so, else what is spelled nearly so (at most two)."""
    if known := [other for other in ELSEWHERE.get(name.lower(), ()) if other in names]:
        return known
    plain = {other.replace('_', ''): other for other in names}
    return [plain[other] for other in get_close_matches(name.lower().replace('_', ''), list(plain), 2, 0.75)]


def _check_kind(function: str, name: str, value: Any, kind: str, parameters: Collection[str]) -> None:
    """`TypeError` or `ValueError` if the value is no number, or no switch."""
    wanted = EXPECTED[kind]
    if isinstance(value, str):
        is_number = kind not in FLAG and value.strip().lstrip('+-').replace('.', '', 1).isdigit()
        way = f'write {name}={value.strip()}' if is_number else f'{wanted} is expected'
        raise TypeError(f'{function}: {name}={value!r} is text: {way}')
    if isinstance(value, slice) and 'slice' in kind:
        return
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        given = type(value).__name__
        tables = [other for other in parameters if other.endswith('_df')]
        is_table = tables and given == 'DataFrame'
        way = f' (tables beside the first are given by name: {"=, ".join(tables)}=)' if is_table else ''
        raise TypeError(f'{function}: {name} takes {wanted}, got {given}{way}') from None
    if kind in WHOLE and number != number // 1:
        raise ValueError(f'{function}: {name}={value!r}: a whole number is expected')
    if name == 'seed' and number < 0:
        raise ValueError(f'{function}: seed={value!r}: a whole number from 0 on is expected')
