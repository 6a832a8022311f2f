"""Rates of hosts, roles and services together, on a clock that the test owns (C.9, C.11)."""

from __future__ import annotations

import pytest
from tests.core.pacing import HOST, go, refused, traffic

from fazt.core.circuits import KEPT
from fazt.core.rates import POLITE, Limit, Rate
from fazt.core.traffic_config import EMPTY, TrafficConfig
from fazt.errors import Reason


def test_D46_a_host_keeps_the_roles_and_numbers_that_it_leaves_out() -> None:
    given = traffic(
        rate="100/second",
        wait=0.5,
        polite=True,
        hosts={"a.test": {"rate": "50/second", "roles": {"artifact": {"wait": 9}}}, "b.test": {"roles": {"new": {}}}},
    )
    limits = given._rules.limits
    assert limits("a.test", "metadata").role == POLITE["metadata"]
    assert limits("a.test", "artifact").role == Limit(POLITE["artifact"].rates, 9.0)
    assert limits("a.test", "").host == Limit((Rate(50, 1.0),), 0.5)
    assert limits("b.test", "").host == limits("other.test", "").host == Limit((Rate(100, 1.0),), 0.5)
    assert limits("b.test", "landing").role == POLITE["landing"]
    assert limits("b.test", "unheard-of").role is None


def test_D46_only_an_explicit_word_makes_a_host_unlimited() -> None:
    given = traffic(rate="1/minute", wait=0, hosts={"free.test": {"rate": "none"}, "a.test": {"wait": 0}})
    go(given, 0.0, host="a.test")
    refused(given, 0.0, host="a.test", reason=Reason.HOST_RATE)
    for _ in range(100):
        go(given, 0.0, host="free.test")


def test_REQ_C9_a_bounded_wait_and_then_a_refusal() -> None:
    given = traffic(rate="10/second; 5000/hour", wait=0.2)
    for n in range(10):
        assert go(given, n * 0.085).wait == 0.0
    waited = go(given, 0.85)
    assert waited.wait == pytest.approx(0.15)
    error = refused(given, 0.85, reason=Reason.HOST_RATE)
    assert error.retry_after == pytest.approx(0.235)
    assert error.detail == "host api.test: 10/second; 5000/hour"
    assert HOST not in error.message
    assert given.stats(0.85)["totals"]["refusedByRate"] == 1


def test_a_turn_after_the_deadline_is_refused_at_once_and_spends_nothing() -> None:
    given = traffic(rate="1/3second", wait=60)
    go(given, 0.0)
    for _ in range(5):
        assert refused(given, 0.0, left=2.9, reason=Reason.HOST_RATE).retry_after == 3.0
    assert given.enter(HOST, now=0.0, left=3.1).wait == 3.0


def test_D43_arxiv_is_asked_once_in_three_seconds() -> None:
    given = traffic(hosts={"export.arxiv.org": {"rate": "1/3SECOND"}})
    assert [go(given, 0.0, host="export.arxiv.org").wait for _ in range(4)] == [0.0, 3.0, 6.0, 9.0]
    assert go(given, 0.0, host="other.test").wait == 0.0


def test_hosts_roles_and_services_have_rates_of_their_own() -> None:
    given = traffic(
        rate="3/second",
        wait=0,
        roles={"artifact": {"rate": "1/second", "wait": 0}},
        services={"s": {"rate": {"capacity": 1, "burst": 0, "per_second": 1}, "max_wait": 0}},
    )
    go(given, 0.0, role="artifact", service="s")
    assert "role artifact" in (refused(given, 0.0, role="artifact", reason=Reason.HOST_RATE).detail or "")
    assert "service s" in (refused(given, 0.0, service="s", reason=Reason.HOST_RATE).detail or "")
    go(given, 0.0, role="metadata")
    go(given, 0.0)
    assert "api.test: 3/second" in (refused(given, 0.0, reason=Reason.HOST_RATE).detail or "")
    go(given, 0.0, host="other.test", role="artifact")


def test_each_meter_is_as_patient_as_it_says() -> None:
    given = traffic(rate="10/second", wait=0.1, services={"s": {"rate": {"per_second": 1}, "max_wait": 5}})
    for _ in range(7):
        go(given, 0.0, service="s")
    assert go(given, 0.0, service="s").wait == pytest.approx(1.0)
    assert go(given, 0.0, service="s").wait == pytest.approx(2.0)
    for _ in range(3):
        assert go(given, 0.0).wait == 0.0  # those of the service planned ahead hold nobody up
    refused(given, 0.0, reason=Reason.HOST_RATE)


def test_REQ_C9_head_is_counted_only_if_it_is_to_be() -> None:
    given = traffic(rate="1/minute", wait=0)
    for _ in range(5):
        go(given, 0.0, method="HEAD")
    go(given, 0.0)
    refused(given, 0.0, reason=Reason.HOST_RATE)
    assert given.stats(0.0)["totals"]["headSkipped"] == 5
    given = traffic(rate="1/minute", wait=0, count_head=True)
    go(given, 0.0, method="HEAD")
    refused(given, 0.0, method="HEAD", reason=Reason.HOST_RATE)


def test_REQ_C8_every_attempt_takes_a_token_of_its_own() -> None:
    given = traffic(rate="2/minute", wait=0, retry=True)
    for _ in range(2):
        go(given, 0.0, 503)
    refused(given, 0.0, reason=Reason.HOST_RATE)


def test_REQ_C11_what_was_not_sent_gives_its_token_back_once() -> None:
    given = traffic(rate="1/minute", wait=0, services={"s": {"rate": {"capacity": 1, "burst": 0}, "max_wait": 0}})
    for _ in range(3):
        attempt = given.enter(HOST, now=0.0, service="s")
        attempt.refund(0.0)
        attempt.refund(0.0)
        attempt.settle(status=503, now=0.0)
    attempt = go(given, 0.0, service="s")
    attempt.refund(0.0)  # it was sent
    refused(given, 0.0, service="s", reason=Reason.HOST_RATE)
    assert given.stats(0.0)["limits"][0]["attempts"] == 1


def test_a_cancelled_request_that_was_sent_keeps_its_token_spent_and_frees_its_trial() -> None:
    given = traffic(rate="1/minute", wait=0, breaker={"fail_max": 1})
    attempt = given.enter(HOST, now=0.0)
    attempt.spend()
    attempt.refund(0.0)
    refused(given, 0.0, reason=Reason.HOST_RATE)
    go(given, 60.0, 503)
    trial = given.enter(HOST, now=120.0)
    trial.spend()
    trial.refund(120.0)
    assert given.enter(HOST, now=180.0).state == "half_open"


def test_a_retry_is_told_whether_its_turn_would_come_too_late() -> None:
    given = traffic(rate="1/10second", wait=5)
    go(given, 0.0)
    assert not given.closed_for(HOST, now=1.0)
    assert given.closed_for(HOST, now=5.0)
    assert not given.closed_for(HOST, now=5.0, left=5.0)
    assert given.closed_for(HOST, now=1.0, method="HEAD")
    assert given.closed_for("other.test", now=1.0)
    assert given.stats(5.0)["totals"] == {**given.stats(5.0)["totals"], "headSkipped": 0, "refusedByRate": 0}
    assert go(given, 5.0).wait == 5.0  # asking planned nothing


def test_REQ_C9_other_settings_act_on_live_meters_and_circuits() -> None:
    given = traffic(rate="100/minute", wait=0, breaker=True)
    for _ in range(3):
        go(given, 0.0, 503)
    given.configure(TrafficConfig.of({"rate": "4/minute", "wait": 0, "breaker": {"fail_max": 4}}))
    go(given, 0.0, 503)
    assert refused(given, 0.0).retry_after == 60.0
    for _ in range(4):
        go(given, 0.0, host="x.test")
    refused(given, 0.0, host="x.test", reason=Reason.HOST_RATE)
    given.configure(EMPTY)
    go(given, 60.0)


def test_D44_rates_of_all_hosts_adapt_without_anybody_to_call() -> None:
    given = traffic(rate="1/second", wait=100, aimd=True, breaker={"failures": [500]})
    for host in ("named-nowhere.test", "neither.test"):
        now = 0.0
        for _ in range(50):
            now += 20
            go(given, now, 429, host=host)
        (limit,) = [one for one in given.stats(now)["limits"] if one["name"] == host]
        assert limit["share"] == 0.3
        assert go(given, now, 429, host=host).wait == pytest.approx(1 / 0.3)
        assert go(given, now + 1e6, host=host).wait == 0.0
        go(given, now + 1e6 + 0.5, host=host)
        assert [one["share"] for one in given.stats(now + 1e6)["limits"] if one["name"] == host] == [1.0]


def test_meters_and_circuits_of_hosts_that_are_not_asked_any_more_are_dropped() -> None:
    given = traffic(
        rate="10/second",
        breaker=True,
        roles={"r": {"rate": "5/second"}},
        services={"s": {"breaker": True, "rate": False}},
    )
    most = 0
    for n in range(5000):
        go(given, n * 0.5, host=f"h{n}.test", role="r", service="s")
        most = max(most, len(given._meters), len(given._circuits))
    assert most <= KEPT + 10


def test_a_host_in_use_is_never_dropped() -> None:
    given = traffic(breaker=True)
    early = [given.enter(HOST, now=0.0) for _ in range(5)]
    for n in range(3 * KEPT):
        go(given, 1.0, host=f"h{n}.test")
    assert len(given._circuits) <= KEPT + 10
    for attempt in early:
        attempt.settle(status=503, now=2.0)
    refused(given, 2.0)


def test_those_in_use_do_not_keep_the_others_from_being_dropped() -> None:
    given = traffic(rate="1/day", wait=0, breaker=True, hosts={f"q{n}.test": {"rate": "9/second"} for n in range(2000)})
    for n in range(KEPT):
        go(given, 0.0, 503, host=f"busy{n}.test")
    for n in range(2000):
        go(given, 10.0 + n, host=f"q{n}.test")
    assert len(given._meters) <= 2 * KEPT + 10  # half of those looked at may be in use
    assert len(given._circuits) <= KEPT + 10
    refused(given, 2010.0, host="busy0.test", reason=Reason.HOST_RATE)
