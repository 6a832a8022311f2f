"""Every way a download can fail: one exception, with the class of the failure in `kind`."""

from __future__ import annotations

import errno
import os
from typing import Any, Literal

from fazt.errors import CODE_OF, Code, FaztError, Reason

Kind = Literal["http", "timeout", "network", "policy", "read", "write", "size", "checksum", "rename"]
"""http: an answer that is no file; timeout: something took too long; network: no answer came; policy: fazt refused;
read: the body broke off or cannot be read; write: the file cannot be written; size: too large, or not the expected
length; checksum: another SHA-256; rename: the finished file cannot be put in its place."""

LOCAL: frozenset[Kind] = frozenset({"write", "rename"})
"""Kinds whose cause is this machine, not the call."""

_IN_TIME = frozenset({Reason.POOL_WAIT})
_POLICY_CODES = frozenset({Code.NET_BLOCKED, Code.NET_AUTH, Code.NET_LIMIT, Code.NET_BUDGET, Code.NET_RATE})
_POLICY = frozenset({Reason.BAD_OPTION, Reason.NOT_CACHED})
_OWN: dict[Reason, Kind] = {
    Reason.STATUS: "http",
    Reason.RANGE: "http",
    Reason.CHECKSUM: "checksum",
    Reason.FILE_WRITE: "write",
    Reason.FILE_LOCKED: "write",
    Reason.FILE_RENAME: "rename",
    Reason.FILE_EXISTS: "rename",
}


class DownloadError(FaztError):
    """A download that failed; the file that was there before, if any, is as it was.

    Args:
        reason: the step that failed.
        message: one sentence, without query, address, rule or secret.
        kind: the class of the failure; by default what `kind_of` makes of the reason.
        url: what was asked for, without its query.
        status: of the answer, None when none came.
        path: the file it was to become.
        kept: bytes that wait beside the destination for the next try; 0 when nothing is kept.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        kind: Kind | None = None,
        url: str = "",
        status: int | None = None,
        path: str = "",
        kept: int = 0,
        **rest: Any,
    ) -> None:
        super().__init__(reason, message, **rest)
        self.kind: Kind = kind if kind is not None else kind_of(reason, reading=False)
        self.url = url
        self.status = status
        self.path = path
        self.kept = kept

    @classmethod
    def of(cls, fault: FaztError, *, reading: bool) -> DownloadError:
        """Return what a failed call means for a download; the fault is its cause.

        Args:
            fault: what the engine raised.
            reading: whether the head of a good answer had come.
        """
        if isinstance(fault, DownloadError):
            return fault
        made = cls(
            fault.reason,
            fault.message,
            kind=kind_of(fault.reason, reading=reading),
            retryable=fault.retryable,
            retry_after=fault.retry_after,
            hop=fault.hop,
            address_class=fault.address_class,
            detail=fault.detail,
            call_id=fault.call_id,
        )
        made.__cause__ = fault
        return made

    @classmethod
    def of_os(cls, fault: OSError, reason: Reason, doing: str) -> DownloadError:
        """Return a failure of the file system; the fault is its cause.

        Args:
            fault: what the system said.
            reason: FILE_WRITE or FILE_RENAME.
            doing: what could not be done ("write the file").
        """
        name = errno.errorcode.get(fault.errno or 0, type(fault).__name__)
        text = os.strerror(fault.errno) if fault.errno else type(fault).__name__
        made = cls(reason, f"cannot {doing}: {text}", detail=name)
        made.__cause__ = fault
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.reason, self.message, dict(self.__dict__))

    def public(self) -> dict[str, Any]:
        """Return the fields of `fazt download --json`."""
        return {**super().public(), "kind": self.kind, "status": self.status, "path": self.path, "kept": self.kept}


def _again(reason: Reason, message: str, state: dict[str, Any]) -> DownloadError:
    """Make an error anew from what `pickle` kept."""
    error = DownloadError(reason, message)
    error.__dict__.update(state)
    return error


def kind_of(reason: Reason, *, reading: bool) -> Kind:
    """Return the class of a failure.

    Args:
        reason: the step that failed.
        reading: whether the head of a good answer had come.
    """
    if (own := _OWN.get(reason)) is not None:
        return own
    code = CODE_OF[reason]
    if code is Code.NET_TIMEOUT or reason in _IN_TIME:
        return "timeout"
    if code in _POLICY_CODES or reason in _POLICY:
        return "policy"
    if code is Code.NET_SIZE:
        return "size"
    return "read" if reading or reason is Reason.DECODE else "network"
