"""Breakers of hosts, roles and services together, on a clock that the test owns (C.10)."""

from __future__ import annotations

import pytest
from tests.core.pacing import HOST, go, refused, traffic

from fazt.core.breaker import Key
from fazt.core.retry import DEFAULT, Stop
from fazt.errors import FaztError, Reason


def test_D32_calls_pass_with_a_breaker_configured() -> None:
    given = traffic(breaker=True)
    attempt = go(given, 0.0, role="metadata", service="crossref")
    assert attempt.state == "closed"
    assert given.stats(0.0)["totals"]["attempts"] == 1


def test_D34_one_outcome_for_each_network_attempt() -> None:
    given = traffic(breaker=True)
    for _ in range(4):
        attempt = go(given, 0.0, 503)
        attempt.settle(status=503, now=0.0)
        attempt.settle(reason=Reason.BODY, now=0.0)
        attempt.refund(0.0)
    (circuit,) = given.stats(0.0)["breakers"]
    assert circuit["failures"] == 4
    go(given, 0.0, 503)
    refused(given, 0.0)


def test_REQ_C10_a_cache_hit_is_no_attempt_and_changes_nothing() -> None:
    given = traffic(breaker=True)
    for _ in range(4):
        go(given, 0.0, 503)
    assert given.closed_for(HOST, now=0.0)  # what is asked without entering records nothing
    assert given.stats(0.0)["breakers"][0]["failures"] == 4


def test_REQ_C10_an_open_breaker_refuses_without_counting_or_being_tried_again() -> None:
    given = traffic(breaker=True, rate="100/minute", wait=0)
    for _ in range(5):
        go(given, 0.0, 503)
    for n in range(50):
        error = refused(given, float(n))
        assert error.retry_after == 60.0 - n
    assert given.stats(50.0)["breakers"][0]["remainingMs"] == 10_000
    assert given.stats(50.0)["limits"][0]["attempts"] == 5
    assert DEFAULT.decide(attempt=1, method="GET", reason=error.reason, draw=0.5) == Stop("failure")
    assert go(given, 60.0).state == "half_open"
    assert go(given, 60.0).state == "closed"


def test_REQ_C10_half_open_permits_go_back_on_cancel_and_failure() -> None:
    given = traffic(breaker=True)
    for _ in range(5):
        go(given, 0.0, 503)
    for _ in range(3):
        trial = given.enter(HOST, now=60.0)
        assert trial.state == "half_open"
        refused(given, 60.0)
        trial.refund(60.0)
    trial = given.enter(HOST, now=60.0)
    trial.settle(reason=Reason.ABORTED, now=60.0)
    trial = given.enter(HOST, now=60.0)
    trial.settle(reason=Reason.CONNECT_FAILED, now=60.0)
    assert refused(given, 60.0).retry_after == 60.0


def test_D48_roles_have_thresholds_of_their_own() -> None:
    given = traffic(
        breaker={"roles": {"artifact": {"fail_max": 2, "reset": 10, "success_threshold": 2, "trial_calls": 2}}}
    )
    for _ in range(2):
        go(given, 0.0, 503, role="artifact")
    assert refused(given, 0.0, role="artifact").retry_after == 10.0
    for _ in range(4):
        go(given, 0.0, 503, role="metadata")
    go(given, 0.0, 503)  # the fifth of those that share the host's
    assert refused(given, 0.0, role="landing").retry_after == 60.0
    trials = [given.enter(HOST, now=10.0, role="artifact") for _ in range(2)]  # it has not heard of the others
    refused(given, 10.0, role="artifact")
    for trial in trials:
        trial.settle(status=200, now=10.0)
    assert go(given, 10.0, role="artifact").state == "closed"


def test_a_pause_that_the_server_asked_for_concerns_all_roles() -> None:
    given = traffic(breaker={"roles": {"artifact": {"fail_max": 4}}, "rolling": True})
    go(given, 0.0, 429, role="artifact", wait=30.0)
    for role in ("artifact", "metadata", ""):
        assert refused(given, 0.0, role=role).retry_after == 30.0
    for status in (503, 200, 503, 200, 503):
        go(given, 30.0, status, role="artifact")
    for role in ("artifact", "metadata"):
        assert refused(given, 30.0, role=role).retry_after == 30.0


def test_REQ_C10_the_order_of_checks() -> None:
    given = traffic(
        breaker={"fail_max": 3, "reset": 100, "rolling": {"cooldown": 50}},
        services={"s": {"breaker": {"fail_max": 3, "reset": 200}, "rate": False}},
    )
    early = [given.enter(HOST, now=0.0, service="s") for _ in range(4)]
    early[0].settle(status=429, retry_after=20.0, now=0.0)
    for attempt in early[1:]:
        attempt.settle(status=503, now=0.0)
    for now, cause, wait in ((0, "cool_down", 20), (20, "rolling", 30), (50, "failures", 50), (100, "failures", 100)):
        error = refused(given, float(now), service="s")
        assert (error.detail or "").endswith(cause)
        assert error.retry_after == wait
        assert ("service s" in (error.detail or "")) == (now == 100)
    trial = given.enter(HOST, now=200.0)  # of the host alone
    assert (refused(given, 200.0, service="s").detail or "").endswith("host api.test: trials")
    trial.refund(200.0)
    both = given.enter(HOST, now=200.0, service="s")
    refused(given, 200.0)
    both.refund(200.0)
    assert given.enter(HOST, now=200.0).state == "half_open"


def test_a_service_has_a_circuit_whatever_hosts_it_is_asked_at() -> None:
    given = traffic(services={"s": {"breaker": {"fail_max": 3}, "rate": False}})
    for n in range(3):
        go(given, 0.0, 503, host=f"mirror{n}.test", service="s")
    refused(given, 0.0, host="mirror9.test", service="s")
    assert go(given, 0.0, host="mirror0.test").state == ""


def test_hosts_can_be_left_out() -> None:
    given = traffic(breaker=True, hosts={"flaky.test": {"breaker": False}, "strict.test": {"breaker": {"fail_max": 1}}})
    for _ in range(20):
        assert go(given, 0.0, 503, host="flaky.test").state == ""
    go(given, 0.0, 503, host="strict.test")
    refused(given, 0.0, host="strict.test")


def test_a_breaker_may_stand_at_one_host_or_service_alone() -> None:
    given = traffic(hosts={HOST: {"breaker": {"fail_max": 1}}})
    go(given, 0.0, 503)
    refused(given, 0.0)
    assert go(given, 0.0, 503, host="other.test").state == ""
    given = traffic(services={"s": {"breaker": {"fail_max": 1}, "rate": False}})
    go(given, 0.0, 503, service="s")
    refused(given, 0.0, service="s")


def test_what_the_circuits_refuse_after_a_sleep_has_cost_nothing() -> None:
    given = traffic(rate="2/100second", wait=1000, breaker={"fail_max": 1})
    first = given.enter(HOST, now=0.0)
    go(given, 0.0)
    waiting = given.enter(HOST, now=0.0)
    assert waiting.wait == 100.0
    first.settle(status=503, now=70.0)
    with pytest.raises(FaztError):
        waiting.recheck(100.0)
    assert given.enter(HOST, now=130.0).wait == 0.0
    assert given.stats(130.0)["limits"][0]["attempts"] == 3


def test_after_a_sleep_the_circuits_are_asked_again() -> None:
    given = traffic(rate="1/second", breaker={"fail_max": 1})
    first = given.enter(HOST, now=0.0)
    waiting, third = given.enter(HOST, now=0.0), given.enter(HOST, now=0.0)
    assert (waiting.wait, third.wait) == (1.0, 2.0)
    first.settle(status=503, now=0.5)
    with pytest.raises(FaztError) as caught:
        waiting.recheck(1.0)
    assert caught.value.reason is Reason.BREAKER_OPEN
    waiting.settle(status=200, now=1.0)  # over already
    third.recheck(61.0)  # as the trial
    assert third.state == "half_open"
    refused(given, 61.0)
    third.settle(status=200, now=61.0)
    assert go(given, 62.0).state == "closed"
    assert given.stats(62.0)["totals"]["closed"] == 1


def test_a_trial_may_sleep_and_is_the_trial_still() -> None:
    given = traffic(rate="1/second", breaker={"fail_max": 1, "reset": 1})
    go(given, 0.0, 503)
    given.enter(HOST, now=1.0).refund(1.0)
    given._meters._ring[Key("host", HOST)].meter.take(1.0, 1.0)
    trial = given.enter(HOST, now=1.0)
    assert (trial.wait, trial.state) == (1.0, "half_open")
    trial.recheck(2.0)
    assert trial.state == "half_open"
