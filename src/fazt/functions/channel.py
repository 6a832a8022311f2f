"""The host's end of a link: a non-blocking socket on the event loop that hands over whole, bounded messages."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from fazt.functions.protocol import HEAD, Message, encode, send_fd

_READ = 64 * 1024
_READ_MORE = 256 * 1024


class Channel:
    """One end of a socket pair.

    Args:
        loop: the running loop.
        sock: the host's end; owned from here on.
        cap: most bytes that a message of a type may have, -1 for a type that may not come.
        on_message: called with type and payload of each message.
        on_close: called once, with a sentence and whether the peer broke the protocol (or else is gone); not after
            `close`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        *,
        cap: Callable[[int], int],
        on_message: Callable[[int, bytes], None],
        on_close: Callable[[str, bool], None],
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._cap = cap
        self._on_message = on_message
        self._on_close = on_close
        self._in = bytearray()
        self._out = bytearray()
        self.closed = False
        loop.add_reader(sock.fileno(), self._readable)

    def send(self, kind: Message, payload: bytes = b"") -> None:
        """Send a message, buffering what the socket doesn't take; does nothing when closed."""
        self.send_raw(encode(kind, payload))

    def send_raw(self, data: bytes) -> None:
        """Send an encoded message."""
        if self.closed:
            return
        if self._out:
            self._out += data
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self._unsendable(exc)
            return
        if sent < len(data):
            self._out += memoryview(data)[sent:]
            self._loop.add_writer(self._sock.fileno(), self._writable)

    def send_with_fd(self, kind: Message, payload: bytes, fd: int) -> None:
        """Send a small message with a descriptor on it.

        Raises:
            OSError: the peer is gone or its buffer is full.
        """
        if self.closed or self._out:
            raise BlockingIOError("the link is busy or closed")
        send_fd(self._sock, encode(kind, payload), fd)

    def close(self) -> None:
        """Close at once, without calling `on_close`."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._in.clear()
        self._out.clear()

    def drain(self) -> None:
        """Take what a peer that has ended left behind, up to the end of the link."""
        while not self.closed and self._readable():
            pass

    def _unsendable(self, exc: OSError) -> None:
        """End, but not before what the peer said last is heard: it may be why it is gone."""
        self.drain()
        self._lost(f"send: {exc.strerror}")

    def _lost(self, why: str, *, broke: bool = False) -> None:
        if not self.closed:
            self.close()
            self._on_close(why, broke)

    def _writable(self) -> None:
        try:
            sent = self._sock.send(self._out)
        except BlockingIOError:
            return
        except OSError as exc:
            self._unsendable(exc)
            return
        del self._out[:sent]
        if not self._out:
            self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> bool:
        """Take what there is; False when there was nothing."""
        try:
            data = self._sock.recv(_READ_MORE if len(self._in) > _READ else _READ)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as exc:
            self._lost(f"receive: {exc.strerror}")
            return False
        if not data:
            self._lost("the process ended")
            return False
        if not self._in and len(data) >= HEAD.size:  # nearly always: one whole message
            length, kind = HEAD.unpack_from(data)
            if len(data) == HEAD.size + length and length <= self._cap(kind):
                self._on_message(kind, data[HEAD.size :])
                return True
        self._in += data
        self._split()
        return True

    def _split(self) -> None:
        while not self.closed and len(self._in) >= HEAD.size:
            length, kind = HEAD.unpack_from(self._in)
            if length > self._cap(kind):  # judged by the head alone: nothing oversized is ever collected
                self._lost(f"a message of type {kind} and {length} bytes is not allowed here", broke=True)
                return
            end = HEAD.size + length
            if len(self._in) < end:
                return
            payload = bytes(memoryview(self._in)[HEAD.size : end])
            del self._in[:end]
            self._on_message(kind, payload)
