"""When an attempt is made again (C.8), and how Retry-After is read."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.core.retry import (
    DEFAULT,
    SAFE_TO_REPEAT,
    Again,
    RetryPolicy,
    Stop,
    parse_retry_after,
    retry_after_of,
    was_sent,
)
from fazt.errors import Code, ConfigError, FaztError, Reason, StaleConnectionError

KEYED = (("Accept", "*/*"), ("idempotency-KEY", "9f"))
TIMEOUTS = {Reason.DNS, Reason.CONNECT, Reason.TLS_HANDSHAKE, Reason.WRITE, Reason.FIRST_BYTE, Reason.BODY}
BROKEN = {Reason.DNS_FAILED, Reason.CONNECT_FAILED, Reason.PROTOCOL}


def decide(policy: RetryPolicy = DEFAULT, **given: Any) -> Again | Stop:
    return policy.decide(**{"attempt": 1, "method": "GET", "draw": 1.0, **given})


def test_the_default_is_that_of_the_specification() -> None:
    assert RetryPolicy() == DEFAULT
    assert DEFAULT.attempts == 4
    assert DEFAULT.statuses == {429, 500, 502, 503, 504}
    assert DEFAULT.methods == {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"}
    assert (DEFAULT.base, DEFAULT.cap, DEFAULT.retry_after_cap) == (0.75, 60.0, 900.0)
    assert (DEFAULT.ceiling, DEFAULT.idempotent, DEFAULT.timeouts, DEFAULT.protocol) == (None, False, True, True)


def test_REQ_C8_one_policy_object_is_immutable_and_hashable() -> None:
    same = RetryPolicy(statuses=[504, 503, 502, 500, 429])  # type: ignore[arg-type]
    assert same == DEFAULT
    assert hash(same) == hash(DEFAULT)
    assert len({same, DEFAULT, RetryPolicy(attempts=5)}) == 2
    with pytest.raises(AttributeError):
        same.attempts = 5  # type: ignore[misc]


@pytest.mark.parametrize("status", [200, 204, 301, 304, 400, 401, 404, 408, 501, 505])
def test_an_answer_that_is_not_listed_is_the_answer(status: int) -> None:
    assert decide(status=status) == Stop("done")


def test_408_is_optional() -> None:
    policy = RetryPolicy(statuses=DEFAULT.statuses | {408})
    assert decide(policy, status=408) == Again(0.75)


@pytest.mark.parametrize("status", sorted(DEFAULT.statuses))
def test_a_listed_status_is_tried_four_times_in_all(status: int) -> None:
    found = [decide(status=status, attempt=n) for n in (1, 2, 3, 4, 5)]
    assert found == [Again(0.75), Again(1.5), Again(3.0), Stop("attempts"), Stop("attempts")]


@pytest.mark.parametrize("method", ["POST", "PATCH", "QUERY", "post", "LINK"])
@pytest.mark.parametrize("outcome", [{"status": 503}, {"reason": Reason.FIRST_BYTE}, {"reason": Reason.PROTOCOL}])
def test_D38_a_method_that_may_not_be_repeated_needs_a_key_or_a_word(method: str, outcome: dict[str, Any]) -> None:
    assert decide(method=method, **outcome) == Stop("method")
    assert decide(method=method, headers=(("Idempotency-Key", " "),), **outcome) == Stop("method")
    assert decide(method=method, headers=KEYED, **outcome) == Again(0.75)
    assert decide(RetryPolicy(idempotent=True), method=method, **outcome) == Again(0.75)


@pytest.mark.parametrize("method", sorted(SAFE_TO_REPEAT))
def test_REQ_C8_methods_that_may_be_repeated_are(method: str) -> None:
    assert decide(method=method, status=503) == Again(0.75)
    narrow = RetryPolicy(methods=frozenset({"GET"}))
    assert decide(narrow, method=method, status=503) == (Again(0.75) if method == "GET" else Stop("method"))


def test_REQ_C8_the_gate_is_always_on() -> None:
    for wrong in ({"POST"}, {"GET", "patch"}, {"TRACE"}, {"CONNECT"}):
        with pytest.raises(ConfigError, match="not safe to repeat") as caught:
            RetryPolicy(methods=frozenset(wrong))
        assert "Idempotency-Key" in (caught.value.hint or "")
    for nonsense in ("GET", 5, {"GET": 1}):
        with pytest.raises(ConfigError, match="list of methods"):
            RetryPolicy(methods=nonsense)  # type: ignore[arg-type]


@pytest.mark.parametrize("reason", sorted(set(Reason) - TIMEOUTS - BROKEN))
def test_REQ_C8_certificates_refusals_breakers_and_limits_are_never_tried_again(reason: Reason) -> None:
    assert decide(reason=reason) == Stop("failure")
    assert decide(reason=reason, method="POST", headers=KEYED, sent=False) == Stop("failure")


def test_REQ_C8_what_is_never_tried_again_holds_every_policy_error() -> None:
    never = set(Reason) - TIMEOUTS - BROKEN
    assert {Reason.TLS_FAILED, Reason.SCHEME_NOT_ALLOWED, Reason.BREAKER_OPEN, Reason.HOST_RATE} <= never
    codes = {Code.NET_BLOCKED, Code.NET_AUTH, Code.NET_LIMIT, Code.NET_BUDGET, Code.NET_RATE, Code.NET_SIZE}
    assert {reason for reason in Reason if FaztError(reason, "").code in codes} <= never


@pytest.mark.parametrize("reason", sorted(TIMEOUTS | BROKEN))
def test_timeouts_and_broken_connections_are_tried_again_unless_switched_off(reason: Reason) -> None:
    assert decide(reason=reason) == Again(0.75)
    assert decide(RetryPolicy(timeouts=False), reason=reason) == (
        Stop("failure") if reason in TIMEOUTS else Again(0.75)
    )
    assert decide(RetryPolicy(protocol=False), reason=reason) == (Stop("failure") if reason in BROKEN else Again(0.75))


@pytest.mark.parametrize("reason", [Reason.DNS, Reason.DNS_FAILED, Reason.CONNECT, Reason.TLS_HANDSHAKE])
def test_any_method_is_tried_again_while_nothing_was_sent(reason: Reason) -> None:
    found = [decide(method="POST", reason=reason, attempt=n) for n in (1, 2, 3)]
    assert found == [Again(0.75), Again(1.5), Stop("attempts")]
    assert decide(RetryPolicy(connect=1), method="POST", reason=reason) == Stop("attempts")
    assert decide(RetryPolicy(connect=1), method="GET", reason=reason, attempt=3) == Again(3.0)


def test_only_connecting_may_be_tried_again() -> None:
    policy = RetryPolicy(attempts=1, connect=3)  # `retries=2` of other transports
    assert [decide(policy, reason=Reason.CONNECT, attempt=n) for n in (1, 2, 3)] == [
        Again(0.75),
        Again(1.5),
        Stop("attempts"),
    ]
    assert decide(policy, status=503) == Stop("attempts")
    assert decide(policy, reason=Reason.FIRST_BYTE) == Stop("attempts")


def test_a_failed_connection_counts_as_used_unless_it_is_known_better() -> None:
    assert decide(method="POST", reason=Reason.CONNECT_FAILED) == Stop("method")
    assert decide(method="POST", reason=Reason.CONNECT_FAILED, sent=False) == Again(0.75)
    assert decide(method="POST", reason=Reason.CONNECT, sent=True) == Stop("method")


def test_what_an_error_says_about_sending() -> None:
    assert was_sent(StaleConnectionError(sent=True))
    assert not was_sent(StaleConnectionError(sent=False))
    for reason in (Reason.DNS, Reason.DNS_FAILED, Reason.CONNECT, Reason.CONNECT_FAILED, Reason.TLS_HANDSHAKE):
        assert not was_sent(FaztError(reason, ""))
    for reason in (Reason.WRITE, Reason.FIRST_BYTE, Reason.BODY, Reason.PROTOCOL, Reason.TOTAL):
        assert was_sent(FaztError(reason, ""))


def test_REQ_C8_a_body_that_cannot_be_sent_again_ends_the_attempts() -> None:
    assert decide(status=503, replayable=False) == Stop("body")
    assert decide(method="PUT", reason=Reason.CONNECT, replayable=False) == Stop("body")


def test_D37_a_retry_after_is_waited_for_in_full() -> None:
    policy = RetryPolicy(base=0.2, cap=4.0)
    for status in (429, 503):
        assert decide(policy, status=status, retry_after=30.0) == Again(30.0)
        assert decide(policy, status=status, retry_after=900.0) == Again(900.0)
        assert decide(policy, status=status, retry_after=0.1, draw=0.0) == Again(0.1)


def test_REQ_C8_a_retry_after_beyond_the_cap_is_handed_to_the_caller() -> None:
    assert decide(status=429, retry_after=900.001) == Stop("retry_after")
    assert decide(RetryPolicy(retry_after_cap=0), status=429, retry_after=1) == Stop("retry_after")
    assert decide(RetryPolicy(retry_after_cap=0), status=429) == Again(0.75)


def test_D37_a_retry_after_beyond_the_deadline_is_handed_to_the_caller() -> None:
    assert decide(status=503, retry_after=30.0, left=30.0) == Stop("deadline")
    assert decide(status=503, retry_after=30.0, left=30.1) == Again(30.0)


def test_a_server_that_asks_for_less_gets_the_pause_all_the_same() -> None:
    assert decide(status=503, retry_after=0.0) == Again(0.75)


def test_REQ_C8_no_sleep_ends_after_the_deadline_or_the_ceiling() -> None:
    assert decide(status=503, left=0.75) == Stop("deadline")
    assert decide(status=503, left=0.76) == Again(0.75)
    assert decide(status=503, left=0.0, draw=0.0) == Stop("deadline")
    policy = RetryPolicy(ceiling=10.0)
    assert decide(policy, status=503, elapsed=9.25) == Again(0.75)
    assert decide(policy, status=503, elapsed=9.26) == Stop("ceiling")


@given(st.integers(1, 5000), st.floats(0, 1), st.floats(0, 1e6), st.floats(0, 1e6))
def test_REQ_C8_full_jitter_stays_between_nothing_and_the_cap(n: int, draw: float, base: float, cap: float) -> None:
    policy = RetryPolicy(attempts=10_000, base=base, cap=cap)
    found = decide(policy, status=503, attempt=n, draw=draw)
    assert isinstance(found, Again)
    assert 0 <= found.delay <= cap
    assert found.delay == pytest.approx(draw * min(cap, base * 2.0 ** min(n - 1, 64)))


@given(
    st.integers(1, 6),
    st.sampled_from(["GET", "POST", "PUT"]),
    st.sampled_from([200, 429, 503]),
    st.one_of(st.none(), st.floats(0, 2000)),
    st.floats(0, 1),
    st.floats(0, 2000),
)
def test_REQ_C8_a_wait_is_never_shorter_than_asked_nor_longer_than_there_is_time(
    attempt: int, method: str, status: int, retry_after: float | None, draw: float, left: float
) -> None:
    found = decide(attempt=attempt, method=method, status=status, retry_after=retry_after, draw=draw, left=left)
    if isinstance(found, Again):
        assert method != "POST"
        assert status != 200
        assert attempt < 4
        assert (retry_after or 0) <= found.delay < left
        assert found.delay <= 900


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"attempts": 1.5},
        {"attempts": True},
        {"connect": 0},
        {"base": -0.1},
        {"base": math.nan},
        {"cap": math.inf},
        {"cap": "60"},
        {"retry_after_cap": -1},
        {"ceiling": -1},
        {"ceiling": math.inf},
        {"statuses": {99}},
        {"statuses": "429"},
        {"idempotent": 1},
        {"timeouts": "no"},
    ],
)
def test_REQ_C8_only_non_negative_finite_values(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigError, match=name):
        RetryPolicy(**wrong)
    with pytest.raises(ConfigError, match=rf"policy\.retry\.{name}"):
        RetryPolicy.of(wrong, "policy.retry")


def test_a_policy_of_a_table() -> None:
    table = {"attempts": 7, "ceiling": 120, "methods": ["get", "HEAD"], "statuses": [408, 429], "protocol": False}
    made = RetryPolicy.of(table)
    expected = RetryPolicy(
        attempts=7,
        ceiling=120.0,
        methods=frozenset({"GET", "HEAD"}),
        statuses=frozenset({408, 429}),
        protocol=False,
    )
    assert made == expected
    assert RetryPolicy.of({}, default=expected) == expected
    assert RetryPolicy.of({"attempts": 2}, default=expected).ceiling == 120.0
    with pytest.raises(ConfigError, match=r"retry\.attemps") as caught:
        RetryPolicy.of({"attemps": 2})
    assert caught.value.hint == "did you mean attempts?"
    with pytest.raises(ConfigError, match=r"x\.retry\.methods: POST"):
        RetryPolicy.of({"methods": ["POST"]}, "x.retry")


def test_whatever_a_setting_may_hold() -> None:
    own = RetryPolicy(attempts=2)
    assert RetryPolicy.read(None, "retry") is None
    assert RetryPolicy.read(False, "retry") is None
    assert RetryPolicy.read(True, "retry") == DEFAULT
    assert RetryPolicy.read(True, "retry", default=own) == own
    assert RetryPolicy.read(own, "retry") is own
    assert RetryPolicy.read({"attempts": 2}, "retry") == own
    with pytest.raises(ConfigError, match=r"^retry must be a table"):
        RetryPolicy.read(3, "retry")


NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7\t", 7.0),
        ("007", 7.0),
        ("1.5", 1.5),
        ("9" * 400, 1e9),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0.0),
        ("Monday, 01-Jun-26 12:01:00 GMT", 60.0),
        ("Mon Jun  1 12:01:00 2026", 60.0),
        (None, None),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1e3", None),
        (".5", None),
        ("soon", None),
        ("12, 13", None),
        ("１２", None),
        ("nan", None),
        ("inf", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, wall_now=NOW.timestamp()) == seconds


@given(st.text(max_size=30))
def test_a_retry_after_that_was_read_can_be_slept(value: str) -> None:
    found = parse_retry_after(value, wall_now=NOW.timestamp())
    assert found is None or 0 <= found <= 1e9


def test_of_several_fields_the_longest_wait_counts() -> None:
    fields = (("retry-after", "5"), ("server", "x"), ("retry-after", "9"), ("retry-after", "junk"))
    assert retry_after_of(fields, wall_now=0.0) == 9.0
    assert retry_after_of((("server", "x"),), wall_now=0.0) is None
