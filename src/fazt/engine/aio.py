"""The engine for one event loop at a time: asyncio or uvloop."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from fazt.core.cache.decision import Found
from fazt.core.call import Opened, Profile, Request, Response
from fazt.core.effects import Again, Discard, Effect, EnterSlot, Fill, Invalidate, Keep, LookUp, Pace, Read, Renew, Send
from fazt.engine.aio_stream import AsyncStreamed
from fazt.engine.base import OPEN_ENDED, EngineBase
from fazt.engine.lease import Lease, coded
from fazt.errors import CallerError, FaztError, Reason
from fazt.ports import AsyncConnection, AsyncWire

if TYPE_CHECKING:
    from fazt.core.budget import Invocation
    from fazt.core.cache.flight import Flight
    from fazt.core.call import ResponseHead
    from fazt.core.record import CallRecord


_sleep = asyncio.sleep


class AsyncLease(Lease[AsyncConnection]):
    """A lease that belongs to one event loop."""

    __slots__ = ("loop",)

    def __init__(
        self, engine: AsyncEngine, record: CallRecord, *, invocation: Invocation | None, started: float
    ) -> None:
        super().__init__(engine, record, invocation=invocation, started=started)
        self.loop = asyncio.get_running_loop()


class AsyncEngine(EngineBase[AsyncWire]):
    """Makes calls under the current policy, on the running event loop."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._tasks: set[asyncio.Task[None]] = set()
        """What is asked in the background."""

    async def call(
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
        record, started, steps = self._begin(request, profile, invocation, self.wire.tls_id)
        lease = AsyncLease(self, record, invocation=invocation, started=started)
        error: BaseException | None = None
        answer: Any = None
        failure: FaztError | None = None
        try:
            while True:
                try:
                    effect: Effect = steps.send(answer) if failure is None else steps.throw(failure)
                except StopIteration as stop:
                    response: Response = stop.value
                    break
                answer = failure = None
                kind = type(effect)
                try:
                    # the common effects first; what waits is the wire's own coroutine, one around it would cost as much
                    if kind is EnterSlot:
                        self._enter(effect, lease)  # type: ignore[arg-type]
                    elif kind is Send:
                        self._begin_trip(effect, lease)  # type: ignore[arg-type]
                        try:
                            lease.take(await self._connect(effect, lease))  # type: ignore[arg-type]
                            answer = lease.answered(await self._send(effect, lease), self.clock())  # type: ignore[arg-type]
                        except FaztError as failed:
                            lease.failed(failed, self.clock())
                            raise
                    elif kind is Read:
                        answer = lease.scrub_body(await self._read(effect, lease))  # type: ignore[arg-type]
                    else:
                        answer = await self._carry_out(effect, lease, request)
                except FaztError as refused:
                    failure = refused
                except Exception as fault:  # noqa: BLE001 - a bug or a broken store must still end as a coded error
                    failure = coded(fault)
            response.rule = record.rule_id
            if finish is not None:
                finish(response)
            return response
        except FaztError as refused:
            refused.call_id = record.call_id
            error = refused
            raise
        except Exception as fault:  # noqa: BLE001 - same edge, for a fault of the pipeline itself
            failed_here = coded(fault)
            failed_here.call_id = record.call_id
            error = failed_here
            raise failed_here from None
        except CallerError as own:
            error = own
            raise own.error from own.error.__cause__
        except BaseException as gone:
            error = gone
            raise
        finally:
            lease.end(error)

    async def open(self, request: Request, *, profile: Profile, hold: bool = False) -> AsyncStreamed:
        """Make one call and return when its head has come; the body is read from what is returned.

        The record is written when the body has ended, failed or was closed.

        Args:
            request: its options ask for a stream.
            profile: the numbers of the door.
            hold: whether the record of an answered call waits for `settle` of what is returned.

        Raises:
            FaztError: the refusal or failure, with the call's id.
        """
        record, started, steps = self._begin(request, profile, None, self.wire.tls_id)
        lease = AsyncLease(self, record, invocation=None, started=started)
        answer: Any = None
        failure: FaztError | None = None
        try:
            while True:
                effect: Effect = steps.send(answer) if failure is None else steps.throw(failure)
                answer = failure = None
                try:
                    answer = await self._carry_out(effect, lease, request)
                except FaztError as refused:
                    failure = refused
                except Exception as fault:  # noqa: BLE001 - a bug or a broken store must still end as a coded error
                    failure = coded(fault)
        except StopIteration as stop:
            found: Response | Opened = stop.value
            if isinstance(found, Response):
                found = Opened(found, len(found.body), 0.0, None, live=False)
            lease.held = hold
            return AsyncStreamed(lease, found)
        except FaztError as refused:
            refused.call_id = record.call_id
            lease.end(refused)
            raise
        except Exception as fault:  # noqa: BLE001 - same edge, for a fault of the pipeline itself
            failed = coded(fault)
            failed.call_id = record.call_id
            lease.end(failed)
            raise failed from None
        except CallerError as own:
            lease.end(own)
            raise own.error from own.error.__cause__
        except BaseException as gone:
            lease.end(gone)
            raise

    async def _carry_out(self, effect: Effect, lease: AsyncLease, request: Request) -> Any:
        match effect:
            case EnterSlot():
                return self._enter(effect, lease)
            case Send():
                self._begin_trip(effect, lease)
                try:
                    lease.take(await self._connect(effect, lease))
                    head = await self._send(effect, lease)
                except FaztError as error:
                    lease.failed(error, self.clock())
                    raise
                return lease.answered(head, self.clock())
            case Read():
                return lease.scrub_body(await self._read(effect, lease))
            case LookUp():
                return await self._look_up(effect, lease, request)
            case Keep() if self.cache.store.blocking and (effect.known is not None or effect.request.method == "HEAD"):
                return await asyncio.to_thread(self._keep, effect, lease)
            case Fill(body) if self.cache.store.blocking:
                return await asyncio.to_thread(self._fill, body, lease)
            case Renew() if self.cache.store.blocking:
                lease.let_go()
                return await asyncio.to_thread(self._renew, effect, lease)
            case Invalidate() if self.cache.store.blocking:
                return await asyncio.to_thread(self._at_once, effect, lease, request)
            case Pace():
                return await self._pace(effect, lease)
            case Again():
                delay = self._again(effect, lease)
                return await _sleep(delay)
            case Discard():
                changed = self._at_once(effect, lease, request)
                try:
                    return await changed if inspect.isawaitable(changed) else changed
                except Exception as error:
                    raise CallerError(error) from error
            case _:
                return self._at_once(effect, lease, request)

    def _connect(self, asked: Send, lease: AsyncLease) -> Coroutine[Any, Any, AsyncConnection]:
        return self.wire.acquire(
            asked.target,
            deadline=asked.deadline,
            on_attempt=lease.attempted,
            fresh=asked.fresh,
            phases=asked.phases,
        )

    def _send(self, order: Send, lease: AsyncLease) -> Coroutine[Any, Any, ResponseHead]:
        connection = lease.connection
        assert connection is not None
        return connection.send(
            self._head(order, lease),
            order.body,
            deadline=order.deadline,
            on_sent=lease.attempted,
            method=order.method,
            upload=order.upload,
            phases=order.phases,
        )

    def _read(self, asked: Read, lease: AsyncLease) -> Coroutine[Any, Any, bytes]:
        connection = lease.connection
        assert connection is not None
        return connection.read(cap=asked.cap, deadline=asked.deadline, idle=asked.idle)

    async def _pace(self, asked: Pace, lease: AsyncLease) -> None:
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        # raises where the loop is closed: the place then goes on to the next one
        place = self._place(asked, lease, lambda: loop.call_soon_threadsafe(woken.set))
        while place is not None and not place.granted:
            try:
                async with asyncio.timeout(self._patience(place, asked)):
                    await woken.wait()
            except TimeoutError:
                if not place.granted:
                    raise place.crowded() from None
            woken.clear()
        wait = self._pass(asked, lease)
        if wait > 0:
            await _sleep(wait)
            assert lease.passed is not None
            lease.passed.recheck(self.clock())

    async def _look_up(self, asked: LookUp, lease: AsyncLease, request: Request) -> Found:
        found = self._look(asked)
        while found.head is None and not asked.request.alone:
            flight = await self._join(asked, lease)
            if flight.leader:
                break
            found = self._look(asked, again=True)
            if not flight.again:
                break
        if found.refresh:
            self._refresh(asked, request)
        return found

    async def _join(self, asked: LookUp, lease: AsyncLease) -> Flight:
        """Lead those who ask the same to the network, or wait for the one who does; return this call's part in it."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        flight = self.flights.begin(
            asked.request.sharing,
            open_ended=asked.stream,
            wake=lambda: _from_anywhere(loop, _settle, waiter),
        )
        if flight.leader:
            self._land(lease)
            lease.flight = flight
            return flight
        left = max(0.0, asked.deadline - self.clock())
        most = min(left, OPEN_ENDED) if flight.open_ended else left
        try:
            async with asyncio.timeout(most if most < math.inf else None):
                await waiter
        except TimeoutError:
            if most == left:
                raise FaztError(Reason.TOTAL, "the call did not finish within its deadline") from None
        finally:
            self.flights.leave(flight)
        return flight

    def _refresh(self, asked: LookUp, request: Request) -> None:
        """Validate in the background what was answered with although it is stale (RFC 5861 section 3)."""
        again = self._to_refresh(asked, request)
        if again is None:
            return
        key = asked.request.sharing

        async def validate() -> None:
            try:
                await self.call(again, profile=asked.profile)
            except Exception:  # noqa: BLE001, S110 - nobody waits for it; its record says what became of it
                pass

        def done(task: asyncio.Task[None]) -> None:
            self._refreshing.discard(key)
            self._tasks.discard(task)

        task = asyncio.get_running_loop().create_task(validate())
        self._tasks.add(task)
        task.add_done_callback(done)

    def collected(self, lease: Lease[Any], error: BaseException) -> bool:
        """End a lease whose owner was collected on its own loop, or on the spot when that is over."""
        assert isinstance(lease, AsyncLease)
        if not lease.loop.is_running():
            return False
        # in any thread, in the middle of anything, perhaps of what holds the lock that is needed here
        lease.loop.call_soon_threadsafe(lease.finish, self, error)
        return True

    async def close(self) -> None:
        """Give up what is asked in the background and close every connection."""
        loop = asyncio.get_running_loop()
        under_way = [task for task in self._tasks if task.get_loop() is loop]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self.wire.close()


def _from_anywhere(loop: asyncio.AbstractEventLoop, what: Callable[..., object], *args: Any) -> None:
    """Do something on a loop, from whatever thread."""
    try:
        loop.call_soon_threadsafe(what, *args)
    except RuntimeError:  # the loop is closed, and nobody waits on it any more
        pass


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
