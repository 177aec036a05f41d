"""Dot-product models."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .base import RecModel, from_range
from .context import Levels
from .embedding import EmbeddingTable
from .fused import PairScores

__all__ = ['DotBias']


class DotBias(RecModel):
    """Matrix factorisation with biases: score = mean + b_u + b_i + p_u . q_i, through a sigmoid to `y_range` if one is given.

    Koren, Bell, Volinsky, 'Matrix Factorization Techniques for Recommender Systems', Computer 2009, eq. 4; the sigmoid and the order of
    initialisation follow fastai's `EmbeddingDotBias`. Deviation from both: the mean is a parameter of its own that starts at the mean
    rating, so biases start, and are regularised, around zero.

    With context (`context_sizes`) each level of each column has a vector, which is added to the user's, and a bias.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_factors: int = 50,
        y_range: tuple = None,  # (low, high) of the scores; None: unbounded
        mean: float = None,  # mean rating, where scores start (None: 0, or the middle of `y_range`)
        known_users: torch.Tensor = None,  # bool (n_users,): users with training rows (None: all)
        known_items: torch.Tensor = None,  # bool (n_items,): items with training rows (None: all)
        std: float = 0.01,  # factors start as N(0, std)
        bias_decay: float = 0.0,  # weight decay of the biases as a share of that of the factors
        context_sizes: list = (),  # levels of each column of context (see `Levels`); 0: a column that is not read
    ):
        super().__init__()
        self.y_range = None if y_range is None else tuple(float(o) for o in y_range)
        self.user_factors = EmbeddingTable(n_users, n_factors, known_users, std)
        self.item_factors = EmbeddingTable(n_items, n_factors, known_items, std)
        self.user_biases = EmbeddingTable(n_users, 1, known_users, 0, bias_decay)
        self.item_biases = EmbeddingTable(n_items, 1, known_items, 0, bias_decay)
        self.mean = nn.Parameter(torch.tensor(0.0 if mean is None else from_range(mean, self.y_range)))
        self.context_sizes = list(context_sizes)
        self.levels = Levels(self.context_sizes, n_factors) if any(self.context_sizes) else None

    def forward(
        self, users, items=None, context=None
    ):  # (B,), (B,) or (B, C) or (1, C)[, context (B, columns), with items (B,)] -> scores, shape of the pairs; without items (B, n_items)
        if items is None:
            return self.score_items(users, context)
        if self.levels is not None:
            more, bias = self._of_context(users, context)
            x = (
                ((self.user_vectors(users) + more) * self.item_factors(items)).sum(-1)
                + self.user_biases(users).squeeze(-1)
                + self.item_biases(items).squeeze(-1)
            )
            return self.in_range(x + bias + self.mean)
        if self.training and self._plain(users, items, tables := self.tables):
            return self._pair_scores(users, items, tables)
        p, q = self.user_vectors(users), self.item_factors(items)
        bu, bi = self.user_biases(users), self.item_biases(items).squeeze(-1)
        if items.dim() == 1:
            bu = bu.squeeze(-1)
        else:
            p = p.unsqueeze(1)
        return self.in_range((p * q).sum(-1) + bu + bi + self.mean)

    def config(self) -> dict:
        """Arguments that make a model of this shape; the rest is in its state."""
        return dict(
            n_users=self.user_factors.num_embeddings,
            n_items=self.item_factors.num_embeddings,
            n_factors=self.item_factors.embedding_dim,
            y_range=self.y_range,
            bias_decay=self.user_biases.decay,
            context_sizes=self.context_sizes,
        )

    @property
    def tables(self) -> tuple:
        """User and item factors, user and item biases."""
        m = self._modules
        return m['user_factors'], m['item_factors'], m['user_biases'], m['item_biases']

    def _plain(self, users, items, tables) -> bool:
        """May `PairScores` do it? Not where somebody listens (hooks), has put other tables or user vectors in, or casts (autocast)."""
        return (
            (items.dim() == 1 or len(items) == len(users) > 1)
            and type(self).user_vectors is DotBias.user_vectors
            and torch.is_grad_enabled()
            and not torch.is_autocast_enabled(users.device.type)
            and all(
                type(t) is EmbeddingTable
                and not (t._forward_hooks or t._forward_pre_hooks or t._backward_hooks or t._backward_pre_hooks)
                for t in tables
            )
        )

    def _pair_scores(self, users, items, tables):
        n = users.shape[0]
        l2 = [t.l2 / n for t in tables]
        args = *[t._parameters['weight'] for t in tables], self.mean, users, items, self.y_range
        if not any(l2):
            return PairScores.apply(*args, None, tables)
        scores, penalty = PairScores.apply(*args, l2, tables)
        holder = next(t for t in tables if t.l2)
        holder.__dict__['penalty'] = (
            penalty if holder.penalty is None else holder.penalty + penalty
        )  # nn.Module's setattr takes as long as the sum
        return scores

    def user_vectors(self, users):  # (B,) -> (B, n_factors)
        """What is multiplied with item factors for `users`."""
        return self.user_factors(users)

    def _of_context(
        self, users, context
    ):  # -> (B, n_factors), (B,), to be added to the users'; without context that of level 0
        return self.levels(
            torch.zeros(len(users), len(self.context_sizes), dtype=torch.long, device=users.device)
            if context is None
            else context
        )

    def score_items(self, users, context=None):  # (B,)[, (B, columns)] -> (B, n_items)
        """Scores of the whole catalogue by one matrix product."""
        p, b = self.user_vectors(users), self.user_biases(users)
        if self.levels is not None:
            more, bias = self._of_context(users, context)
            p, b = p + more, b + bias[:, None]
        return self.in_range(p @ self.item_factors.weight.T + b + self.item_biases.weight.T + self.mean)

    def ranking_items(self):  # (n_items, n_factors + 1)
        """With `ranking_users`: vectors whose products order each user's items as `score_items` does, without the user's bias, the mean and the sigmoid, which leave the order alone."""
        return torch.cat([self.item_factors.weight, self.item_biases.weight], 1)

    def ranking_users(self, users):  # (B,) -> (B, n_factors + 1)
        """See `ranking_items`; without context."""
        p = self.user_vectors(users)
        return F.pad(p if self.levels is None else p + self._of_context(users, None)[0], (0, 1), value=1.0)

    def vectors(self, side: str) -> torch.Tensor:
        """Detached factors, (n, n_factors), of 'user' or 'item'."""
        return (self.item_factors if side == 'item' else self.user_factors).weight.detach() + self._neutral(side)[0]

    def biases(self, side: str) -> torch.Tensor:
        """Detached biases, (n,), of 'user' or 'item'."""
        return (self.item_biases if side == 'item' else self.user_biases).weight.detach().squeeze(-1) + self._neutral(
            side
        )[1]

    def _neutral(self, side):  # what users have of a context that is not given: vector, bias
        if self.levels is None or side == 'item':
            return 0.0, 0.0
        with torch.no_grad():
            return tuple(
                o[0] for o in self._of_context(torch.zeros(1, dtype=torch.long, device=self.mean.device), None)
            )

    def intercept(self) -> float:
        """The mean."""
        return self.mean.item()

    def explain(self, user: int, item: int) -> dict:
        """Parts that add up to the score before the sigmoid: mean, user and item bias (floats) and the product of each factor, (n_factors,)."""
        p, q = self.vectors('user')[user], self.vectors('item')[item]
        return dict(
            mean=self.mean.item(),
            user_bias=self.biases('user')[user].item(),
            item_bias=self.biases('item')[item].item(),
            factors=p * q,
        )
