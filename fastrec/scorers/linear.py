"""Scores that are what a user has times a matrix of item-item weights: the contract of such, and EASE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.linalg import get_lapack_funcs
from scipy.sparse import csr_matrix, issparse

from ..keywords import check_arguments
from ..memory import require_memory
from ..progress import Progress
from .baselines import (
    COMMON,
    Baseline,
    HasCatalog,
    gram,
    number_from,
    once,
    require_loaders,
    training_positives,
    warn_of_weights,
)
from .carried import Explainer, SumOfHistory
from .recommend import MEMORY_BUDGET

__all__ = ['EASE']

LONG = 4096  # items from which on an inverse takes seconds
BYTES_PER_COUNT = 16  # of them, sparse and dense
MIRRORED = 1024  # rows of a symmetric matrix that are completed at a time
DOUBLE_UP_TO = 8192  # items up to which EASE inverts in float64


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
        x = once(training_positives(self.require_fitted())[np.asarray(users)])
        return dense(x @ self.weights)

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores of pairs of codes: (n,), (n,) -> (n,)."""
        return score_by_user(self.score_items, self.require_fitted().n_items, users, items)

    def contributions(
        self,
        user: int,  # code of the user
        item: int,  # code of the item
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """What each item that a user has adds to the score of a pair of codes: codes and numbers (n,), and the rest.

        The numbers and the rest sum to the score.
        """
        has = training_positives(self.require_fitted())[[user]].indices
        return has, _column(self.weights, item)[has], 0.0

    def explainer(self) -> Explainer:
        """As in `Scorer`: scores are sums."""
        return SumOfHistory(self)

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
        return dense(self.weights)

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
        scores = dense(x @ self.weights)[0]
        return scores.where(scores != 0, -torch.inf)


class EASE(ItemWeights):
    """Embarrassingly shallow autoencoder (Steck 2019): the matrix regressed on itself, in closed form.

    A ridge regression with a zero diagonal: W = I - P diag(1 / diag P), P = (X'X + l2 I)^-1, in float32 above 8,192
    items (as float64 for less). The matrix is made, inverted and scaled in one place: memory is that of one
    (n_items, n_items) matrix of 4 bytes a value (of 12 up to 8,192 items) and some 300 MiB, 17 GB for 64,000 items.
    """

    weights: np.ndarray
    budget: int | None = None  # of the machine, no setting of what is learned
    not_saved: ClassVar[tuple] = (*ItemWeights.not_saved, 'budget')

    @check_arguments
    def __init__(
        self,
        l2: float = 500.0,  # ridge penalty, in users: what is added to the count of each item
        budget: int | None = None,  # bytes that fitting may take; None: half of the memory that is available
    ) -> None:
        self.l2 = number_from(l2, 0, 'l2', 'a ridge penalty')
        self.budget = budget

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return dict(l2=self.l2)

    def fit(self, dls: HasCatalog) -> EASE:
        """Learn from the training positives of `dls`; returns self. `MemoryError`, at once, beyond the budget.

        `ValueError` where `l2` is too small for an inverse.
        """
        require_loaders(dls, 'EASE.fit')
        n = dls.catalog.n_items
        dtype: type = np.float64 if n <= DOUBLE_UP_TO else np.float32
        self._require_memory(n, dtype)
        warn_of_weights(dls.catalog, 'EASE')
        self.catalog = dls.catalog
        matrix = gram(once(training_positives(dls.catalog)), dtype)
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


def score_by_user(
    score_items: Callable[[torch.Tensor], torch.Tensor],  # codes of users (B,) -> scores of all items (B, n_items)
    n_items: int,
    users: torch.Tensor,
    items: torch.Tensor,
) -> torch.Tensor:
    """Scores of pairs of codes, (n,), (n,) -> (n,), where one score of a user costs as much as those of all items."""
    distinct, of_pair = np.unique(np.asarray(users), return_inverse=True)
    pair_items = np.asarray(items)
    res = torch.zeros(len(pair_items))
    step = max(1, MEMORY_BUDGET // (16 * n_items))
    for start in range(0, len(distinct), step):
        scores = score_items(torch.from_numpy(distinct[start : start + step]))
        pairs = np.flatnonzero((of_pair >= start) & (of_pair < start + step))
        res[pairs] = scores[of_pair[pairs] - start, pair_items[pairs]]
    return res


# --- matrices


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


def _column(matrix: csr_matrix | np.ndarray, number: int) -> np.ndarray:
    """A column of a sparse or dense matrix, dense (n,)."""
    if isinstance(matrix, np.ndarray):
        return matrix[:, number]
    return matrix[:, [number]].toarray()[:, 0]


def dense(matrix: Any) -> torch.Tensor:
    """A sparse or dense matrix as a dense float32 tensor."""
    dense = matrix.toarray() if issparse(matrix) else matrix
    return torch.from_numpy(np.asarray(dense, dtype=np.float32))
