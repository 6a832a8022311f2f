"""What may leave the process: URLs without queries and user info, hosts in one form, text that steers no reader."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import cast

from fazt.core.url import parse_url
from fazt.errors import FaztError
from fazt.telemetry.event import UNKNOWN

URL_CAP = 2048
TEXT_CAP = 512
NAME_CAP = 256
# Controls, line and paragraph separators, bidirectional overrides, lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_QUERY = re.compile(r"[?#]")
_LOOSE_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):[/\\]{1,4}(.*)", re.DOTALL)
_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:[/\\]{2}[^\s'\"<>]*")
_AUTHORITY = re.compile(r"[^/\\]*")


def plain(value: object) -> str | None:
    """Return a string as it is, None for anything else.

    A subclass of `str` may override everything, and `isinstance` asks the object itself what it is.
    """
    return str.__str__(cast("str", value)) if issubclass(type(value), str) else None


def redact_url(value: object) -> str:
    """Return a URL without query, fragment, user name and password; "" where that can't be told apart.

    Args:
        value: anything; what is no string has no URL to show.
    """
    text = plain(value)
    if text is None:
        return ""
    try:
        return clean(parse_url(text).redacted(), URL_CAP)
    except FaztError:
        pass  # it was refused, or is none of ours; what is safe of it is still worth showing
    loose = _LOOSE_URL.fullmatch(_QUERY.split(text, maxsplit=1)[0])
    if loose is None:
        return ""
    # A password may hold a slash: everything before the last "@" goes, even if that costs a piece of the path.
    rest = loose[2].rpartition("@")[2]
    return clean(f"{loose[1].lower()}://{rest}", URL_CAP)


def redact_text(text: str, cap: int = TEXT_CAP) -> str:
    """Return text with the URLs in it redacted, its controls escaped, cut at `cap` characters."""
    if ":/" in text or ":\\" in text:
        text = _URL_IN_TEXT.sub(lambda found: redact_url(found[0]), text[: 4 * cap])
    return clean(text, cap)


def normal_host(value: object) -> str:
    """Return the host of a URL, or a bare host, as it is compared: lower-case, punycode, without port and dot.

    Args:
        value: anything; "unknown" comes back where no host can be read.
    """
    text = (plain(value) or "").strip()
    rest = text.partition("://")[2] if "://" in text else text
    authority = _AUTHORITY.match(_QUERY.split(rest, maxsplit=1)[0])
    assert authority is not None  # the pattern takes any text
    host = authority[0].rpartition("@")[2]
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    if host.startswith("["):
        host = host[1:].partition("]")[0]
        try:
            return str(ip_address(host))
        except ValueError:
            return UNKNOWN
    host = host.partition(":")[0]
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    try:
        return parse_url(f"https://{host}/").host
    except FaztError:
        return UNKNOWN


def clean(value: object, cap: int = NAME_CAP) -> str:
    """Escape what could steer a reader of a log and cut at `cap` characters; "" for what is no text."""
    text = plain(value)
    if text is None:
        return ""
    if len(text) > cap:
        text = text[: cap - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    escaped = _UNSAFE.sub(_escaped, text)
    return escaped if len(escaped) <= cap else escaped[: cap - 1] + "…"


def _escaped(match: re.Match[str]) -> str:
    point = ord(match[0])
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"
