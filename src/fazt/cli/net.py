"""`fazt net`: rules, and the log of calls."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from fazt.cli import netlog
from fazt.cli.options import (
    actor,
    app_filter,
    app_option,
    app_scope,
    data_option,
    group,
    json_option,
    names_of,
    net_options,
    opened,
    scope_name,
    settings,
)
from fazt.cli.output import examples, note, plural, print_json, say, table, warn, when
from fazt.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fazt.core.rules import Rule
    from fazt.stores.sqlite.store import Store

net = group("net", "Rules that say where calls may go, and the log of calls.")
net.add_command(netlog.logs)
net.add_command(netlog.stats)
_RULE_ID = re.compile(r"r_[0-9a-f]{12}")


def _target_options(command: Any) -> Any:
    for option in (
        click.option("--path", "paths", multiple=True, metavar="PREFIX", help="Only paths below this one. Repeatable."),
        click.option("--method", "methods", multiple=True, metavar="M", help="Only this method. Repeatable."),
        click.option("--port", "ports", multiple=True, type=int, metavar="N", help="This port instead. Repeatable."),
    ):
        command = option(command)
    return command


@net.command(
    short_help="Allow calls to a host.",
    epilog=examples(
        "fazt net allow api.github.com",
        "fazt net allow '*.example.com' --app shop --rate 60",
        "fazt net allow https://intranet.example:8443 --address 10.1.2.0/24 --method GET --path /v1",
        "fazt net allow api.github.com --rate 0",
    ),
)
@click.argument("target")
@app_option
@_target_options
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="CIDR",
    help="Private range it may resolve to. Repeatable; 'none' takes them back.",
)
@click.option("--http", "--no-https", "http", is_flag=True, help="Allow plain http beside https.")
@click.option("--rate", type=int, metavar="N", help="Requests a minute (0: the default).")
@click.option("--burst", type=int, metavar="N", help="Requests that may come at once (0: the default).")
@click.option("--timeout", "timeout_ms", type=int, metavar="MS", help="Time limit of a call (0: the default).")
@click.option("--max-response", type=int, metavar="BYTES", help="Largest response body (0: the default).")
@click.option("--cache-ttl", type=int, metavar="S", help="Keep responses that long (0: don't).")
@click.option("--inject", metavar="NAME", help="Send this secret with every call ('' to stop).")
@click.option("--shared-suffix", is_flag=True, help="Allow a wildcard over a suffix that strangers share.")
@click.option(
    "--path-encoded-slash/--no-path-encoded-slash", default=None, help="Let %2f in a path count as a slash, or not."
)
@json_option
@data_option
@click.pass_context
def allow(
    ctx: click.Context, /, target: str, app_name: str | None, as_json: bool, data: str | None, **given: Any
) -> None:
    """Allow calls to TARGET: DOMAIN, *.DOMAIN, or an origin such as https://host:8443.

    DOMAIN means https on port 443. Running it again with other settings changes those and keeps the rest.
    """
    from fazt.core import rules as rules_of

    given["addresses"] = given["addresses"] or None
    rules_of.expand_target(target, scope="", **given)  # a target that cannot be used makes no app either
    named = rules_of.given(given)
    with opened(ctx, data) as store:
        scope = app_scope(store, app_name, create=True)
        stored = store.rules.allow(rules_of.expand_target(target, scope=scope, **given), named, actor=actor())
        _say_stored(store, stored, as_json, verb="Allowed")
        for text in _without_effect(store, stored[0], named):
            warn(text)


@net.command(epilog=examples("fazt net deny tracker.example", "fazt net deny '*.internal.example' --app shop"))
@click.argument("target")
@app_option
@_target_options
@json_option
@data_option
@click.pass_context
def deny(
    ctx: click.Context, /, target: str, app_name: str | None, as_json: bool, data: str | None, **given: Any
) -> None:
    """Deny calls to TARGET, whatever is allowed. A bare DOMAIN denies every scheme and port."""
    from fazt.core.rules import expand_target

    expand_target(target, scope="", action="deny", **given)
    with opened(ctx, data) as store:
        scope = app_scope(store, app_name, create=True)
        stored = store.rules.deny(expand_target(target, scope=scope, action="deny", **given), actor=actor())
        _say_stored(store, stored, as_json, verb="Denied")


def _without_effect(store: Store, rule: Rule, named: frozenset[str]) -> list[str]:
    """Return what to tell of settings that cannot take effect as things are (F22)."""
    limits = store.limits.show(rule.scope)
    found = []
    if "cache_ttl" in named and rule.cache_ttl:
        if not (limits.net.cache_max_items and limits.net.cache_max_bytes):
            found.append(
                "--cache-ttl has no effect while the cache is off; switch it on: "
                "fazt limits set net.cache_max_items 1000 && fazt limits set net.cache_max_bytes 10485760"
            )
        elif rule.inject:
            found.append("--cache-ttl has no effect: responses to calls that carry a secret are never kept")
        elif rule.methods and not rule.methods & {"GET", "HEAD"}:
            found.append("--cache-ttl has no effect: only GET and HEAD are kept")
    if "burst" in named and rule.burst and not rule.rate and not limits.net.rate_limit:
        found.append("--burst has no effect without a rate: add --rate N")
    if "timeout_ms" in named and rule.timeout_ms > limits.net.call_timeout:
        found.append(
            f"--timeout {rule.timeout_ms} is more than net.call_timeout lets an app wait ({limits.net.call_timeout} ms)"
        )
    if "max_response" in named:
        from fazt.core.limits import HARD_MAX_RESPONSE

        if rule.max_response > HARD_MAX_RESPONSE:
            found.append(f"--max-response: an app never gets more than {HARD_MAX_RESPONSE} bytes")
    if rule.inject and "inject" in named:
        known = [info.meta for info in store.secrets.list(rule.scope) if info.meta.name == rule.inject]
        if not any(meta.scope in ("", rule.scope) for meta in known):
            scope = f" --app {store.apps.get(rule.scope).name}" if rule.scope else ""
            found.append(
                f"there is no secret {rule.inject} yet: fazt secret set {rule.inject} --domain {rule.pattern}{scope}"
            )
    return found


def _say_stored(store: Store, stored: Sequence[Rule], as_json: bool, *, verb: str) -> None:
    names = names_of(store)
    if as_json:
        print_json([_dict(rule, names) for rule in stored])
        return
    schemes = sorted({rule.scheme.upper() for rule in stored})
    proto = "any protocol" if "*" in schemes else "+".join(schemes)
    say(f"{verb} {stored[0].pattern} ({proto}, {scope_name(names, stored[0].scope)})")
    for rule in stored:
        say(f"  {rule.id}  {describe_rule(rule)}")


def describe_rule(rule: Rule) -> str:
    """Return a rule and its settings in one line."""
    words = [",".join(sorted(rule.methods)) or "any method", f"{rule.origin}{rule.path}"]
    shown = {
        "rate": f"{rule.rate}/min" if rule.rate else "",
        "burst": rule.burst,
        "timeout": f"{rule.timeout_ms} ms" if rule.timeout_ms else "",
        "max response": f"{rule.max_response} B" if rule.max_response else "",
        "cache": f"{rule.cache_ttl} s" if rule.cache_ttl else "",
        "inject": rule.inject,
        "addresses": ", ".join(rule.addresses),
        "%2f": "is a slash" if rule.path_encoded_slash else "",
    }
    return "; ".join([" ".join(words), *(f"{name} {value}" for name, value in shown.items() if value)])


def _dict(rule: Rule, names: dict[str, str]) -> dict[str, Any]:
    from fazt.core.explain import describe

    return {**describe(rule), "app": names.get(rule.scope, rule.scope or None)}


@net.command(name="list", epilog=examples("fazt net list", "fazt net list --app shop --json"))
@app_option
@json_option
@data_option
@click.pass_context
def list_(ctx: click.Context, app_name: str | None, as_json: bool, data: str | None) -> None:
    """List rules; with --app that app's and the global ones."""
    with opened(ctx, data) as store:
        rules = store.rules.list(None if app_name is None else app_scope(store, app_name))
        names = names_of(store)
    if as_json:
        print_json([_dict(rule, names) for rule in rules])
        return
    if not rules:
        say("No rules: nothing may be called.\nAllow a host: fazt net allow api.example.com")
        return
    columns = ["Domain", "Scope", "Proto", "Port", "Methods", "Path", "Rate", "Burst", "Timeout", "MaxResp"]
    columns += ["CacheTTL", "Inject", "Addresses", "Created", "Id"]
    table(columns, [_row(rule, names) for rule in rules])
    say(f"\n{plural(len(rules), 'rule')}")


def _row(rule: Rule, names: dict[str, str]) -> list[str]:
    return [
        ("deny " if rule.action == "deny" else "") + rule.pattern,
        scope_name(names, rule.scope),
        "any" if rule.scheme == "*" else rule.scheme.upper(),
        str(rule.port or "any"),
        ",".join(sorted(rule.methods)) or "any",
        (rule.path or "/") + (" (%2f is /)" if rule.path_encoded_slash else ""),
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


@net.command(
    short_help="Remove rules.",
    epilog=examples(
        "fazt net remove api.github.com",
        "fazt net remove '*.example.com' --app shop",
        "fazt net remove r_0123456789ab",
    ),
)
@click.argument("target")
@app_option
@json_option
@data_option
@click.pass_context
def remove(ctx: click.Context, target: str, app_name: str | None, as_json: bool, data: str | None) -> None:
    """Remove the rules of TARGET in one scope: a host with all its rules, one origin, or one rule by its id."""
    from fazt.core.rules import ANY_PORT, ANY_SCHEME, expand_target

    by_id = _RULE_ID.fullmatch(target) is not None
    if by_id and app_name is not None:
        raise ConfigError("a rule's id names its app already", hint=f"fazt net remove {target}")
    # Read as a denial, which has no suffix refusals and leaves open what was not named.
    wanted = None if by_id else expand_target(target, scope="", action="deny")[0]
    with opened(ctx, data) as store:
        if wanted is None:
            gone = store.rules.remove_ids([target], actor=actor())
        else:
            gone = store.rules.remove(
                wanted.pattern,
                scope=app_scope(store, app_name),
                scheme=None if wanted.scheme == ANY_SCHEME else wanted.scheme,
                port=None if wanted.port == ANY_PORT else wanted.port,
                actor=actor(),
            )
        names = names_of(store)
    if as_json:
        print_json([_dict(rule, names) for rule in gone])
    else:
        say(f"Removed {plural(len(gone), 'rule')} of {gone[0].pattern} ({scope_name(names, gone[0].scope)})")


@net.command(
    short_help="Say by exit code whether a call would be allowed.",
    epilog=examples(
        "fazt net check https://api.github.com/zen --app shop",
        "fazt net check https://api.example.com/v1/orders -X POST --auth SHOP_KEY --json",
    ),
)
@click.argument("url")
@app_option
@click.option("-X", "--method", default="GET", metavar="M", help="Method (GET).")
@click.option("--auth", metavar="NAME", help="Secret the call would ask for.")
@net_options
@json_option
@data_option
@click.pass_context
def check(ctx: click.Context, /, url: str, as_json: bool, data: str | None, **options: Any) -> int:
    """Say whether a call would be allowed: exit code 0 yes, 2 no. `fazt explain` says why."""
    from fazt.cli.explain import explained

    found = explained(ctx, url, data=data, **options)
    if as_json:
        print_json({"allowed": found.allowed, "reason": found.reason, "rule": found.rule.id if found.rule else None})
    else:
        say("allowed" if found.allowed else f"refused: {found.reason}")
    return 0 if found.allowed else 2


cache = group("cache", "The response cache of the running server.")
net.add_command(cache)


@cache.command(name="stats", epilog=examples("fazt net cache stats"))
@json_option
@data_option
@click.pass_context
def cache_stats(ctx: click.Context, as_json: bool, data: str | None) -> None:
    """Show what the running server keeps."""
    from fazt.cli.admin import request

    found = request(settings(ctx, data), "GET", "/api/system/cache")
    if as_json:
        print_json(found)
        return
    table(["Figure", "Value"], [[str(name).replace("_", " "), str(value)] for name, value in found.items()], right=(1,))
    if not found.get("max_items") or not found.get("max_bytes"):
        note("the cache is off: fazt limits set net.cache_max_items 1000, and net.cache_max_bytes 10485760")


@cache.command(epilog=examples("fazt net cache clear", "fazt net cache clear --app shop"))
@app_option
@json_option
@data_option
@click.pass_context
def clear(ctx: click.Context, app_name: str | None, as_json: bool, data: str | None) -> None:
    """Drop what the running server keeps, of all apps or of one."""
    from urllib.parse import quote

    from fazt.cli.admin import request

    with opened(ctx, data) as store:
        scope = app_filter(store, app_name)
    query = f"?app={quote(scope)}" if scope else ""
    found = request(settings(ctx, data), "DELETE", f"/api/system/cache{query}")
    if as_json:
        print_json(found)
    else:
        say(f"Dropped {plural(int(found.get('removed', 0)), 'response')}")
