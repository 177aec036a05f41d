"""Who and what there is: ids and titles, item metadata, training counts, and what each user has seen.

Everything that turns scores into something a person reads (recommending, evaluation, interpretation) asks here."""
from __future__ import annotations

import hashlib
import numpy as np
import pandas as pd
from functools import cached_property
from copy import copy
from scipy.sparse import csr_matrix
from warnings import warn

from .columns import CHUNK, KNOWN_NAMES, first_few, normal_name
from .interactions import Interactions, Vocab
from .splits import Split

__all__ = ['Catalog', 'standing', 'cold_mask']

_TITLES = ('title', 'name', 'item_name', 'product_name', 'movie_title')


def _align(df, vocab, id_name, side):
    "Rows of metadata `df` in the order of `vocab`; ids without a row get missing values and are counted."
    if df is None: return None
    norm = {normal_name(c): c for c in reversed(df.columns)}
    columns = [id_name] if id_name in df.columns else [norm[o] for o in KNOWN_NAMES[side] if o in norm]
    if columns: df = df.set_index(columns[0])
    elif df.index.name is None: raise ValueError(f'{side}_df has no id column: expected {id_name!r} (as in the ratings) or {side!r}, got {first_few(df.columns, 20)}')
    if not df.index.is_unique:
        raise ValueError(f"{side}_df has several rows for the same {side}: {first_few(df.index[df.index.duplicated()].unique())}. Keep one each: `{side}_df.drop_duplicates({columns[0] if columns else id_name!r})`")
    rows = pd.Series(vocab.encode(df.index.to_numpy(), unknown='mark'))
    if (rows < 0).all() and len(df): raise ValueError(f'no {side} of {side}_df is in the ratings: ids there look like {first_few(df.index, 3)}, in the ratings like {first_few(vocab.ids, 3)}')
    if missing := len(vocab) - int((rows >= 0).sum()):
        warn(f'{missing:,} of {len(vocab):,} {side}s have no row in {side}_df; their metadata is missing', stacklevel=7)
    known = df[(rows >= 0).to_numpy()]
    known.index = rows[rows >= 0].to_numpy()
    res = known.reindex(np.arange(len(vocab)))
    res.insert(0, id_name, vocab.ids.to_numpy())
    return res


class Catalog:
    """Users and items on record.

    `vocab` `{'user': Vocab, 'item': Vocab}`; `item_df, user_df` metadata in the order of the codes (or None); `counts` training rows per
    user and item (of implicit feedback: positives); `interactions` and `split` the history, None once it has been dropped (`without_history`).
    With `liked`, `thresholds` (n_users,) say from which rating on a user likes an item: the mean of the user's training rows (of users without any: of all training rows).
    """
    def __init__(self, interactions:Interactions, split:Split, item_df=None, user_df=None, title_name:str=None, liked:bool=False):
        self.interactions, self.split = interactions, split
        self._describe(interactions.vocab, interactions.names, item_df, user_df, title_name)
        self.context_of = interactions.context_of
        positive = interactions.positive(split.train)
        self.counts = {side: interactions.counts(side, positive) for side in ('user', 'item')}
        self.mean_rating = None if interactions.ratings is None else float(sum(interactions.ratings[rows].sum(dtype=np.float64) for rows in np.array_split(split.train, -(-len(split.train) // CHUNK))) / len(split.train))
        self.thresholds = self._thresholds() if liked else None

    def _describe(self, vocab, names, item_df, user_df, title_name):
        self.vocab, self.names = vocab, names
        self.item_df = _align(item_df, vocab['item'], names['item'], 'item')
        self.user_df = _align(user_df, vocab['user'], names['user'], 'user')
        if title_name is not None and (item_df is None or title_name not in item_df.columns): raise ValueError(f'no column {title_name!r} (title_name) in item_df')
        self.title_name = title_name or next((c for o in _TITLES for c in (() if item_df is None else item_df.columns) if str(c).lower() == o), None)

    def _thresholds(self):
        inter, rows = self.interactions, self.split.train
        sums = np.bincount(inter.users[rows], inter.ratings[rows].astype(np.float64), self.n_users)
        return np.where(self.known('user'), sums / np.maximum(self.counts['user'], 1), self.mean_rating)

    def __repr__(self): return f"Catalog({len(self.vocab['user']):,} users, {len(self.vocab['item']):,} items{'' if self.interactions is not None else ', without history'})"
    @property
    def n_users(self)->int: return len(self.vocab['user'])
    @property
    def n_items(self)->int: return len(self.vocab['item'])

    def without_history(self):
        "A copy that can be given away: no interaction rows, no user metadata; ids, item metadata and counts stay."
        res = object.__new__(Catalog)
        res.__dict__.update({k: v for k, v in self.__dict__.items() if k not in ('seen', 'positives', 'part_of')})
        res.interactions = res.split = res.user_df = None
        return res

    def with_items(self, ids, df=None):
        "A copy with further items, whose codes come after those there are; `df` is their metadata, with the columns of `item_df` as far as it has them."
        vocab = self.vocab['item']
        if known := [o for o in ids if o in vocab]: raise ValueError(f'{len(known):,} of the {len(ids):,} items are already there: {first_few(known)}. Leave them out: `df[~df[column].isin(learn.vocab["item"].ids)]`')
        res = object.__new__(type(self))
        res.__dict__.update({k: v for k, v in self.__dict__.items() if k not in ('seen', 'positives', 'part_of')})
        new = Vocab(ids, 'item')
        res.vocab = {**self.vocab, 'item': Vocab(vocab.ids.append(new.ids), 'item')}
        res.counts = {**self.counts, 'item': np.append(self.counts['item'], np.zeros(len(new), self.counts['item'].dtype))}
        if self.interactions is not None:
            res.interactions = copy(self.interactions)
            res.interactions.vocab = res.vocab
        if self.item_df is not None:
            rows = pd.DataFrame({self.names['item']: new.ids.to_numpy()}) if df is None else _align(df, new, self.names['item'], 'item')
            res.item_df = pd.concat([self.item_df, rows.reindex(columns=self.item_df.columns)], ignore_index=True)
        return res

    def known(self, side:str)->np.ndarray:
        "bool `(n,)`: has the user or item a training row? The others are cold."
        return self.counts[side] > 0

    @cached_property
    def seen(self):
        "Training rows as a float32 CSR matrix (n_users, n_items): the rating, of implicit feedback the weight (0 where a row is no positive), where there is a row."
        self.require_history()
        return self.matrix(self.split.train)

    def matrix(self, rows):
        "`seen` of other rows of the interactions."
        inter = self.require_history()
        values = next((o for o in (inter.weights, inter.ratings) if o is not None), np.ones(len(inter), np.float32))
        return csr_matrix((values[rows], (inter.users[rows], inter.items[rows])), shape=(self.n_users, self.n_items))

    @property
    def times(self):
        "The time of each training row as the context has it, int64 CSR (n_users, n_items) of the structure of `seen`; None if it is no part of the context."
        inter = self.require_history()
        if self.context_of is None or self.context_of.time_column is None: return None
        rows = self.split.train
        return csr_matrix((inter.context[rows, self.context_of.time_column], (inter.users[rows], inter.items[rows])), shape=(self.n_users, self.n_items))

    @cached_property
    def positives(self):
        "Training positives as a float32 CSR matrix (n_users, n_items); without implicit feedback the same as `seen`."
        inter = self.require_history()
        return self.seen if inter.weights is None else self.matrix(inter.positive(self.split.train))

    def liked(self, rows)->np.ndarray:
        "bool (len(rows),): does the rating reach the user's threshold? `rows` of the interactions."
        inter = self.require_history()
        return inter.ratings[rows] >= self.thresholds[inter.users[rows]]

    def require_history(self, way:str='This needs the training table: make RecDataLoaders of it again and use those, or save with save_recommender(..., history=True)')->Interactions:
        "The interactions; `ValueError` with the way out if they were dropped."
        if self.interactions is None: raise ValueError(f'what users have seen is training data and did not travel with what was saved. {way}')
        return self.interactions

    def titles(self, codes)->np.ndarray:
        "Title of each item code; the id where there is no title."
        if len(codes) > 2 * self.n_items: return self.titles(np.arange(self.n_items))[np.asarray(codes)]
        ids = self.vocab['item'].decode(codes)
        if self.title_name is None: return ids.astype(str)
        titles = self.item_df[self.title_name].to_numpy(dtype=object)[np.asarray(codes)]
        return np.array([str(i) if m else str(t) for i, t, m in zip(ids, titles, pd.isna(titles))], dtype=object)

    def find(self, query, side:str='item')->int:
        "Code of the user or item that `query` names: an id, a title, or a part of a title that only one item has."
        vocab = self.vocab[side]
        if (code := vocab.encode([query], unknown='mark')[0]) >= 0: return int(code)
        if side == 'user' or self.title_name is None or not isinstance(query, str): return int(vocab.encode([query])[0])
        titles = self.item_df[self.title_name]
        lower = titles.astype(str).str.lower()
        for hits in (titles == query, (lower == query.lower()) & titles.notna(), lower.str.contains(query.lower(), regex=False) & titles.notna()):
            if hits.sum() == 1: return int(np.flatnonzero(hits)[0])
            if hits.sum() > 1:
                codes = np.flatnonzero(hits)
                codes = codes[np.argsort(-self.counts['item'][codes], kind='stable')]
                some = '; '.join(f'{first_few([vocab.ids[c]])}: {titles.iloc[c]}' for c in codes[:5])
                raise KeyError(f"{hits.sum()} items match {query!r}: {some}{'; ...' if len(codes) > 5 else ''}. Pass the id or the whole title of one")
        raise KeyError(f"no item has the id {query!r}, or a title with {query!r} in it")

    def find_all(self, queries, side:str='item')->np.ndarray:
        "Codes of one query (see `find`) or of a list of them."
        if isinstance(queries, str) or np.isscalar(queries): queries = [queries]
        try: return self.vocab[side].encode(queries)
        except KeyError: return np.array([self.find(o, side) for o in queries], dtype=np.int64)

    def candidates(self, candidates)->np.ndarray | None:
        "Item codes that `candidates` allows: None (all), item ids, a `DataFrame.query` text or a function of `item_df` that returns a boolean mask."
        if candidates is None: return None
        if isinstance(candidates, str) and candidates in self.vocab['item']: candidates = [candidates]
        if isinstance(candidates, str) or callable(candidates):
            if self.item_df is None: raise ValueError('candidates by a condition need item_df=: metadata was not given when the DataLoaders were made')
            if callable(candidates): mask = candidates(self.item_df)
            else:
                try: mask = self.item_df.eval(candidates)
                except Exception as e: raise ValueError(f'cannot read the condition {candidates!r} ({e}). Columns of item_df: {first_few(self.item_df.columns, 20)}') from e
            if isinstance(mask, pd.Series) and mask.index.sort_values().equals(self.item_df.index): mask = mask.sort_index()
            mask = pd.Series(mask).astype('boolean').fillna(False).to_numpy(dtype=bool)
            if len(mask) != self.n_items: raise ValueError(f'the condition gave {len(mask):,} values for {self.n_items:,} items')
            codes = np.flatnonzero(mask)
        elif np.asarray(candidates).dtype == bool: raise TypeError('candidates as a boolean mask depend on the order of rows: pass a function of item_df that returns the mask, e.g. `lambda m: m.year > 1990`')
        elif isinstance(candidates, pd.DataFrame): raise TypeError('candidates= takes ids: pass the id column of the table')
        else: codes = np.unique(self.vocab['item'].encode(candidates))
        if not len(codes): raise ValueError(f'no item is left: {candidates if isinstance(candidates, str) else "the candidates"} allows none of the {self.n_items:,} items')
        return codes

    def fingerprint(self, part:str='data')->str:
        "16 hex digits that change with any id, code, rating, weight or time ('data'), or with which row is where ('split'); item metadata is not in it."
        inter, digest = self.require_history(), hashlib.blake2b(digest_size=8)
        if part == 'split': arrays = [o for o in self.split if o is not None]
        elif part == 'data':
            for vocab in inter.vocab.values(): digest.update(pd.util.hash_array(vocab.ids.to_numpy()).tobytes())
            arrays = [o for o in (inter.users, inter.items, inter.ratings, inter.weights, inter.times) if o is not None]
        else: raise ValueError(f"part={part!r}: 'data' or 'split'")
        for a in arrays: digest.update(f'{a.dtype.str}{len(a)}'.encode() + np.ascontiguousarray(a).tobytes())
        return digest.hexdigest()

    @cached_property
    def part_of(self):
        "int8 (rows,): 1 for a training row, 2 valid, 3 test, 0 for one that is in no part."
        res = np.zeros(len(self.require_history()), np.int8)
        for i, rows in enumerate(self.split, 1):
            if rows is not None: res[rows] = i
        return res

    def history(self, user)->pd.DataFrame:
        "All rows of one user, best rated (else latest) first: user, item, title, rating, time (those there are), part (train, valid, test)."
        inter = self.require_history()
        rows = np.flatnonzero(inter.users == self.vocab['user'].encode([user])[0])
        df = inter.to_df(rows)
        df.insert(2, 'title', self.titles(inter.items[rows]))
        df['part'] = np.array(['', *Split._fields], dtype=object)[self.part_of[rows]]
        by = [o for o in ('rating', 'time') if o in df]
        return df.sort_values(by, ascending=False, kind='stable', ignore_index=True) if by else df


def standing(scorer, catalog, users=None, items=None)->dict:
    """What is known of pairs of codes (n,), or of users alone: group -> bool (n,), of those that there are: 'all'; 'warm', with training rows; 'features', of whom one has none and the scorer reads
    the features; 'cold', of whom one is unknown to the scorer. Where all are warm, 'all' alone."""
    warm, informed = (np.logical_and.reduce([o(side)[codes] for side, codes in (('user', users), ('item', items)) if codes is not None]) for o in (catalog.known, lambda side: catalog.known(side) | scorer.informed(side)))
    groups = dict(all=np.ones_like(warm), warm=warm, features=informed & ~warm, cold=~informed)
    return {k: m for k, m in groups.items() if m.any() and (k == 'all' or not warm.all())}


def cold_mask(catalog, users, items)->np.ndarray:
    "bool (n,): has the pair of codes a user or an item without a training row?"
    return ~(catalog.known('user')[users] & catalog.known('item')[items])


def check_leakage(scorer, catalog, rows):
    "`ValueError` if the scorer was trained on held-out `rows` of `catalog` (as a model made with another split is)."
    other = scorer.catalog
    if other is catalog: return
    if other is None: scorer.vocab  # says that it is not fitted
    if other.vocab != catalog.vocab: raise ValueError('the scorer was fitted to other users or items than the loaders hold: make both from one table')
    if other.interactions is None: return  # a loaded learner: its training rows did not travel
    inter, trained = catalog.interactions, other.matrix(other.split.train)
    trained.data[:] = 1
    hits = np.asarray((trained[inter.users[rows], inter.items[rows]] != 0)).ravel().sum()
    if hits: raise ValueError(f'{hits:,} of {len(rows):,} held-out rows are training rows of the scorer, which was fitted with another split: its figures would be worthless. Fit it to these loaders')
