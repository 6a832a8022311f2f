"""What the engine for threads and the one for event loops share: state, and every effect that does not wait."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fazt.core.cache.flight import Flight, Flights
from fazt.core.cache.store import CachedResponse, ResponseCache
from fazt.core.call import Opened, Profile, Request, Response, Upload
from fazt.core.concurrency import Slots
from fazt.core.effects import Again, Discard, Effect, EnterSlot, Fill, LookUp, Moment, Pace, Send, TakeToken
from fazt.core.exchange import exchange
from fazt.core.injection import Scrubber, apply
from fazt.core.ratelimit import Buckets
from fazt.core.record import CallRecord
from fazt.core.url import parse_url
from fazt.engine.lease import CallIds, Lease, note_error
from fazt.errors import CallerError, FaztError
from fazt.net.http1 import encode_head

if TYPE_CHECKING:
    from fazt.core.budget import Invocation
    from fazt.core.traffic import Place, Traffic
    from fazt.ports import Policies, RecordSink, Vault

_MAX_SCRUBBERS = 64

W = TypeVar("W")


class EngineBase(Generic[W]):
    """Makes calls under the current policy.

    Args:
        policies: where the current snapshot comes from.
        wire: the connections.
        vault: values of secrets.
        sink: where records go.
        slots, buckets, cache, flights, traffic: the state calls share; one of each per process.
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
        self.cache = cache if cache is not None else ResponseCache(lock=threading.Lock())
        self.flights = flights if flights is not None else Flights(threading.Lock())
        self.traffic = traffic
        self.clock = clock
        self.wall = wall
        self._draw = random.Random(os.urandom(16)).random  # noqa: S311 - spreads retries, guards nothing
        self._ids = CallIds()
        self._scrubbers: dict[tuple[str, ...], Scrubber] = {}
        self._strays: deque[tuple[Lease[Any], BaseException]] = deque()
        """Leases whose owner was collected: ended by the next call, since the collector may run under any lock."""

    def _begin(
        self, request: Request, profile: Profile, invocation: Invocation | None, tls: str
    ) -> tuple[CallRecord, float, Generator[Effect, Any, Response | Opened]]:
        """Return the record, the start and the pipeline of a call that starts now."""
        if self._strays:
            self.end_strays()
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

    def _place(self, asked: Pace, lease: Lease[Any], wake: Callable[[], None]) -> Place | None:
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
            case Fill(asked, ttl, head, body):
                self.cache.store(asked, ttl=ttl, head=head, body=body, now=self.clock(), generation=lease.generation)
            case Discard(earlier, method, url, fields):
                lease.end_trip(self.clock(), earlier=earlier, redirect=url.redacted())
                if request.between is None:
                    return None
                try:
                    return request.between(earlier, method, url, fields)
                except Exception as error:
                    raise CallerError(error) from error
            case Moment():
                now = self.clock()
                return now, lease.record.ts + (now - lease.started), self._draw()
            case _:
                raise AssertionError(effect)
        return None

    def _again(self, asked: Again, lease: Lease[Any]) -> float:
        lease.end_trip(self.clock(), error=asked.error, retry_after=asked.retry_after, delay=asked.delay)
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

    def _cached(self, asked: LookUp, *, again: bool = False) -> CachedResponse | None:
        return self.cache.lookup(asked.request, ttl=asked.ttl, now=self.clock(), max_body=asked.cap, again=again)

    # --- the end of calls

    def end_flight(self, flight: Flight) -> None:
        """Wake the calls that waited for this one's answer."""
        for follower in self.flights.finish(flight):
            if follower.wake is not None:
                follower.wake()

    def collected(self, lease: Lease[Any], error: BaseException) -> bool:
        """Take over a lease whose owner was collected; False where it may be ended on the spot."""
        self._strays.append((lease, error))
        return True

    def end_strays(self) -> None:
        """End the leases of calls whose owner was collected."""
        while self._strays:
            try:
                lease, error = self._strays.popleft()
            except IndexError:  # another thread took the last one
                return
            lease.finish(self, error)


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
        yield from pieces
    except Exception as error:
        raise CallerError(error) from error


async def _guard_async(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    try:
        async for piece in pieces:
            yield piece
    except Exception as error:
        raise CallerError(error) from error
