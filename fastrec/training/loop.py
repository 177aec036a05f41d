"""fastai's training loop, with what it works out again for every batch worked out once an epoch.

A step of a recommender is short, so that much of its time would be fastai's own. What is done here, and why:

- Events go straight to the callbacks that have them: fastai sorts and asks all callbacks at each of 8 events a step.
- The default callbacks are subclasses that do less a step: losses are read when somebody asks (fastai waits for the
  device at each step), the schedule is in plain floats, nothing is cast that is a tensor already.
- Where no callback listens to the backward pass and the step, both are called without their eight events.
- The device of the model is looked up once an epoch.

Nothing of fastai is patched, and `tests/test_training_loop.py` holds each part against fastai's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from fastai.callback.core import (
    Callback,
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
    TrainEvalCallback,
    _inner_loop,
    event,
)
from fastai.callback.schedule import LRFinder, ParamScheduler
from fastai.learner import AvgSmoothLoss, CastToTensor, Learner, Recorder
from fastai.optimizer import OptimWrapper
from fastai.torch_core import num_distrib
from fastcore.xtras import modify_exception

from ..models.losses import RankingLoss
from ..notices import warn_user
from .decay import WeightDecay
from .optimizers import FusedAdam, with_hypers

__all__ = ['FastLearner', 'PlainTensors', 'Scheduler', 'StepCounter', 'StepRecorder']

DRAIN = 4096  # steps whose losses may wait on the device
CANCEL = (
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
)
PER_BATCH = frozenset(_inner_loop)
RENEW = ('before_fit', 'before_train', 'before_validate')  # events at which callbacks may have changed
# events that are handed on directly; `after_fit` is not, since `Callback.__call__` then also sets `run` back
DIRECT = frozenset(o for o in vars(event) if not o.startswith('_')) - {'after_create', 'after_fit'}
STEP_EVENTS = ('before_backward', 'after_backward', 'before_step', 'after_step')


# --- fastai's default callbacks, with the same names, attributes and results, and less of it a step


class StepCounter(TrainEvalCallback):
    """`TrainEvalCallback` that counts without a detour."""

    name = 'train_eval'

    def after_batch(self) -> None:
        """Count the step."""
        learn = self.learn
        learn.pct_train += 1.0 / (learn.n_iter * learn.n_epoch)
        learn.train_iter += 1


class PlainTensors(CastToTensor):
    """`CastToTensor` that first looks whether there is anything to cast."""

    name = 'cast_to_tensor'

    def before_batch(self) -> None:
        """Cast what is not a plain tensor."""
        for o in (*self.learn.xb, *self.learn.yb):
            if type(o) is not torch.Tensor:
                super().before_batch()
                return


class Scheduler(ParamScheduler):
    """`ParamScheduler` that records what it sets, and does not ask the optimizer for it again."""

    name = 'param_scheduler'

    def before_batch(self) -> None:
        """Set the hyper-parameters of this step."""
        opt, pct = self.learn.opt, self.learn.pct_train
        for name, schedule in self.scheds.items():
            value = schedule(pct)
            opt.set_hyper(name, value)
            self.hps[name].append(value if isinstance(value, float) else value[-1])

    def after_batch(self) -> None:
        """Nothing: what was set is recorded."""


class StepRecorder(Recorder):
    """`Recorder` that reads the losses of steps when somebody asks, and not at each step.

    Asking is `recorder.losses`, `learn.smooth_loss` and the end of the epoch. fastai's waits for the device at every
    step, and on the CPU spends more on smoothing a loss than the model on some of its layers.
    """

    name = 'recorder'
    _stateattrs = (*Recorder._stateattrs, '_losses', '_waiting')
    _waiting: Any = ()
    _has_diverged: bool = False  # and has it been said?

    def before_fit(self) -> None:
        """Start with no steps; in bulk where nobody else reads losses at each step."""
        super().before_fit()
        self._waiting = []
        self._has_diverged = False
        plain = not self.train_metrics and type(self.smooth_loss) is AvgSmoothLoss
        self._in_bulk = plain and num_distrib() == 0

    @property
    def losses(self) -> list[torch.Tensor]:
        """Smoothed loss of each step, a list of scalar tensors."""
        self.drain()
        return self._losses

    @losses.setter
    def losses(self, v: list[torch.Tensor]) -> None:
        self._losses = v

    def after_batch(self) -> None:
        """Keep the loss of a training step, on its device."""
        learn = self.learn
        if not learn.training or not self._in_bulk:
            super().after_batch()
            return
        if len(learn.yb) == 0 or self.cancel_train:
            return
        self.lrs.append(learn._lr())
        self._waiting.append(learn.loss)
        if len(self._waiting) >= DRAIN:
            self.drain()

    def after_train(self) -> None:
        """Read what waits. Columns of a part that was cancelled are nan: fastai leaves them out, and others move up."""
        self.drain()
        super().after_train()
        if self.cancel_train:
            self.log += [math.nan] * (1 + self.train_metrics * len(self.metrics))

    def after_validate(self) -> None:
        """Log the errors, as of training."""
        super().after_validate()
        if self.cancel_valid and self.valid_metrics:
            self.log += [math.nan] * (1 + len(self.metrics))

    def after_epoch(self) -> None:
        """Keep and log the values; say if they show that training has diverged."""
        super().after_epoch()
        if not self.lrs:
            return  # no step was made: this is `validate`
        self._warn_if_diverged(self.smooth_loss.value, 'training loss')
        if len(self.dls.valid):
            self._warn_if_diverged(self.loss.value, 'validation loss')

    def after_cancel_fit(self) -> None:
        """Say if it is a loss that is not a number that has ended the fit, as `TerminateOnNaNCallback` does."""
        self._warn_if_diverged(vars(self.learn).get('loss'), 'training loss')

    def _warn_if_diverged(self, loss: torch.Tensor | None, which: str) -> None:
        """Say once a fit that a loss is not a number: from there on nothing is learned."""
        if loss is None or self._has_diverged or any(isinstance(cb, LRFinder) for cb in self.learn.cbs):
            return
        if bool(torch.isfinite(torch.as_tensor(loss)).all()):
            return
        self._has_diverged = True
        bad_steps = [step for step, o in enumerate(self.losses) if not torch.isfinite(o)]
        lr = self.lrs[bad_steps[0]] if bad_steps else self.learn._lr()
        warn_user(
            f'the {which} of epoch {self.learn.epoch} is not a number: training diverged at a learning rate of '
            f'{lr:.2g}, and the weights are worthless. Train a new learner with a smaller rate (learn.lr_find() shows '
            'which)'
        )

    def drain(self) -> None:
        """Smooth the losses that wait, as `AvgSmoothLoss` does one by one."""
        if not self._waiting:
            return
        steps = torch.stack([o.detach().mean() for o in self._waiting]).float().tolist()
        self._waiting = []
        smooth, values = self.smooth_loss, []
        value, beta, count = float(smooth.val), smooth.beta, smooth.count
        for loss in steps:
            count += 1
            value = loss + beta * (value - loss)
            values.append(value / (1 - beta**count))
        smooth.val = torch.tensor(value)
        smooth.count = count
        self._losses.extend(torch.tensor(values).unbind())
        self.learn.smooth_loss = self._losses[-1]


LEAN = {TrainEvalCallback: StepCounter, CastToTensor: PlainTensors, Recorder: StepRecorder}


# --- the loop


def has_event(cb: Callback, event_name: str) -> bool:
    """Has `cb` the event, itself or by dispatching in its own way?

    It is the class that is asked: an attribute that a callback lacks is looked up in the learner and its model.
    """
    dispatches = type(cb).__call__ is not Callback.__call__
    return dispatches or event_name in vars(cb) or any(event_name in vars(c) for c in type(cb).__mro__)


class FastLearner(Learner):
    """fastai's `Learner` with a loop that costs less a step; it does the same."""

    opt: Any  # fastai's optimizer; None until it is needed
    decay: WeightDecay | None = None  # of the fit that is going on
    first_epoch: int = 0  # from which epoch on to train; a callback may move it in `before_fit`
    _listeners_of: dict | None = None  # event -> (callback, handler) pairs, as long as callbacks stay what they are

    # --- events

    def __call__(self, event_name: str | list[str]) -> None:
        """Fire event(s): fastai's `Learner.__call__`."""
        if not isinstance(event_name, str):
            for name in event_name:
                self(name)
        elif event_name not in DIRECT:
            super().__call__(event_name)
        else:
            if event_name in RENEW:
                self._listeners_of = {}
            for cb, handler in self._listeners(event_name):
                self._fire(event_name, cb, handler)

    def _fire(self, event_name: str, cb: Callback, handler: Callable | None) -> None:
        """Call one handler as `Callback.__call__` would."""
        if handler is None:
            cb(event_name)
            return
        runs = cb.run and (event_name not in PER_BATCH or (cb.run_train if self.training else cb.run_valid))
        if not runs:
            return
        try:
            handler()
        except CANCEL:
            raise
        except Exception as e:
            what = e.args[0] if e.args else e
            text = f'Exception occured in `{type(cb).__name__}` when calling event `{event_name}`:\n\t{what}'
            raise modify_exception(e, text, replace=True) from e

    def _listeners(self, event_name: str) -> list[tuple[Callback, Callable | None]]:
        """(callback, its handler) of those that have the event, in order; handler None: it dispatches by itself."""
        if self._listeners_of is None:
            self._listeners_of = {}
        found = self._listeners_of.get(event_name)
        if found is None:
            found = []
            for cb in self.cbs.sorted('order'):
                if has_event(cb, event_name):
                    dispatches = type(cb).__call__ is not Callback.__call__
                    found.append((cb, None if dispatches else getattr(cb, event_name)))
            self._listeners_of[event_name] = found
        return found

    def add_cb(
        self,
        cb: Callback | type[Callback],  # an object, or a class that is made without arguments
    ) -> FastLearner:
        """Add a callback, of fastai's default ones the lean form; returns the learner."""
        self._listeners_of = {}
        super().add_cb(LEAN.get(cb, cb) if isinstance(cb, type) else cb)
        return self

    def remove_cb(
        self,
        cb: Callback | type[Callback],  # an object that was added, or a class
    ) -> FastLearner:
        """Remove a callback, or all of a class; returns the learner."""
        self._listeners_of = {}
        return super().remove_cb(cb)

    def create_opt(self) -> None:
        """Make the optimizer; hyper-parameters of a torch optimizer are such that callbacks can write them."""
        super().create_opt()
        self.opt = with_hypers(self.opt)

    # --- batches

    def all_batches(self) -> None:
        """One pass over the loader; after training, large tables are brought up to date."""
        self._device = next(self.model.parameters()).device
        try:
            super().all_batches()
        finally:
            if self.training and isinstance(self.opt, FusedAdam):
                self.opt.settle()

    def _set_device(self, b: tuple) -> tuple:
        """fastai's, unless the batch is tensors that are where the model is."""
        for o in b:
            if type(o) is not torch.Tensor or o.device != self._device:
                return super()._set_device(b)
        return b

    def _lr(self) -> float:
        """The learning rate of the last parameter group."""
        if isinstance(self.opt, OptimWrapper):
            return self.opt.opt.param_groups[-1]['lr']
        return self.opt.hypers[-1]['lr']

    @property
    def smooth_loss(self) -> torch.Tensor:
        """Smoothed loss of the last training step, a scalar tensor."""
        recorder = self.__dict__.get('recorder')
        if isinstance(recorder, StepRecorder):
            recorder.drain()
        if '_smooth_loss' not in self.__dict__:
            raise AttributeError('smooth_loss')
        return self._smooth_loss

    @smooth_loss.setter
    def smooth_loss(self, v: torch.Tensor) -> None:
        self._smooth_loss = v

    def _do_fit(self) -> None:
        """fastai's, from `first_epoch` on."""
        for epoch in range(self.first_epoch, self.n_epoch):
            self.epoch = epoch
            self._with_events(self._do_epoch, 'epoch', CancelEpochException)

    def _do_one_batch(self) -> None:
        """fastai's, with the L2 of the tables in the loss that is differentiated and not in the one that is shown."""
        self.pred = self.model(*self.xb)
        self('after_pred')
        if len(self.yb):
            self._do_loss()
        self('after_loss')
        if self.training and len(self.yb):
            self._do_grad_opt()

    def _do_loss(self) -> None:
        target = self.yb[0]
        if isinstance(self.pred, torch.Tensor) and self.pred.shape != target.shape:
            raise ValueError(self._wrong_shape(self.pred, target))
        self.loss_grad = self.loss_of(self.pred)
        penalty = self.decay.penalty() if self.training and self.decay is not None else None
        self.loss = self.loss_grad.detach()
        if penalty is None:
            self.loss = self.loss.clone()  # a callback may change loss_grad in place
        else:
            self.loss_grad = self.loss_grad + penalty

    def loss_of(
        self,
        pred: torch.Tensor,  # scores of the batch, as the model returns them: (B,) or (B, C)
    ) -> torch.Tensor:
        """The loss of these scores of the batch that is at hand, without the L2 of the tables."""
        if isinstance(self.loss_func, RankingLoss) and self.loss_func.needs_items:
            return self.loss_func(pred, *self.yb, items=self.xb[1])
        return self.loss_func(pred, *self.yb)

    def _wrong_shape(self, pred: torch.Tensor, target: torch.Tensor) -> str:
        name, got, wanted = type(self.model).__name__, tuple(pred.shape), tuple(target.shape)
        way = 'end forward with `.squeeze(-1)`' if got == (*wanted, 1) else 'return a score for each pair'
        return (
            f'{name} returns scores of shape {got} for a target of shape {wanted}: a loss would spread them over each '
            f'other and learn something else. Scores have the shape of the items: {way}'
        )

    def _do_grad_opt(self) -> None:
        if any(self._listeners(o) for o in STEP_EVENTS):
            super()._do_grad_opt()
            return
        self._backward()
        self._step()
        self.opt.zero_grad()

    def _backward(self) -> None:
        super()._backward()
        if self.decay is not None:
            self.decay.check()
