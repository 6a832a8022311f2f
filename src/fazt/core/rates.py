"""How often a host or a service is asked (C.9, C.11): rates written as text, exact windows, buckets, adaptation.

A rate `10/second` means at most ten in any second, not ten at each stroke of the clock: the moments of past and
planned requests are kept, and a request is planned for the first moment at which no window holds too many. A bucket
forgets those moments and lets a pause be followed by a burst.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from fazt.core.tables import Table, check_number, check_whole
from fazt.errors import ConfigError

MAX_COUNT: Final = 100_000
"""Largest number of a rate: that many moments may be kept for each host."""
# Waiting exactly the time that was named must be enough, in spite of rounding.
SLACK: Final = 1e-6

_UNITS: Final = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
_RATE: Final = re.compile(r"([0-9]{1,12})\s*/\s*([0-9]{1,9})?\s*([A-Za-z]+)")
UNLIMITED: Final = ("none", "unlimited")
"""What takes a limit back that is set further up."""


class Rate(NamedTuple):
    """At most `most` requests in any span of `seconds`."""

    most: int
    seconds: float

    def __str__(self) -> str:
        unit, name = next(
            (unit, name)
            for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
            if not self.seconds % unit
        )
        spans = round(self.seconds / unit)
        return f"{self.most}/{spans if spans > 1 else ''}{name}"


Rates = tuple[Rate, ...]
"""Windows that hold together; () is no limit."""


def parse_rates(text: object, name: str = "rate") -> Rates:
    """Read rates such as `10/second; 5000/hour`, or `1/3second`: one in three seconds.

    Args:
        text: one or more of `N/UNIT` or `N/kUNIT`, separated by semicolons or commas; the unit is second, minute, hour
            or day, or a short form of it. `none` is no limit.
        name: what the setting is called, for errors.

    Raises:
        ConfigError: it cannot be read, or the unit is unknown.
    """
    if not isinstance(text, str):
        raise ConfigError(f"{name} must be text such as '10/second', not {text!r}")
    if text.strip().lower() in UNLIMITED:
        return ()
    return tuple(_rate(part.strip(), name) for part in re.split("[;,]", text))


def _rate(part: str, name: str) -> Rate:
    found = _RATE.fullmatch(part)
    if found is None:
        raise ConfigError(f"{name}: {part!r} is no rate", hint="write N/UNIT, as in 10/second or 1/3second")
    unit = _UNITS.get(found[3].lower())
    if unit is None:
        raise ConfigError(f"{name}: {found[3]!r} is no unit", hint="second, minute, hour or day")
    count, spans = int(found[1]), int(found[2] or 1)
    if count < 1 or spans < 1:
        raise ConfigError(f"{name}: {part!r} would let nothing through", hint="to refuse a host, deny it by a rule")
    if count > MAX_COUNT:
        raise ConfigError(f"{name}: {count} is more than {MAX_COUNT}", hint="write it over a shorter time")
    return Rate(count, spans * unit)


class Meter(Protocol):
    """What knows when the next request may be sent."""

    def due(self, at: float) -> float:
        """Return the first moment from `at` on, monotonic seconds, that has room for a request."""
        ...

    def take(self, at: float, now: float) -> None:
        """Plan a request for that moment."""
        ...

    def give_back(self, at: float) -> None:
        """Take back a request that was planned for that moment and not sent."""
        ...

    def idle(self, now: float) -> bool:
        """Tell whether it is no different from a new one."""
        ...


class Windows:
    """Exact windows: at no time are there more requests in any span than its rate says.

    Requests may be planned ahead in any order, since some wait for another meter too.

    Args:
        rates: the windows; `change` puts others in their place.
    """

    __slots__ = ("_longest", "_most", "_planned", "rates", "stretch")

    def __init__(self, rates: Rates) -> None:
        self._planned: list[float] = []
        self.stretch = 1.0
        """By what every span is longer than its rate says (adaptation)."""
        self.change(rates)

    def change(self, rates: Rates) -> None:
        """Take other windows; what was planned stays planned."""
        self.rates = rates
        self._longest = max((rate.seconds for rate in rates), default=0.0)
        self._most = max((rate.most for rate in rates), default=0)

    def due(self, at: float) -> float:
        """Return the first moment from `at` on that has room in every window."""
        planned, stretch = self._planned, self.stretch
        begun = -1.0
        while begun != at:  # moving on for one window may run into another one, or into what is planned ahead
            begun = at
            for most, seconds in self.rates:
                span = seconds * stretch
                # Every span that a request at this moment falls into lies within (at - span, at + span): with fewer
                # than `most` others there, no such span holds too many.
                while True:
                    last = bisect_left(planned, at + span - SLACK)
                    if last - bisect_right(planned, at - span + SLACK) < most:
                        break
                    at = planned[last - most] + span
        return at

    def take(self, at: float, now: float) -> None:
        """Plan a request, and forget what is too old to matter."""
        planned = self._planned
        if not planned or at >= planned[-1]:
            planned.append(at)
        else:
            insort(planned, at)
        if len(planned) > 2 * self._most + 16 or planned[0] < now - 2 * self._longest * self.stretch:
            del planned[: bisect_left(planned, now - self._longest * self.stretch)]

    def give_back(self, at: float) -> None:
        """Take a plan back; what was planned after it stays where it is."""
        index = bisect_left(self._planned, at)
        if index < len(self._planned) and self._planned[index] == at:
            del self._planned[index]

    def idle(self, now: float) -> bool:
        """Tell whether nothing planned can matter any more."""
        return not self._planned or self._planned[-1] <= now - self._longest * self.stretch


class Bucket:
    """A token bucket that may be drawn on in advance: whoever comes later waits longer.

    Args:
        size: tokens it holds at most; it begins full.
        per_second: tokens that are added in a second.
        now: monotonic seconds.
    """

    __slots__ = ("_at", "_tokens", "per_second", "size")

    def __init__(self, size: float, per_second: float, *, now: float) -> None:
        self.size = size
        self.per_second = per_second
        self._tokens = size
        self._at = now

    def due(self, at: float) -> float:
        """Return the first moment from `at` on at which there is a token."""
        if self._tokens >= 1 - SLACK:
            return at
        return max(at, self._at + (1 - self._tokens) / self.per_second)

    def take(self, at: float, now: float) -> None:
        """Take a token, of the future where there is none."""
        self._refill(now)
        self._tokens -= 1

    def give_back(self, at: float) -> None:
        """Put a token back."""
        self._tokens = min(self.size, self._tokens + 1)

    def idle(self, now: float) -> bool:
        """Tell whether it is full."""
        return self._tokens + (now - self._at) * self.per_second >= self.size - SLACK

    def _refill(self, now: float) -> None:
        if now > self._at:
            self._tokens = min(self.size, self._tokens + (now - self._at) * self.per_second)
            self._at = now


def plan(meters: Sequence[Meter], now: float) -> float:
    """Return the first moment from `now` on that suits all meters; nothing is taken yet."""
    at = now
    while True:
        later = at
        for meter in meters:
            later = meter.due(later)
        if later <= at:
            return at
        at = later


@dataclass(frozen=True, slots=True)
class Aimd:
    """How rates adapt to a host that answers 429: additive-looking steps up, steep steps down.

    Args:
        every: seconds between two steps.
        threshold: share of answers with status 429 from which the rate goes down.
        down: factor of such a step.
        up: factor of any other step.
        floor: share of the configured rate that always remains.

    Raises:
        ConfigError: a factor is out of its range.
    """

    every: float = 60.0
    threshold: float = 0.05
    down: float = 0.8
    up: float = 1.05
    floor: float = 0.3

    def __post_init__(self) -> None:
        check_number(self.every, "aimd.every", above=0)
        for name in ("threshold", "down", "floor"):
            if check_number(getattr(self, name), f"aimd.{name}", above=0) > 1:
                raise ConfigError(f"aimd.{name} must be 1 or less")
        check_number(self.up, "aimd.up", least=1)

    @classmethod
    def of(cls, table: Table) -> Aimd:
        """Make it of a table.

        Raises:
            ConfigError: with the name of the key.
        """
        names = ("every", "threshold", "down", "up", "floor")
        made = cls(**{name: table.number(name, getattr(_PLAIN_AIMD, name)) for name in names})
        table.done()
        return made


_PLAIN_AIMD: Final = Aimd()


class Adaptation:
    """What one meter has learnt: its share of the configured rate. Steps are made up for when it is asked.

    Args:
        policy: how it adapts.
        now: monotonic seconds.
    """

    __slots__ = ("_answers", "_begun", "_limited", "policy", "scale", "steps")

    def __init__(self, policy: Aimd, *, now: float) -> None:
        self.policy = policy
        self.scale = 1.0
        self.steps = 0
        """How often the share changed."""
        self._begun = now
        self._answers = 0
        self._limited = 0

    def observe(self, *, limited: bool, now: float) -> None:
        """Count an answer."""
        self.adjusted(now)
        self._answers += 1
        self._limited += limited

    def idle(self, now: float) -> bool:
        """Tell whether it is no different from a new one."""
        return self.adjusted(now) == 1.0 and not self._answers

    def adjusted(self, now: float) -> float:
        """Return the share that holds now, with the steps whose time has come."""
        policy = self.policy
        passed = int((now - self._begun) / policy.every)
        if passed < 1:
            return self.scale
        before = self.scale
        if self._answers and self._limited >= policy.threshold * self._answers:
            self.scale = max(policy.floor, self.scale * policy.down)
        else:
            self.scale = min(1.0, self.scale * policy.up)
        # In the intervals since then nothing was asked, so nothing was refused either.
        self.scale = min(1.0, self.scale * policy.up ** min(passed - 1, 1000))
        self.steps += self.scale != before
        self._begun += passed * policy.every
        self._answers = self._limited = 0
        return self.scale


DEFAULT_WAIT: Final = 30.0
"""Seconds that a request waits for its turn at most, where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What holds for one host, or for one role of it; None where it says nothing.

    Args:
        rates: how often; () for no limit.
        wait: seconds that a request may wait for its turn.
        concurrency: requests in flight, bodies included; 0 for no limit.
    """

    rates: Rates | None = None
    wait: float | None = None
    concurrency: int | None = None

    def over(self, other: Limit) -> Limit:
        """Return this with the other's values where it has none."""
        return Limit(
            other.rates if self.rates is None else self.rates,
            other.wait if self.wait is None else self.wait,
            other.concurrency if self.concurrency is None else self.concurrency,
        )

    @property
    def patience(self) -> float:
        """Seconds that a request may wait."""
        return DEFAULT_WAIT if self.wait is None else self.wait

    @classmethod
    def read(cls, table: Table) -> Limit:
        """Read `rate`, `wait` and `concurrency` of a table that may hold more.

        Raises:
            ConfigError: with the name of the key.
        """
        return cls(
            parse_rates(table.raw("rate"), table.name("rate")) if "rate" in table else None,
            check_number(table.raw("wait"), table.name("wait")) if "wait" in table else None,
            check_whole(table.raw("concurrency"), table.name("concurrency")) if "concurrency" in table else None,
        )


NOTHING: Final = Limit()
POLITE: Final[dict[str, Limit]] = {
    "metadata": Limit(parse_rates("10/second; 5000/hour"), 0.2),
    "landing": Limit(parse_rates("5/second; 2000/hour"), 0.25),
    "artifact": Limit(parse_rates("2/second; 500/hour"), 2.0),
}
"""Roles of a crawler of scholarly sites (C.9), for `polite = true`."""
