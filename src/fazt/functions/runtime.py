"""Runs an app's handler for one request: its image, its settings, its calls through the engine, its log lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from fazt.core import profiles
from fazt.core.budget import Invocation
from fazt.core.call import Fields, Request
from fazt.errors import FaztError, OperatorError, Reason
from fazt.functions.frames import encode_request, response_of
from fazt.functions.guestapi import MAX_CALL_BODY, pack
from fazt.functions.invocation import (
    AppImage,
    InvokeError,
    InvokeErrorKind,
    InvokeLimits,
    InvokeResult,
    largest_request,
)
from fazt.functions.model import AppRequest, AppResponse, FailureKind, InvocationFailure
from fazt.version import __version__

if TYPE_CHECKING:
    from fazt.core.limits import Limits
    from fazt.engine import AsyncEngine
    from fazt.functions.host import FunctionHost

Loaded = tuple[AppImage, str, Mapping[str, str]]
"""What a handler runs with: its image, the app's name, its settings."""


class Load(Protocol):
    """Gives image, name and settings of an app."""

    async def __call__(self, app_id: str, *, afresh: bool = False) -> Loaded | None:
        """Return them, or None where nothing was deployed; raises `OperatorError`."""


class _TooLargeError(Exception):
    pass


class FunctionRuntime:
    """Handles requests to apps.

    Args:
        host: the workers.
        engine: makes the calls.
        load: gives what an app by id runs with, None where nothing was deployed; `afresh` bakes its image again.
        log_line: takes a console line: app id, level, message, seconds since the epoch, request id.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        *,
        host: FunctionHost,
        engine: AsyncEngine,
        load: Load,
        log_line: Callable[[str, str, str, float, str], None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._host = host
        self._engine = engine
        self._load = load
        self._log_line = log_line
        self._wall = wall

    async def handle(self, app_id: str, request: AppRequest) -> AppResponse | InvocationFailure:
        """Run `api/main.js` of an app once; raises only when cancelled."""
        engine = self._engine
        limits = engine.policies.current.limits_for(app_id)
        started = engine.clock()
        run = Invocation(
            started + limits.runtime.exec_timeout / 1000,
            net_ms=limits.net.budget,
            max_calls=limits.net.max_calls,
        )

        async def on_host_call(header: dict[str, object], body: bytes) -> bytes:
            return await self._call(app_id, header, body, invocation=run, limits=limits)

        def on_log(level: str, message: str) -> None:
            self._log_line(app_id, level, message, self._wall(), request.id)

        async def invoke(*, afresh: bool) -> InvokeResult | None:
            loaded = await self._load(app_id, afresh=afresh)
            if loaded is None:
                return None
            image, name, env = loaded
            frame = encode_request(request, app_id=app_id, app_name=name, env=env, version=__version__)
            if len(frame) > largest_request(limits.runtime.max_memory):
                raise _TooLargeError
            return await self._host.invoke(
                image,
                frame,
                limits=invoke_limits(limits),
                on_host_call=on_host_call,
                on_log=on_log,
            )

        try:
            try:
                outcome = await invoke(afresh=False)
            except InvokeError as failed:
                if failed.kind != "image":
                    raise
                outcome = await invoke(afresh=True)  # damaged, or made by another engine: nothing ran yet
        except _TooLargeError:  # no worker need find out
            return InvocationFailure(FailureKind.REQUEST, "the request does not fit into runtime.max_memory")
        except InvokeError as failed:
            return InvocationFailure(_KINDS[failed.kind], failed.message)
        except OperatorError as fault:
            return InvocationFailure(FailureKind.STORE, fault.message)
        if outcome is None:
            return InvocationFailure(FailureKind.NO_HANDLER, "nothing is deployed")
        if outcome.result.logs_dropped:
            on_log("warn", f"{outcome.result.logs_dropped} console lines were dropped (runtime.max_log_lines)")
        return response_of(outcome.result, max_output=limits.runtime.max_output)

    async def _call(
        self, app_id: str, header: Mapping[str, Any], body: bytes, *, invocation: Invocation, limits: Limits
    ) -> bytes:
        """Answer one host call of a script; everything in it is untrusted."""
        try:
            request = read_call(app_id, header, body)
            response = await self._engine.call(request, profile=profiles.functions(limits), invocation=invocation)
        except FaztError as refused:
            return pack({"error": refused.public()})
        ok = {
            "status": response.status,
            "url": str(response.url),
            "redirected": response.redirected,
            "headers": [[name.lower(), value] for name, value in response.headers],
            "callId": response.call_id,
        }
        return pack({"ok": ok}, response.body)


def read_call(app_id: str, header: Mapping[str, Any], body: bytes) -> Request:
    """Read a `fetch` host call.

    Raises:
        FaztError: `bad_option` for anything that is no fetch.
    """
    if header.get("op") != "fetch":
        raise FaztError(Reason.BAD_OPTION, "unknown operation")
    invalid = header.get("invalid")
    url, method, auth = header.get("url"), header.get("method", "GET"), header.get("auth")
    fields = _fields(header.get("headers", []))
    wrong = None
    if not isinstance(url, str):
        wrong = "the URL must be a string"
    elif not isinstance(method, str):
        wrong = "the method must be a string"
    elif auth is not None and not isinstance(auth, str):
        wrong = "auth must be the name of a secret"
    elif fields is None:
        wrong = "the headers must be names and values"
    if isinstance(invalid, str):
        wrong = invalid[:500]
    size = header.get("bodySize", 0)
    return Request(
        url=url if isinstance(url, str) else "",
        method=method if isinstance(method, str) else "GET",
        headers=fields or (),
        body=body if header.get("hasBody") is True else None,
        timeout_ms=header.get("timeout"),
        auth=auth if isinstance(auth, str) else None,
        app=app_id,
        door="functions",
        invalid=wrong,
        body_size=size if isinstance(size, int) and not isinstance(size, bool) else 0,
    )


def _fields(value: object) -> Fields | None:
    if not isinstance(value, list):
        return None
    out = []
    for pair in value:
        match pair:
            case [str(name), str(text)]:
                out.append((name, text))
            case _:
                return None
    return tuple(out)


def invoke_limits(limits: Limits) -> InvokeLimits:
    """Return what one invocation of an app under these limits may use."""
    runtime = limits.runtime
    return InvokeLimits(
        cpu_ms=runtime.cpu_time,
        wall_ms=runtime.exec_timeout,
        memory=runtime.max_memory,
        max_output=runtime.max_output,
        max_log_lines=runtime.max_log_lines,
        # A refused call is recorded: one request must not push what matters out of the log.
        max_calls=20 * limits.net.max_calls,
        # every call that counts may come with the largest body, if only to be refused; a loop of them may not
        max_call_bytes=(limits.net.max_calls + 2) * MAX_CALL_BODY,
    )


_KINDS: dict[InvokeErrorKind, FailureKind] = {
    "overload": FailureKind.OVERLOAD,
    "unavailable": FailureKind.OVERLOAD,
    "wall": FailureKind.TIMEOUT,
    "crash": FailureKind.WORKER,
    "oom": FailureKind.MEMORY,
    "image": FailureKind.INTERNAL,
    "response": FailureKind.RESPONSE,
}
