"""A model behind a catalogue: the `Scorer` that learners are and saved recommenders load as."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..data.catalog import Catalog, cold_mask
from ..data.columns import as_frame
from ..data.features import Features
from ..data.interactions import Interactions
from ..models.base import PAIRS, RecModel, as_rec_model, device_of
from ..models.view import evaluating, in_eval
from ..notices import warn_user
from .carried import Deletion, Explainer
from .coldstart import Objective, fold_dot, fold_tables, known_pairs, new_users, noise_of
from .given import training_data_in
from .influence import Influence
from .recommend import require_numbers
from .scorer import Scorer

__all__ = ['FoldedIn', 'ModelScorer', 'fold_in']

KNOWN_PAIRS = 2**10  # known pairs that tell the average score


class ModelScorer(Scorer):
    """A model with the ids and titles that belong to its codes.

    It scores in eval mode and without gradients, on the device the model is on. The model keeps the mode it is in: it
    is a view of it that scores (`models/view.py`), so that other threads may score, or train, at the same time.
    """

    model: nn.Module
    context: torch.Tensor | None = None
    item_features: Features | None = None

    def __init__(
        self,
        model: nn.Module,  # a `RecModel`, or any module with `forward(users, items) -> scores`
        catalog: Catalog,  # whose codes it scores
        scale: str = 'rating',  # what a score means, as in `Scorer`
        item_features: Features | None = None,  # `ItemFeatures` without rows: they tell what `add_items` reads
        context: torch.Tensor | None = None,  # int64 (columns,): the situation it is asked in, see `in_context`
    ) -> None:
        self.model, self.catalog, self.scale = model, catalog, scale
        self.item_features, self.context = item_features, context

    def __repr__(self) -> str:
        return f'{type(self).__name__}({type(self.model).__name__}, {self.scale}, {self.catalog})'

    @property
    def rec_model(self) -> RecModel:
        """The model, or what stands in front of it where it is a module that knows nothing of the contract.

        Inside `inference` it is in eval mode.
        """
        return as_rec_model(in_eval(self.model))

    # --- context

    @property
    def reads_context(self) -> bool:  # type: ignore[override]  # a plain attribute of most scorers
        """Has the model a third input, the context of an interaction?"""
        sizes = self.rec_model.context_sizes
        return (any(sizes) or self._reads_times) and self.catalog.context_of is not None

    @property
    def _reads_times(self) -> bool:
        model = self.rec_model
        return 0 in model.context_sizes and model.reads_times

    def in_context(
        self,
        values: dict,  # column of context -> its level, or the time
    ) -> ModelScorer:
        """A scorer for one situation, for models that read `context=`.

        `learn.in_context(dict(device='phone', time=893286638)).recommend(196)`. What is not named is not given: of a
        column it is the mean of its levels, and without a time no user's bias of the time is known. So it is with the
        learner itself, but for rows of a table that has the columns (`evaluate`, `get_preds`), each of which is scored
        in the context that it has. `KeyError` for columns and levels that are not known, and for a time where the model
        has no bias of it; `TypeError` where it reads no context at all.
        """
        self._require_times(values)
        if not self.reads_context:
            raise TypeError(
                f'{type(self.model).__name__} reads no context. Make the loaders with context=[columns], '
                'and the learner by svdpp_learner or collab_learner'
            )
        assert self.catalog.context_of is not None
        context = torch.from_numpy(self.catalog.context_of.of(values))
        res = ModelScorer(self.model, self.catalog, self.scale, self.item_features, context)
        res.taken_over = self.taken_over
        return res

    def _require_times(self, values: dict) -> None:
        """`KeyError` for a time that the model would leave out."""
        context_of = self.catalog.context_of
        if context_of is None or context_of.time_column is None or self._reads_times:
            return
        name = context_of.names[context_of.time_column]
        if name in values:
            raise KeyError(
                f'{name}: this {type(self.model).__name__} has no biases of the time. Those of svdpp_learner are made '
                'of the training rows and travel with save_recommender(..., history=True) alone; other models have '
                f'none. Leave out {name!r}'
            )

    def _context_of(self, n: int, device: torch.device, context: torch.Tensor | None = None) -> tuple:
        """The model's further argument for `n` pairs or users: a tuple of one, or of none."""
        if context is None and self.context is not None:
            context = self.context.expand(n, -1)
        return () if context is None else (context.to(device),)

    # --- what it knows

    @property
    def knows_cold(self) -> bool:  # type: ignore[override]
        """Does the model handle rows without training data?

        A module with plain embeddings does not: cold items are not recommended from it.
        """
        return self.rec_model.knows_cold

    def knows(self, side: str = 'item') -> np.ndarray:
        """bool (n,): users or items with training rows, or with features that the model reads."""
        return self.catalog.known(side) | self.has_features(side)

    def has_features(self, side: str = 'item') -> np.ndarray:
        """bool (n,): users or items with features that the model reads."""
        features = self.rec_model.has_features(side)
        return super().has_features(side) if features is None else features.cpu().numpy()

    def add_items(
        self,
        items: pd.DataFrame,  # table of new items: a row each, with the columns that the features were made of
        vectors: Any = None,  # of blocks of vectors that came by id: their source for the new ids
    ) -> ModelScorer:
        """Take in further items, known by their features alone; returns the scorer.

        `recommend`, `predict` and `similar_items` then have them. The model learns nothing: the features go through
        what it has. Of a learner, loaders keep their rows, and the optimizer starts anew if training goes on.
        """
        if self.item_features is None:
            RecModel.add_items(self.rec_model, {})  # says that it reads none
        assert self.item_features is not None
        id_name = self.catalog.names['item']
        items = as_frame(items, 'a DataFrame with a row per item')
        has_name = id_name in items.columns or items.index.name == id_name
        new = self.item_features.transform(items, vectors, id_name if has_name else None)
        catalog = self.catalog.with_items(new.ids, items)
        self.rec_model.add_items(new.blocks)
        self._take_catalog(catalog)
        return self

    def _take_catalog(self, catalog: Catalog) -> None:
        self.catalog = catalog

    # --- scores

    @contextmanager
    def inference(self) -> Iterator[torch.device]:
        """-> the model's device; inside, `rec_model` is in eval mode and there are no gradients."""
        with evaluating(self.model):
            yield device_of(self.model)

    def score(
        self,
        users: torch.Tensor,
        items: torch.Tensor,
        context: torch.Tensor | None = None,  # codes of the situation, int64 (n, columns); None: not given
    ) -> torch.Tensor:
        """Scores of pairs of codes: (n,), (n,)[, context (n, columns)] -> (n,)."""
        parts = []
        with self.inference() as device:
            model = in_eval(self.model)
            for at in range(0, len(users), PAIRS):
                part = slice(at, at + PAIRS)
                u, i = users[part].to(device), items[part].to(device)
                c = None if context is None else context[part]
                parts.append(model(u, i, *self._context_of(len(u), device, c)))
        scores = torch.cat(parts) if parts else torch.zeros(0)
        if not self.knows_cold:
            cold = torch.from_numpy(cold_mask(self.catalog, users.cpu().numpy(), items.cpu().numpy()))
            if cold.any():
                scores[cold.to(scores.device)] = self._average()
        return scores

    def score_items(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of the whole catalogue for codes of users: (B,) -> (B, n_items)."""
        if not self.rec_model.scores_catalogue:
            return self._score_pair_by_pair(users)
        with self.inference() as device:
            scores = self.rec_model.score_items(users.to(device), *self._context_of(len(users), device))
        if not self.knows_cold:
            cold_users = torch.from_numpy(~self.catalog.known('user')[users.cpu().numpy()]).to(scores.device)
            cold_items = torch.from_numpy(~self.catalog.known('item')).to(scores.device)
            if cold_users.any() or cold_items.any():
                scores[cold_users[:, None] | cold_items] = self._average()
        return scores

    def _score_pair_by_pair(self, users: torch.Tensor) -> torch.Tensor:
        items = torch.arange(self.catalog.n_items)
        rows = [self.score(user.expand(len(items)), items) for user in users.cpu()]
        return torch.stack(rows) if rows else torch.zeros(0, len(items))

    def score_rows(self, interactions: Interactions, rows: np.ndarray) -> torch.Tensor:
        """Scores of rows of `interactions`, each in its context: int (n,) -> (n,)."""
        if not self.reads_context or interactions.context is None:
            return super().score_rows(interactions, rows)
        users, items = (torch.from_numpy(o[rows].astype(np.int64)) for o in (interactions.users, interactions.items))
        return self.score(users, items, torch.from_numpy(interactions.context[rows]))

    def _average(self) -> float:
        """The score of pairs whose user or item has no training row, where the model has untrained vectors for them.

        The mean rating, else the mean score of known pairs.
        """
        if self.scale == 'rating' and self.catalog.mean_rating is not None:
            return self.catalog.mean_rating
        pairs = known_pairs(self.catalog, KNOWN_PAIRS, np.random.default_rng(0))
        return float(self.score(*pairs).mean())

    def ranker(self) -> Callable | None:
        """As in `Scorer`: one matrix product into one buffer, where the model has `ranking_items`."""
        if type(self).score_items is not ModelScorer.score_items or self.context is not None:
            return None
        with self.inference():
            items = self.rec_model.ranking_items()
        return None if items is None else Ranker(self, items.T)

    # --- what it has learned

    def vectors(self, side: str = 'item') -> torch.Tensor:
        """Learned vectors (n, d) of 'user' or 'item'; `TypeError` where the model has none."""
        with self.inference():
            res = self.rec_model.vectors(side)
        if res is None:
            raise TypeError(
                f"{type(self.model).__name__} has no method vectors, which this needs: give it one that takes 'user' "
                "or 'item' and returns a tensor with a row each"
            )
        return res

    def biases(self, side: str = 'item') -> torch.Tensor | None:
        """Learned biases (n,) of 'user' or 'item'; None: the model has none."""
        with self.inference():
            return self.rec_model.biases(side)

    def user_vectors(self, users: torch.Tensor) -> torch.Tensor:
        """As in `Scorer`, of the model: (B,) -> (B, d)."""
        with self.inference() as device:
            return self.rec_model.user_vectors(users.to(device))

    def trained_tensors(self) -> list[torch.Tensor]:
        """Parameters of the model, ready to be read."""
        with self.inference():
            return list(self.model.parameters())

    def fold_in(self, ratings: Any, noise: float | None = None) -> FoldedIn:
        """A scorer for users who came after training, from what they rated; see `fastrec.all.fold_in`.

        `TypeError` for a scorer in one situation: it is not known that new users rated in it. `ValueError` for a
        `noise` that is not above 0.
        """
        if self.context is not None:
            raise TypeError(
                'fold_in works without context, and this scorer is in one situation (in_context): it is not known that '
                'the ratings were given in it. Take the fold_in of the learner or recommender itself'
            )
        catalog = new_users(self, ratings)
        if noise is not None and not noise > 0:
            raise ValueError(f'noise={noise}: a variance above 0')
        for weight in self.trained_tensors():
            require_numbers(weight, 'weights of the model')
        objective = Objective(self, noise_of(self) if noise is None else noise)
        with self.inference():
            model, prior = fold_dot(self, catalog, objective) or fold_tables(self, catalog, objective)
        res = FoldedIn(model.eval(), catalog, self.scale)
        res.prior, res.noise = prior, objective.noise
        return res

    def prior_of_users(self) -> tuple[Any, float | None]:
        """Mean and precision of the known users' rows, and the noise, as `fold_in` has them.

        None: they are worked out of the rows there are.
        """
        return None, None

    def explainer(self) -> Explainer:
        """As in `Scorer`: by what each rating brings to the user's row, where the model has one (`Influence`)."""
        plain = self
        if self.context is not None:  # what the situation adds is no item's
            plain = ModelScorer(self.model, self.catalog, self.scale, self.item_features)
        try:
            res = Influence(plain)
            res.asked = self
            return res
        except TypeError:  # no rows of users that could be told from the rest: deletion tells what it lacks
            return Deletion(self)

    def without_history(self) -> nn.Module:
        """The model as it may be given away: the same scores, and no training rows in its `config()`.

        `ValueError` where it would hold them all the same.
        """
        model = self.rec_model.without_history()
        if self._reads_times and not as_rec_model(model).reads_times:
            warn_user(
                f'biases of the time, which {type(self.model).__name__} works out from the training rows, stay behind: '
                'loaded, it scores as without a time. They travel with save_recommender(..., history=True)'
            )
        try:
            config = as_rec_model(model).config()
        except TypeError:
            return model  # it cannot be saved at all, which is for others to say
        if held := training_data_in(config, self.catalog):
            name = type(model).__name__
            raise ValueError(
                f'config() of {name} holds {", ".join(held)}: who has what, which is training data and does not travel '
                f'unless asked. Give {name} a method without_history() that returns a model with the same scores and '
                'no such data (e.g. `DotBias.from_vectors(...)`), or save with history=True'
            )
        return model


class Ranker:
    """Products of users' rows with items (d, n_items), into one buffer: fresh memory would cost as much."""

    def __init__(self, scorer: ModelScorer, items: torch.Tensor) -> None:
        self.scorer, self.items, self.device = scorer, items, items.device
        self.buffer = items.new_empty(0, items.shape[1])

    def __call__(self, users: torch.Tensor) -> torch.Tensor:
        """(B,) -> (B, n_items), overwritten by the next call."""
        if len(self.buffer) < len(users):
            self.buffer = self.items.new_empty(len(users), self.items.shape[1])
        with self.scorer.inference() as device:
            rows = self.scorer.rec_model.ranking_users(users.to(device))
            return torch.mm(rows, self.items, out=self.buffer[: len(users)])


class FoldedIn(ModelScorer):
    """New users of a trained model, made by `fold_in`: its users are they alone, its items are the model's.

    What they rated is their history: `recommend` leaves it out, `history` shows it. It is a snapshot: later training of
    the model does not reach it.
    """

    is_folded_in = True
    prior: Any = None  # mean and precision of the rows of the users that training knew
    noise: float | None = None  # its weight against a rating

    def prior_of_users(self) -> tuple[Any, float | None]:
        """Those that the rows were worked out with."""
        return self.prior, self.noise

    def in_context(
        self,
        values: dict,  # column of context -> its level, or the time
    ) -> ModelScorer:
        """`TypeError`: what new users rated says nothing of situations."""
        raise TypeError(
            'what fold_in makes reads no context: it knows nothing of the situations that new users rated in. '
            'After `learn.extend(ratings)` and training, `learn.in_context(...)` scores them in one'
        )


def fold_in(
    scorer: Scorer,  # a learner, or another `Scorer` with a model that has tables of users
    ratings: Any,  # of one user: {item: rating}, Series or list of items; of several: table user, item[, rating]
    noise: float | None = None,  # weight of the prior against a rating: the variance of ratings around their scores
) -> Scorer:
    """A `Scorer` for users who are not in the model, from what they rated; neither the model nor its loaders change.

    Items by id, or by a title that only one has; lists where what counts is who chose what. `noise` is by default half
    of the variance in the training rows, and 0.5 for labels and choices.

    A new user's row x (bias and vector) is the most probable one given the ratings:

        argmin_x  sum_j loss(y_j, s_j(x)) / noise + (x - m)' C^-1 (x - m) / 2

    with m and C the mean and covariance of the known users' rows: without ratings the average user, with many what
    training would have found. loss: (y - s)^2 / 2 for ratings, cross-entropy for what is liked; for implicit feedback
    with logits cross-entropy against the whole catalogue, which counts as the sampled negatives do; where scores only
    rank, softmax over the catalogue (see `SoftmaxLoss`).

    - A score that is a dot product plus biases (`DotBias`, `SVDpp`, `Content`, ...: found out by comparing scores):
      ridge regression on the item vectors, in closed form; where there is a `y_range` or a cross-entropy, a few Newton
      steps, each of which is one. The result is a `DotBias`. (Of `SVDpp` the whole vectors of known users, sums over
      histories included, are the prior: that is more accurate than the sum over a short history.)
    - Other models with tables of users: the method of Gauss and Newton on the new rows, everything else fixed.
    - Scorers that read histories (`EASE`, `ItemKNN`) take the new user's.

    In place of a fixed ridge the prior is estimated, since a ridge has to be chosen: half the noise makes up for
    vectors that training has shrunk (benchmarks/fold_in.py compares). A new user's threshold of what is liked is the
    mean of the ratings given and of five times the average threshold.
    """
    return scorer.fold_in(ratings, noise)
