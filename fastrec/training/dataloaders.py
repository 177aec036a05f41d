"""From tables to fastai `DataLoaders` that slice tensors: every row once an epoch, permuted on the device."""

from __future__ import annotations

from copy import copy
from warnings import warn

import numpy as np
import pandas as pd
import torch
from fastai.data.core import DataLoaders
from fastai.torch_core import default_device
from fastcore.meta import delegates

from ..data.catalog import Catalog, cold_groups, cold_mask
from ..data.columns import CHUNK_ROWS, column_of, first_few
from ..data.files import FileTable
from ..data.history import History
from ..data.interactions import Interactions
from ..data.sampling import NegativeSampler
from ..data.splits import LARGE, Split, describe_splitter, everything, make_split, split_summary
from ..data.stream import PARTS, ParquetStream, StreamHistory
from .batches import (
    InBatchDL,
    InteractionDataset,
    InteractionDL,
    NegativesDL,
    UserDataset,
    UserDL,
    auto_batch_size,
    user_batch_size,
)
from .stream_batches import BUFFER_ROWS, StreamDataset, StreamDL

__all__ = ['RecDataLoaders', 'StreamDataLoaders']

FEW_STEPS = 20


class RecDataLoaders(DataLoaders):
    """`DataLoaders` of a rating table: `train`, `valid` and, if the split has one, `test` (`dls[2]`).

    `catalog` knows ids, metadata and history; `vocab` is `{'user': Vocab, 'item': Vocab}`. `print(dls.summary())` tells what is in each part.
    """

    split_by = None  # how the split was made, in words

    def __init__(self, *loaders, path='.', device=None):
        super().__init__(*loaders, path=path, device=device if device is not None else default_device())
        self.n_inp = loaders[0].dataset.n_inp
        self.target = (
            'implicit'
            if isinstance(loaders[0], (NegativesDL, InBatchDL, UserDL))
            else 'rating'
            if self.catalog.thresholds is None
            else 'liked'
        )  # what the loaders were made for

    @classmethod
    def from_df(
        cls,
        df: pd.DataFrame,  # one row per interaction
        valid_pct: float = 0.2,  # share of rows in valid, if no splitter is given; 0: all rows are for training, as for the last fit before a model is used
        seed: int = None,  # of that random split
        splitter=None,  # a splitter (fastai's or ours), the name of a column, or two or three index arrays
        item_df: pd.DataFrame = None,  # what is known of items: a column of ids, and e.g. title, year, genres
        user_df: pd.DataFrame = None,  # what is known of users
        user_name: str = None,  # column of user ids
        item_name: str = None,  # column of item ids
        rating_name: str = None,  # column of ratings; False: none
        time_name: str = None,  # column of times; False: none
        title_name: str = None,  # column of `item_df` with the titles
        duplicates: str = 'error',  # repeated user-item pairs of ratings: 'error', 'first', 'last' or 'mean'
        target: str = 'rating',  # 'rating': predict it; 'liked': 1 if it reaches the user's own mean over the training rows, else 0; 'implicit': rank what users choose, where repeats add up
        threshold: float = None,  # 'implicit': ratings from it on are positives; the other rows count as seen
        weighted: bool = False,  # 'implicit': a row counts as much as its rating says (play counts; with a long tail, train on their logarithm), not once
        context=None,  # columns of what belongs to the interaction itself (its time, a device, a weekday), for ratings: batches have it as third input, and `svdpp_learner` and `collab_learner` read it (see `Context`)
        weight_name: str = None,  # column of what each rating counts in the loss (recent ones, rare ones more), from 0 up; errors such as rmse count all rows alike
        n_neg: int = 4,  # 'implicit': negatives drawn for each positive; 0: the other items of the batch are the negatives; None: a row is a user, and the objective is over the whole catalogue
        alpha: float = 0.0,  # 'implicit': negatives are drawn in proportion to popularity^alpha (0: uniformly)
        bs: int = None,  # batch size; by default a power of two that leaves about 300 steps an epoch (25 where a row is a user)
        path='.',  # where learners save models
        device=None,  # where batches are made; by default fastai's default device
    ):
        """`RecDataLoaders` of a table; columns not named are found by their usual names, else by position (user, item, rating, time)."""
        if target not in ('rating', 'liked', 'implicit'):
            raise ValueError(f"target={target!r}: choose 'rating', 'liked' or 'implicit'")
        if target != 'implicit' and (threshold is not None or weighted):
            raise ValueError("threshold= and weighted= say what is a positive: they go with target='implicit'")
        policy = 'keep' if target == 'implicit' else duplicates
        if isinstance(df, FileTable):
            inter, df = df.interactions(
                user_name,
                item_name,
                rating_name,
                time_name,
                policy,
                whole=splitter is not None and not callable(splitter),
                context=context,
                weight_name=weight_name,
            )
        else:
            inter = Interactions.from_df(
                df, user_name, item_name, rating_name, time_name, policy, context=context, weight_name=weight_name
            )
        if target == 'implicit':
            if weight_name is not None:
                raise ValueError(
                    'weight_name= is for ratings; of implicit feedback weighted=True makes the rating column the weight of a row'
                )
            if context is not None:
                raise ValueError(
                    "context= is for ratings: what was not chosen has none. Leave it out, or learn target='rating' or 'liked'"
                )
            inter = inter.implicit(threshold, weighted)
        by = (
            f'random rows: valid_pct={valid_pct:g}, seed={seed}'
            if splitter is None and valid_pct
            else 'all rows for training'
            if splitter is None
            else describe_splitter(splitter)
        )
        split = make_split(inter, _default_splitter(valid_pct, seed) if splitter is None else splitter, df)
        res = cls.from_interactions(
            inter,
            split,
            liked=target == 'liked',
            item_df=item_df,
            user_df=user_df,
            title_name=title_name,
            n_neg=n_neg,
            alpha=alpha,
            bs=bs,
            path=path,
            device=device,
        )
        res.split_by = by
        return res

    @classmethod
    @delegates(from_df)
    def from_csv(cls, csv, sep: str = ',', encoding: str = None, parse_dates=None, **kwargs):
        """`RecDataLoaders` of a CSV file; see `from_df`. Read in parts by pyarrow if that is there, so that the table is never in memory as a whole, else (or with `parse_dates`) by pandas."""
        return cls.from_df(FileTable(csv, 'csv', sep=sep, encoding=encoding, parse_dates=parse_dates), **kwargs)

    @classmethod
    @delegates(from_df)
    def from_parquet(
        cls,
        file,  # a file, a folder of files, or a list of them
        columns: list = None,  # read only these
        stream: bool = False,  # leave the rows in the files, which may be larger than memory: they are read in shuffled row groups at each epoch; for ratings
        buffer: int = 2**22,  # with `stream`: rows that are shuffled together
        **kwargs,
    ):
        """`RecDataLoaders` of parquet (needs pyarrow, the extra 'parquet'); see `from_df`.

        It is read in parts, so that the table is never in memory as a whole: what stays of a row is 20 bytes, 4 more with times before 1970 or after 2038, or with `stream` nothing (see `StreamDataLoaders`; the split is then `valid_pct` and
        `seed`, or a column).
        """
        if stream:
            return StreamDataLoaders.of_stream(file, columns, buffer, **kwargs)
        return cls.from_df(FileTable(file, columns=columns), **kwargs)

    @classmethod
    def from_interactions(
        cls,
        interactions: Interactions,  # checked rows; with `weights` (see `Interactions.implicit`) they are implicit feedback
        splitter,  # a splitter, or two or three index arrays
        item_df=None,
        user_df=None,
        title_name=None,
        n_neg: int = 4,
        alpha: float = 0.0,
        bs: int = None,
        path='.',
        device=None,
        liked: bool = False,  # of ratings: the target is whether they reach the user's own mean over the training rows
    ):
        """`RecDataLoaders` of checked interactions; arguments as in `from_df`."""
        inter = interactions
        if inter.ratings is None and inter.weights is None:
            raise ValueError(
                "the table has no rating column to learn from. Name it with rating_name=, or rank what users choose with target='implicit'"
            )
        if liked and inter.weights is not None:
            raise ValueError('liked=True is for ratings, and these interactions are implicit feedback')
        split = make_split(inter, splitter)
        catalog = Catalog(History(inter, split), item_df, user_df, title_name, liked)
        if inter.weights is not None and n_neg is None:
            loaders = _user_loaders(catalog, bs)
        else:
            n_rows = len(inter.positive(split.train))
            if bs is None:
                bs = auto_batch_size(n_rows)
            elif n_rows < FEW_STEPS * bs and bs > auto_batch_size(n_rows):
                warn(
                    f'bs={bs} leaves {-(-n_rows // bs)} steps an epoch for {n_rows:,} training rows: too few for a model to learn much. '
                    f'Try bs={auto_batch_size(n_rows)} (the default), or more epochs',
                    stacklevel=3,
                )
            loaders = (
                _rating_loaders(catalog, bs)
                if inter.weights is None
                else _negatives_loaders(catalog, bs, n_neg, alpha)
                if n_neg
                else _in_batch_loaders(catalog, bs)
            )
        res = cls(*loaders, path=path, device=device)
        res.split_by = describe_splitter(splitter)
        return res

    def rebuilt(self, interactions, split, item_df=None, user_df=None):
        """Loaders made as these were, of other interactions; metadata is that of these, with the rows of `item_df, user_df` added."""
        train, old = self.train, self.catalog
        options = dict(
            n_neg=None if self.n_inp == 1 else getattr(train, 'n_neg', 4),
            alpha=train.sampler.alpha if isinstance(train, NegativesDL) else 0.0,
            liked=self.target == 'liked',
        )
        metadata = {
            f'{side}_df': _joined(before, more, old.names[side], side)
            for side, before, more in (('item', old.item_df, item_df), ('user', old.user_df, user_df))
        }
        res = type(self).from_interactions(
            interactions,
            split,
            **metadata,
            title_name=old.title_name,
            bs=train.bs,
            path=self.path,
            device=self.device,
            **options,
        )
        for dl, before in zip(res.loaders, self.loaders):
            dl.seed = before.seed
        res.split_by = f'{self.split_by}, then extended'
        return res

    def in_batch(self, bs: int = None):
        """Loaders of the same implicit feedback whose negatives are the other items of the batch (as `n_neg=0` makes them), with batches of the same size unless `bs` says otherwise."""
        if self.target != 'implicit':
            raise ValueError(
                f"negatives are for implicit feedback, and these loaders hold a {self.target}: make them with target='implicit', n_neg=0"
            )
        if bs is None:
            bs = (
                self.train.bs
                if self.n_inp == 2
                else auto_batch_size(len(self.catalog.interactions.positive(self.catalog.split.train)))
            )
        res = type(self)(*_in_batch_loaders(self.catalog, bs), path=self.path, device=self.device)
        res.split_by = self.split_by
        return res

    def __repr__(self):
        return f'RecDataLoaders({self.target}, {", ".join(f"{name} {len(dl.dataset):,}" for name, dl in zip(Split._fields, self.loaders))}, bs {self.train.bs}, {self.catalog})'

    @property
    def catalog(self) -> Catalog:
        return self.train.dataset.catalog

    @property
    def vocab(self):
        return self.catalog.vocab

    @property
    def n_users(self) -> int:
        return self.catalog.n_users

    @property
    def n_items(self) -> int:
        return self.catalog.n_items

    @property
    def item_df(self):
        return self.catalog.item_df

    @property
    def y_bounds(self) -> tuple:
        """Lowest and highest rating of the table."""
        y = self.catalog.require_history().interactions.ratings
        return float(y.min()), float(y.max())

    def cold_shares(self, scorer) -> dict:
        """Group of `standing` -> share of the valid rows."""
        inter, rows = self.catalog.require_history().interactions, self.catalog.split.valid
        if not len(rows):
            return dict(all=1.0)
        return {
            k: float(m.mean())
            for k, m in cold_groups(scorer, self.catalog, inter.users[rows], inter.items[rows]).items()
        }

    def new_empty(self):
        return type(self)(*(dl.new(dl.dataset.new_empty()) for dl in self.loaders), path=self.path, device=self.device)

    def with_catalog(self, catalog):
        """The same rows under a catalog that knows further items (see `Catalog.with_items`); negatives are drawn from the items of before."""
        loaders = []
        for dl in self.loaders:
            loaders.append(copy(dl))
            loaders[-1].dataset = dl.dataset.with_catalog(catalog)
        return type(self)(*loaders, path=self.path, device=self.device)

    def summary(self) -> str:
        """Users, items, rows and density, rows per user and item, and who is cold in each part."""
        text = split_summary(self.catalog.require_history().interactions, self.catalog.split)
        if self.target != 'liked':
            return text
        liked = ', '.join(
            f'{self.catalog.liked(rows).mean():.1%} of {name}'
            for name, rows in zip(Split._fields, self.catalog.split)
            if rows is not None
        )
        return f"{text}\nliked (at or above the user's mean over the training rows): {liked}"

    def show_batch(self, b=None, max_n: int = 9, **kwargs):
        """Show rows of a training batch with ids and titles."""
        return self.train.show_batch(b, max_n, **kwargs)

    def test_dl(
        self,
        test_items,  # a table with user and item columns, or a list of (user, item) pairs
        with_labels: bool = False,  # take targets from the table's rating column
        bs: int = None,
        **kwargs,  # (fastai passes rm_type_tfms, num_workers and process, which mean nothing here)
    ):
        """A loader of pairs to predict, in the order given; unknown ids raise a `KeyError`. Of context that the table has no column of, nothing is given."""
        catalog, names = self.catalog, self.catalog.names
        if not isinstance(test_items, pd.DataFrame):
            pairs = list(test_items)
            if not all(isinstance(o, (tuple, list)) and len(o) == 2 for o in pairs):
                raise ValueError(f'expected a table, or a list of (user, item) pairs, got {first_few(pairs, 3)}')
            if with_labels:
                raise ValueError('pairs have no labels: give a table with a rating column')
            test_items = pd.DataFrame({'user': [o[0] for o in pairs], 'item': [o[1] for o in pairs]})
        codes = [
            catalog.vocab[side].encode(test_items[column_of(test_items, side, names)]) for side in ('user', 'item')
        ]
        if n := int(cold_mask(catalog, *codes).sum()):
            warn(
                f'{n:,} of {len(codes[0]):,} pairs have a user or an item without training rows: unless the model reads their features, they are predicted as the average one',
                stacklevel=2,
            )
        tensors = [torch.from_numpy(o) for o in codes]
        if self.n_inp == 3:
            tensors.append(torch.from_numpy(catalog.context_of.encode(test_items)))
        if with_labels:
            ratings = test_items[column_of(test_items, 'rating', names)].to_numpy()
            tensors.append(
                torch.tensor(
                    ratings if catalog.thresholds is None else ratings >= catalog.thresholds[codes[0]],
                    dtype=torch.float32,
                )
            )
        dataset = InteractionDataset(tensors, None, catalog, 3 if self.n_inp == 3 else 2)
        return InteractionDL(dataset, bs=bs or max(self.valid.bs, 4096), device=self.device)


def _joined(before, more, id_name, side):
    """Metadata `before` (which has the column `id_name`) with the rows of `more`, which count where both have an id."""
    if more is None:
        return before
    more = more.rename(columns={column_of(more, side, {side: id_name}): id_name})
    return (
        more if before is None else pd.concat([before, more]).drop_duplicates(id_name, keep='last', ignore_index=True)
    )


def _parts(split):
    return [o for o in split if o is not None]


def _rating_loaders(catalog, bs):
    inter = catalog.interactions
    target = inter.ratings if catalog.thresholds is None else catalog.liked(slice(None)).astype(np.float32)
    columns = [
        torch.from_numpy(o)
        for o in (inter.users, inter.items, inter.context, target, inter.row_weights)
        if o is not None
    ]
    return [
        InteractionDL(
            InteractionDataset(columns, torch.from_numpy(rows), catalog, 2 if inter.context is None else 3),
            bs=bs if i == 0 else max(bs, 4096),
            shuffle=i == 0,
        )
        for i, rows in enumerate(_parts(catalog.split))
    ]


def _seen_until(split, i):
    return np.concatenate(_parts(split)[: i + 1])


def _negatives_loaders(catalog, bs, n_neg, alpha):
    """Training never draws what a user has in train, validation also not what it has in valid, and so on: excluding held-out items from training would give them away."""
    inter = catalog.interactions
    if n_neg < 1:
        raise ValueError(
            f'n_neg={n_neg}: negatives for each positive, 0 for those of the batch, or None for an objective over the whole catalogue'
        )
    columns = [torch.from_numpy(o) for o in (inter.users, inter.items)]
    if (inter.weights[inter.positive()] != 1).any():
        columns.append(torch.from_numpy(inter.weights))
    loaders = []
    for i, rows in enumerate(_parts(catalog.split)):
        sampler = NegativeSampler(
            catalog.require_history().seen if i == 0 else catalog.history.matrix(_seen_until(catalog.split, i)), alpha
        )
        positives = inter.positive(rows)
        if len(rows) and not len(positives):
            raise ValueError(
                f'the {catalog.split._fields[i]} part has no positives ({len(rows):,} rows are below the threshold)'
            )
        left = sampler.left()[np.unique(inter.users[positives])]
        if len(left) and left.min() < n_neg:
            raise ValueError(
                f'n_neg={n_neg} negatives cannot be drawn for {int((left < n_neg).sum()):,} users, who leave as few as {left.min()} of {catalog.n_items:,} items unseen. Take n_neg={max(int(left.min()), 1)} or less, '
                'drop those users, or n_neg=None for an objective over the whole catalogue'
            )
        loaders.append(
            NegativesDL(
                InteractionDataset(columns, torch.from_numpy(positives), catalog),
                sampler,
                n_neg,
                neg_seed=None if i == 0 else i,
                bs=bs if i == 0 else max(bs, 4096),
                shuffle=i == 0,
            )
        )
    return loaders


def _in_batch_loaders(catalog, bs):
    """What a user has up to a part is no negative in it, as in `_negatives_loaders`."""
    inter, loaders = catalog.interactions, []
    columns = [torch.from_numpy(o) for o in (inter.users, inter.items)]
    if (inter.weights[inter.positive()] != 1).any():
        columns.append(torch.from_numpy(inter.weights))
    for i, rows in enumerate(_parts(catalog.split)):
        positives = inter.positive(rows)
        if len(rows) and not len(positives):
            raise ValueError(
                f'the {catalog.split._fields[i]} part has no positives ({len(rows):,} rows are below the threshold)'
            )
        seen = catalog.require_history().seen if i == 0 else catalog.history.matrix(_seen_until(catalog.split, i))
        loaders.append(
            InBatchDL(InteractionDataset(columns, torch.from_numpy(positives), catalog), seen, bs=bs, shuffle=i == 0)
        )
    return loaders


def _user_loaders(catalog, bs):
    inter, split, loaders = catalog.interactions, catalog.split, []
    bs = user_batch_size(catalog.n_users, catalog.n_items) if bs is None else bs
    for i, rows in enumerate(_parts(split)):
        masked = None if i == 0 else catalog.history.matrix(_seen_until(split, i - 1))
        loaders.append(
            UserDL(UserDataset(catalog.history.matrix(inter.positive(rows)), masked, catalog), bs=bs, shuffle=i == 0)
        )
    return loaders


def _positions(mask):
    """Where `mask` is True: int64, in large tables int32."""
    if len(mask) < LARGE:
        return np.flatnonzero(mask)
    return np.concatenate(
        [(np.flatnonzero(mask[i : i + CHUNK_ROWS]) + i).astype(np.int32) for i in range(0, len(mask), CHUNK_ROWS)]
    )


def _default_splitter(valid_pct, seed):
    if valid_pct == 0:
        return everything
    if not 0 < valid_pct < 1:
        raise ValueError(f'valid_pct={valid_pct}: a share between 0 and 1, or 0 to train on every row')

    def split(inter):
        order = np.arange(len(inter), dtype=np.int32 if len(inter) < 2**31 else np.int64)
        np.random.default_rng(seed).shuffle(order)
        valid = np.zeros(len(inter), bool)
        valid[order[: max(1, int(round(valid_pct * len(inter))))]] = True
        del order
        return Split(*(_positions(o) for o in (~valid, valid)))

    return split


class StreamDataLoaders(RecDataLoaders):
    """`RecDataLoaders` of ratings that stay in their files: what `RecDataLoaders.from_parquet(..., stream=True)` makes.

    Training, `lr_find`, errors of the valid part, `get_preds`, `predict` and `recommend` work as ever; seen items are looked up in the files, in one pass for millions of rows. What needs all rows at once says so; `of_users` has those of some users.
    """

    @classmethod
    def of_stream(
        cls,
        file,
        columns=None,
        buffer: int = BUFFER_ROWS,
        valid_pct: float = 0.2,
        seed: int = None,
        splitter: str = None,
        item_df=None,
        user_df=None,
        user_name: str = None,
        item_name: str = None,
        rating_name: str = None,
        time_name: str = None,
        title_name: str = None,
        target: str = 'rating',
        bs: int = None,
        path='.',
        device=None,
        **others,
    ):
        """Loaders of files; arguments as in `RecDataLoaders.from_parquet`."""
        read = 'read the rows instead, from_parquet without stream=True: that takes 20 bytes a row'
        if target != 'rating':
            raise ValueError(
                f'target={target!r}: only ratings are streamed, since negatives and thresholds ask what else a user has; {read}'
            )
        if columns is not None:
            raise ValueError(
                'columns= is for tables that are read: of a stream only the columns of users, items and ratings are'
            )
        if others:
            raise ValueError(
                f'{first_few(others)}: not for a stream, which cannot look for repeated pairs and has neither negatives nor weights; {read}'
            )
        if splitter is not None and not isinstance(splitter, str):
            raise ValueError(
                f"splitter={splitter!r}: a splitter looks at all rows. Stream with valid_pct= and seed=, or with a column that says the part (splitter='column'); or {read}"
            )
        stream = ParquetStream(
            file, dict(user=user_name, item=item_name, rating=rating_name, time=False), valid_pct, seed, splitter
        )
        catalog = Catalog(StreamHistory(stream), item_df, user_df, title_name)
        bs = auto_batch_size(stream.sizes[0]) if bs is None else bs
        res = cls(
            *(
                StreamDL(StreamDataset(stream, p, catalog), buffer, bs=max(bs, 4096) if p else bs, shuffle=not p)
                for p in range(len(PARTS))
                if p < 2 or stream.sizes[p]
            ),
            path=path,
            device=device,
        )
        res.split_by = (
            f'column {splitter!r}'
            if splitter is not None
            else 'all rows for training'
            if not valid_pct
            else f'random rows of a stream: valid_pct={valid_pct:g}, seed={stream.seed}'
        )
        return res

    @property
    def stream(self) -> ParquetStream:
        return self.train.dataset.stream

    @property
    def y_bounds(self) -> tuple:
        """Lowest and highest rating of the files."""
        return self.stream.low, self.stream.high

    def cold_shares(self, scorer) -> dict:
        """Group of `standing` -> share of the valid rows; of those that are not warm at most so many, since users and items were counted apart."""
        held, known = self.stream.counts[1], self.catalog.known
        if not self.stream.sizes[1]:
            return dict(all=1.0)
        without = lambda has: min(1.0, sum(int(held[side][~has(side)].sum()) for side in held) / self.stream.sizes[1])
        new, cold = without(known), without(lambda side: known(side) | scorer.knows(side))
        return {
            k: v
            for k, v in dict(all=1.0, warm=1 - new, features=new - cold, cold=cold).items()
            if v > 0 and (k == 'all' or new)
        }

    def summary(self) -> str:
        """Users, items, rows and density, rows per user and item, and how many of them are in each part."""
        s = self.stream
        lines = [
            f'{s.n:,} rows in {len(s.groups):,} row groups of {len(s.files):,} file{"s" if len(s.files) > 1 else ""}, {self.n_users:,} users, {self.n_items:,} items, density {s.n / self.n_users / self.n_items:.3%}, '
            f'ratings {s.low:g} to {s.high:g} (mean of training rows {s.mean:.2f})'
        ]
        for side, counts in s.counts[0].items():
            q = np.quantile(counts[counts > 0], [0, 0.25, 0.5, 0.75, 1])
            lines.append(
                f'training rows per {side}: min {q[0]:.0f}, quartiles {q[1]:.0f} / {q[2]:.0f} / {q[3]:.0f}, max {q[4]:.0f}; without any: {int((counts == 0).sum()):,}'
            )
        return '\n'.join(
            lines
            + [
                f'{name}: {n:,} rows, {int((c["user"] > 0).sum()):,} users, {int((c["item"] > 0).sum()):,} items'
                for name, n, c in zip(PARTS, s.sizes, s.counts)
                if n
            ]
        )

    def of_users(
        self,
        users,  # ids, or how many to draw at random of those with valid rows
        seed: int = 0,  # of that draw
    ) -> RecDataLoaders:
        """All rows of some users, in memory: loaders of the same ids and the same split, to evaluate on, `evaluate(learn, dls.of_users(10_000))`, and for whatever else needs rows."""
        stream, catalog = self.stream, self.catalog
        if np.isscalar(users) and not isinstance(users, str):
            there = np.flatnonzero(stream.counts[1 if stream.sizes[1] else 0]['user'])
            codes = np.random.default_rng(seed).choice(there, min(int(users), len(there)), replace=False)
        else:
            codes = catalog.vocab['user'].encode(users)
        mask = np.zeros(catalog.n_users, bool)
        mask[codes] = True
        if not (found := list(stream.rows_of(mask))):
            raise ValueError('none of the users has a row in the files')
        u, i, ratings, parts = map(np.concatenate, zip(*found))
        inter = Interactions(u, i, ratings, None, stream.vocab, stream.names, no_times='a stream reads no times')
        split = Split(*(np.flatnonzero(parts == p) for p in range(len(PARTS)) if p < 2 or stream.sizes[p]))
        res = RecDataLoaders.from_interactions(
            inter,
            split if stream.sizes[1] else everything,
            catalog.item_df,
            catalog.user_df,
            catalog.title_name,
            bs=self.train.bs if len(split.train) >= 20 * self.train.bs else None,
            path=self.path,
            device=self.device,
        )
        res.catalog.counts, res.catalog.mean_rating, res.split_by = (
            catalog.counts,
            catalog.mean_rating,
            f'{self.split_by}; {int(mask.sum()):,} of {catalog.n_users:,} users',
        )
        return res

    def new_empty(self):
        """As in `RecDataLoaders`: no rows, and no files."""
        return RecDataLoaders(
            *(dl.new(dl.dataset.new_empty()) for dl in self.loaders), path=self.path, device=self.device
        )
