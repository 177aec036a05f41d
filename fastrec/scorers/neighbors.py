"""Nearest neighbors: items that the same users have, users who have the same items."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, vstack

from ..progress import Progress
from .baselines import COMMON, HasCatalog, once, training_positives
from .linear import ItemWeights

__all__ = ['ItemKNN']


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
        x = once(training_positives(dls.catalog))
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


# --- matrices


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
