"""The policy snapshot of a running process, kept at most a second behind the database.

Reading the snapshot is reading an attribute. One thread asks four times a second for one number, the revision; when it
grew, what changed is loaded and compiled there, off the event loop, and the new snapshot replaces the old one whole.
When that fails, the last good snapshot stays, and `error` says why: a broken database neither widens access nor
empties it.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fazt.core.limits import Limits
from fazt.core.policy import AppMeta, Policy, SecretMeta
from fazt.core.rules import RuleIndex
from fazt.errors import StoreError
from fazt.stores.sqlite import changes as feed
from fazt.stores.sqlite.changes import Change, Feed, Kind
from fazt.stores.sqlite.database import Database
from fazt.stores.sqlite.limits import effective, stored_limits
from fazt.stores.sqlite.rules import all_rules, rules_of
from fazt.stores.sqlite.secret_rows import all_metas, find_meta

_logger = logging.getLogger("fazt.stores")
POLL_SECONDS = 0.25

Listener = Callable[[Policy, Policy], None]
Watcher = Callable[[Feed], None]


class PolicySource:
    """Gives the current policy and follows the database.

    Args:
        policy: the policy database.
        base: the limits where nothing was set.
        poll: seconds between two looks at the revision.

    Raises:
        StoreError: the first snapshot cannot be loaded.
    """

    def __init__(self, policy: Database, base: Limits, *, poll: float = POLL_SECONDS) -> None:
        self._policy = policy
        self._base = base
        self._poll = poll
        self._listeners: list[Listener] = []
        self._watchers: list[Watcher] = []
        self._refreshing = threading.RLock()
        self._signal = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.error: StoreError | None = None
        """Why the snapshot may be old; None when the last look worked."""
        self.stale_since: float | None = None
        """When the first failed look was, in seconds since the epoch."""
        self.loads = 0
        """How often everything was loaded instead of what changed."""
        self.current: Policy = self._first()

    def __repr__(self) -> str:
        return f"<PolicySource revision={self.current.revision}>"

    def listen(self, listener: Listener) -> None:
        """Call `listener(old, new)` after each new snapshot, in the thread that made it."""
        self._listeners.append(listener)

    def watch(self, watcher: Watcher) -> None:
        """Call `watcher(feed)` with what changed after each new snapshot: settings and deployments of apps too."""
        self._watchers.append(watcher)

    def refresh(self) -> bool:
        """Look at the database now; answer whether the snapshot is known to be current. Never raises."""
        with self._refreshing:
            try:
                self._follow()
            except StoreError as error:
                self._failed(error)
            except Exception as fault:  # a row that this release cannot read must not end the watching
                _logger.exception("the policy could not be read")
                self._failed(StoreError(f"the policy could not be read: {type(fault).__name__}: {fault}"))
            else:
                self.error = self.stale_since = None
                return True
        return False

    def start(self) -> None:
        """Begin to follow the database in a thread of its own."""
        if self._thread is None:
            self._stopping = False
            self._thread = threading.Thread(target=self._run, name="fazt-policy", daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """Look at once: this process changed something itself."""
        self._signal.set()

    def stop(self) -> None:
        """Stop following; the snapshot stays."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping = True
            self._signal.set()
            thread.join()

    def _run(self) -> None:
        while not self._stopping:
            self._signal.wait(self._poll)
            self._signal.clear()
            if not self._stopping:
                self.refresh()

    def _first(self) -> Policy:
        try:
            with self._policy.read() as connection:
                policy = load(connection, self._base)
        except StoreError:
            raise
        except Exception as fault:
            raise StoreError(
                f"the policy in {self._policy.path} cannot be read: {type(fault).__name__}: {fault}",
                hint="restore it from a backup",
            ) from fault
        self._generation = self._policy.generation
        return policy

    def _follow(self) -> None:
        old = self.current
        with self._policy.read() as connection:
            generation = self._policy.generation
            if generation != self._generation:  # the file was put back from a backup: its numbers say nothing
                found = Feed(feed.current(connection), None)
            else:
                if feed.current(connection) == old.revision:
                    return
                found = feed.since(connection, old.revision)
            if found.changes is None:
                new = load(connection, self._base)
                self.loads += 1
            else:
                new = changed(connection, old, found, self._base)
        self._generation = generation
        self.current = new
        self._tell(old, new, found)

    def _tell(self, old: Policy, new: Policy, found: Feed) -> None:
        calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [(call, (old, new)) for call in self._listeners]
        calls += [(call, (found,)) for call in self._watchers]
        for call, arguments in calls:
            try:
                call(*arguments)
            except Exception:  # one listener must not keep the others, or the next snapshot, from coming
                _logger.exception("a listener to policy changes failed")

    def _failed(self, error: StoreError) -> None:
        if self.error is None:
            self.stale_since = time.time()
            _logger.warning("going on with revision %d: %s", self.current.revision, error.message)
        self.error = error


def load(connection: sqlite3.Connection, base: Limits) -> Policy:
    """Read the whole policy; in a read transaction."""
    limits, overrides = effective(base, stored_limits(connection))
    return Policy(
        revision=feed.current(connection),
        rules=RuleIndex.build(all_rules(connection)),
        secrets={(meta.scope, meta.name): meta for meta in all_metas(connection)},
        apps={row["id"]: AppMeta(id=row["id"], name=row["name"]) for row in _apps(connection)},
        limits=limits,
        overrides=overrides,
    )


def changed(connection: sqlite3.Connection, old: Policy, found: Feed, base: Limits) -> Policy:
    """Read only what changed since `old`; in the read transaction that gave the feed."""
    assert found.changes is not None
    new = replace(old, revision=found.revision)
    kinds = {change.kind for change in found.changes}
    if Kind.RULE in kinds:
        hosts = [(change.scope, change.name) for change in found.changes if change.kind is Kind.RULE]
        new = replace(new, rules=old.rules.replacing({host: rules_of(connection, *host) for host in hosts}))
    if Kind.SECRET in kinds:
        new = replace(new, secrets=_secrets(connection, old, found.changes))
    if Kind.APP in kinds:
        new = replace(new, apps={row["id"]: AppMeta(id=row["id"], name=row["name"]) for row in _apps(connection)})
    if Kind.LIMIT in kinds:
        limits, overrides = effective(base, stored_limits(connection))
        new = replace(new, limits=limits, overrides=overrides)
    return new


def _apps(connection: sqlite3.Connection) -> sqlite3.Cursor:
    return connection.execute("SELECT id, name FROM apps WHERE retired_at IS NULL")


def _secrets(
    connection: sqlite3.Connection, old: Policy, changes: tuple[Change, ...]
) -> dict[tuple[str, str], SecretMeta]:
    secrets = dict(old.secrets)
    for change in changes:
        if change.kind is Kind.SECRET:
            meta = find_meta(connection, change.scope, change.name)
            secrets.pop((change.scope, change.name), None)
            if meta is not None:
                secrets[meta.scope, meta.name] = meta
    return secrets
