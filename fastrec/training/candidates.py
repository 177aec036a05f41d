"""What `quick_compare` tries: a table of models for each kind of loaders, to which others are easily added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np

from ..scorers.baselines import Baseline, BiasOnly, GlobalMean, Popularity
from ..scorers.factorization import ALS, IALS
from ..scorers.linear import EASE
from ..scorers.neighbors import ItemKNN, UserKNN
from ..scorers.scorer import Scorer
from .builders import (
    collab_learner,
    content_learner,
    gated_learner,
    mlp_learner,
    neumf_learner,
    svdpp_learner,
    two_tower_learner,
)
from .dataloaders import RecDataLoaders
from .learner import RecLearner
from .recipes import Recipe, recipe_of

__all__ = ['Candidate']

STEPS = 40  # of an epoch of SVD++ over ratings, whose sums touch every row at every step
FLOPS = 1e10  # operations a second that a closed form is taken to do, for a rough guess of how long it takes
WIDTH = 64  # of the vectors of alternating least squares
PASSES = 15  # of them
PAIRS = 3e7  # pairs of rows a second, the same, of products of sparse matrices


@dataclass(frozen=True)
class Candidate:
    """A model to be tried: who makes it, from which loaders, what it reads, and how it is trained.

    `Candidate('wide', collab_learner, dict(n_factors=200))`. A function that returns a trained learner, or a fitted
    baseline, is taken as it is. `TypeError` for what makes nothing.
    """

    name: str  # what its row is called
    make: Callable  # a builder, `make(dls, **options)`, or the class of a baseline, `make(**options).fit(dls)`
    options: Mapping[str, Any] = field(default_factory=dict)  # arguments
    # arguments of `dls.remade` for the loaders that it needs, or a function of the loaders that returns them
    loaders: Mapping[str, Any] | Callable[[RecDataLoaders], Mapping[str, Any]] = field(default_factory=dict)
    reads: tuple[str, ...] = ()  # sides whose features it is given: 'item', 'user'; it is tried where there are any
    needs: tuple[str, ...] = ()  # of these those without which it cannot be made
    reads_context: bool = False  # may loaders with `context=` train it?
    recipe: Recipe | None = None  # epochs and rate; None: the builder's own (`recipe_of`)
    guess: Callable[[RecDataLoaders], float] | None = None  # seconds that fitting takes, roughly, where nothing ends it

    def __post_init__(self) -> None:
        make: Any = self.make
        options = dict(self.options)
        while isinstance(make, partial):
            make, options = make.func, {**make.keywords, **options}
        if not callable(make):
            raise TypeError(
                f'{self.name}: {make!r} makes no model: give a builder or the class of a baseline, and its arguments: '
                "Candidate('EASE', EASE, dict(l2=200))"
            )
        object.__setattr__(self, 'make', make)  # which frozen dataclasses allow nowhere else
        object.__setattr__(self, 'options', options)

    @property
    def maker(self) -> str:
        """The name of the builder or baseline."""
        return self.make.__name__ if isinstance(self.make, (type, FunctionType)) else type(self.make).__name__

    @property
    def is_baseline(self) -> bool:
        """Is it fitted without a training loop?"""
        return isinstance(self.make, type) and issubclass(self.make, Baseline)

    def suits(
        self,
        dls: RecDataLoaders,  # loaders of the data
        sides: tuple[str, ...],  # whose features there are: 'user', 'item'
    ) -> bool:
        """Can it be made for these loaders, with features of these sides?"""
        if self.reads and not set(self.reads) & set(sides):
            return False
        if not set(self.needs) <= set(sides):
            return False
        return self.is_baseline or self.reads_context or not dls.has_context

    def loaders_of(
        self,
        dls: RecDataLoaders,  # loaders of the data
    ) -> dict[str, Any]:
        """Arguments of `dls.remade` that make the loaders it needs: {} where these are such."""
        wanted = self.loaders(dls) if callable(self.loaders) else self.loaders
        res = dict(wanted)
        if 'n_neg' in res and res['n_neg'] == _n_neg(dls):
            del res['n_neg']
        if res.get('bs') == dls.train.bs:
            del res['bs']
        return res

    def made(
        self,
        dls: RecDataLoaders,  # loaders of the data
        features: Mapping[str, Any],  # side -> `UserFeatures` or `ItemFeatures`, or None
    ) -> Scorer:
        """A fitted baseline, or a learner that is not trained yet; `features` are by side."""
        if self.is_baseline:
            return self.make(**self.options).fit(dls)
        return self.make(dls.remade(**self.loaders_of(dls)), **self.options, **self._given(features))

    def recipe_for(
        self,
        learn: RecLearner,  # made by this candidate, not yet trained
    ) -> Recipe:
        """Epochs and rate for the learner."""
        return self.recipe or recipe_of(self.make, learn.dls)

    def code(
        self,
        dls: RecDataLoaders,  # loaders of the data
        features: Mapping[str, Any],  # side -> `UserFeatures` or `ItemFeatures`, or None
        recipe: Recipe | None,  # of a learner that was not trained by who made it
        seed: int = 0,  # of its training
        name: str = 'learn',  # of the variable
    ) -> str:
        """Lines that make it and train it, given `dls`, `item_features` and `user_features`."""
        options = [f'{key}={value!r}' for key, value in self.options.items()]
        if self.is_baseline:
            return f'{name} = {self.maker}({", ".join(options)}).fit(dls)'
        remade = ', '.join(f'{key}={value!r}' for key, value in self.loaders_of(dls).items())
        loaders = f'dls.remade({remade})' if remade else 'dls'
        options += [f'{key}={key}' for key in self._given(features)]
        lines = [f'torch.manual_seed({seed})', f'{name} = {self.maker}({", ".join([loaders, *options])})']
        if recipe is not None:
            lines.append(f'{name}.fit_one_cycle({recipe.n_epoch}, {recipe.lr:g})')
        return '\n'.join(lines)

    def _given(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """The features that it reads, as arguments."""
        return {f'{side}_features': features[side] for side in self.reads if side in features}


def candidates_for(dls: RecDataLoaders) -> tuple[Candidate, ...]:
    """What may be tried with these loaders, in the order of what it costs."""
    return CANDIDATES[dls.target]


def _n_neg(dls: RecDataLoaders) -> int | None:
    """As in `from_df`; of loaders that have drawn negatives their number."""
    if dls.objective == 'catalogue':
        return None
    return 0 if dls.objective == 'in_batch' else dls.train.n_neg


# --- what they need


def _few_steps(dls: RecDataLoaders) -> dict[str, int]:
    """A power of two, from 64 to 2048, that leaves about 40 steps an epoch.

    Steps of 2048 rows are right for ML-100K and too few for less: on 40 users of ml-latest-small (7,772 rows) valid
    RMSE is 0.819 at 128 and 0.837 at 2048, on 5,000 rows of it 0.994 and 1.039. Steps of 16 rows take eight times as
    long, and give 0.823.
    """
    exponent = np.round(np.log2(max(1, len(dls.train.dataset)) / STEPS))
    return dict(bs=int(2 ** np.clip(exponent, 6, 11)))


def _at_least_64(dls: RecDataLoaders) -> dict[str, int]:
    """The same batches, in small tables larger ones: an epoch of 16 rows a step takes four times as long."""
    return dict(bs=max(64, dls.train.bs))


def _inverse(dls: RecDataLoaders) -> float:
    """Seconds of a Gram matrix of items and its inverse."""
    return dls.n_items**3 / FLOPS + _pairs_of_items(dls)


def _pairs_of_items(dls: RecDataLoaders) -> float:
    """Seconds of counting the common users of all items: pairs of items that each user has."""
    return _pairs(dls, 'user')


def _pairs_of_users(dls: RecDataLoaders) -> float:
    """Seconds of counting the common items of all users, once to judge on valid rows and once beside the others."""
    return 2 * _pairs(dls, 'item')


def _least_squares(dls: RecDataLoaders) -> float:
    """Seconds of alternating least squares: an outer product of vectors for each row, a system for each of a side."""
    rows = float(dls.catalog.counts['user'].sum())
    systems = dls.n_users + dls.n_items
    return PASSES * (2 * rows * WIDTH**2 + systems * WIDTH**3) / FLOPS


def _pairs(dls: RecDataLoaders, side: str) -> float:
    """Seconds of going through the pairs of rows that those of a side have."""
    return float(np.square(dls.catalog.counts[side].astype(np.float64)).sum()) / PAIRS


# --- the table

ITEM = ('item',)
BOTH = ('item', 'user')
OF_RATINGS = (
    Candidate('global mean', GlobalMean),
    Candidate('biases', BiasOnly),
    Candidate('item neighbors', ItemKNN, dict(target='rating'), guess=_pairs_of_items),
    Candidate('user neighbors', UserKNN, dict(target='rating'), guess=_pairs_of_users),
    Candidate('ALS', ALS, guess=_least_squares),
    Candidate('dot product', collab_learner, loaders=_at_least_64, reads_context=True),
    Candidate('MLP', mlp_learner, loaders=_at_least_64),
    Candidate('SVD++', svdpp_learner, loaders=_few_steps, reads_context=True),
    Candidate('content', content_learner, loaders=_at_least_64, reads=BOTH, needs=ITEM),
    Candidate('gated', gated_learner, loaders=_at_least_64, reads=ITEM, needs=ITEM),
    Candidate('SVD++ with features', svdpp_learner, loaders=_few_steps, reads=BOTH, reads_context=True),
    Candidate('SVD++, rows in', svdpp_learner, dict(leave_one_out=False), _few_steps, reads_context=True),
)
OF_LIKES = (
    Candidate('popularity', Popularity),
    Candidate('biases', BiasOnly),
    Candidate('item neighbors', ItemKNN, dict(target='rating'), guess=_pairs_of_items),
    Candidate('ALS', ALS, guess=_least_squares),
    Candidate('dot product', collab_learner, loaders=_at_least_64, reads_context=True),
    Candidate('MLP', mlp_learner, loaders=_at_least_64),
    Candidate('SVD++', svdpp_learner, loaders=_few_steps, reads_context=True),
    Candidate('content', content_learner, loaders=_at_least_64, reads=BOTH, needs=ITEM),
    Candidate('gated', gated_learner, loaders=_at_least_64, reads=ITEM, needs=ITEM),
    Candidate('SVD++ with features', svdpp_learner, loaders=_few_steps, reads=BOTH, reads_context=True),
)
CATALOGUE = dict(n_neg=None)
OF_CLICKS = (
    Candidate('popularity', Popularity),
    Candidate('item neighbors', ItemKNN, guess=_pairs_of_items),
    Candidate('item neighbors, not shrunken', ItemKNN, dict(shrink=0), guess=_pairs_of_items),
    Candidate('user neighbors', UserKNN, dict(target='implicit'), guess=_pairs_of_users),
    Candidate('EASE', EASE, guess=_inverse),
    Candidate('iALS', IALS, guess=_least_squares),
    Candidate('dot product', collab_learner, dict(n_factors=64), CATALOGUE),
    Candidate('SVD++', svdpp_learner, dict(n_factors=128), CATALOGUE),
    Candidate('two towers', two_tower_learner, loaders=dict(n_neg=0)),
    Candidate('NeuMF', neumf_learner, loaders=dict(n_neg=4)),
    Candidate('two towers with features', two_tower_learner, loaders=dict(n_neg=0), reads=BOTH),
    Candidate('gated', gated_learner, loaders=CATALOGUE, reads=ITEM, needs=ITEM),
    Candidate('SVD++ with features', svdpp_learner, dict(n_factors=128), CATALOGUE, reads=BOTH),
)
# what loaders are made for -> what is tried
CANDIDATES: Mapping[str, tuple[Candidate, ...]] = dict(rating=OF_RATINGS, liked=OF_LIKES, implicit=OF_CLICKS)
