"""Properties of the URL gate over arbitrary text, with the ada parser as the second opinion."""

from __future__ import annotations

import contextlib
import time

import can_ada
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fazt.core.url import DEFAULT_PORTS, MAX_URL, Url, parse_host, parse_url, rule_path
from fazt.errors import FaztError

# Text that is dense in what parsers disagree about.
TOKENS = st.sampled_from(
    [
        *"/?#:@%;.&=[]\\ \t\n\0|^`{}\"'<>*!~_-",
        *["//", "..", "%2e", "%2E%2e", "%2f", "%5c", "%00", "%25", "%zz", "..;", "xn--", "xn--fa-hia", "faß", "☃"],
        *[
            "http:",
            "https://",
            "HTTP://",
            "example",
            "com",
            "0x7f",
            "127",
            "１",
            "。",
            "\u00ad",
            "é",
            "\ud800",
            "a",
            "443",
        ],
    ]
)
SOUP = st.lists(st.one_of(TOKENS, st.text(max_size=3)), max_size=25).map("".join)
ANY = st.one_of(SOUP, st.text(st.characters(codec=None), max_size=60))
LABEL = st.one_of(
    st.text("abcxyz0189-_", min_size=1, max_size=12),
    st.text(min_size=1, max_size=6),
    st.just("xn--fa-hia"),
    st.just("FAß"),
)
HOST = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
PORT = st.one_of(st.just(""), st.integers(0, 70_000).map(lambda port: f":{port}"))
LIKELY = st.builds("{}://{}{}/{}".format, st.sampled_from(["http", "https", "HTTPS"]), HOST, PORT, SOUP)
BASES = [None, parse_url("https://h:8443/a/b?c"), parse_url("http://bücher.example/%2e%2e/x")]


def accepted(text: str, base: Url | None = None) -> Url | None:
    try:
        return parse_url(text, base=base)
    except FaztError:
        return None


@given(st.one_of(ANY, LIKELY), st.sampled_from(BASES))
@example("https://" + "☃" * 300, None)
@example("https://h/" + "/." * 8000, None)
def test_any_text_is_a_canonical_url_or_a_coded_refusal(text: str, base: Url | None) -> None:
    url = accepted(text, base)
    if url is None:
        return
    assert url.scheme in DEFAULT_PORTS
    assert 0 < url.port <= 65535
    assert url.host == url.host.lower()
    assert all(char.isalnum() or char in "-_." for char in url.host)
    assert url.host.isascii()
    assert 0 < len(url.host) <= 253
    assert all(0 < len(label) <= 63 for label in url.host.split("."))
    assert url.path.startswith("/")
    assert not {"..", "."} & set(url.path.split("/"))
    assert str(url).isascii()
    assert str(url).isprintable()
    assert not set(str(url)) & set(' \\#"<>')
    assert len(str(url)) <= MAX_URL


@given(st.one_of(ANY, LIKELY), st.sampled_from(BASES))
def test_parsing_the_canonical_form_gives_the_same_url(text: str, base: Url | None) -> None:
    url = accepted(text, base)
    if url is not None:
        assert parse_url(str(url)) == url
        if not url.path.startswith("//"):  # as a reference of its own that would be a host
            assert parse_url(url.target, base=url) == url


@given(st.one_of(ANY, LIKELY), st.sampled_from(BASES))
def test_what_gate_and_ada_both_accept_they_read_alike(text: str, base: Url | None) -> None:
    url = accepted(text, base)
    if url is None:
        return
    theirs = can_ada.parse(str(base)) + text if base is not None else can_ada.parse(text)
    assert theirs.protocol == url.scheme + ":"
    assert theirs.hostname.removesuffix(".") == url.host
    assert (theirs.port or str(DEFAULT_PORTS[url.scheme])) == str(url.port)
    assert (theirs.username, theirs.password) == ("", "")
    if "%2e" not in url.path.lower():  # ada resolves encoded dots, the gate must not
        path = theirs.pathname.replace("^", "%5E")  # encoded since the standard of 2024, which this ada is older than
        assert (path, theirs.search.removeprefix("?")) == (url.path, url.query or "")


@given(LIKELY)
def test_ada_accepts_whatever_the_gate_accepts(text: str) -> None:
    url = accepted(text)
    if url is not None:
        assert can_ada.can_parse(text)
        assert can_ada.parse(str(url)).hostname == url.host


@given(st.one_of(ANY, HOST))
def test_the_canonical_host_is_a_fixed_point(text: str) -> None:
    try:
        host = parse_host(text)
    except FaztError:
        return
    assert parse_host(host) == host
    assert parse_host(host + ".") == host
    assert parse_host(host.upper()) == host
    assert parse_url(f"https://{text}/").host == host


@given(SOUP)
def test_rule_paths_of_equal_paths_are_equal_and_stable(text: str) -> None:
    url = accepted("https://h/" + text)
    if url is None:
        return
    got = rule_path(url)
    if not got.ambiguous:
        again = rule_path(parse_url("https://h" + got.path))
        assert again == got
    segments = got.path.replace("%2F", "/").split("/")
    assert got.ambiguous or not {".", ".."} & {segment.partition(";")[0] for segment in segments}


@pytest.mark.parametrize(
    "unit",
    ["a", ".", "/", "/.", "/..", "%", "%25", "%2e", "é", "☃", ":", "@", "[", "0", "xn--", "\u0301", "?", ";", "..;"],
)
def test_time_is_linear_in_the_text(unit: str) -> None:
    # 16,000 characters of the worst unit: quadratic work would take seconds, linear work takes milliseconds.
    fill = unit * (16_000 // len(unit))
    start = time.process_time()
    for prefix in ("https://", "https://h/", "https://h?", "https://h:", ""):
        with contextlib.suppress(FaztError):
            rule_path(parse_url(prefix + fill))
    assert time.process_time() - start < 2
