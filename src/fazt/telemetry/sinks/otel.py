"""OpenTelemetry's SDK as the OTLP sink uses it: providers whose output is sent when the sink says so.

The SDK's own batch processors have threads and queues; the sink has both already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry._logs import SeverityNumber
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from fazt.telemetry.tracing import SpanIds, _drawn

_SCOPE = "fazt"
_BATCH = 512
# HTTP metrics, `http.client.request.duration`: the bucket boundaries it advises
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


class ExportError(Exception):
    """The collector did not take a batch; the exporter's own log says why."""


class Exporters:
    """Spans, measurements and log records on their way to a collector."""

    def __init__(
        self,
        signals: Sequence[str],
        *,
        endpoint: str | None,
        headers: Mapping[str, str] | None,
        service_name: str | None,
        timeout: float,
    ) -> None:
        def options(signal: str) -> dict[str, Any]:
            url = None if endpoint is None else f"{endpoint.rstrip('/')}/v1/{signal}"
            return {"endpoint": url, "headers": None if headers is None else dict(headers), "timeout": timeout}

        resource = Resource.create({} if service_name is None else {"service.name": service_name})
        self._timeout_ms = timeout * 1000.0
        self._spans: _Spans | None = None
        self._logs: _Logs | None = None
        self._meters: MeterProvider | None = None
        if "traces" in signals:
            self._spans = _Spans(OTLPSpanExporter(**options("traces")), resource)
        if "logs" in signals:
            self._logs = _Logs(OTLPLogExporter(**options("logs")), resource)
        if "metrics" in signals:
            # No interval of its own, so that it starts no thread.
            self._reader = PeriodicExportingMetricReader(
                OTLPMetricExporter(**options("metrics")), export_interval_millis=math.inf
            )
            self._meters = MeterProvider([self._reader], resource=resource, shutdown_on_exit=False)
            self._duration = self._meters.get_meter(_SCOPE).create_histogram(
                "http.client.request.duration",
                unit="s",
                description="Duration of HTTP client requests.",
                explicit_bucket_boundaries_advisory=_SECONDS,
            )

    def span(
        self,
        name: str,
        ids: SpanIds,
        attributes: Mapping[str, Any],
        *,
        start: float,
        seconds: float,
        client: bool,
        failed: bool,
    ) -> int:
        """Make a span that is over already; answer its id, 0 when spans are not sent."""
        if self._spans is None:
            return 0
        return self._spans.add(name, ids, attributes, start=start, seconds=seconds, client=client, failed=failed)

    def observe(self, seconds: float, attributes: Mapping[str, Any]) -> None:
        """Measure a trip."""
        if self._meters is not None:
            self._duration.record(seconds, attributes, context=Context())

    def log(
        self, at: float, body: str, attributes: Mapping[str, Any], *, failed: bool, trace_id: int, span_id: int
    ) -> None:
        """Make a log record."""
        if self._logs is not None:
            self._logs.add(at, body, attributes, failed=failed, context=_context(trace_id, span_id))

    def send(self) -> None:
        """Send what was made.

        Raises:
            ExportError: the collector did not take some of it.
        """
        token = otel_context.attach(otel_context.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            done = [part.send() for part in (self._spans, self._logs) if part is not None]
        finally:
            otel_context.detach(token)
        if not all(done):
            raise ExportError

    def collect(self) -> None:
        """Send the metrics as they stand; what fails is in the next sum again."""
        if self._meters is not None:
            self._reader.collect(timeout_millis=self._timeout_ms)

    def close(self) -> None:
        """Send what is left and close the connections."""
        for part in (self._spans, self._logs):
            if part is not None:
                part.close()
        if self._meters is not None:
            self._meters.shutdown(timeout_millis=self._timeout_ms)


class _Ids(IdGenerator):
    """Gives out the ids that were chosen before."""

    span = 0
    trace = 0

    def generate_span_id(self) -> int:
        return self.span

    def generate_trace_id(self) -> int:
        return self.trace


class _Spans(SpanProcessor):
    def __init__(self, exporter: OTLPSpanExporter, resource: Resource) -> None:
        self._exporter = exporter
        self._ids = _Ids()
        provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False, id_generator=self._ids)
        provider.add_span_processor(self)
        self._tracer = provider.get_tracer(_SCOPE)
        self._ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._ended.append(span)

    def add(
        self,
        name: str,
        ids: SpanIds,
        attributes: Mapping[str, Any],
        *,
        start: float,
        seconds: float,
        client: bool,
        failed: bool,
    ) -> int:
        self._ids.trace, self._ids.span = ids.trace_id, ids.span_id or _drawn(64)
        begun = int(start * 1e9)
        span = self._tracer.start_span(
            name,
            context=_context(ids.trace_id, ids.parent_id),
            kind=SpanKind.CLIENT if client else SpanKind.INTERNAL,
            attributes=attributes,
            start_time=begun,
        )
        if failed:
            span.set_status(StatusCode.ERROR)
        span.end(end_time=begun + int(max(0.0, seconds) * 1e9))
        return self._ids.span

    def send(self) -> bool:
        spans, self._ended = self._ended, []
        results = [
            self._exporter.export(spans[at : at + _BATCH]) is SpanExportResult.SUCCESS
            for at in range(0, len(spans), _BATCH)
        ]
        return all(results)

    def close(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


class _Logs(LogRecordProcessor):
    def __init__(self, exporter: OTLPLogExporter, resource: Resource) -> None:
        self._exporter = exporter
        self._resource = resource
        provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_log_record_processor(self)
        self._logger = provider.get_logger(_SCOPE)
        self._waiting: list[ReadableLogRecord] = []

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        self._waiting.append(
            ReadableLogRecord(
                log_record=log_record.log_record,
                resource=log_record.resource or self._resource,
                instrumentation_scope=log_record.instrumentation_scope,
                limits=log_record.limits,
            )
        )

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True

    def add(self, at: float, body: str, attributes: Mapping[str, Any], *, failed: bool, context: Context) -> None:
        self._logger.emit(
            timestamp=int(at * 1e9),
            context=context,
            severity_number=SeverityNumber.WARN if failed else SeverityNumber.INFO,
            severity_text="WARN" if failed else "INFO",
            body=body,
            attributes=dict(attributes),
            event_name="net.request",
        )

    def send(self) -> bool:
        records, self._waiting = self._waiting, []
        results = [
            self._exporter.export(records[at : at + _BATCH]) is LogRecordExportResult.SUCCESS
            for at in range(0, len(records), _BATCH)
        ]
        return all(results)

    def close(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


def _context(trace_id: int, span_id: int) -> Context:
    """Return a context in which that span is the current one; an empty one for 0."""
    if not span_id:
        return Context()
    parent = SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(parent), Context())
