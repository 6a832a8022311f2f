"""Circuit breakers that processes share: what one finds out, or an operator decides, holds in all of them.

The path of a call never waits here. What others changed is read at most every quarter of a second, by one short query;
what this process has to tell is written by a thread of its own. When the file cannot be used each process goes on with
what it knows itself, and says so once.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from queue import SimpleQueue
from sqlite3 import Connection, Row
from types import TracebackType
from typing import Final, Literal, NamedTuple

from fazt.core.breaker import NONE, ORDER, Cause, Circuit, Deadlines, Key, State, on_own_clock, on_wall_clock
from fazt.errors import StoreError
from fazt.stores.sqlite.database import Database
from fazt.stores.sqlite.private import claim_directory

FILE: Final = "breakers.db"
READ_EVERY: Final = 0.25
"""Seconds between two looks at the file."""

_logger = logging.getLogger("fazt.breakers")
_MARKS: Final = ("policy.db", "fazt.toml", FILE)
_FIELDS: Final = ("open", "rolling", "cool", "manual")
_KEPT: Final = 86_400.0
"""Seconds after its last deadline, or its last change, that a row is kept."""
_TOO_OLD: Final = 3600.0
"""A circuit that was left half open longer ago than this is not told to a process that begins."""
_AT_MOST: Final = 10_000
"""Changes that wait to be written."""
_PATIENCE: Final = 0.05


class SharedCircuit(NamedTuple):
    """One row: deadlines in seconds since the epoch, who changed it last, and when."""

    key: Key
    deadlines: Deadlines
    actor: str
    written_at: float

    def state(self, wall_now: float) -> State:
        """Return whether requests pass."""
        return self._circuit().state(wall_now)

    def remaining(self, wall_now: float) -> float:
        """Return for how many seconds they don't."""
        return self._circuit().remaining(wall_now)

    def cause(self, wall_now: float) -> Cause | None:
        """Return what keeps them out, None when they pass or are tried."""
        circuit = self._circuit()
        return next((cause for cause in ORDER if circuit.blocked(wall_now, cause)), None)

    def _circuit(self) -> Circuit:
        circuit = Circuit(None)
        circuit.adopt(self.deadlines)
        return circuit


class Breakers:
    """The shared breakers of a data directory, as one process sees them. Use `Breakers.open` or `Breakers.follow`.

    Args:
        path: the file.
        every: seconds between two looks at it; `READ_EVERY` by default.
        patience: seconds that one access may wait for another process.
    """

    def __init__(self, path: Path, *, every: float | None = None, patience: float = _PATIENCE) -> None:
        self.path = path
        self._patience = patience
        self._file: Database | None = None
        self._every = READ_EVERY if every is None else every
        self.error: StoreError | None = None
        """Why the file could not be used the last time, None when it could."""
        self._forget()
        _opened.add(self)

    def _forget(self) -> None:
        self._looked = float("-inf")
        self._seen = 0
        self._first = True
        self._closed = self._over = False
        self._own: set[int] = set()
        self._waiting: dict[Key, dict[str, float | str]] = {}
        self._busy: set[Key] = set()
        self._waiting_lock = threading.Lock()
        self._opening = threading.Lock()
        self._thread: threading.Thread | None = None
        self._signals: SimpleQueue[threading.Event | Literal["stop"] | None] = SimpleQueue()

    @classmethod
    def open(cls, data_dir: Path, *, every: float | None = None, patience: float = _PATIENCE) -> Breakers:
        """Open the file in a data directory; both are made when missing.

        Args:
            data_dir: the directory.
            every: seconds between two looks.
            patience: seconds that one access may wait for another process.

        Raises:
            StoreError: the directory or the file cannot be used.
        """
        made = cls.follow(data_dir, every=every, patience=patience)
        made._database()
        return made

    @classmethod
    def follow(cls, data_dir: Path, *, every: float | None = None, patience: float = _PATIENCE) -> Breakers:
        """Watch for the file in a data directory: it is made when there is something to tell, here or elsewhere.

        Args:
            data_dir, every, patience: as of `open`.
        """
        return cls(data_dir / FILE, every=every, patience=patience)

    def __repr__(self) -> str:
        return f"<Breakers {self.path}>"

    def __enter__(self) -> Breakers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ---- for the path of a call

    def due(self, now: float) -> bool:
        """Tell whether `changed` would look at the file.

        Args:
            now: monotonic seconds.
        """
        return now - self._looked >= self._every

    def changed(self, now: float) -> Iterable[tuple[Key, Deadlines]]:
        """Return what others changed since the last time, deadlines in monotonic seconds.

        Args:
            now: monotonic seconds.
        """
        if now - self._looked < self._every:
            return ()
        self._looked = now
        if self._file is None and not os.path.exists(self.path):
            return ()
        try:
            rows = self._news()
        except StoreError as error:
            self._failed(error)
            return ()
        self._worked()
        return self._told(rows, now) if rows else ()

    def publish(self, key: Key, before: Deadlines | None, after: Deadlines, now: float) -> None:
        """Tell the others what changed between two deadlines, or all that holds when `before` is None.

        Args:
            key: whose they are.
            before, after: in monotonic seconds.
            now: monotonic seconds.
        """
        wall = on_wall_clock(after, now=now, wall_now=time.time())
        changes: dict[str, float | str] = {
            name: getattr(wall, name)
            for name in _FIELDS
            if before is None or getattr(before, name) != getattr(after, name)
        }
        if "manual" in changes:
            changes["reason"] = after.reason
        with self._waiting_lock:
            if len(self._waiting) >= _AT_MOST and key not in self._waiting:
                return  # the file has not been writable for long; this process knows what it found out all the same
            self._waiting.setdefault(key, {}).update(changes)
        self._ask()

    # ---- for operators

    def circuits(self) -> list[SharedCircuit]:
        """Return all circuits that were ever opened and not yet forgotten, those without a deadline left out.

        Raises:
            StoreError: the file cannot be read.
        """
        with self._database().read() as connection:
            rows = connection.execute("SELECT * FROM circuits ORDER BY kind, name, role").fetchall()
        found = [SharedCircuit(_key(row), _deadlines(row), row["actor"], row["written_at"]) for row in rows]
        return [circuit for circuit in found if circuit.deadlines != NONE]

    def set_open(self, key: Key, *, seconds: float, reason: str = "", actor: str = "") -> SharedCircuit:
        """Open a circuit by hand, at once and for all processes.

        Args:
            key: whose.
            seconds: for how long.
            reason: for whoever asks why.
            actor: who did it.

        Raises:
            StoreError: the file cannot be written.
        """
        changes: dict[str, float | str] = {"manual": time.time() + seconds, "reason": reason}
        with self._database().write() as connection:
            row = _merge(connection, key, changes, actor=actor)
        return SharedCircuit(key, _deadlines(row), row["actor"], row["written_at"])

    def set_closed(self, key: Key, *, actor: str = "") -> bool:
        """Close a circuit by hand, whatever had opened it; return whether anything had.

        Raises:
            StoreError: the file cannot be written.
        """
        changes: dict[str, float | str] = {**dict.fromkeys(_FIELDS, 0.0), "reason": ""}
        with self._database().write() as connection:
            found = connection.execute("SELECT * FROM circuits WHERE (kind, name, role) = (?, ?, ?)", key).fetchone()
            _merge(connection, key, changes, actor=actor)
        return found is not None and _deadlines(found) != NONE

    def flush(self, *, timeout: float = 10.0) -> None:
        """Wait until everything published so far is written.

        Raises:
            StoreError: it could not be written, or not in time.
        """
        done = threading.Event()
        with self._waiting_lock:
            if not self._waiting and not self._busy:
                return
        self._ask(done)
        if not done.wait(timeout):
            raise StoreError(f"{FILE} could not be written within {timeout:g} s")
        if self.error is not None:
            raise self.error

    def close(self, *, timeout: float = 5.0) -> None:
        """Write what waits, and stop."""
        self._closed = True
        thread = self._thread
        if thread is not None and thread.is_alive():
            self._signals.put("stop")
            thread.join(timeout)
        self._over = True
        if self._file is not None:
            self._file.close()

    # ---- reading

    def _news(self) -> list[Row]:
        with self._database().read() as connection:
            (revision,) = connection.execute("SELECT revision FROM counter").fetchone()
            first, self._first = self._first, False
            if revision == self._seen:
                return []
            since = self._seen if revision > self._seen else 0  # another file stands there: all of it is new
            rows = connection.execute(
                "SELECT * FROM circuits WHERE revision > ? ORDER BY revision", (since,)
            ).fetchall()
        self._seen = revision
        if first:
            long_ago = time.time() - _TOO_OLD
            rows = [row for row in rows if _deadlines(row).latest > long_ago]
        return rows

    def _told(self, rows: list[Row], now: float) -> list[tuple[Key, Deadlines]]:
        wall_now = time.time()
        told = []
        with self._waiting_lock:
            for row in rows:
                key = _key(row)
                if key in self._waiting or key in self._busy:
                    # What this process is about to write it knows better; the row is read again after that.
                    self._seen = min(self._seen, row["revision"] - 1)
                elif row["revision"] not in self._own:
                    told.append((key, on_own_clock(_bounded(row, wall_now), now=now, wall_now=wall_now)))
            self._own = {revision for revision in self._own if revision > self._seen}
        return told

    # ---- writing

    def _ask(self, done: threading.Event | None = None) -> None:
        self._signals.put(done)
        if self._thread is None and not self._closed:
            with self._waiting_lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="fazt-breakers", daemon=True)
                    try:
                        self._thread.start()
                    except RuntimeError:  # the process may have no more threads; the next change tries again
                        self._thread = None

    def _run(self) -> None:
        while True:
            signal = self._signals.get()
            try:
                self._write()
                self._worked()
            except StoreError as error:
                self._failed(error)
            except Exception:  # the thread must outlive a bug; the change that showed it is gone
                _logger.exception("a change of the breakers was lost")
            if signal == "stop":
                return
            if isinstance(signal, threading.Event):
                signal.set()

    def _write(self) -> None:
        with self._waiting_lock:
            changes, self._waiting = self._waiting, {}
            self._busy = set(changes)
        if not changes:
            return
        own: set[int] = set()
        try:
            with self._database().write() as connection:
                for key, fields in changes.items():
                    row = _merge(connection, key, fields)
                    # A row that holds nothing but what this process has set need not be read by it again.
                    if all(row[f"{name}_until"] == fields.get(name, 0.0) for name in _FIELDS):
                        own.add(row["revision"])
                connection.execute(
                    "DELETE FROM circuits"
                    " WHERE max(open_until, rolling_until, cool_until, manual_until, written_at) < ?",
                    (time.time() - _KEPT,),
                )
        except StoreError:
            with self._waiting_lock:
                for key, fields in changes.items():
                    self._waiting[key] = {**fields, **self._waiting.get(key, {})}
            raise
        finally:
            with self._waiting_lock:
                self._busy = set()
                self._own |= own

    def _worked(self) -> None:
        self.error = None

    def _failed(self, error: StoreError) -> None:
        if self.error is None:
            _logger.warning("breakers are not shared with other processes: %s", error.message)
        self.error = error

    def _database(self) -> Database:
        if self._over:
            raise StoreError(f"{FILE} is closed")
        with self._opening:
            if self._file is None:
                claim_directory(self.path.parent, marks=_MARKS)
                self._file = Database(self.path, "breakers", durability="NORMAL", patience=self._patience)
            return self._file

    def _after_fork(self) -> None:
        # Closing the parent's connections here could end its transactions (sqlite.org/howtocorrupt.html section 2.6).
        _inherited.append(self._file)
        self._file = None
        self._forget()


def _merge(connection: Connection, key: Key, changes: Mapping[str, float | str], *, actor: str = "") -> Row:
    """Write what changed of a circuit, leave the rest as others have set it, and return the whole row."""
    names = [name if name == "reason" else f"{name}_until" for name in changes]
    now = time.time()
    connection.execute("UPDATE counter SET revision = revision + 1")
    connection.execute(
        "INSERT INTO circuits (kind, name, role, written_at, revision) VALUES (?, ?, ?, ?, 0) ON CONFLICT DO NOTHING",
        (*key, now),
    )
    assigned = ", ".join(f"{name} = ?" for name in names)
    connection.execute(
        f"UPDATE circuits SET {assigned}, actor = ?, written_at = ?, revision = (SELECT revision FROM counter)"  # noqa: S608 - our own names
        " WHERE (kind, name, role) = (?, ?, ?)",
        (*changes.values(), actor, now, *key),
    )
    row: Row = connection.execute("SELECT * FROM circuits WHERE (kind, name, role) = (?, ?, ?)", key).fetchone()
    return row


def _key(row: Row) -> Key:
    return Key("service" if row["kind"] == "service" else "host", row["name"], row["role"])


def _deadlines(row: Row) -> Deadlines:
    return Deadlines(row["open_until"], row["rolling_until"], row["cool_until"], row["manual_until"], row["reason"])


def _bounded(row: Row, wall_now: float) -> Deadlines:
    """Return a row's deadlines; none is further away than when it was written, though the clock was set back since."""
    back = max(0.0, row["written_at"] - wall_now)
    return _deadlines(row).shifted(-back)


def _after_fork() -> None:
    for breakers in list(_opened):
        breakers._after_fork()


_opened: weakref.WeakSet[Breakers] = weakref.WeakSet()
_inherited: list[Database | None] = []
os.register_at_fork(after_in_child=_after_fork)
