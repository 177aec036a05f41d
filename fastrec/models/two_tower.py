"""Two towers: users and items are encoded apart and meet in a dot product, which an index can search."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .base import RecModel
from .blocks import FeatureLinear, unique_rows
from .embedding import EmbeddingTable

__all__ = ['TwoTower']


class Encoder(nn.Module):
    """One tower: codes to unit vectors, z / |z| with z = x + MLP(x), x = embedding of the id + linear layer over the features.

    The MLP (a layer of `layers`, ReLU, dropout; ...; a last linear layer, which starts at 0) adds to what it gets, so that training starts from a matrix factorisation. With
    features, a share `id_dropout` of the rows goes without its id at each step of training (DropoutNet: Volkovs, Yu and Poutanen 2017), and so do cold rows when scoring: they are
    known by their features alone. Without features a cold row has the mean of the known ids.
    """

    def __init__(self, n, n_out, layers=(), blocks=None, known=None, dropout=0.0, id_dropout=0.0, std=0.1):
        super().__init__()
        self.ids = EmbeddingTable(n, n_out, known, std)
        self.features = FeatureLinear(blocks, n_out, known, std) if blocks else None
        if blocks and len(self.features) != n:
            raise ValueError(
                f'the features have {len(self.features):,} rows, the tower {n:,}: align them with the vocab'
            )
        self.id_dropout, self.mlp = id_dropout, None
        if layers:
            hidden = []
            for a, b in zip([n_out, *layers], layers):
                hidden += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout)]
            self.mlp = nn.Sequential(*hidden, last := nn.Linear(layers[-1], n_out))
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, codes):  # (n,) -> (n, n_out), rows of length 1
        x = self.ids(codes)
        if self.features is not None:
            keep = self.ids.known[codes]
            if self.training and self.id_dropout:
                keep = keep & (torch.rand(len(codes), device=codes.device) >= self.id_dropout)
            x = x * keep[:, None] + self.features(codes)
        return F.normalize(x if self.mlp is None else x + self.mlp(x), dim=1)


class TwoTower(RecModel):
    """score = cos(f(user), g(item)) / temperature, f and g `Encoder`s over ids and features.

    Yi et al., 'Sampling-bias-corrected neural modeling for large corpus item recommendations', RecSys 2019, section 3 (unit vectors, temperature), trained with `InBatchSoftmaxLoss`. Deviation: their
    towers are plain MLPs over features; here ids have vectors and the MLP adds to them.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        n_factors: int = 64,  # length of the vectors
        layers: list = (128,),  # widths of the hidden layers of both towers; (): none
        temperature: float = 0.1,  # of the softmax: scores are cosines over it
        user_blocks: dict = None,  # name -> `Block` of user features, rows in the order of codes
        item_blocks: dict = None,  # the same of items
        dropout: float = 0.0,  # after each hidden layer
        id_dropout: float = 0.1,  # share of rows that train without their id; only of a tower with features
        known_users: torch.Tensor = None,  # bool (n_users,): users with training rows (None: all)
        known_items: torch.Tensor = None,  # bool (n_items,): items with training rows (None: all)
        std: float = 0.1,  # id vectors start as N(0, std)
    ):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f'temperature={temperature}: a number above 0')
        self.user_tower = Encoder(n_users, n_factors, layers, user_blocks, known_users, dropout, id_dropout, std)
        self.item_tower = Encoder(n_items, n_factors, layers, item_blocks, known_items, dropout, id_dropout, std)
        self.temperature = temperature

    def config(self) -> dict:
        """Arguments that make a model of this shape; the features are among them."""
        towers = dict(user=self.user_tower, item=self.item_tower)
        mlp = self.item_tower.mlp
        return dict(
            n_users=self.user_tower.ids.num_embeddings,
            n_items=self.item_tower.ids.num_embeddings,
            n_factors=self.item_tower.ids.embedding_dim,
            temperature=self.temperature,
            layers=[] if mlp is None else [m.out_features for m in mlp[:-1] if isinstance(m, nn.Linear)],
            dropout=0.0 if mlp is None else mlp[2].p,
            id_dropout=self.item_tower.id_dropout,
            **{f'{side}_blocks': None if t.features is None else t.features.blocks() for side, t in towers.items()},
        )

    def user_vectors(self, users):  # (B,) -> (B, n_factors)
        """What item vectors are multiplied with: unit vectors over the temperature."""
        return self.user_tower(users) / self.temperature

    def forward(
        self, users, items=None
    ):  # (B,), (B,) or (B, C) or (1, C) -> scores, shape of the pairs; without items (B, n_items)
        if items is None:
            return self.score_items(users)
        if items.dim() == 2 and len(items) == 1:
            return self.user_vectors(users) @ self.item_tower(items[0]).T
        p, q = unique_rows(self.user_vectors, users), unique_rows(self.item_tower, items)
        return ((p if items.dim() == 1 else p.unsqueeze(1)) * q).sum(-1)

    def score_items(self, users):  # (B,) -> (B, n_items)
        """Scores of the whole catalogue: every item encoded once, then one matrix product."""
        return self.user_vectors(users) @ self.vectors('item').T

    def has_features(self, side: str) -> torch.Tensor:
        """bool (n,): which users or items have any features."""
        tower = self.item_tower if side == 'item' else self.user_tower
        return (
            torch.zeros(tower.ids.num_embeddings, dtype=torch.bool)
            if tower.features is None
            else tower.features.present.any(1)
        )

    def ranking_items(self):  # (n_items, n_factors)
        """With `ranking_users`: vectors whose products are the scores."""
        return self.vectors('item')

    def ranking_users(self, users):  # (B,) -> (B, n_factors)
        """See `ranking_items`."""
        return self.user_vectors(users)

    def add_items(self, blocks: dict):
        """Further items, by their features alone; their codes come after those there are."""
        if self.item_tower.features is None:
            raise TypeError(
                'this item tower knows items by their ids alone, so it can say nothing about new ones. Make it with item_features='
            )
        self.item_tower.features.add_rows(blocks)
        self.item_tower.ids.add_rows(len(next(iter(blocks.values()))))

    @torch.no_grad()
    def vectors(self, side: str) -> torch.Tensor:
        """Vectors, (n, n_factors), of 'user' (unit vectors over the temperature) or 'item' (unit vectors): their products are the scores."""
        tower, encode = (self.item_tower, self.item_tower) if side == 'item' else (self.user_tower, self.user_vectors)
        return torch.cat(
            [encode(o) for o in torch.arange(tower.ids.num_embeddings, device=tower.ids.weight.device).split(2**16)]
        )
