"""Traffic as the tests of its parts use it."""

from __future__ import annotations

from typing import Any

import pytest

from fazt.core.traffic import Pass, Traffic
from fazt.core.traffic_config import TrafficConfig
from fazt.errors import Code, FaztError, Reason

HOST = "api.test"
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
