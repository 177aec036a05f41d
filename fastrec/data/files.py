"""Tables in files, a part at a time: parquet and CSV through pyarrow.

Rows are converted as they are read, so that the table is never there as a whole."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from ..progress import Progress
from .columns import find_columns
from .interactions import LARGEST_RATING, Interactions, Vocab

__all__ = ['FileTable']

BATCH_ROWS = 2**19  # rows read at a time
BLOCK_ROWS = 2**24  # rows that an array grows by where their number is not known
CSV_BYTES = 2**24  # bytes of a CSV file that are parsed at a time


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
    files = sorted(Path(path).rglob('*.parquet'))
    if not files:
        raise FileNotFoundError(f'there is no .parquet file in {path}')
    return files


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
    whole table, whose checks say what is wrong.
    """

    def __init__(
        self,
        path: Any,  # a path or an open file; of parquet also a folder or a list
        kind: str = 'parquet',  # or 'csv'
        columns: Sequence | None = None,  # of parquet: those to read; None: all
        sep: str = ',',  # of CSV: what stands between columns
        encoding: str | None = None,  # of CSV; None: UTF-8
        parse_dates: Any = None,  # of CSV: as of `pandas.read_csv`, which then reads it
    ) -> None:
        self.path = path
        self.kind = kind
        self.wanted = columns
        self.sep = sep
        self.encoding = encoding
        self.parse_dates = parse_dates
        self.files: list = []  # of parquet
        if kind == 'parquet':
            pyarrow_parquet()
            self.files = parquet_files(path)

    # --- reading

    def names(self) -> list:
        """Columns."""
        if self.wanted is not None:
            return list(self.wanted)
        if self.kind == 'csv':
            return self._open_csv().schema.names
        names = pyarrow_parquet().read_schema(self.files[0]).names
        return [name for name in names if not name.startswith('__index_level_')]

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
        for path in self.files:
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(BATCH_ROWS, columns=list(names), use_threads=False)

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

        return dict(
            read_options=csv.ReadOptions(encoding=self.encoding or 'utf8', use_threads=False, block_size=CSV_BYTES),
            parse_options=csv.ParseOptions(delimiter=self.sep),
            convert_options=csv.ConvertOptions(
                strings_can_be_null=True,
                include_columns=names,
                column_types={name: pa.float64() for name in floats},
            ),
        )

    def _open_csv(self, names: list | None = None, floats: Iterable = ()) -> Any:
        """Arrow's reader of the CSV file: iterates over record batches."""
        from pyarrow import csv

        return csv.open_csv(self.path, **self._csv_options(names, floats))

    def _is_csv_for_arrow(self) -> bool:
        """Is it CSV that arrow reads? Dates to parse, longer separators and the network are for pandas."""
        if self.parse_dates is not None or len(self.sep) != 1 or '://' in str(self.path):
            return False
        return pyarrow_csv() is not None

    def whole(self) -> pd.DataFrame:
        """The table, of which nobody else has a copy: `Interactions.from_df` may take it apart."""
        if self.kind == 'csv':
            return self._whole_csv()
        import pyarrow as pa
        import pyarrow.parquet as pq

        def read(name: str) -> Any:
            columns = [pq.read_table(path, columns=[name]).column(0) for path in self.files]
            return pa.chunked_array([chunk for column in columns for chunk in column.chunks])

        return _frame(self.names(), read)

    def _whole_csv(self) -> pd.DataFrame:
        """The table of a CSV file: by arrow, else by pandas, which is more patient, or says what is wrong."""
        if self._is_csv_for_arrow():
            from pyarrow import ArrowException

            self._rewind()
            try:
                return self._whole_csv_by_arrow()
            except (ArrowException, KeyError):  # a column that changes its type half-way, and the like
                self._rewind()
        return pd.read_csv(self.path, sep=self.sep, encoding=self.encoding, parse_dates=self.parse_dates)

    def _rewind(self) -> None:
        """Go back to the start of an open file."""
        if hasattr(self.path, 'seek'):
            self.path.seek(0)

    def _whole_csv_by_arrow(self) -> pd.DataFrame:
        from pyarrow import csv

        table = csv.read_csv(self.path, **self._csv_options())

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
        item_name: str | None = None,
        rating_name: str | bool | None = None,
        time_name: str | bool | None = None,
        duplicates: str = 'error',
        whole: bool = False,  # read the table as a whole, and return it too
        context: Any = None,
        weight_name: str | None = None,
    ) -> tuple[Interactions, pd.DataFrame | None]:
        """The `Interactions`, and the table if it had to be read as a whole (else None)."""
        if not (whole or context or weight_name) and self._can_be_read_in_parts():
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
        sides, ratings, times = self._converted(names)
        if not sides['user'].distinct:
            raise Irregular
        vocab = {side: codes.vocab(side) for side, codes in sides.items()}
        if min(map(len, vocab.values())) < 2:
            raise Irregular
        users = sides.pop('user').codes(vocab['user'])  # popped: what it holds is given up before the next
        items = sides.pop('item').codes(vocab['item'])
        if ratings is not None and ratings.max() > LARGEST_RATING:
            raise Irregular
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
        values = column.to_pandas()
        if isinstance(values.dtype, np.dtype) and values.dtype != object:
            values = values.to_numpy(copy=column.num_chunks == 1)  # a view would hold on to arrow's memory
        columns[name] = values
        del column, values
        pa.default_memory_pool().release_unused()
    df = pd.DataFrame(columns, copy=False)
    df.attrs['own'] = True  # nobody else has it: `Interactions.from_df` may take it apart
    return df


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
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column
    if not pa.types.is_floating(kind):
        raise Irregular
    values = column.to_numpy(zero_copy_only=False)
    is_int64 = np.isfinite(values) & (values == np.round(values)) & (np.abs(values) < 2**63)
    if not is_int64.all():
        raise Irregular
    return values.astype(np.int64)


def ratings_of(
    column: Any,  # arrow array
) -> np.ndarray:
    """float32 ratings of a column; `Irregular` if any is missing, infinite or not a number."""
    import pyarrow as pa

    is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if column.null_count or not is_number:
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
    if pa.types.is_timestamp(kind) and kind.tz is None:
        return column.to_pandas().to_numpy(copy=True)
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
        return np.unique(np.concatenate(parts))
    return pd.Series(pd.unique(pd.concat(parts)))


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
            code_of = vocab.ids.get_indexer(distinct).astype(np.int32)
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
