"""OTLP: what a real collector reads on the other side."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from tests.telemetry.collector import Collector, attributes
from tests.telemetry.sinks import call, trip
from tests.telemetry.test_fanout import environment, in_child

from fazt.core.call import Hop
from fazt.errors import ConfigError
from fazt.telemetry import Fanout, OtlpSink, Sink, events_of, trace_headers
from fazt.telemetry.tracing import TRACING, Tracing, with_trace


@contextlib.contextmanager
def Fanouts(sinks: list[Sink]) -> Iterator[Fanout]:
    fanout = Fanout(sinks)
    yield fanout
    fanout.close()


CLIENT, INTERNAL, ERROR = 3, 1, 2


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture
def sink(collector: Collector) -> Iterator[OtlpSink]:
    made = OtlpSink(collector.endpoint, service_name="reports", headers={"X-Key": "KEY"}, timeout=5)
    yield made
    made.close()


def test_R88_a_call_of_one_trip_is_one_client_span(collector: Collector, sink: OtlpSink) -> None:
    sink.emit(events_of(call(service="crossref", rule_id="r_1", cache="miss")))
    (span,) = collector.spans
    assert (span.name, span.kind, span.status.code) == ("GET", CLIENT, 0)
    assert span.start_time_unix_nano == 1_700_000_000_500_000_000
    assert span.end_time_unix_nano - span.start_time_unix_nano == 12_345_000
    assert span.parent_span_id == b""
    found = attributes(span.attributes)
    assert {name: value for name, value in found.items() if not name.startswith("fazt.")} == {
        "http.request.method": "GET",
        "server.address": "api.example.com",
        "server.port": 443,
        "url.full": "https://api.example.com/v1",
        "http.response.status_code": 200,
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
    }
    assert (found["fazt.call_id"], found["fazt.service"], found["fazt.cache"]) == ("c_0000", "crossref", "miss")
    assert collector.services == {"reports"}
    assert {headers["x-key"] for _, headers, _ in collector.requests} == {"KEY"}
    assert collector.logs == [], "a call that went well needs no log record"


def test_R88_retries_and_redirects_are_spans_under_the_call(collector: Collector, sink: OtlpSink) -> None:
    sink.emit(
        events_of(
            call(
                attempts=[trip(), trip(number=2, status=302, redirect="https://b.example/")],
                redirects=[Hop(302, "https://b.example/")],
                method="PROPFIND",
                status=None,
                code="NET_TIMEOUT",
                reason="first_byte",
            )
        )
    )
    whole, *trips = collector.spans
    assert (whole.name, whole.kind, whole.status.code) == ("fazt _OTHER", INTERNAL, ERROR)
    assert [span.kind for span in trips] == [CLIENT] * 3
    assert {span.parent_span_id for span in trips} == {whole.span_id}
    assert {span.trace_id for span in trips} == {whole.trace_id}
    assert len({span.span_id for span in [whole, *trips]}) == 4
    found = [attributes(span.attributes) for span in trips]
    assert [one.get("http.request.resend_count") for one in found] == [None, 1, 2]
    assert [one.get("error.type") for one in found] == ["503", None, "first_byte"]
    assert [span.status.code for span in trips] == [ERROR, 0, ERROR]
    assert found[2]["server.address"] == "b.example"
    assert found[2]["http.request.method_original"] == "PROPFIND"


def test_R88_durations_are_measured_as_the_conventions_say(collector: Collector, sink: OtlpSink) -> None:
    sink.emit(events_of(call(0)) + events_of(call(1, status=500)) + events_of(call(2, attempt_ms=300.0)))
    sink.flush()
    (metric,) = collector.metrics
    assert (metric.name, metric.unit) == ("http.client.request.duration", "s")
    points = {
        attributes(point.attributes)["http.response.status_code"]: point for point in metric.histogram.data_points
    }
    assert attributes(points[200].attributes) == {
        "http.request.method": "GET",
        "server.address": "api.example.com",
        "server.port": 443,
        "url.scheme": "https",
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
    }
    assert attributes(points[500].attributes)["error.type"] == "500"
    assert (points[200].count, points[500].count) == (2, 1)
    assert points[200].sum == pytest.approx(0.311)
    assert list(points[200].explicit_bounds)[:3] == [0.005, 0.01, 0.025]


def test_the_number_of_hosts_in_metrics_is_bounded(collector: Collector) -> None:
    sink = OtlpSink(collector.endpoint, signals=["metrics"], max_hosts=2)
    for n in range(5):
        sink.emit(events_of(call(n, host=f"h{n}.example")))
    sink.flush()
    points = collector.metrics[-1].histogram.data_points
    assert {attributes(point.attributes)["server.address"] for point in points} == {"h0.example", "h1.example", "other"}
    sink.close()
    assert collector.spans == collector.logs == []


def test_R88_a_failed_call_is_a_log_record_of_its_span(collector: Collector, sink: OtlpSink) -> None:
    sink.emit(events_of(call(status=None, code="NET_BLOCKED", reason="private_address", attempt_ts=None)))
    (record,) = collector.logs
    (span,) = collector.spans
    assert (record.trace_id, record.span_id) == (span.trace_id, span.span_id)
    assert record.severity_text == "WARN" and record.time_unix_nano == span.start_time_unix_nano
    assert record.body.string_value.startswith("GET https://api.example.com/v1 error")
    assert attributes(record.attributes)["fazt.reason"] == "private_address"
    assert attributes(span.attributes)["error.type"] == "private_address"


def test_all_calls_may_be_logged(collector: Collector) -> None:
    sink = OtlpSink(collector.endpoint, signals=["logs"], all_logs=True)
    sink.emit(events_of(call(0)))
    sink.close()
    assert [record.severity_text for record in collector.logs] == ["INFO"]
    assert collector.spans == []


def test_the_callee_joins_the_span_that_is_exported(collector: Collector, sink: OtlpSink) -> None:
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("work") as work:
        sent = trace_headers()["traceparent"]
    sink.emit(events_of(call(trace=sent)))
    (span,) = collector.spans
    outer = work.get_span_context()
    assert sent[:52] == f"00-{span.trace_id.hex()}-{span.span_id.hex()}"
    assert int(sent[53:], 16) & 1
    assert span.trace_id == outer.trace_id.to_bytes(16, "big")
    assert span.parent_span_id == outer.span_id.to_bytes(8, "big")


def test_requests_carry_the_context_once(collector: Collector, sink: OtlpSink) -> None:
    names = [name for name, _ in with_trace((("accept", "*/*"),))]
    assert names == ["accept", "traceparent"]
    given = (("Traceparent", "x"),)
    assert with_trace(given) is given
    with Fanouts([sink]) as fanout:
        assert fanout.propagates
    with Fanouts([OtlpSink(collector.endpoint, propagate=False), OtlpSink(signals=["logs"])]) as fanout:
        assert not fanout.propagates


def test_a_foreign_traceparent_is_the_parent(collector: Collector, sink: OtlpSink) -> None:
    sink.emit(events_of(call(trace=f"00-{'a' * 32}-{'b' * 16}-01")))
    sink.emit(events_of(call(trace=f"00-{'a' * 32}-{'b' * 16}-00")))
    (span,) = collector.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == ("a" * 32, "b" * 16)
    assert span.span_id.hex() != "b" * 16


def test_without_a_current_span_a_trace_begins_here(sink: OtlpSink, collector: Collector) -> None:
    sent = trace_headers()
    assert list(sent) == ["traceparent"]
    sink.emit(events_of(call(trace=sent["traceparent"])))
    assert collector.spans[0].trace_id.hex() in sent["traceparent"]
    assert collector.spans[0].parent_span_id == b""


def test_nothing_is_sampled_at_zero(collector: Collector) -> None:
    sink = OtlpSink(collector.endpoint, signals=["traces"], sample=0)
    sent = trace_headers()["traceparent"]
    assert sent.endswith("-00")
    sink.emit(events_of(call(trace=sent)) + events_of(call(1)))
    sink.close()
    assert collector.requests == []


def test_trace_headers_without_an_exporter_are_those_of_the_program() -> None:
    assert TRACING.ratio is None
    assert trace_headers() == {}
    with TracerProvider().get_tracer("test").start_as_current_span("work") as work:
        context = work.get_span_context()
        sent = trace_headers()
    ids = f"{trace.format_trace_id(context.trace_id)}-{trace.format_span_id(context.span_id)}"
    assert sent["traceparent"][:52] == f"00-{ids}"


def test_the_last_exporter_that_is_open_counts() -> None:
    first, second = OtlpSink(signals=["traces"], sample=0.25), OtlpSink(signals=["traces"], sample=1.0)
    second.close()
    assert TRACING.ratio == 0.25
    first.close()
    first.close()
    assert TRACING.ratio is None


def test_the_ids_that_are_kept_are_bounded() -> None:
    tracing = Tracing()
    tracing.join(1.0)
    first = tracing.headers()["traceparent"]
    for _ in range(10_000):
        last = tracing.headers()["traceparent"]
    assert tracing.ids(last).span_id != 0
    assert tracing.ids(first).span_id == 0, "it was let go, so it counts as a foreign one"


@pytest.mark.parametrize("bad", ["", "x", f"ff-{'a' * 32}-{'b' * 16}-01", f"00-{'0' * 32}-{'b' * 16}-01"])
def test_a_broken_traceparent_begins_a_new_trace(bad: str) -> None:
    ids = Tracing().ids(bad)
    assert ids.trace_id and not ids.parent_id and ids.sampled


def test_a_collector_that_fails_costs_its_events_only(
    collector: Collector, sink: OtlpSink, caplog: pytest.LogCaptureFixture
) -> None:
    collector.status = 400
    fanout = Fanout([sink])
    with caplog.at_level(logging.WARNING, "fazt.telemetry"):
        fanout.append(call(0))
        assert fanout.flush(30)
        assert fanout.lost == {"otlp": 2}
        collector.status = 200
        fanout.append(call(1))
        assert fanout.flush(30)
    assert fanout.lost == {"otlp": 2}
    assert "KEY" not in caplog.text and "otlp" in caplog.text
    fanout.close(30)


def test_the_fanout_sends_metrics_from_time_to_time_and_at_the_end(collector: Collector) -> None:
    fanout = Fanout([OtlpSink(collector.endpoint, signals=["metrics"], interval=3600)])
    fanout.append(call(0))
    fanout.close(30)
    assert collector.metrics[-1].histogram.data_points[0].count == 1


SHORT = """
import sys
from tests.telemetry.sinks import call
from fazt.telemetry import Fanout, OtlpSink
Fanout([OtlpSink(sys.argv[1], signals=["traces"])]).append(call(0))
"""


def test_a_program_that_ends_at_once_tells_all_the_same(collector: Collector) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SHORT, collector.endpoint],
        timeout=60,
        cwd=root,
        env=environment(root),
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""
    assert [attributes(span.attributes)["fazt.call_id"] for span in collector.spans] == ["c_0000"]


def test_a_forked_child_has_connections_of_its_own(collector: Collector) -> None:
    fanout = Fanout([OtlpSink(collector.endpoint, signals=["traces"])])
    fanout.append(call(0))
    assert fanout.flush(30)

    def child() -> None:
        fanout.append(call(1))
        assert fanout.flush(30) and fanout.lost == {"otlp": 0}

    assert in_child(child) == 0
    fanout.append(call(2))
    assert fanout.flush(30)
    fanout.close(30)
    found = [attributes(span.attributes)["fazt.call_id"] for span in collector.spans]
    assert sorted(found) == ["c_0000", "c_0001", "c_0002"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint": "127.0.0.1:4318"},
        {"endpoint": "http://user:pw@127.0.0.1:4318"},
        {"endpoint": "http://127.0.0.1:4318?key=x"},
        {"signals": []},
        {"signals": ["spans"]},
        {"sample": 1.5},
        {"timeout": 0},
        {"interval": 0},
        {"max_hosts": 0},
    ],
)
def test_values_that_cannot_be_used_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as refused:
        OtlpSink(**wrong)  # type: ignore[arg-type]
    assert "pw" not in str(refused.value)
    assert "headers" not in repr(OtlpSink(headers={"k": "v"}, signals=["logs"]))
