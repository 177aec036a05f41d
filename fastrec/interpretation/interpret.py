"""What a trained model has learned, as tables and pictures. Nothing here changes the model."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from fastai.interpret import Interpretation
from matplotlib.patheffects import withStroke

from ..models.base import to_range
from ..training.batches import decode, show_table

__all__ = ['RecInterpretation']

_GREY, _BLUE, _ORANGE = '#8a8f98', '#2a6fb0', '#d9772b'


class RecInterpretation(Interpretation):
    """Interpretation of a `RecLearner`: biases, maps of the vectors, similar items, single predictions, errors, and the ratings themselves.

    Tables hold the user's own ids and titles; plots return the matplotlib axes (an array of them where there are several). Only
    users and items with training rows are shown: nothing was learned about the others.
    """

    @property
    def catalog(self):
        return self.learn.catalog

    def _table(self, codes, side, **columns):
        df = pd.DataFrame({side: self.catalog.vocab[side].decode(codes)})
        if side == 'item' and self.catalog.title_name is not None:
            df['title'] = self.catalog.titles(codes)
        for name, values in columns.items():
            df[name] = values
        df['rows'] = self.catalog.counts[side][codes]
        return df

    def _labels(self, df, side):
        labels = df['title'] if 'title' in df else df[side].astype(str)
        return [o if len(o) <= 32 else o[:30].rstrip() + '…' for o in map(str, labels)]

    @property
    def _before(self):
        return ' (before the sigmoid)' if self.learn.rec_model.y_range else ''

    def _known(self, side, k=None):
        """Codes with training rows, most rows first (the first `k`)."""
        counts = self.catalog.counts[side]
        order = np.argsort(-counts, kind='stable')
        order = order[: int((counts > 0).sum())]
        return order[:k]

    # --- biases

    def _bias(self, k, side, largest, min_rows):
        bias = self.learn.biases(side).cpu().numpy()
        codes = np.flatnonzero(self.catalog.counts[side] >= max(1, min_rows))
        codes = codes[np.argsort(-bias[codes] if largest else bias[codes], kind='stable')][:k]
        return self._table(codes, side, bias=bias[codes])

    def top_bias(self, k: int = 10, side: str = 'item', min_rows: int = 1) -> pd.DataFrame:
        """The `k` largest biases: what is rated high beyond what taste explains. Columns: id, title, bias (before the sigmoid), rows (in training)."""
        return self._bias(k, side, True, min_rows)

    def bottom_bias(self, k: int = 10, side: str = 'item', min_rows: int = 1) -> pd.DataFrame:
        """The `k` smallest biases; see `top_bias`."""
        return self._bias(k, side, False, min_rows)

    def plot_bias(self, k: int = 10, side: str = 'item', min_rows: int = 1, ax=None):
        """The `k` largest and the `k` smallest biases as bars."""
        top = pd.concat([self.top_bias(k, side, min_rows), self.bottom_bias(k, side, min_rows)[::-1]]).drop_duplicates(
            side
        )
        if not len(top):
            raise ValueError(
                f'no {side} has {min_rows} training rows: the most rated has {self.catalog.counts[side].max():,}'
            )
        ax = ax or plt.subplots(figsize=(8, 1 + 0.28 * len(top)), layout='constrained')[1]
        y = np.arange(len(top))[::-1]
        ax.barh(y, top.bias, color=[_BLUE if o > 0 else _ORANGE for o in top.bias])
        ax.set_yticks(y, self._labels(top, side))
        ax.axvline(0, color=_GREY, lw=0.8)
        ax.margins(y=0.01)
        ax.set(
            xlabel=f'{side} bias{self._before}',
            title='Items rated higher and lower than taste explains'
            if side == 'item'
            else 'Users who rate higher and lower than others',
        )
        return ax

    # --- maps of the vectors

    def pca(self, n_components: int = 3, side: str = 'item', k: int = 1000) -> pd.DataFrame:
        """Principal components of the vectors of the `k` items (or users) with most rows: id, title, pc1 .., rows. Explained shares of variance are in `.attrs['explained']`."""
        from sklearn.decomposition import PCA

        codes = self._known(side, k)
        vectors = self.learn.vectors(side)[torch.from_numpy(codes)].cpu().numpy()
        pca = PCA(n_components=min(n_components, *vectors.shape), random_state=0).fit(vectors)
        df = self._table(codes, side, **{f'pc{i + 1}': o for i, o in enumerate(pca.transform(vectors).T)})
        df.attrs['explained'] = pca.explained_variance_ratio_.tolist()
        return df

    def plot_pca(self, k: int = 50, components: tuple = (1, 2), side: str = 'item', ax=None):
        """Map of two principal components: the 1,000 with most rows as dots, the `k` with most rows in colour and labelled where labels find room."""
        df = self.pca(max(components), side)
        if f'pc{max(components)}' not in df:
            raise ValueError(
                f'components={components}: the vectors have {sum(c.startswith("pc") for c in df)} component(s); a map needs two'
            )
        ax = ax or plt.subplots(figsize=(11, 9), layout='constrained')[1]
        x, y = (df[f'pc{c}'].to_numpy() for c in components)
        ax.scatter(x, y, s=8, color='#c9ced6', zorder=1)
        ax.scatter(x[:k], y[:k], s=18, color=_BLUE, zorder=2)
        shares = df.attrs['explained']
        ax.set(
            xlabel=f'component {components[0]} ({shares[components[0] - 1]:.0%} of variance)',
            ylabel=f'component {components[1]} ({shares[components[1] - 1]:.0%} of variance)',
            title=f'{side.capitalize()} vectors: the {len(df)} with most ratings, {min(k, len(df))} of them in colour',
        )
        ax.margins(0.06)
        place_labels(ax, x[:k], y[:k], self._labels(df[:k], side))
        return ax

    def plot_tsne(
        self,
        color: str = None,
        k: int = 500,
        side: str = 'item',
        perplexity: float = 30.0,
        seed: int = 0,
        n_labels: int = 15,
        ax=None,
    ):
        """t-SNE map (van der Maaten and Hinton 2008) of the vectors of the `k` with most rows, coloured by a metadata column (by default 'genres', if there is one).

        Lists such as 'Action|Comedy' count by their first entry; the eight most frequent values get a colour of their own, numbers a scale.
        """
        from sklearn.manifold import TSNE

        metadata = self.catalog.item_df if side == 'item' else self.catalog.user_df
        if color is None and metadata is not None and 'genres' in metadata.columns:
            color = 'genres'
        if color is not None and (metadata is None or color not in metadata.columns):
            raise ValueError(
                f'no column {color!r} in {side}_df to colour by: {"no metadata was given" if metadata is None else list(metadata.columns)}'
            )
        codes = self._known(side, k)
        vectors = self.learn.vectors(side)[torch.from_numpy(codes)].cpu().numpy()
        xy = TSNE(perplexity=min(perplexity, (len(codes) - 1) / 3), init='pca', random_state=seed).fit_transform(
            vectors
        )
        ax = ax or plt.subplots(figsize=(11, 9), layout='constrained')[1]
        if color is None:
            ax.scatter(*xy.T, s=18, color=_BLUE)
        else:
            values = metadata[color].iloc[codes]
            if pd.api.types.is_numeric_dtype(values.dtype):
                known = values.notna().to_numpy()
                ax.scatter(*xy[~known].T, s=14, color='#c9ced6')
                points = ax.scatter(*xy[known].T, s=18, c=values[known].astype(float), cmap='viridis')
                ax.figure.colorbar(points, ax=ax, label=color, shrink=0.7)
            else:
                known = values.notna().to_numpy()
                first = np.where(known, values.astype(str).str.split('|').str[0], '')
                common = pd.Series(first[known]).value_counts().index[:8]
                grey = ~np.isin(first, common)
                if grey.any():
                    ax.scatter(
                        *xy[grey].T,
                        s=14,
                        color='#c9ced6',
                        label='other'
                        if known[grey].all()
                        else 'unknown'
                        if not known[grey].any()
                        else 'other, unknown',
                    )
                for i, value in enumerate(common):
                    ax.scatter(*xy[first == value].T, s=20, color=plt.get_cmap('tab10')(i), label=value)
                handles, names = ax.get_legend_handles_labels()
                last = int(grey.any())  # the grey dots lie under the others, and stand last in the legend
                ax.legend(
                    handles[last:] + handles[:last],
                    names[last:] + names[:last],
                    title=color,
                    loc='center left',
                    bbox_to_anchor=(1, 0.5),
                    frameon=False,
                )
        ax.set(
            xlabel='t-SNE 1',
            ylabel='t-SNE 2',
            xticks=[],
            yticks=[],
            title=f'{side.capitalize()} vectors: the {len(codes)} with most ratings',
        )
        df = self._table(codes[:n_labels], side)
        place_labels(ax, *xy[:n_labels].T, self._labels(df, side))
        return ax

    def similar_items(self, item, k: int = 10) -> pd.DataFrame:
        """Nearest items by cosine; `item` is an id, a title or a part of one."""
        return self.learn.similar_items(item, k)

    # --- single predictions

    def explain(self, user, item, k: int = 5) -> pd.DataFrame:
        """What a prediction is made of: mean, biases and the `k` factors that count most (product of user's and item's factor), the rest summed.

        Column `value`, in units of the score before the sigmoid; it adds up to `.attrs['score']`, and `.attrs['prediction']` is that after the sigmoid.
        """
        user, item = int(self.catalog.vocab['user'].encode([user])[0]), self.catalog.find(item)
        with self.learn.inference():
            parts = self.learn.rec_model.explain(user, item)
        factors = parts['factors'].cpu().double()
        order = factors.abs().argsort(descending=True)
        top, rest = order[:k].tolist(), order[k:]
        rows = {
            'global mean': parts['mean'],
            'user bias': parts['user_bias'],
            'item bias': parts['item_bias'],
            **{f'factor {i}': factors[i].item() for i in top},
        }
        if len(rest):
            rows[f'{len(rest)} other factors'] = factors[rest].sum().item()
        df = pd.DataFrame(dict(value=rows))
        df.index.name = 'part'
        df.attrs['score'] = float(df.value.sum())
        df.attrs['prediction'] = to_range(torch.tensor(df.attrs['score']), self.learn.rec_model.y_range).item()
        return df

    def plot_explain(self, user, item, k: int = 5, ax=None):
        """The parts of a prediction (see `explain`) as bars."""
        df = self.explain(user, item, k)
        ax = ax or plt.subplots(figsize=(7, 0.8 + 0.35 * len(df)), layout='constrained')[1]
        ax.barh(df.index[::-1], df.value[::-1], color=[_BLUE if o > 0 else _ORANGE for o in df.value[::-1]])
        ax.axvline(0, color=_GREY, lw=0.8)
        code = np.array([self.catalog.find(item)])
        ax.set(
            xlabel=f'contribution to the score{self._before}',
            title=f'{df.attrs["prediction"]:.2f} for user {user}:\n{self._labels(self._table(code, "item"), "item")[0]}',
        )
        return ax

    # --- the gate of a hybrid

    def gates(self, items=None, users=None, shares: bool = False, n_users: int = 200, seed: int = 0) -> pd.DataFrame:
        """What a `gated_learner` leans on: the weight of each pathway, which add up to 1, averaged over `users` (ids; by default `n_users` drawn among those with training rows).

        A pathway may say little however much weight it has. With `shares`: its part in the scores, the mean over the users of |weight x (p_u . z_im + c_im)| as a share of the sum over pathways.
        A row per item (`items`: ids or titles; by default all): id, title, a column for each pathway (0 where the item lacks it), rows (in training).
        """
        model = self.learn.model
        if not hasattr(model, 'gate_weights'):
            raise TypeError(f'{type(model).__name__} has no gate: train a gated_learner')
        codes = np.arange(self.catalog.n_items) if items is None else self.catalog.find_all(items)
        if users is None:
            known = np.flatnonzero(self.catalog.known('user'))
            users = np.random.default_rng(seed).choice(known, min(n_users, len(known)), replace=False)
        else:
            users = self.catalog.vocab['user'].encode(users)
        with self.learn.inference() as device:
            at = torch.from_numpy(codes).to(device)
            step = max(1, 2**24 // (len(codes) * len(model.names)))
            of = model.contributions if shares else model.gate_weights
            total = sum(of(part.to(device), at).abs().sum(0) for part in torch.from_numpy(users).split(step))
        return self._table(
            codes, 'item', **dict(zip(model.names, (total / total.sum(1, keepdim=True)).cpu().numpy().T))
        )

    def plot_gates(self, shares: bool = False, n_users: int = 200, axes=None):
        """Mean weight of each pathway (`shares`: see `gates`) by the number of training rows of the item: of all items, and of those that have every pathway."""
        df, names = self.gates(shares=shares, n_users=n_users), self.learn.model.names
        edges = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2**14, 2**20, 2**62])
        label = lambda a, b: str(a) if b == a + 1 else f'{a:,}+' if b > df.rows.max() else f'{a:,}–{b - 1:,}'
        complete = (df[names[1:]] > 0).all(axis=1)
        panels = [('All items', np.ones(len(df), bool)), ('Items that have every pathway', complete.to_numpy())]
        panels = panels if complete.any() and not complete.all() else panels[:1]
        axes = np.atleast_1d(
            plt.subplots(1, len(panels), figsize=(7.5 * len(panels), 4.8), layout='constrained', sharey=True)[1]
            if axes is None
            else axes
        )
        for ax, (title, mask) in zip(axes, panels):
            part = df[mask]
            bins = np.searchsorted(edges, part.rows.to_numpy(), side='right') - 1
            means = part[names].groupby(bins).mean()
            x, bottom = np.arange(len(means)), np.zeros(len(means))
            for j, name in enumerate(names):
                ax.bar(x, means[name], 0.85, bottom=bottom, color=plt.get_cmap('tab10')(j), label=name)
                bottom += means[name].to_numpy()
            sizes = np.bincount(bins)[means.index]
            ax.set_xticks(
                x, [f'{label(edges[b], edges[b + 1])}\n({n:,})' for b, n in zip(means.index, sizes)], fontsize=8
            )
            ax.set(xlabel='training rows of the item (number of items)', title=title, ylim=(0, 1))
            ax.margins(x=0.01)
        axes[0].set_ylabel(f'mean {"share" if shares else "weight"} of the pathway')
        handles, labels = axes[-1].get_legend_handles_labels()
        axes[-1].legend(handles[::-1], labels[::-1], loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
        return axes

    # --- errors

    def plot_top_losses(self, k: int = 9, largest: bool = True, show: bool = True):
        """Show (or return, with `show=False`) the `k` pairs with the largest loss: ids, title, rating, prediction, loss."""
        losses, idx = self.top_losses(k, largest)
        df = self._predicted(idx)
        df['loss'] = losses.cpu().numpy()
        return show_table(df) if show else df

    def _predicted(self, idx=None):
        dataset = self.dl.dataset
        idx = torch.arange(len(dataset)) if idx is None else idx.cpu()
        columns, n = [o.cpu() for o in dataset[idx.to(dataset.device)]], dataset.n_inp
        users, items, *context, target = columns[: n + 1]
        return decode(self.catalog, users, items, target, prediction=self.learn.score(users, items, *context))

    def worst_users(self, k: int = 10, min_rows: int = 5) -> pd.DataFrame:
        """The `k` users with the largest error among those with `min_rows` rows in the part interpreted: user, rows, rmse, bias (mean of prediction - rating), mean_rating."""
        df = self._predicted()
        error = df.prediction - df.rating
        per_user = (
            df.assign(error=error, square=error**2)
            .groupby('user')
            .agg(
                rows=('error', 'size'), rmse=('square', 'mean'), bias=('error', 'mean'), mean_rating=('rating', 'mean')
            )
        )
        per_user['rmse'] **= 0.5
        return per_user[per_user.rows >= min_rows].nlargest(k, 'rmse').reset_index()

    # --- the ratings themselves

    def plot_ratings(self, n_users: int = 60, n_items: int = 60, axes=None):
        """Three views of the training rows: how ratings are distributed, how few items have most of them, and who rated what (most active users, most rated items)."""
        inter, rows = self.catalog.require_history().interactions, self.catalog.split.train
        axes = plt.subplots(1, 3, figsize=(16, 4.6), layout='constrained')[1] if axes is None else axes
        values, counts = np.unique(inter.ratings[rows], return_counts=True)
        if len(values) <= 20:
            axes[0].bar(values, counts, width=0.8 * (np.diff(values).min() if len(values) > 1 else 1), color=_BLUE)
        else:
            axes[0].hist(inter.ratings[rows], bins=30, color=_BLUE)
        axes[0].axvline(self.catalog.mean_rating, color=_ORANGE, lw=1.5, label=f'mean {self.catalog.mean_rating:.2f}')
        axes[0].legend(framealpha=1, edgecolor='none', loc='upper left')
        axes[0].set(xlabel='rating', ylabel='rows', title='Distribution of ratings')

        per_item = np.sort(self.catalog.counts['item'])[::-1]
        share = np.cumsum(per_item) / per_item.sum()
        head = int(np.searchsorted(share, 0.8)) + 1
        axes[1].fill_between(np.arange(1, len(per_item) + 1), per_item, color=_BLUE, alpha=0.35, lw=0)
        axes[1].axvline(head, color=_ORANGE, lw=1.5, label=f'{head / len(per_item):.0%} of items have 80% of the rows')
        axes[1].legend(framealpha=1, edgecolor='none')
        axes[1].set(
            xlabel='item, by popularity',
            ylabel='rows of the item',
            title='The long tail',
            yscale='symlog',
            ylim=(0, None),
        )

        matrix = self.catalog.require_history().seen[self._known('user', n_users)][:, self._known('item', n_items)]
        grid = np.full(matrix.shape, np.nan)
        coo = matrix.tocoo()
        grid[coo.row, coo.col] = coo.data
        image = axes[2].imshow(grid, aspect='auto', cmap='viridis', interpolation='nearest')
        axes[2].figure.colorbar(image, ax=axes[2], label='rating')
        axes[2].set(
            xlabel=f'{grid.shape[1]} most rated items',
            ylabel=f'{grid.shape[0]} most active users',
            title=f'User-item matrix ({np.isfinite(grid).mean():.0%} filled here, {self.catalog.require_history().seen.nnz / np.prod(self.catalog.require_history().seen.shape):.1%} in all)',
        )
        return axes


def place_labels(ax, x, y, labels, fontsize: int = 8):
    """Write each label beside its point where it covers no earlier label and no other labelled point and stays inside the axes; the others are left out. Earlier labels go first."""
    figure = ax.figure
    figure.draw_without_rendering()  # fixes the transforms, which the boxes below are measured in
    renderer, frame, taken = figure.canvas.get_renderer(), ax.get_window_extent(), []
    points = ax.transData.transform(np.column_stack([x, y]))
    radius = 3 * figure.dpi / 72
    places = [
        (5, 0, 'left', 'center'),
        (-5, 0, 'right', 'center'),
        (0, 5, 'center', 'bottom'),
        (0, -5, 'center', 'top'),
        (4, 4, 'left', 'bottom'),
        (4, -4, 'left', 'top'),
        (-4, 4, 'right', 'bottom'),
        (-4, -4, 'right', 'top'),
    ]
    for i, label in enumerate(labels):
        others = np.delete(points, i, 0)
        for dx, dy, ha, va in places:
            text = ax.annotate(
                label,
                (x[i], y[i]),
                (dx, dy),
                textcoords='offset points',
                ha=ha,
                va=va,
                fontsize=fontsize,
                zorder=3,
                path_effects=[withStroke(linewidth=2, foreground='white')],
            )
            box = text.get_window_extent(renderer)
            inside = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
            covers = ((others > box.min - radius) & (others < box.max + radius)).all(1).any()
            if inside and not covers and not any(box.overlaps(o) for o in taken):
                taken.append(box)
                break
            text.remove()
