"""Bars, distributions and grids: each function draws a table on axes that are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.ticker import LogLocator, NullFormatter

from ..palette import BLUE, GREY, LIGHT_BLUE, ORANGE, SCALE, SERIES
from .text import INNER, cell_size, plain, set_label, shortened, width_of

__all__: list[str] = []

# first of each bin of training rows
ROW_BINS = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2**14, 2**20, 2**62])
CROWDED = 27  # points for the name of a bar, below which it is turned
NAMES_WIDTH = 0.42  # share of a panel that the names beside its bars may take


def new_axes(width: float, height: float) -> Axes:
    """Axes of a new figure, in inches."""
    _, ax = plt.subplots(figsize=(width, height), layout='constrained')
    return ax


def draw_bars(ax: Axes, values: np.ndarray, labels: Sequence[str]) -> None:
    """A bar for each value, the first on top, blue above 0 and orange below; long labels are shortened."""
    width, height = cell_size(ax)
    size = float(np.clip(0.55 * height / max(len(values), 1), 5, 10))
    y = np.arange(len(values))[::-1]
    ax.barh(y, values, color=[BLUE if o > 0 else ORANGE for o in values])
    ax.set_yticks(y, [plain(shortened(o, NAMES_WIDTH * width, size)) for o in labels], fontsize=size)
    ax.axvline(0, color=GREY, lw=0.8)
    ax.margins(y=0.02)
    ax.locator_params(axis='x', nbins=5 if width > 300 else 3)


# --- bars by the number of rows


def means_by_rows(df: pd.DataFrame, names: list[str], most: int) -> pd.DataFrame:
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


def draw_stacks(ax: Axes, df: pd.DataFrame, names: list[str]) -> None:
    """Bars of a table of `means_by_rows`, the columns `names` on top of each other."""
    x = np.arange(len(df))
    bottom = np.zeros(len(df))
    for j, name in enumerate(names):
        ax.bar(x, df[name], 0.85, bottom=bottom, color=SERIES[j % len(SERIES)], label=name)
        bottom += df[name].to_numpy()
    room = INNER * cell_size(ax)[0] / len(df)  # points beside each other
    if room < CROWDED:
        ax.set_xticks(x, df['label'].str.replace('\n', ' '), fontsize=6, rotation=90)
    else:
        ax.set_xticks(x, df['label'], fontsize=min(8.0, room / 4.2))
    ax.set(ylim=(0, 1))
    ax.margins(x=0.01)
    set_label(ax, 'x', 'training rows of the item (number of items)')


def draw_groups(
    ax: Axes,
    values: np.ndarray,  # of each group, (n,)
    labels: list[str],  # which values it holds, n
    sizes: np.ndarray,  # int (n,): how many rows or users are in it
    overall: float,  # the value of all together
    unit: str,  # what `sizes` count
) -> None:
    """A bar for each group of `evaluate(by=)`, and a line at the value of all rows or users."""
    x = np.arange(len(values))
    names = [f'{o}\n{n:,} {unit}' for o, n in zip(labels, sizes)]
    widest = max(width_of(line, 1) for name in names for line in name.split('\n'))
    size = float(np.clip(0.7 * cell_size(ax)[0] / len(values) / widest, 4.5, 9))
    bars = ax.bar(x, values, 0.8, color=LIGHT_BLUE)
    ax.bar_label(bars, [f'{o:.3f}' for o in values], label_type='center', fontsize=max(size, 6))
    ax.axhline(overall, color=ORANGE, lw=1.5, label=f'all: {overall:.3f}')
    ax.set_xticks(x, names, fontsize=size)
    ax.set_ylim(0, 1.22 * max(np.nanmax(values), overall) or 1)  # room for the legend above the bars
    ax.legend(frameon=False, loc='upper right', fontsize=8)


# --- the ratings themselves


def draw_activity(ax: Axes, counts: np.ndarray) -> str:
    """How many users have how many training rows; -> its title."""
    counts = counts[counts > 0]
    ax.hist(counts, bins=np.geomspace(counts.min(), counts.max() + 1, 25), color=BLUE)
    ax.axvline(counts.mean(), color=ORANGE, lw=1.5)
    ax.set(xlabel='rows of the user', ylabel='users', xscale='log')
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter('{x:,.0f}')
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(axis='x', labelrotation=45 if cell_size(ax)[0] < 260 else 0)
    return f'Who has how much\nmean {counts.mean():.1f} (line)'


def draw_distribution(ax: Axes, values: np.ndarray, name: str) -> str:
    """How often each rating (or what else `name` is) occurs: a bar for each, where few differ; -> its title."""
    mean = values.mean(dtype=np.float64)
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= 20:
        gap = np.diff(distinct).min() if len(distinct) > 1 else 1
        ax.bar(distinct, counts, width=0.8 * gap, color=BLUE)
    else:
        ax.hist(values, bins=30, color=BLUE)
    ax.axvline(mean, color=ORANGE, lw=1.5)
    ax.set(xlabel=plain(name), ylabel='rows')
    return f'Distribution of {name}\nmean {mean:.2f} (line)'


def draw_long_tail(ax: Axes, counts: np.ndarray) -> str:
    """Rows of each item, descending, and where 80% of all are reached; -> its title."""
    n_items = len(counts)
    share = np.cumsum(counts) / counts.sum()
    head = int(np.searchsorted(share, 0.8)) + 1
    x = np.arange(1, n_items + 1)
    ax.fill_between(x, counts, color=LIGHT_BLUE, lw=0)
    ax.plot(x, counts, color=BLUE, lw=1)
    ax.axvline(head, color=ORANGE, lw=1.5)
    ax.set(xlabel='item, by popularity', ylabel='rows of the item')
    ax.set(yscale='symlog', ylim=(0, None), xlim=(0, n_items))
    ax.locator_params(axis='x', nbins=4)
    return f'The long tail\n{head / n_items:.0%} of the items (line) have 80% of the rows'


def with_gaps(matrix: Any) -> np.ndarray:
    """A sparse matrix as an array, not a number where nothing is stored."""
    entries = matrix.tocoo()
    grid = np.full(matrix.shape, np.nan)
    grid[entries.row, entries.col] = entries.data
    return grid


def draw_matrix(ax: Axes, grid: np.ndarray, filled: float, name: str) -> str:
    """Ratings (or what else `name` is) as colors (users, items); `filled` is the share of all cells with a row.

    -> its title.
    """
    there = grid[np.isfinite(grid)]
    differ = len(there) > 0 and np.ptp(there) > 0  # of one value there is nothing to read off
    colors = SCALE if differ else ListedColormap([BLUE])
    image = ax.imshow(grid, aspect='auto', cmap=colors, interpolation='nearest')
    if differ:
        ax.figure.colorbar(image, ax=ax, label=plain(name))
    n_users, n_items = grid.shape
    set_label(ax, 'x', f'{n_items} most rated items')
    set_label(ax, 'y', f'{n_users} most active users')
    share = np.isfinite(grid).mean()
    return f'Training rows: {share:.0%} of these cells are filled,\n{filled:.1%} of the whole matrix'
