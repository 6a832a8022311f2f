"""`fazt log`: calls and console lines together, live with `-f`."""

from __future__ import annotations

import click

from fazt.cli.options import app_filter, app_option, data_option, json_option, names_of, opened, since_seconds
from fazt.cli.output import examples, note, print_json, say
from fazt.cli.stream import Feed, row_dict, row_text


@click.command(epilog=examples("fazt log -f", "fazt log -f --app shop --json", "fazt log --errors --since 1h"))
@app_option
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("-n", "--limit", type=click.IntRange(0, 100_000), default=20, show_default=True, help="Rows of the past.")
@click.option("--errors", is_flag=True, help="Only calls that failed and lines of level error.")
@click.option("--since", metavar="WHEN", help="30m, 24h, 7d, or a date.")
@json_option
@data_option
@click.pass_context
def log(
    ctx: click.Context,
    app_name: str | None,
    follow: bool,
    limit: int,
    errors: bool,
    since: str | None,
    as_json: bool,
    data: str | None,
) -> None:
    """Show calls and console lines of all apps, or of one.

    Without -f the newest come first. With -f the newest come last and new ones follow; under --json each is an object
    on a line of its own, whose "type" is "call" or "line".
    """
    start = since_seconds(since)
    with opened(ctx, data) as store:
        feed = Feed(
            store,
            app_filter(store, app_name),
            call_filter={"errors": errors, "since": start},
            line_filter={"level": "error" if errors else None, "since": start},
        )
        if follow:
            feed.follow(limit, as_json=as_json, typed=True)
            return
        rows = feed.newest(limit)
        names = names_of(store)
    if as_json:
        print_json([row_dict(row, typed=True) for row in rows])
        return
    for row in rows:
        say(row_text(row, names))
    if not rows:
        note("nothing was logged yet")
