"""What is known about items and users: a metadata table becomes named blocks of numbers, keyed by id.

A block has a row per id and says for which ids it knows anything (`present`), so that missing metadata is never a
value. What makes numbers of a column is in `transforms`; it is fitted on the table given and kept for new rows
(`Features.transform`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, overload

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, hstack

from ..keywords import check_arguments
from ..notices import warn_user
from ..progress import Progress
from .block import Block
from .columns import as_frame, first_few, id_column, normal_name, plain_values
from .images import ImageEncoder
from .interactions import Vocab
from .transforms import (
    _Category,
    _Flag,
    _Multilabel,
    _Numeric,
    _Text,
    _Vectors,
    as_vectors,
    is_missing,
    vectors_by_id,
)

__all__ = ['ItemFeatures', 'UserFeatures']

_KINDS_OF_VECTORS = ('vectors', 'text', 'images')  # whose blocks `transform` takes as vectors by id
# columns that stand for the answer, without case, '_' and '-'
_NEAR_TARGETS = (
    'rating', 'ratings', 'averagerating', 'imdbrating', 'imdbvotes', 'votes', 'voteaverage', 'votecount', 'numvotes',
    'metascore', 'awards', 'boxoffice', 'popularity',
)  # fmt: skip

ColumnSpec: TypeAlias = str | Iterable[str] | dict[str, Any] | None  # a column, columns, or block -> column(s)
VectorSpec: TypeAlias = (
    str | dict | pd.DataFrame | tuple | None
)  # a column, id -> vector, ..., or block -> one of these


class Features:
    """Named blocks of metadata with a row per id; `ItemFeatures` and `UserFeatures` are made by `from_df`.

    `feats['genres']` is a `Block`, `feats[['genres', 'year']]` the features with these blocks only,
    `feats.align(vocab)` the features with a row per code.
    """

    side: ClassVar[str]  # 'item' or 'user'

    def __init__(
        self,
        ids: Iterable,  # of the rows
        blocks: dict[str, Block],  # by name
        transforms: dict[str, tuple[str, Any, list]],  # by name: kind, the fitted transform, columns of the table
    ) -> None:
        self.ids = pd.Index(ids)
        self.blocks = blocks
        self.transforms = transforms

    # --- making them

    @classmethod
    @check_arguments
    def from_df(
        cls,
        df: pd.DataFrame,  # a row per id
        text: ColumnSpec = None,  # columns of text: TF-IDF, or what `text_encoder` makes of them
        multilabel: ColumnSpec = None,  # columns with several labels: lists, or texts such as 'Action|Comedy'
        category: ColumnSpec = None,  # columns with one label
        flag: ColumnSpec = None,  # columns of true and false
        numeric: ColumnSpec = None,  # columns of numbers, standardized; counts with a long tail as log(1 + x)
        vectors: VectorSpec = None,  # precomputed embeddings, by id or in a column; see below
        images: ColumnSpec = None,  # columns of paths to image files
        id_name: str | None = None,  # column of ids; by default found by its usual name, else the index
        text_encoder: Any = None,  # in place of TF-IDF; see below
        image_encoder: Any = None,  # None: `ImageEncoder()`, a pre-trained ResNet18, vectors cached on disk
        sep: str | None = None,  # between labels of a text; by default the first of '|', ';', ',' that is common
        min_df: int = 2,  # words, labels, categories of fewer rows are left out: they tell nothing about other rows
        max_features: int = 50_000,  # words kept, the most frequent ones
        log1p: bool | None = None,  # numeric columns as log(1 + x); None: those that look like counts
    ) -> Features:
        """Features of a table, with a block or several of each kind that is named.

        A kind takes a column, a list of columns (a block each, named after the column), or a dict block -> columns that
        make one block together. `vectors` takes a column that holds them, a dict id -> vector, a DataFrame with ids as
        its index, a pair (ids, array), or a dict block -> one of these. `text_encoder` is a function list of texts ->
        array, something with `encode` (sentence-transformers), or a scikit-learn transformer.

        Never give what stands for the answer (average ratings, numbers of votes, awards): such columns are warned of.
        `ValueError` for columns that are not there, of another kind, or empty.
        """
        df = as_frame(df, f'a DataFrame with a row per {cls.side}')
        ids = cls._ids(df, id_name)
        asked: dict[str, dict[str, Any]] = {  # kind -> block -> its columns, or where its vectors are
            'text': _columns_by_block(text),
            'multilabel': _columns_by_block(multilabel),
            'category': _columns_by_block(category),
            'flag': _columns_by_block(flag),
            'numeric': _columns_by_block(numeric),
            'vectors': _sources_by_block(vectors),
            'images': _columns_by_block(images),
        }
        cls._check_names([name for specs in asked.values() for name in specs], df)
        encoder = (image_encoder or ImageEncoder()) if asked['images'] else None

        def new_transform(kind):
            if kind == 'text':
                return _Text(_fresh(text_encoder), min_df, max_features)
            if kind == 'multilabel':
                return _Multilabel(sep, min_df)
            if kind == 'category':
                return _Category(min_df)
            if kind == 'flag':
                return _Flag()
            if kind == 'numeric':
                return _Numeric(log1p)
            return _Vectors(encoder if kind == 'images' else None)

        transforms = {}
        for kind, specs in asked.items():
            for name, spec in specs.items():
                columns = _columns_of(kind, spec)
                _check_columns(kind, columns, df)
                transforms[name] = (kind, new_transform(kind), columns)
        res = cls(ids, {}, transforms)
        with Progress(len(transforms), 'features', 'blocks') as progress:
            for name, (kind, _, _) in transforms.items():
                try:
                    res.blocks[name] = res._block(df, ids, name, asked['vectors'].get(name), fit=True)
                except ValueError as e:
                    raise ValueError(f'{kind} block {name!r}: {e}') from e
                progress.update()
        res._warn_of_gaps()
        return res

    @classmethod
    def _ids(cls, df: pd.DataFrame, id_name: str | None) -> pd.Index:
        """The ids of the rows, checked."""
        if id_name is not None and id_name not in df.columns and id_name != df.index.name:
            raise ValueError(
                f'no column {id_name!r} (id_name=) in the table. Its columns are: {first_few(df.columns, 20)}'
            )
        column = id_column(df, cls.side, id_name, more=('id',))
        if column is None and df.index.name is None:
            raise ValueError(
                f'which column holds the {cls.side} ids? Pass id_name=, one of: {first_few(df.columns, 20)}'
            )
        ids = pd.Index(plain_values(df.index.to_series() if column is None else df[column]))
        if ids.hasnans:
            raise ValueError(f'{int(ids.isna().sum()):,} rows of the table have no {cls.side} id')
        if not ids.is_unique:
            repeated = first_few(ids[ids.duplicated()].unique())
            way = 'df[~df.index.duplicated()]' if column is None else f'df.drop_duplicates({column!r})'
            raise ValueError(f'the table has several rows for the same {cls.side}: {repeated}. Keep one each: `{way}`')
        return ids

    @classmethod
    def _check_names(cls, names: list[str], df: pd.DataFrame) -> None:
        """`ValueError` if no block is asked for, or two are called the same."""
        if not names:
            raise ValueError(
                f'which columns tell something about a {cls.side}? Name them, e.g. text="title", '
                f'multilabel="genres", numeric="year". Columns: {first_few(df.columns, 20)}'
            )
        twice = {o for o in names if names.count(o) > 1}
        if twice:
            example = f'{{"words": {next(iter(twice))!r}}}'
            raise ValueError(
                f'two blocks are called {first_few(twice)}: give one another name with a dict, e.g. text={example}'
            )

    def _block(self, df: pd.DataFrame, ids: pd.Index, name: str, source: Any, fit: bool = False) -> Block:
        """The block `name` of the rows of `df`, or of vectors by id (`source`); with `fit` its transform is fitted."""
        kind, transform, columns = self.transforms[name]
        if isinstance(source, str):
            source = None  # the vectors are in a column
        if isinstance(transform, _Vectors):
            x, at = self._vectors(df, ids, name, source)
            if fit:
                transform.fit(x)
            values, present = transform.apply(x, at, len(ids))
        elif source is not None:
            x, at = vectors_by_id(source, ids)
            _check_scaler(name, transform, x)
            values, present = transform.scaler.spread(x, at, len(ids))
        else:
            cells = [df[c] if kind == 'numeric' else list(df[c]) for c in columns]
            if fit:
                transform.fit(cells)
            values, present = transform.apply(cells)
            if isinstance(transform, _Multilabel) and not present.any() and (unlike := transform.unlike(cells)):
                warn_user(f'block {name!r}: no label of the table is known: {unlike}')
        return Block(values, present, kind, transform.column_names())

    def _vectors(self, df: pd.DataFrame, ids: pd.Index, name: str, source: Any) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (m, d) of a block, from where it has them, and the rows (m,) that they belong to."""
        kind, transform, columns = self.transforms[name]
        if source is not None:
            return vectors_by_id(source, ids)
        cells = df[columns[0]].to_numpy(dtype=object)
        if kind == 'vectors':
            at = np.flatnonzero([not is_missing(o) for o in cells])
            return as_vectors(cells[at]), at
        if transform.lost:
            raise ValueError(
                f'the images went through a {transform.lost} of your own, which a saved recommender does not hold: '
                'encode the new ones with it and pass the vectors by id, '
                f'add_items(table, vectors={{{name!r}: {{id: vector}}}})'
            )
        at = np.flatnonzero([not is_missing(o) and Path(o).is_file() for o in cells])
        return transform.encoder(cells[at]), at

    # --- new rows

    def transform(
        self,
        df: pd.DataFrame,  # a row per new id, with the columns of the table that was fitted
        vectors: VectorSpec = None,  # of new ids: of blocks that had them by id, or from an encoder
        id_name: str | None = None,  # column of ids
    ) -> Features:
        """The same blocks for new rows, by the transforms that were fitted.

        A column that is not there counts as missing; unknown words and labels are left out. `ValueError` if the table
        has none of the columns, and for vectors of another length or of a block that is not made of vectors.
        """
        df = as_frame(df, f'a DataFrame with a row per {self.side}')
        ids = self._ids(df, id_name)
        sources = _sources_by_block(vectors)
        foreign = [o for o in sources if o not in self.transforms or self.transforms[o][0] not in _KINDS_OF_VECTORS]
        if foreign:
            raise ValueError(
                f'no block of vectors is called {first_few(foreign)}: the blocks are {first_few(self.names)}'
            )
        blocks = {}
        not_there = []
        for name, (_, _, columns) in self.transforms.items():
            if name in sources or (columns and all(c in df.columns for c in columns)):
                blocks[name] = self._block(df, ids, name, sources.get(name))
            else:
                blocks[name] = self.blocks[name].rows(np.full(len(ids), -1))
                not_there.append(name)
        if len(not_there) == len(self.transforms):
            wanted = [c for _, _, columns in self.transforms.values() for c in columns]
            raise ValueError(
                'the table has none of the columns that the features were made of: '
                f'{first_few(wanted, 20)}; it has {first_few(df.columns, 20)}'
            )
        res = type(self)(ids, blocks, self.transforms)
        res._warn_of_gaps(not_there)
        return res

    def _warn_of_gaps(self, not_there: Sequence[str] = ()) -> None:
        """Say how many rows of each block have no value, for the caller of the method that calls this."""
        missing = {name: int((~block.present).sum()) for name, block in self.blocks.items()}
        gaps = [f'{name} {n:,}' for name, n in missing.items() if n]
        if gaps:
            why = f' (not in the table: {first_few(not_there)})' if not_there else ''
            warn_user(
                f'{self.side}s of {len(self.ids):,} without a value, by block: {", ".join(gaps)}{why}. '
                'They are marked as missing'
            )

    # --- other rows, other blocks

    def align(
        self,
        vocab: Vocab | Iterable,  # a `Vocab`, or ids in the order wanted
    ) -> Features:
        """The same with a row per code of `vocab`.

        Ids without metadata have no block present and are warned of; `ValueError` if that is all of them.
        """
        ids = vocab.ids if isinstance(vocab, Vocab) else pd.Index(plain_values(vocab))
        if self.ids.equals(ids):
            return self
        at = self.ids.get_indexer(ids)
        n_unknown = int((at < 0).sum())
        if n_unknown and n_unknown == len(ids) and len(self.ids):
            raise ValueError(
                f'no {self.side} of the ratings has features: ids there look like {first_few(ids, 3)}, '
                f'in the features like {first_few(self.ids, 3)}'
            )
        if n_unknown:
            warn_user(
                f'{n_unknown:,} of {len(ids):,} {self.side}s have no row in the features: '
                'nothing is known about them but their ratings'
            )
        return self._rows(ids, at)

    def without_rows(self) -> Features:
        """The fitted transforms alone."""
        return self._rows(self.ids[:0], np.zeros(0, np.int64))

    def _rows(self, ids: pd.Index, at: np.ndarray) -> Features:
        """The rows `at`, whose ids are `ids`; -1 gives a row of which nothing is known."""
        return type(self)(ids, {name: block.rows(at) for name, block in self.blocks.items()}, self.transforms)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.blocks)

    def __contains__(self, name: object) -> bool:
        return name in self.blocks

    @property
    def names(self) -> list[str]:
        """Of the blocks."""
        return list(self.blocks)

    @overload
    def __getitem__(self, name: str) -> Block: ...

    @overload
    def __getitem__(self, name: list[str] | tuple[str, ...]) -> Features: ...

    def __getitem__(self, name):
        names = [name] if isinstance(name, str) else list(name)
        if unknown := [o for o in names if o not in self.blocks]:
            raise KeyError(f'no block {first_few(unknown)}: there are {first_few(self.names, 20)}')
        if isinstance(name, str):
            return self.blocks[name]
        return type(self)(self.ids, {o: self.blocks[o] for o in names}, {o: self.transforms[o] for o in names})

    # --- what is in them

    def __repr__(self) -> str:
        widths = ', '.join(f'{name} {block.width:,}' for name, block in self.blocks.items())
        return f'{type(self).__name__}({len(self):,} {self.side}s: {widths})'

    def summary(self) -> pd.DataFrame:
        """A row per block: kind, columns (width), sparse, present (rows), missing, per_row.

        The last is the mean number of entries of a present row.
        """
        rows = []
        for name, block in self.blocks.items():
            n_present = int(block.present.sum())
            rows.append(
                dict(
                    block=name,
                    kind=block.kind,
                    columns=block.width,
                    sparse=block.sparse,
                    present=n_present,
                    missing=len(block) - n_present,
                    per_row=np.round(_n_entries(block) / max(n_present, 1), 1),
                )
            )
        return pd.DataFrame(rows).set_index('block')

    def matrix(
        self,
        unit: bool = True,  # rows of each block have length 1 (see `Block.unit`), so that a cosine weighs blocks alike
    ) -> csr_matrix:
        """All blocks side by side, float32 CSR (n, sum of widths)."""
        values = [csr_matrix(block.unit() if unit else block.values) for block in self.blocks.values()]
        return hstack(values, format='csr', dtype=np.float32)

    def column_names(self) -> list[str]:
        """Names of the columns of `matrix`: 'block=label', 'block' or 'block[i]'."""
        return [label for name, block in self.blocks.items() for label in _labels(name, block)]


class ItemFeatures(Features):
    """Metadata of items as named blocks; see `from_df`."""

    side = 'item'


class UserFeatures(Features):
    """Metadata of users (age, gender, occupation) as named blocks; see `from_df`."""

    side = 'user'


# --- what a user may ask for


def _columns_by_block(spec: Any) -> dict[str, list]:
    """-> {block: [columns]} of a column, a list of columns (a block each), or a dict block -> column(s)."""
    if spec is None:
        return {}
    if isinstance(spec, dict):
        return {name: list(o) if isinstance(o, (list, tuple)) else [o] for name, o in spec.items()}
    columns = [spec] if isinstance(spec, str) or not isinstance(spec, Iterable) else spec
    return {column: [column] for column in columns}


def _sources_by_block(spec: Any) -> dict[str, Any]:
    """-> {block: source} of what `vectors=` takes."""
    if spec is None:
        return {}
    if isinstance(spec, str):
        return {spec: spec}
    if isinstance(spec, dict) and spec and all(_names_a_source(name, o) for name, o in spec.items()):
        return dict(spec)
    return {'vectors': spec}


def _names_a_source(key: object, value: object) -> bool:
    """Is that a block and where its vectors are, rather than an id and its vector?"""
    return isinstance(key, str) and isinstance(value, (str, dict, pd.DataFrame, tuple))


def _columns_of(kind: str, spec: Any) -> list:
    """The columns of the table that a block is made from; none where its vectors come by id."""
    if kind != 'vectors':
        return spec
    return [spec] if isinstance(spec, str) else []


def _check_columns(kind: str, columns: list, df: pd.DataFrame) -> None:
    """`ValueError` for columns that are not there, and a warning for those that stand for the answer."""
    gone = [c for c in columns if c not in df.columns]
    if gone:
        raise ValueError(
            f'no column {first_few(gone)} ({kind}=) in the table. Its columns are: {first_few(df.columns, 20)}'
        )
    near = [c for c in columns if normal_name(c) in _NEAR_TARGETS]
    if near:
        warn_user(
            f'{first_few(near)} look(s) like an outcome of ratings, not like something known beforehand: '
            'a model that reads it is judged too well'
        )


def _check_scaler(name: str, transform: Any, x: np.ndarray) -> None:
    """`ValueError` unless a block of texts was made of vectors as long as those of `x`."""
    if transform.scaler is None:
        raise ValueError(f'block {name!r} cannot be had as vectors: scikit-learn made it of words')
    if len(x) and x.shape[1] != transform.width:
        raise ValueError(f'block {name!r} cannot be had as vectors of length {x.shape[1]}: it has {transform.width}')


def _fresh(encoder: Any) -> Any:
    """A scikit-learn transformer is fitted per block: a copy each. Others as they are."""
    if not hasattr(encoder, 'fit') or not hasattr(encoder, 'get_params'):
        return encoder
    from sklearn.base import clone

    return clone(encoder)


def _n_entries(block: Block) -> int:
    """Number of values that are stored, or of an array are not 0."""
    values: Any = block.values
    return values.nnz if block.sparse else int(np.count_nonzero(values))


def _labels(name: str, block: Block) -> list[str]:
    """A name for each column of a block."""
    if block.names:
        return [f'{name}={o}' for o in block.names]
    if block.width == 1:
        return [name]
    return [f'{name}[{i}]' for i in range(block.width)]
