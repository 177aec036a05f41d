"""fastai's training loop with what it works out for each batch worked out once an epoch."""

from __future__ import annotations

import torch
from fastai.callback.core import TrainEvalCallback
from fastai.callback.schedule import ParamScheduler
from fastai.learner import AvgSmoothLoss, CastToTensor, Recorder
from fastai.torch_core import num_distrib

__all__ = []

DRAIN = 4096  # steps whose losses may wait on the device


class StepCounter(TrainEvalCallback):
    """`TrainEvalCallback` that counts without a detour."""

    name = 'train_eval'

    def after_batch(self):
        learn = self.learn
        learn.pct_train += 1.0 / (learn.n_iter * learn.n_epoch)
        learn.train_iter += 1


class PlainTensors(CastToTensor):
    """`CastToTensor` that first looks whether there is anything to cast."""

    name = 'cast_to_tensor'

    def before_batch(self):
        for o in (*self.learn.xb, *self.learn.yb):
            if type(o) is not torch.Tensor:
                return super().before_batch()


class Scheduler(ParamScheduler):
    """`ParamScheduler` that records what it sets, and does not ask the optimiser for it again."""

    name = 'param_scheduler'

    def before_batch(self):
        opt, pct = self.learn.opt, self.learn.pct_train
        for name, f in self.scheds.items():
            value = f(pct)
            opt.set_hyper(name, value)
            self.hps[name].append(value if isinstance(value, float) else value[-1])

    def after_batch(self):
        pass


class StepRecorder(Recorder):
    """`Recorder` that reads the losses of steps when somebody asks (`losses`, `learn.smooth_loss`, the end of the epoch) and not at each step.

    fastai's waits for the device at every step, and on the CPU spends more on smoothing a loss than the model on some of its layers.
    """

    name, _stateattrs = 'recorder', (*Recorder._stateattrs, '_losses', '_waiting')
    _waiting = ()

    def before_fit(self):
        super().before_fit()
        self._waiting = []
        self._in_bulk = not self.train_metrics and type(self.smooth_loss) is AvgSmoothLoss and num_distrib() == 0

    @property
    def losses(self):
        """Smoothed loss of each step, a list of scalar tensors."""
        self.drain()
        return self._losses

    @losses.setter
    def losses(self, v):
        self._losses = v

    def after_batch(self):
        learn = self.learn
        if not learn.training or not self._in_bulk:
            return super().after_batch()
        if len(learn.yb) == 0 or self.cancel_train:
            return None
        self.lrs.append(learn._lr())
        self._waiting.append(learn.loss)
        if len(self._waiting) >= DRAIN:
            self.drain()

    def after_train(self):
        self.drain()
        super().after_train()

    def drain(self):
        """Smooth the losses that wait, as `AvgSmoothLoss` does one by one."""
        if not self._waiting:
            return
        steps, self._waiting = torch.stack([o.detach().mean() for o in self._waiting]).float().tolist(), []
        smooth, values = self.smooth_loss, []
        val, beta, count = float(smooth.val), smooth.beta, smooth.count
        for loss in steps:
            count += 1
            val = loss + beta * (val - loss)
            values.append(val / (1 - beta**count))
        smooth.val, smooth.count = torch.tensor(val), count
        self._losses.extend(torch.tensor(values).unbind())
        self.learn.smooth_loss = self._losses[-1]
