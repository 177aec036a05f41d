"""Negative samples: items a user has not seen, drawn for many rows at once on the device of the data."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix

__all__ = ['NegativeSampler']

BITS_LIMIT = 2**32  # users x items up to which what was seen is kept as bits (512 MiB); beyond, as sorted keys
N_REDRAWS = 8  # rounds of drawing again before the rows that are left are drawn one by one
FEW_ITEMS = 16  # a row of so many is searched for repeats pair by pair, a longer one by sorting


class NegativeSampler:
    """Draws items that a user has no row for, each once a draw, uniformly or in proportion to popularity^alpha.

    Items that nobody has a row for are not drawn, unless a user has too few others left: of a new item nothing says
    that it is not wanted, and a model that reads features would learn so of what it has in common with others.

    Items are drawn freely and those seen or repeated are drawn again; rows for which that does not succeed soon (users
    who have seen nearly everything) are drawn exactly, from what is left. Deviation from word2vec's sampler (Mikolov et
    al. 2013; alpha=0.75), whose popularity weighting this is: seen items are never drawn.
    """

    def __init__(
        self,
        seen: csr_matrix,  # (n_users, n_items): stored entries are seen
        alpha: float = 0.0,  # 0: uniform; 1: in proportion to the number of rows of the item
    ) -> None:
        self.n_users, self.n_items = seen.shape
        self.seen = seen
        self.alpha = alpha
        self.bits: torch.Tensor | None = None  # uint8: bit user * n_items + item says whether it is seen
        self.keys: torch.Tensor | None = None  # or, where those would be too many: sorted user * n_items + item
        self._remember(seen)
        counts = np.bincount(seen.indices, minlength=self.n_items)
        weights = counts.astype(np.float64) ** alpha if alpha else np.ones(self.n_items)
        self.probabilities = torch.from_numpy(weights / weights.sum())  # (n_items,)
        # items that a uniform draw is among; None: all of them
        self.items = None if alpha or (counts > 0).all() else torch.from_numpy(np.flatnonzero(counts))
        self.keep: torch.Tensor | None = None  # of the alias method, for a draw by popularity
        self.alias: torch.Tensor | None = None
        if alpha:
            self.keep, self.alias = _alias(self.probabilities.numpy())

    def _remember(self, seen: csr_matrix) -> None:
        """Keep what is seen in the form that `is_seen` looks up."""
        users: np.ndarray = np.repeat(np.arange(self.n_users, dtype=np.int64), np.diff(seen.indptr))
        keys = users * self.n_items + seen.indices
        if self.n_users * self.n_items > BITS_LIMIT:
            self.keys = torch.from_numpy(keys).unique()
            return
        bits = np.zeros(self.n_users * self.n_items // 8 + 1, np.uint8)
        np.bitwise_or.at(bits, keys >> 3, (1 << (keys & 7)).astype(np.uint8))
        self.bits = torch.from_numpy(bits)

    def to(
        self,
        device: torch.device,  # where to
    ) -> NegativeSampler:
        """Move to `device` in place; returns self."""
        for name in ('bits', 'keys', 'keep', 'alias', 'items'):
            tensor = self.__dict__[name]
            if tensor is not None and tensor.device != device:
                self.__dict__[name] = tensor.to(device)
        return self

    def left(self) -> np.ndarray:
        """How many items each user has not seen (and could be drawn), (n_users,)."""
        drawable = (self.probabilities > 0).numpy()
        starts = self.seen.indptr[:-1]
        # an entry more than there are, where empty rows at the end can start
        of_entries: np.ndarray = np.append(drawable[self.seen.indices], 0).astype(np.int64)
        sums = np.add.reduceat(of_entries, starts)  # of an empty row wrong: what stands at its start
        has_seen = np.diff(self.seen.indptr) > 0
        return int(drawable.sum()) - sums * has_seen

    def is_seen(
        self,
        users: torch.Tensor,  # codes of users, int64, any shape
        items: torch.Tensor,  # codes of items, int64, of a shape that broadcasts with it
    ) -> torch.Tensor:
        """bool, shape of `users` and `items` broadcast: int64 codes."""
        keys = users * self.n_items + items
        if self.bits is not None:
            # index_select takes a quarter of the time of bits[keys >> 3]
            byte = self.bits.index_select(0, (keys >> 3).view(-1)).view(keys.shape)
            return (byte >> (keys & 7).to(torch.uint8) & 1).bool()
        assert self.keys is not None
        at = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        return self.keys[at] == keys

    def _draw(self, shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None) -> torch.Tensor:
        """Items (int64 codes of that shape) drawn freely, seen ones among them."""
        n = self.n_items if self.items is None else len(self.items)
        items = torch.randint(n, shape, device=device, generator=generator)
        if self.items is not None:
            return self.items[items]
        if self.keep is None or self.alias is None:
            return items
        stays = torch.rand(shape, device=device, generator=generator) < self.keep[items]
        return torch.where(stays, items, self.alias[items])

    def sample(
        self,
        users: torch.Tensor,  # codes of users, int64 (B,)
        n: int,  # items for each
        generator: torch.Generator | None = None,  # of the random numbers; None: torch's own
    ) -> torch.Tensor:
        """int64 (len(users), n): distinct unseen items for each of `users`, int64 codes (B,).

        `ValueError` for a user who has fewer than `n` left.
        """
        items = self._draw((len(users), n), users.device, generator)
        rows = torch.arange(len(users), device=users.device)  # that may still be wrong: at first all
        drawn = items  # those of `rows`
        for _ in range(N_REDRAWS):
            bad = self.is_seen(users[rows, None], drawn) | _repeats(drawn)
            wrong = bad.any(1)
            rows = rows[wrong]
            if not len(rows):
                return items
            drawn = drawn[wrong]
            drawn = torch.where(bad[wrong], self._draw(drawn.shape, users.device, generator), drawn)
            items[rows] = drawn
        for row in rows.tolist():
            items[row] = self._exact(int(users[row]), n, generator).to(items.device)
        return items

    def _exact(self, user: int, n: int, generator: torch.Generator | None) -> torch.Tensor:
        """`n` items for one user from all that are left, those that somebody has if they are enough."""
        weights = self.probabilities.clone()
        seen = self.seen.indices[self.seen.indptr[user] : self.seen.indptr[user + 1]]
        weights[torch.from_numpy(seen.astype(np.int64))] = 0
        if self.items is not None:
            had_by_somebody = self.items.cpu()
            of_those = torch.zeros_like(weights).index_copy_(0, had_by_somebody, weights[had_by_somebody])
            if of_those.count_nonzero() >= n:
                weights = of_those
        left = int((weights > 0).sum())
        if left < n:
            raise ValueError(
                f'{n} negatives asked for, but a user has only {left} items left that could be drawn. '
                'Take a smaller n_neg, or leave out users who have seen nearly everything'
            )
        device = torch.device('cpu') if generator is None else generator.device
        return torch.multinomial(weights.to(device), n, generator=generator)


def _alias(probabilities: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Tables of Walker's alias method (Vose 1991), each (n,), in the order of `probabilities`.

    A uniform draw i stands with probability keep[i] (float32), else it is alias[i] (int64).
    """
    n = len(probabilities)
    keep: np.ndarray = probabilities * n
    alias = np.arange(n)
    small = list(np.flatnonzero(keep < 1))
    large = list(np.flatnonzero(keep >= 1))
    while small and large:
        i = small.pop()
        j = large[-1]
        alias[i] = j  # what i lacks is taken from j
        keep[j] -= 1 - keep[i]
        if keep[j] < 1:
            small.append(large.pop())
    keep[small + large] = 1.0  # what is left is whole, up to rounding
    return torch.from_numpy(keep.astype(np.float32)), torch.from_numpy(alias)


def _repeats(items: torch.Tensor) -> torch.Tensor:
    """bool (B, n): is the item the same as an earlier one of its row?"""
    res = torch.zeros_like(items, dtype=torch.bool)
    if items.shape[1] <= FEW_ITEMS:
        for j in range(1, items.shape[1]):
            res[:, j] = (items[:, :j] == items[:, j : j + 1]).any(1)
        return res
    ordered, at = items.sort(dim=1, stable=True)
    same = torch.zeros_like(res)
    same[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return res.scatter_(1, at, same)
