"""Between HTTP and the guest: a request becomes a frame, a result frame becomes a response that is safe to send.

Nothing in a result frame is trusted: whoever breaks the guest writes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from fazt.functions.guestapi import (
    BodyKind,
    ErrorKind,
    FrameError,
    Result,
    ScriptError,
    UploadedFile,
    build_request,
    parse_result,
)
from fazt.functions.model import AppRequest, AppResponse, FailureKind, InvocationFailure, NetFailure

MAX_HEADERS = 128
MAX_HEADER_BYTES = 65_536
_MAX_MESSAGE = 8_192
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

DROPPED = frozenset(
    {
        # hop-by-hop (RFC 9110 section 7.6.1) and framing (RFC 9112 section 6): the server's own business
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
        # set by the server on every answer
        "date",
        "server",
        "x-request-id",
    }
)
"""Fields of an app's response that are left out without a word."""

_KINDS: dict[ErrorKind, FailureKind] = {
    "exception": FailureKind.SCRIPT,
    "cpu": FailureKind.CPU,
    "wall": FailureKind.TIMEOUT,
    "memory": FailureKind.MEMORY,
    "stack": FailureKind.STACK,
    "output": FailureKind.OUTPUT,
    "request": FailureKind.REQUEST,
    "killed": FailureKind.WORKER,
}


def encode_request(
    request: AppRequest, *, app_id: str, app_name: str, env: Mapping[str, str], version: str = ""
) -> bytes:
    """Make the guest's request frame.

    Args:
        request: the request.
        app_id: stable id of the app.
        app_name: the name it is routed by.
        env: what `fazt.env` shows.
        version: what `fazt.version` shows.
    """
    kind, raw = _body(request.body)
    return build_request(
        app_id=app_id,
        app_name=app_name,
        method=request.method,
        path=request.path,
        query=tuple(request.query.items()),
        headers=tuple(request.headers.items()),
        body_kind=kind,
        body=raw,
        files=[
            UploadedFile(field, file.name, file.type, file.data)
            for field, files in request.files.items()
            for file in files
        ],
        env=env,
        version=version,
    )


def _body(body: Any) -> tuple[Literal["none", "json", "text", "bytes"], bytes]:
    if body is None:
        return "none", b""
    if isinstance(body, bytes):
        return "bytes", body
    if isinstance(body, str):
        try:
            return "text", body.encode("utf-8")
        except UnicodeEncodeError:
            pass  # a JSON string with a lone surrogate; as JSON it keeps it
    return "json", json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii")


def decode_result(frame: bytes, *, max_output: int | None = None) -> AppResponse | InvocationFailure:
    """Read a result frame.

    Args:
        frame: what the worker sent.
        max_output: cap of the body in bytes, checked again here.

    Returns: a response that may go on the wire as it is, or the failure. A response that HTTP does not allow (a
    status that is not final, a field with a line break) is a failure of kind `response` (F40).
    """
    try:
        result = parse_result(frame)
    except (FrameError, ArithmeticError, TypeError, ValueError, RecursionError) as wrong:
        # whatever the frame holds, it must not take the host with it
        return _unusable(str(wrong) if isinstance(wrong, FrameError) else type(wrong).__name__)
    return response_of(result, max_output=max_output)


def response_of(result: Result, *, max_output: int | None = None) -> AppResponse | InvocationFailure:
    """Turn a parsed result into a response or a failure; see `decode_result`."""
    if result.error is not None:
        return _failure(result.error)
    if result.status < 200:
        return _unusable(f"status {result.status} is not a final one (200 to 599)")
    body = b"" if result.body_kind == "none" else result.body
    if max_output is not None and len(body) > max_output:
        return InvocationFailure(FailureKind.OUTPUT, f"the response is larger than {max_output} bytes")
    if result.status in (204, 205, 304):  # RFC 9110 sections 15.3.5, 15.3.6, 15.4.5: no content
        body = b""
    headers: list[tuple[str, str]] = []
    size = 0
    for name, text in result.headers:
        if not _TOKEN.fullmatch(name):
            return _unusable(f"{name[:80]!r} is not a header name")
        if name.lower() in DROPPED:
            continue
        if not _VALUE.fullmatch(text):
            return _unusable(f"the value of header {name} holds a control character or one beyond latin-1")
        headers.append((name.lower(), text.strip(" \t")))
        size += len(name) + len(text)
    if len(headers) > MAX_HEADERS or size > MAX_HEADER_BYTES:
        return _unusable(f"more than {MAX_HEADERS} headers or {MAX_HEADER_BYTES} bytes of them")
    if body and not any(name == "content-type" for name, _ in headers):
        headers.append(("content-type", _DEFAULT_TYPE[result.body_kind]))
    return AppResponse(result.status, tuple(headers), body)


_DEFAULT_TYPE: dict[BodyKind, str] = {
    # spec B.3: JSON unless the app says otherwise, whatever the body is made of
    "json": "application/json; charset=utf-8",
    "text": "application/json; charset=utf-8",
    "bytes": "application/json",
    "none": "application/json",
}


def _unusable(why: str) -> InvocationFailure:
    return InvocationFailure(FailureKind.RESPONSE, f"the app's answer cannot be used: {why}")


def _failure(error: ScriptError) -> InvocationFailure:
    text = f"{error.name}: {error.message}" if error.name else error.message
    if error.stack:
        text += f"\n{error.stack}"
    net = NetFailure.known(error.net) if error.net is not None else None
    text = text[:_MAX_MESSAGE].encode("utf-8", "replace").decode()  # a lone surrogate would break the log
    return InvocationFailure(_KINDS[error.kind], text or error.kind, net)
