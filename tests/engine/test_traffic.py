"""Both engines under limits, breakers and places: every trip passes them and ends them once (C.8-C.11)."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.cachesuite.play import PRIVATE
from tests.engine.drivers import Clock, Driver
from tests.fakes.calls import LIMITS, Answer, policy, rule

from fazt.core.breaker import Key
from fazt.core.cache.memory import MemoryStore
from fazt.core.cache.responses import ResponseCache
from fazt.core.call import Options
from fazt.core.profiles import client
from fazt.core.retry import RetryPolicy
from fazt.core.traffic import Traffic
from fazt.core.traffic_config import TrafficConfig
from fazt.errors import FaztError, Reason, StaleConnectionError

URL = "https://api.example.com/v1/items"
HOST = "api.example.com"
GRANTED = policy(rule(HOST), rule("other.example.com"))
RETRY = RetryPolicy(attempts=4, base=1.0)
MANY = [Answer(503)] * 40

Make = Callable[..., Driver]


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()

    def blocking(seconds: float) -> None:
        if seconds:  # the asynchronous engine lets others run where the blocking one does nothing
            made.sleep(seconds)

    async def sleep(seconds: float) -> None:
        blocking(seconds)

    monkeypatch.setattr("fazt.engine.sync._sleep", blocking)
    monkeypatch.setattr("fazt.engine.aio._sleep", sleep)
    return made


@pytest.fixture
def make(kind: str, clock: Clock) -> Iterator[Make]:
    drivers: list[Driver] = []

    def build(*answers: Answer, step: Any = None, **table: Any) -> Driver:
        traffic = Traffic(TrafficConfig.of(table), lock=threading.Lock())
        driver = Driver(kind, GRANTED, *answers, clock=clock, step=step, traffic=traffic)
        drivers.append(driver)
        return driver

    yield build
    for driver in drivers:
        driver.close()


def traffic_of(driver: Driver) -> Traffic:
    found: Traffic = driver.engine.traffic
    return found


def stats(driver: Driver) -> dict[str, Any]:
    return traffic_of(driver).stats(driver.clock.now)


def circuit(driver: Driver) -> dict[str, Any]:
    (only,) = stats(driver)["breakers"]
    found: dict[str, Any] = only
    return found


def refused(driver: Driver, url: str = URL, **fields: Any) -> FaztError:
    with pytest.raises(FaztError) as caught:
        driver.call(url, **fields)
    assert driver.ledger.rows[-1].reason == caught.value.reason.value
    return caught.value


def failing(what: str, *errors: FaztError) -> Callable[[str], None]:
    left = list(errors)

    def step(name: str) -> None:
        if name == what and left:
            raise left.pop(0)

    return step


# ---- breakers


def test_D32_calls_pass_with_a_breaker_and_without_trouble(make: Make) -> None:
    driver = make(breaker=True)
    for _ in range(10):
        assert driver.call(URL).status == 200
    assert (circuit(driver)["state"], circuit(driver)["failures"]) == ("closed", 0)
    assert {row.breaker for row in driver.ledger.rows} == {"closed"}


def test_D34_each_trip_counts_once_whatever_becomes_of_its_body(make: Make) -> None:
    driver = make(*MANY, breaker={"fail_max": 6})
    for n in range(3):
        driver.call(URL)
        assert circuit(driver)["failures"] == n + 1
    driver.open(URL).read()
    driver.open(URL).close()
    assert circuit(driver)["failures"] == 5
    driver.call(URL, options=Options(retry=RETRY))
    assert len(driver.wire.sent) == 6
    assert circuit(driver)["state"] == "open"


def test_REQ_C8_an_open_breaker_is_not_tried_again_and_the_last_answer_is_handed_out(make: Make) -> None:
    driver = make(*MANY, breaker={"fail_max": 2})
    response = driver.call(URL, options=Options(retry=RETRY))
    assert (response.status, len(driver.wire.sent)) == (503, 2)
    error = refused(driver, options=Options(retry=RETRY))
    assert (error.reason, len(driver.wire.sent)) == (Reason.BREAKER_OPEN, 2)
    assert error.retry_after == pytest.approx(60.0)
    assert len(driver.clock.slept) == 1
    (row,) = driver.ledger.rows[1:]
    assert (row.attempts, row.attempt_ts) == (None, None)  # no trip was made


def test_REQ_C10_a_connection_that_was_closed_before_its_time_says_nothing(make: Make) -> None:
    sends = 0

    def step(name: str) -> None:
        nonlocal sends
        sends += name == "send"
        if name == "send" and sends % 2:
            raise StaleConnectionError(sent=True)

    driver = make(step=step, breaker={"fail_max": 1})
    for _ in range(5):
        assert driver.call(URL).status == 200
    assert (sends, circuit(driver)["state"], circuit(driver)["failures"]) == (10, "closed", 0)


def test_REQ_C10_what_such_a_connection_is_replaced_by_counts(make: Make) -> None:
    sends = 0

    def step(name: str) -> None:
        nonlocal sends
        sends += name == "send"
        if name == "send" and sends % 2:
            raise StaleConnectionError(sent=True)

    driver = make(*MANY, step=step, breaker={"fail_max": 2})
    driver.call(URL)
    assert circuit(driver)["failures"] == 1
    driver.call(URL)
    assert circuit(driver)["state"] == "open"


@pytest.mark.parametrize("retry", [False, True])
def test_D48_a_stale_connection_keeps_no_trial(make: Make, clock: Clock, retry: bool) -> None:
    stale: list[FaztError] = []
    driver = make(Answer(503), Answer(), step=failing("send"), breaker={"fail_max": 1}, retry=retry)
    driver.call(URL, options=Options(retry=RetryPolicy(attempts=1)))
    clock.now += 60
    stale += [StaleConnectionError(sent=True)]
    driver.wire.step = lambda name: _raise(stale.pop()) if name == "send" and stale else None
    headers = (("idempotency-key", "1"),) if retry else ()
    if retry:  # a POST that is not sent again at once, but after a pause
        assert driver.call(URL, method="POST", headers=headers).status == 200
    else:
        refused(driver, method="POST")
        assert driver.call(URL).status == 200
    assert driver.ledger.rows[-1].breaker == "half_open"
    assert circuit(driver)["state"] == "closed"


def _raise(error: FaztError) -> None:
    raise error


@pytest.mark.parametrize(
    ("what", "reason", "failures"),
    [
        ("acquire", Reason.DNS_FAILED, 1),
        ("acquire", Reason.CONNECT, 1),
        ("acquire", Reason.TLS_FAILED, 1),
        ("head", Reason.FIRST_BYTE, 1),
        ("head", Reason.PROTOCOL, 1),
        ("acquire", Reason.PRIVATE_ADDRESS, 0),
        ("acquire", Reason.POOL_WAIT, 0),
        ("head", Reason.RESPONSE_HEADERS, 0),
        ("read", Reason.BODY, 0),
        ("read", Reason.RESPONSE_BODY, 0),
    ],
)
def test_what_counts_as_a_failure_of_the_host(make: Make, what: str, reason: Reason, failures: int) -> None:
    driver = make(step=failing(what, FaztError(reason, "no")), breaker=True)
    assert refused(driver).reason is reason
    assert circuit(driver)["failures"] == failures


def test_REQ_C10_a_trial_goes_back_however_its_call_ends(make: Make, clock: Clock) -> None:
    def step(name: str) -> None:
        if name == ends_at[0]:
            raise ends_with[0]

    ends_at = [""]
    ends_with: list[BaseException] = [Exception()]
    driver = make(Answer(503), Answer(404), Answer(), step=step, breaker={"fail_max": 1})
    driver.call(URL)
    clock.now += 60
    for where, error in (
        ("acquire", FaztError(Reason.PRIVATE_ADDRESS, "no")),
        ("send", KeyboardInterrupt()),
        ("head", RuntimeError("a bug")),
        ("head", FaztError(Reason.RESPONSE_HEADERS, "no")),
    ):
        ends_at[0], ends_with[0] = where, error
        with pytest.raises(type(error) if not isinstance(error, RuntimeError) else FaztError):
            driver.call(URL)
        assert driver.ledger.rows[-1].breaker == "half_open", where
    ends_at[0] = ""
    assert driver.call(URL).status == 404  # neutral
    assert driver.call(URL).status == 200
    assert circuit(driver)["state"] == "closed"


def test_every_hop_is_a_trip_of_its_own_host(make: Make) -> None:
    there = Answer(302, (("location", "https://other.example.com/x"),))
    driver = make(there, Answer(503), breaker={"fail_max": 1}, rate="1/minute", wait=0)
    assert driver.call(URL).status == 503
    states = {one["name"]: one["state"] for one in stats(driver)["breakers"]}
    assert (states.get(HOST, "closed"), states["other.example.com"]) == ("closed", "open")
    assert {one["name"]: one["attempts"] for one in stats(driver)["limits"]} == {HOST: 1, "other.example.com": 1}
    assert refused(driver, "https://other.example.com/").reason is Reason.BREAKER_OPEN


def test_D47_a_429_with_retry_after_stops_other_calls_too(make: Make, clock: Clock) -> None:
    driver = make(Answer(429, (("retry-after", "20"),)), Answer(), breaker={"failures": [500]})
    assert driver.call(URL).status == 429
    error = refused(driver)
    assert (error.reason, error.retry_after) == (Reason.BREAKER_OPEN, 20.0)
    clock.now += 20
    assert driver.call(URL).status == 200


def test_D37_a_retry_waits_as_long_as_the_breaker_wants_and_passes_it(make: Make, clock: Clock) -> None:
    driver = make(Answer(503, (("retry-after", "7"),)), Answer(), breaker=True, retry=True)
    assert driver.call(URL).status == 200
    assert clock.slept == [7.0]
    assert len(driver.ledger.rows) == 1


# ---- rates


def test_REQ_C8_every_attempt_takes_a_token(make: Make, clock: Clock) -> None:
    driver = make(*MANY, rate="2/10second", wait=30, retry={"base": 0.0})
    assert driver.call(URL).status == 503
    assert len(driver.wire.sent) == 4
    assert clock.slept == [10.0]  # the third waits for its turn, the fourth has one
    (row,) = driver.ledger.rows
    assert row.waited_ms == 10_000.0


def test_a_retry_whose_turn_comes_too_late_hands_out_the_answer(make: Make) -> None:
    driver = make(*MANY, rate="1/hour", retry={"base": 0.0})
    assert driver.call(URL).status == 503
    assert len(driver.wire.sent) == 1
    assert refused(driver).reason is Reason.HOST_RATE


def test_D43_the_calls_of_arxiv_are_three_seconds_apart(make: Make, clock: Clock) -> None:
    driver = make(hosts={HOST: {"rate": "1/3second"}})
    for _ in range(4):
        driver.call(URL)
    assert clock.slept == [3.0] * 3


def test_a_refusal_of_the_policy_and_a_wait_in_vain_cost_no_token(make: Make) -> None:
    driver = make(
        step=failing("acquire", FaztError(Reason.PRIVATE_ADDRESS, "no"), FaztError(Reason.POOL_WAIT, "no")),
        rate="1/hour",
        wait=0,
    )
    refused(driver)
    refused(driver)
    assert driver.call(URL).status == 200
    assert refused(driver).reason is Reason.HOST_RATE


def test_a_call_that_is_given_up_after_it_was_sent_has_spent_its_token(make: Make) -> None:
    def step(name: str) -> None:
        if name == "head":
            raise KeyboardInterrupt

    driver = make(step=step, rate="1/hour", wait=0)
    with pytest.raises(KeyboardInterrupt):
        driver.call(URL)
    assert refused(driver).reason is Reason.HOST_RATE


def test_REQ_C9_head_is_free_and_a_role_has_its_own_rate(make: Make) -> None:
    driver = make(rate="2/hour", wait=0, roles={"artifact": {"rate": "1/hour", "wait": 0}})
    for _ in range(3):
        driver.call(URL, method="HEAD")
    driver.call(URL, options=Options(role="artifact"))
    assert refused(driver, options=Options(role="artifact")).reason is Reason.HOST_RATE
    assert driver.call(URL).status == 200


def test_after_waiting_for_its_turn_a_call_asks_the_breaker_again(make: Make, clock: Clock) -> None:
    driver = make(rate="1/10second", breaker=True)
    driver.call(URL)
    slept = clock.sleep

    def sleep(seconds: float) -> None:
        slept(seconds)
        traffic_of(driver).open_circuit(host=HOST, seconds=60, now=clock.now)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("fazt.engine.sync._sleep", sleep)

        async def asleep(seconds: float) -> None:
            sleep(seconds)

        patched.setattr("fazt.engine.aio._sleep", asleep)
        assert refused(driver).reason is Reason.BREAKER_OPEN
    assert len(driver.wire.sent) == 1


def test_REQ_C9_REQ_C10_a_cache_hit_takes_no_token_no_place_and_says_nothing_to_the_breaker(
    kind: str, clock: Clock
) -> None:
    kept = Answer(200, (("cache-control", "max-age=600"),), b"kept")
    traffic = Traffic(TrafficConfig.of({"rate": "2/hour", "wait": 0, "concurrency": 1, "breaker": {"fail_max": 2}}))
    cache = ResponseCache(MemoryStore(1 << 20, salt=b"s" * 16), PRIVATE, credentials=True)
    driver = Driver(kind, GRANTED, kept, *MANY, clock=clock, traffic=traffic, cache=cache)
    try:
        driver.call(URL)
        driver.call(f"{URL}/other")  # a failure
        stream = driver.open("https://other.example.com/")  # of another host
        for _ in range(5):
            assert driver.call(URL).body == b"kept"
        stream.close()
        found = {one["name"]: one["failures"] for one in stats(driver)["breakers"]}
        assert found[HOST] == 1  # the hits are no successes
        assert {one["name"]: one["attempts"] for one in stats(driver)["limits"]}[HOST] == 2
        assert [row.cache for row in driver.ledger.rows].count("hit") == 5
        assert refused(driver, f"{URL}/more").reason is Reason.HOST_RATE
    finally:
        driver.close()


def test_the_connection_and_the_place_go_back_before_a_retry_sleeps(make: Make, clock: Clock) -> None:
    driver = make(Answer(503, (("retry-after", "5"),)), Answer(), concurrency=1, retry=True)
    held: list[tuple[list[str], int]] = []
    slept = clock.sleep

    def sleep(seconds: float) -> None:
        held.append((driver.wire.made[0].ended, traffic_of(driver).waitlist.in_flight(Key("host", HOST))))
        slept(seconds)

    async def asleep(seconds: float) -> None:
        sleep(seconds)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("fazt.engine.sync._sleep", sleep)
        patched.setattr("fazt.engine.aio._sleep", asleep)
        assert driver.call(URL).status == 200
    assert held == [(["release"], 0)]


# ---- services


def test_D55_a_service_has_retries_rate_and_breaker_of_its_own(make: Make, clock: Clock) -> None:
    driver = make(
        *MANY,
        services={
            "crossref": {
                "retry": {"attempts": 2, "base": 0.0},
                "rate": {"capacity": 3, "burst": 0, "per_second": 0.1},
                "breaker": {"fail_max": 4},
            }
        },
    )
    service = Options(service="crossref")
    driver.call(URL, options=service)
    assert (len(driver.wire.sent), clock.slept) == (2, [])
    driver.call(URL, options=service)
    assert (len(driver.wire.sent), clock.slept) == (4, [10.0])  # a token for each attempt, not for each call
    assert refused(driver, options=service).reason is Reason.BREAKER_OPEN
    driver.call(URL)  # no part of the service: tried once
    assert len(driver.wire.sent) == 5
    assert [row.service for row in driver.ledger.rows] == ["crossref"] * 3 + [""]


def test_D35_D55_a_stream_passes_retries_breaker_and_rate_before_its_body(make: Make, clock: Clock) -> None:
    driver = make(
        Answer(503), Answer(503), Answer(200, (), b"whole"), rate="2/10second", breaker={"fail_max": 3}, retry=True
    )
    stream = driver.open(URL)
    assert stream.response.status == 200
    assert stream.read() == b"whole"
    assert len(driver.wire.sent) == 3
    (row,) = driver.ledger.rows
    assert (row.number, [trip.status for trip in row.attempts or ()]) == (3, [503, 503])
    assert circuit(driver)["failures"] == 0
    assert sum(clock.slept) >= 10.0 - 1e-6


# ---- places


def test_REQ_C9_D45_a_place_is_held_until_the_body_is_closed(make: Make) -> None:
    driver = make(concurrency=2, wait=0)
    streams = [driver.open(URL) for _ in range(2)]
    assert refused(driver).reason is Reason.POOL_WAIT
    assert driver.call("https://other.example.com/").status == 200
    streams[0].read()
    assert driver.call(URL).status == 200
    streams[1].close()
    assert traffic_of(driver).waitlist.in_flight(Key("host", HOST)) == 0


def test_a_place_goes_back_when_a_call_fails_or_is_refused(make: Make) -> None:
    errors = [FaztError(Reason.CONNECT_FAILED, "no"), FaztError(Reason.PRIVATE_ADDRESS, "no")]
    driver = make(*MANY, step=failing("acquire", *errors), concurrency=1, wait=0, breaker={"fail_max": 2}, retry=True)
    refused(driver, options=Options(retry=RetryPolicy(attempts=1, connect=1)))
    refused(driver)
    assert driver.call(URL).status == 503
    assert refused(driver).reason is Reason.BREAKER_OPEN
    assert traffic_of(driver).waitlist.lines() == {}


def test_a_place_passes_over_whoever_waited_on_a_loop_that_is_over(clock: Clock) -> None:
    traffic = Traffic(TrafficConfig.of({"concurrency": 1, "wait": 60}), lock=threading.Lock())
    here = Driver("sync", GRANTED, *MANY, clock=clock, traffic=traffic)
    gone = Driver("async", GRANTED, *MANY, clock=clock, traffic=traffic)
    stream = here.open(URL)
    task = gone.loop.create_task(gone.engine.call(gone.request(URL), profile=client(LIMITS)))
    while traffic.stats(clock.now)["places"][0]["waiting"] != 1:
        gone.loop.run_until_complete(asyncio.sleep(0))
    gone.loop.close()
    stream.close()
    assert traffic.waitlist.lines() == {}
    assert here.call(URL).status == 503
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # on purpose
    here.close()


def test_a_stream_that_nobody_holds_any_more_gives_its_place_back(make: Make) -> None:
    driver = make(concurrency=1, wait=0)
    stream = driver.open(URL)
    del stream
    gc.collect()
    driver.call("https://other.example.com/")  # the next call ends what the collector must not
    assert driver.call(URL).status == 200


def test_one_record_for_each_call_under_every_limit(make: Make) -> None:
    driver = make(*MANY, rate="5/second", wait=0, concurrency=1, breaker={"fail_max": 3}, retry={"attempts": 2})
    for _ in range(6):
        try:
            driver.call(URL)
        except FaztError as error:
            assert error.call_id == driver.ledger.rows[-1].call_id
    assert len(driver.ledger.rows) == 6
