"""The engine for threads: blocking calls, any number of threads at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fazt.core.cache.decision import Found
from fazt.core.call import Opened, Profile, Request, Response
from fazt.core.effects import Again, Effect, EnterSlot, LookUp, Pace, Read, Send
from fazt.engine.base import OPEN_ENDED, EngineBase
from fazt.engine.lease import Lease, coded
from fazt.engine.sync_stream import Streamed
from fazt.errors import CallerError, FaztError, Reason
from fazt.ports import SyncConnection, SyncWire

if TYPE_CHECKING:
    from fazt.core.budget import Invocation
    from fazt.core.cache.flight import Flight

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
