"""Events for people: through Python's logging, and on a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TextIO

from fazt.telemetry.event import Event
from fazt.telemetry.sinks.base import Sink


class LogSink(Sink):
    """Writes to the logger `fazt.net`: trips and successful calls at debug, failed calls at info.

    The event itself is on the record as `fazt_event`, for formatters that write JSON.

    Args:
        logger: instead of that logger.
    """

    name = "log"

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logging.getLogger("fazt.net") if logger is None else logger

    def emit(self, events: Sequence[Event]) -> None:
        """Log a batch."""
        for event in events:
            level = logging.INFO if event.failed and event.summary else logging.DEBUG
            if self._logger.isEnabledFor(level):
                self._logger.log(level, "%s", line(event), extra={"fazt_event": event})


class ConsoleSink(Sink):
    """Prints one line for every call.

    Args:
        stream: where to; stderr, as it is when something is printed, by default.
        attempts: also one line for every trip.
    """

    name = "console"

    def __init__(self, stream: TextIO | None = None, *, attempts: bool = False) -> None:
        self._stream = stream
        self._attempts = attempts

    def emit(self, events: Sequence[Event]) -> None:
        """Print a batch."""
        shown = [f"{event.ts[11:]} {line(event)}\n" for event in events if event.summary or self._attempts]
        if not shown:
            return
        stream = sys.stderr if self._stream is None else self._stream
        # What the terminal's encoding lacks is shown as an escape: printing must not fail for it.
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write("".join(shown).encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()


def line(event: Event) -> str:
    """Return an event as one line."""
    parts = [event.method or "-", event.url or event.host]
    parts.append(str(event.status_code) if event.status_code else event.status.value)
    parts.append(f"{event.elapsed_ms:.1f}ms")
    if event.cache:
        parts.append(event.cache)
    if event.error_code is not None:
        parts.append(event.error_code if event.reason is None else f"{event.error_code}({event.reason})")
    if not event.summary and (event.attempt > 1 or event.hop > 1):
        parts.append(f"hop={event.hop} attempt={event.attempt}")
    if event.retries:
        parts.append(f"retries={event.retries}")
    if event.redirect_target is not None:
        parts.append(f"-> {event.redirect_target}")
    parts.append(event.request_id)
    return " ".join(parts)
