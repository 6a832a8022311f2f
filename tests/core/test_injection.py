"""Where secrets go, what is shown of them, and that their values stay out of every message (A.13)."""

from __future__ import annotations

from typing import cast
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.core.injection import (
    Injection,
    Kind,
    apply,
    mask,
    plan,
    validate_secret,
    validate_value,
    without_parameter,
)
from fazt.core.policy import SecretMeta
from fazt.errors import ConfigError, FaztError, Reason

BEARER = Injection("bearer", "", "k", "")
HEADER = Injection("header", "X-Api-Key", "k", "")
QUERY = Injection("query", "api_key", "k", "")


def test_a_plan_names_the_place_and_holds_no_value() -> None:
    meta = SecretMeta(
        name="stripe", scope="app1", domains=("api.test",), any_domain=False, kind="header", key="X-Key", version=1
    )
    assert plan(meta) == Injection(kind="header", key="X-Key", name="stripe", scope="app1", version=1)


@pytest.mark.parametrize(
    ("place", "header", "parameter"),
    [(BEARER, "Authorization", None), (HEADER, "X-Api-Key", None), (QUERY, None, "api_key")],
)
def test_a_plan_tells_what_it_fills(place: Injection, header: str | None, parameter: str | None) -> None:
    assert (place.header, place.parameter) == (header, parameter)


def test_bearer_fills_authorization_once() -> None:
    target, fields = apply(
        BEARER, "tok", target="/a?b", fields=(("authorization", "mine"), ("A", "1"), ("AUTHORIZATION", "2"))
    )
    assert target == "/a?b"
    assert fields == (("A", "1"), ("Authorization", "Bearer tok"))


def test_header_is_verbatim_and_once() -> None:
    _, fields = apply(HEADER, "Token caf\xe9 =", target="/", fields=(("x-api-key", "mine"), ("A", "1")))
    assert fields == (("A", "1"), ("X-Api-Key", "Token caf\xe9 ="))


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/p", "/p?api_key=s%20%26%3D"),
        ("/p?", "/p?api_key=s%20%26%3D"),
        ("/p?a=1&b=2", "/p?a=1&b=2&api_key=s%20%26%3D"),
        ("/p?a=1&api_key=mine&b=2", "/p?a=1&api_key=s%20%26%3D&b=2"),
        ("/p?api_key&a=%7E+x&&api_key=2&api%5fkey=3&b", "/p?api_key=s%20%26%3D&a=%7E+x&&b"),
        ("/p?a=api_key=1", "/p?a=api_key=1&api_key=s%20%26%3D"),
        ("/p?API_KEY=1&api_key2=1&?api_key=2", "/p?API_KEY=1&api_key2=1&?api_key=2&api_key=s%20%26%3D"),
        ("/p?a=1&", "/p?a=1&&api_key=s%20%26%3D"),
    ],
)
def test_query_is_set_once_and_the_rest_keeps_order_and_spelling(target: str, sent: str) -> None:
    fields = (("A", "1"),)
    assert apply(QUERY, "s &=", target=target, fields=fields) == (sent, fields)


def test_query_names_compare_decoded() -> None:
    place = Injection("query", "my key", "k", "")
    assert apply(place, "v", target="/?my+key=1&my%20key=2&a", fields=()) == ("/?my%20key=v&a", ())


PARTS = st.lists(st.text("ab&=%+/?é", max_size=6).map(lambda text: text.replace("&", "")), max_size=6)


@given(parts=PARTS, value=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=20))
def test_query_against_a_parser(parts: list[str], value: str) -> None:
    place = Injection("query", "a", "k", "")
    target, _ = apply(place, value, target="/p?" + "&".join(parts), fields=())
    pairs = parse_qsl(urlsplit("https://h" + target).query, keep_blank_values=True)
    assert [given_ for name, given_ in pairs if name == "a"] == [value]
    others = [pair for pair in parse_qsl("&".join(parts), keep_blank_values=True) if pair[0] != "a"]
    assert [pair for pair in pairs if pair[0] != "a"] == others


@pytest.mark.parametrize(
    ("query", "left"),
    [(None, None), ("", ""), ("a", None), ("a=1&b", "b"), ("b&&A=1", "b&&A=1"), ("%61=1&b=%7e", "b=%7e")],
)
def test_a_parameter_is_taken_out_without_touching_others(query: str | None, left: str | None) -> None:
    assert without_parameter(query, "a") == left


@pytest.mark.parametrize("place", [BEARER, HEADER, QUERY])
@pytest.mark.parametrize(
    "bad", ["", "canary\r\nX: 1", "canary\n", "can\0ary", "canary\x1f", "canary\x7f", "canary\u0100"]
)
def test_a_value_that_cannot_travel_refuses_without_being_shown(place: Injection, bad: str) -> None:
    with pytest.raises(FaztError) as caught:
        apply(place, bad, target="/", fields=())
    error = caught.value
    assert error.reason is Reason.BAD_OPTION
    assert "canary" not in f"{error} {error!r} {error.detail} {error.public()}"


@pytest.mark.parametrize(("kind", "key"), [("bearer", None), ("bearer", ""), ("header", "X-Key"), ("query", "k[0]")])
def test_places_that_are_accepted(kind: str, key: str | None) -> None:
    assert validate_secret(kind, key) == cast("Kind", kind)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("bearer", "X"),
        ("header", None),
        ("header", ""),
        ("header", "a b"),
        ("header", "a\r\n"),
        ("header", "Host"),
        ("header", "transfer-encoding"),
        ("header", "X-Forwarded-For"),
        ("header", "Proxy-Authorization"),
        ("header", "Accept-Encoding"),
        ("header", "x" * 257),
        ("query", None),
        ("query", "a\n"),
        ("query", "a\tb"),
        ("Bearer", None),
        ("cookie", "x"),
        ("", None),
    ],
)
def test_places_that_are_refused_when_written(kind: str, key: str | None) -> None:
    with pytest.raises(ConfigError):
        validate_secret(kind, key)


def test_values_are_checked_when_written() -> None:
    validate_value("sk_live_x y\xe9")
    for bad in ("", "canary\n", " canary", "canary\t", "can\r\nary", "canary\u0100", "canary" * 9999):
        with pytest.raises(ConfigError) as caught:
            validate_value(bad)
        assert "canary" not in caught.value.message


def test_F30d_short_secrets_show_nothing() -> None:
    assert {mask("x" * n) for n in range(12)} == {"*" * 8}


def test_F30d_examples() -> None:
    assert mask("sk_live_abcdef123") == "sk********23"
    assert mask("x1y2z3x1y2z3") == "x1********3"
    assert mask("a" * 4 + "-" * 500 + "b" * 4) == "aaaa********bbbb"


@given(st.text(st.characters(exclude_characters="*"), max_size=300))
def test_F30d_at_most_a_quarter_shows_and_the_stars_tell_nothing(value: str) -> None:
    front, stars, back = mask(value).partition("*" * 8)
    assert stars
    assert value.startswith(front)
    assert value.endswith(back)
    assert len(front) + len(back) <= (len(value) // 4 if len(value) >= 12 else 0)
