"""Questions to the log: calls, console lines, figures per host."""

from __future__ import annotations

from dataclasses import dataclass

from fazt.stores.sqlite.database import Database
from fazt.stores.sqlite.log_rows import LoggedCall, LogLine, log_line, logged_call
from fazt.stores.sqlite.log_summary import Summary, summary

_FAILED = "(code IS NOT NULL OR status >= 400)"


@dataclass(frozen=True, slots=True)
class HostStats:
    """Figures of one host. `errors` counts calls with a code or a status of 400 and above."""

    host: str
    calls: int
    errors: int
    cache_hits: int
    average_ms: float
    request_bytes: int
    response_bytes: int

    @property
    def error_rate(self) -> float:
        """Share of the calls that failed, 0 to 1."""
        return self.errors / self.calls if self.calls else 0.0


class LogReader:
    """Reads the log database; what other processes wrote is there once they flushed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def calls(
        self,
        *,
        app: str | None = None,
        host: str | None = None,
        errors: bool = False,
        since: float | None = None,
        call_id: str | None = None,
        after: int | None = None,
        limit: int = 100,
    ) -> list[LoggedCall]:
        """Return calls, newest first; with `after` (to follow the log) the next ones, oldest first.

        Args:
            app: only those of one app id ("" for the operator's own).
            host: only those to one canonical host.
            errors: only those that failed.
            since: only those that began at or after this time (seconds since the epoch).
            call_id: only this call.
            after: only those with a greater id.
            limit: at most so many.

        Raises:
            StoreError: the log cannot be read.
        """
        where = _Where()
        where.add("app = ?", app)
        where.add("host = ?", host)
        where.add("ts >= ?", since)
        where.add("call_id = ?", call_id)
        where.add("id > ?", after)
        if errors:
            where.terms.append(_FAILED)
        order = "DESC" if after is None else "ASC"
        with self._database.read() as connection:
            rows = connection.execute(
                f"SELECT * FROM calls {where} ORDER BY id {order} LIMIT ?",  # noqa: S608 - terms are ours
                [*where.values, limit],
            ).fetchall()
        return [logged_call(row) for row in rows]

    def lines(
        self,
        *,
        app: str | None = None,
        level: str | None = None,
        since: float | None = None,
        invocation: str | None = None,
        after: int | None = None,
        limit: int = 100,
    ) -> list[LogLine]:
        """Return console lines, newest first; with `after` the next ones, oldest first.

        Args:
            app: only those of one app id.
            level: only those of one level.
            since: only those written at or after this time (seconds since the epoch).
            invocation: only those of one request id.
            after: only those with a greater id.
            limit: at most so many.

        Raises:
            StoreError: the log cannot be read.
        """
        where = _Where()
        where.add("app = ?", app)
        where.add("level = ?", level)
        where.add("ts >= ?", since)
        where.add("invocation = ?", invocation)
        where.add("id > ?", after)
        order = "DESC" if after is None else "ASC"
        with self._database.read() as connection:
            rows = connection.execute(
                f"SELECT * FROM lines {where} ORDER BY id {order} LIMIT ?",  # noqa: S608 - terms are ours
                [*where.values, limit],
            ).fetchall()
        return [log_line(row) for row in rows]

    def stats(self, *, app: str | None = None, since: float | None = None, limit: int = 100) -> list[HostStats]:
        """Return figures per host, the most called first.

        Raises:
            StoreError: the log cannot be read.
        """
        where = _Where()
        where.add("app = ?", app)
        where.add("ts >= ?", since)
        with self._database.read() as connection:
            rows = connection.execute(
                f"SELECT host, count(*) AS calls, sum({_FAILED} IS TRUE) AS errors, sum(cache = 'hit') AS hits, "  # noqa: S608
                "avg(duration_ms) AS average, sum(request_bytes) AS sent, sum(response_bytes) AS received "
                f"FROM calls {where} GROUP BY host ORDER BY calls DESC, host LIMIT ?",
                [*where.values, limit],
            ).fetchall()
        return [
            HostStats(
                row["host"], row["calls"], row["errors"], row["hits"], row["average"], row["sent"], row["received"]
            )
            for row in rows
        ]

    def summary(self, *, app: str | None = None, since: float | None = None, limit: int = 20) -> Summary:
        """Return figures in all, per host and per service, with the median and the 95th percentile of durations.

        Args:
            app: only calls of one app id ("" for the operator's own).
            since: only calls that began at or after this time (seconds since the epoch).
            limit: how many hosts, services and kinds of failure at most.

        Raises:
            StoreError: the log cannot be read.
        """
        return summary(self._database, app=app, since=since, limit=limit)

    def newest(self) -> tuple[int, int]:
        """Return the greatest id of calls and of lines, where following the log begins.

        Raises:
            StoreError: the log cannot be read.
        """
        with self._database.read() as connection:
            (calls,) = connection.execute("SELECT coalesce(max(id), 0) FROM calls").fetchone()
            (lines,) = connection.execute("SELECT coalesce(max(id), 0) FROM lines").fetchone()
        return calls, lines

    def dropped(self) -> dict[str, int]:
        """Return how many calls and lines were thrown away, by all processes, because a buffer was full.

        Raises:
            StoreError: the log cannot be read.
        """
        totals = {"calls": 0, "lines": 0}
        with self._database.read() as connection:
            rows = connection.execute("SELECT kind, sum(count) AS total FROM drops GROUP BY kind").fetchall()
        return totals | {row["kind"]: row["total"] for row in rows}


class _Where:
    def __init__(self) -> None:
        self.terms: list[str] = []
        self.values: list[str | int | float] = []

    def add(self, term: str, value: str | float | None) -> None:
        if value is not None:
            self.terms.append(term)
            self.values.append(value)

    def __str__(self) -> str:
        return "WHERE " + " AND ".join(self.terms) if self.terms else ""
