"""Events in the database of the network log."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.telemetry.sinks import call, trip
from tests.telemetry.test_fanout import in_child

from fazt.errors import StoreError
from fazt.stores.sqlite.events import HTTP_EVENTS, NET_REQUEST, opener
from fazt.telemetry import Fanout, SqliteSink, events_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def sink(path: Path) -> Iterator[SqliteSink]:
    made = SqliteSink(opener(path), run_id="run1")
    yield made
    made.close()


def rows(path: Path, table: str) -> list[dict[str, Any]]:
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY rowid")]
    finally:
        connection.close()


def test_R86_net_request_holds_the_full_event(path: Path, sink: SqliteSink) -> None:
    record = call(attempts=[trip()], number=2, service="crossref", role="metadata")
    sink.emit(events_of(record))
    found = rows(path, "net_request")
    assert [{**event.to_dict(), "run_id": "run1"} for event in events_of(record)] == [
        {**row, "from_cache": bool(row["from_cache"]), "http2": bool(row["http2"])} for row in found
    ]
    assert tuple(found[0]) == NET_REQUEST


def test_D49_http_events_exists_with_the_columns_of_the_contract(path: Path, sink: SqliteSink) -> None:
    sink.emit(
        events_of(
            call(
                attempts=[trip(retry_after=2.0)],
                number=2,
                waited_ms=1500.0,
                breaker="half_open",
                role="artifact",
                cache="revalidated",
            )
        )
    )
    sink.emit(events_of(call(1, status=None, code="NET_RATE", reason="breaker_open", attempt_ts=None, breaker="open")))
    first, second = rows(path, "http_events")
    assert " ".join(first) == (
        "run_id ts host role method status url_hash from_cache revalidated stale retry_count retry_after_s "
        "rate_delay_ms breaker_state breaker_recorded elapsed_ms error"
    )
    assert tuple(first) == HTTP_EVENTS
    assert first == {
        "run_id": "run1",
        "ts": "2023-11-14T22:13:20.500Z",
        "host": "api.example.com",
        "role": "artifact",
        "method": "GET",
        "status": 200,
        "url_hash": hashlib.sha256(b"https://api.example.com/v1").hexdigest(),
        "from_cache": 1,
        "revalidated": 1,
        "stale": 0,
        "retry_count": 1,
        "retry_after_s": 2.0,
        "rate_delay_ms": 1500.0,
        "breaker_state": "half_open",
        "breaker_recorded": 1,
        "elapsed_ms": 12.35,
        "error": None,
    }
    assert (second["error"], second["breaker_state"], second["breaker_recorded"]) == (
        "NET_RATE:breaker_open",
        "open",
        0,
    )


def test_rows_beyond_the_limit_go_oldest_first(path: Path) -> None:
    sink = SqliteSink(lambda: opener(path)(max_rows=10))
    for n in range(30):
        sink.emit(events_of(call(n)))
    sink.close()
    assert [row["request_id"] for row in rows(path, "net_request")] == [
        f"c_{n:04d}" for n in range(25, 30) for _ in "ab"
    ]
    assert len(rows(path, "http_events")) == 10


def test_a_batch_is_written_whole_or_not_at_all(path: Path, sink: SqliteSink) -> None:
    sink.emit(events_of(call(0)))
    good, bad = events_of(call(1)), events_of(call(2, request_bytes=2**70))
    with pytest.raises((StoreError, OverflowError)):
        sink.emit(good + bad)
    assert {row["request_id"] for row in rows(path, "net_request")} == {"c_0000"}
    sink.emit(good)
    assert len(rows(path, "http_events")) == 2


def test_a_forked_child_opens_the_database_anew(path: Path) -> None:
    fanout = Fanout([SqliteSink(opener(path))])
    fanout.append(call(0))
    assert fanout.flush()

    def child() -> None:
        fanout.append(call(1))
        assert fanout.flush() and fanout.lost == {"sqlite": 0}

    assert in_child(child) == 0
    fanout.append(call(2))
    assert fanout.flush()
    fanout.close()
    found = rows(path, "http_events")
    assert len(found) == 3
    assert found[0]["run_id"] == found[2]["run_id"] != found[1]["run_id"]


def test_it_is_the_database_of_the_network_log(tmp_path: Path) -> None:
    from fazt.stores.sqlite import Store
    from fazt.stores.sqlite.keys import EnvironmentKey

    with Store.open(tmp_path / "data", keys=EnvironmentKey("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=")) as store:
        store.log.append(call(0))
        sink = SqliteSink(opener(tmp_path / "data"))
        sink.emit(events_of(call(0)))
        sink.close()
        store.log.flush()
        assert len(store.log.calls()) == 1
    assert len(rows(tmp_path / "data" / "log.db", "net_request")) == 2
    assert os.stat(tmp_path / "data" / "log.db").st_mode & 0o077 == 0
