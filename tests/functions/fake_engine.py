"""An engine whose apps are Python: what a stranger could do who has broken out of the real engine, to the last call.

An image is Python source. It runs with `request` (dict), `body`, `call(header, body) -> (dict, bytes)`, `log(text)`,
`raw` (the unlimited `host` and `post`), and sets `answer` (text, bytes or a finished frame) or raises.
"""

from __future__ import annotations

import ctypes  # noqa: F401 - what apps here import must be loaded: a worker can't open files
import mmap  # noqa: F401
import os
import resource  # noqa: F401
import signal  # noqa: F401
import socket  # noqa: F401
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from fazt.functions.guestapi import AppBundle, BakeError, HostCall, ImageError, Post, pack, unpack

LEAK: dict[str, Any] = {}
"""State of the process: it outlives an invocation here, so that tests see which process they are in."""


class FakeImage:
    def __init__(self, source: str, fd: int) -> None:
        self.source = source
        self.app_id = "fake"
        self.version = "1"
        self.fd = fd

    def close(self) -> None:
        os.close(self.fd)


class FakeEngine:
    kind = "fake"
    fingerprint = "fake-1"

    def bake(self, bundle: AppBundle, *, memory: int, cpu_ms: float = 10_000) -> bytes:
        source = bundle.files["api/main.js"]
        if source == b"syntax":
            raise BakeError("a mistake", "syntax", path="api/main.js")
        if source == b"die":
            os._exit(3)
        return source + b" # baked"

    def open_image(self, source: int | str | Path) -> FakeImage:
        assert isinstance(source, int)
        fd = os.dup(source)
        text = os.pread(fd, 1 << 20, 0).decode()
        if text.startswith("unusable"):
            raise ImageError("not an image")
        return FakeImage(text, fd)

    def start_watchdog(self) -> None:
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(0.01)
            job = LEAK.pop("from_thread", None)
            if job is not None:
                try:
                    LEAK["thread_said"] = job()
                except OSError as exc:
                    LEAK["thread_said"] = exc.errno

    def invoke(
        self,
        image: FakeImage,
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
        header, body = unpack(request)

        def call(header: dict[str, Any], body: bytes = b"") -> tuple[dict[str, Any], bytes]:
            return unpack(host(pack(header, body)))

        def log(message: str, level: str = "info") -> None:
            post(pack({"op": "log", "level": level, "message": message}))

        def say(message: bytes) -> None:
            """Write to the host's socket as if the worker's own code had been taken over."""
            link = next(cell.cell_contents for cell in post.__closure__ or () if hasattr(cell.cell_contents, "sock"))
            link.sock.sendall(message)

        space: dict[str, Any] = {
            "request": header,
            "body": body,
            "call": call,
            "log": log,
            "raw": (host, post),
            "say": say,
            "pack": pack,
            "seed": seed,
            "limits": {"wall_ms": wall_ms, "memory": memory},
            "LEAK": LEAK,
        }
        try:
            exec(image.source, space)
            answer = space.get("answer", "")
        except Exception as exc:
            kind = "killed" if type(exc).__name__ == "AbortedError" else "exception"
            text = {"kind": kind, "name": type(exc).__name__, "message": str(exc), "stack": traceback.format_exc()}
            return pack({"error": text})
        if isinstance(answer, tuple):
            return bytes(answer[0])
        if isinstance(answer, str):
            answer = answer.encode()
        return pack({"status": 200, "headers": [], "bodyKind": "text"}, answer)

    def close(self) -> None:
        pass


def make() -> FakeEngine:
    return FakeEngine()


def native() -> FakeEngine:
    """An engine that needs the wider profile."""
    engine = FakeEngine()
    engine.kind = "jsbox"
    return engine


def leaky() -> FakeEngine:
    """A filter with a hole in it."""
    from fazt.functions import seccomp

    real = seccomp.worker_rules
    numbers = {**seccomp.X86_64.numbers, "socket": 41}
    arch = seccomp.Arch("x86_64", seccomp.X86_64.audit, True, numbers)
    seccomp._ARCHES = dict.fromkeys(seccomp._ARCHES, arch)
    seccomp.worker_rules = lambda **given: {**real(**given), "socket": ()}
    return FakeEngine()


def no_tsync() -> FakeEngine:
    """A kernel that can't bring every thread under the filter."""
    from fazt.functions import seccomp

    def refuse(*_: object) -> None:
        raise OSError(22, "seccomp with TSYNC: Invalid argument")

    seccomp.install = refuse
    return FakeEngine()


def no_filter_on_thread() -> FakeEngine:
    """A filter that was put on one thread alone."""
    from fazt.functions import seccomp

    seccomp._FLAG_TSYNC = 0
    return FakeEngine()


def broken() -> FakeEngine:
    raise RuntimeError("no such engine")
