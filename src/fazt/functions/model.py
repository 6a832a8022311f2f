"""A request as an app sees it, the response it gives, and the ways an invocation can fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from fazt.errors import Code, FaztError, Reason


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """One file of a multipart request.

    Args:
        name: base name the client gave; never a path.
        type: media type the client declared, or `application/octet-stream`.
        size: length of `data` in bytes.
        data: the content.
    """

    name: str
    type: str
    size: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AppRequest:
    """One request to `api/main.js`, parsed by the server (spec B.2).

    Args:
        method: upper-case method.
        path: canonical path, `/api/…` included.
        query: first value of each parameter.
        headers: first value of each field, names in lower case.
        body: a JSON value, a map of form fields, text, bytes, or None where there is none.
        files: every uploaded file of each field, in order.
        id: id of the HTTP request, as the `X-Request-ID` header of the answer shows it.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=_nothing)
    headers: Mapping[str, str] = field(default_factory=_nothing)
    body: Any = None
    files: Mapping[str, tuple[UploadedFile, ...]] = field(default_factory=_nothing)
    id: str = ""

    def __repr__(self) -> str:  # query, headers and body belong to the app's visitors
        return f"<AppRequest {self.method} {self.path!r} {self.id}>"


@dataclass(frozen=True, slots=True)
class AppResponse:
    """What an app answers: a final status, fields that are safe to send, and the body."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def __repr__(self) -> str:
        return f"<AppResponse {self.status} {len(self.body)}B>"


class FailureKind(StrEnum):
    """Why an invocation gave no response."""

    NO_HANDLER = "no_handler"
    """The app has no `api/main.js`, or there is no such app."""
    SCRIPT = "script"
    """The handler threw and nothing caught it."""
    RESPONSE = "response"
    """The handler answered with something that is not an HTTP response."""
    TIMEOUT = "timeout"
    """The wall clock ran out."""
    CPU = "cpu"
    """The CPU limit was used up."""
    MEMORY = "memory"
    """The memory limit was reached."""
    STACK = "stack"
    """The script nested its calls too deeply."""
    REQUEST = "request"
    """The request does not fit into the memory the app may use."""
    OUTPUT = "output"
    """The response is larger than the limit."""
    WORKER = "worker"
    """The worker process died or spoke out of turn."""
    OVERLOAD = "overload"
    """No worker was free in time."""
    STORE = "store"
    """fazt's own store could not be read or was busy."""
    INTERNAL = "internal"
    """A fault of fazt itself."""


RETRYABLE_KINDS = frozenset({FailureKind.OVERLOAD, FailureKind.STORE})
"""Kinds after which the same request may succeed a little later."""


@dataclass(frozen=True, slots=True)
class NetFailure:
    """The coded error of a call that the handler let through uncaught."""

    code: str
    reason: str
    retryable: bool
    retry_after: float | None = None
    call_id: str | None = None

    @classmethod
    def of(cls, error: FaztError) -> NetFailure:
        """Keep the public fields of an error."""
        return cls(error.code.value, error.reason.value, error.retryable, error.retry_after, error.call_id)

    @classmethod
    def known(cls, fields: Mapping[str, Any]) -> NetFailure | None:
        """Read the fields a guest reported; None unless code and reason are ones that fazt gives.

        The guest is not believed: any script can throw an object with a `code`. What it can gain is a 503 for its
        own visitors; numbers out of range are dropped.
        """
        code, reason = fields.get("code"), fields.get("reason")
        if not isinstance(code, str) or not isinstance(reason, str) or code not in _CODES or reason not in _REASONS:
            return None
        after, call_id = fields.get("retryAfter"), fields.get("callId")
        number = isinstance(after, int | float) and not isinstance(after, bool) and 0 <= after <= 86_400
        return cls(
            code,
            reason,
            fields.get("retryable") is True,
            float(after) if number and after is not None else None,
            call_id if isinstance(call_id, str) and len(call_id) <= 64 and call_id.isascii() else None,
        )


_CODES = frozenset(code.value for code in Code)
_REASONS = frozenset(reason.value for reason in Reason)


@dataclass(frozen=True, slots=True)
class InvocationFailure:
    """An invocation without a response.

    Args:
        kind: what happened.
        message: text for the owner's log; never for a public body.
        net: the coded error behind it, where an uncaught call was the cause.
    """

    kind: FailureKind
    message: str
    net: NetFailure | None = None

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.net.retryable if self.net is not None else self.kind in RETRYABLE_KINDS

    @property
    def said(self) -> str:
        """The line for the owner's log: what happened and, of an uncaught call, its code, reason and id."""
        first, _, stack = self.message.rstrip().partition("\n")
        if self.net is not None:
            first += f" ({' '.join(part for part in (self.net.code, self.net.reason, self.net.call_id) if part)})"
        return f"{self.kind.value}: {first}" + (f"\n{stack}" if stack else "")
