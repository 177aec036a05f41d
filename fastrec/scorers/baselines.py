"""Baselines every model has to beat: `Scorer`s that need no training loop, and the simplest of them."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from scipy.sparse import csr_matrix

from ..data.catalog import Catalog
from ..data.interactions import Interactions
from .scorer import Scorer

__all__ = ['Baseline', 'BiasOnly', 'GlobalMean', 'Popularity']

COMMON = 2**24  # counts of common users that are held at a time, at most


@runtime_checkable
class HasCatalog(Protocol):
    """Loaders, as far as a baseline reads them."""

    @property
    def catalog(self) -> Catalog:
        """Who and what there is, with its history."""
        ...


class Baseline(Scorer):
    """A scorer that is made with its settings and then fitted in one call: `EASE(l2=200).fit(dls)`.

    A subclass writes `fit`, `score`, `score_items`, and `config` if its constructor takes arguments.
    """

    def fit(self, dls: HasCatalog) -> Baseline:
        """Learn from the training rows of loaders and keep their `catalog`; returns self.

        `ValueError` where the loaders lack what it learns from.
        """
        raise NotImplementedError(f'{type(self).__name__} has no fit(dls)')

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor that make one like it, not fitted."""
        return {}

    def __repr__(self) -> str:
        settings = ', '.join(f'{name}={value!r}' for name, value in self.config().items())
        return f'{type(self).__name__}({settings})'


class BiasOnly(Baseline):
    """Damped biases: score = mean + b_i + b_u, where b_i and b_u are shrunken mean residuals.

    b_i = sum(r - mean) / (damping_i + n_i), then b_u = sum(r - mean - b_i) / (damping_u + n_u): Koren 2010, 'Factor in
    the Neighbors', section 2.1 (its decoupled estimates). Cold users and items have bias 0.
    """

    scale = 'rating'

    def __init__(
        self,
        damping: tuple[float, float] = (5.0, 10.0),  # rows of (users, items) that count for: all are average
    ) -> None:
        if not all(0 <= rows < np.inf for rows in damping):
            raise ValueError(f'damping={damping}: numbers of rows, 0 for no shrinkage')
        self.damping = damping

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return dict(damping=self.damping)

    def fit(self, dls: HasCatalog) -> BiasOnly:
        """Learn from the training rows of `dls`; returns self. `ValueError` if they have no ratings."""
        catalog = self.catalog = dls.catalog
        inter, rows = training_rows(catalog)
        if inter.ratings is None:
            raise ValueError(f'{type(self).__name__} predicts ratings, and the table has none')
        ratings = inter.ratings[rows].astype(np.float64)
        self.mean = ratings.mean()
        self.item_biases, self.user_biases = self._biases(
            inter.users[rows], inter.items[rows], ratings - self.mean, catalog
        )
        return self

    def _biases(self, users, items, residuals, catalog: Catalog) -> tuple[np.ndarray, np.ndarray]:
        """Biases of items (n_items,) and of users (n_users,) from what the mean leaves of each row."""
        user_damping, item_damping = self.damping
        item_biases = _damped_means(items, residuals, item_damping, catalog.n_items)
        residuals = residuals - item_biases[items]
        return item_biases, _damped_means(users, residuals, user_damping, catalog.n_users)

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Predicted ratings of pairs of codes: (n,), (n,) -> (n,)."""
        ratings = self.mean + self.user_biases[np.asarray(users)] + self.item_biases[np.asarray(items)]
        return torch.from_numpy(np.asarray(ratings, dtype=np.float32))

    def score_items(self, users: torch.Tensor) -> torch.Tensor:
        """Predicted ratings of all items: codes (B,) -> (B, n_items)."""
        ratings = self.mean + self.user_biases[np.asarray(users)][:, None] + self.item_biases
        return torch.from_numpy(ratings.astype(np.float32))


class GlobalMean(BiasOnly):
    """The mean training rating for every pair."""

    def config(self) -> dict[str, Any]:
        """Nothing: there are no biases to damp."""
        return {}

    def _biases(self, users, items, residuals, catalog: Catalog) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(catalog.n_items), np.zeros(catalog.n_users)


class Popularity(Baseline):
    """Score = number of training rows of the item (of implicit feedback: sum of weights), the same for every user."""

    scale = 'rank'

    def fit(self, dls: HasCatalog) -> Popularity:
        """Count the training rows of `dls`; returns self."""
        self.catalog = dls.catalog
        counts = np.asarray(training_positives(dls.catalog).sum(0)).ravel()
        self.scores = torch.from_numpy(counts.astype(np.float32))
        return self

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores of pairs of codes: (n,), (n,) -> (n,)."""
        return self.scores[torch.as_tensor(items)]

    def score_items(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of all items: codes (B,) -> (B, n_items)."""
        return self.scores.repeat(len(users), 1)


# --- what they learn from


def training_rows(catalog: Catalog) -> tuple[Interactions, np.ndarray]:
    """The checked rows and which of them are for training, int (n,); `ValueError` where they did not travel."""
    history = catalog.require_history()
    assert history.interactions is not None and history.split is not None  # rows are what `require_history` is for
    return history.interactions, history.split.train


def training_positives(catalog: Catalog) -> csr_matrix:
    """Training positives (n_users, n_items), float32 CSR: weights of implicit feedback, 1 for each row of ratings."""
    positives = catalog.require_history().positives
    inter, _ = training_rows(catalog)
    return once(positives) if inter.weights is None else positives


def once(x: csr_matrix) -> csr_matrix:
    """CSR `x` with 1 for every entry."""
    return csr_matrix((np.ones_like(x.data), x.indices, x.indptr), shape=x.shape)


def gram(x: csr_matrix, dtype: type) -> np.ndarray:
    """X'X of a sparse matrix (m, n), dense (n, n), made of some rows at a time."""
    n = x.shape[1]
    res: np.ndarray = np.empty((n, n), dtype)
    of_columns = x.T.tocsr()
    step = max(1, COMMON // n)
    for start in range(0, n, step):
        res[start : start + step] = (of_columns[start : start + step] @ x).toarray()
    return res


def _damped_means(codes: np.ndarray, values: np.ndarray, damping: float, n: int) -> np.ndarray:
    """Mean of `values` by code, (n,), as if each code had `damping` more rows of value 0; 0 for a code without rows."""
    counts = np.bincount(codes, minlength=n)
    return np.bincount(codes, values, n) / np.where(counts > 0, counts + damping, 1)
