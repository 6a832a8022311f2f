"""An origin on loopback that answers each request of a case as the case says, on the clock of the case."""

from __future__ import annotations

import socket
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from socketserver import StreamRequestHandler, ThreadingTCPServer

from tests.cachesuite.case import Ask, Value

Heads = dict[str, str]
_NO_BODY = frozenset({204, 304})


def date(moment: float) -> str:
    """Return an HTTP date."""
    return datetime.fromtimestamp(moment, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")


@dataclass
class Seen:
    """One request as it came, and what was answered."""

    number: int
    method: str
    fields: Heads
    status: int
    sent: list[tuple[str, str]] = field(default_factory=list)


class CaseOrigin(ThreadingTCPServer):
    """Serves cases by the first part of the path; `now` is the clock."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.now = 1_800_000_000.0
        self.cases: dict[str, tuple[Ask, ...]] = {}
        self.seen: defaultdict[str, list[Seen]] = defaultdict(list)
        self.gate = threading.Event()
        """Until it is set the first request of a case is not answered."""
        self.gate.set()
        self.together: threading.Barrier | None = None
        """Where later requests of a case wait for one another."""
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def value(self, name: str, value: Value, token: str) -> str:
        """Return a field's value as it goes over the wire: numbers are dates from now."""
        if isinstance(value, int):
            return date(self.now + value)
        return value.replace("{token}", token)

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(StreamRequestHandler):
    server: CaseOrigin
    disable_nagle_algorithm = True

    def handle(self) -> None:
        while self._one():
            pass

    def _one(self) -> bool:
        line = self.rfile.readline(65536).decode("latin-1").split()
        if len(line) < 3:
            return False
        method, target = line[0], line[1]
        fields: Heads = {}
        while (raw := self.rfile.readline(65536).decode("latin-1").rstrip("\r\n")) != "":
            name, _, value = raw.partition(":")
            lower = name.lower()
            fields[lower] = f"{fields[lower]}, {value.strip()}" if lower in fields else value.strip()
        self.rfile.read(int(fields.get("content-length", "0")))
        token = target.lstrip("/").partition("/")[0].partition("?")[0]
        number = int(fields["req-num"])
        asks = self.server.cases[token]
        ask = asks[number - 1]
        status = _status(ask, asks[number - 2] if number > 1 else None, fields, self.server, token)
        seen = Seen(number, method, fields, status)
        self.server.seen[token].append(seen)
        if len(self.server.seen[token]) == 1:
            self.server.gate.wait(60)
        elif self.server.together is not None:
            self.server.together.wait(60)
        if ask.cut:
            self.connection.shutdown(socket.SHUT_RDWR)
            return False
        self._answer(ask, seen, token)
        return True

    def _answer(self, ask: Ask, seen: Seen, token: str) -> None:
        seen.sent = [(name, self.server.value(name, value, token)) for name, value in ask.fields]
        names = {name.lower() for name, _ in seen.sent}
        body = b"" if seen.status in _NO_BODY else ask.text.encode()
        fields = [
            ("Client-Request-Count", str(seen.number)),
            ("Server-Request-Count", str(len(self.server.seen[token]))),
        ]
        if "content-type" not in names:
            fields.append(("Content-Type", "text/plain"))
        if "content-length" in names:
            body = body[: int(dict(seen.sent)["Content-Length"])] if body else body
        elif seen.status not in _NO_BODY:
            fields.append(("Content-Length", str(len(body))))
        head = [f"HTTP/1.1 {seen.status} Whatever", *(f"{name}: {value}" for name, value in (*fields, *seen.sent))]
        interim = "".join(f"HTTP/1.1 {code} Wait\r\n\r\n" for code in ask.interim)
        data = (interim + "\r\n".join(head) + "\r\n\r\n").encode("latin-1")
        self.wfile.write(data if seen.method == "HEAD" else data + body)


def _status(ask: Ask, before: Ask | None, fields: Heads, origin: CaseOrigin, token: str) -> int:
    """Return the code: 304 to a condition with the validator of the answer before, as far as one is expected."""
    if ask.expect not in ("etag", "modified"):
        if ask.status == 304 and "if-none-match" not in fields:
            return 200
        return ask.status
    assert before is not None
    stored = {name.lower(): value for name, value in before.fields}
    for name, condition in (("etag", "if-none-match"), ("last-modified", "if-modified-since")):
        sent = fields.get(condition)
        if name in stored and sent is not None and (isinstance(stored[name], int) or sent == stored[name]):
            return 304
    return 599
