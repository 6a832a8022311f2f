"""fazt for programs that use httpx 0.28: the same clients and transports as fazt's own, which are for httpx2."""

from __future__ import annotations

from typing import Any

try:
    import httpx
except ImportError:
    raise ImportError("fazt.httpx is for httpx 0.28, which is not installed: pip install 'fazt-net[httpx]'") from None

from fazt.client.async_client import AsyncDoor
from fazt.client.carriers import AsyncCarrier, SyncCarrier
from fazt.client.intake import Intake
from fazt.client.sync_client import SyncDoor

__all__ = ["AsyncClient", "AsyncTransport", "Client", "Transport"]


class Transport(SyncCarrier, httpx.BaseTransport):
    """Carries the requests of an `httpx.Client` under a policy."""

    _library = "httpx"


class AsyncTransport(AsyncCarrier, httpx.AsyncBaseTransport):
    """Carries the requests of an `httpx.AsyncClient` under a policy."""

    _library = "httpx"


class Client(SyncDoor[httpx.Request, httpx.Response], httpx.Client):
    """An `httpx.Client` under a policy."""

    _library = "httpx"

    def _carrier(self, intake: Intake) -> Any:
        return Transport.of(intake)


class AsyncClient(AsyncDoor[httpx.Request, httpx.Response], httpx.AsyncClient):
    """An `httpx.AsyncClient` under a policy."""

    _library = "httpx"

    def _carrier(self, intake: Intake) -> Any:
        return AsyncTransport.of(intake)
