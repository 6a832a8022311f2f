"""Keeping downloads below a rate: a bucket of bytes that several of them may share."""

from __future__ import annotations

import threading


class Pacer:
    """Says how long to pause after bytes that came, so that on average no more than the rate comes.

    Args:
        rate: bytes per second, shared by all who use this object.

    Raises:
        ValueError: the rate is not above zero.
    """

    __slots__ = ("_free_at", "_lock", "rate")

    def __init__(self, rate: float) -> None:
        if not rate > 0:
            raise ValueError("a rate must be above zero")
        self.rate = rate
        self._free_at = 0.0
        self._lock = threading.Lock()

    def pause(self, size: int, now: float) -> float:
        """Return the seconds to wait after `size` bytes came at `now` (monotonic seconds)."""
        with self._lock:
            self._free_at = max(self._free_at, now) + size / self.rate
            return self._free_at - now
