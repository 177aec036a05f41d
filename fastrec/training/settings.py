"""What the result of a fit depends on, as plain data: two runs with the same settings are the same run.

Weights are not among it: a run that goes on has those of its checkpoint, and one that begins may begin at random.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback, FetchPredsCallback, GatherPredsCallback, TrainEvalCallback
from fastai.callback.data import CollectDataCallback
from fastai.callback.hook import HookCallback
from fastai.callback.progress import CSVLogger, ProgressCallback, ShowGraphCallback
from fastai.callback.schedule import ParamScheduler
from fastai.learner import CastToTensor, Learner, Recorder
from fastai.optimizer import Optimizer, OptimWrapper
from fastcore.foundation import L
from scipy.sparse import issparse
from torch import nn

from ..data.digest import digest
from ..data.splits import Split
from ..models.base import as_rec_model
from ..models.embedding import EmbeddingTable
from .optimizers import FusedAdam

__all__: list[str] = []

POINTS = (0.0, 0.1, 0.25, 0.5, 0.9, 1.0)  # of training, at which schedules are compared
DEPTH = 8  # to which objects within objects are described
SEED = 'the seed of torch'
VALUES = '#'  # what the text of a digest begins with
# attributes of modules and loaders that say how something is done and not what
MEANS = {
    'training', 'run', 'l2', 'penalty', 'penalized', 'keeps_grad', 'sparse', 'device', 'num_workers', 'pin_memory',
    'timeout', 'pin_memory_device', 'persistent_workers', 'prefetch_factor', 'offs',
}  # fmt: skip
# callbacks that watch training and do not change it
WATCHING = (
    ProgressCallback, ShowGraphCallback, CSVLogger, Recorder, TrainEvalCallback, CastToTensor, ParamScheduler,
    HookCallback, CollectDataCallback, FetchPredsCallback, GatherPredsCallback,
)  # fmt: skip
# the same of packages that need not be there
WATCHING_NAMES = {'TensorBoardBaseCallback', 'WandbCallback', 'CometCallback', 'AzureMLCallback'}
NO_SETTINGS = {'self', 'args', 'fname'}  # arguments of callbacks and optimizers that say nothing of training


def settings_of(
    learn: Learner,  # inside a fit
    without: Callback | None = None,  # a callback that does not count
) -> dict[str, Any]:
    """What has to be the same when a fit goes on, by the name that an error calls it."""
    schedules = _schedules(learn)
    l2 = [m.l2 for m in learn.model.modules() if isinstance(m, EmbeddingTable)]
    hypers = [dict(group) for group in learn.opt.hypers]
    unscheduled = [{k: v for k, v in group.items() if k not in schedules and k != 'wd'} for group in hypers]
    history = learn.catalog.history
    res = {
        'the number of epochs': learn.n_epoch,
        'the schedule': schedules,
        'the hyper-parameters': unscheduled,
        'the weight decay': [group.get('wd') for group in hypers] + l2,
        'the data': _data(learn),
        'the split': {name: VALUES + value for name, value in history.digests('split').items()},
        'the batch size': learn.dls.train.bs,
        'the loaders': {part: _loader(loader) for part, loader in zip(Split._fields, learn.dls.loaders)},
        'the model': _model(learn.model),
        'the loss': described(learn.loss_func),
        'the optimizer': _optimizer(learn.opt),
        'the callbacks': {name: _settings(cb) for name, cb in _named(learn, without) if not _is_own(cb)},
        'the columns of the training table': list(learn.recorder.metric_names) if 'recorder' in vars(learn) else [],
        SEED: _seed(),
    }
    res['the loaders']['train'].pop('bs')
    return {name: _as_plain(value) for name, value in res.items()}


def _seed() -> int | None:
    """What the global generator of torch was seeded with; None where nobody has: it then has 64 random bits."""
    seed = torch.initial_seed()
    return seed if seed < 2**32 else None


def own_callbacks(
    learn: Learner,  # inside a fit
) -> dict[str, Any]:
    """Settings of the callbacks that neither fastai nor fastrec has, by name."""
    return {name: _as_plain(_settings(cb)) for name, cb in _named(learn) if _is_own(cb)}


# --- what differs


def changes(
    then: dict[str, Any],  # `settings_of` a run
    now: dict[str, Any],  # of the one that is to go on with it
) -> dict[str, list[str]]:
    """Name -> what differs, in words, of the settings that differ. A seed says something if there are two."""
    res = {name: differences(then.get(name), now[name]) for name in now}
    if then.get(SEED) is None or now.get(SEED) is None:
        res.pop(SEED, None)
    return {name: texts for name, texts in res.items() if texts}


def differences(
    then: Any,  # plain data
    now: Any,  # plain data
    path: str = '',  # where in the whole it is
) -> list[str]:
    """What differs between plain data, in words: 'y_range: None then, [0, 5] now'; [] if nothing does."""
    if isinstance(then, dict) and isinstance(now, dict):
        res = []
        for key in dict.fromkeys([*then, *now]):
            where = f'{path}.{key}' if path else str(key)
            res += differences(then.get(key, ABSENT), now.get(key, ABSENT), where)
        return res
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        parts = [differences(a, b, f'{path}[{i}]') for i, (a, b) in enumerate(zip(then, now))]
        return _first_of_each([text for part in parts for text in part], then, now, path)
    if (then == now and type(then) is type(now)) or (_is_number(then) and _is_number(now) and then == now):
        return []
    named = f'{path}: ' if path else ''
    if _is_digest(then) and _is_digest(now):
        return [f'{named}other values']
    return [f'{named}{_short(then)} then, {_short(now)} now']


ABSENT = 'nothing'


def _first_of_each(texts: list[str], then: list, now: list, path: str) -> list[str]:
    """Of lists of plain values one text, else that of each place."""
    plain = all(not isinstance(o, (dict, list)) for o in [*then, *now])
    if texts and plain and not any(map(_is_digest, [*then, *now])):
        named = f'{path}: ' if path else ''
        return [f'{named}{_short(then)} then, {_short(now)} now']
    return texts


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(VALUES)


def _short(value: Any) -> str:
    """A value in a line; of a digest that it is there."""
    if _is_digest(value):
        return 'given'
    if isinstance(value, float):
        return f'{value:.6g}'
    if isinstance(value, list):
        text = f'[{", ".join(map(_short, value))}]'
    elif isinstance(value, dict):
        text = ', '.join(f'{k}={_short(v)}' for k, v in value.items()) or 'there'
    else:
        text = str(value)
    return text if len(text) <= 80 else f'{text[:77]}...'


# --- the parts of it


def _schedules(learn: Learner) -> dict[str, list]:
    """Values of each scheduled hyper-parameter at some points of training."""
    values = {}
    for cb in learn.cbs:
        if isinstance(cb, ParamScheduler):
            for name, schedule in cb.scheds.items():
                values[name] = [schedule(point) for point in POINTS]
    return values


def _data(learn: Learner) -> dict[str, Any]:
    catalog = learn.catalog
    res: dict[str, Any] = dict(target=learn.dls.target, users=catalog.n_users, items=catalog.n_items)
    if catalog.interactions is not None:
        res['rows'] = len(catalog.interactions)
        res['options'] = described(catalog.interactions.options)
    return {**res, **{f'content of {name}': VALUES + value for name, value in catalog.history.digests().items()}}


def _loader(loader: Any) -> dict[str, Any]:
    """Settings of a loader and of its sampler; not the batch size of training, which is named alone."""
    res = dict(_attributes(loader))
    res['kind'] = _name(type(loader))
    sampler = vars(loader).get('sampler')
    if sampler is not None:
        res.update(_attributes(sampler))
    rows = vars(loader.dataset).get('rows')
    res['rows'] = described(rows)
    return res


def _model(model: nn.Module) -> dict[str, Any]:
    """Class, arguments, shapes, what is frozen, settings of each module, and what of it no checkpoint holds."""
    try:
        arguments = as_rec_model(model).config()
    except TypeError:  # a module of one's own may not say
        arguments = {}
    modules = {}
    for name, module in model.named_modules():
        given = {key: described(module.get_buffer(key)) for key in _not_in_state(module)}
        modules[name] = {'class': _name(type(module)), **_attributes(module), **given}
    own = modules.pop('')
    return {
        **own,
        **described(arguments),
        'parts': modules,
        'shapes': {name: list(value.shape) for name, value in model.state_dict().items()},
        'frozen': [name for name, p in model.named_parameters() if not p.requires_grad],
    }


def _not_in_state(module: nn.Module) -> list[str]:
    """Names of a module's buffers that `state_dict` leaves out: features, histories."""
    return sorted(key for key in module._non_persistent_buffers_set if module._buffers.get(key) is not None)


def _optimizer(opt: Any) -> dict[str, Any]:
    """Class and settings, and those of what it wraps."""
    res: dict[str, Any] = {'class': _name(type(opt))}
    if isinstance(opt, OptimWrapper):
        res['of torch'] = _name(type(opt.opt))
    elif isinstance(opt, Optimizer):
        res['steps'] = [described(step) for step in vars(opt).get('cbs', [])]
    if isinstance(opt, FusedAdam):
        return {**res, 'rows': opt.rows, 'large': opt.large}
    inner = vars(opt).get('opt')
    if isinstance(inner, Optimizer):
        res['inner'] = _optimizer(inner)
        res.update(_settings(opt, without='opt'))
    return res


def _named(learn: Learner, without: Callback | None = None) -> Iterator[tuple[str, Callback]]:
    """(name, callback) of those that may change training."""
    counts: dict[str, int] = {}
    for cb in learn.cbs.sorted('order'):
        watches = any(c.__name__ in WATCHING_NAMES for c in type(cb).__mro__)
        if watches or isinstance(cb, WATCHING) or cb is without:
            continue
        name = type(cb).__name__
        counts[name] = counts.get(name, 0) + 1
        yield name if counts[name] == 1 else f'{name} {counts[name]}', cb


def _is_own(cb: Callback) -> bool:
    """Is it a callback of the user's?"""
    return type(cb) is Callback or type(cb).__module__.partition('.')[0] not in ('fastai', 'fastrec')


def _settings(o: Any, without: str = '') -> dict[str, Any]:
    """What the constructor was given, as far as attributes of the same names tell; functions set on a callback, too."""
    names = inspect.signature(type(o).__init__).parameters
    held = vars(o)
    res = {}
    for name in names:
        for key in (name, f'_{name}', '_skip_to' if name == 'epoch' else name):
            if key in held and name not in NO_SETTINGS and name != without:
                res[name] = described(held[key])
    events = {name: described(value) for name, value in held.items() if isinstance(value, (FunctionType, MethodType))}
    return {**events, **res}


# --- any object as plain data


def described(
    value: Any,  # of any type
    depth: int = DEPTH,  # to which objects within objects are looked at
) -> Any:
    """`value` as plain data: settings as they are, arrays as a digest, functions by what they do, objects by parts."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.generic, Path, Enum, bytes, np.dtype, torch.dtype, torch.device)):
        return value.item() if isinstance(value, np.generic) else str(value)
    if isinstance(value, (torch.Tensor, np.ndarray, pd.Series, pd.Index, pd.DataFrame)) or issparse(value):
        return _of_array(value)
    if depth == 0:
        return _name(type(value))
    if isinstance(value, dict):
        return {str(k): described(v, depth - 1) for k, v in value.items()}
    if isinstance(value, (list, tuple, L)):
        return [described(o, depth - 1) for o in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(described(o, depth - 1)) for o in value)
    if isinstance(value, type):
        return _name(value)
    if callable(value) and not isinstance(value, nn.Module):
        return _of_function(value, depth)
    return _of_object(value, depth)


def _of_array(value: Any) -> Any:
    """Shape and digest; of a scalar the number."""
    if isinstance(value, pd.DataFrame):
        columns = [digest(value[name]) for name in value.columns]
        return f'{VALUES}{value.shape} {digest([str(o) for o in value.columns], columns)}'
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        if value.is_sparse or value.layout != torch.strided:
            value = value.to_dense()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    if not issparse(value) and np.ndim(value) == 0:
        return value.item()
    return f'{VALUES}{tuple(np.shape(value))} {digest(value)}'


def _of_function(value: Callable, depth: int) -> Any:
    """Name, and of a function that is written where it is used its code and what it holds."""
    if isinstance(value, partial):
        given = described([list(value.args), value.keywords], depth - 1)
        return dict(function=described(value.func, depth - 1), given=given)
    if isinstance(value, MethodType):
        return dict(method=described(value.__func__, depth - 1), of=described(value.__self__, depth - 1))
    if isinstance(value, FunctionType):
        return _of_written(value, depth)
    if isinstance(value, np.ufunc):
        return value.__name__
    name = getattr(value, '__qualname__', None)  # of what C has written; objects that can be called have none
    return str(name) if name is not None else _of_object(value, depth)


def _code(function: FunctionType) -> list[str]:
    """What a function does: instructions, names and constants, those of functions inside it as well."""

    def parts(code: Any) -> Iterator[str]:
        yield code.co_code.hex()
        yield repr(code.co_names)
        for constant in code.co_consts:
            if hasattr(constant, 'co_code'):
                yield from parts(constant)
            else:
                yield repr(sorted(constant, key=repr) if isinstance(constant, frozenset) else constant)

    return list(parts(function.__code__))


def _of_written(function: FunctionType, depth: int) -> dict[str, Any]:
    """Name and code of a function, and the values that it reads: defaults, those around it, settings of its file."""
    around = dict(zip(function.__code__.co_freevars, (cell.cell_contents for cell in function.__closure__ or ())))
    names = function.__code__.co_names
    settings = {name: function.__globals__[name] for name in names if name in function.__globals__}
    read = {**around, **{name: o for name, o in settings.items() if isinstance(o, (bool, int, float, str))}}
    return {
        'function': f'{function.__module__}.{function.__qualname__}',
        'code': VALUES + digest(_code(function)),
        'defaults': described(list(function.__defaults__ or ()), depth - 1),
        **described(read, depth - 1),
    }


def _of_object(value: Any, depth: int) -> dict[str, Any]:
    """Class and settings; of a block of features its values, of a module also tensors and parts."""
    res = {'class': _name(type(value))}
    if is_dataclass(value):
        return {**res, **{field.name: described(getattr(value, field.name), depth - 1) for field in fields(value)}}
    if hasattr(value, '__dict__'):
        res.update(_attributes(value))
    if isinstance(value, nn.Module):
        tensors = [*value.named_parameters(recurse=False), *value.named_buffers(recurse=False)]
        res.update({name: described(o) for name, o in tensors})
        res.update({name: described(o, depth - 1) for name, o in value.named_children()})
    return res


def _attributes(o: Any) -> dict[str, Any]:
    """Attributes that are plain settings: numbers, texts, lists of them, and functions."""
    res = {}
    for key, value in vars(o).items():
        if key.startswith('_') or key in MEANS:
            continue
        is_plain = isinstance(value, (bool, int, float, str, np.generic, FunctionType, partial))
        if is_plain or _is_plain_list(value):
            res[key] = described(value)
    return res


def _is_plain_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(o, (bool, int, float, str)) for o in value)


def _name(cls: type) -> str:
    """A class's name; with its module, unless that is ours or a script."""
    where = cls.__module__
    return cls.__qualname__ if where == '__main__' or where.startswith('fastrec.') else f'{where}.{cls.__qualname__}'


def _as_plain(value: Any) -> Any:
    """Plain data that is equal to itself: no tuples, no nan."""
    if isinstance(value, dict):
        return {str(key): _as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, L)):
        return [_as_plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        return _as_plain(value.tolist())
    if isinstance(value, float) and math.isnan(value):
        return 'nan'
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
