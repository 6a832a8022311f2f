"""A real server on a free port, in a thread, over a scripted runtime and sites held in memory."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from fazt.core.limits import Limits, defaults, with_values
from fazt.functions.model import AppRequest, AppResponse, FailureKind, InvocationFailure
from fazt.server.context import ServerContext, Site
from fazt.server.serve import Bound, Serving
from fazt.server.static import FileEntry

TOKEN = "token-for-tests-0123456789abcdef0123456789"
MIB = 1024 * 1024

HANDLER = b"SECRET SOURCE OF THE HANDLER"
FILES = {
    "index.html": b"<!doctype html><title>hello</title>",
    "about.html": b"about",
    "app.js": b"console.log(1)",
    "docs/index.html": b"docs",
    "assets/app-3f9c2b1a.js": b"hashed",
    "assets/plain.css": b"a{}",
    "data.bin": b"\x00\x01",
    "empty.txt": b"",
    "caf\u00e9 men\u00fc.txt": b"menu",
    "100%.txt": b"percent",
    "api/main.js": HANDLER,
    "api/lib/util.js": HANDLER,
    "private/x": b"PRIVATE",
    "private/index.html": b"PRIVATE",
    "workers/job.js": b"WORKER",
    "manifest.json": b'{"name":"MANIFEST"}',
    ".env": b"DOTFILE",
}


def respond_ok(request: AppRequest) -> AppResponse:
    seen = {
        "method": request.method,
        "path": request.path,
        "query": dict(request.query),
        "headers": dict(request.headers),
        "body": request.body if not isinstance(request.body, bytes) else {"bytes": request.body.hex()},
        "files": {
            name: [{"name": f.name, "type": f.type, "size": f.size, "data": f.data[:64].hex()} for f in files]
            for name, files in request.files.items()
        },
    }
    return AppResponse(200, (("content-type", "application/json"),), json.dumps(seen).encode())


@dataclass
class FakeRuntime:
    """Answers by a script: the last part of the path picks what happens."""

    outcomes: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[str, AppRequest]] = field(default_factory=list)

    async def handle(self, app_id: str, request: AppRequest) -> AppResponse | InvocationFailure:
        self.calls.append((app_id, request))
        outcome = self.outcomes.get(request.path.rpartition("/")[2], respond_ok)
        if callable(outcome):
            outcome = outcome(request)
        if hasattr(outcome, "__await__"):
            outcome = await outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@dataclass
class FakeSites:
    sites: dict[str, Site] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def put(self, name: str, app_id: str, files: dict[str, bytes], *, spa: bool = False) -> None:
        self.sites[name] = self.sites[app_id] = Site(app_id, name, f"d_{app_id}", spa)
        self.files[app_id] = files

    async def site(self, name: str, *, fresh: bool = False) -> Site | None:
        return self.sites.get(name)

    async def entry(self, site: Site, path: str) -> FileEntry | None:
        body = self.files[site.app_id].get(path)
        return None if body is None else FileEntry(path, len(body), hashlib.sha256(body).hexdigest())

    async def content(self, site: Site, entry: FileEntry) -> AsyncIterator[bytes]:
        body = self.files[site.app_id][entry.path]
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    """A server that runs, and everything it was given."""

    bound: Bound
    runtime: FakeRuntime
    sites: FakeSites
    reports: list[tuple[str, str, InvocationFailure]]
    listening: list[tuple[str, int]]

    @property
    def port(self) -> int:
        return self.bound.port

    def ask(
        self,
        method: str,
        path: str,
        *,
        host: str = "hello.localhost",
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", host)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if body is not None and "Content-Length" not in (headers or {}):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **kwargs: Any) -> Reply:
        return self.ask("GET", path, **kwargs)

    def admin(self, method: str, path: str, *, token: str | None = TOKEN, host: str = "localhost") -> Reply:
        return self.ask(method, path, host=host, headers={"Authorization": f"Bearer {token}"} if token else {})

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def raw(self, data: bytes, *, shut: bool = False) -> bytes:
        """Send bytes as they are and return all that comes until the server closes."""
        with self.connect() as connection:
            connection.sendall(data)
            if shut:
                connection.shutdown(socket.SHUT_WR)
            return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    pieces = []
    try:
        while piece := connection.recv(65_536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def small_limits(**values: int) -> Limits:
    base = defaults(total_ram=256 * MIB, available_ram=128 * MIB, cpu_cores=2)
    limits = with_values(base, {"storage.max_upload": 2 * MIB})
    if values:
        limits = replace(limits, capacity=replace(limits.capacity, **values))
    return limits


@contextlib.contextmanager
def run_server(**changes: Any) -> Iterator[Running]:
    runtime, sites = FakeRuntime(), FakeSites()
    sites.put("hello", "fazt_app_hello0000000", dict(FILES))
    sites.put("single", "fazt_app_single000000", {"index.html": b"spa"}, spa=True)
    sites.put("bare", "fazt_app_bare00000000", {"index.html": b"no api"})
    reports: list[tuple[str, str, InvocationFailure]] = []
    listening: list[tuple[str, int]] = []
    limits = changes.pop("limits", small_limits())
    context = ServerContext(
        runtime=runtime,
        sites=sites,
        limits=lambda _app: limits,
        admin_token=TOKEN,
        report=lambda app, request, failure: reports.append((app, request, failure)),
        listening=listening.extend,
        version="9.9.9",
    )
    context = replace(context, **changes)
    up = threading.Event()
    bound: list[Bound] = []

    def ready(where: Bound) -> None:
        assert listening, "own listeners are told before the first request"
        bound.append(where)
        up.set()

    serving = Serving(context, ready=ready)
    faults: list[BaseException] = []

    def body() -> None:
        try:
            serving.run()
        except BaseException as fault:
            faults.append(fault)
        finally:
            up.set()

    thread = threading.Thread(target=body)
    thread.start()
    try:
        assert up.wait(20)
        if faults:
            raise faults[0]
        yield Running(bound[0], runtime, sites, reports, listening)
    finally:
        serving.stop()
        thread.join(20)
    assert not thread.is_alive()
    if faults:
        raise faults[0]


@pytest.fixture(scope="session")
def shared_server() -> Iterator[Running]:
    with run_server() as running:
        yield running


@pytest.fixture
def server(shared_server: Running) -> Running:
    """The shared server, its script and its notes wiped."""
    shared_server.runtime.outcomes.clear()
    shared_server.runtime.calls.clear()
    shared_server.reports.clear()
    return shared_server


@pytest.fixture
def start() -> Callable[..., contextlib.AbstractContextManager[Running]]:
    """Start a server of its own with other settings."""
    return run_server


@pytest.fixture
def limits() -> Callable[..., Limits]:
    return small_limits


@pytest.fixture
def failure() -> Callable[..., InvocationFailure]:
    def make(kind: FailureKind, message: str = "internal text", net: Any = None) -> InvocationFailure:
        return InvocationFailure(kind, message, net)

    return make


@pytest.fixture
def drain() -> Callable[[socket.socket], bytes]:
    return read_all
