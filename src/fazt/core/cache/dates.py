"""HTTP dates (RFC 9110 section 5.6.7) and delta-seconds (RFC 9111 section 1.2.2)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

FOREVER: Final = 2**31
"""Seconds: RFC 9111 section 1.2.2: "the most negative consequences" of a larger number are avoided by using this."""

_DAYS = "Mon|Tue|Wed|Thu|Fri|Sat|Sun"
_FULL_DAYS = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = "|".join(_MONTHS)
_TIME = r"(\d\d):(\d\d):(\d\d)"
# The grammar is case-sensitive, but nothing else can be meant: case is the one thing that is overlooked.
_IMF = re.compile(rf"(?:{_DAYS}), (\d\d) ({_MONTH}) (\d{{4}}) {_TIME} GMT", re.ASCII | re.IGNORECASE)
_RFC850 = re.compile(rf"(?:{_FULL_DAYS}), (\d\d)-({_MONTH})-(\d\d) {_TIME} GMT", re.ASCII | re.IGNORECASE)
_ASCTIME = re.compile(rf"(?:{_DAYS}) ({_MONTH}) (\d\d| \d) {_TIME} (\d{{4}})", re.ASCII | re.IGNORECASE)


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
    text = text.strip(" \t")
    found = _IMF.fullmatch(text)
    if found is not None:
        day, month, year, *clock = found.groups()
        return _moment(int(year), month, int(day), clock)
    found = _RFC850.fullmatch(text)
    if found is not None:
        day, month, short, *clock = found.groups()
        # RFC 9110 section 5.6.7: a year more than 50 years ahead is the past year with the same last two digits.
        this = datetime.fromtimestamp(now, UTC).year
        year_full = this // 100 * 100 + int(short)
        return _moment(year_full - 100 if year_full > this + 50 else year_full, month, int(day), clock)
    found = _ASCTIME.fullmatch(text)
    if found is not None:
        month, day, *clock, year = found.groups()
        return _moment(int(year), month, int(day), clock)
    return None


def _moment(year: int, month: str, day: int, clock: list[str]) -> float | None:
    hour, minute, second = map(int, clock)
    try:
        return datetime(
            year, _MONTHS.index(month.lower()) + 1, day, hour, minute, min(second, 59), tzinfo=UTC
        ).timestamp()
    except ValueError:
        return None
