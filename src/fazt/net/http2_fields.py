"""Fields of answers over HTTP/2, held against the rules and the limits (RFC 9113 section 8.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fazt.core.call import Fields
from fazt.errors import FaztError, Reason
from fazt.net.http1 import MAX_HEAD
from fazt.net.http1_fields import MAX_FIELDS

_MALFORMED = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})
# section 8.2.1: a token in lower case, a value without NUL, CR and LF (RFC 9110 section 5.5: without any control)
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")


def decode(headers: Iterable[tuple[bytes, bytes]]) -> Fields:
    """Return fields, of which h2 has already read the bytes."""
    return tuple([(name.decode("latin-1"), value.decode("latin-1").strip(" \t")) for name, value in headers])


def check(status: int, fields: Fields) -> int | None:
    """Hold a head against the rules and the limits; returns the length it says the body has.

    Raises:
        FaztError: `protocol`, `response_headers`.
    """
    if not 200 <= status <= 999:
        raise _malformed("status code out of range")
    if len(fields) > MAX_FIELDS:
        raise FaztError(Reason.RESPONSE_HEADERS, "The fields of the answer are too many or too long.")
    size = 0
    length: str | None = None
    for name, value in fields:
        size += len(name) + len(value) + 4
        if _NAME.fullmatch(name) is None or _BAD_VALUE.search(value) is not None:
            raise _malformed("a field that is not name and value")
        if name in _MALFORMED:
            raise _malformed(f"the field {name}, which is HTTP/1.1's")
        if name == "content-length":
            if not (value.isascii() and value.isdigit() and len(value) <= 18) or length not in (None, value):
                raise _malformed("Content-Length is not a number")
            length = value
    if size > MAX_HEAD:
        raise FaztError(Reason.RESPONSE_HEADERS, "The fields of the answer are too many or too long.")
    return None if length is None else int(length)


def _malformed(detail: str) -> FaztError:
    return FaztError(Reason.PROTOCOL, "The server's answer is not valid HTTP/2.", detail=detail)
