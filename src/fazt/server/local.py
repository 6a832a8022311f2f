"""A server over one data directory: what `fazt serve` runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fazt.app import Functions, functions_for, listeners
from fazt.functions.model import FailureKind, InvocationFailure
from fazt.server.context import ServerContext
from fazt.server.sites import StoredSites
from fazt.version import __version__

if TYPE_CHECKING:
    from fazt.config import Settings
    from fazt.core.limits import Limits
    from fazt.functions.model import AppRequest, AppResponse
    from fazt.stores.sqlite.store import Store


class LocalServer:
    """Runs the apps of a data directory between `start` and `stop`.

    Args:
        store: the open data directory.
        settings: of this process.
        admin_token: opens the admin API.
    """

    def __init__(self, store: Store, settings: Settings, *, admin_token: str) -> None:
        self._store = store
        self._settings = settings
        self._admin_token = admin_token
        self._exit = contextlib.AsyncExitStack()
        self._functions: Functions | None = None
        self._bound: tuple[tuple[str, int], ...] = ()

    def context(self) -> ServerContext:
        """Return what the ASGI application is given."""
        source = self._store.source
        return ServerContext(
            runtime=self,
            sites=StoredSites(source, lambda: self._store.deployments),
            limits=self._limits,
            admin_token=self._admin_token,
            report=self._report,
            health=self._health,
            cache_stats=self._cache_stats,
            clear_cache=self._clear_cache,
            net_stats=self._net_figures,
            listening=self._listening,
            start=self._start,
            stop=self._stop,
            path_routing=self._settings.path_routing,
            version=__version__,
        )

    async def handle(self, app_id: str, request: AppRequest) -> AppResponse | InvocationFailure:
        """Run the handler of an app."""
        if self._functions is None:
            return InvocationFailure(FailureKind.OVERLOAD, "the server is starting or stopping")
        return await self._functions.runtime.handle(app_id, request)

    async def _start(self) -> None:
        self._functions = await self._exit.enter_async_context(functions_for(self._store, self._settings))
        self._functions.wire.own_listeners = listeners(self._bound)

    async def _stop(self) -> None:
        self._functions = None
        await self._exit.aclose()

    def _listening(self, pairs: Iterable[tuple[str, int]]) -> None:
        self._bound = tuple(pairs)
        if self._functions is not None:
            self._functions.wire.own_listeners = listeners(self._bound)

    def _limits(self, app: str) -> Limits:
        return self._store.source.current.limits_for(app)

    def _report(self, app_id: str, request_id: str, failure: InvocationFailure) -> None:
        self._store.log.write_line(app_id, "error", failure.said, ts=time.time(), invocation=request_id)

    def _health(self) -> Mapping[str, Any]:
        source = self._store.source
        report = self._functions.host.report() if self._functions is not None else {}
        return {
            "database": {
                "path": str(self._store.data_dir),
                "revision": source.current.revision,
                "error": source.error.message if source.error is not None else None,
                "stale_since": source.stale_since,
            },
            "runtime": report,
            "net": self._net_stats(),
        }

    def _net_stats(self) -> Mapping[str, Any]:
        if self._functions is None:
            return {}
        engine = self._functions.engine
        return {
            "in_flight": engine.slots.in_flight(),
            "apps": engine.slots.apps(),
            "buckets": len(engine.buckets),
            "idle_connections": len(self._functions.wire.pool),
            "rules": len(self._store.source.current.rules),
        }

    def _net_figures(self) -> Mapping[str, Any]:
        """The same, with what is measured and refused for each host and service."""
        found = dict(self._net_stats())
        traffic = self._functions.engine.traffic if self._functions is not None else None
        if traffic is not None:
            found["traffic"] = traffic.stats(time.monotonic())
        return found

    def _cache_stats(self) -> Mapping[str, Any]:
        return asdict(self._functions.engine.cache.stats()) if self._functions is not None else {}

    def _clear_cache(self, app: str | None) -> int:
        return self._functions.engine.cache.purge(app=app) if self._functions is not None else 0
