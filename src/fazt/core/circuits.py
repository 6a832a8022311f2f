"""The circuits of a process: which of them a request has to pass, in what order they are asked, who hears of it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final, NamedTuple

from fazt.core.breaker import NONE, ORDER, TRIAL_WAIT, Cause, Circuit, Deadlines, Key, Refusal, SharedCircuits
from fazt.core.traffic_config import Rules
from fazt.errors import FaztError, Reason

SWEPT_PER_INSERT: Final = 2
KEPT: Final = 512
"""So many are kept though they be idle: whoever is asked now and then is not made anew each time, and has figures."""

_SAYS: Final = {
    Cause.MANUAL: "calls to this {} are stopped for now",
    Cause.COOL_DOWN: "this {} asked for a pause",
    Cause.ROLLING: "this {} failed too often in a short time",
    Cause.FAILURES: "this {} failed too often in a row",
    Cause.TRIALS: "this {} failed too often in a row and is just being tried again",
}


class Unit(NamedTuple):
    """A circuit that a request has to pass.

    Args:
        key: whose it is.
        circuit: the circuit.
        counts: whether the outcome counts for it, and its failures keep the request out.
        notes: whether what the server asked for, and the rolling window, concern it.
    """

    key: Key
    circuit: Circuit
    counts: bool
    notes: bool


class Circuits:
    """All circuits of a process. Not locked: `Traffic` is.

    Args:
        shared: where other processes tell of theirs.
    """

    __slots__ = ("_grown", "_ring", "_shared")

    def __init__(self, shared: SharedCircuits | None = None) -> None:
        self._ring: OrderedDict[Key, Circuit] = OrderedDict()
        self._shared = shared
        self._grown = 0

    def __len__(self) -> int:
        return len(self._ring)

    def configure(self, rules: Rules) -> None:
        """Let other rules act on the circuits that are there."""
        for key, circuit in self._ring.items():
            circuit.use(*rules.policy(key))

    def quiet(self, now: float) -> bool:
        """Tell whether there is no circuit, and no time to ask whether others have one."""
        return not self._ring and (self._shared is None or not self._shared.due(now))

    def start_anew(self) -> None:
        """Forget who is under way, as in a forked child."""
        for circuit in self._ring.values():
            circuit.start_anew()

    def hear(self, rules: Rules, now: float) -> None:
        """Take what other processes, or an operator, have set."""
        if self._shared is None:
            return
        for key, deadlines in self._shared.changed(now):
            circuit = self._ring.get(key)
            if circuit is None and deadlines != NONE:
                circuit = self.get(key, rules)
            if circuit is not None:
                circuit.adopt(deadlines)

    def tell(self, key: Key, before: Deadlines | None, after: Deadlines, now: float) -> None:
        """Let the others know what changed, or all of it when there is no `before`."""
        if self._shared is not None:
            self._shared.publish(key, before, after, now)

    def get(self, key: Key, rules: Rules) -> Circuit:
        """Return a circuit, made when it is missing."""
        circuit = self._ring.get(key)
        if circuit is None:
            circuit = self._ring[key] = Circuit(*rules.policy(key))
            self._grown += 1
        return circuit

    def units(self, rules: Rules, *, host: str, service: str, role: str) -> list[Unit]:
        """Return the circuits that a request has to pass: of the host, of its role, of the service.

        A role with a threshold of its own has a circuit of its own; what the server asks for and the rolling window
        concern the whole host all the same.
        """
        ring = self._ring
        if not (ring or rules.breaking):
            return []
        units: list[Unit] = []
        limits = rules.limits(host, role)
        by_role = limits.threshold is not None
        key = Key("host", host)
        if limits.breaker is not None or key in ring:
            units.append(Unit(key, self.get(key, rules), not by_role, True))
        if role:
            key = Key("host", host, role)
            if by_role or key in ring:
                units.append(Unit(key, self.get(key, rules), True, False))
        if service:
            key = Key("service", service)
            if key in ring or rules.policy(key)[0] is not None:
                units.append(Unit(key, self.get(key, rules), True, True))
        return units

    def sweep(self, now: float) -> None:
        """Look at some of the ring and forget what is idle; to be called while nobody is about to be admitted."""
        if not self._grown:
            return
        ring = self._ring
        for _ in range(min(SWEPT_PER_INSERT * self._grown, len(ring) - KEPT)):
            key, circuit = next(iter(ring.items()))
            if circuit.idle(now):
                del ring[key]
            else:
                ring.move_to_end(key)
        self._grown = 0

    def describe(self, now: float) -> list[dict[str, Any]]:
        """Return all of them as `Traffic.stats` shows them."""
        return [_describe(key, circuit, now) for key, circuit in self._ring.items()]


def refused(units: list[Unit], now: float) -> tuple[Key, Refusal] | None:
    """Return what keeps a request out first.

    The order is that of C.10: what the server or the operator set, the rolling window, the failures of the host, those
    of the service, and at last the number of trials.
    """
    for unit in units:
        if not unit.circuit.calm:
            break
    else:
        return None
    for cause in ORDER:
        for unit in units:
            if unit.counts or cause is not Cause.FAILURES:
                seconds = unit.circuit.blocked(now, cause)
                if seconds:
                    return unit.key, Refusal(cause, seconds)
    for unit in units:
        if unit.counts and unit.circuit.crowded():
            return unit.key, Refusal(Cause.TRIALS, TRIAL_WAIT)
    return None


def check(units: list[Unit], now: float) -> None:
    """Let a request pass or refuse it; it is not admitted yet.

    Raises:
        FaztError: `breaker_open`, with the seconds to wait in `retry_after`.
    """
    found = refused(units, now)
    if found is None:
        return
    key, refusal = found
    detail = f"breaker of {key}: {refusal.cause}"
    why = next((unit.circuit.deadlines.reason for unit in units if unit.key == key), "")
    if refusal.cause is Cause.MANUAL and why:
        detail += f" ({why})"
    raise FaztError(
        Reason.BREAKER_OPEN, _SAYS[refusal.cause].format(key.kind), retry_after=refusal.seconds, detail=detail
    )


def _describe(key: Key, circuit: Circuit, now: float) -> dict[str, Any]:
    refusal = circuit.refusal(now)
    return {
        "kind": key.kind,
        "name": key.name,
        "role": key.role,
        "state": circuit.state(now).value,
        "cause": refusal.cause.value if refusal is not None else None,
        "remainingMs": round(circuit.remaining(now) * 1000),
        "failures": circuit.failures,
        "reason": circuit.deadlines.reason,
    }
