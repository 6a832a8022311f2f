"""Rows of the response cache: a hit in memory and in SQLite over what the client itself costs, beside hishel."""

from __future__ import annotations

import contextlib
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
from hishel import SqliteStorage
from hishel.httpx2 import CacheClient

import fazt
from bench.measure import Row, paired
from bench.origin import BODY

PATH = "/v1/x?y=1"
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: max-age=86400\r\n"
    b'ETag: "1"\r\nContent-Length: %d\r\n\r\n' % len(BODY)
)


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while self.rfile.readline().strip():
            while self.rfile.readline().strip():
                pass
            self.wfile.write(ANSWER + BODY)


@contextlib.contextmanager
def origin() -> Iterator[int]:
    """Run an origin whose answers may be kept; it is asked once by each client."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


class _Ready:
    """In place of an engine: has the answer before it is asked, so that what is left is the client itself."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.cache = None

    def call(self, _request: Any, **_options: Any) -> Any:
        # fields of its own, as every response has them: what a client remembers of a tuple it has seen is not measured
        return replace(self.answer, headers=tuple((name, value) for name, value in self.answer.headers))


def repeated(client: Any, url: str) -> Callable[[int], None]:
    """Return what makes a call n times and looks at each body."""

    def run(n: int) -> None:
        for _ in range(n):
            assert client.get(url).content == BODY

    return run


def hits() -> list[Row]:
    """Fresh hits of `fazt.Client.get`, less the same call with an engine that has its answer ready."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = stack.enter_context(origin())
        url, direct = f"http://origin.test:{port}{PATH}", f"http://127.0.0.1:{port}{PATH}"
        rule = fazt.Rule(f"http://origin.test:{port}", addresses=["127.0.0.1/32"])
        policy = fazt.Policy(allow=[rule], resolve={"origin.test": ["127.0.0.1"]})
        memory = stack.enter_context(fazt.Client(policy=policy, cache=True))
        disk = stack.enter_context(fazt.Client(policy=policy, cache=fazt.Cache(directory / "fazt")))
        bare = stack.enter_context(fazt.Client(policy=policy, cache=True))
        hishel_disk = stack.enter_context(
            CacheClient(storage=SqliteStorage(database_path=directory / "hishel.db"), rfc=True, trust_env=False)
        )
        made = httpx2.MockTransport(lambda _request: httpx2.Response(200, content=BODY))
        bare_httpx2 = stack.enter_context(httpx2.Client(transport=made, trust_env=False))
        for client in (memory, disk, bare):
            client.get(url)
            assert client.get(url).extensions["fazt"]["cache"] == "hit"
        for _ in range(2):
            answered = hishel_disk.get(direct)
        assert answered.extensions["caching"]["from_cache"]
        backend = bare._intake.backend
        engine = backend.engine
        call, _ = bare._intake.take(bare.build_request("GET", url), stream=False)
        backend.__dict__["engine"] = _Ready(engine.call(call, profile=backend.profile))
        runs = [repeated(client, url) for client in (memory, disk, bare)]
        runs += [repeated(client, direct) for client in (hishel_disk, bare_httpx2)]
        in_memory, on_disk, alone, theirs, theirs_alone = paired(runs, 200, rounds=31)
        backend.__dict__["engine"] = engine
    theirs -= theirs_alone
    return [
        Row("cache hit in memory, over the client", in_memory - alone, "µs", "≤ 40 µs", in_memory - alone <= 40),
        Row(
            "cache hit in SQLite, over the client",
            on_disk - alone,
            "µs",
            "≤ 150 µs",
            on_disk - alone <= 150,
            "hishel, SQLite",
            theirs,
        ),
    ]


__all__ = ["hits"]
