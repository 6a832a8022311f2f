"""Which connections of HTTP/2 take one more call, and which servers speak it."""

from __future__ import annotations

import asyncio
import importlib
import math
import socket
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from fazt.core.call import Phases, Target
from fazt.errors import Reason
from fazt.net.timeouts import late
from fazt.net.tls import TlsSession

if TYPE_CHECKING:
    from fazt.net.aio import Wire
    from fazt.net.connection import Connection
    from fazt.net.http2 import Http2Stream
    from fazt.net.http2_link import Http2Link

_BOTH = ["h2", "http/1.1"]
_REMEMBERED = 1024
"""Servers of which is known that they don't speak HTTP/2."""
_STEPS = (
    "_receive_remote_settings_change",
    "_receive_stream_event",
    "_response_closed",
    "_send_connection_init",
    "_send_request_body",
    "_send_request_headers",
    "_wait_for_outgoing_flow",
)
"""Steps of httpcore2's connection that `net.http2_mux` does in its own way."""
_warned = False


def available() -> bool:
    """Say whether HTTP/2 can be spoken; warn once in a process when it was asked for and cannot."""
    global _warned
    why = _missing()
    if why and not _warned:
        _warned = True
        warnings.warn(f"HTTP/2 is not available: {why}; HTTP/1.1 is used", RuntimeWarning, stacklevel=3)
    return not why


def _missing() -> str:
    try:
        for name in ("h2", "anyio"):
            importlib.import_module(name)
        connection = importlib.import_module("httpcore2").AsyncHTTP2Connection
    except (ImportError, AttributeError):
        return "its libraries are not installed (pip install 'fazt-net[http2]')"
    # they are not httpcore2's public face: a version that has other ones is not guessed at
    return "" if all(hasattr(connection, step) for step in _STEPS) else "this version of httpcore2 is not known"


class Sharing:
    """The connections of one wire on which streams are under way.

    Args:
        wire: opens connections, and keeps those on which nothing is under way.
    """

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.clear()

    def clear(self) -> None:
        """Forget everything: another event loop, or another process."""
        self._links: dict[Target, list[Http2Link]] = {}
        self._opening: dict[Target, asyncio.Future[None]] = {}
        self._plain: OrderedDict[tuple[str, int], None] = OrderedDict()

    async def acquire(
        self, target: Target, *, deadline: float, on_attempt: Callable[[], None], fresh: bool, phases: Phases | None
    ) -> Connection | Http2Stream:
        """As `Wire.acquire`. The first calls to a server wait for one connection, which may do for all of them."""
        if not fresh:
            found = self._find(target)
            if found is None and not self._is_plain(target) and (opening := self._opening.get(target)) is not None:
                await self._await(opening, deadline, phases)
                found = self._find(target)
            if found is not None:
                return found.lease()
        first = None
        if target not in self._opening and not self._is_plain(target):
            first = self._opening[target] = asyncio.get_running_loop().create_future()
        try:
            return await self.wire.acquire(
                target, deadline=deadline, on_attempt=on_attempt, fresh=fresh, phases=phases, own=True
            )
        finally:
            if first is not None:
                if self._opening.get(target) is first:
                    del self._opening[target]
                first.set_result(None)

    async def _await(self, opening: asyncio.Future[None], deadline: float, phases: Phases | None) -> None:
        now = asyncio.get_running_loop().time()
        if phases is not None and phases.connect is not None:
            deadline = min(deadline, now + phases.connect)
        done, _ = await asyncio.wait({opening}, timeout=None if deadline == math.inf else max(0.0, deadline - now))
        if not done:
            raise late(Reason.CONNECT)

    async def open(
        self, target: Target, session: TlsSession, sock: socket.socket, address: str, *, deadline: float
    ) -> Connection | Http2Stream:
        """Make a connected socket secure and begin whatever the server chose."""
        from fazt.net.http2_link import Http2Link

        wire = self.wire
        link = Http2Link(self, target, sock=sock, address=address)
        wire.live.add(link)
        try:
            made = await link.settle(session, deadline=deadline)
        except BaseException:
            link.shut()
            raise
        if session.protocol != "h2":
            self.only_http1(target)
        return made

    def protocols(self, target: Target) -> list[str] | None:
        """Return what to offer the server; None: the usual."""
        return None if self._is_plain(target) else _BOTH

    def only_http1(self, target: Target) -> None:
        """Remember that a server does not speak HTTP/2."""
        self._plain[target.host, target.port] = None
        if len(self._plain) > _REMEMBERED:
            self._plain.popitem(last=False)

    def _is_plain(self, target: Target) -> bool:
        return (target.host, target.port) in self._plain

    def _find(self, target: Target) -> Http2Link | None:
        for link in self._links.get(target, ()):
            if link.has_room() and self.wire.kept(link):
                return link
        return None

    def share(self, link: Http2Link) -> None:
        """Let other calls begin streams on a connection, too (called by the link)."""
        self._links.setdefault(link.target, []).append(link)

    def unshare(self, link: Http2Link) -> None:
        """Let no other calls begin streams on a connection (called by the link)."""
        links = self._links.get(link.target)
        if links is not None and link in links:
            links.remove(link)
            if not links:
                del self._links[link.target]
