"""An answer whose body is read as it comes, for an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fazt.engine.stream import StreamBase
from fazt.ports import AsyncConnection

if TYPE_CHECKING:
    pass


class AsyncStreamed(StreamBase[AsyncConnection]):
    """An answer whose body is read as it comes; for one task at a time.

    Iterating gives pieces of the body as they are on the wire: without framing, still content-coded, secrets that this
    call sent taken out. The end, an error, `aclose()` and the collector each end the call.
    """

    __slots__ = ()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read_some():
            yield data

    async def read_some(self) -> bytes:
        """Return the next piece of the body; b"" at its end.

        Raises:
            FaztError: `body` at the deadline or after too long a silence, `response_body`, `protocol`.
        """
        if self._body is not None:
            return self._stored(self._body)
        connection = self._lease.connection
        if connection is None:
            return b""
        try:
            self._lease.check()
            while True:
                data = await connection.read_some(deadline=self._opened.deadline, idle=self._opened.idle)
                if not data:
                    return await self._finish(connection)
                self._count(len(data))
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

    async def _finish(self, connection: AsyncConnection) -> bytes:
        """End the call with its body; return what scrubbing kept back."""
        rest = self._let_go(connection)
        if (recording := self._lease.recording) is not None:
            self._lease.recording = None
            recording.feed(rest)
            if recording.blocking:
                await asyncio.to_thread(recording.commit)
            else:
                recording.commit()
        self._lease.end(None)
        return rest

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
