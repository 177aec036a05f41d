"""Why a score is what it is, as a picture for people who are not data scientists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..data.catalog import Catalog
from ..scorers.scorer import Scorer
from .figures import NAMES_WIDTH, draw_bars, new_axes
from .text import set_label, set_title

__all__ = ['plot_because']


def plot_because(
    learn: Scorer,  # a learner, a loaded recommender, a baseline, ...
    user: Any,  # id
    item: Any,  # an id, a title, or a part of a title that matches one
    k: int = 10,  # bars; what is left has one of its own
    by: str = 'items',  # or 'features', 'sums'; as in `Scorer.because`
    history: Any = None,  # what the user has, where it did not travel with the recommender
    ax: Axes | None = None,  # axes to draw on; None: a figure of its own
) -> Axes:
    """What carried a score (`Scorer.because`), a bar each: blue what raised it, orange what lowered it.

    Returns the axes. The rest has one bar, so that bars add up to how far the score is from the one without them, which
    the title names. Errors as of `because`.
    """
    df = learn.because(user, item, history=history, by=by)
    names, values = _bars(df, k, by, learn.catalog)
    ax = ax or new_axes(8, 1.4 + 0.32 * len(values))
    draw_bars(ax, values, names)
    what = 'rating' if learn.scale == 'rating' else 'score'
    set_label(ax, 'x', f'what it adds to the {what}', inner=1 - NAMES_WIDTH)
    attrs = df.attrs
    source = 'its features' if by == 'features' else 'what this user has'
    set_title(
        ax,
        f'Why {attrs["score"]:.2f} for {attrs["title"]}?\n'
        f'user {attrs["user"]}: {attrs["base"]:.2f} without {source}, {attrs["score"] - attrs["base"]:+.2f} from it',
    )
    return ax


def _bars(df: pd.DataFrame, k: int, by: str, catalog: Catalog) -> tuple[list[str], np.ndarray]:
    """Names and values of the bars: those of the largest contributions, in the order of the table, and of the rest."""
    parts = df['contribution'].to_numpy()
    largest = np.sort(np.argsort(-np.abs(parts), kind='stable')[:k])
    names = [_name(row, by, catalog) for _, row in df.iloc[largest].iterrows()]
    n_left = len(df) - len(largest)
    if not n_left:
        return names, parts
    rest = parts.sum() - parts[largest].sum()
    return [*names, f'{n_left} others together'], np.append(parts[largest], rest)


def _name(row: pd.Series, by: str, catalog: Catalog) -> str:
    """What stands beside a bar: the rating first, since long titles are cut at their end."""
    if by == 'features':
        return f'{row["feature"]}: {row["value"]}' if row['value'] else str(row['feature'])
    title = row['title'] if 'title' in row else row[catalog.columns['item']]
    rating = catalog.columns['rating']
    return f'rated {row[rating]:g}: {title}' if rating in row else str(title)
