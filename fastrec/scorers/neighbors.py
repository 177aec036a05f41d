"""Nearest neighbors: items that the same users have, users who have the same items; of choices and of ratings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csc_matrix, csr_matrix, vstack

from ..data.catalog import Catalog, distinct
from ..keywords import check_arguments
from ..memory import require_memory
from ..progress import Progress
from .baselines import (
    COMMON,
    Baseline,
    BiasOnly,
    HasCatalog,
    number_from,
    once,
    require_loaders,
    row_weights,
    training_positives,
    training_rows,
    warn_of_weights,
    whole_number,
)
from .linear import ItemWeights, dense, score_by_user

__all__ = ['ItemKNN', 'UserKNN']

TARGETS = ('implicit', 'rating')
BIAS_PASSES = 10  # of the biases that ratings of neighbors are compared by
BYTES_PER_WEIGHT = 12  # of a similarity that is kept, while they are put together


class ItemKNN(ItemWeights):
    """Item-based nearest neighbors: of choices, which item is chosen next; of ratings, what a rating will be.

    `target='implicit'`: s_ui = the sum of the similarities of i with what u has. Similar is what has the same users:
    cosine, shrunken, and each item keeps its `k` nearest (Deshpande and Karypis 2004; shrinkage as in Dacrema et al.
    2019).

    `target='rating'`: r_ui = b_ui + sum_j s_ij w_uj (r_uj - b_uj) / sum_j s_ij w_uj over the `k` items j most similar
    to i among those that u rated, where b are damped biases (`BiasOnly`, in turns) and w the weights of rows. Similar
    is what is rated alike beyond the biases: s_ij = (n - 1) / (n - 1 + shrink) rho_ij, with rho_ij the correlation of
    what the biases leave over the n users of both, where that is above 0 (Koren 2010, 'Factor in the Neighbors',
    section 2.2; `KNNBaseline` with pearson_baseline in Surprise). Without such an item it is b_ui.

    `similar_items` shows these similarities: of choices at most `k`, and none of an item that shares no user with
    another. `ValueError` for another target.
    """

    weights: csr_matrix  # [j, i] is the similarity of j with i
    target: str = 'implicit'
    baseline: BiasOnly | None = None  # of ratings

    @check_arguments
    def __init__(
        self,
        k: int | None = None,  # neighbors: kept per item, of ratings used per prediction; None: 100, of ratings 40
        shrink: float = 100.0,  # users by which similarities are damped: few common users count less
        target: str = 'implicit',  # 'implicit': ranks by what users have; 'rating': predicts ratings
        damping: tuple[float, float] = (5.0, 5.0),  # of the biases of ratings, as in `BiasOnly`
    ) -> None:
        if target not in TARGETS:
            raise ValueError(f"target={target!r}: 'implicit' or 'rating'")
        self.k = whole_number((100 if target == 'implicit' else 40) if k is None else k, 'k', 'neighbors')
        self.shrink = number_from(shrink, 0, 'shrink', 'what a denominator grows by, 0 for no shrinkage')
        self.target = target
        self.damping = BiasOnly(damping).damping
        self.scale = 'rating' if target == 'rating' else 'rank'

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        res = dict(k=self.k, shrink=self.shrink)
        return res if self.target == 'implicit' else dict(**res, target=self.target, damping=self.damping)

    def fit(self, dls: HasCatalog) -> ItemKNN:
        """Learn from the training rows of `dls`; returns self.

        `ValueError` for `target='rating'` without ratings, `MemoryError` where similarities take more than half of what
        there is.
        """
        require_loaders(dls, 'ItemKNN.fit')
        if self.target == 'rating':
            self.baseline = BiasOnly(self.damping, BIAS_PASSES).fit(dls)
            residuals = Residuals(self.baseline, dls.catalog)
            self.weights = _positive_correlations(residuals.rated().transposed(), self.shrink)
        else:
            warn_of_weights(dls.catalog, 'ItemKNN')
            self.weights = _nearest_cosines(once(training_positives(dls.catalog)), self.k, self.shrink)
        self.catalog = dls.catalog
        return self

    def fold_in(self, ratings: Any, noise: float | None = None) -> ItemKNN:
        """As in `Scorer`: the new users' rows are read, and of ratings their biases worked out."""
        res: Any = super().fold_in(ratings, noise)
        if self.baseline is not None:
            res.baseline = self.baseline.for_users_of(res.catalog)
        return res

    def score_items(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of all items: codes (B,) -> (B, n_items)."""
        if self.baseline is None:
            return super().score_items(users)
        self.require_fitted()
        residuals = Residuals(self.baseline, self.catalog)
        res = self.baseline.score_items(users)
        for row, user in enumerate(np.asarray(users)):
            res[row] += self._deviations(residuals, user, None)
        return res

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores of pairs of codes: (n,), (n,) -> (n,)."""
        if self.baseline is None:
            return super().score(users, items)
        self.require_fitted()
        residuals = Residuals(self.baseline, self.catalog)
        res = self.baseline.score(users, items)
        pair_items = np.asarray(items)
        for user, pairs in pairs_of_users(np.asarray(users)):
            res[pairs] += self._deviations(residuals, user, pair_items[pairs])
        return res

    def contributions(self, user: int, item: int) -> tuple[np.ndarray, np.ndarray, float]:
        """As in `ItemWeights`; of ratings what each one adds to the biases."""
        if self.baseline is None:
            return super().contributions(user, item)
        self.require_fitted()
        residuals = Residuals(self.baseline, self.catalog)
        items, left, weights = residuals.of(user)
        shares = self._weights_of(items, np.array([item]))[0] * weights
        total = shares.sum()
        base = self.baseline.score(torch.tensor([user]), torch.tensor([item])).item()
        return items, (shares * left / total if total > 0 else shares), base

    def _deviations(self, residuals: Residuals, user: int, items: np.ndarray | None) -> torch.Tensor:
        """What the neighbors add to the biases of `items`, (n,), None: of all."""
        rated, left, weights = residuals.of(user)
        n = self.catalog.n_items if items is None else len(items)
        res: np.ndarray = np.zeros(n, np.float32)
        if not len(rated):
            return torch.from_numpy(res)
        step = max(1, COMMON // len(rated))
        for start in range(0, n, step):
            some = slice(start, start + step)
            near = self._weights_of(rated, some if items is None else items[some])
            totals = near @ weights
            res[some] = near @ (weights * left) / np.where(totals > 0, totals, 1)
        return torch.from_numpy(res)

    def _weights_of(self, rated: np.ndarray, items: np.ndarray | slice) -> np.ndarray:
        """Similarities (n, rated) of items with the rated ones, 0 but for the `k` largest (all that equal the last)."""
        near = np.ascontiguousarray(self.weights[rated][:, items].toarray().T)
        beyond = near.shape[1] - self.k
        if beyond > 0:
            last = np.partition(near, beyond, axis=1)[:, beyond]
            near[near < last[:, None]] = 0
        return near

    def _fill_nearest(self, codes: np.ndarray, scores: np.ndarray, found: np.ndarray) -> None:
        of_each = self.weights[:, codes].T.tocsr()
        of_each.sort_indices()
        rows = _row_numbers(of_each)
        order = np.lexsort((-of_each.data, rows))  # of equal ones the first
        place = np.arange(len(order)) - of_each.indptr[rows]
        kept = place < scores.shape[1]
        rows, place, order = rows[kept], place[kept], order[kept]
        scores[rows, place] = of_each.data[order]
        found[rows, place] = of_each.indices[order]


class UserKNN(Baseline):
    """User-based nearest neighbors: of choices, what similar users have; of ratings, how they rated it.

    Of choices s_ui = the sum of the similarities of u with those of the `k` nearest users who have i: cosine of the
    users' rows, shrunken (Herlocker et al. 1999; Dacrema et al. 2019). Of ratings r_ui = b_ui + sum_v s_uv w_vi
    (r_vi - b_vi) / sum_v s_uv w_vi over the `k` nearest of those who rated i, with similarities as in `ItemKNN`.

    Similarities are worked out when they are asked for, which takes as long as scoring. Users are scored from what
    others have, so that one that was saved without history answers nothing. `ValueError` for another target.
    """

    reads_history = True
    baseline: BiasOnly | None = None  # of ratings
    trained: UserKNN | None = None  # after `fold_in`: the one that it was asked of, whose users are the neighbors

    @check_arguments
    def __init__(
        self,
        k: int | None = None,  # neighbors that are used per user, of ratings per prediction; None: 100, of ratings 40
        shrink: float = 100.0,  # items by which similarities are damped: few common items count less
        target: str | None = None,  # 'implicit': ranks; 'rating': predicts ratings; None: what the loaders have
        damping: tuple[float, float] = (5.0, 5.0),  # of the biases of ratings, as in `BiasOnly`
    ) -> None:
        if target is not None and target not in TARGETS:
            raise ValueError(f"target={target!r}: 'implicit', 'rating' or None, which goes by the loaders")
        self.k = None if k is None else whole_number(k, 'k', 'neighbors')
        self.shrink = number_from(shrink, 0, 'shrink', 'what a denominator grows by, 0 for no shrinkage')
        self.target = target
        self.damping = BiasOnly(damping).damping

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return dict(k=self.k, shrink=self.shrink, target=self.target, damping=self.damping)

    def fit(self, dls: HasCatalog) -> UserKNN:
        """Keep the training rows of `dls`; returns self. `ValueError` for `target='rating'` without ratings."""
        require_loaders(dls, 'UserKNN.fit')
        catalog = dls.catalog
        inter, _ = training_rows(catalog)
        has_ratings = inter.ratings is not None and inter.weights is None and catalog.thresholds is None
        target = self.target or ('rating' if has_ratings else 'implicit')
        self.scale = 'rating' if target == 'rating' else 'rank'
        if target == 'rating':
            self.baseline = BiasOnly(self.damping, BIAS_PASSES).fit(dls)
        else:
            self.baseline = None
            warn_of_weights(catalog, 'UserKNN')
        self.catalog = catalog
        return self

    def fold_in(self, ratings: Any, noise: float | None = None) -> UserKNN:
        """As in `Scorer`: neighbors of new users are sought by their rows, and of ratings their biases worked out."""
        res: Any = super().fold_in(ratings, noise)
        res.trained = self if self.trained is None else self.trained
        if self.baseline is not None:
            res.baseline = self.baseline.for_users_of(res.catalog)
        return res

    def sources(self) -> list[Catalog]:
        """As in `Scorer`: also the catalog whose users are the neighbors."""
        return distinct([self._neighbors.catalog, *super().sources()])

    @property
    def _neighbors(self) -> UserKNN:
        """Whose users are the neighbors."""
        return self if self.trained is None else self.trained

    def score_items(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of all items: codes (B,) -> (B, n_items)."""
        return self._ranks(users) if self.baseline is None else self._ratings(users)

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores of pairs of codes: (n,), (n,) -> (n,)."""
        if self.baseline is None:
            return score_by_user(self.score_items, self.require_fitted().n_items, users, items)
        self.require_fitted()
        res = self.baseline.score(users, items)
        pair_items = np.asarray(items)
        distinct, of_pair = np.unique(np.asarray(users), return_inverse=True)
        pairs_of = dict(pairs_of_users(of_pair))
        left, weights = self._neighbors_left().matrices()
        for start, near in self._similarities(distinct):
            for row, similarities in enumerate(near, start):
                some = pair_items[pairs_of[row]]
                res[pairs_of[row]] += self._deviations(left[:, some], weights[:, some], similarities)
        return res

    def neighbors(self, codes: np.ndarray, k: int, side: str = 'user') -> tuple[np.ndarray, np.ndarray]:
        """The most similar users of users of codes (B,): similarities above 0, and codes, (B, k); -inf for fewer.

        `ValueError` for 'item', and of new users, whose neighbors are not among the users of the `catalog`.
        """
        if side != 'user':
            raise ValueError('UserKNN compares users, not items: take ItemKNN')
        k = min(k, self.require_fitted().n_users)
        if self.trained is not None:
            raise ValueError('the neighbors of new users are those of training, who are not in what fold_in returns')
        scores: np.ndarray = np.full((len(codes), k), -np.inf, np.float32)
        found: np.ndarray = np.zeros((len(codes), k), np.int64)
        for start, near in self._similarities(codes):
            best, nearest = torch.from_numpy(near).topk(k, dim=1)
            some = slice(start, start + len(near))
            scores[some], found[some] = best.where(best > 0, -torch.inf).numpy(), nearest.numpy()
        return scores, found

    def _ranks(self, users: torch.Tensor) -> torch.Tensor:
        """Sums of the similarities of neighbors, (B, n_items)."""
        self.require_fitted()
        positives = once(training_positives(self._neighbors.catalog))
        res = torch.zeros(len(users), positives.shape[1])
        beyond = positives.shape[0] - (100 if self.k is None else self.k)
        for start, near in self._similarities(np.asarray(users)):
            if beyond > 0:
                last = np.partition(near, beyond, axis=1)[:, beyond]
                near[near < last[:, None]] = 0
            res[start : start + len(near)] = dense(csr_matrix(near) @ positives)
        return res

    def _ratings(self, users: torch.Tensor) -> torch.Tensor:
        """Predicted ratings, (B, n_items)."""
        assert self.baseline is not None
        self.require_fitted()
        res = self.baseline.score_items(users)
        left, weights = self._neighbors_left().matrices()
        for start, near in self._similarities(np.asarray(users)):
            for row, similarities in enumerate(near, start):
                res[row] += self._deviations(left, weights, similarities)
        return res

    def _neighbors_left(self) -> Residuals:
        """What the biases leave of the ratings of those who may be neighbors."""
        assert self._neighbors.baseline is not None
        return Residuals(self._neighbors.baseline, self._neighbors.catalog)

    def _deviations(self, left: csr_matrix, weights: csr_matrix, similarities: np.ndarray) -> torch.Tensor:
        """What the `k` nearest who rated an item add to its bias, (n,), of items that `left` and `weights` have."""
        order = np.argsort(-similarities, kind='stable')[: np.count_nonzero(similarities)]
        of_items = left[order].tocsc()  # within each column the nearest come first
        near = similarities[order][of_items.indices] * weights[order].tocsc().data
        items = _row_numbers(of_items)
        used = np.arange(len(items)) - of_items.indptr[items] < (40 if self.k is None else self.k)
        n = left.shape[1]
        totals = np.bincount(items[used], near[used], n)
        sums = np.bincount(items[used], (near * of_items.data)[used], n)
        return torch.from_numpy((sums / np.where(totals > 0, totals, 1)).astype(np.float32))

    def _similarities(self, codes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Where a part of the users of codes (B,) begins, and their similarities, 0 or more, (b, n_users) of training.

        With oneself it is 0.
        """
        step = max(1, COMMON // (4 * self._neighbors.catalog.n_users))
        if self.baseline is None:
            positives, users = (once(training_positives(o)) for o in (self._neighbors.catalog, self.catalog))
        else:
            rated, users = self._neighbors_left().rated(), Residuals(self.baseline, self.catalog).rated()
        for start in range(0, len(codes), step):
            some = codes[start : start + step]
            if self.baseline is None:
                near = _cosines(users[some], positives, self.shrink)
            else:
                near = _correlations(users.some(some), rated, self.shrink)
            if self.trained is None:
                near[np.arange(len(some)), some] = 0
            yield start, near


# --- what ratings are beyond the biases


class Rated(NamedTuple):
    """What the biases leave of the ratings of some users (or of items), as CSR matrices of one structure."""

    values: csr_matrix  # residuals, times the root of the row's weight
    squares: csr_matrix  # of these
    ones: csr_matrix

    def some(self, rows: np.ndarray | slice) -> Rated:
        """Some rows."""
        return Rated(*(matrix[rows] for matrix in self))

    def transposed(self) -> Rated:
        """Items in the place of users."""
        return Rated(*(matrix.T.tocsr() for matrix in self))


class Residuals:
    """What biases leave of the training ratings of the users of `catalog`."""

    def __init__(self, biases: BiasOnly, catalog: Catalog) -> None:
        self.biases = biases
        history = catalog.require_history()
        inter, rows = training_rows(catalog)
        self.seen = history.seen  # ratings
        self.weights: csr_matrix | None = None  # of rows, of the structure of `seen`; None: all are 1
        if inter.row_weights is not None:
            weights = row_weights(inter, rows)
            rows, weights = rows[weights > 0], weights[weights > 0]
            self.seen = history.matrix(rows)
            self.weights = csr_matrix((weights, (inter.users[rows], inter.items[rows])), shape=self.seen.shape)

    def of(self, user: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Items that a user rated, what the biases leave of the ratings, and weights above 0, each (n,)."""
        some = slice(self.seen.indptr[user], self.seen.indptr[user + 1])
        items = self.seen.indices[some]
        biases = self.biases
        left = self.seen.data[some] - biases.mean - biases.item_biases[items] - biases.user_biases[user]
        weights = np.ones(len(items)) if self.weights is None else self.weights.data[some]
        return items, left, weights

    def matrices(self) -> tuple[csr_matrix, csr_matrix]:
        """What the biases leave of each rating, and the weights of rows: float32 CSR (n_users, n_items)."""
        seen, biases = self.seen, self.biases
        bias = biases.mean + biases.item_biases[seen.indices] + biases.user_biases[_row_numbers(seen)]
        weights = np.ones(seen.nnz) if self.weights is None else self.weights.data
        return _with_data(seen, seen.data - bias), _with_data(seen, weights)

    def rated(self) -> Rated:
        """What similarities are made of, a row for each user."""
        left, weights = self.matrices()
        values = left.data * np.sqrt(weights.data)
        return Rated(*(_with_data(left, data) for data in (values, values**2, np.ones(len(values)))))


def pairs_of_users(users: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each distinct code, and at which positions it stands."""
    order = np.argsort(users, kind='stable')
    distinct, starts = np.unique(users[order], return_index=True)
    yield from zip(distinct.tolist(), np.split(order, starts[1:]))


# --- similarities


def _cosines(x: csr_matrix, others: csr_matrix, shrink: float) -> np.ndarray:
    """Shrunken cosines of rows of ones with those of others: (B, n), (m, n) -> float32 (B, m)."""
    common = (x @ others.T).toarray()
    norms = np.sqrt(np.outer(np.diff(x.indptr), np.diff(others.indptr)).astype(np.float32))
    return np.divide(common, norms + np.float32(shrink), out=common, where=common > 0)


def _correlations(rated: Rated, others: Rated, shrink: float) -> np.ndarray:
    """Shrunken Pearson correlations above 0, else 0, of rows with those of others: float32 (B, m).

    Over the columns that both have, of residuals, whose mean counts as 0. One common column says nothing.
    """
    res = (rated.values @ others.values.T).toarray()
    squares = (rated.squares @ others.ones.T).toarray() * (rated.ones @ others.squares.T).toarray()
    beyond_one = (rated.ones @ others.ones.T).toarray() - 1
    counts = (res > 0) & (beyond_one > 0) & (squares > 0)
    np.divide(res, np.sqrt(squares), out=res, where=counts)
    np.multiply(res, beyond_one / np.where(counts, beyond_one + np.float32(shrink), 1), out=res)
    res[~counts] = 0
    return res


def _positive_correlations(rated: Rated, shrink: float) -> csr_matrix:
    """Shrunken correlations above 0 of all rows with each other, but not with themselves: float32 CSR (n, n)."""
    n = rated.ones.shape[0]
    step = max(1, COMMON // (4 * n))
    parts: list[csr_matrix] = []
    n_kept = 0
    with Progress(n, 'ItemKNN', 'items') as bar:
        for start in range(0, n, step):
            near = _correlations(rated.some(slice(start, start + step)), rated, shrink)
            rows = np.arange(len(near))
            near[rows, start + rows] = 0
            parts.append(csr_matrix(near))
            n_kept += parts[-1].nnz
            require_memory(
                BYTES_PER_WEIGHT * n_kept * n / (start + len(near)),
                f'ItemKNN of the ratings of {n:,} items, of which each is like {n_kept / (start + len(near)):,.0f},',
                'take BiasOnly or ALS, or fewer items',
                call=None,
            )
            bar.update(len(near))
    return vstack(parts).tocsr()


def _nearest_cosines(x: csr_matrix, k: int, shrink: float) -> csr_matrix:
    """[j, i]: the shrunken cosine of columns j and i of `x` (m, n), if j is among the `k` nearest of i; CSR (n, n)."""
    n_items = x.shape[1]
    step = max(1, COMMON // n_items)
    of_items = x.T.tocsr()
    norms = np.sqrt(np.asarray(x.sum(0)).ravel())
    nearest = []
    with Progress(n_items, 'ItemKNN', 'items') as bar:
        for start in range(0, n_items, step):
            common = (of_items[start : start + step] @ x).tocsr()
            rows: np.ndarray = start + _row_numbers(common)
            cosines = common.data / (norms[rows] * norms[common.indices] + shrink)
            common.data = np.where(rows == common.indices, 0, cosines)
            common.eliminate_zeros()
            nearest.append(_top_per_row(common, k))
            bar.update(common.shape[0])
    return vstack(nearest).T.tocsr()


# --- matrices


def _with_data(matrix: csr_matrix, data: np.ndarray) -> csr_matrix:
    """Other values, float32, in the places of those of a CSR matrix."""
    return csr_matrix((data.astype(np.float32), matrix.indices, matrix.indptr), shape=matrix.shape)


def _row_numbers(matrix: csr_matrix | csc_matrix) -> np.ndarray:
    """The row (of CSC the column) of each stored entry, int (nnz,)."""
    return np.repeat(np.arange(len(matrix.indptr) - 1), np.diff(matrix.indptr))


def _top_per_row(matrix: csr_matrix, k: int) -> csr_matrix:
    """CSR matrix with the `k` largest entries of each row."""
    rows = _row_numbers(matrix)
    order = np.lexsort((-matrix.data, rows))
    place = np.arange(len(order)) - matrix.indptr[rows]  # within the row: rows stay together
    keep = order[place < k]
    return csr_matrix((matrix.data[keep], (rows[keep], matrix.indices[keep])), shape=matrix.shape)
