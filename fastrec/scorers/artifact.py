"""A recommender that leaves the notebook: a folder of safetensors and JSON, without pickle, that loads without fastai.

What is saved is plain data (numbers, texts, lists, tables, tensors) and the names of classes of this package, which are looked up in a fixed list of
rooms: loading runs no code from the file. A model says with `config()` which arguments of its constructor make one of its shape; its `state_dict` is the rest."""

from __future__ import annotations

import base64
import datetime
import decimal
import hashlib
import json
import os
import tempfile
import uuid
from copy import copy
from functools import cached_property
from importlib import import_module
from pathlib import Path
from warnings import warn

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix, issparse
from torch import nn

from fastrec import __version__

from ..data.catalog import Catalog
from ..models.base import as_rec_model
from .model_scorer import ModelScorer
from .scorer import Scorer

__all__ = ['load_recommender', 'save_recommender']

FORMAT = 1  # of the files; raised when an older fastrec could not read them any more
MANIFEST = 'recommender.json'
# rooms whose classes a file may name, those that load fast first
_ROOMS = (
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
    'scorers.blend',
    'data.features',
    'data.images',
    'scorers.rerank',
    'scorers.refine',
)


def save_recommender(
    scorer,  # a learner, a baseline, a `Blend`: any fitted `Scorer`
    folder,  # where to; made if it is not there, an older recommender in it is replaced
    history: bool = False,  # who has what travels, too: rows, split and user metadata. Personal data, without which `recommend` wants `seen=` after loading
) -> Path:
    """Write what it takes to recommend: ids, item metadata, weights, and how to put them together again. Returns the folder.

    Files: recommender.json (read it: format, versions, what is inside, checksums), content-*.json and tensors-*.safetensors. They are written aside and put in place by one
    rename, so that a crash leaves either the old recommender or the new one. User ids travel, and features of users where the model reads them.
    """
    if not isinstance(scorer, Scorer):
        raise TypeError(f'expected a fitted learner or baseline (a Scorer), got {type(scorer).__name__}')
    save_file = _safetensors('save_file')
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f'{folder} is a file: a recommender is a folder')
    catalog = scorer.catalog
    scorer.vocab  # says so if it is not fitted
    if not history and _reads_history(scorer):
        warn(
            f'{type(scorer).__name__} scores users from what they have, which does not travel: loaded, it answers baskets and similar items only. With save_recommender(..., history=True) it recommends to users',
            stacklevel=2,
        )
    if history:
        catalog.require_history('Or leave out history=True')
    packer = _Packer(history)
    content = packer.pack(scorer, 'scorer')
    folder.mkdir(parents=True, exist_ok=True)
    before = _manifest_files(folder)
    files = {}
    with tempfile.TemporaryDirectory(dir=folder, prefix='.saving-') as aside:
        aside = Path(aside)
        save_file(packer.tensors, aside / 'tensors')
        (aside / 'content').write_bytes(
            json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(',', ':')).encode(
                'utf-8', 'surrogatepass'
            )
        )  # titles may hold anything
        os.chmod(
            aside / 'tensors', (aside / 'content').stat().st_mode
        )  # as any file here; safetensors writes for the owner alone
        for key, suffix in (('content', 'json'), ('tensors', 'safetensors')):
            digest = _sha256(aside / key)
            files[key] = dict(name=f'{key}-{digest[:12]}.{suffix}', bytes=(aside / key).stat().st_size, sha256=digest)
            _put(aside / key, folder / files[key]['name'])
        manifest = dict(
            format=FORMAT,
            fastrec=__version__,
            torch=torch.__version__,
            pandas=pd.__version__,
            saved=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
            scorer=content['object'],
            model=None if scorer.model is None else type(scorer.model).__name__,
            scale=scorer.scale,
            n_users=catalog.n_users,
            n_items=catalog.n_items,
            history=history,
            files=files,
        )
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1) + '\n', encoding='utf-8')
        _put(aside / MANIFEST, folder / MANIFEST)
    for name in before - {o['name'] for o in files.values()}:
        (folder / name).unlink(missing_ok=True)
    return folder


def load_recommender(
    folder,  # written by `save_recommender`
    classes: list = (),  # models or scorers of your own, if one of them was saved
    device=None,  # where a model goes; None: the CPU
) -> Scorer:
    """The recommender in `folder`: a `Scorer` with `recommend`, `recommend_users`, `predict`, `similar_items` and baskets; neither fastai nor a plotting library is imported.

    Checksums are compared first. Errors: `FileNotFoundError` where a file is missing, `ValueError` for one that is damaged or of another format.
    """
    load_file = _safetensors('load_file')
    folder = Path(folder)
    manifest = _read_manifest(folder)
    if manifest['format'] != FORMAT:
        raise ValueError(
            f'{folder} was written in format {manifest["format"]} by fastrec {manifest.get("fastrec")}; this is fastrec {__version__}, which reads format {FORMAT}. '
            + ('Install that version or a newer one' if manifest['format'] > FORMAT else 'Save it again with this one')
        )
    paths = {}
    for key, file in manifest['files'].items():
        path = paths[key] = folder / Path(file['name']).name
        if not path.is_file():
            raise FileNotFoundError(
                f'{path.name} is missing in {folder}: a recommender is the whole folder, copy all its files'
            )
        if (size := path.stat().st_size) != file['bytes']:
            raise ValueError(
                f'{path} has {size:,} bytes instead of {file["bytes"]:,}: it was cut short or changed. Copy it again, or save again'
            )
        if _sha256(path) != file['sha256']:
            raise ValueError(
                f'{path} is damaged: its checksum is not the one in {MANIFEST}. Copy it again, or save again'
            )
    scorer = _Unpacker(load_file(paths['tensors']), classes).unpack(
        json.loads(paths['content'].read_bytes().decode('utf-8', 'surrogatepass'))
    )
    for part in _scorers(scorer):
        if isinstance(part, ModelScorer):
            part.model.to('cpu' if device is None else device).eval()
    return scorer


def _safetensors(name):
    try:
        return getattr(import_module('safetensors.torch'), name)
    except ImportError as e:
        raise ImportError("a saved recommender is a safetensors file: pip install 'fastrec-learn[safetensors]'") from e


def _scorers(scorer):
    """A scorer and those that it is made of."""
    yield scorer
    for part in scorer.parts():
        yield from _scorers(part)


def _reads_history(scorer):
    return any(o.reads_history for o in _scorers(scorer))


def _read_manifest(folder):
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f'no recommender in {folder}: there is no {MANIFEST}. save_recommender(learn, folder) writes one'
        )
    try:
        manifest = json.loads(path.read_text(encoding='utf-8'))
        if not isinstance(manifest['format'], int):
            raise ValueError('format is no number')
        if manifest['format'] == FORMAT and not all(
            {'name', 'bytes', 'sha256'} <= manifest['files'][o].keys() for o in ('content', 'tensors')
        ):
            raise ValueError('files are incomplete')
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise ValueError(f'{path} is damaged ({type(e).__name__}: {e}). Copy it again, or save again') from e
    return manifest


def _manifest_files(folder):
    """Names of the files of the recommender that is in `folder`; none if there is none."""
    try:
        return {Path(o['name']).name for o in _read_manifest(folder)['files'].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _sha256(path):
    with open(path, 'rb') as f:
        return (
            hashlib.file_digest(f, 'sha256').hexdigest()
            if hasattr(hashlib, 'file_digest')
            else hashlib.sha256(f.read()).hexdigest()
        )


def _put(source, target):
    """Move a finished file into place: on the disk before it has its name."""
    with open(source, 'rb+') as f:
        os.fsync(f.fileno())
    os.replace(source, target)


def _find_class(name, own=()):
    """The class called `name` among `own` and the rooms of this package, or None."""
    for o in own:
        if o.__name__ == name:
            return o
    for room in _ROOMS:
        module = import_module(f'fastrec.{room}')
        if name in (*module.__all__, *getattr(module, 'SAVED', ())):
            return getattr(module, name)
    return None


# How values look in JSON: None, bool, int, str, finite floats, lists and dicts as they are; whatever else is a dict whose first key says what it is.
_TEXTS = {
    bytes: ('bytes', lambda o: base64.b64encode(o).decode(), base64.b64decode),
    decimal.Decimal: ('decimal', str, decimal.Decimal),
    uuid.UUID: ('uuid', str, uuid.UUID),
    datetime.date: ('date', datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.datetime: ('datetime', datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    pd.Timestamp: ('timestamp', pd.Timestamp.isoformat, pd.Timestamp),
    pd.Timedelta: ('timedelta', pd.Timedelta.isoformat, pd.Timedelta),
}
_FROM_TEXT = {tag: read for tag, _, read in _TEXTS.values()}
_GROUPS = dict(tuple=tuple, set=set, frozenset=frozenset)
_MISSING = {'NaT': pd.NaT, 'NA': pd.NA}
_TAGS = {
    'object',
    'model',
    'same',
    'tensor',
    'array',
    'csr',
    'index',
    'series',
    'frame',
    'dict',
    'float',
    'scalar',
    'missing',
    *_GROUPS,
    *_FROM_TEXT,
}


class _Packer:
    """Turns objects into JSON and a dict of tensors. What occurs twice is written once."""

    def __init__(self, history):
        self.history, self.tensors, self.numbers, self.names, self.kept = history, {}, {}, {}, []

    def pack(self, value, at):  # `at`: where it is, for messages and the names of tensors
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if np.isfinite(value) else {'float': repr(value)}
        if kind is list:
            return [self.pack(o, f'{at}.{i}') for i, o in enumerate(value)]
        if kind is dict:
            if all(type(k) is str for k in value) and next(iter(value), None) not in _TAGS:
                return {k: self.pack(v, f'{at}.{k}') for k, v in value.items()}
            return {
                'dict': [
                    [self.pack(k, f'{at}.{i}.key'), self.pack(v, f'{at}.{i}')] for i, (k, v) in enumerate(value.items())
                ]
            }
        if kind in _GROUPS.values():
            return {kind.__name__: [self.pack(o, f'{at}.{i}') for i, o in enumerate(value)]}
        for name, o in _MISSING.items():
            if value is o:
                return {'missing': name}
        if kind in _TEXTS:
            tag, write, _ = _TEXTS[kind]
            return {tag: write(value)}
        if isinstance(value, np.generic):
            return {'scalar': self._array(np.asarray(value), at)}
        if isinstance(value, torch.Tensor):
            return {'tensor': self._tensor(value.detach(), at)}
        if isinstance(value, np.ndarray):
            return {'array': self._array(value, at)}
        if issparse(value):
            m = csr_matrix(value)
            return {
                'csr': {o: self._array(getattr(m, o), f'{at}.{o}') for o in ('data', 'indices', 'indptr')},
                'shape': list(m.shape),
            }
        if isinstance(value, pd.Index):
            return {'index': self._column(value, at), 'name': self.pack(value.name, f'{at}.name')}
        if isinstance(value, pd.Series):
            return {
                'series': self._column(value, at),
                'name': self.pack(value.name, f'{at}.name'),
                'rows': self.pack(value.index, f'{at}.rows'),
            }
        if isinstance(value, pd.DataFrame):
            return self._frame(value, at)
        if (number := self.numbers.get(id(value))) is not None:
            return {'same': number}
        self.numbers[id(value)] = number = len(self.numbers)
        self.kept.append(value)  # so that its id stays its own
        return {**(self._model if isinstance(value, nn.Module) else self._object)(value, at), 'number': number}

    def _object(self, value, at):
        if isinstance(value, Catalog) and not self.history:
            value = value.without_history()
        if isinstance(value, ModelScorer):
            value = self._portable(value)
        cls = type(value)
        if _find_class(cls.__name__) is not cls and not isinstance(value, Scorer):
            raise TypeError(
                f'{at} is a {cls.__module__}.{cls.__name__}, which cannot be saved without pickle: only plain data, tensors, tables and classes of fastrec can'
            )
        if isinstance(value, tuple):
            state = dict(zip(value._fields, value))
        else:
            cached = {k for c in cls.__mro__ for k, v in vars(c).items() if isinstance(v, cached_property)}
            attributes = value.saved_state() if hasattr(value, 'saved_state') else vars(value)
            state = {
                k: v
                for k, v in attributes.items()
                if k not in cached and not (isinstance(value, Scorer) and k in value.not_saved)
            }
        return {'object': cls.__name__, 'state': {k: self.pack(v, f'{at}.{k}') for k, v in state.items()}}

    def _portable(self, scorer):
        """A scorer with the model that may be given away; of a learner, without what is for training."""
        model = scorer.rec_model.without_history() if self.history else scorer.without_history()
        if _find_class(type(scorer).__name__) is not type(scorer):
            return ModelScorer(model, scorer.catalog, scorer.scale, scorer.item_features)
        res = copy(scorer)
        res.model = model
        return res

    def _model(self, model, at):
        name = type(model).__name__
        return {
            'model': name,
            'config': {k: self.pack(v, f'{at}.config.{k}') for k, v in as_rec_model(model).config().items()},
            'state': {k: self._tensor(v, f'{at}.{k}') for k, v in model.state_dict().items()},
        }

    def _tensor(self, t, at):
        """-> the name of the tensor in the file. The same tensor twice is one; storage is not shared there."""
        key = (t.data_ptr(), tuple(t.shape), t.stride(), t.dtype)
        if t.numel() and key in self.names:
            return self.names[key]
        while at in self.tensors:
            at += "'"
        self.kept.append(t)
        self.names[key], t = at, t.cpu().contiguous()
        self.tensors[at] = t if t.untyped_storage().nbytes() == t.numel() * t.element_size() else t.clone()
        return at

    def _array(self, a, at):
        """-> dtype, shape, and the name of a tensor or, of objects and texts, the values."""
        if a.dtype.kind in 'OSU':
            return dict(
                dtype='object' if a.dtype.kind == 'O' else a.dtype.str,
                shape=list(a.shape),
                values=[self.pack(o, f'{at}.{i}') for i, o in enumerate(a.ravel().tolist())],
            )
        a = a.astype(a.dtype.newbyteorder('='))  # (a copy)
        raw = a.view(f'i{a.dtype.itemsize}') if a.dtype.kind in 'Mmu' else a  # what torch has no type for
        return dict(dtype=a.dtype.str, shape=list(a.shape), tensor=self._tensor(torch.from_numpy(raw), at))

    def _column(self, column, at):
        """Values of an Index or a Series, with the dtype that they have in pandas."""
        dtype = column.dtype
        if isinstance(dtype, pd.CategoricalDtype):
            return dict(
                categories=self._column(dtype.categories, f'{at}.categories'),
                codes=self._array(np.asarray(column.array.codes), f'{at}.codes'),
                ordered=bool(dtype.ordered),
            )
        if isinstance(dtype, pd.DatetimeTZDtype):
            return dict(array=self._array(pd.DatetimeIndex(column).tz_convert(None).to_numpy(), at), tz=str(dtype.tz))
        if isinstance(dtype, np.dtype) and dtype.kind != 'O':
            return dict(array=self._array(column.to_numpy(), at))
        values = enumerate(column.to_numpy(dtype=object).tolist())
        if isinstance(dtype, np.dtype):
            return dict(values=[self.pack(o, f'{at}.{i}') for i, o in values], dtype='object')
        return dict(values=[None if pd.isna(o) else self.pack(o, f'{at}.{i}') for i, o in values], dtype=str(dtype))

    def _frame(self, df, at):
        columns = []
        for i, name in enumerate(df.columns):
            before = set(self.tensors)
            try:
                columns.append([self.pack(name, f'{at}.{i}.name'), self._column(df.iloc[:, i], f'{at}.{name}')])
            except TypeError as e:
                self.tensors = {k: v for k, v in self.tensors.items() if k in before}
                warn(f'column {name!r} of {at.rsplit(".", 1)[-1]} is left out: {e}')
        return {'frame': columns, 'rows': self.pack(df.index, f'{at}.rows')}


class _Unpacker:
    """The inverse of `_Packer`."""

    def __init__(self, tensors, own):
        self.tensors, self.own, self.made = tensors, own, {}

    def unpack(self, value):
        if isinstance(value, list):
            return [self.unpack(o) for o in value]
        if not isinstance(value, dict):
            return value
        tag = next(iter(value), None)
        if tag not in _TAGS:
            return {k: self.unpack(v) for k, v in value.items()}
        of = value[tag]
        if tag in _FROM_TEXT:
            return _FROM_TEXT[tag](of)
        if tag in _GROUPS:
            return _GROUPS[tag](self.unpack(o) for o in of)
        if tag == 'dict':
            return {self.unpack(k): self.unpack(v) for k, v in of}
        if tag == 'float':
            return float(of)
        if tag == 'missing':
            return _MISSING[of]
        if tag == 'scalar':
            return self._array(of)[()]
        if tag == 'tensor':
            return self.tensors[of]
        if tag == 'array':
            return self._array(of)
        if tag == 'csr':
            return csr_matrix(
                tuple(self._array(of[o]) for o in ('data', 'indices', 'indptr')), shape=tuple(value['shape'])
            )
        if tag == 'index':
            return pd.Index(self._column(of), name=self.unpack(value['name']))
        if tag == 'series':
            return pd.Series(self._column(of), index=self.unpack(value['rows']), name=self.unpack(value['name']))
        if tag == 'frame':
            return self._frame(of, self.unpack(value['rows']))
        if tag == 'same':
            return self.made[of]
        return (self._object if tag == 'object' else self._model)(self._class(of), value)

    def _class(self, name):
        if (cls := _find_class(name, self.own)) is not None:
            return cls
        raise ValueError(
            f'the recommender holds a {name}, which fastrec {__version__} does not know. If it is a class of your own: load_recommender(folder, classes=[{name}])'
        )

    def _object(self, cls, value):
        if issubclass(cls, tuple):
            return cls(**self.unpack(dict(value['state'])))
        if cls is Catalog:
            res = self.made[value['number']] = Catalog.from_saved(
                {k: self.unpack(v) for k, v in value['state'].items()}
            )
            return res
        res = self.made[value['number']] = object.__new__(cls)
        res.__dict__.update({k: self.unpack(v) for k, v in value['state'].items()})
        return res

    def _model(self, cls, value):
        res = self.made[value['number']] = cls(**{k: self.unpack(v) for k, v in value['config'].items()})
        res.load_state_dict({k: self.tensors[v] for k, v in value['state'].items()})
        return res

    def _array(self, of):
        if 'tensor' in of:
            return self.tensors[of['tensor']].numpy().view(of['dtype']).reshape(of['shape'])
        return _objects(self.unpack(o) for o in of['values']).astype(of['dtype']).reshape(of['shape'])

    def _column(self, of):
        if 'tz' in of:
            return pd.DatetimeIndex(self._array(of['array'])).tz_localize('UTC').tz_convert(of['tz'])
        if 'array' in of:
            return self._array(of['array'])
        if 'codes' in of:
            return pd.Categorical.from_codes(
                self._array(of['codes']), pd.Index(self._column(of['categories'])), ordered=of['ordered']
            )
        values = _objects(self.unpack(o) for o in of['values'])
        return pd.Series(values, dtype=object).array if of['dtype'] == 'object' else pd.array(values, dtype=of['dtype'])

    def _frame(self, columns, rows):
        res = pd.DataFrame(
            {i: pd.Series(self._column(of), index=rows) for i, (_, of) in enumerate(columns)}, index=rows
        )
        res.columns = pd.Index([self.unpack(name) for name, _ in columns])
        return res


def _objects(values):
    """An array of objects, (n,), also where they are sequences."""
    values = list(values)
    res = np.empty(len(values), dtype=object)
    for i, o in enumerate(values):
        res[i] = o
    return res
