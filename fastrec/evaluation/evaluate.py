"""Honest evaluation: errors and ranks on held-out rows, warm and cold apart, for all users or by group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix

from ..data.catalog import Catalog, check_leakage, cold_groups
from ..data.columns import first_few
from ..keywords import check_arguments, require_known
from ..scorers.baselines import HasCatalog
from ..scorers.recommend import require_numbers
from ..scorers.scorer import Scorer, require_scorer
from .errors import errors_by_quarter, errors_by_standing, errors_of_users, score_held_out
from .held_out import catalog_of, chosen_users, held_out_rows, index_of_users, quarters, relevant_rows, rows_of
from .metrics import (
    Labelled,
    LabelMetric,
    ListMetric,
    RankingMetric,
    accuracy_score,
    f1_score,
    hr,
    mae,
    ndcg,
    ndcg_score,
    precision_score,
    recall_score,
    rmse,
    roc_auc_score,
)
from .named import as_metrics, check_callable, is_error, metric_name
from .ranking import lists_of, rank_held_out

__all__ = ['evaluate', 'evaluate_users', 'label_held_out']

OF_RANKING = (
    'k',
    'relevant',
    'n_candidates',
    'candidates',
    'vectors',
    'budget',
)  # arguments that errors have no use for
STANDING = ('all', 'warm', 'features', 'cold')  # rows of the table, in this order


# --- means


@check_arguments
def evaluate(
    scorer: Scorer,  # a fitted learner, baseline, or any other `Scorer`
    dls: HasCatalog | None = None,  # `RecDataLoaders` whose held-out rows are scored; by default the scorer's own
    # functions, objects or names: for ratings `[rmse, mae]`, ranking metrics such as `[hr(10), 'ndcg@10']`, for
    # `target='liked'` `[roc_auc_score(), f1_score()]`; by default by what the loaders are made for
    metrics: Any = None,
    k: int | Sequence[int] | None = None,  # cut-offs for all ranking metrics, in place of their own, e.g. `[5, 10, 20]`
    split: str = 'valid',  # 'valid' or 'test' (or 'train' for errors)
    # in quarters: ranking by group of users, 'history' (how many training rows they have) or 'popularity' (of their
    # held-out items); errors by group of rows, by the training rows of the row's user or item
    by: str | None = None,
    **kwargs,  # of `evaluate_users`: relevant, n_candidates, candidates, users, vectors, seed
) -> pd.DataFrame:
    """Means over held-out rows (errors) or over users (ranking, labels), a row for all.

    And, if some are without training rows, a row each for those who have them ('warm'), those of whom the model knows
    but features ('features'), and the rest ('cold').

    Columns: how many rows or users, and one per metric. Users whose held-out rows are all liked, or none, have no value
    of a label metric; `one_class` counts them. Metrics of all lists or rows together (coverage, gini, pooled ones) have
    a value for all, and none for a group: with `by` they are a `ValueError`.

    `ValueError` for a learner that was never trained (`Scorer.is_trained`), as for a baseline that is not fitted.
    """
    require_scorer(scorer, 'evaluate')
    require_known(kwargs, evaluate_users, 'evaluate')
    scorer.require_trained()
    catalog = catalog_of(scorer, dls)
    metrics = _metrics_asked_for(metrics, catalog, scorer, k=k, **kwargs)
    errors = [m for m in metrics if is_error(m)]
    others = [m for m in metrics if not is_error(m)]
    if by is not None:
        return _by_quarter(scorer, dls, errors, others, k, split, by, **kwargs)
    tables = []
    if errors or not others:
        rows = score_held_out(scorer, catalog, split, kwargs.get('users'), kwargs.get('seed', 0))
        tables.append(errors_by_standing(rows, errors, scorer, catalog))
    if others:
        tables.append(_means_over_users(values_of_users(scorer, dls, others, k, split, **kwargs), scorer, catalog))
    if len(tables) == 1:
        return tables[0]
    groups = [name for name in STANDING if any(name in table.index for table in tables)]
    return pd.concat([table.reindex(groups) for table in tables], axis=1)


def _metrics_asked_for(metrics: Any, catalog: Catalog, scorer: Scorer, **kwargs) -> list:
    """The metrics as a list, by default what suits; `ValueError` for arguments of ranking where nothing ranks."""
    of_ranking = [name for name in OF_RANKING if kwargs.get(name) is not None]
    if metrics is None:
        metrics = default_metrics(catalog, scorer, ranks=bool(of_ranking))
    metrics = as_metrics(metrics)
    check_callable(metrics)
    if of_ranking and all(is_error(m) for m in metrics):
        raise ValueError(
            f'{first_few(of_ranking, 20)}: for metrics that rank, and {", ".join(map(metric_name, metrics))} are '
            'errors of ratings. Leave it out, or rank: metrics=[hr(10), ndcg(10)]'
        )
    return metrics


def _by_quarter(
    scorer: Scorer,
    dls: HasCatalog | None,
    errors: list,
    others: list,
    k: int | Sequence[int] | None,
    split: str,
    by: str,
    **kwargs,
) -> pd.DataFrame:
    """`evaluate` in quarters, of rows or of users."""
    catalog = catalog_of(scorer, dls)
    if errors and others:
        raise ValueError(
            f'by= groups rows for errors ({first_few(map(metric_name, errors))}) and users for '
            f'{first_few(map(metric_name, others))}: evaluate them one after the other'
        )
    if errors:
        rows = score_held_out(scorer, catalog, split, kwargs.get('users'), kwargs.get('seed', 0))
        return errors_by_quarter(rows, errors, catalog, by)
    _check_groups(others)
    per_user = values_of_users(scorer, dls, others, k, split, **kwargs)
    ranks = any(isinstance(m, RankingMetric) for m in others)
    return _means_by_quarter(per_user, catalog, by, split, kwargs.get('relevant'), ranks)


def _check_groups(metrics: list) -> None:
    """`ValueError` for metrics that have one value for all users, and none for a group of them."""
    together = [m for m in metrics if isinstance(m, (ListMetric, LabelMetric)) and m.overall]
    if together:
        raise ValueError(
            f'by= groups users, and {first_few(together)} have one value for all users together: '
            'evaluate them without by=, or for a group of your own with users=[ids]'
        )


def default_metrics(
    catalog: Catalog,
    scorer: Scorer,
    ranks: bool = False,  # is anything asked that only ranking has, such as `relevant=`?
) -> list:
    """Metrics that suit what the loaders are made for, and what the scores of `scorer` mean."""
    inter, _ = rows_of(catalog)
    if catalog.thresholds is not None:
        if scorer.scale == 'rank':
            return [roc_auc_score(), ndcg_score()]
        return [roc_auc_score(), f1_score(), precision_score(), recall_score(), accuracy_score(), ndcg_score()]
    is_explicit = inter.weights is None
    if is_explicit and scorer.scale == 'rating' and not ranks:
        return [rmse, mae]
    return [hr(10), ndcg(10)]


def _means_over_users(per_user: pd.DataFrame, scorer: Scorer, catalog: Catalog) -> pd.DataFrame:
    """Means of the table of `evaluate_users`: a row for each group of `cold_groups`."""
    groups = cold_groups(scorer, catalog, catalog.vocab['user'].encode(per_user.index))
    means = [dict(users=int(mask.sum()), **per_user[mask].mean()) for mask in groups.values()]
    res = pd.DataFrame(means, index=list(groups))
    for name, value in per_user.attrs['overall'].items():
        res[name] = pd.Series({'all': value})
    if 'one_class' in per_user.attrs:
        res.insert(1, 'one_class', pd.Series({'all': per_user.attrs['one_class']}))
    return res


def _means_by_quarter(
    per_user: pd.DataFrame,
    catalog: Catalog,
    by: str,
    split: str,
    relevant: float | None,
    ranks: bool,  # is any metric one of ranking, which look at the relevant ones of the held-out items alone?
) -> pd.DataFrame:
    """Means of quarters of the users: by their training rows ('history'), or by those of their held-out items.

    Quarters between which no value lies are one group, and where all users have the same value there is one for all.
    """
    codes = catalog.vocab['user'].encode(per_user.index)
    inter, rows = held_out_rows(catalog, split)
    if by == 'history':
        name = 'training rows of the user'
        values = catalog.counts['user'][codes]
    elif by == 'popularity':
        name = 'training rows of the held-out items'
        if ranks:
            rows = relevant_rows(catalog, rows, relevant)
        totals = np.bincount(inter.users[rows], catalog.counts['item'][inter.items[rows]], catalog.n_users)
        n_held_out = np.maximum(inter.counts('user', rows), 1)
        values = (totals / n_held_out)[codes]
    else:
        raise ValueError(f"by={by!r}: 'history' or 'popularity'")
    grouped = per_user.groupby(quarters(values), observed=True)
    res = grouped.mean()
    res.insert(0, 'users', grouped.size())
    res.index.name = name
    if 'one_class' in per_user.attrs:
        res.attrs['one_class'] = per_user.attrs['one_class']
    return res


# --- values per user


@check_arguments
def evaluate_users(
    scorer: Scorer,  # a fitted learner, baseline, or any other `Scorer`
    dls: HasCatalog | None = None,  # loaders whose held-out rows are scored; by default the scorer's own
    metrics: Any = None,  # functions, objects or names, as in `evaluate`; by default what suits the loaders
    k: int | Sequence[int] | None = None,  # cut-offs for all ranking metrics, in place of their own, e.g. `[5, 10, 20]`
    split: str = 'valid',  # 'valid' or 'test' (or 'train' for errors)
    relevant: float | None = None,  # explicit ratings: held-out ratings from it on are relevant
    # rank the held-out items among so many unseen ones drawn at random, in place of the whole catalogue
    n_candidates: int | None = None,
    candidates: pd.DataFrame | csr_matrix | None = None,  # table (user, item): rank the held-out items among these only
    users: Any = None,  # user ids, or how many to draw at random (by `seed`); by default all with a held-out item
    # tensor (n_items, d) in code order that says how alike items are, for diversity and serendipity; by default who has
    # them in training
    vectors: torch.Tensor | np.ndarray | None = None,
    seed: int = 0,  # of users that are drawn and of sampled candidates
    budget: int | None = None,  # bytes that how alike items are may take; None: half of the memory that is available
) -> pd.DataFrame:
    """Metrics per user, indexed by user id; the first arguments are those of `evaluate`.

    Of errors the user's own, over the user's rows, of which `rows` says how many there are; `.attrs['of_rows']` has
    them over all rows. A sampled protocol is named in the columns: 'hr@10 (1+99 sampled)'.

    Metrics of all lists or rows together (coverage, gini, pooled ones) are in `.attrs['overall']`;
    `.attrs['one_class']` counts the users left out of label metrics, since all their held-out rows are liked, or none.
    `ValueError` for a learner that was never trained.
    """
    require_scorer(scorer, 'evaluate_users')
    scorer.require_trained()
    of_ranking = dict(relevant=relevant, n_candidates=n_candidates, candidates=candidates, vectors=vectors)
    metrics = _metrics_asked_for(metrics, catalog_of(scorer, dls), scorer, k=k, budget=budget, **of_ranking)
    return values_of_users(scorer, dls, metrics, k, split, users=users, seed=seed, budget=budget, **of_ranking)


def values_of_users(
    scorer: Scorer,
    dls: HasCatalog | None,
    metrics: list,
    k: int | Sequence[int] | None = None,
    split: str = 'valid',
    users: Any = None,
    seed: int = 0,
    **kwargs,  # of `_rank_users`
) -> pd.DataFrame:
    """`evaluate_users` of metrics that are known, whether or not the scorer was trained: a fit shows how it goes on."""
    errors = [m for m in metrics if is_error(m)]
    of_labels = [m for m in metrics if isinstance(m, LabelMetric)]
    ranking = [m for m in metrics if isinstance(m, RankingMetric)]
    tables = []
    if errors:
        catalog = catalog_of(scorer, dls)
        tables.append(errors_of_users(score_held_out(scorer, catalog, split, users, seed), errors, catalog))
    if of_labels:
        tables.append(_label_users(scorer, dls, of_labels, split, users, seed))
    if ranking or not tables:
        tables.append(_rank_users(scorer, dls, ranking, k, split, users=users, seed=seed, **kwargs))
    if len(tables) == 1:
        return tables[0]
    attrs = [table.attrs for table in tables]
    for table in tables:
        table.attrs = {}  # pandas would compare them
    joined = pd.concat(tables, axis=1).sort_index()
    joined.index.name = tables[0].index.name
    joined.attrs = {name: value for of_table in attrs for name, value in of_table.items()}
    joined.attrs['overall'] = {name: value for of_table in attrs for name, value in of_table['overall'].items()}
    return joined


def _rank_users(
    scorer: Scorer,
    dls: HasCatalog | None,
    metrics: list[RankingMetric],
    k: int | Sequence[int] | None,
    split: str,
    relevant: float | None = None,
    n_candidates: int | None = None,
    candidates: pd.DataFrame | csr_matrix | None = None,
    users: Any = None,
    vectors: torch.Tensor | np.ndarray | None = None,
    seed: int = 0,
    budget: int | None = None,
) -> pd.DataFrame:
    """`evaluate_users` of ranking metrics."""
    if k is not None:
        metrics = _at_cut_offs(metrics, k)
    of_lists = [m for m in metrics if isinstance(m, ListMetric)]
    of_ranks = [m for m in metrics if not isinstance(m, ListMetric)]
    if of_lists and (n_candidates is not None or candidates is not None):
        raise ValueError(
            f'{first_few(of_lists)} look at recommendations from the whole catalogue: '
            'leave out n_candidates and candidates'
        )
    codes, ranks, top = rank_held_out(
        scorer,
        dls,
        split,
        relevant,
        n_candidates,
        candidates,
        users,
        seed,
        k=max([m.k for m in of_lists], default=0),
        cut=max([np.inf if m.k is None else int(m.k) for m in of_ranks], default=1),
    )
    catalog = catalog_of(scorer, dls)
    protocol = _protocol(n_candidates, candidates)
    columns = {m.name + protocol: m(ranks).numpy() for m in of_ranks}
    res = pd.DataFrame(columns, index=index_of_users(catalog, codes))
    res.attrs['overall'] = {}
    for metric in of_lists:
        assert top is not None
        values = metric(lists_of(catalog, codes, top[:, : metric.k], split, relevant, vectors, budget))
        if metric.overall:
            res.attrs['overall'][metric.name] = values.item()
        else:
            res[metric.name] = values.numpy()
    return res


def _at_cut_offs(metrics: list, k: int | Sequence[int]) -> list:
    """Ranking metrics at each of the cut-offs; those that have none, or come twice, once."""
    cut_offs: Any = [k] if np.isscalar(k) else k
    return list(dict.fromkeys(metric.at(cut_off) for metric in metrics for cut_off in cut_offs))


def _protocol(n_candidates: int | None, candidates: Any) -> str:
    """What the names of metrics say of the candidates: nothing for the whole catalogue."""
    if n_candidates is not None:
        return f' (1+{int(n_candidates)} sampled)'
    return '' if candidates is None else ' (given candidates)'


def _label_users(
    scorer: Scorer, dls: HasCatalog | None, metrics: list[LabelMetric], split: str, users: Any, seed: int
) -> pd.DataFrame:
    """`evaluate_users` of label metrics: users whose held-out rows are of one class are left out."""
    codes, rows = label_held_out(scorer, dls, split, users, seed)
    of_users = {m.name: m(rows).numpy() for m in metrics if not m.pooled}
    of_all = {m.name: m(rows).item() for m in metrics if m.pooled}
    res = pd.DataFrame(of_users, index=index_of_users(catalog_of(scorer, dls), codes))
    has_both = ~rows.one_class.numpy()
    if of_users:
        res = res[has_both]
        if not has_both.any():
            raise ValueError(
                f'all of the {len(codes):,} users have held-out rows of one class only (all liked, or none): there is '
                'nothing to tell apart. Hold out more rows, or use pooled metrics'
            )
    res.attrs = dict(overall=of_all, one_class=int((~has_both).sum()))
    return res


# --- labels of held-out rows


@check_arguments
def label_held_out(
    scorer: Scorer,  # a fitted learner, baseline, or any other `Scorer`
    dls: HasCatalog | None = None,  # loaders whose held-out rows are scored; by default the scorer's own
    split: str = 'valid',  # 'valid', 'test' or 'train'
    users: Any = None,  # user ids, or how many to draw at random (by `seed`); by default all with a held-out row
    seed: int = 0,  # of users that are drawn
) -> tuple[np.ndarray, Labelled]:
    """-> codes of users with held-out rows (n,), and the `Labelled` of those rows; arguments as in `evaluate_users`.

    The labels are those of loaders made with `target='liked'`; `ValueError` for others.
    """
    catalog = catalog_of(scorer, dls)
    inter, rows = held_out_rows(catalog, split)
    if catalog.thresholds is None:
        raise ValueError(
            'these metrics ask whether users like what was held out: make the loaders with '
            "RecDataLoaders.from_df(..., target='liked')"
        )
    if split != 'train':
        check_leakage(scorer, catalog, rows)
    codes = chosen_users(catalog, rows, users, seed)
    if users is not None:
        rows = rows[np.isin(inter.users[rows], codes)]
    scores = scorer.score_rows(inter, rows).float().cpu()
    require_numbers(scores)
    row_users = torch.from_numpy(inter.users[rows].astype(np.int64))
    return codes, labelled(scorer, catalog, row_users, scores, torch.from_numpy(catalog.liked(rows)))


def labelled(
    scorer: Scorer, catalog: Catalog, users: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor
) -> Labelled:
    """`Labelled` of scores (n,) and labels (n,) of pairs whose users have the codes (n,).

    What a score says of 'liked' depends on the scorer's scale.
    """
    likes_from: float | torch.Tensor = 0.0  # the score from which on an item is said to be liked
    if scorer.scale == 'probability':
        likes_from = 0.5
    elif scorer.scale == 'rating':
        likes_from = torch.from_numpy(catalog.thresholds)[users]
    _, positions = torch.unique(users, return_inverse=True)
    n_users = int(positions.max()) + 1 if len(positions) else 0
    return Labelled(scores.double() - likes_from, labels.bool(), positions, n_users, decides=scorer.scale != 'rank')
