"""Re-ranking: functions from a recommendation table (as `recommend` gives it) to another, to be chained with `.pipe`:

    learn.recommend(users, k=100).pipe(correct_popularity, learn, .5).pipe(mmr, learn, k=20).pipe(quota, 'genre', at_most=3, k=10)

Take more than will be shown (`k=100`), for only what is in the table can move up. `correct_popularity` and `thompson_sampling` change `score`, which `mmr` reads; `mmr`, `epsilon_greedy`
and the rules (`exclude`, `pin`, `quota`) choose and order, and leave scores alone. So: scores first, then `mmr`, exploration, rules last. All work on all users at once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..data.columns import column_of, first_few
from ..data.features import ItemFeatures
from ..data.files import TableWriter
from ..data.sampling import NegativeSampler
from .recommend import recommend
from .scorer import Scorer

__all__ = ['Reranked', 'correct_popularity', 'epsilon_greedy', 'exclude', 'mmr', 'pin', 'quota', 'thompson_sampling']

CHUNK = 2**26  # floats of item vectors held at a time by `mmr`
ROUNDS = 20  # of drawing again what a user has or is shown already


def _lists(recs, k=None):
    """-> the row numbers of each user's list in the order of rank, int64 (n_users, longest), -1 where it is shorter; the length asked for, or the longest."""
    if missing := [c for c in ('item', 'score', 'rank') if c not in recs]:
        raise ValueError(
            f'no recommendation table: it lacks {first_few(missing)}; columns: {first_few(recs.columns, 20)}'
        )
    if k is not None and (int(k) != k or k < 1):
        raise ValueError(f'k={k}: ask for at least one item')
    users = pd.factorize(recs['user'])[0] if 'user' in recs else np.zeros(len(recs), np.int64)
    order = np.lexsort((recs['rank'].to_numpy(), users))
    n = np.bincount(users, minlength=1)
    rows = np.full((len(n), max(n.max(initial=0), 1)), -1, np.int64)
    rows[users[order], np.arange(len(order)) - np.repeat(n.cumsum() - n, n)] = order
    return rows, int(k or rows.shape[1])


def _table(recs, rows):
    """The rows (n_users, k) of `recs` in that order (-1: none), ranked from 1."""
    rows = rows[(rows >= 0).any(1)]
    there = rows >= 0
    res = recs.iloc[rows[there]].reset_index(drop=True)
    res['rank'] = there.cumsum(1)[there]
    return res


def _pack(rows, keep):
    """Rows (n_users, n) with those not kept taken out: what is kept moves to the left, -1 fills up."""
    keep = keep & (rows >= 0)
    order = np.argsort(~keep, axis=1, kind='stable')
    return np.where(np.take_along_axis(keep, order, 1), np.take_along_axis(rows, order, 1), -1)


def _relevance(recs, rows):
    """Scores as float64 (n_users, n), -inf where there is no row; of lists without scores (what is popular, for a cold user) the place counts."""
    scores = np.append(recs['score'].to_numpy(np.float64), -np.inf)[rows]
    return np.where(
        np.isnan(scores).any(1, keepdims=True),
        np.where(rows >= 0, -np.arange(rows.shape[1], dtype=np.float64), -np.inf),
        scores,
    )


def _moments(x):
    """Mean and standard deviation (n_users, 1) of what is finite in each row; a deviation of 0 becomes 1."""
    there = np.isfinite(x)
    n, x = np.maximum(there.sum(1, keepdims=True), 1), np.where(there, x, 0.0)
    mean = x.sum(1, keepdims=True) / n
    std = np.sqrt((np.where(there, x - mean, 0.0) ** 2).sum(1, keepdims=True) / n)
    return mean, np.where(std > 1e-12, std, 1.0)


def _of_items(values, ids, what):
    """Rows of a table or Series indexed by item id, for `ids`."""
    if not values.index.is_unique:
        raise ValueError(
            f'{what} has several rows for the same item: {first_few(values.index[values.index.duplicated()].unique())}'
        )
    at = values.index.get_indexer(ids)
    if (at < 0).any():
        raise KeyError(
            f'{what} has no row for {int((at < 0).sum()):,} of {len(ids):,} recommended items: {first_few(ids[at < 0])}. Index it by item id, e.g. `movies.set_index("item")`'
        )
    return values.iloc[at]


def _unit_vectors(vectors, ids):
    """float32 (len(ids), d), rows of length 1 (0 stays 0)."""
    if isinstance(vectors, pd.DataFrame):
        try:
            v = torch.from_numpy(_of_items(vectors, ids, 'vectors').to_numpy(np.float32, copy=True))
        except (TypeError, ValueError) as e:
            raise ValueError(
                f"vectors has to be a table of numbers indexed by item id, such as movies.set_index('item').genres.str.get_dummies('|') ({e})"
            ) from e
    elif isinstance(vectors, ItemFeatures):
        at = vectors.ids.get_indexer(ids)
        if (at < 0).any():
            raise KeyError(
                f'the features have no row for {int((at < 0).sum()):,} of {len(ids):,} recommended items: {first_few(ids[at < 0])}'
            )
        v = torch.from_numpy(vectors.matrix()[at].toarray())
    elif isinstance(vectors, Scorer):
        v = vectors.vectors('item').float().cpu()[torch.from_numpy(vectors.vocab['item'].encode(ids))]
    else:
        raise TypeError(
            f'vectors says how alike items are: give a learner (or other scorer with item vectors), ItemFeatures, or a table of numbers indexed by item id; got {type(vectors).__name__}'
        )
    if not torch.isfinite(v).all():
        raise ValueError('some item vectors hold values that are not finite')
    return torch.nn.functional.normalize(v, dim=1)


def _counts(popularity, ids):
    """float64 (len(ids),): training rows of each item."""
    if isinstance(popularity, pd.Series):
        res = _of_items(popularity, ids, 'popularity').to_numpy(np.float64)
    elif isinstance(popularity, Scorer):
        res = popularity.catalog.counts['item'][popularity.vocab['item'].encode(ids)].astype(np.float64)
    else:
        raise TypeError(
            f'popularity: give a learner (or other scorer), whose training rows count, or a Series of counts indexed by item id, such as ratings.item.value_counts(); got {type(popularity).__name__}'
        )
    if not (res >= 0).all():
        raise ValueError('popularity holds missing or negative counts')
    return res


def _add_rows(recs, users, items, titles=None):
    """`recs` with rows for more pairs below: titles where they are known, no score."""
    more = pd.DataFrame({'item': items})
    if 'user' in recs:
        more.insert(0, 'user', users)
    if 'title' in recs:
        known = recs.drop_duplicates('item').set_index('item').title
        more['title'] = known.reindex(more.item).to_numpy()
        if titles is not None and (lack := more.title.isna()).any():
            more.loc[lack, 'title'] = (
                titles.catalog.titles(titles.vocab['item'].encode(more.item[lack]))
                if isinstance(titles, Scorer)
                else titles.reindex(more.item[lack]).to_numpy()
            )
    more = more.reindex(columns=recs.columns).astype({c: recs[c].dtype for c in ('user', 'item', 'score') if c in recs})
    return pd.concat(
        [recs.reset_index(drop=True), more.assign(rank=0, **({'cold': False} if 'cold' in recs else {}))],
        ignore_index=True,
    )


def mmr(
    recs: pd.DataFrame,  # recommendations: user, item, score, rank
    vectors,  # how alike items are: a learner (its item vectors), `ItemFeatures`, or a table of numbers indexed by item id, e.g. of genres
    k: int = None,  # items per user in the result; None: as many as there are
    diversity: float = 0.3,  # 1 - lambda: 0 leaves the order to the scores, 1 to diversity alone
) -> pd.DataFrame:
    """The lists in the order of maximal marginal relevance: each place goes to argmax_i (1 - diversity) r_i - diversity max_{j chosen} cos(i, j).

    Carbonell and Goldstein, SIGIR 1998. r is the score scaled to [0, 1] over each user's list, so that it can be weighed against a cosine (in the paper both are
    similarities). The first place goes to the best score.
    """
    if not 0 <= diversity <= 1:
        raise ValueError(f'diversity={diversity}: a share between 0 and 1')
    rows, k = _lists(recs, k)
    codes, ids = pd.factorize(recs['item'])
    v = _unit_vectors(vectors, ids)
    r = _relevance(recs, rows)
    low, high = (
        f(np.where(np.isfinite(r), r, np.nan), axis=1, keepdims=True) if len(recs) else np.zeros((1, 1))
        for f in (np.nanmin, np.nanmax)
    )
    r = torch.from_numpy((r - low) / np.where(high > low, high - low, 1.0))
    chosen = np.full((len(rows), min(k, rows.shape[1])), -1, np.int64)
    for at in range(0, len(rows) if len(recs) else 0, step := max(1, CHUNK // (rows.shape[1] * v.shape[1]))):
        part, own = rows[at : at + step], torch.arange(len(rows[at : at + step]))
        vec = v[torch.from_numpy(codes[np.maximum(part, 0)])]  # (B, n, d)
        gain, nearest = (
            torch.where(r[at : at + step] > -torch.inf, (1 - diversity) * r[at : at + step], -torch.inf),
            torch.full(part.shape, -torch.inf, dtype=torch.float64),
        )
        for place in range(chosen.shape[1]):
            value = gain - diversity * nearest if place else r[at : at + step]
            best = value.argmax(1)
            chosen[at : at + step, place] = np.where(np.isfinite(value[own, best]), part[own, best], -1)
            gain[own, best] = -torch.inf
            nearest = torch.maximum(nearest, torch.einsum('bnd,bd->bn', vec, vec[own, best]).double())
    return _table(recs, chosen)


def correct_popularity(
    recs: pd.DataFrame,  # recommendations: user, item, score, rank
    popularity,  # a learner (its training rows), or a Series of counts indexed by item id
    strength: float = 0.5,  # standard deviations of score that one of log popularity costs; 0 changes nothing, below 0 favours what is popular
    k: int = None,  # items per user in the result; None: as many as there are
) -> pd.DataFrame:
    """The lists by corrected scores s_i - strength * sd(s) * z(log(1 + n_i)), with n_i the training rows of the item; mean and deviations over each user's list.

    Subtracting log popularity turns the logits of a softmax towards those of a catalogue in which all items are equally frequent (Menon et al., 'Long-tail learning via logit
    adjustment', ICLR 2021, eq. 9). Deviation: in units of the list's own spread, so that it can be used on any scale of scores.
    """
    rows, k = _lists(recs, k)
    codes, ids = pd.factorize(recs['item'])
    scores = _relevance(recs, rows)
    log_n = np.where(rows >= 0, np.log1p(np.append(_counts(popularity, ids)[codes], 0.0))[rows], np.nan)
    (_, spread), (mean, std) = _moments(scores), _moments(log_n)
    return _by_score(recs, rows, scores - strength * spread * np.where(rows >= 0, (log_n - mean) / std, 0.0), k)


def _by_score(recs, rows, scores, k):
    """The table with new scores (n_users, n), best first."""
    order = np.argsort(-scores, axis=1, kind='stable')[:, :k]
    there = rows >= 0
    new = np.empty(len(recs))
    new[rows[there]] = scores[there]
    return _table(recs.assign(score=new), np.take_along_axis(rows, order, 1))


def epsilon_greedy(
    recs: pd.DataFrame,  # recommendations: user, item, score, rank
    epsilon: float = 0.1,  # chance of each place to show something at random
    k: int = 10,  # items per user in the result
    items=None,  # what is drawn from: item ids (new ones, say), or a learner: all items that the user has no training row of; None: the rest of the user's list, beyond `k`
    seed: int = None,
) -> pd.DataFrame:
    """The first `k` of each list, where each place is given, with probability `epsilon`, to an item drawn uniformly; the others keep their order. A column `explored` tells which.

    Items drawn from outside the list have no score. Record `explored` with what users do: only those places tell of items what the model did not choose.
    """
    if not 0 <= epsilon <= 1:
        raise ValueError(f'epsilon={epsilon}: a probability between 0 and 1')
    rng = np.random.default_rng(seed)
    rows, k = _lists(recs, k)
    if items is None:
        if rows.shape[1] <= k:
            raise ValueError(
                f'the lists have no more than k={k} items, so nothing is left to explore: recommend more of them, or say what to draw from with items='
            )
        keys = np.where(rows[:, k:] >= 0, rng.random(rows[:, k:].shape), 2.0)
        explore = np.take_along_axis(rows[:, k:], np.argsort(keys, axis=1)[:, :k], 1)
        explore = np.pad(explore, ((0, 0), (0, k - explore.shape[1])), constant_values=-1)
    else:
        recs, explore = _draw(recs, rows, k, items, rng)
    exploit = np.pad(rows[:, :k], ((0, 0), (0, max(0, k - rows.shape[1]))), constant_values=-1)
    random = rng.random(exploit.shape) < epsilon
    random &= np.cumsum(random, 1) <= (explore >= 0).sum(1, keepdims=True)
    at = lambda mask: np.maximum(np.cumsum(mask, 1) - 1, 0)
    res = np.where(random, np.take_along_axis(explore, at(random), 1), np.take_along_axis(exploit, at(~random), 1))
    explored = np.zeros(len(recs), bool)
    explored[res[random]] = True
    return _table(recs.assign(explored=explored), res)


def _draw(recs, rows, k, items, rng):
    """-> `recs` with rows for items drawn, k for each user, who has them neither in the list nor in training; their row numbers (n_users, k), -1 where none was found."""
    first = recs.iloc[rows[:, 0]]
    if isinstance(items, Scorer):
        if 'user' not in recs:
            raise ValueError('an anonymous basket has no training rows to leave out: give item ids')
        ids, sampler = items.vocab['item'].ids, NegativeSampler(items.catalog.require_history().seen)
        users = torch.from_numpy(items.vocab['user'].encode(first['user']))
    else:
        ids, sampler, users = pd.Index(pd.unique(pd.Series([items] if np.isscalar(items) else items))), None, None
    listed = ids.get_indexer(recs['item'])  # -1: not among those to draw
    listed = np.append(listed, -1)[rows]
    drawn = np.full((len(rows), k), -1, np.int64)
    for _ in range(ROUNDS):
        u, j = np.nonzero(drawn < 0)
        if not len(u):
            break
        draw = rng.integers(len(ids), size=len(u))
        bad = (listed[u] == draw[:, None]).any(1) | (drawn[u] == draw[:, None]).any(1)
        if sampler is not None:
            bad |= sampler.is_seen(users[u], torch.from_numpy(draw)).numpy()
        keys = pd.Series(u * len(ids) + draw)
        bad |= keys.duplicated().to_numpy()
        drawn[u[~bad], j[~bad]] = draw[~bad]
    drawn = _pack(drawn, drawn >= 0)
    u, j = np.nonzero(drawn >= 0)
    out = np.full_like(drawn, -1)
    out[u, j] = len(recs) + np.arange(len(u))
    return _add_rows(
        recs,
        first['user'].to_numpy()[u] if 'user' in recs else None,
        ids[drawn[u, j]],
        items if sampler is not None else None,
    ), out


def thompson_sampling(
    recs: pd.DataFrame,  # recommendations: user, item, score, rank
    popularity,  # how sure the scores are: a learner (its training rows), or a Series of counts indexed by item id
    scale: float = 1.0,  # standard deviation of the noise of an item without training rows, in those of the user's list
    prior: float = 10.0,  # training rows at which the variance is half of that
    k: int = None,  # items per user in the result; None: as many as there are
    seed: int = None,
) -> pd.DataFrame:
    """The lists by scores drawn from s_i + scale * sd(s) * sqrt(prior / (prior + n_i)) * N(0, 1): what little is known of gets its chance, and less so as rows come in.

    Thompson 1933; Chapelle and Li, NIPS 2011. The variance is that of a Gaussian mean after n_i observations; that each item's score is Gaussian and independent of the others' is
    an assumption: the models give no posterior.
    """
    if scale < 0 or prior <= 0:
        raise ValueError(f'scale={scale}, prior={prior}: scale is at least 0, prior above 0')
    rows, k = _lists(recs, k)
    codes, ids = pd.factorize(recs['item'])
    scores, n = _relevance(recs, rows), np.append(_counts(popularity, ids)[codes], 0.0)[rows]
    noise = np.random.default_rng(seed).standard_normal(rows.shape)
    return _by_score(recs, rows, scores + scale * _moments(scores)[1] * np.sqrt(prior / (prior + n)) * noise, k)


def exclude(
    recs: pd.DataFrame,  # recommendations: user, item, score, rank
    items,  # item ids that nobody gets, or a table of user and item: who does not get what
    k: int = None,  # items per user in the result; None: as many as are left
) -> pd.DataFrame:
    """The lists without some items; what comes after moves up."""
    rows, k = _lists(recs, k)
    if isinstance(items, pd.DataFrame):
        out = _among(recs, items)
    else:
        out = recs['item'].isin([items] if np.isscalar(items) else items).to_numpy()
    return _table(recs, _pack(rows, ~np.append(out, True)[rows])[:, :k])


def _among(recs, pairs):
    """bool (len(recs),): is the (user, item) in the table `pairs`?"""
    names = {side: column_of(pairs, side, {}) for side in ('user', 'item')}
    pairs = pd.MultiIndex.from_arrays([pairs[names['user']], pairs[names['item']]])
    return pd.MultiIndex.from_arrays([recs['user'], recs['item']]).isin(pairs)


def pin(
    recs: pd.DataFrame,  # recommendations: user, item, score, rank
    items,  # item id or ids, for the places from `at` on; or a dict item id -> place
    at: int = 1,  # place of the first
    seen: pd.DataFrame = None,  # table of user and item: who has it already is not shown it again
    titles=None,  # a learner, or a Series of titles indexed by item id: titles of items that are in no list
    k: int = None,  # items per user in the result; None: as many as there were
) -> pd.DataFrame:
    """The lists with some items at fixed places; the others keep their order around them, and the last drop out. A pinned item that was not in a list has no score."""
    rows, k = _lists(recs, k)
    places = (
        dict(items)
        if isinstance(items, dict)
        else {o: at + i for i, o in enumerate([items] if np.isscalar(items) else items)}
    )
    if bad := [o for o, p in places.items() if int(p) != p or not 1 <= p <= k]:
        raise ValueError(f'places run from 1 to {k}: {first_few(bad)} cannot be pinned where asked')
    if len(set(places.values())) < len(places):
        raise ValueError('several items are pinned to the same place')
    ids = list(places)
    n_users = len(rows)
    pairs = pd.DataFrame({'item': np.tile(np.asarray(pd.Index(ids)), n_users)})
    users = recs['user'].iloc[rows[:, 0]].to_numpy() if 'user' in recs else None
    if users is not None:
        pairs.insert(0, 'user', np.repeat(users, len(ids)))
    wanted = np.ones(len(pairs), bool) if seen is None else ~_among(pairs, seen)
    # the row of a pinned item: its own in the list, else one added
    own = np.full(len(pairs), -1)
    codes = pd.Index(ids).get_indexer(recs['item'])
    b, c = np.nonzero(rows >= 0)
    code = codes[rows[b, c]]
    own[(b * len(ids) + code)[code >= 0]] = rows[b, c][code >= 0]
    new = np.flatnonzero(wanted & (own < 0))
    own[new] = len(recs) + np.arange(len(new))
    if len(new):
        recs = _add_rows(
            recs, None if users is None else pairs['user'].to_numpy()[new], pairs['item'].to_numpy()[new], titles
        )
    own, wanted = np.where(wanted, own, -1).reshape(n_users, -1), wanted.reshape(n_users, -1)
    # the others, in order, in the places that are free; an item that is pinned for a user leaves its old place
    taken = np.zeros((n_users, k), bool)
    res = np.full((n_users, k), -1, np.int64)
    for j, place in enumerate(places.values()):
        taken[:, place - 1] |= wanted[:, j]
        res[:, place - 1] = np.where(wanted[:, j], own[:, j], res[:, place - 1])
    others = _pack(rows, ~(rows[:, :, None] == own[:, None]).any(2))
    others = np.pad(others, ((0, 0), (0, k)), constant_values=-1)
    res = np.where(taken, res, np.take_along_axis(others, np.maximum(np.cumsum(~taken, 1) - 1, 0), 1))
    return _table(recs, _pack(res, res >= 0))


def quota(
    recs: pd.DataFrame,  # recommendations: user, item, score, rank
    categories,  # a column of `recs`, a Series of categories indexed by item id, or a table of 0 and 1 (item id x category) where an item has several
    at_most=None,  # items of a category in a list: a number for all, or a dict category -> number
    at_least: dict = None,  # category -> number of items that a list has to have
    k: int = 10,  # items per user in the result
) -> pd.DataFrame:
    """The best `k` items of each list under quotas per category, in their order. Items fill the lower bounds first (category after category), then what is left, from the top; an item counts
    for each of its categories. With one category per item that is the best list there is; where a bound cannot be kept with what is in a list, the list has fewer.
    """
    rows, k = _lists(recs, k)
    codes, ids = pd.factorize(recs['item'])
    if isinstance(categories, str):
        if categories not in recs:
            raise ValueError(
                f'no column {categories!r} in the table; columns: {first_few(recs.columns, 20)}. Merge it in, or give a Series of categories indexed by item id'
            )
        member, of_row = pd.get_dummies(recs[categories]), np.arange(len(recs))
    elif isinstance(categories, pd.Series):
        member, of_row = pd.get_dummies(_of_items(categories, ids, 'categories')), codes
    elif isinstance(categories, pd.DataFrame):
        member, of_row = _of_items(categories, ids, 'categories') > 0, codes
    else:
        raise TypeError(
            f'categories: a column name, a Series indexed by item id, or a table of 0 and 1 (item id x category); got {type(categories).__name__}'
        )
    if at_most is None and not at_least:
        raise ValueError('say what to keep to: at_most=, at_least=')
    names, at_least = list(member.columns), dict(at_least or {})
    for o in (*(at_most if isinstance(at_most, dict) else ()), *at_least):
        if o not in names:
            raise ValueError(f'no recommended item is of category {o!r}; categories: {first_few(names, 20)}')
    upper = np.array(
        [at_most.get(c, k) if isinstance(at_most, dict) else k if at_most is None else at_most for c in names]
    )
    belongs = np.concatenate([member.to_numpy(bool)[of_row], np.zeros((1, len(names)), bool)])[
        rows
    ]  # (n_users, n, n_categories)
    taken, filled = np.zeros(rows.shape, bool), np.zeros((len(rows), len(names)), np.int64)

    def walk(column, more):  # take from the top, for as many users at once as have room
        fits = (
            (rows[:, column] >= 0)
            & ~taken[:, column]
            & (taken.sum(1) < k)
            & more(column)
            & (filled + belongs[:, column] <= np.maximum(upper, filled)).all(1)
        )
        taken[:, column] |= fits
        filled[fits] += belongs[fits, column]

    for c, n in at_least.items():
        j = names.index(c)
        for column in range(rows.shape[1]):
            walk(column, lambda col: belongs[:, col, j] & (filled[:, j] < n))
    for column in range(rows.shape[1]):
        walk(column, lambda col: True)
    return _table(recs, _pack(rows, taken)[:, :k])


class Reranked(Scorer):
    """A scorer whose first `n` recommendations go through `rerank`, a function of the table of them: `Reranked(learn, lambda recs: recs.pipe(mmr, learn, diversity=.3))`.

    It is a `Scorer` like any other, so `evaluate` and `compare_models` tell what re-ranking costs in accuracy and gains in diversity. Items beyond the first `n` follow in their old order, and
    after them what `rerank` left out. Training rows of the user are no part of the table.
    """

    scale = 'rank'

    def __init__(
        self,
        scorer,  # a fitted learner or other `Scorer`
        rerank,  # function: table of recommendations -> table of recommendations
        n: int = 100,  # recommendations per user that go in
    ):
        self.scorer, self.rerank, self.n, self.catalog = scorer, rerank, n, scorer.catalog
        self.knows_cold = scorer.knows_cold

    def parts(self):
        """The scorer whose lists are re-ranked."""
        return [self.scorer]

    def knows(self, side: str = 'item'):
        """bool (n,): as of the scorer."""
        return self.scorer.knows(side)

    def vectors(self, side: str = 'item') -> torch.Tensor:
        """Those of the scorer."""
        return self.scorer.vectors(side)

    def score_items(self, users):
        """Descending with the rank: codes (B,) -> (B, n_items), on the CPU."""
        scores = self.scorer.score_items(users).float().cpu()
        ids = self.catalog.vocab
        before = recommend(self.scorer, ids['user'].decode(users.cpu().numpy()), self.n, cold='mean')
        after = self.rerank(before)
        places = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1).double()  # 0: best
        row = pd.Series(np.arange(len(users)), index=ids['user'].decode(users.cpu().numpy()))
        at = lambda df: (torch.from_numpy(row[df['user']].to_numpy()), torch.from_numpy(ids['item'].encode(df['item'])))
        res, n = -places, scores.shape[1]
        res[at(before)] -= n  # left out, unless it comes back
        res[at(after)] = 2.0 * n - torch.from_numpy(after['rank'].to_numpy()).double()
        return res.float()

    def score(self, users, items):
        """Scores of pairs of codes: (n,), (n,) -> (n,)."""
        users, at = torch.unique(torch.as_tensor(users), return_inverse=True)
        return self.score_items(users)[at, torch.as_tensor(items)]

    def recommend(
        self,
        users=None,
        k: int = 10,
        exclude_seen: bool = True,
        candidates=None,
        cold: str = 'popular',
        seen=None,
        basket=None,
        to=None,
    ) -> pd.DataFrame | Path:
        """The first `k` of the re-ranked lists; arguments as in `Scorer.recommend`."""
        res = self.rerank(self.scorer.recommend(users, max(k, self.n), exclude_seen, candidates, cold, seen, basket))
        res = res[res['rank'] <= k].reset_index(drop=True)
        if to is None:
            return res
        with TableWriter(to) as writer:
            writer.write(res)
        return Path(to)
