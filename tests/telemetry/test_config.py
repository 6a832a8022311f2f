"""The `[telemetry]` table: what is written down runs, or is refused by name."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.telemetry.sinks import call

from fazt.errors import ConfigError
from fazt.stores.sqlite.events import opener
from fazt.telemetry import Fanout, PrometheusSink, fanout_from_config, sinks_from_config
from fazt.telemetry.config import KEYS

FULL = """
capacity = 500

[log]

[console]
attempts = true

[jsonl]
path = "net.jsonl"
max_bytes = 100000
keep = 2

[csv]
path = "attempts.csv"

[sqlite]
path = "other.db"
run_id = "run1"
max_rows = 10

[[otlp]]
endpoint = "http://127.0.0.1:4318"
headers = { x-key = "KEY" }
signals = ["logs"]
service_name = "reports"
sample = 0.5
all_logs = true
propagate = false
timeout = 1
interval = 30
max_hosts = 10

[[otlp]]
signals = ["metrics"]

[prometheus]
listen = "127.0.0.1:0"
max_hosts = 10
"""


@pytest.fixture
def closing() -> Iterator[list[Any]]:
    made: list[Any] = []
    yield made
    for one in made:
        one.close()


def test_R77_every_kind_of_sink_is_built(tmp_path: Path, closing: list[Any]) -> None:
    table = tomllib.loads(FULL)
    table.pop("capacity")
    sinks = sinks_from_config(table, directory=tmp_path, sqlite=opener(tmp_path))
    closing += sinks
    assert [sink.name for sink in sinks] == [
        "log",
        "console",
        "jsonl",
        "csv",
        "sqlite",
        "otlp",
        "otlp",
        "prometheus",
    ]
    assert set(KEYS) == {sink.name for sink in sinks}
    assert "KEY" not in repr(sinks)


def test_the_fanout_writes_beside_the_settings(tmp_path: Path, closing: list[Any]) -> None:
    fanout = fanout_from_config(
        {"jsonl": {"path": "a.jsonl"}, "sqlite": {}}, directory=tmp_path, sqlite=opener(tmp_path)
    )
    assert isinstance(fanout, Fanout)
    closing.append(fanout)
    fanout.append(call())
    assert fanout.flush()
    assert (tmp_path / "a.jsonl").read_text().count("c_0000") == 2
    assert (tmp_path / "log.db").exists()


def test_the_rows_of_events_are_limited_in_a_file_of_ones_own(tmp_path: Path) -> None:
    table = {"sqlite": {"path": "other.db", "max_rows": 4}}
    fanout = fanout_from_config(table, directory=tmp_path, sqlite=opener(tmp_path))
    assert fanout is not None
    for n in range(9):
        fanout.append(call(n))
        assert fanout.flush()
    fanout.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        assert connection.execute("SELECT count(*) FROM net_request").fetchone() == (4,)
    assert not (tmp_path / "log.db").exists()
    with pytest.raises(ConfigError, match="max_rows"):
        fanout_from_config({"sqlite": {"max_rows": 0}}, directory=tmp_path, sqlite=opener(tmp_path))


def test_all_who_ask_for_the_same_share_it(tmp_path: Path, closing: list[Any]) -> None:
    """Several clients of one data directory: one port, one connection to the collector, one file."""
    table = {"capacity": 7, "prometheus": {"listen": "127.0.0.1:0"}}
    first = fanout_from_config(table, directory=tmp_path)
    second = fanout_from_config(dict(table), directory=tmp_path)
    assert first is second and isinstance(first, Fanout) and first._worker._capacity == 7
    (sink,) = first.sinks
    assert isinstance(sink, PrometheusSink)
    first.close()
    first.append(call())
    assert first.flush() and "api.example.com" in sink.text() and sink.port, "its other user goes on"
    first.close()
    assert sink.port == 0
    third = fanout_from_config(table, directory=tmp_path)
    assert third is not first and third is not None
    closing.append(third)


def test_no_sink_is_no_fanout(tmp_path: Path) -> None:
    assert fanout_from_config({}, directory=tmp_path) is None
    assert fanout_from_config({"capacity": 5}, directory=tmp_path) is None
    assert fanout_from_config({"otlp": []}, directory=tmp_path) is None


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"statsd": {}}, "there is no sink 'statsd'"),
        ({"jsonl": {"path": "x", "compress": True}}, "unknown key 'compress'"),
        ({"log": {"level": "info"}}, "unknown key 'level'"),
        ({"jsonl": {}}, "path is missing"),
        ({"prometheus": {}}, "listen is missing"),
        ({"jsonl": {"path": 7}}, "path has the wrong type"),
        ({"jsonl": {"path": "x", "keep": True}}, "keep has the wrong type"),
        ({"jsonl": {"path": "x", "keep": -1}}, "keep 0 to 1000"),
        ({"jsonl": {"path": "nowhere/x"}}, "does not exist"),
        ({"jsonl": True}, "must be a table"),
        ({"jsonl": ["x"]}, "must be a table"),
        ({"sqlite": {"max_rows": "many"}}, "max_rows has the wrong type"),
        ({"sqlite": {}}, "needs a data directory"),
        ({"otlp": {"headers": {"a": 1}}}, "headers must hold strings"),
        ({"otlp": {"signals": [1]}}, "signals must hold strings"),
        ({"otlp": {"endpoint": "ftp://x"}}, "http"),
        ({"capacity": 0}, "capacity"),
        ({"capacity": "many"}, "capacity"),
    ],
)
def test_D50_what_is_not_understood_is_refused(tmp_path: Path, table: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        fanout_from_config(table, directory=tmp_path)


def test_a_refused_table_leaves_nothing_open(tmp_path: Path) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConfigError):
        sinks_from_config({"prometheus": {"listen": f"127.0.0.1:{port}"}, "sqlite": {}}, directory=tmp_path)
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


@pytest.mark.parametrize(("sink", "package"), [("otlp", "opentelemetry.sdk"), ("prometheus", "prometheus_client")])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sink: str, package: str) -> None:
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    table = {sink: {"listen": "127.0.0.1:0"} if sink == "prometheus" else {}}
    with pytest.raises(ConfigError) as refused:
        sinks_from_config(table, directory=tmp_path)
    assert "fazt-net[" in (refused.value.hint or "")


def test_one_process_is_scraped_and_the_others_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        table = {"prometheus": {"listen": f"127.0.0.1:{taken.getsockname()[1]}"}, "log": {}}
        (sink,) = sinks_from_config(table, directory=tmp_path)
    assert sink.name == "log"
    assert "cannot listen" in caplog.text
