"""The log: taken without waiting, written in batches, bounded, trimmed, readable back."""

from __future__ import annotations

import gc
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fazt.core.call import Hop
from fazt.core.record import Attempt, CallRecord
from fazt.errors import StoreError
from fazt.stores.sqlite.database import Database
from fazt.stores.sqlite.log import NetLog
from fazt.stores.sqlite.log_rows import MESSAGE_CAP, PATH_CAP

SLOW = 60_000
"""A flush interval that no test waits for."""


def record(n: int = 0, **fields: Any) -> CallRecord:
    values: dict[str, Any] = {"app": "app1", "door": "cli", "host": "api.example.com", "path": "/", "status": 200}
    return CallRecord(f"c_{n:04d}", 1000.0 + n, **(values | fields))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "log.db", "log", durability="NORMAL", patience=0.05)
    yield opened
    opened.close()


@pytest.fixture
def log(database: Database) -> Iterator[NetLog]:
    opened = NetLog(database, flush_ms=SLOW)
    yield opened
    opened.close()


class Lock:
    """Another process that holds the log database."""

    def __init__(self, database: Database) -> None:
        self._connection = sqlite3.connect(database.path, isolation_level=None, check_same_thread=False)

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self._connection.execute("COMMIT")
        self._connection.close()


def ids(log: NetLog, **filters: Any) -> list[str]:
    return [call.record.call_id for call in log.calls(**filters)]


def test_every_field_of_a_record_comes_back(log: NetLog) -> None:
    full = CallRecord(
        "c_1",
        1700000000.25,
        "fazt_app_000000000001",
        "functions",
        method="POST",
        scheme="https",
        host="api.example.com",
        port=8443,
        path="/v1/a%2Fb",
        status=None,
        code="NET_BLOCKED",
        reason="private_address",
        duration_ms=12.5,
        request_bytes=3,
        response_bytes=4,
        cache="miss",
        redirects=[Hop(302, "https://other.example/x")],
        rule_id="r_1",
        revision=7,
        auth="KEY",
        scrubbed=2,
        address="10.0.0.1",
        address_class="private",
        hop=1,
        detail="why",
    )
    log.append(full)
    log.flush()
    (found,) = log.calls()
    assert found.record == full
    assert found.record.public() == full.public()


def test_filters_and_order(log: NetLog) -> None:
    log.append(record(0))
    log.append(record(1, app="app2", host="b.example"))
    log.append(record(2, status=404))
    log.append(record(3, status=None, code="NET_RATE", reason="host_rate"))
    log.flush()
    assert ids(log) == ["c_0003", "c_0002", "c_0001", "c_0000"]
    assert ids(log, limit=2) == ["c_0003", "c_0002"]
    assert ids(log, app="app2") == ids(log, host="b.example") == ["c_0001"]
    assert ids(log, errors=True) == ["c_0003", "c_0002"]
    assert ids(log, since=1002.0) == ["c_0003", "c_0002"]
    assert ids(log, call_id="c_0001", app="app1") == []
    newest = log.newest()[0]
    log.append(record(4))
    log.append(record(5))
    log.flush()
    assert ids(log, after=newest) == ["c_0004", "c_0005"]


def test_figures_per_host(log: NetLog) -> None:
    log.append(record(0, duration_ms=10.0, request_bytes=1, response_bytes=2))
    log.append(record(1, duration_ms=20.0, status=500, request_bytes=1, response_bytes=2))
    log.append(record(2, duration_ms=30.0, cache="hit"))
    log.append(record(3, host="b.example", status=None, code="NET_BLOCKED"))
    log.flush()
    first, second = log.stats()
    assert (first.host, first.calls, first.errors, first.cache_hits) == ("api.example.com", 3, 1, 1)
    assert first.average_ms == 20.0 and first.error_rate == pytest.approx(1 / 3)
    assert (first.request_bytes, first.response_bytes) == (2, 4)
    assert (second.host, second.error_rate) == ("b.example", 1.0)
    assert log.stats(app="nobody") == []


def test_F11_a_refused_call_is_a_row_with_its_code_at_once(log: NetLog) -> None:
    log.append(record(0, status=None, code="NET_BLOCKED", reason="host_not_granted"))
    until(lambda: ids(log, errors=True) == ["c_0000"])


def test_F30c_a_full_buffer_drops_the_oldest_and_logs_how_many(database: Database) -> None:
    log = NetLog(database, buffer=10, flush_ms=SLOW)
    with Lock(database):
        for n in range(35):
            log.append(record(n))
        until(lambda: log.error is not None)
        for n in range(35, 60):
            log.append(record(n))
    log.flush()
    kept = ids(log, limit=1000)
    assert kept[:10] == [f"c_{n:04d}" for n in range(59, 49, -1)]
    assert len(kept) + log.dropped()["calls"] == 60
    assert log.dropped() == {"calls": log.shed, "lines": 0}
    log.close()


def test_F30c_a_flush_that_fails_is_tried_again_with_a_bounded_backlog(database: Database) -> None:
    log = NetLog(database, buffer=100, flush_ms=SLOW)
    with Lock(database):
        log.append(record(0))
        with pytest.raises(StoreError, match="locked"):
            log.flush()
        for n in range(1, 150):
            log.append(record(n))
        with pytest.raises(StoreError, match="locked"):
            log.flush()
        assert len(log._late_calls) <= 100
    log.flush()
    assert log.error is None
    kept = ids(log, limit=1000)
    assert kept[0] == "c_0149" and len(kept) == 100
    log.append(record(200))
    log.flush()
    assert log.dropped()["calls"] == 50
    log.close()


def test_F30c_a_storm_of_errors_is_a_handful_of_flushes(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    log = NetLog(database, buffer=10_000, flush_ms=SLOW)
    flushes = 0
    at_once = 0
    most = 0
    insert = NetLog._insert

    def counted(self: NetLog, *arguments: Any) -> None:
        nonlocal flushes, at_once, most
        flushes += 1
        at_once += 1
        most = max(most, at_once)
        insert(self, *arguments)
        at_once -= 1

    monkeypatch.setattr(NetLog, "_insert", counted)
    threads_before = threading.active_count()
    for n in range(2000):
        log.append(record(n, code="NET_ERROR", reason="connect_failed", status=None))
    assert threading.active_count() <= threads_before + 1
    log.flush()
    assert len(ids(log, limit=5000)) == 2000
    assert most == 1
    assert flushes < 100
    log.close()


def test_F30c_closing_writes_what_remains_and_waits_for_it(database: Database) -> None:
    log = NetLog(database, flush_ms=SLOW)
    for n in range(100):
        log.append(record(n))
        log.write_line("app1", "info", f"line {n}", ts=float(n))
    log.close()
    assert len(ids(log, limit=1000)) == 100
    assert len(log.lines(limit=1000)) == 100


def test_F30c_rows_beyond_the_limit_go_the_excess_only(database: Database) -> None:
    log = NetLog(database, flush_ms=SLOW, max_rows=50)
    for n in range(60):
        log.append(record(n))
        log.write_line("app1", "info", str(n), ts=1.0)
    log.flush()
    assert ids(log, limit=1000) == [f"c_{n:04d}" for n in range(59, 9, -1)]
    assert len(log.lines(limit=1000)) == 50
    log.configure(buffer=1000, flush_ms=SLOW, max_rows=20)
    log.append(record(60))
    log.flush()
    assert ids(log, limit=1000) == [f"c_{n:04d}" for n in range(60, 40, -1)]
    log.close()


def test_a_busy_buffer_is_written_early(database: Database) -> None:
    log = NetLog(database, buffer=100, flush_ms=SLOW)
    for n in range(50):
        log.append(record(n))
    until(lambda: len(ids(log, limit=1000)) == 50)
    log.close()


def test_the_interval_flushes_by_itself(database: Database) -> None:
    log = NetLog(database, flush_ms=20)
    log.append(record(0))
    until(lambda: ids(log) == ["c_0000"])
    log.close()


def test_queries_and_controls_never_reach_the_log(log: NetLog) -> None:
    log.append(
        record(
            0,
            path="/a\x1b[31m\n%0a?key=CANARY#CANARY",
            host="evil\u202egpj.example",
            method="GET\r\nX",
            redirects=[Hop(302, "https://x.example/y?token=CANARY")],
            detail="d\x00" + "\ud800",
        )
    )
    log.append(record(1, path="/" + "é" * 5000))
    log.flush()
    long, short = (call.record for call in log.calls())
    assert short.path == "/a\\x1b[31m\\x0a%0a"
    assert short.host == "evil\\u202egpj.example"
    assert short.method == "GET\\x0d\\x0aX"
    assert short.redirects == [Hop(302, "https://x.example/y")]
    assert short.detail == "d\\x00\\ud800"
    assert len(long.path) == PATH_CAP
    assert b"CANARY" not in log._database.path.with_name("log.db-wal").read_bytes()


def test_console_lines_are_kept_per_app(log: NetLog) -> None:
    log.write_line("app1", "warn", "one\ttwo\nthree\x1b[2J", ts=5.0, invocation="req_1")
    log.write_line("app2", "shout", "x" * 20_000, ts=6.0)
    log.flush()
    (line,) = log.lines(app="app1")
    assert (line.level, line.message, line.ts, line.invocation) == ("warn", "one\ttwo\nthree\\x1b[2J", 5.0, "req_1")
    (other,) = log.lines(app="app2")
    assert other.level == "info" and len(other.message) == MESSAGE_CAP
    assert log.lines(level="warn") == log.lines(invocation="req_1") == [line]
    assert log.lines(after=line.id) == [other]
    assert log.lines(since=5.5) == [other]


def test_a_record_of_the_wrong_shape_costs_only_itself(log: NetLog, caplog: pytest.LogCaptureFixture) -> None:
    log.append(record(0))
    log.append(record(1, path=None))
    log.append(record(2, status=10**30))
    log.append(record(3, duration_ms=float("nan")))
    log.append(record(4, app="\ud800"))
    log.append(record(5, rule_id=object()))
    log.append(record(6))
    log.flush()
    assert ids(log) == ["c_0006", "c_0000"]
    assert "could not be written" in caplog.text


def test_taking_a_record_never_waits_for_the_disk(database: Database) -> None:
    slow = Database(database.path, "log", patience=30)
    log = NetLog(slow, flush_ms=1)
    with Lock(database):
        started = time.perf_counter()
        for n in range(500):
            log.append(record(n, code="NET_ERROR"))
        assert time.perf_counter() - started < 5
    log.flush()
    assert len(ids(log, limit=1000)) == 500
    log.close()
    slow.close()


def test_a_record_may_be_taken_inside_a_destructor(log: NetLog) -> None:
    class Lease:
        def __init__(self, n: int) -> None:
            self.n = n
            self.me = self

        def __del__(self) -> None:
            log.append(record(self.n, code="NET_TIMEOUT"))

    before = gc.get_threshold()
    gc.set_threshold(5)
    try:
        for n in range(300):
            Lease(n)
            log.append(record(1000 + n, code="NET_ERROR"))
    finally:
        gc.set_threshold(*before)
    gc.collect()
    log.flush()
    assert len(ids(log, limit=1000)) == 600


def test_a_record_taken_while_the_writer_is_started_starts_no_second_one(
    log: NetLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a destructor that the collector runs just then; two writers took rows from each other."""
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        started.append(thread)
        log.append(record(2, code="NET_TIMEOUT"))
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    log.append(record(1))
    log.flush()
    assert len(started) == 1
    assert ids(log) == ["c_0002", "c_0001"]


def test_F30c_a_writer_that_cannot_be_started_fails_no_call_and_is_tried_again(
    log: NetLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the limit of threads or at the interpreter's end: `append` never raises, and nothing is lost for good."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        log.append(record(1))
        log.write_line("app1", "info", "hello", ts=1.0)
        with pytest.raises(StoreError, match="can't start new thread"):
            log.flush()
    log.append(record(2))
    log.flush()
    assert ids(log) == ["c_0002", "c_0001"]
    assert [line.message for line in log.lines()] == ["hello"]
    assert log.error is None


def test_several_processes_write_to_one_log(database: Database) -> None:
    other = Database(database.path, "log", patience=5)
    logs = [NetLog(Database(database.path, "log", patience=5), flush_ms=SLOW) for _ in range(2)]
    for n in range(200):
        logs[n % 2].append(record(n))
    for each in logs:
        each.close()
        each._database.close()
    with other.read() as connection:
        assert connection.execute("SELECT count(*) FROM calls").fetchone()[0] == 200
    other.close()


def test_a_log_that_is_only_read_starts_no_thread(database: Database) -> None:
    before = threading.active_count()
    log = NetLog(database)
    log.calls()
    log.flush()
    assert threading.active_count() == before
    log.close()


def test_service_role_and_trips_come_back(log: NetLog) -> None:
    trips = [
        Attempt(999.5, 1, 1, "GET", "https", "api.example.com", 443, "/", 503, retry_after=2.0, delay=1.5, ttfb_ms=3.0),
        Attempt(1000.5, 1, 2, "GET", "https", "api.example.com", 443, "/", 302, redirect="https://b.example/x"),
        Attempt(1001.5, 2, 1, "GET", "https", "b.example", 443, "/x", code="NET_TIMEOUT", reason="connect"),
    ]
    full = record(
        service="crossref",
        role="metadata",
        number=2,
        attempts=trips,
        waited_ms=1500.0,
        breaker="half_open",
        error="The connection took too long.",
        redirects=[],
    )
    log.append(full)
    log.append(
        record(1, attempts=[Attempt(1.0, 1, 1, "G\x1bT", "https", "a", 443, "/?SECRET", redirect="https://x/?SECRET")])
    )
    log.flush()
    second, first = (call.record for call in log.calls())
    assert first == full
    assert second.attempts is not None
    (trip,) = second.attempts
    assert (trip.method, trip.path, trip.redirect) == ("G\\x1bT", "/", "https://x/")
