"""A bounded queue and the daemon thread that empties it; the base of everything here that must not hold up a request.

Putting something in is an append to a deque. The thread sleeps without a timeout while nothing comes, and waits a
moment after the first item, so that a busy process wakes it some twenty times a second and not once per request.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar, cast

T = TypeVar("T")

_logger = logging.getLogger("fazt.telemetry")
_BATCH = 512
_AT_EXIT = 2.0
"""Seconds that all queues together may take to empty when the process ends."""


class _Waiter:
    __slots__ = ("done", "stop")

    def __init__(self, *, stop: bool = False) -> None:
        self.done = threading.Event()
        self.stop = stop


class Worker(Generic[T]):
    """Hands what is put in to a function, in batches, on a thread of its own.

    Args:
        name: of the thread.
        handle: takes a batch; what it raises is logged, and the batch is gone.
        capacity: items that wait at most; beyond it the oldest goes.
        linger: seconds to wait for more after the first item.
        flushed: called on the thread after everything was handled that was put in before a flush.
        tick: called on the thread at least every `interval` seconds.
        interval: seconds, None for never.
    """

    _items: deque[T]
    _signals: SimpleQueue[_Waiter | None]
    _thread: threading.Thread | None
    _awake: bool

    def __init__(
        self,
        name: str,
        handle: Callable[[list[T]], None],
        *,
        capacity: int,
        linger: float = 0.05,
        flushed: Callable[[], None] | None = None,
        tick: Callable[[], None] | None = None,
        interval: float | None = None,
    ) -> None:
        if capacity < 1:
            raise ValueError("the capacity must be at least 1")
        self._name = name
        self._handle = handle
        self._capacity = capacity
        self._linger = linger
        self._flushed = flushed
        self._tick = tick
        self._interval = interval
        self._closed = False
        self._forget()
        _open.add(cast("Worker[object]", self))

    def __repr__(self) -> str:
        return f"<Worker {self._name} waiting={len(self._items)} dropped={self.dropped}>"

    def put(self, item: T) -> None:
        """Take an item; never blocks, never raises."""
        items = self._items
        items.append(item)
        if len(items) > self._capacity:
            self._shed()
        if not self._awake:
            self._awake = True
            # put() of a SimpleQueue may interrupt itself: a record may be written inside a destructor.
            self._signals.put(None)
        if self._thread is None:
            self._start()

    def flush(self, timeout: float) -> bool:
        """Wait until everything put in so far was handled; answer whether it was, within `timeout` seconds."""
        if self._thread is None and not self._items:
            self._settle()
            return True
        self._start()
        thread = self._thread
        if thread is None or not thread.is_alive():
            self._drain_here()
            return True
        if thread is threading.current_thread():
            return False  # a sink that flushes what feeds it would wait for itself
        waiter = _Waiter()
        self._signals.put(waiter)
        return waiter.done.wait(timeout)

    def close(self, timeout: float) -> bool:
        """Handle what waits and stop; answer whether it was done within `timeout` seconds. Later items are dropped."""
        self._closed = True
        thread = self._thread
        if thread is None or not thread.is_alive():
            self._drain_here()
            return True
        if thread is threading.current_thread():
            return False
        waiter = _Waiter(stop=True)
        self._signals.put(waiter)
        thread.join(timeout)
        if thread.is_alive():
            return False
        self._thread = None
        self._drain_here()
        return True

    def forget(self) -> None:
        """Begin anew in a forked child: what waited is the parent's to handle."""
        self._forget()

    def _forget(self) -> None:
        self._items = deque()
        self._signals = SimpleQueue()
        self._starting = threading.RLock()
        self._begun = False
        self._awake = False
        self._thread = None
        self.dropped = 0

    def _shed(self) -> None:
        try:
            self._items.popleft()
        except IndexError:  # the thread was quicker
            return
        self.dropped += 1

    def _start(self) -> None:
        with self._starting:
            # A destructor that runs meanwhile may come here again on this same thread.
            if self._thread is not None or self._begun:
                return
            if self._closed:
                self._drop_all()
                return
            self._begun = True
            try:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread
            except RuntimeError:  # no more threads, or the interpreter is ending; flush() and close() do it themselves
                pass
            finally:
                self._begun = False
        _at_exit_of_a_child()

    def _run(self) -> None:
        signals = self._signals
        items = self._items
        due = None if self._interval is None else time.monotonic() + self._interval
        while signals is self._signals:
            waiters = self._wait(signals, due)
            self._awake = False
            while items:
                self._take(items)
            if waiters:
                self._settle()
            if due is not None and time.monotonic() >= due:
                due += self._interval or 0.0
                self._call(self._tick)
            for waiter in waiters:
                waiter.done.set()
            if any(waiter.stop for waiter in waiters):
                return

    def _wait(self, signals: SimpleQueue[_Waiter | None], due: float | None) -> list[_Waiter]:
        """Return whoever waits for a flush, after something came and the moment of patience passed."""
        try:
            first = signals.get(timeout=None if due is None else max(0.0, due - time.monotonic()))
        except Empty:
            return []
        found = [] if first is None else [first]
        deadline = time.monotonic() + self._linger
        while not found and (left := deadline - time.monotonic()) > 0:
            try:
                signal = signals.get(timeout=left)
            except Empty:
                break
            if signal is not None:
                found.append(signal)
        while True:
            try:
                signal = signals.get_nowait()
            except Empty:
                return found
            if signal is not None:
                found.append(signal)

    def _take(self, items: deque[T]) -> None:
        batch: list[T] = []
        try:
            while len(batch) < _BATCH:
                batch.append(items.popleft())
        except IndexError:
            pass
        if not batch:
            return
        try:
            self._handle(batch)
        except Exception:  # the thread must outlive a bug; the batch that showed it is gone
            self.dropped += len(batch)
            _logger.exception("a batch of telemetry was lost")

    def _settle(self) -> None:
        self._call(self._flushed)

    def _call(self, function: Callable[[], None] | None) -> None:
        if function is None:
            return
        try:
            function()
        except Exception:  # as in _take
            _logger.exception("telemetry could not be flushed")

    def _drain_here(self) -> None:
        with self._starting:
            while self._items:
                self._take(self._items)
            self._settle()

    def _drop_all(self) -> None:
        while self._items:
            self._shed()


def _after_fork() -> None:
    for worker in list(_open):
        worker.forget()


def _at_exit() -> None:
    deadline = time.monotonic() + _AT_EXIT
    for worker in sorted(_open, key=lambda one: one._name):  # feeders before what they feed
        # One that was closed has had its time already.
        if not worker._closed and (worker._thread is not None or worker._items):
            worker.flush(max(0.0, deadline - time.monotonic()))


def _at_exit_of_a_child() -> None:
    """Have a child of `multiprocessing` flush too: it ends by `os._exit`, and `atexit` is not run."""
    global _finalizer_of
    processes = sys.modules.get("multiprocessing.process")
    if processes is None or _finalizer_of == os.getpid() or processes.parent_process() is None:
        return
    _finalizer_of = os.getpid()
    from multiprocessing.util import Finalize

    Finalize(None, _at_exit, exitpriority=0)


_finalizer_of = 0
_open: weakref.WeakSet[Worker[object]] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
