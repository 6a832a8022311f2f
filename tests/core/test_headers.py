"""Request fields and methods: what is dropped, what refuses, what is added (A.7)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.core import headers
from fazt.errors import FaztError, Reason

IDENTITY = ("Accept-Encoding", "identity")

DROPPED = (
    "Host",
    "Connection",
    "Proxy-Authorization",
    "Proxy-Connection",
    "Transfer-Encoding",
    "Accept-Encoding",
    "Content-Length",
    "Keep-Alive",
    "TE",
    "Trailer",
    "Upgrade",
    "Expect",
    "Forwarded",
    "Via",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Real-IP",
    "Proxy-Anything",
)


def refused(fields: headers.Fields) -> FaztError:
    with pytest.raises(FaztError) as caught:
        headers.sanitise(fields)
    assert caught.value.reason is Reason.BAD_OPTION
    return caught.value


@pytest.mark.parametrize("name", DROPPED)
def test_F30b_fields_of_the_connection_are_dropped_in_any_case(name: str) -> None:
    for spelled in (name, name.lower(), name.upper(), name.swapcase()):
        assert headers.sanitise(((spelled, "x"), ("X-Kept", "1"))) == (("X-Kept", "1"), IDENTITY)


def test_identity_is_always_asked_for() -> None:
    assert headers.sanitise(()) == (IDENTITY,)
    assert headers.sanitise((("accept-encoding", "gzip, br"),)) == (IDENTITY,)


def test_names_order_and_repetitions_stay() -> None:
    fields = (("x-B", "1"), ("X-a", "2"), ("x-B", "3"))
    assert headers.sanitise(fields) == (*fields, IDENTITY)


def test_sanitising_twice_changes_nothing_more() -> None:
    once = headers.sanitise((("A", " b "), ("Via", "x")))
    assert headers.sanitise(once) == once


@pytest.mark.parametrize("name", ["", " ", "a b", "a:b", "näme", "a\r\nb", "a\0", "X-\u212aey", "a(b)", "a\n"])
def test_a_name_that_is_no_token_refuses(name: str) -> None:
    assert name not in refused(((name, "v"),)).message or not name.strip()


@pytest.mark.parametrize("bad", ["\r", "\n", "\0", "\x01", "\x0b", "\x1b", "\x7f", "\u0100", "\u2028", "\ud800", "😀"])
def test_a_value_that_http_cannot_carry_refuses_without_being_shown(bad: str) -> None:
    for value in (f"canary{bad}", f"{bad}canary", f"can{bad}ary"):
        error = refused((("X-A", value),))
        assert "can" not in error.message.replace("cannot", "")


def test_a_bad_value_refuses_even_under_a_name_that_would_be_dropped() -> None:
    refused((("Host", "a\r\nb"),))


def test_latin1_and_tabs_inside_are_kept_and_outer_white_space_goes() -> None:
    assert headers.sanitise((("A", " caf\xe9\tx\t"),))[0] == ("A", "caf\xe9\tx")


def test_count_and_bytes_are_capped() -> None:
    many = tuple((f"X-{n}", "") for n in range(headers.MAX_FIELDS))
    assert len(headers.sanitise(many)) == headers.MAX_FIELDS + 1
    refused((*many, ("X-One-More", "")))
    room = headers.MAX_BYTES - len("X-A") - 4
    headers.sanitise((("X-A", "v" * room),))
    refused((("X-A", "v" * (room + 1)),))


def test_the_field_that_a_secret_fills_is_not_the_callers() -> None:
    fields = (("x-API-key", "mine"), ("X-Other", "1"))
    assert headers.sanitise(fields, secret_header="X-Api-Key") == (("X-Other", "1"), IDENTITY)
    assert headers.sanitise(fields, secret_header=None)[0] == ("x-API-key", "mine")


def test_defaults_are_added_only_where_absent() -> None:
    assert headers.with_defaults((), version="1.2") == (("User-Agent", "fazt/1.2"), ("Accept", "*/*"))
    own = (("ACCEPT", "text/html"), ("user-agent", "me"))
    assert headers.with_defaults(own, version="1.2") is own


@pytest.mark.parametrize(
    ("given_", "sent"), [("get", "GET"), ("Post", "POST"), ("PROPFIND", "PROPFIND"), ("m-x", "M-X")]
)
def test_methods_are_upper_case(given_: str, sent: str) -> None:
    assert headers.method(given_) == sent


@pytest.mark.parametrize(
    "text", ["CONNECT", "connect", "TRACE", "Trace", "track", "", "GE T", "GET\r\n", "G\0T", "gEß", "A" * 33, "GET/"]
)
def test_methods_that_are_refused(text: str) -> None:
    with pytest.raises(FaztError) as caught:
        headers.method(text)
    assert caught.value.reason is Reason.BAD_OPTION
    assert caught.value.retryable is False


def test_reading_fields_ignores_case() -> None:
    fields = (("Set-Cookie", "a"), ("X", "1"), ("set-cookie", "b"))
    assert headers.values(fields, "SET-COOKIE") == ["a", "b"]
    assert headers.first(fields, "x") == "1"
    assert headers.first(fields, "y") is None


@pytest.mark.parametrize(
    ("value", "coding"),
    [("gzip", "gzip"), (" GZip , identity", "gzip"), ("identity", ""), ("br, gzip", "br, gzip"), ("", "")],
)
def test_content_coding_names_what_the_body_still_has(value: str, coding: str) -> None:
    assert headers.content_coding((("Content-Encoding", value),)) == coding


@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=20)), max_size=12))
def test_whatever_passes_is_one_line_each_of_latin1(fields: list[tuple[str, str]]) -> None:
    if any(not headers.is_token(name) or headers.bad_value(value) for name, value in fields):
        refused(tuple(fields))
        return
    clean = headers.sanitise(tuple(fields))
    wire = "".join(f"{name}: {value}\r\n" for name, value in clean).encode("latin-1")
    assert wire.count(b"\r\n") == len(clean)
    assert wire.count(b"\r") == wire.count(b"\n") == len(clean)
    assert b"\0" not in wire
