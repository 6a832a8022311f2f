"""uvicorn's HTTP protocol with the limits it does not have: slow and oversized heads, slow readers, endless bodies."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

HEAD_SECONDS = 5.0
"""From the opening of a connection, or the first byte of a further request, to the end of its head."""
STALL_SECONDS = 30.0
"""How long a client may leave a response unread before its connection is cut."""
MAX_HEAD = 65_536
"""Bytes of request line and fields."""
MAX_FIELDS = 128
MAX_FRAMING = 16
"""Bytes of chunk sizes, extensions and trailers for each byte of a body, beside those that a head may have."""
MAX_CONNECTIONS = 10_000

_log = logging.getLogger("fazt.server")


_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)


class _HeadTooLargeError(Exception):
    pass


class _AmbiguousError(Exception):
    pass


class GuardedProtocol(HttpToolsProtocol):
    """One connection of a client that may be hostile."""

    head_seconds = HEAD_SECONDS
    stall_seconds = STALL_SECONDS
    most_connections = MAX_CONNECTIONS

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._in_head = True
        self._head_bytes = 0  # of data that came while a head was read
        self._parsed_bytes = 0  # of the target and the whole fields among them
        self._oversized = False
        self._body_bytes = 0
        self._framing_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection; where there are too many, in the place of one that asks nothing just now."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections and not self._make_room():
            transport.abort()
            return
        self._await_head()

    def _make_room(self) -> bool:
        for other in self.connections:
            if isinstance(other, GuardedProtocol) and other is not self and other.idle:
                other.transport.abort()
                return True
        return False

    @property
    def idle(self) -> bool:
        """Whether no request is being answered, and the connection is open."""
        return not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._stop_head_timer()
        self._stop_stall_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head, whether or not it ever ends, and what stands between the pieces of a body."""
        if self.parser is None or self.transport.is_closing():
            return
        in_body, before = not self._in_head, self._body_bytes
        if self._in_head:
            self._await_head()
            self._head_bytes += len(data)
        super().data_received(data)
        if in_body and not self._in_head and not self.transport.is_closing():
            self._framing_bytes += len(data) - (self._body_bytes - before)
            if self._framing_bytes > MAX_HEAD + MAX_FRAMING * self._body_bytes:
                self.send_400_response("")
        if self._in_head and self._head_bytes > MAX_HEAD and not self.transport.is_closing():
            self._oversized = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """Start to read a head."""
        self._in_head = True
        self._parsed_bytes = 0
        self._await_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        super().on_url(url)
        self._weigh(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one field; a trailer is dropped, it may not pass for a field of the head (RFC 9110 section 6.5.1)."""
        if self._in_head:
            super().on_header(name, value)
        self._weigh(len(name) + len(value))

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def _weigh(self, size: int) -> None:
        self._parsed_bytes += size
        if self._parsed_bytes > MAX_HEAD or len(self.headers) > MAX_FIELDS:
            self._oversized = True
            raise _HeadTooLargeError

    def on_headers_complete(self) -> None:
        """The head is whole, and has one reading."""
        self._refuse_two_readings()
        self._in_head = False
        self._body_bytes = self._framing_bytes = 0
        self._head_bytes = 0
        self._stop_head_timer()
        super().on_headers_complete()

    def _refuse_two_readings(self) -> None:
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        # RFC 9112 section 6.1: no other coding is understood here, and HTTP/1.0 knows none
        if codings and (codings != [b"chunked"] or self.parser.get_http_version() != "1.1"):
            raise _AmbiguousError
        # RFC 9112 section 3.2.2: the target's host counts, not the field; here they are the same
        absolute = _ABSOLUTE.match(self.url)
        if absolute and [absolute[1].lower()] != [value.lower() for name, value in self.headers if name == b"host"]:
            raise _AmbiguousError

    def on_message_complete(self) -> None:
        """The request is whole; what follows is another head."""
        super().on_message_complete()
        self._in_head = True

    def on_response_complete(self) -> None:
        """Keep the connection only if the request was read to its end: nobody sends a body to nobody."""
        if not self.pipeline and self.cycle.more_body:
            self.transport.close()
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_reader()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, for good if the client does not read what is left for it."""
        super().timeout_keep_alive_handler()
        self._watch_reader()

    def pause_writing(self) -> None:
        """The client does not read; cut it off if that goes on."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """The client reads again."""
        if not self.transport.is_closing():
            self._stop_stall_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is not HTTP, or whose head is too large; the reason is not told."""
        status = b"431 Request Header Fields Too Large" if self._oversized else b"400 Bad Request"
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()  # in the middle of an answer there is no place for another
        elif not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()
            self._watch_reader()

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self._head_timeout)

    def _head_timeout(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            # A further head came in pieces behind a request that is still being answered; that answer goes first.
            self.cycle.keep_alive = False
            return
        self.transport.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()
        self._watch_reader()

    def _watch_reader(self) -> None:
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(self.stall_seconds, self.transport.abort)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
