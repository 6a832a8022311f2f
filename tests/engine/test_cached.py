"""Both engines with a cache: what is answered without the network, what is validated, and one trip for many callers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from tests.cachesuite.case import Ask
from tests.cachesuite.play import PRIVATE, Player
from tests.engine.drivers import CANARY, Clock, Driver
from tests.fakes.calls import LIMITS, Answer, policy, rule, secret

from fazt.core.cache.flight import Flight, Flights
from fazt.core.cache.memory import MemoryStore
from fazt.core.cache.responses import ResponseCache
from fazt.core.cache.storing import FUNCTIONS, CacheRules
from fazt.core.call import Options, Response
from fazt.core.profiles import client
from fazt.core.retry import RetryPolicy
from fazt.errors import FaztError, Reason
from fazt.stores.sqlite.responses import SqliteResponses

URL = "https://api.example.com/v1/items?page=1"
GRANTED = policy(rule("api.example.com"), rule("other.example.com"), secrets=[secret("KEY")])
FRESH = ("cache-control", "max-age=60")
WALL = 1_700_000_000.0

Make = Callable[..., "Cached"]


class Cached(Driver):
    """A driver whose engine has a cache, and whose clock moves both kinds of seconds."""

    def __init__(self, kind: str, *answers: Answer, clock: Clock, **options: Any) -> None:
        rules = options.pop("rules", PRIVATE)
        self.cache = ResponseCache(MemoryStore(1 << 20, salt=b"s" * 16), rules, credentials=True)
        options.setdefault("cache", self.cache)
        super().__init__(
            kind,
            options.pop("held", GRANTED),
            *answers,
            clock=clock,
            wall=lambda: WALL + clock.now,
            **options,
        )

    def settle(self) -> None:
        """Wait for what is asked in the background."""
        if self.kind == "async":
            while self.engine._tasks:
                self.loop.run_until_complete(asyncio.wait(set(self.engine._tasks)))
        for thread in threading.enumerate():
            if thread.name == "fazt-refresh":
                thread.join()

    @property
    def uses(self) -> list[str]:
        return [row.cache for row in self.ledger.rows]

    def heads(self) -> list[str]:
        return [head.decode("latin-1").lower() for _, head, _ in self.wire.sent]


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(kind: str) -> Iterator[Make]:
    made: list[Cached] = []

    def build(*answers: Answer, **options: Any) -> Cached:
        made.append(Cached(kind, *answers, clock=Clock(), **options))
        return made[-1]

    yield build
    for driver in made:
        driver.settle()
        driver.close()


def mode(name: Any, **more: Any) -> Options:
    return Options(cache=name, **more)


# --- hits, misses, validation


def test_a_fresh_response_needs_no_network(make: Make) -> None:
    driver = make(Answer(headers=(FRESH, ("x", "1")), body=b"one"), Answer(body=b"two"))
    driver.call(URL)
    driver.clock.now += 5
    response = driver.call(URL)
    assert (response.status, response.body, response.cache, response.method) == (200, b"one", "hit", "GET")
    assert response.headers == (FRESH, ("x", "1"), ("age", "5"))
    assert driver.uses == ["miss", "hit"]
    row = driver.ledger.rows[1]
    assert (row.status, row.response_bytes, row.attempt_ts, row.ttfb_ms) == (200, 3, None, None)
    assert len(driver.wire.sent) == 1


def test_a_stale_one_is_validated_and_fresh_again(make: Make) -> None:
    driver = make(
        Answer(headers=(FRESH, ("etag", '"1"')), body=b"one"),
        Answer(304, (FRESH, ("etag", '"1"'), ("x", "new")), b""),
    )
    driver.call(URL)
    driver.clock.now += 61
    response = driver.call(URL)
    assert (response.status, response.body, response.cache) == (200, b"one", "revalidated")
    assert ("x", "new") in response.headers
    assert 'if-none-match: "1"' in driver.heads()[1]
    assert driver.ledger.rows[1].status == 200
    assert driver.wire.made[1].ended == ["release"]
    assert driver.call(URL).cache == "hit"
    assert len(driver.wire.sent) == 2


def test_a_304_of_something_else_is_asked_about_again(make: Make) -> None:
    driver = make(
        Answer(headers=(FRESH, ("etag", '"1"')), body=b"one"),
        Answer(304, (("etag", '"2"'),), b""),
        Answer(headers=(FRESH,), body=b"two"),
    )
    driver.call(URL)
    driver.clock.now += 61
    response = driver.call(URL)
    assert (response.status, response.body, response.cache) == (200, b"two", "miss")
    assert "if-none-match" not in driver.heads()[2]
    assert len(driver.ledger.rows) == 2
    row = driver.ledger.rows[1]
    assert [(trip.status, trip.number) for trip in row.attempts or ()] == [(304, 1)]  # a trip like any other
    assert (row.status, row.number) == (200, 2)


def test_a_changed_one_takes_the_old_ones_place(make: Make) -> None:
    driver = make(
        Answer(headers=(FRESH, ("etag", '"1"')), body=b"one"), Answer(headers=(FRESH, ("etag", '"2"')), body=b"two")
    )
    driver.call(URL)
    driver.clock.now += 61
    assert driver.call(URL).cache == "miss"
    assert driver.call(URL).body == b"two"
    assert driver.cache.stats().items == 1


def test_the_modes(make: Make) -> None:
    driver = make(
        Answer(headers=(FRESH, ("etag", '"1"')), body=b"one"),
        Answer(304, (("etag", '"1"'),), b""),
        Answer(headers=(FRESH,), body=b"two"),
        Answer(headers=(FRESH,), body=b"three"),
    )
    driver.call(URL)
    assert driver.call(URL, options=mode("validate")).cache == "revalidated"
    reloaded = driver.call(URL, options=mode("reload"))
    assert (reloaded.body, reloaded.cache) == (b"two", "miss")
    past = driver.call(URL, options=mode("bypass"))
    assert (past.body, past.cache) == (b"three", "bypass")
    assert driver.call(URL, options=mode("only-if-cached")).body == b"two"
    with pytest.raises(FaztError) as caught:
        driver.call(f"{URL}&more=1", options=mode("only-if-cached"))
    assert caught.value.reason is Reason.NOT_CACHED
    assert driver.ledger.rows[-1].reason == "not_cached"
    assert len(driver.wire.sent) == 4


def test_only_if_cached_without_a_cache_is_refused_too(make: Make) -> None:
    driver = make(cache=None)
    with pytest.raises(FaztError) as caught:
        driver.call(URL, options=mode("only-if-cached"))
    assert caught.value.reason is Reason.NOT_CACHED
    assert driver.call(URL).cache == ""
    assert driver.wire.sent[0][0].host == "api.example.com"


def test_only_if_cached_as_a_field_of_the_request_is_a_504(make: Make) -> None:
    driver = make()
    response = driver.call(URL, headers=(("Cache-Control", "only-if-cached"),))
    assert (response.status, response.body, response.cache) == (504, b"", "miss")
    assert driver.wire.sent == []


def test_an_unsafe_request_takes_what_it_changes(make: Make) -> None:
    driver = make(Answer(headers=(FRESH,)), Answer(201, ()), Answer(headers=(FRESH,), body=b"new"))
    driver.call(URL)
    assert driver.call(URL, method="POST", body=b"x").cache == "bypass"
    driver.clock.now += 1
    assert driver.call(URL).body == b"new"
    assert driver.uses == ["miss", "bypass", "miss"]


def test_a_grant_that_is_gone_is_not_answered_from_the_store(make: Make) -> None:
    driver = make(Answer(headers=(FRESH,)))
    driver.call(URL)
    driver.engine.policies.current = policy(rule("other.example.com"))
    with pytest.raises(FaztError) as caught:
        driver.call(URL)
    assert caught.value.reason is Reason.HOST_NOT_GRANTED


def test_roles_do_not_share(make: Make) -> None:
    driver = make(Answer(headers=(FRESH,)))
    driver.call(URL, options=Options(role="metadata"))
    assert driver.call(URL, options=Options(role="artifact")).cache == "miss"
    assert driver.call(URL, options=Options(role="metadata")).cache == "hit"


# --- secrets


def test_a_response_to_a_secret_is_kept_scrubbed_and_for_that_secret_alone(make: Make) -> None:
    echo = Answer(headers=(FRESH, ("x", CANARY)), body=CANARY.encode())
    driver = make(echo)
    first = driver.call(URL, auth="KEY")
    again = driver.call(URL, auth="KEY")
    assert (again.cache, again.body, again.headers[1]) == ("hit", first.body, first.headers[1])
    assert CANARY.encode() not in again.body
    assert driver.call(URL).cache == "miss"
    assert driver.wire.sent[0][1].count(CANARY.encode()) == 1


def test_in_functions_what_carries_a_secret_is_not_kept(make: Make) -> None:
    held = policy(rule("api.example.com", cache_ttl=60), secrets=[secret("KEY")])
    driver = make(Answer(), held=held, rules=FUNCTIONS)
    for _ in range(2):
        assert driver.call(URL, auth="KEY").cache == "bypass"
    assert [driver.call(URL).cache for _ in range(2)] == ["miss", "hit"]


def test_in_functions_only_rules_with_a_ttl_are_cached(make: Make) -> None:
    driver = make(Answer(headers=(FRESH,)), rules=FUNCTIONS)
    assert [driver.call(URL).cache for _ in range(2)] == ["", ""]


# --- redirects


def test_a_redirect_that_is_followed_is_not_answered_from_the_store(make: Make) -> None:
    away = Answer(301, (FRESH, ("location", "https://other.example.com/x")))
    driver = make(away, away, Answer(headers=(FRESH,), body=b"there"))
    assert driver.call(URL, options=Options(follow=False)).status == 301
    assert driver.call(URL, options=Options(follow=False)).cache == "hit"
    response = driver.call(URL)
    assert (response.body, response.cache, len(response.redirects)) == (b"there", "miss", 1)
    assert len(driver.wire.sent) == 3


def test_where_a_redirect_leads_is_cached_under_its_own_url(make: Make) -> None:
    away = Answer(302, (("location", "https://other.example.com/x"),))
    driver = make(away, Answer(headers=(FRESH,), body=b"there"), away)
    driver.call(URL)
    again = driver.call(URL)
    assert (again.body, again.cache, again.redirected) == (b"there", "hit", True)
    assert driver.call("https://other.example.com/x").cache == "hit"
    assert len(driver.wire.sent) == 3


# --- streams


def streaming(**more: Any) -> Options:
    return Options(stream=True, **more)


def test_a_stream_is_kept_when_it_has_come_to_its_end(make: Make) -> None:
    driver = make(Answer(headers=(FRESH,), body=b"0123456789"), Answer(body=b"another"))
    stream = driver.open(URL)
    assert driver.cache.stats().items == 0
    assert b"".join(stream.pieces()) == b"0123456789"
    again = driver.open(URL)
    assert again.response.cache == "hit"
    assert again.read() == b"0123456789"
    assert driver.call(URL).body == b"0123456789"
    assert driver.uses == ["miss", "hit", "hit"]


def test_a_stream_read_whole_is_kept(make: Make) -> None:
    driver = make(Answer(headers=(FRESH,), body=b"0123456789"))
    assert driver.open(URL).read() == b"0123456789"
    assert driver.call(URL).body == b"0123456789"
    half = driver.open(f"{URL}&half=1")
    assert half.read_some() + half.read() == b"0123456789"
    assert driver.call(f"{URL}&half=1").cache == "hit"


def test_a_stream_that_is_given_up_is_not_kept(make: Make) -> None:
    driver = make(Answer(headers=(FRESH,), body=b"0123456789"))
    stream = driver.open(URL)
    stream.read_some()
    stream.close()
    assert driver.call(URL).cache == "miss"


def test_a_stream_with_a_secret_is_kept_scrubbed(make: Make) -> None:
    driver = make(Answer(headers=(FRESH,), body=b"<" + CANARY.encode() + b">"))
    body = b"".join(driver.open(URL, auth="KEY", options=streaming()).pieces())
    assert CANARY.encode() not in body
    assert driver.call(URL, auth="KEY").body == body


def test_a_stream_too_large_to_be_kept_keeps_nobody_waiting(make: Make) -> None:
    flights = Flights(threading.Lock())
    driver = make(Answer(headers=(FRESH,), body=b"0123456789"), flights=flights)
    driver.cache.store.configure(max_items=0, max_bytes=6)
    stream = driver.open(URL)
    assert len(flights) == 1
    assert stream.read_some() == b"0123"
    assert len(flights) == 1
    assert stream.read_some() == b"4567"
    assert len(flights) == 0
    assert stream.read() == b"89"


def test_a_stream_of_a_stored_body_needs_no_network(make: Make) -> None:
    driver = make(Answer(headers=(FRESH,), body=b"0123456789"))
    driver.call(URL)
    stream = driver.open(URL)
    assert stream.complete
    assert stream.pieces() == [b"0123456789"]
    assert len(driver.wire.sent) == 1


# --- stale answers


def fails(reason: Reason, *, at: str = "acquire", after: int = 1) -> Callable[[str], None]:
    """Return a step that fails from the given trip on."""
    seen = [0]

    def step(name: str) -> None:
        if name == at:
            seen[0] += 1
            if seen[0] > after:
                raise FaztError(reason, "it fails")

    return step


SIE = ("cache-control", "max-age=60, stale-if-error=100")


@pytest.mark.parametrize("reason", [Reason.CONNECT_FAILED, Reason.DNS_FAILED, Reason.FIRST_BYTE, Reason.PROTOCOL])
def test_a_stale_response_stands_in_for_a_server_that_cannot_be_reached(make: Make, reason: Reason) -> None:
    driver = make(Answer(headers=(SIE,), body=b"one"), step=fails(reason))
    driver.call(URL)
    driver.clock.now += 100
    response = driver.call(URL)
    assert (response.status, response.body, response.cache) == (200, b"one", "stale")
    row = driver.ledger.rows[1]
    assert (row.cache, row.code, row.status, row.detail) == ("stale", None, 200, reason.value)
    assert row.attempts is not None
    assert [(trip.reason, trip.status) for trip in row.attempts] == [(reason.value, None)]
    assert row.attempt_ts is None
    driver.clock.now += 100
    with pytest.raises(FaztError):
        driver.call(URL)


@pytest.mark.parametrize("reason", [Reason.TLS_FAILED, Reason.PRIVATE_ADDRESS, Reason.RESPONSE_HEADERS])
def test_it_hides_no_refusal_and_no_certificate(make: Make, reason: Reason) -> None:
    driver = make(Answer(headers=(SIE,)), step=fails(reason))
    driver.call(URL)
    driver.clock.now += 100
    with pytest.raises(FaztError) as caught:
        driver.call(URL)
    assert caught.value.reason is reason


def test_it_stands_in_for_an_error_of_the_server_too(make: Make) -> None:
    driver = make(Answer(headers=(SIE,), body=b"one"), Answer(503, (), b"sorry"))
    driver.call(URL)
    driver.clock.now += 100
    response = driver.call(URL)
    assert (response.status, response.body, response.cache) == (200, b"one", "stale")
    assert driver.ledger.rows[1].detail == "status 503"
    driver.clock.now += 100
    assert (driver.call(URL).status, driver.open(URL).read()) == (503, b"sorry")


def test_the_body_of_one_trip_is_not_kept_under_the_head_of_another(make: Make) -> None:
    broken = iter([True])

    def step(name: str) -> None:
        if name == "read" and next(broken, False):
            raise FaztError(Reason.PROTOCOL, "the body broke off")

    again = RetryPolicy(attempts=2, base=0.0)
    driver = make(Answer(headers=(FRESH,)), Answer(503, (), b"sorry"), Answer(200, (), b"good"), step=step)
    first = driver.call(URL, options=Options(retry=again))
    assert (first.status, first.body) == (503, b"sorry")
    second = driver.call(URL, options=Options(retry=again))
    assert (second.status, second.body, second.cache) == (200, b"good", "miss")
    assert driver.cache.stats().items == 0


def test_a_stale_response_is_used_while_it_is_validated_in_the_background(make: Make) -> None:
    first = Answer(headers=(("cache-control", "max-age=60, stale-while-revalidate=60"), ("etag", '"1"')), body=b"one")
    driver = make(first, Answer(304, (FRESH, ("etag", '"1"')), b""))
    driver.call(URL)
    driver.clock.now += 90
    response = driver.call(URL)
    assert (response.body, response.cache) == (b"one", "stale")
    driver.settle()
    assert sorted(driver.uses) == ["miss", "revalidated", "stale"]
    assert 'if-none-match: "1"' in driver.heads()[1]
    assert driver.call(URL).cache == "hit"
    assert len({row.call_id for row in driver.ledger.rows}) == 4


def test_without_a_thread_for_it_the_stale_answer_is_given_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Answer(headers=(("cache-control", "max-age=60, stale-while-revalidate=60"),), body=b"one")
    driver = Cached("sync", first, first, clock=Clock())
    driver.call(URL)
    driver.clock.now += 61

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        assert driver.call(URL).cache == "stale"
    assert driver.call(URL).cache == "stale"  # whose validation is not taken to be under way
    driver.settle()
    assert len(driver.wire.sent) == 2
    driver.close()


def test_a_failed_refresh_is_recorded_and_hurts_nobody(make: Make) -> None:
    first = Answer(headers=(("cache-control", "max-age=60, stale-while-revalidate=600"),))
    driver = make(first, step=fails(Reason.CONNECT_FAILED))
    driver.call(URL)
    driver.clock.now += 90
    for _ in range(2):
        assert driver.call(URL).cache == "stale"
        driver.settle()
    assert [row.reason for row in driver.ledger.rows if row.code] == ["connect_failed"] * 2


# --- one trip for many


class Watched(Flights):
    """Flights that tell when so many calls follow."""

    def __init__(self, followers: int) -> None:
        super().__init__(threading.Lock())
        self.followers = followers
        self.full = threading.Event()
        self.led = threading.Event()

    def begin(self, key: Hashable, **more: Any) -> Flight:
        flight = super().begin(key, **more)
        if flight.leader:
            self.led.set()
        else:
            self.followers -= 1
            if self.followers == 0:
                self.full.set()
        return flight


class Crowd:
    """Many callers of one URL at once, through an origin that answers when the test says so."""

    def __init__(self, kind: Any, asks: tuple[Ask, ...], *, callers: int, rules: CacheRules = PRIVATE) -> None:
        self.player = Player(kind, rules)
        self.callers = callers
        self.player.engine.flights = self.flights = Watched(callers - 1)
        self.player.origin.cases["t"] = asks
        self.player.origin.gate = self.flights.full
        self.profile = client(LIMITS)
        self.timeouts: Iterator[float | None] = repeat(None)
        self.gave_up: Callable[[], object] = lambda: None

    def go(self, *, stream: bool = False) -> list[tuple[str, str]]:
        """Return what became of each: use of the cache, and body."""
        player = self.player
        request = player.request("t", number=1, stream=stream)
        if player.loop is not None:
            return player.loop.run_until_complete(self._together(request, stream))
        found: list[tuple[str, str]] = []

        def one(timeout: float | None) -> None:
            if stream:
                opened = player.engine.open(request, profile=self.profile)
                found.append((opened.response.cache, opened.read().decode()))
                return
            try:
                answer = player.engine.call(replace(request, timeout_ms=timeout), profile=self.profile)
            except FaztError as error:
                found.append((error.reason.value, ""))
                self.gave_up()
            else:
                found.append(self._told(answer))

        threads = [threading.Thread(target=one, args=(next(self.timeouts),)) for _ in range(self.callers)]
        for thread in threads:
            thread.start()
            self.flights.led.wait(60)
        for thread in threads:
            thread.join(60)
        return found

    async def _together(self, request: Any, stream: bool) -> list[tuple[str, str]]:
        async def one(timeout: float | None) -> tuple[str, str]:
            engine = self.player.engine
            if stream:
                opened = await engine.open(request, profile=self.profile)
                return opened.response.cache, (await opened.read()).decode()
            try:
                return self._told(await engine.call(replace(request, timeout_ms=timeout), profile=self.profile))
            except FaztError as error:
                self.gave_up()
                return error.reason.value, ""

        return await asyncio.gather(*(one(next(self.timeouts)) for _ in range(self.callers)))

    @staticmethod
    def _told(response: Response) -> tuple[str, str]:
        return response.cache, response.body.decode()

    @property
    def trips(self) -> int:
        return len(self.player.origin.seen["t"])


@pytest.fixture
def crowd(kind: str) -> Iterator[Callable[..., Crowd]]:
    made: list[Crowd] = []

    def build(*fields: tuple[str, str], callers: int = 100) -> Crowd:
        made.append(Crowd(kind, (Ask(fields),), callers=callers))
        return made[-1]

    yield build
    for crowd in made:
        crowd.player.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_hundred_misses_at_once_make_one_trip(crowd: Callable[..., Crowd], stream: bool) -> None:
    many = crowd(("Cache-Control", "max-age=60"))
    found = many.go(stream=stream)
    assert many.trips == 1
    assert sorted(use for use, _ in found) == ["hit"] * 99 + ["miss"]
    assert {body for _, body in found} == {"the body of this case"}


def test_what_may_not_be_shared_goes_on_alone_and_all_at_once(crowd: Callable[..., Crowd]) -> None:
    many = crowd(("Cache-Control", "no-store"), callers=8)
    # nobody but the first is answered before all seven others have asked
    many.player.origin.together = threading.Barrier(7)
    found = many.go()
    assert many.trips == 8
    assert {use for use, _ in found} == {"miss"}


def test_a_stream_that_is_given_up_leaves_the_way_to_one_and_not_to_all(crowd: Callable[..., Crowd]) -> None:
    many = crowd(FRESH, callers=5)
    player, flights = many.player, many.flights
    player.origin.gate = threading.Event()
    player.origin.gate.set()
    engine, request = player.engine, player.request("t", number=1)
    streamed = player.request("t", number=1, stream=True)
    found: list[tuple[str, str]] = []

    def call() -> None:
        found.append(Crowd._told(engine.call(request, profile=many.profile)))

    async def main() -> None:
        stream = await engine.open(streamed, profile=many.profile)
        tasks = [asyncio.create_task(engine.call(request, profile=many.profile)) for _ in range(4)]
        while not flights.full.is_set():
            await asyncio.sleep(0)
        await stream.aclose()
        found.extend(Crowd._told(answer) for answer in await asyncio.gather(*tasks))

    if player.loop is not None:
        player.loop.run_until_complete(main())
    else:
        stream = engine.open(streamed, profile=many.profile)
        followers = [threading.Thread(target=call) for _ in range(4)]
        for thread in followers:
            thread.start()
        flights.full.wait(60)
        stream.close()
        for thread in followers:
            thread.join(60)
    assert sorted(found) == [("hit", "the body of this case")] * 3 + [("miss", "the body of this case")]
    assert many.trips == 2
    assert len(flights) == 0


def test_those_who_wait_go_on_when_the_first_one_fails(make: Make) -> None:
    flights = Flights(threading.Lock())
    driver = make(Answer(headers=(FRESH,)), step=fails(Reason.CONNECT_FAILED, after=0), flights=flights)
    with pytest.raises(FaztError):
        driver.call(URL)
    assert len(flights) == 0
    driver.wire.step = lambda _name: None
    assert driver.call(URL).cache == "miss"
    assert len(flights) == 0


def test_whoever_asks_for_a_new_answer_waits_for_nobody(make: Make) -> None:
    flights = Flights(threading.Lock())
    driver = make(Answer(headers=(FRESH,)), flights=flights)
    lookup = driver.open(URL)  # the first: its answer is not read yet
    assert len(flights) == 1
    assert driver.call(URL, options=mode("reload")).cache == "miss"
    lookup.close()
    assert len(flights) == 0


def test_without_a_deadline_a_follower_waits_as_long_as_it_takes(crowd: Callable[..., Crowd]) -> None:
    many = crowd(("Cache-Control", "max-age=60"), callers=5)
    many.profile = replace(client(LIMITS), call_ms=0.0)
    assert sorted(use for use, _ in many.go()) == ["hit"] * 4 + ["miss"]
    assert many.trips == 1


def test_a_follower_gives_up_at_its_own_deadline(crowd: Callable[..., Crowd]) -> None:
    many = crowd(("Cache-Control", "max-age=60"), callers=2)
    many.player.origin.gate = threading.Event()  # the first is answered when the second has given up
    many.profile = replace(client(LIMITS), call_ms=60_000.0)
    many.timeouts = iter((None, 50.0))
    many.gave_up = many.player.origin.gate.set
    found = many.go()
    assert sorted(found) == [("miss", "the body of this case"), ("total", "")]
    assert many.trips == 1


def test_a_first_caller_that_is_cancelled_leaves_the_way_to_the_next() -> None:
    many = Crowd("async", (Ask((("Cache-Control", "max-age=60"),)),), callers=3)
    player = many.player
    player.origin.gate = threading.Event()

    async def main() -> list[str]:
        engine, request = player.engine, player.request("t", number=1)
        calls = [asyncio.create_task(engine.call(request, profile=player.profile)) for _ in range(3)]
        while len(player.origin.seen["t"]) < 1 or not many.flights.full.is_set():
            await asyncio.sleep(0)
        calls[0].cancel()
        player.origin.gate.set()
        done = await asyncio.gather(*calls, return_exceptions=True)
        return [one.body.decode() if isinstance(one, Response) else type(one).__name__ for one in done]

    try:
        assert player.loop is not None
        assert player.loop.run_until_complete(main()) == ["CancelledError", *["the body of this case"] * 2]
        assert len(many.flights) == 0
        assert len(player.origin.seen["t"]) == 2  # the second caller's answer is the third one's too
    finally:
        player.close()


def test_a_store_on_disk_keeps_streams_and_takes_changes(kind: Any, tmp_path: Path) -> None:
    store = SqliteResponses(tmp_path / "cache", max_bytes=1 << 20)
    driver = Cached(
        kind,
        Answer(headers=(FRESH, ("etag", '"1"')), body=b"0123456789"),
        Answer(304, (("etag", '"1"'),), b""),
        Answer(headers=(("etag", '"1"'), FRESH)),
        Answer(204, ()),
        clock=Clock(),
        cache=ResponseCache(store, credentials=True),
    )
    try:
        assert driver.open(URL).read() == b"0123456789"
        assert driver.call(URL).cache == "hit"
        driver.clock.now += 61
        assert driver.call(URL).cache == "revalidated"
        assert driver.call(URL, method="HEAD", options=mode("reload")).cache == "miss"
        assert driver.call(URL).cache == "hit"
        driver.call(URL, method="DELETE")
        assert store.kept().items == 0
    finally:
        driver.close()
        store.close()
