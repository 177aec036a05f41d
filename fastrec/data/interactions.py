"""The only place where raw ids and columns come in: checked once, then compact integer codes.

Everything behind this module works on codes; everything a user sees is decoded again with a `Vocab`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from copy import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from ..keywords import check_arguments
from ..notices import warn_user
from .columns import (
    CHUNK_ROWS,
    as_frame,
    check_exact,
    check_first_row,
    codes_in,
    dense_codes,
    find_columns,
    first_few,
    in_chunks,
    kind_of,
    plain_values,
)

__all__ = ['Context', 'Interactions', 'Vocab']

DUPLICATES = ('error', 'last', 'first', 'mean')  # what `duplicates=` may be
LARGEST_RATING = 1e8  # beyond it a column holds timestamps


# --- ids


class Vocab:
    """The ids of one side and their codes `0..len-1`, in sorted order of the ids.

    `ids` are unique; integers and strings are the ids that the field uses, anything hashable and sortable works.
    Integers are int64 (uint64 where one does not fit), whatever the width of the column that they come from.
    `ValueError` for missing and repeated ids, and for floats from 2^53 on.
    """

    def __init__(
        self,
        ids: Any,  # unique ids; position is the code
        side: str = 'item',  # 'user' or 'item', for messages
    ) -> None:
        values = plain_values(ids)
        check_exact(values, side)
        self.ids = pd.Index(values)
        self.side = side
        if self.ids.hasnans:
            raise ValueError(f'{side} ids hold missing values')
        if not self.ids.is_unique:
            repeated = first_few(self.ids[self.ids.duplicated()].unique())
            raise ValueError(f'{side} ids repeat: {repeated}. A Vocab holds each id once: pass `pd.unique(ids)`')

    @classmethod
    def factorize(
        cls,
        values: pd.Series,  # ids of rows, (n,)
        side: str = 'item',  # 'user' or 'item', for errors
    ) -> tuple[Vocab, np.ndarray]:
        """The Vocab of the sorted distinct `values` (n,), and the int32 code of each value (n,)."""
        found = dense_codes(np.asarray(values))
        if found is not None:
            ids, codes = found
            return cls(ids, side), codes
        codes, distinct = pd.factorize(values, sort=True)
        return cls(distinct, side), codes.astype(np.int32)

    def extended(
        self,
        ids: Any,  # sequence of ids, known and unknown ones; missing values are left out
    ) -> Vocab:
        """A Vocab with the unknown ones of `ids` after those there are, whose codes stay.

        `ValueError` if they are of another type.
        """
        values = plain_values(pd.Series(ids).dropna())
        check_exact(values, self.side)
        mine, theirs = kind_of(self.ids), kind_of(values)
        if len(values) and theirs != mine:
            raise ValueError(
                f'the new {self.side} ids are of another type ({theirs} such as {first_few(values, 1)}) '
                f'than those known ({mine} such as {first_few(self.ids, 1)})'
            )
        new = np.sort(pd.unique(values[codes_in(self.ids, values) < 0]))
        if not len(new):
            return self
        if new.dtype != self.ids.dtype and mine == 'integer':  # one of them goes beyond the other's type
            return Vocab(np.array([*self.ids, *new], dtype=object), self.side)
        return Vocab(self.ids.append(pd.Index(new, dtype=self.ids.dtype)), self.side)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, id_: Any) -> bool:
        return id_ in self.ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocab) and self.side == other.side and self.ids.equals(other.ids)

    def __repr__(self) -> str:
        return f'Vocab({len(self):,} {self.side}s: {first_few(self.ids)})'

    def encode(
        self,
        ids: Any,  # one id or a sequence of ids
        unknown: str = 'raise',  # 'raise' a `KeyError`, or 'mark' with -1
    ) -> np.ndarray:
        """int64 codes of `ids`, shape `(n,)`; `KeyError` names unknown ids and the way out.

        `ValueError` for another word in `unknown`.
        """
        if unknown not in ('raise', 'mark'):
            raise ValueError(f"unknown={unknown!r}: choose 'raise' or 'mark'")
        values = _sequence_of_ids(ids)
        if not len(values):
            return np.zeros(0, np.int64)
        check_exact(values, self.side)
        codes = codes_in(self.ids, values)
        is_unknown = codes < 0
        if is_unknown.all() and len(self) and kind_of(values) == 'integer':
            width = self._padded_width()
            if width is not None:  # numbers that were read without their zeros
                codes = codes_in(self.ids, values.astype(str).str.zfill(width))
                is_unknown = codes < 0
        if unknown == 'raise' and is_unknown.any():
            raise KeyError(self._unknown_ids(values[is_unknown], len(values)))
        return codes.astype(np.int64)

    def _unknown_ids(self, values: pd.Series, n: int) -> str:
        """What is said of unknown ids among `n` that were looked up."""
        side = self.side
        missing = pd.unique(values)
        s = 's' if len(missing) > 1 else ''
        text = f'unknown {side} id{s}: {first_few(missing)} ({len(missing):,} of {n:,} looked up). '
        mine, theirs = kind_of(self.ids), kind_of(missing)
        if mine != theirs and {mine, theirs} <= {'integer', 'string'}:
            way = f'ids.astype({"int" if mine == "integer" else "str"})'
            return text + (
                f'The table the model was built from has {mine} {side} ids such as {first_few(self.ids, 2)}; '
                f'these are {theirs}s: convert them with `{way}`'
            )
        return text + (
            f"Known are the {len(self):,} {side}s of the table the model was built from (`dls.vocab['{side}'].ids`): "
            f"leave the others out, e.g. `df[df[column].isin(dls.vocab['{side}'].ids)]`, "
            'or build again from a table that has them'
        )

    def _padded_width(self) -> int | None:
        """How long the ids are, if they are numbers padded with zeros to one length ('007'); else None."""
        first = self.ids[0]
        if not isinstance(first, str) or not all(len(o) == len(first) and o.isdecimal() for o in self.ids):
            return None
        return len(first) if any(o[0] == '0' for o in self.ids) and len(first) > 1 else None

    def decode(
        self,
        codes: Any,  # ints of any shape
    ) -> np.ndarray:
        """The ids of `codes`, same shape; `IndexError` for -1, which marks an unknown id."""
        codes = np.asarray(codes)
        if codes.size and codes.min() < 0:
            n_negative = int((codes < 0).sum())
            raise IndexError(
                f'{n_negative:,} of {codes.size:,} codes are negative, which marks unknown {self.side} ids: '
                'there is nothing to decode'
            )
        return self.ids.to_numpy()[codes]


def _sequence_of_ids(ids: Any) -> pd.Series:
    """One id or a collection of ids, of whatever kind, as plain values."""
    is_text = isinstance(ids, (str, bytes))
    is_one = np.ndim(ids) == 0 and (is_text or isinstance(ids, np.ndarray) or not isinstance(ids, Iterable))
    if is_one:
        ids = [ids.item() if isinstance(ids, np.ndarray) else ids]
    if isinstance(ids, (pd.Index, np.ndarray)):
        return plain_values(np.asarray(ids))
    # what has a dtype (a Series, an array of pandas, a tensor) pandas takes as it is; of a set it would not
    if hasattr(ids, 'dtype'):
        return plain_values(ids)
    values = list(ids)
    series = pd.Series(values)
    if series.dtype.kind == 'f' and any(isinstance(o, int) for o in values):
        series = pd.Series(values, dtype=object)  # None among them has made floats of integers
    return plain_values(series)


# --- checks of the columns of a table


def _check_ids(df: pd.DataFrame, name: Any, side: str, vocab: Vocab | None) -> tuple[Vocab, np.ndarray]:
    """The vocab of column `name` (`vocab` if it is given) and int32 codes, after the checks."""
    column = df[name]
    if pd.api.types.is_float_dtype(column.dtype):
        check_exact(column, side, name)
    if n_missing := int(column.isna().sum()):
        raise ValueError(
            f'{n_missing:,} of {len(df):,} rows have no {side} id (column {name!r}). '
            f'Drop them with `df.dropna(subset=[{name!r}])`'
        )
    is_plain = isinstance(column.dtype, np.dtype) and column.dtype.kind in 'iu'
    if not is_plain or vocab is not None:  # integers are told apart as they are, to have no wider copy of a column
        column = plain_values(column)
    kind = kind_of(column)
    if kind.startswith('mixed'):
        raise ValueError(_mixed_types(column, name, side))
    if kind == 'floating':
        fractions = column[(column != column.round()) | ~np.isfinite(column)]
        raise ValueError(
            f'column {name!r} holds fractions such as {first_few(fractions, 3)}, which are not {side} ids. '
            f'Is it another column? Pass {side}_name=, one of: {first_few(df.columns, 20)}'
        )
    if vocab is None:
        return Vocab.factorize(column, side)
    return vocab, vocab.encode(column).astype(np.int32)


def _mixed_types(column: pd.Series, name: Any, side: str) -> str:
    """What is said of ids of several types, or of one that is not a type of ids."""
    way = f'`df[{name!r}] = df[{name!r}].astype(str)`'
    types = pd.Series([type(o).__name__ for o in column.head(1_000_000)])
    if types.nunique() == 1:
        return (
            f'column {name!r} holds {types[0]} objects such as {column.iloc[0]!r}; '
            f'{side} ids are numbers, strings, dates or bytes. Make them strings: {way}'
        )
    first_row = {t: types.index[types == t][0] for t in types.unique()}
    examples = ', '.join(f'{t} such as {column.iloc[row]!r}' for t, row in first_row.items())
    return f"column {name!r} mixes types ({examples}), so 1 and '1' would be two {side}s. Make them one: {way}"


def _check_several(vocab: Vocab, name: Any) -> None:
    """`ValueError` if column `name` has a single id."""
    side = vocab.side
    if len(vocab) == 1:
        raise ValueError(
            f'the table has a single {side} ({first_few(vocab.ids)}, column {name!r}): '
            f'collaborative filtering learns from what several {side}s share. Is {side}_name right?'
        )


def check_ratings(df: pd.DataFrame, name: Any, y_range: tuple[float, float] | None) -> np.ndarray:
    """float32 ratings of column `name`, after the checks."""
    column = df[name]
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        raise ValueError(
            f'column {name!r} holds dates, not ratings. Pass rating_name= (and time_name={name!r}), '
            "or no rating column for target='implicit'"
        )
    column = _plain_numbers(column)
    if not pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_complex_dtype(column.dtype):
        raise ValueError(_not_numbers(df, name))
    # a copy: later changes of the table must not reach the model
    ratings = column.to_numpy(dtype=np.float32, na_value=np.nan, copy=True)
    if n_bad := int((~np.isfinite(ratings)).sum()):
        raise ValueError(
            f'{n_bad:,} of {len(df):,} ratings in column {name!r} are missing or infinite. '
            f'Drop those rows: `df[np.isfinite(df[{name!r}])]`; '
            "rows without a rating can still be used with target='implicit'"
        )
    low, high = float(ratings.min()), float(ratings.max())
    check_size(low, high, name, df.columns)
    check_y_range(low, high, y_range, name)
    return ratings


def _plain_numbers(column: pd.Series) -> pd.Series:
    """Booleans and decimals, of Arrow and as objects, as numbers; any other column as it is."""
    if isinstance(column.dtype, np.dtype) and column.dtype != object:
        return column
    kind = kind_of(column)
    if kind not in ('boolean', 'decimal'):
        return column
    return column.astype('boolean').astype('Int8') if kind == 'boolean' else column.astype('float64')


def _not_numbers(df: pd.DataFrame, name: Any) -> str:
    """What is said of ratings that are not numbers, with a way out that leads somewhere."""
    column = df[name]
    text = f'ratings in column {name!r} are not numbers (dtype {column.dtype})'
    there = column.dropna()
    if _has_decimal_commas(there):
        return (
            f'{text}: their decimal sign is a comma, as in {first_few(there[there.str.contains(",")], 1)}. '
            "Read the table with decimal=',' (from_csv and pd.read_csv take it; fastrec train: --decimal ,), "
            'or convert them: '
            f"`df[{name!r}] = df[{name!r}].str.replace(',', '.').astype(float)`"
        )
    is_word = pd.to_numeric(column, errors='coerce').isna() & column.notna()
    if not is_word.any():
        return f"{text}. Convert them: `df[{name!r}] = pd.to_numeric(df[{name!r}], errors='coerce')`"
    text = f'{text}; not a number: {first_few(column[is_word].unique())}'
    if is_word.sum() == len(there):
        return (
            f'{text}. None of them is a number: is it another column? Pass rating_name=, one of: '
            f"{first_few(df.columns, 20)}; rows without ratings are for rating_name=False, target='implicit'. "
            f'Words that mean numbers: `df[{name!r}] = df[{name!r}].map({{"good": 5, ...}})`, not pd.to_numeric'
        )
    return (
        f"{text}. Convert them: `df[{name!r}] = pd.to_numeric(df[{name!r}], errors='coerce')`, "
        f'and drop those that are none, {int(is_word.sum()):,} of {len(df):,}: `df = df.dropna(subset=[{name!r}])`'
    )


def _has_decimal_commas(values: pd.Series) -> bool:
    """Are they texts of numbers, with commas for decimal signs?"""
    if not len(values) or kind_of(values) != 'string':
        return False
    return values.str.fullmatch(r'\s*[+-]?\d+(,\d+)?\s*').all() and values.str.contains(',').any()


def check_size(
    low: float,  # lowest rating
    high: float,  # highest rating
    name: Any,  # column of the ratings
    columns: Iterable = (),  # all there are, for the message
) -> None:
    """`ValueError` for timestamps in the place of ratings, and for values that mark something else."""
    if max(-low, high) <= LARGEST_RATING:
        return
    others = first_few(columns, 20)
    way = (
        f"Pass rating_name={', one of: ' + others if others else ''}; a table without ratings is for target='implicit'"
    )
    if low > LARGEST_RATING:
        raise ValueError(
            f'column {name!r} looks like a timestamp (values from {low:.0f} to {high:.0f}), not a rating. {way}'
        )
    raise ValueError(
        f'column {name!r} holds values from {low:g} to {high:g}, and no rating is larger than {LARGEST_RATING:g} '
        f'either way. If they mark what is missing, drop those rows: `df[df[{name!r}].abs() <= {LARGEST_RATING:g}]`; '
        f'or are the ratings in another column? {way}'
    )


def check_y_range(
    lo: float,  # lowest rating
    hi: float,  # highest rating
    y_range: tuple[float, float] | None,  # (low, high); None: any
    name: Any = 'rating',  # column, for the message
) -> None:
    """`ValueError` unless ratings from `lo` to `hi` lie within `y_range`."""
    if y_range is None:
        return
    if np.ndim(y_range) != 1 or len(y_range) != 2 or not -math.inf < y_range[0] < y_range[1] < math.inf:
        raise ValueError(
            f'y_range={y_range}: give two numbers (low, high) with low < high, for ratings from {lo:g} to {hi:g} '
            f'e.g. y_range=({lo - 0.5:g}, {hi + 0.5:g}); with y_range=False predictions are unbounded'
        )
    if lo < y_range[0] or hi > y_range[1]:
        raise ValueError(
            f'ratings in {name!r} run from {lo:g} to {hi:g}, outside y_range={tuple(y_range)}, '
            'so the model could never reach them. Give a range that holds them, '
            f'a little wider since a sigmoid never reaches its ends: y_range=({lo - 0.5:g}, {hi + 0.5:g})'
        )


def _check_times(df: pd.DataFrame, name: Any) -> np.ndarray:
    """Times of column `name`, numbers or naive datetimes, after the checks."""
    column = _plain_times(df[name])
    is_number = pd.api.types.is_numeric_dtype(column.dtype)
    if not is_number and not pd.api.types.is_datetime64_any_dtype(column.dtype):
        raise ValueError(
            f'times in column {name!r} are neither numbers nor datetimes (dtype {column.dtype}, such as '
            f'{first_few(column.dropna(), 1)}). Convert them: {_way_to_times(column, name)}'
        )
    if n_missing := int(column.isna().sum()):
        raise ValueError(
            f'{n_missing:,} of {len(df):,} rows have no time (column {name!r}). '
            f'Drop them with `df.dropna(subset=[{name!r}])`, or do without times: time_name=False'
        )
    column = _without_zone(column)
    if pd.api.types.is_integer_dtype(column.dtype) and column.min() >= 0 and column.max() < 2**31:
        return column.to_numpy(dtype=np.int32)  # seconds since 1970 until 2038: half the memory
    return column.to_numpy(copy=True)


def _plain_times(column: pd.Series) -> pd.Series:
    """Times of plain dtypes: dates, datetimes of Arrow and texts of ISO 8601 as datetimes; others as they are."""
    dtype = column.dtype
    if isinstance(dtype, pd.ArrowDtype) and dtype.kind == 'M':
        return pd.Series(column.dt.tz_convert('UTC') if _zone_of(dtype) else column).astype(_datetimes_like(dtype))
    kind = kind_of(column) if not pd.api.types.is_numeric_dtype(dtype) or isinstance(dtype, pd.ArrowDtype) else ''
    if kind == 'decimal':
        return plain_values(column)
    if kind == 'date':
        return pd.to_datetime(column)
    there = column.dropna()
    if kind == 'string' and there.str.match(r'\d{4}-\d\d-\d\d').all():
        try:
            return pd.to_datetime(column, format='ISO8601', utc=True)
        except ValueError:
            return column
    return column


def _zone_of(dtype: pd.ArrowDtype) -> str | None:
    """The time zone of datetimes of Arrow."""
    return getattr(dtype.pyarrow_dtype, 'tz', None)  # dates have none


def _datetimes_like(dtype: pd.ArrowDtype) -> str:
    """pandas' own dtype of datetimes of Arrow, or of dates."""
    unit = getattr(dtype.pyarrow_dtype, 'unit', 's')
    unit = 's' if unit == 'day' else unit
    return f'datetime64[{unit}, UTC]' if _zone_of(dtype) else f'datetime64[{unit}]'


def _way_to_times(column: pd.Series, name: Any) -> str:
    """How to convert what is not a time yet."""
    as_numbers = pd.to_numeric(column, errors='coerce')
    if as_numbers.notna().all():
        return f'`df[{name!r}] = pd.to_numeric(df[{name!r}])`'
    return (
        f'`df[{name!r}] = pd.to_datetime(df[{name!r}])`, with format= where pandas does not see it '
        f'(from_csv: parse_dates=[{name!r}])'
    )


def _without_zone(column: pd.Series) -> pd.Series:
    """Datetimes with a time zone as naive ones in UTC; anything else as it is."""
    return column.dt.tz_convert(None) if isinstance(column.dtype, pd.DatetimeTZDtype) else column


def _check_weights(df: pd.DataFrame, name: Any) -> np.ndarray:
    """float32 weights of column `name`, after the checks."""
    if name not in df.columns:
        raise ValueError(
            f'no column {name!r} (weight_name=) in the table. Its columns are: {first_few(df.columns, 20)}'
        )
    weights = pd.to_numeric(df[name], errors='coerce').to_numpy(dtype=np.float32, na_value=np.nan)
    is_bad = ~np.isfinite(weights) | (weights < 0)
    if is_bad.any():
        raise ValueError(
            f'{int(is_bad.sum()):,} of {len(df):,} weights in column {name!r} are negative, missing or not numbers, '
            f'e.g. {first_few(df[name][is_bad], 3)}: a weight says how much a rating counts in the loss, from 0 up'
        )
    if not weights.any():
        raise ValueError(f'all weights in column {name!r} are 0: nothing would be learned')
    return weights


# --- values that stand for 'no rating'

SAMPLED_RATINGS = 2**18  # that are looked at, evenly spaced
FEWEST_ROWS = 5  # that such a value has
APART_SHARE = 0.01  # of the rows that a value apart from all others has at least
SPIKE_SHARE = 0.1  # of the rows that a value of a scale, 0 or below, has at least to be a spike,
SPIKE_RATIO = 8  # and so many times those of its neighbor
LONGEST_SCALE = 50  # different values; beyond, ratings are continuous or counts


def is_missing(ratings: np.ndarray, missing_rating: Any) -> np.ndarray:
    """bool (rows,): which ratings are `missing_rating`; `ValueError` unless that is a number or several."""
    values = np.atleast_1d(np.asarray(missing_rating))
    if values.dtype.kind not in 'iuf':
        raise ValueError(f'missing_rating={missing_rating!r}: a number in the place of a rating, or a list of those')
    return np.isin(ratings, values.astype(np.float32))


def _rated_rows(df: pd.DataFrame, name: Any, missing_rating: Any) -> np.ndarray:
    """Positions of the rows whose rating is not `missing_rating`; `ValueError` where there is none."""
    if name is None:
        raise ValueError(
            'missing_rating= speaks of ratings, and the table has none. Name their column with rating_name='
        )
    rated = np.flatnonzero(~is_missing(check_ratings(df, name, None), missing_rating))
    if not len(rated):
        raise ValueError(f'every rating in column {name!r} is missing_rating={missing_rating}: none is left to learn')
    return rated


def sentinels(
    values: np.ndarray,  # distinct ratings, ascending
    counts: np.ndarray,  # rows of each
) -> list[float]:
    """Those at the edges of the ratings that look as if they stood for 'no rating', such as -1, 0 or 99.

    Such a value has many rows, and either stands farther from the others than those from one another (than all of them
    span, where they are continuous or counts); or it lies below all others, at 0 or less, and has far more rows than
    its neighbor.
    """
    res = []
    for edge, neighbor, others in ((0, 1, slice(1, None)), (-1, -2, slice(None, -1))):
        rest: np.ndarray = values[others].astype(np.float64)
        if len(rest) < 4 or counts[edge] < FEWEST_ROWS:
            continue
        value = float(values[edge])
        is_scale = len(rest) <= LONGEST_SCALE
        is_mark = edge == 0 and value <= 0 <= rest[0]
        share = counts[edge] / counts.sum()
        gap = abs(value - float(values[neighbor]))
        widest = np.diff(rest).max() if is_scale else rest[-1] - rest[0]
        is_apart = share >= APART_SHARE and gap > (1.5 if is_mark else 3) * widest
        is_many = share >= SPIKE_SHARE and counts[edge] >= SPIKE_RATIO * counts[neighbor]
        is_spike = is_mark and is_many and (is_scale or value < 0)
        if is_apart or is_spike:
            res.append(value)
    return res


def sentinel_text(
    value: float,  # that looks as if it stood for 'no rating'
    n: int,  # rows that have it
    n_rows: int,  # rows in all
) -> str:
    """What is said of it."""
    return (
        f'{n:,} of {n_rows:,} ratings ({n / n_rows:.0%}) are {value:g}, which stands apart from all others: '
        f'if it means that there is no rating, say missing_rating={value:g}, which drops those rows '
        "(with target='implicit' they count as seen, but not as positives). Now it is learned as a rating"
    )


def _warn_of_sentinels(ratings: np.ndarray, missing_rating: Any, threshold: float | None = None) -> None:
    """Warn of values that look as if they stood for 'no rating', of those that a threshold makes positives alone."""
    step = max(1, len(ratings) // SAMPLED_RATINGS)
    sample = ratings[::step]
    if missing_rating is not None:
        sample = sample[~is_missing(sample, missing_rating)]
    for value in sentinels(*np.unique(sample, return_counts=True)):
        if threshold is not None and value < threshold:
            continue
        warn_user(sentinel_text(value, int((ratings == value).sum()), len(ratings)))


def _warn_of_tail(weights: np.ndarray) -> None:
    """Warn if a hundredth of the positives has most of the weight."""
    positives = weights[weights > 0]
    if len(positives) < 100:
        return
    n_top = -(-len(positives) // 100)
    top = np.partition(positives, len(positives) - n_top)[-n_top:]
    share = top.sum(dtype=np.float64) / positives.sum(dtype=np.float64)
    if share > 0.5:
        warn_user(
            f'1% of the positives have {share:.0%} of the weight '
            f'(up to {top.max():,.0f}, the median is {np.median(positives):,.0f}): a model learns little of the rest. '
            'Weights are a confidence: give the logarithm of the counts, '
            "`df['weight'] = np.log1p(counts)` with rating_name='weight' and weighted=True, "
            'or let each pair count once, `df.drop_duplicates([user, item])`'
        )


# --- what belongs to an interaction itself

MANY_VALUES = 50  # a column of numbers with more values than that becomes bins
N_BINS = 20  # of about equal numbers of rows
LAST_SECOND = 253_402_300_799  # of the year 9999, since 1970
TICKS = 2**30  # that fractions of time are counted in, from the first to the last of the table


class Context:
    """Columns of what belongs to an interaction itself and to neither side (device, weekday, time), as whole numbers.

    `names` of the columns. `levels` of each: for categories their values (`pd.Index`), for numbers of many values the
    edges of bins of about equal numbers of rows (array); None for the time. `encode` gives the level, from 1 on, and 0
    for what is unknown, missing or not given; of the time the seconds (of datetimes) or its own unit, and -1 if it is
    not given.
    """

    TIME = -1  # code of a time that is not given

    def __init__(
        self,
        names: Iterable[Any],  # columns
        levels: Iterable[pd.Index | np.ndarray | None],  # of each column; see the class
        time: dict | None = None,  # how times become whole numbers; see `_time_scale`
    ) -> None:
        self.names = list(names)
        self.levels = list(levels)
        self.time = time

    @classmethod
    def fit(
        cls,
        df: pd.DataFrame,  # the table
        columns: Any,  # a column or a list of them
        names: dict | None = None,  # column of each role; that which plays the 'time' is read as such, as datetimes are
    ) -> Context:
        """The context of a table; `ValueError` for columns that cannot be one."""
        if isinstance(columns, str) or not isinstance(columns, Iterable):
            columns = [columns]
        columns = list(columns)
        names = names or {}
        _check_context_columns(df, columns, names)
        levels: list[pd.Index | np.ndarray | None] = []
        time = None
        for column in columns:
            if column == names.get('time') or pd.api.types.is_datetime64_any_dtype(df[column].dtype):
                if time is not None:
                    raise ValueError(
                        f'context={columns}: two of them are times. '
                        'Of a second one give what matters as a column, e.g. `df[column].dt.dayofweek`'
                    )
                time = _time_scale(_check_times(df, column))
                levels.append(None)
            else:
                levels.append(_levels(df[column], column))
        return cls(columns, levels, time)

    @property
    def sizes(self) -> list[int]:
        """How many codes each column has; 0 for the time."""
        return [_n_codes(levels) for levels in self.levels]

    @property
    def time_column(self) -> int | None:
        """Position of the time, or None."""
        return next((i for i, levels in enumerate(self.levels) if levels is None), None)

    def encode(
        self,
        df: pd.DataFrame,  # a table with these columns
    ) -> np.ndarray:
        """int64 (n, columns); columns that `df` lacks count as not given.

        `ValueError` for a column of another kind than that of the table; a warning that counts unknown levels.
        """
        codes = self._codes(df)
        for name, levels, column in zip(self.names, self.levels, codes.T):
            if name in df and isinstance(levels, pd.Index):
                _check_levels(df[name], levels, column == 0, name)
        return codes

    def _codes(self, df: pd.DataFrame) -> np.ndarray:
        """As `encode`; what is unknown is 0 without a word."""
        codes: np.ndarray = np.zeros((len(df), len(self.names)), np.int64)
        for i, (name, levels) in enumerate(zip(self.names, self.levels)):
            if name not in df:
                codes[:, i] = self.TIME if levels is None else 0
            elif levels is None:
                codes[:, i] = self._ticks(df[name])
            elif isinstance(levels, np.ndarray):
                codes[:, i] = _bins(df[name], levels, name)
            else:
                codes[:, i] = levels.get_indexer(plain_values(df[name]).array) + 1
        return codes

    def _ticks(self, values: pd.Series) -> np.ndarray:
        """int64 (n,) of times: seconds, or the table's own unit or ticks; -1 where they are missing."""
        assert self.time is not None, 'a column of times has a scale'
        missing = values.isna().to_numpy()
        times: Any = values
        if self.time['kind'] == 'datetime' and pd.api.types.is_numeric_dtype(values.dtype):
            return np.where(missing, self.TIME, _given_in_seconds(values))
        if self.time['kind'] == 'datetime' or not pd.api.types.is_numeric_dtype(values.dtype):
            times = _seconds(values)  # where the table has numbers, these are seconds since 1970 too
            if self.time['scale'] == 1:
                return np.where(missing, self.TIME, times)
        ticks = (np.asarray(times, dtype=np.float64) - self.time['start']) * self.time['scale']
        return np.where(missing | ~np.isfinite(ticks), self.TIME, np.nan_to_num(ticks)).astype(np.int64)

    def of(
        self,
        values: dict,  # column -> value; the rest is not given
    ) -> np.ndarray:
        """int64 (columns,) of one situation; `KeyError` for columns and values that are not known.

        Of datetimes a number is in seconds since 1970.
        """
        if unknown := [o for o in values if o not in self.names]:
            raise KeyError(f'no context is called {first_few(unknown)}: there are {first_few(self.names, 20)}')
        row = pd.DataFrame({name: [value] for name, value in values.items()}, index=[0])
        codes = self._codes(row)[0]
        for name, levels, code in zip(self.names, self.levels, codes):
            if name not in values or not isinstance(levels, pd.Index):
                continue
            if code == 0 and not pd.isna(values[name]):
                raise KeyError(
                    f'{name}={values[name]!r} is in no row: known are {first_few(levels, 20)}. '
                    'Leave it out for what they have in common'
                )
        return codes

    def decode(
        self,
        codes: np.ndarray,  # int64 (n, columns)
    ) -> pd.DataFrame:
        """Codes as a table to look at: values, bins as intervals, times in seconds or their own unit."""
        res: dict[Any, Any] = {}
        for name, levels, column in zip(self.names, self.levels, codes.T):
            if levels is None:
                assert self.time is not None, 'a column of times has a scale'
                times = column / self.time['scale'] + self.time['start']
                res[name] = np.where(column == self.TIME, np.nan, times)
            elif isinstance(levels, np.ndarray):
                edges = [-np.inf, *levels, np.inf]
                res[name] = [None if code == 0 else f'[{edges[code - 1]:.4g}, {edges[code]:.4g})' for code in column]
            else:
                res[name] = pd.Series([None if code == 0 else levels[code - 1] for code in column], dtype=object)
        return pd.DataFrame(res)

    def __repr__(self) -> str:
        columns = [f'{name} {size - 1} levels' if size else name for name, size in zip(self.names, self.sizes)]
        return f'Context({", ".join(columns)})'


def _check_context_columns(df: pd.DataFrame, columns: list, names: dict) -> None:
    """`ValueError` unless the columns are there, once each, and play no other role."""
    if not columns:
        raise ValueError('context= takes a column or a list of them')
    if gone := [c for c in columns if c not in df.columns]:
        raise ValueError(
            f'no column {first_few(gone)} (context=) in the table. Its columns are: {first_few(df.columns, 20)}'
        )
    roles = [names.get(role) for role in ('user', 'item', 'rating')]
    if taken := [c for c in columns if c in roles]:
        raise ValueError(f'context={first_few(taken)}: that column is the user, the item or the rating already')
    if len(set(columns)) < len(columns):
        raise ValueError(f'context={columns}: a column twice')


def _time_scale(times: np.ndarray) -> dict:
    """How times become whole numbers: `(time - start) * scale`, of the `kind` 'datetime' or 'number'.

    Datetimes (in seconds) and whole numbers stay as they are; fractions are counted in ticks of the time they span.
    """
    if times.dtype.kind != 'f':
        return dict(kind='datetime' if times.dtype.kind == 'M' else 'number', start=0.0, scale=1.0)
    low, high = times.min(), times.max()
    return dict(kind='number', start=float(low), scale=TICKS / max(float(high - low), 1e-9))


def _seconds(values: pd.Series) -> np.ndarray:
    """int64 (n,): datetimes, or what pandas can read as such, in seconds since 1970 (UTC)."""
    try:
        times = pd.to_datetime(values)
    except (ValueError, TypeError) as e:
        raise ValueError(f'times such as {first_few(values.dropna(), 1)} are neither numbers nor datetimes') from e
    return _without_zone(times).to_numpy().astype('datetime64[s]').astype(np.int64)


def _given_in_seconds(values: pd.Series) -> np.ndarray:
    """int64 (n,): numbers in the place of datetimes, which are seconds since 1970; 0 for missing ones."""
    seconds = values.to_numpy(dtype=np.float64, na_value=np.nan)
    n_beyond = int((np.abs(seconds) > LAST_SECOND).sum())
    if n_beyond:
        raise ValueError(
            f'{n_beyond:,} of {len(values):,} times lie beyond the year 9999, e.g. '
            f'{first_few(values[np.abs(seconds) > LAST_SECOND], 1)}: numbers in the place of datetimes are seconds '
            "since 1970. Give datetimes: `pd.to_datetime(times, unit='ms')`"
        )
    return np.floor(np.nan_to_num(seconds)).astype(np.int64)


def _levels(column: pd.Series, name: Any) -> pd.Index | np.ndarray:
    """Values of a column of context, or edges of bins."""
    values = plain_values(column.dropna())
    if not len(values):
        raise ValueError(f'column {name!r} (context=) has no value at all')
    is_number = pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype)
    if is_number and values.nunique() > MANY_VALUES:
        shares = np.linspace(0, 1, N_BINS + 1)[1:-1]
        return np.unique(np.quantile(values.to_numpy(dtype=np.float64), shares))
    try:
        return pd.Index(values.unique()).sort_values()
    except TypeError as e:
        raise ValueError(
            f'column {name!r} (context=) mixes types: make them one, `df[{name!r}] = df[{name!r}].astype(str)`'
        ) from e


KINDS = {  # of values as pandas infers them -> what they are
    'integer': 'numbers',
    'floating': 'numbers',
    'mixed-integer-float': 'numbers',
    'decimal': 'numbers',
    'string': 'texts',
}
AS_KIND = dict(numbers='pd.to_numeric({})', texts='{}.astype(str)')  # how a column becomes one


def _check_levels(column: pd.Series, levels: pd.Index, is_zero: np.ndarray, name: Any) -> None:
    """`ValueError` where values of another kind than the levels, a warning where they are new."""
    is_unknown = is_zero & column.notna().to_numpy()
    n_unknown = int(is_unknown.sum())
    if not n_unknown:
        return
    unknown = plain_values(column[is_unknown])
    kind, wanted = (KINDS.get(kind_of(o), kind_of(o)) for o in (unknown, levels))
    if kind != wanted:
        raise ValueError(
            f'column {name!r} (context=) holds {kind} such as {first_few(unknown.iloc[:1])}, in training it held '
            f'{wanted} such as {first_few(levels[:1])}. Make it alike'
            + (f': `df[{name!r}] = {AS_KIND[wanted].format(f"df[{name!r}]")}`' if wanted in AS_KIND else '')
        )
    warn_user(
        f'{n_unknown:,} of {len(column):,} rows have a {name!r} (context=) that no row of training had, such as '
        f'{first_few(unknown.unique(), 3)}: it counts as not given'
    )


def _bins(column: pd.Series, edges: np.ndarray, name: Any) -> np.ndarray:
    """int64 (n,): the bin of each number, from 1 on; 0 for a missing one. `ValueError` for what is not a number."""
    is_time = pd.api.types.is_datetime64_any_dtype(column.dtype)
    numbers = column if is_time else pd.to_numeric(column, errors='coerce')
    bad = column[column.notna() & (numbers.isna() | is_time)]
    if len(bad):
        raise ValueError(
            f'{len(bad):,} of {len(column):,} values of column {name!r} (context=) are not numbers, as those of '
            f'training are, e.g. {first_few(bad.iloc[:1])}: make them numbers, or empty where there is none'
        )
    x = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isnan(x), 0, np.searchsorted(edges, x, side='right') + 1)


def _n_codes(levels: pd.Index | np.ndarray | None) -> int:
    """How many codes a column of context has, that of what is not given among them; 0 for the time."""
    if levels is None:
        return 0
    n_levels = len(levels) + 1 if isinstance(levels, np.ndarray) else len(levels)  # one bin more than edges
    return n_levels + 1


# --- the table


class Interactions:
    """Who did what to what: integer codes, ratings and times as arrays of one length.

    The table that it comes from (`from_df`) is not kept. Implicit feedback (`implicit`) has `weights` and `options`.
    `ValueError` where lengths differ.
    """

    missing_rating: Any = None  # of those that were saved before there was one

    def __init__(
        self,
        users: np.ndarray,  # int32 codes (rows,)
        items: np.ndarray,  # int32 codes (rows,)
        ratings: np.ndarray | None,  # float32 (rows,)
        times: np.ndarray | None,  # numbers or datetime64 (rows,)
        vocab: dict[str, Vocab],  # {'user': Vocab, 'item': Vocab}
        names: dict | None = None,  # column of each role in the table
        rows: np.ndarray | None = None,  # positions in that table, int (n,); None: all of them, in order
        weights: np.ndarray | None = None,  # float32 (rows,), how much a row is a positive; 0: seen, but not a positive
        no_times: str | None = None,  # why a time column that was found could not be used
        options: dict | None = None,  # those of `implicit`
        context: np.ndarray | None = None,  # int64 (rows, columns), what belongs to the interaction itself
        context_of: Context | None = None,  # what encodes it
        row_weights: np.ndarray | None = None,  # float32 (rows,), what a rating counts in the loss
        missing_rating: Any = None,  # value or values that stood for 'no rating' in the table
    ) -> None:
        self.users = users
        self.items = items
        self.vocab = vocab
        self.names = names or dict(user='user', item='item', rating='rating', time='time')
        self.rows = rows
        self.no_times = no_times
        self.options = options
        self.context_of = context_of
        self.missing_rating = missing_rating
        # arrays or None; `Any`, so that those who know that they are there need not say so to a type checker
        self.ratings: Any = ratings
        self.times: Any = times
        self.weights: Any = weights
        self.context: Any = context
        self.row_weights: Any = row_weights
        columns = dict(items=items, ratings=ratings, times=times, context=context, row_weights=row_weights)
        for name, column in columns.items():
            if column is not None and len(column) != len(users):
                raise ValueError(f'{name} has {len(column):,} rows, users has {len(users):,}')

    @classmethod
    @check_arguments
    def from_df(
        cls,
        df: Any,  # a DataFrame, or a table of polars, pyarrow, ...: one row per interaction
        user_name: str | None = None,  # column of user ids; by default a known name, else the first column
        item_name: str | None = None,  # column of item ids; by default a known name, else the second column
        # column of ratings; by default a known name, else the third column; False: none
        rating_name: str | bool | None = None,
        # column of times (numbers or datetimes); by default a known name, else the fourth column; False: none
        time_name: str | bool | None = None,
        # repeated user-item pairs: 'error', keep the 'first' or 'last' (by time, else by row), or the 'mean' rating (by
        # weight, if there is one; weights add up, time and context are those of the last)
        duplicates: str = 'error',
        y_range: tuple[float, float] | None = None,  # ratings must lie in it
        user_vocab: Vocab | None = None,  # known users; by default those of the table
        item_vocab: Vocab | None = None,  # known items; by default those of the table
        own: bool = False,  # the table is nobody else's: give up each column when it is converted
        # columns of what belongs to the interaction itself (see `Context`), or the `Context` of an earlier table
        context: Any = None,
        # column of what each rating counts in the loss, from 0 up; by default all count the same
        weight_name: str | None = None,
        # value or values in the place of a rating that say that there is none (-1, 0, 99): those rows are dropped
        missing_rating: Any = None,
    ) -> Interactions:
        """`Interactions` of a table, checked: every problem is a `ValueError` that says what to do."""
        df = as_frame(df)
        _check_table(df, duplicates)
        given = dict(user=user_name, item=item_name, rating=rating_name, time=time_name)
        names = _roles(df, given)
        columns = list(df.columns)
        rated = None  # rows with a rating; None: all
        if missing_rating is not None:
            rated = _rated_rows(df, names['rating'], missing_rating)
            df = df.iloc[rated]
        if context is not None and not isinstance(context, Context):
            context = Context.fit(df, context, names)
        context_codes = None if context is None else context.encode(df)
        row_weights = None if weight_name is None else _check_weights(df, weight_name)
        if weight_name is not None:
            names['weight'] = weight_name

        def give_up(role: str) -> None:
            """The column has been converted: its memory is free if nobody else has the table."""
            if own and names[role] is not None:
                df.pop(names[role])

        user_vocab, users = _check_ids(df, names['user'], 'user', user_vocab)
        give_up('user')
        item_vocab, items = _check_ids(df, names['item'], 'item', item_vocab)
        give_up('item')
        _check_several(user_vocab, names['user'])
        _check_several(item_vocab, names['item'])
        vocab = dict(user=user_vocab, item=item_vocab)
        check_header(names, given, vocab, users, items, columns)
        ratings = None if names['rating'] is None else check_ratings(df, names['rating'], y_range)
        give_up('rating')
        times, no_times = _times_or_why_not(df, names['time'], is_asked=time_name is not None)
        if no_times is not None:
            names['time'] = None
        give_up('time')
        res = cls(
            users,
            items,
            ratings,
            times,
            vocab,
            names,
            rows=rated,
            no_times=no_times,
            context=context_codes,
            context_of=context,
            row_weights=row_weights,
            missing_rating=missing_rating,
        )
        return res if duplicates == 'keep' else res.merge_duplicates(duplicates)

    def merge_duplicates(
        self,
        policy: str,  # 'error', 'first', 'last' or 'mean'; as `duplicates` of `from_df`
    ) -> Interactions:
        """The same with one row per pair, in the order of the table; itself if no pair repeats.

        A 'mean' is that by the weights of the rows, which add up; time and context are those of the last. `ValueError`
        for repeated pairs under 'error'.
        """
        by_pair = self._by_pair()
        if by_pair is None:
            return self
        order, starts = by_pair
        if policy == 'error':
            raise ValueError(self._repeated_pairs(order, starts))
        ends: np.ndarray = np.append(starts[1:], len(self))
        kept = order[starts] if policy == 'first' else order[ends - 1]
        ratings, row_weights = self.ratings, self.row_weights
        if policy == 'mean' and ratings is not None:
            ratings = ratings.copy()
            ratings[kept] = self._mean_ratings(order, starts, ends - starts)
        if policy == 'mean' and row_weights is not None:
            row_weights = row_weights.copy()
            row_weights[kept] = np.add.reduceat(self.row_weights[order].astype(np.float64), starts)
        kept = np.sort(kept)
        return Interactions(
            self.users[kept],
            self.items[kept],
            _taken(ratings, kept),
            _taken(self.times, kept),
            self.vocab,
            self.names,
            rows=kept if self.rows is None else self.rows[kept],
            no_times=self.no_times,
            context=_taken(self.context, kept),
            context_of=self.context_of,
            row_weights=_taken(row_weights, kept),
            missing_rating=self.missing_rating,
        )

    def _mean_ratings(self, order: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Mean rating of each pair, float64 (pairs,), by the weights of its rows; by none where all of them are 0."""
        ratings = self.ratings[order].astype(np.float64)
        plain = np.add.reduceat(ratings, starts) / lengths
        if self.row_weights is None:
            return plain
        weights = self.row_weights[order].astype(np.float64)
        total = np.add.reduceat(weights, starts)
        weighted = np.add.reduceat(weights * ratings, starts)
        return np.divide(weighted, total, out=plain, where=total > 0)

    def _repeated_pairs(self, order: np.ndarray, starts: np.ndarray) -> str:
        """What is said of repeated pairs, with up to three of them."""
        n_repeated = len(self) - len(starts)
        repeated = order[np.setdiff1d(np.arange(len(self)), starts)]
        user_ids, item_ids = self.vocab['user'].ids, self.vocab['item'].ids
        pairs = ', '.join(
            f'({first_few([user_ids[self.users[row]], item_ids[self.items[row]]])})' for row in repeated[:3]
        )
        return (
            f'{n_repeated:,} rows repeat a user-item pair, e.g. {pairs}. '
            "Say which rating counts: duplicates='last', 'first' or 'mean' "
            "(or target='implicit', where repeats add up)"
        )

    def implicit(
        self,
        threshold: float | None = None,  # ratings from it on are positives (None: every row is)
        weighted: bool = False,  # a row counts as much as its rating says (play counts), not once
        # value or values in the place of a rating that say that there is none: those rows are seen, but not positives
        missing_rating: Any = None,
    ) -> Interactions:
        """The same as implicit feedback: one row per pair, the last one, in which repeats add up to `weights`.

        `ValueError` for options that the ratings do not go with.
        """
        threshold = None if threshold is None else float(threshold)  # a float64 of numpy would be compared in float64
        weights = self._weights(threshold, weighted, missing_rating)
        by_pair = self._by_pair()
        if by_pair is None:
            if weighted:
                _warn_of_tail(weights)
            rows, source = slice(None), self.rows
        else:
            order, starts = by_pair
            ends: np.ndarray = np.append(starts[1:], len(self))
            weights = np.add.reduceat(weights[order].astype(np.float64), starts).astype(np.float32)
            _warn_of_tail(weights)
            last = order[ends - 1]
            in_table_order = np.argsort(last)
            weights = weights[in_table_order]
            rows = last[in_table_order]
            source = rows if self.rows is None else self.rows[rows]
        return Interactions(
            self.users[rows],
            self.items[rows],
            _taken(self.ratings, rows),
            _taken(self.times, rows),
            self.vocab,
            self.names,
            rows=source,
            weights=weights,
            no_times=self.no_times,
            options=dict(threshold=threshold, weighted=weighted, missing_rating=missing_rating),
            missing_rating=missing_rating,
        )

    def _weights(self, threshold: float | None, weighted: bool, missing_rating: Any) -> np.ndarray:
        """float32 (rows,): how much each row is a positive; see `implicit`."""
        ratings = self.ratings
        options = dict(threshold=threshold, weighted=weighted or None, missing_rating=missing_rating)
        asked = [name for name, value in options.items() if value is not None]
        if ratings is None and asked:
            raise ValueError(
                f'{asked[0]}= speaks of ratings, and the table has none. '
                'Name their column with rating_name=, or leave it out: every row counts once'
            )
        unrated = None if missing_rating is None else is_missing(ratings, missing_rating)
        if weighted or threshold is not None:
            _warn_of_sentinels(ratings, missing_rating, threshold)
        weights = ratings if weighted else np.ones(len(self), np.float32)
        if unrated is not None:
            weights = np.where(unrated, np.float32(0), weights)
        if weighted and (weights < 0).any():
            raise ValueError(
                f'{int((weights < 0).sum()):,} of {len(self):,} weights are negative: '
                'a count says how much a row counts as a positive. A number that stands for no count is named with '
                'missing_rating='
            )
        if threshold is not None:
            weights = np.where(ratings >= threshold, weights, 0).astype(np.float32)
        if weights.any():
            return weights
        if threshold is None:
            raise ValueError(f'every rating is missing_rating={missing_rating}: no positive is left')
        raise ValueError(
            f'no rating reaches threshold={threshold:g}: they run from {ratings.min():g} to {ratings.max():g}'
        )

    def warn_of_sentinels(self) -> None:
        """Warn where a value at an edge of the ratings looks as if it stood for 'no rating'."""
        if self.ratings is not None:
            _warn_of_sentinels(self.ratings, self.missing_rating)

    def _by_pair(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Order of the rows by pair, then time (else position), and where in it each pair starts.

        None if no pair repeats.
        """
        if not self._repeats():
            return None
        pair = self.users.astype(np.int64) * self.n_items + self.items
        order = np.argsort(pair, kind='stable') if self.times is None else np.lexsort((self.times, pair))
        starts = np.flatnonzero(np.diff(pair[order], prepend=-1))  # codes are >= 0, so the first row starts a group
        return order, starts

    def _repeats(self) -> bool:
        """Does any pair repeat? Some users at a time, to have few pairs to sort."""
        n_parts = -(-len(self) // (4 * CHUNK_ROWS))
        bounds = np.linspace(0, self.n_users, n_parts + 1).astype(np.int64)
        for first, end in pairwise(bounds):
            rows = slice(None) if n_parts == 1 else (self.users >= first) & (self.users < end)
            pair: np.ndarray = self.users[rows].astype(np.int64)
            pair *= self.n_items
            pair += self.items[rows]
            pair.sort()
            if (pair[1:] == pair[:-1]).any():
                return True
        return False

    def with_vocab(
        self,
        vocab: dict[str, Vocab],  # {'user': ids, 'item': ids}: those there are, in their order, then further ones
    ) -> Interactions:
        """The same rows under a vocabulary that has further ids after those there are."""
        res = copy(self)
        res.vocab = vocab
        return res

    def __len__(self) -> int:
        return len(self.users)

    def __repr__(self) -> str:
        ratings = '' if self.ratings is None else f', ratings {self.ratings.min():g} to {self.ratings.max():g}'
        return f'Interactions({len(self):,} rows, {self.n_users:,} users, {self.n_items:,} items{ratings})'

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.vocab['user'])

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.vocab['item'])

    def positive(
        self,
        rows: np.ndarray | None = None,  # positions, int (n,); None: all
    ) -> np.ndarray:
        """Positions of the positives among `rows`: those with a weight above 0; without weights every row."""
        rows = np.arange(len(self)) if rows is None else rows
        return rows if self.weights is None else rows[self.weights[rows] > 0]

    def counts(
        self,
        side: str,  # 'user' or 'item'
        rows: Any = None,  # positions; None: all
    ) -> np.ndarray:
        """Interactions per user or item among `rows`, int64 `(n_users,)` or `(n_items,)`."""
        codes = self.users if side == 'user' else self.items
        counts: np.ndarray = np.zeros(len(self.vocab[side]), np.int64)
        for chunk in in_chunks(len(self) if rows is None else len(rows)):
            chosen = codes[chunk] if rows is None else codes[rows[chunk]]
            counts += np.bincount(chosen, minlength=len(counts))
        return counts

    def to_df(
        self,
        rows: Any = None,  # positions; None: all
    ) -> pd.DataFrame:
        """Rows with the user's own ids: user, item, rating, time (those there are)."""
        rows = slice(None) if rows is None else rows
        columns = dict(
            user=self.vocab['user'].decode(self.users[rows]),
            item=self.vocab['item'].decode(self.items[rows]),
        )
        if self.ratings is not None:
            columns['rating'] = self.ratings[rows]
        if self.times is not None:
            times = self.times[rows]
            columns['time'] = times.astype(np.int64) if times.dtype == np.int32 else times
        return pd.DataFrame(columns)


def _check_table(df: pd.DataFrame, duplicates: str) -> None:
    """Has it rows, and is `duplicates` a policy?"""
    if duplicates not in (*DUPLICATES, 'keep'):
        raise ValueError(f'duplicates={duplicates!r}: choose one of {first_few(DUPLICATES)}')
    if not len(df):
        raise ValueError('the table is empty: it needs one row per interaction')


def check_header(
    names: dict[str, Any],  # column of each role
    given: dict[str, Any],  # those that were asked for
    vocab: dict[str, Vocab],
    users: np.ndarray,  # codes
    items: np.ndarray,  # codes
    columns: list,  # of the table
) -> None:
    """`ValueError` where a row was taken for the header, or the header for a row (see `check_first_row`)."""
    ids = {side: known.ids for side, known in vocab.items()}
    first = dict(user=ids['user'][users[0]], item=ids['item'][items[0]])
    check_first_row(names, given, ids, first, columns)


def _roles(df: pd.DataFrame, given: dict[str, Any]) -> dict[str, Any]:
    """Column of each role (`find_columns`); `ValueError` if one is to play two."""
    names = find_columns(df, given)
    used = [name for name in names.values() if name is not None]
    if repeated := {name for name in used if used.count(name) > 1}:
        raise ValueError(f'column {first_few(repeated)} is asked to play two roles: {names}')
    return names


def _times_or_why_not(df: pd.DataFrame, name: Any, is_asked: bool) -> tuple[np.ndarray | None, str | None]:
    """Times of column `name`, and what is wrong with it if they cannot be used; both None without a column.

    Of a column that nobody asked for it matters only if a splitter wants times; of another it is an error.
    """
    if name is None:
        return None, None
    try:
        return _check_times(df, name), None
    except ValueError as e:
        if is_asked:
            raise
        return None, str(e)


def _taken(values: np.ndarray | None, rows: np.ndarray | slice) -> np.ndarray | None:
    """The `rows` of an array, if there is one."""
    return None if values is None else values[rows]
