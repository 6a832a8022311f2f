"""Figures of the network log for people: in all, per host, per service; and of the trips, where those are kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from fazt.stores.sqlite.database import Database

_FAILED = "(code IS NOT NULL OR status >= 400) IS TRUE"
_HIT = "cache IN ('hit', 'revalidated', 'stale')"
# Of n values in order, the one at place ceil(n * share): the nearest rank, a value that was really measured.
_FIGURES = """
WITH chosen AS (
    SELECT {group} AS name, {failed} AS failed, {hit} AS hit, {value} AS value, {sent} AS sent, {received} AS received
    FROM {table} {where}
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY name ORDER BY value NULLS LAST) AS place,
        count(value) OVER (PARTITION BY name) AS n
    FROM chosen
)
SELECT name, count(*) AS calls, sum(failed) AS errors, sum(hit) AS hits,
    max(CASE WHEN place = (n * 50 + 99) / 100 THEN value END) AS p50,
    max(CASE WHEN place = (n * 95 + 99) / 100 THEN value END) AS p95,
    sum(sent) AS sent, sum(received) AS received
FROM ranked GROUP BY name ORDER BY calls DESC, name LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """What became of a number of calls. `errors` counts those with a code or a status of 400 and above.

    `p50_ms` and `p95_ms` are the median and the 95th percentile of their durations; `cache_hits` counts answers whose
    body came out of the cache.
    """

    name: str
    calls: int
    errors: int
    cache_hits: int
    p50_ms: float
    p95_ms: float
    request_bytes: int
    response_bytes: int

    @property
    def error_rate(self) -> float:
        """Share of the calls that failed, 0 to 1."""
        return self.errors / self.calls if self.calls else 0.0

    @property
    def cache_share(self) -> float:
        """Share of the calls whose body came out of the cache, 0 to 1."""
        return self.cache_hits / self.calls if self.calls else 0.0


@dataclass(frozen=True, slots=True)
class Failures:
    """How many calls failed in one way: by a code and its reason, or by the status of the answer."""

    code: str | None
    reason: str | None
    status: int | None
    calls: int


@dataclass(frozen=True, slots=True)
class Trips:
    """Figures of the trips to the network: `repeated` are those after a retry, `p50_ms` and `p95_ms` times to the head
    of the answer."""

    trips: int
    failed: int
    repeated: int
    p50_ms: float | None
    p95_ms: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """The log in figures. `trips` is None when no trips were kept (the sqlite sink is off)."""

    total: Figures
    hosts: Sequence[Figures]
    services: Sequence[Figures]
    failures: Sequence[Failures]
    trips: Trips | None


def summary(database: Database, *, app: str | None = None, since: float | None = None, limit: int = 20) -> Summary:
    """Summarise the log.

    Args:
        database: of the log.
        app: only calls of one app id ("" for the operator's own).
        since: only calls that began at or after this time (seconds since the epoch).
        limit: how many hosts, and services, at most; the most called first.

    Raises:
        StoreError: the log cannot be read.
    """
    with database.read() as connection:
        where, values = _where(app=app, ts=since)
        total = _figures(connection, "''", where, values, 1)
        hosts = _figures(connection, "host", where, values, limit)
        # Few calls have one, so it is among what most calls don't have.
        named = (
            f"{where} {'AND' if where else 'WHERE'} extra IS NOT NULL AND json_extract(extra, '$.service') IS NOT NULL"
        )
        services = _figures(connection, "json_extract(extra, '$.service')", named, values, limit)
        failures = _failures(connection, where, values, limit)
        trips = _trips(connection, app, None if since is None else _iso(since))
    return Summary(total[0] if total else Figures("", 0, 0, 0, 0.0, 0.0, 0, 0), hosts, services, failures, trips)


def _figures(
    connection: sqlite3.Connection, group: str, where: str, values: list[str | float], limit: int
) -> list[Figures]:
    query = _FIGURES.format(
        group=group,
        failed=_FAILED,
        hit=_HIT,
        value="duration_ms",
        sent="request_bytes",
        received="response_bytes",
        table="calls",
        where=where,
    )
    return [Figures(*row) for row in connection.execute(query, [*values, limit])]


def _failures(connection: sqlite3.Connection, where: str, values: list[str | float], limit: int) -> list[Failures]:
    failed = f"{where} {'AND' if where else 'WHERE'} {_FAILED}"
    rows = connection.execute(
        "SELECT code, reason, CASE WHEN code IS NULL THEN status END AS answer, count(*) AS calls "  # noqa: S608
        f"FROM calls {failed} GROUP BY code, reason, answer ORDER BY calls DESC, code, reason, answer LIMIT ?",
        [*values, limit],
    )
    return [Failures(row["code"], row["reason"], row["answer"], row["calls"]) for row in rows]


def _trips(connection: sqlite3.Connection, app: str | None, since: str | None) -> Trips | None:
    where, values = _where(app=app, ts=since)
    trips_only = f"{where} {'AND' if where else 'WHERE'} event_type = 'net.request'"
    query = _FIGURES.format(
        group="''",
        failed="status NOT IN ('success', 'redirect')",
        hit="attempt > 1",
        value="ttfb_ms",
        sent="bytes_written",
        received="bytes_read",
        table="net_request",
        where=trips_only,
    )
    row = connection.execute(query, [*values, 1]).fetchone()
    return None if row is None else Trips(row["calls"], row["errors"], row["hits"], row["p50"], row["p95"])


def _where(*, app: str | None, ts: float | str | None) -> tuple[str, list[str | float]]:
    given = [("app = ?", app), ("ts >= ?", ts)]
    terms = [term for term, value in given if value is not None]
    return ("WHERE " + " AND ".join(terms) if terms else ""), [value for _, value in given if value is not None]


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
