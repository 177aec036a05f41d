"""Warnings that point at the line of whoever called the library, however deep in it they come from."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

__all__: list[str] = []

# packages whose lines are not the user's: this one, those that call it on the user's behalf, and the standard library
INSIDE = frozenset({'fastrec', 'fastai', 'fastcore', 'pandas', 'numpy', 'scipy', 'torch', *sys.stdlib_module_names})


def warn_user(
    text: str,  # what the user should know, and the way out
) -> None:
    """A `UserWarning` at the innermost line outside the library: that of a script, a notebook or another package.

    How many functions of ours stand between that line and the warning does not matter, so none has to count them. As
    with `warnings.warn`, the same text at the same line is shown once unless a filter says otherwise.
    """
    frame = _line_of_user(sys._getframe(1))
    warnings.warn_explicit(
        text,
        UserWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get('__name__', '<string>'),
        registry=frame.f_globals.setdefault('__warningregistry__', {}),
    )


def _line_of_user(
    innermost: FrameType,
) -> FrameType:
    """The first frame from there outwards that is not `INSIDE`; where there is none, as in a thread, `innermost`."""
    frame: FrameType | None = innermost
    while frame is not None and _package(frame) in INSIDE:
        frame = frame.f_back
    return innermost if frame is None else frame


def _package(frame: FrameType) -> str:
    """The package that a frame runs code of; '__main__' for scripts and notebooks."""
    return frame.f_globals.get('__name__', '').partition('.')[0]
