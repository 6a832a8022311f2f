"""What stands behind a client: policy, wire, engine, cache, limits and sinks, put together once."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fazt import hardware
from fazt.core import profiles
from fazt.core.gates import still_granted
from fazt.core.ratelimit import Buckets
from fazt.errors import ConfigError
from fazt.net.forked import abandon, renew

if TYPE_CHECKING:
    from fazt.client.cache import Cache
    from fazt.client.policies import Policy, PolicyChange
    from fazt.core.call import Fields, Profile
    from fazt.core.limits import Limits
    from fazt.core.record import CallRecord
    from fazt.core.traffic import Traffic
    from fazt.engine import AsyncEngine, Engine
    from fazt.net.pool import PoolLimits
    from fazt.net.tls import TlsConfig
    from fazt.ports import RecordSink
    from fazt.telemetry import Fanout, Sink

_log = logging.getLogger("fazt.client")

E = TypeVar("E", "Engine", "AsyncEngine")


@dataclass(frozen=True, slots=True)
class Setup:
    """How a client reaches the network.

    Args:
        policy: what decides; closed with the client when it was made for it.
        owned: whether it was made for this client.
        pool: limits of connections.
        tls: what servers must prove.
        tls_again: makes that anew when the policy names other roots; None where the policy has no say in it.
        http2: whether HTTP/2 was asked for.
        sinks: where events go beside the policy's own log.
        cache: the response cache, None for none.
        traffic: limits, breakers and retries, of hosts and of services; None for none.
        tune: brings those up to date when the policy's file describes others; None where the policy has no say in it.
        closing: what else is to be closed with the client.
        sensitive: lower-case names of fields that no redirect carries to another origin.
    """

    policy: Policy
    owned: bool
    pool: PoolLimits
    tls: TlsConfig
    tls_again: Callable[[], TlsConfig] | None = None
    http2: bool = False
    sinks: tuple[Any, ...] = ()
    cache: Cache | None = None
    traffic: Traffic | None = None
    tune: Callable[[], None] | None = None
    closing: tuple[Callable[[], object], ...] = ()
    sensitive: frozenset[str] = frozenset()


class _Quiet:
    """Where records go when nobody keeps them: one line each, for whoever listens at debug level."""

    def append(self, record: CallRecord) -> None:
        if _log.isEnabledFor(logging.DEBUG):
            outcome = record.status if record.code is None else f"{record.code}/{record.reason}"
            where = f"{record.scheme}://{record.host}:{record.port}{record.path}"
            _log.debug("%s %s %s %s %.1f ms", record.call_id, record.method, where, outcome, record.duration_ms)


_QUIET = _Quiet()
_PROCESS = os.urandom(8).hex()
_buckets: weakref.WeakValueDictionary[str, Buckets] = weakref.WeakValueDictionary()
_buckets_lock = threading.Lock()


def _after_fork() -> None:
    global _buckets, _buckets_lock
    abandon(_buckets)
    _buckets, _buckets_lock = weakref.WeakValueDictionary(), threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def _buckets_of(policy: Policy) -> Buckets:
    """Return the rate buckets that all clients of one policy draw on."""
    with _buckets_lock:
        found = _buckets.get(policy.id)
        if found is None:
            found = _buckets[policy.id] = Buckets(threading.Lock())
        return found


def _fanouts_of(policy: Policy, sinks: Sequence[Sink]) -> list[Fanout]:
    """Return where events go: to the program's own sinks, and to those that the policy's file or `fazt.toml` names."""
    found: list[Fanout] = []
    if not (sinks or policy.telemetry):
        return found
    from pathlib import Path

    from fazt.telemetry import Fanout, fanout_from_config

    if sinks:
        found.append(Fanout(sinks, own=False))
    settings = getattr(policy, "settings", None)
    if settings is None:
        described = fanout_from_config(policy.telemetry, directory=Path(getattr(policy, "path", ".")).parent)
    else:
        from fazt.stores.sqlite.events import opener

        described = fanout_from_config(policy.telemetry, directory=settings.data, sqlite=opener(settings.data))
    if described is not None:
        found.append(described)
    return found


class Backend(Generic[E]):
    """One engine and its wire, made anew in a forked child.

    Attributes:
        engine: makes the calls.
        setup: what it was made of.
    """

    engine: E

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.policy = setup.policy
        self._tls = setup.tls
        self._limits: Limits | None = None
        self._profile: Profile | None = None
        self._stop: Callable[[], None] | None = None
        self._fanouts: list[Fanout] | None = None
        self.closed = False
        self._begin()
        renew(self)

    def _begin(self) -> None:
        self._making = threading.Lock()
        self._stop = None

    def __getattr__(self, name: str) -> Any:
        """Make the engine when it is first needed, here or in a forked child."""
        if name != "engine":
            raise AttributeError(name)
        with self._making:
            if "engine" not in self.__dict__:
                engine = self._make()
                self._watch()
                self.engine = engine
        return self.__dict__["engine"]

    def _make(self) -> E:
        raise NotImplementedError

    def _watch(self) -> None:
        """Follow the policy for as long as somebody has this backend: the policy itself does not keep it."""
        changed = weakref.WeakMethod(self._changed)

        def follow(change: PolicyChange) -> None:
            found = changed()
            if found is not None:
                found(change)

        self._stop = self.policy.watch(follow)
        weakref.finalize(self, self._stop).atexit = False

    def start_anew(self) -> None:
        """Begin in a forked child: engine and connections are the parent's, and are left alone."""
        inherited = self.__dict__.pop("engine", None)
        if inherited is not None:
            abandon(inherited)
        if self.setup.traffic is not None:
            self.setup.traffic.start_anew(threading.Lock())
        self._begin()

    @property
    def profile(self) -> Profile:
        """The numbers of this door. Its total time is the caller's to say, so that it may be more than the default."""
        limits = self.policy.limits
        if limits is not self._limits or self._profile is None:
            self._profile = replace(profiles.client(limits), call_ms=0.0)
            self._limits = limits
        return self._profile

    def _parts(self) -> dict[str, Any]:
        """Return the arguments that both engines take."""
        policy = self.policy
        return {
            "policies": policy,
            "vault": policy.vault,
            "sink": self._sink(),
            "trace": self._trace(),
            "buckets": _buckets_of(policy),
            **self._shared(),
        }

    def _shared(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.setup.cache is not None:
            found["cache"] = self.setup.cache.of(self._partition())
        if self.setup.traffic is not None:
            found["traffic"] = self.setup.traffic
        return found

    def _partition(self) -> str:
        """Return for whom responses are kept: a certificate is a credential, and other roots believe other servers."""
        tls, policy = self.setup.tls.id, self.policy.id
        if self.setup.tls_again is not None and "+cert-" not in tls:
            return policy  # its own roots are part of the policy
        # the number of a context means something in this process alone
        return f"{policy} {tls} {_PROCESS}" if tls.startswith("context-") else f"{policy} {tls}"

    def _sink(self) -> RecordSink:
        sinks: list[RecordSink] = [] if self.policy.sink is None else [self.policy.sink]
        if self._fanouts is None:
            self._fanouts = _fanouts_of(self.policy, self.setup.sinks)
        sinks += self._fanouts
        if len(sinks) > 1:
            from fazt.telemetry import Tee

            return Tee(*sinks)
        return sinks[0] if sinks else _QUIET

    def _trace(self) -> Callable[[Fields], Fields] | None:
        if not any(fanout.propagates for fanout in self._fanouts or ()):
            return None
        from fazt.telemetry.tracing import with_trace

        return with_trace

    def _wire_parts(self) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "tls": self._tls,
            "limits": self.setup.pool,
            "own_listeners": self.policy.own_listeners,
            "local_addresses": frozenset(hardware.interface_addresses()),
        }
        if self.setup.http2:
            parts["http2"] = True
        return parts

    def _changed(self, change: PolicyChange) -> None:
        """Take back what a new snapshot no longer grants (called by the policy's own thread)."""
        raise NotImplementedError

    def _rewire(self, resolver: Any) -> None:
        """Go on with other static names and other roots; connections made under the old ones are not used again."""
        wire: Any = self.engine.wire
        wire.resolver = resolver
        wire.drop_idle(lambda target: False)
        if self.setup.tls_again is not None:
            wire.tls = self._tls = self.setup.tls_again()

    def _take_back(self, change: PolicyChange) -> None:
        engine = self.engine
        wire: Any = engine.wire
        wire.drop_idle(lambda target: still_granted(change.new, target))
        if change.hosts is None:
            engine.cache.clear()
        else:
            for scope, pattern in change.hosts:
                engine.cache.purge(app=scope or None, pattern=pattern)
        if self.setup.tune is not None:
            self.setup.tune()

    def introspect(self) -> dict[str, Any]:
        """Return what this client really uses: its pool, TLS configuration, policy, protocol."""
        wire: Any = self.engine.wire
        limits = wire.pool.limits
        live, idle = wire.count()
        return {
            "pool": {
                "max_connections": limits.connections or None,
                "max_idle": limits.total,
                "idle_expiry": limits.expiry,
                "open": live,
                "idle": idle,
            },
            "tls": wire.tls_id,
            "policy": self.policy.id,
            "revision": self.policy.current.revision,
            "app": self.policy.app_id or None,
            "http2": self.setup.http2,
            "cache": self.setup.cache is not None,
        }

    def retire(self) -> None:
        """Keep no connection any more; calls go on, each on a connection of its own."""
        if self._stop is not None:
            self._stop()
            self._stop = None
        if "engine" in self.__dict__:
            wire: Any = self.engine.wire
            wire.drop_idle(lambda target: False)

    def _leave(self) -> None:
        """Stop watching, write what waits, give the policy back."""
        if self._stop is not None:
            self._stop()
            self._stop = None
        for fanout in self._fanouts or ():
            fanout.close()
        self._fanouts = None
        for close in self.setup.closing:
            close()
        if self.setup.owned:
            self.policy.close()


class SyncBackend(Backend["Engine"]):
    """Behind a blocking client."""

    def _make(self) -> Engine:
        from fazt.engine import Engine
        from fazt.net.sync import SyncWire
        from fazt.net.sync_resolve import SyncResolver

        wire = SyncWire(resolver=SyncResolver(self.policy.resolve), **self._wire_parts())
        return Engine(wire=wire, **self._parts())

    def _changed(self, change: PolicyChange) -> None:
        if change.network:
            from fazt.net.sync_resolve import SyncResolver

            self._rewire(SyncResolver(self.policy.resolve))
        self._take_back(change)

    def close(self) -> None:
        """Close every connection and give back what was made for this client."""
        if not self.closed:
            self.closed = True
            if "engine" in self.__dict__:
                self.engine.close()
            self._leave()


class AsyncBackend(Backend["AsyncEngine"]):
    """Behind an asynchronous client."""

    def _make(self) -> AsyncEngine:
        from fazt.engine import AsyncEngine
        from fazt.net.aio import Wire
        from fazt.net.resolve import Resolver

        wire = Wire(resolver=Resolver(self.policy.resolve), **self._wire_parts())
        return AsyncEngine(wire=wire, **self._parts())

    def _changed(self, change: PolicyChange) -> None:
        wire: Any = self.engine.wire
        loop = wire._loop
        if loop is None or loop.is_closed():
            self._apply(change)
            return
        try:
            loop.call_soon_threadsafe(self._apply, change)
        except RuntimeError:  # the loop has just been closed: what it kept goes with it
            pass

    def _apply(self, change: PolicyChange) -> None:
        if change.network:
            from fazt.net.resolve import Resolver

            self._rewire(Resolver(self.policy.resolve))
        self._take_back(change)

    def abandon(self) -> None:
        """Give back what was made for a client that could not be made: nothing is open yet."""
        self.closed = True
        self._leave()

    async def aclose(self) -> None:
        """Close every connection and give back what was made for this client."""
        if not self.closed:
            self.closed = True
            if "engine" in self.__dict__:
                await self.engine.close()
            self._leave()


def policy_for(policy: Policy | None, app: str | None) -> tuple[Policy, bool]:
    """Return the policy of a client, and whether it was made for it.

    Args:
        policy: as given; None for the rules of the data directory.
        app: name or id of the app on whose behalf calls are made; None for the operator's own.

    Raises:
        ConfigError: an app beside a policy that knows no apps, something that is no policy.
    """
    if policy is None:
        from fazt.client.data_policy import DataPolicy

        return DataPolicy(app=app), True
    from fazt.client.policies import Policy

    if not isinstance(policy, Policy):
        raise ConfigError(f"policy= takes a fazt.Policy, not {type(policy).__name__}")
    if app is not None:
        raise ConfigError("app= chooses among the apps of the data directory; this policy knows none, leave it out")
    return policy, False


def as_tuple(sinks: Any) -> tuple[Any, ...]:
    """Return sinks as a tuple: one, several or none may be given.

    Raises:
        ConfigError: there is something among them that is no sink.
    """
    if sinks is None:
        return ()
    several = isinstance(sinks, Iterable) and not isinstance(sinks, str | bytes | Mapping)
    found = tuple(sinks) if several else (sinks,)
    for sink in found:
        if not (hasattr(sink, "emit") and hasattr(sink, "guard")):
            raise ConfigError(
                f"sinks= takes sinks, not {type(sink).__name__}",
                hint='fazt.telemetry.JsonlSink("calls.jsonl"), or a fazt.telemetry.Sink of your own with emit(events)',
            )
    return found
