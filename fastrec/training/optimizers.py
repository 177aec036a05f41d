"""Optimisers for embedding models: one fused kernel where tables are small, only the touched rows where they are large; and the schedule that drives them."""

from __future__ import annotations

import math

import torch
from fastai.optimizer import OptimWrapper

from ..models.fused import reset_grad

__all__ = ['FusedAdam', 'LazyAdam', 'RowwiseAdagrad', 'one_cycle']

LARGE = 2**22  # elements from which on a table is updated by rows: a dense Adam step reads and writes 28 bytes for each


class TableAdam(torch.optim.Optimizer):
    """Adam with decoupled weight decay (Kingma and Ba 2015; Loshchilov and Hutter 2019) for models that are mostly embedding tables.

    Parameters with dense gradients are stepped by torch's fused kernel, as `torch.optim.AdamW(fused=True)` does. Tables of `large` elements and more whose
    gradients come sparse are updated at the rows that the batch touched, and nowhere else, so that a step costs the same whatever their size:

    - `rows='adam'`: lazy Adam. A touched row's moments first decay by the steps that it missed, as dense Adam would have decayed them; its value moves only now.
      Weight decay applies to touched rows, once per step that touches them.
    - `rows='adagrad'`: row-wise Adagrad (as in FBGEMM's table-batched embeddings): one sum of mean squared gradients per row in the place of two moments per
      value, so a table needs a third of Adam's memory. It has no momentum.

    No data-dependent shapes off the CPU, so nothing synchronises.
    """

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.0, rows='adam', large=LARGE):
        if rows not in ('adam', 'adagrad'):
            raise ValueError(f"rows={rows!r}: choose 'adam' or 'adagrad'")
        self.rows, self.large, self._plans, self._slots = rows, large, {}, {}
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    def by_rows(self, p) -> bool:
        """Is parameter `p` updated by rows (if its gradients come sparse)?"""
        return p.dim() == 2 and p.numel() >= self.large

    def __getstate__(self):
        return {**super().__getstate__(), 'rows': self.rows, 'large': self.large, '_plans': {}, '_slots': {}}

    def zero_grad(self, set_to_none=True):
        for group in self.param_groups:
            for p in group['params']:
                reset_grad(p)

    def step(self, closure=None):
        """A step; -> what `closure`, if there is one, returns."""
        if self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks:
            return self._hooked_step(closure)
        return self._step(closure)

    step.hooked = True  # torch would wrap it in a context of its profiler, at the price of a layer

    @torch.optim.Optimizer.profile_hook_step
    def _hooked_step(self, closure=None):
        return self._step(closure)

    @torch.no_grad()
    def _step(self, closure):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for i, group in enumerate(self.param_groups):
            every = group['params']
            grads = [p.grad for p in every]
            plan = self._plans.get(i)  # the lists of tensors, as long as they are the same
            if (
                plan is None
                or plan[0] is not self.state
                or plan[1] is not every
                or not all(g is not None and not g.is_sparse for g in grads)
            ):
                dense = []
                for p, g in zip(every, grads):
                    if g is None:
                        continue
                    state = self.state[p]
                    if g.is_sparse:
                        if self.by_rows(p):
                            self._step_rows(p, g._indices()[0], g._values(), state, group)
                            continue
                        g = g.to_dense()
                    if 'step' not in state:
                        self._start(p, state)
                    dense.append((p, g, state))
                if not dense:
                    continue
                params, grads = [o[0] for o in dense], [o[1] for o in dense]
                states = [[o[2][k] for o in dense] for k in ('exp_avg', 'exp_avg_sq', 'step')]
                if len(dense) == len(every):
                    if (
                        len({s.item() for s in states[2]}) == 1 and len({p.device for p in params}) == 1
                    ):  # all started together: one counter will do
                        for _, _, state in dense:
                            state['step'] = states[2][0]
                        states[2] = states[2][:1] * len(dense)
                    self._plans[i] = self.state, every, params, *states
                else:
                    self._plans.pop(i, None)
            else:
                _, _, params, *states = plan
            avgs, sqs, steps = states
            if len({id(o) for o in steps}) == 1:
                steps[0].add_(1.0)
            else:
                torch._foreach_add_(steps, 1.0)
            beta1, beta2 = group['betas']
            hypers = dict(
                lr=group['lr'],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group['weight_decay'],
                eps=group['eps'],
                amsgrad=False,
                maximize=False,
            )
            for at in _alike(params):
                torch._fused_adamw_(
                    *(o if at is None else [o[j] for j in at] for o in (params, grads, avgs, sqs)),
                    [],
                    steps if at is None else [steps[j] for j in at],
                    **hypers,
                )
        return loss

    def _start(self, p, state):
        state['step'] = torch.zeros((), device=p.device)
        state['exp_avg'], state['exp_avg_sq'] = torch.zeros_like(p), torch.zeros_like(p)

    def _step_rows(self, p, rows, grads, state, group):
        """Update the rows (B,), among which may be equal ones, by their gradients (B, d)."""
        if not len(rows):
            return
        rows, grads = self._summed(p, rows, grads.to(p.dtype))
        lr, wd, eps, (beta1, beta2) = group['lr'], group['weight_decay'], group['eps'], group['betas']
        value = p.index_select(0, rows)
        if wd:
            value.mul_(1 - lr * wd)
        if self.rows == 'adagrad':
            if 'sum' not in state:
                state['sum'] = torch.zeros(len(p), dtype=p.dtype, device=p.device)
            total = state['sum'].index_select(0, rows).add_(grads.square().mean(1))
            state['sum'].index_copy_(0, rows, total)
            p.index_copy_(0, rows, value.addcdiv_(grads, total.sqrt_().add_(eps)[:, None], value=-lr))
            return
        if 'held' not in state:
            state['step'] = torch.zeros((), dtype=torch.int32)  # on the CPU: it is counted here
            # both moments of a row, the step up to which it is, and the step size with which its moments move it on, side by side: one place in memory to go to
            state['held'] = torch.zeros(
                len(p), 2 * p.shape[1] + 2, dtype=torch.promote_types(p.dtype, torch.float32), device=p.device
            )
        state['step'] += 1
        step = int(state['step'])
        rate = lr / (1 - beta1**step) * (1 - beta2**step) ** 0.5
        held = state['held'].index_select(0, rows)
        value, grads = value.to(held.dtype), grads.to(held.dtype)
        avg, sq, last, last_rate = (
            o.contiguous() for o in held.split((p.shape[1], p.shape[1], 1, 1), 1)
        )  # kernels are slow on strided rows
        self._coast(value, avg, sq, step - 1 - last, last_rate, group)
        avg.lerp_(grads, 1 - beta1)
        sq.mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
        value.addcdiv_(avg, sq.sqrt().add_(eps * (1 - beta2**step) ** 0.5), value=-rate)
        state['held'].index_copy_(0, rows, torch.cat([avg, sq, last.fill_(step), last_rate.fill_(rate)], 1))
        p.index_copy_(0, rows, value.to(p.dtype))

    def _coast(self, value, avg, sq, missed, rate, group):
        """Move rows (k, d), in place, as dense Adam would have in `missed` steps (k, 1) without a gradient.

        There the moments fade by beta1 and beta2 a step, so the steps do by r = beta1 / sqrt(beta2), and add up to a geometric series.
        """
        beta1, beta2 = group['betas']
        r = min(beta1 / beta2**0.5, 1 - 1e-4)
        value.addcdiv_(avg * (rate * ((1 - r**missed) * (-r / (1 - r)))), sq.sqrt().add_(group['eps']))
        avg.mul_(beta1**missed)
        sq.mul_(beta2**missed)

    @torch.no_grad()
    def settle(self):
        """Bring the rows of large tables to where dense Adam would have them now: before they are read, e.g. once an epoch; it reads the whole tables."""
        for group in self.param_groups:
            for p in group['params']:
                if 'held' not in (state := self.state.get(p, {})):
                    continue
                step = int(state['step'])
                for rows, held in zip(p.split(2**18), state['held'].split(2**18)):
                    avg, sq, last, rate = held.split((p.shape[1], p.shape[1], 1, 1), 1)
                    value = rows.to(held.dtype)
                    self._coast(value, avg, sq, step - last, rate, group)
                    if value is not rows:
                        rows.copy_(value)
                    last.fill_(step)

    def _summed(self, p, rows, grads):
        """Sum the gradients of equal rows: -> rows, gradients.

        Each row's slot is a position in the batch that has it. On the CPU each row comes once; elsewhere it stays as often as it came, each time with its sum, so
        that no shape depends on the data: equal rows are then written several times with equal values.
        """
        slots = self._slots.get(p)
        if slots is None or slots.device != p.device:
            slots = self._slots[p] = torch.empty(len(p), dtype=torch.int32, device=p.device)
        at = torch.arange(len(rows), dtype=torch.int32, device=p.device)
        slots.index_copy_(0, rows, at)
        slot = slots.index_select(0, rows)
        total = torch.zeros_like(grads).index_add_(0, slot.long(), grads)  # by int32 it takes up to 20 times as long
        if p.device.type != 'cpu':
            return rows, total.index_select(0, slot)
        first = (slot == at).nonzero().squeeze(1)
        return (rows, total) if len(first) == len(rows) else (rows.index_select(0, first), total.index_select(0, first))


def _alike(params):
    """Index lists of the parameters of one device and dtype, for the fused kernel; [None] if all are alike."""
    kinds = [(p.device, p.dtype) for p in params]
    if kinds.count(kinds[0]) == len(kinds):
        return [None]
    return [[i for i, o in enumerate(kinds) if o == kind] for kind in dict.fromkeys(kinds)]


class FusedAdam(OptimWrapper):
    """Adam in one fused kernel with fastai's hyper-parameters: lr, mom, sqr_mom, eps, wd (decoupled); see `TableAdam`.

    Every row of every table moves at every step. It reads and sets its hyper-parameters directly: `OptimWrapper` rebuilds all of them at each of the
    five times a step that fastai's scheduler and recorder ask.
    """

    rows, large = 'adam', math.inf

    def __init__(
        self, params, lr: float = 1e-3, mom: float = 0.9, sqr_mom: float = 0.99, eps: float = 1e-5, wd: float = 0.0
    ):
        super().__init__(
            params,
            opt=TableAdam,
            lr=lr,
            betas=(mom, sqr_mom),
            eps=eps,
            weight_decay=wd,
            rows=self.rows,
            large=self.large,
        )

    @property
    def hypers(self):
        """One dict of hyper-parameters per parameter group; `set_hyper` changes them."""
        return [
            dict(lr=g['lr'], mom=g['betas'][0], sqr_mom=g['betas'][1], eps=g['eps'], wd=g['weight_decay'])
            for g in self.opt.param_groups
        ]

    def set_hyper(self, k, v):
        """Set `k` to a number, or to one value or slice as fastai does."""
        if isinstance(v, float):
            self._set_hyper(k, [v] * len(self.opt.param_groups))
        else:
            super().set_hyper(k, v)

    def _set_hyper(self, k, v):
        for g, v_ in zip(self.opt.param_groups, v):
            if k == 'mom':
                g['betas'] = (float(v_), g['betas'][1])
            elif k == 'sqr_mom':
                g['betas'] = (g['betas'][0], float(v_))
            else:
                g[{'wd': 'weight_decay'}.get(k, k)] = float(v_)

    def settle(self):
        """Bring large tables up to date (`TableAdam.settle`); a learner does it after each training epoch."""
        self.opt.settle()

    def __repr__(self):
        """How the parameters are updated."""
        params = [p for g in self.opt.param_groups for p in g['params']]
        by_rows = [p for p in params if self.opt.by_rows(p)]
        dense = sum(p.numel() for p in params) - sum(p.numel() for p in by_rows)
        tables = ', '.join(f'{p.shape[0]:,} x {p.shape[1]}' for p in by_rows)
        return f'{type(self).__name__}({dense:,} values dense and fused{f"; by touched rows: tables of {tables}" if by_rows else ""})'


class LazyAdam(FusedAdam):
    """`FusedAdam` that updates large tables (from 4 million values on) by touched rows, lazily: the cost of a step does not grow with the number of users and items.

    See `TableAdam`, rows='adam'.
    """

    large = LARGE


class RowwiseAdagrad(FusedAdam):
    """`LazyAdam` with row-wise Adagrad for the large tables: a third of the memory; see `TableAdam`, rows='adagrad'. Learning rates are Adagrad's, ten times Adam's or so."""

    rows, large = 'adagrad', LARGE


def one_cycle(pct_start: float, start, middle, end):
    """Cosine annealing from `start` to `middle` over the first `pct_start` of training, then to `end` (Smith 2018; fastai's `combined_cos`).

    A function of the share of training done, in [0, 1]; in plain floats, where fastai's goes through tensors at each step. Values may be arrays.
    """
    cos = lambda a, b, pos: a + (1 + math.cos(math.pi * (1 - pos))) * (b - a) / 2
    return lambda pct: (
        cos(start, middle, pct / pct_start)
        if pct < pct_start
        else cos(middle, end, (pct - pct_start) / (1 - pct_start))
    )
