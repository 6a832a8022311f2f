"""How hosts and services are asked: rates, circuits and places in flight behind one door, for every network attempt.

For each attempt (every hop of a redirect and every retry is one; a cache hit is none):

    place = traffic.place(host, role=role, wake=event.set)    # None where nothing limits the requests in flight
    ...                                                       # wait for `place.granted`; `leave` after the body
    attempt = traffic.enter(host, service=service, role=role, method=method, now=now, left=left)
    if attempt.wait:
        sleep(attempt.wait)
        attempt.recheck(now)
    ...                                                       # connect (`attempt.spend()`), send, read the head
    attempt.settle(status=status, retry_after=seconds, now=now)
    attempt.refund(now)                                       # in a `finally`: does nothing after `settle`

`traffic.idle` says that none of this has any effect. A retry is an attempt like any other; where `enter` refuses one,
the answer or failure that asked for it is what the caller gets: `closed_for` tells before the answer is let go.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from fazt.core import circuits as circuits_of
from fazt.core import meters as meters_of
from fazt.core.breaker import Circuit, Key, SharedCircuits, State
from fazt.core.circuits import Circuits, Unit
from fazt.core.meters import Metered, Meters
from fazt.core.retry import RetryPolicy
from fazt.core.traffic_config import EMPTY, Rules, TrafficConfig
from fazt.core.waitlist import Place, Waitlist
from fazt.errors import FaztError, Reason

__all__ = ["Pass", "Place", "Traffic", "TrafficConfig"]


class Pass:
    """One admitted network attempt: ended by `settle` or by `refund`, whichever comes first."""

    __slots__ = ("_at", "_meters", "_over", "_permits", "_spent", "_traffic", "_units", "state", "wait")

    def __init__(self, traffic: Traffic, units: list[Unit], meters: list[Metered], *, at: float, now: float) -> None:
        self._traffic = traffic
        self._units = units
        self._meters = meters
        self._at = at
        self._over = not (units or meters)
        self._permits: list[int] = []
        self._spent = False
        self.wait = max(0.0, at - now)
        """Seconds to sleep before sending."""
        self.state = ""
        """What the circuits said: "" where there is none, "closed", or "half_open" for a trial."""
        self._admit()

    def __repr__(self) -> str:
        return f"<Pass wait={self.wait:g} {self.state or 'free'}{' over' if self._over else ''}>"

    def recheck(self, now: float) -> None:
        """Ask the circuits again, after a sleep.

        Raises:
            FaztError: `breaker_open`; the attempt is over then, and nothing is spent.
        """
        if not self._over and self._units:
            self._traffic._recheck(self, now)

    def settle(
        self, *, now: float, status: int | None = None, reason: Reason | None = None, retry_after: float | None = None
    ) -> None:
        """Record the outcome.

        Args:
            now: monotonic seconds.
            status: of the answer, None when there was none.
            reason: why there was none.
            retry_after: seconds that the answer asks for.
        """
        if not self._over:
            self._traffic._settle(self, now=now, status=status, reason=reason, retry_after=retry_after)

    def spend(self) -> None:
        """Note that the host is being asked: from here on `refund` keeps the tokens."""
        self._spent = True

    def refund(self, now: float) -> None:
        """End an attempt that says nothing about the host: not made, refused by a policy, or cancelled.

        Trials go back, and tokens too unless they were spent.
        """
        if not self._over:
            self._traffic._refund(self)

    def _admit(self) -> None:
        self.state = State.CLOSED.value if self._units else ""
        for unit in self._units:
            permit = unit.circuit.admit() if unit.counts else 0
            self._permits.append(permit)
            if permit < 0:
                self.state = State.HALF_OPEN.value

    def _cancel(self) -> None:
        for unit, permit in zip(self._units, self._permits, strict=True):
            if unit.counts:
                unit.circuit.cancel(permit)
        self._permits.clear()


@dataclass(slots=True)
class _Totals:
    attempts: int = 0
    waited: int = 0
    waited_ms: float = 0.0
    refused_by_rate: int = 0
    refused_by_breaker: int = 0
    head_skipped: int = 0
    limited: int = 0
    opened: int = 0
    closed: int = 0


class Traffic:
    """Everything that a process knows of the hosts and services it asks. See the module for its use.

    Args:
        config: what is limited; `configure` changes it.
        lock: held around each step; a `threading.Lock` where threads share it, nothing on one event loop.
        shared: where other processes tell of their circuits, and an operator opens them by hand.
    """

    def __init__(
        self,
        config: TrafficConfig = EMPTY,
        *,
        lock: AbstractContextManager[Any] | None = None,
        shared: SharedCircuits | None = None,
    ) -> None:
        self._lock = lock if lock is not None else nullcontext()
        self._alone = shared is None
        self._meters = Meters()
        self._circuits = Circuits(shared)
        self._totals = _Totals()
        self.waitlist = Waitlist(lock)
        self._free = Pass(self, [], [], at=0.0, now=0.0)
        self.configure(config)

    def __repr__(self) -> str:
        return f"<Traffic meters={len(self._meters)} circuits={len(self._circuits)}{' idle' if self.idle else ''}>"

    @property
    def config(self) -> TrafficConfig:
        """What is limited."""
        return self._rules.config

    def configure(self, config: TrafficConfig) -> None:
        """Take another configuration; it acts on the meters and circuits that are there (D45)."""
        with self._lock:
            self._rules = Rules(config)
            self._circuits.configure(self._rules)
            self.idle = config.empty and self._alone and not len(self._circuits)
            """Whether nothing is limited, so that nothing needs to be asked."""
            self._unlimited = not (self._rules.breaking or self._rules.limiting)

    def start_anew(self, lock: AbstractContextManager[Any] | None = None) -> None:
        """Begin in a forked child: those who held a place, a trial or the lock are not there. What was learnt stays.

        Args:
            lock: a new one.
        """
        self._lock = lock if lock is not None else nullcontext()
        self.waitlist = Waitlist(lock)
        self._circuits.start_anew()

    def retry_for(self, service: str, own: RetryPolicy | None) -> RetryPolicy | None:
        """Return when a call is tried again: as it says itself, or its service, or the configuration; None: never."""
        if own is not None:
            return own
        rules = self._rules
        policy = rules.service(service)
        return policy.retry if policy is not None else rules.config.retry

    def read_timeout_for(self, service: str) -> float | None:
        """Return the seconds between two reads that a service allows, None where it says nothing."""
        policy = self._rules.service(service)
        return policy.read_timeout if policy is not None else None

    def place(self, host: str, *, role: str = "", wake: Callable[[], object]) -> Place | None:
        """Ask for a place in flight; None where their number has no limit. `granted` tells whether it is there.

        Args:
            host: in canonical form.
            role: what the call is for, "" for nothing.
            wake: called when `granted` is to be asked again, from any thread; must not block.
        """
        with self._lock:
            limits = self._rules.limits(host, role)
        caps: list[tuple[Key, int]] = []
        patience = math.inf
        for limit, named in ((limits.role, role), (limits.host, "")):
            if limit is not None and limit.concurrency:
                caps.append((Key("host", host, named), limit.concurrency))
                patience = min(patience, limit.patience)
        return Place(self.waitlist, caps, wake=wake, patience=patience) if caps else None

    def enter(
        self,
        host: str,
        *,
        now: float,
        service: str = "",
        role: str = "",
        method: str = "GET",
        left: float = math.inf,
    ) -> Pass:
        """Admit one network attempt, or refuse it; what is refused has spent nothing.

        Args:
            host: in canonical form.
            now: monotonic seconds.
            service: the service the call is part of, "" for none.
            role: what the call is for, "" for nothing.
            method: in upper case.
            left: seconds until the call's deadline: a turn that comes later is refused at once.

        Raises:
            FaztError: `breaker_open` or `host_rate`, with the seconds to wait in `retry_after`.
        """
        totals = self._totals
        if self._unlimited and self._circuits.quiet(now):
            totals.attempts += 1
            return self._free
        with self._lock:
            rules = self._rules
            self._circuits.hear(rules, now)
            self._circuits.sweep(now)
            self._meters.sweep(now)
            units = self._circuits.units(rules, host=host, service=service, role=role)
            try:
                circuits_of.check(units, now)
            except FaztError:
                totals.refused_by_breaker += 1
                raise
            meters = self._measured_by(host, service, role, method, now)
            at = now
            if meters:
                try:
                    at = meters_of.take(meters, now=now, left=left)
                except FaztError:
                    totals.refused_by_rate += 1
                    raise
            totals.attempts += 1
            if at > now:
                totals.waited += 1
                totals.waited_ms += (at - now) * 1000
            return Pass(self, units, meters, at=at, now=now)

    def closed_for(
        self,
        host: str,
        *,
        now: float,
        service: str = "",
        role: str = "",
        method: str = "GET",
        left: float = math.inf,
    ) -> bool:
        """Tell whether `enter` would admit an attempt at that moment, as far as is known by now: nothing is open, and
        its turn comes soon enough. Arguments as of `enter`."""
        with self._lock:
            units = self._circuits.units(self._rules, host=host, service=service, role=role)
            if circuits_of.refused(units, now) is not None:
                return False
            meters = self._measured_by(host, service, role, method, now, count=False)
            return meters_of.too_late(meters, now=now, left=left) is None

    def open_circuit(
        self, *, seconds: float, now: float, host: str = "", service: str = "", role: str = "", reason: str = ""
    ) -> None:
        """Refuse all attempts for a time, here and in every process that shares the circuits.

        Args:
            seconds: how long.
            now: monotonic seconds.
            host, service: one of them, by name; `role` is one of the host, or "" for all of it.
            reason: for whoever asks why.
        """
        self._by_hand(host, service, role, now, lambda circuit: circuit.open(now + seconds, reason))

    def close_circuit(self, *, now: float, host: str = "", service: str = "", role: str = "") -> None:
        """Let attempts through again at once: forget failures, cool-downs and openings. Arguments as above."""
        self._by_hand(host, service, role, now, Circuit.close)

    def stats(self, now: float) -> dict[str, Any]:
        """Return what was counted and what holds now, for people and for JSON.

        Args:
            now: monotonic seconds.
        """
        with self._lock:
            self._circuits.hear(self._rules, now)
            totals = asdict(self._totals)
            limits, breakers = self._meters.describe(now), self._circuits.describe(now)
        places = [
            {"host": key.name, "role": key.role, "held": held, "waiting": waiting, "limit": cap}
            for key, (held, waiting, cap) in self.waitlist.lines().items()
            if isinstance(key, Key)
        ]
        return {"totals": _camel(totals), "limits": limits, "breakers": breakers, "places": places}

    def _measured_by(
        self, host: str, service: str, role: str, method: str, now: float, *, count: bool = True
    ) -> list[Metered]:
        rules, found = self._rules, list[Metered]()
        of_host, of_role, _, _ = rules.limits(host, role)
        named = [(limit, name) for limit, name in ((of_host, ""), (of_role, role)) if limit is not None and limit.rates]
        if named and method == "HEAD" and not rules.config.count_head:
            self._totals.head_skipped += count
            named = []
        for limit, name in named:
            found.append(self._meters.windows(Key("host", host, name), limit, rules.config.aimd, now=now))
        policy = rules.service(service)
        if policy is not None and policy.rate is not None:
            found.append(self._meters.bucket(service, policy, now=now))
        return found

    def _recheck(self, attempt: Pass, now: float) -> None:
        with self._lock:
            if attempt._over:
                return
            self._circuits.hear(self._rules, now)
            attempt._cancel()  # first: a trial of our own must not stand in our way
            try:
                circuits_of.check(attempt._units, now)
            except FaztError:
                attempt._over = True
                meters_of.give_back(attempt._meters, attempt._at)
                self._totals.refused_by_breaker += 1
                raise
            attempt._admit()

    def _settle(
        self, attempt: Pass, *, now: float, status: int | None, reason: Reason | None, retry_after: float | None
    ) -> None:
        with self._lock:
            if attempt._over:
                return
            attempt._over = True
            totals = self._totals
            if status is not None:
                totals.limited += status == 429
                meters_of.observe(attempt._meters, status=status, now=now)
            for unit, permit in zip(attempt._units, attempt._permits, strict=True):
                circuit = unit.circuit
                before = circuit.deadlines
                if unit.notes:
                    circuit.note(now=now, status=status, reason=reason, retry_after=retry_after)
                if unit.counts:
                    circuit.count(permit, now=now, status=status, reason=reason)
                if circuit.deadlines is not before and circuit.deadlines != before:
                    totals.opened += circuit.deadlines.open > before.open
                    totals.closed += before.open > 0 and not circuit.half_open
                    self._circuits.tell(unit.key, before, circuit.deadlines, now)

    def _refund(self, attempt: Pass) -> None:
        with self._lock:
            if attempt._over:
                return
            attempt._over = True
            attempt._cancel()
            if not attempt._spent:
                meters_of.give_back(attempt._meters, attempt._at)

    def _by_hand(self, host: str, service: str, role: str, now: float, act: Callable[[Circuit], None]) -> None:
        key = Key("host", host, role) if host else Key("service", service, role)
        with self._lock:
            self._circuits.hear(self._rules, now)
            circuit = self._circuits.get(key, self._rules)
            act(circuit)
            self._circuits.tell(key, None, circuit.deadlines, now)
            self.idle = False


def _camel(counts: dict[str, Any]) -> dict[str, Any]:
    return {
        head + "".join(map(str.capitalize, rest)): round(value, 3)
        for head, *rest, value in ((*name.split("_"), value) for name, value in counts.items())
    }
