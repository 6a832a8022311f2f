"""What a server sends, into the reader: one receive at a time, each with an end; for callers that block."""

from __future__ import annotations

import select
import socket
from time import monotonic

from fazt.core.call import Target
from fazt.errors import FaztError, Reason
from fazt.net.http1 import ResponseReader
from fazt.net.sync_link import PIECE, Owner, SyncLink
from fazt.net.timeouts import given_up, late
from fazt.net.tls import TlsSession

LARGE = 256 * 1024
"""Bytes read at a time once a server fills what is asked for; more falls out of the processor's cache again."""


class SyncIntake(SyncLink):
    """A link whose bytes are an answer; `net.sync_connection` says to which request."""

    __slots__ = ("_drained", "_reader", "_size")

    def __init__(self, owner: Owner, target: Target, *, sock: socket.socket, address: str) -> None:
        super().__init__(owner, target, sock=sock, address=address)
        self._reader = ResponseReader()
        self._drained = True
        """The last read took all that there was."""
        self._size = PIECE
        """Bytes of body to read at a time."""

    def usable(self) -> bool:
        """Say whether an idle connection may carry another request: nothing came meanwhile, not even its end.

        Bytes that wait now would be taken for the answer to the next request. TLS has something to say of its own
        (session tickets); only what it carries counts.
        """
        if self.closing or self._ended:
            return False
        if self._tls is None:
            if not self._poll.poll(0):
                return True
            self._error = _unasked()
            return False
        return self._usable_tls(self._tls)

    def _step(self, size: int, *, deadline: float, idle: float | None, reason: Reason) -> None:
        """Take in one piece of what the server sends, waiting for it; write meanwhile what is still to be written."""
        if self.closing:
            raise FaztError(Reason.PROTOCOL, "The connection was closed before the end of the answer.")
        now = monotonic()
        if now >= deadline:
            raise late(reason)
        until = deadline if idle is None else min(deadline, now + idle)
        while self._raw is not None or self._source is not None:
            ready = self._wait_to_write(until, reason)
            if ready & ~select.POLLIN:
                self._pump()
                until = deadline if idle is None else min(deadline, monotonic() + idle)
            if ready & ~select.POLLOUT:
                self._receive(size)
                return
        if self._drained:
            self._wait(until, reason)
        if not self._receive(size):
            self._wait(until, reason)
            self._receive(size)

    def _receive(self, size: int) -> bool:
        """Take in what the kernel has; returns False when that is nothing.

        Raises:
            FaztError: what is wrong with it, or that it ended too early.
        """
        try:
            data = self._sock.recv(size)
        except BlockingIOError:
            self._drained = True
            return False
        except OSError as error:
            self._end(clean=False, cause=error.strerror or str(error))
            return True
        if len(data) < size:
            self._drained = True
        else:
            self._drained = False
            if self._tls is None:  # of a TLS connection more at a time costs more, not less
                self._size = LARGE
        if self._tls is not None:
            self._receive_tls(data)
        elif data:
            self._reader.feed(data)
        else:
            self._end(clean=not self._forged)
        return True

    def _receive_tls(self, data: bytes) -> None:
        tls = self._tls
        assert tls is not None
        if not data:
            self._end(clean=False)
            return
        try:
            plain = tls.decrypt(data)
        finally:
            self._answer_tls(tls.outgoing())
        if plain:
            self._reader.feed(plain)
        if tls.closed and not self._ended:
            self._end(clean=True)

    def _receive_view(self, tls: TlsSession, buffer: memoryview, direct: int) -> int:
        """Take in what the kernel has, as `_receive`, but put what it says into the buffer; returns how much.

        Args:
            tls: of this connection.
            buffer: with room for at least `_TLS_ROOM` bytes.
            direct: how many of these are body.
        """
        try:
            data = self._sock.recv(PIECE)
        except BlockingIOError:
            self._drained = True
            return 0
        except OSError as error:
            self._end(clean=False, cause=error.strerror or str(error))
            return 0
        self._drained = len(data) < PIECE
        if not data:
            self._end(clean=False)
            return 0
        try:
            number = tls.decrypt_into(data, buffer)
        finally:
            self._answer_tls(tls.outgoing())
        if number:
            body = min(number, direct)
            self._reader.passed(body)
            if body < number:
                self._reader.feed(bytes(buffer[body:number]))
                number = body
        if tls.closed and not self._ended:
            self._end(clean=True)
        return number

    def _answer_tls(self, data: bytes) -> None:
        """Send what the session itself has to say (a key update, an alert), after what waits to be sent."""
        if data:
            self._raw = memoryview(b"".join((self._raw or b"", data)))
            if self._source is None and not self.closing:
                self._pump()

    def _end(self, *, clean: bool, cause: str | None = None) -> None:
        """Note that the peer sends no more.

        Raises:
            FaztError: that it does so too early; `aborted` when it is not the peer that has ended.
        """
        if self._interrupted:
            raise given_up()
        self._ended = True
        try:
            self._reader.eof(clean=clean)
        except FaztError as error:
            error.detail = cause or (self._error.detail if self._error is not None else None)
            raise

    def _usable_tls(self, tls: TlsSession) -> bool:
        try:
            while self._poll.poll(0):
                data = self._sock.recv(PIECE)
                if not data or tls.decrypt(data) or tls.closed:
                    self._error = _unasked()
                    return False
                self._answer_tls(tls.outgoing())
        except FaztError as error:
            self._error = error
            return False
        except OSError:
            return False
        return True


def _unasked() -> FaztError:
    return FaztError(Reason.PROTOCOL, "The server sent what was not asked for.")
