"""The clients and transports for httpx2."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import httpx2

from fazt.client.async_client import AsyncDoor
from fazt.client.carriers import AsyncCarrier, SyncCarrier
from fazt.client.intake import Intake
from fazt.client.sync_client import SyncDoor

__all__ = ["AsyncClient", "AsyncTransport", "Client", "Transport"]


class Transport(SyncCarrier, httpx2.BaseTransport):
    """Carries the requests of an `httpx2.Client` under a policy."""

    _library = "httpx2"


class AsyncTransport(AsyncCarrier, httpx2.AsyncBaseTransport):
    """Carries the requests of an `httpx2.AsyncClient` under a policy."""

    _library = "httpx2"


class Client(SyncDoor[httpx2.Request, httpx2.Response], httpx2.Client):
    """An `httpx2.Client` under a policy."""

    _library = "httpx2"

    def _carrier(self, intake: Intake) -> Any:
        return Transport.of(intake)

    def query(self, url: Any, **options: Any) -> httpx2.Response:
        """Send a QUERY request; options as `request`."""
        return self.request("QUERY", url, **options)


class AsyncClient(AsyncDoor[httpx2.Request, httpx2.Response], httpx2.AsyncClient):
    """An `httpx2.AsyncClient` under a policy."""

    _library = "httpx2"

    def _carrier(self, intake: Intake) -> Any:
        return AsyncTransport.of(intake)

    def query(self, url: Any, **options: Any) -> Coroutine[Any, Any, httpx2.Response]:
        """Send a QUERY request; options as `request`."""
        return self.request("QUERY", url, **options)
