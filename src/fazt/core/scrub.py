"""Taking echoes of secrets out of what a host sends back.

Looked for: the value as it is, base64 in all three alignments and both alphabets, URL-encoded in the usual dialects,
and as JSON text. Searching is done with `bytes.find`, one pass a form: about a millisecond of CPU a megabyte for an
ordinary key when there is nothing to find, where an alternation in one regular expression takes ten to twenty.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from urllib.parse import quote, quote_plus

from fazt.core.call import Fields

MIN_BYTES: Final = 12
"""Shortest value that is looked for; anything shorter turns up by chance."""
MARKER: Final = b"[redacted]"
"""What stands where a value stood."""

_BASE64 = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_")
_PAD = ord("=")

# What encoders leave as it is, beside letters, digits and "_.-": RFC 3986 strict ("~"), Python's quote, JavaScript's
# encodeURIComponent and encodeURI, and the WHATWG query percent-encode set.
_SAFE_SETS = ("~", "/~", "!'()*~", "!'()*~;,/?:@&=+$#", "!$%&'()*+,/:;=?@[\\]^`{|}~")

_PERIOD = 512
"""Longest part, in bytes, whose repetition makes a needle one that repeats itself."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9-]* +(?=\S)")


class _Form(NamedTuple):
    """Bytes to look for.

    `before` and `after`: the value begins or ends inside the neighbouring base64 character, which goes too; `after`
    also takes the padding.
    """

    needle: bytes
    before: bool = False
    after: bool = False

    def __repr__(self) -> str:  # the needle is a secret
        return f"<_Form of {len(self.needle)} bytes>"


def _base64_forms(raw: bytes) -> Iterable[_Form]:
    for offset in range(3):
        encoded = b64encode(bytes(offset) + raw)
        begin = -(-8 * offset // 6)  # first character made of the value alone
        bits = 8 * (offset + len(raw))
        needle = encoded[begin : bits // 6]
        for spelled in {needle, needle.translate(bytes.maketrans(b"+/", b"-_"))}:
            yield _Form(spelled, before=offset > 0, after=bits % 6 > 0)


def _url_forms(text: str) -> Iterable[str]:
    spelled = {quote(text, safe=safe) for safe in _SAFE_SETS}
    spelled |= {quote_plus(text), quote_plus(text, safe="*").replace("~", "%7E")}
    spelled |= {form.replace("%20", "+") for form in spelled}
    for form in spelled:
        yield form
        yield _lower_hex(form)


def credentials(value: str) -> str:
    """Return the part of an `Authorization` value behind its scheme (`Token abc` → `abc`), or the value itself."""
    found = _SCHEME.match(value)
    return value[found.end() :] if found else value


def _lower_hex(form: str) -> str:
    first, *rest = form.split("%")
    return "%".join([first, *(part[:2].lower() + part[2:] for part in rest)])


def _forms(value: str) -> set[_Form]:
    raws = {value.encode("utf-8", "surrogatepass")}
    try:
        raws.add(value.encode("latin-1"))
    except UnicodeEncodeError:
        pass  # it can't be sent either, but it can stand in a text that is scrubbed
    if min(map(len, raws)) < MIN_BYTES:
        return set()
    forms = {form for raw in raws for form in _base64_forms(raw)}
    texts: set[str] = set()
    try:
        texts.update(_url_forms(value))
        inner = json.dumps(value)[1:-1]
        texts |= {inner, inner.replace("/", "\\/"), json.dumps(value, ensure_ascii=False)[1:-1]}
        raws.update(text.encode() for text in texts)
    except UnicodeEncodeError:
        pass  # a lone surrogate has no such spelling
    return forms | {_Form(raw) for raw in raws}


def _run(needle: bytes) -> re.Pattern[bytes] | None:
    """Return the pattern of what prolongs a find of a needle that repeats itself ("abababab"), None for any other.

    Finds of such a needle may begin at every few bytes of a body made for it, and each costs as much as the needle is
    long; a find and what prolongs it are one search. Finds of any other needle lie far enough apart.
    """
    least = needle[: len(needle) - len(needle) // 2]
    period = needle.find(least, 1)
    while 0 < period <= _PERIOD:
        if needle.startswith(needle[period:]):
            return re.compile(b"(?:" + re.escape(needle[-period:]) + b")*+")
        period = needle.find(least, period + 1)
    return None


class Scrubber:
    """Replaces secret values by a marker. Immutable: make one per set of values and share it.

    Overlapping finds become one marker, and count once.

    Args:
        values: the secrets; those below `MIN_BYTES` bytes are ignored.
    """

    __slots__ = ("_forms", "_runs", "_values", "reach")

    def __init__(self, values: Sequence[str]) -> None:
        forms: set[_Form] = set()
        for value in values:
            for text in {value, value.strip(), credentials(value)}:
                forms |= _forms(text)
        self._forms = tuple(sorted(forms))
        self._runs = {form.needle: run for form in self._forms if (run := _run(form.needle)) is not None}
        self._values = len(values)
        # The longest find, with its neighbours: one character before, one behind, two of padding.
        self.reach = max((len(form.needle) + 4 for form in forms), default=0)

    def __repr__(self) -> str:
        return f"<Scrubber of {self._values} values>"

    def __bool__(self) -> bool:
        return bool(self._forms)

    def __reduce__(self) -> str:
        raise TypeError("a Scrubber holds secrets and is not pickled")

    def scrub(self, data: bytes) -> tuple[bytes, int]:
        """Return the data without the values, and how many finds were replaced."""
        found = self.find(data)
        if not found:
            return data, 0
        out: list[bytes] = []
        count = at = 0
        for start, end in found:
            if start < at:
                at = max(at, end)
                continue
            out += (data[at:start], MARKER)
            count += 1
            at = end
        out.append(data[at:])
        return b"".join(out), count

    def scrub_text(self, text: str) -> tuple[str, int]:
        """Do the same with text: a header value (latin-1), a message, a URL."""
        coding = "latin-1"
        try:
            raw = text.encode(coding)
        except UnicodeEncodeError:
            coding = "utf-8"
            raw = text.encode(coding, "surrogatepass")
        data, count = self.scrub(raw)
        return (data.decode(coding, "surrogatepass"), count) if count else (text, 0)

    def scrub_fields(self, fields: Fields) -> tuple[Fields, int]:
        """Do the same with the names and values of header fields."""
        # A value never holds a line break, so one search over all of them tells whether there is anything to do.
        if not self.scrub_text("\n".join(part for item in fields for part in item))[1]:
            return fields, 0
        total = 0
        out: list[tuple[str, str]] = []
        for name, value in fields:
            clean_name, in_name = self.scrub_text(name)
            clean_value, in_value = self.scrub_text(value)
            out.append((clean_name, clean_value))
            total += in_name + in_value
        return tuple(out), total

    def stream(self) -> ScrubStream:
        """Return a scrubber for one body that comes in pieces."""
        return ScrubStream(self)

    def find(self, data: bytes) -> list[tuple[int, int]]:
        """Return where values stand, as (start, end), sorted, possibly overlapping."""
        found: list[tuple[int, int]] = []
        for needle, before, after in self._forms:
            mine = len(found)
            size = len(needle)
            at = data.find(needle)
            while at >= 0:
                start, end = at, at + size
                if self._runs and needle in self._runs and (run := self._runs[needle].match(data, end)) is not None:
                    end = run.end()
                at = end - size  # of the last find that this one runs on to
                if before and start > 0 and data[start - 1] in _BASE64:
                    start -= 1
                if after and end < len(data) and data[end] in _BASE64:
                    end += 1
                    while end < min(len(data), at + size + 3) and data[end] == _PAD:
                        end += 1
                if len(found) > mine and start < found[-1][1]:  # a find that begins inside the last one
                    found[-1] = (found[-1][0], end)
                else:
                    found.append((start, end))
                at = data.find(needle, at + 1)
        found.sort()
        return found


class ScrubStream:
    """Scrubs one body piece by piece; the pieces joined are what `Scrubber.scrub` makes of the whole.

    Keeps back at most `Scrubber.reach` bytes, so that a value which two pieces share is found.
    """

    __slots__ = ("_covered", "_held", "_scrubber", "count")

    def __init__(self, scrubber: Scrubber) -> None:
        self._scrubber = scrubber
        self._held = b""
        self._covered = 0  # bytes at the front of `_held` that belong to a find already replaced
        self.count = 0

    def feed(self, data: bytes) -> bytes:
        """Take the next piece; return what can be handed on."""
        if not self._scrubber:
            return data
        held = self._held + data
        return self._emit(held, max(0, len(held) - self._scrubber.reach))

    def finish(self) -> bytes:
        """Return what was kept back."""
        return self._emit(self._held, len(self._held))

    def _emit(self, held: bytes, limit: int) -> bytes:
        """Hand on `held[:limit]`: whatever is found to begin there is known whole."""
        out: list[bytes] = []
        at = self._covered
        for start, end in self._scrubber.find(held):
            if start >= limit:
                break
            if start < at:
                at = max(at, end)
                continue
            out += (held[at:start], MARKER)
            self.count += 1
            at = end
        if at < limit:
            out.append(held[at:limit])
            at = limit
        self._held = held[limit:]
        self._covered = at - limit
        return b"".join(out)
