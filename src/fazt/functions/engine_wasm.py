"""The JavaScript engine of functions: QuickJS-ng as WebAssembly, one fresh instance for each invocation.

Nothing is compiled to machine code at a deploy. There is one guest module, compiled once for a machine; an app is
"baked" by letting a guest compile the app's files to bytecode and keeping its memory as an image. An invocation
instantiates the module and maps the image over the instance's memory, copy-on-write.

What is baked is code: every file is parsed, so mistakes surface at the deploy. The bodies of `main.js` and of the
modules run for each invocation, because they may use `request` and must not share state.

Which limit stops what: epochs and a watchdog stop running WebAssembly (CPU, wall); every host call looks at the wall
limit; QuickJS counts its heap and the C stack (exceptions that a script sees); the store caps the memory and wasmtime
the native stack (traps). After a trap the instance is thrown away, as after any invocation.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

import wasmtime

from fazt.functions import guest, wasm_module
from fazt.functions.guestapi import MAX_LOG_BYTES, AppBundle, BakeError, ErrorKind, HostCall, Image, Post, Usage
from fazt.functions.outcome import HEADROOM, REASONS, compile_error, failed, finished
from fazt.functions.wasm_image import WasmImage, make_image
from fazt.functions.wasm_instance import BrokenGuestError, Instance, Switchboard
from fazt.functions.watchdog import Watchdog

C_STACK = 1 << 20
"""Bytes of C stack, at the bottom of the memory: scripts/build-guest links the guest so."""
SLACK = 4 << 20
"""Memory beyond the image and the app's limit: fragments, and what reporting an outcome needs."""

_MAIN = "api/main.js"
_MAIN_KIND = 0
_KINDS = {".js": 1, ".json": 2}
_BAKE_BASE = 8 << 20
_BOOT, _PRELUDE, _LIMIT, _COMPILE, _SEAL, _SERVE = range(6)  # the steps of guest/shim.c


class WasmEngine:
    """See `GuestEngine`. Made by `open`."""

    kind = "wasm"

    def __init__(self, engine: wasmtime.Engine, module: wasmtime.Module, *, wasm_digest: str) -> None:
        self._engine = engine
        self._prelude = guest.prelude_source().encode()
        self.fingerprint = wasm_module.digest(wasm_digest.encode(), self._prelude)[:16]
        self._board = Switchboard(engine, module)
        self._watchdog = Watchdog(engine.increment_epoch)

    @classmethod
    def open(cls, *, cache_dir: Path | None = None) -> WasmEngine:
        """Load the compiled guest, compiling it first in a process of its own where this machine has none.

        Raises:
            EngineUnavailableError: no guest was built, or it can't be compiled here.
        """
        engine = wasm_module.new_engine()
        module, wasm_digest = wasm_module.load(engine, cache_dir=cache_dir)
        return cls(engine, module, wasm_digest=wasm_digest)

    def start_watchdog(self) -> None:
        """See `GuestEngine`."""
        self._watchdog.start()

    def close(self) -> None:
        """See `GuestEngine`."""
        self._watchdog.close()

    def open_image(self, source: int | str | Path) -> WasmImage:
        """See `GuestEngine`."""
        return WasmImage(source, fingerprint=self.fingerprint)

    def bake(self, bundle: AppBundle, *, memory: int, cpu_ms: float = 10_000) -> bytes:
        """See `GuestEngine`."""
        files = [
            (path, _KINDS[Path(path).suffix], content)
            for path, content in sorted(bundle.files.items())
            if path.startswith("api/") and Path(path).suffix in _KINDS
        ]
        if _MAIN not in bundle.files:
            raise BakeError(f"the app has no {_MAIN}", "missing", path=_MAIN)
        size = sum(len(content) for _, _, content in files)
        self._board.claim()
        self._watchdog.start()
        at = _MAIN
        with wasmtime.Store(self._engine) as store:
            store.set_limits(memory_size=_BAKE_BASE + 2 * size + memory + SLACK)
            store.set_epoch_deadline(1)
            self._watchdog.arm(cpu_ms=cpu_ms, wall_ms=10 * cpu_ms)
            try:
                instance = self._board.instantiate(store, result_cap=HEADROOM)
                instance.stopped = lambda: self._watchdog.cause
                before = bytes(instance.memory.read(store))
                mailbox = self._boot(instance)
                hot = _changed(before, bytes(instance.memory.read(store)))
                instance.enter(_LIMIT, memory)
                for at, kind, content in files:
                    self._compile(instance, at, _MAIN_KIND if at == _MAIN else kind, content)
                instance.enter(_SEAL)
                image = bytes(instance.memory.read(store))
            except (wasmtime.Trap, wasmtime.WasmtimeError, BrokenGuestError, MemoryError) as exc:
                reason = self._watchdog.disarm() or trap_kind(exc)
                raise BakeError(f"{at}: {REASONS[reason]} while compiling", reason, path=at) from exc
            finally:
                self._watchdog.disarm()
                self._board.release()
        return make_image(
            bytes(C_STACK) + image[C_STACK:],  # what calls left on the stack is of no use
            floor=len(before),
            header={
                "fingerprint": self.fingerprint,
                "app": bundle.app_id,
                "version": bundle.version,
                "mailbox": mailbox,
                "hot": hot,
            },
        )

    def _boot(self, instance: Instance) -> int:
        mailbox = instance.enter(_BOOT)
        if not mailbox:
            raise BrokenGuestError("no JavaScript runtime")
        instance.use_mailbox(mailbox)
        if instance.enter(_PRELUDE, len(self._prelude), pending=self._prelude) != 0:
            raise BrokenGuestError(f"the prelude failed: {compile_error(instance.result())}")
        return mailbox & 0xFFFFFFFF

    def _compile(self, instance: Instance, path: str, kind: int, content: bytes) -> None:
        if content.startswith(b"\xef\xbb\xbf"):
            content = content[3:]
        try:
            content.decode()
        except UnicodeDecodeError as exc:
            raise BakeError(f"{path}: not UTF-8 (byte {exc.start})", "encoding", path=path) from exc
        name = path.encode()
        if instance.enter(_COMPILE, kind, len(name), len(content), pending=name + content) == 0:
            return
        error, message, stack = compile_error(instance.result())
        if error == "InternalError" and "memory" in message:
            raise BakeError(f"{path}: {REASONS['memory']} while compiling", "memory", path=path)
        if error == "RangeError":
            raise BakeError(f"{path}: {REASONS['stack']} while compiling", "stack", path=path)
        where = _first_place(stack, path)
        raise BakeError(f"{where}: {message}", "json" if kind == _KINDS[".json"] else "syntax", path=path)

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
        """See `GuestEngine`."""
        assert isinstance(image, WasmImage)
        self._board.claim()
        self._watchdog.start()
        started, cpu_started = time.perf_counter(), time.thread_time()
        size = 0
        instance: Instance | None = None
        kind: ErrorKind | None = None
        frame = None
        with wasmtime.Store(self._engine) as store:
            store.set_limits(memory_size=image.pages * 65_536 + memory + SLACK)
            store.set_epoch_deadline(1)
            self._watchdog.arm(cpu_ms=cpu_ms, wall_ms=wall_ms)
            try:
                instance = self._board.instantiate(store, result_cap=max_output + HEADROOM)
                instance.stopped = lambda: self._watchdog.cause
                instance.connect(host, post, lines=max_log_lines, characters=MAX_LOG_BYTES)
                instance.restore(image)
                clocks = struct.pack("<dd", time.time() * 1000, time.monotonic() * 1000)
                pending = seed[:16].ljust(16, b"\0") + clocks + request
                instance.enter(_SERVE, len(pending), memory, max_output, max_log_lines, pending=pending)
                frame = instance.result()
            except Exception as exc:  # noqa: BLE001 - whatever breaks an invocation is that invocation's outcome
                kind = self._watchdog.disarm() or trap_kind(exc)
            finally:
                self._watchdog.disarm()
                self._board.release()
                if instance is not None:
                    size = instance.leave()
        usage = Usage((time.thread_time() - cpu_started) * 1000, (time.perf_counter() - started) * 1000, size)
        dropped = instance.posts_dropped if instance else 0
        if kind is not None or instance is None:
            return failed(kind or "killed", usage, logs_dropped=dropped)
        return finished(frame, usage, errors=instance.errors, max_output=max_output, logs_dropped=dropped)


def trap_kind(exc: BaseException) -> ErrorKind:
    """Name the limit behind an exception that ended a run of the guest, when the watchdog had no part in it."""
    if isinstance(exc, MemoryError):
        return "memory"
    if isinstance(exc, wasmtime.Trap) and exc.trap_code is wasmtime.TrapCode.STACK_OVERFLOW:
        return "stack"
    return "killed"


def _first_place(stack: str, path: str) -> str:
    """Return "path:line:column" of a syntax error from QuickJS's stack text, or the path alone."""
    for line in stack.splitlines():
        found = line.strip().removeprefix("at ").strip("()")
        if found.startswith(f"{path}:"):
            return found
    return path


def _changed(before: bytes, after: bytes) -> tuple[int, int]:
    """Return the span of pages that differ above the stack: the heap of runtime and prelude.

    Every invocation writes to most of it (reference counts), so it is mapped in one step instead of page by page.
    """
    page = 4096
    before = before.ljust(len(after), b"\0")
    starts = [at for at in range(C_STACK, len(after), page) if before[at : at + page] != after[at : at + page]]
    return (starts[0], starts[-1] + page) if starts else (0, 0)
