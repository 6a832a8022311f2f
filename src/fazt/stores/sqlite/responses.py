"""Stored responses in a SQLite file of their own, shared by processes.

A cache may lose anything at any time, so nothing here raises once it is open: what cannot be read is not there, what
cannot be written is not kept, and a damaged file is thrown away and made anew.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar
from weakref import WeakSet

from fazt.core.cache.entry import Entry, Kept, Pick, Place, cost
from fazt.errors import StoreError
from fazt.stores.sqlite.migrations import migrate, shipped
from fazt.stores.sqlite.private import claim_directory, private_file
from fazt.stores.sqlite.response_rows import checksum, place_key, read_entry, selector, write_head

NAME: Final = "cache.db"
MAX_VARIANTS: Final = 64
"""Most entries of one URL, which differ by `Vary`, role or credentials."""

_PATIENCE = 0.25  # seconds: an answer that is not kept costs less than a call that waits
_MOST_TOUCHED = 4096
_FORGET_AFTER = 86_400.0
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})

T = TypeVar("T")


class _Side:
    """One connection and its lock: readers never wait for the writer."""

    __slots__ = ("connection", "lock")

    def __init__(self) -> None:
        self.connection: sqlite3.Connection | None = None
        self.lock = threading.Lock()

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()


class SqliteResponses:
    """Keeps entries in `cache.db` of a directory that nobody else may enter; safe for threads, processes and forks.

    Args:
        directory: made when missing, mode 0700; the file in it has 0600.
        max_bytes: most bytes kept.
        max_items: most entries kept, 0 for no limit of their number.
        max_entry: most bytes of one entry; default: a quarter of `max_bytes`.
        wall: seconds since the epoch.

    Raises:
        StoreError: the directory cannot be used, or the file cannot be made.
    """

    blocking = True

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int,
        max_items: int = 0,
        max_entry: int | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        claim_directory(directory, marks=(NAME,))
        self.path = directory / NAME
        self._max_bytes = max_bytes
        self._max_items = max_items
        self._max_entry = max_entry
        self._wall = wall
        self._reader, self._writer = _Side(), _Side()
        self._touched: dict[int, float] = {}
        self._damaged = False
        self._closed = False
        self.salt = b""
        with _beginning:
            self._begin()
            _stores.add(self)

    def __repr__(self) -> str:
        return f"<SqliteResponses {self.path}>"

    @property
    def max_entry(self) -> int:
        """Most bytes one entry may count for."""
        if self._closed:
            return 0
        most = self._max_bytes // 4 if self._max_entry is None else self._max_entry
        return min(most, self._max_bytes)

    def find(self, place: Place, pick: Pick) -> Entry | None:
        """Return the entry of a place that `pick` chooses, whole; it counts as used."""
        key = place_key(place, self.salt)

        def read(connection: sqlite3.Connection) -> tuple[Entry, bool] | None:
            rows = connection.execute(
                "SELECT id, head FROM entries WHERE place = ? ORDER BY id DESC", (key,)
            ).fetchall()
            if not rows:
                return None
            entries = [read_entry(place, ident, head) for ident, head in rows]
            chosen = pick([entry for entry in entries if entry is not None])
            if chosen is None:
                return None
            row = connection.execute("SELECT body, sum, head FROM entries WHERE id = ?", (chosen.ident,)).fetchone()
            if row is None:  # another process was quicker
                return None
            chosen.body = row[0]
            return chosen, row[1] == checksum(row[2], chosen.body)

        found = self._do(self._reader, read, None)
        if found is None:
            return None
        entry, sound = found
        if not sound:
            self.drop(entry)
            return None
        if len(self._touched) < _MOST_TOUCHED:
            self._touched[entry.ident] = self._wall()
        return entry

    def put(self, entry: Entry, *, replaces: Entry | None = None) -> bool:
        """Keep an entry in place of those it is the same as, and of `replaces`; tell whether it is kept."""
        entry.size = cost(entry)
        key, chosen = place_key(entry.place, self.salt), selector(entry)
        head = write_head(entry)
        total = checksum(head, entry.body)

        def write(connection: sqlite3.Connection) -> bool:
            if replaces is not None:
                connection.execute("DELETE FROM entries WHERE id = ? AND place = ?", (replaces.ident, key))
            row = connection.execute("SELECT at FROM forgotten WHERE place = ?", (key,)).fetchone()
            if row is not None and row[0] >= entry.requested_at:
                return False
            connection.execute("DELETE FROM entries WHERE place = ? AND selector = ?", (key, chosen))
            if entry.size > self.max_entry:
                return False
            connection.execute(
                "DELETE FROM entries WHERE id IN "
                "(SELECT id FROM entries WHERE place = ? ORDER BY id DESC LIMIT -1 OFFSET ?)",
                (key, MAX_VARIANTS - 1),
            )
            place = entry.place
            added = connection.execute(
                "INSERT INTO entries (place, selector, app, host, size, used, head, sum, body) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (key, chosen, place.app, place.host, entry.size, self._wall(), head, total, entry.body),
            )
            entry.ident = added.lastrowid or 0
            self._touch(connection)
            self._shrink(connection)
            return True

        return self._write(write, default=False)

    def drop(self, entry: Entry) -> None:
        """Remove one entry."""
        self._write(lambda connection: _delete(connection, "id = ?", entry.ident), 0)

    def forget(self, place: Place, *, at: float) -> int:
        """Remove every entry of a place, and keep none that was asked for at or before this moment; return how many."""
        key = place_key(place, self.salt)

        def write(connection: sqlite3.Connection) -> int:
            connection.execute(
                "INSERT INTO forgotten VALUES (?, ?) ON CONFLICT (place) DO UPDATE SET at = max(at, excluded.at)",
                (key, at),
            )
            connection.execute("DELETE FROM forgotten WHERE at < ?", (at - _FORGET_AFTER,))
            return _delete(connection, "place = ?", key)

        return self._write(write, 0)

    def purge(self, *, app: str | None = None, pattern: str | None = None) -> int:
        """Remove what belongs to an app and to a host or the hosts of `*.suffix`; return how many."""
        suffix = pattern[1:] if pattern is not None and pattern.startswith("*.") else None
        return self._write(
            lambda connection: _delete(
                connection,
                "(?1 IS NULL OR app = ?1) AND (?2 IS NULL OR host = ?2)"
                " AND (?3 IS NULL OR substr(host, -length(?3)) = ?3)",
                app,
                pattern if suffix is None else None,
                suffix,
            ),
            0,
        )

    def configure(self, *, max_items: int, max_bytes: int) -> None:
        """Change the limits; what no longer fits goes at once."""
        self._max_items, self._max_bytes = max_items, max_bytes
        self._write(self._shrink, None)

    def kept(self) -> Kept:
        """Return how much is kept."""
        row = self._do(self._reader, lambda held: held.execute("SELECT items, bytes FROM total").fetchone(), None)
        items, size = row if row is not None else (0, 0)
        return Kept(items, size, self._max_items, self._max_bytes)

    def close(self) -> None:
        """Write when entries were last used, and close the file; nothing is found or kept afterwards."""
        self._write(self._touch, None)
        self._closed = True
        for side in (self._writer, self._reader):
            with side.lock:
                side.close()

    # --- the file

    def _write(self, step: Callable[[sqlite3.Connection], T], default: T) -> T:
        def whole(connection: sqlite3.Connection) -> T:
            with _transaction(connection):
                return step(connection)

        return self._do(self._writer, whole, default)

    def _do(self, side: _Side, step: Callable[[sqlite3.Connection], T], default: T) -> T:
        """Carry out one step; the default when it cannot be."""
        with side.lock:
            if self._closed:
                return default
            try:
                if self._damaged and side is self._writer:
                    self._mend()
                if side.connection is None:
                    side.connection = self._open()
                return step(side.connection)
            except sqlite3.DatabaseError as error:
                self._damaged = self._damaged or _is_damage(error)
                if "no such table" in str(error) or "disk I/O" in str(error):  # the file was taken away, or swapped
                    self._damaged = True
                return default
            except (StoreError, OSError):
                return default

    def _begin(self) -> None:
        try:
            self._prepare()
        except (sqlite3.DatabaseError, StoreError) as error:
            # damaged, or written by a newer release: nothing in it is worth keeping; anything else is to be mended
            if isinstance(error, sqlite3.DatabaseError) and not _is_damage(error):
                raise StoreError(f"cannot open {self.path}: {error}") from error
            self._discard()
            self._prepare()
        except OSError as error:
            raise StoreError(f"cannot make {self.path}: {error.strerror}") from error

    def _mend(self) -> None:
        """Throw the damaged file away and begin a new one; the writer's lock is held."""
        self._writer.close()
        with self._reader.lock:
            self._reader.close()
            self._discard()
            self._prepare()
        self._damaged = False

    def _prepare(self) -> None:
        private_file(self.path)
        connection = self._writer.connection = self._open()
        connection.execute("PRAGMA journal_mode = WAL")
        migrate(connection, shipped("cache"), label=NAME)
        # a file made anew gets the salt of the old one: what is on its way has keys under it already
        connection.execute("INSERT OR IGNORE INTO salt VALUES (1, ?)", (self.salt or os.urandom(32),))
        self.salt = bytes(connection.execute("SELECT value FROM salt").fetchone()[0])

    def _discard(self) -> None:
        self._writer.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(NAME + suffix).unlink(missing_ok=True)

    def _open(self) -> sqlite3.Connection:
        # mode=rw: a file that vanished is never made anew, empty and world-readable, by SQLite
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=_PATIENCE,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute(f"PRAGMA journal_size_limit = {16 << 20}")
        return connection

    def _touch(self, connection: sqlite3.Connection) -> None:
        """Write when entries were last used: seldom, so that a hit writes nothing."""
        if self._touched:
            marks, self._touched = self._touched, {}
            connection.executemany(
                # a list first: a reader that had the old marks in hand may still add to them
                "UPDATE entries SET used = ? WHERE id = ?",
                [(used, ident) for ident, used in list(marks.items())],
            )

    def _shrink(self, connection: sqlite3.Connection) -> None:
        while True:
            items, size = connection.execute("SELECT items, bytes FROM total").fetchone()
            if size <= self._max_bytes and (not self._max_items or items <= self._max_items):
                return
            if not _delete(connection, "id IN (SELECT id FROM entries ORDER BY used, id LIMIT 1)"):
                return

    def _sides(self) -> tuple[_Side, _Side]:
        """Return the writer and the reader, in the order in which their locks are taken."""
        return self._writer, self._reader

    def _start_anew(self) -> None:
        """Begin in a forked child, whose locks may be held by threads that it does not have."""
        _abandoned.extend(self._sides())
        self._reader, self._writer = _Side(), _Side()
        self._touched = {}


_stores: WeakSet[SqliteResponses] = WeakSet()
_beginning = threading.Lock()
_stopped: list[_Side] = []
"""What waits for a fork to be over."""
_abandoned: list[_Side] = []
"""A connection that a thread of the parent had in use all the while: a child neither uses nor closes it
(sqlite.org/howtocorrupt.html section 2.6)."""


def _before_fork() -> None:
    """Let no thread be inside SQLite while the process forks, and no connection be open.

    A child would find SQLite's locks in memory taken by a thread it does not have, and take its parent's locks on the
    file for its own.
    """
    _beginning.acquire()
    for store in list(_stores):
        for side in store._sides():
            if side.lock.acquire(timeout=_FORK_PATIENCE):
                _stopped.append(side)
                side.close()


def _after_fork_in_parent() -> None:
    while _stopped:
        _stopped.pop().lock.release()
    _beginning.release()


def _after_fork_in_child() -> None:
    global _beginning
    _beginning = threading.Lock()
    _stopped.clear()
    for store in list(_stores):
        store._start_anew()


_FORK_PATIENCE = 5.0
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _delete(connection: sqlite3.Connection, where: str, *values: object) -> int:
    return connection.execute(f"DELETE FROM entries WHERE {where}", values).rowcount  # noqa: S608 - of this file alone


def _is_damage(error: sqlite3.Error) -> bool:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _DAMAGED
