"""Tables of codes as a person reads them: ids in the table's own columns, titles, training rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..data.catalog import Catalog

__all__: list[str] = []


def column_for(
    catalog: Catalog,
    role: str,  # 'user', 'item' or 'rating'
    *others: str,  # columns that stand beside it
) -> str:
    """What a column is called: as in the training table (`Catalog.columns`), unless one beside it is called so."""
    own = catalog.columns[role]
    return role if own in others else own


def target_column(catalog: Catalog, *others: str) -> str:
    """What targets of pairs are called: 'liked', or ratings as in the training table."""
    return column_for(catalog, 'rating', *others) if catalog.thresholds is None else 'liked'


def one_side(
    catalog: Catalog,
    codes: np.ndarray,  # int (n,)
    side: str,  # whose codes they are
    **columns: Any,  # further columns by name, (n,) each
) -> pd.DataFrame:
    """A row for each code: id, title (of items, if known), further columns, training rows."""
    df = pd.DataFrame({column_for(catalog, side, 'rows', *columns): catalog.vocab[side].decode(codes)})
    if side == 'item' and catalog.shows_titles:
        df['title'] = catalog.titles(codes)
    for column, values in columns.items():
        df[column] = values
    df['rows'] = catalog.counts[side][codes]
    return df


def of_pairs(
    catalog: Catalog,
    users: np.ndarray,  # codes (n,)
    items: np.ndarray,  # codes (n,)
    **columns: Any,  # further columns by name, (n,) each
) -> pd.DataFrame:
    """A row for each pair: user, item, title (if known), further columns."""
    user_ids, item_ids = catalog.vocab['user'].decode(users), catalog.vocab['item'].decode(items)
    df = pd.DataFrame(
        {column_for(catalog, 'user', *columns): user_ids, column_for(catalog, 'item', *columns): item_ids}
    )
    if catalog.shows_titles:
        df['title'] = catalog.titles(items)
    for column, values in columns.items():
        df[column] = values
    return df
