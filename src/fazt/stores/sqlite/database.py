"""One SQLite file: private from birth, migrated at opening, short transactions, errors that name what to do.

Connections are pooled and used by one thread at a time, so a database may be used from any thread. Writers of one
process queue on a lock; writers of several processes queue in SQLite (`busy_timeout`).

While the process forks, no connection is open. SQLite keeps what is locked per file and process: with connections of
its parent, a child would take locks for held that it does not have, and another process could remove the write-ahead
log it reads and writes.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from fazt.errors import StoreError
from fazt.stores.sqlite.migrations import Migration, migrate, shipped
from fazt.stores.sqlite.private import private_file

LEAST_SQLITE = (3, 37, 0)
"""STRICT tables."""

Durability = Literal["FULL", "NORMAL"]
_WAL_KEPT = 16 * 1024 * 1024
"""Bytes of write-ahead log that stay on disk after a large transaction."""


class _Pooled(sqlite3.Connection):
    """A connection that knows which file it belongs to."""

    generation = 0


class Database:
    """A database file in the data directory.

    Args:
        path: the file; made when missing.
        family: which migrations it gets.
        durability: what a commit waits for: "FULL" survives a power cut, "NORMAL" only the death of the process.
        patience: seconds to wait for another process's transaction.
        migrations: instead of the shipped ones (tests).

    Raises:
        StoreError: the file cannot be opened, is not a database, is damaged, locked, or newer than this release.
    """

    def __init__(
        self,
        path: Path,
        family: str,
        *,
        durability: Durability = "FULL",
        patience: float = 5.0,
        migrations: tuple[Migration, ...] | None = None,
    ) -> None:
        if sqlite3.sqlite_version_info < LEAST_SQLITE:
            raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old; fazt needs 3.37 or newer")
        self.path = path
        self._family = family
        self.generation = 0
        """Counts how often the file under the path turned out to be another one."""
        self.written: Callable[[], None] | None = None
        """Called after each commit of this process."""
        self._migrations = shipped(family) if migrations is None else migrations
        self._durability = durability
        self._patience = patience
        self._writing = threading.Lock()
        self._opening = threading.Lock()
        self._idle: list[_Pooled] = []
        self._pid = os.getpid()
        _open_databases.add(self)
        self._closed = False
        self._identity = (0, 0)
        with self._opening, _inside():
            self._prepare(create=True)

    def __repr__(self) -> str:
        return f"<Database {self.path}>"

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Give a connection inside one read transaction: everything read belongs to one moment.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._lent() as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Give a connection inside one write transaction; committed at the end, undone on any exception.

        Raises:
            StoreError: the database cannot be written, or stayed locked for longer than the patience.
        """
        self._usable()
        if not self._writing.acquire(timeout=self._patience):
            raise self._locked()
        try:
            with self._lent() as connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
        finally:
            self._writing.release()
        if self.written is not None:
            self.written()

    def tidy(self) -> None:
        """Move the write-ahead log into the database, so that overwritten pages are gone from both; best effort."""
        with self._lent() as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close every idle connection; those in use are closed when they are given back."""
        self._closed = True
        if os.getpid() == self._pid:
            with _inside():
                self._drop_idle()

    @contextmanager
    def _lent(self) -> Iterator[sqlite3.Connection]:
        self._usable()
        with _inside():
            try:
                connection = self._take()
            except sqlite3.Error as error:
                raise self.explain(error) from error
            sound = False
            try:
                yield connection
                sound = True
            except sqlite3.Error as error:
                sound = _rolled_back(connection)
                raise self.explain(error) from error
            except BaseException:
                sound = _rolled_back(connection)
                raise
            finally:
                self._give_back(connection, sound=sound)

    def before_fork(self) -> None:
        """Close its connections; nobody uses them now."""
        if self._pid == os.getpid():
            self._drop_idle()

    def _usable(self) -> None:
        if self._closed:
            raise StoreError(f"{self.path.name} is closed")
        if self._pid != os.getpid():
            # sqlite.org/howtocorrupt.html section 2.6: its locks are the parent's, here they would protect nothing.
            raise StoreError(
                f"{self.path.name} was opened before this process was forked", hint="open it after the fork"
            )

    def _take(self) -> _Pooled:
        self._usable()
        if self._found() != self._identity:
            with self._opening:
                if self._found() != self._identity:
                    self._drop_idle()
                    self._prepare(create=False)
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def _give_back(self, connection: _Pooled, *, sound: bool) -> None:
        if sound and connection.generation == self.generation and not self._closed and self._pid == os.getpid():
            self._idle.append(connection)
        else:
            connection.close()

    def _drop_idle(self) -> None:
        while self._idle:
            connection = self._idle.pop()
            connection.close()

    def _found(self) -> tuple[int, int]:
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise StoreError(
                f"the database {self.path} is gone: {error.strerror}", hint="put it back from a backup and restart"
            ) from error
        return found.st_dev, found.st_ino

    def _prepare(self, *, create: bool) -> None:
        try:
            if create:
                private_file(self.path)
            elif os.path.getsize(self.path) == 0:  # what was there is gone; a new one is not to be made in its place
                raise StoreError(f"the database {self.path} is empty", hint="put it back from a backup and restart")
            self._identity = self._found()
            connection = self._connect()
        except sqlite3.Error as error:
            raise self.explain(error) from error
        except OSError as error:
            raise StoreError(f"cannot open {self.path}: {error.strerror}") from error
        try:
            self._enter_wal(connection)
            migrate(connection, self._migrations, label=self.path.name)
        except sqlite3.Error as error:
            connection.close()
            raise self.explain(error) from error
        except BaseException:
            connection.close()
            raise
        self.generation += 1
        connection.generation = self.generation
        self._idle.append(connection)

    def _connect(self) -> _Pooled:
        # mode=rw: a file that vanished is an error, never a new, empty, world-readable database.
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=self._patience,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
            factory=_Pooled,
        )
        connection.generation = self.generation
        try:
            connection.row_factory = sqlite3.Row
            # These hold for one connection only, so every connection gets them (F30e).
            connection.execute(f"PRAGMA synchronous = {self._durability}")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA trusted_schema = OFF")
            if self._family == "policy":  # what was removed or rotated is overwritten
                connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT}")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _enter_wal(self, connection: sqlite3.Connection) -> None:
        # Changing the journal mode takes an exclusive lock for which busy_timeout does not wait.
        deadline = time.monotonic() + self._patience
        while True:
            try:
                mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            except sqlite3.OperationalError as error:
                if _primary(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            else:
                if mode == "wal":
                    return
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"{self.path} cannot use a write-ahead log (journal mode {mode})",
                        hint="put the data directory on a local file system",
                    )
            time.sleep(0.01)

    def _locked(self) -> StoreError:
        return StoreError(
            f"{self.path.name} stayed locked by another transaction for {self._patience:g} s",
            hint="try again; if it stays so, look for a process that holds it: fuser -v " + str(self.path),
        )

    def explain(self, error: sqlite3.Error) -> StoreError:
        """Turn an error of SQLite into one that says what to do."""
        match _primary(error):
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return self._locked()
            case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_FORMAT:
                return StoreError(
                    f"{self.path} is damaged or not a database: {error}",
                    hint="restore it from a backup; fazt does not go on with an empty one",
                )
            case sqlite3.SQLITE_FULL:
                return StoreError(f"no space left to write {self.path}", hint="free some disk space")
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
                return StoreError(
                    f"cannot open {self.path} for writing: {error}",
                    hint="check who owns the data directory and that the disk is not read-only",
                )
            case _:
                return StoreError(f"{self.path.name}: {error}")


class _Turnstile:
    """Counts the threads that are inside SQLite, and lets none in while the process forks.

    One for all databases: what SQLite locks in memory belongs to all of them, and a child would find it locked for
    ever by a thread that it does not have.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: dict[int, int] = {}
        self._forking = False

    def enter(self) -> int:
        """Wait while the process forks, unless this thread is inside already; return which thread it is."""
        thread = threading.get_ident()
        with self._changed:
            while self._forking and thread not in self._inside:
                self._changed.wait()
            self._inside[thread] = self._inside.get(thread, 0) + 1
        return thread

    def leave(self, thread: int) -> None:
        """Note that this thread is out."""
        with self._changed:
            depth = self._inside.pop(thread) - 1
            if depth:
                self._inside[thread] = depth
            self._changed.notify_all()

    def stop(self) -> None:
        """Wait until nobody is inside, for as long as patience lasts, and let nobody in."""
        mine = threading.get_ident()  # who forks inside a transaction waits for nobody, and keeps it open
        self._changed.acquire()  # until `resume`: no other thread is to hold it at the fork
        self._forking = True
        self._changed.wait_for(lambda: not self._inside.keys() - {mine}, timeout=_PATIENCE)

    def resume(self) -> None:
        """Let them in again, in the parent."""
        self._forking = False
        self._changed.notify_all()
        self._changed.release()


@contextmanager
def _inside() -> Iterator[None]:
    turnstile = _turnstile  # a child has another one, and leaves by the one it came through
    thread = turnstile.enter()
    try:
        yield
    finally:
        turnstile.leave(thread)


def _before_fork() -> None:
    _turnstile.stop()
    for database in list(_open_databases):
        database.before_fork()


def _after_fork_in_parent() -> None:
    _turnstile.resume()


def _after_fork_in_child() -> None:
    global _turnstile
    _turnstile = _Turnstile()
    _open_databases.clear()  # the child uses none of them; a thread that is not there may hold their locks


_PATIENCE = 5.0
_turnstile = _Turnstile()
_open_databases: weakref.WeakSet[Database] = weakref.WeakSet()
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


def _primary(error: sqlite3.Error) -> int:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return -1 if code is None else code & 0xFF


def _rolled_back(connection: sqlite3.Connection) -> bool:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        return False
    return True
