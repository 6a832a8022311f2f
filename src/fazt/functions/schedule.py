"""Who runs next: fair shares of a limited number of workers. Pure: no clock, no processes.

Four rules keep one app, or a few, from starving the rest:

- an app with nothing running may take any free place, an app with something running only while `reserve` places stay
  free, and never more than `app_cap` places in all;
- an invocation that has run for long leaves its place to the next one and goes on in a slow lane of the same size, so
  that hanging scripts don't hold up short ones;
- an app that ran into a limit is *heavy* for a while: all heavy apps together have half of the places;
- places that become free go round the waiting apps, one each.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import Enum


class Full(Exception):  # noqa: N818 - an answer, not a fault
    """The queue has no room for another request."""


class Stage(Enum):
    """Where a request stands."""

    WAITING = "waiting"
    RUNNING = "running"
    SLOW = "slow"
    DONE = "done"


@dataclass(slots=True, eq=False)
class Ticket:
    """One request on its way through the schedule."""

    app: str
    stage: Stage = Stage.WAITING
    heavy: bool = False


class Schedule:
    """Decides which requests run; the caller runs them and says what happened.

    Args:
        workers: places for running invocations; the slow lane has as many again.
        queue: requests that may wait in all.
        app_queue: requests of one app that may wait.
        heavy_s: seconds for which an app is heavy after it ran into a limit.
    """

    def __init__(self, *, workers: int, queue: int = 1_024, app_queue: int = 128, heavy_s: float = 30.0) -> None:
        self.workers = workers
        self.reserve = max(1, workers // 3) if workers > 1 else 0
        self.app_cap = workers - self.reserve
        self.heavy_cap = max(1, workers // 2)
        self.running = 0
        self.slow = 0
        self.waiting = 0
        self._queue = queue
        self._app_queue = app_queue
        self._heavy_s = heavy_s
        self._held: dict[str, int] = {}  # places of both lanes, by app
        self._heavy_until: dict[str, float] = {}
        self._heavy_held = 0
        self._waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()

    def request(self, app: str, now: float) -> Ticket:
        """Ask for a place; the ticket is RUNNING at once or WAITING.

        Raises:
            Full: too many wait.
        """
        ticket = Ticket(app)
        line = self._waiting.get(app)
        if line is None and self._may_start(app, now):
            self._start(ticket, now)
            return ticket
        if self.waiting >= self._queue or (line is not None and len(line) >= self._app_queue):
            raise Full
        if line is None:
            line = self._waiting[app] = deque()
        line.append(ticket)
        self.waiting += 1
        return ticket

    def slow_down(self, ticket: Ticket, now: float) -> list[Ticket]:
        """Move a running request to the slow lane if there is room; return the requests that may start now."""
        if ticket.stage is not Stage.RUNNING or self.slow >= self.workers:
            return []
        ticket.stage = Stage.SLOW
        self.running -= 1
        self.slow += 1
        return self._grant(now)

    def finish(self, ticket: Ticket, now: float, *, limit_hit: bool = False) -> list[Ticket]:
        """End a request in whatever stage it is; return the requests that may start now.

        Args:
            ticket: the request; ending it twice does nothing.
            now: seconds, monotonic.
            limit_hit: whether it ran into a limit of time or memory or broke its worker.
        """
        match ticket.stage:
            case Stage.DONE:
                return []
            case Stage.WAITING:
                self._leave(ticket)
            case Stage.RUNNING:
                self.running -= 1
                self._give_back(ticket)
            case Stage.SLOW:
                self.slow -= 1
                self._give_back(ticket)
        ticket.stage = Stage.DONE
        if limit_hit:
            self._heavy_until = {app: until for app, until in self._heavy_until.items() if now < until}
            self._heavy_until[ticket.app] = now + self._heavy_s
        return self._grant(now)

    def is_heavy(self, app: str, now: float) -> bool:
        """Whether the app ran into a limit lately."""
        return now < self._heavy_until.get(app, now)

    def _may_start(self, app: str, now: float) -> bool:
        free = self.workers - self.running
        if free <= 0 or (self.is_heavy(app, now) and self._heavy_held >= self.heavy_cap):
            return False
        held = self._held.get(app, 0)
        return held == 0 or (free > self.reserve and held < self.app_cap)

    def _start(self, ticket: Ticket, now: float) -> None:
        ticket.stage = Stage.RUNNING
        ticket.heavy = self.is_heavy(ticket.app, now)
        self._heavy_held += ticket.heavy
        self.running += 1
        self._held[ticket.app] = self._held.get(ticket.app, 0) + 1

    def _give_back(self, ticket: Ticket) -> None:
        self._heavy_held -= ticket.heavy
        left = self._held[ticket.app] - 1
        if left:
            self._held[ticket.app] = left
        else:
            del self._held[ticket.app]

    def _leave(self, ticket: Ticket) -> None:
        line = self._waiting[ticket.app]
        line.remove(ticket)
        self.waiting -= 1
        if not line:
            del self._waiting[ticket.app]

    def _grant(self, now: float) -> list[Ticket]:
        granted: list[Ticket] = []
        if not self.waiting:
            return granted
        turn = deque(self._waiting)
        while turn and self.running < self.workers:
            app = turn.popleft()
            if not self._may_start(app, now):
                continue
            line = self._waiting[app]
            ticket = line.popleft()
            self.waiting -= 1
            self._start(ticket, now)
            granted.append(ticket)
            if line:
                self._waiting.move_to_end(app)
                turn.append(app)
            else:
                del self._waiting[app]
        return granted
