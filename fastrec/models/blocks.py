"""The first layer over feature blocks: rows of sparse and dense features, by code, to vectors."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix, hstack
from torch import nn

from ..data.block import Block

__all__ = ['FeatureLinear', 'unique_rows']


class FeatureLinear(nn.Module):
    """Linear layer over the feature rows of items (or users): codes (n,) -> x W (n, n_out), x the row's blocks side by side, each of length 1 (`Block.unit`).

    Sparse blocks go through one weighted `embedding_bag` of the rows asked for, whatever the number of columns, dense ones through a matrix product: no row is ever
    densified. A block that is absent is no zero: it adds a learned vector of its own (which starts at 0). Columns that no `known` row has start at 0 and, having no gradient, stay
    there, so that an untrained weight is never used. The features are buffers and no part of the state: `state_dict` has the weights only.
    """

    def __init__(
        self,
        blocks: dict,  # name -> `Block` (values, present), rows in the order of codes
        n_out: int,
        known: torch.Tensor = None,  # bool (n,): rows with training data (None: all)
        std: float = 1.0,  # weights start as N(0, std / sqrt(number of blocks)): outputs have that variance
        absent: bool = True,  # learn a vector for each absent block
    ):
        super().__init__()
        if not blocks:
            raise ValueError('no feature blocks')
        self.names, self.absent, self.n_out = list(blocks), absent, n_out
        self.penalised = (
            False  # does the model take the L2 of the rows that come out? Then there is no weight decay of the layer
        )
        self.kinds = [(b.kind, b.width, b.sparse) for b in blocks.values()]
        for name, buffer in self._buffers_of(blocks).items():
            self.register_buffer(name, buffer, persistent=False)
        known = np.ones(len(self), bool) if known is None else np.asarray(torch.as_tensor(known).cpu())
        if len(known) != len(self):
            raise ValueError(f'known has {len(known):,} rows, the features have {len(self):,}')
        std = std / len(blocks) ** 0.5
        self.n_absent = len(blocks) if absent else 0
        self.sparse = self.keeps_grad = (
            False  # gradients of the columns of a batch alone, if a training loop asks for them (`set_gradients`)
        )
        if self.indptr is not None:
            weight = torch.randn(self.n_columns, n_out) * std
            rows = np.repeat(known, np.diff(self.indptr.numpy()))
            trained = np.bincount(self.indices.numpy()[rows], minlength=self.n_columns) > 0
            weight[torch.from_numpy(~trained)] = 0.0
            if absent:
                weight[-self.n_absent :] = 0.0
            self.weight = nn.Parameter(weight)
        else:
            self.weight = None
        self.dense_weight = (
            None
            if self.dense is None
            else nn.Parameter(
                torch.randn(self.dense.shape[1], n_out)
                * std
                / max(1.0, float(self.dense[torch.from_numpy(known)].square().sum(1).mean()) ** 0.5)
            )
        )

    def _buffers_of(self, blocks):
        sparse, dense = (
            [b.unit() for b in blocks.values() if b.sparse],
            [b.unit() for b in blocks.values() if not b.sparse],
        )
        present = np.column_stack([b.present for b in blocks.values()])
        if self.absent:
            sparse.append(csr_matrix((~present).astype(np.float32)))
        res = dict(
            indptr=None,
            indices=None,
            values=None,
            dense=torch.from_numpy(np.hstack(dense).astype(np.float32)) if dense else None,
            present=torch.from_numpy(present),
        )
        if sparse:
            x = hstack(sparse, format='csr', dtype=np.float32)
            self.n_columns = x.shape[1]
            res.update(
                indptr=torch.from_numpy(x.indptr.astype(np.int64)),
                indices=torch.from_numpy(x.indices.astype(np.int64)),
                values=torch.from_numpy(x.data),
            )
        return res

    def __len__(self):
        return len(self.present)

    def blocks(self) -> dict:
        """The features as they were given: name -> `Block`, rows of length 1."""
        x = (
            None
            if self.indptr is None
            else csr_matrix(
                tuple(o.cpu().numpy() for o in (self.values, self.indices, self.indptr)),
                shape=(len(self), self.n_columns),
            )
        )
        res, at = {}, {True: 0, False: 0}
        for i, (name, (kind, width, sparse)) in enumerate(zip(self.names, self.kinds)):
            columns = slice(at[sparse], at[sparse] + width)
            at[sparse] += width
            res[name] = Block(
                x[:, columns] if sparse else self.dense[:, columns].cpu().numpy(),
                self.present[:, i].cpu().numpy(),
                kind,
            )
        return res

    def add_rows(self, blocks: dict):
        """Append rows: the same blocks of further ids. What the training rows did not have, the weights know nothing of, and it adds 0."""
        if list(blocks) != self.names or [(b.kind, b.width, b.sparse) for b in blocks.values()] != self.kinds:
            raise ValueError(
                f'the model reads the blocks {self.names}, of {[o[1] for o in self.kinds]} columns; got {list(blocks)}, of {[b.width for b in blocks.values()]}'
            )
        for name, new in self._buffers_of(blocks).items():
            old = getattr(self, name)
            if old is None:
                continue
            new = new.to(old.device)
            if name == 'indptr':
                old, new = old[:-1], new + old[-1]
            setattr(self, name, torch.cat([old, new]))

    def forward(self, codes=None):  # (n,) or None for all rows -> (n, n_out)
        res = None
        if self.weight is not None:
            if codes is None:
                indices, values, offsets = self.indices, self.values, self.indptr[:-1]
            else:
                start, n = self.indptr[codes], self.indptr[codes + 1] - self.indptr[codes]
                ends = n.cumsum(0)
                offsets = ends - n
                at = torch.repeat_interleave(start - offsets, n)
                at += torch.arange(len(at), device=at.device)
                indices, values = self.indices[at], self.values[at]
            res = F.embedding_bag(
                indices,
                self.weight,
                offsets,
                mode='sum',
                per_sample_weights=values,
                sparse=self.sparse and codes is not None,
            )
        if self.dense_weight is not None:
            x = self.dense if codes is None else self.dense[codes]
            res = x @ self.dense_weight if res is None else torch.addmm(res, x, self.dense_weight)
        return res

    def extra_repr(self):
        return f'{", ".join(self.names)}: {0 if self.weight is None else self.n_columns - self.n_absent:,} sparse + {0 if self.dense is None else self.dense.shape[1]:,} dense columns, n_out={self.n_out}'


def unique_rows(function, codes):
    """`function(codes)` (n, d) worked out once for each distinct code and handed to all places: codes (...) -> (..., d)."""
    unique, at = torch.unique(codes, return_inverse=True)
    return F.embedding(at, function(unique))
