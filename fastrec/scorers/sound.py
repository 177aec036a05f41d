"""Is what was read from a file sound? Looked at once, before anything computes with it.

A folder may be damaged in a way that checksums do not tell, or made to do harm: code behind numpy, scipy and torch
trusts indices and shapes. Every check raises a `ValueError`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix
from torch import nn

from ..data import transforms
from ..data.block import Block
from ..data.catalog import Catalog
from ..data.features import Features
from ..data.history import History
from ..data.images import ImageEncoder
from ..data.interactions import Context, Interactions, Vocab
from ..data.splits import Split
from ..models.base import as_rec_model
from .baselines import BiasOnly, Popularity
from .blend import Blend, Ensemble
from .factorization import ALS, IALS
from .linear import EASE
from .model_scorer import ModelScorer
from .neighbors import ItemKNN, UserKNN
from .refine import ItemGraph, LabelPropagation, Refined
from .rerank import Reranked
from .scorer import Scorer

__all__: list[str] = []

BACKBONE = re.compile(r'[A-Za-z0-9_.]{1,100}')  # a name of an architecture; with ':' or '/' weights come from elsewhere
# attributes of scorers that have a row (and a column) for each user or item; d: of one width, whatever it is
SHAPES: dict[type, dict[str, tuple[str, ...]]] = {
    BiasOnly: dict(item_biases=('item',), user_biases=('user',)),
    Popularity: dict(scores=('item',)),
    EASE: dict(weights=('item', 'item')),
    ItemKNN: dict(weights=('item', 'item')),
    IALS: dict(item_factors=('item', 'd'), user_factors=('user', 'd')),
    ALS: dict(item_factors=('item', 'd'), user_factors=('user', 'd'), item_biases=('item',), user_biases=('user',)),
}
# and those that are a number
NUMBERS: dict[type, tuple[str, ...]] = {BiasOnly: ('mean',), ALS: ('mean',), LabelPropagation: ('mean', 'prior')}


def require(holds: bool, what: str) -> None:
    """`ValueError` unless it holds."""
    if not holds:
        raise ValueError(what)


# --- numbers


def n_not_finite(values: Any) -> int:
    """How many values of an array, a tensor or a CSR matrix are NaN or infinite; 0 of whole numbers."""
    if isinstance(values, csr_matrix):
        values = values.data
    if isinstance(values, torch.Tensor):
        if not (values.is_floating_point() or values.is_complex()):
            return 0
        total = values.detach().sum()  # one pass without memory: NaN or infinite if any value is, or too large
        return 0 if torch.isfinite(total) else int((~torch.isfinite(values)).sum())
    if not isinstance(values, np.ndarray) or values.dtype.kind not in 'fc':
        return 0
    return int((~np.isfinite(values)).sum())


def require_finite(values: Any, what: str) -> None:
    """`ValueError` for NaN and infinite values."""
    if n := n_not_finite(values):
        size = values.data.size if isinstance(values, csr_matrix) else int(np.prod(tuple(values.shape)))
        raise ValueError(f'{n:,} of {size:,} values of {what} are NaN or infinite')


def require_number(value: Any, what: str, low: float = -np.inf) -> None:
    """`ValueError` unless it is a finite number from `low` on."""
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    require(is_number and bool(np.isfinite(value)) and value >= low, f'{what} is {value!r}, which is no such number')


def require_codes(values: Any, n: int, what: str) -> None:
    """`ValueError` unless they are whole numbers (n,) from 0 to below `n`."""
    require(isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in 'iu', f'{what} are not codes')
    require(not len(values) or (values.min() >= 0 and values.max() < n), f'{what} lie outside 0 to {n:,}')


def require_length(values: Any, n: int, what: str) -> None:
    """`ValueError` unless it is an array (n, ...)."""
    require(isinstance(values, np.ndarray) and values.ndim >= 1, f'{what} is not an array')
    require(len(values) == n, f'{what} has {len(values):,} rows in the place of {n:,}')


def check_range(y_range: Any) -> None:
    """`ValueError` unless it is None or (low, high), finite and increasing."""
    if y_range is None:
        return
    require(isinstance(y_range, (list, tuple)) and len(y_range) == 2, f'y_range is {y_range!r}')
    for end in y_range:
        require_number(end, 'an end of y_range')
    require(y_range[0] < y_range[1], f'y_range {tuple(y_range)} does not increase')


def check_csr(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: Any, most: int) -> None:
    """`ValueError` unless the arrays are those of a CSR matrix of `shape` with finite numbers, at most `most` wide.

    scipy looks at none of it, and reads beyond the ends of arrays.
    """
    is_shape = isinstance(shape, (list, tuple)) and len(shape) == 2 and all(type(o) is int and o >= 0 for o in shape)
    require(is_shape, f'a sparse matrix of shape {shape!r}')
    n_rows, n_columns = shape
    require(n_columns <= most, f'a sparse matrix of {n_columns:,} columns, which is more than the files can tell of')
    for name, array in dict(indices=indices, indptr=indptr).items():
        is_codes = isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype in (np.int32, np.int64)
        require(is_codes, f'{name} of a sparse matrix are not whole numbers')
    require(data.ndim == 1 and data.dtype.kind in 'iufb', 'values of a sparse matrix are not numbers')
    require(len(indptr) == n_rows + 1, f'a sparse matrix of {n_rows:,} rows has {len(indptr):,} places of rows')
    require(indptr[0] == 0 and indptr[-1] == len(indices), 'rows of a sparse matrix do not span its entries')
    require(bool((np.diff(indptr) >= 0).all()), 'rows of a sparse matrix overlap')
    require(len(data) == len(indices), f'a sparse matrix has {len(data):,} values for {len(indices):,} columns')
    require_codes(indices, n_columns, 'columns of a sparse matrix')
    require_finite(data, 'a sparse matrix')


# --- data


def _vocab(vocab: Vocab) -> None:
    """Its ids were looked at when it was made."""
    require(vocab.side in ('user', 'item'), f'ids of {vocab.side!r}')
    require(not isinstance(vocab.ids, pd.MultiIndex), 'ids have several levels')


def _vocabs(vocab: Any) -> None:
    require(isinstance(vocab, dict) and set(vocab) == {'user', 'item'}, 'there are no ids of users and items')
    for side, one in vocab.items():
        require(isinstance(one, Vocab) and one.side == side, f'the ids of {side}s are not a Vocab of theirs')


def _interactions(inter: Interactions) -> None:
    _vocabs(inter.vocab)
    n = len(inter.users) if isinstance(inter.users, np.ndarray) else 0
    require_codes(inter.users, inter.n_users, 'users of the interactions')
    require_codes(inter.items, inter.n_items, 'items of the interactions')
    columns = dict(
        items=inter.items, ratings=inter.ratings, times=inter.times, weights=inter.weights, rows=inter.rows,
        context=inter.context, row_weights=inter.row_weights,
    )  # fmt: skip
    for name, column in columns.items():
        if column is not None:
            require_length(column, n, f'{name} of the interactions')
            require(column.dtype.kind in 'iufM', f'{name} of the interactions are not numbers')
    for name in ('ratings', 'weights', 'row_weights'):
        require_finite(columns[name], f'{name} of the interactions')
    for name in ('weights', 'row_weights'):
        column = columns[name]
        require(column is None or not len(column) or column.min() >= 0, f'{name} of the interactions are negative')
    require(isinstance(inter.names, dict), 'names of columns are missing')
    _context_codes(inter)


def _context_codes(inter: Interactions) -> None:
    """Codes of the context, within its levels."""
    require(inter.context_of is None or isinstance(inter.context_of, Context), 'the context has no levels')
    if inter.context is None:
        return
    require(inter.context_of is not None, 'the context has no levels')
    sizes = inter.context_of.sizes  # type: ignore[union-attr]
    shape_fits = inter.context.ndim == 2 and inter.context.shape[1] == len(sizes)
    require(shape_fits and inter.context.dtype.kind in 'iu', 'the context has other columns than levels')
    for size, codes in zip(sizes, inter.context.T, strict=True):
        if size:  # of the time there are no levels
            require_codes(codes, size, 'levels of the context')


def _split(split: Split) -> None:
    require(split.train is not None and split.valid is not None, 'a part of the split is missing')
    for rows in split:
        require(
            rows is None or (isinstance(rows, np.ndarray) and rows.ndim == 1), 'a part of the split is not an array'
        )


def _history(history: History) -> None:
    inter, split = history.interactions, history.split
    require(isinstance(inter, Interactions) and isinstance(split, Split), 'a history without rows')
    for name, rows in split._asdict().items():
        if rows is not None:
            require_codes(rows, len(inter), f'rows of {name}')


def _context(context: Context) -> None:
    lists = isinstance(context.names, list) and isinstance(context.levels, list)
    require(lists and len(context.names) == len(context.levels), 'the context has other columns than levels')
    for levels in context.levels:
        if isinstance(levels, np.ndarray):
            require(levels.ndim == 1 and levels.dtype.kind in 'iuf', 'levels of the context are not numbers')
            require_finite(levels, 'levels of the context')
        else:
            require(levels is None or isinstance(levels, pd.Index), 'levels of the context are not values')
            require(levels is None or levels.is_unique, 'levels of the context repeat')
    if None in [None if levels is None else 0 for levels in context.levels]:
        require(
            isinstance(context.time, dict) and {'kind', 'start', 'scale'} <= set(context.time), 'times have no scale'
        )
        for name in ('start', 'scale'):
            require_number(context.time[name], f'the {name} of times')  # type: ignore[index]


def _catalog(catalog: Catalog) -> None:
    _vocabs(catalog.vocab)
    require(isinstance(catalog.names, dict), 'names of columns are missing')
    require(isinstance(catalog.counts, dict), 'counts are missing')
    for side in ('user', 'item'):
        counts: Any = catalog.counts.get(side)
        n = len(catalog.vocab[side])
        require_length(counts, n, f'counts of {side}s')
        require(counts.ndim == 1 and counts.dtype.kind in 'iuf', f'counts of {side}s are not numbers')
        require_finite(counts, f'counts of {side}s')
        require(not n or counts.min() >= 0, f'counts of {side}s are negative')
    if catalog.mean_rating is not None:
        require_number(catalog.mean_rating, 'the mean rating')
    if catalog.rating_range is not None:
        is_pair = isinstance(catalog.rating_range, tuple) and len(catalog.rating_range) == 2
        require(is_pair, 'the range of ratings has no two ends')
        for end in catalog.rating_range:
            require_number(end, 'an end of the range of ratings')
    require(isinstance(catalog.rating_options, Mapping), 'options of ratings are missing')
    if catalog.rating_options.get('threshold') is not None:
        require_number(catalog.rating_options['threshold'], 'the threshold of positives')
    if catalog.thresholds is not None:
        require_length(catalog.thresholds, catalog.n_users, 'thresholds')
        require_finite(catalog.thresholds, 'thresholds')
    for side, df in dict(item=catalog.item_df, user=catalog.user_df).items():
        if df is not None:
            n = len(catalog.vocab[side])
            require(isinstance(df, pd.DataFrame) and len(df) == n, f'metadata of {side}s have other rows than ids')
            require(df.index.equals(pd.RangeIndex(n)), f'metadata of {side}s are in another order than ids')
    title_is_there = catalog.item_df is not None and catalog.title_name in catalog.item_df.columns
    require(catalog.title_name is None or title_is_there, 'the column of titles is missing')
    require(catalog.context_of is None or isinstance(catalog.context_of, Context), 'the context has no levels')
    if catalog.history is None:
        require(catalog.trained_on is None or isinstance(catalog.trained_on, str), 'the fingerprint is not text')
    if catalog.history is not None:
        require(isinstance(catalog.history, History), 'the history is none')
        for side, vocab in catalog.vocab.items():
            before = catalog.history.vocab[side].ids  # of version 0.1, items may have come since
            same = before.equals(vocab.ids if len(before) == len(vocab) else vocab.ids[: len(before)])
            require(same, f'the history is of other {side}s')


# --- features


def _block(block: Block) -> None:
    values = block.values
    require(isinstance(values, (csr_matrix, np.ndarray)) and values.ndim == 2, 'a block of features has no values')
    require(values.dtype.kind in 'iufb', 'a block of features holds no numbers')
    require_finite(values, 'a block of features')
    require_length(block.present, values.shape[0], 'presence of features')
    require(block.present.ndim == 1 and block.present.dtype == bool, 'presence of features is neither true nor false')
    require(isinstance(block.kind, str), 'a block of features of no kind')
    names_fit = block.names is None or (isinstance(block.names, list) and len(block.names) == values.shape[1])
    require(names_fit, 'a block of features has other names than columns')


def _features(features: Features) -> None:
    require(isinstance(features.ids, pd.Index), 'features have no ids')
    require(isinstance(features.blocks, dict) and isinstance(features.transforms, dict), 'features have no blocks')
    for block in features.blocks.values():
        require(isinstance(block, Block) and len(block) == len(features.ids), 'features have other rows than ids')
    for parts in features.transforms.values():
        require(isinstance(parts, tuple) and len(parts) == 3, 'a block of features has no transform')
        kind, transform, columns = parts
        fits = isinstance(kind, str) and isinstance(transform, transforms.Savable) and isinstance(columns, list)
        require(fits, 'a block of features has no transform')


def _transform(transform: transforms.Savable) -> None:
    """Numbers of a transform; of encoders there are none but our own."""
    state = vars(transform)
    for name in ('given', 'encoder'):
        encoder = state.get(name)
        require(encoder is None or isinstance(encoder, ImageEncoder), 'an encoder of texts or images that is none')
    for name, value in state.items():
        require_finite(value, f'{name} of features')


def _scaler(scaler: transforms._Scaler) -> None:
    require(isinstance(scaler.mean, np.ndarray) and scaler.mean.ndim == 1, 'the mean of vectors is missing')
    require_finite(scaler.mean, 'the mean of vectors')
    require_number(scaler.scale, 'the scale of vectors')


def _images(encoder: ImageEncoder) -> None:
    backbone = encoder.backbone
    require(isinstance(backbone, str) and BACKBONE.fullmatch(backbone) is not None, f'a backbone called {backbone!r}')
    require(encoder.cache is None, 'a cache of images on another machine')
    sizes = isinstance(encoder.size, tuple) and len(encoder.size) == 2
    require(sizes and all(type(o) is int and 0 < o <= 4096 for o in encoder.size), f'images of size {encoder.size!r}')
    require(type(encoder.bs) is int and 0 < encoder.bs <= 65536, f'batches of {encoder.bs!r} images')


def _graph(graph: ItemGraph) -> None:
    require(isinstance(graph.ids, pd.Index) and isinstance(graph.weights, csr_matrix), 'a graph without edges')
    require(graph.weights.shape == (len(graph.ids), len(graph.ids)), 'a graph has other rows than ids')
    require(not graph.weights.nnz or graph.weights.data.min() >= 0, 'weights of edges are negative')


# --- models and scorers


def check_config(config: dict[str, Any]) -> None:
    """`ValueError` for arguments of a model that do not go together, before it is made."""
    check_range(config.get('y_range'))
    sizes = [config.get('n_users'), config.get('n_items')]
    for size in sizes:
        require(size is None or (type(size) is int and size >= 0), f'a model of {size!r} users or items')
    if None in sizes:
        return  # a class of the user's own
    for name, value in _parts_of(config):
        if isinstance(value, csr_matrix):
            require(value.shape == tuple(sizes), f'{name} has the shape {value.shape} for {sizes[0]:,} x {sizes[1]:,}')
        if isinstance(value, Block):
            n = sizes[0] if name == 'user_blocks' else sizes[1]
            require(len(value) == n, f'features in {name} have {len(value):,} rows in the place of {n:,}')


def _parts_of(config: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    """Arguments by name, those in dicts under the name of the dict."""
    for name, value in config.items():
        values = [value]
        while values:
            value = values.pop()
            if isinstance(value, dict):
                values += value.values()
            else:
                yield name, value


def check_model(model: nn.Module) -> None:
    """`ValueError` unless all that was trained is finite, and of models of this package the rest as well."""
    trained = {key for key, _ in model.named_parameters()}
    for key, tensor in model.state_dict().items():
        if key in trained or _is_ours(model):
            require_finite(tensor, f'{key} of {type(model).__name__}')


def check_numbers(scorer: Scorer) -> None:
    """`ValueError` unless all numbers that a scorer of this package holds are finite."""
    if not _is_ours(scorer):
        return
    for name, value in vars(scorer).items():
        require_finite(value, f'{name} of {type(scorer).__name__}')
        if isinstance(value, (float, np.floating)):
            require_number(value, f'{name} of {type(scorer).__name__}')


def _is_ours(thing: Any) -> bool:
    """Is its class one of this package?"""
    return type(thing).__module__.partition('.')[0] == 'fastrec'


def _scorer(scorer: Scorer) -> None:
    """The catalog, and numbers that fit it."""
    require(isinstance(scorer.catalog, Catalog), f'{type(scorer).__name__} has no catalog')
    require(isinstance(scorer.scale, str), f'scores of scale {scorer.scale!r}')
    is_sound = isinstance(scorer.taken_over, (list, tuple)) and all(isinstance(o, Catalog) for o in scorer.taken_over)
    require(is_sound, 'what vectors were taken over from are not catalogs')
    check_numbers(scorer)
    for cls, shapes in SHAPES.items():
        if isinstance(scorer, cls):
            _check_shapes(scorer, shapes)
    for cls, names in NUMBERS.items():
        if isinstance(scorer, cls):
            for name in names:
                require_number(vars(scorer).get(name), f'{name} of {cls.__name__}')


def _check_shapes(scorer: Scorer, shapes: dict[str, tuple[str, ...]]) -> None:
    """`ValueError` unless the attributes have the `shapes`."""
    n_of = {side: len(scorer.vocab[side]) for side in ('user', 'item')}
    for name, sides in shapes.items():
        values: Any = vars(scorer).get(name)
        what = f'{name} of {type(scorer).__name__}'
        require(isinstance(values, (np.ndarray, torch.Tensor, csr_matrix)), f'{what} are missing')
        require(len(values.shape) == len(sides), f'{what} have the shape {tuple(values.shape)}')
        wanted = tuple(n_of.setdefault(side, n) for side, n in zip(sides, values.shape, strict=True))
        require(tuple(values.shape) == wanted, f'{what} have the shape {tuple(values.shape)} in the place of {wanted}')


def _model_scorer(scorer: ModelScorer) -> None:
    _scorer(scorer)
    require(isinstance(scorer.model, nn.Module), 'a scorer without its model')
    require(scorer.item_features is None or isinstance(scorer.item_features, Features), 'features of items are none')
    levels = [] if scorer.catalog.context_of is None else scorer.catalog.context_of.sizes
    sizes = list(as_rec_model(scorer.model).context_sizes)
    require(not sizes or sizes == levels, f'the model reads a context of {sizes} levels, and there are {levels}')
    if scorer.context is not None:
        fits = isinstance(scorer.context, torch.Tensor) and scorer.context.shape == (len(levels),)
        require(fits, 'the situation has other columns than levels')
        for size, code in zip(levels, scorer.context.tolist(), strict=True):
            require(not size or 0 <= code < size, 'levels of the context lie outside')


def check_size(scorer: ModelScorer, size: tuple[Any, Any]) -> None:
    """`ValueError` unless a model of so many users and items has those of its catalog."""
    catalog = scorer.catalog
    require(
        size == (catalog.n_users, catalog.n_items),
        f'a model of {size[0]} users and {size[1]} items, with ids of {catalog.n_users} and {catalog.n_items}',
    )


def _of_parts(scorer: Any, parts: Any) -> None:
    """A scorer made of others: all of the same users and items."""
    require(isinstance(parts, list) and len(parts) > 0, f'{type(scorer).__name__} of nothing')
    require(all(isinstance(o, Scorer) for o in parts), f'{type(scorer).__name__} of something that does not score')
    _scorer(scorer)
    require(all(o.vocab == scorer.vocab for o in parts), f'parts of {type(scorer).__name__} have other users or items')


def _knn(knn: ItemKNN | UserKNN) -> None:
    """Neighbors, of ratings with the biases that these are compared by."""
    _scorer(knn)
    require(knn.k is None or (type(knn.k) is int and knn.k >= 1), f'{knn.k!r} neighbors')
    require_number(knn.shrink, 'shrink', 0)
    baseline: Any = knn.baseline
    fits = baseline is None or (isinstance(baseline, BiasOnly) and baseline.vocab == knn.vocab)
    require(fits, f'the biases of {type(knn).__name__} are of other users or items')
    require(knn.scale == ('rank' if baseline is None else 'rating'), f'{type(knn).__name__} of scale {knn.scale!r}')


def _user_knn(knn: UserKNN) -> None:
    _knn(knn)
    trained: Any = knn.trained
    if trained is not None:
        fits = isinstance(trained, UserKNN) and trained.trained is None and trained.scale == knn.scale
        require(fits and trained.vocab['item'] == knn.vocab['item'], 'the neighbors of UserKNN are of other items')


def _blend(blend: Blend) -> None:
    _of_parts(blend, blend.scorers)
    fits = isinstance(blend.weights, list) and len(blend.weights) == len(blend.scorers)
    require(fits, f'a Blend of {len(blend.scorers)} scorers has other weights')
    for weight in blend.weights:
        require_number(weight, 'a weight of a Blend')


def _ensemble(ensemble: Ensemble) -> None:
    _of_parts(ensemble, ensemble.members)


def _reranked(reranked: Reranked) -> None:
    _of_parts(reranked, [reranked.scorer])
    require(callable(reranked.rerank), 'what re-ranks is not a function')


def _on_graph(scorer: Refined | LabelPropagation) -> None:
    """A scorer over a graph of its items."""
    _scorer(scorer)
    fits = isinstance(scorer.graph, ItemGraph) and len(scorer.graph) == scorer.catalog.n_items
    require(fits, f'the graph of {type(scorer).__name__} is of other items')
    require(type(scorer.n_steps) is int and 0 <= scorer.n_steps <= 10_000, f'{scorer.n_steps!r} steps over a graph')
    require_number(scorer.beta, 'beta')


def _refined(refined: Refined) -> None:
    _of_parts(refined, [refined.base])
    _on_graph(refined)


# the last that fits a class is the nearest to it
CHECKS: list[tuple[type, Callable[[Any], None]]] = [
    (Vocab, _vocab),
    (Interactions, _interactions),
    (Split, _split),
    (History, _history),
    (Context, _context),
    (Catalog, _catalog),
    (Block, _block),
    (Features, _features),
    (transforms.Savable, _transform),
    (transforms._Scaler, _scaler),
    (ImageEncoder, _images),
    (ItemGraph, _graph),
    (Scorer, _scorer),
    (ModelScorer, _model_scorer),
    (ItemKNN, _knn),
    (UserKNN, _user_knn),
    (Blend, _blend),
    (Ensemble, _ensemble),
    (Reranked, _reranked),
    (LabelPropagation, _on_graph),
    (Refined, _refined),
]


def checked(thing: Any) -> Any:
    """An object that was read from a file, if it is sound; else a `ValueError` that says what is wrong with it."""
    check = next((check for cls, check in reversed(CHECKS) if isinstance(thing, cls)), None)
    if check is not None:
        check(thing)
    return thing


def check_names(cls: type, names: Iterable[str]) -> None:
    """`ValueError` for attributes that would hide a method, or what is worked out when it is asked for."""
    not_saved = cls.not_saved if issubclass(cls, Scorer) else ()
    for name in names:
        own = [vars(c)[name] for c in cls.__mro__ if name in vars(c)]
        is_computed = any(callable(o) or isinstance(o, (cached_property, property, classmethod)) for o in own[:1])
        require(name.isidentifier() and not name.startswith('__'), f'an attribute called {name!r}')
        require(name not in not_saved and not is_computed, f'{name} of {cls.__name__} is not read from a file')
