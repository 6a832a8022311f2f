"""One request over HTTP/2 as a call uses it: the same manners as a connection of HTTP/1.1, so that nobody notices."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import h2.events
from httpcore2 import ConnectionNotAvailable, RemoteProtocolError, Request, Response

from fazt.core.call import Fields, Phases, ResponseHead, Target, Upload
from fazt.errors import CallerError, FaztError, Reason, StaleConnectionError
from fazt.net.http2_fields import check, decode
from fazt.net.http2_frames import HTTP_1_1_REQUIRED, REFUSED_STREAM
from fazt.net.timeouts import late
from fazt.net.upload import slices

if TYPE_CHECKING:
    from fazt.net.http2_link import Http2Link

_NOT_IN_HTTP2 = frozenset({b"connection", b"host", b"keep-alive", b"proxy-connection", b"te", b"upgrade"})
"""Section 8.2.2 of RFC 9113; Host is sent as `:authority`, Transfer-Encoding is taken out by httpcore2."""


class Http2Stream:
    """A stream in use by one call.

    Attributes:
        target: where the connection leads and under which grant it was made.
        address: the judged address it is connected to.
        reused: whether the connection served a call before.
    """

    __slots__ = (
        "_body",
        "_done",
        "_id",
        "_leased",
        "_length",
        "_limit",
        "_link",
        "_pieces",
        "_raised",
        "_reason",
        "_response",
        "_scope",
        "_trailers",
        "_until",
        "_upload",
        "_write_limit",
        "address",
        "has_content",
        "reused",
        "target",
    )

    def __init__(self, link: Http2Link, *, reused: bool) -> None:
        self._link = link
        self._leased = True
        self._done = False
        self._id = 0
        self._length: int | None = None
        self._response: Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None
        self._body: bytes | Upload | None = None
        self._upload: asyncio.Future[None] | None = None
        self._raised: BaseException | None = None
        """What the upload's iterator raised."""
        self._scope: asyncio.Timeout | None = None
        self._until = math.inf
        self._reason = Reason.FIRST_BYTE
        self._limit: float | None = None
        self._write_limit: float | None = None
        self._trailers: Fields = ()
        self.target: Target = link.target
        self.address: str = link.address
        self.has_content = False
        self.reused = reused

    def __repr__(self) -> str:
        return f"<Http2Stream {self._id or '-'} of {self._link!r}>"

    # --- one call

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
        """Send a request and read the head of its response; arguments and errors as `net.connection.Connection.send`.

        Raises:
            StaleConnectionError: the server has not looked at the request, or a reused connection was gone before a
                byte of the response came.
        """
        if not self._leased or self._response is not None or self._body is not None:
            raise FaztError(Reason.INTERNAL, "An internal error.", detail="a stream was used out of turn")
        if not self._link.alive:
            error = None if self.reused else self._link.error
            self.abort()
            raise error or StaleConnectionError(sent=False)
        self._body = upload if upload is not None else body
        self._limit, self._write_limit = (None, None) if phases is None else (phases.read, phases.write)
        request = self._request(head)
        on_sent()
        response = await self._within(self._link.mux.handle_async_request(request), deadline, Reason.FIRST_BYTE)
        self._response = response
        self._id = response.extensions["stream_id"]
        try:
            fields = decode(response.headers)
            length = check(response.status, fields)
        except FaztError:
            self.abort()
            raise
        if method != "HEAD" and response.status not in (204, 304):  # RFC 9110 section 8.6: there it is another's length
            self._length = length
        self._pieces = aiter(response.stream)
        return ResponseHead(response.status, fields, "", "HTTP/2")

    def _request(self, head: bytes) -> Request:
        """Turn a head of HTTP/1.1, which injection and all checks have gone over, into a request."""
        line, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        method, target, _ = line.split(b" ")
        fields = [(name.lower(), value) for name, _, value in (one.partition(b": ") for one in lines)]
        authority = next(value for name, value in fields if name == b"host")
        kept = [(name, value) for name, value in fields if name not in _NOT_IN_HTTP2]
        self.has_content = self._body is not None and self._body != b""
        return Request(
            method,
            self._link.mux.url(target),
            headers=[(b"host", authority), *kept],
            content=self._content(),
            extensions={"call": self},
        )

    async def _content(self) -> AsyncIterator[bytes]:
        """Yield the request's body in pieces; each is asked for when the one before was written."""
        body = self._body
        try:
            if isinstance(body, Upload):
                async for piece in _pieces(body):
                    self._progress()
                    yield piece
            elif body is not None:
                for part in slices(body):
                    self._progress()
                    yield bytes(part)
        except (Exception, CallerError) as error:
            self._raised = error
            raise

    def upload(self, writing: asyncio.Future[None]) -> None:
        """Let the body be written while the answer is waited for (called by the mux)."""
        self._upload = writing
        self._progress()
        writing.add_done_callback(self._uploaded)

    def _uploaded(self, writing: asyncio.Future[None]) -> None:
        self._upload = None
        if not writing.cancelled():
            writing.exception()  # of the connection: who reads from it will see it too
        if self._raised is not None:
            self._interrupt()
        else:
            self._progress()

    def _progress(self) -> None:
        """Begin the wait anew: for the next piece to be taken, or for the answer when all is written."""
        scope = self._scope
        if scope is None or scope.expired() or self._reason is Reason.BODY:
            return
        limit, self._reason = self._limit, Reason.FIRST_BYTE
        if self._upload is not None:
            limit, self._reason = self._write_limit, Reason.WRITE
        self._set(scope, limit)

    def _set(self, scope: asyncio.Timeout, limit: float | None) -> None:
        when = self._until
        if limit is not None:
            when = min(when, asyncio.get_running_loop().time() + limit)
        scope.reschedule(None if when == math.inf else when)

    def _interrupt(self) -> None:
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def _within(self, work: Coroutine[Any, Any, Any], deadline: float, reason: Reason) -> Any:
        """Await a step of httpcore2's under the limits, and turn its errors into ours; any of them ends the call."""
        self._until, self._reason = deadline, reason
        try:
            async with asyncio.timeout(None) as self._scope:
                self._set(self._scope, self._limit)
                return await work
        except TimeoutError:
            self.abort()
            if self._raised is not None:
                raise self._raised from None
            phase = self._reason
            if phase is Reason.WRITE and asyncio.get_running_loop().time() >= self._until:
                phase = Reason.FIRST_BYTE
            raise late(phase) from None
        except FaztError:
            self.abort()
            raise
        except Exception as error:  # noqa: BLE001 - whatever httpcore2 and h2 raise: it must become one of ours
            failure = self._failure(error)
            self.abort()
            raise failure from None
        except BaseException:
            self.abort()
            raise
        finally:
            self._scope = None

    def _failure(self, error: Exception) -> FaztError:
        """Say what a failure of httpcore2's means for this call."""
        link = self._link
        begun = self._response is not None
        if isinstance(error, ConnectionNotAvailable):
            return StaleConnectionError(sent=False, detail=link.farewell)
        cause = error.args[0] if error.args else None
        if isinstance(error, RemoteProtocolError) and isinstance(cause, h2.events.StreamReset):
            code = int(cause.error_code or 0)
            if code == HTTP_1_1_REQUIRED:
                link.speaks_http1()
            # RFC 9113 section 8.7: the request has not been looked at and may be sent again, whatever its method
            if code in (REFUSED_STREAM, HTTP_1_1_REQUIRED) and not begun:
                return StaleConnectionError(sent=False, detail=link.farewell or f"RST_STREAM {code}")
            return FaztError(Reason.PROTOCOL, "The server broke off its answer.", detail=f"RST_STREAM {code}")
        if link.error is not None:
            return link.error
        if begun:
            return FaztError(
                Reason.PROTOCOL, "The server broke off its answer before the end.", detail=link.farewell or _name(error)
            )
        if self.reused:
            return StaleConnectionError(sent=True, detail=link.farewell or _name(error))
        message = "The server closed the connection before it answered."
        return FaztError(Reason.PROTOCOL, message, detail=link.farewell or _name(error))

    # --- the body

    async def read(self, *, cap: int, deadline: float, idle: float | None = None) -> bytes:
        """Read the whole body; arguments and errors as `net.connection.Connection.read`."""
        if self._length is not None and self._length > cap:
            self.abort()
            raise _too_large(cap)
        return bytes(await self._within(self._all(cap, idle), deadline, Reason.BODY))

    async def _all(self, cap: int, idle: float | None) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            self._wait_for_piece(idle)
            piece = await self._next()
            if not piece:
                return b"".join(parts)
            parts.append(piece)
            size += len(piece)
            if size > cap:
                raise _too_large(cap)

    async def read_some(self, *, deadline: float = math.inf, idle: float | None = None) -> bytes:
        """Read what comes next of the body, empty at its end; errors as `read`."""
        if self._done:
            return b""
        return bytes(await self._within(self._one(idle), deadline, Reason.BODY))

    async def _one(self, idle: float | None) -> bytes:
        self._wait_for_piece(idle)
        return await self._next()

    def _wait_for_piece(self, idle: float | None) -> None:
        if self._raised is not None:
            raise self._raised
        if not self._leased:
            raise FaztError(Reason.PROTOCOL, "The connection was closed before the end of the answer.")
        self._limit = idle
        if self._scope is not None:
            self._set(self._scope, idle)

    async def _next(self) -> bytes:
        """Return the next piece that holds anything, or nothing at the end."""
        assert self._pieces is not None
        assert self._response is not None
        if self._done:
            return b""
        async for piece in self._pieces:
            if piece:
                return piece
        self._trailers = self._link.mux.trailers(self._id)
        self._done = True
        self._stop_upload()
        await self._response.aclose()
        return b""

    @property
    def trailers(self) -> Fields:
        """Fields that came after the body; never mixed with the head's."""
        return self._trailers

    @property
    def complete(self) -> bool:
        """Whether the whole response has arrived."""
        return self._done or (self._response is not None and self._link.mux.ended(self._id))

    # --- the end

    def release(self) -> None:
        """Give the stream back; one that has not ended is reset. Without effect when it was given back already."""
        self.abort()

    def abort(self) -> None:
        """End the stream at once; the connection stays for the others."""
        if not self._leased:
            return
        self._leased = False
        self._stop_upload()
        response = self._response
        self._link.leave(self, None if self._done or response is None else _close(self._pieces, response))

    def _stop_upload(self) -> None:
        if self._upload is not None:
            self._upload.cancel()


async def _close(pieces: AsyncIterator[bytes] | None, response: Response) -> None:
    """Let httpcore2 forget a stream, which resets it."""
    try:
        if pieces is not None:
            await pieces.aclose()  # type: ignore[attr-defined]
        await response.aclose()
    except Exception:  # noqa: BLE001, S110 - the connection is gone: there is nothing left to tidy
        pass


async def _pieces(upload: Upload) -> AsyncIterator[bytes]:
    """Open a body, synchronous or asynchronous, and yield what to send.

    Raises:
        FaztError: `bad_option` when it is not as long as was said.
    """
    upload.opened = True
    opened = upload.open()
    left = upload.length
    if isinstance(opened, AsyncIterable):
        async for piece in opened:
            left = _less(left, piece)
            for part in slices(piece):
                yield bytes(part)
    else:
        for piece in opened:
            left = _less(left, piece)
            for part in slices(piece):
                yield bytes(part)
    if left:
        raise _wrong_length()


def _less(left: int | None, piece: bytes) -> int | None:
    if left is None:
        return None
    if len(piece) > left:
        raise _wrong_length()
    return left - len(piece)


def _wrong_length() -> FaztError:
    return FaztError(Reason.BAD_OPTION, "The request body is not as long as was said.")


def _too_large(cap: int) -> FaztError:
    return FaztError(Reason.RESPONSE_BODY, f"The response is larger than {cap} bytes.")


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
