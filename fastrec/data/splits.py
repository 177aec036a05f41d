"""Splitters: `Interactions` -> index arrays (train, valid[, test]) over the same vocab. Rows are never copied.

Any function that takes something with a length and returns two or three index arrays is a splitter, so fastai's
`RandomSplitter` and `IndexSplitter` work as they are."""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import NamedTuple
from warnings import warn

import numpy as np
import pandas as pd

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


class Split(NamedTuple):
    """Positions of the rows of each part, int64 arrays (int32 in tables of 16 million rows and more); `test` may be None."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray | None = None


def _times(inter, who):
    if getattr(inter, 'times', None) is None:
        why = getattr(inter, 'no_times', None) or 'no time column was found'
        raise ValueError(f'{who} needs times: pass time_name= when the interactions are made ({why})')
    return inter.times


class TimeSplitter:
    """Split at one moment for everybody: rows after it are valid (after a second one: test).

    Rows at the very moment of the cut stay together on the earlier side, so parts can be a little smaller than asked for.
    The honest protocol for a system that recommends tomorrow what it learned until today; many valid users are new then.
    """

    def __init__(
        self,
        valid_pct: float = 0.2,  # share of rows in valid
        test_pct: float = 0.0,  # share of rows in test, after valid
    ):
        if not (valid_pct > 0 and test_pct >= 0 and valid_pct + test_pct < 1):
            raise ValueError(
                f'valid_pct={valid_pct}, test_pct={test_pct}: shares above 0 that leave something to train on'
            )
        self.valid_pct, self.test_pct = valid_pct, test_pct

    def __call__(self, inter: Interactions) -> Split:
        times = _times(inter, 'TimeSplitter')
        n, ordered = len(times), np.sort(times)
        at = lambda pct: ordered[max(int(round(n * (1 - pct))) - 1, 0)]
        after = times > at(self.valid_pct + self.test_pct)
        if not self.test_pct:
            return Split(np.flatnonzero(~after), np.flatnonzero(after))
        last = times > at(self.test_pct)
        return Split(np.flatnonzero(~after), np.flatnonzero(after & ~last), np.flatnonzero(last))


class LeaveLastSplitter:
    """Each user's last `n` rows are valid (and the `n_test` after them test). A user keeps at least one row in train.

    Ties in time are broken at random by `seed`; how many users that concerned is in `n_ties` after the call. The last row of one user can
    be older than the training rows of another, so this protocol lets the future leak across users: `TimeSplitter` does not. Of implicit feedback with a
    threshold only positives are held out.
    """

    def __init__(
        self,
        n: int = 1,  # rows per user in valid
        n_test: int = 0,  # rows per user in test, after those
        seed: int = 0,  # breaks ties in time
    ):
        if n < 1 or n_test < 0:
            raise ValueError(f'n={n}, n_test={n_test}: hold out at least one row per user')
        self.n, self.n_test, self.seed, self.n_ties = n, n_test, seed, 0

    def __call__(self, inter: Interactions) -> Split:
        times = _times(inter, 'LeaveLastSplitter')
        warn(
            "LeaveLastSplitter holds out each user's own last rows, so a model learns from what others did later: it says how models compare, not how well tomorrow is predicted (TimeSplitter does)",
            stacklevel=2,
        )
        rows = inter.positive()
        tie_break = np.random.default_rng(self.seed).permutation(len(rows))
        order = rows[np.lexsort((tie_break, times[rows], inter.users[rows]))]  # by user, then time, then at random
        counts = inter.counts('user', rows)
        ends = np.cumsum(counts)
        left = (np.repeat(ends, counts) - 1) - np.arange(len(order))  # rows of the same user still to come
        held = np.repeat(counts - 1, counts)  # a user with c rows can give away c-1
        is_test = left < np.minimum(self.n_test, held)
        is_valid = (left < np.minimum(self.n + self.n_test, held)) & ~is_test
        self.n_ties = self._count_ties(inter.users[order], times[order], is_valid | is_test, is_test)
        part = lambda mask: np.sort(order[mask])
        valid, test = part(is_valid), part(is_test)
        train = np.setdiff1d(np.arange(len(inter)), np.concatenate([valid, test]), assume_unique=True)
        return Split(train, valid, test if self.n_test else None)

    @staticmethod
    def _count_ties(users, times, held, is_test):
        """Users for whom a boundary between two parts falls between rows of one time."""
        part = held.astype(np.int8) + is_test
        tie = (users[1:] == users[:-1]) & (times[1:] == times[:-1]) & (part[1:] != part[:-1])
        return len(np.unique(users[1:][tie]))


class KFoldSplitter:
    """Row `i`-th fold of `n_folds` random parts of (nearly) one size is valid: `KFoldSplitter(5)[0]` ... `[4]`.

    Called itself it gives the first fold; iterating gives a splitter per fold, as `cross_validate` does.
    """

    def __init__(self, n_folds: int = 5, seed: int = 0, fold: int = 0):
        if n_folds < 2 or not 0 <= fold < n_folds:
            raise ValueError(f'n_folds={n_folds}, fold={fold}: at least two folds, 0 <= fold < n_folds')
        self.n_folds, self.seed, self.fold = n_folds, seed, fold

    def __len__(self):
        return self.n_folds

    def __getitem__(self, fold):
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


def _from_column(values, name):
    """Split by a column of booleans (True: valid) or of 'train', 'valid', 'test'."""
    if values.isna().any():
        raise ValueError(f'column {name!r} that says the split has missing values')
    if pd.api.types.is_bool_dtype(values.dtype):
        return Split(np.flatnonzero(~values), np.flatnonzero(values))
    known = {'train', 'valid', 'test'}
    if extra := set(values.unique()) - known:
        raise ValueError(
            f"column {name!r} that says the split holds {sorted(map(str, extra))[:5]}: use booleans (True for valid) or the words 'train', 'valid', 'test'"
        )
    part = {o: np.flatnonzero(values == o) for o in known}
    return Split(part['train'], part['valid'], part['test'] if len(part['test']) else None)


def make_split(
    inter: Interactions,  # the rows to split
    splitter,  # a splitter, the name of a column of `df`, or two or three index arrays into `df`
    df: pd.DataFrame = None,  # the table that `inter` was made from
) -> Split:
    """The checked `Split` of `inter` that `splitter` describes: parts within the table, apart from each other, none empty (but what `everything` holds out)."""
    n, rows = len(inter), inter.rows
    if isinstance(splitter, str):
        if df is None or splitter not in df.columns:
            raise ValueError(f'no column {splitter!r} to split by')
        values = df[splitter].reset_index(drop=True)
        split = _from_column(values if rows is None else values.iloc[rows].reset_index(drop=True), splitter)
    elif isinstance(splitter, type):
        raise TypeError(f'splitter={splitter.__name__} is a class: make one, e.g. {splitter.__name__}()')
    elif callable(splitter):
        split = splitter(inter)
    elif isinstance(splitter, Split) and df is None:
        split = splitter  # of these very rows, repeated pairs merged
    else:
        split = [o if o is None else np.flatnonzero(o) if np.asarray(o).dtype == bool else o for o in splitter]
        if rows is not None:  # repeated pairs were merged: the arrays speak of the table as it was given
            n_table = int(rows.max()) + 1 if df is None else len(df)
            where = np.full(n_table, -1)
            where[rows] = np.arange(n)

            def merged(name, part):
                part = np.asarray(part, dtype=np.int64)
                if len(part) and (part.min() < 0 or part.max() >= n_table):
                    raise ValueError(
                        f'the {name} part of the split points outside the {n_table:,} rows: {part.min()} to {part.max()}'
                    )
                at = where[part]
                return at[at >= 0]

            split = [
                o if o is None else merged(name, o) for name, o in zip(('train', 'valid', 'test', 'fourth'), split)
            ]
    parts = [np.asarray(o, dtype=np.int64 if n < LARGE else np.int32) for o in split if o is not None]
    if len(parts) not in (2, 3):
        raise ValueError(f'a split is two or three index arrays (train, valid[, test]), got {len(parts)}')
    for name, part in zip(('train', 'valid', 'test'), parts):
        if not len(part):
            if name == 'valid' and (splitter is everything or isinstance(splitter, Split)):
                continue
            raise ValueError(
                f'the {name} part of the split is empty ({n:,} rows in all)'
                + ('. To train on every row: valid_pct=0' if name == 'valid' else '')
            )
        if part.min() < 0 or part.max() >= n:
            raise ValueError(
                f'the {name} part of the split points outside the {n:,} rows: {part.min()} to {part.max()}'
            )
    taken = np.zeros(n, bool)
    for part in parts:
        taken[part] = True
    if taken.sum() < sum(map(len, parts)):
        together = np.concatenate(parts)
        raise ValueError(
            f'{len(together) - len(np.unique(together)):,} rows are in more than one part of the split (or twice in one): each row may be used once'
        )
    return Split(*parts)


def describe_splitter(splitter) -> str:
    """What a splitter is, with its settings: `LeaveLastSplitter(n=1, n_test=0, seed=0)`, `RandomSplitter(valid_pct=0.1, seed=42)`, a column, or index arrays."""
    if isinstance(splitter, str):
        return f'column {splitter!r}'
    if not callable(splitter):
        return 'given index arrays'
    if isinstance(splitter, FunctionType):  # a function that another made, as fastai's splitters are
        settings = inspect.getclosurevars(splitter).nonlocals
        name = splitter.__qualname__.split('.<locals>')[0]
    else:
        name, settings = type(splitter).__name__, {k: v for k, v in vars(splitter).items() if k != 'n_ties'}
    plain = {k: v for k, v in settings.items() if v is None or isinstance(v, (bool, int, float, str))}
    return f'{name}({", ".join(f"{k}={v!r}" for k, v in plain.items())})'


def split_summary(inter: Interactions, split: Split) -> str:
    """What is in each part: rows, users, items, density, ratings per user and item, and who is cold (has no training row)."""
    parts = dict(zip(('train', 'valid', 'test'), split))
    lines = [
        f'{len(inter):,} rows, {inter.n_users:,} users, {inter.n_items:,} items, density {len(inter) / inter.n_users / inter.n_items:.3%}'
    ]
    if inter.ratings is not None:
        lines[0] += f', ratings {inter.ratings.min():g} to {inter.ratings.max():g} (mean {inter.ratings.mean():.2f})'
    learned = inter.positive(split.train)
    if inter.weights is not None and len(inter.positive()) < len(inter):
        lines.append(
            f'{len(inter.positive()):,} rows are positives; the others were seen, and are never drawn as negatives'
        )
    train_users, train_items = inter.counts('user', learned), inter.counts('item', learned)
    for side, counts in (('user', train_users), ('item', train_items)):
        q = np.quantile(counts[counts > 0], [0, 0.25, 0.5, 0.75, 1])
        lines.append(
            f'training {"rows" if inter.weights is None else "positives"} per {side}: min {q[0]:.0f}, quartiles {q[1]:.0f} / {q[2]:.0f} / {q[3]:.0f}, max {q[4]:.0f}; without any: {int((counts == 0).sum()):,}'
        )
    for name, part in parts.items():
        if part is None or not len(part):
            continue
        u, i = inter.users[part], inter.items[part]
        line = f'{name}: {len(part):,} rows, {len(np.unique(u)):,} users, {len(np.unique(i)):,} items'
        if name != 'train':
            cu, ci = train_users[u] == 0, train_items[i] == 0
            line += (
                f'; cold (no training row): {len(np.unique(u[cu])):,} users, {len(np.unique(i[ci])):,} items, '
                f'in {int((cu | ci).sum()):,} rows ({(cu | ci).mean():.1%})'
            )
        lines.append(line)
    return '\n'.join(lines)
