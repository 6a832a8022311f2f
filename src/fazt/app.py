"""The composition root: opens a data directory and puts store, wire, engine and workers together."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING

from fazt import hardware
from fazt.core import limits as limits_of
from fazt.core.addresses import expand_listeners
from fazt.core.cache.store import ResponseCache
from fazt.core.exchange import still_granted
from fazt.stores.sqlite.changes import Kind
from fazt.stores.sqlite.store import Store

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from fazt.config import Settings
    from fazt.core.policy import Policy
    from fazt.engine import AsyncEngine
    from fazt.net.aio import Wire
    from fazt.net.pool import PoolLimits
    from fazt.stores.sqlite.changes import Feed


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

    from fazt.engine import AsyncEngine
    from fazt.net.pool import FUNCTIONS, NONE

    source = store.source
    net = source.current.limits.net
    wire = open_wire(settings, pool=FUNCTIONS if keep else NONE)
    engine = AsyncEngine(
        policies=source,
        wire=wire,
        vault=store.secrets,
        sink=store.log,
        cache=ResponseCache(net.cache_max_items, net.cache_max_bytes),
    )
    loop = asyncio.get_running_loop()

    def rules_changed(old: Policy, new: Policy) -> None:
        if new.rules is not old.rules or new.apps is not old.apps or new.limits.net != old.limits.net:
            _on_loop(loop, take_back, engine, wire, new)

    def purge(found: Feed) -> None:
        _on_loop(loop, forget, engine, found)

    if keep:
        source.listen(rules_changed)
        source.watch(purge)
        source.start()
    try:
        yield engine
    finally:
        await wire.close()
        await asyncio.to_thread(store.log.flush)


def _on_loop(loop: AbstractEventLoop, call: Callable[..., object], *args: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closing: what it kept goes with it
        loop.call_soon_threadsafe(call, *args)


def take_back(engine: AsyncEngine, wire: Wire, policy: Policy) -> None:
    """Close idle connections that no rule grants any more, and apply the cache's limits."""
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
    return expand_listeners(pairs, hardware.interface_addresses())
