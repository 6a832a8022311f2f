"""Data directories that are open in this process, each once however many policies use it.

A forked child opens its own: what it inherited is neither used nor closed there (sqlite.org/howtocorrupt.html, section
2.6; `stores.sqlite.database` has no connection open while a process forks).
"""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from fazt import hardware
from fazt.client.policies import PolicyChange
from fazt.core import limits as limits_of
from fazt.errors import StoreError
from fazt.net.forked import abandon, renew
from fazt.stores.sqlite.changes import Kind
from fazt.stores.sqlite.store import Store

if TYPE_CHECKING:
    from fazt.core.policy import Policy as Snapshot
    from fazt.stores.sqlite.changes import Feed

_logger = logging.getLogger("fazt.policy")
_LAST: Final = -100


class User(Protocol):
    """Who uses an open directory."""

    def tell(self, change: PolicyChange) -> None:
        """Take a change of the policy, in the thread that follows the database."""

    def forked(self) -> None:
        """Forget the directory: this process is a forked child, and it is the parent's."""

    def __hash__(self) -> int: ...


class Shared:
    """One open data directory of this process and those who use it."""

    __slots__ = ("_pending", "log", "secrets", "source", "store", "users")

    def __init__(self, store: Store) -> None:
        self.store = store
        self.source, self.secrets = store.source, store.secrets
        self.log = store.log  # opened now: a record must not wait for it, nor be lost to it
        self.users: weakref.WeakSet[User] = weakref.WeakSet()
        self._pending: tuple[Snapshot, Snapshot] | None = None
        self.source.listen(self._snapshot)
        self.source.watch(self._changed)
        self.source.start()

    def _snapshot(self, old: Snapshot, new: Snapshot) -> None:
        self._pending = (old, new)

    def _changed(self, found: Feed) -> None:
        """Tell what changed; the source has called `_snapshot` just before, in this thread."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        changes = found.changes
        if changes is None:
            change = PolicyChange(*pending)
        else:
            hosts = tuple((one.scope, one.name) for one in changes if one.kind is Kind.RULE)
            apps = tuple(one.scope for one in changes if one.kind is Kind.APP)
            change = PolicyChange(*pending, hosts=hosts, apps=apps)
        for user in list(self.users):
            user.tell(change)


class OpenStores:
    """The open data directories of a process by their path."""

    def __init__(self) -> None:
        self._open: dict[Path, Shared] = {}
        self._at_exit = False
        self.start_anew()

    def start_anew(self) -> None:
        """Leave what the parent opened to the parent."""
        self._lock = threading.Lock()
        for shared in self._open.values():
            abandon(shared)
            for user in list(shared.users):
                user.forked()
        self._open = {}
        self._at_exit = False

    def join(self, directory: Path, user: User) -> Shared:
        """Return an open directory, opened when nobody has it yet.

        Args:
            directory: the data directory.
            user: who is told of changes; the directory stays open until all who joined have left.

        Raises:
            ConfigError, StoreError: it cannot be opened.
        """
        with self._lock:
            shared = self._open.get(directory)
            if shared is None:
                shared = self._open[directory] = _opened(directory)
                self._close_at_exit()
            shared.users.add(user)
            return shared

    def leave(self, shared: Shared, user: User) -> None:
        """Take a user off a directory; what waits for its log is written, and with the last one it is closed."""
        with self._lock:
            shared.users.discard(user)
            last = not shared.users and self._open.get(shared.store.data_dir) is shared
            if last:
                del self._open[shared.store.data_dir]
        if last:
            shared.store.close()
        else:
            _flush(shared.store)

    def close(self) -> None:
        """Close what is left at the end of the process, so that the last records are written."""
        with self._lock:
            found, self._open = list(self._open.values()), {}
        for shared in found:
            shared.store.close()

    def _close_at_exit(self) -> None:
        if self._at_exit:
            return
        self._at_exit = True
        atexit.unregister(self.close)  # a forked child inherits the parent's
        atexit.register(self.close)
        pool = sys.modules.get("multiprocessing.util")
        if pool is not None:  # some of its children end without atexit
            self._close_with_pool()
            # What was registered before a child's own work begins, as when its arguments are unpickled, is dropped.
            pool.register_after_fork(self, OpenStores._close_with_pool)

    def _close_with_pool(self) -> None:
        if self._open:
            sys.modules["multiprocessing.util"].Finalize(None, self.close, exitpriority=_LAST)


def _opened(directory: Path) -> Shared:
    machine = hardware.probe()
    base = limits_of.defaults(
        total_ram=machine.total_ram, available_ram=machine.available_ram, cpu_cores=machine.cpu_cores
    )
    store = Store.open(directory, base=base)
    try:
        shared = Shared(store)
    except BaseException:
        store.close()
        raise
    for warning in store.warnings:
        _logger.warning("%s", warning)
    return shared


def _flush(store: Store) -> None:
    try:
        store.log.flush()
    except StoreError as fault:
        _logger.warning("the log could not be written: %s", fault.message)


STORES = OpenStores()
renew(STORES)
