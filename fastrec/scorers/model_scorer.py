"""A model behind a catalogue: the `Scorer` that learners are and saved recommenders load as."""
from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from pathlib import Path
from contextlib import contextmanager
from copy import copy

from ..data.catalog import cold_mask
from ..models.embedding import EmbeddingTable
from .coldstart import Objective, fold_dot, fold_tables, new_catalog, noise_of
from .scorer import Scorer

__all__ = ['ModelScorer', 'fold_in', 'FoldedIn']

SAMPLE = 2**10  # known pairs that tell the average score
PAIRS = 2**18  # pairs scored at a time for a model that has no `score_items`


class ModelScorer(Scorer):
    "A model with the ids and titles that belong to its codes. It scores in eval mode and without gradients, on the device the model is on."
    def __init__(self,
        model, # `nn.Module` with `forward(users, items) -> scores`; `score_items(users)`, `vectors(side)` and `biases(side)` are used where it has them
        catalog, # `Catalog`
        scale:str='rating', # what a score means, as in `Scorer`
        item_features=None, # `ItemFeatures` without rows, which tell what `add_items` reads
        context:torch.Tensor=None # int64 (columns,): the situation that it is asked in, see `in_context`
    ):
        self.model, self.catalog, self.scale, self.context = model, catalog, scale, context
        if item_features is not None: self.item_features = item_features

    context = None

    def in_context(self, values:dict)->ModelScorer:
        """A scorer for one situation, for models that read `context=`: `learn.in_context(dict(device='phone', time=893286638)).recommend(196)`.

        What is not named is not given: of a column it is the mean of its levels, and without a time nobody is in a mood. So it is with the learner itself, but for rows of a table that has the
        columns (`evaluate`, `get_preds`), each of which is scored in the context that it has.
        """
        if not self.reads_context: raise TypeError(f'{type(self.model).__name__} reads no context. Make the loaders with context=[columns], and the learner by svdpp_learner or collab_learner')
        return ModelScorer(self.model, self.catalog, self.scale, self.item_features, torch.from_numpy(self.catalog.context_of.of(values)))

    @property
    def reads_context(self)->bool:
        "Has the model a third input, the context of an interaction?"
        return bool(getattr(self.model, 'context_sizes', ())) and self.catalog.context_of is not None

    def score_rows(self, interactions, rows):
        "Scores of rows of `interactions`, each in its context: int array (n,) -> (n,)."
        context = torch.from_numpy(interactions.context[rows]) if self.reads_context and interactions.context is not None else None
        return self.score(*(torch.from_numpy(o[rows].astype(np.int64)) for o in (interactions.users, interactions.items)), context)

    def _given(self, n, device, context=None): # further arguments of the model
        if context is None: context = None if self.context is None else self.context.expand(n, -1)
        return () if context is None else (context.to(device),)

    def __repr__(self): return f'{type(self).__name__}({type(self.model).__name__}, {self.scale}, {self.catalog})'

    @property
    def knows_cold(self)->bool:
        "Does the model handle rows without training data? A module of the user's own does not: cold items are not recommended from it."
        return any(isinstance(m, EmbeddingTable) for m in self.model.modules())

    def informed(self, side:str='item'):
        "bool (n,): users or items with training rows, or with features that the model reads."
        known = self.catalog.known(side)
        return known | self.model.has_features(side).cpu().numpy() if hasattr(self.model, 'has_features') else known

    item_features = None

    def add_items(self,
        items, # table of new items: a row each, with the columns that the features were made of
        vectors=None # for blocks of vectors that came by id: their source for the new ids, as in `ItemFeatures.from_df`
    ):
        """Further items, known by their features alone, which `recommend`, `predict` and `similar_items` then have; returns the scorer.

        The model learns nothing: the features go through what it has. Of a learner, loaders keep their rows, and the optimiser starts anew if training goes on.
        """
        if self.item_features is None or not hasattr(self.model, 'add_items'):
            raise TypeError(f'{type(self.model).__name__} knows items by their ratings alone, so it can say nothing about new ones. Models that read features can: content_learner, gated_learner, two_tower_learner')
        new = self.item_features.transform(items, vectors, self.catalog.names['item'] if self.catalog.names['item'] in items else None)
        catalog = self.catalog.with_items(new.ids, items)
        self.model.add_items(new.blocks)
        self._take_catalog(catalog)
        return self

    def _take_catalog(self, catalog): self.catalog = catalog

    @contextmanager
    def _inference(self):
        "-> the model's device; eval mode and no gradients inside."
        training = [m for m in self.model.modules() if m.training]
        self.model.eval()
        try:
            with torch.no_grad(): yield next(self.model.parameters()).device
        finally:
            for m in training: m.training = True

    def score(self, users, items, context=None):
        "Scores of pairs of codes: (n,), (n,)[, context (n, columns)] -> (n,)."
        with self._inference() as device:
            parts = zip(users.split(PAIRS), items.split(PAIRS), [None] * len(users) if context is None else context.split(PAIRS))
            scores = torch.cat([self.model(u.to(device), i.to(device), *self._given(len(u), device, c)) for u, i, c in parts] or [torch.zeros(0)])
        cold = None if self.knows_cold else cold_mask(self.catalog, users.cpu().numpy(), items.cpu().numpy())
        if cold is not None and cold.any(): scores[torch.from_numpy(cold).to(scores.device)] = self._average()
        return scores

    def score_items(self, users):
        "Scores of the whole catalogue for codes of users: (B,) -> (B, n_items)."
        if not hasattr(self.model, 'score_items'): # a model of the user's own
            items = torch.arange(self.catalog.n_items)
            return torch.stack([self.score(u.expand(len(items)), items) for u in users])
        with self._inference() as device: scores = self.model.score_items(users.to(device), *self._given(len(users), device))
        if not self.knows_cold:
            for side, at in (('user', ~self.catalog.known('user')[users.cpu().numpy()]), ('item', ~self.catalog.known('item'))):
                if at.any(): scores[torch.from_numpy(at).to(scores.device) if side == 'user' else (slice(None), torch.from_numpy(at).to(scores.device))] = self._average()
        return scores

    def _average(self)->float:
        "What pairs get whose user or item has no training row, where the model (a module of the user's own) would score them by untrained vectors: the mean rating, else the mean score of known pairs."
        if self.scale == 'rating' and self.catalog.mean_rating is not None: return self.catalog.mean_rating
        rng = np.random.default_rng(0)
        users, items = (torch.from_numpy(rng.choice(np.flatnonzero(self.catalog.known(side)), SAMPLE)) for side in ('user', 'item'))
        return float(self.score(users, items).mean())

    def ranker(self):
        "A function of users (B,) whose values (B, n_items) order each user's items as `score_items` does, at less cost, and are overwritten by the next call; None if the model has none (`ranking_items`)."
        home = lambda cls, name: next((c for c in cls.__mro__ if name in vars(c)), None)
        if home(type(self), 'score_items') is not ModelScorer or not hasattr(self.model, 'ranking_items') or home(type(self.model), 'ranking_items') is not home(type(self.model), 'score_items') or self.context is not None: return None
        with self._inference(): items = self.model.ranking_items().T
        scores = items.new_empty(0, items.shape[1])  # fresh memory for each call would cost as much as the product
        def rank(users):
            nonlocal scores
            if len(scores) < len(users): scores = items.new_empty(len(users), items.shape[1])
            with self._inference() as device: return torch.mm(self.model.ranking_users(users.to(device)), items, out=scores[:len(users)])
        rank.device = items.device
        return rank

    def vectors(self, side:str='item')->torch.Tensor:
        "Learned vectors, (n, d), of 'user' or 'item'."
        with self._inference(): return self._of_model('vectors')(side)

    def biases(self, side:str='item')->torch.Tensor:
        "Learned biases, (n,), of 'user' or 'item'."
        with self._inference(): return self._of_model('biases')(side)

    def _of_model(self, name):
        if not hasattr(self.model, name): raise AttributeError(f"{type(self.model).__name__} has no method {name}, which this needs" + ("" if name == 'explain' else ": give it one that takes 'user' or 'item' and returns a tensor with a row each"))
        return getattr(self.model, name)


class FoldedIn(ModelScorer):
    """New users of a trained model, made by `fold_in`: a `Scorer` whose users are they alone and whose items are the model's.

    What they rated is their history: `recommend` leaves it out, `history` shows it. It is a snapshot: later training of the model does not reach it.
    """
    def recommend(self, users=None, k:int=10, exclude_seen:bool=True, candidates=None, cold:str='popular', seen=None, basket=None, to=None)->pd.DataFrame | Path:
        "The `k` best items of each of `users`, by default of all new users; arguments as in `Scorer.recommend`."
        return super().recommend(list(self.vocab['user'].ids) if users is None and basket is None else users, k, exclude_seen, candidates, cold, seen, basket, to)

    def predict(self, user, item=None, cold:str='mean')->float:
        "Predicted score of one pair; `predict(item)` where there is a single new user."
        if item is None and not isinstance(user, (tuple, list)) and self.catalog.n_users == 1: user, item = self.vocab['user'].ids[0], user
        return super().predict(user, item, cold)


def fold_in(
    scorer, # a learner, or another `Scorer` with a model that has tables of users
    ratings, # of one user: a dict or Series item -> rating, or (where what counts is who chose what) a list of items; of several: a table user, item[, rating]
    noise:float=None # weight of the prior against a rating: the variance of ratings around their scores; None: half of what it is in the training rows, and 0.5 for labels and choices
)->Scorer:
    """A `Scorer` for users who are not in the model, from what they rated; neither the model nor its loaders change. Items by id, or by a title that only one has.

    A new user's row x (bias and vector) is the most probable one given the ratings: argmin_x  sum_j loss(y_j, s_j(x)) / noise + (x - m)' C^-1 (x - m) / 2, with m and C the mean and covariance of the known
    users' rows: without ratings the average user, with many what training would have found. loss: (y - s)^2 / 2 for ratings, cross-entropy for what is liked; for implicit feedback with logits cross-entropy
    against the whole catalogue, which counts as the sampled negatives do; where scores only rank, softmax over the catalogue (see `SoftmaxLoss`).

    - A score that is a dot product plus biases (`DotBias`, `SVDpp`, `Content`, ...: found out by comparing scores): ridge regression on the item vectors, in closed form; where there is a `y_range` or a
      cross-entropy, a few Newton steps, each of which is one. The result is a `DotBias`. (Of `SVDpp` the whole vectors
      of known users, sums over histories included, are the prior: that is more accurate than the sum over a short history.)
    - Other models with tables of users: the method of Gauss and Newton on the new rows, everything else fixed.
    - Scorers that read histories (`EASE`, `ItemKNN`) take the new user's.

    In place of a fixed ridge the prior is estimated, since a ridge has to be chosen: half the noise makes up for vectors that training has shrunk (benchmarks/fold_in.py compares).
    A new user's threshold of what is liked is the mean of the ratings given and of five times the average threshold.
    """
    scorer.vocab  # says so if it is not fitted
    catalog = new_catalog(scorer, ratings)
    if not hasattr(scorer, 'model'):
        if not getattr(scorer, 'reads_history', False) or any(isinstance(o, Scorer) for o in vars(scorer).values()): raise TypeError(f'{type(scorer).__name__} has no rows for users to work out. fold_in is for learners, saved models, EASE and ItemKNN')
        res = copy(scorer)
        res.catalog, res._item_index = catalog, None
        return res
    if noise is not None and not noise > 0: raise ValueError(f'noise={noise}: a variance above 0')
    objective = Objective(scorer, noise_of(scorer) if noise is None else noise)
    with scorer._inference(): model = fold_dot(scorer, catalog, objective) or fold_tables(scorer, catalog, objective)
    return FoldedIn(model.eval(), catalog, scorer.scale)
