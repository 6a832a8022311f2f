"""Numbered SQL files, each applied in one transaction together with the row that says it was."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from fazt.errors import StoreError

_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_TABLE = """CREATE TABLE IF NOT EXISTS migrations (
    version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at REAL NOT NULL
) STRICT"""


class Migration(NamedTuple):
    """One numbered file."""

    version: int
    name: str
    sql: str


@cache
def shipped(family: str) -> tuple[Migration, ...]:
    """Return the migrations of one database file, in order.

    Args:
        family: the folder they stand in: "policy", "apps" or "log".
    """
    found = []
    for entry in files("fazt.stores.sqlite").joinpath("schema", family).iterdir():
        matched = _NAME.fullmatch(entry.name)
        if matched is not None:
            found.append(Migration(int(matched[1]), matched[2], entry.read_text(encoding="utf-8")))
    found.sort()
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise AssertionError(f"migrations of {family} are not numbered 1, 2, 3 …")
    return tuple(found)


def migrate(connection: sqlite3.Connection, migrations: tuple[Migration, ...], *, label: str) -> int:
    """Bring a database up to date; answer how many migrations were applied.

    Args:
        connection: in autocommit mode.
        migrations: what this release ships.
        label: name of the file, for errors.

    Raises:
        StoreError: the file was written by a newer release.
        sqlite3.Error: a statement failed; that migration left nothing behind.
    """
    applied = 0
    if _version(connection) == len(migrations):
        return 0  # the usual case takes no write lock
    for migration in migrations:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Asked again under the lock: another process may have been quicker.
            if _version(connection) < migration.version:
                connection.execute(_TABLE)
                for statement in statements(migration.sql):
                    connection.execute(statement)
                connection.execute(
                    "INSERT INTO migrations VALUES (?, ?, ?)", (migration.version, migration.name, time.time())
                )
                applied += 1
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    found = _version(connection)
    if found > len(migrations):
        raise StoreError(
            f"{label} was written by a newer release of fazt (schema {found}, this one knows {len(migrations)})",
            hint="upgrade fazt, or name another data directory with --data",
        )
    return applied


def statements(sql: str) -> Iterator[str]:
    """Cut a script into statements; `executescript` would commit the transaction it runs in."""
    pending = ""
    for line in sql.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
    if pending.strip():
        raise AssertionError("a migration ends in the middle of a statement")


def _version(connection: sqlite3.Connection) -> int:
    table = connection.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'migrations'").fetchone()
    if table is None:
        return 0
    row = connection.execute("SELECT coalesce(max(version), 0) FROM migrations").fetchone()
    return int(row[0])
