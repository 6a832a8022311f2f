"""Prometheus: what a scrape shows, and that it stays small."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from tests.telemetry.sinks import call, trip
from tests.telemetry.test_fanout import in_child

from fazt.errors import ConfigError
from fazt.telemetry import PrometheusSink, events_of


@pytest.fixture
def sink() -> Iterator[PrometheusSink]:
    made = PrometheusSink()
    yield made
    made.close()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float | None:
    return samples(text).get((name, tuple(sorted(labels.items()))))


def test_calls_trips_bytes_and_times_are_counted(sink: PrometheusSink) -> None:
    host = "api.example.com"
    sink.emit(events_of(call(0, service="crossref", cache="miss", attempts=[trip()], number=2, waited_ms=250.0)))
    sink.emit(events_of(call(1, status=None, code="NET_BLOCKED", reason="path_not_granted", attempt_ts=None)))
    text = sink.text()
    app = "fazt_app_000000000001"
    assert value(text, "fazt_calls_total", app=app, host=host, method="GET", outcome="success") == 1
    assert value(text, "fazt_calls_total", app=app, host=host, method="GET", outcome="error") == 1
    assert value(text, "fazt_call_errors_total", host=host, code="NET_BLOCKED", reason="path_not_granted") == 1
    assert value(text, "fazt_attempts_total", host=host, status="5xx") == 1
    assert value(text, "fazt_attempts_total", host=host, status="2xx") == 1
    assert value(text, "fazt_retries_total", host=host) == 1
    assert value(text, "fazt_wait_seconds_total", host=host) == 0.25
    assert value(text, "fazt_service_calls_total", service="crossref", outcome="success") == 1
    assert value(text, "fazt_cache_answers_total", cache="miss") == 1
    assert value(text, "fazt_read_bytes_total", host=host) == 400
    assert value(text, "fazt_call_seconds_count", host=host) == 2
    assert value(text, "fazt_first_byte_seconds_bucket", host=host, le="0.005") == 1


def test_the_number_of_series_is_bounded() -> None:
    sink = PrometheusSink(max_hosts=5)
    for n in range(200):
        sink.emit(events_of(call(n, host=f"h{n}.example", app=f"app{n}", method=f"M{n}", service=f"s{n}")))
    before = len(samples(sink.text()))
    for n in range(200, 400):
        sink.emit(events_of(call(n, host=f"h{n}.example", app=f"app{n}", method=f"M{n}", service=f"s{n}")))
    assert len(samples(sink.text())) == before
    found = value(sink.text(), "fazt_calls_total", app="other", host="other", method="other", outcome="success")
    assert found == 395
    sink.close()


def test_metrics_are_scraped_over_http() -> None:
    sink = PrometheusSink(listen="127.0.0.1:0")
    sink.emit(events_of(call(0)))
    with urllib.request.urlopen(f"http://127.0.0.1:{sink.port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    sink.close()
    assert value(text, "fazt_call_seconds_count", host="api.example.com") == 1
    assert sink.port == 0


def test_a_forked_child_leaves_the_port_to_the_parent() -> None:
    sink = PrometheusSink(listen="127.0.0.1:0")

    def child() -> None:
        sink.after_fork()
        assert sink.port == 0

    assert in_child(child) == 0
    with urllib.request.urlopen(f"http://127.0.0.1:{sink.port}/metrics", timeout=30) as answer:
        assert answer.status == 200
    sink.close()


def test_a_registry_of_ones_own_takes_one_sink_at_a_time() -> None:
    registry = CollectorRegistry()
    first = PrometheusSink(registry=registry)
    with pytest.raises(ConfigError, match="already has"):
        PrometheusSink(registry=registry)
    first.close()
    PrometheusSink(registry=registry).close()


@pytest.mark.parametrize("listen", ["9464", "127.0.0.1:x", "127.0.0.1:99999", "192.0.2.1:9464", ""])
def test_an_address_that_cannot_be_served_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError):
        PrometheusSink(listen=listen)
