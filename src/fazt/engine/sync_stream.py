"""An answer whose body is read as it comes, for a thread."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fazt.core.call import Opened
from fazt.core.injection import ScrubStream
from fazt.engine.lease import Lease
from fazt.errors import FaztError, Reason
from fazt.ports import SyncConnection

if TYPE_CHECKING:
    from fazt.core.call import Fields
    from fazt.core.record import CallRecord


class Streamed:
    """An answer whose body is read as it comes; for one thread at a time.

    Iterating gives pieces of the body as they are on the wire: without framing, still content-coded, secrets that this
    call sent taken out. The end, an error, `close()` and the collector each end the call.

    Attributes:
        response: status, fields, URL, id; its body is empty.
        record: the record of the call, complete once the stream has ended.
        trailers: fields after a chunked body, once it has ended.
        size: bytes of body read so far, as they were on the wire.
    """

    __slots__ = ("_body", "_lease", "_opened", "_scrub", "record", "response", "size", "trailers")

    def __init__(self, lease: Lease[SyncConnection], opened: Opened) -> None:
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

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read_some():
            yield data

    def read_some(self) -> bytes:
        """Return the next piece of the body; b"" at its end.

        Raises:
            FaztError: `body` at the deadline or after too long a silence, `response_body`, `protocol`.
        """
        if self._body is not None:
            body, self._body = self._body, None
            self.size = len(body)
            return body
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
                self.size += len(data)
                self.record.response_bytes = self.size
                if self.size > self._opened.cap:
                    raise FaztError(Reason.RESPONSE_BODY, f"The response is larger than {self._opened.cap} bytes.")
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
            self.size += len(data)
            self.record.response_bytes = self.size
            if self.size > self._opened.cap:
                raise FaztError(Reason.RESPONSE_BODY, f"The response is larger than {self._opened.cap} bytes.")
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

    def _finish(self, connection: SyncConnection) -> bytes:
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
            recording.commit()
        self._lease.end(None)
        return rest

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, FaztError):
            error.call_id = self.record.call_id
        self._lease.end(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        lease = getattr(self, "_lease", None)
        if lease is not None and not lease.ended:
            lease.end(GeneratorExit())

    def __repr__(self) -> str:
        return f"<Streamed {self.response.status} {self.response.call_id}>"
