"""Events built by hand: tolerant of anything, and the context of an exception is right."""

from __future__ import annotations

from typing import Any

import httpx
import httpx2
import pytest

from fazt.errors import FaztError, Reason
from fazt.telemetry import EventBuilder, EventStatus, normal_host, redact_url


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def test_R75_a_fluent_builder_measures_time() -> None:
    clock = Clock()
    builder = EventBuilder(wall=lambda: 1_700_000_000.0, clock=clock).with_request(
        "GET", "https://Bücher.Example:8443/a?token=x", request_id="c_1"
    )
    clock.now += 0.25
    event = (
        builder.with_response(status=200, http_version="HTTP/2")
        .with_timing(ttfb_ms=12)
        .with_cache("revalidated")
        .with_data(bytes_read=10, bytes_written=2)
        .with_attempt(2, hop=3)
        .with_context(service="crossref", role="metadata", app="a", door="client", rule_id="r_1")
        .build()
    )
    assert (event.ts, event.elapsed_ms, event.ttfb_ms) == ("2023-11-14T22:13:20.000Z", 250.0, 12.0)
    assert (event.host, event.url) == ("xn--bcher-kva.example", "https://xn--bcher-kva.example:8443/a")
    assert (event.status_code, event.http_version, event.http2) == (200, "HTTP/2", True)
    assert (event.cache, event.from_cache, event.bytes_read, event.bytes_written) == ("revalidated", True, 10, 2)
    assert (event.attempt, event.hop, event.request_id) == (2, 3, "c_1")
    assert (event.service, event.role, event.rule_id) == ("crossref", "metadata", "r_1")
    assert event.status is EventStatus.SUCCESS


def test_times_may_be_given() -> None:
    event = EventBuilder().with_timing(elapsed_ms=7.5, at=10.0).build()
    assert (event.at, event.elapsed_ms) == (10.0, 7.5)
    assert EventBuilder(clock=lambda: 1.0).with_timing(elapsed_ms=float("nan"), at=float("inf")).build().elapsed_ms == 0


def test_a_redirect_resolves_against_the_request() -> None:
    builder = EventBuilder().with_request("GET", "https://a.example/x/y")
    event = builder.with_response(status=302).with_redirect("../z?secret=1").build()
    assert (event.redirect_target, event.status) == ("https://a.example/z", EventStatus.REDIRECT)
    assert builder.with_redirect("https://u:p@b.example/?q=1").build().redirect_target == "https://b.example/"


@pytest.mark.parametrize("lib", [httpx, httpx2])
def test_R81_E11_status_and_version_come_from_the_response_of_the_exception(lib: Any) -> None:
    request = lib.Request("GET", "https://a.example/x?token=SECRET")
    response = lib.Response(503, request=request, extensions={"http_version": b"HTTP/1.1"})
    with pytest.raises(lib.HTTPStatusError) as failed:
        response.raise_for_status()
    event = EventBuilder().with_request("GET", request.url).with_error(failed.value).build()
    assert (event.status_code, event.http_version) == (503, "HTTP/1.1")
    assert (event.error_code, event.status, event.error_message) == ("http_error", EventStatus.ERROR, "HTTPStatusError")
    assert "SECRET" not in repr(event)


@pytest.mark.parametrize("lib", [httpx, httpx2])
def test_D21_timeouts_are_timeouts_and_network_errors_are_network_errors(lib: Any) -> None:
    def status(error: BaseException) -> str:
        return EventBuilder().with_error(error).build().status.value

    assert status(lib.ReadTimeout("SECRET")) == status(lib.PoolTimeout("x")) == status(TimeoutError()) == "timeout"
    assert status(lib.ConnectError("x")) == status(lib.RemoteProtocolError("x")) == "network_error"
    assert status(ConnectionResetError()) == "network_error"
    assert status(ValueError("x")) == "error"


def test_an_error_of_ours_keeps_code_reason_and_text() -> None:
    error = FaztError(Reason.CONNECT_FAILED, "No connection to https://a.example/x?token=SECRET could be made.")
    event = EventBuilder().with_error(error).build()
    assert (event.error_code, event.reason, event.status) == ("NET_ERROR", "connect_failed", EventStatus.NETWORK_ERROR)
    assert event.error_message == "No connection to https://a.example/x could be made."


def test_a_code_may_be_given() -> None:
    event = EventBuilder("net.download").with_error(OSError(28, "x"), code="write_error", message="disk full").build()
    assert (event.event_type, event.error_code, event.error_message) == ("net.download", "write_error", "disk full")
    assert event.status is EventStatus.ERROR and event.summary
    assert EventBuilder().with_error(code="timeout").build().status is EventStatus.TIMEOUT


class Hostile:
    """Raises whatever it is asked."""

    @property
    def __class__(self) -> Any:
        raise ZeroDivisionError

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError(name)

    def __str__(self) -> str:
        raise ZeroDivisionError

    __repr__ = __str__
    __bool__ = __eq__ = __hash__ = __str__  # type: ignore[assignment]


class HostileError(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError

    @property
    def response(self) -> Any:
        raise ZeroDivisionError


class WithResponseError(Exception):
    def __init__(self, response: Any) -> None:
        self.response = response


class Text(str):
    def __str__(self) -> str:
        raise ZeroDivisionError

    def split(self, *_: Any) -> Any:  # type: ignore[override]
        raise ZeroDivisionError


def test_E11_hostile_values_break_nothing() -> None:
    bad: Any = Hostile()
    event = (
        EventBuilder()
        .with_request(bad, bad, request_id=bad)
        .with_response(bad, status=bad, http_version=bad)
        .with_timing(elapsed_ms=bad, ttfb_ms=bad, at=bad)
        .with_cache(bad)
        .with_data(bytes_read=bad, bytes_written=bad)
        .with_redirect(bad)
        .with_attempt(bad, hop=bad)
        .with_context(service=bad, role=bad)
        .with_error(HostileError(), code=bad, message=bad)
        .with_error(WithResponseError(bad))
        .build()
    )
    assert (event.host, event.url, event.status_code, event.error_code) == ("unknown", "", 0, "error")
    for status in (True, 7, 10**400, -1, "200", 2.5):
        assert EventBuilder().with_response(status=status).build().status_code == 0
    host = EventBuilder().with_request(Text("GET"), Text("https://a.example/?q")).build()
    assert (host.method, host.url, host.host) == ("GET", "https://a.example/", "a.example")


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ("https://API.Example.COM:8443/x", "api.example.com"),
        ("API.example.com.", "api.example.com"),
        ("api.example.com:8443", "api.example.com"),
        ("https://user:pw@host.example/x", "host.example"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("http://127.0.0.1:80/", "127.0.0.1"),
        ("https://[2001:DB8::1]:443/", "2001:db8::1"),
        ("::1", "::1"),
        ("", "unknown"),
        ("https:///x", "unknown"),
        ("a b", "unknown"),
        ("[oops", "unknown"),
        (None, "unknown"),
        (7, "unknown"),
    ],
)
def test_R80_E10_hosts_are_one_form_or_unknown(given: object, host: str) -> None:
    assert normal_host(given) == host


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://a.example/p?token=SECRET#SECRET", "https://a.example/p"),
        ("https://user:SECRET@a.example/p", "https://a.example/p"),
        ("https://user:SEC/RET@a.example/p", "https://a.example/p"),
        ("https:\\\\user:SECRET@a.example\\p", "https://a.example\\p"),
        ("https:/user:SECRET@a.example/p", "https://a.example/p"),
        ("http://127.0.0.1:8080/x?SECRET", "http://127.0.0.1:8080/x"),
        ("ftp://user:SECRET@a.example/x", "ftp://a.example/x"),
        ("https://a.example/\x1b[31m", "https://a.example/\\x1b[31m"),
        ("SECRET", ""),
        ("user:SECRET", ""),
        (None, ""),
    ],
)
def test_D22_urls_lose_queries_and_user_info(given: object, url: str) -> None:
    assert redact_url(given) == url
