"""Batches of ratings that stay in their parquet files.

Row groups come in a new order at each epoch and are shuffled within a buffer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NoReturn

import torch
from fastcore.meta import delegates

from ..data.catalog import Catalog
from ..data.stream import ParquetStream
from .batches import GATHERED_ROWS, InteractionDataset, InteractionDL, RecDataset

__all__ = ['StreamDL']

BUFFER_ROWS = 2**22  # rows that are shuffled together: 48 MiB, and twice that while they are

Columns = tuple[torch.Tensor, ...] | list[torch.Tensor]  # users, items, ratings of some rows


class StreamDataset:
    """The rows of one part of a `ParquetStream`: `InteractionDataset` without the rows."""

    n_inp = 2

    def __init__(
        self,
        stream: ParquetStream,  # the files
        part: int,  # of the split: 0 train, 1 valid, 2 test
        catalog: Catalog,
    ) -> None:
        self.stream = stream
        self.part = part
        self.catalog = catalog

    def __len__(self) -> int:
        return self.stream.sizes[self.part]

    def read(self, groups: Iterable[int]) -> Iterator[tuple[torch.Tensor, ...]]:
        """int32 users, int32 items and float32 ratings (tensors), part by part, of the row groups in this order."""
        for group in groups:
            for *columns, parts in self.stream.read(int(group)):
                mask = parts == self.part
                if mask.any():
                    yield tuple(torch.from_numpy(o[mask]) for o in columns)

    def new_empty(self) -> InteractionDataset:
        """No rows, and a catalog without history and files."""
        users = torch.zeros(0, dtype=torch.int32)
        items = torch.zeros(0, dtype=torch.int32)
        ratings = torch.zeros(0)
        return InteractionDataset([users, items, ratings], None, self.catalog.without_history())

    def with_catalog(self, catalog: Catalog) -> StreamDataset:
        """The same rows under a catalog that knows further items."""
        return StreamDataset(self.stream, self.part, catalog)

    def subset(self, users: object, items: object) -> NoReturn:
        """`ValueError`: the rows are not in memory."""
        self.catalog.require_history()
        raise AssertionError('a stream has no rows in memory')

    @property
    def items(self) -> NoReturn:
        """`ValueError`: the rows are not in memory."""
        self.catalog.require_history()
        raise AssertionError('a stream has no rows in memory')


@delegates()
class StreamDL(InteractionDL):
    """Batches as of `InteractionDL`, from row groups of files; every row comes once an epoch.

    With `shuffle` row groups come in a new order at each epoch, and `buffer` rows at a time are shuffled together. Rows
    of a row group stay within a buffer of each other: where a file is in the order of users or of time and its row
    groups are large, a larger buffer mixes better. `ValueError` for a buffer below 1.
    """

    def __init__(
        self,
        dataset: StreamDataset,
        buffer: int = BUFFER_ROWS,  # rows that are shuffled together
        **kwargs,
    ) -> None:
        if buffer < 1:
            raise ValueError(f'buffer={buffer}: rows that are shuffled together, at least 1')
        self.buffer = buffer
        kwargs['indexed'] = True  # fastai shuffles only what it can index
        super().__init__(dataset, **kwargs)

    def new(
        self,
        dataset: RecDataset | None = None,
        cls: type | None = None,
        **kwargs,  # settings that differ
    ) -> InteractionDL:
        """As in `InteractionDL`; of rows in memory (those of `new_empty`) an `InteractionDL`."""
        if dataset is not None and not isinstance(dataset, StreamDataset):
            return super().new(dataset, InteractionDL if cls is None else cls, **kwargs)
        kwargs.setdefault('buffer', self.buffer)
        return super().new(dataset, cls, **kwargs)

    def get_idxs(self) -> torch.Tensor:
        """Positions in the order of the files, by which `get_preds` sorts; of shuffled rows there are none.

        `ValueError` for shuffled rows.
        """
        if self.shuffle:
            raise ValueError(
                'shuffled rows of a stream have no order to give predictions in: '
                'take the loader with `dl.new(shuffle=False)`'
            )
        return torch.arange(self.n)

    def order(self) -> None:
        """None: the order is made while files are read (`_buffers`)."""
        return

    def one_batch(self) -> tuple[torch.Tensor, ...]:
        """A batch, from the first rows that are read: a buffer is not filled for it."""
        before = self.buffer
        self.buffer = self.bs
        try:
            return super().one_batch()
        finally:
            self.buffer = before

    def create_batches(
        self,
        samps: Iterable[int] | torch.Tensor | None,  # of fastai's signature; not looked at
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """Batches of all rows; what is left of a buffer goes before the next. `samps` is not looked at."""
        if not self.n:
            return
        left_over: list[torch.Tensor] | None = None
        for columns in self._buffers():
            if left_over is not None:
                columns = [torch.cat(o) for o in zip(left_over, columns)]
            n_whole = len(columns[0]) // self.bs * self.bs
            left_over = [o[n_whole:].clone() for o in columns]  # a view would hold on to the buffer
            if n_whole:
                yield from self._batches([o[:n_whole] for o in columns])
        if left_over is not None and len(left_over[0]) and not self.drop_last:
            yield from self._batches(left_over)

    def _batches(self, columns: Columns) -> Iterator[tuple[torch.Tensor, ...]]:
        """Batches of the rows of `columns`, which go to the device in chunks and are slices of those."""
        device = torch.device('cpu') if self.device is None else self.device
        batches_at_once = max(1, GATHERED_ROWS // self.bs)
        for chunk in zip(*(o.split(batches_at_once * self.bs) for o in columns)):
            users, items, ratings = (o.to(device) for o in chunk)
            yield from zip(*(o.split(self.bs) for o in (users.long(), items.long(), ratings)))

    def _buffers(self) -> Iterator[Columns]:
        """Columns of some rows, in the order in which they are to come."""
        n_groups = len(self.dataset.stream.groups)
        if not self.shuffle:
            yield from self.dataset.read(range(n_groups))
            return
        generator = self.generator(torch.device('cpu'))
        parts: list[Columns] = []
        n_rows = 0
        for part in self.dataset.read(torch.randperm(n_groups, generator=generator)):
            parts.append(part)
            n_rows += len(part[0])
            if n_rows >= self.buffer:
                yield _shuffled(parts, n_rows, generator)
                parts = []
                n_rows = 0
        if parts:
            yield _shuffled(parts, n_rows, generator)


def _shuffled(parts: list[Columns], n_rows: int, generator: torch.Generator | None) -> list[torch.Tensor]:
    """Columns of all `parts` together in a random order: a column at a time, so that no two are there twice."""
    order = torch.randperm(n_rows, generator=generator)
    return [torch.cat(o)[order] for o in zip(*parts)]
