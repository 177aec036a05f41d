"""What a model is given of the data: the one place where that is decided.

A model's constructor asks for it by the names of its arguments. `rec_learner(dls, Model)` and `extend` fill them in."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse

from ..data.catalog import Catalog

__all__: list[str] = []

# name of an argument -> what it is given
GIVEN: dict[str, Callable[[Catalog], object]] = {
    # bool (n,): which users, which items have training rows
    'known_users': lambda catalog: torch.from_numpy(catalog.known('user')),
    'known_items': lambda catalog: torch.from_numpy(catalog.known('item')),
    # int64 (n,): training rows (of implicit feedback: positives) of each
    'user_counts': lambda catalog: catalog.counts['user'],
    'item_counts': lambda catalog: catalog.counts['item'],
    # who has what in the training rows: float32 CSR (n_users, n_items) of ratings or weights
    'history': lambda catalog: catalog.require_history().positives,
    # when each of those was: int64 CSR of the structure of `history`; None unless the time is part of the context
    'times': lambda catalog: catalog.require_history().times(),
    # levels of each column of context; [] without context
    'context_sizes': lambda catalog: [] if catalog.context_of is None else catalog.context_of.sizes,
}
PERSONAL = ('history', 'times')  # of these: training data


def arguments(cls: type) -> set[str]:
    """Names of the arguments that a class takes, itself or by handing `**kwargs` on to its parents."""
    names: set[str] = set()
    for c in cls.__mro__:
        if '__init__' not in vars(c):
            continue
        parameters = inspect.signature(vars(c)['__init__']).parameters.values()
        names |= {p.name for p in parameters}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names


def given_to(cls: type, catalog: Catalog, **more: Any) -> dict[str, Any]:
    """Arguments for `cls`: those of `GIVEN` that it asks for, and of `more` (such as `mean`) those that it takes."""
    names = arguments(cls)
    given = {name: of(catalog) for name, of in GIVEN.items() if name in names}
    return {**given, **{name: value for name, value in more.items() if name in names}}


def training_data_in(config: dict, catalog: Catalog) -> list[str]:
    """Names in a model's `config()` that hold who has what: `history`, `times`, or a sparse matrix of users x items."""
    shape = (catalog.n_users, catalog.n_items)

    def is_matrix(value: Any) -> bool:
        if isinstance(value, torch.Tensor):
            return value.layout != torch.strided and tuple(value.shape) in (shape, shape[::-1])
        if isinstance(value, np.ndarray) or issparse(value):
            return value.shape in (shape, shape[::-1])
        return False

    return [k for k, v in config.items() if (k in PERSONAL and v is not None) or is_matrix(v)]
