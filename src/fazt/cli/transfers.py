"""How downloads are shown while they run: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fazt.cli.output import colours, printable, say, size

if TYPE_CHECKING:
    from fazt.client.download_plan import Progress

LINE_EVERY = 10.0
"""Seconds between two lines about one file where there is no terminal."""
_STEP = 256 * 1024


@contextlib.contextmanager
def shown(*, quiet: bool) -> Iterator[Callable[[str], Progress]]:
    """Show downloads for as long as the block runs; give what returns the callback of one file by its name.

    Args:
        quiet: show nothing.
    """
    if quiet:
        yield lambda name: _nothing
    elif sys.stderr.isatty() and colours() is not False:
        with _bars() as begin:
            yield begin
    else:
        yield _Lines


def _nothing(_done: int, _total: int | None) -> None:
    return


class _Lines:
    """Says now and then how far one file is."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = printable(name)
        self._clock = clock
        self._next = clock() + LINE_EVERY

    def __call__(self, done: int, total: int | None) -> None:
        if (now := self._clock()) < self._next:
            return
        self._next = now + LINE_EVERY
        share = "" if not total else f" of {size(total)} ({done * 100 // total} %)"
        say(f"{self._name}: {size(done)}{share}", err=True)


@contextlib.contextmanager
def _bars() -> Iterator[Callable[[str], Progress]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),  # a name is text: rich would obey its markup
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:

        def begin(name: str) -> Any:
            return _Bar(progress, printable(name))

        yield begin


class _Bar:
    """The bar of one file, shown from its first byte to its last."""

    def __init__(self, progress: Any, name: str) -> None:
        self._progress = progress
        self._name = name if len(name) <= 40 else f"…{name[-39:]}"
        self._task: Any = None
        self._said = 0

    def __call__(self, done: int, total: int | None) -> None:
        if self._task is None:
            self._task = self._progress.add_task(self._name, total=total, completed=done)
        elif done < self._said or done - self._said >= _STEP or done == total:
            self._progress.update(self._task, completed=done, total=total)
        else:
            return
        self._said = done
        if done == total:
            self._progress.update(self._task, visible=False)
