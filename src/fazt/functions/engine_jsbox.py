"""The fallback engine, for development where no WebAssembly guest can be built: native QuickJS through jsbox.

It runs the same prelude and passes the same tests of what a handler sees. What it lacks: an image (files are parsed
again for each invocation), a CPU limit of its own (jsbox knows wall time; whichever limit is smaller is used for
both), and a way to stop one long native operation, such as a multiplication of huge BigInts: there the worker that it
runs in is killed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsbox  # type: ignore[import-untyped]

from fazt.functions import guest
from fazt.functions.guestapi import (
    MAX_CALL_BODY,
    MAX_LOG_BYTES,
    AppBundle,
    BakeError,
    ErrorKind,
    FrameError,
    HostCall,
    Image,
    ImageError,
    Post,
    Usage,
)
from fazt.functions.outcome import NetErrors, failed, finished

_MAGIC = b"FAZTJSB1"
_MAIN = "api/main.js"
_BASE = 4 << 20
"""Bytes that the runtime and the prelude need."""
_NEVER_SETTLES = "the handler waits for a promise that nothing will settle"


class _StoppedError(Exception):
    """A limit was reached while the script was waiting for the host."""


class JsboxImage:
    """An app's sources."""

    def __init__(self, data: bytes) -> None:
        if data[:8] != _MAGIC:
            raise ImageError("not an app that was prepared for jsbox")
        try:
            content = json.loads(data[8:])
            self.app_id: str = content["app"]
            self.version: str = content["version"]
            self.files: list[tuple[str, str]] = [(path, text) for path, text in content["files"]]
            self.returns: bool = content["returns"]
        except (ValueError, KeyError, TypeError) as exc:
            raise ImageError("an app that was prepared for jsbox can't be read") from exc

    def close(self) -> None:
        """Nothing to give back."""


class JsboxEngine:
    """See `GuestEngine`."""

    kind = "jsbox"
    fingerprint = "jsbox-1"

    def __init__(self) -> None:
        # read now: a worker can't open files
        opener = (guest.HERE / "jsbox.js").read_text("utf-8").rstrip().rstrip(";")
        self._script = f"({opener})({guest.prelude_source()})"

    def start_watchdog(self) -> None:
        """Nothing to start: jsbox looks at the clock itself."""

    def close(self) -> None:
        """Nothing to release."""

    def bake(self, bundle: AppBundle, *, memory: int, cpu_ms: float = 10_000) -> bytes:
        """See `GuestEngine`."""
        if _MAIN not in bundle.files:
            raise BakeError(f"the app has no {_MAIN}", "missing", path=_MAIN)
        checker = jsbox.Runtime(memory_limit=_BASE + memory)
        files = []
        returns = False
        for path, content in sorted(bundle.files.items()):
            if not path.startswith("api/") or not path.endswith((".js", ".json")):
                continue
            try:
                text = content.decode("utf-8-sig")
            except UnicodeDecodeError as exc:
                raise BakeError(f"{path}: not UTF-8 (byte {exc.start})", "encoding", path=path) from exc
            files.append((path, text))
            if path.endswith(".json"):
                _check_json(path, text)
            elif _check_script(checker, path, text) and path == _MAIN:
                returns = True
        saved = {"app": bundle.app_id, "version": bundle.version, "files": files, "returns": returns}
        return _MAGIC + json.dumps(saved).encode()

    def open_image(self, source: int | str | Path) -> JsboxImage:
        """See `GuestEngine`."""
        fd = os.dup(source) if isinstance(source, int) else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.lseek(fd, 0, os.SEEK_END)  # not os.fstat: a sealed worker may not make a call that takes a path
            return JsboxImage(os.pread(fd, size, 0))
        finally:
            os.close(fd)

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
        """See `GuestEngine`; `seed` is not used, jsbox seeds itself."""
        assert isinstance(image, JsboxImage)
        started, cpu_started = time.perf_counter(), time.thread_time()
        limit = min(cpu_ms, wall_ms) / 1000
        kind: ErrorKind | None = None
        message = ""
        errors = NetErrors()
        door = _Door(host, post, errors, deadline=time.monotonic() + wall_ms / 1000, lines=max_log_lines)
        try:
            header, body = _split(request)
            inputs = _inputs(image, (header, body, max_output, max_log_lines, time.time() * 1000))
            runtime = jsbox.Runtime(memory_limit=_BASE + memory)
            runtime.bind_function("__fazt_host", door)
            runtime.bind_function("__fazt_take", inputs)
            runtime.eval(self._script, timeout=limit)
        except (_StoppedError, jsbox.JsTimeoutError):
            kind = "cpu" if cpu_ms < wall_ms else "wall"
        except FrameError:
            kind = "request"
            message = "the request can't be read"
        except jsbox.JavaScriptError as exc:
            kind, message = _kind_of(exc, waiting=door.waiting)
        except Exception:  # noqa: BLE001 - whatever breaks an invocation is that invocation's outcome
            kind = "killed"
        usage = Usage((time.thread_time() - cpu_started) * 1000, (time.perf_counter() - started) * 1000, 0)
        if kind is not None:
            return failed(kind, usage, message=message, logs_dropped=door.dropped)
        return finished(door.result, usage, errors=errors, max_output=max_output, logs_dropped=door.dropped)


class _Door:
    """The one function through which the prelude reaches Python."""

    def __init__(self, host: HostCall, post: Post, errors: NetErrors, *, deadline: float, lines: int) -> None:
        self._host = host
        self._post = post
        self._errors = errors
        self._deadline = deadline
        self._lines = lines
        self._characters = MAX_LOG_BYTES
        self.dropped = 0
        self.waiting = False
        self.result: bytes | None = None

    def __call__(self, what: str, text: str, data: bytes | None) -> Any:
        match what:
            case "call":
                return self._call(text, data or b"")
            case "post":
                self._log(text)
            case "result":
                self.result = _frame(text, data or b"")
            case "decode":
                return _decode(data or b"", fatal=text == "fatal")
            case "encode":
                return text.encode()
            case "random":
                return os.urandom(len(data or b""))
            case "waiting" | "waited":
                self.waiting = what == "waiting"
        return None

    def _call(self, header: str, body: bytes) -> tuple[str, bytes]:
        if time.monotonic() >= self._deadline or len(body) > MAX_CALL_BODY:
            raise _StoppedError
        reply = self._host(_frame(header, body))
        if time.monotonic() >= self._deadline:
            raise _StoppedError
        self._errors.note(reply)
        return _split(reply)

    def _log(self, line: str) -> None:
        if self._lines <= 0 or self._characters <= 0:
            self.dropped += 1
            return
        self._lines -= 1
        self._characters -= len(line)
        self._post(_frame(line, b""))


def _frame(header: str, body: bytes) -> bytes:
    text = header.encode()
    return len(text).to_bytes(4, "little") + text + body


def _split(frame: bytes) -> tuple[str, bytes]:
    end = 4 + int.from_bytes(frame[:4], "little")
    if not 4 <= end <= len(frame):
        raise FrameError("a broken frame")
    return frame[4:end].decode("utf-8", "replace"), frame[end:]


def _decode(data: bytes, *, fatal: bool) -> str | None:
    try:
        return data.decode("utf-8", "strict" if fatal else "replace")
    except UnicodeDecodeError:
        return None


def _inputs(image: JsboxImage, request: tuple[str, bytes, int, int, float]) -> Callable[[str], Any]:
    """Return what the driver asks for: each file but the handler, one after the other, then request and handler."""
    others: Iterator[tuple[str, str]] = iter([file for file in image.files if file[0] != _MAIN])
    main = dict(image.files)[_MAIN]

    def take(what: str) -> Any:
        if what == "request":
            return request
        if what == "main":
            return main, image.returns
        path, text = next(others, (None, ""))
        return None if path is None else ("json" if path.endswith(".json") else "js", path, text)

    return take


def _check_json(path: str, text: str) -> None:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise BakeError(f"{path}: {exc}", "json", path=path) from exc


def _check_script(checker: Any, path: str, text: str) -> bool:
    """Parse a file; return whether it has a `return` outside of functions."""
    try:
        checker.check_syntax(text)
    except jsbox.JavaScriptError as exc:
        if exc.message != "return not in a function":
            raise _syntax_error(path, exc) from exc
    else:
        return False
    try:
        checker.check_syntax("(function () {" + text + "\n})")
    except jsbox.JavaScriptError as exc:
        raise _syntax_error(path, exc) from exc
    return True


def _syntax_error(path: str, exc: Any) -> BakeError:
    where = exc.stack.strip().removeprefix("at check") if exc.stack else ""
    return BakeError(f"{path}{where}: {exc.message}", "syntax", path=path)


def _kind_of(exc: Any, *, waiting: bool) -> tuple[ErrorKind, str]:
    if exc.name == "InternalError" and "out of memory" in str(exc):
        return "memory", ""
    if exc.name == "RangeError" and "call stack" in str(exc):
        return "stack", ""
    return ("exception", _NEVER_SETTLES) if waiting else ("killed", "")
