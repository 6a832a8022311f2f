"""Dates as HTTP writes them (RFC 9110 section 5.6.7): three spellings read, one meaning."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), start=1
    )
}
_MONTH = "(?P<month>" + "|".join(_MONTHS) + ")"
_TIME = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_PATTERNS: Final = (
    rf"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT",
    # "A recipient that parses a timestamp value in an HTTP field MUST accept all three HTTP-date formats."
    r"(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday), "
    rf"(?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT",
    rf"{_DAY} {_MONTH} (?P<day>[0-9]{{2}}| [0-9]) {_TIME} (?P<year>[0-9]{{4}})",
)
_FORMS: Final = tuple(re.compile(pattern) for pattern in _PATTERNS)
_LENIENT_FORMS: Final = tuple(re.compile(pattern, re.ASCII | re.IGNORECASE) for pattern in _PATTERNS)


def parse_http_date(text: str, *, wall_now: float, lenient: bool = False) -> float | None:
    """Return the seconds since the epoch that an HTTP-date stands for, None when it is none.

    Args:
        text: the field's value; case matters, as the standard says.
        wall_now: seconds since the epoch; decides the century of a year of two digits.
        lenient: whether case does not matter, since nothing else can be meant, and every second beyond the minute is
            its last.
    """
    for form in _LENIENT_FORMS if lenient else _FORMS:
        found = form.fullmatch(text.strip(" \t"))
        if found is not None:
            break
    else:
        return None
    year = int(found["year"])
    if len(found["year"]) == 2:
        this_year = datetime.fromtimestamp(wall_now, UTC).year
        year += this_year - this_year % 100
        # "... that appears to be more than 50 years in the future" means the last year with the same two digits.
        if year > this_year + 50:
            year -= 100
    second = int(found["second"])
    try:
        # A leap second (RFC 9110 takes the grammar of RFC 5322, which knows second 60) counts as the one before it.
        moment = datetime(
            year,
            _MONTHS[found["month"].title()],
            int(found["day"]),
            int(found["hour"]),
            int(found["minute"]),
            min(second, 59) if lenient or second <= 60 else second,
            tzinfo=UTC,
        )
    except ValueError:
        return None
    return moment.timestamp()
