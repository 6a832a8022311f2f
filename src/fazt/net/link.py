"""Bytes to and from one server: the event loop's transport, TLS, flow control, waiting under a deadline, the end.

`net.connection` speaks HTTP on top of it.
"""

from __future__ import annotations

import asyncio
import math
import socket
from typing import TYPE_CHECKING, Any, Protocol, cast

from fazt.core.call import Target
from fazt.errors import FaztError, Reason
from fazt.net.forked import abandon, forks
from fazt.net.timeouts import given_up, late
from fazt.net.tls import TlsSession

if TYPE_CHECKING:
    from fazt.net.deadlines import Deadlines

_PIECE = 64 * 1024
"""Bytes written or drained at a time."""
_MAX_DRAIN = 1024 * 1024


class Owner(Protocol):
    """Who opened a link."""

    deadlines: Deadlines

    def idle(self, link: Any, /) -> None:
        """Take back a link that can be used again."""

    def closed(self, link: Any, /) -> None:
        """Forget a link that is closed or closing."""


class Link(asyncio.Protocol):
    """An open socket to a judged address, with TLS where the target has it.

    TLS, what is still to be written and what has arrived are kept here rather than in the loop's own layers, so that
    the answer of a server that stopped reading can be read, and both loops behave alike.
    """

    __slots__ = (
        "_born",
        "_closing",
        "_eof",
        "_error",
        "_feeder",
        "_full",
        "_gap",
        "_handshaking",
        "_loop",
        "_outbox",
        "_owner",
        "_paused",
        "_phase",
        "_sock",
        "_tls",
        "_transport",
        "_until",
        "_waiter",
        "address",
        "target",
    )

    def __init__(self, owner: Owner, target: Target, *, sock: socket.socket, address: str) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._born = forks()
        self._sock = sock
        self._transport: asyncio.Transport | None = None
        self._tls: TlsSession | None = None
        self._handshaking = False
        self._waiter: asyncio.Future[None] | None = None
        self._phase = Reason.CONNECT
        self._until = math.inf
        self._closing = False
        """Closed by us or gone: nothing more can be sent."""
        self._eof = False
        """The peer said that it sends no more."""
        self._error: FaztError | None = None
        """What went wrong first."""
        self._outbox: memoryview | None = None
        self._feeder: asyncio.Task[None] | None = None
        """Writes a body that comes in pieces."""
        self._gap: asyncio.Future[None] | None = None
        """What the feeder waits for while the transport's buffer is full."""
        self._full = False
        self._paused = False
        self.target = target
        self.address = address

    # --- what the layer above does with it

    def _take(self, data: bytes) -> None:
        raise NotImplementedError

    def _end(self, *, clean: bool) -> None:
        raise NotImplementedError

    def _lose(self, exc: BaseException | None) -> None:
        raise NotImplementedError

    def _in_use(self) -> bool:
        raise NotImplementedError

    def _limit(self) -> tuple[float, Reason]:
        """Return when this wait is too long already, apart from its deadline, and what to say then."""
        return math.inf, self._phase

    # --- opening

    async def open(self, *, tls: TlsSession | None, deadline: float) -> None:
        """Take over the connected socket and make it secure where a session is given.

        Raises:
            FaztError: `tls_failed`, or `tls_handshake` at the deadline.
        """
        self._tls = tls
        self._handshaking = tls is not None
        await self._loop.create_connection(lambda: self, sock=self._sock)
        if tls is None:
            return
        if self._handshaking and self._error is None:
            self._shake_hands(b"")
        if self._handshaking and self._error is None:
            await self._wait(Reason.TLS_HANDSHAKE, deadline=deadline)
        if self._error is not None:
            raise self._error
        if self._closing or self._eof:
            raise _broken_handshake()

    def adopt(self, other: Link) -> None:
        """Take over the connection of another link, made while it was not known what the server speaks."""
        self._transport, other._transport = other._transport, None
        self._tls, self._eof, self._error = other._tls, other._eof, other._error
        self._closing, self._full = other._closing, other._full
        if self._transport is not None:
            self._transport.set_protocol(self)

    def _shake_hands(self, data: bytes) -> None:
        tls = self._tls
        assert tls is not None
        try:
            complete = tls.handshake(data)
        except FaztError as error:
            self._send_raw(tls.outgoing())  # the alert that tells the peer why
            self._fail(error)
            return
        self._send_raw(tls.outgoing())
        if complete:
            self._handshaking = False
            self._wake()
            self._take_tls(b"")  # what came in one segment with the end of the handshake

    # --- closing

    def shut(self) -> None:
        """Close at once, idle or in use."""
        if self._born != forks():  # it is the parent's
            abandon(self)
            return
        self._outbox = None
        if not self._closing:
            self._closing = True
            self._owner.closed(self)
            if self._transport is not None:
                self._transport.abort()
        self._stop_feeding()
        self._wake()

    def close(self) -> None:
        """Close an idle link politely: with TLS's close_notify."""
        if self._closing or self._born != forks():
            self.shut()
            return
        self._closing = True
        self._owner.closed(self)
        if self._transport is not None:
            if self._tls is not None:
                self._send_raw(self._tls.close())
            self._transport.close()

    def interrupt(self) -> None:
        """Close at once, under the call that uses it."""
        self._fail(given_up())

    def abandon(self) -> None:
        """Drop a link whose event loop is over, or which a fork has inherited: neither is spoken to again."""
        self._closing = True
        if self._born != forks():
            abandon(self)
            return
        try:
            if self._transport is not None:
                self._transport.abort()
        except RuntimeError:  # the loop is closed and can't run what closes the socket
            self._sock.close()

    def _fail(self, error: FaztError) -> None:
        if self._error is None:
            self._error = error
        self.shut()

    # --- waiting

    async def _wait(self, phase: Reason, *, deadline: float) -> None:
        waiter = self._waiter = self._loop.create_future()
        self._phase, self._until = phase, deadline
        deadlines = self._owner.deadlines
        deadlines.add(self, min(deadline, self._limit()[0]))
        try:
            await waiter
        finally:
            self._waiter = None
            deadlines.discard(self)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def expire(self) -> None:
        """End the wait, if its deadline has passed and not only what was its limit at first (called by `Deadlines`)."""
        now = self._loop.time()
        reason = self._phase
        if now < self._until:
            limit, reason = self._limit()
            if limit > now:
                self._owner.deadlines.add(self, min(limit, self._until))
                return
        self._fail(late(reason))

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = made = cast("asyncio.Transport", transport)  # uvloop's is of no class of asyncio's
        if self._closing:  # given up while the loop was taking over the socket
            made.abort()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the network."""
        if self._tls is None:
            self._take(data)
        elif self._handshaking:
            self._shake_hands(data)
        else:
            self._take_tls(data)

    def _take_tls(self, data: bytes) -> None:
        tls = self._tls
        assert tls is not None
        try:
            plain = tls.decrypt(data)
        except FaztError as error:
            self._send_raw(tls.outgoing())
            self._fail(error)
            return
        self._send_raw(tls.outgoing())
        if plain:
            self._take(plain)
        if tls.closed and not self._eof:
            self._eof = True
            self._end(clean=True)

    def eof_received(self) -> bool:
        """Note that the server sends no more; what is still to be written may go on."""
        if self._handshaking:
            self._fail(_broken_handshake())
        elif not self._eof:
            self._eof = True
            self._end(clean=self._tls is None)
        return self._in_use()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note that the connection is gone."""
        gone_already, self._closing = self._closing, True
        if not gone_already:
            self._owner.closed(self)
        self._full = False
        if self._handshaking and self._error is None:
            self._error = _broken_handshake(cause_of(exc))
        else:
            self._lose(exc)
        self._transport = None
        self._outbox = None
        self._stop_feeding()
        self._wake()

    def _drain(self, *, ended: bool) -> None:
        """Read what the kernel holds of a connection that is being closed: the loop would throw it away.

        Writing fails when the server stopped reading; it may have said why (RFC 9112 section 9.3).

        Args:
            ended: whether the end of the stream counts as the peer's; after a reset the kernel reports one as well.
        """
        taken = 0
        while taken < _MAX_DRAIN and not self._eof and self._error is None:
            try:
                data = self._sock.recv(_PIECE)
            except OSError:  # nothing more, or the reset itself
                return
            taken += len(data)
            if data:
                self.data_received(data)
            elif ended:
                self.eof_received()
            else:
                return

    def pause_writing(self) -> None:
        """Stop writing: the transport's buffer is full."""
        self._full = True

    def resume_writing(self) -> None:
        """Go on writing."""
        self._full = False
        if self._outbox is not None:
            self._pump()
        elif self._gap is not None and not self._gap.done():
            self._gap.set_result(None)

    # --- writing

    def _pump(self) -> None:
        """Write pieces of the outbox until the transport's buffer is full."""
        while self._outbox is not None and not self._full and not self._closing:
            transport = self._transport
            if transport is None or transport.is_closing():
                return
            piece, rest = self._outbox[:_PIECE], self._outbox[_PIECE:]
            self._outbox = rest if rest.nbytes else None
            self._write(piece)

    def _write(self, data: bytes | memoryview) -> None:
        if self._tls is not None:
            try:
                data = self._tls.encrypt(data)
            except FaztError as error:
                self._fail(error)
                return
        if self._transport is not None:
            self._transport.write(data)

    def _stop_feeding(self) -> None:
        """Give up on a body that comes in pieces: nobody takes it any more."""
        feeder = self._feeder
        if feeder is not None and feeder is not asyncio.current_task(self._loop):
            self._feeder = None
            feeder.cancel()

    def _send_raw(self, data: bytes) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _unsent(self) -> bool:
        """Whether anything of the request has not left yet, or never will: a transport that closes takes no more."""
        transport = self._transport
        return (
            self._outbox is not None
            or self._feeder is not None
            or (transport is not None and (transport.get_write_buffer_size() != 0 or transport.is_closing()))
        )

    # --- reading

    def _pause(self) -> None:
        if not self._paused and not self._closing and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            if self._transport is not None and not self._closing:
                self._transport.resume_reading()


def cause_of(exc: BaseException | None) -> str | None:
    """Return what ended a connection, for the operator."""
    return None if exc is None else str(exc) or type(exc).__name__


def _broken_handshake(detail: str | None = None) -> FaztError:
    message = "The server closed the connection during the TLS handshake."
    return FaztError(Reason.TLS_FAILED, message, detail=detail)
