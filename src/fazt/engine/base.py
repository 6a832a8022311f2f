"""What the engine for threads and the one for event loops share: state, and every effect that does not wait."""

from __future__ import annotations

import _thread
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Hashable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fazt.core.cache.decision import Found
from fazt.core.cache.flight import Flight, Flights
from fazt.core.cache.memory import MemoryStore
from fazt.core.cache.responses import ResponseCache
from fazt.core.call import Opened, Profile, Request, Response, Upload
from fazt.core.concurrency import Slots
from fazt.core.effects import (
    Again,
    Discard,
    Effect,
    EnterSlot,
    Fill,
    Invalidate,
    Keep,
    LookUp,
    Moment,
    Pace,
    Renew,
    Send,
    StandIn,
    TakeToken,
)
from fazt.core.exchange import exchange
from fazt.core.injection import Scrubber, apply
from fazt.core.ratelimit import Buckets
from fazt.core.record import CallRecord
from fazt.core.redirects import STATUSES
from fazt.core.url import parse_url
from fazt.engine.lease import CallIds, Lease, note_error
from fazt.errors import CallerError, FaztError
from fazt.net.http1 import encode_head

if TYPE_CHECKING:
    from fazt.core.budget import Invocation
    from fazt.core.call import Fields, ResponseHead
    from fazt.core.traffic import Place, Traffic
    from fazt.ports import Policies, RecordSink, Vault

_MAX_SCRUBBERS = 64
_MAX_REFRESHING = 32
_SWEEP = 1.0
"""Seconds to wait for another thread that ends the calls whose owner was collected."""
OPEN_ENDED = 10.0
"""Seconds that a call waits at most for an answer which another caller reads at its own pace."""

W = TypeVar("W")


class EngineBase(Generic[W]):
    """Makes calls under the current policy.

    Args:
        policies: where the current snapshot comes from.
        wire: the connections.
        vault: values of secrets.
        sink: where records go.
        slots, buckets, cache, flights, traffic: the state calls share; one of each per process.
        trace: adds the trace context to the fields of a request (`telemetry.tracing.with_trace`), None where no spans
            are exported.
        clock: monotonic seconds, the same clock the wire's deadlines are in.
        wall: seconds since the epoch, for records.
    """

    def __init__(
        self,
        *,
        policies: Policies,
        wire: W,
        vault: Vault,
        sink: RecordSink,
        slots: Slots | None = None,
        buckets: Buckets | None = None,
        cache: ResponseCache | None = None,
        flights: Flights | None = None,
        traffic: Traffic | None = None,
        trace: Callable[[Fields], Fields] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.policies = policies
        self.wire = wire
        self.vault = vault
        self.sink = sink
        # a lock of C costs less than a context manager of Python that does nothing
        self.slots = slots if slots is not None else Slots(threading.Lock())
        self.buckets = buckets if buckets is not None else Buckets(threading.Lock())
        self.cache = cache if cache is not None else ResponseCache(MemoryStore(0))
        self.flights = flights if flights is not None else Flights(threading.Lock())
        self.traffic = traffic
        self.trace = trace
        self.clock = clock
        self.wall = wall
        self._draw = random.Random(os.urandom(16)).random  # noqa: S311 - spreads retries, guards nothing
        self._ids = CallIds()
        self._scrubbers: dict[tuple[str, ...], Scrubber] = {}
        self._strays: deque[tuple[Lease[Any], BaseException]] = deque()
        """Leases whose owner was collected: ended elsewhere, since the collector may run under any lock."""
        self._sweeping = threading.RLock()
        self._refreshing: set[Hashable] = set()
        """What is asked for in the background: each thing once at a time."""

    def _begin(
        self, request: Request, profile: Profile, invocation: Invocation | None, tls: str
    ) -> tuple[CallRecord, float, Generator[Effect, Any, Response | Opened]]:
        """Return the record, the start and the pipeline of a call that starts now."""
        if self._strays:
            self.end_strays()
        if self.trace is not None:
            request = replace(request, headers=self.trace(request.headers))
        started = self.clock()
        record = CallRecord(self._ids(), self.wall(), request.app, request.door)
        steps = exchange(
            request,
            policy=self.policies.current,
            profile=profile,
            record=record,
            now=started,
            tls=tls,
            invocation=invocation,
            traffic=None if self.traffic is None or self.traffic.idle else self.traffic,
            cache=self.cache if self.cache.enabled else None,
        )
        return record, started, steps

    def refuse(self, request: Request, error: FaztError) -> None:
        """Write the record of a call that its door refuses before anything of it was done; the error gets its id."""
        record = CallRecord(self._ids(), self.wall(), request.app, request.door, request.method[:32])
        record.service, record.role = request.options.service, request.options.role
        try:
            url = parse_url(request.url)
        except FaztError:
            pass
        else:
            record.scheme, record.host, record.port, record.path = url.scheme, url.host, url.port, url.path
        error.call_id = record.call_id
        note_error(record, error)
        self.sink.append(record)

    # --- effects that do not wait

    def _enter(self, asked: EnterSlot, lease: Lease[Any]) -> None:
        if asked.app_cap is not None or asked.global_cap is not None:
            self.slots.acquire(asked.app, app_cap=asked.app_cap, global_cap=asked.global_cap)
            lease.slot = asked.app

    def _place(self, asked: Pace, lease: Lease[Any], wake: Callable[[], object]) -> Place | None:
        """Take a place among the calls to this host at once; None where their number is not limited."""
        traffic = self.traffic
        assert traffic is not None
        place = lease.place = traffic.place(asked.host, role=asked.role, wake=wake)
        return place

    def _patience(self, place: Place, asked: Pace) -> float:
        return max(0.0, min(place.patience, asked.deadline - self.clock()))

    def _pass(self, asked: Pace, lease: Lease[Any]) -> float:
        """Take leave of the limits of host, service and role; return the seconds to wait before going."""
        traffic = self.traffic
        assert traffic is not None
        now = self.clock()
        passed = traffic.enter(
            asked.host,
            service=asked.service,
            role=asked.role,
            method=asked.method,
            now=now,
            left=asked.deadline - now,
        )
        lease.passed = passed
        lease.record.breaker = passed.state
        lease.record.waited_ms += passed.wait * 1000.0
        wait: float = passed.wait
        return wait

    def _at_once(self, effect: Effect, lease: Lease[Any], request: Request) -> Any:
        match effect:
            case TakeToken(key, rate, burst):
                self.buckets.take(key, rate_per_min=rate, burst=burst, now=self.clock())
                lease.open_token = key
            case Keep():
                return self._keep(effect, lease)
            case Fill(body):
                self._fill(body, lease)
            case Renew():
                lease.let_go()
                return self._renew(effect, lease)
            case StandIn(asked, entry, method, url, error):
                answer = self.cache.stand_in(asked, entry, now=self.wall())
                if answer is not None and lease.record.attempt_ts is not None:
                    # the trip that failed is an earlier one; the answer took none
                    lease.end_trip(self.clock(), method, url, error=error)
                return answer
            case Invalidate(app, url, head):
                self.cache.invalidate(app=app, url=url, status=head.status, fields=head.headers, now=self.wall())
            case Discard(earlier, method, url, fields):
                self._land(lease)
                lease.end_trip(self.clock(), earlier.method, earlier.url, earlier=earlier, redirect=url.redacted())
                if request.between is None:
                    return None
                try:
                    return request.between(earlier, method, url, fields)
                except Exception as error:
                    raise CallerError(error) from error
            case Moment():
                now = self.clock()
                if lease.passed is not None:  # the trip ended on a connection that was closed before its time
                    lease.passed.refund(now)
                    lease.passed = None
                return now, lease.record.ts + (now - lease.started), self._draw()
            case _:
                raise AssertionError(effect)
        return None

    def _again(self, asked: Again, lease: Lease[Any]) -> float:
        lease.end_trip(
            self.clock(), asked.method, asked.url, error=asked.error, retry_after=asked.retry_after, delay=asked.delay
        )
        return asked.delay

    def _begin_trip(self, order: Send, lease: Lease[Any]) -> None:
        lease.begin_trip(self.clock())
        if order.fresh and lease.connection is not None:
            stale, lease.connection = lease.connection, None
            stale.abort()
        if order.upload is not None:
            order.upload.opened = True
            order.upload = _guarded(order.upload)

    def _head(self, order: Send, lease: Lease[Any]) -> bytes:
        """Return the head of the request as it goes out; a secret is put in here, at the last moment."""
        url = order.url
        target, fields = url.target, order.headers
        place = order.injection
        if place is not None:
            value = self.vault.value(place.scope, place.name, version=place.version)
            target, fields = apply(place, value, target=target, fields=fields)
            self._watch_for(value, lease)
        if order.upload is not None:
            return encode_head(
                order.method, target, authority=url.authority, fields=fields, body=None, upload=order.upload
            )
        return encode_head(order.method, target, authority=url.authority, fields=fields, body=order.body)

    def _watch_for(self, value: str, lease: Lease[Any]) -> None:
        """Take this value out of all that comes back in this call from now on."""
        if value not in lease.values:
            lease.values = (*lease.values, value)
        scrubber = self._scrubbers.get(lease.values)
        if scrubber is None:
            if len(self._scrubbers) >= _MAX_SCRUBBERS:
                self._scrubbers.clear()
            scrubber = self._scrubbers[lease.values] = Scrubber(lease.values)
        lease.scrubber = scrubber

    # --- the cache

    def _look(self, asked: LookUp, *, again: bool = False) -> Found:
        found = self.cache.look(asked.request, now=self.wall(), max_body=asked.cap, again=again)
        if found.head is not None and asked.follow and found.head.status in STATUSES:
            return Found()  # where it leads is asked of the network, and judged
        return found

    def _keep(self, asked: Keep, lease: Lease[Any]) -> bool:
        """Begin to keep a response; where it may not be kept, nobody waits for it any longer."""
        requested_at, now = _trip(lease)
        recording = lease.recording = self.cache.record(
            asked.request,
            asked.head,
            requested_at=requested_at,
            now=now,
            generation=lease.generation,
            known=asked.known,
        )
        if recording is None:
            self._land(lease)
        return recording is not None

    def _land(self, lease: Lease[Any]) -> None:
        """Let those go on who wait for this call: what it is answered is not for them."""
        flight, lease.flight = lease.flight, None
        if flight is not None:
            self.end_flight(flight)

    def _fill(self, body: bytes, lease: Lease[Any]) -> None:
        """Keep a response whose body is whole."""
        recording, lease.recording = lease.recording, None
        if recording is not None:
            recording.feed(body)
            recording.commit()

    def _renew(self, asked: Renew, lease: Lease[Any]) -> tuple[ResponseHead, bytes] | None:
        requested_at, now = _trip(lease)
        return self.cache.renew(
            asked.request,
            asked.entry,
            asked.head,
            requested_at=requested_at,
            now=now,
            generation=lease.generation,
        )

    def _to_refresh(self, asked: LookUp, request: Request) -> Request | None:
        """Return the request to make in the background, None when it is under way; its key is then taken."""
        key = asked.request.sharing
        if key in self._refreshing or len(self._refreshing) >= _MAX_REFRESHING:
            return None
        self._refreshing.add(key)
        # the caller's own code had its say in the call that was answered
        return replace(request, between=None, options=replace(request.options, cache="validate", stream=False))

    # --- the end of calls

    def end_flight(self, flight: Flight, *, given_up: bool = False) -> None:
        """Wake the calls that waited for this one's answer."""
        for follower in self.flights.finish(flight, given_up=given_up):
            if follower.wake is not None:
                follower.wake()

    def collected(self, lease: Lease[Any], error: BaseException) -> bool:
        """Take over a lease whose owner was collected; False where it may be ended on the spot."""
        self._strays.append((lease, error))
        if not sys.is_finalizing():
            try:
                # somebody may wait for the connection; `threading` takes locks to start a thread, this takes none
                _thread.start_new_thread(self.end_strays, ())
            except RuntimeError:  # no thread is to be had: the next call does it
                pass
        return True

    def end_strays(self) -> None:
        """End the leases of calls whose owner was collected; when this returns they are ended."""
        if not self._sweeping.acquire(timeout=_SWEEP):  # held by a thread that a fork has left behind
            return
        try:
            while self._strays:
                lease, error = self._strays[0]
                try:
                    lease.finish(self, error)
                finally:
                    self._strays.popleft()
        finally:
            self._sweeping.release()


def _trip(lease: Lease[Any]) -> tuple[float, float]:
    """Return when the current trip began and when the head of its answer came, in seconds since the epoch."""
    record = lease.record
    began = record.attempt_ts if record.attempt_ts is not None else record.ts
    return began, began + (record.ttfb_ms or 0.0) / 1000.0


def _guarded(upload: Upload) -> Upload:
    """Return the same body, whose caller's own exceptions pass through the engine as they are."""

    def begin() -> Iterable[bytes] | AsyncIterable[bytes]:
        try:
            pieces = upload.open()
        except Exception as error:
            raise CallerError(error) from error
        return _guard_async(pieces) if isinstance(pieces, AsyncIterable) else _guard(pieces)

    return Upload(begin, upload.length, upload.replayable, upload.opened)


def _guard(pieces: Iterable[bytes]) -> Iterator[bytes]:
    try:
        for piece in pieces:
            yield piece if type(piece) is bytes else _piece(piece)
    except Exception as error:
        raise CallerError(error) from error


async def _guard_async(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    try:
        async for piece in pieces:
            yield piece if type(piece) is bytes else _piece(piece)
    except Exception as error:
        raise CallerError(error) from error


def _piece(given: Any) -> bytes:
    """Return a piece of a body as bytes.

    Raises:
        TypeError: it is something else, such as text: nobody knows how that is to be encoded.
    """
    if not isinstance(given, bytes | bytearray | memoryview):
        raise TypeError(f"the pieces of a request body must be bytes, not {type(given).__name__}")
    return bytes(given)
