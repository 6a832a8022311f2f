"""A server of one file on loopback, which a test may make behave as badly as it likes, and both ways to download."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fazt.client.download_drivers import arun, run
from fazt.client.download_error import DownloadError
from fazt.client.download_plan import Download, Plan
from fazt.core.policy import SecretMeta
from fazt.core.profiles import client
from fazt.engine import AsyncEngine, Engine
from fazt.net.aio import Wire
from fazt.net.resolve import Resolver
from fazt.net.sync import SyncWire
from fazt.net.sync_resolve import SyncResolver
from fazt.net.tls import TlsConfig
from tests.fakes.calls import LIMITS, FixedPolicies, FixedVault, Ledger, policy, rule, secret

HOST = "files.test"
OTHER = "other.test"
CONTENT = bytes(range(256)) * 1024  # 256 KiB
KEPT = 96 * 1024
"""Bytes that a server sends before it breaks off, in most tests."""


@dataclass
class Answer:
    """Status, fields and body; `cut` bytes of it are sent before the connection is reset, None for all."""

    status: int
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    length: bool = True
    """Whether Content-Length is sent."""
    chunked: bool = False


Request = dict[str, str]
"""Lower-case header fields of a request, and its `:path`."""


@dataclass
class Site:
    """One file, and how it is served: `answers` first, one for each request; then as it should be."""

    content: bytes = CONTENT
    etag: str | None = '"v1"'
    modified: str | None = None
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    """For each request in turn the bytes of body after which the connection breaks."""
    change: Callable[[Answer, Request], Answer] = lambda answer, _: answer
    answers: list[Answer] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    port: int = 0
    arrived: threading.Event = field(default_factory=threading.Event)
    """Set when a body is held back."""
    hold: int | None = None
    """Bytes of body after which the server waits for `go`."""
    go: threading.Event = field(default_factory=threading.Event)

    scheme: str = "http"

    def url(self, path: str = "/data/file.bin", host: str = HOST) -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    def answer(self, request: Request) -> Answer:
        if self.answers:
            return self.answers.pop(0)
        made = self.change(self.file(request), request)
        if self.cuts:
            made.cut = self.cuts.pop(0)
        return made

    def file(self, request: Request) -> Answer:
        """Answer as RFC 9110 says."""
        fields = {"Date": formatdate(usegmt=True)}
        if self.etag is not None:
            fields["ETag"] = self.etag
        if self.modified is not None:
            fields["Last-Modified"] = self.modified
        wanted, condition = request.get("range"), request.get("if-range")
        if self.ranges and wanted is not None and condition in (None, self.etag, self.modified):
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            size = len(self.content)
            if first >= size:
                return Answer(416, {**fields, "Content-Range": f"bytes */{size}"})
            fields["Content-Range"] = f"bytes {first}-{size - 1}/{size}"
            return Answer(206, fields, self.content[first:])
        return Answer(200, fields, self.content)

    @property
    def asked(self) -> list[str | None]:
        """The `Range` of every request."""
        return [request.get("range") for request in self.requests]


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def do_GET(self) -> None:
            request = {name.lower(): value for name, value in self.headers.items()}
            request[":path"] = self.path
            site.requests.append(request)
            answer = site.answer(request)
            with contextlib.suppress(OSError):  # the caller may be gone
                self.send(answer)

        def send(self, answer: Answer) -> None:
            self.send_response_only(answer.status)
            for name, value in answer.fields.items():
                self.send_header(name, value)
            if answer.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            elif answer.length and answer.status != 304:
                self.send_header("Content-Length", str(len(answer.body)))
            else:
                self.close_connection = True
            self.end_headers()
            body = answer.body if answer.cut is None else answer.body[: answer.cut]
            if site.hold is not None and len(body) > site.hold:
                self.body(body[: site.hold], answer)
                site.arrived.set()
                site.go.wait(30)
                body = body[site.hold :]
            self.body(body, answer)
            if answer.cut is not None:
                self.reset()
            elif answer.chunked:
                self.wfile.write(b"0\r\n\r\n")

        def body(self, data: bytes, answer: Answer) -> None:
            if not answer.chunked:
                self.wfile.write(data)
                return
            for start in range(0, len(data), 10_000):
                piece = data[start : start + 10_000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

        def reset(self) -> None:
            """Close in the middle. What was sent arrives: only the end is missing."""
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)

        def log_message(self, *_: object) -> None:
            return

    return Handler


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        return


@contextlib.contextmanager
def serving(site: Site, *, tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    """Serve a site while the block runs."""
    server = Server(("127.0.0.1", 0), _handler(site))
    if tls is not None:
        site.scheme = "https"
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    site.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.go.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


KINDS = ["threads", "loop"]


class Fetch:
    """Downloads with one of the engines; every download has an engine of its own."""

    def __init__(
        self, kind: str, port: int, *, secrets: dict[str, str] | None = None, roots: Path | None = None
    ) -> None:
        self.kind = kind
        self.tls = TlsConfig(() if roots is None else (roots,))
        scheme = "http" if roots is None else "https"
        self.ledger = Ledger()
        self.secrets = secrets or {}
        metas: list[SecretMeta] = [secret(name, host=HOST) for name in self.secrets]
        rules = [
            rule(f"{scheme}://{host}:{port}", app=app, addresses=("127.0.0.0/8",))
            for host in (HOST, OTHER)
            for app in ("", metas[0].scope if metas else "")
        ]
        self.app = metas[0].scope if metas else ""
        self.policy = policy(*rules, secrets=metas)
        self.profile = client(LIMITS)

    def _common(self) -> dict[str, Any]:
        return {"policies": FixedPolicies(self.policy), "vault": FixedVault(self.secrets), "sink": self.ledger}

    def __call__(self, url: str, dest: str | os.PathLike[str], **wishes: Any) -> Download:
        names = {HOST: ("127.0.0.1",), OTHER: ("127.0.0.1",)}
        plan = Plan(url, dest, **wishes)
        if self.kind == "threads":
            engine = Engine(wire=SyncWire(tls=self.tls, resolver=SyncResolver(names)), **self._common())
            try:
                return run(engine, plan, profile=self.profile, app=self.app)
            finally:
                engine.close()

        async def main() -> Download:
            aengine = AsyncEngine(wire=Wire(tls=self.tls, resolver=Resolver(names)), **self._common())
            try:
                return await arun(aengine, plan, profile=self.profile, app=self.app)
            finally:
                await aengine.close()

        return asyncio.run(main())

    def failing(self, url: str, dest: str | os.PathLike[str], **wishes: Any) -> DownloadError:
        """Download something that cannot be, and return the error, which the last record tells too."""
        try:
            self(url, dest, **wishes)
        except DownloadError as error:
            last = self.ledger.rows[-1]
            assert error.call_id == last.call_id
            assert (error.code, error.reason) == (last.code, last.reason)
            return error
        raise AssertionError("it did not fail")


def names(folder: Path) -> list[str]:
    """The names in a directory."""
    return sorted(os.listdir(folder))
