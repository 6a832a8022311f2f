"""The event `net.request`: what telemetry says of one trip to the network, or of one whole call."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

from fazt.errors import Code, Reason

ATTEMPT = "net.request"
"""Event type of one trip to the network: one hop, tried once."""
SUMMARY = "net.request.summary"
"""Event type of a whole call, whatever trips it took."""
UNKNOWN = "unknown"
"""The host where none could be read."""
HTTP_ERROR = "http_error"
"""Error code of an answer with a status of 400 and above."""

FROM_CACHE = frozenset({"hit", "revalidated", "stale"})
"""Cache states in which the body came out of the cache."""
_NETWORK = frozenset({Reason.DNS_FAILED, Reason.CONNECT_FAILED, Reason.TLS_FAILED, Reason.PROTOCOL})


class EventStatus(StrEnum):
    """How it ended, in five words."""

    SUCCESS = "success"
    REDIRECT = "redirect"
    ERROR = "error"
    TIMEOUT = "timeout"
    NETWORK_ERROR = "network_error"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. It holds no query, no user name or password, no header and no body.

    Args:
        at: seconds since the epoch (UTC) when it began.
        event_type: `net.request`, `net.request.summary`, or that of whoever built it.
        request_id: id of the call; all events of one call share it.
        method: as sent.
        url: without query, fragment and user info; "" when there is none to show.
        host: lower-case, punycode, without port; "unknown" when it could not be read.
        port: 0 when unknown.
        status_code: of the response, 0 when there was none.
        status: how it ended.
        elapsed_ms: milliseconds it took.
        ttfb_ms: milliseconds from the start of the trip to the head of the answer, None when none came.
        cache: hit, revalidated, miss, stale or bypass; "" when no cache was involved.
        from_cache: whether the body came out of the cache.
        http_version: as the response says, "" when there was none.
        bytes_read, bytes_written: of bodies, on the wire.
        error_code: the `Code` of a failure, `http_error` for a status of 400 and above.
        reason: the `Reason` of a failure.
        error_message: a sentence for people.
        attempt: of this hop, from 1; in a summary how many trips there were, 0 when none.
        hop: from 1; in a summary how many there were, 0 when none.
        redirect_target: where it led, without query.
        service, role, app, door, rule_id: what the call belongs to.
        retries: trips of the call that repeated another one (summaries only).
        retry_after: seconds that the server asked for.
        waited_ms: spent waiting for rate limits and between attempts.
        breaker: state of the circuit breaker as the call met it, "" when none watches the host.
        trace: the request's `traceparent` field, "" without one.
    """

    at: float
    event_type: str = ATTEMPT
    request_id: str = ""
    method: str = ""
    url: str = ""
    host: str = UNKNOWN
    port: int = 0
    status_code: int = 0
    status: EventStatus = EventStatus.SUCCESS
    elapsed_ms: float = 0.0
    ttfb_ms: float | None = None
    cache: str = ""
    from_cache: bool = False
    http_version: str = ""
    bytes_read: int = 0
    bytes_written: int = 0
    error_code: str | None = None
    reason: str | None = None
    error_message: str | None = None
    attempt: int = 1
    hop: int = 1
    redirect_target: str | None = None
    service: str | None = None
    role: str | None = None
    app: str = ""
    door: str = ""
    rule_id: str | None = None
    retries: int = 0
    retry_after: float | None = None
    waited_ms: float = 0.0
    breaker: str = ""
    trace: str = ""

    @property
    def ts(self) -> str:
        """The start in UTC: ISO 8601 with milliseconds and `Z`."""
        return iso(self.at)

    @property
    def http2(self) -> bool:
        """Whether the answer came over HTTP/2."""
        return self.http_version.startswith("HTTP/2")

    @property
    def summary(self) -> bool:
        """Whether it speaks of a whole call and not of one trip."""
        return self.event_type != ATTEMPT

    @property
    def failed(self) -> bool:
        """Whether it ended in neither an answer nor a redirect."""
        return self.status not in (EventStatus.SUCCESS, EventStatus.REDIRECT)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields in their order, times rounded to two decimals."""
        return {
            "ts": iso(self.at),
            "event_type": self.event_type,
            "request_id": self.request_id,
            "method": self.method,
            "url": self.url,
            "host": self.host,
            "port": self.port,
            "status_code": self.status_code,
            "status": self.status.value,
            "elapsed_ms": round(self.elapsed_ms, 2),
            "ttfb_ms": None if self.ttfb_ms is None else round(self.ttfb_ms, 2),
            "cache": self.cache,
            "from_cache": self.from_cache,
            "http_version": self.http_version,
            "http2": self.http2,
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "error_code": self.error_code,
            "reason": self.reason,
            "error_message": self.error_message,
            "attempt": self.attempt,
            "hop": self.hop,
            "redirect_target": self.redirect_target,
            "service": self.service,
            "role": self.role,
            "app": self.app,
            "door": self.door,
            "rule_id": self.rule_id,
            "retries": self.retries,
            "retry_after": None if self.retry_after is None else round(self.retry_after, 2),
            "waited_ms": round(self.waited_ms, 2),
            "breaker": self.breaker,
        }


def iso(at: float) -> str:
    """Return seconds since the epoch as `2026-01-31T12:00:00.000Z`."""
    second, micro = divmod(round(at * 1_000_000), 1_000_000)
    return f"{_second(second)}.{micro // 1000:03d}Z"


@lru_cache(maxsize=64)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def status_of(status_code: int, code: str | None, reason: str | None, *, redirected: bool = False) -> EventStatus:
    """Judge how a trip or a call ended.

    Args:
        status_code: of the response, 0 when there was none.
        code, reason: of the failure, None without one.
        redirected: it was a redirect that was followed.
    """
    if code is not None:
        if code == Code.NET_TIMEOUT and reason != Reason.ABORTED:  # the caller went away: no time limit ran out
            return EventStatus.TIMEOUT
        return EventStatus.NETWORK_ERROR if reason in _NETWORK else EventStatus.ERROR
    if status_code >= 400:
        return EventStatus.ERROR
    # 304 is an answer about what the client has, and 300 and 305 lead nowhere (RFC 9110 section 15.4)
    if redirected or status_code in (301, 302, 303, 307, 308):
        return EventStatus.REDIRECT
    return EventStatus.SUCCESS
