"""Circuits: a state machine that is asked and told, on a clock that the test owns (C.10)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fazt.core.breaker import (
    NONE,
    TRIAL_WAIT,
    Cause,
    Circuit,
    Deadlines,
    Key,
    Refusal,
    State,
    on_own_clock,
    on_wall_clock,
)
from fazt.core.breaker_policy import FAILED, BreakerPolicy, Outcome, Rolling, Threshold
from fazt.core.tables import Table
from fazt.errors import Code, ConfigError, FaztError, Reason

POLICY = BreakerPolicy()
NOTHING: dict[str, Any] = {"status": None, "reason": None}


def attempt(
    circuit: Circuit, now: float, status: int | None = None, *, reason: Reason | None = None, wait: float | None = None
) -> None:
    """Make one attempt that is let through, with its outcome."""
    assert circuit.refusal(now) is None
    permit = circuit.admit()
    circuit.note(now=now, status=status, reason=reason, retry_after=wait)
    circuit.count(permit, now=now, status=status, reason=reason)


def opened(now: float = 0.0, policy: BreakerPolicy = POLICY) -> Circuit:
    circuit = Circuit(policy)
    for _ in range(policy.threshold.fail_max):
        attempt(circuit, now, 503)
    assert circuit.state(now) is State.OPEN
    return circuit


def test_the_default_is_that_of_the_specification() -> None:
    assert POLICY.threshold == Threshold(fail_max=5, reset=60.0, success_threshold=1, trial_calls=1)
    assert POLICY.retry_after_cap == 900.0
    assert POLICY.failures == {429, 500, 502, 503, 504, 408}
    assert POLICY.neutral == {401, 403, 404, 410, 451}
    assert (POLICY.roles, POLICY.rolling) == ((), None)
    assert Rolling() == Rolling(threshold=3, window=10.0, cooldown=30.0)
    assert hash(POLICY) == hash(BreakerPolicy())


def test_REQ_C10_five_failures_in_a_row_open_it() -> None:
    circuit = Circuit(POLICY)
    for n in range(4):
        attempt(circuit, n, 500)
    attempt(circuit, 4.0, 200)  # not in a row any more
    for n in range(4):
        attempt(circuit, 5.0 + n, 500)
        assert circuit.state(5.0 + n) is State.CLOSED
    attempt(circuit, 9.0, reason=Reason.FIRST_BYTE)
    assert circuit.state(9.0) is State.OPEN
    assert circuit.refusal(10.0) == Refusal(Cause.FAILURES, 59.0)
    assert (circuit.remaining(10.0), circuit.remaining(69.0)) == (59.0, 0.0)
    assert circuit.state(69.0) is State.HALF_OPEN


@pytest.mark.parametrize("status", sorted(POLICY.failures))
def test_each_failure_status_opens_it(status: int) -> None:
    circuit = Circuit(POLICY)
    for _ in range(5):
        attempt(circuit, 0.0, status)
    assert circuit.state(0.0) is State.OPEN


@pytest.mark.parametrize("outcome", [*sorted(POLICY.neutral), *sorted(set(Reason) - FAILED)])
def test_D47_REQ_C10_neutral_outcomes_change_nothing(outcome: int | Reason) -> None:
    circuit = Circuit(POLICY)
    neutral: dict[str, Any] = {"reason": outcome} if isinstance(outcome, Reason) else {"status": outcome}
    for _ in range(4):
        attempt(circuit, 0.0, 503)
        attempt(circuit, 0.0, **neutral)
    assert circuit.failures == 4  # neither counted nor cleared
    attempt(circuit, 0.0, 503)
    assert circuit.state(0.0) is State.OPEN
    attempt(circuit, 60.0, **neutral)
    assert circuit.state(60.0) is State.HALF_OPEN
    attempt(circuit, 60.0, 200)  # the trial went back
    assert circuit.state(60.0) is State.CLOSED


def test_REQ_C10_a_refusal_is_no_failure_of_the_host() -> None:
    for reason in (Reason.BREAKER_OPEN, Reason.HOST_RATE, Reason.POOL_WAIT, Reason.PRIVATE_ADDRESS, Reason.TOTAL):
        assert POLICY.judge(None, reason) is Outcome.NEUTRAL
    assert {FaztError(reason, "").code for reason in FAILED} == {Code.NET_TIMEOUT, Code.NET_ERROR}


def test_D47_a_429_with_retry_after_always_cools_down() -> None:
    for policy in (
        POLICY,
        BreakerPolicy(failures=frozenset({500, 502, 503, 504})),  # the shipped table of C: 429 in neither set
        BreakerPolicy(failures=frozenset({500}), neutral=frozenset({429})),
    ):
        circuit = Circuit(policy)
        attempt(circuit, 0.0, 429, wait=30.0)
        assert circuit.refusal(10.0) == Refusal(Cause.COOL_DOWN, 20.0)
        assert circuit.refusal(30.0) is None


def test_a_503_with_retry_after_cools_down_unless_it_is_neutral() -> None:
    circuit = Circuit(POLICY)
    attempt(circuit, 0.0, 503, wait=30.0)
    assert circuit.state(29.0) is State.OPEN
    circuit = Circuit(BreakerPolicy(failures=frozenset({500}), neutral=frozenset({503})))
    attempt(circuit, 0.0, 503, wait=30.0)
    assert circuit.state(0.0) is State.CLOSED


@pytest.mark.parametrize(("status", "wait"), [(429, None), (429, 0.0), (500, 30.0), (200, 30.0), (404, 30.0)])
def test_nothing_else_cools_down(status: int, wait: float | None) -> None:
    circuit = Circuit(POLICY)
    attempt(circuit, 0.0, status, wait=wait)
    assert circuit.state(0.0) is State.CLOSED


def test_D48_a_success_does_not_clear_a_cool_down_that_the_server_asked_for() -> None:
    circuit = Circuit(POLICY)
    early = circuit.admit()
    attempt(circuit, 0.0, 429, wait=30.0)
    circuit.note(now=1.0, status=200, reason=None, retry_after=None)
    circuit.count(early, now=1.0, status=200, reason=None)
    assert circuit.refusal(1.0) == Refusal(Cause.COOL_DOWN, 29.0)


def test_a_cool_down_is_believed_up_to_the_cap_and_never_made_shorter() -> None:
    circuit = Circuit(POLICY)
    first, second = circuit.admit(), circuit.admit()
    circuit.note(now=0.0, status=429, reason=None, retry_after=1e6)
    circuit.count(first, now=0.0, status=429, reason=None)
    assert circuit.remaining(0.0) == 900.0
    circuit.note(now=1.0, status=429, reason=None, retry_after=5.0)
    circuit.count(second, now=1.0, status=429, reason=None)
    assert circuit.remaining(1.0) == 899.0


def test_waiting_exactly_the_time_named_is_enough() -> None:
    circuit, now = Circuit(POLICY), 1e7 + 1 / 3
    attempt(circuit, now, 429, wait=0.1)
    refusal = circuit.refusal(now)
    assert refusal is not None
    assert circuit.refusal(now + refusal.seconds) is None


def test_the_rolling_window_opens_it_whatever_succeeds_between() -> None:
    circuit = Circuit(BreakerPolicy(rolling=Rolling(threshold=3, window=10.0, cooldown=30.0)))
    for now in (0.0, 9.0, 11.0):  # never three within ten seconds
        attempt(circuit, now, 503)
        attempt(circuit, now, 200)
    attempt(circuit, 18.0, 503)
    assert circuit.refusal(18.0) == Refusal(Cause.ROLLING, 30.0)
    assert circuit.state(47.9) is State.OPEN
    assert circuit.state(48.0) is State.CLOSED  # no trial: it is another failure that opens it again
    attempt(circuit, 48.0, 503)
    assert circuit.state(48.0) is State.CLOSED


def test_failures_that_opened_it_once_do_not_open_it_again() -> None:
    circuit = Circuit(BreakerPolicy(rolling=Rolling(threshold=3, window=100.0, cooldown=1.0)))
    for now in (0.0, 0.0, 0.0, 1.0, 1.0):
        attempt(circuit, now, 503)
        attempt_ok(circuit, now)
    assert circuit.state(1.0) is State.CLOSED


def attempt_ok(circuit: Circuit, now: float) -> None:
    if circuit.refusal(now) is None:
        attempt(circuit, now, 200)


def test_half_open_lets_trials_through_and_no_more() -> None:
    circuit = opened(policy=BreakerPolicy(Threshold(trial_calls=2)))
    permits = []
    for _ in range(2):
        assert circuit.refusal(60.0) is None
        permits.append(circuit.admit())
    assert circuit.refusal(60.0) == Refusal(Cause.TRIALS, TRIAL_WAIT)
    assert circuit.state(60.0) is State.HALF_OPEN
    circuit.count(permits[0], now=61.0, status=503, reason=None)
    assert circuit.refusal(61.0) == Refusal(Cause.FAILURES, 60.0)
    circuit.count(permits[1], now=62.0, status=200, reason=None)  # it was let in before that and says nothing
    assert circuit.state(62.0) is State.OPEN


def test_D48_the_number_of_successes_that_close_it_counts() -> None:
    circuit = opened(policy=BreakerPolicy(Threshold(success_threshold=3)))
    for n in range(3):
        assert circuit.state(60.0 + n) is State.HALF_OPEN
        attempt(circuit, 60.0 + n, 200)
    assert circuit.state(63.0) is State.CLOSED
    assert circuit.calm


@pytest.mark.parametrize("end", ["cancel", "neutral", "failure", "success"])
def test_D48_REQ_C10_a_trial_goes_back_whatever_becomes_of_it(end: str) -> None:
    circuit = opened(policy=BreakerPolicy(Threshold(success_threshold=4)))
    now = 60.0
    for _ in range(3):
        assert circuit.refusal(now) is None
        permit = circuit.admit()
        assert circuit.crowded()
        if end == "cancel":
            circuit.cancel(permit)
        else:
            status = {"neutral": 404, "failure": 503, "success": 200}[end]
            circuit.count(permit, now=now, status=status, reason=None)
        assert not circuit.crowded()
        now += 60


def test_what_was_let_in_before_the_circuit_turned_says_nothing() -> None:
    circuit = Circuit(POLICY)
    early = [circuit.admit() for _ in range(12)]
    for permit in early[:5]:
        circuit.count(permit, now=0.0, status=503, reason=None)
    assert circuit.state(0.0) is State.OPEN
    for permit, status in ((early[5], 200), (early[6], 503)):
        circuit.count(permit, now=59.0, status=status, reason=None)
    assert circuit.remaining(59.0) == 1.0
    attempt(circuit, 60.0, 200)
    for permit in early[7:]:
        circuit.count(permit, now=61.0, status=503, reason=None)
    assert (circuit.state(61.0), circuit.failures) == (State.CLOSED, 0)


def test_by_hand() -> None:
    circuit = Circuit(POLICY)
    circuit.open(100.0, "they are moving")
    assert circuit.refusal(40.0) == Refusal(Cause.MANUAL, 60.0)
    assert circuit.deadlines.reason == "they are moving"
    assert circuit.refusal(100.0) is None
    circuit = opened()
    circuit.open(1000.0)
    circuit.note(now=0.0, status=429, reason=None, retry_after=500.0)
    circuit.close()
    assert (circuit.calm, circuit.failures, circuit.state(0.0)) == (True, 0, State.CLOSED)


def test_the_causes_are_looked_at_in_order() -> None:
    circuit = opened(policy=BreakerPolicy(rolling=Rolling(threshold=5)))
    circuit.note(now=0.0, status=503, reason=None, retry_after=10.0)
    circuit.open(5.0)
    found = []
    for now in (0.0, 5.0, 10.0, 30.0):
        refusal = circuit.refusal(now)
        assert refusal is not None
        found.append(refusal)
    assert found == [
        (Cause.MANUAL, 5.0),
        (Cause.COOL_DOWN, 5.0),
        (Cause.ROLLING, 20.0),
        (Cause.FAILURES, 30.0),
    ]
    assert circuit.remaining(0.0) == 60.0


def test_without_a_policy_it_obeys_only_what_comes_from_outside() -> None:
    circuit = Circuit(None)
    for _ in range(20):
        attempt(circuit, 0.0, 503, wait=60.0)
    assert circuit.calm
    circuit.adopt(Deadlines(manual=10.0))
    assert circuit.state(9.0) is State.OPEN
    assert circuit.state(10.0) is State.CLOSED


def test_another_policy_acts_on_what_was_counted() -> None:
    circuit = Circuit(POLICY)
    for _ in range(3):
        attempt(circuit, 0.0, 503)
    circuit.use(BreakerPolicy(Threshold(fail_max=4)))
    attempt(circuit, 0.0, 503)
    assert circuit.state(0.0) is State.OPEN


def test_failures_long_ago_are_forgotten() -> None:
    circuit = Circuit(POLICY)
    for _ in range(4):
        attempt(circuit, 0.0, 503)
    assert not circuit.idle(600.0)
    assert circuit.idle(600.1)
    attempt(circuit, 600.1, 503)
    assert circuit.failures == 1


def test_idle_is_only_what_nobody_would_miss() -> None:
    circuit = Circuit(BreakerPolicy(rolling=Rolling()))
    assert circuit.idle(0.0)
    permit = circuit.admit()
    assert not circuit.idle(0.0)  # its outcome must find it
    circuit.cancel(permit)
    assert circuit.idle(0.0)
    attempt(circuit, 0.0, 503)
    attempt(circuit, 0.0, 200)
    assert not circuit.idle(9.9)  # counts for the rolling window
    assert circuit.idle(10.0)
    circuit = opened()
    assert not circuit.idle(60.0)
    assert not circuit.idle(659.0)
    assert circuit.idle(661.0)
    circuit.open(2000.0)
    assert not circuit.idle(1999.0)


def test_D48_deadlines_move_between_clocks_without_mixing_them() -> None:
    own = Deadlines(open=160.0, rolling=0.0, cool=130.0, manual=0.0, reason="x")
    shared = on_wall_clock(own, now=100.0, wall_now=1_000_000.0)
    assert shared == Deadlines(open=1_000_060.0, rolling=0.0, cool=1_000_030.0, manual=0.0, reason="x")
    # Another process, whose monotonic clock began elsewhere, ten seconds later.
    other = on_own_clock(shared, now=7.0, wall_now=1_000_010.0)
    assert other == Deadlines(open=57.0, cool=27.0, reason="x")
    circuit = Circuit(POLICY)
    circuit.adopt(other)
    assert circuit.remaining(7.0) == 50.0


@given(st.floats(1, 1e9), st.floats(1, 1e9), st.floats(1, 1e9))
def test_D48_there_and_back_is_the_same_moment(moment: float, now: float, wall: float) -> None:
    there = on_wall_clock(Deadlines(open=moment), now=now, wall_now=wall)
    assert on_own_clock(there, now=now, wall_now=wall).open == pytest.approx(moment, abs=1e-5)


def test_what_another_process_found_out_is_taken_over() -> None:
    circuit = Circuit(POLICY)
    circuit.adopt(Deadlines(open=60.0))
    assert circuit.state(0.0) is State.OPEN
    assert circuit.refusal(60.0) is None
    permit = circuit.admit()
    circuit.adopt(Deadlines(open=60.1))  # the same opening, seen through another clock
    assert circuit.crowded()
    circuit.adopt(Deadlines(open=120.0))  # the trial of another process failed
    assert not circuit.crowded()
    circuit.count(permit, now=61.0, status=200, reason=None)
    assert circuit.state(61.0) is State.OPEN
    circuit.adopt(NONE)
    assert (circuit.state(61.0), circuit.calm) == (State.CLOSED, True)


def test_closed_elsewhere_forgets_what_was_counted_here() -> None:
    circuit = Circuit(BreakerPolicy(rolling=Rolling(threshold=5)))
    for _ in range(4):
        attempt(circuit, 0.0, 503)
    circuit.adopt(NONE)
    attempt(circuit, 0.0, 503)
    assert (circuit.failures, circuit.state(0.0)) == (1, State.CLOSED)


@pytest.mark.parametrize(
    "wrong",
    [
        {"fail_max": 0},
        {"fail_max": 1.5},
        {"reset": 0},
        {"reset": -1},
        {"success_threshold": 0},
        {"trial_calls": 0},
        {"retry_after_cap": -1},
        {"failures": ["x"]},
        {"neutral": 404},
        {"rolling": {"threshold": 0}},
        {"rolling": {"window": 0}},
        {"rolling": {"cooldown": 0}},
        {"rolling": {"enabled": 1}},
        {"rolling": {"enable": True}},
        {"roles": {"artifact": {"fail_max": 0}}},
        {"roles": {"artifact": {"rolling": True}}},
        {"roles": 5},
        {"reset_s": 60},
    ],
)
def test_D33_a_setting_that_cannot_be_used_is_named(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigError, match=rf"traffic\.breaker\.{name}"):
        BreakerPolicy.read(wrong, "traffic.breaker")


@pytest.mark.parametrize(
    ("made", "wrong"),
    [
        (Threshold, {"fail_max": 0}),
        (Threshold, {"reset": 0}),
        (Threshold, {"success_threshold": 0}),
        (Threshold, {"trial_calls": 0}),
        (Rolling, {"threshold": 0}),
        (Rolling, {"window": 0.0}),
        (Rolling, {"cooldown": -1}),
        (BreakerPolicy, {"retry_after_cap": float("inf")}),
        (BreakerPolicy, {"failures": frozenset({1000})}),
    ],
)
def test_no_policy_can_be_made_that_makes_no_sense(made: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        made(**wrong)


def test_the_least_that_makes_sense_can_be_used() -> None:
    table = {"fail_max": 1, "reset": 0.5, "success_threshold": 1, "trial_calls": 1, "retry_after_cap": 0}
    assert BreakerPolicy.read(table, "b") == BreakerPolicy(Threshold(1, 0.5, 1, 1), retry_after_cap=0.0)
    assert Rolling.read(Table({"threshold": 1, "window": 0.5, "cooldown": 0.5}, "r")) == Rolling(1, 0.5, 0.5)


def test_a_status_is_a_failure_or_neutral() -> None:
    with pytest.raises(ConfigError, match="503"):
        BreakerPolicy(failures=frozenset({503}), neutral=frozenset({503}))
    moved = BreakerPolicy.read({"neutral": [429, 404]}, "b")
    assert moved is not None
    assert moved.failures == POLICY.failures - {429}
    moved = BreakerPolicy.read({"failures": [403, 503]}, "b")
    assert moved is not None
    assert moved.neutral == POLICY.neutral - {403}


def test_D33_policies_of_tables() -> None:
    made = BreakerPolicy.read(
        {
            "fail_max": 3,
            "reset": 10,
            "rolling": True,
            "roles": {"artifact": {"fail_max": 10}, "landing": {"trial_calls": 4, "success_threshold": 2}},
        },
        "breaker",
    )
    assert made == BreakerPolicy(
        Threshold(3, 10.0),
        (("artifact", Threshold(10, 10.0)), ("landing", Threshold(3, 10.0, 2, 4))),
        Rolling(),
    )
    assert BreakerPolicy.read({"roles": {"artifact": {"reset": 5}}}, "b", default=made) == BreakerPolicy(
        Threshold(3, 10.0),
        (("artifact", Threshold(10, 5.0)), ("landing", Threshold(3, 10.0, 2, 4))),
        Rolling(),
    )
    assert BreakerPolicy.read({"rolling": {"enabled": False}}, "b", default=made) == BreakerPolicy(
        made.threshold if made else Threshold(), made.roles if made else (), None
    )
    assert BreakerPolicy.read({"rolling": False}, "b") == POLICY
    assert [BreakerPolicy.read(value, "b") for value in (None, False, True, POLICY)] == [None, None, POLICY, POLICY]
    with pytest.raises(ConfigError, match=r"^b must be a table"):
        BreakerPolicy.read(3, "b")
    assert Rolling.read(Table({"window": 5}, "r")) == Rolling(window=5.0)


def test_keys_can_be_read() -> None:
    assert str(Key("host", "api.test")) == "host api.test"
    assert str(Key("host", "api.test", "artifact")) == "host api.test, role artifact"


class AgainstModel(RuleBasedStateMachine):
    """A circuit beside a description of C.10 in plain words: numbers, and lists that are counted anew each time."""

    @initialize(fail_max=st.integers(1, 4), success=st.integers(1, 3), trials=st.integers(1, 3), rolling=st.booleans())
    def begin(self, fail_max: int, success: int, trials: int, rolling: bool) -> None:
        self.rolling = Rolling(threshold=3, window=10.0, cooldown=30.0) if rolling else None
        self.threshold = Threshold(fail_max, 60.0, success, trials)
        self.circuit = Circuit(BreakerPolicy(self.threshold, rolling=self.rolling))
        self.now = 1000
        self.epoch = 0  # how often it opened or closed
        self.opened_at: int | None = None
        self.history: list[str] = []  # outcomes since it closed
        self.last_failure = 0
        self.trial_successes = 0
        self.failed_at: list[int] = []
        self.cool_until = self.rolling_until = self.manual_until = 0
        self.permits: list[tuple[int, int, bool]] = []  # what was given, in which epoch, whether it is a trial

    def turn(self, *, opened: bool) -> None:
        self.epoch += 1
        self.opened_at = self.now if opened else None
        self.history = []
        self.trial_successes = 0

    def expected(self) -> Cause | None:
        if self.now < self.manual_until:
            return Cause.MANUAL
        if self.now < self.cool_until:
            return Cause.COOL_DOWN
        if self.now < self.rolling_until:
            return Cause.ROLLING
        if self.opened_at is not None:
            if self.now < self.opened_at + 60:
                return Cause.FAILURES
            under_way = [1 for _, epoch, trial in self.permits if trial and epoch == self.epoch]
            if len(under_way) >= self.threshold.trial_calls:
                return Cause.TRIALS
        return None

    @rule(seconds=st.sampled_from([1, 3, 9, 20, 31, 59, 60, 700]))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def ask(self) -> None:
        refusal = self.circuit.refusal(float(self.now))
        assert (refusal.cause if refusal is not None else None) == self.expected()
        if refusal is None:
            trial = self.opened_at is not None
            permit = self.circuit.admit()
            assert (permit < 0) == trial
            self.permits.append((permit, self.epoch, trial))

    @precondition(lambda self: self.permits)
    @rule(pick=st.integers(0, 50))
    def cancel(self, pick: int) -> None:
        permit, _, _ = self.permits.pop(pick % len(self.permits))
        self.circuit.cancel(permit)

    @precondition(lambda self: self.permits)
    @rule(
        pick=st.integers(0, 50),
        status=st.sampled_from([200, 200, 404, 429, 503, 503, 500]),
        wait=st.sampled_from([None, None, 5, 40, 5000]),
    )
    def finish(self, pick: int, status: int, wait: int | None) -> None:
        permit, epoch, trial = self.permits.pop(pick % len(self.permits))
        self.circuit.note(now=float(self.now), status=status, reason=None, retry_after=wait)
        self.circuit.count(permit, now=float(self.now), status=status, reason=None)
        failed = status in (429, 500, 503)
        if wait and status in (429, 503):
            self.cool_until = max(self.cool_until, self.now + min(wait, 900))
        if failed and self.rolling is not None:
            self.failed_at.append(self.now)
            if len([at for at in self.failed_at if at > self.now - 10]) >= 3:
                self.failed_at = []
                self.rolling_until = max(self.rolling_until, self.now + 30)
        if epoch != self.epoch or status == 404:
            return
        if trial:
            self.trial_successes += not failed
            if failed:
                self.turn(opened=True)
            elif self.trial_successes >= self.threshold.success_threshold:
                self.turn(opened=False)
            return
        if failed and self.now - self.last_failure > 600:
            self.history = []
        if failed:
            self.last_failure = self.now
        self.history.append("failed" if failed else "fine")
        if self.history[-self.threshold.fail_max :] == ["failed"] * self.threshold.fail_max:
            self.turn(opened=True)

    @rule(seconds=st.integers(1, 100))
    def open_by_hand(self, seconds: int) -> None:
        self.circuit.open(float(self.now + seconds), "because")
        self.manual_until = self.now + seconds

    @rule()
    def close_by_hand(self) -> None:
        self.circuit.close()
        self.turn(opened=False)
        self.cool_until = self.rolling_until = self.manual_until = 0
        self.failed_at = []

    @invariant()
    def what_can_be_asked_agrees(self) -> None:
        if not hasattr(self, "circuit"):
            return
        now = float(self.now)
        until = max(self.manual_until, self.cool_until, self.rolling_until, (self.opened_at or -1000) + 60)
        assert self.circuit.remaining(now) == max(0, until - self.now)
        state = State.OPEN if until > self.now else State.CLOSED if self.opened_at is None else State.HALF_OPEN
        assert self.circuit.state(now) is state
        if self.circuit.calm:
            assert state is State.CLOSED
        if self.permits:
            assert not self.circuit.idle(now)


TestAgainstModel = AgainstModel.TestCase
