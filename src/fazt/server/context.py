"""What the server needs from the rest of fazt; the composition root fills it in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from fazt.core.limits import Limits
    from fazt.functions.model import AppRequest, AppResponse, InvocationFailure
    from fazt.server.static import FileEntry


class Runtime(Protocol):
    """Runs the handlers of apps."""

    async def handle(self, app_id: str, request: AppRequest) -> AppResponse | InvocationFailure:
        """Run `api/main.js` of an app once; raises only when cancelled."""


@dataclass(frozen=True, slots=True)
class Site:
    """An app as the server sees it: its one stable id, and what is live under it.

    Args:
        app_id: decides secrets, rules, logs (F41).
        name: what it is routed by, now.
        deployment: id of the live deployment; None where nothing was deployed yet.
        spa: whether it is a single-page app.
    """

    app_id: str
    name: str
    deployment: str | None = None
    spa: bool = False


class StaleSiteError(Exception):
    """The deployment was replaced while a request was looking at it; looking again helps."""


class Sites(Protocol):
    """Deployed apps and their files; `entry` and `content` may raise `StaleSiteError`."""

    async def site(self, name: str, *, fresh: bool = False) -> Site | None:
        """Find an app by its name or its id; `fresh` looks again even if nothing seems to have changed."""

    async def entry(self, site: Site, path: str) -> FileEntry | None:
        """Find a file of the live deployment by its exact path."""

    def content(self, site: Site, entry: FileEntry) -> AsyncIterator[bytes]:
        """Yield the content of a file in pieces."""


async def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class ServerContext:
    """Everything the server is given.

    Args:
        runtime: runs handlers.
        sites: apps and files.
        limits: limits of an app by its id; of everybody for "".
        admin_token: opens the admin API.
        report: takes a failure for the log of an app: app id, request id, failure. Must not raise.
        health: parts of the health report beside the server's own: `database`, `runtime`, `net`. A part with an
            `error` or a `failure` makes the whole `degraded`.
        cache_stats, clear_cache: the response cache; clearing takes an app id or None for all, returns entries removed.
        net_stats: what is in flight and what was counted.
        listening: told the (address, port) pairs the server is bound to, before it serves.
        start, stop: the runtime's life; `stop` is called even when `start` failed.
        path_routing: serve `/_app/NAME/…` to everybody.
        version, mode: for the health report.
        window: seconds a request may take, from its first byte to the end of its handler.
    """

    runtime: Runtime
    sites: Sites
    limits: Callable[[str], Limits]
    admin_token: str = field(repr=False)
    report: Callable[[str, str, InvocationFailure], None] = lambda _app, _request, _failure: None
    health: Callable[[], Mapping[str, Any]] = dict
    cache_stats: Callable[[], Mapping[str, Any]] = dict
    clear_cache: Callable[[str | None], int] = lambda _app: 0
    net_stats: Callable[[], Mapping[str, Any]] = dict
    listening: Callable[[Iterable[tuple[str, int]]], None] = lambda _pairs: None
    start: Callable[[], Awaitable[None]] = _nothing
    stop: Callable[[], Awaitable[None]] = _nothing
    path_routing: bool = False
    version: str = ""
    mode: str = "production"
    window: float = 10.0
