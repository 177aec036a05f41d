"""`RecLearner` and the builders: wiring only; what they wire has rooms of its own."""
from __future__ import annotations

import inspect
import time
from copy import deepcopy
from functools import partial
from warnings import warn

import numpy as np
import torch
import torch.nn.functional as F
from fastai.callback.core import (Callback, CancelBackwardException, CancelBatchException, CancelEpochException, CancelFitException,
                                  CancelStepException, CancelTrainException, CancelValidException, TrainEvalCallback, _inner_loop, event)
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

from . import metrics as _metrics
from .blend import Ensemble
from .callbacks import GateCallback, LabelColumn, NewRowsFirst, PlainTensors, RankingCallback, RatingMetric, Scheduler, StepCounter, StepRecorder
from .card import Card, model_card
from .dataloaders import InBatchDL, RecDataLoaders, UserDataset
from .extend import copy_vectors, extend_interactions, extend_model
from .features import Features
from .interactions import check_y_range, column_of
from .losses import BCELoss, InBatchSoftmaxLoss, MSELoss, SoftmaxLoss, WARPLoss
from .metrics import LabelMetric, RankingMetric, as_metrics
from .models.blocks import FeatureLinear
from .models.content import Content
from .models.dot import DotBias
from .models.embedding import EmbeddingTable, pop_penalties, set_gradients, set_l2
from .models.gated import ConcatHybrid, GatedHybrid, SumHybrid
from .models.neumf import GMF, MLP, NeuMF
from .models.svdpp import SVDpp
from .models.two_tower import TwoTower
from .optimizers import FusedAdam, LARGE, LazyAdam, one_cycle
from .recommend import Scorer
from .scoring import ModelScorer

__all__ = ['RecLearner', 'rec_learner', 'collab_learner', 'svdpp_learner', 'mlp_learner', 'gmf_learner', 'neumf_learner', 'two_tower_learner', 'ensemble_learner', 'content_learner', 'gated_learner']

COLD_SHARE = 0.01  # from this share of cold validation rows on, errors are shown apart
PREDS_BUDGET = 2**30  # bytes of scores
PER_ROW = 16  # see `_default_opt`
_CANCEL = (CancelBackwardException, CancelBatchException, CancelEpochException, CancelFitException, CancelStepException, CancelTrainException, CancelValidException)
_PER_BATCH, _RENEW = frozenset(_inner_loop), ('before_fit', 'before_train', 'before_validate')
_DIRECT = frozenset(o for o in vars(event) if not o.startswith('_')) - {'after_create', 'after_fit'}  # after_fit sets `run` back, too
_STEP_EVENTS = ('before_backward', 'after_backward', 'before_step', 'after_step')
_LEAN = {TrainEvalCallback: StepCounter, CastToTensor: PlainTensors, Recorder: StepRecorder}


def _exempt(model, per_row=True):
    "ids of parameters that no optimiser decays: vectors (biases, norms, scalars, tables of biases) and, where their L2 is taken per row, embedding tables and layers whose model penalises what they add."
    tables = {id(p) for m in model.modules() if isinstance(m, EmbeddingTable) and (per_row or m.decay == 0) or isinstance(m, FeatureLinear) and m.penalised and per_row for p in m.parameters()}
    return tables | {id(p) for p in model.parameters() if p.ndim < 2}


def decay_groups(model, per_row=True):
    "fastai splitter: parameters without and with the optimiser's weight decay."
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
        self.first_epoch, self._new, self.fits, self._heard, self._per_row, self._layer_groups = None, None, [], {}, dls.n_inp != 1, splitter is not None
        if isinstance(opt_func, type) and issubclass(opt_func, torch.optim.Optimizer): opt_func = partial(OptimWrapper, opt=opt_func)
        metrics = as_metrics(metrics)
        ranking = [m for m in metrics if isinstance(m, RankingMetric)]
        if ranking: dls.catalog.require_history()
        own = RankingCallback(ranking) if ranking else next((cb for cb in L(cbs) if isinstance(cb, RankingCallback)), None)
        columns = _columns(dls, ModelScorer(model, dls.catalog), [m for m in metrics if not isinstance(m, RankingMetric)]) + (own.value_metrics() if own else [])
        super().__init__(dls, model, _default_loss(dls) if loss_func is None else loss_func, _default_opt(dls, model, self._per_row) if opt_func is None else opt_func,
                         splitter=partial(decay_groups, per_row=self._per_row) if splitter is None else splitter, metrics=columns,
                         cbs=L(cbs) + ([own] if ranking else []), **kwargs)

    # --- the training loop: fastai's, with what it works out for each batch worked out once an epoch

    def __call__(self, event_name):
        "Fire event(s). They go straight to the callbacks that have them; fastai sorts and asks all callbacks each time."
        if not isinstance(event_name, str):
            for name in event_name: self(name)
        elif event_name not in _DIRECT: super().__call__(event_name)
        else:
            if event_name in _RENEW: self._heard = {}
            for cb, handler in self._listeners(event_name):
                if handler is None: cb(event_name)
                elif cb.run and (event_name not in _PER_BATCH or (cb.run_train if self.training else cb.run_valid)):
                    try: handler()
                    except _CANCEL: raise
                    except Exception as e:
                        raise modify_exception(e, f'Exception occured in `{type(cb).__name__}` when calling event `{event_name}`:\n\t{e.args[0] if e.args else e}', replace=True)

    def _listeners(self, event_name):
        "(callback, its handler) of those that have the event, in order."
        heard = self._heard.get(event_name)
        if heard is None: heard = self._heard[event_name] = [(cb, _handler(cb, event_name)) for cb in self.cbs.sorted('order') if _has(cb, event_name)]
        return heard

    def add_cb(self, cb):
        self._heard = {}
        super().add_cb(_LEAN.get(cb, cb) if isinstance(cb, type) else cb)
        cb = self.cbs[-1]
        if isinstance(cb, TrackerCallback) and cb.monitor != 'train_loss' and self.catalog.split is not None and not len(self.catalog.split.valid):
            super().remove_cb(cb)
            raise ValueError(f"{type(cb).__name__} watches {cb.monitor!r}, and no rows are held out (valid_pct=0): leave it out, or hold rows out")
        if isinstance(cb, TrackerCallback) and _metrics.lower_is_better(cb.monitor) and cb.comp is np.greater:
            cb.comp, cb.min_delta = np.less, -cb.min_delta  # fastai guesses from the name: 'loss' or 'error' in it, else more is better
        return self

    def remove_cb(self, cb):
        self._heard = {}
        return super().remove_cb(cb)

    def all_batches(self):
        self._device = next(self.model.parameters()).device
        try: super().all_batches()
        finally:
            if self.training and hasattr(self.opt, 'settle'): self.opt.settle()

    def _set_device(self, b):
        "fastai's, unless the batch is tensors that are where the model is."
        for o in b:
            if type(o) is not torch.Tensor or o.device != self._device: return super()._set_device(b)
        return b

    def _lr(self):
        return self.opt.opt.param_groups[-1]['lr'] if isinstance(self.opt, OptimWrapper) else self.opt.hypers[-1]['lr']

    @property
    def smooth_loss(self):
        "Smoothed loss of the last training step, a scalar tensor."
        if isinstance(recorder := self.__dict__.get('recorder'), StepRecorder): recorder.drain()
        if '_smooth_loss' not in self.__dict__: raise AttributeError('smooth_loss')
        return self._smooth_loss
    @smooth_loss.setter
    def smooth_loss(self, v): self._smooth_loss = v

    def _do_grad_opt(self):
        if any(self._listeners(o) for o in _STEP_EVENTS): return super()._do_grad_opt()
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
            if l2 is None: self.loss = self.loss.clone()  # a callback may change loss_grad in place
            else: self.loss_grad = self.loss_grad + l2
        self('after_loss')
        if self.training and len(self.yb): self._do_grad_opt()

    def _do_fit(self):
        for self.epoch in range(self.first_epoch, self.n_epoch): self._with_events(self._do_epoch, 'epoch', CancelEpochException)

    @delegates(Learner.fit)
    def fit(self, n_epoch, lr=None, wd=None, cbs=None, reset_opt=False, **kwargs):
        "Fit for `n_epoch` epochs; `wd` as in the class's text."
        default = self.wd
        if wd is None: wd = default
        if reset_opt or not self.opt: self.create_opt()
        wds = self._optimiser_wd(wd)
        decayed = {id(p) for w, g in zip(wds or [], self.opt.param_lists) if w for p in g}  # by the optimiser: not twice
        self._tables = [m for m in self.model.modules() if isinstance(m, EmbeddingTable) and id(m.weight) not in decayed]
        set_l2(self._tables, wd or 0. if self._per_row else 0.)
        self.first_epoch = 0  # a callback may move it in `before_fit`
        every = [m for m in self.model.modules() if isinstance(m, EmbeddingTable) or isinstance(m, FeatureLinear) and m.weight is not None]
        set_gradients(every, 'rows' if self._sparse_grads(cbs) else 'dense', getattr(self.opt, 'large', 0))
        self.wd = None  # what the optimiser gets is in wds; fastai would put the default in the place of None
        started, looking = time.time(), any(isinstance(cb, LRFinder) for cb in L(cbs))
        try: super().fit(n_epoch, lr=self._one_rate(lr), wd=wds, cbs=cbs, **kwargs)
        finally:
            if not looking:
                record = self._fit_record(n_epoch, self._one_rate(lr), wd, cbs, time.time() - started)
                if not self.first_epoch or self.first_epoch < n_epoch or {**record, 'seconds': 0} not in [{**o, 'seconds': 0} for o in self.fits]: self.fits.append(record)  # once, if it was loaded again
            self.wd, self.first_epoch = default, None
            set_l2(self._tables, 0.)
            set_gradients(every)

    @delegates(Learner.fit_one_cycle)
    def fit_one_cycle(self, n_epoch, lr_max=None, div=25., div_final=1e5, pct_start=0.25, moms=None, cbs=None, **kwargs):
        "Fit with the 1cycle policy: fastai's, with a schedule that costs no tensors."
        if self.opt is None: self.create_opt()
        self.opt.set_hyper('lr', self._one_rate(self.lr if lr_max is None else lr_max))
        lrs = np.array([h['lr'] for h in self.opt.hypers])
        lr = float(lrs[0]) if (lrs == lrs[0]).all() else lrs
        scheds = {'lr': one_cycle(pct_start, lr/div, lr, lr/div_final), 'mom': one_cycle(pct_start, *(self.moms if moms is None else moms))}
        self.fit(n_epoch, cbs=Scheduler(scheds) + L(cbs), **kwargs)

    @delegates(Learner.fine_tune)
    def fine_tune(self, epochs, base_lr=2e-3, freeze_epochs=None, lr_mult=100, pct_start=0.3, div=5., **kwargs):
        "After `extend`: train the new rows alone for `freeze_epochs` (by default 4), then everything for `epochs` at half the rate. Otherwise fastai's (by default 1)."
        if self._new is None: return Learner.fine_tune(self, epochs, base_lr, 1 if freeze_epochs is None else freeze_epochs, lr_mult, pct_start, div, **kwargs)
        if freeze_epochs is None: freeze_epochs = 4
        if freeze_epochs: self.fit_one_cycle(freeze_epochs, base_lr, cbs=NewRowsFirst(**self._new), reset_opt=True)
        self._new = None
        self.fit_one_cycle(epochs, base_lr / 2, pct_start=pct_start, div=div, reset_opt=True, **kwargs)

    def extend(self,
        new_ratings, # table of new rows with the columns of the first one; users and items may be new
        item_df=None, user_df=None, # metadata of those who are new
        valid_pct:float=0., # share of the new rows held out for valid
        seed:int=None # of that choice
    ):
        """Take in new rows, and users and items that they bring; returns the learner, to go on with: `learn.extend(new).fine_tune(3, 5e-3)`.

        New users and items get rows of the model that start at the mean of the known ones; where the model reads item features, those of `item_df` are read, too. All that was
        learned stays to the bit. See `extend_interactions` for pairs that were there already.
        """
        old = self.catalog
        inter, split = extend_interactions(old.require_history(), old.split, new_ratings, valid_pct, seed)
        dls = self.dls.rebuilt(inter, split, item_df, user_df)
        self.model, params = extend_model(self._with_features(inter.vocab['item'].ids[old.n_items:], item_df), dls.catalog)
        if isinstance(self.loss_func, InBatchSoftmaxLoss): self.loss_func = _default_loss(dls)  # it counts items
        elif isinstance(self.loss_func, WARPLoss): self.loss_func = WARPLoss(dls.n_items, self.loss_func.reduction)
        elif (log_q := getattr(self.loss_func, 'log_q', None)) is not None and len(log_q) != dls.n_items:
            warn(f'log_q of the loss is for {len(log_q):,} items, and there are {dls.n_items:,} now: set learn.loss_func = {type(self.loss_func).__name__}(log_q=...) before training goes on', stacklevel=2)
        self.dls, self.opt = dls, None
        fresh = {}
        for side in ('user', 'item'):
            fresh[side] = dls.catalog.known(side)
            fresh[side][:len(old.vocab[side])] &= ~old.known(side)
        self._new = dict(users=fresh['user'], items=fresh['item'], params=params) if fresh['user'].any() or fresh['item'].any() else None
        return self

    def _with_features(self, ids, item_df):
        "The model with the features of the items `ids` in `item_df`, if it reads any; items without a row there have none."
        if item_df is None or not len(ids) or getattr(self, 'item_features', None) is None: return self.model
        id_name, model = self.catalog.names['item'], deepcopy(self.model)
        rows = item_df.rename(columns={column_of(item_df, 'item', self.catalog.names): id_name}).drop_duplicates(id_name, keep='last').set_index(id_name).reindex(ids).rename_axis(id_name).reset_index()
        model.add_items(self.item_features.transform(rows, None, id_name).blocks)
        return model

    def load_vectors(self,
        other, # a learner, a loaded recommender, or a baseline that has vectors
        match:str='item' # 'item' or 'user': whose vectors (and biases) are taken over, by id; or a list of both
    ):
        "Start from what another model has learned about the same items or users; returns the learner. Trained ids that both know are copied, others stay as they are."
        for side in [match] if isinstance(match, str) else match:
            if side not in ('item', 'user'): raise ValueError(f"match={match!r}: 'item', 'user', or a list of both")
            n = copy_vectors(self.model, self.catalog, other, side)
            if 2 * n < len(self.vocab[side]): warn(f'only {n:,} of {len(self.vocab[side]):,} {side}s have a vector in the other model; the others start at random', stacklevel=2)
        self.opt = None
        return self

    def _fit_record(self, n_epoch, lr, wd, cbs, seconds):
        "What was asked of a fit and what came out: plain values."
        sched = next((cb.scheds['lr'] for cb in L(cbs) if isinstance(cb, ParamScheduler) and 'lr' in cb.scheds), None)
        rate = self.lr if lr is None else lr
        values = list(zip(self.recorder.metric_names[1:], self.recorder.values[-1])) if getattr(self, 'recorder', None) is not None and self.recorder.values else []
        return dict(epochs=n_epoch, lr=(float(rate) if np.isscalar(rate) else str(rate)) if sched is None else float(np.max([sched(o) for o in np.linspace(0, 1, 101)])), schedule='constant' if sched is None else 'scheduled, lr is the highest', wd=wd, bs=self.dls.train.bs,
                    seconds=round(seconds, 1), **{k: None if v is None else float(v) for k, v in values})

    def card(self,
        baselines:dict=None, # fitted baselines to stand beside, by name; None: those that suit the data; {}: none
        split:str='valid', # the part that figures are from: 'valid', or once, at the end, 'test'
        metrics=None, k=None, # as in `evaluate`
        **kwargs # of `evaluate`, e.g. relevant=4 to rank explicit ratings
    )->Card:
        """A record of this run: data and split with fingerprints, seeds, versions, hyper-parameters of each fit, and figures beside those of baselines.

        It shows as Markdown; `learn.card().save(folder)` writes card.md and card.json.
        """
        return model_card(self, self.dls, baselines, split, metrics, k, **kwargs)

    def _one_rate(self, lr):
        "Without a splitter of the user's own the parameter groups say what is decayed, and are no layers: of a slice of rates the last counts."
        return lr.stop if isinstance(lr, slice) and not self._layer_groups else lr

    def freeze_to(self, n):
        "Freeze up to group `n` of a splitter of your own; without one there are no layers to freeze."
        if self._layer_groups: Learner.freeze_to(self, n)

    def _sparse_grads(self, cbs):
        "Gradients of the rows looked up, if the optimiser can do with them and no one else needs dense ones: clipping takes the norm of all, processes average them."
        return isinstance(self.opt, FusedAdam) and num_distrib() == 0 and not any(isinstance(cb, GradientClip) for cb in (*self.cbs, *L(cbs)))

    def _optimiser_wd(self, wd):
        "Weight decay of each parameter group, or None to leave the optimiser alone."
        exempt = _exempt(self.model, self._per_row)
        groups = [0. if all(id(p) in exempt for p in g) else wd for g in self.opt.param_lists]
        if 'wd' in self.opt.hypers[0]: return None if wd is None else groups
        if any(groups): raise ValueError(f'wd={wd}, but the optimiser has no weight decay; choose another opt_func or wd=0')

    @delegates(Learner.export)
    def export(self, fname='export.pkl', **kwargs):
        "Write the learner without training rows; a model that reads histories is written with the user vectors computed."
        model, opt = self.model, self.opt
        if hasattr(model, 'without_history'): self.model, self.opt = model.without_history(), None
        self._tables = []
        try: Learner.export(self, fname, **kwargs)
        finally: self.model, self.opt = model, opt

    def get_preds(self, ds_idx=1, dl=None, **kwargs):
        "fastai's `get_preds`; scores of the whole catalogue (`n_neg=None`) only if they fit a budget of 2 GiB; of positives with the batch's negatives (`n_neg=0`) those of the positives."
        rows = self.dls[ds_idx] if dl is None else dl
        if self.dls.n_inp == 1 and isinstance(getattr(rows, 'dataset', None), UserDataset) and (size := 4 * len(rows.dataset) * self.dls.n_items) > PREDS_BUDGET:
            raise MemoryError(f'get_preds would return {len(rows.dataset):,} users x {self.dls.n_items:,} items twice (scores and targets), {2*size/2**30:.0f} GiB. Use learn.recommend(users), or learn.score_items(users) in chunks')
        if isinstance(rows, InBatchDL): dl = rows.pairs()
        if getattr(rows, 'n', None) != 1: return super().get_preds(ds_idx, dl, **kwargs)
        kwargs['reorder'] = False  # fastcore's `detuplify` makes a scalar of the predictions of one pair, which cannot be reordered
        return type(res := super().get_preds(ds_idx, dl, **kwargs))(o[None] if isinstance(o, torch.Tensor) and not o.dim() else o for o in res)

    # --- Scorer

    @property
    def _shows_progress(self): return 'progress' in self.__dict__  # fastai's ProgressCallback, which `no_bar` takes out

    @property
    def catalog(self): return self.dls.catalog
    @property
    def vocab(self): return self.catalog.vocab

    @property
    def scale(self):
        "What a score is: 'rating', 'logit' or 'probability' (to choose or to like an item), or 'rank' (only the order means something)."
        if self.dls.target == 'liked': return 'logit' if _takes_logits(self.loss_func) else 'probability'
        return 'rating' if self.dls.target == 'rating' else 'logit' if isinstance(self.loss_func, BCELoss) else 'rank'

    def _take_catalog(self, catalog): self.dls, self.opt = self.dls.with_catalog(catalog), None

    # --- what a person asks

    predict = Scorer.predict  # of one pair; fastai's is for an item of a dataset


def _has(cb, event_name):
    "Has `cb` the event, itself (an attribute that it lacks is looked up in the learner and its model, which takes long) or by dispatching in its own way?"
    return hasattr(type(cb), event_name) or event_name in vars(cb) or type(cb).__call__ is not Callback.__call__


def _handler(cb, event_name):
    "The bound method of `cb` for the event; None if the callback dispatches in its own way."
    return getattr(cb, event_name) if type(cb).__call__ is Callback.__call__ else None


def _check(dls):
    if not isinstance(dls, RecDataLoaders):
        raise TypeError(f'expected RecDataLoaders, got {type(dls).__name__}. Make them from the rating table: `dls = RecDataLoaders.from_df(ratings)`; '
                        "for fastai's own DataLoaders there is `fastai.collab.collab_learner`")


def _default_opt(dls, model, per_row):
    """`FusedAdam`, or `LazyAdam` where tables are large and a batch looks up little of them; says which where there are large ones.

    A value of a row looked up costs `LazyAdam` what `PER_ROW` values of the table cost the fused kernel (benchmarks/growth.py). Over the whole catalogue every row counts at every step: `FusedAdam`.
    """
    large = [m for m in model.modules() if isinstance(m, EmbeddingTable) and m.weight.numel() >= LARGE]
    if not large or not per_row: return FusedAdam
    looked_up = sum(m.embedding_dim * dls.train.bs * (dls.train.width if m.num_embeddings == dls.n_items else 1) for m in large)
    lazy, tables = PER_ROW * looked_up < sum(m.weight.numel() for m in large), ', '.join(f'{m.num_embeddings:,} x {m.embedding_dim}' for m in large)
    if lazy: print(f'opt_func=LazyAdam: tables of {tables} are updated at the rows of each batch, the rest by a fused kernel (opt_func=FusedAdam: everything is)')
    else: print(f'opt_func=FusedAdam: tables of {tables} are large, but at batch size {dls.train.bs:,} updating all of them costs less than picking the rows of a batch (opt_func=LazyAdam: rows are picked)')
    return LazyAdam if lazy else FusedAdam


def _default_loss(dls):
    if dls.target == 'rating': return nn.MSELoss() if dls.catalog.interactions is None or dls.catalog.interactions.row_weights is None else MSELoss()
    if isinstance(dls.train, InBatchDL): return InBatchSoftmaxLoss(dls.catalog.counts['item'])
    return SoftmaxLoss() if dls.n_inp == 1 else BCELoss()


def _check_weighted(dls, loss_func):
    inter = dls.catalog.interactions
    if loss_func is None or inter is None or inter.row_weights is None: return
    takes = inspect.signature(getattr(loss_func, 'forward', loss_func)).parameters.values()
    if sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in takes) < 3 and not any(p.kind is p.VAR_POSITIONAL for p in takes):
        raise TypeError(f'{loss_func!r} takes no weights, which these loaders have (weight_name=): leave loss_func out, or give one that is called as loss(scores, target, weight), such as fastrec.losses.MSELoss()')


def _takes_logits(loss_func):
    "Does a loss for labels take logits? All do but regression on 0 and 1, and torch's `BCELoss`."
    loss = getattr(loss_func, 'func', loss_func)  # fastai's losses wrap torch's
    return not isinstance(loss, (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss)) and loss not in (F.mse_loss, F.l1_loss, F.huber_loss, F.binary_cross_entropy)


def _columns(dls, scorer, metrics):
    "fastai metrics for the training table: errors over the whole valid set, and by `standing` where that matters."
    groups = dls.standing_of_valid(scorer)
    if not COLD_SHARE <= 1 - groups.get('warm', groups['all']) < 1: groups = ('all',)
    ours = lambda m: m in (_metrics.rmse, _metrics.mae)
    if dls.target == 'implicit' and any(map(ours, metrics)): raise ValueError('rmse and mae compare ratings, and these loaders hold implicit feedback: rank instead, metrics=[hr(10), ndcg(10)]')
    if dls.target == 'liked' and any(map(ours, metrics)): raise ValueError('rmse and mae compare ratings, and these loaders ask what is liked: metrics=[roc_auc_score(), f1_score()]')
    if dls.target != 'liked' and (wrong := [m for m in metrics if isinstance(m, LabelMetric)]): raise ValueError(f"{wrong[0]!r} asks whether users like what was held out: make the loaders with target='liked'")
    return [o for m in L(metrics) for o in ([RatingMetric(m, g) for g in groups] if ours(m) else [LabelColumn(m)] if isinstance(m, LabelMetric) else [m])]


@delegates(RecLearner.__init__)
def rec_learner(
    dls, # `RecDataLoaders`
    model, # an `nn.Module` with `forward(users, items) -> scores`, or a class of which `model(n_users, n_items)` makes one (`known_users`, `known_items` and `mean` are passed if it takes them)
    loss_func=None, # by default by what the loaders are made for, as in `collab_learner`
    opt_func=None, # by default `FusedAdam`, for large tables `LazyAdam`
    metrics=None, # e.g. `[rmse, mae]`
    **kwargs
)->RecLearner:
    "A `RecLearner` for any model; `score_items(users)`, `vectors(side)` and `biases(side)` are used where the model has them."
    _check(dls)
    if isinstance(model, type):
        takes = inspect.signature(model).parameters
        model = model(dls.n_users, dls.n_items, **{k: v for k, v in {**_known(dls), 'mean': _start(dls, loss_func)}.items() if k in takes})
    return RecLearner(dls, model, loss_func, opt_func, metrics, **kwargs)


def _rating_options(dls, y_range, loss_func=None):
    "What rating models are built with, after the checks."
    if dls.target == 'liked':
        logits = loss_func is None or _takes_logits(loss_func)
        if logits and y_range is not None: raise ValueError(f"y_range={tuple(y_range)}: with target='liked' scores are logits and have no range: leave it out, or learn probabilities with y_range=(0, 1), loss_func=nn.MSELoss()")
        if not logits: check_y_range(0, 1, y_range, 'liked')
        return dict(y_range=y_range, mean=_start(dls, loss_func), **_known(dls))
    if dls.target != 'rating':
        if y_range is not None: raise ValueError(f'y_range={y_range} is for ratings, and these loaders hold implicit feedback, whose scores only rank: leave it out')
        return _known(dls)
    lo, hi = dls.y_bounds
    if lo == hi:
        raise ValueError(f"all ratings are {lo:g}: there is nothing to regress on. Such a table says who chose what: rank with RecDataLoaders.from_df(..., target='implicit')")
    check_y_range(lo, hi, y_range, dls.catalog.names['rating'])
    return dict(y_range=y_range, mean=dls.catalog.mean_rating, **_known(dls))


def _start(dls, loss_func):
    "The score of the average training row: the mean rating, or the share of liked rows, as a logit where the loss takes those."
    if dls.target != 'liked': return dls.catalog.mean_rating
    share = float(np.clip(dls.catalog.liked(dls.catalog.split.train).mean(), 1e-3, 1 - 1e-3))
    return float(np.log(share / (1 - share))) if loss_func is None or _takes_logits(loss_func) else share


def _known(dls): # what every model of ours is built with
    return {f'known_{side}s': torch.from_numpy(dls.catalog.known(side)) for side in ('user', 'item')}


@delegates(RecLearner.__init__)
def collab_learner(
    dls, # `RecDataLoaders` of ratings or of implicit feedback
    n_factors:int=50, # length of the vectors of users and items
    y_range:tuple=None, # (low, high) of predicted ratings, a little wider than the ratings; None: unbounded, and for implicit feedback
    loss_func=None, # by default `nn.MSELoss()` for ratings, `BCELoss()` for what is liked and with sampled negatives, `SoftmaxLoss()` over the whole catalogue
    opt_func=None, # by default `FusedAdam`, for large tables `LazyAdam`
    metrics=None, # e.g. `[rmse, mae]`; for implicit feedback `[hr(10), ndcg(10)]`
    wd:float=None, # L2 of the factors per observed row (see `RecLearner`); by default 0.08 for ratings, 0.01 for what is liked, 0 for sampled negatives, 0.3 over the whole catalogue
    **kwargs
)->RecLearner:
    "A learner for matrix factorisation with biases (`DotBias`)."
    if fastais := kwargs.keys() & {'use_nn', 'emb_szs', 'layers', 'config', 'loss'}:
        raise TypeError(f"collab_learner is the dot-product model and takes no {', '.join(sorted(fastais))}: for fastai's `use_nn` there is `mlp_learner(dls, n_factors=, layers=)`")
    _check(dls)
    if (sizes := _context_sizes(dls)) and not any(sizes): raise ValueError('the context of these loaders is the time alone, which collab_learner does not read: take svdpp_learner, or make a column of what matters, e.g. the weekday')
    model = lambda **options: DotBias(dls.n_users, dls.n_items, n_factors, context_sizes=sizes, **options)
    return _build(dls, model, y_range, loss_func, opt_func, metrics, wd, (.08, 0., .3, .01), context=True, **kwargs)


@delegates(RecLearner.__init__)
def svdpp_learner(
    dls, # `RecDataLoaders` of ratings or of implicit feedback
    n_factors:int=50, # length of the vectors of users and items
    dropout:float=None, # share of a user's history left out at each step of training; by default 0 for ratings, 0.4 for implicit feedback
    item_side:bool=None, # do items sum who rated them, as users what they rated? By default yes for ratings, no for implicit feedback
    residuals:bool=None, # are there sums weighted by what is left of the ratings without biases, too? By default yes for ratings; for them only
    leave_one_out:bool=None, # in training, is a row scored as if it were not in the histories? By default yes for ratings
    y_range:tuple=None, # (low, high) of predicted ratings; None: the range of the ratings and a tenth of it more at both ends, and for implicit feedback unbounded
    loss_func=None, # as in `collab_learner`
    opt_func=None, # by default `FusedAdam`; for implicit feedback and large tables `LazyAdam`
    metrics=None, # e.g. `[rmse, mae]`; for implicit feedback `[hr(10), ndcg(10)]`
    wd:float=None, # L2 of the summed vectors per observed row (see `SVDpp`); by default 0.02 times the variance of the ratings, 0 for sampled negatives, 0.4 over the whole catalogue
    own_decay:float=None, # L2 of the vectors that are a user's or an item's own, as a multiple of `wd`; by default 80 for ratings, else 1
    history_decay:float=None, # L2 of the vectors that are summed, as a multiple of `wd`; by default 10 for ratings, else 0
    residual_decay:float=None, # L2 of the vectors in sums weighted by residuals, as a multiple of `wd`; by default 30
    user_features=None, # `UserFeatures`, if anything is known of users
    item_features=None, # `ItemFeatures`: items without training rows are scored by them
    feature_decay:float=1., # L2 of what features add, as a multiple of `wd`
    bias_decay:float=None, # L2 of biases, as a multiple of `wd`; by default 5 for ratings with features, else 0
    **kwargs
)->RecLearner:
    """A learner for `SVDpp`: vectors that add what a user has, and who has an item, in the training rows.

    Of ratings the most accurate model here: `RecDataLoaders.from_df(ratings, bs=2048)` and `fit_one_cycle(15, 5e-3)`. In training a rating is predicted as if it were not in the histories.
    Loaders with `context=` have levels of it, and with the time among it the user's mood at the time (see `Mood`), which takes more off the error than anything else where ratings between others are to be filled in.
    What is saved or exported has vectors worked out once and for all and the levels of context; moods, and new items by their features, only the learner itself has.
    With `n_neg=None` (softmax over the whole catalogue) this is a denoising autoencoder with a vector of its own for each user: the strongest ranker here.
    """
    _check(dls)
    of_ratings = dls.target == 'rating'
    if dropout is None: dropout = .4 if dls.target == 'implicit' else 0.
    if item_side is None: item_side = of_ratings
    if own_decay is None: own_decay = 80. if of_ratings else 1.
    if history_decay is None: history_decay = 10. if of_ratings else 0.
    if residuals is None: residuals = of_ratings
    if residuals and not of_ratings: raise ValueError("residuals=True weighs histories by ratings, and these loaders learn from choices: leave it out, or make them with target='rating'")
    if residual_decay is None: residual_decay = 30.
    if of_ratings:
        lo, hi = dls.y_bounds
        if y_range is None and lo < hi: y_range = lo - (hi - lo) / 10, hi + (hi - lo) / 10
        if opt_func is None: opt_func = FusedAdam  # sums touch every row at every step
        if wd is None: wd = .02 * dls.catalog.require_history().ratings[dls.catalog.split.train].var().item()
    norm = .4 if dls.target == 'implicit' else .5
    blocks = {f'{side}_blocks': None if f is None else _aligned(dls, f, side).blocks for side, f in (('user', user_features), ('item', item_features))}
    if bias_decay is None: bias_decay = 5. if of_ratings and (user_features is not None or item_features is not None) else 0.
    sums = dict(**blocks, feature_decay=feature_decay, bias_decay=bias_decay, context_sizes=_context_sizes(dls), times=dls.catalog.times, norm=norm, item_side=item_side, residuals=residuals, leave_one_out=of_ratings if leave_one_out is None else leave_one_out, own_decay=own_decay, history_decay=history_decay, residual_decay=residual_decay)
    model = lambda **options: SVDpp(dls.n_users, dls.n_items, dls.catalog.positives, n_factors, dropout, **sums, **options)
    learn = _build(dls, model, y_range, loss_func, opt_func, metrics, wd, (0., 0., .4, .01), context=True, **kwargs)
    if item_features is not None: learn.item_features = item_features.without_rows()
    return learn


@delegates(RecLearner.__init__)
def mlp_learner(
    dls, # `RecDataLoaders` of ratings or of implicit feedback
    n_factors:int=16, # length of the vectors of users and items
    layers:list=(64, 32), # widths of the hidden layers
    dropout:float=None, # after each hidden layer; by default 0.5 for ratings, 0 for implicit feedback
    y_range:tuple=None, # (low, high) of predicted ratings, a little wider than the ratings; None: unbounded, and for implicit feedback
    loss_func=None, # as in `collab_learner`
    opt_func=None, # by default `FusedAdam`, for large tables `LazyAdam`
    metrics=None, # e.g. `[rmse, mae]`; for implicit feedback `[hr(10), ndcg(10)]`
    wd:float=None, # L2 of the embeddings per observed row and weight decay of the layers (see `RecLearner`); by default 0.1 for ratings, 0.03 for what is liked, else 0
    **kwargs
)->RecLearner:
    "A learner for a perceptron over user and item embeddings (`MLP`): fastai's `use_nn`, and the MLP of neural collaborative filtering."
    _check(dls)
    if dropout is None: dropout = 0. if dls.target == 'implicit' else .5
    model = lambda **options: MLP(dls.n_users, dls.n_items, n_factors, layers, dropout, **options)
    return _build(dls, model, y_range, loss_func, opt_func, metrics, wd, (.1, 0., 0., .03), pairs_only='mlp_learner', **kwargs)


@delegates(RecLearner.__init__)
def gmf_learner(
    dls, # `RecDataLoaders` of implicit feedback
    n_factors:int=32, # length of the vectors of users and items
    loss_func=None, # by default `BCELoss()`
    opt_func=None, # by default `FusedAdam`, for large tables `LazyAdam`
    metrics=None, # e.g. `[hr(10), ndcg(10)]`
    wd:float=None, # L2 of the embeddings per observed row; by default 0
    **kwargs
)->RecLearner:
    "A learner for generalised matrix factorisation (`GMF`)."
    return _build(dls, lambda **options: GMF(dls.n_users, dls.n_items, n_factors, **options), None, loss_func, opt_func, metrics, wd, (0., 0., 0., 0.), pairs_only='gmf_learner', implicit_only=True, **kwargs)


@delegates(RecLearner.__init__)
def neumf_learner(
    dls, # `RecDataLoaders` of implicit feedback
    n_factors:int=32, # length of the vectors of both pathways
    layers:list=(128, 64, 32), # widths of the hidden layers of the MLP pathway
    dropout:float=0., # after each hidden layer
    pretrain:int=0, # epochs of GMF and of MLP that are trained first, with one cycle at `pretrain_lr`, to start from (He et al. 2017, section 3.4.1)
    pretrain_lr:float=5e-3,
    loss_func=None, # by default `BCELoss()`
    opt_func=None, # by default `FusedAdam`, for large tables `LazyAdam`
    metrics=None, # e.g. `[hr(10), ndcg(10)]`
    wd:float=None, # L2 of the embeddings per observed row and weight decay of the layers; by default 0
    **kwargs
)->RecLearner:
    "A learner for neural matrix factorisation (`NeuMF`), its pathways pre-trained if asked."
    options = dict(loss_func=loss_func, opt_func=opt_func, wd=wd)
    build = partial(_build, dls, y_range=None, defaults=(0., 0., 0., 0.), pairs_only='neumf_learner', implicit_only=True)
    if pretrain:
        gmf = gmf_learner(dls, n_factors, **options)
        mlp = mlp_learner(dls, n_factors, layers, dropout, **options)
        for name, learn in (('GMF', gmf), ('MLP', mlp)):
            print(f'pre-training {name}')
            learn.fit_one_cycle(pretrain, pretrain_lr)
        model = lambda **_: NeuMF.from_pretrained(gmf.model.cpu(), mlp.model.cpu())
    else: model = lambda **known: NeuMF(dls.n_users, dls.n_items, n_factors, layers, dropout, **known)
    return build(model, metrics=metrics, **options, **kwargs)


@delegates(RecLearner.__init__)
def two_tower_learner(
    dls, # `RecDataLoaders` of implicit feedback
    user_features=None, # `UserFeatures`, if anything is known of users
    item_features=None, # `ItemFeatures`: items without training rows get their vectors from them
    n_factors:int=64, # length of the vectors
    layers:list=(128,), # widths of the hidden layers of both towers; (): none
    temperature:float=.1, # of the softmax: scores are cosines over it
    dropout:float=0., # after each hidden layer
    id_dropout:float=.1, # share of rows that train without their id, by features alone
    loss_func=None, # by default `InBatchSoftmaxLoss`
    opt_func=None, # by default `FusedAdam`
    metrics=None, # e.g. `[hr(10), ndcg(10)]`
    wd:float=None, # L2 of the id vectors per row of a batch and weight decay of the layers; by default 0
    **kwargs
)->RecLearner:
    """A learner for `TwoTower`: users and items encoded apart, trained by a softmax over the items of the batch, and made for `learn.index()`.

    Whatever negatives `dls` draw, `learn.dls` are loaders of the same rows whose negatives are the other items of the batch (`dls.in_batch()`): larger batches have more of them.
    """
    _check(dls)
    if dls.target == 'implicit' and not isinstance(dls.train, InBatchDL): dls = dls.in_batch()
    blocks = {f'{side}_blocks': None if f is None else _aligned(dls, f, side).blocks for side, f in (('user', user_features), ('item', item_features))}
    model = lambda **options: TwoTower(dls.n_users, dls.n_items, n_factors, layers, temperature, dropout=dropout, id_dropout=id_dropout, **blocks,
                                       **{k: v for k, v in options.items() if k in ('known_users', 'known_items')})
    learn = _build(dls, model, None, loss_func, opt_func, metrics, wd, (0., 0., 0., 0.), pairs_only='two_tower_learner', implicit_only=True, **kwargs)
    if item_features is not None: learn.item_features = item_features.without_rows()
    return learn


@delegates(RecLearner.__init__)
def content_learner(
    dls, # `RecDataLoaders` of ratings, of likes or of implicit feedback
    item_features, # `ItemFeatures`
    user_features=None, # `UserFeatures`, for users of whom something is known, too
    n_factors:int=64, # length of the vectors of users and items
    hidden:int=256, # width of the hidden layer over the features; 0: none
    dropout:float=.2, # after it
    y_range:tuple=None, # (low, high) of predicted ratings, a little wider than the ratings; None: unbounded, and for likes and implicit feedback
    loss_func=None, # as in `collab_learner`
    opt_func=None, # by default `LazyAdam`, which updates a large first layer at the columns of the batch
    metrics=None, # e.g. `[rmse, mae]`; for implicit feedback `[hr(10), ndcg(10)]`
    wd:float=None, # L2 of the user vectors per observed row and weight decay of the layers (see `RecLearner`); by default 0.1 for ratings and over the whole catalogue, 0.03 for what is liked, 0 for sampled negatives
    **kwargs
)->RecLearner:
    "A learner for `Content`: items are known by their features alone, so that new ones (`learn.add_items`) work at once."
    _check(dls)
    features, user_blocks = _aligned(dls, item_features, 'item'), None if user_features is None else _aligned(dls, user_features, 'user').blocks
    model = lambda **options: Content(dls.n_users, dls.n_items, features.blocks, n_factors, hidden, dropout, user_blocks, **options)
    learn = _build(dls, model, y_range, loss_func, LazyAdam if opt_func is None else opt_func, metrics, wd, (.1, 0., .1, .03), **kwargs)
    learn.item_features = features.without_rows()
    return learn


@delegates(RecLearner.__init__)
def gated_learner(
    dls, # `RecDataLoaders` of ratings, of likes or of implicit feedback
    item_features, # `ItemFeatures`
    pathways:dict=None, # name -> the blocks that share a pathway; by default each block has its own
    n_factors:int=50, # length of the vectors of users and items
    fusion:str='gate', # 'gate': `GatedHybrid`; without gate 'sum': `SumHybrid`, 'concat': `ConcatHybrid`
    hidden:int=0, # width of a hidden layer in each pathway of features; 0: linear
    dropout:float=.2, # of the pathways of features
    id_dropout:float=.2, # share of items whose id is hidden at each step of training
    feature_dropout:float=.2, # share of items whose features are hidden
    shrinkage:float=8., # training rows at which the gate starts with as much weight for the id as for all features together
    y_range:tuple=None, # (low, high) of predicted ratings, a little wider than the ratings; None: unbounded, and for likes and implicit feedback
    loss_func=None, # as in `collab_learner`
    opt_func=None, # by default `FusedAdam`
    metrics=None, # e.g. `[rmse, mae]`; for implicit feedback `[hr(10), ndcg(10)]`
    wd:float=None, # as in `collab_learner`, and weight decay of the layers
    **kwargs
)->RecLearner:
    "A learner for a hybrid: the item's own embedding and its features, behind a gate that looks at user and item (`GatedHybrid`). See what it learned with `interp.plot_gates()`."
    _check(dls)
    models = dict(gate=GatedHybrid, sum=SumHybrid, concat=ConcatHybrid)
    if fusion not in models: raise ValueError(f'fusion={fusion!r}: choose one of {list(models)}')
    features = _aligned(dls, item_features, 'item')
    groups = {name: features[names if isinstance(names, (list, tuple)) else [names]].blocks for name, names in (pathways or {o: o for o in features}).items()}
    gate = dict(shrinkage=shrinkage) if fusion == 'gate' else {}
    model = lambda **options: models[fusion](dls.n_users, dls.n_items, groups, n_factors, hidden, dropout, id_dropout, feature_dropout, item_counts=dls.catalog.counts['item'], **gate, **options)
    learn = _build(dls, model, y_range, loss_func, opt_func, metrics, wd, (.08, 0., .3, .01), **kwargs)
    if fusion == 'gate': learn.add_cb(GateCallback())
    learn.item_features = features.without_rows()
    return learn


def _context_sizes(dls): return [] if dls.catalog.context_of is None else dls.catalog.context_of.sizes


def _aligned(dls, features, side):
    "Features with a row per code."
    if not isinstance(features, Features) or features.side != side:
        raise TypeError(f"expected {'ItemFeatures' if side == 'item' else 'UserFeatures'}, got {type(features).__name__}. Make them from the metadata table: `{'ItemFeatures' if side == 'item' else 'UserFeatures'}.from_df(df, ...)`")
    return features.align(dls.vocab[side])


def ensemble_learner(
    dls, # `RecDataLoaders`
    learner=svdpp_learner, # a builder, or a list of builders for members that differ: called with `dls` and `kwargs`
    n_members:int=5, # members to train; with a list of builders they take turns
    seed:int=0, # member i starts from, and is trained with, seed + i
    **kwargs # of the builder
)->Ensemble:
    """Several learners behind one `Scorer` (`Ensemble`), trained in one call: their mean score is more accurate than each, and their spread says how sure it is.

    `ens = ensemble_learner(dls, svdpp_learner, 5)`, `ens.fit_one_cycle(15, 5e-3)`; `evaluate(ens)`, `ens.recommend(user)`, `ens.predictions(pairs)` with a column of spreads.
    """
    builders = list(learner) if isinstance(learner, (list, tuple)) else [learner]
    if n_members < 1: raise ValueError(f'n_members={n_members}: an ensemble needs members')
    if not builders or not all(map(callable, builders)): raise TypeError('learner= takes a builder such as svdpp_learner, or a list of them')
    members = []
    for i in range(n_members):
        with torch.random.fork_rng():
            torch.manual_seed(seed + i)
            members.append(builders[i % len(builders)](dls, **kwargs))
    return Ensemble(members, seed)


def _build(dls, model, y_range, loss_func, opt_func, metrics, wd, defaults, pairs_only=None, implicit_only=False, context=False, **kwargs):
    "What the builders share: `model` is made with what the data say, `wd` by default by what the loaders are made for (ratings, negatives, whole catalogue)."
    _check(dls)
    if dls.n_inp == 3 and not context: raise ValueError(f'these loaders have context ({dls.catalog.context_of}), which this model does not read: make them without context=, or take svdpp_learner or collab_learner')
    if implicit_only and dls.target != 'implicit':
        raise ValueError(f"{pairs_only} ranks implicit feedback, and these loaders hold ratings. Make them with RecDataLoaders.from_df(..., target='implicit', threshold=), or predict ratings with collab_learner or mlp_learner")
    if pairs_only and dls.n_inp == 1: raise ValueError(f'{pairs_only} scores pairs, and these loaders (n_neg=None) give a whole catalogue per user. Make them with n_neg=4, or take collab_learner or svdpp_learner')
    if wd is None: wd = defaults[{'rating': 0, 'liked': 3}.get(dls.target, 2 if dls.n_inp == 1 else 1)]
    return rec_learner(dls, model(**_rating_options(dls, y_range, loss_func)), loss_func, opt_func, metrics, wd=wd, **kwargs)
