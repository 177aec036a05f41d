"""What is known of a user's items reaches the items beside them.

Graphs of items, label propagation, and Correct-and-Smooth over any scorer. Nothing is trained here: a graph and the
user's training rows correct the scores that a model has made. Labels are those of training rows, on the scale of the
scores: ratings for a model of ratings; liked (1) or not (0) with `target='liked'`; positive (1) or seen but none (0) of
implicit feedback.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix, diags, issparse

from ..data.catalog import Catalog, check_source, distinct, require_same_ids
from ..data.columns import first_few, normal_name, plain_values
from ..data.features import Features
from ..data.interactions import Vocab
from ..keywords import check_arguments
from ..memory import require_memory
from ..notices import warn_user
from .baselines import HasCatalog, require_loaders, training_rows
from .carried import Carried, Explainer, Own
from .linear import ItemWeights
from .model_scorer import ModelScorer
from .recommend import MEMORY_BUDGET
from .retrieval import Inner
from .scorer import Scorer

__all__ = ['ItemGraph', 'LabelPropagation', 'Refined', 'correct_and_smooth', 'item_graph']

INDEX_FROM = 20_000  # items from which neighbors are searched with an index
INDEX_DIM = 128  # dimensions to which sparse features are brought for it
INDEX_RECALL = 0.95  # share of the nearest that it is to find
BYTES_PER_EDGE = 48  # on the way to a graph: where it leads, its weight, and sorted copies
PRODUCT_BUDGET = 2**26  # entries of a sparse product held at a time
CPU_USERS = 32  # whose scores go through a sparse product together on a CPU: they fit its cache, with all steps
SHRINK = 100.0  # of the cosine of co-occurrence, as in `ItemKNN`


class ItemGraph:
    """Weighted edges between items, keyed by item id: symmetric, without loops.

    `ids` (pd.Index), `weights` CSR float32 (n, n), symmetric and not negative; `matrix` is `weights` with rows that sum
    to 1 (rows of items without neighbors are empty). `align(vocab)` brings it into the order of a model's codes. Graphs
    add up: `a + b` is the sum of their row-normalized edges, made symmetric again, so that two relations count alike.
    `ValueError` for another shape, and for weights that are negative or not finite.
    """

    sources: Sequence[Catalog] = ()  # of graphs saved before there were any

    def __init__(
        self,
        ids: Iterable,  # of the items
        weights: Any,  # (n, n), sparse or an array; of an edge given in both directions the larger weight counts
        kind: str = 'edges',  # where it comes from, in words
        sources: Iterable[Catalog] = (),  # whose training rows it was made from, to be checked against the model's
    ) -> None:
        self.ids = pd.Index(plain_values(ids))
        self.kind = kind
        self.sources = list(sources)
        n = len(self.ids)
        if weights.shape != (n, n):
            raise ValueError(f'weights of shape {weights.shape} for {n:,} items')
        w = csr_matrix(weights, dtype=np.float32)
        w = w.maximum(w.T).tocsr()
        w.setdiag(0)
        w.eliminate_zeros()
        if w.nnz and (not np.isfinite(w.data).all() or w.data.min() < 0):
            raise ValueError(
                'weights of edges have to be finite and not negative: a weight says how much alike two items are'
            )
        w.sort_indices()
        self.weights = w

    @property
    def matrix(self) -> csr_matrix:
        """`weights` with rows that sum to 1, float32 CSR (n, n); a row without neighbors is empty."""
        sums = np.asarray(self.weights.sum(1)).ravel()
        scales = 1 / np.where(sums > 0, sums, 1)
        return (diags(scales.astype(np.float32)) @ self.weights).tocsr()

    @property
    def degrees(self) -> np.ndarray:
        """Neighbors of each item: int (n,)."""
        return np.diff(self.weights.indptr)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        degrees = self.degrees
        return (
            f'ItemGraph({self.kind}: {len(self):,} items, {self.weights.nnz // 2:,} edges, '
            f'{degrees.mean():.1f} neighbors on average, {int((degrees == 0).sum()):,} items without)'
        )

    def __add__(self, other: ItemGraph) -> ItemGraph:
        ids = self.ids.union(other.ids)
        weights = self.align(ids).matrix + other.align(ids).matrix
        sources = distinct([*self.sources, *other.sources])
        return ItemGraph(ids, weights, f'{self.kind} + {other.kind}', sources)

    def align(
        self,
        vocab: Vocab | Iterable,  # or ids in the order wanted
    ) -> ItemGraph:
        """The same with a row per code of `vocab`; items that the graph does not know have no neighbors.

        `ValueError` if it knows none.
        """
        ids = vocab.ids if isinstance(vocab, Vocab) else pd.Index(plain_values(vocab))
        if self.ids.equals(ids):
            return self
        rows = self.ids.get_indexer(ids)
        known = np.flatnonzero(rows >= 0)
        if len(ids) and not len(known):
            raise ValueError(
                f'no item of the model is in the graph: ids there look like {first_few(self.ids, 3)}, '
                f"the model's like {first_few(ids, 3)}"
            )
        pick = csr_matrix((np.ones(len(known), np.float32), (known, rows[known])), shape=(len(ids), len(self)))
        return ItemGraph(ids, pick @ self.weights @ pick.T, self.kind, self.sources)

    def neighbors(
        self,
        item: Any,  # id
        k: int = 10,  # how many at most
        catalog: Catalog | None = None,  # of titles
    ) -> pd.DataFrame:
        """The neighbors of one item with the largest weights: item, title (given a `Catalog`), weight.

        `KeyError` for an item that the graph does not know.
        """
        position = self.ids.get_indexer([item])[0]
        if position < 0:
            raise KeyError(f'no item {item!r} in the graph, whose ids look like {first_few(self.ids, 3)}')
        row = self.weights[position]
        best = np.argsort(-row.data, kind='stable')[:k]
        df = pd.DataFrame(dict(item=self.ids[row.indices[best]], weight=row.data[best]))
        if catalog is not None:
            df.insert(1, 'title', catalog.titles(catalog.vocab['item'].encode(df.item)))
        return df


# --- graphs from what there is


@check_arguments
def item_graph(
    # `ItemFeatures`; a scorer with `vectors('item')`; (ids, vectors) or a dict id -> vector; loaders, for what is had
    # together in training rows; or a table of edges: src, dst[, weight]
    source: Any,
    k: int | None = 20,  # neighbors that each item looks for (None: all; of given edges all are kept)
    link: str = 'nearest',  # features: 'nearest' by cosine of all blocks, or 'shared' labels (people) of sparse blocks
    budget: int | None = None,  # bytes that the edges may take; None: half of the memory that is available
) -> ItemGraph:
    """A graph of the items, each joined to its `k` nearest; an edge that one side finds counts for both.

    - nearest: weight = cosine, where above 0. An item of which nothing is known has no neighbors.
    - shared: weight = sum over shared labels of 1 / log(items that have the label), so that a rare one says more
      (Adamic and Adar 2003).
    - loaders: weight = n_ij / (sqrt(n_i n_j) + 100) with n_ij the users who have both items in training rows (the
      shrunken cosine of `ItemKNN`).
    - edges: as given; both directions of a pair become one edge, the larger weight counts.

    Neighbors of vectors and features are exact (scikit-learn) below 20,000 items; from there on an index finds them
    (faiss, the extra 'ann'), for which sparse features are brought to 128 dimensions by a truncated SVD. `ValueError`
    for a `k` or `link` that there is not, `TypeError` for another source.
    """
    if k is not None and (int(k) != k or k < 1):
        raise ValueError(f'k={k}: at least one neighbor for each item, or None for all')
    if link not in ('nearest', 'shared'):
        raise ValueError(f"link={link!r}: 'nearest' or 'shared'")
    if link == 'shared' and not isinstance(source, Features):
        raise ValueError("link='shared' is for ItemFeatures: it asks which labels two items share")
    if isinstance(source, Features):
        return _of_features(source, k, link, budget)
    if isinstance(source, pd.DataFrame):
        return _of_edges(source)
    if isinstance(source, dict):
        vectors = np.stack([np.asarray(o, dtype=np.float32) for o in source.values()])
        return _of_vectors(list(source), vectors, k, budget)
    if isinstance(source, tuple) and len(source) == 2:
        return _of_vectors(*source, k, budget)
    if isinstance(source, Scorer):
        return _of_scorer(source, k, budget)
    if isinstance(source, HasCatalog) and not isinstance(source, ItemGraph):
        return _of_training_rows(source.catalog, k, budget)
    raise TypeError(
        'an item graph is made of ItemFeatures, a fitted scorer, (ids, vectors), loaders or a table of edges, '
        f'got {type(source).__name__}'
    )


def _of_features(features: Features, k: int | None, link: str, budget: int | None) -> ItemGraph:
    """Nearest by all the blocks, or by the labels they share."""
    if link == 'shared':
        weights = _largest_products(*_shared_labels(features), k, budget=budget)
    else:
        weights = _nearest(features.matrix(), k, budget)
    return ItemGraph(features.ids, weights, f'{link} {", ".join(features.names)}')


def _of_vectors(ids, vectors: Any, k: int | None, budget: int | None) -> ItemGraph:
    """Nearest by rows of `vectors` (n, d): an array, a tensor, or sparse."""
    if isinstance(vectors, torch.Tensor):
        vectors = vectors.detach().cpu()
    if not issparse(vectors):
        vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[0] != len(ids):
        raise ValueError(f'vectors of shape {tuple(vectors.shape)} for {len(ids):,} ids: expected a row each')
    _check_finite(ids, vectors)
    return ItemGraph(ids, _nearest(vectors, k, budget), 'nearest vectors')


def _check_finite(ids: Any, vectors: Any) -> None:
    """`ValueError` for vectors that hold NaN or infinite numbers, of which no cosine tells anything."""
    sums = np.asarray(abs(vectors).sum(1)).ravel()
    is_bad = ~np.isfinite(sums)
    if is_bad.any():
        bad = [id_ for id_, is_one in zip(ids, is_bad) if is_one]
        raise ValueError(
            f'{len(bad):,} of {len(is_bad):,} vectors hold values that are not finite (NaN or infinite), e.g. of items '
            f'{first_few(bad, 3)}: leave those items out; they then have no neighbors'
        )


def _of_scorer(scorer: Scorer, k: int | None, budget: int | None) -> ItemGraph:
    """Nearest by what a scorer has learned of items; of one that has worked out neighbors, these."""
    if isinstance(scorer, ItemWeights):
        return _of_neighbors(scorer, k, budget)
    vectors = scorer.vectors('item').float().cpu().numpy().copy()
    vectors[~scorer.knows('item')] = 0  # the vector of a cold item says nothing about it
    name = type(scorer if scorer.model is None else scorer.model).__name__
    return ItemGraph(
        scorer.vocab['item'].ids, _nearest(vectors, k, budget), f'nearest vectors of {name}', scorer.sources()
    )


def _of_neighbors(scorer: ItemWeights, k: int | None, budget: int | None) -> ItemGraph:
    """Each item's `k` neighbors of `EASE` or `ItemKNN`, with their weights."""
    ids = scorer.vocab['item'].ids
    n = len(ids)
    _require_memory(n * min(n, n if k is None else k), n, budget)
    scores, found = scorer.neighbors(np.arange(n), n if k is None else k)
    rows, place = np.nonzero(np.isfinite(scores))
    weights = csr_matrix((scores[rows, place], (rows, found[rows, place])), shape=(n, n))
    return ItemGraph(ids, weights, f'neighbors of {type(scorer).__name__}', scorer.sources())


def _of_training_rows(catalog: Catalog, k: int | None, budget: int | None) -> ItemGraph:
    """Nearest by the users who have both."""
    seen = catalog.require_history().seen
    had = csr_matrix((np.ones(seen.nnz, np.float32), seen.indices, seen.indptr), shape=seen.shape)
    of_items = had.T.tocsr()
    norms = np.sqrt(np.diff(of_items.indptr)).astype(np.float32)

    def shrunken_cosines(rows: np.ndarray, common: csr_matrix) -> np.ndarray:
        of_row: np.ndarray = np.repeat(norms[rows], np.diff(common.indptr))
        return common.data / (of_row * norms[common.indices] + SHRINK)

    weights = _largest_products(of_items, of_items.T.tocsr(), k, shrunken_cosines, budget)
    return ItemGraph(catalog.vocab['item'].ids, weights, 'had together', [catalog])


def _of_edges(df: pd.DataFrame) -> ItemGraph:
    """The edges of a table; `ValueError` for missing columns, missing ids and weights that are not weights."""
    columns = {normal_name(c): c for c in reversed(df.columns)}

    def find(*names: str):
        return next((columns[o] for o in names if o in columns), None)

    src = find('src', 'source', 'from')
    dst = find('dst', 'target', 'to', 'destination')
    weight = find('weight', 'weights')
    if src is None or dst is None:
        raise ValueError(
            f'a table of edges has the columns src, dst and, if they differ, weight; got {first_few(df.columns, 20)}'
        )
    n_missing = int(df[[src, dst]].isna().any(axis=1).sum())
    if n_missing:
        raise ValueError(f'{n_missing:,} of {len(df):,} edges have no {src} or no {dst}')
    ids = pd.Index(plain_values(pd.concat([df[src], df[dst]], ignore_index=True).drop_duplicates())).sort_values()
    values = np.ones(len(df), np.float32) if weight is None else df[weight].to_numpy(dtype=np.float32)
    if not np.isfinite(values).all() or (len(values) and values.min() < 0):
        raise ValueError(f'weights of edges (column {weight!r}) have to be finite and not negative')
    n = len(ids)
    rows, cols = (ids.get_indexer(plain_values(df[column])).astype(np.int64) for column in (src, dst))
    descending = np.argsort(values, kind='stable')[::-1]
    keys, first = np.unique((rows * n + cols)[descending], return_index=True)  # of repeated edges the largest
    return ItemGraph(ids, csr_matrix((values[descending][first], (keys // n, keys % n)), shape=(n, n)))


def _shared_labels(features: Features) -> tuple[csr_matrix, csr_matrix]:
    """Labels of items, weighted (n, labels), and the same turned, unweighted (labels, n)."""
    dense = [name for name, block in features.blocks.items() if not block.sparse]
    if dense:
        raise ValueError(
            f"link='shared' is for labels, and {first_few(dense)} hold(s) numbers: leave out, e.g. feats[['genres']], "
            "or take link='nearest'"
        )
    labels = features.matrix(unit=False)
    labels.data[:] = 1
    n_items = np.diff(labels.tocsc().indptr)  # that have the label
    weights = (1 / np.log(np.maximum(n_items, 2))).astype(np.float32)
    return (labels @ diags(weights)).tocsr(), labels.T.tocsr()


# --- nearest neighbors


def _require_memory(n_edges: int, n: int, budget: int | None) -> None:
    """`MemoryError` if up to `n_edges` edges of `n` items are beyond the budget."""
    require_memory(
        BYTES_PER_EDGE * n_edges,
        f'a graph of {n:,} items with up to {n_edges:,} edges',
        'keep fewer neighbors of each item, such as k=20',
        budget,
        'item_graph(..., {})',
    )


def _largest_products(
    x: csr_matrix,  # (n, m)
    y: csr_matrix,  # (m, n)
    k: int | None,  # of each row; None: all
    weigh: Callable[[np.ndarray, csr_matrix], np.ndarray] | None = None,  # values of some rows in place of the products
    budget: int | None = None,  # bytes that what is kept may take
) -> csr_matrix:
    """CSR (n, n): the `k` largest entries of each row of the sparse product x y but the diagonal.

    Rows go through in chunks of a fixed number of entries.
    """
    n = x.shape[0]
    ones = csr_matrix((np.ones_like(x.data), x.indices, x.indptr), shape=x.shape)
    at_most = np.asarray(ones @ np.diff(y.indptr)).ravel()  # entries of each row of the product
    kept_of_row = np.minimum(at_most, n if k is None else min(n, k))
    _require_memory(int(kept_of_row.sum()), n, budget)
    chunk_of = (np.cumsum(np.minimum(at_most, n)) // PRODUCT_BUDGET).astype(int)
    rows_of: list[np.ndarray] = []
    columns: list[np.ndarray] = []
    values: list[np.ndarray] = []
    for rows in np.split(np.arange(n), np.flatnonzero(np.diff(chunk_of)) + 1):
        product = (x[rows] @ y).tocsr()
        if weigh is not None:
            product.data = weigh(rows, product).astype(np.float32)
        loops = product.indices == np.repeat(rows, np.diff(product.indptr))
        product.data[loops] = 0
        product.eliminate_zeros()
        kept, n_kept = _largest_entries(product, k)
        rows_of.append(np.repeat(rows, n_kept))
        columns.append(product.indices[kept])
        values.append(product.data[kept])
    entries = np.concatenate(values), (np.concatenate(rows_of), np.concatenate(columns))
    return csr_matrix(entries, shape=(n, n))


def _largest_entries(matrix: csr_matrix, k: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Positions in `data` of the `k` largest entries of each row (ties: the first columns), and how many a row has."""
    n_each = np.diff(matrix.indptr)
    if k is None or not (n_each > k).any():
        return np.arange(matrix.nnz), n_each
    matrix.sort_indices()
    bounds = zip(matrix.indptr[:-1], matrix.indptr[1:])
    kept = [start + _largest(matrix.data[start:end], k) for start, end in bounds]
    return np.concatenate(kept), np.minimum(n_each, k)


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Positions of the `k` largest of `values` (n,), of equal ones the first: linear in n."""
    n = len(values)
    if n <= k:
        return np.arange(n)
    least = np.partition(values, n - k)[n - k]
    above = np.flatnonzero(values > least)
    equal = np.flatnonzero(values == least)[: k - len(above)]
    return np.concatenate([above, equal])


def _nearest(x: Any, k: int | None, budget: int | None = None) -> csr_matrix:
    """CSR (n, n): cosines above 0 with the `k` nearest rows of `x` (n, d), an array or CSR; zeros have no neighbors."""
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import normalize

    n = x.shape[0]
    x = normalize(x)
    known = np.flatnonzero(np.diff(x.indptr) if issparse(x) else x.any(1))
    x = x[known]
    n_known = len(known)
    n_nearest = min(n_known - 1, n if k is None else k)
    if n_nearest < 1:
        return csr_matrix((n, n), dtype=np.float32)
    _require_memory(n_known * n_nearest, n, budget)
    if n_known < INDEX_FROM:
        search = NearestNeighbors(n_neighbors=n_nearest, algorithm='brute', metric='cosine').fit(x)
        distances, found = search.kneighbors()  # without the items themselves
        cosines = 1 - distances
    else:
        cosines, found = _search(x, n_nearest)
    rows: np.ndarray = np.repeat(np.arange(n_known), found.shape[1])
    found = found.ravel()
    cosines = cosines.ravel()
    keep = (found >= 0) & (cosines > 1e-6) & (found != rows)
    edges = known[rows[keep]], known[found[keep]]
    return csr_matrix((cosines[keep].astype(np.float32), edges), shape=(n, n))


def _search(x: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and positions (n, k + 1) of nearest rows of `x` (n, d), unit length, by an index; itself among them."""
    vectors = torch.from_numpy(np.ascontiguousarray(_few_dimensions(x), dtype=np.float32))
    try:
        index = Inner(vectors, 'ivf')
    except ImportError as e:
        raise ImportError(
            f"neighbors among {len(vectors):,} items are searched with faiss: pip install 'fastrec-learn[ann]'"
        ) from e
    queries = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))[:256]
    index.tune(vectors[queries], k + 1, INDEX_RECALL)
    found = torch.from_numpy(index.search(vectors, k + 1))
    cosines = [
        torch.einsum('nd,nkd->nk', some, vectors[of_some.clamp(min=0)])
        for some, of_some in zip(vectors.split(4096), found.split(4096))
    ]
    return torch.cat(cosines).numpy(), found.numpy()


def _few_dimensions(x: Any) -> np.ndarray:
    """Rows of unit length as an array: sparse ones with many columns by a truncated SVD."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import normalize

    if not issparse(x):
        return x
    if x.shape[1] <= INDEX_DIM:
        return x.toarray()
    return normalize(TruncatedSVD(INDEX_DIM, random_state=0).fit_transform(x))


# --- scorers over a graph


class _Propagated(Scorer):
    """What scorers over a graph share: labels of training rows, products by chunks of users, pairs by whole catalogues.

    A subclass has `graph` in the order of the codes, and writes `_start` and `_propagate`.
    """

    reads_history = True
    graph: ItemGraph

    def _start(self, users: torch.Tensor) -> torch.Tensor:
        """Scores (B, n_items) of codes (B,) before the labels; memory that `_score_chunk` writes the result to."""
        raise NotImplementedError

    def _propagate(
        self,
        edges: torch.Tensor,  # row-normalized graph, sparse (n_items, n_items)
        y: torch.Tensor,  # scores before the labels (n_items, B), which may be overwritten
        at: tuple[torch.Tensor, torch.Tensor],  # (item, column of y) of each label, int64 (L,)
        labels: torch.Tensor,  # float32 (L,)
        n: torch.Tensor,  # labels of each user, float32 (B,)
    ) -> torch.Tensor:
        """Scores after the labels, (n_items, B)."""
        raise NotImplementedError

    @cached_property
    def labels(self) -> csr_matrix:
        """Labels of training rows, float32 CSR (n_users, n_items); a stored 0 is a label.

        `ValueError` where the loaders hold ratings and the scores are probabilities.
        """
        catalog = self.require_fitted()
        inter, rows = training_rows(catalog)
        if self.scale == 'rating':
            values = inter.ratings[rows]
        elif catalog.thresholds is not None:
            values = catalog.liked(rows)
        elif inter.weights is not None:
            values = inter.weights[rows] > 0
        else:
            raise ValueError(
                'probabilities of what? The loaders hold ratings, which are not labels: '
                "make them with target='liked' or 'implicit'"
            )
        pairs = inter.users[rows], inter.items[rows]
        return csr_matrix((values.astype(np.float32), pairs), shape=(catalog.n_users, catalog.n_items))

    @cached_property
    def _placed(self) -> dict[torch.device, torch.Tensor]:
        """Edges by device; see `_edges`."""
        return {}

    def _edges(self, device: torch.device) -> torch.Tensor:
        """Row-normalized edges as a sparse tensor (n_items, n_items).

        An item without neighbors has itself, so that it keeps what it has.
        """
        if device not in self._placed:
            matrix = self.graph.matrix
            alone = (np.diff(matrix.indptr) == 0).astype(np.float32)
            self._placed[device] = _sparse_tensor((matrix + diags(alone)).tocsr()).to(device)
        return self._placed[device]

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ('_placed', 'labels')}

    def _labels_of(
        self, users: torch.Tensor, device: torch.device
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor, torch.Tensor]:
        """Of codes of users (B,): (item, column) of each label, the labels, how many a user has; see `_propagate`."""
        return _placed_labels(self.labels[users.cpu().numpy()], device)

    def explainer(self) -> Explainer:
        """As in `Scorer`: what the user's labels do to the scores, taken out one by one."""
        return OfLabels(self)

    def scores_with(self, user: int, labels: csr_matrix) -> torch.Tensor:
        """Scores of all items for a user (a code) with other labels, a set in each row (n, n_items): (n, n_items)."""
        y = self._start(torch.full((labels.shape[0],), user))
        device = y.device if y.device.type != 'mps' else torch.device('cpu')
        columns = y.to(device).T.contiguous()
        return self._propagate(self._edges(device), columns, *_placed_labels(labels, device)).T

    def _score_chunk(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of all items for codes of users that fit the memory budget: (B,) -> (B, n_items)."""
        y = self._start(users)
        device = y.device if y.device.type != 'mps' else torch.device('cpu')  # MPS has no sparse products
        edges = self._edges(device)
        block = CPU_USERS if device.type == 'cpu' else len(users)
        # `of_block` is a view of y: written in place; the product takes users as columns that lie beside each other
        for some_users, of_block in zip(users.split(block), y.split(block)):
            columns = of_block.to(device).T.contiguous()
            of_block.copy_(self._propagate(edges, columns, *self._labels_of(some_users, device)).T)
        return y

    @property
    def _step(self) -> int:
        """Users at a time: 4 bytes an item for scores, and (on a GPU) about seven times as much on the way to them."""
        return max(1, MEMORY_BUDGET // (32 * self.require_fitted().n_items))

    def score_items(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of all items: codes (B,) -> (B, n_items). Users go through in chunks of a fixed memory budget."""
        chunks = [self._score_chunk(o) for o in torch.as_tensor(users).split(self._step)]
        if len(chunks) == 1:
            return chunks[0]
        return torch.cat(chunks or [torch.zeros(0, self.require_fitted().n_items)])

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores of pairs of codes: (n,), (n,) -> (n,)."""
        items = torch.as_tensor(items)
        distinct, of_pair = torch.unique(torch.as_tensor(users), return_inverse=True)
        res = None
        for start in range(0, len(distinct), self._step):
            some_users = distinct[start : start + self._step]
            scores = self._score_chunk(some_users)
            device = scores.device
            if res is None:
                res = torch.zeros(len(items), device=device)
            pairs = (of_pair >= start) & (of_pair < start + len(some_users))
            rows = (of_pair[pairs] - start).to(device)
            res[pairs.to(device)] = scores[rows, items[pairs].to(device)]
        return torch.zeros(0) if res is None else res


def _placed_labels(
    labels: csr_matrix, device: torch.device
) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Of rows of labels (B, n_items): (item, column) of each, the labels, how many a row has; see `_propagate`."""
    n = np.diff(labels.indptr)
    items = torch.from_numpy(labels.indices.astype(np.int64)).to(device)
    columns = torch.from_numpy(np.repeat(np.arange(len(n)), n)).to(device)
    values = torch.from_numpy(labels.data).to(device)
    return (items, columns), values, torch.from_numpy(n.astype(np.float32)).to(device)


class OfLabels(Explainer):
    """What scores lose without a label of the user's on the graph; what the scorer below knows of the user stays."""

    method = 'deletion'
    is_quick = False

    def of(self, user: int, items: np.ndarray, own: Own) -> Carried:
        """As in `Explainer`."""
        scorer = self.scorer
        row = scorer.labels[[user]]
        n = row.nnz
        # row j of the variants lacks label j, the last one none
        places = np.tile(np.arange(n), n + 1)
        variants: np.ndarray = np.repeat(np.arange(n + 1), n)
        stays = places != variants
        entries = row.data[places[stays]], (variants[stays], row.indices[places[stays]])
        labels = csr_matrix(entries, shape=(n + 1, scorer.catalog.n_items), dtype=np.float32)
        step = max(1, MEMORY_BUDGET // (32 * scorer.catalog.n_items))
        chunks = [scorer.scores_with(user, labels[at : at + step])[:, items] for at in range(0, n + 1, step)]
        scores = torch.cat(chunks).double().cpu().numpy()
        lost = pd.DataFrame(scores[-1] - scores[:-1], index=row.indices)
        return self.carried(user, items, own, lost.reindex(own.items, fill_value=0.0).to_numpy())


def _sparse_tensor(matrix: csr_matrix) -> torch.Tensor:
    """A CSR matrix as a tensor, its indices as narrow as its size allows."""
    dtype = np.int32 if matrix.nnz < 2**31 else np.int64
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Sparse (CSR tensor support|invariant checks)')
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(dtype)),
            torch.from_numpy(matrix.indices.astype(dtype)),
            torch.from_numpy(matrix.data),
            matrix.shape,
        )


def _diffuse(
    edges: torch.Tensor,  # A: sparse (n_items, n_items)
    start: torch.Tensor,  # (n_items, B)
    share: float | torch.Tensor,  # of the neighbors: a number, or one for each column (B,)
    n_steps: int,
) -> torch.Tensor:
    """n_steps of y = (1 - share) start + share A y, from y = start: (n_items, B)."""
    y = start
    for _ in range(n_steps):
        y = torch.lerp(start, edges @ y, share)
    return y


class Refined(_Propagated):
    """A scorer whose scores are corrected by the user's training labels and smoothed over a graph of items.

    What `correct_and_smooth` returns. `base` is the scorer, `graph` an `ItemGraph` in the order of its codes; `scale`
    is 'rating' (over a model of ratings), else 'probability'. Training rows are read when it scores.
    """

    _way_to_make_again: ClassVar[str] = 'call correct_and_smooth again'

    def __init__(
        self,
        base: Scorer,  # a fitted one
        graph: ItemGraph,  # in the order of its codes
        alpha: float = 0.8,  # this and what follows: as in `correct_and_smooth`
        beta: float = 0.5,  # share of the neighbors at each smoothing step
        n_steps: int = 1,  # smoothing steps
        mode: str = 'anchor',  # 'anchor' or 'residual'
        alpha_rows: float = 0.0,  # of a user with n training rows alpha is alpha n / (n + alpha_rows)
    ) -> None:
        self.base = base
        self.graph = graph
        self.catalog = base.catalog
        self.alpha = alpha
        self.beta = beta
        self.n_steps = n_steps
        self.mode = mode
        self.alpha_rows = alpha_rows
        self.scale = 'rating' if base.scale == 'rating' else 'probability'
        self.knows_cold = base.knows_cold
        self._remember_parts()

    def __repr__(self) -> str:
        return (
            f'Refined({self.base!r}, {self.graph!r}, alpha={self.alpha}, beta={self.beta}, n_steps={self.n_steps}, '
            f'mode={self.mode!r})'
        )

    def config(self) -> dict[str, Any]:
        """Arguments of `correct_and_smooth` after scorer and graph."""
        return dict(alpha=self.alpha, beta=self.beta, n_steps=self.n_steps, mode=self.mode, alpha_rows=self.alpha_rows)

    @contextmanager
    def inference(self) -> Iterator[Any]:
        """Context of many calls in a row: that of the base."""
        with self.base.inference() as device:
            yield device

    @property
    def shows_progress(self) -> bool:  # type: ignore[override]  # that of the base, nothing to be set
        """May its verbs show a bar? Where the base may."""
        return self.base.shows_progress

    def parts(self) -> list[Scorer]:
        """The scorer that is refined."""
        return [self.base]

    def knows(self, side: str = 'item') -> np.ndarray:
        """bool (n,): what the base knows, and items that have neighbors."""
        self.require_current()
        known = self.base.knows(side)
        if side == 'user':
            return known
        self._check_same_items(len(known))
        return known | (self.graph.degrees > 0)

    def _check_same_items(self, n: int) -> None:
        if n != len(self.graph):
            raise ValueError(
                f'the model scores {n:,} items, the graph was aligned to {len(self.graph):,}: it has taken in items '
                'since. Call correct_and_smooth again'
            )

    def sides(self) -> dict[str, Scorer]:
        """What a refinement is to be compared with, for `compare_models`: name -> scorer.

        'base', 'label propagation' (the same graph without the model), and 'refined', itself.
        """
        return {'base': self.base, 'label propagation': LabelPropagation(self.graph).fit(self.base), 'refined': self}

    def _start(self, users: torch.Tensor) -> torch.Tensor:
        self.require_current()
        y = self.base.score_items(users).float()
        self._check_same_items(y.shape[1])
        if self.base.scale == 'logit':
            return y.sigmoid()
        return y.clamp(0, 1) if self.scale == 'probability' else y

    def _propagate(self, edges, y, at, labels, n):
        alpha = (self.alpha * n / (n + self.alpha_rows)).nan_to_num()  # 0 / 0: no history, and nothing to correct
        if self.mode == 'anchor':
            _, column = at
            y[at] += alpha[column] * (labels - y[at])
            for _ in range(self.n_steps):
                y.lerp_(edges @ y, self.beta)
        else:
            error = torch.zeros_like(y)
            error[at] = labels - y[at]
            y += _diffuse(edges, error, alpha, self.n_steps)
            y[at] = labels
            y = _diffuse(edges, y, self.beta, self.n_steps)
        return y if self.scale == 'rating' else y.clamp_(0, 1)


@check_arguments
def correct_and_smooth(
    scorer: Scorer,  # a fitted learner or other `Scorer` of scale 'rating', 'logit' or 'probability'
    graph: ItemGraph,  # e.g. `item_graph(feats)`
    alpha: float = 0.8,  # how far scores of training items move to labels; 'residual': share of the neighbors' error
    beta: float = 0.5,  # share of the neighbors at each smoothing step
    n_steps: int = 1,  # steps
    mode: str = 'anchor',  # 'anchor' or 'residual', see below
    alpha_rows: float = 0.0,  # of a user with n training rows alpha is alpha n / (n + alpha_rows); 0: one for all
) -> Refined:
    """A `Scorer` that corrects `scorer` by each user's training labels and smooths over `graph`.

    The scorer itself stays as it is. y: scores of one user, logits as probabilities; A: row-normalized graph.

    - 'anchor': y[train] += alpha (label - y[train]), then n_steps times y = (1 - beta) y + beta A y.
    - 'residual': Huang et al. 2020 (arXiv 2010.13993), one graph for all users with labels of each. Correct:
      E = label - y on training items, 0 elsewhere; E(t+1) = (1 - alpha) E(0) + alpha A E(t); y += E. Smooth: G = label
      on training items, y elsewhere; G(t+1) = (1 - beta) G(0) + beta A G(t). Deviations: A is row-normalized where the
      paper has D^-1/2 A D^-1/2, which does not leave constant scores constant; and the error is not rescaled, for there
      is one class.

    Items without neighbors keep their score (a training item its correction). Probabilities stay in [0, 1]. Only
    training rows are read: no label of valid or test reaches scores, graph or thresholds, and a graph made from another
    split's training rows is refused (`ValueError`, as for scorers that only rank).
    """
    if mode not in ('anchor', 'residual'):
        raise ValueError(f"mode={mode!r}: 'anchor' or 'residual'")
    for name, value in (('alpha', alpha), ('beta', beta)):
        if not 0 <= value <= 1:
            raise ValueError(f'{name}={value}: a share from 0 to 1')
    if int(n_steps) != n_steps or n_steps < 0:
        raise ValueError(f'n_steps={n_steps}: a whole number of steps, 0 for the correction alone')
    if not alpha_rows >= 0:
        raise ValueError(f'alpha_rows={alpha_rows}: a number of training rows')
    catalog = scorer.require_fitted()
    if scorer.scale == 'rank':
        raise ValueError(
            f'{type(scorer).__name__} only ranks: its scores cannot be compared with labels. Take a model of ratings, '
            "or one that gives logits or probabilities (target='liked', or BCELoss)"
        )
    if _loses_context(scorer):
        warn_user(
            f'{type(scorer).__name__} reads the context of rows ({catalog.context_of}), and its refinement does not: '
            'it corrects and smooths whole catalogues, scored without context. For one situation refine '
            '`scorer.in_context({...})`; of rows each in its own take the scorer itself'
        )
    res = Refined(scorer, _checked(graph, catalog), alpha, beta, n_steps, mode, alpha_rows)
    _ = res.labels  # errors now, not at the first score
    return res


def _loses_context(scorer: Scorer) -> bool:
    """Does it, or a part of it, score rows in their context, which whole catalogues have not?

    What is in one situation already (`in_context`) keeps that.
    """
    if scorer.parts():
        return any(_loses_context(part) for part in scorer.parts())
    is_in_one = isinstance(scorer, ModelScorer) and scorer.context is not None
    return scorer.reads_context and not is_in_one


def _checked(graph: ItemGraph, catalog: Catalog) -> ItemGraph:
    """The graph in the order of the codes of `catalog`, after a look at what it was made from."""
    if not isinstance(graph, ItemGraph):
        raise TypeError(f'graph= takes an ItemGraph, made by item_graph(...), got {type(graph).__name__}')
    catalog.require_history()
    held_out = catalog.held_out()
    for source in graph.sources:
        require_same_ids(source, catalog)
        check_source(source, catalog, held_out)
    aligned = graph.align(catalog.vocab['item'])
    return ItemGraph(aligned.ids, aligned.weights, aligned.kind)  # without the sources, which have been checked


class LabelPropagation(_Propagated):
    """No model: each user's training labels spread over the graph.

    Zhou et al. 2004, 'Learning with local and global consistency': F(t+1) = (1 - beta) F(0) + beta A F(t) for two
    things at once: L, the labels of training items, and N, 1 on training items; 0 elsewhere.
    score = (L + prior m) / (N + prior), the mean of the labels that reach an item, drawn to m where few do; m is the
    user's own mean over training labels, of a user without any the mean of all. With labels 0 and 1 and prior = 0 that
    is the paper's F_1 / (F_0 + F_1). Deviation: A is row-normalized where the paper has D^-1/2 W D^-1/2. `ValueError`
    for a `beta` or `prior` out of range.
    """

    @check_arguments
    def __init__(
        self,
        graph: ItemGraph,  # of the items
        beta: float = 0.8,  # share of the neighbors at each step
        n_steps: int = 10,  # steps
        prior: float = 0.01,  # what the user's mean counts, as N does; above 0
    ) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f'beta={beta}: a share from 0 to below 1')
        if not prior > 0:
            raise ValueError(f'prior={prior}: above 0, for items that no label reaches')
        self.graph = graph
        self.beta = beta
        self.n_steps = n_steps
        self.prior = prior

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor after the graph."""
        return dict(beta=self.beta, n_steps=self.n_steps, prior=self.prior)

    def fit(
        self,
        dls: HasCatalog | Scorer,  # loaders, or a scorer fitted to them
    ) -> LabelPropagation:
        """Take the labels of the training rows; returns self."""
        require_loaders(dls, 'LabelPropagation.fit')
        self.catalog = dls.catalog
        catalog = self.require_fitted()
        self.graph = _checked(self.graph, catalog)
        scores_ratings = isinstance(dls, Scorer) and dls.scale == 'rating'
        inter, _ = training_rows(catalog)
        holds_ratings = catalog.thresholds is None and inter.weights is None
        self.scale = 'rating' if scores_ratings or holds_ratings else 'probability'
        self.mean = float(self.labels.data.mean())
        return self

    def knows(self, side: str = 'item') -> np.ndarray:
        """bool (n,): users with training rows, and items with those or with neighbors."""
        known = self.require_fitted().known(side)
        if side == 'user':
            return known
        return known | (self.graph.degrees > 0)

    def _start(self, users: torch.Tensor) -> torch.Tensor:
        return torch.empty(len(users), self.require_fitted().n_items)

    def _propagate(self, edges, y, at, labels, n):
        items, column = at
        sums = torch.zeros_like(n).index_add_(0, column, labels)
        mean = torch.where(n > 0, sums / n.clamp(min=1), self.mean)
        # L and N beside each other, (n_items, 2 B): one product for both
        start = torch.zeros(len(y), 2 * len(n), device=y.device)
        start[at] = labels
        start[items, column + len(n)] = 1.0
        reached, count = _diffuse(edges, start, self.beta, self.n_steps).chunk(2, dim=1)
        return (reached + self.prior * mean) / (count + self.prior)
