"""`fazt app`: deploy and look after JavaScript apps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fazt.cli.invoke import invoke
from fazt.cli.options import (
    actor,
    app_filter,
    complete_app,
    data_option,
    group,
    json_option,
    opened,
    opened_for,
    settings,
    since_seconds,
)
from fazt.cli.output import examples, note, plural, print_json, say, size, table, when, working
from fazt.cli.stream import LINE_COLUMNS, Feed, line_cells, line_dict

if TYPE_CHECKING:
    from fazt.stores.sqlite.apps import AppInfo
    from fazt.stores.sqlite.deployments import Deployment
    from fazt.stores.sqlite.store import Store

app = group("app", "Deploy and look after JavaScript apps.")
app.add_command(invoke)
_name = click.argument("name", shell_complete=complete_app)


@app.command(
    short_help="Make a directory the live version of an app.",
    epilog=examples("fazt app deploy ./shop --name shop", "fazt app deploy . --name shop --spa --json"),
)
@click.argument("directory", metavar="DIR")
@click.option("--name", metavar="NAME", help="Name (or id) of the app; by default the manifest's.")
@click.option("--spa/--no-spa", default=None, help="Answer paths without a file with index.html, or don't.")
@click.option("--without-private", is_flag=True, help="Leave the private/ directory out.")
@click.option("--engine", type=click.Choice(["wasm", "jsbox"]), help="JavaScript engine; by default the built one.")
@json_option
@data_option
@click.pass_context
def deploy(
    ctx: click.Context,
    directory: str,
    name: str | None,
    spa: bool | None,
    without_private: bool,
    engine: str | None,
    as_json: bool,
    data: str | None,
) -> None:
    """Make DIR the live version of an app: stage, check, bake, then switch in one step.

    Dotfiles, *.log files and node_modules are left out; symbolic links are refused. On any error the live version
    stays as it is.
    """
    import asyncio

    from fazt.app import deploy_app

    chosen = settings(ctx, data, engine=engine)
    with opened_for(chosen) as store, working(f"deploying {directory}"):
        done = asyncio.run(
            deploy_app(
                store,
                chosen,
                Path(directory),
                name=name,
                actor=actor(),
                include_private=not without_private,
                spa=spa,
            )
        )
    live = done.deployment
    if as_json:
        print_json({**_live(live), "id": done.app.id, "name": done.app.name, "created": done.created})
        return
    if done.created:
        note(f"created the app {done.app.name} ({done.app.id})")
    say(f"Deployed {done.app.name}: {plural(live.file_count, 'file')}, {size(live.total_bytes)} ({live.id})")


def _live(live: Deployment | None) -> dict[str, Any]:
    if live is None:
        return {"deployment": None}
    return {
        "deployment": live.id,
        "files": live.file_count,
        "bytes": live.total_bytes,
        "deployedAt": live.created_at,
        "deployedBy": live.actor,
        "spa": live.manifest.get("spa") is True,
        "handler": bool(live.image_key),
    }


def _described(store: Store, info: AppInfo) -> dict[str, Any]:
    live = store.deployments.live(info.id) if info.deployment is not None else None
    return {"id": info.id, "name": info.name, "createdAt": info.created_at, **_live(live)}


@app.command(name="list", epilog=examples("fazt app list", "fazt app list --json"))
@json_option
@data_option
@click.pass_context
def list_(ctx: click.Context, as_json: bool, data: str | None) -> None:
    """List the apps."""
    with opened(ctx, data) as store:
        found = [_described(store, info) for info in store.apps.list()]
    if as_json:
        print_json(found)
        return
    if not found:
        say("No apps.\nDeploy one: fazt app deploy DIR --name NAME")
        return
    rows = [
        [
            one["name"],
            one["id"],
            str(one.get("files", "-")),
            size(one["bytes"]) if "bytes" in one else "-",
            when(one["deployedAt"]) if "deployedAt" in one else "never",
        ]
        for one in found
    ]
    table(["Name", "Id", "Files", "Size", "Deployed"], rows, right=(2, 3))
    say(f"\n{plural(len(found), 'app')}")


@app.command(
    short_help="Show what there is of an app.", epilog=examples("fazt app info shop", "fazt app info shop --json")
)
@_name
@json_option
@data_option
@click.pass_context
def info(ctx: click.Context, name: str, as_json: bool, data: str | None) -> None:
    """Show what there is of an app: its deployment, rules, secrets, settings, limits of its own, latest changes."""
    with opened(ctx, data) as store:
        about = store.apps.get(name)
        found = _described(store, about)
        found["rules"] = [str(rule) for rule in store.rules.list(about.id) if rule.scope == about.id]
        found["secrets"] = [one.meta.name for one in store.secrets.list(about.id) if one.meta.scope == about.id]
        found["env"] = sorted(store.apps.env(about.id))
        found["limits"] = dict(store.limits.stored(about.id))
        found["activity"] = [
            {"ts": one.ts, "actor": one.actor, "action": one.action, "subject": one.subject}
            for one in store.activity(scope=about.id, limit=10)
        ]
    if as_json:
        print_json(found)
        return
    say(f"{found['name']}  {found['id']}")
    say(f"  created   {when(found['createdAt'])}")
    if found["deployment"] is None:
        say(f"  deployed  never: fazt app deploy DIR --name {found['name']}")
    else:
        by = f" by {found['deployedBy']}" if found["deployedBy"] else ""
        say(f"  deployed  {when(found['deployedAt'])}{by}  {found['deployment']}")
        say(f"  files     {found['files']} ({size(found['bytes'])})")
        say(f"  handler   {'api/main.js' if found['handler'] else 'none: static files only'}")
    for title, entries in (
        ("rules", [rule.replace(f" for app {found['id']}", "") for rule in found["rules"]]),
        ("secrets", found["secrets"]),
        ("settings", found["env"]),
        ("limits", [f"{path} {value}" for path, value in found["limits"].items()]),
    ):
        for at, entry in enumerate(entries or ["-"]):
            say(f"  {title if at == 0 else '':9} {entry}")
    say("  activity")
    for change in found["activity"]:
        say(f"    {when(change['ts'])}  {change['action']}  {change['subject']}  {change['actor']}")


@app.command(epilog=examples("fazt app files shop", "fazt app files shop --json"))
@_name
@json_option
@data_option
@click.pass_context
def files(ctx: click.Context, name: str, as_json: bool, data: str | None) -> None:
    """List the files of the live deployment."""
    with opened(ctx, data) as store:
        about = store.apps.get(name)
        found = store.deployments.files(about.id)
    if as_json:
        print_json([{"path": one.path, "size": one.size, "sha256": one.sha256} for one in found])
        return
    if not found:
        note(f"nothing was deployed: fazt app deploy DIR --name {about.name}")
        return
    table(["Path", "Size", "SHA-256"], [[one.path, size(one.size), one.sha256[:16]] for one in found], right=(1,))
    say(f"\n{plural(len(found), 'file')}, {size(sum(one.size for one in found))}")


@app.command(epilog=examples("fazt app remove shop", "fazt app remove shop --yes"))
@_name
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@json_option
@data_option
@click.pass_context
def remove(ctx: click.Context, name: str, yes: bool, as_json: bool, data: str | None) -> int:
    """Retire an app with its files, rules, secrets, settings and limits. Its name is free; its id never comes back.

    On a terminal it asks first.
    """
    with opened(ctx, data) as store:
        about = store.apps.get(name)
        if not yes and sys.stdin.isatty():
            question = f"Remove {about.name} with its files, rules, secrets and settings?"
            if not click.confirm(question, err=True):
                say(f"{about.name} stays", err=True)
                return 1
        store.apps.remove(about.id, actor=actor())
    if as_json:
        print_json({"id": about.id, "name": about.name})
    else:
        say(f"Removed {about.name} ({about.id})")
    return 0


@app.command(
    short_help="Show the console lines of an app.",
    epilog=examples("fazt app logs shop", "fazt app logs shop -f", "fazt app logs shop --level error --json"),
)
@_name
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("-n", "--limit", type=click.IntRange(0, 100_000), default=100, show_default=True, help="At most so many.")
@click.option("--level", type=click.Choice(["debug", "info", "warn", "error"]), help="Only lines of this level.")
@click.option("--since", metavar="WHEN", help="30m, 24h, 7d, or a date.")
@click.option("--request", "invocation", metavar="ID", help="Only lines of one request (its X-Request-ID).")
@json_option
@data_option
@click.pass_context
def logs(
    ctx: click.Context,
    name: str,
    follow: bool,
    limit: int,
    level: str | None,
    since: str | None,
    invocation: str | None,
    as_json: bool,
    data: str | None,
) -> None:
    """Show the console lines of an app, newest first; with -f the newest come last and new ones follow."""
    query: dict[str, Any] = {"level": level, "since": since_seconds(since), "invocation": invocation}
    with opened(ctx, data) as store:
        feed = Feed(store, app_filter(store, name), calls=False, line_filter=query)
        if follow:
            feed.follow(limit, as_json=as_json, typed=False)
            return
        found = store.log.lines(app=feed.app, limit=limit, **query)
    if as_json:
        print_json([line_dict(line) for line in found])
    elif found:
        columns = [column for column in LINE_COLUMNS if column != "App"]
        table(columns, [[cell for at, cell in enumerate(line_cells(line, {})) if at != 1] for line in found])
    else:
        note("nothing was logged")
