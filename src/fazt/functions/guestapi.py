"""The boundary between the process machinery of functions and the JavaScript guest.

Whoever runs workers imports this module alone: the engine's protocol, the frames that cross the boundary, and the
values they carry. Engines are `engine_wasm` (QuickJS-ng compiled to WebAssembly) and `engine_jsbox` (native QuickJS,
for development).

A *frame* is a 4-byte little-endian length, that many bytes of JSON (one UTF-8 object), then raw bytes up to the end.

Request frame (made by `build_request`)::

    {"app": {"id", "name"}, "version": "0.1.0", "env": {NAME: value},
     "request": {"method", "path", "query": [[name, value], …], "headers": [[name, value], …],
                 "body": {"kind": "none"|"json"|"text"|"bytes"|"form", "start", "length", "fields": [[k, v], …]},
                 "files": [{"field", "name", "type", "start", "length"}, …]}}

`start`/`length` point into the raw bytes. The host has already refused what it can't parse (400, 413).

Host calls (script to parent, one reply each)::

    {"op": "fetch", "url", "method", "headers": [[k, v], …], "timeout": ms | null, "auth": name | null,
     "hasBody": bool, "bodySize": bytes, "invalid": sentence | null}  + body
    → {"ok": {"status", "url", "redirected", "headers": [[k, v], …], "callId"}}  + body
    → {"error": {"code", "reason", "message", "retryable", "retryAfter", "callId"}}

`invalid` is set when the options could not be read: the parent counts and records the call, and refuses it with
`bad_option` and that sentence. A body larger than `MAX_CALL_BODY` is not sent at all (`bodySize` tells): refuse it with
`request_body`. A worker relays both directions unparsed.

Posts (no reply): ``{"op": "log", "level": "info" | "warn" | "error" | "debug", "message"}``.

Result frame (read by `parse_result`)::

    {"status", "headers": [[k, v], …], "bodyKind": "json" | "text" | "bytes" | "none", "logsDropped", "usage"}  + body
    {"error": {"kind", "name", "message", "stack",
               "net": {"code", "reason", "message", "retryable", "retryAfter", "callId"} | null},
     "logsDropped", "usage": {"cpuMs", "wallMs", "memory"}}
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args

from fazt.functions import guest

MAX_CALL_BODY = 10 * 1024 * 1024
"""Largest request body in bytes that a script's call carries to the parent: the upper end of `net.max_req_body`."""
MAX_LOG_LINE = 8 * 1024
"""Longest console line in characters; the rest is cut."""
MAX_LOG_BYTES = 256 * 1024
"""Console characters one invocation may write in all."""

ErrorKind = Literal["exception", "cpu", "wall", "memory", "stack", "output", "request", "killed"]
"""How an invocation failed.

`exception`: uncaught; `cpu`, `wall`, `memory`, `stack`, `output`: a limit; `request`: the request frame did not fit the
guest; `killed`: the guest broke (trap, nonsense in a frame) or, set by the parent, its worker was killed.
"""
BodyKind = Literal["json", "text", "bytes", "none"]
Fields = tuple[tuple[str, str], ...]
HostCall = Callable[[bytes], bytes]
"""Send one host-call frame, block for the reply frame. An exception ends the invocation as `killed`."""
Post = Callable[[bytes], None]
"""Send one frame that has no reply."""


class FrameError(ValueError):
    """Bytes from the other side that are not the frame they should be."""


class BakeError(Exception):
    """An app that cannot be made into an image.

    Args:
        message: what is wrong, naming file and line where there is one; for the app's author.
        kind: "syntax", "missing" (no api/main.js), "json", "encoding", or a limit: "cpu", "memory", "stack", "killed".
        path: the file, relative to the app's root.
    """

    def __init__(self, message: str, kind: str, *, path: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.path = path


class ImageError(Exception):
    """An image that this engine cannot run (another engine, guest or prelude made it): bake the app again."""


class EngineUnavailableError(Exception):
    """An engine that cannot run on this machine; the message says why."""


@dataclass(frozen=True, slots=True)
class AppBundle:
    """The part of an app that runs: what `bake` needs.

    Args:
        app_id: stable id of the app.
        name: its routing name.
        files: path relative to the app's root ("api/main.js") to content; only `.js` and `.json` under `api/` are read.
        version: id of the deployment.
    """

    app_id: str
    name: str
    files: Mapping[str, bytes]
    version: str = ""


class Image(Protocol):
    """A baked app, opened for invocations. Valid in forked children as well."""

    app_id: str
    version: str

    def close(self) -> None:
        """Give back the descriptor."""


class GuestEngine(Protocol):
    """One way of running JavaScript. Not thread-safe: one invocation at a time for each engine.

    After a fork the child may go on using the parent's engine: `start_watchdog` starts the one thread that an engine
    needs, in the process that calls it (before seccomp); `invoke` and `bake` start it when it isn't running.
    """

    kind: str
    fingerprint: str
    """Changes whenever images made earlier can no longer be run."""

    def bake(self, bundle: AppBundle, *, memory: int, cpu_ms: float = 10_000) -> bytes:
        """Compile an app into an image: the content of a file for `open_image` (`write_image` stores it sparsely).

        Args:
            bundle: the app.
            memory: bytes the app may use beyond what the runtime itself needs.
            cpu_ms: CPU time for compiling, in ms.

        Raises:
            BakeError: the app has a mistake or exceeds a limit. Host calls are refused while baking.
        """

    def open_image(self, source: int | str | Path) -> Image:
        """Open an image by path or file descriptor (duplicated); the file must never change in place.

        Raises:
            ImageError: not an image of this engine (compare `fingerprint`); bake again.
        """

    def start_watchdog(self) -> None:
        """Start the thread that enforces the CPU and wall limits, if this process has none yet."""

    def invoke(
        self,
        image: Image,
        request: bytes,
        *,
        host: HostCall,
        post: Post,
        cpu_ms: float,
        wall_ms: float,
        memory: int,
        max_output: int,
        max_log_lines: int,
        seed: bytes,
    ) -> bytes:
        """Run one request in a fresh environment and return the result frame; never raises for what a script does.

        Args:
            image: from `open_image`.
            request: request frame.
            host: relays host calls.
            post: relays log lines.
            cpu_ms, wall_ms: limits in ms, counted from the start of this call.
            memory: bytes the app may use beyond what the runtime itself needs.
            max_output: bytes of the response's body and headers.
            max_log_lines: console lines that are passed on; the rest is counted and dropped.
            seed: 16 bytes or more for `Math.random`.
        """

    def close(self) -> None:
        """Stop the watchdog and release the engine."""


# -- frames ------------------------------------------------------------------------------------------------------------


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def pack(header: Mapping[str, Any], body: bytes = b"") -> bytes:
    """Make a frame of a JSON object and raw bytes."""
    text = _encode(header).encode("utf-8", "replace")
    return len(text).to_bytes(4, "little") + text + body


def unpack(frame: bytes) -> tuple[dict[str, Any], bytes]:
    """Split a frame into its JSON object and raw bytes.

    Raises:
        FrameError: too short, not UTF-8, not JSON, or not an object.
    """
    if len(frame) < 4:
        raise FrameError("a frame is at least 4 bytes long")
    end = 4 + int.from_bytes(frame[:4], "little")
    if end > len(frame):
        raise FrameError("the header is longer than the frame")
    try:
        text = frame[4:end].decode("utf-8", "replace")
        header = json.loads(text)
        if "\\ud" in text or "\\uD" in text:  # a lone surrogate is no text: it would fail wherever it is encoded
            json.dumps(header, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as exc:
        raise FrameError("the header is not JSON of well-formed text") from exc
    if not isinstance(header, dict):
        raise FrameError("the header is not an object")
    return header, frame[end:]


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """One file of a multipart request, its name already reduced to a base name."""

    field: str
    name: str
    type: str
    data: bytes


def build_request(
    *,
    app_id: str,
    app_name: str,
    method: str,
    path: str,
    query: Sequence[tuple[str, str]] = (),
    headers: Sequence[tuple[str, str]] = (),
    body_kind: Literal["none", "json", "text", "bytes", "form"] = "none",
    body: bytes = b"",
    form: Sequence[tuple[str, str]] = (),
    files: Sequence[UploadedFile] = (),
    env: Mapping[str, str] | None = None,
    version: str = "",
) -> bytes:
    """Make the request frame of one invocation.

    Args:
        body: for the kinds json, text (UTF-8) and bytes.
        form: text fields of an urlencoded or multipart request, for the kind form.
        env: what `fazt.env` shows.
        version: what `fazt.version` shows.
    """
    raw = [body]
    at = len(body)
    listed = []
    for file in files:
        listed.append(
            {"field": file.field, "name": file.name, "type": file.type, "start": at, "length": len(file.data)},
        )
        raw.append(file.data)
        at += len(file.data)
    header = {
        "app": {"id": app_id, "name": app_name},
        "version": version,
        "env": dict(env or {}),
        "request": {
            "method": method,
            "path": path,
            "query": [list(pair) for pair in query],
            "headers": [list(pair) for pair in headers],
            "body": {"kind": body_kind, "start": 0, "length": len(body), "fields": [list(pair) for pair in form]},
            "files": listed,
        },
    }
    return pack(header, b"".join(raw))


@dataclass(frozen=True, slots=True)
class ScriptError:
    """How an invocation failed. `message` and `stack` are for the app's log, never for a public body.

    `net` holds the public fields of the network error that is, or is the cause of, an uncaught exception; only errors
    that the host itself produced in this invocation are named there.
    """

    kind: ErrorKind
    name: str
    message: str
    stack: str = ""
    net: Mapping[str, Any] | None = None

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later (503 instead of 500)."""
        return bool(self.net and self.net.get("retryable") is True)

    @property
    def retry_after(self) -> float | None:
        """Seconds until a retry can succeed, where the network error said so."""
        value = self.net.get("retryAfter") if self.net else None
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True, slots=True)
class Usage:
    """What an invocation cost: times in ms, linear memory in bytes."""

    cpu_ms: float = 0.0
    wall_ms: float = 0.0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """Outcome of an invocation: a response, or an error with status 500."""

    status: int
    headers: Fields = field(repr=False)
    body_kind: BodyKind
    body: bytes = field(repr=False)
    error: ScriptError | None = None
    logs_dropped: int = 0
    usage: Usage = field(default_factory=Usage)


def parse_result(frame: bytes) -> Result:
    """Read a result frame, trusting nothing in it.

    Raises:
        FrameError: a shape or a value that the frame format does not allow.
    """
    return read_result(*unpack(frame))


def read_result(header: Mapping[str, Any], body: bytes) -> Result:
    """Read a result frame that is split already; see `parse_result`."""
    dropped = header.get("logsDropped", 0)
    usage = _usage(header.get("usage"))
    dropped = dropped if isinstance(dropped, int) and not isinstance(dropped, bool) and dropped >= 0 else 0
    error = header.get("error")
    if error is not None:
        return Result(500, (), "none", b"", _script_error(error), dropped, usage)
    status = header.get("status")
    if not isinstance(status, int) or isinstance(status, bool) or not 100 <= status <= 599:
        raise FrameError("the status is not an integer from 100 to 599")
    kind = header.get("bodyKind")
    if kind not in get_args(BodyKind):
        raise FrameError("unknown kind of body")
    return Result(status, _fields(header.get("headers")), cast(BodyKind, kind), body, None, dropped, usage)


def _fields(value: object) -> Fields:
    if not isinstance(value, list):
        raise FrameError("headers are not a list")
    out = []
    for pair in value:
        match pair:
            case [str(name), str(text)]:
                out.append((name, text))
            case _:
                raise FrameError("a header is not a pair of strings")
    return tuple(out)


_MOST = 1 << 53


def _usage(value: object) -> Usage:
    if not isinstance(value, dict):
        return Usage()
    numbers = [value.get(key, 0) for key in ("cpuMs", "wallMs", "memory")]
    # false for NaN; an infinite or huge number would not convert
    cpu, wall, memory = (n if isinstance(n, int | float) and 0 <= n <= _MOST else 0 for n in numbers)
    return Usage(float(cpu), float(wall), int(memory))


def _script_error(value: object) -> ScriptError:
    if not isinstance(value, dict) or value.get("kind") not in get_args(ErrorKind):
        raise FrameError("unknown kind of error")
    name, message, stack = (str(value.get(key) or "") for key in ("name", "message", "stack"))
    net = value.get("net")
    return ScriptError(value["kind"], name, message, stack, net if isinstance(net, dict) else None)


# -- choosing an engine ------------------------------------------------------------------------------------------------


def open_engine(kind: Literal["auto", "wasm", "jsbox"] = "auto", *, cache_dir: Path | None = None) -> GuestEngine:
    """Open an engine: the WebAssembly guest where it was built, else the fallback.

    Compiling the guest starts threads, so it happens in a process of its own, once for each machine; this process only
    deserialises and stays single-threaded until `start_watchdog`.

    Args:
        kind: "auto" takes jsbox only when no guest was built.
        cache_dir: where the compiled module is kept; default `$XDG_CACHE_HOME/fazt/guest`.

    Raises:
        EngineUnavailableError: the wanted engine cannot run here.
    """
    # a guest that is there and can't be used is a fault to mend: native code in its place would be less safe, unasked
    if kind == "wasm" or (kind == "auto" and guest.WASM.exists()):
        from fazt.functions.engine_wasm import WasmEngine  # heavy: only where functions run

        return WasmEngine.open(cache_dir=cache_dir)
    from fazt.functions.engine_jsbox import JsboxEngine

    return JsboxEngine()


def write_image(path: Path, data: bytes) -> None:
    """Write an image beside `path` and rename it into place, leaving runs of zero pages as holes; mode 0600."""
    page = 4096
    zero = bytes(page)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, len(data))
        for start in range(0, len(data), page):
            chunk = data[start : start + page]
            if chunk != zero[: len(chunk)]:
                os.pwrite(fd, chunk, start)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(staged, path)
