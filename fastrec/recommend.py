"""From scores to what a person reads: mask what was seen, take the top k, decode ids and titles."""
from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix

from .interactions import _find_columns, _some

__all__ = ['Scorer', 'recommend', 'cold_mask']

COLD_POLICIES = ('popular', 'mean', 'raise')
MEMORY_BUDGET = 256 * 2**20  # bytes of scores held at a time


class Scorer:
    """Whatever scores pairs and whole catalogues; `recommend`, `evaluate` and `compare_models` take any of them.

    A subclass has `catalog` (a `Catalog`), `scale` ('rating', 'logit', 'probability' or 'rank': what a score means), `score(users,
    items)`: codes (n,), (n,) -> float tensor (n,), and `score_items(users)`: codes (B,) -> float tensor (B, n_items).
    """
    catalog, scale = None, 'rating'

    @property
    def vocab(self): return self.catalog.vocab
    def score(self, users, items):
        "Scores of pairs of codes: (n,), (n,) -> float tensor (n,)."
        raise NotImplementedError

    def score_items(self, users):
        "Scores of all items for codes of users: (B,) -> float tensor (B, n_items), which the caller may change."
        raise NotImplementedError

    def recommend(self,
        users=None, # one user id or a sequence of them (None with `basket=`)
        k:int=10, # items per user
        exclude_seen:bool=True, # leave out what the user has in the training rows
        candidates=None, # item ids, a `DataFrame.query` text or a function of `item_df` -> mask: recommend only from these
        cold:str='popular', # users without training rows get: 'popular' items, the model's 'mean' user, or 'raise'
        seen=None, # table (user, item) of what to leave out, instead of the training rows
        basket=None # item ids of an anonymous user, who has no row in the model
    )->pd.DataFrame:
        "The `k` best items of each user: user, item, title (if known), score, rank, and `cold` if a user or item without training rows is among them."
        if basket is not None:
            if users is not None: raise ValueError('give users or a basket, not both')
            return recommend_basket(self, basket, k, candidates)
        if users is None: raise ValueError('recommend for whom? Give user ids, or basket= with the items of somebody unknown')
        return recommend(self, users, k, exclude_seen, candidates, cold, seen)


def _seen_matrix(catalog, seen):
    if seen is None: return catalog.seen
    if isinstance(seen, pd.DataFrame):
        names = _find_columns(seen, dict(user=None, item=None, rating=None, time=None))
        users = catalog.vocab['user'].encode(seen[names['user']], unknown='mark')
        items = catalog.vocab['item'].encode(seen[names['item']], unknown='mark')
        ok = (users >= 0) & (items >= 0)  # what the model does not know, it does not recommend
        return csr_matrix((np.ones(ok.sum(), np.float32), (users[ok], items[ok])), shape=(catalog.n_users, catalog.n_items))
    raise TypeError(f'seen= takes a table with a user and an item column, got {type(seen).__name__}')


def mask_seen(scores, rows):
    "Set scores (B, n_items) to -inf, in place, where the CSR matrix `rows` (B, n_items) stores an entry."
    b = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    scores[torch.from_numpy(b).to(scores.device), torch.from_numpy(rows.indices.astype(np.int64)).to(scores.device)] = -torch.inf


def _allowed(scorer, candidates, k):
    "What to add to scores (n_items,) to forbid all but the candidates: 0 or -inf; None if all are allowed."
    if int(k) != k or k < 1: raise ValueError(f'k={k}: ask for at least one item')
    codes = scorer.catalog.candidates(candidates)
    if codes is None: return None
    forbid = torch.full((scorer.catalog.n_items,), -torch.inf)
    forbid[torch.from_numpy(codes)] = 0.
    return forbid


def _top_frame(catalog, scores, users, k):
    "Tidy rows of the top `k` finite scores. scores (B, n_items); users: the ids (B,) or None."
    top, codes = scores.topk(min(k, scores.shape[1]), dim=1)
    top, codes = top.cpu().numpy(), codes.cpu().numpy()
    b, r = np.nonzero(np.isfinite(top))
    items = codes[b, r]
    df = pd.DataFrame(dict(item=catalog.vocab['item'].decode(items), score=top[b, r], rank=r + 1))
    if catalog.title_name is not None: df.insert(1, 'title', catalog.titles(items))
    if users is not None: df.insert(0, 'user', users[b])
    return df, b, items


def recommend(scorer, users, k=10, exclude_seen=True, candidates=None, cold='popular', seen=None)->pd.DataFrame:
    "The `k` best items of each of `users`; arguments as in `Scorer.recommend`. Users go through in chunks of a fixed memory budget."
    catalog = scorer.catalog
    if cold not in COLD_POLICIES: raise ValueError(f'cold={cold!r}: choose one of {_some(COLD_POLICIES)}')
    codes = catalog.vocab['user'].encode(users)
    ids = catalog.vocab['user'].decode(codes)
    known_users, known_items = catalog.known('user'), catalog.known('item')
    is_cold = ~known_users[codes]
    if cold == 'raise' and is_cold.any():
        raise KeyError(f"{is_cold.sum()} users have no training row: {_some(ids[is_cold])}. cold='popular' gives them what is popular, cold='mean' what the average user would get")
    forbid = _allowed(scorer, candidates, k)
    matrix = _seen_matrix(catalog, seen) if exclude_seen else None
    popularity = torch.from_numpy(catalog.counts['item'].astype(np.float32))
    frames = []
    step = max(1, MEMORY_BUDGET // (4 * catalog.n_items))
    for at in range(0, len(codes), step):
        chunk, chunk_cold = codes[at:at+step], is_cold[at:at+step]
        scores = scorer.score_items(torch.from_numpy(chunk)).float()
        if cold == 'popular' and chunk_cold.any(): scores[torch.from_numpy(chunk_cold).to(scores.device)] = popularity.to(scores.device)
        if forbid is not None: scores += forbid.to(scores.device)
        if matrix is not None: mask_seen(scores, matrix[chunk])
        df, b, items = _top_frame(catalog, scores, ids[at:at+step], k)
        df['cold'] = chunk_cold[b] | ~known_items[items]
        frames.append(df)
    res = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=['user', 'item', 'score', 'rank', 'cold'])
    return res if res.cold.any() else res.drop(columns='cold')


def recommend_basket(scorer, basket, k=10, candidates=None)->pd.DataFrame:
    """The `k` items that are nearest to the items of an anonymous `basket`: item, title, score, rank.

    score = mean cosine between the item's vector and the vectors of the basket, as in item-based collaborative filtering (Sarwar et al. 2001), with
    learned vectors in the place of rating columns; in [-1, 1].
    """
    catalog = scorer.catalog
    codes = torch.from_numpy(np.unique(catalog.find_all(basket)))
    if not len(codes): raise ValueError('the basket is empty')
    vectors = torch.nn.functional.normalize(scorer.vectors('item').float().cpu(), dim=1)
    scores = (vectors @ vectors[codes].mean(0))[None]
    scores[:, codes] = -torch.inf
    scores[:, torch.from_numpy(~catalog.known('item'))] = -torch.inf  # a cold item's vector says nothing about it
    forbid = _allowed(scorer, candidates, k)
    if forbid is not None: scores += forbid
    return _top_frame(catalog, scores, None, k)[0]


def cold_mask(catalog, users, items)->np.ndarray:
    "bool (n,): has the pair of codes a user or an item without a training row?"
    return ~(catalog.known('user')[users] & catalog.known('item')[items])
