"""From what a guest says to a result frame that keeps its format, for every engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fazt.functions.guestapi import ErrorKind, FrameError, Usage, pack, read_result, unpack

HEADROOM = 128 << 10
"""Bytes a result frame may have beyond `max_output`: its own fields, or an error with its stack."""

REASONS: Mapping[str, str] = {
    "cpu": "the CPU time limit was reached",
    "wall": "the time limit was reached",
    "memory": "the memory limit was reached",
    "stack": "the call stack is too deep",
    "output": "the response is larger than allowed",
    "killed": "the JavaScript engine broke",
}
"""What an author is told when a limit, not the script, ended an invocation."""


class NetErrors:
    """The network errors that the host produced in one invocation: a script can't make up one.

    A guest names the network error behind an uncaught exception by its call id; what goes into the result is what
    the host said under that id.
    """

    __slots__ = ("_by_id",)

    def __init__(self) -> None:
        self._by_id: dict[str, dict[str, Any]] = {}

    def note(self, reply: bytes) -> None:
        """Remember the error in a reply frame of the host, if it is one."""
        if reply[4:13] != b'{"error":':
            end = 4 + int.from_bytes(reply[:4], "little")
            if b'"error"' not in reply[4:end]:
                return
        try:
            error = unpack(reply)[0].get("error")
        except FrameError:
            return
        if isinstance(error, dict) and isinstance(error.get("callId"), str):
            self._by_id[error["callId"]] = error

    def confirm(self, claim: object) -> dict[str, Any] | None:
        """Return the error that a guest's claim is about, in the host's words; None for a claim without ground."""
        if not isinstance(claim, dict):
            return None
        known = self._by_id.get(claim.get("callId") or "")
        if known is not None:
            return known
        if claim.get("reason") in ("decode", "bad_option"):  # the guest's own findings; neither is retryable
            fields = {key: claim.get(key) for key in ("code", "reason", "message", "callId")}
            return {**fields, "code": "NET_ERROR", "retryable": False, "retryAfter": None}
        return None


def failed(kind: ErrorKind, usage: Usage, *, message: str = "", logs_dropped: int = 0) -> bytes:
    """Make the result frame of an invocation that was ended from outside."""
    error = {"kind": kind, "name": "", "message": message or REASONS[kind], "stack": "", "net": None}
    return pack({"error": error, "logsDropped": logs_dropped, "usage": _usage(usage)})


def finished(frame: bytes | None, usage: Usage, *, errors: NetErrors, max_output: int, logs_dropped: int = 0) -> bytes:
    """Check the frame that a guest gave as its result, and make it the result frame."""
    if frame is None:
        return failed("killed", usage, logs_dropped=logs_dropped)
    if len(frame) > max_output + HEADROOM:
        return failed("output", usage, logs_dropped=logs_dropped)
    try:
        header, body = unpack(frame)
        result = read_result(header, body)
    except FrameError as exc:
        return failed("killed", usage, message=f"the guest gave a broken result: {exc}", logs_dropped=logs_dropped)
    out: dict[str, Any] = {"logsDropped": result.logs_dropped + logs_dropped, "usage": _usage(usage)}
    if result.error is not None:
        out["error"] = {
            "kind": result.error.kind,
            "name": result.error.name,
            "message": result.error.message,
            "stack": result.error.stack,
            "net": errors.confirm(result.error.net),
        }
        return pack(out)
    if len(body) + sum(len(name) + len(value) for name, value in result.headers) > max_output:
        return failed("output", usage, logs_dropped=logs_dropped)
    return pack({"status": result.status, "headers": result.headers, "bodyKind": result.body_kind, **out}, body)


def _usage(usage: Usage) -> dict[str, float]:
    return {"cpuMs": round(usage.cpu_ms, 3), "wallMs": round(usage.wall_ms, 3), "memory": usage.memory}


def compile_error(report: bytes | None) -> tuple[str, str, str]:
    """Read the frame in which a guest reports a failed compilation: name, message and stack."""
    try:
        header = unpack(report or b"")[0]
    except FrameError:
        return "", "", ""
    name, message, stack = (str(header.get(key) or "") for key in ("name", "message", "stack"))
    return name, message, stack
