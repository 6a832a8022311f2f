"""One timer for many deadlines: what a call costs must not include a timer of its own."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

GRAIN = 0.005
"""Seconds between two looks at the deadlines at least: one may be noticed that much too late."""


class Expiring(Protocol):
    """Something that waits under a deadline."""

    def expire(self) -> None:
        """Give up waiting; must not raise."""


class Deadlines:
    """The deadlines of all that waits on one event loop.

    The timer stands at the earliest deadline it was told of and is left alone when that wait ends in time, as nearly
    all do. When it fires it looks through what waits then, so a run of quick calls sets a timer once per timeout.
    """

    __slots__ = ("_at", "_loop", "_timer", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[Expiring, float] = {}
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def add(self, waiter: Expiring, deadline: float) -> None:
        """Expire `waiter` at `deadline` (seconds on the loop's clock, or inf) unless it is discarded before."""
        self._waiting[waiter] = deadline
        if deadline < self._at:
            self._arm(deadline)

    def discard(self, waiter: Expiring) -> None:
        """Forget `waiter`."""
        self._waiting.pop(waiter, None)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._at = math.inf

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = when
        self._timer = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self.close()
        now = self._loop.time()
        for waiter in [waiter for waiter, deadline in self._waiting.items() if deadline <= now]:
            del self._waiting[waiter]
            waiter.expire()
        earliest = min(self._waiting.values(), default=math.inf)
        if earliest < self._at:
            self._arm(max(earliest, now + GRAIN))
