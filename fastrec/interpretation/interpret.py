"""What a trained model has learned, as tables and pictures. Nothing here changes the model.

Each picture is a method that gathers a table and a function below the class that draws it.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from fastai.interpret import Interpretation
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullFormatter

from ..data.catalog import Catalog
from ..memory import require_memory
from ..models.base import as_rec_model, to_range
from ..models.gated import GatedHybrid
from ..models.losses import SoftmaxLoss
from ..scorers.baselines import training_rows
from ..scorers.model_scorer import ModelScorer
from ..scorers.recommend import require_numbers
from ..scorers.scorer import Scorer
from ..training.batches import InBatchDL, InteractionDataset, InteractionDL, NegativesDL, UserDL, decode, show_table
from ..training.learner import RecLearner
from ..training.stream_batches import StreamDL

__all__ = ['RecInterpretation']

GREY, BLUE, ORANGE = '#8a8f98', '#2a6fb0', '#d9772b'
PALE = '#c9ced6'  # of dots that are only there for comparison
N_COLORS = 8  # values of a column that get a color of their own
BYTES_PER_NEIGHBOR = 64  # of a dot, for t-SNE
GATES_AT_A_TIME = 2**24  # weights of pathways: users x items x pathways
ROW_BINS = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2**14, 2**20, 2**62])  # first of each bin


class RecInterpretation(Interpretation):
    """Interpretation of a `RecLearner`, and of other scorers as far as they go without loaders.

    Biases, maps of the vectors, similar items, single predictions, errors, and the ratings themselves. Tables hold the
    user's own ids and titles; plots return the matplotlib axes (an array of them where there are several), new ones
    unless they are given. Only users and items with training rows are shown: nothing was learned about the others.
    What a scorer or its loaders have not is a `TypeError` or `ValueError` that says what to call instead.
    """

    _losses: torch.Tensor | None

    def __init__(
        self,
        learn: Scorer,  # a learner, a loaded recommender, a baseline, ...
        dl: Any = None,  # loader of the rows whose losses are looked at, in a fixed order; None: there is none
        losses: torch.Tensor | None = None,  # of those rows; None: worked out when they are first asked for
        act: Any = None,  # as in fastai
    ) -> None:
        super().__init__(learn, dl, losses, act)

    @classmethod
    def from_learner(
        cls,
        learn: Scorer,  # a learner; of another scorer there are no losses
        ds_idx: int = 1,  # whose part of the rows losses are looked at: 0 train, 1 valid
        dl: Any = None,  # a loader in its place, such as `dls.test_dl(table, with_labels=True)`
        act: Any = None,  # as in fastai
    ) -> RecInterpretation:
        """The interpretation of a learner, or of another `Scorer`; losses are worked out when they are asked for."""
        if not isinstance(learn, Scorer):
            raise TypeError(f'expected a learner or another Scorer, got {type(learn).__name__}: collab_learner(dls)')
        if dl is None and isinstance(learn, RecLearner):
            dl = learn.dls[ds_idx]
        if isinstance(dl, InteractionDL):
            dl = dl.new(shuffle=False, drop_last=False)
        return cls(learn, dl, None, act)

    @property
    def _name(self) -> str:
        """What is interpreted, in a word."""
        return type(self.learn if self.learn.model is None else self.learn.model).__name__

    @property
    def catalog(self) -> Catalog:
        """Who and what there is."""
        return self.learn.catalog

    def _table(self, codes: np.ndarray, side: str, **columns) -> pd.DataFrame:
        """A row a code: id, title (of items, if known), further columns, training rows."""
        df = pd.DataFrame({side: self.catalog.vocab[side].decode(codes)})
        if side == 'item' and self.catalog.title_name is not None:
            df['title'] = self.catalog.titles(codes)
        for name, values in columns.items():
            df[name] = values
        df['rows'] = self.catalog.counts[side][codes]
        return df

    def _labels(self, df: pd.DataFrame, side: str) -> list[str]:
        """Titles, or ids, short enough for a picture."""
        labels = df['title'] if 'title' in df else df[side]
        return [o if len(o) <= 32 else o[:30].rstrip() + '…' for o in map(str, labels)]

    @property
    def _before(self) -> str:
        """What is said of numbers that a sigmoid comes after."""
        model = self.learn.model
        has_range = model is not None and as_rec_model(model).y_range is not None
        return ' (before the sigmoid)' if has_range or self.learn.scale == 'logit' else ''

    def _known(self, side: str, k: int | None = None) -> np.ndarray:
        """Codes with training rows, most rows first (the first `k`)."""
        counts = self.catalog.counts[side]
        n_known = int((counts > 0).sum())
        return np.argsort(-counts, kind='stable')[:n_known][:k]

    def _vectors(self, codes: np.ndarray, side: str) -> np.ndarray:
        """What the model has learned of `codes`: (n, d)."""
        vectors = self.learn.vectors(side)[torch.from_numpy(codes)].cpu()
        require_numbers(vectors, 'vectors')
        return vectors.numpy()

    # --- biases

    def _bias(self, k: int, side: str, largest: bool, min_rows: int) -> pd.DataFrame:
        learned = self.learn.biases(side)
        if learned is None:
            raise TypeError(
                f'{self._name} has no {side} biases: plot_pca(side={side!r}) maps its vectors, where it has any, and '
                'recommend(user) shows what it ranks first'
            )
        require_numbers(learned, 'biases')
        bias = learned.cpu().numpy()
        codes = np.flatnonzero(self.catalog.counts[side] >= max(1, min_rows))
        order = np.argsort(-bias[codes] if largest else bias[codes], kind='stable')
        codes = codes[order[:k]]
        return self._table(codes, side, bias=bias[codes])

    def top_bias(
        self,
        k: int = 10,  # how many
        side: str = 'item',  # or 'user'
        min_rows: int = 1,  # only of those with so many training rows
    ) -> pd.DataFrame:
        """The `k` largest biases: what is rated high beyond what taste explains.

        Columns: id, title, bias (before the sigmoid), rows (in training).
        """
        return self._bias(k, side, True, min_rows)

    def bottom_bias(self, k: int = 10, side: str = 'item', min_rows: int = 1) -> pd.DataFrame:
        """The `k` smallest biases; see `top_bias`."""
        return self._bias(k, side, False, min_rows)

    def _both_ends(self, k: int, side: str, min_rows: int) -> pd.DataFrame:
        """The `k` largest and the `k` smallest biases, descending; `ValueError` if there are none."""
        ends = [self.top_bias(k, side, min_rows), self.bottom_bias(k, side, min_rows)[::-1]]
        df = pd.concat(ends).drop_duplicates(side)
        if not len(df):
            most = self.catalog.counts[side].max()
            raise ValueError(f'no {side} has {min_rows} training rows: the most rated has {most:,}')
        return df

    def plot_bias(self, k: int = 10, side: str = 'item', min_rows: int = 1, ax: Axes | None = None) -> Axes:
        """The `k` largest and the `k` smallest biases as bars."""
        df = self._both_ends(k, side, min_rows)
        ax = ax or _new_axes(8, 1 + 0.28 * len(df))
        _draw_bars(ax, df['bias'].to_numpy(), self._labels(df, side))
        ax.margins(y=0.01)
        titles = dict(
            item='Items rated higher and lower than taste explains',
            user='Users who rate higher and lower than others',
        )
        ax.set(xlabel=f'{side} bias{self._before}', title=titles[side])
        return ax

    # --- maps of the vectors

    def pca(
        self,
        n_components: int = 3,  # how many
        side: str = 'item',  # or 'user'
        k: int = 1000,  # those with most rows
    ) -> pd.DataFrame:
        """Principal components of the vectors of the `k` items (or users) with most rows: id, title, pc1 .., rows.

        Explained shares of variance are in `.attrs['explained']`.
        """
        from sklearn.decomposition import PCA

        codes = self._known(side, k)
        vectors = self._vectors(codes, side)
        pca = PCA(n_components=min(n_components, *vectors.shape), random_state=0).fit(vectors)
        components = {f'pc{i + 1}': o for i, o in enumerate(pca.transform(vectors).T)}
        df = self._table(codes, side, **components)
        df.attrs['explained'] = pca.explained_variance_ratio_.tolist()
        return df

    def plot_pca(
        self,
        k: int = 50,  # how many are in color
        components: tuple[int, int] = (1, 2),  # along x and y, from 1
        side: str = 'item',  # or 'user'
        ax: Axes | None = None,
    ) -> Axes:
        """Map of two principal components: the 1,000 with most rows as dots, the `k` with most rows in color.

        These are labelled where labels find room. `ValueError` for components that there are not.
        """
        df = self.pca(max(components), side)
        if f'pc{max(components)}' not in df:
            n = sum(str(c).startswith('pc') for c in df)
            raise ValueError(f'components={components}: the vectors have {n} component(s); a map needs two')
        ax = ax or _new_axes(11, 9)
        _draw_components(ax, df, k, components)
        ax.set_title(
            f'{side.capitalize()} vectors: the {len(df)} with most ratings, {min(k, len(df))} of them in colour'
        )
        x, y = (df[f'pc{c}'].to_numpy()[:k] for c in components)
        place_labels(ax, x, y, self._labels(df[:k], side))
        return ax

    def plot_tsne(
        self,
        color: str | None = None,  # column of metadata; None: 'genres', if there is one
        k: int = 500,  # those with most rows
        side: str = 'item',  # or 'user'
        perplexity: float = 30.0,  # neighbors that count, about; fewer where there are few dots
        seed: int = 0,  # of the descent
        n_labels: int = 15,  # how many of those with most rows are labelled, where labels find room
        ax: Axes | None = None,
        budget: int | None = None,  # bytes that the neighbors may take; None: half of the memory that is available
    ) -> Axes:
        """t-SNE map (van der Maaten and Hinton 2008) of the vectors of the `k` with most rows, colored by metadata.

        Lists such as 'Action|Comedy' count by their first entry; the eight most frequent values get a color of their
        own, numbers a scale. `ValueError` for a column that is not there.
        """
        color = self._color_column(color, side)
        df = self._tsne(color, k, side, perplexity, seed, budget)
        ax = ax or _new_axes(11, 9)
        if color is None:
            ax.scatter(df['x'], df['y'], s=18, color=BLUE)
        elif pd.api.types.is_numeric_dtype(df['color'].dtype):
            _draw_by_number(ax, df, color)
        else:
            _draw_by_value(ax, df, color)
        title = f'{side.capitalize()} vectors: the {len(df)} with most ratings'
        ax.set(xlabel='t-SNE 1', ylabel='t-SNE 2', xticks=[], yticks=[], title=title)
        labelled = df[:n_labels]
        place_labels(ax, labelled['x'].to_numpy(), labelled['y'].to_numpy(), self._labels(labelled, side))
        return ax

    def _metadata(self, side: str) -> pd.DataFrame | None:
        return self.catalog.item_df if side == 'item' else self.catalog.user_df

    def _color_column(self, color: str | None, side: str) -> str | None:
        """The column to color by; None: there is none."""
        metadata = self._metadata(side)
        if color is None:
            return 'genres' if metadata is not None and 'genres' in metadata.columns else None
        if metadata is None or color not in metadata.columns:
            there = 'no metadata was given' if metadata is None else list(metadata.columns)
            raise ValueError(f'no column {color!r} in {side}_df to colour by: {there}')
        return color

    def _tsne(
        self, color: str | None, k: int, side: str, perplexity: float, seed: int, budget: int | None
    ) -> pd.DataFrame:
        """Places on the map: id, title, x, y, color (values of that column), rows."""
        from sklearn.manifold import TSNE

        codes = self._known(side, k)
        n = len(codes)
        n_near = min(n - 1, 3 * perplexity + 1)
        require_memory(
            BYTES_PER_NEIGHBOR * n * n_near,
            f't-SNE of {n:,} dots at perplexity={perplexity:g}',
            'take fewer dots (k=) or a smaller perplexity',
            budget,
            'plot_tsne(..., {})',
        )
        vectors = self._vectors(codes, side)
        init = 'pca' if min(vectors.shape) > 1 else 'random'  # one factor has no second component
        tsne = TSNE(perplexity=min(perplexity, (n - 1) / 3), init=init, random_state=seed)
        x, y = tsne.fit_transform(vectors).T
        columns = dict(x=x, y=y)
        metadata = self._metadata(side)
        if color is not None and metadata is not None:
            columns['color'] = metadata[color].iloc[codes].array
        return self._table(codes, side, **columns)

    def similar_items(
        self,
        item: Any,  # an id, a title or a part of one
        k: int = 10,  # how many
    ) -> pd.DataFrame:
        """Nearest items by cosine."""
        return self.learn.similar_items(item, k)

    # --- single predictions

    def explain(
        self,
        user: Any,  # id
        item: Any,  # id, title or a part of one
        k: int = 5,  # factors that have a row of their own
    ) -> pd.DataFrame:
        """What a prediction is made of: mean, biases and the `k` factors that count most, the rest summed.

        A factor is the product of user's and item's. Column `value`, in units of the score before the sigmoid; it adds
        up to `.attrs['score']`, and `.attrs['prediction']` is that after the sigmoid: what `predict` says.
        `TypeError` for models that cannot explain.
        """
        if not isinstance(self.learn, ModelScorer):
            raise TypeError(f'{self._name} has no model to explain a score by: predict(user, item) tells the score')
        user_code = int(self.catalog.vocab['user'].encode([user])[0])
        item_code = self.catalog.find(item)
        with self.learn.inference():
            parts = self.learn.rec_model.explain(user_code, item_code)
        factors = parts['factors'].cpu().double()
        order = factors.abs().argsort(descending=True)
        values = {
            'global mean': parts['mean'],
            'user bias': parts['user_bias'],
            'item bias': parts['item_bias'],
            **{f'factor {i}': factors[i].item() for i in order[:k].tolist()},
        }
        rest = order[k:]
        if len(rest):
            values[f'{len(rest)} other factors'] = factors[rest].sum().item()
        df = pd.DataFrame(dict(value=values))
        df.index.name = 'part'
        score = torch.tensor(df['value'].sum(), dtype=torch.float64)
        require_numbers(score)
        prediction = score.sigmoid() if self.learn.scale == 'logit' else to_range(score, self.learn.rec_model.y_range)
        df.attrs['score'] = score.item()
        df.attrs['prediction'] = prediction.item()
        return df

    def plot_explain(self, user: Any, item: Any, k: int = 5, ax: Axes | None = None) -> Axes:
        """The parts of a prediction (see `explain`) as bars."""
        df = self.explain(user, item, k)
        ax = ax or _new_axes(7, 0.8 + 0.35 * len(df))
        _draw_bars(ax, df['value'].to_numpy(), df.index.tolist())
        code = np.array([self.catalog.find(item)])
        (label,) = self._labels(self._table(code, 'item'), 'item')
        ax.set(
            xlabel=f'contribution to the score{self._before}',
            title=f'{df.attrs["prediction"]:.2f} for user {user}:\n{label}',
        )
        return ax

    # --- the gate of a hybrid

    def gates(
        self,
        items: Any = None,  # ids or titles; None: all
        users: Any = None,  # ids; None: `n_users` drawn among those with training rows
        shares: bool = False,  # shares in the scores in place of weights
        n_users: int = 200,  # how many are drawn
        seed: int = 0,  # of that draw
    ) -> pd.DataFrame:
        """What a `gated_learner` leans on: the weight of each pathway, averaged over users. Weights add up to 1.

        A pathway may say little however much weight it has. With `shares`: its part in the scores, the mean over the
        users of |weight x (p_u . z_im + c_im)| as a share of the sum over pathways. A row per item: id, title, a column
        for each pathway (0 where the item lacks it), rows (in training). `TypeError` for other models.
        """
        model = self.learn.model
        if not isinstance(model, GatedHybrid):
            raise TypeError(f'{self._name} has no gate: train a gated_learner(dls, item_features)')
        codes = np.arange(self.catalog.n_items) if items is None else self.catalog.find_all(items)
        if users is None:
            known = np.flatnonzero(self.catalog.known('user'))
            user_codes = np.random.default_rng(seed).choice(known, min(n_users, len(known)), replace=False)
        else:
            user_codes = self.catalog.vocab['user'].encode(users)
        with self.learn.inference() as device:
            item_codes = torch.from_numpy(codes).to(device)
            step = max(1, GATES_AT_A_TIME // (len(codes) * len(model.names)))
            model = self.learn.rec_model  # in eval mode
            of_pairs = model.contributions if shares else model.gate_weights  # (B,), (n,) -> (B, n, M)
            total: Any = 0
            for chunk in torch.from_numpy(user_codes).split(step):
                total = total + of_pairs(chunk.to(device), item_codes).abs().sum(0)
        means = (total / total.sum(1, keepdim=True)).cpu().numpy()
        return self._table(codes, 'item', **dict(zip(model.names, means.T)))

    def plot_gates(self, shares: bool = False, n_users: int = 200, axes: Any = None) -> np.ndarray:
        """Mean weight of each pathway (`shares`: see `gates`) by the number of training rows of the item.

        Of all items, and of those that have every pathway.
        """
        df = self.gates(shares=shares, n_users=n_users)
        names = self.learn.model.names
        complete = (df[names[1:]] > 0).all(axis=1)
        panels = {'All items': df}
        if complete.any() and not complete.all():
            panels['Items that have every pathway'] = df[complete]
        if axes is None:
            width = 7.5 * len(panels)
            _, axes = plt.subplots(1, len(panels), figsize=(width, 4.8), layout='constrained', sharey=True)
        axes = np.atleast_1d(axes)
        for ax, (title, items) in zip(axes, panels.items()):
            _draw_stacks(ax, _means_by_rows(items, names, df['rows'].max()), names)
            ax.set_title(title)
        axes[0].set_ylabel(f'mean {"share" if shares else "weight"} of the pathway')
        handles, labels = axes[-1].get_legend_handles_labels()
        axes[-1].legend(handles[::-1], labels[::-1], loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
        return axes

    # --- errors

    @property
    def losses(self) -> torch.Tensor:
        """Loss of each row of the part interpreted, (n,), of a whole catalogue of each user.

        The loss's own values. Only of `SoftmaxLoss`, which weighs users within a batch, it is the mean over a user's
        items of -log of their share: values of one batch would not compare with those of another.
        """
        if self._losses is None:
            self._require_losses()
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

    def _require_losses(self) -> None:
        """`TypeError` or `ValueError` where rows have no losses that compare, with what to call instead."""
        if self.dl is None:
            raise TypeError(
                f'{type(self.learn).__name__} has no loaders, whose rows would have losses: '
                'evaluate_users(scorer, dls) tells what each user gets, evaluate(scorer, dls) the means'
            )
        if isinstance(self.dl, InBatchDL):
            raise TypeError(
                'with the negatives of the batch the loss of a row depends on the rows beside it, so that losses do '
                'not compare: evaluate_users(learn, metrics=[ndcg(10)]) tells who is served badly'
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
        if isinstance(self.dl, (NegativesDL, UserDL)):
            raise TypeError(
                'the rows of these loaders are not pairs with a target: plot_top_losses(k) shows those with the '
                'largest losses, learn.show_results() a batch with its scores'
            )
        idx = torch.as_tensor(idxs).reshape(-1)
        n_inp = self.dl.dataset.n_inp
        dataset = InteractionDataset(list(self._columns(idx)[: n_inp + 1]), None, self.catalog, n_inp)
        dl = InteractionDL(dataset, bs=len(idx), device=self.learn.dls.device)
        columns = self.learn.get_preds(dl=dl, with_input=True, with_decoded=True, act=self.act, reorder=False)
        return (*columns, losses[idx])

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
        idx = torch.arange(len(self.dl.dataset)) if idx is None else idx.cpu()
        users, *columns = self._columns(idx)
        if isinstance(self.dl, UserDL):
            positives = self.dl.dataset.positives[users.numpy()]
            ids = self.catalog.vocab['user'].decode(users.numpy())
            return pd.DataFrame(dict(user=ids, positives=np.diff(positives.indptr)))
        n_inp = self.dl.dataset.n_inp
        items, *context = columns[: n_inp - 1]
        scores = self.learn.score(users, items, *context).cpu()
        require_numbers(scores)
        prediction = scores.sigmoid() if self.learn.scale == 'logit' else scores
        if isinstance(self.dl, NegativesDL):
            return decode(self.catalog, users, items, prediction=prediction)
        return decode(self.catalog, users, items, columns[n_inp - 1], self._target_name, prediction=prediction)

    @property
    def _target_name(self) -> str:
        """What targets of pairs are called: 'rating' or 'liked'."""
        return 'rating' if self.catalog.thresholds is None else 'liked'

    def worst_users(
        self,
        k: int = 10,  # how many
        min_rows: int = 5,  # only of those with so many rows in the part interpreted
    ) -> pd.DataFrame:
        """The `k` users with the largest error, or loss.

        Of ratings: user, rows, rmse, bias (mean of prediction - rating), mean_rating. Of what is liked: user, rows,
        loss (mean of the loss's own values), bias (mean of probability - liked), liked (share of the rows). Of implicit
        feedback: user, rows, loss.
        """
        losses = self.losses.cpu().double().numpy()  # also says where there are none
        df = self._shown().assign(loss=losses)
        if isinstance(self.dl, UserDL):
            per_user = df.set_index('user').rename(columns=dict(positives='rows'))
            by = 'loss'
        elif isinstance(self.dl, NegativesDL):
            per_user = df.groupby('user').agg(rows=('loss', 'size'), loss=('loss', 'mean'))
            by = 'loss'
        elif self.catalog.thresholds is not None:
            per_user = _losses_of_users(df)
            by = 'loss'
        else:
            per_user = _errors_of_users(df)
            by = 'rmse'
        enough = per_user[per_user['rows'] >= min_rows]
        if not len(enough):
            most = per_user['rows'].max()
            raise ValueError(
                f'no user has min_rows={min_rows} rows here, the most have {most}: worst_users({k}, {most})'
            )
        return enough.nlargest(k, by).reset_index()

    # --- the ratings themselves

    def plot_ratings(
        self,
        n_users: int = 60,  # most active ones in the matrix
        n_items: int = 60,  # most rated ones in the matrix
        axes: Any = None,  # three
    ) -> np.ndarray:
        """Three views of the training rows.

        How ratings are distributed (counts that differ, of implicit feedback; without either, how many rows users
        have), how few items have most of them, and who has what (most active users, most rated items).
        """
        inter, rows = training_rows(self.catalog)
        values = inter.weights if inter.ratings is None else inter.ratings
        if axes is None:
            _, axes = plt.subplots(1, 3, figsize=(16, 4.6), layout='constrained')
        if values is None or (inter.ratings is None and np.ptp(values[rows]) == 0):
            _draw_activity(axes[0], self.catalog.counts['user'])
        else:
            _draw_distribution(axes[0], values[rows], 'rating' if inter.ratings is not None else 'weight')
        _draw_long_tail(axes[1], np.sort(self.catalog.counts['item'])[::-1])
        seen = self.catalog.require_history().seen
        grid = _with_gaps(seen[self._known('user', n_users)][:, self._known('item', n_items)])
        name = 'rating' if inter.weights is None else 'weight'
        _draw_matrix(axes[2], grid, seen.nnz / np.prod(seen.shape), name)
        return axes


def _errors_of_users(df: pd.DataFrame) -> pd.DataFrame:
    """Rows, rmse, bias and mean_rating by user, of a table of ratings and predictions."""
    error = df['prediction'] - df['rating']
    res = (
        df.assign(error=error, square=error**2)
        .groupby('user')
        .agg(
            rows=('error', 'size'),
            rmse=('square', 'mean'),
            bias=('error', 'mean'),
            mean_rating=('rating', 'mean'),
        )
    )
    res['rmse'] **= 0.5
    return res


def _losses_of_users(df: pd.DataFrame) -> pd.DataFrame:
    """Rows, loss, bias and the share that is liked by user, of a table of labels, probabilities and losses."""
    res = df.assign(bias=df['prediction'] - df['liked']).groupby('user')
    return res.agg(rows=('loss', 'size'), loss=('loss', 'mean'), bias=('bias', 'mean'), liked=('liked', 'mean'))


# --- drawing


def _new_axes(width: float, height: float) -> Axes:
    """Axes of a new figure, in inches."""
    _, ax = plt.subplots(figsize=(width, height), layout='constrained')
    return ax


def _draw_bars(ax: Axes, values: np.ndarray, labels: list[str]) -> None:
    """A bar for each value, the first on top, blue above 0 and orange below."""
    y = np.arange(len(values))[::-1]
    ax.barh(y, values, color=[BLUE if o > 0 else ORANGE for o in values])
    ax.set_yticks(y, labels)
    ax.axvline(0, color=GREY, lw=0.8)


def _draw_components(ax: Axes, df: pd.DataFrame, k: int, components: tuple[int, int]) -> None:
    """Two columns of `pca` as dots, the first `k` larger and in color."""
    x, y = (df[f'pc{c}'].to_numpy() for c in components)
    ax.scatter(x, y, s=8, color=PALE, zorder=1)
    ax.scatter(x[:k], y[:k], s=18, color=BLUE, zorder=2)
    names = [f'component {c} ({df.attrs["explained"][c - 1]:.0%} of variance)' for c in components]
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.margins(0.06)


def _draw_by_number(ax: Axes, df: pd.DataFrame, name: str) -> None:
    """Dots at x, y, by a color that is a number, called `name`."""
    known = df['color'].notna()
    there, missing = df[known], df[~known]
    ax.scatter(missing['x'], missing['y'], s=14, color=PALE)
    points = ax.scatter(there['x'], there['y'], s=18, c=there['color'].astype(float), cmap='viridis')
    ax.figure.colorbar(points, ax=ax, label=name, shrink=0.7)


def _draw_by_value(ax: Axes, df: pd.DataFrame, name: str) -> None:
    """Dots at x, y: a color and an entry in the legend for each of the most frequent values, called `name`."""
    x, y = df['x'].to_numpy(), df['y'].to_numpy()
    known = df['color'].notna().to_numpy()
    first = np.where(known, df['color'].astype(str).str.split('|').str[0], '')
    common = pd.Series(first[known]).value_counts().index[:N_COLORS]
    other = ~np.isin(first, common)
    if other.any():
        kinds = [('other', known[other].any()), ('unknown', not known[other].all())]
        label = ', '.join(kind for kind, there in kinds if there)
        ax.scatter(x[other], y[other], s=14, color=PALE, label=label)
    for i, value in enumerate(common):
        at = first == value
        ax.scatter(x[at], y[at], s=20, color=plt.get_cmap('tab10')(i), label=value)
    handles, labels = ax.get_legend_handles_labels()
    if other.any():  # those dots lie under the others, and stand last in the legend
        handles = handles[1:] + handles[:1]
        labels = labels[1:] + labels[:1]
    ax.legend(handles, labels, title=name, loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)


def _means_by_rows(df: pd.DataFrame, names: list[str], most: int) -> pd.DataFrame:
    """Means of the columns `names` of items by their training rows, a row a bin: its label and number of items, means.

    `most` is the largest number of rows there is: the bin that holds it is open.
    """
    bins = np.searchsorted(ROW_BINS, df['rows'].to_numpy(), side='right') - 1
    res = df[names].groupby(bins).mean()
    sizes = np.bincount(bins)[res.index]
    labels = [f'{_bin_label(b, most)}\n({n:,})' for b, n in zip(res.index, sizes)]
    res.insert(0, 'label', labels)
    return res


def _bin_label(b: int, most: int) -> str:
    """Numbers of rows in bin `b`."""
    first, end = ROW_BINS[b], ROW_BINS[b + 1]
    if end == first + 1:
        return str(first)
    if end > most:
        return f'{first:,}+'
    return f'{first:,}–{end - 1:,}'


def _draw_stacks(ax: Axes, df: pd.DataFrame, names: list[str]) -> None:
    """Bars of a table of `_means_by_rows`, the columns `names` on top of each other."""
    x = np.arange(len(df))
    bottom = np.zeros(len(df))
    for j, name in enumerate(names):
        ax.bar(x, df[name], 0.85, bottom=bottom, color=plt.get_cmap('tab10')(j), label=name)
        bottom += df[name].to_numpy()
    ax.set_xticks(x, df['label'], fontsize=8)
    ax.set(xlabel='training rows of the item (number of items)', ylim=(0, 1))
    ax.margins(x=0.01)


def _draw_activity(ax: Axes, counts: np.ndarray) -> None:
    """How many users have how many training rows."""
    counts = counts[counts > 0]
    ax.hist(counts, bins=np.geomspace(counts.min(), counts.max() + 1, 25), color=BLUE)
    ax.axvline(counts.mean(), color=ORANGE, lw=1.5, label=f'mean {counts.mean():.1f}')
    ax.legend(framealpha=1, edgecolor='none')
    ax.set(xlabel='rows of the user', ylabel='users', title='Who has how much', xscale='log')
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter('{x:,.0f}')
    ax.xaxis.set_minor_formatter(NullFormatter())


def _draw_distribution(ax: Axes, ratings: np.ndarray, name: str) -> None:
    """How often each rating (or what else `name` is) occurs: a bar for each value, where there are few."""
    mean = ratings.mean(dtype=np.float64)
    values, counts = np.unique(ratings, return_counts=True)
    if len(values) <= 20:
        gap = np.diff(values).min() if len(values) > 1 else 1
        ax.bar(values, counts, width=0.8 * gap, color=BLUE)
    else:
        ax.hist(ratings, bins=30, color=BLUE)
    ax.axvline(mean, color=ORANGE, lw=1.5, label=f'mean {mean:.2f}')
    ax.legend(framealpha=1, edgecolor='none', loc='upper left')
    ax.set(xlabel=name, ylabel='rows', title=f'Distribution of {name}s')


def _draw_long_tail(ax: Axes, counts: np.ndarray) -> None:
    """Rows of each item, descending, and where 80% of all are reached."""
    n_items = len(counts)
    share = np.cumsum(counts) / counts.sum()
    head = int(np.searchsorted(share, 0.8)) + 1
    ax.fill_between(np.arange(1, n_items + 1), counts, color=BLUE, alpha=0.35, lw=0)
    ax.axvline(head, color=ORANGE, lw=1.5, label=f'{head / n_items:.0%} of items have 80% of the rows')
    ax.legend(framealpha=1, edgecolor='none')
    ax.set(xlabel='item, by popularity', ylabel='rows of the item', title='The long tail')
    ax.set(yscale='symlog', ylim=(0, None))


def _with_gaps(matrix: Any) -> np.ndarray:
    """A sparse matrix as an array, not a number where nothing is stored."""
    entries = matrix.tocoo()
    grid = np.full(matrix.shape, np.nan)
    grid[entries.row, entries.col] = entries.data
    return grid


def _draw_matrix(ax: Axes, grid: np.ndarray, filled: float, name: str) -> None:
    """Ratings (or what else `name` is) as colors (users, items); `filled` is the share of all of it that is known."""
    there = grid[np.isfinite(grid)]
    differ = len(there) > 0 and np.ptp(there) > 0  # of one value there is nothing to read off
    colors = 'viridis' if differ else ListedColormap([BLUE])
    image = ax.imshow(grid, aspect='auto', cmap=colors, interpolation='nearest')
    if differ:
        ax.figure.colorbar(image, ax=ax, label=name)
    n_users, n_items = grid.shape
    ax.set(
        xlabel=f'{n_items} most rated items',
        ylabel=f'{n_users} most active users',
        title=f'User-item matrix ({np.isfinite(grid).mean():.0%} filled here, {filled:.1%} in all)',
    )


# --- labels

# where a label may stand, seen from its point: offset in points, alignment
PLACES = (
    (5, 0, 'left', 'center'),
    (-5, 0, 'right', 'center'),
    (0, 5, 'center', 'bottom'),
    (0, -5, 'center', 'top'),
    (4, 4, 'left', 'bottom'),
    (4, -4, 'left', 'top'),
    (-4, 4, 'right', 'bottom'),
    (-4, -4, 'right', 'top'),
)


def place_labels(
    ax: Axes,
    x: np.ndarray,  # (n,)
    y: np.ndarray,  # (n,)
    labels: list[str],  # n
    fontsize: int = 8,  # in points
) -> None:
    """Write each label beside its point where it finds room; the others are left out. Earlier labels go first.

    There is room where it covers no earlier label and no other labelled point and stays inside the axes.
    """
    figure: Any = ax.figure
    figure.draw_without_rendering()  # fixes the transforms, which the boxes below are measured in
    renderer = figure.canvas.get_renderer()
    frame = ax.get_window_extent()
    points = ax.transData.transform(np.column_stack([x, y]))
    radius = 3 * figure.dpi / 72  # of a point, in pixels
    taken: list = []
    for i, label in enumerate(labels):
        others = np.delete(points, i, 0)
        for place in PLACES:
            text = _annotate(ax, label, (x[i], y[i]), place, fontsize)
            box = text.get_window_extent(renderer)
            covers_points = ((others > box.min - radius) & (others < box.max + radius)).all(1).any()
            covers_labels = any(box.overlaps(o) for o in taken)
            if _is_inside(box, frame) and not covers_points and not covers_labels:
                taken.append(box)
                break
            text.remove()


def _annotate(ax: Axes, label: str, point: tuple, place: tuple, fontsize: int) -> Any:
    """A label at one of `PLACES` beside a point, with a white edge."""
    dx, dy, horizontal, vertical = place
    return ax.annotate(
        label,
        point,
        (dx, dy),
        textcoords='offset points',
        ha=horizontal,
        va=vertical,
        fontsize=fontsize,
        zorder=3,
        path_effects=[withStroke(linewidth=2, foreground='white')],
    )


def _is_inside(box: Any, frame: Any) -> bool:
    """Is a box inside another one?"""
    return frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
