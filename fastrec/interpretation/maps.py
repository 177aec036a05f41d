"""Maps of vectors: places by principal components or t-SNE, dots by what they are, labels where there is room."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..memory import require_memory
from ..palette import BLUE, PALE, SCALE, SERIES
from .text import cell_size, place_labels, plain, set_title, shortened

__all__: list[str] = []

N_COLORS = 8  # values of a column that get a color of their own
FEW_NUMBERS = 6  # so many different numbers are values rather than a scale
BYTES_PER_NEIGHBOR = 64  # of a dot, for t-SNE
LEGEND_WIDTH = 0.3  # share of a panel that the names in a legend may take
DOTS = 18  # area of a dot in points, in a map of `FULL_WIDTH` points and more
FULL_WIDTH = 450


# --- places


def components_of(
    vectors: np.ndarray,  # (n, d)
    n_components: int,
) -> tuple[np.ndarray, list[float]]:
    """-> principal components (n, at most n_components), and the share of the variance that each explains."""
    from sklearn.decomposition import PCA

    pca = PCA(n_components=min(n_components, *vectors.shape), random_state=0).fit(vectors)
    return pca.transform(vectors), pca.explained_variance_ratio_.tolist()


def tsne_of(
    vectors: np.ndarray,  # (n, d)
    perplexity: float,  # neighbors that count, about; fewer where there are few dots
    seed: int,  # of the descent
    budget: int | None,  # bytes that the neighbors may take; None: half of the memory that is available
) -> np.ndarray:
    """Places (n, 2) by t-SNE (van der Maaten and Hinton 2008); `MemoryError` where that is beyond the budget."""
    from sklearn.manifold import TSNE

    n = len(vectors)
    n_near = min(n - 1, 3 * perplexity + 1)
    require_memory(
        BYTES_PER_NEIGHBOR * n * n_near,
        f't-SNE of {n:,} dots at perplexity={perplexity:g}',
        'take fewer dots (k=) or a smaller perplexity',
        budget,
        'plot_tsne(..., {})',
    )
    init = 'pca' if min(vectors.shape) > 1 else 'random'  # one factor has no second component
    tsne = TSNE(perplexity=min(perplexity, (n - 1) / 3), init=init, random_state=seed)
    return tsne.fit_transform(vectors)


# --- dots


def draw_dots(
    ax: Axes,
    xy: np.ndarray,  # (n, 2)
    values: pd.Series | None = None,  # what the color says, (n,); None: nothing
) -> None:
    """Dots, by a scale of numbers or a color for each of the most frequent values, which a legend names."""
    if values is None:
        ax.scatter(xy[:, 0], xy[:, 1], s=dot_area(ax), color=BLUE)
    elif pd.api.types.is_numeric_dtype(values.dtype) and values.nunique() > FEW_NUMBERS:
        _draw_by_number(ax, xy, values)
    else:
        _draw_by_value(ax, xy, values)
    ax.margins(0.06)


def dot_area(ax: Axes) -> float:
    """Area of a dot in points: smaller on small axes."""
    return DOTS * min(1.0, cell_size(ax)[0] / FULL_WIDTH) ** 1.5


def _draw_by_number(ax: Axes, xy: np.ndarray, values: pd.Series) -> None:
    known = values.notna().to_numpy()
    ax.scatter(xy[~known][:, 0], xy[~known][:, 1], s=0.8 * dot_area(ax), color=PALE)
    numbers = values[known].astype(float)
    points = ax.scatter(xy[known][:, 0], xy[known][:, 1], s=dot_area(ax), c=numbers, cmap=SCALE)
    ax.figure.colorbar(points, ax=ax, label=plain(values.name), shrink=0.7)


def _draw_by_value(ax: Axes, xy: np.ndarray, values: pd.Series) -> None:
    """Lists such as 'Action|Comedy' count by their first entry."""
    known = values.notna().to_numpy()
    first = np.where(known, values.astype(str).str.split('|').str[0], '')
    common = pd.Series(first[known]).value_counts().index[:N_COLORS]
    groups = [(value, first == value) for value in common]
    draw_groups_of_dots(ax, xy, groups, str(values.name), _rest(known, np.isin(first, common)))


def _rest(known: np.ndarray, is_colored: np.ndarray) -> str:
    """What the dots without a color of their own are called."""
    others = known[~is_colored]
    kinds = [('other', others.any()), ('unknown', not others.all())]
    return ', '.join(kind for kind, there in kinds if there)


def draw_groups_of_dots(
    ax: Axes,
    xy: np.ndarray,  # (n, 2)
    groups: list[tuple[str, np.ndarray]],  # name, bool (n,): which dots belong to it
    title: str | None,  # of the legend; None: there is none
    rest: str = 'other',  # what dots of no group are called
) -> None:
    """A color and an entry in the legend for each group; dots of none are pale and lie under the others."""
    width, _ = cell_size(ax)
    size = 9 if width > 400 else 7
    handles = []
    names = []
    left = ~np.any([at for _, at in groups], axis=0) if groups else np.ones(len(xy), dtype=bool)
    under = ax.scatter(xy[left][:, 0], xy[left][:, 1], s=0.8 * dot_area(ax), color=PALE)
    for i, (name, at) in enumerate(groups):
        handles.append(ax.scatter(xy[at][:, 0], xy[at][:, 1], s=dot_area(ax), color=SERIES[i % len(SERIES)]))
        names.append(plain(shortened(name, LEGEND_WIDTH * width, size)))
    if left.any():
        handles.append(under)
        names.append(rest)
    if title is None:
        return
    ax.legend(
        handles,
        names,
        title=plain(shortened(title, LEGEND_WIDTH * width, size)),
        loc='center left',
        bbox_to_anchor=(1, 0.5),
        frameon=False,
        fontsize=size,
        title_fontsize=size,
        handletextpad=0.1,
    )


# --- a whole map


def finish_map(
    ax: Axes,
    xy: np.ndarray,  # (n, 2): all dots
    labels: list[str],  # of the first of them
    title: str,
    n_pale: int = 0,  # how many dots, the last ones, labels may cover
) -> None:
    """Title and labels; the title says how many of the labels found room."""
    asked = len(labels)
    if not asked:
        set_title(ax, title)
        return
    set_title(ax, f'{title}, {asked:,} of {asked:,} labels shown')  # takes the room that the last one needs
    dots, pale = np.split(xy, [len(xy) - n_pale])
    n_placed = place_labels(ax, xy[:asked, 0], xy[:asked, 1], labels, dots, pale)
    shown = f'{asked:,} labeled' if n_placed == asked else f'{n_placed:,} of {asked:,} labels shown'
    set_title(ax, f'{title}, {shown}', settled=True)


def axis_names(components: tuple[int, int], explained: list[float]) -> dict[str, Any]:
    """What the axes of a map of principal components are called."""
    x, y = (f'component {c} ({explained[c - 1]:.0%} of variance)' for c in components)
    return dict(xlabel=x, ylabel=y)
