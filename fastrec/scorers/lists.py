"""Tables of recommendations as arrays: whose list a row is in, at which place, and back.

Arrays are of row numbers of the table, (n_users, n), best first, -1 where a list is shorter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..data.catalog import titled
from ..data.columns import KNOWN_NAMES, first_few, kind_of, normal_name
from ..notices import warn_user

__all__: list[str] = []


# --- which columns


def id_columns(recs: pd.DataFrame) -> tuple[Any, Any]:
    """The columns of users (None: the list of a basket) and of items; `ValueError` where that cannot be told.

    Those with a usual name ('user', 'movieId'); else, as `recommend` has them, what stands before title and score.
    """
    missing = [c for c in ('score', 'rank') if c not in recs]
    columns = list(recs.columns)
    ends = [columns.index(c) for c in ('title', 'score') if c in columns]
    first = columns[: min(ends, default=0)]
    user, item = (_usual(columns, side) for side in ('user', 'item'))
    if item is None and 'title' in columns and first == ([] if user is None else [user]):
        item = 'title'  # items whose ids are their titles
    if item is None and len(first) in (1, 2) and user in (None, first[0]):
        item = first[-1]
    if user is None and len(first) == 2 and first[1] == item:
        user = first[0]
    if missing or item is None or item == user:
        lacks = missing or ['item']
        raise ValueError(
            f'no recommendation table: it lacks {first_few(lacks)}; columns: {first_few(columns, 20)}. '
            'Where ids have names of your own: `recs.rename(columns={...})` to user and item'
        )
    return user, item


def _usual(columns: list, side: str) -> Any:
    """The column of that side by its usual names, the first of them that is there; None: there is none."""
    names = {normal_name(c): c for c in reversed(columns)}
    return next((names[o] for o in KNOWN_NAMES[side] if o in names), None)


# --- which items


def ids_of(
    recs: pd.DataFrame,
    items: Any,  # item or items: an id, a title, or a part of a title that only one item in the lists has
    titles: pd.Series | None = None,  # by item id; None: those in the lists
    is_needed: bool = True,  # is a title that is not found a `KeyError`? Else it is announced and left out
) -> list:
    """Ids of items; an id comes before a title, a whole title before a part."""
    given = [items] if np.isscalar(items) else list(items)
    _, item = id_columns(recs)
    if titles is None:
        titles = recs.drop_duplicates(item).set_index(item, drop=False)['title'] if 'title' in recs else None
    if titles is None or not any(isinstance(o, str) for o in given):
        return given
    has_texts = kind_of(titles.index) == 'string'
    res = []
    for query in given:
        if not isinstance(query, str) or query in titles.index:
            res.append(query)
            continue
        at = titled(titles, query)
        if len(at) > 1:
            named = '; '.join(f'{first_few([titles.index[i]])}: {titles.iloc[i]}' for i in at[:5])
            raise KeyError(f'{len(at)} items match {query!r}: {named}. Pass the id or the whole title of one')
        if len(at):
            res.append(titles.index[at[0]])
        elif has_texts or query.isdecimal():
            res.append(query)  # an id, of which the caller says what is wrong with it
        elif is_needed:
            raise KeyError(f'no item has the title {query!r}, or one with it as a part')
        else:
            warn_user(f'no list has an item with the title {query!r}, or one with it as a part')
    return res


# --- lists as arrays: row numbers of the table, (n_users, n), best first, -1 where a list is shorter


def as_lists(recs: pd.DataFrame, k: int | None = None) -> tuple[np.ndarray, int]:
    """Row numbers of each user's list in the order of rank, int64 (n_users, longest); `k`, or the longest."""
    user, _ = id_columns(recs)
    if k is not None and (int(k) != k or k < 1):
        raise ValueError(f'k={k}: ask for at least one item')
    users = pd.factorize(recs[user])[0] if user is not None else np.zeros(len(recs), np.int64)
    order = np.lexsort((recs['rank'].to_numpy(), users))
    lengths = np.bincount(users, minlength=1)
    starts = lengths.cumsum() - lengths
    place = np.arange(len(order)) - np.repeat(starts, lengths)
    rows = np.full((len(lengths), max(lengths.max(initial=0), 1)), -1, np.int64)
    rows[users[order], place] = order
    _check_once(recs)
    return rows, int(k or rows.shape[1])


def _check_once(recs: pd.DataFrame) -> None:
    """`ValueError` where a list has an item twice, as of tables of the same users below each other."""
    pair = [c for c in id_columns(recs) if c is not None]
    again = recs.duplicated(pair).to_numpy()
    if again.any():
        raise ValueError(
            f'{int(again.sum()):,} of {len(recs):,} rows repeat an item in the list of the same user, e.g. '
            f'({first_few(recs.loc[again, pair].iloc[0], 2)}): keep one each, `recs.drop_duplicates({pair})`'
        )


def table_of(recs: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    """The rows (n_users, k) of `recs` in that order (-1: none), ranked from 1."""
    rows = rows[(rows >= 0).any(1)]
    there = rows >= 0
    res = recs.iloc[rows[there]].reset_index(drop=True)
    res['rank'] = there.cumsum(1)[there]
    return res


def pack(rows: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Rows (n_users, n) with those not kept taken out: what is kept moves to the left, -1 fills up."""
    keep = keep & (rows >= 0)
    order = np.argsort(~keep, axis=1, kind='stable')
    return np.where(np.take_along_axis(keep, order, 1), np.take_along_axis(rows, order, 1), -1)


def padded(rows: np.ndarray, n: int) -> np.ndarray:
    """Rows with `n` more columns of -1 on the right (none if `n` is below 0)."""
    return np.pad(rows, ((0, 0), (0, max(0, n))), constant_values=-1)


def numbers_in(mask: np.ndarray) -> np.ndarray:
    """For each place of (n_users, n): how many of the mask came before it, not below 0."""
    return np.maximum(np.cumsum(mask, 1) - 1, 0)


def relevance_of(recs: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    """Scores as float64 (n_users, n), -inf where there is no row.

    Of lists without scores (what is popular, for a cold user) the place counts.
    """
    scores = np.append(recs['score'].to_numpy(np.float64), -np.inf)[rows]
    by_place = np.where(rows >= 0, -np.arange(rows.shape[1], dtype=np.float64), -np.inf)
    return np.where(np.isnan(scores).any(1, keepdims=True), by_place, scores)


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (n_users, 1) of what is finite in each row; a deviation of 0 becomes 1."""
    there = np.isfinite(x)
    n = np.maximum(there.sum(1, keepdims=True), 1)
    x = np.where(there, x, 0.0)
    mean = x.sum(1, keepdims=True) / n
    squares = np.where(there, x - mean, 0.0) ** 2
    std = np.sqrt(squares.sum(1, keepdims=True) / n)
    return mean, np.where(std > 1e-12, std, 1.0)


def by_score(recs: pd.DataFrame, rows: np.ndarray, scores: np.ndarray, k: int) -> pd.DataFrame:
    """The table with new scores (n_users, n), best first."""
    order = np.argsort(-scores, axis=1, kind='stable')[:, :k]
    there = rows >= 0
    of_row = np.empty(len(recs))
    of_row[rows[there]] = scores[there]
    return table_of(recs.assign(score=of_row), np.take_along_axis(rows, order, 1))
