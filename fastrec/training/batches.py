"""From interactions to batches that are slices of tensors: every row once an epoch, permuted on the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from types import MethodType
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from fastai.data.core import TfmdDL
from fastcore.imports import IN_NOTEBOOK
from fastcore.meta import delegates
from fasttransform import Pipeline
from scipy.sparse import csr_matrix

from ..data.catalog import Catalog
from ..data.sampling import NegativeSampler
from ..data.splits import LARGE

__all__ = ['InBatchDL', 'InteractionDL', 'InteractionDataset', 'NegativesDL', 'UnseenDL', 'UserDL']

GATHERED_ROWS = 2**20  # rows gathered at a time; batches are views of them
SCORING_BATCH = 4096  # rows per batch, at least, where nothing is trained


class RecDataset(Protocol):
    """What loaders, and learners through them, ask of the rows of one part of a split."""

    n_inp: int  # tensors of a batch that go into the model, where fastai cuts it: 1 (users), 2 (pairs), 3 (and context)
    catalog: Catalog

    def __len__(self) -> int: ...

    def new_empty(self) -> RecDataset:
        """No rows, and a catalog without history: what is exported."""

    def with_catalog(self, catalog: Catalog) -> RecDataset:
        """The same rows under a catalog that knows further items."""

    def subset(self, users: np.ndarray, items: np.ndarray) -> RecDataset:
        """The rows whose user or item is in the bool masks (n_users,), (n_items,)."""

    @property
    def items(self) -> pd.DataFrame:
        """The rows as a table of ids; fastai's `Interpretation` asks for it."""


class InteractionDataset:
    """Columns of interactions, `(users, items[, context][, target[, weight]])`, and which rows of them are this part's.

    The list `columns` is shared between the parts of a split, so a move to another device happens once and in place;
    `rows` (int64, or None: all) selects. With context (`n_inp=3`) there is a column int64 (n, C) of it, see `Context`.
    """

    def __init__(
        self,
        columns: list[torch.Tensor],  # of one length: int codes, float32 target and weight
        rows: torch.Tensor | None,  # positions in the columns, int64 (int32 in large tables); None: all
        catalog: Catalog,  # who and what the codes are
        n_inp: int = 2,  # inputs of the model: 3 with context
    ) -> None:
        self.columns = columns
        self.rows = rows
        self.catalog = catalog
        self.n_inp = n_inp

    def __len__(self) -> int:
        return len(self.columns[0]) if self.rows is None else len(self.rows)

    def __getitem__(self, idx: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tensors of the samples `idx` (int tensor): int64 codes, float32 target."""
        if self.rows is not None:
            idx = self.rows.index_select(0, idx.long())
        idx = idx.long()
        users, items, *target = (o.index_select(0, idx) for o in self.columns)  # a quarter of the time of o[idx]
        return (users.long(), items.long(), *target)

    def subset(
        self,
        users: np.ndarray,  # bool (n_users,)
        items: np.ndarray,  # bool (n_items,)
    ) -> InteractionDataset:
        """The rows of this part whose user or item is in the bool masks (n_users,), (n_items,)."""
        rows = torch.arange(len(self), device=self.device) if self.rows is None else self.rows
        of_users = torch.as_tensor(users, device=self.device)[self.columns[0][rows].long()]
        of_items = torch.as_tensor(items, device=self.device)[self.columns[1][rows].long()]
        return type(self)(self.columns, rows[of_users | of_items], self.catalog, self.n_inp)

    @property
    def device(self) -> torch.device:
        """Where the columns are."""
        return self.columns[0].device

    def to(
        self,
        device: torch.device,  # where to
    ) -> InteractionDataset:
        """Move to `device` in place; returns self."""
        if self.device != device:
            self.columns[:] = [o.to(device) for o in self.columns]
        if self.rows is not None and self.rows.device != device:
            self.rows = self.rows.to(device)
        return self

    def new_empty(self) -> InteractionDataset:
        """No rows (in fresh storage, so that nothing travels with a pickle) and a catalog without history."""
        columns = [o.new_empty(0) for o in self.columns]
        return InteractionDataset(columns, None, self.catalog.without_history(), self.n_inp)

    def with_catalog(
        self,
        catalog: Catalog,  # with the items there are, in their order, then further ones
    ) -> InteractionDataset:
        """The same rows under a catalog that knows further items."""
        return InteractionDataset(self.columns, self.rows, catalog, self.n_inp)

    @property
    def items(self) -> pd.DataFrame:
        """The rows as a table of ids; fastai's `Interpretation` asks for it."""
        columns = self[torch.arange(len(self), device=self.device)]
        target = columns[self.n_inp] if len(columns) > self.n_inp else None
        return decode(self.catalog, columns[0], columns[1], target, self.target_name)

    @property
    def target_name(self) -> str:
        """What comes after the inputs of the model: 'rating', 'liked', or of positives 'weight'."""
        inter = self.catalog.interactions
        if inter is not None and inter.weights is not None:
            return 'weight'
        return 'rating' if self.catalog.thresholds is None else 'liked'


# --- batches to look at


def decode(
    catalog: Catalog,
    users: torch.Tensor,  # codes (n,)
    items: torch.Tensor,  # codes (n,), or (n, C): C pairs of each user
    target: torch.Tensor | None = None,  # of the shape of the items
    target_name: str = 'rating',  # what its column is called
    **more: torch.Tensor,  # more columns by name, of the same shape
) -> pd.DataFrame:
    """A table of ids and titles from tensors of codes, one row per pair: user, item, title (if known), and columns.

    They are called as in the training table, see `Catalog.columns`.
    """
    if items.dim() > 1:
        users = users[:, None].expand(-1, items.shape[1])
    user_codes = users.reshape(-1).cpu().numpy()
    item_codes = items.reshape(-1).cpu().numpy()
    user_ids = catalog.vocab['user'].decode(user_codes)
    item_ids = catalog.vocab['item'].decode(item_codes)
    names = catalog.columns
    df = pd.DataFrame({names['user']: user_ids, names['item']: item_ids})
    if catalog.shows_titles:
        df['title'] = catalog.titles(item_codes)
    if target is not None:
        df[names.get(target_name, target_name)] = target.reshape(-1).cpu().numpy()
    for name, values in more.items():
        df[name] = values.reshape(-1).float().cpu().numpy()
    return df


def show_table(df: pd.DataFrame) -> None:
    """Display a table: as HTML in a notebook, as text elsewhere."""
    if IN_NOTEBOOK:
        from IPython.display import HTML, display

        display(HTML(df.to_html(index=False)))
    else:
        print(df.to_string(index=False))


def _first(columns: dict[str, torch.Tensor], n: int) -> dict[str, torch.Tensor]:
    """The first `n` rows of named columns."""
    return {name: values[:n] for name, values in columns.items()}


# --- pairs


@delegates()
class InteractionDL(TfmdDL):
    """Batches `(users, items[, target])` sliced from tensors: codes int64 `(bs,)`, target float32 `(bs,)`.

    Every row comes once an epoch, in a fresh order with `shuffle`. Samples are vectorised, so there is nothing for
    worker processes to do. `ValueError` for worker processes, and for a batch size below 1.
    """

    objective = 'pairs'  # what a batch is for; see `RecDataLoaders.objective`
    width = 1  # values that a row becomes
    unseen: tuple[int, float] | None = None  # pairs made up to each row, and their rating; see `UnseenDL`

    def __init__(
        self,
        dataset: RecDataset,  # an `InteractionDataset`
        bs: int = 256,  # rows per batch
        shuffle: bool = False,  # a new order each epoch
        drop_last: bool = False,  # leave out a last batch that is smaller
        num_workers: int = 0,  # must be 0
        seed: int | None = None,  # order of rows independent of torch's global generator
        **kwargs,
    ) -> None:
        if num_workers:
            raise ValueError(
                f'num_workers={num_workers}: batches are slices of tensors in memory, which workers would only copy; '
                'leave it at 0'
            )
        if bs is None or bs < 1:
            raise ValueError(f'bs={bs}: give a batch size of at least 1')
        self.seed = seed
        self._generator: torch.Generator | None = None  # made of the seed when it is first asked for
        super().__init__(dataset, bs=bs, shuffle=shuffle, drop_last=drop_last, num_workers=0, **kwargs)

    def new(
        self,
        dataset: RecDataset | None = None,
        cls: type | None = None,
        **kwargs,  # settings that differ
    ) -> InteractionDL:
        """A loader with these settings, but for those given: fastai's list of what it hands on does not have `seed`."""
        kwargs.setdefault('seed', self.seed)
        return super().new(dataset, cls, **kwargs)

    def _one_pass(self) -> None:
        """How many inputs a batch has and that all of it is tensors: fastai would make a batch to find out."""
        self._n_inp = self.dataset.n_inp
        self._types = {tuple: [torch.Tensor] * 3}

    @property
    def has_context(self) -> bool:
        """Is the third tensor of a batch what belongs to the interaction itself (see `Context`)?"""
        return self.dataset.n_inp == 3

    # --- the order of an epoch

    def generator(
        self,
        device: torch.device,  # where random numbers are made
    ) -> torch.Generator | None:
        """None: torch's own; with a `seed` a generator of this loader."""
        if self.seed is None:
            return None
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device).manual_seed(self.seed)
        return self._generator

    @contextmanager
    def kept_generator(self) -> Iterator[None]:
        """What the loader's own generator draws inside, it draws again after it."""
        state = None if self._generator is None else self._generator.get_state()
        try:
            yield
        finally:
            if state is None:
                self._generator = None  # it is made of the seed when it is next asked for
            elif self._generator is not None:
                self._generator.set_state(state)

    def order(self) -> torch.Tensor | None:
        """A fresh order of the samples, int64 (n,) (int32 from 16 million on) on the device of the data.

        None where the dataset itself says what comes next.
        """
        device = self._placed().device
        dtype = torch.int64 if self.n < LARGE else torch.int32
        if self.shuffle:
            return torch.randperm(self.n, generator=self.generator(device), device=device, dtype=dtype)
        return torch.arange(self.n, device=device, dtype=dtype)

    def get_idxs(self) -> torch.Tensor:
        """`order` on the CPU, where fastai's `get_preds` sorts predictions back by it: int (n,)."""
        order = self.order()
        assert order is not None
        return order.cpu()

    def _placed(self) -> Any:
        """The dataset, on the loader's device."""
        return self.dataset if self.device is None else self.dataset.to(self.device)

    # --- batches

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        """The batches of an epoch: fastai's loop without what worker processes and collating samples would need."""
        self.randomize()
        self.before_iter()
        is_empty = isinstance(self.after_batch, Pipeline) and not self.after_batch.fs
        transform = None if is_empty else self.after_batch  # an empty Pipeline costs more than the slice
        is_pinned = not isinstance(self.get_idxs, MethodType)  # `get_preds` puts a fixed order in its place
        for batch in self.create_batches(self.get_idxs() if is_pinned else self.order()):
            yield batch if transform is None else transform(batch)
        self.after_iter()

    def create_batches(
        self,
        samps: Iterable[int] | torch.Tensor | None,  # places of rows in the dataset, in the order of the epoch
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """Batches of the samples `samps`, in this order."""
        assert samps is not None
        dataset = self._placed()
        idx = samps if isinstance(samps, torch.Tensor) else torch.as_tensor(np.fromiter(samps, np.int64))
        idx = idx.to(dataset.device)
        if self.drop_last:
            idx = idx[: len(idx) // self.bs * self.bs]
        if not len(idx):
            return
        batches_at_once = max(1, GATHERED_ROWS // self.width // self.bs)
        for chunk in idx.split(batches_at_once * self.bs):
            yield from zip(*(o.split(self.bs) for o in self.columns_of(dataset[chunk])))

    def columns_of(
        self,
        # of the dataset, (n,) each: users, items, then what there is of target, context and weight
        columns: tuple[torch.Tensor, ...],
    ) -> tuple[torch.Tensor, ...]:
        """What batches are slices of, from the dataset's columns for a chunk of samples."""
        return columns

    # --- to look at

    def decode_batch(
        self,
        b: tuple[torch.Tensor, ...],
        max_n: int = 9,
        **more: torch.Tensor,  # tensors to show as well, e.g. predictions, by name: (B,), or of the shape of the target
    ) -> pd.DataFrame:
        """The first rows of a batch with ids and titles."""
        catalog = self.dataset.catalog
        at = self.dataset.n_inp
        target = b[at][:max_n] if len(b) > at else None
        target_name = 'rating' if catalog.thresholds is None else 'liked'
        df = decode(catalog, b[0][:max_n], b[1][:max_n], target, target_name, **_first(more, max_n))
        if not self.has_context:
            return df
        assert catalog.context_of is not None
        return pd.concat([df, catalog.context_of.decode(b[2][:max_n].cpu().numpy())], axis=1)

    def show_batch(
        self,
        b: tuple[torch.Tensor, ...] | None = None,  # a batch; None: one is made
        max_n: int = 9,  # rows of it
        show: bool = True,  # False: return the table
        **kwargs,  # (what fastai passes, which means nothing here)
    ) -> pd.DataFrame | None:
        """Show the first `max_n` rows of a batch as a table of ids and titles (or return it with `show=False`)."""
        df = self.decode_batch(self.one_batch() if b is None else b, max_n)
        if not show:
            return df
        show_table(df)
        return None

    def show_results(
        self,
        b: tuple[torch.Tensor, ...],  # a batch
        out: Any,  # predictions for it, or a tuple that begins with them
        max_n: int = 9,  # rows of it
        show: bool = True,  # False: return the table
        **kwargs,  # (what fastai passes, which means nothing here)
    ) -> pd.DataFrame | None:
        """Show targets beside predictions `out` for a batch, with ids and titles (or return them with `show=False`)."""
        df = self.decode_batch(b, max_n, prediction=out[0] if isinstance(out, tuple) else out)
        if not show:
            return df
        show_table(df)
        return None


class UnseenDL(InteractionDL):
    """Batches of rated pairs, and to each row `n` pairs that its user has no row of, with a low rating made up.

    Nobody rates at random: what users leave unrated they like less. A model that has seen rated pairs alone knows
    nothing of that, and ranks badly for all its small errors (Steck, 'Training and testing of recommender systems on
    data missing not at random', KDD 2010, who imputes a rating in the same way, weighted where we draw). Drawn
    uniformly, anew for each pass. `(users, items, target[, weight])` as of `InteractionDL`, (bs * (1 + n),) each: the
    made up pairs of a row come after it, with its weight.
    """

    def __init__(
        self,
        dataset: InteractionDataset,  # of pairs with their ratings
        sampler: NegativeSampler | None = None,  # draws the pairs
        n: int = 1,  # pairs to each row
        rating: float = 0.0,  # of these
        **kwargs,  # of `InteractionDL`
    ) -> None:
        self.sampler = sampler
        self.n_unseen = n  # fastai's `n` is the number of rows
        self.rating = rating
        self.unseen = (n, rating)
        super().__init__(dataset, **kwargs)

    @property
    def width(self) -> int:  # type: ignore[override]  # a constant of the other loaders, of this one a setting
        """Values that a row becomes: a rating, and those made up."""
        return 1 + self.n_unseen

    def new(
        self,
        dataset: RecDataset | None = None,
        cls: type | None = None,
        **kwargs,  # settings that differ
    ) -> InteractionDL:
        """A loader of the rows as they are, which is what one looks at; made up pairs are for training."""
        return super().new(dataset, cls or InteractionDL, **kwargs)

    def create_batches(self, samps: Iterable[int] | torch.Tensor | None) -> Iterator[tuple[torch.Tensor, ...]]:
        """Batches of the rows `samps`, in this order, with made up pairs."""
        for batch in super().create_batches(samps):
            yield tuple(column.reshape(-1) for column in batch)

    def columns_of(self, columns: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Columns (n, width) of rows with their made up pairs, from those (n,) of rows."""
        users, items, target, *weight = columns
        assert self.sampler is not None
        unseen = self.sampler.to(users.device).sample(users, self.n_unseen, self.generator(users.device))
        made_up = torch.full(unseen.shape, self.rating, device=target.device)
        of_rows = (users, *weight)
        users, *weight = (column[:, None].expand(-1, self.width) for column in of_rows)
        return users, torch.cat([items[:, None], unseen], 1), torch.cat([target[:, None], made_up], 1), *weight


# --- positives and negatives


class NegativesDL(InteractionDL):
    """Batches of positives with negatives drawn for them.

    `(users (B,), items (B, 1 + n_neg), target (B, 1 + n_neg)[, weight (B,)])`; the positive is in column 0, where the
    target is 1. Training draws fresh negatives each epoch; with `neg_seed` (validation) they are the same at each pass.
    """

    objective = 'negatives'

    def __init__(
        self,
        dataset: InteractionDataset,  # of positives
        sampler: NegativeSampler | None = None,  # draws them
        n_neg: int = 4,  # negatives of each positive
        neg_seed: int | None = None,  # draw the same at each pass
        **kwargs,  # of `InteractionDL`
    ) -> None:
        self.sampler = sampler
        self.n_neg = n_neg
        self.neg_seed = neg_seed
        super().__init__(dataset, **kwargs)

    @property
    def width(self) -> int:  # type: ignore[override]  # a constant of the other loaders, of this one a setting
        """Values that a row becomes: a positive and its negatives."""
        return 1 + self.n_neg

    def new(
        self,
        dataset: RecDataset | None = None,
        cls: type | None = None,
        **kwargs,  # settings that differ
    ) -> InteractionDL:
        """As in `InteractionDL`; a sampler knows what was seen and belongs to its dataset, so it stays with that."""
        kwargs.setdefault('n_neg', self.n_neg)
        kwargs.setdefault('neg_seed', self.neg_seed)
        kwargs.setdefault('sampler', self.sampler if dataset is None else None)
        return super().new(dataset, cls, **kwargs)

    def create_batches(self, samps: Iterable[int] | torch.Tensor | None) -> Iterator[tuple[torch.Tensor, ...]]:
        """Batches of the positives `samps`, in this order, with negatives."""
        self._negatives: torch.Generator | None = None  # of this pass; None: drawn afresh
        if self.neg_seed is not None:
            self._negatives = torch.Generator(self._placed().device).manual_seed(self.neg_seed)
        yield from super().create_batches(samps)

    def columns_of(self, columns: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Users, positives with their negatives, target and weight, from those of positives."""
        users, items, *weight = columns
        generator = self.generator(users.device) if self._negatives is None else self._negatives
        assert self.sampler is not None
        negatives = self.sampler.to(users.device).sample(users, self.n_neg, generator)
        items = torch.cat([items[:, None], negatives], 1)
        target = torch.zeros(items.shape, device=items.device)
        target[:, 0] = 1
        return users, items, target, *weight

    def decode_batch(self, b: tuple[torch.Tensor, ...], max_n: int = 9, **more: torch.Tensor) -> pd.DataFrame:
        """The first positives of a batch with their negatives: a row a pair, with its label."""
        users, items, target = (o[:max_n] for o in b[:3])
        return decode(self.dataset.catalog, users, items, target, 'label', **_first(more, max_n))


class InBatchDL(InteractionDL):
    """Batches of positives whose negatives are the other items of the batch.

    `(users (B,), items (1, C), target (B, C)[, weight (B,)])`, where the columns are the distinct items of the batch.
    Target: 1 for the row's positive, 0 for a negative, -1 for an accidental hit, an item that the user has as well,
    which is not a negative.
    """

    objective = 'in_batch'
    n_neg = 0  # drawn

    def __init__(
        self,
        dataset: InteractionDataset,  # of positives
        seen: csr_matrix | None = None,  # (n_users, n_items): entries are not negatives of the user
        **kwargs,  # of `InteractionDL`
    ) -> None:
        self.seen = seen
        self._index: list[torch.Tensor] | None = None  # `seen` on the device; see `_make_index`
        super().__init__(dataset, **kwargs)

    def new(
        self,
        dataset: RecDataset | None = None,
        cls: type | None = None,
        **kwargs,  # settings that differ
    ) -> InteractionDL:
        """As in `InteractionDL`; what was seen belongs to its dataset, so it stays with that."""
        kwargs.setdefault('seen', self.seen if dataset is None else None)
        return super().new(dataset, cls, **kwargs)

    def create_batches(self, samps: Iterable[int] | torch.Tensor | None) -> Iterator[tuple[torch.Tensor, ...]]:
        """Batches of the positives `samps`, in this order, with their targets among the items of the batch."""
        for users, items, *weight in super().create_batches(samps):
            yield (*self.candidates(users, items), *weight)

    def _make_index(self, device: torch.device) -> list[torch.Tensor]:
        """`indptr` and `indices` of what was seen, and room for the column of each item in a batch (-1: not in it)."""
        assert self.seen is not None
        indptr = torch.from_numpy(self.seen.indptr.astype(np.int64)).to(device)
        indices = torch.from_numpy(self.seen.indices).to(device)
        column_of_item = torch.full((self.seen.shape[1],), -1, device=device)
        return [indptr, indices, column_of_item]

    def candidates(
        self,
        users: torch.Tensor,  # codes of users, int64 (B,)
        items: torch.Tensor,  # codes of their positives, int64 (B,)
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Users (B,), distinct items (1, C) and target (B, C) of the positives `users` (B,), `items` (B,).

        What the users have is laid end to end and looked up among the columns: no loop, no matrix (B, n_items).
        """
        if self._index is None or self._index[0].device != users.device:
            self._index = self._make_index(users.device)
        indptr, indices, column_of_item = self._index
        columns, own = torch.unique(items, return_inverse=True)
        rows = torch.arange(len(users), device=users.device)
        column_of_item[columns] = torch.arange(len(columns), device=users.device)
        # positions in `indices` of all that the users have: from `start`, `n` of each, one user after the other
        start = indptr[users]
        n = indptr[users + 1] - start
        at = torch.repeat_interleave(start - (n.cumsum(0) - n), n)
        at += torch.arange(len(at), device=users.device)
        hit = column_of_item[indices[at].long()]  # columns of what the users have, -1 where it is not in the batch
        there = hit >= 0
        target = torch.zeros(len(users), len(columns), device=users.device)
        target[torch.repeat_interleave(rows, n, output_size=len(at))[there], hit[there]] = -1.0
        target[rows, own] = 1.0
        column_of_item[columns] = -1  # as it was, for the next batch
        return users, columns[None], target

    def decode_batch(self, b: tuple[torch.Tensor, ...], max_n: int = 9, **more: torch.Tensor) -> pd.DataFrame:
        """The first positives of a batch, each with the number of its negatives there and of accidental hits."""
        users = b[0][:max_n]
        items = b[1][0]
        target = b[2][:max_n]
        own = target.argmax(1)
        counts = dict(negatives=(target == 0).sum(1), hits=(target < 0).sum(1))
        of_positives = {}
        for name, values in _first(more, max_n).items():
            of_positives[name] = values.gather(1, own[:, None]) if values.ndim == 2 else values
        df = decode(self.dataset.catalog, users, items[own], **counts, **of_positives)
        return df.astype(dict(negatives=int, hits=int))

    def pairs(self) -> InteractionDL:
        """A loader of the positives as pairs `(users, items)`, without a target: what `get_preds` scores."""
        dataset = InteractionDataset(self.dataset.columns[:2], self.dataset.rows, self.dataset.catalog)
        return InteractionDL(dataset, bs=max(self.bs, SCORING_BATCH), device=self.device)


# --- users over the whole catalogue


class UserDataset:
    """Users, and the rows of two CSR matrices that belong to them: positives, and items that are not candidates.

    A sample is a user: `(user, target (n_items,))`, where the target is the weight of a positive, -1 for a masked item
    and 0 elsewhere.
    """

    n_inp = 1

    def __init__(
        self,
        positives: csr_matrix,  # (n_users, n_items): weights of what is to be predicted
        masked: csr_matrix | None,  # (n_users, n_items): what is not a candidate; None (training): cold items
        catalog: Catalog,
    ) -> None:
        self.positives = positives
        self.masked = masked
        self.catalog = catalog
        self.users = torch.from_numpy(np.flatnonzero(np.diff(positives.indptr)))
        # in training they are not candidates: nothing says that nobody wants them
        self.cold = torch.from_numpy(~catalog.known('item'))

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, idx: torch.Tensor) -> tuple[torch.Tensor]:
        """Codes of the samples `idx`; their targets are made a batch at a time (`targets`)."""
        return (self.users[idx],)

    @property
    def device(self) -> torch.device:
        """Where the codes of the users are."""
        return self.users.device

    def to(self, device: torch.device) -> UserDataset:
        """Move to `device` in place; returns self."""
        self.users = self.users.to(device)
        return self

    def subset(self, users: np.ndarray, items: np.ndarray) -> UserDataset:
        """The users of this part who are in the bool mask (n_users,), or have an item of the mask (n_items,)."""
        has_item = self.positives @ np.asarray(items, np.float32) > 0
        is_wanted = torch.from_numpy(np.asarray(users) | has_item).to(self.device)
        res = copy(self)
        res.users = self.users[is_wanted[self.users]]
        return res

    def targets(self, users: torch.Tensor) -> torch.Tensor:
        """float32 (B, n_items) for codes of users (B,)."""
        rows = users.cpu().numpy()
        target = torch.zeros(len(rows), self.positives.shape[1])
        if self.masked is None:
            target[:, self.cold] = -1.0
        else:
            target[_entries(self.masked[rows])] = -1.0
        positives = self.positives[rows]
        target[_entries(positives)] = torch.from_numpy(positives.data)
        return target.to(users.device)

    def new_empty(self) -> UserDataset:
        """No rows, and a catalog without history."""
        positives = csr_matrix((0, self.positives.shape[1]), dtype=np.float32)
        return UserDataset(positives, None, self.catalog.without_history())

    def with_catalog(self, catalog: Catalog) -> UserDataset:
        """The same users under a catalog that knows further items, which are not candidates in training."""
        masked = None if self.masked is None else _widened(self.masked, catalog.n_items)
        return UserDataset(_widened(self.positives, catalog.n_items), masked, catalog)

    @property
    def items(self) -> pd.DataFrame:
        """The users as a table; fastai's `Interpretation` asks for it."""
        ids = self.catalog.vocab['user'].decode(self.users.cpu().numpy())
        return pd.DataFrame({self.catalog.columns['user']: ids})


def _entries(matrix: csr_matrix) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column, int64, of each stored entry."""
    rows: np.ndarray = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    return torch.from_numpy(rows), torch.from_numpy(matrix.indices.astype(np.int64))


def _widened(matrix: csr_matrix, n_columns: int) -> csr_matrix:
    """The same entries in a matrix with more columns."""
    return csr_matrix((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], n_columns))


class UserDL(InteractionDL):
    """Batches of users with all their positives, for objectives over the whole catalogue.

    `(users (B,), target (B, n_items))`; see `UserDataset`. `ValueError` as of `InteractionDL`.
    """

    objective = 'catalogue'

    def create_batches(
        self,
        samps: Iterable[int] | torch.Tensor | None,  # places of users in the dataset, in the order of the epoch
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """Batches of the users `samps`, in this order, with their targets."""
        for (users,) in super().create_batches(samps):
            yield users, self.dataset.targets(users)

    def decode_batch(
        self,
        b: tuple[torch.Tensor, ...],
        max_n: int = 9,
        **more: torch.Tensor,  # tensors to show as well, e.g. predictions, by name: (B,), or of the shape of the target
    ) -> pd.DataFrame:
        """The first users of a batch with the number of their positives and the best known of them."""
        catalog = self.dataset.catalog
        rows: list[dict[str, Any]] = []
        for user, target in zip(b[0][:max_n], b[1][:max_n]):
            items = (target > 0).nonzero().squeeze(1).cpu().numpy()
            by_count = np.argsort(-catalog.counts['item'][items], kind='stable')
            best_known = catalog.titles(items[by_count][:3])
            user_id = catalog.vocab['user'].decode([int(user)])[0]
            among_them = ', '.join(map(str, best_known))
            rows.append({catalog.columns['user']: user_id, 'positives': len(items), 'among_them': among_them})
        return pd.DataFrame(rows)


# --- sizes


def user_batch_size(n_users: int, n_items: int) -> int:
    """A power of two from 16 on that leaves about 25 steps an epoch, with at most 128 MiB of scores per batch."""
    most = max(16, 2**25 / n_items)
    users = np.clip(n_users / 24, 16, most)
    return int(2 ** np.round(np.log2(users)))


def auto_batch_size(n: int) -> int:
    """A power of two from 16 to 8192 that leaves about 300 steps an epoch of `n` rows.

    Measured on ml-latest-small, where 90,000 rows do best at 256.
    """
    exponent = np.round(np.log2(max(n, 1) / 300))
    return int(2 ** np.clip(exponent, 4, 13))
