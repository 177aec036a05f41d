"""Batches of ratings that stay in their parquet files: row groups in a new order at each epoch, shuffled within a buffer."""

from __future__ import annotations

import torch
from fastcore.meta import delegates

from .batches import CHUNK_ROWS, InteractionDataset, InteractionDL

__all__ = ['StreamDL']

BUFFER = 2**22  # rows that are shuffled together: 48 MiB, and twice that while they are


class StreamDataset:
    """The rows of one part of a `ParquetStream`: `InteractionDataset` without the rows."""

    n_inp = 2

    def __init__(self, stream, part: int, catalog):
        self.stream, self.part, self.catalog = stream, part, catalog

    def __len__(self):
        return self.stream.sizes[self.part]

    def read(self, groups):
        """int32 users, int32 items and float32 ratings (tensors), part by part, of the row groups in this order."""
        for group in groups:
            for *columns, parts in self.stream.read(int(group)):
                mask = parts == self.part
                if mask.any():
                    yield tuple(torch.from_numpy(o[mask]) for o in columns)

    def new_empty(self):
        """No rows, and a catalog without history and files."""
        return InteractionDataset(
            [torch.zeros(0, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), torch.zeros(0)],
            None,
            self.catalog.without_history(),
        )

    def with_catalog(self, catalog):
        """The same rows under a catalog that knows further items."""
        return StreamDataset(self.stream, self.part, catalog)

    def subset(self, users, items):
        self.catalog.require_history()

    @property
    def items(self):
        self.catalog.require_history()


@delegates()
class StreamDL(InteractionDL):
    """Batches as of `InteractionDL`, from row groups of files: with `shuffle` in a new order at each epoch, `buffer` rows at a time shuffled together.

    Every row comes once an epoch. Rows of a row group stay within a buffer of each other: where a file is in the order of users or of time and its row groups are large, a larger buffer mixes better.
    """

    def __init__(self, dataset, buffer: int = BUFFER, **kwargs):
        if buffer < 1:
            raise ValueError(f'buffer={buffer}: rows that are shuffled together, at least 1')
        self.buffer = buffer
        super().__init__(dataset, **{**kwargs, 'indexed': True})  # fastai shuffles only what it can index

    def new(self, dataset=None, cls=None, **kwargs):
        if dataset is not None and not isinstance(dataset, StreamDataset):
            return super().new(dataset, InteractionDL if cls is None else cls, **kwargs)
        return super().new(dataset, cls, **{**dict(buffer=self.buffer), **kwargs})

    def _one_pass(self):
        self._n_inp, self._types = self.dataset.n_inp, {tuple: [torch.Tensor] * 3}

    def get_idxs(self):
        """Positions in the order of the files, by which `get_preds` sorts; of shuffled rows there are none."""
        if self.shuffle:
            raise ValueError(
                'shuffled rows of a stream have no order to give predictions in: take the loader with `dl.new(shuffle=False)`'
            )
        return torch.arange(self.n)

    def order(self):
        return None

    def one_batch(self):
        """A batch, from the first rows that are read: a buffer is not filled for it."""
        before, self.buffer = self.buffer, self.bs
        try:
            return super().one_batch()
        finally:
            self.buffer = before

    def create_batches(self, samps):
        if not self.n:
            return
        device, rest = torch.device('cpu') if self.device is None else self.device, None
        for columns in self._buffers():
            if rest is not None:
                columns = [torch.cat(o) for o in zip(rest, columns)]
            whole = len(columns[0]) // self.bs * self.bs
            rest = [o[whole:].clone() for o in columns]
            if not whole:
                continue
            for chunk in zip(*(o[:whole].split(max(1, CHUNK_ROWS // self.bs) * self.bs) for o in columns)):
                users, items, ratings = (o.to(device) for o in chunk)
                yield from zip(*(o.split(self.bs) for o in (users.long(), items.long(), ratings)))
        if rest is not None and len(rest[0]) and not self.drop_last:
            users, items, ratings = (o.to(device) for o in rest)
            yield users.long(), items.long(), ratings

    def _buffers(self):
        """Columns of some rows, in the order in which they are to come."""
        n = len(self.dataset.stream.groups)
        if not self.shuffle:
            yield from self.dataset.read(range(n))
            return
        generator, parts, size = self.generator(torch.device('cpu')), [], 0
        mixed = lambda: [
            o[order] for order in [torch.randperm(size, generator=generator)] for o in map(torch.cat, zip(*parts))
        ]
        for part in self.dataset.read(torch.randperm(n, generator=generator)):
            parts.append(part)
            size += len(part[0])
            if size >= self.buffer:
                yield mixed()
                parts, size = [], 0
        if parts:
            yield mixed()
