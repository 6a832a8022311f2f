"""The worker processes of a host: some blank and ready, some kept for an app, one restarted for each that dies."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections import OrderedDict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fazt.errors import OperatorError
from fazt.functions.invocation import AppImage, InvokeError
from fazt.functions.sandbox import SandboxReport
from fazt.functions.spawner import Events, Spawner
from fazt.functions.workerlink import Owner, State, WorkerLink
from fazt.functions.zygote import ZygoteConfig

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0  # seconds between attempts when workers die before they are ready
_RUNTIME_DATA = 128 << 20  # private memory of a worker beyond the largest app: interpreter, engine, thread stacks


class FunctionsUnavailableError(OperatorError):
    """Functions cannot run on this machine, or not as safely as was asked for."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How many processes to have, and when to let one go. See `FunctionHost` for the fields."""

    engine_kind: str
    cache_dir: Path | None
    require: Literal["", "full"]
    most: int
    spare: int
    idle_s: float
    max_uses: int
    max_memory: int
    slow_s: float
    search_path: tuple[str, ...]


class Pool:
    """Keeps workers; made and used on one event loop.

    Args:
        settings: see `PoolSettings`.
    """

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        events = Events(self._refill, self._on_spawned, self._on_exited, self._on_lost)
        self._spawner = Spawner(_zygote_config(settings), events)
        self._owner = Owner(self._on_ready, self._on_dead, self._spawner.kill, settings.slow_s)
        self._workers: dict[int, WorkerLink] = {}  # until the zygote says that the process is gone
        self._alive = 0
        self._starting = 0
        self._number = 0
        self._blank: deque[WorkerLink] = deque()
        self._idle: dict[str, list[WorkerLink]] = {}
        self._idle_order: OrderedDict[WorkerLink, None] = OrderedDict()  # least recently used first
        self._keys: dict[str, str] = {}
        self._wanting: deque[asyncio.Future[WorkerLink]] = deque()
        self._pause = 0.0
        self._refilling = False
        self._refill_later: asyncio.TimerHandle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._first: asyncio.Future[None] = self._loop.create_future()
        self._closed = False
        self._counts = dict.fromkeys(("spawned", "retired", "died", "zygotesLost"), 0)
        self.sandbox: SandboxReport | None = None
        self.failure: str | None = None

    async def start(self, seconds: float) -> None:
        """Start the zygote and wait until one worker is ready.

        Raises:
            FunctionsUnavailableError: none was in time, or none can be.
        """
        try:
            self._spawner.start()
            async with asyncio.timeout(seconds):
                await self._first
        except (TimeoutError, OSError) as exc:
            why = self.failure or str(exc) or "no worker was ready in time"
            raise FunctionsUnavailableError(f"functions cannot run here: {why}") from None
        self._sweeper = self._loop.call_later(self._settings.idle_s / 4, self._sweep)

    async def close(self) -> None:
        """Kill every process and wait until it is gone."""
        self._closed = True
        for timer in (self._sweeper, self._refill_later):
            if timer is not None:
                timer.cancel()
        self._first.cancel()
        for worker in list(self._workers.values()):
            worker.retire("the host is closing", kind="unavailable")
        for wanted in self._wanting:
            if not wanted.done():
                wanted.set_exception(InvokeError("unavailable", "the host is closing"))
        await self._spawner.close()

    def facts(self) -> dict[str, Any]:
        """Return engine, sandbox, numbers of processes and counters for the report."""
        return {
            "engine": {"kind": self._spawner.engine_kind, "fingerprint": self._spawner.fingerprint},
            "sandbox": self.sandbox.as_dict() if self.sandbox else None,
            "processes": {
                "most": self._settings.most,
                "alive": self._alive,
                "starting": self._starting,
                "blank": len(self._blank),
                "idle": len(self._idle_order),
            },
            "zygote": {
                "pid": self._spawner.pid,
                "serving": self._spawner.serving,
                "starts": self._spawner.starts,
            },
            "counts": dict(self._counts),
            "failure": self.failure,
        }

    # -- taking and giving back --------------------------------------------------------------------------------------

    async def take(self, app: AppImage, until: float) -> WorkerLink:
        """Return an idle worker that is bound to exactly this app and image.

        Args:
            app: what it is going to run.
            until: loop time at which waiting ends.

        Raises:
            InvokeError: none was to be had, or the image can't be opened.
        """
        if self._keys.get(app.app_id) != app.key:
            self.retire_app(app.app_id, "a newer deployment replaced it")
            self._keys[app.app_id] = app.key
        idle = self._idle.get(app.app_id)
        if idle:
            worker = idle[-1]
            self._forget_idle(worker)
            return worker
        worker = await self.take_blank(until)
        try:
            worker.bind(app)
        except InvokeError:
            self._give(worker)
            raise
        return worker

    async def take_blank(self, until: float) -> WorkerLink:
        """Return a worker that has seen nothing of any app.

        Raises:
            InvokeError: none was ready in time.
        """
        if self._blank:
            worker = self._blank.popleft()
            self._refill()
            return worker
        wanted: asyncio.Future[WorkerLink] = self._loop.create_future()
        self._wanting.append(wanted)
        self._refill()
        try:
            async with asyncio.timeout_at(until):
                worker = await wanted
        except TimeoutError:
            self._return(wanted)
            raise InvokeError("unavailable", f"no worker could be started: {self.failure or 'not in time'}") from None
        except asyncio.CancelledError:
            self._return(wanted)
            raise
        finally:
            if wanted in self._wanting:
                self._wanting.remove(wanted)
        return worker if worker.state is State.BLANK else await self.take_blank(until)

    def put_back(self, worker: WorkerLink) -> None:
        """Keep a worker for the next invocation of its app, or retire it."""
        if worker.state is not State.IDLE:
            return
        spent = worker.uses >= self._settings.max_uses
        if spent or self._closed or self._keys.get(worker.app_id) != worker.key:
            self._retire(worker, "retired")
            return
        worker.idle_since = self._loop.time()
        self._idle.setdefault(worker.app_id, []).append(worker)
        self._idle_order[worker] = None

    def retire_app(self, app_id: str, why: str = "its app was removed") -> None:
        """Let go of the idle workers of an app, and of the others once they are idle."""
        self._keys.pop(app_id, None)
        for worker in list(self._idle.get(app_id, ())):
            self._retire(worker, why)

    def slow_down(self, worker: WorkerLink) -> None:
        """Let other processes go before a worker that keeps a processor busy."""
        self._spawner.slow_down(worker.number)
        worker.uses = self._settings.max_uses  # its priority can't be raised again: this is its last invocation

    # -- the stock ---------------------------------------------------------------------------------------------------

    def _refill(self) -> None:
        """Order workers until the spares and everybody who waits are provided for."""
        if self._refilling:  # retiring a worker to make room leads back here
            return
        self._refilling = True
        try:
            while self._wanted() and self._make_room() and self._spawn():
                pass
        finally:
            self._refilling = False

    def _wanted(self) -> bool:
        if self._closed or self._refill_later is not None or not self._spawner.serving:
            return False
        return self._settings.spare + self._waiting() > self._starting + len(self._blank)

    def _waiting(self) -> int:
        return sum(not wanted.done() for wanted in self._wanting)

    def _make_room(self) -> bool:
        """See to it that one more process may be had; for somebody who waits, at the cost of an idle worker."""
        if self._alive < self._settings.most:
            return True
        if not self._waiting() or not self._idle_order:
            return False
        self._retire(next(iter(self._idle_order)), "its place is needed")
        return True

    def _spawn(self) -> bool:
        ours, theirs = socket.socketpair()
        with theirs:
            if not self._spawner.spawn(self._number + 1, theirs):
                ours.close()
                return False
        self._number += 1
        self._workers[self._number] = WorkerLink(self._loop, self._number, ours, self._owner)
        self._alive += 1
        self._starting += 1
        self._counts["spawned"] += 1
        return True

    def _give(self, worker: WorkerLink) -> None:
        if worker.state is not State.BLANK:
            return
        while self._wanting:
            wanted = self._wanting.popleft()
            if not wanted.done():
                wanted.set_result(worker)
                return
        self._blank.append(worker)

    def _return(self, wanted: asyncio.Future[WorkerLink]) -> None:
        """Take back a worker that was given to somebody who has stopped waiting."""
        if wanted.done() and not wanted.cancelled() and wanted.exception() is None:
            self._give(wanted.result())

    def _retire(self, worker: WorkerLink, why: str) -> None:
        self._counts["retired"] += 1
        worker.retire(why)

    def _forget_idle(self, worker: WorkerLink) -> None:
        if worker not in self._idle_order:
            return
        del self._idle_order[worker]
        line = self._idle[worker.app_id]
        line.remove(worker)
        if not line:
            del self._idle[worker.app_id]

    def _sweep(self) -> None:
        now = self._loop.time()
        for worker in list(self._idle_order):
            if now - worker.idle_since < self._settings.idle_s:
                break
            self._retire(worker, "idle")
        self._sweeper = self._loop.call_later(self._settings.idle_s / 4, self._sweep)

    # -- events ------------------------------------------------------------------------------------------------------

    def _on_spawned(self, number: int, pid: int) -> None:
        worker = self._workers.get(number)
        if worker is not None:
            worker.spawned(pid)

    def _on_exited(self, number: int, status: int) -> None:
        worker = self._workers.pop(number, None)
        if worker is not None:
            worker.exited(status)

    def _on_lost(self, why: str) -> None:
        self._counts["zygotesLost"] += 1
        self.failure = f"the zygote ended: {why}"
        workers, self._workers = self._workers, {}
        for worker in workers.values():  # they die with it
            worker.retire(self.failure)
        if self._spawner.failure:  # it said why, and will say the same when it is started again
            self._fail_first()

    def _on_ready(self, worker: WorkerLink) -> None:
        self._starting -= 1
        self.sandbox = worker.report
        if self._settings.require == "full" and worker.report is not None and not worker.report.full:
            worker.retire("the sandbox is not full: " + "; ".join(worker.report.missing()))
            return
        self._pause = 0.0
        self.failure = None
        if not self._first.done():
            self._first.set_result(None)
        self._give(worker)

    def _on_dead(self, worker: WorkerLink, why: str) -> None:
        self._alive -= 1
        self._forget_idle(worker)
        if worker in self._blank:
            self._blank.remove(worker)
        usable = worker.report is not None and worker.report.usable
        if usable and (self._settings.require != "full" or (worker.report is not None and worker.report.full)):
            self._counts["died"] += 1
            self._refill()
            return
        if worker.report is None or not worker.report.usable:  # it never was ready
            self._starting -= 1
        self.failure = why
        self._fail_first()
        self._pause = min(max(self._pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
        if self._refill_later is None and not self._closed:
            self._refill_later = self._loop.call_later(self._pause, self._refill_again)

    def _refill_again(self) -> None:
        self._refill_later = None
        self._refill()

    def _fail_first(self) -> None:
        if not self._first.done():
            self._first.set_exception(FunctionsUnavailableError(f"functions cannot run here: {self.failure}"))


def _zygote_config(settings: PoolSettings) -> ZygoteConfig:
    cache = settings.cache_dir
    home = os.environ.get("XDG_CACHE_HOME", "")  # the zygote's own environment is empty
    if cache is None and os.path.isabs(home):
        cache = Path(home) / "fazt" / "guest"
    return ZygoteConfig(
        host=os.getpid(),
        engine=settings.engine_kind,
        cache_dir=str(cache) if cache else None,
        path=(*settings.search_path, *(entry for entry in sys.path if os.path.isabs(entry))),
        data=settings.max_memory + _RUNTIME_DATA,
    )
