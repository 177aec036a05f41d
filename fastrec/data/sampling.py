"""Negative samples: items a user has not seen, drawn for many rows at once on the device of the data."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ['NegativeSampler']

BITS_LIMIT = 2**32  # users x items up to which what was seen is kept as bits (512 MiB); beyond, as sorted keys
ROUNDS = 8  # of drawing again before the rows that are left are drawn one by one


class NegativeSampler:
    """Draws items that a user has no row for, without repeats within a draw, uniformly or in proportion to popularity^alpha.

    Items that nobody has a row for are not drawn, unless a user has too few others left: of a new item nothing says that it is not wanted, and a model that reads features would learn so of what it has in common with others.
    Items are drawn freely and those seen or repeated are drawn again; rows for which that does not succeed soon (users who have seen nearly
    everything) are drawn exactly, from what is left. Deviation from word2vec's sampler (Mikolov et al. 2013; alpha=0.75), whose popularity
    weighting this is: seen items are never drawn.
    """

    def __init__(
        self,
        seen,  # scipy CSR (n_users, n_items): stored entries are seen
        alpha: float = 0.0,  # 0: uniform; 1: in proportion to the number of rows of the item
    ):
        self.n_users, self.n_items = seen.shape
        self.seen, self.alpha = seen, alpha
        keys = torch.from_numpy(
            np.repeat(np.arange(self.n_users, dtype=np.int64), np.diff(seen.indptr)) * self.n_items + seen.indices
        )
        if self.n_users * self.n_items <= BITS_LIMIT:
            bits = np.zeros(self.n_users * self.n_items // 8 + 1, np.uint8)
            np.bitwise_or.at(bits, keys.numpy() >> 3, (1 << (keys.numpy() & 7)).astype(np.uint8))
            self.bits, self.keys = torch.from_numpy(bits), None
        else:
            self.bits, self.keys = None, keys.unique()
        counts = np.bincount(seen.indices, minlength=self.n_items)
        weights = counts.astype(np.float64) ** alpha if alpha else np.ones(self.n_items)
        self.items = None if alpha or (counts > 0).all() else torch.from_numpy(np.flatnonzero(counts))
        self.probabilities = torch.from_numpy(weights / weights.sum())
        self.keep, self.alias = _alias(self.probabilities.numpy()) if alpha else (None, None)

    def to(self, device):
        """Move to `device` in place; returns self."""
        for name in ('bits', 'keys', 'keep', 'alias', 'items'):
            if (t := getattr(self, name)) is not None and t.device != device:
                setattr(self, name, t.to(device))
        return self

    def left(self) -> np.ndarray:
        """How many items each user has not seen (and could be drawn), (n_users,)."""
        drawable = (self.probabilities > 0).numpy()
        return int(drawable.sum()) - np.add.reduceat(
            np.append(drawable[self.seen.indices], 0).astype(np.int64), self.seen.indptr[:-1]
        ) * (np.diff(self.seen.indptr) > 0)

    def is_seen(self, users, items):
        """bool, shape of `users` and `items` broadcast: int64 codes."""
        keys = users * self.n_items + items
        if self.bits is not None:
            return (
                self.bits.index_select(0, (keys >> 3).view(-1)).view(keys.shape) >> (keys & 7).to(torch.uint8) & 1
            ).bool()  # a quarter of the time of bits[keys >> 3]
        return self.keys[torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)] == keys

    def _draw(self, shape, device, generator):
        items = torch.randint(
            self.n_items if self.items is None else len(self.items), shape, device=device, generator=generator
        )
        if self.items is not None:
            return self.items[items]
        if self.keep is None:
            return items
        return torch.where(
            torch.rand(shape, device=device, generator=generator) < self.keep[items], items, self.alias[items]
        )

    def sample(self, users, n: int, generator=None):
        """int64 (len(users), n): distinct unseen items for each of `users`, int64 codes (B,)."""
        items = self._draw((len(users), n), users.device, generator)
        rows, bad = torch.arange(len(users), device=users.device), None
        for _ in range(ROUNDS):  # rows: those that may still be wrong
            part = items if bad is None else items[rows]
            bad = self.is_seen(users[rows, None], part) | _repeats(part)
            wrong = bad.any(1)
            rows, bad, part = rows[wrong], bad[wrong], part[wrong]
            if not len(rows):
                return items
            items[rows] = torch.where(bad, self._draw(part.shape, users.device, generator), part)
        for row in rows.tolist():
            items[row] = self._exact(int(users[row]), n, generator).to(items.device)
        return items

    def _exact(self, user, n, generator):
        weights = self.probabilities.clone()
        weights[
            torch.from_numpy(self.seen.indices[self.seen.indptr[user] : self.seen.indptr[user + 1]].astype(np.int64))
        ] = 0
        if (
            self.items is not None
            and (
                had := torch.zeros_like(weights).index_copy_(0, self.items.cpu(), weights[self.items.cpu()])
            ).count_nonzero()
            >= n
        ):
            weights = had
        left = int((weights > 0).sum())
        if left < n:
            raise ValueError(
                f'{n} negatives asked for, but a user has only {left} items left that could be drawn. Take a smaller n_neg, or leave out users who have seen nearly everything'
            )
        device = torch.device('cpu') if generator is None else generator.device
        return torch.multinomial(weights.to(device), n, generator=generator)


def _alias(probabilities):
    """Walker's alias method (Vose 1991): a uniform draw i stands with probability keep[i], else it is alias[i]."""
    n = len(probabilities)
    keep, alias = probabilities * n, np.arange(n)
    small, large = list(np.flatnonzero(keep < 1)), list(np.flatnonzero(keep >= 1))
    while small and large:
        i, j = small.pop(), large[-1]
        alias[i] = j
        keep[j] -= 1 - keep[i]
        if keep[j] < 1:
            small.append(large.pop())
    keep[small + large] = 1.0
    return torch.from_numpy(keep.astype(np.float32)), torch.from_numpy(alias)


def _repeats(items):
    """bool (B, n): is the item the same as an earlier one of its row?"""
    if items.shape[1] <= 16:
        res = torch.zeros_like(items, dtype=torch.bool)
        for j in range(1, items.shape[1]):
            res[:, j] = (items[:, :j] == items[:, j : j + 1]).any(1)
        return res
    ordered, at = items.sort(dim=1, stable=True)
    same = torch.zeros_like(items, dtype=torch.bool)
    same[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return torch.zeros_like(same).scatter_(1, at, same)
