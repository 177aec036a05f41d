"""Which column of a table plays which part, and what its values are: names, kinds, and parts of a column at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

__all__ = []

# Column names looked for, in this order, when none is given (ids before names); compared without case, '_' and '-'.
KNOWN_NAMES = dict(
    user=['userid', 'user', 'uid', 'customerid', 'customer', 'visitorid', 'reviewerid', 'memberid'],
    item=[
        'itemid', 'item', 'iid', 'movieid', 'productid', 'asin', 'isbn', 'bookid', 'trackid', 'artistid', 'articleid',
        'songid', 'movie', 'product', 'book', 'track', 'artist', 'article', 'song',
    ],
    rating=['rating', 'ratings', 'stars', 'score', 'overall', 'bookrating'],
    time=['time', 'timestamp', 'ts', 'datetime', 'date', 'unixreviewtime', 'ratedat'],
)  # fmt: skip
CHUNK_ROWS = 2**21  # rows that go through a conversion at a time, so that what it needs beside them stays small


# --- values


def first_few(values: Iterable, n: int = 5) -> str:
    """The first `n` of `values` for an error message."""
    values = list(islice(values, n + 1))
    shown = [repr(o.item() if isinstance(o, np.generic) else o) for o in values[:n]]
    return ', '.join(shown) + (', ...' if len(values) > n else '')


def kind_of(values: Any) -> str:
    """'integer', 'string', ... as pandas infers it."""
    return pd.api.types.infer_dtype(values, skipna=True)


def plain_values(values: Any) -> pd.Series:
    """`values` as a Series without category dtype and without floats that are whole numbers in disguise."""
    s = values if isinstance(values, pd.Series) else pd.Series(values)
    if isinstance(s.dtype, pd.CategoricalDtype):
        s = s.astype(s.cat.categories.dtype)
    if s.dtype == object and len(s) and kind_of(s) == 'floating':
        s = s.astype('float64')
    if pd.api.types.is_float_dtype(s.dtype) and len(s) and _are_int64(s):
        s = s.astype('int64')
    return s


def _are_int64(floats: pd.Series) -> bool:
    """Are all floats whole numbers that an int64 holds?"""
    return bool((floats.notna() & (floats == floats.round()) & (floats.abs() < 2**63)).all())


def in_chunks(n: int) -> Iterator[slice]:
    """Slices of `CHUNK_ROWS` rows each that cover `n` rows."""
    return (slice(start, start + CHUNK_ROWS) for start in range(0, n, CHUNK_ROWS))


def dense_codes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Sorted distinct integers and the int32 code of each value, by a table over their range, chunk by chunk.

    None where the range is too wide for that, or they are not integers.
    """
    if values.dtype.kind not in 'iu' or not len(values):
        return None
    low, high = int(values.min()), int(values.max())
    is_wide = high - low >= max(4 * len(values), 2**16)
    if is_wide or high >= 2**63:
        return None
    is_there: np.ndarray = np.zeros(high - low + 1, bool)
    for chunk in in_chunks(len(values)):
        is_there[_offsets(values[chunk], low)] = True
    code_of = np.cumsum(is_there, dtype=np.int32) - np.int32(1)
    codes: np.ndarray = np.empty(len(values), np.int32)
    for chunk in in_chunks(len(values)):
        codes[chunk] = code_of[_offsets(values[chunk], low)]
    distinct = (np.flatnonzero(is_there) + low).astype(values.dtype)
    return distinct, codes


def _offsets(values: np.ndarray, low: int) -> np.ndarray:
    """How far integers are from the lowest: in int64, since the differences of narrow ones may not fit their type."""
    return values.astype(np.int64, copy=False) - low


# --- columns


def normal_name(name: Any) -> str:
    """A column name without case, '_', '-' and blanks."""
    return str(name).lower().replace('_', '').replace('-', '').replace(' ', '')


def column_of(
    df: pd.DataFrame,
    role: str,  # 'user', 'item', 'rating' or 'time'
    names: dict,  # column of each role in the training table
) -> Any:
    """The column of `df` that plays `role`: as the training table has it, else by its usual name.

    `ValueError` if there is none.
    """
    if names.get(role) in df.columns:
        return names[role]
    found = find_columns(df, dict.fromkeys(KNOWN_NAMES))[role]
    if found is None:
        looked_for = first_few([names[role]]) if names.get(role) else 'the usual names'
        raise ValueError(f'which column holds the {role}s? Looked for {looked_for} among: {first_few(df.columns, 20)}')
    return found


def find_columns(
    df: pd.DataFrame,
    given: dict[str, Any],  # role -> column; None: to be found; False: there is none
) -> dict[str, Any]:
    """Column of each role, or None: the one given, else a known name, else (user and item both unnamed) the position.

    `ValueError` for a column that is not there, and where user or item are not found.
    """
    _check_names(df, given)
    found = _by_known_names(df, given)
    if found['user'] is None and found['item'] is None:
        _fill_by_position(found, df)
    found = {role: None if name is False else name for role, name in found.items()}
    if found['item'] is None:
        found['item'] = _only_other_id(df, found)
    for role in ('user', 'item'):
        if found[role] is None:
            raise ValueError(f'which column holds the {role}s? Pass {role}_name=, one of: {first_few(df.columns, 20)}')
    return found


def _check_names(df: pd.DataFrame, given: dict[str, Any]) -> None:
    """`ValueError` if a given column is not there, or columns of the table share a name."""
    for role, name in given.items():
        if name is None or name is False or name in df.columns:
            continue
        raise ValueError(f'no column {name!r} ({role}_name) in the table. Its columns are: {first_few(df.columns, 20)}')
    if not df.columns.is_unique:
        repeated = first_few(df.columns[df.columns.duplicated()].unique())
        raise ValueError(
            f'several columns are called {repeated}. '
            'Give each a name of its own, e.g. `df = df.loc[:, ~df.columns.duplicated()]`'
        )


def _by_known_names(df: pd.DataFrame, given: dict[str, Any]) -> dict[str, Any]:
    """`given`, in which None is replaced by the column that has a known name of the role, if there is one."""
    columns = {normal_name(c): c for c in reversed(df.columns)}  # reversed: the first of two that are alike wins
    found = {}
    for role, known in KNOWN_NAMES.items():
        there = [columns[o] for o in known if o in columns]
        if given[role] is not None:
            found[role] = given[role]
        else:
            found[role] = there[0] if there else None
    return found


def _fill_by_position(found: dict[str, Any], df: pd.DataFrame) -> None:
    """Give the first columns that have no role yet to user, item, rating and time, in place."""
    taken = [name for name in found.values() if name is not False]  # False: a role without column, and equal to 0
    free = [c for c in df.columns if c not in taken]
    if len(free) < 2:
        raise ValueError(f'need at least a user and an item column, got: {first_few(df.columns, 20)}')
    for role in ('user', 'item', 'rating', 'time'):
        if found[role] is None and free:
            found[role] = free.pop(0)


def _only_other_id(df: pd.DataFrame, found: dict[str, Any]) -> Any:
    """The one column without a role whose name ends in 'id', as in (user_id, joke_id, rating); else None."""
    others = [c for c in df.columns if c not in found.values() and normal_name(c).endswith('id')]
    return others[0] if len(others) == 1 else None
