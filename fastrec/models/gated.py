"""Items known by who rated them and by their features.

A gate says which of these to trust for this user and this item; simpler hybrids add them up or mix them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..data.block import Block
from .base import DotModel, as_range, over_items, split_bias, starting_mean
from .blocks import FeatureLinear, unique_rows
from .content import FeatureEncoder
from .embedding import EmbeddingTable

__all__ = ['ConcatHybrid', 'GatedHybrid', 'Hybrid', 'SumHybrid']

CATALOGUE_BYTES = 64 * 2**20  # of intermediate scores when a gated catalogue is scored


class Hybrid(DotModel):
    """What the hybrids share: score = mean + b_u + b_i + p_u . q + c.

    (q, c) is made of the item's pathways z_im (n_factors + 1 values each, the last a bias). Pathway 0, 'id', is an
    embedding of the item (its bias is b_i); the others are encoders of feature blocks. A pathway is masked where an
    item lacks it: an item without training rows has no id pathway and no b_i, one without a poster no image pathway; an
    item that has none at all stands as the average item. In training the id and b_i of a share `id_dropout` of the
    items of each batch are masked too, so that the features learn to stand in for them (as in DropoutNet, Volkovs et
    al. 2017), and of a share `feature_dropout` the features, without which the words of a text soon know a popular item
    by heart and its id learns nothing. `ValueError` without pathways, for one of the name 'id', and for another number
    of rows.
    """

    log_counts: torch.Tensor  # (n_items,): log(1 + training rows)

    def __init__(
        self,
        n_users: int,  # how many users
        n_items: int,  # how many items
        pathways: dict[str, dict[str, Block]],  # name -> {block name: `Block`}, rows in the order of codes
        n_factors: int = 64,  # length of the vectors
        hidden: int = 0,  # width of a hidden layer in each pathway of features; 0: linear
        dropout: float = 0.2,  # of the pathways of features
        id_dropout: float = 0.2,  # share of items whose id is hidden at each step of training
        feature_dropout: float = 0.2,  # share of items whose features are hidden, so that the id learns to do alone
        y_range: tuple[float, float] | None = None,  # (low, high) of the scores; None: unbounded
        mean: float | None = None,  # mean rating, where scores start (None: 0, or the middle of `y_range`)
        known_users: torch.Tensor | None = None,  # bool (n_users,): users with training rows (None: all)
        known_items: torch.Tensor | None = None,  # bool (n_items,): items with training rows (None: all)
        item_counts: Any = None,  # (n_items,) training rows of each item, which a gate looks at (None: all alike)
        id_decay: float = 0.25,  # L2 of items' ids as a share of users': features and masking hold them down, too
        std: float = 0.01,  # embeddings and pathways start as about N(0, std)
    ) -> None:
        super().__init__()
        if 'id' in pathways:
            raise ValueError(
                "a pathway of features is called 'id', which is the name of the item's own embedding: "
                'give it another name'
            )
        if not pathways:
            raise ValueError('no pathways of features')
        self.y_range = as_range(y_range)
        self.n_factors = n_factors
        self.id_dropout = id_dropout
        self.feature_dropout = feature_dropout
        self.names = ['id', *pathways]
        self.user_factors = EmbeddingTable(n_users, n_factors, known_users, std)
        self.item_factors = EmbeddingTable(n_items, n_factors, known_items, std, id_decay)
        self.user_biases = EmbeddingTable(n_users, 1, known_users, 0, decay=0.0)
        self.item_biases = EmbeddingTable(n_items, 1, known_items, 0, decay=0.0)
        self.encoders = nn.ModuleList(
            FeatureEncoder(blocks, n_factors + 1, hidden, dropout, known_items, absent=len(blocks) > 1, std=std)
            for blocks in pathways.values()
        )
        if any(len(encoder.first) != n_items for encoder in self.encoders):
            n_rows = len(self.encoders[0].first)
            raise ValueError(f'the features have {n_rows:,} rows for {n_items:,} items: align them with the vocab')
        self.mean = starting_mean(mean, self.y_range)
        counts = torch.ones(n_items) if item_counts is None else torch.as_tensor(item_counts, dtype=torch.float32)
        self.register_buffer('log_counts', counts.log1p())

    def config(self) -> dict:
        """Arguments that make a model of this shape; the features are among them."""
        first = self.encoders[0]
        return dict(
            n_users=self.user_factors.num_embeddings,
            n_items=self.item_factors.num_embeddings,
            pathways={name: encoder.first.blocks() for name, encoder in zip(self.names[1:], self.encoders)},
            n_factors=self.n_factors,
            hidden=first.hidden,
            dropout=first.dropout.p,
            id_dropout=self.id_dropout,
            feature_dropout=self.feature_dropout,
            id_decay=self.item_factors.decay,
            y_range=self.y_range,
        )

    # --- items

    def present(
        self,
        codes: torch.Tensor,  # codes of items, int64 (n,)
    ) -> torch.Tensor:
        """Which of the M pathways items have: (n,) -> bool (n, M). In training some are hidden at random."""
        known = self.item_factors.known[codes]
        content = torch.stack([encoder.first.present[codes].any(1) for encoder in self.encoders], 1)
        if self.training:
            draw = torch.rand(known.shape, device=known.device)
            hide_features = known & (draw >= 1 - self.feature_dropout)
            content = content & ~hide_features[:, None]
            known = known & (draw >= self.id_dropout)
        nothing_else = ~content.any(1)
        return torch.cat([(known | nothing_else)[:, None], content], 1)

    def penalise(
        self,
        items: torch.Tensor,  # codes of the items of a batch, int64, any shape
    ) -> None:
        """The L2 of the items' embeddings per observed row; they are looked up once for each item of a batch."""
        if self.training and self.item_factors.l2:
            self.item_factors(items)

    def pathways(
        self,
        codes: torch.Tensor,  # codes of items, int64 (n,)
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Vectors of the items' pathways, which of them count, and b_i.

        (n,) -> (n, M, n_factors + 1), bool (n, M), (n, 1).
        """
        present = self.present(codes)
        own = F.pad(self.item_factors(codes, l2=False), (0, 1))
        z = torch.stack([own, *(encoder(codes) for encoder in self.encoders)], 1)
        bias = self.item_biases(codes, l2=False) * present[:, :1]
        return z, present, bias

    def fuse(
        self,
        z: torch.Tensor,  # vectors of the pathways, each with a bias, float (n, M, n_factors + 1)
        present: torch.Tensor,  # which pathways an item has, bool (n, M)
    ) -> torch.Tensor:
        """(q, c) of the pathways, where they depend on the item alone.

        (n, M, n_factors + 1), bool (n, M) -> (n, n_factors + 1).
        """
        raise NotImplementedError(f'{self._name} has no fuse(z, present)')

    def item_rows(
        self,
        codes: torch.Tensor,  # codes of items, int64 (n,)
    ) -> torch.Tensor:
        """(q_i, c_i + b_i) where they depend on the item alone: (n,) -> (n, n_factors + 1)."""
        z, present, bias = self.pathways(codes)
        q = self.fuse(z, present)
        return torch.cat([q[:, :-1], q[:, -1:] + bias], 1)

    # --- scores

    def forward(  # type: ignore[override]  # reads no context
        self, users: torch.Tensor, items: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores of pairs: (B,), (B,) or (B, C) or (1, C) -> (B,) or (B, C); without items (B, n_items)."""
        if items is None:
            return self.score_items(users)
        p = over_items(self.user_factors(users), items)
        bu = over_items(self.user_biases(users), items).squeeze(-1)
        q, bi = split_bias(unique_rows(self.item_rows, items))
        self.penalise(items)
        return self.in_range((p * q).sum(-1) + bi + bu + self.mean)

    def score_items(self, users: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # reads no context
        """Scores of the whole catalogue: (B,) -> (B, n_items); items worked out once, then a matrix product."""
        q, bi = split_bias(self.item_rows(self._all_items()))
        p, bu = self.user_factors(users), self.user_biases(users)
        return self.in_range(p @ q.T + bi + bu + self.mean)

    def _all_items(self) -> torch.Tensor:
        """Codes of all items."""
        return torch.arange(self.item_factors.num_embeddings, device=self.mean.device)

    # --- what it has learned

    @torch.no_grad()
    def fused(
        self,
        user: int | None = None,  # code of the user; None: the average one
        codes: torch.Tensor | None = None,  # codes of items, int64 (n,); None: all
    ) -> torch.Tensor:
        """What a user (None: the average one) sees of items (None: all): (q, c + b_i), (n,) -> (n, n_factors + 1)."""
        return self.item_rows(self._all_items() if codes is None else codes)

    def vectors(self, side: str) -> torch.Tensor:
        """Detached vectors, (n, n_factors), of 'user' or 'item' (as the average user sees it)."""
        return self.fused()[:, :-1] if side == 'item' else self.user_factors.weight.detach()

    def biases(self, side: str) -> torch.Tensor:
        """Detached biases, (n,), of 'user' or 'item' (its own and its features')."""
        return self.fused()[:, -1] if side == 'item' else self.user_biases.weight.detach().squeeze(-1)

    def explain(self, user: int, item: int) -> dict:
        """Parts that add up to the score before the sigmoid; see `DotModel`. The item is as this user sees it."""
        p = self.user_factors.weight.detach()[user]
        code = torch.tensor([item], device=p.device)
        q, item_bias = split_bias(self.fused(user, code)[0])
        return dict(
            mean=self.intercept(),
            user_bias=self.user_biases.weight[user].item(),
            item_bias=item_bias.item(),
            factors=p * q,
        )

    # --- features

    def feature_layers(self, side: str) -> list[FeatureLinear]:
        """The layers that read features of 'user' or 'item' (`side`); none where it reads none."""
        return [encoder.first for encoder in self.encoders] if side == 'item' else []

    def add_items(self, blocks: dict[str, Block]) -> None:
        """Further items, by their features alone (name -> `Block`); their codes come after those there are."""
        for encoder in self.encoders:
            encoder.first.add_rows({name: blocks[name] for name in encoder.first.names})
        n = len(self.encoders[0].first) - self.item_factors.num_embeddings
        self.item_factors.add_rows(n)
        self.item_biases.add_rows(n)
        self.log_counts = F.pad(self.log_counts, (0, n))


class SumHybrid(Hybrid):
    """`Hybrid` that adds up the pathways an item has."""

    def fuse(self, z: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """The sum over pathways: (n, M, n_factors + 1), bool (n, M) -> (n, n_factors + 1)."""
        return (z * present[..., None]).sum(1)


class ConcatHybrid(Hybrid):
    """`Hybrid` that puts the pathways side by side through a hidden layer: W_2 ReLU(W_1 [z_1, ..., z_M, present]).

    z is 0 where an item has no such pathway, and `present` says which it has.
    """

    def __init__(
        self,
        *args: Any,  # of `Hybrid`: n_users, n_items, pathways
        width: int = 128,  # of the hidden layer
        **kwargs: Any,  # of `Hybrid`
    ) -> None:
        super().__init__(*args, **kwargs)
        self.width = width
        first = nn.Linear(len(self.names) * (self.n_factors + 2), width)
        last = nn.Linear(width, self.n_factors + 1)
        nn.init.zeros_(last.bias)
        self.mix = nn.Sequential(first, nn.ReLU(), last)

    def config(self) -> dict:
        """Arguments that make a model of this shape; the features are among them."""
        return dict(super().config(), width=self.width)

    def fuse(self, z: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """The hidden layer over all pathways: (n, M, n_factors + 1), bool (n, M) -> (n, n_factors + 1)."""
        side_by_side = (z * present[..., None]).flatten(1)
        return self.mix(torch.cat([side_by_side, present.to(z.dtype)], 1))


class GatedHybrid(Hybrid):
    """`Hybrid` with a learned gate: (q, c) = sum_m g_m(u, i) z_im, g = softmax over the pathways the item has.

    The gate's logits look at the user and at the item: a_m(u, i) = (W p_u) . (K_m z_im) + v_m . p_u + t_m . [z_im, 1],
    and for the id + s log(1 + n_i) + s' (log(1 + n_u) - c), n_i and n_u the training rows of the item and of the user,
    c the mean of log(1 + n_u) over users who have any; for others that term is 0. Being bilinear, the logits of a whole
    catalogue are one matrix product for each pathway. The id's part starts at s = 1 and the offset at which its weight
    is (1 + n) / (1 + n + `shrinkage`) where all pathways are there: the weight that empirical Bayes gives to what n
    ratings say of an item, against what is known of items of its kind (Efron and Morris 1973). From there on it is
    learned. Without such a start it comes to lean on the id the less the more ratings there are: features that name a
    film learn it by heart as fast as its id does, and which of two equals it trusts is a matter of where it started.
    s' = `user_trust` stays as it is given, for the same reason: where it is learned it drifts below 0 (on ML-100K from
    0 to -0.3 in 5 epochs) and the errors are no smaller. Above 0 it says that what is particular to an item is for
    users of whom much is known, and its kind for the others.

    A gate that learns from the rows its pathways learn from prefers whichever knows them by heart: the id of an item
    with two ratings. So a share `held` of the pairs (chosen by a hash of their codes) trains the gate and nothing else,
    and the other pairs everything but the gate. With `held` = 0 the gate stays as it is and all pairs train the
    pathways; `GateCallback` sets that for the last part of a training. `ValueError` for a `shrinkage` that is not above
    0.
    """

    user_log_counts: torch.Tensor  # (n_users,): log(1 + training rows)
    user_log_mean: torch.Tensor  # (): its mean over users who have any

    def __init__(
        self,
        *args: Any,  # of `Hybrid`: n_users, n_items, pathways
        gate_width: int = 8,  # length of W p_u
        held: float = 0.1,  # share of the pairs that trains the gate
        shrinkage: float = 8.0,  # ratings at which the id starts with about as much weight as all features
        user_trust: float | None = None,  # s'; None: the gate does not look at the user's history
        user_counts: Any = None,  # (n_users,) training rows of each user, for `user_trust` (None: all alike)
        **kwargs: Any,  # of `Hybrid`
    ) -> None:
        super().__init__(*args, **kwargs)
        if not shrinkage > 0:
            raise ValueError(f'shrinkage={shrinkage}: a number of ratings above 0')
        m = len(self.names)
        d = self.n_factors
        self.gate_width = gate_width
        self.held = held
        self.shrinkage = shrinkage
        self.query = nn.Linear(d, gate_width + m, bias=False)  # W and v
        self.keys = nn.Parameter(torch.randn(m, d + 1, gate_width + 1) * d**-0.5)  # K_m, and t_m's part of z
        self.of_counts = nn.Parameter(torch.ones(()))  # s
        only_id = F.one_hot(torch.tensor(0), m)
        self.gate_offsets = nn.Parameter(only_id * math.log((m - 1) / shrinkage))
        self.user_trust = user_trust
        if user_trust is not None:
            n_users = self.user_factors.num_embeddings
            counts = torch.ones(n_users) if user_counts is None else torch.as_tensor(user_counts, dtype=torch.float32)
            has_rows = counts > 0
            mean = counts[has_rows].log1p().mean() if has_rows.any() else torch.zeros(())
            self.register_buffer('user_log_counts', counts.log1p())
            self.register_buffer('user_log_mean', mean)

    def config(self) -> dict:
        """Arguments that make a model of this shape; the features are among them."""
        res = dict(super().config(), gate_width=self.gate_width, held=self.held, shrinkage=self.shrinkage)
        if self.user_trust is not None:  # without it versions before can read what is saved
            res['user_trust'] = self.user_trust
        return res

    def set_user_counts(self, counts: torch.Tensor) -> None:
        """Counts of training rows, as in `RecModel`."""
        if self.user_trust is not None:
            self.user_log_counts = counts.to(self.user_log_mean).log1p()

    # --- items and the gate

    def item_rows(self, codes: torch.Tensor) -> torch.Tensor:
        """Pathways, keys and static logits (-inf where a pathway is masked), b_i, side by side (see `_split`).

        (n,) -> (n, M * (n_factors + 1) + M * (gate_width + 1) + 1).
        """
        z, present, bias = self.pathways(codes)
        keys = torch.einsum('nmd,mdk->nmk', z.detach(), self.keys)
        of_counts = self.of_counts * self.log_counts[codes]  # (n,), of the id alone
        of_counts = F.pad(of_counts[:, None], (0, len(self.names) - 1))
        static = keys[..., -1:] + (self.gate_offsets + of_counts)[..., None]
        static = static.masked_fill(~present[..., None], -torch.inf)
        keys = torch.cat([keys[..., :-1], static], -1)
        return torch.cat([z.flatten(1), keys.flatten(1), bias], 1)

    def _split(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows (..., width) of items into z (..., M, n_factors + 1), keys (..., M, gate_width + 1) and b_i (...)."""
        m = len(self.names)
        d = self.n_factors + 1
        z = rows[..., : m * d].unflatten(-1, (m, d))
        keys = rows[..., m * d : -1].unflatten(-1, (m, self.gate_width + 1))
        return z, keys, rows[..., -1]

    def _queries(self, p: torch.Tensor, of_history: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What users bring to the gate: W p_u, and v . p_u with what their history adds to the id.

        (..., n_factors), (...) -> (..., gate_width), (..., M).
        """
        query, own = self.query(p.detach()).split([self.gate_width, len(self.names)], -1)
        return query, own + F.pad(of_history[..., None], (0, len(self.names) - 1))

    def _history_of(self, users: torch.Tensor) -> torch.Tensor:
        """What the rows of users add to the logit of the id, s' (log(1 + n_u) - c): (...) -> (...)."""
        if self.user_trust is None:
            return self.mean.new_zeros(users.shape)
        log_counts = self.user_log_counts[users]
        above = torch.where(log_counts > 0, log_counts - self.user_log_mean, 0.0)  # who has no rows is the average user
        return self.user_trust * above

    def gates(
        self,
        p: torch.Tensor,  # (..., n_factors), of users
        rows: torch.Tensor,  # (..., width), of items
        of_history: torch.Tensor,  # (...), see `_history_of`
    ) -> torch.Tensor:
        """Weights of the pathways, which add up to 1: (..., M)."""
        _, keys, _ = self._split(rows)
        query, own = self._queries(p, of_history)
        keys, static = split_bias(keys)
        logits = (keys * query.unsqueeze(-2)).sum(-1) + static + own
        return logits.softmax(-1)

    # --- scores

    def forward(  # type: ignore[override]  # reads no context
        self, users: torch.Tensor, items: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores of pairs: (B,), (B,) or (B, C) or (1, C) -> (B,) or (B, C); without items (B, n_items)."""
        if items is None:
            return self.score_items(users)
        p = over_items(self.user_factors(users), items)
        bu = over_items(self.user_biases(users), items).squeeze(-1)
        user_codes = users if items.dim() == 1 else users[:, None]
        rows = unique_rows(self.item_rows, items)
        z, _, bias = self._split(rows)
        gates = self.gates(p, rows, over_items(self._history_of(users), items))
        vectors, c = split_bias(z)
        scores = (vectors * p.unsqueeze(-2)).sum(-1) + c
        rest = bias + bu + self.mean
        self.penalise(items)
        return self.in_range(self._mix(gates, scores, rest, user_codes, items, -1))

    def _mix(
        self,
        gates: torch.Tensor,  # of the shape of the pairs, and a dimension of the M pathways
        scores: torch.Tensor,  # the same
        rest: torch.Tensor,  # of the shape of the pairs
        users: torch.Tensor,  # codes that broadcast to it
        items: torch.Tensor,  # the same
        dim: int,  # of the pathways
    ) -> torch.Tensor:
        """sum_m g_m s_m + rest; in training each pair's gradient goes to the gate or to all else."""
        if self.training:
            pair_hash = (users * 2654435761 + items * 40503 + (users ^ items) * 97) % 1009
            to_gate = pair_hash < self.held * 1009
            to_gate_each = to_gate.unsqueeze(dim)
            gates = torch.where(to_gate_each, gates, gates.detach())
            scores = torch.where(to_gate_each, scores.detach(), scores)
            rest = torch.where(to_gate, rest.detach(), rest)
        return (gates * scores).sum(dim) + rest

    def score_items(self, users: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # reads no context
        """Scores of the whole catalogue: (B,) -> (B, n_items).

        Items are worked out once; then matrix products for each pathway, in chunks of users under a budget of memory.
        """
        items = self._all_items()
        rows = self.item_rows(items)
        z, keys, bias = self._split(rows)
        z, c = split_bias(z)
        keys, static = split_bias(keys)
        pathways = range(len(self.names))
        step = max(1, CATALOGUE_BYTES // (8 * len(pathways) * len(rows)))
        chunks = []
        for chunk in users.split(step):
            p = self.user_factors(chunk)
            query, own = self._queries(p, self._history_of(chunk))
            # a matrix product for each pathway: (M, chunk, n_items)
            logits = torch.stack([query @ keys[:, m].T + static[:, m] + own[:, m, None] for m in pathways])
            scores = torch.stack([p @ z[:, m].T + c[:, m] for m in pathways])
            rest = bias + self.user_biases(chunk) + self.mean
            chunks.append(self._mix(logits.softmax(0), scores, rest, chunk[:, None], items, 0))
        return self.in_range(torch.cat(chunks) if chunks else bias.new_zeros(0, len(rows)))

    # --- what it has learned

    @torch.no_grad()
    def fused(self, user: int | None = None, codes: torch.Tensor | None = None) -> torch.Tensor:
        """As in `Hybrid`, the pathways weighted by the gate for this user."""
        if user is None:
            p = self.user_factors.weight[self.user_factors.known].mean(0)
            of_history = p.new_zeros(())
        else:
            p = self.user_factors.weight[user]
            of_history = self._history_of(torch.tensor(user, device=p.device))
        rows = self.item_rows(self._all_items() if codes is None else codes)
        z, _, bias = self._split(rows)
        gates = self.gates(p.expand(len(rows), -1), rows, of_history.expand(len(rows)))
        q = (gates[..., None] * z).sum(1)
        return torch.cat([q[:, :-1], q[:, -1:] + bias[:, None]], 1)

    @torch.no_grad()
    def gate_weights(
        self,
        users: torch.Tensor,  # codes of users, int64 (B,)
        items: torch.Tensor,  # codes of items, int64 (n,)
    ) -> torch.Tensor:
        """Weights g_m of the pathways of `items` for `users`: (B,), (n,) -> (B, n, M)."""
        rows = self.item_rows(items)
        of_users = [
            self.gates(p.expand(len(rows), -1), rows, of_history.expand(len(rows)))
            for p, of_history in zip(self.user_factors(users), self._history_of(users))
        ]
        return torch.stack(of_users)

    @torch.no_grad()
    def contributions(
        self,
        users: torch.Tensor,  # codes of users, int64 (B,)
        items: torch.Tensor,  # codes of items, int64 (n,)
    ) -> torch.Tensor:
        """What the pathways of `items` bring to the scores of `users`, before the sigmoid: g_m (p_u . z_im + c_im).

        (B,), (n,) -> (B, n, M).
        """
        z, _, _ = self._split(self.item_rows(items))
        z, c = split_bias(z)
        scores = torch.einsum('bd,nmd->bnm', self.user_factors(users), z) + c
        return self.gate_weights(users, items) * scores
