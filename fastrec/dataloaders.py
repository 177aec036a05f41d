"""From tables to fastai `DataLoaders` that slice tensors: every row once an epoch, permuted on the device."""
from __future__ import annotations

from copy import copy
from types import MethodType
from warnings import warn

import numpy as np
import pandas as pd
import torch
from fastai.data.core import DataLoaders, TfmdDL
from fastai.torch_core import default_device
from fastcore.imports import IN_NOTEBOOK
from fastcore.meta import delegates
from scipy.sparse import csr_matrix

from .catalog import Catalog
from .files import FileTable
from .interactions import CHUNK, Interactions, _some, column_of
from .recommend import cold_mask, standing
from .sampling import NegativeSampler
from .splits import LARGE, Split, describe_splitter, everything, make_split, split_summary

__all__ = ['InteractionDataset', 'InteractionDL', 'NegativesDL', 'InBatchDL', 'UserDL', 'RecDataLoaders']

CHUNK_ROWS = 2**20  # rows gathered at a time; batches are views of them
FEW_STEPS = 20


class InteractionDataset:
    """Columns of interactions, `(users, items[, context][, target[, weight]])`, and which rows of them belong to this part.

    The list `columns` is shared between the parts of a split, so a move to another device happens once and in place; `rows` (int64, or
    None: all) selects. With context (`n_inp=3`) there is a column int64 (n, C) of it, see `Context`.
    """
    def __init__(self, columns, rows, catalog, n_inp:int=2):
        self.columns, self.rows, self.catalog, self.n_inp = columns, rows, catalog, n_inp

    def __len__(self): return len(self.columns[0]) if self.rows is None else len(self.rows)

    def __getitem__(self, idx):
        "Tensors of the samples `idx` (int64 tensor): int64 codes, float32 target."
        if self.rows is not None: idx = self.rows.index_select(0, idx.long())
        idx = idx.long()
        users, items, *target = (o.index_select(0, idx) for o in self.columns)  # a quarter of the time of o[idx]
        return (users.long(), items.long(), *target)

    def subset(self, users, items):
        "The rows of this part whose user or item is in the bool masks (n_users,), (n_items,)."
        rows = torch.arange(len(self), device=self.device) if self.rows is None else self.rows
        u, i = (torch.as_tensor(m, device=self.device)[o[rows].long()] for m, o in zip((users, items), self.columns))
        return type(self)(self.columns, rows[u | i], self.catalog, self.n_inp)

    @property
    def device(self): return self.columns[0].device

    def to(self, device):
        "Move to `device` in place; returns self."
        if self.device != device: self.columns[:] = [o.to(device) for o in self.columns]
        if self.rows is not None and self.rows.device != device: self.rows = self.rows.to(device)
        return self

    def new_empty(self):
        "No rows (in fresh storage, so that nothing travels with a pickle) and a catalog without history."
        return InteractionDataset([o.new_empty(0) for o in self.columns], None, self.catalog.without_history(), self.n_inp)

    def with_catalog(self, catalog):
        "The same rows under a catalog that knows further items."
        return InteractionDataset(self.columns, self.rows, catalog, self.n_inp)

    @property
    def items(self)->pd.DataFrame:
        "The rows as a table of ids; fastai's `Interpretation` asks for it."
        users, items, *rest = self[torch.arange(len(self), device=self.device)]
        return decode(self.catalog, users, items, *rest[self.n_inp - 2:self.n_inp - 1])


def decode(catalog, users, items, target=None, target_name:str='rating', **more)->pd.DataFrame:
    "A table of ids and titles from tensors of codes, one row per pair; more columns by name."
    if items.dim() > 1: users = users[:, None].expand(-1, items.shape[1])
    users, items = users.reshape(-1).cpu().numpy(), items.reshape(-1).cpu().numpy()
    df = pd.DataFrame(dict(user=catalog.vocab['user'].decode(users), item=catalog.vocab['item'].decode(items)))
    if catalog.title_name is not None: df['title'] = catalog.titles(items)
    if target is not None: df[target_name] = target.reshape(-1).cpu().numpy()
    for k, v in more.items(): df[k] = v.reshape(-1).float().cpu().numpy()
    return df


def show_table(df):
    "Display a table: as HTML in a notebook, as text elsewhere."
    if IN_NOTEBOOK:
        from IPython.display import HTML, display
        display(HTML(df.to_html(index=False)))
    else: print(df.to_string(index=False))


@delegates()
class InteractionDL(TfmdDL):
    """Batches `(users, items[, target])` sliced from tensors: codes int64 `(bs,)`, target float32 `(bs,)`.

    Every row comes once an epoch, in a fresh order with `shuffle`. Samples are vectorised, so there is nothing for worker processes to do.
    """
    def __init__(self,
        dataset, # an `InteractionDataset`
        bs:int=256, # rows per batch
        shuffle:bool=False, # a new order each epoch
        drop_last:bool=False, # leave out a last batch that is smaller
        num_workers:int=0, # must be 0
        seed:int=None, # order of rows independent of torch's global generator
        **kwargs
    ):
        if num_workers: raise ValueError(f'num_workers={num_workers}: batches are slices of tensors in memory, which workers would only copy; leave it at 0')
        if bs is None or bs < 1: raise ValueError(f'bs={bs}: give a batch size of at least 1')
        self.seed, self._generator = seed, None
        super().__init__(dataset, bs=bs, shuffle=shuffle, drop_last=drop_last, num_workers=0, **kwargs)

    def new(self, dataset=None, cls=None, **kwargs):
        return super().new(dataset, cls, **{**dict(seed=self.seed), **kwargs})

    def _one_pass(self): self._n_inp, self._types = self.dataset.n_inp, {tuple: [torch.Tensor] * max(3, len(self.dataset.columns)) if self.dataset.n_inp != 1 else [torch.Tensor] * 3}

    def generator(self, device):
        "None: torch's own; with a `seed` a generator of this loader."
        if self.seed is None: return None
        if self._generator is None or self._generator.device != device: self._generator = torch.Generator(device).manual_seed(self.seed)
        return self._generator

    def order(self):
        "A fresh order of the samples, int64 tensor `(n,)` (int32 from 16 million on) on the device of the data."
        device = self._placed().device
        kind = dict(device=device, dtype=torch.int64 if self.n < LARGE else torch.int32)
        return torch.randperm(self.n, generator=self.generator(device), **kind) if self.shuffle else torch.arange(self.n, **kind)

    def get_idxs(self):
        "`order` on the CPU, where fastai's `get_preds` sorts predictions back by it."
        return self.order().cpu()

    def _placed(self):
        "The dataset, on the loader's device."
        return self.dataset if self.device is None else self.dataset.to(self.device)

    def create_batches(self, samps):
        dataset = self._placed()
        idx = samps if isinstance(samps, torch.Tensor) else torch.as_tensor(np.fromiter(samps, np.int64))
        idx = idx.to(dataset.device)
        if self.drop_last: idx = idx[:len(idx) // self.bs * self.bs]
        if not len(idx): return
        for chunk in idx.split(max(1, CHUNK_ROWS // self.width // self.bs) * self.bs):
            yield from zip(*(o.split(self.bs) for o in self.columns_of(dataset[chunk])))

    width = 1  # values that a row becomes

    def columns_of(self, columns):
        "What batches are slices of, from the dataset's columns for a chunk of samples."
        return columns

    def __iter__(self):
        self.randomize()
        self.before_iter()
        tfm = self.after_batch if getattr(self.after_batch, 'fs', True) else None  # an empty Pipeline costs more than the slice
        pinned = not isinstance(self.get_idxs, MethodType)  # as `get_preds` does
        for b in self.create_batches(self.get_idxs() if pinned else self.order()): yield b if tfm is None else tfm(b)
        self.after_iter()

    def decode_batch(self, b, max_n:int=9, **more)->pd.DataFrame:
        "The first rows of a batch with ids and titles."
        catalog, n_inp = self.dataset.catalog, self.dataset.n_inp
        df = decode(catalog, *(o[:max_n] for o in (*b[:2], *b[n_inp:n_inp + 1])), target_name='rating' if catalog.thresholds is None else 'liked', **{k: v[:max_n] for k, v in more.items()})
        return df if n_inp == 2 else pd.concat([df, catalog.context_of.decode(b[2][:max_n].cpu().numpy())], axis=1)

    def show_batch(self, b=None, max_n:int=9, show:bool=True, **kwargs):
        "Show the first `max_n` rows of a batch as a table of ids and titles (or return it with `show=False`)."
        df = self.decode_batch(self.one_batch() if b is None else b, max_n)
        return show_table(df) if show else df

    def show_results(self, b, out, max_n:int=9, show:bool=True, **kwargs):
        "Show targets beside predictions `out` for a batch, with ids and titles."
        df = self.decode_batch(b, max_n, prediction=out[0] if isinstance(out, tuple) else out)
        return show_table(df) if show else df


class NegativesDL(InteractionDL):
    """Batches of positives with negatives drawn for them: `(users (B,), items (B, 1 + n_neg), target (B, 1 + n_neg)[, weight (B,)])`.

    The positive is in column 0, where the target is 1. Training draws fresh negatives each epoch; with `neg_seed` (validation) they are the same at each pass.
    """
    def __init__(self, dataset, sampler=None, n_neg:int=4, neg_seed:int=None, **kwargs):
        self.sampler, self.n_neg, self.neg_seed = sampler, n_neg, neg_seed
        super().__init__(dataset, **kwargs)

    @property
    def width(self): return 1 + self.n_neg

    def decode_batch(self, b, max_n:int=9, **more)->pd.DataFrame:
        "The first positives of a batch with their negatives: a row a pair, with its label."
        return decode(self.dataset.catalog, *(o[:max_n] for o in b[:3]), target_name='label', **{k: v[:max_n] for k, v in more.items()})

    def new(self, dataset=None, cls=None, **kwargs):
        keep = dict(n_neg=self.n_neg, neg_seed=self.neg_seed, sampler=None if dataset is not None else self.sampler)  # a sampler belongs to its dataset, and knows what was seen
        return super().new(dataset, cls, **{**keep, **kwargs})

    def create_batches(self, samps):
        self._negatives = None if self.neg_seed is None else torch.Generator(self._placed().device).manual_seed(self.neg_seed)
        yield from super().create_batches(samps)

    def columns_of(self, columns):
        users, items, *weight = columns
        generator = self.generator(users.device) if self._negatives is None else self._negatives
        items = torch.cat([items[:, None], self.sampler.to(users.device).sample(users, self.n_neg, generator)], 1)
        target = torch.zeros(items.shape, device=items.device)
        target[:, 0] = 1
        return users, items, target, *weight


class InBatchDL(InteractionDL):
    """Batches of positives whose negatives are the other items of the batch: `(users (B,), items (1, C), target (B, C)[, weight (B,)])`.

    The columns are the distinct items of the batch. Target: 1 for the row's positive, 0 for a negative, -1 for an accidental hit, an item that the user has as well, which is no negative.
    """
    n_neg = 0  # drawn

    def __init__(self, dataset, seen=None, **kwargs):
        self.seen, self._index = seen, None
        super().__init__(dataset, **kwargs)

    def new(self, dataset=None, cls=None, **kwargs):
        return super().new(dataset, cls, **{**dict(seen=None if dataset is not None else self.seen), **kwargs})

    def create_batches(self, samps):
        for users, items, *weight in super().create_batches(samps): yield (*self.candidates(users, items), *weight)

    def candidates(self, users, items):
        "-> users (B,), distinct items (1, C), target (B, C) of positives (B,), (B,)."
        if self._index is None or self._index[0].device != users.device:
            self._index = [torch.from_numpy(o).to(users.device) for o in (self.seen.indptr.astype(np.int64), self.seen.indices)] + [torch.full((self.seen.shape[1],), -1, device=users.device)]
        indptr, indices, column = self._index
        columns, own = torch.unique(items, return_inverse=True)
        rows = torch.arange(len(users), device=users.device)
        column[columns] = torch.arange(len(columns), device=users.device)
        start, n = indptr[users], indptr[users + 1] - indptr[users]
        at = torch.repeat_interleave(start - (n.cumsum(0) - n), n)
        at += torch.arange(len(at), device=users.device)
        hit = column[indices[at].long()]  # columns of what the users have, -1 where it is not in the batch
        there = hit >= 0
        target = torch.zeros(len(users), len(columns), device=users.device)
        target[torch.repeat_interleave(rows, n, output_size=len(at))[there], hit[there]] = -1.
        target[rows, own] = 1.
        column[columns] = -1
        return users, columns[None], target

    def decode_batch(self, b, max_n:int=9, **more)->pd.DataFrame:
        "The first positives of a batch, each with the number of its negatives there and of accidental hits."
        users, items, target = b[0][:max_n], b[1][0], b[2][:max_n]
        own = target.argmax(1)
        more = {k: v[:max_n].gather(1, own[:, None]) if v.ndim == 2 else v[:max_n] for k, v in more.items()}
        return decode(self.dataset.catalog, users, items[own], negatives=(target == 0).sum(1), hits=(target < 0).sum(1), **more).astype(dict(negatives=int, hits=int))

    def pairs(self)->InteractionDL:
        "A loader of the positives as pairs `(users, items)`, without a target: what `get_preds` scores."
        return InteractionDL(InteractionDataset(self.dataset.columns[:2], self.dataset.rows, self.dataset.catalog), bs=max(self.bs, 4096), device=self.device)


class UserDataset:
    """Users and the rows of two CSR matrices that belong to them: positives to predict, and items that are no candidates (None: none).

    A sample is a user: `(user, target (n_items,))`, where the target is the weight of a positive, -1 for a masked item and 0 elsewhere.
    """
    n_inp = 1

    def __init__(self, positives, masked, catalog):
        self.positives, self.masked, self.catalog = positives, masked, catalog
        self.users = torch.from_numpy(np.flatnonzero(np.diff(positives.indptr)))
        self.cold = torch.from_numpy(~catalog.known('item'))  # in training no candidates: nothing says that nobody wants them

    def __len__(self): return len(self.users)
    def __getitem__(self, idx): return (self.users[idx],)

    @property
    def device(self): return self.users.device

    def to(self, device):
        "Move to `device` in place; returns self."
        self.users = self.users.to(device)
        return self

    def subset(self, users, items):
        "The users of this part who are in the bool mask (n_users,), or have an item of the mask (n_items,)."
        res = copy(self)
        wanted = torch.from_numpy(np.asarray(users) | (self.positives @ np.asarray(items, np.float32) > 0)).to(self.device)
        res.users = self.users[wanted[self.users]]
        return res

    def targets(self, users)->torch.Tensor:
        "float32 (B, n_items) for codes of users."
        rows = users.cpu().numpy()
        target = torch.zeros(len(rows), self.positives.shape[1])
        if self.masked is None: target[:, self.cold] = -1.
        for matrix, value in ((self.masked, -1.), (self.positives, None)):
            if matrix is None: continue
            part = matrix[rows]
            at = torch.from_numpy(np.repeat(np.arange(len(rows)), np.diff(part.indptr))), torch.from_numpy(part.indices.astype(np.int64))
            target[at] = torch.from_numpy(part.data) if value is None else value
        return target.to(users.device)

    def new_empty(self):
        "No rows, and a catalog without history."
        return UserDataset(csr_matrix((0, self.positives.shape[1]), dtype=np.float32), None, self.catalog.without_history())

    def with_catalog(self, catalog):
        "The same users under a catalog that knows further items, which are no candidates in training."
        wider = lambda m: m if m is None else csr_matrix((m.data, m.indices, m.indptr), shape=(m.shape[0], catalog.n_items))
        return UserDataset(wider(self.positives), wider(self.masked), catalog)

    @property
    def items(self)->pd.DataFrame:
        "The users as a table; fastai's `Interpretation` asks for it."
        return pd.DataFrame(dict(user=self.catalog.vocab['user'].decode(self.users.cpu().numpy())))


class UserDL(InteractionDL):
    "Batches of users with all their positives, for objectives over the whole catalogue: `(users (B,), target (B, n_items))`; see `UserDataset`."
    def columns_of(self, columns): return columns

    def create_batches(self, samps):
        for users, in super().create_batches(samps): yield users, self.dataset.targets(users)

    def decode_batch(self, b, max_n:int=9, **more)->pd.DataFrame:
        "The first users of a batch with the number of their positives and the best known of them."
        catalog, rows = self.dataset.catalog, []
        for user, target in zip(b[0][:max_n], b[1][:max_n]):
            items = (target > 0).nonzero().squeeze(1).cpu().numpy()
            best = items[np.argsort(-catalog.counts['item'][items], kind='stable')][:3]
            rows.append(dict(user=catalog.vocab['user'].decode([int(user)])[0], positives=len(items), among_them=', '.join(map(str, catalog.titles(best)))))
        return pd.DataFrame(rows)


def user_batch_size(n_users:int, n_items:int)->int:
    "A power of two from 16 on that leaves about 25 steps an epoch, with at most 128 MiB of scores per batch."
    return int(2 ** np.round(np.log2(np.clip(n_users / 24, 16, max(16, 2**25 / n_items)))))


def auto_batch_size(n:int)->int:
    "A power of two from 16 to 8192 that leaves about 300 steps an epoch; measured on ml-latest-small, where 90,000 rows do best at 256."
    return int(2 ** np.clip(np.round(np.log2(max(n, 1) / 300)), 4, 13))


class RecDataLoaders(DataLoaders):
    """`DataLoaders` of a rating table: `train`, `valid` and, if the split has one, `test` (`dls[2]`).

    `catalog` knows ids, metadata and history; `vocab` is `{'user': Vocab, 'item': Vocab}`. `print(dls.summary())` tells what is in each part.
    """
    split_by = None  # how the split was made, in words

    def __init__(self, *loaders, path='.', device=None):
        super().__init__(*loaders, path=path, device=device if device is not None else default_device())
        self.n_inp = loaders[0].dataset.n_inp
        self.target = 'implicit' if isinstance(loaders[0], (NegativesDL, InBatchDL, UserDL)) else 'rating' if self.catalog.thresholds is None else 'liked'  # what the loaders were made for

    @classmethod
    def from_df(cls,
        df:pd.DataFrame, # one row per interaction
        valid_pct:float=0.2, # share of rows in valid, if no splitter is given; 0: all rows are for training, as for the last fit before a model is used
        seed:int=None, # of that random split
        splitter=None, # a splitter (fastai's or ours), the name of a column, or two or three index arrays
        item_df:pd.DataFrame=None, # what is known of items: a column of ids, and e.g. title, year, genres
        user_df:pd.DataFrame=None, # what is known of users
        user_name:str=None, # column of user ids
        item_name:str=None, # column of item ids
        rating_name:str=None, # column of ratings; False: none
        time_name:str=None, # column of times; False: none
        title_name:str=None, # column of `item_df` with the titles
        duplicates:str='error', # repeated user-item pairs of ratings: 'error', 'first', 'last' or 'mean'
        target:str='rating', # 'rating': predict it; 'liked': 1 if it reaches the user's own mean over the training rows, else 0; 'implicit': rank what users choose, where repeats add up
        threshold:float=None, # 'implicit': ratings from it on are positives; the other rows count as seen
        weighted:bool=False, # 'implicit': a row counts as much as its rating says (play counts; with a long tail, train on their logarithm), not once
        context=None, # columns of what belongs to the interaction itself (its time, a device, a weekday), for ratings: batches have it as third input, and `svdpp_learner` and `collab_learner` read it (see `Context`)
        weight_name:str=None, # column of what each rating counts in the loss (recent ones, rare ones more), from 0 up; errors such as rmse count all rows alike
        n_neg:int=4, # 'implicit': negatives drawn for each positive; 0: the other items of the batch are the negatives; None: a row is a user, and the objective is over the whole catalogue
        alpha:float=0., # 'implicit': negatives are drawn in proportion to popularity^alpha (0: uniformly)
        bs:int=None, # batch size; by default a power of two that leaves about 300 steps an epoch (25 where a row is a user)
        path='.', # where learners save models
        device=None # where batches are made; by default fastai's default device
    ):
        "`RecDataLoaders` of a table; columns not named are found by their usual names, else by position (user, item, rating, time)."
        if target not in ('rating', 'liked', 'implicit'): raise ValueError(f"target={target!r}: choose 'rating', 'liked' or 'implicit'")
        if target != 'implicit' and (threshold is not None or weighted): raise ValueError("threshold= and weighted= say what is a positive: they go with target='implicit'")
        policy = 'keep' if target == 'implicit' else duplicates
        if isinstance(df, FileTable): inter, df = df.interactions(user_name, item_name, rating_name, time_name, policy, whole=splitter is not None and not callable(splitter), context=context, weight_name=weight_name)
        else: inter = Interactions.from_df(df, user_name, item_name, rating_name, time_name, policy, context=context, weight_name=weight_name)
        if target == 'implicit':
            if weight_name is not None: raise ValueError("weight_name= is for ratings; of implicit feedback weighted=True makes the rating column the weight of a row")
            if context is not None: raise ValueError("context= is for ratings: what was not chosen has none. Leave it out, or learn target='rating' or 'liked'")
            inter = inter.implicit(threshold, weighted)
        by = f'random rows: valid_pct={valid_pct:g}, seed={seed}' if splitter is None and valid_pct else 'all rows for training' if splitter is None else describe_splitter(splitter)
        split = make_split(inter, _default_splitter(valid_pct, seed) if splitter is None else splitter, df)
        res = cls.from_interactions(inter, split, liked=target == 'liked', item_df=item_df, user_df=user_df, title_name=title_name, n_neg=n_neg, alpha=alpha, bs=bs, path=path, device=device)
        res.split_by = by
        return res

    @classmethod
    @delegates(from_df)
    def from_csv(cls, csv, sep:str=',', encoding:str=None, parse_dates=None, **kwargs):
        "`RecDataLoaders` of a CSV file; see `from_df`. Read in parts by pyarrow if that is there, so that the table is never in memory as a whole, else (or with `parse_dates`) by pandas."
        return cls.from_df(FileTable(csv, 'csv', sep=sep, encoding=encoding, parse_dates=parse_dates), **kwargs)

    @classmethod
    @delegates(from_df)
    def from_parquet(cls,
        file, # a file, a folder of files, or a list of them
        columns:list=None, # read only these
        stream:bool=False, # leave the rows in the files, which may be larger than memory: they are read in shuffled row groups at each epoch; for ratings
        buffer:int=2**22, # with `stream`: rows that are shuffled together
        **kwargs
    ):
        """`RecDataLoaders` of parquet (needs pyarrow, the extra 'parquet'); see `from_df`.

        It is read in parts, so that the table is never in memory as a whole: what stays of a row is 20 bytes, 4 more with times before 1970 or after 2038, or with `stream` nothing (see `StreamDataLoaders`; the split is then `valid_pct` and
        `seed`, or a column).
        """
        if stream:
            from .streaming import StreamDataLoaders
            return StreamDataLoaders.of_stream(file, columns, buffer, **kwargs)
        return cls.from_df(FileTable(file, columns=columns), **kwargs)

    @classmethod
    def from_interactions(cls,
        interactions:Interactions, # checked rows; with `weights` (see `Interactions.implicit`) they are implicit feedback
        splitter, # a splitter, or two or three index arrays
        item_df=None, user_df=None, title_name=None, n_neg:int=4, alpha:float=0., bs:int=None, path='.', device=None,
        liked:bool=False # of ratings: the target is whether they reach the user's own mean over the training rows
    ):
        "`RecDataLoaders` of checked interactions; arguments as in `from_df`."
        inter = interactions
        if inter.ratings is None and inter.weights is None:
            raise ValueError("the table has no rating column to learn from. Name it with rating_name=, or rank what users choose with target='implicit'")
        if liked and inter.weights is not None: raise ValueError('liked=True is for ratings, and these interactions are implicit feedback')
        split = make_split(inter, splitter)
        catalog = Catalog(inter, split, item_df, user_df, title_name, liked)
        if inter.weights is not None and n_neg is None: loaders = _user_loaders(catalog, bs)
        else:
            n_rows = len(inter.positive(split.train))
            if bs is None: bs = auto_batch_size(n_rows)
            elif n_rows < FEW_STEPS * bs and bs > auto_batch_size(n_rows):
                warn(f'bs={bs} leaves {-(-n_rows//bs)} steps an epoch for {n_rows:,} training rows: too few for a model to learn much. '
                     f'Try bs={auto_batch_size(n_rows)} (the default), or more epochs', stacklevel=3)
            loaders = _rating_loaders(catalog, bs) if inter.weights is None else _negatives_loaders(catalog, bs, n_neg, alpha) if n_neg else _in_batch_loaders(catalog, bs)
        res = cls(*loaders, path=path, device=device)
        res.split_by = describe_splitter(splitter)
        return res

    def rebuilt(self, interactions, split, item_df=None, user_df=None):
        "Loaders made as these were, of other interactions; metadata is that of these, with the rows of `item_df, user_df` added."
        train, old = self.train, self.catalog
        options = dict(n_neg=None if self.n_inp == 1 else getattr(train, 'n_neg', 4), alpha=train.sampler.alpha if isinstance(train, NegativesDL) else 0., liked=self.target == 'liked')
        metadata = {f'{side}_df': _joined(before, more, old.names[side], side) for side, before, more in (('item', old.item_df, item_df), ('user', old.user_df, user_df))}
        res = type(self).from_interactions(interactions, split, **metadata, title_name=old.title_name, bs=train.bs, path=self.path, device=self.device, **options)
        for dl, before in zip(res.loaders, self.loaders): dl.seed = before.seed
        res.split_by = f'{self.split_by}, then extended'
        return res

    def in_batch(self, bs:int=None):
        "Loaders of the same implicit feedback whose negatives are the other items of the batch (as `n_neg=0` makes them), with batches of the same size unless `bs` says otherwise."
        if self.target != 'implicit': raise ValueError(f"negatives are for implicit feedback, and these loaders hold a {self.target}: make them with target='implicit', n_neg=0")
        if bs is None: bs = self.train.bs if self.n_inp == 2 else auto_batch_size(len(self.catalog.interactions.positive(self.catalog.split.train)))
        res = type(self)(*_in_batch_loaders(self.catalog, bs), path=self.path, device=self.device)
        res.split_by = self.split_by
        return res

    def __repr__(self): return f"RecDataLoaders({self.target}, {', '.join(f'{name} {len(dl.dataset):,}' for name, dl in zip(Split._fields, self.loaders))}, bs {self.train.bs}, {self.catalog})"

    @property
    def catalog(self)->Catalog: return self.train.dataset.catalog
    @property
    def vocab(self): return self.catalog.vocab
    @property
    def n_users(self)->int: return self.catalog.n_users
    @property
    def n_items(self)->int: return self.catalog.n_items
    @property
    def item_df(self): return self.catalog.item_df
    @property
    def y_bounds(self)->tuple:
        "Lowest and highest rating of the table."
        y = self.catalog.require_history().ratings
        return float(y.min()), float(y.max())

    def standing_of_valid(self, scorer)->dict:
        "Group of `standing` -> share of the valid rows."
        inter, rows = self.catalog.require_history(), self.catalog.split.valid
        if not len(rows): return dict(all=1.)
        return {k: float(m.mean()) for k, m in standing(scorer, self.catalog, inter.users[rows], inter.items[rows]).items()}

    def new_empty(self): return type(self)(*(dl.new(dl.dataset.new_empty()) for dl in self.loaders), path=self.path, device=self.device)

    def with_catalog(self, catalog):
        "The same rows under a catalog that knows further items (see `Catalog.with_items`); negatives are drawn from the items of before."
        loaders = []
        for dl in self.loaders:
            loaders.append(copy(dl))
            loaders[-1].dataset = dl.dataset.with_catalog(catalog)
        return type(self)(*loaders, path=self.path, device=self.device)

    def summary(self)->str:
        "Users, items, rows and density, rows per user and item, and who is cold in each part."
        text = split_summary(self.catalog.require_history(), self.catalog.split)
        if self.target != 'liked': return text
        liked = ', '.join(f'{self.catalog.liked(rows).mean():.1%} of {name}' for name, rows in zip(Split._fields, self.catalog.split) if rows is not None)
        return f"{text}\nliked (at or above the user's mean over the training rows): {liked}"

    def show_batch(self, b=None, max_n:int=9, **kwargs):
        "Show rows of a training batch with ids and titles."
        return self.train.show_batch(b, max_n, **kwargs)

    def test_dl(self,
        test_items, # a table with user and item columns, or a list of (user, item) pairs
        with_labels:bool=False, # take targets from the table's rating column
        bs:int=None, **kwargs # (fastai passes rm_type_tfms, num_workers and process, which mean nothing here)
    ):
        "A loader of pairs to predict, in the order given; unknown ids raise a `KeyError`. Of context that the table has no column of, nothing is given."
        catalog, names = self.catalog, self.catalog.names
        if not isinstance(test_items, pd.DataFrame):
            pairs = list(test_items)
            if not all(isinstance(o, (tuple, list)) and len(o) == 2 for o in pairs): raise ValueError(f'expected a table, or a list of (user, item) pairs, got {_some(pairs, 3)}')
            if with_labels: raise ValueError('pairs have no labels: give a table with a rating column')
            test_items = pd.DataFrame({'user': [o[0] for o in pairs], 'item': [o[1] for o in pairs]})
        codes = [catalog.vocab[side].encode(test_items[column_of(test_items, side, names)]) for side in ('user', 'item')]
        if n := int(cold_mask(catalog, *codes).sum()): warn(f'{n:,} of {len(codes[0]):,} pairs have a user or an item without training rows: unless the model reads their features, they are predicted as the average one', stacklevel=2)
        tensors = [torch.from_numpy(o) for o in codes]
        if self.n_inp == 3: tensors.append(torch.from_numpy(catalog.context_of.encode(test_items)))
        if with_labels:
            ratings = test_items[column_of(test_items, 'rating', names)].to_numpy()
            tensors.append(torch.tensor(ratings if catalog.thresholds is None else ratings >= catalog.thresholds[codes[0]], dtype=torch.float32))
        dataset = InteractionDataset(tensors, None, catalog, 3 if self.n_inp == 3 else 2)
        return InteractionDL(dataset, bs=bs or max(self.valid.bs, 4096), device=self.device)


def _joined(before, more, id_name, side):
    "Metadata `before` (which has the column `id_name`) with the rows of `more`, which count where both have an id."
    if more is None: return before
    more = more.rename(columns={column_of(more, side, {side: id_name}): id_name})
    return more if before is None else pd.concat([before, more]).drop_duplicates(id_name, keep='last', ignore_index=True)


def _parts(split): return [o for o in split if o is not None]


def _rating_loaders(catalog, bs):
    inter = catalog.interactions
    target = inter.ratings if catalog.thresholds is None else catalog.liked(slice(None)).astype(np.float32)
    columns = [torch.from_numpy(o) for o in (inter.users, inter.items, inter.context, target, inter.row_weights) if o is not None]
    return [InteractionDL(InteractionDataset(columns, torch.from_numpy(rows), catalog, 2 if inter.context is None else 3), bs=bs if i == 0 else max(bs, 4096), shuffle=i == 0)
            for i, rows in enumerate(_parts(catalog.split))]


def _seen_until(split, i): return np.concatenate(_parts(split)[:i + 1])


def _negatives_loaders(catalog, bs, n_neg, alpha):
    "Training never draws what a user has in train, validation also not what it has in valid, and so on: excluding held-out items from training would give them away."
    inter = catalog.interactions
    if n_neg < 1: raise ValueError(f'n_neg={n_neg}: negatives for each positive, 0 for those of the batch, or None for an objective over the whole catalogue')
    columns = [torch.from_numpy(o) for o in (inter.users, inter.items)]
    if (inter.weights[inter.positive()] != 1).any(): columns.append(torch.from_numpy(inter.weights))
    loaders = []
    for i, rows in enumerate(_parts(catalog.split)):
        sampler = NegativeSampler(catalog.seen if i == 0 else catalog.matrix(_seen_until(catalog.split, i)), alpha)
        positives = inter.positive(rows)
        if len(rows) and not len(positives): raise ValueError(f"the {catalog.split._fields[i]} part has no positives ({len(rows):,} rows are below the threshold)")
        left = sampler.left()[np.unique(inter.users[positives])]
        if len(left) and left.min() < n_neg:
            raise ValueError(f'n_neg={n_neg} negatives cannot be drawn for {int((left < n_neg).sum()):,} users, who leave as few as {left.min()} of {catalog.n_items:,} items unseen. Take n_neg={max(int(left.min()), 1)} or less, '
                             'drop those users, or n_neg=None for an objective over the whole catalogue')
        loaders.append(NegativesDL(InteractionDataset(columns, torch.from_numpy(positives), catalog), sampler, n_neg, neg_seed=None if i == 0 else i,
                                   bs=bs if i == 0 else max(bs, 4096), shuffle=i == 0))
    return loaders


def _in_batch_loaders(catalog, bs):
    "What a user has up to a part is no negative in it, as in `_negatives_loaders`."
    inter, loaders = catalog.interactions, []
    columns = [torch.from_numpy(o) for o in (inter.users, inter.items)]
    if (inter.weights[inter.positive()] != 1).any(): columns.append(torch.from_numpy(inter.weights))
    for i, rows in enumerate(_parts(catalog.split)):
        positives = inter.positive(rows)
        if len(rows) and not len(positives): raise ValueError(f"the {catalog.split._fields[i]} part has no positives ({len(rows):,} rows are below the threshold)")
        seen = catalog.seen if i == 0 else catalog.matrix(_seen_until(catalog.split, i))
        loaders.append(InBatchDL(InteractionDataset(columns, torch.from_numpy(positives), catalog), seen, bs=bs, shuffle=i == 0))
    return loaders


def _user_loaders(catalog, bs):
    inter, split, loaders = catalog.interactions, catalog.split, []
    bs = user_batch_size(catalog.n_users, catalog.n_items) if bs is None else bs
    for i, rows in enumerate(_parts(split)):
        masked = None if i == 0 else catalog.matrix(_seen_until(split, i - 1))
        loaders.append(UserDL(UserDataset(catalog.matrix(inter.positive(rows)), masked, catalog), bs=bs, shuffle=i == 0))
    return loaders


def _positions(mask):
    "Where `mask` is True: int64, in large tables int32."
    if len(mask) < LARGE: return np.flatnonzero(mask)
    return np.concatenate([(np.flatnonzero(mask[i:i + CHUNK]) + i).astype(np.int32) for i in range(0, len(mask), CHUNK)])


def _default_splitter(valid_pct, seed):
    if valid_pct == 0: return everything
    if not 0 < valid_pct < 1: raise ValueError(f'valid_pct={valid_pct}: a share between 0 and 1, or 0 to train on every row')
    def split(inter):
        order = np.arange(len(inter), dtype=np.int32 if len(inter) < 2**31 else np.int64)
        np.random.default_rng(seed).shuffle(order)
        valid = np.zeros(len(inter), bool)
        valid[order[:max(1, int(round(valid_pct * len(inter))))]] = True
        del order
        return Split(*(_positions(o) for o in (~valid, valid)))
    return split
