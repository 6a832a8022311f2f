"""What the server says by itself: generic JSON with a stable code and a request id, never anything internal."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from fazt.functions.model import FailureKind, InvocationFailure

JSON = "application/json; charset=utf-8"
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that is whole in memory. `close` ends the connection after it (RFC 9112 section 9.6)."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    close: bool = False


class RefusalError(Exception):
    """A request that the server itself turns down.

    Args:
        status: status of the answer.
        code: stable code for programs.
        message: one generic sentence; nothing of the request, the app or the machine in it.
        headers: further fields of the answer.
        close: whether to close the connection, because the rest of the request is not read.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        close: bool = False,
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers
        self.close = close


def overloaded(*, close: bool = False) -> RefusalError:
    """Put a request off."""
    return RefusalError(
        503, "OVERLOADED", "the service is busy, try again later", headers=(("retry-after", "1"),), close=close
    )


def public(refusal: RefusalError, request_id: str) -> Answer:
    """Say a refusal on the host of an app."""
    fields: dict[str, object] = {"error": refusal.message, "code": refusal.code}
    if refusal.status == 503:
        fields["retryable"] = True
    fields["requestId"] = request_id
    return Answer(refusal.status, (("content-type", JSON), *refusal.headers), _dump(fields), refusal.close)


def enveloped(refusal: RefusalError) -> Answer:
    """Say a refusal of the admin API (spec A.21)."""
    body = _dump({"error": {"code": refusal.code, "message": refusal.message}})
    headers = (("content-type", JSON), ("cache-control", "no-store"), *refusal.headers)
    return Answer(refusal.status, headers, body, refusal.close)


def data(value: object, *, raw: bool = False) -> Answer:
    """Answer the admin API with a value, in its envelope unless `raw`."""
    body = _dump(value if raw else {"data": value})
    return Answer(200, (("content-type", JSON), ("cache-control", "no-store")), body)


def plain(status: int, text: str) -> Answer:
    """Answer with a line of text."""
    return Answer(status, (("content-type", TEXT),), f"{text}\n".encode())


def failed(failure: InvocationFailure, request_id: str) -> Answer:
    """Map a failed invocation to HTTP (spec A.12, B.10; F3, F37).

    What the public may know: whether trying again helps and when, the code of an uncaught call, the request's id.
    The text is in the app's log under that id.
    """
    if failure.kind is FailureKind.NO_HANDLER:
        return plain(404, "not found")
    if failure.kind is FailureKind.REQUEST:
        return public(RefusalError(413, "BODY_TOO_LARGE", "the request body is too large"), request_id)
    fields: dict[str, object] = {}
    headers: tuple[tuple[str, str], ...] = (("content-type", JSON),)
    net = failure.net
    if failure.retryable:
        wait = 1
        if net is not None and net.code == "NET_RATE" and net.retry_after is not None:
            wait = max(1, math.ceil(net.retry_after))
        headers += (("retry-after", str(wait)),)
        fields = {"error": "the service is busy, try again later", "retryable": True}
    else:
        fields = {"error": "the app failed to answer this request"}
    if net is not None:
        fields["code"] = net.code
    fields["requestId"] = request_id
    return Answer(503 if failure.retryable else 500, headers, _dump(fields))


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
