"""Columns of a table to numbers: for each kind of column a transform that is fitted once and kept for new rows.

Transforms are scikit-learn's where it has them, kept as plain data (words, weights, means) so that a saved recommender
can hold them; sparse values stay sparse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix, issparse

from .block import Block
from .columns import EXACT_FLOATS, first_few, plain_values

__all__ = []
# Classes that a saved recommender names. In folders that are on disk they have these names: they stay.
SAVED = ('_Text', '_Multilabel', '_Category', '_Flag', '_Numeric', '_Vectors', '_Scaler')

Columns: TypeAlias = Sequence[Iterable]  # cells of the columns that make one block, (n,) each
Values: TypeAlias = csr_matrix | np.ndarray  # (n, d)


class Savable:
    """What a saved recommender can hold: it says with `saved_state` which of its attributes."""

    def saved_state(self) -> dict[str, Any] | None:
        """The attributes that a saved recommender holds; None where it cannot be saved. By default all of them."""
        return vars(self)


class _Transform(Savable):
    """Columns to a block's values: `fit` on the table, then `apply` to it and to new rows."""

    names: list[str] | None = None  # of the columns that it makes, where they have any
    scaler: _Scaler | None = None  # of vectors that an encoder made
    lost: str | None = None  # the name of an encoder of the user's own that a saved recommender did not hold

    def fit(self, columns: Columns) -> _Transform:
        """Learn from the columns what `apply` needs; `ValueError` where they hold nothing to learn from."""
        return self

    def apply(self, columns: Columns) -> tuple[Values, np.ndarray]:
        """-> values (n, d) float32, and present (n,): is anything known of the row? Others are 0."""
        raise NotImplementedError

    def column_names(self) -> list[str] | None:
        """Names of the d columns; None where they have none."""
        return self.names


def is_missing(cell: Any) -> bool:
    """Is a cell None, NaN, NaT or NA? Whatever has several values is not."""
    return not isinstance(cell, (list, tuple, set, frozenset, np.ndarray, dict)) and pd.isna(cell)


def _can_be_saved(encoder: object) -> bool:
    """Does a saved recommender hold this encoder (or is there none)? One of the user's own it does not."""
    return encoder is None or (isinstance(encoder, Savable) and encoder.saved_state() is not None)


def _spread(values: Values, at: np.ndarray, n: int) -> tuple[Values, np.ndarray]:
    """Values (m, d) of the rows `at` among `n` -> values (n, d) float32, present (n,).

    A sparse row of zeros only is not present.
    """
    if issparse(values):
        rows = csr_matrix(values, dtype=np.float32)
        rows.sort_indices()
        present = np.diff(rows.indptr) > 0
    else:
        rows = values.astype(np.float32)
        present = np.ones(len(at), bool)
    row_of = np.full(n, -1)
    row_of[at] = np.arange(len(at))
    block = Block(rows, present, kind='').rows(row_of)
    return block.values, block.present


# --- text


def _texts(columns: Columns) -> list[str]:
    """One text per row from all `columns`, '' where none has any."""
    parts = [['' if is_missing(cell) else str(cell).strip() for cell in column] for column in columns]
    return [' '.join(filter(None, row)) for row in zip(*parts)]


def _tfidf(**options):
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        sublinear_tf=True, stop_words='english', dtype=np.float32, strip_accents='unicode', **options
    )


def _as_function(encoder: Any) -> Callable:
    """What makes vectors of texts: scikit-learn's `transform`, `encode` as in sentence-transformers, or a function."""
    for name in ('transform', 'encode'):
        method = getattr(encoder, name, None)
        if method is not None:
            return method
    return encoder


class _Text(_Transform):
    """Texts by TF-IDF, of which words and their weights are kept, or by an encoder of the user's (`given`)."""

    words: list[str]  # of TF-IDF
    idf: np.ndarray  # (len(words),)
    sparse: bool  # are the values that `apply` made last?
    width: int  # d

    def __init__(
        self,
        encoder: Any,  # a function, something with `encode`, a scikit-learn transformer; None: TF-IDF
        min_df: int,  # of TF-IDF: texts that a word has to occur in
        max_features: int,  # of TF-IDF: words kept
    ) -> None:
        self.given = encoder
        self.options = dict(min_df=min_df, max_features=max_features)

    @cached_property
    def encoder(self) -> Any:
        """What `_encode` goes through: the one given, or TF-IDF with the words that were fitted."""
        if self.given is not None:
            return self.given
        res = _tfidf(vocabulary=self.words)
        res.idf_ = self.idf
        return res

    def fit(self, columns: Columns) -> _Text:
        """Learn the words, or the scale of the encoder's vectors."""
        texts = [o for o in _texts(columns) if o]
        if self.given is None:
            vectorizer = _tfidf(**self.options)
            self._fit_words(vectorizer, texts)
            self.words = vectorizer.get_feature_names_out().tolist()
            self.idf = vectorizer.idf_
        elif hasattr(self.given, 'fit'):  # a scikit-learn transformer
            self._fit_words(self.given, texts)
        else:
            self.scaler = _Scaler().fit(self._encode(texts))
        return self

    def _fit_words(self, vectorizer: Any, texts: list[str]) -> None:
        """Fit a scikit-learn transformer, whose errors are said in words of this package."""
        try:
            vectorizer.fit(texts)
        except ValueError as e:
            if not any(o in str(e) for o in ('vocabulary', 'min_df', 'no terms remain')):
                raise
            raise ValueError(
                f'no word is left: each has to occur in min_df={self.options["min_df"]} of the {len(texts):,} texts, '
                "and common English words don't count. Lower min_df, or take category= for a column of single names"
            ) from e
        vars(vectorizer).pop('stop_words_', None)  # of older scikit-learns: large, and of no use any more

    def _encode(self, texts: list[str]) -> Values:
        """Vectors (len(texts), d) of texts that are not empty."""
        if self.lost:
            if self.scaler is None:
                way_out = 'learn.export and load_learner keep it'
            else:
                way_out = (
                    'encode the new ones with it and pass the vectors by id, '
                    'add_items(table, vectors={name of the block: {id: vector}})'
                )
            raise ValueError(
                f'the texts went through a {self.lost} of your own, which a saved recommender does not hold: {way_out}'
            )
        res = _as_function(self.encoder)(texts)
        if isinstance(res, torch.Tensor):
            res = res.detach().cpu().numpy()
        if not issparse(res):
            res = np.asarray(res, dtype=np.float32)
        if res.ndim != 2 or res.shape[0] != len(texts):
            raise ValueError(
                f'the text encoder gave an array of shape {res.shape} for {len(texts):,} texts: '
                'expected (texts, dimensions)'
            )
        return res

    def apply(self, columns: Columns) -> tuple[Values, np.ndarray]:
        """Values and presence; a text without a known word is not present."""
        texts = _texts(columns)
        at = np.flatnonzero([bool(o) for o in texts])
        if len(at):
            values = self._encode([texts[i] for i in at])
        elif self.sparse:
            values = csr_matrix((0, self.width), dtype=np.float32)
        else:
            values = np.zeros((0, self.width), np.float32)
        if self.scaler is not None and not issparse(values):
            values = self.scaler.apply(values)
        self.sparse = issparse(values)
        self.width = values.shape[1]
        return _spread(values, at, len(texts))

    def column_names(self) -> list[str] | None:
        """The words; None where an encoder made the vectors."""
        if self.lost or not hasattr(self.encoder, 'get_feature_names_out'):
            return None
        return list(self.encoder.get_feature_names_out())

    def saved_state(self) -> dict[str, Any]:
        """All but an encoder of the user's own, whose name is kept, and what `encoder` makes of the rest."""
        state = {name: value for name, value in vars(self).items() if name != 'encoder'}
        if not _can_be_saved(self.given):
            state.update(given=None, lost=type(self.given).__name__)
        return state


# --- labels


def _itself(labels: list[str]) -> list[str]:
    """The analyzer of texts that are lists of labels already (a function with a name, so that it can be pickled)."""
    return labels


def _label(value: Any) -> str:
    """A label as text: a whole number alike, whether a missing cell has made floats of its column or not."""
    is_float = isinstance(value, (float, np.floating))
    if is_float and np.isfinite(value) and value == np.round(value) and abs(value) < EXACT_FLOATS:
        return str(int(value))
    return str(value)


def _one_hot(**options):
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(analyzer=_itself, binary=True, dtype=np.float32, **options)


class _Multilabel(_Transform):
    """Several labels a cell, in lists or in texts with a separator: a column of 0 and 1 for each label."""

    names: list[str]

    def __init__(
        self,
        sep: str | None,  # between labels of a text; '': a text is one label; None: found when it is fitted
        min_df: int,  # rows that a label has to occur in
    ) -> None:
        self.sep = sep
        self.min_df = min_df

    def _labels(self, columns: Columns) -> list[list[str]]:
        """The labels of each row, of all columns together."""
        return [[label for cell in row for label in self._split(cell)] for row in zip(*columns)]

    def _split(self, cell: Any) -> list[str]:
        """The labels of one cell, without those that are missing or empty."""
        if is_missing(cell):
            return []
        if isinstance(cell, str):
            parts: Iterable = cell.split(self.sep) if self.sep else [cell]
        elif isinstance(cell, dict) or not isinstance(cell, Iterable):
            raise ValueError(
                f'a multilabel column holds lists or texts such as "a|b", got {cell!r}. '
                'For single values take category='
            )
        else:
            parts = cell
        labels = [_label(part).strip() for part in parts if not is_missing(part)]
        return [o for o in labels if o]

    def fit(self, columns: Columns) -> _Multilabel:
        """Find the separator, if it is not given, and the labels."""
        if self.sep is None:
            self.sep = _separator([cell for column in columns for cell in column if isinstance(cell, str)])
        labels = self._labels(columns)
        try:
            vectorizer = _one_hot(min_df=self.min_df).fit(labels)
        except ValueError as e:
            raise ValueError(
                f'no label is left: each has to occur in min_df={self.min_df} of {len(labels):,} rows. '
                'Lower min_df, or say how labels are divided: sep='
            ) from e
        self.names = vectorizer.get_feature_names_out().tolist()
        return self

    def apply(self, columns: Columns) -> tuple[Values, np.ndarray]:
        """Values and presence; a row without a known label is not present."""
        labels = [self._as_fitted(row) for row in self._labels(columns)]
        values = _one_hot(vocabulary=self.names).transform(labels)
        return _spread(values, np.arange(len(labels)), len(labels))

    def _as_fitted(self, labels: list[str]) -> list[str]:
        """Labels of a row, as they were fitted: '1950' may be '1950.0' in what an earlier version saved."""
        return [f'{o}.0' if o not in self._known and f'{o}.0' in self._known else o for o in labels]

    @property
    def _known(self) -> set[str]:
        return set(self.names)

    def unlike(self, columns: Columns) -> str:
        """What is said of columns none of whose labels is known; '' if one is, or there is none."""
        labels = [label for row in self._labels(columns) for label in self._as_fitted(row)]
        if not labels or not self._known.isdisjoint(labels):
            return ''
        return f'labels look like {first_few(dict.fromkeys(labels), 3)}, those fitted like {first_few(self.names, 3)}'


def _separator(texts: list[str]) -> str:
    """The first usual separator that a tenth of the texts have; '' if there is none."""
    for sep in '|;,':
        if texts and np.mean([sep in o for o in texts]) >= 0.1:
            return sep
    return ''


class _Category(_Multilabel):
    """One label a cell; with several columns of a table the labels say which they belong to."""

    def __init__(
        self,
        min_df: int,  # rows that a label has to occur in
    ) -> None:
        super().__init__('', min_df)

    def _labels(self, columns: Columns) -> list[list[str]]:
        several = len(columns) > 1
        rows = zip(*map(plain_values, columns))
        return [
            [f'{i}={_label(cell)}' if several else _label(cell) for i, cell in enumerate(row) if not is_missing(cell)]
            for row in rows
        ]


# --- flags and numbers

_TRUE = {'true', 't', 'yes', 'y', '1', '1.0'}
_FALSE = {'false', 'f', 'no', 'n', '0', '0.0'}


def _with_gaps(values: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns side by side: values and known (n, c) -> values (n, c or 2c), present (n,).

    Of several columns a row may know some but not all: then a column for each says which are missing.
    """
    values = np.where(known, values, 0).astype(np.float32)
    present = np.logical_or.reduce(known, axis=1)
    if known.shape[1] > 1:
        values = np.hstack([values, (~known & present[:, None]).astype(np.float32)])
    return values, present


class _Flag(_Transform):
    """True and false, in any of the usual ways to write them, as 1 and 0."""

    def apply(self, columns: Columns) -> tuple[Values, np.ndarray]:
        """Values and presence; `ValueError` for what is neither true nor false."""
        values, known = zip(*(self._truths(column) for column in columns))
        return _with_gaps(np.array(values, dtype=np.float32).T, np.array(known).T)

    @staticmethod
    def _truths(column: Iterable) -> tuple[np.ndarray, np.ndarray]:
        """Which cells are true, and which are known, bool (n,) each."""
        cells = list(column)
        known: np.ndarray = pd.Series(cells, dtype=object).notna().to_numpy()
        words = [str(cell).strip().lower() for cell in cells]
        if bad := {word for word, there in zip(words, known) if there and word not in _TRUE | _FALSE}:
            raise ValueError(
                f'a flag is true or false, yes or no, 1 or 0; got {first_few(sorted(bad))}. '
                'For other values take category= or numeric='
            )
        true = np.array([word in _TRUE for word in words], dtype=bool) & known
        return true, known


class _Numeric(_Transform):
    """Numbers, standardized; counts with a long tail as log(1 + x)."""

    logs: list[bool]  # is the column taken as log(1 + x)?
    mean: np.ndarray  # of each column, (c,)
    scale: np.ndarray  # standard deviation of each, (c,)

    def __init__(
        self,
        log1p: bool | None,  # take log(1 + x); None: of columns that look like counts
    ) -> None:
        self.log1p = log1p

    @staticmethod
    def _numbers(column: Iterable) -> np.ndarray:
        """float64 (n,), NaN where there is no finite number."""
        s = pd.Series(column)
        if s.dtype == object or pd.api.types.is_string_dtype(s.dtype):
            numbers = pd.to_numeric(s, errors='coerce')
            bad = numbers.isna() & s.notna()
            if bad.any():
                raise ValueError(
                    f'a numeric column holds {first_few(s[bad].unique())}, which are not numbers. '
                    'Convert it first, e.g. `df[column].str.extract(r"(\\d+)")[0].astype(float)`'
                )
            s = numbers
        if pd.api.types.is_datetime64_any_dtype(s.dtype):
            raise ValueError('a numeric column holds dates: take a number of them, e.g. `df[column].dt.year`')
        x = s.to_numpy(dtype=np.float64, na_value=np.nan)
        return np.where(np.isfinite(x), x, np.nan)

    def fit(self, columns: Columns) -> _Numeric:
        """Learn which columns are counts, and mean and scale of each."""
        from sklearn.preprocessing import StandardScaler

        x = np.column_stack([self._numbers(o) for o in columns])
        if np.isnan(x).all(0).any():
            raise ValueError('a numeric column has no value at all')
        if self.log1p is None:
            self.logs = [_looks_like_counts(o) for o in x.T]
        else:
            self.logs = [bool(self.log1p)] * len(x.T)
        scaler = StandardScaler().fit(self._log(x))
        self.mean = scaler.mean_
        self.scale = scaler.scale_
        return self

    def _log(self, x: np.ndarray) -> np.ndarray:
        """`x` (n, c), changed in place: logarithms of the columns that are counts."""
        for i, log in enumerate(self.logs):
            if log:
                x[:, i] = np.log1p(np.maximum(x[:, i], 0))
        return x

    def apply(self, columns: Columns) -> tuple[Values, np.ndarray]:
        """Values, at most 10 standard deviations from the mean, and presence."""
        x = np.column_stack([self._numbers(o) for o in columns])
        x = (self._log(x) - self.mean) / self.scale
        return _with_gaps(np.clip(x, -10, 10), ~np.isnan(x))


def _looks_like_counts(x: np.ndarray) -> bool:
    """Whole numbers from 0 on with a long right tail: skewness above 1, the largest over 10 times the median."""
    x = x[~np.isnan(x)]
    if not len(x) or x.min() < 0 or (x != np.round(x)).any() or x.std() == 0:
        return False
    skewness = ((x - x.mean()) ** 3).mean() / x.std() ** 3
    return skewness > 1 and x.max() > 10 * max(np.median(x), 1)


# --- vectors


class _Scaler:
    """Vectors centered, and scaled so that their mean squared length is 1.

    Embeddings of most encoders point the same way, which says nothing.
    """

    mean: np.ndarray  # (d,) float32
    scale: float

    def fit(self, x: np.ndarray) -> _Scaler:
        """Learn mean and scale of vectors (n, d)."""
        if len(x) > 1:
            self.mean = x.mean(0, dtype=np.float64).astype(np.float32)
        else:
            self.mean = np.zeros(x.shape[1], np.float32)
        squared_lengths = ((x - self.mean) ** 2).sum(1, dtype=np.float64)
        self.scale = float(np.sqrt(squared_lengths.mean())) or 1.0
        return self

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Vectors (n, d) centered and scaled."""
        return (x - self.mean) / self.scale

    def spread(self, x: np.ndarray, at: np.ndarray, n: int) -> tuple[Values, np.ndarray]:
        """Vectors (m, d) of the rows `at` among `n`, scaled -> values (n, d), present (n,)."""
        scaled = self.apply(x) if len(x) else np.zeros((0, len(self.mean)), np.float32)
        return _spread(scaled, at, n)


class _Vectors(Savable):
    """Vectors by id, in a column, or of images by an encoder. It is fitted on the vectors, wherever they are from."""

    encoder: Any = None  # of images: paths (m,) -> vectors (m, d); None: vectors come as they are
    lost: str | None = None  # as in `_Transform`
    scaler: _Scaler
    width: int  # d

    def __init__(
        self,
        encoder: Any = None,  # as above
    ) -> None:
        self.encoder = encoder

    def fit(self, x: np.ndarray) -> _Vectors:
        """Learn the scale of vectors (m, d); `ValueError` if there are none."""
        if not len(x):
            raise ValueError('no id of the table has a vector: do the ids of both look alike?')
        self.scaler = _Scaler().fit(x)
        self.width = x.shape[1]
        return self

    def apply(self, x: np.ndarray, at: np.ndarray, n: int) -> tuple[Values, np.ndarray]:
        """Vectors (m, d) of the rows `at` among `n` -> values (n, d), present (n,)."""
        if len(x) and x.shape[1] != self.width:
            raise ValueError(f'vectors of length {x.shape[1]}, those fitted have length {self.width}')
        return self.scaler.spread(x, at, n)

    def column_names(self) -> None:
        """None: what a column of an embedding means nobody knows."""

    def saved_state(self) -> dict[str, Any]:
        """All but an encoder of the user's own, whose name is kept."""
        if _can_be_saved(self.encoder):
            return vars(self)
        return {**vars(self), 'encoder': None, 'lost': type(self.encoder).__name__}


def vectors_by_id(
    source: Mapping | pd.DataFrame | tuple,  # id -> vector, a table with the ids as its index, or a pair (ids, array)
    ids: pd.Index,  # those wanted
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (m, d) of those of `ids` that `source` has, and their positions in `ids` (m,)."""
    if isinstance(source, pd.DataFrame):
        source = (source.index, source.to_numpy())
    elif isinstance(source, dict):
        source = (list(source), list(source.values()))
    if not isinstance(source, tuple) or len(source) != 2:
        raise TypeError(
            'vectors come as a dict id -> vector, a DataFrame with the ids as its index, a pair (ids, array), '
            f'or the name of a column that holds them; got {type(source).__name__}'
        )
    keys = pd.Index(plain_values(source[0]))
    if not keys.is_unique:
        raise ValueError(f'several vectors for the same id: {first_few(keys[keys.duplicated()].unique())}')
    row_of = keys.get_indexer(ids)
    found = row_of >= 0
    return as_vectors([source[1][i] for i in row_of[found]]), np.flatnonzero(found)


def as_vectors(rows: Iterable) -> np.ndarray:
    """Rows of numbers or tensors as one float32 array (m, d); of no rows (0,).

    `ValueError` where they differ in length or hold anything but finite numbers.
    """
    rows = [o.detach().cpu().numpy() if isinstance(o, torch.Tensor) else o for o in rows]
    try:
        x = np.asarray(rows, dtype=np.float32)
    except ValueError as e:
        raise ValueError(f'the vectors differ in length, or hold something that is not a number: {e}') from e
    if len(x) and (x.ndim != 2 or not np.isfinite(x).all()):
        raise ValueError('vectors have to be rows of finite numbers of one length')
    return x
