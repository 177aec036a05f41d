"""Factorizations that are solved, not trained: alternating least squares, of ratings and of choices."""

from __future__ import annotations

import math
from copy import copy
from typing import Any

import numpy as np
import torch

from ..data.catalog import Catalog
from ..keywords import check_arguments
from ..progress import Progress
from .baselines import (
    Baseline,
    HasCatalog,
    number_from,
    once,
    require_loaders,
    training_positives,
    training_ratings,
    training_rows,
    warn_of_weights,
    whole_number,
)
from .coldstart import new_users

__all__ = ['ALS', 'IALS']

# what arguments of `IALS` were called, and are in the library implicit
RENAMED = dict(factors='n_factors', regularization='l2', iterations='n_iter', random_state='seed')
SOLVED = 2**22  # numbers of the matrices that are solved at a time
STD = 0.1  # of the vectors of items at the start


class ALS(Baseline):
    """Matrix factorization of ratings by alternating least squares: score = mean + b_u + b_i + p_u . q_i.

    Users and items in turns are given the bias and the vector that minimize, over their n rows,
    sum (r - mean - b_u - b_i - p_u . q_i)^2 + l2 (n + n_prior) |p_u|^2 + damping b_u^2. With n_prior=0 the penalty of
    the vectors is that of ALS-WR (Zhou et al. 2008, 'Large-scale parallel collaborative filtering for the Netflix
    Prize', eq. 1-3). It holds as well for who has one row as for who has a hundred, which is too little: n_prior and
    the biases, damped as in `BiasOnly`, are not in the paper. A row of weight w counts as w rows.

    `l2` is the ridge of a closed form, for each row of a user or item; `wd` of the learners is per observed row, too,
    and of a loss that is half of this one. Cold users and items have bias and vector 0.
    """

    scale = 'rating'
    user_factors: torch.Tensor  # (n_users, n_factors)
    item_factors: torch.Tensor  # (n_items, n_factors)
    user_biases: torch.Tensor  # (n_users,)
    item_biases: torch.Tensor  # (n_items,)

    @check_arguments
    def __init__(
        self,
        n_factors: int = 32,  # length of the vectors
        l2: float = 0.1,  # ridge of the vectors, per row
        n_iter: int = 10,  # passes over users and items
        seed: int = 0,  # of the vectors of items at the start
        n_prior: float = 40.0,  # rows that the ridge counts beside those there are
        damping: float = 5.0,  # rows that count for: the bias is 0
    ) -> None:
        self.n_factors = whole_number(n_factors, 'n_factors', 'numbers of a vector')
        self.l2 = number_from(l2, 0, 'l2', 'a ridge penalty per row')
        self.n_iter = whole_number(n_iter, 'n_iter', 'passes over users and items')
        self.seed = seed
        self.n_prior = number_from(n_prior, 0, 'n_prior', 'a number of rows')
        self.damping = number_from(damping, 0, 'damping', 'a number of rows, 0 for no shrinkage')

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return dict(
            n_factors=self.n_factors,
            l2=self.l2,
            n_iter=self.n_iter,
            seed=self.seed,
            n_prior=self.n_prior,
            damping=self.damping,
        )

    def fit(self, dls: HasCatalog) -> ALS:
        """Learn from the training rows of `dls`; returns self. `ValueError` if they have no ratings."""
        require_loaders(dls, 'ALS.fit')
        catalog = dls.catalog
        users, items, ratings, weights = training_ratings(catalog, 'ALS')
        self.mean = float(np.average(ratings, weights=weights))
        rng = np.random.default_rng(self.seed)
        of_items = STD * rng.standard_normal((catalog.n_items, self.n_factors + 1))
        of_items[:, 0] = 0
        left = ratings - self.mean
        with Progress(self.n_iter, 'ALS', 'iterations') as bar:
            for _ in range(self.n_iter):
                of_users = self._solve(users, of_items[items], left, weights, catalog.n_users)
                of_items = self._solve(items, of_users[users], left, weights, catalog.n_items)
                bar.update()
        self.user_biases, self.user_factors = _split(of_users)
        self.item_biases, self.item_factors = _split(of_items)
        self.catalog = catalog
        return self

    def _solve(
        self, codes: np.ndarray, others: np.ndarray, left: np.ndarray, weights: np.ndarray, n: int
    ) -> np.ndarray:
        """Bias and vector (n, 1 + d) of each code, from rows: the other side's (rows, 1 + d), what the mean leaves."""
        slopes = others.copy()
        slopes[:, 0] = 1
        targets = left - others[:, 0]
        ridge = self.l2 * (np.bincount(codes, weights, n) + self.n_prior)
        ridges = np.repeat(ridge[:, None], slopes.shape[1], 1)
        ridges[:, 0] = self.damping
        return ridge_by_code(codes, slopes, targets, weights, ridges)

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Predicted ratings of pairs of codes: (n,), (n,) -> (n,)."""
        users, items = torch.as_tensor(users), torch.as_tensor(items)
        products = (self.user_factors[users] * self.item_factors[items]).sum(1)
        return self.mean + self.user_biases[users] + self.item_biases[items] + products

    def score_items(self, users: torch.Tensor) -> torch.Tensor:
        """Predicted ratings of all items: codes (B,) -> (B, n_items)."""
        users = torch.as_tensor(users)
        products = self.user_factors[users] @ self.item_factors.T
        return self.mean + self.user_biases[users][:, None] + self.item_biases + products

    def ranker(self) -> ProductRanker:
        """As in `Scorer`: what is the same for all items of a user is left out."""
        ones = torch.ones(len(self.user_factors), 1)
        items = torch.cat([self.item_factors, self.item_biases[:, None]], 1)
        return ProductRanker(torch.cat([self.user_factors, ones], 1), items)

    def vectors(self, side: str = 'item') -> torch.Tensor:
        """Factors, (n, n_factors), of 'user' or 'item'."""
        return self.item_factors if side == 'item' else self.user_factors

    def biases(self, side: str = 'item') -> torch.Tensor:
        """Biases, (n,), of 'user' or 'item'."""
        return self.item_biases if side == 'item' else self.user_biases

    def fold_in(self, ratings: Any, noise: float | None = None) -> ALS:
        """As in `Scorer`: bias and vector of new users are those of a further half pass. `noise` is not read."""
        self.require_fitted()
        res = copy(self)
        res.catalog, res._item_index, res.is_folded_in = new_users(self, ratings), None, True
        users, items, values, weights = training_ratings(res.catalog, 'ALS')
        of_items = torch.cat([self.item_biases[:, None], self.item_factors], 1).double().numpy()
        of_users = self._solve(users, of_items[items], values - self.mean, weights, res.catalog.n_users)
        res.user_biases, res.user_factors = _split(of_users)
        return res


class IALS(Baseline):
    """Alternating least squares on implicit feedback (Hu, Koren and Volinsky 2008): score = p_u . q_i.

    Through the `implicit` library (an extra). It minimizes sum_ui c_ui (x_ui - p_u . q_i)^2 + l2 (|p|^2 + |q|^2) over
    all pairs, where x is 1 for a training positive and 0 for the others, which count c = 1, and a positive of weight w
    counts c = alpha w.

    What a ridge does depends on how much there is beside it: the default grows with the positives, to
    l2 = n / sqrt(n_users n_items), which is the geometric mean of the positives of a user and of an item. Users and
    items of a dense table have a large one, those of a sparse table a small one. With alpha it was chosen on validation
    rows of several tables, dense and sparse (`benchmarks/baseline_defaults.py`). `TypeError` for arguments by the names
    of version 0.1.
    """

    scale = 'rank'
    ridge: float  # the `l2` that it was fitted with

    @check_arguments
    def __init__(
        self,
        n_factors: int = 64,  # length of the vectors
        l2: float | None = None,  # ridge of each vector; None: n / sqrt(n_users n_items), of n positives
        n_iter: int = 15,  # passes over users and items
        seed: int = 0,  # of the start
        alpha: float = 16.0,  # what a positive counts, where a pair without a row counts 1
        **kwargs,  # of implicit's `AlternatingLeastSquares`
    ) -> None:
        for name in kwargs:
            if name in RENAMED:
                raise TypeError(f'IALS has no argument {name!r}: it is called {RENAMED[name]}, as in the learners')
        self.n_factors = whole_number(n_factors, 'n_factors', 'numbers of a vector')
        self.l2 = None if l2 is None else number_from(l2, 0, 'l2', 'a ridge penalty')
        self.n_iter = whole_number(n_iter, 'n_iter', 'passes over users and items')
        self.seed = seed
        self.alpha = number_from(alpha, 0, 'alpha', 'what a positive counts')
        self.options = kwargs

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return dict(
            n_factors=self.n_factors,
            l2=self.l2,
            n_iter=self.n_iter,
            seed=self.seed,
            alpha=self.alpha,
            **self.options,
        )

    def fit(self, dls: HasCatalog) -> IALS:
        """Learn from the training positives of `dls`; returns self. `ImportError` without the library."""
        require_loaders(dls, 'IALS.fit')
        try:
            from implicit.als import AlternatingLeastSquares
        except ImportError as e:
            raise ImportError("IALS needs the library implicit: pip install 'fastrec-learn[implicit]'") from e
        warn_of_weights(dls.catalog, 'IALS')
        self.catalog = dls.catalog
        positives = self._positives(dls.catalog)
        self.ridge = positives.nnz / math.sqrt(math.prod(positives.shape)) if self.l2 is None else self.l2
        model = AlternatingLeastSquares(
            factors=self.n_factors,
            regularization=self.ridge,
            iterations=self.n_iter,
            random_state=self.seed,
            alpha=self.alpha,
            use_gpu=False,
            **self.options,
        )
        with Progress(model.iterations, 'iALS', 'iterations') as bar:
            model.fit(positives, show_progress=False, callback=lambda *_: bar.update())
        self.user_factors = torch.from_numpy(np.asarray(model.user_factors))
        self.item_factors = torch.from_numpy(np.asarray(model.item_factors))
        return self

    def _positives(self, catalog: Catalog) -> Any:
        """Weights of the training positives as CSR (n_users, n_items); of ratings 1 for each row."""
        inter, _ = training_rows(catalog)
        positives = training_positives(catalog)
        return once(positives) if inter.weights is None else positives

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
        """Factors, (n, n_factors), of 'user' or 'item'."""
        return self.item_factors if side == 'item' else self.user_factors

    def fold_in(self, ratings: Any, noise: float | None = None) -> IALS:
        """As in `Scorer`: vectors of new users are those of a further half pass. `noise` is not read."""
        self.require_fitted()
        res = copy(self)
        res.catalog, res._item_index, res.is_folded_in = new_users(self, ratings), None, True
        rows = self._positives(res.catalog).tocoo()
        items = self.item_factors.double().numpy()
        counts = self.alpha * rows.data.astype(np.float64)
        slopes = items[rows.col]
        everybody = items.T @ items
        res.user_factors = torch.zeros(res.catalog.n_users, items.shape[1])
        for user in range(res.catalog.n_users):
            q, c = slopes[rows.row == user], counts[rows.row == user]
            ridge = everybody + (q.T * (c - 1)) @ q + self.ridge * np.eye(items.shape[1])
            res.user_factors[user] = torch.from_numpy(np.linalg.solve(ridge, q.T @ c))
        return res


def ridge_by_code(
    codes: np.ndarray,  # int (rows,): whose row it is
    slopes: np.ndarray,  # (rows, d)
    targets: np.ndarray,  # (rows,)
    weights: np.ndarray,  # (rows,)
    ridges: np.ndarray,  # (n, d): penalty of each number
) -> np.ndarray:
    """Ridge regression for each code by itself: float64 (n, d), 0 for codes without rows."""
    n, d = ridges.shape
    order = np.argsort(codes, kind='stable')
    ends: Any = np.searchsorted(codes[order], np.arange(n + 1))
    res: np.ndarray = np.zeros((n, d))
    diagonal = np.arange(d)
    step = max(1, SOLVED // d**2)
    for start in range(0, n, step):
        some = np.arange(start, min(start + step, n))
        some = some[ends[some + 1] > ends[some]]
        matrices: np.ndarray = np.empty((len(some), d, d))
        sides: np.ndarray = np.empty((len(some), d))
        for i, code in enumerate(some):
            rows = order[ends[code] : ends[code + 1]]
            x = slopes[rows]
            weighted = x.T * weights[rows]
            matrices[i] = weighted @ x
            sides[i] = weighted @ targets[rows]
        matrices[:, diagonal, diagonal] += ridges[some]
        res[some] = np.linalg.solve(matrices, sides[:, :, None])[:, :, 0]
    return res


def _split(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Biases (n,) and vectors (n, d), float32, of (n, 1 + d)."""
    rows = rows.astype(np.float32)
    return torch.from_numpy(rows[:, 0].copy()), torch.from_numpy(rows[:, 1:].copy())


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
