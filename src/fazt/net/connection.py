"""One connection as a call uses it: a request out, its response in, under caps and a deadline."""

from __future__ import annotations

import asyncio
import math
import select
import socket
from collections.abc import Callable

from fazt.core.call import Fields, Phases, ResponseHead, Target, Upload
from fazt.errors import CallerError, FaztError, Reason, StaleConnectionError
from fazt.net.forked import forks
from fazt.net.http1 import ResponseReader
from fazt.net.link import Link, Owner, cause_of
from fazt.net.upload import async_pieces

HIGH_WATER = 256 * 1024
"""Bytes of body that may wait unread before the server is made to wait."""
_SMALL_BODY = 64 * 1024
"""Bodies up to this many bytes are sent together with the head."""


class Connection(Link):
    """A connection in use by one call at a time.

    Attributes:
        target: where it leads and under which grant it was made.
        address: the judged address it is connected to.
        reused: whether it served a call before this one.
        era: for the owner: which of its judgements about what is kept this one has passed.
    """

    __slots__ = (
        "_busy",
        "_fed",
        "_hung_up",
        "_leased",
        "_pause_at",
        "_poll",
        "_raised",
        "_read_limit",
        "_reader",
        "_seen",
        "_touched",
        "_wake_at",
        "_write_limit",
        "era",
        "reused",
    )

    def __init__(self, owner: Owner, target: Target, *, sock: socket.socket, address: str) -> None:
        super().__init__(owner, target, sock=sock, address=address)
        self._reader = ResponseReader()
        self._leased = False
        self._busy = False
        """Between the first byte of a request and the release."""
        self._hung_up = False
        """The peer ended the connection during this call."""
        self._wake_at = -1
        self._pause_at = HIGH_WATER
        self._poll: select.poll | None = None
        self._read_limit: float | None = None
        self._write_limit: float | None = None
        self._touched = 0.0
        """When the current wait's limit began to run: the last sign of progress."""
        self._seen: tuple[int, int, int] = (0, 0, 0)
        """What was left to be written when it was last looked at."""
        self._fed = 0
        """Pieces of an upload that were written."""
        self._raised: BaseException | None = None
        """What the upload's iterator raised."""
        self.reused = False
        self.era = -1

    def __repr__(self) -> str:
        state = "closed" if self._closing else "in use" if self._leased else "idle"
        return f"<Connection {self.target.scheme}://{self.target.host}:{self.target.port} {state}>"

    # --- one call

    def lease(self) -> Connection:
        """Hand the connection to one call, until `release` or `abort`; returns it."""
        self._leased = True
        return self

    def unasked(self, data: bytes) -> None:
        """Take what came before anything was asked."""
        self._take(data)

    async def send(
        self,
        head: bytes,
        body: bytes | None,
        *,
        deadline: float,
        on_sent: Callable[[], None],
        method: str = "GET",
        upload: Upload | None = None,
        phases: Phases | None = None,
    ) -> ResponseHead:
        """Write a request and read the head of its response.

        The response is read while the body is still being written, and also after writing has failed: a server may
        refuse a large upload and stop reading it.

        Args:
            head: as `http1.encode_head` returns it.
            body: the whole body, or None.
            deadline: seconds on the loop's clock.
            on_sent: called when the first byte is handed to the socket.
            method: decides with HEAD that the response has no body.
            upload: a body in pieces, in place of `body`; what its iterator raises is passed on.
            phases: limits of single waits (`read`, `write`).

        Raises:
            StaleConnectionError: a reused connection was gone before a byte of the response came.
            FaztError: `first_byte` at the deadline, `write`, `protocol`, `response_headers`, `tls_failed`,
                `bad_option` when an upload is not as long as it said.
        """
        if self._busy or not self._leased:
            raise FaztError(Reason.INTERNAL, "An internal error.", detail="a connection was used out of turn")
        if self._closing or self._eof:
            self.abort()
            if self.reused:
                raise StaleConnectionError(sent=False)
            raise self._error or FaztError(Reason.PROTOCOL, "The server closed the connection before it was asked.")
        reader = self._reader
        reader.begin(head_only=method == "HEAD")
        self._busy = True
        self._wake_at, self._pause_at = -1, HIGH_WATER
        if phases is None:
            self._read_limit = self._write_limit = None
        else:
            self._read_limit, self._write_limit, self._touched = phases.read, phases.write, self._loop.time()
        on_sent()
        try:
            if upload is not None:
                self._write(head)
                self._feeder = self._loop.create_task(self._feed(upload))
            elif not body:
                self._write(head)
            elif len(body) <= _SMALL_BODY:
                self._write(head + body)
            else:
                self._write(head)
                self._outbox = memoryview(body)
                self._pump()
            if reader.head is None and self._error is None:
                await self._wait(Reason.FIRST_BYTE, deadline=deadline)
        except BaseException:
            self.abort()
            raise
        if reader.head is not None:
            return reader.head
        if self._raised is not None:
            self.abort()
            raise self._raised
        error = self._error or FaztError(Reason.PROTOCOL, "The server closed the connection before it answered.")
        self.abort()
        if self._hung_up and self.reused and reader.untouched:
            raise StaleConnectionError(sent=True, detail=error.detail)
        raise error

    async def _feed(self, upload: Upload) -> None:
        """Write a body that comes in pieces, each when the transport has room for it."""
        try:
            async for piece in async_pieces(upload):
                while self._full and not self._closing:
                    self._gap = self._loop.create_future()
                    await self._gap
                if self._closing or self._transport is None or self._transport.is_closing():
                    return
                self._write(piece)
                self._fed += 1
            self._touched = self._loop.time()
        except FaztError as error:
            self._fail(error)
        except (Exception, CallerError) as error:  # noqa: BLE001 - the caller's own iterator may raise anything: it goes back to the caller
            self._raised = error
            self.shut()
        finally:
            if self._feeder is asyncio.current_task(self._loop):
                self._feeder = None

    def _limit(self) -> tuple[float, Reason]:
        """Return when this wait is too long already: nothing was written, or nothing came, for so many seconds."""
        if self._write_limit is not None and self._unsent():
            left = 0 if self._outbox is None else self._outbox.nbytes
            held = 0 if self._transport is None else self._transport.get_write_buffer_size()
            if self._seen != (left, held, self._fed) or not held:  # with nothing to write it is the caller who is slow
                self._seen = (left, held, self._fed)
                self._touched = self._loop.time()
            return self._touched + self._write_limit, Reason.WRITE
        if self._read_limit is None or self._feeder is not None:
            return math.inf, self._phase
        return self._touched + self._read_limit, self._phase

    async def read(self, *, cap: int, deadline: float, idle: float | None = None) -> bytes:
        """Read the whole body.

        Args:
            cap: bytes it may have at most.
            deadline: seconds on the loop's clock.
            idle: seconds between any two pieces of it; None: no limit of its own.

        Raises:
            FaztError: `response_body` when it is or says that it will be longer than `cap`, `body` at the deadline,
                `protocol` when it is broken or cut off.
        """
        reader = self._reader
        if reader.done and reader.size <= cap:
            return reader.take()
        try:
            if reader.length is not None and reader.length > cap:
                raise _too_large(cap)
            self._allow(idle)
            while not reader.done and reader.size <= cap:
                await self._more(wake_at=cap, pause_at=max(cap, HIGH_WATER), deadline=deadline)
            if reader.size > cap:
                raise _too_large(cap)
        except BaseException:
            self.abort()
            raise
        return reader.take()

    async def read_some(self, *, deadline: float = math.inf, idle: float | None = None) -> bytes:
        """Read what there is of the body, or wait for more; empty at its end.

        Args:
            deadline: seconds on the loop's clock.
            idle: seconds to wait at most; None: no limit of its own.

        Raises:
            FaztError: as `read`.
        """
        reader = self._reader
        try:
            if not reader.size and not reader.done:
                self._allow(idle)
            while not reader.size and not reader.done:
                await self._more(wake_at=0, pause_at=HIGH_WATER, deadline=deadline)
        except BaseException:
            self.abort()
            raise
        data = reader.take()
        self._resume()
        return data

    def _allow(self, idle: float | None) -> None:
        """Begin to wait for the body."""
        self._read_limit, self._write_limit = idle, None
        if idle is not None:
            self._touched = self._loop.time()

    async def _more(self, *, wake_at: int, pause_at: int, deadline: float) -> None:
        """Wait until the message is complete, more than `wake_at` bytes are there, or something went wrong."""
        if self._raised is not None:
            raise self._raised
        if self._error is not None:
            raise self._error
        if self._closing:
            raise FaztError(Reason.PROTOCOL, "The connection was closed before the end of the answer.")
        self._wake_at, self._pause_at = wake_at, pause_at
        self._resume()
        await self._wait(Reason.BODY, deadline=deadline)

    @property
    def trailers(self) -> Fields:
        """Fields that came after a chunked body; never mixed with the head's."""
        return self._reader.trailers

    @property
    def complete(self) -> bool:
        """Whether the whole response has arrived."""
        return self._reader.done

    def release(self) -> None:
        """Give the connection back: for reuse if request and response are complete and nothing else came.

        Without effect when it was given back already; whoever gave it back must forget it.
        """
        if not self._leased:
            return
        reader = self._reader
        if (
            self._busy
            and reader.done
            and reader.keep
            and not (reader.extra or self._closing or self._eof or self._unsent())
            and self._error is None
            and self._born == forks()
        ):
            self._busy = self._leased = False
            self.reused = True
            reader.take()
            self._resume()
            self._owner.idle(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once, whatever state the call is in; without effect when it was given back."""
        if self._leased:
            self._leased = self._busy = False
            self.shut()

    def usable(self) -> bool:
        """Say whether an idle connection may carry another request: nothing came meanwhile, not even its end.

        The event loop may not have seen yet what the kernel holds, so the kernel is asked: bytes that wait now would
        be taken for the answer to the next request.
        """
        if self._closing or self._eof or self._born != forks():
            return False
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._sock, select.POLLIN)
        return not self._poll.poll(0)

    # --- what comes from the link

    def _take(self, data: bytes) -> None:
        if not self._busy:  # nobody asked for this: a banner, or an answer to a request that was never made
            self._fail(FaztError(Reason.PROTOCOL, "The server sent what was not asked for."))
            return
        reader = self._reader
        try:
            reader.feed(data)
        except FaztError as error:
            self._fail(error)
            return
        if self._read_limit is not None:
            self._touched = self._loop.time()
        if self._waiter is not None and (reader.done or (reader.size > self._wake_at and reader.head is not None)):
            self._wake()
        if reader.size > self._pause_at:
            self._pause()

    def _end(self, *, clean: bool, cause: str | None = None) -> None:
        if not self._busy:
            self.close()
            return
        self._hung_up = True
        try:
            self._reader.eof(clean=clean)
        except FaztError as error:
            error.detail = cause
            self._error = self._error or error
        self._wake()

    def _lose(self, exc: BaseException | None) -> None:
        if not self._busy or self._eof or self._error is not None:
            return
        if not self._reader.done:
            # Linux says EPIPE, not ECONNRESET, when the peer's FIN had come before its RST
            self._drain(ended=isinstance(exc, BrokenPipeError))
        if not (self._reader.done or self._eof or self._error is not None):
            self._end(clean=False, cause=cause_of(exc))

    def _in_use(self) -> bool:
        return self._busy


def _too_large(cap: int) -> FaztError:
    return FaztError(Reason.RESPONSE_BODY, f"The response is larger than {cap} bytes.")
