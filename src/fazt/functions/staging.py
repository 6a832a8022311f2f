"""Read a directory once, safely, into a snapshot that nobody can change any more; nothing is deployed here.

The walk holds directory descriptors and never follows a link, so what is checked is what is read, even while somebody
rearranges the directory. Content goes through a temporary file that has no name: memory stays small whatever the
directory holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fazt.errors import DeployError
from fazt.functions.names import MAX_PATH, app_name, check_segment, collision_key

if TYPE_CHECKING:
    from typing import IO, Self

    from fazt.core.limits import Limits

SKIPPED: Final = (
    "Files whose name begins with a dot, *.log files and node_modules directories are left out. "
    ".gitignore is not read. Symbolic links and special files are refused."
)
"""What a deploy leaves out, for help texts."""
MAX_ENTRIES = 10_000
"""Files and directories of one app."""
MAX_DEPTH = 32
"""Directories below each other."""
MAX_MANIFEST = 65_536
MAX_CODE = 16 * 1024 * 1024
"""Bytes of `.js` and `.json` under api/, which are held in memory while the app is baked."""
_CHUNK = 262_144


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` says.

    Args:
        name: name of the app, used where the command line gives none.
        spa: whether paths without a file answer with `index.html`.
    """

    name: str | None = None
    spa: bool = False


@dataclass(frozen=True, slots=True)
class StagedFile:
    """One file of the snapshot.

    Args:
        path: relative to the app's root, segments parted by `/`.
        size: bytes.
        sha256: of the content, in hex.
        start: where the content stands in the snapshot.
    """

    path: str
    size: int
    sha256: str
    start: int


class StagedApp:
    """A checked snapshot of a directory. Close it (or use it as a context) to give its space back."""

    def __init__(self, files: tuple[StagedFile, ...], manifest: Manifest, spool: IO[bytes]) -> None:
        self.files = files
        self.manifest = manifest
        self._spool = spool

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def bundle(self) -> dict[str, bytes]:
        """The part that runs: `.js` and `.json` files under `api/`, by path."""
        return {
            file.path: self.read(file)
            for file in self.files
            if file.path.startswith("api/") and file.path.endswith((".js", ".json"))
        }

    @property
    def has_handler(self) -> bool:
        """Whether there is an `api/main.js`."""
        return any(file.path == "api/main.js" for file in self.files)

    def read(self, file: StagedFile) -> bytes:
        """Return the content of one file."""
        return b"".join(self.chunks(file))

    def chunks(self, file: StagedFile) -> Iterator[bytes]:
        """Yield the content of one file in pieces of 256 KiB."""
        at, end = file.start, file.start + file.size
        while at < end:
            piece = os.pread(self._spool.fileno(), min(_CHUNK, end - at), at)
            if not piece:
                raise DeployError("the staged copy is shorter than it was", hint="is the temporary directory full?")
            at += len(piece)
            yield piece

    def close(self) -> None:
        """Give the space back."""
        self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def stage(directory: Path, *, limits: Limits, include_private: bool = True) -> StagedApp:
    """Read and check a directory.

    Args:
        directory: the app; the path itself may be a link, nothing inside may.
        limits: `storage.max_file_size` and `storage.max_site_size` are obeyed.
        include_private: whether `private/` goes along.

    Raises:
        DeployError: the directory holds something that cannot be deployed, or cannot be read.
    """
    spool = tempfile.TemporaryFile(prefix="fazt-stage-")  # noqa: SIM115 - lives as long as the StagedApp
    try:
        walk = _Walk(limits, include_private, spool)
        try:
            root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as fault:
            raise DeployError(f"cannot read the directory {directory}: {fault.strerror}") from None
        try:
            walk.directory(root, "", depth=0)
        except OSError as fault:
            raise DeployError(f"cannot stage {directory}: {fault.strerror or type(fault).__name__}") from None
        finally:
            os.close(root)
        spool.flush()
        files = tuple(sorted(walk.files, key=lambda file: file.path))
        if not files:
            raise DeployError(f"there is nothing to deploy in {directory}", hint=SKIPPED)
        staged = StagedApp(files, Manifest(), spool)
        for file in files:
            if file.path == "manifest.json":
                staged.manifest = read_manifest(staged.read(file) if file.size <= MAX_MANIFEST else None)
        return staged
    except BaseException:
        spool.close()
        raise


class _Walk:
    def __init__(self, limits: Limits, include_private: bool, spool: IO[bytes]) -> None:
        self.files: list[StagedFile] = []
        self._max_file = limits.storage.max_file_size
        self._max_site = limits.storage.max_site_size
        self._include_private = include_private
        self._spool = spool
        self._entries = 0
        self._total = 0
        self._code = 0

    def directory(self, handle: int, where: str, *, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise DeployError(f"{where!r} lies more than {MAX_DEPTH} directories deep")
        seen: dict[str, str] = {}
        for name in sorted(os.listdir(handle)):
            if _skipped(name) or (name == "private" and not where and not self._include_private):
                continue
            self._entries += 1
            if self._entries > MAX_ENTRIES:
                raise DeployError(f"more than {MAX_ENTRIES} files and directories")
            check_segment(name, where=where)
            twin = seen.setdefault(collision_key(name), name)
            if twin != name:
                raise DeployError(
                    f"{twin!r} and {name!r} in {where or 'the top directory'!r} differ only in case or spelling",
                    hint="rename one of them",
                )
            path = f"{where}/{name}" if where else name
            if len(path.encode()) > MAX_PATH:
                raise DeployError(f"the path {path[:80]!r}… is longer than {MAX_PATH} bytes")
            self._entry(handle, name, path, depth)

    def _entry(self, parent: int, name: str, path: str, depth: int) -> None:
        before = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISLNK(before.st_mode):
            raise _link(path)
        if stat.S_ISDIR(before.st_mode):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        elif stat.S_ISREG(before.st_mode):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # nonblock: should it turn into a pipe
        else:
            raise DeployError(f"{path!r} is neither a file nor a directory", hint="remove it from the app")
        try:
            handle = os.open(name, flags, dir_fd=parent)
        except PermissionError:
            raise DeployError(f"{path!r} may not be read") from None
        except OSError:
            raise _changed(path) from None
        try:
            found = os.fstat(handle)
            if (found.st_dev, found.st_ino, stat.S_IFMT(found.st_mode)) != (
                before.st_dev,
                before.st_ino,
                stat.S_IFMT(before.st_mode),
            ):
                raise _changed(path)
            if stat.S_ISDIR(found.st_mode):
                self.directory(handle, path, depth=depth + 1)
            else:
                self._file(handle, path, found)
        finally:
            os.close(handle)

    def _file(self, handle: int, path: str, found: os.stat_result) -> None:
        start = self._spool.tell()
        digest = hashlib.sha256()
        size = 0
        while piece := os.read(handle, _CHUNK):
            size += len(piece)
            if size > self._max_file:
                raise DeployError(
                    f"{path!r} is larger than storage.max_file_size ({self._max_file} bytes)",
                    hint=f"fazt limits set storage.max_file_size {found.st_size}",
                )
            if self._total + size > self._max_site:
                raise DeployError(
                    f"the app is larger than storage.max_site_size ({self._max_site} bytes)",
                    hint="`fazt limits set storage.max_site_size BYTES` raises it",
                )
            digest.update(piece)
            self._spool.write(piece)
        after = os.fstat(handle)
        if size != found.st_size or after.st_mtime_ns != found.st_mtime_ns:
            raise _changed(path)
        self._total += size
        if path.startswith("api/"):
            self._code += size
            if self._code > MAX_CODE:
                raise DeployError(f"api/ is larger than {MAX_CODE} bytes", hint="keep data and media outside of api/")
        self.files.append(StagedFile(path, size, digest.hexdigest(), start))


def _skipped(name: str) -> bool:
    return name.startswith(".") or name == "node_modules" or name.lower().endswith(".log")


def _link(path: str) -> DeployError:
    return DeployError(f"{path!r} is a symbolic link", hint="put the file itself there; links are never followed")


def _changed(path: str) -> DeployError:
    return DeployError(f"{path!r} changed while it was read", hint="deploy again when nothing writes to the directory")


def read_manifest(content: bytes | None) -> Manifest:
    """Read `manifest.json`; keys that fazt does not know are left alone.

    Args:
        content: the file, or None where it is too large to be one.

    Raises:
        DeployError: it is no JSON object, or a known key has a value of the wrong type.
    """
    if content is None:
        raise DeployError(f"manifest.json is larger than {MAX_MANIFEST} bytes")
    try:
        value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique)
    except UnicodeDecodeError:
        raise DeployError("manifest.json is not UTF-8") from None
    except json.JSONDecodeError as wrong:
        raise DeployError(f"manifest.json:{wrong.lineno}:{wrong.colno}: {wrong.msg}") from None
    except (RecursionError, ValueError):
        raise DeployError("manifest.json nests too deeply, or holds a number that is too long") from None
    if not isinstance(value, dict):
        raise DeployError("manifest.json must hold an object", hint='{"name": "my-app"}')
    name, spa, analytics = value.get("name"), value.get("spa", False), value.get("analytics", {})
    if name is not None:
        if not isinstance(name, str):
            raise DeployError("manifest.json: name must be a string")
        app_name(name)
    if not isinstance(spa, bool):
        raise DeployError("manifest.json: spa must be true or false")
    if not isinstance(analytics, dict) or not isinstance(analytics.get("enabled", False), bool):
        raise DeployError("manifest.json: analytics must be an object, its enabled true or false")
    return Manifest(name, spa)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise DeployError("manifest.json: a key stands twice in one object")
    return found
