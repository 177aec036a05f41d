"""From tables to fastai `DataLoaders` that slice tensors: every row once an epoch, permuted on the device."""
from __future__ import annotations

from warnings import warn

import numpy as np
import pandas as pd
import torch
from fastai.data.core import DataLoaders, TfmdDL
from fastai.torch_core import default_device
from fastcore.imports import IN_NOTEBOOK
from fastcore.meta import delegates

from .catalog import Catalog
from .interactions import Interactions, _find_columns
from .splits import Split, make_split, split_summary

__all__ = ['InteractionDataset', 'InteractionDL', 'RecDataLoaders']

CHUNK_ROWS = 2**20  # rows gathered at a time; batches are views of them
FEW_STEPS = 20


class InteractionDataset:
    """Columns of interactions, `(users, items[, target])`, and which rows of them belong to this part.

    The list `columns` is shared between the parts of a split, so a move to another device happens once and in place; `rows` (int64, or
    None: all) selects.
    """
    n_inp = 2

    def __init__(self, columns, rows, catalog):
        self.columns, self.rows, self.catalog = columns, rows, catalog

    def __len__(self): return len(self.columns[0]) if self.rows is None else len(self.rows)

    def __getitem__(self, idx):
        "Tensors of the samples `idx` (int64 tensor): int64 codes, float32 target."
        if self.rows is not None: idx = self.rows[idx]
        users, items, *target = (o[idx] for o in self.columns)
        return (users.long(), items.long(), *target)

    @property
    def device(self): return self.columns[0].device

    def to(self, device):
        "Move to `device` in place; returns self."
        if self.device != device: self.columns[:] = [o.to(device) for o in self.columns]
        if self.rows is not None and self.rows.device != device: self.rows = self.rows.to(device)
        return self

    def new_empty(self):
        "No rows (in fresh storage, so that nothing travels with a pickle) and a catalog without history."
        return InteractionDataset([o.new_empty(0) for o in self.columns], None, self.catalog.without_history())

    @property
    def items(self)->pd.DataFrame:
        "The rows as a table of ids; fastai's `Interpretation` asks for it."
        return decode(self.catalog, *self[torch.arange(len(self), device=self.device)])


def decode(catalog, users, items, target=None, **more)->pd.DataFrame:
    "A table of ids and titles from tensors of codes, one row per pair."
    if items.dim() > 1: users = users[:, None].expand(-1, items.shape[1])
    users, items = users.reshape(-1).cpu().numpy(), items.reshape(-1).cpu().numpy()
    df = pd.DataFrame(dict(user=catalog.vocab['user'].decode(users), item=catalog.vocab['item'].decode(items)))
    if catalog.title_name is not None: df['title'] = catalog.titles(items)
    if target is not None: df['rating'] = target.reshape(-1).cpu().numpy()
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

    def _one_pass(self): self._n_inp, self._types = self.dataset.n_inp, {tuple: [torch.Tensor]*3}

    def generator(self, device):
        "None: torch's own; with a `seed` a generator of this loader."
        if self.seed is None: return None
        if self._generator is None or self._generator.device != device: self._generator = torch.Generator(device).manual_seed(self.seed)
        return self._generator

    def get_idxs(self):
        "Order of this epoch's samples, int64 tensor `(n,)` on the device of the data."
        device = self._placed().device
        return torch.randperm(self.n, generator=self.generator(device), device=device) if self.shuffle else torch.arange(self.n, device=device)

    def _placed(self):
        "The dataset, on the loader's device."
        return self.dataset if self.device is None else self.dataset.to(self.device)

    def create_batches(self, samps):
        dataset = self._placed()
        idx = samps if isinstance(samps, torch.Tensor) else torch.as_tensor(np.fromiter(samps, np.int64))
        idx = idx.to(dataset.device)
        if self.drop_last: idx = idx[:len(idx) // self.bs * self.bs]
        for chunk in idx.split(max(1, CHUNK_ROWS // self.bs) * self.bs):
            yield from zip(*(o.split(self.bs) for o in dataset[chunk]))

    def __iter__(self):
        self.randomize()
        self.before_iter()
        tfm = self.after_batch if getattr(self.after_batch, 'fs', True) else None  # an empty Pipeline costs more than the slice
        for b in self.create_batches(self.get_idxs()): yield b if tfm is None else tfm(b)
        self.after_iter()

    def decode_batch(self, b, max_n:int=9, **more)->pd.DataFrame:
        "The first rows of a batch with ids and titles."
        return decode(self.dataset.catalog, *(o[:max_n] for o in b), **{k: v[:max_n] for k, v in more.items()})

    def show_batch(self, b=None, max_n:int=9, show:bool=True, **kwargs):
        "Show the first `max_n` rows of a batch as a table of ids and titles (or return it with `show=False`)."
        df = self.decode_batch(self.one_batch() if b is None else b, max_n)
        return show_table(df) if show else df

    def show_results(self, b, out, max_n:int=9, show:bool=True, **kwargs):
        "Show targets beside predictions `out` for a batch, with ids and titles."
        df = self.decode_batch(b, max_n, prediction=out[0] if isinstance(out, tuple) else out)
        return show_table(df) if show else df


def auto_batch_size(n:int)->int:
    "A power of two from 16 to 8192 that leaves about 300 steps an epoch; measured on ml-latest-small, where 90,000 rows do best at 256."
    return int(2 ** np.clip(np.round(np.log2(max(n, 1) / 300)), 4, 13))


class RecDataLoaders(DataLoaders):
    """`DataLoaders` of a rating table: `train`, `valid` and, if the split has one, `test` (`dls[2]`).

    `catalog` knows ids, metadata and history; `vocab` is `{'user': Vocab, 'item': Vocab}`. `print(dls.summary())` tells what is in each part.
    """
    def __init__(self, *loaders, path='.', device=None):
        super().__init__(*loaders, path=path, device=device if device is not None else default_device())
        self.n_inp = loaders[0].dataset.n_inp

    @classmethod
    def from_df(cls,
        df:pd.DataFrame, # one row per interaction
        valid_pct:float=0.2, # share of rows in valid, if no splitter is given
        seed:int=None, # of that random split
        splitter=None, # a splitter (fastai's or ours), the name of a column, or two or three index arrays
        item_df:pd.DataFrame=None, # what is known of items: a column of ids, and e.g. title, year, genres
        user_df:pd.DataFrame=None, # what is known of users
        user_name:str=None, # column of user ids
        item_name:str=None, # column of item ids
        rating_name:str=None, # column of ratings
        time_name:str=None, # column of times
        title_name:str=None, # column of `item_df` with the titles
        duplicates:str='error', # repeated user-item pairs: 'error', 'first', 'last' or 'mean'
        bs:int=None, # batch size; by default a power of two that leaves about 300 steps an epoch
        path='.', # where learners save models
        device=None # where batches are made; by default fastai's default device
    ):
        "`RecDataLoaders` of a table; columns not named are found by their usual names, else by position (user, item, rating, time)."
        inter = Interactions.from_df(df, user_name, item_name, rating_name, time_name, duplicates)
        split = make_split(inter, _default_splitter(valid_pct, seed) if splitter is None else splitter, df)
        return cls.from_interactions(inter, split, item_df=item_df, user_df=user_df, title_name=title_name, bs=bs, path=path, device=device)

    @classmethod
    @delegates(from_df)
    def from_csv(cls, csv, sep:str=',', **kwargs):
        "`RecDataLoaders` of a CSV file; see `from_df`."
        return cls.from_df(pd.read_csv(csv, sep=sep), **kwargs)

    @classmethod
    @delegates(from_df)
    def from_parquet(cls, file, columns:list=None, **kwargs):
        "`RecDataLoaders` of a parquet file (`columns`: read only these; needs pyarrow, the extra 'parquet'); see `from_df`."
        try: df = pd.read_parquet(file, columns=columns)
        except ImportError as e: raise ImportError("reading parquet needs pyarrow: pip install 'fastrec-learn[parquet]'") from e
        return cls.from_df(df, **kwargs)

    @classmethod
    def from_interactions(cls,
        interactions:Interactions,
        splitter, # a splitter, or two or three index arrays
        item_df=None, user_df=None, title_name=None, bs:int=None, path='.', device=None
    ):
        "`RecDataLoaders` of checked interactions."
        inter = interactions
        if inter.ratings is None:
            raise ValueError('the table has no rating column to learn from. Name it with rating_name=')
        split = make_split(inter, splitter)
        if bs is None: bs = auto_batch_size(len(split.train))
        elif len(split.train) < FEW_STEPS * bs and bs > auto_batch_size(len(split.train)):
            warn(f'bs={bs} leaves {-(-len(split.train)//bs)} steps an epoch for {len(split.train):,} training rows: too few for a model to learn much. '
                 f'Try bs={auto_batch_size(len(split.train))} (the default), or more epochs')
        catalog = Catalog(inter, split, item_df, user_df, title_name)
        columns = [torch.from_numpy(o) for o in (inter.users, inter.items, inter.ratings)]
        loaders = [InteractionDL(InteractionDataset(columns, torch.from_numpy(rows), catalog), bs=bs if i == 0 else max(bs, 4096), shuffle=i == 0)
                   for i, rows in enumerate(o for o in split if o is not None)]
        return cls(*loaders, path=path, device=device)

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

    def new_empty(self): return type(self)(*(dl.new(dl.dataset.new_empty()) for dl in self.loaders), path=self.path, device=self.device)

    def summary(self)->str:
        "Users, items, rows and density, rows per user and item, and who is cold in each part."
        return split_summary(self.catalog.require_history(), self.catalog.split)

    def show_batch(self, b=None, max_n:int=9, **kwargs):
        "Show rows of a training batch with ids and titles."
        return self.train.show_batch(b, max_n, **kwargs)

    def test_dl(self,
        test_items, # a table with user and item columns, or a list of (user, item) pairs
        with_labels:bool=False, # take targets from the table's rating column
        bs:int=None, **kwargs # (fastai passes rm_type_tfms, num_workers and process, which mean nothing here)
    ):
        "A loader of pairs to predict, in the order given; unknown ids raise a `KeyError`."
        catalog, names = self.catalog, self.catalog.names
        if not isinstance(test_items, pd.DataFrame):
            pairs = [tuple(o[names[c]] for c in ('user', 'item')) if hasattr(o, 'keys') else tuple(o)[:2] for o in test_items]
            if not all(len(o) == 2 for o in pairs): raise ValueError('expected (user, item) pairs')
            test_items, with_labels = pd.DataFrame({'user': [o[0] for o in pairs], 'item': [o[1] for o in pairs]}), False
        columns = [_role(test_items, names, role) for role in ('user', 'item')]
        tensors = [torch.from_numpy(catalog.vocab[side].encode(test_items[c])) for side, c in zip(('user', 'item'), columns)]
        if with_labels: tensors.append(torch.tensor(test_items[_role(test_items, names, 'rating')].to_numpy(), dtype=torch.float32))
        dataset = InteractionDataset(tensors, None, catalog)
        return InteractionDL(dataset, bs=bs or self.valid.bs, device=self.device)


def _role(df, names, role):
    "Column of `df` that plays `role`: as in training, else by its usual name."
    return names[role] if names.get(role) in df.columns else _find_columns(df, dict(user=None, item=None, rating=None, time=None))[role]


def _default_splitter(valid_pct, seed):
    if not 0 < valid_pct < 1: raise ValueError(f'valid_pct={valid_pct}: a share between 0 and 1')
    def split(inter):
        order = np.random.default_rng(seed).permutation(len(inter))
        n = max(1, int(round(valid_pct * len(inter))))
        return Split(np.sort(order[n:]), np.sort(order[:n]))
    return split
