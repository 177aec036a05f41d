"""Models side by side: means with intervals, paired tests, and pictures of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..data.columns import first_few
from ..scorers.baselines import HasCatalog
from ..scorers.scorer import Scorer
from .evaluate import default_metrics, evaluate_users
from .metrics import lower_is_better

__all__ = ['compare_models', 'plot_gains']

# colors of the plots
BEST = GAINED = '#2a6fb0'
OTHERS = '#a9c4e0'
UNCHANGED = '#d9dde3'
LOST = '#d08770'
MEAN = '#c0392b'


def compare_models(
    scorers: dict[str, Scorer],  # name -> fitted scorer
    dls: HasCatalog | None = None,  # loaders whose held-out rows are used; by default those of the first scorer
    metrics: Callable | Iterable[Callable] | None = None,
    k: int | Sequence[int] | None = None,
    split: str = 'valid',  # as in `evaluate`
    n_boot: int = 1000,  # bootstrap samples of users for the intervals
    level: float = 0.95,  # of the intervals
    seed: int = 0,  # of the bootstrap samples
    plot: bool = True,  # draw the bars
    against: str | None = None,  # name of the model that the others are compared with; None: the best of each metric
    **kwargs,  # of `evaluate_users`
) -> pd.DataFrame:
    """Models side by side on the same users: a row per model and metric.

    Columns: `mean`, `low`, `high` (percentile bootstrap over users), and, against the best model of that metric (or the
    one named), `difference` and `p` (Wilcoxon signed-rank test over users, Holm-corrected for the number of models).
    Metrics of all lists or rows together (coverage, gini, pooled ones) come last: `mean` is their one value, and there
    is no interval and no `p`. (Coverage of users drawn with repetition is lower than that of the users, so a bootstrap
    would tell something else.)

    The values per user are in `.attrs['per_user']`: a table (user x (model, metric)); `plot_gains` draws how they
    differ. `.attrs['one_class']` counts the users left out of label metrics.
    """
    if not scorers:
        raise ValueError('no models to compare')
    if against is not None and against not in scorers:
        raise ValueError(f'against={against!r}: choose one of {first_few(scorers, 20)}')
    loaders: Any = next(iter(scorers.values())) if dls is None else dls  # of a scorer, too, only the catalog is read
    if metrics is None:
        metrics = _metrics_of_all(scorers, loaders)
    per_user = {name: evaluate_users(scorer, loaders, metrics, k, split, **kwargs) for name, scorer in scorers.items()}
    table = next(iter(per_user.values()))
    draws = np.random.default_rng(seed).integers(len(table), size=(n_boot, len(table)))
    rows: list[dict] = []
    for metric in table.columns:
        values = {name: df[metric].to_numpy() for name, df in per_user.items()}
        rows.extend(_side_by_side(metric, values, draws, level, against))
    for metric in table.attrs['overall']:
        overall = {name: df.attrs['overall'][metric] for name, df in per_user.items()}
        rows.extend(_one_value_each(metric, overall, against))
    res = pd.DataFrame(rows).set_index(['metric', 'model'])
    res.attrs = dict(per_user=pd.concat(per_user, axis=1), against=against)
    if 'one_class' in table.attrs:
        res.attrs['one_class'] = table.attrs['one_class']
    if plot:
        plot_comparison(res)
    return res


def _metrics_of_all(scorers: dict[str, Scorer], dls: HasCatalog) -> list | None:
    """Default metrics that all of the scorers have; None: `evaluate_users` chooses."""
    for scorer in scorers.values():
        if scorer.scale == 'rank':
            return default_metrics(dls.catalog, scorer)
    return None


def _side_by_side(
    metric: str,
    values: dict[str, np.ndarray],  # name of a model -> its values (n_users,)
    draws: np.ndarray,  # int (n_boot, n_users): bootstrap samples of users
    level: float,
    against: str | None,
) -> Iterator[dict]:
    """Rows of `compare_models` for one metric."""
    means = {name: float(np.nanmean(own)) for name, own in values.items()}
    reference = against or _best_of(metric, means)
    p = {name: _wilcoxon(own, values[reference]) for name, own in values.items() if name != reference}
    corrected = _holm(p)
    tails = [(1 - level) / 2, (1 + level) / 2]
    for name, own in values.items():
        low, high = np.quantile([np.nanmean(own[draw]) for draw in draws], tails)
        yield dict(
            metric=metric,
            model=name,
            mean=means[name],
            low=low,
            high=high,
            difference=means[name] - means[reference],
            p=corrected.get(name, np.nan),
        )


def _one_value_each(
    metric: str,
    values: dict[str, float],  # name of a model -> its value
    against: str | None,
) -> Iterator[dict]:
    """Rows of `compare_models` for a metric that has one value for all users together."""
    reference = against or _best_of(metric, values)
    for name, value in values.items():
        yield dict(
            metric=metric,
            model=name,
            mean=value,
            low=np.nan,
            high=np.nan,
            difference=value - values[reference],
            p=np.nan,
        )


def _best_of(metric: str, values: dict[str, float]) -> str:
    """The name of the model with the best value."""
    sign = -1 if lower_is_better(metric) else 1
    return max(values, key=lambda name: sign * values[name])


def _differences(a: Any, b: Any) -> Any:
    """a - b, of users for whom both are numbers."""
    differences = a - b
    return differences[np.isfinite(differences)]


def _wilcoxon(a: np.ndarray, b: np.ndarray) -> float:
    """p of Wilcoxon's signed-rank test of values (n_users,) of two models; 1 where they are all equal."""
    from scipy.stats import wilcoxon  # half a second to import, which only comparisons pay

    differences = _differences(a, b)
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def _holm(p: dict[str, float]) -> dict[str, float]:
    """Holm's step-down correction of p-values by name."""
    corrected: dict[str, float] = {}
    worst = 0.0
    for i, name in enumerate(sorted(p, key=lambda name: p[name])):
        worst = max(worst, min(1.0, p[name] * (len(p) - i)))
        corrected[name] = worst
    return corrected


# --- pictures


def plot_comparison(
    table: pd.DataFrame,  # of `compare_models`
    axes: Any = None,  # matplotlib axes, one per metric; None: new ones
) -> np.ndarray:
    """Bars with intervals from `compare_models`, a panel per metric; returns the axes."""
    metrics = table.index.get_level_values('metric').unique()
    n_models = len(table.index.get_level_values('model').unique())
    across = _panels_across(len(metrics))
    axes = _panels(len(metrics), across, n_models) if axes is None else np.atleast_1d(axes)[: len(metrics)]
    for panel, (ax, metric) in enumerate(zip(axes, metrics)):
        models = table.loc[metric].iloc[::-1]
        _bars(ax, models, best=_best_of(metric, models['mean'].to_dict()))
        is_mean = models['low'].notna().any()
        ax.set(xlabel=f'{metric}, mean over users' if is_mean else f'{metric}, all users together')
        ax.margins(x=0.18)
        ax.locator_params(axis='x', nbins=4)
        if panel % across:  # the names of the models are at the first panel of a row
            ax.set_yticklabels([])
    return axes


def _panels_across(n: int) -> int:
    """How many panels a row has: one row of up to four, two rows of up to eight, then rows of four."""
    if n <= 4:
        return n
    if n <= 8:
        return math.ceil(n / 2)
    return 4


def _panels(n: int, across: int, n_models: int) -> np.ndarray:
    """Axes (n,) of a new figure."""
    import matplotlib.pyplot as plt

    down = math.ceil(n / across)
    size = (1.5 + 3.2 * across, (1.2 + 0.34 * n_models) * down)
    _, axes = plt.subplots(down, across, figsize=size, layout='constrained', squeeze=False)
    axes = axes.ravel()
    for ax in axes[n:]:
        ax.remove()
    return axes[:n]


def _bars(ax: Any, models: pd.DataFrame, best: str) -> None:
    """A bar for each row (`mean`, `low`, `high`), its mean in figures beside it, the best in a stronger color.

    Without an interval (nan) no line is drawn for it.
    """
    means = models['mean']
    highs = models['high'].fillna(means)
    ax.barh(
        models.index,
        means,
        color=[BEST if mean == means[best] else OTHERS for mean in means],
        xerr=[means - models['low'], models['high'] - means] if models['low'].notna().any() else None,
        error_kw=dict(lw=1, capsize=3),
    )
    for i, (mean, high) in enumerate(zip(means, highs)):
        ax.text(high, i, f' {mean:.3f}', va='center', fontsize=8)


def plot_gains(
    table: pd.DataFrame,  # of `compare_models`
    metric: str | None = None,  # by default the first
    # the model whose values are subtracted; by default the one `compare_models` was told, else the first
    against: str | None = None,
    axes: Any = None,  # matplotlib axes, one per other model; None: new ones
) -> np.ndarray:
    """How the gain over one model is spread over users: a histogram for each other model; returns the axes.

    With the mean, and the shares of users who gain, lose and stay as they are.
    """
    per_user = table.attrs['per_user']
    models = list(per_user.columns.get_level_values(0).unique())
    if not models:
        raise ValueError(
            'gains are those of single users, and the metrics of this table have one value for all of them: '
            'compare_models(..., metrics=[ndcg(10)])'
        )
    metric = metric or per_user.columns[0][1]
    against = against or table.attrs.get('against') or models[0]
    if (models[0], metric) not in per_user.columns:
        known = per_user.columns.get_level_values(1).unique()
        raise ValueError(f'metric={metric!r}: choose one of {first_few(known, 20)}')
    if against not in models:
        raise ValueError(f'against={against!r}: choose one of {first_few(models, 20)}')
    if len(models) < 2:
        raise ValueError('a gain is over another model: compare at least two')
    others = [model for model in models if model != against]
    axes = _panels_of_gains(len(others)) if axes is None else np.atleast_1d(axes)
    for ax, model in zip(axes, others):
        gains = _differences(per_user[model, metric], per_user[against, metric]).to_numpy()
        highest = _histogram_of_gains(ax, gains)
        ax.axvline(gains.mean(), color=MEAN, lw=1.5, label=f'mean {gains.mean():+.3f}')
        ax.set(
            title=f'{model}\n{(gains > 0).mean():.0%} of users gain, {(gains < 0).mean():.0%} lose',
            xlabel=f'{metric}: gain over {against}',
            ylabel='users' if ax is axes[0] else '',
        )
        ax.set_ylim(0, highest * 1.18)
        ax.title.set_fontsize(10)
        ax.legend(frameon=False, fontsize=8, loc='upper right')
    return axes


def _panels_of_gains(n: int) -> np.ndarray:
    """Axes (n,) of a new figure, side by side."""
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, n, figsize=(0.6 + 3.6 * n, 2.9), layout='constrained', squeeze=False)
    return axes[0]


def _histogram_of_gains(ax: Any, gains: np.ndarray) -> float:
    """Bars of how many users gain (n_users,) so much, in three colors; -> the height of the highest."""
    widest = np.quantile(np.abs(gains), 0.99) or 1e-3  # what is beyond is drawn at the ends
    edges = np.linspace(-widest, widest, 42)  # 41 bars, the middle one around 0
    counts, _, bars = ax.hist(gains.clip(-widest, widest), edges)
    for bar, middle in zip(bars, (edges[1:] + edges[:-1]) / 2):
        if abs(middle) < widest / 100:
            bar.set_facecolor(UNCHANGED)
        else:
            bar.set_facecolor(GAINED if middle > 0 else LOST)
    return counts.max()
