"""What the models are made of: embedding tables that know which rows were trained, and the scaling of scores to a range."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from .fused import Lookup

__all__ = ['EmbeddingTable', 'pop_l2', 'set_l2']


class EmbeddingTable(nn.Embedding):
    """`nn.Embedding` for users or items of which some have no training row.

    - Cold rows (`~known`) stand for the average known row: whenever the module goes to eval mode they are set to it, so that an untrained
      vector is never used.
    - `l2` > 0 adds, in training, `l2 * decay * |row|^2` for every row looked up, summed over a sample's columns and averaged over the batch: the L2 is taken per observed
      rating, as in Funk's SVD and ALS-WR (Zhou et al. 2008, eq. 4), not per step. The term waits in `penalty` for the training loop
      (`pop_l2`), so that a displayed loss stays free of it.
    - Gradients are dense, or what a training loop asks for (`set_gradients`).

    Rows start as N(0, std); biases (`std=0`) at 0.
    """

    def __init__(
        self,
        n: int,  # rows
        dim: int,  # columns
        known: torch.Tensor = None,  # bool (n,): rows with training data (None: all)
        std: float = 0.01,
        decay: float = 1.0,  # share of `l2` that applies to this table; 0 exempts it
    ):
        super().__init__(n, dim)
        nn.init.normal_(self.weight, 0, std) if std else nn.init.zeros_(self.weight)
        known = torch.ones(n, dtype=torch.bool) if known is None else torch.as_tensor(known, dtype=torch.bool)
        if known.shape != (n,):
            raise ValueError(f'known has shape {tuple(known.shape)}, the table has {n} rows')
        self.register_buffer('known', known.clone())
        self.decay, self.l2, self.penalty, self._cold, self._filled, self.keeps_grad = (
            decay,
            0.0,
            None,
            None,
            None,
            False,
        )

    def forward(self, idx, l2: bool = True):  # (...) -> (..., dim)
        """Rows of `idx`; without `l2` they are not penalised, which is for models that look each up once and hold down what they make of them (`penalise`)."""
        rows = (
            Lookup.apply(self.weight, idx, self)
            if self.keeps_grad and self.training
            else F.embedding(idx, self.weight, sparse=self.sparse)
        )
        if l2 and self.l2 and self.training:
            self.penalise(rows)
        return rows

    def penalise(self, rows):  # (B, ...)
        """Add the L2 of `rows`, averaged over the batch, to what waits in `penalty`."""
        flat = rows.reshape(-1)
        penalty = torch.dot(flat, flat) * (self.l2 / len(rows))
        self.penalty = penalty if self.penalty is None else self.penalty + penalty

    def train(self, mode: bool = True):
        trained = self.training
        super().train(mode)
        if not mode and (trained or self.weight._version != self._filled):
            self.fill_cold()  # once after training: it reads the whole table
        return self

    @torch.no_grad()
    def fill_cold(self):
        """Set cold rows to the mean of the known ones."""
        if self._cold is None or self._cold[0] != (self.known._version, self.known.device):
            self._cold = (self.known._version, self.known.device), (~self.known).nonzero().squeeze(1)
        cold = self._cold[1]
        if 0 < len(cold) < len(self.known):
            self.weight[cold] = 0.0
            self.weight[cold] = self.weight.sum(0) / (len(self.known) - len(cold))
        self._filled = self.weight._version

    @torch.no_grad()
    def add_rows(self, n: int):
        """`n` further rows, which are cold. The weight is a new parameter: an optimiser made before does not have it."""
        self.weight = nn.Parameter(torch.cat([self.weight, self.weight.new_zeros(n, self.embedding_dim)]))
        self.known = torch.cat([self.known, self.known.new_zeros(n)])
        self.num_embeddings, self._cold, self._filled = self.num_embeddings + n, None, None
        if not self.training:
            self.fill_cold()

    def extra_repr(self):
        return f'{super().extra_repr()}{f", decay={self.decay:g}" if self.decay != 1 else ""}'


def set_l2(tables, l2: float):
    """Set the L2 per observed row of `tables` (a list, or a module for all in it), each scaled by its `decay`."""
    for m in tables.modules() if isinstance(tables, nn.Module) else tables:
        if isinstance(m, EmbeddingTable):
            m.l2, m.penalty = l2 * m.decay, None


def set_gradients(tables, kind: str = 'dense', large: float = math.inf):
    """How the gradients of `tables` are kept: 'dense', as torch does; or 'rows', for a training loop whose optimiser is one of ours.

    Rows: tables of `large` elements and more get sparse gradients. The others get dense ones that live on between steps and are reset at the rows that
    were touched (`reset_grad`), which spares a fresh block of memory, to be zeroed, per step.
    """
    if kind not in ('dense', 'rows'):
        raise ValueError(f"kind={kind!r}: choose 'dense' or 'rows'")
    for m in tables:
        m.sparse = kind == 'rows' and m.weight.numel() >= large
        m.keeps_grad = kind == 'rows' and not m.sparse
        m.weight.grad = None


def pop_l2(model: nn.Module):
    """The sum of penalties of the last forward pass (a scalar tensor to add to the loss), or None; they are cleared."""
    return pop_penalties([m for m in model.modules() if isinstance(m, EmbeddingTable)])


def pop_penalties(tables):
    total = None
    for m in tables:
        if m.penalty is not None:
            total, m.__dict__['penalty'] = m.penalty if total is None else total + m.penalty, None
    return total
