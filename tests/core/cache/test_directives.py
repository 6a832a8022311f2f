"""Cache-Control, dates and seconds as they are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.core.cache.dates import FOREVER, parse_date, parse_seconds
from fazt.core.cache.directives import (
    RequestControl,
    ResponseControl,
    control_text,
    request_control,
    response_control,
)

TEXT = st.lists(
    st.sampled_from(
        ["no-store", "private", "no-cache", "max-age", "=", "60", "0", '"', ",", " ", "\\", ";", "x", "public"]
    ),
    max_size=12,
).map("".join)


@given(TEXT)
def test_a_plain_no_store_is_never_overlooked(text: str) -> None:
    assert response_control([text, "no-store"]).no_store
    assert response_control(["no-store", text]).no_store
    assert request_control([text, "no-store"], []).no_store


@given(TEXT)
def test_what_is_written_for_the_store_reads_the_same(text: str) -> None:
    control = response_control([text, 'no-cache="a, b"', "stale-if-error=5"])
    assert response_control([control_text(control)]) == control


def test_a_huge_field_is_read_in_linear_time() -> None:
    for unit in ('a="', 'a="\\"', " ", "a ", "max-age=", '\\"', ",", '="'):
        assert isinstance(response_control([unit * (65_536 // len(unit))]), ResponseControl)


def test_the_directives_of_a_request() -> None:
    assert request_control(["max-age=5, min-fresh=7"], []) == RequestControl(max_age=5, min_fresh=7)
    assert request_control(["max-stale"], []).max_stale == FOREVER
    assert request_control(["max-stale=x"], []).max_stale == 0
    assert request_control(["min-fresh=x"], []).min_fresh == FOREVER
    assert request_control(["max-age=x"], []).max_age == 0
    assert request_control([], ["foo, No-Cache"]).no_cache
    assert not request_control(["max-age=5"], ["no-cache"]).no_cache  # RFC 9111 section 5.4
    assert request_control([], ["foo"]) == RequestControl()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("Thu, 01 Jan 1970 00:00:01 GMT", 1.0),
        ("thu, 01 jan 1970 00:00:01 gmt", 1.0),
        ("Thu Jan  1 00:00:01 1970", 1.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777.0),
        ("Thu, 01 Jan 1970 00:00:60 GMT", 59.0),
        ("", None),
        ("x", None),
        ("Fri, 30 Feb 2036 00:00:00 GMT", None),
        ("Thu, 01 Foo 1970 00:00:00 GMT", None),
        ("Thu, 01 Jan 1970 25:00:00 GMT", None),
        ("Thu, 1 Jan 1970 00:00:00 GMT", None),
        ("Thu, 01 Jan 1970 00:00:00 UTC", None),
        ("Thu, 01 Jan 1970 00:00:00 +0000", None),
    ],
)
def test_dates(text: str, moment: float | None) -> None:
    assert parse_date(text, now=1_800_000_000.0) == moment


def test_two_digits_of_a_year_are_the_nearest_not_over_fifty_years_ahead() -> None:
    now = parse_date("Fri, 15 Jan 2027 08:00:00 GMT")
    assert now is not None
    ahead, past = (
        parse_date("Friday, 15-Jan-77 08:00:00 GMT", now=now),
        parse_date("Friday, 15-Jan-78 08:00:00 GMT", now=now),
    )
    assert ahead == parse_date("Fri, 15 Jan 2077 08:00:00 GMT")
    assert past == parse_date("Sun, 15 Jan 1978 08:00:00 GMT")


def test_seconds_are_plain_digits() -> None:
    assert parse_seconds("007") == 7
    assert parse_seconds("9" * 5000) == 2**31
    for text in ("", "+1", "1 ", "٣", "²", "1e3"):
        assert parse_seconds(text) is None
