"""`RecLearner`: a fastai `Learner` that is a `Scorer`."""

from __future__ import annotations

import inspect
import time
from copy import deepcopy
from functools import partial
from warnings import warn

import numpy as np
import torch
import torch.nn.functional as F
from fastai.callback.core import (
    Callback,
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
    TrainEvalCallback,
    _inner_loop,
    event,
)
from fastai.callback.schedule import LRFinder, ParamScheduler
from fastai.callback.tracker import TrackerCallback
from fastai.callback.training import GradientClip
from fastai.learner import CastToTensor, Learner, Recorder
from fastai.optimizer import OptimWrapper
from fastai.torch_core import num_distrib
from fastcore.foundation import L
from fastcore.meta import delegates
from fastcore.xtras import modify_exception
from torch import nn

from ..data.columns import column_of
from ..evaluation import metrics as _metrics
from ..evaluation.card import Card, model_card
from ..evaluation.metrics import LabelMetric, RankingMetric, as_metrics
from ..models.blocks import FeatureLinear
from ..models.embedding import EmbeddingTable, pop_penalties, set_gradients, set_l2
from ..models.losses import BCELoss, InBatchSoftmaxLoss, MSELoss, SoftmaxLoss, WARPLoss
from ..scorers.extend import copy_vectors, extend_interactions, extend_model
from ..scorers.model_scorer import ModelScorer
from ..scorers.scorer import Scorer
from .batches import InBatchDL, NegativesDL, UserDataset
from .callbacks import LabelColumn, NewRowsFirst, RankingCallback, RatingMetric
from .dataloaders import RecDataLoaders
from .loop import PlainTensors, Scheduler, StepCounter, StepRecorder
from .optimizers import LARGE, FusedAdam, LazyAdam, one_cycle

__all__ = ['RecLearner']

COLD_SHARE = 0.01  # from this share of cold validation rows on, errors are shown apart
PREDS_BUDGET = 2**30  # bytes of scores
PER_ROW = 16  # see `_default_opt`
_CANCEL = (
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
)
_PER_BATCH, _RENEW = frozenset(_inner_loop), ('before_fit', 'before_train', 'before_validate')
_DIRECT = frozenset(o for o in vars(event) if not o.startswith('_')) - {
    'after_create',
    'after_fit',
}  # after_fit sets `run` back, too
_STEP_EVENTS = ('before_backward', 'after_backward', 'before_step', 'after_step')
_LEAN = {TrainEvalCallback: StepCounter, CastToTensor: PlainTensors, Recorder: StepRecorder}


def _exempt(model, per_row=True):
    """ids of parameters that no optimiser decays: vectors (biases, norms, scalars, tables of biases) and, where their L2 is taken per row, embedding tables and layers whose model penalises what they add."""
    tables = {
        id(p)
        for m in model.modules()
        if (isinstance(m, EmbeddingTable) and (per_row or m.decay == 0))
        or (isinstance(m, FeatureLinear) and m.penalised and per_row)
        for p in m.parameters()
    }
    return tables | {id(p) for p in model.parameters() if p.ndim < 2}


def decay_groups(model, per_row=True):
    """fastai splitter: parameters without and with the optimiser's weight decay."""
    exempt = _exempt(model, per_row)
    groups = [[p for p in model.parameters() if p.requires_grad and (id(p) in exempt) == e] for e in (True, False)]
    return L(L(g) for g in groups if g)


class RecLearner(Learner, ModelScorer):
    """A fastai `Learner` that knows users and items: all of fastai's verbs work, and it is a `Scorer`.

    Weight decay: `wd` is the L2 of the embedding rows per observed row, loss + wd * (|p_u|^2 + |q_i|^2) as in ALS-WR (Zhou et al. 2008), each table
    scaled by its `decay`; other weight matrices get it from the optimiser as fastai does; biases and norms get none. With an objective over the whole catalogue,
    which touches all items at each step, the optimiser decays the tables, too.
    """

    @delegates(Learner.__init__)
    def __init__(self, dls, model, loss_func=None, opt_func=None, metrics=None, splitter=None, cbs=None, **kwargs):
        _check(dls)
        _check_weighted(dls, loss_func)
        self.first_epoch, self._new, self.fits, self._heard, self._per_row, self._layer_groups = (
            None,
            None,
            [],
            {},
            dls.n_inp != 1,
            splitter is not None,
        )
        if isinstance(opt_func, type) and issubclass(opt_func, torch.optim.Optimizer):
            opt_func = partial(OptimWrapper, opt=opt_func)
        metrics = as_metrics(metrics)
        ranking = [m for m in metrics if isinstance(m, RankingMetric)]
        if ranking:
            dls.catalog.require_history()
        own = (
            RankingCallback(ranking)
            if ranking
            else next((cb for cb in L(cbs) if isinstance(cb, RankingCallback)), None)
        )
        columns = _columns(
            dls, ModelScorer(model, dls.catalog), [m for m in metrics if not isinstance(m, RankingMetric)]
        ) + (own.value_metrics() if own else [])
        super().__init__(
            dls,
            model,
            _default_loss(dls) if loss_func is None else loss_func,
            _default_opt(dls, model, self._per_row) if opt_func is None else opt_func,
            splitter=partial(decay_groups, per_row=self._per_row) if splitter is None else splitter,
            metrics=columns,
            cbs=L(cbs) + ([own] if ranking else []),
            **kwargs,
        )

    # --- the training loop: fastai's, with what it works out for each batch worked out once an epoch

    def __call__(self, event_name):
        """Fire event(s). They go straight to the callbacks that have them; fastai sorts and asks all callbacks each time."""
        if not isinstance(event_name, str):
            for name in event_name:
                self(name)
        elif event_name not in _DIRECT:
            super().__call__(event_name)
        else:
            if event_name in _RENEW:
                self._heard = {}
            for cb, handler in self._listeners(event_name):
                if handler is None:
                    cb(event_name)
                elif cb.run and (event_name not in _PER_BATCH or (cb.run_train if self.training else cb.run_valid)):
                    try:
                        handler()
                    except _CANCEL:
                        raise
                    except Exception as e:
                        raise modify_exception(
                            e,
                            f'Exception occured in `{type(cb).__name__}` when calling event `{event_name}`:\n\t{e.args[0] if e.args else e}',
                            replace=True,
                        )

    def _listeners(self, event_name):
        """(callback, its handler) of those that have the event, in order."""
        heard = self._heard.get(event_name)
        if heard is None:
            heard = self._heard[event_name] = [
                (cb, _handler(cb, event_name)) for cb in self.cbs.sorted('order') if _has(cb, event_name)
            ]
        return heard

    def add_cb(self, cb):
        self._heard = {}
        super().add_cb(_LEAN.get(cb, cb) if isinstance(cb, type) else cb)
        cb = self.cbs[-1]
        if (
            isinstance(cb, TrackerCallback)
            and cb.monitor != 'train_loss'
            and self.catalog.split is not None
            and not len(self.catalog.split.valid)
        ):
            super().remove_cb(cb)
            raise ValueError(
                f'{type(cb).__name__} watches {cb.monitor!r}, and no rows are held out (valid_pct=0): leave it out, or hold rows out'
            )
        if isinstance(cb, TrackerCallback) and _metrics.lower_is_better(cb.monitor) and cb.comp is np.greater:
            cb.comp, cb.min_delta = (
                np.less,
                -cb.min_delta,
            )  # fastai guesses from the name: 'loss' or 'error' in it, else more is better
        return self

    def remove_cb(self, cb):
        self._heard = {}
        return super().remove_cb(cb)

    def all_batches(self):
        self._device = next(self.model.parameters()).device
        try:
            super().all_batches()
        finally:
            if self.training and hasattr(self.opt, 'settle'):
                self.opt.settle()

    def _set_device(self, b):
        """fastai's, unless the batch is tensors that are where the model is."""
        for o in b:
            if type(o) is not torch.Tensor or o.device != self._device:
                return super()._set_device(b)
        return b

    def _lr(self):
        return self.opt.opt.param_groups[-1]['lr'] if isinstance(self.opt, OptimWrapper) else self.opt.hypers[-1]['lr']

    @property
    def smooth_loss(self):
        """Smoothed loss of the last training step, a scalar tensor."""
        if isinstance(recorder := self.__dict__.get('recorder'), StepRecorder):
            recorder.drain()
        if '_smooth_loss' not in self.__dict__:
            raise AttributeError('smooth_loss')
        return self._smooth_loss

    @smooth_loss.setter
    def smooth_loss(self, v):
        self._smooth_loss = v

    def _do_grad_opt(self):
        if any(self._listeners(o) for o in _STEP_EVENTS):
            return super()._do_grad_opt()
        self._backward()
        self._step()
        self.opt.zero_grad()

    def _do_one_batch(self):
        self.pred = self.model(*self.xb)
        self('after_pred')
        if len(self.yb):
            extra = dict(items=self.xb[1]) if getattr(self.loss_func, 'needs_items', False) else {}
            self.loss_grad = self.loss_func(self.pred, *self.yb, **extra)
            l2 = pop_penalties(self._tables) if self.training else None
            self.loss = self.loss_grad.detach()
            if l2 is None:
                self.loss = self.loss.clone()  # a callback may change loss_grad in place
            else:
                self.loss_grad = self.loss_grad + l2
        self('after_loss')
        if self.training and len(self.yb):
            self._do_grad_opt()

    def _do_fit(self):
        for self.epoch in range(self.first_epoch, self.n_epoch):
            self._with_events(self._do_epoch, 'epoch', CancelEpochException)

    @delegates(Learner.fit)
    def fit(self, n_epoch, lr=None, wd=None, cbs=None, reset_opt=False, **kwargs):
        """Fit for `n_epoch` epochs; `wd` as in the class's text."""
        default = self.wd
        if wd is None:
            wd = default
        if reset_opt or not self.opt:
            self.create_opt()
        wds = self._optimiser_wd(wd)
        decayed = {
            id(p) for w, g in zip(wds or [], self.opt.param_lists) if w for p in g
        }  # by the optimiser: not twice
        self._tables = [
            m for m in self.model.modules() if isinstance(m, EmbeddingTable) and id(m.weight) not in decayed
        ]
        set_l2(self._tables, wd or 0.0 if self._per_row else 0.0)
        self.first_epoch = 0  # a callback may move it in `before_fit`
        every = [
            m
            for m in self.model.modules()
            if isinstance(m, EmbeddingTable) or (isinstance(m, FeatureLinear) and m.weight is not None)
        ]
        set_gradients(every, 'rows' if self._sparse_grads(cbs) else 'dense', getattr(self.opt, 'large', 0))
        self.wd = None  # what the optimiser gets is in wds; fastai would put the default in the place of None
        started, looking = time.time(), any(isinstance(cb, LRFinder) for cb in L(cbs))
        try:
            super().fit(n_epoch, lr=self._one_rate(lr), wd=wds, cbs=cbs, **kwargs)
        finally:
            if not looking:
                record = self._fit_record(n_epoch, self._one_rate(lr), wd, cbs, time.time() - started)
                if (
                    not self.first_epoch
                    or self.first_epoch < n_epoch
                    or {**record, 'seconds': 0} not in [{**o, 'seconds': 0} for o in self.fits]
                ):
                    self.fits.append(record)  # once, if it was loaded again
            self.wd, self.first_epoch = default, None
            set_l2(self._tables, 0.0)
            set_gradients(every)

    @delegates(Learner.fit_one_cycle)
    def fit_one_cycle(
        self, n_epoch, lr_max=None, div=25.0, div_final=1e5, pct_start=0.25, moms=None, cbs=None, **kwargs
    ):
        """Fit with the 1cycle policy: fastai's, with a schedule that costs no tensors."""
        if self.opt is None:
            self.create_opt()
        self.opt.set_hyper('lr', self._one_rate(self.lr if lr_max is None else lr_max))
        lrs = np.array([h['lr'] for h in self.opt.hypers])
        lr = float(lrs[0]) if (lrs == lrs[0]).all() else lrs
        scheds = {
            'lr': one_cycle(pct_start, lr / div, lr, lr / div_final),
            'mom': one_cycle(pct_start, *(self.moms if moms is None else moms)),
        }
        self.fit(n_epoch, cbs=Scheduler(scheds) + L(cbs), **kwargs)

    @delegates(Learner.fine_tune)
    def fine_tune(self, epochs, base_lr=2e-3, freeze_epochs=None, lr_mult=100, pct_start=0.3, div=5.0, **kwargs):
        """After `extend`: train the new rows alone for `freeze_epochs` (by default 4), then everything for `epochs` at half the rate. Otherwise fastai's (by default 1)."""
        if self._new is None:
            return Learner.fine_tune(
                self, epochs, base_lr, 1 if freeze_epochs is None else freeze_epochs, lr_mult, pct_start, div, **kwargs
            )
        if freeze_epochs is None:
            freeze_epochs = 4
        if freeze_epochs:
            self.fit_one_cycle(freeze_epochs, base_lr, cbs=NewRowsFirst(**self._new), reset_opt=True)
        self._new = None
        self.fit_one_cycle(epochs, base_lr / 2, pct_start=pct_start, div=div, reset_opt=True, **kwargs)

    def extend(
        self,
        new_ratings,  # table of new rows with the columns of the first one; users and items may be new
        item_df=None,
        user_df=None,  # metadata of those who are new
        valid_pct: float = 0.0,  # share of the new rows held out for valid
        seed: int = None,  # of that choice
    ):
        """Take in new rows, and users and items that they bring; returns the learner, to go on with: `learn.extend(new).fine_tune(3, 5e-3)`.

        New users and items get rows of the model that start at the mean of the known ones; where the model reads item features, those of `item_df` are read, too. All that was
        learned stays to the bit. See `extend_interactions` for pairs that were there already.
        """
        old = self.catalog
        inter, split = extend_interactions(old.require_history().interactions, old.split, new_ratings, valid_pct, seed)
        dls = self.dls.rebuilt(inter, split, item_df, user_df)
        self.model, params = extend_model(
            self._with_features(inter.vocab['item'].ids[old.n_items :], item_df), dls.catalog
        )
        if isinstance(self.loss_func, InBatchSoftmaxLoss):
            self.loss_func = _default_loss(dls)  # it counts items
        elif isinstance(self.loss_func, WARPLoss):
            self.loss_func = WARPLoss(dls.n_items, self.loss_func.reduction)
        elif (log_q := getattr(self.loss_func, 'log_q', None)) is not None and len(log_q) != dls.n_items:
            warn(
                f'log_q of the loss is for {len(log_q):,} items, and there are {dls.n_items:,} now: set learn.loss_func = {type(self.loss_func).__name__}(log_q=...) before training goes on',
                stacklevel=2,
            )
        self.dls, self.opt = dls, None
        fresh = {}
        for side in ('user', 'item'):
            fresh[side] = dls.catalog.known(side)
            fresh[side][: len(old.vocab[side])] &= ~old.known(side)
        self._new = (
            dict(users=fresh['user'], items=fresh['item'], params=params)
            if fresh['user'].any() or fresh['item'].any()
            else None
        )
        return self

    def _with_features(self, ids, item_df):
        """The model with the features of the items `ids` in `item_df`, if it reads any; items without a row there have none."""
        if item_df is None or not len(ids) or getattr(self, 'item_features', None) is None:
            return self.model
        id_name, model = self.catalog.names['item'], deepcopy(self.model)
        rows = (
            item_df.rename(columns={column_of(item_df, 'item', self.catalog.names): id_name})
            .drop_duplicates(id_name, keep='last')
            .set_index(id_name)
            .reindex(ids)
            .rename_axis(id_name)
            .reset_index()
        )
        model.add_items(self.item_features.transform(rows, None, id_name).blocks)
        return model

    def load_vectors(
        self,
        other,  # a learner, a loaded recommender, or a baseline that has vectors
        match: str = 'item',  # 'item' or 'user': whose vectors (and biases) are taken over, by id; or a list of both
    ):
        """Start from what another model has learned about the same items or users; returns the learner. Trained ids that both know are copied, others stay as they are."""
        for side in [match] if isinstance(match, str) else match:
            if side not in ('item', 'user'):
                raise ValueError(f"match={match!r}: 'item', 'user', or a list of both")
            n = copy_vectors(self.model, self.catalog, other, side)
            if 2 * n < len(self.vocab[side]):
                warn(
                    f'only {n:,} of {len(self.vocab[side]):,} {side}s have a vector in the other model; the others start at random',
                    stacklevel=2,
                )
        self.opt = None
        return self

    def _fit_record(self, n_epoch, lr, wd, cbs, seconds):
        """What was asked of a fit and what came out: plain values."""
        sched = next((cb.scheds['lr'] for cb in L(cbs) if isinstance(cb, ParamScheduler) and 'lr' in cb.scheds), None)
        rate = self.lr if lr is None else lr
        values = (
            list(zip(self.recorder.metric_names[1:], self.recorder.values[-1]))
            if getattr(self, 'recorder', None) is not None and self.recorder.values
            else []
        )
        return dict(
            epochs=n_epoch,
            lr=(float(rate) if np.isscalar(rate) else str(rate))
            if sched is None
            else float(np.max([sched(o) for o in np.linspace(0, 1, 101)])),
            schedule='constant' if sched is None else 'scheduled, lr is the highest',
            wd=wd,
            bs=self.dls.train.bs,
            seconds=round(seconds, 1),
            **{k: None if v is None else float(v) for k, v in values},
        )

    def card(
        self,
        baselines: dict = None,  # fitted baselines to stand beside, by name; None: those that suit the data; {}: none
        split: str = 'valid',  # the part that figures are from: 'valid', or once, at the end, 'test'
        metrics=None,
        k=None,  # as in `evaluate`
        **kwargs,  # of `evaluate`, e.g. relevant=4 to rank explicit ratings
    ) -> Card:
        """A record of this run: data and split with fingerprints, seeds, versions, hyper-parameters of each fit, and figures beside those of baselines.

        It shows as Markdown; `learn.card().save(folder)` writes card.md and card.json.
        """
        return model_card(self, self.dls, baselines, split, metrics, k, **kwargs)

    def _one_rate(self, lr):
        """Without a splitter of the user's own the parameter groups say what is decayed, and are no layers: of a slice of rates the last counts."""
        return lr.stop if isinstance(lr, slice) and not self._layer_groups else lr

    def freeze_to(self, n):
        """Freeze up to group `n` of a splitter of your own; without one there are no layers to freeze."""
        if self._layer_groups:
            Learner.freeze_to(self, n)

    def _sparse_grads(self, cbs):
        """Gradients of the rows looked up, if the optimiser can do with them and no one else needs dense ones: clipping takes the norm of all, processes average them."""
        return (
            isinstance(self.opt, FusedAdam)
            and num_distrib() == 0
            and not any(isinstance(cb, GradientClip) for cb in (*self.cbs, *L(cbs)))
        )

    def _optimiser_wd(self, wd):
        """Weight decay of each parameter group, or None to leave the optimiser alone."""
        exempt = _exempt(self.model, self._per_row)
        groups = [0.0 if all(id(p) in exempt for p in g) else wd for g in self.opt.param_lists]
        if 'wd' in self.opt.hypers[0]:
            return None if wd is None else groups
        if any(groups):
            raise ValueError(f'wd={wd}, but the optimiser has no weight decay; choose another opt_func or wd=0')

    @delegates(Learner.export)
    def export(self, fname='export.pkl', **kwargs):
        """Write the learner without training rows; a model that reads histories is written with the user vectors computed."""
        model, opt = self.model, self.opt
        if hasattr(model, 'without_history'):
            self.model, self.opt = model.without_history(), None
        self._tables = []
        try:
            Learner.export(self, fname, **kwargs)
        finally:
            self.model, self.opt = model, opt

    def get_preds(self, ds_idx=1, dl=None, **kwargs):
        """fastai's `get_preds`; scores of the whole catalogue (`n_neg=None`) only if they fit a budget of 2 GiB; of positives with the batch's negatives (`n_neg=0`) those of the positives."""
        rows = self.dls[ds_idx] if dl is None else dl
        if (
            self.dls.n_inp == 1
            and isinstance(getattr(rows, 'dataset', None), UserDataset)
            and (size := 4 * len(rows.dataset) * self.dls.n_items) > PREDS_BUDGET
        ):
            raise MemoryError(
                f'get_preds would return {len(rows.dataset):,} users x {self.dls.n_items:,} items twice (scores and targets), {2 * size / 2**30:.0f} GiB. Use learn.recommend(users), or learn.score_items(users) in chunks'
            )
        if isinstance(rows, InBatchDL):
            dl = rows.pairs()
        if getattr(rows, 'n', None) != 1:
            return super().get_preds(ds_idx, dl, **kwargs)
        kwargs['reorder'] = (
            False  # fastcore's `detuplify` makes a scalar of the predictions of one pair, which cannot be reordered
        )
        return type(res := super().get_preds(ds_idx, dl, **kwargs))(
            o[None] if isinstance(o, torch.Tensor) and not o.dim() else o for o in res
        )

    # --- Scorer

    @property
    def shows_progress(self):
        return 'progress' in self.__dict__  # fastai's ProgressCallback, which `no_bar` takes out

    @property
    def n_negatives(self) -> int:
        """Negatives that each positive is trained with; 4, as loaders draw by default, where it is trained on none."""
        return self.dls.train.n_neg if isinstance(self.dls.train, (NegativesDL, InBatchDL)) else 4

    @property
    def catalog(self):
        return self.dls.catalog

    @property
    def vocab(self):
        return self.catalog.vocab

    @property
    def scale(self):
        """What a score is: 'rating', 'logit' or 'probability' (to choose or to like an item), or 'rank' (only the order means something)."""
        if self.dls.target == 'liked':
            return 'logit' if _takes_logits(self.loss_func) else 'probability'
        return 'rating' if self.dls.target == 'rating' else 'logit' if isinstance(self.loss_func, BCELoss) else 'rank'

    def _take_catalog(self, catalog):
        self.dls, self.opt = self.dls.with_catalog(catalog), None

    # --- what a person asks

    predict = Scorer.predict  # of one pair; fastai's is for an item of a dataset


def _has(cb, event_name):
    """Has `cb` the event, itself (an attribute that it lacks is looked up in the learner and its model, which takes long) or by dispatching in its own way?"""
    return hasattr(type(cb), event_name) or event_name in vars(cb) or type(cb).__call__ is not Callback.__call__


def _handler(cb, event_name):
    """The bound method of `cb` for the event; None if the callback dispatches in its own way."""
    return getattr(cb, event_name) if type(cb).__call__ is Callback.__call__ else None


def _check(dls):
    if not isinstance(dls, RecDataLoaders):
        raise TypeError(
            f'expected RecDataLoaders, got {type(dls).__name__}. Make them from the rating table: `dls = RecDataLoaders.from_df(ratings)`; '
            "for fastai's own DataLoaders there is `fastai.collab.collab_learner`"
        )


def _default_opt(dls, model, per_row):
    """`FusedAdam`, or `LazyAdam` where tables are large and a batch looks up little of them; says which where there are large ones.

    A value of a row looked up costs `LazyAdam` what `PER_ROW` values of the table cost the fused kernel (benchmarks/growth.py). Over the whole catalogue every row counts at every step: `FusedAdam`.
    """
    large = [m for m in model.modules() if isinstance(m, EmbeddingTable) and m.weight.numel() >= LARGE]
    if not large or not per_row:
        return FusedAdam
    looked_up = sum(
        m.embedding_dim * dls.train.bs * (dls.train.width if m.num_embeddings == dls.n_items else 1) for m in large
    )
    lazy, tables = (
        PER_ROW * looked_up < sum(m.weight.numel() for m in large),
        ', '.join(f'{m.num_embeddings:,} x {m.embedding_dim}' for m in large),
    )
    if lazy:
        print(
            f'opt_func=LazyAdam: tables of {tables} are updated at the rows of each batch, the rest by a fused kernel (opt_func=FusedAdam: everything is)'
        )
    else:
        print(
            f'opt_func=FusedAdam: tables of {tables} are large, but at batch size {dls.train.bs:,} updating all of them costs less than picking the rows of a batch (opt_func=LazyAdam: rows are picked)'
        )
    return LazyAdam if lazy else FusedAdam


def _default_loss(dls):
    if dls.target == 'rating':
        return (
            nn.MSELoss()
            if dls.catalog.interactions is None or dls.catalog.interactions.row_weights is None
            else MSELoss()
        )
    if isinstance(dls.train, InBatchDL):
        return InBatchSoftmaxLoss(dls.catalog.counts['item'])
    return SoftmaxLoss() if dls.n_inp == 1 else BCELoss()


def _check_weighted(dls, loss_func):
    inter = dls.catalog.interactions
    if loss_func is None or inter is None or inter.row_weights is None:
        return
    takes = inspect.signature(getattr(loss_func, 'forward', loss_func)).parameters.values()
    if sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in takes) < 3 and not any(
        p.kind is p.VAR_POSITIONAL for p in takes
    ):
        raise TypeError(
            f'{loss_func!r} takes no weights, which these loaders have (weight_name=): leave loss_func out, or give one that is called as loss(scores, target, weight), such as fastrec.losses.MSELoss()'
        )


def _takes_logits(loss_func):
    """Does a loss for labels take logits? All do but regression on 0 and 1, and torch's `BCELoss`."""
    loss = getattr(loss_func, 'func', loss_func)  # fastai's losses wrap torch's
    return not isinstance(loss, (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss)) and loss not in (
        F.mse_loss,
        F.l1_loss,
        F.huber_loss,
        F.binary_cross_entropy,
    )


def _columns(dls, scorer, metrics):
    """fastai metrics for the training table: errors over the whole valid set, and by `standing` where that matters."""
    groups = dls.cold_shares(scorer)
    if not COLD_SHARE <= 1 - groups.get('warm', groups['all']) < 1:
        groups = ('all',)
    ours = lambda m: m in (_metrics.rmse, _metrics.mae)
    if dls.target == 'implicit' and any(map(ours, metrics)):
        raise ValueError(
            'rmse and mae compare ratings, and these loaders hold implicit feedback: rank instead, metrics=[hr(10), ndcg(10)]'
        )
    if dls.target == 'liked' and any(map(ours, metrics)):
        raise ValueError(
            'rmse and mae compare ratings, and these loaders ask what is liked: metrics=[roc_auc_score(), f1_score()]'
        )
    if dls.target != 'liked' and (wrong := [m for m in metrics if isinstance(m, LabelMetric)]):
        raise ValueError(
            f"{wrong[0]!r} asks whether users like what was held out: make the loaders with target='liked'"
        )
    return [
        o
        for m in L(metrics)
        for o in (
            [RatingMetric(m, g) for g in groups] if ours(m) else [LabelColumn(m)] if isinstance(m, LabelMetric) else [m]
        )
    ]
