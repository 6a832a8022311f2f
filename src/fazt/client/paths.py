"""The path gate (C.4): where a download may be put, judged on the directory that was really opened.

Everything after the gate is done relative to that directory's descriptor, so that nobody can lead a judged path
elsewhere by exchanging one of its directories for a link.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from fazt.client.download_error import DownloadError
from fazt.errors import Reason

REFUSED = ("/etc", "/sys", "/proc", "/root", "/boot", "/dev")
"""Directories of the system that nothing is downloaded to."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_UNSAFE_IN_NAMES = re.compile(r"[\x00-\x1f\x7f-\x9f/\\:*?\"<>|\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_LONGEST_NAME = 200  # of 255 bytes: part and sidecar add to it


@dataclass(frozen=True, slots=True)
class Destination:
    """A file in an open directory.

    Args:
        directory: descriptor of the directory.
        folder: its real path.
        name: of the file in it.
    """

    directory: int
    folder: str
    name: str

    @property
    def path(self) -> Path:
        """Where the file will be."""
        return Path(self.folder, self.name)

    def close(self) -> None:
        """Close the directory."""
        os.close(self.directory)


def name_from(url: str) -> str:
    """Return the file name that a URL suggests: the last part of its path, made harmless; "download" for none.

    Args:
        url: absolute, as the caller wrote it. What a server says in Content-Disposition is never asked.
    """
    path = re.split(r"[?#]", url, maxsplit=1)[0].partition("://")[2].partition("/")[2]
    name = _UNSAFE_IN_NAMES.sub("_", unquote(path.rpartition("/")[2], errors="replace"))
    raw = name.encode("utf-8", "replace").strip(b" .")
    kept = raw[-_LONGEST_NAME:].decode("utf-8", "ignore")  # of a long name the end: its suffix says what it is
    return kept.strip(" .") or "download"


def place(dest: str | os.PathLike[str], *, url: str = "") -> str:
    """Return the path of the file that `dest` means: itself, or in a directory the name that the URL suggests.

    Args:
        dest: a file, an existing directory, or a path that ends with a slash.
        url: what is downloaded.

    Raises:
        DownloadError: `path_refused` when it names no file.
    """
    path = os.fspath(dest)
    if not isinstance(path, str) or not path or "\0" in path:
        raise _refused("the destination is not a path", path=str(path))
    if path.endswith("/") or os.path.isdir(path):
        return os.path.join(path, name_from(url))
    if os.path.basename(path) in (".", ".."):
        raise _refused("the destination names no file", path=path)
    return path


def open_destination(path: str, *, root: str | os.PathLike[str] | None = None) -> Destination:
    """Open the directory of a file after judging it; missing directories are made.

    Args:
        path: of the file, from `place`.
        root: the directory that the file must be in, at whatever depth; None for anywhere but the system's own.

    Raises:
        DownloadError: `path_refused` (policy), or `file_write` when the directory cannot be used.
    """
    try:
        # links in the way are resolved before anything is made, and the result judged
        folder = os.path.realpath(os.path.dirname(path) or ".")
        base = None if root is None else os.path.realpath(root)
        _judge(folder, base, path=path)
        os.makedirs(folder, exist_ok=True)
        directory = os.open(folder, _DIRECTORY)
    except OSError as fault:
        raise _of_os(fault, "open the directory", path) from fault
    made = Destination(directory, folder, os.path.basename(path))
    with _closing_on_error(made):
        _judge(_real(directory, folder), base, path=path)
        _judge_existing(made, path)
    return made


def _judge(folder: str, base: str | None, *, path: str) -> None:
    if base is not None and not within(folder, base):
        raise _refused("the destination is outside the root directory", path=path)
    for system in REFUSED:
        if within(folder, system) or within(folder, os.path.realpath(system)):
            raise _refused(f"nothing is downloaded to {system}", path=path)


def within(folder: str, base: str) -> bool:
    """Tell whether a directory is another one or inside it, by whole components: /etcetera is not in /etc."""
    inner, outer = PurePosixPath(folder).parts, PurePosixPath(base).parts
    return inner[: len(outer)] == outer


def _real(directory: int, folder: str) -> str:
    """Return the real path of an open directory."""
    with contextlib.suppress(OSError):
        found = os.readlink(f"/proc/self/fd/{directory}")
        if found.startswith("/") and not found.endswith(" (deleted)"):
            return found
    # no /proc: the path that was judged must still be that directory
    resolved = os.path.realpath(folder)
    try:
        same = os.path.samestat(os.fstat(directory), os.stat(resolved))
    except OSError as fault:
        raise _of_os(fault, "open the directory", folder) from fault
    if not same:
        raise _refused("the directory was exchanged while it was opened", path=folder)
    return resolved


def _judge_existing(made: Destination, path: str) -> None:
    """Refuse a destination that a rename would not simply replace. A link is replaced, never followed."""
    try:
        found = os.stat(made.name, dir_fd=made.directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as fault:
        raise _of_os(fault, "look at the destination", path) from fault
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
        raise _refused("the destination exists and is no file", path=path)


@contextlib.contextmanager
def _closing_on_error(made: Destination) -> Iterator[None]:
    try:
        yield
    except BaseException:
        made.close()
        raise


def _refused(message: str, *, path: str) -> DownloadError:
    return DownloadError(Reason.PATH_REFUSED, message, path=path)


def _of_os(fault: OSError, doing: str, path: str) -> DownloadError:
    made = DownloadError.of_os(fault, Reason.FILE_WRITE, doing)
    made.path = path
    return made
