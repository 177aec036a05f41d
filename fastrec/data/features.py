"""What is known about items and users: a metadata table becomes named blocks of numbers, keyed by id.

A block has a row per id and says for which ids it knows anything (`present`), so that missing metadata is never a value. Transforms are
scikit-learn's, fitted on the table given and kept for new rows (`transform`); sparse blocks stay sparse."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from warnings import warn

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, hstack, issparse

from ..progress import Progress
from .block import Block
from .columns import KNOWN_NAMES, first_few, normal_name, plain_values
from .images import ImageEncoder
from .interactions import Vocab

__all__ = ['ItemFeatures', 'UserFeatures']

_KINDS = ('text', 'multilabel', 'category', 'flag', 'numeric', 'vectors', 'images')
_NEAR_TARGETS = (
    'rating',
    'ratings',
    'averagerating',
    'imdbrating',
    'imdbvotes',
    'votes',
    'voteaverage',
    'votecount',
    'numvotes',
    'metascore',
    'awards',
    'boxoffice',
    'popularity',
)


def _missing(values):
    return pd.isna(values) if not isinstance(values, (list, tuple, set, frozenset, np.ndarray, dict)) else False


def _texts(columns):
    """One text per row from all `columns`, '' where none has any."""
    parts = [['' if _missing(o) else str(o).strip() for o in c] for c in columns]
    return [' '.join(filter(None, row)) for row in zip(*parts)]


def _itself(o):
    return o


def _tfidf(**options):
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        sublinear_tf=True, stop_words='english', dtype=np.float32, strip_accents='unicode', **options
    )


class _Text:
    """Texts by TF-IDF, of which words and their weights are kept, or by an encoder of the user's (`given`)."""

    lost = None  # the name of an encoder that did not travel with a saved recommender

    def __init__(self, encoder, min_df, max_features):
        self.given, self.options = encoder, dict(min_df=min_df, max_features=max_features)

    @cached_property
    def encoder(self):
        if self.given is not None:
            return self.given
        res = _tfidf(vocabulary=self.words)
        res.idf_ = self.idf
        return res

    def fit(self, columns):
        texts = _texts(columns)
        some = [o for o in texts if o]
        fresh = _tfidf(**self.options) if self.given is None else self.given
        if hasattr(fresh, 'fit'):  # a scikit-learn transformer
            try:
                fresh.fit(some)
            except ValueError as e:
                if not any(o in str(e) for o in ('vocabulary', 'min_df', 'no terms remain')):
                    raise
                raise ValueError(
                    f"no word is left: each has to occur in min_df={self.options['min_df']} of the {len(some):,} texts, and common English words don't count. Lower min_df, or take category= for a column of single names"
                ) from e
            if hasattr(fresh, 'stop_words_'):
                del fresh.stop_words_  # large, and of no use any more
            if self.given is None:
                self.words, self.idf = fresh.get_feature_names_out().tolist(), fresh.idf_
        else:
            self.scaler = _Scaler().fit(self._encode(some))
        return self

    def _encode(self, texts):
        """Vectors of texts that are not empty."""
        if self.lost:
            raise ValueError(
                f'the texts went through a {self.lost} of your own, which a saved recommender does not hold: '
                + (
                    'encode the new ones with it and pass the vectors by id, add_items(table, vectors={name of the block: {id: vector}})'
                    if hasattr(self, 'scaler')
                    else 'learn.export and load_learner keep it'
                )
            )
        encode = getattr(self.encoder, 'transform', None) or getattr(self.encoder, 'encode', None) or self.encoder
        res = encode(texts)
        if hasattr(res, 'detach'):
            res = res.detach().cpu().numpy()
        if not issparse(res):
            res = np.asarray(res, dtype=np.float32)
        if res.ndim != 2 or res.shape[0] != len(texts):
            raise ValueError(
                f'the text encoder gave an array of shape {res.shape} for {len(texts):,} texts: expected (texts, dimensions)'
            )
        return res

    def apply(self, columns):
        texts = _texts(columns)
        at = np.flatnonzero([bool(o) for o in texts])
        if not len(at):
            values = (
                csr_matrix((0, self.width), dtype=np.float32) if self.sparse else np.zeros((0, self.width), np.float32)
            )
        else:
            values = self._encode([texts[i] for i in at])
        if not issparse(values) and hasattr(self, 'scaler'):
            values = self.scaler.apply(values)
        self.sparse, self.width = issparse(values), values.shape[1]
        return _spread(values, at, len(texts))

    @property
    def names(self):
        return (
            None
            if self.lost
            else list(self.encoder.get_feature_names_out())
            if hasattr(self.encoder, 'get_feature_names_out')
            else None
        )

    def saved_state(self):
        return _without(self, 'given')


def _without(transform, name):
    """Attributes that a saved recommender can hold: all but an encoder of the user's own, whose name is kept."""
    own = getattr(transform, name, None)
    if own is None or (hasattr(own, 'saved_state') and own.saved_state() is not None):
        return {k: v for k, v in vars(transform).items() if k != 'encoder' or name == 'encoder'}
    return {**{k: v for k, v in vars(transform).items() if k != 'encoder'}, name: None, 'lost': type(own).__name__}


def _spread(values, at, n):
    """-> values (n, d) with `values` in the rows `at`, present (n,): rows that hold anything but zeros."""
    values = csr_matrix(values, dtype=np.float32) if issparse(values) else values.astype(np.float32)
    if issparse(values):
        values.sort_indices()
    place = np.full(n, -1)
    place[at] = np.arange(len(at))
    anything = np.diff(values.indptr) > 0 if issparse(values) else np.ones(len(at), bool)
    return (block := Block(values, anything, '').rows(place)).values, block.present


class _Scaler:
    """Vectors centred, and scaled so that their mean squared length is 1: embeddings of most encoders point the same way, which says nothing."""

    def fit(self, x):
        self.mean = x.mean(0, dtype=np.float64).astype(np.float32) if len(x) > 1 else np.zeros(x.shape[1], np.float32)
        self.scale = float(np.sqrt(((x - self.mean) ** 2).sum(1, dtype=np.float64).mean())) or 1.0
        return self

    def apply(self, x):
        return (x - self.mean) / self.scale


def _one_hot(**options):
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(analyzer=_itself, binary=True, dtype=np.float32, **options)


class _Multilabel:
    def __init__(self, sep, min_df):
        self.sep, self.min_df = sep, min_df

    def _labels(self, columns):
        return [[label for value in row for label in self._split(value)] for row in zip(*columns)]

    def _split(self, value):
        if _missing(value):
            return []
        if isinstance(value, str):
            parts = value.split(self.sep) if self.sep else [value]
        elif isinstance(value, dict) or not hasattr(value, '__iter__'):
            raise ValueError(
                f'a multilabel column holds lists or texts such as "a|b", got {value!r}. For single values take category='
            )
        else:
            parts = value
        return [o for o in (str(p).strip() for p in parts if not _missing(p)) if o]

    def fit(self, columns):
        if self.sep is None:  # the first usual separator that a tenth of the texts have
            texts = [o for c in columns for o in c if isinstance(o, str)]
            self.sep = next((s for s in '|;,' if texts and np.mean([s in o for o in texts]) >= 0.1), '')
        labels, vectorizer = self._labels(columns), _one_hot(min_df=self.min_df)
        try:
            self.names = vectorizer.fit(labels).get_feature_names_out().tolist()
        except ValueError as e:
            raise ValueError(
                f'no label is left: each has to occur in min_df={self.min_df} of {len(labels):,} rows. Lower min_df, or say how labels are divided: sep='
            ) from e
        return self

    def apply(self, columns):
        labels = self._labels(columns)
        return _spread(_one_hot(vocabulary=self.names).transform(labels), np.arange(len(labels)), len(labels))


class _Category(_Multilabel):
    """One-hot columns; with several columns of a table the labels say which they belong to."""

    def __init__(self, min_df):
        super().__init__('', min_df)

    def _labels(self, columns):
        return [
            [f'{i}={o}' if len(columns) > 1 else str(o) for i, o in enumerate(row) if not _missing(o)]
            for row in zip(*map(plain_values, columns))
        ]

    def fit(self, columns):
        self.sep = ''
        return super().fit(columns)


_TRUE, _FALSE = {'true', 't', 'yes', 'y', '1', '1.0'}, {'false', 'f', 'no', 'n', '0', '0.0'}


class _Flag:
    names = None

    def fit(self, columns):
        return self

    def apply(self, columns):
        values, present = [], []
        for c in columns:
            known = ~pd.isna(np.asarray(c, dtype=object))
            lower = [str(o).strip().lower() for o in c]
            if bad := {o for o, k in zip(lower, known) if k and o not in _TRUE | _FALSE}:
                raise ValueError(
                    f'a flag is true or false, yes or no, 1 or 0; got {first_few(sorted(bad))}. For other values take category= or numeric='
                )
            values.append([o in _TRUE and k for o, k in zip(lower, known)])
            present.append(known)
        return _with_gaps(np.array(values, dtype=np.float32).T, np.array(present).T)


def _with_gaps(values, known):
    """Columns side by side; where a row knows some but not all of several columns, a column each says which are missing."""
    values = np.where(known, values, 0).astype(np.float32)
    present = known.any(1)
    if known.shape[1] > 1:
        values = np.hstack([values, (~known & present[:, None]).astype(np.float32)])
    return values, present


class _Numeric:
    names = None

    def __init__(self, log1p):
        self.log1p = log1p

    @staticmethod
    def _numbers(c):
        s = pd.Series(c)
        if s.dtype == object or pd.api.types.is_string_dtype(s.dtype):
            numbers = pd.to_numeric(s, errors='coerce')
            if (bad := numbers.isna() & s.notna()).any():
                raise ValueError(
                    f'a numeric column holds {first_few(s[bad].unique())}, which are no numbers. Convert it first, e.g. `df[column].str.extract(r"(\\d+)")[0].astype(float)`'
                )
            s = numbers
        if pd.api.types.is_datetime64_any_dtype(s.dtype):
            raise ValueError('a numeric column holds dates: take a number of them, e.g. `df[column].dt.year`')
        x = s.to_numpy(dtype=np.float64, na_value=np.nan)
        return np.where(np.isfinite(x), x, np.nan)

    def fit(self, columns):
        from sklearn.preprocessing import StandardScaler

        x = np.column_stack([self._numbers(c) for c in columns])
        if np.isnan(x).all(0).any():
            raise ValueError('a numeric column has no value at all')
        self.logs = [_looks_like_counts(c) if self.log1p is None else bool(self.log1p) for c in x.T]
        scaler = StandardScaler().fit(self._log(x))
        self.mean, self.scale = scaler.mean_, scaler.scale_
        return self

    def _log(self, x):
        for i, log in enumerate(self.logs):
            if log:
                x[:, i] = np.log1p(np.maximum(x[:, i], 0))
        return x

    def apply(self, columns):
        x = (self._log(np.column_stack([self._numbers(c) for c in columns])) - self.mean) / self.scale
        return _with_gaps(np.clip(x, -10, 10), ~np.isnan(x))


def _looks_like_counts(x):
    """Whole numbers from 0 on with a long right tail."""
    x = x[~np.isnan(x)]
    if not len(x) or x.min() < 0 or (x != np.round(x)).any() or x.std() == 0:
        return False
    return ((x - x.mean()) ** 3).mean() / x.std() ** 3 > 1 and x.max() > 10 * max(np.median(x), 1)


class _Vectors:
    """Vectors by id, in a column, or of images by an encoder."""

    names = encoder = lost = None

    def saved_state(self):
        return _without(self, 'encoder')

    def rows(self, source, ids):
        """-> vectors (m, d) of those of `ids` that `source` has, and their positions."""
        if isinstance(source, pd.DataFrame):
            source = (source.index, source.to_numpy())
        if isinstance(source, dict):
            source = (list(source), list(source.values()))
        if not isinstance(source, tuple) or len(source) != 2:
            raise TypeError(
                f'vectors come as a dict id -> vector, a DataFrame with the ids as its index, a pair (ids, array), or the name of a column that holds them; got {type(source).__name__}'
            )
        keys, x = source
        keys, at = pd.Index(plain_values(keys)), np.full(len(ids), -1)
        if not keys.is_unique:
            raise ValueError(f'several vectors for the same id: {first_few(keys[keys.duplicated()].unique())}')
        at = keys.get_indexer(ids)
        return self._array([x[i] for i in at[at >= 0]]), np.flatnonzero(at >= 0)

    @staticmethod
    def _array(x):
        if hasattr(x, 'detach'):
            x = x.detach().cpu().numpy()
        x = [o.detach().cpu().numpy() if hasattr(o, 'detach') else o for o in x]
        try:
            x = np.asarray(x, dtype=np.float32)
        except ValueError as e:
            raise ValueError(f'the vectors differ in length, or hold something that is no number: {e}') from e
        if len(x) and (x.ndim != 2 or not np.isfinite(x).all()):
            raise ValueError('vectors have to be rows of finite numbers of one length')
        return x

    def fit(self, x):
        if not len(x):
            raise ValueError('no id of the table has a vector: do the ids of both look alike?')
        self.scaler, self.width = _Scaler().fit(x), x.shape[1]
        return self

    def apply(self, x, at, n):
        if len(x) and x.shape[1] != self.width:
            raise ValueError(f'vectors of length {x.shape[1]}, those fitted have length {self.width}')
        return _spread(self.scaler.apply(x) if len(x) else np.zeros((0, self.width), np.float32), at, n)


def _named(spec):
    """-> {block: [columns]} of a column, a list of columns (a block each), or a dict block -> column(s)."""
    if spec is None:
        return {}
    if isinstance(spec, dict):
        return {k: list(v) if isinstance(v, (list, tuple)) else [v] for k, v in spec.items()}
    return {o: [o] for o in ([spec] if isinstance(spec, str) or not hasattr(spec, '__iter__') else spec)}


def _vector_sources(spec):
    """-> {block: source} of what `vectors=` takes."""
    if spec is None:
        return {}
    if isinstance(spec, str):
        return {spec: spec}
    if (
        isinstance(spec, dict)
        and spec
        and all(isinstance(k, str) and isinstance(v, (str, dict, pd.DataFrame, tuple)) for k, v in spec.items())
    ):
        return dict(spec)
    return {'vectors': spec}


class Features:
    """Named blocks of metadata with a row per id; `ItemFeatures` and `UserFeatures` are made by `from_df`.

    `feats['genres']` is a `Block`, `feats[['genres', 'year']]` the features with these blocks only, `feats.align(vocab)` the features with a row per code.
    """

    side = None

    def __init__(self, ids, blocks, transforms):
        self.ids, self.blocks, self.transforms = pd.Index(ids), blocks, transforms

    @classmethod
    def from_df(
        cls,
        df: pd.DataFrame,  # a row per id
        text=None,  # columns of text: TF-IDF, or what `text_encoder` makes of them
        multilabel=None,  # columns with several labels: lists, or texts such as 'Action|Comedy'
        category=None,  # columns with one label
        flag=None,  # columns of true and false
        numeric=None,  # columns of numbers, standardised; counts with a long tail as log(1 + x)
        vectors=None,  # precomputed embeddings: a column that holds them, a dict id -> vector, a DataFrame with ids as its index, a pair (ids, array), or a dict block -> one of these
        images=None,  # columns of paths to image files
        id_name: str = None,  # column of ids; by default found by its usual name, else the index
        text_encoder=None,  # in place of TF-IDF: a function list of texts -> array, something with `encode` (sentence-transformers), or a scikit-learn transformer
        image_encoder=None,  # by default `ImageEncoder()`: a pre-trained ResNet18, vectors cached on disk
        sep: str = None,  # between labels of a text; by default the first of '|', ';', ',' that is common
        min_df: int = 2,  # words, labels and categories that fewer rows have are left out: they tell nothing about other rows
        max_features: int = 50_000,  # words kept, the most frequent ones
        log1p: bool = None,  # numeric columns as log(1 + x); None: those that look like counts
    ):
        """Features of a table. A kind takes a column, a list of columns (a block each, named after the column), or a dict block -> columns that make one block together.

        Never give what stands for the answer (average ratings, numbers of votes, awards): such columns are warned of.
        """
        ids = cls._ids(df, id_name)
        asked = {
            'text': _named(text),
            'multilabel': _named(multilabel),
            'category': _named(category),
            'flag': _named(flag),
            'numeric': _named(numeric),
            'vectors': _vector_sources(vectors),
            'images': _named(images),
        }
        names = [name for kind in _KINDS for name in asked[kind]]
        if not names:
            raise ValueError(
                f'which columns tell something about a {cls.side}? Name them, e.g. text="title", multilabel="genres", numeric="year". Columns: {first_few(df.columns, 20)}'
            )
        if twice := {o for o in names if names.count(o) > 1}:
            raise ValueError(
                f'two blocks are called {first_few(twice)}: give one another name with a dict, e.g. text={{"words": {next(iter(twice))!r}}}'
            )
        make = {
            'text': lambda: _Text(_fresh(text_encoder), min_df, max_features),
            'multilabel': lambda: _Multilabel(sep, min_df),
            'category': lambda: _Category(min_df),
            'flag': _Flag,
            'numeric': lambda: _Numeric(log1p),
            'vectors': _Vectors,
            'images': _Vectors,
        }
        transforms = {}
        for kind in _KINDS:
            for name, columns in asked[kind].items():
                in_table = (
                    []
                    if kind == 'vectors' and not isinstance(columns, str)
                    else [columns]
                    if isinstance(columns, str)
                    else columns
                )
                if gone := [c for c in in_table if c not in df.columns]:
                    raise ValueError(
                        f'no column {first_few(gone)} ({kind}=) in the table. Its columns are: {first_few(df.columns, 20)}'
                    )
                if near := [c for c in in_table if normal_name(c) in _NEAR_TARGETS]:
                    warn(
                        f'{first_few(near)} look(s) like an outcome of ratings, not like something known beforehand: a model that reads it is judged too well',
                        stacklevel=2,
                    )
                transforms[name] = (kind, make[kind](), in_table)
        encoder = (image_encoder or ImageEncoder()) if asked['images'] else None
        res = cls(ids, {}, transforms)
        with Progress(len(transforms), 'features', 'blocks') as bar:
            for name, (kind, t, columns) in transforms.items():
                try:
                    res.blocks[name] = res._block(df, ids, name, asked['vectors'].get(name), encoder, fit=True)
                except ValueError as e:
                    raise ValueError(f'{kind} block {name!r}: {e}') from e
                bar.update()
        gaps = [f'{name} {n:,}' for name, b in res.blocks.items() if (n := int((~b.present).sum()))]
        if gaps:
            warn(
                f'{cls.side}s of {len(ids):,} without a value, by block: {", ".join(gaps)}. They are marked as missing',
                stacklevel=2,
            )
        return res

    @classmethod
    def _ids(cls, df, id_name):
        if not isinstance(df, pd.DataFrame):
            raise TypeError(f'expected a DataFrame with a row per {cls.side}, got {type(df).__name__}')
        if id_name is not None and id_name not in df.columns:
            raise ValueError(
                f'no column {id_name!r} (id_name=) in the table. Its columns are: {first_few(df.columns, 20)}'
            )
        norm = {normal_name(c): c for c in reversed(df.columns)}
        column = id_name or next((norm[o] for o in (*KNOWN_NAMES[cls.side], 'id') if o in norm), None)
        if column is None and df.index.name is None:
            raise ValueError(
                f'which column holds the {cls.side} ids? Pass id_name=, one of: {first_few(df.columns, 20)}'
            )
        ids = pd.Index(plain_values(df.index.to_series() if column is None else df[column]))
        if ids.hasnans:
            raise ValueError(f'{int(ids.isna().sum()):,} rows of the table have no {cls.side} id')
        if not ids.is_unique:
            raise ValueError(
                f'the table has several rows for the same {cls.side}: {first_few(ids[ids.duplicated()].unique())}. Keep one each: `df.drop_duplicates({column!r})`'
            )
        return ids

    def _block(self, df, ids, name, source, encoder=None, fit=False):
        kind, t, columns = self.transforms[name]
        if isinstance(source, str):
            source = None  # a column
        if kind in ('vectors', 'images'):
            if source is not None:
                x, at = t.rows(source, ids)
            elif kind == 'images':
                if fit:
                    t.encoder = encoder
                if t.lost:
                    raise ValueError(
                        f'the images went through a {t.lost} of your own, which a saved recommender does not hold: encode the new ones with it and pass the vectors by id, add_items(table, vectors={{{name!r}: {{id: vector}}}})'
                    )
                cells = df[columns[0]].to_numpy(dtype=object)
                at = np.flatnonzero([not _missing(o) and Path(o).is_file() for o in cells])
                x = t.encoder(cells[at])
            elif columns:
                cells = df[columns[0]].to_numpy(dtype=object)
                at = np.flatnonzero([not _missing(o) for o in cells])
                x = t._array(list(cells[at]))
            if fit:
                t.fit(x)
            values, present = t.apply(x, at, len(ids))
        elif source is not None:
            x, at = _Vectors().rows(source, ids)
            if not hasattr(t, 'scaler') or (len(x) and x.shape[1] != t.width):
                raise ValueError(
                    f'block {name!r} cannot be had as vectors'
                    + (
                        f' of length {x.shape[1]}: it has {t.width}'
                        if hasattr(t, 'scaler')
                        else ': scikit-learn made it of words'
                    )
                )
            values, present = _spread(t.scaler.apply(x) if len(x) else np.zeros((0, t.width), np.float32), at, len(ids))
        else:
            cells = [list(df[c]) if kind != 'numeric' else df[c] for c in columns]
            values, present = (t.fit(cells) if fit else t).apply(cells)
        return Block(values, present, kind, t.names)

    def transform(
        self,
        df: pd.DataFrame,  # a row per new id, with the columns of the table that was fitted
        vectors=None,  # for blocks of vectors that came by id: their source for the new ids; for texts and images that an encoder turned into vectors, what it makes of the new ones
        id_name: str = None,  # column of ids
    ):
        """The same blocks for new rows, by the transforms that were fitted. A column that is not there counts as missing; unknown words and labels are left out."""
        ids, sources = self._ids(df, id_name), _vector_sources(vectors)
        if foreign := [
            o for o in sources if o not in self.transforms or self.transforms[o][0] not in ('vectors', 'text', 'images')
        ]:
            raise ValueError(
                f'no block of vectors is called {first_few(foreign)}: the blocks are {first_few(self.names)}'
            )
        blocks, gone = {}, []
        for name, (kind, t, columns) in self.transforms.items():
            if name not in sources and (not columns or any(c not in df.columns for c in columns)):
                gone.append(name)
                old = self.blocks[name]
                blocks[name] = old.rows(np.full(len(ids), -1))
            else:
                blocks[name] = self._block(df, ids, name, sources.get(name))
        if len(gone) == len(self.transforms):
            raise ValueError(
                f'the table has none of the columns that the features were made of: {first_few([c for _, _, cs in self.transforms.values() for c in cs], 20)}; it has {first_few(df.columns, 20)}'
            )
        res = type(self)(ids, blocks, self.transforms)
        gaps = [f'{name} {n:,}' for name, b in blocks.items() if (n := int((~b.present).sum()))]
        if gaps:
            warn(
                f'{self.side}s of {len(ids):,} without a value, by block: {", ".join(gaps)}'
                + (f' (not in the table: {first_few(gone)})' if gone else '')
                + '. They are marked as missing',
                stacklevel=2,
            )
        return res

    def align(self, vocab):
        """The same with a row per code of `vocab` (a `Vocab`, or ids in the order wanted). Ids without metadata have no block present and are warned of."""
        ids = vocab.ids if isinstance(vocab, Vocab) else pd.Index(plain_values(vocab))
        if self.ids.equals(ids):
            return self
        at = self.ids.get_indexer(ids)
        if len(ids) and len(self.ids) and (at < 0).all():
            raise ValueError(
                f'no {self.side} of the ratings has features: ids there look like {first_few(ids, 3)}, in the features like {first_few(self.ids, 3)}'
            )
        if n := int((at < 0).sum()):
            warn(
                f'{n:,} of {len(ids):,} {self.side}s have no row in the features: nothing is known about them but their ratings',
                stacklevel=2,
            )
        return type(self)(ids, {name: b.rows(at) for name, b in self.blocks.items()}, self.transforms)

    def without_rows(self):
        """The fitted transforms alone."""
        return type(self)(
            self.ids[:0], {name: b.rows(np.zeros(0, np.int64)) for name, b in self.blocks.items()}, self.transforms
        )

    def __len__(self):
        return len(self.ids)

    def __iter__(self):
        return iter(self.blocks)

    def __contains__(self, name):
        return name in self.blocks

    @property
    def names(self) -> list:
        return list(self.blocks)

    def __getitem__(self, name):
        names = [name] if isinstance(name, str) else list(name)
        if unknown := [o for o in names if o not in self.blocks]:
            raise KeyError(f'no block {first_few(unknown)}: there are {first_few(self.names, 20)}')
        return (
            self.blocks[name]
            if isinstance(name, str)
            else type(self)(self.ids, {o: self.blocks[o] for o in names}, {o: self.transforms[o] for o in names})
        )

    def __repr__(self):
        return f'{type(self).__name__}({len(self):,} {self.side}s: {", ".join(f"{name} {b.width:,}" for name, b in self.blocks.items())})'

    def summary(self) -> pd.DataFrame:
        """A row per block: kind, columns (width), sparse, present (rows), missing, per_row (mean number of entries of a present row)."""
        count = lambda b: b.values.nnz if b.sparse else np.count_nonzero(b.values)
        return pd.DataFrame(
            [
                dict(
                    block=name,
                    kind=b.kind,
                    columns=b.width,
                    sparse=b.sparse,
                    present=int(b.present.sum()),
                    missing=int((~b.present).sum()),
                    per_row=round(count(b) / max(b.present.sum(), 1), 1),
                )
                for name, b in self.blocks.items()
            ]
        ).set_index('block')

    def matrix(self, unit: bool = True) -> csr_matrix:
        """All blocks side by side, float32 CSR (n, sum of widths); with `unit` each block's rows have length 1 (see `Block.unit`), so that a cosine weighs blocks alike."""
        return hstack(
            [csr_matrix(b.unit() if unit else b.values) for b in self.blocks.values()], format='csr', dtype=np.float32
        )

    def column_names(self) -> list:
        """Names of the columns of `matrix`: 'block=label', 'block' or 'block[i]'."""
        label = lambda name, b: (
            [f'{name}={o}' for o in b.names]
            if b.names
            else [name]
            if b.width == 1
            else [f'{name}[{i}]' for i in range(b.width)]
        )
        return [o for name, b in self.blocks.items() for o in label(name, b)]


def _fresh(encoder):
    """A scikit-learn transformer is fitted per block: a copy each."""
    if not hasattr(encoder, 'fit') or not hasattr(encoder, 'get_params'):
        return encoder
    from sklearn.base import clone

    return clone(encoder)


SAVED = (
    '_Text',
    '_Multilabel',
    '_Category',
    '_Flag',
    '_Numeric',
    '_Vectors',
    '_Scaler',
)  # classes of a saved recommender, beside those of `__all__`


class ItemFeatures(Features):
    """Metadata of items as named blocks; see `from_df`."""

    side = 'item'


class UserFeatures(Features):
    """Metadata of users (age, gender, occupation) as named blocks; see `from_df`."""

    side = 'user'
