"""Which idle connection is used next, and which is closed: bookkeeping without I/O or clock.

Every operation costs the same however many connections to other origins are idle.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
C = TypeVar("C", bound=Hashable)


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How many connections there may be.

    Args:
        total: idle ones, in all.
        per_key: idle ones of one key.
        expiry: seconds until an idle one is closed.
        connections: idle ones, those in use and those being made together; who wants one more waits. 0: no limit.
    """

    total: int
    per_key: int
    expiry: float
    connections: int = 0


FUNCTIONS = PoolLimits(total=20, per_key=2, expiry=10.0)
"""The functions door (contracts, "Doors differ only in their profile")."""
CLIENT = PoolLimits(total=20, per_key=20, expiry=30.0, connections=64)
"""The client door."""
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

    def pop_oldest(self) -> C | None:
        """Take out the one that has been idle longest, to make room for one of another key."""
        if not self._order:
            return None
        oldest = next(iter(self._order))
        self.remove(oldest)
        return oldest

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


@dataclass(slots=True, eq=False)
class Turn(Generic[K, C]):
    """Somebody's wait for a connection.

    Args:
        key: where it has to lead.
        wake: called once, when the turn has come.
        reuse: whether one that was used before will do.
        connection: one that became idle, when it was handed over; else a new one may be opened.
        come: whether the turn has come.
    """

    key: K
    wake: Callable[[], object]
    reuse: bool = True
    connection: C | None = None
    come: bool = False


class Turns(Generic[K, C]):
    """Who may open a connection, where their number is limited: first come, first served.

    Nobody waits while fewer than `limit` are open (0: as many as are wanted), or one is idle: the idle one gives way.
    """

    __slots__ = ("_waiting", "limit", "open")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open = 0
        """Connections that are open or being made."""
        self._waiting: deque[Turn[K, C]] = deque()

    @property
    def waiting(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    def enter(self) -> bool:
        """Count one connection more, if there is room and nobody came before."""
        if self.limit and (self.open >= self.limit or self._waiting):
            return False
        self.open += 1
        return True

    def wait(self, turn: Turn[K, C], *, first: bool = False) -> None:
        """Stand in the queue; `first` for one whose turn had come, for a connection that turned out to be dead."""
        turn.come, turn.connection = False, None
        if first:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)

    def leave(self, turn: Turn[K, C]) -> bool:
        """Stop waiting; False when the turn had come already, and what came with it must be used or given back."""
        if turn.come:
            return False
        self._waiting.remove(turn)
        return True

    def over(self) -> None:
        """Count one connection less: it is closed, or was never made."""
        self.open -= 1
        self.admit()

    def admit(self) -> None:
        """Let those who wait open connections, as far as there is room."""
        while self._waiting and self.open < self.limit:
            self.open += 1
            self._call(self._waiting.popleft(), None)

    def offer(self, key: K, connection: C) -> bool:
        """Hand a connection that became idle to the first who waits, if it will do."""
        if not self._waiting:
            return False
        first = self._waiting[0]
        if first.key != key or not first.reuse:
            return False
        self._call(self._waiting.popleft(), connection)
        return True

    def _call(self, turn: Turn[K, C], connection: C | None) -> None:
        turn.come, turn.connection = True, connection
        turn.wake()
