"""The meters of a process, one for each host, role or service that has a rate: made when needed, dropped when idle."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from fazt.core.breaker import Key
from fazt.core.rates import Adaptation, Aimd, Bucket, Limit, Windows, plan
from fazt.core.services import ServicePolicy
from fazt.errors import FaztError, Reason

SWEPT_PER_INSERT: Final = 2
KEPT: Final = 512
"""So many are kept though they be idle: whoever is asked now and then is not made anew each time, and has figures."""


@dataclass(slots=True)
class Metered:
    """A meter with what it counted and learnt.

    Args:
        key: what it measures.
        meter: when the next request may be sent.
        patience: seconds that a request may wait for it.
        setting: what it was made of; another one changes the meter.
    """

    key: Key
    meter: Windows | Bucket
    patience: float
    setting: object
    adaptation: Adaptation | None = None
    acquired: int = 0
    waited: float = 0.0
    blocked: int = 0
    answers: int = 0
    limited: int = 0

    def idle(self, now: float) -> bool:
        """Tell whether it is no different from a new one."""
        return self.meter.idle(now) and (self.adaptation is None or self.adaptation.idle(now))

    @property
    def rate(self) -> str:
        """Its setting, as people write it."""
        return "; ".join(map(str, self.setting)) if isinstance(self.setting, tuple) else str(self.setting)

    def describe(self, now: float) -> dict[str, Any]:
        """Return it as `Traffic.stats` shows it."""
        return {
            "kind": self.key.kind,
            "name": self.key.name,
            "role": self.key.role,
            "rate": self.rate,
            "share": round(self.adaptation.adjusted(now), 4) if self.adaptation is not None else 1.0,
            "steps": self.adaptation.steps if self.adaptation is not None else 0,
            "attempts": self.acquired,
            "waitedMs": round(self.waited * 1000, 3),
            "refused": self.blocked,
            "answers": self.answers,
            "limited": self.limited,
        }


class Meters:
    """All meters of a process. Not locked: `Traffic` is.

    Beyond a number that does not matter, those that are no different from new ones are dropped, two looked at for each
    new one, so that the number kept stays near the number in use.
    """

    __slots__ = ("_grown", "_ring")

    def __init__(self) -> None:
        self._ring: OrderedDict[Key, Metered] = OrderedDict()
        self._grown = 0

    def __len__(self) -> int:
        return len(self._ring)

    def windows(self, key: Key, limit: Limit, aimd: Aimd | None, *, now: float) -> Metered:
        """Return the meter of a host or a role, under the limit and the adaptation that hold now."""
        rates = limit.rates or ()
        metered = self._ring.get(key)
        if metered is None:
            metered = self._new(Metered(key, Windows(rates), limit.patience, rates))
        windows = metered.meter
        assert isinstance(windows, Windows)
        metered.patience = limit.patience
        if metered.setting is not rates:
            windows.change(rates)
            metered.setting = rates
        if aimd is None:
            metered.adaptation = None
            windows.stretch = 1.0
        else:
            if metered.adaptation is None:
                metered.adaptation = Adaptation(aimd, now=now)
            metered.adaptation.policy = aimd
            windows.stretch = 1 / metered.adaptation.adjusted(now)
        return metered

    def bucket(self, service: str, policy: ServicePolicy, *, now: float) -> Metered:
        """Return the meter of a service that has a rate; another rate begins with a full bucket."""
        rate = policy.rate
        assert rate is not None
        key = Key("service", service)
        metered = self._ring.get(key)
        if metered is None or metered.setting != rate:
            bucket = Bucket(rate.size, rate.per_second, now=now)
            metered = self._new(Metered(key, bucket, policy.max_wait, rate))
        metered.patience = policy.max_wait
        return metered

    def sweep(self, now: float) -> None:
        """Look at some of the ring; to be called while nobody holds a meter that it has not taken from yet."""
        if not self._grown:
            return
        ring = self._ring
        for _ in range(min(SWEPT_PER_INSERT * self._grown, len(ring) - KEPT)):
            key, metered = next(iter(ring.items()))
            if metered.idle(now):
                del ring[key]
            else:
                ring.move_to_end(key)
        self._grown = 0

    def describe(self, now: float) -> list[dict[str, Any]]:
        """Return all of them."""
        return [metered.describe(now) for metered in self._ring.values()]

    def _new(self, metered: Metered) -> Metered:
        self._ring[metered.key] = metered
        self._grown += 1
        return metered


class Late(NamedTuple):
    """The turn of a request comes too late: after so many seconds, because of this meter."""

    wait: float
    metered: Metered


def too_late(meters: list[Metered], *, now: float, left: float) -> Late | None:
    """Return why a request would be refused, None when it would not. Arguments as of `take`."""
    found = _planned(meters, now, left)
    return found if isinstance(found, Late) else None


def take(meters: list[Metered], *, now: float, left: float) -> float:
    """Plan one request in all meters, or in none; return when it may be sent, monotonic seconds.

    Args:
        meters: what it is measured by.
        now: monotonic seconds.
        left: seconds until the deadline of the call.

    Raises:
        FaztError: `host_rate`: its turn comes later than one of them, or the deadline, lets it wait.
    """
    at = _planned(meters, now, left)
    if isinstance(at, Late):
        metered = at.metered
        metered.blocked += 1
        raise FaztError(
            Reason.HOST_RATE,
            f"the rate limit for this {metered.key.kind} is reached",
            retry_after=at.wait,
            detail=f"{metered.key}: {metered.rate}",
        )
    for metered in meters:
        metered.meter.take(at, now)
        metered.acquired += 1
        metered.waited += at - now
    return at


def _planned(meters: list[Metered], now: float, left: float) -> float | Late:
    at = plan([metered.meter for metered in meters], now)
    wait = at - now
    if wait <= 0:
        return at
    # Each meter is asked for itself: what one lets wait for long does not make another more patient, nor less.
    waits = [(metered.meter.due(now) - now, metered) for metered in meters]
    late = next((metered for own, metered in waits if own > metered.patience), None)
    if late is None and wait <= max(metered.patience for metered in meters) and wait < left:
        return at
    return Late(wait, late or max(waits, key=lambda pair: pair[0])[1])


def give_back(meters: list[Metered], at: float) -> None:
    """Take back a request that was not sent."""
    for metered in meters:
        metered.meter.give_back(at)
        metered.acquired -= 1


def observe(meters: list[Metered], *, status: int, now: float) -> None:
    """Count an answer."""
    for metered in meters:
        metered.answers += 1
        metered.limited += status == 429
        if metered.adaptation is not None:
            metered.adaptation.observe(limited=status == 429, now=now)
