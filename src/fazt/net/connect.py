"""Happy Eyeballs (RFC 8305) over addresses that were judged: sockets to exactly these, nothing is looked up here."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from collections.abc import Sequence

from fazt.errors import FaztError, Reason

ATTEMPT_DELAY = 0.25
"""Seconds until the next address is tried beside the last (RFC 8305 section 5)."""
MAX_ATTEMPTS = 16
"""Addresses of one answer that are tried at most."""


def interleave(addresses: Sequence[str]) -> list[str]:
    """Order addresses so that families alternate, beginning with the first one's (RFC 8305 section 4)."""
    unique = list(dict.fromkeys(addresses))
    if not unique:
        return []
    lead = ":" in unique[0]
    first = [address for address in unique if (":" in address) is lead]
    second = [address for address in unique if (":" in address) is not lead]
    out: list[str] = []
    for index in range(max(len(first), len(second))):
        out += first[index : index + 1] + second[index : index + 1]
    return out


async def connect(
    addresses: Sequence[str], port: int, *, deadline: float, delay: float = ATTEMPT_DELAY
) -> tuple[socket.socket, str]:
    """Connect to the first of these addresses that answers; the others are closed.

    Args:
        addresses: judged addresses, in the resolver's order.
        port: TCP port.
        deadline: seconds on the loop's clock.
        delay: seconds between attempts; a failed attempt starts the next at once.

    Returns:
        The connected, non-blocking socket and its address.

    Raises:
        FaztError: `connect_failed` when all fail, `connect` when the deadline passes first.
    """
    failures: list[str] = []
    try:
        async with asyncio.timeout_at(deadline):
            queue = interleave(addresses)[:MAX_ATTEMPTS]
            winner = await _race(queue, port, delay=delay, failures=failures)
    except TimeoutError:
        raise late(addresses, failures) from None
    if winner is None:
        raise failed(failures)
    return winner


def late(addresses: Sequence[str], failures: list[str]) -> FaztError:
    """Say that no address accepted a connection before the deadline."""
    detail = "; ".join([f"tried {', '.join(addresses[:MAX_ATTEMPTS])}", *failures])
    return FaztError(Reason.CONNECT, "The server did not accept a connection in time.", detail=detail)


def failed(failures: list[str]) -> FaztError:
    """Say that no address could be connected to."""
    return FaztError(Reason.CONNECT_FAILED, "No connection to the server could be made.", detail="; ".join(failures))


async def _race(queue: list[str], port: int, *, delay: float, failures: list[str]) -> tuple[socket.socket, str] | None:
    if len(queue) == 1:
        return await _attempt(queue[0], port, failures=failures)
    running: set[asyncio.Task[tuple[socket.socket, str] | None]] = set()
    winner: tuple[socket.socket, str] | None = None
    try:
        while winner is None and (queue or running):
            if queue:
                running.add(asyncio.ensure_future(_attempt(queue.pop(0), port, failures=failures)))
            done, running = await asyncio.wait(
                running, timeout=delay if queue else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                made = task.result()
                if made is None:
                    continue
                if winner is None:
                    winner = made
                else:
                    made[0].close()
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_close_late)
    return winner


def _close_late(task: asyncio.Task[tuple[socket.socket, str] | None]) -> None:
    if not task.cancelled() and (made := task.result()) is not None:
        made[0].close()


def begin(address: str, port: int, *, failures: list[str]) -> tuple[socket.socket | None, int]:
    """Begin to connect to one address; returns the socket and connect's errno.

    There is no socket when one could not be had; the cause is added to `failures` then.
    """
    v6 = ":" in address
    sock: socket.socket | None = None
    try:
        sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock, sock.connect_ex((address, port, 0, 0) if v6 else (address, port))
    except BaseException as error:
        if sock is not None:
            sock.close()
        if not isinstance(error, OSError):
            raise
        failures.append(f"{address}: {error.strerror or error}")
        return None, 0


async def _attempt(address: str, port: int, *, failures: list[str]) -> tuple[socket.socket, str] | None:
    """Connect to one address; None when it fails, with the cause added to `failures`."""
    sock, code = begin(address, port, failures=failures)
    if sock is None:
        return None
    try:
        if code == errno.EINPROGRESS:
            await _writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        wrong = os.strerror(code) if code else wrong_peer(sock, address, port)
    except OSError as error:
        wrong = error.strerror or str(error)
    except BaseException:
        sock.close()
        raise
    if not wrong:
        return sock, address
    sock.close()
    failures.append(f"{address}: {wrong}")
    return None


async def _writable(sock: socket.socket) -> None:
    # not loop.sock_connect(), which on uvloop sends even a numeric address through getaddrinfo
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    loop.add_writer(sock.fileno(), _wake, waiter)
    try:
        await waiter
    finally:
        loop.remove_writer(sock.fileno())


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def wrong_peer(sock: socket.socket, address: str, port: int) -> str:
    """Say what is wrong with whom we reached: it must be the judged address, and not ourselves."""
    peer, own = sock.getpeername(), sock.getsockname()
    if ipaddress.ip_address(peer[0]) != ipaddress.ip_address(address) or peer[1] != port:
        return f"connected to {peer[0]} port {peer[1]} instead"
    if peer[:2] == own[:2]:  # TCP's simultaneous open: an unused local port can connect to itself
        return "connected to itself"
    return ""


def ends_here(sock: socket.socket) -> bool:
    """Tell whether both ends of a connection have one address."""
    try:
        return bool(sock.getsockname()[0] == sock.getpeername()[0])
    except OSError:  # it was reset already, as whoever uses it will see
        return False
