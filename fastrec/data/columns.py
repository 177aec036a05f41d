"""Which column of a table plays which part, and what its values are: names, kinds, and parts of a column at a time."""

from __future__ import annotations

import numpy as np
import pandas as pd

__all__ = []

# Column names looked for, in this order, when none is given (ids before names); compared without case, '_' and '-'.
KNOWN_NAMES = dict(
    user=['userid', 'user', 'uid', 'customerid', 'customer', 'visitorid', 'reviewerid', 'memberid'],
    item=[
        'itemid',
        'item',
        'iid',
        'movieid',
        'productid',
        'asin',
        'isbn',
        'bookid',
        'trackid',
        'artistid',
        'articleid',
        'songid',
        'movie',
        'product',
        'book',
        'track',
        'artist',
        'article',
        'song',
    ],
    rating=['rating', 'ratings', 'stars', 'score', 'overall', 'bookrating'],
    time=['time', 'timestamp', 'ts', 'datetime', 'date', 'unixreviewtime', 'ratedat'],
)
CHUNK = 2**21  # rows that go through a conversion at a time, so that what it needs beside them stays small


def first_few(values, n=5):
    """The first `n` of `values` for an error message."""
    values = list(values)
    return ', '.join(repr(o.item() if isinstance(o, np.generic) else o) for o in values[:n]) + (
        ', ...' if len(values) > n else ''
    )


def plain_values(values):
    """`values` as a Series without category dtype and without floats that are whole numbers in disguise."""
    s = pd.Series(values) if not isinstance(values, pd.Series) else values
    if isinstance(s.dtype, pd.CategoricalDtype):
        s = s.astype(s.cat.categories.dtype)
    if s.dtype == object and len(s) and kind_of(s) == 'floating':
        s = s.astype('float64')
    if pd.api.types.is_float_dtype(s.dtype) and len(s) and (s.notna() & (s == s.round()) & (s.abs() < 2**63)).all():
        s = s.astype('int64')
    return s


def normal_name(name):
    """A column name without case, '_', '-' and blanks."""
    return str(name).lower().replace('_', '').replace('-', '').replace(' ', '')


def kind_of(values):
    """'integer', 'string', ... as pandas infers it."""
    return pd.api.types.infer_dtype(values, skipna=True)


def in_chunks(n):
    return (slice(i, i + CHUNK) for i in range(0, n, CHUNK))


def dense_codes(values):
    """Sorted distinct integers and the int32 code of each value by a table over their range, chunk by chunk; None where the range is too wide for that, or they are no integers."""
    if values.dtype.kind not in 'iu' or not len(values):
        return None
    low, high = int(values.min()), int(values.max())
    if high - low >= max(4 * len(values), 2**16) or high >= 2**63:
        return None
    there = np.zeros(high - low + 1, bool)
    for part in in_chunks(len(values)):
        there[values[part] - low] = True
    at, codes = np.cumsum(there, dtype=np.int32) - np.int32(1), np.empty(len(values), np.int32)
    for part in in_chunks(len(values)):
        codes[part] = at[values[part] - low]
    return (np.flatnonzero(there) + low).astype(values.dtype), codes


def column_of(df, role: str, names: dict):
    """The column of `df` that plays `role` ('user', 'item', 'rating', 'time'): as `names` of the training table has it, else by its usual name."""
    if names.get(role) in df.columns:
        return names[role]
    found = find_columns(df, dict.fromkeys(KNOWN_NAMES))[role]
    if found is None:
        raise ValueError(
            f'which column holds the {role}s? Looked for {first_few([names[role]]) if names.get(role) else "the usual names"} among: {first_few(df.columns, 20)}'
        )
    return found


def find_columns(df, given):
    """Column of each role: the name given, else a known name, else (user and item both unnamed) the position; False: none."""
    if missing := {
        role: name for role, name in given.items() if name is not None and name is not False and name not in df.columns
    }:
        role, name = next(iter(missing.items()))
        raise ValueError(f'no column {name!r} ({role}_name) in the table. Its columns are: {first_few(df.columns, 20)}')
    if not df.columns.is_unique:
        raise ValueError(
            f'several columns are called {first_few(df.columns[df.columns.duplicated()].unique())}. Give each a name of its own, e.g. `df = df.loc[:, ~df.columns.duplicated()]`'
        )
    norm = {normal_name(c): c for c in reversed(df.columns)}
    found = {
        role: given[role] if given[role] is not None else next((norm[o] for o in names if o in norm), None)
        for role, names in KNOWN_NAMES.items()
    }
    if found['user'] is None and found['item'] is None:
        rest = [c for c in df.columns if c not in found.values()]
        if len(rest) < 2:
            raise ValueError(f'need at least a user and an item column, got: {first_few(df.columns, 20)}')
        found['user'], found['item'] = rest[:2]
        rest = rest[2:]
        for role in ('rating', 'time'):
            if found[role] is None and rest:
                found[role] = rest.pop(0)
    found = {role: None if name is False else name for role, name in found.items()}
    if found['item'] is None:  # user_id, joke_id, rating: one other id
        others = [c for c in df.columns if c not in found.values() and normal_name(c).endswith('id')]
        if len(others) == 1:
            found['item'] = others[0]
    for role in ('user', 'item'):
        if found[role] is None:
            raise ValueError(f'which column holds the {role}s? Pass {role}_name=, one of: {first_few(df.columns, 20)}')
    return found
