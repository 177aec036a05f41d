"""Tables in files, a part at a time: parquet and CSV through pyarrow, converted as they are read, so that the table is never there as a whole."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from ..progress import Progress
from .columns import find_columns
from .interactions import Interactions, Vocab

__all__ = ['FileTable']

BATCH = 2**19  # rows read at a time
BLOCK = 2**24  # rows that an array grows by where their number is not known
_MISSING = "reading {} needs pyarrow: pip install 'fastrec-learn[parquet]'"


class Irregular(Exception):
    """The values are not what can be converted part by part: the whole table has to be looked at, to say what is wrong with it or to be patient."""


def parquet_files(path) -> list:
    """The files that `path` stands for: a file, a folder (all .parquet in it, by name), or a list of those."""
    if isinstance(path, (list, tuple)):
        return [o for p in path for o in parquet_files(p)]
    if hasattr(path, 'read') or not Path(path).is_dir():
        return [path]
    if not (files := sorted(Path(path).rglob('*.parquet'))):
        raise FileNotFoundError(f'there is no .parquet file in {path}')
    return files


class FileTable:
    """A table in a file that is read in parts: parquet (a file, a folder of files, a list of them) or CSV.

    `interactions` converts each part as it comes: what is held is two int32 codes, a float32 rating and the time of a row, and one part. Where that cannot be done (missing ids, mixed types, words for
    numbers, ...) it hands over the whole table, whose checks say what is wrong.
    """

    def __init__(
        self, path, kind: str = 'parquet', columns: list = None, sep: str = ',', encoding: str = None, parse_dates=None
    ):
        self.path, self.kind, self.wanted, self.sep, self.encoding, self.parse_dates = (
            path,
            kind,
            columns,
            sep,
            encoding,
            parse_dates,
        )
        if kind == 'parquet':
            try:
                import pyarrow.parquet
            except ImportError as e:
                raise ImportError(_MISSING.format('parquet')) from e
            self.files = parquet_files(path)

    # --- reading

    def names(self) -> list:
        """Columns."""
        if self.wanted is not None:
            return list(self.wanted)
        if self.kind == 'csv':
            return self._open_csv().schema.names
        import pyarrow.parquet as pq

        return [o for o in pq.read_schema(self.files[0]).names if not o.startswith('__index_level_')]

    def parts(self, names, floats=()):
        """Arrow record batches of the columns `names`; those of `floats` are read as floats, whatever they start with."""
        if self.kind == 'csv':
            yield from self._open_csv(names, floats)
            return
        import pyarrow.parquet as pq

        for file in self.files:
            with pq.ParquetFile(file) as f:
                yield from f.iter_batches(BATCH, columns=list(names), use_threads=False)

    def n_rows(self):
        """Rows; None where only reading them would tell."""
        if self.kind == 'csv':
            return None
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(f).num_rows for f in self.files)

    def _options(self, names=None, floats=()):
        import pyarrow as pa
        from pyarrow import csv

        return dict(
            read_options=csv.ReadOptions(encoding=self.encoding or 'utf8', use_threads=False, block_size=2**24),
            parse_options=csv.ParseOptions(delimiter=self.sep),
            convert_options=csv.ConvertOptions(
                strings_can_be_null=True, include_columns=names, column_types={o: pa.float64() for o in floats}
            ),
        )

    def _open_csv(self, names=None, floats=()):
        from pyarrow import csv

        return csv.open_csv(self.path, **self._options(names, floats))

    def whole(self) -> pd.DataFrame:
        """The table, of which nobody else has a copy: `Interactions.from_df` may take it apart."""
        if self.kind == 'csv':
            return self._whole_csv()
        import pyarrow as pa
        import pyarrow.parquet as pq

        def read(name):
            return pa.chunked_array([c for f in self.files for c in pq.read_table(f, columns=[name]).column(0).chunks])

        return _frame(self.names(), read)

    def _whole_csv(self):
        try:
            from pyarrow import ArrowException, csv as arrow
        except ImportError:
            arrow = None
        if arrow is not None and self.parse_dates is None and len(self.sep) == 1 and '://' not in str(self.path):
            if hasattr(self.path, 'seek'):
                self.path.seek(0)
            try:
                table = [arrow.read_csv(self.path, **self._options())]

                def read(name):
                    column = table[0].column(name)
                    table[0] = table[0].drop_columns([name])
                    return column

                return _frame(table[0].column_names, read)
            except (ArrowException, KeyError):
                pass  # a column that changes its type half-way and the like: pandas is more patient, or says what is wrong
            if hasattr(self.path, 'seek'):
                self.path.seek(0)
        return pd.read_csv(self.path, sep=self.sep, encoding=self.encoding, parse_dates=self.parse_dates)

    # --- converting

    def interactions(
        self,
        user_name=None,
        item_name=None,
        rating_name=None,
        time_name=None,
        duplicates='error',
        whole=False,
        context=None,
        weight_name=None,
    ):
        """-> `Interactions`, and the table if it had to be read as a whole (or with `whole`), else None; arguments as in `Interactions.from_df`."""
        if not (whole or context or weight_name) and self._can_be_read_in_parts():
            from pyarrow import ArrowException

            try:
                return self._in_parts(
                    dict(user=user_name, item=item_name, rating=rating_name, time=time_name), duplicates
                ), None
            except (Irregular, ArrowException, KeyError, UnicodeDecodeError):
                pass
        df = self.whole()
        return Interactions.from_df(
            df,
            user_name,
            item_name,
            rating_name,
            time_name,
            duplicates,
            own=df.attrs.get('own', False),
            context=context,
            weight_name=weight_name,
        ), df

    def _can_be_read_in_parts(self):
        if self.kind == 'parquet':
            return not hasattr(self.path, 'read')
        if self.parse_dates is not None or len(self.sep) != 1 or hasattr(self.path, 'read') or '://' in str(self.path):
            return False  # pandas reads from the network
        try:
            import pyarrow.csv
        except ImportError:
            return False
        return True

    def roles(self, given) -> dict:
        """Column of each role, as `Interactions.from_df` finds them; `Irregular` where it would complain."""
        try:
            names = find_columns(pd.DataFrame(columns=self.names()), given)
        except ValueError as e:
            raise Irregular from e
        used = [o for o in names.values() if o is not None]
        if len(set(used)) < len(used):
            raise Irregular
        return names

    def _in_parts(self, given, duplicates):
        names = self.roles(given)
        n = self.n_rows()
        sides, ratings, times = {side: LocalCodes(n) for side in ('user', 'item')}, Rows(n), Rows(n)
        with Progress(n, 'reading', 'rows') as progress:
            for part in self.parts(
                [o for o in names.values() if o is not None],
                [names['rating']] if names['rating'] is not None and self.kind == 'csv' else (),
            ):
                if not len(part):
                    continue
                for side, codes in sides.items():
                    codes.add(part.column(names[side]))
                if names['rating'] is not None:
                    ratings.add(ratings_of(part.column(names['rating'])))
                if names['time'] is not None:
                    times.add(times_of(part.column(names['time'])))
                progress.update(len(part))
        if not sides['user'].ids:
            raise Irregular
        vocab = {side: codes.vocab(side) for side, codes in sides.items()}
        if min(map(len, vocab.values())) < 2:
            raise Irregular
        arrays = [sides.pop(side).codes(vocab[side]) for side in ('user', 'item')]
        ratings, times = ratings.joined(), times.joined()
        if ratings is not None and ratings.max() > 1e8:
            raise Irregular
        res = Interactions(*arrays, ratings, times, vocab, names)
        return res if duplicates == 'keep' else res.merge_duplicates(duplicates)


def _frame(names, read):
    """A table of the columns `names`, of which `read(name)` gives an arrow array: one at a time, so that no more than one is there twice."""
    import pyarrow as pa

    res = {}
    for name in names:
        column = read(name)
        res[name] = column.to_pandas()
        if isinstance(res[name].dtype, np.dtype) and res[name].dtype != object:
            res[name] = res[name].to_numpy(copy=column.num_chunks == 1)  # a view would hold on to arrow's memory
        del column
        pa.default_memory_pool().release_unused()
    df = pd.DataFrame(res, copy=False)
    df.attrs['own'] = True  # nobody else has it: `Interactions.from_df` may take it apart
    return df


class Rows:
    """An array that is filled part by part: at once of its length where that is known, else in blocks, which are large enough to go back to the system when they are given up."""

    def __init__(self, n: int = None):
        self.n, self.blocks, self.free = n, [], 0

    def add(self, values):
        """The next part; a wider dtype widens what is there."""
        if self.blocks and (kind := np.result_type(values, self.blocks[0])) != self.blocks[0].dtype:
            for i, block in enumerate(self.blocks):
                self.blocks[i] = block.astype(kind)
        while len(values):
            if not self.free:
                self.blocks.append(
                    np.empty(
                        BLOCK if self.n is None else self.n, values.dtype if not self.blocks else self.blocks[0].dtype
                    )
                )
                self.free = len(self.blocks[-1])
            part = values[: self.free]
            at = len(self.blocks[-1]) - self.free
            self.blocks[-1][at : at + len(part)] = part
            self.free, values = self.free - len(part), values[len(part) :]

    def joined(self):
        """One array (None: nothing was added); the blocks are given up."""
        if len(self.blocks) < 2:
            return self.blocks.pop()[: BLOCK - self.free if self.n is None else None] if self.blocks else None
        res, at = np.empty(len(self.blocks) * BLOCK - self.free, self.blocks[0].dtype), 0
        self.blocks.reverse()
        while self.blocks:
            block = self.blocks.pop()
            part = res[at : at + len(block)]
            part[:] = block[: len(part)]
            at += len(part)
        return res


def ids_of(column):
    """Ids of an arrow array: integers as a numpy array, texts as an arrow array."""
    import pyarrow as pa

    if column.null_count:
        raise Irregular
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_integer(kind):
        return column.to_numpy(zero_copy_only=False)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column
    if not pa.types.is_floating(kind):
        raise Irregular
    values = column.to_numpy(zero_copy_only=False)
    if not (np.isfinite(values) & (values == np.round(values)) & (np.abs(values) < 2**63)).all():
        raise Irregular
    return values.astype(np.int64)


def ratings_of(column):
    """float32 ratings of an arrow array."""
    import pyarrow as pa

    if column.null_count or not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise Irregular
    ratings = column.to_numpy(zero_copy_only=False).astype(np.float32)
    if not np.isfinite(ratings).all():
        raise Irregular
    return ratings


def times_of(column):
    """Times of an arrow array: int32 where they are seconds since 1970 until 2038, else integers, floats or datetime64."""
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
    return values.astype(np.int32) if values.min() >= 0 and values.max() < 2**31 else values.astype(np.int64)


class LocalCodes:
    """Codes of ids that come in parts: int32 codes within each part, and the part's distinct ids, until all ids are known."""

    def __init__(self, n: int = None):
        self.rows, self.ids, self.lengths = Rows(n), [], []

    def add(self, column):
        """The next part, an arrow array."""
        ids = ids_of(column)
        if isinstance(ids, np.ndarray):
            codes, distinct = pd.factorize(ids)
        else:
            ids = ids.dictionary_encode()
            codes, distinct = ids.indices.to_numpy(zero_copy_only=False), ids.dictionary.to_pandas()
        self.rows.add(codes.astype(np.int32))
        self.ids.append(distinct)
        self.lengths.append(len(codes))

    def vocab(self, side):
        """The `Vocab` of all parts."""
        return Vocab(
            np.unique(np.concatenate(self.ids))
            if isinstance(self.ids[0], np.ndarray)
            else pd.Index(pd.unique(pd.concat(self.ids))).sort_values(),
            side,
        )

    def codes(self, vocab) -> np.ndarray:
        """int32 codes of all rows."""
        res, at = self.rows.joined(), 0
        for n, distinct in zip(self.lengths, self.ids):
            res[at : at + n] = vocab.ids.get_indexer(distinct).astype(np.int32)[res[at : at + n]]
            at += n
        return res


class TableWriter:
    """Tables to one file (.parquet, else CSV) or '-', a part at a time. It has its name once it is whole; an error leaves nothing."""

    def __init__(self, out):
        self.out, self.file, self.schema = str(out), None, None
        self.parquet = self.out.lower().endswith('.parquet')
        if not self.parquet and self.out != '-' and not self.out.lower().endswith('.csv'):
            raise ValueError(f'{self.out}: a name that ends in .parquet or .csv')
        if self.out != '-' and not Path(self.out).absolute().parent.is_dir():
            raise FileNotFoundError(
                f'there is no folder {Path(self.out).absolute().parent} to write {Path(self.out).name} to'
            )
        self.aside = None if self.out == '-' else Path(out).with_name(f'.{Path(out).name}.{os.getpid()}')

    def __enter__(self):
        return self

    def write(self, df):
        """The rows of `df`, whose columns are those of the first table."""
        if not self.parquet:
            header = self.file is None
            if header:
                self.file = sys.stdout if self.aside is None else open(self.aside, 'w', encoding='utf-8', newline='')
            df.to_csv(self.file, index=False, header=header)
            return
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as e:
            raise ImportError(
                "writing parquet needs pyarrow: pip install 'fastrec-learn[parquet]'; or write CSV: a name that ends in .csv"
            ) from e
        table = pa.Table.from_pandas(df, preserve_index=False, schema=self.schema)
        if self.file is None:
            self.schema, self.file = table.schema, pq.ParquetWriter(self.aside, table.schema)
        self.file.write_table(table)

    def __exit__(self, kind, *_):
        if self.aside is None:
            return
        if self.file is not None:
            self.file.close()
        if kind is None and self.file is not None:
            os.replace(self.aside, self.out)
        else:
            self.aside.unlink(missing_ok=True)
