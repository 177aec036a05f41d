"""Metrics as they are asked for: functions, objects, or names such as 'rmse' and 'ndcg@10'."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import partial
from typing import Any

from ..data.columns import first_few
from .metrics import (
    LabelMetric,
    RankingMetric,
    accuracy_score,
    ap,
    auc,
    coverage,
    diversity,
    f1_score,
    gini,
    hr,
    mae,
    mrr,
    ndcg,
    ndcg_score,
    novelty,
    popularity_lift,
    precision,
    precision_score,
    recall,
    recall_score,
    rmse,
    roc_auc_score,
    serendipity,
)

__all__: list[str] = []

ERRORS = dict(rmse=rmse, mae=mae)
WITH_CUT_OFF = dict(
    hr=hr,
    recall=recall,
    precision=precision,
    ndcg=ndcg,
    map=ap,
    mrr=mrr,
    coverage=coverage,
    gini=gini,
    novelty=novelty,
    popularity_lift=popularity_lift,
    diversity=diversity,
    serendipity=serendipity,
)
OF_LABELS = dict(
    roc_auc_score=roc_auc_score,
    ndcg_score=ndcg_score,
    f1_score=f1_score,
    precision_score=precision_score,
    recall_score=recall_score,
    accuracy_score=accuracy_score,
)
# other names of the same: of functions, and of columns in tables of labels
ALIASES = dict(ap='map', hit='hr', hit_rate='hr', roc_auc='roc_auc_score', f1='f1_score', accuracy='accuracy_score')
POOLED = '_pooled'  # ends the name of a metric of labels over all rows together

_MAKERS: set[Callable] = {*WITH_CUT_OFF.values(), *OF_LABELS.values(), auc}


def as_metrics(metrics: Any) -> list:
    """One metric or several as a list (None: an empty one).

    Each is a function, an object, or a name: 'rmse', 'ndcg@10', 'coverage@20', 'auc', 'roc_auc_score', for loaders of
    likes also with '_pooled' behind it. Without a cut-off it is 10: 'hr', and `hr` that was not called, stand for
    `hr()`. `ValueError` for a name that is not known, with those that are near.
    """
    if metrics is None:
        several = []
    elif isinstance(metrics, str) or callable(metrics) or not isinstance(metrics, Iterable):
        several = [metrics]
    else:
        several = list(metrics)
    return [_as_metric(metric) for metric in several]


def _as_metric(metric: Any) -> Any:
    if isinstance(metric, str):
        return metric_of(metric)
    is_maker = callable(metric) and metric in _MAKERS
    return metric() if is_maker else metric


def metric_of(name: str) -> Any:
    """The metric of a name, see `as_metrics`; `ValueError` where there is none."""
    label, at, cut_off = name.strip().lower().partition('@')
    is_pooled = label.endswith(POOLED)
    label = label.removesuffix(POOLED)
    label = ALIASES.get(label, label)
    if label in WITH_CUT_OFF and not is_pooled:
        return WITH_CUT_OFF[label](_cut_off(name, label, cut_off)) if at else WITH_CUT_OFF[label]()
    if label in OF_LABELS and not at:
        return OF_LABELS[label](pooled=is_pooled)
    if label == 'auc' and not at and not is_pooled:
        return auc()
    if label in ERRORS and not at and not is_pooled:
        return ERRORS[label]
    raise ValueError(_unknown(name, label, at, cut_off))


def _cut_off(name: str, label: str, text: str) -> int:
    if not re.fullmatch('[1-9][0-9]*', text):
        raise ValueError(f'metric {name!r}: behind the @ stands a whole number from 1 on, such as {label}@10')
    return int(text)


def _unknown(name: str, label: str, at: str, cut_off: str) -> str:
    """What is wrong with a name, what may have been meant, and what there is."""
    known = {**ERRORS, **WITH_CUT_OFF, **OF_LABELS, 'auc': auc}
    if label in known:
        what = 'the cut-off of' if at else 'what is pooled of'
        return f'metric {name!r}: {label!r} is known, but not {what} it'
    all_names = [*known, *ALIASES]
    meant = list(dict.fromkeys(ALIASES.get(near, near) for near in get_close_matches(label, all_names, 3, 0.6)))
    shown = [f'{near}@{cut_off or 10}' if near in WITH_CUT_OFF else near for near in meant]
    hint = f': did you mean {" or ".join(map(repr, shown))}?' if shown else '.'
    return (
        f'unknown metric {name!r}{hint} There are {", ".join(ERRORS)}, {", ".join(f"{o}@k" for o in WITH_CUT_OFF)}, '
        f"auc, and with target='liked' {', '.join(OF_LABELS)}"
    )


# --- kinds of metrics


def is_error(metric: Any) -> bool:
    """Is it a function of scores and targets, such as `rmse`? Others look at ranks, lists or labels."""
    return not isinstance(metric, (RankingMetric, LabelMetric))


def metric_name(metric: Any) -> str:
    """What a metric is called in tables."""
    if isinstance(metric, (RankingMetric, LabelMetric)):
        return metric.name
    if isinstance(metric, partial):
        return metric_name(metric.func)
    return metric.__name__ if inspect.isroutine(metric) else type(metric).__name__


def check_callable(metrics: list) -> None:
    """`TypeError` unless each is a function or an object that is called as one."""
    if wrong := [metric for metric in metrics if not callable(metric)]:
        raise TypeError(
            f'metrics={first_few(wrong)}: metrics are functions, objects or names: '
            "metrics=[rmse, mae], metrics=['ndcg@10']"
        )
