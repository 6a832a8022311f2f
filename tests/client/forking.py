"""A forked child that a test talks with."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

PATIENCE = 60.0


class Child:
    """The child as its parent sees it."""

    def __init__(self, link: Connection) -> None:
        self._link = link

    def hear(self) -> Any:
        """Return what the child says next; an exception in it is an assertion here."""
        assert self._link.poll(PATIENCE), "the child says nothing"
        kind, said = self._link.recv()
        assert kind == "said", said
        return said

    def go(self, word: object = None) -> None:
        """Let the child go on."""
        self._link.send(word)


class Parent:
    """The parent as its child sees it."""

    def __init__(self, link: Connection) -> None:
        self._link = link

    def say(self, what: object) -> None:
        """Send something that pickles."""
        self._link.send(("said", what))

    def wait(self) -> Any:
        """Wait for the parent's word."""
        assert self._link.poll(PATIENCE), "the parent says nothing"
        return self._link.recv()


@contextlib.contextmanager
def forked(work: Callable[[Parent], None]) -> Iterator[Child]:
    """Run `work` in a forked child while the block runs; it is waited for at the end."""
    here, there = Pipe()
    child = os.fork()
    if child == 0:
        try:
            here.close()
            work(Parent(there))
        except BaseException:  # the parent is told; the child must not run the rest of the tests
            there.send(("failed", traceback.format_exc()))
        finally:
            os._exit(0)
    there.close()
    try:
        yield Child(here)
    finally:
        here.close()
        os.waitpid(child, 0)
