"""A secret that comes by in every way it can shows in no sink (R80, D22)."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import httpx2
import pytest
from tests.telemetry.collector import Collector
from tests.telemetry.sinks import Collected, call, trip

from fazt.core.call import Hop
from fazt.errors import FaztError, Reason
from fazt.stores.sqlite.events import opener
from fazt.telemetry import (
    ConsoleSink,
    CsvSink,
    EventBuilder,
    Fanout,
    JsonlSink,
    LogSink,
    OtlpSink,
    PrometheusSink,
    SqliteSink,
)

SECRET = "cAnArY-s3cret"
URL = f"https://user:{SECRET}@api.example.com/v1?key={SECRET}#{SECRET}"


def built() -> list[object]:
    request = httpx2.Request("GET", URL, headers={"authorization": f"Bearer {SECRET}", "cookie": SECRET})
    response = httpx2.Response(302, request=request, headers={"location": URL, "x-echo": SECRET}, content=SECRET)
    status_error = httpx2.HTTPStatusError(f"for {URL} {SECRET}", request=request, response=response)
    start = EventBuilder().with_request("GET", URL, request_id="c_built")
    return [
        start.with_response(response).with_redirect(response.headers["location"]).build(),
        start.with_error(status_error).build(),
        start.with_error(ValueError(SECRET)).build(),
        start.with_error(FaztError(Reason.CONNECT_FAILED, f"No way to {URL}.", detail=SECRET)).build(),
        start.with_error(OSError(5, SECRET), message=f"could not read {URL}").build(),
    ]


def test_no_sink_shows_a_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    collector, console, collected, prometheus = Collector(), io.StringIO(), Collected(), PrometheusSink()
    fanout = Fanout(
        [
            LogSink(),
            JsonlSink(tmp_path / "net.jsonl"),
            CsvSink(tmp_path / "attempts.csv"),
            SqliteSink(opener(tmp_path / "log.db")),
            ConsoleSink(console, attempts=True),
            OtlpSink(collector.endpoint, all_logs=True),
            prometheus,
            collected,
        ]
    )
    with caplog.at_level(logging.DEBUG):
        fanout.append(
            call(
                path=f"/v1?key={SECRET}",
                auth="KEY",
                detail=SECRET,
                address="10.0.0.1",
                status=None,
                code="NET_ERROR",
                reason="connect_failed",
                error=f"No connection to {URL} could be made.",
                attempts=[trip(status=302, path=f"/v1?{SECRET}", redirect=URL)],
                redirects=[Hop(302, URL)],
            )
        )
        for event in built():
            fanout.emit(event)  # type: ignore[arg-type]
        assert fanout.flush(30)
        scraped = prometheus.text()
        fanout.close(30)
    collector.close()
    assert set(fanout.lost.values()) == {0}
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {"net.jsonl", "attempts.csv", "log.db"} <= set(files)
    shown = {
        **files,
        "otlp": collector.raw,
        "prometheus": scraped.encode(),
        "console": console.getvalue().encode(),
        "log": caplog.text.encode(),
        "events": repr(collected.events).encode(),
        "objects": repr([fanout, *fanout.sinks]).encode(),
    }
    for name, data in shown.items():
        assert data, name
        assert SECRET.encode() not in data, name
        assert b"user:" not in data, name
    for name in ("net.jsonl", "attempts.csv", "log.db", "otlp", "console", "log"):
        assert b"api.example.com/v1" in shown[name], f"{name} has the events at all"
