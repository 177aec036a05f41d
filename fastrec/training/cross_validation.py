"""Figures on folds of a table: for each fold loaders are made, a model is fitted, and its held-out rows are scored."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sized
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd

from ..data.columns import as_frame
from ..data.splits import FoldMaker, KFoldSplitter, folds_of
from ..evaluation.evaluate import evaluate
from ..evaluation.held_out import held_out_rows, relevant_rows
from ..evaluation.metrics import RankingMetric
from ..evaluation.named import as_metrics, check_callable
from ..keywords import check_arguments
from ..scorers.baselines import Baseline
from ..scorers.blend import Ensemble
from ..scorers.scorer import Scorer
from .checks import check_builder
from .dataloaders import RecDataLoaders
from .learner import RecLearner
from .recipes import RECIPES, recipe_of

__all__ = ['cross_validate']

NOT_FIGURES = ['rows', 'users', 'one_class']  # columns of `evaluate` that count


@check_arguments
def cross_validate(
    df: Any,  # the rating table
    # a builder such as `svdpp_learner`, called as `builder(dls, **options)` and fitted; a baseline, `EASE` or
    # `EASE(l2=200)`; or a function of loaders that returns a fitted scorer
    builder: Callable | Baseline,
    # iterable of splitters or of (train, valid) index arrays, or scikit-learn's `KFold(5)` and its like; by default
    # `KFoldSplitter(5)`
    splitter: Iterable | KFoldSplitter | FoldMaker | None = None,
    metrics: Any = None,  # functions, objects or names, as in `evaluate`
    n_epoch: int | None = None,  # epochs of a learner, with one cycle; None: those of the builder's recipe
    lr: float | None = None,  # highest learning rate of that cycle; None: the builder's
    relevant: float | None = None,  # ranking on explicit ratings: held-out ratings from it on are relevant
    cv: Any = None,  # how many folds, or what `splitter` takes
    **options,  # of `RecDataLoaders.from_df`, as far as it has them; the others are the builder's
) -> pd.DataFrame:
    """Validation figures per fold, and their mean and standard deviation: a row each, a column per metric.

    `cross_validate(ratings, svdpp_learner, n_epoch=15, n_factors=20, bs=2048, cv=5)`,
    `cross_validate(ratings, EASE, metrics='ndcg@10', target='implicit')`. The model is made afresh for each fold; what
    a function of your own returns fitted is left as it is. `TypeError` where `splitter` is not folds, or `builder`
    returns nothing or what is not a scorer; `ValueError` where a function of your own returns a learner that is not
    trained and `n_epoch` is not given, or that is trained and `n_epoch` is given.
    """
    if isinstance(df, RecDataLoaders):
        raise TypeError(
            'cross_validate makes the loaders of each fold itself: give it the rating table, '
            'cross_validate(ratings, collab_learner)'
        )
    as_frame(df)  # says what is not a table
    if not isinstance(builder, Baseline):
        check_builder(builder, 'cross_validate')
    metrics = None if metrics is None else as_metrics(metrics)
    check_callable(metrics or [])
    of_loaders = inspect.signature(RecDataLoaders.from_df).parameters.keys() & options.keys()
    of_builder = {name: value for name, value in options.items() if name not in of_loaders}
    asked: dict[str, Any] = {} if relevant is None else dict(relevant=relevant)
    results = []
    for fold in _folds(splitter, cv, df):
        dls = RecDataLoaders.from_df(df, splitter=fold, **{name: options[name] for name in of_loaders})
        _check_can_rank(dls, metrics, relevant)
        scorer = _fitted(builder, dls, of_builder, n_epoch, lr)
        results.append(evaluate(scorer, dls, metrics, **asked).loc['all'])
    table = pd.DataFrame(results, index=pd.Index(range(len(results)), name='fold'))
    table = table.drop(columns=NOT_FIGURES, errors='ignore')
    summary = pd.DataFrame([table.mean(), table.std()], index=['mean', 'std'])
    return pd.concat([table, summary])


def _check_can_rank(dls: RecDataLoaders, metrics: list | None, relevant: float | None) -> None:
    """`ValueError`, before anything is trained, for ranking metrics where it is not said what is relevant."""
    if any(isinstance(metric, RankingMetric) for metric in metrics or []):
        _, rows = held_out_rows(dls.catalog, 'valid')
        relevant_rows(dls.catalog, rows, relevant)


# --- fitting


def _fitted(
    builder: Any, dls: RecDataLoaders, options: dict[str, Any], n_epoch: int | None, lr: float | None
) -> Scorer:
    """What the builder makes of the loaders, fitted."""
    scorer = _baseline(builder, options) or builder(dls, **options)
    _check_scorer(scorer)
    if isinstance(scorer, Baseline):
        if n_epoch is not None:
            raise TypeError(
                f'n_epoch={n_epoch} trains learners, and {type(scorer).__name__} has no training loop: leave it out'
            )
        return scorer.fit(dls) if scorer.catalog is None else scorer
    members = scorer.parts() or [scorer]
    if n_epoch is None and not scorer.is_trained and isinstance(scorer, RecLearner):
        n_epoch = _epochs_of(builder, scorer)
    if n_epoch is None:
        _check_trained(scorer)
        return scorer
    if not all(isinstance(member, RecLearner) for member in members) or not isinstance(scorer, (RecLearner, Ensemble)):
        raise TypeError(
            f'n_epoch={n_epoch} trains learners, and builder(dls) returned {type(scorer).__name__}: '
            'leave n_epoch out, and let the function return it fitted'
        )
    if any(member.fits for member in members):
        raise ValueError(
            f'builder(dls) has trained its learner, and n_epoch={n_epoch} would train it again: leave out one of them'
        )
    with scorer.no_bar(), scorer.no_logging():
        scorer.fit_one_cycle(n_epoch, lr)
    return scorer


def _baseline(builder: Any, options: dict[str, Any]) -> Baseline | None:
    """A fresh baseline, where a class or one of its objects is given; None: it is neither."""
    if isinstance(builder, Baseline):
        return type(builder)(**{**builder.config(), **options})
    cls, given = (builder.func, builder.keywords) if isinstance(builder, partial) else (builder, {})
    if isinstance(cls, type) and issubclass(cls, Baseline):
        return cls(**{**given, **options})
    return None


def _epochs_of(builder: Any, learn: RecLearner) -> int | None:
    """The epochs of the builder's recipe; None for a function of one's own, which may have forgotten to train."""
    while isinstance(builder, partial):
        builder = builder.func
    is_ours = inspect.isfunction(builder) and builder.__name__ in RECIPES
    return recipe_of(builder, learn.dls).n_epoch if is_ours else None


def _check_scorer(scorer: Any) -> None:
    """`TypeError` unless the builder has returned a scorer."""
    if scorer is None:
        raise TypeError(
            'builder(dls) returned None: it makes or trains a model and has to return it '
            '(`learn.fit_one_cycle(...)` returns nothing)'
        )
    if not isinstance(scorer, Scorer):
        raise TypeError(
            f'builder(dls) returned {type(scorer).__name__}: it has to return a learner or another `Scorer`'
        )


def _check_trained(scorer: Scorer) -> None:
    """`ValueError` for a scorer that is not fitted, and for a learner that was not trained."""
    name = type(scorer).__name__
    if scorer.catalog is None:
        raise ValueError(
            f'builder(dls) returned {name} that is not fitted: give a function that fits it, '
            f'lambda dls: {name}().fit(dls)'
        )
    if not scorer.is_trained:
        raise ValueError(
            'builder(dls) returned a learner that was not trained: let cross_validate train it, n_epoch=10, or give a '
            'function that trains a learner and returns it: '
            'def fit(dls): learn = collab_learner(dls); learn.fit_one_cycle(10, 5e-3); return learn'
        )


# --- folds


def _folds(splitter: Any, cv: Any, df: Any) -> list:
    """The folds of a table as a list; `TypeError` for one splitter, which is one fold, `ValueError` for none."""
    if splitter is not None and cv is not None:
        raise ValueError('give splitter= or cv=, not both')
    if isinstance(cv, Integral):
        if cv < 2:
            raise ValueError(f'cv={cv}: at least two folds')
        splitter, cv = KFoldSplitter(int(cv)), None
    given: Any = splitter if cv is None else cv
    if isinstance(given, FoldMaker):
        return folds_of(given, len(df))
    is_one_splitter = callable(given) and not isinstance(given, Sized)
    if is_one_splitter or (given is not None and np.isscalar(given)):
        name = 'splitter' if cv is None else 'cv'
        raise TypeError(
            f'{name}={given!r}: give folds, e.g. KFoldSplitter(5) or cv=5, or a list of splitters or of '
            '(train, valid) index arrays'
        )
    splitters: Any = KFoldSplitter(5) if given is None else given
    folds = list(splitters)
    if not folds:
        raise ValueError('no folds given')
    return folds
