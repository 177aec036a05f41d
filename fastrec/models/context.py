"""What belongs to an interaction itself and to neither its user nor its item: when it was, on what device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import nn

from .embedding import EmbeddingTable

__all__ = ['Levels', 'TimeDependentBias']

NEAREST = 16  # ratings before a time, and as many after it, that tell a user's bias at the time
OCTAVES = 48  # distances in time are told apart by powers of two


class Levels(nn.Module):
    """A vector and a bias for each level of some columns, which add up: context (B, C) -> (B, n_factors), (B,).

    Level 0 (not given, or unknown) is the mean of the others. All start at 0, where a level without training rows
    stays.
    """

    def __init__(
        self,
        sizes: Sequence[int],  # levels of each column, 0 included; columns of size 0 are not read
        n_factors: int,  # length of the vectors
    ) -> None:
        super().__init__()
        self.columns = [i for i, size in enumerate(sizes) if size]
        used = [sizes[i] for i in self.columns]
        self.factors = nn.ModuleList(_level_table(size, n_factors) for size in used)
        self.biases = nn.ModuleList(_level_table(size, 1) for size in used)

    def forward(
        self,
        context: torch.Tensor,  # levels of each column, int64 (B, columns); negative: not given
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums over the columns of vectors (B, n_factors) and biases (B,)."""
        vectors = self._sum(self.factors, context)
        biases = self._sum(self.biases, context)
        return vectors, biases.squeeze(-1)

    def _sum(self, tables: nn.ModuleList, context: torch.Tensor) -> torch.Tensor:
        """The sum of a table's rows over the columns; what is not given (negative) is level 0."""
        return sum(table(context[:, i].clamp(min=0)) for i, table in zip(self.columns, tables))


def _level_table(size: int, width: int) -> EmbeddingTable:
    """Rows of the levels of a column, of which level 0 is unknown."""
    return EmbeddingTable(size, width, torch.arange(size) > 0, 0)


class TimeDependentBias(nn.Module):
    """A user's bias at a time: users, items, times (B,) -> a sum_j w_j r_j / (sum_j w_j + d), (B,).

    It says how far the user's ratings nearest in time were above expectation. j: up to `NEAREST` training ratings of
    the user before the time and as many from it on, without that of the item itself; r_j: what biases leave of the
    rating (`residuals_of`); w_j = exp(kernel[b]), b the octave of the distance in time (0 for none, else
    1 + floor(log2 |t - t_j|)), so that the unit of time hardly matters. The kernel, a and d are learned.

    Koren, 'Collaborative Filtering with Temporal Dynamics', KDD 2009, has a bias per user and day; deviation:
    neighbors instead of bins, whose edges are arbitrary, and nothing to be learned per user. It fills in between
    ratings: a time far from all ratings of the user, and one that is not given (negative), have a bias of 0.
    """

    def __init__(
        self,
        times: csr_matrix,  # (n_users, n_items), int64: when each training rating was
        residual: np.ndarray,  # float32 (nnz,) in its order
    ) -> None:
        super().__init__()
        n_users = times.shape[0]
        users: np.ndarray = np.repeat(np.arange(n_users, dtype=np.int64), np.diff(times.indptr))
        when = times.data.astype(np.int64)
        # user and time have to fit 63 bits, of which 32 are for the time: decades of quarters of a second
        bits = min(32, 62 - n_users.bit_length())
        span = int(when.max()) - int(when.min()) + 1 if len(when) else 1
        self.unit = 1 + span // 2**bits
        when = when // self.unit
        self.start = int(when.min()) if len(when) else 0
        self.span = int(when.max()) - self.start + 1 if len(when) else 1
        order = np.lexsort((when, users))
        key = users * self.span + (when - self.start)  # sorted by user, then time
        self._keep('key', key[order])
        self._keep('items', times.indices.astype(np.int32)[order])
        self._keep('residual', residual[order])
        self.kernel = nn.Parameter(-0.2 * torch.arange(OCTAVES))
        self.amplitude = nn.Parameter(torch.tensor(0.3))  # a
        self.damping = nn.Parameter(torch.tensor(1.0))  # log d

    def _keep(self, name: str, values: np.ndarray) -> None:
        """Register values of the training ratings, which are not part of the state."""
        self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values)), persistent=False)

    def forward(
        self,
        users: torch.Tensor,  # codes of users, int64 (B,)
        items: torch.Tensor,  # codes of items, int64 (B,)
        times: torch.Tensor,  # int64 (B,), in the unit of the table; negative: not given
    ) -> torch.Tensor:
        """Biases (B,) of pairs at times (B,)."""
        near, wr, w = self._neighbors(users, times)
        other = near != items[:, None]
        total = (wr * other).sum(1)
        weight = (w * other).sum(1)
        return self.amplitude * total / (weight + self.damping.exp())

    def all_items(
        self,
        users: torch.Tensor,  # codes of users, int64 (B,)
        times: torch.Tensor,  # int64 (B,), in the unit of the table; negative: not given
        n_items: int,  # how many items
    ) -> torch.Tensor:
        """Biases of every item at times (B,): (B, n_items). They differ where the item is among the neighbors."""
        near, wr, w = self._neighbors(users, times)
        damping = self.damping.exp()
        total = wr.sum(1, keepdim=True)
        weight = w.sum(1, keepdim=True)
        of_others = total / (weight + damping)  # (B, 1): items that are not among the neighbors
        without_own = (total - wr) / (weight - w + damping)  # (B, 2 * NEAREST): those that are
        there = w > 0
        without_own = torch.where(there, without_own, of_others.expand_as(without_own))
        row = torch.arange(len(users), device=users.device)[:, None].expand_as(near)
        places = row[there], near[there].long()
        biases = of_others.repeat(1, n_items).index_put(places, without_own[there])
        return self.amplitude * biases

    def _neighbors(self, users: torch.Tensor, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Items, w * r and w of the ratings nearest in time, (B, 2 * NEAREST) each; w = 0 where there are fewer."""
        if self.unit > 1:
            times = torch.div(times, self.unit, rounding_mode='floor')
        n = len(self.key)
        inner_times = (times - self.start).clamp(0, self.span - 1)
        middle = torch.searchsorted(self.key, users * self.span + inner_times)
        place = middle[:, None] + torch.arange(-NEAREST, NEAREST, device=users.device)
        inside = place.clamp(0, max(n - 1, 0))
        key = self.key[inside] if n else inside
        given = (times >= 0)[:, None]
        own = torch.div(key, self.span, rounding_mode='floor') == users[:, None]
        counts = (place >= 0) & (place < n) & own & given
        distance = (times[:, None] - (key - users[:, None] * self.span + self.start)).abs()
        w = self.kernel[_octave(distance)].exp() * counts
        if not n:
            return inside, w * 0.0, w * 0.0
        return self.items[inside], w * self.residual[inside], w


def _octave(distance: torch.Tensor) -> torch.Tensor:
    """0 of a distance of 0, else 1 + floor(log2(distance)), at most OCTAVES - 1: int64 of any shape."""
    octave = distance.clamp(min=1).float().log2().floor().long() + 1
    return torch.where(distance > 0, octave, 0).clamp(0, OCTAVES - 1)
