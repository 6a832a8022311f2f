"""Rows of functions: fresh invocations through a worker, one fetch on top, a neighbour of hostile programs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from bench.calls import APP, Fixed, run_loop, snapshot
from bench.measure import Row
from bench.origin import BODY, origin
from fazt.engine import AsyncEngine
from fazt.errors import FaztError, Reason
from fazt.functions.guestapi import AppBundle, build_request, pack, write_image
from fazt.functions.host import AppImage, FunctionHost, InvokeError, InvokeLimits
from fazt.functions.model import AppRequest, AppResponse
from fazt.functions.runtime import FunctionRuntime, Loaded
from fazt.net.aio import Wire
from fazt.net.resolve import Resolver
from fazt.stores.sqlite.store import Store

HELLO = b'respond("hello")'
FETCH = b"respond(fazt.net.fetch(request.query.url).text())"
HOSTILE = Path(__file__).resolve().parent.parent / "tests" / "functions" / "hostile"
LIMITS = InvokeLimits(cpu_ms=2_000, wall_ms=5_000)


async def baked(host: FunctionHost, folder: Path, name: str, source: bytes) -> AppImage:
    """Bake a one-file app."""
    image = await host.bake(AppBundle(f"app_{name}", name, {"api/main.js": source}), memory=50 << 20)
    path = folder / f"{name}.img"
    write_image(path, image)
    return AppImage(f"app_{name}", path, name)


async def refuse(_header: dict[str, object], _body: bytes) -> bytes:
    """Refuse every host call, as the engine would."""
    return pack({"error": FaztError(Reason.HOST_NOT_GRANTED, "this host is not on the allowlist").public()})


async def ask(host: FunctionHost, app: AppImage, limits: InvokeLimits = LIMITS) -> float:
    """Invoke once; return the milliseconds it took."""
    frame = build_request(app_id=app.app_id, app_name=app.key, method="GET", path="/api/")
    start = time.perf_counter()
    with contextlib.suppress(InvokeError):
        await host.invoke(app, frame, limits=limits, on_host_call=refuse, on_log=lambda _level, _text: None)
    return (time.perf_counter() - start) * 1e3


@contextlib.asynccontextmanager
async def running(workers: int) -> AsyncIterator[tuple[FunctionHost, Path]]:
    """Give a started host and a folder for images."""
    with tempfile.TemporaryDirectory() as folder:
        host = FunctionHost(workers=workers)
        await host.start()
        try:
            yield host, Path(folder)
        finally:
            await host.close()


def own_latency(port: int, n: int) -> float:
    """Return the median milliseconds of a keep-alive request on a bare blocking socket."""
    times = []
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(n):
            start = time.perf_counter()
            sock.sendall(b"GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n")
            data = b""
            while not data.endswith(BODY):
                data += sock.recv(65536)
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def invocations() -> list[Row]:
    """A fresh invocation of a hello app on one worker, and the same with one fetch."""

    async def main() -> list[Row]:
        with origin() as port:
            async with running(1) as (host, folder):
                hello = await baked(host, folder, "hello", HELLO)
                for _ in range(200):
                    await ask(host, hello)
                rates = []
                for _ in range(7):
                    start = time.perf_counter()
                    for _ in range(500):
                        await ask(host, hello)
                    rates.append(500 / (time.perf_counter() - start))
                rate = statistics.median(rates)
                fetch = await baked(host, folder, "fetch", FETCH)
                with Store.open(folder / "data") as store:
                    engine = AsyncEngine(
                        policies=Fixed(snapshot(port)),
                        wire=Wire(resolver=Resolver({"origin.test": ("127.0.0.1",)})),
                        vault=store.secrets,
                        sink=store.log,
                    )

                    async def load(_app: str, *, afresh: bool = False) -> Loaded | None:
                        return fetch, "fetch", {}

                    runtime = FunctionRuntime(host=host, engine=engine, load=load, log_line=lambda *_: None)
                    request = AppRequest("GET", "/api/", query={"url": f"http://origin.test:{port}/"})
                    times = []
                    for _ in range(1_500):
                        start = time.perf_counter()
                        answer = await runtime.handle(APP.id, request)
                        times.append((time.perf_counter() - start) * 1e3)
                        assert isinstance(answer, AppResponse), answer
                        assert answer.status == 200, answer.body
                    await engine.wire.close()  # type: ignore[attr-defined]
            own = await asyncio.to_thread(own_latency, port, 1_500)
        p50 = statistics.median(times[300:])
        return [
            Row("fresh invocations a second, one worker", rate, "/s", "≥ 1,000/s", rate >= 1_000),
            Row("one fetch in it, p50 over the upstream's own", p50 - own, "ms", "≤ 1.2 ms", p50 - own <= 1.2),
        ]

    return run_loop(main())


def neighbour() -> list[Row]:
    """A hello app's latency alone, and while every hostile program of the tests runs beside it, over and over."""

    async def main() -> list[Row]:
        async with running(16) as (host, folder):
            hello = await baked(host, folder, "hello", HELLO)
            programs = []
            for path in sorted(HOSTILE.glob("*.js")):
                with contextlib.suppress(Exception):  # some are refused when they are baked, which is a fine end
                    programs.append(await baked(host, folder, path.stem, path.read_bytes()))

            async def measure(seconds: float) -> list[float]:
                times, end = [], time.perf_counter() + seconds
                while time.perf_counter() < end:
                    times.append(await ask(host, hello))
                    await asyncio.sleep(0.002)
                return times

            await measure(0.5)
            alone = await measure(2.0)

            async def attack(app: AppImage) -> None:
                while True:
                    await ask(host, app, InvokeLimits(cpu_ms=500, wall_ms=1_000))

            attackers = [asyncio.create_task(attack(app)) for app in programs]
            await asyncio.sleep(0.5)
            beside = await measure(6.0)
            for task in attackers:
                task.cancel()
            await asyncio.gather(*attackers, return_exceptions=True)
        quiet = statistics.quantiles(alone, n=100)[98]
        p99 = statistics.quantiles(beside, n=100)[98]
        name = f"neighbour of {len(programs)} hostile programs, p99"
        return [Row(name, p99, "ms", "shown", len(beside) > 20, "its p99 alone", quiet)]

    return run_loop(main())
