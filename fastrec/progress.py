"""A bar for what takes longer than two seconds, in notebooks and terminals, and the one switch that turns it off."""

from __future__ import annotations

import os
import time
import warnings
from typing import Any

__all__ = ['show_progress']

DELAY = 2.0  # seconds before there is anything to see
_shown = os.environ.get('FASTREC_PROGRESS', '1').lower() not in ('0', 'false', 'no', 'off')


class _Switch:
    """What `show_progress` returns: a context at whose end the old setting is back."""

    def __init__(self, before: bool) -> None:
        self.before = before

    def __enter__(self) -> _Switch:
        return self

    def __exit__(self, *_: object) -> None:
        show_progress(self.before)


def show_progress(
    on: bool = True,  # False: nothing shows a bar
) -> _Switch:
    """Turn the bars of what is not training on or off: for good, or `with show_progress(False): ...`.

    The environment variable FASTREC_PROGRESS=0 starts with them off. Training has fastai's bar, which `learn.no_bar()`
    silences together with these. Returned is what turns them back at the end of a `with`.
    """
    global _shown
    before = _shown
    _shown = bool(on)
    return _Switch(before)


class Progress:
    """A bar (tqdm's) that appears when something has taken more than two seconds, and goes when it is done.

    `with Progress(n, 'recommending', 'users') as progress: ... progress.update(m)`. Until then it costs a look at the
    clock for each `update`, and nothing is imported.
    """

    def __init__(
        self,
        total: int | None,  # how many there are (None: not known)
        what: str,  # a word in front of the bar
        unit: str = 'it',  # what is counted
        on: bool = True,  # False: never show it
        at_once: bool = False,  # for one long step, which gives no chance to look at the clock: show it from the start
    ) -> None:
        self.total = total
        self.what = what
        self.unit = unit
        self.on = on and _shown
        self.done = 0  # of `total`
        self.bar: Any = None  # tqdm's, once there is something to see
        self.start = time.monotonic()
        if at_once and self.on:
            self._show()

    def update(self, n: int = 1) -> None:
        """`n` more are done."""
        self.done += n
        if self.bar is not None:
            self.bar.update(n)
        elif self.on and self.done != self.total and time.monotonic() - self.start > DELAY:
            self._show()

    def _show(self) -> None:
        """Make the bar and set it to what is done."""
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # in notebooks without ipywidgets it is a line of text
            from tqdm.auto import tqdm
        self.bar = tqdm(
            total=self.total,
            desc=self.what,
            unit=f' {self.unit}',
            unit_scale=True,
            initial=self.done,
            leave=False,
            mininterval=0.3,
        )
        self.bar.start_t -= time.monotonic() - self.start  # its rate is over all that was done
        self.bar.initial = 0
        self.bar.refresh()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
