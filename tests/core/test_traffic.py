"""Rates, circuits, places and retries behind one door, as an engine uses them (C.8-C.11)."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from tests.core.pacing import FULL, HOST, go, refused, traffic

from fazt.core.breaker import NONE, Deadlines, Key
from fazt.core.retry import Again, RetryPolicy
from fazt.core.services import RETRY
from fazt.core.traffic import Pass, Traffic
from fazt.core.traffic_config import TrafficConfig
from fazt.errors import Code, FaztError, Reason

# ---- retries


def test_D37_the_wait_that_a_retry_is_told_is_enough_for_the_breaker() -> None:
    given = traffic(breaker=True, retry=True)
    policy = given.retry_for("", None)
    assert policy is not None
    now = 1e6 + 1 / 3
    attempt = given.enter(HOST, now=now)
    attempt.settle(status=429, retry_after=7.0, now=now)
    step = policy.decide(attempt=1, method="GET", status=429, retry_after=7.0, draw=0.9)
    assert isinstance(step, Again)
    assert not given.closed_for(HOST, now=now + 6.9)
    assert given.closed_for(HOST, now=now + step.delay)
    go(given, now + step.delay)


def test_whose_retries_hold() -> None:
    own = RetryPolicy(attempts=9)
    given = traffic(retry={"attempts": 2}, services={"a": True, "b": {"retry": False}})
    assert given.retry_for("", None) == RetryPolicy(attempts=2)
    assert given.retry_for("unknown", None) == RetryPolicy(attempts=2)
    assert given.retry_for("a", None) == RETRY
    assert given.retry_for("b", None) is None
    assert given.retry_for("a", own) is own
    assert Traffic().retry_for("", None) is None


def test_a_service_has_a_read_timeout_of_its_own() -> None:
    given = traffic(services={"a": {"read_timeout": 90}, "b": True})
    assert [given.read_timeout_for(name) for name in ("a", "b", "c", "")] == [90.0, None, None, None]


# ---- by hand, and with other processes


class Others:
    """What other processes tell, and what they are told."""

    def __init__(self) -> None:
        self.news: list[tuple[Key, Deadlines]] = []
        self.told: list[tuple[Key, Deadlines | None, Deadlines]] = []

    def due(self, now: float) -> bool:
        return True

    def changed(self, now: float) -> Iterable[tuple[Key, Deadlines]]:
        news, self.news = self.news, []
        return news

    def publish(self, key: Key, before: Deadlines | None, after: Deadlines, now: float) -> None:
        self.told.append((key, before, after))


def test_by_hand_without_any_breaker_configured() -> None:
    given = Traffic()
    given.open_circuit(host=HOST, seconds=30, now=0.0, reason="they are moving")
    assert not given.idle
    error = refused(given, 10.0)
    assert error.retry_after == 20.0
    assert "they are moving" in (error.detail or "")
    assert "they are moving" not in error.message
    assert given.stats(10.0)["breakers"] == [
        {
            "kind": "host",
            "name": HOST,
            "role": "",
            "state": "open",
            "cause": "manual",
            "remainingMs": 20000,
            "failures": 0,
            "reason": "they are moving",
        }
    ]
    given.close_circuit(host=HOST, now=10.0)
    go(given, 10.0)


def test_by_hand_for_a_role_or_a_service() -> None:
    given = traffic(breaker=True)
    given.open_circuit(host=HOST, role="artifact", seconds=30, now=0.0)
    given.open_circuit(service="s", seconds=30, now=0.0)
    refused(given, 0.0, role="artifact")
    refused(given, 0.0, service="s")
    assert go(given, 0.0, role="metadata").state == "closed"
    assert go(given, 30.0, role="artifact", service="s").state == "closed"


def test_what_other_processes_tell_is_heard_and_what_changes_is_told() -> None:
    others = Others()
    given = Traffic(TrafficConfig.of({"breaker": {"fail_max": 1}}), shared=others)
    others.news = [(Key("host", HOST), Deadlines(manual=30.0, reason="x")), (Key("service", "s"), Deadlines(open=50.0))]
    refused(given, 0.0)
    assert refused(given, 0.0, host="other.test", service="s").retry_after == 50.0
    others.news = [(Key("host", HOST), NONE), (Key("host", "never-heard-of.test"), NONE)]
    go(given, 1.0, 503)
    assert others.told == [(Key("host", HOST), NONE, Deadlines(open=61.0))]
    go(given, 61.0)
    assert others.told[1:] == [(Key("host", HOST), Deadlines(open=61.0), NONE)]
    go(given, 62.0, 200)
    go(given, 62.0, 404)
    given.close_circuit(host=HOST, now=62.0)
    assert others.told[2:] == [(Key("host", HOST), None, NONE)]
    assert not Traffic(shared=others).idle


# ---- places


def test_REQ_C9_a_place_is_held_until_the_body_is_closed() -> None:
    given = traffic(concurrency=2, wait=5)
    woken: list[int] = []
    held = [given.place(HOST, wake=lambda: None) for _ in range(2)]
    assert all(place is not None and place.granted for place in held)
    waiting = given.place(HOST, wake=lambda: woken.append(1))
    assert waiting is not None
    assert (waiting.granted, waiting.patience) == (False, 5.0)
    go(given, 0.0)  # a settled head gives no place back
    assert not waiting.granted
    assert held[0] is not None
    held[0].leave()
    assert (woken, waiting.granted) == ([1], True)
    assert given.stats(0.0)["places"] == [{"host": HOST, "role": "", "held": 2, "waiting": 0, "limit": 2}]
    other = given.place("other.test", wake=lambda: None)
    assert other is not None
    assert other.granted


def test_places_of_a_role_are_places_of_the_host_too() -> None:
    given = traffic(concurrency=3, wait=9, roles={"artifact": {"concurrency": 1, "wait": 4}})
    first, second = (given.place(HOST, role="artifact", wake=lambda: None) for _ in range(2))
    assert first is not None
    assert second is not None
    assert (first.granted, second.granted, second.patience) == (True, False, 4.0)
    assert [given.waitlist.in_flight(Key("host", HOST, role)) for role in ("", "artifact")] == [1, 1]
    first.leave()
    assert second.granted
    none = traffic(concurrency=3, hosts={HOST: {"concurrency": 0}}).place(HOST, wake=lambda: None)
    assert none is None


# ---- all of it at once


def test_totals_count_what_happened() -> None:
    given = traffic(rate="1/second", wait=2.5, breaker={"fail_max": 2})
    first = given.enter(HOST, now=0.0)
    for wait in (1.0, 2.0):
        assert given.enter(HOST, now=0.0).wait == wait
    for _ in range(3):
        refused(given, 0.0, reason=Reason.HOST_RATE)
    first.settle(status=429, now=0.0)
    go(given, 100.0, 429)
    for now in (100.0, 150.0):
        refused(given, now)
    go(given, 160.0)
    assert given.stats(160.0)["totals"] == {
        "attempts": 5,
        "waited": 2,
        "waitedMs": 3000.0,
        "refusedByRate": 3,
        "refusedByBreaker": 2,
        "headSkipped": 0,
        "limited": 2,
        "opened": 1,
        "closed": 1,
    }
    (limit,) = given.stats(160.0)["limits"]
    assert {key: limit[key] for key in ("attempts", "waitedMs", "refused", "answers", "limited")} == {
        "attempts": 5,
        "waitedMs": 3000.0,
        "refused": 3,
        "answers": 3,
        "limited": 2,
    }


def test_stats_can_be_written_as_json() -> None:
    given = Traffic(TrafficConfig.of(FULL))
    go(given, 0.0, role="metadata", service="crossref")
    go(given, 0.0, 429, role="artifact", wait=5.0)
    found = json.loads(json.dumps(given.stats(0.0)))
    assert sorted(found) == ["breakers", "limits", "places", "totals"]
    assert found["totals"] == {
        "attempts": 2,
        "waited": 0,
        "waitedMs": 0.0,
        "refusedByRate": 0,
        "refusedByBreaker": 0,
        "headSkipped": 0,
        "limited": 1,
        "opened": 0,
        "closed": 0,
    }
    assert "traffic" in repr(given).lower()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["enter", "enter", "enter", "settle", "refund"]),
            st.integers(0, 2),
            st.sampled_from([200, 404, 429, 503]),
            st.integers(0, 40_000),
        ),
        max_size=60,
    )
)
def test_no_order_of_events_loses_a_token_or_a_trial(steps: list[tuple[str, int, int, int]]) -> None:
    """When everything has ended and time has passed, traffic flows as on the first day."""
    given = traffic(
        rate="3/10second",
        wait=20,
        breaker={"fail_max": 2, "reset": 30, "rolling": True, "roles": {"r": {"fail_max": 1, "trial_calls": 2}}},
        services={"s": {"breaker": True}},
        aimd=True,
    )
    now, running = 0.0, list[Pass]()
    for what, pick, status, pause in steps:
        now += pause / 1000
        if what == "enter":
            try:
                running.append(
                    given.enter(HOST, now=now, role=("", "r", "q")[pick], service=("", "s", "")[pick], left=15.0)
                )
            except FaztError as error:
                assert error.code is Code.NET_RATE
                assert error.retry_after is not None
                assert 0 < error.retry_after <= 900
        elif running:
            attempt = running.pop(pick % len(running))
            if what == "settle":
                attempt.settle(status=status, retry_after=pick * 5 or None, now=now)
            else:
                attempt.refund(now)
    for attempt in running:
        attempt.refund(now)
    now += 100_000
    for role in ("r", "q", ""):
        for _ in range(3):  # trials first, where something is half open
            now += 10
            go(given, now, role=role, service="s")
    states = {(one["name"], one["role"]): one["state"] for one in given.stats(now)["breakers"]}
    assert set(states.values()) <= {"closed"}
    assert [go(given, now + 1000).wait for _ in range(3)] == [0.0] * 3


def test_a_forked_child_waits_for_nobody_who_is_not_there() -> None:
    held = threading.Lock()
    given = Traffic(TrafficConfig.of({"breaker": {"fail_max": 1}, "concurrency": 1, "rate": "1/minute"}), lock=held)
    go(given, 0.0, 503)
    trial = given.enter(HOST, now=60.0)
    place = given.place(HOST, wake=lambda: None)
    assert place is not None
    assert place.granted
    with held:  # by a thread of the parent
        given.start_anew(threading.Lock())
        again = given.place(HOST, wake=lambda: None)
        assert again is not None
        assert again.granted
        mine = given.enter(HOST, now=120.0)
        assert mine.state == "half_open"  # it is still known that the host is down
        trial.refund(120.0)  # the parent's own, ended by the child
        trial.settle(status=200, now=120.0)
        refused(given, 120.0)
        mine.settle(status=200, now=120.0)
        assert refused(given, 120.0, left=1.0, reason=Reason.HOST_RATE).retry_after is not None


def test_threads_share_one_traffic() -> None:
    given = Traffic(TrafficConfig.of({"rate": "1000/second", "breaker": True, "wait": 0}), lock=threading.Lock())
    passed = [0] * 8

    def work(index: int) -> None:
        for _ in range(400):
            try:
                attempt = given.enter(HOST, now=1.0)
            except FaztError:
                continue
            passed[index] += 1
            attempt.settle(status=200, now=1.0)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(passed) == 1000
