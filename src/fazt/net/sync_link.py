"""Bytes to and from one server for callers that block: the socket itself never does, so that every wait has an end.

`net.sync_connection` speaks HTTP on top of it.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any, Protocol

from fazt.core.call import Target
from fazt.errors import FaztError, Reason
from fazt.net.forked import abandon
from fazt.net.sync_connect import milliseconds
from fazt.net.timeouts import late
from fazt.net.tls import TlsSession

PIECE = 64 * 1024
"""Bytes read at a time."""


class Owner(Protocol):
    """Who opened a link."""

    pid: int

    def idle(self, link: Any, /) -> None:
        """Take back a link that can be used again."""

    def closed(self, link: Any, /) -> None:
        """Forget a link that is closed."""


class SyncLink:
    """An open socket to a judged address, with TLS where the target has it; used by one thread at a time."""

    __slots__ = (
        "__weakref__",
        "_born",
        "_ended",
        "_error",
        "_forged",
        "_interrupted",
        "_owner",
        "_poll",
        "_poll_both",
        "_raw",
        "_sock",
        "_source",
        "_tls",
        "address",
        "closing",
        "target",
    )

    def __init__(self, owner: Owner, target: Target, *, sock: socket.socket, address: str) -> None:
        self._owner = owner
        self._born = owner.pid
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._poll_both: select.poll | None = None
        self._tls: TlsSession | None = None
        self.closing = False
        """Closed by us: the socket is gone."""
        self._ended = False
        """The peer sends no more."""
        self._forged = False
        """An end of the stream would not be the peer's: writing has failed by a reset."""
        self._interrupted = False
        """Closed by another thread while it was in use."""
        self._error: FaztError | None = None
        """What went wrong first."""
        self._raw: memoryview | None = None
        """What the socket has not taken yet."""
        self._source: Iterator[bytes | memoryview] | None = None
        """What is to be written after that."""
        self.target = target
        self.address = address

    # --- opening

    def open(self, *, tls: TlsSession, deadline: float) -> None:
        """Make the connection secure.

        Raises:
            FaztError: `tls_failed`, or `tls_handshake` at the deadline.
        """
        try:
            complete = tls.handshake(b"")
            while True:
                self._send_raw(tls.outgoing(), deadline=deadline)
                if complete:
                    break
                self._wait(deadline, Reason.TLS_HANDSHAKE)
                data = self._sock.recv(PIECE)
                if not data:
                    raise _broken_handshake()
                complete = tls.handshake(data)
        except OSError as error:
            raise _broken_handshake(error) from None
        except FaztError as error:
            if error.reason is Reason.TLS_FAILED:
                self._say(tls.outgoing())  # the alert that tells the peer why
            raise
        self._tls = tls

    def _send_raw(self, data: bytes, *, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                self._wait_to_write(deadline, Reason.TLS_HANDSHAKE)

    def _say(self, data: bytes) -> None:
        """Send what fits, if it does; nobody waits for it."""
        if data:
            try:
                self._sock.send(data)
            except OSError:
                pass

    # --- closing

    def shut(self) -> None:
        """Close at once, idle or in use."""
        if self._born != os.getpid():  # it is the parent's
            self.closing = True
            abandon(self)
            return
        if not self.closing:
            self.closing = True
            self._sock.close()
            self._raw = self._source = None
            self._owner.closed(self)

    def close(self) -> None:
        """Close an idle link politely: with TLS's close_notify."""
        if self._tls is not None and not self.closing and not self._ended and self._born == os.getpid():
            self._say(self._tls.close())
        self.shut()

    def interrupt(self) -> None:
        """End the connection under another thread that uses it; that thread closes it."""
        self._interrupted = True
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is gone already
            pass

    # --- waiting

    def _wait(self, until: float, reason: Reason) -> None:
        """Wait until there is something to read; raises the timeout when `until` passes first."""
        left = until - monotonic()
        while not self._poll.poll(milliseconds(left)):
            left = until - monotonic()
            if left <= 0:
                raise late(reason)

    def _wait_to_write(self, until: float, reason: Reason) -> int:
        """Wait until the socket takes something or there is something to read; returns what poll() says of it."""
        if self._poll_both is None:
            self._poll_both = select.poll()
            self._poll_both.register(self._sock, select.POLLIN | select.POLLOUT)
        while True:
            left = until - monotonic()
            if left <= 0:
                raise late(reason)
            ready = self._poll_both.poll(milliseconds(left))
            if ready:
                return ready[0][1]

    # --- writing

    def _pump(self) -> bool:
        """Hand the socket what it takes of one piece of what is to be written; returns whether nothing is left.

        When writing fails the rest is dropped: the server may have said why, which is read as any answer
        (RFC 9112 section 9.3).
        """
        if self._raw is None and not self._next():
            return True
        raw = self._raw
        assert raw is not None
        try:
            sent = self._sock.send(raw)
        except BlockingIOError:
            return False
        except OSError as error:
            self._cannot_write(error)
            return True
        if sent < raw.nbytes:
            self._raw = raw[sent:]
            return False
        self._raw = None
        return not self._next()  # asked for now, for the answer may come before there is more to write

    def _next(self) -> bool:
        """Get the next piece ready to be written; returns whether there is one."""
        piece = None if self._source is None else next(self._source, None)
        if piece is None:
            self._source = None
            return False
        self._raw = memoryview(piece if self._tls is None else self._tls.encrypt(piece))
        return True

    def _cannot_write(self, error: OSError) -> None:
        # Linux says EPIPE, not ECONNRESET, when the peer's FIN had come before its RST
        self._forged = not isinstance(error, BrokenPipeError)
        self._error = FaztError(
            Reason.PROTOCOL,
            "The server closed the connection before it had the whole request.",
            detail=error.strerror or str(error),
        )
        self._raw = self._source = None


def _broken_handshake(error: OSError | None = None) -> FaztError:
    message = "The server closed the connection during the TLS handshake."
    return FaztError(Reason.TLS_FAILED, message, detail=None if error is None else error.strerror or str(error))
