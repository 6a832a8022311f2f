"""Token buckets per rule, on a clock that the test owns (A.14)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.core.ratelimit import Buckets, Key, effective
from fazt.errors import Code, FaztError, Reason

KEY: Key = ("app1", "api.test")


def take(buckets: Buckets, now: float, *, key: Key = KEY, rate: int = 60, burst: int = 1) -> None:
    buckets.take(key, rate_per_min=rate, burst=burst, now=now)


def wait(buckets: Buckets, now: float, *, key: Key = KEY, rate: int = 60, burst: int = 1) -> float:
    with pytest.raises(FaztError) as caught:
        take(buckets, now, key=key, rate=rate, burst=burst)
    error = caught.value
    assert (error.code, error.reason, error.retryable) == (Code.NET_RATE, Reason.HOST_RATE, True)
    assert error.retry_after is not None
    return error.retry_after


def test_a_bucket_begins_full_and_names_the_wait() -> None:
    buckets = Buckets()
    for _ in range(3):
        take(buckets, 100.0, rate=30, burst=3)
    assert wait(buckets, 100.0, rate=30, burst=3) == pytest.approx(2.0)
    assert wait(buckets, 101.5, rate=30, burst=3) == pytest.approx(0.5)
    take(buckets, 102.0, rate=30, burst=3)
    assert wait(buckets, 102.0, rate=30, burst=3) == pytest.approx(2.0)


def test_no_rate_is_no_limit_and_no_bucket() -> None:
    buckets = Buckets()
    for rate in (0, -1):
        for _ in range(100):
            take(buckets, 0.0, rate=rate, burst=0)
    assert len(buckets) == 0


@pytest.mark.parametrize("burst", [0, -3])
def test_a_rate_without_burst_is_a_burst_of_one(burst: int) -> None:
    buckets = Buckets()
    take(buckets, 0.0, burst=burst)
    assert wait(buckets, 0.0, burst=burst) == pytest.approx(1.0)


def test_F23_apps_and_patterns_have_buckets_of_their_own() -> None:
    buckets = Buckets()
    keys: list[Key] = [("app1", "api.test"), ("app2", "api.test"), ("", "api.test"), ("app1", "*.api.test")]
    for key in keys:
        take(buckets, 0.0, key=key)
    for key in keys:
        wait(buckets, 0.0, key=key)
    assert len(buckets) == 4


def test_F23_a_changed_rate_acts_on_the_live_bucket() -> None:
    buckets = Buckets()
    take(buckets, 0.0, rate=1)
    assert wait(buckets, 0.0, rate=1) == pytest.approx(60.0)
    assert wait(buckets, 0.0, rate=600) == pytest.approx(0.1)
    take(buckets, 0.1, rate=600)


def test_F23_a_changed_burst_acts_on_the_live_bucket() -> None:
    buckets = Buckets()
    take(buckets, 0.0, burst=10)
    take(buckets, 0.0, burst=2)
    take(buckets, 0.0, burst=2)
    wait(buckets, 0.0, burst=2)
    wait(buckets, 0.0, burst=10)  # a larger burst has to be earned
    for _ in range(10):
        take(buckets, 20.0, burst=10)
    wait(buckets, 20.0, burst=10)


def test_F23_a_refused_call_spends_nothing_and_a_token_can_be_given_back() -> None:
    buckets = Buckets()
    take(buckets, 0.0)
    for _ in range(50):
        wait(buckets, 0.5)
    buckets.give_back(KEY)
    take(buckets, 0.5)
    for _ in range(5):
        buckets.give_back(KEY)
    take(buckets, 0.5)
    wait(buckets, 0.5)
    buckets.give_back(("nobody", "nowhere"))


def test_F23_waiting_the_time_named_is_enough() -> None:
    for rate in (1, 7, 13, 59, 60, 61, 997, 1000):
        buckets = Buckets()
        now = 1e7 + 1 / 3
        for _ in range(20):
            take(buckets, now, rate=rate)
            now += wait(buckets, now, rate=rate)


def test_F23_buckets_that_filled_up_are_dropped() -> None:
    buckets = Buckets()
    take(buckets, 0.0, rate=60, burst=2)
    take(buckets, 0.0, key=("slow", "x"), rate=1, burst=10)
    assert buckets.sweep(0.5) == 0
    assert buckets.sweep(1.0) == 1
    assert buckets.sweep(59.0) == 0
    assert buckets.sweep(60.0) == 1
    assert len(buckets) == 0


def test_F23_memory_stays_near_what_is_in_use() -> None:
    buckets = Buckets()
    take(buckets, 0.0, key=("", "slow"), rate=1)
    most = 0
    for n in range(5000):
        take(buckets, n * 0.1, key=("app", f"h{n}"))  # each full again after a second: ten in use at a time
        most = max(most, len(buckets))
    assert most < 50


def test_a_clock_that_steps_back_gives_nothing() -> None:
    buckets = Buckets()
    take(buckets, 100.0)
    assert wait(buckets, 50.0) == pytest.approx(1.0)
    take(buckets, 101.0)


def test_the_rule_goes_before_the_default() -> None:
    assert effective(0, 0, default_rate=60, default_burst=5) == (60, 5)
    assert effective(10, 0, default_rate=60, default_burst=5) == (10, 5)
    assert effective(0, 3, default_rate=60, default_burst=5) == (60, 3)
    assert effective(10, 3, default_rate=0, default_burst=0) == (10, 3)


@dataclass
class Model:
    """The same bucket in exact arithmetic, never dropped."""

    tokens: Fraction
    at: int
    rate: int
    burst: int

    def level(self, now: int) -> Fraction:
        return min(Fraction(self.burst), self.tokens + Fraction(self.rate * (now - self.at), 60_000))

    def take(self, now: int, rate: int, burst: int) -> Fraction:
        """Return 0 when a token was there, else the seconds to wait."""
        self.tokens = min(self.level(now), Fraction(burst))
        self.at, self.rate, self.burst = now, rate, burst
        if self.tokens >= 1:
            self.tokens -= 1
            return Fraction(0)
        return (1 - self.tokens) * 60 / rate


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "take", "give", "sweep"]),
        st.sampled_from("ab"),
        st.sampled_from([1, 7, 60, 600]),
        st.integers(1, 4),
        st.integers(0, 20_000),
    ),
    max_size=60,
)


@given(STEPS)
def test_buckets_against_exact_arithmetic(steps: list[tuple[str, str, int, int, int]]) -> None:
    buckets, models, now = Buckets(), dict[str, Model](), 1_000_000_000
    for what, app, rate, burst, passed in steps:
        now += passed
        key = (app, "h")
        if what == "sweep":
            buckets.sweep(now / 1000)
        elif what == "give":
            buckets.give_back(key)
            if app in models:
                model = models[app]
                model.tokens = min(Fraction(model.burst), model.tokens + 1)
        else:
            # A bucket that was full when it was dropped comes back full under the settings of the next call.
            model = models.get(app, Model(Fraction(burst), now, rate, burst))
            if key not in buckets._buckets:
                assert model.level(now) >= model.burst - Fraction(1, 10**5)
                model = Model(Fraction(burst), now, rate, burst)
            models[app] = model
            expected = model.take(now, rate, burst)
            if expected == 0:
                take(buckets, now / 1000, key=key, rate=rate, burst=burst)
            else:
                assert wait(buckets, now / 1000, key=key, rate=rate, burst=burst) == pytest.approx(
                    float(expected), abs=1e-3
                )
