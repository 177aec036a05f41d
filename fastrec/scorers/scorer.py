"""The contract of whatever scores pairs of users and items, with a default for everything that may differ.

Its methods call the verbs (`recommend`, `retrieval`, `coldstart`), which are functions of anything that scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from numbers import Number
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from ..data.catalog import Catalog, distinct
from ..data.columns import is_table
from ..data.interactions import Interactions, Vocab
from ..keywords import check_arguments
from ..models.base import as_rec_model
from ..notices import warn_user
from .because import because, check_explain, sentences
from .carried import Deletion, Explainer
from .coldstart import new_users
from .recommend import basket_cosines, pairs_of, recommend, recommend_basket, recommend_users, require_numbers
from .retrieval import ItemIndex, nearest, similar

__all__ = ['Scorer']


class Scorer:
    """Whatever scores pairs and whole catalogues; `recommend`, `evaluate` and `compare_models` take any of them.

    A subclass has `catalog`, `scale`, `score` and `score_items`. Everything else has a default here.
    """

    catalog: Catalog = None  # type: ignore[assignment]  # who and what there is; None until fitted: `require_fitted`
    scale: str = 'rating'  # what a score means: 'rating', 'logit', 'probability', or 'rank' (only the order counts)
    model: torch.nn.Module | None = None  # the module behind it, if there is one
    knows_cold: bool = True  # do scores of those without training rows mean something?
    reads_history: bool = False  # are users scored from what they have, which is training data?
    reads_context: bool = False  # is a pair scored in a situation (see `ModelScorer.in_context`)?
    shows_progress: bool = True  # may its verbs show a bar?
    n_negatives: int = 4  # negatives that each positive was trained with
    loss_func: Any = None  # the loss it was trained with; None: it has no training loop
    opt_func: Any = None  # what made its optimizer
    is_folded_in: bool = False  # are its users new ones alone, whom `fold_in` was told of?
    fits: Sequence[dict] = ()  # what was asked of each fit and what came out
    taken_over: Sequence[Catalog] = ()  # catalogs of the models that it has vectors from (`load_vectors`)
    _item_index: ItemIndex | None = None
    _way_to_make_again: ClassVar[str] = 'make it again'
    _made_over: tuple | None = None  # the catalogs of its parts when it was made of them; None: of one that was loaded
    not_saved: ClassVar[tuple] = ('_item_index', '_made_over')  # attributes that no saved recommender holds

    # --- what a subclass gives

    def score(
        self,
        users: torch.Tensor,  # codes of users, int64 (n,)
        items: torch.Tensor,  # codes of items, int64 (n,)
    ) -> torch.Tensor:
        """Scores of pairs of codes: (n,), (n,) -> float tensor (n,)."""
        raise NotImplementedError(f'{type(self).__name__} has no score(users, items)')

    def score_items(
        self,
        users: torch.Tensor,  # codes of users, int64 (B,)
    ) -> torch.Tensor:
        """Scores of all items for codes of users: (B,) -> float tensor (B, n_items), which the caller may change."""
        raise NotImplementedError(f'{type(self).__name__} has no score_items(users)')

    # --- what it may give

    def score_rows(
        self,
        interactions: Interactions,  # users, items, times and context of rows
        rows: np.ndarray,  # places of the rows in it, int (n,)
    ) -> torch.Tensor:
        """Scores of rows of `interactions`, int (n,) -> (n,): of their pairs, by scorers that read it in context."""
        users, items = (torch.from_numpy(o[rows].astype(np.int64)) for o in (interactions.users, interactions.items))
        return self.score(users, items)

    def knows(
        self,
        side: str = 'item',  # 'user' or 'item'
    ) -> np.ndarray:
        """bool (n,): of which users or items does the scorer know anything? The others are cold.

        By default those with training rows; models that read features know more.
        """
        return self.catalog.known(side)

    def has_features(
        self,
        side: str = 'item',  # 'user' or 'item'
    ) -> np.ndarray:
        """bool (n,): of which users or items does it read features, which say what they are without training rows?

        By default those of which one of its parts does.
        """
        of_parts = [part.has_features(side) for part in self.parts()]
        return np.logical_or.reduce([np.zeros(len(self.catalog.vocab[side]), bool), *of_parts])

    def ranker(self) -> Callable | None:
        """A cheaper way to rank than `score_items`; None: there is none.

        A function of codes of users (B,), with its `device`, whose values (B, n_items) order each user's items as
        `score_items` does and are overwritten by the next call.
        """
        return None

    def vectors(
        self,
        side: str = 'item',  # 'user' or 'item'
    ) -> torch.Tensor:
        """Vectors (n, d) of 'user' or 'item'; `TypeError` where there are none."""
        raise TypeError(
            f'{type(self).__name__} has no vectors of {side}s, which tell what is near to what: '
            'take a learner, EASE or ItemKNN'
        )

    def biases(
        self,
        side: str = 'item',  # 'user' or 'item'
    ) -> torch.Tensor | None:
        """Biases (n,) of 'user' or 'item'; None: there are none."""
        return None

    def neighbors(
        self,
        codes: np.ndarray,  # int (B,): of whom the neighbors are asked
        k: int,  # how many at most
        side: str = 'item',  # or 'user'
    ) -> tuple[np.ndarray, np.ndarray]:
        """What `similar_items` and `similar_users` show: scores and codes (B, k) of the nearest, best first.

        -inf where there are fewer. By default cosines of `vectors`; what has worked out similarities answers with them.
        """
        return nearest(self, codes, k, side)

    def basket_scores(
        self,
        codes: np.ndarray,  # codes of the items that somebody has, int (n,)
    ) -> torch.Tensor:
        """Scores (n_items,) for somebody unknown with the items of codes (n,): what a basket is answered by.

        -inf where nothing says anything. By default the mean cosine with the vectors of the basket, see
        `recommend_basket`; those who score histories take the basket for one.
        """
        return basket_cosines(self, codes)

    def user_vectors(
        self,
        users: torch.Tensor,  # codes of users, int64 (B,)
    ) -> torch.Tensor:
        """What vectors of items are multiplied with for codes of users: (B,) -> (B, d)."""
        vectors = self.vectors('user')
        return vectors[users.to(vectors.device)]

    def trained_tensors(self) -> list[torch.Tensor]:
        """Tensors that change when it is trained further: what an index is made of."""
        return [self.vectors(side) for side in ('item', 'user')]

    def explainer(self) -> Explainer:
        """What tells how a user's own items carried scores (`because`); by default by taking them out one by one."""
        return Deletion(self)

    def parts(self) -> list[Scorer]:
        """The scorers that it is made of."""
        return []

    def sources(self) -> list[Catalog]:
        """The catalogs whose training rows it has learned from: its own, those of its parts, of what it took over."""
        own = [] if self.catalog is None else [self.catalog]
        of_parts = [source for part in self.parts() for source in part.sources()]
        return distinct([*own, *of_parts, *self.taken_over])

    def config(self) -> dict[str, Any]:
        """Settings by name, which a model card shows: those of the model, by default none where there is no model.

        `TypeError` if the model does not say.
        """
        return {} if self.model is None else as_rec_model(self.model).config()

    @contextmanager
    def inference(self) -> Iterator[None]:
        """What many calls of `score` and `score_items` in a row go through in: what they share is done once."""
        yield

    # --- fitted?

    @property
    def is_trained(self) -> bool:
        """Has it learned anything? False of a learner that has the weights of its random start, and of what holds one.

        `require_trained` refuses it.
        """
        return all(part.is_trained for part in self.parts())

    def require_fitted(self) -> Catalog:
        """The catalog; `ValueError` before `fit`."""
        if self.catalog is None:
            raise ValueError(f'{type(self).__name__} is not fitted yet: call .fit(dls) first')
        self.require_current()
        return self.catalog

    def require_trained(self) -> Catalog:
        """The catalog; `ValueError` before `fit`, and of a learner that has the weights of its random start.

        What answers and what is judged goes through it: figures and lists of a random start mean nothing.
        """
        catalog = self.require_fitted()
        if not self.is_trained:
            raise ValueError(
                f'{type(self.model or self).__name__} was never trained: what it says would be that of a random start. '
                'Train it first, e.g. learn.fit_one_cycle(5, 5e-3). (A model that got its weights elsewhere counts as '
                'trained: rec_learner(dls, model))'
            )
        return catalog

    def require_current(self) -> None:
        """`ValueError` where a part has other rows or items than when this was made of it, as after `extend`."""
        if self._made_over is None:
            return
        for part, before in zip(self.parts(), self._made_over):
            if part.catalog is not before:
                raise ValueError(
                    f'{type(self).__name__} was made of a {type(part).__name__} that has taken in items or rows since '
                    f'(extend, add_items), or has other loaders: {self._way_to_make_again}'
                )

    def _remember_parts(self) -> None:
        """Keep what the parts know now, for `require_current`."""
        self._made_over = tuple(part.catalog for part in self.parts())

    @property
    def vocab(self) -> dict[str, Vocab]:
        """{'user': Vocab, 'item': Vocab}."""
        return self.require_fitted().vocab

    # --- the verbs

    @check_arguments
    def recommend(
        self,
        users: Any = None,  # one user id or a sequence of them (None with `basket=`; after `fold_in`: all)
        k: int = 10,  # items per user
        exclude_seen: bool = True,  # leave out what the user has in the training rows
        # only these items: ids or titles, a condition (`year > 1990`), or a function of `item_df` -> mask
        candidates: Any = None,
        cold: str = 'popular',  # without training rows: 'popular' items, what the 'mean' user gets, or 'raise'
        seen: pd.DataFrame | None = None,  # table (user, item) of what to leave out, instead of the training rows
        basket: Any = None,  # items (ids or titles) of an anonymous user, who has no row in the model
        to: str | Path | None = None,  # file to write, .parquet (the extra 'parquet') or .csv; None: a table in memory
        columns: Any = None,  # columns of `item_df` to show beside the items, e.g. ['genres', 'year']
        explain: bool = False,  # with a column 'because', a sentence that names what of the user's led to it
    ) -> pd.DataFrame | Path:
        """The `k` best items of each user: user, item, title (if known), score, rank.

        Users and items are called as in the table of ratings ('userId', 'movieId'; see `Catalog.columns`). With a
        column `cold` if a user or item without training rows is among them; popular items come without scores.
        Users go through in chunks: what is held beside the result is at most `MEMORY_BUDGET` (512 MiB), and for scores
        that are one matrix product some 10 MiB. With `to` the rows of 16,384 users at a time go to the file, which has
        its name once it is whole, always with `cold`; returned is its path. `ValueError` without users or a basket, and
        with both.
        """
        self.require_trained()
        _check_ids(users, self.catalog.names['user'])
        check_explain(explain, basket, to)
        if basket is not None:
            if users is not None:
                raise ValueError('give users or a basket, not both')
            if to is not None:
                raise ValueError('to= is for tables of many users: a basket has one list')
            return recommend_basket(self, basket, k, candidates, columns)
        if users is None and self.is_folded_in:
            users = list(self.vocab['user'].ids)
        if users is None:
            raise ValueError(
                "recommend for whom? Give user ids (all: learn.vocab['user'].ids), "
                'or basket= with the items of somebody unknown'
            )
        res = recommend(self, users, k, exclude_seen, candidates, cold, seen, to, columns)
        return res.assign(because=sentences(self, res)) if explain and isinstance(res, pd.DataFrame) else res

    @check_arguments
    def because(
        self,
        user: Any,  # id; after `fold_in` of a single user it may be left out: `because(item)`
        item: Any = None,  # an id, a title, or a part of a title that matches one
        k: int | None = None,  # how many of the user's items, those first that carried the score; None: all
        history: Any = None,  # what the user has, as for `fold_in`, where it did not travel with the recommender
        by: str = 'items',  # the user's 'items'; the item's 'features' (words, genres, ...); 'sums' of SVD++ themselves
    ) -> pd.DataFrame:
        """Why a score is what it is: the user's own items that carried it, those that speak for it most first.

        `learn.because(196, 'Kolya (1996)')`. A row for each: item, title, rating (those there are), `contribution` on
        the scale of the score, and `share` of all that moved the score where it has gone (negative where one speaks
        against that). Base and contributions add up to the score: `.attrs` has 'score', 'base', 'method', 'user',
        'item' and 'title'.

        Methods: 'exact' where scores are sums over what the user has (`EASE`, `ItemKNN`, `BiasOnly`); 'influence' of
        models with a row for each user, a ridge regression on what the user has (see `Influence`), also of `SVDpp`,
        whose own sums are shown by `by='sums'`; 'deletion' elsewhere: what the score loses when the user is folded in
        without the item; 'none' where every user has the same score. Parts of an ensemble each in their way.

        `KeyError` for an unknown user or item, `ValueError` where it is not known what the user has.
        """
        self.require_trained()
        user, item = self._pair(user, item)
        return because(self, user, item, k, history, by)

    @check_arguments
    def recommend_users(
        self,
        items: Any,  # one item (an id, a title, or a part of a title that matches one) or a list of them
        k: int = 10,  # users per item
        exclude_seen: bool = True,  # leave out users who have the item in the training rows
        users: Any = None,  # user ids: answer only with these
        seen: pd.DataFrame | None = None,  # table (user, item) of who has what, instead of the training rows
    ) -> pd.DataFrame:
        """The reverse question, whom to tell about an item: item, title (if known), user, score, rank.

        The `k` users with the best score for each item. Only users with training rows are asked about: the others would
        all score the same. Users are compared by their score for the item, so where scores are ratings, those who rate
        everything high come first.
        """
        self.require_trained()
        return recommend_users(self, items, k, exclude_seen, users, seen)

    @check_arguments
    def predict(
        self,
        user: Any,  # id, or a pair (user, item)
        item: Any = None,  # an id, a title, or a part of a title that matches one
        cold: str = 'mean',  # of whom nothing is known: predicted as the average one ('mean'), or 'raise' a `KeyError`
        unknown: str = 'raise',  # ids that the training table did not have: 'raise' a `KeyError`, or 'mean' as below
    ) -> float:
        """Prediction for one pair: `predict(user, item)` or `predict((user, item))`.

        After `fold_in` of a single user also `predict(item)`.

        A rating, or a probability where scores are logits (as in `get_preds`), else the score. With a warning where
        user or item is predicted as the average one: those of the table without training rows as the model has it,
        those that it does not have (`unknown='mean'`) by the mean prediction over all users (or items) with training
        rows, of many a sample of 4,096. `ValueError` for a score that is not a number. `KeyError` where `cold` or
        `unknown` is 'raise'.
        """
        for name, value, choices in (('cold', cold, ('mean', 'raise')), ('unknown', unknown, ('raise', 'mean'))):
            if value not in choices:
                raise ValueError(f'{name}={value!r}: {choices[0]!r} or {choices[1]!r}')
        self.require_trained()
        user, item = self._pair(user, item)
        codes = []
        for side, query in (('user', user), ('item', item)):
            code = self.catalog.find(query, side, unknown='mark' if unknown == 'mean' else 'raise')
            codes.append(code)
            if code < 0:
                warn_user(f'{side} {query!r} was not in the table: it is predicted as the average {side}')
            elif not self.knows(side)[code]:
                if cold == 'raise':
                    more = '; fold_in(ratings) takes in what a new user has rated' if side == 'user' else ''
                    raise KeyError(
                        f"{side} {query!r} has no training row. cold='mean' predicts it as the average {side}{more}"
                    )
                warn_user(f'{side} {query!r} has no training row: it is predicted as the average {side}')
        score = self.score(*pairs_of(self.catalog, *codes))
        require_numbers(score)
        return (score.sigmoid() if self.scale == 'logit' else score).float().mean().item()

    def _pair(self, user: Any, item: Any) -> tuple[Any, Any]:
        """User and item of what `predict` was given; `TypeError` if it is not one pair."""
        self.require_fitted()
        if item is not None:
            return user, item
        is_pair = isinstance(user, (tuple, list))
        if self.is_folded_in and self.catalog.n_users == 1 and not is_pair:
            return self.vocab['user'].ids[0], user
        if not is_pair or len(user) != 2:
            given = repr(user) if isinstance(user, (str, Number, list, tuple)) else type(user).__name__
            raise TypeError(
                f'a user and an item, or the pair of both, are asked for, got {given}. '
                'For a table of pairs: learn.get_preds(dl=learn.dls.test_dl(table))'
            )
        return user[0], user[1]

    def history(
        self,
        user: Any,  # id of a user
    ) -> pd.DataFrame:
        """What a user has in the table, best rated first: user, item, title, rating, time, part of the split."""
        return self.require_fitted().history_of(user)

    @check_arguments
    def similar_items(
        self,
        item: Any,  # an id, a title, or a part of a title that matches one; or a list of those
        k: int = 10,  # items
        min_rows: int = 5,  # training rows that they have at least, unless the model reads features of them; 0: all
        columns: Any = None,  # columns of `item_df` to show beside the items, e.g. ['genres', 'year']
    ) -> pd.DataFrame:
        """The `k` nearest items: by cosine of their vectors, of `ItemKNN` and `EASE` by the weights they worked out.

        The query's id, the item's id, title, score, rank. The vector of an item with a few training rows is near to
        something by chance, so these are left out; with a warning where they are missed.
        """
        self.require_trained()
        return similar(self, item, k, 'item', min_rows, columns)

    @check_arguments
    def similar_users(
        self,
        user: Any,  # id, or a list of those
        k: int = 10,  # users
    ) -> pd.DataFrame:
        """The `k` nearest users by cosine of their vectors: the query's id, the user's id, score, rank."""
        self.require_trained()
        return similar(self, user, k, 'user')

    @check_arguments
    def fold_in(
        self,
        ratings: Any,  # of one user: {item: rating}, Series or list of items; of several: table user, item[, rating]
        noise: float | None = None,  # weight of the average user against a rating; see `fastrec.all.fold_in`
    ) -> Scorer:
        """A scorer for users who came after training, from what they rated; the model stays as it is.

        `learn.fold_in({50: 5, 181: 4}).recommend()`. Here, of scorers that read histories: the new user's is read.
        `TypeError` for scorers that have no rows for users to work out.
        """
        self.require_fitted()
        if not self.reads_history or self.parts():
            raise TypeError(
                f'{type(self).__name__} has no rows for users to work out. '
                'fold_in is for learners, saved models, ItemKNN, UserKNN, EASE, ALS and IALS'
            )
        res = copy(self)
        res.catalog, res._item_index = new_users(self, ratings), None
        res.is_folded_in = True
        return res

    @check_arguments
    def index(
        self,
        kind: str | None = None,  # 'ivf', 'hnsw' (faiss, the extra 'ann') or 'exact'; None: 'ivf' from 20,000 items on
        recall: float = 0.95,  # share of the exact `k` best that is to be found: sets the effort of each search
        k: int = 100,  # how many best ones that share is of
        n_queries: int = 256,  # users drawn at random whose lists are looked at for it
        seed: int = 0,  # of that draw
    ) -> ItemIndex:
        """Make an `ItemIndex`, which `recommend` and `similar_items` use from then on, and return it.

        For scores that are inner products of vectors, biases included; others raise a `TypeError`. After further
        training it is made anew when next asked for. `learn.index('exact')` goes back to finding all.
        """
        self._item_index = ItemIndex(self, kind, recall, k, n_queries, seed)
        return self._item_index

    def item_index(self) -> ItemIndex | None:
        """The `ItemIndex` that `index` made, made again if the model has changed since; None if there is none."""
        if self._item_index is not None and self._item_index.is_stale(self):
            self.index(**self._item_index.options)
        return self._item_index


def _check_ids(users: Any, column: str) -> None:
    """`TypeError` for a table or a dict of ratings in the place of user ids, which its names or keys would pass for."""
    if is_table(users):
        raise TypeError(f"users are ids, got a table: recommend(table['{column}'].unique())")
    if isinstance(users, Mapping) and any(isinstance(value, Number) for value in users.values()):
        raise TypeError(
            'users are ids, got a dict: for somebody new who rated these items, learn.fold_in({...}).recommend()'
        )


def require_scorer(
    scorer: Any,
    who: str,  # what scores with it, as it is called
) -> None:
    """`TypeError` unless it is a `Scorer`: for a table, loaders, a builder or a class, with the way out."""
    if isinstance(scorer, Scorer):
        return
    if isinstance(scorer, type) and issubclass(scorer, Scorer):
        given, way = f'the class {scorer.__name__}', f'{scorer.__name__}().fit(dls) makes one'
    elif isinstance(scorer, (list, tuple, dict)):
        given, way = type(scorer).__name__, 'of several there is compare_models'
    elif callable(scorer) and not isinstance(scorer, torch.nn.Module):
        name = getattr(scorer, '__name__', 'builder')
        given, way = f'the function {name}', f'learn = {name}(dls) makes a learner, learn.fit_one_cycle(5) trains it'
    else:
        given, way = type(scorer).__name__, 'collab_learner(dls) makes a learner of loaders, EASE().fit(dls) a baseline'
    raise TypeError(f'{who} takes a trained learner, a fitted baseline or another Scorer, got {given}: {way}')
