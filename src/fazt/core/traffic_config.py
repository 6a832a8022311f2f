"""Settings of the traffic to hosts and services: one immutable value, made of a table. Everything is off by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from fazt.core.breaker import Key
from fazt.core.breaker_policy import BreakerPolicy, Threshold
from fazt.core.rates import NOTHING, POLITE, Aimd, Limit
from fazt.core.retry import RetryPolicy
from fazt.core.services import ServicePolicy, check_name
from fazt.core.tables import Table
from fazt.core.url import parse_host
from fazt.errors import ConfigError, FaztError

Roles = tuple[tuple[str, Limit], ...]


@dataclass(frozen=True, slots=True)
class HostTraffic:
    """What differs for one host; what it leaves out, roles too, is as for all hosts.

    Args:
        limit: of the host altogether.
        roles: role and limit, beside that of the host.
        breaker: how its circuits behave; None is as for all hosts.
        unbroken: it has no circuit, though others do.
    """

    limit: Limit = NOTHING
    roles: Roles = ()
    breaker: BreakerPolicy | None = None
    unbroken: bool = False


@dataclass(frozen=True, slots=True)
class TrafficConfig:
    """How hosts and services are asked. Hashable; the default limits nothing.

    Args:
        limit: of each host altogether.
        roles: role and limit of each host, beside that of the host.
        hosts: canonical name and what differs there.
        services: name and policy.
        count_head: whether HEAD requests count.
        aimd: how rates adapt to status 429, None for not at all.
        breaker: how the circuits of hosts behave, None for none.
        retry: when calls are tried again that say nothing of it themselves; None for never.
    """

    limit: Limit = NOTHING
    roles: Roles = ()
    hosts: tuple[tuple[str, HostTraffic], ...] = ()
    services: tuple[tuple[str, ServicePolicy], ...] = ()
    count_head: bool = False
    aimd: Aimd | None = None
    breaker: BreakerPolicy | None = None
    retry: RetryPolicy | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is limited, broken or retried."""
        return self == EMPTY

    @classmethod
    def of(cls, given: object = None, where: str = "traffic") -> TrafficConfig:
        """Make it of a table as TOML or a program gives it; what is one already is returned as it is.

        Args:
            given: the table; None for the default.
            where: its name, for errors.

        Raises:
            ConfigError: a key is unknown or its value cannot be used; the error names the key.
        """
        if isinstance(given, TrafficConfig):
            return given
        if given is None:
            return EMPTY
        table = given if isinstance(given, Table) else Table(given, where)
        breaker = BreakerPolicy.read(table.raw("breaker"), table.name("breaker"))
        polite = tuple(sorted(POLITE.items())) if table.flag("polite", False) else ()
        made = cls(
            limit=Limit.read(table),
            roles=_roles(table, dict(polite)),
            hosts=tuple(sorted(_hosts(table, breaker).items())),
            services=tuple(sorted(_services(table, breaker).items())),
            count_head=table.flag("count_head", False),
            aimd=_aimd(table.switch("aimd")),
            breaker=breaker,
            retry=RetryPolicy.read(table.raw("retry"), table.name("retry")),
        )
        table.done()
        return made

    def with_service(self, name: str, policy: ServicePolicy) -> TrafficConfig:
        """Return it with one more service, or with another policy of one that it has.

        Raises:
            ConfigError: the name cannot be used.
        """
        services = {**dict(self.services), check_name(name, "service"): policy}
        return replace(self, services=tuple(sorted(services.items())))


EMPTY: Final = TrafficConfig()


def _aimd(given: Table | bool | None) -> Aimd | None:
    if isinstance(given, Table):
        return Aimd.of(given)
    return Aimd() if given else None


def _roles(table: Table, known: Mapping[str, Limit]) -> Roles:
    """Return the roles of a table over those that are known; each key of a role that is left out stays as it was."""
    roles = dict(known)
    named = table.table("roles")
    for name, inner in named.tables() if named is not None else ():
        roles[check_name(name, f"{table.where}.roles")] = Limit.read(inner).over(roles.get(name, NOTHING))
        inner.done()
    return tuple(sorted(roles.items()))


def _hosts(table: Table, breaker: BreakerPolicy | None) -> dict[str, HostTraffic]:
    hosts: dict[str, HostTraffic] = {}
    named = table.table("hosts")
    for name, inner in named.tables() if named is not None else ():
        host = host_name(name, f"{table.name('hosts')}.{name}")
        if host in hosts:
            raise ConfigError(f"{inner.where}: the host {host} is named twice")
        own = inner.raw("breaker")
        policy = BreakerPolicy.read(own, inner.name("breaker"), default=breaker)
        hosts[host] = HostTraffic(Limit.read(inner), _roles(inner, {}), policy, unbroken=own is False)
        inner.done()
    return hosts


def _services(table: Table, breaker: BreakerPolicy | None) -> dict[str, ServicePolicy]:
    services: dict[str, ServicePolicy] = {}
    given = table.raw("services")
    for name, value in given.items() if isinstance(given, Mapping) else ():
        where = f"{table.name('services')}.{name}"
        services[check_name(name, table.name("services"))] = ServicePolicy.of(value, where, breaker=breaker)
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"{table.name('services')} must be a table, not {given!r}")
    return services


def host_name(text: str, where: str) -> str:
    """Return the canonical form of a host, the one that calls are keyed by.

    Raises:
        ConfigError: it is no host name.
    """
    try:
        return parse_host(text)
    except FaztError as refused:
        raise ConfigError(f"{where}: {text!r} is not a host name: {refused.message}") from None


class Limits(NamedTuple):
    """What holds for one role of one host, all inheritance done.

    Args:
        host: of the host altogether.
        role: of this role, beside that of the host; None where there is no role or it has no limit.
        breaker: of the host's circuits, None for none.
        threshold: of this role's own circuit, None where it shares the host's.
    """

    host: Limit
    role: Limit | None
    breaker: BreakerPolicy | None
    threshold: Threshold | None


class Rules:
    """A configuration made ready to be asked.

    Args:
        config: the configuration.
    """

    __slots__ = ("_hosts", "_known", "_roles", "_services", "breaking", "config", "limiting")

    def __init__(self, config: TrafficConfig) -> None:
        self.config = config
        self._hosts = dict(config.hosts)
        self._roles = dict(config.roles)
        self._services = dict(config.services)
        self._known: dict[tuple[str, str], Limits] = {}
        self.breaking = bool(
            config.breaker
            or any(host.breaker is not None for host in self._hosts.values())
            or any(service.breaker is not None for service in self._services.values())
        )
        """Whether any host or service has a circuit by configuration."""
        of_hosts = (part for host in self._hosts.values() for part in (host.limit, *dict(host.roles).values()))
        self.limiting = any(part.rates for part in (config.limit, *self._roles.values(), *of_hosts)) or any(
            service.rate is not None for service in self._services.values()
        )
        """Whether any host, role or service has a rate."""

    def limits(self, host: str, role: str) -> Limits:
        """Return what holds for a role ("" for none) of a host."""
        found = self._known.get((host, role))
        if found is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            found = self._known[host, role] = self._resolve(host, role)
        return found

    def service(self, name: str) -> ServicePolicy | None:
        """Return the policy of a service, None where the name is only a label."""
        return self._services.get(name) if name else None

    def policy(self, key: Key) -> tuple[BreakerPolicy | None, Threshold | None]:
        """Return how a circuit behaves; (None, None) for one that exists only because it was opened by hand."""
        if key.kind == "service":
            service = self.service(key.name)
            return (service.breaker if service is not None else None), None
        limits = self.limits(key.name, key.role)
        if not key.role:
            return limits.breaker, None
        return (limits.breaker, limits.threshold) if limits.threshold is not None else (None, None)

    def _resolve(self, host: str, role: str) -> Limits:
        own = self._hosts.get(host, _PLAIN)
        limit: Limit | None = None
        if role:
            # "host override that omits a role inherits defaults" (C.9), and one that omits a number inherits that.
            mine, everyones = dict(own.roles).get(role), self._roles.get(role)
            limit = mine.over(everyones) if mine is not None and everyones is not None else mine or everyones
        breaker = None if own.unbroken else own.breaker or self.config.breaker
        threshold = dict(breaker.roles).get(role) if breaker is not None and role else None
        return Limits(own.limit.over(self.config.limit), limit, breaker, threshold)


_PLAIN: Final = HostTraffic()
_REMEMBERED: Final = 4096
