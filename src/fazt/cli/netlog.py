"""`fazt net logs` and `fazt net stats`: what became of the calls."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import click

from fazt.cli.options import (
    app_filter,
    app_option,
    data_option,
    host_option,
    json_option,
    names_of,
    opened,
    settings,
    since_seconds,
)
from fazt.cli.output import examples, note, print_json, printable, say, table, warn
from fazt.cli.stream import CALL_COLUMNS, CALL_RIGHT, Feed, call_cells
from fazt.errors import ConfigError


@click.command(
    short_help="List calls, newest first.",
    epilog=examples("fazt net logs --errors --since 1h", "fazt net logs --app shop --json", "fazt net logs -f"),
)
@app_option
@click.option("--domain", "--host", "host", metavar="HOST", help="Only calls to this host.")
@click.option("--errors", is_flag=True, help="Only calls that failed.")
@click.option("--since", metavar="WHEN", help="30m, 24h, 7d, or a date.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("-n", "--limit", type=click.IntRange(0, 100_000), default=100, show_default=True, help="At most so many.")
@json_option
@data_option
@click.pass_context
def logs(
    ctx: click.Context,
    app_name: str | None,
    host: str | None,
    errors: bool,
    since: str | None,
    follow: bool,
    limit: int,
    as_json: bool,
    data: str | None,
) -> None:
    """List calls, newest first: one row per counted call, whatever became of it."""
    query: dict[str, Any] = {"host": host_option(host), "errors": errors, "since": since_seconds(since)}
    with opened(ctx, data) as store:
        app = app_filter(store, app_name)
        if follow:
            Feed(store, app, lines=False, call_filter=query).follow(limit, as_json=as_json, typed=False)
            return
        records = [found.record for found in store.log.calls(app=app, limit=limit, **query)]
        names = names_of(store)
        dropped = store.log.dropped().get("calls", 0)
    if as_json:
        print_json([record.public() for record in records])
    elif records:
        table(CALL_COLUMNS, [call_cells(record, names) for record in records], right=CALL_RIGHT)
    else:
        note("no call was logged")
    if dropped:
        warn(f"{dropped} calls were never written because the log's buffer was full (net.log_buffer)")


@click.command(
    short_help="Show figures per host.",
    epilog=examples("fazt net stats --since 24h", "fazt net stats --app shop --json", "fazt net stats --live"),
)
@app_option
@click.option("--since", metavar="WHEN", help="30m, 24h, 7d, or a date.")
@click.option("--live", is_flag=True, help="What the running server measures now: rates, breakers, places.")
@json_option
@data_option
@click.pass_context
def stats(
    ctx: click.Context, app_name: str | None, since: str | None, live: bool, as_json: bool, data: str | None
) -> None:
    """Show figures per host: calls, share of errors, average duration, cache hits."""
    if live:
        if app_name is not None or since is not None:
            raise ConfigError("--live shows what holds now for all apps; --app and --since belong to the log")
        _live(ctx, data, as_json)
        return
    start = since_seconds(since)
    with opened(ctx, data) as store:
        found = store.log.stats(app=app_filter(store, app_name), since=start)
    if as_json:
        print_json([{**_camel(asdict(entry)), "errorRate": round(entry.error_rate, 4)} for entry in found])
        return
    if not found:
        note("no call was logged")
        return
    rows = [
        [
            entry.host or "-",
            str(entry.calls),
            f"{entry.error_rate:.1%}",
            f"{entry.average_ms:.1f}",
            str(entry.cache_hits),
        ]
        for entry in found
    ]
    table(["Domain", "Calls", "Errors", "Average ms", "Cache hits"], rows, right=(1, 2, 3, 4))


def _live(ctx: click.Context, data: str | None, as_json: bool) -> None:
    from fazt.cli.admin import request

    found = request(settings(ctx, data), "GET", "/api/system/net")
    if as_json:
        print_json(found)
        return
    traffic: dict[str, Any] = found.pop("traffic", {})
    totals = {
        **{name: value for name, value in found.items() if not isinstance(value, dict)},
        **traffic.get("totals", {}),
    }
    table(["Figure", "Value"], [[_words(name), str(value)] for name, value in totals.items()], right=(1,))
    for title, columns in (
        ("limits", ("kind", "name", "role", "rate", "share", "attempts", "refused", "waitedMs", "limited")),
        ("breakers", ("kind", "name", "role", "state", "cause", "remainingMs", "failures", "reason")),
        ("places", ("host", "role", "held", "waiting", "limit")),
    ):
        rows = traffic.get(title, [])
        if rows:
            say(f"\n{title.capitalize()}")
            cells = [
                [printable(str("-" if row[name] in ("", None) else row[name])) for name in columns] for row in rows
            ]
            table([_words(name).capitalize() for name in columns], cells)


def _words(name: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", r" \1", name).replace("_", " ").lower()


def _camel(values: dict[str, Any]) -> dict[str, Any]:
    out = {}
    for name, value in values.items():
        head, *rest = name.split("_")
        out[head + "".join(part.title() for part in rest)] = value
    return out
