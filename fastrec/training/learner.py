"""`RecLearner`: a fastai `Learner` that is a `Scorer`."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.schedule import LRFinder, ParamScheduler, SuggestionMethod
from fastai.callback.tracker import TrackerCallback
from fastai.callback.training import GradientClip
from fastai.learner import Learner, Metric, Recorder, SkipToEpoch
from fastai.torch_core import num_distrib
from fastcore.foundation import L
from fastcore.meta import delegates
from torch import nn

from ..data.block import Block
from ..data.catalog import Catalog, check_source, distinct
from ..data.columns import as_frame, first_few, is_table, plain_values, with_id_column
from ..data.features import Features
from ..data.interactions import Interactions, Vocab
from ..evaluation.card import Card, model_card
from ..evaluation.metrics import LabelMetric, RankingMetric, lower_is_better, mae, rmse
from ..evaluation.named import as_metrics
from ..keywords import check_arguments
from ..models.base import as_rec_model
from ..models.blocks import FeatureLinear
from ..models.embedding import EmbeddingTable, set_gradients
from ..models.losses import (
    BCELoss,
    InBatchSoftmaxLoss,
    MSELoss,
    PopularityDiscounted,
    SampledSoftmaxLoss,
    SoftmaxLoss,
    WARPLoss,
)
from ..notices import warn_user
from ..scorers.extend import copy_vectors, extend_interactions, extend_model
from ..scorers.model_scorer import ModelScorer
from ..scorers.retrieval import fingerprints
from ..scorers.scorer import Scorer, require_scorer
from .batches import InBatchDL, NegativesDL, UserDL
from .callbacks import LabelColumn, NewRowsFirst, RankingCallback, RatingMetric
from .checks import check_loaders, check_model, check_parts, check_takes_weights, takes_logits
from .curves import plot_curves, training_table
from .dataloaders import RecDataLoaders
from .decay import WeightDecay, decay_groups
from .finder import find_rate
from .loop import FastLearner, Scheduler
from .optimizers import LARGE, FusedAdam, LazyAdam, TorchOptimizer, one_cycle
from .recipes import recipe_of

__all__ = ['RecLearner', 'decay_groups']

COLD_SHARE = 0.01  # from this share of cold validation rows on, errors are shown apart
PREDS_BUDGET = 2**30  # bytes of scores of the whole catalogue that `get_preds` may return
ROWS_COST = 16  # see `default_optimizer`


class RecLearner(FastLearner, ModelScorer):
    """A fastai `Learner` that knows users and items: all of fastai's verbs work, and it is a `Scorer`.

    Weight decay: `wd` is the L2 of the embedding rows per observed row, loss + wd * (|p_u|^2 + |q_i|^2) as in ALS-WR
    (Zhou et al. 2008), each table scaled by its `decay`; other weight matrices get it from the optimizer as fastai
    does; biases and norms get none. With an objective over the whole catalogue, which touches all items at each step,
    the optimizer decays the tables, too. `WeightDecay` is where that is decided.

    `lr` is the rate of a fit that is given none: `learn.fit_one_cycle(10)`. By default it is that of the builder's
    recipe (`recipe_of`), which depends on what the loaders are made for and on their batch size. `TypeError` for parts
    in the wrong place.
    """

    dls: RecDataLoaders
    model: nn.Module
    builder: str = 'rec_learner'  # whose recipe its learning rate is from
    opt: Any  # fastai's optimizer; None until it is needed
    user_features: Features | None = None  # `UserFeatures` without rows: they tell what `extend` reads of new users
    _start: list[torch.Tensor] | None = None  # numbers of the weights it started with, where those are random

    @delegates(Learner.__init__)
    def __init__(
        self,
        dls: RecDataLoaders,
        model: nn.Module,
        loss_func: Callable | None = None,
        opt_func: Callable | None = None,
        metrics: Any = None,
        splitter: Callable | None = None,
        cbs: Any = None,
        lr: float | slice | None = None,
        **kwargs,
    ) -> None:
        check_loaders(dls)
        check_parts(loss_func, opt_func, splitter)
        if isinstance(cbs, str):
            raise TypeError(f'cbs={cbs!r}: callbacks, e.g. cbs=[SaveModelCallback()]')
        check_takes_weights(dls, loss_func)
        check_model(model, dls)
        self.fits: list[dict] = []  # what was asked of each fit and what came out: the rows of the model card
        self.new_rows: dict | None = None  # rows that `extend` added, which `fine_tune` trains first
        self.decays_by_rows = (
            dls.objective != 'catalogue'
        )  # over the whole catalogue every row is touched at every step
        self.has_layer_groups = splitter is not None  # without a splitter the groups say what is decayed
        if loss_func is None:
            loss_func = default_loss(dls)
        if isinstance(loss_func, PopularityDiscounted) and loss_func.lacks_counts:
            loss_func = deepcopy(loss_func)  # another learner may have it, of other data
            loss_func.set_counts(dls.catalog.counts['item'])
        if opt_func is None:
            opt_func = default_optimizer(dls, model)
        elif isinstance(opt_func, type) and issubclass(opt_func, torch.optim.Optimizer):
            opt_func = partial(TorchOptimizer, opt=opt_func)
        if splitter is None:
            splitter = partial(decay_groups, by_rows=self.decays_by_rows)
        if lr is None:
            lr = recipe_of('rec_learner', dls).lr
        columns, ranking = _metric_columns(dls, model, as_metrics(metrics), L(cbs))
        kwargs |= dict(lr=lr, splitter=splitter, metrics=columns, cbs=L(cbs) + L(ranking))
        Learner.__init__(self, dls, model, loss_func, opt_func, **kwargs)

    # --- training

    @check_arguments
    @delegates(Learner.fit)
    def fit(
        self,
        n_epoch: int,  # epochs: passes over the training rows
        lr: float | slice | None = None,  # rate; None: `learn.lr`
        wd: float | None = None,  # weight decay; None: `learn.wd`
        cbs: Any = None,  # callbacks of this fit alone
        reset_opt: bool = False,  # start with a new optimizer
        start_epoch: int = 0,  # epochs that are skipped, to go on with a fit that was cut off
    ) -> None:
        """Fit for `n_epoch` epochs; `wd` as in the class's text. `ValueError` for negative epochs or rates."""
        if n_epoch < 0:
            raise ValueError(f'n_epoch={n_epoch}: epochs to train, from 0 on')
        if isinstance(lr, (int, float)) and lr < 0:
            raise ValueError(f'lr={lr:g}: a learning rate from 0 on; learn.fit_one_cycle({n_epoch}) takes {self.lr}')
        if start_epoch != 0:
            cbs = L(cbs) + SkipToEpoch(start_epoch)
        wd = self.wd if wd is None else wd
        started = time.time()
        with self.added_cbs(cbs):
            if reset_opt or not self.opt:
                self.create_opt()
            rate = self._one_rate(self.lr if lr is None else lr)
            self.opt.set_hypers(lr=rate)
            self.n_epoch = n_epoch
            self.first_epoch = 0
            self.decay = WeightDecay(self.model, self.opt, wd, self.decays_by_rows)
            self.decay.start(self.opt)
            self._row_gradients(True)
            try:
                self._with_events(self._do_fit, 'fit', CancelFitException, self._end_cleanup)
            finally:
                self._row_gradients(False)
                self.decay.stop()
                self.decay = None
                if not any(isinstance(cb, LRFinder) for cb in self.cbs):
                    self._keep_record(self._fit_record(rate, wd, time.time() - started))

    @check_arguments
    @delegates(Learner.fit_one_cycle)
    def fit_one_cycle(
        self,
        n_epoch: int,  # epochs: passes over the training rows
        lr_max: float | slice | None = None,  # highest rate of the cycle; None: `learn.lr`, the recipe's
        div: float = 25.0,  # the cycle starts at lr_max / div
        div_final: float = 1e5,  # and ends at lr_max / div_final
        pct_start: float = 0.25,  # share of the steps until the highest rate
        moms: tuple | None = None,  # momentum at the start, at the highest rate and at the end; None: `learn.moms`
        cbs: Any = None,  # callbacks of this fit alone
        **kwargs,
    ) -> None:
        """Fit with the 1cycle policy: fastai's, with a schedule that costs no tensors."""
        if self.opt is None:
            self.create_opt()
        self.opt.set_hyper('lr', self._one_rate(self.lr if lr_max is None else lr_max))
        rates = np.array([h['lr'] for h in self.opt.hypers])
        lr = float(rates[0]) if (rates == rates[0]).all() else rates
        moms = self.moms if moms is None else moms
        schedules = {
            'lr': one_cycle(pct_start, lr / div, lr, lr / div_final),
            'mom': one_cycle(pct_start, *moms),
        }
        self.fit(n_epoch, cbs=Scheduler(schedules) + L(cbs), **kwargs)

    @check_arguments
    @delegates(Learner.fine_tune)
    def fine_tune(
        self,
        epochs: int,  # of all rows, after those of new ones
        base_lr: float | None = None,  # rate of the new rows; None: `learn.lr`
        freeze_epochs: int | None = None,  # epochs of new rows alone; None: 4 after `extend`, else 1
        lr_mult: float = 100,  # fastai's: how much slower the first group of layers learns, of models with groups
        pct_start: float = 0.3,  # share of the steps until the highest rate
        div: float = 5.0,  # the cycle starts at the highest rate / div
        **kwargs,
    ) -> None:
        """After `extend`: train the new rows alone for `freeze_epochs` (by default 4), then all for `epochs`.

        The latter at half the rate, which is `learn.lr` if none is given. Otherwise fastai's, with `freeze_epochs` 1 by
        default.
        """
        base_lr = self.lr if base_lr is None else base_lr
        if self.new_rows is None:
            freeze_epochs = 1 if freeze_epochs is None else freeze_epochs
            super().fine_tune(epochs, base_lr, freeze_epochs, lr_mult, pct_start, div, **kwargs)
            return
        freeze_epochs = 4 if freeze_epochs is None else freeze_epochs
        if freeze_epochs:
            self.fit_one_cycle(freeze_epochs, base_lr, cbs=NewRowsFirst(**self.new_rows), reset_opt=True)
        self.new_rows = None
        self.fit_one_cycle(epochs, base_lr / 2, pct_start=pct_start, div=div, reset_opt=True, **kwargs)

    @check_arguments
    @delegates(Learner.lr_find)
    def lr_find(
        self,
        start_lr: float = 1e-7,  # rate of the first step
        end_lr: float = 10,  # rate of the last step
        num_it: int = 100,  # steps
        stop_div: bool = True,  # stop when the loss has become four times its lowest
        show_plot: bool = True,  # draw the curve with the suggestions
        # one of fastai's `SuggestionMethod`, or a list: what reads a rate off the curve
        suggest_funcs: Any = SuggestionMethod.Valley,
    ) -> Any:
        """A sweep of the learning rate; returns the suggestions as a named tuple, and changes nothing.

        `valley` is the rate of the builder's recipe (`recipe_of`), which goes by the batch size, unless the sweep
        contradicts it: a rate far beyond the valley is brought back into it, one at which nothing moves is raised. For
        models and optimizers of your own that is what counts. Other functions of fastai (`slide`, `steep`, `minimum`)
        read their rates off the curve. The curve is the loss of each step as if all batches were alike;
        `fastrec.training.finder` says what is done, and why a curve alone cannot tell.
        """
        usual = recipe_of(self.builder, self.dls).lr
        return find_rate(self, usual, start_lr, end_lr, num_it, stop_div, show_plot, suggest_funcs)

    def freeze_to(
        self,
        n: int,  # the first group that still learns; negative: counted from the last
    ) -> None:
        """Freeze up to group `n` of a splitter of your own; without one there are no layers to freeze."""
        if self.has_layer_groups:
            super().freeze_to(n)

    def _one_rate(self, lr):
        """Without layer groups the parameter groups say what is decayed: of a slice of rates the last counts."""
        return lr.stop if isinstance(lr, slice) and not self.has_layer_groups else lr

    def _row_gradients(self, on: bool) -> None:
        """Let tables have gradients of the rows looked up, if the optimizer can use them and nobody needs whole ones.

        Clipping takes the norm of all gradients, and processes average them.
        """
        clipped = any(isinstance(cb, GradientClip) for cb in self.cbs)
        by_rows = on and isinstance(self.opt, FusedAdam) and num_distrib() == 0 and not clipped
        tables = [
            m
            for m in self.model.modules()
            if isinstance(m, EmbeddingTable) or (isinstance(m, FeatureLinear) and m.weight is not None)
        ]
        if by_rows:
            set_gradients(tables, 'rows', self.opt.large)
        else:
            set_gradients(tables, 'dense')

    def _keep_record(self, record: dict) -> None:
        """Add to `fits` what was asked of a fit and what came out; once, if a run that was done is loaded again."""
        nothing_done = self.first_epoch >= record['epochs'] and self.first_epoch > 0
        if nothing_done and any({**record, 'seconds': 0} == {**o, 'seconds': 0} for o in self.fits):
            return
        self.fits.append(record)

    def _fit_record(self, lr, wd: float | None, seconds: float) -> dict:
        """Plain values: epochs, rate, schedule, decay, batch size, seconds, and the last row of the training table."""
        schedules = [cb.scheds['lr'] for cb in self.cbs if isinstance(cb, ParamScheduler) and 'lr' in cb.scheds]
        if schedules:
            rate: float | str = float(np.max([schedules[0](o) for o in np.linspace(0, 1, 101)]))
        else:
            rate = float(lr) if isinstance(lr, (int, float)) else str(lr)
        recorder = next((cb for cb in self.cbs if isinstance(cb, Recorder)), None)
        table = [] if recorder is None else vars(recorder).get('values', [])  # none where the fit did not begin
        last = dict(zip(recorder.metric_names[1:], table[-1])) if recorder is not None and table else {}
        return dict(
            epochs=self.n_epoch,
            lr=rate,
            schedule='scheduled, lr is the highest' if schedules else 'constant',
            wd=wd,
            bs=self.dls.train.bs,
            seconds=round(seconds, 1),
            **{name: None if value is None else float(value) for name, value in last.items()},
        )

    @property
    def is_training_run(self) -> bool:
        """Is a fit going on that is neither `lr_find` nor inside `get_preds` or `validate`?"""
        names = {cb.name for cb in self.cbs}
        return self.decay is not None and not names & {'lr_finder', 'gather_preds'}

    def add_cb(
        self,
        cb: Callback | type[Callback],  # an object, or a class that is made without arguments
    ) -> RecLearner:
        """Add a callback; returns the learner.

        One that watches a column has to have it, and is told which way is better. `ValueError` where it watches rows
        that are not held out.
        """
        super().add_cb(cb)
        cb = self.cbs[-1]
        if not isinstance(cb, TrackerCallback):
            return self
        split = self.catalog.split
        if cb.monitor != 'train_loss' and split is not None and not len(split.valid):
            super().remove_cb(cb)
            raise ValueError(
                f'{type(cb).__name__} watches {cb.monitor!r}, and no rows are held out (valid_pct=0): '
                'leave it out, or hold rows out'
            )
        if lower_is_better(cb.monitor) and cb.comp is np.greater:
            cb.comp = np.less  # fastai guesses from the name: 'loss' or 'error' in it, else more is better
            cb.min_delta = -cb.min_delta
        return self

    # --- tables that grow

    @check_arguments
    def extend(
        self,
        new_ratings: pd.DataFrame,  # new rows with the columns of the first table; users and items may be new
        item_df: pd.DataFrame | None = None,  # metadata of items that are new
        user_df: pd.DataFrame | None = None,  # metadata of users who are new
        valid_pct: float = 0.0,  # share of the new rows held out for valid
        seed: int | None = None,  # of that choice
    ) -> RecLearner:
        """Take in new rows, and users and items that they bring; returns the learner.

        To go on with: `learn.extend(new).fine_tune(3, 5e-3)`. New users and items get rows of the model that start at
        the mean of the known ones; where the model reads features, those of `item_df` and `user_df` are read, too. All
        that was learned stays to the bit. See `extend_interactions` for pairs that were there already. `ValueError`,
        before anything changes, for ratings that lie outside the model's `y_range`.
        """
        old = self.catalog
        history = old.require_history()
        inter, split = extend_interactions(history.interactions, history.split, new_ratings, valid_pct, seed)
        self._check_y_range(inter)
        dls = self.dls.rebuilt(inter, split, item_df, user_df)
        model = self._with_features(inter.vocab['item'].ids[old.n_items :], item_df)
        user_blocks = self._user_blocks(inter.vocab['user'].ids[old.n_users :], user_df)
        self.model, params = extend_model(model, dls.catalog, user_blocks)
        self._extend_loss(dls)
        self.dls = dls
        self.opt = None
        fresh = {}
        for side in ('user', 'item'):
            fresh[side] = dls.catalog.known(side)
            fresh[side][: len(old.vocab[side])] &= ~old.known(side)
        any_new = fresh['user'].any() or fresh['item'].any()
        self.new_rows = dict(users=fresh['user'], items=fresh['item'], params=params) if any_new else None
        return self

    def _extend_loss(self, dls: RecDataLoaders) -> None:
        """Losses that count items are made anew; of one with a user's own `log_q` it is said."""
        loss = self.loss_func
        if isinstance(loss, PopularityDiscounted) and loss.popularity_discount:
            loss.set_counts(dls.catalog.counts['item'])
        if isinstance(loss, InBatchSoftmaxLoss):
            counts = dls.catalog.counts['item']
            self.loss_func = InBatchSoftmaxLoss(counts, loss.reduction, loss.popularity_discount)
        elif isinstance(loss, WARPLoss):
            self.loss_func = WARPLoss(dls.n_items, loss.reduction)
        elif isinstance(loss, SampledSoftmaxLoss) and loss.log_q is not None and len(loss.log_q) != dls.n_items:
            warn_user(
                f'log_q of the loss is for {len(loss.log_q):,} items, and there are {dls.n_items:,} now: set '
                f'learn.loss_func = {type(loss).__name__}(log_q=...) before training goes on'
            )

    def _with_features(self, ids: pd.Index, item_df: pd.DataFrame | None) -> nn.Module:
        """The model with the features of the items `ids`, if it reads any; items without a row have none."""
        if item_df is None or not len(ids) or self.item_features is None:
            return self.model
        id_name = self.catalog.names['item']
        model = deepcopy(self.model)
        rows = _rows_of(item_df, ids, 'item', id_name)
        as_rec_model(model).add_items(self.item_features.transform(rows, None, id_name).blocks)
        return model

    def _user_blocks(self, ids: pd.Index, user_df: pd.DataFrame | None) -> dict[str, Block] | None:
        """The features of the users `ids`, if the model reads any; users without a row have none."""
        if user_df is None or not len(ids) or as_rec_model(self.model).has_features('user') is None:
            return None
        if self.user_features is None:
            warn_user(
                f'features of {len(ids):,} new users are not read: the learner does not know how they were made, which '
                'the builders tell it (user_features=)'
            )
            return None
        id_name = self.catalog.names['user']
        rows = _rows_of(user_df, ids, 'user', id_name)
        return self.user_features.transform(rows, None, id_name).blocks

    def _check_y_range(self, inter: Interactions) -> None:
        """`ValueError` for ratings that the model could never reach."""
        y_range = as_rec_model(self.model).y_range
        if y_range is None or inter.ratings is None or self.dls.target != 'rating':
            return
        low, high = float(inter.ratings.min()), float(inter.ratings.max())
        if low < y_range[0] or high > y_range[1]:
            raise ValueError(
                f'with the new rows ratings run from {low:g} to {high:g}, outside y_range={tuple(y_range)} of the '
                'model, which could never reach them: bring the new ones to the scale of the others, or make a new '
                f'learner of all rows, y_range=({low - 0.5:g}, {high + 0.5:g})'
            )

    @check_arguments
    def load_vectors(
        self,
        other: Scorer,  # a learner, a loaded recommender, or a baseline that has vectors
        match: str | list[str] = 'item',  # 'item' or 'user': whose vectors (and biases) are taken over; or both
    ) -> RecLearner:
        """Start from what another model has learned about the same items or users; returns the learner.

        Trained ids that both know are copied, others stay as they are. Warns if fewer than half are found. `ValueError`
        where the other was trained on rows that are held out here, a warning where it may have been; from then on
        `evaluate` looks at its training rows, too.
        """
        require_scorer(other, 'load_vectors')
        sides = [match] if isinstance(match, str) else match
        if not set(sides) <= {'item', 'user'}:
            raise ValueError(f"match={match!r}: 'item', 'user', or a list of both")
        sources = other.sources()
        for source in sources:
            check_source(source, self.catalog, self.catalog.held_out())
        for side in sides:
            n = copy_vectors(self.model, self.catalog, other, side)
            n_here = len(self.vocab[side])
            if 2 * n < n_here:
                warn_user(
                    f'only {n:,} of {n_here:,} {side}s have a vector in the other model; the others start at random',
                )
        self.taken_over = distinct([*self.taken_over, *sources])
        self.opt = None
        return self

    def _take_catalog(self, catalog: Catalog) -> None:
        self.dls = self.dls.with_catalog(catalog)
        self.opt = None

    # --- what comes out

    @check_arguments
    def plot_metrics(
        self,
        target: dict[str, float] | None = None,  # column of the training table -> the value that is wanted
        metrics: str | list[str] | None = None,  # columns that have a panel; None: all
        axes: Any = None,  # matplotlib axes, one for the losses and one for each metric; None: new ones
    ) -> np.ndarray:
        """The training table of the last fit as curves: losses, then a panel for each metric; returns the axes.

        `learn.plot_metrics(target={'ndcg@10': .4})` draws a line there, and says when it was reached or by how much it
        was missed. A ring is around the best epoch. `ValueError` before a fit and for a column that is not there.
        """
        recorder = next((cb for cb in self.cbs if isinstance(cb, Recorder)), None)
        return plot_curves(training_table(recorder), target or {}, metrics, axes)

    def explain(
        self,
        user: Any,  # id
        item: Any,  # id
    ) -> None:
        """Always a `TypeError`, which names the calls that explain.

        fastai would hand the call on to the model's `explain`, which takes codes: ids would be taken for them.
        """
        raise TypeError(
            f'learn.because({user!r}, {item!r}) names the items that carried the score, '
            f'RecInterpretation.from_learner(learn).explain({user!r}, {item!r}) the parts that it is a sum of'
        )

    @check_arguments
    def card(
        self,
        baselines: dict | None = None,  # fitted baselines by name; None: those that suit the data; {}: none
        split: str = 'valid',  # the part that figures are from: 'valid', or once, at the end, 'test'
        metrics: Any = None,  # as in `evaluate`
        k: int | list[int] | None = None,  # as in `evaluate`
        # measure how far what `because` names moves scores (`because_fidelity`)? None: where it takes about a second
        fidelity: bool | None = None,
        **kwargs,  # of `evaluate`, e.g. relevant=4 to rank explicit ratings
    ) -> Card:
        """A record of this run, which shows as Markdown; `learn.card().save(folder)` writes card.md and card.json.

        Data and split with fingerprints, seeds, versions, hyper-parameters of each fit, figures beside those of
        baselines, and whether explanations say what matters. `TypeError` for baselines that are not by name.
        """
        if baselines is not None and not isinstance(baselines, dict):
            raise TypeError(f"baselines={baselines!r}: fitted baselines by name, {{'EASE': EASE().fit(dls)}}")
        return model_card(self, self.dls, baselines, split, metrics, k, fidelity, **kwargs)

    @delegates(Learner.export)
    def export(
        self,
        fname: str = 'export.pkl',  # of the file, in `learn.path`
        **kwargs,
    ) -> None:
        """Write the learner without training rows; a model that reads histories, with the user vectors computed.

        The file is a pickle, and `load_learner` runs what code is in it: load only files you trust. What
        `save_recommender` writes is none, and runs none.
        """
        model, opt, taken_over = self.model, self.opt, self.taken_over
        portable = self.without_history()
        self.taken_over = [source.as_source() for source in taken_over]
        if portable is not model:
            self.model, self.opt = portable, None
        try:
            super().export(fname, **kwargs)
        finally:
            self.model, self.opt, self.taken_over = model, opt, taken_over

    def get_preds(
        self,
        ds_idx: int = 1,
        dl: Any = None,
        **kwargs,  # of fastai's `get_preds`: with_input, with_loss, act, ...
    ) -> tuple:
        """fastai's `get_preds`: predictions, targets, and what else is asked for.

        Scores of the whole catalogue (`n_neg=None`) only if they fit a budget of 2 GiB; of positives with the batch's
        negatives (`n_neg=0`) those of the positives. `TypeError` for a table.
        """
        if is_table(ds_idx) or is_table(dl):
            raise TypeError(
                'get_preds takes a loader, got a table of pairs: learn.get_preds(dl=learn.dls.test_dl(table))'
            )
        rows = self.dls[ds_idx] if dl is None else dl
        if isinstance(rows, UserDL) and (kwargs.get('with_preds', True) or kwargs.get('with_targs', True)):
            self._check_preds_fit(len(rows.dataset))
        if isinstance(rows, InBatchDL):
            rows = dl = rows.pairs()
        if getattr(rows, 'n', None) != 1:  # a loader of somebody else's may not have it
            return super().get_preds(ds_idx, dl, **kwargs)
        kwargs['reorder'] = False  # fastcore's `detuplify` makes a scalar of the predictions of one pair: no order
        res = super().get_preds(ds_idx, dl, **kwargs)
        return type(res)(o[None] if isinstance(o, torch.Tensor) and not o.dim() else o for o in res)

    def _check_preds_fit(self, n_users: int) -> None:
        size = 4 * n_users * self.dls.n_items
        if size > PREDS_BUDGET:
            raise MemoryError(
                f'get_preds would return {n_users:,} users x {self.dls.n_items:,} items twice (scores and targets), '
                f'{2 * size / 2**30:.0f} GiB. Use learn.recommend(users), or learn.score_items(users) in chunks'
            )

    # --- Scorer

    def starts_at_random(self) -> RecLearner:
        """Take note that the weights are those of a fresh model (`is_trained`); returns the learner."""
        self._start = fingerprints(self)
        return self

    @property
    def is_trained(self) -> bool:
        """Has it been fitted, or have its weights changed otherwise (`load`, `load_vectors`, a loop of one's own)?

        A model that was made outside may come with trained weights and counts as trained; one that a builder makes
        does not.
        """
        if self._start is None or any('train_loss' in record for record in self.fits):  # not of a fit that failed
            return True
        now = fingerprints(self)
        if len(now) != len(self._start):
            return True
        return any(a.shape != b.shape or not torch.equal(a.cpu(), b.cpu()) for a, b in zip(now, self._start))

    predict = Scorer.predict  # of one pair; fastai's is for an item of a dataset

    @property
    def shows_progress(self) -> bool:  # type: ignore[override]  # a plain attribute of most scorers
        """Has it fastai's ProgressCallback, which `no_bar` takes out?"""
        return 'progress' in self.__dict__

    @property
    def n_negatives(self) -> int:  # type: ignore[override]
        """Negatives that each positive is trained with; 4, as loaders draw by default, where it is trained on none."""
        return self.dls.train.n_neg if isinstance(self.dls.train, (NegativesDL, InBatchDL)) else 4

    @property
    def catalog(self) -> Catalog:  # type: ignore[override]
        """That of the loaders."""
        return self.dls.catalog

    @property
    def vocab(self) -> dict[str, Vocab]:
        """{'user': Vocab, 'item': Vocab}."""
        return self.catalog.vocab

    @property
    def scale(self) -> str:  # type: ignore[override]
        """What a score is: 'rating', 'logit' or 'probability' (to choose or to like), or 'rank' (only the order)."""
        if self.dls.target == 'rating':
            return 'rating'
        if self.dls.target == 'liked':
            return 'logit' if takes_logits(self.loss_func) else 'probability'
        return 'logit' if isinstance(self.loss_func, BCELoss) else 'rank'


# --- defaults


def _rows_of(df: Any, ids: pd.Index, side: str, id_name: str) -> pd.DataFrame:
    """The row of metadata of each of `ids`, its last one, missing where there is none; ids in the column `id_name`."""
    rows = with_id_column(as_frame(df, f'{side}_df as a DataFrame with a row per {side}'), side, id_name)
    rows = rows.set_index(pd.Index(plain_values(rows[id_name]))).drop(columns=id_name)
    rows = rows[~rows.index.duplicated(keep='last')].reindex(ids)
    return rows.rename_axis(id_name).reset_index()


def default_loss(dls: RecDataLoaders) -> nn.Module:
    """The loss of what the loaders are made for."""
    if dls.target == 'rating':
        inter = dls.catalog.interactions
        has_weights = inter is not None and inter.row_weights is not None
        return MSELoss() if has_weights else nn.MSELoss()
    if isinstance(dls.train, InBatchDL):
        return InBatchSoftmaxLoss(dls.catalog.counts['item'])
    return SoftmaxLoss() if dls.objective == 'catalogue' else BCELoss()


def default_optimizer(dls: RecDataLoaders, model: nn.Module) -> type[FusedAdam]:
    """`FusedAdam`, or `LazyAdam` where tables are large and a batch looks up little of them; says which, of large ones.

    A value of a row looked up costs `LazyAdam` what `ROWS_COST` values of the table cost the fused kernel
    (benchmarks/growth.py). Over the whole catalogue every row counts at every step: `FusedAdam`.
    """
    tables = [m for m in model.modules() if isinstance(m, EmbeddingTable) and m.weight.numel() >= LARGE]
    if not tables or dls.objective == 'catalogue':
        return FusedAdam
    looked_up = 0
    for table in tables:
        rows_each = dls.train.width if table.num_embeddings == dls.n_items else 1
        looked_up += table.embedding_dim * dls.train.bs * rows_each
    sizes = ', '.join(f'{m.num_embeddings:,} x {m.embedding_dim}' for m in tables)
    if ROWS_COST * looked_up < sum(m.weight.numel() for m in tables):
        print(
            f'opt_func=LazyAdam: tables of {sizes} are updated at the rows of each batch, the rest by a fused kernel '
            '(opt_func=FusedAdam: everything is)'
        )
        return LazyAdam
    print(
        f'opt_func=FusedAdam: tables of {sizes} are large, but at batch size {dls.train.bs:,} updating all of them '
        'costs less than picking the rows of a batch (opt_func=LazyAdam: rows are picked)'
    )
    return FusedAdam


# --- columns of the training table


def _metric_columns(dls: RecDataLoaders, model: nn.Module, metrics: list, cbs: L) -> tuple[list, list]:
    """fastai metrics for the training table, and the callback that ranks for them, if any ranks."""
    ranking = [m for m in metrics if isinstance(m, RankingMetric)]
    others = [m for m in metrics if not isinstance(m, RankingMetric)]
    columns = _error_columns(dls, ModelScorer(model, dls.catalog), others)
    added: list[Any] = []
    if ranking:
        dls.catalog.require_history()
        added = [RankingCallback(ranking)]
    for cb in added + [cb for cb in cbs if isinstance(cb, RankingCallback)]:
        cb.check(dls.catalog)
        there = {column.name for column in columns if isinstance(column, Metric)}
        columns += [column for column in cb.value_metrics() if column.name not in there]
    return columns, added


def _error_columns(dls: RecDataLoaders, scorer: ModelScorer, metrics: list) -> list:
    """Errors over the whole valid set, and by `cold_groups` where enough rows are cold; labels."""
    _check_metrics(dls, metrics)
    shares = dls.cold_shares(scorer)
    cold = 1 - shares.get('warm', shares['all'])
    groups = list(shares) if COLD_SHARE <= cold < 1 else ['all']
    columns: list[Any] = []
    for metric in metrics:
        if metric in (rmse, mae):
            columns += [RatingMetric(metric, group) for group in groups]
        elif isinstance(metric, LabelMetric):
            columns.append(LabelColumn(metric))
        else:
            columns.append(metric)
    return columns


def _check_metrics(dls: RecDataLoaders, metrics: list) -> None:
    """`ValueError` for metrics of another target than the loaders have, `TypeError` for what is not a metric."""
    if wrong := [m for m in metrics if not (callable(m) or isinstance(m, Metric))]:
        raise TypeError(
            f'metrics={first_few(wrong)}: metrics are functions, objects or names: '
            "metrics=[rmse, mae], metrics=['ndcg@10']"
        )
    errors = [m for m in metrics if m in (rmse, mae)]
    labels = [m for m in metrics if isinstance(m, LabelMetric)]
    if errors and dls.target == 'implicit':
        raise ValueError(
            'rmse and mae compare ratings, and these loaders hold implicit feedback: '
            'rank instead, metrics=[hr(10), ndcg(10)]'
        )
    if errors and dls.target == 'liked':
        raise ValueError(
            'rmse and mae compare ratings, and these loaders ask what is liked: metrics=[roc_auc_score(), f1_score()]'
        )
    if labels and dls.target != 'liked':
        raise ValueError(
            f"{labels[0]!r} asks whether users like what was held out: make the loaders with target='liked'"
        )
