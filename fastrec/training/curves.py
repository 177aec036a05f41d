"""The columns of the training table as curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from fastai.learner import Recorder

from ..data.columns import first_few
from ..evaluation.metrics import lower_is_better
from ..palette import BLUE, GREY, ORANGE

__all__: list[str] = []

LOSSES = ('train_loss', 'valid_loss')
MOST_ACROSS = 4  # panels in a row


def training_table(recorder: Recorder | None) -> pd.DataFrame:
    """The table that the last fit showed, by epoch from 1 on; `ValueError` where there was none."""
    values = [] if recorder is None else vars(recorder).get('values', [])
    if recorder is None or not values:
        raise ValueError('there is no training table yet: learn.fit_one_cycle(5) fills it (lr_find leaves it empty)')
    names = recorder.metric_names[1 : 1 + len(values[0])]
    numbers = [[math.nan if o is None else float(o) for o in row] for row in values]
    return pd.DataFrame(numbers, columns=list(names), index=pd.RangeIndex(1, len(values) + 1, name='epoch'))


def plot_curves(
    table: pd.DataFrame,  # of `training_table`
    target: Mapping[str, float],  # column -> the value that is wanted
    metrics: str | Iterable[str] | None,  # columns that have a panel; None: all
    axes: Any,  # matplotlib axes, one for the losses and one for each metric; None: new ones
) -> np.ndarray:
    """A panel for the losses and one for each metric; returns the axes."""
    if not isinstance(target, Mapping):
        raise TypeError(f"target={target!r}: the value that is wanted of each column, e.g. target={{'ndcg@10': 0.4}}")
    columns = [column for column in table if column not in LOSSES]
    names = columns if metrics is None else [metrics] if isinstance(metrics, str) else list(metrics)
    unknown = [name for name in [*names, *target] if name not in table]
    if unknown:
        raise ValueError(
            f'the training table has no column {first_few(unknown)}: it has {first_few(table.columns, 20)}. Ask for it '
            "when the learner is made: collab_learner(dls, metrics=['ndcg@10'])"
        )
    names += [name for name in target if name not in names and name not in LOSSES]
    axes = _panels(1 + len(names)) if axes is None else np.atleast_1d(axes).ravel()
    if len(axes) < 1 + len(names):
        raise ValueError(
            f'{len(axes)} axes for the losses and {len(names)} metrics: give {1 + len(names)}, or metrics='
        )
    _draw_losses(axes[0], table, target)
    for ax, name in zip(axes[1:], names):
        _draw_metric(ax, table[name].dropna(), name, target.get(name))
    return axes[: 1 + len(names)]


def _panels(n: int) -> np.ndarray:
    """Axes (n,) of a new figure, at most four in a row."""
    import matplotlib.pyplot as plt

    across = min(n, MOST_ACROSS)
    down = math.ceil(n / across)
    _, axes = plt.subplots(down, across, figsize=(3.6 * across, 3 * down), layout='constrained', squeeze=False)
    axes = axes.ravel()
    for ax in axes[n:]:
        ax.remove()
    return axes[:n]


def _draw_losses(ax: Any, table: pd.DataFrame, target: Mapping[str, float]) -> None:
    colors = dict(train_loss=GREY, valid_loss=BLUE)
    for name in LOSSES:
        if name not in table or table[name].isna().all():
            continue
        ax.plot(table.index, table[name], 'o-', ms=3, color=colors[name], label=name.replace('_', ' '))
        if name in target:
            ax.axhline(target[name], color=ORANGE, lw=1.2, ls='--', label=f'target {target[name]:g}')
    ax.set(xlabel='epoch', title='loss')
    _finish(ax, len(table))
    ax.legend(frameon=False, fontsize=8)


def _draw_metric(ax: Any, values: pd.Series, name: str, target: float | None) -> None:
    """A metric by epoch, those in which it was worked out; a ring around the best, a line at the target."""
    less = lower_is_better(name)
    title = name
    if len(values):
        best = values.idxmin() if less else values.idxmax()
        ax.plot(values.index, values, 'o-', ms=3, color=BLUE)
        ax.plot([best], [values[best]], 'o', ms=9, mfc='none', mec=ORANGE)
        title = f'{name}: best {values[best]:.4f} in epoch {best}'
    if target is not None:
        ax.axhline(target, color=ORANGE, lw=1.2, ls='--')
        title += f'\n{_reached(values, target, less)}'
    ax.set_xlabel('epoch')
    ax.set_title(title, fontsize=9)
    _finish(ax, max(values.index, default=1))


def _reached(values: pd.Series, target: float, less: bool) -> str:
    """Whether and when the target was reached, or by how much it was missed."""
    there = values[values <= target] if less else values[values >= target]
    if len(there):
        return f'target {target:g} reached in epoch {there.index[0]}'
    if not len(values):
        return f'target {target:g}'
    missed = values.min() - target if less else target - values.max()
    return f'target {target:g} missed by {missed:.4f}'


def _finish(ax: Any, n_epoch: int) -> None:
    """Whole epochs along x."""
    ax.set_xlim(0.7, max(n_epoch, 2) + 0.3)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.margins(y=0.1)
