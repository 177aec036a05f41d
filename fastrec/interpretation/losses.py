"""What was predicted badly: losses of rows, users who are served worst, errors by how much was there to learn from."""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from fastai.interpret import Interpretation
from matplotlib.axes import Axes

from ..data.catalog import Catalog, require_same_ids
from ..evaluation.evaluate import default_metrics, evaluate, evaluate_users
from ..evaluation.held_out import catalog_of, held_out_rows, rows_of
from ..evaluation.metrics import lower_is_better, ndcg
from ..evaluation.named import as_metrics, is_error, metric_name
from ..keywords import check_arguments
from ..models.losses import SoftmaxLoss
from ..scorers.baselines import HasCatalog
from ..scorers.recommend import require_numbers
from ..scorers.scorer import Scorer
from ..training.batches import InBatchDL, InteractionDataset, InteractionDL, NegativesDL, UserDL, show_table
from ..training.dataloaders import RecDataLoaders
from ..training.learner import RecLearner
from ..training.stream_batches import StreamDL
from .errors import (
    errors_of_users,
    has_losses,
    interval_in_words,
    losses_of_users,
    predicted,
    ranks_of_held_out,
    rows_with_losses,
    worst,
)
from .figures import draw_groups, new_axes
from .tables import column_for, of_pairs, target_column
from .text import set_label, set_title

__all__: list[str] = []

This = TypeVar('This', bound='ErrorInterpretation')
PARTS = ('train', 'valid')  # of the split, by the number that fastai gives their loaders


class ErrorInterpretation(Interpretation):
    """The part of `RecInterpretation` that looks at held-out rows."""

    _losses: torch.Tensor | None

    def __init__(
        self,
        learn: Scorer,  # a learner, a loaded recommender, a baseline, ...
        dl: Any = None,  # loader of the rows whose losses are looked at, in a fixed order; None: there is none
        losses: torch.Tensor | None = None,  # of those rows, (n,); None: worked out when they are first asked for
        act: Any = None,  # as in fastai
        dls: HasCatalog | None = None,  # loaders that say which rows are held out; None: the scorer's own
        part: str = 'valid',  # of the split, whose rows are looked at
    ) -> None:
        super().__init__(learn, dl, losses, act)
        self.dls = dls
        self.part = part

    @classmethod
    @check_arguments
    def from_learner(
        cls: type[This],
        learn: Scorer,  # a learner, or another scorer: `load_recommender(path)`, `EASE().fit(dls)`, ...
        ds_idx: int = 1,  # whose part of the rows errors are looked at: 0 train, 1 valid
        # a loader in its place, such as `dls.test_dl(table, with_labels=True)`; or loaders, whose part that is, for a
        # recommender that was saved without its history
        dl: Any = None,
        act: Any = None,  # as in fastai
    ) -> This:
        """The interpretation of a learner, or of another `Scorer`; losses are worked out when they are asked for."""
        if not isinstance(learn, Scorer):
            raise TypeError(f'expected a learner or another Scorer, got {type(learn).__name__}: collab_learner(dls)')
        dls = None
        if isinstance(dl, RecDataLoaders):
            dls, dl = dl, None
            require_same_ids(dls.catalog, learn.require_fitted())
        if dl is None and isinstance(learn, RecLearner):
            dl = (learn.dls if dls is None else dls)[ds_idx]
        if isinstance(dl, InteractionDL):
            dl = dl.new(shuffle=False, drop_last=False)
        return cls(learn, dl, None, act, dls, PARTS[ds_idx])

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self._name}, {self.part} rows, {self.catalog})'

    @property
    def _name(self) -> str:
        """What is interpreted, in a word."""
        return type(self.learn if self.learn.model is None else self.learn.model).__name__

    @property
    def catalog(self) -> Catalog:
        """Who and what there is."""
        return self.learn.require_fitted()

    # --- losses

    @property
    def losses(self) -> torch.Tensor:
        """Loss of each row of the part interpreted, (n,), of a whole catalogue of each user.

        The loss's own values. Only of `SoftmaxLoss`, which weighs users within a batch, it is the mean over a user's
        items of -log of their share: values of one batch would not compare with those of another. Of scorers without a
        training loop: squared errors of ratings, of what is liked -log of the probability of what was the case.
        """
        if self._losses is None:
            self._require_losses()
            if self.dl is None:
                self._losses = torch.from_numpy(self._rows['loss'].to_numpy(copy=True))
                return self._losses
            own = self.learn.loss_func
            if type(own) is SoftmaxLoss:
                self.learn.loss_func = SoftmaxLoss(power=0.0)
            try:
                *_, losses = self.learn.get_preds(
                    dl=self.dl, with_loss=True, with_preds=False, with_targs=False, act=self.act
                )
            finally:
                self.learn.loss_func = own
            require_numbers(losses, 'losses')
            self._losses = losses
        return self._losses

    @losses.setter
    def losses(self, values: torch.Tensor | None) -> None:
        self._losses = values

    @cached_property
    def _rows(self) -> pd.DataFrame:
        """Rows with predictions and losses of a scorer that has no loaders."""
        return rows_with_losses(self.learn, self._held_out, self.part)

    @property
    def _held_out(self) -> Catalog:
        """The catalog that says which rows are held out; `ValueError` where those did not travel."""
        catalog = catalog_of(self.learn, self.dls)
        if catalog.history is None:
            raise ValueError(
                f'{type(self.learn).__name__} came without the rows that are held out: '
                'RecInterpretation.from_learner(scorer, dl=dls) with the loaders that have them, '
                'or save_recommender(..., history=True)'
            )
        rows_of(catalog)
        return catalog

    def _require_losses(self) -> None:
        """`TypeError` or `ValueError` where rows have no losses that compare, with what to call instead."""
        if self.dl is None:
            rows_of(self._held_out)
            return
        if isinstance(self.dl, InBatchDL):
            raise TypeError(
                'with the negatives of the batch the loss of a row depends on the rows beside it, so that losses do '
                'not compare: worst_ranks(k) shows the held-out items that came last, worst_users(k) who is served '
                'badly'
            )
        dataset = self.dl.dataset
        if not len(dataset):
            raise ValueError(
                'there are no rows (valid_pct=0 holds none out): look at those of training, '
                'RecInterpretation.from_learner(learn, ds_idx=0)'
            )
        if type(self.dl) is InteractionDL and len(dataset.columns) <= dataset.n_inp:
            raise ValueError(
                'the rows have no targets to compare with: dls.test_dl(table, with_labels=True) has them, and '
                'learn.get_preds(dl=dl) predicts without'
            )

    @check_arguments
    def top_losses(
        self,
        k: int | None = None,  # how many; None, or more than there are: all
        largest: bool = True,  # or those with the smallest
        items: bool = False,  # return the rows, too, as a table
    ) -> tuple:
        """The `k` largest losses and the positions of their rows, (k,) each."""
        n = len(self.losses) if k is None else min(k, len(self.losses))
        losses, idx = super().top_losses(n, largest)
        return (losses, idx, self._shown(idx)) if items else (losses, idx)

    def __getitem__(self, idxs: Any) -> tuple:
        """Inputs, predictions, targets, decoded predictions and losses of rows `idxs`, as fastai's.

        `TypeError` where rows are not pairs.
        """
        losses = self.losses
        if self.dl is None or isinstance(self.dl, (NegativesDL, UserDL)):
            raise TypeError(
                'there are no loaders of pairs with a target here: plot_top_losses(k) shows the rows with the '
                'largest losses, learn.show_results() of a learner a batch with its scores'
            )
        idx = torch.as_tensor(idxs).reshape(-1)
        n_inp = self.dl.dataset.n_inp
        dataset = InteractionDataset(list(self._columns(idx)[: n_inp + 1]), None, self.catalog, n_inp)
        dl = InteractionDL(dataset, bs=len(idx), device=self.learn.dls.device)
        columns = self.learn.get_preds(dl=dl, with_input=True, with_decoded=True, act=self.act, reorder=False)
        return (*columns, losses[idx])

    @check_arguments
    def plot_top_losses(
        self,
        k: int = 9,  # how many
        largest: bool = True,  # or those with the smallest
        show: bool = True,  # show the table; False: return it
    ) -> pd.DataFrame | None:
        """The `k` rows with the largest loss.

        Ids, title, rating (or liked, or, of positives with their negatives, nothing), prediction (as `predict` has it),
        loss; of a whole catalogue user, number of positives, loss.
        """
        losses, idx = self.top_losses(k, largest)
        df = self._shown(idx)
        df['loss'] = losses.cpu().numpy()
        if not show:
            return df
        show_table(df)
        return None

    def _columns(self, idx: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Columns of the rows `idx` on the CPU: users, items[, context][, target[, weight]]."""
        if isinstance(self.dl, StreamDL):  # rows of files come one after the other
            return tuple(torch.cat(parts)[idx] for parts in zip(*([o.cpu() for o in batch] for batch in self.dl)))
        dataset = self.dl.dataset
        return tuple(o.cpu() for o in dataset[idx.to(dataset.device)])

    def _shown(self, idx: torch.Tensor | None = None) -> pd.DataFrame:
        """Rows `idx` of the part interpreted (by default all) as `plot_top_losses` has them, without losses."""
        if self.dl is None:
            rows = self._rows if idx is None else self._rows.iloc[idx.cpu().numpy()].reset_index(drop=True)
            return rows.drop(columns='loss')
        idx = torch.arange(len(self.dl.dataset)) if idx is None else idx.cpu()
        users, *columns = self._columns(idx)
        if isinstance(self.dl, UserDL):
            positives = self.dl.dataset.positives[users.numpy()]
            ids = self.catalog.vocab['user'].decode(users.numpy())
            return pd.DataFrame({self._user: ids, 'positives': np.diff(positives.indptr)})
        n_inp = self.dl.dataset.n_inp
        items, *context = columns[: n_inp - 1]
        scores = self.learn.score(users, items, *context).cpu()
        require_numbers(scores)
        values = dict(prediction=predicted(self.learn, scores).float().numpy())
        if not isinstance(self.dl, NegativesDL):
            values = {target_column(self.catalog): columns[n_inp - 1].numpy(), **values}
        if items.dim() > 1:  # the positive and its negatives
            users = users[:, None].expand_as(items)
        return of_pairs(self.catalog, users.flatten().numpy(), items.flatten().numpy(), **values)

    @property
    def _user(self) -> str:
        """What the column of users is called."""
        return column_for(self.catalog, 'user')

    @check_arguments
    def worst_users(
        self,
        k: int = 10,  # how many
        min_rows: int | None = None,  # only of those with so many rows there; None: 5 of errors, else 1
        metric: Any = None,  # a metric of `evaluate_users`, such as 'ndcg@10', in place of the losses
        relevant: float | None = None,  # explicit ratings that are ranked: from which rating on an item is relevant
    ) -> pd.DataFrame:
        """The `k` users with the largest error or loss, or whom a `metric` of ranking says to be served worst.

        Of ratings: user, rows, rmse, bias (mean of prediction - rating), mean_rating. Of what is liked: user, rows,
        loss (mean of the loss's own values), bias (mean of probability - liked), liked (share of the rows). Of implicit
        feedback: user, rows, loss. With a metric, and where rows have no losses of their own (`ndcg(10)`): user, rows,
        and the metric.
        """
        if metric is None and self._ranks_only:
            metric = ndcg(10)
        if metric is not None:
            return self._worst_by(metric, k, 1 if min_rows is None else min_rows, relevant)
        min_rows = 5 if min_rows is None else min_rows
        losses = self.losses.cpu().double().numpy()  # also says where there are none
        df = self._shown().assign(loss=losses)
        by = 'loss'
        if isinstance(self.dl, UserDL):
            per_user = df.set_index(self._user).rename(columns=dict(positives='rows'))
        elif isinstance(self.dl, NegativesDL):
            per_user = df.groupby(self._user).agg(rows=('loss', 'size'), loss=('loss', 'mean'))
        elif self.catalog.thresholds is not None:
            per_user = losses_of_users(df, self._user)
        else:
            per_user = errors_of_users(df, self._user, target_column(self.catalog))
            by = 'rmse'
        return worst(per_user, by, k, min_rows, largest=True)

    @property
    def _ranks_only(self) -> bool:
        """Have rows no losses that compare?"""
        if self.dl is None:
            return not has_losses(self.learn, self._held_out)
        return isinstance(self.dl, InBatchDL)

    def _worst_by(self, metric: Any, k: int, min_rows: int, relevant: float | None) -> pd.DataFrame:
        """`worst_users` by a metric."""
        catalog = self._held_out
        options: dict[str, Any] = {} if relevant is None else dict(relevant=relevant)
        table = evaluate_users(self.learn, self.dls, metric, split=self.part, **options)
        names = [o for o in table.columns if o != 'rows']
        if not names:
            raise ValueError(f"{metric!r} has one value for all users together: metric='ndcg@10' has one of each")
        if 'rows' not in table:
            inter, rows = held_out_rows(catalog, self.part)
            n_rows = inter.counts('user', rows)[catalog.vocab['user'].encode(table.index)]
            table.insert(0, 'rows', n_rows)
        table.index.name = self._user
        return worst(table[['rows', *names]], names[0], k, min_rows, largest=lower_is_better(names[0]))

    @check_arguments
    def worst_ranks(
        self,
        k: int = 10,  # how many
        relevant: float | None = None,  # explicit ratings: held-out ratings from it on are relevant
    ) -> pd.DataFrame:
        """The `k` held-out items that came last among what their users have not: what the model does not foresee.

        Columns: user, item, title, rank (items that score alike have their mean rank), candidates (items ranked), rows
        (training rows of the item).
        """
        df = ranks_of_held_out(self.learn, self._held_out, self.part, relevant)
        items = self.catalog.vocab['item'].encode(df[column_for(self.catalog, 'item')])
        df['rows'] = self.catalog.counts['item'][items]
        return df.nlargest(k, 'rank').reset_index(drop=True)

    @check_arguments
    def plot_errors(
        self,
        by: str = 'popularity',  # training rows of the items; or 'history': training rows of the users
        metric: Any = None,  # 'mae', 'ndcg@10', ...; None: rmse of ratings, ndcg@10 of what is ranked, roc_auc of liked
        relevant: float | None = None,  # explicit ratings that are ranked: from which rating on an item is relevant
        ax: Axes | None = None,
    ) -> Axes:
        """A metric in quarters by how much was there to learn from: bars, and a line at the value of all.

        Errors in quarters of the held-out rows, metrics of ranking in quarters of the users (`evaluate(by=)`).
        """
        catalog = self._held_out
        if metric is None:
            defaults = default_metrics(catalog, self.learn)
            metric = ndcg(10) if relevant is not None or not is_error(defaults[0]) else defaults[0]
            if catalog.thresholds is not None:
                metric = defaults[0]
        (metric,) = as_metrics(metric)
        options: dict[str, Any] = dict(split=self.part)
        if relevant is not None:
            options['relevant'] = relevant
        groups = evaluate(self.learn, self.dls, metric, by=by, **options)
        together = evaluate(self.learn, self.dls, metric, **options)
        unit = groups.columns[0]
        name = next(o for o in groups.columns if o not in ('rows', 'users', 'one_class'))
        ax = ax or new_axes(7, 4.2)
        labels = [interval_in_words(o) for o in groups.index]
        draw_groups(ax, groups[name].to_numpy(), labels, groups[unit].to_numpy(), together[name].iloc[0], unit)
        better = 'lower' if lower_is_better(metric_name(metric)) else 'higher'
        ax.set_ylabel(f'{name} ({better} is better)')
        set_label(ax, 'x', str(groups.index.name))
        what = dict(popularity='popularity', history='length of history')[by]
        set_title(ax, f'{name} of {self._name} by {what}')
        return ax
