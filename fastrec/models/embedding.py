"What the models are made of: embedding tables that know which rows were trained, and the scaling of scores to a range."
from __future__ import annotations

import torch
from torch import nn
import torch.nn.functional as F

__all__ = ['EmbeddingTable', 'pop_l2', 'set_l2', 'squash', 'unsquash']


class EmbeddingTable(nn.Embedding):
    """`nn.Embedding` for users or items of which some have no training row.

    - Cold rows (`~known`) stand for the average known row: whenever the module goes to eval mode they are set to it, so that an untrained
      vector is never used.
    - `l2` > 0 adds, in training, `l2 * decay * |row|^2` for every row looked up, summed over a sample's columns and averaged over the batch: the L2 is taken per observed
      rating, as in Funk's SVD and ALS-WR (Zhou et al. 2008, eq. 4), not per step. The term waits in `penalty` for the training loop
      (`pop_l2`), so that a displayed loss stays free of it.

    Rows start as N(0, std); biases (`std=0`) at 0.
    """
    def __init__(self,
        n:int, # rows
        dim:int, # columns
        known:torch.Tensor=None, # bool (n,): rows with training data (None: all)
        std:float=0.01,
        decay:float=1. # share of `l2` that applies to this table; 0 exempts it
    ):
        super().__init__(n, dim)
        nn.init.normal_(self.weight, 0, std) if std else nn.init.zeros_(self.weight)
        known = torch.ones(n, dtype=torch.bool) if known is None else torch.as_tensor(known, dtype=torch.bool)
        if known.shape != (n,): raise ValueError(f'known has shape {tuple(known.shape)}, the table has {n} rows')
        self.register_buffer('known', known.clone())
        self.decay, self.l2, self.penalty, self._cold = decay, 0., None, None

    def forward(self, idx): # (...) -> (..., dim)
        rows = F.embedding(idx, self.weight)
        if self.l2 and self.training:
            flat = rows.reshape(-1)
            penalty = torch.dot(flat, flat) * (self.l2 / len(idx))
            self.penalty = penalty if self.penalty is None else self.penalty + penalty
        return rows

    def train(self, mode:bool=True):
        super().train(mode)
        if not mode: self.fill_cold()
        return self

    @torch.no_grad()
    def fill_cold(self):
        "Set cold rows to the mean of the known ones."
        if self._cold is None or self._cold[0] != (self.known._version, self.known.device):
            self._cold = (self.known._version, self.known.device), (~self.known).nonzero().squeeze(1)
        cold = self._cold[1]
        if 0 < len(cold) < len(self.known):
            self.weight[cold] = 0.
            self.weight[cold] = self.weight.sum(0) / (len(self.known) - len(cold))

    def extra_repr(self): return f"{super().extra_repr()}{f', decay={self.decay:g}' if self.decay != 1 else ''}"


def set_l2(tables, l2:float):
    "Set the L2 per observed row of `tables` (a list, or a module for all in it), each scaled by its `decay`."
    for m in (tables.modules() if isinstance(tables, nn.Module) else tables):
        if isinstance(m, EmbeddingTable): m.l2, m.penalty = l2 * m.decay, None


def pop_l2(model:nn.Module):
    "The sum of penalties of the last forward pass (a scalar tensor to add to the loss), or None; they are cleared."
    return pop_penalties([m for m in model.modules() if isinstance(m, EmbeddingTable)])


def pop_penalties(tables):
    total = None
    for m in tables:
        if m.penalty is not None: total, m.penalty = m.penalty if total is None else total + m.penalty, None
    return total


def squash(x, y_range):
    "Scores `x` (any shape) -> `y_range` through a sigmoid; unchanged when there is no range."
    return x if y_range is None else torch.sigmoid(x) * (y_range[1] - y_range[0]) + y_range[0]


def unsquash(y:float, y_range)->float:
    "The score that `squash` maps to `y`."
    if y_range is None: return float(y)
    p = min(max((y - y_range[0]) / (y_range[1] - y_range[0]), 1e-4), 1 - 1e-4)
    return float(torch.logit(torch.tensor(p, dtype=torch.float64)))
