"""`fazt env`: plain settings that an app may read."""

from __future__ import annotations

import re
import sys

import click

from fazt.cli.options import (
    actor,
    app_scope,
    data_option,
    group,
    json_option,
    opened,
    read_stdin,
    required_app_option,
)
from fazt.cli.output import examples, note, print_json, printable, say, table, warn
from fazt.errors import ConfigError

env = group("env", "Plain settings that an app may read as fazt.env; what is not for its eyes is a secret.")
_CREDENTIAL = re.compile(r"(?:SECRET|PASSWORD|PASSWD|TOKEN|API_?KEY|PRIVATE_?KEY)", re.IGNORECASE)


@env.command(
    name="set",
    epilog=examples(
        "fazt env set REGION eu-west-1 --app shop",
        "fazt env set BANNER - --app shop < banner.txt",
    ),
)
@click.argument("name")
@click.argument("value", required=False)
@required_app_option
@json_option
@data_option
@click.pass_context
def set_(ctx: click.Context, name: str, value: str | None, app_name: str, as_json: bool, data: str | None) -> None:
    """Set a setting of an app. Without VALUE, or with -, it is read from stdin, less one line break at its end.

    An unknown app's record is made, so that settings may come before the first deploy.
    """
    from fazt.stores.sqlite.apps import MAX_ENV_VALUE, check_env_name

    check_env_name(name)
    text = _from_stdin() if value is None or value == "-" else value
    if len(text) > MAX_ENV_VALUE or "\0" in text or not _text(text):
        raise ConfigError(f"the value of {name} is too long or no text")  # before an app's record is made
    with opened(ctx, data) as store:
        scope = app_scope(store, app_name, create=True)
        store.apps.set_env(scope, {name: text}, actor=actor())
        shown = store.apps.get(scope).name
    if as_json:
        print_json({"name": name, "app": shown})
    else:
        say(f"Set {name} for {shown}")
    if _CREDENTIAL.search(name):
        warn(
            f"the code of {shown} can read {name}; what only upstreams should see is a secret: "
            f"fazt secret set {name} --domain HOST --app {shown}"
        )


def _text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _from_stdin() -> str:
    if sys.stdin.isatty():
        note("reading the value from the terminal; end with Ctrl-D")
    try:
        text = read_stdin().decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError("the value on stdin is not UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")


@env.command(name="list", epilog=examples("fazt env list --app shop --json"))
@required_app_option
@json_option
@data_option
@click.pass_context
def list_(ctx: click.Context, app_name: str, as_json: bool, data: str | None) -> None:
    """List the settings of an app."""
    with opened(ctx, data) as store:
        info = store.apps.get(app_name)
        values = store.apps.env(info.id)
    if as_json:
        print_json([{"name": name, "value": value} for name, value in values.items()])
        return
    if not values:
        note(f"{info.name} has no settings: fazt env set NAME VALUE --app {info.name}")
        return
    table(["Name", "Value"], [[name, printable(value)] for name, value in values.items()])


@env.command(epilog=examples("fazt env remove REGION --app shop"))
@click.argument("name")
@required_app_option
@json_option
@data_option
@click.pass_context
def remove(ctx: click.Context, name: str, app_name: str, as_json: bool, data: str | None) -> None:
    """Remove a setting of an app."""
    with opened(ctx, data) as store:
        info = store.apps.get(app_name)
        store.apps.remove_env(info.id, name, actor=actor())
    if as_json:
        print_json({"name": name, "app": info.name})
    else:
        say(f"Removed {name} from {info.name}")
