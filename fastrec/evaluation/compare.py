"""Models side by side: means with intervals, paired tests, and pictures of both."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..data.columns import first_few
from .evaluate import default_metrics, evaluate_users

__all__ = ['compare_models', 'plot_gains']


def compare_models(
    scorers: dict,  # name -> fitted scorer
    dls=None,  # loaders whose held-out rows are used; by default those of the first scorer
    metrics=None,
    k=None,
    split: str = 'valid',  # as in `evaluate`
    n_boot: int = 1000,  # bootstrap samples of users for the intervals
    level: float = 0.95,  # of the intervals
    seed: int = 0,
    plot: bool = True,  # draw the bars
    against: str = None,  # name of the model that the others are compared with; None: the best of each metric
    **kwargs,  # of `evaluate_users`
) -> pd.DataFrame:
    """Models side by side on the same users: a row per model and metric, with `mean`, `low`, `high` (percentile bootstrap over users), and, against the best model of that metric (or the one named), `difference` and
    `p` (Wilcoxon signed-rank test over users, Holm-corrected for the number of models).

    The values per user are in `.attrs['per_user']`: a table (user x (model, metric)); `plot_gains` draws how they differ. `.attrs['one_class']` counts the users left out of label metrics.
    """
    if not scorers:
        raise ValueError('no models to compare')
    if against is not None and against not in scorers:
        raise ValueError(f'against={against!r}: choose one of {first_few(scorers, 20)}')
    dls = dls or next(iter(scorers.values()))
    if metrics is None and any(s.scale == 'rank' for s in scorers.values()):
        metrics = default_metrics(
            dls.catalog, next(s for s in scorers.values() if s.scale == 'rank')
        )  # what all of them have
    per_user = {name: evaluate_users(s, dls, metrics, k, split, **kwargs) for name, s in scorers.items()}
    draws = np.random.default_rng(seed).integers(
        len(next(iter(per_user.values()))), size=(n_boot, len(next(iter(per_user.values()))))
    )
    rows = []
    for metric in next(iter(per_user.values())).columns:
        values = {name: df[metric].to_numpy() for name, df in per_user.items()}
        best = against or max(values, key=lambda o: np.nanmean(values[o]))
        tests = {name: _wilcoxon(v, values[best]) for name, v in values.items() if name != best}
        for name, v in values.items():
            low, high = np.quantile([np.nanmean(v[d]) for d in draws], [(1 - level) / 2, (1 + level) / 2])
            rows.append(
                dict(
                    metric=metric,
                    model=name,
                    mean=np.nanmean(v),
                    low=low,
                    high=high,
                    difference=np.nanmean(v) - np.nanmean(values[best]),
                    p=_holm(tests).get(name, np.nan),
                )
            )
    res = pd.DataFrame(rows).set_index(['metric', 'model'])
    res.attrs = dict(
        per_user=pd.concat(per_user, axis=1),
        against=against,
        **{k: v for k, v in next(iter(per_user.values())).attrs.items() if k == 'one_class'},
    )
    if plot:
        plot_comparison(res)
    return res


def _wilcoxon(a, b):
    from scipy.stats import wilcoxon

    d = (a - b)[np.isfinite(a - b)]
    return 1.0 if not d.any() else float(wilcoxon(d).pvalue)


def _holm(p):
    """Holm's step-down correction of a dict of p-values."""
    res, worst = {}, 0.0
    for i, name in enumerate(sorted(p, key=p.get)):
        worst = max(worst, min(1.0, p[name] * (len(p) - i)))
        res[name] = worst
    return res


def plot_comparison(table: pd.DataFrame, axes=None):
    """Bars with intervals from `compare_models`, a panel per metric."""
    import matplotlib.pyplot as plt

    names = table.index.get_level_values('metric').unique()
    n = len(table.index.get_level_values('model').unique())
    across = len(names) if len(names) <= 4 else -(-len(names) // 2) if len(names) <= 8 else 4
    if axes is None:
        down = -(-len(names) // across)
        axes = plt.subplots(
            down, across, figsize=(1.5 + 3.2 * across, (1.2 + 0.34 * n) * down), layout='constrained', squeeze=False
        )[1].ravel()
        for ax in axes[len(names) :]:
            ax.remove()
    axes = np.atleast_1d(axes)[: len(names)]
    for j, (ax, name) in enumerate(zip(axes, names)):
        part = table.loc[name].iloc[::-1]
        ax.barh(
            part.index,
            part['mean'],
            color=['#2a6fb0' if o == part['mean'].max() else '#a9c4e0' for o in part['mean']],
            xerr=[part['mean'] - part.low, part.high - part['mean']],
            error_kw=dict(lw=1, capsize=3),
        )
        for i, (mean, high) in enumerate(zip(part['mean'], part.high)):
            ax.text(high, i, f' {mean:.3f}', va='center', fontsize=8)
        ax.set(xlabel=f'{name}, mean over users')
        ax.margins(x=0.18)
        ax.locator_params(axis='x', nbins=4)
        if j % across:
            ax.set_yticklabels([])
    return axes


def plot_gains(
    table: pd.DataFrame,  # of `compare_models`
    metric: str = None,  # by default the first
    against: str = None,  # the model whose values are subtracted; by default the one `compare_models` was told, else the first
    axes=None,
):
    """How the gain over one model is spread over users: a histogram for each other model, with the mean, and the shares of users who gain, lose and stay as they are."""
    import matplotlib.pyplot as plt

    per_user = table.attrs['per_user']
    models = list(dict.fromkeys(per_user.columns.get_level_values(0)))
    metric, against = metric or per_user.columns[0][1], against or table.attrs.get('against') or models[0]
    if (models[0], metric) not in per_user.columns:
        raise ValueError(
            f'metric={metric!r}: choose one of {first_few(dict.fromkeys(per_user.columns.get_level_values(1)), 20)}'
        )
    if against not in models:
        raise ValueError(f'against={against!r}: choose one of {first_few(models, 20)}')
    if len(models) < 2:
        raise ValueError('a gain is over another model: compare at least two')
    gains = {
        m: (d := per_user[m, metric] - per_user[against, metric])[np.isfinite(d)].to_numpy()
        for m in models
        if m != against
    }
    axes = (
        plt.subplots(1, len(gains), figsize=(0.6 + 3.6 * len(gains), 2.9), layout='constrained', squeeze=False)[1][0]
        if axes is None
        else np.atleast_1d(axes)
    )
    for ax, (name, d) in zip(axes, gains.items()):
        widest = np.quantile(np.abs(d), 0.99) or 1e-3  # what is beyond is drawn at the ends
        edges = np.linspace(-widest, widest, 42)  # 41 bars, the middle one around 0
        counts, _, bars = ax.hist(d.clip(-widest, widest), edges)
        for bar, middle in zip(bars, (edges[1:] + edges[:-1]) / 2):
            bar.set_facecolor('#d9dde3' if abs(middle) < widest / 100 else '#2a6fb0' if middle > 0 else '#d08770')
        ax.axvline(d.mean(), color='#c0392b', lw=1.5, label=f'mean {d.mean():+.3f}')
        ax.set(
            title=f'{name}\n{(d > 0).mean():.0%} of users gain, {(d < 0).mean():.0%} lose',
            xlabel=f'{metric}: gain over {against}',
            ylabel='users' if ax is axes[0] else '',
        )
        ax.set_ylim(0, counts.max() * 1.18)
        ax.title.set_fontsize(10)
        ax.legend(frameon=False, fontsize=8, loc='upper right')
    return axes
