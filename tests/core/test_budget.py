"""Time, calls and bytes that a call may use (A.8, A.9, A.10)."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.core.budget import (
    MIN_CALL_MS,
    RESERVE_MS,
    Invocation,
    call_timeout,
    check_timeout,
    no_budget_here,
    response_cap,
)
from fazt.errors import Code, FaztError, Reason

T0 = 1000.0
MIB = 1 << 20


def run(*, left_ms: float = 5000, net_ms: float = 4000, max_calls: int = 5) -> Invocation:
    return Invocation(T0 + left_ms / 1000, net_ms=net_ms, max_calls=max_calls)


def granted_ms(invocation: Invocation | None, now: float = T0, **terms: float | None) -> float:
    return call_timeout(now, invocation, **{"limit_ms": 4000.0, **terms}) * 1000


def refusal(invocation: Invocation, now: float = T0, **terms: float | None) -> FaztError:
    with pytest.raises(FaztError) as caught:
        granted_ms(invocation, now, **terms)
    return caught.value


def test_F19_the_worked_examples() -> None:
    invocation = run()
    assert granted_ms(invocation) == 4000
    invocation.charge(2.0)
    assert granted_ms(invocation, T0 + 2.0) == 2000
    assert granted_ms(run(left_ms=1200, net_ms=600)) == 600
    assert refusal(run(left_ms=999)).reason is Reason.WALL_EXHAUSTED
    assert granted_ms(run(left_ms=1000)) == pytest.approx(500)
    spent = run(left_ms=1500, net_ms=0)
    error = refusal(spent)
    assert error.reason is Reason.NET_BUDGET_EXHAUSTED
    assert error.code is Code.NET_BUDGET


def test_F19_the_limits_are_read_at_each_call() -> None:
    invocation = run(left_ms=9000, net_ms=8000)
    assert granted_ms(invocation, limit_ms=1500) == 1500
    assert granted_ms(invocation, limit_ms=7000) == 7000
    assert granted_ms(invocation, limit_ms=10_000) == 8000


def test_F18_option_and_rule_shorten_a_call() -> None:
    assert granted_ms(run(), option_ms=250) == 250
    assert granted_ms(run(), rule_ms=300) == 300
    assert granted_ms(run(), option_ms=250.5, rule_ms=300) == 250.5
    assert granted_ms(run(), option_ms=60_000, rule_ms=50_000) == 4000
    assert granted_ms(run(), option_ms=None, rule_ms=0) == 4000


def test_F18_other_doors_take_the_shortest_term_alone() -> None:
    assert granted_ms(None, limit_ms=60_000) == 60_000
    assert granted_ms(None, limit_ms=60_000, option_ms=10, rule_ms=20) == 10
    assert granted_ms(None, limit_ms=60_000, rule_ms=20) == 20
    assert call_timeout(T0) == math.inf


@pytest.mark.parametrize(
    "value", [0, -1, 0.0, math.nan, math.inf, -math.inf, True, False, "100", b"1", [], {}, 10**400]
)
def test_F18_an_unusable_timeout_is_a_bad_option(value: object) -> None:
    with pytest.raises(FaztError) as caught:
        check_timeout(value)
    assert caught.value.reason is Reason.BAD_OPTION
    for invocation in (None, run()):
        with pytest.raises(FaztError) as caught:
            call_timeout(T0, invocation, option_ms=value, limit_ms=4000)  # type: ignore[arg-type]
        assert caught.value.reason is Reason.BAD_OPTION


def test_F18_a_usable_timeout_is_kept() -> None:
    assert check_timeout(None) is None
    assert check_timeout(1) == 1.0
    assert check_timeout(0.5) == 0.5


def test_budget_refusals_say_that_a_retry_may_work() -> None:
    for error in (refusal(run(left_ms=0)), refusal(run(net_ms=0)), refusal(run(left_ms=-5000))):
        assert error.code is Code.NET_BUDGET
        assert error.retryable
        assert error.retry_after == 1


def test_a_place_without_budget_refuses_for_good() -> None:
    error = no_budget_here()
    assert (error.code, error.reason, error.retryable) == (Code.NET_BUDGET, Reason.NO_BUDGET_HERE, False)


def test_the_sixth_call_is_refused_for_good_and_counted() -> None:
    invocation = run(max_calls=5)
    for _ in range(5):
        invocation.count_call()
    for sixth in (6, 7):
        with pytest.raises(FaztError) as caught:
            invocation.count_call()
        assert (caught.value.code, caught.value.reason) == (Code.NET_LIMIT, Reason.CALLS_EXCEEDED)
        assert not caught.value.retryable
        assert invocation.calls == sixth


def test_a_clock_that_stands_or_steps_back_charges_nothing() -> None:
    invocation = run()
    invocation.charge(0.0)
    invocation.charge(-3.0)
    assert invocation.net_left_ms == 4000


@given(
    left_ms=st.floats(0, 20_000),
    net_ms=st.floats(0, 10_000),
    option_ms=st.none() | st.floats(0.001, 20_000),
    rule_ms=st.none() | st.integers(0, 20_000),
    limit_ms=st.integers(1000, 10_000),
    start=st.floats(0, 1e7),
)
def test_no_call_outlasts_any_of_its_terms(
    left_ms: float, net_ms: float, option_ms: float | None, rule_ms: int | None, limit_ms: int, start: float
) -> None:
    invocation = Invocation(start + left_ms / 1000, net_ms=net_ms, max_calls=5)
    terms = {"option_ms": option_ms, "rule_ms": rule_ms, "limit_ms": limit_ms}
    real_left = round((invocation.deadline - start) * 1000, 3)
    if real_left < MIN_CALL_MS or round(net_ms, 3) <= 0:
        assert refusal(invocation, start, **terms).code is Code.NET_BUDGET
        return
    given_ms = granted_ms(invocation, start, **terms)
    bounds = [real_left - RESERVE_MS, net_ms, limit_ms, *(t for t in (option_ms, rule_ms) if t)]
    assert given_ms == pytest.approx(min(bounds))
    assert given_ms > 0


@given(st.lists(st.floats(0, 3), min_size=1, max_size=10))
def test_all_calls_together_never_get_more_than_the_shared_budget(durations: list[float]) -> None:
    invocation = run(left_ms=60_000, max_calls=99)
    now, used = T0, 0.0
    for wanted in durations:
        try:
            allowed = call_timeout(now, invocation, limit_ms=4000)
        except FaztError:
            break
        took = min(wanted, allowed)
        invocation.charge(took)
        used += took
        now += took
    assert used <= 4.0 + 1e-6


@pytest.mark.parametrize(
    ("rule", "limit", "hard", "earlier", "cap"),
    [
        (0, MIB, 10 * MIB, None, MIB),
        (2 * MIB, MIB, 10 * MIB, None, 2 * MIB),
        (99 * MIB, MIB, 10 * MIB, None, 10 * MIB),
        (0, 100 * MIB, 10 * MIB, None, 10 * MIB),
        (0, 100 * MIB, None, None, 100 * MIB),
        (2 * MIB, MIB, 10 * MIB, MIB, MIB),
        (512, MIB, 10 * MIB, MIB, 512),
    ],
)
def test_F21_no_rule_raises_the_hard_cap_and_no_redirect_widens_it(
    rule: int, limit: int, hard: int | None, earlier: int | None, cap: int
) -> None:
    assert response_cap(rule=rule, limit=limit, hard=hard, earlier=earlier) == cap
