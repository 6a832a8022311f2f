"""Rows of calls: the whole pipeline beside bare httpx2, policy and record alone, a cache hit."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from bench.measure import Row, paired_async
from bench.origin import BODY, origin
from fazt.core import limits as limits_of
from fazt.core import profiles
from fazt.core.cache.responses import ResponseCache
from fazt.core.call import Profile, Request, ResponseHead, Target
from fazt.core.policy import AppMeta, Policy
from fazt.core.rules import RuleIndex, expand_target
from fazt.engine import AsyncEngine
from fazt.net.aio import Wire
from fazt.net.pool import PoolLimits
from fazt.net.resolve import Resolver
from fazt.stores.sqlite.log import NetLog
from fazt.stores.sqlite.store import Store

TASKS = 50
APP = AppMeta("fazt_app_000000000001", "bench")


@dataclass
class Fixed:
    """One policy for ever."""

    current: Policy


def snapshot(port: int, *, cache_ttl: int = 0) -> Policy:
    """Return a policy with one rule for the bench's origin."""
    rules = expand_target(
        f"http://origin.test:{port}", scope=APP.id, addresses=["127.0.0.1/32"], cache_ttl=cache_ttl or None
    )
    limits = limits_of.defaults(total_ram=1 << 31, available_ram=1 << 30, cpu_cores=2)
    return Policy(1, RuleIndex.build(rules), {}, {APP.id: APP}, limits)


def door(policy: Policy) -> Profile:
    """Return the functions' profile with room for all tasks."""
    profile = profiles.functions(policy.limits)
    return Profile(
        **{
            **{name: getattr(profile, name) for name in Profile.__slots__},
            "app_slots": TASKS,
            "global_slots": TASKS,
        }
    )


class NullConnection:
    """Answers at once, without a socket."""

    reused = True
    address = "127.0.0.1"

    async def send(self, head: bytes, body: bytes | None, *, on_sent: Callable[[], None], **_: Any) -> ResponseHead:
        on_sent()
        return HEAD

    async def read(self, **_: Any) -> bytes:
        return BODY

    def release(self) -> None:
        return

    abort = release


HEAD = ResponseHead(200, (("content-type", "application/json"), ("content-length", str(len(BODY)))))


class NullWire:
    """A wire that costs nothing, so that what remains is policy and record."""

    tls_id = "system"

    async def acquire(self, target: Target, **_: Any) -> NullConnection:
        return CONNECTION


CONNECTION = NullConnection()


async def spread(call: Callable[[], Coroutine[Any, Any, Any]], n: int) -> None:
    """Make `n` calls from `TASKS` tasks."""
    left = n

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    async with asyncio.TaskGroup() as group:
        for _ in range(TASKS):
            group.create_task(worker())


@contextlib.asynccontextmanager
async def opened(wire: Any, policy: Policy, *, cache: ResponseCache | None = None) -> AsyncIterator[AsyncEngine]:
    """Give an engine that writes its records to a real log, and see to it that none was thrown away unwritten."""
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "data") as store:
        store.log.configure(buffer=100_000, flush_ms=1000, max_rows=5_000_000)
        yield AsyncEngine(policies=Fixed(policy), wire=wire, vault=store.secrets, sink=store.log, cache=cache)
        assert store.log.shed == 0


def written(engine: AsyncEngine) -> None:
    """Wait until the records of all calls are in the log: writing them is part of what calls cost."""
    assert isinstance(engine.sink, NetLog)
    engine.sink.flush(timeout=60)


def run_loop(main: Coroutine[Any, Any, list[Row]]) -> list[Row]:
    """Run on uvloop where it is installed."""
    try:
        import uvloop

        return uvloop.run(main)
    except ImportError:
        return asyncio.run(main)


def pipeline() -> list[Row]:
    """One allowed call through the whole pipeline against bare httpx2 `AsyncClient`, 50 tasks, keep-alive."""

    async def main() -> list[Row]:
        with origin() as port:
            policy = snapshot(port)
            wire = Wire(
                resolver=Resolver({"origin.test": ("127.0.0.1",)}),
                limits=PoolLimits(total=TASKS, per_key=TASKS, expiry=30),
            )
            profile = door(policy)
            request = Request(f"http://origin.test:{port}/v1/x?y=1", app=APP.id, door="functions")
            limits = httpx2.Limits(max_connections=TASKS, max_keepalive_connections=TASKS)
            async with opened(wire, policy) as engine, httpx2.AsyncClient(limits=limits, trust_env=False) as client:

                async def ours() -> None:
                    response = await engine.call(request, profile=profile)
                    assert response.body == BODY

                async def all_of_ours(n: int) -> None:
                    await spread(ours, n)
                    written(engine)

                async def theirs() -> None:
                    response = await client.get(f"http://127.0.0.1:{port}/v1/x?y=1")
                    assert response.content == BODY

                fazt, peer = await paired_async([all_of_ours, lambda n: spread(theirs, n)], [20_000, 3_000])
                await wire.close()
        return [Row("allowed call, whole pipeline, 50 tasks", fazt, "µs", "≤ 0.2x", fazt <= 0.2 * peer, "httpx2", peer)]

    return run_loop(main())


def policy_alone() -> list[Row]:
    """The pipeline over a wire that costs nothing: policy, budget, record, log."""

    async def main() -> list[Row]:
        policy = snapshot(8080)
        profile = door(policy)
        request = Request("http://origin.test:8080/v1/x?y=1", app=APP.id, door="functions")
        async with opened(NullWire(), policy) as engine:

            async def run(n: int) -> None:
                for _ in range(n):
                    await engine.call(request, profile=profile)
                written(engine)

            (cost,) = await paired_async([run], [50_000])
        return [Row("policy and record alone (null wire)", cost, "µs", "≤ 30 µs", cost <= 30)]

    return run_loop(main())


def cache_hit() -> list[Row]:
    """A fresh hit of the response cache."""

    async def main() -> list[Row]:
        policy = snapshot(8080, cache_ttl=3600)
        profile = door(policy)
        request = Request("http://origin.test:8080/v1/x?y=1", app=APP.id, door="functions")
        async with opened(NullWire(), policy, cache=ResponseCache.for_functions(100, 1 << 20)) as engine:

            async def run(n: int) -> None:
                for _ in range(n):
                    response = await engine.call(request, profile=profile)
                assert response.cache == "hit"
                written(engine)

            await engine.call(request, profile=profile)
            (cost,) = await paired_async([run], [50_000])
        return [Row("cache hit", cost, "µs", "≤ 60 µs", cost <= 60)]

    return run_loop(main())
