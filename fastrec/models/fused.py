"""What is faster by hand than by autograd: rows looked up in tables whose gradients live on between steps, and the whole dot product as one node."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = []

ZEROED = 2**14  # elements of a gradient up to which zeroing them all costs no more than choosing rows


def add_rows(weight, idx, grads):
    """Add gradients (k, d) of rows `idx` (k,) to `weight.grad`, a dense tensor that remembers which rows are not 0."""
    grad = weight.grad
    if grad is None:
        grad = weight.grad = torch.zeros_like(weight)
        grad.rows, grad.written = [], grad._version
    known = getattr(grad, 'written', None) == grad._version  # else somebody else has written to it, too, anywhere
    grad.index_add_(0, idx, grads)
    if known:
        grad.rows.append(idx)
        grad.written = grad._version


def reset_grad(weight):
    """`weight.grad` back to 0 where `add_rows` wrote to it, or, if others did, to None."""
    grad = weight.grad
    if grad is None:
        return
    if getattr(grad, 'written', None) != grad._version:
        weight.grad = None
    else:
        if grad.numel() < ZEROED or 4 * sum(o.numel() for o in grad.rows) > grad.shape[0]:
            grad.zero_()
        else:
            for idx in grad.rows:
                grad.index_fill_(0, idx, 0.0)
        grad.rows, grad.written = [], grad._version


def rows_grad(table, idx, grads):
    """The gradient to return for the weight of `table` from those of the rows looked up: idx (k,), grads (k, d); None if it was added where it belongs."""
    weight = table.weight
    if table.sparse:
        return torch.sparse_coo_tensor(idx[None], grads, weight.shape, check_invariants=False)
    if table.keeps_grad and not weight._backward_hooks and not weight._post_accumulate_grad_hooks:
        return add_rows(weight, idx, grads)
    return torch.ops.aten.embedding_dense_backward(grads, idx, len(weight), -1, False)


class Lookup(torch.autograd.Function):
    """Rows of a table that keeps its gradient: (weight (n, d), idx (...), table) -> (..., d)."""

    @staticmethod
    def forward(ctx, weight, idx, table):
        ctx.table, ctx.idx = table, idx.reshape(-1)
        return F.embedding(idx, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return rows_grad(ctx.table, ctx.idx, grad.reshape(-1, grad.shape[-1])), None, None


class PairScores(torch.autograd.Function):
    """What `DotBias.forward` and the L2 of its tables are for pairs, with gradients worked out by hand: one node in the place of thirty.

    (weights of user and item factors and user and item biases, mean, users (B,), items (B,) or (B, C), y_range, four L2 coefficients or None, the four tables)
    -> scores, shape of the items, and, if there are coefficients, the penalty: their sum of coefficient * |rows|^2 over the rows looked up.
    """

    @staticmethod
    def forward(ctx, P, Q, bu, bi, mean, users, items, y_range, l2, tables):
        flat = items if items.dim() == 1 else items.reshape(-1)
        p, q, b, c = P.index_select(0, users), Q.index_select(0, flat), bu.take(users), bi.take(flat)
        if items.dim() == 1:
            x = torch.linalg.vecdot(p, q).add_(b)
        else:
            x = torch.bmm(q.view(*items.shape, -1), p.unsqueeze(2)).squeeze(2).add_(b.unsqueeze(1))
        x.add_(c if items.dim() == 1 else c.view(items.shape)).add_(mean)
        if y_range is not None:
            x.sigmoid_()
        ctx.save_for_backward(p, q, b, c, x, users, flat)
        ctx.y_range, ctx.l2, ctx.tables = y_range, l2, tables
        score = x.clone() if y_range is None else x.mul(y_range[1] - y_range[0]).add_(y_range[0])
        if l2 is None:
            return score
        penalty = None
        for coefficient, rows in zip(l2, (p, q, b, c)):
            if not coefficient:
                continue
            rows = rows.view(-1)
            term = torch.dot(rows, rows).mul_(coefficient)
            penalty = term if penalty is None else penalty.add_(term)
        return score, penalty

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, grad_penalty=None):
        p, q, b, c, x, users, items = ctx.saved_tensors
        if ctx.y_range is not None:
            grad = torch.ops.aten.sigmoid_backward(grad, x).mul_(ctx.y_range[1] - ctx.y_range[0])
        if grad.dim() == 1:
            column = user = grad.unsqueeze(1)
            dp, dq = q * column, p * column
        else:
            dp, dq = (
                torch.bmm(grad.unsqueeze(1), q.view(*grad.shape, -1)).squeeze(1),
                (grad.unsqueeze(2) * p.unsqueeze(1)).view(q.shape),
            )
            user, column = grad.sum(1, keepdim=True), grad.reshape(-1, 1)
        if ctx.l2 is not None:
            l2 = ctx.l2
            if l2[0]:
                dp.addcmul_(p, grad_penalty, value=2 * l2[0])
            if l2[1]:
                dq.addcmul_(q, grad_penalty, value=2 * l2[1])
            if l2[2]:
                user = user + b.unsqueeze(1) * (grad_penalty * (2 * l2[2]))
            if l2[3]:
                column = column + c.unsqueeze(1) * (grad_penalty * (2 * l2[3]))
        tables = [
            rows_grad(table, idx, g) if need else None
            for table, idx, g, need in zip(
                ctx.tables, (users, items, users, items), (dp, dq, user, column), ctx.needs_input_grad
            )
        ]
        return *tables, grad.sum() if ctx.needs_input_grad[4] else None, None, None, None, None, None
