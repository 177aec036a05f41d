"""Ratings in parquet files that are larger than memory: two passes for ids and counts, then rows again, row group by row group."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from ..progress import Progress
from .columns import find_columns
from .files import BATCH_ROWS, FileTable, Irregular, ids_of, ratings_of
from .history import History
from .interactions import Interactions, Vocab
from .splits import Split

__all__ = ['ParquetStream']

PARTS = Split._fields
OPEN_FILES = 32
SEEN_ROWS = 2**25  # of users whose training rows are looked up at a time: 160 MiB


class ParquetStream:
    """Ratings in parquet files that are larger than memory: vocab, counts and range of the ratings, after two passes, and the rows again whenever they are asked for, row group by row group.

    What is held is the ids, some numbers for each, and one part of a row group. A row is held out by `valid_pct` and `seed` alone, or as the column `splitter` says, so it is in the same part at each pass. That no pair of user and item repeats is not
    looked at: it would take all rows at once.
    """

    def __init__(
        self,
        path,
        given: dict = None,
        valid_pct: float = 0.2,
        seed: int = None,
        splitter: str = None,
        progress: bool = True,
    ):
        import pyarrow.parquet as pq

        table = FileTable(path)
        self.files = table.files
        try:
            self.names = find_columns(
                pd.DataFrame(columns=table.names()), given or dict(user=None, item=None, rating=None, time=None)
            )
        except ValueError as e:
            raise ValueError(f'{self.files[0]}: {e}') from e
        if self.names['rating'] is None:
            raise ValueError(
                f"{self.files[0]} has no rating column to learn from. Name it with rating_name=; rows without ratings are implicit feedback, which is not streamed: read it, from_parquet(..., target='implicit')"
            )
        if splitter is None and not 0 <= valid_pct < 1:
            raise ValueError(f'valid_pct={valid_pct}: a share between 0 and 1, or 0 to train on every row')
        if splitter is not None and splitter not in table.names():
            raise ValueError(f'no column {splitter!r} to split by')
        self.valid_pct, self.splitter, self.seed = (
            valid_pct,
            splitter,
            int(np.random.default_rng(seed).integers(2**31)) if seed is None else seed,
        )
        self.columns = [self.names[o] for o in ('user', 'item', 'rating')] + ([] if splitter is None else [splitter])
        self.groups, self._open = [], {}  # (file, row group, rows)
        types = None
        for i, file in enumerate(self.files):
            meta, schema = pq.read_metadata(file), pq.read_schema(file)
            if missing := [o for o in self.columns if o not in schema.names]:
                raise ValueError(f'{file} has no column {missing[0]!r}, which {self.files[0]} has')
            mine = [str(schema.field(o).type).removeprefix('large_') for o in self.columns[:2]]
            if types is None:
                types = mine
            elif mine != types:
                raise ValueError(
                    f"ids are of one type in {self.files[0]} ({', '.join(types)}) and of another in {file} ({', '.join(mine)}): 1 and '1' would be two. Make them one"
                )
            self.groups += [
                (i, g, meta.row_group(g).num_rows) for g in range(meta.num_row_groups) if meta.row_group(g).num_rows
            ]
        self.n = sum(rows for *_, rows in self.groups)
        if not self.n:
            raise ValueError('the table is empty: it needs one row per interaction')
        self.vocab = self._ids(progress)
        self._count(progress)

    def __getstate__(self):
        return {**self.__dict__, '_open': {}}

    def _file(self, i):
        import pyarrow.parquet as pq

        if i not in self._open:
            if len(self._open) >= OPEN_FILES:
                self._open.pop(next(iter(self._open)))  # closed when nobody reads it any more
            self._open[i] = pq.ParquetFile(self.files[i])
        return self._open[i]

    def _parts(self, group, columns):
        i, g, _ = self.groups[group]
        for part in self._file(i).iter_batches(BATCH_ROWS, row_groups=[g], columns=columns, use_threads=False):
            yield part

    def _complain(self, part, group):
        """Say what is wrong with a part, as of a table."""
        i, g, _ = self.groups[group]
        where = f'{self.files[i]}, row group {g}'
        try:
            Interactions.from_df(
                part.to_pandas(),
                *(self.names[o] for o in ('user', 'item', 'rating')),
                time_name=False,
                duplicates='keep',
            )
        except ValueError as e:
            if 'single' not in str(e):
                raise ValueError(f'{where}: {e}') from None
        raise ValueError(
            f'{where}: columns {self.columns[:3]} of types {[str(part.schema.field(o).type) for o in self.columns[:3]]} cannot be streamed. Make ids integers or texts and ratings numbers, or read the file as a whole, without stream=True'
        )

    def _ids(self, progress):
        known = {side: [] for side in ('user', 'item')}
        together = lambda ids: (
            np.unique(np.concatenate(ids)) if isinstance(ids[0], np.ndarray) else pd.Series(pd.unique(pd.concat(ids)))
        )
        with Progress(self.n, 'ids', 'rows', progress) as bar:
            for group in range(len(self.groups)):
                for part in self._parts(group, self.columns[:2]):
                    for side, ids in known.items():
                        try:
                            values = ids_of(part.column(self.names[side]))
                        except Irregular:
                            self._complain(next(self._parts(group, self.columns[:3])), group)
                        ids.append(pd.unique(values) if isinstance(values, np.ndarray) else values.unique().to_pandas())
                        if sum(map(len, ids)) > 2 * len(ids[0]) + 2**21:
                            ids[:] = [together(ids)]
                    bar.update(len(part))
        vocab = {
            side: Vocab(
                together(ids) if isinstance(ids[0], np.ndarray) else pd.Index(together(ids)).sort_values(), side
            )
            for side, ids in known.items()
        }
        for side, o in vocab.items():
            if len(o) == 1:
                raise ValueError(
                    f'the files have a single {side} ({o.ids[0]!r}, column {self.names[side]!r}): collaborative filtering learns from what several {side}s share. Is {side}_name right?'
                )
        return vocab

    def _count(self, progress):
        self.counts = [{side: np.zeros(len(o), np.int64) for side, o in self.vocab.items()} for _ in PARTS]
        self.sizes, total, self.low, self.high = [0] * len(PARTS), 0.0, np.inf, -np.inf
        with Progress(self.n, 'counts', 'rows', progress) as bar:
            for group in range(len(self.groups)):
                for users, items, ratings, parts in self.read(group):
                    self.low, self.high = min(self.low, float(ratings.min())), max(self.high, float(ratings.max()))
                    for p in range(len(PARTS)):
                        mask = parts == p
                        self.sizes[p] += int(mask.sum())
                        for side, codes in (('user', users), ('item', items)):
                            _add_counts(self.counts[p][side], codes[mask])
                        if not p:
                            total += ratings[mask].sum(dtype=np.float64)
                    bar.update(len(users))
        for name, size in zip(PARTS[:2], self.sizes):
            if not size and (name == 'train' or self.splitter is not None or self.valid_pct):
                raise ValueError(f'the {name} part of the split is empty ({self.n:,} rows in all)')
        if self.high > 1e8:
            raise ValueError(
                f'column {self.names["rating"]!r} looks like a timestamp (values from {self.low:.0f} to {self.high:.0f}), not a rating. Pass rating_name='
            )
        self.mean = total / self.sizes[0]

    def read(self, group: int):
        """Parts of a row group: int32 users and items, float32 ratings, and which part of the split each row is in (int8: 0 train, 1 valid, 2 test)."""
        rng = np.random.default_rng([self.seed, group])
        for part in self._parts(group, self.columns):
            try:
                users, items, ratings = (
                    ids_of(part.column(self.columns[0])),
                    ids_of(part.column(self.columns[1])),
                    ratings_of(part.column(self.columns[2])),
                )
            except Irregular:
                self._complain(part, group)
            codes = [
                self.vocab[side]
                .ids.get_indexer(ids if isinstance(ids, np.ndarray) else ids.to_pandas().array)
                .astype(np.int32)
                for side, ids in (('user', users), ('item', items))
            ]
            if min(o.min() for o in codes) < 0:
                raise ValueError(
                    f'{self.files[self.groups[group][0]]} has other ids than when it was read first: files of a stream must stay as they are. Make the loaders again'
                )
            yield (
                *codes,
                ratings,
                (rng.random(len(ratings)) < self.valid_pct).astype(np.int8)
                if self.splitter is None
                else self._told(part.column(self.splitter), group),
            )

    def _told(self, column, group):
        values = column.to_pandas()
        if not values.isna().any():
            if pd.api.types.is_bool_dtype(values.dtype):
                return values.to_numpy().astype(np.int8)
            codes = pd.Categorical(values, categories=list(PARTS)).codes
            if codes.min() >= 0:
                return codes.astype(np.int8)
        raise ValueError(
            f"{self.files[self.groups[group][0]]}: column {self.splitter!r} says the split: booleans (True for valid) or the words 'train', 'valid', 'test', none missing"
        )

    def rows_of(self, users):
        """Rows of the users of a bool mask (n_users,), of all row groups that may have any: users, items, ratings, parts."""
        ids = self.vocab['user'].ids[users]
        for group in range(len(self.groups)):
            if not self._may_have(group, ids):
                continue
            for codes, *columns in self.read(group):
                mask = users[codes]
                if mask.any():
                    yield codes[mask], *(o[mask] for o in columns)

    def _may_have(self, group, ids):
        """Can a row group hold any of the (ascending) ids, by the bounds in the file? In a file in the order of users few can."""
        i, g, _ = self.groups[group]
        meta = self._file(i).metadata
        at = next(
            (j for j in range(meta.num_columns) if meta.row_group(g).column(j).path_in_schema == self.columns[0]), None
        )
        bounds = None if at is None else meta.row_group(g).column(at).statistics
        if bounds is None or not bounds.has_min_max:
            return True
        try:
            a, b = np.searchsorted(ids, bounds.min, 'left'), np.searchsorted(ids, bounds.max, 'right')
        except TypeError:
            return True
        return b > a


def _add_counts(counts, codes):
    """Add how often each code comes, in place: not by a pass over all counts where they are many."""
    if len(counts) < 4 * len(codes):
        counts += np.bincount(codes, minlength=len(counts))
    else:
        np.add.at(counts, codes, 1)


class StreamedSeen:
    """What users have in the training rows of a stream, by code as in a CSR matrix: read for as many users at a time as the budget allows, in the order in which `recommend` asks."""

    def __init__(self, stream, users, shape):
        self.stream, self.users, self.shape, self.matrix, self.there = (
            stream,
            users,
            shape,
            None,
            np.zeros(shape[0], bool),
        )

    def __getitem__(self, codes):
        if not self.there[codes].all():
            at = np.flatnonzero(self.users == codes[0])[0]
            n = np.cumsum(self.stream.counts[0]['user'][self.users[at:]])
            self.there[:] = False
            self.there[codes] = self.there[self.users[at : at + np.searchsorted(n, SEEN_ROWS)]] = True
            found = [
                (users[parts == 0], items[parts == 0]) for users, items, _, parts in self.stream.rows_of(self.there)
            ]
            users, items = (np.concatenate(o) for o in zip(*found)) if found else (np.zeros(0, np.int32),) * 2
            self.matrix = csr_matrix((np.ones(len(users), np.int8), (users, items)), shape=self.shape)
        return self.matrix[codes]


class StreamHistory(History):
    """The history of rows that stay in their files: `interactions` and `split` are None.

    What needs all rows raises a `ValueError` that says what to do instead.
    """

    def __init__(self, stream: ParquetStream) -> None:
        self.stream = stream
        self.interactions = self.split = None

    @property
    def vocab(self) -> dict[str, Vocab]:
        """{'user': Vocab, 'item': Vocab}."""
        return self.stream.vocab

    @property
    def names(self) -> dict:
        """The column of each role in the files."""
        return self.stream.names

    @property
    def context_of(self) -> None:
        """None: a stream reads no context."""
        return None

    def train_counts(self, side: str) -> np.ndarray:
        """Training rows of each 'user' or 'item', int64 (n,)."""
        return self.stream.counts[0][side]

    def mean_rating(self) -> float:
        """Mean of the training ratings."""
        return self.stream.mean

    def in_words(self) -> str:
        """What there is, for a `repr`."""
        n = len(self.stream.files)
        return f', {self.stream.n:,} rows in {n:,} file{"s" if n > 1 else ""}'

    def require_rows(self, way: str = '') -> None:
        """`ValueError` with the way out: the rows are not in memory."""
        raise ValueError(
            'this needs all rows in memory, and these loaders stream them from files. Take those of some users, as in '
            '`evaluate(learn, dls.of_users(10_000))`, or read everything: RecDataLoaders.from_parquet(...) without '
            f'stream=True, which takes 20 bytes a row. {way}'.rstrip()
        )

    def seen_of(self, users: np.ndarray) -> StreamedSeen:
        """What `users` (codes) have in the training rows: something to index with their codes."""
        return StreamedSeen(self.stream, users, tuple(len(o) for o in self.vocab.values()))

    def with_vocab(self, vocab: dict[str, Vocab]) -> StreamHistory:
        """The same files: a stream encodes with the ids it was made with, after which further items come."""
        return self

    def fingerprint(self, part: str = 'data') -> str:
        """16 hex digits that change with any id or count and the range of the ratings, or with the split ('split').

        The rows themselves are not read for it.
        """
        stream, digest = self.stream, hashlib.blake2b(digest_size=8)
        if part == 'split':
            digest.update(repr((stream.valid_pct, stream.seed, stream.splitter, stream.sizes)).encode())
        elif part == 'data':
            for side, vocab in stream.vocab.items():
                digest.update(pd.util.hash_array(vocab.ids.to_numpy()).tobytes())
                digest.update(sum(o[side] for o in stream.counts).tobytes())
            digest.update(repr((stream.groups, stream.low, stream.high)).encode())
        else:
            raise ValueError(f"part={part!r}: 'data' or 'split'")
        return digest.hexdigest()
