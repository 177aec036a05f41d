"""From scores to what a person reads: mask what was seen, take the top k, decode ids and titles."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix, issparse

from ..data.columns import column_of, first_few
from ..data.files import TableWriter
from ..progress import Progress

__all__ = ['recommend']

COLD_POLICIES = ('popular', 'mean', 'raise')
INDEX_USERS = 4096  # users at a time that an index is asked for
CACHE = (
    2**23
)  # bytes of scores that are made and searched at a time where the rest of the work is small: they had better stay in the processor's cache
PART = 2**14  # users whose rows are written at a time
RANKER = 16, 2**15  # users from which on it pays to prepare a ranker, and items up to which it costs next to nothing
FEW = 20  # candidates are scored as pairs if they are at most one in so many items
MEMORY_BUDGET = 512 * 2**20  # bytes for a chunk of users: scores and what it takes to make them


def seen_matrix(catalog, seen, unknown='mark', users=None):
    """Pairs of a table (None: the training rows; then perhaps only of the codes `users`) as a CSR matrix (n_users, n_items); unknown ids are left out or, with 'raise', an error."""
    if seen is None:
        if catalog.history is not None and users is not None:
            return catalog.history.seen_of(users)
        return catalog.require_history(
            'Pass it, `seen=ratings` (a table of user and item), or say `exclude_seen=False`'
        ).seen
    if issparse(seen):
        return seen
    if isinstance(seen, pd.DataFrame):
        users, items = (
            catalog.vocab[side].encode(seen[column_of(seen, side, catalog.names)], unknown=unknown)
            for side in ('user', 'item')
        )
        ok = (users >= 0) & (items >= 0)  # what the model does not know, it does not recommend
        if len(seen) and not ok.any():
            raise ValueError(
                f"no row of the table has a user and an item that the model knows: users there look like {first_few(seen[column_of(seen, 'user', catalog.names)], 3)}, the model's like {first_few(catalog.vocab['user'].ids, 3)}"
            )
        return csr_matrix(
            (np.ones(ok.sum(), np.float32), (users[ok], items[ok])), shape=(catalog.n_users, catalog.n_items)
        )
    raise TypeError(f'seen= takes a table with a user and an item column, got {type(seen).__name__}')


def mask_seen(scores, rows):
    """Set scores (B, n_items) to -inf, in place, where the CSR matrix `rows` (B, n_items) stores an entry."""
    b = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    scores[
        torch.from_numpy(b).to(scores.device), torch.from_numpy(rows.indices.astype(np.int64)).to(scores.device)
    ] = -torch.inf


def _allowed(scorer, candidates, k):
    """What to add to scores (n_items,) to forbid all but the candidates: 0 or -inf; None if all are allowed."""
    if int(k) != k or k < 1:
        raise ValueError(f'k={k}: ask for at least one item')
    codes = scorer.catalog.candidates(candidates)
    if codes is None:
        return None
    forbid = torch.full((scorer.catalog.n_items,), -torch.inf)
    forbid[torch.from_numpy(codes)] = 0.0
    return forbid


def _top_frame(catalog, scores, users, k, codes=None):
    """Tidy rows of the top `k` finite scores. scores (B, n_items), or (B, k) of the items `codes` (B, k), best first; users: the ids (B,) or None."""
    if torch.isnan(scores).any():
        raise ValueError('some scores are not numbers: did training diverge? Try a smaller learning rate')
    top, codes = scores.topk(min(k, scores.shape[1]), dim=1) if codes is None else (scores, codes)
    top, codes = top.cpu().numpy(), codes.cpu().numpy()
    b, r = np.nonzero(np.isfinite(top))
    items = codes[b, r]
    df = pd.DataFrame(dict(item=catalog.vocab['item'].decode(items), score=top[b, r], rank=r + 1))
    if catalog.title_name is not None:
        df.insert(1, 'title', _titles(catalog, items))
    if users is not None:
        df.insert(0, 'user', users[b])
    return df, b, items


def _titles(catalog, items):
    """Titles of codes, as a column: where there are many rows, texts are converted once an item, not once a row."""
    return (
        catalog.titles(items)
        if len(items) <= 2 * catalog.n_items
        else pd.Series(catalog.titles(np.arange(catalog.n_items))).array.take(items)
    )


def top_k(scores, k: int):
    """The `k` largest of each row of scores (B, n), best first: values (B, k) and columns (B, k), fewer where n is smaller.

    On a CPU in two steps: rows are cut into blocks, of which only the `k` with the largest maximum can hold one of the `k` largest. Maxima are quick to find, and what is left to sort is short.
    """
    n = scores.shape[1]
    k = min(k, n)
    width = (
        2 ** int(math.log2(n / k) / 2) if n else 1
    )  # about (n/k)^1/2: as many blocks as there are candidates in the k chosen ones, times k
    if width < 4 or scores.device.type != 'cpu':
        return scores.topk(k, dim=1)
    n_blocks = n // width
    whole = n_blocks * width
    best = (
        scores[:, :whole].unflatten(1, (width, n_blocks)).amax(1).topk(k, dim=1, sorted=False).indices
    )  # block j: columns j, j + n_blocks, ...
    at = (best[:, :, None] + torch.arange(0, whole, n_blocks)).flatten(1)
    if whole < n:
        at = torch.cat([at, torch.arange(whole, n).expand(len(at), -1)], 1)
    values, chosen = scores.gather(1, at).topk(k, dim=1)
    return values, at.gather(1, chosen)


def recommend(
    scorer, users, k=10, exclude_seen=True, candidates=None, cold='popular', seen=None, to=None
) -> pd.DataFrame | Path:
    """The `k` best items of each of `users`; arguments as in `Scorer.recommend`. Users go through in chunks of a fixed memory budget."""
    catalog = scorer.catalog
    if cold not in COLD_POLICIES:
        raise ValueError(f'cold={cold!r}: choose one of {first_few(COLD_POLICIES)}')
    codes = catalog.vocab['user'].encode(users)
    ids = catalog.vocab['user'].decode(codes)
    known_users, known_items = scorer.knows('user'), scorer.knows('item')
    is_cold = ~known_users[codes]
    if cold == 'raise' and is_cold.any():
        raise KeyError(
            f"{is_cold.sum()} users have no training row: {first_few(ids[is_cold])}. cold='popular' gives them what is popular, cold='mean' what the average user would get"
        )
    forbid = _allowed(scorer, candidates, k)
    if not scorer.knows_cold:  # an untrained vector is never used
        forbid = (torch.zeros(catalog.n_items) if forbid is None else forbid).masked_fill(
            torch.from_numpy(~known_items), -torch.inf
        )
    matrix = seen_matrix(catalog, seen, users=codes) if exclude_seen else None
    popularity = torch.from_numpy(catalog.counts['item'].astype(np.float32)) if cold == 'popular' else None
    if len(few := _few(scorer, candidates, catalog, known_items)):
        best_of = lambda users, is_cold, done: _best_of_few(scorer, users, is_cold, few, k, matrix, popularity, done)
    else:
        best_of = _best_of_all(scorer, len(codes), k, forbid, matrix, popularity, candidates is None)
    frame = lambda rows, parts: _frame(
        catalog,
        ids[rows],
        is_cold[rows],
        known_items,
        cold,
        *(map(torch.cat, zip(*parts)) if parts else (torch.zeros(0, 1), torch.zeros(0, 1, dtype=torch.long))),
    )
    with scorer.inference(), Progress(len(codes), 'recommending', 'users', scorer.shows_progress) as progress:
        parts = (
            (slice(at, at + PART), best_of(codes[at : at + PART], is_cold[at : at + PART], progress.update))
            for at in range(0, len(codes), PART)
        )
        if to is None:
            df = frame(slice(None), [o for _, part in parts for o in part])
            return df if df.cold.any() else df.drop(columns='cold')
        with TableWriter(to) as writer:
            for rows, part in parts:
                writer.write(frame(rows, list(part)))
            if not len(codes):
                writer.write(frame(slice(None), []))
    return Path(to)


def _best_of_all(scorer, n_users, k, forbid, matrix, popularity, may_search):
    """-> function of users, which of them are cold, and whom to tell how many are done, that gives scores and codes (n, k) of their best items, chunk by chunk."""
    catalog = scorer.catalog

    def masked(scores, chunk):  # (B, n_items), in place
        if forbid is not None:
            scores += forbid.to(scores.device)
        if matrix is not None:
            mask_seen(scores, matrix[chunk])
        return scores

    index = scorer.item_index() if may_search else None
    whole = users_at_a_time(None, catalog.n_items)
    rank = ranker_for(scorer, n_users) if index is None else None
    step = INDEX_USERS if index is not None else users_at_a_time(rank, catalog.n_items)

    def best_of(users, is_cold, done):
        tops = []
        for at in range(0, len(users), step):
            chunk, chunk_cold = users[at : at + step], is_cold[at : at + step]
            if index is not None:
                scores, found = index.top(scorer, chunk, k, None if matrix is None else matrix[chunk])
                for rows in (
                    np.split(np.flatnonzero(chunk_cold), range(whole, chunk_cold.sum(), whole))
                    if popularity is not None and chunk_cold.any()
                    else ()
                ):
                    best = top_k(masked(popularity.repeat(len(rows), 1), chunk[rows]), k)
                    scores[rows, : best[0].shape[1]], found[rows, : best[0].shape[1]] = best
            else:
                scores = (rank or scorer.score_items)(torch.from_numpy(chunk)).float()
                if popularity is not None and chunk_cold.any():
                    scores[torch.from_numpy(chunk_cold).to(scores.device)] = popularity.to(scores.device)
                scores, found = top_k(masked(scores, chunk), k)
            tops.append((scores.cpu(), found.cpu()))
            done(len(chunk))
        if rank is None or not tops:
            return tops
        scores, found = map(torch.cat, zip(*tops))
        return [(_exact(scorer, users, scores, found), found)]

    return best_of


def ranker_for(scorer, n_users: int):
    """`scorer.ranker()`; None where it has none, or a few users of a large catalogue are not worth its preparations."""
    return scorer.ranker() if n_users >= RANKER[0] or scorer.catalog.n_items <= RANKER[1] else None


def users_at_a_time(rank, n_items: int) -> int:
    """How many users' scores of all items are made and searched at a time: what the memory budget allows, or, where they are one matrix product on a CPU, what stays in its cache."""
    if rank is None:
        return max(1, MEMORY_BUDGET // (16 * n_items))  # scores, and about three times as much on the way to them
    return max(16, CACHE // (4 * n_items)) if rank.device.type == 'cpu' else max(1, MEMORY_BUDGET // (8 * n_items))


def _exact(scorer, users, top, items):
    """The scores, on the scorer's scale, of the items (B, k) that came out on top; what is not finite there (masked, or not a number) stays."""
    flat = torch.isfinite(top).reshape(-1).cpu()
    pairs = torch.from_numpy(users).repeat_interleave(items.shape[1])[flat], items.reshape(-1).cpu()[flat]
    res = top.reshape(-1).cpu().clone()
    res[flat] = scorer.score(*pairs).float().cpu()
    return res.view(top.shape)


def _few(scorer, candidates, catalog, known):
    """Codes of the candidates (an empty list if there are none, or too many to be scored as pairs)."""
    if candidates is None:
        return ()
    codes = catalog.candidates(candidates)
    if not scorer.knows_cold:
        codes = codes[known[codes]]
    return codes if len(codes) * FEW <= catalog.n_items else ()


def _best_of_few(scorer, users, is_cold, items, k, matrix, popularity, done):
    """The `k` best of the `items` alone for each of `users`: scores and codes, (n_users, k)."""
    tops, step = [], max(1, MEMORY_BUDGET // (256 * len(items)))
    for at in range(0, len(users), step):
        chunk = users[at : at + step]
        scores = (
            scorer.score(torch.from_numpy(np.repeat(chunk, len(items))), torch.from_numpy(np.tile(items, len(chunk))))
            .float()
            .cpu()
            .view(len(chunk), -1)
        )
        if popularity is not None:
            scores[torch.from_numpy(is_cold[at : at + step])] = popularity[torch.from_numpy(items)]
        if matrix is not None:
            mask_seen(scores, matrix[chunk][:, items].tocsr())
        top = scores.topk(min(k, len(items)), dim=1)
        tops.append((top.values, torch.from_numpy(items)[top.indices]))
        done(len(chunk))
    return tops


def _frame(catalog, users, is_cold, known, cold, top, items):
    """The table of recommendations: ids of users (n,), which are cold, which items are known, the policy, scores and codes (n, k), best first."""
    df, b, found = _top_frame(catalog, top, users, None, items)
    if cold == 'popular':
        df['score'] = df['score'].where(~is_cold[b])  # a count is no score of the model
    return df.assign(cold=is_cold[b] | ~known[found])


def recommend_basket(scorer, basket, k=10, candidates=None) -> pd.DataFrame:
    """The `k` items that are nearest to the items of an anonymous `basket`: item, title, score, rank.

    score = mean cosine between the item's vector and the vectors of the basket, as in item-based collaborative filtering (Sarwar et al. 2001), with
    learned vectors in the place of rating columns; in [-1, 1].
    """
    catalog = scorer.catalog
    codes = torch.from_numpy(np.unique(catalog.find_all(basket)))
    if not len(codes):
        raise ValueError('the basket is empty')
    vectors = torch.nn.functional.normalize(scorer.vectors('item').float().cpu(), dim=1)
    scores = (vectors @ vectors[codes].mean(0))[None]
    scores[:, codes] = -torch.inf
    scores[:, torch.from_numpy(~scorer.knows('item'))] = -torch.inf  # a cold item's vector says nothing about it
    forbid = _allowed(scorer, candidates, k)
    if forbid is not None:
        scores += forbid
    return _top_frame(catalog, scores, None, k)[0]


def recommend_users(scorer, items, k=10, exclude_seen=True, users=None, seen=None) -> pd.DataFrame:
    """The `k` best users of each of `items`; arguments as in `Scorer.recommend_users`. Users go through in chunks of a fixed memory budget."""
    catalog = scorer.catalog
    if int(k) != k or k < 1:
        raise ValueError(f'k={k}: ask for at least one user')
    at = catalog.find_all(items)
    known_items = scorer.knows('item')[at]
    if not known_items.all() and not scorer.knows_cold:
        raise KeyError(
            f'item {first_few(catalog.vocab["item"].decode(at[~known_items]))} has no training row, and the model does not know what to make of that'
        )
    mask = scorer.knows('user').copy()
    if users is not None:
        mask &= np.isin(np.arange(catalog.n_users), catalog.vocab['user'].encode(users))
    codes = np.flatnonzero(mask)
    if not len(codes):
        raise ValueError('no user is left: none of users= has a training row')
    matrix = seen_matrix(catalog, seen).tocsc()[:, at].T.tocsr() if exclude_seen else None
    whole = scorer.reads_history  # scores of a pair cost as much as those of the whole catalogue
    step = max(1, MEMORY_BUDGET // (16 * (catalog.n_items if whole else max(len(at), 64))))
    best, found = torch.zeros(len(at), 0), torch.zeros(len(at), 0, dtype=torch.int64)
    with scorer.inference(), Progress(len(codes), 'asking', 'users', scorer.shows_progress) as progress:
        for chunk in np.split(codes, range(step, len(codes), step)):
            rows = torch.from_numpy(chunk)
            if whole:
                scores = scorer.score_items(rows)[:, torch.from_numpy(at)].T
            else:
                scores = torch.stack([scorer.score(rows, torch.full_like(rows, int(i))) for i in at])
            scores = scores.float().cpu()
            if torch.isnan(scores).any():
                raise ValueError('some scores are not numbers: did training diverge? Try a smaller learning rate')
            if matrix is not None:
                mask_seen(scores, matrix[:, chunk])
            best, found = torch.cat([best, scores], 1), torch.cat([found, rows.expand(len(at), -1)], 1)
            best, top = best.topk(min(k, best.shape[1]), dim=1)
            found = found.gather(1, top)
            progress.update(len(chunk))
    b, r = np.nonzero(np.isfinite(best.numpy()))
    df = pd.DataFrame(
        dict(
            item=catalog.vocab['item'].decode(at[b]),
            user=catalog.vocab['user'].decode(found.numpy()[b, r]),
            score=best.numpy()[b, r],
            rank=r + 1,
        )
    )
    if catalog.title_name is not None:
        df.insert(1, 'title', catalog.titles(at[b]))
    if not known_items.all():
        df['cold'] = ~known_items[b]
    return df
