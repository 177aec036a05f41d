"""Baselines every model has to beat: `Scorer`s that need no training loop, and the simplest of them."""

from __future__ import annotations

from copy import copy
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from scipy.sparse import csr_matrix

from ..data.catalog import Catalog
from ..data.interactions import Interactions
from ..keywords import check_arguments
from ..notices import warn_user
from .carried import Carried, Explainer, Own, SameForAll
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

    def fit(
        self,
        dls: HasCatalog,  # `RecDataLoaders`, whose training rows it learns from
    ) -> Baseline:
        """Learn from the training rows of loaders and keep their `catalog`; returns self.

        `ValueError` where the loaders lack what it learns from.
        """
        raise NotImplementedError(f'{type(self).__name__} has no fit(dls)')

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor that make one like it, not fitted."""
        return {}

    def __repr__(self) -> str:
        settings = ', '.join(f'{name}={value!r}' for name, value in self.config().items())
        state = ', not fitted' if self.catalog is None else ''
        return f'{type(self).__name__}({settings}){state}'


class BiasOnly(Baseline):
    """Damped biases: score = mean + b_i + b_u, where b_i and b_u are shrunken mean residuals.

    b_i = sum(r - mean - b_u) / (damping_i + n_i) with b_u = 0 at first, then b_u = sum(r - mean - b_i) /
    (damping_u + n_u), `n_iter` times in turns. Once is Koren 2010, 'Factor in the Neighbors', section 2.1 (its
    decoupled estimates); in turns they come to the ridge regression on users and items. A row of weight w
    (`weight_name` of the loaders) counts as w rows. Cold users and items have bias 0. `TypeError` for a `damping` that
    is not a pair.
    """

    scale = 'rating'
    n_iter: int = 1  # of those saved by earlier versions

    @check_arguments
    def __init__(
        self,
        damping: tuple[float, float] = (5.0, 10.0),  # rows of (users, items) that count for: all are average
        n_iter: int = 1,  # passes over items and users
    ) -> None:
        if not isinstance(damping, (tuple, list)) or len(damping) != 2:
            raise TypeError(f'damping={damping!r}: two numbers, rows of (users, items), e.g. damping=(5.0, 10.0)')
        for rows in damping:
            number_from(rows, 0, 'damping', 'a number of rows of users or of items, 0 for no shrinkage')
        self.damping = damping
        self.n_iter = whole_number(n_iter, 'n_iter', 'passes over items and users')

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return dict(damping=self.damping, n_iter=self.n_iter)

    def fit(self, dls: HasCatalog) -> BiasOnly:
        """Learn from the training rows of `dls`; returns self. `ValueError` if they have no ratings."""
        require_loaders(dls, f'{type(self).__name__}.fit')
        users, items, ratings, weights = training_ratings(dls.catalog, type(self).__name__)
        self.catalog = dls.catalog
        self.mean = np.average(ratings, weights=weights)
        self.item_biases, self.user_biases = self._biases(users, items, ratings - self.mean, weights)
        return self

    def for_users_of(
        self,
        catalog: Catalog,  # of the new users: their vocab, counts and history
    ) -> BiasOnly:
        """One for the users of `catalog`, which has the same items: their biases come from their rows there."""
        users, items, ratings, weights = training_ratings(catalog, type(self).__name__)
        res = copy(self)
        res.catalog = catalog
        residuals = ratings - self.mean - self.item_biases[items]
        res.user_biases = _damped_means(users, residuals, weights, self.damping[0], catalog.n_users)
        return res

    def _biases(self, users, items, residuals, weights) -> tuple[np.ndarray, np.ndarray]:
        """Biases of items (n_items,) and of users (n_users,) from what the mean leaves of each row."""
        user_damping, item_damping = self.damping
        n_users, n_items = self.catalog.n_users, self.catalog.n_items
        user_biases = np.zeros(n_users)
        for _ in range(self.n_iter):
            item_biases = _damped_means(items, residuals - user_biases[users], weights, item_damping, n_items)
            user_biases = _damped_means(users, residuals - item_biases[items], weights, user_damping, n_users)
        return item_biases, user_biases

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Predicted ratings of pairs of codes: (n,), (n,) -> (n,)."""
        ratings = self.mean + self.user_biases[np.asarray(users)] + self.item_biases[np.asarray(items)]
        return torch.from_numpy(np.asarray(ratings, dtype=np.float32))

    def explainer(self) -> Explainer:
        """As in `Scorer`: what each rating adds to the user's bias."""
        return OfBias(self)

    def biases(self, side: str = 'item') -> torch.Tensor | None:
        """Biases (n,) of 'user' or 'item'."""
        return torch.from_numpy(self.item_biases if side == 'item' else self.user_biases).float()

    def score_items(self, users: torch.Tensor) -> torch.Tensor:
        """Predicted ratings of all items: codes (B,) -> (B, n_items)."""
        ratings = self.mean + self.user_biases[np.asarray(users)][:, None] + self.item_biases
        return torch.from_numpy(ratings.astype(np.float32))


class OfBias(Explainer):
    """What each rating adds to a user's damped bias: w (r - mean - b_j) / (damping + sum w)."""

    method = 'exact'

    def of(self, user: int, items: np.ndarray, own: Own) -> Carried:
        """As in `Explainer`: the same for all items."""
        biases = self.scorer
        weights = self._weights(user, own)
        residuals = own.values - biases.mean - biases.item_biases[own.items]
        parts = weights * residuals / max(biases.damping[0] + weights.sum(), 1e-9)
        return self.carried(user, items, own, np.repeat(parts[:, None], len(items), 1))

    def _weights(self, user: int, own: Own) -> np.ndarray:
        """What the user's rows count, float64 (n,)."""
        inter = self.scorer.catalog.interactions
        if inter is None or inter.row_weights is None:
            return np.ones(len(own.items))
        _, rows = training_rows(self.scorer.catalog)
        mine = rows[inter.users[rows] == user]
        of_item = dict(zip(inter.items[mine].tolist(), row_weights(inter, mine).tolist()))
        return np.array([of_item.get(o, 1.0) for o in own.items.tolist()])


class GlobalMean(BiasOnly):
    """The mean training rating (by weight, if rows have one) for every pair."""

    def __init__(self) -> None:
        super().__init__()

    def config(self) -> dict[str, Any]:
        """Nothing: there are no biases to damp."""
        return {}

    def explainer(self) -> Explainer:
        """As in `Scorer`."""
        return SameForAll(self)

    def for_users_of(self, catalog: Catalog) -> GlobalMean:
        """One for the users of `catalog`, who have no biases either."""
        res = copy(self)
        res.catalog, res.user_biases = catalog, np.zeros(catalog.n_users)
        return res

    def _biases(self, users, items, residuals, weights) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(self.catalog.n_items), np.zeros(self.catalog.n_users)


class Popularity(Baseline):
    """Score = number of training rows of the item, the same for every user.

    Where rows or positives have weights, their sum.
    """

    scale = 'rank'

    def fit(self, dls: HasCatalog) -> Popularity:
        """Count the training rows of `dls`; returns self."""
        require_loaders(dls, 'Popularity.fit')
        self.catalog = dls.catalog
        inter, rows = training_rows(dls.catalog)
        if inter.weights is None:
            counts = np.bincount(inter.items[rows], row_weights(inter, rows), dls.catalog.n_items)
        else:
            counts = np.asarray(dls.catalog.require_history().positives.sum(0)).ravel()
        self.scores = torch.from_numpy(counts.astype(np.float32))
        return self

    def explainer(self) -> Explainer:
        """As in `Scorer`."""
        return SameForAll(self)

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores of pairs of codes: (n,), (n,) -> (n,)."""
        return self.scores[torch.as_tensor(items)]

    def score_items(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of all items: codes (B,) -> (B, n_items)."""
        return self.scores.repeat(len(users), 1)


def require_loaders(
    dls: Any,
    who: str,  # what reads them, as it is called
) -> None:
    """`TypeError` unless `dls` have a catalog, as loaders and fitted scorers do."""
    if isinstance(dls, HasCatalog) and isinstance(dls.catalog, Catalog):
        return
    given = f'the class {dls.__name__}' if isinstance(dls, type) else type(dls).__name__
    raise TypeError(
        f'{who} takes RecDataLoaders, got {given}. Make them from the table of ratings: '
        '`dls = RecDataLoaders.from_df(ratings)`'
    )


def whole_number(
    value: Any,
    name: str,  # of the argument
    what: str,  # it counts
) -> int:
    """`value` as an int from 1 on, else a `ValueError`."""
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not 1 <= value < np.inf or int(value) != value:
        raise ValueError(f'{name}={value!r}: a whole number of {what}, of at least one')
    return int(value)


def number_from(
    value: Any,
    low: float,
    name: str,  # of the argument
    what: str,  # it is
) -> float:
    """`value` if it is a finite number from `low` on, else a `ValueError`."""
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not low <= value < np.inf:
        raise ValueError(f'{name}={value!r}: {what}')
    return value


# --- what they learn from


def training_rows(catalog: Catalog) -> tuple[Interactions, np.ndarray]:
    """The checked rows and which of them are for training, int (n,); `ValueError` where they did not travel."""
    history = catalog.require_history()
    assert history.interactions is not None and history.split is not None  # rows are what `require_history` is for
    return history.interactions, history.split.train


def row_weights(inter: Interactions, rows: np.ndarray) -> np.ndarray:
    """float64 (n,): how much each of the rows counts (`weight_name` of the loaders), 1 where nothing is said."""
    if inter.row_weights is None:
        return np.ones(len(rows))
    return inter.row_weights[rows].astype(np.float64)


def training_ratings(
    catalog: Catalog,
    name: str,  # of who asks, for the message
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Users, items, ratings and weights of the training rows that count, each (n,); `ValueError` without ratings."""
    inter, rows = training_rows(catalog)
    if inter.ratings is None or inter.weights is not None:
        raise ValueError(f'{name} predicts ratings, and the table has none')
    weights = row_weights(inter, rows)
    rows, weights = rows[weights > 0], weights[weights > 0]
    return inter.users[rows], inter.items[rows], inter.ratings[rows].astype(np.float64), weights


def training_positives(catalog: Catalog) -> csr_matrix:
    """Training positives as CSR (n_users, n_items), without rows of weight 0; values are weights, or ratings."""
    history = catalog.require_history()
    inter, rows = training_rows(catalog)
    if inter.weights is not None or inter.row_weights is None:
        return history.positives
    return history.matrix(rows[inter.row_weights[rows] > 0])


def warn_of_weights(
    catalog: Catalog,
    name: str,  # of what does not read them
) -> None:
    """A warning where rows have weights, by whom each row counts once."""
    inter, _ = training_rows(catalog)
    if inter.row_weights is not None:
        column = inter.names['weight']
        warn_user(f'{name} counts every row once: it does not read the weights of rows (column {column!r})')


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


def _damped_means(codes: np.ndarray, values: np.ndarray, weights: np.ndarray, damping: float, n: int) -> np.ndarray:
    """Weighted mean of `values` by code, (n,), as if each code had `damping` more rows of value 0.

    0 for a code without rows.
    """
    totals = np.bincount(codes, weights, n)
    return np.bincount(codes, weights * values, n) / np.where(totals > 0, totals + damping, 1)
