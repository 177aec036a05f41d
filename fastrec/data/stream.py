"""Ratings in parquet files that are larger than memory.

Two passes for ids and counts, then rows again whenever they are asked for, row group by row group."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from ..notices import warn_user
from ..progress import Progress
from .columns import KNOWN_NAMES, codes_in, find_columns
from .digest import digest
from .files import (
    BATCH_ROWS,
    FileTable,
    Irregular,
    distinct_ids,
    id_kind,
    ids_of,
    pyarrow_parquet,
    ratings_of,
    types_differ,
    vocab_of,
)
from .history import History
from .interactions import Interactions, Vocab, check_size, is_missing, sentinel_text, sentinels
from .splits import Split

__all__ = ['ParquetStream']

PARTS = Split._fields  # 'train', 'valid', 'test'; which one a row is in is told by its position here
OPEN_FILES = 32  # at a time
SEEN_ROWS = 2**25  # of users whose training rows are looked up at a time: 160 MiB
SAMPLED_RATINGS = 2**14  # of each batch, that are looked at for values that stand for 'no rating'
SPARE_IDS = 2**21  # ids that may come twice before they are made distinct


class ParquetStream:
    """Vocab, counts and range of the ratings in parquet files, after two passes; the rows whenever they are asked for.

    What is held is the ids, some numbers for each, and one part of a row group. A row is held out by `valid_pct` and
    `seed` alone, or as the column `splitter` says, so it is in the same part at each pass. That no pair of user and
    item repeats is not looked at: it would take all rows at once. `ValueError` says what is wrong with the files.

    `files`; `names` the column of each role; `groups` [(position of the file, row group in it, rows)]; `n` rows;
    `vocab`; `counts` of each part of the split {'user': int64 (n_users,), 'item': int64 (n_items,)}; `sizes`, the rows
    of each part; `low`, `high` of all ratings; `mean` of the training ratings.
    """

    def __init__(
        self,
        path: Any,  # a file, a folder (all .parquet in it), or a list of those
        given: dict | None = None,  # column of each role, as of `find_columns`; None: found by their names
        valid_pct: float = 0.2,  # share of rows, drawn at random, that is held out; 0: none
        seed: int | None = None,  # of that draw
        splitter: str | None = None,  # column that says the part of each row instead
        progress: bool = True,  # show a bar
        missing_rating: Any = None,  # value or values in the place of a rating that say that there is none
    ) -> None:
        table = FileTable(path)
        self.files = table.files
        self.missing_rating = missing_rating
        self.names = self._roles(table, given)
        if splitter is None and not 0 <= valid_pct < 1:
            raise ValueError(f'valid_pct={valid_pct}: a share between 0 and 1, or 0 to train on every row')
        if splitter is not None and splitter not in table.names():
            raise ValueError(f'no column {splitter!r} to split by')
        self.valid_pct = valid_pct
        self.splitter = splitter
        self.seed = int(np.random.default_rng().integers(2**31)) if seed is None else seed
        self.columns = [self.names[role] for role in ('user', 'item', 'rating')]
        if splitter is not None:
            self.columns.append(splitter)
        self._check_in_files(table)
        self._open: dict[int, Any] = {}  # position -> open file
        self.groups = self._row_groups()
        self.n = sum(rows for *_, rows in self.groups)
        if not self.n:
            raise ValueError('the table is empty: it needs one row per interaction')
        self.vocab = self._read_ids(progress)
        self._count(progress)

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_open': {}}

    # --- what the files say of themselves

    def _roles(self, table: FileTable, given: dict | None) -> dict:
        """Column of each role, in the first file."""
        try:
            names = find_columns(pd.DataFrame(columns=table.names()), given or dict.fromkeys(KNOWN_NAMES))
        except ValueError as e:
            raise ValueError(f'{self.files[0]}: {e}') from e
        if names['rating'] is None:
            raise ValueError(
                f'{self.files[0]} has no rating column to learn from. Name it with rating_name=; rows without ratings '
                "are implicit feedback, which is not streamed: read it, from_parquet(..., target='implicit')"
            )
        return names

    def _check_in_files(self, table: FileTable) -> None:
        """`ValueError` for a column that is in the names of folders ('year=2020') instead of the files."""
        in_folders = [name for name in self.columns if any(name in values for values in table.partitions)]
        if in_folders:
            raise ValueError(
                f'column {in_folders[0]!r} is in the names of the folders, not in the files: such a column is not '
                'streamed. Read the files as a whole, without stream=True, or write the column into them'
            )

    def _row_groups(self) -> list[tuple[int, int, int]]:
        """(position of the file, row group, rows) of each that is not empty; all files must have the same columns."""
        pq = pyarrow_parquet()
        groups = []
        types: dict[str, Any] = {}  # of ids, in the first file
        for i, file in enumerate(self.files):
            meta = pq.read_metadata(file)
            schema = pq.read_schema(file)
            if missing := [name for name in self.columns if name not in schema.names]:
                raise ValueError(f'{file} has no column {missing[0]!r}, which {self.files[0]} has')
            for name in self.columns[:2]:
                kind = schema.field(name).type
                first = types.setdefault(name, kind)
                if id_kind(kind) != id_kind(first):
                    raise ValueError(types_differ(name, first, self.files[0], kind, file))
            for group in range(meta.num_row_groups):
                if rows := meta.row_group(group).num_rows:
                    groups.append((i, group, rows))
        return groups

    def _file(self, i: int) -> Any:
        """The open file at position `i`."""
        if i not in self._open:
            if len(self._open) >= OPEN_FILES:
                self._open.pop(next(iter(self._open)))  # closed when nobody reads it any more
            self._open[i] = pyarrow_parquet().ParquetFile(self.files[i])
        return self._open[i]

    def _batches(self, group: int, columns: list) -> Iterator[Any]:
        """Arrow record batches of a row group (its position in `groups`)."""
        i, group_in_file, _ = self.groups[group]
        yield from self._file(i).iter_batches(
            BATCH_ROWS, row_groups=[group_in_file], columns=columns, use_threads=False
        )

    def _rated(self, batch: Any) -> np.ndarray | None:
        """bool (rows,): which rows of a batch have a rating, if some may have none; else None."""
        if self.missing_rating is None:
            return None
        return ~is_missing(ratings_of(batch.column(self.columns[2])), self.missing_rating)

    def _complain(self, batch: Any, group: int) -> NoReturn:
        """Say what is wrong with a batch, as of a table."""
        i, group_in_file, _ = self.groups[group]
        where = f'{self.files[i]}, row group {group_in_file}'
        user, item, rating = self.columns[:3]
        try:
            Interactions.from_df(batch.to_pandas(), user, item, rating, time_name=False, duplicates='keep')
        except ValueError as e:
            if 'single' not in str(e):
                raise ValueError(f'{where}: {e}') from None
        types = [str(batch.schema.field(name).type) for name in self.columns[:3]]
        raise ValueError(
            f'{where}: columns {self.columns[:3]} of types {types} cannot be streamed. '
            'Make ids integers or texts and ratings numbers, or read the file as a whole, without stream=True'
        )

    # --- the two passes

    def _read_ids(self, progress: bool) -> dict[str, Vocab]:
        """The first pass: {'user': Vocab, 'item': Vocab}."""
        found: dict[str, list] = {'user': [], 'item': []}  # distinct ids of each batch, from time to time of all
        with Progress(self.n, 'ids', 'rows', progress) as bar:
            for group in range(len(self.groups)):
                for batch in self._batches(group, self.columns[: 2 if self.missing_rating is None else 3]):
                    for side, parts in found.items():
                        parts.append(self._distinct(batch, side, group))
                        if sum(map(len, parts)) > 2 * len(parts[0]) + SPARE_IDS:
                            parts[:] = [distinct_ids(parts)]
                    bar.update(len(batch))
        vocab = {side: vocab_of(parts, side) for side, parts in found.items()}
        for side, ids in vocab.items():
            if len(ids) == 1:
                raise ValueError(
                    f'the files have a single {side} ({ids.ids[0]!r}, column {self.names[side]!r}): '
                    f'collaborative filtering learns from what several {side}s share. Is {side}_name right?'
                )
        return vocab

    def _distinct(self, batch: Any, side: str, group: int) -> np.ndarray | pd.Series:
        """Distinct ids of a batch: an array of integers or a Series of texts."""
        try:
            rated = self._rated(batch)
            if rated is not None:
                batch = batch.filter(_arrow_mask(rated))
            ids = ids_of(batch.column(self.names[side]))
        except Irregular:
            self._complain(next(self._batches(group, self.columns[:3])), group)
        return pd.unique(ids) if isinstance(ids, np.ndarray) else ids.unique().to_pandas()

    def _count(self, progress: bool) -> None:
        """The second pass: `counts`, `sizes`, `low`, `high`, `mean`, and `digests` of the columns."""
        self.counts: list[dict[str, np.ndarray]] = [
            {side: np.zeros(len(ids), np.int64) for side, ids in self.vocab.items()} for _ in PARTS
        ]
        self.sizes = [0] * len(PARTS)
        self.low = np.inf
        self.high = -np.inf
        total = 0.0  # of the training ratings
        hashes = {name: hashlib.blake2b(digest_size=8) for name in ('user', 'item', 'rating', 'parts')}
        rows_of_value: dict[float, int] = {}  # rating -> rows, in a sample
        with Progress(self.n, 'counts', 'rows', progress) as bar:
            for group in range(len(self.groups)):
                for users, items, ratings, parts in self.read(group):
                    if not len(ratings):
                        continue
                    for column_hash, column in zip(hashes.values(), (users, items, ratings, parts)):
                        column_hash.update(np.ascontiguousarray(column).data)
                    _add_sample(rows_of_value, ratings)
                    self.low = min(self.low, float(ratings.min()))
                    self.high = max(self.high, float(ratings.max()))
                    for p in range(len(PARTS)):
                        in_part = parts == p
                        self.sizes[p] += int(in_part.sum())
                        _add_counts(self.counts[p]['user'], users[in_part])
                        _add_counts(self.counts[p]['item'], items[in_part])
                    total += ratings[parts == 0].sum(dtype=np.float64)
                    bar.update(len(users))
        self.n = sum(self.sizes)  # without those that have no rating
        self.digests = {name: column_hash.hexdigest() for name, column_hash in hashes.items()}
        self._check_counted()
        self._warn_of_sentinels(rows_of_value)
        self.mean = total / self.sizes[0]

    def _warn_of_sentinels(self, rows_of_value: dict[float, int]) -> None:
        """Warn of values that look as if they stood for 'no rating'; of a sample of the rows."""
        values: np.ndarray = np.array(sorted(rows_of_value))
        counts: np.ndarray = np.array([rows_of_value[value] for value in values])
        for value in sentinels(values, counts):
            n = round(rows_of_value[value] / counts.sum() * self.n)
            warn_user(sentinel_text(value, n, self.n))

    def _check_counted(self) -> None:
        """`ValueError` if there is nothing to train on, nothing held out that should be, or times for ratings."""
        needed = ['train', 'valid'] if self.splitter is not None or self.valid_pct else ['train']
        for name, size in zip(needed, self.sizes):
            if not size:
                raise ValueError(f'the {name} part of the split is empty ({self.n:,} rows in all)')
        check_size(self.low, self.high, self.names['rating'])

    # --- rows

    def read(
        self,
        group: int,  # position in `groups`
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Parts of a row group: int32 users and items, float32 ratings, and where each row is in the split.

        The last as int8: 0 train, 1 valid, 2 test. All (rows,). `ValueError` if the file has changed.
        """
        rng = np.random.default_rng([self.seed, group])
        user, item, rating = self.columns[:3]
        for batch in self._batches(group, self.columns):
            whole = batch
            try:
                rated = self._rated(batch)
                if rated is not None:
                    batch = batch.filter(_arrow_mask(rated))
                user_ids = ids_of(batch.column(user))
                item_ids = ids_of(batch.column(item))
                ratings = ratings_of(batch.column(rating))
            except Irregular:
                self._complain(batch, group)
            users = self._encoded(user_ids, 'user', group)
            items = self._encoded(item_ids, 'item', group)
            if self.splitter is None:
                parts = (rng.random(len(rated if rated is not None else ratings)) < self.valid_pct).astype(np.int8)
            else:
                parts = self._given_parts(whole.column(self.splitter), group)
            yield users, items, ratings, parts if rated is None else parts[rated]

    def _encoded(self, ids: Any, side: str, group: int) -> np.ndarray:
        """int32 codes of the ids of a batch."""
        values = ids if isinstance(ids, np.ndarray) else ids.to_pandas().array
        codes: np.ndarray = codes_in(self.vocab[side].ids, values).astype(np.int32)
        if (codes < 0).any():
            raise ValueError(
                f'{self.files[self.groups[group][0]]} has other ids than when it was read first: '
                'files of a stream must stay as they are. Make the loaders again'
            )
        return codes

    def _given_parts(self, column: Any, group: int) -> np.ndarray:
        """int8 (rows,): the part of each row, as the column `splitter` says it."""
        values = column.to_pandas()
        if not values.isna().any():
            if pd.api.types.is_bool_dtype(values.dtype):
                return values.to_numpy().astype(np.int8)
            codes = pd.Categorical(values, categories=list(PARTS)).codes
            if codes.min() >= 0:
                return codes.astype(np.int8)
        raise ValueError(
            f'{self.files[self.groups[group][0]]}: column {self.splitter!r} says the split: '
            "booleans (True for valid) or the words 'train', 'valid', 'test', none missing"
        )

    def rows_of(
        self,
        users: np.ndarray,  # bool (n_users,)
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Rows of some users, as those of `read`, of all row groups that may have any."""
        ids = self.vocab['user'].ids[users]
        for group in range(len(self.groups)):
            if not self._may_have(group, ids):
                continue
            for codes, items, ratings, parts in self.read(group):
                chosen = users[codes]
                if chosen.any():
                    yield codes[chosen], items[chosen], ratings[chosen], parts[chosen]

    def _may_have(self, group: int, ids: pd.Index) -> bool:
        """Can a row group hold any of the (ascending) ids, by the bounds in the file?

        In a file in the order of users few can.
        """
        i, group_in_file, _ = self.groups[group]
        meta = self._file(i).metadata.row_group(group_in_file)
        columns = [meta.column(j) for j in range(meta.num_columns)]
        of_users = [column for column in columns if column.path_in_schema == self.columns[0]]
        bounds = of_users[0].statistics if of_users else None
        if bounds is None or not bounds.has_min_max:
            return True
        try:
            first = np.searchsorted(ids, bounds.min, 'left')
            end = np.searchsorted(ids, bounds.max, 'right')
        except TypeError:  # bounds of another type than the ids
            return True
        return bool(end > first)


def _arrow_mask(mask: np.ndarray) -> Any:
    """A boolean array of arrow."""
    import pyarrow as pa

    return pa.array(mask)


def _add_sample(rows_of_value: dict[float, int], ratings: np.ndarray) -> None:
    """Count the values of some of the ratings, evenly spaced, in place."""
    step = max(1, len(ratings) // SAMPLED_RATINGS)
    for value, n in zip(*np.unique(ratings[::step], return_counts=True)):
        rows_of_value[float(value)] = rows_of_value.get(float(value), 0) + int(n) * step


def _add_counts(counts: np.ndarray, codes: np.ndarray) -> None:
    """Add how often each code comes, in place: not by a pass over all counts where they are many."""
    if len(counts) < 4 * len(codes):
        counts += np.bincount(codes, minlength=len(counts))
    else:
        np.add.at(counts, codes, 1)


class StreamedSeen:
    """What users have in the training rows of a stream, by code as in a CSR matrix.

    It is read for as many users at a time as the budget allows, in the order in which `recommend` asks.
    """

    def __init__(
        self,
        stream: ParquetStream,
        users: np.ndarray,  # codes, in the order in which they will be asked for
        shape: tuple[int, ...],  # (n_users, n_items)
    ) -> None:
        self.stream = stream
        self.users = users
        self.shape = shape
        self.matrix: Any = None  # csr_matrix of the users that are held
        self.is_held: np.ndarray = np.zeros(shape[0], bool)

    def __getitem__(
        self,
        codes: np.ndarray,  # users
    ) -> csr_matrix:
        """int8 (len(codes), n_items), with an entry where there is a training row."""
        if not self.is_held[codes].all():
            self._read(codes)
        return self.matrix[codes]

    def _read(self, codes: np.ndarray) -> None:
        """Hold the training rows of `codes`, and of those after them as far as `SEEN_ROWS` goes."""
        start = np.flatnonzero(self.users == codes[0])[0]
        ahead = self.users[start:]
        n_rows = np.cumsum(self.stream.counts[0]['user'][ahead])
        self.is_held[:] = False
        self.is_held[codes] = True
        self.is_held[ahead[: np.searchsorted(n_rows, SEEN_ROWS)]] = True
        users: list[np.ndarray] = [np.zeros(0, np.int32)]
        items: list[np.ndarray] = [np.zeros(0, np.int32)]
        for user_codes, item_codes, _, parts in self.stream.rows_of(self.is_held):
            in_train = parts == 0
            users.append(user_codes[in_train])
            items.append(item_codes[in_train])
        rows = np.concatenate(users)
        columns = np.concatenate(items)
        self.matrix = csr_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=self.shape)


class StreamHistory(History):
    """The history of rows that stay in their files: `interactions` and `split` are None.

    What needs all rows raises a `ValueError` that says what to do instead.
    """

    def __init__(self, stream: ParquetStream) -> None:
        self.stream = stream
        self.interactions = None  # type: ignore[assignment]  # what reads them is overridden, or raises first
        self.split = None  # type: ignore[assignment]

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

    def rating_options(self) -> dict[str, Any]:
        """As of rows in memory."""
        return dict(missing_rating=self.stream.missing_rating)

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

    def digests(self, part: str = 'data') -> dict[str, str]:
        """As of rows in memory; the rows were read for it when they were counted."""
        stream = self.stream
        if part == 'split':
            return {'parts': stream.digests['parts']}
        if part != 'data':
            raise ValueError(f"part={part!r}: 'data' or 'split'")
        res = {f'{side}s': digest(vocab.ids, [stream.digests[side]]) for side, vocab in stream.vocab.items()}
        return {**res, 'ratings': stream.digests['rating']}
