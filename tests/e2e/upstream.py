"""An upstream on loopback, over TLS or in clear, whose paths say what it does; it keeps what it was sent."""

from __future__ import annotations

import base64
import contextlib
import gzip
import itertools
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import trustme

GZIPPED = gzip.compress(b'{"packed":true}', mtime=0)


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    connection: int = 0

    def values(self, name: str) -> list[str]:
        return [value for given, value in self.headers if given.lower() == name.lower()]

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)


@dataclass
class Answer:
    """What goes back; the length is added."""

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""


class Upstream:
    """`/echo /reflect /status/N /bytes/N /to?url= /chain/N /self /gzip /unpackable /invalid /kept /many /text
    /count`, and misbehaving: `/hold /stall /silent /reset /garbage`.

    Args:
        folder: where the CA's certificate is written.
        names: what the certificate is for; nothing for plain http.
    """

    def __init__(self, folder: Path, *names: str) -> None:
        self.requests: list[Seen] = []
        self.sni: list[str | None] = []
        self.connections = 0
        self.open: set[int] = set()
        """Numbers of the connections that are open."""
        self.held = 0
        self.go = threading.Event()
        """Lets the requests to `/hold` end."""
        self._lock = threading.Lock()
        self._socks: set[socket.socket] = set()
        self._count = itertools.count(1)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.ca = folder / "ca.pem"
        self.scheme = "https" if names else "http"
        if names:
            authority = trustme.CA()
            authority.cert_pem.write_to_path(self.ca)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(*names).configure_cert(context)
            context.sni_callback = lambda _sock, name, _context: self.sni.append(name)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def origin(self, host: str = "api.e2e.test") -> str:
        return f"{self.scheme}://{host}:{self.port}"

    def url(self, path: str = "/echo", host: str = "api.e2e.test") -> str:
        return self.origin(host) + path

    def to(self, url: str, *, status: int = 302, host: str = "api.e2e.test") -> str:
        """URL of a redirect to another."""
        return self.url(f"/to?status={status}&url={quote(url, safe='')}", host)

    def paths(self) -> list[str]:
        return [urlsplit(seen.target).path for seen in self.requests]

    def opened(self, sock: socket.socket) -> int:
        with self._lock:
            self.connections += 1
            self.open.add(self.connections)
            self._socks.add(sock)
            return self.connections

    def closed(self, number: int, sock: socket.socket) -> None:
        with self._lock:
            self.open.discard(number)
            self._socks.discard(sock)

    def hold(self) -> None:
        """Keep a request until `go`."""
        with self._lock:
            self.held += 1
        try:
            self.go.wait(30)
        finally:
            with self._lock:
                self.held -= 1

    def next(self) -> int:
        return next(self._count)

    def close(self) -> None:
        self.go.set()
        self._server.shutdown()
        self._server.server_close()
        with self._lock:
            socks = list(self._socks)
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _credentials(seen: Seen) -> list[str]:
    given = [*seen.values("authorization"), *seen.values("x-api-key"), *seen.query.get("key", [])]
    return [value.removeprefix("Bearer ") for value in given]


def _garbage(seen: Seen) -> bytes:
    """Break HTTP with the credential in the very place that is broken."""
    value = (_credentials(seen) or ["none"])[0].encode("latin-1")
    match urlsplit(seen.target).path.rpartition("/")[2]:
        case "line":
            return b"HTTP/1.1 " + value + b"\r\n\r\n"
        case "field":
            return b"HTTP/1.1 200 OK\r\n" + value + b" : x\r\ncontent-length: 0\r\n\r\n"
        case "length":
            return b"HTTP/1.1 200 OK\r\ncontent-length: " + value + b"\r\n\r\n"
        case "chunk":
            return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + value + b"\r\n"
        case "userinfo":
            return b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\nlocation: https://" + value + b"@api.e2e.test/\r\n\r\n"
        case _:
            return b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\nlocation: /" + value + b"/\r\n\r\n"


def _reflect(seen: Seen) -> Answer:
    """Give back every credential: as it is, in base64 and URL-encoded, in body and fields."""
    given = _credentials(seen)
    said = {
        "as is": given,
        "base64": [base64.b64encode(b"x" * n + value.encode()).decode() for value in given for n in range(3)],
        "url": [quote(value, safe="") for value in given] + [seen.target],
    }
    fields = [("x-reflected", value) for value in [*given, *said["base64"], *said["url"]]]
    status = int(seen.query.get("status", ["200"])[0])
    return Answer(status, [("content-type", "application/json"), *fields], json.dumps(said).encode())


def _to(seen: Seen) -> Answer:
    query = seen.query
    return Answer(int(query.get("status", ["302"])[0]), [("location", query["url"][0])])


def _chain(seen: Seen) -> Answer:
    left = int(urlsplit(seen.target).path.rpartition("/")[2])
    return Answer(302, [("location", f"/chain/{left - 1}")]) if left else Answer(200, [], b"end")


def _echo(seen: Seen) -> Answer:
    said = {
        "method": seen.method,
        "target": seen.target,
        "headers": [[name.lower(), value] for name, value in seen.headers],
        "body": seen.body.decode("latin-1"),
    }
    return Answer(200, [("content-type", "application/json")], json.dumps(said).encode())


_PLAIN: dict[str, Callable[[Seen], Answer]] = {
    "echo": _echo,
    "reflect": _reflect,
    "to": _to,
    "chain": _chain,
    "self": lambda seen: Answer(302, [("location", seen.target)]),
    "status": lambda seen: Answer(int(urlsplit(seen.target).path.rpartition("/")[2]), [], b"as asked"),
    "bytes": lambda seen: Answer(200, [], b"." * int(urlsplit(seen.target).path.rpartition("/")[2])),
    "gzip": lambda _: Answer(200, [("content-encoding", "gzip"), ("content-type", "application/json")], GZIPPED),
    "invalid": lambda _: Answer(200, [("content-type", "application/json")], b'{"a":'),
    "text": lambda _: Answer(200, [("content-type", "text/plain")], "gr\u00fc\u00dfe \u2713".encode() + b"\xff"),
    "unpackable": lambda seen: Answer(200, [("content-encoding", "gzip")], _reflect(seen).body),
    "kept": lambda _: Answer(200, [("cache-control", "max-age=600"), ("vary", "cookie, x-mine")], b"to be kept"),
    "many": lambda _: Answer(200, [("X-Many", "1"), ("x-many", "2"), ("Set-Cookie", "a=1"), ("set-cookie", "b=2")]),
}


def _handler(upstream: Upstream) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            self.number = upstream.opened(self.connection)

        def finish(self) -> None:
            upstream.closed(self.number, self.connection)
            with contextlib.suppress(OSError):
                super().finish()

        def handle(self) -> None:
            with contextlib.suppress(OSError, ssl.SSLError):
                super().handle()

        def log_message(self, *_: object) -> None:
            return

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            seen = Seen(self.command, self.path, tuple(self.headers.items()), body, self.number)
            upstream.requests.append(seen)
            what = urlsplit(self.path).path.split("/")[1]
            match what:
                case "stall" | "silent":
                    if what == "stall":
                        self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun")
                    self.rfile.read(1)  # until the client goes away
                    self.close_connection = True
                    return
                case "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close_connection = True
                    return
                case "garbage":
                    self.wfile.write(_garbage(seen))
                    self.close_connection = True
                    return
                case "hold":
                    upstream.hold()
                    answer = _reflect(seen)
                case "count":
                    answer = Answer(200, [("content-type", "application/json")], b'{"n":%d}' % upstream.next())
                case _:
                    answer = _PLAIN.get(what, lambda _: Answer(404))(seen)
            self.send_response(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_GET  # noqa: N815

    return Handler
