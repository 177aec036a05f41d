"""From tables to fastai `DataLoaders` that slice tensors: every row once an epoch, permuted on the device."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from fastai.data.core import DataLoaders
from fastai.torch_core import default_device
from fastcore.meta import delegates
from scipy.sparse import csr_matrix

from ..data.catalog import Catalog, cold_groups, cold_mask
from ..data.columns import as_frame, column_of, find_columns, first_few, in_chunks, is_table, with_id_column
from ..data.files import FileTable
from ..data.history import History
from ..data.interactions import Interactions, Vocab, check_ratings, is_missing
from ..data.sampling import NegativeSampler
from ..data.splits import (
    LARGE,
    Split,
    describe_splitter,
    everything,
    make_split,
    reads_table,
    split_summary,
)
from ..data.stream import PARTS, ParquetStream, StreamHistory
from ..keywords import check_arguments
from ..memory import default_budget, require_memory
from ..notices import warn_user
from .batches import (
    SCORING_BATCH,
    InBatchDL,
    InteractionDataset,
    InteractionDL,
    NegativesDL,
    UnseenDL,
    UserDataset,
    UserDL,
    auto_batch_size,
    user_batch_size,
)
from .stream_batches import BUFFER_ROWS, StreamDataset, StreamDL

__all__ = ['RecDataLoaders', 'StreamDataLoaders']

BYTES_PER_SCORE = 20  # of a step over the whole catalogue: scores, their logarithms, targets, two gradients
SAME = 'same'  # an argument that is as it was
FEW_STEPS = 20  # steps an epoch from which on a model learns much


class RecDataLoaders(DataLoaders):
    """`DataLoaders` of a rating table: `train`, `valid` and, if the split has one, `test` (`dls[2]`).

    `catalog` knows ids, metadata and history; `vocab` is `{'user': Vocab, 'item': Vocab}`; `target` is what they were
    made for: 'rating', 'liked' or 'implicit'. `print(dls.summary())` tells what is in each part. `TypeError` for what
    is not a loader of interactions.
    """

    split_by: str | None = None  # how the split was made, in words
    val_bs: int | None = None  # batch size of valid and test that was asked for

    def __init__(
        self,
        *loaders: InteractionDL,  # of train, valid[, test]
        path: str | Path = '.',  # where learners save models
        device: Any = None,  # where batches are made; by default fastai's default device
    ) -> None:
        if not loaders or not all(isinstance(loader, InteractionDL) for loader in loaders):
            given = ', '.join(type(loader).__name__ for loader in loaders) or 'nothing'
            raise TypeError(
                f'RecDataLoaders(...) puts loaders together that were made before, got {given}: '
                'RecDataLoaders.from_df(ratings) makes them of a table, from_csv and from_parquet of a file'
            )
        super().__init__(*loaders, path=path, device=default_device() if device is None else device)
        # kept here, since fastai wraps the loaders while it trains on several devices
        self.n_inp: int = loaders[0].dataset.n_inp
        self._objective = loaders[0].objective
        self._has_context = loaders[0].has_context
        self.target: str = self._made_for()

    def _made_for(self) -> str:
        if self.objective != 'pairs':
            return 'implicit'
        return 'rating' if self.catalog.thresholds is None else 'liked'

    # --- making them

    @classmethod
    @check_arguments
    def from_df(
        cls,
        df: Any,  # one row per interaction: a DataFrame, a table of polars, pyarrow, ..., or a `FileTable`
        valid_pct: float = 0.2,  # share of rows in valid, if no splitter is given; 0: all rows are for training
        seed: int | None = None,  # of that random split
        splitter: Any = None,  # a splitter (fastai's or ours), the name of a column, or two or three index arrays
        item_df: Any = None,  # what is known of items, a table: a column of ids, and e.g. title, year, genres
        user_df: Any = None,  # what is known of users
        user_name: str | None = None,  # column of user ids
        item_name: str | None = None,  # column of item ids
        rating_name: str | bool | None = None,  # column of ratings; False: none
        time_name: str | bool | None = None,  # column of times; False: none
        title_name: str | None = None,  # column of `item_df` with the titles
        duplicates: str = 'error',  # repeated user-item pairs of ratings: 'error', 'first', 'last' or 'mean'
        target: str = 'rating',  # 'rating', 'liked' or 'implicit', see below
        threshold: float | None = None,  # 'implicit': ratings from it on are positives; the others count as seen
        weighted: bool = False,  # 'implicit': a row counts as much as its rating says, not once
        # value or values in the place of a rating that say that there is none, such as -1, 0 or 99: those rows are
        # dropped; 'implicit': they count as seen, but not as positives
        missing_rating: float | list[float] | None = None,
        context: str | list[str] | None = None,  # of ratings: columns of what belongs to the interaction itself
        weight_name: str | None = None,  # column of what each rating counts in the loss, from 0 up
        n_neg: int | None = 4,  # 'implicit': negatives of each positive; 0: those of the batch; None: all items
        alpha: float = 0.0,  # 'implicit': negatives come in proportion to popularity^alpha (0: uniformly)
        bs: int | None = None,  # batch size; by default a power of two that leaves about 300 steps an epoch
        val_bs: int | None = None,  # of valid and test, where it changes no figure; by default `bs`, or more
        shuffle_train: bool = True,  # training rows in a new order each epoch; False: as they stand in the table
        unseen: tuple[int, float] | None = None,  # 'rating': pairs made up to each training row, and their rating
        path: str | Path = '.',  # where learners save models
        device: Any = None,  # where batches are made; by default fastai's default device
    ) -> RecDataLoaders:
        """`RecDataLoaders` of a table.

        Columns not named are found by their usual names, else by position (user, item, rating, time). With
        `valid_pct=0` all rows are for training, as for the last fit before a model is used.

        `target` is 'rating': predict it; 'liked': 1 if it reaches the user's own mean over the training rows, else 0;
        or 'implicit': rank what users choose, where repeats add up. Of implicit feedback `n_neg` negatives are drawn
        for each positive; with 0 the other items of the batch are the negatives; with None a row is a user, the
        objective is over the whole catalogue, and the default batch size leaves about 25 steps an epoch. Weights
        (`weighted`) are e.g. play counts; with a long tail, train on their logarithm.

        `context` (of ratings: time, a device, a weekday) is the third input of batches; `svdpp_learner` and
        `collab_learner` read it (see `Context`). With `weight_name`, e.g. recent or rare ratings count more in the
        loss; errors such as rmse count all rows alike.

        A model of ratings predicts well what users chose to rate, and ranks badly what they did not. `unseen=(1, 1.0)`
        adds to each training row a pair that its user has no training row of, drawn anew each epoch, with the rating
        1.0 (see `UnseenDL`): lists get better, errors of held-out ratings larger, and predictions are no longer what a
        user would rate.
        """
        _check_target(target, threshold, weighted, context, weight_name)
        is_implicit = target == 'implicit'
        columns: dict[str, Any] = dict(
            user_name=user_name,
            item_name=item_name,
            rating_name=rating_name,
            time_name=time_name,
            duplicates='keep' if is_implicit else duplicates,
            context=context,
            weight_name=weight_name,
            missing_rating=None if is_implicit else missing_rating,
        )
        table: pd.DataFrame | None
        if isinstance(df, FileTable):
            needs_table = splitter is not None and reads_table(splitter)
            inter, table = df.interactions(whole=needs_table, **columns)
        else:
            table = as_frame(df)
            inter = Interactions.from_df(table, **columns)
        if is_implicit:
            inter = inter.implicit(threshold, weighted, missing_rating)
        else:
            inter.warn_of_sentinels()
        split = make_split(inter, _random_splitter(valid_pct, seed) if splitter is None else splitter, table)
        res = cls.from_interactions(
            inter,
            split,
            item_df=item_df,
            user_df=user_df,
            title_name=title_name,
            n_neg=n_neg,
            alpha=alpha,
            bs=bs,
            val_bs=val_bs,
            shuffle_train=shuffle_train,
            unseen=unseen,
            path=path,
            device=device,
            liked=target == 'liked',
        )
        if splitter is not None:
            res.split_by = describe_splitter(splitter)
        elif valid_pct:
            res.split_by = f'random rows: valid_pct={valid_pct:g}, seed={seed}'
        else:
            res.split_by = 'all rows for training'
        return res

    @classmethod
    @check_arguments
    @delegates(from_df)
    def from_csv(
        cls,
        csv: Any,  # a path, an address, or an open file
        sep: str | None = None,  # between the columns; by default what the first lines tell (',', tab, ';', '|', '::')
        encoding: str | None = None,  # by default UTF-8
        parse_dates: Any = None,  # as of `pd.read_csv`, which then reads the file
        header: int | str | None = 'infer',  # the row with the names of the columns; None: the file has none
        names: list | None = None,  # names of the columns of a file without a header (or, with header=0, instead of it)
        dtype: Any = None,  # type of each column, {column: type}, or of all but ratings and times; as of `pd.read_csv`
        decimal: str = '.',  # the decimal sign
        **kwargs,
    ) -> RecDataLoaders:
        """`RecDataLoaders` of a CSV file; see `from_df`.

        Read in parts by pyarrow if that is there, so that the table is never in memory as a whole, else (or with
        `parse_dates`, types that only pandas has, and text files that are open) by pandas. Ids with zeros before them
        ('007') are texts, and stay as they are.
        """
        table = FileTable(
            csv,
            'csv',
            sep=sep,
            encoding=encoding,
            parse_dates=parse_dates,
            header=header,
            names=names,
            dtype=dtype,
            decimal=decimal,
        )
        return cls.from_df(table, **kwargs)

    @classmethod
    @check_arguments
    @delegates(from_df)
    def from_parquet(
        cls,
        file: Any,  # a file, a folder of files, or a list of them
        columns: list[str] | None = None,  # read only these
        stream: bool = False,  # leave the rows in the files, which may be larger than memory; for ratings
        buffer: int = BUFFER_ROWS,  # with `stream`: rows that are shuffled together
        **kwargs,
    ) -> RecDataLoaders:
        """`RecDataLoaders` of parquet (needs pyarrow, the extra 'parquet'); see `from_df`.

        It is read in parts, so that the table is never in memory as a whole: what stays of a row is 20 bytes, 4 more
        with times before 1970 or after 2038. With `stream` nothing stays: rows are read in shuffled row groups at each
        epoch (see `StreamDataLoaders`); the split is then `valid_pct` and `seed`, or a column.
        """
        if stream:
            return StreamDataLoaders.of_stream(file, columns, buffer, **kwargs)
        return cls.from_df(FileTable(file, columns=columns), **kwargs)

    @classmethod
    @check_arguments
    def from_interactions(
        cls,
        interactions: Interactions,  # checked rows; with `weights` (see `Interactions.implicit`): implicit feedback
        splitter: Any,  # a splitter, or two or three index arrays
        item_df: Any = None,  # what is known of items, a table: a column of ids, and e.g. title, year, genres
        user_df: Any = None,  # what is known of users
        title_name: str | None = None,  # column of `item_df` with the titles
        n_neg: int | None = 4,  # implicit feedback: negatives of each positive; 0: those of the batch; None: all items
        alpha: float = 0.0,  # implicit feedback: negatives come in proportion to popularity^alpha (0: uniformly)
        bs: int | None = None,  # batch size; by default a power of two that leaves about 300 steps an epoch
        val_bs: int | None = None,  # of valid and test, where it changes no figure; by default `bs`, or more
        shuffle_train: bool = True,  # training rows in a new order each epoch; False: as they stand
        unseen: tuple[int, float] | None = None,  # ratings: pairs made up to each training row, and their rating
        path: str | Path = '.',  # where learners save models
        device: Any = None,  # where batches are made; by default fastai's default device
        liked: bool = False,  # of ratings: the target is whether they reach the user's mean over the training rows
    ) -> RecDataLoaders:
        """`RecDataLoaders` of checked interactions; arguments as in `from_df`.

        `ValueError` without a column of ratings, and for `liked` of implicit feedback.
        """
        inter = interactions
        is_implicit = inter.weights is not None
        if inter.ratings is None and not is_implicit:
            raise ValueError(
                'the table has no rating column to learn from. Name it with rating_name=, '
                "or rank what users choose with target='implicit'"
            )
        if liked and is_implicit:
            raise ValueError('liked=True is for ratings, and these interactions are implicit feedback')
        split = make_split(inter, splitter)
        catalog = Catalog(History(inter, split), item_df, user_df, title_name, liked)
        if unseen is not None:
            _check_unseen(unseen, catalog, is_implicit)
        order = _Order(val_bs, shuffle_train)
        loaders: list[Any]
        if is_implicit and n_neg is None:
            loaders = _user_loaders(catalog, bs, order)
        else:
            n_rows = len(inter.positive(split.train))
            if bs is None:
                bs = auto_batch_size(n_rows)
            else:
                bs = int(bs)
                _warn_of_few_steps(bs, n_rows)
            if not is_implicit:
                loaders = _rating_loaders(catalog, bs, order, unseen)
            elif n_neg:
                loaders = _negatives_loaders(catalog, bs, n_neg, alpha, order)
            else:
                loaders = _in_batch_loaders(catalog, bs, order)
        res = cls(*loaders, path=path, device=device)
        res.val_bs = val_bs
        res.split_by = describe_splitter(splitter)
        return res

    # --- others like these

    def rebuilt(
        self,
        interactions: Interactions,  # checked rows
        split: Split,  # of them
        item_df: pd.DataFrame | None = None,  # metadata of items, beside what is known
        user_df: pd.DataFrame | None = None,  # the same of users
    ) -> RecDataLoaders:
        """Loaders made as these were, of other interactions.

        Metadata is that of these, with the rows of `item_df, user_df` added.
        """
        old = self.catalog
        res = type(self).from_interactions(
            interactions,
            split,
            item_df=_joined(old.item_df, item_df, old.names['item'], 'item'),
            user_df=_joined(old.user_df, user_df, old.names['user'], 'user'),
            title_name=old.title_name,
            bs=self.train.bs,
            val_bs=self.val_bs,
            shuffle_train=self.train.shuffle,
            unseen=self.train.unseen,
            path=self.path,
            device=self.device,
            liked=self.target == 'liked',
            **self._negatives_options(),
        )
        for dl, before in zip(res.loaders, self.loaders):
            dl.seed = before.seed
        res.split_by = f'{self.split_by}, then extended'
        return res

    def _negatives_options(self) -> dict[str, Any]:
        """Arguments of `from_interactions` that say which negatives these loaders have."""
        if self.objective == 'catalogue':
            return dict(n_neg=None)
        if self.objective == 'in_batch':
            return dict(n_neg=0)
        if self.objective == 'negatives':
            return dict(n_neg=self.train.n_neg, alpha=self.train.sampler.alpha)
        return {}

    @check_arguments
    def remade(
        self,
        bs: int | None = None,  # batch size; None: the same, or where the negatives are of another kind the default one
        n_neg: int | str | None = SAME,  # of implicit feedback, as in `from_df`; 'same': as these loaders have it
    ) -> RecDataLoaders:
        """Loaders of the same rows, split and catalog with other batches.

        `dls.remade(bs=2048)`, `dls.remade(n_neg=None)`: what learners trained on them score can be compared row by row.
        `ValueError` for negatives where the loaders are of ratings or likes, which have none.
        """
        order = _Order(self.val_bs, self.train.shuffle)
        if self.target != 'implicit':
            if n_neg != SAME:
                raise ValueError(
                    f'negatives are for implicit feedback, and these loaders hold a {self.target}: '
                    f"make them with target='implicit', n_neg={n_neg}"
                )
            loaders: list[Any] = _rating_loaders(self.catalog, bs or self.train.bs, order, self.train.unseen)
            return self._of_loaders(loaders)
        options = self._negatives_options()
        kind: Any = options['n_neg'] if n_neg == SAME else n_neg
        if kind is None:
            bs = bs or (self.train.bs if self.objective == 'catalogue' else None)
            loaders = _user_loaders(self.catalog, bs, order)
        elif kind:
            alpha = options.get('alpha', 0.0)
            loaders = _negatives_loaders(self.catalog, bs or self._pairs_batch_size(), kind, alpha, order)
        else:
            loaders = _in_batch_loaders(self.catalog, bs or self._pairs_batch_size(), order._replace(val_bs=None))
        return self._of_loaders(loaders)

    def in_batch(
        self,
        bs: int | None = None,  # batch size; by default the same, or if a row is a user, as `from_df` sets it
    ) -> RecDataLoaders:
        """Loaders of the same implicit feedback whose negatives are the other items of the batch, as of `n_neg=0`."""
        return self.remade(bs, n_neg=0)

    def _of_loaders(self, loaders: list) -> RecDataLoaders:
        """`RecDataLoaders` of these loaders of the same rows, with the path, device, seeds and split of these."""
        res = type(self)(*loaders, path=self.path, device=self.device)
        for dl, before in zip(res.loaders, self.loaders):
            dl.seed = before.seed
        res.split_by = self.split_by
        res.val_bs = self.val_bs
        return res

    def _pairs_batch_size(self) -> int:
        """Batch size of loaders of positives: the same as these have, unless a row of these is a user."""
        if self.objective != 'catalogue':
            return self.train.bs
        inter, split = _rows_and_split(self.catalog)
        return auto_batch_size(len(inter.positive(split.train)))

    def new_empty(self) -> RecDataLoaders:
        """Loaders without rows, of a catalog without history: what is exported."""
        return type(self)(*(dl.new(dl.dataset.new_empty()) for dl in self.loaders), path=self.path, device=self.device)

    def with_catalog(
        self,
        catalog: Catalog,  # with the items there are, in their order, then further ones
    ) -> RecDataLoaders:
        """The same rows under a catalog that knows further items (see `Catalog.with_items`).

        Negatives are drawn from the items of before.
        """
        loaders = []
        for dl in self.loaders:
            wider = copy(dl)
            wider.dataset = dl.dataset.with_catalog(catalog)
            loaders.append(wider)
        return type(self)(*loaders, path=self.path, device=self.device)

    # --- what is in them

    def __repr__(self) -> str:
        sizes = ', '.join(f'{name} {len(dl.dataset):,}' for name, dl in zip(Split._fields, self.loaders))
        return f'RecDataLoaders({self.target}, {sizes}, bs {self.train.bs}, {self.catalog})'

    def _repr_html_(self) -> str:
        """What a notebook shows: the line above, and the summary where there are rows."""
        text = f'{self!r}\n{self.summary()}' if len(self.train.dataset) else repr(self)
        return f'<pre>{escape(text)}</pre>'

    @property
    def objective(self) -> str:
        """What a batch is for: 'pairs', 'negatives', 'in_batch' or 'catalogue'.

        'pairs': a row is a pair with its rating, or whether it is liked; 'negatives': a positive with negatives drawn
        for it (`NegativesDL`); 'in_batch': a positive among the items of the batch (`InBatchDL`); 'catalogue': a user
        with all positives, over all items (`UserDL`).
        """
        return self._objective

    @property
    def has_context(self) -> bool:
        """Is the third tensor of a batch what belongs to the interaction itself (see `Context`)?"""
        return self._has_context

    @property
    def catalog(self) -> Catalog:
        """Who and what there is, and who has what."""
        return self.train.dataset.catalog

    @property
    def vocab(self) -> dict[str, Vocab]:
        """{'user': Vocab, 'item': Vocab}."""
        return self.catalog.vocab

    @property
    def n_users(self) -> int:
        """Number of users."""
        return self.catalog.n_users

    @property
    def n_items(self) -> int:
        """Number of items."""
        return self.catalog.n_items

    @property
    def item_df(self) -> pd.DataFrame | None:
        """Metadata of items in the order of their codes; None: there is none."""
        return self.catalog.item_df

    @property
    def y_bounds(self) -> tuple[float, float]:
        """Lowest and highest rating of the table."""
        inter, _ = _rows_and_split(self.catalog)
        return float(inter.ratings.min()), float(inter.ratings.max())

    def cold_shares(
        self,
        scorer: Any,  # whose knowledge of users and items counts
    ) -> dict[str, float]:
        """Group of `standing` -> share of the valid rows."""
        inter, split = _rows_and_split(self.catalog)
        rows = split.valid
        if not len(rows):
            return dict(all=1.0)
        groups = cold_groups(scorer, self.catalog, inter.users[rows], inter.items[rows])
        return {name: float(mask.mean()) for name, mask in groups.items()}

    def summary(self) -> str:
        """Users, items, rows and density, rows per user and item, and who is cold in each part."""
        inter, split = _rows_and_split(self.catalog)
        text = split_summary(inter, split)
        if self.target != 'liked':
            return text
        shares = []
        for name, rows in zip(Split._fields, split):
            if rows is not None:
                shares.append(f'{self.catalog.liked(rows).mean():.1%} of {name}')
        return f"{text}\nliked (at or above the user's mean over the training rows): {', '.join(shares)}"

    def show_batch(
        self,
        b: tuple[torch.Tensor, ...] | None = None,  # a batch; None: one of training
        max_n: int = 9,  # rows of it
        **kwargs,  # `show=False`: return the rows
    ) -> pd.DataFrame | None:
        """Show rows of a training batch with ids and titles (or return them with `show=False`)."""
        return self.train.show_batch(b, max_n, **kwargs)

    # --- pairs to predict

    @check_arguments
    def test_dl(
        self,
        test_items: Any,  # a table with user and item columns, or a list of (user, item) pairs
        with_labels: bool = False,  # take targets from the table's rating column
        bs: int | None = None,  # by default that of valid, or more
        **kwargs,  # (fastai passes rm_type_tfms, num_workers and process, which mean nothing here)
    ) -> InteractionDL:
        """A loader of pairs to predict, in the order given; unknown ids raise a `KeyError`.

        Of context that the table has no column of, nothing is given.
        """
        catalog = self.catalog
        table = as_frame(test_items) if is_table(test_items) else _table_of_pairs(test_items, with_labels)
        codes = []
        for side in ('user', 'item'):
            ids = table[column_of(table, side, catalog.names)]
            codes.append(catalog.vocab[side].encode(ids))
        n_cold = int(cold_mask(catalog, *codes).sum())
        if n_cold:
            warn_user(
                f'{n_cold:,} of {len(codes[0]):,} pairs have a user or an item without training rows: '
                'unless the model reads their features, they are predicted as the average one'
            )
        columns = [torch.from_numpy(o) for o in codes]
        if self.has_context:
            assert catalog.context_of is not None
            columns.append(torch.from_numpy(catalog.context_of.encode(table)))
        if with_labels:
            labels = _labels(table, catalog)
            if catalog.thresholds is not None:
                labels = labels >= catalog.thresholds[codes[0]]
            columns.append(torch.tensor(labels, dtype=torch.float32))
        dataset = InteractionDataset(columns, None, catalog, 3 if self.has_context else 2)
        return InteractionDL(dataset, bs=bs or max(self.valid.bs, SCORING_BATCH), device=self.device)


# --- checks and tables


def _check_target(target: str, threshold: float | None, weighted: bool, context: Any, weight_name: str | None) -> None:
    """`ValueError` for options of `from_df` that go with another target."""
    if target not in ('rating', 'liked', 'implicit'):
        raise ValueError(f"target={target!r}: choose 'rating', 'liked' or 'implicit'")
    if target != 'implicit' and (threshold is not None or weighted):
        raise ValueError("threshold= and weighted= say what is a positive: they go with target='implicit'")
    if target == 'implicit' and weight_name is not None:
        raise ValueError(
            'weight_name= is for ratings; '
            'of implicit feedback weighted=True makes the rating column the weight of a row'
        )
    if target == 'implicit' and context is not None:
        raise ValueError(
            "context= is for ratings: what was not chosen has none. Leave it out, or learn target='rating' or 'liked'"
        )


def _check_unseen(unseen: Any, catalog: Catalog, is_implicit: bool) -> None:
    """`ValueError` for `unseen=` that is not a number of pairs and a rating, or goes with no ratings."""
    if not isinstance(unseen, (tuple, list)) or len(unseen) != 2:
        raise ValueError(
            f'unseen={unseen!r}: pairs made up to each training row, and their rating, e.g. unseen=(1, 1.0)'
        )
    n, rating = unseen
    if is_implicit or catalog.thresholds is not None:
        way = 'n_neg= says how many negatives there are' if is_implicit else 'likes are learned without'
        raise ValueError(f"unseen= makes up ratings: it goes with target='rating' ({way})")
    if catalog.context_of is not None:
        raise ValueError('unseen= and context= do not go together: a pair that was made up has no context')
    if not isinstance(n, (int, np.integer)) or n < 1:
        raise ValueError(f'unseen=({n!r}, {rating!r}): a whole number of pairs from 1 on, then their rating')
    inter, split = _rows_and_split(catalog)
    low, high = float(inter.ratings.min()), float(inter.ratings.max())
    if not low <= rating <= high:
        raise ValueError(f'unseen=({n}, {rating}): the rating of unseen items has to be one from {low:g} to {high:g}')
    left = NegativeSampler(catalog.require_history().seen).left()[np.unique(inter.users[split.train])]
    if left.min() < n:
        raise ValueError(
            f'unseen=({n}, {rating}): {int((left < n).sum()):,} users leave as few as {int(left.min())} items unseen. '
            'Take fewer, or drop those users'
        )


def _warn_of_few_steps(bs: int, n_rows: int) -> None:
    """Warn of a batch size that leaves few steps an epoch, where the default one is smaller."""
    best = auto_batch_size(n_rows)
    if n_rows < FEW_STEPS * bs and bs > best:
        n_steps = -(-n_rows // bs)
        warn_user(
            f'bs={bs} leaves {n_steps} steps an epoch for {n_rows:,} training rows: too few for a model to learn much. '
            f'Try bs={best} (the default), or more epochs'
        )


def _table_of_pairs(pairs: Any, with_labels: bool) -> pd.DataFrame:
    """A table of (user, item) pairs."""
    pairs = list(pairs)
    if not all(isinstance(o, (tuple, list)) and len(o) == 2 for o in pairs):
        raise ValueError(f'expected a table, or a list of (user, item) pairs, got {first_few(pairs, 3)}')
    if with_labels:
        raise ValueError('pairs have no labels: give a table with a rating column')
    return pd.DataFrame({'user': [o[0] for o in pairs], 'item': [o[1] for o in pairs]})


def _labels(table: pd.DataFrame, catalog: Catalog) -> np.ndarray:
    """Ratings of the table, checked; `ValueError` for those that say that there is none."""
    name = column_of(table, 'rating', catalog.names)
    ratings = check_ratings(table, name, None)
    missing = None if catalog.interactions is None else catalog.interactions.missing_rating
    if missing is None:
        return ratings
    n_missing = int(is_missing(ratings, missing).sum())
    if n_missing:
        raise ValueError(
            f'{n_missing:,} of {len(ratings):,} labels are missing_rating={missing}, which is not a rating. '
            f'Leave those rows out: `df[~df[{name!r}].isin({np.atleast_1d(missing).tolist()})]`'
        )
    return ratings


def _joined(before: pd.DataFrame | None, more: pd.DataFrame | None, id_name: str, side: str) -> pd.DataFrame | None:
    """Metadata `before` (which has the column `id_name`) with the rows of `more`, which count where both have an id."""
    if more is None:
        return before
    more = with_id_column(as_frame(more, f'{side}_df as a DataFrame with a row per {side}'), side, id_name)
    if before is None:
        return more
    return pd.concat([before, more]).drop_duplicates(id_name, keep='last', ignore_index=True)


def _rows_and_split(catalog: Catalog) -> tuple[Interactions, Split]:
    """The rows of a catalog and how they are split; `ValueError` where they did not travel or stay in files."""
    history = catalog.require_history()
    assert history.interactions is not None and history.split is not None
    return history.interactions, history.split


# --- loaders of each kind: of each part, train first


class _Order(NamedTuple):
    """How large the batches of held-out rows are, and in which order training rows come."""

    val_bs: int | None = None  # None: that of training, or more
    shuffle: bool = True

    def of(self, part: int, bs: int, least: int = SCORING_BATCH) -> dict[str, Any]:
        """Arguments of the loader of a part, where training has batches of `bs`; held-out rows stay in their order."""
        if part == 0:
            return dict(bs=bs, shuffle=self.shuffle)
        return dict(bs=max(bs, least) if self.val_bs is None else self.val_bs, shuffle=False)


def _rating_loaders(
    catalog: Catalog, bs: int, order: _Order, unseen: tuple[int, float] | None = None
) -> list[InteractionDL]:
    """Loaders of pairs with their ratings, or whether they are liked."""
    inter, split = _rows_and_split(catalog)
    all_rows: Any = slice(None)  # which copies nothing, as positions would
    target = inter.ratings if catalog.thresholds is None else catalog.liked(all_rows).astype(np.float32)
    columns = [inter.users, inter.items, inter.context, target, inter.row_weights]
    shared = [torch.from_numpy(o) for o in columns if o is not None]
    n_inp = 2 if inter.context is None else 3
    loaders = []
    for part, rows in enumerate(_parts(split)):
        dataset = InteractionDataset(shared, torch.from_numpy(rows), catalog, n_inp)
        if part == 0 and unseen is not None:
            sampler = NegativeSampler(catalog.require_history().seen)
            loaders.append(UnseenDL(dataset, sampler, *unseen, **order.of(part, bs)))
        else:
            loaders.append(InteractionDL(dataset, **order.of(part, bs)))
    return loaders


def _negatives_loaders(catalog: Catalog, bs: int, n_neg: int, alpha: float, order: _Order) -> list[NegativesDL]:
    """Loaders of positives with negatives that are drawn for them, which are not among what the user has so far."""
    if n_neg < 1:
        raise ValueError(
            f'n_neg={n_neg}: negatives for each positive, 0 for those of the batch, '
            'or None for an objective over the whole catalogue'
        )
    inter, _ = _rows_and_split(catalog)
    loaders = []
    for part, (rows, dataset) in enumerate(_positives(catalog)):
        sampler = NegativeSampler(_seen_until(catalog, part), alpha)
        has_some = _has_negatives(sampler, inter.users[rows], part)
        if not has_some.all():
            rows = rows[has_some]
            dataset.rows = torch.from_numpy(rows)
        _check_enough_left(sampler, inter.users[rows], n_neg)
        # training draws afresh at each epoch; what is held out is judged on the same negatives each time
        neg_seed = None if part == 0 else part
        loaders.append(NegativesDL(dataset, sampler, n_neg, neg_seed, **order.of(part, bs)))
    return loaders


def _in_batch_loaders(catalog: Catalog, bs: int, order: _Order) -> list[InBatchDL]:
    """Loaders of positives whose negatives are those of the batch, unless they are among what the user has so far.

    All parts have the same batch size, which is how many negatives there are.
    """
    if order.val_bs is not None:
        raise ValueError(
            f'val_bs={order.val_bs}: with n_neg=0 the other items of the batch are the negatives, and held-out rows '
            'have as many as training rows. Leave it out'
        )
    loaders = []
    for part, (_, dataset) in enumerate(_positives(catalog)):
        loaders.append(InBatchDL(dataset, _seen_until(catalog, part), **order.of(part, bs, least=bs)))
    return loaders


def _user_loaders(catalog: Catalog, bs: int | None, order: _Order) -> list[UserDL]:
    """Loaders of users with their positives; what is held out is not looked for among what a user had before."""
    inter, split = _rows_and_split(catalog)
    history = catalog.require_history()
    if bs is None:
        bs = user_batch_size(catalog.n_users, catalog.n_items)
    _require_memory_of_step(bs, catalog.n_items)
    loaders = []
    for part, rows in enumerate(_parts(split)):
        positives = history.matrix(inter.positive(rows))
        masked = None if part == 0 else history.matrix(_rows_until(split, part - 1))
        loaders.append(UserDL(UserDataset(positives, masked, catalog), **order.of(part, bs, least=bs)))
    return loaders


def _require_memory_of_step(bs: int, n_items: int) -> None:
    """`MemoryError` if scores, targets and gradients of `bs` users and the whole catalogue are beyond the budget."""
    per_user = BYTES_PER_SCORE * n_items
    fits = int(default_budget() // per_user)
    way = f'take bs={fits} or less' if fits else 'take n_neg=4, which scores pairs'
    require_memory(
        bs * per_user,
        f'a step over the whole catalogue (n_neg=None) at bs={bs:,} and {n_items:,} items',
        way,
        call=None,
    )


def _parts(split: Split) -> list[np.ndarray]:
    """Rows of the parts that there are."""
    return [o for o in split if o is not None]


def _positives(catalog: Catalog) -> list[tuple[np.ndarray, InteractionDataset]]:
    """Positions and dataset of each part's positives; `ValueError` for a part that has none.

    The datasets have a column of weights if they are not all 1.
    """
    inter, split = _rows_and_split(catalog)
    columns = [torch.from_numpy(inter.users), torch.from_numpy(inter.items)]
    if (inter.weights[inter.positive()] != 1).any():
        columns.append(torch.from_numpy(inter.weights))
    res = []
    for name, rows in zip(Split._fields, _parts(split)):
        positives = inter.positive(rows)
        if len(rows) and not len(positives):
            raise ValueError(f'the {name} part has no positives ({len(rows):,} rows are below the threshold)')
        res.append((positives, InteractionDataset(columns, torch.from_numpy(positives), catalog)))
    return res


def _rows_until(split: Split, part: int) -> np.ndarray:
    """Rows of the parts up to `part`."""
    return np.concatenate(_parts(split)[: part + 1])


def _seen_until(catalog: Catalog, part: int) -> csr_matrix:
    """What users have in the parts up to `part`, CSR (n_users, n_items): it is not a negative there.

    Held-out items can be negatives in training, since leaving them out would give them away.
    """
    history = catalog.require_history()
    if part == 0:
        return history.seen
    _, split = _rows_and_split(catalog)
    return history.matrix(_rows_until(split, part))


def _has_negatives(sampler: NegativeSampler, users: np.ndarray, part: int) -> np.ndarray:
    """bool (rows,): has the user of each positive an item left that is none? Those of who has everything are left out.

    A warning counts them; `ValueError` where no training row is left.
    """
    has_some = sampler.left()[users] > 0
    n_users = len(np.unique(users[~has_some]))
    if not n_users:
        return has_some
    what = f'{n_users:,} users have all of the {sampler.n_items:,} items'
    if part == 0 and not has_some.any():
        raise ValueError(
            f'{what}: no negatives can be drawn for anybody. Is every pair of user and item in the table? '
            'Say what is a positive with threshold=, or learn the ratings themselves: leave target= out'
        )
    warn_user(
        f'{what}, which leaves no negatives for them: '
        f'{int((~has_some).sum()):,} of {len(users):,} rows of {Split._fields[part]} are left out'
    )
    return has_some


def _check_enough_left(sampler: NegativeSampler, users: np.ndarray, n_neg: int) -> None:
    """`ValueError` if one of the users has seen so much that `n_neg` negatives cannot be drawn."""
    left = sampler.left()[np.unique(users)]
    if not len(left) or left.min() >= n_neg:
        return
    n_users = int((left < n_neg).sum())
    fewest = int(left.min())
    raise ValueError(
        f'n_neg={n_neg} negatives cannot be drawn for {n_users:,} users, who leave as few as {fewest} of '
        f'{sampler.n_items:,} items unseen. Take n_neg={fewest} or less, '
        'drop those users, or n_neg=None for an objective over the whole catalogue'
    )


# --- the split of `valid_pct` and `seed`


def _random_splitter(valid_pct: float, seed: int | None) -> Callable[[Interactions], Split]:
    """A splitter that holds out a random share of the rows; with 0 none."""
    if valid_pct == 0:
        return everything
    if not 0 < valid_pct < 1:
        raise ValueError(f'valid_pct={valid_pct}: a share between 0 and 1, or 0 to train on every row')

    def split(inter: Interactions) -> Split:
        order: np.ndarray = np.arange(len(inter), dtype=np.int32 if len(inter) < 2**31 else np.int64)
        np.random.default_rng(seed).shuffle(order)
        n_valid = max(1, round(valid_pct * len(inter)))
        is_valid: np.ndarray = np.zeros(len(inter), bool)
        is_valid[order[:n_valid]] = True
        del order  # 4 bytes a row, which the positions can use
        return Split(_positions(~is_valid), _positions(is_valid))

    return split


def _positions(mask: np.ndarray) -> np.ndarray:
    """Where `mask` is True: int64, in large tables int32."""
    if len(mask) < LARGE:
        return np.flatnonzero(mask)
    return np.concatenate([(np.flatnonzero(mask[o]) + o.start).astype(np.int32) for o in in_chunks(len(mask))])


# --- rows that stay in their files


class StreamDataLoaders(RecDataLoaders):
    """`RecDataLoaders` of ratings that stay in their files: what `RecDataLoaders.from_parquet(..., stream=True)` makes.

    Training, `lr_find`, errors of the valid part, `get_preds`, `predict` and `recommend` work as ever; seen items are
    looked up in the files, in one pass for millions of rows. What needs all rows at once says so; `of_users` has those
    of some users.
    """

    @classmethod
    @check_arguments
    def of_stream(
        cls,
        file: Any,  # of `files`: .parquet or .csv, a list of those, or a folder
        columns: list[str] | None = None,  # (not of a stream, which reads only those it needs)
        buffer: int = BUFFER_ROWS,  # rows that are shuffled together
        valid_pct: float = 0.2,  # share of rows in valid, if no splitter is given
        seed: int | None = None,  # of that random split and of the order of rows
        splitter: str | None = None,  # a column that says which part a row is in
        item_df: pd.DataFrame | None = None,  # what is known of items: a column of ids, and e.g. title, year, genres
        user_df: pd.DataFrame | None = None,  # what is known of users
        user_name: str | None = None,  # column of user ids
        item_name: str | None = None,  # column of item ids
        rating_name: str | bool | None = None,  # column of ratings; False: none
        time_name: str | bool | None = None,  # (times are not read)
        title_name: str | None = None,  # column of `item_df` with the titles
        target: str = 'rating',  # (no other)
        # value or values in the place of a rating that say that there is none
        missing_rating: float | list[float] | None = None,
        bs: int | None = None,  # batch size; by default a power of two that leaves about 300 steps an epoch
        val_bs: int | None = None,  # of valid; by default `bs`, or more
        shuffle_train: bool = True,  # training rows in a new order each epoch; False: as they stand in the files
        path: str | Path = '.',  # where learners save models
        device: Any = None,  # where batches are made; by default fastai's default device
        **others,  # arguments of `from_df` that are not for a stream
    ) -> StreamDataLoaders:
        """Loaders of files; arguments as in `RecDataLoaders.from_parquet`."""
        _check_streamable(target, columns, others, splitter)
        names = dict(user=user_name, item=item_name, rating=rating_name, time=False)
        if time_name:
            there = FileTable(file).names()
            find_columns(
                pd.DataFrame(columns=there), {**names, 'time': time_name}
            )  # it is not read, and has to be there
        stream = ParquetStream(file, names, valid_pct, seed, splitter, missing_rating=missing_rating)
        catalog = Catalog(StreamHistory(stream), item_df, user_df, title_name)
        if bs is None:
            bs = auto_batch_size(stream.sizes[0])
        order = _Order(val_bs, shuffle_train)
        loaders = []
        for part in _stream_parts(stream):
            dataset = StreamDataset(stream, part, catalog)
            loaders.append(StreamDL(dataset, buffer, **order.of(part, bs)))
        res = cls(*loaders, path=path, device=device)
        if splitter is not None:
            res.split_by = f'column {splitter!r}'
        elif valid_pct:
            res.split_by = f'random rows of a stream: valid_pct={valid_pct:g}, seed={stream.seed}'
        else:
            res.split_by = 'all rows for training'
        return res

    @check_arguments
    def remade(self, bs: int | None = None, n_neg: int | str | None = SAME) -> RecDataLoaders:
        """`ValueError`: rows that stay in their files have one batch size."""
        raise ValueError(
            'rows that stay in their files are not dealt out anew: make the loaders with from_parquet(..., bs=), or '
            'take some users into memory, dls.of_users(10_000)'
        )

    @property
    def stream(self) -> ParquetStream:
        """The files."""
        return self.train.dataset.stream

    @property
    def y_bounds(self) -> tuple[float, float]:
        """Lowest and highest rating of the files."""
        return self.stream.low, self.stream.high

    def cold_shares(
        self,
        scorer: Any,  # whose knowledge of users and items counts
    ) -> dict[str, float]:
        """Group of `standing` -> share of the valid rows; of those that are not warm at most so many.

        Users and items were counted apart, so a row that has neither counts twice.
        """
        if not self.stream.sizes[1]:
            return dict(all=1.0)
        trained = {side: self.catalog.known(side) for side in ('user', 'item')}
        scored = {side: known | scorer.knows(side) for side, known in trained.items()}
        new = self._valid_share_beyond(trained)
        cold = self._valid_share_beyond(scored)
        if not new:
            return dict(all=1.0)
        shares = dict(all=1.0, warm=1 - new, features=new - cold, cold=cold)
        return {group: share for group, share in shares.items() if share > 0}

    def _valid_share_beyond(self, known: dict[str, np.ndarray]) -> float:
        """Share of the valid rows whose user or item is not in the masks `known`, at most."""
        counts = self.stream.counts[1]
        n_rows = sum(int(counts[side][~known[side]].sum()) for side in known)
        return min(1.0, n_rows / self.stream.sizes[1])

    def summary(self) -> str:
        """Users, items, rows and density, rows per user and item, and how many of them are in each part."""
        stream = self.stream
        files = 'file' if len(stream.files) == 1 else 'files'
        density = stream.n / self.n_users / self.n_items
        lines = [
            f'{stream.n:,} rows in {len(stream.groups):,} row groups of {len(stream.files):,} {files}, '
            f'{self.n_users:,} users, {self.n_items:,} items, density {density:.3%}, '
            f'ratings {stream.low:g} to {stream.high:g} (mean of training rows {stream.mean:.2f})'
        ]
        for side, counts in stream.counts[0].items():
            low, *quartiles, high = np.quantile(counts[counts > 0], [0, 0.25, 0.5, 0.75, 1])
            shown = ' / '.join(f'{o:.0f}' for o in quartiles)
            n_without = int((counts == 0).sum())
            lines.append(
                f'training rows per {side}: min {low:.0f}, quartiles {shown}, max {high:.0f}; '
                f'without any: {n_without:,}'
            )
        for name, size, part_counts in zip(PARTS, stream.sizes, stream.counts):
            if size:
                n_users = int((part_counts['user'] > 0).sum())
                n_items = int((part_counts['item'] > 0).sum())
                lines.append(f'{name}: {size:,} rows, {n_users:,} users, {n_items:,} items')
        return '\n'.join(lines)

    @check_arguments
    def of_users(
        self,
        users: Any,  # ids, or how many to draw at random of those with valid rows
        seed: int = 0,  # of that draw
    ) -> RecDataLoaders:
        """All rows of some users, in memory: loaders of the same ids and the same split.

        To evaluate on, `evaluate(learn, dls.of_users(10_000))`, and for whatever else needs rows. What is counted in
        the catalog is of all users. `ValueError` if they have no rows.
        """
        stream = self.stream
        catalog = self.catalog
        is_wanted = self._mask_of(users, seed)
        found = list(stream.rows_of(is_wanted))
        if not found:
            raise ValueError('none of the users has a row in the files')
        user_codes, item_codes, ratings, part_of = (np.concatenate(o) for o in zip(*found))
        no_times = 'a stream reads no times'
        inter = Interactions(
            user_codes,
            item_codes,
            ratings,
            None,
            stream.vocab,
            stream.names,
            no_times=no_times,
            missing_rating=stream.missing_rating,
        )
        split = Split(*(np.flatnonzero(part_of == part) for part in _stream_parts(stream)))
        has_steps = len(split.train) >= FEW_STEPS * self.train.bs
        res = RecDataLoaders.from_interactions(
            inter,
            split if stream.sizes[1] else everything,
            catalog.item_df,
            catalog.user_df,
            catalog.title_name,
            bs=self.train.bs if has_steps else None,
            path=self.path,
            device=self.device,
        )
        res.catalog.counts = catalog.counts
        res.catalog.mean_rating = catalog.mean_rating
        res.split_by = f'{self.split_by}; {int(is_wanted.sum()):,} of {catalog.n_users:,} users'
        return res

    def _mask_of(self, users: Any, seed: int) -> np.ndarray:
        """bool (n_users,): the users of these ids, or so many at random."""
        if isinstance(users, (int, float, np.number)):
            part = 1 if self.stream.sizes[1] else 0
            there = np.flatnonzero(self.stream.counts[part]['user'])
            codes = np.random.default_rng(seed).choice(there, min(int(users), len(there)), replace=False)
        else:
            codes = self.vocab['user'].encode(users)
        mask: np.ndarray = np.zeros(self.n_users, dtype=bool)
        mask[codes] = True
        return mask

    def new_empty(self) -> RecDataLoaders:
        """As in `RecDataLoaders`: no rows, and no files."""
        loaders = [dl.new(dl.dataset.new_empty()) for dl in self.loaders]
        return RecDataLoaders(*loaders, path=self.path, device=self.device)


def _stream_parts(stream: ParquetStream) -> list[int]:
    """Train (0), valid (1), and test (2) if it has rows."""
    return [part for part in range(len(PARTS)) if part < 2 or stream.sizes[part]]


def _check_streamable(target: str, columns: Any, others: dict[str, Any], splitter: Any) -> None:
    """`ValueError` for what only rows in memory can have."""
    way_out = 'read the rows instead, from_parquet without stream=True: that takes 20 bytes a row'
    if target != 'rating':
        raise ValueError(
            f'target={target!r}: only ratings are streamed, since negatives and thresholds ask what else a user has; '
            f'{way_out}'
        )
    if columns is not None:
        raise ValueError(
            'columns= is for tables that are read: of a stream only the columns of users, items and ratings are'
        )
    if others:
        raise ValueError(
            f'{first_few(others)}: not for a stream, which cannot look for repeated pairs and has neither negatives '
            f'nor weights; {way_out}'
        )
    if splitter is not None and not isinstance(splitter, str):
        raise ValueError(
            f'splitter={splitter!r}: a splitter looks at all rows. Stream with valid_pct= and seed=, '
            f"or with a column that says the part (splitter='column'); or {way_out}"
        )
