"""From a library's request to the engine's: fields, body, and what a body that is sent in pieces may be sent again."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Iterator
from typing import Any

from fazt.core.call import Fields, Upload

_OWN = frozenset({b"host", b"connection", b"accept-encoding", b"content-length", b"transfer-encoding"})
"""Fields that httpx sets on every request and the wire makes itself."""


def fields_of(headers: Any) -> Fields:
    """Return the fields that a request carries beside those the wire makes, in order."""
    return tuple(
        [(raw.decode("latin-1"), value.decode("latin-1")) for raw, key, value in headers._list if key not in _OWN]
    )


class Codings:
    """What to write into `Accept-Encoding`: what the caller asks for, as far as it can be decoded.

    Args:
        known: codings that can be decoded here.
    """

    def __init__(self, known: Iterable[str]) -> None:
        self._known = frozenset(known)
        self.all = ", ".join(known)
        self._asked: dict[bytes, str] = {self.all.encode(): self.all}

    def __call__(self, headers: Any) -> str:
        """Return the value to send for a request with these headers."""
        for _, key, value in headers._list:
            if key == b"accept-encoding":
                found = self._asked.get(value)
                if found is None:
                    found = self._choose(value.decode("latin-1"))
                    if len(self._asked) < 64:
                        self._asked[value] = found
                return found
        return "identity"

    def _choose(self, value: str) -> str:
        kept = []
        for part in value.split(","):
            coding = part.partition(";")[0].strip().lower()
            if coding in self._known or coding == "identity":
                kept.append(part.strip())
            elif coding == "*" and not part.replace(" ", "").endswith(";q=0"):
                kept.append(self.all)
        return ", ".join(kept) or "identity"


def body_of(request: Any, *, asynchronous: bool) -> tuple[bytes | None, Upload | None]:
    """Return the body of a request: whole, or in pieces.

    Raises:
        RuntimeError: a body for the other kind of client.
    """
    content = request.__dict__.get("_content")
    if content is not None:
        return content or None, None
    stream = request.stream
    held = getattr(stream, "_stream", None)
    if isinstance(held, bytes):
        return held or None, None
    if asynchronous:
        if not isinstance(stream, AsyncIterable):
            raise RuntimeError("Attempted to send a sync request with an AsyncClient instance.")
    elif not isinstance(stream, Iterable):
        raise RuntimeError("Attempted to send an async request with a sync Client instance.")
    length = request.headers.get("content-length")
    begin, replayable = _opener(stream, asynchronous=asynchronous)
    return None, Upload(
        begin,
        length=int(length) if length is not None and length.isdigit() and length.isascii() else None,
        replayable=replayable,
    )


def _opener(stream: Any, *, asynchronous: bool) -> tuple[Callable[[], Any], bool]:
    """Return what begins a body, and whether it may be begun again."""
    source = getattr(stream, "_stream", stream)
    if asynchronous:
        begin: Callable[[], Any] = lambda: stream  # noqa: E731 - iterated with `async for`
        once = hasattr(source, "__anext__") or hasattr(source, "aread")
        return begin, not once and _parts_again(stream)
    if _seekable(source):
        start = source.tell()

        def reopen() -> Iterator[bytes]:
            source.seek(start)
            return iter(stream)

        return reopen, True
    once = hasattr(source, "__next__") or hasattr(source, "read")
    return lambda: iter(stream), not once and _parts_again(stream)


def _seekable(source: Any) -> bool:
    seekable = getattr(source, "seekable", None)
    return hasattr(source, "read") and callable(seekable) and bool(seekable())


def _parts_again(stream: Any) -> bool:
    """Tell whether all files of a multipart body can be read again."""
    for part in getattr(stream, "fields", ()):
        file = getattr(part, "file", None)
        if file is not None and not isinstance(file, str | bytes) and not _seekable(file):
            return False
    return True
