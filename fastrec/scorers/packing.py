"""Values to JSON and tensors, and back: what a saved recommender consists of.

Plain data (numbers, texts, lists, tables, tensors) and the names of classes of this package, which are looked up in a
fixed list of rooms: reading runs no code from the file. A model says with `config()` which arguments of its constructor
make one of its shape; its `state_dict` is the rest.

In JSON None, bool, int, str, finite floats, lists and dicts are as they are; whatever else is a dict whose first key,
one of `TAGS`, says what it is."""

from __future__ import annotations

import base64
import datetime
import decimal
import math
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix, issparse
from torch import nn
from torch.overrides import TorchFunctionMode

from fastrec import __version__

from ..data import transforms
from ..data.catalog import Catalog
from ..data.interactions import Vocab
from ..models.base import as_rec_model
from ..notices import warn_user
from .model_scorer import ModelScorer
from .scorer import Scorer
from .sound import check_config, check_csr, check_model, check_names, check_numbers, check_size, checked, require

__all__: list[str] = []

# rooms whose classes a file may name, those that load fast first
ROOMS = (
    'data.interactions',
    'data.splits',
    'data.history',
    'data.catalog',
    'data.block',
    'scorers.model_scorer',
    'models.dot',
    'models.svdpp',
    'models.neumf',
    'models.content',
    'models.gated',
    'models.two_tower',
    'scorers.baselines',
    'scorers.linear',
    'scorers.neighbors',
    'scorers.factorization',
    'scorers.blend',
    'data.features',
    'data.images',
    'scorers.rerank',
    'scorers.refine',
)

# type -> its tag, how it is written, how it is read
TEXTS: dict[type, tuple[str, Callable, Callable]] = {
    bytes: ('bytes', lambda o: base64.b64encode(o).decode(), base64.b64decode),
    decimal.Decimal: ('decimal', str, decimal.Decimal),
    uuid.UUID: ('uuid', str, uuid.UUID),
    datetime.date: ('date', datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.datetime: ('datetime', datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    pd.Timestamp: ('timestamp', pd.Timestamp.isoformat, pd.Timestamp),
    pd.Timedelta: ('timedelta', pd.Timedelta.isoformat, pd.Timedelta),
}
FROM_TEXT = {tag: read for tag, _, read in TEXTS.values()}
GROUPS: dict[str, type] = dict(tuple=tuple, set=set, frozenset=frozenset)
MISSING = {'NaT': pd.NaT, 'NA': pd.NA}
OTHERS = (
    'object', 'model', 'same', 'tensor', 'array', 'csr', 'index', 'series', 'frame', 'dict', 'float', 'scalar',
    'missing',
)  # fmt: skip
TAGS = {*OTHERS, *GROUPS, *FROM_TEXT}


def find_class(name: str, own: Iterable[type] = ()) -> type | None:
    """The class called `name` among `own`, the transforms of features, and the rooms of this package, or None."""
    for cls in own:
        if cls.__name__ == name:
            return cls
    if name in transforms.SAVED:
        return vars(transforms)[name]
    for room in ROOMS:
        module = import_module(f'fastrec.{room}')
        if name in module.__all__:
            found = vars(module)[name]
            return found if isinstance(found, type) else None
    return None


# --- to JSON and tensors


class Packer:
    """Turns objects into JSON and a dict of tensors. What occurs twice is written once.

    `at` is throughout where a value is, for messages and the names of tensors.
    """

    def __init__(
        self,
        history: bool,  # does who has what travel?
    ) -> None:
        self.history = history
        self.tensors: dict[str, torch.Tensor] = {}
        self.numbers: dict[int, int] = {}  # of objects, by their `id`
        self.names: dict[tuple, str] = {}  # of tensors, by what they share with no other
        self.kept: list = []  # objects and tensors whose `id` and memory stay their own until all is packed

    def pack(self, value: Any, at: str) -> Any:
        """`value` for JSON; `TypeError` for what cannot be saved."""
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if np.isfinite(value) else {'float': repr(value)}
        if kind is list:
            return self._all(value, at)
        if kind is dict:
            return self._dict(value, at)
        if kind in GROUPS.values():
            return {kind.__name__: self._all(value, at)}
        for name, missing in MISSING.items():
            if value is missing:
                return {'missing': name}
        if kind in TEXTS:
            tag, write, _ = TEXTS[kind]
            return {tag: write(value)}
        if isinstance(value, np.generic):
            return {'scalar': self._array(np.asarray(value), at)}
        if isinstance(value, torch.Tensor):
            return {'tensor': self._tensor(value.detach(), at)}
        if isinstance(value, np.ndarray):
            return {'array': self._array(value, at)}
        if issparse(value):
            return self._csr(csr_matrix(value), at)
        if isinstance(value, pd.Index):
            return {'index': self._column(value, at), 'name': self.pack(value.name, f'{at}.name')}
        if isinstance(value, pd.Series):
            return self._series(value, at)
        if isinstance(value, pd.DataFrame):
            return self._frame(value, at)
        return self._once(value, at)

    # --- containers

    def _all(self, values: Iterable, at: str) -> list:
        return [self.pack(o, f'{at}.{i}') for i, o in enumerate(values)]

    def _named(self, values: dict, at: str) -> dict:
        return {name: self.pack(o, f'{at}.{name}') for name, o in values.items()}

    def _dict(self, values: dict, at: str) -> dict:
        """As it is where keys are texts and the first could not be taken for a tag; else a list of pairs."""
        if all(type(key) is str for key in values) and next(iter(values), None) not in TAGS:
            return self._named(values, at)
        pairs = []
        for i, (key, value) in enumerate(values.items()):
            pairs.append([self.pack(key, f'{at}.{i}.key'), self.pack(value, f'{at}.{i}')])
        return {'dict': pairs}

    # --- arrays

    def _tensor(self, tensor: torch.Tensor, at: str) -> str:
        """The name of the tensor in the file. The same tensor twice is one; storage is not shared there."""
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and key in self.names:
            return self.names[key]
        while at in self.tensors:
            at += "'"
        self.names[key] = at
        self.kept.append(tensor)
        tensor = tensor.cpu().contiguous()
        is_whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        self.tensors[at] = tensor if is_whole else tensor.clone()
        return at

    def _array(self, array: np.ndarray, at: str) -> dict:
        """Its dtype, its shape, and the name of a tensor or, of objects and texts, the values."""
        shape = list(array.shape)
        if array.dtype.kind in 'OSU':
            dtype = 'object' if array.dtype.kind == 'O' else array.dtype.str
            return dict(dtype=dtype, shape=shape, values=self._all(array.ravel().tolist(), at))
        array = array.astype(array.dtype.newbyteorder('='))  # (a copy)
        raw = array
        if array.dtype.kind in 'Mmu':  # what torch has no type for
            raw = array.view(f'i{array.dtype.itemsize}')
        return dict(dtype=array.dtype.str, shape=shape, tensor=self._tensor(torch.from_numpy(raw), at))

    def _csr(self, matrix: csr_matrix, at: str) -> dict:
        arrays = dict(data=matrix.data, indices=matrix.indices, indptr=matrix.indptr)
        return {
            'csr': {name: self._array(array, f'{at}.{name}') for name, array in arrays.items()},
            'shape': list(matrix.shape),
        }

    # --- pandas

    def _column(self, column: pd.Index | pd.Series, at: str) -> dict:
        """Values of an Index or a Series, with the dtype that they have in pandas."""
        dtype = column.dtype
        if isinstance(dtype, pd.CategoricalDtype):
            return dict(
                categories=self._column(dtype.categories, f'{at}.categories'),
                codes=self._array(np.asarray(column.array.codes), f'{at}.codes'),
                ordered=bool(dtype.ordered),
            )
        if isinstance(dtype, pd.DatetimeTZDtype):
            in_utc = pd.DatetimeIndex(column).tz_convert(None).to_numpy()
            return dict(array=self._array(in_utc, at), tz=str(dtype.tz))
        if isinstance(dtype, np.dtype) and dtype.kind != 'O':
            return dict(array=self._array(column.to_numpy(), at))
        values = column.to_numpy(dtype=object).tolist()
        if isinstance(dtype, np.dtype):
            return dict(values=self._all(values, at), dtype='object')
        values = [None if pd.isna(o) else o for o in values]
        return dict(values=self._all(values, at), dtype=str(dtype))

    def _series(self, series: pd.Series, at: str) -> dict:
        return {
            'series': self._column(series, at),
            'name': self.pack(series.name, f'{at}.name'),
            'rows': self.pack(series.index, f'{at}.rows'),
        }

    def _frame(self, df: pd.DataFrame, at: str) -> dict:
        """A column that cannot be saved is left out, with a warning."""
        columns = []
        for i, name in enumerate(df.columns):
            before = set(self.tensors)
            try:
                columns.append([self.pack(name, f'{at}.{i}.name'), self._column(df.iloc[:, i], f'{at}.{name}')])
            except TypeError as e:
                self.tensors = {key: tensor for key, tensor in self.tensors.items() if key in before}
                warn_user(f'column {name!r} of {at.rsplit(".", 1)[-1]} is left out: {e}')
        return {'frame': columns, 'rows': self.pack(df.index, f'{at}.rows')}

    # --- objects

    def _once(self, value: Any, at: str) -> dict:
        """An object with its number; met again, the number alone."""
        number = self.numbers.get(id(value))
        if number is not None:
            return {'same': number}
        number = self.numbers[id(value)] = len(self.numbers)
        self.kept.append(value)
        packed = self._model(value, at) if isinstance(value, nn.Module) else self._object(value, at)
        return {**packed, 'number': number}

    def _object(self, value: Any, at: str) -> dict:
        """The name of its class, and its attributes."""
        if isinstance(value, Catalog) and not self.history:
            value = value.without_history()
        if isinstance(value, ModelScorer):
            value = self._portable(value)
        if isinstance(value, Scorer):
            _refuse_diverged(check_numbers, value)
        cls = type(value)
        if find_class(cls.__name__) is not cls and not isinstance(value, Scorer):
            raise TypeError(
                f'{at} is a {cls.__module__}.{cls.__name__}, which cannot be saved without pickle: '
                'only plain data, tensors, tables and classes of fastrec can'
            )
        return {'object': cls.__name__, 'state': self._named(_state(value), at)}

    def _portable(self, scorer: ModelScorer) -> ModelScorer:
        """A scorer with the model that may be given away; of a learner, without what is for training.

        With history the model itself, which may read it.
        """
        model = scorer.model
        if not self.history:
            model = scorer.without_history()
        elif find_class(type(model).__name__) is not type(model):
            model = scorer.rec_model.without_history()
        if find_class(type(scorer).__name__) is not type(scorer):
            res = ModelScorer(model, scorer.catalog, scorer.scale, scorer.item_features)
        else:
            res = copy(scorer)
            res.model = model
        if scorer.taken_over:
            res.taken_over = [source.as_source() for source in scorer.taken_over]
        return res

    def _model(self, model: nn.Module, at: str) -> dict:
        """The name of its class, the arguments of its constructor, and the names of its tensors."""
        _refuse_diverged(check_model, model)
        return {
            'model': type(model).__name__,
            'config': self._named(as_rec_model(model).config(), f'{at}.config'),
            'state': {name: self._tensor(tensor, f'{at}.{name}') for name, tensor in model.state_dict().items()},
        }


def _state(value: Any) -> dict[str, Any]:
    """The attributes of an object (fields of a named tuple) that are saved: not what is cached, or not meant to be."""
    if isinstance(value, tuple):
        return value._asdict()  # type: ignore[attr-defined]  # of this package's classes the tuples are named ones
    attributes = value.saved_state() if isinstance(value, transforms.Savable) else vars(value)
    assert attributes is not None  # who holds an encoder that cannot be saved leaves it out
    left_out = set(value.not_saved) if isinstance(value, Scorer) else set()
    for cls in type(value).__mro__:
        left_out |= {name for name, o in vars(cls).items() if isinstance(o, cached_property)}
    return {name: o for name, o in attributes.items() if name not in left_out}


def _refuse_diverged(check: Callable[[Any], None], thing: Any) -> None:
    """`ValueError` for what has NaN or infinite numbers, which would load as well as be of no use."""
    try:
        check(thing)
    except ValueError as e:
        raise ValueError(
            f'{e}: training has diverged, and nothing was saved. Train a new one with a smaller learning rate '
            '(`learn.lr_find()` shows where it diverges), and look for extreme ratings or features in the table'
        ) from e


# --- and back

DTYPES = 'biufcmM'  # kinds of arrays that are tensors in the file
FACTORIES = ('empty', 'zeros', 'ones', 'randn', 'rand', 'eye')  # of torch: make tensors of a size
# names of time zones; what else pandas takes are paths of files
ZONE = re.compile(r'(?!dateutil)[A-Za-z0-9_+:-]+(/[A-Za-z0-9_+:-]+)*')


class NotLarger(TorchFunctionMode):
    """Inside, torch makes no tensor of more than `most` numbers: `ValueError`.

    The sizes of a model stand in the file beside its weights; those that are larger than all of the file are made up,
    and would take all memory before the weights are found not to fit.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.factories = {vars(torch)[name] for name in FACTORIES}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As torch would, once the size is looked at."""
        if func in self.factories:
            sizes = [o for part in args for o in (part if isinstance(part, (tuple, list)) else (part,))]
            self._check(math.prod(o for o in sizes if isinstance(o, int)))
        elif func is torch.arange:
            self._check(max(o for o in args if isinstance(o, (int, float))))
        return func(*args, **(kwargs or {}))

    def _check(self, size: float) -> None:
        require(size <= self.most, f'a model with a table of {size:,} numbers, more than the files can tell of')


class UnknownClass(ValueError):
    """A class that is neither of this package nor was given."""


class Unpacker:
    """The inverse of `Packer`, for files that may hold anything: what does not fit together is a `ValueError`."""

    def __init__(
        self,
        tensors: dict[str, torch.Tensor],
        own: Sequence[type],  # classes beside those of this package
        n_bytes: int,  # of the files: nothing in them is larger
    ) -> None:
        self.tensors = tensors
        self.own = own
        self.most = max(n_bytes, 2**20)
        for name, tensor in tensors.items():
            _check_truths(name, tensor)
        self.made: dict[int, Any] = {}  # objects by their number
        self.sizes: dict[int, tuple] = {}  # users and items of models, by their `id`
        self.readers: dict[str, Callable[[dict], Any]] = dict(
            object=self._object,
            model=self._model,
            same=self._same,
            tensor=lambda value: self.tensors[value['tensor']],
            array=lambda value: self._array(value['array']),
            csr=self._csr,
            index=self._index,
            series=self._series,
            frame=self._frame,
            dict=self._dict,
            float=lambda value: float(value['float']),
            scalar=lambda value: self._array(value['scalar'])[()],
            missing=lambda value: MISSING[value['missing']],
        )

    def read(self, content: Any) -> Scorer:
        """The scorer that was packed; `ValueError` for anything else, and for what does not fit together."""
        try:
            res = self.unpack(content)
        except (ImportError, UnknownClass):
            raise
        except RecursionError as e:
            raise ValueError('its parts stand too deep inside one another') from e
        except (KeyError, AttributeError, IndexError) as e:
            raise ValueError(f'a part is missing ({type(e).__name__}: {e})') from e
        except Exception as e:  # whatever pandas, scipy and torch say to values that they cannot take
            raise e if type(e) is ValueError else ValueError(f'{type(e).__name__}: {e}') from e
        require(isinstance(res, Scorer), f'it holds a {type(res).__name__}, which is not a recommender')
        return res

    def unpack(self, value: Any) -> Any:
        """What was packed; `ValueError` for classes that are not known."""
        if isinstance(value, list):
            return self._all(value)
        if not isinstance(value, dict):
            return value
        tag = next(iter(value), None)
        if tag not in TAGS:
            return self._named(value)
        if tag in FROM_TEXT:
            require(isinstance(value[tag], str), f'a {tag} that is not text')
            return FROM_TEXT[tag](value[tag])
        if tag in GROUPS:
            return GROUPS[tag](self._all(value[tag]))
        return self.readers[tag](value)

    # --- containers

    def _all(self, values: list) -> list:
        require(isinstance(values, list), 'a list that is none')
        return [self.unpack(o) for o in values]

    def _named(self, values: dict) -> dict:
        require(isinstance(values, dict), 'a dict that is none')
        return {name: self.unpack(o) for name, o in values.items()}

    def _dict(self, value: dict) -> dict:
        return {self.unpack(key): self.unpack(o) for key, o in value['dict']}

    # --- arrays

    def _array(self, packed: dict) -> np.ndarray:
        shape = packed['shape']
        is_shape = isinstance(shape, list) and all(type(o) is int and o >= 0 for o in shape)
        require(is_shape, f'an array of shape {shape!r}')
        dtype = np.dtype(packed['dtype'])
        if 'tensor' not in packed:
            return self._objects_of(packed['values'], dtype).reshape(shape)
        raw = self.tensors[packed['tensor']].numpy()
        is_view = dtype.kind in 'Mmu' and raw.dtype == np.dtype(f'i{dtype.itemsize}')
        require(dtype.kind in DTYPES and (is_view or raw.dtype == dtype), f'{raw.dtype} numbers to be read as {dtype}')
        return raw.view(dtype).reshape(shape)

    def _objects_of(self, values: list, dtype: np.dtype) -> np.ndarray:
        """Values that no tensor holds: objects, and texts of a fixed length."""
        objects = _objects(self._all(values))
        require(dtype.kind in 'OSU' and dtype.names is None, f'values of dtype {dtype}')
        if dtype.kind == 'O':
            return objects
        require(all(isinstance(o, (str, bytes)) for o in objects), f'values that are not texts, of dtype {dtype}')
        longest = max(map(len, objects), default=0)
        require(dtype.itemsize <= 4 * max(longest, 1), f'texts of dtype {dtype}, of which the longest has {longest:,}')
        return objects.astype(dtype)

    def _csr(self, value: dict) -> csr_matrix:
        data, indices, indptr = (self._array(value['csr'][name]) for name in ('data', 'indices', 'indptr'))
        check_csr(data, indices, indptr, value['shape'], self.most)
        return csr_matrix((data, indices, indptr), shape=tuple(value['shape']))

    # --- pandas

    def _column(self, packed: dict) -> Any:
        """Values for an Index or a Series, of the dtype that they had."""
        if 'tz' in packed:
            require(ZONE.fullmatch(packed['tz']) is not None, f'a time zone called {packed["tz"]!r}')
            return pd.DatetimeIndex(self._array(packed['array'])).tz_localize('UTC').tz_convert(packed['tz'])
        if 'array' in packed:
            return self._array(packed['array'])
        if 'codes' in packed:
            categories = pd.Index(self._column(packed['categories']))
            return pd.Categorical.from_codes(self._array(packed['codes']), categories, ordered=packed['ordered'])
        values = _objects(self._all(packed['values']))
        if packed['dtype'] == 'object':
            return pd.Series(values, dtype=object).array
        dtype = pd.api.types.pandas_dtype(packed['dtype'])
        require(isinstance(dtype, pd.api.extensions.ExtensionDtype), f'a column of dtype {packed["dtype"]!r}')
        return pd.array(values, dtype=dtype)

    def _index(self, value: dict) -> pd.Index:
        return pd.Index(self._column(value['index']), name=self.unpack(value['name']))

    def _series(self, value: dict) -> pd.Series:
        values = self._column(value['series'])
        return pd.Series(values, index=self.unpack(value['rows']), name=self.unpack(value['name']))

    def _frame(self, value: dict) -> pd.DataFrame:
        columns, rows = value['frame'], self.unpack(value['rows'])
        require(isinstance(rows, pd.Index), 'a table without an index')
        # numbered at first: names may repeat
        names = [self.unpack(name) for name, _ in columns]
        values = [pd.Series(self._column(packed), index=rows) for _, packed in columns]
        res = pd.DataFrame(dict(enumerate(values)), index=rows)
        res.columns = pd.Index(names)
        return res

    # --- objects

    def _class(self, name: str) -> Any:
        cls = find_class(name, self.own)
        if cls is None:
            raise UnknownClass(
                f'the recommender holds a {name}, which fastrec {__version__} does not know. '
                f'If it is a class of your own: load_recommender(folder, classes=[{name}])'
            )
        return cls

    def _same(self, value: dict) -> Any:
        require(value['same'] in self.made, 'an object that holds itself, or is not there')
        return self.made[value['same']]

    def _object(self, value: dict) -> Any:
        cls = self._class(value['object'])
        require(not issubclass(cls, nn.Module), f'{cls.__name__} is a model, and was saved as something else')
        state = self._named(value['state'])
        if issubclass(cls, tuple) or cls is Vocab:
            res = cls(**state)
        elif cls is Catalog:
            check_names(cls, set(state) - {'interactions', 'split'})  # of version 0.1
            res = Catalog.from_saved(state)
        else:
            check_names(cls, state)
            res = object.__new__(cls)
            res.__dict__.update(state)
        checked(res)
        if isinstance(res, ModelScorer) and id(res.model) in self.sizes:
            check_size(res, self.sizes[id(res.model)])
        self.made[value['number']] = res
        return res

    def _model(self, value: dict) -> nn.Module:
        cls = self._class(value['model'])
        require(issubclass(cls, nn.Module), f'{cls.__name__} is not a model')
        config = self._named(value['config'])
        check_config(config)
        with NotLarger(self.most):
            res = cls(**config)
        res.load_state_dict({name: self.tensors[key] for name, key in value['state'].items()})
        check_model(res)
        if 'n_users' in config and 'n_items' in config:
            self.sizes[id(res)] = (config['n_users'], config['n_items'])
        self.made[value['number']] = res
        return res


def _check_truths(name: str, tensor: torch.Tensor) -> None:
    """`ValueError` unless a tensor of truths holds nothing but 0 and 1, which numpy and torch take for granted."""
    if tensor.dtype == torch.bool and tensor.numel():
        require(int(tensor.view(torch.uint8).max()) <= 1, f'{name} is neither true nor false')


def _objects(values: list) -> np.ndarray:
    """An array of objects, (n,), also where they are sequences."""
    res: np.ndarray = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        res[i] = value
    return res
