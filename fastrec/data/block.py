"""A block of features: rows in the order of codes, sparse or dense, and which of them are there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_matrix, issparse

__all__ = ['Block']


@dataclass
class Block:
    """Rows of one kind of metadata: for n ids d columns of numbers, and for which ids anything is known.

    Rows of `values` that are not present are 0, which is not to be read as a value.
    """

    values: csr_matrix | np.ndarray  # (n, d) float32; CSR of texts, labels and categories, else an array
    present: np.ndarray  # bool (n,): is anything known?
    kind: str  # 'text', 'multilabel', 'category', 'flag', 'numeric', 'vectors' or 'images'
    names: list[str] | None = None  # of the columns, where they have any

    def __len__(self) -> int:
        return self.values.shape[0]

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.values.shape[1]

    @property
    def sparse(self) -> bool:
        """Is `values` a sparse matrix?"""
        return issparse(self.values)

    def __repr__(self) -> str:
        sparse = ' sparse' if self.sparse else ''
        return f'Block({self.kind}, {len(self):,} x {self.width:,}{sparse}, {int(self.present.sum()):,} present)'

    def rows(
        self,
        at: np.ndarray,  # places of rows, int (m,); -1: a row that is not present
    ) -> Block:
        """The rows `at` (int array), in that order; -1 gives a row that is not present."""
        at = np.asarray(at)
        ok = np.flatnonzero(at >= 0)
        if self.sparse:
            pick = csr_matrix((np.ones(len(ok), np.float32), (ok, at[ok])), shape=(len(at), len(self)))
            values = pick @ self.values  # fancy indexing has no row for -1
        else:
            values = np.zeros((len(at), self.width), np.float32)
            values[ok] = self.values[at[ok]]
        present: np.ndarray = np.zeros(len(at), bool)
        present[ok] = self.present[at[ok]]
        return replace(self, values=values, present=present)

    def unit(self) -> csr_matrix | np.ndarray:
        """`values` (n, d) with rows of length 1 where a row is a bag or a vector, so that blocks weigh alike.

        Numeric columns and flags stay as they are.
        """
        if self.kind in ('numeric', 'flag'):
            return self.values
        if not self.sparse:
            return self.values * _inverse(np.linalg.norm(self.values, axis=1))[:, None]
        res: csr_matrix = self.values.copy()
        squares = np.asarray(res.multiply(res).sum(1)).ravel()
        res.data *= np.repeat(_inverse(np.sqrt(squares)), np.diff(res.indptr))
        return res


def _inverse(norms: np.ndarray) -> np.ndarray:
    """1 / norm as float32, and 1 where a norm is 0."""
    return (1 / np.where(norms > 0, norms, 1)).astype(np.float32)
