"The models of He et al., 'Neural Collaborative Filtering', WWW 2017."
from __future__ import annotations

import torch
from torch import nn

from .embedding import EmbeddingTable, squash, unsquash

__all__ = ['MLP']


class MLP(nn.Module):
    """A perceptron over the concatenated user and item embeddings, plus biases (He et al. 2017, eq. 10).

    score = h(z_L) + b_u + b_i + mean with z_0 = [p_u, q_i], z_l = ReLU(W_l z_(l-1) + c_l). Deviations from the paper: dropout after each
    layer, and the user and item biases of a rating model (start at 0; the mean at the mean rating), which the perceptron would have to
    learn the long way round.
    """
    def __init__(self,
        n_users:int, n_items:int,
        n_factors:int=16, # width of the user and of the item embedding
        layers:list=(64, 32), # widths of the hidden layers
        dropout:float=0., # after each hidden layer
        y_range:tuple=None, # (low, high) of the scores; None: unbounded
        mean:float=None, # mean rating, where scores start (None: 0, or the middle of `y_range`)
        known_users:torch.Tensor=None, # bool (n_users,): users with training rows (None: all)
        known_items:torch.Tensor=None, # bool (n_items,): items with training rows (None: all)
        std:float=0.01 # embeddings start as N(0, std)
    ):
        super().__init__()
        if not layers: raise ValueError('MLP needs at least one hidden layer; without any it would be a linear model')
        self.y_range = None if y_range is None else tuple(float(o) for o in y_range)
        self.user_factors = EmbeddingTable(n_users, n_factors, known_users, std)
        self.item_factors = EmbeddingTable(n_items, n_factors, known_items, std)
        self.user_biases = EmbeddingTable(n_users, 1, known_users, 0, decay=0.)
        self.item_biases = EmbeddingTable(n_items, 1, known_items, 0, decay=0.)
        self.mean = nn.Parameter(torch.tensor(0. if mean is None else unsquash(mean, self.y_range)))
        # W_1 [p, q] = U p + V q: two halves, so that the item half of a whole catalogue is computed once
        self.user_layer = nn.Linear(n_factors, layers[0])
        self.item_layer = nn.Linear(n_factors, layers[0], bias=False)
        hidden = []
        for n_in, n_out in zip(layers, layers[1:]): hidden += [nn.Linear(n_in, n_out), nn.ReLU(), nn.Dropout(dropout)]
        self.hidden = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), *hidden)
        self.out = nn.Linear(layers[-1], 1, bias=False)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                if m.bias is not None: nn.init.zeros_(m.bias)

    def forward(self, users, items): # (B,), (B,) or (B, C) or (1, C) -> scores, shape of the pairs
        u, i = self.user_layer(self.user_factors(users)), self.item_layer(self.item_factors(items))
        bu, bi = self.user_biases(users), self.item_biases(items).squeeze(-1)
        if items.dim() == 1: bu = bu.squeeze(-1)
        else: u = u.unsqueeze(1)
        return squash(self.out(self.hidden(u + i)).squeeze(-1) + bu + bi + self.mean, self.y_range)

    def score_items(self, users): # (B,) -> (B, n_items)
        "Scores of the whole catalogue; the item half of the first layer is computed once."
        u, i = self.user_layer(self.user_factors(users)), self.item_layer(self.item_factors.weight)
        x = torch.stack([self.out(self.hidden(row + i)).squeeze(-1) for row in u])
        return squash(x + self.user_biases(users) + self.item_biases.weight.T + self.mean, self.y_range)

    def vectors(self, side:str)->torch.Tensor:
        "Detached embeddings, (n, n_factors), of 'user' or 'item'."
        return (self.item_factors if side == 'item' else self.user_factors).weight.detach()

    def biases(self, side:str)->torch.Tensor:
        "Detached biases, (n,), of 'user' or 'item'."
        return (self.item_biases if side == 'item' else self.user_biases).weight.detach().squeeze(-1)
