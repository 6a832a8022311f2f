"""One connection that many calls share: its bytes, its streams, its end."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from fazt.core.call import Target
from fazt.errors import FaztError, Reason
from fazt.net import http2_frames as frames
from fazt.net.connection import Connection
from fazt.net.forked import forks
from fazt.net.http2 import Http2Stream
from fazt.net.http2_mux import Gone, Mux
from fazt.net.link import Link, cause_of
from fazt.net.tls import TlsSession

if TYPE_CHECKING:
    from fazt.net.http2_sharing import Sharing

_MAX_ANSWERS = 1024 * 1024
"""Bytes that may wait to be written when one more answer to a setting or a ping is; calls wait far below."""


class Http2Link(Link):
    """A TLS connection to a judged address, over which HTTP/2 is spoken when the server chooses so.

    It stands in the pool like any other while no call uses it; `lease` begins a stream.

    Attributes:
        era: for the owner: which of its judgements about what is kept this one has passed.
        farewell: why the server said that it goes.
        served: how many streams it has had.
    """

    __slots__ = (
        "_draining",
        "_frames",
        "_held",
        "_poll",
        "_sharing",
        "_tasks",
        "era",
        "farewell",
        "mux",
        "served",
        "streams",
    )

    def __init__(self, sharing: Sharing, target: Target, *, sock: socket.socket, address: str) -> None:
        super().__init__(sharing.wire, target, sock=sock, address=address)
        self._sharing = sharing
        self._held: bytes | None = b""
        """What came before it was known which protocol the server chose; None from then on."""
        self._frames = frames.FrameReader()
        self._draining = False
        """The server takes no more requests on this connection."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._poll: select.poll | None = None
        self.streams: set[Http2Stream] = set()
        self.mux: Mux
        self.farewell: str | None = None
        self.era = -1
        self.served = 0

    def __repr__(self) -> str:
        state = "closed" if self._closing else f"{len(self.streams)} streams"
        return f"<Http2Link {self.target.host}:{self.target.port} {state}>"

    # --- beginning

    async def settle(self, tls: TlsSession, *, deadline: float) -> Http2Stream | Connection:
        """Shake hands; returns a stream, or a connection of HTTP/1.1 where the server chose that.

        Raises:
            FaztError: as `open`.
        """
        await self.open(tls=tls, deadline=deadline)
        held, self._held = self._held or b"", None
        if tls.protocol == "h2":
            self.mux = Mux(self)
            self._take(held)
            return self.lease()
        wire = self._sharing.wire
        connection = Connection(wire, self.target, sock=self._sock, address=self.address)
        connection.adopt(self)
        wire.live.discard(self)
        wire.live.add(connection)
        if held:
            connection.unasked(held)
        return connection.lease()

    # --- its streams

    def lease(self) -> Http2Stream:
        """Begin a stream for one call."""
        stream = Http2Stream(self, reused=self.served > 0)
        self.served += 1
        if not self.streams:
            self._sharing.share(self)
        self.streams.add(stream)
        return stream

    @property
    def alive(self) -> bool:
        """Whether new streams may begin."""
        return not (self._closing or self._eof or self._draining) and self._born == forks()

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self._closing or self._eof

    @property
    def error(self) -> FaztError | None:
        """What went wrong with the connection, anew for each call that asks."""
        error = self._error
        return None if error is None else FaztError(error.reason, error.message, detail=error.detail)

    def has_room(self) -> bool:
        """Say whether one more stream may begin now."""
        return self.alive and len(self.streams) < self.mux.room

    def leave(self, stream: Http2Stream, ending: Coroutine[Any, Any, None] | None) -> None:
        """Take out a stream whose call has ended.

        Args:
            stream: one of this connection's.
            ending: what is still to be done for it.
        """
        if stream not in self.streams:
            return
        if ending is not None:
            self.do(ending)
        self.streams.discard(stream)
        if self.streams:
            return
        self._sharing.unshare(self)
        if self.alive:
            self._owner.idle(self)
        else:
            self.close()

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something done that nobody waits for."""
        if self._closing or self._loop.is_closed() or self._born != forks():
            work.close()
            return
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def usable(self) -> bool:
        """Say whether an idle connection may carry another request: what the kernel holds of it is looked at first."""
        if not self.alive:
            return False
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._sock, select.POLLIN)
        if self._poll.poll(0):
            self._drain(ended=True)
        return self.alive

    # --- bytes

    async def write(self, data: bytes) -> None:
        """Write all of it at once, so that no cancelled call leaves half a frame; wait until there is room for more.

        Raises:
            Gone: the connection is closed.
        """
        if not data:
            return
        if self._closing:
            raise Gone
        self._write(data)
        while self._full and not self._closing:
            self._gap = self._loop.create_future()
            await self._gap

    def push(self, data: bytes) -> None:
        """Write without waiting, where that is still possible: what answers the server, and it must take that, too."""
        if not data or self._closing:
            return
        if self._transport is not None and self._transport.get_write_buffer_size() > _MAX_ANSWERS:
            self._fail(FaztError(Reason.PROTOCOL, "The server asks for more than it takes."))
            return
        self._write(data)

    # --- what comes from the link

    def _take(self, data: bytes) -> None:
        if self._held is not None:
            self._held += data
            return
        try:
            passed = b"".join([self._look_at(frame) for frame in self._frames.feed(data)])
        except FaztError as error:
            self._fail(error)
            return
        if passed:
            self.feed(passed)
        if self._draining and not self.streams:
            self.close()

    def _look_at(self, frame: frames.Frame) -> bytes:
        """Return what the streams shall see of a frame."""
        if frame.kind != frames.GOAWAY:
            return frame.raw
        # h2 would end the connection here; section 6.8 lets the streams go on that the server has begun to look at
        last, code = frames.read_goaway(frame)
        self.drain()
        if code:
            self.farewell = f"GOAWAY with error {code}"
        return b"".join([frames.refuse(stream) for stream in self.mux.under_way() if stream > last])

    def feed(self, data: bytes) -> None:
        """Let the streams see what came; what can't be HTTP/2 ends the connection."""
        try:
            self.mux.feed(data)
        except FaztError as error:
            self._fail(error)

    def speaks_http1(self) -> None:
        """Note that the server wants HTTP/1.1 after all (RFC 9113 section 7, HTTP_1_1_REQUIRED)."""
        self._sharing.only_http1(self.target)
        self.drain()

    def drain(self) -> None:
        """Take no more calls, and close when those there are have ended."""
        self._draining = True
        self._sharing.unshare(self)

    def _end(self, *, clean: bool) -> None:
        self._sharing.unshare(self)
        if not self.streams:
            self.close()
        self._wake()

    def _lose(self, exc: BaseException | None) -> None:
        self._sharing.unshare(self)
        self.farewell = self.farewell or cause_of(exc)
        if self.streams and not self._eof and self._error is None:
            self._drain(ended=True)

    def _in_use(self) -> bool:
        return False

    def _wake(self) -> None:
        super()._wake()
        if self.over and self._held is None:
            self.mux.wake()
        if self._closing and self._gap is not None and not self._gap.done():
            self._gap.set_result(None)

    # --- the end

    def shut(self) -> None:
        """Close at once, idle or in use."""
        self._sharing.unshare(self)
        super().shut()

    def close(self) -> None:
        """Close an idle connection politely."""
        self._sharing.unshare(self)
        if not self._closing and not self._eof and self._held is None and self._born == forks():
            self._write(frames.goodbye())
        super().close()
