"""Limits as stored: the operator's own values, and per app the narrower ones."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping

from fazt.core.limits import Limits, clamp_override, info, paths, validate, validate_override, with_values
from fazt.errors import NotFoundError
from fazt.stores.sqlite.apps import require_app
from fazt.stores.sqlite.changes import Change, Kind, Weight, next_revision, note
from fazt.stores.sqlite.database import Database


class LimitSettings:
    """Limits of a data directory.

    Args:
        policy: the policy database.
        base: what holds where nothing was set: the defaults of this machine.
    """

    def __init__(self, policy: Database, base: Limits) -> None:
        self._policy = policy
        self.base = base

    def set(self, path: str, value: object, *, app: str = "", actor: str = "") -> int:
        """Set one limit; answer the number that holds now.

        Args:
            path: `group.name`.
            value: a whole number, or its digits.
            app: id of an app, "" for everybody.
            actor: who does it.

        Raises:
            ConfigError: no such limit, or a value it cannot take.
            NotFoundError: there is no such app.
            StoreError: the database cannot be read or written.
        """
        number = validate(path, value)
        with self._policy.write() as connection:
            if app:
                require_app(connection, app)
                validate_override(with_values(self.base, stored_limits(connection).get("", {})), path, number)
            connection.execute(
                "INSERT INTO limits (scope, path, value, updated_at) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (scope, path) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
                (app, path, number, time.time()),
            )
            _note(connection, "limit.set", app, path, actor, {"value": number})
        return number

    def reset(self, path: str, *, app: str = "", actor: str = "") -> None:
        """Forget a value that was set: the default holds again, for an app the operator's value.

        Raises:
            ConfigError: there is no such limit.
            NotFoundError: it was not set.
            StoreError: the database cannot be written.
        """
        info(path)
        with self._policy.write() as connection:
            gone = connection.execute("DELETE FROM limits WHERE scope = ? AND path = ?", (app, path)).rowcount
            if gone == 0:
                raise NotFoundError(f"{path} was not set", hint="`fazt limits show` shows what holds")
            _note(connection, "limit.reset", app, path, actor, {})

    def show(self, app: str = "") -> Limits:
        """Return the limits that hold for everybody, or for one app.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._policy.read() as connection:
            values = stored_limits(connection)
        limits, overrides = effective(self.base, values)
        return overrides.get(app, limits)

    def stored(self, app: str = "") -> Mapping[str, int]:
        """Return only what was set, `group.name` to value.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._policy.read() as connection:
            return stored_limits(connection).get(app, {})


def stored_limits(connection: sqlite3.Connection) -> dict[str, dict[str, int]]:
    """Return what was set by scope; in a transaction.

    A limit that this release does not know is left out; a value outside its range counts as the nearest inside, so
    that a change of the table between releases neither stops fazt nor lifts a limit.
    """
    found: dict[str, dict[str, int]] = {}
    known = frozenset(paths())
    for row in connection.execute("SELECT scope, path, value FROM limits"):
        path = row["path"]
        about = info(path) if path in known else None
        if about is None or about.read_only or about.low is None or about.high is None:
            continue
        found.setdefault(row["scope"], {})[path] = max(about.low, min(row["value"], about.high))
    return found


def effective(base: Limits, values: Mapping[str, Mapping[str, int]]) -> tuple[Limits, dict[str, Limits]]:
    """Return the operator's limits and those of apps that have their own.

    Args:
        base: the defaults of this machine.
        values: from `stored_limits`.
    """
    limits = with_values(base, values.get("", {}))
    return limits, {app: clamp_override(limits, own) for app, own in values.items() if app}


def _note(
    connection: sqlite3.Connection, action: str, app: str, path: str, actor: str, details: Mapping[str, int]
) -> None:
    note(
        connection,
        next_revision(connection),
        [Change(Kind.LIMIT, app, path)],
        actor=actor,
        action=action,
        scope=app,
        subject=path,
        weight=Weight.CONFIG,
        details=details,
    )
