"""`fazt net`: rules, and the log of calls."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from fazt.cli.base import (
    actor,
    app_option,
    app_scope,
    data_option,
    json_option,
    names_of,
    net_options,
    opened,
    print_json,
    printable,
    settings,
    table,
    when,
)
from fazt.errors import ConfigError

if TYPE_CHECKING:
    from fazt.core.rules import Rule
    from fazt.stores.sqlite.store import Store


@click.group()
def net() -> None:
    """Rules that say where calls may go, and the log of calls."""


def _target_options(command: Any) -> Any:
    for option in (
        click.option("--path", "paths", multiple=True, metavar="PREFIX", help="Only paths below this one. Repeatable."),
        click.option("--method", "methods", multiple=True, metavar="M", help="Only this method. Repeatable."),
        click.option("--port", "ports", multiple=True, type=int, metavar="N", help="This port instead. Repeatable."),
    ):
        command = option(command)
    return command


@net.command(
    epilog="\b\nExamples:\n  fazt net allow api.github.com\n  fazt net allow '*.example.com' --app shop --rate 60"
    "\n  fazt net allow https://intranet.corp:8443 --address 10.1.2.0/24 --method GET --path /v1"
)
@click.argument("target")
@app_option
@_target_options
@click.option("--address", "addresses", multiple=True, metavar="CIDR", help="Private range it may resolve to.")
@click.option("--http", "--no-https", "http", is_flag=True, help="Allow plain http beside https.")
@click.option("--rate", type=int, metavar="N", help="Requests a minute (0: the default).")
@click.option("--burst", type=int, metavar="N", help="Requests that may come at once (0: the default).")
@click.option("--timeout", "timeout_ms", type=int, metavar="MS", help="Time limit of a call (0: the default).")
@click.option("--max-response", type=int, metavar="BYTES", help="Largest response body (0: the default).")
@click.option("--cache-ttl", type=int, metavar="S", help="Keep responses that long (0: don't).")
@click.option("--inject", metavar="NAME", help="Send this secret with every call ('' to stop).")
@click.option("--shared-suffix", is_flag=True, help="Allow a wildcard over a suffix that strangers share.")
@click.option("--path-encoded-slash", is_flag=True, default=None, help="Let %2f in a path count as a slash.")
@json_option
@data_option
@click.pass_context
def allow(ctx: click.Context, target: str, app_name: str | None, as_json: bool, data: str | None, **given: Any) -> None:
    """Allow calls to TARGET: DOMAIN, *.DOMAIN, or an origin such as https://host:8443.

    DOMAIN means https on port 443. Running it again with other settings changes those and keeps the rest.
    """
    from fazt.core import rules as rules_of

    given["addresses"] = given["addresses"] or None
    rules_of.expand_target(target, scope="", **given)  # a target that cannot be used makes no app either
    with opened(ctx, data) as store:
        scope = app_scope(store, app_name, create=True)
        wanted = rules_of.expand_target(target, scope=scope, **given)
        _check_effect(store, wanted, scope)
        stored = store.rules.allow(wanted, rules_of.given(given), actor=actor())
        _say_stored(store, stored, as_json, verb="Allowed")


@net.command(epilog="\b\nExamples:\n  fazt net deny tracker.example\n  fazt net deny '*.internal.example' --app shop")
@click.argument("target")
@app_option
@_target_options
@json_option
@data_option
@click.pass_context
def deny(ctx: click.Context, target: str, app_name: str | None, as_json: bool, data: str | None, **given: Any) -> None:
    """Deny calls to TARGET, whatever is allowed. A bare DOMAIN denies every scheme and port."""
    from fazt.core.rules import expand_target

    expand_target(target, scope="", action="deny", **given)
    with opened(ctx, data) as store:
        scope = app_scope(store, app_name, create=True)
        stored = store.rules.deny(expand_target(target, scope=scope, action="deny", **given), actor=actor())
        _say_stored(store, stored, as_json, verb="Denied")


def _check_effect(store: Store, rules: Any, scope: str) -> None:
    """Warn of settings that cannot take effect (F22)."""
    net_limits = store.limits.show(scope).net
    for rule in rules:
        if rule.cache_ttl and not (net_limits.cache_max_items and net_limits.cache_max_bytes):
            click.echo(
                "warning: --cache-ttl has no effect while the cache is off; switch it on: "
                "fazt limits set net.cache_max_items 1000 && fazt limits set net.cache_max_bytes 10485760",
                err=True,
            )
        if rule.inject and not any(
            info.meta.name == rule.inject and info.meta.scope in ("", scope) for info in store.secrets.list()
        ):
            click.echo(
                f"warning: there is no secret {rule.inject} yet: fazt secret set {rule.inject} --domain {rule.pattern}",
                err=True,
            )
        return


def _say_stored(store: Store, stored: Any, as_json: bool, *, verb: str) -> None:
    from fazt.core.explain import describe

    if as_json:
        print_json([describe(rule) for rule in stored])
        return
    names = names_of(store)
    schemes = {rule.scheme for rule in stored}
    proto = "any protocol" if "*" in schemes else "HTTP+HTTPS" if len(schemes) > 1 else schemes.pop().upper()
    first = stored[0]
    scope = f"app:{names.get(first.scope, first.scope)}" if first.scope else "global"
    click.echo(f"{verb} {first.pattern} ({proto}, {scope})")
    for rule in stored:
        click.echo(f"  {rule.id}  {_describe(rule)}")


def _describe(rule: Rule) -> str:
    words = [",".join(sorted(rule.methods)) or "any method", f"{rule.origin}{rule.path}"]
    settings_shown = {
        "rate": f"{rule.rate}/min" if rule.rate else "",
        "burst": rule.burst,
        "timeout": f"{rule.timeout_ms} ms" if rule.timeout_ms else "",
        "max response": f"{rule.max_response} B" if rule.max_response else "",
        "cache": f"{rule.cache_ttl} s" if rule.cache_ttl else "",
        "inject": rule.inject,
        "addresses": ", ".join(rule.addresses),
        "%2f": "is a slash" if rule.path_encoded_slash else "",
    }
    return "; ".join([" ".join(words), *(f"{name} {value}" for name, value in settings_shown.items() if value)])


@net.command(name="list", epilog="\b\nExample:\n  fazt net list --app shop --json")
@app_option
@json_option
@data_option
@click.pass_context
def list_(ctx: click.Context, app_name: str | None, as_json: bool, data: str | None) -> None:
    """List rules; with --app that app's and the global ones."""
    from fazt.core.explain import describe

    with opened(ctx, data) as store:
        rules = store.rules.list(app_scope(store, app_name) if app_name else None)
        names = names_of(store)
    if as_json:
        print_json([{**describe(rule), "app": names.get(rule.scope)} for rule in rules])
        return
    if not rules:
        click.echo("No rules: nothing may be called.\nAllow a host: fazt net allow api.example.com")
        return
    rows = [_row(rule, names) for rule in rules]
    columns = ["Domain", "Scope", "Proto", "Port", "Methods", "Path", "Rate", "Burst", "Timeout", "MaxResp"]
    columns += ["CacheTTL", "Inject", "Addresses", "Created", "Id"]
    table(columns, rows)
    click.echo(f"\n{len(rules)} rule{'s' if len(rules) != 1 else ''}")


def _row(rule: Rule, names: dict[str, str]) -> list[str]:
    mark = "deny " if rule.action == "deny" else ""
    return [
        mark + rule.pattern,
        f"app:{names.get(rule.scope, rule.scope)}" if rule.scope else "global",
        "any" if rule.scheme == "*" else rule.scheme.upper(),
        str(rule.port or "any"),
        ",".join(sorted(rule.methods)) or "any",
        rule.path or "/",
        f"{rule.rate}/min" if rule.rate else "-",
        str(rule.burst or "-"),
        f"{rule.timeout_ms}ms" if rule.timeout_ms else "-",
        str(rule.max_response or "-"),
        f"{rule.cache_ttl}s" if rule.cache_ttl else "-",
        rule.inject or "-",
        ",".join(rule.addresses) or "-",
        when(rule.created_at)[:10],
        rule.id,
    ]


@net.command(epilog="\b\nExamples:\n  fazt net remove api.github.com\n  fazt net remove r_0123456789ab")
@click.argument("target")
@app_option
@json_option
@data_option
@click.pass_context
def remove(ctx: click.Context, target: str, app_name: str | None, as_json: bool, data: str | None) -> None:
    """Remove the rules of TARGET (a host pattern, an origin or a rule's id) in one scope."""
    from fazt.core.explain import describe
    from fazt.core.rules import expand_target

    with opened(ctx, data) as store:
        scope = app_scope(store, app_name) if app_name else ""
        if target.startswith("r_"):
            gone = store.rules.remove_ids([target], actor=actor())
        else:
            wanted = expand_target(target, scope=scope, action="deny")[0]  # a denial's pattern has no suffix refusals
            named = "://" in target
            gone = store.rules.remove(
                wanted.pattern,
                scope=scope,
                scheme=wanted.scheme if named else None,
                port=wanted.port if named else None,
                actor=actor(),
            )
    if as_json:
        print_json([describe(rule) for rule in gone])
    else:
        click.echo(f"Removed {len(gone)} rule{'s' if len(gone) != 1 else ''} of {gone[0].pattern}")


@net.command(epilog="\b\nExample:\n  fazt net check https://api.github.com/zen --app shop")
@click.argument("url")
@app_option
@click.option("-X", "--method", default="GET", metavar="M", help="Method (GET).")
@click.option("--auth", metavar="NAME", help="Secret the call would ask for.")
@net_options
@json_option
@data_option
@click.pass_context
def check(ctx: click.Context, url: str, **options: Any) -> int:
    """Say whether a call would be allowed: exit code 0 yes, 2 no. `fazt explain` says why."""
    from fazt.cli.explain import explained

    found = explained(ctx, url, **{key: value for key, value in options.items() if key != "as_json"})
    if options["as_json"]:
        print_json({"allowed": found.allowed, "reason": found.reason, "rule": found.rule and found.rule.id})
    else:
        click.echo("allowed" if found.allowed else f"refused: {found.reason}")
    return 0 if found.allowed else 2


def since_seconds(text: str | None) -> float | None:
    """Return the time that `--since` means: `90s`, `30m`, `24h`, `7d`, a date, or seconds since the epoch."""
    import datetime

    if text is None:
        return None
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    if text[:-1].isdigit() and text[-1:] in units:
        return time.time() - int(text[:-1]) * units[text[-1]]
    if text.isdigit():
        return float(text)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--since {text!r} is no time", hint="try 30m, 24h, 7d or 2026-01-31") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.timestamp()


@net.command(epilog="\b\nExamples:\n  fazt net logs --errors --since 1h\n  fazt net logs --app shop --json")
@app_option
@click.option("--domain", "--host", "host", metavar="HOST", help="Only calls to this host.")
@click.option("--errors", is_flag=True, help="Only calls that failed.")
@click.option("--since", metavar="WHEN", help="30m, 24h, 7d, or a date.")
@click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most so many.")
@json_option
@data_option
@click.pass_context
def logs(ctx: click.Context, app_name: str | None, as_json: bool, data: str | None, **query: Any) -> None:
    """List calls, newest first: one row per counted call, whatever became of it."""
    query["since"] = since_seconds(query["since"])
    with opened(ctx, data) as store:
        app = app_scope(store, app_name) if app_name else None
        records = [found.record for found in store.log.calls(app=app, **query)]
        names = names_of(store)
        dropped = store.log.dropped().get("calls", 0)
    if as_json:
        print_json([record.public() for record in records])
        return
    table(CALL_COLUMNS, [call_cells(record, names) for record in records], right=(6, 7))
    if dropped:
        click.echo(f"{dropped} calls were dropped because the log's buffer was full (net.log_buffer)", err=True)


CALL_COLUMNS = ["Time", "App", "Method", "Host", "Path", "Result", "ms", "Bytes", "Cache", "Call"]


def call_cells(record: Any, names: dict[str, str]) -> list[str]:
    """Return a call as cells of the log's table."""
    port = "" if record.port in (0, 80, 443) else f":{record.port}"
    result = f"{record.code} {record.reason}" if record.code else str(record.status or "-")
    if record.hop:
        result += f" (hop {record.hop})"
    return [
        when(record.ts),
        names.get(record.app, record.app) or "-",
        printable(record.method) or "-",
        printable(record.host + port) or "-",
        printable(record.path) or "-",
        result,
        f"{record.duration_ms:.1f}",
        str(record.response_bytes),
        record.cache or "-",
        record.call_id,
    ]


@net.command(epilog="\b\nExample:\n  fazt net stats --since 24h")
@app_option
@click.option("--since", metavar="WHEN", help="30m, 24h, 7d, or a date.")
@json_option
@data_option
@click.pass_context
def stats(ctx: click.Context, app_name: str | None, since: str | None, as_json: bool, data: str | None) -> None:
    """Show figures per host: calls, errors, cache hits, average duration."""
    with opened(ctx, data) as store:
        app = app_scope(store, app_name) if app_name else None
        found = store.log.stats(app=app, since=since_seconds(since))
    if as_json:
        print_json([{**_camel(asdict(entry)), "errorRate": round(entry.error_rate, 4)} for entry in found])
        return
    rows = [
        [entry.host or "-", str(entry.calls), f"{entry.error_rate:.1%}", f"{entry.average_ms:.1f}", str(entry.cache_hits)]
        for entry in found
    ]
    table(["Domain", "Calls", "Errors", "Average ms", "Cache hits"], rows, right=(1, 2, 3, 4))


def _camel(values: dict[str, Any]) -> dict[str, Any]:
    out = {}
    for name, value in values.items():
        head, *rest = name.split("_")
        out[head + "".join(part.title() for part in rest)] = value
    return out


@net.group()
def cache() -> None:
    """The response cache of the running server."""


@cache.command(name="stats", epilog="\b\nExample:\n  fazt net cache stats")
@json_option
@data_option
@click.pass_context
def cache_stats(ctx: click.Context, as_json: bool, data: str | None) -> None:
    """Show what the running server keeps."""
    from fazt.cli.admin import request

    found = request(settings(ctx, data), "GET", "/api/system/cache")
    if as_json:
        print_json(found)
    else:
        table(["", ""], [[str(name), str(value)] for name, value in found.items()])


@cache.command(epilog="\b\nExamples:\n  fazt net cache clear\n  fazt net cache clear --app shop")
@app_option
@json_option
@data_option
@click.pass_context
def clear(ctx: click.Context, app_name: str | None, as_json: bool, data: str | None) -> None:
    """Drop what the running server keeps."""
    from urllib.parse import quote

    from fazt.cli.admin import request

    with opened(ctx, data) as store:
        scope = app_scope(store, app_name) if app_name else ""
    query = f"?app={quote(scope)}" if scope else ""
    found = request(settings(ctx, data), "DELETE", f"/api/system/cache{query}")
    if as_json:
        print_json(found)
    else:
        click.echo(f"dropped {found.get('removed', 0)} responses")
