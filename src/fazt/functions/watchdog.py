"""One thread that stops a script at its CPU or wall limit.

Epochs, which WebAssembly code can be stopped by, are a counter: what counts as too much is decided here. The thread
sleeps until the earliest moment at which a limit can have been reached, so a short invocation costs it nothing.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from typing import Literal

Cause = Literal["cpu", "wall"]

_SHORTEST = 0.001
"""Seconds between two looks at a thread that is almost out of CPU time."""


class Watchdog:
    """Watch one running thread at a time.

    Args:
        fire: makes the running script stop; called with the limit already noted, from the watchdog's thread.
    """

    def __init__(self, fire: Callable[[], None]) -> None:
        self._fire = fire
        self._pid = 0
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._wake_at = math.inf
        self._armed = False
        self._cause: Cause | None = None
        self._deadline = self._cpu_limit = 0.0
        self._clock = 0
        self._closed = False

    def start(self) -> None:
        """Start the thread unless this process has it; threads do not survive a fork."""
        if self._pid == os.getpid():
            return
        self._reset()
        self._pid = os.getpid()
        threading.Thread(target=self._watch, name="fazt-watchdog", daemon=True).start()

    def arm(self, *, cpu_ms: float, wall_ms: float) -> None:
        """Watch the calling thread from now on."""
        now = time.monotonic()
        clock = time.pthread_getcpuclockid(threading.get_ident())
        with self._changed:
            self._deadline = now + wall_ms / 1000
            self._cpu_limit = time.clock_gettime(clock) + cpu_ms / 1000
            self._clock = clock
            self._cause = None
            self._armed = True
            if self._wake_at > now + min(cpu_ms, wall_ms) / 1000:
                self._changed.notify()

    def disarm(self) -> Cause | None:
        """Stop watching; return the limit that was reached, if one was."""
        with self._changed:
            self._armed = False
            return self._cause

    @property
    def cause(self) -> Cause | None:
        """The limit that the watched thread has reached; for that thread, where epochs are not looked at."""
        if self._cause is None:
            if time.monotonic() >= self._deadline:
                self._cause = "wall"
            elif time.thread_time() >= self._cpu_limit:
                self._cause = "cpu"
        return self._cause

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._pid = 0

    def _watch(self) -> None:
        changed = self._changed  # after a fork and a restart `self` has another one
        with changed:
            while not self._closed:
                wait = self._look() if self._armed else None
                self._wake_at = math.inf if wait is None else time.monotonic() + wait
                changed.wait(wait)

    def _look(self) -> float | None:
        """Fire if a limit is reached; return the seconds until the next look, None for no further one."""
        wall_left = self._deadline - time.monotonic()
        cpu_left = self._cpu_limit - time.clock_gettime(self._clock)
        if cpu_left > 0 and wall_left > 0:
            return max(min(cpu_left, wall_left), _SHORTEST)
        self._cause = "cpu" if cpu_left <= 0 else "wall"
        self._armed = False
        self._fire()
        return None
