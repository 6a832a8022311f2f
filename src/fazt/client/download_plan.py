"""What a download is asked for, checked once, and what it comes to."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from fazt.core.call import Fields

if TYPE_CHECKING:
    from fazt.client.download_pace import Pacer
    from fazt.core.call import CacheMode
    from fazt.core.retry import RetryPolicy

Progress = Callable[[int, int | None], object]
"""Called with the bytes of the file that are there and its length, None when nobody knows it."""
HeaderTypes = Mapping[str, str] | Iterable[tuple[str, str]] | None

_HEX = re.compile(r"(?:sha256[:-])?([0-9a-fA-F]{64})")
_OURS = frozenset({"range", "if-range", "accept-encoding"})
_CONDITIONS = frozenset({"if-none-match", "if-modified-since"})


class Shared(TypedDict, total=False):
    """Keyword arguments of every way to download."""

    sha256: str | None
    resume: bool
    max_bytes: int | None
    expected_length: int | None
    overwrite: bool
    mode: int | None
    headers: HeaderTypes
    secret: str | None
    deadline: float | None
    retry: RetryPolicy | Literal[False] | None
    cache: CacheMode
    service: str
    role: str
    root: str | os.PathLike[str] | None


class Wishes(Shared, total=False):
    """Keyword arguments of a download of one file."""

    progress: Progress | None


@dataclass(frozen=True, slots=True)
class Plan:
    """One download as it was asked for.

    Args:
        url: of the file.
        dest: path of the file, or of a directory that it gets its name in from the URL.
        sha256: hex digest that the whole file must have; None for any.
        resume: whether bytes of an earlier try are used, and those of this one kept when it breaks off.
        progress: called whenever something came, with bytes and total.
        max_bytes: most bytes, as sent and as saved.
        expected_length: bytes that the server must send (before decoding), to the byte.
        overwrite: whether a file that is there is replaced. Otherwise one that has the `sha256` is the result, and any
            other an error.
        mode: permissions of the file; None for what the umask gives.
        headers: further fields.
        secret: name of a secret to send along.
        deadline: seconds it may take in all; None: as long as it takes (a silence of 60 s ends it).
        retry: when to try again; what came before a failure is kept if the server can go on behind it.
        cache: use of the response cache.
        service, role: for limits, breakers and events.
        root: directory that the file must be in.
        pacer: keeps the rate down.
    """

    url: str
    dest: str | os.PathLike[str]
    sha256: str | None = None
    resume: bool = True
    progress: Progress | None = None
    max_bytes: int | None = None
    expected_length: int | None = None
    overwrite: bool = True
    mode: int | None = None
    headers: HeaderTypes = None
    secret: str | None = None
    deadline: float | None = None
    retry: RetryPolicy | Literal[False] | None = None
    cache: CacheMode = "bypass"
    service: str = ""
    role: str = "artifact"
    root: str | os.PathLike[str] | None = None
    pacer: Pacer | None = None
    fields: Fields = field(init=False, default=())

    def __post_init__(self) -> None:
        if not isinstance(self.url, str):
            raise TypeError(f"url must be a string, not {type(self.url).__name__}")
        if self.sha256 is not None:
            found = _HEX.fullmatch(self.sha256.strip()) if isinstance(self.sha256, str) else None
            if found is None:
                raise ValueError("sha256 must be 64 hexadecimal digits")
            object.__setattr__(self, "sha256", found[1].lower())
        for name in ("max_bytes", "expected_length"):
            _check_size(name, getattr(self, name))
        if self.mode is not None and (type(self.mode) is not int or not 0 <= self.mode <= 0o777):
            raise ValueError("mode must be permissions such as 0o644")
        if self.deadline is not None and not 0 < self.deadline < math.inf:
            raise ValueError("deadline must be a number of seconds above zero, or None for no limit")
        object.__setattr__(self, "fields", _fields(self.headers))

    @property
    def conditional(self) -> bool:
        """Whether the caller asks for the file only if it has changed."""
        return any(name.lower() in _CONDITIONS for name, _ in self.fields)

    @property
    def key(self) -> str:
        """What a part of this URL is known by; the URL itself may hold a token."""
        return hashlib.sha256(self.url.encode("utf-8", "surrogatepass")).hexdigest()

    def __repr__(self) -> str:
        return f"<Plan to {os.fspath(self.dest)!r}>"


@dataclass(frozen=True, slots=True)
class Download:
    """A file that was downloaded.

    Attributes:
        path: where it is.
        bytes: its length.
        sha256: its digest in hex, None when none was asked for.
        resumed: whether bytes of an earlier try were used.
        status: of the last answer: 200, 206; 304 when the caller's own condition said that the file is as it was; 0
            when nothing was asked, since the file was there already with the right digest.
        url: where it came from in the end; may hold a signature.
        call_id: of the last call, "" without one.
    """

    path: Path
    bytes: int
    sha256: str | None
    resumed: bool
    status: int
    url: str = field(repr=False)
    call_id: str = ""

    def public(self) -> dict[str, Any]:
        """Return the fields of `fazt download --json`."""
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "sha256": self.sha256,
            "resumed": self.resumed,
            "status": self.status,
            "url": self.url,
            "callId": self.call_id,
        }


def _check_size(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a number of bytes or None, not {type(value).__name__}")
    if value < 0:
        raise ValueError(f"{name} must not be below zero")


def _fields(given: HeaderTypes) -> Fields:
    if given is None:
        return ()
    found = tuple(given.items() if isinstance(given, Mapping) else given)
    for name, _ in found:
        if name.lower() in _OURS:
            raise ValueError(f"{name} is set by the download itself; resume=False asks for the whole file")
    return found
