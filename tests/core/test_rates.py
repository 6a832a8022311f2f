"""Rates as text, exact windows, buckets and adaptation, on a clock that the test owns (C.9)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.core.rates import (
    DEFAULT_WAIT,
    MAX_COUNT,
    POLITE,
    SLACK,
    Adaptation,
    Aimd,
    Bucket,
    Limit,
    Rate,
    Rates,
    Windows,
    parse_rates,
    plan,
)
from fazt.core.tables import Table
from fazt.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10/second", [(10, 1)]),
        ("10/second; 5000/hour", [(10, 1), (5000, 3600)]),
        ("10/SECOND,5000/HOUR", [(10, 1), (5000, 3600)]),
        (" 2 / 5 min ;1/d", [(2, 300), (1, 86400)]),
        ("1/s;2/sec;3/secs;4/seconds", [(1, 1), (2, 1), (3, 1), (4, 1)]),
        ("1/m;2/min;3/mins;4/minutes;5/minute", [(1, 60), (2, 60), (3, 60), (4, 60), (5, 60)]),
        ("1/h;2/hr;3/hrs;4/hours;5/hour", [(1, 3600), (2, 3600), (3, 3600), (4, 3600), (5, 3600)]),
        ("1/d;2/days;3/day", [(1, 86400), (2, 86400), (3, 86400)]),
        ("none", []),
        ("Unlimited", []),
    ],
)
def test_rates_are_read(text: str, expected: list[tuple[int, float]]) -> None:
    assert [tuple(rate) for rate in parse_rates(text)] == expected


def test_D43_the_number_before_the_unit_makes_the_span_longer() -> None:
    (arxiv,) = parse_rates("1/3SECOND")
    assert arxiv == Rate(1, 3.0)
    windows = Windows((arxiv,))
    sent = []
    for _ in range(5):
        sent.append(windows.due(100.0))
        windows.take(sent[-1], 100.0)
    assert sent == [100.0, 103.0, 106.0, 109.0, 112.0]


@pytest.mark.parametrize("unit", ["week", "ms", "fortnight", "month", "x", "3"])
def test_D43_an_unknown_unit_is_an_error(unit: str) -> None:
    with pytest.raises(ConfigError, match=r"no unit|no rate"):
        parse_rates(f"1/{unit}")


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        ";",
        "10",
        "10/",
        "/second",
        "-1/second",
        "1.5/second",
        "0/second",
        "1/0second",
        "1//s",
        "10/second;",
        "a/b/c",
        "１/s",
    ],
)
def test_what_is_no_rate_is_an_error_that_names_the_setting(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"traffic\.rate"):
        parse_rates(wrong, "traffic.rate")


@pytest.mark.parametrize("wrong", [None, 10, ["10/second"], b"10/second"])
def test_only_text_is_a_rate(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="rate must be text"):
        parse_rates(wrong)


def test_a_rate_that_would_fill_the_memory_is_an_error() -> None:
    assert parse_rates(f"{MAX_COUNT}/day") == (Rate(MAX_COUNT, 86400.0),)
    with pytest.raises(ConfigError, match="more than") as caught:
        parse_rates(f"{MAX_COUNT + 1}/day")
    assert caught.value.hint == "write it over a shorter time"


@given(st.integers(1, MAX_COUNT), st.integers(1, 1000), st.sampled_from(["second", "minute", "hour", "day"]))
def test_a_rate_is_written_as_it_is_read(most: int, spans: int, unit: str) -> None:
    (rate,) = parse_rates(f"{most}/{spans}{unit}")
    assert parse_rates(str(rate)) == (rate,)


def send(windows: Windows, now: float) -> float:
    at = windows.due(now)
    windows.take(at, now)
    return at


def test_several_windows_hold_together() -> None:
    windows = Windows(parse_rates("2/second; 3/minute"))
    assert [send(windows, 0.0) for _ in range(6)] == [0.0, 0.0, 1.0, 60.0, 60.0, 61.0]


def test_a_plan_that_is_taken_back_leaves_its_room_to_others() -> None:
    windows = Windows(parse_rates("1/second"))
    assert [send(windows, 0.0) for _ in range(3)] == [0.0, 1.0, 2.0]
    windows.give_back(1.0)
    assert windows.due(0.0) == 1.0
    windows.give_back(7.0)  # never planned
    windows.give_back(2.0)
    windows.give_back(0.0)
    assert windows.due(0.0) == 0.0


def test_a_plan_far_ahead_holds_nobody_up() -> None:
    windows = Windows(parse_rates("1/second"))
    windows.take(30.0, 0.0)  # waits for a service, say
    assert [send(windows, 0.0) for _ in range(3)] == [0.0, 1.0, 2.0]
    assert windows.due(29.5) == 31.0


def test_D45_other_rates_act_on_what_was_planned() -> None:
    windows = Windows(parse_rates("10/second"))
    for _ in range(5):
        send(windows, 0.0)
    windows.change(parse_rates("5/minute"))
    assert windows.due(0.0) == 60.0
    windows.change(parse_rates("6/minute"))
    assert windows.due(0.0) == 0.0
    windows.change(())
    assert windows.due(0.0) == 0.0


def test_what_is_too_old_is_forgotten() -> None:
    windows = Windows(parse_rates("3/second"))
    for second in range(10_000):
        assert send(windows, float(second)) == second
    assert len(windows._planned) < 50
    assert not windows.idle(9999.5)
    assert windows.idle(10_000.0)
    assert Windows(parse_rates("3/second")).idle(0.0)


RATES = st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from([1, 2, 3, 10])), min_size=1, max_size=3
).map(lambda found: tuple(Rate(most, float(seconds)) for most, seconds in found))  # fmt: skip


def spans_hold(planned: list[float], rates: Rates) -> bool:
    """The definition: no span of a window's length, wherever it begins, holds more than its number."""
    return all(
        sum(begin <= other < begin + seconds - 2 * SLACK for other in planned) <= most
        for most, seconds in rates
        for begin in planned
    )


@given(RATES, st.lists(st.integers(0, 2500), max_size=60))
def test_REQ_C9_windows_against_their_definition(rates: Rates, pauses: list[int]) -> None:
    windows, planned, now = Windows(rates), list[float](), 1000.0
    for pause in pauses:
        now += pause / 1000
        at = send(windows, now)
        # In the order of asking, the first moment that suits is known: the n-th last is a span ago, for each window.
        free = [planned[-most] + seconds for most, seconds in rates if len(planned) >= most]
        assert at == pytest.approx(max([now, *free, *planned[-1:]]), abs=1e-4)
        planned.append(at)
    assert spans_hold(planned, rates)


STEPS = st.lists(
    st.tuples(st.sampled_from(["send", "send", "ahead", "back"]), st.integers(0, 3000), st.integers(0, 8000)),
    max_size=60,
)


@given(RATES, STEPS)
def test_REQ_C9_windows_hold_whatever_is_planned_ahead_and_taken_back(
    rates: Rates, steps: list[tuple[str, int, int]]
) -> None:
    windows, now = Windows(rates), 1000.0
    planned: list[float] = []
    for what, pause, other in steps:
        now += pause / 1000
        if what == "back":
            ahead = [at for at in planned if at >= now]
            if ahead:
                at = ahead[other % len(ahead)]
                planned.remove(at)
                windows.give_back(at)
            continue
        begin = now + (other / 1000 if what == "ahead" else 0)
        at = windows.due(begin)
        assert at >= begin
        windows.take(at, now)
        planned.append(at)
        # Nobody waits longer than until everything planned is a span ago.
        assert at <= max(begin, max(planned[:-1], default=0) + max(seconds for _, seconds in rates)) + SLACK
    assert spans_hold(planned, rates)


@given(RATES, st.lists(st.integers(0, 2500), max_size=30), st.sampled_from([1.0, 0.8, 0.3]))
def test_a_smaller_share_makes_the_spans_longer(rates: Rates, pauses: list[int], share: float) -> None:
    windows, planned, now = Windows(rates), list[float](), 0.0
    windows.stretch = 1 / share
    for pause in pauses:
        now += pause / 1000
        planned.append(send(windows, now))
    assert spans_hold(planned, tuple(Rate(most, seconds / share) for most, seconds in rates))


class Tokens:
    """A token bucket in exact arithmetic."""

    def __init__(self, size: int, per_second: int) -> None:
        self.size, self.per_second = size, per_second
        self.tokens, self.at = Fraction(size), Fraction(0)

    def level(self, now: Fraction) -> Fraction:
        return min(Fraction(self.size), self.tokens + (now - self.at) * self.per_second)

    def take(self, now: Fraction) -> Fraction:
        self.tokens, self.at = self.level(now) - 1, now
        return now if self.tokens >= 0 else now - self.tokens / self.per_second

    def give_back(self) -> None:
        self.tokens = min(Fraction(self.size), self.tokens + 1)


@given(
    st.integers(1, 7),
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["take", "take", "take", "back"]), st.integers(0, 4000)), max_size=50),
)
def test_REQ_C9_buckets_against_exact_arithmetic(size: int, per_second: int, steps: list[tuple[str, int]]) -> None:
    bucket, model, now = Bucket(size, per_second, now=0.0), Tokens(size, per_second), Fraction(0)
    taken = 0
    for what, pause in steps:
        now += Fraction(pause, 1000)
        if what == "back":
            if taken:
                taken -= 1
                bucket.give_back(float(now))
                model.give_back()
            continue
        at = bucket.due(float(now))
        bucket.take(at, float(now))
        taken += 1
        assert at == pytest.approx(float(model.take(now)), abs=1e-4)
        assert bucket.idle(float(now)) == (model.level(now) >= size - Fraction(1, 10**6))


def test_a_bucket_begins_full_and_lets_later_ones_wait_longer() -> None:
    bucket = Bucket(7, 1.0, now=100.0)
    found = []
    for _ in range(10):
        found.append(bucket.due(100.0))
        bucket.take(found[-1], 100.0)
    assert found == [100.0] * 7 + [101.0, 102.0, 103.0]
    bucket.give_back(103.0)
    assert bucket.due(100.0) == 103.0
    assert not bucket.idle(108.9)
    assert bucket.idle(109.0)


def test_a_plan_suits_all_meters() -> None:
    windows, other, bucket = Windows((Rate(1, 3.0),)), Windows((Rate(1, 2.0),)), Bucket(1, 1.0, now=0.0)
    windows.take(0.0, 0.0)
    other.take(2.5, 0.0)
    bucket.take(0.0, 0.0)
    assert plan([bucket, windows, other], 0.0) == 4.5
    assert plan([bucket], 0.0) == 1.0
    assert plan([], 5.0) == 5.0


def adapt(adaptation: Adaptation, now: float, *, answers: int, limited: int) -> None:
    for n in range(answers):
        adaptation.observe(limited=n < limited, now=now)


def test_D44_the_share_goes_down_in_steps_and_never_below_its_floor() -> None:
    adaptation = Adaptation(Aimd(), now=0.0)
    shares = []
    for minute in range(10):
        adapt(adaptation, minute * 60.0, answers=20, limited=1)  # 5 %
        shares.append(adaptation.adjusted(minute * 60.0 + 60))
    assert shares[:3] == pytest.approx([0.8, 0.64, 0.512])
    assert shares[-1] == 0.3
    assert adaptation.steps == 6


def test_D44_the_share_goes_up_again_also_while_nobody_asks() -> None:
    adaptation = Adaptation(Aimd(), now=0.0)
    adapt(adaptation, 1.0, answers=1, limited=1)
    assert adaptation.adjusted(59.9) == 1.0
    assert adaptation.adjusted(60.0) == 0.8
    adapt(adaptation, 61.0, answers=100, limited=4)  # less than 5 %
    assert adaptation.adjusted(120.0) == pytest.approx(0.84)
    assert adaptation.adjusted(240.0) == pytest.approx(0.84 * 1.05**2)
    assert adaptation.adjusted(1e9) == 1.0


def test_D44_a_small_limit_adapts_and_still_lets_requests_through() -> None:
    windows, adaptation = Windows((Rate(1, 3.0),)), Adaptation(Aimd(), now=0.0)
    for minute in range(20):
        adapt(adaptation, minute * 60.0, answers=1, limited=1)
    windows.stretch = 1 / adaptation.adjusted(1200.0)
    assert send(windows, 1200.0) == 1200.0
    assert windows.due(1200.0) == pytest.approx(1210.0)  # one in ten seconds in place of three


@given(st.lists(st.tuples(st.integers(0, 200), st.booleans()), max_size=80))
def test_D44_adaptation_against_a_loop_over_minutes(events: list[tuple[int, bool]]) -> None:
    policy = Aimd()
    adaptation = Adaptation(policy, now=0.0)
    now, minute, share, answers, limited = 0, 0, 1.0, 0, 0
    for pause, refused in events:
        now += pause
        while (minute + 1) * 60 <= now:
            down = answers > 0 and limited / answers >= policy.threshold
            share = max(policy.floor, share * policy.down) if down else min(1.0, share * policy.up)
            minute, answers, limited = minute + 1, 0, 0
        assert adaptation.adjusted(float(now)) == pytest.approx(share)
        assert policy.floor <= share <= 1
        adaptation.observe(limited=refused, now=float(now))
        answers, limited = answers + 1, limited + refused


@pytest.mark.parametrize(
    "wrong",
    [
        {"every": 0},
        {"threshold": 0},
        {"threshold": 1.1},
        {"down": 0},
        {"down": 2},
        {"floor": 0},
        {"up": 0.9},
        {"evry": 1},
    ],
)
def test_D44_no_setting_can_make_a_rate_nothing(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Aimd.of(Table(wrong, "aimd"))


def test_adaptation_of_a_table() -> None:
    assert Aimd.of(Table({"every": 30, "floor": 0.5}, "aimd")) == Aimd(every=30.0, floor=0.5)


def test_limits_inherit_what_they_leave_out() -> None:
    base = Limit(parse_rates("10/second"), 0.2, 4)
    assert Limit().over(base) == base
    assert Limit(rates=()).over(base) == Limit((), 0.2, 4)
    assert Limit(wait=0.0).over(base) == Limit(base.rates, 0.0, 4)
    assert Limit(concurrency=0).over(base) == Limit(base.rates, 0.2, 0)
    assert (Limit().patience, Limit(wait=0.0).patience) == (DEFAULT_WAIT, 0.0)


def test_limits_of_a_table() -> None:
    table = Table({"rate": "1/3second", "wait": 10, "concurrency": 2}, "t")
    assert Limit.read(table) == Limit((Rate(1, 3.0),), 10.0, 2)
    table.done()
    for wrong in ({"rate": 5}, {"wait": -1}, {"concurrency": 1.5}, {"concurrency": -1}):
        with pytest.raises(ConfigError, match=rf"t\.{next(iter(wrong))}"):
            Limit.read(Table(wrong, "t"))


def test_the_polite_roles_are_those_of_the_specification() -> None:
    assert {role: ("; ".join(map(str, limit.rates or ())), limit.wait) for role, limit in POLITE.items()} == {
        "metadata": ("10/second; 5000/hour", 0.2),
        "landing": ("5/second; 2000/hour", 0.25),
        "artifact": ("2/second; 500/hour", 2.0),
    }
