"""A model in eval mode beside the one that trains: the same tensors, and modes of its own.

Scoring goes through it, so that it neither depends on the mode that a model is in nor changes it for anybody else:
other threads may score the same model, or train it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from types import MethodType
from typing import Any

import torch
from torch import nn

__all__: list[str] = []


class _Open(threading.local):
    """The views that are open in this thread: id of the model -> view."""

    def __init__(self) -> None:
        self.views: dict[int, nn.Module] = {}


_open = _Open()


def in_eval(model: nn.Module) -> nn.Module:
    """The view of `model` that is open in this thread (`evaluating`); the model itself if there is none."""
    return _open.views.get(id(model), model)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """-> a view of `model`, which `in_eval` gives inside; without gradients. The model keeps the mode it is in.

    Inside of another one for the same model it is the same view.
    """
    with torch.no_grad():
        if id(model) in _open.views:
            yield _open.views[id(model)]
            return
        view = _open.views[id(model)] = eval_view(model)
        try:
            yield view
        finally:
            del _open.views[id(model)]


def eval_view(model: nn.Module) -> nn.Module:
    """Modules of their own, in eval mode, around the parameters and buffers of `model`.

    What a module does on the way to eval mode (`train(False)`) its view does. A compiled model is scored as what it was
    compiled from, a scripted one through a copy.
    """
    twins: dict[int, nn.Module] = {}
    for module in model.modules():
        twins[id(module)] = deepcopy(module) if isinstance(module, torch.jit.ScriptModule) else _twin(module)
    for module in model.modules():
        if not isinstance(module, torch.jit.ScriptModule):
            _connect(module, twins)
    return twins[id(model)].eval()


def _twin(module: nn.Module) -> nn.Module:
    """A module of the same class with nothing in it yet."""
    return nn.Module.__new__(type(module))


def _connect(module: nn.Module, twins: dict[int, nn.Module]) -> None:
    """Give the twin of a module what the module has, with twins in the place of modules."""
    twin = twins[id(module)]
    attributes = dict(vars(module))  # other threads may set some meanwhile
    for name, value in attributes.items():
        attributes[name] = _with_twins(value, twins)
    attributes['is_view'] = True
    twin.__dict__.update(attributes)
    if '_compiled_call_impl' in attributes:  # `module.compile()` binds it to the module
        twin.__dict__['_compiled_call_impl'] = None
    compiled_from = attributes['_modules'].get('_orig_mod')
    if compiled_from is not None:  # `torch.compile(module)`, likewise
        twin.__dict__['forward'] = compiled_from.__call__


def _with_twins(value: Any, twins: dict[int, nn.Module]) -> Any:
    """A value in which modules, and their bound methods, are those of the twins; itself where there are none.

    Looked at are the value and, of lists, tuples and dicts, their elements.
    """
    kind = type(value)
    if kind in (list, tuple):
        if any(_has_twin(o, twins) for o in value):
            return kind(_twin_of(o, twins) for o in value)
    elif kind in (dict, OrderedDict):
        if any(_has_twin(o, twins) for o in list(value.values())):
            return kind((name, _twin_of(o, twins)) for name, o in value.items())
    elif _has_twin(value, twins):
        return _twin_of(value, twins)
    return value


def _has_twin(value: Any, twins: dict[int, nn.Module]) -> bool:
    owner = value.__self__ if isinstance(value, MethodType) else value
    return id(owner) in twins


def _twin_of(value: Any, twins: dict[int, nn.Module]) -> Any:
    """The twin of a module or of its bound method; whatever else, itself."""
    if not _has_twin(value, twins):
        return value
    if isinstance(value, MethodType):
        return MethodType(value.__func__, twins[id(value.__self__)])
    return twins[id(value)]
