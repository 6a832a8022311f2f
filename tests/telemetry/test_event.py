"""The event: its fields, its status, its dict form, and how a record becomes several."""

from __future__ import annotations

import dataclasses

import pytest
from tests.telemetry.sinks import call, trip

from fazt.core.call import Hop
from fazt.telemetry import Event, EventStatus, events_of
from fazt.telemetry.event import ATTEMPT, SUMMARY

C7 = [
    "ts",
    "event_type",
    "request_id",
    "method",
    "url",
    "host",
    "status_code",
    "status",
    "elapsed_ms",
    "ttfb_ms",
    "cache",
    "from_cache",
    "http_version",
    "http2",
    "bytes_read",
    "bytes_written",
    "error_code",
    "error_message",
    "attempt",
    "hop",
    "redirect_target",
    "service",
    "role",
]


def test_R76_the_dict_form_has_every_field_and_rounds_times() -> None:
    event = Event(
        at=1_700_000_000.1239, elapsed_ms=1.23456, ttfb_ms=0.999, retry_after=2.0009, waited_ms=3.14159, status_code=204
    )
    found = event.to_dict()
    assert [name for name in C7 if name not in found] == []
    assert found["ts"] == "2023-11-14T22:13:20.123Z"
    assert (found["elapsed_ms"], found["ttfb_ms"]) == (1.23, 1.0)
    assert (found["retry_after"], found["waited_ms"]) == (2.0, 3.14)
    assert found["status"] == "success" and type(found["status"]) is str


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000.123, "2023-11-14T22:13:20.123Z"),
        (1_700_000_000.9999999, "2023-11-14T22:13:21.000Z"),
        (-0.001, "1969-12-31T23:59:59.999Z"),
    ],
)
def test_times_are_utc_with_milliseconds(at: float, text: str) -> None:
    assert Event(at).ts == text


def test_R76_an_event_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Event(0.0).method = "GET"  # type: ignore[misc]
    assert not hasattr(Event(0.0), "__dict__")


def test_one_trip_makes_an_event_and_a_summary_with_one_id() -> None:
    first, summary = events_of(call(rule_id="r_1", service="crossref", role="metadata"))
    assert (first.event_type, summary.event_type) == (ATTEMPT, SUMMARY)
    assert first.request_id == summary.request_id == "c_0000"
    assert first.url == summary.url == "https://api.example.com/v1"
    assert (first.host, first.port, first.status_code, first.status) == (
        "api.example.com",
        443,
        200,
        EventStatus.SUCCESS,
    )
    assert (first.elapsed_ms, summary.elapsed_ms, first.ttfb_ms) == (11.0, 12.345, 8.5)
    assert (first.bytes_read, first.bytes_written) == (200, 3)
    assert (summary.attempt, summary.hop, summary.retries) == (1, 1, 0)
    assert (first.app, first.door, first.rule_id) == ("fazt_app_000000000001", "client", "r_1")
    assert (first.service, first.role) == (summary.service, summary.role) == ("crossref", "metadata")


def test_D20_every_hop_and_every_retry_has_its_own_measured_event() -> None:
    record = call(
        attempts=[
            trip(ts=1.0, retry_after=2.0, delay=0.25),
            trip(ts=2.0, number=2, status=302, redirect="https://b.example/x"),
            trip(ts=3.0, hop=2, status=None, code="NET_TIMEOUT", reason="first_byte", duration_ms=7.0, ttfb_ms=None),
        ],
        redirects=[Hop(302, "https://b.example:8443/x")],
        number=2,
        attempt_ts=4.0,
        attempt_ms=6.5,
        waited_ms=300.0,
    )
    one, two, three, four, summary = events_of(record)
    assert [(event.hop, event.attempt) for event in (one, two, three, four)] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert [event.at for event in (one, two, three, four)] == [1.0, 2.0, 3.0, 4.0]
    assert [event.status.value for event in (one, two, three, four)] == ["error", "redirect", "timeout", "success"]
    assert (one.retry_after, one.waited_ms, one.error_code) == (2.0, 250.0, "http_error")
    assert two.redirect_target == "https://b.example/x"
    assert (three.elapsed_ms, three.ttfb_ms, three.error_code, three.reason) == (7.0, None, "NET_TIMEOUT", "first_byte")
    assert (three.url, three.host) == (four.url, four.host) == ("https://b.example:8443/x", "b.example")
    assert (four.port, four.elapsed_ms) == (8443, 6.5)
    assert (summary.attempt, summary.hop, summary.retries, summary.retry_after) == (4, 2, 2, 2.0)
    assert (summary.waited_ms, summary.redirect_target) == (300.0, "https://b.example:8443/x")
    assert {event.request_id for event in events_of(record)} == {"c_0000"}


@pytest.mark.parametrize(
    ("method", "status", "after"),
    [("POST", 303, "GET"), ("POST", 302, "GET"), ("POST", 307, "POST"), ("HEAD", 303, "HEAD"), ("PUT", 302, "PUT")],
)
def test_the_method_after_a_redirect_is_the_one_that_was_sent(method: str, status: int, after: str) -> None:
    record = call(
        method=method,
        attempts=[trip(method=method, status=status, redirect="https://b.example/")],
        redirects=[Hop(status, "https://b.example/")],
        attempt_ts=9.0,
        request_bytes=7,
    )
    first, last, summary = events_of(record)
    assert (first.method, last.method, summary.method) == (method, after, method)
    with_body = after == method != "HEAD"
    assert (last.bytes_written, summary.bytes_written) == (7 if with_body else 0, 7)


@pytest.mark.parametrize("cache", ["hit", "stale"])
def test_what_the_cache_answered_has_a_summary_only(cache: str) -> None:
    (summary,) = events_of(call(cache=cache, attempt_ts=None, ttfb_ms=None))
    assert summary.summary and summary.from_cache and summary.cache == cache
    assert (summary.attempt, summary.hop) == (0, 0)


def test_a_revalidated_answer_is_a_trip_whose_body_was_not() -> None:
    first, summary = events_of(call(cache="revalidated"))
    assert (first.from_cache, summary.from_cache) == (False, True)


def test_D21_a_refusal_before_the_network_is_one_error_event() -> None:
    (summary,) = events_of(
        call(
            status=None,
            code="NET_BLOCKED",
            reason="host_not_granted",
            error="No rule lets this app call that host.",
            attempt_ts=None,
            ttfb_ms=None,
        )
    )
    assert (summary.status, summary.status_code) == (EventStatus.ERROR, 0)
    assert (summary.error_code, summary.reason) == ("NET_BLOCKED", "host_not_granted")
    assert summary.error_message == "No rule lets this app call that host."


def test_a_refusal_at_a_later_hop_adds_no_trip() -> None:
    record = call(
        attempts=[trip(ts=5.0, status=302, redirect="https://b.example/")],
        redirects=[Hop(302, "https://b.example/")],
        status=None,
        code="NET_BLOCKED",
        reason="host_not_granted",
        attempt_ts=None,
    )
    first, summary = events_of(record)
    assert (first.status, summary.status) == (EventStatus.REDIRECT, EventStatus.ERROR)
    record.attempt_ts = 5.0
    assert len(events_of(record)) == 2, "the trip that is noted already is not told twice"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"status": 200}, "success"),
        ({"status": 304}, "success"),
        ({"status": 302}, "redirect"),
        ({"status": 404}, "error"),
        ({"status": 500}, "error"),
        ({"status": None, "code": "NET_TIMEOUT", "reason": "connect"}, "timeout"),
        ({"status": 200, "code": "NET_TIMEOUT", "reason": "body"}, "timeout"),
        ({"status": None, "code": "NET_TIMEOUT", "reason": "aborted"}, "error"),
        ({"status": None, "code": "NET_ERROR", "reason": "connect_failed"}, "network_error"),
        ({"status": None, "code": "NET_ERROR", "reason": "dns_failed"}, "network_error"),
        ({"status": None, "code": "NET_ERROR", "reason": "tls_failed"}, "network_error"),
        ({"status": None, "code": "NET_ERROR", "reason": "bad_option"}, "error"),
        ({"status": None, "code": "NET_RATE", "reason": "breaker_open"}, "error"),
        ({"status": 200, "code": "NET_SIZE", "reason": "response_body"}, "error"),
    ],
)
def test_R76_the_status_says_how_it_ended(fields: dict[str, object], status: str) -> None:
    assert {event.status.value for event in events_of(call(**fields))} == {status}


def test_the_path_of_a_record_loses_a_query_and_what_steers_a_terminal() -> None:
    summary = events_of(call(path="/a\x1b[2Jb?token=x#y", method="G\x07T"))[-1]
    assert summary.url == "https://api.example.com/a\\x1b[2Jb"
    assert summary.method == "G\\x07T"


def test_a_call_whose_url_was_never_read_has_an_unknown_host() -> None:
    summary = events_of(call(host="", path="", scheme="", status=None, code="NET_BLOCKED", reason="bad_url"))[-1]
    assert (summary.host, summary.url) == ("unknown", "")
