"""Which column of a table plays which part, and what its values are: names, kinds, and parts of a column at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import islice
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd

__all__ = []

CHUNK_ROWS = 2**21  # rows that go through a conversion at a time, so that what it needs beside them stays small
EXACT_FLOATS = 2**53  # from here on neighboring whole numbers are one float


# --- tables


def as_frame(
    table: Any,  # a DataFrame, or a table of another library: polars, pyarrow, ... (Arrow's C stream, or `to_pandas()`)
    what: str = 'a DataFrame with one row per interaction',  # what it should be, for the message
) -> pd.DataFrame:
    """`table` as a DataFrame of pandas; `TypeError` for what is not a table."""
    if isinstance(table, pd.DataFrame):
        return table
    if is_foreign_table(table):
        return table.to_pandas() if hasattr(table, 'to_pandas') else _from_arrow_stream(table)
    kind = type(table)
    name = kind.__name__ if kind.__module__ == 'builtins' else f'{kind.__module__}.{kind.__name__}'
    way = '. Compute it first: `.collect()`' if hasattr(table, 'collect') else ''
    if isinstance(table, (str, PurePath)):
        way = ". A file is read first: pd.read_csv(...), or RecDataLoaders.from_csv('ratings.csv'), from_parquet"
    elif isinstance(table, np.ndarray) and table.ndim == 2:
        way = ". Columns need names: pd.DataFrame(array, columns=['user', 'item', 'rating'])"
    raise TypeError(f'expected {what}, got {name}{way}')


def is_table(value: Any) -> bool:
    """Is it a table, of pandas or of another library?"""
    return isinstance(value, pd.DataFrame) or is_foreign_table(value)


def is_foreign_table(value: Any) -> bool:
    """Is it a table of another library? One has columns with names, and says how to become one of pandas."""
    if isinstance(value, (pd.DataFrame, pd.Series, pd.Index)):
        return False
    if hasattr(value, '__arrow_c_stream__'):
        return any(hasattr(value, names) for names in ('columns', 'column_names', 'schema'))
    return hasattr(value, 'to_pandas') and (hasattr(value, 'columns') or hasattr(value, 'column_names'))


def _from_arrow_stream(table: Any) -> pd.DataFrame:
    """A table that gives Arrow's C stream alone."""
    try:
        import pyarrow as pa
    except ImportError as e:
        raise ImportError(
            f"reading a table of {type(table).__module__} needs pyarrow: pip install 'fastrec-learn[parquet]'"
        ) from e
    return pa.table(table).to_pandas()


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
    """`values` as a Series of plain dtypes.

    Without categories; whole numbers (of any width, as floats in disguise, as objects or decimals) as int64, where one
    does not fit as uint64. Floats from 2^53 on stay floats, since they no longer say which whole number they were.
    """
    s = values if isinstance(values, pd.Series) else pd.Series(values)
    if isinstance(s.dtype, pd.CategoricalDtype):
        s = s.astype(s.cat.categories.dtype)
    if not len(s) or s.dtype == np.int64:
        return s
    if pd.api.types.is_integer_dtype(s.dtype):
        return _wide_integers(s)
    kind = kind_of(s) if s.dtype == object or _is_decimal(s.dtype) else ''
    if kind == 'integer':
        return _wide_integers(s)
    if kind == 'floating':
        s = s.astype('float64')
    if kind == 'decimal':
        return _from_decimals(s)
    if pd.api.types.is_float_dtype(s.dtype) and _are_exact(s):
        s = s.astype('int64')
    return s


def _is_decimal(dtype: Any) -> bool:
    """Is it a dtype of Arrow's decimals?"""
    return isinstance(dtype, pd.ArrowDtype) and dtype.type is Decimal


def _wide_integers(s: pd.Series) -> pd.Series:
    """Integers as int64, where one does not fit as uint64; those with missing values, or wider yet, as they are."""
    if s.isna().any():
        return s
    if s.dtype != object and int(s.max()) < 2**63:
        return s.astype('int64')
    low = int(s.min())
    high = int(s.max())
    if low >= -(2**63) and high < 2**63:
        return s.astype('int64')
    if low >= 0 and high < 2**64:
        return s.astype('uint64')
    return s


def _from_decimals(s: pd.Series) -> pd.Series:
    """Decimals as integers where all are whole, else as floats."""
    there = s.dropna()
    is_whole = len(there) == len(s) and all(o.is_finite() and o == o.to_integral_value() for o in there)
    if is_whole:
        return _wide_integers(pd.Series([int(o) for o in s], index=s.index, name=s.name, dtype=object))
    return s.astype('float64')


def _are_exact(floats: pd.Series) -> bool:
    """Are all floats whole numbers of which no two are one float?"""
    return bool((floats.notna() & (floats == floats.round()) & (floats.abs() < EXACT_FLOATS)).all())


def check_exact(
    values: pd.Series,  # ids
    side: str,  # 'user' or 'item', for the message
    name: Any = None,  # their column, if they are of a table
) -> None:
    """`ValueError` for ids that are floats from 2^53 on: several ids may have become one."""
    if not pd.api.types.is_float_dtype(values.dtype):
        return
    is_inexact = (values.abs() >= EXACT_FLOATS) & (values.abs() < np.inf)
    n = int(is_inexact.sum())
    if not n:
        return
    column = '' if name is None else f' (column {name!r})'
    key = 'column' if name is None else repr(name)
    raise ValueError(
        f'{n:,} of {len(values):,} {side} ids{column} are floats from 2^53 on, such as '
        f'{first_few(values[is_inexact], 1)}, where neighboring ids have become one number. '
        f'An empty cell makes a column of integers one of floats: read the column as Int64 or str, '
        f"`pd.read_csv(..., dtype={{{key}: 'Int64'}})`"
    )


def codes_in(
    ids: pd.Index,  # unique
    values: Any,  # to look up
) -> np.ndarray:
    """Where each value is in `ids`, -1 where it is not: integers are compared exactly, whatever their width."""
    values = plain_values(values)
    if not len(ids) or not len(values):
        return np.full(len(values), -1, np.int64)
    if not pd.api.types.is_integer_dtype(ids.dtype):
        return ids.get_indexer(values.array)
    ids = wide_index(ids)
    if values.dtype == ids.dtype:
        return ids.get_indexer(values.to_numpy())
    codes: np.ndarray = np.full(len(values), -1, np.int64)
    whole, at = _whole_numbers(values, ids.dtype)
    codes[at] = ids.get_indexer(whole)
    return codes


def wide_index(ids: pd.Index) -> pd.Index:
    """An index of integers as int64 or uint64; any other as it is."""
    is_narrow = pd.api.types.is_integer_dtype(ids.dtype) and ids.dtype not in (np.int64, np.uint64)
    return pd.Index(plain_values(ids)) if is_narrow else ids


def _whole_numbers(values: pd.Series, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Those of `values` that are whole numbers and fit into `dtype`, int64 or uint64, and where they stand."""
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in 'iu':
        whole = values.to_numpy()
        at = np.flatnonzero(whole >= 0 if dtype.kind == 'u' else whole < 2**63)
        return whole[at].astype(dtype), at
    is_there = values.notna().to_numpy(copy=True)
    if pd.api.types.is_float_dtype(values.dtype):
        is_there &= ((values == values.round()) & (values.abs() < EXACT_FLOATS)).fillna(False).to_numpy(dtype=bool)
    elif not pd.api.types.is_integer_dtype(values.dtype):
        is_there &= np.array([_is_whole(o) for o in values], dtype=bool)
    limits = np.iinfo(dtype)
    at = np.flatnonzero(is_there)
    there = [int(o) for o in values.iloc[at]]
    fits = np.array([limits.min <= o <= limits.max for o in there], dtype=bool)
    return np.array([o for o, is_in in zip(there, fits) if is_in], dtype=dtype), at[fits]


def _is_whole(value: Any) -> bool:
    """Is a value of a mixed column an integer, or a float that says exactly which?"""
    if isinstance(value, (bool, np.bool_)):
        return False
    if isinstance(value, (int, np.integer)):
        return True
    return isinstance(value, (float, np.floating)) and value == round(value) and abs(value) < EXACT_FLOATS


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


# --- names of columns

# Words for a user and an item, and what stands beside them in the names of ids.
USER_WORDS = (
    'user', 'uid', 'customer', 'visitor', 'reviewer', 'member', 'client', 'person', 'reader', 'viewer', 'listener',
    'player', 'subscriber', 'shopper', 'buyer', 'cust', 'username', 'profilename',
)  # fmt: skip
ITEM_WORDS = (
    'item', 'iid', 'movie', 'product', 'asin', 'isbn', 'book', 'track', 'artist', 'article', 'song', 'film', 'game',
    'app', 'anime', 'manga', 'news', 'recipe', 'restaurant', 'business', 'hotel', 'venue', 'video', 'show',
    'album', 'course', 'beer', 'wine', 'content', 'sku', 'stock',
)  # fmt: skip
WORDS_OF_IDS = ('uid', 'iid', 'asin', 'isbn', 'sku', 'username', 'profilename')  # words that are ids by themselves
ID_WORDS = ('id', 'idx', 'index', 'no', 'num', 'nr', 'number', 'code', 'key', 'uuid', 'guid', 'hash')
TIME_WORDS = ('time', 'timestamp', 'ts', 'datetime', 'date')
EVENT_WORDS = (
    'unix', 'review', 'rating', 'rated', 'rate', 'event', 'invoice', 'order', 'transaction', 'purchase', 'visit',
    'click', 'interaction', 'created', 'user', 'view', 'watched', 'submitted',
)  # fmt: skip  # of whose moment a column tells
RATING_WORDS = ('rating', 'ratings', 'stars', 'score', 'overall')
# what makes a rating or a score that of all, or another number
NOT_A_RATING = (
    'avg', 'average', 'mean', 'median', 'count', 'n', 'num', 'number', 'max', 'min', 'total', 'sum', 'id', 'date',
    'time', 'timestamp', 'item', 'users',
)  # fmt: skip
NOT_AN_ITEM = (
    'session', 'order', 'transaction', 'review', 'event', 'invoice', 'basket', 'request', 'row', 'record', 'log',
    'rating', 'device', 'visit',
)  # fmt: skip  # whose id is not that of an item


# The usual names of ids: in a table that has one of them the rating is found by its name alone, not by position.
USUAL_NAMES = dict(
    user=['userid', 'user', 'uid', 'customerid', 'customer', 'visitorid', 'reviewerid', 'memberid'],
    item=[
        'itemid', 'item', 'iid', 'movieid', 'productid', 'asin', 'isbn', 'bookid', 'trackid', 'artistid', 'articleid',
        'songid', 'movie', 'product', 'book', 'track', 'artist', 'article', 'song',
    ],
)  # fmt: skip


def _with_id_words(usual: list[str], words: Iterable[str]) -> list[str]:
    """Names of ids: the usual ones, those made of a word and what stands beside it, and the words alone."""
    words = list(words)
    names = [*usual, *(f'{word}{id_}' for id_ in ID_WORDS for word in words), *words]
    return list(dict.fromkeys(names))


# Column names looked for, in this order, when none is given (ids before names); compared by `normal_name`.
KNOWN_NAMES = dict(
    user=_with_id_words(USUAL_NAMES['user'], USER_WORDS),
    item=_with_id_words(USUAL_NAMES['item'], ITEM_WORDS),
    rating=['rating', 'ratings', 'stars', 'score', 'overall', 'bookrating'],
    time=['time', 'timestamp', 'ts', 'datetime', 'date', 'unixreviewtime', 'ratedat'],
)


def normal_name(name: Any) -> str:
    """A column name in lower case, without what is neither letter nor digit, and without RecBole's ':token'."""
    return re.sub(r'[\W_]+', '', _without_type(name).lower())


def words_of(name: Any) -> list[str]:
    """The words of a column name, in lower case: 'CustomerNumber', 'customer_number:token' -> customer, number."""
    text = re.sub(r'([a-z0-9])([A-Z])|([A-Z])(?=[A-Z][a-z])', r'\1\3 \2', _without_type(name))
    return re.findall(r'[^\W_]+', text.lower())


def _without_type(name: Any) -> str:
    """A column name without the type that RecBole's files have in it, as in 'item_id:token'."""
    return re.sub(r':(token|float)(_seq)?$', '', str(name))


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

    `ValueError` for a column that is not there, and where user or item are not found, or the position contradicts what
    the names tell.
    """
    _check_names(df, given)
    found = _by_known_names(df, given)
    if found['user'] is None and found['item'] is None:
        _check_header(df, given)
        _fill_by_position(found, df)
    elif _in_usual_order(df, found, given):
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
    check_own_names(df)


def check_own_names(df: pd.DataFrame) -> None:
    """`ValueError` if columns of the table share a name."""
    if not df.columns.is_unique:
        repeated = first_few(df.columns[df.columns.duplicated()].unique())
        raise ValueError(
            f'several columns are called {repeated}. '
            'Give each a name of its own, e.g. `df = df.loc[:, ~df.columns.duplicated()]`'
        )


def id_column(
    df: pd.DataFrame,  # metadata, a row per user or item
    side: str,  # 'user' or 'item'
    id_name: Any = None,  # column of ids in the ratings, which comes first
    more: tuple = (),  # further names that ids may have, after the usual ones
) -> Any:
    """The column of metadata that holds the ids; None: its index does, if it has a name.

    Names of columns and of the index are compared alike: that of the ratings first, then the usual ones. `ValueError`
    where the index has another name and a column a name that need not be that of ids ('stock', 'show').
    """
    check_own_names(df)
    if id_name is not None and id_name in df.columns:
        return id_name
    index_name = df.index.name
    if index_name is not None and index_name == id_name:
        return None
    names = {} if index_name is None else {normal_name(index_name): None}
    names.update((normal_name(c), c) for c in reversed(df.columns))
    usual = [names[o] for o in (*KNOWN_NAMES[side], *more) if o in names]
    if not usual:
        return None
    column = usual[0]
    if column is not None and index_name is not None and _may_be_no_id(column, side):
        called = 'with id_name=' if id_name is None else f'by its name, {id_name!r}'
        raise ValueError(
            f'do the index {index_name!r} or the column {column!r} hold the {side} ids? Say so {called}, '
            'or drop the index: `df.reset_index(drop=True)`'
        )
    return column


def _may_be_no_id(column: Any, side: str) -> bool:
    """Is the name of a column of ids one that other columns have, too?"""
    name = normal_name(column)
    return name not in (side, *WORDS_OF_IDS) and name in (*USER_WORDS, *ITEM_WORDS, 'id')


def with_id_column(df: pd.DataFrame, side: str, id_name: Any) -> pd.DataFrame:
    """Metadata whose ids are in a column called `id_name`, wherever they were; `ValueError` if they are nowhere."""
    column = id_column(df, side, id_name)
    if column is not None:
        return df.rename(columns={column: id_name})
    if df.index.name is None:
        raise ValueError(
            f'{side}_df has no id column: expected {id_name!r} (as in the ratings) or {side!r}, '
            f'got {first_few(df.columns, 20)}'
        )
    return df.rename_axis(index=id_name).reset_index()


def _check_header(df: pd.DataFrame, given: dict[str, Any]) -> None:
    """`ValueError` if the names of the columns are numbers or moments: the first row of a table without a header."""
    names = [name for name in df.columns if isinstance(name, str)]
    values = [name for name in names if is_value(name)]
    if values:
        raise ValueError(no_header(df.columns, f'columns are called {first_few(values)}'))
    numbers = [name for name in df.columns if isinstance(name, (int, float, np.number))]
    is_numbered = numbers == list(range(len(df.columns)))
    if numbers and not is_numbered and all(given[role] is None for role in ('user', 'item')):
        raise ValueError(no_header(df.columns, f'columns are called {first_few(numbers)}'))


def no_header(
    names: Iterable,  # of the columns
    why: str,  # what tells it
) -> str:
    """What is said of a table whose first row was taken for the names of its columns."""
    names = list(names)
    usual = ['user', 'item', 'rating', 'time', *(f'column_{i}' for i in range(5, len(names) + 1))][: len(names)]
    return (
        f'{why}: has the file no header? Its first row would be lost. '
        f'Read it with header=None, names={usual} (from_csv and pd.read_csv take both; '
        f'fastrec train: --columns {",".join(usual)}), '
        'in the order of its columns; or if these are the names, pass user_name= and item_name='
    )


def is_value(name: str) -> bool:
    """Is the name of a column a number or a date (also with the '.1' that pandas gives a repeated one)?"""
    text = name.strip().strip('"\'')
    if re.fullmatch(r'\d{4}-\d\d-\d\d([ T].*)?', text):
        return True
    try:
        float(text)
    except ValueError:
        return bool(re.fullmatch(r'[+-]?\d[\d.,]*', text))
    return text.lower() not in ('nan', 'inf', 'infinity')


def check_first_row(
    names: dict[str, Any],  # column of each role
    given: dict[str, Any],  # that which was asked for, or None
    ids: dict[str, pd.Index],  # the ids of 'user' and 'item'
    first: dict[str, Any],  # those of the first row
    columns: Iterable,  # of the table
) -> None:
    """`ValueError` if the column names are a row of the table, or its first row is one of names."""
    for side in ('user', 'item'):
        name = names[side]
        is_found = given[side] is None and isinstance(name, str)
        if is_found and normal_name(name) not in KNOWN_NAMES[side] and name in ids[side]:
            raise ValueError(no_header(columns, f'column {name!r} holds {name!r} among its {side} ids'))
    if all(isinstance(first[side], str) and normal_name(first[side]) in KNOWN_NAMES[side] for side in first):
        raise ValueError(
            f'the first row of the table holds the names of columns: {first_few(first.values())}. '
            'Read it with header=0, so that it is not taken for data'
        )


def _by_known_names(df: pd.DataFrame, given: dict[str, Any]) -> dict[str, Any]:
    """`given`, in which None is replaced by the column whose name tells that it has the role, if there is one."""
    columns = {normal_name(c): c for c in reversed(df.columns)}  # reversed: the first of two that are alike wins
    found = {}
    for role, known in KNOWN_NAMES.items():
        there = [columns[o] for o in known if o in columns]
        if given[role] is not None:
            found[role] = given[role]
        else:
            found[role] = there[0] if there else None
    for role in KNOWN_NAMES:
        if found[role] is None:
            found[role] = _only_by_words(df, role, list(found.values()))
    return found


def _only_by_words(df: pd.DataFrame, role: str, taken: list) -> Any:
    """The one column without a role in whose name words tell it, as in 'review/userId'; else None."""
    free = [c for c in df.columns if not any(c is o or c == o for o in taken if o is not False)]
    telling = [c for c in free if _tells(words_of(c), role)]
    return telling[0] if len(telling) == 1 else None


def _tells(words: list[str], role: str) -> bool:
    """Do the words of a name, which is not a known one, tell the role?"""
    there = set(words)
    if role == 'rating':
        return len(words) > 1 and words[-1] in RATING_WORDS and not there & set(NOT_A_RATING)
    if role == 'time':
        is_moment = words[-1:] == ['at'] or (bool(there & set(TIME_WORDS)) and bool(there & set(EVENT_WORDS)))
        return len(words) > 1 and is_moment and there <= {*TIME_WORDS, *EVENT_WORDS, 'at', 'ms'}
    own, other = (USER_WORDS, ITEM_WORDS) if role == 'user' else (ITEM_WORDS, USER_WORDS)
    is_id = any(word in (*ID_WORDS, *WORDS_OF_IDS) for word in words) or any(_is_fused_id(word, own) for word in words)
    is_own = bool(there & set(own)) or any(_is_fused_id(word, own) for word in words)
    is_other = bool(there & set(other)) or any(_is_fused_id(word, other) for word in words)
    return is_id and is_own and not is_other


def _is_fused_id(word: str, own: Iterable[str]) -> bool:
    """Is it a word of a role and one of ids without anything between, as 'userid'?"""
    return any(word == f'{o}{id_}' for o in own for id_ in ID_WORDS)


def _in_usual_order(df: pd.DataFrame, found: dict[str, Any], given: dict[str, Any]) -> bool:
    """Are user and item the first columns, found by names that are not the usual ones? Then the rest may follow."""
    are_found = all(given[side] is None and found[side] is not None for side in USUAL_NAMES)
    if not are_found or any(normal_name(found[side]) in usual for side, usual in USUAL_NAMES.items()):
        return False
    return [found['user'], found['item']] == _unroled(df, [])[:2]


def _unroled(df: pd.DataFrame, taken: list) -> list:
    """Columns without a role, but not those that pandas gave a name, as an index that was written with the table."""
    return [c for c in df.columns if c not in taken and not re.fullmatch(r'Unnamed: \d+', str(c))]


def _fill_by_position(found: dict[str, Any], df: pd.DataFrame) -> None:
    """Give the first columns that have no role yet to user, item, rating and time, in place.

    `ValueError` where the name of one tells another role.
    """
    taken = [name for name in found.values() if name is not False]  # False: a role without column, and equal to 0
    free = _unroled(df, taken)
    if found['user'] is None and len(free) < 2:
        raise ValueError(
            f'need at least a user and an item column, got: {first_few(df.columns, 20)}{_other_separator(df)}'
        )
    for role in ('user', 'item', 'rating', 'time'):
        if found[role] is not None or not free:
            continue
        name = free.pop(0)
        told = _told_role(name)
        if told in (None, role):
            found[role] = name
        elif role in ('user', 'item'):
            raise ValueError(
                f'which columns hold the users and the items? By position {name!r} would be the {role}s, '
                f'and its name tells the {told}s. Pass user_name= and item_name=, two of: {first_few(df.columns, 20)}'
            )


def _told_role(name: Any) -> str | None:
    """The role that a name tells by its words, though it is not a name of ids; None: it tells none, or several."""
    words = set(words_of(name))
    told = []
    roles = dict(user=(*USER_WORDS, 'u'), item=(*ITEM_WORDS, 'i', 'title'), rating=RATING_WORDS, time=TIME_WORDS)
    for role, own in roles.items():
        plurals = {f'{o}s' for o in own}
        if words & {*own, *plurals} or any(_is_fused_id(word, own) for word in words):
            told.append(role)
    return told[0] if len(told) == 1 else None


def _other_separator(df: pd.DataFrame) -> str:
    """What is said of a table of one column whose name holds what separates columns."""
    if len(df.columns) != 1:
        return ''
    signs = [sign for sign in ('\t', ';', '::', '|', ',') if sign in str(df.columns[0])]
    return (
        f'. Are its columns separated by {signs[0]!r}? Read it with sep={signs[0]!r} (fastrec train: --sep)'
        if signs
        else ''
    )


def _only_other_id(df: pd.DataFrame, found: dict[str, Any]) -> Any:
    """The one column without a role whose name ends in 'id', as in (user_id, puzzle_id, rating); else None.

    Ids of something else, as of a session or an order, do not count.
    """
    taken = list(found.values())
    others = [c for c in df.columns if c not in taken and normal_name(c).endswith('id')]
    if len(others) != 1 or _told_role(others[0]) == 'user':
        return None
    is_of_another = any(word.removesuffix('id') in NOT_AN_ITEM for word in words_of(others[0]))
    return None if is_of_another else others[0]
