"""Items known by their features: an encoder of feature blocks times a vector for each user."""

from __future__ import annotations

import torch
from torch import nn

from ..data.block import Block
from .base import DotModel, as_range, over_items, split_bias, starting_mean
from .blocks import FeatureLinear, unique_rows
from .embedding import EmbeddingTable

__all__ = ['Content', 'FeatureEncoder']


class FeatureEncoder(nn.Module):
    """Feature blocks of codes to vectors: sparse layer -> `hidden` -> ReLU -> dropout -> n_out.

    With `hidden=0` the sparse layer alone, and dropout.
    """

    def __init__(
        self,
        blocks: dict[str, Block],  # by name; rows in the order of codes
        n_out: int,  # length of the outputs
        hidden: int = 256,  # width of the hidden layer; 0: none
        dropout: float = 0.2,  # share of the hidden units dropped in training
        known: torch.Tensor | None = None,  # bool (n,): rows with training data (None: all)
        absent: bool = True,  # learn a vector for each absent block
        std: float = 0.01,  # vectors start as about N(0, std)
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.first = FeatureLinear(blocks, hidden or n_out, known, 1.0 if hidden else std, absent)
        self.offset = nn.Parameter(torch.zeros(hidden or n_out))
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(hidden, n_out) if hidden else None
        if self.second is not None:
            nn.init.normal_(self.second.weight, 0, std * (2 / hidden) ** 0.5)
            nn.init.zeros_(self.second.bias)

    def forward(
        self,
        codes: torch.Tensor | None = None,  # int64 (n,); None: all rows
    ) -> torch.Tensor:
        """Codes (n,), or None for all -> (n, n_out)."""
        x = self.first(codes) + self.offset
        if self.second is None:
            return self.dropout(x)
        return self.second(self.dropout(torch.relu(x)))


class Content(DotModel):
    """Features of the item times a user vector: score = mean + b_u + p_u . f(x_i) + g(x_i).

    (f, g) = `FeatureEncoder`; through a sigmoid to `y_range` if one is given. There is no parameter of an item: one
    that was never rated is scored as any other, by its features. g is what an item's features say to every user, the
    bias that a rated item would have. Users may have features, too: p_u = embedding + linear layer over them.
    `ValueError` where the features have another number of rows.
    """

    def __init__(
        self,
        n_users: int,  # how many users
        n_items: int,  # how many items
        blocks: dict[str, Block],  # item features by name, rows in the order of codes
        n_factors: int = 64,  # length of the vectors
        hidden: int = 256,  # width of the hidden layer; 0: none
        dropout: float = 0.2,  # after the hidden layer
        user_blocks: dict[str, Block] | None = None,  # the same of users
        y_range: tuple[float, float] | None = None,  # (low, high) of the scores; None: unbounded
        mean: float | None = None,  # mean rating, where scores start (None: 0, or the middle of `y_range`)
        known_users: torch.Tensor | None = None,  # bool (n_users,): users with training rows (None: all)
        known_items: torch.Tensor | None = None,  # bool (n_items,): items with training rows (None: all)
        std: float = 0.1,  # user factors and item vectors start as about N(0, std)
    ) -> None:
        super().__init__()
        self.y_range = as_range(y_range)
        self.item_net = FeatureEncoder(blocks, n_factors + 1, hidden, dropout, known_items, std=std)
        if len(self.item_net.first) != n_items:
            raise ValueError(
                f'the features have {len(self.item_net.first):,} rows for {n_items:,} items: align them with the vocab'
            )
        self.user_factors = EmbeddingTable(n_users, n_factors, known_users, std)
        self.user_biases = EmbeddingTable(n_users, 1, known_users, 0, decay=0.0)
        self.user_net = None if user_blocks is None else FeatureLinear(user_blocks, n_factors + 1, known_users, std)
        self.mean = starting_mean(mean, self.y_range)

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

    # --- scores

    def users_of(
        self,
        users: torch.Tensor,  # codes of users, int64 (B,)
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors and biases of users: (B,) -> (B, n_factors), (B, 1)."""
        p, b = self.user_factors(users), self.user_biases(users)
        if self.user_net is None:
            return p, b
        x = self.user_net(users)
        return p + x[:, :-1], b + x[:, -1:]

    def forward(  # type: ignore[override]  # reads no context
        self, users: torch.Tensor, items: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores of pairs: (B,), (B,) or (B, C) or (1, C) -> (B,) or (B, C); without items (B, n_items)."""
        if items is None:
            return self.score_items(users)
        p, bu = self.users_of(users)
        p = over_items(p, items)
        bu = over_items(bu, items).squeeze(-1)
        q, bi = split_bias(unique_rows(self.item_net, items))
        return self.in_range((p * q).sum(-1) + bi + bu + self.mean)

    def score_items(self, users: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # reads no context
        """Scores of the whole catalogue: (B,) -> (B, n_items); items encoded once, then one matrix product."""
        q, bi = split_bias(self.item_net())
        p, bu = self.users_of(users)
        return self.in_range(p @ q.T + bi + bu + self.mean)

    # --- what it has learned

    @torch.no_grad()
    def vectors(self, side: str) -> torch.Tensor:
        """Detached vectors, (n, n_factors), of 'user' or 'item' (its encoded features)."""
        return self.item_net()[:, :-1] if side == 'item' else self._all_users()[0]

    @torch.no_grad()
    def biases(self, side: str) -> torch.Tensor:
        """Detached biases, (n,), of 'user' or 'item' (what the features say to every user)."""
        return self.item_net()[:, -1] if side == 'item' else self._all_users()[1].squeeze(-1)

    def _all_users(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors and biases of all users."""
        return self.users_of(torch.arange(self.user_factors.num_embeddings, device=self.mean.device))

    @torch.no_grad()
    def explain(self, user: int, item: int) -> dict:
        """Parts that add up to the score before the sigmoid; see `DotModel`. Only the one item is encoded."""
        code = torch.tensor([item], device=self.mean.device)
        q, item_bias = split_bias(self.item_net(code)[0])
        p, user_biases = self._all_users()
        return dict(
            mean=self.intercept(),
            user_bias=user_biases[user].item(),
            item_bias=item_bias.item(),
            factors=p[user] * q,
        )

    # --- features

    def feature_layers(self, side: str) -> tuple[FeatureLinear, ...]:
        """The layers that read features of 'user' or 'item' (`side`); none where it reads none."""
        layer = self.item_net.first if side == 'item' else self.user_net
        return () if layer is None else (layer,)

    def add_items(self, blocks: dict[str, Block]) -> None:
        """Further items, by their features alone; their codes come after those there are."""
        self.item_net.first.add_rows(blocks)
