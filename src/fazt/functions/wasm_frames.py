"""Page frames that outlive an instance: the warm pages of an image are overwritten and moved in, not faulted in again.

A fault on a page of a private file mapping costs the kernel a microsecond or two (a frame, a copy, its accounting, and
the way back when it is unmapped), and each invocation needs the hundred pages of the runtime. Here they are kept: every
byte is copied from the image before each loan, so an instance finds in them what the image holds and nothing else.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

_MAYMOVE, _FIXED, _DONTUNMAP = 1, 2, 4
"""mremap(2). With the last (Linux 5.7) the place that pages leave stays reserved, and is empty: never a hole that
another mapping could fall into."""
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_munmap = _libc.munmap
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
if sys.platform == "linux":
    _mremap = _libc.mremap
    _mremap.restype = ctypes.c_void_p
    _mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)


class Frames:
    """The pages of one span of an image. One instance at a time has them.

    Args:
        fd: the image.
        offset, size: the span in the file, in whole pages.
    """

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._size = size
        self._source = self._home = 0
        if sys.platform != "linux" or not size:
            return
        source = _mmap(None, size, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, offset)
        home = _mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        self._source = 0 if source in (None, _FAILED) else source
        self._home = 0 if home in (None, _FAILED) else home
        if not (self._source and self._home):
            self.close()

    def lend(self, address: int) -> bool:
        """Move the pages, with the image's content, over the mapping at `address`; False when that can't be done.

        A failure may leave nothing mapped at `address`.
        """
        if not self._home:
            return False
        ctypes.memmove(self._home, self._source, self._size)
        return self._move(self._home, address)

    def take_back(self, address: int) -> None:
        """Move the pages home from an instance that will not run any more; zeros stay behind."""
        if self._home:
            self._move(address, self._home)

    def _move(self, source: int, target: int) -> bool:
        if _mremap(source, self._size, self._size, _MAYMOVE | _FIXED | _DONTUNMAP, target) == target:
            return True
        # whatever is mapped at home by now is left alone: it may not be ours
        self._home = 0
        self.close()
        return False

    def close(self) -> None:
        """Give the memory back; the pages that are lent go with their instance."""
        for address in (self._source, self._home):
            if address:
                _munmap(address, self._size)
        self._source = self._home = 0
