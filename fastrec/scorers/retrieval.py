"""What is near what: nearest neighbours and maximum inner products over learned vectors, exact or by an index."""

from __future__ import annotations

from importlib.util import find_spec
from warnings import warn

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from ..data.columns import first_few

__all__ = ['ItemIndex', 'similar']

KINDS = ('exact', 'ivf', 'hnsw')
FROM_ITEMS = 20_000  # items from which an approximate index is worth its error
BUDGET = 2**27  # bytes of scores at a time in exact search
SAMPLE = 4096  # numbers of each weight that tell whether a model has changed


class Inner:
    """Rows x (n, d), searched for the largest inner products with queries.

    kind 'exact': a matrix product. 'ivf' and 'hnsw' are faiss's inverted lists (`effort` = lists looked into) and graph (`effort` = candidates kept; Malkov and Yashunin 2018). They search by distance,
    so rows of different lengths get a further coordinate sqrt(max |x|^2 - |x|^2) that makes all equally long, and queries a 0: then the nearest row is the one with the largest
    inner product (Bachrach et al., 'Speeding up the Xbox recommender system using a Euclidean transformation', RecSys 2014).
    """

    def __init__(self, x, kind, seed=0):
        self.x, self.kind, self.effort, self.faiss = x, kind, None, None
        if kind == 'exact':
            return
        import faiss

        n, d = x.shape
        lengths = x.square().sum(1)
        self.equal = bool(lengths.max() - lengths.min() <= 1e-4 * lengths.max())
        rows = x if self.equal else torch.cat([x, (lengths.max() - lengths).clamp(min=0).sqrt()[:, None]], 1)
        rows = np.ascontiguousarray(rows.numpy(), dtype=np.float32)
        if kind == 'hnsw':
            self.faiss = faiss.IndexHNSWFlat(rows.shape[1], 32)
            self.faiss.hnsw.efConstruction = 80
        else:
            n_lists = int(2 ** np.round(np.log2(max(1, min(4 * n**0.5, n / 39)))))
            self.quantizer = faiss.IndexFlatL2(rows.shape[1])
            self.faiss = faiss.IndexIVFFlat(self.quantizer, rows.shape[1], n_lists)
            self.faiss.cp.seed, self.faiss.cp.niter, self.faiss.cp.max_points_per_centroid = seed + 1, 10, 64
            self.faiss.train(rows)
        self.faiss.add(rows)

    @property
    def max_effort(self):
        return self.faiss.nlist if self.kind == 'ivf' else min(len(self.x), 4096)

    def search(self, q, k):
        """-> positions of the `k` largest inner products of each query (B, d), best first: int64 (B, k), -1 where fewer were found."""
        k = min(k, len(self.x))
        if self.kind == 'exact':
            step = max(1, BUDGET // (4 * len(self.x)))
            return torch.cat(
                [(part @ self.x.T).topk(k, dim=1).indices for part in q.split(step)]
                or [torch.zeros(0, k, dtype=torch.int64)]
            ).numpy()
        if self.kind == 'ivf':
            self.faiss.nprobe = self.effort
        else:
            self.faiss.hnsw.efSearch = max(self.effort, k)
        q = q if self.equal else F.pad(q, (0, 1))
        return self.faiss.search(np.ascontiguousarray(q.numpy(), dtype=np.float32), k)[1]

    def tune(self, q, k, recall):
        """Set the effort to about the least that finds `recall` of the exact top `k` of the queries (doubled until it does, then bisected); -> the share that is found."""
        if self.kind == 'exact':
            return 1.0
        exact = Inner(self.x, 'exact').search(q, k)

        def share(effort):
            self.effort = effort
            return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(self.search(q, k), exact)]))

        high = 1 if self.kind == 'ivf' else 16
        low = high
        while (found := share(high)) < recall and high < self.max_effort:
            low, high = high, min(2 * high, self.max_effort)
        while high - low > 1 + high // 8 and found >= recall:
            if (s := share(middle := (low + high) // 2)) >= recall:
                high, found = middle, s
            else:
                low = middle
        self.effort = high
        return found


class ItemIndex:
    """The items of a scorer whose scores order them as p_u . q_i + b_i, ready to be searched: what `learn.index()` makes and `recommend` and `similar_items` then use.

    The search hands over candidates; their scores are the model's own. Seen items are left out afterwards, and as many more are fetched as it takes; where the index does not give them,
    an exact search does. `recall` is what was measured when it was made, `kind` what it is. An index is no part of what is exported or saved.
    """

    def __init__(
        self,
        scorer,  # a learner, or any `Scorer` with `vectors('user')`, `vectors('item')` and perhaps `biases('item')`
        kind: str = None,  # 'ivf', 'hnsw' (faiss, the extra 'ann') or 'exact'; None: 'ivf' from 20,000 items on if faiss is there
        recall: float = 0.95,  # share of the exact `k` best that is to be found, on the average over `n_queries` users drawn at random
        k: int = 100,
        n_queries: int = 256,
        seed: int = 0,
    ):
        if kind is not None and kind not in KINDS:
            raise ValueError(f'kind={kind!r}: choose one of {first_few(KINDS)}')
        if not 0 < recall <= 1:
            raise ValueError(f'recall={recall}: a share above 0, at most 1')
        self.options = dict(kind=kind, recall=recall, k=k, n_queries=n_queries, seed=seed)
        catalog = scorer.catalog
        known = np.ones(catalog.n_items, bool) if scorer.knows_cold else catalog.known('item')
        self.codes, self.n_items = np.flatnonzero(known), catalog.n_items
        has_faiss = find_spec('faiss') is not None
        if kind in ('ivf', 'hnsw') and not has_faiss:
            raise ImportError(
                f"kind={kind!r} is faiss's: pip install 'fastrec-learn[ann]'. Without it there is exact search, kind='exact'"
            )
        if kind is None:
            kind = 'ivf' if len(self.codes) >= FROM_ITEMS and has_faiss else 'exact'
            if len(self.codes) >= FROM_ITEMS and not has_faiss:
                warn(
                    "search will be exact: approximate search needs faiss, pip install 'fastrec-learn[ann]'",
                    stacklevel=3,
                )
        x, self.has_biases = _item_rows(scorer)
        _check_order(scorer, x, self.has_biases, self.codes, seed)
        self.prints, self.shape = _prints(scorer), x.shape
        self.inner = Inner(x[torch.from_numpy(self.codes)], kind, seed)
        self.kind, self.k, self._cosine = kind, min(k, len(self.codes)), None
        users = np.random.default_rng(seed).permutation(
            np.flatnonzero(catalog.known('user')) if catalog.known('user').any() else np.arange(catalog.n_users)
        )[:n_queries]
        self.recall = self.inner.tune(self.queries(scorer, users), self.k, recall)
        if self.recall < recall:
            warn(
                f"the index finds {self.recall:.3f} of the exact {self.k} best, short of recall={recall}; kind='exact' finds all",
                stacklevel=3,
            )

    def __repr__(self):
        effort = (
            ''
            if self.kind == 'exact'
            else f', ef {self.inner.effort}'
            if self.kind == 'hnsw'
            else f', {self.inner.effort} of {self.inner.faiss.nlist} lists searched'
        )
        return f'ItemIndex({self.kind}, {len(self.codes):,} items x {self.inner.x.shape[1]}{effort}, recall@{self.k} {self.recall:.3f})'

    def __reduce__(self):
        return _no_index, ()

    def queries(self, scorer, users):
        """float32 (B, d): what the rows are multiplied with, for codes of users."""
        users = torch.as_tensor(users)
        p = scorer.user_vectors(users)
        return F.pad(p.float().cpu(), (0, 1), value=1.0) if self.has_biases else p.float().cpu()

    def is_stale(self, scorer) -> bool:
        """Has the model changed since?"""
        now = _prints(scorer)
        return (
            scorer.catalog.n_items != self.n_items
            or len(now) != len(self.prints)
            or any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(now, self.prints))
        )

    def top(self, scorer, users, k: int, seen=None) -> tuple:
        """-> scores (B, k) and item codes (B, k) of the best items of each user, best first, without what is stored in the rows of `seen` (CSR, (B, n_items)); -inf where there are fewer.

        Fetched are 2 k + 16, then four times as many for users of whom not enough is left, and so on; an exact search serves those for whom the index still falls short.
        """
        q, n = self.queries(scorer, users), len(self.codes)
        keys = self._keys(seen)  # of seen pairs: row * n + position in the index
        n_seen = np.bincount(keys // n, minlength=len(q))
        res, todo, fetch = np.full((len(q), k), -1, np.int64), np.arange(len(q)), 2 * k + 16
        while len(todo):
            found = self.inner.search(q[torch.from_numpy(todo)], min(fetch, n))
            new = (found >= 0) & ~_contains(keys, todo[:, None] * n + found)
            place = np.cumsum(new, 1)
            done = place[:, -1] >= np.minimum(k, n - n_seen[todo])
            b, j = np.nonzero(new & (place <= k) & done[:, None])
            res[todo[b], place[b, j] - 1] = found[b, j]
            todo = todo[~done]
            if fetch >= min(k + n_seen.max(), n):
                break  # more would not help
            fetch *= 4
        for part in np.array_split(todo, -(-4 * len(todo) * n // BUDGET)) if len(todo) else ():
            scores = q[torch.from_numpy(part)] @ self.inner.x.T
            own = keys[np.isin(keys // n, part)]
            scores[torch.from_numpy(np.searchsorted(part, own // n)), torch.from_numpy(own % n)] = -torch.inf
            best, at = scores.topk(min(k, n), dim=1)
            res[part, : at.shape[1]] = np.where(np.isfinite(best.numpy()), at.numpy(), -1)
        res = np.where(res >= 0, self.codes[res], -1)
        there = torch.from_numpy(res >= 0)
        scores = torch.full(res.shape, -torch.inf)
        b = torch.from_numpy(np.asarray(users, dtype=np.int64))[:, None].expand(res.shape)
        scores[there] = scorer.score(b[there], torch.from_numpy(res)[there]).float().cpu()
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        return scores, torch.from_numpy(res).clamp(min=0).gather(1, order)

    def _keys(self, seen):
        if seen is None:
            return np.zeros(0, np.int64)
        position = np.full(self.n_items, -1)
        position[self.codes] = np.arange(len(self.codes))
        keys = np.repeat(np.arange(seen.shape[0]), np.diff(seen.indptr)) * len(self.codes) + position[seen.indices]
        return np.unique(keys[position[seen.indices] >= 0])

    def neighbours(self, scorer, vectors, k: int) -> np.ndarray:
        """Codes (B, k) of the items with the largest cosine to `vectors` (B, d), best first, -1 where fewer were found. Where items' vectors differ in length it takes an index of its own, made when first asked for."""
        if self._cosine is None:
            x = F.normalize(scorer.vectors('item').float().cpu(), dim=1)[torch.from_numpy(self.codes)]
            if not self.has_biases and torch.allclose(x, self.inner.x, atol=1e-5):
                self._cosine = self.inner
            else:
                self._cosine = Inner(x, self.kind, self.options['seed'])
                self._cosine.tune(
                    x[
                        torch.from_numpy(
                            np.random.default_rng(self.options['seed']).permutation(len(x))[: self.options['n_queries']]
                        )
                    ],
                    self.k,
                    self.options['recall'],
                )
        at = self._cosine.search(F.normalize(vectors.float().cpu(), dim=1), k)
        return np.where(at >= 0, self.codes[at], -1)


def _no_index():
    return None


def _contains(keys, values):
    """bool, shape of `values`: which are among the sorted `keys`?"""
    if not len(keys):
        return np.zeros(values.shape, bool)
    at = np.searchsorted(keys, values).clip(max=len(keys) - 1)
    return keys[at] == values


def _item_rows(scorer):
    """-> float32 (n_items, d) item vectors, with a column of biases if there are any; are there?"""
    v = scorer.vectors('item').float().cpu()
    if not torch.isfinite(v).all():
        raise ValueError('some item vectors are not numbers: did training diverge? Try a smaller learning rate')
    b = scorer.biases('item')
    if b is None:
        return v, False
    b = b.float().cpu()
    return (torch.cat([v, b[:, None]], 1), True) if b.any() else (v, False)


def _check_order(scorer, x, has_biases, codes, seed):
    """`TypeError` unless inner products order items as the scores do, seen on 32 users and 256 items."""
    rng = np.random.default_rng(seed)
    users, items = (
        torch.from_numpy(rng.integers(scorer.catalog.n_users, size=32)),
        torch.from_numpy(rng.choice(codes, min(256, len(codes)), replace=False)),
    )
    scores = (
        scorer.score(users.repeat_interleave(len(items)), items.repeat(len(users)))
        .float()
        .cpu()
        .reshape(len(users), -1)
    )
    why = f'{type(scorer if scorer.model is None else scorer.model).__name__} does not score by the inner product of its vectors, so an index would not find its best items: recommend without one, or take collab_learner or two_tower_learner'
    try:
        p = scorer.vectors('user').float().cpu()[users]
    except (ValueError, TypeError) as e:
        raise TypeError(why) from e
    if p.shape[1] != x.shape[1] - has_biases:
        raise TypeError(why)
    products = (F.pad(p, (0, 1), value=1.0) if has_biases else p) @ x[items].T
    ordered = scores.gather(1, products.argsort(dim=1))
    if (ordered.cummax(1).values - ordered).max() > 1e-3 * (scores.max() - scores.min()):
        raise TypeError(why)


def _prints(scorer):
    """A few thousand numbers of each weight, which tell whether training has changed it (versions of tensors do not: fused optimisers leave them as they are)."""
    weights = scorer.trained_tensors()
    flat = [w.detach().reshape(-1) for w in weights]
    return [w[:: max(1, len(w) // SAMPLE)].clone() for w in flat]


def similar(scorer, query, k: int = 10, side: str = 'item') -> pd.DataFrame:
    """The `k` nearest users or items of `query` by cosine of their vectors: the id, title (items), score in [-1, 1], rank, and the query's own id.

    `query` is an id, for items also a title or a part of a title that matches one; a list gives `k` rows each. Rows without
    training data are neither asked nor answered: their vector says nothing about them.
    """
    catalog = scorer.catalog
    if int(k) != k or k < 1:
        raise ValueError(f'k={k}: ask for at least one {side}')
    codes = catalog.find_all(query, side)
    known = scorer.knows(side)
    if not known[codes].all():
        ids = catalog.vocab[side].decode(codes[~known[codes]])
        raise KeyError(
            f'{side} {first_few(ids)} has no training row, so the model has learned nothing about what is similar to it'
        )
    vectors = F.normalize(scorer.vectors(side).float(), dim=1)
    at = torch.from_numpy(codes).to(vectors.device)
    index = scorer.item_index() if side == 'item' else None
    if index is None or (found := _by_index(index, scorer, vectors[at], codes, known, k)) is None:
        scores = vectors[at] @ vectors.T
        scores[:, torch.from_numpy(~known).to(vectors.device)] = -torch.inf
        scores[torch.arange(len(at)), at] = -torch.inf
        top, found = scores.topk(min(k, len(known)), dim=1)
        top, found = top.cpu().numpy(), found.cpu().numpy()
    else:
        top = torch.einsum('bd,bkd->bk', vectors[at], vectors[torch.from_numpy(found).to(vectors.device)]).cpu().numpy()
    b, r = np.nonzero(np.isfinite(top))
    ids = catalog.vocab[side]
    df = pd.DataFrame(
        {f'query_{side}': ids.decode(codes[b]), side: ids.decode(found[b, r]), 'score': top[b, r], 'rank': r + 1}
    )
    if side == 'item' and catalog.title_name is not None:
        df.insert(2, 'title', catalog.titles(found[b, r]))
    return df


def _by_index(index, scorer, vectors, codes, known, k):
    """Codes (B, k) of the nearest items with training rows, without the query itself; None if the index does not find as many."""
    found = index.neighbours(scorer, vectors, 2 * k + 16)
    ok = (found >= 0) & known[found] & (found != codes[:, None])
    if (ok.sum(1) < k).any():
        return None
    return found[ok & (np.cumsum(ok, 1) <= k)].reshape(len(codes), k)
