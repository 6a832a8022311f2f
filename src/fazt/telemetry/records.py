"""From the record of a call to its events: one for each trip to the network, and one for the whole."""

from __future__ import annotations

from fazt.core.record import Attempt, CallRecord
from fazt.core.url import DEFAULT_PORTS
from fazt.telemetry.event import ATTEMPT, FROM_CACHE, HTTP_ERROR, SUMMARY, UNKNOWN, Event, status_of
from fazt.telemetry.redact import NAME_CAP, URL_CAP, clean, normal_host, redact_text, redact_url

__all__ = ["events_of"]


def events_of(record: CallRecord) -> list[Event]:
    """Build the events of a finished call.

    Trips come first, in their order, then the summary; all carry the id of the call. What the cache answered alone
    and what was refused before the network has a summary only.

    Args:
        record: as the engine wrote it. The last trip is the one that began at `attempt_ts`; None says that the call
            ended before it reached the network (again).
    """
    earlier = record.attempts or []
    events = [_earlier(record, trip) for trip in earlier]
    if record.attempt_ts is not None and not (earlier and earlier[-1].ts == record.attempt_ts):
        events.append(_last(record))
    events.append(_summary(record, events))
    return events


def _earlier(record: CallRecord, trip: Attempt) -> Event:
    status = trip.status or 0
    target = None if trip.redirect is None else redact_url(trip.redirect)
    # A trip that was tried again after a redirect has the address of the first one.
    url, host, port = _led_to(record, trip.hop) if target is None else ("", "", 0)
    if not url:
        url, host, port = _url(trip.scheme, trip.host, trip.port, trip.path), _host(trip.host), trip.port
    return Event(
        at=trip.ts,
        event_type=ATTEMPT,
        request_id=record.call_id,
        method=clean(trip.method) if target is not None else _method(record, trip.hop),
        url=url,
        host=host,
        port=port,
        status_code=status,
        status=status_of(status, trip.code, trip.reason, redirected=target is not None),
        elapsed_ms=trip.duration_ms,
        ttfb_ms=trip.ttfb_ms,
        cache=record.cache,
        http_version=trip.version,
        bytes_read=trip.response_bytes,
        bytes_written=0 if _dropped_body(record, trip.hop) else trip.request_bytes,
        error_code=_error_code(status, trip.code),
        reason=trip.reason,
        attempt=trip.number,
        hop=trip.hop,
        redirect_target=target,
        service=record.service or None,
        role=record.role or None,
        app=record.app,
        door=record.door,
        rule_id=record.rule_id,
        retry_after=trip.retry_after,
        waited_ms=trip.delay * 1000.0,
        breaker=record.breaker,
        trace=record.trace,
    )


def _last(record: CallRecord) -> Event:
    status = record.status or 0
    hop = len(record.redirects) + 1
    url, host, port = _led_to(record, hop)
    if not url:
        url, host, port = _url(record.scheme, record.host, record.port, record.path), _host(record.host), record.port
    return Event(
        at=record.ts if record.attempt_ts is None else record.attempt_ts,
        event_type=ATTEMPT,
        request_id=record.call_id,
        method=_method(record, hop),
        url=url,
        host=host,
        port=port,
        status_code=status,
        status=status_of(status, record.code, record.reason),
        elapsed_ms=record.attempt_ms,
        ttfb_ms=record.ttfb_ms,
        cache=record.cache,
        http_version=record.version,
        bytes_read=record.response_bytes,
        bytes_written=0 if _dropped_body(record, hop) else record.request_bytes,
        error_code=_error_code(status, record.code),
        reason=record.reason,
        error_message=_message(record),
        attempt=record.number,
        hop=hop,
        service=record.service or None,
        role=record.role or None,
        app=record.app,
        door=record.door,
        rule_id=record.rule_id,
        breaker=record.breaker,
        trace=record.trace,
    )


def _summary(record: CallRecord, trips: list[Event]) -> Event:
    status = record.status or 0
    hops = len({trip.hop for trip in trips})
    return Event(
        at=record.ts,
        event_type=SUMMARY,
        request_id=record.call_id,
        method=clean(record.method),
        url=_url(record.scheme, record.host, record.port, record.path),
        host=_host(record.host),
        port=record.port,
        status_code=status,
        status=status_of(status, record.code, record.reason),
        elapsed_ms=record.duration_ms,
        ttfb_ms=record.ttfb_ms,
        cache=record.cache,
        from_cache=record.cache in FROM_CACHE,
        http_version=record.version,
        bytes_read=record.response_bytes,
        bytes_written=record.request_bytes,
        error_code=_error_code(status, record.code),
        reason=record.reason,
        error_message=_message(record),
        attempt=len(trips),
        hop=hops,
        redirect_target=redact_url(record.redirects[-1].url) if record.redirects else None,
        service=record.service or None,
        role=record.role or None,
        app=record.app,
        door=record.door,
        rule_id=record.rule_id,
        retries=len(trips) - hops,
        retry_after=next((trip.retry_after for trip in reversed(trips) if trip.retry_after is not None), None),
        waited_ms=record.waited_ms,
        breaker=record.breaker,
        trace=record.trace,
    )


def _led_to(record: CallRecord, hop: int) -> tuple[str, str, int]:
    """Return URL, host and port of a hop after a redirect; "" for the first."""
    if not 2 <= hop <= len(record.redirects) + 1:
        return "", "", 0
    url = redact_url(record.redirects[hop - 2].url)
    return url, normal_host(url), _port(url)


def _method(record: CallRecord, hop: int) -> str:
    """Return the method of a hop, by the redirects before it (RFC 9110 sections 15.4.2 to 15.4.4)."""
    method = record.method
    for followed in record.redirects[: hop - 1]:
        if (followed.status == 303 and method != "HEAD") or (followed.status in (301, 302) and method == "POST"):
            method = "GET"
    return clean(method)


def _dropped_body(record: CallRecord, hop: int) -> bool:
    """Tell whether a hop went without the body, because of the redirects before it (as in `_method`)."""
    return any(
        followed.status == 303 or (followed.status in (301, 302) and record.method == "POST")
        for followed in record.redirects[: hop - 1]
    )


def _error_code(status: int, code: str | None) -> str | None:
    return code if code is not None or status < 400 else HTTP_ERROR


def _message(record: CallRecord) -> str | None:
    # `detail` is the operator's and stays in the network log.
    return redact_text(record.error) if record.error else None


def _host(host: str) -> str:
    return clean(host, NAME_CAP) or UNKNOWN  # the engine's URL gate made it canonical


def _url(scheme: str, host: str, port: int, path: str) -> str:
    if not host:
        return ""
    authority = host if DEFAULT_PORTS.get(scheme) == port else f"{host}:{port}"
    if "?" in path or "#" in path:
        path = path.partition("#")[0].partition("?")[0]
    return clean(f"{scheme}://{authority}{path}", URL_CAP)


def _port(url: str) -> int:
    scheme, _, rest = url.partition("://")
    port = rest.partition("/")[0].partition(":")[2]
    return int(port) if port.isascii() and port.isdigit() else DEFAULT_PORTS.get(scheme, 0)
