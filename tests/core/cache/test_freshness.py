"""How long a response may be kept: never longer than the rule says, and not at all on any doubt (A.16)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.core.cache.freshness import MAX_VARY, Control, lifetime, parse_control, parse_date, parse_seconds, vary_names
from fazt.core.call import Fields, ResponseHead

DATE = ("Date", "Sun, 06 Nov 1994 08:49:37 GMT")


def seconds(*fields: tuple[str, str], status: int = 200, ttl: float = 60) -> float:
    return lifetime(ResponseHead(status, fields), ttl=ttl)


def test_without_a_word_from_the_server_the_rule_decides() -> None:
    assert seconds() == 60
    assert seconds(("Content-Type", "text/plain"), DATE, status=204) == 60
    assert seconds(ttl=0) == 0


@pytest.mark.parametrize("status", [100, 199, 206, 301, 302, 304, 404, 500])
def test_only_whole_successes_are_kept(status: int) -> None:
    assert seconds(status=status) == 0


@pytest.mark.parametrize(
    "text",
    [
        "no-store",
        "No-Store",
        "private",
        "no-cache",
        "max-age=60, no-store",
        "max-age=60,private",
        'private="x-a"',
        'no-cache="set-cookie", max-age=5',
        "  ,, no-store ;x",
        'a="b, no-cache", no-store',
        "max-age=0",
        "max-age=-1",
        "max-age=abc",
        "max-age",
        "max-age=",
        "max-age=1.5",
        "max-age=60, max-age=0",
        'foo="unbalanced, no-store',
        '"',
    ],
)
def test_F13_what_forbids_keeping(text: str) -> None:
    assert seconds(("cache-control", text)) == 0


def test_F13_a_second_field_counts_as_much() -> None:
    assert seconds(("Cache-Control", "max-age=60"), ("CACHE-CONTROL", "no-store")) == 0


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("max-age=10", 10),
        ("Max-Age=10", 10),
        ('max-age="10"', 10),
        ("max-age = 10", 10),
        ("public, max-age=600", 60),
        ("max-age=600, max-age=20", 20),
        ("max-age=99999999999999999999999", 60),
        ("s-maxage=0, max-age=10", 10),
        ("s-maxage=5", 60),
        ("public", 60),
        ("must-revalidate", 60),
        ('x="no-store"', 60),
        ("x-no-store", 60),
        ("", 60),
    ],
)
def test_F13_what_shortens_keeping(text: str, kept: float) -> None:
    assert seconds(("Cache-Control", text)) == kept


@pytest.mark.parametrize("field", [("Set-Cookie", "a=b"), ("set-cookie", ""), ("Pragma", "No-Cache")])
def test_F13_other_fields_that_forbid_keeping(field: tuple[str, str]) -> None:
    assert seconds(field) == 0


@pytest.mark.parametrize(
    ("age", "kept"), [("4", 6), ("10", 0), ("11", 0), ("x", 10), ("", 10), ("-1", 10), ("99999999999", 0)]
)
def test_age_counts_against_what_the_server_declares(age: str, kept: float) -> None:
    assert seconds(("Cache-Control", "max-age=10"), ("Age", age)) == kept


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ((DATE, ("Expires", "Sun, 06 Nov 1994 08:49:47 GMT")), 10),
        ((DATE, ("Expires", "Sun, 06 Nov 1994 09:49:37 GMT")), 60),
        ((DATE, ("Expires", "Sun, 06 Nov 1994 08:49:37 GMT")), 0),
        ((DATE, ("Expires", "Sun, 06 Nov 1994 08:49:36 GMT")), 0),
        ((DATE, ("Expires", "0")), 0),
        ((DATE, ("Expires", "-1")), 0),
        ((DATE, ("Expires", "Sunday, 06-Nov-94 09:49:37 GMT")), 0),
        ((("Expires", "Sun, 06 Nov 2994 08:49:37 GMT"),), 0),
        ((DATE, ("Expires", "0"), ("Cache-Control", "max-age=5")), 5),
        ((DATE, ("Expires", "Sun, 06 Nov 1994 08:49:47 GMT"), ("Age", "3")), 7),
    ],
)
def test_expires_is_measured_on_the_servers_own_clock(fields: Fields, kept: float) -> None:
    assert seconds(*fields) == kept


def test_dates() -> None:
    assert parse_date("Thu, 01 Jan 1970 00:00:01 GMT") == 1.0
    assert parse_date(" Fri, 29 Feb 2036 23:59:60 GMT") is not None
    for text in (
        "",
        "x",
        "Fri, 30 Feb 2036 00:00:00 GMT",
        "Thu, 01 Foo 1970 00:00:00 GMT",
        "Thu, 01 Jan 1970 25:00:00 GMT",
    ):
        assert parse_date(text) is None


def test_seconds_are_plain_digits() -> None:
    assert parse_seconds("007") == 7
    assert parse_seconds("9" * 5000) == 2**31
    for text in ("", "+1", "1 ", "٣", "²", "1e3"):
        assert parse_seconds(text) is None


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ((), ()),
        ((("Vary", "Accept-Language, accept"), ("vary", "ACCEPT,, ")), ("accept", "accept-language")),
        ((("Vary", "*"),), None),
        ((("Vary", ",".join(f"x-{n}" for n in range(MAX_VARY + 1))),), None),
        ((("Vary", ",".join(["accept"] * 1000)),), ("accept",)),
        ((("Vary", "Accept, *"),), None),
        ((("Vary", "a b"),), None),
        ((("Vary", "caf\xe9"),), None),
    ],
)
def test_F13_vary(fields: Fields, names: tuple[str, ...] | None) -> None:
    assert vary_names(fields) == names


TEXT = st.lists(
    st.sampled_from(
        ["no-store", "private", "no-cache", "max-age", "=", "60", "0", '"', ",", " ", "\\", ";", "x", "public"]
    ),
    max_size=12,
).map("".join)


@given(TEXT, st.floats(0, 1e6))
def test_nothing_is_ever_kept_longer_than_the_rule_allows(text: str, ttl: float) -> None:
    assert 0 <= seconds(("Cache-Control", text), ttl=ttl) <= ttl


@given(TEXT)
def test_a_plain_no_store_is_never_overlooked(text: str) -> None:
    for control in (parse_control([text, "no-store"]), parse_control(["no-store", text])):
        assert control.forbidden


def test_a_huge_field_is_read_in_linear_time() -> None:
    for unit in ('a="', 'a="\\"', " ", "a ", "max-age=", '\\"', ",", '="'):
        assert isinstance(parse_control([unit * (65_536 // len(unit))]), Control)
