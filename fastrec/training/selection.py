"""A search over the arguments of a builder: Optuna proposes, the training table prunes, a file remembers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Number
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback, CancelFitException

from ..evaluation.metrics import lower_is_better
from ..evaluation.named import as_metrics, metric_name
from ..keywords import check_arguments, require_known
from ..palette import BLUE, GREY, ORANGE
from .checks import check_builder, check_held_out, check_loaders
from .clock import seconds_of
from .dataloaders import RecDataLoaders
from .learner import RecLearner
from .recipes import recipe_of
from .spaces import default_space

__all__ = ['Tuning', 'tune_learner']

OF_FIT = ('n_epoch', 'lr')  # arguments that are searched and are not the builder's
WARM_UP = 4  # trials that are never pruned
STATES = ('complete', 'pruned', 'fail', 'running', 'waiting')  # of trials, in the order of the table
MONITORS = dict(rating='rmse', liked='roc_auc', implicit='ndcg@10')  # by what loaders are made for
SHARES = 10  # of a cycle after which trials of different lengths are compared
NOT_ARGUMENTS = ('trial', 'epochs', 'state', 'seconds')  # columns of the table, beside `monitor`

# colors and marks of the plots
COMPLETE = dict(marker='o', color=BLUE, alpha=0.75)
PRUNED = dict(marker='x', color=GREY)
BEST = dict(facecolors='none', edgecolors=ORANGE, linewidths=1.6)


# --- the search


class PruneTrial(Callback):
    """Reports `monitor` to an Optuna trial after each epoch, and ends the fit where the trial is behind the others."""

    order = 61  # after the recorder

    def __init__(
        self,
        trial: Any,  # of Optuna
        monitor: str,  # column of the training table
        by_share: bool = False,  # compare trials at the same share of their cycles, which are of different lengths
    ) -> None:
        self.trial = trial
        self.monitor = monitor
        self.by_share = by_share
        self.last_step = -1  # that was reported
        self.values: list[float] = []  # of `monitor`, one per epoch
        self.pruned = False

    def before_fit(self) -> None:
        """Find the column; `ValueError` where there is none."""
        columns = list(self.recorder.metric_names[1:])
        if self.monitor not in columns:
            raise ValueError(
                f'monitor={self.monitor!r} is not a column of the training table, which has {", ".join(columns)}. '
                'Name a metric of the builder: metrics=[rmse]'
            )
        self.column = 1 + columns.index(self.monitor)  # the first one is the epoch

    def after_epoch(self) -> None:
        """Report; a value that is not a number ends the fit, too."""
        value = self.recorder.log[self.column]
        if value is None or not math.isfinite(value):
            self._end()  # diverged
        self.values.append(float(value))
        n = len(self.values)
        step = SHARES * n // self.n_epoch - 1 if self.by_share else n - 1
        if step == self.last_step:
            return
        self.last_step = step
        self.trial.report(self.values[-1], step)
        if self.trial.should_prune():
            self._end()

    def after_fit(self) -> None:
        """Keep how many epochs it ran, where reports do not tell."""
        if self.by_share:
            self.trial.set_user_attr('epochs', len(self.values))

    def _end(self) -> None:
        self.pruned = True
        raise CancelFitException()


class Tuning:
    """What `tune_learner` found: `best` (arguments), `value`, `table()`, `plot()`, `fit()`; `study` is Optuna's."""

    def __init__(
        self,
        study: Any,  # of Optuna
        monitor: str,  # column of the training table that was searched by
        train: Callable[[dict[str, Any]], RecLearner],  # trains a learner with the arguments of a trial
    ) -> None:
        self.study = study
        self.monitor = monitor
        self._train = train

    def __repr__(self) -> str:
        return f'Tuning({len(self.study.trials)} trials, best {self.monitor} {self.value:.4f} with {self.best})'

    @property
    def best(self) -> dict[str, Any]:
        """The arguments of the best trial."""
        return dict(self.study.best_params)

    @property
    def value(self) -> float:
        """The value of `monitor` that they gave."""
        return self.study.best_value

    def fit(self) -> RecLearner:
        """A learner with the best arguments, trained as in its trial."""
        return self._train(self.best)

    @property
    def _minimizes(self) -> bool:
        return self.study.direction.name == 'MINIMIZE'

    def table(self) -> pd.DataFrame:
        """A row per trial, best first.

        Columns: its arguments, the value of `monitor` at its last epoch, the epochs it ran, state ('complete', 'pruned'
        or 'fail') and seconds.
        """
        df = pd.DataFrame([self._row(trial) for trial in self.study.trials])
        values = df[self.monitor].astype(float)
        by_value = values if self._minimizes else -values
        by_state = df['state'].map(STATES.index)
        return df.iloc[np.lexsort((by_value, by_state))].reset_index(drop=True)

    def _row(self, trial: Any) -> dict[str, Any]:
        """A row of the table."""
        reported = trial.intermediate_values  # epoch -> value
        value = trial.value
        if value is None:  # of a trial that did not end
            value = reported.get(max(reported, default=0))
        return {
            'trial': trial.number,
            **trial.params,
            self.monitor: value,
            'epochs': trial.user_attrs.get('epochs', len(reported)),
            'state': trial.state.name.lower(),
            'seconds': trial.duration.total_seconds() if trial.duration else None,
        }

    def plot(
        self,
        axes: Any = None,  # matplotlib axes, one for the trials and one per argument; None: new ones
    ) -> np.ndarray:
        """The value of each finished trial against each argument, and against its number with the best so far.

        Crosses were pruned (the value is that of their last epoch), a ring is around the best. Returns the axes.
        """
        import matplotlib.pyplot as plt

        df = self.table().sort_values('trial')
        arguments = [c for c in df.columns if c not in (*NOT_ARGUMENTS, self.monitor)]
        if axes is None:
            n = 1 + len(arguments)
            _, grid = plt.subplots(1, n, figsize=(3.1 * n, 3), layout='constrained', sharey=True, squeeze=False)
            axes = grid[0]
        for ax, name in zip(axes, ['trial', *arguments]):
            self._scatter(ax, df, name)
        first = axes[0]
        complete = df[df['state'] == 'complete']
        accumulate = np.minimum.accumulate if self._minimizes else np.maximum.accumulate
        best_so_far = accumulate(complete[self.monitor])
        first.step(complete['trial'], best_so_far, where='post', color=COMPLETE['color'], lw=1)
        values = complete[self.monitor].to_numpy()
        low, high = np.quantile(values, [0, 0.9])
        if len(values) > 5 and values.max() > high + 3 * (high - low):
            first.set_ylim(low - 0.1 * (high - low), high + (high - low))  # a failure would flatten the rest
        first.set_ylabel(self.monitor)
        return axes

    def _scatter(self, ax: Any, df: pd.DataFrame, name: str) -> None:
        """Values of trials against the column `name`."""
        is_number = df[name].dtype.kind in 'if'
        x = df[name] if is_number else df[name].map(str)
        y = df[self.monitor]
        for state, style in (('complete', COMPLETE), ('pruned', PRUNED)):
            chosen = df['state'] == state
            if chosen.any():
                ax.scatter(x[chosen], y[chosen], s=22, **style)
        complete = y[df['state'] == 'complete']
        best: Any = complete.idxmin() if self._minimizes else complete.idxmax()
        ax.scatter([x[best]], [y[best]], s=90, **BEST)
        ax.set_xlabel(name)
        if is_number:
            ax.locator_params(axis='x', nbins=4)
        if df[name].dtype.kind == 'f' and df[name].min() > 0 and df[name].max() > 20 * df[name].min():
            ax.set_xscale('log')


@check_arguments
def tune_learner(
    dls: RecDataLoaders,  # what is chosen is chosen on their valid part, so report figures on other rows
    learner: Callable,  # a builder such as `svdpp_learner`
    # argument of the builder (or 'lr', 'n_epoch') -> (low, high), both whole numbers or not, (low, high, 'log'), a list
    # of choices, or a function of an Optuna trial; None: the space of the builder and of what the loaders are made for
    space: dict[str, Any] | None = None,
    n_trials: int = 20,  # in all: a study that is resumed runs those that are missing
    n_epoch: int | None = None,  # epochs of each trial, with one cycle; None: searched, or those of the recipe
    lr: float | None = None,  # highest learning rate of each trial; None: searched, or that of the recipe
    # column of the training table; None: the first metric that the builder is given, by default rmse of ratings,
    # roc_auc of likes, ndcg@10 of clicks
    monitor: str | None = None,
    # file (SQLite) or URL of an Optuna storage, from which an interrupted search goes on; None: memory
    storage: str | Path | None = None,
    name: str = 'tune',  # of the study in the storage
    prune: bool = True,  # end trials whose `monitor` is behind the median of the others at the same epoch
    seed: int = 0,  # of the sampler, and of every trial's training
    # arguments of the first trial, such as settings that are known to do well: a short search that does not find back
    # to them still has them; None: of the builder's own space its defaults
    start: dict[str, Any] | None = None,
    # time for all trials, '90s', '10min', '1h' or seconds, after which none is begun; None: as long as they take
    budget: str | float | None = None,
    **kwargs,  # of the builder
) -> Tuning:
    """The best arguments of a builder by a search (TPE, pruned by the median rule).

    `found = tune_learner(dls, svdpp_learner)` searches the space of the builder (`fastrec.training.spaces`), beginning
    with its defaults: the rate, epochs, weight decay, and what else matters most. With a space of your own,
    `tune_learner(dls, svdpp_learner, dict(wd=(.005, .1, 'log'), n_factors=[20, 50, 100]), 30)`. `found.best` are the
    arguments, `learn = found.fit()` a learner trained with them; `found.table()`, `found.plot()`.

    Rates, and epochs where they are not searched, are by default those of the recipe. `ValueError` for a space that
    makes no sense, for a study of another space, and where all trials diverged.
    """
    check_loaders(dls)
    check_held_out(dls)
    check_builder(learner, 'tune_learner')
    optuna = _optuna()
    seconds = seconds_of(budget)
    of_fit = {key: value for key, value in (('n_epoch', n_epoch), ('lr', lr)) if value is not None}
    if space is None:
        space, defaults = default_space(learner, dls, kwargs, of_fit)
        start = defaults if start is None else start
    _check_space(space, kwargs)
    of_builder = {name: None for name in [*space, *kwargs] if name not in ('n_epoch', 'lr')}
    require_known(of_builder, learner, getattr(learner, '__name__', 'the builder'))
    _check_start(start, space)
    monitor, kwargs = _monitored(learner, dls, monitor, kwargs)
    recipe = recipe_of(learner, dls)
    of_fit = {'n_epoch': recipe.n_epoch, 'lr': recipe.lr, **of_fit}

    def train(arguments: dict[str, Any], cbs: Any = None) -> RecLearner:
        args = dict(arguments)
        fit = {key: args.pop(key, value) for key, value in of_fit.items()}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            learn = learner(dls, **args, **kwargs)
            with learn.no_bar(), learn.no_logging():
                learn.fit_one_cycle(fit['n_epoch'], fit['lr'], cbs=cbs)
        return learn

    def objective(trial):
        args = {argument: _suggest(trial, argument, choice) for argument, choice in space.items()}
        pruner = PruneTrial(trial, monitor, 'n_epoch' in space)
        train(args, pruner)
        if pruner.pruned:
            raise optuna.TrialPruned()
        return pruner.values[-1]

    n_steps = SHARES if 'n_epoch' in space else int(of_fit['n_epoch'])
    url = _storage_url(storage)
    with _quiet(optuna):
        study = optuna.create_study(
            storage=url,
            study_name=name,
            load_if_exists=True,
            direction='minimize' if 'loss' in monitor or lower_is_better(monitor) else 'maximize',
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=_pruner(optuna, n_steps) if prune else optuna.pruners.NopPruner(),
        )
        _check_same_space(study, space, name, url)
        if start is not None and not study.trials:
            study.enqueue_trial(start)
        ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        n_ended = sum(trial.state in ended for trial in study.trials)
        study.optimize(objective, n_trials=max(0, n_trials - n_ended), timeout=seconds)
    if not any(trial.state.name == 'COMPLETE' for trial in study.trials):
        raise ValueError(
            f'none of {len(study.trials)} trials came to its end: training diverged in all of them. '
            'Search smaller learning rates'
        )
    return Tuning(study, monitor, train)


def _monitored(
    learner: Callable,
    dls: RecDataLoaders,
    monitor: str | None,
    kwargs: dict[str, Any],  # of the builder
) -> tuple[str, dict[str, Any]]:
    """The column to search by, and the builder's arguments, with its metric where none was given.

    A function that takes no metrics is searched by its loss.
    """
    if monitor is not None:
        return monitor, kwargs
    metrics = as_metrics(kwargs.get('metrics'))
    if metrics:
        return metric_name(metrics[0]), kwargs
    if not _takes_metrics(learner):
        return 'valid_loss', kwargs
    monitor = MONITORS[dls.target]
    return monitor, {**kwargs, 'metrics': monitor}


def _takes_metrics(learner: Callable) -> bool:
    """Has a builder an argument `metrics`, or any?"""
    parameters = inspect.signature(learner).parameters.values()
    return any(p.name == 'metrics' or p.kind == p.VAR_KEYWORD for p in parameters)


def _optuna() -> ModuleType:
    """The optional package; `ImportError` with what to install."""
    try:
        import optuna
    except ImportError as e:
        raise ImportError("tune_learner needs Optuna: pip install 'fastrec-learn[tune]'") from e
    return optuna


@contextmanager
def _quiet(optuna: ModuleType) -> Iterator[None]:
    """Without Optuna's messages about each trial."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def _storage_url(storage: str | Path | None) -> str | None:
    """What Optuna takes: a path is a file of SQLite."""
    if storage is None:
        return None
    return str(storage) if '://' in str(storage) else f'sqlite:///{storage}'


def _pruner(optuna: ModuleType, n_steps: int) -> Any:
    """The median rule, from the second third of a trial on."""
    return optuna.pruners.MedianPruner(n_startup_trials=WARM_UP, n_warmup_steps=max(1, n_steps // 3))


# --- spaces


def _check_space(space: dict[str, Any], fixed: dict[str, Any]) -> None:
    """`ValueError` for an empty space, arguments that are `fixed` as well, and choices that make no sense."""
    if not space:
        raise ValueError(
            'space={} leaves nothing to search: give arguments of the builder, e.g. '
            "dict(wd=(.01, .1, 'log'), n_factors=[20, 50])"
        )
    if both := space.keys() & fixed.keys():
        raise ValueError(f'{", ".join(sorted(both))}: searched in space, and fixed as an argument')
    for argument, choice in space.items():
        if not _is_choice(choice):
            raise ValueError(
                f"space[{argument!r}] = {choice!r}: give (low, high), (low, high, 'log') with 0 < low < high, "
                'a list of choices, or a function of an Optuna trial'
            )


def _is_choice(choice: Any) -> bool:
    """Is it something to choose from: a function, a list, (low, high) or (low, high, 'log')?"""
    if callable(choice):
        return True
    if isinstance(choice, list):
        return len(choice) > 0
    if not isinstance(choice, tuple) or len(choice) not in (2, 3):
        return False
    low, high = choice[:2]
    if not (isinstance(low, Number) and isinstance(high, Number) and low < high):  # type: ignore[operator]  # abstract
        return False
    return len(choice) == 2 or (choice[2] == 'log' and low > 0)  # type: ignore[operator]


def _check_start(start: dict[str, Any] | None, space: dict[str, Any]) -> None:
    """`ValueError` where the first trial has not the arguments of the space."""
    if start is None:
        return
    if different := space.keys() ^ start.keys():
        raise ValueError(
            f'start= takes a value for each argument of space, {", ".join(space)}, and no other: '
            f'see {", ".join(sorted(different))}'
        )


def _check_same_space(study: Any, space: dict[str, Any], name: str, storage: str | None) -> None:
    """`ValueError` where the study that is gone on with searches other arguments."""
    known = next((trial.params for trial in study.trials if trial.params), None)
    if known is not None and known.keys() != space.keys():
        raise ValueError(
            f'the study {name!r} in {storage} searches {", ".join(known)}, not {", ".join(space)}: '
            'give another name= or storage='
        )


def _suggest(trial: Any, argument: str, choice: Any) -> Any:
    """What the trial proposes for an argument."""
    if callable(choice):
        return choice(trial)
    if isinstance(choice, list):
        return trial.suggest_categorical(argument, choice)
    low, high = choice[:2]
    is_log = len(choice) == 3
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(argument, low, high, log=is_log)
    return trial.suggest_float(argument, low, high, log=is_log)
