"""What fastrec adds to fastai's training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback, GatherPredsCallback
from fastai.callback.schedule import LRFinder
from fastai.learner import Learner, Metric, ValueMetric

from ..data.catalog import Catalog, cold_groups
from ..data.columns import first_few
from ..evaluation.evaluate import labelled, values_of_users
from ..evaluation.held_out import held_out_rows, relevant_rows
from ..evaluation.metrics import LabelMetric, RankingMetric, rmse
from ..evaluation.named import as_metrics, metric_name
from ..progress import show_progress
from ..scorers.recommend import NotNumbersError
from .batches import auto_batch_size

__all__ = ['GateCallback', 'LabelColumn', 'NewRowsFirst', 'RankingCallback', 'RatingMetric']


# --- columns of the training table


class RatingMetric(Metric):
    """`rmse` or `mae` over a whole validation set, as a column of the training table.

    Sums are kept in float64 (MPS: float32). With `rows` a group of `cold_groups` ('warm', 'features', 'cold') only its
    pairs count.
    """

    def __init__(
        self,
        func: Callable,  # `rmse` or `mae`
        rows: str = 'all',  # which pairs count
    ) -> None:
        self.func = func
        self.rows = rows

    def reset(self) -> None:
        """Start a validation set."""
        self.total = 0.0
        self.count = 0

    def accumulate(
        self,
        learn: Learner,  # the learner that is validated, with its batch
    ) -> None:
        """Add the errors of a batch."""
        errors = learn.pred.float() - learn.yb[0].float()
        if errors.device.type != 'mps':
            errors = errors.double()  # which MPS has not
        values = errors.square() if self.func is rmse else errors.abs()
        if self.rows == 'all':
            n = torch.tensor(values.numel(), device=values.device)
        else:
            mask = torch.from_numpy(self._mask(learn)).to(values.device)
            values = values * mask
            n = mask.sum()
        # in distributed training `to_detach` averages over the processes, both sums alike, so that their ratio is that
        # of all rows
        self.total = self.total + learn.to_detach(values.sum())
        self.count = self.count + learn.to_detach(n.to(values.dtype))

    def _mask(self, learn: Learner) -> np.ndarray:
        """bool (B,): which pairs of the batch are in the group?"""
        users, items = (codes.cpu().numpy() for codes in learn.xb[:2])
        groups = cold_groups(learn, learn.dls.catalog, users, items)
        if self.rows in groups:
            return groups[self.rows]
        all_are_warm = len(groups) == 1
        return groups['all'] if all_are_warm and self.rows == 'warm' else np.zeros_like(groups['all'])

    @property
    def value(self) -> torch.Tensor | None:
        """The error so far, a scalar tensor; None where no pair has counted."""
        if not self.count:
            return None
        mean = torch.as_tensor(self.total / self.count)
        return mean.sqrt() if self.func is rmse else mean

    @property
    def name(self) -> str:
        """'rmse', or 'rmse_cold' of a group."""
        name = self.func.__name__
        return name if self.rows == 'all' else f'{name}_{self.rows}'


class LabelColumn(Metric):
    """A `LabelMetric` over a whole validation set, as a column of the training table.

    The mean over users, or of all rows where it is `pooled`.
    """

    def __init__(
        self,
        metric: LabelMetric,  # what the column shows
    ) -> None:
        self.metric = metric

    def reset(self) -> None:
        """Start a validation set."""
        self.batches: list[list[torch.Tensor]] = []

    def accumulate(
        self,
        learn: Learner,  # the learner that is validated, with its batch
    ) -> None:
        """Keep users, scores and labels of a batch, those of all processes."""
        self.learn = learn
        self.batches.append([learn.to_detach(o) for o in (learn.xb[0], learn.pred.float(), learn.yb[0])])

    @property
    def value(self) -> torch.Tensor | None:
        """The metric so far, a scalar tensor; None before the first batch."""
        if not self.batches:
            return None
        users, scores, labels = (torch.cat(parts) for parts in zip(*self.batches))
        rows = labelled(self.learn, self.learn.dls.catalog, users, scores, labels)
        return self.metric(rows).nanmean()

    @property
    def name(self) -> str:
        """The metric's."""
        return self.metric.name


class RankingCallback(Callback):
    """Ranking metrics over the whole catalogue as columns of the training table that other callbacks can monitor.

    'ndcg@10', for example. Held-out items are ranked once per epoch after validation. In epochs left out by `every` the
    columns are nan, which is never better than a best value: `SaveModelCallback` keeps what it has,
    `EarlyStoppingCallback` counts the epoch against its patience. `TypeError` for metrics that do not rank.
    """

    order = 45  # before the Recorder (50) asks for the values

    def __init__(
        self,
        metrics: Any,  # of ranking: functions, objects or names, e.g. `[hr(10), 'ndcg@10']`
        every: int = 1,  # evaluate each so many epochs, and after the last
        n_users: int | None = None,  # on a random sample of so many users, the same each time; None: all
        relevant: float | None = None,  # explicit ratings: held-out ratings from it on are relevant
    ) -> None:
        self.ranking_metrics = as_metrics(metrics)
        if others := [metric for metric in self.ranking_metrics if not isinstance(metric, RankingMetric)]:
            raise TypeError(
                f'RankingCallback ranks the whole catalogue, and {first_few(map(metric_name, others))} do not look at '
                'ranks: give them to the learner, metrics=[...]'
            )
        self.every = every
        self.n_users = n_users
        self.relevant = relevant
        self.ranking_values = self._nothing()
        self._added: list[ValueMetric] = []  # columns of this fit

    def check(
        self,
        catalog: Catalog,  # of the loaders that are trained on
    ) -> None:
        """`ValueError` where it could not rank what these loaders hold out, as explicit ratings without `relevant`."""
        if catalog.split is not None and len(catalog.split.valid):
            _, rows = held_out_rows(catalog, 'valid')
            relevant_rows(catalog, rows, self.relevant)

    def before_fit(self) -> None:
        """Add the columns that the learner does not have: it came with `fit(cbs=...)` or `add_cb`."""
        self.check(self.learn.dls.catalog)
        there = {metric.name for metric in self.learn.metrics}
        self._added = [metric for metric in self.value_metrics() if metric.name not in there]
        if self._added:
            self.learn.metrics = [*self.learn.metrics, *self._added]

    def after_fit(self) -> None:
        """Leave the learner's columns as they were."""
        if self._added:
            self.learn.metrics = [metric for metric in self.learn.metrics if metric not in self._added]
            self._added = []

    def _nothing(self) -> dict[str, float]:
        """The columns of an epoch in which nothing is ranked."""
        return {metric.name: float('nan') for metric in self.ranking_metrics}

    def value_metrics(self) -> list[ValueMetric]:
        """fastai metrics that show the values."""
        return [ValueMetric(partial(self.ranking_value, m.name), m.name) for m in self.ranking_metrics]

    def ranking_value(
        self,
        name: str,  # of the column, e.g. 'ndcg@10'
    ) -> float:
        """The last value of the metric `name`."""
        return self.ranking_values[name]

    def after_validate(self) -> None:
        """Rank, unless this is `lr_find` or `get_preds`."""
        learn = self.learn
        if shows_no_columns(learn) or not len(learn.dls.catalog.split.valid):
            return
        is_due = (learn.epoch + 1) % self.every == 0
        is_last = learn.epoch + 1 == learn.n_epoch
        if not (is_due or is_last):
            self.ranking_values = self._nothing()
            return
        try:
            with show_progress(False):  # training has a bar
                per_user = values_of_users(
                    learn, None, self.ranking_metrics, relevant=self.relevant, users=self.n_users
                )
        except NotNumbersError:  # which the losses tell, too: the recorder warns
            self.ranking_values = self._nothing()
            return
        means = {name: float(per_user[name].mean()) for name in per_user.columns}
        self.ranking_values = {**means, **per_user.attrs['overall']}


def shows_no_columns(learn: Learner) -> bool:
    """Is this `lr_find` or `get_preds`, of which nobody sees columns of the training table?"""
    return any(isinstance(cb, (LRFinder, GatherPredsCallback)) for cb in learn.cbs)


# --- what is trained when


@dataclass
class _Kept:
    """A parameter of which only some rows may move."""

    parameter: torch.nn.Parameter
    may_move: torch.Tensor  # bool, of a shape that broadcasts to the parameter's
    before: torch.Tensor  # its values before the fit


class NewRowsFirst(Callback):
    """Train on the rows that new users and items have, and let nothing else of the model move.

    What `RecLearner.fine_tune` begins with after `extend`.
    """

    order = 5  # before schedules and recorders see the optimizer

    def __init__(
        self,
        users: np.ndarray,  # bool (n_users,): who is new
        items: np.ndarray,  # bool (n_items,): what is new
        params: dict[str, torch.Tensor],  # parameter name -> bool (rows,): the rows that may move, see `extend_model`
    ) -> None:
        self.new_users = users
        self.new_items = items
        self.new_params = params

    def before_fit(self) -> None:
        """Take the subset of the training rows, and a copy of what must not move."""
        loader = self.dls.train
        self.whole = loader
        rows = loader.dataset.subset(self.new_users, self.new_items)
        # what is not a negative is as it was
        known = {name: value for name, value in vars(loader).items() if name in ('sampler', 'seen')}
        self.dls.loaders[0] = loader.new(rows, bs=min(loader.bs, auto_batch_size(len(rows))), **known)
        self.kept = [_Kept(p, self._may_move(name, p), p.detach().clone()) for name, p in self.model.named_parameters()]

    def _may_move(self, name: str, p: torch.Tensor) -> torch.Tensor:
        """bool (rows, 1, ...), or () for a scalar: which rows of the parameter are new?"""
        nothing = torch.zeros(p.shape[:1], dtype=torch.bool)
        rows = self.new_params.get(name, nothing).to(p.device)
        if not p.dim():
            return rows.any()
        return rows.reshape(-1, *[1] * (p.dim() - 1))

    @torch.no_grad()
    def after_step(self) -> None:
        """Put back what moved."""
        for kept in self.kept:
            kept.parameter.copy_(torch.where(kept.may_move, kept.parameter, kept.before))

    after_train = after_step  # an optimizer may have settled what was pending

    def after_fit(self) -> None:
        """The whole training part again."""
        self.dls.loaders[0] = self.whole
        del self.whole
        del self.kept


class GateCallback(Callback):
    """Divides the training of a `GatedHybrid` in two.

    A share `held` of the pairs trains its gate, until `pct` of the steps are done; then the gate stays and all pairs
    train the pathways. `ValueError` for shares that are not between 0 and 1.
    """

    run_valid = False

    def __init__(
        self,
        held: float = 0.1,  # share of the pairs that train the gate
        pct: float = 0.6,  # share of the steps in which they do
    ) -> None:
        if not 0 < held < 1 or not 0 < pct <= 1:
            raise ValueError(
                f'held={held}, pct={pct}: a share of the pairs between 0 and 1, and a share of the steps up to 1'
            )
        self.held = held
        self.pct = pct

    def before_fit(self) -> None:
        """Remember what the model is built with."""
        self.usual = self.learn.model.held

    def before_batch(self) -> None:
        """Set the share."""
        self.learn.model.held = self.held if self.learn.pct_train < self.pct else 0.0

    def after_fit(self) -> None:
        """Leave the model as it was."""
        self.learn.model.held = self.usual
