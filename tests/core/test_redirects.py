"""Redirects: how many, to where, and what they carry on (A.6)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.core.call import Fields, ResponseHead
from fazt.core.redirects import STATUSES, Final, Follow, Leg, follow, is_credential
from fazt.core.url import parse_url
from fazt.errors import FaztError, Reason

HOME = "https://api.test/v1/a?x=1"
AWAY = "https://other.test/b"
CREDENTIALS: Fields = (
    ("Authorization", "Bearer mine"),
    ("cookie", "a=b"),
    ("Cookie2", "c"),
    ("Proxy-Authorization", "p"),
    ("proxy-x", "p"),
    ("X-API-KEY", "k"),
)
PLAIN: Fields = (("Accept", "*/*"), ("X-Trace", "t"))


def leg(
    url: str = HOME, method: str = "GET", *, headers: Fields = (), body: bytes | None = None, keep_secret: bool = True
) -> Leg:
    return Leg(method=method, url=parse_url(url), headers=headers, body=body, keep_secret=keep_secret)


def head(status: int, *locations: str) -> ResponseHead:
    return ResponseHead(status, tuple(("Location", location) for location in locations))


def step(
    sent: Leg,
    answer: ResponseHead,
    *,
    followed: int = 0,
    limit: int = 3,
    secret_headers: tuple[str, ...] = (),
    secret_params: tuple[str, ...] = (),
    secret_used: bool = False,
) -> Final | Follow:
    return follow(
        sent,
        answer,
        followed=followed,
        limit=limit,
        visited={(sent.method, str(sent.url))},
        secret_headers=secret_headers,
        secret_params=secret_params,
        secret_used=secret_used,
    )


def followed_to(sent: Leg, answer: ResponseHead, **options: object) -> Follow:
    result = step(sent, answer, **options)  # type: ignore[arg-type]
    assert isinstance(result, Follow)
    return result


def refusal(sent: Leg, answer: ResponseHead, **options: object) -> FaztError:
    with pytest.raises(FaztError) as caught:
        step(sent, answer, **options)  # type: ignore[arg-type]
    return caught.value


def walk(limit: int, hops: int) -> int:
    """Follow a chain of `hops` redirects; return how many were followed."""
    current = leg("https://api.test/0")
    visited = {("GET", str(current.url))}
    for n in range(hops):
        result = follow(current, head(302, f"/{n + 1}"), followed=n, limit=limit, visited=visited)
        assert isinstance(result, Follow)
        current = result.leg
        visited.add((current.method, str(current.url)))
    assert isinstance(follow(current, head(200), followed=hops, limit=limit, visited=visited), Final)
    return hops


@pytest.mark.parametrize("limit", [1, 3, 10])
def test_F9_exactly_n_redirects_are_followed(limit: int) -> None:
    assert walk(limit, limit) == limit
    with pytest.raises(FaztError) as caught:
        walk(limit, limit + 1)
    assert caught.value.reason is Reason.REDIRECT_LIMIT
    assert caught.value.hop == limit + 1


def test_F9_a_limit_of_zero_makes_any_redirect_an_error() -> None:
    assert isinstance(step(leg(), head(200), limit=0), Final)
    assert refusal(leg(), head(301, "/x"), limit=0).reason is Reason.REDIRECT_LIMIT


@pytest.mark.parametrize("status", sorted(set(range(200, 400)) - STATUSES))
def test_other_statuses_are_answers_whatever_they_name(status: int) -> None:
    assert isinstance(step(leg(), head(status, AWAY), limit=0), Final)


@pytest.mark.parametrize("status", sorted(STATUSES))
def test_a_redirect_status_without_location_is_an_answer(status: int) -> None:
    assert isinstance(step(leg(), head(status), limit=0), Final)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/b", "https://api.test/b"),
        ("b", "https://api.test/v1/b"),
        ("../b", "https://api.test/b"),
        ("?y=2", "https://api.test/v1/a?y=2"),
        ("//other.test/c", "https://other.test/c"),
        ("https://OTHER.test./c#frag", "https://other.test/c"),
        ("/b#frag", "https://api.test/b"),
        ("/caf\xc3\xa9", "https://api.test/caf%C3%A9"),  # UTF-8, as it comes from the wire
        ("/caf\xe9", "https://api.test/caf%E9"),  # no UTF-8: the bytes stay what they are
    ],
)
def test_locations_resolve_against_the_request(location: str, url: str) -> None:
    assert str(followed_to(leg(), head(302, location)).leg.url) == url


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://127.0.0.1/", Reason.IP_LITERAL),
        ("http://0x7f.1/", Reason.IP_LITERAL),
        ("https://[::1]/", Reason.IP_LITERAL),
        ("https://u:p@other.test/", Reason.USERINFO),
        ("ftp://other.test/", Reason.SCHEME_NOT_ALLOWED),
        ("javascript:alert(1)", Reason.SCHEME_NOT_ALLOWED),
        ("https://other.test:0/", Reason.BAD_URL),
        ("https://other.test:99999/", Reason.BAD_URL),
        ("https:\\\\other.test/", Reason.BAD_URL),
        ("https://\xe9\xff.test/", Reason.BAD_URL),
    ],
)
def test_F30a_redirect_targets_pass_the_same_url_gate(location: str, reason: Reason) -> None:
    error = refusal(leg(), head(302, location), followed=1)
    assert error.reason is reason
    assert error.hop == 2


def test_two_targets_are_no_target() -> None:
    error = refusal(leg(), head(302, "/a", "/b"))
    assert (error.reason, error.hop) == (Reason.PROTOCOL, 1)
    assert followed_to(leg(), head(302, "/b", "/b")).leg.url.path == "/b"


def test_a_circle_is_refused() -> None:
    assert refusal(leg(), head(302, HOME)).reason is Reason.REDIRECT_LOOP
    assert refusal(leg(), head(302, "")).reason is Reason.REDIRECT_LOOP
    # POST, then GET of the same URL, is how forms work and no circle
    assert followed_to(leg(method="POST", body=b"x"), head(303, HOME)).leg.method == "GET"


@pytest.mark.parametrize(
    ("status", "before", "after"),
    [
        (301, "GET", "GET"),
        (301, "POST", "GET"),
        (301, "PUT", "PUT"),
        (302, "POST", "GET"),
        (302, "DELETE", "DELETE"),
        (302, "HEAD", "HEAD"),
        (303, "POST", "GET"),
        (303, "PUT", "GET"),
        (303, "DELETE", "GET"),
        (303, "GET", "GET"),
        (303, "HEAD", "HEAD"),
        (307, "POST", "POST"),
        (308, "PUT", "PUT"),
    ],
)
def test_methods_and_bodies_after_a_redirect(status: int, before: str, after: str) -> None:
    fields = (("Content-Type", "text/plain"), ("content-md5", "x"), *PLAIN)
    sent = followed_to(leg(method=before, body=b"data", headers=fields), head(status, "/next")).leg
    assert sent.method == after
    if status == 303 or before != after:
        assert sent.body is None
        assert sent.headers == PLAIN
    else:
        assert sent.body == b"data"
        assert sent.headers == fields


@pytest.mark.parametrize("location", ["/next", AWAY])
def test_F6_no_referer_goes_on_and_none_is_made(location: str) -> None:
    sent = followed_to(leg(headers=(("Referer", HOME), ("referer", HOME), *PLAIN)), head(302, location)).leg
    assert sent.headers == PLAIN


@pytest.mark.parametrize("location", [AWAY, "http://api.test/v1/a", "https://api.test:8443/", "https://sub.api.test/"])
@pytest.mark.parametrize("status", sorted(STATUSES))
def test_F7_credentials_end_where_the_origin_ends(location: str, status: int) -> None:
    result = followed_to(leg(headers=CREDENTIALS + PLAIN), head(status, location), secret_headers=("x-api-key",))
    assert result.leg.headers == PLAIN
    assert not result.same_origin
    assert not result.leg.keep_secret


def test_F7_credentials_stay_within_the_origin() -> None:
    fields = tuple(item for item in CREDENTIALS if not item[0].lower().startswith("proxy-")) + PLAIN
    result = followed_to(leg(headers=fields), head(302, "https://api.test:443/next"), secret_headers=("x-api-key",))
    assert result.leg.headers == fields
    assert result.same_origin
    assert result.leg.keep_secret


def test_F8_a_secret_once_dropped_does_not_come_back() -> None:
    there = followed_to(leg(), head(302, AWAY)).leg
    within = followed_to(there, head(302, "/next"), followed=1)
    assert within.same_origin
    assert not within.leg.keep_secret
    assert not followed_to(within.leg, head(302, HOME), followed=2).leg.keep_secret


@pytest.mark.parametrize("location", ["/next?a=1&api%5Fkey=canary&b", f"{AWAY}?a=1&api_key=canary&API_KEY=2&b"])
def test_F7_an_echoed_query_secret_is_not_carried_on(location: str) -> None:
    sent = followed_to(leg(), head(302, location), secret_params=("api_key",)).leg
    assert "canary" not in str(sent.url)
    assert sent.url.query in ("a=1&b", "a=1&API_KEY=2&b")


def test_F7_a_target_without_the_parameter_keeps_its_spelling() -> None:
    sent = followed_to(leg(), head(302, "/n?B=%7e&&a=+"), secret_params=("key",)).leg
    assert sent.url.query == "B=%7e&&a=+"


@pytest.mark.parametrize("status", [307, 308])
def test_F30a_a_body_follows_to_another_origin_only_without_a_secret(status: int) -> None:
    post = leg(method="POST", body=b"data", headers=(("Content-Type", "text/plain"),))
    result = followed_to(post, head(status, AWAY))
    assert (result.leg.method, result.leg.body) == ("POST", b"data")
    assert result.leg.headers == (("Content-Type", "text/plain"),)
    error = refusal(post, head(status, AWAY), secret_used=True)
    assert (error.reason, error.hop) == (Reason.REDIRECT_BODY, 1)
    assert followed_to(post, head(status, "/next"), secret_used=True).leg.body == b"data"


def test_F30a_methods_that_keep_their_body_on_302_are_held_to_the_same() -> None:
    put = leg(method="PUT", body=b"data")
    assert refusal(put, head(302, AWAY), secret_used=True).reason is Reason.REDIRECT_BODY


@pytest.mark.parametrize(
    ("location", "downgrade"), [("http://api.test/", True), ("http://o.test/", True), ("/x", False)]
)
def test_a_downgrade_is_named_for_the_rule_gate(location: str, downgrade: bool) -> None:
    assert followed_to(leg(), head(302, location)).downgrade is downgrade
    assert followed_to(leg("http://api.test/"), head(302, "https://api.test/")).downgrade is False


def test_nothing_that_may_be_secret_shows_in_repr() -> None:
    text = repr(leg("https://api.test/?k=canary", headers=(("A", "canary"),), body=b"canary"))
    assert "canary" not in text


@given(
    status=st.sampled_from(sorted(STATUSES)),
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]),
    body=st.none() | st.just(b"data"),
    location=st.sampled_from([AWAY, "http://api.test/", "/same", "https://api.test:444/x"]),
    fields=st.lists(st.sampled_from(CREDENTIALS + PLAIN), max_size=6),
    used=st.booleans(),
)
def test_no_redirect_carries_credentials_across(
    status: int, method: str, body: bytes | None, location: str, fields: list[tuple[str, str]], used: bool
) -> None:
    sent = leg(method=method, body=body, headers=tuple(fields))
    becomes_get = status == 303 or (status in (301, 302) and method == "POST")
    if used and body is not None and location != "/same" and not becomes_get:
        assert refusal(sent, head(status, location), secret_used=used).reason is Reason.REDIRECT_BODY
        return
    result = followed_to(sent, head(status, location), secret_headers=("X-Api-Key",), secret_used=used)
    if location != "/same":
        assert set(result.leg.headers) <= set(PLAIN)
        assert not result.leg.keep_secret
        assert not (used and result.leg.body)


@pytest.mark.parametrize(
    "name",
    [
        "Authentication",
        "Client-Secret",
        "Job-Token",
        "Proxy-Anything",
        "X-Access-Key",
        "X-Auth",
        "X-Auth-Key",
        "X-Functions-Key",
        "X-JWT",
        "X-Session-Id",
        "X-Shopify-Access-Token",
        "anthropic-api-key",
        "x_api_key",
    ],
)
def test_fields_named_like_credentials_are_not_carried_to_another_origin(name: str) -> None:
    assert is_credential(name.lower())
    result = followed_to(leg(headers=((name, "v"), *PLAIN)), head(302, "https://other.example/"))
    assert name not in dict(result.leg.headers)
    kept = followed_to(leg(headers=((name, "v"), *PLAIN)), head(302, "/elsewhere"))
    assert name in dict(kept.leg.headers)


@pytest.mark.parametrize("name", ["accept", "idempotency-key", "x-request-id", "tokenizer", "x-author", "if-match"])
def test_fields_that_only_look_a_little_like_it_are_carried(name: str) -> None:
    assert not is_credential(name)
