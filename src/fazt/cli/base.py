"""The root of the command line: its groups, loaded when used, and the exit codes of the contract.

Exit codes: 0 success or a response of any status, 2 a coded refusal or failure of a call, 1 usage, configuration or
store, 130 on Ctrl-C. Results go to stdout, diagnostics to stderr.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from fazt.cli.output import colours, examples, print_json, report, say, say_refused
from fazt.errors import FaztError, OperatorError

COMMANDS: dict[str, tuple[str, str]] = {
    "fetch": ("fazt.cli.fetch:fetch", "Make one call through the whole pipeline."),
    "download": ("fazt.cli.download:download", "Files to disk: verified, resumed, several at once."),
    "explain": ("fazt.cli.explain:explain", "Why a call is or was allowed or refused."),
    "net": ("fazt.cli.net:net", "Rules, and the log of calls."),
    "secret": ("fazt.cli.secret:secret", "Secrets that calls may carry and code cannot read."),
    "app": ("fazt.cli.app:app", "Deploy and look after JavaScript apps."),
    "env": ("fazt.cli.env:env", "Plain settings that an app may read."),
    "limits": ("fazt.cli.limits:limits", "Limits: show, set, describe."),
    "breaker": ("fazt.cli.breaker:breaker", "Hosts and services that are left alone for a while."),
    "log": ("fazt.cli.log:log", "Calls and console lines, live."),
    "stats": ("fazt.cli.stats:stats", "What became of the calls, in figures."),
    "serve": ("fazt.cli.serve:serve", "Serve the deployed apps and the admin API."),
    "demo": ("fazt.cli.demo:demo", "Watch a deployed app call out, and what it may not do."),
    "completion": ("fazt.cli.completion:completion", "Print the script that switches on tab completion."),
}
"""Every command: where it is, and what the root's help says of it."""


_OTHER_NAMES = {
    **dict.fromkeys(("rm", "del", "delete", "unset"), ("remove",)),
    **dict.fromkeys(("ls", "get", "show"), ("list", "show", "info")),
    **dict.fromkeys(("add", "create", "grant"), ("set", "allow", "deploy")),
    **dict.fromkeys(("block", "revoke"), ("deny",)),
    **dict.fromkeys(("curl", "call", "request"), ("fetch", "invoke")),
    **dict.fromkeys(("wget", "aria2c", "pull"), ("download",)),
    **dict.fromkeys(("run", "start", "server"), ("serve", "invoke")),
}
"""What other tools call a command, and the first of these that a group has is meant."""


class _ReaderGoneError(Exception):
    """Whoever read our stdout went away (`fazt net logs | head`)."""


class Group(click.Group):
    """A group that names the command somebody probably meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = _closest(args[0], self.list_commands(ctx))
            ctx.fail(f"there is no command '{args[0]}'" + (f"; did you mean '{near}'?" if near else ""))
        return super().resolve_command(ctx, args)


class LazyGroup(Group):
    """A group whose commands are imported only when they run, so that `fazt --help` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "help":
            return help_
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click would end the process with 1
            raise _ReaderGoneError from None


_OF_SERVER = frozenset({"jsbox", "python_multipart", "uvicorn", "wasmtime"})
"""What the extra `server` installs, for apps alone."""


def _closest(word: str, words: Iterable[str]) -> str | None:
    import difflib

    known = list(words)
    other = next((meant for meant in _OTHER_NAMES.get(word.lower(), ()) if meant in known), None)
    return other or next(iter(difflib.get_close_matches(word, known, n=1)), None)


def data_dir(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty `--data`: an unset variable in a script must not end in another directory."""
    if value == "":
        raise click.BadParameter("it is empty; leave the option out for the default")
    return value


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples("fazt demo", "fazt net allow api.github.com", "fazt fetch https://api.github.com/zen"),
)
@click.option("--data", metavar="DIR", callback=data_dir, help="Data directory (FAZT_DATA, default ~/.fazt).")
@click.version_option(package_name="fazt-net", prog_name="fazt")
@click.pass_context
def root(ctx: click.Context, data: str | None) -> None:
    """Safe outbound HTTP for code you don't fully trust, and for your own Python.

    Options may stand before or after arguments; every command takes --data and -h.
    """
    ctx.obj = {"data": data}


@click.command(name="help", epilog=examples("fazt help", "fazt help net allow"))
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def help_(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show the help of a command."""
    found: click.Context = ctx.find_root()
    for word in words:
        command = found.command
        inner = command.get_command(found, word) if isinstance(command, click.Group) else None
        if inner is None:
            ctx.fail(f"there is no command '{' '.join(words)}'")
        found = click.Context(inner, info_name=word, parent=found)
    say(found.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in args[: args.index("--") if "--" in args else None]
    try:
        result = root.main(args=args, prog_name="fazt", standalone_mode=False, color=colours())
    except click.exceptions.NoArgsIsHelpError as shown:
        say(shown.format_message())
        return 0
    except click.UsageError as wrong:
        report(wrong.format_message(), hint=_usage(wrong), as_json=as_json, code="USAGE")
        return 1
    except click.exceptions.Exit as done:
        return int(done.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say("interrupted", err=True)
        return 130
    except click.ClickException as wrong:
        report(wrong.format_message(), as_json=as_json, code="USAGE")
        return 1
    except OperatorError as fault:
        report(fault.message, hint=fault.hint, as_json=as_json, code=type(fault).__name__.removesuffix("Error").upper())
        return 1
    except FaztError as refused:
        if as_json:
            print_json({"error": refused.public()})
        say_refused(refused)
        return 2
    except _ReaderGoneError:
        with contextlib.suppress(OSError, ValueError):  # no descriptor behind it in a test
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as missing:
        name = (missing.name or "").partition(".")[0]
        if name not in _OF_SERVER:
            raise
        why = f"this needs {name}, which is not installed"
        report(why, hint="pip install 'fazt-net[server]'", as_json=as_json, code="CONFIG")
        return 1
    except OSError as fault:
        where = f"{fault.filename}: " if fault.filename else ""
        report(f"{where}{fault.strerror or type(fault).__name__}", as_json=as_json, code="SYSTEM")
        return 1
    except SystemExit as done:  # click's tab completion
        return done.code if isinstance(done.code, int) else 1
    return result if isinstance(result, int) else 0


def _usage(wrong: click.UsageError) -> str | None:
    return None if wrong.ctx is None else f"{wrong.ctx.command_path} --help"
