"""The cache of one program: validation, credentials, invalidation, stale answers (RFC 9111 sections 4.2 to 4.4)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.core.cache.asked import NOW, URL, ask, asking, body_of, keep

from fazt.core.cache.memory import MemoryStore
from fazt.core.cache.responses import ResponseCache
from fazt.core.cache.storing import CacheRules
from fazt.core.call import Fields, ResponseHead
from fazt.core.url import parse_url
from fazt.errors import FaztError, Reason

SALT = b"salt of this test"
FRESH = ("Cache-Control", "max-age=60")


def make(**rules: Any) -> ResponseCache:
    return ResponseCache(MemoryStore(1 << 20, salt=SALT), CacheRules(**rules), credentials=True)


@pytest.fixture
def cache() -> ResponseCache:
    return make()


def mine(token: str, **more: Any) -> Any:
    return ask(fields=(("Authorization", f"Bearer {token}"),), salt=SALT, credentials=True, **more)


def renew(cache: ResponseCache, *fields: tuple[str, str], now: float = NOW + 100) -> tuple[ResponseHead, bytes] | None:
    found = cache.look(ask(), now=now)
    assert found.entry is not None
    return cache.renew(
        ask(), found.entry, ResponseHead(304, fields), requested_at=now, now=now, generation=cache.generation
    )


def invalidate(
    cache: ResponseCache, *fields: tuple[str, str], url: str = URL, status: int = 200, now: float = NOW
) -> int:
    return cache.invalidate(app="app1", url=parse_url(url), status=status, fields=fields, now=now)


# --- credentials


def test_one_credentials_response_is_never_anothers(cache: ResponseCache) -> None:
    assert keep(cache, mine("one"), FRESH, body=b"of one")
    assert keep(cache, mine("two"), FRESH, body=b"of two")
    assert keep(cache, ask(), FRESH, body=b"of nobody")
    assert body_of(cache, mine("one")) == b"of one"
    assert body_of(cache, mine("two")) == b"of two"
    assert body_of(cache, ask()) == b"of nobody"
    assert body_of(cache, mine("three")) is None


def test_a_secret_of_the_vault_is_told_by_name_and_version(cache: ResponseCache) -> None:
    of_vault: dict[str, Any] = {"salt": SALT, "credentials": True}
    keep(cache, ask(secret="app1/KEY/1", **of_vault), FRESH)
    assert body_of(cache, ask(secret="app1/KEY/1", **of_vault)) == b"body"
    assert body_of(cache, ask(secret="app1/KEY/2", **of_vault)) is None
    assert body_of(cache, ask(secret="app1/OTHER/1", **of_vault)) is None
    assert body_of(cache, ask()) is None


def test_no_credential_is_kept(cache: ResponseCache) -> None:
    request = mine("canary-4711")
    keep(cache, request, FRESH, ("Vary", "Authorization"))
    entry = cache.store.find(request.place, request.pick)
    assert entry is not None
    for name in entry.__slots__:
        assert "canary" not in repr(getattr(entry, name))


def test_without_permission_or_salt_credentials_go_past_the_cache() -> None:
    fields = (("Authorization", "x"),)
    assert asking(fields=fields, salt=SALT, credentials=False) is None
    assert asking(fields=fields, salt=b"", credentials=True) is None
    assert not ResponseCache(MemoryStore(1, salt=SALT), CacheRules(shared=True), credentials=True).credentials


# --- validation


def test_a_304_makes_the_stored_response_fresh_again(cache: ResponseCache) -> None:
    keep(cache, ask(), FRESH, ("ETag", '"1"'), ("X-Old", "kept"), ("X-New", "old"), ("Content-Length", "4"))
    found = cache.look(ask(), now=NOW + 100)
    assert found.head is None
    assert found.fields == (("If-None-Match", '"1"'),)
    answer = renew(cache, ("ETag", '"1"'), ("X-New", "new"), ("Content-Length", "0"), ("Set-Cookie", "a=b"))
    assert answer is not None
    head, body = answer
    assert (head.status, body) == (200, b"body")
    assert dict(head.headers) == {
        "cache-control": "max-age=60",
        "etag": '"1"',
        "x-old": "kept",
        "x-new": "new",
        "content-length": "4",
        "set-cookie": "a=b",
    }
    again = cache.look(ask(), now=NOW + 159)
    assert again.head is not None
    assert ("x-new", "new") in again.head.headers
    assert "set-cookie" not in dict(again.head.headers)
    assert cache.look(ask(), now=NOW + 161).head is None


def test_a_304_that_speaks_of_another_response_is_not_used(cache: ResponseCache) -> None:
    keep(cache, ask(), FRESH, ("ETag", '"1"'))
    assert renew(cache, ("ETag", '"2"')) is None
    assert cache.look(ask(), now=NOW).entry is None


def test_a_304_may_forbid_keeping_what_it_renews(cache: ResponseCache) -> None:
    keep(cache, ask(), FRESH, ("ETag", '"1"'))
    assert renew(cache, ("ETag", '"1"'), ("Cache-Control", "no-store")) is not None
    assert cache.stats().items == 0


def test_a_304_is_not_kept_after_a_purge(cache: ResponseCache) -> None:
    keep(cache, ask(), FRESH, ("ETag", '"1"'))
    found = cache.look(ask(), now=NOW + 100)
    begun = cache.generation
    assert found.entry is not None
    cache.clear()
    head = ResponseHead(304, ())
    assert cache.renew(ask(), found.entry, head, requested_at=NOW, now=NOW + 100, generation=begun) is not None
    assert cache.stats().items == 0


def test_last_modified_validates_where_it_is_a_date(cache: ResponseCache) -> None:
    keep(cache, ask(), FRESH, ("Last-Modified", "Fri, 15 Jan 2027 07:00:00 GMT"))
    assert cache.look(ask(), now=NOW + 100).fields == (("If-Modified-Since", "Fri, 15 Jan 2027 07:00:00 GMT"),)
    keep(cache, ask(), FRESH, ("Last-Modified", "yesterday"))
    assert cache.look(ask(), now=NOW + 100).fields == ()


def test_modes(cache: ResponseCache) -> None:
    with pytest.raises(FaztError) as caught:
        cache.look(ask(mode="only-if-cached"), now=NOW)
    assert caught.value.reason is Reason.NOT_CACHED
    keep(cache, ask(), FRESH, ("ETag", '"1"'))
    assert body_of(cache, ask(mode="only-if-cached")) == b"body"
    assert body_of(cache, ask(mode="validate")) is None
    assert cache.look(ask(mode="validate"), now=NOW).fields == (("If-None-Match", '"1"'),)
    assert cache.look(ask(mode="reload"), now=NOW).fields == ()
    with pytest.raises(FaztError):
        cache.look(ask(mode="only-if-cached"), now=NOW + 61)
    gateway = cache.look(ask(fields=(("Cache-Control", "only-if-cached"),)), now=NOW + 61)
    assert gateway.head is not None
    assert (gateway.head.status, gateway.cache) == (504, "miss")


def test_a_clock_that_goes_back_is_not_believed(cache: ResponseCache) -> None:
    keep(cache, ask(), FRESH)
    assert body_of(cache, ask(), now=NOW - 1) == b"body"
    assert body_of(cache, ask(), now=NOW - 10) is None


# --- HEAD


def head_of(cache: ResponseCache, status: int, *fields: tuple[str, str], now: float = NOW + 100) -> None:
    cache.record(
        ask(method="HEAD"), ResponseHead(status, fields), requested_at=now, now=now, generation=cache.generation
    )


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ((("ETag", '"1"'), FRESH), True),
        ((FRESH,), True),
        ((FRESH, ("Content-Length", "4")), True),
        ((FRESH, ("Content-Length", "5")), False),
        ((FRESH, ("ETag", '"2"')), False),
    ],
)
def test_a_head_freshens_a_stored_get_or_shows_that_it_is_outdated(fields: Fields, kept: bool) -> None:
    cache = make()
    keep(cache, ask(), FRESH, ("ETag", '"1"'))
    head_of(cache, 200, *fields)
    assert (body_of(cache, ask(), now=NOW + 120) == b"body") is kept


def test_a_get_answers_a_head_and_no_head_answers_a_get(cache: ResponseCache) -> None:
    keep(cache, ask(method="HEAD"), FRESH, body=b"")
    assert body_of(cache, ask()) is None
    assert cache.look(ask(method="HEAD"), now=NOW).cache == "hit"
    keep(cache, ask("https://api.test/2"), FRESH)
    found = cache.look(ask("https://api.test/2", method="HEAD"), now=NOW)
    assert found.head is not None
    assert (found.head.status, found.body) == (200, b"")


def test_a_head_that_says_gone_takes_the_get_with_it(cache: ResponseCache) -> None:
    keep(cache, ask(), FRESH)
    head_of(cache, 500, now=NOW)
    assert body_of(cache, ask()) == b"body"
    head_of(cache, 404, now=NOW)
    assert body_of(cache, ask()) is None


# --- invalidation


def test_an_unsafe_request_takes_everything_of_its_url(cache: ResponseCache) -> None:
    keep(cache, ask(), FRESH)
    keep(cache, mine("one"), FRESH)
    keep(cache, ask(role="artifact"), FRESH)
    keep(cache, ask("https://api.test/other"), FRESH)
    assert invalidate(cache, status=500) == 0
    assert invalidate(cache, status=404) == 0
    assert invalidate(cache) == 3
    assert cache.stats().items == 1


@pytest.mark.parametrize(
    ("field", "gone"),
    [
        (("Location", "/other"), 1),
        (("Content-Location", "https://api.test/other"), 1),
        (("Location", "https://api.test:8443/other"), 0),
        (("Location", "http://api.test/other"), 0),
        (("Location", "https://elsewhere.test/other"), 0),
        (("Location", "http://["), 0),
    ],
)
def test_what_the_answer_names_goes_too_on_the_same_origin(
    cache: ResponseCache, field: tuple[str, str], gone: int
) -> None:
    for url in ("https://api.test/other", "http://api.test/other", "https://elsewhere.test/other"):
        keep(cache, ask(url), FRESH)
    assert invalidate(cache, field) == gone


def test_what_was_asked_for_before_is_not_kept_afterwards(cache: ResponseCache) -> None:
    invalidate(cache, now=NOW + 5)
    assert not keep(cache, ask(), FRESH, now=NOW + 6, took=3)
    assert keep(cache, ask(), FRESH, now=NOW + 9, took=3)


# --- stale answers


def stands_in(cache: ResponseCache, *, now: float, **more: Any) -> bool:
    request = ask(**more)
    entry = cache.store.find(request.place, request.pick)
    assert entry is not None
    return cache.stand_in(request, entry, now=now) is not None


def test_a_stale_response_stands_in_where_either_side_says_so() -> None:
    cache = make()
    keep(cache, ask(), ("Cache-Control", "max-age=10, stale-if-error=20"))
    assert stands_in(cache, now=NOW + 29)
    assert not stands_in(cache, now=NOW + 31)
    assert stands_in(cache, now=NOW + 39, fields=(("Cache-Control", "stale-if-error=30"),))
    assert not stands_in(cache, now=NOW + 20, fields=(("Cache-Control", "no-cache"),))
    keep(cache, ask(), ("Cache-Control", "max-age=10"), ("ETag", "1"))
    assert not stands_in(cache, now=NOW + 11)


def test_a_stale_response_stands_in_where_the_cache_is_told_to() -> None:
    cache = make(stale_if_error=100)
    keep(cache, ask(), ("Cache-Control", "max-age=10"))
    assert stands_in(cache, now=NOW + 60)
    keep(cache, ask(), ("Cache-Control", "max-age=10, must-revalidate"))
    assert not stands_in(cache, now=NOW + 60)
    keep(cache, ask(), ("Cache-Control", "max-age=10, stale-if-error=0"))
    assert not stands_in(cache, now=NOW + 60)


def test_a_stale_answer_says_so_and_asks_to_be_refreshed(cache: ResponseCache) -> None:
    keep(cache, ask(), ("Cache-Control", "max-age=10, stale-while-revalidate=20"))
    assert cache.look(ask(), now=NOW + 9).cache == "hit"
    found = cache.look(ask(), now=NOW + 15)
    assert (found.cache, found.refresh) == ("stale", True)
    assert cache.look(ask(), now=NOW + 31).head is None
    lenient = cache.look(ask(fields=(("Cache-Control", "max-stale=100"),)), now=NOW + 31)
    assert (lenient.cache, lenient.refresh) == ("stale", False)
    assert not cache.look(ask(mode="only-if-cached"), now=NOW + 15).refresh


# --- partial answers


@pytest.mark.parametrize(
    ("asked", "status", "body", "place"),
    [
        ("bytes=0-1", 206, b"bo", "bytes 0-1/4"),
        ("bytes=2-", 206, b"dy", "bytes 2-3/4"),
        ("bytes=-1", 206, b"y", "bytes 3-3/4"),
        ("bytes=-9", 206, b"body", "bytes 0-3/4"),
        ("bytes=1-99", 206, b"ody", "bytes 1-3/4"),
        ("bytes=4-", 416, b"", "bytes */4"),
        ("bytes=-0", 416, b"", "bytes */4"),
    ],
)
def test_a_range_is_cut_out_of_a_whole_response(
    cache: ResponseCache, asked: str, status: int, body: bytes, place: str
) -> None:
    keep(cache, ask(), FRESH, ("Content-Length", "4"))
    found = cache.look(ask(fields=(("Range", asked),)), now=NOW)
    assert found.head is not None
    fields = dict(found.head.headers)
    assert (found.head.status, found.body, fields["content-range"]) == (status, body, place)
    assert fields["content-length"] == str(len(body))


# --- conditions of the caller's own


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        (("If-None-Match", '"1"'), 304),
        (("If-None-Match", 'W/"1"'), 304),
        (("If-None-Match", '"0", "1"'), 304),
        (("If-None-Match", "*"), 304),
        (("If-None-Match", '"2"'), 200),
        (("If-Modified-Since", "Fri, 15 Jan 2027 07:00:00 GMT"), 304),
        (("If-Modified-Since", "Fri, 15 Jan 2027 06:59:59 GMT"), 200),
        (("If-Modified-Since", "yesterday"), 200),
    ],
)
def test_what_the_caller_has_already_is_not_sent_again(
    cache: ResponseCache, condition: tuple[str, str], status: int
) -> None:
    keep(cache, ask(), FRESH, ("ETag", '"1"'), ("Last-Modified", "Fri, 15 Jan 2027 07:00:00 GMT"))
    found = cache.look(ask(fields=(condition,)), now=NOW)
    assert found.head is not None
    assert (found.head.status, found.body) == (status, b"" if status == 304 else b"body")


def test_a_304_to_the_callers_own_condition_freshens_what_it_speaks_of(cache: ResponseCache) -> None:
    keep(cache, ask(), FRESH, ("ETag", '"1"'))
    own = ask(fields=(("If-None-Match", '"1"'),))
    found = cache.look(own, now=NOW + 100)
    assert (found.head, found.fields) == (None, ())
    for tag, fresh in (('"2"', False), ('"1"', True)):
        head = ResponseHead(304, (("ETag", tag),))
        assert cache.record(own, head, requested_at=NOW + 100, now=NOW + 100, generation=0, known=found.entry) is None
        assert (body_of(cache, ask(), now=NOW + 100) is not None) is fresh
