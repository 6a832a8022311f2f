"""A file that several processes append whole lines to, with rotation by size."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from fazt.errors import ConfigError, StoreError

_TRIES = 100


class LockedFile:
    """Appends lines under a lock that all processes of the machine see; readable by its owner only.

    Whoever makes it too long moves it away (`name.1`, `name.2`, …) while it holds the lock; whoever waited for the
    lock meanwhile sees that the name leads elsewhere now, and goes there.

    Args:
        path: the file; its directory must exist.
        max_bytes: size that no file outgrows, unless one single line does.
        keep: how many old files stay.
        header: what every new file begins with.

    Raises:
        ConfigError: a number out of range.
    """

    def __init__(self, path: Path, *, max_bytes: int, keep: int, header: bytes = b"") -> None:
        if max_bytes < 1024 or not 0 <= keep <= 1000:
            raise ConfigError("max_bytes must be at least 1024, and keep 0 to 1000")
        self.path = path.absolute()
        self._max = max_bytes
        self._keep = keep
        self._header = header
        self._descriptor = -1

    def write(self, lines: Sequence[bytes]) -> None:
        """Append lines, each with its own line end.

        Raises:
            OSError: they could not be written; no piece of a line stays behind.
            StoreError: the path leads to no regular file, or others move it faster than it can be locked.
        """
        left = list(lines)
        while left:
            with self._locked() as descriptor:
                left = self._append(descriptor, left)

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _append(self, descriptor: int, lines: list[bytes]) -> list[bytes]:
        """Write as many lines as fit; return those that belong in the next file."""
        size = os.fstat(descriptor).st_size
        start = self._header if size == 0 else b""
        # A process that was killed, or a full disk, may have left half a line.
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            start = b"\n"
        room = self._max - size - len(start)
        count = 0
        for text in lines:
            room -= len(text)
            if room < 0:
                break
            count += 1
        if count == 0 and size <= len(self._header):
            count = 1  # longer than any file may be: it gets one of its own
        if count:
            self._put(descriptor, start + b"".join(lines[:count]), size)
        if count < len(lines):
            self._rotate()
        return lines[count:]

    def _put(self, descriptor: int, data: bytes, size: int) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(descriptor, view) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
            raise

    def _rotate(self) -> None:
        name = str(self.path)
        if self._keep == 0:
            os.unlink(name)
            return
        for number in range(self._keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{name}.{number}", f"{name}.{number + 1}")
        os.replace(name, f"{name}.1")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        for _ in range(_TRIES):
            descriptor = self._opened()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if self._current(descriptor):
                break
            self.close()  # which gives the lock back
        else:
            raise StoreError(f"{self.path} is moved away faster than it can be locked")
        try:
            yield descriptor
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _opened(self) -> int:
        if self._descriptor < 0:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(self.path, flags, 0o600)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise StoreError(f"{self.path} is not a regular file")
            self._descriptor = descriptor
        return self._descriptor

    def _current(self, descriptor: int) -> bool:
        ours = os.fstat(descriptor)
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
