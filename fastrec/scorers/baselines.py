"""Baselines every model has to beat: `Scorer`s that need no training loop."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack

from ..progress import Progress
from .scorer import Scorer

__all__ = ['EASE', 'IALS', 'BiasOnly', 'GlobalMean', 'ItemKNN', 'Popularity']

LONG = 4096  # items from which on an inverse takes seconds
COMMON = 2**24  # counts of common users that are held at a time, at most


class BiasOnly(Scorer):
    """Damped biases: score = mean + b_i + b_u, where b_i and b_u are shrunken mean residuals.

    b_i = sum(r - mean) / (damping_i + n_i), then b_u = sum(r - mean - b_i) / (damping_u + n_u): Koren 2010, 'Factor in the Neighbors', section
    2.1 (its decoupled estimates). Cold users and items have bias 0.
    """

    scale = 'rating'

    def __init__(
        self,
        damping: tuple = (5.0, 10.0),  # rows of (users, items) that count for the prior that all are average
    ):
        self.damping = damping

    def fit(self, dls):
        """Learn from the training rows of `dls`; returns self."""
        self.catalog = dls.catalog
        inter, rows = self.catalog.require_history().interactions, self.catalog.split.train
        if inter.ratings is None:
            raise ValueError(f'{type(self).__name__} predicts ratings, and the table has none')
        users, items, y = inter.users[rows], inter.items[rows], inter.ratings[rows].astype(np.float64)
        self.mean = y.mean()
        self.item_biases, self.user_biases = self._biases(users, items, y - self.mean)
        return self

    def _biases(self, users, items, y):
        damped = lambda codes, y, damping, n: np.bincount(codes, y, n) / (np.bincount(codes, minlength=n) + damping)
        bi = damped(items, y, self.damping[1], self.catalog.n_items)
        return bi, damped(users, y - bi[items], self.damping[0], self.catalog.n_users)

    def score(self, users, items):
        """Predicted ratings of pairs of codes: (n,), (n,) -> (n,)."""
        u, i = np.asarray(users), np.asarray(items)
        return torch.from_numpy(np.asarray(self.mean + self.user_biases[u] + self.item_biases[i], dtype=np.float32))

    def score_items(self, users):
        """Predicted ratings of all items: codes (B,) -> (B, n_items)."""
        return torch.from_numpy(
            (self.mean + self.user_biases[np.asarray(users)][:, None] + self.item_biases).astype(np.float32)
        )


class GlobalMean(BiasOnly):
    """The mean training rating for every pair."""

    def _biases(self, users, items, y):
        return np.zeros(self.catalog.n_items), np.zeros(self.catalog.n_users)


class Popularity(Scorer):
    """Score = number of training rows of the item (of implicit feedback: sum of weights), the same for every user."""

    scale = 'rank'

    def fit(self, dls):
        """Count the training rows of `dls`; returns self."""
        self.catalog = dls.catalog
        self.scores = torch.from_numpy(np.asarray(_positives(dls).sum(0)).ravel().astype(np.float32))
        return self

    def score(self, users, items):
        """Scores of pairs of codes: (n,), (n,) -> (n,)."""
        return self.scores[torch.as_tensor(items)]

    def score_items(self, users):
        """Scores of all items: codes (B,) -> (B, n_items)."""
        return self.scores.repeat(len(users), 1)


class _ItemWeights(Scorer):
    """Scores of what a user has, times a matrix of item-item weights: s_u = x_u W, x_u 1 at the user's training positives.

    Every positive counts once: counts of plays or repeated clicks have long tails, in which a few rows would drown the rest.
    """

    scale, reads_history = 'rank', True

    def score_items(self, users):
        """Scores of all items: codes (B,) -> (B, n_items)."""
        x = _once(self.catalog.require_history().positives[np.asarray(users)])
        s = x @ self.weights
        return torch.from_numpy(np.asarray(s.todense() if hasattr(s, 'todense') else s, dtype=np.float32))

    def score(self, users, items):
        """Scores of pairs of codes: (n,), (n,) -> (n,)."""
        users, at = np.unique(np.asarray(users), return_inverse=True)
        return self.score_items(users)[torch.from_numpy(at), torch.as_tensor(items)]

    def vectors(self, side: str = 'item') -> torch.Tensor:
        """Rows of the item-item weights, (n_items, n_items): items are similar if they speak for the same others."""
        if side != 'item':
            raise ValueError(f'{type(self).__name__} has no vectors of users')
        return torch.from_numpy(
            np.asarray(self.weights.todense() if hasattr(self.weights, 'todense') else self.weights, dtype=np.float32)
        )


class ItemKNN(_ItemWeights):
    """Item-based nearest neighbours: cosine of the items' columns, shrunken, each item keeping its `k` nearest (Deshpande and Karypis 2004; shrinkage as in Dacrema et al. 2019)."""

    def __init__(
        self,
        k: int = 100,  # neighbours kept per item
        shrink: float = 100.0,  # added to the denominator of the cosine: few common users count less
    ):
        self.k, self.shrink = k, shrink

    def fit(self, dls):
        """Learn from the training positives of `dls`; returns self."""
        self.catalog = dls.catalog
        x = _once(_positives(dls))
        n, of_items, norms, parts = x.shape[1], x.T.tocsr(), np.sqrt(np.asarray(x.sum(0)).ravel()), []
        step = max(1, COMMON // n)
        with Progress(n, 'ItemKNN', 'items') as bar:
            for i in range(0, n, step):
                common = (of_items[i : i + step] @ x).tocsr()
                rows = i + np.repeat(np.arange(common.shape[0]), np.diff(common.indptr))
                common.data = np.where(
                    rows == common.indices, 0, common.data / (norms[rows] * norms[common.indices] + self.shrink)
                )
                common.eliminate_zeros()
                parts.append(_top_per_row(common, self.k))
                bar.update(common.shape[0])
        self.weights = vstack(parts).T.tocsr()
        return self


class EASE(_ItemWeights):
    """Embarrassingly shallow autoencoder: the ridge regression of the matrix on itself with a zero diagonal, in closed form (Steck 2019).

    W = I - P diag(1 / diag P), P = (X'X + l2 I)^-1, in float32 above 8,192 items (as float64 for less); memory is that of two (n_items, n_items) matrices.
    """

    def __init__(self, l2: float = 500.0):
        self.l2 = l2

    def fit(self, dls):
        """Learn from the training positives of `dls`; returns self."""
        self.catalog = dls.catalog
        x = _once(_positives(dls))
        n = x.shape[1]
        gram = (x.T @ x).toarray().astype(np.float64 if n <= 8192 else np.float32)
        gram[np.arange(n), np.arange(n)] += self.l2
        with Progress(None, f'EASE: inverse of {n:,} x {n:,}', at_once=n > LONG):
            p = torch.linalg.inv(torch.from_numpy(gram)).numpy()
        w = p / -np.diag(p)
        w[np.arange(n), np.arange(n)] = 0
        self.weights = w.astype(np.float32)
        return self


class IALS(Scorer):
    """Alternating least squares on implicit feedback (Hu, Koren and Volinsky 2008), through the `implicit` library (an extra); arguments go to its `AlternatingLeastSquares`."""

    scale = 'rank'

    def __init__(
        self, factors: int = 64, regularization: float = 0.05, iterations: int = 15, random_state: int = 0, **kwargs
    ):
        self.options = dict(
            factors=factors, regularization=regularization, iterations=iterations, random_state=random_state, **kwargs
        )

    def fit(self, dls):
        """Learn from the training positives of `dls`; returns self."""
        try:
            from implicit.als import AlternatingLeastSquares
        except ImportError as e:
            raise ImportError("IALS needs the library implicit: pip install 'fastrec-learn[implicit]'") from e
        self.catalog = dls.catalog
        model = AlternatingLeastSquares(use_gpu=False, **self.options)
        with Progress(model.iterations, 'iALS', 'iterations') as bar:
            model.fit(_positives(dls), show_progress=False, callback=lambda *_: bar.update())
        self.user_factors, self.item_factors = (
            torch.from_numpy(np.asarray(o)) for o in (model.user_factors, model.item_factors)
        )
        return self

    def score(self, users, items):
        """Scores of pairs of codes: (n,), (n,) -> (n,)."""
        return (self.user_factors[torch.as_tensor(users)] * self.item_factors[torch.as_tensor(items)]).sum(1)

    def score_items(self, users):
        """Scores of all items: codes (B,) -> (B, n_items)."""
        return self.user_factors[torch.as_tensor(users)] @ self.item_factors.T

    def ranker(self):
        """As in `Scorer`."""
        items, scores = self.item_factors.T, torch.empty(0, len(self.item_factors))

        def rank(users):
            nonlocal scores
            if len(scores) < len(users):
                scores = torch.empty(len(users), items.shape[1])
            return torch.mm(self.user_factors[torch.as_tensor(users)], items, out=scores[: len(users)])

        rank.device = items.device
        return rank

    def vectors(self, side: str = 'item') -> torch.Tensor:
        """Factors, (n, factors), of 'user' or 'item'."""
        return self.item_factors if side == 'item' else self.user_factors


def _positives(dls):
    """Training positives (n_users, n_items), float32 CSR: weights of implicit feedback, 1 for each row of a rating table."""
    dls.catalog.require_history()
    x = dls.catalog.require_history().positives
    return _once(x) if dls.catalog.interactions.weights is None else x


def _once(x):
    """CSR `x` with 1 for every entry."""
    return csr_matrix((np.ones_like(x.data), x.indices, x.indptr), shape=x.shape)


def _top_per_row(matrix, k):
    """CSR matrix with the `k` largest entries of each row."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((-matrix.data, rows))
    place = np.arange(len(order)) - matrix.indptr[rows]  # place within the row, since rows stay together
    keep = order[place < k]
    return csr_matrix((matrix.data[keep], (rows[keep], matrix.indices[keep])), shape=matrix.shape)
