"""What hosts and services are limited to, as tables say it (C.9-C.11)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.core.pacing import FULL, HOST, traffic

from fazt.core.rates import POLITE, Limit, Rate
from fazt.core.retry import DEFAULT, RetryPolicy
from fazt.core.services import ServicePolicy
from fazt.core.traffic import Traffic
from fazt.core.traffic_config import EMPTY, TrafficConfig
from fazt.errors import ConfigError


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
