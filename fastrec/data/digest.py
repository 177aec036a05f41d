"""Digests of values: equal for equal values, whatever dtype or container holds them, in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from .columns import CHUNK_ROWS

__all__: list[str] = []

EXACT = 2.0**53  # floats below it are whole numbers that say which


def digest(
    *values: Any,  # arrays, columns, sparse matrices; None is a value, too
) -> str:
    """16 hex digits that change with any of the values, their number and their order.

    1, 1.0 and np.int32(1) are the same, as are a datetime in seconds and in nanoseconds, and a text as `object`, `str`
    or of Arrow. Time zones do not count, the moment does.
    """
    res = hashlib.blake2b(digest_size=8)
    for value in values:
        for part in _parts(value):
            res.update(part)
    return res.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """The bytes of a value."""
    if value is None:
        yield b'none'
    elif issparse(value):
        rows = value.tocsr().sorted_indices()
        yield f'sparse{rows.shape}'.encode()
        for array in (rows.indptr, rows.indices, rows.data):
            yield from _parts(array)
    else:
        array = _plain(value)
        yield f'{array.shape}'.encode()
        flat = array.reshape(-1)
        for start in range(0, len(flat), CHUNK_ROWS):
            yield _bytes(flat[start : start + CHUNK_ROWS])


def _plain(value: Any) -> np.ndarray:
    """Values as an array of numpy: numbers, booleans, datetimes without a zone, or objects."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value
    if isinstance(value, np.ndarray) and value.ndim != 1:
        return value
    column = pd.Series(value).infer_objects()
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if isinstance(column.dtype, pd.ArrowDtype) and column.dtype.kind == 'M':
        column = pd.to_datetime(column)
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        column = column.dt.tz_convert(None)
    return column.to_numpy()


def _bytes(array: np.ndarray) -> bytes:
    """The bytes of an array (n,) in a form that does not depend on its dtype."""
    kind = array.dtype.kind
    if kind == 'b':
        array = array.astype(np.int64)
    elif kind in 'iu':
        array = array if array.dtype == np.uint64 and (array >= 2**63).any() else array.astype(np.int64)
    elif kind == 'f':
        array = _of_floats(array)
    elif kind == 'M':
        seconds: Any = array.astype('datetime64[s]')
        rest = (array - seconds).astype('timedelta64[ns]')
        array = np.concatenate([seconds.astype(np.int64), rest.astype(np.int64)])
    elif kind not in 'm':
        array = pd.util.hash_array(array.astype(object), categorize=False)
    return array.dtype.kind.encode() + np.ascontiguousarray(array).tobytes()


def _of_floats(array: np.ndarray) -> np.ndarray:
    """Whole numbers as int64, other floats as float64."""
    wide = array.astype(np.float64) + 0.0  # which makes 0 of -0
    is_whole = (
        bool(np.isfinite(wide).all()) and bool((np.abs(wide) < EXACT).all()) and bool((wide == wide.round()).all())
    )
    return wide.astype(np.int64) if is_whole else wide
