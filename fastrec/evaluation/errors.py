"""Errors of predicted ratings on held-out rows: of all rows, of groups of them, and by user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..data.catalog import Catalog, check_leakage, cold_groups
from ..scorers.recommend import require_numbers
from ..scorers.scorer import Scorer
from .held_out import chosen_users, held_out_rows, index_of_users, quarters
from .metrics import mae, rmse
from .named import metric_name

__all__: list[str] = []


@dataclass
class ScoredRows:
    """Held-out rows with what a scorer predicts of them."""

    scores: torch.Tensor  # float (n,)
    target: torch.Tensor  # float (n,): their ratings
    users: np.ndarray  # int64 (n,): codes
    items: np.ndarray  # int64 (n,): codes

    def values(self, metrics: list, mask: np.ndarray | None = None) -> dict[str, float]:
        """Each metric over the rows, or over those of `mask`, bool (n,)."""
        scores, target = self.scores, self.target
        if mask is not None:
            scores, target = scores[mask], target[mask]
        return {metric_name(metric): float(metric(scores, target)) for metric in metrics}


def score_held_out(scorer: Scorer, catalog: Catalog, split: str, users: Any = None, seed: int = 0) -> ScoredRows:
    """Predictions of the rows of a part of the split, or of those of some users, as in `evaluate_users`.

    `ValueError` for scores that are not ratings.
    """
    inter, rows = held_out_rows(catalog, split)
    if scorer.scale != 'rating':
        raise ValueError(
            f'{type(scorer).__name__} scores on the scale {scorer.scale!r}, not as ratings: its errors would mean '
            'nothing. Rank with it: metrics=[hr(10), ndcg(10)]'
        )
    if split != 'train':
        check_leakage(scorer, catalog, rows)
    if users is not None:
        rows = rows[np.isin(inter.users[rows], chosen_users(catalog, rows, users, seed))]
    scores = scorer.score_rows(inter, rows).cpu()
    require_numbers(scores)
    return ScoredRows(
        scores,
        torch.from_numpy(inter.ratings[rows]),
        inter.users[rows].astype(np.int64),
        inter.items[rows].astype(np.int64),
    )


def errors_by_standing(rows: ScoredRows, metrics: list, scorer: Scorer, catalog: Catalog) -> pd.DataFrame:
    """How many rows, and each metric over them: a row for each of `cold_groups`."""
    groups = cold_groups(scorer, catalog, rows.users, rows.items)
    table = [dict(rows=int(mask.sum()), **rows.values(metrics, mask)) for mask in groups.values()]
    return pd.DataFrame(table, index=list(groups))


def errors_by_quarter(rows: ScoredRows, metrics: list, catalog: Catalog, by: str) -> pd.DataFrame:
    """The same of quarters of the rows: by the training rows of their user ('history') or item ('popularity')."""
    if by == 'history':
        name, values = 'training rows of the user', catalog.counts['user'][rows.users]
    elif by == 'popularity':
        name, values = 'training rows of the item', catalog.counts['item'][rows.items]
    else:
        raise ValueError(f"by={by!r}: 'history' or 'popularity'")
    quarter_of = pd.Categorical(quarters(values), ordered=True)
    table = []
    for code in range(len(quarter_of.categories)):
        mask = quarter_of.codes == code
        table.append(dict(rows=int(mask.sum()), **rows.values(metrics, mask)))
    return pd.DataFrame(table, index=pd.Index(quarter_of.categories, name=name))


def errors_of_users(rows: ScoredRows, metrics: list, catalog: Catalog) -> pd.DataFrame:
    """How many rows each user has, and each metric over them, indexed by user id.

    `.attrs['of_rows']` has the metrics over all rows, which are not means of the users' values.
    """
    codes, user_of = np.unique(rows.users, return_inverse=True)
    n_rows = np.bincount(user_of)
    res = pd.DataFrame({'rows': n_rows}, index=index_of_users(catalog, codes))
    errors = (rows.scores.double() - rows.target.double()).numpy()
    for metric in metrics:
        if metric is rmse:
            values = np.sqrt(np.bincount(user_of, errors**2) / n_rows)
        elif metric is mae:
            values = np.bincount(user_of, np.abs(errors)) / n_rows
        else:
            values = _one_by_one(metric, rows, user_of, n_rows)
        res[metric_name(metric)] = values
    res.attrs = dict(overall={}, of_rows=rows.values(metrics))
    return res


def _one_by_one(metric: Any, rows: ScoredRows, user_of: np.ndarray, n_rows: np.ndarray) -> np.ndarray:
    """A function of one's own on the rows of each user: (n_users,)."""
    order = torch.from_numpy(np.argsort(user_of, kind='stable'))
    scores, target = (values[order].split(n_rows.tolist()) for values in (rows.scores, rows.target))
    return np.array([float(metric(s, t)) for s, t in zip(scores, target)])
