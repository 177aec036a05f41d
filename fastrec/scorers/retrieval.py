"""What is near what: nearest neighbors and maximum inner products over learned vectors, exact or by an index.

`scorer` is here whatever keeps the contract of `Scorer`, which stands above this room and calls it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix

from ..data.columns import first_few
from ..notices import warn_user
from .recommend import checked_k, require_numbers, with_item_columns

__all__ = ['ItemIndex', 'similar']

KINDS = ('exact', 'ivf', 'hnsw')
FROM_ITEMS = 20_000  # items from which an approximate index is worth its error
SEARCH_BYTES = 2**27  # of scores that exact search makes at a time
NUMBERS_PER_WEIGHT = 4096  # that tell whether a model has changed


# --- search


class Inner:
    """Rows x (n, d), searched for the largest inner products with queries.

    kind 'exact': a matrix product. 'ivf' and 'hnsw' are faiss's inverted lists (`effort` = lists looked into) and graph
    (`effort` = candidates kept; Malkov and Yashunin 2018). They search by distance, so rows of different lengths get a
    further coordinate sqrt(max |x|^2 - |x|^2) that makes all equally long, and queries a 0: then the nearest row is the
    one with the largest inner product (Bachrach et al., 'Speeding up the Xbox recommender system using a Euclidean
    transformation', RecSys 2014).
    """

    def __init__(
        self,
        x: torch.Tensor,  # float32 (n, d)
        kind: str,  # 'exact', 'ivf' or 'hnsw'
        seed: int = 0,  # of the clusters of 'ivf'
    ) -> None:
        self.x = x
        self.kind = kind
        self.effort = 1  # of each search; set by `tune`
        self.faiss: Any = None  # faiss's index; None: exact
        if kind != 'exact':
            self._build(seed)

    def _build(self, seed: int) -> None:
        import faiss

        squares = self.x.square().sum(1)
        longest = squares.max()
        self.equal = bool(longest - squares.min() <= 1e-4 * longest)  # are all rows equally long?
        rows = self.x
        if not self.equal:
            missing = (longest - squares).clamp(min=0).sqrt()
            rows = torch.cat([rows, missing[:, None]], 1)
        rows = np.ascontiguousarray(rows.numpy(), dtype=np.float32)
        n, width = rows.shape
        if self.kind == 'hnsw':
            self.faiss = faiss.IndexHNSWFlat(width, 32)
            self.faiss.hnsw.efConstruction = 80
        else:
            # a power of 2, about 4 n^1/2 lists, but at least 39 rows in each to make a cluster of
            n_lists = max(1, min(4 * n**0.5, n / 39))
            n_lists = int(2 ** np.round(np.log2(n_lists)))
            self.quantizer = faiss.IndexFlatL2(width)
            self.faiss = faiss.IndexIVFFlat(self.quantizer, width, n_lists)
            self.faiss.cp.seed = seed + 1
            self.faiss.cp.niter = 10
            self.faiss.cp.max_points_per_centroid = 64
            self.faiss.train(rows)
        self.faiss.add(rows)

    @property
    def max_effort(self) -> int:
        """The effort from which on more would not help."""
        return self.faiss.nlist if self.kind == 'ivf' else min(len(self.x), 4096)

    def search(self, q: torch.Tensor, k: int) -> np.ndarray:
        """Positions of the `k` largest inner products of each query (B, d), best first: int64 (B, k).

        -1 where fewer were found.
        """
        k = min(k, len(self.x))
        if self.kind == 'exact':
            return self._search_all(q, k)
        if self.kind == 'ivf':
            self.faiss.nprobe = self.effort
        else:
            self.faiss.hnsw.efSearch = max(self.effort, k)
        if not self.equal:
            q = F.pad(q, (0, 1))
        _, found = self.faiss.search(np.ascontiguousarray(q.numpy(), dtype=np.float32), k)
        return found

    def _search_all(self, q: torch.Tensor, k: int) -> np.ndarray:
        if not len(q):
            return np.zeros((0, k), np.int64)
        step = max(1, SEARCH_BYTES // (4 * len(self.x)))
        found = [(queries @ self.x.T).topk(k, dim=1).indices for queries in q.split(step)]
        return torch.cat(found).numpy()

    def tune(self, q: torch.Tensor, k: int, recall: float) -> float:
        """Set the effort to about the least that finds `recall` of the exact top `k` of the queries (B, d).

        It is doubled until it does, then bisected. Returned is the share that is found.
        """
        if self.kind == 'exact':
            return 1.0
        exact = Inner(self.x, 'exact').search(q, k)

        def share_found(effort: int) -> float:
            self.effort = effort
            found = self.search(q, k)
            shares = [len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, exact)]
            return float(np.mean(shares))

        high = 1 if self.kind == 'ivf' else 16
        low = high
        share = share_found(high)
        while share < recall and high < self.max_effort:
            low = high
            high = min(2 * high, self.max_effort)
            share = share_found(high)
        while high - low > 1 + high // 8 and share >= recall:
            middle = (low + high) // 2
            share_of_middle = share_found(middle)
            if share_of_middle >= recall:
                high = middle
                share = share_of_middle
            else:
                low = middle
        self.effort = high
        return share


# --- the index of a scorer's items


class ItemIndex:
    """The items of a scorer whose scores order them as p_u . q_i + b_i, ready to be searched.

    It is what `learn.index()` makes and `recommend` and `similar_items` then use. The search hands over candidates;
    their scores are the model's own. Seen items are left out afterwards, and as many more are fetched as it takes;
    where the index does not give them, an exact search does. `recall` is what was measured when it was made, `kind`
    what it is. An index is not part of what is exported or saved. `ValueError` for another kind, and for a `recall`
    that is not a share.
    """

    def __init__(
        self,
        scorer: Any,  # a learner, or any `Scorer` with `vectors('user')`, `vectors('item')`, perhaps `biases('item')`
        kind: str | None = None,  # 'ivf', 'hnsw' (faiss, the extra 'ann') or 'exact'; None: 'ivf' from 20,000 items on
        recall: float = 0.95,  # share of the exact `k` best that is to be found, on the average over the queries
        k: int = 100,  # how many best ones that share is of
        n_queries: int = 256,  # users drawn at random whose lists are looked at for it
        seed: int = 0,  # of that draw, and of the clusters of 'ivf'
    ) -> None:
        if kind is not None and kind not in KINDS:
            raise ValueError(f'kind={kind!r}: choose one of {first_few(KINDS)}')
        if not 0 < recall <= 1:
            raise ValueError(f'recall={recall}: a share above 0, at most 1')
        # arguments of one like it
        self.options: dict[str, Any] = dict(kind=kind, recall=recall, k=k, n_queries=n_queries, seed=seed)
        catalog = scorer.catalog
        is_known = np.ones(catalog.n_items, bool) if scorer.knows_cold else catalog.known('item')
        self.codes = np.flatnonzero(is_known)  # of the items it holds
        self.n_items = catalog.n_items
        self.kind = _available(kind, len(self.codes))
        x, self.has_biases = _item_rows(scorer)
        _check_order(scorer, x, self.has_biases, self.codes, seed)
        self.fingerprints = fingerprints(scorer)
        self.shape = x.shape
        self.inner = Inner(x[torch.from_numpy(self.codes)], self.kind, seed)
        self.k = min(k, len(self.codes))
        self._cosine: Inner | None = None
        known_users = np.flatnonzero(catalog.known('user'))
        if not len(known_users):
            known_users = np.arange(catalog.n_users)
        users = np.random.default_rng(seed).permutation(known_users)[:n_queries]
        self.recall = self.inner.tune(self.queries(scorer, users), self.k, recall)
        if self.recall < recall:
            warn_user(
                f'the index finds {self.recall:.3f} of the exact {self.k} best, short of recall={recall}; '
                "kind='exact' finds all"
            )

    def __repr__(self) -> str:
        effort = dict(
            exact='',
            hnsw=f', ef {self.inner.effort}',
            ivf=f', {self.inner.effort} of {self.inner.max_effort} lists searched' if self.kind == 'ivf' else '',
        )
        size = f'{len(self.codes):,} items x {self.inner.x.shape[1]}'
        return f'ItemIndex({self.kind}, {size}{effort[self.kind]}, recall@{self.k} {self.recall:.3f})'

    def __reduce__(self):
        return _no_index, ()

    def queries(
        self,
        scorer: Any,  # the scorer that the index was made of
        users: np.ndarray,  # codes of users, int (B,)
    ) -> torch.Tensor:
        """float32 (B, d): what the rows are multiplied with, for codes of users."""
        p = scorer.user_vectors(torch.as_tensor(users)).float().cpu()
        require_numbers(p, 'user vectors')  # a search finds nothing for what is not a number
        return F.pad(p, (0, 1), value=1.0) if self.has_biases else p

    def is_stale(
        self,
        scorer: Any,  # the scorer that the index was made of
    ) -> bool:
        """Has the model changed since?"""
        now = fingerprints(scorer)
        if scorer.catalog.n_items != self.n_items or len(now) != len(self.fingerprints):
            return True
        return any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(now, self.fingerprints))

    def top(
        self,
        scorer: Any,  # the scorer that the index was made of
        users: np.ndarray,  # codes of users, int (B,)
        k: int,  # items per user
        seen: csr_matrix | None = None,  # what to leave out, entries (B, n_items); None: nothing
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (B, k) and item codes (B, k) of the best items of each user, best first; -inf where there are fewer.

        Without what is stored in the rows of `seen` (CSR, (B, n_items)). Fetched are 2 k + 16, then four times as many
        for users of whom not enough is left, and so on; an exact search serves those for whom the index still falls
        short.
        """
        q = self.queries(scorer, users)
        keys = self._keys(seen)
        positions, short = self._search(q, k, keys)
        self._search_exactly(q, k, keys, positions, short)
        items = np.where(positions >= 0, self.codes[positions], -1)
        is_there = torch.from_numpy(items >= 0)
        user_codes = torch.from_numpy(np.asarray(users, dtype=np.int64))
        pair_users = user_codes[:, None].expand(items.shape)[is_there]
        codes = torch.from_numpy(items)
        scores = torch.full(items.shape, -torch.inf)
        scores[is_there] = scorer.score(pair_users, codes[is_there]).float().cpu()
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        return scores, codes.clamp(min=0).gather(1, order)

    def _keys(self, seen: csr_matrix | None) -> np.ndarray:
        """Sorted numbers of the seen pairs (int64): row * number of indexed items + position in the index."""
        if seen is None:
            return np.zeros(0, np.int64)
        position_of = np.full(self.n_items, -1)
        position_of[self.codes] = np.arange(len(self.codes))
        positions = position_of[seen.indices]
        first_keys: np.ndarray = np.arange(seen.shape[0]) * len(self.codes)  # of each row
        keys = np.repeat(first_keys, np.diff(seen.indptr)) + positions
        return np.unique(keys[positions >= 0])

    def _search(self, q: torch.Tensor, k: int, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (B, k) of what the index finds, -1 where nothing, and rows for which that is too little."""
        n = len(self.codes)
        n_seen = np.bincount(keys // n, minlength=len(q))
        todo = np.arange(len(q))  # rows of users of whom not enough is left
        res: np.ndarray = np.full((len(q), k), -1, np.int64)
        fetch = 2 * k + 16
        while len(todo):
            found = self.inner.search(q[torch.from_numpy(todo)], min(fetch, n))
            is_new = (found >= 0) & ~_contains(keys, todo[:, None] * n + found)
            place = np.cumsum(is_new, 1)  # from 1 on, among what is new
            is_done = place[:, -1] >= np.minimum(k, n - n_seen[todo])
            row, column = np.nonzero(is_new & (place <= k) & is_done[:, None])
            res[todo[row], place[row, column] - 1] = found[row, column]
            todo = todo[~is_done]
            if fetch >= min(k + n_seen.max(), n):
                break  # more would not help
            fetch *= 4
        return res, todo

    def _search_exactly(
        self, q: torch.Tensor, k: int, keys: np.ndarray, positions: np.ndarray, todo: np.ndarray
    ) -> None:
        """Put the exact best into the rows `todo` of `positions` (B, k), in place."""
        if not len(todo):
            return
        n = len(self.codes)
        for rows in np.array_split(todo, -(-4 * len(todo) * n // SEARCH_BYTES)):
            scores = q[torch.from_numpy(rows)] @ self.inner.x.T
            own = keys[np.isin(keys // n, rows)]
            seen_rows = torch.from_numpy(np.searchsorted(rows, own // n))
            scores[seen_rows, torch.from_numpy(own % n)] = -torch.inf
            best, found = scores.topk(min(k, n), dim=1)
            found = found.masked_fill(~torch.isfinite(best), -1)
            positions[rows, : found.shape[1]] = found.numpy()

    def neighbors(
        self,
        scorer: Any,  # the scorer that the index was made of
        vectors: torch.Tensor,  # queries, float (B, d)
        k: int,  # items per query
    ) -> np.ndarray:
        """Codes (B, k) of the items with the largest cosine to `vectors` (B, d), best first; -1 where fewer were found.

        Where items' vectors differ in length it takes an index of its own, made when first asked for.
        """
        if self._cosine is None:
            self._cosine = self._index_of_cosines(scorer)
        found = self._cosine.search(F.normalize(vectors.float().cpu(), dim=1), k)
        return np.where(found >= 0, self.codes[found], -1)

    def _index_of_cosines(self, scorer: Any) -> Inner:
        x = F.normalize(scorer.vectors('item').float().cpu(), dim=1)
        x = x[torch.from_numpy(self.codes)]
        if not self.has_biases and torch.allclose(x, self.inner.x, atol=1e-5):
            return self.inner
        seed = self.options['seed']
        queries = np.random.default_rng(seed).permutation(len(x))[: self.options['n_queries']]
        res = Inner(x, self.kind, seed)
        res.tune(x[torch.from_numpy(queries)], self.k, self.options['recall'])
        return res


def _no_index() -> None:
    """What an index is pickled as."""
    return


def _available(kind: str | None, n_items: int) -> str:
    """The kind that is asked for, or the default for that many items; `ImportError` where faiss is missing."""
    has_faiss = find_spec('faiss') is not None
    if kind == 'exact':
        return kind
    if kind is not None:
        if not has_faiss:
            raise ImportError(
                f"kind={kind!r} is faiss's: pip install 'fastrec-learn[ann]'. "
                "Without it there is exact search, kind='exact'"
            )
        return kind
    if n_items < FROM_ITEMS:
        return 'exact'
    if has_faiss:
        return 'ivf'
    warn_user("search will be exact: approximate search needs faiss, pip install 'fastrec-learn[ann]'")
    return 'exact'


def _contains(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """bool, shape of `values`: which are among the sorted `keys`?"""
    if not len(keys):
        return np.zeros(values.shape, bool)
    at = np.searchsorted(keys, values).clip(max=len(keys) - 1)
    return keys[at] == values


def _item_rows(scorer: Any) -> tuple[torch.Tensor, bool]:
    """float32 (n_items, d) item vectors, with a column of biases if there are any; are there?"""
    vectors = scorer.vectors('item').float().cpu()
    require_numbers(vectors, 'item vectors')
    biases = scorer.biases('item')
    if biases is None or not biases.any():
        return vectors, False
    require_numbers(biases, 'item biases')
    return torch.cat([vectors, biases.float().cpu()[:, None]], 1), True


def _check_order(scorer: Any, x: torch.Tensor, has_biases: bool, codes: np.ndarray, seed: int) -> None:
    """`TypeError` unless inner products order items as the scores do, seen on 32 users and 256 of the items `codes`."""
    rng = np.random.default_rng(seed)
    users = torch.from_numpy(rng.integers(scorer.catalog.n_users, size=32))
    items = torch.from_numpy(rng.choice(codes, min(256, len(codes)), replace=False))
    scores = scorer.score(users.repeat_interleave(len(items)), items.repeat(len(users)))
    scores = scores.float().cpu().reshape(len(users), -1)
    name = type(scorer if scorer.model is None else scorer.model).__name__
    why = (
        f'{name} does not score by the inner product of its vectors, so an index would not find its best items: '
        'recommend without one, or take collab_learner or two_tower_learner'
    )
    try:
        p = scorer.vectors('user').float().cpu()[users]
    except (ValueError, TypeError) as e:
        raise TypeError(why) from e
    if has_biases:
        p = F.pad(p, (0, 1), value=1.0)
    if p.shape[1] != x.shape[1]:
        raise TypeError(why)
    ordered = scores.gather(1, (p @ x[items].T).argsort(dim=1))
    largest_drop = (ordered.cummax(1).values - ordered).max()  # 0 where they rise with the products
    if largest_drop > 1e-3 * (scores.max() - scores.min()):
        raise TypeError(why)


def fingerprints(scorer: Any) -> list[torch.Tensor]:
    """A few thousand numbers of each weight, which tell whether training has changed it.

    Versions of tensors do not: fused optimizers leave them as they are.
    """
    flat = [weight.detach().reshape(-1) for weight in scorer.trained_tensors()]
    return [w[:: max(1, len(w) // NUMBERS_PER_WEIGHT)].clone() for w in flat]


# --- the verb


def similar(
    scorer: Any,  # a fitted learner, baseline, or any other `Scorer`
    query: Any,  # id, of items also a title or a part of a title that matches one; a list gives `k` rows each
    k: int = 10,  # how many
    side: str = 'item',  # or 'user'
    min_rows: int = 0,  # training rows that an answer has at least, unless features tell what it is
    columns: Any = None,  # of `item_df`, to be shown as well
) -> pd.DataFrame:
    """The `k` nearest users or items of `query`, by `scorer.neighbors`: by default by cosine of their vectors.

    The query's own id, the id, title (items), score, rank. Rows without training data are neither asked (`KeyError`)
    nor answered: their vector says nothing about them. `ValueError` for a `min_rows` that is not a whole number.
    """
    catalog = scorer.catalog
    k = checked_k(k, side)
    if not (min_rows >= 0 and int(min_rows) == min_rows):
        raise ValueError(f'min_rows={min_rows}: training rows of an item that is shown, a whole number from 0 on')
    codes = catalog.find_all(query, side)
    is_known = scorer.knows(side)
    if not is_known[codes].all():
        ids = catalog.vocab[side].decode(codes[~is_known[codes]])
        raise KeyError(
            f'{side} {first_few(ids)} has no training row, so the model has learned nothing about what is similar to it'
        )
    scores, found = _shown(scorer, codes, k, side, _has_rows(scorer, side, min_rows))
    at, place = np.nonzero(np.isfinite(scores))
    n_short = int((np.isfinite(scores).sum(1) < k).sum())
    if min_rows and n_short:
        n_left_out = int((is_known & ~_has_rows(scorer, side, min_rows)).sum())
        if n_left_out:
            warn_user(
                f'fewer than k={k} similar {side}s for {n_short:,} of {len(codes):,}: {n_left_out:,} of '
                f'{len(is_known):,} {side}s have less than {min_rows} training rows, which says little about them. '
                'min_rows=0 shows these, too'
            )
    name = catalog.columns[side]
    decode = catalog.vocab[side].decode
    shown = found[at, place]
    df = pd.DataFrame({f'query_{name}': decode(codes[at]), name: decode(shown)})
    if side == 'item' and catalog.shows_titles:
        df['title'] = catalog.titles(shown)
    df['score'] = scores[at, place]
    df['rank'] = place + 1
    return with_item_columns(catalog, df, shown, columns)


def _has_rows(scorer: Any, side: str, min_rows: int) -> np.ndarray:
    """bool (n,): which have `min_rows` training rows, or are known by features where the scorer reads those."""
    counts = scorer.catalog.counts[side]
    return (counts >= min_rows) | scorer.has_features(side)


def _shown(scorer: Any, codes: np.ndarray, k: int, side: str, is_shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and codes (B, k) of the nearest that are shown, bool (n,), best first; -inf where there are fewer.

    Neighbors are asked for four times as many until enough of them are shown, or there are no more.
    """
    n = len(is_shown)
    scores: np.ndarray = np.full((len(codes), k), -np.inf, np.float32)
    found: np.ndarray = np.zeros((len(codes), k), np.int64)
    todo = np.arange(len(codes))
    n_asked = k
    while len(todo):
        near_scores, near = scorer.neighbors(codes[todo], n_asked, side)
        require_numbers(torch.from_numpy(near_scores), masked=True)
        is_there = np.isfinite(near_scores)
        ok = is_there & is_shown[near]
        place = np.cumsum(ok, 1)
        row, column = np.nonzero(ok & (place <= k))
        scores[todo[row], place[row, column] - 1] = near_scores[row, column]
        found[todo[row], place[row, column] - 1] = near[row, column]
        has_more = (ok.sum(1) < k) & is_there.all(1)
        if n_asked >= n:
            break
        todo = todo[has_more]
        n_asked = min(4 * n_asked, n)
    return scores, found


def nearest(scorer: Any, codes: np.ndarray, k: int, side: str = 'item') -> tuple[np.ndarray, np.ndarray]:
    """Cosines and codes (B, k) of what is nearest to codes (B,) by the scorer's vectors, by index or exactly."""
    is_known = scorer.knows(side)
    vectors = F.normalize(scorer.vectors(side).float(), dim=1)
    at = torch.from_numpy(codes).to(vectors.device)
    index = scorer.item_index() if side == 'item' else None
    if index is not None:
        found = _by_index(index, scorer, vectors[at], codes, is_known, k)
        if found is not None:
            others = vectors[torch.from_numpy(found).to(vectors.device)]
            return torch.einsum('bd,bkd->bk', vectors[at], others).cpu().numpy(), found
    unknown = torch.from_numpy(~is_known).to(vectors.device)
    best = [_nearest_of(some, vectors, unknown, k) for some in at.split(max(1, SEARCH_BYTES // (4 * len(is_known))))]
    if not best:
        return np.zeros((0, k), np.float32), np.zeros((0, k), np.int64)
    scores, found_codes = (torch.cat(parts).cpu().numpy() for parts in zip(*best))
    return scores, found_codes


def _nearest_of(
    at: torch.Tensor, vectors: torch.Tensor, unknown: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of codes (B,) on the device of the unit vectors (n, d), but those that are `unknown`, bool (n,)."""
    scores = vectors[at] @ vectors.T
    scores[:, unknown] = -torch.inf
    scores[torch.arange(len(at)), at] = -torch.inf
    return scores.topk(min(k, len(unknown)), dim=1)


def _by_index(
    index: ItemIndex, scorer: Any, vectors: torch.Tensor, codes: np.ndarray, is_known: np.ndarray, k: int
) -> np.ndarray | None:
    """Codes (B, k) of the nearest items with training rows, without the query itself; None if the index finds fewer."""
    found = index.neighbors(scorer, vectors, 2 * k + 16)
    ok = (found >= 0) & is_known[found] & (found != codes[:, None])
    if (ok.sum(1) < k).any():
        return None
    return found[ok & (np.cumsum(ok, 1) <= k)].reshape(len(codes), k)
