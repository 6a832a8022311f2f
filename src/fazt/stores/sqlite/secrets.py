"""Secrets as stored: sealed, each bound to its row, opened one at a time at the moment of sending."""

from __future__ import annotations

import base64
import json
import logging
import secrets as random
import sqlite3
import time
from collections.abc import Callable, Sequence

from fazt.core.injection import mask
from fazt.core.policy import Policy, SecretMeta
from fazt.errors import FaztError, NotFoundError, Reason, StoreError
from fazt.stores.sqlite.apps import require_app
from fazt.stores.sqlite.changes import Change, Kind, Weight, next_revision, note
from fazt.stores.sqlite.database import Database
from fazt.stores.sqlite.keys import KEY_VARIABLE, KeyProvider, Sealer
from fazt.stores.sqlite.secret_rows import (
    NewSecret,
    SecretInfo,
    check_secret,
    columns,
    meta_for,
    meta_of,
    secret_row,
)

_logger = logging.getLogger("fazt.stores")
_CHECK = "secrets_check"
_CHECK_PLAIN = b"fazt"
_CACHED = 1024
_VERSION_BITS = 20


class Secrets:
    """Secrets of a data directory, and the vault that opens them.

    Args:
        policy: the policy database.
        data_id: id of the data directory, part of what a value is bound to.
        keys: where the key comes from.
    """

    def __init__(self, policy: Database, *, data_id: str, keys: KeyProvider) -> None:
        self._policy = policy
        self._data_id = data_id
        self._keys = keys
        self._fitting: tuple[str, Sealer] | None = None
        self._values: dict[tuple[str, str, int], str] = {}
        self.version_of: Callable[[str, str], int | None] | None = None
        """How the policy snapshot numbers a secret; set where one is kept, so that no call asks the database."""

    def __repr__(self) -> str:
        return "<Secrets>"

    @property
    def warnings(self) -> Sequence[str]:
        """What the operator should know of the key's place."""
        return self._keys.warnings

    def set(self, secret: NewSecret, *, actor: str = "") -> SecretMeta:
        """Store one secret; an existing one of the same scope and name is replaced. Errors as for `set_many`."""
        return self.set_many([secret], actor=actor)[0]

    def set_many(self, secrets: Sequence[NewSecret], *, actor: str = "") -> Sequence[SecretMeta]:
        """Store secrets, all or none.

        Raises:
            ConfigError: a name, value, kind, key or domain that cannot be used, or no domain at all.
            NotFoundError: one is for an app that does not exist.
            StoreError: the database or the key cannot be read or written; nothing changed.
        """
        for secret in secrets:
            check_secret(secret)
        if not secrets:
            return []
        now = time.time()
        stored = []
        with self._policy.write() as connection:
            for scope in {secret.scope for secret in secrets}:
                require_app(connection, scope)
            sealer = self._sealer(connection, create=True)
            revision = next_revision(connection)
            # A database that was put back from a backup counts its revisions again; a version never comes again, so
            # that no process takes the value it opened before for the one that was set since.
            version = revision << _VERSION_BITS | random.randbits(_VERSION_BITS)
            for secret in secrets:
                meta = meta_for(secret, secret_row(connection, secret.scope, secret.name), version)
                nonce, sealed = sealer.seal(secret.value.encode(), bound=self._bound(meta))
                connection.execute(
                    "INSERT INTO secrets (scope, name, kind, key, domains, any_domain, version, nonce, sealed, "
                    "created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (scope, name) DO "
                    "UPDATE SET kind = excluded.kind, key = excluded.key, domains = excluded.domains, "
                    "any_domain = excluded.any_domain, version = excluded.version, nonce = excluded.nonce, "
                    "sealed = excluded.sealed, updated_at = excluded.updated_at",
                    (*columns(meta), nonce, sealed, now, now),
                )
                stored.append(meta)
            _note(connection, revision, "secret.set", [(meta.scope, meta.name) for meta in stored], actor)
        return stored

    def remove(self, name: str, *, scope: str = "", actor: str = "") -> None:
        """Remove one secret; works without the key.

        Raises:
            NotFoundError: there is none of this name in this scope.
            StoreError: the database cannot be written.
        """
        with self._policy.write() as connection:
            gone = connection.execute("DELETE FROM secrets WHERE scope = ? AND name = ?", (scope, name)).rowcount
            if gone == 0:
                where = f"for the app {scope}" if scope else "for all apps"
                raise NotFoundError(
                    f"there is no secret {name!r} {where}", hint="`fazt secret list` shows the ones there are"
                )
            _note(connection, next_revision(connection), "secret.remove", [(scope, name)], actor)
        self._forget_name(scope, name)

    def list(self, app: str | None = None) -> Sequence[SecretInfo]:
        """Return secrets by name, values masked.

        Args:
            app: id of an app: its secrets and the global ones; "" for the global ones alone; None for all.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._policy.read() as connection:
            rows = connection.execute(
                "SELECT * FROM secrets WHERE ? IS NULL OR scope = ? OR scope = '' ORDER BY name, scope", (app, app)
            ).fetchall()
            try:
                sealer = self._sealer(connection) if rows else None
            except StoreError:  # names and domains are worth showing without the key
                sealer = None
        found = []
        for row in rows:
            meta = meta_of(row)
            plain = None if sealer is None else self._opened(sealer, row, meta)
            masked = None if plain is None else mask(plain.decode())
            found.append(SecretInfo(meta, masked, row["created_at"], row["updated_at"]))
        return found

    def value(self, scope: str, name: str, *, version: int | None = None) -> str:
        """Open one secret.

        Args:
            scope: id of the app it is for, "" for all: the scope of the meta that the policy chose.
            name: its name.
            version: of the meta that the policy chose; a value that was bound to other hosts since is not given out.

        Raises:
            FaztError: `secret_unknown` when it was removed since, `store` (retryable) when it was changed since.
            StoreError: the key is missing or does not fit, the row was tampered with, the database cannot be read.
        """
        if version is None and self.version_of is not None:
            version = self.version_of(scope, name)
        if version is not None and (known := self._values.get((scope, name, version))) is not None:
            return known
        with self._policy.read() as connection:
            row = secret_row(connection, scope, name)
            sealer = None if row is None else self._sealer(connection)
        if row is None or sealer is None:
            raise FaztError(Reason.SECRET_UNKNOWN, "there is no secret of this name here", detail=f"secret {name!r}")
        if version is not None and row["version"] != version:
            raise FaztError(
                Reason.STORE,
                "the secret was changed while the call was running",
                retryable=True,
                detail=f"secret {name}: version {version} is gone",
            )
        meta = meta_of(row)
        plain = self._opened(sealer, row, meta)
        if plain is None:
            raise StoreError(
                f"the secret {name!r} was altered in the database", hint=f"set it again: fazt secret set {name}"
            )
        if len(self._values) >= _CACHED:
            self._values.clear()
        value = self._values[scope, name, meta.version] = plain.decode()
        return value

    def warm(self) -> None:
        """Load cipher and key now, so that the first call does not wait for them; nothing where no secret is stored.

        Raises:
            StoreError: the key is missing or does not fit.
        """
        with self._policy.read() as connection:
            if connection.execute("SELECT 1 FROM secrets LIMIT 1").fetchone() is not None:
                self._sealer(connection)

    def keep_only(self, old: Policy, new: Policy) -> None:
        """Forget opened values that the new snapshot, or a call still running under the old one, cannot ask for."""
        for key in tuple(self._values):
            scope, name, version = key
            now = new.secrets.get((scope, name))
            before = old.secrets.get((scope, name))
            if now is None or version not in (now.version, before.version if before else now.version):
                self._values.pop(key, None)

    def rekey(self, *, actor: str = "") -> int:
        """Seal every secret with a new key; answer how many there are.

        Until the transaction is committed, and a moment after, the key file holds both keys; killed at any moment, the
        one that fits is there.

        Raises:
            ConfigError: the key comes from the environment and the next one was not given.
            StoreError: the old key does not fit, a row was tampered with, or something cannot be written.
        """
        with self._policy.write() as connection:
            old = self._sealer(connection, create=True)
            fresh = Sealer(self._keys.following())
            rows = connection.execute("SELECT * FROM secrets").fetchall()
            for row in rows:
                meta = meta_of(row)
                plain = self._opened(old, row, meta)
                if plain is None:
                    raise StoreError(
                        f"the secret {meta.name!r} was altered in the database",
                        hint=f"remove it or set it again, then repeat: fazt secret remove {meta.name}",
                    )
                nonce, sealed = fresh.seal(plain, bound=self._bound(meta))
                connection.execute(
                    "UPDATE secrets SET nonce = ?, sealed = ? WHERE scope = ? AND name = ?",
                    (nonce, sealed, meta.scope, meta.name),
                )
            self._keys.replace([fresh.key, old.key])
            self._write_check(connection, fresh)
            note(
                connection,
                next_revision(connection),
                [],
                actor=actor,
                action="secret.rekey",
                scope="",
                subject="",
                weight=Weight.SECURITY,
                details={"count": len(rows)},
            )
        # Under the lock again: whichever key fits now is the one to keep, also when another process was quicker.
        with self._policy.write() as connection:
            self._keys.replace([self._sealer(connection).key])
        try:
            self._policy.tidy()
        except StoreError as error:
            _logger.warning("values under the old key may still lie in the write-ahead log: %s", error.message)
        return len(rows)

    def _sealer(self, connection: sqlite3.Connection, *, create: bool = False) -> Sealer:
        """Return the sealer whose key fits the check value; with `create`, make key and check value at first use."""
        row = connection.execute("SELECT value FROM meta WHERE name = ?", (_CHECK,)).fetchone()
        check = None if row is None else str(row["value"])
        if check is not None and self._fitting is not None and self._fitting[0] == check:
            return self._fitting[1]
        keys = self._keys.load()
        if check is not None:
            for key in keys:
                sealer = Sealer(key)
                if self._fits(sealer, check):
                    self._fitting = (check, sealer)
                    return sealer
        anything = connection.execute("SELECT 1 FROM secrets LIMIT 1").fetchone() is not None
        if anything or not create:
            raise self._no_key(keys)
        sealer = Sealer(keys[0] if keys else self._keys.create())
        self._write_check(connection, sealer)
        return sealer

    def _write_check(self, connection: sqlite3.Connection, sealer: Sealer) -> None:
        nonce, sealed = sealer.seal(_CHECK_PLAIN, bound=self._check_bound())
        connection.execute(
            "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (_CHECK, base64.b64encode(nonce + sealed).decode()),
        )

    def _fits(self, sealer: Sealer, check: str) -> bool:
        packed = base64.b64decode(check)
        return sealer.open(packed[:12], packed[12:], bound=self._check_bound()) == _CHECK_PLAIN

    def _no_key(self, keys: Sequence[bytes]) -> StoreError:
        what = "does not fit the stored secrets" if keys else "is missing"
        return StoreError(
            f"the key of the secrets {what}: {self._keys.place}",
            hint=f"restore it or set {KEY_VARIABLE}; if it is lost, remove the secrets and set them again",
        )

    def _opened(self, sealer: Sealer, row: sqlite3.Row, meta: SecretMeta) -> bytes | None:
        return sealer.open(row["nonce"], row["sealed"], bound=self._bound(meta))

    def _bound(self, meta: SecretMeta) -> bytes:
        """Return what a value is bound to: a row with other hosts, or with another row's value, does not open."""
        parts = ("fazt secret 1", self._data_id, meta.scope, meta.name, meta.kind, meta.key)
        return json.dumps([*parts, meta.domains, meta.any_domain, meta.version]).encode()

    def _check_bound(self) -> bytes:
        return json.dumps(["fazt check 1", self._data_id]).encode()

    def _forget_name(self, scope: str, name: str) -> None:
        for key in tuple(self._values):
            if key[:2] == (scope, name):
                self._values.pop(key, None)


def _note(
    connection: sqlite3.Connection, revision: int, action: str, named: Sequence[tuple[str, str]], actor: str
) -> None:
    scopes = {scope for scope, _ in named}
    note(
        connection,
        revision,
        [Change(Kind.SECRET, scope, name) for scope, name in named],
        actor=actor,
        action=action,
        scope=scopes.pop() if len(scopes) == 1 else "",
        subject=", ".join(name for _, name in named[:20]),
        weight=Weight.SECURITY,
        details={"count": len(named)},
    )
