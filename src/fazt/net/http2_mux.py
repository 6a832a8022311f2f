"""httpcore2's HTTP/2 connection, with what it leaves to be wished for where many calls share one connection.

What arrives is looked at as it comes, not when a call happens to read: a call that waits for its answer would otherwise
hold up another that waits for the window that has just been opened. A call that is given up resets its stream, so that
the server stops sending and the window of the others stays open; an answer is read while the request is still being
sent; trailers are kept; interim answers are counted.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import h2.errors
import h2.events
import h2.exceptions
from h2.settings import ChangedSetting, SettingCodes
from httpcore2 import (
    URL,
    AsyncHTTP2Connection,
    AsyncNetworkStream,
    ConnectionNotAvailable,
    Origin,
    RemoteProtocolError,
    Request,
)

from fazt.core.call import Fields
from fazt.errors import FaztError, Reason
from fazt.net.http1 import MAX_INTERIM
from fazt.net.http2_fields import decode

if TYPE_CHECKING:
    from fazt.net.http2_link import Http2Link

MAX_STREAMS = 100
"""Streams of one connection at a time; a server may allow fewer (httpcore2 never uses more)."""
_STREAMS = SettingCodes.MAX_CONCURRENT_STREAMS
_OF_STREAMS = (
    h2.events.ResponseReceived,
    h2.events.DataReceived,
    h2.events.StreamEnded,
    h2.events.StreamReset,
)


class Gone(Exception):  # noqa: N818 - says what happened; it never leaves this package
    """The connection is closed; what its link noted says why."""


class Stream(AsyncNetworkStream):
    """A link as httpcore2 sees it, for writing. Deadlines are the calls' own: one that is late must not end others."""

    def __init__(self, link: Http2Link) -> None:
        self._link = link

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore2's name
        """Write, and wait while the transport has no room for more."""
        await self._link.write(buffer)

    async def aclose(self) -> None:
        """Close the link at once."""
        self._link.shut()


class Mux(AsyncHTTP2Connection):
    """The requests of one connection."""

    def __init__(self, link: Http2Link) -> None:
        self._link = link
        target = link.target
        super().__init__(Origin(b"https", target.host.encode("ascii"), target.port), Stream(link))
        self._early: bytes | None = b""
        """What came before our own preface was sent; None from then on."""
        self._waiters: set[asyncio.Future[None]] = set()
        self._trailers: dict[int, Fields] = {}
        self._interim: dict[int, int] = {}
        self._settled = False

    @property
    def room(self) -> int:
        """How many streams the server allows at a time."""
        return min(MAX_STREAMS, self._h2_state.remote_settings.max_concurrent_streams)

    def under_way(self) -> list[int]:
        """Return the streams that have not ended."""
        return list(self._events)

    def ended(self, stream: int) -> bool:
        """Say whether the whole answer of a stream has arrived."""
        events = self._events.get(stream)
        return events is not None and len(events) > 0 and isinstance(events[-1], h2.events.StreamEnded)

    def trailers(self, stream: int) -> Fields:
        """Return the fields that came after the body."""
        return self._trailers.get(stream, ())

    def url(self, target: bytes) -> URL:
        """Return a URL of this origin."""
        origin = self._origin
        return URL(scheme=origin.scheme, host=origin.host, port=origin.port, target=target)

    # --- what arrives

    def feed(self, data: bytes) -> None:
        """Take whole frames from the server.

        Raises:
            FaztError: `protocol`, or `response_headers`.
        """
        if self._early is not None:
            self._early += data
            return
        state = self._h2_state
        try:
            events = state.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self._link.push(state.data_to_send())  # the GOAWAY that says why
            raise _told(error) from None
        for event in events:
            if isinstance(event, _OF_STREAMS):
                queue = self._events.get(event.stream_id or 0)
                if queue is not None:
                    queue.append(event)
            else:
                self._note(event)
        self._link.push(state.data_to_send())
        self.wake()

    def _note(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RemoteSettingsChanged):
            # RFC 9113 section 6.5.2: where the first settings name no number of streams there is no limit
            if not self._settled and _STREAMS not in event.changed_settings:
                event.changed_settings[_STREAMS] = ChangedSetting(_STREAMS, None, MAX_STREAMS)
            self._settled = True
            self._link.do(self._use(event))
        elif isinstance(event, h2.events.TrailersReceived):
            if event.stream_id in self._events:
                self._trailers[event.stream_id] = decode(event.headers or ())
        elif isinstance(event, h2.events.InformationalResponseReceived):
            stream = event.stream_id or 0
            self._interim[stream] = self._interim.get(stream, 0) + 1
            if self._interim[stream] > MAX_INTERIM:
                raise FaztError(Reason.RESPONSE_HEADERS, f"The server sent more than {MAX_INTERIM} interim answers.")

    async def _use(self, settings: h2.events.RemoteSettingsChanged) -> None:
        async with self._init_lock, self._state_lock:  # the first call may still be counting its places
            await self._receive_remote_settings_change(settings)

    def wake(self) -> None:
        """Let everybody look again: something came, or the connection is closed."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _change(self) -> None:
        """Wait until something has come.

        Raises:
            Gone: the connection is closed.
        """
        if self._link.over:
            raise Gone
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    # --- steps of httpcore2's that wait, or end, in another way here

    async def _receive_stream_event(
        self, request: Request, stream_id: int
    ) -> h2.events.ResponseReceived | h2.events.DataReceived | h2.events.StreamEnded:
        while not self._events.get(stream_id):
            await self._change()
        event = self._events[stream_id].pop(0)
        if isinstance(event, h2.events.StreamReset):
            raise RemoteProtocolError(event)
        return event

    async def _wait_for_outgoing_flow(self, request: Request, stream_id: int) -> int:
        state = self._h2_state
        while True:
            room = min(state.local_flow_control_window(stream_id), state.max_outbound_frame_size)
            if room > 0:
                return room
            await self._change()

    async def _send_connection_init(self, request: Request) -> None:
        await super()._send_connection_init(request)
        early, self._early = self._early, None
        if early:
            self._link.feed(early)

    async def _send_request_headers(self, request: Request, stream_id: int) -> None:
        if not self._link.alive:  # it said goodbye while this call waited for its turn
            raise ConnectionNotAvailable
        await super()._send_request_headers(request, stream_id)

    async def _send_request_body(self, request: Request, stream_id: int) -> None:
        call = request.extensions["call"]
        work = super()._send_request_body(request, stream_id)
        if call.has_content:
            call.upload(asyncio.ensure_future(work))
        else:
            await work

    async def _response_closed(self, stream_id: int) -> None:
        self._forsake(stream_id)
        await super()._response_closed(stream_id)

    def _forsake(self, stream_id: int) -> None:
        """Reset a stream that has not ended, and give back the window of what nobody has read."""
        state = self._h2_state
        try:
            stream: Any = state.streams.get(stream_id)
            if stream is not None and not stream.closed:
                state.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
            for event in self._events.get(stream_id, ()):
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    state.acknowledge_received_data(event.flow_controlled_length, stream_id)
        except h2.exceptions.ProtocolError:  # the connection is over: nobody is left to tell
            pass
        self._trailers.pop(stream_id, None)
        self._interim.pop(stream_id, None)
        self._link.push(state.data_to_send())


def _told(error: h2.exceptions.ProtocolError) -> FaztError:
    if isinstance(error, h2.exceptions.DenialOfServiceError):  # a list of fields larger than we said we take
        return FaztError(Reason.RESPONSE_HEADERS, "The fields of the answer are too long.", detail=str(error))
    detail = f"{type(error).__name__}: {error}"[:200]
    return FaztError(Reason.PROTOCOL, "The server's answer is not valid HTTP/2.", detail=detail)
