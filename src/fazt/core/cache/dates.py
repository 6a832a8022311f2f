"""HTTP dates (RFC 9110 section 5.6.7) and delta-seconds (RFC 9111 section 1.2.2)."""

from __future__ import annotations

from typing import Final

from fazt.core.dates import parse_http_date

FOREVER: Final = 2**31
"""Seconds: RFC 9111 section 1.2.2: "the most negative consequences" of a larger number are avoided by using this."""


def parse_seconds(text: str) -> int | None:
    """Return delta-seconds, at most `FOREVER`; None when it is no such number."""
    if not text.isascii() or not text.isdigit():
        return None
    return min(int(text), FOREVER) if len(text) <= 64 else FOREVER


def parse_date(text: str, *, now: float = 0.0) -> float | None:
    """Return an HTTP date in seconds since the epoch; None when it is in none of the three forms.

    Args:
        text: the field value.
        now: seconds since the epoch, for the two-digit years of the RFC 850 form.
    """
    return parse_http_date(text, wall_now=now, lenient=True)
