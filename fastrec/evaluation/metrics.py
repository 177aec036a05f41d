"""Metrics: pure functions of scores and targets, and of the ranks of held-out items.

Ranking metrics work on `Ranks` and give one value per user. Definitions, for one user with held-out (relevant) items R
of ranks r_1 <= r_2 <= ... among n candidates:

- hr@k: 1 if r_1 <= k, else 0
- recall@k: |{r_j <= k}| / |R|; precision@k: |{r_j <= k}| / k
- ndcg@k: sum over r_j <= k of 1/log2(r_j + 1), over the same sum for the ranks 1 .. min(k, |R|) (Järvelin and
  Kekäläinen 2002, binary gains)
- map@k: mean over r_j <= k of j/r_j, divided by min(k, |R|) in place of the number of hits
- mrr@k: 1/r_1 if r_1 <= k, else 0
- auc: share of (relevant, other) pairs of candidates that are in order, a tie counting half

A tie counts as its expected rank: an item with g ahead of it and e others at its score has rank g + 1 + e/2, so
constant scores earn no luck. Users without held-out items have no value and do not count in means. With k beyond the
catalogue all candidates are counted; precision@k still divides by k.

Metrics of labelled rows (`target='liked'`) have scikit-learn's names and compare the held-out rows of a user with each
other: `roc_auc_score()` is the share of (liked, not liked) held-out pairs in order, where `auc()` ranks what was held
out among the whole catalogue.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import torch

from ..keywords import check_arguments

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

LESS_IS_BETTER = ('mse', 'mae', 'msle', 'rmspe', 'gini')  # in the name of a metric
PAIRS_TO_COMPARE = 8  # held-out items per user up to which each is compared with its row; beyond, the row is sorted
PAIRS_AT_ONCE = 1024  # rows of scores that are compared at a time off the CPU


# --- errors


def rmse(
    scores: torch.Tensor,  # predictions, float, any shape
    target: torch.Tensor,  # true values, of the same shape
) -> torch.Tensor:
    """Root of the mean squared error of `scores` against `target` (same shape), a scalar tensor."""
    return _errors(scores, target).square().mean().sqrt()


def mae(
    scores: torch.Tensor,  # predictions, float, any shape
    target: torch.Tensor,  # true values, of the same shape
) -> torch.Tensor:
    """Mean absolute error of `scores` against `target` (same shape), a scalar tensor."""
    return _errors(scores, target).abs().mean()


def _errors(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Scores minus target, float32; `ValueError` where they would be broadcast."""
    if scores.shape != target.shape:
        raise ValueError(
            f'scores {tuple(scores.shape)} and target {tuple(target.shape)} differ in shape; '
            'broadcasting them would compare every score with every target'
        )
    return scores.float() - target.float()


def lower_is_better(
    name: str,  # of a column of the training table
) -> bool:
    """Is less more for the metric called `name`, such as 'rmse_cold' or 'mse'?

    Errors say so in their names, as in fastai; so does 'gini@10', where less is a fairer share for all items.
    """
    lower = name.lower()
    return any(part in lower for part in LESS_IS_BETTER)


# --- ranks


class Ranks(NamedTuple):
    """Where held-out items came: one entry per (user, item), grouped by user and sorted by rank within a user."""

    # float (n,): expected ranks from 1; inf where all that was asked is whether it is among the first k, and it is not
    ranks: torch.Tensor
    users: torch.Tensor  # int64 (n,): position of the user, 0 .. n_users-1, each with at least one entry
    n_candidates: torch.Tensor  # float (n_users,): candidates that were ranked, the relevant ones included

    @property
    def n_relevant(self) -> torch.Tensor:
        """Held-out items per user: (n_users,)."""
        return torch.bincount(self.users, minlength=len(self.n_candidates)).to(self.ranks.dtype)

    @property
    def order(self) -> torch.Tensor:
        """1 for a user's best ranked item, 2 for the next, ...: (n,)."""
        return (1 + _places(self.users, len(self.n_candidates))).to(self.ranks.dtype)

    def sum(
        self,
        values: torch.Tensor,  # float (n,), one of each held-out item
    ) -> torch.Tensor:
        """Sums of `values` (n,) per user: (n_users,)."""
        sums = torch.zeros(len(self.n_candidates), dtype=self.ranks.dtype, device=self.ranks.device)
        return sums.index_add_(0, self.users, values.to(self.ranks.dtype))

    @classmethod
    def of(
        cls,
        scores: torch.Tensor,  # (B, n_items), -inf where an item is not a candidate
        users: torch.Tensor,  # int64 (n,): row of each relevant pair, ascending, each of 0 .. B-1 at least once
        items: torch.Tensor,  # int64 (n,): column of each relevant pair
        among: torch.Tensor | None = None,  # (B,): k-th largest score of each row; items below it get the rank inf
        n_candidates: torch.Tensor | None = None,  # (B,), if it is known; None: finite scores are counted
    ) -> Ranks:
        """Ranks of relevant pairs in a matrix of scores; the result is on the CPU.

        With `among`, items beyond the first k are not counted out: the rank inf is as good for metrics of the first k.
        `ValueError` if the score of a relevant pair is not finite.
        """
        own = scores[users, items]
        if not torch.isfinite(own).all():
            raise ValueError(
                'a held-out item is masked or its score is not finite: is it in the training rows as well?'
            )
        if among is None:
            counted = torch.arange(len(users), device=users.device)
        else:
            counted = (own >= among[users]).nonzero().squeeze(1)
        n_greater, n_equal = _greater_and_equal(scores, users[counted], own[counted])
        if n_candidates is None:
            n_candidates = torch.isfinite(scores).sum(1).cpu()
        ranks = torch.full((len(users),), torch.inf, dtype=torch.float64)
        # those that are equal count the item itself
        ranks[counted.cpu()] = n_greater.cpu().double() + (n_equal.cpu().double() + 1) / 2
        users = users.cpu()
        return cls(ranks[_sorted_within(users, ranks)], users, n_candidates.double())


def _places(users: torch.Tensor, n_users: int) -> torch.Tensor:
    """0 for a user's first entry, 1 for the next, ...: int64 (n,), of users (n,), ascending."""
    counts = torch.bincount(users, minlength=n_users)
    starts = counts.cumsum(0) - counts
    return torch.arange(len(users), device=users.device) - starts[users]


def _sorted_within(users: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Positions (n,) that sort by user, and by value within a user; stable."""
    by_value = torch.argsort(values, stable=True)
    return by_value[torch.argsort(users[by_value], stable=True)]


# Four ways to the same two numbers. A sort serves all pairs of a row at once; for few pairs comparing is cheaper. On
# the CPU numpy goes row by row, which stays in the cache. Each takes scores (B, n_items), users (n,), ascending rows of
# scores, and own (n,), and returns how many scores of the row are greater than its own, and how many are equal.


def _greater_and_equal(
    scores: torch.Tensor, users: torch.Tensor, own: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many scores of each pair's row are greater than `own`, and how many are equal: int64 (n,) each."""
    if not len(users):
        return users, users
    on_cpu = scores.device.type == 'cpu'
    if len(users) <= PAIRS_TO_COMPARE * len(scores):
        return _compared_by_row(scores, users, own) if on_cpu else _compared_at_once(scores, users, own)
    return _sorted_by_row(scores, users, own) if on_cpu else _sorted_at_once(scores, users, own)


def _compared_by_row(scores: torch.Tensor, users: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows = scores.detach().numpy()
    n_greater: np.ndarray = np.empty(len(own), np.int64)
    n_equal: np.ndarray = np.empty(len(own), np.int64)
    for pair, (user, score) in enumerate(zip(users.tolist(), own.numpy())):
        row = rows[user]
        n_greater[pair] = np.count_nonzero(row > score)
        n_equal[pair] = np.count_nonzero(row == score)
    return torch.from_numpy(n_greater), torch.from_numpy(n_equal)


def _compared_at_once(
    scores: torch.Tensor, users: torch.Tensor, own: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    n_greater, n_equal = [], []
    for some_users, some_own in zip(users.split(PAIRS_AT_ONCE), own.split(PAIRS_AT_ONCE)):
        rows = scores[some_users]
        n_greater.append(torch.gt(rows, some_own[:, None]).sum(1))
        n_equal.append(torch.eq(rows, some_own[:, None]).sum(1))
    return torch.cat(n_greater), torch.cat(n_equal)


def _sorted_by_row(scores: torch.Tensor, users: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    wanted = own.numpy()
    left: np.ndarray = np.empty(len(wanted), np.int64)
    right: np.ndarray = np.empty(len(wanted), np.int64)
    ends = torch.bincount(users, minlength=len(scores)).cumsum(0).tolist()
    for row, start, end in zip(scores.detach().numpy(), [0, *ends], ends):
        if start == end:
            continue
        ordered = np.sort(row)
        left[start:end] = np.searchsorted(ordered, wanted[start:end], 'left')
        right[start:end] = np.searchsorted(ordered, wanted[start:end], 'right')
    return torch.from_numpy(scores.shape[1] - right), torch.from_numpy(right - left)


def _sorted_at_once(scores: torch.Tensor, users: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    column = _places(users, len(scores))
    wanted = torch.full((len(scores), int(column.max()) + 1), torch.inf, device=scores.device)
    wanted[users, column] = own
    ordered = scores.sort(1).values
    left = torch.searchsorted(ordered, wanted, right=False)[users, column]
    right = torch.searchsorted(ordered, wanted, right=True)[users, column]
    return scores.shape[1] - right, right - left


# --- ranking metrics


class RankingMetric:
    """A ranking metric at a cut-off: called with `Ranks`, it gives one value per user, float64 (n_users,).

    Ranks beyond the cut-off may be inf. `name` is e.g. 'ndcg@10'. `ValueError` for a cut-off that is not a whole number
    from 1 on.
    """

    def __init__(
        self,
        func: Callable[..., torch.Tensor],  # of `Ranks` and the cut-off -> (n_users,)
        label: str,  # name without the cut-off
        k: int | None = None,  # cut-off; None: the metric has none
    ) -> None:
        is_number = isinstance(k, Real)
        if k is not None and (not is_number or int(k) != k or k < 1):
            raise ValueError(f'{label}({k!r}): the cut-off is a whole number of at least 1')
        self.func = func
        self.label = label
        self.k = None if k is None else int(k)

    @property
    def name(self) -> str:
        """How it is called in tables: label and cut-off."""
        return self.label if self.k is None else f'{self.label}@{self.k}'

    def at(
        self,
        k: int,  # cut-off: the first `k` of the list count
    ) -> RankingMetric:
        """The same metric at another cut-off."""
        return RankingMetric(self.func, self.label, None if self.k is None else k)

    def __call__(self, ranks: Any) -> torch.Tensor:
        return self.func(ranks, self.k)

    def __repr__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RankingMetric) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


def _n_hits(ranks: Ranks, k: float) -> torch.Tensor:
    """|{r_j <= k}| per user: (n_users,)."""
    return ranks.sum(ranks.ranks <= k)


def _hr(ranks: Ranks, k: int) -> torch.Tensor:
    return (_n_hits(ranks, k) > 0).to(ranks.ranks.dtype)


@check_arguments
def hr(
    k: int = 10,  # cut-off: the first `k` of the list count
) -> RankingMetric:
    """Hit rate: is any held-out item among the first `k`? (Deshpande and Karypis 2004)."""
    return RankingMetric(_hr, 'hr', k)


def _recall(ranks: Ranks, k: int) -> torch.Tensor:
    return _n_hits(ranks, k) / ranks.n_relevant


@check_arguments
def recall(
    k: int = 10,  # cut-off: the first `k` of the list count
) -> RankingMetric:
    """Share of the held-out items that are among the first `k`: |{r_j <= k}| / |R|."""
    return RankingMetric(_recall, 'recall', k)


def _precision(ranks: Ranks, k: int) -> torch.Tensor:
    return _n_hits(ranks, k) / k


@check_arguments
def precision(
    k: int = 10,  # cut-off: the first `k` of the list count
) -> RankingMetric:
    """Share of the first `k` that are held-out items: |{r_j <= k}| / k."""
    return RankingMetric(_precision, 'precision', k)


def _discounted_gains(ranks: torch.Tensor, k: float) -> torch.Tensor:
    """1 / log2(r + 1) of each rank (n,) up to `k`, 0 beyond."""
    return torch.where(ranks <= k, 1 / torch.log2(ranks + 1), 0.0)


def _ndcg(ranks: Ranks, k: float) -> torch.Tensor:
    gained = ranks.sum(_discounted_gains(ranks.ranks, k))
    at_best = ranks.sum(_discounted_gains(ranks.order, k))  # all relevant items ahead of all others
    return gained / at_best


@check_arguments
def ndcg(
    k: int = 10,  # cut-off: the first `k` of the list count
) -> RankingMetric:
    """Normalized discounted cumulative gain of the first `k`, binary relevance.

    Sum over r_j <= k of 1 / log2(r_j + 1), over that sum for the best ranks, 1 .. min(k, |R|) (Järvelin and Kekäläinen
    2002).
    """
    return RankingMetric(_ndcg, 'ndcg', k)


def _ap(ranks: Ranks, k: int) -> torch.Tensor:
    precisions = torch.where(ranks.ranks <= k, ranks.order / ranks.ranks, 0.0)  # at the rank of each hit
    return ranks.sum(precisions) / ranks.n_relevant.clamp(max=k)


@check_arguments
def ap(
    k: int = 10,  # cut-off: the first `k` of the list count
) -> RankingMetric:
    """Average precision of the first `k`; its mean over users is shown as map@k.

    Sum over r_j <= k of j / r_j, the precision at the rank of each hit, over min(k, |R|).
    """
    return RankingMetric(_ap, 'map', k)


def _mrr(ranks: Ranks, k: int) -> torch.Tensor:
    is_first_hit = (ranks.order == 1) & (ranks.ranks <= k)
    return ranks.sum(torch.where(is_first_hit, 1 / ranks.ranks, 0.0))


@check_arguments
def mrr(
    k: int = 10,  # cut-off: the first `k` of the list count
) -> RankingMetric:
    """Reciprocal rank of the first held-out item, 1 / r_1, 0 beyond `k` (Voorhees 1999)."""
    return RankingMetric(_mrr, 'mrr', k)


def _auc(ranks: Ranks, _: int | None = None) -> torch.Tensor:
    n_relevant = ranks.n_relevant
    n_others = ranks.n_candidates - n_relevant
    # others ahead of each relevant item (ties half), summed: its rank minus the place among the relevant ones
    n_ahead = ranks.sum(ranks.ranks) - n_relevant * (n_relevant + 1) / 2
    return torch.where(n_others > 0, 1 - n_ahead / (n_relevant * n_others), torch.nan)


def auc() -> RankingMetric:
    """Area under the ROC curve of one user: share of pairs of a held-out and another candidate that are in order.

    By the sum of ranks: 1 - (sum of r_j - |R|(|R| + 1)/2) / (|R| (n - |R|)) (Hanley and McNeil 1982); nan where
    everything is relevant.
    """
    return RankingMetric(_auc, 'auc')


# --- metrics of the lists


class TopK(NamedTuple):
    """The lists that were recommended, and what their metrics look at."""

    items: torch.Tensor  # int64 (n_users, k), -1 where a list is shorter
    relevant: torch.Tensor  # bool (n_users, k): was the item held out?
    counts: torch.Tensor  # float (n_items,): training rows
    seen: torch.Tensor  # float (n_users,): mean training count of what each user has
    cosines: torch.Tensor  # float (n_users, k, k): between the items of a list
    near: torch.Tensor  # float (n_users, k): mean cosine of an item with what the user has
    n_train_users: int  # users with training rows

    def mean(
        self,
        values: torch.Tensor,  # float (n_users, k), one of each recommended item
    ) -> torch.Tensor:
        """Mean of `values` (n_users, k) over each list."""
        is_there = self.items >= 0
        return torch.where(is_there, values, 0.0).sum(1) / is_there.sum(1)


class ListMetric(RankingMetric):
    """A metric of the first `k` recommendations: called with `TopK` it gives one value per user.

    With `overall` it gives one value for all lists together, a scalar tensor.
    """

    k: int

    def __init__(
        self,
        func: Callable[[TopK], torch.Tensor],
        label: str,  # name without the cut-off
        k: int,  # length of the lists
        overall: bool = False,  # one value for all lists together?
    ) -> None:
        super().__init__(func, label, k)
        self.overall = overall

    def at(
        self,
        k: int,  # cut-off: the first `k` of the list count
    ) -> ListMetric:
        """The same metric at another cut-off."""
        return ListMetric(self.func, self.label, k, self.overall)

    def __call__(self, top: TopK) -> torch.Tensor:
        return self.func(top)


def _coverage(top: TopK) -> torch.Tensor:
    n_recommended = len(top.items[top.items >= 0].unique())
    return torch.tensor(n_recommended / len(top.counts), dtype=torch.float64)


@check_arguments
def coverage(
    k: int = 10,  # length of the lists
) -> ListMetric:
    """Share of the catalogue that is in anybody's first `k` (Ge et al. 2010)."""
    return ListMetric(_coverage, 'coverage', k, overall=True)


def _gini(top: TopK) -> torch.Tensor:
    times = torch.bincount(top.items[top.items >= 0], minlength=len(top.counts)).double()
    times = times.sort().values
    n = len(times)
    i = torch.arange(1, n + 1, dtype=torch.float64)
    return ((2 * i - n - 1) * times).sum() / (n * times.sum())


@check_arguments
def gini(
    k: int = 10,  # length of the lists
) -> ListMetric:
    """Gini index of how often items are recommended: 0 if all alike, near 1 if few items fill all lists.

    Sum over items i = 1 .. n, by how often (x_i) they are recommended, of (2i - n - 1) x_i, over n times the sum of x_i
    (Fleder and Hosanagar 2009).
    """
    return ListMetric(_gini, 'gini', k, overall=True)


def _novelty(top: TopK) -> torch.Tensor:
    share_who_have_it = top.counts[top.items].clamp(min=1) / top.n_train_users
    return top.mean(-torch.log2(share_who_have_it))


@check_arguments
def novelty(
    k: int = 10,  # length of the lists
) -> ListMetric:
    """Mean self-information of the list in bits: 0 for what everybody has.

    Mean of -log2(share of users who have the item) (Zhou et al. 2010).
    """
    return ListMetric(_novelty, 'novelty', k)


def _popularity_lift(top: TopK) -> torch.Tensor:
    lift = top.mean(top.counts[top.items].double()) / top.seen
    return torch.where(top.seen > 0, lift, torch.nan)


@check_arguments
def popularity_lift(
    k: int = 10,  # length of the lists
) -> ListMetric:
    """Mean training rows of the recommended items over that of the user's own items.

    Above 1 the model pushes to what is popular (Abdollahpouri et al. 2019). nan for users without training rows.
    """
    return ListMetric(_popularity_lift, 'popularity_lift', k)


def _diversity(top: TopK) -> torch.Tensor:
    is_there = (top.items >= 0).double()
    not_itself = 1 - torch.eye(top.items.shape[1], dtype=torch.float64)
    pairs = is_there[:, :, None] * is_there[:, None] * not_itself  # (n_users, k, k)
    return 1 - (top.cosines * pairs).sum((1, 2)) / pairs.sum((1, 2))


@check_arguments
def diversity(
    k: int = 10,  # length of the lists
) -> ListMetric:
    """1 - mean cosine over pairs of the list (Ziegler et al. 2005), of who has the items or of the vectors given.

    nan for a list of one.
    """
    return ListMetric(_diversity, 'diversity', k)


def _serendipity(top: TopK) -> torch.Tensor:
    return top.mean(torch.where(top.relevant, 1 - top.near, 0.0))


@check_arguments
def serendipity(
    k: int = 10,  # length of the lists
) -> ListMetric:
    """Mean over the list of: held out, times 1 - mean cosine with what the user has: relevant and unexpected.

    After Zhang et al. 2012.
    """
    return ListMetric(_serendipity, 'serendipity', k)


# --- metrics of labelled rows


class Labelled(NamedTuple):
    """Held-out rows that are liked or not, and what a scorer says of them."""

    # float (n,), at least 0 where the scorer says 'liked': logit, probability - 1/2, or rating - the user's threshold
    margins: torch.Tensor
    labels: torch.Tensor  # bool (n,): is the row liked?
    users: torch.Tensor  # int64 (n,): position of the user, 0 .. n_users-1
    n_users: int
    decides: bool = True  # False for scores of which only the order means something

    def pooled(self) -> Labelled:
        """All rows as if they were one user's."""
        return self._replace(users=torch.zeros_like(self.users), n_users=1)

    def count(
        self,
        mask: torch.Tensor,  # bool (n,), a value per row
    ) -> torch.Tensor:
        """Rows per user where `mask` (n,): float64 (n_users,)."""
        return torch.bincount(self.users, mask.double(), self.n_users)

    @property
    def one_class(self) -> torch.Tensor:
        """bool (n_users,): has the user only liked rows, or only others? Such a user tells nothing about the order."""
        n_liked = self.count(self.labels)
        n_rows = torch.bincount(self.users, minlength=self.n_users)
        return (n_liked == 0) | (n_liked == n_rows)

    def ranks(self) -> Ranks:
        """`Ranks` of the liked rows among all rows of their user; ties at their expected rank."""
        order = _sorted_within(self.users, -self.margins)
        users = self.users[order]
        margins = self.margins[order]
        place = 1 + _places(users, self.n_users)
        starts_tie = torch.ones_like(users)
        starts_tie[1:] = (users[1:] != users[:-1]) | (margins[1:] != margins[:-1])
        tie = starts_tie.cumsum(0) - 1  # (n,): rows of one tie have one number
        mean_place = torch.bincount(tie, place.double()) / torch.bincount(tie)
        liked = self.labels[order]
        n_candidates = torch.bincount(users, minlength=self.n_users).double()
        return Ranks(mean_place[tie][liked], users[liked], n_candidates)


class LabelMetric:
    """A metric of held-out rows that are liked or not: called with `Labelled` it gives one value per user.

    float64 (n_users,), nan for users of one class; `pooled`: one for all rows, (1,).
    """

    def __init__(
        self,
        func: Callable[[Labelled], torch.Tensor],  # gives a value per user, or (`pooled`) one of all rows
        label: str,  # name in tables
        pooled: bool = False,  # over all rows together, in place of each user's
    ) -> None:
        self.func = func
        self.label = label
        self.pooled = pooled

    @property
    def name(self) -> str:
        """How it is called in tables."""
        return f'{self.label}_pooled' if self.pooled else self.label

    @property
    def overall(self) -> bool:
        """Has it one value for all users together, as metrics of lists may have?"""
        return self.pooled

    def __call__(self, labelled: Labelled) -> torch.Tensor:
        if self.pooled:
            labelled = labelled.pooled()
        return torch.where(labelled.one_class, torch.nan, self.func(labelled))

    def __repr__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelMetric) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


def _roc_auc(rows: Labelled) -> torch.Tensor:
    return _auc(rows.ranks())


@check_arguments
def roc_auc_score(
    pooled: bool = False,  # of all rows together, in place of the mean over users
) -> LabelMetric:
    """Area under the ROC curve of the held-out rows of one user (or of all, `pooled`).

    Share of pairs of a liked and another one that are in order, a tie counting half; computed as in `auc`.
    """
    return LabelMetric(_roc_auc, 'roc_auc', pooled)


def _ndcg_of_all(rows: Labelled) -> torch.Tensor:
    return _ndcg(rows.ranks(), torch.inf)


@check_arguments
def ndcg_score(
    pooled: bool = False,  # of all rows together, in place of the mean over users
) -> LabelMetric:
    """Normalized discounted cumulative gain of all held-out rows of one user, in the order of the scores.

    The gain is 1 for what is liked, a tie is at its expected rank; computed as in `ndcg`.
    """
    return LabelMetric(_ndcg_of_all, 'ndcg', pooled)


class _Confusion(NamedTuple):
    """Rows per user, float64 (n_users,) each."""

    n_said: torch.Tensor  # that are said to be liked
    n_liked: torch.Tensor  # that are liked
    n_both: torch.Tensor  # that are said to be and are


def _confusion(rows: Labelled) -> _Confusion:
    """Counts of what is said and what is; `ValueError` for scores that only rank."""
    if not rows.decides:
        raise ValueError(
            'these scores only rank, and do not say from which one on an item is liked: take roc_auc_score() and '
            "ndcg_score(), or a scorer with the scale 'logit', 'probability' or 'rating'"
        )
    said = rows.margins >= 0
    return _Confusion(rows.count(said), rows.count(rows.labels), rows.count(said & rows.labels))


def _f1(rows: Labelled) -> torch.Tensor:
    n_said, n_liked, n_both = _confusion(rows)
    return 2 * n_both / (n_said + n_liked).clamp(min=1)


@check_arguments
def f1_score(
    pooled: bool = False,  # of all rows together, in place of the mean over users
) -> LabelMetric:
    """Harmonic mean of precision and recall of 'liked', 0 where both are: 2 both / (said + liked)."""
    return LabelMetric(_f1, 'f1', pooled)


def _precision_of_liked(rows: Labelled) -> torch.Tensor:
    n_said, _, n_both = _confusion(rows)
    return n_both / n_said.clamp(min=1)


@check_arguments
def precision_score(
    pooled: bool = False,  # of all rows together, in place of the mean over users
) -> LabelMetric:
    """Share of the held-out rows said to be liked that are; 0 where none is said to be: both / said."""
    return LabelMetric(_precision_of_liked, 'precision', pooled)


def _recall_of_liked(rows: Labelled) -> torch.Tensor:
    _, n_liked, n_both = _confusion(rows)
    return n_both / n_liked.clamp(min=1)


@check_arguments
def recall_score(
    pooled: bool = False,  # of all rows together, in place of the mean over users
) -> LabelMetric:
    """Share of the liked held-out rows that are said to be: both / liked."""
    return LabelMetric(_recall_of_liked, 'recall', pooled)


def _accuracy(rows: Labelled) -> torch.Tensor:
    n_said, n_liked, n_both = _confusion(rows)
    n_rows = torch.bincount(rows.users, minlength=rows.n_users)
    n_neither = n_rows - n_said - n_liked + n_both
    return (n_both + n_neither) / n_rows


@check_arguments
def accuracy_score(
    pooled: bool = False,  # of all rows together, in place of the mean over users
) -> LabelMetric:
    """Share of the held-out rows of which it is rightly said whether they are liked: (both + neither) / rows."""
    return LabelMetric(_accuracy, 'accuracy', pooled)
