"""Honest evaluation: errors and ranks on held-out rows, warm and cold apart, for all users or by group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix

from ..data.catalog import Catalog, check_leakage, cold_groups, stored_ones
from ..data.columns import first_few
from ..data.interactions import Interactions
from ..data.sampling import NegativeSampler
from ..data.splits import Split
from ..memory import require_memory
from ..notices import warn_user
from ..progress import Progress
from ..scorers.baselines import HasCatalog, gram
from ..scorers.recommend import mask_seen, ranker_for, require_numbers, seen_matrix, top_k, users_at_a_time
from ..scorers.scorer import Scorer
from .metrics import (
    Labelled,
    LabelMetric,
    ListMetric,
    RankingMetric,
    Ranks,
    TopK,
    accuracy_score,
    as_metrics,
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

__all__ = ['evaluate', 'evaluate_users', 'label_held_out', 'rank_held_out']

BYTES_PER_PAIR_OF_LIST = 40  # of how alike two items of a list are, on the way to a metric


# --- means


def evaluate(
    scorer: Scorer,  # a fitted learner, baseline, or any other `Scorer`
    dls: HasCatalog | None = None,  # `RecDataLoaders` whose held-out rows are scored; by default the scorer's own
    # `[rmse, mae]` for ratings, ranking metrics such as `[hr(10), ndcg(10)]`, for `target='liked'` `[roc_auc_score(),
    # f1_score()]`; by default by what the loaders are made for
    metrics: Callable | Iterable[Callable] | None = None,
    k: int | Sequence[int] | None = None,  # cut-offs for all ranking metrics, in place of their own, e.g. `[5, 10, 20]`
    split: str = 'valid',  # 'valid' or 'test' (or 'train' for errors)
    # ranking by group of users: 'history' (how many training rows they have) or 'popularity' (of their held-out items),
    # in quarters
    by: str | None = None,
    **kwargs,  # of `evaluate_users`: relevant, n_candidates, candidates, users, vectors, seed
) -> pd.DataFrame:
    """Means over held-out rows (errors) or over users (ranking, labels), a row for all.

    And, if some are without training rows, a row each for those who have them ('warm'), those of whom the model knows
    but features ('features'), and the rest ('cold').

    Columns: how many rows or users, and one per metric. Users whose held-out rows are all liked, or none, have no value
    of a label metric; `one_class` counts them. Metrics of all lists or rows together (coverage, gini, pooled ones) have
    a value for all, and none for a group: with `by` they are a `ValueError`.

    Warns of a learner that was never trained (`Scorer.is_trained`).
    """
    catalog = _catalog_of(scorer, dls)
    metrics = as_metrics(default_metrics(catalog, scorer) if metrics is None else metrics)
    if any(isinstance(m, (RankingMetric, LabelMetric)) for m in metrics):
        if by is not None:
            _check_groups(metrics)
        per_user = evaluate_users(scorer, dls, metrics, k, split, **kwargs)
        if by is None:
            return _means_over_users(per_user, scorer, catalog)
        ranks = any(isinstance(m, RankingMetric) for m in metrics)
        return _means_by_quarter(per_user, catalog, by, split, kwargs.get('relevant'), ranks)
    if by is not None:
        raise ValueError(
            'by= groups users, which ranking metrics are means over; errors are told apart as warm and cold'
        )
    of_ranking = {'k': k, **kwargs}
    if asked := [name for name, value in of_ranking.items() if value is not None]:
        raise ValueError(
            f'{first_few(asked, 20)}: for metrics that rank, and {", ".join(m.__name__ for m in metrics)} are errors '
            'of ratings. Leave it out, or rank: metrics=[hr(10), ndcg(10)]'
        )
    return _errors(scorer, catalog, metrics, split)


def _check_groups(metrics: list) -> None:
    """`ValueError` for metrics that have one value for all users, and none for a group of them."""
    together = [m for m in metrics if isinstance(m, (ListMetric, LabelMetric)) and m.overall]
    if together:
        raise ValueError(
            f'by= groups users, and {first_few(together)} have one value for all users together: '
            'evaluate them without by=, or for a group of your own with users=[ids]'
        )


def _warn_untrained(scorer: Scorer) -> None:
    """Warn of figures that are those of a random start."""
    if not scorer.is_trained:
        warn_user(
            f'{type(scorer.model or scorer).__name__} was never trained: its figures are those of a random start. '
            'Train it first, e.g. learn.fit_one_cycle(5, 5e-3)'
        )


def default_metrics(catalog: Catalog, scorer: Scorer) -> list:
    """Metrics that suit what the loaders are made for, and what the scores of `scorer` mean."""
    inter, _ = _rows_of(catalog)
    if catalog.thresholds is not None:
        if scorer.scale == 'rank':
            return [roc_auc_score(), ndcg_score()]
        return [roc_auc_score(), f1_score(), precision_score(), recall_score(), accuracy_score(), ndcg_score()]
    is_explicit = inter.weights is None
    if is_explicit and scorer.scale == 'rating':
        return [rmse, mae]
    return [hr(10), ndcg(10)]


def _catalog_of(scorer: Scorer, dls: HasCatalog | None) -> Catalog:
    """The catalog whose held-out rows are looked at."""
    return scorer.require_fitted() if dls is None else dls.catalog


def _rows_of(catalog: Catalog) -> tuple[Interactions, Split]:
    """The rows and their split; `ValueError` where they are not in memory."""
    history = catalog.require_history()
    assert history.interactions is not None and history.split is not None  # `require_history` has seen to it
    return history.interactions, history.split


def _held_out(catalog: Catalog, part: str) -> tuple[Interactions, np.ndarray]:
    """The interactions, and which rows (n,) of them are in the part 'valid', say; `ValueError` where there are none."""
    inter, split = _rows_of(catalog)
    parts = {name: rows for name, rows in split._asdict().items() if rows is not None}
    if part not in parts:
        raise ValueError(f'there is no {part!r} part: the split has {list(parts)}')
    if not len(parts[part]):
        raise ValueError(
            'no rows are held out (valid_pct=0), so there is nothing to evaluate on: choose settings on loaders that '
            'hold some out, then train on all'
        )
    return inter, parts[part]


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
    inter, rows = _held_out(catalog, split)
    if by == 'history':
        name = 'training rows of the user'
        values = catalog.counts['user'][codes]
    elif by == 'popularity':
        name = 'training rows of the held-out items'
        if ranks:
            rows = _relevant(catalog, rows, relevant)
        totals = np.bincount(inter.users[rows], catalog.counts['item'][inter.items[rows]], catalog.n_users)
        n_held_out = np.maximum(inter.counts('user', rows), 1)
        values = (totals / n_held_out)[codes]
    else:
        raise ValueError(f"by={by!r}: 'history' or 'popularity'")
    grouped = per_user.groupby(_quarters(values), observed=True)
    res = grouped.mean()
    res.insert(0, 'users', grouped.size())
    res.index.name = name
    if 'one_class' in per_user.attrs:
        res.attrs['one_class'] = per_user.attrs['one_class']
    return res


def _quarters(values: np.ndarray) -> np.ndarray:
    """The interval of its quarter for each of the values (n,), as objects (n,)."""
    if values.min() == values.max():
        res: np.ndarray = np.empty(len(values), dtype=object)
        res[:] = pd.Interval(values[0], values[0], closed='both')
        return res
    return np.asarray(pd.qcut(values, 4, duplicates='drop', precision=0))


def _errors(scorer: Scorer, catalog: Catalog, metrics: list, split: str) -> pd.DataFrame:
    """Metrics of scores against ratings, such as `rmse`: a row for each group of `cold_groups`."""
    inter, rows = _held_out(catalog, split)
    if split != 'train':
        check_leakage(scorer, catalog, rows)
    if scorer.scale != 'rating':
        raise ValueError(
            f'{type(scorer).__name__} scores on the scale {scorer.scale!r}, not as ratings: its errors would mean '
            'nothing. Rank with it: metrics=[hr(10), ndcg(10)]'
        )
    _warn_untrained(scorer)
    scores = scorer.score_rows(inter, rows).cpu()
    require_numbers(scores)
    target = torch.from_numpy(inter.ratings[rows])
    groups = cold_groups(scorer, catalog, inter.users[rows].astype(np.int64), inter.items[rows].astype(np.int64))
    res = []
    for mask in groups.values():
        values = {metric.__name__: metric(scores[mask], target[mask]).item() for metric in metrics}
        res.append(dict(rows=int(mask.sum()), **values))
    return pd.DataFrame(res, index=list(groups))


# --- values per user


def evaluate_users(
    scorer: Scorer,
    dls: HasCatalog | None = None,
    metrics: Callable | Iterable[Callable] | None = None,
    k: int | Sequence[int] | None = None,
    split: str = 'valid',
    relevant: float | None = None,  # explicit ratings: held-out ratings from it on are relevant
    # rank the held-out items among so many unseen ones drawn at random, in place of the whole catalogue
    n_candidates: int | None = None,
    candidates: pd.DataFrame | csr_matrix | None = None,  # table (user, item): rank the held-out items among these only
    users: Any = None,  # user ids, or how many to draw at random (by `seed`); by default all with a held-out item
    # tensor (n_items, d) in code order that says how alike items are, for diversity and serendipity; by default who has
    # them in training
    vectors: torch.Tensor | np.ndarray | None = None,
    seed: int = 0,
    budget: int | None = None,  # bytes that how alike items are may take; None: half of the memory that is available
) -> pd.DataFrame:
    """Metrics per user, of ranking or of labels, indexed by user id; the first arguments are those of `evaluate`.

    A sampled protocol is named in the columns: 'hr@10 (1+99 sampled)'.

    Metrics of all lists or rows together (coverage, gini, pooled ones) are in `.attrs['overall']`;
    `.attrs['one_class']` counts the users left out of label metrics, since all their held-out rows are liked, or none.
    """
    if metrics is None:
        catalog = _catalog_of(scorer, dls)
        metrics = [hr(10), ndcg(10)] if catalog.thresholds is None else default_metrics(catalog, scorer)
    metrics = as_metrics(metrics)
    _warn_untrained(scorer)
    of_labels = [m for m in metrics if isinstance(m, LabelMetric)]
    others = [m for m in metrics if not isinstance(m, LabelMetric)]
    if not of_labels:
        return _rank_users(
            scorer, dls, others, k, split, relevant, n_candidates, candidates, users, vectors, seed, budget
        )
    res = _label_users(scorer, dls, of_labels, split, users, seed)
    if not others:
        return res
    ranked = _rank_users(
        scorer, dls, others, k, split, relevant, n_candidates, candidates, users, vectors, seed, budget
    )
    both = pd.concat([res, ranked], axis=1).sort_index()
    both.index.name = 'user'
    both.attrs = dict(
        overall={**res.attrs['overall'], **ranked.attrs['overall']},
        one_class=res.attrs['one_class'],
    )
    return both


def _rank_users(
    scorer: Scorer,
    dls: HasCatalog | None,
    metrics: list,  # of ranking; `TypeError` if there are others
    k: int | Sequence[int] | None,
    split: str,
    relevant: float | None,
    n_candidates: int | None,
    candidates: pd.DataFrame | csr_matrix | None,
    users: Any,
    vectors: torch.Tensor | np.ndarray | None,
    seed: int,
    budget: int | None,
) -> pd.DataFrame:
    """`evaluate_users` of ranking metrics."""
    if errors := [m for m in metrics if not isinstance(m, RankingMetric)]:
        raise TypeError(f'errors and ranking metrics are evaluated apart; no ranking metric: {first_few(errors)}')
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
    catalog = _catalog_of(scorer, dls)
    protocol = _protocol(n_candidates, candidates)
    columns = {m.name + protocol: m(ranks).numpy() for m in of_ranks}
    res = pd.DataFrame(columns, index=_index_of_users(catalog, codes))
    res.attrs['overall'] = {}
    for metric in of_lists:
        assert top is not None
        values = metric(_lists(catalog, codes, top[:, : metric.k], split, relevant, vectors, budget))
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


def _index_of_users(catalog: Catalog, codes: np.ndarray) -> pd.Index:
    """The ids of codes (n,)."""
    return pd.Index(catalog.vocab['user'].decode(codes), name='user')


def _label_users(
    scorer: Scorer, dls: HasCatalog | None, metrics: list[LabelMetric], split: str, users: Any, seed: int
) -> pd.DataFrame:
    """`evaluate_users` of label metrics: users whose held-out rows are of one class are left out."""
    codes, rows = label_held_out(scorer, dls, split, users, seed)
    of_users = {m.name: m(rows).numpy() for m in metrics if not m.pooled}
    of_all = {m.name: m(rows).item() for m in metrics if m.pooled}
    res = pd.DataFrame(of_users, index=_index_of_users(_catalog_of(scorer, dls), codes))
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


# --- which rows and users


def _relevant(catalog: Catalog, rows: np.ndarray, relevant: float | None) -> np.ndarray:
    """Those of the held-out `rows` that are to be ranked: liked, positive, or rated from `relevant` on."""
    inter, _ = _rows_of(catalog)
    relevant = None if relevant is None else float(relevant)  # a float64 of numpy would be compared in float64
    if relevant is None and catalog.thresholds is not None:
        res = rows[catalog.liked(rows)]
    elif inter.weights is not None:
        if relevant is not None:
            raise ValueError(
                'relevant= is for explicit ratings; of implicit feedback the positives are relevant '
                '(threshold= when the loaders are made)'
            )
        res = inter.positive(rows)
    elif relevant is not None:
        res = rows[inter.ratings[rows] >= relevant]
    else:
        low, high = inter.ratings.min(), inter.ratings.max()
        raise ValueError(
            f'ranking on explicit ratings: say which held-out ratings are relevant, e.g. relevant={high - 1:g}, '
            f'in the training table cbs=RankingCallback([ndcg(10)], relevant={high - 1:g}) '
            f'(they run from {low:g} to {high:g})'
        )
    if not len(res):
        why = '' if relevant is None else f': no rating reaches {relevant:g}'
        raise ValueError(f'none of the {len(rows):,} held-out rows is relevant{why}')
    return res


def _chosen(catalog: Catalog, rows: np.ndarray, users: Any, seed: int) -> np.ndarray:
    """Codes of the users to evaluate, int64, ascending: all who have one of `rows`, so many of them, or those named."""
    inter, _ = _rows_of(catalog)
    with_items = np.unique(inter.users[rows]).astype(np.int64)
    if users is None:
        return with_items
    is_number = np.isscalar(users) and not isinstance(users, str)
    if is_number:
        _check_count('users', users, 'user')
        n = min(int(users), len(with_items))
        return np.sort(np.random.default_rng(seed).choice(with_items, n, replace=False))
    codes = np.unique(catalog.vocab['user'].encode(users))
    if not len(codes):
        raise ValueError('users= names nobody: leave it out for all users with a held-out item')
    without = np.setdiff1d(codes, with_items)
    if len(without):
        named = first_few(catalog.vocab['user'].decode(without))
        raise ValueError(f'{len(without):,} of the users have no held-out item to rank: {named}')
    return codes


def _check_count(argument: str, n: Any, what: str) -> None:
    """`ValueError` unless the argument is a whole number from 1 on; `what` is what it counts."""
    if not 1 <= n < np.inf or int(n) != n:
        raise ValueError(f'{argument}={n}: a whole number, of at least one {what}; leave it out for all')


# --- labels of held-out rows


def label_held_out(
    scorer: Scorer, dls: HasCatalog | None = None, split: str = 'valid', users: Any = None, seed: int = 0
) -> tuple[np.ndarray, Labelled]:
    """-> codes of users with held-out rows (n,), and the `Labelled` of those rows; arguments as in `evaluate_users`.

    The labels are those of loaders made with `target='liked'`; `ValueError` for others.
    """
    catalog = _catalog_of(scorer, dls)
    inter, rows = _held_out(catalog, split)
    if catalog.thresholds is None:
        raise ValueError(
            'these metrics ask whether users like what was held out: make the loaders with '
            "RecDataLoaders.from_df(..., target='liked')"
        )
    if split != 'train':
        check_leakage(scorer, catalog, rows)
    codes = _chosen(catalog, rows, users, seed)
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


# --- ranks of held-out items


def rank_held_out(
    scorer: Scorer,
    dls: HasCatalog | None = None,
    split: str = 'valid',  # 'valid' or 'test'
    relevant: float | None = None,
    n_candidates: int | None = None,
    candidates: pd.DataFrame | csr_matrix | None = None,
    users: Any = None,
    seed: int = 0,
    k: int = 0,  # how many recommendations to return of each user
    cut: float = np.inf,  # ranks beyond it may be inf, which spares counting them out
) -> tuple[np.ndarray, Ranks, torch.Tensor | None]:
    """-> codes of users with held-out items (n,), `Ranks` of those items, and the first `k` recommendations (n, k).

    The latter are codes, -1 where there are fewer (None if k=0); other arguments as in `evaluate_users`.

    Candidates are all items but those of the training rows (split='test': nor of the valid rows). Users go through in
    chunks of a fixed memory budget.
    """
    catalog = _catalog_of(scorer, dls)
    inter, rows = _held_out(catalog, split)
    if split == 'train':
        raise ValueError("training rows are masked when ranking: choose split='valid' or 'test'")
    rows = _relevant(catalog, rows, relevant)
    check_leakage(scorer, catalog, rows)
    codes = _chosen(catalog, rows, users, seed)
    ones: np.ndarray = np.ones(len(rows), np.int8)
    held_out = csr_matrix((ones, (inter.users[rows], inter.items[rows])), shape=(catalog.n_users, catalog.n_items))
    among = _candidates(catalog, split, held_out, codes, n_candidates, candidates, seed)
    # values of a ranker order a whole catalogue; candidates that are few are ranked by scores
    ranker = ranker_for(scorer, len(codes)) if isinstance(among, _Unseen) else None
    step = users_at_a_time(ranker, catalog.n_items)
    run = _RankingRun(scorer, scorer.score_items if ranker is None else ranker, held_out, among, k, cut)
    ranks = []
    top = []
    with scorer.inference(), Progress(len(codes), 'evaluating', 'users', scorer.shows_progress) as progress:
        for start in range(0, len(codes), step):
            chunk = codes[start : start + step]
            chunk_ranks, chunk_top = run.rank(chunk)
            ranks.append(chunk_ranks)
            top.append(chunk_top)
            progress.update(len(chunk))
    return codes, _joined(ranks), torch.cat(top) if k else None


@dataclass
class _RankingRun:
    """What each chunk of users goes through: scores, candidates, ranks."""

    scorer: Scorer
    score: Callable[[torch.Tensor], torch.Tensor]  # codes of users (B,) -> values (B, n_items) that order their items
    held_out: csr_matrix  # (n_users, n_items) with an entry for each item to be ranked
    candidates: _Candidates
    k: int  # length of the lists to return
    cut: float  # rank beyond which it does not matter

    def rank(self, users: np.ndarray) -> tuple[Ranks, torch.Tensor | None]:
        """Ranks of the held-out items of codes of users (B,), and their first `k` items (B, k), -1 where fewer."""
        scores = self.score(torch.from_numpy(users)).float()
        rows, items = _stored_entries(self.held_out[users], scores.device)
        scores, n_candidates = self.candidates.among(scores, users, rows, items)
        best, best_items = top_k(scores, self._n_best(scores.shape[1]))
        require_numbers(best, masked=True)
        last = best[:, int(self.cut) - 1] if self.cut <= best.shape[1] else None
        ranks = Ranks.of(scores, rows, items, last, n_candidates)
        if not self.k:
            return ranks, None
        return ranks, torch.where(torch.isfinite(best), best_items, -1)[:, : self.k].cpu()

    def _n_best(self, n_items: int) -> int:
        """How many of the best are looked for: to tell what is among the first `cut`, and to see what is not a number.

        Without a cut inside the catalogue the best one is enough.
        """
        return max(self.k, int(self.cut) if self.cut < n_items else 1)


def _joined(chunks: list[Ranks]) -> Ranks:
    """Ranks of chunks of users as those of all of them."""
    first_user = np.cumsum([0] + [len(chunk.n_candidates) for chunk in chunks])
    users = [chunk.users + int(first) for chunk, first in zip(chunks, first_user)]
    return Ranks(
        torch.cat([chunk.ranks for chunk in chunks]),
        torch.cat(users),
        torch.cat([chunk.n_candidates for chunk in chunks]),
    )


def _stored_entries(matrix: csr_matrix, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the stored entries of a CSR matrix, int64 (n,) each."""
    rows: np.ndarray = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    columns = matrix.indices.astype(np.int64)
    return torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)


# --- candidates


class _Candidates(Protocol):
    """Which items the held-out ones are ranked among."""

    def among(
        self, scores: torch.Tensor, users: np.ndarray, rows: torch.Tensor, items: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scores (B, n_items) of codes of users (B,), with -inf where an item is not a candidate; they may be changed.

        `rows` and `items` (n,) are the held-out entries, which are always candidates. And how many candidates there
        are, (B,), if it is known.
        """
        ...


class _Unseen:
    """The whole catalogue but what a user has."""

    def __init__(self, seen: csr_matrix) -> None:
        self.seen = seen

    def among(
        self, scores: torch.Tensor, users: np.ndarray, rows: torch.Tensor, items: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        seen = self.seen[users]
        mask_seen(scores, seen)
        n_seen = np.diff(seen.indptr).astype(np.int64)
        return scores, torch.from_numpy(scores.shape[1] - n_seen)


class _Given:
    """The items of a table."""

    def __init__(self, given: csr_matrix) -> None:
        self.given = given

    def among(
        self, scores: torch.Tensor, users: np.ndarray, rows: torch.Tensor, items: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        is_candidate = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
        is_candidate[rows, items] = True
        is_candidate[_stored_entries(self.given[users], scores.device)] = True
        return torch.where(is_candidate, scores, -torch.inf), None


class _Sampled:
    """So many items, drawn at random for each user, that the user has not and that are not held out."""

    def __init__(self, sampler: NegativeSampler, n: int, seed: int) -> None:
        self.sampler = sampler
        self.n = n
        self.generator = torch.Generator().manual_seed(seed)

    def among(
        self, scores: torch.Tensor, users: np.ndarray, rows: torch.Tensor, items: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        is_candidate = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
        is_candidate[rows, items] = True
        drawn = self.sampler.sample(torch.from_numpy(users), self.n, self.generator)
        is_candidate.scatter_(1, drawn.to(scores.device), True)
        return torch.where(is_candidate, scores, -torch.inf), None


def _candidates(
    catalog: Catalog,
    split: str,
    held_out: csr_matrix,  # (n_users, n_items) with an entry for each item to be ranked
    users: np.ndarray,  # codes of those who are evaluated
    n_candidates: int | None,
    candidates: pd.DataFrame | csr_matrix | None,
    seed: int,
) -> _Candidates:
    """The candidates that the arguments of `rank_held_out` ask for."""
    if n_candidates is not None and candidates is not None:
        raise ValueError('give n_candidates or candidates, not both')
    if candidates is not None:
        given = stored_ones(seen_matrix(catalog, candidates, unknown='raise').tocsr())
        _check_given(catalog, given[users], stored_ones(held_out)[users], users)
        return _Given(given)
    history = catalog.require_history()
    _, parts = _rows_of(catalog)
    if split == 'valid':
        seen = history.seen
    else:
        seen = history.matrix(np.concatenate([parts.train, parts.valid]))
    if n_candidates is None:
        return _Unseen(seen)
    _check_count('n_candidates', n_candidates, 'item')
    n_candidates = int(n_candidates)
    # What is seen or held out is not a negative; entries may be 0, and a sum of matrices leaves those out.
    sampler = NegativeSampler(stored_ones(seen) + stored_ones(held_out))
    left = sampler.left()[users]
    if left.min() < n_candidates:
        n_short = int((left < n_candidates).sum())
        raise ValueError(
            f'n_candidates={n_candidates}: {n_short:,} users have fewer unseen items (the fewest: {left.min()}). '
            'Take less, or the whole catalogue'
        )
    return _Sampled(sampler, n_candidates, seed)


def _check_given(catalog: Catalog, given: csr_matrix, held_out: csr_matrix, users: np.ndarray) -> None:
    """`ValueError` if any of `users`, codes (B,), has no candidate beside the held-out items; matrices (B, n_items).

    Whatever the scores, those items would have the first ranks.
    """
    n_others = np.diff(given.indptr) - np.asarray(given.multiply(held_out).sum(1)).ravel()
    without = users[n_others == 0]
    if len(without):
        named = first_few(catalog.vocab['user'].decode(without))
        raise ValueError(
            f'candidates=: {len(without):,} of {len(users):,} users have no item there beside what is held out, and '
            f'would be ranked perfectly, whatever the scores: {named}. Give them candidates, or leave them out: '
            'users=[ids of the others]'
        )


# --- what metrics of lists look at


def _lists(
    catalog: Catalog,
    codes: np.ndarray,  # of users (n_users,)
    items: torch.Tensor,  # (n_users, k): codes of their lists, -1 where they are shorter
    split: str,
    relevant: float | None,
    vectors: torch.Tensor | np.ndarray | None,
    budget: int | None,
) -> TopK:
    """What `ListMetric`s look at; `MemoryError` where that is beyond the budget."""
    n_users, k = items.shape
    table = 4 * catalog.n_items**2 if vectors is None else 0
    way_out = 'take shorter lists, or users=1000'
    if table:
        way_out = 'give vectors=, such as learn.vectors(), in place of who has both'
    require_memory(
        table + BYTES_PER_PAIR_OF_LIST * n_users * k * k,
        f'how alike {catalog.n_items:,} items are, and those of {n_users:,} lists of {k},',
        way_out,
        budget,
        'evaluate(..., {})',
    )
    owned = catalog.require_history().positives
    who_has_what = csr_matrix((np.ones(owned.nnz, np.float32), owned.indices, owned.indptr), shape=owned.shape)
    owned_by_users = who_has_what[codes]
    n_owned = np.maximum(np.diff(owned.indptr)[codes], 1)
    counts: np.ndarray = catalog.counts['item'].astype(np.float32)
    codes_there = items.clamp(min=0)
    if vectors is None:
        cosines, near = _alike_by_users(catalog, who_has_what, owned_by_users, codes_there)
    else:
        cosines, near = _alike_by_vectors(vectors, owned_by_users, codes_there)
    return TopK(
        items=items,
        relevant=torch.from_numpy(_is_held_out(catalog, codes, items.numpy(), split, relevant)),
        counts=torch.from_numpy(counts),
        seen=torch.from_numpy((owned_by_users @ counts) / n_owned).double(),
        cosines=cosines.double(),
        near=near.double() / torch.from_numpy(n_owned)[:, None],
        n_train_users=int(catalog.known('user').sum()),
    )


def _is_held_out(
    catalog: Catalog, codes: np.ndarray, items: np.ndarray, split: str, relevant: float | None
) -> np.ndarray:
    """bool (n_users, k): which of the lists' items are held out (and relevant)."""
    inter, rows = _held_out(catalog, split)
    rows = _relevant(catalog, rows, relevant)
    pairs = np.sort(inter.users[rows].astype(np.int64) * catalog.n_items + inter.items[rows])
    asked = codes[:, None] * catalog.n_items + items
    nearest = np.searchsorted(pairs, asked).clip(max=len(pairs) - 1)
    return (items >= 0) & (pairs[nearest] == asked)


def _alike_by_users(
    catalog: Catalog, who_has_what: csr_matrix, owned: csr_matrix, items: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines (n_users, k, k) between the items (n_users, k) of each list, by who has them in training.

    And the sum of each item's cosines with what the user has (`owned`), (n_users, k). By the Gram matrix of the columns
    of `who_has_what`, since the columns themselves are as long as there are users.
    """
    norms = np.sqrt(np.maximum(catalog.counts['item'], 1)).astype(np.float32)
    alike = gram(who_has_what, np.float32)
    alike /= norms
    alike /= norms[:, None]
    near = []
    for owned_by_user, shown in zip(owned, items):
        sums = np.asarray(owned_by_user @ alike).ravel()
        near.append(torch.from_numpy(sums)[shown])
    cosines = torch.from_numpy(alike)[items[:, :, None], items[:, None]]
    return cosines, torch.stack(near)


def _alike_by_vectors(
    vectors: torch.Tensor | np.ndarray, owned: csr_matrix, items: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of vectors (n_items, d)."""
    unit = torch.nn.functional.normalize(torch.as_tensor(vectors).detach().float().cpu(), dim=1)
    sums = torch.from_numpy(np.asarray(owned @ unit.numpy()))  # (n_users, d): of what each user has
    shown = unit[items]  # (n_users, k, d)
    return shown @ shown.transpose(1, 2), (shown * sums[:, None]).sum(2)
