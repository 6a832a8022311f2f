"""Run the server: bind, say where, serve, stop in good order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from fazt.errors import ConfigError
from fazt.server.asgi import Front
from fazt.server.guard import GuardedProtocol

if TYPE_CHECKING:
    from fazt.server.context import ServerContext

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 5
GRACE_SECONDS = 12
"""How long running requests may take to end after a stop was asked for: the request window and a little."""
RESERVED_FILES = 512
"""Descriptors that connections leave to upstreams, workers and databases (half of all where there are few)."""

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound


@dataclass(frozen=True, slots=True)
class Bound:
    """Where the server listens: addresses with the ports they really got."""

    pairs: tuple[tuple[str, int], ...]

    @property
    def port(self) -> int:
        """The port (of the first address)."""
        return self.pairs[0][1]

    @property
    def admin_url(self) -> str:
        """Origin of the admin API as seen from this machine."""
        address = self.pairs[0][0]
        local = _WILDCARDS.get(address, address)
        return f"http://[{local}]:{self.port}" if ":" in local else f"http://{local}:{self.port}"

    @property
    def everywhere(self) -> bool:
        """Whether other machines can reach it at whatever address this one has."""
        return any(address in _WILDCARDS for address, _ in self.pairs)

    def app_url(self, name: str) -> str:
        """URL of an app as seen from this machine."""
        return f"http://{name}.localhost:{self.port}/"


_BIND_HINTS = {
    errno.EADDRINUSE: "is another fazt running? --port 0 takes any free port",
    errno.EADDRNOTAVAIL: "this machine has no such address: --host 127.0.0.1, or 0.0.0.0 for all it has",
    errno.EACCES: "ports below 1024 need a privilege: take a higher one with --port",
}


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind every address a host name means, all to one port.

    Args:
        host: name or address; "" means all addresses.
        port: 0 takes a free one.

    Raises:
        ConfigError: the name means nothing, or the port cannot be had.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError, OverflowError) as fault:
        raise ConfigError(f"cannot listen on {host!r}: {fault}", hint="--host 127.0.0.1") from None
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # with port 0 the second address takes the port that the first was given
            listener.bind((address[0], sockets[0].getsockname()[1] or port, *address[2:]))
            listener.setblocking(False)
    except OSError as fault:
        for listener in sockets:
            listener.close()
        raise ConfigError(
            f"cannot listen on {host or 'all addresses'} port {port}: {fault.strerror or fault}",
            hint=_BIND_HINTS.get(fault.errno or 0, "--host 127.0.0.1 --port 0 takes any free port of this machine"),
        ) from None
    return sockets


class _Server(uvicorn.Server):
    """uvicorn's server that says when it is ready, and which signal ended it, instead of dying of it."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready
        self.signalled: int | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.signalled = sig
        super().handle_exit(sig, frame)


class Serving:
    """One server. `run()` blocks until it is stopped; `stop()` may be called from any thread.

    Args:
        context: what to serve.
        host, port: where to listen; port 0 takes a free one.
        ready: called once the server answers.
    """

    def __init__(
        self,
        context: ServerContext,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ready: Callable[[Bound], None] = lambda _bound: None,
    ) -> None:
        self._context = context
        self._host = host
        self._port = port
        self._ready = ready
        self._server: _Server | None = None
        self._stopped = False

    def run(self) -> int:
        """Serve until a signal or `stop()`.

        Returns: 130 after SIGINT, else 0.

        Raises:
            OperatorError: the address cannot be had, or the runtime cannot start.
        """
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(self.serve())

    async def serve(self) -> int:
        """Serve on the running loop; as `run`."""
        context = self._context
        sockets = bind(self._host, self._port)
        try:
            bound = Bound(tuple((str(s.getsockname()[0]), int(s.getsockname()[1])) for s in sockets))
            # Before the first request: no call of an app may reach fazt itself.
            context.listening(bound.pairs)
            config = uvicorn.Config(
                Front(context),
                http=_protocol(),
                ws="none",
                lifespan="off",  # started below, where a failure is an error with a hint and not a traceback
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,  # the peer is the peer: hosting decides what a forwarding field means
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
            self._server = server = _Server(config, lambda: self._ready(bound))
            server.should_exit = self._stopped
            try:
                await context.start()
                await server.serve(sockets)
            finally:
                await context.stop()
            return 130 if server.signalled == signal.SIGINT else 0
        finally:
            for listener in sockets:
                listener.close()

    def stop(self) -> None:
        """Ask the server to end: no new connections, running requests finish."""
        self._stopped = True
        if self._server is not None:
            self._server.should_exit = True


def serve(
    context: ServerContext,
    *,
    host: str,
    port: int,
    ready: Callable[[Bound], None] = lambda _bound: None,
) -> int:
    """Serve until a signal; the exit code of the command.

    Args:
        context: what to serve.
        host, port: where to listen; port 0 takes a free one.
        ready: called once the server answers, with the addresses it got.

    Raises:
        OperatorError: the address cannot be had, or the runtime cannot start.
    """
    return Serving(context, host=host, port=port, ready=ready).run()


def describe(bound: Bound, apps: Sequence[str]) -> list[str]:
    """Return the lines to print when the server is up: where it listens, and the URL of every app."""
    everywhere = " and on every other address of this machine" if bound.everywhere else ""
    lines = [f"listening on {bound.admin_url}{everywhere}"]
    lines += [f"  {bound.app_url(name)}" for name in apps]
    if not apps:
        lines.append("no app is deployed yet: fazt app deploy DIR --name NAME")
    return lines


def _protocol() -> type[GuardedProtocol]:
    """Return the protocol for as many connections as this process may have descriptors for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = GuardedProtocol.most_connections + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    room = wanted if soft == resource.RLIM_INFINITY else soft
    most = min(GuardedProtocol.most_connections, max(room - RESERVED_FILES, room // 2))
    return type("Protocol", (GuardedProtocol,), {"most_connections": most})


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # optional: the standard loop does the same, slower
        return None
    factory: Any = uvloop.new_event_loop
    return factory  # type: ignore[no-any-return]
