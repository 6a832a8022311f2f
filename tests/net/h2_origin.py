"""An origin of HTTP/2 on loopback, made with the library h2: what a test's script tells it, on threads."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from tests.net.origin import HOST, authority


@dataclass
class Request:
    """One request as it came."""

    peer: H2Peer
    stream: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    ended: bool = False

    def field(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    @property
    def path(self) -> str:
        return self.field(":path") or ""

    def answer(self, body: bytes = b"ok", *, status: int = 200, headers: Any = (), trailers: Any = None) -> None:
        """Send a whole answer, as the client's window allows."""
        self.head(status, headers, end=not body and trailers is None)
        if body:
            self.peer.queue(self.stream, body, end=trailers is None)
        if trailers is not None:
            self.peer.conn.send_headers(self.stream, trailers, end_stream=True)
        self.peer.flush()

    def head(self, status: int = 200, headers: Any = (), *, end: bool = False) -> None:
        self.peer.conn.send_headers(self.stream, [(":status", str(status)), *headers], end_stream=end)
        self.peer.flush()

    def reset(self, code: int) -> None:
        self.peer.conn.reset_stream(self.stream, code)
        self.peer.flush()


Handler = Callable[[Request], None]


@dataclass
class H2Origin:
    """What was seen."""

    port: int
    accepted: int = 0
    requests: list[Request] = field(default_factory=list)
    resets: list[tuple[int, int]] = field(default_factory=list)
    """(stream, code) of every RST_STREAM."""
    goodbyes: int = 0
    pings: int = 0
    peers: list[H2Peer] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        """Wait until a condition on what was seen holds."""
        with self.changed:
            assert self.changed.wait_for(condition, seconds), "it did not happen"


class H2Peer:
    """One connection as the server sees it. Only its own thread uses it, but for `at_once`."""

    def __init__(self, sock: ssl.SSLSocket, origin: H2Origin, handler: Handler, settings: dict[int, int]) -> None:
        self.sock, self.origin, self.handler = sock, origin, handler
        config = h2.config.H2Configuration(
            client_side=False,
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.conn = h2.connection.H2Connection(config=config)
        self.conn.local_settings = h2.settings.Settings(client=False, initial_values=settings)
        self.waiting: dict[int, tuple[bytes, bool]] = {}
        self.open: dict[int, Request] = {}
        self.deferred: list[Callable[[], None]] = []
        self.grant = True
        """Whether uploads get new window."""

    def flush(self) -> None:
        data = self.conn.data_to_send()
        if data:
            self.sock.sendall(data)

    def raw(self, data: bytes) -> None:
        self.flush()
        self.sock.sendall(data)

    def queue(self, stream: int, body: bytes, *, end: bool = True) -> None:
        held, _ = self.waiting.get(stream, (b"", False))
        self.waiting[stream] = (held + body, end)
        self.pump(stream)

    def pump(self, stream: int) -> None:
        body, end = self.waiting.pop(stream)
        while body:
            room = min(self.conn.local_flow_control_window(stream), self.conn.max_outbound_frame_size)
            if room <= 0:
                self.waiting[stream] = (body, end)
                return
            piece, body = body[:room], body[room:]
            self.conn.send_data(stream, piece, end_stream=end and not body)
            self.flush()

    def run(self) -> None:
        self.conn.initiate_connection()
        self.flush()
        while True:
            data = self.sock.recv(65536)
            if not data:
                return
            for event in self.conn.receive_data(data):
                self.take(event)
                with self.origin.changed:
                    self.origin.changed.notify_all()
            self.flush()

    def take(self, event: Any) -> None:
        origin = self.origin
        if isinstance(event, h2.events.RequestReceived):
            request = Request(self, event.stream_id, [(str(name), str(value)) for name, value in event.headers])
            self.open[event.stream_id] = request
            origin.requests.append(request)
            if request.path.startswith("/early"):
                self.handler(request)
        elif isinstance(event, h2.events.DataReceived):
            if event.stream_id in self.open:
                self.open[event.stream_id].body += event.data
            if self.grant and event.flow_controlled_length:
                self.conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            request = self.open[event.stream_id]
            request.ended = True
            if not request.path.startswith("/early"):
                self.handler(request)
        elif isinstance(event, h2.events.StreamReset):
            self.waiting.pop(event.stream_id, None)
            origin.resets.append((event.stream_id, int(event.error_code)))
        elif isinstance(event, h2.events.WindowUpdated):
            for stream in [event.stream_id] if event.stream_id else list(self.waiting):
                if stream in self.waiting:
                    self.pump(stream)
        elif isinstance(event, h2.events.ConnectionTerminated):
            origin.goodbyes += 1
        elif isinstance(event, h2.events.PingAckReceived):
            origin.pings += 1


def h2_context(*names: str, protocols: tuple[str, ...] = ("h2", "http/1.1")) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(*(names or (HOST,))).configure_cert(context)
    context.set_alpn_protocols(list(protocols))
    return context


@contextlib.contextmanager
def serve_h2(
    handler: Handler,
    *,
    context: ssl.SSLContext | None = None,
    settings: dict[int, int] | None = None,
    raw: Callable[[ssl.SSLSocket], None] | None = None,
    ready: Callable[[H2Peer], None] | None = None,
    rcvbuf: int = 0,
) -> Iterator[H2Origin]:
    """Answer every request with `handler` while the block runs; `raw` speaks for itself instead."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    if rcvbuf:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    origin = H2Origin(listener.getsockname()[1])
    context = context or h2_context()
    threads: list[threading.Thread] = []
    socks: list[socket.socket] = []

    def one(sock: socket.socket) -> None:
        secure: ssl.SSLSocket | None = None
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError):
            secure = context.wrap_socket(sock, server_side=True)
            socks.append(secure)
            if raw is not None:
                raw(secure)
            else:
                peer = H2Peer(secure, origin, handler, settings or {})
                origin.peers.append(peer)
                if ready is not None:
                    ready(peer)
                peer.run()
        with contextlib.suppress(OSError):
            (secure or sock).shutdown(socket.SHUT_RDWR)
        (secure or sock).close()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                sock.settimeout(20)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                origin.accepted += 1
                thread = threading.Thread(target=one, args=(sock,), daemon=True)
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
        listener.close()
        acceptor.join(5)
        for thread in threads:
            thread.join(5)
        for sock in socks:
            sock.close()
