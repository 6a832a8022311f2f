"""Request bodies: read under a cap and a deadline, then parsed once, before any handler runs (spec B.2, F39)."""

from __future__ import annotations

import asyncio
import codecs
import json
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from fazt.functions.model import UploadedFile
from fazt.server.answers import RefusalError, overloaded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from python_multipart.multipart import MultipartCallbacks

PLAIN_CAP = 1_048_576
"""Bytes of a body that is not multipart."""
MAX_FIELDS = 1_000
"""Fields and files of one form."""
MAX_NESTING = 500
"""Lists and objects inside each other in a JSON body. Python's own limit moves with the stack: what was read on a
thread could not be written again elsewhere."""
_INLINE = 65_536  # larger bodies are parsed on a thread, so that other requests go on
_LONGEST_TYPE = 1_024
_DRAIN = 1_048_576
_DRAIN_SECONDS = 1.0
_DIGITS = re.compile(rb"[0-9]{1,15}")
_CHARSET = re.compile(rb"[A-Za-z0-9_.:-]{1,40}")
_CHARSETS = re.compile(
    r"ascii|utf-(?:8|8-sig|16|16-[bl]e|32)|iso8859-\d+|cp(?:125\d|866|874|932|949|950)|koi8-[ru]|mac-roman|tis-620"
    r"|shift_jis|euc_jp|iso2022_jp|gbk|gb2312|gb18030|big5|big5hkscs|euc_kr"
)
"""Python's names of the charsets that text may be in. Not every codec is one: punycode takes time in the square of
the size, and others read escapes."""

Receive = Callable[[], Awaitable[Any]]


class GoneError(Exception):
    """The client went away before its request was whole; there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A body as `request.body` and `request.files` show it."""

    body: Any = field(default=None, repr=False)
    files: Mapping[str, tuple[UploadedFile, ...]] = field(default_factory=dict)


class UploadSpace:
    """How many bytes of request bodies this process holds at once; beyond it requests are put off, not queued.

    A quarter is kept for bodies that are not large, so that a few uploads that never end don't hold up everybody.

    Args:
        total: bytes.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Give one request a way to take bytes; all of them come back at the end.

        Raises (from the way given):
            RefusalError: 503 when nothing is left.
        """
        mine = 0

        def take(count: int) -> None:
            nonlocal mine
            total = self.total if mine + count <= PLAIN_CAP else self.total - self.total // 4
            if self.used + count > total:
                raise overloaded(close=True)
            self.used += count
            mine += count

        try:
            yield take
        finally:
            self.used -= mine


def media_type(content_type: str | None) -> str:
    """Return the bare media type, lower-case, "" where there is none."""
    return (content_type or "").partition(";")[0].strip().lower()


async def read_body(
    receive: Receive,
    *,
    method: str,
    fields: Mapping[str, str],
    max_upload: int,
    take: Callable[[int], None] = lambda _count: None,
) -> bytes:
    """Read a whole body.

    Args:
        receive: the ASGI channel.
        method: GET and HEAD have no body that anybody reads.
        fields: header fields, names in lower case.
        max_upload: cap of a multipart body in bytes; any other is capped at 1 MiB.
        take: called with the size of every piece before it is kept.

    Raises:
        RefusalError: 413 when it is larger than its cap; at once when its length is announced.
        GoneError: the client went away.
    """
    if method in ("GET", "HEAD"):
        return b""
    cap = max_upload if media_type(fields.get("content-type")) == "multipart/form-data" else PLAIN_CAP
    announced = fields.get("content-length", "0").encode()
    if not _DIGITS.fullmatch(announced) or int(announced) > cap:
        await _too_large(receive, "100-continue" not in fields.get("expect", "").lower())
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise GoneError
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > cap:
            await _too_large(receive, message.get("more_body", False))
        take(len(piece))
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


async def _too_large(receive: Receive, more: bool) -> NoReturn:
    # A client that is still sending does not read; a little patience lets most of them see the answer.
    left = _DRAIN
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while more and left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                more = message["type"] != "http.disconnect" and message.get("more_body", False)
    except TimeoutError:
        pass
    raise RefusalError(413, "BODY_TOO_LARGE", "the request body is too large", close=True)


async def parse_body(body: bytes, content_type: str | None) -> Parsed:
    """Parse a body by its media type; large ones on a thread.

    Raises:
        RefusalError: 400 with `BAD_JSON`, `BAD_FORM` or `BAD_TEXT` when it is not what its type says.
    """
    if len(body) <= _INLINE:
        return parse(body, content_type)
    return await asyncio.to_thread(parse, body, content_type)


def parse(body: bytes, content_type: str | None) -> Parsed:
    """Parse a body by its media type: JSON, urlencoded, multipart, text; anything else stays bytes.

    An empty body is None.

    Raises:
        RefusalError: 400, see `parse_body`.
    """
    if not body:
        return Parsed()
    kind = media_type(content_type)
    if kind == "application/json" or kind.endswith("+json"):
        return Parsed(_json(body))
    if kind == "application/x-www-form-urlencoded":
        return Parsed(_urlencoded(body))
    if kind == "multipart/form-data":
        return _Form(content_type or "").parse(body)
    if kind.startswith("text/"):
        return Parsed(_text(body, content_type or ""))
    return Parsed(body)


def _json(body: bytes) -> Any:
    try:
        value = json.loads(body.decode("utf-8-sig"), parse_constant=_no_constant, parse_float=_finite)
        if body.count(b"[") + body.count(b"{") > MAX_NESTING and _nesting(body) > MAX_NESTING:
            raise RecursionError
    except (ValueError, RecursionError):
        raise RefusalError(400, "BAD_JSON", "the request body is not valid JSON") from None
    return value


_STEPS = bytes.maketrans(b"[{]}", b"\1\1\0\0")
_NO_STEPS = bytes(set(range(256)) - set(b"[{]}"))


def _nesting(body: bytes) -> int:
    text = body.replace(rb"\\", b"").replace(rb"\"", b"")  # in this order: a backslash may stand before a quote
    outside = b"".join(text.split(b'"')[::2])
    return max(accumulate(map((-1, 1).__getitem__, outside.translate(_STEPS, _NO_STEPS))), default=0)


def _no_constant(_name: str) -> NoReturn:
    raise ValueError  # NaN and Infinity are no JSON (RFC 8259 section 6)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError
    return number


def _urlencoded(body: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            body.decode("utf-8"), keep_blank_values=True, encoding="utf-8", errors="replace", max_num_fields=MAX_FIELDS
        )
    except ValueError:
        raise _bad_form() from None
    return first_values(pairs)


def first_values(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Keep the first value of each name."""
    found: dict[str, str] = {}
    for name, value in pairs:
        found.setdefault(name, value)
    return found


def query_values(query: bytes) -> dict[str, str]:
    """Parse a query string into the first value of each parameter.

    Raises:
        RefusalError: 400 when it holds more than 1,000 parameters.
    """
    try:
        return first_values(
            parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="replace", max_num_fields=MAX_FIELDS)
        )
    except ValueError:
        raise RefusalError(400, "BAD_QUERY", "the query has too many parameters") from None


def _text(body: bytes, content_type: str) -> str:
    try:
        name = _options(content_type).get(b"charset", b"utf-8")
        if not _CHARSET.fullmatch(name):
            raise LookupError
        codec = codecs.lookup(name.decode("ascii"))
        if not _CHARSETS.fullmatch(codec.name):
            raise LookupError
        return body.decode(codec.name)
    except (LookupError, UnicodeError):
        raise RefusalError(400, "BAD_TEXT", "the request body is not text in the charset it names") from None


def _options(content_type: str) -> dict[bytes, bytes]:
    if len(content_type) > _LONGEST_TYPE:  # thousands of options take longer to read than a body does
        raise LookupError
    return parse_options_header(content_type)[1]


def _bad_form() -> RefusalError:
    return RefusalError(400, "BAD_FORM", "the request body is not a valid form")


class _Form:
    """Collects the parts of one multipart body."""

    def __init__(self, content_type: str) -> None:
        try:
            boundary = _options(content_type).get(b"boundary", b"")
        except LookupError:
            raise _bad_form() from None
        if not 1 <= len(boundary) <= 70:  # RFC 2046 section 5.1.1
            raise _bad_form()
        self._boundary = boundary
        self._fields: dict[str, str] = {}
        self._files: dict[str, list[UploadedFile]] = {}
        self._count = 0
        self._headers: dict[bytes, bytes] = {}
        self._name = b""
        self._value = b""
        self._data: list[bytes] = []
        self._ended = False

    def parse(self, body: bytes) -> Parsed:
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._part_data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }
        try:
            parser = MultipartParser(self._boundary, callbacks)
            parser.write(body)
            parser.finalize()
        except FormParserError:
            raise _bad_form() from None
        if not self._ended:
            raise _bad_form()
        return Parsed(self._fields or None, {name: tuple(files) for name, files in self._files.items()})

    def _begin(self) -> None:
        self._count += 1
        if self._count > MAX_FIELDS:
            raise _bad_form()
        self._headers = {}
        self._data = []

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers.setdefault(self._name.lower(), self._value)
        self._name = self._value = b""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _end(self) -> None:
        options = parse_options_header(self._headers.get(b"content-disposition"))[1]
        if b"name" not in options:
            raise _bad_form()
        name = options[b"name"].decode("utf-8", "replace")
        content = b"".join(self._data)
        if b"filename" not in options:
            self._fields.setdefault(name, content.decode("utf-8", "replace"))
            return
        kind = self._headers.get(b"content-type", b"").decode("latin-1").strip()
        self._files.setdefault(name, []).append(
            UploadedFile(
                base_name(options[b"filename"].decode("utf-8", "replace")),
                kind or "application/octet-stream",
                len(content),
                content,
            )
        )

    def _finish(self) -> None:
        self._ended = True


def base_name(name: str) -> str:
    """Reduce a client's file name to one segment without control characters; `file` where nothing is left."""
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join(char for char in last if char.isprintable()).strip()
    return kept[:255] if kept not in ("", ".", "..") else "file"
