"""What a trained model has learned, as tables and pictures. Nothing here changes the model.

Each picture is a method that gathers a table and a function that draws it (`figures`, `maps`).
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from ..keywords import check_arguments
from ..models.base import as_rec_model, to_range
from ..models.gated import GatedHybrid
from ..scorers.baselines import training_rows
from ..scorers.model_scorer import ModelScorer
from ..scorers.recommend import require_numbers
from .clusters import LEAST_LIFT, Clusters, cluster, lifts, liked_items, marked, values_of
from .explanations import plot_because
from .figures import (
    NAMES_WIDTH,
    draw_activity,
    draw_bars,
    draw_distribution,
    draw_long_tail,
    draw_matrix,
    draw_stacks,
    means_by_rows,
    new_axes,
    with_gaps,
)
from .losses import ErrorInterpretation
from .maps import axis_names, components_of, draw_dots, draw_groups_of_dots, finish_map, tsne_of
from .tables import column_for, one_side
from .text import LONGEST, set_label, set_title, settle

__all__ = ['RecInterpretation']

GATES_AT_A_TIME = 2**24  # weights of pathways: users x items x pathways


class RecInterpretation(ErrorInterpretation):
    """What a learner, a loaded recommender, a baseline, an ensemble or any other `Scorer` has learned.

    Biases, maps and clusters of the vectors, similar items, single predictions, errors, and the ratings themselves.
    Tables hold the user's own ids, titles and names of columns; plots return the matplotlib axes (an array of them
    where there are several), new ones unless they are given. Only users and items with training rows are shown: nothing
    was learned about the others. What a scorer or its loaders have not is a `TypeError` or `ValueError` that says what
    to call instead.
    """

    def _labels(self, df: pd.DataFrame) -> list[str]:
        """Titles, or ids, short enough for a picture."""
        labels = df['title'] if 'title' in df else df.iloc[:, 0]
        return [o if len(o) <= LONGEST else o[: LONGEST - 2].rstrip() + '…' for o in map(str, labels)]

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
        """What the model has learned of `codes`: (n, d). `TypeError` where there are none."""
        try:
            vectors = self.learn.vectors(side)[torch.from_numpy(codes)].cpu()
        except (TypeError, ValueError) as e:
            instead = self._parts_instead or ("; of items there may be some: side='item'" if side == 'user' else '')
            raise TypeError(f'{e}{instead}') from None
        require_numbers(vectors, 'vectors')
        return vectors.float().numpy()

    @property
    def _parts_instead(self) -> str:
        """Of a scorer that is made of others: that each of those can be looked at."""
        parts = self.learn.parts()
        if not parts:
            return ''
        names = ', '.join(type(part if part.model is None else part.model).__name__ for part in parts)
        return f'; or look at one of its parts ({names}): RecInterpretation.from_learner(scorer.parts()[0])'

    # --- biases

    def _bias(self, k: int, side: str, largest: bool, min_rows: int) -> pd.DataFrame:
        learned = self.learn.biases(side)
        if learned is None:
            raise TypeError(
                f'{self._name} has no {side} biases: plot_pca(side={side!r}) maps its vectors, where it has any, and '
                f'recommend(user) shows what it ranks first{self._parts_instead}'
            )
        require_numbers(learned, 'biases')
        bias = learned.cpu().numpy()
        codes = np.flatnonzero(self.catalog.counts[side] >= max(1, min_rows))
        order = np.argsort(-bias[codes] if largest else bias[codes], kind='stable')
        codes = codes[order[:k]]
        return one_side(self.catalog, codes, side, bias=bias[codes])

    @check_arguments
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

    @check_arguments
    def bottom_bias(
        self,
        k: int = 10,  # how many
        side: str = 'item',  # 'item' or 'user'
        min_rows: int = 1,  # training rows that they have at least
    ) -> pd.DataFrame:
        """The `k` smallest biases; see `top_bias`."""
        return self._bias(k, side, False, min_rows)

    def _both_ends(self, k: int, side: str, min_rows: int) -> pd.DataFrame:
        """The `k` largest and the `k` smallest biases, descending; `ValueError` if there are none."""
        ends = [self.top_bias(k, side, min_rows), self.bottom_bias(k, side, min_rows)[::-1]]
        df = pd.concat(ends)
        df = df[~df[df.columns[0]].duplicated()]
        if not len(df):
            most = self.catalog.counts[side].max()
            raise ValueError(f'no {side} has {min_rows} training rows: the most rated has {most:,}')
        return df

    @check_arguments
    def plot_bias(
        self,
        k: int = 10,  # bars at each end
        side: str = 'item',  # 'item' or 'user'
        min_rows: int = 1,  # training rows that they have at least
        ax: Axes | None = None,  # axes to draw on; None: a figure of its own
    ) -> Axes:
        """The `k` largest and the `k` smallest biases as bars."""
        df = self._both_ends(k, side, min_rows)
        ax = ax or new_axes(8, 1 + 0.28 * len(df))
        draw_bars(ax, df['bias'].to_numpy(), self._labels(df))
        titles = dict(
            item='Items rated higher and lower than taste explains',
            user='Users who rate higher and lower than others',
        )
        set_label(ax, 'x', f'{side} bias{self._before}', inner=1 - NAMES_WIDTH)
        set_title(ax, titles[side])
        return ax

    # --- maps of the vectors

    @check_arguments
    def pca(
        self,
        n_components: int = 3,  # how many
        side: str = 'item',  # or 'user'
        k: int = 1000,  # those with most rows
    ) -> pd.DataFrame:
        """Principal components of the vectors of the `k` items (or users) with most rows: id, title, pc1 .., rows.

        Explained shares of variance are in `.attrs['explained']`.
        """
        codes = self._known(side, k)
        components, explained = components_of(self._vectors(codes, side), n_components)
        df = one_side(self.catalog, codes, side, **{f'pc{i + 1}': o for i, o in enumerate(components.T)})
        df.attrs['explained'] = explained
        return df

    @check_arguments
    def plot_pca(
        self,
        k: int = 50,  # how many of those with most rows are labeled, where labels find room
        components: tuple[int, int] = (1, 2),  # along x and y, from 1
        side: str = 'item',  # or 'user'
        color: str | None = None,  # column of metadata to color by; None: the `k` are blue, the others pale
        ax: Axes | None = None,  # axes to draw on; None: a figure of its own
    ) -> Axes:
        """Map of two principal components of the vectors of the 1,000 with most rows.

        The title says how many of the labels are shown. `ValueError` for components that there are not, or a column.
        """
        df = self.pca(max(components), side)
        if f'pc{max(components)}' not in df:
            n = sum(str(c).startswith('pc') for c in df)
            raise ValueError(f'components={components}: the vectors have {n} component(s); a map needs two')
        ax = ax or new_axes(11, 9)
        xy = df[[f'pc{c}' for c in components]].to_numpy()
        of_map = f'{side.capitalize()} vectors: the {len(df):,} with most ratings'
        if color is not None:
            draw_dots(ax, xy, self._colors(color, side, self._known(side, len(df))))
        else:
            draw_groups_of_dots(ax, xy, [('', np.arange(len(df)) < k)], None)
            of_map += f', {min(k, len(df)):,} of them in blue'
        for axis, name in axis_names(components, df.attrs['explained']).items():
            set_label(ax, axis[0], name)
        finish_map(ax, xy, self._labels(df[:k]), of_map, n_pale=0 if color else max(0, len(df) - k))
        return ax

    @check_arguments
    def plot_tsne(
        self,
        color: str | None = None,  # column of metadata; None: 'genres', if there is one
        k: int = 500,  # those with most rows
        side: str = 'item',  # or 'user'
        perplexity: float = 30.0,  # neighbors that count, about; fewer where there are few dots
        seed: int = 0,  # of the descent
        n_labels: int = 15,  # how many of those with most rows are labeled, where labels find room
        ax: Axes | None = None,  # axes to draw on; None: a figure of its own
        budget: int | None = None,  # bytes that the neighbors may take; None: half of the memory that is available
    ) -> Axes:
        """t-SNE map (van der Maaten and Hinton 2008) of the vectors of the `k` with most rows, colored by metadata.

        Of users by a column of `user_df`: `plot_tsne('age', side='user')`. Lists such as 'Action|Comedy' count by their
        first entry; the eight most frequent values get a color of their own, numbers a scale. `ValueError` for a column
        that is not there.
        """
        color = self._color_column(color, side)
        codes = self._known(side, k)
        xy = tsne_of(self._vectors(codes, side), perplexity, seed, budget)
        ax = ax or new_axes(11, 9)
        draw_dots(ax, xy, None if color is None else self._colors(color, side, codes))
        ax.set(xlabel='t-SNE 1', ylabel='t-SNE 2', xticks=[], yticks=[])
        labels = self._labels(one_side(self.catalog, codes[:n_labels], side))
        by = '' if color is None else f' by {color}'
        finish_map(ax, xy, labels, f'{side.capitalize()} vectors{by}: the {len(codes):,} with most ratings')
        return ax

    def _metadata(self, side: str) -> pd.DataFrame | None:
        return self.catalog.item_df if side == 'item' else self.catalog.user_df

    def _color_column(self, color: str | None, side: str) -> str | None:
        """The column to color by; None: there is none."""
        metadata = self._metadata(side)
        if color is None:
            return 'genres' if metadata is not None and 'genres' in metadata.columns else None
        if metadata is None or color not in metadata.columns:
            there = (
                f'no metadata was given, make the loaders with {side}_df='
                if metadata is None
                else list(metadata.columns)
            )
            raise ValueError(f'no column {color!r} in {side}_df to color by: {there}')
        return color

    def _colors(self, color: str, side: str, codes: np.ndarray) -> pd.Series:
        """Values of a column of metadata of `codes`."""
        metadata = self._metadata(side)
        self._color_column(color, side)
        assert metadata is not None
        return metadata[color].iloc[codes].reset_index(drop=True)

    @check_arguments
    def similar_items(
        self,
        item: Any,  # an id, a title or a part of one
        k: int = 10,  # how many
        **kwargs,  # of the scorer's method
    ) -> pd.DataFrame:
        """Nearest items: `Scorer.similar_items`."""
        return self.learn.similar_items(item, k, **kwargs)

    # --- clusters

    def _clusters(self, k: int, side: str, seed: int, n: int | None = None) -> Clusters:
        codes = self._known(side, n)
        return cluster(codes, self._vectors(codes, side), k, seed)

    @check_arguments
    def clusters(
        self,
        k: int = 6,  # how many
        side: str = 'user',  # or 'item'
        n_marks: int = 5,  # titles, and values of metadata, that are named of each
        seed: int = 0,  # of k-means
    ) -> pd.DataFrame:
        """Clusters of users (or items) by their vectors, the largest first, and what their members have in common.

        k-means on vectors of length 1, so that near means what `similar_users` calls near. Columns: cluster (from 1),
        users, share (of all), rows (mean number of training rows), titles, and, where there is metadata, traits.
        Titles that mark a cluster of users are those liked more often there than by all (rated at least the user's own
        mean; of implicit feedback: positives), with their lift, (n_in + 10) / (n_expected + 10): users of the cluster
        who like it, over how many would if they were as all are. Traits are values of `user_df` by the same formula,
        from a lift of 1.2 on. Clusters of items are named by their items with most rows, and have traits of `item_df`.

        `.attrs['cluster_of']` says which cluster an id is in.
        """
        found = self._clusters(k, side, seed)
        counts = self.catalog.counts[side][found.codes]
        df = pd.DataFrame(
            {
                'cluster': np.arange(1, k + 1),
                f'{side}s': found.sizes,
                'share': found.sizes / len(found.of),
                'rows': np.bincount(found.of, counts) / found.sizes,
                'titles': self._marks(found, side, n_marks),
            }
        )
        metadata = self._metadata(side)
        if metadata is not None:
            not_traits = {self.catalog.names.get(side), self.catalog.title_name if side == 'item' else None}
            has, names = values_of(metadata, found.codes, not_traits)
            lift = lifts(has, found)
            df['traits'] = [marked(np.array(names, dtype=object), row, n_marks, LEAST_LIFT) for row in lift]
        ids = self.catalog.vocab[side].decode(found.codes)
        df.attrs['cluster_of'] = dict(zip(ids.tolist(), (found.of + 1).tolist()))
        return df

    def _marks(self, found: Clusters, side: str, n: int) -> list[str]:
        """Titles that mark each cluster, in a text."""
        if side == 'item':  # codes are in the order of their rows
            first = [found.codes[found.of == c][:n] for c in range(len(found.sizes))]
            return ['; '.join(self.catalog.titles(codes)) for codes in first]
        titles = self.catalog.titles(np.arange(self.catalog.n_items))
        lift = lifts(liked_items(self.catalog)[found.codes], found)
        return [marked(titles, row, n, least=1) for row in lift]

    @check_arguments
    def plot_clusters(
        self,
        k: int = 6,  # how many clusters
        side: str = 'user',  # or 'item'
        n: int = 1000,  # dots: those with most rows
        seed: int = 0,  # of k-means and of the map
        ax: Axes | None = None,  # axes to draw on; None: a figure of its own
    ) -> Axes:
        """The `clusters` as colors on a t-SNE map of the vectors; the legend has the title that marks each most."""
        found = self._clusters(k, side, seed)
        marks = self._marks(found, side, 1)
        ax = ax or new_axes(11, 7.5)
        n = min(n, len(found.codes))
        xy = tsne_of(self._vectors(found.codes[:n], side), 30.0, seed, None)
        names = [f'{c + 1}: {mark.rsplit(" ×", 1)[0]} ({found.sizes[c]:,})' for c, mark in enumerate(marks)]
        draw_groups_of_dots(ax, xy, [(name, found.of[:n] == c) for c, name in enumerate(names)], f'cluster ({side}s)')
        ax.set(xlabel='t-SNE 1', ylabel='t-SNE 2', xticks=[], yticks=[])
        shown = f': the {n:,} with most ratings' if n < len(found.codes) else ''
        finish_map(ax, xy, [], f'{k} clusters of {len(found.codes):,} {side}s{shown}')
        return ax

    # --- single predictions

    @check_arguments
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
            raise TypeError(
                f'{self._name} has no factors to explain a score by: because(user, item) and plot_because(user, item) '
                "tell it by the user's items, of every scorer"
            )
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

    @check_arguments
    def plot_explain(
        self,
        user: Any,  # id
        item: Any,  # an id, a title, or a part of a title that matches one
        k: int = 5,  # bars of factors, those that matter most
        ax: Axes | None = None,  # axes to draw on; None: a figure of its own
    ) -> Axes:
        """The parts of a prediction (see `explain`) as bars: what they add to the mean, which the axis names."""
        df = self.explain(user, item, k)
        ax = ax or new_axes(7, 0.8 + 0.35 * len(df))
        mean = df['value'].get('global mean')
        parts = df if mean is None else df.drop(index='global mean')
        draw_bars(ax, parts['value'].to_numpy(), parts.index.tolist())
        what = 'contribution to the score' if mean is None else f'added to the global mean of {mean:.2f}'
        title = self.catalog.titles(np.array([self.catalog.find(item)]))[0]
        set_label(ax, 'x', f'{what}{self._before}', inner=1 - NAMES_WIDTH)
        set_title(ax, f'{df.attrs["prediction"]:.2f} for user {user}:\n{title}')
        return ax

    @check_arguments
    def plot_because(
        self,
        user: Any,  # id
        item: Any,  # an id, a title, or a part of a title that matches one
        k: int = 10,  # bars; what is left has one of its own
        by: str = 'items',  # or 'features', 'sums'; as in `Scorer.because`
        history: Any = None,  # what the user has, where it did not travel with the recommender
        ax: Axes | None = None,  # axes to draw on; None: a figure of its own
    ) -> Axes:
        """Why a score is what it is, by the user's own items (`learn.because`), a bar each. Of every scorer."""
        return plot_because(self.learn, user, item, k, by, history, ax)

    # --- the gate of a hybrid

    @check_arguments
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
        return one_side(self.catalog, codes, 'item', **dict(zip(model.names, means.T)))

    @check_arguments
    def plot_gates(
        self,
        shares: bool = False,  # of what the pathways bring to scores, in place of the gate's weights
        n_users: int = 200,  # users that the mean is over
        axes: Any = None,  # two axes to draw on; None: a figure of its own
    ) -> np.ndarray:
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
        axes = np.ravel(axes)[: len(panels)]
        axes[0].set_ylabel(f'mean {"share" if shares else "weight"} of the pathway')
        for ax, items in zip(axes, panels.values()):
            draw_stacks(ax, means_by_rows(items, names, df['rows'].max()), names)
        handles, labels = axes[-1].get_legend_handles_labels()
        axes[-1].legend(handles[::-1], labels[::-1], loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
        settle(axes[0])
        for ax, title in zip(axes, panels):
            set_title(ax, title, settled=True)
        return axes

    # --- the ratings themselves

    @check_arguments
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
        name = 'weight' if inter.ratings is None else column_for(self.catalog, 'rating')
        titles = ['', '', '']
        if values is None or (inter.ratings is None and np.ptp(values[rows]) == 0):
            titles[0] = draw_activity(axes[0], self.catalog.counts['user'])
        else:
            titles[0] = draw_distribution(axes[0], values[rows], name)
        titles[1] = draw_long_tail(axes[1], np.sort(self.catalog.counts['item'])[::-1])
        seen = self.catalog.require_history().seen
        grid = with_gaps(seen[self._known('user', n_users)][:, self._known('item', n_items)])
        filled = seen.nnz / np.prod(seen.shape)
        titles[2] = draw_matrix(axes[2], grid, filled, name if inter.weights is None else 'weight')
        settle(axes[0])
        for ax, title in zip(axes, titles):
            set_title(ax, title, settled=True)
        return axes
