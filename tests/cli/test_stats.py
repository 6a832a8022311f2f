"""`fazt stats`: the figures of the log, as people and as programs read them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Fazt
from tests.cli.upstream import Upstream

from fazt.core.record import Attempt, CallRecord
from fazt.stores.sqlite import Store
from fazt.stores.sqlite.events import opener
from fazt.telemetry import SqliteSink, events_of

NOW = time.time()


def record(n: int, **fields: Any) -> CallRecord:
    values: dict[str, Any] = {
        "method": "GET",
        "scheme": "https",
        "host": "api.example.com",
        "port": 443,
        "path": "/",
        "status": 200,
        "duration_ms": float(n),
        "request_bytes": 10,
        "response_bytes": 1000,
    }
    return CallRecord(f"c_{n:04d}", NOW - 60 + n / 1000, "", "client", **(values | fields))


def write(data: Path, *records: CallRecord) -> None:
    with Store.open(data) as store:
        for one in records:
            store.log.append(one)


@pytest.fixture
def logged(fazt: Fazt) -> Fazt:
    """A hundred calls of 1 to 100 ms to one host, and a few to others."""
    write(
        fazt.folder / "data",
        *[record(n, cache="hit" if n <= 25 else "miss") for n in range(1, 101)],
        record(200, host="b.example", status=503, service="crossref"),
        record(300, host="b.example", status=None, code="NET_TIMEOUT", reason="first_byte", service="crossref"),
        record(400, host="c.example", service="unpaywall", cache="revalidated"),
    )
    return fazt


def test_figures_in_all_and_per_host_and_per_service(logged: Fazt) -> None:
    found = logged.json("stats")
    total = found["total"]
    assert (total["calls"], total["errors"], total["errorRate"]) == (103, 2, round(2 / 103, 4))
    assert (total["requestBytes"], total["responseBytes"]) == (1030, 103_000)
    assert (total["cacheHits"], total["cacheShare"]) == (26, round(26 / 103, 4))
    assert (total["p50Ms"], total["p95Ms"]) == (52.0, 98.0)
    assert [host["host"] for host in found["hosts"]] == ["api.example.com", "b.example", "c.example"]
    first, second, _ = found["hosts"]
    assert (first["p50Ms"], first["p95Ms"], first["errors"]) == (50.0, 95.0, 0)
    assert (second["p50Ms"], second["p95Ms"], second["errorRate"]) == (200.0, 300.0, 1.0)
    assert [(one["service"], one["calls"]) for one in found["services"]] == [("crossref", 2), ("unpaywall", 1)]
    assert found["failures"] == [
        {"code": None, "reason": None, "status": 503, "calls": 1},
        {"code": "NET_TIMEOUT", "reason": "first_byte", "status": None, "calls": 1},
    ]
    assert found["trips"] is None and found["dropped"] == 0


def test_the_same_as_tables(logged: Fazt) -> None:
    out = logged("stats").out
    assert out.startswith("103 calls, 1.9% failed; p50 52.0 ms, p95 98.0 ms; 1.0 KiB sent, 100.6 KiB received; 25.2% ")
    lines = out.splitlines()
    assert lines[2].split() == ["Domain", "Calls", "Errors", "p50", "ms", "p95", "ms", "Sent", "Received", "Cache"]
    assert lines[3].split()[:5] == ["api.example.com", "100", "0.0%", "50.0", "95.0"]
    assert any(line.split()[:3] == ["crossref", "2", "100.0%"] for line in lines)
    assert any(line.split() == ["NET_TIMEOUT", "(first_byte)", "1"] for line in lines)
    assert any(line.split() == ["status", "503", "1"] for line in lines)


def test_lists_are_as_long_as_asked(logged: Fazt) -> None:
    found = logged.json("stats", "-n", "1")
    assert [len(found[name]) for name in ("hosts", "services", "failures")] == [1, 1, 1]
    assert found["total"]["calls"] == 103


def test_since_and_app_narrow_it_down(fazt: Fazt) -> None:
    write(
        fazt.folder / "data",
        CallRecord("c_old", NOW - 86_400, "", "cli", host="old.example", status=200),
        record(2),
        CallRecord("c_app", NOW, "fazt_app_00000000000A", "functions", host="app.example", status=200),
    )
    assert fazt.json("stats")["total"]["calls"] == 3
    assert [host["host"] for host in fazt.json("stats", "--since", "1h")["hosts"]] == ["api.example.com", "app.example"]
    assert [host["host"] for host in fazt.json("stats", "--app", "fazt_app_00000000000A")["hosts"]] == ["app.example"]


def test_an_empty_log_says_so(fazt: Fazt) -> None:
    assert "no call was logged" in fazt("stats").err
    assert "in that time" in fazt("stats", "--since", "1h").err
    assert fazt.json("stats")["total"]["calls"] == 0


def test_trips_are_summarised_where_they_are_kept(fazt: Fazt) -> None:
    data = fazt.folder / "data"
    write(data, record(1))
    sink = SqliteSink(opener(data / "log.db"))
    for n in range(1, 11):
        sink.emit(events_of(record(n, ttfb_ms=float(n), attempt_ts=NOW - 60)))
    failed = Attempt(NOW - 61, 1, 1, "GET", "https", "api.example.com", 443, "/", 503)
    sink.emit(events_of(record(11, ttfb_ms=11.0, attempt_ts=NOW - 60, number=2, attempts=[failed])))
    sink.close()
    # the time to the first byte is known of eleven of them
    expected = {"trips": 12, "failed": 1, "repeated": 1, "firstByteP50Ms": 6.0, "firstByteP95Ms": 11.0}
    assert fazt.json("stats", "--since", "1h")["trips"] == expected
    assert fazt.json("stats", "--since", "10s")["trips"] is None
    assert "trips to the network" in fazt("stats").out


def test_trips_of_real_calls_are_kept_by_a_sink_of_the_settings(fazt: Fazt, upstream: Upstream) -> None:
    port = upstream.port
    fazt("net", "allow", f"https://api.test:{port}", "--address", "127.0.0.1/32")
    (fazt.folder / "data" / "fazt.toml").write_text('[telemetry.sqlite]\n[telemetry.jsonl]\npath = "net.jsonl"\n')
    fazt("fetch", f"https://api.test:{port}/hello?token=SECRET")
    fazt("fetch", "https://nobody.test/", expect=2)
    found = fazt.json("stats")
    assert (found["total"]["calls"], found["total"]["errors"], found["trips"]["trips"]) == (2, 1, 1)
    told = [json.loads(line) for line in (fazt.folder / "data" / "net.jsonl").read_text().splitlines()]
    assert [one["event_type"] for one in told] == ["net.request", "net.request.summary", "net.request.summary"]
    assert told[1]["ttfb_ms"] > 0 and told[2]["reason"] == "host_not_granted"
    assert not [name for name, data in fazt.files().items() if b"SECRET" in data]


def test_a_telemetry_table_that_is_not_understood_stops_the_command(fazt: Fazt) -> None:
    (fazt.folder / "data").mkdir(mode=0o700)
    (fazt.folder / "data" / "fazt.toml").write_text("[telemetry.statsd]\n")
    said = fazt("fetch", "https://nobody.test/", expect=1).err
    assert "there is no sink 'statsd'" in said and "jsonl" in said


def test_it_is_listed_with_the_commands(fazt: Fazt) -> None:
    assert "stats" in fazt("--help").out
    assert "fazt stats --since 24h" in fazt("stats", "--help").out
