"""The engine for threads: blocking calls, any number of threads at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fazt.core.cache.decision import Found
from fazt.core.call import Opened, Profile, Request, Response
from fazt.core.effects import Again, Effect, EnterSlot, LookUp, Pace, Read, Send
from fazt.core.injection import ScrubStream
from fazt.engine.base import OPEN_ENDED, EngineBase
from fazt.engine.lease import Lease, coded
from fazt.errors import CallerError, FaztError, Reason
from fazt.ports import SyncConnection, SyncWire

if TYPE_CHECKING:
    from fazt.core.budget import Invocation
    from fazt.core.cache.flight import Flight
    from fazt.core.call import Fields
    from fazt.core.record import CallRecord

_sleep = time.sleep


class Engine(EngineBase[SyncWire]):
    """Makes blocking calls under the current policy; safe to use from many threads."""

    def call(
        self,
        request: Request,
        *,
        profile: Profile,
        invocation: Invocation | None = None,
        finish: Callable[[Response], None] | None = None,
    ) -> Response:
        """Make one call and read its whole body; exactly one record is written, whatever happens.

        Args:
            request, profile: what is asked for, and the numbers of the door.
            invocation: what the calls of one handler run share.
            finish: called with the answer before the call ends; a `FaztError` that it raises is the call's own.

        Raises:
            FaztError: the refusal or failure, with the call's id.
        """
        response, lease = self._run(request, profile, invocation, close=True, finish=finish)
        assert isinstance(response, Response)
        response.rule = lease.record.rule_id
        return response

    def open(self, request: Request, *, profile: Profile, hold: bool = False) -> Streamed:
        """Make one call and return when its head has come; the body is read from what is returned.

        The record is written when the body has ended, failed or was closed.

        Args:
            request: its options ask for a stream.
            profile: the numbers of the door.
            hold: whether the record of an answered call waits for `settle` of what is returned.

        Raises:
            FaztError: the refusal or failure, with the call's id.
        """
        opened, lease = self._run(request, profile, None, close=False)
        if isinstance(opened, Response):
            opened = Opened(opened, len(opened.body), 0.0, None, live=False)
        lease.held = hold
        return Streamed(lease, opened)

    def _run(
        self,
        request: Request,
        profile: Profile,
        invocation: Invocation | None,
        *,
        close: bool,
        finish: Callable[[Response], None] | None = None,
    ) -> tuple[Response | Opened, Lease[SyncConnection]]:
        record, started, steps = self._begin(request, profile, invocation, self.wire.tls_id)
        lease: Lease[SyncConnection] = Lease(self, record, invocation=invocation, started=started)
        error: BaseException | None = None
        answer: Any = None
        failure: FaztError | None = None
        done = close
        try:
            while True:
                try:
                    effect: Effect = steps.send(answer) if failure is None else steps.throw(failure)
                except StopIteration as stop:
                    result: Response | Opened = stop.value
                    break
                answer = failure = None
                try:
                    answer = self._carry_out(effect, lease, request)
                except FaztError as refused:
                    failure = refused
                except Exception as fault:  # noqa: BLE001 - a bug or a broken store must still end as a coded error
                    failure = coded(fault)
            if finish is not None:
                assert isinstance(result, Response)
                finish(result)
            return result, lease
        except FaztError as refused:
            refused.call_id = record.call_id
            error, done = refused, True
            raise
        except Exception as fault:  # noqa: BLE001 - same edge, for a fault of the pipeline itself
            failed = coded(fault)
            failed.call_id = record.call_id
            error, done = failed, True
            raise failed from None
        except CallerError as own:
            error, done = own, True
            raise own.error from own.error.__cause__
        except BaseException as gone:
            error, done = gone, True
            raise
        finally:
            if done:
                lease.end(error)

    def _carry_out(self, effect: Effect, lease: Lease[SyncConnection], request: Request) -> Any:
        kind = type(effect)  # the common ones first
        if kind is EnterSlot:
            return self._enter(effect, lease)  # type: ignore[arg-type]
        if kind is Send:
            return self._send(effect, lease)  # type: ignore[arg-type]
        if kind is Read:
            connection = lease.connection
            assert connection is not None
            body = connection.read(cap=effect.cap, deadline=effect.deadline, idle=effect.idle)  # type: ignore[union-attr]
            return lease.scrub_body(body)
        if kind is LookUp:
            return self._look_up(effect, lease, request)  # type: ignore[arg-type]
        if kind is Pace:
            return self._pace(effect, lease)  # type: ignore[arg-type]
        if kind is Again:
            delay = self._again(effect, lease)  # type: ignore[arg-type]
            return _sleep(delay) if delay > 0 else None
        return self._at_once(effect, lease, request)

    def _pace(self, asked: Pace, lease: Lease[SyncConnection]) -> None:
        woken = threading.Event()
        place = self._place(asked, lease, woken.set)
        while place is not None and not place.granted:
            if not woken.wait(self._patience(place, asked)) and not place.granted:
                raise place.crowded()
            woken.clear()
        wait = self._pass(asked, lease)
        if wait > 0:
            _sleep(wait)
            assert lease.passed is not None
            lease.passed.recheck(self.clock())

    def _send(self, order: Send, lease: Lease[SyncConnection]) -> Any:
        self._begin_trip(order, lease)
        try:
            connection = self.wire.acquire(
                order.target,
                deadline=order.deadline,
                on_attempt=lease.attempted,
                fresh=order.fresh,
                phases=order.phases,
            )
            lease.take(connection)
            head = connection.send(
                self._head(order, lease),
                order.body,
                deadline=order.deadline,
                on_sent=lease.attempted,
                method=order.method,
                upload=order.upload,
                phases=order.phases,
            )
        except FaztError as error:
            lease.failed(error, self.clock())
            raise
        return lease.answered(head, self.clock())

    def _look_up(self, asked: LookUp, lease: Lease[SyncConnection], request: Request) -> Found:
        found = self._look(asked)
        while found.head is None and not asked.request.alone:
            flight = self._join(asked, lease)
            if flight.leader:
                break
            found = self._look(asked, again=True)
            if not flight.again:
                break
        if found.refresh:
            self._refresh(asked, request)
        return found

    def _join(self, asked: LookUp, lease: Lease[SyncConnection]) -> Flight:
        """Lead those who ask the same to the network, or wait for the one who does; return this call's part in it."""
        woken = threading.Event()
        flight = self.flights.begin(asked.request.sharing, open_ended=asked.stream, wake=woken.set)
        if flight.leader:
            self._land(lease)
            lease.flight = flight
            return flight
        left = max(0.0, asked.deadline - self.clock())
        most = min(left, OPEN_ENDED) if flight.open_ended else left
        try:
            if not woken.wait(most if most < threading.TIMEOUT_MAX else None) and most == left:
                raise FaztError(Reason.TOTAL, "the call did not finish within its deadline")
        finally:
            self.flights.leave(flight)
        return flight

    def _refresh(self, asked: LookUp, request: Request) -> None:
        """Validate in the background what was answered with although it is stale (RFC 5861 section 3)."""
        again = self._to_refresh(asked, request)
        if again is None:
            return
        key = asked.request.sharing

        def validate() -> None:
            try:
                self.call(again, profile=asked.profile)
            except Exception:  # noqa: BLE001, S110 - nobody waits for it; its record says what became of it
                pass
            finally:
                self._refreshing.discard(key)

        try:
            threading.Thread(target=validate, name="fazt-refresh", daemon=True).start()
        except RuntimeError:  # no more threads, or the interpreter is ending: the answer is good without it
            self._refreshing.discard(key)

    def close(self) -> None:
        """End what collected calls left behind and close every connection."""
        self.end_strays()
        self.wire.close()


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
