"""Baselines every model has to beat: `Scorer`s that need no training loop."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from scipy.linalg import get_lapack_funcs
from scipy.sparse import csr_matrix, issparse, vstack

from ..data.catalog import Catalog
from ..data.interactions import Interactions
from ..memory import require_memory
from ..progress import Progress
from .recommend import MEMORY_BUDGET
from .scorer import Scorer

__all__ = ['EASE', 'IALS', 'Baseline', 'BiasOnly', 'GlobalMean', 'ItemKNN', 'Popularity']

LONG = 4096  # items from which on an inverse takes seconds
COMMON = 2**24  # counts of common users that are held at a time, at most
BYTES_PER_COUNT = 16  # of them, sparse and dense
MIRRORED = 1024  # rows of a symmetric matrix that are completed at a time
DOUBLE_UP_TO = 8192  # items up to which EASE inverts in float64


@runtime_checkable
class HasCatalog(Protocol):
    """Loaders, as far as a baseline reads them."""

    @property
    def catalog(self) -> Catalog:
        """Who and what there is, with its history."""
        ...


class Baseline(Scorer):
    """A scorer that is made with its settings and then fitted in one call: `EASE(l2=200).fit(dls)`.

    A subclass writes `fit`, `score`, `score_items`, and `config` if its constructor takes arguments.
    """

    def fit(self, dls: HasCatalog) -> Baseline:
        """Learn from the training rows of loaders and keep their `catalog`; returns self.

        `ValueError` where the loaders lack what it learns from.
        """
        raise NotImplementedError(f'{type(self).__name__} has no fit(dls)')

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor that make one like it, not fitted."""
        return {}

    def __repr__(self) -> str:
        settings = ', '.join(f'{name}={value!r}' for name, value in self.config().items())
        return f'{type(self).__name__}({settings})'


class BiasOnly(Baseline):
    """Damped biases: score = mean + b_i + b_u, where b_i and b_u are shrunken mean residuals.

    b_i = sum(r - mean) / (damping_i + n_i), then b_u = sum(r - mean - b_i) / (damping_u + n_u): Koren 2010, 'Factor in
    the Neighbors', section 2.1 (its decoupled estimates). Cold users and items have bias 0.
    """

    scale = 'rating'

    def __init__(
        self,
        damping: tuple[float, float] = (5.0, 10.0),  # rows of (users, items) that count for: all are average
    ) -> None:
        if not all(0 <= rows < np.inf for rows in damping):
            raise ValueError(f'damping={damping}: numbers of rows, 0 for no shrinkage')
        self.damping = damping

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return dict(damping=self.damping)

    def fit(self, dls: HasCatalog) -> BiasOnly:
        """Learn from the training rows of `dls`; returns self. `ValueError` if they have no ratings."""
        catalog = self.catalog = dls.catalog
        inter, rows = training_rows(catalog)
        if inter.ratings is None:
            raise ValueError(f'{type(self).__name__} predicts ratings, and the table has none')
        ratings = inter.ratings[rows].astype(np.float64)
        self.mean = ratings.mean()
        self.item_biases, self.user_biases = self._biases(
            inter.users[rows], inter.items[rows], ratings - self.mean, catalog
        )
        return self

    def _biases(self, users, items, residuals, catalog: Catalog) -> tuple[np.ndarray, np.ndarray]:
        """Biases of items (n_items,) and of users (n_users,) from what the mean leaves of each row."""
        user_damping, item_damping = self.damping
        item_biases = _damped_means(items, residuals, item_damping, catalog.n_items)
        residuals = residuals - item_biases[items]
        return item_biases, _damped_means(users, residuals, user_damping, catalog.n_users)

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Predicted ratings of pairs of codes: (n,), (n,) -> (n,)."""
        ratings = self.mean + self.user_biases[np.asarray(users)] + self.item_biases[np.asarray(items)]
        return torch.from_numpy(np.asarray(ratings, dtype=np.float32))

    def score_items(self, users: torch.Tensor) -> torch.Tensor:
        """Predicted ratings of all items: codes (B,) -> (B, n_items)."""
        ratings = self.mean + self.user_biases[np.asarray(users)][:, None] + self.item_biases
        return torch.from_numpy(ratings.astype(np.float32))


class GlobalMean(BiasOnly):
    """The mean training rating for every pair."""

    def config(self) -> dict[str, Any]:
        """Nothing: there are no biases to damp."""
        return {}

    def _biases(self, users, items, residuals, catalog: Catalog) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(catalog.n_items), np.zeros(catalog.n_users)


class Popularity(Baseline):
    """Score = number of training rows of the item (of implicit feedback: sum of weights), the same for every user."""

    scale = 'rank'

    def fit(self, dls: HasCatalog) -> Popularity:
        """Count the training rows of `dls`; returns self."""
        self.catalog = dls.catalog
        counts = np.asarray(_positives(dls.catalog).sum(0)).ravel()
        self.scores = torch.from_numpy(counts.astype(np.float32))
        return self

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores of pairs of codes: (n,), (n,) -> (n,)."""
        return self.scores[torch.as_tensor(items)]

    def score_items(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of all items: codes (B,) -> (B, n_items)."""
        return self.scores.repeat(len(users), 1)


class ItemWeights(Baseline):
    """Scores of what a user has, times a matrix of item-item weights: s_u = x_u W, x_u 1 at training positives.

    Every positive counts once: counts of plays or repeated clicks have long tails, in which a few rows would drown the
    rest.
    """

    scale = 'rank'
    reads_history = True
    weights: csr_matrix | np.ndarray  # (n_items, n_items)

    def score_items(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of all items: codes (B,) -> (B, n_items)."""
        positives = self.require_fitted().require_history().positives
        x = _once(positives[np.asarray(users)])
        return _dense(x @ self.weights)

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores of pairs of codes: (n,), (n,) -> (n,)."""
        distinct, of_pair = np.unique(np.asarray(users), return_inverse=True)
        pair_items = np.asarray(items)
        res = torch.zeros(len(pair_items))
        step = max(1, MEMORY_BUDGET // (16 * self.require_fitted().n_items))
        for start in range(0, len(distinct), step):
            scores = self.score_items(torch.from_numpy(distinct[start : start + step]))
            pairs = np.flatnonzero((of_pair >= start) & (of_pair < start + step))
            res[pairs] = scores[of_pair[pairs] - start, pair_items[pairs]]
        return res

    def vectors(self, side: str = 'item') -> torch.Tensor:
        """Rows of the item-item weights, (n_items, n_items): items are similar if they speak for the same others.

        `ValueError` for 'user'.
        """
        self._require_items(side)
        n = self.require_fitted().n_items
        if issparse(self.weights):
            name = type(self).__name__
            require_memory(
                4 * n * n,
                f'a dense table of the weights of {name}, {n:,} x {n:,},',
                f"take {name}'s own verbs (similar_items, baskets, item_graph), which read the neighbors alone",
                call=None,
            )
        return _dense(self.weights)

    def _require_items(self, side: str) -> None:
        if side != 'item':
            raise ValueError(f'{type(self).__name__} has no vectors of users')

    def neighbors(self, codes: np.ndarray, k: int, side: str = 'item') -> tuple[np.ndarray, np.ndarray]:
        """What speaks most for each item of codes (B,), that is who has them: weights above 0, and codes, (B, k).

        These are the numbers that scores are made of, W[:, i]; -inf where there are fewer. `ValueError` for 'user'.
        """
        self._require_items(side)
        k = min(k, self.require_fitted().n_items)
        scores: np.ndarray = np.full((len(codes), k), -np.inf, np.float32)
        found: np.ndarray = np.zeros((len(codes), k), np.int64)
        step = max(1, COMMON // self.catalog.n_items)
        for start in range(0, len(codes), step):
            some = slice(start, start + step)
            self._fill_nearest(codes[some], scores[some], found[some])
        return scores, found

    def _fill_nearest(self, codes: np.ndarray, scores: np.ndarray, found: np.ndarray) -> None:
        """Write weights above 0 and codes of the nearest into (B, k), in place."""
        weights, nearest = torch.from_numpy(self.weights[:, codes].T).topk(scores.shape[1], dim=1)
        scores[:] = weights.where(weights > 0, -torch.inf).numpy()
        found[:] = nearest.numpy()

    def basket_scores(self, codes: np.ndarray) -> torch.Tensor:
        """What a user who has just the items of codes (n,) is scored: (n_items,); -inf where nothing speaks for it."""
        n_items = self.require_fitted().n_items
        ones: np.ndarray = np.ones(len(codes), np.float32)
        x = csr_matrix((ones, (np.zeros_like(codes), codes)), shape=(1, n_items))
        scores = _dense(x @ self.weights)[0]
        return scores.where(scores != 0, -torch.inf)


class ItemKNN(ItemWeights):
    """Item-based nearest neighbors: cosine of the items' columns, shrunken, each item keeping its `k` nearest.

    Deshpande and Karypis 2004; shrinkage as in Dacrema et al. 2019. `similar_items` shows these neighbors with these
    cosines: at most `k` rows, and none of an item that shares no user with another.
    """

    weights: csr_matrix  # [j, i] is the cosine of j among the nearest of i

    def __init__(
        self,
        k: int = 100,  # neighbors kept per item
        shrink: float = 100.0,  # added to the denominator of the cosine: few common users count less
    ) -> None:
        if not 1 <= k < np.inf or int(k) != k:
            raise ValueError(f'k={k}: a whole number of neighbors, of at least one')
        if not 0 <= shrink < np.inf:
            raise ValueError(f'shrink={shrink}: what a denominator grows by, 0 for no shrinkage')
        self.k = int(k)
        self.shrink = shrink

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return dict(k=self.k, shrink=self.shrink)

    def fit(self, dls: HasCatalog) -> ItemKNN:
        """Learn from the training positives of `dls`; returns self."""
        self.catalog = dls.catalog
        x = _once(_positives(dls.catalog))
        n_items = x.shape[1]
        step = max(1, COMMON // n_items)
        of_items = x.T.tocsr()
        norms = np.sqrt(np.asarray(x.sum(0)).ravel())
        nearest = []
        with Progress(n_items, 'ItemKNN', 'items') as bar:
            for start in range(0, n_items, step):
                common = (of_items[start : start + step] @ x).tocsr()
                nearest.append(_top_per_row(self._cosines(common, start, norms), self.k))
                bar.update(common.shape[0])
        self.weights = vstack(nearest).T.tocsr()
        return self

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

    def _cosines(self, common: csr_matrix, start: int, norms: np.ndarray) -> csr_matrix:
        """Shrunken cosines in place of counts of common users, rows from item `start` on; none with itself."""
        rows: np.ndarray = start + _row_numbers(common)
        cosines = common.data / (norms[rows] * norms[common.indices] + self.shrink)
        common.data = np.where(rows == common.indices, 0, cosines)
        common.eliminate_zeros()
        return common


class EASE(ItemWeights):
    """Embarrassingly shallow autoencoder (Steck 2019): the matrix regressed on itself, in closed form.

    A ridge regression with a zero diagonal: W = I - P diag(1 / diag P), P = (X'X + l2 I)^-1, in float32 above 8,192
    items (as float64 for less). The matrix is made, inverted and scaled in one place: memory is that of one
    (n_items, n_items) matrix of 4 bytes a value (of 12 up to 8,192 items) and some 300 MiB, 17 GB for 64,000 items.
    """

    weights: np.ndarray
    budget: int | None = None  # of the machine, no setting of what is learned
    not_saved: ClassVar[tuple] = (*ItemWeights.not_saved, 'budget')

    def __init__(
        self,
        l2: float = 500.0,  # ridge penalty, in users: what is added to the count of each item
        budget: int | None = None,  # bytes that fitting may take; None: half of the memory that is available
    ) -> None:
        self.l2 = l2
        self.budget = budget

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return dict(l2=self.l2)

    def fit(self, dls: HasCatalog) -> EASE:
        """Learn from the training positives of `dls`; returns self. `MemoryError`, at once, beyond the budget."""
        n = dls.catalog.n_items
        dtype: type = np.float64 if n <= DOUBLE_UP_TO else np.float32
        self._require_memory(n, dtype)
        self.catalog = dls.catalog
        matrix = gram(_once(_positives(dls.catalog)), dtype)
        diagonal = np.arange(n)
        matrix[diagonal, diagonal] += self.l2
        with Progress(None, f'EASE: inverse of {n:,} x {n:,}', at_once=n > LONG):
            if not _invert(matrix):
                raise ValueError(f'l2={self.l2}: the matrix has no inverse. Take a larger ridge, such as l2=500')
        matrix /= -np.diag(matrix).copy()
        matrix[diagonal, diagonal] = 0
        self.weights = matrix.astype(np.float32, copy=False)
        return self

    def _require_memory(self, n: int, dtype: type) -> None:
        """`MemoryError` if fitting `n` items takes more than the budget."""
        per_value = 4 if dtype is np.float32 else 12  # float64, and a copy in float32
        require_memory(
            per_value * n * n + BYTES_PER_COUNT * min(COMMON, n * n),
            f'EASE over {n:,} items',
            'take ItemKNN, whose neighbors are sparse, or fewer items',
            self.budget,
            f'EASE(l2={self.l2}, {{}})',
        )


class IALS(Baseline):
    """Alternating least squares on implicit feedback (Hu, Koren and Volinsky 2008).

    Through the `implicit` library (an extra); arguments go to its `AlternatingLeastSquares`.
    """

    scale = 'rank'

    def __init__(
        self,
        factors: int = 64,  # length of the vectors
        regularization: float = 0.05,  # L2 of the vectors
        iterations: int = 15,  # passes over users and items
        random_state: int = 0,  # seed of the start
        **kwargs,  # further ones, such as alpha
    ) -> None:
        self.options = dict(
            factors=factors, regularization=regularization, iterations=iterations, random_state=random_state, **kwargs
        )

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return dict(self.options)

    def fit(self, dls: HasCatalog) -> IALS:
        """Learn from the training positives of `dls`; returns self. `ImportError` without the library."""
        try:
            from implicit.als import AlternatingLeastSquares
        except ImportError as e:
            raise ImportError("IALS needs the library implicit: pip install 'fastrec-learn[implicit]'") from e
        self.catalog = dls.catalog
        model = AlternatingLeastSquares(use_gpu=False, **self.options)
        with Progress(model.iterations, 'iALS', 'iterations') as bar:
            model.fit(_positives(dls.catalog), show_progress=False, callback=lambda *_: bar.update())
        self.user_factors = torch.from_numpy(np.asarray(model.user_factors))
        self.item_factors = torch.from_numpy(np.asarray(model.item_factors))
        return self

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores of pairs of codes: (n,), (n,) -> (n,)."""
        return (self.user_factors[torch.as_tensor(users)] * self.item_factors[torch.as_tensor(items)]).sum(1)

    def score_items(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of all items: codes (B,) -> (B, n_items)."""
        return self.user_factors[torch.as_tensor(users)] @ self.item_factors.T

    def ranker(self) -> ProductRanker:
        """As in `Scorer`."""
        return ProductRanker(self.user_factors, self.item_factors)

    def vectors(self, side: str = 'item') -> torch.Tensor:
        """Factors, (n, factors), of 'user' or 'item'."""
        return self.item_factors if side == 'item' else self.user_factors


class ProductRanker:
    """Products of vectors of users with those of all items, each call into the memory of the last (`Scorer.ranker`)."""

    def __init__(
        self,
        user_vectors: torch.Tensor,  # (n_users, d)
        item_vectors: torch.Tensor,  # (n_items, d)
    ) -> None:
        self.user_vectors = user_vectors
        self.items = item_vectors.T
        self.device = item_vectors.device
        self.scores = torch.empty(0, len(item_vectors))

    def __call__(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of all items for codes of users: (B,) -> (B, n_items), overwritten by the next call."""
        n = len(users)
        if len(self.scores) < n:
            self.scores = torch.empty(n, self.items.shape[1])
        return torch.mm(self.user_vectors[torch.as_tensor(users)], self.items, out=self.scores[:n])


def training_rows(catalog: Catalog) -> tuple[Interactions, np.ndarray]:
    """The checked rows and which of them are for training, int (n,); `ValueError` where they did not travel."""
    history = catalog.require_history()
    assert history.interactions is not None and history.split is not None  # rows are what `require_history` is for
    return history.interactions, history.split.train


# --- matrices


def _positives(catalog: Catalog) -> csr_matrix:
    """Training positives (n_users, n_items), float32 CSR: weights of implicit feedback, 1 for each row of ratings."""
    positives = catalog.require_history().positives
    inter, _ = training_rows(catalog)
    return _once(positives) if inter.weights is None else positives


def gram(x: csr_matrix, dtype: type) -> np.ndarray:
    """X'X of a sparse matrix (m, n), dense (n, n), made of some rows at a time."""
    n = x.shape[1]
    res: np.ndarray = np.empty((n, n), dtype)
    of_columns = x.T.tocsr()
    step = max(1, COMMON // n)
    for start in range(0, n, step):
        res[start : start + step] = (of_columns[start : start + step] @ x).toarray()
    return res


def _invert(matrix: np.ndarray) -> bool:
    """Put the inverse of a symmetric, positive definite matrix (n, n) into its place; False: it is not definite.

    By Cholesky's factors, which LAPACK writes over what it reads: over the lower half of the transpose, which lies in
    memory as it wants it.
    """
    factorize, invert = get_lapack_funcs(('potrf', 'potri'), (matrix,))
    factor, failed = factorize(matrix.T, lower=True, clean=False, overwrite_a=True)
    pivots = np.diag(factor) ** 2
    failed = failed or pivots.min() <= 4 * np.finfo(matrix.dtype).eps * pivots.max()  # nothing but rounding is left
    if not failed:
        factor, failed = invert(factor, lower=True, overwrite_c=True)
    if failed:
        return False
    assert np.shares_memory(factor, matrix)
    for start in range(0, len(matrix), MIRRORED):
        end = start + MIRRORED
        matrix[start:end, :start] = matrix[:start, start:end].T
        block = matrix[start:end, start:end]
        block[:] = np.triu(block) + np.triu(block, 1).T
    return True


def _once(x: csr_matrix) -> csr_matrix:
    """CSR `x` with 1 for every entry."""
    return csr_matrix((np.ones_like(x.data), x.indices, x.indptr), shape=x.shape)


def _dense(matrix: Any) -> torch.Tensor:
    """A sparse or dense matrix as a dense float32 tensor."""
    dense = matrix.toarray() if issparse(matrix) else matrix
    return torch.from_numpy(np.asarray(dense, dtype=np.float32))


def _row_numbers(matrix: csr_matrix) -> np.ndarray:
    """The row of each stored entry of a CSR matrix, int (nnz,)."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def _top_per_row(matrix: csr_matrix, k: int) -> csr_matrix:
    """CSR matrix with the `k` largest entries of each row."""
    rows = _row_numbers(matrix)
    order = np.lexsort((-matrix.data, rows))
    place = np.arange(len(order)) - matrix.indptr[rows]  # within the row: rows stay together
    keep = order[place < k]
    return csr_matrix((matrix.data[keep], (rows[keep], matrix.indices[keep])), shape=matrix.shape)


def _damped_means(codes: np.ndarray, values: np.ndarray, damping: float, n: int) -> np.ndarray:
    """Mean of `values` by code, (n,), as if each code had `damping` more rows of value 0; 0 for a code without rows."""
    counts = np.bincount(codes, minlength=n)
    return np.bincount(codes, values, n) / np.where(counts > 0, counts + damping, 1)
