"""Who asks the network when many ask the same thing at once: the first; the others wait for it.

Only the bookkeeping is here. The driver waits, and wakes those whom `finish` names.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False, slots=True)
class Flight:
    """One call's part in a flight; compared by identity.

    Args:
        key: what is asked for.
        leader: whether this call asks the network.
        wake: wakes a follower, from any thread, and never raises.
        open_ended: whether the leader's answer is read at its caller's pace, and so may take for ever.
        again: whether the leader's caller gave up: that says nothing about the answer, and whoever waited begins anew.
    """

    key: Hashable = field(repr=False)
    leader: bool
    wake: Callable[[], None] | None = field(default=None, repr=False)
    open_ended: bool = False
    again: bool = False


class Flights:
    """Calls under way, by what they ask for.

    A leader must `finish`, a follower may `leave`; both may be repeated. Whoever is woken looks into the cache once
    more and, when nothing is there, goes alone: a response that could not be shared with one cannot be shared with
    the next, and waiting in a queue for that would serialise all of them. Only where the leader's caller gave up does
    the next one lead.

    Args:
        lock: held around each step; a `threading.Lock` where threads share it, nothing on one event loop.
    """

    __slots__ = ("_flights", "_lock")

    def __init__(self, lock: AbstractContextManager[Any] | None = None) -> None:
        self._lock = lock if lock is not None else nullcontext()
        self._flights: dict[Hashable, tuple[Flight, dict[Flight, None]]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def begin(self, key: Hashable, *, open_ended: bool = False, wake: Callable[[], None] | None = None) -> Flight:
        """Join the flight for this key, or open it as its leader.

        Args:
            key: what is asked for.
            open_ended: whether this call, as the leader, would read the answer at its caller's pace.
            wake: called when the flight ends, should this call follow; perhaps before this returns.
        """
        with self._lock:
            under_way = self._flights.get(key)
            if under_way is None:
                leader = Flight(key, leader=True, open_ended=open_ended)
                self._flights[key] = (leader, {})
                return leader
            follower = Flight(key, leader=False, wake=wake, open_ended=under_way[0].open_ended)
            under_way[1][follower] = None
            return follower

    def finish(self, flight: Flight, *, given_up: bool = False) -> tuple[Flight, ...]:
        """End a leader's flight, however its call ended; return the followers to be woken, in order of arrival.

        Args:
            flight: the leader's.
            given_up: whether its caller went away before it was known what the answer is good for.
        """
        with self._lock:
            under_way = self._flights.get(flight.key)
            if under_way is None or under_way[0] is not flight:
                return ()
            del self._flights[flight.key]
            for follower in under_way[1]:
                follower.again = given_up
            return tuple(under_way[1])

    def leave(self, flight: Flight) -> None:
        """Take a follower out that no longer waits (deadline, cancellation)."""
        with self._lock:
            under_way = self._flights.get(flight.key)
            if under_way is not None:
                under_way[1].pop(flight, None)
