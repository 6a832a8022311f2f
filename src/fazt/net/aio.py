"""The wire on asyncio and uvloop: connections to judged addresses, kept for reuse under the grant they were made under.

Proxies of the environment are never used: nothing here reads it.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from fazt.core.addresses import judge
from fazt.core.call import Phases, Target
from fazt.errors import FaztError, Reason
from fazt.net.connect import ATTEMPT_DELAY, connect, ends_here
from fazt.net.connection import Connection
from fazt.net.deadlines import Deadlines
from fazt.net.forked import forks
from fazt.net.http2_sharing import Sharing, available
from fazt.net.pool import FUNCTIONS, Pool, PoolLimits, Turn, Turns
from fazt.net.resolve import Resolver
from fazt.net.timeouts import given_up, late
from fazt.net.tls import TlsConfig, TlsSession

if TYPE_CHECKING:
    from fazt.net.http2 import Http2Stream
    from fazt.net.http2_link import Http2Link

__all__ = ["Connection", "Wire"]


class Wire:
    """Opens and keeps the connections of one process, for one event loop at a time.

    Args:
        tls: what servers must prove; the system's roots by default.
        resolver: looks names up; the system's by default.
        limits: how many connections may be idle and for how long.
        own_listeners: (address, port) of fazt's own listeners, as `expand_listeners` returns them; may be replaced
            while the wire is in use.
        local_addresses: addresses of this machine's interfaces, reachable only under a grant; may be replaced too.
        attempt_delay: seconds between connection attempts (RFC 8305).
        http2: whether HTTP/2 is offered to servers; where its libraries are missing there is one warning.
    """

    def __init__(
        self,
        *,
        tls: TlsConfig | None = None,
        resolver: Resolver | None = None,
        limits: PoolLimits = FUNCTIONS,
        own_listeners: Collection[tuple[str, int]] = frozenset(),
        local_addresses: Collection[str] = frozenset(),
        attempt_delay: float = ATTEMPT_DELAY,
        http2: bool = False,
    ) -> None:
        self.tls = tls if tls is not None else TlsConfig()
        self.resolver = resolver if resolver is not None else Resolver()
        self.own_listeners = own_listeners
        self.local_addresses = local_addresses
        self.pool: Pool[Target, Connection | Http2Link] = Pool(limits)
        self.turns: Turns[Target, Connection | Http2Link] = Turns(limits.connections)
        self.live: set[Connection | Http2Link] = set()
        """Every connection that is open, idle or in use."""
        self._attempt_delay = attempt_delay
        self._era = 0
        """Counts calls of `drop_idle`: a connection that has not passed the last one has to when it becomes idle."""
        self._keep: Callable[[Target], bool] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forks = forks()
        self._sweep: asyncio.TimerHandle | None = None
        self._over = False
        """Whether all was closed: nothing is opened or kept any more on this loop."""
        self.deadlines: Deadlines
        self._sharing = Sharing(self) if http2 and available() else None
        """The connections of HTTP/2 that are in use; None: HTTP/1.1 alone."""

    @property
    def tls_id(self) -> str:
        """Id of the TLS configuration, part of the pool's key."""
        return self.tls.id

    async def acquire(
        self,
        target: Target,
        *,
        deadline: float,
        on_attempt: Callable[[], None],
        fresh: bool = False,
        phases: Phases | None = None,
        own: bool = False,
    ) -> Connection | Http2Stream:
        """Return a pooled connection made under the same grant, or resolve, judge every address, and connect.

        Args:
            target: where to, for whom, under which TLS configuration and granted ranges.
            deadline: seconds on the loop's clock.
            on_attempt: called once, before the first address is connected to.
            fresh: whether to leave the pool alone.
            phases: limits of single waits (`connect`, `pool`).
            own: whether to leave alone what other calls are using.

        Raises:
            FaztError: `private_address` or `own_listener`; `pool_wait`, `dns`, `connect` or `tls_handshake` at the
                deadline; `dns_failed`, `connect_failed` or `tls_failed`; `aborted` once this was closed.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop or self._forks != forks():
            self._start_anew(loop)
        self._check_open()
        if self._sharing is not None and target.scheme == "https" and not own:
            return await self._sharing.acquire(
                target, deadline=deadline, on_attempt=on_attempt, fresh=fresh, phases=phases
            )
        if not fresh:
            now = loop.time()
            while (pooled := self.pool.take(target, now)) is not None:
                if pooled.usable():
                    return pooled.lease()
                pooled.shut()
        if not self.turns.enter():
            handed = await self._wait(target, deadline=deadline, phases=phases, reuse=not fresh)
            if handed is not None:
                return handed
        if phases is not None and phases.connect is not None:
            deadline = min(deadline, loop.time() + phases.connect)
        try:
            self._check_open()  # it may have been closed while this call waited for its turn
            session, sock, address = await self._reach(target, deadline=deadline, on_attempt=on_attempt)
        except BaseException:
            self.turns.over()
            raise
        if session is not None and self._sharing is not None:
            return await self._sharing.open(target, session, sock, address, deadline=deadline)
        connection = Connection(self, target, sock=sock, address=address)
        self.live.add(connection)
        try:
            await connection.open(tls=session, deadline=deadline)
        except BaseException:
            connection.shut()
            raise
        if self._over:  # it was not there yet when all were closed
            connection.shut()
            raise given_up()
        return connection.lease()

    def _check_open(self) -> None:
        if self._over:
            raise given_up()

    async def _reach(
        self, target: Target, *, deadline: float, on_attempt: Callable[[], None]
    ) -> tuple[TlsSession | None, socket.socket, str]:
        """Resolve, judge every address and connect to one of them."""
        addresses = await self.resolver.resolve(target.host, target.port, deadline=deadline)
        judge(
            addresses,
            port=target.port,
            grant=target.grant,
            own=self.own_listeners,
            local=self.local_addresses,
        )
        session = None
        if target.scheme == "https":
            if target.tls != self.tls.id:
                raise FaztError(Reason.INTERNAL, "An internal error.", detail=f"unknown TLS configuration {target.tls}")
            session = TlsSession(
                await self.tls.ready(),
                target.host,
                protocols=None if self._sharing is None else self._sharing.protocols(target),
            )
        on_attempt()
        sock, address = await connect(addresses, target.port, deadline=deadline, delay=self._attempt_delay)
        self._judge_local(sock, address, target)
        return session, sock, address

    async def _wait(
        self, target: Target, *, deadline: float, phases: Phases | None, reuse: bool
    ) -> Connection | Http2Stream | None:
        """Wait for a turn: returns a connection that another call gave back, or None when one may be opened."""
        loop = asyncio.get_running_loop()
        if phases is not None and phases.pool is not None:
            deadline = min(deadline, loop.time() + phases.pool)
        turns = self.turns
        came = asyncio.Event()
        turn: Turn[Target, Connection | Http2Link] = Turn(target, came.set, reuse)
        turns.wait(turn)
        try:
            if (oldest := self.pool.pop_oldest()) is not None:
                oldest.close()
            while True:
                async with asyncio.timeout_at(None if deadline == math.inf else deadline):
                    await came.wait()
                connection = turn.connection
                if connection is None:
                    return None
                if connection.usable():
                    return connection.lease()
                came.clear()
                turns.wait(turn, first=True)
                connection.shut()  # which makes room for a new one, if it was not gone already
                turns.admit()
        except BaseException as error:
            if not turns.leave(turn):
                self._give_back(turn)
            if isinstance(error, TimeoutError):
                raise late(Reason.POOL_WAIT) from None
            raise

    def _give_back(self, turn: Turn[Target, Connection | Http2Link]) -> None:
        """Pass on what came to somebody who was gone by then."""
        if turn.connection is not None:
            self.idle(turn.connection)
        else:
            self.turns.over()

    def _judge_local(self, sock: socket.socket, address: str, target: Target) -> None:
        """Judge an address again that turns out to be this machine's: interfaces get new ones while a process runs."""
        if address in self.local_addresses or not ends_here(sock):
            return
        self.local_addresses = frozenset({*self.local_addresses, address})
        try:
            judge((address,), port=target.port, grant=target.grant, own=self.own_listeners, local=self.local_addresses)
        except FaztError:
            sock.close()
            raise

    def idle(self, connection: Connection | Http2Link) -> None:
        """Keep a connection that can be used again (called by the connection)."""
        loop = self._loop
        assert loop is not None
        if self._over:
            connection.close()
            return
        if connection.era != self._era:
            connection.era = self._era
            if self._keep is not None and not self._keep(connection.target):
                connection.close()
                return
        if self.turns.waiting:
            if not self.turns.offer(connection.target, connection):
                connection.close()  # which makes room for one that leads where the first of those who wait wants to
            return
        for surplus in self.pool.put(connection.target, connection, loop.time()):
            surplus.close()
        if self._sweep is None and len(self.pool):
            self._sweep = loop.call_later(self.pool.limits.expiry, self._expire)

    def count(self) -> tuple[int, int]:
        """Return how many connections are open, and how many of them idle."""
        return len(self.live), len(self.pool)

    def may_speak_http2(self, target: Target) -> bool:
        """Say whether HTTP/2 is offered to this server, which has not yet chosen the other."""
        return self._sharing is not None and self._sharing.protocols(target) is not None

    def kept(self, link: Http2Link) -> bool:
        """Say whether a connection that is in use may take one more call under the rules as they are now."""
        if link.era != self._era:
            link.era = self._era
            if self._keep is not None and not self._keep(link.target):
                link.drain()
                return False
        return True

    def closed(self, connection: Connection | Http2Link) -> None:
        """Forget a connection that is closing (called by the connection)."""
        self.live.discard(connection)
        self.pool.remove(connection)
        self.turns.over()

    def drop_idle(self, keep: Callable[[Target], bool]) -> int:
        """Close the idle connections whose target is not to be kept, as after a revoked rule; returns how many.

        Those in use, or being made, are closed when they become idle.
        """
        self._era += 1
        self._keep = keep
        doomed = self.pool.drop(lambda target: not keep(target))
        for connection in doomed:
            connection.close()
        return len(doomed)

    async def close(self) -> None:
        """Close every connection, also those in use."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        if self._loop is not asyncio.get_running_loop() or self._forks != forks():
            return
        self._over = True
        for connection in self.pool.clear():
            connection.close()
        for connection in list(self.live):
            if isinstance(connection, Connection):
                connection.interrupt()
            else:
                connection.shut()
        self.deadlines.close()
        await asyncio.sleep(0)  # transports close their sockets in the loop's next turn
        await asyncio.sleep(0)

    def _expire(self) -> None:
        self._sweep = None
        loop = self._loop
        if loop is None or self._forks != forks():
            return
        for connection in self.pool.expire(loop.time()):
            connection.close()
        when = self.pool.next_expiry()
        if when is not None:
            self._sweep = loop.call_at(when, self._expire)

    def _start_anew(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin on another event loop, or in a forked child: connections made before can't be used here.

        In a child they belong to the parent, and they are left alone; not even a close_notify may be sent.
        """
        if self._loop is not None and self._loop.is_running() and self._forks == forks():
            raise RuntimeError("a Wire serves one event loop at a time")
        inherited, self.live = self.live, set()
        self._over = False
        self.pool.clear()
        self.turns = Turns(self.turns.limit)
        if self._sharing is not None:
            self._sharing.clear()
        for connection in inherited:
            connection.abandon()
        self._loop, self._forks, self._sweep = loop, forks(), None
        self.deadlines = Deadlines(loop)
