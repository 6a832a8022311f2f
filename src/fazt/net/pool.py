"""Which idle connection is used next, and which is closed: bookkeeping without I/O or clock.

Every operation costs the same however many connections to other origins are idle.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
C = TypeVar("C", bound=Hashable)


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How many connections may be idle and for how long: in all, per key, and seconds until one is closed."""

    total: int
    per_key: int
    expiry: float


FUNCTIONS = PoolLimits(total=20, per_key=2, expiry=10.0)
"""The functions door (contracts, "Doors differ only in their profile")."""
NONE = PoolLimits(total=0, per_key=0, expiry=0.0)
"""The command line: one call, nothing kept."""


class Pool(Generic[K, C]):
    """Idle connections by key, the most recently used first.

    `put` and `expire` return the connections that have to be closed; closing them is the caller's part. `now` is
    seconds on a monotonic clock and must not go back from one `put` to the next.
    """

    __slots__ = ("_by_key", "_order", "limits")

    def __init__(self, limits: PoolLimits = FUNCTIONS) -> None:
        self.limits = limits
        self._by_key: dict[K, list[C]] = {}
        # all of them, the longest idle first; what is first here is first in its own list as well
        self._order: OrderedDict[C, tuple[K, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    def take(self, key: K, now: float) -> C | None:
        """Take out the connection of this key that was used last, or None when there is none fresh enough."""
        stack = self._by_key.get(key)
        if stack is None:
            return None
        connection = stack[-1]
        _, since = self._order[connection]
        if now - since >= self.limits.expiry:
            return None  # the others of this key have been idle longer still; `expire` closes them
        stack.pop()
        if not stack:
            del self._by_key[key]
        del self._order[connection]
        return connection

    def put(self, key: K, connection: C, now: float) -> tuple[C, ...]:
        """Take in a connection that has become idle; returns those to close (perhaps this one)."""
        limits = self.limits
        if limits.per_key < 1 or limits.total < 1:
            return (connection,)
        stack = self._by_key.get(key)
        if stack is None:
            self._by_key[key] = [connection]
        else:
            stack.append(connection)
        self._order[connection] = (key, now)
        if stack is not None and len(stack) > limits.per_key:
            oldest = stack[0]
        elif len(self._order) > limits.total:
            oldest = next(iter(self._order))
        else:
            return ()
        self.remove(oldest)
        return (oldest,)

    def remove(self, connection: C) -> bool:
        """Forget one connection, which is closing by itself; returns whether it was here."""
        entry = self._order.pop(connection, None)
        if entry is None:
            return False
        stack = self._by_key[entry[0]]
        stack.remove(connection)
        if not stack:
            del self._by_key[entry[0]]
        return True

    def expire(self, now: float) -> list[C]:
        """Take out every connection that has been idle too long."""
        out: list[C] = []
        while self._order:
            connection, (_, since) = next(iter(self._order.items()))
            if now - since < self.limits.expiry:
                break
            self.remove(connection)
            out.append(connection)
        return out

    def next_expiry(self) -> float | None:
        """Return when the longest idle one expires, or None when nothing is idle."""
        if not self._order:
            return None
        _, since = next(iter(self._order.values()))
        return since + self.limits.expiry

    def drop(self, doomed: Callable[[K], bool]) -> list[C]:
        """Take out every connection whose key is doomed."""
        out: list[C] = []
        for key in [key for key in self._by_key if doomed(key)]:
            for connection in self._by_key.pop(key):
                del self._order[connection]
                out.append(connection)
        return out

    def clear(self) -> list[C]:
        """Take out all of them."""
        out = list(self._order)
        self._order.clear()
        self._by_key.clear()
        return out
