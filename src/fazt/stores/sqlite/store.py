"""The data directory as one object: what decides, what was deployed, what happened."""

from __future__ import annotations

import os
import secrets as random
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from fazt.core.limits import Limits, defaults
from fazt.core.policy import Policy
from fazt.errors import StoreError
from fazt.stores.sqlite import changes
from fazt.stores.sqlite.apps import Apps
from fazt.stores.sqlite.changes import Activity
from fazt.stores.sqlite.database import Database
from fazt.stores.sqlite.deployments import Deployments
from fazt.stores.sqlite.keys import KeyProvider, key_provider
from fazt.stores.sqlite.limits import LimitSettings
from fazt.stores.sqlite.log import NetLog
from fazt.stores.sqlite.private import claim_directory
from fazt.stores.sqlite.rules import Rules
from fazt.stores.sqlite.secrets import Secrets
from fazt.stores.sqlite.source import PolicySource
from fazt.stores.sqlite.token import AdminToken, admin_token

POLICY_FILE = "policy.db"
CONTENT_FILE = "apps.db"
LOG_FILE = "log.db"
_MARKS = (POLICY_FILE, "fazt.toml")
_SMALL_MACHINE = 512 * 1024 * 1024


class Store:
    """Everything fazt keeps on disk. Use `Store.open`; close it, or use it in a `with` statement.

    The policy database is opened at once; the databases of files and of the log, and the policy snapshot, at their
    first use. May be used from any thread.
    """

    def __init__(self, data_dir: Path, policy: Database, *, data_id: str, keys: KeyProvider, base: Limits) -> None:
        self.data_dir = data_dir
        self.data_id = data_id
        self._policy = policy
        self._lazily = threading.RLock()
        self._content: Database | None = None
        self._log_file: Database | None = None
        self._deployments: Deployments | None = None
        self._log: NetLog | None = None
        self._source: PolicySource | None = None
        self.rules = Rules(policy)
        self.secrets = Secrets(policy, data_id=data_id, keys=keys)
        self.limits = LimitSettings(policy, base)
        self.apps = Apps(policy, removed=self._drop_deployments)

    @classmethod
    def open(cls, data_dir: Path, *, keys: KeyProvider | None = None, base: Limits | None = None) -> Store:
        """Open a data directory, made when it is missing.

        Args:
            data_dir: the directory.
            keys: where the key of the secrets comes from; by default the environment or a key file.
            base: limits where nothing was set (`core.limits.defaults` of the machine); by default those of a small one.

        Raises:
            ConfigError: `FAZT_SECRETS_KEY` holds no key.
            StoreError: the directory or its policy database cannot be used.
        """
        claim_directory(data_dir, marks=_MARKS)
        path = data_dir / POLICY_FILE
        if not _has_content(path) and any((data_dir / name).exists() for name in (CONTENT_FILE, LOG_FILE)):
            raise StoreError(
                f"{path} is gone, though the directory was used before",
                hint="restore it from a backup, or begin with an empty directory",
            )
        policy = Database(path, "policy", durability="FULL")
        try:
            data_id = _data_id(policy)
            provider = key_provider(data_id, data_dir) if keys is None else keys
        except BaseException:
            policy.close()
            raise
        if base is None:
            base = defaults(
                total_ram=_SMALL_MACHINE, available_ram=_SMALL_MACHINE, cpu_cores=max(1, os.cpu_count() or 1)
            )
        return cls(data_dir, policy, data_id=data_id, keys=provider, base=base)

    def __repr__(self) -> str:
        return f"<Store {self.data_dir}>"

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def deployments(self) -> Deployments:
        """Files and deployments of apps.

        Raises:
            StoreError: their database cannot be opened.
        """
        with self._lazily:
            if self._deployments is None:
                self._content = Database(self.data_dir / CONTENT_FILE, "apps", durability="FULL")
                self._deployments = Deployments(self._policy, self._content)
            return self._deployments

    @property
    def log(self) -> NetLog:
        """The network log and the console lines of apps, under the limits that hold.

        Raises:
            StoreError: their database cannot be opened.
        """
        with self._lazily:
            if self._log is None:
                limits = self._source.current.limits if self._source is not None else self.limits.show()
                self._log_file = Database(self.data_dir / LOG_FILE, "log", durability="NORMAL")
                self._log = NetLog(self._log_file)
                _configure(self._log, limits)
            return self._log

    @property
    def source(self) -> PolicySource:
        """The policy snapshot; `start()` it in a process that lives longer than one call.

        Raises:
            StoreError: the policy cannot be read.
        """
        with self._lazily:
            if self._source is None:
                source = PolicySource(self._policy, self.limits.base)
                source.listen(self._apply)
                self.secrets.version_of = lambda scope, name: _version(source.current, scope, name)
                self._policy.written = source.wake
                self._source = source
            return self._source

    @property
    def warnings(self) -> Sequence[str]:
        """What the operator should be told."""
        return self.secrets.warnings

    def activity(self, *, scope: str | None = None, least_weight: int = 0, limit: int = 20) -> Sequence[Activity]:
        """Return who changed what, newest first.

        Args:
            scope: only changes of one app id, or of "" (global).
            least_weight: leave out lighter ones.
            limit: at most so many.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._policy.read() as connection:
            return changes.activity(connection, scope=scope, least_weight=least_weight, limit=limit)

    def admin_token(self) -> AdminToken:
        """Return the token of the admin API, made at the first need.

        Raises:
            StoreError: its file cannot be read or written.
        """
        return admin_token(self.data_dir)

    def close(self) -> None:
        """Stop the threads, write what waits for the log, close the files."""
        with self._lazily:
            if self._source is not None:
                self._source.stop()
            if self._log is not None:
                self._log.close()
            for database in (self._log_file, self._content, self._policy):
                if database is not None:
                    database.close()

    def _drop_deployments(self, ids: Sequence[str]) -> None:
        if ids:
            self.deployments.drop(ids)

    def _apply(self, old: Policy, new: Policy) -> None:
        self.secrets.keep_only(old, new)
        log = self._log
        if log is not None and new.limits != old.limits:
            _configure(log, new.limits)


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreError(f"cannot open {path}: {error.strerror}") from error


def _data_id(policy: Database) -> str:
    with policy.read() as connection:
        row = connection.execute("SELECT value FROM meta WHERE name = 'data_id'").fetchone()
    if row is None:
        with policy.write() as connection:
            connection.execute("INSERT OR IGNORE INTO meta VALUES ('data_id', ?)", (random.token_hex(8),))
            row = connection.execute("SELECT value FROM meta WHERE name = 'data_id'").fetchone()
    return str(row["value"])


def _configure(log: NetLog, limits: Limits) -> None:
    log.configure(buffer=limits.net.log_buffer, flush_ms=limits.net.log_flush, max_rows=limits.storage.max_log_rows)


def _version(policy: Policy, scope: str, name: str) -> int | None:
    meta = policy.secrets.get((scope, name))
    return None if meta is None else meta.version
