"""Dot products of vectors that sum what users and items have in the training rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix

from ..data.block import Block
from .base import over_items
from .blocks import FeatureLinear, unique_rows
from .context import Levels, TimeDependentBias
from .dot import DotBias, dot_bias
from .embedding import EmbeddingTable

__all__ = ['SVDpp']

# The L2 of a row counts SHARE * (its number of ratings)^-POWER for each of them. SHARE makes that 1 on average over the
# ratings of ml-latest-small, where the decays were chosen; tables with more ratings a row get less.
POWER = 0.75
SHARE = dict(user=44.0, item=6.2)
# A product with the whole history costs less per entry than picking entries, by about this factor; by less where the
# history is long and what it picks from no longer fits the cache.
PICK_COST = 6
PICK_COST_LONG = 2
LONG = 2**22  # entries of a long history


class SparseProduct(torch.autograd.Function):
    """a @ x for a sparse CSR matrix that comes with its transpose; x (n, k) has the gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, a: torch.Tensor, transposed: torch.Tensor) -> torch.Tensor:
        """The product."""
        ctx.transposed = transposed
        return a @ x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        """The gradient of x."""
        return ctx.transposed @ grad.contiguous(), None, None


def sum_of_products(
    terms: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],  # x (m, k), values (nnz,), values of the transpose
    structure: tuple[torch.Tensor, torch.Tensor],  # indptr and indices of every matrix
    transposed: tuple[torch.Tensor, torch.Tensor],  # of their transposes
    shape: tuple[int, int],  # (n, m)
) -> torch.Tensor:
    """The sum over terms of the product of a sparse matrix with x: (n, k)."""
    with catch_warnings():
        simplefilter('ignore')  # torch calls its CSR tensors beta
        return sum(
            SparseProduct.apply(
                x,
                torch.sparse_csr_tensor(*structure, values, shape),
                torch.sparse_csr_tensor(*transposed, turned, shape[::-1]),
            )
            for x, values, turned in terms
        )


def residuals_of(history: csr_matrix, damping: tuple[float, float] = (5.0, 10.0), rounds: int = 5) -> np.ndarray:
    """Ratings less mean and biases, over the standard deviation of the ratings: float32 (nnz,).

    Biases are means of what is left, with `damping` ratings of 0 for users and items; they take turns `rounds` times.
    """
    n_users, n_items = history.shape
    ratings = history.data.astype(np.float64)
    items = history.indices
    users: np.ndarray = np.repeat(np.arange(n_users), np.diff(history.indptr))
    user_weight = np.bincount(users, minlength=n_users) + damping[0]
    item_weight = np.bincount(items, minlength=n_items) + damping[1]
    std = ratings.std() if len(ratings) else 1.0
    if len(ratings):
        ratings = ratings - ratings.mean()
    bu = np.zeros(n_users)
    bi = np.zeros(n_items)
    for _ in range(rounds):
        bi = np.bincount(items, ratings - bu[users], n_items) / item_weight
        bu = np.bincount(users, ratings - bi[items], n_users) / user_weight
    return ((ratings - bu[users] - bi[items]) / max(std, 1e-9)).astype(np.float32)


class Term(NamedTuple):
    """One of the sums over histories: rows of `table`, each times a value of its entry."""

    table: EmbeddingTable
    weighted: bool  # by residuals? Else all values are 1
    values: torch.Tensor  # float32 (nnz,), in the order of the side whose histories are summed
    turned: torch.Tensor  # the same in the order of the other side
    decay: float  # L2 of the rows of `table` alone, as a multiple of that of the sums


def other_side(side: str) -> str:
    """'item' for 'user', 'user' for 'item'."""
    return 'item' if side == 'user' else 'user'


class SVDpp(DotBias):
    """`DotBias` whose user vector adds what the user has in the training rows: p_u + |N(u)|^-1/2 sum_{j in N(u)} y_j.

    With `item_side` the item's adds who has it: q_i + |N(i)|^-1/2 sum_{v in N(i)} z_v.

    Koren, 'Factorization Meets the Neighborhood', KDD 2008, eq. 15, in N(u) all training items of the user; Rendle,
    'Scaling Factorization Machines to Relational Data', VLDB 2013, and myFM call the symmetric form 'SVD++ flipped'.
    Deviations:

    - The sums are over |N|^norm, by default the paper's square root; of implicit feedback 0.4 ranks better, where long
      histories say more.
    - With `residuals` the sums also have r_uj y'_j and r_vi z'_v, where r are the training ratings less damped biases,
      over their standard deviation (as in Koren's eq. 16): what a user likes, not only what a user rated. With these
      sums little is left for p and q to learn.
    - With `leave_one_out`, in training a pair (u, i) is scored without i in N(u) and u in N(i): a row to predict has no
      such entry at test time, and a model that finds one in its input learns from it what it cannot use.
    - In training a share `dropout` of each history is left out at random (what stays is scaled up), as in a denoising
      autoencoder (Liang et al. 2018).
    - The L2 per observed row is taken of the sums p_u + ... and q_i + ..., and besides, times `own_decay`, of p_u and
      q_i alone, times `history_decay`, of z_u and y_i, and, times `residual_decay`, of z'_u and y'_i. In these a row
      counts its number of ratings^-3/4, times `SHARE`: between a term per rating (ALS-WR) and one per user or item, as
      a Gaussian prior has.
    - A cold user or item has the mean of the known p or q, and in the place of the sum the mean of the known sums. An
      empty sum would not be the average one: item vectors and mean are fitted to users who have sums.
    - Side features are further factors, as in a factorization machine (Rendle 2010): with `item_blocks` q_i and b_i add
      W x_i, x the item's feature row, with `user_blocks` p_u and b_u. Their L2 is that of p and q, times
      `feature_decay` in the place of `own_decay`, and the biases of one's own, which otherwise have none, have it times
      `bias_decay`. A cold item is scored by its features, on top of the mean of what the known ones have besides.
    - Context (see `Levels`): vectors and biases of the levels of its columns, on the user's side; with `times` the
      user's `TimeDependentBias` at the time, which is the column of the context whose size is 0.

    The sums are made for the whole table by one sparse product, or for the users and items of the batch where they have
    but a small part of it. The history is held as CSR both ways (`indptr, indices` by user, `item_indptr,
    item_indices`); it is not part of the state.
    """

    item_indptr: torch.Tensor  # int32 (n_items + 1,)

    def __init__(
        self,
        n_users: int,  # how many users
        n_items: int,  # how many items
        history: csr_matrix,  # (n_users, n_items): stored entries are N(u)
        n_factors: int = 50,  # length of the vectors
        dropout: float = 0.0,  # share of the history left out at each step of training
        std: float = 0.01,  # factors start as N(0, std)
        norm: float = 0.5,  # a sum over n entries is divided by n^norm
        item_side: bool = False,  # sums for items, too
        residuals: bool = False,  # sums weighted by residuals, too; then the entries of `history` are ratings
        leave_one_out: bool = False,  # score a training pair without itself in the histories
        own_decay: float = 1.0,  # L2 of p and q, as a multiple of that of the sums
        history_decay: float = 0.0,  # L2 of y and z, the same
        residual_decay: float = 0.0,  # L2 of y' and z', the same
        user_blocks: dict[str, Block] | None = None,  # user features by name, rows in the order of codes
        item_blocks: dict[str, Block] | None = None,  # the same of items
        feature_decay: float = 1.0,  # L2 of what features add, as a multiple of that of the sums
        bias_decay: float = 0.0,  # L2 of biases, the same
        times: csr_matrix | None = None,  # int64 (n_users, n_items), as `history`: when each rating was
        **kwargs: Any,  # of `DotBias`
    ) -> None:
        super().__init__(n_users, n_items, n_factors, std=std, **kwargs)
        self.dropout = dropout
        self.norm = norm
        self.item_side = item_side
        self.residuals = residuals
        self.leave_one_out = leave_one_out
        self.history_decay = history_decay
        self.residual_decay = residual_decay
        self.bias_decay = bias_decay
        self.feature_decay = feature_decay
        self.user_factors.decay = own_decay
        self.item_factors.decay = own_decay
        self._kept: dict[str, tuple] = {}  # side -> (versions of what it is made of, `_whole`), between trainings
        self._add_sums(n_users, n_items, n_factors, std)
        self.user_features = self._layer_over(user_blocks, self.user_factors, std)
        self.item_features = self._layer_over(item_blocks, self.item_factors, std)
        self._add_history(history.tocsr().sorted_indices(), None if times is None else times.tocsr().sorted_indices())

    def _add_sums(self, n_users: int, n_items: int, n_factors: int, std: float) -> None:
        """Tables of the vectors that histories sum.

        Those of y and z also carry the L2 of the sums, so that it is not 0 even if `history_decay` is.
        """

        def table(side: str, decay: float = 1.0) -> EmbeddingTable:
            n = n_users if side == 'user' else n_items
            return EmbeddingTable(n, n_factors, self._own(side).known, std, decay)

        residual_share = 1.0 if self.residual_decay else 0.0  # 0: no L2 is taken of these
        self.history_factors = table('item')  # y
        if self.residuals:
            self.residual_factors = table('item', residual_share)  # y'
        if self.item_side:
            self.rater_factors = table('user')  # z
        if self.item_side and self.residuals:
            self.rater_residual_factors = table('user', residual_share)  # z'

    @staticmethod
    def _layer_over(blocks: dict[str, Block] | None, table: EmbeddingTable, std: float) -> FeatureLinear | None:
        """What features add to the vectors and, last column, biases of `table`; the model takes its L2."""
        if blocks is None:
            return None
        layer = FeatureLinear(blocks, table.embedding_dim + 1, table.known, std)
        layer.penalized = True
        return layer

    def _add_history(self, history: csr_matrix, times: csr_matrix | None) -> None:
        """Buffers of the history both ways, of what its entries say and of when they were; none is in the state."""
        n_users, n_items = history.shape
        if times is not None and (times.nnz != history.nnz or 0 not in self.context_sizes):
            raise ValueError('times have to be those of the history, and their column in context_sizes a 0')
        needs_residuals = self.residuals or times is not None
        residuals = residuals_of(history) if needs_residuals else None
        self.time_bias = None
        self.reads_times = times is not None
        if times is not None:
            assert residuals is not None
            self.time_bias = TimeDependentBias(times, residuals)
            self._keep('times', times.data.astype(np.int64))
        values = residuals if self.residuals else np.ones(history.nnz, np.float32)
        by_user = csr_matrix((values, history.indices, history.indptr), shape=history.shape)
        for prefix, matrix in (('', by_user), ('item_', by_user.T.tocsr())):
            self._keep(f'{prefix}indptr', matrix.indptr.astype(np.int32))
            self._keep(f'{prefix}indices', matrix.indices.astype(np.int32))
            if self.residuals:
                self._keep(f'{prefix}residual', matrix.data)
        self._keep('ones', np.ones(history.nnz, np.float32))
        self._keep('ratings', history.data.astype(np.float32) if needs_residuals else None)
        if self.leave_one_out:
            users: np.ndarray = np.repeat(np.arange(n_users, dtype=np.int64), np.diff(history.indptr))
            self._keep('pairs', users * n_items + history.indices)  # sorted

    def _keep(self, name: str, values: np.ndarray | None) -> None:
        """Register values of the history as a buffer that is not part of the state."""
        self.register_buffer(name, None if values is None else torch.from_numpy(values), persistent=False)

    def config(self) -> dict:
        """Arguments that make a model of this shape; the history is one of them."""
        return dict(
            super().config(),
            history=self._matrix(self.ones if self.ratings is None else self.ratings),
            times=None if self.time_bias is None else self._matrix(self.times),
            user_blocks=None if self.user_features is None else self.user_features.blocks(),
            item_blocks=None if self.item_features is None else self.item_features.blocks(),
            dropout=self.dropout,
            norm=self.norm,
            item_side=self.item_side,
            residuals=self.residuals,
            leave_one_out=self.leave_one_out,
            own_decay=self.user_factors.decay,
            history_decay=self.history_decay,
            residual_decay=self.residual_decay,
            feature_decay=self.feature_decay,
            bias_decay=self.bias_decay,
        )

    def _matrix(self, values: torch.Tensor) -> csr_matrix:
        """A matrix (n_users, n_items) with the structure of the history and `values` (nnz,)."""
        parts = tuple(o.cpu().numpy() for o in (values, self.indices, self.indptr))
        return csr_matrix(parts, shape=(len(self.indptr) - 1, self.item_factors.num_embeddings))

    def train(
        self,
        mode: bool = True,  # True: for training; False: to be read
    ) -> SVDpp:
        """As of any module; sums that were kept for reading are dropped before training and after it."""
        if mode or (self.training and not self.is_view):
            self._kept = {}
        return super().train(mode)

    # --- the parts of a side, 'user' or 'item'

    def _own(self, side: str) -> EmbeddingTable:
        """p or q."""
        return self.user_factors if side == 'user' else self.item_factors

    def _own_biases(self, side: str) -> EmbeddingTable:
        return self.user_biases if side == 'user' else self.item_biases

    def _layer(self, side: str) -> FeatureLinear | None:
        """What features add."""
        return self.user_features if side == 'user' else self.item_features

    def _csr(self, side: str) -> tuple[torch.Tensor, torch.Tensor]:
        """indptr and indices of the history by side."""
        return (self.indptr, self.indices) if side == 'user' else (self.item_indptr, self.item_indices)

    def _has_sums(self, side: str) -> bool:
        return side == 'user' or self.item_side

    def _terms(self, side: str) -> Iterator[Term]:
        """The sums over histories that vectors of the side add."""
        if side == 'user':
            yield Term(self.history_factors, False, self.ones, self.ones, self.history_decay)
            if self.residuals:
                yield Term(self.residual_factors, True, self.residual, self.item_residual, self.residual_decay)
        elif self.item_side:
            yield Term(self.rater_factors, False, self.ones, self.ones, self.history_decay)
            if self.residuals:
                yield Term(self.rater_residual_factors, True, self.item_residual, self.residual, self.residual_decay)

    def counts(
        self,
        side: str,  # 'user' or 'item'
    ) -> torch.Tensor:
        """Entries in the history of each 'user' or 'item', int32 (n,)."""
        indptr, _ = self._csr(side)
        return indptr[1:] - indptr[:-1]

    def _scale(self, counts: torch.Tensor) -> torch.Tensor:
        """|N|^-norm."""
        return counts.clamp(min=1).float() ** -self.norm

    # --- sums over histories

    def _all_sums(self, side: str) -> torch.Tensor:
        """|N|^-norm sum over N for all users or items, (n, n_factors), by products with the whole history."""
        mine = self._csr(side)
        other = self._csr(other_side(side))
        terms = [(term.table.weight, term.values, term.turned) for term in self._terms(side)]
        total = sum_of_products(terms, mine, other, (len(mine[0]) - 1, len(other[0]) - 1))
        return total * self._scale(self.counts(side))[:, None]

    def _picked_sums(self, side: str, codes: torch.Tensor) -> torch.Tensor:
        """The same of codes (B,), all different, with entries dropped out: (B, n_factors), of their entries alone."""
        indptr, indices = self._csr(side)
        counts = self.counts(side)[codes].long()
        ends = counts.cumsum(0)  # of each code's entries among those picked
        starts = ends - counts
        row = torch.repeat_interleave(torch.arange(len(codes), device=codes.device), counts)
        entry = torch.arange(len(row), device=codes.device) + (indptr[codes].long() - starts)[row]
        columns = indices[entry]
        weights = self._scale(counts)[row]
        if self.training and self.dropout:
            weights = weights * (torch.rand_like(weights) > self.dropout) / (1 - self.dropout)
        terms = [
            (term.table.weight, weights * term.values[entry] if term.weighted else weights)
            for term in self._terms(side)
        ]
        if codes.is_cuda:
            return sum(
                F.embedding_bag(columns.long(), table, starts, mode='sum', per_sample_weights=w) for table, w in terms
            )
        # two sparse products: the gradient of `embedding_bag` costs six times as much
        shape = len(codes), len(terms[0][0])
        bounds = F.pad(ends, (1, 0)).int()
        place: np.ndarray = np.arange(len(entry), dtype=np.int32)
        by_column = csr_matrix((place, columns.numpy(), bounds.numpy()), shape=shape).tocsc()
        transposed = torch.from_numpy(by_column.indptr), torch.from_numpy(by_column.indices)
        order = torch.from_numpy(by_column.data)
        return sum_of_products([(table, w, w[order]) for table, w in terms], (bounds, columns), transposed, shape)

    def _sums_of(self, side: str, codes: torch.Tensor) -> torch.Tensor:
        """Sums in training: codes (...) -> (..., n_factors), the cheaper way."""
        if not self.dropout and codes.is_cuda:
            return F.embedding(codes, self._all_sums(side))
        different, at = codes.unique(return_inverse=True)
        n_entries = len(self.indices)
        cost = PICK_COST if n_entries < LONG else PICK_COST_LONG
        if self.dropout or cost * int(self.counts(side)[different].sum()) < n_entries:
            return F.embedding(at, self._picked_sums(side, different))
        return F.embedding(codes, self._all_sums(side))

    # --- vectors and biases

    def _whole(self, side: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors (n, n_factors) and biases (n, 1) of all users or items; kept while they are only read."""
        if self.training:
            self._kept.clear()  # whoever scores between two steps must not get what was worked out before
        if torch.is_grad_enabled() or self.training:
            return self._work_out(side)
        versions = self._versions(side)
        if side not in self._kept or self._kept[side][0] != versions:
            self._kept[side] = versions, self._work_out(side)
        return self._kept[side][1]

    def _work_out(self, side: str) -> tuple[torch.Tensor, torch.Tensor]:
        """What `_whole` keeps."""
        own = self._own(side)
        x = own.weight
        b = self._own_biases(side).weight
        if self._has_sums(side):
            x = x + self._known_sums(side)
        layer = self._layer(side)
        if layer is not None:
            more = layer()
            x = x + more[:, :-1]
            b = b + more[:, -1:]
        return x, b

    def _known_sums(self, side: str) -> torch.Tensor:
        """`_all_sums`, and of cold rows the mean of the sums there are; in a step of training 0."""
        sums = self._all_sums(side)
        known = self._own(side).known
        if self.training and torch.is_grad_enabled():
            return sums * known[:, None]
        has_sum = known & (self.counts(side) > 0)
        if not has_sum.any():
            return sums * known[:, None]
        return torch.where(known[:, None], sums, sums[has_sum].mean(0))

    def _versions(self, side: str) -> tuple:
        """What changes when one of the parameters does that vectors and biases are made of, or they move."""
        layer = self._layer(side)
        parameters = [self._own(side).weight, self._own_biases(side).weight]
        parameters += [term.table.weight for term in self._terms(side)]
        if layer is not None:
            parameters += layer.parameters()
        return (*(p._version for p in parameters), parameters[0].device)

    def _rows_of(self, side: str, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors (..., n_factors) and biases (..., 1) of codes (...); in training their L2 is taken."""
        if not self.training:
            x, b = self._whole(side)
            return F.embedding(codes, x), F.embedding(codes, b)
        self._kept.clear()  # as in `_whole`
        own = self._own(side)
        x = F.embedding(codes, own.weight)
        b = self._own_biases(side)(codes)
        share = self._shares(side)[codes]
        self._penalise(own, x, share)
        if self.bias_decay:
            self._penalise(self.history_factors, b, share * self.bias_decay)
        if self._has_sums(side):
            x = x + self._sums_of(side, codes)
        layer = self._layer(side)
        if layer is None:
            return x, b
        more = unique_rows(layer, codes)
        if self.feature_decay:
            self._penalise(self.history_factors, more, share * self.feature_decay)
        return x + more[..., :-1], b + more[..., -1:]

    def _without_each_other(
        self, users: torch.Tensor, items: torch.Tensor, p: torch.Tensor, q: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors of pairs, (B, n_factors) each, without the one in the history of the other."""
        key = users * len(self.item_factors.weight) + items
        at = torch.searchsorted(self.pairs, key).clamp(max=len(self.pairs) - 1)
        in_history = self.pairs[at] == key
        for part in self._parts_of('user', users, items, at, in_history):
            p = p - part
        for part in self._parts_of('item', items, users, at, in_history):
            q = q - part
        return p, q

    def _parts_of(
        self, side: str, mine: torch.Tensor, other: torch.Tensor, at: torch.Tensor, in_history: torch.Tensor
    ) -> Iterator[torch.Tensor]:
        """What the entries `at` (B,) of the history by user add to vectors of the side, for each sum: (B, n_factors).

        0 where the pair is not in the history.
        """
        for term in self._terms(side):
            scale = in_history * self._scale(self.counts(side)[mine])
            if term.weighted:
                scale = scale * self.residual[at]
            yield F.embedding(other, term.table.weight) * scale[:, None]

    # --- L2

    def _shares(self, side: str) -> torch.Tensor:
        """What a row's L2 counts for each of its ratings, (n,)."""
        return SHARE[side] * self.counts(side).clamp(min=1).float() ** -POWER

    def _penalise(self, table: EmbeddingTable, rows: torch.Tensor, share: torch.Tensor | None = None) -> None:
        """In training, the L2 of `rows` (..., k) by that of `table`, each row times its `share` (...)."""
        if table.l2 and self.training:
            table.penalise(rows, share)

    def _penalise_history(self, users: torch.Tensor, items: torch.Tensor) -> None:
        """The L2 of the vectors that histories sum: of the rows that belong to the items and users themselves."""
        for side, codes in (('user', items), ('item', users)):
            for term in self._terms(side):
                if term.decay:
                    share = self._shares(other_side(side))[codes] * term.decay
                    self._penalise(term.table, F.embedding(codes, term.table.weight), share)

    # --- what `DotBias` has

    def forward(
        self, users: torch.Tensor, items: torch.Tensor | None = None, context: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores of pairs; arguments and shapes as in `DotBias`."""
        if items is None:
            return self.score_items(users, context)
        p, bu = self._rows_of('user', users)
        q, bi = self._rows_of('item', items)
        if self.training:
            if self.leave_one_out and items.dim() == 1:
                p, q = self._without_each_other(users, items, p, q)
            self._penalise(self.history_factors, p)
            if self.item_side:
                self._penalise(self.rater_factors, q)
            self._penalise_history(users, items)
        p, bu = self._in_context(users, context, p, bu)
        x = dot_bias(self.mean, over_items(bu, items), bi, over_items(p, items), q)
        if self.time_bias is not None and context is not None:
            x = x + self.time_bias(users, items, self._times_in(context))
        return self.in_range(x)

    def score_items(self, users: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """Scores of the whole catalogue: (B,)[, context (B, columns)] -> (B, n_items)."""
        p, bu = self._rows_of('user', users)
        q, bi = self._whole('item')
        p, bu = self._in_context(users, context, p, bu)
        x = p @ q.T + bu + bi.T + self.mean
        if self.time_bias is not None and context is not None:
            x = x + self.time_bias.all_items(users, self._times_in(context), len(q))
        return self.in_range(x)

    def _times_in(self, context: torch.Tensor) -> torch.Tensor:
        """The column of times: (B, columns) -> (B,)."""
        return context[:, self.context_sizes.index(0)]

    def user_vectors(self, users: torch.Tensor) -> torch.Tensor:
        """What is multiplied with item vectors for `users`: (...) -> (..., n_factors)."""
        return self._rows_of('user', users)[0]

    def item_vectors(
        self,
        items: torch.Tensor,  # codes of items, int64, any shape
    ) -> torch.Tensor:
        """What is multiplied with user vectors for `items`: (...) -> (..., n_factors)."""
        return self._rows_of('item', items)[0]

    def ranking_items(self) -> torch.Tensor:
        """As in `DotBias`: (n_items, n_factors + 1)."""
        return torch.cat(self._whole('item'), 1)

    @torch.no_grad()
    def vectors(self, side: str) -> torch.Tensor:
        """Detached vectors, (n, n_factors), of 'user' or 'item', history and features included.

        Of users those without context.
        """
        return self._whole(side)[0].detach() + self._out_of_context(side)[0]

    @torch.no_grad()
    def biases(self, side: str) -> torch.Tensor:
        """Detached biases, (n,), of 'user' or 'item', features included; of users those without context."""
        return self._whole(side)[1].detach().squeeze(-1) + self._out_of_context(side)[1]

    @torch.no_grad()
    def carried(self, user: torch.Tensor, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As in `RecModel`: of each j in N(u), |N(u)|^-norm (y_j + r_uj y'_j) . q_i; without context."""
        mine = slice(int(self.indptr[user]), int(self.indptr[user + 1]))
        codes = self.indices[mine].long()
        terms = torch.zeros(len(codes), self.history_factors.embedding_dim, device=codes.device)
        for term in self._terms('user'):
            values = term.values[mine, None] if term.weighted else 1.0
            terms = terms + values * term.table.weight[codes]
        terms = terms * self._scale(self.counts('user'))[user]
        q, b = (rows[items] for rows in self._whole('item'))
        p, user_bias = self.vectors('user')[user], self.biases('user')[user]
        return codes, terms @ q.T, q @ p + b.squeeze(1) + user_bias + self.mean

    def feature_layers(self, side: str) -> tuple[FeatureLinear, ...]:
        """The layers that read features of 'user' or 'item' (`side`); none where it reads none."""
        layer = self._layer(side)
        return () if layer is None else (layer,)

    def add_items(self, blocks: dict[str, Block]) -> None:
        """Further items, by their features alone; their codes come after those there are.

        `TypeError` where the model reads no features of items.
        """
        if self.item_features is None:
            raise TypeError(
                'this model knows items by their ratings alone, so it can say nothing about new ones. '
                'Make it with item_features='
            )
        n = len(next(iter(blocks.values())))
        self.item_features.add_rows(blocks)
        summed = [term.table for term in self._terms('user')]
        for table in (self.item_factors, self.item_biases, *summed):
            table.add_rows(n)
        self.item_indptr = torch.cat([self.item_indptr, self.item_indptr[-1:].expand(n)])
        if self.leave_one_out:
            users = torch.arange(len(self.indptr) - 1, device=self.indptr.device)
            rows = torch.repeat_interleave(users, self.counts('user').long())
            self.pairs = rows * self.item_factors.num_embeddings + self.indices
        self._kept = {}

    @torch.no_grad()
    def without_history(self) -> DotBias:
        """The same scores from a `DotBias` whose vectors are worked out once and for all: what can be given away.

        A user's bias at a time, which is made of the user's history, it does not have.
        """
        for table in self.tables:
            table.fill_cold()
        user_vectors, user_biases = self._whole('user')
        item_vectors, item_biases = self._whole('item')
        res = DotBias.from_vectors(
            user_vectors, item_vectors, user_biases.squeeze(1), item_biases.squeeze(1), self.intercept(), self.y_range
        )
        res.context_sizes = list(self.context_sizes)
        if self.levels is not None:
            res.levels = Levels(self.context_sizes, self.item_factors.embedding_dim).to(user_vectors.device)
            res.levels.load_state_dict(self.levels.state_dict())
        return res.train(self.training)
