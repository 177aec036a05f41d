"""Budgets of time: what is left of one, and fits that end when they would take longer."""

from __future__ import annotations

import re
import time

from fastai.callback.core import Callback, CancelFitException

__all__: list[str] = []

UNITS = dict(s=1, sec=1, min=60, m=60, h=3600)  # seconds of what a budget may be given in
TRIED = 1.0  # seconds of training after which it is told how long all of it takes ...
TRIED_STEPS = 5  # ... and steps


def seconds_of(budget: str | float | None) -> float | None:
    """Seconds of '90s', '5min', '1h' or a number, None of None; `ValueError` for what is not a time."""
    if budget is None:
        return None
    if isinstance(budget, str):
        match = re.fullmatch(r'\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*', budget.lower())
        seconds = float(match[1]) * UNITS[match[2]] if match and match[2] in UNITS else 0.0
    else:
        seconds = float(budget) if isinstance(budget, (int, float)) and not isinstance(budget, bool) else 0.0
    if not 0 < seconds < float('inf'):
        raise ValueError(
            f"budget={budget!r}: a time above 0, such as '90s', '5min', '1h', or a number of seconds; None: no limit"
        )
    return seconds


class Clock:
    """What is left of a budget of seconds; None: there is no end."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.start = time.monotonic()
        self.reserved = 0.0  # seconds of it that are kept for what comes at the end

    def left(self) -> float:
        """Seconds, below 0 where it is used up."""
        if self.seconds is None:
            return float('inf')
        return self.seconds - self.reserved - (time.monotonic() - self.start)


class OutOfTimeError(Exception):
    """Something would take longer than what is left."""

    def __init__(self, needed: float, left: float) -> None:
        what = f'about {needed:,.0f} s, ' if needed else ''
        super().__init__(f'not run: {what}{max(0, left):,.0f} s left')


class InTime(Callback):
    """Ends a fit once it is seen that it would take longer than what is left, which `needed` says then."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.needed: float | None = None  # seconds, of a fit that was ended

    def before_fit(self) -> None:
        """Look at the clock."""
        self.start = time.monotonic()
        self.left = self.clock.left()
        self.steps = 0

    def after_batch(self) -> None:
        """After a second of training: how long does all of it take?"""
        if not self.training:
            return
        self.steps += 1
        taken = time.monotonic() - self.start
        if taken < TRIED or self.steps < TRIED_STEPS:
            return
        needed = taken * self.n_epoch * self.n_iter / self.steps
        if needed > self.left:
            self.needed = needed
            raise CancelFitException()
