"""The response cache: who may be answered from it, what is kept, what goes first (A.16)."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.core import headers
from fazt.core.cache.store import ENTRY_OVERHEAD, MAX_VARIANTS, CachedResponse, CacheRequest, ResponseCache
from fazt.core.call import Fields, ResponseHead
from fazt.core.url import parse_url

URL = "https://api.test/v1?q=1"


def ask(
    url: str = URL, *, app: str = "app1", method: str = "GET", fields: Fields = (), body: bytes | None = None
) -> CacheRequest:
    request = CacheRequest.of(app=app, method=method, url=parse_url(url), headers=fields, body=body)
    assert request is not None
    return request


def uncacheable(**options: object) -> bool:
    call: dict[str, object] = {"app": "a", "method": "GET", "url": parse_url(URL), "headers": (), **options}
    return CacheRequest.of(**call) is None  # type: ignore[arg-type]


def keep(
    cache: ResponseCache,
    request: CacheRequest,
    *fields: tuple[str, str],
    body: bytes = b"body",
    ttl: float = 60,
    now: float = 0,
    status: int = 200,
    generation: int | None = None,
) -> bool:
    head = ResponseHead(status, fields)
    return cache.store(request, ttl=ttl, head=head, body=body, now=now, generation=generation)


def body_of(cache: ResponseCache, request: CacheRequest, *, ttl: float = 60, now: float = 0) -> bytes | None:
    found = cache.lookup(request, ttl=ttl, now=now)
    return found.body if found is not None else None


@pytest.fixture
def cache() -> ResponseCache:
    return ResponseCache(100, 1 << 20)


@pytest.mark.parametrize(("items", "size"), [(0, 0), (0, 1000), (10, 0)])
def test_it_does_nothing_unless_both_limits_are_set(items: int, size: int) -> None:
    cache = ResponseCache(items, size)
    assert not cache.enabled
    assert not keep(cache, ask())
    assert body_of(cache, ask()) is None
    assert cache.stats().misses == 0


def test_a_rule_without_ttl_is_not_answered(cache: ResponseCache) -> None:
    assert not keep(cache, ask(), ttl=0)
    assert body_of(cache, ask(), ttl=0) is None


def test_hits_misses_and_sizes_are_counted(cache: ResponseCache) -> None:
    assert body_of(cache, ask()) is None
    assert keep(cache, ask(), ("X", "y"))
    assert body_of(cache, ask()) == b"body"
    stats = cache.stats()
    assert (stats.items, stats.max_items, stats.max_bytes, stats.hits, stats.misses) == (1, 100, 1 << 20, 1, 1)
    assert ENTRY_OVERHEAD + len(b"body") + len(URL) < stats.bytes < 300


def test_an_expired_response_is_a_miss_and_goes(cache: ResponseCache) -> None:
    keep(cache, ask(), ("Cache-Control", "max-age=10"), now=100)
    assert body_of(cache, ask(), now=109.9) == b"body"
    assert body_of(cache, ask(), now=110) is None
    stats = cache.stats()
    assert (stats.items, stats.bytes, stats.hits, stats.misses) == (0, 0, 1, 1)


@pytest.mark.parametrize(
    "other",
    [
        {"app": "app2"},
        {"method": "HEAD"},
        {"url": "http://api.test/v1?q=1"},
        {"url": "https://api.test:8443/v1?q=1"},
        {"url": "https://api2.test/v1?q=1"},
        {"url": "https://api.test/V1?q=1"},
        {"url": "https://api.test/v1"},
        {"url": "https://api.test/v1?q=%31"},
        {"url": "https://api.test/v1?"},
    ],
)
def test_F13_whatever_differs_is_something_else(cache: ResponseCache, other: dict[str, str]) -> None:
    keep(cache, ask())
    assert body_of(cache, ask(**other)) is None  # type: ignore[arg-type]


def test_F13_one_canonical_url_is_one_key(cache: ResponseCache) -> None:
    keep(cache, ask())
    assert body_of(cache, ask("HTTPS://API.test.:443/v1?q=1#frag")) == b"body"


@pytest.mark.parametrize(
    "name", ["Authorization", "cookie", "Cookie2", "Range", "If-None-Match", "if-modified-since", "Proxy-Authorization"]
)
def test_F13_requests_with_credentials_or_conditions_stay_out(name: str) -> None:
    assert uncacheable(headers=(("Accept", "*/*"), (name, "x")))


def test_F13_headers_marked_sensitive_and_secrets_stay_out() -> None:
    assert uncacheable(headers=(("x-api-KEY", "k"),), sensitive=("X-Api-Key",))
    assert uncacheable(auth=True)
    assert not uncacheable(headers=(("x-api-KEY", "k"),))


def test_F16_only_get_and_head_without_body() -> None:
    assert uncacheable(body=b"x")
    assert uncacheable(body=b"")
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        assert uncacheable(method=method)
    assert not uncacheable(method="HEAD")


def test_F16_a_lower_case_get_is_a_get(cache: ResponseCache) -> None:
    keep(cache, ask(method=headers.method("get")))
    assert body_of(cache, ask(method=headers.method("Get"))) == b"body"


@pytest.mark.parametrize("text", ["no-store", "max-age=5, no-store"])
def test_a_caller_may_stay_out(text: str) -> None:
    assert uncacheable(headers=(("Cache-Control", text),))


@pytest.mark.parametrize(
    "field", [("Cache-Control", "no-cache"), ("cache-control", "max-age=0"), ("Pragma", "no-cache")]
)
def test_a_caller_may_ask_for_a_fresh_answer_which_then_serves_all(
    cache: ResponseCache, field: tuple[str, str]
) -> None:
    keep(cache, ask(), body=b"old")
    forced = ask(fields=(field,))
    assert body_of(cache, forced) is None
    assert body_of(cache, ask()) == b"old"
    keep(cache, forced, body=b"new")
    assert body_of(cache, ask()) == b"new"
    assert cache.stats().items == 1


def test_a_fresh_answer_that_may_not_be_kept_takes_the_old_one_with_it(cache: ResponseCache) -> None:
    keep(cache, ask(), body=b"old")
    assert not keep(cache, ask(fields=(("Pragma", "no-cache"),)), ("Set-Cookie", "a=b"))
    assert body_of(cache, ask()) is None


def test_F13_vary_keeps_variants_apart(cache: ResponseCache) -> None:
    vary = ("Vary", "Accept-Language")
    english = ask(fields=(("accept-language", "en"),))
    german = ask(fields=(("Accept-Language", "de"), ("X", "1")))
    none = ask()
    assert keep(cache, english, vary, body=b"en")
    assert body_of(cache, german) is None
    assert keep(cache, german, vary, body=b"de")
    assert keep(cache, none, vary, body=b"-")
    assert [body_of(cache, request) for request in (english, german, none)] == [b"en", b"de", b"-"]
    assert body_of(cache, ask(fields=(("Accept-Language", "de, en"),))) is None
    assert cache.stats().items == 3


def test_F13_vary_on_anything_is_not_kept(cache: ResponseCache) -> None:
    assert not keep(cache, ask(), ("Vary", "Accept, *"))


def test_variants_of_one_url_are_bounded(cache: ResponseCache) -> None:
    for n in range(MAX_VARIANTS + 5):
        assert keep(cache, ask(fields=(("X", str(n)),)), ("Vary", "x"))
    assert cache.stats().items == MAX_VARIANTS
    assert body_of(cache, ask(fields=(("X", "0"),))) is None
    assert body_of(cache, ask(fields=(("X", "20"),))) == b"body"


def test_F14_what_is_kept_cannot_be_changed(cache: ResponseCache) -> None:
    head_fields = [("X-A", "1"), ("x-a", "2")]
    body = bytearray(b"body")
    cache.store(ask(), ttl=60, head=ResponseHead(200, head_fields), body=body, now=0)  # type: ignore[arg-type]
    head_fields.clear()
    body[:] = b"evil"
    found = cache.lookup(ask(), ttl=60, now=0)
    assert found is not None
    assert found.headers == (("X-A", "1"), ("x-a", "2"))
    assert found.body == b"body"
    for name in (field.name for field in dataclasses.fields(CachedResponse)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(found, name, None)
    assert {type(part) for part in (found.headers, *found.headers)} == {tuple}


def test_F15_a_response_larger_than_the_cache_evicts_nothing() -> None:
    cache = ResponseCache(10, 1000)
    keep(cache, ask("https://api.test/small"))
    assert not keep(cache, ask("https://api.test/big"), body=b"x" * 1000)
    assert not keep(cache, ask("https://api.test/big"), ("X", "y" * 1000))
    assert cache.stats().items == 1
    assert body_of(cache, ask("https://api.test/small")) == b"body"


def test_F15_the_least_recently_used_goes_until_both_limits_hold() -> None:
    cache = ResponseCache(3, 10_000)
    urls = [f"https://api.test/{n}" for n in range(5)]
    for url in urls[:3]:
        keep(cache, ask(url))
    assert body_of(cache, ask(urls[0])) == b"body"
    keep(cache, ask(urls[3]))
    assert [body_of(cache, ask(url)) is not None for url in urls] == [True, False, True, True, False]
    keep(cache, ask(urls[4]), body=b"x" * 9_700)
    assert [body_of(cache, ask(url)) is not None for url in urls] == [False, False, False, False, True]
    assert cache.stats().bytes <= 10_000


def test_limits_change_live(cache: ResponseCache) -> None:
    for n in range(10):
        keep(cache, ask(f"https://api.test/{n}"))
    cache.configure(max_items=4, max_bytes=1 << 20)
    assert cache.stats().items == 4
    assert body_of(cache, ask("https://api.test/9")) == b"body"
    cache.configure(max_items=0, max_bytes=1 << 20)
    assert (cache.stats().items, cache.stats().bytes) == (0, 0)
    cache.configure(max_items=4, max_bytes=1 << 20)
    assert body_of(cache, ask("https://api.test/9")) is None


def test_a_changed_ttl_drops_what_was_kept_under_the_old_one(cache: ResponseCache) -> None:
    keep(cache, ask(), ttl=60)
    assert body_of(cache, ask(), ttl=30) is None
    assert cache.stats().items == 0


def test_a_body_larger_than_the_callers_cap_is_not_given_out(cache: ResponseCache) -> None:
    keep(cache, ask(), body=b"12345")
    assert cache.lookup(ask(), ttl=60, now=0, max_body=4) is None
    assert cache.lookup(ask(), ttl=60, now=0, max_body=5) is not None


@pytest.mark.parametrize(
    ("app", "pattern", "left"),
    [
        (None, None, set()),
        ("app1", None, {"app2 api.test"}),
        (None, "api.test", {"app1 x.api.test", "app1 xapi.test"}),
        ("app1", "api.test", {"app1 x.api.test", "app1 xapi.test", "app2 api.test"}),
        (None, "*.api.test", {"app1 api.test", "app2 api.test", "app1 xapi.test"}),
        ("app3", "api.test", {"app1 api.test", "app1 x.api.test", "app1 xapi.test", "app2 api.test"}),
    ],
)
def test_purging_follows_the_rule_that_changed(
    cache: ResponseCache, app: str | None, pattern: str | None, left: set[str]
) -> None:
    places = ["app1 api.test", "app1 x.api.test", "app1 xapi.test", "app2 api.test"]
    requests = {place: ask(f"https://{place.split()[1]}/", app=place.split()[0]) for place in places}
    for request in requests.values():
        keep(cache, request)
    assert cache.purge(app=app, pattern=pattern) == len(places) - len(left)
    assert {place for place in places if body_of(cache, requests[place]) is not None} == left


def test_a_response_under_way_during_a_purge_is_not_kept(cache: ResponseCache) -> None:
    begun = cache.generation
    cache.clear()
    assert not keep(cache, ask(), generation=begun)
    assert keep(cache, ask(), generation=cache.generation)


def test_nothing_shows_in_repr(cache: ResponseCache) -> None:
    request = ask(fields=(("X", "canary"),))
    keep(cache, request, ("X", "canary"), body=b"canary")
    assert "canary" not in repr(request)
    assert "canary" not in repr(cache.lookup(request, ttl=60, now=0))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["keep", "ask", "purge"]), st.integers(0, 7), st.integers(0, 900), st.integers(0, 30)
        ),
        max_size=60,
    )
)
def test_the_cache_against_a_plain_model(steps: list[tuple[str, int, int, int]]) -> None:
    cache = ResponseCache(4, 2000)
    model: OrderedDict[int, tuple[int, int, bytes]] = OrderedDict()  # number → (size, expires, body)
    now = 0
    for what, number, size, passed in steps:
        now += passed
        request = ask(f"https://h{number}.test/")
        if what == "purge":
            assert cache.purge(pattern=f"h{number}.test") == (model.pop(number, None) is not None)
        elif what == "ask":
            expected = model.get(number)
            if expected is not None and now >= expected[1]:
                del model[number]
                expected = None
            if expected is not None:
                model.move_to_end(number)
            assert body_of(cache, request, now=now) == (expected[2] if expected else None)
        else:
            body = bytes([number]) * size
            cost = ENTRY_OVERHEAD + len("app1GEThttpsh0.test/") + size
            assert keep(cache, request, body=body, now=now)
            model.pop(number, None)
            model[number] = (cost, now + 60, body)
            while len(model) > 4 or sum(entry[0] for entry in model.values()) > 2000:
                model.popitem(last=False)
        stats = cache.stats()
        assert stats.items == len(model)
        assert stats.bytes == sum(entry[0] for entry in model.values())
