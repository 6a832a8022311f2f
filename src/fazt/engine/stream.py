"""What the streamed answers of both engines share: their state, their cap, and how they end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from fazt.core.call import Opened
from fazt.core.injection import ScrubStream
from fazt.engine.lease import C, Lease
from fazt.errors import FaztError, Reason

if TYPE_CHECKING:
    from fazt.core.call import Fields
    from fazt.core.record import CallRecord


class StreamBase(Generic[C]):
    """An answer whose body is read as it comes.

    Attributes:
        response: status, fields, URL, id; its body is empty.
        record: the record of the call, complete once the stream has ended.
        trailers: fields after a chunked body, once it has ended.
        size: bytes of body read so far, as they were on the wire.
    """

    __slots__ = ("_body", "_lease", "_opened", "_scrub", "record", "response", "size", "trailers")

    def __init__(self, lease: Lease[C], opened: Opened) -> None:
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

    def _stored(self, body: bytes) -> bytes:
        """Hand out the body that came from the cache."""
        self._body = None
        self.size = len(body)
        return body

    def _count(self, size: int) -> None:
        """Note bytes of body that came.

        Raises:
            FaztError: `response_body`: they are more than the body may have.
        """
        self.size += size
        self.record.response_bytes = self.size
        if self.size > self._opened.cap:
            raise FaztError(Reason.RESPONSE_BODY, f"The response is larger than {self._opened.cap} bytes.")

    def _let_go(self, connection: C) -> bytes:
        """Give the connection back at the end of its body; return what scrubbing kept back."""
        self.trailers = connection.trailers
        rest = b""
        if self._scrub is not None:
            rest = self._scrub.finish()
            self.record.scrubbed += self._scrub.count
            self._scrub = None
        self._lease.let_go()
        return rest

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, FaztError):
            error.call_id = self.record.call_id
        self._lease.end(error)

    def __del__(self) -> None:
        lease = getattr(self, "_lease", None)
        if lease is not None and not lease.ended:
            lease.end(GeneratorExit())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.response.status} {self.response.call_id}>"
