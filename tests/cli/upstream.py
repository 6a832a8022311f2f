"""An HTTPS server on loopback whose paths say what it answers."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import trustme


class Upstream:
    """`/echo` says what it got, `/status/N` answers N, `/to?url=` redirects, `/binary` sends bytes that are no text.

    `/slow` answers when `arrived` was waited for and `go_on` is set.
    """

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        self.requests: list[dict[str, object]] = []
        self.arrived = threading.Event()
        self.go_on = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10

            def do_GET(self) -> None:
                outer.answer(self)

            do_POST = do_PUT = do_DELETE = do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                return

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("api.test", "other.test").configure_cert(context)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port: int = self._server.server_address[1]
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()

    def url(self, path: str = "/echo", host: str = "api.test") -> str:
        """URL of a path."""
        return f"https://{host}:{self.port}{path}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        length = int(handler.headers.get("content-length") or 0)
        body = handler.rfile.read(length)
        seen = {
            "method": handler.command,
            "path": handler.path,
            "headers": {name.lower(): value for name, value in handler.headers.items()},
            "body": body.decode("latin-1"),
        }
        self.requests.append(seen)
        parts = urlsplit(handler.path)
        query = parse_qs(parts.query)
        status, fields, said = 200, [("content-type", "application/json")], json.dumps(seen).encode()
        if parts.path.startswith("/status/"):
            status = int(parts.path.rpartition("/")[2])
        elif parts.path == "/to":
            status, fields, said = 302, [("location", query["url"][0])], b""
        elif parts.path == "/binary":
            fields, said = [("content-type", "application/octet-stream")], b"\xff\x00\xfe"
        elif parts.path == "/slow":
            self.arrived.set()
            self.go_on.wait(20)
        elif parts.path == "/twice":
            fields, said = [("x-many", "1"), ("X-Many", "2")], b"plain"
        elif parts.path == "/steer":
            said = b"\x1b[31mred\x1b[0m\xc2\x9b"
        with contextlib.suppress(OSError):  # the caller may be gone
            self._send(handler, status, fields, said)

    def _send(self, handler: BaseHTTPRequestHandler, status: int, fields: list[tuple[str, str]], said: bytes) -> None:
        handler.send_response(status)
        for name, value in fields:
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(said)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(said)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
