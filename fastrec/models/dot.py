"Dot-product models."
from __future__ import annotations

import torch
from torch import nn

from .embedding import EmbeddingTable, squash, unsquash

__all__ = ['DotBias']


class DotBias(nn.Module):
    """Matrix factorisation with biases: score = mean + b_u + b_i + p_u . q_i, through a sigmoid to `y_range` if one is given.

    Koren, Bell, Volinsky, 'Matrix Factorization Techniques for Recommender Systems', Computer 2009, eq. 4; the sigmoid and the order of
    initialisation follow fastai's `EmbeddingDotBias`. Deviation from both: the mean is a parameter of its own that starts at the mean
    rating, so biases start, and are regularised, around zero.
    """
    def __init__(self,
        n_users:int, n_items:int, n_factors:int=50,
        y_range:tuple=None, # (low, high) of the scores; None: unbounded
        mean:float=None, # mean rating, where scores start (None: 0, or the middle of `y_range`)
        known_users:torch.Tensor=None, # bool (n_users,): users with training rows (None: all)
        known_items:torch.Tensor=None, # bool (n_items,): items with training rows (None: all)
        std:float=0.01, # factors start as N(0, std)
        bias_decay:float=0. # weight decay of the biases as a share of that of the factors
    ):
        super().__init__()
        self.y_range = None if y_range is None else tuple(float(o) for o in y_range)
        self.user_factors = EmbeddingTable(n_users, n_factors, known_users, std)
        self.item_factors = EmbeddingTable(n_items, n_factors, known_items, std)
        self.user_biases = EmbeddingTable(n_users, 1, known_users, 0, bias_decay)
        self.item_biases = EmbeddingTable(n_items, 1, known_items, 0, bias_decay)
        self.mean = nn.Parameter(torch.tensor(0. if mean is None else unsquash(mean, self.y_range)))

    def forward(self, users, items): # (B,), (B,) or (B, C) or (1, C) -> scores, shape of the pairs
        p, q = self.user_factors(users), self.item_factors(items)
        bu, bi = self.user_biases(users), self.item_biases(items).squeeze(-1)
        if items.dim() == 1: bu = bu.squeeze(-1)
        else: p = p.unsqueeze(1)
        return squash((p * q).sum(-1) + bu + bi + self.mean, self.y_range)

    def score_items(self, users): # (B,) -> (B, n_items)
        "Scores of the whole catalogue by one matrix product."
        x = self.user_factors(users) @ self.item_factors.weight.T
        return squash(x + self.user_biases(users) + self.item_biases.weight.T + self.mean, self.y_range)

    def vectors(self, side:str)->torch.Tensor:
        "Detached factors, (n, n_factors), of 'user' or 'item'."
        return (self.item_factors if side == 'item' else self.user_factors).weight.detach()

    def biases(self, side:str)->torch.Tensor:
        "Detached biases, (n,), of 'user' or 'item'."
        return (self.item_biases if side == 'item' else self.user_biases).weight.detach().squeeze(-1)

    def explain(self, user:int, item:int)->dict:
        "Parts that add up to the score before the sigmoid: mean, user and item bias (floats) and the product of each factor, (n_factors,)."
        p, q = self.vectors('user')[user], self.vectors('item')[item]
        return dict(mean=self.mean.item(), user_bias=self.biases('user')[user].item(), item_bias=self.biases('item')[item].item(), factors=p * q)
