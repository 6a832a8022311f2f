"""HTTP-dates: three spellings, and nothing else (RFC 9110 section 5.6.7)."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.core.dates import parse_http_date

NOW = datetime(2026, 6, 1, tzinfo=UTC).timestamp()
EXAMPLE = 784111777.0
"""The moment of the examples in the standard."""


@pytest.mark.parametrize(
    "text",
    ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"],
)
def test_the_three_spellings_mean_one_moment(text: str) -> None:
    assert parse_http_date(text, wall_now=NOW) == EXAMPLE
    assert parse_http_date(f" {text}\t", wall_now=NOW) == EXAMPLE


@pytest.mark.parametrize(("year", "meant"), [("26", 2026), ("76", 2076), ("77", 1977), ("99", 1999), ("00", 2000)])
def test_a_year_of_two_digits_is_never_more_than_fifty_years_ahead(year: str, meant: int) -> None:
    found = parse_http_date(f"Sunday, 06-Nov-{year} 08:49:37 GMT", wall_now=NOW)
    assert found == datetime(meant, 11, 6, 8, 49, 37, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "sun, 06 nov 1994 08:49:37 gmt",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, ٠٦ Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:38 GMT",
    ],
)
def test_what_is_no_date_is_none(text: str) -> None:
    assert parse_http_date(text, wall_now=NOW) is None


def test_a_leap_second_is_the_second_before_it() -> None:
    found = parse_http_date("Sat, 31 Dec 2016 23:59:60 GMT", wall_now=NOW)
    assert found == datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()


@given(st.integers(0, 4_000_000_000))
def test_what_python_writes_is_read_back(seconds: int) -> None:
    text = format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)
    assert parse_http_date(text, wall_now=NOW) == seconds


@given(st.text(max_size=40))
def test_no_text_is_too_odd(text: str) -> None:
    found = parse_http_date(text, wall_now=NOW)
    assert found is None or isinstance(found, float)
