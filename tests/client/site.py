"""A small web site on loopback, and the four clients that call it through one set of names."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar

import httpx
import httpx2

import fazt
import fazt.httpx
from fazt.client import httpx2 as for_httpx2
from tests.net.origin import Origin, Peer, serve

T = TypeVar("T")
HOST, OTHER = "origin.test", "other.test"
LOOPBACK = ["127.0.0.1/32"]


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    target: str
    fields: list[tuple[str, str]]
    body: bytes
    connection: int

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name]

    def get(self, name: str) -> str | None:
        found = self.all(name)
        return found[0] if found else None


Fields = Sequence[tuple[str, str]]


@dataclass
class Reply:
    """An answer; `pieces` are sent chunked, one after the other."""

    status: int = 200
    body: bytes = b""
    fields: Fields = ()
    pieces: Iterable[bytes] | None = None
    phrase: str = "OK"
    close: bool = False


Handler = Callable[[Seen], Reply]


@dataclass
class Site:
    """What a running site has seen."""

    origin: Origin
    scheme: str
    requests: list[Seen] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.origin.port

    def url(self, path: str = "/", host: str = HOST) -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    @property
    def accepted(self) -> int:
        """Connections so far."""
        return self.origin.accepted


def text(body: str | bytes = "", **fields: str) -> Reply:
    """A plain answer."""
    raw = body.encode() if isinstance(body, str) else body
    return Reply(200, raw, [("Content-Type", "text/plain; charset=utf-8"), *named(fields)])


def named(fields: dict[str, str]) -> list[tuple[str, str]]:
    return [(name.replace("_", "-"), value) for name, value in fields.items()]


def redirect(to: str, status: int = 302, **fields: str) -> Reply:
    return Reply(status, b"elsewhere", [("Location", to), *named(fields)], phrase="Found")


def echo(seen: Seen) -> Reply:
    """Say what came."""
    found = {"method": seen.method, "target": seen.target, "fields": seen.fields, "body": seen.body.decode("latin-1")}
    return Reply(200, json.dumps(found).encode(), [("Content-Type", "application/json")])


def _read(peer: Peer) -> Seen | None:
    head = peer.head()
    if not head:
        return None
    lines = head.decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ")
    fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:] if line)]
    seen = Seen(method, target, fields, b"", peer.number)
    if seen.get("transfer-encoding") == "chunked":
        while size := int(_line(peer), 16):
            seen.body += _exactly(peer, size)
            _line(peer)
        _line(peer)
    else:
        seen.body = _exactly(peer, int(seen.get("content-length") or 0))
    return seen


def _line(peer: Peer) -> bytes:
    held = b""
    while not held.endswith(b"\r\n"):
        held += _exactly(peer, 1)
    return held[:-2]


def _exactly(peer: Peer, size: int) -> bytes:
    held = b""
    while len(held) < size:
        data = peer.sock.recv(size - len(held))
        if not data:
            raise OSError("gone")
        held += data
    return held


@contextlib.contextmanager
def site(routes: dict[str, Handler | Reply] | None = None, *, tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    """Run a site while the block runs; a path that is not among the routes echoes."""
    known = {} if routes is None else routes

    def script(peer: Peer) -> None:
        while (seen := _read(peer)) is not None:
            where.requests.append(seen)
            handler = known.get(seen.path, echo)
            reply = handler if isinstance(handler, Reply) else handler(seen)
            _answer(peer, reply, head_only=seen.method == "HEAD")
            if reply.close:
                return

    with serve(script, tls=tls) as origin:
        where = Site(origin, "https" if tls is not None else "http")
        yield where


def _answer(peer: Peer, reply: Reply, *, head_only: bool) -> None:
    lines = [f"HTTP/1.1 {reply.status} {reply.phrase}"]
    lines += [f"{name}: {value}" for name, value in reply.fields]
    bodiless = head_only or reply.status in (204, 304)
    if reply.pieces is not None:
        lines.append("Transfer-Encoding: chunked")
    elif reply.status not in (204, 304) and not any(name.lower() == "content-length" for name, _ in reply.fields):
        lines.append(f"Content-Length: {len(reply.body)}")
    if reply.close:
        lines.append("Connection: close")
    peer.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
    if bodiless:
        return
    if reply.pieces is None:
        peer.send(reply.body)
        return
    for piece in reply.pieces:
        peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
    peer.send(b"0\r\n\r\n")


def policy(*sites: Site | int, hosts: Sequence[str] = (HOST, OTHER), **settings: Any) -> fazt.Policy:
    """A policy that grants loopback sites by name."""
    rules = settings.pop("rules", {})
    origins = [("http", one) if isinstance(one, int) else (one.scheme, one.port) for one in sites]
    allow = [
        fazt.Rule(f"{scheme}://{host}:{port}", addresses=LOOPBACK, **rules)
        for scheme, port in origins
        for host in hosts
    ]
    settings.setdefault("resolve", {host: ["127.0.0.1"] for host in hosts})
    return fazt.Policy([*allow, *settings.pop("allow", ())], **settings)


@dataclass(frozen=True)
class Kit:
    """One of the four clients. The names of the library are `kit.lib`; everything that waits is awaited."""

    name: str
    lib: ModuleType
    ours: ModuleType
    asynchronous: bool

    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return asyncio.run(main())

    @contextlib.asynccontextmanager
    async def client(self, **arguments: Any) -> AsyncIterator[Any]:
        """A client of fazt's, closed after the block."""
        if self.asynchronous:
            async with self.ours.AsyncClient(**arguments) as client:
                yield Face(client, asynchronous=True)
        else:
            with self.ours.Client(**arguments) as client:
                yield Face(client, asynchronous=False)

    @contextlib.asynccontextmanager
    async def carried(self, *, transport: dict[str, Any] | None = None, **arguments: Any) -> AsyncIterator[Any]:
        """A client of the library's own over fazt's transport."""
        if self.asynchronous:
            async with self.lib.AsyncClient(
                transport=self.ours.AsyncTransport(**(transport or {})), **arguments
            ) as client:
                yield Face(client, asynchronous=True)
        else:
            with self.lib.Client(transport=self.ours.Transport(**(transport or {})), **arguments) as client:
                yield Face(client, asynchronous=False)

    def hook(self, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A function as this client's event hooks have to be."""
        if not self.asynchronous:
            return call

        async def awaited(value: Any) -> None:
            call(value)

        return awaited

    def content(self, *pieces: bytes) -> Any:
        """A body in pieces, that can be sent once."""
        if not self.asynchronous:
            return iter(pieces)

        async def give() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        return give()


class Face:
    """A client whose methods are awaited, whether they block or not."""

    def __init__(self, client: Any, *, asynchronous: bool) -> None:
        self.real = client
        self._asynchronous = asynchronous

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.real, name)
        if name not in _WAITING or self._asynchronous:
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            return found(*args, **kwargs)

        return call

    @contextlib.asynccontextmanager
    async def stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Stream]:
        if self._asynchronous:
            async with self.real.stream(*args, **kwargs) as response:
                yield Stream(response, asynchronous=True)
        else:
            with self.real.stream(*args, **kwargs) as response:
                yield Stream(response, asynchronous=False)


_WAITING = {"get", "head", "options", "post", "put", "patch", "delete", "request", "send"}


class Stream:
    """A streamed response whose reading is awaited."""

    def __init__(self, response: Any, *, asynchronous: bool) -> None:
        self.real = response
        self._asynchronous = asynchronous

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def read(self) -> bytes:
        found: bytes = await self.real.aread() if self._asynchronous else self.real.read()
        return found

    async def close(self) -> None:
        if self._asynchronous:
            await self.real.aclose()
        else:
            self.real.close()

    async def iterate(self, kind: str, *args: Any) -> AsyncIterator[Any]:
        """`kind` is "raw", "bytes", "text" or "lines"."""
        if self._asynchronous:
            async for piece in getattr(self.real, f"aiter_{kind}")(*args):
                yield piece
        else:
            for piece in getattr(self.real, f"iter_{kind}")(*args):
                yield piece


KITS = [
    Kit("httpx2-sync", httpx2, for_httpx2, asynchronous=False),
    Kit("httpx2-async", httpx2, for_httpx2, asynchronous=True),
    Kit("httpx-sync", httpx, fazt.httpx, asynchronous=False),
    Kit("httpx-async", httpx, fazt.httpx, asynchronous=True),
]
