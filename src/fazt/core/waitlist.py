"""How many requests to one host are in flight, and who comes next: places that are handed on in the order of asking."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from fazt.errors import FaztError, Reason

_NEW, _WAITING, _HELD, _LEFT = range(4)


class Ticket:
    """A place in flight, or in the line for one. Whoever got it calls `leave` exactly when the body is closed.

    `leave` may be called at any time and more than once, also while another thread is just handing the place over.
    """

    __slots__ = ("_key", "_state", "_waitlist", "_wake")

    def __init__(self, waitlist: Waitlist, key: Hashable, wake: Callable[[], object]) -> None:
        self._waitlist = waitlist
        self._key = key
        self._wake = wake
        self._state = _NEW

    @property
    def granted(self) -> bool:
        """Whether the place is held."""
        return self._state == _HELD

    def leave(self) -> None:
        """Give the place up, or leave the line."""
        self._waitlist._leave(self)

    def __repr__(self) -> str:
        return f"<Ticket {('new', 'waiting', 'held', 'left')[self._state]}>"


class _Line:
    __slots__ = ("cap", "held", "queue", "waiting")

    def __init__(self) -> None:
        self.cap = 0
        self.held = 0
        self.waiting = 0
        self.queue: deque[Ticket] = deque()


class Waitlist:
    """Places in flight by key, first come first served.

    Args:
        lock: held around each step, never while somebody is woken; a `threading.Lock` where threads share it.
    """

    __slots__ = ("_lines", "_lock")

    def __init__(self, lock: AbstractContextManager[Any] | None = None) -> None:
        self._lock = lock if lock is not None else nullcontext()
        self._lines: dict[Hashable, _Line] = {}

    def enter(self, key: Hashable, cap: int, wake: Callable[[], object]) -> Ticket:
        """Take a place, or get into line.

        Args:
            key: of what is limited.
            cap: how many places there are, at least 1; the latest number that was given holds for all.
            wake: called once when the ticket is granted after all, from whatever thread made room; must not block.
        """
        ticket = Ticket(self, key, wake)
        with self._lock:
            line = self._lines.get(key)
            if line is None:
                line = self._lines[key] = _Line()
            line.cap = cap
            if line.held < cap and not line.waiting:
                line.held += 1
                ticket._state = _HELD
                return ticket
            ticket._state = _WAITING
            line.queue.append(ticket)
            line.waiting += 1
            # A cap that grew has room for those who came earlier.
            woken = _grant(line)
        self._wake_all([one for one in woken if one is not ticket])
        return ticket

    def in_flight(self, key: Hashable) -> int:
        """Return how many places of a key are held."""
        with self._lock:
            line = self._lines.get(key)
            return 0 if line is None else line.held

    def lines(self) -> dict[Hashable, tuple[int, int, int]]:
        """Return by key how many hold a place, how many wait, and the cap."""
        with self._lock:
            return {key: (line.held, line.waiting, line.cap) for key, line in self._lines.items()}

    def _leave(self, ticket: Ticket) -> None:
        with self._lock:
            state, ticket._state = ticket._state, _LEFT
            line = self._lines.get(ticket._key)
            if state not in (_WAITING, _HELD) or line is None:
                return
            if state == _HELD:
                line.held -= 1
            else:
                line.waiting -= 1  # it stays in the queue until its turn, which passes over it
                if len(line.queue) > 2 * line.waiting + 8:
                    line.queue = deque(one for one in line.queue if one._state == _WAITING)
            woken = _grant(line)
            if not line.held and not line.waiting:
                del self._lines[ticket._key]
        self._wake_all(woken)

    def _wake_all(self, woken: list[Ticket]) -> None:
        for ticket in woken:
            try:
                ticket._wake()
            except Exception:  # noqa: BLE001 - the waiter is gone (its event loop is closed): the place goes on
                ticket.leave()


class Place:
    """Tickets for several things at once, of a role and of its host: taken one after the other, in that order.

    Whoever waits for the second holds the first, and so holds up nobody but those who need the first too.

    Args:
        waitlist: where they are.
        caps: keys with the number of places there.
        wake: called when `granted` is to be asked again; as of `Waitlist.enter`.
        patience: seconds that may be waited for all of it.
    """

    __slots__ = ("_ahead", "_left", "_tickets", "_waitlist", "_wake", "patience")

    def __init__(
        self, waitlist: Waitlist, caps: Sequence[tuple[Hashable, int]], *, wake: Callable[[], object], patience: float
    ) -> None:
        self._waitlist = waitlist
        self._wake = wake
        self.patience = patience
        self._ahead = deque(caps)
        self._tickets: list[Ticket] = []
        self._left = False

    @property
    def granted(self) -> bool:
        """Whether the request may go on; to be asked once at the beginning, and again after each `wake`."""
        while not self._tickets or self._tickets[-1].granted:
            if not self._ahead:
                return not self._left
            self._tickets.append(self._waitlist.enter(*self._ahead.popleft(), self._wake))
        return False

    def leave(self) -> None:
        """Give it back, or leave the line; any number of times, from any thread."""
        self._left = True
        self._ahead.clear()
        for ticket in reversed(self._tickets):
            ticket.leave()

    def crowded(self) -> FaztError:
        """Return the failure of a request that waited in vain."""
        return FaztError(Reason.POOL_WAIT, "too many calls to this host are in flight", retry_after=1.0)


def _grant(line: _Line) -> list[Ticket]:
    woken = []
    while line.waiting and line.held < line.cap:
        ticket = line.queue.popleft()
        if ticket._state == _WAITING:
            ticket._state = _HELD
            line.waiting -= 1
            line.held += 1
            woken.append(ticket)
    return woken
