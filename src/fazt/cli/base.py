"""What every command shares: the lazy root group, options, output, and the exit codes of the contract.

Exit codes: 0 success or a response of any status, 2 a coded refusal or failure of a call, 1 usage, configuration or
store, 130 on Ctrl-C. Results go to stdout, diagnostics to stderr.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fazt.errors import FaztError, OperatorError

if TYPE_CHECKING:
    from fazt.config import Settings
    from fazt.stores.sqlite.store import Store

F = TypeVar("F", bound=Callable[..., Any])

COMMANDS: dict[str, tuple[str, str]] = {
    "fetch": ("fazt.cli.fetch:fetch", "Make one call through the whole pipeline."),
    "net": ("fazt.cli.net:net", "Rules, and the log of calls."),
    "secret": ("fazt.cli.secret:secret", "Secrets that calls may carry and code cannot read."),
    "app": ("fazt.cli.app:app", "Deploy and look after JavaScript apps."),
    "env": ("fazt.cli.env:env", "Plain settings that an app may read."),
    "limits": ("fazt.cli.limits:limits", "Limits: show, set, describe."),
    "explain": ("fazt.cli.explain:explain", "Why a call is or was allowed or refused."),
    "log": ("fazt.cli.log:log", "Calls and console lines, live."),
    "serve": ("fazt.cli.serve:serve", "Serve the deployed apps and the admin API."),
    "demo": ("fazt.cli.demo:demo", "Watch a deployed app call out, and what it may not do."),
    "completion": ("fazt.cli.completion:completion", "Print the line that switches on tab completion."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported only when they run, so that `fazt --help` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and (close := _closest(args[0], COMMANDS)):
            ctx.fail(f"No such command '{args[0]}'. Did you mean '{close}'?")
        return super().resolve_command(ctx, args)


def _closest(word: str, words: Iterable[str]) -> str | None:
    import difflib

    return next(iter(difflib.get_close_matches(word, list(words), n=1)), None)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nStart here:\n  fazt demo\n  fazt net allow api.github.com\n  fazt fetch https://api.github.com/zen",
)
@click.option("--data", metavar="DIR", help="Data directory (FAZT_DATA, default ~/.fazt).")
@click.version_option(package_name="fazt-net", prog_name="fazt")
@click.pass_context
def root(ctx: click.Context, data: str | None) -> None:
    """Safe outbound HTTP for code you don't fully trust, and for your own Python."""
    ctx.obj = {"data": data}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    color = False if os.environ.get("NO_COLOR") else None  # no-color.org
    args = list(argv) if argv is not None else None
    try:
        result = root.main(args=args, prog_name="fazt", standalone_mode=False, color=color)
    except click.exceptions.NoArgsIsHelpError as help_text:
        click.echo(help_text.format_message())
        return 0
    except click.UsageError as wrong:
        _complain(wrong)
        return 1
    except click.exceptions.Exit as done:
        return int(done.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as wrong:
        click.echo(f"error: {wrong.format_message()}", err=True)
        return 1
    except OperatorError as fault:
        report(fault)
        return 1
    except FaztError as refused:
        click.echo(f"refused: {refused.code} ({refused.reason}): {refused.message}", err=True)
        return 2
    except BrokenPipeError:
        # the reader went away (`fazt net logs | head`); nothing more can be said on stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0


def _complain(wrong: click.UsageError) -> None:
    click.echo(f"error: {wrong.format_message()}", err=True)
    if wrong.ctx is not None:
        click.echo(f"try: {wrong.ctx.command_path} --help", err=True)


def report(fault: OperatorError) -> None:
    """Print an operator's mistake or a fault with the next thing to type."""
    click.echo(f"{click.style('error:', fg='red')} {fault.message}", err=True)
    if fault.hint:
        click.echo(f"{click.style('hint:', fg='yellow')} {fault.hint}", err=True)


def data_option(command: F) -> F:
    """Add `--data DIR`, which every command takes (before or after its name)."""
    return click.option("--data", metavar="DIR", help="Data directory (FAZT_DATA, default ~/.fazt).")(command)


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
        help="Trust these roots beside the system's (FAZT_CA_FILE).",
    )(command)
    return click.option(
        "--resolve",
        multiple=True,
        metavar="HOST=ADDR[,ADDR]",
        help="Static name, judged like any DNS answer; wins over FAZT_RESOLVE. Repeatable.",
    )(command)


def settings(ctx: click.Context, data: str | None, **flags: Any) -> Settings:
    """Return the settings of this run from the flags of the command, the root's, the environment and the file."""
    from fazt import config

    resolve = flags.pop("resolve", ()) or ()
    root_obj = ctx.find_root().obj or {}
    return config.load(
        data=data or root_obj.get("data"),
        resolve=" ".join(resolve),
        ca_files=tuple(flags.pop("ca_files", ()) or ()),
        **flags,
    )


def print_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print a table: aligned plain text that survives a pipe, bold heads on a terminal."""
    widths = [max([len(head), *(len(row[i]) for row in rows)]) for i, head in enumerate(columns)]

    def line(cells: Sequence[str]) -> str:
        parts = [cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(cells)]
        return "  ".join(parts).rstrip()

    click.echo(click.style(line(columns), bold=True))
    for row in rows:
        click.echo(line(row))


def printable(text: str) -> str:
    """Return text with control characters escaped, safe for a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@contextlib.contextmanager
def opened(ctx: click.Context, data: str | None) -> Iterator[Store]:
    """Open the data directory for one command; warn of what its owner should know; flush and close at the end."""
    from fazt.app import open_store

    with open_store(settings(ctx, data)) as store:
        yield store
        for warning in store.warnings:
            click.echo(f"{click.style('warning:', fg='yellow')} {warning}", err=True)


def app_scope(store: Store, name: str | None, *, create: bool = False) -> str:
    """Return the id of the app that `--app` names ("" without one).

    With `create` an unknown name makes the app's record, which is said on stderr; else it is an error.
    """
    if not name:
        return ""
    if not create:
        return store.apps.get(name).id
    meta, made = store.apps.ensure(name, actor=actor())
    if made:
        click.echo(f"created app {meta.name} ({meta.id})", err=True)
    return meta.id


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


def when(seconds: float) -> str:
    """Return a time as people read it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def complete_app(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of apps."""
    try:
        with opened(ctx, ctx.params.get("data")) as store:
            return [info.name for info in store.apps.list() if info.name.startswith(incomplete)]
    except OperatorError:
        return []


def app_option(command: F) -> F:
    """Add `--app`, a name or an id."""
    return click.option(
        "--app", "app_name", metavar="APP", help="Name or id of an app.", shell_complete=complete_app
    )(command)
