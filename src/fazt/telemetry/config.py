"""The `[telemetry]` table of `fazt.toml`: one table, or a list of tables, for each kind of sink.

    [telemetry]
    capacity = 10000            # records that wait at most

    [telemetry.jsonl]
    path = "net.jsonl"          # beside fazt.toml, or absolute

    [[telemetry.otlp]]
    endpoint = "http://127.0.0.1:4318"

Whatever is not understood is refused: a sink that is written down and does not run would be missed too late.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakValueDictionary

from fazt.errors import ConfigError
from fazt.telemetry.fanout import Fanout
from fazt.telemetry.sinks.base import Sink
from fazt.telemetry.sinks.sqlite import EventWriter

_logger = logging.getLogger("fazt.telemetry")


class SqliteOpener(Protocol):
    """Opens the tables of events: `stores.sqlite.events.opener(data_directory)`."""

    def __call__(self, path: Path | None = None, *, max_rows: int = ...) -> EventWriter:
        """Open them, in another file where `path` names one."""


_FILE: dict[str, type | tuple[type, ...]] = {"path": str, "max_bytes": int, "keep": int}
KEYS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "log": {},
    "console": {"attempts": bool},
    "jsonl": _FILE,
    "csv": _FILE,
    "sqlite": {"path": str, "run_id": str, "max_rows": int},
    "otlp": {
        "endpoint": str,
        "headers": dict,
        "signals": list,
        "service_name": str,
        "sample": (int, float),
        "all_logs": bool,
        "propagate": bool,
        "timeout": (int, float),
        "interval": (int, float),
        "max_hosts": int,
    },
    "prometheus": {"listen": str, "max_hosts": int},
}
"""Every kind of sink with the keys it takes."""
_NEEDS = {"jsonl": "path", "csv": "path", "prometheus": "listen"}


def fanout_from_config(
    table: Mapping[str, Any], *, directory: Path, sqlite: SqliteOpener | None = None
) -> Fanout | None:
    """Build the fan-out that a `[telemetry]` table describes, None when it names no sink.

    All who ask with the same table and directory get the same one, and each of them closes it: a port can be listened
    on once.

    Args:
        table: as TOML gives it.
        directory: what relative paths start from: the data directory.
        sqlite: opens the tables of events; without it a sqlite sink is refused.

    Raises:
        ConfigError: an unknown kind or key, a missing one, a wrong type, or a value that the sink refuses.
    """
    capacity = _capacity(table)
    described = {kind: value for kind, value in table.items() if kind != "capacity"}
    if not described:
        return None
    key = (str(directory), json.dumps(table, sort_keys=True, default=str))
    with _building:
        known = _built.get(key)
        found = None if known is None else known.shared()
        if found is None:
            sinks = sinks_from_config(described, directory=directory, sqlite=sqlite)
            if not sinks:
                return None
            found = _built[key] = Fanout(sinks, capacity=capacity)
        return found


def sinks_from_config(table: Mapping[str, Any], *, directory: Path, sqlite: SqliteOpener | None = None) -> list[Sink]:
    """Build the sinks that a table describes, in its order.

    Args, errors: as `fanout_from_config`, without `capacity`.
    """
    wanted = _described(table)
    sinks: list[Sink] = []
    try:
        for kind, entry in wanted:
            sink = _sink(kind, dict(entry), directory, sqlite)
            if sink is not None:
                sinks.append(sink)
    except BaseException:
        for sink in sinks:
            sink.close()
        raise
    return sinks


def check_table(table: Mapping[str, Any]) -> None:
    """Refuse a `[telemetry]` table that can be seen to be wrong without opening what it names.

    Raises:
        ConfigError: an unknown kind or key, a missing one, a wrong type.
    """
    _capacity(table)
    _described({kind: value for kind, value in table.items() if kind != "capacity"})


def _capacity(table: Mapping[str, Any]) -> int:
    capacity = table.get("capacity", 10_000)
    if type(capacity) is not int or not 1 <= capacity <= 10_000_000:
        raise ConfigError("telemetry: capacity must be a number of records, 1 to 10000000")
    return capacity


def _described(table: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return every sink that a table names with its settings, checked."""
    wanted: list[tuple[str, Mapping[str, Any]]] = []
    for kind, value in table.items():
        if kind not in KEYS:
            raise ConfigError(f"telemetry.{kind}: there is no sink {kind!r}", hint=f"sinks: {', '.join(KEYS)}")
        entries = value if isinstance(value, list) else [value]
        for entry in entries:
            if not isinstance(entry, Mapping):
                raise ConfigError(f"telemetry.{kind} must be a table", hint=f"[telemetry.{kind}]")
            _check(kind, entry)
            wanted.append((kind, entry))
    return wanted


def _check(kind: str, entry: Mapping[str, Any]) -> None:
    known = KEYS[kind]
    for key, value in entry.items():
        if key not in known:
            raise ConfigError(
                f"telemetry.{kind}: unknown key {key!r}",
                hint=f"known keys: {', '.join(known)}" if known else f"the {kind} sink has no settings",
            )
        types = known[key] if isinstance(known[key], tuple) else (known[key],)
        if type(value) not in types:  # type: ignore[operator]  # a bool is no number here
            raise ConfigError(f"telemetry.{kind}: {key} has the wrong type")
        if kind == "otlp" and key in ("headers", "signals"):
            texts = value.values() if isinstance(value, dict) else value
            if not all(isinstance(text, str) for text in texts):
                raise ConfigError(f"telemetry.{kind}: {key} must hold strings")
    needed = _NEEDS.get(kind)
    if needed is not None and needed not in entry:
        raise ConfigError(f"telemetry.{kind}: {needed} is missing")


def _sink(kind: str, entry: dict[str, Any], directory: Path, sqlite: SqliteOpener | None) -> Sink | None:
    match kind:
        case "log" | "console":
            from fazt.telemetry.sinks.text import ConsoleSink, LogSink

            return LogSink() if kind == "log" else ConsoleSink(**entry)
        case "jsonl" | "csv":
            from fazt.telemetry.sinks.lines import CsvSink, JsonlSink

            path = directory / Path(entry.pop("path")).expanduser()
            if not path.parent.is_dir():
                raise ConfigError(f"telemetry.{kind}: the directory {path.parent} does not exist")
            return JsonlSink(path, **entry) if kind == "jsonl" else CsvSink(path, **entry)
        case "sqlite":
            from fazt.telemetry.sinks.sqlite import SqliteSink

            if sqlite is None:
                raise ConfigError("telemetry.sqlite needs a data directory")
            other = directory / Path(entry.pop("path")).expanduser() if "path" in entry else None
            max_rows = entry.pop("max_rows", 500_000)
            if max_rows < 1:
                raise ConfigError("telemetry.sqlite: max_rows must be at least 1")
            return SqliteSink(partial(sqlite, other, max_rows=max_rows), **entry)
        case "otlp":
            from fazt.telemetry.sinks.otlp import OtlpSink

            return OtlpSink(**entry)
        case _:
            from fazt.telemetry.sinks.prometheus import PrometheusSink

            try:
                return PrometheusSink(**entry)
            except ConfigError as refused:
                if not isinstance(refused.__cause__, OSError) or refused.__cause__.errno != errno.EADDRINUSE:
                    raise
                # one process of a directory is scraped, as a rule the server; the others go on all the same
                _logger.warning("%s; the calls of this process are not counted there", refused.message)
                return None


def _after_fork() -> None:
    global _building
    _building = threading.Lock()


_building = threading.Lock()
_built: WeakValueDictionary[tuple[str, str], Fanout] = WeakValueDictionary()
os.register_at_fork(after_in_child=_after_fork)
