"""From interactions to batches that are slices of tensors: every row once an epoch, permuted on the device."""

from __future__ import annotations

from copy import copy
from types import MethodType

import numpy as np
import pandas as pd
import torch
from fastai.data.core import TfmdDL
from fastcore.imports import IN_NOTEBOOK
from fastcore.meta import delegates
from scipy.sparse import csr_matrix

from ..data.splits import LARGE

__all__ = ['InBatchDL', 'InteractionDL', 'InteractionDataset', 'NegativesDL', 'UserDL']

CHUNK_ROWS = 2**20  # rows gathered at a time; batches are views of them


class InteractionDataset:
    """Columns of interactions, `(users, items[, context][, target[, weight]])`, and which rows of them belong to this part.

    The list `columns` is shared between the parts of a split, so a move to another device happens once and in place; `rows` (int64, or
    None: all) selects. With context (`n_inp=3`) there is a column int64 (n, C) of it, see `Context`.
    """

    def __init__(self, columns, rows, catalog, n_inp: int = 2):
        self.columns, self.rows, self.catalog, self.n_inp = columns, rows, catalog, n_inp

    def __len__(self):
        return len(self.columns[0]) if self.rows is None else len(self.rows)

    def __getitem__(self, idx):
        """Tensors of the samples `idx` (int64 tensor): int64 codes, float32 target."""
        if self.rows is not None:
            idx = self.rows.index_select(0, idx.long())
        idx = idx.long()
        users, items, *target = (o.index_select(0, idx) for o in self.columns)  # a quarter of the time of o[idx]
        return (users.long(), items.long(), *target)

    def subset(self, users, items):
        """The rows of this part whose user or item is in the bool masks (n_users,), (n_items,)."""
        rows = torch.arange(len(self), device=self.device) if self.rows is None else self.rows
        u, i = (torch.as_tensor(m, device=self.device)[o[rows].long()] for m, o in zip((users, items), self.columns))
        return type(self)(self.columns, rows[u | i], self.catalog, self.n_inp)

    @property
    def device(self):
        return self.columns[0].device

    def to(self, device):
        """Move to `device` in place; returns self."""
        if self.device != device:
            self.columns[:] = [o.to(device) for o in self.columns]
        if self.rows is not None and self.rows.device != device:
            self.rows = self.rows.to(device)
        return self

    def new_empty(self):
        """No rows (in fresh storage, so that nothing travels with a pickle) and a catalog without history."""
        return InteractionDataset(
            [o.new_empty(0) for o in self.columns], None, self.catalog.without_history(), self.n_inp
        )

    def with_catalog(self, catalog):
        """The same rows under a catalog that knows further items."""
        return InteractionDataset(self.columns, self.rows, catalog, self.n_inp)

    @property
    def items(self) -> pd.DataFrame:
        """The rows as a table of ids; fastai's `Interpretation` asks for it."""
        users, items, *rest = self[torch.arange(len(self), device=self.device)]
        return decode(self.catalog, users, items, *rest[self.n_inp - 2 : self.n_inp - 1])


def decode(catalog, users, items, target=None, target_name: str = 'rating', **more) -> pd.DataFrame:
    """A table of ids and titles from tensors of codes, one row per pair; more columns by name."""
    if items.dim() > 1:
        users = users[:, None].expand(-1, items.shape[1])
    users, items = users.reshape(-1).cpu().numpy(), items.reshape(-1).cpu().numpy()
    df = pd.DataFrame(dict(user=catalog.vocab['user'].decode(users), item=catalog.vocab['item'].decode(items)))
    if catalog.title_name is not None:
        df['title'] = catalog.titles(items)
    if target is not None:
        df[target_name] = target.reshape(-1).cpu().numpy()
    for k, v in more.items():
        df[k] = v.reshape(-1).float().cpu().numpy()
    return df


def show_table(df):
    """Display a table: as HTML in a notebook, as text elsewhere."""
    if IN_NOTEBOOK:
        from IPython.display import HTML, display

        display(HTML(df.to_html(index=False)))
    else:
        print(df.to_string(index=False))


@delegates()
class InteractionDL(TfmdDL):
    """Batches `(users, items[, target])` sliced from tensors: codes int64 `(bs,)`, target float32 `(bs,)`.

    Every row comes once an epoch, in a fresh order with `shuffle`. Samples are vectorised, so there is nothing for worker processes to do.
    """

    def __init__(
        self,
        dataset,  # an `InteractionDataset`
        bs: int = 256,  # rows per batch
        shuffle: bool = False,  # a new order each epoch
        drop_last: bool = False,  # leave out a last batch that is smaller
        num_workers: int = 0,  # must be 0
        seed: int = None,  # order of rows independent of torch's global generator
        **kwargs,
    ):
        if num_workers:
            raise ValueError(
                f'num_workers={num_workers}: batches are slices of tensors in memory, which workers would only copy; leave it at 0'
            )
        if bs is None or bs < 1:
            raise ValueError(f'bs={bs}: give a batch size of at least 1')
        self.seed, self._generator = seed, None
        super().__init__(dataset, bs=bs, shuffle=shuffle, drop_last=drop_last, num_workers=0, **kwargs)

    def new(self, dataset=None, cls=None, **kwargs):
        return super().new(dataset, cls, **{**dict(seed=self.seed), **kwargs})

    def _one_pass(self):
        self._n_inp, self._types = (
            self.dataset.n_inp,
            {
                tuple: [torch.Tensor] * max(3, len(self.dataset.columns))
                if self.dataset.n_inp != 1
                else [torch.Tensor] * 3
            },
        )

    def generator(self, device):
        """None: torch's own; with a `seed` a generator of this loader."""
        if self.seed is None:
            return None
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device).manual_seed(self.seed)
        return self._generator

    def order(self):
        """A fresh order of the samples, int64 tensor `(n,)` (int32 from 16 million on) on the device of the data."""
        device = self._placed().device
        kind = dict(device=device, dtype=torch.int64 if self.n < LARGE else torch.int32)
        return (
            torch.randperm(self.n, generator=self.generator(device), **kind)
            if self.shuffle
            else torch.arange(self.n, **kind)
        )

    def get_idxs(self):
        """`order` on the CPU, where fastai's `get_preds` sorts predictions back by it."""
        return self.order().cpu()

    def _placed(self):
        """The dataset, on the loader's device."""
        return self.dataset if self.device is None else self.dataset.to(self.device)

    def create_batches(self, samps):
        dataset = self._placed()
        idx = samps if isinstance(samps, torch.Tensor) else torch.as_tensor(np.fromiter(samps, np.int64))
        idx = idx.to(dataset.device)
        if self.drop_last:
            idx = idx[: len(idx) // self.bs * self.bs]
        if not len(idx):
            return
        for chunk in idx.split(max(1, CHUNK_ROWS // self.width // self.bs) * self.bs):
            yield from zip(*(o.split(self.bs) for o in self.columns_of(dataset[chunk])))

    width = 1  # values that a row becomes

    def columns_of(self, columns):
        """What batches are slices of, from the dataset's columns for a chunk of samples."""
        return columns

    def __iter__(self):
        self.randomize()
        self.before_iter()
        tfm = (
            self.after_batch if getattr(self.after_batch, 'fs', True) else None
        )  # an empty Pipeline costs more than the slice
        pinned = not isinstance(self.get_idxs, MethodType)  # as `get_preds` does
        for b in self.create_batches(self.get_idxs() if pinned else self.order()):
            yield b if tfm is None else tfm(b)
        self.after_iter()

    def decode_batch(self, b, max_n: int = 9, **more) -> pd.DataFrame:
        """The first rows of a batch with ids and titles."""
        catalog, n_inp = self.dataset.catalog, self.dataset.n_inp
        df = decode(
            catalog,
            *(o[:max_n] for o in (*b[:2], *b[n_inp : n_inp + 1])),
            target_name='rating' if catalog.thresholds is None else 'liked',
            **{k: v[:max_n] for k, v in more.items()},
        )
        return df if n_inp == 2 else pd.concat([df, catalog.context_of.decode(b[2][:max_n].cpu().numpy())], axis=1)

    def show_batch(self, b=None, max_n: int = 9, show: bool = True, **kwargs):
        """Show the first `max_n` rows of a batch as a table of ids and titles (or return it with `show=False`)."""
        df = self.decode_batch(self.one_batch() if b is None else b, max_n)
        return show_table(df) if show else df

    def show_results(self, b, out, max_n: int = 9, show: bool = True, **kwargs):
        """Show targets beside predictions `out` for a batch, with ids and titles."""
        df = self.decode_batch(b, max_n, prediction=out[0] if isinstance(out, tuple) else out)
        return show_table(df) if show else df


class NegativesDL(InteractionDL):
    """Batches of positives with negatives drawn for them: `(users (B,), items (B, 1 + n_neg), target (B, 1 + n_neg)[, weight (B,)])`.

    The positive is in column 0, where the target is 1. Training draws fresh negatives each epoch; with `neg_seed` (validation) they are the same at each pass.
    """

    def __init__(self, dataset, sampler=None, n_neg: int = 4, neg_seed: int = None, **kwargs):
        self.sampler, self.n_neg, self.neg_seed = sampler, n_neg, neg_seed
        super().__init__(dataset, **kwargs)

    @property
    def width(self):
        return 1 + self.n_neg

    def decode_batch(self, b, max_n: int = 9, **more) -> pd.DataFrame:
        """The first positives of a batch with their negatives: a row a pair, with its label."""
        return decode(
            self.dataset.catalog,
            *(o[:max_n] for o in b[:3]),
            target_name='label',
            **{k: v[:max_n] for k, v in more.items()},
        )

    def new(self, dataset=None, cls=None, **kwargs):
        keep = dict(
            n_neg=self.n_neg, neg_seed=self.neg_seed, sampler=None if dataset is not None else self.sampler
        )  # a sampler belongs to its dataset, and knows what was seen
        return super().new(dataset, cls, **{**keep, **kwargs})

    def create_batches(self, samps):
        self._negatives = (
            None if self.neg_seed is None else torch.Generator(self._placed().device).manual_seed(self.neg_seed)
        )
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
        for users, items, *weight in super().create_batches(samps):
            yield (*self.candidates(users, items), *weight)

    def candidates(self, users, items):
        """-> users (B,), distinct items (1, C), target (B, C) of positives (B,), (B,)."""
        if self._index is None or self._index[0].device != users.device:
            self._index = [
                torch.from_numpy(o).to(users.device) for o in (self.seen.indptr.astype(np.int64), self.seen.indices)
            ] + [torch.full((self.seen.shape[1],), -1, device=users.device)]
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
        target[torch.repeat_interleave(rows, n, output_size=len(at))[there], hit[there]] = -1.0
        target[rows, own] = 1.0
        column[columns] = -1
        return users, columns[None], target

    def decode_batch(self, b, max_n: int = 9, **more) -> pd.DataFrame:
        """The first positives of a batch, each with the number of its negatives there and of accidental hits."""
        users, items, target = b[0][:max_n], b[1][0], b[2][:max_n]
        own = target.argmax(1)
        more = {k: v[:max_n].gather(1, own[:, None]) if v.ndim == 2 else v[:max_n] for k, v in more.items()}
        return decode(
            self.dataset.catalog, users, items[own], negatives=(target == 0).sum(1), hits=(target < 0).sum(1), **more
        ).astype(dict(negatives=int, hits=int))

    def pairs(self) -> InteractionDL:
        """A loader of the positives as pairs `(users, items)`, without a target: what `get_preds` scores."""
        return InteractionDL(
            InteractionDataset(self.dataset.columns[:2], self.dataset.rows, self.dataset.catalog),
            bs=max(self.bs, 4096),
            device=self.device,
        )


class UserDataset:
    """Users and the rows of two CSR matrices that belong to them: positives to predict, and items that are no candidates (None: none).

    A sample is a user: `(user, target (n_items,))`, where the target is the weight of a positive, -1 for a masked item and 0 elsewhere.
    """

    n_inp = 1

    def __init__(self, positives, masked, catalog):
        self.positives, self.masked, self.catalog = positives, masked, catalog
        self.users = torch.from_numpy(np.flatnonzero(np.diff(positives.indptr)))
        self.cold = torch.from_numpy(
            ~catalog.known('item')
        )  # in training no candidates: nothing says that nobody wants them

    def __len__(self):
        return len(self.users)

    def __getitem__(self, idx):
        return (self.users[idx],)

    @property
    def device(self):
        return self.users.device

    def to(self, device):
        """Move to `device` in place; returns self."""
        self.users = self.users.to(device)
        return self

    def subset(self, users, items):
        """The users of this part who are in the bool mask (n_users,), or have an item of the mask (n_items,)."""
        res = copy(self)
        wanted = torch.from_numpy(np.asarray(users) | (self.positives @ np.asarray(items, np.float32) > 0)).to(
            self.device
        )
        res.users = self.users[wanted[self.users]]
        return res

    def targets(self, users) -> torch.Tensor:
        """float32 (B, n_items) for codes of users."""
        rows = users.cpu().numpy()
        target = torch.zeros(len(rows), self.positives.shape[1])
        if self.masked is None:
            target[:, self.cold] = -1.0
        for matrix, value in ((self.masked, -1.0), (self.positives, None)):
            if matrix is None:
                continue
            part = matrix[rows]
            at = (
                torch.from_numpy(np.repeat(np.arange(len(rows)), np.diff(part.indptr))),
                torch.from_numpy(part.indices.astype(np.int64)),
            )
            target[at] = torch.from_numpy(part.data) if value is None else value
        return target.to(users.device)

    def new_empty(self):
        """No rows, and a catalog without history."""
        return UserDataset(
            csr_matrix((0, self.positives.shape[1]), dtype=np.float32), None, self.catalog.without_history()
        )

    def with_catalog(self, catalog):
        """The same users under a catalog that knows further items, which are no candidates in training."""
        wider = lambda m: (
            m if m is None else csr_matrix((m.data, m.indices, m.indptr), shape=(m.shape[0], catalog.n_items))
        )
        return UserDataset(wider(self.positives), wider(self.masked), catalog)

    @property
    def items(self) -> pd.DataFrame:
        """The users as a table; fastai's `Interpretation` asks for it."""
        return pd.DataFrame(dict(user=self.catalog.vocab['user'].decode(self.users.cpu().numpy())))


class UserDL(InteractionDL):
    """Batches of users with all their positives, for objectives over the whole catalogue: `(users (B,), target (B, n_items))`; see `UserDataset`."""

    def columns_of(self, columns):
        return columns

    def create_batches(self, samps):
        for (users,) in super().create_batches(samps):
            yield users, self.dataset.targets(users)

    def decode_batch(self, b, max_n: int = 9, **more) -> pd.DataFrame:
        """The first users of a batch with the number of their positives and the best known of them."""
        catalog, rows = self.dataset.catalog, []
        for user, target in zip(b[0][:max_n], b[1][:max_n]):
            items = (target > 0).nonzero().squeeze(1).cpu().numpy()
            best = items[np.argsort(-catalog.counts['item'][items], kind='stable')][:3]
            rows.append(
                dict(
                    user=catalog.vocab['user'].decode([int(user)])[0],
                    positives=len(items),
                    among_them=', '.join(map(str, catalog.titles(best))),
                )
            )
        return pd.DataFrame(rows)


def user_batch_size(n_users: int, n_items: int) -> int:
    """A power of two from 16 on that leaves about 25 steps an epoch, with at most 128 MiB of scores per batch."""
    return int(2 ** np.round(np.log2(np.clip(n_users / 24, 16, max(16, 2**25 / n_items)))))


def auto_batch_size(n: int) -> int:
    """A power of two from 16 to 8192 that leaves about 300 steps an epoch; measured on ml-latest-small, where 90,000 rows do best at 256."""
    return int(2 ** np.clip(np.round(np.log2(max(n, 1) / 300)), 4, 13))
