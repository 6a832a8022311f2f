"""The ASGI application: one canonical path, one decision who answers, one place where faults become answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fazt.errors import OperatorError
from fazt.functions.invocation import largest_request
from fazt.functions.model import AppRequest, AppResponse, FailureKind, InvocationFailure
from fazt.server.admin import AdminApi
from fazt.server.answers import Answer, RefusalError, enveloped, failed, overloaded, plain, public
from fazt.server.bodies import GoneError, Parsed, UploadSpace, parse_body, query_values, read_body
from fazt.server.context import StaleSiteError
from fazt.server.hosting import ToAdmin, ToApp, host_of, names_app, not_found, peer_of, route
from fazt.server.paths import SitePath, canonical
from fazt.server.static import find

if TYPE_CHECKING:
    from fazt.core.limits import Limits
    from fazt.server.context import ServerContext, Site

_log = logging.getLogger("fazt.server")
_LEAST_ROOM = 64 * 1024 * 1024

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Front:
    """Answers every HTTP request; an ASGI application.

    The server that runs it must hand through the peer's address as it is (uvicorn: `proxy_headers=False`).

    Args:
        context: what to serve. Where the server speaks ASGI's lifespan protocol, that starts and stops it.
    """

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._admin = AdminApi(context)
        self._busy = 0
        self._space = UploadSpace(_room_for_bodies(context.limits("")))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            return
        reply = _Reply(send, scope["method"])
        admin = False
        try:
            host = host_of(scope["headers"])
            admin = not names_app(host)
            where = self._route(host, scope)
            admin = isinstance(where, ToAdmin)
            match where:
                case ToAdmin(path):
                    fields = _fields(scope)
                    query = query_values(scope["query_string"])
                    await reply.whole(self._admin.answer(scope["method"], path, fields=fields, query=query))
                case ToApp():
                    await self._app(where, scope, receive, reply)
        except RefusalError as refusal:
            await reply.whole(enveloped(refusal) if admin else public(refusal, reply.id))
        except GoneError:
            return
        except StaleSiteError:
            await reply.whole(public(overloaded(), reply.id))
        except Exception:
            # The edge: whatever went wrong, the public learns nothing of it; the operator finds it under the id.
            _log.exception("request %s failed", reply.id)
            if reply.started:
                raise  # the server cuts the connection: better than a body that looks whole
            fault = RefusalError(500, "INTERNAL", "an internal error")
            await reply.whole(enveloped(fault) if admin else public(fault, reply.id))

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._context.start()
        except OperatorError as fault:
            await send({"type": "lifespan.startup.failed", "message": fault.message})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._context.stop()
        await send({"type": "lifespan.shutdown.complete"})

    def _route(self, host: str, scope: Scope) -> ToApp | ToAdmin:
        raw = scope.get("raw_path") or quote(scope["path"]).encode()
        peer = peer_of(scope.get("client"), scope["headers"])
        if scope["method"] in ("TRACE", "CONNECT"):
            raise RefusalError(405, "METHOD_NOT_ALLOWED", "not with this method", close=True)
        return route(host, canonical(raw), peer=peer, path_routing=self._context.path_routing)

    async def _app(self, where: ToApp, scope: Scope, receive: Receive, reply: _Reply) -> None:
        with self._place():  # where nobody may begin, nothing is looked up either
            pass
        try:
            await self._site(where, scope, receive, reply, fresh=False)
        except StaleSiteError:
            await self._site(where, scope, receive, reply, fresh=True)

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """Hold one of `capacity.max_requests` places; not while a client is waited for, or slow ones would hold all."""
        if self._busy >= self._context.limits("").capacity.max_requests:
            raise overloaded(close=True)
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    async def _site(self, where: ToApp, scope: Scope, receive: Receive, reply: _Reply, *, fresh: bool) -> None:
        site = await self._context.sites.site(where.name, fresh=fresh)
        if site is None:
            raise not_found()
        if where.path.is_api:
            await reply.whole(await self._invoke(site, where, scope, receive, reply.id))
        else:
            await self._file(site, where, scope, reply)

    async def _invoke(self, site: Site, where: ToApp, scope: Scope, receive: Receive, request_id: str) -> Answer:
        context = self._context
        if site.deployment is None or await context.sites.entry(site, "api/main.js") is None:
            return plain(404, "not found")
        fields = _fields(scope)
        limits = context.limits(site.app_id)
        reading = True
        outcome: AppResponse | InvocationFailure
        try:
            async with asyncio.timeout(context.window):
                with self._space.share() as take:
                    body = await read_body(
                        receive,
                        method=scope["method"],
                        fields=fields,
                        max_upload=min(limits.storage.max_upload, largest_request(limits.runtime.max_memory)),
                        take=take,
                    )
                    reading = False
                    with self._place():
                        parsed = await parse_body(body, fields.get("content-type"))
                        del body  # the parts are copies
                        request = _request(scope, where.path, fields, parsed, request_id)
                        outcome = await context.runtime.handle(site.app_id, request)
        except TimeoutError:
            if reading:
                raise RefusalError(408, "BODY_TIMEOUT", "the request body took too long", close=True) from None
            outcome = InvocationFailure(FailureKind.TIMEOUT, f"no answer within the window of {context.window:g} s")
        if isinstance(outcome, AppResponse):
            return Answer(outcome.status, _sendable(outcome.headers, shared=bool(where.prefix)), outcome.body)
        if outcome.kind is not FailureKind.NO_HANDLER:
            context.report(site.app_id, request_id, outcome)
        return failed(outcome, request_id)

    async def _file(self, site: Site, where: ToApp, scope: Scope, reply: _Reply) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            raise RefusalError(
                405, "METHOD_NOT_ALLOWED", "not with this method", headers=(("allow", "GET, HEAD"),), close=True
            )
        sites = self._context.sites
        with self._place():
            found = await find(
                where.path,
                lambda path: sites.entry(site, path),
                spa=site.spa,
                prefix=where.prefix,
                query=scope["query_string"],
                if_none_match=_fields(scope).get("if-none-match"),
            )
        if found.fresh:
            await reply.whole(Answer(304, found.headers))
        elif scope["method"] == "HEAD":
            await reply.head(200, found.headers, length=found.entry.size)
        else:
            await reply.stream(200, found.headers, sites.content(site, found.entry), length=found.entry.size)


def _room_for_bodies(limits: Limits) -> int:
    # a body is held several times on its way into a worker: a sixteenth may become a third of the machine
    return min(4 * limits.storage.max_upload, max(limits.hardware.total_ram // 16, _LEAST_ROOM))


def _request(scope: Scope, path: SitePath, fields: Mapping[str, str], parsed: Parsed, request_id: str) -> AppRequest:
    return AppRequest(
        method=scope["method"],
        path=path.text + ("/" if path.slash else ""),
        query=query_values(scope["query_string"]),
        headers=fields,
        body=parsed.body,
        files=parsed.files,
        id=request_id,
    )


def _fields(scope: Scope) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    return found


_OWN_ORIGIN = frozenset({"service-worker-allowed", "clear-site-data"})


def _sendable(headers: tuple[tuple[str, str], ...], *, shared: bool) -> tuple[tuple[str, str], ...]:
    if shared:  # under /_app/ all apps and the admin API have one origin, which none of them may speak for
        headers = tuple(field for field in headers if field[0] not in _OWN_ORIGIN)
    if any(name == "x-content-type-options" for name, _ in headers):
        return headers
    return (*headers, ("x-content-type-options", "nosniff"))


class _Reply:
    """Sends one response, with its length and the id of its request."""

    def __init__(self, send: Send, method: str) -> None:
        self.id = f"r_{os.urandom(10).hex()}"
        self.started = False
        self._send = send
        self._bodiless = method == "HEAD"

    async def head(self, status: int, headers: tuple[tuple[str, str], ...], *, length: int | None) -> None:
        await self._begin(status, headers, length=length)
        await self._send({"type": "http.response.body", "body": b""})

    async def whole(self, answer: Answer) -> None:
        headers = answer.headers + ((("connection", "close"),) if answer.close else ())
        bare = answer.status in (204, 304)  # RFC 9110 section 8.6: no Content-Length of 0 where there is no content
        await self._begin(answer.status, headers, length=None if bare else len(answer.body))
        await self._send({"type": "http.response.body", "body": b"" if self._bodiless or bare else answer.body})

    async def stream(
        self, status: int, headers: tuple[tuple[str, str], ...], pieces: AsyncIterator[bytes], *, length: int
    ) -> None:
        first = await anext(pieces, b"")  # a store that fails does so before the status is sent
        await self._begin(status, headers, length=length)
        await self._send({"type": "http.response.body", "body": first, "more_body": True})
        async for piece in pieces:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})

    async def _begin(self, status: int, headers: tuple[tuple[str, str], ...], *, length: int | None) -> None:
        fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        if length is not None:
            fields.append((b"content-length", str(length).encode()))
        fields.append((b"x-request-id", self.id.encode()))
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": fields})
