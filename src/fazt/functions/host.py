"""The asyncio host of functions: sandboxed workers, shared fairly between apps.

The host stays up whatever a script does. It owns the network: a worker's call comes up here as a message and is
answered by the function that the caller of `invoke` supplies.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Literal

from fazt.functions.guestapi import AppBundle, BakeError
from fazt.functions.invocation import (
    AppImage,
    InvokeError,
    InvokeLimits,
    InvokeResult,
    OnHostCall,
    OnLog,
)
from fazt.functions.pool import FunctionsUnavailableError, Pool, PoolSettings
from fazt.functions.schedule import Full, Schedule, Stage, Ticket
from fazt.functions.worker import encode_bake
from fazt.functions.workerlink import Run, WorkerLink

__all__ = ["AppImage", "FunctionHost", "FunctionsUnavailableError", "InvokeError", "InvokeLimits", "InvokeResult"]

_LIMIT_ERRORS = frozenset({"cpu", "wall", "memory", "killed"})
_HEAVY_FAILURES = frozenset({"wall", "crash", "oom"})
_BAKE_WAIT_S = 10.0
_IMAGE_BASE = 32 << 20  # bytes of an image that aren't the app's


class FunctionHost:
    """Runs apps in worker processes.

    Args:
        engine_kind: "auto", "wasm" or "jsbox" (or "module:function" naming an engine, for tests).
        workers: invocations that run at a time; as many again may be slow ones (see `schedule`).
        cache_dir: where the compiled guest is kept; default as `guestapi.open_engine`.
        require: "full" refuses to start unless every layer of the sandbox holds.
        spare: workers that are kept ready for the next app.
        idle_s: seconds after which an idle worker is retired.
        max_uses: invocations after which a worker is retired.
        queue_ms: longest wait for a worker in ms, never more than half of the invocation's own wall limit.
        max_memory: largest memory limit in bytes that any invocation may ask for.
        slow_s: seconds after which an invocation no longer counts as a short one.
        search_path: directories put before the host's own module search path in the zygote.
    """

    def __init__(
        self,
        *,
        engine_kind: str = "auto",
        workers: int = 16,
        cache_dir: Path | None = None,
        require: Literal["", "full"] = "",
        spare: int = 2,
        idle_s: float = 60.0,
        max_uses: int = 10_000,
        queue_ms: float = 1_000.0,
        max_memory: int = 256 << 20,
        slow_s: float = 0.25,
        search_path: tuple[str, ...] = (),
    ) -> None:
        if workers < 1 or spare < 1:
            raise ValueError("at least one worker and one spare")
        self._settings = PoolSettings(
            engine_kind=engine_kind,
            cache_dir=cache_dir,
            require=require,
            most=2 * workers + spare,
            spare=spare,
            idle_s=idle_s,
            max_uses=max_uses,
            max_memory=max_memory,
            slow_s=slow_s,
            search_path=search_path,
        )
        self._queue_s = queue_ms / 1e3
        self._schedule = Schedule(workers=workers)
        self._turns: dict[Ticket, asyncio.Future[None]] = {}
        self._pool: Pool | None = None
        self._invocations = 0
        self._overloads = 0

    async def start(self, *, seconds: float = 60.0) -> None:
        """Start the zygote and the first workers; returns when one is ready, its sandbox tried out.

        Call it on the thread that outlives the host: the zygote dies with the thread that started it.

        Args:
            seconds: how long to wait; compiling the guest for the first time on a machine is part of it.

        Raises:
            FunctionsUnavailableError: no worker could be confined, or not fully where that is required.
        """
        self._loop = asyncio.get_running_loop()
        pool = Pool(self._settings)
        try:
            await pool.start(seconds)
        except BaseException:
            await pool.close()
            raise
        self._pool = pool

    async def close(self) -> None:
        """Kill every worker and the zygote, and wait until they are gone. Invocations in progress fail."""
        pool, self._pool = self._pool, None
        for turn in self._turns.values():
            if not turn.done():
                turn.set_exception(InvokeError("unavailable", "the host is closing"))
        if pool is not None:
            await pool.close()

    async def invoke(
        self,
        app: AppImage,
        request_frame: bytes,
        *,
        limits: InvokeLimits,
        on_host_call: OnHostCall,
        on_log: OnLog,
    ) -> InvokeResult:
        """Run one request of an app in a fresh environment.

        A script's own failure is in the result. Cancelling the caller kills the worker and cancels the host call in
        flight.

        Args:
            app: what to run.
            request_frame: from `guestapi.build_request`.
            limits: what it may use; the wall limit counts from this call.
            on_host_call: answers the script's calls; a `FaztError` becomes the coded error that the script sees.
            on_log: takes console lines; it must not block.

        Raises:
            InvokeError: it was not run, or the host ended it.
        """
        pool = self._pool
        if pool is None:
            raise InvokeError("unavailable", "the host is not running")
        if limits.memory > self._settings.max_memory:
            raise ValueError("the memory limit is above the host's own")
        began = self._loop.time()
        patience = began + min(self._queue_s, limits.wall_ms / 2e3)
        self._invocations += 1
        ticket = await self._admit(app.app_id, began, patience)
        limit_hit = False
        try:
            worker = await pool.take(app, patience)
            started = self._loop.time()

            def on_slow(calling: bool) -> None:
                self._on_slow(worker, ticket, calling)

            run = Run(request_frame, limits, began + limits.wall_ms / 1e3, on_host_call, on_log, on_slow)
            try:
                result, calls = await worker.invoke(run)
            finally:
                pool.put_back(worker)
            limit_hit = result.error is not None and result.error.kind in _LIMIT_ERRORS
            return InvokeResult(result, (self._loop.time() - began) * 1e3, (started - began) * 1e3, calls)
        except InvokeError as exc:
            limit_hit = exc.kind in _HEAVY_FAILURES
            raise
        finally:
            self._finish(ticket, limit_hit=limit_hit)

    async def bake(self, bundle: AppBundle, *, memory: int, cpu_ms: float = 10_000) -> bytes:
        """Compile an app into an image, in a sandboxed worker that is thrown away afterwards.

        Args:
            bundle: the app.
            memory: bytes it may use beyond what the runtime needs.
            cpu_ms: CPU time for compiling, in ms; three times that is the limit of the wall clock.

        Raises:
            BakeError: the app has a mistake or exceeds a limit.
            InvokeError: no worker was to be had.
        """
        if self._pool is None:
            raise InvokeError("unavailable", "the host is not running")
        worker = await self._pool.take_blank(self._loop.time() + _BAKE_WAIT_S)
        try:
            async with asyncio.timeout(3 * cpu_ms / 1e3):
                payload = encode_bake(bundle, memory=memory, cpu_ms=cpu_ms)
                return await worker.bake(payload, max_image=memory + _IMAGE_BASE + 2 * len(payload))
        except TimeoutError:
            raise BakeError("compiling the app took too long", "cpu") from None

    def retire_app(self, app_id: str) -> None:
        """Stop keeping workers for an app that was removed; what runs ends by itself and its worker with it."""
        if self._pool is not None:
            self._pool.retire_app(app_id)

    def report(self) -> dict[str, Any]:
        """Return the state of engine, sandbox and pool for health and diagnosis."""
        plan = self._schedule
        facts = self._pool.facts() if self._pool is not None else {}
        return {
            "running": self._pool is not None,
            "workers": {"limit": plan.workers, "running": plan.running, "slow": plan.slow, "waiting": plan.waiting},
            "invocations": self._invocations,
            "overloads": self._overloads,
            **facts,
        }

    # -- places ------------------------------------------------------------------------------------------------------

    async def _admit(self, app_id: str, now: float, patience: float) -> Ticket:
        try:
            ticket = self._schedule.request(app_id, now)
        except Full:
            self._overloads += 1
            raise InvokeError("overload", "too many requests wait for a worker") from None
        if ticket.stage is Stage.RUNNING:
            return ticket
        turn = self._turns[ticket] = self._loop.create_future()
        try:
            async with asyncio.timeout_at(patience):
                await turn
        except TimeoutError:
            self._overloads += 1
            self._finish(ticket)
            raise InvokeError("overload", "no worker was free in time") from None
        except BaseException:
            self._finish(ticket)
            raise
        finally:
            del self._turns[ticket]
        return ticket

    def _finish(self, ticket: Ticket, *, limit_hit: bool = False) -> None:
        self._wake(self._schedule.finish(ticket, self._loop.time(), limit_hit=limit_hit))

    def _wake(self, granted: list[Ticket]) -> None:
        for ticket in granted:
            turn = self._turns.get(ticket)
            if turn is not None and not turn.done():
                turn.set_result(None)

    def _on_slow(self, worker: WorkerLink, ticket: Ticket, calling: bool) -> None:
        self._wake(self._schedule.slow_down(ticket, self._loop.time()))
        if not calling and self._pool is not None:
            self._pool.slow_down(worker)
