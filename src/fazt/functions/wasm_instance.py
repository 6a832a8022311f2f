"""One instance of the guest, and the host functions that instances are linked with.

The host functions belong to the linker, which all instances share; they act on the instance that is running. There is
one at a time in an engine.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import time
from collections.abc import Callable
from typing import Any

import wasmtime

from fazt.functions.guestapi import MAX_CALL_BODY, MAX_LOG_LINE, HostCall, Post
from fazt.functions.outcome import NetErrors
from fazt.functions.wasm_image import WasmImage

_MAX_CALL = MAX_CALL_BODY + (1 << 20)
_MAX_POST = 6 * MAX_LOG_LINE + 256  # a character is six bytes of JSON at most
_MAX_RANDOM = 1 << 16
_INBOX = 8192
_MAILBOX = struct.Struct("<7I")  # result, its size; step, its four arguments; then the inbox
_REFUSED = -1


class BrokenGuestError(Exception):
    """The guest did what only a broken guest does; nothing more is asked of it."""


class StoppedError(Exception):
    """A limit was reached while the guest was waiting for the host."""


class Instance:
    """An instance while it lives. Addresses that come from the guest are checked against its memory."""

    def __init__(self, store: wasmtime.Store, instance: wasmtime.Instance, *, result_cap: int) -> None:
        self._store = store
        exports = instance.exports(store)
        memory, enter = exports["memory"], exports["enter"]
        assert isinstance(memory, wasmtime.Memory)
        assert isinstance(enter, wasmtime.Func)
        self.memory = memory
        self._enter = enter
        self._length = 0
        self._base = ctypes.addressof(memory.data_ptr(store).contents)
        self._result_cap = result_cap
        self._pending = b""
        self._host: HostCall | None = None
        self._post: Post | None = None
        self._posts_left = 0
        self._characters_left = 0
        self._mailbox = 0
        self._image: WasmImage | None = None
        self.posts_dropped = 0
        self.errors = NetErrors()
        self.stopped: Callable[[], str | None] = lambda: None

    def connect(self, host: HostCall, post: Post, *, lines: int, characters: int) -> None:
        """Allow host calls, and posts up to a number of lines and of characters."""
        self._host = host
        self._post = post
        self._posts_left = lines
        self._characters_left = characters

    def use_mailbox(self, address: int) -> None:
        """Say where the guest has its mailbox (guest/shim.c)."""
        self._mailbox = address & 0xFFFFFFFF

    def restore(self, image: WasmImage) -> None:
        """Give the instance the memory of an image."""
        missing = image.pages - self.memory.size(self._store)
        if missing > 0:
            self.memory.grow(self._store, missing)
        image.map_at(self._base)
        self._image = image
        self.use_mailbox(image.mailbox)

    def leave(self) -> int:
        """Let go of the image's memory; the guest must not be entered any more. Return the memory's size in bytes."""
        if self._image is not None:
            self._image.unmap_at(self._base)
            self._image = None
        return self.memory.data_len(self._store)

    def enter(self, step: int, *args: int, pending: bytes = b"") -> int:
        """Let the guest take a step of guest/shim.c; `pending` is what it will fetch."""
        if any(not 0 <= arg <= 0xFFFFFFFF for arg in args):
            raise ValueError("a 32-bit number is needed")
        if self._mailbox:
            self._write(self._mailbox, _MAILBOX.pack(0, 0, step, *args, *(0,) * (4 - len(args))))
            self._leave(pending)
        return int(self._enter(self._store))

    def result(self) -> bytes | None:
        """Return the frame that the guest gave as its outcome; of a too large one only the beginning."""
        address, size, *_ = _MAILBOX.unpack(self._read(self._mailbox, _MAILBOX.size))
        return self._read(address, min(size, self._result_cap + 1)) if address else None

    def _leave(self, pending: bytes) -> None:
        if len(pending) <= _INBOX:
            self._write(self._mailbox + _MAILBOX.size, pending)
        else:
            self._pending = pending

    def _read(self, address: int, size: int) -> bytes:
        address, size = address & 0xFFFFFFFF, size & 0xFFFFFFFF
        self._check(address + size)
        return ctypes.string_at(self._base + address, size)

    def _write(self, address: int, content: bytes) -> None:
        address &= 0xFFFFFFFF
        self._check(address + len(content))
        ctypes.memmove(self._base + address, content, len(content))

    def _check(self, end: int) -> None:
        if end > self._length:  # the memory may have grown since it was last measured; it never shrinks
            self._length = self.memory.data_len(self._store)
            if end > self._length:
                raise BrokenGuestError("an address outside of the memory")

    def _check_limits(self) -> None:
        if self.stopped():
            raise StoppedError

    # -- host functions ------------------------------------------------------------------------------------------------

    def host_call(self, address: int, size: int) -> int:
        """Relay a call and keep the reply pending."""
        if self._host is None:
            return _REFUSED
        if size & 0xFFFFFFFF > _MAX_CALL:
            raise BrokenGuestError("a call of that size")
        self._check_limits()
        reply = self._host(self._read(address, size))
        self._check_limits()
        self.errors.note(reply)
        self._leave(reply)
        return len(reply)

    def host_post(self, address: int, size: int) -> None:
        """Relay a log line, within the caps that the prelude keeps as well."""
        if self._post is None:
            return
        self._check_limits()
        size &= 0xFFFFFFFF
        if self._posts_left <= 0 or self._characters_left <= 0 or size > _MAX_POST:
            self.posts_dropped += 1
            return
        self._posts_left -= 1
        self._characters_left -= size // 6
        self._post(self._read(address, size))

    def host_take(self, address: int) -> None:
        """Give the guest what is pending and too large for the inbox."""
        self._write(address, self._pending)
        self._pending = b""

    def host_random(self, address: int, size: int) -> None:
        """Fill a buffer from the system's generator."""
        self._write(address, os.urandom(min(size & 0xFFFFFFFF, _MAX_RANDOM)))

    def clock_time_get(self, clock: int, _precision: int, address: int) -> int:
        """WASI: the clocks."""
        now = time.time_ns() if clock == 0 else time.monotonic_ns()
        self._write(address, now.to_bytes(8, "little"))
        return 0


def _not_supported(*_: int) -> int:
    return errno.ENOSYS  # WASI's numbers differ, but anything other than 0 is a failure


class Switchboard:
    """The module, linked once; its host functions lead to the instance that is running."""

    def __init__(self, engine: wasmtime.Engine, module: wasmtime.Module) -> None:
        self._linker = linker = wasmtime.Linker(engine)
        self._active: Instance | None = None
        self._claimed = False
        for name in ("host_call", "host_post", "host_take", "host_random"):
            self._define(module, "fazt", name)
        for wanted in module.imports:
            if wanted.module != "wasi_snapshot_preview1" or wanted.name is None:
                continue
            if wanted.name == "clock_time_get":
                self._define(module, wanted.module, wanted.name)
            else:  # the C library's standard streams: nothing is behind them
                assert isinstance(wanted.type, wasmtime.FuncType)
                linker.define_func(wanted.module, wanted.name, wanted.type, _not_supported)
        self._prepared = linker.instantiate_pre(module)

    def _define(self, module: wasmtime.Module, space: str, name: str) -> None:
        types = [entry.type for entry in module.imports if entry.module == space and entry.name == name]
        if not types:
            return
        assert isinstance(types[0], wasmtime.FuncType)
        method = getattr(Instance, name)

        def forward(*args: int) -> Any:
            if self._active is None:
                raise BrokenGuestError("no instance is running")
            return method(self._active, *args)

        self._linker.define_func(space, name, types[0], forward)

    def instantiate(self, store: wasmtime.Store, *, result_cap: int) -> Instance:
        """Make an instance and let the host functions act on it until `release`."""
        self._active = Instance(store, self._prepared.instantiate(store), result_cap=result_cap)
        return self._active

    def claim(self) -> None:
        """Reserve the switchboard until `release`.

        Raises:
            RuntimeError: it is in use; an engine runs one invocation at a time.
        """
        if self._claimed:
            raise RuntimeError("an engine runs one invocation at a time")
        self._claimed = True

    def release(self) -> None:
        """Let go of the instance."""
        self._active = None
        self._claimed = False
