"""Rows of the Python door: the clients and the lean calls beside their peers, idle origins, `get_client()`."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import hishel
import httpx
import httpx2
import ssrfguard
import ssrfguard.httpx
import urllib3
from hishel.httpx2 import CacheClient
from pyreqwest.client import SyncClientBuilder

import fazt
import fazt.httpx
from bench.calls import TASKS, run_loop, spread
from bench.measure import Row, paired, paired_async
from bench.origin import BODY, origin
from fazt import telemetry
from fazt.core.call import ResponseHead, Target
from fazt.core.record import CallRecord
from fazt.stores.sqlite.events import opener

PATH = "/v1/x?y=1"


def granted(port: int) -> fazt.Policy:
    """Return a policy that grants the bench's origin and nothing else."""
    rule = fazt.Rule(f"http://origin.test:{port}", addresses=["127.0.0.1/32"])
    return fazt.Policy(allow=[rule], resolve={"origin.test": ["127.0.0.1"]})


def repeated(call: Callable[[], bytes]) -> Callable[[int], None]:
    """Return what makes a call n times and looks at each body."""

    def run(n: int) -> None:
        for _ in range(n):
            assert call() == BODY

    return run


def sync() -> list[Row]:
    """Blocking calls, one keep-alive connection: fazt with its policy on, peers without any guard."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(origin())
        policy = granted(port)
        ours, theirs = f"http://origin.test:{port}{PATH}", f"http://127.0.0.1:{port}{PATH}"
        mine = stack.enter_context(fazt.Client(policy=policy))
        mine_httpx = stack.enter_context(fazt.httpx.Client(policy=policy))
        bare = stack.enter_context(httpx2.Client(trust_env=False))
        bare_httpx = stack.enter_context(httpx.Client(trust_env=False))
        pool = urllib3.PoolManager()
        reqwest = stack.enter_context(SyncClientBuilder().build())
        runs = [
            repeated(lambda: mine.get(ours).content),
            repeated(lambda: bare.get(theirs).content),
            repeated(lambda: mine_httpx.get(ours).content),
            repeated(lambda: bare_httpx.get(theirs).content),
            repeated(lambda: fazt.fetch(ours, policy=policy).content),
            repeated(lambda: pool.request("GET", theirs).data),
            repeated(lambda: bytes(reqwest.get(theirs).build().send().bytes())),
        ]
        client, httpx2_, second, httpx_, lean, urllib3_, reqwest_ = paired(runs, 300, rounds=31)
        fazt.close_client()
    return [
        Row("fazt.Client.get, policy on", client, "µs", "≤ 0.6x", client <= 0.6 * httpx2_, "httpx2.Client", httpx2_),
        Row("fazt.httpx.Client.get, policy on", second, "µs", "shown", True, "httpx.Client", httpx_),
        Row("fazt.fetch, policy on", lean, "µs", "≤ 0.5x", lean <= 0.5 * urllib3_, "urllib3", urllib3_),
        Row("fazt.fetch, policy on", lean, "µs", "shown", True, "pyreqwest", reqwest_),
    ]


def asynchronous() -> list[Row]:
    """50 tasks on uvloop: fazt with its policy on, peers without any guard, and one with a guard."""

    async def main() -> list[Row]:
        async with contextlib.AsyncExitStack() as stack:
            port = stack.enter_context(origin())
            policy = granted(port)
            ours, theirs = f"http://origin.test:{port}{PATH}", f"http://127.0.0.1:{port}{PATH}"
            mine = await stack.enter_async_context(fazt.AsyncClient(policy=policy))
            limits = httpx2.Limits(max_connections=TASKS, max_keepalive_connections=TASKS)
            bare = await stack.enter_async_context(httpx2.AsyncClient(trust_env=False, limits=limits))
            connector = aiohttp.TCPConnector(limit=TASKS)
            session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))

            async def client() -> None:
                assert (await mine.get(ours)).content == BODY

            async def httpx2_client() -> None:
                assert (await bare.get(theirs)).content == BODY

            async def lean() -> None:
                assert (await fazt.afetch(ours, policy=policy)).content == BODY

            async def aiohttp_session() -> None:
                async with session.get(theirs) as response:
                    assert await response.read() == BODY

            def in_tasks(call: Callable[[], Awaitable[None]]) -> Callable[[int], Awaitable[None]]:
                return lambda n: spread(call, n)  # type: ignore[arg-type]

            contenders = [in_tasks(call) for call in (client, httpx2_client, lean, aiohttp_session)]
            a, b, c, d = await paired_async(contenders, [1000, 300, 1000, 1000], rounds=15)
            await fazt.aclose_client()
        return [
            Row("fazt.AsyncClient.get, 50 tasks", a, "µs", "≤ 0.33x", a <= 0.33 * b, "httpx2.AsyncClient", b),
            Row("fazt.afetch, 50 tasks", c, "µs", "≤ 0.9x", c <= 0.9 * d, "aiohttp", d),
        ]

    return run_loop(main())


def idle_origins() -> list[Row]:
    """One origin in use while connections to 200 others are idle."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(origin())
        names = [f"h{number}.test" for number in range(200)]
        rules = [fazt.Rule(f"http://{name}:{port}", addresses=["127.0.0.1/32"]) for name in ["origin.test", *names]]
        policy = fazt.Policy(allow=rules, resolve={name: ["127.0.0.1"] for name in ["origin.test", *names]})
        limits = httpx2.Limits(max_connections=400, max_keepalive_connections=400, keepalive_expiry=3600)
        few = stack.enter_context(fazt.Client(policy=policy, limits=limits))
        many = stack.enter_context(fazt.Client(policy=policy, limits=limits))
        for name in names:
            many.get(f"http://{name}:{port}/")
        url = f"http://origin.test:{port}{PATH}"
        none, crowd = paired(
            [repeated(lambda: few.get(url).content), repeated(lambda: many.get(url).content)], 300, rounds=31
        )
    return [Row("one origin, 200 others idle", crowd, "µs", "≤ 1.2x", crowd <= 1.2 * none, "none idle", none)]


_FIRST = """
import time
import fazt
policy = fazt.Policy(allow=["warm.example"])
fazt.Client(policy=policy).close()  # imports what clients are made of
start = time.perf_counter()
fazt.get_client(policy=policy)
print((time.perf_counter() - start) * 1e3)
"""


class _NullConnection:
    """Answers at once, without a socket; fresh for an hour."""

    reused = complete = True
    address = "127.0.0.1"
    trailers = ()

    def send(self, head: bytes, body: bytes | None, *, on_sent: Callable[[], None], **_: Any) -> ResponseHead:
        on_sent()
        return _HEAD

    def read(self, **_: Any) -> bytes:
        return BODY

    def release(self) -> None:
        return

    abort = release


class _NullWire:
    """A wire that costs nothing, so that what remains is the client's own cost."""

    tls_id = "system"

    def acquire(self, target: Target, **_: Any) -> _NullConnection:
        return _CONNECTION

    def close(self) -> None:
        return


_CONNECTION = _NullConnection()
_FIELDS = (("content-type", "application/json"), ("content-length", str(len(BODY))), ("cache-control", "max-age=3600"))
_HEAD = ResponseHead(200, _FIELDS)


def cached() -> list[Row]:
    """Hits of the client's cache in memory and in SQLite, over what a call costs without one; hishel beside it."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = stack.enter_context(origin(headers=b"cache-control: max-age=3600\r\n"))
        policy = granted(port)
        ours, theirs = f"http://origin.test:{port}{PATH}", f"http://127.0.0.1:{port}{PATH}"
        plain = stack.enter_context(fazt.Client(policy=policy, cache=False))
        memory = stack.enter_context(fazt.Client(policy=policy, cache=fazt.Cache()))
        disk = stack.enter_context(fazt.Client(policy=policy, cache=fazt.Cache(folder / "cache")))
        storage = hishel.SqliteStorage(database_path=folder / "hishel.db")
        peer = stack.enter_context(CacheClient(storage=storage, trust_env=False))
        plain._intake.backend.engine.wire = _NullWire()  # type: ignore[attr-defined]
        for client in (memory, disk):
            client.get(ours)
            assert client.get(ours).extensions["fazt"]["cache"] == "hit"
        runs = [repeated(lambda c=c, u=u: c.get(u).content) for c, u in ((plain, ours), (memory, ours), (disk, ours))]
        runs.append(repeated(lambda: peer.get(theirs).content))
        own, hot, cold, peers = paired(runs, 200, rounds=15)
    return [
        Row(
            f"cache hit in memory, of it over the client's own cost: {hot - own:.1f}",
            hot,
            "µs",
            "≤ 40 µs over",
            hot - own <= 40,
        ),
        Row(
            f"cache hit in SQLite, of it over the client's own cost: {cold - own:.1f}",
            cold,
            "µs",
            "≤ 150 µs over",
            cold - own <= 150,
            "hishel, SQLite",
            peers,
        ),
    ]


def guarded() -> list[Row]:
    """The client under a policy beside ssrfguard, which guards httpx."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(origin())
        policy = granted(port)
        mine = stack.enter_context(fazt.httpx.Client(policy=policy))
        allowed = ssrfguard.Policy(allowed_networks=(ip_network("127.0.0.0/8"),), allowed_ports=frozenset({port}))
        peer = stack.enter_context(ssrfguard.httpx.Client(policy=allowed))
        a, b = paired(
            [
                repeated(lambda: mine.get(f"http://origin.test:{port}{PATH}").content),
                repeated(lambda: peer.get(f"http://127.0.0.1:{port}{PATH}").content),
            ],
            200,
            rounds=15,
        )
    return [Row("fazt.httpx.Client.get, policy on", a, "µs", "shown", True, "ssrfguard", b)]


def events() -> list[Row]:
    """What one call's record costs the calling thread with three sinks: JSON lines, SQLite, Prometheus."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "data").mkdir(mode=0o700)
        sinks = [
            telemetry.JsonlSink(folder / "net.jsonl"),
            telemetry.SqliteSink(opener(folder / "data")),
            telemetry.PrometheusSink(),
        ]
        fanout = telemetry.Fanout(sinks, capacity=1_000_000)
        costs = []
        for _ in range(9):
            records = [replace(_RECORD, call_id=f"c_{n}") for n in range(2_000)]
            spent = 0.0
            for record in records:
                start = time.thread_time()
                fanout.append(record)
                spent += time.thread_time() - start
            costs.append(spent / len(records) * 1e6)
            fanout.flush(30)
        fanout.close()
    cost = statistics.median(costs)
    return [Row("one record to three sinks, in the calling thread", cost, "µs", "≤ 10 µs", cost <= 10)]


_RECORD = CallRecord(
    "c_0",
    1_700_000_000.0,
    "",
    "client",
    method="GET",
    scheme="https",
    host="api.example.com",
    port=443,
    path="/v1",
    status=200,
    duration_ms=12.5,
    response_bytes=200,
    version="HTTP/1.1",
    attempt_ts=1_700_000_000.0,
    attempt_ms=12.0,
)


def shared() -> list[Row]:
    """`get_client()`: the first one of a process beyond the imports, and every later one."""
    found = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", _FIRST], check=True, capture_output=True, text=True)
        found.append(float(done.stdout))
    first = statistics.median(found)
    fazt.get_client()

    def warm(n: int) -> None:
        for _ in range(n):
            fazt.get_client()

    (cost,) = paired([warm], 10_000, rounds=31)
    fazt.close_client()
    return [
        Row("get_client(), first", first, "ms", "≤ 5 ms", first <= 5),
        Row("get_client(), warm", cost, "µs", "≤ 1 µs", cost <= 1),
    ]


__all__ = ["asynchronous", "cached", "events", "guarded", "idle_origins", "shared", "sync"]
