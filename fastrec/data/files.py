"""Tables in files, a part at a time: parquet and CSV through pyarrow.

Rows are converted as they are read, so that the table is never there as a whole."""

from __future__ import annotations

import bz2
import csv as csv_rows
import gzip
import io
import lzma
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd

from ..progress import Progress
from .columns import (
    EXACT_FLOATS,
    KNOWN_NAMES,
    codes_in,
    find_columns,
    first_few,
    is_table,
    normal_name,
    plain_values,
)
from .interactions import LARGEST_RATING, Interactions, Vocab, check_header

__all__ = ['FileTable']

BATCH_ROWS = 2**19  # rows read at a time
BLOCK_ROWS = 2**24  # rows that an array grows by where their number is not known
CSV_BYTES = 2**24  # bytes of a CSV file that are parsed at a time
HEAD_BYTES = 2**20  # of a CSV file that are looked at, to see how it is written
SEPARATORS = (',', '\t', ';', '|', '::')  # that are looked for in it
NO_VALUE = '__HIVE_DEFAULT_PARTITION__'  # of a folder: no value


class Irregular(Exception):
    """The values are not what can be converted part by part.

    The whole table has to be looked at, to say what is wrong with it or to be patient.
    """


# --- what there is to read


def is_open_file(path: Any) -> bool:
    """Is it something to read from, rather than a path or a list of paths?"""
    return hasattr(path, 'read')


def parquet_files(
    path: Any,  # a file, a folder (all .parquet in it, by name), or a list of those
) -> list:
    """The files that `path` stands for; `FileNotFoundError` for a folder without any."""
    if isinstance(path, (list, tuple)):
        return [file for p in path for file in parquet_files(p)]
    if is_open_file(path) or not Path(path).is_dir():
        return [path]
    files = [file for file in sorted(Path(path).rglob('*.parquet')) if not _is_aside(file.relative_to(path))]
    if not files:
        raise FileNotFoundError(f'there is no .parquet file in {path}')
    return files


def _is_aside(path: Path) -> bool:
    """Is it, in a folder of parquet, what a writer has put aside ('_temporary', '.part-0.parquet')?"""
    return any(part.startswith(('_', '.')) for part in path.parts)


def partitions_of(
    path: Any,  # as of `parquet_files`
) -> list[dict[str, Any]]:
    """What the folders of each file say of its rows ('year=2020/...'): column -> value, an int where all are."""
    texts = _partition_texts(path)
    keys = list(dict.fromkeys(key for text in texts for key in text))
    for key in keys:
        values = [text[key] for text in texts if text.get(key) is not None]
        if all(re.fullmatch(r'0|-?[1-9]\d*', o) for o in values):
            texts = [{**o, key: int(o[key])} if o.get(key) is not None else o for o in texts]
    return texts


def _partition_texts(path: Any) -> list[dict[str, Any]]:
    """The same, of texts."""
    if isinstance(path, (list, tuple)):
        return [o for p in path for o in _partition_texts(p)]
    if is_open_file(path) or not Path(path).is_dir():
        return [{}]
    res = []
    for file in parquet_files(path):
        folders = [part.split('=', 1) for part in file.relative_to(path).parts[:-1] if '=' in part]
        res.append({unquote(key): None if value == NO_VALUE else unquote(value) for key, value in folders})
    return res


def pyarrow_parquet() -> ModuleType:
    """`pyarrow.parquet`, imported when it is needed; `ImportError` with the way out."""
    try:
        import pyarrow.parquet as pq
    except ImportError as e:
        raise ImportError("reading parquet needs pyarrow: pip install 'fastrec-learn[parquet]'") from e
    return pq


def pyarrow_csv() -> ModuleType | None:
    """`pyarrow.csv`, imported when it is needed; None where pyarrow is not installed."""
    try:
        from pyarrow import csv
    except ImportError:
        return None
    return csv


class FileTable:
    """A table in a file that is read in parts: parquet (a file, a folder of files, a list of them) or CSV.

    `interactions` converts each part as it comes: what is held is two int32 codes, a float32 rating and the time of a
    row, and one part. Where that cannot be done (missing ids, mixed types, words for numbers, ...) it hands over the
    whole table, whose checks say what is wrong. `TypeError` for a table.
    """

    def __init__(
        self,
        path: Any,  # a path or an open file; of parquet also a folder or a list
        kind: str = 'parquet',  # or 'csv'
        columns: Sequence | None = None,  # of parquet: those to read; None: all
        sep: str | None = None,  # of CSV: what stands between columns; None: what its first lines tell
        encoding: str | None = None,  # of CSV; None: UTF-8
        parse_dates: Any = None,  # of CSV: as of `pandas.read_csv`, which then reads it
        header: int | str | None = 'infer',  # of CSV: the row with the names of the columns; None: there is none
        names: Sequence | None = None,  # of CSV: names of the columns, in place of a header
        dtype: Any = None,  # of CSV: type of each column, {column: type}, or of all
        decimal: str = '.',  # of CSV: the decimal sign
    ) -> None:
        if is_table(path):
            raise TypeError('a file is expected, got a table, which needs no reading: RecDataLoaders.from_df(ratings)')
        self.path = path
        self.kind = kind
        self.wanted = columns
        self.encoding = encoding
        self.parse_dates = parse_dates
        self.header = (None if names is not None else 0) if header == 'infer' else header
        self.given_names = None if names is None else list(names)
        self.dtype = dtype
        self.decimal = decimal
        self.files: list = []  # of parquet
        self.partitions: list[dict[str, Any]] = []  # of each file: what its folders say of its rows
        self.head: list[str] = []  # the first lines of CSV
        if kind == 'parquet':
            pyarrow_parquet()
            self.files = parquet_files(path)
            self.partitions = partitions_of(path)
        else:
            self.start = _position(path)
            self.head = _first_lines(path, encoding)
        self.sep = sep or separator_of(self.head)
        self._check_number_of_names()

    # --- reading

    def names(self) -> list:
        """Names of the columns."""
        if self.wanted is not None:
            return list(self.wanted)
        if self.kind == 'csv':
            return self._csv_names()
        names = pyarrow_parquet().read_schema(self.files[0]).names
        names = [name for name in names if not name.startswith('__index_level_')]
        return names + [key for key in self._partition_keys() if key not in names]

    def _partition_keys(self) -> list[str]:
        """Columns that folders stand for."""
        return list(dict.fromkeys(key for values in self.partitions for key in values))

    def _csv_names(self) -> list:
        if self.given_names is not None:
            return self.given_names
        if self._is_csv_for_arrow():
            return self._open_csv().schema.names
        names = list(self._by_pandas(nrows=0 if self.header is not None else 1).columns)
        self._rewind()
        return names

    def _check_number_of_names(self) -> None:
        """`ValueError` if the first row has not as many fields as there are names."""
        if self.given_names is None or not self.head:
            return
        n = len(self._head_rows()[0])
        if n != len(self.given_names):
            raise ValueError(
                f'names={self.given_names}: {len(self.given_names)} names, and the first row of the file has {n} '
                f'columns (separated by {self.sep!r}): {first_few(self._head_rows()[0])}'
            )

    def _head_rows(self) -> list[list[str]]:
        """The first rows, as texts."""
        if len(self.sep) == 1:
            return list(csv_rows.reader(self.head, delimiter=self.sep))
        return [line.split(self.sep) for line in self.head]

    def parts(
        self,
        names: Iterable,  # columns to read
        floats: Iterable = (),  # those of them that are read as floats in CSV, whatever they start with
    ) -> Iterator[Any]:
        """Arrow record batches of the columns `names`."""
        if self.kind == 'csv':
            yield from self._open_csv(list(names), floats)
            return
        pq = pyarrow_parquet()
        for path, values in zip(self.files, self.partitions):
            there = [name for name in names if name not in values]
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(BATCH_ROWS, columns=there, use_threads=False):
                    yield _with_partition(batch, {name: values[name] for name in names if name in values})

    def n_rows(self) -> int | None:
        """Rows; None where only reading them would tell."""
        if self.kind == 'csv':
            return None
        pq = pyarrow_parquet()
        return sum(pq.read_metadata(path).num_rows for path in self.files)

    def _csv_options(self, names: list | None = None, floats: Iterable = ()) -> dict:
        """Options of arrow's readers of CSV."""
        import pyarrow as pa
        from pyarrow import csv

        types = _arrow_types(self._dtypes()) or {}
        return dict(
            read_options=csv.ReadOptions(
                encoding=self.encoding or 'utf8',
                use_threads=False,
                block_size=CSV_BYTES,
                column_names=self.given_names,
                skip_rows=1 if self.given_names is not None and self.header == 0 else 0,
            ),
            parse_options=csv.ParseOptions(delimiter=self.sep),
            convert_options=csv.ConvertOptions(
                strings_can_be_null=True,
                include_columns=names,
                column_types={**types, **{name: pa.float64() for name in floats}},
                decimal_point=self.decimal,
            ),
        )

    def _open_csv(self, names: list | None = None, floats: Iterable = ()) -> Any:
        """Arrow's reader of the CSV file: iterates over record batches."""
        from pyarrow import csv

        return csv.open_csv(self.path, **self._csv_options(names, floats))

    def _is_csv_for_arrow(self) -> bool:
        """Is it CSV that arrow reads?

        Dates to parse, longer separators, text files that are open, other headers and the network are for pandas.
        """
        if self.parse_dates is not None or len(self.sep) != 1 or '://' in str(self.path):
            return False
        if is_open_file(self.path) and not isinstance(self.path, (io.RawIOBase, io.BufferedIOBase)):
            return False
        if self.header not in (0, None) or (self.header is None and self.given_names is None):
            return False
        if pyarrow_csv() is None:
            return False
        return _arrow_types(self.dtype) is not None

    def _dtypes(self) -> dict:
        """Type of each column: as asked for, and ids that are padded with zeros ('007') as texts.

        One type for all is for ids: ratings and times, which have their own, do without.
        """
        if self.dtype is not None and not isinstance(self.dtype, dict):
            return {name: self.dtype for name in self._header_names() if not _is_number_by_name(name)}
        return {**dict.fromkeys(self._padded(), str), **(self.dtype or {})}

    def _header_names(self) -> list[str]:
        """Names of the columns, as the first line has them."""
        if self.given_names is not None:
            return self.given_names
        return self._head_rows()[0] if self.head and self.header == 0 else []

    def _padded(self) -> list[str]:
        """Columns whose first values are digits with zeros before them, as ids have; not those of ratings and times."""
        names: list = self._header_names()
        rows = self._head_rows()[0 if self.header is None else 1 :]
        if self.header is None and not names and rows:
            names = list(range(len(rows[0])))  # as pandas numbers them
        res = []
        for i, name in enumerate(names):
            if _is_number_by_name(name):
                continue
            values = [row[i].strip() for row in rows if len(row) > i and row[i].strip()]
            if all(o.isdecimal() for o in values) and any(len(o) > 1 and o[0] == '0' for o in values):
                res.append(name)
        return res

    def whole(self) -> pd.DataFrame:
        """The table, of which nobody else has a copy: `Interactions.from_df` may take it apart."""
        if self.kind == 'csv':
            return self._whole_csv()
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = self.names()
        self.check_schemas(names)

        def read(name: str) -> Any:
            columns = []
            for path, values in zip(self.files, self.partitions):
                if name in values:
                    columns.append(_repeated(values[name], pq.read_metadata(path).num_rows))
                else:
                    columns.append(_read_column(path, name))
            chunks = [chunk for column in columns for chunk in _chunks_of(column)]
            kind = _common_type([column.type for column in columns])
            try:
                return pa.chunked_array([chunk.cast(kind) for chunk in chunks], type=kind)
            except pa.ArrowInvalid:  # integers beyond int64 in one of the files
                return pa.chunked_array([chunk.cast(pa.uint64()) for chunk in chunks])

        return _frame(names, read)

    def check_schemas(
        self,
        names: Iterable,  # columns that are read
        ids: Iterable = (),  # those of them that hold ids
    ) -> None:
        """`ValueError` unless all parquet files have these columns, of types that go together."""
        pq = pyarrow_parquet()
        names = list(names)
        ids = set(ids)
        first: dict[str, Any] = {}  # type of each column in the first file
        for path, values in zip(self.files, self.partitions):
            schema = pq.read_schema(path)
            for name in names:
                if name in values:
                    continue
                if name not in schema.names:
                    raise ValueError(f'{path} has no column {name!r}, which {self.files[0]} has')
                kind = schema.field(name).type
                before = first.setdefault(name, kind)
                if kind == before:
                    continue
                kinds = {'integer' if o == 'float' else o for o in (id_kind(kind), id_kind(before))}
                if len(kinds) > 1 and (name in ids or 'text' in kinds):
                    raise ValueError(types_differ(name, before, self.files[0], kind, path))

    def _whole_csv(self) -> pd.DataFrame:
        """The table of a CSV file: by arrow, else by pandas, which is more patient, or says what is wrong."""
        if self._is_csv_for_arrow():
            from pyarrow import ArrowException

            self._rewind()
            try:
                return self._whole_csv_by_arrow()
            except (ArrowException, KeyError):  # a column that changes its type half-way, and the like
                self._rewind()
        try:
            return self._by_pandas()
        except UnicodeDecodeError as e:
            raise ValueError(
                f'{self.path} is not written in {self.encoding or "UTF-8"} ({e}). '
                "Say how: encoding='latin-1', 'cp1252', 'utf-16', ..."
            ) from e

    def _by_pandas(self, nrows: int | None = None) -> pd.DataFrame:
        """The table, or its first `nrows` rows, as pandas reads them."""
        return pd.read_csv(
            self.path,
            sep=self.sep,
            encoding=self.encoding,
            parse_dates=self.parse_dates,
            header=self.header,
            names=self.given_names,
            dtype=self._dtypes() if self._header_names() or self.dtype is None else self.dtype,
            decimal=self.decimal,
            nrows=nrows,
        )

    def _rewind(self) -> None:
        """Go back to where an open file was."""
        if self.start is not None:
            self.path.seek(self.start)

    def _whole_csv_by_arrow(self) -> pd.DataFrame:
        import pyarrow as pa
        from pyarrow import csv

        table = csv.read_csv(self.path, **self._csv_options())
        if any(pa.types.is_binary(kind) for kind in table.schema.types):
            raise pa.ArrowInvalid('bytes that are not text in this encoding: pandas says so')

        def read(name: str) -> Any:
            """A column, which leaves the table: its memory is free when it has been converted."""
            nonlocal table
            column = table.column(name)
            table = table.drop_columns([name])
            return column

        return _frame(table.column_names, read)

    # --- converting

    def interactions(
        self,
        user_name: str | None = None,  # this and what follows: as in `Interactions.from_df`
        item_name: str | None = None,  # column of item ids
        rating_name: str | bool | None = None,  # column of ratings; False: none
        time_name: str | bool | None = None,  # column of times; False: none
        duplicates: str = 'error',  # repeated user-item pairs: 'error', 'first', 'last', 'mean' or 'keep'
        whole: bool = False,  # read the table as a whole, and return it too
        context: Any = None,  # columns of what belongs to the interaction itself
        weight_name: str | None = None,  # column of what each rating counts in the loss
        missing_rating: Any = None,  # value or values in the place of a rating that say that there is none
    ) -> tuple[Interactions, pd.DataFrame | None]:
        """The `Interactions`, and the table if it had to be read as a whole (else None)."""
        needs_table = whole or context or weight_name or missing_rating is not None
        if not needs_table and self._can_be_read_in_parts():
            from pyarrow import ArrowException

            given = dict(user=user_name, item=item_name, rating=rating_name, time=time_name)
            try:
                return self._in_parts(given, duplicates), None
            except (Irregular, ArrowException, KeyError, UnicodeDecodeError):
                pass
        df = self.whole()
        inter = Interactions.from_df(
            df,
            user_name,
            item_name,
            rating_name,
            time_name,
            duplicates,
            own=df.attrs.get('own', False),
            context=context,
            weight_name=weight_name,
            missing_rating=missing_rating,
        )
        return inter, df

    def _can_be_read_in_parts(self) -> bool:
        """An open file is read once, so it is read as a whole."""
        if is_open_file(self.path):
            return False
        return self.kind == 'parquet' or self._is_csv_for_arrow()

    def roles(
        self,
        given: dict[str, Any],  # as of `find_columns`
    ) -> dict[str, Any]:
        """Column of each role, as `Interactions.from_df` finds them; `Irregular` where it would complain."""
        try:
            names = find_columns(pd.DataFrame(columns=self.names()), given)
        except ValueError as e:
            raise Irregular from e
        used = [name for name in names.values() if name is not None]
        if len(set(used)) < len(used):
            raise Irregular
        return names

    def _in_parts(self, given: dict[str, Any], duplicates: str) -> Interactions:
        """The `Interactions`, converted part by part; `Irregular` where that cannot be done."""
        names = self.roles(given)
        if self.kind == 'parquet':
            sides_of = [names[side] for side in ('user', 'item')]
            self.check_schemas([name for name in names.values() if name is not None], sides_of)
        sides, ratings, times = self._converted(names)
        if not sides['user'].distinct:
            raise Irregular
        vocab = {side: codes.vocab(side) for side, codes in sides.items()}
        if min(map(len, vocab.values())) < 2:
            raise Irregular
        users = sides.pop('user').codes(vocab['user'])  # popped: what it holds is given up before the next
        items = sides.pop('item').codes(vocab['item'])
        if ratings is not None and max(-ratings.min(), ratings.max()) > LARGEST_RATING:
            raise Irregular
        check_header(names, given, vocab, users, items, self.names())
        res = Interactions(users, items, ratings, times, vocab, names)
        return res if duplicates == 'keep' else res.merge_duplicates(duplicates)

    def _converted(self, names: dict[str, Any]) -> tuple[dict[str, LocalCodes], np.ndarray | None, np.ndarray | None]:
        """All parts: codes of users and items within each part, ratings and times (those there are)."""
        n = self.n_rows()
        sides = {side: LocalCodes(n) for side in ('user', 'item')}
        ratings = GrowingArray(n)
        times = GrowingArray(n)
        columns = [name for name in names.values() if name is not None]
        floats = [] if names['rating'] is None else [names['rating']]
        with Progress(n, 'reading', 'rows') as progress:
            for batch in self.parts(columns, floats):
                if not len(batch):
                    continue
                for side, codes in sides.items():
                    codes.add(batch.column(names[side]))
                if names['rating'] is not None:
                    ratings.add(ratings_of(batch.column(names['rating'])))
                if names['time'] is not None:
                    times.add(times_of(batch.column(names['time'])))
                progress.update(len(batch))
        return sides, ratings.joined(), times.joined()


def _frame(
    names: Iterable,  # columns
    read: Callable[[Any], Any],  # name -> arrow array of the column
) -> pd.DataFrame:
    """A table whose columns are read one at a time, so that no more than one is there twice."""
    import pyarrow as pa

    columns: dict[Any, Any] = {}
    for name in names:
        column = read(name)
        # integers with gaps as such: as floats those from 2^53 on would no longer be told apart
        has_gaps = pa.types.is_integer(column.type) and column.null_count > 0
        values = pd.Series(pd.array(column.to_pandas(integer_object_nulls=True), 'Int64')) if has_gaps else None
        if values is None:
            values = column.to_pandas()
        if isinstance(values.dtype, np.dtype) and values.dtype != object:
            values = values.to_numpy(copy=column.num_chunks == 1)  # a view would hold on to arrow's memory
        columns[name] = values
        del column, values
        pa.default_memory_pool().release_unused()
    df = pd.DataFrame(columns, copy=False)
    df.attrs['own'] = True  # nobody else has it: `Interactions.from_df` may take it apart
    return df


def _with_partition(batch: Any, values: dict[str, Any]) -> Any:
    """A record batch with columns of one value each."""
    for name, value in values.items():
        batch = batch.append_column(name, _repeated(value, len(batch)))
    return batch


def _repeated(value: Any, n: int) -> Any:
    """An arrow array of one value."""
    import pyarrow as pa

    return pa.nulls(n) if value is None else pa.repeat(value, n)


def _read_column(path: Any, name: str) -> Any:
    """A column of a parquet file, an arrow array; dictionaries are undone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:  # not `read_table`, which would take folders for columns
        column = file.read(columns=[name], use_threads=False).column(0)
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _chunks_of(column: Any) -> list:
    """The arrays that a chunked one is made of."""
    import pyarrow as pa

    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def _common_type(kinds: list) -> Any:
    """The arrow type that holds all of these."""
    import pyarrow as pa

    if len(set(kinds)) == 1:
        return kinds[0]
    schemas = [pa.schema([pa.field('column', kind)]) for kind in kinds]
    return pa.unify_schemas(schemas, promote_options='permissive').field(0).type


def id_kind(
    kind: Any,  # type of arrow
) -> str:
    """What ids of a type are: 'integer' or 'float' (of any width), 'text', or the type."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return 'integer'
    if pa.types.is_floating(kind):
        return 'float'
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == 'string_view':
        return 'text'
    return str(kind)


def types_differ(name: str, first: Any, first_path: Any, kind: Any, path: Any) -> str:
    """What is said of a column of one type in one file and of another in another."""
    return (
        f'column {name!r} is of one type in {first_path} ({first}) and of another in {path} ({kind}): '
        "1 and '1' would be two. Make them one"
    )


# --- how a CSV file is written


def _position(path: Any) -> int | None:
    """Where an open file is; None for a path, and for what cannot go back."""
    if not is_open_file(path):
        return None
    try:
        return path.tell()
    except (AttributeError, OSError):
        return None


def _first_lines(path: Any, encoding: str | None) -> list[str]:
    """The first lines of a CSV file that are not empty; none where they cannot be read twice."""
    try:
        if is_open_file(path):
            start = _position(path)
            if start is None:
                return []
            head = path.read(HEAD_BYTES)
            path.seek(start)
        else:
            openers: dict[str, Callable] = {'.gz': gzip.open, '.bz2': bz2.open, '.xz': lzma.open}
            suffix = Path(path).suffix.lower()
            if '://' in str(path) or suffix in ('.zip', '.zst', '.tar'):
                return []
            with openers.get(suffix, open)(path, 'rb') as file:
                head = file.read(HEAD_BYTES)
    except OSError:
        return []  # who reads it says so
    if isinstance(head, bytes):
        head = head.decode(encoding or 'utf-8-sig', errors='replace')
    lines = head.splitlines()
    if len(head) >= HEAD_BYTES:
        lines = lines[:-1]  # the last one is cut off
    return [line for line in lines if line.strip()]


def _is_number_by_name(name: Any) -> bool:
    """Is a column that of ratings or times, by its name?"""
    return any(normal_name(name) in KNOWN_NAMES[role] for role in ('rating', 'time'))


def separator_of(
    lines: list[str],  # the first of a file
) -> str:
    """What stands between the columns: the sign that parts all lines into equally many, most of them; else ','."""
    lines = [re.sub(r'"[^"]*"', '', line) for line in lines[:200]]
    best = ','
    most = 0
    for sign in SEPARATORS:
        counts = [line.count(sign) for line in lines]
        is_even = bool(counts) and counts[0] > 0 and counts.count(counts[0]) >= 0.9 * len(counts)
        if is_even and counts[0] > most:
            best = sign
            most = counts[0]
    return best


def _arrow_types(
    dtype: Any,  # as of `pandas.read_csv`
) -> dict | None:
    """Types of arrow for the types of columns; None where only pandas knows them."""
    import pyarrow as pa

    known: dict[Any, Any] = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    for name in ('str', 'string', 'object'):
        known[name] = pa.string()
    for name in ('int', 'int64', 'Int64'):
        known[name] = pa.int64()
    for name in ('float', 'float64', 'Float64'):
        known[name] = pa.float64()
    if dtype is None:
        return {}
    if not isinstance(dtype, dict):
        return {} if dtype in (str, 'str', 'string') else None
    if not all(isinstance(o, (str, type)) and o in known for o in dtype.values()):
        return None
    return {name: known[o] for name, o in dtype.items()}


class GrowingArray:
    """An array that is filled part by part: at once of its length where that is known, else in blocks.

    Blocks are large enough to go back to the system when they are given up.
    """

    def __init__(
        self,
        n: int | None = None,  # its length; None: not known
    ) -> None:
        self.n = n
        self.blocks: list[np.ndarray] = []
        self.free = 0  # rows of the last block that are not filled yet

    def add(self, values: np.ndarray) -> None:
        """The next part; a wider dtype widens what is there."""
        self._widen(values)
        while len(values):
            if not self.free:
                self._add_block(values.dtype)
            block = self.blocks[-1]
            start = len(block) - self.free
            fitting = values[: self.free]
            block[start : start + len(fitting)] = fitting
            self.free -= len(fitting)
            values = values[len(fitting) :]

    def _widen(self, values: np.ndarray) -> None:
        """Give the blocks a dtype that holds `values` too."""
        if not self.blocks:
            return
        dtype = np.result_type(values, self.blocks[0])
        if dtype == self.blocks[0].dtype:
            return
        for i, block in enumerate(self.blocks):  # one by one, so that no more than one is there twice
            self.blocks[i] = block.astype(dtype)

    def _add_block(self, dtype: np.dtype) -> None:
        """A further block, of the dtype of those before it."""
        if self.blocks:
            dtype = self.blocks[0].dtype
        block: np.ndarray = np.empty(BLOCK_ROWS if self.n is None else self.n, dtype)
        self.blocks.append(block)
        self.free = len(block)

    def joined(self) -> np.ndarray | None:
        """One array (None: nothing was added); the blocks are given up."""
        if not self.blocks:
            return None
        if len(self.blocks) == 1:
            block = self.blocks.pop()
            return block[: len(block) - self.free]
        res: np.ndarray = np.empty(sum(map(len, self.blocks)) - self.free, self.blocks[0].dtype)
        start = 0
        self.blocks.reverse()
        while self.blocks:
            block = self.blocks.pop()
            place = res[start : start + len(block)]
            place[:] = block[: len(place)]  # the last one is not full
            start += len(place)
        return res


# --- from arrow's arrays


def ids_of(
    column: Any,  # arrow array
) -> Any:
    """Ids of a column: integers as a numpy array, texts as an arrow array; `Irregular` if they are neither."""
    import pyarrow as pa

    if column.null_count:
        raise Irregular
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    if pa.types.is_integer(kind):
        return column.to_numpy(zero_copy_only=False)
    if pa.types.is_decimal(kind):
        column = _undecimal(column)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column
    if pa.types.is_integer(column.type):
        return column.to_numpy(zero_copy_only=False)
    if not pa.types.is_floating(kind):
        raise Irregular
    values = column.to_numpy(zero_copy_only=False)
    is_int64 = np.isfinite(values) & (values == np.round(values)) & (np.abs(values) < EXACT_FLOATS)
    if not is_int64.all():
        raise Irregular
    return values.astype(np.int64)


def _undecimal(column: Any) -> Any:
    """Whole decimals as integers; `Irregular` for others."""
    import pyarrow as pa

    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid as e:
        raise Irregular from e


def ratings_of(
    column: Any,  # arrow array
) -> np.ndarray:
    """float32 ratings of a column; `Irregular` if any is missing, infinite or not a number."""
    import pyarrow as pa

    if column.null_count:
        raise Irregular
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise Irregular
    ratings = column.to_numpy(zero_copy_only=False).astype(np.float32)
    if not np.isfinite(ratings).all():
        raise Irregular
    return ratings


def times_of(
    column: Any,  # arrow array
) -> np.ndarray:
    """Times of a column: int32 where they are seconds since 1970 until 2038, else integers, floats or datetime64.

    `Irregular` if any is missing, or they are something else.
    """
    import pyarrow as pa

    if column.null_count:
        raise Irregular
    kind = column.type
    if pa.types.is_date(kind):
        return column.cast(pa.timestamp('s')).to_pandas().to_numpy(copy=True)
    if pa.types.is_timestamp(kind):
        naive = column if kind.tz is None else column.cast(pa.timestamp(kind.unit))  # in UTC
        return naive.to_pandas().to_numpy(copy=True)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise Irregular
    values = column.to_numpy(zero_copy_only=False)
    if values.dtype.kind == 'f':
        return values.copy()
    fits_int32 = values.min() >= 0 and values.max() < 2**31
    return values.astype(np.int32 if fits_int32 else np.int64)


def distinct_ids(
    parts: list,  # ids of each part: arrays of integers, or Series of texts
) -> np.ndarray | pd.Series:
    """The distinct ids of all parts: integers sorted, texts in the order in which they come."""
    if isinstance(parts[0], np.ndarray):
        return np.unique(_joined_integers(parts))
    return pd.Series(pd.unique(pd.concat(parts)))


def _joined_integers(parts: list[np.ndarray]) -> np.ndarray:
    """Integers of any width as one array: int64, or uint64 where one does not fit."""
    wide = [plain_values(part).to_numpy() for part in parts]
    if not any(part.dtype == np.uint64 for part in wide):
        return np.concatenate(wide)
    if any(len(part) and part.min() < 0 for part in wide):
        raise ValueError('ids are negative and from 2^63 on, which no type of integers holds: read the column as str')
    return np.concatenate([part.astype(np.uint64) for part in wide])


def vocab_of(
    parts: list,  # as of `distinct_ids`
    side: str,  # 'user' or 'item'
) -> Vocab:
    """The `Vocab` of the ids of all parts."""
    ids = distinct_ids(parts)
    return Vocab(ids if isinstance(ids, np.ndarray) else pd.Index(ids).sort_values(), side)


class LocalCodes:
    """Codes of ids that come in parts: int32 within each part, with the part's distinct ids, until all are known."""

    def __init__(
        self,
        n: int | None = None,  # how many there will be; None: not known
    ) -> None:
        self.local = GrowingArray(n)  # codes within each part
        self.lengths: list[int] = []  # of each part
        self.distinct: list = []  # ids of each part, in the order of its codes

    def add(
        self,
        column: Any,  # arrow array
    ) -> None:
        """The next part."""
        ids = ids_of(column)
        if isinstance(ids, np.ndarray):
            codes, distinct = pd.factorize(ids)
        else:
            ids = ids.dictionary_encode()
            codes = ids.indices.to_numpy(zero_copy_only=False)
            distinct = ids.dictionary.to_pandas()
        self.local.add(codes.astype(np.int32))
        self.lengths.append(len(codes))
        self.distinct.append(distinct)

    def vocab(self, side: str) -> Vocab:
        """The `Vocab` of all parts."""
        return vocab_of(self.distinct, side)

    def codes(self, vocab: Vocab) -> np.ndarray:
        """int32 codes of all rows; the codes within the parts are given up."""
        codes = self.local.joined()
        assert codes is not None, 'there is a part'
        start = 0
        for n, distinct in zip(self.lengths, self.distinct):
            code_of: np.ndarray = codes_in(vocab.ids, distinct).astype(np.int32)
            codes[start : start + n] = code_of[codes[start : start + n]]
            start += n
        return codes


# --- writing


def check_writable(
    folder: Path,  # that is there
) -> None:
    """`OSError` with the reason if no file can be made in a folder."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise type(e)(f'nothing can be written to the folder {folder}: {e.strerror}') from e


def _pyarrow_to_write() -> tuple[ModuleType, ModuleType]:
    """pyarrow and its module of parquet files; `ImportError` with the ways out."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as e:
        raise ImportError(
            "writing parquet needs pyarrow: pip install 'fastrec-learn[parquet]'; "
            'or write CSV: a name that ends in .csv'
        ) from e
    return pa, pq


class TableWriter:
    """Tables to one file (.parquet, else CSV) or '-' (standard output), a part at a time; a context manager.

    The file has its name once it is whole; an error leaves nothing. `ValueError` for other names, `OSError` where the
    folder is not there or cannot be written to, `ImportError` for parquet without pyarrow: all before the first table.
    """

    def __init__(
        self,
        out: str | Path,  # name of the file
    ) -> None:
        self.out = str(out)
        self.file: Any = None  # open once there is something to write
        self.schema: Any = None  # of parquet: that of the first table
        self.aside: Path | None = None  # where it is written until it is whole; None: to standard output
        self.parquet = self.out.lower().endswith('.parquet')
        if self.out == '-':
            return
        if not self.parquet and not self.out.lower().endswith('.csv'):
            raise ValueError(f'{self.out}: a name that ends in .parquet or .csv')
        path = Path(out)
        folder = path.absolute().parent
        if not folder.is_dir():
            raise FileNotFoundError(f'there is no folder {folder} to write {path.name} to')
        check_writable(folder)
        if path.is_dir():
            raise IsADirectoryError(f'{path} is a folder: give the name of a file')
        if self.parquet:
            _pyarrow_to_write()
        self.aside = path.with_name(f'.{path.name}.{os.getpid()}')

    def __enter__(self) -> TableWriter:
        return self

    def write(
        self,
        df: pd.DataFrame,  # with the columns of the first table
    ) -> None:
        """Further rows."""
        if self.parquet:
            self._write_parquet(df)
        else:
            self._write_csv(df)

    def _write_csv(self, df: pd.DataFrame) -> None:
        is_first = self.file is None
        if is_first:
            self.file = sys.stdout
        if is_first and self.aside is not None:
            self.file = open(self.aside, 'w', encoding='utf-8', newline='')  # noqa: SIM115  __exit__ closes it
        df.to_csv(self.file, index=False, header=is_first)

    def _write_parquet(self, df: pd.DataFrame) -> None:
        pa, pq = _pyarrow_to_write()
        table = pa.Table.from_pandas(df, preserve_index=False, schema=self.schema)
        if self.file is None:
            self.schema = table.schema
            self.file = pq.ParquetWriter(self.aside, table.schema)
        self.file.write_table(table)

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if self.aside is None:
            return
        if self.file is not None:
            self.file.close()
        if kind is None and self.file is not None:
            os.replace(self.aside, self.out)
        else:
            self.aside.unlink(missing_ok=True)
