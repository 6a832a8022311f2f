"""HTTP/1.1 without I/O: request heads out, responses in.

Blocks of fields are read by `net.http1_fields`. Framing (RFC 9112 section 6) is decided here, from the fields, because
only the client knows that it asked with HEAD, and because the exact end of a message decides whether a connection may
be used again.
"""

from __future__ import annotations

import re
from typing import NoReturn

from fazt.core.call import Fields, ResponseHead, Upload
from fazt.errors import FaztError, Reason
from fazt.net.chunked import ChunkedBody
from fazt.net.http1_fields import (
    MAX_FIELDS,
    STATUS_LINES,
    Block,
    read_head,
    read_trailers,
    refuse,
    refuse_size,
)

MAX_HEAD = 64 * 1024
"""Bytes of all field blocks of one response: interim responses, head and trailers together."""
MAX_INTERIM = 32
"""Interim (1xx) responses before the final one."""

_HEAD, _LENGTH, _CHUNKED, _UNTIL_EOF, _TRAILERS, _DONE = range(6)
_UNSENDABLE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
_WRONG_EARLY = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\x00")
_ALIKE = 2048
"""Bytes of a head that are remembered: the next one from the same server is often the same."""
_DIRECT = 1 << 30
_SMALL = 4096
"""Pieces of a body below this many bytes are collected rather than kept apart."""
_WITH_CONTENT = frozenset({"POST", "PUT", "PATCH"})


def encode_head(
    method: str, target: str, *, authority: str, fields: Fields, body: bytes | None, upload: Upload | None = None
) -> bytes:
    """Return the request line and fields of a request as sent on the wire.

    Args:
        method: the method, a token.
        target: path and query in origin form (RFC 9112 section 3.2.1).
        authority: what Host says: the canonical host, with the port where it is not the scheme's own.
        fields: further fields in order; Host, Content-Length and Transfer-Encoding must not be among them.
        body: the whole body; decides Content-Length.
        upload: a body in pieces in place of it: chunked where its length is not known.

    Raises:
        FaztError: `bad_option` when a part holds what would end its line or cannot be sent (control characters,
            non-latin-1 text); the parts were checked before, so this is the last line of defence.
    """
    lines = [f"{method} {target} HTTP/1.1", f"Host: {authority}"]
    lines += map(": ".join, fields)
    if upload is not None:
        lines.append("Transfer-Encoding: chunked" if upload.length is None else f"Content-Length: {int(upload.length)}")
    elif (
        body is not None or method in _WITH_CONTENT
    ):  # RFC 9110 section 8.6: such a method says so even without content
        lines.append(f"Content-Length: {len(body) if body is not None else 0}")
    text = "".join(lines)
    if not (text.isascii() and text.isprintable()) and _UNSENDABLE.search(text) is not None:
        _refuse_option()
    if " " in target or not target.startswith("/"):
        _refuse_option()
    lines += ("", "")
    return "\r\n".join(lines).encode("latin-1")


def _refuse_option() -> NoReturn:
    raise FaztError(Reason.BAD_OPTION, "The request holds characters that cannot be sent.")


class ResponseReader:
    """Reads the responses of one connection, one after the other.

    `begin()`, then `feed()` what arrives and `eof()` at its end. `head` is set when the final head is complete;
    `size` bytes of body wait for `take()`; `done` says that the message ended. `keep` says whether the peer holds the
    connection open, `extra` whether anything came that no request asked for: such a connection is never used again.
    """

    __slots__ = (
        "_allowance",
        "_block",
        "_chunks",
        "_expected",
        "_first",
        "_head_only",
        "_interim",
        "_known",
        "_left",
        "_lines",
        "_rest",
        "_state",
        "done",
        "extra",
        "head",
        "keep",
        "length",
        "size",
        "trailers",
        "untouched",
    )

    def __init__(self) -> None:
        self._block = bytearray()
        self._known: Block | None = None
        self._rest: list[bytes | bytearray] = []
        self.begin(head_only=False)
        self._finish()

    def begin(self, *, head_only: bool) -> None:
        """Expect a response; `head_only` where it answers HEAD."""
        self._state = _HEAD
        self._head_only = head_only
        if self._block:
            self._block = bytearray()
        self._first = b""
        if self._rest:
            self._rest = []
        self._chunks: ChunkedBody | None = None
        self._left = self._lines = self._interim = 0
        self._allowance = MAX_HEAD
        self.head: ResponseHead | None = None
        self.length: int | None = None
        self.keep = False
        self.extra = False
        self.size = 0
        self.trailers: Fields = ()
        self.untouched = True
        self.done = False

    def _finish(self) -> None:
        self._state = _DONE
        self.done = True

    def feed(self, data: bytes) -> None:
        """Take bytes from the connection.

        Raises:
            FaztError: `protocol` for what is not strict HTTP/1.1, `response_headers` for too many or too long fields.
        """
        self.untouched = False
        state = self._state
        if state == _HEAD:
            self._feed_head(data)
        elif state == _LENGTH:
            self._feed_length(data)
        elif state == _CHUNKED:
            self._feed_chunked(data)
        elif state == _UNTIL_EOF:
            self._keep_body(data)
        elif state == _TRAILERS:
            self._feed_trailers(data)
        elif data:
            self.extra = True

    def eof(self, *, clean: bool) -> None:
        """Note the end of what the peer sends; `clean` unless it was a reset or a TLS end without close_notify.

        Raises:
            FaztError: `protocol` when the message is not complete. One that ends with the connection is complete only
                after a clean end (RFC 9112 section 9.8).
        """
        if self._state == _DONE:
            return
        if self._state == _UNTIL_EOF and clean:
            self._finish()
            return
        if self._state == _HEAD:
            raise FaztError(Reason.PROTOCOL, "The server closed the connection before it answered.")
        raise FaztError(Reason.PROTOCOL, "The server broke off its answer before the end.")

    def take(self) -> bytes:
        """Return the body bytes that have arrived since the last call."""
        self.size = 0
        first, self._first = self._first, b""
        if not self._rest:
            return first
        rest, self._rest = self._rest, []
        return b"".join((first, *rest))

    @property
    def direct(self) -> int:
        """How many of the bytes that come next are body and nothing else, so that they need not come through here."""
        if self.size:
            return 0
        if self._state == _LENGTH:
            return self._left
        return _DIRECT if self._state == _UNTIL_EOF else 0

    def passed(self, number: int) -> None:
        """Note that so many bytes of body, no more than `direct`, went by."""
        if self._state == _LENGTH:
            self._left -= number
            if not self._left:
                self._finish()

    # --- head

    def _feed_head(self, data: bytes) -> None:
        while True:
            found = self._next_block(data)
            if found is None:
                return
            block, data = found
            known = self._known
            if known is None or known.raw != block:
                known = read_head(block)
            if known.head.status >= 200:
                break
            self._interim += 1
            if self._interim > MAX_INTERIM:
                refuse_size(f"more than {MAX_INTERIM} interim responses")
            if not data:
                return
        if len(block) <= _ALIKE:
            self._known = known
        self._frame(known)
        self.head = known.head  # last: a head that can't be framed is no head
        if self._left and len(data) == self._left:  # the whole of a small body came with its head
            self._left = 0
            self._first = data
            self.size = len(data)
            self._finish()
        elif data:
            self.feed(data)

    def _next_block(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Split off the fields up to the empty line, or keep what there is until more comes."""
        held = self._block
        if not held:
            end = data.find(b"\r\n\r\n") + 4
            if end > 3:
                block, rest = data[:end], data[end:]
            else:
                held += data
                self._check_start(0)
                return None
        else:
            old = len(held)
            held += data
            end = held.find(b"\r\n\r\n", max(0, old - 3)) + 4
            if end == 3:
                self._check_start(old)
                return None
            block, rest = bytes(held[:end]), data[end - old :]
            self._block = bytearray()
            self._lines = 0
        self._allowance -= len(block)
        if self._allowance < 0:
            refuse_size(f"over {MAX_HEAD} bytes of fields")
        return block, rest

    def _check_start(self, old: int) -> None:
        """Refuse an unfinished block as soon as it can be seen to be wrong, rather than wait for the deadline.

        Args:
            old: how much of it was checked before.
        """
        held = self._block
        self._lines += held.count(b"\n", old)
        if self._lines > MAX_FIELDS + 1:
            refuse_size(f"more than {MAX_FIELDS} fields")
        if len(held) > self._allowance:
            refuse_size(f"over {MAX_HEAD} bytes of fields")
        if self._state == _HEAD and not any(held.startswith(line[: len(held)]) for line in STATUS_LINES):
            refuse("no HTTP/1 status line")
        if _WRONG_EARLY.search(held, max(0, old - 1)):
            refuse("bare CR, bare LF or NUL in the fields")

    # --- framing, RFC 9112 section 6.3

    def _frame(self, known: Block) -> None:
        length, status = known.length, known.head.status
        self.keep = known.keep
        if self._head_only or status in (204, 304):
            if status == 204 and (known.chunked or length):
                self.keep = False  # a 204 has no body (RFC 9110 section 8.6), but this one's may be on its way
            self._finish()
        elif known.chunked:
            self._state = _CHUNKED
            self._chunks = ChunkedBody()
        elif length is None:
            self.keep = False
            self._state = _UNTIL_EOF
        elif length:
            self.length = self._left = length
            self._state = _LENGTH
        else:
            self.length = 0
            self._finish()

    # --- body

    def _feed_length(self, data: bytes) -> None:
        left = self._left
        if len(data) < left:
            self._left = left - len(data)
            self._keep_body(data)
            return
        if len(data) > left:
            self.extra = True
            data = data[:left]
        self._left = 0
        self._keep_body(data)
        self._finish()

    def _feed_chunked(self, data: bytes) -> None:
        chunks = self._chunks
        assert chunks is not None
        pieces: list[bytes] = []
        try:
            rest = chunks.feed(data, pieces)
        except ValueError as error:
            refuse(str(error))
        for piece in pieces:
            self._keep_body(piece)
        if rest is not None:
            self._state = _TRAILERS
            self._chunks = None
            if rest:
                self._feed_trailers(rest)

    def _feed_trailers(self, data: bytes) -> None:
        # the empty line that ends the message directly follows the last chunk, or the last trailer
        if len(self._block) < 2 and (self._block + data[:2])[:2] == b"\r\n":
            self.extra = len(data) + len(self._block) > 2
            self._block = bytearray()
            self._finish()
            return
        found = self._next_block(data)
        if found is None:
            return
        block, rest = found
        self.trailers = read_trailers(block)
        self.extra = bool(rest)
        self._finish()

    def _keep_body(self, data: bytes) -> None:
        self.size += len(data)
        rest = self._rest
        if not rest and not self._first:
            self._first = data
        elif len(data) >= _SMALL:
            rest.append(data)
        elif rest and type(rest[-1]) is bytearray:
            rest[-1] += data
        else:
            rest.append(bytearray(data))
