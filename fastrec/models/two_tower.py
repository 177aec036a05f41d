"""Two towers: users and items are encoded apart and meet in a dot product, which an index can search."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ..data.block import Block
from .base import RecModel, over_items
from .blocks import FeatureLinear, unique_rows
from .embedding import EmbeddingTable

__all__ = ['TwoTower']

ENCODED = 2**16  # users or items of a whole side that are encoded at a time


class Mean:
    """What a tower remembers of the mean of its known rows; it has it in common with its views (`models/view.py`)."""

    found: tuple | None = None  # (state of its tensors, the mean then)


class Encoder(nn.Module):
    """One tower: codes to unit vectors, z / |z| with z = x + MLP(x).

    x = embedding of the id + linear layer over the features. The MLP (a layer of `layers`, ReLU, dropout; ...; a last
    linear layer, which starts at 0) adds to what it gets, so that training starts from a matrix factorization. With
    features, a share `id_dropout` of the rows goes without its id at each step of training (DropoutNet: Volkovs, Yu and
    Poutanen 2017), and so do cold rows when scoring: they are known by their features alone. Without features the
    vector of a cold row is the mean of those of the known rows, so that it scores as they do on average; made a unit
    vector, as theirs are, it would score higher than any of them, since they point to all sides.
    """

    def __init__(
        self,
        n: int,  # users or items
        n_out: int,
        layers: Sequence[int] = (),  # widths of the hidden layers; (): no MLP
        blocks: dict[str, Block] | None = None,  # features by name, rows in the order of codes
        known: torch.Tensor | None = None,  # bool (n,): rows with training data (None: all)
        dropout: float = 0.0,
        id_dropout: float = 0.0,
        std: float = 0.1,  # vectors of ids start as N(0, std)
    ) -> None:
        super().__init__()
        self.id_dropout = id_dropout
        self._mean = Mean()
        self.ids = EmbeddingTable(n, n_out, known, std)
        self.features = FeatureLinear(blocks, n_out, known, std) if blocks else None
        if self.features is not None and len(self.features) != n:
            raise ValueError(
                f'the features have {len(self.features):,} rows, the tower {n:,}: align them with the vocab'
            )
        self.mlp = None
        if layers:
            hidden: list[nn.Module] = []
            for width_in, width_out in zip([n_out, *layers], layers):
                hidden += [nn.Linear(width_in, width_out), nn.ReLU(), nn.Dropout(dropout)]
            last = nn.Linear(layers[-1], n_out)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.mlp = nn.Sequential(*hidden, last)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (n,) -> (n, n_out), rows of length 1, but for cold ones without features in eval mode."""
        z = self._encode(codes)
        if self.training or self.features is not None or self.ids.known.all():
            return z
        return torch.where(self.ids.known[codes, None], z, self._average())

    def _average(self) -> torch.Tensor:
        """Mean (n_out,) of the vectors of known rows; worked out again only if something has changed since."""
        tensors = [*self.parameters(), self.ids.known]
        state = [(t._version, t.data_ptr()) for t in tensors]
        found = self._mean.found
        if found is None or found[0] != state:
            with torch.no_grad():
                sums = [self._encode(codes).sum(0) for codes in self.ids.known.nonzero()[:, 0].split(ENCODED)]
                n_known = self.ids.known.sum().clamp(min=1)
                mean = sum(sums, torch.zeros_like(self.ids.weight[0])) / n_known
            found = self._mean.found = state, mean
        return found[1]

    def _encode(self, codes: torch.Tensor) -> torch.Tensor:
        x = self.ids(codes)
        if self.features is not None:
            keep = self.ids.known[codes]
            if self.training and self.id_dropout:
                keep = keep & (torch.rand(len(codes), device=codes.device) >= self.id_dropout)
            x = x * keep[:, None] + self.features(codes)
        if self.mlp is not None:
            x = x + self.mlp(x)
        return F.normalize(x, dim=1)

    def layers(self) -> list[int]:
        """Widths of the hidden layers."""
        if self.mlp is None:
            return []
        return [m.out_features for m in self.mlp[:-1] if isinstance(m, nn.Linear)]

    def blocks(self) -> dict[str, Block] | None:
        """The features, as they were given."""
        return None if self.features is None else self.features.blocks()


class TwoTower(RecModel):
    """score = cos(f(user), g(item)) / temperature, f and g `Encoder`s over ids and features.

    Yi et al., 'Sampling-bias-corrected neural modeling for large corpus item recommendations', RecSys 2019, section 3
    (unit vectors, temperature), trained with `InBatchSoftmaxLoss`. Deviation: their towers are plain MLPs over
    features; here ids have vectors and the MLP adds to them. `ValueError` for a temperature that is not above 0.
    """

    def __init__(
        self,
        n_users: int,  # how many users
        n_items: int,  # how many items
        n_factors: int = 64,  # length of the vectors
        layers: Sequence[int] = (128,),  # widths of the hidden layers of both towers; (): none
        temperature: float = 0.1,  # of the softmax: scores are cosines over it
        user_blocks: dict[str, Block] | None = None,  # user features by name, rows in the order of codes
        item_blocks: dict[str, Block] | None = None,  # the same of items
        dropout: float = 0.0,  # after each hidden layer
        id_dropout: float = 0.1,  # share of rows that train without their id; only of a tower with features
        known_users: torch.Tensor | None = None,  # bool (n_users,): users with training rows (None: all)
        known_items: torch.Tensor | None = None,  # bool (n_items,): items with training rows (None: all)
        std: float = 0.1,  # id vectors start as N(0, std)
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f'temperature={temperature}: a number above 0')
        self.user_tower = Encoder(n_users, n_factors, layers, user_blocks, known_users, dropout, id_dropout, std)
        self.item_tower = Encoder(n_items, n_factors, layers, item_blocks, known_items, dropout, id_dropout, std)
        self.temperature = temperature

    def config(self) -> dict:
        """Arguments that make a model of this shape; the features are among them."""
        tower = self.item_tower
        return dict(
            n_users=self.user_tower.ids.num_embeddings,
            n_items=tower.ids.num_embeddings,
            n_factors=tower.ids.embedding_dim,
            temperature=self.temperature,
            layers=tower.layers(),
            dropout=0.0 if tower.mlp is None else tower.mlp[2].p,
            id_dropout=tower.id_dropout,
            user_blocks=self.user_tower.blocks(),
            item_blocks=tower.blocks(),
        )

    def _tower(self, side: str) -> Encoder:
        return self.item_tower if side == 'item' else self.user_tower

    # --- scores

    def user_vectors(self, users: torch.Tensor) -> torch.Tensor:
        """What item vectors are multiplied with: (B,) -> (B, n_factors), unit vectors over the temperature."""
        return self.user_tower(users) / self.temperature

    def forward(  # type: ignore[override]  # reads no context
        self, users: torch.Tensor, items: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores of pairs: (B,), (B,) or (B, C) or (1, C) -> (B,) or (B, C); without items (B, n_items)."""
        if items is None:
            return self.score_items(users)
        if items.dim() == 2 and len(items) == 1:
            return self.user_vectors(users) @ self.item_tower(items[0]).T
        p = over_items(unique_rows(self.user_vectors, users), items)
        q = unique_rows(self.item_tower, items)
        return (p * q).sum(-1)

    def score_items(self, users: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # reads no context
        """Scores of the whole catalogue: (B,) -> (B, n_items); items encoded once, then one matrix product."""
        return self.user_vectors(users) @ self.vectors('item').T

    def ranking_items(self) -> torch.Tensor:
        """With `ranking_users`: (n_items, n_factors), whose products are the scores."""
        return self.vectors('item')

    def ranking_users(self, users: torch.Tensor) -> torch.Tensor:
        """See `ranking_items`: (B,) -> (B, n_factors)."""
        return self.user_vectors(users)

    @torch.no_grad()
    def vectors(self, side: str) -> torch.Tensor:
        """Vectors, (n, n_factors), of 'user' (unit vectors over the temperature) or 'item' (unit vectors).

        Their products are the scores.
        """
        ids = self._tower(side).ids
        encode = self.item_tower if side == 'item' else self.user_vectors
        codes = torch.arange(ids.num_embeddings, device=ids.weight.device)
        return torch.cat([encode(chunk) for chunk in codes.split(ENCODED)])

    # --- features

    def feature_layers(self, side: str) -> tuple[FeatureLinear, ...]:
        """The layers that read features of 'user' or 'item' (`side`); none where it reads none."""
        layer = self._tower(side).features
        return () if layer is None else (layer,)

    def add_items(self, blocks: dict[str, Block]) -> None:
        """Further items, by their features alone; their codes come after those there are.

        `TypeError` where the tower of items reads no features.
        """
        if self.item_tower.features is None:
            raise TypeError(
                'this item tower knows items by their ids alone, so it can say nothing about new ones. '
                'Make it with item_features='
            )
        self.item_tower.features.add_rows(blocks)
        self.item_tower.ids.add_rows(len(next(iter(blocks.values()))))
