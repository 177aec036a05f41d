"""Items known by who rated them and by their features, behind a gate that says which to trust for this user and this item."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from .base import RecModel, from_range
from .blocks import unique_rows
from .content import FeatureEncoder
from .embedding import EmbeddingTable

__all__ = ['ConcatHybrid', 'GatedHybrid', 'Hybrid', 'SumHybrid']

BUDGET = 64 * 2**20  # bytes of intermediate scores when a gated catalogue is scored


class Hybrid(RecModel):
    """What the hybrids share: score = mean + b_u + b_i + p_u . q + c, where (q, c) is made of the item's pathways z_im (n_factors + 1 values each, the last a bias).

    Pathway 0, 'id', is an embedding of the item (its bias is b_i); the others are encoders of feature blocks. A pathway is masked where an item lacks it: an item
    without training rows has no id pathway and no b_i, one without a poster no image pathway; an item that has none at all stands as the average item. In training the id and b_i of a share `id_dropout`
    of the items of each batch are masked too, so that the features learn to stand in for them (as in DropoutNet, Volkovs et al. 2017), and of a share
    `feature_dropout` the features, without which the words of a text soon know a popular item by heart and its id learns nothing.
    """

    def __init__(
        self,
        n_users: int,
        n_items: int,
        pathways: dict,  # name -> {block name: `Block`}, rows in the order of codes
        n_factors: int = 64,
        hidden: int = 0,  # width of a hidden layer in each pathway of features; 0: linear
        dropout: float = 0.2,  # of the pathways of features
        id_dropout: float = 0.2,  # share of items whose id is hidden at each step of training
        feature_dropout: float = 0.2,  # share of items whose features are hidden, so that the id learns to do alone
        y_range: tuple = None,  # (low, high) of the scores; None: unbounded
        mean: float = None,  # mean rating, where scores start (None: 0, or the middle of `y_range`)
        known_users: torch.Tensor = None,  # bool (n_users,): users with training rows (None: all)
        known_items: torch.Tensor = None,  # bool (n_items,): items with training rows (None: all)
        item_counts=None,  # (n_items,) training rows of each item, which a gate looks at (None: all alike)
        id_decay: float = 0.25,  # L2 of the item's embedding as a share of the user's: features and masking hold it down, too
        std: float = 0.01,  # embeddings and pathways start as about N(0, std)
    ):
        super().__init__()
        if 'id' in pathways:
            raise ValueError(
                "a pathway of features is called 'id', which is the name of the item's own embedding: give it another name"
            )
        self.y_range, self.n_factors, self.id_dropout, self.feature_dropout = (
            None if y_range is None else tuple(float(o) for o in y_range),
            n_factors,
            id_dropout,
            feature_dropout,
        )
        self.names = ['id', *pathways]
        self.user_factors = EmbeddingTable(n_users, n_factors, known_users, std)
        self.item_factors = EmbeddingTable(n_items, n_factors, known_items, std, id_decay)
        self.user_biases = EmbeddingTable(n_users, 1, known_users, 0, decay=0.0)
        self.item_biases = EmbeddingTable(n_items, 1, known_items, 0, decay=0.0)
        self.encoders = nn.ModuleList(
            FeatureEncoder(blocks, n_factors + 1, hidden, dropout, known_items, absent=len(blocks) > 1, std=std)
            for blocks in pathways.values()
        )
        if not pathways:
            raise ValueError('no pathways of features')
        if any(len(o.first) != n_items for o in self.encoders):
            raise ValueError(
                f'the features have {len(self.encoders[0].first):,} rows for {n_items:,} items: align them with the vocab'
            )
        self.mean = nn.Parameter(torch.tensor(0.0 if mean is None else from_range(mean, self.y_range)))
        counts = torch.ones(n_items) if item_counts is None else torch.as_tensor(item_counts, dtype=torch.float32)
        self.register_buffer('log_counts', counts.log1p())

    def config(self) -> dict:
        """Arguments that make a model of this shape; the features are among them."""
        first = self.encoders[0]
        return dict(
            n_users=self.user_factors.num_embeddings,
            n_items=self.item_factors.num_embeddings,
            pathways={name: o.first.blocks() for name, o in zip(self.names[1:], self.encoders)},
            n_factors=self.n_factors,
            hidden=first.hidden,
            dropout=first.dropout.p,
            id_dropout=self.id_dropout,
            feature_dropout=self.feature_dropout,
            id_decay=self.item_factors.decay,
            y_range=self.y_range,
        )

    def present(self, codes):  # (n,) -> bool (n, M)
        """Which of the M pathways items have."""
        known, content = (
            self.item_factors.known[codes],
            torch.stack([o.first.present[codes].any(1) for o in self.encoders], 1),
        )
        if self.training:
            draw = torch.rand(known.shape, device=known.device)
            content = content & ~(known & (draw >= 1 - self.feature_dropout))[:, None]
            known = known & (draw >= self.id_dropout)
        return torch.cat([(known | ~content.any(1))[:, None], content], 1)

    def penalise(self, items):
        """The L2 of the items' embeddings per observed row; they are looked up once for each item of a batch."""
        if self.training and self.item_factors.l2:
            self.item_factors(items)

    def pathways(self, codes):  # (n,) -> (n, M, n_factors + 1), bool (n, M), (n, 1)
        """Vectors of the items' pathways, which of them count, and b_i."""
        present = self.present(codes)
        z = torch.stack([F.pad(self.item_factors(codes, l2=False), (0, 1)), *(o(codes) for o in self.encoders)], 1)
        return z, present, self.item_biases(codes, l2=False) * present[:, :1]

    def item_rows(self, codes):  # (n,) -> (n, n_factors + 1)
        """(q_i, c_i + b_i) where they depend on the item alone."""
        z, present, bias = self.pathways(codes)
        q = self.fuse(z, present)
        return torch.cat([q[:, :-1], q[:, -1:] + bias], 1)

    def forward(
        self, users, items=None
    ):  # (B,), (B,) or (B, C) or (1, C) -> scores, shape of the pairs; without items (B, n_items)
        if items is None:
            return self.score_items(users)
        p, bu = self.user_factors(users), self.user_biases(users)
        if items.dim() == 1:
            bu = bu.squeeze(-1)
        else:
            p = p.unsqueeze(1)
        q = unique_rows(self.item_rows, items)
        self.penalise(items)
        return self.in_range((p * q[..., :-1]).sum(-1) + q[..., -1] + bu + self.mean)

    def score_items(self, users):  # (B,) -> (B, n_items)
        """Scores of the whole catalogue: items worked out once, then a matrix product."""
        q = self.item_rows(self._all('item'))
        return self.in_range(self.user_factors(users) @ q[:, :-1].T + q[:, -1] + self.user_biases(users) + self.mean)

    def has_features(self, side: str) -> torch.Tensor:
        """bool (n,): which users or items have any features."""
        if side == 'user':
            return torch.zeros(self.user_factors.num_embeddings, dtype=torch.bool)
        return torch.stack([o.first.present.any(1) for o in self.encoders]).any(0)

    def _all(self, side):
        return torch.arange(
            (self.item_factors if side == 'item' else self.user_factors).num_embeddings, device=self.mean.device
        )

    def _average_user(self):
        return self.user_factors.weight[self.user_factors.known].mean(0)

    @torch.no_grad()
    def fused(self, p=None, codes=None):  # (n_factors,), (n,) -> (n, n_factors + 1)
        """What a user with the vector `p` (None: the average user) sees of items (None: all): (q, c + b_i)."""
        return self.item_rows(self._all('item') if codes is None else codes)

    def vectors(self, side: str) -> torch.Tensor:
        """Detached vectors, (n, n_factors), of 'user' or 'item' (as the average user sees it)."""
        return self.fused()[:, :-1] if side == 'item' else self.user_factors.weight.detach()

    def biases(self, side: str) -> torch.Tensor:
        """Detached biases, (n,), of 'user' or 'item' (its own and its features')."""
        return self.fused()[:, -1] if side == 'item' else self.user_biases.weight.detach().squeeze(-1)

    def intercept(self) -> float:
        """The mean."""
        return self.mean.item()

    def explain(self, user: int, item: int) -> dict:
        """Parts that add up to the score before the sigmoid: mean, user and item bias (floats) and the product of each factor, (n_factors,)."""
        p = self.user_factors.weight.detach()[user]
        q = self.fused(p, torch.tensor([item], device=p.device))[0]
        return dict(
            mean=self.mean.item(),
            user_bias=self.user_biases.weight[user].item(),
            item_bias=q[-1].item(),
            factors=p * q[:-1],
        )

    def add_items(self, blocks: dict):
        """Further items, by their features alone (name -> `Block`); their codes come after those there are."""
        for o in self.encoders:
            o.first.add_rows({name: blocks[name] for name in o.first.names})
        n = len(self.encoders[0].first) - self.item_factors.num_embeddings
        for table in (self.item_factors, self.item_biases):
            table.add_rows(n)
        self.log_counts = F.pad(self.log_counts, (0, n))


class SumHybrid(Hybrid):
    """`Hybrid` that adds up the pathways an item has."""

    def fuse(self, z, present):  # (n, M, n_factors + 1), bool (n, M) -> (n, n_factors + 1)
        """The sum over pathways."""
        return (z * present[..., None]).sum(1)


class ConcatHybrid(Hybrid):
    """`Hybrid` that puts the pathways side by side (0 where an item has none, and which it has) through a hidden layer: W_2 ReLU(W_1 [z_1, ..., z_M, present])."""

    def __init__(self, *args, width: int = 128, **kwargs):
        super().__init__(*args, **kwargs)
        m = len(self.names)
        self.width = width
        self.mix = nn.Sequential(
            nn.Linear(m * (self.n_factors + 2), width), nn.ReLU(), nn.Linear(width, self.n_factors + 1)
        )
        nn.init.zeros_(self.mix[-1].bias)

    def config(self) -> dict:
        """Arguments that make a model of this shape; the features are among them."""
        return dict(super().config(), width=self.width)

    def fuse(self, z, present):  # (n, M, n_factors + 1), bool (n, M) -> (n, n_factors + 1)
        """The hidden layer over all pathways."""
        return self.mix(torch.cat([(z * present[..., None]).flatten(1), present.to(z.dtype)], 1))


class GatedHybrid(Hybrid):
    """`Hybrid` with a learned gate: (q, c) = sum_m g_m(u, i) z_im, g = softmax over the pathways the item has.

    The gate's logits look at the user and at the item: a_m(u, i) = (W p_u) . (K_m z_im) + v_m . p_u + t_m . [z_im, 1], and for the id + s log(1 + n_i), n_i the item's training rows.
    Being bilinear, the logits of a whole catalogue are one matrix product for each pathway. The id's part starts at s = 1 and the offset at which its weight is (1 + n) / (1 + n + `shrinkage`) where all pathways
    are there: the weight that empirical Bayes gives to what n ratings say of an item, against what is known of items of its kind (Efron and Morris 1973). From there on it is learned. Without such a start
    it comes to lean on the id the less the more ratings there are: features that name a film learn it by heart as fast as its id does, and which of two equals it trusts is a matter of where it started.

    A gate that learns from the rows its pathways learn from prefers whichever knows them by heart: the id of an item with two ratings. So a share `held` of the pairs (chosen by a hash of
    their codes) trains the gate and nothing else, and the other pairs everything but the gate. With `held` = 0 the gate stays as it is and all pairs train the pathways; `GateCallback` sets that for the last part of a training.
    """

    def __init__(
        self,
        *args,
        gate_width: int = 8,  # length of W p_u
        held: float = 0.1,  # share of the pairs that trains the gate
        shrinkage: float = 8.0,  # ratings at which the id starts with about as much weight as all features
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        m, d = len(self.names), self.n_factors
        if not shrinkage > 0:
            raise ValueError(f'shrinkage={shrinkage}: a number of ratings above 0')
        self.gate_width, self.held, self.shrinkage = gate_width, held, shrinkage
        self.query = nn.Linear(d, gate_width + m, bias=False)  # W and v
        self.keys = nn.Parameter(torch.randn(m, d + 1, gate_width + 1) * d**-0.5)  # K_m, and t_m's part of z
        self.of_counts = nn.Parameter(torch.ones(()))  # s
        self.gate_offsets = nn.Parameter(F.one_hot(torch.tensor(0), m) * math.log((m - 1) / shrinkage))

    def config(self) -> dict:
        """Arguments that make a model of this shape; the features are among them."""
        return dict(super().config(), gate_width=self.gate_width, held=self.held, shrinkage=self.shrinkage)

    def item_rows(self, codes):  # (n,) -> (n, M * (n_factors + 1) + M * (gate_width + 1) + 1)
        """Pathways, keys and static logits (-inf where a pathway is masked), b_i."""
        z, present, bias = self.pathways(codes)
        keys = torch.einsum('nmd,mdk->nmk', z.detach(), self.keys)
        of_counts = F.pad((self.of_counts * self.log_counts[codes])[:, None], (0, len(self.names) - 1))
        static = keys[..., -1:] + (self.gate_offsets + of_counts)[..., None]
        static = static.masked_fill(~present[..., None], -torch.inf)
        return torch.cat([z.flatten(1), torch.cat([keys[..., :-1], static], -1).flatten(1), bias], 1)

    def _split(self, rows):
        m, d = len(self.names), self.n_factors + 1
        return (
            rows[..., : m * d].unflatten(-1, (m, d)),
            rows[..., m * d : -1].unflatten(-1, (m, self.gate_width + 1)),
            rows[..., -1],
        )

    def gates(self, p, rows):  # (..., n_factors), (..., width) -> (..., M)
        """Weights of the pathways, which add up to 1."""
        _, keys, _ = self._split(rows)
        query, own = self.query(p.detach()).split([self.gate_width, len(self.names)], -1)
        return ((keys[..., :-1] * query.unsqueeze(-2)).sum(-1) + keys[..., -1] + own).softmax(-1)

    def forward(self, users, items=None):
        """Scores of the pairs; without items (B, n_items)."""
        if items is None:
            return self.score_items(users)
        p, bu = self.user_factors(users), self.user_biases(users)
        if items.dim() == 1:
            bu, who = bu.squeeze(-1), users
        else:
            p, who = p.unsqueeze(1), users[:, None]
        rows = unique_rows(self.item_rows, items)
        z, _, bias = self._split(rows)
        gates, scores, rest = (
            self.gates(p, rows),
            (z[..., :-1] * p.unsqueeze(-2)).sum(-1) + z[..., -1],
            bias + bu + self.mean,
        )
        self.penalise(items)
        return self.in_range(self._mix(gates, scores, rest, who, items, -1))

    def _mix(self, gates, scores, rest, users, items, dim):
        """sum_m g_m s_m + rest; in training each pair's gradient goes to the gate or to all else."""
        if self.training:
            held = (users * 2654435761 + items * 40503 + (users ^ items) * 97) % 1009 < self.held * 1009
            gates = torch.where(held.unsqueeze(dim), gates, gates.detach())
            scores, rest = (
                torch.where(held.unsqueeze(dim), scores.detach(), scores),
                torch.where(held, rest.detach(), rest),
            )
        return (gates * scores).sum(dim) + rest

    def score_items(self, users):  # (B,) -> (B, n_items)
        """Scores of the whole catalogue: items worked out once, then matrix products for each pathway, in chunks of users under a budget of memory."""
        items = self._all('item')
        rows, m = self.item_rows(items), len(self.names)
        z, keys, bias = self._split(rows)
        parts = []
        for part in users.split(max(1, BUDGET // (8 * m * len(rows)))):
            p = self.user_factors(part)
            query, own = self.query(p.detach()).split([self.gate_width, m], -1)
            logits = torch.stack([query @ keys[:, j, :-1].T + keys[:, j, -1] + own[:, j, None] for j in range(m)])
            scores = torch.stack([p @ z[:, j, :-1].T + z[:, j, -1] for j in range(m)])
            parts.append(
                self._mix(logits.softmax(0), scores, bias + self.user_biases(part) + self.mean, part[:, None], items, 0)
            )
        return self.in_range(torch.cat(parts) if parts else bias.new_zeros(0, len(rows)))

    @torch.no_grad()
    def fused(self, p=None, codes=None):
        """What a user with the vector `p` (None: the average user) sees of items (None: all): (q, c + b_i)."""
        p = self._average_user() if p is None else p
        rows = self.item_rows(self._all('item') if codes is None else codes)
        z, _, bias = self._split(rows)
        q = (self.gates(p.expand(len(rows), -1), rows)[..., None] * z).sum(1)
        return torch.cat([q[:, :-1], q[:, -1:] + bias[:, None]], 1)

    @torch.no_grad()
    def gate_weights(self, users, items):  # (B,), (n,) -> (B, n, M)
        """Weights g_m of the pathways of `items` for `users`."""
        rows = self.item_rows(items)
        return torch.stack([self.gates(o.expand(len(rows), -1), rows) for o in self.user_factors(users)])

    @torch.no_grad()
    def contributions(self, users, items):  # (B,), (n,) -> (B, n, M)
        """What the pathways of `items` bring to the scores of `users`, before the sigmoid: g_m (p_u . z_im + c_im)."""
        z = self._split(self.item_rows(items))[0]
        return self.gate_weights(users, items) * (
            torch.einsum('bd,nmd->bnm', self.user_factors(users), z[..., :-1]) + z[..., -1]
        )
