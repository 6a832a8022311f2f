"""What one call holds, and how it is given back: exactly once, without blocking, whatever became of the call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from fazt.core.call import Earlier, Fields, ResponseHead
from fazt.core.injection import Scrubber
from fazt.core.record import Attempt, CallRecord
from fazt.core.retry import retry_after_of
from fazt.core.url import Url
from fazt.errors import CallerError, Code, ConfigError, FaztError, OperatorError, Reason, StaleConnectionError
from fazt.net.forked import abandon

if TYPE_CHECKING:
    from fazt.core.budget import Invocation
    from fazt.core.cache.flight import Flight
    from fazt.core.cache.responses import Recording
    from fazt.core.traffic import Pass, Place
    from fazt.engine.base import EngineBase

_PREFIX = os.urandom(5).hex()
os.register_at_fork(after_in_child=lambda: globals().__setitem__("_PREFIX", os.urandom(5).hex()))


_NO_TRIP = frozenset({Reason.PRIVATE_ADDRESS, Reason.OWN_LISTENER, Reason.POOL_WAIT})
"""Refusals between asking for a connection and the first packet of one."""


_FROM_STORE = frozenset({"hit", "stale"})


class CallIds:
    """Ids of calls: unique across processes, ordered within one; `c_` and 20 hex digits."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = int.from_bytes(os.urandom(3), "big")

    def __call__(self) -> str:
        self._next += 1
        return f"c_{_PREFIX}{self._next & 0xFFFFFFFFFF:010x}"


class Held(Protocol):
    """What a lease, and a stream over one, needs of a connection."""

    @property
    def address(self) -> str:
        """The judged address it is connected to."""

    @property
    def complete(self) -> bool:
        """Whether the whole response has arrived."""

    @property
    def trailers(self) -> Fields:
        """Fields that came after a chunked body."""

    def release(self) -> None:
        """Give it back."""

    def abort(self) -> None:
        """Close it."""


C = TypeVar("C", bound=Held)


class Lease(Generic[C]):
    """All that one call holds. `end()` gives it back and writes the record; later calls do nothing."""

    __slots__ = (
        "__weakref__",
        "_engine",
        "_unwritten",
        "attempted_at",
        "connection",
        "flight",
        "generation",
        "held",
        "invocation",
        "open_token",
        "passed",
        "place",
        "record",
        "recording",
        "scrubber",
        "slot",
        "started",
        "values",
    )

    def __init__(
        self, engine: EngineBase[Any], record: CallRecord, *, invocation: Invocation | None, started: float
    ) -> None:
        self._engine: EngineBase[Any] | None = engine
        self.started = started
        self.attempted_at = started
        """When the current trip to the network began."""
        self.record = record
        self.invocation = invocation
        self.slot: str | None = None
        self.open_token: tuple[str, str] | None = None
        self.connection: C | None = None
        self.flight: Flight | None = None
        self.recording: Recording | None = None
        """Where the body goes that is to be kept."""
        self.generation = engine.cache.generation
        self.scrubber: Scrubber | None = None
        self.values: tuple[str, ...] = ()
        self.passed: Pass | None = None
        """Leave of `core.traffic` for the current trip, until its outcome is noted."""
        self.place: Place | None = None
        """Place among the calls to this host at once, held until the body has ended."""
        self.held = False
        """Whether the record waits for `settle`: what the caller does with the body belongs to the call."""
        self._unwritten: EngineBase[Any] | None = None

    def attempted(self) -> None:
        """Note that a connection was tried or bytes were sent: the rate token stays spent."""
        self.open_token = None
        if self.passed is not None:
            self.passed.spend()

    def begin_trip(self, now: float) -> None:
        """Note that a trip to the network begins."""
        self.attempted_at = now
        record = self.record
        record.attempt_ts = record.ts + (now - self.started)
        record.ttfb_ms = None

    def take(self, connection: C) -> None:
        """Hold a connection."""
        self.connection = connection
        self.record.address = connection.address

    def answered(self, head: ResponseHead, now: float) -> ResponseHead:
        """Note that the head of an answer came; return it without the values of secrets that this call sent."""
        record = self.record
        record.ttfb_ms = (now - self.attempted_at) * 1000.0
        record.version = head.version
        if self.passed is not None:
            self._settle(head, now)
        if self.scrubber is None:
            return head
        fields, hits = self.scrubber.scrub_fields(head.headers)
        record.scrubbed += hits
        return ResponseHead(head.status, fields, head.phrase, head.version)

    def failed(self, error: FaztError, now: float) -> None:
        """Note that the current trip failed before the head of an answer came."""
        if error.reason in _NO_TRIP:
            self.record.attempt_ts = None
        # A connection that the server had closed before it was used again says nothing; another one is tried.
        if isinstance(error, StaleConnectionError):
            return
        passed, self.passed = self.passed, None
        if passed is None:
            return
        if error.reason in _NO_TRIP:
            passed.refund(now)
        else:
            passed.settle(reason=error.reason, now=now)

    def _settle(self, head: ResponseHead, now: float) -> None:
        passed, self.passed = self.passed, None
        assert passed is not None
        asked = None
        if head.status in (429, 503):
            asked = retry_after_of(head.headers, wall_now=self.record.ts + (now - self.started))
        passed.settle(status=head.status, retry_after=asked, now=now)

    def scrub_body(self, body: bytes) -> bytes:
        """Let the connection go, of which this was the last, and return the body without those values."""
        self.let_go()
        if self.scrubber is None:
            return body
        body, hits = self.scrubber.scrub(body)
        self.record.scrubbed += hits
        return body

    def feed(self, piece: bytes) -> None:
        """Give the next piece of a streamed body to the cache, where it is to be kept."""
        recording = self.recording
        if recording is None:
            return
        recording.feed(piece)
        if not recording.active and self._engine is not None:  # too large: nobody need wait for its end
            self.recording = None
            self._engine._land(self)

    def let_go(self) -> None:
        """Give the current connection back; the wire decides whether it may be used again."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.release()
        place, self.place = self.place, None
        if place is not None:
            place.leave()

    def end_trip(
        self,
        now: float,
        method: str,
        url: Url,
        *,
        earlier: Earlier | None = None,
        redirect: str | None = None,
        error: FaztError | None = None,
        retry_after: float | None = None,
        delay: float = 0.0,
    ) -> None:
        """Note a trip to the network that was not the last, and let go of what it held."""
        record = self.record
        if self.connection is not None and error is not None:
            connection, self.connection = self.connection, None
            connection.abort()
        self.let_go()
        trip = Attempt(
            record.attempt_ts if record.attempt_ts is not None else record.ts,
            len(record.redirects) + (earlier is None),
            record.number,
            method,
            url.scheme,
            url.host,
            url.port,
            url.path,
            earlier.head.status if earlier is not None else record.status,
            error.code.value if error is not None else None,
            error.reason.value if error is not None else None,
            (now - self.attempted_at) * 1000.0,
            record.ttfb_ms,
            record.request_bytes,
            0,
            record.version,
            record.address,
            redirect,
            retry_after,
            delay,
        )
        if record.attempts is None:
            record.attempts = []
        record.attempts.append(trip)
        record.waited_ms += delay * 1000.0
        record.ttfb_ms = record.attempt_ts = None
        if earlier is not None:
            record.number = 1

    def end(self, error: BaseException | None) -> None:
        """End everything the call holds and write its record."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        if self._inherited:
            abandon(self)
            return
        if type(error) is GeneratorExit and engine.collected(self, error):
            return
        self.finish(engine, error)

    @property
    def ended(self) -> bool:
        """Whether all was given back."""
        return self._engine is None

    @property
    def _inherited(self) -> bool:
        """Whether the call was begun before this process was forked: its end and its record are the parent's."""
        return not self.record.call_id.startswith(_PREFIX, 2)

    def check(self) -> None:
        """Refuse to go on reading the parent's connection, whose bytes would be missing there.

        Raises:
            FaztError: `aborted`.
        """
        if self._inherited:
            raise FaztError(Reason.ABORTED, "The answer belongs to the process that asked for it, before the fork.")

    def finish(self, engine: EngineBase[Any], error: BaseException | None) -> None:
        """Do what `end` promises; called once."""
        connection, self.connection = self.connection, None
        if connection is not None:
            try:
                connection.abort()
            except Exception:  # noqa: BLE001, S110 - a loop that is over closes nothing; the rest is still to be ended
                pass
        if self.open_token is not None:
            engine.buckets.give_back(self.open_token)
        if self.slot is not None:
            engine.slots.release(self.slot)
        ended = engine.clock()
        if self.passed is not None:
            self.passed.refund(ended)
            self.passed = None
        if self.place is not None:
            self.place.leave()
            self.place = None
        unfinished = self.recording is not None
        if self.recording is not None:  # the body did not come to its end
            self.recording.drop()
        if self.flight is not None:
            # a failure would meet those who wait as well; a caller who went away says nothing to them
            given_up = unfinished if error is None else not isinstance(error, FaztError)
            engine.end_flight(self.flight, given_up=given_up)
        record = self.record
        elapsed = ended - self.started
        record.duration_ms = elapsed * 1000.0
        record.attempt_ms = (ended - self.attempted_at) * 1000.0
        if self.invocation is not None and (record.cache not in _FROM_STORE or record.attempt_ts is not None):
            self.invocation.charge(elapsed)
        if error is not None:
            note_error(record, error)
        if self.held and type(error) is not GeneratorExit:
            self._unwritten = engine
        else:
            engine.sink.append(record)

    def settle(self, error: BaseException | None) -> None:
        """End the call if it has not ended, and write the record that was held; later calls do nothing."""
        self.end(error)
        engine, self._unwritten = self._unwritten, None
        if engine is None or self._inherited:
            return
        if error is not None and self.record.code is None:
            note_error(self.record, error)
        engine.sink.append(self.record)


def note_error(record: CallRecord, error: BaseException) -> None:
    """Write into a record what ended its call."""
    if isinstance(error, FaztError):
        record.code, record.reason = error.code.value, error.reason.value
        record.address_class, record.hop, record.detail = error.address_class, error.hop, error.detail
        record.error = error.message
        if record.door == "client" and not hasattr(error, "__notes__"):
            error.add_note(_for_a_traceback(error, record.host))
    else:  # ended by the caller's own code, cancelled by the door, or the process is going down
        failure = FaztError(Reason.ABORTED, "")
        record.code, record.reason = failure.code.value, failure.reason.value
        record.detail = type(error.error if isinstance(error, CallerError) else error).__name__
        record.error = "the call was given up"


def _for_a_traceback(error: FaztError, host: str) -> str:
    """Return what the author of a program needs beside the message: where it happened, and what to type next."""
    where = f" for {host}" if host else ""
    if error.hop:
        where = f" on redirect {error.hop} from {host}"
    more = "; error.detail says more" if error.detail else ""
    if error.code in (Code.NET_BLOCKED, Code.NET_AUTH) and error.reason is not Reason.PATH_REFUSED:
        more = "; policy.explain(URL), or `fazt explain URL` for the data directory, says what would allow it"
    return f"{error.reason}{where}{more}"


def coded(fault: Exception) -> FaztError:
    """Turn a fault into a coded error; only its type and place are kept, its text may hold anything."""
    if isinstance(fault, ConfigError):  # a setting that was good when it was read: its text is the operator's
        return FaztError(Reason.BAD_OPTION, "fazt's own settings cannot be used", detail=fault.message)
    reason = Reason.STORE if isinstance(fault, OperatorError) else Reason.INTERNAL
    message = "fazt's own store could not be read" if reason is Reason.STORE else "an internal error"
    place = ""
    trace = fault.__traceback__
    while trace is not None:
        place = f" at {trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}"
        trace = trace.tb_next
    return FaztError(reason, message, detail=f"{type(fault).__name__}{place}")
