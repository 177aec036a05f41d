"""The colors of all figures: one meaning, one color."""

from __future__ import annotations

__all__: list[str] = []

BLUE = '#2a6fb0'  # what a figure is about; what is above 0; a gain
ORANGE = '#d9772b'  # what stands against it: below 0, a loss, a line to compare with
GREY = '#8a8f98'  # lines and dots that lead the eye
PALE = '#c9ced6'  # what is only there for comparison
LIGHT_BLUE = '#a9c4e0'  # the same as blue, but not the one that is meant
RED = '#c0392b'  # a mark on top of bars

# one color each for values that have no order, neighbors far apart
SERIES = (
    BLUE,
    ORANGE,
    '#4d9a5b',
    '#8e5ea8',
    '#c9a227',
    '#2fa3a3',
    '#c25b7c',
    '#7a5c43',
    '#5c6f9c',
    '#9aa84a',
)
SCALE = 'viridis'  # matplotlib's name of the scale of numbers
