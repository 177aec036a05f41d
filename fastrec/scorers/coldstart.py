"""Users who came after training: their rows of a trained model, worked out from a few ratings while the model stays as it is."""

from __future__ import annotations

from copy import copy, deepcopy
from warnings import warn

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from ..data.columns import column_of, first_few, plain_values
from ..data.history import History
from ..data.interactions import Interactions, Vocab
from ..data.splits import Split
from ..models.base import as_rec_model, to_range
from ..models.blocks import FeatureLinear
from ..models.dot import DotBias
from ..models.embedding import EmbeddingTable

__all__ = []

NEW_USER = 'new user'
SAMPLE = 2**12  # training rows that tell how far ratings are from their scores
DAMPING = 5.0  # rows that the average threshold counts for, in that of a new user


def new_users(scorer, ratings):
    """The catalog with the new users in the place of the known ones, their ratings as training rows."""
    old = scorer.catalog
    asks = scorer.scale == 'rating' or old.thresholds is not None
    users, items, values = _rows(ratings, old, asks)
    if not len(items):
        raise ValueError('no ratings: of a user without any nothing is known. `recommend` has popular items for such')
    codes = old.find_all(items)
    vocab, user_codes = Vocab.factorize(plain_values(users), 'user')
    if len(np.unique(pair := user_codes.astype(np.int64) * old.n_items + codes)) < len(pair):
        first = pd.Series(pair).duplicated().to_numpy().nonzero()[0][0]
        raise ValueError(f'a user has {first_few([items[first]])} twice: give each item once')
    if values is not None:
        values = pd.to_numeric(pd.Series(values), errors='coerce').to_numpy(dtype=np.float32)
        if not np.isfinite(values).all():
            raise ValueError(
                f'{int((~np.isfinite(values)).sum()):,} of {len(values):,} ratings are missing or no numbers'
            )
        y_range = None if scorer.model is None else as_rec_model(scorer.model).y_range
        if (
            scorer.scale == 'rating'
            and y_range is not None
            and (values.min() < y_range[0] or values.max() > y_range[1])
        ):
            raise ValueError(
                f'ratings run from {values.min():g} to {values.max():g}, those of the model from {y_range[0]:g} to {y_range[1]:g} (y_range): is this another scale?'
            )
    weights = None if asks else np.ones(len(codes), np.float32)
    vocab = dict(user=vocab, item=old.vocab['item'])
    inter = Interactions(user_codes, codes.astype(np.int32), values, None, vocab, old.names, weights=weights)
    res = old.with_users(History(inter, Split(np.arange(len(codes)), np.zeros(0, np.int64))))
    if old.thresholds is not None:
        sums = np.bincount(user_codes, values.astype(np.float64), len(vocab['user']))
        res.thresholds = (sums + DAMPING * old.thresholds.mean()) / (res.counts['user'] + DAMPING)
    return res


def _rows(ratings, catalog, asks):
    """-> users, items, ratings (or None) of what `fold_in` takes."""
    if isinstance(ratings, pd.Series):
        ratings = ratings.to_dict()
    if isinstance(ratings, dict):
        users, items, values = [NEW_USER] * len(ratings), list(ratings), list(ratings.values())
    elif isinstance(ratings, pd.DataFrame):

        def column(role):
            try:
                return list(ratings[column_of(ratings, role, catalog.names)])
            except ValueError:
                return None

        users, items, values = column('user'), column('item'), column('rating')
        if items is None:
            raise ValueError(f'which column holds the items? The table has {first_few(ratings.columns, 20)}')
        users = [NEW_USER] * len(items) if users is None else users
    elif isinstance(ratings, (list, tuple, set, np.ndarray, pd.Index)):
        users, items, values = [NEW_USER] * len(ratings), list(ratings), None
    else:
        raise TypeError(
            f'ratings come as a dict item -> rating, a table or a list of items, got {type(ratings).__name__}'
        )
    if pd.isna(np.asarray(users, dtype=object)).any():
        raise ValueError('rows of the table have no user')
    if asks and values is None:
        raise ValueError(
            f'the model learned from ratings, and here are none: give a dict item -> rating, such as {{{first_few(items[:1])}: {catalog.mean_rating:.0f}}}, or a table with a rating column'
        )
    return users, items, values if asks else None


def noise_of(scorer):
    """Half the mean squared error of training rows; without them half the variance of scores. 0.5 where scores stand for probabilities."""
    if scorer.scale not in ('rating', 'probability'):
        return 0.5
    catalog, rng = scorer.catalog, np.random.default_rng(0)
    if catalog.interactions is not None:
        inter, rows = (
            catalog.interactions,
            rng.choice(catalog.split.train, min(SAMPLE, len(catalog.split.train)), replace=False),
        )
        y = inter.ratings[rows] if scorer.scale == 'rating' else catalog.liked(rows).astype(np.float32)
        scores = scorer.score(
            torch.from_numpy(inter.users[rows].astype(np.int64)), torch.from_numpy(inter.items[rows].astype(np.int64))
        ).cpu()
        return max(0.5 * float((scores - torch.from_numpy(y)).square().mean()), 1e-6)
    users, items = (
        torch.from_numpy(rng.choice(np.flatnonzero(catalog.known(side)), SAMPLE)) for side in ('user', 'item')
    )
    return max(0.5 * float(scorer.score(users, items).var()), 1e-6)


class Objective:
    """The loss of one new user: its value, and its first and second derivatives by the scores."""

    def __init__(self, scorer, noise):
        self.noise, self.scale, self.liked = noise, scorer.scale, scorer.catalog.thresholds is not None
        self.n_neg = scorer.n_negatives
        self.whole = scorer.scale == 'rank' or (scorer.scale == 'logit' and not self.liked)  # over the whole catalogue

    def rows(self, catalog, user):
        """-> codes of the items whose scores count (None: all), their targets and weights."""
        rows = np.flatnonzero(catalog.interactions.users == user)
        items = torch.from_numpy(catalog.interactions.items[rows].astype(np.int64))
        if self.whole:
            y = torch.zeros(catalog.n_items)
            y[items] = 1.0
            return None, y, torch.where(y > 0, 1.0, self.n_neg * len(items) / max(catalog.n_items - len(items), 1))
        y = torch.from_numpy(
            catalog.liked(rows).astype(np.float32) if self.liked else catalog.interactions.ratings[rows]
        )
        return items, y, torch.ones(len(items))

    def value(self, s, y, w):  # a scalar
        if self.scale == 'rank':
            return -(s.log_softmax(0) * y).sum() / self.noise
        if self.scale == 'logit':
            return (w * F.binary_cross_entropy_with_logits(s, y, reduction='none')).sum() / self.noise
        return (w * (s - y).square()).sum() / (2 * self.noise)

    def newton(self, t, y, w, z, y_range):
        """-> gradient (d,) and a positive definite Hessian (d, d) (for squares behind `y_range` that of Gauss and Newton) by x, for scores to_range(t), t = o + z x."""
        if self.scale == 'rank':
            p, n = t.softmax(0), y.sum()
            zp = z.T @ p
            return (n * zp - z.T @ y) / self.noise, n * ((z.T * p) @ z - torch.outer(zp, zp)) / self.noise
        if self.scale == 'logit':
            p = t.sigmoid()
            g, h = w * (p - y), w * p * (1 - p)
        else:
            s = to_range(t, y_range)
            slope = (
                torch.ones_like(t) if y_range is None else t.sigmoid() * (1 - t.sigmoid()) * (y_range[1] - y_range[0])
            )
            g, h = w * slope * (s - y), w * slope * slope
        return z.T @ g / self.noise, (z.T * h) @ z / self.noise


def _prior(rows):
    """Mean (d,) and precision (d, d) of rows (n, d) of known users; the covariance is drawn to its diagonal, the more the fewer users there are."""
    n, d = rows.shape
    m = rows.mean(0)
    cov = (rows - m).T @ (rows - m) / max(n - 1, 1)
    share = min(1.0, max(0.1, d / n))
    var = cov.diagonal().clamp(min=1e-8)
    return m, torch.linalg.inv((1 - share) * cov + share * torch.diag(var))


def _dot_parts(scorer):
    """-> bias and vector of users (n_users, 1 + d), of items (n_items, 1 + d), mean, y_range, if scores are mean + b_u + b_i + p_u . q_i; else None."""
    model, catalog = scorer.rec_model, scorer.catalog
    try:
        p, q = (scorer.vectors(o).float().cpu() for o in ('user', 'item'))
    except (ValueError, TypeError, NotImplementedError):
        return None
    if p.ndim != 2 or p.shape[1] != q.shape[1]:
        return None
    bu, bi = (
        torch.zeros(len(x)) if (b := scorer.biases(o)) is None else b.float().cpu()
        for o, x in (('user', p), ('item', q))
    )
    mean, y_range = model.intercept(), model.y_range
    rng = np.random.default_rng(0)
    users, items = (torch.from_numpy(rng.choice(np.flatnonzero(catalog.known(side)), 64)) for side in ('user', 'item'))
    want = scorer.score(users, items).float().cpu()
    got = to_range((p[users] * q[items]).sum(1) + bu[users] + bi[items] + mean, y_range)
    if (want - got).abs().max() > 1e-3 * want.abs().max().clamp(min=1e-3):
        return None
    return torch.cat([bu[:, None], p], 1), torch.cat([bi[:, None], q], 1), mean, y_range


def fold_dot(scorer, catalog, objective):
    """A `DotBias` of the new users; None if the model is no dot product."""
    if (parts := _dot_parts(scorer)) is None:
        return None
    users, items, mean, y_range = (o.double() if isinstance(o, torch.Tensor) else o for o in parts)
    m, precision = _prior(users[torch.from_numpy(scorer.catalog.known('user'))])
    learned = torch.from_numpy(scorer.knows('item'))
    rows, unlearned = torch.zeros(catalog.n_users, users.shape[1], dtype=torch.float64), 0
    for user in range(catalog.n_users):
        at, y, w = objective.rows(catalog, user)
        if at is not None:
            unlearned += int((~learned[at]).sum())
            at, y, w = (o[learned[at]] for o in (at, y, w))  # the vector of a cold item says nothing about it
        q = items if at is None else items[at]
        z = torch.cat([torch.ones(len(q), 1, dtype=torch.float64), q[:, 1:]], 1)
        rows[user] = _newton(objective, _Linear(mean + q[:, 0], z), y.double(), w.double(), m, precision, y_range)
    if unlearned:
        warn(
            f'{unlearned:,} of the ratings are of items without training rows, which say nothing about the user',
            stacklevel=4,
        )
    with torch.random.fork_rng(devices=[]):
        res = DotBias(
            catalog.n_users, catalog.n_items, users.shape[1] - 1, y_range
        )  # whose first values nobody asked for
    with torch.no_grad():
        for table, values in (
            (res.user_biases, rows[:, :1]),
            (res.user_factors, rows[:, 1:]),
            (res.item_biases, items[:, :1]),
            (res.item_factors, items[:, 1:]),
        ):
            table.weight.copy_(values)
        res.mean.fill_(mean)
        for table in (res.item_factors, res.item_biases):
            table.known.copy_(learned)
    return res.to(next(scorer.model.parameters()).device)


class _Linear:
    """Scores o + z x of a row x, and their derivatives by it."""

    def __init__(self, o, z):
        self.o, self.z = o, z

    def scores(self, x):
        return self.o + self.z @ x

    def slopes(self, x):
        return self.scores(x), self.z


def _newton(objective, f, y, w, m, precision, y_range, n_steps=20, tol=1e-9):
    """The row x that minimises the objective of scores f(x), by Newton's method (of Gauss and Newton where f is not linear) with halved steps; for squares of a linear f without `y_range` the first is exact."""
    value = lambda x: objective.value(to_range(f.scores(x), y_range), y, w) + (x - m) @ precision @ (x - m) / 2
    x, best = m, value(m)
    for _ in range(n_steps):
        t, z = f.slopes(x)
        g, h = objective.newton(t, y, w, z, y_range)
        step = torch.linalg.solve(h + precision, g + precision @ (x - m))
        size, new = 1.0, value(x - step)
        while new > best and size > 1e-3:
            size, new = size / 2, value(x - size / 2 * step)
        if not new < best:
            break
        done = best - new < tol * (1 + best.abs())
        x, best = x - size * step, new
        if done:
            break
    return x


class _OfTables:
    """Scores of a model for one user and items (n,) as a function of the user's row x (d,), and their derivatives.

    Each item gets a user of its own with the same row, so that one backward pass of the sum gives all derivatives."""

    def __init__(self, model, tables, widths, items):
        self.model, self.tables, self.widths, self.items, self.users = (
            model,
            tables,
            widths,
            items,
            torch.arange(len(items), device=items.device),
        )

    def _of(self, x):
        return torch.func.functional_call(
            self.model,
            dict(
                zip(
                    self.tables,
                    x.expand(len(self.users), -1).split(self.widths, 1) if x.dim() == 1 else x.split(self.widths, 1),
                )
            ),
            (self.users, self.items),
        )

    def scores(self, x):
        return self._of(x)

    def slopes(self, x):
        with torch.enable_grad():
            rows = x.expand(len(self.users), -1).clone().requires_grad_()
            scores = self._of(rows)
            return scores.detach(), torch.autograd.grad(scores.sum(), rows)[0]


def fold_tables(scorer, catalog, objective):
    """A copy of the model that shares all tensors but its tables of users, whose rows are fitted to the new ones."""
    model, name = scorer.model, type(scorer.model).__name__
    of_users = lambda at: any(part.startswith('user') for part in at.split('.'))
    if any(isinstance(m, FeatureLinear) and of_users(at) for at, m in model.named_modules()):
        raise TypeError(f'{name} reads features of users, which new ones have not')
    tables = [
        at
        for at, m in model.named_modules()
        if isinstance(m, torch.nn.Embedding) and m.num_embeddings == scorer.catalog.n_users and of_users(at)
    ]
    if not tables:
        raise TypeError(
            f"{name} has no table of users that fold_in could find: an nn.Embedding (or EmbeddingTable) with {scorer.catalog.n_users:,} rows whose name begins with 'user'"
        )
    old = [model.get_submodule(at).weight.detach() for at in tables]
    known = torch.from_numpy(scorer.catalog.known('user')).to(old[0].device)
    m, precision = _prior(torch.cat(old, 1)[known].double())
    m, precision, widths = m.float(), precision.float(), [o.shape[1] for o in old]
    shared = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    res = deepcopy(model, dict(shared))
    new = torch.zeros(catalog.n_users, len(m), device=m.device)
    for at, width in zip(tables, widths):
        table = copy(res.get_submodule(at))
        table._parameters, table._buffers = dict(table._parameters), dict(table._buffers)
        table.weight, table.num_embeddings = (
            torch.nn.Parameter(torch.zeros(catalog.n_users, width, device=m.device)),
            catalog.n_users,
        )
        if isinstance(table, EmbeddingTable):
            table.known, table._cold = torch.ones(catalog.n_users, dtype=torch.bool, device=m.device), None
        parent, _, child = at.rpartition('.')
        setattr(res.get_submodule(parent), child, table)
    res.eval()
    everything = torch.arange(catalog.n_items, device=m.device)
    for user in range(catalog.n_users):
        at, y, w = (None if o is None else o.to(m.device) for o in objective.rows(catalog, user))
        new[user] = _newton(
            objective,
            _OfTables(res, [f'{o}.weight' for o in tables], widths, everything if at is None else at),
            y,
            w,
            m,
            precision,
            None,
            tol=1e-6,
        )
    with torch.no_grad():
        for at, part in zip(tables, new.split(widths, 1)):
            res.get_submodule(at).weight.copy_(part)
    return res
