"""One stream of records to several sinks, none of which can hurt a request or another sink."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence

from fazt.core.record import CallRecord
from fazt.errors import OperatorError
from fazt.ports import RecordSink
from fazt.telemetry.event import Event
from fazt.telemetry.records import events_of
from fazt.telemetry.sinks.base import Sink
from fazt.telemetry.worker import Worker

_logger = logging.getLogger("fazt.telemetry")
_QUIET = 60.0
"""Seconds between two complaints about the same sink."""


class Fanout:
    """A `RecordSink` that turns records into events, on a thread, and gives these to every sink.

    `append` costs a deque append; what does not fit any more is counted in `dropped`, what a sink did not take in
    `lost`. A sink that may wait for a network has a thread and a queue of its own. A forked child begins with empty
    queues.

    Args:
        sinks: each gets every event, in order.
        capacity: records that wait at most, and events that wait at most for each slow sink.
        linger: seconds that a record may wait for others before they are handled together.
        own: whether closing this closes the sinks; otherwise they are flushed, and whoever made them closes them.
    """

    def __init__(
        self, sinks: Iterable[Sink], *, capacity: int = 10_000, linger: float = 0.05, own: bool = True
    ) -> None:
        self._own = own
        self._users = 1
        self._outlets = [_Outlet(sink, capacity=capacity, linger=linger) for sink in sinks]
        self._bad_records = 0
        self._worker: Worker[CallRecord | Event] = Worker(
            "fazt-telemetry", self._handle, capacity=capacity, linger=linger, flushed=self._settle
        )
        self._put = self._worker.put
        _open.add(self)

    def __repr__(self) -> str:
        return f"<Fanout {', '.join(outlet.sink.name for outlet in self._outlets)} dropped={self.dropped}>"

    def append(self, record: CallRecord) -> None:
        """Take a finished record; never blocks, never raises."""
        self._put(record)

    def emit(self, event: Event) -> None:
        """Take an event that somebody built; never blocks, never raises."""
        self._put(event)

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """The sinks."""
        return tuple(outlet.sink for outlet in self._outlets)

    @property
    def propagates(self) -> bool:
        """Whether requests should carry the trace context (`tracing.with_trace`)."""
        return any(outlet.sink.propagates for outlet in self._outlets)

    @property
    def dropped(self) -> int:
        """How many records and events were thrown away because a queue was full."""
        return self._worker.dropped + self._bad_records + sum(outlet.dropped for outlet in self._outlets)

    @property
    def lost(self) -> dict[str, int]:
        """How many events each sink failed to take."""
        counts: dict[str, int] = {}
        for outlet in self._outlets:
            counts[outlet.sink.name] = counts.get(outlet.sink.name, 0) + outlet.lost
        return counts

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until every sink got what was taken so far; answer whether it did, within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        done = self._worker.flush(timeout)
        for outlet in self._outlets:
            done = outlet.flush(max(0.0, deadline - time.monotonic())) and done
        return done

    def shared(self) -> Fanout | None:
        """Return this for one more user, each of which closes it; None when the last one did."""
        with _sharing:
            if self._users == 0:
                return None
            self._users += 1
            return self

    def close(self, timeout: float = 5.0) -> None:
        """Flush and close the sinks; what does not get out in time is lost, with a warning.

        While it has other users it is only flushed.
        """
        with _sharing:
            last = self._users == 1
            self._users = max(0, self._users - 1)
        if not last:
            self.flush(timeout)
            return
        deadline = time.monotonic() + timeout
        done = self._worker.close(timeout)
        for outlet in self._outlets:
            done = outlet.close(max(0.0, deadline - time.monotonic()), feeder_done=done, own=self._own) and done
        if not done:
            _logger.warning("telemetry was lost: a sink did not take it within %g s", timeout)

    def _handle(self, batch: list[CallRecord | Event]) -> None:
        events: list[Event] = []
        for item in batch:
            if type(item) is Event:
                events.append(item)
                continue
            try:
                events += events_of(item)  # type: ignore[arg-type]
            except Exception as fault:  # noqa: BLE001 - a record of the wrong shape must not stop the rest
                self._bad_records += 1
                _logger.error("a call record could not become an event: %s", type(fault).__name__)
        shared = tuple(events)
        for outlet in self._outlets:
            outlet.emit(shared)

    def _settle(self) -> None:
        for outlet in self._outlets:
            outlet.settle()

    def _after_fork(self) -> None:
        self._bad_records = 0
        for outlet in self._outlets:
            outlet.after_fork()


class Tee:
    """Gives each record to several record sinks (the network log and a `Fanout`, say); one that raises is skipped."""

    def __init__(self, *sinks: RecordSink) -> None:
        self._sinks = sinks

    def append(self, record: CallRecord) -> None:
        """Take a finished record."""
        for sink in self._sinks:
            try:
                sink.append(record)
            except Exception as fault:  # noqa: BLE001 - the call is over, and the next sink must have its record
                _logger.error("%s did not take a record: %s", type(sink).__name__, type(fault).__name__)


class _Outlet:
    """A sink, its failures, and for a slow one its queue."""

    def __init__(self, sink: Sink, *, capacity: int, linger: float) -> None:
        self.sink = sink
        self.lost = 0
        self._complained = -_QUIET
        self._worker: Worker[Event] | None = None
        if sink.slow:
            self._worker = Worker(
                f"fazt-telemetry-{sink.name}",
                self._feed,
                capacity=capacity,
                linger=linger,
                flushed=self._flush_sink,
                tick=self._tick_sink,
                interval=sink.interval,
            )

    @property
    def dropped(self) -> int:
        return 0 if self._worker is None else self._worker.dropped

    def emit(self, events: tuple[Event, ...]) -> None:
        if self._worker is None:
            self._feed(events)
            return
        for event in events:
            self._worker.put(event)

    def settle(self) -> None:
        if self._worker is None:
            self._flush_sink()

    def flush(self, timeout: float) -> bool:
        return True if self._worker is None else self._worker.flush(timeout)

    def close(self, timeout: float, *, feeder_done: bool, own: bool) -> bool:
        done = feeder_done if self._worker is None else self._worker.close(timeout)
        if done and own:  # a sink in use by a thread that did not end in time is left to it
            self._attempt(self.sink.close)
        return done

    def after_fork(self) -> None:
        self.lost = 0
        self.sink.guard = threading.RLock()  # a thread of the parent may have held it
        self._attempt(self.sink.after_fork)

    def _feed(self, events: Sequence[Event]) -> None:
        try:
            with self.sink.guard:
                self.sink.emit(events)
        except BaseException as fault:  # noqa: BLE001 - a sink may not end this thread, whatever it raises
            self.lost += len(events)
            self._complain(fault)

    def _flush_sink(self) -> None:
        self._attempt(self.sink.flush)

    def _tick_sink(self) -> None:
        self._attempt(self.sink.tick)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            with self.sink.guard:
                action()
        except BaseException as fault:  # noqa: BLE001 - as in _feed
            self._complain(fault)

    def _complain(self, fault: BaseException) -> None:
        now = time.monotonic()
        if now - self._complained < _QUIET:
            return
        self._complained = now
        # Only fazt's own texts and those of the system: a foreign one may hold an endpoint with a password.
        why = type(fault).__name__
        if isinstance(fault, OperatorError):
            why = fault.message
        elif isinstance(fault, OSError) and fault.strerror:
            why = f"{why}: {fault.strerror}"
        _logger.warning("the telemetry sink %r failed (%d events lost so far): %s", self.sink.name, self.lost, why)


def _after_fork() -> None:
    global _sharing
    _sharing = threading.Lock()
    for fanout in list(_open):
        fanout._after_fork()


_sharing = threading.Lock()
_open: weakref.WeakSet[Fanout] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork)
