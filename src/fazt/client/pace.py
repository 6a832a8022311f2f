"""The limits of hosts and services that a client keeps: the caller's, or what its policy describes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fazt.errors import ConfigError

if TYPE_CHECKING:
    from fazt.client.policies import Policy
    from fazt.core.traffic import Traffic

_logger = logging.getLogger("fazt.client")


class Pace(NamedTuple):
    """The limits, what brings them up to date when the policy changes, and what closes them."""

    traffic: Traffic | None = None
    tune: Callable[[], None] | None = None
    closing: tuple[Callable[[], object], ...] = ()


def pace_for(policy: Policy, given: Any, services: Mapping[str, Any] | None) -> Pace:
    """Return the limits of a client.

    The caller's count, else those of the policy's file or data directory. The circuits of a data directory are shared
    with all processes that use it, and `fazt breaker` acts on them.

    Args:
        policy: of the client.
        given: the argument `traffic`: a table, a `TrafficConfig`, a `Traffic` that several clients share, or None.
        services: the argument `services`: policies or tables by name, beside the rest.

    Raises:
        ConfigError: a table that cannot be used; the error names the key.
    """
    settings = getattr(policy, "settings", None)
    followed = given is None and getattr(policy, "path", None) is not None
    if given is None and services is None and not (policy.traffic or settings or followed):
        return Pace()
    from fazt.core.traffic import Traffic
    from fazt.core.traffic_config import TrafficConfig

    if services is not None and given is not None and not isinstance(given, Mapping):
        raise ConfigError("services= goes into the traffic= that is given beside it")
    if isinstance(given, Traffic):
        return Pace(given)

    def config() -> TrafficConfig:
        table = given if given is not None else policy.traffic
        if services is not None:
            table = {**table, "services": {**table.get("services", {}), **services}}
        return TrafficConfig.of(table, "traffic")

    if settings is not None:
        from fazt.stores.sqlite.breakers import Breakers

        shared = Breakers.follow(settings.data)
        return Pace(Traffic(config(), lock=threading.Lock(), shared=shared), None, (shared.close,))
    made = Traffic(config(), lock=threading.Lock())
    if followed:
        return Pace(made, lambda: _tune(made, config))
    return Pace(None if made.idle else made)


def _tune(traffic: Traffic, config: Callable[[], Any]) -> None:
    """Take what the policy describes now; what cannot be used changes nothing, and is said."""
    try:
        found = config()
    except ConfigError as refused:
        _logger.warning("going on with the limits that held before: %s", refused.message)
        return
    if found != traffic.config:
        traffic.configure(found)
