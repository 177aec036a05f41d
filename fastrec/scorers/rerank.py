"""Re-ranking: functions from a recommendation table (as `recommend` gives it) to another, to be chained with `.pipe`.

    recs = learn.recommend(users, k=100)
    recs.pipe(correct_popularity, learn, .5).pipe(mmr, learn, k=20).pipe(quota, 'genre', at_most=3, k=10)

Take more than will be shown (`k=100`), for only what is in the table can move up. `correct_popularity` and
`thompson_sampling` change `score`, which `mmr` reads; `mmr`, `epsilon_greedy` and the rules (`exclude`, `pin`,
`quota`) choose and order, and leave scores alone. So: scores first, then `mmr`, exploration, rules last. All work on
all users at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..data.catalog import Catalog
from ..data.columns import column_of, first_few, kind_of, plain_values
from ..data.features import ItemFeatures
from ..data.files import TableWriter
from ..data.sampling import NegativeSampler
from ..keywords import check_arguments
from ..notices import warn_user
from .baselines import HasCatalog
from .because import check_explain, sentences
from .carried import Explainer
from .lists import as_lists, by_score, id_columns, ids_of, moments, numbers_in, pack, padded, relevance_of, table_of
from .recommend import recommend
from .scorer import Scorer

__all__ = ['Reranked', 'correct_popularity', 'epsilon_greedy', 'exclude', 'mmr', 'pin', 'quota', 'thompson_sampling']

VECTOR_BUDGET = 2**26  # floats of item vectors held at a time by `mmr`
REDRAWS = 20  # rounds of drawing again what a user has or is shown already


# --- what is known of items


def _is_one_of(shown: pd.Series, items: list) -> np.ndarray:
    """bool (n,): are the items that are shown among the ids `items`?"""
    given = plain_values(pd.Series(items))
    shown = plain_values(shown)
    if len(given):
        _check_alike(shown, given, 'item')
    return shown.isin(given).to_numpy()


def _of_items(values: Any, ids: pd.Index, what: str) -> Any:
    """Rows of a table or Series indexed by item id, for `ids`; `ValueError` for repeated, `KeyError` for missing."""
    if not values.index.is_unique:
        repeated = first_few(values.index[values.index.duplicated()].unique())
        raise ValueError(f'{what} has several rows for the same item: {repeated}')
    rows = values.index.get_indexer(ids)
    missing = rows < 0
    if missing.any():
        raise KeyError(
            f'{what} has no row for {int(missing.sum()):,} of {len(ids):,} recommended items: '
            f'{first_few(ids[missing])}. Index it by item id, e.g. `movies.set_index("item")`'
        )
    return values.iloc[rows]


def _unit_vectors(vectors: Any, ids: pd.Index) -> torch.Tensor:
    """Vectors of items, float32 (len(ids), d), rows of length 1 (0 stays 0)."""
    if isinstance(vectors, pd.DataFrame):
        found = _table_vectors(vectors, ids)
    elif isinstance(vectors, ItemFeatures):
        found = _feature_vectors(vectors, ids)
    elif isinstance(vectors, Scorer):
        found = vectors.vectors('item').float().cpu()[torch.from_numpy(vectors.vocab['item'].encode(ids))]
    else:
        raise TypeError(
            'vectors says how alike items are: give a learner (or other scorer with item vectors), ItemFeatures, '
            f'or a table of numbers indexed by item id; got {type(vectors).__name__}'
        )
    if not torch.isfinite(found).all():
        raise ValueError('some item vectors hold values that are not finite')
    return torch.nn.functional.normalize(found, dim=1)


def _table_vectors(table: pd.DataFrame, ids: pd.Index) -> torch.Tensor:
    try:
        return torch.from_numpy(_of_items(table, ids, 'vectors').to_numpy(np.float32, copy=True))
    except (TypeError, ValueError) as e:
        raise ValueError(
            'vectors has to be a table of numbers indexed by item id, such as '
            f"movies.set_index('item').genres.str.get_dummies('|') ({e})"
        ) from e


def _feature_vectors(features: ItemFeatures, ids: pd.Index) -> torch.Tensor:
    rows = features.ids.get_indexer(ids)
    missing = rows < 0
    if missing.any():
        raise KeyError(
            f'the features have no row for {int(missing.sum()):,} of {len(ids):,} recommended items: '
            f'{first_few(ids[missing])}'
        )
    return torch.from_numpy(features.matrix()[rows].toarray())


def _catalog_of(source: HasCatalog) -> Catalog:
    """The catalog of loaders, or of a scorer, which has to be fitted."""
    return source.require_fitted() if isinstance(source, Scorer) else source.catalog


def _counts(popularity: Any, ids: pd.Index) -> np.ndarray:
    """Training rows of each item, float64 (len(ids),)."""
    if isinstance(popularity, pd.Series):
        counts = _of_items(popularity, ids, 'popularity').to_numpy(np.float64)
    elif isinstance(popularity, HasCatalog):
        catalog = _catalog_of(popularity)
        counts = catalog.counts['item'][catalog.vocab['item'].encode(ids)].astype(np.float64)
    else:
        raise TypeError(
            'popularity: give a learner (or other scorer), whose training rows count, or a Series of counts indexed by '
            f'item id, such as ratings.item.value_counts(); got {type(popularity).__name__}'
        )
    if not (counts >= 0).all():
        raise ValueError('popularity holds missing or negative counts')
    return counts


def _list_counts(popularity: Any, recs: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    """Training rows of the items in lists (n_users, n), float64; 0 where there is no row."""
    codes, ids = pd.factorize(recs[id_columns(recs)[1]])
    return np.append(_counts(popularity, ids)[codes], 0.0)[rows]


def _add_rows(recs: pd.DataFrame, users, items, titles: Any = None) -> pd.DataFrame:
    """`recs` with rows for more pairs below: titles where they are known, no score."""
    user, item = id_columns(recs)
    more = pd.DataFrame({item: items})
    if user is not None:
        more.insert(0, user, users)
    if 'title' in recs and item != 'title':
        known = recs.drop_duplicates(item).set_index(item)['title']
        more['title'] = known.reindex(more[item]).to_numpy()
        lacking = more['title'].isna()
        if titles is not None and lacking.any():
            more.loc[lacking, 'title'] = _titles(titles, more.loc[lacking, item])
    dtypes = {c: recs[c].dtype for c in (user, item, 'score') if c in recs}
    more = more.reindex(columns=recs.columns).astype(dtypes).assign(rank=0)
    if 'cold' in recs:
        more['cold'] = False
    return pd.concat([recs.reset_index(drop=True), more], ignore_index=True)


def _titles(titles: Any, items: pd.Series) -> np.ndarray:
    """Titles of item ids from a scorer or from a Series indexed by item id."""
    if isinstance(titles, HasCatalog):
        catalog = _catalog_of(titles)
        return catalog.titles(catalog.vocab['item'].encode(items))
    return titles.reindex(items).to_numpy()


def _titles_by_id(titles: Any) -> pd.Series | None:
    """Titles by item id, of a scorer, or as they were given."""
    if not isinstance(titles, HasCatalog):
        return titles
    catalog = _catalog_of(titles)
    return pd.Series(catalog.titles(np.arange(catalog.n_items)), index=catalog.vocab['item'].ids)


def _among(
    recs: pd.DataFrame,
    pairs: pd.DataFrame,  # columns of users and items
    way_out: str,  # what to do where there are no users
) -> np.ndarray:
    """bool (len(recs),): is the (user, item) in `pairs`? `ValueError` where one of the tables has no users."""
    columns = id_columns(recs)
    if columns[0] is None:
        raise ValueError(
            'the list of a basket is for nobody in particular, so that a table of user and item says nothing about '
            f'it: {way_out}'
        )
    of_recs, of_pairs = [], []
    for side, column, given in zip(('user', 'item'), columns, _columns_of_pairs(pairs, columns, way_out)):
        shown = plain_values(recs[column])
        given = plain_values(given)
        _check_alike(shown, given, side)
        of_recs.append(shown)
        of_pairs.append(given)
    return pd.MultiIndex.from_arrays(of_recs).isin(pd.MultiIndex.from_arrays(of_pairs))


def _columns_of_pairs(pairs: pd.DataFrame, columns: tuple, way_out: str) -> tuple[pd.Series, pd.Series]:
    """The users and the items of a table, called as in the lists or as usual; `ValueError` where it has not both."""
    names = dict(zip(('user', 'item'), columns))
    try:
        user, item = (pairs[column_of(pairs, side, names)] for side in ('user', 'item'))
    except ValueError as e:
        raise ValueError(
            f'a table says which user does not get which item: name its columns {columns[0]} and {columns[1]}. It has '
            f'{first_few(pairs.columns, 20)}. Without users: {way_out}'
        ) from e
    return user, item


def _check_alike(shown: pd.Series, given: pd.Series, side: str) -> None:
    """`ValueError` where ids of one table are numbers and of the other texts, none of which would be found."""
    kinds = kind_of(shown), kind_of(given)
    if set(kinds) == {'integer', 'string'}:
        way = 'int' if kinds[0] == 'integer' else 'str'
        raise ValueError(
            f'{side} ids of the recommendations are {kinds[0]}s such as {first_few(shown, 2)}, those given {kinds[1]}s '
            f'such as {first_few(given, 2)}: convert them with `.astype({way})`'
        )


# --- diversity and popularity


@check_arguments
def mmr(
    recs: pd.DataFrame,  # recommendations: user, item, score, rank
    vectors: Any,  # how alike items are: a learner, `ItemFeatures`, or a table of numbers by item id, e.g. of genres
    k: int | None = None,  # items per user in the result; None: as many as there are
    diversity: float = 0.3,  # 1 - lambda: 0 leaves the order to the scores, 1 to diversity alone
) -> pd.DataFrame:
    """The lists in the order of maximal marginal relevance.

    Each place goes to argmax_i (1 - diversity) r_i - diversity max_{j chosen} cos(i, j): Carbonell and Goldstein, SIGIR
    1998. r is the score scaled to [0, 1] over each user's list, so that it can be weighed against a cosine (in the
    paper both are similarities). The first place goes to the best score. `ValueError` for a `diversity` that is not a
    share.
    """
    if not 0 <= diversity <= 1:
        raise ValueError(f'diversity={diversity}: a share between 0 and 1')
    rows, k = as_lists(recs, k)
    codes, ids = pd.factorize(recs[id_columns(recs)[1]])
    of_items = _unit_vectors(vectors, ids)
    if not len(recs):
        return table_of(recs, rows)
    relevance = _scaled(relevance_of(recs, rows))
    n_users, longest = rows.shape
    chosen: np.ndarray = np.full((n_users, min(k, longest)), -1, np.int64)
    step = max(1, VECTOR_BUDGET // (longest * of_items.shape[1]))
    for start in range(0, n_users, step):
        chunk = slice(start, start + step)
        in_lists = of_items[torch.from_numpy(codes[np.maximum(rows[chunk], 0)])]
        chosen[chunk] = _mmr_order(rows[chunk], relevance[chunk], in_lists, diversity, chosen.shape[1])
    return table_of(recs, chosen)


def _scaled(relevance: np.ndarray) -> torch.Tensor:
    """What is finite in each row scaled to [0, 1], float64 (n_users, n); -inf stays."""
    finite = np.where(np.isfinite(relevance), relevance, np.nan)
    low = np.nanmin(finite, axis=1, keepdims=True)
    high = np.nanmax(finite, axis=1, keepdims=True)
    return torch.from_numpy((relevance - low) / np.where(high > low, high - low, 1.0))


def _mmr_order(
    rows: np.ndarray,  # (B, n)
    relevance: torch.Tensor,  # float64 (B, n), -inf where there is no row
    vectors: torch.Tensor,  # of unit length (B, n, d)
    diversity: float,
    n_places: int,
) -> np.ndarray:
    """The rows by marginal relevance, (B, n_places), -1 where a list is at its end."""
    users = torch.arange(len(rows))
    chosen: np.ndarray = np.full((len(rows), n_places), -1, np.int64)
    gain = torch.where(relevance > -torch.inf, (1 - diversity) * relevance, -torch.inf)  # 0 x -inf is not a number
    nearest = torch.full(rows.shape, -torch.inf, dtype=torch.float64)  # cosine with the nearest that is chosen
    for place in range(n_places):
        value = gain - diversity * nearest if place else relevance
        best = value.argmax(1)
        there = torch.isfinite(value[users, best]).numpy()
        chosen[:, place] = np.where(there, rows[users.numpy(), best.numpy()], -1)
        gain[users, best] = -torch.inf
        cosines = torch.einsum('bnd,bd->bn', vectors, vectors[users, best]).double()
        nearest = torch.maximum(nearest, cosines)
    return chosen


@check_arguments
def correct_popularity(
    recs: pd.DataFrame,  # recommendations: user, item, score, rank
    popularity: Scorer | pd.Series,  # a learner (its training rows), or a Series of counts indexed by item id
    strength: float = 0.5,  # standard deviations of score that one of log popularity costs; below 0 it is a bonus
    k: int | None = None,  # items per user in the result; None: as many as there are
) -> pd.DataFrame:
    """The lists by corrected scores s_i - strength * sd(s) * z(log(1 + n_i)), with n_i the training rows of the item.

    Mean and deviations are those over each user's list. Subtracting log popularity turns the logits of a softmax
    towards those of a catalogue in which all items are equally frequent (Menon et al., 'Long-tail learning via logit
    adjustment', ICLR 2021, eq. 9). Deviation: in units of the list's own spread, so that it can be used on any scale of
    scores.
    """
    rows, k = as_lists(recs, k)
    scores = relevance_of(recs, rows)
    log_n = np.where(rows >= 0, np.log1p(_list_counts(popularity, recs, rows)), np.nan)
    _, spread = moments(scores)
    mean, std = moments(log_n)
    z = np.where(rows >= 0, (log_n - mean) / std, 0.0)
    return by_score(recs, rows, scores - strength * spread * z, k)


# --- exploration


@check_arguments
def epsilon_greedy(
    recs: pd.DataFrame,  # recommendations: user, item, score, rank
    epsilon: float = 0.1,  # chance of each place to show something at random
    k: int = 10,  # items per user in the result
    # what is drawn from: item ids (new ones, say), or a learner: all items that the user has no training row of; None:
    # the rest of the user's list, beyond `k`
    items: Any = None,
    seed: int | None = None,  # of the draws
) -> pd.DataFrame:
    """The first `k` of each list, where some places, at random, go to an item drawn uniformly.

    Each place does so with probability `epsilon`; the others keep their order. A column `explored` tells which were
    drawn: record it with what users do, for only those places tell of items what the model did not choose. Items drawn
    from outside the list have no score. `ValueError` for an `epsilon` that is not a probability.
    """
    if not 0 <= epsilon <= 1:
        raise ValueError(f'epsilon={epsilon}: a probability between 0 and 1')
    rng = np.random.default_rng(seed)
    rows, k = as_lists(recs, k)
    if items is None:
        drawn = _draw_from_rest(rows, k, rng)
    else:
        recs, drawn = _draw_from_items(recs, rows, k, items, rng)
    best = padded(rows[:, :k], k - rows.shape[1])
    at_random = rng.random(best.shape) < epsilon
    at_random &= np.cumsum(at_random, 1) <= (drawn >= 0).sum(1, keepdims=True)
    res = np.where(
        at_random,
        np.take_along_axis(drawn, numbers_in(at_random), 1),
        np.take_along_axis(best, numbers_in(~at_random), 1),
    )
    explored: np.ndarray = np.zeros(len(recs), bool)
    explored[res[at_random]] = True
    return table_of(recs.assign(explored=explored), res)


def _draw_from_rest(rows: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Rows (n_users, k) drawn from those beyond the first `k` of each list, -1 where there are no more."""
    rest = rows[:, k:]
    if not rest.shape[1]:
        raise ValueError(
            f'the lists have no more than k={k} items, so nothing is left to explore: recommend more of them, '
            'or say what to draw from with items='
        )
    keys = np.where(rest >= 0, rng.random(rest.shape), 2.0)  # what is not there comes last
    drawn = np.take_along_axis(rest, np.argsort(keys, axis=1)[:, :k], 1)
    return padded(drawn, k - drawn.shape[1])


def _draw_from_items(
    recs: pd.DataFrame, rows: np.ndarray, k: int, items: Any, rng: np.random.Generator
) -> tuple[pd.DataFrame, np.ndarray]:
    """`recs` with rows for drawn items, and their row numbers (n_users, k), -1 where none was found.

    A user has them neither in the list nor, where `items` is a scorer, in training.
    """
    user_name, item_name = id_columns(recs)
    first = recs.iloc[rows[:, 0]]
    sampler = None
    if isinstance(items, HasCatalog):
        if user_name is None:
            raise ValueError('an anonymous basket has no training rows to leave out: give item ids')
        catalog = _catalog_of(items)
        ids = catalog.vocab['item'].ids
        sampler = NegativeSampler(catalog.require_history().seen)
        users = torch.from_numpy(catalog.vocab['user'].encode(first[user_name]))
    else:
        ids = pd.Index(pd.unique(pd.Series(ids_of(recs, items))))
    listed = np.append(ids.get_indexer(recs[item_name]), -1)[rows]  # -1: not among those to draw
    drawn: np.ndarray = np.full((len(rows), k), -1, np.int64)
    for _ in range(REDRAWS):
        user, place = np.nonzero(drawn < 0)
        if not len(user):
            break
        draw = rng.integers(len(ids), size=len(user))
        bad = (listed[user] == draw[:, None]).any(1) | (drawn[user] == draw[:, None]).any(1)
        if sampler is not None:
            bad |= sampler.is_seen(users[user], torch.from_numpy(draw)).numpy()
        bad |= pd.Series(user * len(ids) + draw).duplicated().to_numpy()
        drawn[user[~bad], place[~bad]] = draw[~bad]
    drawn = pack(drawn, drawn >= 0)
    user, place = np.nonzero(drawn >= 0)
    drawn_rows = np.full_like(drawn, -1)
    drawn_rows[user, place] = len(recs) + np.arange(len(user))
    user_ids = first[user_name].to_numpy()[user] if user_name is not None else None
    titles = items if sampler is not None else None
    return _add_rows(recs, user_ids, ids[drawn[user, place]], titles), drawn_rows


def thompson_sampling(
    recs: pd.DataFrame,  # recommendations: user, item, score, rank
    popularity: Scorer | pd.Series,  # how sure scores are: a learner (its training rows), or counts by item id
    scale: float = 1.0,  # standard deviation of the noise of an item without training rows, in those of the user's list
    prior: float = 10.0,  # training rows at which the variance is half of that
    k: int | None = None,  # items per user in the result; None: as many as there are
    seed: int | None = None,  # of the noise
) -> pd.DataFrame:
    """The lists by scores drawn from s_i + scale * sd(s) * sqrt(prior / (prior + n_i)) * N(0, 1).

    What little is known of gets its chance, and less so as rows come in: Thompson 1933; Chapelle and Li, NIPS 2011. The
    variance is that of a Gaussian mean after n_i observations; that each item's score is Gaussian and independent of
    the others' is an assumption: the models give no posterior. `ValueError` for a `scale` or `prior` out of range.
    """
    if scale < 0 or prior <= 0:
        raise ValueError(f'scale={scale}, prior={prior}: scale is at least 0, prior above 0')
    rows, k = as_lists(recs, k)
    scores = relevance_of(recs, rows)
    n = _list_counts(popularity, recs, rows)
    noise = np.random.default_rng(seed).standard_normal(rows.shape)
    _, spread = moments(scores)
    return by_score(recs, rows, scores + scale * spread * np.sqrt(prior / (prior + n)) * noise, k)


# --- rules


@check_arguments
def exclude(
    recs: pd.DataFrame,  # recommendations: user, item, score, rank
    # items that nobody gets, each an id, a title or a part of one; or a table of user and item: who does not get what
    items: Any,
    k: int | None = None,  # items per user in the result; None: as many as are left
    titles: HasCatalog | pd.Series | None = None,  # titles (by item id) by which items are named; None: the lists' own
) -> pd.DataFrame:
    """The lists without some items; what comes after moves up."""
    rows, k = as_lists(recs, k)
    if isinstance(items, pd.DataFrame):
        out = _among(recs, items, "give the ids of the items, e.g. exclude(recs, table['item'])")
    else:
        ids = ids_of(recs, items, _titles_by_id(titles), is_needed=titles is not None)
        out = _is_one_of(recs[id_columns(recs)[1]], ids)
    in_lists = np.append(out, True)[rows]
    return table_of(recs, pack(rows, ~in_lists)[:, :k])


@check_arguments
def pin(
    recs: pd.DataFrame,  # recommendations: user, item, score, rank
    # item or items, for the places from `at` on, each an id, a title or a part of one; or a dict item -> place
    items: Any,
    at: int = 1,  # place of the first
    seen: pd.DataFrame | None = None,  # table of user and item: who has it already is not shown it again
    titles: HasCatalog | pd.Series | None = None,  # titles (by item id) of items that are in no list
    k: int | None = None,  # items per user in the result; None: as many as there were
) -> pd.DataFrame:
    """The lists with some items at fixed places.

    The others keep their order around them, and the last drop out. A pinned item that was not in a list has no score.
    """
    rows, k = as_lists(recs, k)
    places = _places(recs, items, at, k, titles)
    recs, pinned = _pinned_rows(recs, rows, pd.Index(list(places)), seen, titles)
    taken: np.ndarray = np.zeros((len(rows), k), bool)
    res: np.ndarray = np.full((len(rows), k), -1, np.int64)
    for j, place in enumerate(places.values()):
        wanted = pinned[:, j] >= 0
        taken[:, place - 1] |= wanted
        res[wanted, place - 1] = pinned[wanted, j]
    # the others, in order, in the places that are free; an item that is pinned for a user leaves its old place
    is_pinned = (rows[:, :, None] == pinned[:, None]).any(2)
    others = padded(pack(rows, ~is_pinned), k)
    res = np.where(taken, res, np.take_along_axis(others, numbers_in(~taken), 1))
    return table_of(recs, pack(res, res >= 0))


def _places(recs: pd.DataFrame, items: Any, at: int, k: int, titles: Any) -> dict:
    """Item id -> place from 1 to `k`; `ValueError` for places that are not, or are given twice."""
    ids = ids_of(recs, items, _titles_by_id(titles))
    places = dict(zip(ids, items.values() if isinstance(items, dict) else range(at, at + len(ids))))
    if len(places) < len(ids):
        raise ValueError('an item is pinned to several places')
    bad = [item for item, place in places.items() if int(place) != place or not 1 <= place <= k]
    if bad:
        raise ValueError(f'places run from 1 to {k}: {first_few(bad)} cannot be pinned where asked')
    if len(set(places.values())) < len(places):
        raise ValueError('several items are pinned to the same place')
    return places


def _pinned_rows(
    recs: pd.DataFrame, rows: np.ndarray, ids: pd.Index, seen: pd.DataFrame | None, titles: Any
) -> tuple[pd.DataFrame, np.ndarray]:
    """`recs` with rows for pinned items that had none, and the row of each, (n_users, n_pinned), -1: it is seen."""
    n_users, n_pinned = len(rows), len(ids)
    user_name, item_name = id_columns(recs)
    pairs = pd.DataFrame({item_name: np.tile(np.asarray(ids), n_users)})
    if user_name is not None:
        users = recs[user_name].iloc[rows[:, 0]].to_numpy()
        pairs.insert(0, user_name, np.repeat(users, n_pinned))
    _check_alike(plain_values(recs[item_name]), plain_values(pd.Series(list(ids))), 'item')
    _check_pinned(recs, ids, titles)
    if seen is None:
        wanted: np.ndarray = np.ones(len(pairs), bool)
    else:
        # with columns of a table of recommendations, which is asked for users and items
        wanted = ~_among(pairs.assign(score=0.0, rank=0), seen, 'leave seen= out')
    # a pinned item has its own row in the list, else one is added
    row_of = np.full(len(pairs), -1)
    user, place = np.nonzero(rows >= 0)
    in_lists = rows[user, place]
    code = ids.get_indexer(pd.Index(recs[item_name]))[in_lists]
    is_pinned = code >= 0
    row_of[(user * n_pinned + code)[is_pinned]] = in_lists[is_pinned]
    new = np.flatnonzero(wanted & (row_of < 0))
    row_of[new] = len(recs) + np.arange(len(new))
    if len(new):
        new_users = pairs[user_name].to_numpy()[new] if user_name is not None else None
        recs = _add_rows(recs, new_users, pairs[item_name].to_numpy()[new], titles)
    return recs, np.where(wanted, row_of, -1).reshape(n_users, n_pinned)


def _check_pinned(recs: pd.DataFrame, ids: pd.Index, titles: Any) -> None:
    """`KeyError` for items that `titles` does not know; without them a warning of those that are in no list."""
    _, item = id_columns(recs)
    unknown = ids[~ids.isin(recs[item])]
    if isinstance(titles, HasCatalog):
        _catalog_of(titles).vocab['item'].encode(unknown)  # says which it does not know
        return
    if isinstance(titles, pd.Series):
        if len(lost := unknown[~unknown.isin(titles.index)]):
            raise KeyError(f'titles has no row for {len(lost):,} of {len(ids):,} pinned items: {first_few(lost)}')
        return
    if len(unknown) and 'title' in recs and item != 'title':
        warn_user(
            f'{len(unknown):,} of {len(ids):,} pinned items are in no list, so that nothing tells whether there are '
            f'such, nor their titles: {first_few(unknown)}. titles=learn has both'
        )


@check_arguments
def quota(
    recs: pd.DataFrame,  # recommendations: user, item, score, rank
    # a column of `recs`, a Series of categories indexed by item id, or a table of 0 and 1 (item id x category) where an
    # item has several
    categories: str | pd.Series | pd.DataFrame,
    at_most: int | Mapping | None = None,  # items of a category in a list: one number, or a dict category -> number
    at_least: Mapping | None = None,  # category -> number of items that a list has to have
    k: int = 10,  # items per user in the result
) -> pd.DataFrame:
    """The best `k` items of each list under quotas per category, in their order.

    Items fill the lower bounds first (category after category), then what is left, from the top; an item counts for
    each of its categories. With one category per item that is the best list there is; where a bound cannot be kept with
    what is in a list, the list has fewer. An item without a category is under no bound, of which it is warned.
    `ValueError` without a bound.
    """
    rows, k = as_lists(recs, k)
    names, member, known = _members(recs, categories)
    if at_most is None and not at_least:
        raise ValueError('say what to keep to: at_most=, at_least=')
    at_least = dict(at_least or {})
    bounded = list(at_most) if isinstance(at_most, Mapping) else []
    if isinstance(categories, str):  # the lists at hand may hold no item of one that there is
        bounded = []
    _check_categories(known, [*bounded, *at_least])
    belongs = np.pad(member, ((0, 1), (0, 0)))[rows]  # (n_users, n, n_categories); where no row is: to none
    lists = _QuotaLists(rows, belongs, _upper_bounds(names, at_most, k), k)
    for category, n in at_least.items():
        if category not in names:
            continue  # no list has one
        j = names.index(category)
        for column in range(rows.shape[1]):
            lists.take(column, belongs[:, column, j] & (lists.filled[:, j] < n))
    for column in range(rows.shape[1]):
        lists.take(column, np.ones(len(rows), bool))
    return table_of(recs, pack(rows, lists.taken)[:, :k])


def _members(recs: pd.DataFrame, categories: Any) -> tuple[list, np.ndarray, list]:
    """Names of the categories in the lists, which of them each row of `recs` belongs to, and the names of all.

    The second is bool (len(recs), n_categories).
    """
    if isinstance(categories, str):
        if categories not in recs:
            raise ValueError(
                f'no column {categories!r} in the table; columns: {first_few(recs.columns, 20)}. '
                'Merge it in, or give a Series of categories indexed by item id'
            )
        _warn_of_no_category(recs[categories].isna().to_numpy(), f'recs.fillna({{{categories!r}: "unknown"}})')
        of_rows = pd.get_dummies(recs[categories])
        names = list(of_rows.columns)
        return names, of_rows.to_numpy(bool), names
    codes, ids = pd.factorize(recs[id_columns(recs)[1]])
    if isinstance(categories, pd.Series):
        found = _of_items(categories, ids, 'categories')
        _warn_of_no_category(found.isna().to_numpy()[codes], 'categories.fillna("unknown")')
        of_items = pd.get_dummies(found)
        known = list(categories.dropna().unique())
    elif isinstance(categories, pd.DataFrame):
        of_items = _of_items(categories, ids, 'categories') > 0
        known = list(categories.columns)
    else:
        raise TypeError(
            'categories: a column name, a Series indexed by item id, or a table of 0 and 1 (item id x category); '
            f'got {type(categories).__name__}'
        )
    return list(of_items.columns), of_items.to_numpy(bool)[codes], known


def _warn_of_no_category(is_missing: np.ndarray, way_out: str) -> None:
    """Say how many recommended rows have no category and are under no bound."""
    if is_missing.any():
        warn_user(
            f'{int(is_missing.sum()):,} of {len(is_missing):,} recommended rows have no category, so that no bound '
            f'counts them: to count them as one of their own, `{way_out}`'
        )


def _check_categories(known: list, asked: Iterable) -> None:
    for category in asked:
        if category not in known:
            raise ValueError(f'no item is of category {category!r}; categories: {first_few(known, 20)}')


def _upper_bounds(names: list, at_most: int | Mapping | None, k: int) -> np.ndarray:
    """How many items of each category a list may have, (n_categories,); `k` where nothing is said."""
    if isinstance(at_most, Mapping):
        return np.array([at_most.get(name, k) for name in names])
    return np.full(len(names), k if at_most is None else at_most)


class _QuotaLists:
    """Lists of all users that fill up together."""

    def __init__(
        self,
        rows: np.ndarray,  # (n_users, n)
        belongs: np.ndarray,  # bool (n_users, n, n_categories)
        upper: np.ndarray,  # (n_categories,)
        k: int,  # items in a list
    ) -> None:
        self.there = rows >= 0
        self.belongs = belongs
        self.upper = upper
        self.k = k
        self.taken = np.zeros(rows.shape, bool)
        self.filled: np.ndarray = np.zeros((len(rows), len(upper)), np.int64)  # items of each category in each list

    def take(self, column: int, wanted: np.ndarray) -> None:
        """Take the items of a column, for as many of the users who want it, bool (n_users,), as have room."""
        of_item = self.belongs[:, column]
        bound = np.maximum(self.upper, self.filled)  # what lower bounds have filled beyond it may stay
        has_room = (self.taken.sum(1) < self.k) & (self.filled + of_item <= bound).all(1)
        taken = self.there[:, column] & ~self.taken[:, column] & wanted & has_room
        self.taken[:, column] |= taken
        self.filled[taken] += of_item[taken]


# --- a re-ranked scorer


class Reranked(Scorer):
    """A scorer whose first `n` recommendations go through `rerank`, a function of the table of them.

    `Reranked(learn, lambda recs: recs.pipe(mmr, learn, diversity=.3))`. It is a `Scorer` like any other, so `evaluate`
    and `compare_models` tell what re-ranking costs in accuracy and gains in diversity. Items beyond the first `n`
    follow in their old order, and after them what `rerank` left out. Training rows of the user are not in the table.
    """

    scale = 'rank'

    @check_arguments
    def __init__(
        self,
        scorer: Scorer,  # a fitted learner or other `Scorer`
        rerank: Callable[[pd.DataFrame], pd.DataFrame],  # table of recommendations -> table of recommendations
        n: int = 100,  # recommendations per user that go in
    ) -> None:
        self.scorer = scorer
        self.rerank = rerank
        self.n = n
        self.catalog = scorer.catalog
        self.knows_cold = scorer.knows_cold
        self._remember_parts()

    def __repr__(self) -> str:
        name = getattr(self.rerank, '__name__', type(self.rerank).__name__)
        return f'Reranked({self.scorer!r}, {name}, n={self.n})'

    def config(self) -> dict[str, Any]:
        """How many recommendations go in."""
        return dict(n=self.n)

    def parts(self) -> list[Scorer]:
        """The scorer whose lists are re-ranked."""
        return [self.scorer]

    def explainer(self) -> Explainer:
        """That of the scorer: a place in a list has no parts, the score that led to it has."""
        return self.scorer.explainer()

    def knows(self, side: str = 'item') -> np.ndarray:
        """bool (n,): as of the scorer."""
        return self.scorer.knows(side)

    def vectors(self, side: str = 'item') -> torch.Tensor:
        """Those of the scorer."""
        return self.scorer.vectors(side)

    def neighbors(self, codes: np.ndarray, k: int, side: str = 'item') -> tuple[np.ndarray, np.ndarray]:
        """Those of the scorer."""
        return self.scorer.neighbors(codes, k, side)

    def basket_scores(self, codes: np.ndarray) -> torch.Tensor:
        """Those of the scorer."""
        return self.scorer.basket_scores(codes)

    def score_items(self, users: torch.Tensor) -> torch.Tensor:
        """Descending with the rank: codes (B,) -> (B, n_items), on the CPU."""
        self.require_current()
        users, of_row = torch.unique(torch.as_tensor(users), return_inverse=True)
        scores = self.scorer.score_items(users).float().cpu()
        user_ids = self.vocab['user'].decode(users.cpu().numpy())
        before = recommend(self.scorer, user_ids, self.n, cold='mean')
        assert isinstance(before, pd.DataFrame)  # no file was asked for
        after = self.rerank(before)
        row_of = pd.Series(np.arange(len(users)), index=user_ids)
        names = self.catalog.columns

        def pairs(recs: pd.DataFrame) -> tuple[torch.Tensor, torch.Tensor]:
            """Where the rows of a table are in the scores."""
            items = self.vocab['item'].encode(recs[names['item']])
            return torch.from_numpy(row_of[recs[names['user']]].to_numpy(copy=True)), torch.from_numpy(items)

        n_items = scores.shape[1]
        places = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1).double()  # 0: best
        res = -places
        res[pairs(before)] -= n_items  # left out, unless it comes back
        res[pairs(after)] = 2.0 * n_items - torch.from_numpy(after['rank'].to_numpy(copy=True)).double()
        return res.float()[of_row.cpu()]

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores of pairs of codes: (n,), (n,) -> (n,)."""
        distinct, of_pair = torch.unique(torch.as_tensor(users), return_inverse=True)
        return self.score_items(distinct)[of_pair, torch.as_tensor(items)]

    def recommend(
        self,
        users: Any = None,
        k: int = 10,
        exclude_seen: bool = True,
        candidates: Any = None,
        cold: str = 'popular',
        seen: pd.DataFrame | None = None,
        basket: Any = None,
        to: Any = None,
        columns: Any = None,
        explain: bool = False,
    ) -> pd.DataFrame | Path:
        """The first `k` of the re-ranked lists; arguments as in `Scorer.recommend`."""
        self.require_current()
        check_explain(explain, basket, to)
        recs = self.scorer.recommend(
            users, max(k, self.n), exclude_seen, candidates, cold, seen, basket, columns=columns
        )
        assert isinstance(recs, pd.DataFrame)  # no file was asked for
        res = self.rerank(recs)
        res = res[res['rank'] <= k].reset_index(drop=True)
        if explain:
            res = res.assign(because=sentences(self, res))
        if to is None:
            return res
        if 'cold' not in res:
            res['cold'] = False  # always in files, as those of `recommend`
        with TableWriter(to) as writer:
            writer.write(res)
        return Path(to)
