"""How many calls are in flight, per app and altogether: one atomic step takes both counts or neither (A.9)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from fazt.errors import FaztError, Reason

RETRY_AFTER: Final = 1.0
"""Seconds after which a refused call may be tried again: how long the others take is not known."""


class Slots:
    """Counts calls in flight. Nobody queues: a call beyond a cap is refused at once.

    Args:
        lock: held around each step; a `threading.Lock` where threads share the counts, nothing on one event loop.
    """

    __slots__ = ("_apps", "_lock", "_total")

    def __init__(self, lock: AbstractContextManager[Any] | None = None) -> None:
        self._lock = lock if lock is not None else nullcontext()
        self._apps: dict[str, int] = {}
        self._total = 0

    def acquire(self, app: str, *, app_cap: int | None, global_cap: int | None) -> None:
        """Take a slot of the app and one of the process, both or none.

        Args:
            app: id of the app.
            app_cap: calls the app may have in flight, None for no cap; read at each call, so a change acts at once.
            global_cap: the same for all apps together.

        Raises:
            FaztError: `app_concurrency` or `global_concurrency`, both retryable.
        """
        with self._lock:
            held = self._apps.get(app, 0)
            if app_cap is not None and held >= app_cap:
                raise FaztError(
                    Reason.APP_CONCURRENCY, "too many calls of this app are in flight", retry_after=RETRY_AFTER
                )
            if global_cap is not None and self._total >= global_cap:
                raise FaztError(Reason.GLOBAL_CONCURRENCY, "too many calls are in flight", retry_after=RETRY_AFTER)
            self._apps[app] = held + 1
            self._total += 1

    def release(self, app: str) -> bool:
        """Give back a slot; tell whether the app held one. Counts never go below zero."""
        with self._lock:
            held = self._apps.get(app, 0)
            if held == 0:
                return False
            if held == 1:
                del self._apps[app]  # idle apps leave nothing behind
            else:
                self._apps[app] = held - 1
            self._total -= 1
            return True

    def in_flight(self, app: str | None = None) -> int:
        """Return the calls in flight of one app, or of all."""
        with self._lock:
            return self._total if app is None else self._apps.get(app, 0)

    def apps(self) -> dict[str, int]:
        """Return the apps that have calls in flight, with their counts."""
        with self._lock:
            return dict(self._apps)
