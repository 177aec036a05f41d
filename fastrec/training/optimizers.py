"""Optimizers for embedding models, and the schedule that drives them.

One fused kernel where tables are small, only the touched rows where they are large.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any, NamedTuple

import torch
from fastai.optimizer import Optimizer, OptimWrapper

from ..models.fused import reset_grad

__all__ = ['FusedAdam', 'LazyAdam', 'RowwiseAdagrad', 'TorchOptimizer', 'one_cycle']

LARGE = 2**22  # elements from which on a table is updated by rows: a dense Adam step reads and writes 28 bytes for each
ROWS_TO_SETTLE = 2**18  # rows of a table that are settled at a time


class TableAdam(torch.optim.Optimizer):
    """Adam with decoupled weight decay for models that are mostly embedding tables.

    After Kingma and Ba 2015, and Loshchilov and Hutter 2019.

    Parameters with dense gradients are stepped by torch's fused kernel, as `torch.optim.AdamW(fused=True)` does. Tables
    of `large` elements and more whose gradients come sparse are updated at the rows that the batch touched, and nowhere
    else, so that a step costs the same whatever their size:

    - `rows='adam'`: lazy Adam. A touched row's moments first decay by the steps that it missed, as dense Adam would
      have decayed them; its value moves only now. Weight decay applies to touched rows, once per step that touches
      them.
    - `rows='adagrad'`: row-wise Adagrad (as in FBGEMM's table-batched embeddings): one sum of mean squared gradients
      per row in the place of two moments per value, so a table needs a third of Adam's memory. It has no momentum.

    No data-dependent shapes off the CPU, so nothing synchronizes.
    """

    def __init__(
        self,
        params: Iterable,  # parameters, or dicts of parameter groups, as torch's optimizers take them
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-5,
        weight_decay: float = 0.0,  # decoupled
        rows: str = 'adam',  # how the rows of large tables are updated: 'adam' or 'adagrad'
        large: float = LARGE,  # elements from which on a table is updated by rows
    ) -> None:
        if rows not in ('adam', 'adagrad'):
            raise ValueError(f"rows={rows!r}: choose 'adam' or 'adagrad'")
        self.rows = rows
        self.large = large
        self._plans: dict[int, _Plan] = {}  # by position of the parameter group
        self._slots: dict[torch.Tensor, torch.Tensor] = {}  # of each large table, see `_summed`
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    def by_rows(self, p: torch.Tensor) -> bool:
        """Is parameter `p` updated by rows (if its gradients come sparse)?"""
        return p.dim() == 2 and p.numel() >= self.large

    def __getstate__(self) -> dict:
        return {**super().__getstate__(), 'rows': self.rows, 'large': self.large, '_plans': {}, '_slots': {}}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients; buffers that fused models write them to are kept."""
        for group in self.param_groups:
            for p in group['params']:
                reset_grad(p)

    def step(self, closure: Callable | None = None) -> Any:
        """A step; returns what `closure`, if there is one, returns."""
        if self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks:
            return self._hooked_step(closure)
        return self._step(closure)

    # torch would wrap it in a context of its profiler, at the price of a layer
    step.hooked = True  # type: ignore[attr-defined]  # torch itself sets it on functions

    @torch.optim.Optimizer.profile_hook_step
    def _hooked_step(self, closure=None):
        return self._step(closure)

    @torch.no_grad()
    def _step(self, closure):
        """A step of all groups. Runs once a batch: lists of tensors are kept as long as they are the same."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for i, group in enumerate(self.param_groups):
            every = group['params']
            grads = [p.grad for p in every]
            plan = self._plans.get(i)
            if (
                plan is None
                or plan.state is not self.state
                or plan.every is not every
                or not all(g is not None and not g.is_sparse for g in grads)
            ):
                dense = self._step_sparse(group, grads)
                if not dense:
                    continue
                grads = [g for _, g, _ in dense]
                plan = self._plan(i, every, dense)
            self._step_dense(plan, grads, group)
        return loss

    # --- dense gradients

    def _plan(self, i: int, every: list, dense: list[tuple]) -> _Plan:
        """The lists of the fused kernel for (parameter, gradient, state) of group `i`; kept if they are all of it."""
        params = [p for p, _, _ in dense]
        states = [state for _, _, state in dense]
        steps = [state['step'] for state in states]
        if len(dense) == len(every):
            started_together = len({step.item() for step in steps}) == 1
            on_one_device = len({p.device for p in params}) == 1
            if started_together and on_one_device:  # one counter will do
                for state in states:
                    state['step'] = steps[0]
                steps = steps[:1] * len(dense)
        avgs = [state['exp_avg'] for state in states]
        sqs = [state['exp_avg_sq'] for state in states]
        plan = _Plan(self.state, every, params, avgs, sqs, steps, len({id(step) for step in steps}) == 1)
        if len(dense) == len(every):
            self._plans[i] = plan
        else:
            self._plans.pop(i, None)
        return plan

    def _step_dense(self, plan: _Plan, grads: list, group: dict) -> None:
        """Step the parameters of a plan by torch's fused kernel."""
        _, _, params, avgs, sqs, steps, one_counter = plan
        if one_counter:
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
        kinds = _alike(params)
        if kinds is None:
            torch._fused_adamw_(params, grads, avgs, sqs, [], steps, **hypers)
            return
        for at in kinds:
            p, g, avg, sq, step = ([values[j] for j in at] for values in (params, grads, avgs, sqs, steps))
            torch._fused_adamw_(p, g, avg, sq, [], step, **hypers)

    def _start(self, p: torch.Tensor, state: dict) -> None:
        """The state of a parameter with dense gradients before its first step."""
        state['step'] = torch.zeros((), device=p.device)
        state['exp_avg'] = torch.zeros_like(p)
        state['exp_avg_sq'] = torch.zeros_like(p)

    # --- sparse gradients

    def _step_sparse(self, group: dict, grads: list) -> list[tuple]:
        """Step the tables that are updated by rows; returns (parameter, dense gradient, state) of the others."""
        dense = []
        for p, grad in zip(group['params'], grads):
            if grad is None:
                continue
            state = self.state[p]
            if grad.is_sparse:
                if self.by_rows(p):
                    self._step_rows(p, grad._indices()[0], grad._values(), state, group)
                    continue
                grad = grad.to_dense()
            if 'step' not in state:
                self._start(p, state)
            dense.append((p, grad, state))
        return dense

    def _step_rows(self, p: torch.Tensor, rows: torch.Tensor, grads: torch.Tensor, state: dict, group: dict) -> None:
        """Update the rows (B,), among which may be equal ones, by their gradients (B, d)."""
        if not len(rows):
            return
        rows, grads = self._summed(p, rows, grads.to(p.dtype))
        value = p.index_select(0, rows)
        if group['weight_decay']:
            value.mul_(1 - group['lr'] * group['weight_decay'])
        if self.rows == 'adagrad':
            self._adagrad(p, rows, value, grads, state, group)
        else:
            self._lazy_adam(p, rows, value, grads, state, group)

    def _adagrad(
        self, p: torch.Tensor, rows: torch.Tensor, value: torch.Tensor, grads: torch.Tensor, state: dict, group: dict
    ) -> None:
        """Row-wise Adagrad of rows (B,) with the values and gradients (B, d)."""
        if 'sum' not in state:
            state['sum'] = torch.zeros(len(p), dtype=p.dtype, device=p.device)
        total = state['sum'].index_select(0, rows).add_(grads.square().mean(1))
        state['sum'].index_copy_(0, rows, total)
        scale = total.sqrt_().add_(group['eps'])[:, None]
        p.index_copy_(0, rows, value.addcdiv_(grads, scale, value=-group['lr']))

    def _lazy_adam(
        self, p: torch.Tensor, rows: torch.Tensor, value: torch.Tensor, grads: torch.Tensor, state: dict, group: dict
    ) -> None:
        """Lazy Adam of rows (B,) with the values and gradients (B, d)."""
        if 'held' not in state:
            state['step'] = torch.zeros((), dtype=torch.int32)  # on the CPU: it is counted here
            state['held'] = _no_moments(p)
        state['step'] += 1
        step = int(state['step'])
        beta1, beta2 = group['betas']
        rate = group['lr'] / (1 - beta1**step) * (1 - beta2**step) ** 0.5
        held = state['held'].index_select(0, rows)
        value = value.to(held.dtype)
        grads = grads.to(held.dtype)
        # kernels are slow on strided rows
        avg, sq, last, last_rate = (column.contiguous() for column in _moments(held, p.shape[1]))
        self._coast(value, avg, sq, step - 1 - last, last_rate, group)
        avg.lerp_(grads, 1 - beta1)
        sq.mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
        value.addcdiv_(avg, sq.sqrt().add_(group['eps'] * (1 - beta2**step) ** 0.5), value=-rate)
        state['held'].index_copy_(0, rows, torch.cat([avg, sq, last.fill_(step), last_rate.fill_(rate)], 1))
        p.index_copy_(0, rows, value.to(p.dtype))

    def _coast(
        self,
        value: torch.Tensor,  # (k, d)
        avg: torch.Tensor,  # (k, d)
        sq: torch.Tensor,  # (k, d)
        missed: torch.Tensor,  # (k, 1)
        rate: torch.Tensor,  # (k, 1)
        group: dict,
    ) -> None:
        """Move rows, in place, as dense Adam would have in `missed` steps without a gradient.

        There the moments fade by beta1 and beta2 a step, so the steps do by r = beta1 / sqrt(beta2), and add up to a
        geometric series.
        """
        beta1, beta2 = group['betas']
        r = min(beta1 / beta2**0.5, 1 - 1e-4)
        value.addcdiv_(avg * (rate * ((1 - r**missed) * (-r / (1 - r)))), sq.sqrt().add_(group['eps']))
        avg.mul_(beta1**missed)
        sq.mul_(beta2**missed)

    @torch.no_grad()
    def settle(self) -> None:
        """Bring the rows of large tables to where dense Adam would have them now.

        Before they are read, e.g. once an epoch: it reads the whole tables.
        """
        for group in self.param_groups:
            for p in group['params']:
                state = self.state.get(p, {})
                if 'held' in state:
                    self._settle(p, state, group)

    def _settle(self, p: torch.Tensor, state: dict, group: dict) -> None:
        """`settle` of one table, in place."""
        step = int(state['step'])
        for rows, held in zip(p.split(ROWS_TO_SETTLE), state['held'].split(ROWS_TO_SETTLE)):
            avg, sq, last, rate = _moments(held, p.shape[1])
            value = rows.to(held.dtype)
            self._coast(value, avg, sq, step - last, rate, group)
            if value is not rows:
                rows.copy_(value)
            last.fill_(step)

    def _summed(self, p: torch.Tensor, rows: torch.Tensor, grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum the gradients of equal rows: (B,), (B, d) -> rows (n,), gradients (n, d).

        Each row's slot is a position in the batch that has it. On the CPU each row comes once; elsewhere it stays as
        often as it came, each time with its sum, so that no shape depends on the data: equal rows are then written
        several times with equal values.
        """
        slots = self._slots.get(p)
        if slots is None or slots.device != p.device:
            slots = torch.empty(len(p), dtype=torch.int32, device=p.device)
            self._slots[p] = slots
        positions = torch.arange(len(rows), dtype=torch.int32, device=p.device)
        slots.index_copy_(0, rows, positions)
        slot = slots.index_select(0, rows)
        total = torch.zeros_like(grads).index_add_(0, slot.long(), grads)  # by int32 it takes up to 20 times as long
        if p.device.type != 'cpu':
            return rows, total.index_select(0, slot)
        first = (slot == positions).nonzero().squeeze(1)
        if len(first) == len(rows):
            return rows, total
        return rows.index_select(0, first), total.index_select(0, first)


class _Plan(NamedTuple):
    """The lists of a parameter group that the fused kernel takes, while `state` and `every` are the optimizer's."""

    state: Any  # of the optimizer
    every: list  # parameters of the group
    params: list  # those with dense gradients
    avgs: list  # of these, the first moments,
    sqs: list  # the second moments,
    steps: list  # and the counters of steps
    one_counter: bool  # are the counters one tensor?


def _alike(params: list) -> list[list[int]] | None:
    """Positions of the parameters of each device and dtype, for the fused kernel; None if all are alike."""
    kinds = [(p.device, p.dtype) for p in params]
    if kinds.count(kinds[0]) == len(kinds):
        return None
    return [[i for i, own in enumerate(kinds) if own == kind] for kind in dict.fromkeys(kinds)]


def _no_moments(p: torch.Tensor) -> torch.Tensor:
    """Zeros (n, 2 d + 2) for the moments of the rows of a table (n, d): at least float32, see `_moments`."""
    dtype = torch.promote_types(p.dtype, torch.float32)
    return torch.zeros(len(p), 2 * p.shape[1] + 2, dtype=dtype, device=p.device)


def _moments(held: torch.Tensor, d: int) -> tuple[torch.Tensor, ...]:
    """Views of `held` (k, 2 d + 2), where what belongs to a row lies side by side: one place in memory to go to.

    Both moments (k, d) each, the step up to which they are (k, 1), and the step size with which they move the row on
    (k, 1).
    """
    return held.split((d, d, 1, 1), 1)


class Hypers(MutableMapping):
    """The hyper-parameters of a parameter group of torch by fastai's names: what is written is what the next step uses.

    fastai's callbacks write `opt.hypers[i]['lr']`; `OptimWrapper` gives them copies, so that nothing changes.
    """

    def __init__(
        self,
        group: dict,  # of a torch optimizer
        names: dict[str, str],  # fastai's name -> torch's key; 'betas__0' is the first of the pair `betas`
    ) -> None:
        self.group = group
        self.names = names

    def _place(self, name: str) -> tuple[str, int | None]:
        """Key in the group, and position where its value is a tuple; `KeyError` that says what there is."""
        if name not in self.names:
            raise KeyError(f'no hyper-parameter {name!r}: there are {", ".join(self.names)}')
        key, _, position = self.names[name].partition('__')
        return key, int(position) if position else None

    def __getitem__(self, name: str) -> Any:
        key, position = self._place(name)
        return self.group[key] if position is None else self.group[key][position]

    def __setitem__(self, name: str, value: Any) -> None:
        key, position = self._place(name)
        value = float(value) if isinstance(self[name], float) else value
        if position is None:
            self.group[key] = value
        else:
            before, after = self.group[key][:position], self.group[key][position + 1 :]
            self.group[key] = (*before, value, *after)

    def __delitem__(self, name: str) -> None:
        raise TypeError(f'{name!r} cannot be taken from an optimizer: set it')

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return repr(dict(self))


class TorchOptimizer(OptimWrapper):
    """fastai's `OptimWrapper` of a torch optimizer, with hyper-parameters that callbacks can write."""

    @property
    def hypers(self) -> list[Hypers]:
        """The hyper-parameters of each parameter group, to read and to write; settings that are None are left out."""
        first = self.opt.param_groups[0]
        names = {name: key for name, key in self.bwd_map.items() if first.get(key, 0) is not None}
        return [Hypers(group, names) for group in self.opt.param_groups]


def with_hypers(optimizer: Optimizer | OptimWrapper) -> Optimizer | OptimWrapper:
    """The optimizer; of fastai's plain `OptimWrapper` the same torch optimizer as a `TorchOptimizer`."""
    if type(optimizer) is not OptimWrapper:
        return optimizer
    res = TorchOptimizer(opt=optimizer.opt, hp_map=optimizer.fwd_map)
    res.state = optimizer.state
    res.frozen_idx = optimizer.frozen_idx
    return res


class FusedAdam(TorchOptimizer):
    """Adam in one fused kernel with fastai's hyper-parameters: lr, mom, sqr_mom, eps, wd (decoupled); see `TableAdam`.

    Every row of every table moves at every step. It reads and sets its hyper-parameters directly: `OptimWrapper`
    rebuilds all of them at each of the five times a step that fastai's scheduler and recorder ask.
    """

    rows: str = 'adam'  # of `TableAdam`
    large: float = math.inf

    def __init__(
        self,
        params: Iterable,  # parameters, or lists of them, a group each
        lr: float = 1e-3,  # learning rate
        mom: float = 0.9,  # Adam's beta1
        sqr_mom: float = 0.99,  # Adam's beta2
        eps: float = 1e-5,  # is added to the root of the second moment
        wd: float = 0.0,  # decoupled weight decay
    ) -> None:
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

    def set_hyper(self, k: str, v: Any) -> None:
        """Set `k` to a number, or to one value or slice as fastai does."""
        if isinstance(v, float):
            self._set_hyper(k, [v] * len(self.opt.param_groups))
        else:
            super().set_hyper(k, v)

    def _set_hyper(self, k: str, values: Iterable) -> None:
        """Set `k` of each group to its value."""
        for group, value in zip(self.opt.param_groups, values):
            if k == 'mom':
                group['betas'] = (float(value), group['betas'][1])
            elif k == 'sqr_mom':
                group['betas'] = (group['betas'][0], float(value))
            elif k == 'wd':
                group['weight_decay'] = float(value)
            else:
                group[k] = float(value)

    def settle(self) -> None:
        """Bring large tables up to date (`TableAdam.settle`); a learner does it after each training epoch."""
        self.opt.settle()

    def __repr__(self) -> str:
        """How the parameters are updated."""
        params = [p for group in self.opt.param_groups for p in group['params']]
        tables = [p for p in params if self.opt.by_rows(p)]
        n_dense = sum(p.numel() for p in params) - sum(p.numel() for p in tables)
        shapes = ', '.join(f'{p.shape[0]:,} x {p.shape[1]}' for p in tables)
        by_rows = f'; by touched rows: tables of {shapes}' if tables else ''
        return f'{type(self).__name__}({n_dense:,} values dense and fused{by_rows})'


class LazyAdam(FusedAdam):
    """`FusedAdam` that updates large tables (from 4 million values on) by touched rows, lazily.

    The cost of a step does not grow with the number of users and items. See `TableAdam`, rows='adam'.
    """

    large = LARGE


class RowwiseAdagrad(FusedAdam):
    """`LazyAdam` with row-wise Adagrad for the large tables: a third of the memory; see `TableAdam`, rows='adagrad'.

    Learning rates are Adagrad's, ten times Adam's or so.
    """

    rows = 'adagrad'
    large = LARGE


def _cosine(start: Any, end: Any, share: float) -> Any:
    """From `start` to `end` along half a cosine, at a share of the way."""
    return start + (1 + math.cos(math.pi * (1 - share))) * (end - start) / 2


def one_cycle(
    pct_start: float,  # share of training until `middle`
    start: Any,  # values: numbers, or arrays of one per parameter group
    middle: Any,  # values at `pct_start`, of the same kind
    end: Any,  # values at the end, of the same kind
) -> Callable[[float], Any]:
    """Cosine annealing from `start` to `middle` over the first `pct_start` of training, then to `end`.

    After Smith 2018, as fastai's `combined_cos`. Returned is a function of the share of training done, in [0, 1]; in
    plain floats, where fastai's goes through tensors at each step.
    """

    def value_at(pct: float) -> Any:
        if pct < pct_start or pct_start == 1:  # with 1 there is no second part: it ends in the middle
            return _cosine(start, middle, pct / pct_start)
        return _cosine(middle, end, (pct - pct_start) / (1 - pct_start))

    return value_at
