"""Where the weight decay of a fit goes: the L2 of rows looked up, the optimizer, or nowhere."""

from __future__ import annotations

import torch
from fastai.optimizer import Optimizer
from fastcore.foundation import L
from torch import nn

from ..models.blocks import FeatureLinear
from ..models.embedding import EmbeddingTable, pop_penalties, set_l2

__all__ = ['WeightDecay', 'decay_groups']


def kept_from_optimizer(model: nn.Module, by_rows: bool) -> set[int]:
    """ids of the parameters that the optimizer does not decay.

    Vectors (biases, norms, scalars) and tables of biases; and, `by_rows`, embedding tables and layers over features
    whose model takes the L2 of the rows that come out.
    """
    kept = {id(p) for p in model.parameters() if p.ndim < 2}
    for m in model.modules():
        is_table = isinstance(m, EmbeddingTable) and (by_rows or m.decay == 0)
        is_penalised = isinstance(m, FeatureLinear) and m.penalized and by_rows
        if is_table or is_penalised:
            kept |= {id(p) for p in m.parameters()}
    return kept


def decay_groups(
    model: nn.Module,  # whose parameters are shared out
    by_rows: bool = True,  # are tables decayed at the rows looked up, and not by the optimizer?
) -> L:
    """fastai splitter: parameters without, and with, weight decay of the optimizer."""
    kept = kept_from_optimizer(model, by_rows)
    parameters = [p for p in model.parameters() if p.requires_grad]
    without = L(p for p in parameters if id(p) in kept)
    with_decay = L(p for p in parameters if id(p) not in kept)
    return L(group for group in (without, with_decay) if group)


class WeightDecay:
    """The weight decay of one fit, shared out when it begins and taken back when it ends.

    - `by_rows`: embedding tables get `wd` as L2 per row looked up, times their `decay` (ALS-WR, Zhou et al. 2008). They
      collect it in the forward pass, and `penalty` hands it over to be added to the loss that is differentiated.
    - Other weight matrices, and all tables where the objective touches every row at every step (not `by_rows`), get it
      from the optimizer: `of_groups` is what each of its parameter groups gets.
    - Biases, norms and tables with `decay` 0 get none.

    `ValueError` for an optimizer that has no weight decay.
    """

    def __init__(
        self,
        model: nn.Module,  # whose tables collect it
        optimizer: Optimizer,  # fastai's, whose parameter groups are `decay_groups` or a user's own
        wd: float | None,  # None: the optimizer keeps its own
        by_rows: bool,  # is a table decayed at the rows looked up?
    ) -> None:
        self.wd = wd
        self.l2 = (wd or 0.0) if by_rows else 0.0
        kept = kept_from_optimizer(model, by_rows)
        groups = [0.0 if all(id(p) in kept for p in group) else wd for group in optimizer.param_lists]
        has_decay = 'wd' in optimizer.hypers[0]
        if any(groups) and not has_decay:
            raise ValueError(f'wd={wd}, but the optimizer has no weight decay; choose another opt_func or wd=0')
        self.of_groups = groups if has_decay and wd is not None else None
        decayed = {id(p) for w, group in zip(groups, optimizer.param_lists) if w for p in group}  # not twice
        tables = [m for m in model.modules() if isinstance(m, EmbeddingTable)]
        self.tables = [table for table in tables if id(table.weight) not in decayed]
        self.model_name = type(model).__name__
        self._checked = self.l2 == 0

    def start(
        self,
        optimizer: Optimizer,  # of the fit that begins
    ) -> None:
        """Tell tables and optimizer."""
        set_l2(self.tables, self.l2)
        if self.of_groups is not None:
            optimizer.set_hypers(wd=self.of_groups)

    def penalty(self) -> torch.Tensor | None:
        """What the tables have collected in the last forward pass, a scalar; None: nothing."""
        return pop_penalties(self.tables)

    def check(self) -> None:
        """After the first backward pass: `ValueError` if a table was read past its lookup, so that `wd` misses it."""
        if self._checked:
            return
        self._checked = True
        for table in self.tables:
            if table.l2 and not table.penalized and table.weight.grad is not None:
                raise ValueError(
                    f'wd={self.wd} is the L2 of rows looked up, `table(codes)`, and {self.model_name} reads the weight '
                    f'of a table of {table.num_embeddings:,} x {table.embedding_dim} as a whole: nothing of it would '
                    'be decayed. In training call `table.penalise(table.weight[codes])` with the codes of the batch, '
                    'make the table with decay=0 to exempt it, or train with wd=0'
                )

    def stop(self) -> None:
        """Tables go without L2 again."""
        set_l2(self.tables, 0.0)
