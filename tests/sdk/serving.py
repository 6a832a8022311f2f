"""Real web applications on loopback, in clear or over TLS, and the policy that grants them by name."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
import uvicorn

import fazt
from tests.telemetry.sinks import Collected

HOST, OTHER = "api.sdk.test", "other.sdk.test"
LOOPBACK = ["127.0.0.1/32"]


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the tests, and a server's context for both names."""

    ca: Path
    context: ssl.SSLContext
    cert: Path
    """Certificate and key of the server, for servers that want a file."""


def authority(folder: Path) -> Authority:
    """Make an authority whose certificate is written below `folder`."""
    made = trustme.CA()
    ca, cert = folder / "ca.pem", folder / "server.pem"
    made.cert_pem.write_to_path(ca)
    issued = made.issue_cert(HOST, OTHER)
    issued.private_key_and_cert_chain_pem.write_to_path(cert)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    return Authority(ca, context, cert)


@dataclass(frozen=True)
class Served:
    """Where an application is served."""

    scheme: str
    port: int
    ca: Path | None

    def origin(self, host: str = HOST) -> str:
        return f"{self.scheme}://{host}:{self.port}"

    def url(self, path: str = "/", host: str = HOST) -> str:
        return self.origin(host) + path

    def policy(self, *hosts: str, **settings: Any) -> fazt.Policy:
        """Grant it under these names (the usual one by default); all of them resolve to loopback."""
        rules = settings.pop("rules", {})
        allow = [fazt.Rule(self.origin(host), addresses=LOOPBACK, **rules) for host in hosts or (HOST,)]
        settings.setdefault("resolve", {host: ["127.0.0.1"] for host in (HOST, OTHER)})
        return fazt.Policy([*allow, *settings.pop("allow", ())], ca_file=self.ca, **settings)


@contextlib.contextmanager
def served(application: Any, tls: Authority | None) -> Iterator[Served]:
    """Serve an ASGI application while the block runs."""
    files: dict[str, Any] = {} if tls is None else {"ssl_certfile": tls.cert}
    config = uvicorn.Config(
        application, log_config=None, access_log=False, lifespan="auto", timeout_graceful_shutdown=1, ws="none", **files
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield Served("http" if tls is None else "https", listener.getsockname()[1], None if tls is None else tls.ca)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the server does not end"


@contextlib.contextmanager
def served_wsgi(application: Any, tls: Authority | None) -> Iterator[Served]:
    """Serve a WSGI application while the block runs, a thread for each connection."""
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - werkzeug's name
            return

        def setup(self) -> None:
            super().setup()
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    server = make_server(
        "127.0.0.1",
        0,
        application,
        threaded=True,
        request_handler=Quiet,
        ssl_context=None if tls is None else tls.context,
    )
    server.daemon_threads = True  # type: ignore[attr-defined]
    server.block_on_close = False  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Served("http" if tls is None else "https", server.server_port, None if tls is None else tls.ca)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(20)


class Calls:
    """What a client's calls left: one summary each. Read it after the client was closed."""

    def __init__(self) -> None:
        self.sink = Collected()

    @property
    def all(self) -> list[tuple[str | None, int | None]]:
        """Reason, or status, of each call."""
        return [(event.reason or None, event.status_code) for event in self.sink.summaries]

    @property
    def reasons(self) -> list[str]:
        return [event.reason or "" for event in self.sink.summaries]

    @property
    def trips(self) -> int:
        """How often the network was reached for."""
        return len(self.sink.attempts)
