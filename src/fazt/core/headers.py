"""What may stand in the head of a request: methods and fields, checked once, before any gate costs anything.

A script's header fields are data from a stranger. Those that steer the connection itself (framing, hop-by-hop,
proxy and forwarding fields) are dropped without a word, as browsers do; those that cannot be written down safely
refuse the call, because dropping half a field would change its meaning.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from fazt.errors import FaztError, Reason

if TYPE_CHECKING:
    from fazt.core.call import Fields

MAX_FIELDS: Final = 128
"""Most fields a request may carry."""
MAX_BYTES: Final = 64 * 1024
"""Most bytes the fields of a request may take on the wire, separators included."""
MAX_METHOD: Final = 32
"""Longest method that is sent."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
# RFC 9110 section 5.5: visible characters, obs-text, space and tab. All else of latin-1, and all beyond it, is refused.
_BAD_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")

_UNSAFE = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-real-ip",
    }
)
_UNSAFE_PREFIXES = ("proxy-", "x-forwarded-")
_MEMO_NAME = 64  # longer names are judged every time, so that the memo stays small

# CONNECT would turn the connection into a tunnel; TRACE (and IIS's TRACK) would send injected credentials back.
_REFUSED_METHODS = frozenset({"CONNECT", "TRACE", "TRACK"})
_PLAIN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def is_token(text: str) -> bool:
    """Tell whether this is a token (RFC 9110 section 5.6.2), the form of methods and field names."""
    return _TOKEN.fullmatch(text) is not None


def is_unsafe(name: str) -> bool:
    """Tell whether a request field of this name is the wire's own business and never the caller's (A.7)."""
    lower = name.lower()
    return lower in _UNSAFE or lower.startswith(_UNSAFE_PREFIXES)


def bad_value(text: str) -> bool:
    """Tell whether a field value holds a control character or something that latin-1 cannot carry."""
    return _BAD_VALUE.search(text) is not None


def method(text: str) -> str:
    """Return the method in upper case.

    Raises:
        FaztError: `bad_option` for a non-token (RFC 9110 section 9.1), CONNECT, TRACE and TRACK.
    """
    if text in _PLAIN_METHODS:
        return text
    if len(text) > MAX_METHOD or not is_token(text):
        raise FaztError(Reason.BAD_OPTION, "the method is not a valid HTTP method")
    upper = text.upper()
    if upper in _REFUSED_METHODS:
        raise FaztError(Reason.BAD_OPTION, f"the method {upper} is not available")
    return upper


def sanitise(fields: Fields, *, secret_header: str | None = None, coding: str = "identity") -> Fields:
    """Return the fields that may be sent: unsafe names dropped, `Accept-Encoding` set.

    Names keep their spelling, order and repetitions are kept, white space around values goes (RFC 9110 section 5.5).

    Args:
        fields: the fields as the caller gave them.
        secret_header: name of the field that a secret will fill; the caller's own field of that name is dropped.
        coding: the content codings to ask for: what the door can decode.

    Raises:
        FaztError: `bad_option` for a name that is no token, a value with a control character or with a character
            outside latin-1, more than `MAX_FIELDS` fields or more than `MAX_BYTES` bytes.
    """
    if len(fields) > MAX_FIELDS:
        raise FaztError(Reason.BAD_OPTION, f"the request has more than {MAX_FIELDS} header fields")
    filled = secret_header.lower() if secret_header is not None else None
    kept: list[tuple[str, str]] = []
    size = 0
    for name, value in fields:
        size += len(name) + len(value) + 4  # ": " and CRLF
        lower = _known_name(name) if len(name) <= _MEMO_NAME else _safe_name(name)
        if lower is None:
            raise FaztError(Reason.BAD_OPTION, "a header name is not a valid HTTP token")
        if not (value.isascii() and value.isprintable()) and _BAD_VALUE.search(value) is not None:
            raise FaztError(Reason.BAD_OPTION, "a header value holds a character that HTTP cannot carry")
        if lower and lower != filled:
            kept.append((name, value.strip(" \t")))
    if size > MAX_BYTES:
        raise FaztError(Reason.BAD_OPTION, f"the header fields are larger than {MAX_BYTES} bytes")
    kept.append(("Accept-Encoding", coding))
    return tuple(kept)


def _safe_name(name: str) -> str | None:
    """Return a field name in lower case, "" when the field is dropped, None when it is no token."""
    if not is_token(name):
        return None
    return "" if is_unsafe(name) else name.lower()


_known_name = lru_cache(maxsize=1024)(_safe_name)


def with_defaults(fields: Fields, *, version: str) -> Fields:
    """Return the fields with `User-Agent` and `Accept` added where the caller set none.

    Args:
        fields: the fields as the caller gave them, or as `sanitise` left them.
        version: fazt's version, for `User-Agent`.
    """
    names = {name.lower() for name, _ in fields}
    added: list[tuple[str, str]] = []
    if "user-agent" not in names:
        added.append(("User-Agent", f"fazt/{version}"))
    if "accept" not in names:
        added.append(("Accept", "*/*"))
    return (*fields, *added) if added else fields


def to_send(fields: Fields, secret_header: str | None, version: str, coding: str = "identity") -> Fields:
    """Return the fields as they go out: `sanitise`, then `with_defaults`."""
    if not fields:  # most scripts set none
        return _bare(version, coding)
    return with_defaults(sanitise(fields, secret_header=secret_header, coding=coding), version=version)


@lru_cache(maxsize=16)
def _bare(version: str, coding: str) -> Fields:
    return with_defaults(sanitise((), coding=coding), version=version)


def values(fields: Fields, name: str) -> list[str]:
    """Return the values of every field of this name, in order; names compare without case."""
    lower = name.lower()
    return [value for given, value in fields if given.lower() == lower]


def first(fields: Fields, name: str) -> str | None:
    """Return the value of the first field of this name, or None; names compare without case."""
    lower = name.lower()
    for given, value in fields:
        if given.lower() == lower:
            return value
    return None


def content_coding(fields: Fields) -> str:
    """Return the content codings that a response declares, comma-separated, or "" when its body is as it is.

    `identity` is no coding (RFC 9110 section 8.4.1); fazt asks for nothing else, so anything else is handed on raw.
    """
    codings = (part.strip().lower() for value in values(fields, "content-encoding") for part in value.split(","))
    return ", ".join(part for part in codings if part and part != "identity")
