"""Rates, circuits and places behind one door, as an engine uses them (C.8-C.11), on a clock that the test owns."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.core.breaker import NONE, Deadlines, Key
from fazt.core.circuits import KEPT
from fazt.core.rates import POLITE, Limit, Rate
from fazt.core.retry import DEFAULT, Again, RetryPolicy, Stop
from fazt.core.services import RETRY, ServicePolicy
from fazt.core.traffic import Pass, Traffic
from fazt.core.traffic_config import EMPTY, TrafficConfig
from fazt.errors import Code, ConfigError, FaztError, Reason

HOST = "api.test"


def traffic(**table: Any) -> Traffic:
    return Traffic(TrafficConfig.of(table))


def refused(
    given: Traffic, now: float, *, reason: Reason = Reason.BREAKER_OPEN, host: str = HOST, **of: Any
) -> FaztError:
    with pytest.raises(FaztError) as caught:
        given.enter(host, now=now, **of)
    error = caught.value
    assert (error.code, error.reason, error.retryable) == (Code.NET_RATE, reason, True)
    assert error.retry_after is not None
    return error


def go(
    given: Traffic, now: float, status: int = 200, *, host: str = HOST, wait: float | None = None, **of: Any
) -> Pass:
    attempt = given.enter(host, now=now, **of)
    attempt.settle(status=status, retry_after=wait, now=now)
    return attempt


# ---- configuration


def test_nothing_is_limited_by_default() -> None:
    assert TrafficConfig.of(None) == TrafficConfig.of({}) == TrafficConfig() == EMPTY
    assert EMPTY.empty
    assert hash(TrafficConfig.of({"retry": True})) == hash(TrafficConfig(retry=DEFAULT))
    idle = Traffic()
    assert idle.idle
    for _ in range(1000):
        attempt = idle.enter(HOST, now=0.0, service="x", role="y")
        assert (attempt.wait, attempt.state) == (0.0, "")
        attempt.settle(status=503, now=0.0)
    assert idle.place(HOST, wake=lambda: None) is None
    assert idle.stats(0.0)["breakers"] == idle.stats(0.0)["limits"] == []
    assert not traffic(retry=True).idle


FULL: dict[str, Any] = {
    "rate": "10/second; 5000/hour",
    "wait": 1,
    "concurrency": 4,
    "count_head": True,
    "polite": True,
    "roles": {"metadata": {"wait": 3}, "search": {"rate": "1/minute"}},
    "hosts": {
        "Export.arXiv.org": {"rate": "1/3second", "roles": {"artifact": {"rate": "1/minute"}}, "breaker": False},
        "bücher.example": {"breaker": {"fail_max": 2}},
    },
    "aimd": {"every": 30},
    "breaker": {"reset": 10, "roles": {"artifact": {"fail_max": 10}}},
    "retry": {"attempts": 2},
    "services": {"crossref": {"read_timeout": 60}, "openalex": True},
}


def test_everything_can_stand_in_a_table() -> None:
    config = TrafficConfig.of(FULL)
    assert config.limit == Limit((Rate(10, 1.0), Rate(5000, 3600.0)), 1.0, 4)
    assert dict(config.roles) == {
        **POLITE,
        "metadata": Limit(POLITE["metadata"].rates, 3.0),
        "search": Limit((Rate(1, 60.0),)),
    }
    hosts = dict(config.hosts)
    assert sorted(hosts) == ["export.arxiv.org", "xn--bcher-kva.example"]
    assert hosts["export.arxiv.org"].unbroken
    own = hosts["xn--bcher-kva.example"].breaker
    assert own is not None
    assert (own.threshold.fail_max, own.threshold.reset) == (2, 10.0)
    assert config.aimd is not None
    assert (config.aimd.every, config.aimd.floor) == (30.0, 0.3)
    assert config.retry == RetryPolicy(attempts=2)
    assert dict(config.services) == {"crossref": ServicePolicy(read_timeout=60.0), "openalex": ServicePolicy()}
    assert TrafficConfig.of(config) is config
    assert hash(config) == hash(TrafficConfig.of(FULL))


def test_configurations_grow_by_a_service() -> None:
    config = EMPTY.with_service("crossref", ServicePolicy())
    assert config == TrafficConfig.of({"services": {"crossref": True}})
    assert config.with_service("crossref", ServicePolicy(max_wait=1.0)).services[0][1].max_wait == 1.0
    with pytest.raises(ConfigError):
        EMPTY.with_service("", ServicePolicy())


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"rates": "1/s"}, "policy.traffic.rates"),
        ({"rate": "1/fortnight"}, "policy.traffic.rate"),
        ({"wait": -1}, "policy.traffic.wait"),
        ({"polite": 1}, "policy.traffic.polite"),
        ({"roles": {"a": {"rat": "1/s"}}}, "policy.traffic.roles.a.rat"),
        ({"roles": {" ": {}}}, "policy.traffic.roles"),
        ({"hosts": {"a.test": {"concurrency": -1}}}, "policy.traffic.hosts.a.test.concurrency"),
        ({"hosts": {"a.test": {"roles": {"x": {"wait": "y"}}}}}, "policy.traffic.hosts.a.test.roles.x.wait"),
        ({"hosts": {"a.test": {"breaker": {"fail": 1}}}}, "policy.traffic.hosts.a.test.breaker.fail"),
        ({"hosts": {"10.0.0.1": {}}}, "policy.traffic.hosts.10.0.0.1"),
        ({"hosts": {"A.test": {}, "a.test": {}}}, "named twice"),
        ({"hosts": ["a.test"]}, "policy.traffic.hosts"),
        ({"aimd": {"floor": 0}}, "aimd.floor"),
        ({"breaker": 5}, "policy.traffic.breaker"),
        ({"retry": {"attempts": -1}}, "policy.traffic.retry.attempts"),
        ({"services": {"x": {"ratee": 1}}}, "policy.traffic.services.x.ratee"),
        ({"services": {"": {}}}, "policy.traffic.services"),
        ({"services": []}, "policy.traffic.services"),
        ({"backend": "redis"}, "policy.traffic.backend"),
    ],
)
def test_REQ_C9_an_error_names_the_key(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrafficConfig.of(wrong, "policy.traffic")
    assert name in caught.value.message


def test_D46_a_backend_that_is_not_there_is_refused() -> None:
    for table in ({"backend": "redis"}, {"hosts": {"a.test": {"backend": "sqlite"}}}):
        with pytest.raises(ConfigError, match="unknown key"):
            TrafficConfig.of(table)


# ---- rates


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


# ---- breakers


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
