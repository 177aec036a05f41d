"""Metrics: pure functions of scores and targets, and of the ranks of held-out items.

Ranking metrics work on `Ranks` and give one value per user. Definitions, for one user with held-out (relevant) items R of ranks r_1 <= r_2 <= ...
among n candidates:

- hr@k: 1 if r_1 <= k, else 0
- recall@k: |{r_j <= k}| / |R|; precision@k: |{r_j <= k}| / k
- ndcg@k: sum over r_j <= k of 1/log2(r_j + 1), over the same sum for the ranks 1 .. min(k, |R|) (Järvelin and Kekäläinen 2002, binary gains)
- map@k: mean over r_j <= k of j/r_j, divided by min(k, |R|) in place of the number of hits
- mrr@k: 1/r_1 if r_1 <= k, else 0
- auc: share of (relevant, other) pairs of candidates that are in order, a tie counting half

A tie counts as its expected rank: an item with g ahead of it and e others at its score has rank g + 1 + e/2, so constant scores earn no luck.
Users without held-out items have no value and do not count in means. With k beyond the catalogue all candidates are counted; precision@k still divides by k.

Metrics of labelled rows (`target='liked'`) have scikit-learn's names and compare the held-out rows of a user with each other: `roc_auc_score()` is the share of (liked, not
liked) held-out pairs in order, where `auc()` ranks what was held out among the whole catalogue.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

__all__ = [
    'LabelMetric',
    'Labelled',
    'ListMetric',
    'RankingMetric',
    'Ranks',
    'TopK',
    'accuracy_score',
    'ap',
    'auc',
    'coverage',
    'diversity',
    'f1_score',
    'gini',
    'hr',
    'lower_is_better',
    'mae',
    'mrr',
    'ndcg',
    'ndcg_score',
    'novelty',
    'popularity_lift',
    'precision',
    'precision_score',
    'recall',
    'recall_score',
    'rmse',
    'roc_auc_score',
    'serendipity',
]


def rmse(scores, target):
    """Root of the mean squared error of `scores` against `target` (same shape), a scalar tensor."""
    return _errors(scores, target).square().mean().sqrt()


def mae(scores, target):
    """Mean absolute error of `scores` against `target` (same shape), a scalar tensor."""
    return _errors(scores, target).abs().mean()


def _errors(scores, target):
    if scores.shape != target.shape:
        raise ValueError(
            f'scores {tuple(scores.shape)} and target {tuple(target.shape)} differ in shape; broadcasting them would compare every score with every target'
        )
    return scores.float() - target.float()


def lower_is_better(name: str) -> bool:
    """Is less more for the metric called `name`, such as 'rmse_cold' or 'mse'? (Losses and errors say so in their names, as in fastai.)"""
    return any(o in name.lower() for o in ('mse', 'mae', 'msle', 'rmspe'))


class Ranks(NamedTuple):
    """Where held-out items came: one entry per (user, item), grouped by user and sorted by rank within a user.

    ranks: float (n,), expected ranks from 1 (inf where all that was asked is whether it is among the first k, and it is not); users: int64 (n,), position of the user, 0 .. n_users-1, each with at least one entry;
    n_candidates: float (n_users,), candidates that were ranked, the relevant ones included.
    """

    ranks: torch.Tensor
    users: torch.Tensor
    n_candidates: torch.Tensor

    @property
    def n_relevant(self):
        """Held-out items per user: (n_users,)."""
        return torch.bincount(self.users, minlength=len(self.n_candidates)).to(self.ranks.dtype)

    @property
    def order(self):
        """1 for a user's best ranked item, 2 for the next, ...: (n,)."""
        counts = torch.bincount(self.users, minlength=len(self.n_candidates))
        return (
            torch.arange(1, len(self.users) + 1, device=self.users.device, dtype=self.ranks.dtype)
            - (counts.cumsum(0) - counts)[self.users]
        )

    def sum(self, values):
        """Sums of `values` (n,) per user: (n_users,)."""
        return torch.zeros(len(self.n_candidates), dtype=self.ranks.dtype, device=self.ranks.device).index_add_(
            0, self.users, values.to(self.ranks.dtype)
        )

    @classmethod
    def of(cls, scores, users, items, among=None, n_candidates=None):
        """Ranks of relevant pairs in a matrix of scores.

        scores (B, n_items), -inf where an item is no candidate; users (n,), row of each pair, ascending and each of 0 .. B-1 at least
        once; items (n,), column of each pair. The result is on the CPU. `among` (B,), the k-th largest score of each row: items below it are not counted out but have the rank inf, which is
        as good for metrics of the first k. `n_candidates` (B,), if it is known: else finite scores are counted.
        """
        own = scores[users, items]
        if not torch.isfinite(own).all():
            raise ValueError(
                'a held-out item is masked or its score is not finite: is it in the training rows as well?'
            )
        wanted = (
            torch.arange(len(users), device=users.device)
            if among is None
            else (own >= among[users]).nonzero().squeeze(1)
        )
        greater, equal = (o.cpu() for o in _counted(scores, users[wanted], own[wanted]))
        if n_candidates is None:
            n_candidates = torch.isfinite(scores).sum(1).cpu()
        ranks = torch.full((len(users),), torch.inf, dtype=torch.float64)
        ranks[wanted.cpu()] = greater.double() + (equal.double() + 1) / 2  # equal counts the item itself
        users = users.cpu()
        by_rank = torch.argsort(ranks, stable=True)
        by_rank = by_rank[torch.argsort(users[by_rank], stable=True)]
        return cls(ranks[by_rank], users, n_candidates.double())


def _counted(scores, users, own):
    """How many of the scores (B, n_items) in the rows `users` (n,), ascending, are greater than `own` (n,), and how many are equal: int64 (n,) each."""
    if not len(users):
        return users, users
    counts = torch.bincount(users, minlength=len(scores))
    few = len(users) <= 8 * len(scores)  # a sort serves all pairs of a row at once; for few it is cheaper to count
    if scores.device.type == 'cpu':
        rows, mine = scores.detach().numpy(), own.numpy()
        if few:  # row by row, which stays in the cache
            res = np.array(
                [
                    (np.count_nonzero(row > s), np.count_nonzero(row == s))
                    for row, s in zip(map(rows.__getitem__, users.tolist()), mine)
                ],
                np.int64,
            )
            return torch.from_numpy(res[:, 0]), torch.from_numpy(res[:, 1])
        ends = counts.cumsum(0).tolist()
        left, right = np.empty(len(mine), np.int64), np.empty(len(mine), np.int64)
        for row, a, b in zip(rows, [0, *ends], ends):
            if a == b:
                continue
            ordered = np.sort(row)
            left[a:b], right[a:b] = (
                np.searchsorted(ordered, mine[a:b], 'left'),
                np.searchsorted(ordered, mine[a:b], 'right'),
            )
        return torch.from_numpy(scores.shape[1] - right), torch.from_numpy(right - left)
    if few:
        return tuple(
            torch.cat([f(scores[u], s[:, None]).sum(1) for u, s in zip(users.split(1024), own.split(1024))])
            for f in (torch.gt, torch.eq)
        )
    column = torch.arange(len(users), device=users.device) - (counts.cumsum(0) - counts)[users]
    wanted = torch.full((len(scores), int(counts.max())), torch.inf, device=scores.device)
    wanted[users, column] = own
    ordered = scores.sort(1).values
    left, right = (torch.searchsorted(ordered, wanted, right=o)[users, column] for o in (False, True))
    return scores.shape[1] - right, right - left


class RankingMetric:
    """A ranking metric at a cut-off: called with `Ranks`, in which ranks beyond the cut-off may be inf, it gives one value per user, float64 (n_users,). `name` is e.g. 'ndcg@10'."""

    def __init__(self, func, label: str, k: int = None):
        if k is not None and (int(k) != k or k < 1):
            raise ValueError(f'{label}({k}): the cut-off is a whole number of at least 1')
        self.func, self.label, self.k = func, label, k

    @property
    def name(self):
        return self.label if self.k is None else f'{self.label}@{self.k}'

    def at(self, k: int):
        """The same metric at another cut-off."""
        return RankingMetric(self.func, self.label, None if self.k is None else k)

    def __call__(self, ranks):
        return self.func(ranks) if isinstance(ranks, TopK) else self.func(ranks, self.k)

    def __repr__(self):
        return self.name

    def __eq__(self, other):
        return isinstance(other, RankingMetric) and self.name == other.name

    def __hash__(self):
        return hash(self.name)


def _hits(r, k):
    return r.sum(r.ranks <= k)


def _hr(r, k):
    return (_hits(r, k) > 0).to(r.ranks.dtype)


def _recall(r, k):
    return _hits(r, k) / r.n_relevant


def _precision(r, k):
    return _hits(r, k) / k


def _mrr(r, k):
    return r.sum(torch.where((r.order == 1) & (r.ranks <= k), 1 / r.ranks, 0.0))


def _ap(r, k):
    return r.sum(torch.where(r.ranks <= k, r.order / r.ranks, 0.0)) / r.n_relevant.clamp(max=k)


def _ndcg(r, k):
    gain = lambda ranks: torch.where(ranks <= k, 1 / torch.log2(ranks + 1), 0.0)
    return r.sum(gain(r.ranks)) / r.sum(gain(r.order))


def _auc(r, _):
    n, others = r.n_relevant, r.n_candidates - r.n_relevant
    # sum over relevant items of the others ahead of them (ties half): ranks minus the relevant ones' own places
    ahead = r.sum(r.ranks) - n * (n + 1) / 2
    return torch.where(others > 0, 1 - ahead / (n * others), torch.nan)


def hr(k: int = 10):
    """Hit rate: is any held-out item among the first `k`?"""
    return RankingMetric(_hr, 'hr', k)


def recall(k: int = 10):
    """Share of the held-out items that are among the first `k`."""
    return RankingMetric(_recall, 'recall', k)


def precision(k: int = 10):
    """Share of the first `k` that are held-out items."""
    return RankingMetric(_precision, 'precision', k)


def ndcg(k: int = 10):
    """Normalised discounted cumulative gain of the first `k`, binary relevance."""
    return RankingMetric(_ndcg, 'ndcg', k)


def ap(k: int = 10):
    """Average precision of the first `k`; its mean over users is shown as map@k."""
    return RankingMetric(_ap, 'map', k)


def mrr(k: int = 10):
    """Reciprocal rank of the first held-out item, 0 beyond `k`."""
    return RankingMetric(_mrr, 'mrr', k)


def auc():
    """Area under the ROC curve of one user: share of pairs of a held-out and another candidate that are in order."""
    return RankingMetric(_auc, 'auc')


class TopK(NamedTuple):
    """The lists that were recommended, and what their metrics look at.

    items: int64 (n_users, k), -1 where a list is shorter; relevant: bool (n_users, k), was the item held out; counts: float (n_items,), training rows; seen:
    mean training count of what each user has, float (n_users,); cosines: float (n_users, k, k), between the items of a list; near: float (n_users, k), mean cosine of an
    item with what the user has; n_train_users: users with training rows.
    """

    items: torch.Tensor
    relevant: torch.Tensor
    counts: torch.Tensor
    seen: torch.Tensor
    cosines: torch.Tensor
    near: torch.Tensor
    n_train_users: int

    def mean(self, values):
        """Mean of `values` (n_users, k) over each list."""
        there = self.items >= 0
        return torch.where(there, values, 0.0).sum(1) / there.sum(1)


class ListMetric(RankingMetric):
    """A metric of the first `k` recommendations: called with `TopK` it gives one value per user, or, with `overall`, one for all lists together."""

    def __init__(self, func, label, k, overall=False):
        super().__init__(func, label, k)
        self.overall = overall

    def at(self, k: int):
        """The same metric at another cut-off."""
        return ListMetric(self.func, self.label, k, self.overall)


def _novelty(t):
    return t.mean(-torch.log2(t.counts[t.items].clamp(min=1) / t.n_train_users))


def _lift(t):
    return t.mean(t.counts[t.items].double()) / t.seen


def _coverage(t):
    return torch.tensor(len(t.items[t.items >= 0].unique()) / len(t.counts), dtype=torch.float64)


def _diversity(t):
    there = (t.items >= 0).double()
    others = there[:, :, None] * there[:, None] * (1 - torch.eye(t.items.shape[1], dtype=torch.float64))
    return 1 - (t.cosines * others).sum((1, 2)) / others.sum((1, 2))  # nan for a list of one


def _serendipity(t):
    return t.mean(torch.where(t.relevant, 1 - t.near, 0.0))


def _gini(t):
    n = torch.bincount(t.items[t.items >= 0], minlength=len(t.counts)).double().sort().values
    i = torch.arange(1, len(n) + 1, dtype=torch.float64)
    return ((2 * i - len(n) - 1) * n).sum() / (len(n) * n.sum())


def coverage(k: int = 10):
    """Share of the catalogue that is in anybody's first `k`."""
    return ListMetric(_coverage, 'coverage', k, overall=True)


def gini(k: int = 10):
    """Gini index of how often items are recommended: 0 if all alike, near 1 if few items fill all lists."""
    return ListMetric(_gini, 'gini', k, overall=True)


def novelty(k: int = 10):
    """Mean self-information of the list in bits, -log2(share of users who have the item): 0 for what everybody has (Zhou et al. 2010)."""
    return ListMetric(_novelty, 'novelty', k)


def popularity_lift(k: int = 10):
    """Mean training rows of the recommended items over that of the user's own items: above 1 the model pushes to what is popular (Abdollahpouri et al. 2019)."""
    return ListMetric(_lift, 'popularity_lift', k)


def diversity(k: int = 10):
    """1 - mean cosine over pairs of the list (Ziegler et al. 2005), of who has the items or of the vectors given."""
    return ListMetric(_diversity, 'diversity', k)


def serendipity(k: int = 10):
    """Mean over the list of: held out, times 1 - mean cosine with what the user has (Zhang et al. 2012): relevant and unexpected."""
    return ListMetric(_serendipity, 'serendipity', k)


class Labelled(NamedTuple):
    """Held-out rows that are liked or not, and what a scorer says of them.

    margins: float (n,), at least 0 where the scorer says 'liked': logit, probability - 1/2, or rating - the user's threshold; labels: bool (n,); users: int64 (n,), position
    of the user, 0 .. n_users-1; decides: False for scores of which only the order means something.
    """

    margins: torch.Tensor
    labels: torch.Tensor
    users: torch.Tensor
    n_users: int
    decides: bool = True

    def pooled(self):
        """All rows as if they were one user's."""
        return self._replace(users=torch.zeros_like(self.users), n_users=1)

    def count(self, mask):
        """Rows per user where `mask` (n,): float64 (n_users,)."""
        return torch.bincount(self.users, mask.double(), self.n_users)

    @property
    def one_class(self):
        """bool (n_users,): has the user only liked rows, or only others? Such a user tells nothing about the order."""
        liked = self.count(self.labels)
        return (liked == 0) | (liked == torch.bincount(self.users, minlength=self.n_users))

    def ranks(self) -> Ranks:
        """`Ranks` of the liked rows among all rows of their user; ties at their expected rank."""
        by = torch.argsort(-self.margins, stable=True)
        by = by[torch.argsort(self.users[by], stable=True)]
        users, margins = self.users[by], self.margins[by]
        n = torch.bincount(users, minlength=self.n_users)
        place = torch.arange(1, len(by) + 1, device=by.device) - (n.cumsum(0) - n)[users]
        tie = torch.ones_like(users)
        tie[1:] = (users[1:] != users[:-1]) | (margins[1:] != margins[:-1])
        tie = tie.cumsum(0) - 1
        ranks = (torch.bincount(tie, place.double()) / torch.bincount(tie))[tie]
        liked = self.labels[by]
        return Ranks(ranks[liked], users[liked], n.double())


class LabelMetric:
    """A metric of held-out rows that are liked or not: called with `Labelled` it gives one value per user, float64 (n_users,), nan for users of one class; `pooled`: one for all rows."""

    def __init__(self, func, label: str, pooled: bool = False):
        self.func, self.label, self.pooled = func, label, pooled

    @property
    def name(self):
        return f'{self.label}_pooled' if self.pooled else self.label

    def __call__(self, labelled):
        if self.pooled:
            labelled = labelled.pooled()
        return torch.where(labelled.one_class, torch.nan, self.func(labelled))

    def __repr__(self):
        return self.name

    def __eq__(self, other):
        return isinstance(other, LabelMetric) and self.name == other.name

    def __hash__(self):
        return hash(self.name)


def _label_counts(t):
    """Rows per user that are said to be liked, that are, and both."""
    if not t.decides:
        raise ValueError(
            "these scores only rank, and do not say from which one on an item is liked: take roc_auc_score() and ndcg_score(), or a scorer with the scale 'logit', 'probability' or 'rating'"
        )
    said = t.margins >= 0
    return t.count(said), t.count(t.labels), t.count(said & t.labels)


def _f1(t):
    said, liked, both = _label_counts(t)
    return 2 * both / (said + liked).clamp(min=1)


def _precision_score(t):
    said, _, both = _label_counts(t)
    return both / said.clamp(min=1)


def _recall_score(t):
    _, liked, both = _label_counts(t)
    return both / liked.clamp(min=1)


def _accuracy(t):
    said, liked, both = _label_counts(t)
    n = torch.bincount(t.users, minlength=t.n_users)
    return (n - said - liked + 2 * both) / n


def roc_auc_score(pooled: bool = False):
    """Area under the ROC curve of the held-out rows of one user (or of all, `pooled`): share of pairs of a liked and another one that are in order, a tie counting half."""
    return LabelMetric(lambda t: _auc(t.ranks(), None), 'roc_auc', pooled)


def ndcg_score(pooled: bool = False):
    """Normalised discounted cumulative gain of all held-out rows of one user, in the order of the scores; gain 1 for what is liked, a tie at its expected rank."""
    return LabelMetric(lambda t: _ndcg(t.ranks(), torch.inf), 'ndcg', pooled)


def f1_score(pooled: bool = False):
    """Harmonic mean of precision and recall of 'liked', 0 where both are."""
    return LabelMetric(_f1, 'f1', pooled)


def precision_score(pooled: bool = False):
    """Share of the held-out rows said to be liked that are; 0 where none is said to be."""
    return LabelMetric(_precision_score, 'precision', pooled)


def recall_score(pooled: bool = False):
    """Share of the liked held-out rows that are said to be."""
    return LabelMetric(_recall_score, 'recall', pooled)


def accuracy_score(pooled: bool = False):
    """Share of the held-out rows of which it is rightly said whether they are liked."""
    return LabelMetric(_accuracy, 'accuracy', pooled)


_MAKERS = {
    hr,
    recall,
    precision,
    ndcg,
    ap,
    mrr,
    auc,
    coverage,
    gini,
    novelty,
    popularity_lift,
    diversity,
    serendipity,
    roc_auc_score,
    ndcg_score,
    f1_score,
    precision_score,
    recall_score,
    accuracy_score,
}


def as_metrics(metrics) -> list:
    """One metric or several as a list; `hr` that was not called stands for `hr()`."""
    metrics = (
        [] if metrics is None else [metrics] if callable(metrics) or not hasattr(metrics, '__iter__') else list(metrics)
    )
    return [
        m() if callable(m) and not isinstance(m, (RankingMetric, LabelMetric)) and m in _MAKERS else m for m in metrics
    ]
