"""Named services (C.11): a resolver or provider with retries, a rate, a breaker and a patience of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fazt.core.breaker_policy import BreakerPolicy
from fazt.core.retry import RetryPolicy
from fazt.core.tables import Table, check_number
from fazt.errors import ConfigError

RETRY: Final = RetryPolicy(base=0.2, cap=4.0)
"""Four attempts, as for any call, with shorter pauses; a Retry-After is waited for in full all the same."""


@dataclass(frozen=True, slots=True)
class ServiceRate:
    """A token bucket: `capacity` and `burst` requests at once, then `per_second`.

    Raises:
        ConfigError: it could never hold a token, or never gains one.
    """

    capacity: float = 5.0
    burst: float = 2.0
    per_second: float = 1.0

    def __post_init__(self) -> None:
        check_number(self.capacity, "rate.capacity", least=1)
        check_number(self.burst, "rate.burst")
        check_number(self.per_second, "rate.per_second", above=0)

    @property
    def size(self) -> float:
        """Tokens that the bucket holds."""
        return self.capacity + self.burst

    def __str__(self) -> str:
        return f"{self.per_second:g}/s, {self.size:g} at once"


@dataclass(frozen=True, slots=True)
class ServicePolicy:
    """What holds for the calls of one service, whatever hosts they go to. Hashable.

    Args:
        retry: when its calls are tried again; None for never. What a call itself asks for goes before it.
        rate: its bucket, None for none; every attempt takes a token, cache hits take none.
        breaker: its circuit, beside those of the hosts; None for none.
        read_timeout: seconds between two reads of an answer; None for the client's own.
        max_wait: seconds that an attempt may wait for its token.

    Raises:
        ConfigError: a value is out of range.
    """

    retry: RetryPolicy | None = RETRY
    rate: ServiceRate | None = ServiceRate()
    breaker: BreakerPolicy | None = None
    read_timeout: float | None = None
    max_wait: float = 30.0

    def __post_init__(self) -> None:
        check_number(self.max_wait, "max_wait")
        if self.read_timeout is not None:
            check_number(self.read_timeout, "read_timeout", above=0)

    @classmethod
    def of(cls, given: object, where: str = "service", *, breaker: BreakerPolicy | None = None) -> ServicePolicy:
        """Make a policy of a table.

        Args:
            given: the table, or true for the defaults.
            where: its name, for errors.
            breaker: the default of what its own breaker leaves out.

        Raises:
            ConfigError: with the name of the key.
        """
        if isinstance(given, ServicePolicy):
            return given
        table = given if isinstance(given, Table) else Table({} if given is True else given, where)
        rate = table.switch("rate")
        made = cls(
            retry=RetryPolicy.read(table.raw("retry"), table.name("retry"), default=RETRY)
            if "retry" in table
            else RETRY,
            rate=_rate(rate) if isinstance(rate, Table) else None if rate is False else ServiceRate(),
            breaker=BreakerPolicy.read(table.raw("breaker"), table.name("breaker"), default=breaker),
            read_timeout=table.number("read_timeout", 0, above=0) if "read_timeout" in table else None,
            max_wait=table.number("max_wait", 30.0),
        )
        table.done()
        return made


def _rate(table: Table) -> ServiceRate:
    plain = ServiceRate()
    made = ServiceRate(
        table.number("capacity", plain.capacity, least=1),
        table.number("burst", plain.burst),
        table.number("per_second", plain.per_second, above=0),
    )
    table.done()
    return made


def check_name(name: object, where: str) -> str:
    """Return the name of a service or a role.

    Raises:
        ConfigError: it is empty, too long, or holds what a log line could not show.
    """
    if not isinstance(name, str) or not 0 < len(name) <= 64 or not name.isprintable() or name != name.strip():
        raise ConfigError(f"{where}: {name!r} is no name", hint="up to 64 printable characters")
    return name
