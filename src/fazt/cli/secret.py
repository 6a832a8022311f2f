"""`fazt secret`: values that calls may carry and that code, logs and this command line never show."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

import click

from fazt.cli.options import (
    actor,
    app_option,
    app_scope,
    data_option,
    group,
    json_option,
    names_of,
    opened,
    read_stdin,
    scope_name,
)
from fazt.cli.output import examples, note, plural, print_json, say, table, warn, when
from fazt.errors import ConfigError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from fazt.core.policy import SecretMeta
    from fazt.stores.sqlite.secret_rows import NewSecret
    from fazt.stores.sqlite.store import Store

secret = group("secret", "Secrets that calls may carry: sent to the hosts you name, over https, and never shown again.")


_COLUMNS = ("scope", "name", "kind", "key", "domains", "any_domain", "version")


class _Silent(click.Command):
    """A command whose usage errors repeat nothing that was typed: it may be a value in the wrong place."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption:
            raise click.UsageError(
                "an option is unknown, and not repeated here since it may be part of a value; "
                "a value that begins with a hyphen goes through stdin",
                ctx=ctx,
            ) from None
        except click.MissingParameter:
            raise
        except click.BadParameter as wrong:
            name = wrong.param.opts[-1] if wrong.param is not None else "an option"
            choices = wrong.param.type.choices if wrong.param and isinstance(wrong.param.type, click.Choice) else ()
            said = f" takes {', '.join(choices)}" if choices else " cannot have this value"
            raise click.UsageError(f"{name}{said}", ctx=ctx) from None
        except click.UsageError as wrong:
            if "unexpected extra" in wrong.message:
                raise click.UsageError(
                    "there are more arguments than NAME and VALUE; quote a value with spaces, or give it on stdin",
                    ctx=ctx,
                ) from None
            raise


def _place_options(command: Any) -> Any:
    for option in (
        click.option("--key", metavar="K", help="Name of the header or query parameter."),
        click.option("--as", "kind", type=click.Choice(["bearer", "header", "query"]), help="How it is sent (bearer)."),
        click.option("--any-domain", is_flag=True, help="Send it to every host that a rule allows."),
        click.option("--domain", "domains", multiple=True, metavar="HOST", help="Send it to this host. Repeatable."),
        app_option,
    ):
        command = option(command)
    return command


@secret.command(
    name="set",
    cls=_Silent,
    epilog=examples(
        "fazt secret set GITHUB_TOKEN --domain api.github.com",
        'printf %s "$KEY" | fazt secret set SHOP_KEY --domain api.example.com --app shop',
        "fazt secret set MAPS_KEY - --domain maps.example.com --as query --key key < key.txt",
        "fazt secret set SHOP_KEY --domain '*.example.com' --as header --key X-API-Key --app shop",
    ),
)
@click.argument("name")
@click.argument("value", required=False)
@_place_options
@json_option
@data_option
@click.pass_context
def set_(
    ctx: click.Context,
    name: str,
    value: str | None,
    app_name: str | None,
    domains: tuple[str, ...],
    any_domain: bool,
    kind: str | None,
    key: str | None,
    as_json: bool,
    data: str | None,
) -> None:
    """Store a secret. Without VALUE it is asked for on a terminal, else read from stdin less one line break.

    A secret needs at least one --domain it may be sent to (or --any-domain). A domain covers every granted port of
    that host. Setting it again replaces the value and keeps what is not named.
    """
    from fazt.stores.sqlite.secret_rows import NewSecret

    _check_name(name)

    def made(text: str, scope: str) -> NewSecret:
        return NewSecret(name, text, scope, domains or None, any_domain=any_domain, kind=kind, key=key)

    with opened(ctx, data) as store:
        _check(store, made("x" * 12, ""), app_name)  # before the value is asked for, and before an app's record is made
        if value is not None and value != "-":
            warn("a value given as an argument stays in the shell's history; give it on stdin instead")
        text = _asked(name) if value is None or value == "-" else value
        _check(store, made(text, ""), app_name)
        scope = app_scope(store, app_name, create=True)
        meta = store.secrets.set(made(text, scope), actor=actor())
        names = names_of(store)
    if as_json:
        print_json(_dict(meta, names))
    else:
        say(f"Stored {meta.name} ({_place(meta)}, {scope_name(names, meta.scope)}) for {_hosts(meta)}")
    _tell_short(meta.name, text)


def _check_name(name: str) -> None:
    """Refuse a name before anything else, without repeating it: name and value are easily mixed up."""
    from fazt.stores.sqlite.secret_rows import NewSecret, check_secret

    try:
        check_secret(NewSecret(name, "x"))
    except ConfigError as error:
        raise ConfigError("NAME cannot be the name of a secret", hint=error.hint) from None


def _check(store: Store, new: NewSecret, app_name: str | None) -> None:
    """Check a secret as the store will, with what the store keeps of an older one of the same name."""
    from fazt.stores.sqlite.secret_rows import check_secret, columns, meta_for

    check_secret(new)
    app = store.apps.find(app_name) if app_name is not None else None
    scope = "" if app_name is None else app.id if app is not None else None
    row = None
    if scope is not None:
        metas = (info.meta for info in store.secrets.list(scope))
        old = next((meta for meta in metas if (meta.scope, meta.name) == (scope, new.name)), None)
        row = None if old is None else dict(zip(_COLUMNS, columns(old), strict=True))
    meta_for(new, cast("sqlite3.Row | None", row), 0)


def _asked(name: str) -> str:
    if sys.stdin.isatty():
        value: str = click.prompt(f"Value of {name}", hide_input=True, err=True)
        return value
    return _less_line_break(_decoded(read_stdin()))


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError("what came on stdin is not UTF-8") from None


def _less_line_break(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r")


def _tell_short(name: str, value: str) -> None:
    from fazt.core.scrub import MIN_BYTES

    if len(value.encode()) < MIN_BYTES:
        note(
            f"{name} is shorter than {MIN_BYTES} bytes: should an upstream echo it, the response is not scrubbed of it"
        )


def _place(meta: SecretMeta) -> str:
    return meta.kind if meta.kind == "bearer" else f"{meta.kind} {meta.key}"


def _hosts(meta: SecretMeta) -> str:
    return "every allowed host" if meta.any_domain else ", ".join(meta.domains)


def _dict(meta: SecretMeta, names: dict[str, str]) -> dict[str, Any]:
    return {
        "name": meta.name,
        "as": meta.kind,
        "key": meta.key or None,
        "scope": meta.scope,
        "app": names.get(meta.scope, meta.scope or None),
        "domains": list(meta.domains),
        "anyDomain": meta.any_domain,
    }


@secret.command(
    name="list",
    short_help="List secrets, values masked.",
    epilog=examples("fazt secret list", "fazt secret list --app shop --json"),
)
@app_option
@json_option
@data_option
@click.pass_context
def list_(ctx: click.Context, app_name: str | None, as_json: bool, data: str | None) -> None:
    """List secrets, values masked; with --app that app's and the global ones."""
    with opened(ctx, data) as store:
        found = store.secrets.list(None if app_name is None else app_scope(store, app_name))
        names = names_of(store)
    if as_json:
        print_json(
            [
                {
                    **_dict(info.meta, names),
                    "masked": info.masked,
                    "createdAt": info.created_at,
                    "updatedAt": info.updated_at,
                }
                for info in found
            ]
        )
        return
    if not found:
        say("No secrets.\nStore one: fazt secret set NAME --domain HOST")
        return
    rows = [
        [
            info.meta.name,
            info.masked or "(unreadable)",
            _place(info.meta),
            scope_name(names, info.meta.scope),
            "*" if info.meta.any_domain else ",".join(info.meta.domains),
            when(info.updated_at),
        ]
        for info in found
    ]
    table(["Name", "Value", "Type", "Scope", "Domain", "Set"], rows)
    say(f"\n{plural(len(found), 'secret')}")
    if any(info.masked is None for info in found):
        warn("the key does not fit, so that the values marked unreadable cannot be sent")


@secret.command(
    cls=_Silent, epilog=examples("fazt secret remove GITHUB_TOKEN", "fazt secret remove SHOP_KEY --app shop")
)
@click.argument("name")
@app_option
@json_option
@data_option
@click.pass_context
def remove(ctx: click.Context, name: str, app_name: str | None, as_json: bool, data: str | None) -> None:
    """Remove a secret of one scope: global, or that of the app."""
    _check_name(name)
    with opened(ctx, data) as store:
        scope = app_scope(store, app_name)
        store.secrets.remove(name, scope=scope, actor=actor())
        names = names_of(store)
    if as_json:
        print_json({"name": name, "scope": scope, "app": names.get(scope)})
    else:
        say(f"Removed {name} ({scope_name(names, scope)})")


@secret.command(
    name="import",
    short_help="Store the secrets of a file, all or none.",
    cls=_Silent,
    epilog=examples(
        "fazt secret import keys.env --domain api.example.com --app shop",
        "fazt secret import - --domain '*.example.com' < keys.json",
    ),
)
@click.argument("file", required=False)
@_place_options
@json_option
@data_option
@click.pass_context
def import_(
    ctx: click.Context,
    file: str | None,
    app_name: str | None,
    domains: tuple[str, ...],
    any_domain: bool,
    kind: str | None,
    key: str | None,
    as_json: bool,
    data: str | None,
) -> None:
    """Store the secrets of FILE (or stdin), all or none: NAME=VALUE lines as in .env, or one JSON object.

    All of them get the same domains, scope and place.
    """
    from fazt.cli.secret_file import read_secrets
    from fazt.stores.sqlite.secret_rows import NewSecret

    values = read_secrets(_content(file))

    def made(scope: str) -> Sequence[NewSecret]:
        return [
            NewSecret(name, text, scope, domains or None, any_domain=any_domain, kind=kind, key=key)
            for name, text in values.items()
        ]

    with opened(ctx, data) as store:
        for new in made(""):
            try:
                _check(store, new, app_name)
            except ConfigError as error:
                raise ConfigError(f"{new.name}: {error.message}", hint=error.hint) from None
        scope = app_scope(store, app_name, create=True)
        metas = store.secrets.set_many(made(scope), actor=actor())
        names = names_of(store)
    if as_json:
        print_json([_dict(meta, names) for meta in metas])
    else:
        for meta in metas:
            say(f"Stored {meta.name} ({_place(meta)}, {scope_name(names, meta.scope)}) for {_hosts(meta)}")
    for name, text in values.items():
        _tell_short(name, text)


def _content(file: str | None) -> str:
    if file is None or file == "-":
        return _decoded(read_stdin())
    try:
        with open(file, "rb") as opened_file:
            return _decoded(opened_file.read())
    except OSError as fault:
        raise ConfigError(f"the file cannot be read: {fault.strerror}", hint="fazt secret import FILE") from None


@secret.command(epilog=examples("fazt secret rekey"))
@json_option
@data_option
@click.pass_context
def rekey(ctx: click.Context, as_json: bool, data: str | None) -> None:
    """Seal every secret with a new key. Running servers go on without a pause."""
    with opened(ctx, data) as store:
        count = store.secrets.rekey(actor=actor())
    if as_json:
        print_json({"secrets": count})
    else:
        say(f"Sealed {plural(count, 'secret')} with a new key")
