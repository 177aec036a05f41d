"""Which held-out rows and users are evaluated, and quarters of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..data.catalog import Catalog
from ..data.columns import first_few
from ..data.interactions import Interactions
from ..data.splits import Split
from ..scorers.baselines import HasCatalog, require_loaders
from ..scorers.scorer import Scorer

__all__: list[str] = []


def catalog_of(scorer: Scorer, dls: HasCatalog | None) -> Catalog:
    """The catalog whose held-out rows are looked at."""
    if dls is None:
        return scorer.require_fitted()
    require_loaders(dls, 'evaluation')
    return dls.catalog


def rows_of(catalog: Catalog) -> tuple[Interactions, Split]:
    """The rows and their split; `ValueError` where they are not in memory."""
    history = catalog.require_history()
    assert history.interactions is not None and history.split is not None  # `require_history` has seen to it
    return history.interactions, history.split


def held_out_rows(catalog: Catalog, part: str) -> tuple[Interactions, np.ndarray]:
    """The interactions, and which rows (n,) of them are in the part 'valid', say; `ValueError` where there are none."""
    inter, split = rows_of(catalog)
    parts = {name: rows for name, rows in split._asdict().items() if rows is not None}
    if part not in parts:
        raise ValueError(f'there is no {part!r} part: the split has {list(parts)}')
    if not len(parts[part]):
        raise ValueError(
            'no rows are held out (valid_pct=0), so there is nothing to evaluate on: choose settings on loaders that '
            'hold some out, then train on all'
        )
    return inter, parts[part]


def relevant_rows(catalog: Catalog, rows: np.ndarray, relevant: float | None) -> np.ndarray:
    """Those of the held-out `rows` that are to be ranked: liked, positive, or rated from `relevant` on."""
    inter, _ = rows_of(catalog)
    relevant = None if relevant is None else float(relevant)  # a float64 of numpy would be compared in float64
    if relevant is None and catalog.thresholds is not None:
        res = rows[catalog.liked(rows)]
    elif inter.weights is not None:
        if relevant is not None:
            raise ValueError(
                'relevant= is for explicit ratings; of implicit feedback the positives are relevant '
                '(threshold= when the loaders are made)'
            )
        res = inter.positive(rows)
    elif relevant is not None:
        res = rows[inter.ratings[rows] >= relevant]
    else:
        low, high = inter.ratings.min(), inter.ratings.max()
        raise ValueError(
            f'ranking on explicit ratings: say which held-out ratings are relevant, e.g. relevant={high - 1:g}, '
            f'in the training table cbs=RankingCallback([ndcg(10)], relevant={high - 1:g}) '
            f'(they run from {low:g} to {high:g})'
        )
    if not len(res):
        why = '' if relevant is None else f': no rating reaches {relevant:g}'
        raise ValueError(f'none of the {len(rows):,} held-out rows is relevant{why}')
    return res


def chosen_users(catalog: Catalog, rows: np.ndarray, users: Any, seed: int) -> np.ndarray:
    """Codes of the users to evaluate, int64, ascending: all who have one of `rows`, so many of them, or those named."""
    inter, _ = rows_of(catalog)
    with_items = np.unique(inter.users[rows]).astype(np.int64)
    if users is None:
        return with_items
    is_number = np.isscalar(users) and not isinstance(users, str)
    if is_number:
        check_count('users', users, 'user')
        n = min(int(users), len(with_items))
        return np.sort(np.random.default_rng(seed).choice(with_items, n, replace=False))
    codes = np.unique(catalog.vocab['user'].encode(users))
    if not len(codes):
        raise ValueError('users= names nobody: leave it out for all users with a held-out item')
    without = np.setdiff1d(codes, with_items)
    if len(without):
        named = first_few(catalog.vocab['user'].decode(without))
        raise ValueError(f'{len(without):,} of the users have no held-out item to rank: {named}')
    return codes


def check_count(argument: str, n: Any, what: str) -> None:
    """`ValueError` unless the argument is a whole number from 1 on; `what` is what it counts."""
    if not 1 <= n < np.inf or int(n) != n:
        raise ValueError(f'{argument}={n}: a whole number, of at least one {what}; leave it out for all')


def quarters(values: np.ndarray) -> np.ndarray:
    """The interval of its quarter for each of the values (n,), as objects (n,)."""
    if values.min() == values.max():
        res: np.ndarray = np.empty(len(values), dtype=object)
        res[:] = pd.Interval(values[0], values[0], closed='both')
        return res
    return np.asarray(pd.qcut(values, 4, duplicates='drop', precision=0))


def index_of_users(catalog: Catalog, codes: np.ndarray) -> pd.Index:
    """The ids of codes (n,), named as the table's column of users."""
    return pd.Index(catalog.vocab['user'].decode(codes), name=catalog.names['user'])
