"""What a download asks of its driver, and what it needs of an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fazt.core.call import Request, Response
    from fazt.core.record import CallRecord
    from fazt.errors import FaztError


class Stream(Protocol):
    """What both engines' streams have and need not be waited for."""

    response: Response
    record: CallRecord
    size: int

    @property
    def scrubbed(self) -> int:
        """Secrets taken out of the body so far."""

    def settle(self, error: BaseException | None = None) -> None:
        """End the call and write its record."""


class Refuser(Protocol):
    """What of an engine is needed beside `open`."""

    def refuse(self, request: Request, error: FaztError) -> None:
        """Write the record of a call that was never made."""


@dataclass(frozen=True, slots=True)
class Open:
    """Make a call; answered with its stream, whose record is held."""

    request: Request


@dataclass(frozen=True, slots=True)
class Pump:
    """Hand the whole body of the stream to `Transfer.take`, and call `Transfer.flush` when that says so."""

    stream: Any


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """Do something that may wait for the disk; answered with what it returns."""

    job: Callable[[], Any]


Step = Open | Pump | Pause | Work
