"""One canonical path per request, made before anything is decided on it (F42)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from fazt.server.answers import RefusalError

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_HIDDEN = re.compile(rb"%(?:2[fF]|5[cC]|[01][0-9A-Fa-f]|7[fF])")  # slash, backslash, controls
_RAW = re.compile(rb"[^\x21-\x5b\x5d-\x7e]")  # space, backslash, controls and bytes beyond ASCII
_SECOND = re.compile(r"%[0-9A-Fa-f]{2}")
_LONGEST = 4096

NEVER_STATIC = frozenset({"api", "private", "workers", "node_modules", "manifest.json", "_app"})
"""First segments, in any case, whose content is never served as a file."""


@dataclass(frozen=True, slots=True)
class SitePath:
    """A path that has one reading: decoded once, without dot segments, empty segments or control characters.

    Args:
        text: `/` or `/a/b`, never with a slash at the end.
        slash: whether the request's path ended with one.
    """

    text: str
    slash: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The segments."""
        return tuple(self.text[1:].split("/")) if self.text != "/" else ()

    @property
    def is_api(self) -> bool:
        """Whether `api/main.js` answers this path."""
        return self.text == "/api" or self.text.startswith("/api/")

    @property
    def file_name(self) -> str | None:
        """The path inside the app's directory ("" for its root); None where nothing is ever served as a file."""
        parts = self.parts
        if parts and parts[0].casefold() in NEVER_STATIC:
            return None
        if any(part.startswith(".") for part in parts):
            return None
        return "/".join(parts)

    @property
    def encoded(self) -> str:
        """The path with what needs escaping escaped; always one leading slash, so never an authority."""
        return quote(self.text, safe="/-._~!$&'()*+,;=:@")

    def below(self, count: int) -> SitePath:
        """The path without its first segments."""
        return SitePath("/" + "/".join(self.parts[count:]), self.slash)


def canonical(raw: bytes) -> SitePath:
    """Return the one reading of a path as it came over the wire.

    Percent-escapes are decoded once; dot segments and repeated slashes are resolved (RFC 3986 section 5.2.4).

    Raises:
        RefusalError: 400 when it has more than one reading: a broken escape, an encoded slash, backslash or control
            character, text that is not UTF-8, something that would decode a second time, a climb above the root.
    """
    if not raw.startswith(b"/") or len(raw) > _LONGEST or _RAW.search(raw):
        raise _refusal()
    if b"%" in raw:
        if _BAD_ESCAPE.search(raw) or _HIDDEN.search(raw):
            raise _refusal()
        try:
            text = unquote_to_bytes(raw).decode("utf-8")
        except UnicodeDecodeError:
            raise _refusal() from None
        if _SECOND.search(text):
            raise _refusal()
    else:
        text = raw.decode("ascii")
    kept: list[str] = []
    segments = text.split("/")
    for segment in segments:
        if segment == "..":
            if not kept:
                raise _refusal()
            kept.pop()
        elif segment not in ("", "."):
            kept.append(segment)
    slash = bool(kept) and segments[-1] in ("", ".", "..")
    return SitePath("/" + "/".join(kept), slash)


def _refusal() -> RefusalError:
    return RefusalError(400, "BAD_PATH", "the path has no single reading")
