"""The URL gate: what is accepted, in which form, and by which reason the rest is refused."""

from __future__ import annotations

import dataclasses

import pytest

from fazt.core.url import MAX_URL, Url, parse_host, parse_url, rule_path
from fazt.errors import Code, FaztError, Reason

BASE = parse_url("https://api.example.com:8443/v1/items/7?page=2")


def reason_of(text: str, *, base: Url | None = None) -> Reason:
    with pytest.raises(FaztError) as caught:
        parse_url(text, base=base)
    assert caught.value.code is Code.NET_BLOCKED
    return caught.value.reason


@pytest.mark.parametrize(
    "text",
    [
        "https://api.stripe.com/",
        "https://API.Stripe.com/",
        "https://api.stripe.com./",
        "https://api.stripe.com:443/",
        "https://API.STRIPE.COM.:443/",
        "HTTPS://api.stripe.com:0443",
        "https://api.stripe.com:",
        "https://api%2Estri%70e.com",
        "https://ａｐｉ.stripe。com",
        "https://api.strip\u00ade.com#fragment",
    ],
)
def test_spellings_of_one_origin_have_one_form(text: str) -> None:
    url = parse_url(text)
    assert (url.scheme, url.host, url.port, str(url)) == ("https", "api.stripe.com", 443, "https://api.stripe.com/")


@pytest.mark.parametrize("text", ["API.Stripe.com", "api.stripe.com.", "api.stripe.com:443", "API.STRIPE.COM.:443"])
def test_bare_hosts_of_spec_a3_are_equal(text: str) -> None:
    assert parse_host(text) == "api.stripe.com"


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("https://faß.de/", "xn--fa-hia.de"),
        ("https://XN--FA-hia.de/", "xn--fa-hia.de"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
        ("https://a_b.bücher.example/", "a_b.xn--bcher-kva.example"),
        ("https://_dmarc.example-.com/", "_dmarc.example-.com"),
        ("https://localhost/", "localhost"),
        ("https://127.0.0.1.nip.io/", "127.0.0.1.nip.io"),
        ("https://0xcafe.example/", "0xcafe.example"),
        ("https://" + "a" * 63 + ".com/", "a" * 63 + ".com"),
    ],
)
def test_hosts_that_are_names(text: str, host: str) -> None:
    assert parse_url(text).host == host


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1.",
        "2130706433",
        "0x7f000001",
        "0x7F.1",
        "0177.0.0.1",
        "127.1",
        "127.0.1",
        "1.2.3.400",
        "1.2.3.4.5",
        "999999999999",
        "0x",
        "example.0x1f",
        "example.09",
        "１２７.0.0.1",
        "127。0。0。1",
        "①②⑦.0.0.1",
        "%31%32%37.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[v1.fe]",
        "[::1",
        "::1",
        "::ffff:127.0.0.1",
        "fe80::1%25eth0",
    ],
)
def test_ip_literals_in_every_spelling(host: str) -> None:
    assert reason_of(f"http://{host}/") is Reason.IP_LITERAL
    assert reason_of(f"//{host}", base=BASE) is Reason.IP_LITERAL
    with pytest.raises(FaztError) as caught:
        parse_host(host)
    assert caught.value.reason is Reason.IP_LITERAL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com",
        "//example.com/",
        "/path",
        "https:",
        "https:example.com",
        "https:/example.com",
        "https:///example.com",
        "https://",
        "https://./",
        "https://../",
        "https://a..b/",
        "https://.example.com/",
        "https://example.com../",
        "https://:443/",
        "https://" + "a" * 64 + ".com/",
        "https://" + ".".join(["a" * 63] * 4) + "/",
        "https://" + "a." * 1000 + "com/",
        "https://ex\u00adample.com" + "\u00ad" * 300,
        "https://host:0/",
        "https://host:65536/",
        "https://host:-1/",
        "https://host:+1/",
        "https://host:1e2/",
        "https://host:８０/",
        "https://host:80:80/",
        "https://host:port/",
        "https://" + "1:" * 5 + "zz/",
        "https://xn--/",
        "https://xn--a/",
        "https://xn--faa-a/",
        "https://xn--1ug.example/",
        "https://☃.net/",
        "https://a*b.com/",
        "https://*.example.com/",
        "https://a,b.com/",
        "https://a'b/",
        "https://a%00b/",
        "https://a%2fb/",
        "https://a%40b/",
        "https://a%zz/",
        "https://%ff.com/",
        "https://localhost%25eth0/",
        "https://exam\u3000ple.com/",
        "https://h/\ud800",
        "https://\udfff/",
    ],
)
def test_what_has_no_single_reading_is_a_bad_url(text: str) -> None:
    assert reason_of(text) is Reason.BAD_URL


@pytest.mark.parametrize(
    "where", ["{}https://h/p", "https://h/p{}", "https://h{}/", "https://h/p?q={}", "https://h/#{}"]
)
@pytest.mark.parametrize(
    "char", [" ", "\t", "\n", "\r", "\\", "\0", "\x1f", "\x7f", "\x85", "\xa0", "\u2028", "\u3000"]
)
def test_backslash_controls_and_whitespace_are_refused_anywhere(where: str, char: str) -> None:
    assert reason_of(where.format(char)) is Reason.BAD_URL
    assert reason_of(f"/a{char}", base=BASE) is Reason.BAD_URL


@pytest.mark.parametrize(
    "text", ["ftp://h/", "file:///etc/passwd", "javascript:alert(1)", "data:,x", "localhost:80/", "ws://h"]
)
def test_other_schemes_are_named(text: str) -> None:
    assert reason_of(text) is Reason.SCHEME_NOT_ALLOWED
    assert reason_of(text, base=BASE) is Reason.SCHEME_NOT_ALLOWED


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hunter2@example.com/",
        "https://hunter2@example.com/",
        "https://@example.com/",
        "https://:@example.com/",
        "https://good.example@evil.example/",
        "https://a@b@c/",
        "https://user@127.0.0.1/",
    ],
)
def test_F30b_userinfo_is_refused(text: str) -> None:
    assert reason_of(text) is Reason.USERINFO
    assert reason_of(text.removeprefix("https:"), base=BASE) is Reason.USERINFO


def test_F30b_the_port_is_part_of_what_a_rule_sees() -> None:
    # The old gate let any port of a granted host through, since it never looked at it.
    assert parse_url("https://example.com:8443/").port == 8443
    assert parse_url("http://example.com/").port == 80
    assert parse_url("http://example.com:443/").authority == "example.com:443"
    assert parse_url("https://example.com:80/").origin == "https://example.com:80"


def test_an_at_sign_behind_the_authority_is_no_userinfo() -> None:
    assert parse_url("https://h/@scope/name?to=a@b").target == "/@scope/name?to=a@b"


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("https://h", "/"),
        ("https://h?", "/?"),
        ("https://h/?", "/?"),
        ("https://h/#f", "/"),
        ("https://h?a=b#f?x", "/?a=b"),
        ("https://h/a/./b/../c", "/a/c"),
        ("https://h/../../a", "/a"),
        ("https://h/a/..", "/"),
        ("https://h/a/.", "/a/"),
        ("https://h//a//../b/", "//a/b/"),
        ("https://h/.../a..b/.c", "/.../a..b/.c"),
        ("https://h/é/☃?é=☃", "/%C3%A9/%E2%98%83?%C3%A9=%E2%98%83"),
        ("https://h/\"<>^`{}|[]'?\"<>^`{}|[]'", "/%22%3C%3E%5E%60%7B%7D|[]'?%22%3C%3E^`{}|[]%27"),
        ("https://h/%zz%2?%zz%2&c=%7e", "/%zz%2?%zz%2&c=%7e"),
        ("https://h/a?/../b", "/a?/../b"),
        # What is encoded stays encoded: ada would resolve these before the rule sees them.
        ("https://h/%2e%2e/b", "/%2e%2e/b"),
        ("https://h/a/%2E/.%2e/b", "/a/%2E/.%2e/b"),
        ("https://h/a%2fb%5cc%00;x/..;y/.;z", "/a%2fb%5cc%00;x/..;y/.;z"),
    ],
)
def test_the_target_on_the_wire(text: str, target: str) -> None:
    assert parse_url(text).target == target


def test_literal_dots_over_encoded_dots_are_refused() -> None:
    # WHATWG goes to /b, a reader that leaves escapes alone to /a/b.
    assert reason_of("https://h/a/%2e%2e/../b") is Reason.BAD_URL
    assert reason_of("https://h/a/%2e/../b") is Reason.BAD_URL
    assert parse_url("https://h/a%2e/../b").path == "/b"


@pytest.mark.parametrize(
    ("reference", "result"),
    [
        ("", "https://api.example.com:8443/v1/items/7?page=2"),
        ("#top", "https://api.example.com:8443/v1/items/7?page=2"),
        ("?page=3", "https://api.example.com:8443/v1/items/7?page=3"),
        ("?", "https://api.example.com:8443/v1/items/7?"),
        ("8", "https://api.example.com:8443/v1/items/8"),
        ("./8/", "https://api.example.com:8443/v1/items/8/"),
        ("..", "https://api.example.com:8443/v1/"),
        ("../../../x?y#z", "https://api.example.com:8443/x?y"),
        ("/login", "https://api.example.com:8443/login"),
        ("//other.example/x", "https://other.example/x"),
        ("HTTP://other.example/x", "http://other.example/x"),
        ("a@b", "https://api.example.com:8443/v1/items/a@b"),
        ("7:8", "https://api.example.com:8443/v1/items/7:8"),
        ("%2e%2e/x", "https://api.example.com:8443/v1/items/%2e%2e/x"),
    ],
)
def test_relative_references(reference: str, result: str) -> None:
    assert str(parse_url(reference, base=BASE)) == result


@pytest.mark.parametrize(
    "reference", ["///evil.example/", "https:evil.example", "https:/evil.example", "//", "\\\\evil"]
)
def test_references_that_readers_take_apart_differently(reference: str) -> None:
    assert reason_of(reference, base=BASE) is Reason.BAD_URL


def test_length_is_capped_before_and_after_encoding() -> None:
    room = MAX_URL - len("https://h/")
    assert len(str(parse_url("https://h/" + "a" * room))) == MAX_URL
    assert reason_of("https://h/" + "a" * (room + 1)) is Reason.BAD_URL
    assert reason_of("https://h/" + "é" * (room // 2)) is Reason.BAD_URL
    assert reason_of("https://" + "a." * 1_000_000) is Reason.BAD_URL
    assert reason_of("x" * 2000, base=dataclasses.replace(BASE, path="/" + "a" * 15_000 + "/")) is Reason.BAD_URL


def test_what_is_not_text_is_refused_too() -> None:
    for value in (None, b"https://h/", 7, ["https://h/"]):
        assert reason_of(value) is Reason.BAD_URL  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "https://h:99999/?k=s3cret",
        "https://us3r:s3cret@10.0.0.1/",
        "https://10.1.2.3/s3cret",
        "gopher://s3cret@10.0.0.1",
    ],
)
def test_errors_repeat_nothing_of_the_url(text: str) -> None:
    with pytest.raises(FaztError) as caught:
        parse_url(text)
    shown = f"{caught.value} {caught.value!r} {caught.value.detail} {caught.value.__context__}"
    assert not any(word in shown for word in ("s3cret", "us3r", "10.", "99999"))


def test_repr_and_redacted_leave_the_query_out() -> None:
    url = parse_url("https://h/p?token=s3cret")
    assert url.redacted() == "https://h/p"
    assert "s3cret" not in repr(url)
    assert repr(url) != repr(parse_url("https://h/p"))


def test_a_refusal_is_not_remembered_as_one_object() -> None:
    # A cached exception would collect tracebacks and share its call id between calls.
    with pytest.raises(FaztError) as first:
        parse_url("https://user@h/")
    with pytest.raises(FaztError) as second:
        parse_url("https://user@h/")
    assert first.value is not second.value


@pytest.mark.parametrize("text", ["h/p", "https://h", "h?q", "h#f", "h:80", "h:8443", "", "*", "*.h", "h h", "\ud800"])
def test_bare_hosts_stand_alone(text: str) -> None:
    with pytest.raises(FaztError) as caught:
        parse_host(text)
    assert caught.value.reason is Reason.BAD_URL


def test_bare_host_with_userinfo() -> None:
    with pytest.raises(FaztError) as caught:
        parse_host("user@h")
    assert caught.value.reason is Reason.USERINFO


# --- path rules ---


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("/v1/charges", "/v1/charges"),
        ("/%76%31/%63harges", "/v1/charges"),
        ("/%40scope/a%7Eb", "/@scope/a~b"),
        ("/a|b[c]", "/a%7Cb%5Bc%5D"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/café", "/caf%C3%A9"),
        ("/a;v=1/b", "/a;v=1/b"),
        ("/.well-known/x", "/.well-known/x"),
        ("/a/...;x", "/a/...;x"),
        ("/a%25b", "/a%25b"),
    ],
)
def test_equal_paths_have_one_rule_path(path: str, canonical: str) -> None:
    got = rule_path(parse_url("https://h" + path))
    assert (got.path, got.encoded_slash, got.ambiguous) == (canonical, False, False)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/%2e%2e/admin",
        "/v1/.%2E/admin",
        "/v1/%2e/",
        "/v1/file%2ejson",
        "/v1/%5c..%5cadmin",
        "/v1/%00",
        "/v1/..;/admin",
        "/v1/..;x=1/admin",
        "/v1/.;x",
        "/v1/..%3bx/admin",
        "/v1/%252e%252e/admin",
        "/v1/%25252fadmin",
        "/v1/%255c",
        "/v1/%c0%ae%c0%ae/admin",
        "/v1/%e0%80%af",
        "/v1/%u002e",
        "/v1/%",
    ],
)
def test_paths_that_servers_read_differently_are_ambiguous(path: str) -> None:
    url = parse_url("https://h" + path)
    assert url.path == path  # and yet the wire carries it untouched, where no rule restricts paths
    assert rule_path(url).ambiguous


def test_an_encoded_slash_has_its_own_flag() -> None:
    for path in ("/@scope%2fname", "/@scope%2Fname"):
        got = rule_path(parse_url("https://registry.example" + path))
        assert (got.path, got.encoded_slash, got.ambiguous) == ("/@scope%2Fname", True, False)


@pytest.mark.parametrize("path", ["/x%2f..%2fadmin", "/x%2f..", "/x%2F.%2f", "/x%2f..;y"])
def test_dot_segments_between_encoded_slashes_are_ambiguous(path: str) -> None:
    assert rule_path(parse_url("https://h" + path)).ambiguous
