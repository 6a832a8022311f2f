"""The file a download grows in, beside its destination: locked, resumable, and moved into place at once.

`.NAME.fazt-part` holds the bytes that came so far and nothing else; `.NAME.fazt-part.json` says of which version of
which URL they are. The order in which both are written is such that whenever the process is killed, the destination is
the old file or the new one, and a part is either of the version its sidecar names or not taken for one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from fazt.client.download_error import DownloadError
from fazt.client.download_origin import Origin, read_origin
from fazt.client.download_rename import rename_new
from fazt.errors import Reason

if TYPE_CHECKING:
    from fazt.client.paths import Destination

_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
ALIGNED: Final = 4096
"""Bytes to whose multiples, in the file and in memory, the disk writes by itself."""
_PIECE: Final = 1024 * 1024
_MAX_SIDECAR: Final = 16 * 1024
_LONGEST_NAME: Final = 200
_TRIES: Final = 20
_NO_SYNC = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP})
"""What file systems say that cannot sync a directory."""


class PartFile:
    """An open, locked part. `size` counts the bytes in it that are to be kept.

    Made by `open_part`; ended by `commit`, `keep` or `discard`, each of which closes it.
    """

    __slots__ = (
        "_bypass",
        "_destination",
        "_fd",
        "_had_sidecar",
        "_inode",
        "_lock",
        "_mode",
        "_name",
        "_pid",
        "origin",
        "size",
    )

    def __init__(self, destination: Destination, name: str, fd: int, *, mode: int | None) -> None:
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._fd = fd
        self._destination = destination
        self._name = name
        found = os.fstat(fd)
        self._inode = (found.st_dev, found.st_ino)
        self._mode = mode
        self._had_sidecar = False
        self._bypass = False
        self.size = found.st_size
        self.origin: Origin | None = None

    # --- what was there

    def recall(self) -> None:
        """Read the sidecar; `origin` stays None when the bytes cannot be used."""
        self._had_sidecar = True  # until it is certain that there is none
        try:
            fd = os.open(self._sidecar, _OPEN & ~os.O_RDWR | os.O_RDONLY, dir_fd=self._destination.directory)
        except FileNotFoundError:
            self._had_sidecar = False
            return
        except OSError:
            return
        try:
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and self.size > 0:
                self.origin = read_origin(os.read(fd, _MAX_SIDECAR))
        except OSError:
            return
        finally:
            os.close(fd)

    def digest(self, into: Any) -> None:
        """Feed all bytes of the part to a hash."""
        done = 0
        self.use_cache()  # what is read here is not aligned
        with self._guard("read the part"):
            while done < self.size:
                piece = os.pread(self._fd, min(_PIECE, self.size - done), done)
                if not piece:
                    raise OSError(errno.EIO, "the part is shorter than it was")
                into.update(piece)
                done += len(piece)

    # --- writing

    def begin(self, origin: Origin | None) -> None:
        """Forget what is there and begin anew.

        Args:
            origin: written down before the first byte is; None when this download cannot be resumed.
        """
        with self._guard("write the part"):
            self._use_cache()
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
            self.size = 0
            self.origin = None
            directory = self._destination.directory
            replaced = self._had_sidecar
            if replaced:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._sidecar, dir_fd=directory)
            self._had_sidecar = origin is not None  # before it is, so that an interrupt here leaves none behind
            if origin is not None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(self._sidecar, flags, 0o600, dir_fd=directory)
                try:
                    os.write(fd, origin.written())
                    if replaced:  # after a crash, an older one must not speak for the new bytes
                        os.fsync(fd)
                finally:
                    os.close(fd)
            if replaced:
                _sync_directory(directory)
            self.origin = origin

    def go_on(self) -> None:
        """Go on behind what is there."""
        with self._guard("write the part"):
            self._use_cache()
            os.ftruncate(self._fd, self.size)
            os.lseek(self._fd, self.size, os.SEEK_SET)

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append pieces (at most 1,024 of them), as they are.

        Raises:
            DownloadError: `file_write`.
        """
        with self._guard("write the file"):
            size = sum(map(len, pieces))
            done = os.writev(self._fd, pieces)
            self.size += done
            if done < size:  # a nearly full disk takes a part first
                view = memoryview(b"".join(pieces))[done:]
                while view:
                    done = os.write(self._fd, view)
                    self.size += done
                    view = view[done:]

    def bypass_cache(self) -> bool:
        """Prepare to write past the page cache; False where the file system cannot."""
        self._bypass = self._direct(True)
        return self._bypass

    def use_cache(self) -> None:
        """Prepare for `write`, whose pieces are not aligned."""
        if self._bypass:
            self._direct(False)
            self._bypass = False

    def write_past_cache(self, view: memoryview) -> None:
        """Append bytes that are aligned in memory as they will be in the file.

        Raises:
            DownloadError: `file_write`.
        """
        with self._guard("write the file"):
            head = min(-self.size % ALIGNED, len(view)) if self._bypass else len(view)
            tail = head + (len(view) - head) // ALIGNED * ALIGNED
            if head:
                self._write_plainly(view[:head])
            while head < tail and self._bypass:
                try:
                    done = os.write(self._fd, view[head:tail])
                except OSError as fault:
                    if fault.errno != errno.EINVAL:
                        raise
                    self._bypass = False  # a disk with other wishes, or none of this kind
                    break
                self.size += done
                head += done
                self._bypass = done % ALIGNED == 0
            if head < len(view):
                self._write_plainly(view[head:])

    def _use_cache(self) -> None:
        if self._bypass:
            self._bypass = False
            self._direct(False)

    def _write_plainly(self, view: memoryview) -> None:
        """Append through the page cache."""
        self._direct(False)
        while view:
            done = os.write(self._fd, view)
            self.size += done
            view = view[done:]
        if self._bypass:
            self._bypass = self._direct(True)

    def _direct(self, wanted: bool) -> bool:
        """Switch the cache off or on for what is written next; False where that cannot be done."""
        flag = getattr(os, "O_DIRECT", 0)
        try:
            flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
            fcntl.fcntl(self._fd, fcntl.F_SETFL, flags | flag if wanted else flags & ~flag)
        except OSError:
            return False
        return flag != 0

    # --- the end

    def commit(self, *, overwrite: bool) -> None:
        """Make the part the destination, durably, and close it.

        Args:
            overwrite: whether a file that is there is replaced.

        Raises:
            DownloadError: `file_write`, `file_rename`, `file_exists`; the part is still there and open.
        """
        directory, name = self._destination.directory, self._destination.name
        with self._guard("write the file"):
            if self._mode is not None:
                os.fchmod(self._fd, self._mode)
            os.fsync(self._fd)
        with self._guard("put the file in its place", Reason.FILE_RENAME):
            if not self._is_there(self._name):
                raise DownloadError(Reason.FILE_RENAME, "the part was moved or deleted while it was downloaded")
            if overwrite:
                os.rename(self._name, name, src_dir_fd=directory, dst_dir_fd=directory)
            else:
                try:
                    rename_new(self._name, name, directory)
                except FileExistsError:
                    raise DownloadError(Reason.FILE_EXISTS, "the destination exists by now, and is kept") from None
            if self._had_sidecar:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._sidecar, dir_fd=directory)
                self._had_sidecar = False
            _sync_directory(directory)
            # the directory may have been unmounted, moved or covered meanwhile: what counts is what its path shows
            found = os.stat(self._destination.path, follow_symlinks=False)
            if (found.st_dev, found.st_ino) != self._inode:
                raise DownloadError(Reason.FILE_RENAME, "the directory is no longer where it was")
        self.close()

    def keep(self) -> int:
        """Leave the part for the next try; return its size."""
        self.close()
        return self.size

    def discard(self) -> None:
        """Remove part and sidecar; never raises."""
        directory = self._destination.directory
        with self._lock, contextlib.suppress(OSError):
            if self._fd >= 0 and self._is_there(self._name):
                if self._had_sidecar:  # first: once the part is gone, its name and its sidecar's may be another's
                    with contextlib.suppress(OSError):
                        os.unlink(self._sidecar, dir_fd=directory)
                os.unlink(self._name, dir_fd=directory)
        self.close()

    def close(self) -> None:
        """Let go of file and lock, once no thread is writing any more; may be repeated."""
        with self._lock:
            fd, self._fd = self._fd, -1
            if fd < 0:
                return
            if self._pid == os.getpid():  # a child that was forked meanwhile has the lock too, as long as it lives
                with contextlib.suppress(OSError):
                    fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def _guard(self, doing: str, reason: Reason = Reason.FILE_WRITE) -> _Failing:
        return _Failing(reason, doing, self._lock)

    @property
    def _sidecar(self) -> str:
        return f"{self._name}.json"

    def _is_there(self, name: str) -> bool:
        """Tell whether a name in the directory is this very file."""
        try:
            found = os.stat(name, dir_fd=self._destination.directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == self._inode

    def __del__(self) -> None:
        self.close()


def open_part(destination: Destination, *, mode: int | None, resume: bool) -> PartFile:
    """Open and lock the part of a destination; `origin` says whether its bytes can be used.

    Args:
        destination: from the path gate.
        mode: of the finished file; None for what the umask gives.
        resume: whether bytes of an earlier try are looked at.

    Raises:
        DownloadError: `file_locked` while another download grows in it, `file_write` when it cannot be made.
    """
    name = part_name(destination.name)
    with _Failing(Reason.FILE_WRITE, "make the part"):
        for _ in range(_TRIES):
            found = _open(name, destination.directory, 0o666 if mode is None else 0o600)
            if found is None:
                continue
            fd, made = found
            try:
                if _own(fd, name, destination.directory, made=made):
                    part = PartFile(destination, name, fd, mode=mode)
                    fd = -1
                    part.recall()
                    if not resume:
                        part.origin = None
                    return part
            finally:
                if fd >= 0:
                    os.close(fd)
    raise DownloadError(Reason.FILE_LOCKED, "other downloads to the same file come and go")


def part_name(name: str) -> str:
    """Return the name of the part of a file: readable, and never too long for a directory."""
    raw = os.fsencode(name)
    if len(raw) > _LONGEST_NAME:
        name = os.fsdecode(raw[: _LONGEST_NAME - 20]) + "~" + hashlib.sha256(raw).hexdigest()[:16]
    return f".{name}.fazt-part"


def _open(name: str, directory: int, mode: int) -> tuple[int, bool] | None:
    """Make the part, or open the one that is there; None when it came or went in between."""
    try:
        return os.open(name, _OPEN | os.O_CREAT | os.O_EXCL, mode, dir_fd=directory), True
    except FileExistsError:
        pass
    try:
        return os.open(name, _OPEN, dir_fd=directory), False
    except FileNotFoundError:
        return None
    except OSError as fault:
        if fault.errno == errno.ELOOP:
            raise DownloadError(Reason.FILE_WRITE, f"{name} is a link, and not followed") from None
        raise


def _own(fd: int, name: str, directory: int, *, made: bool) -> bool:
    """Lock an open part; False when by now its name means another file, or nothing.

    Whoever finishes a download renames the part while holding the lock: without looking again, a second process could
    go on to write into the finished file.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DownloadError(Reason.FILE_LOCKED, "another download to this file is under way") from None
    held = os.fstat(fd)
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if (found.st_dev, found.st_ino) != (held.st_dev, held.st_ino):
        return False
    if not made and (not stat.S_ISREG(held.st_mode) or held.st_uid != os.geteuid()):
        raise DownloadError(Reason.FILE_WRITE, f"{name} is there and none of ours")
    if held.st_nlink > 1:  # it is a finished file too (killed between link and unlink), which stays as it is
        os.unlink(name, dir_fd=directory)
        return False
    return True


def _sync_directory(directory: int) -> None:
    try:
        os.fsync(directory)
    except OSError as fault:
        if fault.errno not in _NO_SYNC:
            raise


class _Failing:
    """Turns what the system says into a `DownloadError`; holds the part's lock meanwhile.

    A coroutine may be thrown away while a thread writes for it: the file must not be closed under that.
    """

    __slots__ = ("_doing", "_lock", "_reason")

    def __init__(self, reason: Reason, doing: str, lock: threading.RLock | None = None) -> None:
        self._reason = reason
        self._doing = doing
        self._lock = lock

    def __enter__(self) -> None:
        if self._lock is not None:
            self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._lock is not None:
            self._lock.release()
        if isinstance(error, OSError):
            raise DownloadError.of_os(error, self._reason, self._doing) from error
