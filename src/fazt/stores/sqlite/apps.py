"""Apps: one stable id each, a name that only routes, plain settings for their code.

An id is minted once and never given again; the name of a removed app is free, and its next owner starts with nothing
of the old one's rules, secrets, settings or files.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
import string
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fazt.core.policy import AppMeta
from fazt.errors import ConfigError, NotFoundError, StoreError
from fazt.stores.sqlite.changes import Change, Kind, Weight, next_revision, note
from fazt.stores.sqlite.database import Database

ID_PREFIX = "fazt_app_"
_ID = re.compile(r"fazt_app_[0-9A-Za-z]{12}")
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
RESERVED_NAMES = frozenset({"admin", "api", "ftp", "imap", "localhost", "mail", "ns1", "ns2", "pop", "smtp", "www"})
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
MAX_ENV_VALUE = 65_536
"""Longest value of a setting, in characters."""
MAX_ENV_NAMES = 256


@dataclass(frozen=True, slots=True)
class AppInfo:
    """An app as listings show it. `deployment` is the id of the live deployment, None before the first."""

    id: str
    name: str
    created_at: float
    deployment: str | None

    @property
    def meta(self) -> AppMeta:
        """What the policy keeps of it."""
        return AppMeta(id=self.id, name=self.name)


def check_app_name(name: str) -> str:
    """Return the name if an app may have it.

    Raises:
        ConfigError: it is no DNS label in lower case, or reserved.
    """
    if not _NAME.fullmatch(name) or name.startswith("xn--"):
        raise ConfigError(
            f"{name!r} cannot be the name of an app",
            hint="1 to 63 lower-case letters, digits and hyphens, no hyphen at an end",
        )
    if name in RESERVED_NAMES:
        raise ConfigError(f"the name {name!r} is reserved", hint="choose another name")
    return name


def check_env_name(name: str) -> str:
    """Return the name if a setting may have it.

    Raises:
        ConfigError: it is no identifier of at most 128 characters.
    """
    if not _ENV_NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a setting", hint="letters, digits and underscores, no digit first"
        )
    return name


class Apps:
    """Apps of a data directory.

    Args:
        policy: the policy database.
        removed: called with the ids of deployments that no app uses any more, after the transaction.
    """

    def __init__(self, policy: Database, *, removed: Callable[[Sequence[str]], None]) -> None:
        self._policy = policy
        self._removed = removed

    def ensure(self, name: str, *, actor: str = "") -> tuple[AppMeta, bool]:
        """Return the app of a name, made when there is none; and whether it was made. An id finds its app.

        Raises:
            ConfigError: the name cannot be one.
            NotFoundError: an id that names no app.
            StoreError: the database cannot be read or written.
        """
        found = self.find(name)
        if found is not None:
            return found, False
        if name.startswith(ID_PREFIX):
            raise _unknown(name)
        check_app_name(name)
        with self._policy.write() as connection:
            row = _by_name(connection, name)
            if row is not None:  # another process was quicker
                return AppMeta(id=row["id"], name=row["name"]), False
            app = _mint(connection)
            connection.execute("INSERT INTO apps (id, name, created_at) VALUES (?, ?, ?)", (app, name, time.time()))
            revision = next_revision(connection)
            note(
                connection,
                revision,
                [Change(Kind.APP, app, name)],
                actor=actor,
                action="app.create",
                scope=app,
                subject=name,
                weight=Weight.CONFIG,
            )
        return AppMeta(id=app, name=name), True

    def find(self, name_or_id: str) -> AppMeta | None:
        """Return the living app of a name or an id.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._policy.read() as connection:
            row = _by_either(connection, name_or_id)
        return None if row is None else AppMeta(id=row["id"], name=row["name"])

    def get(self, name_or_id: str) -> AppInfo:
        """Return the living app of a name or an id.

        Raises:
            NotFoundError: there is none.
            StoreError: the database cannot be read.
        """
        with self._policy.read() as connection:
            row = _by_either(connection, name_or_id)
        if row is None:
            raise _unknown(name_or_id)
        return _info(row)

    def list(self) -> Sequence[AppInfo]:
        """Return the living apps by name.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._policy.read() as connection:
            rows = connection.execute("SELECT * FROM apps WHERE retired_at IS NULL ORDER BY name").fetchall()
        return [_info(row) for row in rows]

    def remove(self, name_or_id: str, *, actor: str = "") -> AppInfo:
        """Retire an app with its rules, secrets, limits, settings and deployments, in one transaction.

        Raises:
            NotFoundError: there is none.
            StoreError: the database cannot be read or written.
        """
        with self._policy.write() as connection:
            row = _by_either(connection, name_or_id)
            if row is None:
                raise _unknown(name_or_id)
            app = row["id"]
            changes = [Change(Kind.APP, app, row["name"]), Change(Kind.LIMIT, app, ""), Change(Kind.ENV, app, "")]
            changes.append(Change(Kind.DEPLOYMENT, app, ""))
            patterns = connection.execute("SELECT DISTINCT pattern FROM rules WHERE scope = ?", (app,))
            changes += [Change(Kind.RULE, app, rule["pattern"]) for rule in patterns]
            names = connection.execute("SELECT name FROM secrets WHERE scope = ?", (app,))
            changes += [Change(Kind.SECRET, app, secret["name"]) for secret in names]
            connection.execute("UPDATE apps SET retired_at = ?, deployment = NULL WHERE id = ?", (time.time(), app))
            for statement in _BELONGINGS:
                connection.execute(statement, (app,))
            revision = next_revision(connection)
            note(
                connection,
                revision,
                changes,
                actor=actor,
                action="app.remove",
                scope=app,
                subject=row["name"],
                weight=Weight.SECURITY,
            )
        self._removed([] if row["deployment"] is None else [row["deployment"]])
        return _info(row)

    def env(self, app: str) -> dict[str, str]:
        """Return the settings of an app by id, empty for one without any.

        Raises:
            StoreError: the database cannot be read; an error is never an empty answer (F34).
        """
        with self._policy.read() as connection:
            rows = connection.execute("SELECT name, value FROM env WHERE app = ? ORDER BY name", (app,)).fetchall()
        return {row["name"]: row["value"] for row in rows}

    def set_env(self, app: str, values: Mapping[str, str], *, actor: str = "") -> None:
        """Set settings of an app, all or none.

        Args:
            app: id of the app.
            values: name to value.
            actor: who does it.

        Raises:
            ConfigError: a name or value that cannot be one, or too many.
            NotFoundError: there is no such app.
            StoreError: the database cannot be written.
        """
        for name, value in values.items():
            check_env_name(name)
            if len(value) > MAX_ENV_VALUE or "\0" in value or not _encodable(value):
                raise ConfigError(f"the value of {name} is too long or no text")
        if not values:
            return
        with self._policy.write() as connection:
            _living(connection, app)
            now = time.time()
            connection.executemany(
                "INSERT INTO env (app, name, value, updated_at) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (app, name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
                [(app, name, value, now) for name, value in values.items()],
            )
            (count,) = connection.execute("SELECT count(*) FROM env WHERE app = ?", (app,)).fetchone()
            if count > MAX_ENV_NAMES:
                raise ConfigError(f"an app has at most {MAX_ENV_NAMES} settings")
            _note_env(connection, app, "env.set", list(values), actor)

    def remove_env(self, app: str, name: str, *, actor: str = "") -> None:
        """Remove one setting of an app.

        Raises:
            NotFoundError: there is no such setting.
            StoreError: the database cannot be written.
        """
        with self._policy.write() as connection:
            gone = connection.execute("DELETE FROM env WHERE app = ? AND name = ?", (app, name)).rowcount
            if gone == 0:
                raise NotFoundError(f"the app has no setting {name!r}", hint="fazt env list --app NAME")
            _note_env(connection, app, "env.remove", [name], actor)


_BELONGINGS = (
    "DELETE FROM rules WHERE scope = ?",
    "DELETE FROM secrets WHERE scope = ?",
    "DELETE FROM limits WHERE scope = ?",
    "DELETE FROM env WHERE app = ?",
    "DELETE FROM deployments WHERE app = ?",
)


def require_app(connection: sqlite3.Connection, scope: str) -> None:
    """Refuse a scope that is neither global nor the id of a living app: what it held would never apply.

    Raises:
        NotFoundError: there is no such app.
    """
    if scope:
        _living(connection, scope)


def _living(connection: sqlite3.Connection, app: str) -> None:
    row = connection.execute("SELECT 1 FROM apps WHERE id = ? AND retired_at IS NULL", (app,)).fetchone()
    if row is None:
        raise _unknown(app)


def _by_name(connection: sqlite3.Connection, name: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM apps WHERE name = ? AND retired_at IS NULL", (name,)
    ).fetchone()
    return row


def _by_either(connection: sqlite3.Connection, name_or_id: str) -> sqlite3.Row | None:
    if _ID.fullmatch(name_or_id):
        row: sqlite3.Row | None = connection.execute(
            "SELECT * FROM apps WHERE id = ? AND retired_at IS NULL", (name_or_id,)
        ).fetchone()
        return row
    return _by_name(connection, name_or_id)


def _mint(connection: sqlite3.Connection) -> str:
    for _ in range(8):
        app = ID_PREFIX + "".join(secrets.choice(_BASE62) for _ in range(12))
        if connection.execute("SELECT 1 FROM apps WHERE id = ?", (app,)).fetchone() is None:
            return app
    raise StoreError("no free app id was found")  # 62**12 ids: the random source is broken


def _info(row: sqlite3.Row) -> AppInfo:
    return AppInfo(row["id"], row["name"], row["created_at"], row["deployment"])


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"there is no app {name!r}", hint="`fazt app list` shows the ones there are")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _note_env(connection: sqlite3.Connection, app: str, action: str, names: list[str], actor: str) -> None:
    revision = next_revision(connection)
    note(
        connection,
        revision,
        [Change(Kind.ENV, app, name) for name in names],
        actor=actor,
        action=action,
        scope=app,
        subject=", ".join(names[:20]),
        weight=Weight.CONFIG,
    )
