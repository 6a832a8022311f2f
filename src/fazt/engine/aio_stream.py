"""An answer whose body is read as it comes, for an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fazt.core.call import Opened
from fazt.core.injection import ScrubStream
from fazt.errors import FaztError, Reason
from fazt.ports import AsyncConnection

if TYPE_CHECKING:
    from fazt.core.call import Fields
    from fazt.core.record import CallRecord
    from fazt.engine.aio import AsyncLease


class AsyncStreamed:
    """An answer whose body is read as it comes; for one task at a time.

    Iterating gives pieces of the body as they are on the wire: without framing, still content-coded, secrets that this
    call sent taken out. The end, an error, `aclose()` and the collector each end the call.

    Attributes:
        response: status, fields, URL, id; its body is empty.
        record: the record of the call, complete once the stream has ended.
        trailers: fields after a chunked body, once it has ended.
        size: bytes of body read so far, as they were on the wire.
    """

    __slots__ = ("_body", "_lease", "_opened", "_scrub", "record", "response", "size", "trailers")

    def __init__(self, lease: AsyncLease, opened: Opened) -> None:
        self._lease = lease
        self._opened = opened
        self._scrub = ScrubStream(lease.scrubber) if lease.scrubber is not None else None
        self._body: bytes | None = None
        self.response = opened.response
        self.record: CallRecord = lease.record
        self.trailers: Fields = ()
        self.size = 0
        if not opened.live:
            self._body = opened.response.body
            opened.response.body = b""
            lease.end(None)

    @property
    def complete(self) -> bool:
        """Whether the whole body is here: reading it will not wait."""
        connection = self._lease.connection
        return connection is None or connection.complete

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read_some():
            yield data

    async def read_some(self) -> bytes:
        """Return the next piece of the body; b"" at its end.

        Raises:
            FaztError: `body` at the deadline or after too long a silence, `response_body`, `protocol`.
        """
        if self._body is not None:
            body, self._body = self._body, None
            self.size = len(body)
            return body
        connection = self._lease.connection
        if connection is None:
            return b""
        try:
            self._lease.check()
            while True:
                data = await connection.read_some(deadline=self._opened.deadline, idle=self._opened.idle)
                if not data:
                    return await self._finish(connection)
                self.size += len(data)
                self.record.response_bytes = self.size
                if self.size > self._opened.cap:
                    raise FaztError(Reason.RESPONSE_BODY, f"The response is larger than {self._opened.cap} bytes.")
                out = data if self._scrub is None else self._scrub.feed(data)
                if out:
                    self._lease.feed(out)
                    return out
        except BaseException as error:
            self._fail(error)
            raise

    async def read(self) -> bytes:
        """Return all that is left of the body.

        Raises:
            FaztError: as `read_some`.
        """
        connection = self._lease.connection
        if connection is None or self.size or self._scrub is not None:
            parts = []
            while data := await self.read_some():
                parts.append(data)
            return b"".join(parts)
        try:
            self._lease.check()
            body = await connection.read(cap=self._opened.cap, deadline=self._opened.deadline, idle=self._opened.idle)
            self.size = self.record.response_bytes = len(body)
            self._lease.feed(body)
            await self._finish(connection)
        except BaseException as error:
            self._fail(error)
            raise
        return body

    async def aclose(self) -> None:
        """End the call, whether or not the body has ended; may be repeated."""
        self.settle()

    @property
    def scrubbed(self) -> int:
        """Secrets taken out of the body so far: the bytes handed out are not those that were sent."""
        return self._scrub.count if self._scrub is not None else self.record.scrubbed

    def settle(self, error: BaseException | None = None) -> None:
        """End the call and write the record that `open(hold=True)` held back; may be repeated.

        Args:
            error: what went wrong with the body after it was handed out.
        """
        self._body = None
        self._lease.settle(error)

    async def _finish(self, connection: AsyncConnection) -> bytes:
        """End the call with its body; return what scrubbing kept back."""
        self.trailers = connection.trailers
        rest = b""
        if self._scrub is not None:
            rest = self._scrub.finish()
            self.record.scrubbed += self._scrub.count
            self._scrub = None
        self._lease.let_go()
        if (recording := self._lease.recording) is not None:
            self._lease.recording = None
            recording.feed(rest)
            if recording.blocking:
                await asyncio.to_thread(recording.commit)
            else:
                recording.commit()
        self._lease.end(None)
        return rest

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, FaztError):
            error.call_id = self.record.call_id
        self._lease.end(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        lease = getattr(self, "_lease", None)
        if lease is not None and not lease.ended:
            lease.end(GeneratorExit())

    def __repr__(self) -> str:
        return f"<AsyncStreamed {self.response.status} {self.response.call_id}>"
