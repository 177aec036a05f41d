"""Items known by their features: an encoder of feature blocks times a vector for each user."""

from __future__ import annotations

import torch
from torch import nn

from .base import RecModel, from_range
from .blocks import FeatureLinear, unique_rows
from .embedding import EmbeddingTable

__all__ = ['Content', 'FeatureEncoder']


class FeatureEncoder(nn.Module):
    """Feature blocks of codes to vectors: sparse layer -> `hidden` -> ReLU -> dropout -> n_out; with `hidden=0` the sparse layer alone."""

    def __init__(self, blocks, n_out, hidden=256, dropout=0.2, known=None, absent=True, std=0.01):
        super().__init__()
        self.hidden = hidden
        self.first = FeatureLinear(blocks, hidden or n_out, known, 1.0 if hidden else std, absent)
        self.offset = nn.Parameter(torch.zeros(hidden or n_out))
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(hidden, n_out) if hidden else None
        if hidden:
            nn.init.normal_(self.second.weight, 0, std * (2 / hidden) ** 0.5)
            nn.init.zeros_(self.second.bias)

    def forward(self, codes=None):  # (n,) or None: all -> (n, n_out)
        x = self.first(codes) + self.offset
        return self.dropout(x) if self.second is None else self.second(self.dropout(torch.relu(x)))


class Content(RecModel):
    """Features of the item times a user vector: score = mean + b_u + p_u . f(x_i) + g(x_i), (f, g) = `FeatureEncoder`; through a sigmoid to `y_range` if one is given.

    There is no parameter of an item: one that was never rated is scored as any other, by its features. g is what an item's features say to every user, the bias that a rated
    item would have. Users may have features, too: p_u = embedding + linear layer over them.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        blocks: dict,  # name -> `Block` of item features, rows in the order of codes
        n_factors: int = 64,
        hidden: int = 256,  # width of the hidden layer; 0: none
        dropout: float = 0.2,  # after the hidden layer
        user_blocks: dict = None,  # the same of users
        y_range: tuple = None,  # (low, high) of the scores; None: unbounded
        mean: float = None,  # mean rating, where scores start (None: 0, or the middle of `y_range`)
        known_users: torch.Tensor = None,  # bool (n_users,): users with training rows (None: all)
        known_items: torch.Tensor = None,  # bool (n_items,): items with training rows (None: all)
        std: float = 0.1,  # user factors and item vectors start as about N(0, std)
    ):
        super().__init__()
        self.y_range = None if y_range is None else tuple(float(o) for o in y_range)
        self.item_net = FeatureEncoder(blocks, n_factors + 1, hidden, dropout, known_items, std=std)
        if len(self.item_net.first) != n_items:
            raise ValueError(
                f'the features have {len(self.item_net.first):,} rows for {n_items:,} items: align them with the vocab'
            )
        self.user_factors = EmbeddingTable(n_users, n_factors, known_users, std)
        self.user_biases = EmbeddingTable(n_users, 1, known_users, 0, decay=0.0)
        self.user_net = None if user_blocks is None else FeatureLinear(user_blocks, n_factors + 1, known_users, std)
        self.mean = nn.Parameter(torch.tensor(0.0 if mean is None else from_range(mean, self.y_range)))

    def config(self) -> dict:
        """Arguments that make a model of this shape; the features are among them."""
        return dict(
            n_users=self.user_factors.num_embeddings,
            n_items=len(self.item_net.first),
            blocks=self.item_net.first.blocks(),
            n_factors=self.user_factors.embedding_dim,
            hidden=self.item_net.hidden,
            dropout=self.item_net.dropout.p,
            user_blocks=None if self.user_net is None else self.user_net.blocks(),
            y_range=self.y_range,
        )

    def users_of(self, users):  # (B,) -> (B, n_factors), (B, 1)
        """Vectors and biases of users."""
        p, b = self.user_factors(users), self.user_biases(users)
        if self.user_net is None:
            return p, b
        x = self.user_net(users)
        return p + x[:, :-1], b + x[:, -1:]

    def forward(
        self, users, items=None
    ):  # (B,), (B,) or (B, C) or (1, C) -> scores, shape of the pairs; without items (B, n_items)
        if items is None:
            return self.score_items(users)
        p, bu = self.users_of(users)
        q = unique_rows(self.item_net, items)
        if items.dim() == 1:
            bu = bu.squeeze(-1)
        else:
            p = p.unsqueeze(1)
        return self.in_range((p * q[..., :-1]).sum(-1) + q[..., -1] + bu + self.mean)

    def score_items(self, users):  # (B,) -> (B, n_items)
        """Scores of the whole catalogue: the items encoded once, then one matrix product."""
        q = self.item_net()
        p, bu = self.users_of(users)
        return self.in_range(p @ q[:, :-1].T + q[:, -1] + bu + self.mean)

    @torch.no_grad()
    def vectors(self, side: str) -> torch.Tensor:
        """Detached vectors, (n, n_factors), of 'user' or 'item' (its encoded features)."""
        return self.item_net()[:, :-1] if side == 'item' else self.users_of(self._all_users())[0]

    @torch.no_grad()
    def biases(self, side: str) -> torch.Tensor:
        """Detached biases, (n,), of 'user' or 'item' (what the features say to every user)."""
        return self.item_net()[:, -1] if side == 'item' else self.users_of(self._all_users())[1].squeeze(-1)

    def has_features(self, side: str) -> torch.Tensor:
        """bool (n,): which users or items have any features."""
        layer = self.item_net.first if side == 'item' else self.user_net
        return (
            torch.zeros(self.user_factors.num_embeddings, dtype=torch.bool) if layer is None else layer.present.any(1)
        )

    def _all_users(self):
        return torch.arange(self.user_factors.num_embeddings, device=self.mean.device)

    def intercept(self) -> float:
        """The mean."""
        return self.mean.item()

    def explain(self, user: int, item: int) -> dict:
        """Parts that add up to the score before the sigmoid: mean, user and item bias (floats) and the product of each factor, (n_factors,)."""
        with torch.no_grad():
            q = self.item_net(torch.tensor([item], device=self.mean.device))[0]
        return dict(
            mean=self.mean.item(),
            user_bias=self.biases('user')[user].item(),
            item_bias=q[-1].item(),
            factors=self.vectors('user')[user] * q[:-1],
        )

    def add_items(self, blocks: dict):
        """Further items, by their features alone; their codes come after those there are."""
        self.item_net.first.add_rows(blocks)
