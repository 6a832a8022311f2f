"""An origin on loopback that does what a test's script tells it, byte for byte, on blocking sockets in threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import ssl
import struct
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import trustme

from fazt.core.call import Phases, ResponseHead, Target, Upload
from fazt.net.aio import Wire
from fazt.net.http1 import encode_head
from fazt.net.pool import PoolLimits
from fazt.net.resolve import Resolver
from fazt.net.sync import SyncConnection, SyncWire
from fazt.net.sync_resolve import SyncResolver

T = TypeVar("T")
_blocking: ContextVar[bool] = ContextVar("blocking", default=False)
HOST = "api.example.com"
GRANT = ("127.0.0.0/8", "::1/128")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LOOPS = ["asyncio", "uvloop"]
WIRES = [*LOOPS, "sync"]
"""The asynchronous wire on both event loops, and the synchronous one, each call of which runs in a thread."""


def run(loop: str, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a test's coroutine on one of the two event loops, or with `wire` giving the synchronous one."""
    factory: Any = asyncio.new_event_loop
    token = _blocking.set(loop == "sync")
    try:
        return _run(loop, main, factory)
    finally:
        _blocking.reset(token)


def _run(loop: str, main: Callable[[], Coroutine[Any, Any, T]], factory: Any) -> T:
    if loop == "uvloop":
        import pytest

        factory = pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


class Peer:
    """One accepted connection, as the script sees it."""

    def __init__(self, sock: socket.socket, number: int, origin: Origin) -> None:
        self.sock, self.number, self.origin = sock, number, origin
        self._held = b""

    def request(self) -> bytes:
        """Read one request: its head, and its body by Content-Length; empty when the client has gone."""
        while b"\r\n\r\n" not in self._held:
            data = self.sock.recv(65536)
            if not data:
                return b""
            self._held += data
        head, _, rest = self._held.partition(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n")[1:]:
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        while len(rest) < length:
            data = self.sock.recv(65536)
            if not data:
                return b""
            rest += data
        self._held = rest[length:]
        request = head + b"\r\n\r\n" + rest[:length]
        self.origin.requests.append(request)
        return request

    def head(self) -> bytes:
        """Read up to the end of the head and leave the body unread in the kernel."""
        held = b""
        while not held.endswith(b"\r\n\r\n"):
            data = self.sock.recv(1)
            if not data:
                return b""
            held += data
        return held

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.sock.sendall(part)

    def flood(self, part: bytes, times: int) -> None:
        """Send for as long as the client listens."""
        with contextlib.suppress(OSError):
            for _ in range(times):
                self.sock.sendall(part)
                self.origin.sent += len(part)

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def wait_for_end(self) -> None:
        """Read until the client has gone."""
        with contextlib.suppress(OSError):
            while self.sock.recv(65536):
                pass
        self.origin.ended.release()


Script = Callable[[Peer], None]


@dataclass
class Origin:
    """A listening socket and what was seen on it."""

    port: int
    requests: list[bytes] = field(default_factory=list)
    accepted: int = 0
    sent: int = 0
    ended: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go: threading.Event = field(default_factory=threading.Event)
    """Set by a test to let a script go on."""


@contextlib.contextmanager
def serve(
    script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0, rcvbuf: int = 0
) -> Iterator[Origin]:
    """Run `script` for every connection while the block runs."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if rcvbuf:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    listener.bind((host, port))
    listener.listen(64)
    origin = Origin(listener.getsockname()[1])
    threads: list[threading.Thread] = []
    socks: list[socket.socket] = []

    def one(sock: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            if tls is not None:
                sock = tls.wrap_socket(sock, server_side=True)
                socks.append(sock)
            script(Peer(sock, number, origin))
        with contextlib.suppress(OSError):
            sock.close()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                sock.settimeout(20)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a reset discards what Nagle holds back
                origin.accepted += 1
                socks.append(sock)
                thread = threading.Thread(target=one, args=(sock, origin.accepted), daemon=True)
                threads.append(thread)
                thread.start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield origin
    finally:
        origin.go.set()
        for sock in [listener, *socks]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            if sock is listener:
                sock.close()
        acceptor.join(5)
        for thread in threads:
            thread.join(5)
        for sock in socks:
            sock.close()


def answering(*answers: bytes) -> Script:
    """Answer each request with the next of these, the last one for ever."""

    def script(peer: Peer) -> None:
        queue = list(answers)
        while peer.request():
            peer.send(queue.pop(0) if len(queue) > 1 else queue[0])

    return script


def once(answer: bytes) -> Script:
    """Answer one request, then close."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer)

    return script


def target(port: int, *, scheme: str = "http", host: str = HOST, app: str = "app", **changes: Any) -> Target:
    return Target(scheme, host, port, app, changes.pop("tls", "system"), changes.pop("grant", GRANT))


def wire(*addresses: str, host: str = HOST, **options: Any) -> Any:
    """A wire that finds `host` on loopback; `lookup` and `static` are for its resolver."""
    static = options.pop("static", {host: addresses or ("127.0.0.1",)} if "lookup" not in options else {})
    found = {name: options.pop(name) for name in ("lookup", "ttl") if name in options}
    options.setdefault("limits", PoolLimits(total=20, per_key=2, expiry=10.0))
    if _blocking.get():
        return Threaded(SyncWire(resolver=SyncResolver(static, **found), **options))
    return Wire(resolver=Resolver(static, **found), **options)


class Threaded:
    """The synchronous wire as the scenarios use it: what blocks runs in a thread."""

    def __init__(self, blocking: SyncWire) -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(64))  # many may wait at once
        self.__dict__["blocking"] = blocking
        self.__dict__["handed"] = weakref.WeakKeyDictionary()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.blocking, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.blocking, name, value)

    async def acquire(self, *args: Any, **options: Any) -> Any:
        connection = await asyncio.to_thread(self.blocking.acquire, *args, **options)
        return self.handed.setdefault(connection, ThreadedConnection(connection))

    async def close(self) -> None:
        self.blocking.close()


class ThreadedConnection:
    """One of its connections."""

    def __init__(self, blocking: SyncConnection) -> None:
        self.blocking = blocking

    def __getattr__(self, name: str) -> Any:
        return getattr(self.blocking, name)

    async def send(self, *args: Any, **options: Any) -> ResponseHead:
        return await asyncio.to_thread(self.blocking.send, *args, **options)

    async def read(self, **options: Any) -> bytes:
        return await asyncio.to_thread(self.blocking.read, **options)

    async def read_some(self, **options: Any) -> bytes:
        return await asyncio.to_thread(self.blocking.read_some, **options)


def soon(seconds: float = 10.0) -> float:
    return asyncio.get_running_loop().time() + seconds


def nothing() -> None:
    """Take note of nothing."""


async def send(
    connection: Any,
    method: str = "GET",
    *,
    body: bytes | None = None,
    upload: Upload | None = None,
    deadline: float | None = None,
    phases: Phases | None = None,
) -> ResponseHead:
    fields = (("Accept-Encoding", "identity"),)
    answer: ResponseHead = await connection.send(
        encode_head(method, "/", authority=HOST, fields=fields, body=body, upload=upload),
        body,
        deadline=soon() if deadline is None else deadline,
        on_sent=nothing,
        method=method,
        upload=upload,
        phases=phases,
    )
    return answer


@dataclass
class Got:
    """One exchange."""

    head: ResponseHead
    body: bytes
    connection: Any


async def call(
    wire: Any,
    where: Target,
    method: str = "GET",
    *,
    body: bytes | None = None,
    cap: int = 1 << 20,
    deadline: float | None = None,
) -> Got:
    """Make one whole call and give its connection back."""
    until = soon() if deadline is None else deadline
    connection = await wire.acquire(where, deadline=until, on_attempt=nothing)
    try:
        head = await send(connection, method, body=body, deadline=until)
        return Got(head, await connection.read(cap=cap, deadline=until), connection)
    finally:
        connection.release()


def sockets() -> int:
    """Count the sockets of this process."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


def wait_for_kernel(connection: Any) -> None:
    """Stop the event loop until the kernel holds something of this connection that the loop has not seen."""
    assert select.select([connection._sock], [], [], 20)[0]


async def until(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    """Let the loop turn until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.001)


@lru_cache(maxsize=1)
def authority() -> trustme.CA:
    return trustme.CA()


@lru_cache(maxsize=8)
def server_context(*names: str, ca: trustme.CA | None = None, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A server's context with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (ca or authority()).issue_cert(*(names or (HOST,))).configure_cert(context)
    if newest is not None:
        context.maximum_version = newest
    return context
