"""Happy Eyeballs (RFC 8305) for callers that block: one thread, several attempts at once."""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import time
from collections.abc import Sequence

from fazt.net.connect import ATTEMPT_DELAY, MAX_ATTEMPTS, begin, failed, interleave, late, wrong_peer

_LONGEST = 3_600_000
"""Milliseconds: one wait at most, for poll() takes no number without bounds."""


def milliseconds(seconds: float) -> int:
    """Return how long to poll: never less than was asked, and 0 for what has passed."""
    if seconds <= 0:
        return 0
    return min(math.ceil(seconds * 1000), _LONGEST) if seconds < _LONGEST else _LONGEST


def connect(
    addresses: Sequence[str], port: int, *, deadline: float, delay: float = ATTEMPT_DELAY
) -> tuple[socket.socket, str]:
    """Connect to the first of these addresses that answers; the others are closed.

    Args:
        addresses: judged addresses, in the resolver's order.
        port: TCP port.
        deadline: seconds on the monotonic clock.
        delay: seconds between attempts; a failed attempt starts the next at once.

    Returns:
        The connected, non-blocking socket and its address.

    Raises:
        FaztError: `connect_failed` when all fail, `connect` when the deadline passes first.
    """
    race = _Race(interleave(addresses)[:MAX_ATTEMPTS], port)
    next_at = -math.inf
    try:
        while race.queue or race.running:
            now = time.monotonic()
            if now >= deadline:
                raise late(addresses, race.failures)
            if race.queue and (now >= next_at or not race.running):
                next_at = now + delay
                race.start()
            elif race.wait(min(deadline, next_at if race.queue else math.inf) - now):
                next_at = -math.inf
            if race.winner is not None:
                winner, race.winner = race.winner, None
                return winner
    finally:
        race.close()
    raise failed(race.failures)


class _Race:
    """The attempts at one connection."""

    def __init__(self, queue: list[str], port: int) -> None:
        self.queue = queue
        self.failures: list[str] = []
        self.running: dict[int, tuple[socket.socket, str]] = {}
        self.winner: tuple[socket.socket, str] | None = None
        self._port = port
        self._poll = select.poll()

    def start(self) -> None:
        """Begin with the next address."""
        address = self.queue.pop(0)
        sock, code = begin(address, self._port, failures=self.failures)
        if sock is None:
            return
        if code == errno.EINPROGRESS:
            self.running[sock.fileno()] = (sock, address)
            self._poll.register(sock, select.POLLOUT)
        else:
            self._settle(sock, address, code)

    def wait(self, seconds: float) -> bool:
        """Wait for one of the attempts; returns whether any was decided."""
        ready = self._poll.poll(milliseconds(seconds))
        for number, _ in ready:
            sock, address = self.running.pop(number)
            self._poll.unregister(number)
            self._settle(sock, address, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        return bool(ready)

    def _settle(self, sock: socket.socket, address: str, code: int) -> None:
        try:
            wrong = os.strerror(code) if code else wrong_peer(sock, address, self._port)
        except OSError as error:
            wrong = error.strerror or str(error)
        if wrong:
            self.failures.append(f"{address}: {wrong}")
        elif self.winner is None:
            self.winner = (sock, address)
            return
        sock.close()

    def close(self) -> None:
        """Close what lost, and what won when nobody took it."""
        for sock, _ in self.running.values():
            sock.close()
        if self.winner is not None:
            self.winner[0].close()
