"""Why a score is what it is, for people who are not data scientists: the user's own items, in a table or a sentence.

`scorer` is here whatever keeps the contract of `Scorer`, which stands above this room and calls it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from ..data.catalog import Catalog
from ..data.columns import first_few
from ..progress import Progress
from .carried import Carried, Own, given_rows, in_order, own_rows, shares
from .influence import SumsInModel
from .pathways import feature_parts
from .recommend import checked_k, require_numbers

__all__: list[str] = []

WAYS = ('items', 'features', 'sums')
NAMED = 3  # items that a sentence names, at most
WORTH_NAMING = 0.25  # of what the first one brings
OF_OTHERS = 'others like it; nothing of yours speaks for it'  # a score that no item of the user's has raised
OF_NOBODY = 'it is popular; nothing is known of the user'


def because(
    scorer: Any,
    user: Any,  # id
    item: Any,  # an id, a title, or a part of a title that matches one
    k: int | None = None,
    history: Any = None,
    by: str = 'items',
) -> pd.DataFrame:
    """Why `scorer` gives a user's item its score; arguments and table as in `Scorer.because`."""
    if by not in WAYS:
        raise ValueError(f'by={by!r}: choose one of {WAYS}')
    k = None if k is None else checked_k(k, 'item')
    catalog = scorer.catalog
    user_code, item_code = catalog.find(user, 'user'), catalog.find(item)
    if by == 'features':
        res = feature_parts(scorer, user_code, item_code, k)
    else:
        res = _of_items(scorer, user_code, item_code, k, history, by)
    for side, code in (('user', user_code), ('item', item_code)):
        res.attrs[side] = catalog.vocab[side].decode([code]).tolist()[0]
    res.attrs['title'] = str(catalog.titles([item_code])[0])
    return res


def _of_items(scorer: Any, user: int, item: int, k: int | None, history: Any, by: str) -> pd.DataFrame:
    """The table by items of codes of a user and an item."""
    if history is not None and scorer.reads_history:  # a user's score is made of it
        scorer = scorer.fold_in(history)
        user, history = 0, None
    own = own_rows(scorer.catalog, user) if history is None else given_rows(scorer, history)
    if not len(own.items):
        name = first_few(scorer.vocab['user'].decode([user]))
        raise ValueError(
            f'user {name} has no training rows: no item carries the score, which is that of the average user'
        )
    explainer = SumsInModel(scorer) if by == 'sums' and scorer.model is not None else scorer.explainer()
    if by == 'sums' and explainer.method != 'exact':
        raise TypeError(f"{type(scorer).__name__} does not sum what users have: by='items' works for every scorer")
    carried = explainer.of(user, np.array([item], dtype=np.int64), own)
    require_numbers(torch.from_numpy(carried.scores))
    require_numbers(torch.from_numpy(carried.contributions), 'contributions')
    return _table(scorer.catalog, carried, own, k)


def _table(catalog: Catalog, carried: Carried, own: Own, k: int | None) -> pd.DataFrame:
    """A row for each of the user's items: item, title, rating (those there are), share, contribution."""
    parts = carried.contributions[:, 0]
    order = in_order(parts)[:k]
    codes = carried.items[order]
    columns: dict[str, Any] = {catalog.columns['item']: catalog.vocab['item'].decode(codes)}
    if catalog.shows_titles:
        columns['title'] = catalog.titles(codes)
    if own.is_rated:
        columns[catalog.columns['rating']] = own.values[order]
    columns['share'] = shares(parts)[order]
    columns['contribution'] = parts[order]
    res = pd.DataFrame(columns)
    res.attrs.update(score=float(carried.scores[0]), base=float(carried.base[0]), method=carried.method)
    return res


# --- in a sentence


def check_explain(explain: bool, basket: Any, to: Any) -> None:
    """`ValueError` for arguments of `recommend` that no sentences go with."""
    if explain and (basket is not None or to is not None):
        raise ValueError(
            'explain=True is for tables in memory of users with rows: leave out to=, and of a basket ask '
            'fold_in(basket).recommend(explain=True)'
        )


def sentences(scorer: Any, recommendations: pd.DataFrame) -> list[str]:
    """Why each row of a table of `recommend` is there: 'because you rated Alien (1979) 5 and Aliens (1986) 4'."""
    catalog = scorer.catalog
    users = catalog.vocab['user'].encode(recommendations[catalog.columns['user']])
    items = catalog.vocab['item'].encode(recommendations[catalog.columns['item']])
    explainer = scorer.explainer()
    titles = catalog.titles(np.arange(catalog.n_items))
    res: np.ndarray = np.full(len(users), '', dtype=object)
    rows_of = pd.Series(np.arange(len(users))).groupby(users, sort=False).indices
    with scorer.inference(), Progress(len(rows_of), 'explaining', 'users', scorer.shows_progress) as progress:
        for user, rows in rows_of.items():
            own = own_rows(catalog, int(user))
            if len(own.items):
                carried = explainer.of(int(user), items[rows].astype(np.int64), own)
                res[rows] = [_sentence(titles, own, parts) for parts in carried.contributions.T]
            else:
                res[rows] = OF_NOBODY
            progress.update(1)
    return res.tolist()


def _sentence(titles: np.ndarray, own: Own, parts: np.ndarray) -> str:
    """What an item's score owes to the user's items, of which `parts` (n,) are the contributions."""
    speaks_for_it = parts > 0
    if own.is_rated:
        liked = own.values >= own.values.mean()
        # A low rating may speak for an item, too, as one of another kind; it is named where nothing else is.
        speaks_for_it &= liked if (speaks_for_it & liked).any() else True
    order = np.argsort(np.where(speaks_for_it, -parts, np.inf), kind='stable')[:NAMED]
    order = order[speaks_for_it[order] & (parts[order] >= WORTH_NAMING * parts[order[0]])]
    if not len(order):
        return OF_OTHERS
    named = list(titles[own.items[order]])
    if own.is_rated:
        named = [f'{title} {rating:g}' for title, rating in zip(named, own.values[order])]
    verb = 'rated' if own.is_rated else 'chose'
    listed = named[0] if len(named) == 1 else f'{", ".join(named[:-1])} and {named[-1]}'
    return f'because you {verb} {listed}'
