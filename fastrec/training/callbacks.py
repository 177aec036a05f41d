"""What fastrec adds to fastai's training loop."""

from __future__ import annotations

from functools import partial

import torch
from fastai.callback.core import Callback
from fastai.learner import Metric, ValueMetric

from ..data.catalog import cold_groups
from ..evaluation import metrics
from ..evaluation.evaluate import evaluate_users, labelled
from ..evaluation.metrics import as_metrics
from ..progress import show_progress
from .batches import auto_batch_size

__all__ = ['GateCallback', 'LabelColumn', 'NewRowsFirst', 'RankingCallback', 'RatingMetric']


class RatingMetric(Metric):
    """`rmse` or `mae` over a whole validation set, as a column of the training table.

    Sums are kept in float64 (MPS: float32). With `rows` a group of `standing` ('warm', 'features', 'cold') only its pairs count.
    """

    def __init__(self, func, rows: str = 'all'):
        self.func, self.rows = func, rows

    def reset(self):
        """Start a validation set."""
        self.total, self.count = 0.0, 0

    def accumulate(self, learn):
        """Add the errors of a batch."""
        errors = learn.pred.float() - learn.yb[0].float()
        if errors.device.type != 'mps':
            errors = errors.double()  # which MPS has not
        values = errors.square() if self.func is metrics.rmse else errors.abs()
        if self.rows != 'all':
            groups = cold_groups(learn, learn.dls.catalog, *(o.cpu().numpy() for o in learn.xb[:2]))
            mask = torch.from_numpy(
                groups.get(self.rows, groups['all'] & (len(groups) == 1 and self.rows == 'warm'))
            ).to(values.device)
            values, n = values * mask, mask.sum()
        else:
            n = torch.tensor(values.numel(), device=values.device)
        # in distributed training `to_detach` averages over the processes, both alike, so that their ratio is that of all rows
        self.total, self.count = (
            self.total + learn.to_detach(values.sum()),
            self.count + learn.to_detach(n.to(values.dtype)),
        )

    @property
    def value(self):
        if not self.count:
            return None
        mean = torch.as_tensor(self.total / self.count)
        return mean.sqrt() if self.func is metrics.rmse else mean

    @property
    def name(self):
        return self.func.__name__ + ('' if self.rows == 'all' else f'_{self.rows}')


class LabelColumn(Metric):
    """A `LabelMetric` over a whole validation set, as a column of the training table: the mean over users, or of all rows where it is `pooled`."""

    def __init__(self, metric):
        self.metric = metric

    def reset(self):
        """Start a validation set."""
        self.parts = []

    def accumulate(self, learn):
        """Keep the scores of a batch, those of all processes."""
        self.learn = learn
        self.parts.append([learn.to_detach(o) for o in (learn.xb[0], learn.pred.float(), learn.yb[0])])

    @property
    def value(self):
        if not self.parts:
            return None
        users, scores, labels = (torch.cat(o) for o in zip(*self.parts))
        return self.metric(labelled(self.learn, self.learn.dls.catalog, users, scores, labels)).nanmean()

    @property
    def name(self):
        return self.metric.name


class RankingCallback(Callback):
    """Ranking metrics over the whole catalogue as columns of the training table, e.g. 'ndcg@10', that other callbacks can monitor.

    Held-out items are ranked once per epoch after validation. In epochs left out by `every` the columns are nan, which is never better than a best
    value: `SaveModelCallback` keeps what it has, `EarlyStoppingCallback` counts the epoch against its patience.
    """

    order = 45  # before the Recorder (50) asks for the values

    def __init__(
        self,
        metrics,  # ranking metrics, e.g. `[hr(10), ndcg(10)]`
        every: int = 1,  # evaluate each so many epochs, and after the last
        n_users: int = None,  # on a random sample of so many users, the same each time; None: all
        relevant: float = None,  # explicit ratings: held-out ratings from it on are relevant
    ):
        self.ranking_metrics = as_metrics(metrics)
        self.every, self.n_users, self.relevant = every, n_users, relevant
        self.ranking_values = {m.name: float('nan') for m in self.ranking_metrics}

    def value_metrics(self):
        """fastai metrics that show the values."""
        return [ValueMetric(partial(self.ranking_value, m.name), m.name) for m in self.ranking_metrics]

    def ranking_value(self, name):
        """The last value of the metric `name`."""
        return self.ranking_values[name]

    def after_validate(self):
        """Rank, unless this is `lr_find` or `get_preds`."""
        learn = self.learn
        if hasattr(learn, 'lr_finder') or hasattr(learn, 'gather_preds') or not len(learn.dls.catalog.split.valid):
            return
        due = (learn.epoch + 1) % self.every == 0 or learn.epoch + 1 == learn.n_epoch
        if not due:
            self.ranking_values = {m.name: float('nan') for m in self.ranking_metrics}
        else:
            with show_progress(False):
                table = evaluate_users(
                    learn, None, self.ranking_metrics, relevant=self.relevant, users=self.n_users
                )  # training has a bar
            self.ranking_values = {**table.mean().to_dict(), **table.attrs['overall']}


class NewRowsFirst(Callback):
    """Train on the rows that new users and items have, and let nothing else of the model move: what `RecLearner.fine_tune` begins with after `extend`."""

    order = 5  # before schedules and recorders see the optimiser

    def __init__(
        self,
        users,
        items,  # bool masks (n_users,), (n_items,) of who is new
        params: dict,  # parameter name -> bool (rows,): the rows that may move, see `extend_model`
    ):
        self.new_users, self.new_items, self.new_params = users, items, params

    def before_fit(self):
        """Take the subset of the training rows, and a copy of what must not move."""
        self.whole = dl = self.dls.train
        part = dl.dataset.subset(self.new_users, self.new_items)
        known = {k: vars(dl)[k] for k in ('sampler', 'seen') if k in vars(dl)}  # what is no negative is as it was
        self.dls.loaders[0] = dl.new(part, bs=min(dl.bs, auto_batch_size(len(part))), **known)
        self.held = []
        for name, p in self.model.named_parameters():
            rows = self.new_params.get(name, torch.zeros(p.shape[:1], dtype=torch.bool)).to(p.device)
            self.held.append((p, rows.reshape(-1, *[1] * (p.dim() - 1)) if p.dim() else rows.any(), p.detach().clone()))

    @torch.no_grad()
    def after_step(self):
        """Put back what moved."""
        for p, rows, before in self.held:
            p.copy_(torch.where(rows, p, before))

    after_train = after_step  # an optimiser may have settled what was pending

    def after_fit(self):
        """The whole training part again."""
        self.dls.loaders[0] = self.whole
        del self.whole, self.held


class GateCallback(Callback):
    """Divides the training of a `GatedHybrid` in two: a share `held` of the pairs trains its gate, until `pct` of the steps are done; then the gate stays and all pairs train the pathways."""

    run_valid = False

    def __init__(self, held: float = 0.1, pct: float = 0.6):
        if not 0 < held < 1 or not 0 < pct <= 1:
            raise ValueError(
                f'held={held}, pct={pct}: a share of the pairs between 0 and 1, and a share of the steps up to 1'
            )
        self.held, self.pct = held, pct

    def before_fit(self):
        """Remember what the model is built with."""
        self.usual = self.learn.model.held

    def before_batch(self):
        """Set the share."""
        self.learn.model.held = self.held if self.learn.pct_train < self.pct else 0.0

    def after_fit(self):
        """Leave the model as it was."""
        self.learn.model.held = self.usual
