"""What is faster by hand than by autograd.

Rows looked up in tables whose gradients live on between steps, and a whole dot product with biases as one node.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F

__all__: list[str] = []

FORMULA = ('tables', 'user_vectors', 'in_range', '_in_context')  # what a model's scores are made of
ZEROED = 2**14  # elements of a gradient up to which zeroing them all costs no more than choosing rows


class Table(Protocol):
    """What is asked of a table of rows; `EmbeddingTable` is one."""

    weight: torch.Tensor  # (n, d)
    sparse: bool  # are its gradients sparse?
    keeps_grad: bool  # do its gradients live on between steps?
    l2: float  # L2 per row looked up
    penalized: bool  # has its L2 been taken?

    @property
    def only_looks_up(self) -> bool:
        """Is calling it nothing but a lookup?"""

    def add_penalty(self, term: torch.Tensor) -> None:
        """Add a term to the L2 that waits for the training loop."""


class DotTables(Protocol):
    """What is asked of a model whose scores `PairScores` works out; `DotBias` is one."""

    mean: torch.Tensor  # ()
    y_range: tuple[float, float] | None
    levels: Any  # what a context adds; None: nothing

    @property
    def tables(self) -> tuple[Table, Table, Table, Table]:
        """User and item factors, user and item biases."""

    def user_vectors(self, users: torch.Tensor) -> torch.Tensor:
        """What is multiplied with item factors."""

    def in_range(self, x: torch.Tensor) -> torch.Tensor:
        """Scores to `y_range`."""

    def _in_context(
        self, users: torch.Tensor, context: torch.Tensor | None, p: torch.Tensor, bu: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a context makes of vectors and biases of users."""


# --- gradients of rows


def add_rows(weight: torch.Tensor, idx: torch.Tensor, grads: torch.Tensor) -> None:
    """Add gradients (k, d) of rows `idx` (k,) to `weight.grad`, a dense tensor that remembers which rows are not 0."""
    grad = weight.grad
    if grad is None:
        grad = weight.grad = torch.zeros_like(weight)
        _start_record(grad)
    only_ours = _only_ours(grad)
    grad.index_add_(0, idx, grads)
    if only_ours:
        grad.rows.append(idx)
        grad.written = grad._version


def reset_grad(weight: torch.Tensor) -> None:
    """`weight.grad` back to 0 where `add_rows` wrote to it, or, if others did, to None."""
    grad = weight.grad
    if grad is None:
        return
    if not _only_ours(grad):
        weight.grad = None
        return
    n_touched = sum(idx.numel() for idx in grad.rows)
    if grad.numel() < ZEROED or 4 * n_touched > grad.shape[0]:
        grad.zero_()
    else:
        for idx in grad.rows:
            grad.index_fill_(0, idx, 0.0)
    _start_record(grad)


def _start_record(grad: torch.Tensor) -> None:
    """From here on the gradient remembers the rows that are written to, and its version when that was."""
    grad.rows = []
    grad.written = grad._version


def _only_ours(grad: torch.Tensor) -> bool:
    """Has nobody but `add_rows` written to a gradient? One that others have made has no record at all."""
    return getattr(grad, 'written', None) == grad._version


def rows_grad(table: Table, idx: torch.Tensor, grads: torch.Tensor) -> torch.Tensor | None:
    """The gradient to return for the weight of `table` from those of the rows looked up: idx (k,), grads (k, d).

    None if it was added where it belongs.
    """
    weight = table.weight
    if table.sparse:
        return torch.sparse_coo_tensor(idx[None], grads, weight.shape, check_invariants=False)
    if table.keeps_grad and not weight._backward_hooks and not weight._post_accumulate_grad_hooks:
        add_rows(weight, idx, grads)
        return None
    return torch.ops.aten.embedding_dense_backward(grads, idx, len(weight), -1, False)


class Lookup(torch.autograd.Function):
    """Rows of a table that keeps its gradient: (weight (n, d), idx (...), table) -> (..., d)."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, idx: torch.Tensor, table: Table) -> torch.Tensor:
        """The rows."""
        ctx.table = table
        ctx.idx = idx.reshape(-1)
        return F.embedding(idx, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        """The gradient of the weight, as `rows_grad` keeps it."""
        return rows_grad(ctx.table, ctx.idx, grad.reshape(-1, grad.shape[-1])), None, None


# --- the dot product with biases


def fused_scores(
    model: DotTables,  # in training
    users: torch.Tensor,  # int64 (B,)
    items: torch.Tensor,  # int64 (B,) or (B, C)
    plain: type[DotTables],  # the class whose formula is meant: a subclass that has its own of `FORMULA` is not fused
) -> torch.Tensor | None:
    """Scores of pairs, of the shape of `items`, by one `PairScores` node; the L2 of the tables waits in one of them.

    None where the node would not do what the formula of `plain` does: where somebody listens to the tables (hooks) or
    has put others in, with context, under autocast, without gradients, and for items (1, C) that all users share.
    """
    tables = model.tables
    if not (_is_plain(model, tables, plain) and _can_fuse(users, items)):
        return None
    # nn.Module's getattr, which `table.weight` goes through, takes longer
    weights = [table._parameters['weight'] for table in tables]  # type: ignore[attr-defined]
    inputs = *weights, model.mean, users, items, model.y_range
    n = users.shape[0]
    l2 = [table.l2 / n for table in tables]
    if not any(l2):
        return PairScores.apply(*inputs, None, tables)
    scores, penalty = PairScores.apply(*inputs, l2, tables)
    holder = None  # one of the tables has the penalty of all
    for table in tables:
        if table.l2:
            table.__dict__['penalized'] = True  # nn.Module's setattr takes as long as a sum
            if holder is None:
                holder = table
    assert holder is not None  # some coefficient is not 0
    holder.add_penalty(penalty)
    return scores


def _is_plain(model: DotTables, tables: tuple[Table, Table, Table, Table], plain: type[DotTables]) -> bool:
    """Are the model's scores the product of rows of its tables, and does nobody have to hear of them?"""
    if model.levels is not None or not _has_formula_of(model, plain):
        return False
    p, q, user_biases, item_biases = tables
    return p.only_looks_up and q.only_looks_up and user_biases.only_looks_up and item_biases.only_looks_up


def _has_formula_of(model: DotTables, plain: type[DotTables]) -> bool:
    """Has the model the methods of `FORMULA` from `plain`, and none of its own? Asked at every step: without a loop."""
    cls = type(model)
    return (
        cls.in_range is plain.in_range
        and cls.user_vectors is plain.user_vectors
        and cls._in_context is plain._in_context
        and cls.tables is plain.tables
        and model.__dict__.keys().isdisjoint(FORMULA)
    )


def _can_fuse(users: torch.Tensor, items: torch.Tensor) -> bool:
    """Has each user items of its own, and are there gradients in full precision?"""
    own_items = items.dim() == 1 or len(items) == len(users) > 1
    return own_items and torch.is_grad_enabled() and not torch.is_autocast_enabled(users.device.type)


class PairScores(torch.autograd.Function):
    """What `DotBias.forward` and the L2 of its tables are for pairs, with gradients worked out by hand.

    One node in the place of thirty. Operations work in place where that spares memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        user_factors: torch.Tensor,  # (n_users, d)
        item_factors: torch.Tensor,  # (n_items, d)
        user_biases: torch.Tensor,  # (n_users, 1)
        item_biases: torch.Tensor,  # (n_items, 1)
        mean: torch.Tensor,  # ()
        users: torch.Tensor,  # (B,)
        items: torch.Tensor,  # (B,) or (B, C)
        y_range: tuple[float, float] | None,
        l2: list[float] | None,  # coefficient of each of the four tables; None: no penalty
        tables: tuple[Table, Table, Table, Table],
    ) -> Any:
        """Scores of the shape of the items.

        With `l2` the penalty, too: the sum of coefficient * |rows|^2 over the rows looked up.
        """
        is_pairs = items.dim() == 1
        flat_items = items if is_pairs else items.reshape(-1)  # (B,) or (B * C,)
        p = user_factors.index_select(0, users)
        q = item_factors.index_select(0, flat_items)
        bu = user_biases.take(users)
        bi = item_biases.take(flat_items)
        if is_pairs:
            x = torch.linalg.vecdot(p, q).add_(bu).add_(bi)
        else:
            products = torch.bmm(q.view(*items.shape, -1), p.unsqueeze(2)).squeeze(2)  # (B, C)
            x = products.add_(bu.unsqueeze(1)).add_(bi.view(items.shape))
        x.add_(mean)
        if y_range is None:
            score = x.clone()
        else:
            x.sigmoid_()
            score = x.mul(y_range[1] - y_range[0]).add_(y_range[0])
        ctx.save_for_backward(p, q, bu, bi, x, users, flat_items)
        ctx.y_range = y_range
        ctx.l2 = l2
        ctx.tables = tables
        if l2 is None:
            return score
        return score, _penalty(l2, (p, q, bu, bi))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, grad_penalty: torch.Tensor | None = None) -> tuple:
        """Gradients of the four weights, as `rows_grad` keeps them, and of the mean."""
        p, q, bu, bi, x, users, flat_items = ctx.saved_tensors
        if ctx.y_range is not None:
            low, high = ctx.y_range
            grad = torch.ops.aten.sigmoid_backward(grad, x).mul_(high - low)
        if grad.dim() == 1:
            dbu = dbi = grad.unsqueeze(1)
            dp = q * dbi
            dq = p * dbi
        else:
            dp = torch.bmm(grad.unsqueeze(1), q.view(*grad.shape, -1)).squeeze(1)
            dq = (grad.unsqueeze(2) * p.unsqueeze(1)).view(q.shape)
            dbu = grad.sum(1, keepdim=True)
            dbi = grad.reshape(-1, 1)
        if ctx.l2 is not None:  # d(l2 |row|^2) = 2 l2 row
            of_p, of_q, of_bu, of_bi = ctx.l2
            if of_p:
                dp.addcmul_(p, grad_penalty, value=2 * of_p)
            if of_q:
                dq.addcmul_(q, grad_penalty, value=2 * of_q)
            if of_bu:
                dbu = dbu + bu.unsqueeze(1) * (grad_penalty * (2 * of_bu))
            if of_bi:
                dbi = dbi + bi.unsqueeze(1) * (grad_penalty * (2 * of_bi))
        weights = [
            rows_grad(table, idx, rows) if needed else None
            for table, idx, rows, needed in zip(
                ctx.tables, (users, flat_items, users, flat_items), (dp, dq, dbu, dbi), ctx.needs_input_grad
            )
        ]
        dmean = grad.sum() if ctx.needs_input_grad[4] else None
        return *weights, dmean, None, None, None, None, None


def _penalty(l2: list[float], looked_up: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The sum of coefficient * |rows|^2 over the tables; not all coefficients are 0."""
    penalty = None
    for coefficient, rows in zip(l2, looked_up):
        if not coefficient:
            continue
        flat = rows.view(-1)
        term = torch.dot(flat, flat).mul_(coefficient)
        penalty = term if penalty is None else penalty.add_(term)
    return penalty
