"""What is said of a recorded call, and what would let its like pass where a number refused it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.fakes.calls import APP, LIMITS, policy, rule
from tests.fakes.commands import applied

from fazt.core.call import Hop
from fazt.core.explain import Explanation, explain
from fazt.core.explain_record import request_of, with_record
from fazt.core.limits import HARD_MAX_RESPONSE, clamp_override
from fazt.core.policy import Policy
from fazt.core.record import CallRecord
from fazt.errors import CODE_OF, Reason


def record(reason: Reason | None = None, **fields: Any) -> CallRecord:
    made = CallRecord(
        "c_00000000000000000001",
        0.0,
        APP.id,
        "functions",
        method="GET",
        scheme="https",
        host="api.example.com",
        port=443,
        path="/v1",
        revision=3,
        rule_id="r_1",
    )
    if reason is None:
        made.status = 200
    else:
        made.code, made.reason = CODE_OF[reason].value, reason.value
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def told(held: Policy, recorded: CallRecord) -> Explanation:
    request = request_of(recorded)
    found = None
    if request is not None:
        url, method, auth = request
        found = explain(held, url, app=recorded.app, method=method, auth=auth)
    return with_record(found, held, recorded)


def with_override(held: Policy, **values: int) -> Policy:
    paths = {name.replace("__", "."): value for name, value in values.items()}
    return replace(held, overrides={APP.id: clamp_override(held.limits, paths)})


# What was recorded


def test_the_record_comes_first_and_decides() -> None:
    found = told(policy(rule("api.example.com")), record())
    assert found.allowed
    assert (found.gates[0].gate, found.gates[0].verdict) == ("record", "pass")
    assert "answered with 200" in found.gates[0].detail
    assert "revision 3" in found.gates[0].detail


def test_a_call_that_was_refused_stays_refused_though_the_rules_have_changed() -> None:
    found = told(policy(rule("api.example.com")), record(Reason.HOST_NOT_GRANTED))
    assert not found.allowed
    assert found.reason is Reason.HOST_NOT_GRANTED
    assert "the present rules allow it" in found.gates[0].detail
    assert found.fix is None


def test_a_refusal_of_a_rule_gets_the_fix_of_the_present_rules() -> None:
    held = policy()
    found = told(held, record(Reason.HOST_NOT_GRANTED))
    assert found.fix is not None
    assert told(applied(held, found.fix), record()).allowed


def test_an_answered_call_has_no_fix_though_it_would_be_refused_now() -> None:
    found = told(policy(), record())
    assert found.allowed
    assert found.fix is None


@pytest.mark.parametrize(
    ("method", "status", "then"),
    [("POST", 302, "GET"), ("POST", 307, "POST"), ("PUT", 303, "GET"), ("HEAD", 303, "HEAD"), ("PUT", 301, "PUT")],
)
def test_a_refusal_on_a_hop_is_about_the_target_and_the_method_it_had_by_then(
    method: str, status: int, then: str
) -> None:
    recorded = record(
        Reason.PRIVATE_ADDRESS,
        method=method,
        hop=1,
        redirects=[Hop(status, "https://internal.example/admin")],
        auth="KEY",
    )
    assert request_of(recorded) == ("https://internal.example/admin", then, None)


def test_the_secret_stays_within_the_origin_it_was_sent_to() -> None:
    here = [Hop(302, "https://api.example.com/v2")]
    assert request_of(record(Reason.PATH_NOT_GRANTED, hop=1, redirects=here, auth="KEY")) == (
        "https://api.example.com/v2",
        "GET",
        "KEY",
    )


def test_what_was_never_read_is_not_judged() -> None:
    assert request_of(record(Reason.BAD_URL, host="", path="")) is None
    found = told(policy(), record(Reason.BAD_URL, host="", path=""))
    assert [gate.gate for gate in found.gates] == ["record"]
    assert found.fix is None
    assert request_of(record(Reason.REDIRECT_LOOP, hop=1, redirects=[])) is None


# What would let its like pass


def test_one_call_more_than_the_limit() -> None:
    held = policy()
    found = told(held, record(Reason.CALLS_EXCEEDED, host="", path=""))
    assert found.fix == "fazt limits set net.max_calls 6"
    assert "everybody" in found.gates[0].detail
    assert applied(held, found.fix).limits.net.max_calls == 6


def test_an_app_below_everybodys_limit_is_raised_alone() -> None:
    held = with_override(policy(), net__max_calls=2)
    found = told(held, record(Reason.CALLS_EXCEEDED, host="", path=""))
    assert found.fix == "fazt limits set net.max_calls 3 --app hello"
    after = applied(held, found.fix)
    assert after.limits_for(APP.id).net.max_calls == 3
    assert after.limits.net.max_calls == 5


@pytest.mark.parametrize(
    ("reason", "path"),
    [
        (Reason.CALLS_EXCEEDED, "net.max_calls"),
        (Reason.APP_CONCURRENCY, "net.app_concurrency"),
        (Reason.GLOBAL_CONCURRENCY, "net.concurrency"),
        (Reason.REDIRECT_LIMIT, "net.max_redirects"),
    ],
)
def test_nothing_is_raised_beyond_its_range(reason: Reason, path: str) -> None:
    from fazt.core.limits import info

    high = info(path).high
    assert high is not None
    held = policy(rule("api.example.com"), limits={path: high})
    assert told(held, record(reason)).fix is None
    below = policy(rule("api.example.com"), limits={path: high - 1})
    assert told(below, record(reason)).fix == f"fazt limits set {path} {high}"


def test_more_shared_time_only_as_long_as_an_invocation_lasts() -> None:
    held = policy(rule("api.example.com"))
    assert told(held, record(Reason.NET_BUDGET_EXHAUSTED)).fix == "fazt limits set net.budget 4500"
    full = policy(rule("api.example.com"), limits={"net.budget": 4500})
    assert told(full, record(Reason.NET_BUDGET_EXHAUSTED)).fix is None
    assert told(held, record(Reason.WALL_EXHAUSTED)).fix == "fazt limits set runtime.exec_timeout 10000"


def test_a_request_body_that_would_fit() -> None:
    held = policy(rule("api.example.com"))
    size = LIMITS.net.max_req_body + 1
    assert told(held, record(Reason.REQUEST_BODY, request_bytes=size)).fix == f"fazt limits set net.max_req_body {size}"
    assert told(held, record(Reason.REQUEST_BODY, request_bytes=100 * size)).fix is None
    assert told(held, record(Reason.REQUEST_BODY, request_bytes=0)).fix is None


def test_a_larger_response_through_the_rule_that_decides() -> None:
    deciding = rule("api.example.com", methods=["GET"], rate=7)
    held = policy(deciding)
    found = told(held, record(Reason.RESPONSE_BODY))
    assert found.fix is not None
    after = applied(held, found.fix)
    (changed,) = after.rules.rules()
    assert changed == replace(deciding, max_response=HARD_MAX_RESPONSE)
    assert told(after, record(Reason.RESPONSE_BODY)).fix is None


def test_one_request_more_at_once_where_the_rule_has_the_rate() -> None:
    deciding = rule("*.example.com", app="", rate=60)
    held = policy(deciding)
    found = told(held, record(Reason.HOST_RATE))
    assert found.fix is not None
    (changed,) = applied(held, found.fix).rules.rules()
    assert (changed.rate, changed.burst) == (60, 2)


def test_one_request_more_at_once_where_the_default_has_the_rate() -> None:
    held = policy(rule("api.example.com"), limits={"net.rate_limit": 60, "net.rate_burst": 4})
    assert told(held, record(Reason.HOST_RATE)).fix == "fazt limits set net.rate_burst 5"
    assert told(policy(rule("api.example.com")), record(Reason.HOST_RATE)).fix is None


@pytest.mark.parametrize("reason", [Reason.CONNECT, Reason.TOTAL, Reason.DNS_FAILED, Reason.PROTOCOL])
def test_a_failure_of_the_network_has_no_fix(reason: Reason) -> None:
    found = told(policy(rule("api.example.com")), record(reason))
    assert not found.allowed
    assert found.fix is None
