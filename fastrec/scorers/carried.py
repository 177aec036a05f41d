"""What a user's own items bring to scores: the contract of whatever explains a scorer, and the ways that need no model.

`scorer` is here whatever keeps the contract of `Scorer`, which stands above this room and calls it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..data.catalog import Catalog
from ..models.base import to_range
from .coldstart import new_users

__all__: list[str] = []

VARIANTS_BYTES = 2**26  # of scores of whole catalogues that are made at a time when items are taken out one by one
AT_LEAST = 1e-9  # of what all items bring together: below it there is no line to follow through a range


@dataclass
class Own:
    """What one user has: the rows that a score may come from."""

    items: np.ndarray  # int64 (n,): codes
    values: np.ndarray  # float32 (n,): ratings; of implicit feedback weights, 0 where a row is not a positive
    is_rated: bool  # are values ratings?
    threshold: float | None = None  # rating from which on the user likes an item, where that is what was learned

    def without(self, places: np.ndarray) -> Own:
        """The same without the rows at `places` (int)."""
        stays: np.ndarray = np.ones(len(self.items), bool)
        stays[places] = False
        return Own(self.items[stays], self.values[stays], self.is_rated, self.threshold)


def own_rows(catalog: Catalog, user: int) -> Own:
    """What a user (a code) has in the training rows; `ValueError` if the history did not travel."""
    if catalog.history is None:
        catalog.require_history(
            'Give it: because(user, item, history={item: rating}), or save with save_recommender(..., history=True)'
        )
    assert catalog.history is not None
    row = catalog.history.seen_of(np.array([user]))[np.array([user])].tocsr()
    is_rated = catalog.mean_rating is not None and 'threshold' not in catalog.rating_options
    threshold = None if catalog.thresholds is None else float(catalog.thresholds[user])
    return Own(row.indices.astype(np.int64), row.data.astype(np.float32), is_rated, threshold)


def given_rows(scorer: Any, history: Any) -> Own:
    """The same of what is given as `history`, in any form that `fold_in` takes; `ValueError` for several users."""
    catalog = new_users(scorer, history)
    if catalog.n_users > 1:
        raise ValueError(f'history= has rows of {catalog.n_users:,} users: give those of the one who is explained')
    return own_rows(catalog, 0)


def as_ratings(catalog: Catalog, owns: list[Own]) -> pd.DataFrame:
    """A table for `fold_in` in which the users 0, 1, ... have what `owns` say."""
    names = {role: catalog.names.get(role) or role for role in ('user', 'item', 'rating')}
    users: np.ndarray = np.repeat(np.arange(len(owns)), [len(own.items) for own in owns])
    items = np.concatenate([own.items for own in owns])
    table = pd.DataFrame({names['user']: users, names['item']: catalog.vocab['item'].decode(items)})
    values = np.concatenate([own.values for own in owns])
    if owns[0].is_rated:
        table[names['rating']] = values
        return table
    options = catalog.rating_options
    asks_ratings = any(options.get(o) not in (None, False) for o in ('threshold', 'weighted', 'missing_rating'))
    if not asks_ratings:
        return table
    if options.get('weighted'):
        table[names['rating']] = values
        return table
    # only who is a positive is known of the rows: what reaches the threshold, and what does not
    positive = float(options.get('threshold') or 1.0)
    marks = np.atleast_1d(np.asarray(-1.0 if options.get('missing_rating') is None else options['missing_rating']))
    table[names['rating']] = np.where(values > 0, positive, float(marks.ravel()[0]))
    return table


@dataclass
class Carried:
    """What each of a user's own items brings to the scores of `m` items."""

    items: np.ndarray  # int64 (n,): codes of what the user has
    contributions: np.ndarray  # float64 (n, m), on the scale of the scores
    scores: np.ndarray  # float64 (m,), what the scorer says
    method: str  # how they were found: see `because`

    @property
    def base(self) -> np.ndarray:
        """float64 (m,): what of the scores does not come from the items."""
        return self.scores - self.contributions.sum(0)


def on_scale(
    contributions: np.ndarray,  # float64 (n, m), before the range
    scores: np.ndarray,  # float64 (m,), before the range
    y_range: tuple[float, float] | None,
) -> np.ndarray:
    """The same on the scale behind the range: (n, m).

    Each item has its part of what all bring together: the integral of the slope along the straight line on which all
    grow alike (Aumann and Shapley's value of a function of a sum; Sundararajan et al. 2017, eq. 1).
    """
    if y_range is None:
        return contributions
    together = torch.from_numpy(contributions.sum(0))
    at = torch.from_numpy(scores)
    low, high = y_range
    slope = torch.sigmoid(at) * (1 - torch.sigmoid(at)) * (high - low)
    moved = to_range(at, y_range) - to_range(at - together, y_range)
    factor = torch.where(together.abs() > AT_LEAST, moved / together, slope)
    return contributions * factor.numpy()


def shares(contributions: np.ndarray) -> np.ndarray:
    """What each contribution (n,) is of all that moved a score where it has gone: these add up to 1.

    Negative where it spoke against that, 0 where nothing moved it. (Of the sum of all, what speaks for and against
    would have to be shares as well, and several hundred percent where the two are about equal.)
    """
    direction = 1.0 if contributions.sum() >= 0 else -1.0
    along = np.maximum(direction * contributions, 0.0).sum()
    return direction * contributions / along if along else np.zeros_like(contributions)


def in_order(contributions: np.ndarray) -> np.ndarray:
    """Places of contributions (n,), those first that moved a score where it has gone, by size."""
    direction = 1.0 if contributions.sum() >= 0 else -1.0
    return np.argsort(-direction * contributions, kind='stable')


class Explainer:
    """What tells how a user's own items carried scores; made once of a scorer, asked for many users.

    A subclass writes `of` and says by `method` how it finds that out.
    """

    method: str  # 'exact', 'influence', 'deletion' or 'none'
    is_quick: bool = True  # does a user take some milliseconds?

    def __init__(self, scorer: Any) -> None:
        self.scorer = scorer
        self.asked = scorer  # whose scores are explained: the same, but where that one is in a situation

    def of(
        self,
        user: int,  # code
        items: np.ndarray,  # int64 (m,): codes of the items whose scores are explained
        own: Own,  # what the user has
    ) -> Carried:
        """What each item of `own` brings to the scores of `items`."""
        raise NotImplementedError(f'{type(self).__name__} has no of(user, items, own)')

    def scores(self, user: int, items: np.ndarray) -> np.ndarray:
        """What the scorer says, float64 (m,)."""
        codes = torch.from_numpy(items)
        return self.asked.score(torch.full_like(codes, user), codes).double().cpu().numpy()

    def carried(self, user: int, items: np.ndarray, own: Own, contributions: np.ndarray) -> Carried:
        """Contributions (n, m) beside the scores that they are of."""
        return Carried(own.items, np.asarray(contributions, np.float64), self.scores(user, items), self.method)


class SameForAll(Explainer):
    """Scores that are the same for every user: no item brings anything."""

    method = 'none'

    def of(self, user: int, items: np.ndarray, own: Own) -> Carried:
        """As in `Explainer`; all 0."""
        return self.carried(user, items, own, np.zeros((len(own.items), len(items))))


class SumOfHistory(Explainer):
    """Scores that are sums over what the user has: of scorers with `contributions(user, item)`."""

    method = 'exact'

    def of(self, user: int, items: np.ndarray, own: Own) -> Carried:
        """As in `Explainer`; base and contributions add up to the score."""
        columns = []
        for item in items:
            codes, parts, _ = self.scorer.contributions(user, int(item))
            column = pd.Series(np.asarray(parts, np.float64), index=codes)
            columns.append(column.reindex(own.items, fill_value=0.0).to_numpy())
        return self.carried(user, items, own, np.stack(columns, 1))


class Deletion(Explainer):
    """What scores lose when the user is folded in without an item: for whatever has a `fold_in`.

    Each item is taken out alone, so that items that say the same may all seem to bring little.
    """

    method = 'deletion'
    is_quick = False

    def of(self, user: int, items: np.ndarray, own: Own) -> Carried:
        """As in `Explainer`; `TypeError` where the scorer folds nobody in."""
        n = len(own.items)
        contributions = np.zeros((n, len(items)))
        if n == 1:  # without it nothing is known of the user
            return self.carried(user, items, own, contributions)
        step = max(1, VARIANTS_BYTES // (4 * self.scorer.catalog.n_items))
        places = np.arange(n)
        (whole,) = self._folded_scores([own], items)
        for some in np.array_split(places, -(-n // step)):
            contributions[some] = whole - self._folded_scores([own.without(np.array([o])) for o in some], items)
        return self.carried(user, items, own, contributions)

    def _folded_scores(self, owns: list[Own], items: np.ndarray) -> np.ndarray:
        """Scores (len(owns), m) of new users who have what `owns` say."""
        scorer = self.scorer
        try:
            folded = scorer.fold_in(as_ratings(scorer.catalog, owns))
        except TypeError as e:
            raise TypeError(
                f'because cannot take items out of what {type(scorer.model or scorer).__name__} knows of a user: {e}'
            ) from e
        users: np.ndarray = np.repeat(np.arange(len(owns)), len(items))
        codes = folded.vocab['user'].encode(users)
        pairs = torch.from_numpy(codes), torch.from_numpy(np.tile(items, len(owns)))
        return folded.score(*pairs).double().cpu().numpy().reshape(len(owns), len(items))


class PartsTogether(Explainer):
    """Scores that are weighted sums of those of other scorers: the weighted sums of what these say.

    Where each part's scores are standardized over the catalogue, mean and deviation are taken as they are.
    """

    def __init__(
        self,
        scorer: Any,  # what combines
        weights: list[float],  # of its parts
        standardized: bool,  # are their scores standardized over the catalogue?
    ) -> None:
        super().__init__(scorer)
        self.weights = weights
        self.standardized = standardized
        self.explainers = [part.explainer() for part in scorer.parts()]
        self.method = ' and '.join(dict.fromkeys(o.method for o in self.explainers))
        self.is_quick = all(o.is_quick for o in self.explainers)

    def of(self, user: int, items: np.ndarray, own: Own) -> Carried:
        """As in `Explainer`."""
        total = np.zeros((len(own.items), len(items)))
        for weight, explainer in zip(self.weights, self.explainers):
            parts = explainer.of(user, items, own).contributions
            if self.standardized:
                scores = explainer.scorer.score_items(torch.tensor([user]))[0].float()
                weight = weight / max(float(scores.std()), 1e-9)
            total += weight * parts
        return self.carried(user, items, own, total)
