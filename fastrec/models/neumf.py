"""The models of He et al., 'Neural Collaborative Filtering', WWW 2017. GMF and NeuMF score logits: the sigmoid is in the loss."""

from __future__ import annotations

import copy

import torch
from torch import nn

from .base import RecModel, from_range
from .embedding import EmbeddingTable

__all__ = ['GMF', 'MLP', 'NeuMF']


class Product(nn.Module):
    """GMF's pathway: the element-wise product p_u * q_i of two embeddings."""

    def __init__(self, n_users, n_items, n_factors, known_users=None, known_items=None, std=0.01):
        super().__init__()
        self.user_factors = EmbeddingTable(n_users, n_factors, known_users, std)
        self.item_factors = EmbeddingTable(n_items, n_factors, known_items, std)

    def forward(self, users, items):  # -> (..., n_factors)
        p, q = self.user_factors(users), self.item_factors(items)
        return (p if items.dim() == 1 else p.unsqueeze(1)) * q

    def score_items(self, users, h):  # (B,), h (n_factors,) -> (B, n_items)
        return (self.user_factors(users) * h) @ self.item_factors.weight.T


class Tower(nn.Module):
    """MLP's pathway: z_0 = [p_u, q_i], z_l = dropout(ReLU(W_l z_(l-1) + c_l)); gives z_L."""

    def __init__(self, n_users, n_items, n_factors, layers, dropout=0.0, known_users=None, known_items=None, std=0.01):
        super().__init__()
        if not layers:
            raise ValueError('an MLP needs at least one hidden layer; without any it would be a linear model')
        self.user_factors = EmbeddingTable(n_users, n_factors, known_users, std)
        self.item_factors = EmbeddingTable(n_items, n_factors, known_items, std)
        # W_1 [p, q] = U p + V q: two halves, so that the item half of a whole catalogue is computed once
        self.user_layer = nn.Linear(n_factors, layers[0])
        self.item_layer = nn.Linear(n_factors, layers[0], bias=False)
        hidden = []
        for n_in, n_out in zip(layers, layers[1:]):
            hidden += [nn.Linear(n_in, n_out), nn.ReLU(), nn.Dropout(dropout)]
        self.hidden = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), *hidden)
        self.layers, self.dropout, self.n_out = tuple(layers), dropout, layers[-1]
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)

    def forward(self, users, items):  # -> (..., layers[-1])
        u, i = self.user_layer(self.user_factors(users)), self.item_layer(self.item_factors(items))
        return self.hidden((u if items.dim() == 1 else u.unsqueeze(1)) + i)

    def score_items(self, users, h):  # (B,), h (layers[-1],) -> (B, n_items), a user at a time
        u, i = self.user_layer(self.user_factors(users)), self.item_layer(self.item_factors.weight)
        return torch.stack([self.hidden(row + i) @ h for row in u])


def _output(n_in):
    out = nn.Linear(n_in, 1)
    nn.init.xavier_uniform_(out.weight)
    nn.init.zeros_(out.bias)
    return out


class GMF(RecModel):
    """Generalised matrix factorisation: score = h . (p_u * q_i) + c (He et al. 2017, eq. 9). `h` starts at 1, that is, as a dot product."""

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_factors: int = 32,  # length of the vectors
        known_users: torch.Tensor = None,  # bool (n_users,): users with training rows (None: all)
        known_items: torch.Tensor = None,  # bool (n_items,): items with training rows (None: all)
        std: float = 0.01,  # embeddings start as N(0, std)
    ):
        super().__init__()
        self.product = Product(n_users, n_items, n_factors, known_users, known_items, std)
        self.out = _output(n_factors)
        nn.init.ones_(self.out.weight)

    def config(self) -> dict:
        """Arguments that make a model of this shape; the rest is in its state."""
        return dict(
            n_users=self.product.user_factors.num_embeddings,
            n_items=self.product.item_factors.num_embeddings,
            n_factors=self.product.item_factors.embedding_dim,
        )

    def forward(self, users, items):  # (B,), (B,) or (B, C) or (1, C) -> scores, shape of the pairs
        return self.out(self.product(users, items)).squeeze(-1)

    def score_items(self, users):  # (B,) -> (B, n_items)
        """Scores of the whole catalogue by one matrix product."""
        return self.product.score_items(users, self.out.weight[0]) + self.out.bias

    def intercept(self) -> float:
        """c."""
        return self.out.bias.item()

    def vectors(self, side: str) -> torch.Tensor:
        """Detached embeddings, (n, n_factors), of 'user' or 'item'; the item's are weighted by h, so that their product with the user's is the score but for c."""
        return (
            self.product.user_factors.weight if side == 'user' else self.product.item_factors.weight * self.out.weight
        ).detach()


class MLP(RecModel):
    """A perceptron over the concatenated user and item embeddings, plus biases (He et al. 2017, eq. 10).

    score = h . z_L + b_u + b_i + c. Deviations from the paper: dropout after each layer, and the user and item biases of a rating model (start at 0; c
    at the mean rating), which the perceptron would have to learn the long way round.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_factors: int = 16,  # width of the user and of the item embedding
        layers: list = (64, 32),  # widths of the hidden layers
        dropout: float = 0.0,  # after each hidden layer
        y_range: tuple = None,  # (low, high) of the scores; None: unbounded
        mean: float = None,  # mean rating, where scores start (None: 0, or the middle of `y_range`)
        known_users: torch.Tensor = None,  # bool (n_users,): users with training rows (None: all)
        known_items: torch.Tensor = None,  # bool (n_items,): items with training rows (None: all)
        std: float = 0.01,  # embeddings start as N(0, std)
    ):
        super().__init__()
        self.y_range = None if y_range is None else tuple(float(o) for o in y_range)
        self.tower = Tower(n_users, n_items, n_factors, layers, dropout, known_users, known_items, std)
        self.user_biases = EmbeddingTable(n_users, 1, known_users, 0, decay=0.0)
        self.item_biases = EmbeddingTable(n_items, 1, known_items, 0, decay=0.0)
        self.out = _output(self.tower.n_out)
        if mean is not None:
            nn.init.constant_(self.out.bias, from_range(mean, self.y_range))

    def config(self) -> dict:
        """Arguments that make a model of this shape; the rest is in its state."""
        return dict(
            n_users=self.tower.user_factors.num_embeddings,
            n_items=self.tower.item_factors.num_embeddings,
            n_factors=self.tower.item_factors.embedding_dim,
            layers=self.tower.layers,
            dropout=self.tower.dropout,
            y_range=self.y_range,
        )

    def forward(self, users, items):  # (B,), (B,) or (B, C) or (1, C) -> scores, shape of the pairs
        bu, bi = self.user_biases(users), self.item_biases(items).squeeze(-1)
        if items.dim() == 1:
            bu = bu.squeeze(-1)
        return self.in_range(self.out(self.tower(users, items)).squeeze(-1) + bu + bi)

    def score_items(self, users):  # (B,) -> (B, n_items)
        """Scores of the whole catalogue; the item half of the first layer is computed once."""
        x = self.tower.score_items(users, self.out.weight[0]) + self.out.bias
        return self.in_range(x + self.user_biases(users) + self.item_biases.weight.T)

    def explain(self, user: int, item: int) -> dict:
        """`TypeError`: what a perceptron makes of a pair is no sum over factors."""
        raise TypeError(
            f'{type(self).__name__} has no method explain: what a perceptron makes of a pair is not a sum over factors. collab_learner, svdpp_learner and gated_learner can be explained'
        )

    def vectors(self, side: str) -> torch.Tensor:
        """Detached embeddings, (n, n_factors), of 'user' or 'item'."""
        return (self.tower.item_factors if side == 'item' else self.tower.user_factors).weight.detach()

    def biases(self, side: str) -> torch.Tensor:
        """Detached biases, (n,), of 'user' or 'item'."""
        return (self.item_biases if side == 'item' else self.user_biases).weight.detach().squeeze(-1)


class NeuMF(RecModel):
    """GMF's and MLP's pathways, each with embeddings of its own, under one output layer: score = h . [p_u * q_i, z_L] + c (He et al. 2017, eq. 12).

    As in the paper there are no user or item biases.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_factors: int = 32,  # length of the vectors of both pathways
        layers: list = (128, 64, 32),  # widths of the hidden layers of the MLP pathway
        dropout: float = 0.0,  # after each hidden layer
        known_users: torch.Tensor = None,  # bool (n_users,): users with training rows (None: all)
        known_items: torch.Tensor = None,  # bool (n_items,): items with training rows (None: all)
        std: float = 0.01,  # embeddings start as N(0, std)
    ):
        super().__init__()
        self.product = Product(n_users, n_items, n_factors, known_users, known_items, std)
        self.tower = Tower(n_users, n_items, n_factors, layers, dropout, known_users, known_items, std)
        self.out = _output(n_factors + self.tower.n_out)

    @classmethod
    def from_pretrained(cls, gmf: GMF, mlp: MLP, alpha: float = 0.5):
        """A NeuMF that starts from two trained models: output weights alpha * h_GMF and (1 - alpha) * h_MLP (He et al. 2017, section 3.4.1).

        The pathways are copies. What a `GMF` or `MLP` has beyond its pathway and output layer (an `MLP`'s biases) is left behind.
        """
        a, b = gmf.product, mlp.tower
        if (
            a.user_factors.num_embeddings != b.user_factors.num_embeddings
            or a.item_factors.num_embeddings != b.item_factors.num_embeddings
        ):
            raise ValueError('the GMF and the MLP were trained on different users or items')
        res = cls.__new__(cls)
        nn.Module.__init__(res)
        res.product, res.tower = copy.deepcopy(a), copy.deepcopy(b)
        res.out = _output(a.user_factors.embedding_dim + b.n_out).to(gmf.out.weight.device)
        with torch.no_grad():
            res.out.weight.copy_(torch.cat([alpha * gmf.out.weight, (1 - alpha) * mlp.out.weight], 1))
            res.out.bias.copy_(alpha * gmf.out.bias + (1 - alpha) * mlp.out.bias)
        return res

    def config(self) -> dict:
        """Arguments that make a model of this shape; the rest is in its state."""
        return dict(
            n_users=self.product.user_factors.num_embeddings,
            n_items=self.product.item_factors.num_embeddings,
            n_factors=self.product.item_factors.embedding_dim,
            layers=self.tower.layers,
            dropout=self.tower.dropout,
        )

    def forward(self, users, items):  # (B,), (B,) or (B, C) or (1, C) -> scores, shape of the pairs
        return self.out(torch.cat([self.product(users, items), self.tower(users, items)], -1)).squeeze(-1)

    def score_items(self, users):  # (B,) -> (B, n_items)
        """Scores of the whole catalogue: one matrix product for the GMF pathway; the item half of the MLP's first layer is computed once."""
        h, d = self.out.weight[0], self.product.user_factors.embedding_dim
        return self.product.score_items(users, h[:d]) + self.tower.score_items(users, h[d:]) + self.out.bias

    def explain(self, user: int, item: int) -> dict:
        """`TypeError`: what a perceptron makes of a pair is no sum over factors."""
        raise TypeError(
            f'{type(self).__name__} has no method explain: what a perceptron makes of a pair is not a sum over factors. collab_learner, svdpp_learner and gated_learner can be explained'
        )

    def vectors(self, side: str) -> torch.Tensor:
        """Detached embeddings of both pathways side by side, (n, 2 * n_factors), of 'user' or 'item'."""
        return torch.cat(
            [
                (m.item_factors if side == 'item' else m.user_factors).weight.detach()
                for m in (self.product, self.tower)
            ],
            1,
        )
