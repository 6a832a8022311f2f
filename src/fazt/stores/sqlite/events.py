"""The tables of telemetry in the log database: `net_request` and `http_events`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from fazt.stores.sqlite.database import Database

NET_REQUEST = (
    "run_id",
    "ts",
    "event_type",
    "request_id",
    "method",
    "url",
    "host",
    "port",
    "status_code",
    "status",
    "elapsed_ms",
    "ttfb_ms",
    "cache",
    "from_cache",
    "http_version",
    "http2",
    "bytes_read",
    "bytes_written",
    "error_code",
    "reason",
    "error_message",
    "attempt",
    "hop",
    "redirect_target",
    "service",
    "role",
    "app",
    "door",
    "rule_id",
    "retries",
    "retry_after",
    "waited_ms",
    "breaker",
)
"""Columns of `net_request`."""
HTTP_EVENTS = (
    "run_id",
    "ts",
    "host",
    "role",
    "method",
    "status",
    "url_hash",
    "from_cache",
    "revalidated",
    "stale",
    "retry_count",
    "retry_after_s",
    "rate_delay_ms",
    "breaker_state",
    "breaker_recorded",
    "elapsed_ms",
    "error",
)
"""Columns of `http_events`."""
_TRIM_AT_ONCE = 10_000


def _insert(table: str, columns: tuple[str, ...]) -> str:
    marks = ", ".join(["?"] * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - our own names


_INSERT_REQUEST = _insert("net_request", NET_REQUEST)
_INSERT_CALL = _insert("http_events", HTTP_EVENTS)
_REQUEST_VALUES = itemgetter(*NET_REQUEST)
_CALL_VALUES = itemgetter(*HTTP_EVENTS)


class EventLog:
    """Writes rows of telemetry.

    Args:
        database: the log database; closed with this object.
        max_rows: rows kept of each table.
    """

    def __init__(self, database: Database, *, max_rows: int = 500_000) -> None:
        self._database = database
        self._max_rows = max_rows

    def write(self, requests: Sequence[Mapping[str, Any]], calls: Sequence[Mapping[str, Any]]) -> None:
        """Write rows of `net_request` and of `http_events` in one transaction.

        Args:
            requests, calls: rows as mappings from column to value; other keys are ignored.

        Raises:
            StoreError: the database cannot be written.
        """
        with self._database.write() as connection:
            connection.executemany(_INSERT_REQUEST, map(_REQUEST_VALUES, requests))
            connection.executemany(_INSERT_CALL, map(_CALL_VALUES, calls))
            for table in ("net_request", "http_events"):
                low, high = connection.execute(
                    f"SELECT (SELECT min(rowid) FROM {table}), (SELECT max(rowid) FROM {table})"  # noqa: S608
                ).fetchone()
                if low is not None and high - low >= self._max_rows:
                    upto = min(high - self._max_rows, low + _TRIM_AT_ONCE)
                    connection.execute(f"DELETE FROM {table} WHERE rowid <= ?", (upto,))  # noqa: S608

    def close(self) -> None:
        """Close the database."""
        self._database.close()


class Opener:
    """Opens the tables of events, for a `SqliteSink` and for `telemetry.fanout_from_config`.

    Args:
        path: the database file, made when it is missing; or the data directory, for its `log.db`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, path: Path | None = None, *, max_rows: int = 500_000) -> EventLog:
        """Open the tables.

        Args:
            path: of another database file.
            max_rows: rows kept of each table.

        Raises:
            StoreError: the database cannot be used.
        """
        chosen = path or self._path
        if chosen.is_dir():
            chosen /= "log.db"
        return EventLog(Database(chosen, "log", durability="NORMAL"), max_rows=max_rows)


def opener(path: Path) -> Opener:
    """Return what opens the tables of events in a data directory, or in a database file."""
    return Opener(path)
