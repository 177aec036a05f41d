"""Dot products of vectors that sum what users and items have in the training rows."""

from __future__ import annotations

from warnings import catch_warnings, simplefilter

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix

from .blocks import FeatureLinear, unique_rows
from .context import TimeDependentBias
from .dot import DotBias
from .embedding import EmbeddingTable

__all__ = ['SVDpp']

POWER, SHARE = (
    0.75,
    dict(user=44.0, item=6.2),
)  # makes the count^-POWER of a row 1 on average over the ratings of ml-latest-small, where the decays were chosen; tables with more ratings a row get less
FEW, FEW_OF_MANY, MANY = (
    6,
    2,
    2**22,
)  # a product with the whole history costs less per entry than picking entries, by about this factor; by less where the history is long and what it picks from no longer fits the cache


class _Product(torch.autograd.Function):
    """a @ x for a sparse CSR matrix that comes with its transpose; x (n, k) has the gradient."""

    @staticmethod
    def forward(ctx, x, a, transposed):
        ctx.transposed = transposed
        return a @ x

    @staticmethod
    def backward(ctx, grad):
        return ctx.transposed @ grad.contiguous(), None, None


def residuals_of(history, damping=(5.0, 10.0), rounds: int = 5):
    """Ratings (scipy CSR) less mean and biases, over the standard deviation of the ratings: float32 (nnz,). Biases are means of what is left, with `damping` ratings of 0 for users and items."""
    r, items = history.data.astype(np.float64), history.indices
    users = np.repeat(np.arange(history.shape[0]), np.diff(history.indptr))
    n_users, n_items = (np.bincount(o, minlength=m) for o, m in zip((users, items), history.shape))
    bu, bi, r, std = (
        np.zeros(history.shape[0]),
        np.zeros(history.shape[1]),
        r - r.mean() if len(r) else r,
        r.std() if len(r) else 1.0,
    )
    for _ in range(rounds):
        bi = np.bincount(items, r - bu[users], len(bi)) / (n_items + damping[1])
        bu = np.bincount(users, r - bi[items], len(bu)) / (n_users + damping[0])
    return ((r - bu[users] - bi[items]) / max(std, 1e-9)).astype(np.float32)


class SVDpp(DotBias):
    """`DotBias` whose user vector adds what the user has in the training rows: p_u + |N(u)|^-1/2 sum_{j in N(u)} y_j; with `item_side` the item's adds who has it: q_i + |N(i)|^-1/2 sum_{v in N(i)} z_v.

    Koren, 'Factorization Meets the Neighborhood', KDD 2008, eq. 15, in N(u) all training items of the user; Rendle, 'Scaling Factorization Machines to
    Relational Data', VLDB 2013, and myFM call the symmetric form 'SVD++ flipped'. Deviations:

    - The sums are over |N|^norm, by default the paper's square root; of implicit feedback 0.4 ranks better, where long histories say more.
    - With `residuals` the sums also have r_uj y'_j and r_vi z'_v, where r are the training ratings less damped biases, over their standard deviation (as in Koren's eq. 16): what a user likes, not only what a
      user rated. With these sums little is left for p and q to learn.
    - With `leave_one_out`, in training a pair (u, i) is scored without i in N(u) and u in N(i): a row to predict has no such entry at test time, and a model that finds
      one in its input learns from it what it cannot use.
    - In training a share `dropout` of each history is left out at random (what stays is scaled up), as in a denoising autoencoder (Liang et al. 2018).
    - The L2 per observed row is taken of the sums p_u + ... and q_i + ..., and besides, times `own_decay`, of p_u and q_i alone times `history_decay`, of z_u and y_i, and, times `residual_decay`, of z'_u and y'_i. In these
      a row counts its number of ratings^-3/4, times `SHARE`: between a term per rating (ALS-WR) and one per user or item, as a Gaussian prior has.
    - A cold user or item has the mean of the known p or q, and an empty sum.
    - Side features are further factors, as in a factorisation machine (Rendle 2010): with `item_blocks` q_i and b_i add W x_i, x the item's feature row, with `user_blocks` p_u and b_u. Their L2 is that of p and q,
      times `feature_decay` in the place of `own_decay`, and the biases of one's own, which otherwise have none, have it times `bias_decay`. A cold item is scored by its features.
    - Context (see `Levels`): vectors and biases of the levels of its columns, on the user's side; with `times` the user's `TimeDependentBias` at the time.

    The sums are made for the whole table by one sparse product, or for the users and items of the batch where they have but a small part of it. The history is held as CSR both
    ways (`indptr, indices` by user, `item_indptr, item_indices`); it is no part of the state.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        history,  # scipy CSR (n_users, n_items): stored entries are N(u)
        n_factors: int = 50,
        dropout: float = 0.0,  # share of the history left out at each step of training
        std: float = 0.01,  # factors start as N(0, std)
        norm: float = 0.5,  # a sum over n entries is divided by n^norm
        item_side: bool = False,  # sums for items, too
        residuals: bool = False,  # sums weighted by residuals, too; then the entries of `history` are ratings
        leave_one_out: bool = False,  # score a training pair without itself in the histories
        own_decay: float = 1.0,  # L2 of p and q, as a multiple of that of the sums
        history_decay: float = 0.0,  # L2 of y and z, the same
        residual_decay: float = 0.0,  # L2 of y' and z', the same
        user_blocks: dict = None,  # name -> `Block` of user features, rows in the order of codes
        item_blocks: dict = None,  # the same of items
        feature_decay: float = 1.0,  # L2 of what features add, as a multiple of that of the sums
        bias_decay: float = 0.0,  # L2 of biases, the same
        times=None,  # scipy CSR of the structure of `history`: when each rating was, int64; then one column of the context, of size 0, is the time
        **kwargs,  # of `DotBias`
    ):
        super().__init__(n_users, n_items, n_factors, std=std, **kwargs)
        self.dropout, self.norm, self.item_side, self.residuals, self.leave_one_out, self._sums = (
            dropout,
            norm,
            item_side,
            residuals,
            leave_one_out,
            {},
        )
        self.history_decay, self.residual_decay = history_decay, residual_decay
        of_items, of_users = (
            lambda: EmbeddingTable(n_items, n_factors, self.item_factors.known, std),
            lambda: EmbeddingTable(n_users, n_factors, self.user_factors.known, std),
        )
        self.history_factors = of_items()  # y
        if residuals:
            self.residual_factors = of_items()  # y'
        if item_side:
            self.rater_factors = of_users()  # z
        if item_side and residuals:
            self.rater_residual_factors = of_users()  # z'
        self.user_factors.decay = self.item_factors.decay = own_decay
        self.bias_decay, self.feature_decay = bias_decay, feature_decay
        self.user_features, self.item_features = (
            None if b is None else FeatureLinear(b, n_factors + 1, t.known, std)
            for b, t in ((user_blocks, self.user_factors), (item_blocks, self.item_factors))
        )
        for layer in (self.user_features, self.item_features):
            if layer is not None:
                layer.penalised = True
        history = history.tocsr().sorted_indices()
        values = residuals_of(history) if residuals else np.ones(history.nnz, np.float32)
        self.time_bias = (
            None
            if times is None
            else TimeDependentBias(times.tocsr().sorted_indices(), values if residuals else residuals_of(history))
        )
        if times is not None and (times.nnz != history.nnz or 0 not in self.context_sizes):
            raise ValueError('times have to be those of the history, and their column in context_sizes a 0')
        if times is not None:
            self.register_buffer(
                'times', torch.from_numpy(times.tocsr().sorted_indices().data.astype(np.int64)), persistent=False
            )
        by_user = csr_matrix((values, history.indices, history.indptr), shape=history.shape)
        for prefix, matrix in (('', by_user), ('item_', by_user.T.tocsr())):
            for name in ('indptr', 'indices'):
                self.register_buffer(
                    prefix + name, torch.from_numpy(getattr(matrix, name).astype(np.int32)), persistent=False
                )
            if residuals:
                self.register_buffer(prefix + 'residual', torch.from_numpy(matrix.data), persistent=False)
        self.register_buffer('ones', torch.ones(history.nnz), persistent=False)
        if residuals or times is not None:
            self.register_buffer('ratings', torch.from_numpy(history.data.astype(np.float32)), persistent=False)
        if leave_one_out:
            rows = np.repeat(np.arange(n_users, dtype=np.int64), np.diff(history.indptr))
            self.register_buffer(
                'pairs', torch.from_numpy(rows * n_items + history.indices), persistent=False
            )  # sorted

    def config(self) -> dict:
        """Arguments that make a model of this shape; the history is one of them."""
        matrix = lambda values: csr_matrix(
            (values.cpu().numpy(), self.indices.cpu().numpy(), self.indptr.cpu().numpy()),
            shape=(len(self.indptr) - 1, self.item_factors.num_embeddings),
        )
        blocks = {
            f'{side}_blocks': None if (layer := self._layer(side)) is None else layer.blocks()
            for side in ('user', 'item')
        }
        return dict(
            super().config(),
            history=matrix(self.ratings if hasattr(self, 'ratings') else self.ones),
            times=None if self.time_bias is None else matrix(self.times),
            bias_decay=self.bias_decay,
            feature_decay=self.feature_decay,
            **blocks,
            dropout=self.dropout,
            norm=self.norm,
            item_side=self.item_side,
            residuals=self.residuals,
            leave_one_out=self.leave_one_out,
            own_decay=self.user_factors.decay,
            history_decay=self.history_decay,
            residual_decay=self.residual_decay,
        )

    def train(self, mode: bool = True):
        if mode:
            self._sums = {}
        return super().train(mode)

    # --- the parts

    def _csr(self, side):
        return (self.indptr, self.indices) if side == 'user' else (self.item_indptr, self.item_indices)

    def _terms(
        self, side
    ):  # (table, value of each entry in the order of `side`, and in that of the other side) of each sum
        if side == 'user':
            yield self.history_factors, self.ones, self.ones
        elif self.item_side:
            yield self.rater_factors, self.ones, self.ones
        if self.residuals and side == 'user':
            yield self.residual_factors, self.residual, self.item_residual
        elif self.residuals and self.item_side:
            yield self.rater_residual_factors, self.item_residual, self.residual

    def _own(self, side):
        return self.user_factors if side == 'user' else self.item_factors

    def _own_biases(self, side):
        return self.user_biases if side == 'user' else self.item_biases

    def _layer(self, side):
        return self.user_features if side == 'user' else self.item_features

    def _has_sums(self, side):
        return side == 'user' or self.item_side

    def counts(self, side: str) -> torch.Tensor:
        """Entries in the history of each 'user' or 'item', int32 (n,)."""
        indptr = self.indptr if side == 'user' else self.item_indptr
        return indptr[1:] - indptr[:-1]

    def _scale(self, n):
        return n.clamp(min=1).float() ** -self.norm

    def _all_sums(self, side):  # (n, k): |N|^-norm sum over N, for all users or items
        mine, other = self._csr(side), self._csr('item' if side == 'user' else 'user')
        n, m = len(mine[0]) - 1, len(other[0]) - 1
        with catch_warnings():
            simplefilter('ignore')  # torch calls its CSR tensors beta
            total = sum(
                _Product.apply(
                    table.weight,
                    torch.sparse_csr_tensor(*mine, values, (n, m)),
                    torch.sparse_csr_tensor(*other, turned, (m, n)),
                )
                for table, values, turned in self._terms(side)
            )
        return total * self._scale(self.counts(side))[:, None]

    def _some_sums(self, side, rows):  # the same for `rows` (B,), all different, entries dropped out
        indptr, indices = self._csr(side)
        start, n = indptr[rows].long(), self.counts(side)[rows].long()
        ends = n.cumsum(0)
        row = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), n)
        at = torch.arange(len(row), device=rows.device) + (start - ends + n)[row]
        weights, of = self._scale(n)[row], indices[at]
        if self.training and self.dropout:
            weights = weights * (torch.rand_like(weights) > self.dropout) / (1 - self.dropout)
        terms = [
            (table, weights if values is self.ones else weights * values[at]) for table, values, _ in self._terms(side)
        ]
        if rows.is_cuda:
            return sum(
                F.embedding_bag(of.long(), table.weight, ends - n, mode='sum', per_sample_weights=w)
                for table, w in terms
            )
        # two sparse products: the gradient of `embedding_bag` costs six times as much
        shape, starts = (len(rows), len(terms[0][0].weight)), F.pad(ends, (1, 0)).int()
        turned = csr_matrix((np.arange(len(at), dtype=np.int32), of.numpy(), starts.numpy()), shape=shape).tocsc()
        turned_starts, turned_rows, order = (torch.from_numpy(o) for o in (turned.indptr, turned.indices, turned.data))
        with catch_warnings():
            simplefilter('ignore')
            return sum(
                _Product.apply(
                    table.weight,
                    torch.sparse_csr_tensor(starts, of, w, shape),
                    torch.sparse_csr_tensor(turned_starts, turned_rows, w[order], shape[::-1]),
                )
                for table, w in terms
            )

    def _sums_of(self, side, codes):  # (...) -> (..., k), in training
        n = self.counts(side)
        if not self.dropout and codes.is_cuda:
            return F.embedding(codes, self._all_sums(side))
        rows, inverse = codes.unique(return_inverse=True)
        few = FEW if len(self.indices) < MANY else FEW_OF_MANY
        if self.dropout or few * int(n[rows].sum()) < len(self.indices):
            return F.embedding(inverse, self._some_sums(side, rows))
        return F.embedding(codes, self._all_sums(side))

    def _whole(
        self, side
    ):  # (n, k), (n, 1): the vectors and biases of all users or items; kept while they are only read
        own, bias, layer = self._own(side), self._own_biases(side), self._layer(side)
        version = (
            *(
                o._version
                for o in (
                    own.weight,
                    bias.weight,
                    *(t.weight for t, *_ in self._terms(side)),
                    *(() if layer is None else layer.parameters()),
                )
            ),
            own.weight.device,
        )
        if not torch.is_grad_enabled() and not self.training and side in self._sums and self._sums[side][0] == version:
            return self._sums[side][1]
        x, b = (
            own.weight + self._all_sums(side) * own.known[:, None] if self._has_sums(side) else own.weight,
            bias.weight,
        )
        if layer is not None:
            more = layer()
            x, b = x + more[:, :-1], b + more[:, -1:]
        if not torch.is_grad_enabled() and not self.training:
            self._sums[side] = version, (x, b)
        return x, b

    def _rows_of(self, side, codes):  # (...) -> vectors (..., k), biases (..., 1)
        own, bias, layer = self._own(side), self._own_biases(side), self._layer(side)
        if not self.training:
            x, b = self._whole(side)
            return F.embedding(codes, x), F.embedding(codes, b)
        x, b, share = F.embedding(codes, own.weight), bias(codes), self._shares(side)[codes]
        self._penalise(x, own, share)
        if self.bias_decay:
            self._penalise(b, self.history_factors, share * self.bias_decay)
        if self._has_sums(side):
            x = x + self._sums_of(side, codes)
        if layer is None:
            return x, b
        more = unique_rows(layer, codes)
        if self.feature_decay:
            self._penalise(more, self.history_factors, share * self.feature_decay)
        return x + more[..., :-1], b + more[..., -1:]

    def _shares(self, side):  # (n,): what a row's L2 counts for each of its ratings
        return SHARE[side] * self.counts(side).clamp(min=1).float() ** -POWER

    def _penalise(self, rows, table, share=None):  # rows (..., k), share (...)
        if not (table.l2 and self.training):
            return
        flat = rows.reshape(-1)
        penalty = (torch.dot(flat, flat) if share is None else (rows.square().sum(-1) * share).sum()) * (
            table.l2 / len(rows)
        )
        table.penalty = penalty if table.penalty is None else table.penalty + penalty

    # --- what `DotBias` has

    def forward(self, users, items=None, context=None):  # as in `DotBias`
        if items is None:
            return self.score_items(users, context)
        (p, bu), (q, bi) = self._rows_of('user', users), self._rows_of('item', items)
        if self.training:
            if self.leave_one_out and items.dim() == 1:
                p, q = self._without_each_other(users, items, p, q)
            self._penalise(p, self.history_factors)
            if self.item_side:
                self._penalise(q, self.rater_factors)
            self._penalise_history(users, items)
        if self.levels is not None:
            more, bias = self._of_context(users, context)
            p, bu = p + more, bu + bias[:, None]
        if items.dim() == 1:
            bu = bu.squeeze(-1)
        else:
            p = p.unsqueeze(1)
        x = (p * q).sum(-1) + bu + bi.squeeze(-1) + self.mean
        return self.in_range(
            x if self.time_bias is None or context is None else x + self.time_bias(users, items, self._times(context))
        )

    def _times(self, context):
        return context[:, self.context_sizes.index(0)]

    def _penalise_history(self, users, items):
        for side, codes in (('user', items), ('item', users)):
            for table, values, _ in self._terms(side):
                decay = self.history_decay if values is self.ones else self.residual_decay
                if decay:
                    self._penalise(
                        F.embedding(codes, table.weight),
                        table,
                        self._shares('item' if side == 'user' else 'user')[codes] * decay,
                    )

    def _without_each_other(self, users, items, p, q):
        """Vectors of pairs, (B, k) each, without the one in the history of the other."""
        key = users * len(self.item_factors.weight) + items
        at = torch.searchsorted(self.pairs, key).clamp(max=len(self.pairs) - 1)
        held = self.pairs[at] == key
        for side, mine, other in (('user', users, items), ('item', items, users)):
            scale = held * self._scale(self.counts(side)[mine])
            for table, values, turned in self._terms(side):
                entry = scale if values is self.ones else scale * self.residual[at]
                own = F.embedding(other, table.weight) * entry[:, None]
                if side == 'user':
                    p = p - own
                else:
                    q = q - own
        return p, q

    def user_vectors(self, users):
        return self._rows_of('user', users)[0]

    def item_vectors(self, items):  # (...) -> (..., n_factors)
        """What is multiplied with user vectors for `items`."""
        return self._rows_of('item', items)[0]

    def score_items(self, users, context=None):
        (p, bu), (q, bi) = self._rows_of('user', users), self._whole('item')
        if self.levels is not None:
            more, bias = self._of_context(users, context)
            p, bu = p + more, bu + bias[:, None]
        x = p @ q.T + bu + bi.T + self.mean
        return self.in_range(
            x
            if self.time_bias is None or context is None
            else x + self.time_bias.all_items(users, self._times(context), len(q))
        )

    def ranking_items(self):  # (n_items, n_factors + 1)
        """As in `DotBias`."""
        return torch.cat(self._whole('item'), 1)

    def vectors(self, side: str) -> torch.Tensor:
        """Detached vectors, (n, n_factors), of 'user' or 'item', history and features included; of users those without context."""
        with torch.no_grad():
            return self._whole(side)[0].detach() + self._neutral(side)[0]

    def biases(self, side: str) -> torch.Tensor:
        """Detached biases, (n,), of 'user' or 'item', features included."""
        with torch.no_grad():
            return self._whole(side)[1].detach().squeeze(-1) + self._neutral(side)[1]

    def has_features(self, side: str) -> torch.Tensor:
        """bool (n,): which users or items have any features."""
        layer = self._layer(side)
        return torch.zeros(self._own(side).num_embeddings, dtype=torch.bool) if layer is None else layer.present.any(1)

    def add_items(self, blocks: dict):
        """Further items, by their features alone; their codes come after those there are."""
        if self.item_features is None:
            raise TypeError(
                'this model knows items by their ratings alone, so it can say nothing about new ones. Make it with item_features='
            )
        n, rows = (
            len(next(iter(blocks.values()))),
            torch.repeat_interleave(
                torch.arange(len(self.indptr) - 1, device=self.indptr.device), self.counts('user').long()
            ),
        )
        self.item_features.add_rows(blocks)
        for table in {
            id(t): t for t in (self.item_factors, self.item_biases, *(t for t, *_ in self._terms('user')))
        }.values():
            table.add_rows(n)
        self.item_indptr = torch.cat([self.item_indptr, self.item_indptr[-1:].expand(n)])
        if self.leave_one_out:
            self.pairs = rows * self.item_factors.num_embeddings + self.indices
        self._sums = {}

    def without_history(self) -> DotBias:
        """The same scores from a `DotBias` whose vectors are computed once and for all: what can be given away. Moods, which are histories, it has not."""
        res = DotBias(
            len(self.indptr) - 1,
            self.item_factors.num_embeddings,
            self.item_factors.embedding_dim,
            self.y_range,
            known_users=self.user_factors.known,
            known_items=self.item_factors.known,
            context_sizes=self.context_sizes,
        )
        for table in self.tables:
            table.fill_cold()
        state, computed = self.state_dict(), {}
        with torch.no_grad():
            for side in ('user', 'item'):
                computed[f'{side}_factors.weight'], computed[f'{side}_biases.weight'] = self._whole(side)
        res.load_state_dict({k: computed.get(k, state[k]) for k in res.state_dict()})
        for table in res.tables:
            table.known.fill_(True)  # cold rows are computed, too
        return res.to(self.indptr.device).train(self.training)
