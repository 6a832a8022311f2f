"""Traces, metrics and logs to a collector, by OTLP over HTTP.

Attributes follow OpenTelemetry's stable semantic conventions for HTTP clients; what they have no name for is under
`fazt.`. A call of one trip is one client span; a call of several is a span with one client span for each trip under
it, as the conventions ask for retries and redirects.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fazt.errors import ConfigError
from fazt.telemetry.event import Event
from fazt.telemetry.sinks.base import Sink
from fazt.telemetry.sinks.labels import METHODS, OTHER, Bounded
from fazt.telemetry.sinks.text import line
from fazt.telemetry.tracing import TRACING, SpanIds

if TYPE_CHECKING:
    from fazt.telemetry.sinks.otel import Exporters

SIGNALS = ("traces", "metrics", "logs")
_UNFINISHED = 1000
_VERSIONS = {"HTTP/1.0": "1.0", "HTTP/1.1": "1.1", "HTTP/2": "2", "HTTP/3": "3"}

Attributes = dict[str, str | int | float | bool]


class OtlpSink(Sink):
    """Sends events to an OpenTelemetry collector. It has a thread of its own; a collector that is down costs events.

    What is not given here follows OpenTelemetry's environment variables (`OTEL_EXPORTER_OTLP_ENDPOINT`,
    `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`, …).

    Args:
        endpoint: base URL of the collector, to which `/v1/traces` and so on are added.
        headers: fields of each export, such as an API key.
        signals: which of "traces", "metrics" and "logs".
        service_name: name of this program.
        sample: share of traces begun here that is sent, 0 to 1; a trace that a caller began keeps its decision.
        all_logs: a log record for every call, not only for those that failed.
        timeout: seconds that one export may take, its retries included.
        interval: seconds between two exports of metrics.
        propagate: whether requests carry the trace context (`traceparent`) to whom they call.
        max_hosts: hosts with metrics of their own; later ones are counted as `other`.

    Raises:
        ConfigError: the OpenTelemetry packages are not installed, or a value cannot be used.
    """

    name = "otlp"
    slow = True

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        signals: Sequence[str] = SIGNALS,
        service_name: str | None = None,
        sample: float = 1.0,
        all_logs: bool = False,
        timeout: float = 10.0,
        interval: float = 60.0,
        propagate: bool = True,
        max_hosts: int = 200,
    ) -> None:
        try:
            import opentelemetry.exporter.otlp.proto.http
            import opentelemetry.sdk  # noqa: F401 - only to see that it is there
        except ImportError:
            raise ConfigError("the otlp sink needs OpenTelemetry", hint="pip install 'fazt-net[otel]'") from None
        _check(endpoint, signals, sample=sample, timeout=timeout, interval=interval, max_hosts=max_hosts)
        self._endpoint = endpoint
        self._headers = dict(headers) if headers else None
        self._signals = tuple(signals)
        self._service_name = service_name
        self._all_logs = all_logs
        self._timeout = timeout
        self.interval = interval
        self._hosts = Bounded(max_hosts)
        self._trips: dict[str, list[Event]] = {}
        self._exporters: Exporters | None = None
        self._abandoned: list[object] = []
        self._sample: float | None = None
        if "traces" in self._signals:
            self._sample = sample
            TRACING.join(sample)
            self.propagates = propagate
        # Now and not at the first event: the SDK starts threads for a moment, which a program that ends cannot do any
        # more, and a short one would lose all that it tells at its end.
        with contextlib.suppress(Exception):  # whatever is wrong with it is told at the first event
            self._opened()

    def __repr__(self) -> str:  # headers hold credentials
        return f"<OtlpSink {', '.join(self._signals)}>"

    def emit(self, events: Sequence[Event]) -> None:
        """Send a batch."""
        exporters = self._opened()
        for event in events:
            if event.summary:
                self._call(exporters, event, self._trips.pop(event.request_id, []))
            else:
                self._trips.setdefault(event.request_id, []).append(event)
        while len(self._trips) > _UNFINISHED:  # trips whose summary was dropped
            self._trips.pop(next(iter(self._trips)))
        exporters.send()

    def tick(self) -> None:
        """Send the metrics."""
        if self._exporters is not None:
            self._exporters.collect()

    flush = tick

    def close(self) -> None:
        """Give up the connections to the collector."""
        if self._sample is not None:
            TRACING.leave(self._sample)
            self._sample = None
        if self._exporters is not None:
            self._exporters.close()
            self._exporters = None

    def after_fork(self) -> None:
        """Begin anew; the parent's connections stay untouched until the process ends."""
        self._abandoned.append(self._exporters)
        self._exporters = None
        self._trips = {}

    def _opened(self) -> Exporters:
        if self._exporters is None:
            from fazt.telemetry.sinks.otel import Exporters

            self._exporters = Exporters(
                self._signals,
                endpoint=self._endpoint,
                headers=self._headers,
                service_name=self._service_name,
                timeout=self._timeout,
            )
        return self._exporters

    def _call(self, exporters: Exporters, event: Event, trips: list[Event]) -> None:
        ids = TRACING.ids(event.trace)
        if len(trips) <= 1:
            span_id = self._span(exporters, event, ids, {**_http(event), **_own(event)}, client=True)
        else:
            span_id = self._span(exporters, event, ids, _own(event), client=False)
            under = SpanIds(ids.trace_id, 0, span_id, ids.sampled)
            for number, trip in enumerate(trips):
                more: Attributes = {"http.request.resend_count": number} if number else {}
                self._span(exporters, trip, under, {**_http(trip), **more, **_own(trip)}, client=True)
        for trip in trips or [event]:
            (host,) = self._hosts.fit(trip.host)
            exporters.observe(trip.elapsed_ms / 1000.0, _measured(trip, host))
        if event.failed or self._all_logs:
            exporters.log(
                event.at,
                line(event),
                {**_http(event), **_own(event)},
                failed=event.failed,
                trace_id=ids.trace_id,
                span_id=span_id,
            )

    def _span(self, exporters: Exporters, event: Event, ids: SpanIds, attributes: Attributes, *, client: bool) -> int:
        if not ids.sampled:
            return 0
        return exporters.span(
            # HTTP spans, "Name": the method alone, since a client knows no route
            _method(event) if client else f"fazt {_method(event)}",
            ids,
            attributes,
            start=event.at,
            seconds=event.elapsed_ms / 1000.0,
            client=client,
            failed=event.failed,
        )


def _http(event: Event) -> Attributes:
    """Return the attributes of an HTTP client span."""
    found: Attributes = {
        "http.request.method": _method(event),
        "server.address": event.host,
        "server.port": event.port,
        "url.full": event.url,
    }
    if event.method not in METHODS:
        found["http.request.method_original"] = event.method
    if event.status_code:
        found["http.response.status_code"] = event.status_code
    if event.failed:
        found["error.type"] = _error_type(event)
    version = _VERSIONS.get(event.http_version)
    if version:
        found["network.protocol.name"] = "http"
        found["network.protocol.version"] = version
    return found


def _own(event: Event) -> Attributes:
    """Return what the conventions have no name for."""
    values = {
        "fazt.call_id": event.request_id,
        "fazt.app": event.app,
        "fazt.door": event.door,
        "fazt.rule_id": event.rule_id,
        "fazt.service": event.service,
        "fazt.role": event.role,
        "fazt.cache": event.cache,
        "fazt.code": event.error_code,
        "fazt.reason": event.reason,
        "fazt.breaker": event.breaker,
        "fazt.redirect_target": event.redirect_target,
    }
    found: Attributes = {name: value for name, value in values.items() if value}
    found |= {"fazt.bytes_read": event.bytes_read, "fazt.bytes_written": event.bytes_written}
    if event.ttfb_ms is not None:
        found["fazt.ttfb_ms"] = event.ttfb_ms
    if event.summary:
        found["fazt.attempts"] = event.attempt
        found["fazt.waited_ms"] = event.waited_ms
    return found


def _measured(event: Event, host: str) -> Attributes:
    """Return the attributes of `http.client.request.duration`."""
    found: Attributes = {
        "http.request.method": _method(event),
        "server.address": host,
        "server.port": 0 if host == OTHER else event.port,
        "url.scheme": event.url.partition(":")[0],
    }
    if event.status_code:
        found["http.response.status_code"] = event.status_code
    if event.failed:
        found["error.type"] = _error_type(event)
    version = _VERSIONS.get(event.http_version)
    if version:
        found["network.protocol.version"] = version
    return found


def _method(event: Event) -> str:
    return event.method if event.method in METHODS else "_OTHER"


def _error_type(event: Event) -> str:
    # HTTP spans, `error.type`: the status code as a string when it is that which makes the span an error
    if event.reason is None and event.status_code >= 400:
        return str(event.status_code)
    return event.reason or event.error_code or "_OTHER"


def _check(
    endpoint: str | None, signals: Sequence[str], *, sample: float, timeout: float, interval: float, max_hosts: int
) -> None:
    unknown = [signal for signal in signals if signal not in SIGNALS]
    if unknown or not signals or isinstance(signals, str):
        raise ConfigError(f"signals of the otlp sink are some of {', '.join(SIGNALS)}")
    if endpoint is not None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
            raise ConfigError(
                "the endpoint of the otlp sink must be an http(s) URL without user name and query",
                hint='endpoint = "http://127.0.0.1:4318"',
            )
    if not (0.0 <= sample <= 1.0 and 0.1 <= timeout <= 300.0 and interval >= 1.0 and max_hosts >= 1):
        raise ConfigError("sample is 0 to 1, timeout 0.1 to 300 s, interval at least 1 s, max_hosts at least 1")
