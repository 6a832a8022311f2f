"""The network log and the console lines of apps: taken without waiting, written in batches by one thread.

Taking a record is one append to a deque; no lock is held, so it may happen inside a destructor or a signal handler.
What cannot be written is kept up to the size of the buffer; beyond it the oldest goes, and how many went is written
down as soon as writing works again.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from queue import Empty, SimpleQueue

from fazt.core.record import CallRecord
from fazt.errors import StoreError
from fazt.stores.sqlite.database import Database
from fazt.stores.sqlite.log_reader import LogReader
from fazt.stores.sqlite.log_rows import INSERT_LINE, PendingLine, Row, bindable, call_row, insert_calls, line_row

_logger = logging.getLogger("fazt.log")
_GAP = 0.02
"""Seconds between two flushes asked for by failures: a storm of them becomes one flush after another, not a spin."""
_TRIM_AT_ONCE = 10_000
_KEPT_DROPS = 10_000


class _Waiter:
    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.error: StoreError | None = None


class NetLog(LogReader):
    """The log of one process; several processes may write to the same file.

    Args:
        database: the log database.
        buffer: how many calls, and how many lines, wait at most (`net.log_buffer`).
        flush_ms: milliseconds between two flushes (`net.log_flush`).
        max_rows: rows kept of each kind (`storage.max_log_rows`).
    """

    def __init__(
        self, database: Database, *, buffer: int = 1000, flush_ms: int = 1000, max_rows: int = 500_000
    ) -> None:
        super().__init__(database)
        self.error: StoreError | None = None
        """Why the last flush failed, None when it worked."""
        self.configure(buffer=buffer, flush_ms=flush_ms, max_rows=max_rows)
        self._starting = threading.RLock()
        self._closed = False
        self._forget()
        _open_logs.add(self)

    def __repr__(self) -> str:
        return f"<NetLog waiting={len(self._calls) + len(self._lines)}>"

    def configure(self, *, buffer: int, flush_ms: int, max_rows: int) -> None:
        """Take new limits; they hold from the next record and the next flush on."""
        self._capacity = buffer
        # A busy process flushes early: records are dropped when the disk is too slow, not when traffic is high.
        self._early = max(1, buffer // 2)
        self._interval = flush_ms / 1000
        self._max_rows = max_rows

    def append(self, record: CallRecord) -> None:
        """Take a finished record; never blocks, never raises."""
        waiting = self._calls
        waiting.append(record)
        size = len(waiting)
        if size > self._capacity:
            self._shed_calls += _shed(waiting)
        if not self._asked and (size >= self._early or record.failed):
            self._ask()
        if self._thread is None:
            self._start()

    def write_line(self, app: str, level: str, message: str, *, ts: float, invocation: str = "") -> None:
        """Take a console line of an app; never blocks, never raises.

        Args:
            app: the app's id.
            level: debug, info, warn or error.
            message: the text; controls are escaped, long ones cut.
            ts: seconds since the epoch.
            invocation: id of the request.
        """
        waiting = self._lines
        waiting.append(PendingLine(app, level, message, ts, invocation))
        size = len(waiting)
        if size > self._capacity:
            self._shed_lines += _shed(waiting)
        if not self._asked and size >= self._early:
            self._ask()
        if self._thread is None:
            self._start()

    def flush(self, *, timeout: float = 10.0) -> None:
        """Wait until everything taken so far is written.

        Raises:
            StoreError: it could not be written, or not in time.
        """
        if self._thread is None and not (self._calls or self._lines):
            return
        self._start()
        if self._thread is None:
            raise self.error or StoreError("the log is closed")
        waiter = _Waiter()
        self._signals.put(waiter)
        if not waiter.done.wait(timeout):
            raise StoreError(f"the log could not be written within {timeout:g} s")
        if waiter.error is not None:
            raise waiter.error

    def close(self, *, timeout: float = 10.0) -> None:
        """Write what waits and stop. What cannot be written is lost, with a warning in the process's own log."""
        self._closed = True
        thread = self._thread
        if thread is not None and thread.is_alive():
            self._signals.put(_STOP)
            thread.join(timeout)
        lost = len(self._calls) + len(self._lines) + len(self._late_calls) + len(self._late_lines)
        if lost:
            _logger.warning("%d rows of the log were lost: %s", lost, self.error or "the writer did not stop in time")

    @property
    def shed(self) -> int:
        """How many records and lines this process threw away."""
        return self._shed_calls + self._shed_lines

    def _forget(self) -> None:
        self._calls: deque[CallRecord] = deque()
        self._lines: deque[PendingLine] = deque()
        self._late_calls: list[Row] = []
        self._late_lines: list[Row] = []
        self._shed_calls = self._shed_lines = 0
        self._told_calls = self._told_lines = 0
        self._asked = False
        self._thread: threading.Thread | None = None
        self._begun = False
        # put() of a SimpleQueue may interrupt itself, unlike that of an Event or a Queue.
        self._signals: SimpleQueue[_Waiter | None] = SimpleQueue()

    def _ask(self) -> None:
        self._asked = True
        self._signals.put(None)

    def _start(self) -> None:
        with self._starting:
            # A destructor that runs meanwhile may take a record and come here again: two writers would lose rows.
            if self._thread is not None or self._closed or self._begun:
                return
            self._begun = True
            try:
                thread = threading.Thread(target=self._run, name="fazt-log", daemon=True)
                thread.start()
                self._thread = thread
            except RuntimeError as fault:  # the process may have no more threads; the next record tries again
                self.error = StoreError(f"the log cannot be written: {fault}")
            finally:
                self._begun = False

    def _run(self) -> None:
        stop = False
        while not stop:
            waiters = self._wait()
            stop = _STOP in waiters
            self._asked = False
            try:
                self._write()
                self.error = None
            except StoreError as error:
                if self.error is None:
                    _logger.warning("the log cannot be written: %s", error.message)
                self.error = error
            except Exception as fault:  # the thread must outlive a bug; the batch that showed it is gone
                _logger.exception("a batch of the log was lost")
                self.error = StoreError(f"a batch of the log was lost: {type(fault).__name__}")
            for waiter in waiters:
                waiter.error = self.error
                waiter.done.set()
            if not stop:
                self._breathe()

    def _wait(self) -> list[_Waiter]:
        found: list[_Waiter] = []
        try:
            signal = self._signals.get(timeout=self._interval)
            while True:
                if signal is not None:
                    found.append(signal)
                signal = self._signals.get_nowait()
        except Empty:
            return found

    def _breathe(self) -> None:
        # Somebody who waits for a flush is not kept waiting by the gap.
        deadline = time.monotonic() + _GAP
        while (left := deadline - time.monotonic()) > 0:
            try:
                signal = self._signals.get(timeout=left)
            except Empty:
                break
            if signal is not None:
                self._signals.put(signal)
                return
        if self._asked:
            self._signals.put(None)

    def _write(self) -> None:
        calls = self._late_calls + _rows_of_calls(self._calls)
        lines = self._late_lines + _rows_of_lines(self._lines)
        self._late_calls, self._late_lines = [], []
        shed_calls, shed_lines = self._shed_calls, self._shed_lines
        if not calls and not lines and shed_calls == self._told_calls and shed_lines == self._told_lines:
            return
        try:
            self._insert(calls, lines, shed_calls - self._told_calls, shed_lines - self._told_lines)
        except StoreError:
            keep = self._capacity
            self._late_calls, self._late_lines = calls[-keep:], lines[-keep:]
            self._shed_calls += len(calls) - len(self._late_calls)
            self._shed_lines += len(lines) - len(self._late_lines)
            raise
        except Exception:
            self._shed_calls += len(calls)
            self._shed_lines += len(lines)
            raise
        self._told_calls, self._told_lines = shed_calls, shed_lines

    def _insert(self, calls: list[Row], lines: list[Row], shed_calls: int, shed_lines: int) -> None:
        try:
            self._insert_rows(calls, lines, shed_calls, shed_lines)
        except (OverflowError, UnicodeEncodeError):
            self._insert_fitting(calls, lines, shed_calls, shed_lines)
        except StoreError as error:
            if not isinstance(error.__cause__, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise
            self._insert_fitting(calls, lines, shed_calls, shed_lines)

    def _insert_fitting(self, calls: list[Row], lines: list[Row], shed_calls: int, shed_lines: int) -> None:
        """Write all but the rows that SQLite cannot take: one bad record costs only itself."""
        good_calls, good_lines = list(filter(bindable, calls)), list(filter(bindable, lines))
        lost = len(calls) + len(lines) - len(good_calls) - len(good_lines)
        _logger.error("%d rows of the log could not be written", lost)
        self._insert_rows(good_calls, good_lines, shed_calls, shed_lines)

    def _insert_rows(self, calls: list[Row], lines: list[Row], shed_calls: int, shed_lines: int) -> None:
        with self._database.write() as connection:
            insert_calls(connection, calls)
            connection.executemany(INSERT_LINE, lines)
            now = time.time()
            drops = [(now, "calls", shed_calls), (now, "lines", shed_lines)]
            connection.executemany(
                "INSERT INTO drops (ts, kind, count) VALUES (?, ?, ?)", [drop for drop in drops if drop[2] > 0]
            )
            for table, keep in (("calls", self._max_rows), ("lines", self._max_rows), ("drops", _KEPT_DROPS)):
                # Rows go at the old end only, so ids have no gaps and count the rows.
                # Two queries in one: min and max together would read the whole table.
                low, high = connection.execute(
                    f"SELECT (SELECT min(id) FROM {table}), (SELECT max(id) FROM {table})"  # noqa: S608 - our own names
                ).fetchone()
                if low is None:
                    continue
                if high - low >= keep:
                    upto = min(high - keep, low + _TRIM_AT_ONCE)
                    connection.execute(f"DELETE FROM {table} WHERE id <= ?", (upto,))  # noqa: S608


def _rows_of_calls(waiting: deque[CallRecord]) -> list[Row]:
    rows = []
    for _ in range(len(waiting)):
        try:
            rows.append(call_row(waiting.popleft()))
        except IndexError:
            break
        except (TypeError, ValueError, AttributeError) as fault:  # a record of the wrong shape must not stop the rest
            _logger.error("a call record could not be written: %s", type(fault).__name__)
    return rows


def _rows_of_lines(waiting: deque[PendingLine]) -> list[Row]:
    rows = []
    for _ in range(len(waiting)):
        try:
            rows.append(line_row(waiting.popleft()))
        except IndexError:
            break
        except (TypeError, ValueError, AttributeError) as fault:
            _logger.error("a console line could not be written: %s", type(fault).__name__)
    return rows


def _shed(waiting: deque[CallRecord] | deque[PendingLine]) -> int:
    try:
        waiting.popleft()
    except IndexError:  # the writer was quicker
        return 0
    return 1


def _after_fork() -> None:
    for log in list(_open_logs):
        log._starting = threading.RLock()
        log._forget()  # what waited is the parent's to write


_STOP = _Waiter()
_open_logs: weakref.WeakSet[NetLog] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork)
