"""The cache of functions: who may be answered from it, what is kept, what goes first (A.16)."""

from __future__ import annotations

import pytest
from tests.core.cache.asked import NOW, URL, ask, asking, body_of, keep

from fazt.core import headers
from fazt.core.cache.entry import OVERHEAD
from fazt.core.cache.memory import MAX_VARIANTS
from fazt.core.cache.responses import ResponseCache
from fazt.core.call import Fields, ResponseHead

DATE = ("Date", "Fri, 15 Jan 2027 08:00:00 GMT")
"""Of NOW."""


def ruled(url: str = URL, *, ttl: float = 60, **more: object):  # type: ignore[no-untyped-def]
    return ask(url, ttl=ttl, **more)


@pytest.fixture
def cache() -> ResponseCache:
    return ResponseCache.for_functions(100, 1 << 20)


@pytest.mark.parametrize(("items", "size"), [(0, 0), (0, 1000), (10, 0)])
def test_it_does_nothing_unless_both_limits_are_set(items: int, size: int) -> None:
    cache = ResponseCache.for_functions(items, size)
    assert not cache.enabled
    assert not keep(cache, ruled())


def test_without_a_ttl_what_says_nothing_is_not_kept(cache: ResponseCache) -> None:
    assert not keep(cache, ask())
    assert body_of(cache, ask()) is None


def test_hits_misses_and_sizes_are_counted(cache: ResponseCache) -> None:
    assert body_of(cache, ruled()) is None
    assert keep(cache, ruled(), ("X", "y"))
    assert body_of(cache, ruled()) == b"body"
    stats = cache.stats()
    assert (stats.items, stats.max_items, stats.max_bytes, stats.hits, stats.misses) == (1, 100, 1 << 20, 1, 1)
    assert OVERHEAD + len(b"body") < stats.bytes < 300


def test_the_rule_says_how_long_where_the_server_does_not(cache: ResponseCache) -> None:
    keep(cache, ruled())
    assert body_of(cache, ruled(), now=NOW + 59.9) == b"body"
    assert body_of(cache, ruled(), now=NOW + 60) is None


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ((("Cache-Control", "max-age=10"),), 10),
        ((("Cache-Control", "max-age=600"),), 60),
        ((("Cache-Control", "max-age=600, max-age=20"),), 20),
        ((("Cache-Control", "public"),), 60),
        ((("Cache-Control", "max-age=99999999999999999999999"),), 60),
        ((("Cache-Control", "s-maxage=5, max-age=50"),), 5),
        ((("Cache-Control", 'x="no-store"'),), 60),
        ((("Cache-Control", "max-age=30"), ("Age", "4")), 26),
        ((DATE, ("Expires", "Fri, 15 Jan 2027 08:00:10 GMT")), 10),
        ((DATE, ("Expires", "Fri, 15 Jan 2027 09:00:00 GMT")), 60),
        ((DATE, ("Expires", "0"), ("Cache-Control", "max-age=5")), 5),
    ],
)
def test_F13_the_rule_bounds_what_the_server_says(cache: ResponseCache, fields: Fields, seconds: float) -> None:
    assert keep(cache, ruled(), *fields)
    assert body_of(cache, ruled(), now=NOW + seconds - 0.1) == b"body"
    assert body_of(cache, ruled(), now=NOW + seconds) is None


@pytest.mark.parametrize(
    "text",
    [
        "no-store",
        "No-Store",
        "private",
        "max-age=60, no-store",
        "max-age=60,private",
        "  ,, no-store ;x",
        'a="b, no-cache", no-store',
        "max-age=0",
        "max-age=-1",
        "max-age=abc",
        "max-age",
        "max-age=",
        "max-age=1.5",
        "max-age = 10",
        "max-age=60, max-age=0",
        'foo="unbalanced, no-store',
        '"',
    ],
)
def test_F13_a_ttl_never_overrides_what_the_server_forbids(cache: ResponseCache, text: str) -> None:
    assert not keep(cache, ruled(), ("cache-control", text))
    assert body_of(cache, ruled()) is None


@pytest.mark.parametrize("field", [("Cache-Control", "no-cache"), ("Pragma", "No-Cache")])
def test_F13_what_must_be_asked_about_is_not_used_unasked(cache: ResponseCache, field: tuple[str, str]) -> None:
    keep(cache, ruled(), field, ("ETag", '"1"'))
    assert body_of(cache, ruled()) is None


def test_F13_a_second_field_counts_as_much(cache: ResponseCache) -> None:
    assert not keep(cache, ruled(), ("Cache-Control", "max-age=60"), ("CACHE-CONTROL", "no-store"))


@pytest.mark.parametrize("field", [("Set-Cookie", "a=b"), ("set-cookie", "")])
def test_F13_what_sets_a_cookie_is_not_kept(cache: ResponseCache, field: tuple[str, str]) -> None:
    assert not keep(cache, ruled(), field, ("Cache-Control", "public, max-age=60"))


@pytest.mark.parametrize("status", [206, 301, 302, 304, 404, 410, 500])
def test_only_whole_successes_are_kept(cache: ResponseCache, status: int) -> None:
    assert not keep(cache, ruled(), ("Cache-Control", "max-age=60"), status=status)


@pytest.mark.parametrize(
    "other",
    [
        {"app": "app2"},
        {"url": "http://api.test/v1?q=1"},
        {"url": "https://api.test:8443/v1?q=1"},
        {"url": "https://api2.test/v1?q=1"},
        {"url": "https://api.test/V1?q=1"},
        {"url": "https://api.test/v1"},
        {"url": "https://api.test/v1?q=%31"},
        {"url": "https://api.test/v1?"},
        {"partition": "another policy"},
        {"role": "artifact"},
    ],
)
def test_F13_whatever_differs_is_something_else(cache: ResponseCache, other: dict[str, str]) -> None:
    keep(cache, ruled())
    assert body_of(cache, ruled(**other)) is None  # type: ignore[arg-type]


def test_F13_one_canonical_url_is_one_key(cache: ResponseCache) -> None:
    keep(cache, ruled())
    assert body_of(cache, ruled("HTTPS://API.test.:443/v1?q=1#frag")) == b"body"


@pytest.mark.parametrize(
    "name", ["Authorization", "cookie", "Cookie2", "Proxy-Authorization", "X-API-Key", "x-auth-token", "X-Session-Id"]
)
def test_F13_requests_with_credentials_stay_out(name: str) -> None:
    assert asking(fields=(("Accept", "*/*"), (name, "x"))) is None


@pytest.mark.parametrize("name", ["If-Match", "If-Range", "If-Unmodified-Since"])
def test_conditions_that_a_cache_cannot_judge_stay_out(name: str) -> None:
    assert asking(fields=((name, '"x"'),)) is None


@pytest.mark.parametrize("text", ["bytes=0-1,3-4", "lines=1-2", "bytes=2-1", "bytes=", "0-1"])
def test_ranges_that_are_no_one_range_of_bytes_stay_out(text: str) -> None:
    assert asking(fields=(("Range", text),)) is None


def test_F13_headers_marked_sensitive_and_secrets_stay_out() -> None:
    assert asking(fields=(("x-CUSTOMER", "k"),), sensitive=frozenset({"x-customer"})) is None
    assert asking(secret="app1/KEY/1") is None
    assert asking(fields=(("x-CUSTOMER", "k"),)) is not None


def test_F16_only_get_and_head_without_body() -> None:
    assert asking(body=True) is None
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        assert asking(method=method) is None
    assert asking(method="HEAD") is not None


def test_F16_a_lower_case_get_is_a_get(cache: ResponseCache) -> None:
    keep(cache, ruled(method=headers.method("get")))
    assert body_of(cache, ruled(method=headers.method("Get"))) == b"body"


@pytest.mark.parametrize("text", ["no-store", "max-age=5, no-store", 'x="unbalanced'])
def test_a_caller_may_stay_out(text: str) -> None:
    assert asking(fields=(("Cache-Control", text),)) is None
    assert asking(mode="bypass") is None


@pytest.mark.parametrize(
    "field", [("Cache-Control", "no-cache"), ("cache-control", "max-age=0"), ("Pragma", "no-cache")]
)
def test_a_caller_may_ask_for_a_fresh_answer_which_then_serves_all(
    cache: ResponseCache, field: tuple[str, str]
) -> None:
    keep(cache, ruled(), body=b"old", now=NOW - 1)
    forced = ruled(fields=(field,))
    assert body_of(cache, forced) is None
    assert body_of(cache, ruled()) == b"old"
    keep(cache, forced, body=b"new")
    assert body_of(cache, ruled()) == b"new"
    assert cache.stats().items == 1


def test_a_fresh_answer_that_may_not_be_kept_takes_the_old_one_with_it(cache: ResponseCache) -> None:
    keep(cache, ruled(), body=b"old")
    assert not keep(cache, ruled(fields=(("Pragma", "no-cache"),)), ("Set-Cookie", "a=b"))
    assert body_of(cache, ruled()) is None


def test_a_failure_says_nothing_of_what_is_stored(cache: ResponseCache) -> None:
    keep(cache, ruled(), body=b"old")
    assert not keep(cache, ruled(), status=503)
    assert body_of(cache, ruled()) == b"old"


def test_F13_vary_keeps_variants_apart(cache: ResponseCache) -> None:
    vary = ("Vary", "Accept-Language")
    english = ruled(fields=(("accept-language", "en"),))
    german = ruled(fields=(("Accept-Language", "de"), ("X", "1")))
    none = ruled()
    assert keep(cache, english, vary, body=b"en")
    assert body_of(cache, german) is None
    assert keep(cache, german, vary, body=b"de")
    assert keep(cache, none, vary, body=b"-")
    assert [body_of(cache, request) for request in (english, german, none)] == [b"en", b"de", b"-"]
    assert body_of(cache, ruled(fields=(("Accept-Language", "de, en"),))) is None
    assert cache.stats().items == 3


def test_F13_vary_on_anything_is_not_kept(cache: ResponseCache) -> None:
    assert not keep(cache, ruled(), ("Vary", "Accept, *"))


def test_variants_of_one_url_are_bounded(cache: ResponseCache) -> None:
    for n in range(MAX_VARIANTS + 5):
        assert keep(cache, ruled(fields=(("X", str(n)),)), ("Vary", "x"))
    assert cache.stats().items == MAX_VARIANTS
    assert body_of(cache, ruled(fields=(("X", "0"),))) is None
    assert body_of(cache, ruled(fields=(("X", "20"),))) == b"body"


def test_F14_what_is_kept_cannot_be_changed(cache: ResponseCache) -> None:
    head_fields = [("X-A", "1"), ("x-a", "2")]
    body = bytearray(b"body")
    recording = cache.record(
        ruled(),
        ResponseHead(200, head_fields),  # type: ignore[arg-type]
        requested_at=NOW,
        now=NOW,
        generation=0,
    )
    assert recording is not None
    recording.feed(body)  # type: ignore[arg-type]
    head_fields.clear()
    body[:] = b"evil"
    assert recording.commit()
    found = cache.look(ruled(), now=NOW)
    assert found.head is not None
    assert found.head.headers == (("x-a", "1"), ("x-a", "2"), ("age", "0"))
    assert found.body == b"body"
    assert {type(part) for part in (found.head.headers, *found.head.headers)} == {tuple}


def test_F15_a_response_larger_than_the_cache_evicts_nothing() -> None:
    cache = ResponseCache.for_functions(10, 1000)
    keep(cache, ruled("https://api.test/small"))
    assert not keep(cache, ruled("https://api.test/big"), body=b"x" * 1000)
    assert not keep(cache, ruled("https://api.test/big"), ("X", "y" * 1000))
    assert cache.stats().items == 1
    assert body_of(cache, ruled("https://api.test/small")) == b"body"


def test_F15_a_body_that_grows_too_large_is_let_go_on_its_way() -> None:
    cache = ResponseCache.for_functions(10, 1000)
    recording = cache.record(ruled(), ResponseHead(200, ()), requested_at=NOW, now=NOW, generation=0)
    assert recording is not None
    active = []
    for _ in range(2):
        recording.feed(b"x" * 600)
        active.append(recording.active)
    assert active == [True, False]
    assert not recording.commit()
    declared = ResponseHead(200, (("Content-Length", "1001"),))
    assert cache.record(ruled(), declared, requested_at=NOW, now=NOW, generation=0) is None


def test_F15_the_least_recently_used_goes_until_both_limits_hold() -> None:
    cache = ResponseCache.for_functions(3, 10_000)
    urls = [f"https://api.test/{n}" for n in range(5)]
    for url in urls[:3]:
        keep(cache, ruled(url))
    assert body_of(cache, ruled(urls[0])) == b"body"
    keep(cache, ruled(urls[3]))
    assert [body_of(cache, ruled(url)) is not None for url in urls] == [True, False, True, True, False]
    keep(cache, ruled(urls[4]), body=b"x" * 9_700)
    assert [body_of(cache, ruled(url)) is not None for url in urls] == [False, False, False, False, True]
    assert cache.stats().bytes <= 10_000


def test_limits_change_live(cache: ResponseCache) -> None:
    for n in range(10):
        keep(cache, ruled(f"https://api.test/{n}"))
    cache.configure(max_items=4, max_bytes=1 << 20)
    assert cache.stats().items == 4
    assert body_of(cache, ruled("https://api.test/9")) == b"body"
    cache.configure(max_items=0, max_bytes=1 << 20)
    assert (cache.stats().items, cache.stats().bytes) == (0, 0)
    cache.configure(max_items=4, max_bytes=1 << 20)
    assert body_of(cache, ruled("https://api.test/9")) is None


def test_a_shorter_ttl_holds_at_once_for_what_is_stored(cache: ResponseCache) -> None:
    keep(cache, ruled(ttl=60))
    assert body_of(cache, ruled(ttl=30), now=NOW + 40) is None


def test_a_body_larger_than_the_callers_cap_is_not_given_out(cache: ResponseCache) -> None:
    keep(cache, ruled(), body=b"12345")
    assert cache.look(ruled(), now=NOW, max_body=4).head is None
    assert cache.look(ruled(), now=NOW, max_body=5).head is not None


def test_a_response_under_way_during_a_purge_is_not_kept(cache: ResponseCache) -> None:
    begun = cache.generation
    cache.clear()
    assert not keep(cache, ruled(), generation=begun)
    assert keep(cache, ruled(), generation=cache.generation)


def test_nothing_shows_in_repr(cache: ResponseCache) -> None:
    request = ruled("https://api.test/?token=canary", fields=(("X", "canary"),))
    keep(cache, request, ("X", "canary"), body=b"canary")
    found = cache.look(request, now=NOW)
    entry = cache.store.find(request.place, request.pick)
    assert entry is not None
    for shown in (request, request.place, found, entry):
        assert "canary" not in repr(shown)
