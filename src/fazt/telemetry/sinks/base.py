"""What a sink is."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Self

from fazt.telemetry.event import Event


class Sink:
    """Takes events. All methods are called by one thread at a time; what they raise is counted and logged."""

    name: str = "sink"
    slow: bool = False
    """Whether it may wait for a network: it then gets a thread and a queue of its own."""
    propagates: bool = False
    """Whether requests should carry the trace context, since their spans are exported here."""
    interval: float | None = None
    """Seconds after which `tick` is called again, None for never; slow sinks only."""

    guard: Any
    """Held while a method is called: one sink may serve several clients, each with a thread of its own."""

    def __new__(cls, *_args: Any, **_settings: Any) -> Self:
        made = super().__new__(cls)
        made.guard = threading.RLock()
        return made

    def emit(self, events: Sequence[Event]) -> None:
        """Take a batch."""
        raise NotImplementedError

    def tick(self) -> None:
        """Do what is to be done from time to time."""

    def flush(self) -> None:
        """Put what was taken where it belongs."""

    def close(self) -> None:
        """Give up what is held; called once, after the last batch."""

    def after_fork(self) -> None:
        """Forget what belongs to the parent, without touching its descriptors' state; runs in the child."""
