"""Where the server of a data directory is, for other processes of the same directory.

The server says it in a 0600 file and holds a lock on it for as long as it lives. The lock is what counts: a file left
behind by a killed server is never believed, since somebody else may listen on its port by now and would be shown the
token.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FILE = "server.json"


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server of a data directory: its process, the origin of its admin API, where it listens."""

    pid: int
    url: str
    listeners: tuple[tuple[str, int], ...]


@contextlib.contextmanager
def announced(data_dir: Path) -> Iterator[Announcement]:
    """Take the place of the data directory's server for the time of the block; the file is gone after it."""
    path = data_dir / FILE
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if not _locked(handle):
            yield Announcement(None)
            return
        os.fchmod(handle, 0o600)
        os.ftruncate(handle, 0)
        try:
            yield Announcement(handle)
        finally:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    """Take the lock; somebody who only looks whether it is taken holds it for a moment too."""
    for _ in range(10):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


class Announcement:
    """The file that says where the server is. `first` is False where another server of the directory has it."""

    def __init__(self, handle: int | None) -> None:
        self._handle = handle

    @property
    def first(self) -> bool:
        """Whether this process may write it."""
        return self._handle is not None

    def write(self, url: str, listeners: Sequence[tuple[str, int]]) -> None:
        """Say where the server answers."""
        if self._handle is not None:
            text = json.dumps({"pid": os.getpid(), "url": url, "listeners": [list(pair) for pair in listeners]})
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, text.encode(), 0)


def running(data_dir: Path) -> RunningServer | None:
    """Return the server that runs on this data directory, None when none does."""
    try:
        handle = os.open(data_dir / FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    with open(handle, encoding="utf-8") as file:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # somebody holds it: the server lives
        else:
            return None
        try:
            said = json.loads(file.read(65_536))
            pairs = tuple((str(host), int(port)) for host, port in said["listeners"])
            return RunningServer(int(said["pid"]), str(said["url"]), pairs)
        except (ValueError, KeyError, TypeError, RecursionError):
            return None  # it is just starting
