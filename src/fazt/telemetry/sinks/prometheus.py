"""Figures for Prometheus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fazt.errors import ConfigError
from fazt.telemetry.event import Event
from fazt.telemetry.sinks.base import Sink
from fazt.telemetry.sinks.labels import METHODS, OTHER, Bounded

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics import MetricWrapperBase

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class PrometheusSink(Sink):
    """Counts calls and trips, by app, host, method and outcome.

    The number of time series is bounded: apps, hosts and services beyond the limit are counted as `other`, and so are
    methods that HTTP does not define.

    Args:
        registry: where the metrics are registered; one of its own by default.
        listen: `ADDRESS:PORT` to serve `/metrics` on; None when the program does that itself (`text`). Port 0 takes
            any; see `port`.
        max_hosts: pairs of app and host, and hosts, and services, that get figures of their own.

    Raises:
        ConfigError: prometheus-client is not installed, the address cannot be used, or the registry has such metrics.
    """

    name = "prometheus"

    def __init__(
        self, *, registry: CollectorRegistry | None = None, listen: str | None = None, max_hosts: int = 200
    ) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError:
            raise ConfigError(
                "the prometheus sink needs prometheus-client", hint="pip install 'fazt-net[prometheus]'"
            ) from None
        if max_hosts < 1:
            raise ConfigError("max_hosts must be at least 1")
        self.registry = prometheus.CollectorRegistry() if registry is None else registry
        self._pairs, self._hosts, self._services = Bounded(max_hosts), Bounded(max_hosts), Bounded(max_hosts)
        self._made: list[MetricWrapperBase] = []
        try:
            self._metrics()
        except ValueError:
            raise ConfigError(
                "the Prometheus registry already has fazt's metrics", hint="one sink for one registry"
            ) from None
        self._server = None if listen is None else self._serve(listen)

    def __repr__(self) -> str:
        return f"<PrometheusSink port={self.port}>"

    def emit(self, events: Sequence[Event]) -> None:
        """Count a batch."""
        for event in events:
            (host,) = self._hosts.fit(event.host)
            if event.summary:
                self._count_call(event, host)
            else:
                self._count_trip(event, host)

    def text(self) -> str:
        """Return the metrics in the text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry).decode()

    @property
    def port(self) -> int:
        """The port that is served, 0 when none is."""
        return 0 if self._server is None else int(self._server[0].server_port)

    def close(self) -> None:
        """Stop serving, and take the metrics out of the registry."""
        if self._server is not None:
            server, thread = self._server
            self._server = None
            server.shutdown()
            server.server_close()
            thread.join(5)
        for metric in self._made:
            self.registry.unregister(metric)
        self._made = []

    def after_fork(self) -> None:
        """Leave the listening socket to the parent; the child is not scraped."""
        if self._server is not None:
            self._server[0].socket.close()
            self._server = None

    def _metrics(self) -> None:
        from prometheus_client import Counter, Histogram

        def counter(name: str, text: str, *labels: str) -> Counter:
            made = Counter(name, text, labels, registry=self.registry)
            self._made.append(made)
            return made

        def histogram(name: str, text: str) -> Histogram:
            made = Histogram(name, text, ("host",), registry=self.registry, buckets=_SECONDS)
            self._made.append(made)
            return made

        self._calls = counter("fazt_calls", "Calls.", "app", "host", "method", "outcome")
        self._errors = counter("fazt_call_errors", "Calls that failed, by reason.", "host", "code", "reason")
        self._services_calls = counter("fazt_service_calls", "Calls of named services.", "service", "outcome")
        self._cache = counter("fazt_cache_answers", "Calls by what the cache did.", "cache")
        self._retries = counter("fazt_retries", "Trips that repeated another one.", "host")
        self._waited = counter("fazt_wait_seconds", "Time spent waiting for limits and retries.", "host")
        self._read = counter("fazt_read_bytes", "Bytes of response bodies, on the wire.", "host")
        self._written = counter("fazt_written_bytes", "Bytes of request bodies, on the wire.", "host")
        self._attempts = counter("fazt_attempts", "Trips to the network.", "host", "status")
        self._seconds = histogram("fazt_call_seconds", "Duration of calls.")
        self._ttfb = histogram("fazt_first_byte_seconds", "Time to the head of the answer, of each trip.")

    def _count_call(self, event: Event, host: str) -> None:
        method = event.method if event.method in METHODS else OTHER
        self._calls.labels(*self._pairs.fit(event.app, event.host), method, event.status.value).inc()
        if event.failed:
            self._errors.labels(host, event.error_code or "", event.reason or str(event.status_code or "")).inc()
        if event.service:
            self._services_calls.labels(*self._services.fit(event.service), event.status.value).inc()
        if event.cache:
            self._cache.labels(event.cache).inc()
        if event.retries > 0:
            self._retries.labels(host).inc(event.retries)
        if event.waited_ms > 0:
            self._waited.labels(host).inc(event.waited_ms / 1000)
        self._read.labels(host).inc(event.bytes_read)
        self._written.labels(host).inc(event.bytes_written)
        self._seconds.labels(host).observe(event.elapsed_ms / 1000)

    def _count_trip(self, event: Event, host: str) -> None:
        status = f"{event.status_code // 100}xx" if event.status_code else event.status.value
        self._attempts.labels(host, status).inc()
        if event.ttfb_ms is not None:
            self._ttfb.labels(host).observe(event.ttfb_ms / 1000)

    def _serve(self, listen: str):  # type: ignore[no-untyped-def]  # the types of a server and its thread
        from prometheus_client import start_http_server

        address, _, port = listen.rpartition(":")
        if not address or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ConfigError(f"listen {listen!r} is not ADDRESS:PORT", hint='listen = "127.0.0.1:9464"')
        try:
            return start_http_server(int(port), addr=address.strip("[]"), registry=self.registry)
        except OSError as fault:
            raise ConfigError(f"the prometheus sink cannot listen on {listen}: {fault.strerror}") from fault
