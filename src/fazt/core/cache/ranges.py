"""One range of bytes out of a whole stored response (RFC 9110 section 14). Parts themselves are never stored."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from fazt.core.call import Fields

_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))[ \t]*", re.ASCII | re.IGNORECASE)


class Span(NamedTuple):
    """A range as asked for: `first` to `last` (None: to the end), or, with `first` None, the last `last` bytes."""

    first: int | None
    last: int | None


def parse_range(values: Sequence[str]) -> Span | None:
    """Return the one range of bytes that a request asks for; None for several, other units, or nonsense."""
    found = _RANGE.fullmatch(values[0].strip(" \t")) if len(values) == 1 else None
    if found is None:
        return None
    if found[3] is not None:
        return Span(None, int(found[3]))
    first, last = int(found[1]), int(found[2]) if found[2] else None
    return None if last is not None and last < first else Span(first, last)


def part(span: Span, fields: Fields, body: bytes) -> tuple[int, Fields, bytes]:
    """Return status, fields and body that answer a range request from a whole response.

    Args:
        span: what is asked for.
        fields: of the whole response.
        body: its body.
    """
    size = len(body)
    if span.first is None:
        first, end = max(0, size - (span.last or 0)), size
    else:
        first, end = span.first, size if span.last is None else min(size, span.last + 1)
    rest = tuple(field for field in fields if field[0] not in ("content-length", "content-range"))
    if first >= end:  # RFC 9110 section 15.5.17
        return 416, (*rest, ("content-range", f"bytes */{size}"), ("content-length", "0")), b""
    cut = body[first:end]
    # RFC 9110 section 15.3.7.1: what a 200 would have carried, and which part this is.
    placed = (("content-range", f"bytes {first}-{end - 1}/{size}"), ("content-length", str(len(cut))))
    return 206, (*rest, *placed), cut
