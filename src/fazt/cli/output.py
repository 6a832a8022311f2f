"""What the command line prints: JSON, tables, diagnostics; colours only where somebody looks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import click

from fazt.errors import Code, FaztError

# Text from upstreams and scripts may hold what a terminal would obey, and what would turn a line around.
_STEERING = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def colours() -> bool | None:
    """Return False where colours are unwanted (no-color.org), None to let the terminal decide."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def say(text: str, *, err: bool = False) -> None:
    """Print a line, without colours unless it goes to a terminal."""
    click.echo(text, err=err, color=colours())


def sayable(text: str, colour: str) -> str:
    """Return text in a colour; `say` takes it away again where it is unwanted."""
    return click.style(text, fg=colour)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    say(f"{sayable('warning:', 'yellow')} {text}", err=True)


def note(text: str) -> None:
    """Print something worth knowing on stderr."""
    say(f"{sayable('note:', 'cyan')} {text}", err=True)


def report(message: str, *, hint: str | None = None, as_json: bool = False, code: str = "") -> None:
    """Print what went wrong with the next thing to type; under `--json` also as a document on stdout."""
    if as_json:
        print_json({"error": {"code": code, "message": message, "hint": hint}})
    text = "\n".join(printable(line) for line in message.splitlines())
    say(f"{sayable('error:', 'red')} {text}", err=True)
    if hint:
        say(f"{sayable('hint:', 'yellow')} {printable(hint)}", err=True)


def print_json(value: Any, *, indent: bool | None = None) -> None:
    """Print one JSON document, indented on a terminal; on one line elsewhere, and with `indent=False`."""
    wide = sys.stdout.isatty() if indent is None else indent
    utf8 = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"
    text = json.dumps(value, ensure_ascii=not utf8, indent=2 if wide else None)
    click.echo(_STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Print a table: aligned plain text that survives a pipe, bold heads on a terminal."""
    widths = [max([len(head), *(len(row[i]) for row in rows)]) for i, head in enumerate(columns)]

    def line(cells: Sequence[str]) -> str:
        parts = [cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(cells)]
        return "  ".join(parts).rstrip()

    say(click.style(line(columns), bold=True))
    for row in rows:
        say(line(row))


def printable(text: str) -> str:
    """Return text with control characters escaped, safe for a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def say_refused(refused: FaztError) -> None:
    """Say on stderr that a call was refused, or that it failed: let through, it came to nothing."""
    word = "failed:" if refused.code in (Code.NET_ERROR, Code.NET_TIMEOUT, Code.NET_SIZE) else "refused:"
    say(f"{sayable(word, 'red')} {refused.code} ({refused.reason}): {refused.message}", err=True)


def print_body(body: bytes, *, kept_by: str = "-o FILE") -> None:
    """Write a body as it came; to a terminal, which obeys control characters, only text without them.

    Args:
        body: of a response.
        kept_by: what saves one that is no text.
    """
    if not sys.stdout.isatty():
        sys.stdout.flush()
        sys.stdout.buffer.write(body)
        sys.stdout.buffer.flush()
        return
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        note(f"the body is {len(body)} bytes that are no text: {kept_by} saves them")
        return
    safe = "".join(c if c in "\n\t" else printable(c) for c in text.replace("\r\n", "\n"))
    click.echo(safe, nl=not safe.endswith(os.linesep))


def plural(count: int, noun: str) -> str:
    """Return `1 rule`, `2 rules`."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def size(count: int) -> str:
    """Return a number of bytes as people read it."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def when(seconds: float) -> str:
    """Return a time as people read it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def examples(*lines: str) -> str:
    """Return the examples at the end of a help text; each is run or at least parsed by a test (F61)."""
    head = "Example:" if len(lines) == 1 else "Examples:"
    return "\b\n" + "\n".join([head, *(f"  {line}" for line in lines)])


@contextlib.contextmanager
def working(text: str) -> Iterator[None]:
    """Show on a terminal that something is under way, for as long as the block runs."""
    if not sys.stderr.isatty() or colours() is False:
        yield
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(printable(text))):  # as text: rich would obey its markup
        yield
