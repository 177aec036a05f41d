"""Choosing settings on held-out rows: cross-validation, and a search over a builder's arguments (Optuna proposes, the training table prunes, a file remembers)."""

from __future__ import annotations

import math
from numbers import Number

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback, CancelFitException

from ..data.splits import KFoldSplitter
from ..evaluation.evaluate import evaluate
from ..evaluation.metrics import lower_is_better
from .dataloaders import RecDataLoaders

__all__ = ['Tuning', 'cross_validate', 'tune_learner']

_OF_FIT = {'n_epoch', 'lr'}


class PruneTrial(Callback):
    """Reports `monitor` to an Optuna trial after each epoch, and ends the fit where the trial is behind the others."""

    order = 61  # after the recorder

    def __init__(self, trial, monitor: str):
        self.trial, self.monitor, self.values, self.pruned = trial, monitor, [], False

    def before_fit(self):
        names = list(self.recorder.metric_names[1:])
        if self.monitor not in names:
            raise ValueError(
                f'monitor={self.monitor!r} is no column of the training table, which has {", ".join(names)}. Name a metric of the builder: metrics=[rmse]'
            )
        self.at = names.index(self.monitor)

    def after_epoch(self):
        value = self.recorder.log[1 + self.at]
        if value is None or not math.isfinite(value):
            self.pruned = True  # diverged
            raise CancelFitException()
        self.values.append(float(value))
        self.trial.report(self.values[-1], len(self.values) - 1)
        if self.trial.should_prune():
            self.pruned = True
            raise CancelFitException()


class Tuning:
    """What `tune_learner` found: `best` (arguments), `value`, `table()`, `plot()`; `study` is Optuna's."""

    def __init__(self, study, monitor):
        self.study, self.monitor = study, monitor

    def __repr__(self):
        return f'Tuning({len(self.study.trials)} trials, best {self.monitor} {self.value:.4f} with {self.best})'

    @property
    def best(self) -> dict:
        """The arguments of the best trial."""
        return dict(self.study.best_params)

    @property
    def value(self) -> float:
        """The value of `monitor` that they gave."""
        return self.study.best_value

    def table(self) -> pd.DataFrame:
        """A row per trial, best first: its arguments, the value of `monitor` at its last epoch, the epochs it ran, state ('complete', 'pruned' or 'fail') and seconds."""
        rows = [
            dict(
                trial=t.number,
                **t.params,
                **{
                    self.monitor: t.value
                    if t.value is not None
                    else t.intermediate_values.get(max(t.intermediate_values, default=0))
                },
                epochs=len(t.intermediate_values),
                state=t.state.name.lower(),
                seconds=t.duration.total_seconds() if t.duration else None,
            )
            for t in self.study.trials
        ]
        order = ['complete', 'pruned', 'fail', 'running', 'waiting']
        df = pd.DataFrame(rows)
        sign = 1 if self.study.direction.name == 'MINIMIZE' else -1
        return df.iloc[np.lexsort((sign * df[self.monitor].astype(float), df.state.map(order.index)))].reset_index(
            drop=True
        )

    def plot(self, axes=None):
        """The value of each finished trial against each argument, and against the trial's number with the best so far; crosses were pruned (the value is that of their last epoch)."""
        import matplotlib.pyplot as plt

        df = self.table().sort_values('trial')
        names = [c for c in df.columns if c not in ('trial', self.monitor, 'epochs', 'state', 'seconds')]
        n = len(names) + 1
        if axes is None:
            axes = plt.subplots(1, n, figsize=(3.1 * n, 3), layout='constrained', sharey=True, squeeze=False)[1][0]
        done, pruned = df[df.state == 'complete'], df[df.state == 'pruned']
        best = done.iloc[
            int(
                np.argmin(done[self.monitor])
                if self.study.direction.name == 'MINIMIZE'
                else np.argmax(done[self.monitor])
            )
        ]
        for ax, name in zip(axes, ['trial', *names]):
            for part, style in (
                (done, dict(marker='o', color='#2a6fb0', alpha=0.75)),
                (pruned, dict(marker='x', color='#999999')),
            ):
                if len(part):
                    ax.scatter(
                        part[name] if df[name].dtype.kind in 'if' else part[name].astype(str),
                        part[self.monitor],
                        s=22,
                        **style,
                    )
            ax.scatter(
                [best[name] if df[name].dtype.kind in 'if' else str(best[name])],
                [best[self.monitor]],
                s=90,
                facecolors='none',
                edgecolors='#d1495b',
                linewidths=1.6,
            )
            ax.set_xlabel(name)
            if df[name].dtype.kind in 'if':
                ax.locator_params(axis='x', nbins=4)
            if df[name].dtype.kind == 'f' and df[name].min() > 0 and df[name].max() > 20 * df[name].min():
                ax.set_xscale('log')
        axes[0].step(
            done.trial,
            (np.minimum if self.study.direction.name == 'MINIMIZE' else np.maximum).accumulate(done[self.monitor]),
            where='post',
            color='#2a6fb0',
            lw=1,
        )
        values = done[self.monitor].to_numpy()
        low, high = np.quantile(values, [0, 0.9])
        if len(values) > 5 and values.max() > high + 3 * (high - low):
            axes[0].set_ylim(low - 0.1 * (high - low), high + (high - low))  # a failure would flatten the rest
        axes[0].set_ylabel(self.monitor)
        return axes


def tune_learner(
    dls,  # `RecDataLoaders`: what is chosen is chosen on their valid part, so report figures on other rows
    learner,  # a builder such as `svdpp_learner`
    space: dict,  # argument of the builder (or 'lr', 'n_epoch') -> (low, high), both whole numbers or not, (low, high, 'log'), a list of choices, or a function of an Optuna trial
    n_trials: int = 20,  # in all: a study that is resumed runs those that are missing
    n_epoch: int = 5,  # epochs of each trial, with one cycle
    lr: float = 5e-3,
    monitor: str = 'valid_loss',  # column of the training table
    storage: str = None,  # file (SQLite) or URL of an Optuna storage, from which an interrupted search goes on; None: memory
    name: str = 'tune',  # of the study in the storage
    prune: bool = True,  # end trials whose `monitor` is behind the median of the others at the same epoch
    seed: int = 0,  # of the sampler, and of every trial's training
    start: dict = None,  # arguments of the first trial, such as settings that are known to do well: a short search that does not find back to them still has them
    **kwargs,  # of the builder
) -> Tuning:
    """The best arguments of a builder by a search (TPE, pruned by the median rule): `found = tune_learner(dls, svdpp_learner, dict(wd=(.005, .1, 'log'), n_factors=[20, 50, 100]), 30)`, then
    `learn = svdpp_learner(dls, **found.best)`; `found.table()`, `found.plot()`.
    """
    try:
        import optuna
    except ImportError as e:
        raise ImportError("tune_learner needs Optuna: pip install 'fastrec-learn[tune]'") from e
    if not space:
        raise ValueError(
            "space={} leaves nothing to search: give arguments of the builder, e.g. dict(wd=(.01, .1, 'log'), n_factors=[20, 50])"
        )
    if both := space.keys() & kwargs.keys():
        raise ValueError(f'{", ".join(sorted(both))}: searched in space, and fixed as an argument')
    for k, v in space.items():
        _check(k, v)
    if storage is not None and '://' not in str(storage):
        storage = f'sqlite:///{storage}'
    levels = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            load_if_exists=True,
            direction='minimize' if 'loss' in monitor or lower_is_better(monitor) else 'maximize',
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=max(1, n_epoch // 3))
            if prune
            else optuna.pruners.NopPruner(),
        )
        if known := next((t.params.keys() for t in study.trials if t.params), None):
            if set(known) != set(space):
                raise ValueError(
                    f'the study {name!r} in {storage} searches {", ".join(known)}, not {", ".join(space)}: give another name= or storage='
                )

        if start is not None:
            if missing := space.keys() ^ start.keys():
                raise ValueError(
                    f'start= takes a value for each argument of space, {", ".join(space)}, and no other: see {", ".join(sorted(missing))}'
                )
            if not study.trials:
                study.enqueue_trial(start)

        def objective(trial):
            args = {k: _suggest(trial, k, v) for k, v in space.items()}
            fit = {'n_epoch': n_epoch, 'lr': lr, **{k: args.pop(k) for k in _OF_FIT & args.keys()}}
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                learn, pruner = learner(dls, **args, **kwargs), PruneTrial(trial, monitor)
                with learn.no_bar(), learn.no_logging():
                    learn.fit_one_cycle(fit['n_epoch'], fit['lr'], cbs=pruner)
            if pruner.pruned:
                raise optuna.TrialPruned()
            return pruner.values[-1]

        ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        study.optimize(objective, n_trials=max(0, n_trials - sum(t.state in ended for t in study.trials)))
    finally:
        optuna.logging.set_verbosity(levels)
    if not any(t.state.name == 'COMPLETE' for t in study.trials):
        raise ValueError(
            f'none of {len(study.trials)} trials came to its end: training diverged in all of them. Search smaller learning rates'
        )
    return Tuning(study, monitor)


def _check(name, value):
    if callable(value) or (isinstance(value, list) and value):
        return
    if (
        isinstance(value, tuple)
        and len(value) in (2, 3)
        and all(isinstance(o, Number) for o in value[:2])
        and value[0] < value[1]
        and (len(value) == 2 or (value[2] == 'log' and value[0] > 0))
    ):
        return
    raise ValueError(
        f"space[{name!r}] = {value!r}: give (low, high), (low, high, 'log') with 0 < low < high, a list of choices, or a function of an Optuna trial"
    )


def _suggest(trial, name, value):
    if callable(value):
        return value(trial)
    if isinstance(value, list):
        return trial.suggest_categorical(name, value)
    return (trial.suggest_int if all(isinstance(o, int) for o in value[:2]) else trial.suggest_float)(
        name, *value[:2], log=len(value) == 3
    )


def cross_validate(
    df: pd.DataFrame,  # the rating table
    fit,  # function of `RecDataLoaders` that returns a fitted learner or baseline
    splitter=None,  # iterable of splitters or of (train, valid) index arrays; by default `KFoldSplitter(5)`
    metrics=None,  # as in `evaluate`
    **kwargs,  # passed to `RecDataLoaders.from_df`
) -> pd.DataFrame:
    """Validation figures per fold, and their mean and standard deviation: a row each, a column per metric. `fit` is called afresh for each fold."""
    if (callable(splitter) and not hasattr(splitter, '__len__')) or np.isscalar(splitter):
        raise TypeError(
            f'splitter={splitter!r}: give folds, e.g. KFoldSplitter(5), or a list of splitters or of (train, valid) index arrays'
        )
    folds = list(KFoldSplitter(5) if splitter is None else splitter)
    if not folds:
        raise ValueError('no folds given')
    results = []
    for fold in folds:
        dls = RecDataLoaders.from_df(df, splitter=fold, **kwargs)
        scorer = fit(dls)
        if scorer is None:
            raise TypeError(
                'fit(dls) returned None: it trains a model and has to return it (`learn.fit_one_cycle(...)` returns nothing)'
            )
        results.append(evaluate(scorer, dls, metrics).loc['all'])
    table = pd.DataFrame(results, index=pd.Index(range(len(folds)), name='fold')).drop(
        columns=['rows', 'users', 'one_class'], errors='ignore'
    )
    return pd.concat([table, pd.DataFrame([table.mean(), table.std()], index=['mean', 'std'])])
