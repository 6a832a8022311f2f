"""Turn text into a URL: the only place in fazt where a string becomes a host.

What comes out is what the rule sees, what DNS sees, what goes on the wire (Host, SNI, CONNECT authority), what keys
pool and cache, and what is logged. Hosts are those of the WHATWG URL standard or they are refused: wherever two
readers could see two different things in the same text, there is no canonical form and the text is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NoReturn
from urllib.parse import unquote_to_bytes

import can_ada
import idna

from fazt.errors import FaztError, Reason

MAX_URL = 16 * 1024
"""Longest URL accepted, in characters, before and after percent-encoding."""

DEFAULT_PORTS = {"http": 80, "https": 443}
"""The schemes that fazt speaks and the port each stands for."""

_MAX_HOST = 253  # RFC 1035 section 2.3.4: 255 octets on the wire are 253 in text, without the root's dot
_MAX_LABEL = 63
_MEMO_TEXT = 512  # longer texts are parsed every time, so that the memo stays within about a megabyte

# C0, DEL and C1 controls, every Unicode white space, the backslash (a slash to WHATWG and to nobody else) and lone
# surrogates (no UTF-8 form). Browsers strip or convert some of these silently, other readers don't.
_FORBIDDEN = re.compile("[\\x00-\\x20\\x7f-\\xa0\\\\\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ud800-\udfff]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
_PARTS = re.compile(r"([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.DOTALL)
_PLAIN_HOST = re.compile(r"[a-z0-9_.\-]+")
_PLAIN_LABEL = re.compile(r"[a-z0-9_\-]+")
# WHATWG URL, "ends in a number checker": such a host is an IPv4 address or nothing.
_ENDS_IN_NUMBER = re.compile(r"(?:^|\.)(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?$")
_BARE_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(?:%.*)?")
# WHATWG URL, path percent-encode set and special-query percent-encode set: what stands outside these is encoded.
_PATH_ENCODE = re.compile(r"[^!$-;=@-\]_a-z|~]+")
_QUERY_ENCODE = re.compile(r"[^!$-&(-;=?-~]+")
# Segments that WHATWG resolves though their dots are encoded; fazt sends them as they are.
_ENCODED_DOTS = re.compile(r"(?:\.|%2[eE]){1,2}")


@dataclass(frozen=True, slots=True, repr=False)
class Url:
    """An absolute http(s) URL in canonical form, without userinfo and fragment.

    Args:
        scheme: "http" or "https".
        host: ASCII, lower-case, IDNA-encoded, without trailing dot; never an IP address.
        port: 1 to 65535, never absent.
        path: as it goes on the wire, beginning with "/"; literal dot segments are resolved, encoded ones are not.
        query: as it goes on the wire without its "?"; None when there is no "?" and "" when nothing follows it.
    """

    scheme: str
    host: str
    port: int
    path: str
    query: str | None
    authority: str = field(init=False, compare=False)
    """The host, followed by the port unless it is the scheme's own."""
    target: str = field(init=False, compare=False)
    """Path and query: the request target in origin form (RFC 9112 section 3.2.1)."""

    def __post_init__(self) -> None:
        implied = DEFAULT_PORTS.get(self.scheme) == self.port
        object.__setattr__(self, "authority", self.host if implied else f"{self.host}:{self.port}")
        object.__setattr__(self, "target", self.path if self.query is None else f"{self.path}?{self.query}")

    @property
    def origin(self) -> str:
        """Scheme and authority."""
        return f"{self.scheme}://{self.authority}"

    def redacted(self) -> str:
        """Return the URL without its query, for logs and messages."""
        return self.origin + self.path

    def __str__(self) -> str:
        return self.origin + self.target

    def __repr__(self) -> str:  # the query may hold credentials
        return f"<Url {self.redacted()}{'' if self.query is None else '?…'}>"


@dataclass(frozen=True, slots=True)
class RulePath:
    """A path in the form that path rules compare.

    Args:
        path: percent-escapes of characters that may stand literally are decoded (but dots and slashes are not), the
            others have upper-case digits, so that two spellings of one path are equal.
        encoded_slash: a "%2f" is in it.
        ambiguous: servers differ in what it names (encoded dots, backslash or NUL, dot segments with parameters or
            between encoded slashes, escapes that are double, overlong or broken): a rule that restricts paths
            refuses it, and a deny rule with a path on that host has to count it as a match.
    """

    path: str
    encoded_slash: bool
    ambiguous: bool


def parse_url(text: str, *, base: Url | None = None) -> Url:
    """Parse and canonicalise a URL.

    Args:
        text: an absolute http(s) URL; with `base`, also a relative reference as in a Location header.
        base: the URL that a relative reference starts from.

    Raises:
        FaztError: `scheme_not_allowed`, `userinfo`, `ip_literal`, and `bad_url` for everything else.

    Source: WHATWG URL standard for what is accepted; RFC 3986 section 5 for relative references.
    """
    if base is None and isinstance(text, str) and len(text) <= _MEMO_TEXT:
        return _parse_memo(text)
    return _parse(text, base)


def parse_host(text: str) -> str:
    """Return the canonical form of one host name, by the same refusals as in a URL.

    A ":443" after the name is dropped, since a bare name stands for its https origin; any other port is refused.

    Args:
        text: a host name without scheme, path and wildcard.

    Raises:
        FaztError: `userinfo`, `ip_literal` or `bad_url`.
    """
    _screen(text)
    if any(mark in text for mark in "/?#"):
        _refuse(Reason.BAD_URL, "A host name stands alone, without a scheme, path or query.")
    host, port = _split_authority(text, default=443)
    if port != 443:
        _refuse(Reason.BAD_URL, "A host name stands here without a port.")
    return _host(host)


def _refuse(reason: Reason, message: str) -> NoReturn:
    raise FaztError(reason, message)


@lru_cache(maxsize=2048)
def _parse_memo(text: str) -> Url:
    return _parse(text, None)


def _parse(text: str, base: Url | None) -> Url:
    _screen(text)
    match = _SCHEME.match(text)
    if match:
        scheme = match[1].lower()
        if scheme not in DEFAULT_PORTS:
            _refuse(Reason.SCHEME_NOT_ALLOWED, "Only http and https URLs can be fetched.")
        rest = text[match.end() :]
        # WHATWG takes http:x, http:/x and http:///x for http://x, or for a relative reference; others read no host.
        if not rest.startswith("//"):
            _refuse(Reason.BAD_URL, 'The URL lacks the "//" between its scheme and its host.')
    elif base is None:
        _refuse(Reason.BAD_URL, "The URL must be absolute and begin with https:// or http://.")
    elif text.startswith("//"):
        scheme, rest = base.scheme, text
    else:
        return _relative(text, base)
    parts = _PARTS.fullmatch(rest, 2)
    assert parts is not None  # the pattern takes any text
    raw_host, port = _split_authority(parts[1], default=DEFAULT_PORTS[scheme])
    return _finish(scheme, _host(raw_host), port, path=parts[2], query=parts[3])


def _relative(text: str, base: Url) -> Url:
    parts = _PARTS.fullmatch(text)
    assert parts is not None
    path = parts[1] + parts[2]  # there is no authority: what stands before the first slash is a segment
    query: str | None = parts[3]
    if not path:
        path = base.path
        query = base.query if query is None else query
    elif not path.startswith("/"):
        path = base.path[: base.path.rfind("/") + 1] + path
    return _finish(base.scheme, base.host, base.port, path=path, query=query)


def _finish(scheme: str, host: str, port: int, *, path: str, query: str | None) -> Url:
    path = _resolve_dots(_PATH_ENCODE.sub(_percent_encode, path)) if path else "/"
    if query:
        query = _QUERY_ENCODE.sub(_percent_encode, query)
    url = Url(scheme, host, port, path, query)
    if len(path) + len(query or "") > MAX_URL - 512 and len(str(url)) > MAX_URL:
        _refuse(Reason.BAD_URL, f"The URL is longer than {MAX_URL} characters.")
    return url


def _screen(text: str) -> None:
    if not isinstance(text, str):
        _refuse(Reason.BAD_URL, "The URL must be a string.")
    if len(text) > MAX_URL:
        _refuse(Reason.BAD_URL, f"The URL is longer than {MAX_URL} characters.")
    if _FORBIDDEN.search(text):
        _refuse(Reason.BAD_URL, "The URL holds a space, a control character, a backslash or a broken character.")


def _percent_encode(match: re.Match[str]) -> str:
    return "".join([f"%{byte:02X}" for byte in match[0].encode()])


def _resolve_dots(path: str) -> str:
    """Resolve `.` and `..` segments spelt literally, as WHATWG and RFC 3986 section 5.2.4 both do."""
    if "/." not in path:
        return path
    segments = path.split("/")
    out: list[str] = []
    for segment in segments[1:]:
        if segment == "..":
            # WHATWG would have resolved an encoded dot segment first, and so ends at another path than we would.
            if out and _ENCODED_DOTS.fullmatch(out.pop()):
                _refuse(Reason.BAD_URL, "The path mixes literal and encoded dot segments.")
        elif segment != ".":
            out.append(segment)
    if segments[-1] in (".", ".."):
        out.append("")
    return "/" + "/".join(out)


def _split_authority(authority: str, *, default: int) -> tuple[str, int]:
    if "@" in authority:
        _refuse(Reason.USERINFO, "A URL with a user name or password in it is not fetched.")
    if authority.startswith("["):
        _refuse(Reason.IP_LITERAL, "A URL must name its host, not an IP address.")
    host, colon, port = authority.partition(":")
    if not colon:
        return host, default
    if ":" in port:
        if _BARE_IPV6.fullmatch(authority):
            _refuse(Reason.IP_LITERAL, "A URL must name its host, not an IP address.")
        _refuse(Reason.BAD_URL, "The URL has more than one port.")
    return host, _port(port, default=default)


def _port(text: str, *, default: int) -> int:
    if not text:  # "host:" is the default port to every reader (RFC 3986 section 3.2.3)
        return default
    digits = text.lstrip("0")
    if not (text.isascii() and text.isdigit()) or not 0 < len(digits) <= 5 or int(digits) > 65535:
        _refuse(Reason.BAD_URL, "The port must be a number from 1 to 65535.")
    return int(digits)


@lru_cache(maxsize=4096)
def _host(raw: str) -> str:
    if not raw:
        _refuse(Reason.BAD_URL, "The URL has no host.")
    if len(raw) > _MAX_HOST + 1:
        _refuse(Reason.BAD_URL, "The host name is too long.")
    by_ada = _ada_host(raw)
    decoded = raw if "%" not in raw else unquote_to_bytes(raw).decode(errors="replace")
    lowered = decoded.lower() if decoded.isascii() else decoded
    plain = _PLAIN_HOST.fullmatch(lowered) is not None and "xn--" not in lowered
    host = lowered if plain else _idna_host(lowered)
    if any(_ENDS_IN_NUMBER.search(reading) for reading in (decoded, by_ada, host) if reading):
        _refuse(Reason.IP_LITERAL, "A URL must name its host, not an IP address.")
    # Where ada, host and the idna package don't agree to the letter, there are two readings.
    if host is None or host != by_ada:
        _refuse(Reason.BAD_URL, "The host name is not valid.")
    host = host.removesuffix(".")
    if len(host) > _MAX_HOST or not all(0 < len(label) <= _MAX_LABEL for label in host.split(".")):
        _refuse(Reason.BAD_URL, "The host name has an empty label, or one that is too long.")
    return host


def _ada_host(raw: str) -> str | None:
    """Return the host that the WHATWG parser reads, or None where it reads none."""
    try:
        return can_ada.parse(f"https://{raw}/").hostname
    except ValueError:
        return None


def _idna_host(raw: str) -> str | None:
    """Return the A-label form by UTS #46 (non-transitional) and IDNA 2008, or None where that fails.

    Labels that are plain ASCII after mapping are left as they are: ada decides about those.
    """
    labels: list[str] = []
    try:
        for label in idna.uts46_remap(raw, std3_rules=False).split("."):
            if not label or (_PLAIN_LABEL.fullmatch(label) and not label.startswith("xn--")):
                labels.append(label)
                continue
            unicode_label = idna.ulabel(label)
            ascii_label = idna.alabel(unicode_label).decode("ascii")
            # Round trip: an A-label stands for exactly one U-label and the other way round.
            if label.startswith("xn--") and label != ascii_label:
                return None
            if idna.ulabel(ascii_label) != unicode_label:
                return None
            labels.append(ascii_label)
    except ValueError:  # idna.IDNAError is a UnicodeError; some checks in it raise plain ValueError
        return None
    return ".".join(labels)


_AMBIGUOUS = re.compile(
    r"%(?:25)*(?:2e|5c|00)"  # an encoded dot, backslash or NUL, also under double encoding
    r"|%(?:25)+2f"  # a slash under double encoding; the plain %2f has a flag of its own
    r"|%(?:c[01]|e0%[89]|f0%8)"  # overlong UTF-8, by which old servers read a dot or slash
    r"|%(?![0-9a-f]{2})"  # a broken escape
    r"|(?:/|%2f)\.{1,2}(?=;|%3b|/|%2f|$)",  # a dot segment with parameters, or one that encoded slashes hide
    re.IGNORECASE,
)
_PCHAR = "-_~!$&'()*+,;=:@"  # RFC 3986 section 3.3, without the letters, digits and the dot
_NOT_CANONICAL = re.compile(r"[^A-Za-z0-9./" + re.escape(_PCHAR) + "]")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})|([^%A-Za-z0-9./" + re.escape(_PCHAR) + "])")


def rule_path(url: Url) -> RulePath:
    """Return the form of a URL's path that path rules are compared with.

    Paths of rules themselves take the same form, by parsing them behind any origin.

    Source: RFC 3986 sections 6.2.2.1 and 6.2.2.2 for the equality of spellings.
    """
    path = url.path
    if not _NOT_CANONICAL.search(path):
        ambiguous = "/." in path and _AMBIGUOUS.search(path) is not None
        return RulePath(path, encoded_slash=False, ambiguous=ambiguous)
    return RulePath(
        path=_ESCAPE.sub(_canonical_escape, path),
        encoded_slash="%2f" in path.lower(),
        ambiguous=_AMBIGUOUS.search(path) is not None,
    )


def _canonical_escape(match: re.Match[str]) -> str:
    if match[1] is None:
        return "".join([f"%{byte:02X}" for byte in match[2].encode(errors="replace")])
    char = chr(int(match[1], 16))
    return char if char.isascii() and (char.isalnum() or char in _PCHAR) else match[0].upper()
