"""What a call may use: time, its place among the calls of one invocation, bytes of answer (A.8, A.9, A.10).

All values come from outside at each call, so a changed limit acts at once; nothing here is a constant but the two
times that keep a handler able to answer after its last call.
"""

from __future__ import annotations

import math
from typing import Final

from fazt.errors import FaztError, Reason

RESERVE_MS: Final = 500.0
"""Time of the invocation that no call may use: the handler needs it to answer."""
MIN_CALL_MS: Final = 1000.0
"""An invocation with less time left than this starts no call."""
RETRY_AFTER: Final = 1.0
"""Seconds after which a call refused for lack of time may be tried again (in another invocation)."""


def check_timeout(value: object) -> float | None:
    """Return a caller's `timeout` option in milliseconds, None when it is absent.

    Raises:
        FaztError: `bad_option` unless it is a finite number above zero.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FaztError(Reason.BAD_OPTION, "timeout must be a number of milliseconds")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (0 < number < math.inf):  # false for NaN too
        raise FaztError(Reason.BAD_OPTION, "timeout must be a number of milliseconds above zero")
    return number


class Invocation:
    """Calls and time shared by all calls of one run of a handler.

    One per run, used from one thread. Calls that run at the same time are each charged their own wall time.

    Args:
        deadline: monotonic seconds at which the run ends (its start plus `runtime.exec_timeout`).
        net_ms: milliseconds that all its calls may take together (`net.budget`).
        max_calls: calls it may make (`net.max_calls`).
    """

    __slots__ = ("calls", "deadline", "max_calls", "net_left_ms")

    def __init__(self, deadline: float, *, net_ms: float, max_calls: int) -> None:
        self.deadline = deadline
        self.net_left_ms = float(net_ms)
        self.max_calls = max_calls
        self.calls = 0

    def count_call(self) -> None:
        """Count a call; to be done before anything else can refuse it.

        Raises:
            FaztError: `calls_exceeded`, which no retry in this run can mend.
        """
        self.calls += 1
        if self.calls > self.max_calls:
            raise FaztError(Reason.CALLS_EXCEEDED, f"more than {self.max_calls} calls in one request", retryable=False)

    def admit(
        self,
        now: float,
        *,
        option_ms: float | None = None,
        rule_ms: float | None = None,
        limit_ms: float | None = None,
    ) -> float:
        """Return how many seconds a call that starts now may take, body included.

        Args:
            now: monotonic seconds.
            option_ms: the caller's own limit, None when not given.
            rule_ms: the rule's, 0 or None to inherit.
            limit_ms: `net.call_timeout`.

        Raises:
            FaztError: `wall_exhausted`, `net_budget_exhausted`, or `bad_option` for an unusable `option_ms`.
        """
        own_ms = _shortest(option_ms, rule_ms, limit_ms)
        # Rounded to the microsecond: a difference of two floats must not turn exactly 1000 ms into 999.9999999.
        left_ms = round((self.deadline - now) * 1000, 3)
        if left_ms < MIN_CALL_MS:
            raise FaztError(
                Reason.WALL_EXHAUSTED, "not enough time is left in this request for a call", retry_after=RETRY_AFTER
            )
        if round(self.net_left_ms, 3) <= 0:  # less than a microsecond is nothing
            raise FaztError(
                Reason.NET_BUDGET_EXHAUSTED,
                "the time that the calls of one request share is used up",
                retry_after=RETRY_AFTER,
            )
        return min(own_ms, left_ms - RESERVE_MS, self.net_left_ms) / 1000

    def charge(self, elapsed: float) -> None:
        """Subtract the wall time of a call in seconds, however it ended; cache hits are not charged."""
        self.net_left_ms -= max(0.0, elapsed) * 1000


def call_timeout(
    now: float,
    invocation: Invocation | None = None,
    *,
    option_ms: float | None = None,
    rule_ms: float | None = None,
    limit_ms: float | None = None,
) -> float:
    """Return how many seconds a call that starts now may take, at any door.

    Without an invocation that is the shortest of the terms given; `math.inf` when none is (a stream without a total).

    Args:
        now: monotonic seconds.
        invocation: calls and time that the call shares with others, None at doors that have no such thing.
        option_ms: the caller's own limit, None when not given.
        rule_ms: the rule's, 0 or None to inherit.
        limit_ms: the door's.

    Raises:
        FaztError: as `Invocation.admit`.
    """
    if invocation is not None:
        return invocation.admit(now, option_ms=option_ms, rule_ms=rule_ms, limit_ms=limit_ms)
    return _shortest(option_ms, rule_ms, limit_ms) / 1000


def no_budget_here() -> FaztError:
    """Return the refusal for a place that has no time for calls, such as a background job (A.1)."""
    return FaztError(Reason.NO_BUDGET_HERE, "network calls are not available in this context")


def response_cap(*, rule: int, limit: int, hard: int | None, earlier: int | None = None) -> int:
    """Return how many body bytes an answer may have.

    Args:
        rule: `max_response` of the rule, 0 to inherit `limit`.
        limit: the door's or the operator's default.
        hard: what no rule can raise (10 MiB for functions, A.8), None where a door has no such cap.
        earlier: the cap of the call's earlier hops: a redirect never widens it (A.6).
    """
    cap = rule if rule > 0 else limit
    if hard is not None and hard < cap:
        cap = hard
    if earlier is not None and earlier < cap:
        cap = earlier
    return cap


def _shortest(option_ms: float | None, rule_ms: float | None, limit_ms: float | None) -> float:
    option = check_timeout(option_ms)
    shortest = option if option is not None else math.inf
    if rule_ms is not None and 0 < rule_ms < shortest:
        shortest = rule_ms
    if limit_ms is not None and 0 < limit_ms < shortest:
        shortest = limit_ms
    return shortest
