"""Users who came after training: their rows of a trained model, from a few ratings while the model stays as it is.

What is solved, and why so, stands with `fold_in` (model_scorer). `scorer` is here whatever keeps the contract of
`Scorer`, which stands above this room and calls it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy, deepcopy
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from ..data.catalog import Catalog
from ..data.columns import as_frame, column_of, first_few, is_table, plain_values
from ..data.history import History
from ..data.interactions import LARGEST_RATING, Interactions, Vocab, is_missing
from ..data.splits import Split
from ..models.base import as_rec_model, device_of, to_range
from ..models.blocks import FeatureLinear
from ..models.dot import DotBias
from ..models.embedding import EmbeddingTable, Fill
from ..notices import warn_user

__all__: list[str] = []

NEW_USER = 'new user'  # the id of a user whose ratings come without one
NOISE_ROWS = 2**12  # training rows, or pairs, that tell how far ratings are from their scores
IMPLICIT = ('threshold', 'weighted', 'missing_rating')  # options of implicit feedback that read ratings
MASKED = -1e9  # score of what is not a candidate of a softmax
DAMPING = 5.0  # rows that the average threshold counts for, in that of a new user


# --- their ratings


def new_users(
    scorer: Any,
    ratings: Any,  # of one user: dict or Series item -> rating, or list of items; of several: a table
) -> Catalog:
    """The catalog with the new users in the place of the known ones, their ratings as training rows."""
    old = scorer.catalog
    options = old.rating_options
    asks_ratings = scorer.scale == 'rating' or old.thresholds is not None
    users, items, ratings = _columns(ratings, old)
    if pd.isna(np.asarray(users, dtype=object)).any():
        raise ValueError('rows of the table have no user')
    if not len(items):
        raise ValueError('no ratings: of a user without any nothing is known. `recommend` has popular items for such')
    if asks_ratings and ratings is None:
        example = f'{{{first_few(items[:1])}: {old.mean_rating:.0f}}}'
        raise ValueError(
            f'the model learned from ratings, and here are none: give a dict item -> rating, such as {example}, '
            'or a table with a rating column'
        )
    if ratings is not None and 'threshold' not in options:  # of implicit feedback such rows are seen
        users, items, ratings = _rated(users, items, ratings, options.get('missing_rating'))
    item_codes = old.find_all(items)
    user_vocab, user_codes = Vocab.factorize(plain_values(users), 'user')
    repeated = pd.Series(user_codes.astype(np.int64) * old.n_items + item_codes).duplicated().to_numpy()
    if repeated.any():
        raise ValueError(f'a user has {first_few([items[repeated.argmax()]])} twice: give each item once')
    reads_ratings = asks_ratings or any(options.get(o) not in (None, False) for o in IMPLICIT)
    values = _checked(ratings, scorer) if ratings is not None and reads_ratings else None
    vocab = dict(user=user_vocab, item=old.vocab['item'])
    weights = None if asks_ratings else _weights(values, len(item_codes), options)
    interactions = Interactions(
        user_codes,
        item_codes.astype(np.int32),
        values,
        None,
        vocab,
        old.names,
        weights=weights,
        options=dict(options) if 'threshold' in options else None,
    )
    everything = Split(np.arange(len(item_codes)), np.zeros(0, np.int64))
    res = old.with_users(History(interactions, everything))
    if old.thresholds is not None:
        assert values is not None  # they were asked for
        sums = np.bincount(user_codes, values.astype(np.float64), len(user_vocab))
        res.thresholds = (sums + DAMPING * old.thresholds.mean()) / (res.counts['user'] + DAMPING)
    return res


def _weights(
    values: np.ndarray | None,  # float32 (n,): ratings; None: there are none, what is listed was chosen
    n: int,
    options: Mapping[str, Any],  # `Catalog.rating_options`
) -> np.ndarray:
    """float32 (n,): how much each row is a positive, as `Interactions.implicit` has it; 0: seen, but none.

    `ValueError` where none is a positive.
    """
    if values is None:
        return np.ones(n, np.float32)
    weights = values if options.get('weighted') else np.ones(n, np.float32)
    if options.get('missing_rating') is not None:
        weights = np.where(is_missing(values, options['missing_rating']), np.float32(0), weights)
    if (weights < 0).any():
        raise ValueError(
            f'{int((weights < 0).sum()):,} of {n:,} ratings are negative, and the loaders count them as weights '
            '(weighted=True): leave those rows out'
        )
    threshold = options.get('threshold')
    if threshold is not None:
        weights = np.where(values >= float(threshold), weights, 0).astype(np.float32)
    if not weights.any():
        asked = f'reaches threshold={float(threshold):g}' if threshold is not None else 'says that something was chosen'
        raise ValueError(
            f'none of the {n:,} ratings {asked}: what the user wants is not in them. '
            '`recommend` has popular items for such'
        )
    return weights


def _columns(ratings: Any, catalog: Catalog) -> tuple[list, list, list | None]:
    """Users, items and ratings (None where there are none) of whatever `fold_in` takes."""
    values: list | None
    if isinstance(ratings, pd.Series):
        items, values = _columns_of_series(ratings, catalog)
        users = [NEW_USER] * len(items)
    elif isinstance(ratings, dict):
        users, items, values = [NEW_USER] * len(ratings), list(ratings), list(ratings.values())
    elif is_table(ratings):
        users, items, values = _columns_of_table(as_frame(ratings), catalog)
    elif isinstance(ratings, Iterable) and not isinstance(ratings, (str, bytes)):
        items = list(ratings)
        users, values = [NEW_USER] * len(items), None
    else:
        raise TypeError(
            f'ratings come as a dict item -> rating, a table or a list of items, got {type(ratings).__name__}'
        )
    return users, items, values


def _columns_of_series(ratings: pd.Series, catalog: Catalog) -> tuple[list, list | None]:
    """Items and ratings of a Series item -> rating, or items alone of one whose values are items.

    Where ratings are asked for, labels are the items unless the name says otherwise. `ValueError` where both labels and
    values may be items.
    """
    labels, values = list(ratings.index), list(ratings)
    item_name = catalog.names.get('item')
    if item_name is not None and ratings.name == item_name:
        return values, None
    if ratings.index.name is not None and ratings.index.name == item_name:
        return labels, values
    vocab = catalog.vocab['item']
    of_labels, of_values = (bool((_codes_or_none(vocab, o) >= 0).all()) for o in (labels, values))
    if of_values and 'threshold' in catalog.rating_options:
        if of_labels:
            raise ValueError(
                'a Series whose labels and whose values may both be items: give `series.tolist()` where the values are '
                'what was chosen, `series.to_dict()` where they are ratings of the labels'
            )
        return values, None
    return labels, values


def _codes_or_none(vocab: Vocab, ids: list) -> np.ndarray:
    """int64 (n,): codes, -1 for what is not known; also where ids are of a kind that the vocabulary cannot hold."""
    try:
        return vocab.encode(ids, unknown='mark')
    except (KeyError, TypeError, ValueError):
        return np.full(max(len(ids), 1), -1)


def _rated(users: list, items: list, values: list, missing_rating: Any) -> tuple[list, list, list]:
    """Without the rows whose rating is one that said 'no rating' in the training table (`missing_rating`)."""
    if missing_rating is None:
        return users, items, values
    numbers = pd.to_numeric(pd.Series(values), errors='coerce').to_numpy(dtype=np.float32)
    rated = np.flatnonzero(~is_missing(numbers, missing_rating))
    if not len(rated):
        raise ValueError(f'every rating is missing_rating={missing_rating}: none is left to learn from')
    return [users[i] for i in rated], [items[i] for i in rated], [values[i] for i in rated]


def _columns_of_table(table: pd.DataFrame, catalog: Catalog) -> tuple[list, list, list | None]:
    """Users (one new one if there is no column that could be theirs), items, and ratings or None.

    `ValueError` where a column that is asked for may be there under another name.
    """
    names = {role: _name_of(table, role, catalog) for role in ('user', 'item', 'rating', 'time')}
    if names['item'] is None:
        raise ValueError(f'which column holds the items? The table has {first_few(table.columns, 20)}')
    others = _unexplained(table, names, catalog)
    if names['user'] is None and others:
        raise ValueError(
            f'which column holds the users? The table has {first_few(table.columns, 20)}: '
            f'rename it to {_name_for("user", catalog)}, or leave out {first_few(others)} '
            'where all rows are of one user'
        )
    asks_ratings = any(catalog.rating_options.get(o) not in (None, False) for o in ('threshold', 'weighted'))
    if names['rating'] is None and asks_ratings and others:
        raise ValueError(
            f'which column holds the ratings? The loaders read them, and the table has '
            f'{first_few(table.columns, 20)}: rename it to {_name_for("rating", catalog)}, or leave out '
            f'{first_few(others)} where all rows are choices'
        )
    items = list(table[names['item']])
    users = [NEW_USER] * len(items) if names['user'] is None else list(table[names['user']])
    return users, items, None if names['rating'] is None else list(table[names['rating']])


def _name_of(table: pd.DataFrame, role: str, catalog: Catalog) -> Any:
    """The column that plays a role, or None."""
    try:
        return column_of(table, role, catalog.names)
    except ValueError:
        return None


def _name_for(role: str, catalog: Catalog) -> str:
    """What a column of that role is called, for a message."""
    return repr(catalog.names.get(role) or role)


def _unexplained(table: pd.DataFrame, names: dict[str, Any], catalog: Catalog) -> list:
    """Columns that play no role and belong to no item, no loss and no context: each may be what is missed."""
    known = {*names.values(), catalog.names.get('weight'), catalog.title_name}
    if catalog.item_df is not None:
        known |= set(catalog.item_df.columns)
    if catalog.context_of is not None:
        known |= set(catalog.context_of.names)
    return [column for column in table.columns if column not in known]


def _checked(ratings: list, scorer: Any) -> np.ndarray:
    """float32 (n,); `ValueError` for ratings that are not numbers, or not on the model's scale."""
    values = pd.to_numeric(pd.Series(ratings), errors='coerce').to_numpy(dtype=np.float32)
    if not np.isfinite(values).all():
        n_bad = int((~np.isfinite(values)).sum())
        raise ValueError(f'{n_bad:,} of {len(values):,} ratings are missing or not numbers')
    if np.abs(values).max() > LARGEST_RATING:
        raise ValueError(
            f'ratings run from {values.min():g} to {values.max():g}, and no rating is larger than {LARGEST_RATING:g} '
            'either way: leave out what marks something else'
        )
    if not scorer.catalog.rating_options.get('weighted'):  # of counts one may be far larger than all before
        _check_range(values, scorer.catalog.rating_range)
    y_range = None if scorer.model is None else as_rec_model(scorer.model).y_range
    if scorer.scale == 'rating' and y_range is not None:
        low, high = y_range
        if values.min() < low or values.max() > high:
            raise ValueError(
                f'ratings run from {values.min():g} to {values.max():g}, those of the model from {low:g} to {high:g} '
                '(y_range): is this another scale?'
            )
    return values


def _check_range(values: np.ndarray, seen: tuple[float, float] | None) -> None:
    """`ValueError` for ratings farther from those of training than these span, a warning for others outside."""
    if seen is None:
        return
    low, high = seen
    n_outside = int(((values < low) | (values > high)).sum())
    if not n_outside:
        return
    text = (
        f'{n_outside:,} of {len(values):,} ratings lie outside those of training: they run from {values.min():g} to '
        f'{values.max():g}, those of training from {low:g} to {high:g}'
    )
    span = high - low
    if span and (values.min() < low - span or values.max() > high + span):
        raise ValueError(f'{text}. This is another scale: bring the ratings to that of training')
    warn_user(f'{text}. Is this another scale?')


# --- what is minimized


def known_pairs(catalog: Catalog, n: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of `n` users and of `n` items with training rows, drawn at random."""
    users = rng.choice(np.flatnonzero(catalog.known('user')), n)
    items = rng.choice(np.flatnonzero(catalog.known('item')), n)
    return torch.from_numpy(users), torch.from_numpy(items)


def noise_of(scorer: Any) -> float:
    """The default of `noise`: half the mean squared error of training rows, without them half the variance of scores.

    0.5 where scores stand for likes and choices.
    """
    if scorer.scale not in ('rating', 'probability'):
        return 0.5
    catalog = scorer.catalog
    rng = np.random.default_rng(0)
    inter = catalog.interactions
    if inter is None:
        pairs = known_pairs(catalog, NOISE_ROWS, rng)
        return max(0.5 * float(scorer.score(*pairs).var()), 1e-6)
    train = catalog.split.train
    rows = rng.choice(train, min(NOISE_ROWS, len(train)), replace=False)
    targets = inter.ratings[rows] if scorer.scale == 'rating' else catalog.liked(rows).astype(np.float32)
    users = torch.from_numpy(inter.users[rows].astype(np.int64))
    items = torch.from_numpy(inter.items[rows].astype(np.int64))
    errors = scorer.score(users, items).cpu() - torch.from_numpy(targets)
    return max(0.5 * float(errors.square().mean()), 1e-6)


class Objective:
    """The loss of one new user: its value, and its first and second derivatives by the scores.

    Throughout, of a user's n items: scores s (n,), targets y (n,) and weights w (n,).
    """

    def __init__(self, scorer: Any, noise: float) -> None:
        self.noise = noise
        self.scale = scorer.scale
        self.is_liked = scorer.catalog.thresholds is not None  # are targets whether the user liked the item?
        self.n_negatives = scorer.n_negatives
        # is the loss over the whole catalogue, not over what the user rated?
        self.is_whole = scorer.scale == 'rank' or (scorer.scale == 'logit' and not self.is_liked)

    def rows(self, catalog: Catalog, user: int) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """Codes of the items whose scores count for the code of a user (None: all items), their targets and weights."""
        inter = catalog.interactions
        assert inter is not None  # made by `new_users`
        rows = np.flatnonzero(inter.users == user)
        items = torch.from_numpy(inter.items[rows].astype(np.int64))
        column = inter.weights if self.is_whole else inter.ratings
        assert column is not None  # what the model was trained on
        values = torch.from_numpy(column[rows])
        threshold = None if catalog.thresholds is None else float(catalog.thresholds[user])
        return self.targets(items, values, threshold, catalog.n_items)

    def targets(
        self,
        items: torch.Tensor,  # codes (m,)
        values: torch.Tensor,  # float32 (m,): ratings; of implicit feedback weights
        threshold: float | None,  # rating from which on the user likes an item, where that is the target
        n_items: int,
    ) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """As `rows`, of what a user has."""
        if self.is_whole:
            return self._whole_rows(items, values, n_items)
        targets = (values.double() >= threshold).float() if self.is_liked else values
        return items, targets, torch.ones(len(items))

    def _whole_rows(
        self,
        items: torch.Tensor,  # codes (m,)
        weights: torch.Tensor,  # float32 (m,): what they count as positives; 0: seen, neither chosen nor left
        n_items: int,
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        """As `rows`, of the whole catalogue."""
        chosen = torch.zeros(n_items)
        chosen[items] = weights
        if self.scale == 'rank':
            w = torch.ones(n_items)
            w[items[weights == 0]] = 0.0
            return None, chosen, w
        # all items that are not chosen count together as much as the sampled negatives do
        w = torch.full((n_items,), self.n_negatives * float(weights.sum()) / max(n_items - len(items), 1))
        w[items] = weights
        return None, (chosen > 0).float(), w

    def value(self, s: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar."""
        if self.scale == 'rank':
            return -(s.where(w > 0, MASKED).log_softmax(0) * y).sum() / self.noise
        if self.scale == 'logit':
            return (w * F.binary_cross_entropy_with_logits(s, y, reduction='none')).sum() / self.noise
        return (w * (s - y).square()).sum() / (2 * self.noise)

    def newton(
        self,
        t: torch.Tensor,  # (n,): scores before `y_range`
        y: torch.Tensor,
        w: torch.Tensor,
        z: torch.Tensor,  # (n, d): their slopes by x, t = o + z x
        y_range: tuple[float, float] | None,  # s = to_range(t, y_range)
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient (d,) and a positive definite Hessian (d, d) of the loss by x.

        The Hessian is that of Gauss and Newton for squares behind `y_range`.
        """
        if self.scale == 'rank':
            p, n_chosen = t.where(w > 0, MASKED).softmax(0), y.sum()
            mean_z = z.T @ p
            gradient = (n_chosen * mean_z - z.T @ y) / self.noise
            return gradient, n_chosen * ((z.T * p) @ z - torch.outer(mean_z, mean_z)) / self.noise
        first, second = self.by_row(t, y, w, y_range)
        return z.T @ first / self.noise, (z.T * second) @ z / self.noise

    def by_row(
        self, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor, y_range: tuple[float, float] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """First and second derivative (n,) of each term by its t, times the noise; not for 'rank'."""
        if self.scale == 'logit':
            p = t.sigmoid()
            return w * (p - y), w * p * (1 - p)
        slope = torch.ones_like(t)
        if y_range is not None:
            p = t.sigmoid()
            slope = p * (1 - p) * (y_range[1] - y_range[0])
        return w * slope * (to_range(t, y_range) - y), w * slope * slope


def prior_of(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (d,) and precision (d, d) of rows (n, d) of known users.

    The covariance is drawn to its diagonal, the more the fewer users there are.
    """
    n, d = rows.shape
    mean = rows.mean(0)
    covariance = (rows - mean).T @ (rows - mean) / max(n - 1, 1)
    share = min(1.0, max(0.1, d / n))
    variances = covariance.diagonal().clamp(min=1e-8)
    return mean, torch.linalg.inv((1 - share) * covariance + share * torch.diag(variances))


class Scores(Protocol):
    """Scores (n,), before `y_range`, as a function of a user's row x (d,)."""

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """(d,) -> (n,)."""

    def slopes(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (n,) and their derivatives (n, d) by x."""


def _newton(
    objective: Objective,
    f: Scores,
    y: torch.Tensor,  # (n,)
    w: torch.Tensor,  # (n,)
    mean: torch.Tensor,  # (d,), of the prior
    precision: torch.Tensor,  # (d, d), of the prior
    y_range: tuple[float, float] | None,
    n_steps: int = 20,
    tol: float = 1e-9,  # it ends with a step that gains a smaller share of the objective
) -> torch.Tensor:
    """The row x that minimizes the objective of scores f(x), by Newton's method with halved steps.

    Of Gauss and Newton where f is not linear; for squares of a linear f without `y_range` the first step is exact.
    """

    def value_at(x: torch.Tensor) -> torch.Tensor:
        loss = objective.value(to_range(f.scores(x), y_range), y, w)
        return loss + (x - mean) @ precision @ (x - mean) / 2

    x = mean
    value = value_at(x)
    for _ in range(n_steps):
        scores, slopes = f.slopes(x)
        gradient, hessian = objective.newton(scores, y, w, slopes, y_range)
        step = torch.linalg.solve(hessian + precision, gradient + precision @ (x - mean))
        size = 1.0
        new = value_at(x - step)
        while new > value and size > 1e-3:
            size /= 2
            new = value_at(x - size * step)
        if not new < value:
            break
        is_done = value - new < tol * (1 + value.abs())
        x = x - size * step
        value = new
        if is_done:
            break
    return x


# --- models whose score is a dot product


class _Linear:
    """Scores o + z x."""

    def __init__(self, o: torch.Tensor, z: torch.Tensor) -> None:
        self.o = o
        self.z = z

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        return self.o + self.z @ x

    def slopes(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.scores(x), self.z


def dot_parts(scorer: Any) -> tuple[torch.Tensor, torch.Tensor, float, tuple[float, float] | None] | None:
    """Biases and vectors of users (n_users, 1 + d) and of items (n_items, 1 + d), the mean, and `y_range`.

    None unless scores are to_range(mean + b_u + b_i + p_u . q_i), seen on 64 pairs.
    """
    model, catalog = scorer.rec_model, scorer.catalog
    try:
        p = scorer.vectors('user').float().cpu()
        q = scorer.vectors('item').float().cpu()
    except (ValueError, TypeError, NotImplementedError):
        return None
    if p.ndim != 2 or p.shape[1] != q.shape[1]:
        return None

    def biases(side: str, n: int) -> torch.Tensor:
        found = scorer.biases(side)
        return torch.zeros(n) if found is None else found.float().cpu()

    user_biases, item_biases = biases('user', len(p)), biases('item', len(q))
    mean, y_range = model.intercept(), model.y_range
    users, items = known_pairs(catalog, 64, np.random.default_rng(0))
    scores = scorer.score(users, items).float().cpu()
    products = (p[users] * q[items]).sum(1)
    sums = to_range(products + user_biases[users] + item_biases[items] + mean, y_range)
    error = (scores - sums).abs().max()
    if error > 1e-3 * scores.abs().max().clamp(min=1e-3):
        return None
    user_rows = torch.cat([user_biases[:, None], p], 1)
    item_rows = torch.cat([item_biases[:, None], q], 1)
    return user_rows, item_rows, mean, y_range


Prior = tuple[torch.Tensor, torch.Tensor]  # mean (d,) and precision (d, d) of the rows of known users


def fold_dot(scorer: Any, catalog: Catalog, objective: Objective) -> tuple[DotBias, Prior] | None:
    """A `DotBias` of the new users of `catalog`, and the prior; None if the model's score is not a dot product."""
    parts = dot_parts(scorer)
    if parts is None:
        return None
    mean, y_range = parts[2:]
    users, items = parts[0].double(), parts[1].double()
    prior = prior_of(users[torch.from_numpy(scorer.catalog.known('user'))])
    learned = torch.from_numpy(scorer.knows('item'))
    rows = torch.zeros(catalog.n_users, users.shape[1], dtype=torch.float64)
    n_unlearned = 0
    for user in range(catalog.n_users):
        at, y, w = objective.rows(catalog, user)
        if at is not None:
            is_learned = learned[at]  # the vector of a cold item says nothing about the user
            n_unlearned += int((~is_learned).sum())
            at, y, w = at[is_learned], y[is_learned], w[is_learned]
        q = items if at is None else items[at]
        # x is the user's bias and vector: scores are mean + b_i + 1 b_u + q_i . p_u
        slopes = q.clone()
        slopes[:, 0] = 1.0
        scores = _Linear(mean + q[:, 0], slopes)
        rows[user] = _newton(objective, scores, y.double(), w.double(), *prior, y_range)
    if n_unlearned:
        warn_user(
            f'{n_unlearned:,} of the ratings are of items without training rows, which say nothing about the user',
        )
    return _dot_bias(rows, items, mean, y_range, learned).to(device_of(scorer.model)), prior


def _dot_bias(
    users: torch.Tensor, items: torch.Tensor, mean: float, y_range: tuple[float, float] | None, learned: torch.Tensor
) -> DotBias:
    """A `DotBias` of biases and vectors (n, 1 + d); `learned` (n_items,) says which items have training rows."""
    with torch.random.fork_rng(devices=[]):  # nobody asked for its first values
        res = DotBias(len(users), len(items), users.shape[1] - 1, y_range)
    with torch.no_grad():
        res.user_biases.weight.copy_(users[:, :1])
        res.user_factors.weight.copy_(users[:, 1:])
        res.item_biases.weight.copy_(items[:, :1])
        res.item_factors.weight.copy_(items[:, 1:])
        res.item_biases.known.copy_(learned)
        res.item_factors.known.copy_(learned)
        res.mean.fill_(mean)
    return res


# --- other models with tables of users


class OfTables:
    """Scores of a model for one user and items (n,) as a function of the user's row x (d,), and their derivatives.

    Each item gets a user of its own with the same row, so that one backward pass of the sum gives all derivatives.
    """

    def __init__(self, model: nn.Module, tables: list[str], widths: list[int], items: torch.Tensor) -> None:
        self.model = model
        self.weights = [f'{table}.weight' for table in tables]
        self.widths = widths  # of each table; their sum is d
        self.items = items
        self.users = torch.arange(len(items), device=items.device)

    def _of(self, rows: torch.Tensor) -> torch.Tensor:
        """Scores (n,) for a row each: (n, d)."""
        weights = dict(zip(self.weights, rows.split(self.widths, 1)))
        return torch.func.functional_call(self.model, weights, (self.users, self.items))

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        return self._of(x.expand(len(self.users), -1))

    def slopes(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.enable_grad():
            rows = x.expand(len(self.users), -1).clone().requires_grad_()
            scores = self._of(rows)
            (slopes,) = torch.autograd.grad(scores.sum(), rows)
        return scores.detach(), slopes


def _is_of_users(name: str) -> bool:
    """Does a part of the dotted name of a module begin with 'user'?"""
    return any(part.startswith('user') for part in name.split('.'))


def user_tables(model: nn.Module, n_users: int) -> list[str]:
    """Names of the embeddings with a row for each user; `TypeError` if there is none, or if features of users count."""
    name = type(model).__name__
    if any(isinstance(m, FeatureLinear) and _is_of_users(at) for at, m in model.named_modules()):
        raise TypeError(f'{name} reads features of users, which new ones have not')
    tables = [
        at
        for at, m in model.named_modules()
        if isinstance(m, nn.Embedding) and m.num_embeddings == n_users and _is_of_users(at)
    ]
    if not tables:
        raise TypeError(
            f'{name} has no table of users that fold_in could find: an nn.Embedding (or EmbeddingTable) '
            f"with {n_users:,} rows whose name begins with 'user'"
        )
    return tables


def with_tables(model: nn.Module, tables: Iterable[str], n_users: int) -> nn.Module:
    """A copy of the model that shares all tensors but the weights of `tables`: zeros, with `n_users` rows."""
    shared = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    res = deepcopy(model, shared)  # what this memo has is not copied
    for at in tables:
        old = res.get_submodule(at)
        table = copy(old)
        table._parameters = dict(old._parameters)
        table._buffers = dict(old._buffers)
        table.weight = nn.Parameter(torch.zeros(n_users, old.weight.shape[1], device=old.weight.device))
        table.num_embeddings = n_users
        if isinstance(table, EmbeddingTable):
            table.known = torch.ones(n_users, dtype=torch.bool, device=old.weight.device)
            table._fill = Fill()
        parent, _, child = at.rpartition('.')
        setattr(res.get_submodule(parent), child, table)
    return res


def fold_tables(scorer: Any, catalog: Catalog, objective: Objective) -> tuple[nn.Module, Prior]:
    """A copy of the model whose tables of users have rows fitted to the new ones of `catalog`, and the prior.

    It shares all else.
    """
    model = scorer.model
    tables = user_tables(model, scorer.catalog.n_users)
    weights = [model.get_submodule(at).weight.detach() for at in tables]
    device = weights[0].device
    known = torch.from_numpy(scorer.catalog.known('user')).to(device)
    mean, precision = (o.float() for o in prior_of(torch.cat(weights, 1)[known].double()))
    widths = [weight.shape[1] for weight in weights]
    res = with_tables(model, tables, catalog.n_users).eval()
    rows = torch.zeros(catalog.n_users, len(mean), device=device)
    all_items = torch.arange(catalog.n_items, device=device)
    counts = torch.from_numpy(catalog.counts['user'])
    for user in range(catalog.n_users):
        at, y, w = objective.rows(catalog, user)
        scores = OfTables(res, tables, widths, all_items if at is None else at.to(device))
        as_rec_model(res).set_user_counts(counts[user].expand(len(scores.items)))
        rows[user] = _newton(objective, scores, y.to(device), w.to(device), mean, precision, None, tol=1e-6)
    with torch.no_grad():
        for at, weight in zip(tables, rows.split(widths, 1)):
            res.get_submodule(at).weight.copy_(weight)
    as_rec_model(res).set_user_counts(counts)
    return res, (mean.double().cpu(), precision.double().cpu())
