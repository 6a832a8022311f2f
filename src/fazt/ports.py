"""What the engine needs from the rooms around it, where there is more than one implementation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from fazt.core.call import Fields, Phases, ResponseHead, Target, Upload
from fazt.core.policy import Policy
from fazt.core.record import CallRecord


class Policies(Protocol):
    """Where the current policy comes from (the data directory, or a fixed one)."""

    @property
    def current(self) -> Policy:
        """The newest good snapshot; reading it costs nothing."""


class Vault(Protocol):
    """Where secret values come from, one at a time, at the moment of sending."""

    def value(self, scope: str, name: str, *, version: int | None = None) -> str:
        """Return the value of a secret.

        Args:
            scope, name: of the secret that the policy chose.
            version: of that secret; the value of any other version is never given out.

        Raises:
            FaztError: it was removed since, or changed (`store`, retryable).
            StoreError: it cannot be read.
        """


class RecordSink(Protocol):
    """Where records of calls go; must neither block nor raise."""

    def append(self, record: CallRecord) -> None:
        """Take one finished record."""


class SyncConnection(Protocol):
    """One connection in use by one call of one thread."""

    @property
    def address(self) -> str:
        """The judged address it is connected to."""

    @property
    def complete(self) -> bool:
        """Whether the whole response has arrived."""

    @property
    def trailers(self) -> Fields:
        """Fields that came after a chunked body."""

    def send(
        self,
        head: bytes,
        body: bytes | None,
        *,
        deadline: float,
        on_sent: Callable[[], None],
        method: str = "GET",
        upload: Upload | None = None,
        phases: Phases | None = None,
    ) -> ResponseHead:
        """Write a request and read the head of its response."""

    def read(self, *, cap: int, deadline: float, idle: float | None = None) -> bytes:
        """Read the whole body."""

    def read_some(self, *, deadline: float = math.inf, idle: float | None = None) -> bytes:
        """Read what there is of the body, or wait for more; b"" at its end."""

    def release(self) -> None:
        """Give the connection back, or close it when it cannot be used again; never blocks."""

    def abort(self) -> None:
        """Close the connection at once; never blocks."""


class SyncWire(Protocol):
    """The wire of threads: connections to judged addresses."""

    @property
    def tls_id(self) -> str:
        """Id of the TLS configuration, part of the pool key."""

    def acquire(
        self,
        target: Target,
        *,
        deadline: float,
        on_attempt: Callable[[], None],
        fresh: bool = False,
        phases: Phases | None = None,
    ) -> SyncConnection:
        """Return a pooled connection made under the same grant, or resolve, judge and connect."""

    def close(self) -> None:
        """Close every connection."""


class AsyncConnection(Protocol):
    """One connection in use by one call."""

    @property
    def address(self) -> str:
        """The judged address it is connected to."""

    @property
    def complete(self) -> bool:
        """Whether the whole response has arrived."""

    @property
    def trailers(self) -> Fields:
        """Fields that came after a chunked body."""

    async def send(
        self,
        head: bytes,
        body: bytes | None,
        *,
        deadline: float,
        on_sent: Callable[[], None],
        method: str = "GET",
        upload: Upload | None = None,
        phases: Phases | None = None,
    ) -> ResponseHead:
        """Write a request and read the head of its response."""

    async def read(self, *, cap: int, deadline: float, idle: float | None = None) -> bytes:
        """Read the whole body."""

    async def read_some(self, *, deadline: float = math.inf, idle: float | None = None) -> bytes:
        """Read what there is of the body, or wait for more; b"" at its end."""

    def release(self) -> None:
        """Give the connection back, or close it when it cannot be used again; never blocks."""

    def abort(self) -> None:
        """Close the connection at once; never blocks."""


class AsyncWire(Protocol):
    """The wire of one event loop: connections to judged addresses."""

    @property
    def tls_id(self) -> str:
        """Id of the TLS configuration, part of the pool key."""

    async def acquire(
        self,
        target: Target,
        *,
        deadline: float,
        on_attempt: Callable[[], None],
        fresh: bool = False,
        phases: Phases | None = None,
    ) -> AsyncConnection:
        """Return a pooled connection made under the same grant, or resolve, judge and connect."""

    async def close(self) -> None:
        """Close every connection."""
