"""Directories and small files that only their owner may read: made so, never tightened after the fact."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path

from fazt.errors import StoreError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def private_directory(path: Path) -> bool:
    """Make a directory, with its missing parents, mode 0700; answer whether it was made.

    Raises:
        StoreError: it cannot be made, or the path is something else.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not path.is_dir():
            raise StoreError(f"{path} is not a directory", hint="name a directory that fazt may use") from None
        return False
    except OSError as error:
        raise StoreError(f"cannot make the directory {path}: {error.strerror}") from error
    os.chmod(path, 0o700)
    return True


def claim_directory(path: Path, *, marks: tuple[str, ...]) -> None:
    """Make sure that nobody else may enter the data directory, or at least that nobody else may write to it.

    A directory that is empty or already fazt's becomes 0700. One that holds other things is left as it is, and
    refused when others may write to it: they could put a database of their own in place of ours.

    Args:
        path: the directory; made when missing.
        marks: names of files of ours, by which a directory is known to be fazt's.

    Raises:
        StoreError: it cannot be made or entered, or others may write to it.
    """
    if private_directory(path):
        return
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & _OTHERS == 0:
            return
        if any((path / mark).exists() for mark in marks) or not any(path.iterdir()):
            os.chmod(path, 0o700)
            return
    except OSError as error:
        raise StoreError(
            f"cannot use the data directory {path}: {error.strerror}",
            hint="it must belong to the user who runs fazt; --data or FAZT_DATA names another",
        ) from error
    if mode & _OTHERS_WRITE:
        raise StoreError(
            f"others may write to the data directory {path}",
            hint="give fazt a directory of its own with --data or FAZT_DATA",
        )


def private_file(path: Path) -> bool:
    """Make an empty file, mode 0600 from birth, unless there is one; answer whether it was made.

    One that is there and belongs to us loses the permissions of others. It is never opened: closing any handle of a
    database file would drop the locks that SQLite holds on it in this process.

    Raises:
        StoreError: the path is a symbolic link or no file.
        OSError: it cannot be made.
    """
    if write_once(path, b""):
        return True
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path} is not a plain file", hint="move it away, or name another data directory")
    if found.st_mode & _OTHERS and found.st_uid == os.geteuid():
        os.chmod(path, 0o600)
    return False


def write_once(path: Path, content: bytes) -> bool:
    """Write a new 0600 file that appears whole or not at all; answer False when there is one already.

    Raises:
        OSError: it cannot be written.
    """
    if path.is_symlink() or path.exists():
        return False
    draft = _draft(path, content)
    try:
        os.link(draft, path)  # unlike rename, never replaces
    except FileExistsError:
        return False
    finally:
        os.unlink(draft)
    _sync_directory(path.parent)
    return True


def replace_file(path: Path, content: bytes) -> None:
    """Put a 0600 file in place of the one that is there, in one step that survives a crash.

    Raises:
        OSError: it cannot be written.
    """
    draft = _draft(path, content)
    try:
        os.replace(draft, path)
    except OSError:
        os.unlink(draft)
        raise
    _sync_directory(path.parent)


def read_private(path: Path, *, what: str) -> str | None:
    """Read a small text file that nobody else may read; None when there is none.

    Args:
        path: the file.
        what: what it holds, for the error.

    Raises:
        StoreError: it cannot be read, or others may read it.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"cannot read {what} in {path}: {error.strerror}") from error
    with open(handle, encoding="ascii", errors="replace") as file:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        if mode & _OTHERS:
            raise StoreError(
                f"others may read {what} in {path} (mode {mode:04o})",
                hint=f"consider it known, replace it, and run: chmod 600 {path}",
            )
        return file.read(65_536)


def _draft(path: Path, content: bytes) -> Path:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(handle, 0o600)
        if os.write(handle, content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(handle)
    except OSError:
        os.unlink(draft)
        raise
    finally:
        os.close(handle)
    return draft


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
