"""`fazt limits`: show, set, reset and describe every limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fazt.cli.options import actor, app_option, app_scope, data_option, group, json_option, opened
from fazt.cli.output import examples, print_json, say, table, warn
from fazt.errors import ConfigError

if TYPE_CHECKING:
    from fazt.core.limits import Limits

limits = group("limits", "What one invocation, one app and the whole process may use.")


class _Listing(click.Command):
    """A command whose help lists the limits, from the one table that describes them."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from fazt.core.limits import info, paths

        with formatter.section("Limits"):
            rows = []
            for path in paths():
                about = info(path)
                if not about.read_only:
                    unit = f" {about.unit}" if about.unit else ""
                    rows.append((path, f"{about.label} ({about.low} to {about.high}{unit})"))
            formatter.write_dl(rows)
        super().format_epilog(ctx, formatter)


def complete_limit(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of limits that can be set."""
    from fazt.core.limits import info, paths

    return [path for path in paths() if path.startswith(incomplete) and not info(path).read_only]


@limits.command(
    short_help="Show the limits that hold.",
    epilog=examples("fazt limits show", "fazt limits show net.max_calls", "fazt limits show --app shop --json"),
)
@click.argument("name", required=False, metavar="[GROUP[.NAME]]", shell_complete=complete_limit)
@app_option
@json_option
@data_option
@click.pass_context
def show(ctx: click.Context, name: str | None, app_name: str | None, as_json: bool, data: str | None) -> None:
    """Show the limits that hold for everybody, or with --app for one app."""
    from fazt.core.limits import as_dict, get, info, paths

    wanted = [path for path in paths() if name is None or path == name or path.startswith(f"{name}.")]
    if not wanted:
        info(name or "")  # names the nearest
    with opened(ctx, data) as store:
        scope = app_scope(store, app_name)
        held = store.limits.show(scope)
        own = store.limits.stored(scope) if scope else {}
        stored = store.limits.stored()
    if as_json:
        nested = as_dict(held)
        chosen: dict[str, dict[str, int]] = {}
        for path in wanted:
            part, key = path.split(".")
            chosen.setdefault(part, {})[key] = nested[part][key]
        print_json(chosen)
        return
    rows = []
    for path in wanted:
        about = info(path)
        source = "app" if path in own else "set" if path in stored else "read-only" if about.read_only else "default"
        span = "-" if about.read_only or about.low is None else f"{about.low}..{about.high}"
        rows.append([path, str(get(held, path)), about.unit or "-", source, span, about.label])
    table(["Limit", "Value", "Unit", "From", "Range", "What"], rows, right=(1,))


@limits.command(
    name="set",
    short_help="Set a limit.",
    cls=_Listing,
    epilog=examples("fazt limits set net.max_calls 10", "fazt limits set net.max_calls 3 --app shop"),
)
@click.argument("name", metavar="GROUP.NAME", shell_complete=complete_limit)
@click.argument("value")
@app_option
@json_option
@data_option
@click.pass_context
def set_(ctx: click.Context, name: str, value: str, app_name: str | None, as_json: bool, data: str | None) -> None:
    """Set a limit for everybody, or with --app a narrower one for one app. Running processes follow within a second."""
    from fazt.core.limits import info, validate, validate_override

    number = validate(name, value)
    with opened(ctx, data) as store:
        if app_name is not None:
            validate_override(store.limits.show(), name, number)  # before an app's record is made
        scope = app_scope(store, app_name, create=True)
        held = store.limits.set(name, number, app=scope, actor=actor())
        now = store.limits.show(scope)
    if as_json:
        print_json({"name": name, "value": held, "app": app_name})
    else:
        unit = info(name).unit
        say(f"{name} is {held}{f' {unit}' if unit else ''} for {app_name or 'everybody'}")
    for text in _without_effect(name, held, now):
        warn(text)


def _without_effect(name: str, value: int, now: Limits) -> list[str]:
    """Return what to tell of a value that changes nothing as the other limits are (F22)."""
    net, runtime = now.net, now.runtime
    match name:
        case "net.cache_max_items" if value and not net.cache_max_bytes:
            return ["the cache stays off until net.cache_max_bytes is above 0 too"]
        case "net.cache_max_bytes" if value and not net.cache_max_items:
            return ["the cache stays off until net.cache_max_items is above 0 too"]
        case "net.rate_burst" if value and not net.rate_limit:
            return ["it holds only for rules with a rate of their own while net.rate_limit is 0"]
        case "net.budget" | "net.call_timeout" if value > runtime.exec_timeout - 500:
            return [
                f"runtime.exec_timeout ({runtime.exec_timeout} ms) ends an invocation first; "
                "calls get what is left of it, less 500 ms"
            ]
        case "runtime.cpu_time" if value > runtime.exec_timeout:
            return [f"runtime.exec_timeout ({runtime.exec_timeout} ms) ends an invocation first"]
        case "net.app_concurrency" if value > net.concurrency:
            return [f"net.concurrency ({net.concurrency}) is reached first"]
    return []


@limits.command(
    short_help="Forget a value that was set.",
    cls=_Listing,
    epilog=examples("fazt limits reset net.max_calls", "fazt limits reset net.budget --app shop"),
)
@click.argument("name", metavar="GROUP.NAME", shell_complete=complete_limit)
@app_option
@json_option
@data_option
@click.pass_context
def reset(ctx: click.Context, name: str, app_name: str | None, as_json: bool, data: str | None) -> None:
    """Forget a value that was set: the default holds again, for an app the value for everybody."""
    from fazt.core.limits import get, info

    if info(name).read_only:
        raise ConfigError(f"{name} is measured or estimated by fazt and cannot be set")
    with opened(ctx, data) as store:
        scope = app_scope(store, app_name)
        store.limits.reset(name, app=scope, actor=actor())
        held = get(store.limits.show(scope), name)
    if as_json:
        print_json({"name": name, "value": held, "app": app_name})
    else:
        say(f"{name} is {held} again for {app_name or 'everybody'}")


@limits.command(epilog=examples("fazt limits schema --json"))
@json_option
@data_option
def schema(as_json: bool, data: str | None) -> None:
    """Describe every limit: label, meaning, unit, range."""
    from fazt.core import limits as limits_of

    described: dict[str, dict[str, dict[str, Any]]] = limits_of.schema()
    if as_json:
        print_json(described)
        return
    for part, entries in described.items():
        say(click.style(part, bold=True))
        for name, about in entries.items():
            span = "read-only" if about["read_only"] else f"{about['min']}..{about['max']}"
            unit = f" {about['unit']}" if "unit" in about else ""
            say(f"  {part}.{name}  ({span}{unit})\n      {about['label']}. {about['desc']}")
