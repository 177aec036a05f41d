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
"""
from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ['rmse', 'mae', 'Ranks', 'RankingMetric', 'hr', 'recall', 'precision', 'ndcg', 'ap', 'mrr', 'auc', 'lower_is_better']


def rmse(scores, target):
    "Root of the mean squared error of `scores` against `target` (same shape), a scalar tensor."
    return _errors(scores, target).square().mean().sqrt()


def mae(scores, target):
    "Mean absolute error of `scores` against `target` (same shape), a scalar tensor."
    return _errors(scores, target).abs().mean()


def _errors(scores, target):
    if scores.shape != target.shape:
        raise ValueError(f'scores {tuple(scores.shape)} and target {tuple(target.shape)} differ in shape; broadcasting them would compare every score with every target')
    return scores.float() - target.float()


def lower_is_better(name:str)->bool:
    "Is less more for the metric called `name`, such as 'rmse_cold' or 'mse'? (Losses and errors say so in their names, as in fastai.)"
    return any(o in name.lower() for o in ('mse', 'mae', 'msle', 'rmspe'))


class Ranks(NamedTuple):
    """Where held-out items came: one entry per (user, item), grouped by user and sorted by rank within a user.

    ranks: float (n,), expected ranks from 1; users: int64 (n,), position of the user, 0 .. n_users-1, each with at least one entry;
    n_candidates: float (n_users,), candidates that were ranked, the relevant ones included.
    """
    ranks: torch.Tensor
    users: torch.Tensor
    n_candidates: torch.Tensor

    @property
    def n_relevant(self):
        "Held-out items per user: (n_users,)."
        return torch.bincount(self.users, minlength=len(self.n_candidates)).to(self.ranks.dtype)

    @property
    def order(self):
        "1 for a user's best ranked item, 2 for the next, ...: (n,)."
        counts = torch.bincount(self.users, minlength=len(self.n_candidates))
        return torch.arange(1, len(self.users) + 1, device=self.users.device, dtype=self.ranks.dtype) - (counts.cumsum(0) - counts)[self.users]

    def sum(self, values):
        "Sums of `values` (n,) per user: (n_users,)."
        return torch.zeros(len(self.n_candidates), dtype=self.ranks.dtype, device=self.ranks.device).index_add_(0, self.users, values.to(self.ranks.dtype))

    @classmethod
    def of(cls, scores, users, items):
        """Ranks of relevant pairs in a matrix of scores.

        scores (B, n_items), -inf where an item is no candidate; users (n,), row of each pair, ascending and each of 0 .. B-1 at least
        once; items (n,), column of each pair. The result is on the CPU.
        """
        own = scores[users, items]
        if not torch.isfinite(own).all(): raise ValueError('a held-out item is masked or its score is not finite: is it in the training rows as well?')
        counts = torch.bincount(users, minlength=len(scores))
        # a sort serves all relevant items of a user at once; for few it is cheaper to count
        if len(users) <= 16 * len(scores):
            greater, equal = (torch.cat([f(scores[u], s[:, None]).sum(1) for u, s in zip(users.split(1024), own.split(1024))]) for f in (torch.gt, torch.eq))
        else:
            column = torch.arange(len(users), device=users.device) - (counts.cumsum(0) - counts)[users]
            wanted = torch.full((len(scores), int(counts.max())), torch.inf, device=scores.device)
            wanted[users, column] = own
            ordered = scores.sort(1).values
            left, right = (torch.searchsorted(ordered, wanted, right=o)[users, column] for o in (False, True))
            greater, equal = scores.shape[1] - right, right - left
        users, greater, equal, counts = (o.cpu() for o in (users, greater, equal, torch.isfinite(scores).sum(1)))
        ranks = greater.double() + (equal.double() + 1) / 2  # equal counts the item itself
        by_rank = torch.argsort(ranks, stable=True)
        by_rank = by_rank[torch.argsort(users[by_rank], stable=True)]
        return cls(ranks[by_rank], users, counts.double())


class RankingMetric:
    "A ranking metric at a cut-off: called with `Ranks` it gives one value per user, float64 (n_users,). `name` is e.g. 'ndcg@10'."
    def __init__(self, func, label:str, k:int=None):
        if k is not None and (int(k) != k or k < 1): raise ValueError(f'{label}({k}): the cut-off is a whole number of at least 1')
        self.func, self.label, self.k = func, label, k

    @property
    def name(self): return self.label if self.k is None else f'{self.label}@{self.k}'
    def at(self, k:int):
        "The same metric at another cut-off."
        return RankingMetric(self.func, self.label, None if self.k is None else k)
    def __call__(self, ranks:Ranks): return self.func(ranks, self.k)
    def __repr__(self): return self.name
    def __eq__(self, other): return isinstance(other, RankingMetric) and self.name == other.name
    def __hash__(self): return hash(self.name)


def _hits(r, k): return r.sum(r.ranks <= k)
def _hr(r, k): return (_hits(r, k) > 0).to(r.ranks.dtype)
def _recall(r, k): return _hits(r, k) / r.n_relevant
def _precision(r, k): return _hits(r, k) / k
def _mrr(r, k): return r.sum(torch.where((r.order == 1) & (r.ranks <= k), 1 / r.ranks, 0.))
def _ap(r, k): return r.sum(torch.where(r.ranks <= k, r.order / r.ranks, 0.)) / r.n_relevant.clamp(max=k)


def _ndcg(r, k):
    gain = lambda ranks: torch.where(ranks <= k, 1 / torch.log2(ranks + 1), 0.)
    return r.sum(gain(r.ranks)) / r.sum(gain(r.order))


def _auc(r, _):
    n, others = r.n_relevant, r.n_candidates - r.n_relevant
    # sum over relevant items of the others ahead of them (ties half): ranks minus the relevant ones' own places
    ahead = r.sum(r.ranks) - n * (n + 1) / 2
    return torch.where(others > 0, 1 - ahead / (n * others), torch.nan)


def hr(k:int=10):
    "Hit rate: is any held-out item among the first `k`?"
    return RankingMetric(_hr, 'hr', k)


def recall(k:int=10):
    "Share of the held-out items that are among the first `k`."
    return RankingMetric(_recall, 'recall', k)


def precision(k:int=10):
    "Share of the first `k` that are held-out items."
    return RankingMetric(_precision, 'precision', k)


def ndcg(k:int=10):
    "Normalised discounted cumulative gain of the first `k`, binary relevance."
    return RankingMetric(_ndcg, 'ndcg', k)


def ap(k:int=10):
    "Average precision of the first `k`; its mean over users is shown as map@k."
    return RankingMetric(_ap, 'map', k)


def mrr(k:int=10):
    "Reciprocal rank of the first held-out item, 0 beyond `k`."
    return RankingMetric(_mrr, 'mrr', k)


def auc():
    "Area under the ROC curve of one user: share of pairs of a held-out and another candidate that are in order."
    return RankingMetric(_auc, 'auc')
