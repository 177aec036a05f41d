"""What is known of a user's items reaches the items beside them: graphs of items, label propagation, and Correct-and-Smooth over any scorer.

Nothing is trained here: a graph and the user's training rows correct the scores that a model has made. Labels are those of training rows, on the scale of the scores:
ratings for a model of ratings; liked (1) or not (0) with `target='liked'`; positive (1) or seen but none (0) of implicit feedback."""

from __future__ import annotations

import warnings
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix, diags, issparse

from ..data.catalog import check_leakage
from ..data.columns import first_few, normal_name, plain_values
from ..data.features import Features
from ..data.interactions import Vocab
from .recommend import MEMORY_BUDGET
from .retrieval import Inner
from .scorer import Scorer

__all__ = ['ItemGraph', 'LabelPropagation', 'Refined', 'correct_and_smooth', 'item_graph']

INDEX_FROM = 20_000  # items from which neighbours are searched with an index
INDEX_DIM = 128  # dimensions to which sparse features are brought for it
PRODUCT_BUDGET = 2**26  # entries of a sparse product held at a time
BLOCK = 32  # users whose scores go through a sparse product together on a CPU: they fit its cache, with all steps
SHRINK = 100.0  # of the cosine of co-occurrence, as in `ItemKNN`


class ItemGraph:
    """Weighted edges between items, keyed by item id: symmetric, without loops.

    `ids` (pd.Index), `weights` CSR float32 (n, n), symmetric and not negative; `matrix` is `weights` with rows that sum to 1 (rows of items without neighbours are empty). `align(vocab)`
    brings it into the order of a model's codes. Graphs add up: `a + b` is the sum of their row-normalised edges, made symmetric again, so that two relations count alike.
    """

    def __init__(self, ids, weights, kind: str = 'edges', catalog=None):
        self.ids, self.kind, self.catalog = (
            pd.Index(plain_values(ids)),
            kind,
            catalog,
        )  # the catalog whose training rows it was made from, to be checked against the model's
        if weights.shape != (len(self.ids),) * 2:
            raise ValueError(f'weights of shape {weights.shape} for {len(self.ids):,} items')
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
        """`weights` with rows that sum to 1, float32 CSR (n, n); a row without neighbours is empty."""
        sums = np.asarray(self.weights.sum(1)).ravel()
        return (diags((1 / np.where(sums > 0, sums, 1)).astype(np.float32)) @ self.weights).tocsr()

    @property
    def degrees(self) -> np.ndarray:
        """Neighbours of each item: int (n,)."""
        return np.diff(self.weights.indptr)

    def __len__(self):
        return len(self.ids)

    def __repr__(self):
        return f'ItemGraph({self.kind}: {len(self):,} items, {self.weights.nnz // 2:,} edges, {self.degrees.mean():.1f} neighbours on average, {int((self.degrees == 0).sum()):,} items without)'

    def __add__(self, other):
        ids = self.ids.union(other.ids)
        a, b = (o.align(ids).matrix for o in (self, other))
        return ItemGraph(ids, a + b, f'{self.kind} + {other.kind}', self.catalog or other.catalog)

    def align(self, vocab):
        """The same with a row per code of `vocab` (a `Vocab`, or ids in the order wanted); items that the graph does not know have no neighbours."""
        ids = vocab.ids if isinstance(vocab, Vocab) else pd.Index(plain_values(vocab))
        if self.ids.equals(ids):
            return self
        at = self.ids.get_indexer(ids)
        ok = np.flatnonzero(at >= 0)
        if len(ids) and not len(ok):
            raise ValueError(
                f"no item of the model is in the graph: ids there look like {first_few(self.ids, 3)}, the model's like {first_few(ids, 3)}"
            )
        pick = csr_matrix((np.ones(len(ok), np.float32), (ok, at[ok])), shape=(len(ids), len(self)))
        return ItemGraph(ids, pick @ self.weights @ pick.T, self.kind, self.catalog)

    def neighbours(self, item, k: int = 10, catalog=None) -> pd.DataFrame:
        """The neighbours of one item with the largest weights: item, weight (and title, given a `Catalog`)."""
        if (at := self.ids.get_indexer([item])[0]) < 0:
            raise KeyError(f'no item {item!r} in the graph, whose ids look like {first_few(self.ids, 3)}')
        row = self.weights[at]
        best = np.argsort(-row.data, kind='stable')[:k]
        df = pd.DataFrame(dict(item=self.ids[row.indices[best]], weight=row.data[best]))
        if catalog is not None:
            df.insert(1, 'title', catalog.titles(catalog.vocab['item'].encode(df.item)))
        return df


def item_graph(
    source,  # `ItemFeatures`; a scorer with `vectors('item')`; (ids, vectors) or a dict id -> vector; loaders, for what is had together in training rows; or a table of edges: src, dst[, weight]
    k: int = 20,  # neighbours that each item looks for (None: all; of given edges all are kept)
    link: str = 'nearest',  # features: 'nearest' by cosine of the blocks side by side, or 'shared' labels (people, keywords) of sparse blocks
) -> ItemGraph:
    """A graph of the items, each joined to its `k` nearest; an edge that one side finds counts for both.

    - nearest: weight = cosine, where above 0. An item of which nothing is known has no neighbours.
    - shared: weight = sum over shared labels of 1 / log(items that have the label), so that a rare one says more (Adamic and Adar 2003).
    - loaders: weight = n_ij / (sqrt(n_i n_j) + 100) with n_ij the users who have both items in training rows (the shrunken cosine of `ItemKNN`).
    - edges: as given; both directions of a pair become one edge, the larger weight counts.

    Neighbours of vectors and features are exact (scikit-learn) below 20,000 items; from there on an index finds them (faiss, the extra 'ann'), for which sparse features are brought to 128 dimensions by a
    truncated SVD.
    """
    if k is not None and (int(k) != k or k < 1):
        raise ValueError(f'k={k}: at least one neighbour for each item, or None for all')
    if link not in ('nearest', 'shared'):
        raise ValueError(f"link={link!r}: 'nearest' or 'shared'")
    if link == 'shared' and not isinstance(source, Features):
        raise ValueError("link='shared' is for ItemFeatures: it asks which labels two items share")
    if isinstance(source, Features):
        names = ', '.join(source.names)
        if link == 'shared':
            return ItemGraph(source.ids, _nearest_sparse(*_shared(source), k), f'shared {names}')
        return ItemGraph(source.ids, _nearest(source.matrix(), k), f'nearest {names}')
    if isinstance(source, pd.DataFrame):
        return _of_edges(source)
    if isinstance(source, dict):
        source = (list(source), np.stack([np.asarray(o, dtype=np.float32) for o in source.values()]))
    if isinstance(source, tuple) and len(source) == 2:
        ids, x = source
        x = x if issparse(x) else np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x, dtype=np.float32)
        if x.ndim != 2 or x.shape[0] != len(ids):
            raise ValueError(f'vectors of shape {tuple(x.shape)} for {len(ids):,} ids: expected a row each')
        return ItemGraph(ids, _nearest(x, k), 'nearest vectors')
    if isinstance(source, Scorer):
        x = source.vectors('item').float().cpu().numpy().copy()
        x[~source.knows('item')] = 0  # the vector of a cold item says nothing about it
        return ItemGraph(
            source.vocab['item'].ids,
            _nearest(x, k),
            f'nearest vectors of {type(source if source.model is None else source.model).__name__}',
            source.catalog,
        )
    catalog = getattr(source, 'catalog', None)
    if catalog is None:
        raise TypeError(
            f'an item graph is made of ItemFeatures, a fitted scorer, (ids, vectors), loaders or a table of edges, got {type(source).__name__}'
        )
    seen = catalog.require_history().seen
    x = csr_matrix((np.ones(seen.nnz, np.float32), seen.indices, seen.indptr), shape=seen.shape).T.tocsr()
    root = np.sqrt(np.diff(x.indptr)).astype(np.float32)
    return ItemGraph(
        catalog.vocab['item'].ids,
        _nearest_sparse(
            x,
            x.T.tocsr(),
            k,
            lambda rows, part: part.data / (np.repeat(root[rows], np.diff(part.indptr)) * root[part.indices] + SHRINK),
        ),
        'had together',
        catalog,
    )


def _of_edges(df):
    norm = {normal_name(c): c for c in reversed(df.columns)}
    find = lambda *names: next((norm[o] for o in names if o in norm), None)
    src, dst, weight = (
        find('src', 'source', 'from'),
        find('dst', 'target', 'to', 'destination'),
        find('weight', 'weights'),
    )
    if src is None or dst is None:
        raise ValueError(
            f'a table of edges has the columns src, dst and, if they differ, weight; got {first_few(df.columns, 20)}'
        )
    if n := int(df[[src, dst]].isna().any(axis=1).sum()):
        raise ValueError(f'{n:,} of {len(df):,} edges have no {src} or no {dst}')
    ids = pd.Index(plain_values(pd.concat([df[src], df[dst]], ignore_index=True).drop_duplicates())).sort_values()
    at = [ids.get_indexer(plain_values(df[o])) for o in (src, dst)]
    values = np.ones(len(df), np.float32) if weight is None else df[weight].to_numpy(dtype=np.float32)
    if not np.isfinite(values).all() or (len(values) and values.min() < 0):
        raise ValueError(f'weights of edges (column {weight!r}) have to be finite and not negative')
    by = np.argsort(values, kind='stable')  # of repeated edges the last one assigned, the largest, stays
    keys, last = np.unique((at[0].astype(np.int64) * len(ids) + at[1])[by][::-1], return_index=True)
    return ItemGraph(
        ids, csr_matrix((values[by][::-1][last], (keys // len(ids), keys % len(ids))), shape=(len(ids),) * 2)
    )


def _shared(features):
    """-> labels of items, weighted (n, labels), and the same turned, unweighted (labels, n)."""
    if dense := [name for name, b in features.blocks.items() if not b.sparse]:
        raise ValueError(
            f"link='shared' is for labels, and {first_few(dense)} hold(s) numbers: leave out, e.g. feats[['genres']], or take link='nearest'"
        )
    x = features.matrix(unit=False)
    x.data[:] = 1
    n = np.diff(x.tocsc().indptr)
    return (x @ diags((1 / np.log(np.maximum(n, 2))).astype(np.float32))).tocsr(), x.T.tocsr()


def _nearest_sparse(x, y, k, weigh=None):
    """CSR (n, n): the `k` largest entries of each row of the sparse product x y but the diagonal; `weigh(rows, part)` gives other values. Rows go through in chunks of a fixed number of entries."""
    n = x.shape[0]
    per_row = np.asarray(
        csr_matrix((np.ones_like(x.data), x.indices, x.indptr), shape=x.shape) @ np.diff(y.indptr)
    ).ravel()  # at most so many entries
    chunk, parts = (np.cumsum(np.minimum(per_row, n)) // PRODUCT_BUDGET).astype(int), []
    for rows in np.split(np.arange(n), np.flatnonzero(np.diff(chunk)) + 1):
        part = (x[rows] @ y).tocsr()
        if weigh is not None:
            part.data = weigh(rows, part).astype(np.float32)
        part.data[part.indices == np.repeat(rows, np.diff(part.indptr))] = 0  # loops
        part.eliminate_zeros()
        keep, n_each = _top_entries(part, k)
        parts.append((np.repeat(rows, n_each), part.indices[keep], part.data[keep]))
    r, c, v = (np.concatenate(o) for o in zip(*parts))
    return csr_matrix((v, (r, c)), shape=(n, n))


def _top_entries(part, k):
    """Positions in `part.data` of the `k` largest entries of each row of a CSR matrix (ties: the first columns), and how many each row has."""
    n = np.diff(part.indptr)
    if k is None or not (n > k).any():
        return np.arange(part.nnz), n
    part.sort_indices()

    def best(row):
        if len(row) <= k:
            return np.arange(len(row))
        least = np.partition(row, len(row) - k)[len(row) - k]
        above = np.flatnonzero(row > least)
        return np.concatenate([above, np.flatnonzero(row == least)[: k - len(above)]])

    return np.concatenate([a + best(part.data[a:b]) for a, b in zip(part.indptr[:-1], part.indptr[1:])]), np.minimum(
        n, k
    )


def _nearest(x, k):
    """CSR (n, n): cosines above 0 with the `k` nearest rows of `x` (n, d), an array or CSR; rows of zeros have no neighbours."""
    from sklearn.neighbors import NearestNeighbors
    from sklearn.preprocessing import normalize

    x = normalize(x)
    at = np.flatnonzero(np.diff(x.indptr) if issparse(x) else x.any(1))
    x, n = x[at], x.shape[0]
    m = min(len(at) - 1, n if k is None else k)
    if m < 1:
        return csr_matrix((n, n), dtype=np.float32)
    if len(at) < INDEX_FROM:
        distance, found = (
            NearestNeighbors(n_neighbors=m, algorithm='brute', metric='cosine').fit(x).kneighbors()
        )  # without the items themselves
        cosine = 1 - distance
    else:
        cosine, found = _search(x, m)
    rows = np.repeat(np.arange(len(at)), found.shape[1])
    found, cosine = found.ravel(), cosine.ravel()
    keep = (found >= 0) & (cosine > 1e-6) & (found != rows)
    return csr_matrix((cosine[keep].astype(np.float32), (at[rows[keep]], at[found[keep]])), shape=(n, n))


def _search(x, k):
    """-> cosines and positions (n, k) of nearest rows of `x`, unit length, found by an index."""
    if issparse(x):
        from sklearn.decomposition import TruncatedSVD
        from sklearn.preprocessing import normalize

        if x.shape[1] > INDEX_DIM:
            x = normalize(TruncatedSVD(INDEX_DIM, random_state=0).fit_transform(x))
        else:
            x = x.toarray()
    x = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
    try:
        index = Inner(x, 'ivf')
    except ImportError as e:
        raise ImportError(
            f"neighbours among {len(x):,} items are searched with faiss: pip install 'fastrec-learn[ann]'"
        ) from e
    index.tune(x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:256]], k + 1, 0.95)
    found = torch.from_numpy(index.search(x, k + 1))  # an item finds itself
    return torch.cat(
        [torch.einsum('nd,nkd->nk', a, x[f.clamp(min=0)]) for a, f in zip(x.split(4096), found.split(4096))]
    ).numpy(), found.numpy()


class _Propagated(Scorer):
    """What scorers over a graph share: labels of training rows, products in chunks of users, pairs by way of the catalogue."""

    reads_history = True

    @cached_property
    def labels(self) -> csr_matrix:
        """Labels of training rows, float32 CSR (n_users, n_items); a stored 0 is a label."""
        catalog = self.catalog
        inter, rows = catalog.require_history().interactions, catalog.split.train
        if self.scale == 'rating':
            values = inter.ratings[rows]
        elif catalog.thresholds is not None:
            values = catalog.liked(rows)
        elif inter.weights is not None:
            values = inter.weights[rows] > 0
        else:
            raise ValueError(
                "probabilities of what? The loaders hold ratings, which are no labels: make them with target='liked' or 'implicit'"
            )
        return csr_matrix(
            (values.astype(np.float32), (inter.users[rows], inter.items[rows])),
            shape=(catalog.n_users, catalog.n_items),
        )

    def _edges(self, device):
        """Row-normalised edges as a sparse tensor (n_items, n_items); an item without neighbours has itself, so that it keeps what it has."""
        if device not in self._placed:
            m = self.graph.matrix
            m = (m + diags((np.diff(m.indptr) == 0).astype(np.float32))).tocsr()
            index = np.int32 if m.nnz < 2**31 else np.int64
            with warnings.catch_warnings():
                warnings.filterwarnings('ignore', 'Sparse (CSR tensor support|invariant checks)')
                self._placed[device] = torch.sparse_csr_tensor(
                    torch.from_numpy(m.indptr.astype(index)),
                    torch.from_numpy(m.indices.astype(index)),
                    torch.from_numpy(m.data),
                    m.shape,
                ).to(device)
        return self._placed[device]

    @cached_property
    def _placed(self):
        return {}

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k not in ('_placed', 'labels')}

    def _labelled(self, users, device):
        """-> (item, row) of the labelled entries of `users`, their values, and how many each user has (B,)."""
        part = self.labels[users.cpu().numpy()]
        n = np.diff(part.indptr)
        at = (
            torch.from_numpy(part.indices.astype(np.int64)).to(device),
            torch.from_numpy(np.repeat(np.arange(len(n)), n)).to(device),
        )
        return at, torch.from_numpy(part.data).to(device), torch.from_numpy(n.astype(np.float32)).to(device)

    def _score_chunk(self, users):
        y = self._start(users)
        device = y.device if y.device.type != 'mps' else torch.device('cpu')  # MPS has no sparse products
        edges, block = self._edges(device), BLOCK if device.type == 'cpu' else len(users)
        for part, rows in zip(
            users.split(block), y.split(block)
        ):  # a view of y, whose columns come to lie beside each other
            rows.copy_(self._propagate(edges, rows.to(device).T.contiguous(), *self._labelled(part, device)).T)
        return y

    @property
    def _step(self):
        return max(
            1, MEMORY_BUDGET // (32 * self.catalog.n_items)
        )  # scores, and (on a GPU) about seven times as much on the way to them

    def score_items(self, users):
        """Scores of all items: codes (B,) -> (B, n_items). Users go through in chunks of a fixed memory budget."""
        parts = [self._score_chunk(o) for o in torch.as_tensor(users).split(self._step)]
        return parts[0] if len(parts) == 1 else torch.cat(parts or [torch.zeros(0, self.catalog.n_items)])

    def score(self, users, items):
        """Scores of pairs of codes: (n,), (n,) -> (n,)."""
        items = torch.as_tensor(items)
        users, at = torch.unique(torch.as_tensor(users), return_inverse=True)
        res = None
        for start, part in zip(range(0, len(users), self._step), users.split(self._step)):
            scores = self._score_chunk(part)
            if res is None:
                res = torch.zeros(len(items), device=scores.device)
            mask = (at >= start) & (at < start + len(part))
            res[mask.to(res.device)] = scores[(at[mask] - start).to(res.device), items[mask].to(res.device)]
        return torch.zeros(0) if res is None else res


def _diffuse(edges, start, share, n_steps):
    """n_steps of y = (1 - share) start + share A y, from y = start (n_items, B)."""
    y = start
    for _ in range(n_steps):
        y = torch.lerp(start, edges @ y, share)
    return y


class Refined(_Propagated):
    """A scorer whose scores are corrected by the user's training labels and smoothed over a graph of items: what `correct_and_smooth` returns.

    `base` is the scorer, `graph` an `ItemGraph` in the order of its codes; `scale` is 'rating' (over a model of ratings), else 'probability'. Training rows are read when it scores.
    """

    def __init__(self, base, graph, alpha=0.8, beta=0.5, n_steps=1, mode='anchor', alpha_rows=0.0):
        self.base, self.graph, self.catalog = base, graph, base.catalog
        self.alpha, self.beta, self.n_steps, self.mode, self.alpha_rows = alpha, beta, n_steps, mode, alpha_rows
        self.scale = 'rating' if base.scale == 'rating' else 'probability'
        self.knows_cold = base.knows_cold

    def inference(self):
        return self.base.inference()

    @property
    def shows_progress(self):
        return self.base.shows_progress

    def __repr__(self):
        return f'Refined({self.base!r}, {self.graph!r}, alpha={self.alpha}, beta={self.beta}, n_steps={self.n_steps}, mode={self.mode!r})'

    def parts(self):
        """The scorer that is refined."""
        return [self.base]

    def knows(self, side: str = 'item'):
        """bool (n,): what the base knows, and items that have neighbours."""
        known = self.base.knows(side)
        if side == 'item':
            self._same_items(len(known))
        return known | (self.graph.degrees > 0 if side == 'item' else False)

    def _same_items(self, n):
        if n != len(self.graph):
            raise ValueError(
                f'the model scores {n:,} items, the graph was aligned to {len(self.graph):,}: it has taken in items since. Call correct_and_smooth again'
            )

    def sides(self) -> dict:
        """What a refinement is to be compared with: {'base': .., 'label propagation': .. (the same graph without the model), 'refined': self}, for `compare_models`."""
        return {'base': self.base, 'label propagation': LabelPropagation(self.graph).fit(self.base), 'refined': self}

    def _start(self, users):
        y = self.base.score_items(users).float()
        self._same_items(y.shape[1])
        return y.sigmoid() if self.base.scale == 'logit' else y.clamp(0, 1) if self.scale == 'probability' else y

    def _propagate(self, edges, y, at, labels, n):
        alpha = (self.alpha * n / (n + self.alpha_rows)).nan_to_num()  # 0 / 0: no history, and nothing to correct
        if self.mode == 'anchor':
            y[at] += alpha[at[1]] * (labels - y[at])
            for _ in range(self.n_steps):
                y.lerp_(edges @ y, self.beta)
        else:
            residual = torch.zeros_like(y)
            residual[at] = labels - y[at]
            y += _diffuse(edges, residual, alpha, self.n_steps)
            y[at] = labels
            y = _diffuse(edges, y, self.beta, self.n_steps)
        return y if self.scale == 'rating' else y.clamp_(0, 1)


def correct_and_smooth(
    scorer,  # a fitted learner or other `Scorer` of scale 'rating', 'logit' or 'probability'
    graph,  # an `ItemGraph`, e.g. `item_graph(feats)`
    alpha=0.8,  # how far scores of training items move to their labels ('residual': share of the neighbours' error at each step)
    beta=0.5,  # share of the neighbours at each smoothing step
    n_steps: int = 1,  # steps
    mode: str = 'anchor',  # 'anchor' or 'residual', see below
    alpha_rows: float = 0.0,  # alpha grows with the user's history: alpha n / (n + alpha_rows), with n training rows; 0: the same for all
) -> Refined:
    """A `Scorer` that corrects `scorer` by each user's training labels and smooths over `graph`; the scorer itself stays as it is. y: scores of one user, logits as probabilities; A: row-normalised graph.

    - 'anchor': y[train] += alpha (label - y[train]), then n_steps times y = (1 - beta) y + beta A y.
    - 'residual': Huang et al. 2020 (arXiv 2010.13993), one graph for all users with labels of each. Correct: E = label - y on training items, 0 elsewhere; E(t+1) = (1 - alpha) E(0) + alpha A E(t); y += E.
      Smooth: G = label on training items, y elsewhere; G(t+1) = (1 - beta) G(0) + beta A G(t). Deviations: A is row-normalised where the paper has D^-1/2 A D^-1/2, which does not leave constant scores
      constant; and the error is not rescaled, for there is one class.

    Items without neighbours keep their score (a training item its correction). Probabilities stay in [0, 1]. Only training rows are read: no label of valid or test reaches scores, graph or thresholds,
    and a graph made from another split's training rows is refused.
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
    scorer.vocab  # says so if it is not fitted
    if scorer.scale == 'rank':
        raise ValueError(
            f"{type(scorer).__name__} only ranks: its scores cannot be compared with labels. Take a model of ratings, or one that gives logits or probabilities (target='liked', or BCELoss)"
        )
    res = Refined(scorer, _checked(graph, scorer.catalog), alpha, beta, n_steps, mode, alpha_rows)
    res.labels  # errors now, not at the first score
    return res


def _checked(graph, catalog):
    """The graph in the order of the codes of `catalog`, after a look at what it was made from."""
    if not isinstance(graph, ItemGraph):
        raise TypeError(f'graph= takes an ItemGraph, made by item_graph(...), got {type(graph).__name__}')
    catalog.require_history()
    if graph.catalog is not None and graph.catalog is not catalog:
        for rows in catalog.split[1:]:
            if rows is not None:
                check_leakage(graph, catalog, rows)
    res = graph.align(catalog.vocab['item'])
    return ItemGraph(res.ids, res.weights, res.kind)  # without the catalog, which has been checked


class LabelPropagation(_Propagated):
    """No model: each user's training labels spread over the graph (Zhou et al. 2004, 'Learning with local and global consistency').

    F(t+1) = (1 - beta) F(0) + beta A F(t) for two things at once: L, the labels of training items, and N, 1 on training items; 0 elsewhere. score = (L + prior m) / (N + prior), the mean of the labels that reach an
    item, drawn to m where few do; m is the user's own mean over training labels, of a user without any the mean of all. With labels 0 and 1 and prior = 0 that is the paper's F_1 / (F_0 + F_1).
    Deviation: A is row-normalised where the paper has D^-1/2 W D^-1/2.
    """

    def __init__(
        self,
        graph,  # an `ItemGraph`
        beta: float = 0.8,  # share of the neighbours at each step
        n_steps: int = 10,
        prior: float = 0.01,  # what the user's mean counts, as N does; above 0
    ):
        if not 0 <= beta < 1:
            raise ValueError(f'beta={beta}: a share from 0 to below 1')
        if not prior > 0:
            raise ValueError(f'prior={prior}: above 0, for items that no label reaches')
        self.graph, self.beta, self.n_steps, self.prior = graph, beta, n_steps, prior

    def fit(self, dls):
        """Take the labels of the training rows of `dls` (loaders, or a scorer fitted to them); returns self."""
        self.catalog = dls.catalog
        self.graph = _checked(self.graph, self.catalog)
        rates = (isinstance(dls, Scorer) and dls.scale == 'rating') or (
            self.catalog.thresholds is None and self.catalog.interactions.weights is None
        )
        self.scale = 'rating' if rates else 'probability'
        self.mean = float(self.labels.data.mean())
        return self

    def knows(self, side: str = 'item'):
        """bool (n,): users with training rows, and items with those or with neighbours."""
        return self.catalog.known(side) | (self.graph.degrees > 0 if side == 'item' else False)

    def _start(self, users):
        return torch.empty(len(users), self.catalog.n_items)

    def _propagate(self, edges, y, at, labels, n):
        mean = torch.where(n > 0, torch.zeros_like(n).index_add_(0, at[1], labels) / n.clamp(min=1), self.mean)
        start = torch.zeros(len(y), 2 * len(n), device=y.device)
        start[at], start[at[0], at[1] + len(n)] = labels, 1.0
        reached, count = _diffuse(edges, start, self.beta, self.n_steps).chunk(2, dim=1)
        return (reached + self.prior * mean) / (count + self.prior)
