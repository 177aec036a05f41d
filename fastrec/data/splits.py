"""Splitters: `Interactions` -> index arrays (train, valid[, test]) over the same vocab. Rows are never copied.

Any function that takes something with a length and returns two or three index arrays is a splitter, so fastai's
`RandomSplitter` and `IndexSplitter` work as they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from types import FunctionType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from ..keywords import check_arguments
from ..notices import warn_user
from .interactions import Interactions

__all__ = [
    'KFoldSplitter',
    'LeaveLastSplitter',
    'Split',
    'TimeSplitter',
    'describe_splitter',
    'make_split',
    'split_summary',
]

LARGE = 2**24  # rows from which on positions are kept as int32
PARTS = ('train', 'valid', 'test')


class Split(NamedTuple):
    """Positions of the rows of each part, int64 arrays (int32 in tables of 16 million rows and more)."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray | None = None


def _times(inter: Interactions, who: str) -> np.ndarray:
    """The times of the rows; `ValueError` that says why where there are none."""
    times = getattr(inter, 'times', None)  # a splitter may be called with anything that has a length
    if times is None:
        why = getattr(inter, 'no_times', None) or 'no time column was found'
        raise ValueError(f'{who} needs times: pass time_name= when the interactions are made ({why})')
    return times


class TimeSplitter:
    """Split in time: rows after one moment are valid (after a second one: test).

    The moment is the same for everybody: the honest protocol for a system that recommends tomorrow what it learned
    until today; many valid users are new then. Of shares, rows at the very moment of the cut stay together on the
    earlier side, so parts can be a little smaller than asked for. Of dates, rows from then on (midnight of a day, UTC)
    are later: `TimeSplitter('1998-03-01')`; times that are numbers count from 1970, in seconds, milli-, micro- or
    nanoseconds, as their size tells.

    With `by='user'` it is a moment for each user, of whose n rows the last round(n * share) are held out (halves up),
    so none of users with one or two rows at a share of 0.2, and never the first. Ties in time are broken at random by
    `seed` (`n_ties` users, after the call). A row that is held out can then be older than training rows of others: it
    says how models compare, not how well tomorrow is predicted.

    `ValueError` for what leaves nothing to train on or to hold out, and where the interactions have no times.
    """

    @check_arguments
    def __init__(
        self,
        valid_pct: float | str | date = 0.2,  # share of rows in valid, or the date (as text or datetime) it begins at
        test_pct: float | str | date = 0.0,  # share of rows in test, after valid, or the date it begins at
        by: str | None = None,  # 'user': shares of each user's own rows; None: of all rows
        seed: int = 0,  # breaks ties in time, with by='user'
    ) -> None:
        if by not in (None, 'user'):
            raise ValueError(f"by={by!r}: 'user', or None for one moment for everybody")
        self.dates = _dates(valid_pct, test_pct)
        if not self.dates and not (valid_pct > 0 and test_pct >= 0 and valid_pct + test_pct < 1):  # type: ignore
            raise ValueError(
                f'valid_pct={valid_pct}, test_pct={test_pct}: shares above 0 that leave something to train on, '
                "or dates such as '1998-03-01'"
            )
        if self.dates and by == 'user':
            raise ValueError("by='user' goes with shares: a date is the same for everybody")
        self.valid_pct: Any = str(valid_pct) if self.dates else valid_pct
        self.test_pct: Any = str(test_pct) if len(self.dates) > 1 else test_pct
        self.by = by
        self.seed = seed
        self.n_ties = 0  # with by='user': users for whom the seed decided what is held out, as of the last call

    def __repr__(self) -> str:
        return describe_splitter(self)

    def __call__(self, inter: Interactions) -> Split:
        times = _times(inter, 'TimeSplitter')
        if self.by == 'user':
            return self._by_user(inter, times)
        if self.dates:
            is_later = [times >= _moment_in(times, begin) for begin in self.dates]
        else:
            ordered = np.sort(times)
            shares = [self.valid_pct + self.test_pct, self.test_pct] if self.test_pct else [self.valid_pct]
            is_later = [times > _moment_of_share(ordered, share) for share in shares]
        if len(is_later) == 1:
            return Split(np.flatnonzero(~is_later[0]), np.flatnonzero(is_later[0]))
        after, last = is_later
        return Split(np.flatnonzero(~after), np.flatnonzero(after & ~last), np.flatnonzero(last))

    def _by_user(self, inter: Interactions, times: np.ndarray) -> Split:
        """The last share of each user's rows."""
        warn_user(
            "TimeSplitter(by='user') holds out each user's own last rows, so a model learns from what others did "
            'later: it says how models compare, not how well tomorrow is predicted (TimeSplitter() does)'
        )
        order = _by_user_and_time(inter, times, np.arange(len(inter)), self.seed)
        counts = inter.counts('user', order)
        n_later, n_spare = _within_user(counts)
        n_held_out, n_test = (
            np.floor(np.repeat(counts, counts) * share + 0.5)
            for share in (self.valid_pct + self.test_pct, self.test_pct)
        )
        is_test = n_later < np.minimum(n_test, n_spare)
        is_held_out = n_later < np.minimum(n_held_out, n_spare)
        self.n_ties = _count_ties(inter.users[order], times[order], is_held_out, is_test)
        train, valid, test = (np.sort(order[rows]) for rows in (~is_held_out, is_held_out & ~is_test, is_test))
        return Split(train, valid, test if self.test_pct else None)


def _dates(*moments: Any) -> list[pd.Timestamp]:
    """The dates among what may be shares or dates, in UTC; `ValueError` for texts that are none, and for a wrong order.

    A first one that is a date may stand alone (the second is 0).
    """
    if isinstance(moments[0], (float, int)) and isinstance(moments[1], (float, int)):
        return []
    given = [moments[0]] if isinstance(moments[1], (float, int)) and not moments[1] else list(moments)
    if any(isinstance(o, (float, int)) for o in given):
        raise ValueError(f'valid_pct={moments[0]!r}, test_pct={moments[1]!r}: two shares, or two dates')
    dates = []
    for moment in given:
        try:
            stamp = pd.Timestamp(moment)
        except (ValueError, TypeError) as e:
            raise ValueError(f"{moment!r} is not a date such as '1998-03-01' ({e})") from e
        dates.append(stamp if stamp.tz is None else stamp.tz_convert(None))
    if len(dates) > 1 and dates[1] <= dates[0]:
        raise ValueError(f'test begins at {moments[1]!r}, which has to be after valid begins, {moments[0]!r}')
    return dates


def _moment_in(times: np.ndarray, begin: pd.Timestamp) -> Any:
    """The date `begin` as `times` have it; `ValueError` where none of them is before, or none from then on."""
    unit = 'ns'
    if times.dtype.kind == 'M':
        moment: Any = begin.to_datetime64()
    else:
        largest = np.abs(times).max()
        unit = next((o for o, limit in (('s', 1e11), ('ms', 1e14), ('us', 1e17)) if largest < limit), 'ns')
        moment = (begin - pd.Timestamp(0)) / pd.Timedelta(1, unit)
    first, last = times.min(), times.max()
    if not first < moment <= last:
        as_dates = ' to '.join(
            str(pd.Timestamp(o) if unit == 'ns' else pd.Timestamp(o, unit=unit)) for o in (first, last)
        )
        numbers = '' if times.dtype.kind == 'M' else f' ({first} to {last} {unit} since 1970)'
        raise ValueError(f'{begin} cuts nothing off: the times run from {as_dates}{numbers}')
    return moment


def _moment_of_share(ordered: np.ndarray, share_after: float):
    """The moment after which at most this share of the `ordered` times lies."""
    n_before = round(len(ordered) * (1 - share_after))
    return ordered[max(n_before - 1, 0)]


class LeaveLastSplitter:
    """Each user's last `n` rows are valid (and the `n_test` after them test). A user keeps at least one row in train.

    Ties in time are broken at random by `seed`; how many users that concerned is in `n_ties` after the call. The last
    row of one user can be older than the training rows of another, so this protocol lets the future leak across users:
    `TimeSplitter` does not. Of implicit feedback with a threshold only positives are held out. `ValueError` where the
    interactions have no times.
    """

    @check_arguments
    def __init__(
        self,
        n: int = 1,  # rows per user in valid
        n_test: int = 0,  # rows per user in test, after those
        seed: int = 0,  # breaks ties in time
    ) -> None:
        if n < 1 or n_test < 0:
            raise ValueError(f'n={n}, n_test={n_test}: hold out at least one row per user')
        self.n = n
        self.n_test = n_test
        self.seed = seed
        self.n_ties = 0  # users for whom the seed decided what is held out, as of the last call

    def __repr__(self) -> str:
        return describe_splitter(self)

    def __call__(self, inter: Interactions) -> Split:
        times = _times(inter, 'LeaveLastSplitter')
        warn_user(
            "LeaveLastSplitter holds out each user's own last rows, so a model learns from what others did later: "
            'it says how models compare, not how well tomorrow is predicted (TimeSplitter does)'
        )
        rows = inter.positive()
        order = _by_user_and_time(inter, times, rows, self.seed)
        n_later, n_spare = _within_user(inter.counts('user', rows))
        is_test = n_later < np.minimum(self.n_test, n_spare)
        is_held_out = n_later < np.minimum(self.n + self.n_test, n_spare)
        is_valid = is_held_out & ~is_test
        self.n_ties = _count_ties(inter.users[order], times[order], is_held_out, is_test)
        valid = np.sort(order[is_valid])
        test = np.sort(order[is_test])
        train = np.setdiff1d(np.arange(len(inter)), np.concatenate([valid, test]), assume_unique=True)
        return Split(train, valid, test if self.n_test else None)


def _by_user_and_time(inter: Interactions, times: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """`rows` (positions) by user, then time, then at random."""
    tie_break = np.random.default_rng(seed).permutation(len(rows))
    return rows[np.lexsort((tie_break, times[rows], inter.users[rows]))]


def _within_user(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of rows sorted by user, from the number of rows of each: how many are still to come of the same user (n,).

    And how many its user can give away (n,): all but one.
    """
    last_of_user: np.ndarray = np.repeat(np.cumsum(counts) - 1, counts)
    n_later = last_of_user - np.arange(len(last_of_user))
    return n_later, np.repeat(counts - 1, counts)


def _count_ties(users: np.ndarray, times: np.ndarray, is_held_out: np.ndarray, is_test: np.ndarray) -> int:
    """Users for whom a boundary between two parts falls between rows of one time."""
    part = is_held_out.astype(np.int8) + is_test
    same_moment = (users[1:] == users[:-1]) & (times[1:] == times[:-1])
    torn = same_moment & (part[1:] != part[:-1])
    return len(np.unique(users[1:][torn]))


class KFoldSplitter:
    """The `fold`-th of `n_folds` random parts of (nearly) one size is valid: `KFoldSplitter(5)[0]` ... `[4]`.

    Called itself it gives the first fold; iterating gives a splitter per fold, as `cross_validate` does. `ValueError`
    for less than two folds, and a fold that there is not.
    """

    @check_arguments
    def __init__(
        self,
        n_folds: int = 5,  # parts
        seed: int = 0,  # of the draw, which all folds share
        fold: int = 0,  # the part that is valid
    ) -> None:
        if n_folds < 2 or not 0 <= fold < n_folds:
            raise ValueError(f'n_folds={n_folds}, fold={fold}: at least two folds, 0 <= fold < n_folds')
        self.n_folds = n_folds
        self.seed = seed
        self.fold = fold

    def __repr__(self) -> str:
        return describe_splitter(self)

    def __len__(self) -> int:
        return self.n_folds

    def __getitem__(self, fold: int) -> KFoldSplitter:
        if not 0 <= fold < self.n_folds:
            raise IndexError(fold)
        return KFoldSplitter(self.n_folds, self.seed, fold)

    def __call__(self, inter: Interactions) -> Split:
        if len(inter) < self.n_folds:
            raise ValueError(f'{len(inter)} rows cannot be split into {self.n_folds} folds')
        folds = np.array_split(np.random.default_rng(self.seed).permutation(len(inter)), self.n_folds)
        valid = np.sort(folds.pop(self.fold))
        return Split(np.sort(np.concatenate(folds)), valid)


def everything(inter: Interactions) -> Split:
    """All rows are for training and none is held out, as for the last fit before a model is used."""
    return Split(np.arange(len(inter)), np.empty(0, np.int64))


# --- every way to say a split


def make_split(
    inter: Interactions,  # the rows to split
    splitter: Callable | str | Iterable,  # a splitter, the name of a column of `df`, or two or three index arrays
    df: pd.DataFrame | None = None,  # the table that `inter` was made from, and that index arrays point into
) -> Split:
    """The checked `Split` of `inter` that `splitter` describes: parts within the table, apart from each other.

    No part is empty, except valid where nothing is to be held out (`everything`). `ValueError` for a split that is not
    so, and for a column that is not there; `TypeError` for a class in place of a splitter.
    """
    given: Iterable
    if isinstance(splitter, str):
        given = _from_column(inter, splitter, df)
    elif isinstance(splitter, type):
        raise TypeError(f'splitter={splitter.__name__} is a class: make one, e.g. {splitter.__name__}()')
    elif isinstance(splitter, FoldMaker):
        raise TypeError(
            f'splitter={splitter!r} makes several folds, and loaders have one split. All of them: '
            f'cross_validate(df, fit, {splitter!r}); the first: splitter=next({splitter!r}.split(df))'
        )
    elif callable(splitter) and df is not None and _is_col_splitter(splitter):
        given = _from_arrays(inter, splitter(df), df)
    elif callable(splitter):
        given = _positions(splitter(inter), len(inter))
    elif isinstance(splitter, Split) and df is None:
        given = _positions(splitter, len(inter))  # of these very rows, repeated pairs merged
    else:
        given = _from_arrays(inter, splitter, df)
    kind = np.int64 if len(inter) < LARGE else np.int32
    parts = [np.asarray(o, dtype=kind) for o in given if o is not None]
    may_hold_out_nothing = splitter is everything or isinstance(splitter, Split)
    _check_parts(parts, len(inter), may_hold_out_nothing)
    return Split(*parts)


def reads_table(splitter: Callable | str | Iterable) -> bool:
    """Does a splitter look into the table: a column of it, positions in it, or fastai's `ColSplitter`?"""
    return not callable(splitter) or _is_col_splitter(splitter)


def _is_col_splitter(splitter: Any) -> bool:
    """Is it what fastai's `ColSplitter(column)` makes: a function of a table?"""
    return isinstance(splitter, FunctionType) and splitter.__qualname__.startswith('ColSplitter.')


def _from_column(inter: Interactions, name: str, df: pd.DataFrame | None) -> Split:
    """Split by a column of booleans (True: valid) or of 'train', 'valid', 'test'."""
    if df is None or name not in df.columns:
        raise ValueError(f'no column {name!r} to split by')
    values = df[name].reset_index(drop=True)
    if inter.rows is not None:  # repeated pairs were merged
        values = values.iloc[inter.rows].reset_index(drop=True)
    if values.isna().any():
        raise ValueError(f'column {name!r} that says the split has missing values')
    if pd.api.types.is_bool_dtype(values.dtype):
        return Split(np.flatnonzero(~values), np.flatnonzero(values))
    if extra := set(values.unique()) - set(PARTS):
        raise ValueError(
            f'column {name!r} that says the split holds {sorted(map(str, extra))[:5]}: '
            "use booleans (True for valid) or the words 'train', 'valid', 'test'"
        )
    train, valid, test = (np.flatnonzero(values == o) for o in PARTS)
    return Split(train, valid, test if len(test) else None)


def _from_arrays(inter: Interactions, arrays: Iterable, df: pd.DataFrame | None) -> list:
    """Positions in `inter` of index arrays or masks of the table."""
    if inter.rows is None:
        return _positions(arrays, len(inter))
    # repeated pairs were merged: the arrays speak of the table as it was given
    n_table = int(inter.rows.max()) + 1 if df is None else len(df)
    parts = _positions(arrays, None if df is None else n_table)
    merged_to = np.full(n_table, -1)
    merged_to[inter.rows] = np.arange(len(inter))
    for i, part in enumerate(parts):
        if part is None:
            continue
        part = np.asarray(part, dtype=np.int64)
        _check_within(_name_of_part(i), part, n_table)
        at = merged_to[part]
        parts[i] = at[at >= 0]
    return parts


def _name_of_part(i: int) -> str:
    """The name of the part at place `i`; a split with more than three is refused later."""
    return (*PARTS, 'fourth')[min(i, 3)]


def _positions(
    parts: Iterable,
    n: int | None,  # rows of the table; None: not known, since rows were left out of it
) -> list:
    """Positions of each part, given as such or as masks; `ValueError` for a mask of another length than the table."""
    if isinstance(parts, (int, float)):
        raise TypeError(
            f'splitter={parts!r}: a splitter such as TimeSplitter(0.2), the name of a column, or index arrays '
            '(train, valid[, test]); a share of random rows is valid_pct='
        )
    res = []
    for i, part in enumerate(parts):
        mask = None if part is None else _mask(part)
        if mask is not None and n is not None and len(mask) != n:
            raise ValueError(
                f'the {_name_of_part(i)} part of the split is a mask of {len(mask):,} rows, and the table has {n:,}: '
                'a mask says True or False of each row. Make it of the very table that is given'
            )
        res.append(part if mask is None else np.flatnonzero(mask))
    return res


def _mask(part: Any) -> np.ndarray | None:
    """A part that is given as a mask, bool (rows,); None where it is positions."""
    values = np.asarray(part)
    if values.dtype == object:  # as masks of pandas' own booleans
        values = pd.Series(values.ravel()).infer_objects().to_numpy()
    return values if values.dtype == bool else None


def _check_within(name: str, part: np.ndarray, n: int) -> None:
    """`ValueError` if positions point outside `n` rows."""
    if len(part) and (part.min() < 0 or part.max() >= n):
        raise ValueError(f'the {name} part of the split points outside the {n:,} rows: {part.min()} to {part.max()}')


def _check_parts(parts: Sequence[np.ndarray], n: int, may_hold_out_nothing: bool) -> None:
    """`ValueError` unless these are two or three parts of `n` rows, apart from each other and not empty."""
    if len(parts) not in (2, 3):
        raise ValueError(f'a split is two or three index arrays (train, valid[, test]), got {len(parts)}')
    for name, part in zip(PARTS, parts):
        if not len(part) and not (name == 'valid' and may_hold_out_nothing):
            way_out = '. To train on every row: valid_pct=0' if name == 'valid' else ''
            raise ValueError(f'the {name} part of the split is empty ({n:,} rows in all){way_out}')
        _check_within(name, part, n)
    taken: np.ndarray = np.zeros(n, dtype=bool)
    for part in parts:
        taken[part] = True
    if taken.sum() < sum(map(len, parts)):
        together = np.concatenate(parts)
        n_repeated = len(together) - len(np.unique(together))
        raise ValueError(
            f'{n_repeated:,} rows are in more than one part of the split (or twice in one): each row may be used once'
        )


# --- folds of scikit-learn


@runtime_checkable
class FoldMaker(Protocol):
    """What scikit-learn's splitters are: `KFold(5)` and its like, which make several pairs of index arrays."""

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """How many folds it makes."""

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterable:
        """The index arrays (train, valid) of each fold."""


def folds_of(
    maker: FoldMaker,
    n_rows: int,  # of the table
) -> list:
    """Index arrays (train, valid) into the table, of each fold; `ValueError` for those that need more than its rows."""
    try:
        return list(maker.split(np.zeros((n_rows, 1))))
    except (TypeError, ValueError) as e:
        name = type(maker).__name__
        raise ValueError(
            f'{maker!r} makes no folds of {n_rows:,} rows alone ({e}). Make them yourself, by users for example: '
            f"splitter=list({name}(...).split(df, df['rating'], groups=df['user']))"
        ) from e


# --- a split in words


def describe_splitter(
    splitter: Callable | str | Iterable,  # a splitter, the name of a column, or index arrays
) -> str:
    """What a splitter is, with its settings, in words.

    `LeaveLastSplitter(n=1, n_test=0, seed=0)`, `RandomSplitter(valid_pct=0.1, seed=42)`, a column, or index arrays.
    """
    if isinstance(splitter, str):
        return f'column {splitter!r}'
    if not callable(splitter):
        return 'given index arrays'
    if isinstance(splitter, FunctionType):  # a function that another made, as fastai's splitters are
        settings = dict(inspect.getclosurevars(splitter).nonlocals)
        name = splitter.__qualname__.split('.<locals>')[0]
    else:
        settings = {k: v for k, v in vars(splitter).items() if k not in ('n_ties', 'dates')}
        name = type(splitter).__name__
    plain = {k: v for k, v in settings.items() if v is None or isinstance(v, (bool, int, float, str))}
    return f'{name}({", ".join(f"{k}={v!r}" for k, v in plain.items())})'


def split_summary(
    inter: Interactions,  # the rows
    split: Split,  # which of them are in train, valid and test
) -> str:
    """What is in each part, in lines of words: rows, users, items, density, and who is cold (has no training row).

    And how many training rows users and items have.
    """
    learned = inter.positive(split.train)
    counts = {side: inter.counts(side, learned) for side in ('user', 'item')}
    lines = [_table_in_words(inter)]
    if inter.weights is not None and (n_positive := len(inter.positive())) < len(inter):
        lines.append(f'{n_positive:,} rows are positives; the others were seen, and are never drawn as negatives')
    what = 'rows' if inter.weights is None else 'positives'
    lines += [f'training {what} per {side}: {_spread_in_words(counts[side])}' for side in counts]
    for name, rows in zip(PARTS, split):
        if rows is None or not len(rows):
            continue
        users = inter.users[rows]
        items = inter.items[rows]
        line = f'{name}: {len(rows):,} rows, {len(np.unique(users)):,} users, {len(np.unique(items)):,} items'
        if name != 'train':
            line += _cold_in_words(users, items, counts)
        lines.append(line)
    return '\n'.join(lines)


def _table_in_words(inter: Interactions) -> str:
    density = len(inter) / inter.n_users / inter.n_items
    line = f'{len(inter):,} rows, {inter.n_users:,} users, {inter.n_items:,} items, density {density:.3%}'
    ratings = inter.ratings
    if ratings is None:
        return line
    return f'{line}, ratings {ratings.min():g} to {ratings.max():g} (mean {ratings.mean():.2f})'


def _spread_in_words(counts: np.ndarray) -> str:
    """The quantiles of the counts above 0, and how many are 0."""
    low, first, median, third, high = np.quantile(counts[counts > 0], [0, 0.25, 0.5, 0.75, 1])
    n_without = int((counts == 0).sum())
    return (
        f'min {low:.0f}, quartiles {first:.0f} / {median:.0f} / {third:.0f}, max {high:.0f}; without any: {n_without:,}'
    )


def _cold_in_words(users: np.ndarray, items: np.ndarray, counts: dict[str, np.ndarray]) -> str:
    """Which of the held-out pairs of codes (n,) have a user or an item without training rows."""
    cold_user = counts['user'][users] == 0
    cold_item = counts['item'][items] == 0
    cold = cold_user | cold_item
    return (
        f'; cold (no training row): {len(np.unique(users[cold_user])):,} users, '
        f'{len(np.unique(items[cold_item])):,} items, in {int(cold.sum()):,} rows ({cold.mean():.1%})'
    )
