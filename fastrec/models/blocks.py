"""The first layer over feature blocks: rows of sparse and dense features, by code, to vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix, hstack
from torch import nn

from ..data.block import Block

__all__ = ['FeatureLinear', 'unique_rows']


class Filled:
    """What a layer remembers of `fill_absent`; it has it in common with its views (`models/view.py`)."""

    versions: tuple | None = None  # of the weights when they were last looked at


class FeatureLinear(nn.Module):
    """Linear layer over the feature rows of items (or users): codes (n,) -> x W (n, n_out).

    x are the row's blocks side by side, each of length 1 (`Block.unit`). Sparse blocks go through one weighted
    `embedding_bag` of the rows asked for, whatever the number of columns, dense ones through a matrix product: no row
    is ever densified. A block that is absent is not a zero: it adds a learned vector of its own (which starts at 0).
    Where no `known` row lacks the block there is nothing to learn that from: then it stands for the average, what the
    block adds to known rows in the mean, which is worked out whenever the module goes to eval mode. Other columns that
    no `known` row has start at 0 and, having no gradient, stay there, so that an untrained weight is never used. The
    features are buffers and no part of the state: `state_dict` has the weights only. `ValueError` without blocks, and
    where `known` has another length.
    """

    # the features: tensors, or None where no block is sparse (and absence is not learned), or none is dense
    indptr: Any  # int64 (n + 1,): with `indices` and `values` the CSR of the sparse blocks, then of what is absent
    indices: Any  # int64 (nnz,)
    values: Any  # float32 (nnz,)
    dense: Any  # float32 (n, columns): the dense blocks
    present: torch.Tensor  # bool (n, blocks)
    average: torch.Tensor  # float32 (n_columns,): the sparse columns of the average known row
    dense_average: torch.Tensor  # float32 (columns,): its dense columns

    def __init__(
        self,
        blocks: dict[str, Block],  # by name; rows in the order of codes
        n_out: int,  # length of the outputs
        known: torch.Tensor | None = None,  # bool (n,): rows with training data (None: all)
        std: float = 1.0,  # weights start as N(0, std / sqrt(number of blocks)): outputs have that variance
        absent: bool = True,  # learn a vector for each absent block
    ) -> None:
        super().__init__()
        if not blocks:
            raise ValueError('no feature blocks')
        self.names = list(blocks)
        self.absent = absent
        self.n_out = n_out
        self.penalized = False  # does the model take the L2 of the rows that come out? Then the layer has no decay
        self.sparse = False  # gradients of the columns of a batch alone, if a training loop asks (`set_gradients`)
        self.keeps_grad = False
        self.kinds = _kinds(blocks)
        self.n_absent = len(blocks) if absent else 0
        self.n_columns = sum(width for _, width, sparse in self.kinds if sparse) + self.n_absent
        for name, buffer in self._buffers_of(blocks).items():
            self.register_buffer(name, buffer, persistent=False)
        known = np.ones(len(self), bool) if known is None else np.asarray(torch.as_tensor(known).cpu())
        if len(known) != len(self):
            raise ValueError(f'known has {len(known):,} rows, the features have {len(self):,}')
        std = std / len(blocks) ** 0.5
        self.weight = None if self.indptr is None else nn.Parameter(self._first_weight(known, std))
        self.dense_weight = None if self.dense is None else nn.Parameter(self._first_dense_weight(known, std))
        present = self.present.numpy()[known]
        # blocks whose absence no known row has taught; none where nobody is known
        self.never_absent = np.flatnonzero(present.all(0)).tolist() if self.absent and len(present) else []
        self._keep_average(known)
        self._fill = Filled()

    def _keep_average(self, known: np.ndarray) -> None:
        """Buffers of the average known row, which are not part of the state."""
        n_known = max(int(known.sum()), 1)
        if self.never_absent:
            average = np.asarray(self._csr()[known].sum(0), dtype=np.float32).ravel() / n_known
            self.register_buffer('average', torch.from_numpy(average), persistent=False)
        if self.never_absent and self.dense is not None:
            dense_average = self.dense[torch.from_numpy(known)].sum(0) / n_known
            self.register_buffer('dense_average', dense_average, persistent=False)

    def _buffers_of(self, blocks: dict[str, Block]) -> dict[str, Any]:
        """The features as tensors; see the annotations of the class."""
        sparse = [b.unit() for b in blocks.values() if b.sparse]
        dense = [b.unit() for b in blocks.values() if not b.sparse]
        present = np.column_stack([b.present for b in blocks.values()])
        if self.absent:
            sparse.append(csr_matrix((~present).astype(np.float32)))
        res: dict[str, Any] = dict.fromkeys(('indptr', 'indices', 'values', 'dense'))
        if sparse:
            x = hstack(sparse, format='csr', dtype=np.float32)
            res['indptr'] = torch.from_numpy(x.indptr.astype(np.int64))
            res['indices'] = torch.from_numpy(x.indices.astype(np.int64))
            res['values'] = torch.from_numpy(x.data)
        if dense:
            res['dense'] = torch.from_numpy(np.hstack(dense).astype(np.float32))
        res['present'] = torch.from_numpy(present)
        return res

    def _first_weight(self, known: np.ndarray, std: float) -> torch.Tensor:
        """Weights (n_columns, n_out) of the sparse columns: 0 of those that no known row has, and of what is absent."""
        weight = torch.randn(self.n_columns, self.n_out) * std
        entry_known: np.ndarray = np.repeat(known, np.diff(self.indptr.numpy()))
        trained = np.bincount(self.indices.numpy()[entry_known], minlength=self.n_columns) > 0
        weight[torch.from_numpy(~trained)] = 0.0
        if self.absent:
            weight[-self.n_absent :] = 0.0
        return weight

    def _first_dense_weight(self, known: np.ndarray, std: float) -> torch.Tensor:
        """Weights of the dense columns (columns, n_out), the smaller the longer the known rows are."""
        weight = torch.randn(self.dense.shape[1], self.n_out)
        length = float(self.dense[torch.from_numpy(known)].square().sum(1).mean()) ** 0.5
        return weight * std / max(1.0, length)

    def __len__(self) -> int:
        return len(self.present)

    # --- the features themselves

    def columns(self) -> list[slice]:
        """The columns of each block, among the sparse or the dense ones."""
        start = {True: 0, False: 0}  # of the next sparse or dense block
        res = []
        for _, width, sparse in self.kinds:
            res.append(slice(start[sparse], start[sparse] + width))
            start[sparse] += width
        return res

    def blocks(self) -> dict[str, Block]:
        """The features as they were given: name -> `Block`, rows of length 1."""
        sparse_values: Any = None if self.indptr is None else self._csr()
        res = {}
        for i, (name, (kind, _, sparse), columns) in enumerate(zip(self.names, self.kinds, self.columns())):
            values = sparse_values[:, columns] if sparse else self.dense[:, columns].cpu().numpy()
            res[name] = Block(values, self.present[:, i].cpu().numpy(), kind)
        return res

    def _csr(self) -> csr_matrix:
        """The sparse blocks side by side, (n, n_columns)."""
        parts = tuple(o.cpu().numpy() for o in (self.values, self.indices, self.indptr))
        return csr_matrix(parts, shape=(len(self), self.n_columns))

    def add_rows(
        self,
        blocks: dict[str, Block],  # features of the further ids by name, (n_new, columns) each
    ) -> None:
        """Append rows: the same blocks of further ids; `ValueError` where they are others.

        Columns that the training rows did not have, the weights know nothing of, and they add 0.
        """
        if list(blocks) != self.names or _kinds(blocks) != self.kinds:
            widths = [width for _, width, _ in self.kinds]
            raise ValueError(
                f'the model reads the blocks {self.names}, of {widths} columns; '
                f'got {list(blocks)}, of {[b.width for b in blocks.values()]}'
            )
        for name, new in self._buffers_of(blocks).items():
            old = self._buffers[name]
            if old is None:
                continue
            new = new.to(old.device)
            if name == 'indptr':  # goes on where it ended
                new = new + old[-1]
                old = old[:-1]
            setattr(self, name, torch.cat([old, new]))

    # --- what is absent, and never was in training

    def train(
        self,
        mode: bool = True,  # True: for training; False: to be read
    ) -> FeatureLinear:
        """As of any module; on the way to eval mode absent blocks are given their average."""
        super().train(mode)
        if not mode and self.never_absent and self._fill.versions != self._versions():
            self.fill_absent()
        return self

    def _of_absence(self) -> torch.Tensor:
        """What the absence of each block adds: (blocks, n_out), the last rows of the weight themselves."""
        assert self.weight is not None  # absence has columns there
        return self.weight[-self.n_absent :].detach()

    def _versions(self) -> tuple:
        """What changes when the weights do."""
        return tuple(p._version for p in self.parameters())

    @torch.no_grad()
    def fill_absent(self) -> None:
        """Let the absence of each block that no known row lacks add what the block adds to known rows in the mean.

        It is written as `data`, which a backward pass that is under way does not take for a change.
        """
        columns = self.columns()
        of_absence = self._of_absence()
        for i in self.never_absent:
            is_sparse = self.kinds[i][2]
            weight = self.weight if is_sparse else self.dense_weight
            average = self.average if is_sparse else self.dense_average
            assert weight is not None  # the block has columns there
            of_absence.data[i] = average[columns[i]] @ weight[columns[i]]
        self._fill.versions = self._versions()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """As of any module; averages that come with the weights stay, for rows that were known are not told apart."""
        super()._load_from_state_dict(*args, **kwargs)
        if self.never_absent and self._of_absence()[self.never_absent].any():
            self._fill.versions = self._versions()

    # --- the layer

    def forward(
        self,
        codes: torch.Tensor | None = None,  # int64 (n,); None: all rows
    ) -> torch.Tensor:
        """Codes (n,), or None for all rows -> (n, n_out)."""
        res = None
        if self.weight is not None:
            indices, values, offsets = self._entries(codes)
            sparse_grad = self.sparse and codes is not None
            res = F.embedding_bag(
                indices, self.weight, offsets, mode='sum', per_sample_weights=values, sparse=sparse_grad
            )
        if self.dense_weight is not None:
            x = self.dense if codes is None else self.dense[codes]
            res = x @ self.dense_weight if res is None else torch.addmm(res, x, self.dense_weight)
        return res

    def _entries(self, codes: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Columns and values of the entries of the rows asked for, and where each row begins among them."""
        if codes is None:
            return self.indices, self.values, self.indptr[:-1]
        start = self.indptr[codes]
        n = self.indptr[codes + 1] - start
        offsets = n.cumsum(0) - n
        at = torch.repeat_interleave(start - offsets, n)
        at += torch.arange(len(at), device=at.device)
        return self.indices[at], self.values[at], offsets

    def extra_repr(self) -> str:
        """Names of the blocks and numbers of columns."""
        n_sparse = 0 if self.weight is None else self.n_columns - self.n_absent
        n_dense = 0 if self.dense is None else self.dense.shape[1]
        return f'{", ".join(self.names)}: {n_sparse:,} sparse + {n_dense:,} dense columns, n_out={self.n_out}'


def _kinds(blocks: dict[str, Block]) -> list[tuple[str, int, bool]]:
    """Kind, width and sparsity of each block."""
    return [(b.kind, b.width, b.sparse) for b in blocks.values()]


def unique_rows(
    function: Callable[[torch.Tensor], torch.Tensor],  # rows of codes: (n,) -> (n, d)
    codes: torch.Tensor,  # int64, any shape
) -> torch.Tensor:
    """`function(codes)`, (n,) -> (n, d), worked out once for each distinct code and handed to all places.

    Codes (...) -> (..., d).
    """
    unique, at = torch.unique(codes, return_inverse=True)
    return F.embedding(at, function(unique))
