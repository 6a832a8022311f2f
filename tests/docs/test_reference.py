"""docs/client.md names everything that is public: names, arguments, options, sinks, kinds of failure."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from typing import get_args

import pytest

import fazt
from fazt import telemetry
from fazt.client import door
from fazt.client.arguments import POOL
from fazt.client.asked import MODES, Asking
from fazt.client.download_error import Kind
from fazt.client.download_plan import Wishes
from fazt.core.breaker_policy import BreakerPolicy, Threshold
from fazt.core.rates import Aimd
from fazt.core.retry import RetryPolicy
from fazt.core.services import ServicePolicy, ServiceRate
from fazt.core.traffic_config import TrafficConfig
from fazt.telemetry.config import KEYS
from tests.docs.blocks import ROOT

TEXT = (ROOT / "docs" / "client.md").read_text("utf-8")
OWN = {"url", "dest", "self", "cls", "others", "app", "http1"}
"""Arguments that need no word, or whose word is another one's."""
PUBLIC = {
    "names": {*fazt.__all__} - {"__version__", "Reason", "Code", "Response"},
    "arguments of clients": {*inspect.signature(door.setup_of).parameters},
    "options of a request": {*Asking.__annotations__},
    "uses of the cache": {*MODES},
    "arguments of a policy": {*inspect.signature(fazt.Policy).parameters},
    "arguments of a public policy": {*inspect.signature(fazt.Policy.public).parameters},
    "keys of a rule": {field.name for field in fields(fazt.Rule)} - {"shared_suffix"} | {"shared_suffix"},
    "arguments of a cache": {*inspect.signature(fazt.Cache).parameters} - {"_rules"},
    "arguments of a download": {*inspect.signature(fazt.download).parameters, *Wishes.__annotations__} - {"wishes"},
    "kinds of a failed download": {*get_args(Kind)},
    "settings of traffic": {field.name for field in fields(TrafficConfig)} - {"limit"}
    | {"rate", "wait", "concurrency"},
    "keys of retries": {field.name for field in fields(RetryPolicy) if field.init},
    "keys of breakers": {field.name for kind in (BreakerPolicy, Threshold) for field in fields(kind)} - {"threshold"},
    "keys of services": {field.name for kind in (ServicePolicy, ServiceRate) for field in fields(kind)},
    "keys of adaptation": {field.name for field in fields(Aimd)},
    "sinks": {name for name in telemetry.__all__ if name.endswith("Sink")} - {"Sink"},
    "tables of telemetry": {*KEYS},
}


@pytest.mark.parametrize("kind", PUBLIC)
def test_everything_public_has_a_word(kind: str) -> None:
    assert sorted(name for name in PUBLIC[kind] - OWN if not re.search(rf"\b{re.escape(name)}\b", TEXT)) == []


def test_defaults_are_those_of_the_code() -> None:
    retry, breaker, aimd, rate = RetryPolicy(), BreakerPolicy(), Aimd(), ServiceRate()
    circuit = breaker.threshold
    statuses = " ".join(map(str, sorted(retry.statuses)))
    failures, neutral = (" ".join(map(str, sorted(some))) for some in (breaker.failures, breaker.neutral))
    service = ServicePolicy()
    assert service.retry is not None
    for said in (
        f"off; {aimd.every:g} s, {aimd.threshold * 100:g} % of 429, × {aimd.down:g}, × {aimd.up:g}, {aimd.floor:g} |",
        f"off; {circuit.fail_max}, {circuit.reset:g} s, {circuit.success_threshold}, {circuit.trial_calls}, "
        f"{breaker.retry_after_cap:g} s, {failures}, {neutral}, off |",
        f"off; {retry.attempts}, {statuses}, GET HEAD PUT DELETE OPTIONS, no, {retry.base:g} s, {retry.cap:g} s, "
        f"{retry.retry_after_cap:g} s, none, {retry.connect}, yes, yes |",
        f"on ({service.retry.base:g} s, at most {service.retry.cap:g} s), {rate.capacity:g} + {rate.burst:g} and "
        f"{rate.per_second:g}/s, off, none, {service.max_wait:g} s |",
        f"{POOL.connections} connections at once, {POOL.total} kept idle, for {POOL.expiry:g} s",
    ):
        assert said in TEXT
    assert retry.methods == frozenset(["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
