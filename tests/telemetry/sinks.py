"""A sink that keeps what it gets, for tests of any part that tells something (R89)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fazt.core.record import Attempt, CallRecord
from fazt.telemetry import Event, Sink, events_of


class Collected(Sink):
    """A record sink that makes the events at once, and a sink of a fan-out."""

    name = "collected"

    def __init__(self) -> None:
        self.records: list[CallRecord] = []
        self.events: list[Event] = []

    def append(self, record: CallRecord) -> None:
        """Take a record, as the engine's sink."""
        self.records.append(record)
        self.events += events_of(record)

    def emit(self, events: Sequence[Event]) -> None:
        """Take events, as a sink of a `Fanout`."""
        self.events += events

    @property
    def summaries(self) -> list[Event]:
        """The events of whole calls."""
        return [event for event in self.events if event.summary]

    @property
    def attempts(self) -> list[Event]:
        """The events of trips to the network."""
        return [event for event in self.events if not event.summary]

    def of(self, call_id: str) -> list[Event]:
        """The events of one call."""
        return [event for event in self.events if event.request_id == call_id]


class Broken(Sink):
    """A sink that always fails."""

    name = "broken"

    def __init__(self, fault: BaseException | None = None) -> None:
        self.fault = fault or RuntimeError("no")
        self.calls = 0

    def emit(self, events: Sequence[Event]) -> None:
        self.calls += 1
        raise self.fault


def call(n: int = 0, **fields: Any) -> CallRecord:
    """Return the record of a call that made one trip and was answered."""
    values: dict[str, Any] = {
        "app": "fazt_app_000000000001",
        "door": "client",
        "method": "GET",
        "scheme": "https",
        "host": "api.example.com",
        "port": 443,
        "path": "/v1",
        "status": 200,
        "duration_ms": 12.345,
        "request_bytes": 3,
        "response_bytes": 200,
        "version": "HTTP/1.1",
        "ttfb_ms": 8.5,
        "attempt_ts": 1_700_000_000.5 + n,
        "attempt_ms": 11.0,
    }
    return CallRecord(f"c_{n:04d}", 1_700_000_000.5 + n, **(values | fields))


def trip(**fields: Any) -> Attempt:
    """Return a trip of a call that went on after it."""
    values: dict[str, Any] = {
        "ts": 1_700_000_000.0,
        "hop": 1,
        "number": 1,
        "method": "GET",
        "scheme": "https",
        "host": "api.example.com",
        "port": 443,
        "path": "/v1",
        "status": 503,
        "duration_ms": 5.0,
        "ttfb_ms": 4.0,
        "version": "HTTP/1.1",
    }
    return Attempt(**(values | fields))
