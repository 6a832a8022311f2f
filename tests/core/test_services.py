"""Policies of named services (C.11)."""

from __future__ import annotations

from typing import Any

import pytest

from fazt.core.breaker_policy import BreakerPolicy, Threshold
from fazt.core.retry import Again, RetryPolicy
from fazt.core.services import RETRY, ServicePolicy, ServiceRate, check_name
from fazt.errors import ConfigError


def test_D55_the_default_is_that_of_the_specification() -> None:
    policy = ServicePolicy()
    assert policy.retry == RETRY == RetryPolicy(attempts=4, base=0.2, cap=4.0, retry_after_cap=900.0)
    assert policy.rate == ServiceRate(capacity=5.0, burst=2.0, per_second=1.0)
    assert policy.rate.size == 7.0
    assert (policy.max_wait, policy.read_timeout, policy.breaker) == (30.0, None, None)
    assert hash(policy) == hash(ServicePolicy())
    assert str(policy.rate) == "1/s, 7 at once"


def test_REQ_C11_jitter_is_used_and_a_retry_after_is_not_cut_down() -> None:
    pauses = [
        RETRY.decide(attempt=n, method="GET", status=503, draw=draw) for n, draw in ((1, 1.0), (2, 0.5), (3, 0.0))
    ]
    assert pauses == [Again(0.2), Again(0.2), Again(0.0)]
    assert RETRY.decide(attempt=1, method="GET", status=429, retry_after=30.0, draw=0.3) == Again(30.0)


def test_a_service_of_a_table() -> None:
    made = ServicePolicy.of(
        {
            "retry": {"attempts": 2, "base": 0.1},
            "rate": {"capacity": 1, "burst": 0, "per_second": 0.5},
            "breaker": {"fail_max": 3},
            "read_timeout": 90,
            "max_wait": 5,
        }
    )
    assert made == ServicePolicy(
        retry=RetryPolicy(attempts=2, base=0.1, cap=4.0),
        rate=ServiceRate(1.0, 0.0, 0.5),
        breaker=BreakerPolicy(Threshold(fail_max=3)),
        read_timeout=90.0,
        max_wait=5.0,
    )


def test_parts_can_be_switched_off_and_given_as_objects() -> None:
    assert ServicePolicy.of({}) == ServicePolicy.of(True) == ServicePolicy()
    assert ServicePolicy.of({"retry": False, "rate": False, "breaker": False}) == ServicePolicy(None, None, None)
    assert ServicePolicy.of({"retry": True, "rate": True, "breaker": True}).breaker == BreakerPolicy()
    retry, breaker = RetryPolicy(attempts=9), BreakerPolicy(retry_after_cap=1.0)
    made = ServicePolicy.of({"retry": retry, "breaker": breaker})
    assert made.retry is retry
    assert made.breaker is breaker
    assert ServicePolicy.of(made) is made


def test_a_breaker_leaves_out_what_is_as_for_everybody() -> None:
    made = ServicePolicy.of({"breaker": {"reset": 5}}, breaker=BreakerPolicy(Threshold(fail_max=2)))
    assert made.breaker == BreakerPolicy(Threshold(fail_max=2, reset=5.0))


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"rate": {"capacity": 0}}, "rate.capacity"),
        ({"rate": {"burst": -1}}, "rate.burst"),
        ({"rate": {"per_second": 0}}, "rate.per_second"),
        ({"rate": {"refill": 1}}, "rate.refill"),
        ({"rate": "1/second"}, "rate must be a table"),
        ({"retry": {"attempts": 0}}, "retry.attempts"),
        ({"retry": 4}, "retry"),
        ({"breaker": {"resets": 1}}, "breaker.resets"),
        ({"read_timeout": 0}, "read_timeout"),
        ({"max_wait": -1}, "max_wait"),
        ({"url": "https://x"}, "url"),
    ],
)
def test_an_error_names_the_key(wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ServicePolicy.of(wrong, "traffic.services.crossref")
    assert f"traffic.services.crossref.{name}" in caught.value.message


@pytest.mark.parametrize(
    "wrong", [{"capacity": 0.5}, {"burst": -1}, {"per_second": 0}, {"capacity": float("inf")}, {"burst": "2"}]
)
def test_no_rate_can_be_made_that_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ServiceRate(**wrong)
    assert ServiceRate(capacity=1, burst=0, per_second=0.01).size == 1.0


@pytest.mark.parametrize("wrong", [{"max_wait": -1}, {"read_timeout": 0}, {"max_wait": float("nan")}])
def test_no_policy_can_be_made_that_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ServicePolicy(**wrong)


@pytest.mark.parametrize("given", [5, "x", None, [1]])
def test_only_a_table_is_a_service(given: object) -> None:
    with pytest.raises(ConfigError, match="must be a table"):
        ServicePolicy.of(given)


@pytest.mark.parametrize("name", ["", " x", "x ", "a\nb", "x" * 65, 5, None, "a\u2028b"])
def test_names_can_stand_in_a_line_of_a_log(name: Any) -> None:
    with pytest.raises(ConfigError, match="service"):
        check_name(name, "service")
    assert check_name("crossref", "service") == "crossref"
