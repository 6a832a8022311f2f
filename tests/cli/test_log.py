"""`net logs`, `net stats`, `app logs` and `log`: what was written, listed and followed."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.cli.conftest import Fazt

from fazt.cli.stream import Feed
from fazt.core.record import CallRecord
from fazt.stores.sqlite.store import Store


def record(number: int, **fields: Any) -> CallRecord:
    made = CallRecord(
        f"c_{number:020d}",
        1_700_000_000.0 + number,
        fields.pop("app", ""),
        "functions",
        method="GET",
        scheme="https",
        host="api.x.com",
        port=443,
        path="/",
        status=200,
        duration_ms=10.0,
    )
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def refused(number: int, **fields: Any) -> CallRecord:
    return record(number, status=None, code="NET_BLOCKED", reason="host_not_granted", host="bad.x.com", **fields)


@contextmanager
def written(fazt: Fazt) -> Iterator[Store]:
    with Store.open(fazt.data) as store:
        yield store
        store.log.flush()


@pytest.fixture
def app(fazt: Fazt) -> str:
    """An app with three calls and two lines in the log."""
    fazt("env", "set", "A", "1", "--app", "shop")
    found: str = fazt.json("app", "list")[0]["id"]
    with written(fazt) as store:
        for made in (record(1, app=found), refused(2, app=found), record(3)):
            store.log.append(made)
        store.log.write_line(found, "info", "first\x1b[31m", ts=1_700_000_001.5, invocation="r_1")
        store.log.write_line(found, "error", "second", ts=1_700_000_002.5, invocation="r_1")
    return found


def test_net_logs_has_the_agreed_fields_newest_first(fazt: Fazt, app: str) -> None:
    rows = fazt.json("net", "logs")
    fields = "callId ts app door method host port path status code reason durationMs requestBytes responseBytes cache"
    assert list(rows[0]) == [*fields.split(), "redirects", "ruleId", "revision", "auth", "scrubbed"]
    assert [row["callId"][-1] for row in rows] == ["3", "2", "1"]
    shown = fazt("net", "logs").out
    assert "NET_BLOCKED host_not_granted" in shown
    assert "shop" in shown


def test_net_logs_are_narrowed(fazt: Fazt, app: str) -> None:
    def calls(*args: str) -> list[str]:
        return [row["callId"][-1] for row in fazt.json("net", "logs", *args)]

    assert calls("--app", "shop") == calls("--app", app) == ["2", "1"]
    assert calls("--errors") == ["2"]
    assert calls("--domain", "API.x.com.") == ["3", "1"]
    assert calls("-n", "1") == ["3"]
    assert calls("--since", "1700000002") == ["3", "2"]
    assert calls("--since", "1h") == []
    assert calls("--since", "2020-01-31") == ["3", "2", "1"]
    fazt("net", "logs", "--domain", "not a host", expect=1)
    assert fazt("net", "logs", "--since", "1h").err == "note: no call was logged\n"


def test_stats_per_host(fazt: Fazt, app: str) -> None:
    best, worst = fazt.json("net", "stats")
    assert (best["host"], best["calls"], best["errors"], best["averageMs"], best["errorRate"]) == (
        "api.x.com",
        2,
        0,
        10.0,
        0.0,
    )
    assert (worst["host"], worst["errorRate"]) == ("bad.x.com", 1.0)
    assert "100.0%" in fazt("net", "stats").out
    assert len(fazt.json("net", "stats", "--since", "1h")) == 0


def test_console_lines_with_nothing_that_steers_a_terminal(fazt: Fazt, app: str) -> None:
    assert "\x1b" not in fazt("app", "logs", "shop").out
    assert fazt.json("app", "logs", "shop")[0] == {
        "ts": 1_700_000_002.5,
        "app": app,
        "level": "error",
        "message": "second",
        "requestId": "r_1",
    }


def test_log_mixes_both_by_time(fazt: Fazt, app: str) -> None:
    rows = fazt.json("log")
    assert [row["type"] for row in rows] == ["call", "line", "call", "line", "call"]
    assert [row["type"] for row in fazt.json("log", "--errors")] == ["line", "call"]
    assert len(fazt.json("log", "-n", "2")) == 2
    text = fazt("log", "--app", "shop").out
    assert len(text.splitlines()) == 4
    assert "shop" in text


class StopError(Exception):
    pass


def followed(store: Store, events: list[Any], **options: Any) -> list[dict[str, Any]]:
    """Follow with a scripted pause: each calls the next event, and the last one ends it."""
    script = iter(events)
    out = io.StringIO()

    def pause(_seconds: float) -> None:
        event = next(script, None)
        if event is None:
            raise StopError
        event()
        store.log.flush()

    before, sys.stdout = sys.stdout, out
    try:
        with pytest.raises(StopError):
            Feed(store, **options).follow(options.pop("limit", 1), as_json=True, typed=True, sleep=pause)
    finally:
        sys.stdout = before
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_following_begins_with_the_past_and_shows_each_row_once(fazt: Fazt, app: str) -> None:
    with Store.open(fazt.data) as store:

        def both() -> None:
            store.log.append(record(4))
            store.log.write_line(app, "info", "third", ts=1_700_000_004.5)

        rows = followed(store, [lambda: None, both, lambda: store.log.append(record(5))])
    assert [row.get("callId", row.get("message"))[-1] for row in rows] == ["3", "4", "d", "5"]
    assert [row["type"] for row in rows] == ["call", "call", "line", "call"]


def test_following_is_narrowed_too(fazt: Fazt, app: str) -> None:
    with Store.open(fazt.data) as store:

        def more() -> None:
            store.log.append(record(4, app=app))
            store.log.append(refused(5, app=app))
            store.log.append(refused(6))

        rows = followed(store, [more], app=app, lines=False, call_filter={"errors": True})
    assert [row["callId"][-1] for row in rows] == ["2", "5"]


def test_a_followed_log_is_live_across_processes_and_ends_with_130(fazt: Fazt, app: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "fazt", "log", "-f", "-n", "1", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["callId"][-1] == "3"
        with written(fazt) as store:
            store.log.append(refused(7))
        assert json.loads(process.stdout.readline())["callId"][-1] == "7"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
        assert process.returncode == 130
        assert err.strip() == b"interrupted"
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def test_since_takes_units_dates_and_seconds() -> None:
    from fazt.cli.options import since_seconds
    from fazt.errors import ConfigError

    assert since_seconds(None) is None
    assert since_seconds("1970-01-02") == 86400.0
    assert since_seconds("1970-01-02T00:00:00+01:00") == 82800.0
    assert since_seconds("1700000000") == 1700000000.0
    assert abs((since_seconds("30m") or 0) - (time.time() - 1800)) < 5
    for text in ("", "5", "5x", "m", "-5m", "2026-13-01"):
        with pytest.raises(ConfigError):
            since_seconds(text)
