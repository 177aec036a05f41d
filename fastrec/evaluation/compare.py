"""Models side by side: means with intervals, paired tests, and pictures of both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .. import palette
from ..data.columns import first_few, is_table
from ..keywords import check_arguments, require_known
from ..notices import warn_user
from ..scorers.baselines import HasCatalog, require_loaders
from ..scorers.scorer import Scorer
from .evaluate import OF_RANKING, default_metrics, evaluate_users
from .metrics import lower_is_better
from .named import ERRORS, as_metrics, is_error, metric_name

__all__ = ['compare_models', 'plot_gains']

# colors of the plots
BEST = GAINED = palette.BLUE
OTHERS = palette.LIGHT_BLUE
UNCHANGED = palette.PALE
LOST = palette.ORANGE
MEAN = palette.RED


@check_arguments
def compare_models(
    scorers: Any,  # fitted scorers: name -> scorer, or a list of them, which are named by what they are
    dls: HasCatalog | None = None,  # loaders whose held-out rows are used; by default those of the first scorer
    metrics: Any = None,  # functions, objects or names, as in `evaluate`; by default by what the loaders are made for
    k: int | Sequence[int] | None = None,  # cut-offs for all ranking metrics, in place of their own, e.g. `[5, 10]`
    split: str = 'valid',  # as in `evaluate`
    n_boot: int = 1000,  # bootstrap samples of users for the intervals
    level: float = 0.95,  # of the intervals
    seed: int = 0,  # of the bootstrap samples
    plot: bool = True,  # draw the bars
    against: str | None = None,  # name of the model that the others are compared with; None: the best of each metric
    **kwargs,  # of `evaluate_users`
) -> pd.DataFrame:
    """Models side by side on the same users: a row per model and metric.

    Columns: `mean`, over users, or of errors over rows; `low`, `high` (percentile bootstrap over users, each with all
    rows, since those of one user are not independent), and, against the best model of that metric (or the one named),
    `difference` and `p`: Wilcoxon signed-rank test over users, Holm-corrected for the number of models. Of `rmse` it
    looks at each user's mean squared error, of `mae` at the mean absolute error; users count alike there, however many
    rows they have.

    Metrics of all lists or rows together (coverage, gini, pooled ones) come last: `mean` is their one value, and there
    is no interval and no `p`. (Coverage of users drawn with repetition is lower than that of the users, so a bootstrap
    would tell something else.) Error functions of your own have a `p` and no interval. Errors and ranking in one call:
    `metrics=['rmse', 'ndcg@10'], relevant=4`; a scorer that only ranks has nan for its errors, with a warning.

    The values per user are in `.attrs['per_user']`: a table (user x (model, metric)); `plot_gains` draws how they
    differ. `.attrs['one_class']` counts the users left out of label metrics. `ValueError` where `against` is none of
    them.
    """
    require_known(kwargs, evaluate_users, 'compare_models', beside=compare_models)
    if not 0 < level < 1:
        raise ValueError(f'level={level:g}: a share between 0 and 1, such as 0.95')
    if n_boot < 1:
        raise ValueError(f'n_boot={n_boot}: bootstrap samples, from 1 on')
    models = _by_name(scorers)
    if against is not None and against not in models:
        raise ValueError(f'against={against!r}: choose one of {first_few(models, 20)}')
    loaders: Any = next(iter(models.values())) if dls is None else dls  # of a scorer, too, only the catalog is read
    require_loaders(loaders, 'compare_models')
    for scorer in models.values():
        scorer.require_trained()
    metrics = _metrics_of_all(metrics, models, loaders, k, kwargs)
    tables = {
        name: evaluate_users(scorer, loaders, _those_of(scorer, metrics), k, split, **kwargs)
        for name, scorer in models.items()
    }
    per_user = _aligned(tables)
    columns = list(per_user.columns.get_level_values(1).unique())
    drawn = _bootstrap(per_user, tables, n_boot, seed)
    rows: list[dict] = []
    for metric in columns:
        rows.extend(_side_by_side(metric, per_user.xs(metric, axis=1, level=1), tables, drawn, level, against))
    for metric in _in_any(tables, 'overall'):
        overall = {name: table.attrs['overall'].get(metric, np.nan) for name, table in tables.items()}
        rows.extend(_one_value_each(metric, overall, against))
    res = pd.DataFrame(rows).set_index(['metric', 'model'])
    res.attrs = dict(per_user=per_user, against=against, of_rows=_in_any(tables, 'of_rows'))
    one_class = [table.attrs['one_class'] for table in tables.values() if 'one_class' in table.attrs]
    if one_class:
        res.attrs['one_class'] = one_class[0]
    if plot:
        plot_comparison(res)
    return res


# --- what is compared


def _by_name(scorers: Any) -> dict[str, Scorer]:
    """name -> scorer; `ValueError` where there are none, `TypeError` for what is not a scorer."""
    if isinstance(scorers, dict):
        models = scorers
    elif isinstance(scorers, str) or not isinstance(scorers, (Scorer, Iterable)) or is_table(scorers):
        raise TypeError(
            f'compare_models takes fitted scorers by name, got {type(scorers).__name__}: '
            "compare_models({'bias': BiasOnly().fit(dls), 'factors': learn})"
        )
    else:
        several = [scorers] if isinstance(scorers, Scorer) or not isinstance(scorers, Iterable) else list(scorers)
        models = dict(zip(_names(several), several))
    if not models:
        raise ValueError('no models to compare')
    for name, scorer in models.items():
        if not isinstance(scorer, Scorer):
            raise TypeError(
                f'compare_models takes fitted scorers, and {name!r} is of type {type(scorer).__name__}: '
                "compare_models({'bias': BiasOnly().fit(dls), 'factors': learn})"
            )
    return models


def _names(scorers: list) -> list[str]:
    """Names of what scorers are, with a number where several are the same: the model's class, or their own."""
    res: list[str] = []
    for scorer in scorers:
        thing = scorer.model if isinstance(scorer, Scorer) and scorer.model is not None else scorer
        kind = type(thing).__name__
        n_before = sum(name.partition(' ')[0] == kind for name in res)
        res.append(f'{kind} {n_before + 1}' if n_before else kind)
    return res


def _metrics_of_all(metrics: Any, models: dict[str, Scorer], dls: HasCatalog, k: Any, options: dict) -> list:
    """The metrics as a list; by default those that all of the scorers have."""
    if metrics is None:
        ranks = any(value is not None for value in [k, *(options.get(name) for name in OF_RANKING)])
        rankers = [scorer for scorer in models.values() if scorer.scale == 'rank']
        metrics = default_metrics(dls.catalog, next(iter(rankers or models.values())), ranks)
    metrics = as_metrics(metrics)
    if not metrics:
        raise ValueError("metrics=[]: name what to compare by, e.g. metrics=['rmse'] or metrics=['ndcg@10']")
    errors = [metric for metric in metrics if is_error(metric)]
    without = [name for name, scorer in models.items() if scorer.scale != 'rating'] if errors else []
    if without and len(errors) < len(metrics) and len(without) < len(models):
        warn_user(
            f'{first_few(without)} do not predict ratings, and have no value of {", ".join(map(metric_name, errors))}'
        )
    elif without:
        raise ValueError(
            f'{first_few(without)} do not predict ratings, and {", ".join(map(metric_name, errors))} would mean '
            "nothing: compare how they rank, metrics=['ndcg@10'] (of explicit ratings also relevant=4, say)"
        )
    return metrics


def _those_of(scorer: Scorer, metrics: list) -> list:
    """The metrics without errors, where scores are not ratings."""
    return metrics if scorer.scale == 'rating' else [metric for metric in metrics if not is_error(metric)]


def _in_any(tables: dict[str, pd.DataFrame], attribute: str) -> list[str]:
    """Names of the metrics in a dict of the attributes of any of the tables, each once."""
    return list(dict.fromkeys(name for table in tables.values() for name in table.attrs.get(attribute, {})))


def _aligned(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Values per user (users x (model, metric)) of all tables, nan where a user or a model has none."""
    values = {}
    for name, table in tables.items():
        values[name] = table.drop(columns='rows', errors='ignore')
        values[name].attrs = {}  # pandas would compare them
    joined = pd.concat(values, axis=1)
    longest = max(values.values(), key=lambda table: table.shape[1])
    columns = pd.MultiIndex.from_product([list(values), list(longest.columns)])
    return joined.reindex(columns=columns)


# --- intervals and tests


def _bootstrap(per_user: pd.DataFrame, tables: dict[str, pd.DataFrame], n_boot: int, seed: int) -> dict:
    """(model, metric) -> (n_boot,): means of users drawn with repetition, of errors over all rows of those drawn.

    A mean is a ratio of two sums over users: of totals, and of how many values each user has. The users drawn are the
    same for all models and metrics.
    """
    keys = list(per_user.columns)
    totals = np.empty((len(per_user), len(keys)))
    counts = np.empty_like(totals)
    for column, (name, metric) in enumerate(keys):
        values = _as_tested(metric, per_user[name, metric].to_numpy(float))
        there = np.isfinite(values)
        n = there.astype(float)
        if metric in tables[name].attrs.get('of_rows', {}):
            n *= tables[name]['rows'].reindex(per_user.index).fillna(0).to_numpy(float)
        totals[:, column] = np.where(there, values, 0) * n
        counts[:, column] = n
    rng = np.random.default_rng(seed)
    n_users = len(per_user)
    means = np.empty((n_boot, len(keys)))
    for draw in range(n_boot):
        times = np.bincount(rng.integers(n_users, size=n_users), minlength=n_users).astype(float)
        with np.errstate(invalid='ignore', divide='ignore'):
            means[draw] = (times @ totals) / (times @ counts)
    return {key: _as_shown(key[1], means[:, column]) for column, key in enumerate(keys)}


def _as_tested(metric: str, values: Any) -> Any:
    """What of a metric is averaged over rows and tested: of `rmse` its square."""
    return np.square(values) if metric == 'rmse' else values


def _as_shown(metric: str, means: np.ndarray) -> np.ndarray:
    """The metric of such means."""
    return np.sqrt(means) if metric == 'rmse' else means


def _side_by_side(
    metric: str,
    values: pd.DataFrame,  # (n_users, n_models): the metric of each user
    tables: dict[str, pd.DataFrame],  # of `evaluate_users`, whose attributes have what is not a mean over users
    drawn: dict[tuple[str, str], np.ndarray],  # of `_bootstrap`
    level: float,
    against: str | None,
) -> Iterator[dict]:
    """Rows of `compare_models` for one metric."""
    is_of_rows = metric in _in_any(tables, 'of_rows')
    if is_of_rows:
        means = {name: table.attrs.get('of_rows', {}).get(metric, np.nan) for name, table in tables.items()}
    else:
        means = values.mean().to_dict()
    reference = against or _best_of(metric, means)
    tested = {name: _as_tested(metric, own.to_numpy(float)) for name, own in values.items()}
    p = {
        name: _wilcoxon(own, tested[reference])
        for name, own in tested.items()
        if name != reference and np.isfinite([means[name], means[reference]]).all()
    }
    corrected = _holm(p)
    has_interval = not is_of_rows or metric in ERRORS
    tails = [(1 - level) / 2, (1 + level) / 2]
    for name in values:
        low = high = np.nan
        if has_interval and np.isfinite(means[name]):
            low, high = np.nanquantile(drawn[name, metric], tails)
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
    """The name of the model with the best value; those without one are not looked at, unless none has any."""
    sign = -1 if lower_is_better(metric) else 1
    there = [name for name, value in values.items() if not np.isnan(value)]
    return max(there or values, key=lambda name: sign * values[name])


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
    """Bars with intervals from `compare_models`, a panel per metric; returns the axes.

    Errors are dots on an axis without 0, where models that differ by a hundredth can be told apart.
    """
    of_rows = table.attrs.get('of_rows', [])
    metrics = table.index.get_level_values('metric').unique()
    n_models = len(table.index.get_level_values('model').unique())
    across = _panels_across(len(metrics))
    axes = _panels(len(metrics), across, n_models) if axes is None else np.atleast_1d(axes)[: len(metrics)]
    for panel, (ax, metric) in enumerate(zip(axes, metrics)):
        models = table.loc[metric].iloc[::-1]
        is_error = metric in of_rows
        draw = _dots if is_error else _bars
        draw(ax, models, best=_best_of(metric, models['mean'].to_dict()))
        if is_error:
            over = 'over rows'
        else:
            over = 'mean over users' if models['low'].notna().any() else 'all users together'
        ax.set(xlabel=f'{metric}, {over}{_less_is_better(metric)}')
        ax.margins(x=0.18)
        ax.locator_params(axis='x', nbins=4)
        if panel % across:  # the names of the models are at the first panel of a row
            ax.set_yticklabels([])
    return axes


def _less_is_better(metric: str) -> str:
    """What an axis says of a metric of which less is better."""
    return ' (lower is better)' if lower_is_better(metric) else ''


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
        if np.isnan(mean):
            continue
        ax.text(high, i, f' {mean:.3f}', va='center', fontsize=8)


def _dots(ax: Any, models: pd.DataFrame, best: str) -> None:
    """A dot for each row (`mean`, `low`, `high`), its mean in figures above it, the best in a stronger color."""
    for i, (mean, low, high) in enumerate(zip(models['mean'], models['low'], models['high'])):
        color = BEST if mean == models['mean'][best] else OTHERS
        ax.plot([low, high], [i, i], color=color, lw=2)
        ax.plot([mean], [i], 'o', color=color)
        if np.isnan(mean):
            ax.text(0.02, i, 'predicts no ratings', transform=ax.get_yaxis_transform(), fontsize=8, color='gray')
        else:
            ax.annotate(f'{mean:.4f}', (mean, i), (0, 5), textcoords='offset points', ha='center', fontsize=8)
    ax.set_yticks(range(len(models)), models.index)
    ax.set_ylim(-0.5, len(models) - 0.3)


@check_arguments
def plot_gains(
    table: pd.DataFrame,  # of `compare_models`
    metric: str | None = None,  # by default the first
    # the model whose values are subtracted; by default the one `compare_models` was told, else the first
    against: str | None = None,
    axes: Any = None,  # matplotlib axes, one per other model; None: new ones
) -> np.ndarray:
    """How the gain over one model is spread over users: a histogram for each other model; returns the axes.

    With the mean, and the shares of users who gain, lose and stay as they are. Of errors, and whatever else is better
    the lower it is, a gain is how much lower it is; of `rmse` that of the user's own. `TypeError` for another table,
    `ValueError` for a metric or model that is not in it.
    """
    if not isinstance(table, pd.DataFrame) or 'per_user' not in table.attrs:
        raise TypeError(
            f'plot_gains takes the table that compare_models returns, got {type(table).__name__}: '
            'plot_gains(compare_models([learn, baseline]))'
        )
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
    has_values = per_user.xs(metric, axis=1, level=1).notna().any()
    if not has_values[against]:
        raise ValueError(f'{against!r} has no values of {metric}: against= another model')
    others = [model for model in models if model != against and has_values[model]]
    sign = -1 if lower_is_better(metric) else 1
    axes = _panels_of_gains(len(others)) if axes is None else np.atleast_1d(axes)
    for ax, model in zip(axes, others):
        gains = sign * _differences(per_user[model, metric], per_user[against, metric]).to_numpy()
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
