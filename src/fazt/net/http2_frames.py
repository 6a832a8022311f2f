"""The outer form of HTTP/2 (RFC 9113 section 4.1): what a server sends, cut into frames.

What streams and settings say is httpcore2's and h2's business; here is seen that the server is about to go (GOAWAY),
which h2 would take for the end of all that is under way.
"""

from __future__ import annotations

from typing import NamedTuple

from fazt.errors import FaztError, Reason

RST_STREAM, SETTINGS, GOAWAY = 3, 4, 7
REFUSED_STREAM, CANCEL, HTTP_1_1_REQUIRED = 7, 8, 13
"""Error codes (section 7)."""
_HEADER = 9
_MAX_LENGTH = 16384
"""Section 4.2: what a frame may carry as long as we have not said otherwise, and we never do."""


class Frame(NamedTuple):
    """One frame."""

    kind: int
    flags: int
    stream: int
    raw: bytes
    """All of it, its header included."""

    @property
    def payload(self) -> bytes:
        """What it carries."""
        return self.raw[_HEADER:]


def encode(kind: int, payload: bytes, *, stream: int = 0, flags: int = 0) -> bytes:
    """Return a frame as sent."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def refuse(stream: int) -> bytes:
    """Return the frame by which a server says that it has not looked at a request (section 8.7)."""
    return encode(RST_STREAM, REFUSED_STREAM.to_bytes(4, "big"), stream=stream)


def goodbye() -> bytes:
    """Return the frame that says that we are going (section 6.8); servers start no streams, so none was the last."""
    return encode(GOAWAY, bytes(8))


def read_goaway(frame: Frame) -> tuple[int, int]:
    """Return the last stream that the server looks at, and why it goes (section 6.8).

    Raises:
        FaztError: `protocol`.
    """
    payload = frame.payload
    if frame.stream or len(payload) < 8:
        raise _broken("a GOAWAY that is none")
    return int.from_bytes(payload[:4], "big") & 0x7FFFFFFF, int.from_bytes(payload[4:8], "big")


class FrameReader:
    """Cuts bytes into frames."""

    __slots__ = ("_first", "_held")

    def __init__(self) -> None:
        self._held = b""
        self._first = True

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes and return the frames that are complete.

        Raises:
            FaztError: `protocol` for a frame that is too long, or when this is no HTTP/2.
        """
        data = self._held + data
        out: list[Frame] = []
        start = 0
        while len(data) - start >= _HEADER:
            length = int.from_bytes(data[start : start + 3], "big")
            kind = data[start + 3]
            if self._first and kind != SETTINGS:  # section 3.4: it begins with them
                raise _broken("the server began without its settings")
            self._first = False
            if length > _MAX_LENGTH:
                raise _broken("a frame over 16384 bytes")
            end = start + _HEADER + length
            if end > len(data):
                break
            stream = int.from_bytes(data[start + 5 : start + 9], "big") & 0x7FFFFFFF
            out.append(Frame(kind, data[start + 4], stream, data[start:end]))
            start = end
        self._held = data[start:]
        return out


def _broken(detail: str) -> FaztError:
    return FaztError(Reason.PROTOCOL, "The server's answer is not valid HTTP/2.", detail=detail)
