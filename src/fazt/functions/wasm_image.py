"""Images: the linear memory of a baked app as a file, mapped copy-on-write into every instance that serves it.

Layout: one block of 64 KiB (a multiple of every page size in use) with a magic, a length and JSON; then the memory from
address 0, without the zero pages at its end. What the file does not cover is zero.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fazt.functions.guestapi import ImageError
from fazt.functions.wasm_frames import Frames

WASM_PAGE = 65_536
_MAGIC = b"FAZTIMG1"
_OFFSET = 65_536
_MAP_FIXED = 0x10
_MADV_POPULATE_WRITE = 23
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_madvise = _libc.madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)


def make_image(memory: bytes, *, floor: int, header: Mapping[str, Any]) -> bytes:
    """Make an image of a memory's content.

    Args:
        memory: the whole linear memory.
        floor: bytes that an instance initialises by itself; the image covers at least those.
        header: what `WasmImage` is to know; the number of memory pages and the bytes that follow are added.
    """
    end = max(len(memory.rstrip(b"\0")), floor)
    end = min(-(-end // WASM_PAGE) * WASM_PAGE, len(memory))
    text = json.dumps({**header, "pages": len(memory) // WASM_PAGE, "size": end}).encode()
    head = _MAGIC + len(text).to_bytes(4, "little") + text
    if len(head) > _OFFSET:
        raise ValueError("the header of an image has 64 KiB")
    return head.ljust(_OFFSET, b"\0") + memory[:end]


class WasmImage:
    """An open image. The file must never change in place: running instances see it."""

    def __init__(self, source: int | str | Path, *, fingerprint: str) -> None:
        fd = os.dup(source) if isinstance(source, int) else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        self.fd = fd
        self._frames: Frames | None = None
        try:
            header = _read_header(fd)
            if header.get("fingerprint") != fingerprint:
                raise ImageError("the image was made by another version of the engine")
            self.app_id = str(header["app"])
            self.version = str(header["version"])
            self.mailbox = int(header["mailbox"])
            self.pages = int(header["pages"])
            self.hot = (int(header["hot"][0]), int(header["hot"][1]))
            # not os.fstat: glibc makes that a call that also takes a path, which a sealed worker may not make
            self.length = os.lseek(fd, 0, os.SEEK_END) - _OFFSET
            if self.length != int(header["size"]):
                raise ImageError("the image is cut off")
            if not 0 < self.length <= self.pages * WASM_PAGE or not 0 <= self.hot[0] <= self.hot[1] <= self.length:
                raise ImageError("the image does not fit its own header")
        except (KeyError, IndexError, TypeError, ValueError) as exc:
            self.close()
            raise ImageError("the image has no readable header") from exc
        except BaseException:
            self.close()
            raise

    def map_at(self, address: int) -> None:
        """Map the image over existing memory at `address`, privately: writes stay in this instance.

        Raises:
            MemoryError: the kernel refused.
        """
        start, end = self.hot
        if self._frames is None:  # here, not in a parent that only opens images
            self._frames = Frames(self.fd, _OFFSET + start, end - start)
        self._map(address)
        if self._frames.lend(address + start):
            return
        self._map(address)
        if sys.platform == "linux":  # 5.14 and later; elsewhere it fails, and pages come one by one
            _madvise(address + start, end - start, _MADV_POPULATE_WRITE)

    def _map(self, address: int) -> None:
        flags = mmap.MAP_PRIVATE | _MAP_FIXED
        got = _mmap(address, self.length, mmap.PROT_READ | mmap.PROT_WRITE, flags, self.fd, _OFFSET)
        if got is None or got == _MAP_FAILED:
            raise MemoryError(f"mapping an image failed: {os.strerror(ctypes.get_errno())}")

    def unmap_at(self, address: int) -> None:
        """Take back what the next instance can use again, from one that will not run any more."""
        if self._frames is not None:
            self._frames.take_back(address + self.hot[0])

    def close(self) -> None:
        """Close the descriptor; instances that run keep their mapping."""
        if self._frames is not None:
            self._frames.close()
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def _read_header(fd: int) -> dict[str, Any]:
    head = os.pread(fd, _OFFSET, 0)
    size = int.from_bytes(head[8:12], "little")
    if head[:8] != _MAGIC or size > len(head) - 12:
        raise ImageError("not an image of an app")
    header = json.loads(head[12 : 12 + size])
    if not isinstance(header, dict):
        raise ImageError("not an image of an app")
    return header
