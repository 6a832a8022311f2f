"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import contextlib
import datetime
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fazt.cli.base import Group, data_dir
from fazt.cli.output import note, warn
from fazt.errors import ConfigError, FaztError, OperatorError

if TYPE_CHECKING:
    from fazt.config import Settings
    from fazt.stores.sqlite.store import Store

F = TypeVar("F", bound=Callable[..., Any])
_APP_ID = re.compile(r"fazt_app_[0-9A-Za-z]{12}")


def data_option(command: F) -> F:
    """Add `--data DIR`, which every command takes."""
    return click.option("--data", metavar="DIR", callback=data_dir, help="Data directory (FAZT_DATA).")(command)


def json_option(command: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def net_options(command: F) -> F:
    """Add `--resolve` and `--ca-file`, for commands that reach the network."""
    command = click.option(
        "--ca-file",
        "ca_files",
        multiple=True,
        metavar="PEM",
        help="Trust these roots beside the system's (FAZT_CA_FILE). Repeatable.",
    )(command)
    return click.option(
        "--resolve",
        multiple=True,
        metavar="HOST=ADDR[,ADDR]",
        help="Static name, judged like any DNS answer; wins over FAZT_RESOLVE. Repeatable.",
    )(command)


def app_option(command: F) -> F:
    """Add `--app`, a name or an id."""
    return _app_option(required=False)(command)


def required_app_option(command: F) -> F:
    """Add `--app`, which must be given."""
    return _app_option(required=True)(command)


def _app_option(*, required: bool) -> Callable[[F], F]:
    return click.option(
        "--app",
        "app_name",
        metavar="APP",
        required=required,
        callback=_not_empty,
        shell_complete=complete_app,
        help="Name or id of an app.",
    )


def _not_empty(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value == "":  # an unset variable in a script must not become "all apps"
        raise click.BadParameter("it is empty")
    return value


def group(name: str, text: str) -> Group:
    """Make a command group that takes `--data` too."""

    @click.group(name=name, cls=Group, help=text)
    @data_option
    @click.pass_context
    def made(ctx: click.Context, data: str | None) -> None:
        if data is not None:
            ctx.find_root().obj = {"data": data}

    assert isinstance(made, Group)
    return made


def settings(ctx: click.Context, data: str | None, **flags: Any) -> Settings:
    """Return the settings of this run from the flags of the command, the root's, the environment and the file."""
    from fazt import config

    resolve = flags.pop("resolve", ()) or ()
    return config.load(
        data=given_data(ctx, data),
        resolve=" ".join(resolve),
        ca_files=tuple(flags.pop("ca_files", ()) or ()),
        **flags,
    )


def given_data(ctx: click.Context, data: str | None) -> str | None:
    """Return what `--data` says, wherever it stands; None when it was not given."""
    root: dict[str, str | None] = ctx.find_root().obj or {}
    return data or root.get("data")


@contextlib.contextmanager
def opened(ctx: click.Context, data: str | None) -> Iterator[Store]:
    """Open the data directory for one command; warn of what its owner should know; flush and close at the end."""
    with opened_for(settings(ctx, data)) as store:
        yield store


@contextlib.contextmanager
def opened_for(chosen: Settings) -> Iterator[Store]:
    """As `opened`, for settings that are there already."""
    from fazt.app import open_store

    with open_store(chosen) as store:
        yield store
        for warning in store.warnings:
            warn(warning)


def app_scope(store: Store, name: str | None, *, create: bool = False) -> str:
    """Return the id of the app that `--app` names ("" without one).

    With `create` an unknown name makes the app's record, which is said on stderr; else it is an error.
    """
    if name is None:
        return ""
    if not create:
        return store.apps.get(name).id
    meta, made = store.apps.ensure(name, actor=actor())
    if made:
        note(f"created the app {meta.name} ({meta.id})")
    return meta.id


def app_filter(store: Store, name: str | None) -> str | None:
    """Return the id that a listing is narrowed to, None for all; also of an app that was removed."""
    if name is None or (_APP_ID.fullmatch(name) and store.apps.find(name) is None):
        return name
    return store.apps.get(name).id


def scope_name(names: dict[str, str], scope: str) -> str:
    """Return a scope as listings show it."""
    return f"app:{names.get(scope, scope)}" if scope else "global"


def actor() -> str:
    """Return who types, for the activity table."""
    import getpass

    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return "cli"


def names_of(store: Store) -> dict[str, str]:
    """Return app ids with the names people know them by."""
    return {info.id: info.name for info in store.apps.list()}


def complete_app(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of apps."""
    try:
        chosen = settings(ctx, ctx.params.get("data"))
        if not (chosen.data / "policy.db").exists():
            return []
        with opened_for(chosen) as store:
            return [info.name for info in store.apps.list() if info.name.startswith(incomplete)]
    except (OperatorError, OSError):
        return []


def since_seconds(text: str | None) -> float | None:
    """Return the time that `--since` means: `90s`, `30m`, `24h`, `7d`, a date, or seconds since the epoch."""
    if text is None:
        return None
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if match is not None:
        return time.time() - int(match[1]) * units[match[2]]
    if re.fullmatch(r"[0-9]{9,12}", text):
        return float(text)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--since {text!r} is no time", hint="try 30m, 24h, 7d or 2026-01-31") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.timestamp()


def host_option(text: str | None) -> str | None:
    """Return the canonical form of a host that narrows a listing."""
    if text is None:
        return None
    from fazt.core.url import parse_host

    try:
        return parse_host(text)
    except FaztError as refused:
        raise ConfigError(f"{text!r} is not a host name: {refused.message}") from None


def read_stdin() -> bytes:
    """Read all of stdin."""
    return sys.stdin.buffer.read()


def body_option(text: str | None) -> bytes | None:
    """Return the bytes that `-d` stands for: the text itself, `@FILE`, or `@-` for stdin."""
    if text is None:
        return None
    if text == "@-":
        return read_stdin()
    if text.startswith("@"):
        try:
            with open(text[1:], "rb") as file:
                return file.read()
        except OSError as fault:
            raise ConfigError(f"cannot read the body from {text[1:]!r}: {fault.strerror}") from None
    return text.encode("utf-8", "surrogateescape")


def header_options(texts: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return fields given as `NAME: VALUE`."""
    fields = []
    for text in texts:
        name, mark, value = text.partition(":")
        if not mark or not name.strip():
            raise ConfigError("-H takes NAME: VALUE", hint="-H 'accept: application/json'")  # may be a credential
        fields.append((name.strip(), value.strip()))
    return tuple(fields)
