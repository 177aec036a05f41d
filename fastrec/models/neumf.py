"""The models of He et al., 'Neural Collaborative Filtering', WWW 2017.

GMF and NeuMF score logits: the sigmoid is in the loss.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NoReturn

import torch
from torch import nn

from .base import RecModel, as_range, from_range, over_items
from .embedding import EmbeddingTable

__all__ = ['GMF', 'MLP', 'NeuMF']


class Product(nn.Module):
    """GMF's pathway: the element-wise product p_u * q_i of two embeddings. Arguments as in `GMF`."""

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_factors: int,
        known_users: torch.Tensor | None = None,
        known_items: torch.Tensor | None = None,
        std: float = 0.01,
    ) -> None:
        super().__init__()
        self.user_factors = EmbeddingTable(n_users, n_factors, known_users, std)
        self.item_factors = EmbeddingTable(n_items, n_factors, known_items, std)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """(B,), (B,) or (B, C) or (1, C) -> (B, n_factors) or (B, C, n_factors)."""
        p = over_items(self.user_factors(users), items)
        return p * self.item_factors(items)

    def score_items(self, users: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """h . (p_u * q_i) of the whole catalogue: (B,), h (n_factors,) -> (B, n_items)."""
        return (self.user_factors(users) * h) @ self.item_factors.weight.T

    def config(self) -> dict[str, Any]:
        """Arguments that make a pathway of this shape."""
        return _sizes(self.user_factors, self.item_factors)


class Tower(nn.Module):
    """MLP's pathway: z_0 = [p_u, q_i], z_l = dropout(ReLU(W_l z_(l-1) + c_l)); gives z_L. Arguments as in `MLP`."""

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_factors: int,
        layers: Sequence[int],
        dropout: float = 0.0,
        known_users: torch.Tensor | None = None,
        known_items: torch.Tensor | None = None,
        std: float = 0.01,
    ) -> None:
        super().__init__()
        if not layers:
            raise ValueError('an MLP needs at least one hidden layer; without any it would be a linear model')
        self.layers = tuple(layers)
        self.dropout = dropout
        self.n_out = layers[-1]
        self.user_factors = EmbeddingTable(n_users, n_factors, known_users, std)
        self.item_factors = EmbeddingTable(n_items, n_factors, known_items, std)
        # W_1 [p, q] = U p + V q: two halves, so that the item half of a whole catalogue is computed once
        self.user_layer = nn.Linear(n_factors, layers[0])
        self.item_layer = nn.Linear(n_factors, layers[0], bias=False)
        hidden = [nn.ReLU(), nn.Dropout(dropout)]
        for n_in, n_out in pairwise(layers):
            hidden += [nn.Linear(n_in, n_out), nn.ReLU(), nn.Dropout(dropout)]
        self.hidden = nn.Sequential(*hidden)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """(B,), (B,) or (B, C) or (1, C) -> (B, layers[-1]) or (B, C, layers[-1])."""
        u = over_items(self.user_layer(self.user_factors(users)), items)
        return self.hidden(u + self.item_layer(self.item_factors(items)))

    def score_items(self, users: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """h . z_L of the whole catalogue, a user at a time: (B,), h (layers[-1],) -> (B, n_items)."""
        u = self.user_layer(self.user_factors(users))
        i = self.item_layer(self.item_factors.weight)
        return torch.stack([self.hidden(row + i) @ h for row in u])

    def config(self) -> dict[str, Any]:
        """Arguments that make a pathway of this shape."""
        return dict(_sizes(self.user_factors, self.item_factors), layers=self.layers, dropout=self.dropout)


def _sizes(user_factors: EmbeddingTable, item_factors: EmbeddingTable) -> dict[str, Any]:
    """The arguments that two tables tell."""
    return dict(
        n_users=user_factors.num_embeddings,
        n_items=item_factors.num_embeddings,
        n_factors=item_factors.embedding_dim,
    )


def _output(n_in: int) -> nn.Linear:
    """The output layer: h and c."""
    out = nn.Linear(n_in, 1)
    nn.init.xavier_uniform_(out.weight)
    nn.init.zeros_(out.bias)
    return out


def _cannot_explain(model: RecModel) -> NoReturn:
    raise TypeError(
        f'{type(model).__name__} has no method explain: what a perceptron makes of a pair is not a sum over factors. '
        "because(user, item) and plot_because(user, item) tell it by the user's items"
    )


class GMF(RecModel):
    """Generalized matrix factorization: score = h . (p_u * q_i) + c (He et al. 2017, eq. 9).

    `h` starts at 1, that is, as a dot product.
    """

    def __init__(
        self,
        n_users: int,  # how many users
        n_items: int,  # how many items
        n_factors: int = 32,  # length of the vectors
        known_users: torch.Tensor | None = None,  # bool (n_users,): users with training rows (None: all)
        known_items: torch.Tensor | None = None,  # bool (n_items,): items with training rows (None: all)
        std: float = 0.01,  # embeddings start as N(0, std)
    ) -> None:
        super().__init__()
        self.product = Product(n_users, n_items, n_factors, known_users, known_items, std)
        self.out = _output(n_factors)
        nn.init.ones_(self.out.weight)

    def config(self) -> dict:
        """Arguments that make a model of this shape; the rest is in its state."""
        return self.product.config()

    def forward(  # type: ignore[override]  # reads no context
        self, users: torch.Tensor, items: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores of pairs: (B,), (B,) or (B, C) or (1, C) -> (B,) or (B, C); without items (B, n_items)."""
        if items is None:
            return self.score_items(users)
        return self.out(self.product(users, items)).squeeze(-1)

    def score_items(self, users: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # reads no context
        """Scores of the whole catalogue by one matrix product: (B,) -> (B, n_items)."""
        return self.product.score_items(users, self.out.weight[0]) + self.out.bias

    def intercept(self) -> float:
        """The constant that every score has: c."""
        return self.out.bias.item()

    def vectors(self, side: str) -> torch.Tensor:
        """Detached embeddings, (n, n_factors), of 'user' or 'item'.

        The item's are weighted by h, so that their product with the user's is the score but for c.
        """
        if side == 'user':
            return self.product.user_factors.weight.detach()
        return (self.product.item_factors.weight * self.out.weight).detach()


class MLP(RecModel):
    """A perceptron over the concatenated user and item embeddings, plus biases (He et al. 2017, eq. 10).

    score = h . z_L + b_u + b_i + c. Deviations from the paper: dropout after each layer, and the user and item biases
    of a rating model (start at 0; c at the mean rating), which the perceptron would have to learn the long way round.
    """

    def __init__(
        self,
        n_users: int,  # how many users
        n_items: int,  # how many items
        n_factors: int = 16,  # width of the user and of the item embedding
        layers: Sequence[int] = (64, 32),  # widths of the hidden layers
        dropout: float = 0.0,  # after each hidden layer
        y_range: tuple[float, float] | None = None,  # (low, high) of the scores; None: unbounded
        mean: float | None = None,  # mean rating, where scores start (None: 0, or the middle of `y_range`)
        known_users: torch.Tensor | None = None,  # bool (n_users,): users with training rows (None: all)
        known_items: torch.Tensor | None = None,  # bool (n_items,): items with training rows (None: all)
        std: float = 0.01,  # embeddings start as N(0, std)
    ) -> None:
        super().__init__()
        self.y_range = as_range(y_range)
        self.tower = Tower(n_users, n_items, n_factors, layers, dropout, known_users, known_items, std)
        self.user_biases = EmbeddingTable(n_users, 1, known_users, 0, decay=0.0)
        self.item_biases = EmbeddingTable(n_items, 1, known_items, 0, decay=0.0)
        self.out = _output(self.tower.n_out)
        if mean is not None:
            nn.init.constant_(self.out.bias, from_range(mean, self.y_range))

    def config(self) -> dict:
        """Arguments that make a model of this shape; the rest is in its state."""
        return dict(self.tower.config(), y_range=self.y_range)

    def forward(  # type: ignore[override]  # reads no context
        self, users: torch.Tensor, items: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores of pairs: (B,), (B,) or (B, C) or (1, C) -> (B,) or (B, C); without items (B, n_items)."""
        if items is None:
            return self.score_items(users)
        bu = over_items(self.user_biases(users), items).squeeze(-1)
        bi = self.item_biases(items).squeeze(-1)
        return self.in_range(self.out(self.tower(users, items)).squeeze(-1) + bu + bi)

    def score_items(self, users: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # reads no context
        """Scores of the whole catalogue: (B,) -> (B, n_items). The item half of the first layer is computed once."""
        x = self.tower.score_items(users, self.out.weight[0]) + self.out.bias
        return self.in_range(x + self.user_biases(users) + self.item_biases.weight.T)

    def explain(self, user: int, item: int) -> dict:
        """`TypeError`: what a perceptron makes of a pair is not a sum over factors."""
        _cannot_explain(self)

    def vectors(self, side: str) -> torch.Tensor:
        """Detached embeddings, (n, n_factors), of 'user' or 'item'."""
        table = self.tower.item_factors if side == 'item' else self.tower.user_factors
        return table.weight.detach()

    def biases(self, side: str) -> torch.Tensor:
        """Detached biases, (n,), of 'user' or 'item'."""
        table = self.item_biases if side == 'item' else self.user_biases
        return table.weight.detach().squeeze(-1)


class NeuMF(RecModel):
    """GMF's and MLP's pathways, each with embeddings of its own, under one output layer.

    score = h . [p_u * q_i, z_L] + c (He et al. 2017, eq. 12). As in the paper there are no user or item biases.
    """

    def __init__(
        self,
        n_users: int,  # how many users
        n_items: int,  # how many items
        n_factors: int = 32,  # length of the vectors of both pathways
        layers: Sequence[int] = (128, 64, 32),  # widths of the hidden layers of the MLP pathway
        dropout: float = 0.0,  # after each hidden layer
        known_users: torch.Tensor | None = None,  # bool (n_users,): users with training rows (None: all)
        known_items: torch.Tensor | None = None,  # bool (n_items,): items with training rows (None: all)
        std: float = 0.01,  # embeddings start as N(0, std)
        gmf_dim: int | None = None,  # length of the vectors of the GMF pathway (None: `n_factors`)
        mlp_dim: int | None = None,  # of those of the MLP pathway (None: `n_factors`)
    ) -> None:
        super().__init__()
        gmf_dim = n_factors if gmf_dim is None else gmf_dim
        mlp_dim = n_factors if mlp_dim is None else mlp_dim
        self.product = Product(n_users, n_items, gmf_dim, known_users, known_items, std)
        self.tower = Tower(n_users, n_items, mlp_dim, layers, dropout, known_users, known_items, std)
        self.out = _output(gmf_dim + self.tower.n_out)

    @classmethod
    def from_pretrained(
        cls,
        gmf: GMF,  # trained, of the same users and items
        mlp: MLP,  # trained, of the same users and items
        alpha: float = 0.5,  # share of the GMF
    ) -> NeuMF:
        """A NeuMF that starts from two trained models (He et al. 2017, section 3.4.1).

        Output weights are alpha * h_GMF and (1 - alpha) * h_MLP. The pathways are copies. What a `GMF` or `MLP` has
        beyond its pathway and output layer (an `MLP`'s biases) is left behind. Their vectors may differ in length.
        `ValueError` unless both have the same numbers of users and items.
        """
        product, tower = gmf.product, mlp.tower
        if (
            product.user_factors.num_embeddings != tower.user_factors.num_embeddings
            or product.item_factors.num_embeddings != tower.item_factors.num_embeddings
        ):
            raise ValueError('the GMF and the MLP were trained on different users or items')
        res = cls.__new__(cls)
        nn.Module.__init__(res)
        res.product = copy.deepcopy(product)
        res.tower = copy.deepcopy(tower)
        res.out = _output(product.user_factors.embedding_dim + tower.n_out).to(gmf.out.weight.device)
        with torch.no_grad():
            weights = [alpha * gmf.out.weight, (1 - alpha) * mlp.out.weight]
            res.out.weight.copy_(torch.cat(weights, 1))
            res.out.bias.copy_(alpha * gmf.out.bias + (1 - alpha) * mlp.out.bias)
        return res

    def config(self) -> dict:
        """Arguments that make a model of this shape; the rest is in its state."""
        of_product, of_tower = self.product.config(), self.tower.config()
        gmf_dim, mlp_dim = of_product['n_factors'], of_tower['n_factors']
        widths = {} if gmf_dim == mlp_dim else dict(gmf_dim=gmf_dim, mlp_dim=mlp_dim)
        return {**of_tower, **of_product, **widths}

    def forward(  # type: ignore[override]  # reads no context
        self, users: torch.Tensor, items: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores of pairs: (B,), (B,) or (B, C) or (1, C) -> (B,) or (B, C); without items (B, n_items)."""
        if items is None:
            return self.score_items(users)
        pathways = [self.product(users, items), self.tower(users, items)]
        return self.out(torch.cat(pathways, -1)).squeeze(-1)

    def score_items(self, users: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # reads no context
        """Scores of the whole catalogue: (B,) -> (B, n_items).

        One matrix product for the GMF pathway; the item half of the MLP's first layer is computed once.
        """
        h = self.out.weight[0]
        d = self.product.user_factors.embedding_dim
        of_product = self.product.score_items(users, h[:d])
        of_tower = self.tower.score_items(users, h[d:])
        return of_product + of_tower + self.out.bias

    def explain(self, user: int, item: int) -> dict:
        """`TypeError`: what a perceptron makes of a pair is not a sum over factors."""
        _cannot_explain(self)

    def vectors(self, side: str) -> torch.Tensor:
        """Detached embeddings of both pathways side by side, (n, gmf_dim + mlp_dim), of 'user' or 'item'."""
        if side == 'item':
            tables = self.product.item_factors, self.tower.item_factors
        else:
            tables = self.product.user_factors, self.tower.user_factors
        return torch.cat([table.weight.detach() for table in tables], 1)
