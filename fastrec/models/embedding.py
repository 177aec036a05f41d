"""What the models are made of: embedding tables that know which rows were trained."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from .fused import Lookup

__all__ = ['EmbeddingTable', 'pop_l2', 'set_l2']

ROWS_SUMMED = 2**16  # rows of a table that are summed at a time


class Fill:
    """What a table remembers of filling its cold rows; it has it in common with its views (`models/view.py`)."""

    cold: tuple | None = None  # (version and device of `known`, the cold rows then)
    version: int | None = None  # of `weight` when cold rows were filled


class EmbeddingTable(nn.Embedding):
    """`nn.Embedding` for users or items of which some have no training row.

    - Cold rows (`~known`) stand for the average known row: whenever the module goes to eval mode they are set to it, so
      that an untrained vector is never used.
    - `l2` > 0 adds, in training, `l2 * |row|^2` for every row looked up, summed over a sample's columns and averaged
      over the batch: the L2 is taken per observed rating, as in Funk's SVD and ALS-WR (Zhou et al. 2008, eq. 4), not
      per step. The term waits in `penalty` for the training loop (`pop_l2`), so that a displayed loss stays free of it.
      `set_l2` sets it, scaled by the table's `decay`.
    - `penalized`: has its L2 been taken since it was set? A model that reads `weight` as a whole bypasses it.
    - Gradients are dense, or what a training loop asks for (`set_gradients`).

    Rows start as N(0, std); biases (`std=0`) at 0. `ValueError` where `known` has another length.
    """

    weight: nn.Parameter
    known: torch.Tensor  # bool (n,)
    l2: float = 0.0  # L2 of a row looked up
    penalty: torch.Tensor | None = None  # the L2 of what was looked up, until a training loop takes it
    penalized: bool = False
    keeps_grad: bool = False  # does the gradient live on between steps?

    def __init__(
        self,
        n: int,  # rows
        dim: int,  # columns
        known: torch.Tensor | None = None,  # bool (n,): rows with training data (None: all)
        std: float = 0.01,  # known rows start as N(0, std)
        decay: float = 1.0,  # share of the L2 that applies to this table; 0 exempts it
    ) -> None:
        super().__init__(n, dim)
        if std:
            nn.init.normal_(self.weight, 0, std)
        else:
            nn.init.zeros_(self.weight)
        known = torch.ones(n, dtype=torch.bool) if known is None else torch.as_tensor(known, dtype=torch.bool)
        if known.shape != (n,):
            raise ValueError(f'known has shape {tuple(known.shape)}, the table has {n} rows')
        self.register_buffer('known', known.clone())
        self.decay = decay
        self.l2 = 0.0
        self.penalty = None
        self.penalized = False
        self.keeps_grad = False
        self._fill = Fill()

    # --- rows, and what they cost

    def forward(
        self,
        idx: torch.Tensor,  # int (...)
        l2: bool = True,  # False: rows are not penalized; models that look each up once penalise what they make of them
    ) -> torch.Tensor:
        """Rows of `idx`: (...) -> (..., dim)."""
        if self.keeps_grad and self.training:
            rows = Lookup.apply(self.weight, idx, self)
        else:
            rows = F.embedding(idx, self.weight, sparse=self.sparse)
        if l2 and self.l2 and self.training:
            self.penalise(rows)
        return rows

    @property
    def only_looks_up(self) -> bool:
        """Is calling it nothing but a lookup? Not of a subclass, nor where a hook listens."""
        hooks = self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks
        return type(self) is EmbeddingTable and not hooks

    def penalise(
        self,
        rows: torch.Tensor,  # (B, ..., d)
        share: torch.Tensor | None = None,  # (B, ...): what the L2 of each row counts (None: 1)
    ) -> None:
        """Add the L2 of `rows`, averaged over the batch, to what waits in `penalty`."""
        if share is None:
            flat = rows.reshape(-1)
            squares = torch.dot(flat, flat)
        else:
            squares = (rows.square().sum(-1) * share).sum()
        self.add_penalty(squares * (self.l2 / len(rows)))

    def add_penalty(
        self,
        term: torch.Tensor,  # scalar tensor
    ) -> None:
        """Add a term (a scalar tensor) to what waits in `penalty`."""
        attributes = self.__dict__  # nn.Module's setattr takes as long as the sum
        attributes['penalty'] = term if self.penalty is None else self.penalty + term
        attributes['penalized'] = True

    # --- cold rows

    def train(
        self,
        mode: bool = True,  # True: for training; False: to be read
    ) -> EmbeddingTable:
        """As of any module; on the way to eval mode cold rows are filled."""
        was_training = self.training
        super().train(mode)
        if not mode and (was_training or self.weight._version != self._fill.version):
            self.fill_cold()  # once after training: it reads the whole table
        return self

    @torch.no_grad()
    def fill_cold(self) -> None:
        """Set cold rows to the mean of the known ones.

        Other threads may be scoring or training: a row goes from one mean to the next in one step, and only if it
        differs. It is written as `data`, which a backward pass that is under way does not take for a change.
        """
        cold = self._cold_rows()
        if 0 < len(cold) < len(self.known):
            rows = self.weight.data
            mean = self._sum_of_known(rows) / (len(self.known) - len(cold))
            if not torch.equal(rows[cold], mean.expand(len(cold), -1)):
                rows[cold] = mean
        self._fill.version = self.weight._version

    def _sum_of_known(self, rows: torch.Tensor) -> torch.Tensor:
        """Sum (dim,) of the known of `rows` (n, dim), a block of them at a time."""
        blocks = zip(rows.split(ROWS_SUMMED), self.known.split(ROWS_SUMMED))
        sums = [some.masked_fill(~known[:, None], 0.0).sum(0) for some, known in blocks]
        return torch.stack(sums).sum(0)

    def _cold_rows(self) -> torch.Tensor:
        """Codes of the cold rows; looked for again only if `known` has changed or moved."""
        state = self.known._version, self.known.device
        found = self._fill.cold
        if found is None or found[0] != state:
            found = self._fill.cold = state, (~self.known).nonzero().squeeze(1)
        return found[1]

    @torch.no_grad()
    def add_rows(
        self,
        n: int,  # how many
    ) -> None:
        """`n` further rows, which are cold.

        The weight is a new parameter: an optimizer made before does not have it.
        """
        self.weight = nn.Parameter(torch.cat([self.weight, self.weight.new_zeros(n, self.embedding_dim)]))
        self.known = torch.cat([self.known, self.known.new_zeros(n)])
        self.num_embeddings += n
        self._fill = Fill()
        if not self.training:
            self.fill_cold()

    def extra_repr(self) -> str:
        """As of `nn.Embedding`, and the decay where it is not 1."""
        decay = '' if self.decay == 1 else f', decay={self.decay:g}'
        return super().extra_repr() + decay


def set_l2(
    tables: nn.Module | Iterable[nn.Module],  # tables, or a module for all in it
    l2: float,  # penalty of a squared value, per row looked up
) -> None:
    """Set the L2 per observed row of tables, each scaled by its `decay`; none has been taken yet (`penalized`)."""
    for m in tables.modules() if isinstance(tables, nn.Module) else tables:
        if isinstance(m, EmbeddingTable):
            m.l2 = l2 * m.decay
            m.penalty = None
            m.penalized = False


def set_gradients(
    tables: Iterable[nn.Module],  # `EmbeddingTable`s and `FeatureLinear`s
    kind: Literal['dense', 'rows'] = 'dense',
    large: float = math.inf,  # elements of a table from which on the gradients of its rows are sparse
) -> None:
    """How the gradients of `tables` are kept: 'dense', as torch does, or 'rows', where the optimizer is one of ours.

    Rows: tables of `large` elements and more get sparse gradients. The others get dense ones that live on between steps
    and are reset at the rows that were touched (`reset_grad`), which spares a fresh block of memory, to be zeroed, per
    step.
    """
    if kind not in ('dense', 'rows'):
        raise ValueError(f"kind={kind!r}: choose 'dense' or 'rows'")
    for m in tables:
        m.sparse = kind == 'rows' and m.weight.numel() >= large
        m.keeps_grad = kind == 'rows' and not m.sparse
        m.weight.grad = None


def pop_l2(
    model: nn.Module,  # a module with tables in it
) -> torch.Tensor | None:
    """The sum of penalties of the last forward pass (a scalar tensor to add to the loss), or None; they are cleared."""
    return pop_penalties(m for m in model.modules() if isinstance(m, EmbeddingTable))


def pop_penalties(tables: Iterable[EmbeddingTable]) -> torch.Tensor | None:
    """`pop_l2` of tables that are known already."""
    total = None
    for table in tables:
        penalty = table.penalty
        if penalty is not None:
            total = penalty if total is None else total + penalty
            table.__dict__['penalty'] = None  # nn.Module's setattr takes as long as the sum
    return total
