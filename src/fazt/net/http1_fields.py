"""One block of fields, complete: the head of a response, or its trailers. Strict, and without I/O.

llhttp (through httptools) reads every block; the raw bytes are then held against the rules once more, since what llhttp
lets pass differs by version.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import NoReturn

from httptools import HttpParserError, HttpResponseParser

from fazt.core.call import Fields, ResponseHead
from fazt.errors import FaztError, Reason

MAX_FIELDS = 128
"""Fields in one block."""
STATUS_LINES = (b"HTTP/1.1 ", b"HTTP/1.0 ")

# RFC 9110 section 5.5: HTAB, SP, visible ASCII and obs-text are all that a field line may hold
_TEXT = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
# RFC 9112 section 5: a token, the colon at once (5.1), a value; a folded line (5.2) begins with a space, no match
_FIELD_LINE = re.compile(r"(?<=\n)([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\r]*)\r\n")
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})
_TRAILER_PREFIX = b"HTTP/1.1 200 T\r\n"
_PHRASES = {b"HTTP/1.1 %d %b" % (status, status.phrase.encode()): status.phrase for status in HTTPStatus}


@dataclass(slots=True, repr=False)
class Block:
    """What the block of bytes of a head says: equal bytes say the same.

    Nobody changes one; it is not frozen, which would cost more than all that it saves.

    Args:
        raw: the bytes.
        head: status line and fields.
        keep: whether the server would keep the connection.
        length: `Content-Length`.
        chunked: whether the body is chunked.
    """

    raw: bytes
    head: ResponseHead
    keep: bool = False
    length: int | None = None
    chunked: bool = False


def read_head(block: bytes) -> Block:
    """Read the status line and fields of a response.

    Raises:
        FaztError: `protocol` for what is not strict HTTP/1.1, `response_headers` for too many fields.
    """
    if not block.startswith(STATUS_LINES):
        refuse("no HTTP/1 status line")
    if block.startswith(b"101", 9):
        refuse("101 although no upgrade was asked for")
    status, fields = _parse(block)
    if status < 100:
        refuse("status code out of range")
    line = block[: block.find(b"\r")]
    phrase = _PHRASES.get(line)
    if phrase is None:
        phrase = line[13:].decode("latin-1")
    version = "HTTP/1.1" if line.startswith(STATUS_LINES[0]) else "HTTP/1.0"
    known = Block(block, ResponseHead(status, fields, phrase, version))
    if status >= 200:  # an interim response has no body
        _frame(known)
    return known


def read_trailers(block: bytes) -> Fields:
    """Read the fields that follow a chunked body.

    Raises:
        FaztError: as `read_head`.
    """
    return _parse(_TRAILER_PREFIX + block)[1]


_DEAF = object()
"""Takes none of llhttp's events: what counts is that it finds no fault."""


def _parse(block: bytes) -> tuple[int, Fields]:
    """Check a block; returns its status and its fields."""
    lines = block.count(b"\r\n")
    if lines - 2 > MAX_FIELDS:
        refuse_size(f"more than {MAX_FIELDS} fields")
    # no control character (RFC 9110 section 5.5), no bare CR or LF (RFC 9112 section 2.2)
    if block.translate(None, _TEXT) != b"\r\n" * lines:
        refuse("control character, bare CR or bare LF in the fields")
    parser = HttpResponseParser(_DEAF)
    try:
        parser.feed_data(block)
    except HttpParserError as error:
        refuse(f"llhttp: {error}")
    found = _FIELD_LINE.findall(block.decode("latin-1"), block.find(b"\n") + 1)
    if len(found) != lines - 2:
        refuse("a line in the fields that is not name and value")
    return parser.get_status_code(), tuple([(name.lower(), value.rstrip(" \t")) for name, value in found])


def _frame(known: Block) -> None:
    """Read where the message ends (RFC 9112 section 6.3) and whether the connection does (9.3)."""
    options = ""
    for name, value in known.head.headers:
        if name not in _FRAMING:
            continue
        if name == "content-length":
            known.length = _length(value, earlier=known.length)
        elif name == "transfer-encoding":
            if known.chunked or value.lower() != "chunked":
                refuse("a transfer coding other than chunked")
            known.chunked = True
        else:
            options += f",{value.lower()}"
    old = known.head.version == "HTTP/1.0"
    if known.chunked and (known.length is not None or old):
        refuse("Transfer-Encoding with Content-Length, or in HTTP/1.0")
    if not options:
        known.keep = not old
        return
    said = {option.strip(" \t") for option in options.split(",")}
    known.keep = "close" not in said and (not old or "keep-alive" in said)


def _length(value: str, *, earlier: int | None) -> int:
    # int() would take signs, underscores, spaces and other scripts' digits; RFC 9110 section 8.6 has 1*DIGIT
    if not (value.isascii() and value.isdigit() and len(value) <= 18):
        refuse("Content-Length is not a number")
    length = int(value)
    if earlier is not None and earlier != length:
        refuse("two different Content-Length fields")
    return length


def refuse(detail: str) -> NoReturn:
    """Refuse an answer; the detail is the operator's."""
    raise FaztError(Reason.PROTOCOL, "The server's answer is not valid HTTP/1.1.", detail=detail)


def refuse_size(detail: str) -> NoReturn:
    """Refuse fields beyond a limit; the detail is the operator's."""
    raise FaztError(
        Reason.RESPONSE_HEADERS, "The fields of the server's answer are too many or too long.", detail=detail
    )
