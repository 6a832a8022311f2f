"""Both engines over one scripted wire, so that a scenario is told once and holds for threads and event loops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from tests.fakes.calls import APP, LIMITS, Answer, FixedPolicies, FixedVault, Ledger, ScriptedConnection, ScriptedWire

from fazt.core.call import Options, Profile, Request, Response
from fazt.core.profiles import client
from fazt.engine import AsyncEngine, Engine

T = TypeVar("T")
CANARY = "canary-3f9d2c71b8e64a05"


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise AssertionError("it waited")


class BlockingConnection:
    """A scripted connection as threads see it."""

    def __init__(self, inner: ScriptedConnection) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if name in ("send", "read", "read_some"):
            return lambda *args, **options: at_once(found(*args, **options))
        return found


class BlockingWire:
    """A scripted wire as threads see it."""

    tls_id = "test"

    def __init__(self, inner: ScriptedWire) -> None:
        self.inner = inner

    def acquire(self, *args: Any, **options: Any) -> BlockingConnection:
        return BlockingConnection(at_once(self.inner.acquire(*args, **options)))

    def close(self) -> None:
        return


class Clock:
    """Monotonic seconds under the test's control; sleeping moves it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Driver:
    """One engine, its wire and its ledger; every method blocks, whichever engine it is."""

    def __init__(self, kind: str, held: Any, *answers: Answer, step: Any = None, clock: Clock, **options: Any) -> None:
        self.kind, self.clock = kind, clock
        self.wire = ScriptedWire(*answers, step=step)
        self.ledger = Ledger()
        common: dict[str, Any] = {
            "policies": FixedPolicies(held),
            "vault": FixedVault({"KEY": CANARY}),
            "sink": self.ledger,
            "clock": clock,
            "wall": lambda: 1_700_000_000.0,
            **options,
        }
        self.loop = asyncio.new_event_loop()
        if kind == "sync":
            self.engine: Any = Engine(wire=BlockingWire(self.wire), **common)  # type: ignore[arg-type]
        else:
            self.engine = AsyncEngine(wire=self.wire, **common)  # type: ignore[arg-type]

    def run(self, made: Any) -> Any:
        return self.loop.run_until_complete(made) if asyncio.iscoroutine(made) else made

    def request(self, url: str, *, options: Options = Options(), **fields: Any) -> Request:  # noqa: B008 - immutable
        return Request(url, app=fields.pop("app", APP.id), door="client", options=options, **fields)

    def call(self, url: str, *, profile: Profile | None = None, **fields: Any) -> Response:
        made = self.engine.call(self.request(url, **fields), profile=profile or client(LIMITS))
        response: Response = self.run(made)
        return response

    def open(self, url: str, **fields: Any) -> Stream:
        options = fields.pop("options", Options(stream=True))
        made = self.engine.open(self.request(url, options=options, **fields), profile=client(LIMITS))
        return Stream(self, self.run(made))

    def close(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


class Stream:
    """A streamed answer whose methods block."""

    def __init__(self, driver: Driver, inner: Any) -> None:
        self.driver, self.inner = driver, inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def read_some(self) -> bytes:
        return bytes(self.driver.run(self.inner.read_some()))

    def read(self) -> bytes:
        return bytes(self.driver.run(self.inner.read()))

    def pieces(self) -> list[bytes]:
        if self.driver.kind == "sync":
            return list(self.inner)

        async def collect() -> list[bytes]:
            return [piece async for piece in self.inner]

        return list(self.driver.run(collect()))

    def close(self) -> None:
        self.driver.run(self.inner.close() if self.driver.kind == "sync" else self.inner.aclose())


def body_of(kind: str, *pieces: bytes | Exception) -> Callable[[], Iterator[bytes] | AsyncIterator[bytes]]:
    """Return what begins an upload of these pieces; an exception among them is raised there."""

    def blocking() -> Iterator[bytes]:
        for piece in pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def waiting() -> AsyncIterator[bytes]:
        for piece in blocking():
            yield piece

    return blocking if kind == "sync" else waiting
