"""The sweep behind `learn.lr_find()`, and what can be read off it.

fastai's sweep raises the rate from 1e-7 to 10 in a hundred steps and reads a rate off the smoothed loss. Of a
recommender that curve says little, and its `valley` less:

- A hundred steps of 64 rows are 7% of MovieLens 100K. An embedding is looked up a few times in the whole sweep, most of
  them at rates at which nothing moves, and the model starts at the mean rating: up to a rate of 0.3 what is seen are
  batches that are harder or easier than others, by 0.03 after smoothing. The longest valley of that is one of chance,
  over six seeds from 0.004 to 0.04.
- Smoothing has a memory of 50 steps, half of the sweep: the curve is late, and flat (at 2048 rows and a rate of 0.1 it
  shows a loss of 1.21, which is 0.96).
- At 2048 rows batches are alike, and still valleys run from 0.004 to 0.016, on a curve that is nearly a straight line
  there. What falls until 0.1 is what a hundred steps can gain. A training of ten epochs is 440 steps at 2048 rows and
  14,000 at 64: the best rate, 1e-2 and 2.4e-3, is decided by their number, which no sweep of a hundred steps knows.
- The L2 of the tables, which is not in the curve, is not the reason: at the start there is nothing to decay.

Two things are done about it. Each step's loss is set against the loss of the same batch, with the same dropout, at the
weights of the start: the difference is what training has gained, and whether a batch is hard falls out of it. And
`valley` starts from the builder's recipe, which goes by the batch size, and is moved by the curve only where the curve
contradicts it (`sound_valley`): a rule of thumb is better than what can be read off (benchmarks/learning_rate.py)."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from fastai.callback.schedule import LRFinder, valley
from fastcore.foundation import L

from .loop import FastLearner

__all__: list[str] = []

WINDOW = 5  # steps that are averaged
BELOW = 300.0  # how far below the rate that gains most in a sweep a whole training may still be
BEYOND = 3.0  # and above the one at which all is lost again: features are learned by heart in a sweep, not in an epoch


class Sweep(LRFinder):
    """fastai's sweep of the learning rate that also keeps what each batch costs at the weights of the start."""

    name = 'lr_finder'

    def before_fit(self) -> None:
        """Remember the weights."""
        super().before_fit()
        self.start = {name: p.detach().clone() for name, p in self.learn.model.named_parameters()}
        self.at_start: list[torch.Tensor] = []  # loss of each batch at the weights of the start
        self.now: list[torch.Tensor] = []  # and at those of the step

    def before_batch(self) -> None:
        """Set the rate; the loss of the batch at the start, by the random numbers that the step is going to draw."""
        super().before_batch()
        learn = self.learn
        with same_numbers_again(learn.model), torch.no_grad():
            pred = torch.func.functional_call(learn.model, self.start, tuple(learn.xb))
            self.at_start.append(learn.loss_of(pred).detach().mean())
        if learn.decay is not None:
            learn.decay.penalty()  # what the tables have collected on the way is of no step

    def after_batch(self) -> None:
        """Keep the loss of the step."""
        self.now.append(self.learn.loss.detach().mean())
        super().after_batch()

    def after_fit(self) -> None:
        """Everything as it was."""
        super().after_fit()
        self.start = {}

    def curve(self) -> np.ndarray:
        """Loss of each step as if all batches were alike (n,): the mean at the start, plus what has changed since.

        Averaged over a few steps on either side; up to the first loss that is not a number.
        """
        at_start = torch.stack(self.at_start[: len(self.now)]).double().cpu().numpy()
        change = torch.stack(self.now).double().cpu().numpy() - at_start
        bad = np.flatnonzero(~np.isfinite(change))
        change = change[: bad[0]] if len(bad) else change
        edges = np.pad(change, WINDOW // 2, mode='edge')
        smooth = np.convolve(edges, np.ones(WINDOW) / WINDOW, 'valid') if len(change) else change
        return at_start[: len(change)].mean() + smooth


@contextmanager
def same_numbers_again(model: torch.nn.Module) -> Iterator[None]:
    """What is drawn inside is drawn again after it: torch's generators of the CPU and of the model's device."""
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == 'cuda' else []):
        yield


def find_rate(
    learn: FastLearner,
    usual: float,  # the rate of the recipe
    start_lr: float,
    end_lr: float,
    num_it: int,
    stop_div: bool,
    show_plot: bool,
    suggest_funcs: Any,  # functions of fastai, or None; `valley` is `sound_valley`
) -> Any:
    """`RecLearner.lr_find`: a named tuple of suggestions. Weights, optimizer and random numbers are as before."""
    sweep = Sweep(start_lr=start_lr, end_lr=end_lr, num_it=num_it, stop_div=stop_div)
    had_optimizer = learn.opt is not None
    with same_numbers_again(learn.model), learn.dls.train.kept_generator(), learn.no_logging():
        learn.fit(num_it // len(learn.dls.train) + 1, cbs=sweep)
    if not had_optimizer:
        learn.opt = None
    losses = sweep.curve()
    recorder = learn.recorder
    recorder.lrs = recorder.lrs[: len(losses)]
    recorder.losses = list(torch.tensor(losses).float())
    found: dict[str, tuple] = {}
    for func in [] if suggest_funcs is None else L(suggest_funcs):
        name = func.func.__name__ if isinstance(func, partial) else func.__name__
        if func is valley:
            found[name] = sound_valley(usual, recorder.lrs, losses)
        else:
            part = slice(num_it // 10, -5)  # what fastai gives it
            found[name] = func(torch.tensor(recorder.lrs[part]), torch.stack(recorder.losses[part]), num_it)
    if show_plot:
        recorder.plot_lr_find(suggestions=[point for _, point in found.values()], nms=list(found))
        _show_the_valley(losses)
    if not found:
        return None
    suggestions = namedtuple('SuggestedLRs', list(found))  # type: ignore[misc]  # names that are known when it runs
    return suggestions(*[lr for lr, _ in found.values()])


def _show_the_valley(losses: np.ndarray) -> None:
    """Let the plot reach as far above the loss of the start as the sweep came below it: the rest is divergence."""
    gain = losses[0] - losses.min() if len(losses) else 0.0
    if gain > 0:
        plt.gca().set_ylim(losses.min() - 0.1 * gain, losses[0] + gain)


def sound_valley(usual: float, rates: Sequence[float], losses: np.ndarray) -> tuple[float, tuple[float, float]]:
    """The rate of the recipe unless the sweep contradicts it; and its point of the curve (rate, loss).

    It does where the rate is far beyond the one at which all that was gained is lost again: then it is halfway between
    the lowest loss and there, in powers of ten. And where it is so far below the lowest loss that hardly anything
    moves: then it is as low as may be. Where the loss never falls nothing is known, and where what was gained is never
    lost the lowest loss tells nothing: the cosines of `TwoTower` are learned at any rate.
    """
    lr = usual
    if not len(losses):
        return lr, (lr, np.nan)
    best = int(losses.argmin())
    if best >= WINDOW:
        lost = np.flatnonzero(losses[best:] >= losses[0])
        end = best + int(lost[0]) if len(lost) else len(losses) - 1
        if usual > BEYOND * rates[end]:
            lr = float(np.sqrt(rates[best] * rates[end]))
        if len(lost):
            lr = float(max(lr, rates[best] / BELOW))
    return lr, (lr, float(np.interp(np.log(lr), np.log(rates), losses)))
