"""`fazt stats`: what became of the calls, in figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fazt.cli.options import app_filter, app_option, data_option, json_option, opened, since_seconds
from fazt.cli.output import examples, note, plural, print_json, say, size, table, warn

if TYPE_CHECKING:
    from fazt.stores.sqlite.log_summary import Failures, Figures, Summary, Trips

_RIGHT = (1, 2, 3, 4, 5, 6, 7)


@click.command(
    short_help="What became of the calls, in figures.",
    epilog=examples("fazt stats --since 24h", "fazt stats --app shop", "fazt stats --since 7d --json"),
)
@app_option
@click.option("--since", metavar="WHEN", help="30m, 24h, 7d, or a date.")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Rows of each list.")
@json_option
@data_option
@click.pass_context
def stats(
    ctx: click.Context, app_name: str | None, since: str | None, limit: int, as_json: bool, data: str | None
) -> None:
    """Summarise the network log: calls, share of errors, durations, bytes and cache, in all, per host, per service.

    Durations are the median (p50) and the 95th percentile (p95) of calls. Where a sqlite sink is configured, the trips
    to the network are summarised too.
    """
    start = since_seconds(since)
    with opened(ctx, data) as store:
        found = store.log.summary(app=app_filter(store, app_name), since=start, limit=limit)
        dropped = store.log.dropped().get("calls", 0)
    if as_json:
        print_json(_document(found, dropped))
        return
    if not found.total.calls:
        note("no call was logged" if since is None else "no call was logged in that time")
    else:
        _show(found)
    if dropped:
        warn(f"{dropped} calls were never written because the log's buffer was full (net.log_buffer)")


def _show(found: Summary) -> None:
    total = found.total
    say(
        f"{plural(total.calls, 'call')}, {total.error_rate:.1%} failed; p50 {total.p50_ms:.1f} ms, "
        f"p95 {total.p95_ms:.1f} ms; {size(total.request_bytes)} sent, {size(total.response_bytes)} received; "
        f"{total.cache_share:.1%} from the cache"
    )
    if found.trips is not None:
        say(_trips_line(found.trips))
    say("")
    _table("Domain", found.hosts)
    if found.services:
        say("")
        _table("Service", found.services)
    if found.failures:
        say("")
        table(["Why calls failed", "Calls"], [[_why(one), str(one.calls)] for one in found.failures], right=(1,))


def _trips_line(trips: Trips) -> str:
    text = f"{plural(trips.trips, 'trip')} to the network, {trips.failed} failed, {trips.repeated} after a retry"
    if trips.p50_ms is None or trips.p95_ms is None:
        return text
    return f"{text}; first byte p50 {trips.p50_ms:.1f} ms, p95 {trips.p95_ms:.1f} ms"


def _table(head: str, rows: Sequence[Figures]) -> None:
    table(
        [head, "Calls", "Errors", "p50 ms", "p95 ms", "Sent", "Received", "Cache"],
        [
            [
                row.name or "-",
                str(row.calls),
                f"{row.error_rate:.1%}",
                f"{row.p50_ms:.1f}",
                f"{row.p95_ms:.1f}",
                size(row.request_bytes),
                size(row.response_bytes),
                f"{row.cache_share:.1%}",
            ]
            for row in rows
        ],
        right=_RIGHT,
    )


def _why(one: Failures) -> str:
    return f"status {one.status}" if one.code is None else f"{one.code} ({one.reason})"


def _document(found: Summary, dropped: int) -> dict[str, Any]:
    trips = found.trips
    return {
        "total": _figures(found.total),
        "hosts": [{"host": row.name, **_figures(row)} for row in found.hosts],
        "services": [{"service": row.name, **_figures(row)} for row in found.services],
        "failures": [
            {"code": one.code, "reason": one.reason, "status": one.status, "calls": one.calls} for one in found.failures
        ],
        "trips": None
        if trips is None
        else {
            "trips": trips.trips,
            "failed": trips.failed,
            "repeated": trips.repeated,
            "firstByteP50Ms": trips.p50_ms,
            "firstByteP95Ms": trips.p95_ms,
        },
        "dropped": dropped,
    }


def _figures(row: Figures) -> dict[str, Any]:
    return {
        "calls": row.calls,
        "errors": row.errors,
        "errorRate": round(row.error_rate, 4),
        "p50Ms": round(row.p50_ms, 3),
        "p95Ms": round(row.p95_ms, 3),
        "requestBytes": row.request_bytes,
        "responseBytes": row.response_bytes,
        "cacheHits": row.cache_hits,
        "cacheShare": round(row.cache_share, 4),
    }
