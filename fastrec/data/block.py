"""A block of features: rows in the order of codes, sparse or dense, and which of them are there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_matrix, issparse

__all__ = ['Block']


@dataclass
class Block:
    """Rows of one kind of metadata.

    `values` (n, d) float32, a CSR matrix (text as TF-IDF, multilabel, category) or an array (flag, numeric, vectors, images); `present` bool (n,): is anything known?
    The other rows are 0 in `values`, which is not to be read as a value. `names` of the columns, where they have any.
    """

    values: object
    present: np.ndarray
    kind: str
    names: list = None

    def __len__(self):
        return self.values.shape[0]

    @property
    def width(self) -> int:
        return self.values.shape[1]

    @property
    def sparse(self) -> bool:
        return issparse(self.values)

    def __repr__(self):
        return f'Block({self.kind}, {len(self):,} x {self.width:,}{" sparse" if self.sparse else ""}, {int(self.present.sum()):,} present)'

    def rows(self, at) -> Block:
        """The rows `at` (int array), in that order; -1 gives a row that is not present."""
        at = np.asarray(at)
        ok = np.flatnonzero(at >= 0)
        if self.sparse:
            values = csr_matrix((np.ones(len(ok), np.float32), (ok, at[ok])), shape=(len(at), len(self))) @ self.values
        else:
            values = np.zeros((len(at), self.width), np.float32)
            values[ok] = self.values[at[ok]]
        present = np.zeros(len(at), bool)
        present[ok] = self.present[at[ok]]
        return replace(self, values=values, present=present)

    def unit(self):
        """`values` with rows of length 1 where a row is a bag or a vector (numeric columns and flags stay as they are), so that blocks weigh alike."""
        if self.kind in ('numeric', 'flag'):
            return self.values
        norms = (
            np.sqrt(np.asarray(self.values.multiply(self.values).sum(1)).ravel())
            if self.sparse
            else np.linalg.norm(self.values, axis=1)
        )
        scale = (1 / np.where(norms > 0, norms, 1)).astype(np.float32)
        if not self.sparse:
            return self.values * scale[:, None]
        res = self.values.copy()
        res.data *= np.repeat(scale, np.diff(res.indptr))
        return res
