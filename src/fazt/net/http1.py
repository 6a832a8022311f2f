"""HTTP/1.1 without I/O: request heads out, responses in.

llhttp (through httptools) reads every block of fields; the raw bytes are then held against the rules once more, since
what llhttp lets pass differs by version. Framing (RFC 9112 section 6) is decided here, from the fields, because only
the client knows that it asked with HEAD, and because the exact end of a message decides whether a connection may be
used again.
"""

from __future__ import annotations

import re
from typing import NoReturn

from httptools import HttpParserError, HttpResponseParser

from fazt.core.call import Fields, ResponseHead, Upload
from fazt.errors import FaztError, Reason
from fazt.net.chunked import ChunkedBody

MAX_HEAD = 64 * 1024
"""Bytes of all field blocks of one response: interim responses, head and trailers together."""
MAX_FIELDS = 128
"""Fields in one block."""
MAX_INTERIM = 32
"""Interim (1xx) responses before the final one."""

_HEAD, _LENGTH, _CHUNKED, _UNTIL_EOF, _TRAILERS, _DONE = range(6)
# RFC 9110 section 5.5: HTAB, SP, visible ASCII and obs-text are all that a field line may hold
_TEXT = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
_UNSENDABLE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
# RFC 9112 section 5: a token, the colon at once (5.1), a value; a folded line (5.2) begins with a space, no match
_FIELD_LINE = re.compile(r"(?<=\n)([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\r]*)\r\n")
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})
_STATUS_LINES = (b"HTTP/1.1 ", b"HTTP/1.0 ")
_WRONG_EARLY = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\x00")
_TRAILER_PREFIX = b"HTTP/1.1 200 T\r\n"
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
        "_body",
        "_chunks",
        "_expected",
        "_fields",
        "_first",
        "_head_only",
        "_interim",
        "_left",
        "_lines",
        "_parser",
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
        self._parser: HttpResponseParser | None = None
        self._block = bytearray()
        self.begin(head_only=False)
        self._finish()

    def begin(self, *, head_only: bool) -> None:
        """Expect a response; `head_only` where it answers HEAD."""
        self._state = _HEAD
        self._head_only = head_only
        if self._block:
            self._block = bytearray()
        self._fields: Fields = ()
        self._first = b""
        self._body: bytearray | None = None
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
        if self._body is None:
            first, self._first = self._first, b""
            return first
        body, self._body = bytes(self._body), None
        return body

    # --- head

    def _feed_head(self, data: bytes) -> None:
        while True:
            found = self._next_block(data)
            if found is None:
                return
            block, data = found
            if not block.startswith(_STATUS_LINES):
                _refuse("no HTTP/1 status line")
            if block.startswith(b"101", 9):
                _refuse("101 although no upgrade was asked for")
            status = self._parse(block)
            if status >= 200:
                break
            if status < 100:
                _refuse("status code out of range")
            self._interim += 1
            if self._interim > MAX_INTERIM:
                _refuse_size(f"more than {MAX_INTERIM} interim responses")
            if not data:
                return
        fields = self._fields
        self._frame(status, fields, http_1_0=block.startswith(b"HTTP/1.0"))
        self.head = ResponseHead(status, fields)  # last: a head that can't be framed is no head
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
            _refuse_size(f"over {MAX_HEAD} bytes of fields")
        return block, rest

    def _check_start(self, old: int) -> None:
        """Refuse an unfinished block as soon as it can be seen to be wrong, rather than wait for the deadline.

        Args:
            old: how much of it was checked before.
        """
        held = self._block
        self._lines += held.count(b"\n", old)
        if self._lines > MAX_FIELDS + 1:
            _refuse_size(f"more than {MAX_FIELDS} fields")
        if len(held) > self._allowance:
            _refuse_size(f"over {MAX_HEAD} bytes of fields")
        if self._state == _HEAD and not any(held.startswith(line[: len(held)]) for line in _STATUS_LINES):
            _refuse("no HTTP/1 status line")
        if _WRONG_EARLY.search(held, max(0, old - 1)):
            _refuse("bare CR, bare LF or NUL in the fields")

    def _parse(self, block: bytes) -> int:
        """Check a block of fields, split it into `_fields` and return the status."""
        lines = block.count(b"\r\n")
        if lines - 2 > MAX_FIELDS:
            _refuse_size(f"more than {MAX_FIELDS} fields")
        # no control character (RFC 9110 section 5.5), no bare CR or LF (RFC 9112 section 2.2)
        if block.translate(None, _TEXT) != b"\r\n" * lines:
            _refuse("control character, bare CR or bare LF in the fields")
        self._parser = parser = HttpResponseParser(self)
        try:
            parser.feed_data(block)
        except HttpParserError as error:
            _refuse(f"llhttp: {error}")
        finally:
            self._parser = None  # the parser holds our method: leave no cycle behind
        found = _FIELD_LINE.findall(block.decode("latin-1"), block.find(b"\n") + 1)
        if len(found) != lines - 2:
            _refuse("a line in the fields that is not name and value")
        self._fields = tuple([(name.lower(), value.rstrip(" \t")) for name, value in found])
        return parser.get_status_code()

    def on_headers_complete(self) -> None:
        """Read the keep-alive flag (called by httptools): after the message llhttp would always say no."""
        if self._parser is not None:
            self.keep = self._parser.should_keep_alive()

    # --- framing, RFC 9112 section 6.3

    def _frame(self, status: int, fields: Fields, *, http_1_0: bool) -> None:
        length: int | None = None
        chunked = False
        options = ""
        for name, value in fields:
            if name not in _FRAMING:
                continue
            if name == "content-length":
                length = _length(value, earlier=length)
            elif name == "transfer-encoding":
                if chunked or value.lower() != "chunked":
                    _refuse("a transfer coding other than chunked")
                chunked = True
            else:
                options += f",{value.lower()}"
        if chunked and (length is not None or http_1_0):
            _refuse("Transfer-Encoding with Content-Length, or in HTTP/1.0")
        if self._head_only or status in (204, 304):
            if status == 204 and (chunked or length):
                self.keep = False  # a 204 has no body (RFC 9110 section 8.6), but this one's may be on its way
            elif self._head_only and not http_1_0:  # llhttp expects a body that ends with the connection here
                self.keep = "close" not in {option.strip() for option in options.split(",")}
            self._finish()
        elif chunked:
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
        if self._body is None:
            self._body = bytearray(self._first)
            self._first = b""
        try:
            rest = chunks.feed(data, self._body)
        except ValueError as error:
            _refuse(str(error))
        self.size = len(self._body)
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
        keep = self.keep
        self._parse(_TRAILER_PREFIX + block)
        self.keep = keep
        self.trailers = self._fields
        self.extra = bool(rest)
        self._finish()

    def _keep_body(self, data: bytes) -> None:
        if self._body is not None:
            self._body += data
        elif self._first:
            self._body = bytearray(self._first)
            self._body += data
            self._first = b""
        else:
            self._first = data
        self.size += len(data)


def _length(value: str, *, earlier: int | None) -> int:
    # int() would take signs, underscores, spaces and other scripts' digits; RFC 9110 section 8.6 has 1*DIGIT
    if not (value.isascii() and value.isdigit() and len(value) <= 18):
        _refuse("Content-Length is not a number")
    length = int(value)
    if earlier is not None and earlier != length:
        _refuse("two different Content-Length fields")
    return length


def _refuse(detail: str) -> NoReturn:
    raise FaztError(Reason.PROTOCOL, "The server's answer is not valid HTTP/1.1.", detail=detail)


def _refuse_size(detail: str) -> NoReturn:
    raise FaztError(
        Reason.RESPONSE_HEADERS, "The fields of the server's answer are too many or too long.", detail=detail
    )
