"""The asynchronous driver: carries out the effects of `core.exchange` over the wire, the stores and the clock.

Everything a call takes is held by its `Lease`, which ends each thing exactly once: at the end of the body, on an
error, on cancellation. Ending never blocks and never yields.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from fazt.core.cache.flight import Flight, Flights
from fazt.core.cache.store import CachedResponse, ResponseCache
from fazt.core.call import Profile, Request, Response, ResponseHead
from fazt.core.concurrency import Slots
from fazt.core.effects import Discard, Effect, EnterSlot, Fill, LookUp, Read, Send, TakeToken
from fazt.core.exchange import exchange
from fazt.core.injection import Scrubber, apply
from fazt.core.ratelimit import Buckets
from fazt.core.record import CallRecord
from fazt.errors import FaztError, OperatorError, Reason
from fazt.net.http1 import encode_head

if TYPE_CHECKING:
    from fazt.core.budget import Invocation
    from fazt.ports import AsyncConnection, AsyncWire, Policies, RecordSink, Vault

_MAX_SCRUBBERS = 64
_PREFIX = os.urandom(5).hex()
os.register_at_fork(after_in_child=lambda: globals().__setitem__("_PREFIX", os.urandom(5).hex()))


class CallIds:
    """Ids of calls: unique across processes, ordered within one; `c_` and 20 hex digits."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = int.from_bytes(os.urandom(3), "big")

    def __call__(self) -> str:
        self._next += 1
        return f"c_{_PREFIX}{self._next & 0xFFFFFFFFFF:010x}"


class Lease:
    """All that one call holds. `end()` gives it back and writes the record; later calls do nothing."""

    __slots__ = (
        "_engine",
        "_loop",
        "_started",
        "connection",
        "flight",
        "generation",
        "invocation",
        "open_token",
        "record",
        "scrubber",
        "slot",
        "values",
    )

    def __init__(self, engine: AsyncEngine, record: CallRecord, *, invocation: Invocation | None, started: float):
        self._engine: AsyncEngine | None = engine
        self._loop = asyncio.get_running_loop()
        self._started = started
        self.record = record
        self.invocation = invocation
        self.slot: str | None = None
        self.open_token: tuple[str, str] | None = None
        self.connection: AsyncConnection | None = None
        self.flight: Flight | None = None
        self.generation = engine.cache.generation
        self.scrubber: Scrubber | None = None
        self.values: tuple[str, ...] = ()

    def attempted(self) -> None:
        """Note that a connection was tried or bytes were sent: the rate token stays spent."""
        self.open_token = None

    def take(self, connection: AsyncConnection) -> None:
        """Hold a connection."""
        self.connection = connection
        self.record.address = connection.address

    def scrub_head(self, head: ResponseHead) -> ResponseHead:
        """Return a head without the values of secrets that this call sent."""
        if self.scrubber is None:
            return head
        fields, hits = self.scrubber.scrub_fields(head.headers)
        self.record.scrubbed += hits
        return ResponseHead(head.status, fields)

    def scrub_body(self, body: bytes) -> bytes:
        """Let the connection go, of which this was the last, and return the body without those values."""
        self.let_go()
        if self.scrubber is None:
            return body
        body, hits = self.scrubber.scrub(body)
        self.record.scrubbed += hits
        return body

    def let_go(self) -> None:
        """Give the current connection back; the wire decides whether it may be used again."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.release()

    def end(self, error: BaseException | None) -> None:
        """End everything the call holds and write its record."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        if type(error) is GeneratorExit and self._loop.is_running():
            # Collected: in any thread, in the middle of anything, perhaps of what holds the lock that is needed here.
            self._loop.call_soon_threadsafe(self._end, engine, error)
        else:
            self._end(engine, error)

    def _end(self, engine: AsyncEngine, error: BaseException | None) -> None:
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
        if self.flight is not None:
            engine.end_flight(self.flight)
        record = self.record
        elapsed = engine.clock() - self._started
        record.duration_ms = elapsed * 1000.0
        if self.invocation is not None and record.cache != "hit":
            self.invocation.charge(elapsed)
        if error is not None:
            _note_error(record, error)
        engine.sink.append(record)


def _note_error(record: CallRecord, error: BaseException) -> None:
    if isinstance(error, FaztError):
        record.code, record.reason = error.code.value, error.reason.value
        record.address_class, record.hop, record.detail = error.address_class, error.hop, error.detail
    else:  # cancelled by the door, or the process is going down
        failure = FaztError(Reason.ABORTED, "")
        record.code, record.reason = failure.code.value, failure.reason.value
        record.detail = type(error).__name__


class AsyncEngine:
    """Makes calls under the current policy.

    Args:
        policies: where the current snapshot comes from.
        wire: the connections.
        vault: values of secrets.
        sink: where records go.
        slots, buckets, cache, flights: the state calls share; one of each per process.
        clock: monotonic seconds, the same clock the wire's deadlines are in.
        wall: seconds since the epoch, for records.
    """

    def __init__(
        self,
        *,
        policies: Policies,
        wire: AsyncWire,
        vault: Vault,
        sink: RecordSink,
        slots: Slots | None = None,
        buckets: Buckets | None = None,
        cache: ResponseCache | None = None,
        flights: Flights | None = None,
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
        self.flights = flights if flights is not None else Flights()
        self.clock = clock
        self.wall = wall
        self._ids = CallIds()
        self._scrubbers: dict[tuple[str, ...], Scrubber] = {}

    async def call(self, request: Request, *, profile: Profile, invocation: Invocation | None = None) -> Response:
        """Make one call; exactly one record is written, whatever happens.

        Raises:
            FaztError: the refusal or failure, with the call's id.
        """
        lease, steps = self._begin(request, profile, invocation)
        error: BaseException | None = None
        answer: Any = None
        failure: FaztError | None = None
        try:
            while True:
                effect: Effect = steps.send(answer) if failure is None else steps.throw(failure)
                answer = failure = None
                kind = type(effect)
                try:
                    # the common effects first; what waits is the wire's own coroutine, one around it would cost as much
                    if kind is EnterSlot:
                        self._enter(effect, lease)  # type: ignore[arg-type]
                    elif kind is Send:
                        lease.take(await self._connect(effect, lease))  # type: ignore[arg-type]
                        answer = lease.scrub_head(await self._send(effect, lease))  # type: ignore[arg-type]
                    elif kind is Read:
                        answer = lease.scrub_body(await self._read(effect, lease))  # type: ignore[arg-type]
                    elif kind is LookUp:
                        answer = self._cached(effect)  # type: ignore[arg-type]
                        if answer is None and self.cache.enabled:
                            answer = await self._join(effect, lease)  # type: ignore[arg-type]
                    else:
                        self._at_once(effect, lease)
                except FaztError as refused:
                    failure = refused
                except Exception as fault:  # noqa: BLE001 - a bug or a broken store must still end as a coded error
                    failure = _coded(fault)
        except StopIteration as stop:
            response: Response = stop.value
            return response
        except FaztError as refused:
            refused.call_id = lease.record.call_id
            error = refused
            raise
        except Exception as fault:  # noqa: BLE001 - same edge, for a fault of the pipeline itself
            coded = _coded(fault)
            coded.call_id = lease.record.call_id
            error = coded
            raise coded from None
        except BaseException as gone:
            error = gone
            raise
        finally:
            lease.end(error)

    def _begin(
        self, request: Request, profile: Profile, invocation: Invocation | None
    ) -> tuple[Lease, Generator[Effect, Any, Response]]:
        """Return the lease and the pipeline of a call that starts now."""
        started = self.clock()
        policy = self.policies.current
        record = CallRecord(self._ids(), self.wall(), request.app, request.door)
        lease = Lease(self, record, invocation=invocation, started=started)
        steps = exchange(
            request,
            policy=policy,
            profile=profile,
            record=record,
            now=started,
            tls=self.wire.tls_id,
            invocation=invocation,
        )
        return lease, steps

    def _enter(self, asked: EnterSlot, lease: Lease) -> None:
        if asked.app_cap is not None or asked.global_cap is not None:
            self.slots.acquire(asked.app, app_cap=asked.app_cap, global_cap=asked.global_cap)
            lease.slot = asked.app

    def _at_once(self, effect: Effect, lease: Lease) -> None:
        match effect:
            case TakeToken(key, rate, burst):
                self.buckets.take(key, rate_per_min=rate, burst=burst, now=self.clock())
                lease.open_token = key
            case Fill(request, ttl, head, body):
                self.cache.store(request, ttl=ttl, head=head, body=body, now=self.clock(), generation=lease.generation)
            case Discard():
                lease.let_go()
            case _:
                raise AssertionError(effect)

    def _connect(self, asked: Send, lease: Lease) -> Coroutine[Any, Any, AsyncConnection]:
        if asked.fresh and lease.connection is not None:
            stale, lease.connection = lease.connection, None
            stale.abort()
        return self.wire.acquire(asked.target, deadline=asked.deadline, on_attempt=lease.attempted, fresh=asked.fresh)

    def _send(self, order: Send, lease: Lease) -> Coroutine[Any, Any, ResponseHead]:
        connection = lease.connection
        assert connection is not None
        method, url, body = order.method, order.url, order.body
        target, fields = url.target, order.headers
        place = order.injection
        if place is not None:
            value = self.vault.value(place.scope, place.name, version=place.version)
            target, fields = apply(place, value, target=target, fields=fields)
            self._watch_for(value, lease)
        return connection.send(
            encode_head(method, target, authority=url.authority, fields=fields, body=body),
            body,
            deadline=order.deadline,
            on_sent=lease.attempted,
            method=method,
        )

    def _read(self, asked: Read, lease: Lease) -> Coroutine[Any, Any, bytes]:
        connection = lease.connection
        assert connection is not None
        return connection.read(cap=asked.cap, deadline=asked.deadline)

    def _watch_for(self, value: str, lease: Lease) -> None:
        """Take this value out of all that comes back in this call from now on."""
        if value not in lease.values:
            lease.values = (*lease.values, value)
        scrubber = self._scrubbers.get(lease.values)
        if scrubber is None:
            if len(self._scrubbers) >= _MAX_SCRUBBERS:
                self._scrubbers.clear()
            scrubber = self._scrubbers[lease.values] = Scrubber(lease.values)
        lease.scrubber = scrubber

    async def _join(self, asked: LookUp, lease: Lease) -> CachedResponse | None:
        """Ask the network for all who ask the same (None), or wait for the one who does."""
        flight = self.flights.begin((asked.request, asked.ttl))
        if flight.leader:
            lease.flight = flight
            return None
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        flight.wake = waiter
        try:
            async with asyncio.timeout(max(0.0, asked.deadline - self.clock())):
                await waiter
        except TimeoutError:
            raise FaztError(Reason.TOTAL, "the call did not finish within its deadline") from None
        finally:
            self.flights.leave(flight)
        return self._cached(asked, again=True)

    def _cached(self, asked: LookUp, *, again: bool = False) -> CachedResponse | None:
        return self.cache.lookup(asked.request, ttl=asked.ttl, now=self.clock(), max_body=asked.cap, again=again)

    def end_flight(self, flight: Flight) -> None:
        """Wake the calls that waited for this one's answer."""
        for follower in self.flights.finish(flight):
            waiter = follower.wake
            if isinstance(waiter, asyncio.Future) and not waiter.done() and not waiter.get_loop().is_closed():
                waiter.set_result(None)


def _coded(fault: Exception) -> FaztError:
    """Turn a fault into a coded error; only its type and place are kept, its text may hold anything."""
    reason = Reason.STORE if isinstance(fault, OperatorError) else Reason.INTERNAL
    message = "fazt's own store could not be read" if reason is Reason.STORE else "an internal error"
    place = ""
    trace = fault.__traceback__
    while trace is not None:
        place = f" at {trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}"
        trace = trace.tb_next
    return FaztError(reason, message, detail=f"{type(fault).__name__}{place}")
