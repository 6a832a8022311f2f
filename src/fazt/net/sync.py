"""The wire for callers that block: connections to judged addresses, kept for reuse under the grant they were made for.

Any number of threads use one wire. Proxies of the environment are never used: nothing here reads it.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Collection
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from fazt.core.addresses import judge
from fazt.core.call import Phases, Target
from fazt.errors import FaztError, Reason
from fazt.net.connect import ATTEMPT_DELAY, ends_here
from fazt.net.forked import abandon, renew
from fazt.net.http2_sharing import available
from fazt.net.pool import FUNCTIONS, Pool, PoolLimits, Turn, Turns
from fazt.net.sync_connect import connect
from fazt.net.sync_connection import SyncConnection
from fazt.net.sync_resolve import SyncResolver
from fazt.net.timeouts import given_up, late
from fazt.net.tls import TlsConfig, TlsSession

if TYPE_CHECKING:
    from fazt.net.http2_threads import Http2Threads, SyncHttp2Stream

__all__ = ["SyncConnection", "SyncWire"]


class SyncWire:
    """Opens and keeps the connections of one process, for all of its threads.

    Idle connections that have been kept long enough are closed when the wire is next used.

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
        resolver: SyncResolver | None = None,
        limits: PoolLimits = FUNCTIONS,
        own_listeners: Collection[tuple[str, int]] = frozenset(),
        local_addresses: Collection[str] = frozenset(),
        attempt_delay: float = ATTEMPT_DELAY,
        http2: bool = False,
    ) -> None:
        self.tls = tls if tls is not None else TlsConfig()
        self.resolver = resolver if resolver is not None else SyncResolver()
        self.own_listeners = own_listeners
        self.local_addresses = local_addresses
        self.live: set[SyncConnection] = set()
        """Every connection that is open, idle or in use."""
        self.pid = os.getpid()
        """The process that the connections belong to."""
        self.limits = limits
        self.attempt_delay = attempt_delay
        self._era = 0
        """Counts calls of `drop_idle`: a connection that has not passed the last one has to when it becomes idle."""
        self._keep: Callable[[Target], bool] | None = None
        self._http2: Http2Threads | None = _threads(self) if http2 and available() else None
        self._begin_anew()
        renew(self)

    def _begin_anew(self) -> None:
        self.pool: Pool[Target, SyncConnection] = Pool(self.limits)
        self._lock = threading.Lock()
        """Held for the bookkeeping of the pool alone, never while a socket is used."""
        self.turns: Turns[Target, SyncConnection] = Turns(self.limits.connections)
        self._news: deque[SyncConnection | None] = deque()
        """Connections that were closed (None: never made), or have become idle, and are not in the books yet."""
        self._next_expiry = inf
        self._over = False
        """Whether all was closed: nothing is opened or kept any more."""

    def start_anew(self) -> None:
        """Begin in a forked child: what was made before belongs to the parent and is left alone, open and unsaid."""
        inherited, self.live = self.live, set()
        for connection in inherited:
            abandon(connection)
        self._begin_anew()
        if self._http2 is not None:
            self._http2.start_anew()
        self.pid = os.getpid()

    @property
    def tls_id(self) -> str:
        """Id of the TLS configuration, part of the pool's key."""
        return self.tls.id

    def acquire(
        self,
        target: Target,
        *,
        deadline: float,
        on_attempt: Callable[[], None],
        fresh: bool = False,
        phases: Phases | None = None,
    ) -> SyncConnection | SyncHttp2Stream:
        """Return a pooled connection made under the same grant, or resolve, judge every address, and connect.

        Args:
            target: where to, for whom, under which TLS configuration and granted ranges.
            deadline: seconds on the monotonic clock.
            on_attempt: called once, before the first address is connected to.
            fresh: whether to leave the pool alone.
            phases: limits of single waits (`connect`, `pool`).

        Raises:
            FaztError: `private_address` or `own_listener`; `pool_wait`, `dns`, `connect` or `tls_handshake` at the
                deadline; `dns_failed`, `connect_failed` or `tls_failed`; `aborted` once this was closed.
        """
        if self.pid != os.getpid():  # forked by something that does not tell Python
            self.start_anew()
        self._check_open()
        if self._http2 is not None and target.scheme == "https":
            shared = self._http2.acquire(target, deadline=deadline, on_attempt=on_attempt, fresh=fresh, phases=phases)
            if shared is not None:
                return shared
        now = monotonic()
        if now >= self._next_expiry:
            self._expire(now)
        while True:
            pooled, entered = self._take(target, now, fresh=fresh)
            if pooled is None:
                break
            if pooled.usable():
                pooled.lease(now)
                return pooled
            pooled.shut()
        if not entered:
            handed = self._wait(target, deadline=deadline, phases=phases, reuse=not fresh)
            if handed is not None:
                return handed
        if phases is not None and phases.connect is not None:
            deadline = min(deadline, monotonic() + phases.connect)
        return self._open(target, deadline=deadline, on_attempt=on_attempt)

    def _open(self, target: Target, *, deadline: float, on_attempt: Callable[[], None]) -> SyncConnection:
        try:
            self._check_open()  # it may have been closed while this call waited for its turn
            session, sock, address = self._reach(target, deadline=deadline, on_attempt=on_attempt)
        except BaseException:
            self._news.append(None)
            self._note()
            raise
        connection = SyncConnection(self, target, sock=sock, address=address)
        self.live.add(connection)
        connection.lease(-inf)
        if session is not None:
            try:
                connection.open(tls=session, deadline=deadline)
            except BaseException:
                connection.abort()
                raise
        if self._over:  # it was not there yet when all were closed
            connection.abort()
            raise given_up()
        return connection

    def _check_open(self) -> None:
        if self._over:
            raise given_up()

    def _reach(
        self, target: Target, *, deadline: float, on_attempt: Callable[[], None]
    ) -> tuple[TlsSession | None, socket.socket, str]:
        """Resolve, judge every address and connect to one of them."""
        addresses = self.resolver.resolve(target.host, target.port, deadline=deadline)
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
            session = TlsSession(self.tls.context, target.host)
        on_attempt()
        sock, address = connect(addresses, target.port, deadline=deadline, delay=self.attempt_delay)
        self._judge_local(sock, address, target)
        return session, sock, address

    def _wait(self, target: Target, *, deadline: float, phases: Phases | None, reuse: bool) -> SyncConnection | None:
        """Wait for a turn: returns a connection that another call gave back, or None when one may be opened."""
        if phases is not None and phases.pool is not None:
            deadline = min(deadline, monotonic() + phases.pool)
        waker = threading.Lock()
        waker.acquire()
        turn: Turn[Target, SyncConnection] = Turn(target, waker.release, reuse)
        with self._lock:
            self.turns.wait(turn)
            oldest = self.pool.pop_oldest()
            if oldest is None:
                self.turns.admit()  # one may have been closed since it was asked for
        try:
            if oldest is not None:
                oldest.close()
            self._note()
            while True:
                left = min(deadline - monotonic(), threading.TIMEOUT_MAX)
                if left <= 0 or not waker.acquire(timeout=left):
                    raise late(Reason.POOL_WAIT)
                connection = turn.connection
                if connection is None:
                    return None
                if connection.usable():
                    connection.lease(monotonic())
                    return connection
                with self._lock:
                    self.turns.wait(turn, first=True)
                connection.shut()  # which makes room for a new one
        except BaseException:
            self._leave(turn)
            raise

    def _leave(self, turn: Turn[Target, SyncConnection]) -> None:
        """Stop waiting, and pass on what came all the same."""
        with self._lock:
            gone = self.turns.leave(turn)
        if not gone:
            self._news.append(turn.connection)
        self._note()

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

    # --- the books

    def _take(self, target: Target, now: float, *, fresh: bool) -> tuple[SyncConnection | None, bool]:
        """Return an idle connection, or None and whether a new one may be opened at once."""
        with self._lock:
            pooled = None if fresh else self.pool.take(target, now)
            entered = pooled is None and self.turns.enter()
        if self._news:
            self._note()
        return pooled, entered

    def idle(self, connection: SyncConnection) -> None:
        """Keep a connection that can be used again (called by the connection)."""
        self._news.append(connection)
        self._note()

    def closed(self, connection: SyncConnection) -> None:
        """Forget a connection that is closed (called by the connection)."""
        self.live.discard(connection)
        self._news.append(connection)
        self._note()

    def _note(self) -> None:
        """Enter what is new into the books, unless somebody is at them, who will do it.

        Nobody waits here for the lock: the collector may have called this in the thread that holds it.
        """
        surplus: list[SyncConnection] = []
        while self._news and self._lock.acquire(blocking=False):
            try:
                while self._news:
                    self._enter(self._news.popleft(), surplus)
            finally:
                self._lock.release()
            while surplus:
                surplus.pop().close()

    def _enter(self, connection: SyncConnection | None, surplus: list[SyncConnection]) -> None:
        if connection is None or connection.closing:
            if connection is not None:
                self.pool.remove(connection)
            self.turns.over()
            return
        if self._over:
            surplus.append(connection)
            return
        if connection.era != self._era:
            connection.era = self._era
            if self._keep is not None and not self._keep(connection.target):
                surplus.append(connection)
                return
        if self.turns.waiting:
            if not self.turns.offer(connection.target, connection):
                surplus.append(connection)  # closed, it makes room for one that leads where the first of those wants to
            return
        now = monotonic()
        surplus += self.pool.put(connection.target, connection, now)
        if self._next_expiry == inf:
            self._next_expiry = now + self.pool.limits.expiry

    def _expire(self, now: float) -> None:
        with self._lock:
            expired = self.pool.expire(now)
            when = self.pool.next_expiry()
            self._next_expiry = inf if when is None else when
        for connection in expired:
            connection.close()
        self._note()

    def count(self) -> tuple[int, int]:
        """Return how many connections are open, and how many of them idle."""
        live, idle = (0, 0) if self._http2 is None else self._http2.count()
        return live + len(self.live), idle + len(self.pool)

    def drop_idle(self, keep: Callable[[Target], bool]) -> int:
        """Close the idle connections whose target is not to be kept, as after a revoked rule; returns how many.

        Those in use, or being made, are closed when they become idle.
        """
        with self._lock:
            self._era += 1
            self._keep = keep
            doomed = self.pool.drop(lambda target: not keep(target))
        for connection in doomed:
            connection.close()
        self._note()
        return len(doomed) + (0 if self._http2 is None else self._http2.drop_idle(keep))

    def close(self) -> None:
        """Close every connection; those in use end with an error in the threads that use them."""
        if self.pid != os.getpid():
            self.start_anew()
        with self._lock:
            self._over = True
            idle = self.pool.clear()
        for connection in idle:
            connection.close()
        for connection in list(self.live):
            connection.interrupt()
        self._note()
        if self._http2 is not None:
            self._http2.close()


def _threads(wire: SyncWire) -> Http2Threads:
    from fazt.net.http2_threads import Http2Threads  # not before anybody asks for HTTP/2

    return Http2Threads(wire)
