"""An answer whose body is read as it comes, for a thread."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from fazt.engine.stream import StreamBase
from fazt.ports import SyncConnection


class Streamed(StreamBase[SyncConnection]):
    """An answer whose body is read as it comes; for one thread at a time.

    Iterating gives pieces of the body as they are on the wire: without framing, still content-coded, secrets that this
    call sent taken out. The end, an error, `close()` and the collector each end the call.
    """

    __slots__ = ()

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read_some():
            yield data

    def read_some(self) -> bytes:
        """Return the next piece of the body; b"" at its end.

        Raises:
            FaztError: `body` at the deadline or after too long a silence, `response_body`, `protocol`.
        """
        if self._body is not None:
            return self._stored(self._body)
        lease = self._lease
        connection = lease.connection
        if connection is None:
            return b""
        try:
            lease.check()
            while True:
                data = connection.read_some(deadline=self._opened.deadline, idle=self._opened.idle)
                if not data:
                    return self._finish(connection)
                self._count(len(data))
                out = data if self._scrub is None else self._scrub.feed(data)
                if out:
                    lease.feed(out)
                    return out
        except BaseException as error:
            self._fail(error)
            raise

    def read_view(self, buffer: memoryview) -> bytes | memoryview:
        """Return the next piece of the body as `read_some`, in the buffer where it can be put there by the kernel.

        Args:
            buffer: room for a piece; what is returned may be a part of it.

        Raises:
            FaztError: as `read_some`.
        """
        lease = self._lease
        connection = lease.connection
        read = getattr(connection, "read_view", None)
        if read is None or self._body is not None or self._scrub is not None or lease.recording is not None:
            return self.read_some()
        assert connection is not None
        try:
            lease.check()
            data: bytes | memoryview = read(buffer, deadline=self._opened.deadline, idle=self._opened.idle)
            if not data:
                return self._finish(connection)
            self._count(len(data))
        except BaseException as error:
            self._fail(error)
            raise
        return data

    def read(self) -> bytes:
        """Return all that is left of the body.

        Raises:
            FaztError: as `read_some`.
        """
        lease = self._lease
        connection = lease.connection
        if connection is None or self.size or self._scrub is not None:
            return b"".join(self)
        try:
            lease.check()
            body = connection.read(cap=self._opened.cap, deadline=self._opened.deadline, idle=self._opened.idle)
        except BaseException as error:
            self._fail(error)
            raise
        self.size = self.record.response_bytes = len(body)
        lease.feed(body)
        self._finish(connection)
        return body

    def close(self) -> None:
        """End the call, whether or not the body has ended; may be repeated."""
        self.settle()

    def _finish(self, connection: SyncConnection) -> bytes:
        """End the call with its body; return what scrubbing kept back."""
        rest = self._let_go(connection)
        if (recording := self._lease.recording) is not None:
            self._lease.recording = None
            recording.feed(rest)
            recording.commit()
        self._lease.end(None)
        return rest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
