"""The libraries that content decoding may use where they are installed: found once, when first asked for.

Only what can stop after a step of output is used; a library that unpacks all it is given at once is as good as none.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any, Protocol

STEP = 64 * 1024
"""Bytes of output asked for at a time."""
_WINDOW_LOG = 23
"""RFC 9659 section 3: content coded with zstd keeps to windows of 8 MB."""
_BLOCK_HEADER = 3
_MAGIC = b"\x28\xb5\x2f\xfd"


class ZstdReader(Protocol):
    """Decompressor of one zstd frame, as Python 3.14 has it."""

    @property
    def eof(self) -> bool:
        """Whether the frame has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether all that was given has come out."""

    @property
    def unused_data(self) -> bytes:
        """What was given beyond the end of the frame."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return the next step of output."""


def _module(*names: str) -> ModuleType | None:
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


@lru_cache(maxsize=1)
def _brotli() -> ModuleType | None:
    for name in ("brotli", "brotlicffi"):
        module = _module(name)
        if module is None:
            continue
        try:
            module.Decompressor().process(b"", output_buffer_limit=1)
        except (TypeError, AttributeError):  # older than 1.2, or another package of that name
            continue
        return module
    return None


def brotli_decompressor() -> tuple[Any, type[Exception]] | None:
    """Return a decompressor of brotli and the exception it raises; None when no library for it is here."""
    module = _brotli()
    return None if module is None else (module.Decompressor(), module.error)


@lru_cache(maxsize=1)
def zstd_reader() -> tuple[Callable[[], ZstdReader], type[Exception]] | None:
    """Return what begins a frame of zstd and the exception it raises; None when no library for it is here."""
    module = _module("compression.zstd", "backports.zstd")
    if module is not None:
        options = {module.DecompressionParameter.window_log_max: _WINDOW_LOG}
        begin, error = module.ZstdDecompressor, module.ZstdError
        return lambda: begin(options=options), error
    module = _module("zstandard")
    if module is not None:
        shared = module.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG)
        return lambda: BlockReader(shared.decompressobj(), module.ZstdError), module.ZstdError
    return None


class BlockReader:
    """A frame through `zstandard`, which unpacks all it is given: it is given one block at a time.

    A block unpacks to 128 KiB at most (RFC 8878 section 3.1.1.2.4), so that is what a step may have.

    Args:
        unpack: a `decompressobj`.
        error: what it raises.
    """

    __slots__ = ("_blocks_begun", "_checked", "_error", "_held", "_last", "_left", "_unpack", "eof")

    def __init__(self, unpack: Any, error: type[Exception]) -> None:
        self._unpack = unpack
        self._error = error
        self._held = b""
        self._left = 0
        """Bytes until the next boundary: the end of a header, of a block (and checksum), of a frame to be skipped."""
        self._blocks_begun = False
        self._checked = False
        self._last = False
        self.eof = False

    @property
    def needs_input(self) -> bool:
        """Whether all that was given has come out."""
        return not self.eof and (not self._held or (not self._left and self._boundary() is None))

    @property
    def unused_data(self) -> bytes:
        """What was given beyond the end of the frame."""
        return self._held if self.eof else b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return what the next block unpacks to; `max_length` cannot be had finer than that."""
        self._held += data
        while self._held and not self.eof:
            if not self._left:
                boundary = self._boundary()
                if boundary is None:
                    return b""
                self._left = boundary
            given, self._held = self._held[: self._left], self._held[self._left :]
            self._left -= len(given)
            out: bytes = self._unpack.decompress(given)
            if not self._left and self._last:
                self.eof = True
            if out:
                return out
        return b""

    def _boundary(self) -> int | None:
        """Return how many bytes may be given next, None while that cannot be told."""
        if not self._blocks_begun:
            return self._frame_header()
        if len(self._held) < _BLOCK_HEADER:
            return None
        header = int.from_bytes(self._held[:_BLOCK_HEADER], "little")
        # section 3.1.1.2: last block, type (1: one byte repeated, 3: reserved), size
        kind, size = header >> 1 & 3, header >> 3
        self._last = bool(header & 1)
        return _BLOCK_HEADER + (1 if kind == 1 else size) + (4 if self._last and self._checked else 0)

    def _frame_header(self) -> int | None:
        held = self._held
        if held[1:4] == b"\x2a\x4d\x18" and held[0] & 0xF0 == 0x50:  # section 3.1.2: a frame to be skipped
            if len(held) < 8:
                return None
            self._blocks_begun = self._last = True
            return 8 + int.from_bytes(held[4:8], "little")
        if len(held) < 5:
            return None
        if held[:4] != _MAGIC:
            raise self._error("not a frame of zstd")
        flags = held[4]  # section 3.1.1.1.1
        single = flags >> 5 & 1
        self._checked = bool(flags & 4)
        self._blocks_begun = True
        return 5 + (1 - single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]
