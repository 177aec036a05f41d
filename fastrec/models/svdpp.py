"Dot products of vectors that sum what users and items have in the training rows."
from __future__ import annotations

from warnings import catch_warnings, simplefilter

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import nn

from .dot import DotBias
from .embedding import EmbeddingTable, squash

__all__ = ['SVDpp']

FEW = 8  # a product with the whole history costs less per entry than picking entries, by about this factor


class _Product(torch.autograd.Function):
    "a @ x for a sparse CSR matrix that comes with its transpose; x (n, k) has the gradient."
    @staticmethod
    def forward(ctx, x, a, transposed):
        ctx.transposed = transposed
        return a @ x

    @staticmethod
    def backward(ctx, grad): return ctx.transposed @ grad.contiguous(), None, None


class SVDpp(DotBias):
    """`DotBias` whose user vector adds what the user has in the training rows: p_u + |N(u)|^-1/2 sum_{j in N(u)} y_j; with `item_side` the item's adds who has it: q_i + |N(i)|^-1/2 sum_{v in N(i)} z_v.

    Koren, 'Factorization Meets the Neighborhood', KDD 2008, eq. 15, in N(u) all training items of the user; Rendle, 'Scaling Factorization Machines to
    Relational Data', VLDB 2013, and myFM call the symmetric form 'SVD++ flipped'. Deviations:

    - The sums are over |N|^norm, by default the paper's square root; of implicit feedback 0.4 ranks better, where long histories say more.
    - With `leave_one_out`, in training a pair (u, i) is scored without i in N(u) and u in N(i): a row to predict has no such entry at test time, and a model that finds
      one in its input learns from it what it cannot use.
    - In training a share `dropout` of each history is left out at random (what stays is scaled up), as in a denoising autoencoder (Liang et al. 2018).
    - The L2 per observed row is taken of the sums p_u + ... and q_i + ..., and besides, times `own_decay`, of p_u and q_i alone and, times `history_decay`, of z_u and y_i. In these
      a row counts its number of ratings^-1/2 (over the mean of that): between a term per rating (ALS-WR) and one per user or item, as a Gaussian prior has.
    - A cold user or item has the mean of the known p or q, and an empty sum.

    The sums are made for the whole table by one sparse product, or for the users and items of the batch where they have but a small part of it. The history is held as CSR both
    ways (`indptr, indices` by user, `item_indptr, item_indices`); it is no part of the state.
    """
    def __init__(self,
        n_users:int, n_items:int,
        history, # scipy CSR (n_users, n_items): stored entries are N(u)
        n_factors:int=50,
        dropout:float=0., # share of the history left out at each step of training
        std:float=0.01, # factors start as N(0, std)
        norm:float=0.5, # a sum over n entries is divided by n^norm
        item_side:bool=False, # sums for items, too
        leave_one_out:bool=False, # score a training pair without itself in the histories
        own_decay:float=1., # L2 of p and q, as a multiple of that of the sums
        history_decay:float=0., # L2 of y and z, the same
        **kwargs # of `DotBias`
    ):
        super().__init__(n_users, n_items, n_factors, std=std, **kwargs)
        self.dropout, self.norm, self.item_side, self.leave_one_out, self._sums = dropout, norm, item_side, leave_one_out, {}
        self.history_factors = EmbeddingTable(n_items, n_factors, self.item_factors.known, std)  # y
        if item_side: self.rater_factors = EmbeddingTable(n_users, n_factors, self.user_factors.known, std)  # z
        self.history_decay = history_decay
        self.user_factors.decay = self.item_factors.decay = own_decay
        history = history.tocsr().sorted_indices()
        for prefix, matrix in (('', history), ('item_', history.T.tocsr())):
            for name in ('indptr', 'indices'): self.register_buffer(prefix + name, torch.from_numpy(getattr(matrix, name).astype(np.int32)), persistent=False)
        self.register_buffer('ones', torch.ones(history.nnz), persistent=False)
        if leave_one_out:
            rows = np.repeat(np.arange(n_users, dtype=np.int64), np.diff(history.indptr))
            self.register_buffer('pairs', torch.from_numpy(rows * n_items + history.indices), persistent=False)  # sorted

    def config(self)->dict:
        "Arguments that make a model of this shape; the history is one of them."
        history = csr_matrix((np.ones(len(self.indices), np.float32), self.indices.cpu().numpy(), self.indptr.cpu().numpy()), shape=(len(self.indptr) - 1, self.item_factors.num_embeddings))
        return dict(super().config(), history=history, dropout=self.dropout, norm=self.norm, item_side=self.item_side, leave_one_out=self.leave_one_out, own_decay=self.user_factors.decay, history_decay=self.history_decay)

    def train(self, mode:bool=True):
        if mode: self._sums = {}
        return super().train(mode)

    # --- the parts

    def _csr(self, side): # history as stored, and which factors its entries stand for
        return (self.indptr, self.indices, self.history_factors.weight) if side == 'user' else (self.item_indptr, self.item_indices, self.rater_factors.weight)

    def _own(self, side): return self.user_factors if side == 'user' else self.item_factors

    def _has_sums(self, side): return side == 'user' or self.item_side

    def counts(self, side:str)->torch.Tensor:
        "Entries in the history of each 'user' or 'item', int32 (n,)."
        indptr = self.indptr if side == 'user' else self.item_indptr
        return indptr[1:] - indptr[:-1]

    def _scale(self, n): return n.clamp(min=1).float() ** -self.norm

    def _all_sums(self, side): # (n, k): |N|^-norm sum over N, for all users or items
        indptr, indices, factors = self._csr(side)
        other = self._csr('item' if side == 'user' else 'user')[:2] if self.item_side else (self.item_indptr, self.item_indices)
        n, m = len(indptr) - 1, len(factors)
        with catch_warnings():
            simplefilter('ignore')  # torch calls its CSR tensors beta
            a, transposed = torch.sparse_csr_tensor(indptr, indices, self.ones, (n, m)), torch.sparse_csr_tensor(*other, self.ones, (m, n))
        return _Product.apply(factors, a, transposed) * self._scale(self.counts(side))[:, None]

    def _some_sums(self, side, rows): # the same for `rows` (B,), all different, entries dropped out
        indptr, indices, factors = self._csr(side)
        start, n = indptr[rows].long(), self.counts(side)[rows].long()
        offsets = n.cumsum(0) - n
        row = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), n)
        entries = indices[torch.arange(len(row), device=rows.device) + (start - offsets)[row]].long()
        weights = self._scale(n)[row]
        if self.training and self.dropout: weights = weights * (torch.rand_like(weights) > self.dropout) / (1 - self.dropout)
        return F.embedding_bag(entries, factors, offsets, mode='sum', per_sample_weights=weights)

    def _sums_of(self, side, codes): # (...) -> (..., k), in training
        n = self.counts(side)
        if not self.dropout and codes.is_cuda: return F.embedding(codes, self._all_sums(side))
        rows, inverse = codes.unique(return_inverse=True)
        if self.dropout or FEW * int(n[rows].sum()) < len(self.indices): return F.embedding(inverse, self._some_sums(side, rows))
        return F.embedding(codes, self._all_sums(side))

    def _whole(self, side): # (n, k): the vectors of all users or items; kept while they are only read
        own = self._own(side)
        parts = [own.weight, self._csr(side)[2]] if self._has_sums(side) else [own.weight]
        version = *(o._version for o in parts), own.weight.device
        if not torch.is_grad_enabled() and not self.training and side in self._sums and self._sums[side][0] == version: return self._sums[side][1]
        x = own.weight + self._all_sums(side) * own.known[:, None] if self._has_sums(side) else own.weight
        if not torch.is_grad_enabled() and not self.training: self._sums[side] = version, x
        return x

    def _vectors_of(self, side, codes): # (...) -> (..., k)
        if not self.training: return F.embedding(codes, self._whole(side))
        own = self._own(side)
        x = F.embedding(codes, own.weight)
        self._penalise(x, own, self._shares(side)[codes])
        return x + self._sums_of(side, codes) if self._has_sums(side) else x

    def _shares(self, side): # (n,): what a row's L2 counts for each of its ratings; 1 on average over the ratings
        root = self.counts(side).clamp(min=1).float().sqrt()
        return len(self.indices) / root.sum() / root

    def _penalise(self, rows, table, share=None): # rows (..., k), share (...)
        if not (table.l2 and self.training): return
        flat = rows.reshape(-1)
        penalty = (torch.dot(flat, flat) if share is None else (rows.square().sum(-1) * share).sum()) * (table.l2 / len(rows))
        table.penalty = penalty if table.penalty is None else table.penalty + penalty

    # --- what `DotBias` has

    def forward(self, users, items=None): # as in `DotBias`
        if items is None: return self.score_items(users)
        p, q = self.user_vectors(users), self.item_vectors(items)
        if self.training:
            if self.leave_one_out and items.dim() == 1: p, q = self._without_each_other(users, items, p, q)
            self._penalise(p, self.history_factors)
            if self.item_side: self._penalise(q, self.rater_factors)
            if self.history_decay: self._penalise_history(users, items)
        bu, bi = self.user_biases(users), self.item_biases(items).squeeze(-1)
        if items.dim() == 1: bu = bu.squeeze(-1)
        else: p = p.unsqueeze(1)
        return squash((p * q).sum(-1) + bu + bi + self.mean, self.y_range)

    def _penalise_history(self, users, items):
        for side, table, codes in (('item', self.history_factors, items), ('user', self.rater_factors if self.item_side else None, users)):
            if table is not None and table.l2: self._penalise(F.embedding(codes, table.weight), table, self._shares(side)[codes] * self.history_decay)

    def _without_each_other(self, users, items, p, q):
        "Vectors of pairs, (B, k) each, without the one in the history of the other."
        key = users * len(self.item_factors.weight) + items
        held = self.pairs[torch.searchsorted(self.pairs, key).clamp(max=len(self.pairs) - 1)] == key
        p = p - self.history_factors.weight[items] * (held * self._scale(self.counts('user')[users]))[:, None]
        if self.item_side: q = q - self.rater_factors.weight[users] * (held * self._scale(self.counts('item')[items]))[:, None]
        return p, q

    def user_vectors(self, users): return self._vectors_of('user', users)

    def item_vectors(self, items): # (...) -> (..., n_factors)
        "What is multiplied with user vectors for `items`."
        return self._vectors_of('item', items)

    def score_items(self, users):
        x = self.user_vectors(users) @ self._whole('item').T
        return squash(x + self.user_biases(users) + self.item_biases.weight.T + self.mean, self.y_range)

    def vectors(self, side:str)->torch.Tensor:
        "Detached vectors, (n, n_factors), of 'user' or 'item', history included."
        with torch.no_grad(): return self._whole(side).detach()

    def without_history(self)->DotBias:
        "The same scores from a `DotBias` whose vectors are computed once and for all: what can be given away."
        res = DotBias(len(self.indptr) - 1, self.item_factors.num_embeddings, self.item_factors.embedding_dim, self.y_range, known_users=self.user_factors.known, known_items=self.item_factors.known)
        state = {k: v for k, v in self.state_dict().items() if not k.startswith(('history_factors', 'rater_factors'))}
        res.load_state_dict({**state, 'user_factors.weight': self.vectors('user'), 'item_factors.weight': self.vectors('item')})
        for table in (res.user_factors, res.item_factors): table.known.fill_(True)  # cold rows are computed, too
        return res.to(self.indptr.device).train(self.training)
