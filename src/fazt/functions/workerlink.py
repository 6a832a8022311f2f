"""The host's end of one worker: its state, and the invocation that runs in it."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from fazt.errors import FaztError, Reason
from fazt.functions.channel import Channel
from fazt.functions.guestapi import MAX_LOG_BYTES, BakeError, FrameError, Result, ScriptError, pack, read_result
from fazt.functions.invocation import (
    LEVELS,
    AppImage,
    InvokeError,
    InvokeErrorKind,
    InvokeLimits,
    OnHostCall,
    OnLog,
)
from fazt.functions.protocol import (
    MAX_CALL_HEADER,
    MAX_POST,
    MAX_RESULT_HEADER,
    SEED_BYTES,
    Message,
    cap_of,
    checked_unpack,
    encode_invoke,
)
from fazt.functions.sandbox import SandboxReport, verify_outside

KILL_AFTER_S = 0.25
"""Seconds past the wall limit after which a worker is killed."""
_STATUS_WAIT_S = 0.5  # how long to wait for the reason of a death before reporting it without one


class State(Enum):
    """Life of a worker, in order; a spent one is killed, never used again."""

    STARTING = "starting"
    BLANK = "blank"
    IDLE = "idle"
    BUSY = "busy"
    BAKING = "baking"
    DEAD = "dead"


_MAY_SAY: dict[State, frozenset[int]] = {
    State.STARTING: frozenset({Message.READY, Message.FAILED}),
    State.BLANK: frozenset({Message.FAILED}),
    State.IDLE: frozenset({Message.FAILED}),
    State.BUSY: frozenset({Message.CALL, Message.POST, Message.RESULT, Message.REFUSED, Message.FAILED}),
    State.BAKING: frozenset({Message.BAKED, Message.REFUSED, Message.FAILED}),
    State.DEAD: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Owner:
    """What a worker tells the pool.

    `on_ready`: it may be used; `on_dead`: it never will be (again), with the reason; `on_slow`: its invocation has run
    for `slow_s` seconds, and whether it was waiting for the host just then. `kill` ends the process.
    """

    on_ready: Callable[[WorkerLink], None]
    on_dead: Callable[[WorkerLink, str], None]
    kill: Callable[[int], None]
    slow_s: float = 0.25


class WorkerLink:
    """One worker process.

    Args:
        loop: the running loop.
        number: id under which the zygote knows it.
        sock: the host's end of its socket.
        owner: whom to tell.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, number: int, sock: socket.socket, owner: Owner) -> None:
        self._loop = loop
        self._owner = owner
        self._channel = Channel(loop, sock, cap=self._cap, on_message=self._on_message, on_close=self._on_lost)
        self._report: SandboxReport | None = None
        self._running: _Run | None = None
        self._baking: asyncio.Future[bytes] | None = None
        self._image_cap = 0
        self.number = number
        self.state = State.STARTING
        self.pid: int | None = None
        self.app_id = ""
        self.key = ""
        self.uses = 0
        self._proved = False  # it has run its app's image
        self.idle_since = 0.0
        self.report: SandboxReport | None = None

    # -- birth and death ---------------------------------------------------------------------------------------------

    def spawned(self, pid: int) -> None:
        """Take note of the process id; a worker is ready once this and its own report are here."""
        self.pid = pid
        self._try_ready()

    def retire(self, why: str, *, kind: InvokeErrorKind = "crash") -> None:
        """Kill the worker; an invocation that runs in it fails with this kind."""
        if self.state is not State.DEAD:
            self._die(why, kind)

    def exited(self, status: int) -> None:
        """Learn how the process ended: names the failure of the invocation that ran in it."""
        self._channel.drain()  # its last words may tell more
        self._owner_dead(_describe(status))
        if self._running is not None:
            killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
            self._running.fail("oom" if killed else "crash", f"the worker ended: {_describe(status)}")
        self._end_bake("the worker ended: " + _describe(status))

    def _try_ready(self) -> None:
        if self.state is not State.STARTING or self._report is None or self.pid is None:
            return
        report = replace(self._report, holes=self._report.holes + verify_outside(self.pid, self._report))
        self.report = report
        if not report.usable:
            self._die("its sandbox does not hold: " + "; ".join(report.missing()), "crash")
            return
        self.state = State.BLANK
        self._owner.on_ready(self)

    def _on_lost(self, why: str, broke: bool) -> None:
        """Handle the end of the link; of what the process died comes from the zygote a moment later."""
        if broke or self._running is None:
            self._die(why, "crash")
        else:
            self._owner_dead(why)
            self._loop.call_later(_STATUS_WAIT_S, self._give_up_on_status)

    def _give_up_on_status(self) -> None:
        self._owner.kill(self.number)  # a process that only closed its link would live on
        if self._running is not None:
            self._running.fail("crash", "the worker ended")

    def _die(self, why: str, kind: InvokeErrorKind) -> None:
        self._owner.kill(self.number)
        self._owner_dead(why)
        if self._running is not None:
            self._running.fail(kind, f"the worker was stopped: {why}")
        self._end_bake(f"the worker was stopped: {why}")

    def _owner_dead(self, why: str) -> None:
        self._channel.close()
        if self.state is not State.DEAD:
            self.state = State.DEAD
            self._owner.on_dead(self, why)

    # -- what the worker says ----------------------------------------------------------------------------------------

    def _cap(self, kind: int) -> int:
        if kind not in _MAY_SAY[self.state]:
            return -1
        return cap_of(kind, answer=self._running.limits.max_output if self._running is not None else self._image_cap)

    def _on_message(self, kind: int, payload: bytes) -> None:
        try:
            match kind:
                case Message.READY:
                    self._report = SandboxReport.from_dict(json.loads(payload))
                    self._try_ready()
                case Message.FAILED:
                    self._die(payload.decode("utf-8", "replace"), "crash")
                case Message.REFUSED:
                    self._on_refused(json.loads(payload))
                case Message.BAKED:
                    if self._baking is not None and not self._baking.done():
                        self._baking.set_result(payload)
                case _ if self._running is not None:
                    self._proved = True
                    self._running.on_message(kind, payload)
        except Exception as exc:  # noqa: BLE001 - a worker that talks nonsense is one that a stranger speaks through
            self._die(f"it broke the protocol: {exc}", "crash")

    def _on_refused(self, told: dict[str, Any]) -> None:
        message = str(told["message"])
        if self._baking is not None and not self._baking.done():
            path = told.get("path")
            self._baking.set_exception(BakeError(message, str(told["kind"]), path=path and str(path)))
        if self._running is not None:
            if self._proved:  # believed, it would have the app baked and the request run once more
                raise FrameError("a worker that has run its image refuses it")
            self._die(message, "image")

    # -- work --------------------------------------------------------------------------------------------------------

    def bind(self, app: AppImage) -> None:
        """Give a blank worker its app, for the rest of its life.

        Raises:
            InvokeError: the image can't be opened, or the worker is gone.
        """
        try:
            fd = app.image if isinstance(app.image, int) else os.open(app.image, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            raise InvokeError("image", f"the app's image cannot be opened: {exc.strerror}") from exc
        try:
            self._channel.send_with_fd(Message.OPEN, b"", fd)
        except OSError as exc:
            raise InvokeError("crash", "the worker is gone") from exc
        finally:
            if fd != app.image:
                os.close(fd)
        self.app_id, self.key, self.state = app.app_id, app.key, State.IDLE

    async def invoke(self, run: Run) -> tuple[Result, int]:
        """Run one request in this bound, idle worker; return the outcome and the number of host calls.

        Cancelling the caller kills the worker and cancels the host call in flight.

        Raises:
            InvokeError: the worker died, was killed at the wall limit, or broke the protocol.
        """
        self.state = State.BUSY
        self.uses += 1
        running = self._running = _Run(self, run, self._channel, self._owner)
        try:
            running.start()
            result = await running.done
            self._rest()
            return result, running.calls
        except InvokeError as exc:
            if exc.kind == "response":
                self._rest()
            raise
        finally:
            if self.state is State.BUSY:  # cancelled: the script goes on in there
                self.retire("its caller is gone")
            self._running = None
            await running.settle()

    def _rest(self) -> None:
        if self.state is State.BUSY:
            self.state = State.IDLE

    async def bake(self, payload: bytes, *, max_image: int) -> bytes:
        """Bake an app in this blank worker, which is spent afterwards.

        Args:
            payload: from `encode_bake`.
            max_image: most bytes that the image may have.

        Raises:
            BakeError: the app has a mistake, exceeds a limit, or broke the worker.
        """
        self.state = State.BAKING
        self._image_cap = max_image
        self._baking = self._loop.create_future()
        try:
            self._channel.send(Message.BAKE, payload)
            return await self._baking
        finally:
            self._baking = None
            self.retire("it has baked an app")

    def _end_bake(self, why: str) -> None:
        if self._baking is not None and not self._baking.done():
            self._baking.set_exception(BakeError(f"the app could not be baked: {why}", "killed"))


@dataclass(frozen=True, slots=True)
class Run:
    """One request for a worker; `deadline` is loop time, `on_slow` is told whether a host call was in flight."""

    request: bytes
    limits: InvokeLimits
    deadline: float
    on_host_call: OnHostCall
    on_log: OnLog
    on_slow: Callable[[bool], None]


class _Run:
    """The invocation in progress: timers, the host call in flight, counters."""

    def __init__(self, worker: WorkerLink, run: Run, channel: Channel, owner: Owner) -> None:
        self._worker = worker
        self._run = run
        self._channel = channel
        self._loop = worker._loop
        self._slow_s = owner.slow_s
        self._context = contextvars.copy_context()
        self._timer: asyncio.TimerHandle | None = None
        self._call: asyncio.Task[None] | None = None
        self._lines = 0
        self._log_bytes = 0
        self._aborted = False
        self.limits = run.limits
        self.calls = 0
        self._call_bytes = 0
        self.done: asyncio.Future[Result] = self._loop.create_future()

    def start(self) -> None:
        now = self._loop.time()
        left = max(1.0, (self._run.deadline - now) * 1e3)
        seed = os.urandom(SEED_BYTES)
        self._channel.send_raw(encode_invoke(self.limits, wall_ms=left, seed=seed, request=self._run.request))
        slow_at = now + self._slow_s
        if slow_at < self._run.deadline:
            self._timer = self._loop.call_at(slow_at, self._on_slow)
        else:
            self._timer = self._loop.call_at(self._run.deadline, self._on_deadline)

    async def settle(self) -> None:
        """Stop the timer and wait until the host call in flight, if any, has let go of what it holds."""
        if self._timer is not None:
            self._timer.cancel()
        if self._call is not None and not self._call.done():
            self._call.cancel()
            await asyncio.wait({self._call})

    def fail(self, kind: InvokeErrorKind, message: str) -> None:
        if not self.done.done():
            self.done.set_exception(InvokeError(kind, message))

    def on_message(self, kind: int, payload: bytes) -> None:
        if self.done.done():
            raise FrameError("a message after the result")
        if kind == Message.RESULT:
            if not self._aborted and self._call is not None and not self._call.done():
                raise FrameError("a result while a call is in flight")
            self._finish(*checked_unpack(payload, max_header=MAX_RESULT_HEADER))
        elif kind == Message.CALL:
            self._on_call(payload)
        else:
            self._on_post(payload)

    def _finish(self, header: dict[str, object], body: bytes) -> None:
        try:
            result = read_result(header, body)
        except FrameError as exc:  # well-formed, and yet not a response
            self.fail("response", f"the app's answer cannot be used: {exc}")
            return
        if self._aborted and result.error is not None and result.error.kind == "killed":
            message = f"the time limit of {self.limits.wall_ms:g} ms was reached"
            result = replace(result, error=ScriptError("wall", "TimeoutError", message))
        self.done.set_result(result)

    def _on_call(self, payload: bytes) -> None:
        if self._call is not None and not self._call.done():
            raise FrameError("a second call while one is in flight")
        header, body = checked_unpack(payload, max_header=MAX_CALL_HEADER)
        self.calls += 1
        if self.calls > self.limits.max_calls:
            self._worker._die(f"it made more than {self.limits.max_calls} calls", "crash")
            return
        self._call_bytes += len(payload)
        if self._call_bytes > self.limits.max_call_bytes:
            self._worker._die(f"it sent more than {self.limits.max_call_bytes} bytes in calls", "crash")
            return
        if self._aborted:  # it was told already
            return
        self._call = self._loop.create_task(self._answer(header, body), context=self._context)

    async def _answer(self, header: dict[str, object], body: bytes) -> None:
        try:
            reply = await self._run.on_host_call(header, body)
        except FaztError as exc:
            reply = pack({"error": exc.public()})
        except Exception as exc:  # noqa: BLE001 - a fault of ours must not leave the script waiting
            self._loop.call_exception_handler({"message": "a host call failed", "exception": exc})
            reply = pack({"error": FaztError(Reason.INTERNAL, "the call failed inside fazt").public()})
        if not self._aborted and not self.done.done():
            self._channel.send(Message.REPLY, reply)

    def _on_post(self, payload: bytes) -> None:
        header, _ = checked_unpack(payload, max_header=MAX_POST)
        self._lines += 1
        self._log_bytes += len(payload)
        if self._lines > self.limits.max_log_lines or self._log_bytes > 8 * MAX_LOG_BYTES:
            raise FrameError("more console output than the engine lets through")
        level, message = header.get("level"), header.get("message")
        if header.get("op") != "log" or level not in LEVELS or not isinstance(message, str):
            raise FrameError("a post that is not a console line")
        try:
            self._run.on_log(str(level), message)
        except Exception as exc:  # noqa: BLE001 - the log's trouble is not the script's
            self._loop.call_exception_handler({"message": "a console line was lost", "exception": exc})

    def _on_slow(self) -> None:
        self._run.on_slow(self._call is not None and not self._call.done())
        self._timer = self._loop.call_at(self._run.deadline, self._on_deadline)

    def _on_deadline(self) -> None:
        """End the call in flight; a script that computes is stopped by the engine, which has the same limit."""
        if self._call is not None and not self._call.done():
            self._aborted = True
            self._call.cancel()
            self._channel.send(Message.ABORT)
        self._timer = self._loop.call_later(KILL_AFTER_S, self._on_overdue)

    def _on_overdue(self) -> None:
        self._worker._die(f"it ran past its limit of {self.limits.wall_ms:g} ms", "wall")


def _describe(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        return f"killed by {name}"
    return f"exit code {os.waitstatus_to_exitcode(status)}"
