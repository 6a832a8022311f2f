"""One connection as a call that blocks uses it: a request out, its response in, under caps and a deadline."""

from __future__ import annotations

import math
import select
import socket
from collections.abc import Callable
from time import monotonic

from fazt.core.call import Fields, Phases, ResponseHead, Target, Upload
from fazt.errors import FaztError, Reason, StaleConnectionError
from fazt.net.sync_intake import SyncIntake
from fazt.net.sync_link import PIECE, Owner
from fazt.net.timeouts import late
from fazt.net.upload import pieces, slices

_SMALL_BODY = 64 * 1024
"""Bodies up to this many bytes are sent together with the head."""
_TLS_ROOM = PIECE + 32 * 1024
"""What a piece says when decrypted, with what waited of an earlier record, takes no more room than this."""
_LATELY = 0.001
"""Seconds for which what the kernel said about an idle connection is believed."""


class SyncConnection(SyncIntake):
    """A connection in use by one call at a time.

    Attributes:
        target: where it leads and under which grant it was made.
        address: the judged address it is connected to.
        reused: whether it served a call before this one.
        era: for the owner: which of its judgements about what is kept this one has passed.
    """

    __slots__ = ("_busy", "_looked", "era", "leased", "reused")

    def __init__(self, owner: Owner, target: Target, *, sock: socket.socket, address: str) -> None:
        super().__init__(owner, target, sock=sock, address=address)
        self._busy = False
        """Between the first byte of a request and the release."""
        self._looked = -math.inf
        """When it was last seen that nothing unasked had come."""
        self.leased = False
        self.reused = False
        self.era = -1

    def __repr__(self) -> str:
        state = "closed" if self.closing else "in use" if self.leased else "idle"
        return f"<SyncConnection {self.target.scheme}://{self.target.host}:{self.target.port} {state}>"

    # --- one call

    def lease(self, now: float) -> None:
        """Hand the connection to one call, until `release` or `abort`; `now` is when `usable` was asked, or -inf."""
        self.leased = True
        self._looked = now

    def send(
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
        refuse a large upload and stop reading it. What is not written yet when the head came is written by `read`.

        Args:
            head: as `http1.encode_head` returns it.
            body: the whole body, or None.
            deadline: seconds on the monotonic clock.
            on_sent: called when the first byte is about to be handed to the socket.
            method: decides with HEAD that the response has no body.
            upload: a body in pieces, in place of `body`; what its iterator raises is passed on.
            phases: limits of single waits (`read`, `write`).

        Raises:
            StaleConnectionError: a reused connection was gone before a byte of the response came.
            FaztError: `first_byte` at the deadline, `write`, `protocol`, `response_headers`, `tls_failed`,
                `bad_option` when an upload is not as long as it said.
        """
        if self._busy or not self.leased:
            raise FaztError(Reason.INTERNAL, "An internal error.", detail="a connection was used out of turn")
        if (self.closing or monotonic() - self._looked > _LATELY) and not self.usable():
            self.abort()
            if self.reused:
                raise StaleConnectionError(sent=False)
            raise self._error or FaztError(Reason.PROTOCOL, "The server closed the connection before it was asked.")
        reader = self._reader
        reader.begin(head_only=method == "HEAD")
        self._busy = True
        self._size = PIECE
        on_sent()
        try:
            if upload is not None:
                self._source = pieces(upload)
            elif body is not None and len(body) > _SMALL_BODY:
                self._source = slices(body)
            elif body:
                head += body
            self._begin(head)
            if self._raw is not None or self._source is not None:
                self._upload(deadline, None if phases is None else phases.write)
            idle = None if phases is None else phases.read
            while reader.head is None:
                self._step(PIECE, deadline=deadline, idle=idle, reason=Reason.FIRST_BYTE)
        except FaztError as error:
            self.abort()
            if self._ended and self.reused and reader.untouched:
                raise StaleConnectionError(sent=True, detail=error.detail) from None
            raise
        except BaseException:
            self.abort()
            raise
        return reader.head

    def _begin(self, head: bytes) -> None:
        """Hand the socket the first bytes of a request."""
        data = head if self._tls is None else self._tls.encrypt(head)
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            if self.reused:  # it was closed meanwhile: what waits to be read was not meant for this request
                raise StaleConnectionError(sent=False, detail=error.strerror) from None
            self._cannot_write(error)
            return
        if sent < len(data):
            self._raw = memoryview(data)[sent:]

    def _upload(self, deadline: float, write: float | None) -> None:
        """Write the rest of the request, until all is gone or the final response has begun to come."""
        reader = self._reader
        while reader.head is None:
            until, reason = deadline, Reason.FIRST_BYTE
            if write is not None and (limit := monotonic() + write) < deadline:
                until, reason = limit, Reason.WRITE
            ready = self._wait_to_write(until, reason)
            if ready & ~select.POLLOUT:
                self._receive(PIECE)
            if ready & ~select.POLLIN and self._pump():
                return

    def read(self, *, cap: int, deadline: float, idle: float | None = None) -> bytes:
        """Read the whole body.

        Args:
            cap: bytes it may have at most.
            deadline: seconds on the monotonic clock.
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
            while not reader.done and reader.size <= cap:
                self._step(self._size, deadline=deadline, idle=idle, reason=Reason.BODY)
            if reader.size > cap:
                raise _too_large(cap)
        except BaseException:
            self.abort()
            raise
        return reader.take()

    def read_some(self, *, deadline: float = math.inf, idle: float | None = None) -> bytes:
        """Read what there is of the body, or wait for more; empty at its end.

        Args:
            deadline: seconds on the monotonic clock.
            idle: seconds to wait at most; None: no limit of its own.

        Raises:
            FaztError: as `read`.
        """
        reader = self._reader
        try:
            while not reader.size and not reader.done:
                self._step(self._size, deadline=deadline, idle=idle, reason=Reason.BODY)
        except BaseException:
            self.abort()
            raise
        return reader.take()

    def read_view(
        self, buffer: memoryview, *, deadline: float = math.inf, idle: float | None = None
    ) -> bytes | memoryview:
        """Read what there is of the body, as `read_some`, in the given buffer where the kernel can put it there.

        Args:
            buffer: room for a piece (256 KiB serve best).
            deadline: seconds on the monotonic clock.
            idle: seconds to wait at most; None: no limit of its own.

        Returns:
            Bytes, or a part of `buffer`, good until the next call.

        Raises:
            FaztError: as `read`.
        """
        reader = self._reader
        direct = reader.direct
        least = PIECE if self._tls is None else _TLS_ROOM
        if direct < least or len(buffer) < least or self._raw is not None or self._source is not None:
            return self.read_some(deadline=deadline, idle=idle)
        try:
            if monotonic() >= deadline:
                raise late(Reason.BODY)
            while True:
                if self._drained:
                    self._wait(deadline if idle is None else min(deadline, monotonic() + idle), Reason.BODY)
                if self._tls is not None:
                    number = self._receive_view(self._tls, buffer, direct)
                    if not number and not self._ended:
                        continue
                    return buffer[:number]
                room = min(direct, len(buffer))
                try:
                    number = self._sock.recv_into(buffer, room)
                except BlockingIOError:
                    self._drained = True
                    continue
                except OSError as error:
                    self._end(clean=False, cause=error.strerror or str(error))
                    return b""
                self._drained = number < room
                if not number:
                    self._end(clean=not self._forged)
                    return b""
                reader.passed(number)
                return buffer[:number]
        except BaseException:
            self.abort()
            raise

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
        if not self.leased:
            return
        reader = self._reader
        if (
            self._busy
            and reader.done
            and reader.keep
            and not (reader.extra or self.closing or self._ended or self._interrupted)
            and self._raw is None
            and self._source is None
            and self._error is None
            and self._born == self._owner.pid
        ):
            self._busy = self.leased = False
            self.reused = True
            reader.take()
            self._owner.idle(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once, whatever state the call is in; without effect when it was given back."""
        if self.leased:
            self.leased = self._busy = False
            self.shut()


def _too_large(cap: int) -> FaztError:
    return FaztError(Reason.RESPONSE_BODY, f"The response is larger than {cap} bytes.")
