"""From scores to what a person reads: mask what was seen, take the top k, decode ids and titles."""
from __future__ import annotations

import math, os, sys
from contextlib import contextmanager
from pathlib import Path
from warnings import warn

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix, issparse

from .interactions import _some, column_of
from .progress import Progress

__all__ = ['Scorer', 'recommend', 'standing', 'cold_mask']

COLD_POLICIES = ('popular', 'mean', 'raise')
INDEX_USERS = 4096  # users at a time that an index is asked for
CACHE = 2**23  # bytes of scores that are made and searched at a time where the rest of the work is small: they had better stay in the processor's cache
PART = 2**14  # users whose rows are written at a time
RANKER = 16, 2**15  # users from which on it pays to prepare a ranker, and items up to which it costs next to nothing
FEW = 20  # candidates are scored as pairs if they are at most one in so many items
MEMORY_BUDGET = 512 * 2**20  # bytes for a chunk of users: scores and what it takes to make them


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
        from .coldstart import fold_in
        return fold_in(self, ratings, noise)

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
        from .retrieval import ItemIndex
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
        from .retrieval import similar
        return similar(self, item, k, 'item')

    def similar_users(self, user, k:int=10)->pd.DataFrame:
        "The `k` nearest users by cosine of their vectors."
        from .retrieval import similar
        return similar(self, user, k, 'user')


def _seen_matrix(catalog, seen, unknown='mark', users=None):
    "Pairs of a table (None: the training rows; then perhaps only of the codes `users`) as a CSR matrix (n_users, n_items); unknown ids are left out or, with 'raise', an error."
    if seen is None:
        if users is not None and hasattr(catalog, 'stream'): return catalog.seen_of(users)
        catalog.require_history('Pass it, `seen=ratings` (a table of user and item), or say `exclude_seen=False`')
        return catalog.seen
    if issparse(seen): return seen
    if isinstance(seen, pd.DataFrame):
        users, items = (catalog.vocab[side].encode(seen[column_of(seen, side, catalog.names)], unknown=unknown) for side in ('user', 'item'))
        ok = (users >= 0) & (items >= 0)  # what the model does not know, it does not recommend
        if len(seen) and not ok.any():
            raise ValueError(f"no row of the table has a user and an item that the model knows: users there look like {_some(seen[column_of(seen, 'user', catalog.names)], 3)}, the model's like {_some(catalog.vocab['user'].ids, 3)}")
        return csr_matrix((np.ones(ok.sum(), np.float32), (users[ok], items[ok])), shape=(catalog.n_users, catalog.n_items))
    raise TypeError(f'seen= takes a table with a user and an item column, got {type(seen).__name__}')


def mask_seen(scores, rows):
    "Set scores (B, n_items) to -inf, in place, where the CSR matrix `rows` (B, n_items) stores an entry."
    b = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    scores[torch.from_numpy(b).to(scores.device), torch.from_numpy(rows.indices.astype(np.int64)).to(scores.device)] = -torch.inf


def _allowed(scorer, candidates, k):
    "What to add to scores (n_items,) to forbid all but the candidates: 0 or -inf; None if all are allowed."
    if int(k) != k or k < 1: raise ValueError(f'k={k}: ask for at least one item')
    codes = scorer.catalog.candidates(candidates)
    if codes is None: return None
    forbid = torch.full((scorer.catalog.n_items,), -torch.inf)
    forbid[torch.from_numpy(codes)] = 0.
    return forbid


def _top_frame(catalog, scores, users, k, codes=None):
    "Tidy rows of the top `k` finite scores. scores (B, n_items), or (B, k) of the items `codes` (B, k), best first; users: the ids (B,) or None."
    if torch.isnan(scores).any(): raise ValueError('some scores are not numbers: did training diverge? Try a smaller learning rate')
    top, codes = scores.topk(min(k, scores.shape[1]), dim=1) if codes is None else (scores, codes)
    top, codes = top.cpu().numpy(), codes.cpu().numpy()
    b, r = np.nonzero(np.isfinite(top))
    items = codes[b, r]
    df = pd.DataFrame(dict(item=catalog.vocab['item'].decode(items), score=top[b, r], rank=r + 1))
    if catalog.title_name is not None: df.insert(1, 'title', _titles(catalog, items))
    if users is not None: df.insert(0, 'user', users[b])
    return df, b, items


def _titles(catalog, items):
    "Titles of codes, as a column: where there are many rows, texts are converted once an item, not once a row."
    return catalog.titles(items) if len(items) <= 2 * catalog.n_items else pd.Series(catalog.titles(np.arange(catalog.n_items))).array.take(items)


def top_k(scores, k:int):
    """The `k` largest of each row of scores (B, n), best first: values (B, k) and columns (B, k), fewer where n is smaller.

    On a CPU in two steps: rows are cut into blocks, of which only the `k` with the largest maximum can hold one of the `k` largest. Maxima are quick to find, and what is left to sort is short.
    """
    n = scores.shape[1]
    k = min(k, n)
    width = 2 ** int(math.log2(n / k) / 2) if n else 1  # about (n/k)^1/2: as many blocks as there are candidates in the k chosen ones, times k
    if width < 4 or scores.device.type != 'cpu': return scores.topk(k, dim=1)
    n_blocks = n // width
    whole = n_blocks * width
    best = scores[:, :whole].unflatten(1, (width, n_blocks)).amax(1).topk(k, dim=1, sorted=False).indices  # block j: columns j, j + n_blocks, ...
    at = (best[:, :, None] + torch.arange(0, whole, n_blocks)).flatten(1)
    if whole < n: at = torch.cat([at, torch.arange(whole, n).expand(len(at), -1)], 1)
    values, chosen = scores.gather(1, at).topk(k, dim=1)
    return values, at.gather(1, chosen)


def recommend(scorer, users, k=10, exclude_seen=True, candidates=None, cold='popular', seen=None, to=None)->pd.DataFrame | Path:
    "The `k` best items of each of `users`; arguments as in `Scorer.recommend`. Users go through in chunks of a fixed memory budget."
    catalog = scorer.catalog
    if cold not in COLD_POLICIES: raise ValueError(f'cold={cold!r}: choose one of {_some(COLD_POLICIES)}')
    codes = catalog.vocab['user'].encode(users)
    ids = catalog.vocab['user'].decode(codes)
    known_users, known_items = scorer.informed('user'), scorer.informed('item')
    is_cold = ~known_users[codes]
    if cold == 'raise' and is_cold.any():
        raise KeyError(f"{is_cold.sum()} users have no training row: {_some(ids[is_cold])}. cold='popular' gives them what is popular, cold='mean' what the average user would get")
    forbid = _allowed(scorer, candidates, k)
    if not getattr(scorer, 'knows_cold', True):  # an untrained vector is never used
        forbid = (torch.zeros(catalog.n_items) if forbid is None else forbid).masked_fill(torch.from_numpy(~known_items), -torch.inf)
    matrix = _seen_matrix(catalog, seen, users=codes) if exclude_seen else None
    popularity = torch.from_numpy(catalog.counts['item'].astype(np.float32)) if cold == 'popular' else None
    if len(few := _few(scorer, candidates, catalog, known_items)): best_of = lambda users, is_cold, done: _best_of_few(scorer, users, is_cold, few, k, matrix, popularity, done)
    else: best_of = _best_of_all(scorer, len(codes), k, forbid, matrix, popularity, candidates is None)
    frame = lambda rows, parts: _frame(catalog, ids[rows], is_cold[rows], known_items, cold, *(map(torch.cat, zip(*parts)) if parts else (torch.zeros(0, 1), torch.zeros(0, 1, dtype=torch.long))))
    with scorer._inference(), Progress(len(codes), 'recommending', 'users', scorer._shows_progress) as progress:
        parts = ((slice(at, at + PART), best_of(codes[at:at+PART], is_cold[at:at+PART], progress.update)) for at in range(0, len(codes), PART))
        if to is None:
            df = frame(slice(None), [o for _, part in parts for o in part])
            return df if df.cold.any() else df.drop(columns='cold')
        with TableWriter(to) as writer:
            for rows, part in parts: writer.write(frame(rows, list(part)))
            if not len(codes): writer.write(frame(slice(None), []))
    return Path(to)


def _best_of_all(scorer, n_users, k, forbid, matrix, popularity, may_search):
    "-> function of users, which of them are cold, and whom to tell how many are done, that gives scores and codes (n, k) of their best items, chunk by chunk."
    catalog = scorer.catalog
    def masked(scores, chunk): # (B, n_items), in place
        if forbid is not None: scores += forbid.to(scores.device)
        if matrix is not None: mask_seen(scores, matrix[chunk])
        return scores
    index = scorer.item_index() if may_search and hasattr(scorer, 'item_index') else None
    whole = users_at_a_time(None, catalog.n_items)
    rank = ranker_for(scorer, n_users) if index is None else None
    step = INDEX_USERS if index is not None else users_at_a_time(rank, catalog.n_items)
    def best_of(users, is_cold, done):
        tops = []
        for at in range(0, len(users), step):
            chunk, chunk_cold = users[at:at+step], is_cold[at:at+step]
            if index is not None:
                scores, found = index.top(scorer, chunk, k, None if matrix is None else matrix[chunk])
                for rows in np.split(np.flatnonzero(chunk_cold), range(whole, chunk_cold.sum(), whole)) if popularity is not None and chunk_cold.any() else ():
                    best = top_k(masked(popularity.repeat(len(rows), 1), chunk[rows]), k)
                    scores[rows, :best[0].shape[1]], found[rows, :best[0].shape[1]] = best
            else:
                scores = (rank or scorer.score_items)(torch.from_numpy(chunk)).float()
                if popularity is not None and chunk_cold.any(): scores[torch.from_numpy(chunk_cold).to(scores.device)] = popularity.to(scores.device)
                scores, found = top_k(masked(scores, chunk), k)
            tops.append((scores.cpu(), found.cpu()))
            done(len(chunk))
        if rank is None or not tops: return tops
        scores, found = map(torch.cat, zip(*tops))
        return [(_exact(scorer, users, scores, found), found)]
    return best_of


def ranker_for(scorer, n_users:int):
    "`scorer.ranker()`; None where it has none, or a few users of a large catalogue are not worth its preparations."
    return scorer.ranker() if n_users >= RANKER[0] or scorer.catalog.n_items <= RANKER[1] else None


def users_at_a_time(rank, n_items:int)->int:
    "How many users' scores of all items are made and searched at a time: what the memory budget allows, or, where they are one matrix product on a CPU, what stays in its cache."
    if rank is None: return max(1, MEMORY_BUDGET // (16 * n_items))  # scores, and about three times as much on the way to them
    return max(16, CACHE // (4 * n_items)) if rank.device.type == 'cpu' else max(1, MEMORY_BUDGET // (8 * n_items))


def _exact(scorer, users, top, items):
    "The scores, on the scorer's scale, of the items (B, k) that came out on top; what is not finite there (masked, or not a number) stays."
    flat = torch.isfinite(top).reshape(-1).cpu()
    pairs = torch.from_numpy(users).repeat_interleave(items.shape[1])[flat], items.reshape(-1).cpu()[flat]
    res = top.reshape(-1).cpu().clone()
    res[flat] = scorer.score(*pairs).float().cpu()
    return res.view(top.shape)


def _few(scorer, candidates, catalog, known):
    "Codes of the candidates (an empty list if there are none, or too many to be scored as pairs)."
    if candidates is None: return ()
    codes = catalog.candidates(candidates)
    if not getattr(scorer, 'knows_cold', True): codes = codes[known[codes]]
    return codes if len(codes) * FEW <= catalog.n_items else ()


def _best_of_few(scorer, users, is_cold, items, k, matrix, popularity, done):
    "The `k` best of the `items` alone for each of `users`: scores and codes, (n_users, k)."
    tops, step = [], max(1, MEMORY_BUDGET // (256 * len(items)))
    for at in range(0, len(users), step):
        chunk = users[at:at+step]
        scores = scorer.score(torch.from_numpy(np.repeat(chunk, len(items))), torch.from_numpy(np.tile(items, len(chunk)))).float().cpu().view(len(chunk), -1)
        if popularity is not None: scores[torch.from_numpy(is_cold[at:at+step])] = popularity[torch.from_numpy(items)]
        if matrix is not None: mask_seen(scores, matrix[chunk][:, items].tocsr())
        top = scores.topk(min(k, len(items)), dim=1)
        tops.append((top.values, torch.from_numpy(items)[top.indices]))
        done(len(chunk))
    return tops


def _frame(catalog, users, is_cold, known, cold, top, items):
    "The table of recommendations: ids of users (n,), which are cold, which items are known, the policy, scores and codes (n, k), best first."
    df, b, found = _top_frame(catalog, top, users, None, items)
    if cold == 'popular': df['score'] = df['score'].where(~is_cold[b])  # a count is no score of the model
    return df.assign(cold=is_cold[b] | ~known[found])


class TableWriter:
    "Tables to one file (.parquet, else CSV) or '-', a part at a time. It has its name once it is whole; an error leaves nothing."
    def __init__(self, out):
        self.out, self.file, self.schema = str(out), None, None
        self.parquet = self.out.lower().endswith('.parquet')
        if not self.parquet and self.out != '-' and not self.out.lower().endswith('.csv'): raise ValueError(f'{self.out}: a name that ends in .parquet or .csv')
        if self.out != '-' and not Path(self.out).absolute().parent.is_dir(): raise FileNotFoundError(f'there is no folder {Path(self.out).absolute().parent} to write {Path(self.out).name} to')
        self.aside = None if self.out == '-' else Path(out).with_name(f'.{Path(out).name}.{os.getpid()}')

    def __enter__(self): return self

    def write(self, df):
        "The rows of `df`, whose columns are those of the first table."
        if not self.parquet:
            header = self.file is None
            if header: self.file = sys.stdout if self.aside is None else open(self.aside, 'w', encoding='utf-8', newline='')
            df.to_csv(self.file, index=False, header=header)
            return
        try: import pyarrow as pa, pyarrow.parquet as pq
        except ImportError as e: raise ImportError("writing parquet needs pyarrow: pip install 'fastrec-learn[parquet]'; or write CSV: a name that ends in .csv") from e
        table = pa.Table.from_pandas(df, preserve_index=False, schema=self.schema)
        if self.file is None: self.schema, self.file = table.schema, pq.ParquetWriter(self.aside, table.schema)
        self.file.write_table(table)

    def __exit__(self, kind, *_):
        if self.aside is None: return
        if self.file is not None: self.file.close()
        if kind is None and self.file is not None: os.replace(self.aside, self.out)
        else: self.aside.unlink(missing_ok=True)


def recommend_basket(scorer, basket, k=10, candidates=None)->pd.DataFrame:
    """The `k` items that are nearest to the items of an anonymous `basket`: item, title, score, rank.

    score = mean cosine between the item's vector and the vectors of the basket, as in item-based collaborative filtering (Sarwar et al. 2001), with
    learned vectors in the place of rating columns; in [-1, 1].
    """
    catalog = scorer.catalog
    if not hasattr(scorer, 'vectors'): raise TypeError(f'{type(scorer).__name__} has no item vectors, which tell what is near a basket: take a learner, EASE or ItemKNN')
    codes = torch.from_numpy(np.unique(catalog.find_all(basket)))
    if not len(codes): raise ValueError('the basket is empty')
    vectors = torch.nn.functional.normalize(scorer.vectors('item').float().cpu(), dim=1)
    scores = (vectors @ vectors[codes].mean(0))[None]
    scores[:, codes] = -torch.inf
    scores[:, torch.from_numpy(~scorer.informed('item'))] = -torch.inf  # a cold item's vector says nothing about it
    forbid = _allowed(scorer, candidates, k)
    if forbid is not None: scores += forbid
    return _top_frame(catalog, scores, None, k)[0]


def recommend_users(scorer, items, k=10, exclude_seen=True, users=None, seen=None)->pd.DataFrame:
    "The `k` best users of each of `items`; arguments as in `Scorer.recommend_users`. Users go through in chunks of a fixed memory budget."
    catalog = scorer.catalog
    if int(k) != k or k < 1: raise ValueError(f'k={k}: ask for at least one user')
    at = catalog.find_all(items)
    known_items = scorer.informed('item')[at]
    if not known_items.all() and not getattr(scorer, 'knows_cold', True): raise KeyError(f"item {_some(catalog.vocab['item'].decode(at[~known_items]))} has no training row, and the model does not know what to make of that")
    mask = scorer.informed('user').copy()
    if users is not None: mask &= np.isin(np.arange(catalog.n_users), catalog.vocab['user'].encode(users))
    codes = np.flatnonzero(mask)
    if not len(codes): raise ValueError('no user is left: none of users= has a training row')
    matrix = _seen_matrix(catalog, seen).tocsc()[:, at].T.tocsr() if exclude_seen else None
    whole = getattr(scorer, 'reads_history', False)  # scores of a pair cost as much as those of the whole catalogue
    step = max(1, MEMORY_BUDGET // (16 * (catalog.n_items if whole else max(len(at), 64))))
    best, found = torch.zeros(len(at), 0), torch.zeros(len(at), 0, dtype=torch.int64)
    with scorer._inference(), Progress(len(codes), 'asking', 'users', scorer._shows_progress) as progress:
        for chunk in np.split(codes, range(step, len(codes), step)):
            rows = torch.from_numpy(chunk)
            if whole: scores = scorer.score_items(rows)[:, torch.from_numpy(at)].T
            else: scores = torch.stack([scorer.score(rows, torch.full_like(rows, int(i))) for i in at])
            scores = scores.float().cpu()
            if torch.isnan(scores).any(): raise ValueError('some scores are not numbers: did training diverge? Try a smaller learning rate')
            if matrix is not None: mask_seen(scores, matrix[:, chunk])
            best, found = torch.cat([best, scores], 1), torch.cat([found, rows.expand(len(at), -1)], 1)
            best, top = best.topk(min(k, best.shape[1]), dim=1)
            found = found.gather(1, top)
            progress.update(len(chunk))
    b, r = np.nonzero(np.isfinite(best.numpy()))
    df = pd.DataFrame(dict(item=catalog.vocab['item'].decode(at[b]), user=catalog.vocab['user'].decode(found.numpy()[b, r]), score=best.numpy()[b, r], rank=r + 1))
    if catalog.title_name is not None: df.insert(1, 'title', catalog.titles(at[b]))
    if not known_items.all(): df['cold'] = ~known_items[b]
    return df


def standing(scorer, catalog, users=None, items=None)->dict:
    """What is known of pairs of codes (n,), or of users alone: group -> bool (n,), of those that there are: 'all'; 'warm', with training rows; 'features', of whom one has none and the scorer reads
    the features; 'cold', of whom one is unknown to the scorer. Where all are warm, 'all' alone."""
    warm, informed = (np.logical_and.reduce([o(side)[codes] for side, codes in (('user', users), ('item', items)) if codes is not None]) for o in (catalog.known, lambda side: catalog.known(side) | scorer.informed(side)))
    groups = dict(all=np.ones_like(warm), warm=warm, features=informed & ~warm, cold=~informed)
    return {k: m for k, m in groups.items() if m.any() and (k == 'all' or not warm.all())}


def cold_mask(catalog, users, items)->np.ndarray:
    "bool (n,): has the pair of codes a user or an item without a training row?"
    return ~(catalog.known('user')[users] & catalog.known('item')[items])
