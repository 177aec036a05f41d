"""Text in figures: titles that fit their axes, labels that cover neither dots nor each other.

Widths are measured in points by the outline of the glyphs, which every backend draws alike.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from ..palette import GREY

__all__: list[str] = []

ELLIPSIS = '…'
TITLE_SIZES = (12, 11, 10, 9, 8)  # points: the first with which a title is not wrapped, or to `TITLE_LINES`
TITLE_LINES = 3
INNER = 0.75  # of a panel that its axes have, about, beside the labels
STEPS = np.linspace(0.1, 1, 12)[:, None]  # along a line from a dot to its label
LONGEST = 32  # characters of a label
DISTANCES = (5, 10, 18, 28, 42, 60)  # points between a dot and its label
ANGLES = np.deg2rad(np.arange(0, 360, 22.5))  # first to the right, then around
DIRECTIONS = np.column_stack([np.cos(ANGLES), np.sin(ANGLES)])
OFFSETS = np.concatenate([distance * DIRECTIONS for distance in DISTANCES])  # of the near side of a label
WAYS = np.tile(DIRECTIONS / np.abs(DIRECTIONS).max(1, keepdims=True), (len(DISTANCES), 1))  # from there to its middle
IS_NEARBY: np.ndarray = np.repeat(np.array(DISTANCES) <= 28, len(DIRECTIONS))
NEAR = 6  # points from a dot to its label, up to which no line is needed
DOT_RADIUS = 3.5  # points
GAP = 1  # points between a label and what is near
LINE_HEIGHT = 1.3  # of the size of the letters


def plain(text: Any) -> str:
    """As matplotlib draws it letter by letter: a dollar begins no formula."""
    return str(text).replace('$', r'\$')


def width_of(text: str, size: float) -> float:
    """Width in points of a text that is drawn at `size` points."""
    if not text.strip():
        return 0.0
    return _width_at_ten(text) * size / 10


@lru_cache(4096)
def _width_at_ten(text: str) -> float:
    """Width of a text of 10 points: that of the corners of its glyphs."""
    x = TextPath((0, 0), plain(text), prop=FontProperties(size=10)).vertices[:, 0]
    return float(np.ptp(x)) if len(x) else 0.0


def shortened(text: str, width: float, size: float) -> str:
    """The text, or as much of it as fits into `width` points with an ellipsis at its end."""
    if width_of(text, size) <= width:
        return text
    low, high = 0, len(text)  # characters that fit, and that do not
    while high - low > 1:
        middle = (low + high) // 2
        if width_of(text[:middle].rstrip() + ELLIPSIS, size) <= width:
            low = middle
        else:
            high = middle
    return text[:low].rstrip() + ELLIPSIS


def wrapped(text: str, width: float, size: float) -> list[str]:
    """Lines of at most `width` points; a longer word is shortened. What was on two lines stays so."""
    lines: list[str] = []
    for part in text.split('\n'):
        line = ''
        for word in part.split():
            longer = f'{line} {word}'.strip()
            if line and width_of(longer, size) > width:
                lines.append(shortened(line, width, size))
                line = word
            else:
                line = longer
        lines.append(shortened(line, width, size))
    return lines


def set_title(ax: Axes, text: str, settled: bool = False) -> None:
    """A title as wide as its axes: wrapped, smaller where it would be long, in the end with an ellipsis.

    Call it when everything else is there that takes room beside the axes; `settled`: the layout is already worked out.
    """
    if not settled:
        settle(ax)
    width = axes_width(ax)
    size = next((o for o in TITLE_SIZES if len(wrapped(text, width, o)) <= text.count('\n') + 1), None)
    if size is None:  # it is wrapped
        size = next((o for o in TITLE_SIZES if len(wrapped(text, width, o)) <= TITLE_LINES), TITLE_SIZES[-1])
    lines = wrapped(text, width, size)
    if len(lines) > TITLE_LINES:
        last = shortened(' '.join(lines[TITLE_LINES - 1 :]), width, size)
        lines = [*lines[: TITLE_LINES - 1], last]
    ax.set_title(plain('\n'.join(lines)), fontsize=size)


def set_label(
    ax: Axes,
    axis: str,  # 'x' or 'y'
    text: str,
    inner: float = INNER,  # share of the panel that the axis has
) -> None:
    """The label of an axis, wrapped to about its length."""
    width, height = cell_size(ax)
    lines = wrapped(text, inner * (width if axis == 'x' else height), 10)
    ax.set(**{f'{axis}label': plain('\n'.join(lines))})


def settle(ax: Axes) -> None:
    """Work out the layout, which places and sizes in pixels depend on."""
    figure: Any = ax.figure
    figure.draw_without_rendering()


def axes_width(ax: Axes) -> float:
    """Width of the axes in points, once the layout is worked out."""
    return _in_points(ax, ax.get_window_extent().width)


def cell_size(ax: Axes) -> tuple[float, float]:
    """Width and height in points of what the axes have of the figure, with their labels."""
    figure: Any = ax.figure
    width, height = figure.get_size_inches() * 72
    spec = ax.get_subplotspec()
    if spec is None:
        box = ax.get_position()
        return width * box.width, height * box.height
    rows, columns = spec.get_geometry()[:2]
    return width * len(spec.colspan) / columns, height * len(spec.rowspan) / rows


def _in_points(ax: Axes, pixels: float) -> float:
    figure: Any = ax.figure
    return pixels * 72 / figure.dpi


# --- labels of dots


def place_labels(
    ax: Axes,
    x: np.ndarray,  # (n,)
    y: np.ndarray,  # (n,)
    labels: list[str],  # n
    dots: np.ndarray | None = None,  # (m, 2): what no label may cover; None: the dots with labels
    pale: np.ndarray | None = None,  # (l, 2): what labels may cover where they find no other room nearby
    size: float = 8,  # in points
) -> int:
    """Write each label near its dot where it finds room, and return how many did. Earlier labels go first.

    There is room where a label covers no dot and no other label and stays inside the axes; where it is not right beside
    its dot, a line leads there.
    """
    settle(ax)
    frame = ax.get_window_extent()
    scale = _in_points(ax, 1.0)
    origin = np.array([frame.x0, frame.y0])
    edge = np.array([frame.width, frame.height]) * scale  # of the axes, in points from their lower left corner
    points = _places_in(ax, np.column_stack([x, y]), origin, scale)
    hard = points if dots is None else _places_in(ax, dots, origin, scale)
    soft = np.empty((0, 2)) if pale is None else _places_in(ax, pale, origin, scale)
    taken = _Taken(hard, soft, edge)
    n_placed = 0
    for point, place, label in zip(points, zip(x, y), labels):
        half = np.array([1.03 * width_of(label, size), LINE_HEIGHT * size]) / 2 + GAP
        center = taken.room_for(point, half)
        if center is None:
            continue
        apart = np.linalg.norm(point - np.clip(point, center - half, center + half))
        _annotate(ax, label, place, center - point, size, leads=bool(apart > NEAR))
        n_placed += 1
    return n_placed


def _places_in(ax: Axes, xy: np.ndarray, origin: np.ndarray, scale: float) -> np.ndarray:
    """Places (n, 2) of the data in points from the axes' lower left corner."""
    return (ax.transData.transform(np.asarray(xy, dtype=float)) - origin) * scale


class _Taken:
    """What is already drawn: dots, boxes of labels, lines that lead to them."""

    def __init__(self, dots: np.ndarray, pale: np.ndarray, edge: np.ndarray) -> None:
        self.dots = dots
        self.pale = pale
        self.edge = edge
        self.low = np.empty((0, 2))  # corners of the boxes
        self.high = np.empty((0, 2))
        self.lines = np.empty((0, 2))  # points on the lines

    def room_for(self, point: np.ndarray, half: np.ndarray) -> np.ndarray | None:
        """Where the center of a box of half the size `half` may stand, the nearest such place; it is then taken."""
        centers = point + OFFSETS + WAYS * half  # (places, 2), the nearest first
        low, high = centers - half, centers + half
        nearest = np.clip(point, low, high)  # of each box to the dot: where a line to it ends
        lines = point + STEPS * (nearest - point)[:, None]  # (places, steps, 2)
        is_free = (low > 0).all(1) & (high < self.edge).all(1)
        is_free &= ~_overlap(low - DOT_RADIUS, high + DOT_RADIUS, self.dots, self.dots)
        is_free &= ~_overlap(low, high, self.lines, self.lines)
        is_free &= ~_overlap(low, high, self.low, self.high)
        steps = lines.reshape(-1, 2)
        is_free &= ~_overlap(steps, steps, self.low, self.high).reshape(len(centers), -1).any(1)
        if not is_free.any():
            return None
        is_best = is_free & IS_NEARBY & ~_overlap(low, high, self.pale, self.pale)
        best = int((is_best if is_best.any() else is_free).argmax())
        self.low = np.vstack([self.low, low[best]])
        self.high = np.vstack([self.high, high[best]])
        self.lines = np.vstack([self.lines, lines[best]])
        return centers[best]


def _overlap(low: np.ndarray, high: np.ndarray, other_low: np.ndarray, other_high: np.ndarray) -> np.ndarray:
    """Which boxes, corners (n, 2) each, overlap any of the other ones, (m, 2) each: bool (n,)."""
    return ((low[:, None] < other_high) & (high[:, None] > other_low)).all(2).any(1)


def _annotate(ax: Axes, label: str, place: tuple, offset: np.ndarray, size: float, leads: bool) -> None:
    """A label whose center is `offset` points away from its dot, with a thin line to it if it `leads` there."""
    line = dict(arrowstyle='-', color=GREY, lw=0.5, shrinkA=0, shrinkB=2, relpos=(0.5, 0.5))
    ax.annotate(
        plain(label),
        place,
        tuple(offset),
        textcoords='offset points',
        ha='center',
        va='center',
        fontsize=size,
        zorder=3,
        arrowprops=line if leads else None,
    )
