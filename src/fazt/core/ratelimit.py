"""Token buckets, one per rule that sets or inherits a rate (A.14).

A bucket belongs to a scope and a host pattern, or to those of its rules that have one rate (`RuleIndex.bucket`): apps
don't share an app's rule, and all hosts of a wildcard share one bucket. Rate and burst are handed in at each call, so a
changed rule acts on the bucket that exists.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from fazt.errors import FaztError, Reason

Key = tuple[str, str]
"""Scope, and what the bucket is for within it."""

_SWEPT_PER_INSERT: Final = 2
# Waiting exactly the time that was named must be enough, in spite of rounding.
_SLACK: Final = 1e-6


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float
    per_second: float
    burst: int

    def refill(self, now: float) -> None:
        if now > self.at:
            self.tokens = min(self.burst, self.tokens + (now - self.at) * self.per_second)
            self.at = now

    def full(self, now: float) -> bool:
        return self.tokens + (now - self.at) * self.per_second >= self.burst - _SLACK


def effective(rule_rate: int, rule_burst: int, *, default_rate: int, default_burst: int) -> tuple[int, int]:
    """Return the (rate, burst) that hold for a rule: its own where above zero, else the operator's default."""
    return (rule_rate if rule_rate > 0 else default_rate, rule_burst if rule_burst > 0 else default_burst)


class Buckets:
    """All token buckets of a process. A bucket begins full.

    Buckets that have filled up again are no different from new ones: they are dropped, two looked at whenever a new
    one is made, so that the number kept stays near the number in use.

    Args:
        lock: held around each step; a `threading.Lock` where threads share the buckets, nothing on one event loop.
    """

    __slots__ = ("__weakref__", "_buckets", "_lock")

    def __init__(self, lock: AbstractContextManager[Any] | None = None) -> None:
        self._lock = lock if lock is not None else nullcontext()
        self._buckets: OrderedDict[Key, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Key, *, rate_per_min: int, burst: int, now: float) -> None:
        """Take one token.

        Args:
            key: of the bucket, `RuleIndex.bucket` of the rule that allowed the request.
            rate_per_min: tokens per minute; 0 or less: no limit.
            burst: size of the bucket; 0 or less counts as 1.
            now: monotonic seconds.

        Raises:
            FaztError: `host_rate`, with the seconds until the next token in `retry_after`.
        """
        if rate_per_min <= 0:
            return
        size = max(1, burst)
        per_second = rate_per_min / 60
        with self._lock:
            bucket = self._buckets.get(key)
            if bucket is None:
                self._sweep(now, _SWEPT_PER_INSERT)
                bucket = self._buckets[key] = _Bucket(float(size), now, per_second, size)
            else:
                bucket.refill(now)  # the time until now under the settings that held until now
                bucket.per_second = per_second
                bucket.burst = size
                bucket.tokens = min(bucket.tokens, size)
            if bucket.tokens >= 1 - _SLACK:
                bucket.tokens = max(0.0, bucket.tokens - 1)
                return
            wait = (1 - bucket.tokens) / per_second
        raise FaztError(Reason.HOST_RATE, "the rate limit for this host is reached", retry_after=wait)

    def give_back(self, key: Key) -> None:
        """Return a token that nothing was sent for."""
        with self._lock:
            bucket = self._buckets.get(key)
            if bucket is not None:  # else it had filled up and was dropped
                bucket.tokens = min(bucket.burst, bucket.tokens + 1)

    def sweep(self, now: float) -> int:
        """Drop every bucket that has filled up again; return how many."""
        with self._lock:
            return self._sweep(now, len(self._buckets))

    def _sweep(self, now: float, count: int) -> int:
        """Look at the next `count` buckets of the ring; those that stay go to its end."""
        dropped = 0
        for _ in range(min(count, len(self._buckets))):
            key, bucket = next(iter(self._buckets.items()))
            if bucket.full(now):
                del self._buckets[key]
                dropped += 1
            else:
                self._buckets.move_to_end(key)
        return dropped
