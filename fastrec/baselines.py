"""Baselines every model has to beat: `Scorer`s that need no training loop."""
from __future__ import annotations

import numpy as np
import torch

from .recommend import Scorer

__all__ = ['GlobalMean', 'BiasOnly']


class BiasOnly(Scorer):
    """Damped biases: score = mean + b_i + b_u, where b_i and b_u are shrunken mean residuals.

    b_i = sum(r - mean) / (damping_i + n_i), then b_u = sum(r - mean - b_i) / (damping_u + n_u): Koren 2010, 'Factor in the Neighbors', section
    2.1 (its decoupled estimates). Cold users and items have bias 0.
    """
    scale = 'rating'

    def __init__(self,
        damping:tuple=(5., 10.) # rows of (users, items) that count for the prior that all are average
    ):
        self.damping = damping

    def fit(self, dls):
        "Learn from the training rows of `dls`; returns self."
        self.catalog = dls.catalog
        inter, rows = self.catalog.require_history(), self.catalog.split.train
        if inter.ratings is None: raise ValueError(f'{type(self).__name__} predicts ratings, and the table has none')
        users, items, y = inter.users[rows], inter.items[rows], inter.ratings[rows].astype(np.float64)
        self.mean = y.mean()
        self.item_biases, self.user_biases = self._biases(users, items, y - self.mean)
        return self

    def _biases(self, users, items, y):
        damped = lambda codes, y, damping, n: np.bincount(codes, y, n) / (np.bincount(codes, minlength=n) + damping)
        bi = damped(items, y, self.damping[1], self.catalog.n_items)
        return bi, damped(users, y - bi[items], self.damping[0], self.catalog.n_users)

    def score(self, users, items):
        "Predicted ratings of pairs of codes: (n,), (n,) -> (n,)."
        u, i = np.asarray(users), np.asarray(items)
        return torch.from_numpy(np.asarray(self.mean + self.user_biases[u] + self.item_biases[i], dtype=np.float32))

    def score_items(self, users):
        "Predicted ratings of all items: codes (B,) -> (B, n_items)."
        return torch.from_numpy((self.mean + self.user_biases[np.asarray(users)][:, None] + self.item_biases).astype(np.float32))


class GlobalMean(BiasOnly):
    "The mean training rating for every pair."
    def _biases(self, users, items, y): return np.zeros(self.catalog.n_items), np.zeros(self.catalog.n_users)
