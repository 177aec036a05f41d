"""Who has what: the rows of a table, the part of the split that each belongs to, and what users have seen."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from .columns import CHUNK_ROWS
from .digest import digest
from .interactions import Context, Interactions, Vocab
from .splits import Split

__all__ = ['History']


class History:
    """The checked rows of a table and how they are split: training data, which travels with a model only if asked.

    `interactions` and `split` are None where the rows stay in their files (`StreamHistory`).
    """

    def __init__(
        self,
        interactions: Interactions,  # the rows; None: they stay in their files
        split: Split,  # which of them are in train, valid and test
    ) -> None:
        self.interactions = interactions
        self.split = split

    # --- what a catalog is made from

    @property
    def vocab(self) -> dict[str, Vocab]:
        """{'user': Vocab, 'item': Vocab}."""
        return self.interactions.vocab

    @property
    def names(self) -> dict:
        """The column of each role in the table."""
        return self.interactions.names

    @property
    def context_of(self) -> Context | None:
        """What the columns of context mean; None without context."""
        return self.interactions.context_of

    def train_counts(
        self,
        side: str,  # 'user' or 'item'
    ) -> np.ndarray:
        """Training rows (of implicit feedback: positives) of each 'user' or 'item', int64 (n,); of weight 0 none."""
        rows = self.interactions.positive(self.split.train)
        if self.interactions.row_weights is not None:  # what counts nothing teaches nothing
            rows = rows[self.interactions.row_weights[rows] > 0]
        return self.interactions.counts(side, rows)

    def mean_rating(self) -> float | None:
        """Mean of the training ratings; None without ratings."""
        ratings, rows = self.interactions.ratings, self.split.train
        if ratings is None:
            return None
        parts = np.array_split(rows, -(-len(rows) // CHUNK_ROWS))
        return float(sum(ratings[part].sum(dtype=np.float64) for part in parts) / len(rows))

    def rating_range(self) -> tuple[float, float] | None:
        """Least and largest training rating; None without ratings, or where the rows stay in their files."""
        if self.interactions is None or self.interactions.ratings is None or not len(self.split.train):
            return None
        ratings, rows = self.interactions.ratings, self.split.train
        parts = np.array_split(rows, -(-len(rows) // CHUNK_ROWS))
        return float(min(ratings[part].min() for part in parts)), float(max(ratings[part].max() for part in parts))

    def rating_options(self) -> dict[str, Any]:
        """What ratings of the table stand for: `missing_rating`, of implicit feedback `threshold` and `weighted`."""
        inter = self.interactions
        if inter is None:
            return {}
        return {**(inter.options or {}), 'missing_rating': inter.missing_rating}

    def user_means(self) -> np.ndarray:
        """Mean training rating of each user, float64 (n_users,); of users without any, that of all rows."""
        inter, rows = self.interactions, self.split.train
        sums = np.bincount(inter.users[rows], inter.ratings[rows].astype(np.float64), inter.n_users)
        counts = inter.counts('user', rows)
        return np.where(counts > 0, sums / np.maximum(counts, 1), self.mean_rating())

    def in_words(self) -> str:
        """What there is, for a `repr`; nothing where the rows are at hand."""
        return ''

    def require_rows(
        self,
        way: str = '',  # what the error says to do
    ) -> None:
        """`ValueError` with the way out where the rows are not in memory."""

    # --- matrices

    @cached_property
    def seen(self) -> csr_matrix:
        """Training rows as a float32 CSR matrix (n_users, n_items) that has an entry where there is a row.

        Values are ratings, of implicit feedback weights: 0 where a row is not a positive.
        """
        return self.matrix(self.split.train)

    @cached_property
    def positives(self) -> csr_matrix:
        """Training positives as a float32 CSR matrix (n_users, n_items); of ratings the same as `seen`."""
        inter = self.interactions
        return self.seen if inter.weights is None else self.matrix(inter.positive(self.split.train))

    def matrix(
        self,
        rows: np.ndarray,  # places of rows, int (n,)
    ) -> csr_matrix:
        """`seen` of other rows (int positions) of the interactions."""
        inter = self.interactions
        if inter.weights is not None:
            values = inter.weights[rows]
        elif inter.ratings is not None:
            values = inter.ratings[rows]
        else:
            values = np.ones(len(rows), np.float32)
        return csr_matrix((values, (inter.users[rows], inter.items[rows])), shape=(inter.n_users, inter.n_items))

    def times(self) -> csr_matrix | None:
        """The time of each training row as the context has it, int64 CSR of the structure of `seen`.

        None if the time is not part of the context.
        """
        inter = self.interactions
        if self.context_of is None or self.context_of.time_column is None:
            return None
        rows = self.split.train
        ticks = inter.context[rows, self.context_of.time_column]
        return csr_matrix((ticks, (inter.users[rows], inter.items[rows])), shape=(inter.n_users, inter.n_items))

    def seen_of(
        self,
        users: np.ndarray,  # codes of users, int (B,)
    ) -> csr_matrix:
        """What `users` (codes) have in the training rows: something to index with their codes, here `seen`."""
        return self.seen

    @cached_property
    def trained_on(self) -> str | None:
        """16 hex digits that change with the ids and with which pairs are for training, in whatever order.

        None where the rows stay in their files.
        """
        inter = self.interactions
        if inter is None:
            return None
        rows = self.split.train
        pairs = np.unique(inter.users[rows].astype(np.int64) * inter.n_items + inter.items[rows])
        return digest(self.vocab['user'].ids, self.vocab['item'].ids, pairs)

    # --- rows

    @cached_property
    def part_of(self) -> np.ndarray:
        """int8 (rows,): 1 for a training row, 2 valid, 3 test, 0 for a row that is in no part."""
        res: np.ndarray = np.zeros(len(self.interactions), np.int8)
        for i, rows in enumerate(self.split, 1):
            if rows is not None:
                res[rows] = i
        return res

    def of_user(
        self,
        code: int,  # of the user
    ) -> tuple[np.ndarray, pd.DataFrame]:
        """Positions of a user's rows, and the rows: user, item, rating, time (those there are), part."""
        rows = np.flatnonzero(self.interactions.users == code)
        df = self.interactions.to_df(rows)
        df['part'] = np.array(['', *Split._fields], dtype=object)[self.part_of[rows]]
        return rows, df

    def with_vocab(
        self,
        vocab: dict[str, Vocab],  # {'user': ids, 'item': ids}: those there are, in their order, then further ones
    ) -> History:
        """The same rows under a vocabulary that has further ids after those there are."""
        return History(self.interactions.with_vocab(vocab), self.split)

    def digests(
        self,
        part: str = 'data',  # 'data', the columns, or 'split', who is held out
    ) -> dict[str, str]:
        """Name -> 16 hex digits that change with the values, and with nothing else: neither dtypes nor containers.

        Of 'data' each column, ids and codes of a side together; of 'split' each part. `ValueError` for another part.
        """
        if part == 'split':
            return {name: digest(rows) for name, rows in zip(Split._fields, self.split) if rows is not None}
        if part != 'data':
            raise ValueError(f"part={part!r}: 'data' or 'split'")
        inter = self.interactions
        codes = dict(user=inter.users, item=inter.items)
        res = {f'{side}s': digest(vocab.ids, codes[side]) for side, vocab in inter.vocab.items()}
        columns = {
            'ratings': inter.ratings,
            'weights of positives': inter.weights,
            'times': inter.times,
            'context': inter.context,
            'weights of rows': inter.row_weights,
        }
        return {**res, **{name: digest(column) for name, column in columns.items() if column is not None}}

    def fingerprint(
        self,
        part: str = 'data',  # 'data', the columns, or 'split', who is held out
    ) -> str:
        """16 hex digits that change with any id, code, rating, weight, time or context, or with the 'split'."""
        return digest([f'{name} {value}' for name, value in self.digests(part).items()])
