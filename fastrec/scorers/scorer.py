"""The contract of whatever scores pairs of users and items; its methods call the verbs."""
from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from pathlib import Path
from contextlib import contextmanager
from copy import copy
from warnings import warn

from .coldstart import new_catalog
from .recommend import recommend, recommend_basket, recommend_users
from .retrieval import ItemIndex, similar

__all__ = ['Scorer']

class Scorer:
    """Whatever scores pairs and whole catalogues; `recommend`, `evaluate` and `compare_models` take any of them.

    A subclass has `catalog` (a `Catalog`), `scale` ('rating', 'logit', 'probability' or 'rank': what a score means), `score(users,
    items)`: codes (n,), (n,) -> float tensor (n,), and `score_items(users)`: codes (B,) -> float tensor (B, n_items).
    """
    catalog, scale = None, 'rating'

    @property
    def vocab(self):
        if self.catalog is None: raise ValueError(f'{type(self).__name__} is not fitted yet: call .fit(dls) first')
        return self.catalog.vocab

    def informed(self, side:str='item')->np.ndarray:
        "bool (n,): of which users or items does the scorer know anything? By default those with training rows; models that read features know more. The others are cold."
        return self.catalog.known(side)

    def score(self, users, items):
        "Scores of pairs of codes: (n,), (n,) -> float tensor (n,)."
        raise NotImplementedError

    def score_rows(self, interactions, rows):
        "Scores of rows of `interactions` (int array (n,)) -> (n,): of their pairs, by scorers that read it in the context that each row has."
        return self.score(*(torch.from_numpy(o[rows].astype(np.int64)) for o in (interactions.users, interactions.items)))

    def score_items(self, users):
        "Scores of all items for codes of users: (B,) -> float tensor (B, n_items), which the caller may change."
        raise NotImplementedError

    def ranker(self):
        "A function of codes of users (B,), with its `device`, whose values (B, n_items) order each user's items as `score_items` does, at less cost, and are overwritten by the next call; None: there is none."

    @contextmanager
    def _inference(self):
        "What many calls of `score` and `score_items` in a row go through in, so that what they have in common is done once."
        yield

    @property
    def _shows_progress(self)->bool: return True

    def recommend(self,
        users=None, # one user id or a sequence of them (None with `basket=`)
        k:int=10, # items per user
        exclude_seen:bool=True, # leave out what the user has in the training rows
        candidates=None, # item ids, a `DataFrame.query` text or a function of `item_df` -> mask: recommend only from these
        cold:str='popular', # users without training rows get: 'popular' items (without scores), what the model's 'mean' user gets, or 'raise'
        seen=None, # table (user, item) of what to leave out, instead of the training rows
        basket=None, # item ids of an anonymous user, who has no row in the model
        to=None # file to write to, .parquet (needs pyarrow, the extra 'parquet') or .csv, in place of a table in memory
    )->pd.DataFrame | Path:
        """The `k` best items of each user: user, item, title (if known), score, rank, and `cold` if a user or item without training rows is among them.

        Users go through in chunks: what is held beside the result is at most `MEMORY_BUDGET` (512 MiB), and for scores that are one matrix product some 10 MiB. With `to` the rows of
        16,384 users at a time go to the file, which has its name once it is whole, always with `cold`; returned is its path.
        """
        if basket is not None:
            if users is not None: raise ValueError('give users or a basket, not both')
            if to is not None: raise ValueError('to= is for tables of many users: a basket has one list')
            return recommend_basket(self, basket, k, candidates)
        self.vocab
        if users is None: raise ValueError("recommend for whom? Give user ids (all: learn.vocab['user'].ids), or basket= with the items of somebody unknown")
        return recommend(self, users, k, exclude_seen, candidates, cold, seen, to)

    def fold_in(self,
        ratings, # of one user: a dict or Series item -> rating, or (of implicit feedback) a list of items; of several: a table user, item[, rating]
        noise:float=None # weight of the average user against a rating; see `fold_in`
    ):
        "A scorer for users who came after training, from what they rated, in milliseconds; the model stays as it is. `learn.fold_in({50: 5, 181: 4}).recommend()`"
        self.vocab  # says so if it is not fitted
        if not self.reads_history: raise TypeError(f'{type(self).__name__} has no rows for users to work out. fold_in is for learners, saved models, EASE and ItemKNN')
        res = copy(self)
        res.catalog, res._item_index = new_catalog(self, ratings), None
        return res

    def recommend_users(self,
        items, # one item (an id, a title, or a part of a title that matches one) or a list of them
        k:int=10, # users per item
        exclude_seen:bool=True, # leave out users who have the item in the training rows
        users=None, # user ids: answer only with these
        seen=None # table (user, item) of who has what, instead of the training rows
    )->pd.DataFrame:
        """The reverse question, whom to tell about an item: the `k` users with the best score for each: item, title (if known), user, score, rank.

        Only users with training rows are asked about: the others would all score the same. Users are compared by their score for the item, so where scores are ratings, those who rate everything high come first.
        """
        return recommend_users(self, items, k, exclude_seen, users, seen)

    _item_index = None

    def index(self,
        kind:str=None, # 'ivf', 'hnsw' (faiss, the extra 'ann') or 'exact'; None: 'ivf' from 20,000 items on if faiss is there
        recall:float=.95, # share of the exact `k` best that is to be found: the effort of each search is set to reach it
        k:int=100,
        **kwargs # of `ItemIndex`: n_queries, seed
    ):
        """Make an `ItemIndex`, which `recommend` and `similar_items` use from then on, and return it. For scores that are inner products of vectors, biases included; others raise a `TypeError`.

        After further training it is made anew when next asked for. `learn.index('exact')` goes back to finding all.
        """
        self._item_index = ItemIndex(self, kind, recall, k, **kwargs)
        return self._item_index

    def item_index(self):
        "The `ItemIndex` that `index` made, made again if the model has changed since; None if there is none."
        if self._item_index is not None and self._item_index.is_stale(self): self.index(**self._item_index.options)
        return self._item_index

    def history(self, user)->pd.DataFrame:
        "What a user has in the table, best rated first: user, item, title, rating, time, part (train, valid or test)."
        return self.catalog.history(user)

    def predict(self,
        user, # id, or a pair (user, item)
        item=None, # id
        cold:str='mean' # a user or item that the model knows nothing of is predicted as the average one ('mean', with a warning), or 'raise' a `KeyError`
    )->float:
        "Prediction for one pair, ids as in the table: `predict(user, item)` or `predict((user, item))`. A rating, or a probability where scores are logits (as in `get_preds`), else the score."
        if cold not in ('mean', 'raise'): raise ValueError(f"cold={cold!r}: 'mean' or 'raise'")
        if item is None:
            if not isinstance(user, (tuple, list)) or len(user) != 2: raise TypeError(f'predict(user, item) or predict((user, item)) takes one pair, got {user!r}. For a table of pairs: learn.get_preds(dl=learn.dls.test_dl(table))')
            user, item = user
        codes = [self.vocab[side].encode([id_]) for side, id_ in (('user', user), ('item', item))]
        for side, id_, code in zip(('user', 'item'), (user, item), codes):
            if self.informed(side)[code[0]]: continue
            if cold == 'raise': raise KeyError(f"{side} {id_!r} has no training row. cold='mean' predicts it as the average {side}" + ("; fold_in(ratings) takes in what a new user has rated" if side == 'user' else ''))
            warn(f'{side} {id_!r} has no training row: it is predicted as the average {side}', stacklevel=2)
        score = self.score(*map(torch.from_numpy, codes))
        return (score.sigmoid() if self.scale == 'logit' else score).item()

    def similar_items(self, item, k:int=10)->pd.DataFrame:
        "The `k` nearest items by cosine of their vectors; `item` is an id, a title, or a part of a title that matches one."
        return similar(self, item, k, 'item')

    def similar_users(self, user, k:int=10)->pd.DataFrame:
        "The `k` nearest users by cosine of their vectors."
        return similar(self, user, k, 'user')
