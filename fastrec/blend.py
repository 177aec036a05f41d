"Scorers combined into one."
from __future__ import annotations

import numpy as np
import torch

from .recommend import Scorer

__all__ = ['Blend']


class Blend(Scorer):
    """Weighted sum of scorers, each standardised over the catalogue per user: sum_m w_m (s_m - mean_i s_m) / std_i s_m.

    For ranking: models that err differently, such as a learner and `EASE`, are often better together than each alone. Choose the weights on validation
    data. All scorers have to know the same users and items.
    """
    scale = 'rank'

    def __init__(self,
        scorers:list, # fitted scorers
        weights:list=None # one each; None: equal
    ):
        scorers = list(scorers.values() if isinstance(scorers, dict) else scorers)
        if not scorers: raise ValueError('nothing to blend')
        self.scorers, self.weights = scorers, [1 / len(scorers)] * len(scorers) if weights is None else list(weights)
        if len(self.weights) != len(scorers): raise ValueError(f'{len(scorers)} scorers, but {len(self.weights)} weights')
        if any(s.vocab != scorers[0].vocab for s in scorers): raise ValueError('the scorers were fitted to different users or items: fit all of them to the same loaders')
        self.catalog = scorers[0].catalog
        self.knows_cold = all(getattr(s, 'knows_cold', True) for s in scorers)

    def informed(self, side:str='item'):
        "bool (n,): users or items of which any of the scorers knows something."
        return np.any([s.informed(side) for s in self.scorers], axis=0)

    def score_items(self, users):
        "Blended scores of all items: codes (B,) -> (B, n_items), on the CPU."
        total = 0.
        for weight, scorer in zip(self.weights, self.scorers):
            s = scorer.score_items(users).float().cpu()
            total = total + weight * (s - s.mean(1, keepdim=True)) / s.std(1, keepdim=True).clamp(min=1e-9)
        return total

    def score(self, users, items):
        "Blended scores of pairs of codes: (n,), (n,) -> (n,)."
        users, at = torch.unique(torch.as_tensor(users), return_inverse=True)
        return self.score_items(users)[at, torch.as_tensor(items)]
