"""Request bodies that come in pieces, as they go on the wire: counted, and chunked where their length is not known."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import NoReturn

from fazt.core.call import Upload
from fazt.errors import FaztError, Reason

PIECE = 64 * 1024
"""Bytes that are encrypted and handed to the socket at a time."""
_END = b"0\r\n\r\n"


class Framing:
    """Puts the pieces of one body into the form that its head announced (RFC 9112 sections 6.2 and 7.1)."""

    __slots__ = ("_left",)

    def __init__(self, length: int | None) -> None:
        self._left = length

    def frame(self, piece: bytes) -> Iterator[bytes | memoryview]:
        """Return what to send for one piece; an empty one is nothing, since an empty chunk would be the end.

        Raises:
            FaztError: `bad_option` when the body is longer than was announced; nothing beyond that is sent.
        """
        size = len(piece)
        if self._left is not None:
            if size > self._left:
                _refuse_length()
            self._left -= size
        elif size:
            piece = b"%x\r\n%b\r\n" % (size, piece)
        return slices(piece)

    def end(self) -> bytes:
        """Return what ends the body.

        Raises:
            FaztError: `bad_option` when it is shorter than was announced.
        """
        if self._left is None:
            return _END
        if self._left:
            _refuse_length()
        return b""


def slices(body: bytes) -> Iterator[bytes | memoryview]:
    """Cut a body into pieces without copying it."""
    if len(body) <= PIECE:
        if body:
            yield body
        return
    whole = memoryview(body).cast("B")
    for start in range(0, len(body), PIECE):
        yield whole[start : start + PIECE]


def pieces(upload: Upload) -> Iterator[bytes | memoryview]:
    """Open a body and yield what to send.

    Raises:
        FaztError: `bad_option` when it is not as long as was said, or can only be read asynchronously.
    """
    opened = _open(upload)
    if not isinstance(opened, Iterable):
        raise FaztError(Reason.BAD_OPTION, "An asynchronous body cannot be sent by a synchronous call.")
    framing = Framing(upload.length)
    for piece in opened:
        yield from framing.frame(piece)
    if last := framing.end():
        yield last


async def async_pieces(upload: Upload) -> AsyncIterator[bytes | memoryview]:
    """Open a body, synchronous or asynchronous, and yield what to send.

    Raises:
        FaztError: `bad_option` when it is not as long as was said.
    """
    opened = _open(upload)
    framing = Framing(upload.length)
    if isinstance(opened, AsyncIterable):
        async for piece in opened:
            for part in framing.frame(piece):
                yield part
    else:
        for piece in opened:
            for part in framing.frame(piece):
                yield part
    if last := framing.end():
        yield last


def _open(upload: Upload) -> Iterable[bytes] | AsyncIterable[bytes]:
    upload.opened = True
    return upload.open()


def _refuse_length() -> NoReturn:
    raise FaztError(Reason.BAD_OPTION, "The request body is not as long as was said.")
