"""What goes into an invocation and what comes out of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fazt.functions.guestapi import Result

OnHostCall = Callable[[dict[str, object], bytes], Awaitable[bytes]]
"""Answer one host call: its JSON object and raw bytes in, the reply frame out. Nothing in it can be trusted."""
OnLog = Callable[[str, str], None]
"""Take one console line: level and text. It must not block."""
LEVELS = ("info", "warn", "error", "debug")


@dataclass(frozen=True, slots=True)
class AppImage:
    """A deployed app, ready to run.

    Args:
        app_id: stable id of the app; workers are never shared between ids.
        image: path of the baked image, or an open descriptor of it; the file never changes in place.
        key: names this content: a deploy changes it, and workers of an older key are retired.
    """

    app_id: str
    image: int | Path
    key: str


@dataclass(frozen=True, slots=True)
class InvokeLimits:
    """What one invocation may use.

    Args:
        cpu_ms: CPU time of the worker's thread.
        wall_ms: time from the call of `FunctionHost.invoke` on, waiting for a worker included.
        memory: bytes the app may use beyond what the runtime needs.
        max_output: bytes of the response's body and headers.
        max_log_lines: console lines that are passed on.
        max_calls: host calls of any kind before the worker is stopped; far above what a working app makes, it keeps
            a loop of refused calls from occupying the host.
        max_call_bytes: bytes of host calls in all before the worker is stopped, for the same reason.
    """

    cpu_ms: float = 5_000
    wall_ms: float = 5_000
    memory: int = 50 << 20
    max_output: int = 10 << 20
    max_log_lines: int = 1_000
    max_calls: int = 1_000
    max_call_bytes: int = 128 << 20


@dataclass(frozen=True, slots=True)
class InvokeResult:
    """Outcome of an invocation that ran: a response, or the error the script ended with.

    `wall_ms` counts from the call of `invoke`, `queue_ms` is the part of it before a worker had the request.
    """

    result: Result
    wall_ms: float
    queue_ms: float
    calls: int


def largest_request(memory: int) -> int:
    """Return how many bytes of request fit into the memory of an invocation: the guest holds it twice for a moment.

    Args:
        memory: `InvokeLimits.memory`.
    """
    return memory // 2


InvokeErrorKind = Literal["overload", "unavailable", "wall", "crash", "oom", "image", "response"]


class InvokeError(Exception):
    """An invocation that the host ended, or never began.

    Args:
        kind: `overload`: no worker was free in time; `unavailable`: no worker can be started, or the host is closed;
            `wall`: its worker was killed at the wall limit; `crash`: its worker died or spoke out of turn; `oom`: the
            kernel killed its worker; `image`: the image cannot be opened, bake the app again; `response`: the result
            is not one.
        message: text for the app's log; never for a public body.
    """

    def __init__(self, kind: InvokeErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind: InvokeErrorKind = kind
        self.message = message

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.kind in ("overload", "unavailable")

    def __repr__(self) -> str:
        return f"InvokeError({self.kind!r}, {self.message!r})"
