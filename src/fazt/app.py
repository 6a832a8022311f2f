"""The composition root: opens a data directory and puts store, wire, engine and workers together."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from fazt import hardware
from fazt.core import limits as limits_of
from fazt.errors import ConfigError
from fazt.stores.sqlite.changes import Kind
from fazt.stores.sqlite.store import Store

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from pathlib import Path

    from fazt.config import Settings
    from fazt.core.call import Fields
    from fazt.core.policy import Policy
    from fazt.core.traffic import Traffic
    from fazt.engine import AsyncEngine
    from fazt.functions.deploy import Deployed
    from fazt.functions.guestapi import AppBundle
    from fazt.functions.host import FunctionHost
    from fazt.functions.runtime import FunctionRuntime, Loaded
    from fazt.net.aio import Wire
    from fazt.net.pool import PoolLimits
    from fazt.ports import RecordSink
    from fazt.stores.sqlite.changes import Feed

_log = logging.getLogger("fazt")


def open_store(settings: Settings) -> Store:
    """Open the data directory, with the limits of this machine where nothing was set.

    Raises:
        ConfigError, StoreError: it cannot be used.
    """
    machine = hardware.probe()
    base = limits_of.defaults(
        total_ram=machine.total_ram, available_ram=machine.available_ram, cpu_cores=machine.cpu_cores
    )
    return Store.open(settings.data, base=base)


def open_wire(settings: Settings, *, pool: PoolLimits) -> Wire:
    """Make the wire of a process: its roots, its static names, its pool."""
    from fazt.net.aio import Wire
    from fazt.net.resolve import Resolver, parse_resolve
    from fazt.net.tls import TlsConfig

    return Wire(
        tls=TlsConfig(settings.ca_files),
        resolver=Resolver(parse_resolve(settings.resolve)),
        limits=pool,
        local_addresses=frozenset(hardware.interface_addresses()),
    )


@contextlib.asynccontextmanager
async def engine_for(store: Store, settings: Settings, *, keep: bool = False) -> AsyncIterator[AsyncEngine]:
    """Give an engine over the data directory while the block runs, and write its log at the end.

    Args:
        store: the open data directory.
        settings: how this process reaches the network.
        keep: whether connections are kept and rule changes followed, as a server does; a single call needs neither.
    """
    import asyncio

    from fazt.core.cache.responses import ResponseCache
    from fazt.engine import AsyncEngine
    from fazt.net.pool import FUNCTIONS, NONE

    source = store.source
    net = source.current.limits.net
    wire = open_wire(settings, pool=FUNCTIONS if keep else NONE)
    around = surroundings(store, settings, always=keep)
    engine = AsyncEngine(
        policies=source,
        wire=wire,
        vault=store.secrets,
        sink=around.sink,
        traffic=around.traffic,
        trace=around.trace,
        cache=ResponseCache.for_functions(net.cache_max_items, net.cache_max_bytes),
    )
    loop = asyncio.get_running_loop()

    def rules_changed(old: Policy, new: Policy) -> None:
        if new.rules is not old.rules or new.apps is not old.apps or new.limits.net != old.limits.net:
            _on_loop(loop, take_back, engine, wire, new)

    def purge(found: Feed) -> None:
        _on_loop(loop, forget, engine, found)

    if keep:
        await wire.tls.ready()  # up to 100 ms, and a thread: not in the time of the first call
        source.listen(rules_changed)
        source.watch(purge)
        source.start()
    try:
        yield engine
    finally:
        await wire.close()
        await asyncio.to_thread(around.close)
        await asyncio.to_thread(store.log.flush)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the calls of a process share beside connections: where records go, and the limits of hosts and services."""

    sink: RecordSink
    traffic: Traffic | None
    trace: Callable[[Fields], Fields] | None = None
    _closing: tuple[Callable[[], object], ...] = ()

    def close(self) -> None:
        """Hand on what waits to be written, and let go."""
        for close in self._closing:
            close()


def surroundings(store: Store, settings: Settings, *, always: bool = False) -> Surroundings:
    """Open the telemetry and the limits that the settings describe.

    Args:
        store: the open data directory.
        settings: with the tables `telemetry` and `traffic` of `fazt.toml`.
        always: whether circuits that are opened by hand later are to act on this process, as a server's must.

    Raises:
        ConfigError: a table says what cannot be done.
        StoreError: the shared breakers cannot be read.
    """
    import threading

    from fazt.core.traffic import Traffic
    from fazt.core.traffic_config import TrafficConfig
    from fazt.stores.sqlite import breakers, events

    closing: list[Callable[[], object]] = []
    sink: RecordSink = store.log
    trace: Callable[[Fields], Fields] | None = None
    if settings.telemetry:
        from fazt.telemetry import Tee, fanout_from_config

        fanout = fanout_from_config(settings.telemetry, directory=settings.data, sqlite=events.opener(settings.data))
        if fanout is not None:
            sink = Tee(store.log, fanout)
            closing.append(fanout.close)
            if fanout.propagates:
                from fazt.telemetry.tracing import with_trace as trace
    traffic: Traffic | None = None
    if always or settings.traffic or (settings.data / breakers.FILE).exists():
        shared = breakers.Breakers.open(settings.data)
        closing.append(shared.close)
        traffic = Traffic(TrafficConfig.of(settings.traffic, "traffic"), lock=threading.Lock(), shared=shared)
    return Surroundings(sink, traffic, trace, tuple(closing))


class HostBaker:
    """Bakes apps in sandboxed workers, for callers in other threads than the host's loop.

    Args:
        host: a started host.
        loop: the loop it runs on.
    """

    def __init__(self, host: FunctionHost, loop: AbstractEventLoop) -> None:
        self._host = host
        self._loop = loop

    @property
    def fingerprint(self) -> str:
        """Changes whenever images made earlier can no longer be run."""
        return str(self._host.report()["engine"]["fingerprint"])

    def bake(self, bundle: AppBundle, *, memory: int) -> bytes:
        """Compile an app into an image.

        Raises:
            BakeError: the app has a mistake or exceeds a limit.
        """
        import asyncio

        return asyncio.run_coroutine_threadsafe(self._host.bake(bundle, memory=memory), self._loop).result()


class LiveApps:
    """What handlers run with, kept until the policy database says that it changed.

    Args:
        store: the data directory.
        baker: bakes images that are missing (an upgrade, a restored backup).
    """

    def __init__(self, store: Store, baker: HostBaker) -> None:
        self._store = store
        self._baker = baker
        self._loaded: dict[str, Loaded] = {}
        self._loading: dict[str, Task[Loaded | None]] = {}

    async def load(self, app_id: str, *, afresh: bool = False) -> Loaded | None:
        """Return image, name and settings of an app; None where nothing was deployed.

        Args:
            app_id: id of the app.
            afresh: throw its image away and bake it again.

        Raises:
            OperatorError: files cannot be read or baked.
        """
        import asyncio

        found = self._loaded.get(app_id)
        if found is not None and not afresh:
            return found
        task = self._loading.get(app_id)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(self._read, app_id, afresh))
            self._loading[app_id] = task
            task.add_done_callback(lambda done: self._keep(app_id, done))
        return await asyncio.shield(task)

    def forget(self, found: Feed) -> None:
        """Drop what changed."""
        if found.changes is None:
            self._loaded.clear()
            self._loading.clear()
            return
        for change in found.changes:
            if change.kind in (Kind.APP, Kind.ENV, Kind.DEPLOYMENT):
                self._loaded.pop(change.scope, None)
                self._loading.pop(change.scope, None)

    def _keep(self, app_id: str, done: Task[Loaded | None]) -> None:
        """Keep what was loaded, unless it changed meanwhile: `forget` has taken the task out then."""
        if self._loading.get(app_id) is not done:
            return
        del self._loading[app_id]
        if not done.cancelled() and done.exception() is None and (loaded := done.result()) is not None:
            self._loaded[app_id] = loaded

    def _read(self, app_id: str, afresh: bool) -> Loaded | None:
        from fazt.functions.deploy import ensure_image
        from fazt.functions.images import Images
        from fazt.functions.invocation import AppImage

        store = self._store
        live = store.deployments.live(app_id)
        if live is None:
            return None
        name = store.apps.get(app_id).name
        if afresh:
            images = Images(store.data_dir)
            images.discard(images.key(live.id, self._baker.fingerprint))
        path = ensure_image(store, live, baker=self._baker, name=name)
        if path is None:
            return None
        return AppImage(app_id, path, path.name), name, store.apps.env(app_id)


@dataclass(frozen=True, slots=True)
class Functions:
    """Everything that runs apps in one process."""

    runtime: FunctionRuntime
    engine: AsyncEngine
    host: FunctionHost
    wire: Wire
    live: LiveApps


@contextlib.asynccontextmanager
async def function_host(settings: Settings, *, workers: int = 0) -> AsyncIterator[FunctionHost]:
    """Start worker processes for the time of the block.

    Raises:
        OperatorError: functions cannot run here, or not as safely as the settings require.
    """
    import importlib.util

    from fazt.functions.host import FunctionHost

    if not any(importlib.util.find_spec(engine) for engine in ("wasmtime", "jsbox")):
        raise ConfigError("functions need wasmtime, which is not installed", hint="pip install 'fazt-net[server]'")
    if settings.require_sandbox not in ("", "full"):
        raise ConfigError(f"--require-sandbox {settings.require_sandbox!r} is unknown", hint="--require-sandbox full")
    host = FunctionHost(
        engine_kind=settings.engine or "auto",
        workers=workers or settings.workers or 16,
        require="full" if settings.require_sandbox else "",
        cache_dir=guest_cache(settings.data),
    )
    await host.start()
    for why in for_development(host.report()):
        _log.warning("functions run here for development only: %s", why)
    try:
        yield host
    finally:
        await host.close()


def guest_cache(data: Path) -> Path:
    """Return where the compiled guest is kept: the user's cache, or the data directory where there is none to write to.

    A service often has no home at all.

    Args:
        data: the data directory.
    """
    import os
    from pathlib import Path

    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        directory = (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "fazt" / "guest"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError):  # RuntimeError: nobody knows this user's home
        return data / "guest"
    return directory if os.access(directory, os.W_OK) else data / "guest"


def for_development(report: Mapping[str, Any]) -> list[str]:
    """Say what makes the functions of this process unfit for strangers' code (contracts, "Functions").

    Args:
        report: of a started host.
    """
    found = []
    if report["engine"]["kind"] == "jsbox":
        found.append("the engine is jsbox, native code; scripts/build-guest builds the WebAssembly guest")
    if not (report["sandbox"] or {}).get("seccomp"):
        found.append("this system has no sandbox for workers")
    return found


@contextlib.asynccontextmanager
async def functions_for(store: Store, settings: Settings, *, keep: bool = True) -> AsyncIterator[Functions]:
    """Give everything that runs apps while the block runs.

    Args:
        store: the open data directory.
        settings: of this process.
        keep: follow changes of the data directory, as a server does.
    """
    import asyncio

    from fazt.functions.runtime import FunctionRuntime

    loop = asyncio.get_running_loop()
    async with function_host(settings) as host, engine_for(store, settings, keep=keep) as engine:
        live = LiveApps(store, HostBaker(host, loop))

        def follow(found: Feed) -> None:
            _on_loop(loop, live.forget, found)

        store.source.watch(follow)
        runtime = FunctionRuntime(host=host, engine=engine, load=live.load, log_line=_line_writer(store))
        yield Functions(runtime, engine, host, cast("Wire", engine.wire), live)


def _line_writer(store: Store) -> Callable[[str, str, str, float, str], None]:
    log = store.log

    def write(app: str, level: str, message: str, ts: float, request: str) -> None:
        log.write_line(app, level, message, ts=ts, invocation=request)

    return write


async def deploy_app(store: Store, settings: Settings, directory: Path, **options: Any) -> Deployed:
    """Deploy a directory, baking it in a sandboxed worker; options as `functions.deploy.deploy`.

    Raises:
        OperatorError: it cannot be deployed; the live version stays.
    """
    import asyncio

    from fazt.functions.deploy import deploy

    async with function_host(settings, workers=1) as host:
        baker = HostBaker(host, asyncio.get_running_loop())
        return await asyncio.to_thread(deploy, store, directory, baker=baker, **options)


def _on_loop(loop: AbstractEventLoop, call: Callable[..., object], *args: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closing: what it kept goes with it
        loop.call_soon_threadsafe(call, *args)


def take_back(engine: AsyncEngine, wire: Wire, policy: Policy) -> None:
    """Close idle connections that no rule grants any more, and apply the cache's limits."""
    from fazt.core.gates import still_granted

    net = policy.limits.net
    engine.cache.configure(max_items=net.cache_max_items, max_bytes=net.cache_max_bytes)
    wire.drop_idle(lambda target: still_granted(policy, target))


def forget(engine: AsyncEngine, found: Feed) -> None:
    """Drop the cached responses of hosts whose rules changed."""
    if found.changes is None:
        engine.cache.clear()
        return
    for change in found.changes:
        if change.kind is Kind.RULE:
            engine.cache.purge(app=change.scope or None, pattern=change.name)
        elif change.kind is Kind.APP:
            engine.cache.purge(app=change.scope)


def listeners(pairs: Iterable[tuple[str, int]]) -> frozenset[tuple[str, int]]:
    """Return fazt's own listeners as calls could reach them, wildcard binds expanded."""
    from fazt.core.addresses import expand_listeners

    return expand_listeners(pairs, hardware.interface_addresses())
