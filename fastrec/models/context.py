"""What belongs to an interaction itself and to neither its user nor its item: when it was, on what device."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from .embedding import EmbeddingTable

__all__ = ['Levels', 'TimeDependentBias']

NEAREST = 16  # ratings before a time, and as many after it, that say what mood a user is in
OCTAVES = 48  # distances in time are told apart by powers of two


class Levels(nn.Module):
    """A vector and a bias for each level of some columns, which add up: context (B, C) -> (B, n_factors), (B,).

    Level 0 (not given, or unknown) is the mean of the others. All start at 0, where a level without training rows stays.
    """

    def __init__(
        self,
        sizes: list,  # levels of each column, 0 included; columns of size 0 are none of ours
        n_factors: int,
    ):
        super().__init__()
        self.columns = [i for i, o in enumerate(sizes) if o]
        tables = lambda width: nn.ModuleList(
            EmbeddingTable(sizes[i], width, torch.arange(sizes[i]) > 0, 0) for i in self.columns
        )
        self.factors, self.biases = tables(n_factors), tables(1)

    def forward(self, context):
        of = lambda tables: sum(t(context[:, i].clamp(min=0)) for i, t in zip(self.columns, tables))
        return of(self.factors), of(self.biases).squeeze(-1)


class TimeDependentBias(nn.Module):
    """How far a user's ratings nearest in time were above expectation: users, items, times (B,) -> a sum_j w_j r_j / (sum_j w_j + d), (B,).

    j: up to `NEAREST` training ratings of the user before the time and as many from it on, without that of the item itself; r_j: what biases leave of the rating (`residuals_of`);
    w_j = exp(kernel[b]), b the octave of the distance in time (0 for none, else 1 + floor(log2 |t - t_j|)), so that the unit of time hardly matters. The kernel, a and d are learned.

    Koren, 'Collaborative Filtering with Temporal Dynamics', KDD 2009, has a bias per user and day; deviation: neighbours instead of bins, whose edges are arbitrary, and nothing to be learned
    per user. It fills in between ratings: a time far from all ratings of the user, and one that is not given (negative), have no mood, 0.
    """

    def __init__(
        self,
        times,  # scipy CSR (n_users, n_items), int64: when each training rating was
        residual,  # float32 (nnz,) in its order
    ):
        super().__init__()
        users, when = (
            np.repeat(np.arange(times.shape[0], dtype=np.int64), np.diff(times.indptr)),
            times.data.astype(np.int64),
        )
        span = int(when.max() - when.min()) + 1 if len(when) else 1
        self.unit = 1 + span // 2 ** min(
            32, 62 - times.shape[0].bit_length()
        )  # user and time have to fit 63 bits, of 32 for the time: decades of quarters of a second
        when = when // self.unit
        order = np.lexsort((when, users))
        self.start = int(when.min()) if len(when) else 0
        self.span = int(when.max()) - self.start + 1 if len(when) else 1
        for name, values in dict(
            key=users * self.span + (when - self.start), items=times.indices.astype(np.int32), residual=residual
        ).items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values[order])), persistent=False)
        self.kernel = nn.Parameter(-0.2 * torch.arange(OCTAVES))
        self.amplitude, self.damping = (
            nn.Parameter(torch.tensor(0.3)),
            nn.Parameter(torch.tensor(1.0)),
        )  # d = exp(damping)

    def _near(self, users, times):  # -> (B, 2 * NEAREST) items, w * r, w of the neighbours; w = 0 where there are less
        if self.unit > 1:
            times = torch.div(times, self.unit, rounding_mode='floor')
        n, at = len(self.key), (times - self.start).clamp(0, self.span - 1)
        where = torch.searchsorted(self.key, users * self.span + at)[:, None] + torch.arange(
            -NEAREST, NEAREST, device=users.device
        )
        inside = where.clamp(0, max(n - 1, 0))
        key = self.key[inside] if n else inside
        theirs = (
            (where >= 0)
            & (where < n)
            & (torch.div(key, self.span, rounding_mode='floor') == users[:, None])
            & (times >= 0)[:, None]
        )
        distance = (times[:, None] - (key - users[:, None] * self.span + self.start)).abs()
        octave = torch.where(distance > 0, distance.clamp(min=1).float().log2().floor().long() + 1, 0).clamp(
            0, OCTAVES - 1
        )
        w = self.kernel[octave].exp() * theirs
        if not n:
            return inside, w * 0.0, w * 0.0
        return self.items[inside], w * self.residual[inside], w

    def forward(self, users, items, times):
        near, wr, w = self._near(users, times)
        other = near != items[:, None]
        return self.amplitude * (wr * other).sum(1) / ((w * other).sum(1) + self.damping.exp())

    def all_items(self, users, times, n_items):  # (B,) -> (B, n_items)
        """The same for every item."""
        near, wr, w = self._near(users, times)
        total, weight = wr.sum(1, keepdim=True), w.sum(1, keepdim=True)
        res = (total / (weight + self.damping.exp())).repeat(1, n_items)
        mine = (total - wr) / (weight - w + self.damping.exp())
        mine = torch.where(w > 0, mine, res[:, :1].expand_as(mine))
        b = torch.arange(len(users), device=users.device)[:, None].expand_as(near)[w > 0]
        return self.amplitude * res.index_put((b, near[w > 0].long()), mine[w > 0])
