"""What the engine needs from the rooms around it, where there is more than one implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fazt.core.call import ResponseHead, Target
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


class AsyncConnection(Protocol):
    """One connection in use by one call."""

    reused: bool
    address: str

    async def send(
        self, head: bytes, body: bytes | None, *, deadline: float, on_sent: Callable[[], None], method: str = "GET"
    ) -> ResponseHead:
        """Write a request and read the head of its response."""

    async def read(self, *, cap: int, deadline: float) -> bytes:
        """Read the whole body."""

    def release(self) -> None:
        """Give the connection back, or close it when it cannot be used again; never blocks."""

    def abort(self) -> None:
        """Close the connection at once; never blocks."""


class AsyncWire(Protocol):
    """The wire: connections to judged addresses."""

    @property
    def tls_id(self) -> str:
        """Id of the TLS configuration, part of the pool key."""

    async def acquire(
        self, target: Target, *, deadline: float, on_attempt: Callable[[], None], fresh: bool = False
    ) -> AsyncConnection:
        """Return a pooled connection made under the same grant, or resolve, judge and connect."""
