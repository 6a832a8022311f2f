"""Circuit breakers (C.10): whether a host or a service is asked at all, decided from what its answers were.

One `Circuit` is a state machine for one host, one role of a host, or one service. It is closed while things go well;
too many failures open it; when it has been open long enough it is half open and lets a few trial requests through,
whose outcome closes or opens it. Beside that it may be cooling down, because the server named a time (Retry-After) or
because too many failures fell into a short window, and it may be opened by hand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple, Protocol

from fazt.core.breaker_policy import BreakerPolicy, Outcome, Threshold
from fazt.errors import Reason

# Waiting exactly the time that was named must be enough, in spite of rounding.
SLACK: Final = 1e-6


class State(StrEnum):
    """Whether requests pass."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Cause(StrEnum):
    """What keeps requests out, in the order in which it is looked at."""

    MANUAL = "manual"
    COOL_DOWN = "cool_down"
    ROLLING = "rolling"
    FAILURES = "failures"
    TRIALS = "trials"


class Refusal(NamedTuple):
    """Why a request does not pass, and for how many seconds at least."""

    cause: Cause
    seconds: float


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The moments until which a circuit keeps requests out: what processes share. 0 is none.

    Monotonic seconds inside a process, seconds since the epoch in a store (`shifted`).
    """

    open: float = 0.0
    rolling: float = 0.0
    cool: float = 0.0
    manual: float = 0.0
    reason: str = ""
    """Why it was opened by hand."""

    def shifted(self, difference: float) -> Deadlines:
        """Return them on another clock, `difference` seconds ahead of this one."""

        def move(moment: float) -> float:
            return moment and moment + difference

        return Deadlines(move(self.open), move(self.rolling), move(self.cool), move(self.manual), self.reason)

    @property
    def latest(self) -> float:
        """The last of the moments."""
        return max(self.open, self.rolling, self.cool, self.manual)


def on_wall_clock(deadlines: Deadlines, *, now: float, wall_now: float) -> Deadlines:
    """Return monotonic deadlines as seconds since the epoch; both clocks read at the same time."""
    return deadlines.shifted(wall_now - now)


def on_own_clock(deadlines: Deadlines, *, now: float, wall_now: float) -> Deadlines:
    """Return deadlines in seconds since the epoch as monotonic ones; both clocks read at the same time."""
    return deadlines.shifted(now - wall_now)


class Key(NamedTuple):
    """Which circuit: that of a host or of a service, and of one role of it where the role is not ""."""

    kind: Literal["host", "service"]
    name: str
    role: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f", role {self.role}" if self.role else "")


class SharedCircuits(Protocol):
    """Where processes tell each other about their circuits. No method waits for a disk or another process."""

    def due(self, now: float) -> bool:
        """Tell whether it is time to ask for what changed; may be called without the lock that the others need."""
        ...

    def changed(self, now: float) -> Iterable[tuple[Key, Deadlines]]:
        """Return what others changed since the last time, deadlines in monotonic seconds."""
        ...

    def publish(self, key: Key, before: Deadlines | None, after: Deadlines, now: float) -> None:
        """Tell the others what changed between two deadlines, or all that holds when `before` is None."""
        ...


class Circuit:
    """The breaker of one host, of one role of a host, or of one service.

    Every admitted request ends in exactly one `count` or `cancel` with the permit that `admit` gave. `note` is what
    its outcome says beside that: the time that the server named, and the rolling window.

    Args:
        policy: how it behaves; None obeys only what comes from outside (opened by hand, another process).
        threshold: of this role; the policy's by default.
    """

    __slots__ = (
        "_failed_at", "_failures", "_recent", "_round", "_successes", "_trials", "_under_way", "calm", "deadlines",
        "policy", "threshold",
    )  # fmt: skip

    def __init__(self, policy: BreakerPolicy | None, threshold: Threshold | None = None) -> None:
        self.use(policy, threshold)
        self.deadlines = NONE
        self.calm = True
        """Whether there is nothing to be checked: closed, and no deadline set."""
        self._under_way = 0
        self._failures = 0
        self._failed_at = 0.0
        self._successes = 0
        self._trials = 0
        self._round = 0
        self._recent: deque[float] = deque()

    def use(self, policy: BreakerPolicy | None, threshold: Threshold | None = None) -> None:
        """Take another policy; what was counted stays."""
        self.policy = policy
        self.threshold = threshold or (policy.threshold if policy is not None else _PLAIN)

    def __repr__(self) -> str:
        return f"<Circuit failures={self._failures} trials={self._trials} {self.deadlines}>"

    @property
    def half_open(self) -> bool:
        """Whether it was opened and not closed since: once the time is over, only trials pass."""
        return self.deadlines.open != 0

    @property
    def failures(self) -> int:
        """Failures in a row."""
        return self._failures

    def blocked(self, now: float, cause: Cause) -> float:
        """Return for how many seconds a cause with a deadline keeps requests out; 0 when it does not."""
        until: float = getattr(self.deadlines, _FIELD[cause])
        return until - now if until - now > SLACK else 0.0

    def crowded(self) -> bool:
        """Tell whether it is half open and all its trials are under way."""
        return self.half_open and self._trials >= self.threshold.trial_calls

    def refusal(self, now: float) -> Refusal | None:
        """Return why a request would not pass now, None when it would."""
        for cause in ORDER:
            seconds = self.blocked(now, cause)
            if seconds:
                return Refusal(cause, seconds)
        return Refusal(Cause.TRIALS, TRIAL_WAIT) if self.crowded() else None

    def admit(self) -> int:
        """Let a request in that `refusal` does not keep out; return its permit, which is negative for a trial."""
        self._under_way += 1
        if not self.half_open:
            return self._round
        self._trials += 1
        return ~self._round

    def stale(self, permit: int) -> bool:
        """Tell whether the circuit opened or closed since this permit was given."""
        return (~permit if permit < 0 else permit) != self._round

    def cancel(self, permit: int) -> None:
        """End an admitted request that says nothing: not sent, or cancelled. A trial goes back."""
        if self._under_way:  # else it was given before the fork
            self._under_way -= 1
        if permit < 0 and not self.stale(permit):
            self._trials -= 1

    def note(self, *, now: float, status: int | None, reason: Reason | None, retry_after: float | None) -> bool:
        """Take what an outcome says to all roles: the server's own time, failures in a short while.

        Args:
            now: monotonic seconds.
            status: of the answer, None when there was none.
            reason: why there was none.
            retry_after: seconds that the answer asks for.

        Returns: whether a deadline changed.
        """
        policy = self.policy
        if policy is None:
            return False
        changed = False
        if retry_after and policy.cools(status):
            changed = self._set(cool=max(self.deadlines.cool, now + min(retry_after, policy.retry_after_cap)))
        rolling = policy.rolling
        if rolling is None or policy.judge(status, reason) is not Outcome.FAILURE:
            return changed
        recent = self._recent
        recent.append(now)
        while recent[0] <= now - rolling.window:
            recent.popleft()
        if len(recent) < rolling.threshold:
            return changed
        recent.clear()
        return self._set(rolling=max(self.deadlines.rolling, now + rolling.cooldown)) or changed

    def count(self, permit: int, *, now: float, status: int | None, reason: Reason | None) -> bool:
        """End an admitted request with its outcome; return whether a deadline changed. Arguments as of `note`."""
        stale = self.stale(permit)
        self.cancel(permit)
        # Whoever was let in before the circuit turned says nothing about what came after.
        if stale or self.policy is None:
            return False
        outcome = self.policy.judge(status, reason)
        if outcome is Outcome.NEUTRAL:
            return False
        if outcome is Outcome.FAILURE:
            if now - self._failed_at > self._memory:
                self._failures = 0
            self._failures += 1
            self._failed_at = now
            if permit >= 0 and self._failures < self.threshold.fail_max:
                return False
            self._turn()
            return self._set(open=now + self.threshold.reset)
        if permit >= 0:
            self._failures = 0
            return False
        self._successes += 1
        if self._successes < self.threshold.success_threshold:
            return False
        self._turn()
        return self._set(open=0.0)

    def open(self, until: float, reason: str = "") -> None:
        """Open it by hand until a monotonic moment."""
        self._set(manual=until, reason=reason)

    def close(self) -> None:
        """Close it by hand: forget failures, cool-downs and openings."""
        self._turn()
        self._recent.clear()
        self._set(open=0.0, rolling=0.0, cool=0.0, manual=0.0, reason="")

    def start_anew(self) -> None:
        """Forget who is under way, as in a forked child; what was found out stays."""
        self._under_way = self._trials = 0
        self._round += 1

    def adopt(self, deadlines: Deadlines) -> None:
        """Take what another process, or the operator, has set."""
        mine = self.deadlines.open
        if bool(mine) != bool(deadlines.open) or deadlines.open > mine + _SAME:
            self._turn()
        if deadlines == NONE:  # closed, perhaps by hand: what was counted here is over too
            self._failures = 0
            self._recent.clear()
        self._set(**{name: getattr(deadlines, name) for name in _FIELD.values()}, reason=deadlines.reason)

    def state(self, now: float) -> State:
        """Return whether requests pass now."""
        if self.remaining(now):
            return State.OPEN
        return State.HALF_OPEN if self.half_open else State.CLOSED

    def remaining(self, now: float) -> float:
        """Return for how many seconds requests are kept out at least; 0 when they pass, or as trials."""
        return max(self.blocked(now, cause) for cause in ORDER)

    def idle(self, now: float) -> bool:
        """Tell whether it may be forgotten: it is closed or was not asked for long, and nobody holds a permit."""
        if self._under_way or self.remaining(now):
            return False
        window = self.policy.rolling.window if self.policy is not None and self.policy.rolling is not None else 0.0
        if self._recent and self._recent[-1] > now - window:
            return False
        if not self._failures and not self.half_open:
            return True
        return now - max(self._failed_at, self.deadlines.open) > self._memory

    @property
    def _memory(self) -> float:
        """Seconds after which failures in a row, or a circuit that nobody tried again, are forgotten."""
        return 10 * self.threshold.reset

    def _turn(self) -> None:
        self._failures = self._successes = self._trials = 0
        self._round += 1

    def _set(self, **changes: Any) -> bool:
        before, self.deadlines = self.deadlines, replace(self.deadlines, **changes)
        self.calm = self.deadlines == NONE
        return self.deadlines != before


NONE: Final = Deadlines()
ORDER: Final = (Cause.MANUAL, Cause.COOL_DOWN, Cause.ROLLING, Cause.FAILURES)
"""Causes with a deadline, in the order in which they are looked at; the quota of trials comes after them."""
TRIAL_WAIT: Final = 1.0
"""Seconds after which a request refused for lack of a trial may ask again: how long those take is not known."""
_FIELD: Final = {
    Cause.MANUAL: "manual",
    Cause.COOL_DOWN: "cool",
    Cause.ROLLING: "rolling",
    Cause.FAILURES: "open",
}
_PLAIN: Final = Threshold()
_SAME: Final = 0.5  # seconds: one deadline, seen through two clocks that were read one after the other
