"""Events in the database of the network log."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

from fazt.telemetry.event import Event
from fazt.telemetry.sinks.base import Sink


class EventWriter(Protocol):
    """What writes rows (`stores.sqlite.events.EventLog`)."""

    def write(self, requests: Sequence[Mapping[str, Any]], calls: Sequence[Mapping[str, Any]]) -> None:
        """Write rows of `net_request` and of `http_events` in one transaction."""

    def close(self) -> None:
        """Close the database."""


class SqliteSink(Sink):
    """Writes every event to `net_request`, and one row for every call to `http_events`.

    Args:
        opener: opens the database; called at the first event, and again in a forked child.
        run_id: what the rows of this process are known by; a random one by default.
    """

    name = "sqlite"
    run_id: str
    _writer: EventWriter | None

    def __init__(self, opener: Callable[[], EventWriter], *, run_id: str | None = None) -> None:
        self._opener = opener
        self._given = run_id
        self._abandoned: list[EventWriter] = []
        self._begin()

    def emit(self, events: Sequence[Event]) -> None:
        """Write a batch in one transaction."""
        if self._writer is None:
            self._writer = self._opener()
        requests = [event.to_dict() for event in events]
        calls = [call_row(event) for event in events if event.summary]
        for row in chain(requests, calls):
            row["run_id"] = self.run_id
        self._writer.write(requests, calls)

    def close(self) -> None:
        """Close the database."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def after_fork(self) -> None:
        """Open the database anew: the parent's locks would protect nothing here."""
        if self._writer is not None:
            self._abandoned.append(self._writer)  # closing it here would drop the parent's locks
        self._begin()

    def _begin(self) -> None:
        self._writer = None
        self.run_id = uuid.uuid4().hex if self._given is None else self._given


def call_row(event: Event) -> dict[str, Any]:
    """Return the row of `http_events` for the summary of a call."""
    return {
        "ts": event.ts,
        "host": event.host,
        "role": event.role,
        "method": event.method,
        "status": event.status_code,
        "url_hash": hashlib.sha256(event.url.encode("utf-8", "backslashreplace")).hexdigest(),
        "from_cache": int(event.from_cache),
        "revalidated": int(event.cache == "revalidated"),
        "stale": int(event.cache == "stale"),
        "retry_count": event.retries,
        "retry_after_s": event.retry_after,
        "rate_delay_ms": round(event.waited_ms, 2),
        "breaker_state": event.breaker or None,
        # One outcome per trip is told to the breaker that watches the host; refusals and cache hits tell it nothing.
        "breaker_recorded": int(bool(event.breaker) and event.attempt > 0),
        "elapsed_ms": round(event.elapsed_ms, 2),
        "error": event.error_code if event.reason is None else f"{event.error_code}:{event.reason}",
    }
