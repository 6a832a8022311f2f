"""Listeners of the server that runs on the same data directory: no rule lets a call reach them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from pathlib import Path

from fazt import hardware
from fazt.core.addresses import expand_listeners
from fazt.stores.announcement import running

_SECONDS = 0.5


class OwnListeners(Collection[tuple[str, int]]):
    """(address, port) of the running server's listeners, wildcard binds expanded; as they are when they are asked for.

    They are asked for when a connection is made, and looked up at most twice a second.

    Args:
        directory: the data directory.
    """

    __slots__ = ("_directory", "_found", "_until")

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._until = 0.0
        self._found: frozenset[tuple[str, int]] = frozenset()

    def __contains__(self, pair: object) -> bool:
        return pair in self._now()

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def __repr__(self) -> str:
        return f"<OwnListeners of {self._directory}>"

    def _now(self) -> frozenset[tuple[str, int]]:
        now = time.monotonic()
        if now >= self._until:
            server = running(self._directory)
            binds = server.listeners if server is not None else ()
            self._found = expand_listeners(binds, hardware.interface_addresses()) if binds else frozenset()
            self._until = now + _SECONDS
        return self._found
