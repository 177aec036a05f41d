"""Factorizations that are solved, not trained: alternating least squares."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..progress import Progress
from .baselines import Baseline, HasCatalog, training_positives

__all__ = ['IALS']


class IALS(Baseline):
    """Alternating least squares on implicit feedback (Hu, Koren and Volinsky 2008).

    Through the `implicit` library (an extra); arguments go to its `AlternatingLeastSquares`.
    """

    scale = 'rank'

    def __init__(
        self,
        factors: int = 64,  # length of the vectors
        regularization: float = 0.05,  # L2 of the vectors
        iterations: int = 15,  # passes over users and items
        random_state: int = 0,  # seed of the start
        **kwargs,  # further ones, such as alpha
    ) -> None:
        self.options = dict(
            factors=factors, regularization=regularization, iterations=iterations, random_state=random_state, **kwargs
        )

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return dict(self.options)

    def fit(self, dls: HasCatalog) -> IALS:
        """Learn from the training positives of `dls`; returns self. `ImportError` without the library."""
        try:
            from implicit.als import AlternatingLeastSquares
        except ImportError as e:
            raise ImportError("IALS needs the library implicit: pip install 'fastrec-learn[implicit]'") from e
        self.catalog = dls.catalog
        model = AlternatingLeastSquares(use_gpu=False, **self.options)
        with Progress(model.iterations, 'iALS', 'iterations') as bar:
            model.fit(training_positives(dls.catalog), show_progress=False, callback=lambda *_: bar.update())
        self.user_factors = torch.from_numpy(np.asarray(model.user_factors))
        self.item_factors = torch.from_numpy(np.asarray(model.item_factors))
        return self

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores of pairs of codes: (n,), (n,) -> (n,)."""
        return (self.user_factors[torch.as_tensor(users)] * self.item_factors[torch.as_tensor(items)]).sum(1)

    def score_items(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of all items: codes (B,) -> (B, n_items)."""
        return self.user_factors[torch.as_tensor(users)] @ self.item_factors.T

    def ranker(self) -> ProductRanker:
        """As in `Scorer`."""
        return ProductRanker(self.user_factors, self.item_factors)

    def vectors(self, side: str = 'item') -> torch.Tensor:
        """Factors, (n, factors), of 'user' or 'item'."""
        return self.item_factors if side == 'item' else self.user_factors


class ProductRanker:
    """Products of vectors of users with those of all items, each call into the memory of the last (`Scorer.ranker`)."""

    def __init__(
        self,
        user_vectors: torch.Tensor,  # (n_users, d)
        item_vectors: torch.Tensor,  # (n_items, d)
    ) -> None:
        self.user_vectors = user_vectors
        self.items = item_vectors.T
        self.device = item_vectors.device
        self.scores = torch.empty(0, len(item_vectors))

    def __call__(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of all items for codes of users: (B,) -> (B, n_items), overwritten by the next call."""
        n = len(users)
        if len(self.scores) < n:
            self.scores = torch.empty(n, self.items.shape[1])
        return torch.mm(self.user_vectors[torch.as_tensor(users)], self.items, out=self.scores[:n])
