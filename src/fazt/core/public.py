"""The grant that names no host: any host whose addresses are public, for URLs that somebody else chose.

It is asked where no rule names a host, and it can never carry a range of private addresses: what it reaches is what
`core.addresses.judge` calls public. Denies are asked before it, and a rule for a host stands in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from fazt.core.rules import Allowed, Decision, Refused, Rule
from fazt.core.url import Url
from fazt.errors import ConfigError, Reason

PUBLIC_RULE: Final = "public"
"""Id of the one rule that stands for all public hosts; a stored rule's id begins with `r_`."""
PUBLIC_PATTERN: Final = "*"
"""Its host pattern, which no stored rule can have."""
PORTS: Final = (80, 443)
"""Ports it grants unless more are named (C.4)."""


@dataclass(frozen=True, slots=True)
class PublicGrant:
    """What calls to hosts without a rule may do.

    Args:
        ports: the ports that may be called, over either scheme.
        https_only: refuse plain http.
        methods: upper-case names; empty for every method.
        rate: requests a minute to each host; 0 inherits, as in all numbers below.
        burst: requests to one host that may follow each other without waiting.
        timeout_ms: time limit of a call in milliseconds.
        max_response: largest response body in bytes.
        cache_ttl: seconds a response may be cached; 0 for no caching.

    Raises:
        ConfigError: no port at all.
    """

    ports: tuple[int, ...] = PORTS
    https_only: bool = False
    methods: frozenset[str] = frozenset()
    rate: int = 0
    burst: int = 0
    timeout_ms: int = 0
    max_response: int = 0
    cache_ttl: int = 0
    _origins: Mapping[tuple[str, int], Allowed] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.ports:
            raise ConfigError("a grant for public hosts needs a port", hint="leave the ports out for 80 and 443")
        schemes = ("https",) if self.https_only else ("https", "http")
        origins = {(scheme, port): Allowed(self._rule(scheme, port)) for scheme in schemes for port in self.ports}
        object.__setattr__(self, "_origins", origins)

    def _rule(self, scheme: str, port: int) -> Rule:
        return Rule(
            PUBLIC_RULE,
            "",
            "allow",
            scheme,
            PUBLIC_PATTERN,
            port,
            self.methods,
            rate=self.rate,
            burst=self.burst,
            timeout_ms=self.timeout_ms,
            max_response=self.max_response,
            cache_ttl=self.cache_ttl,
        )

    def decide(self, url: Url, method: str) -> Decision:
        """Return the synthetic rule that grants a call to a host without rules, or why it is refused.

        Args:
            url: where the call goes; no deny matches it and no rule allows its host.
            method: its method, in upper case.
        """
        allowed = self._origins.get((url.scheme, url.port))
        if allowed is None:
            if self.https_only and url.scheme != "https":
                return Refused(Reason.SCHEME_NOT_ALLOWED, None, "public hosts are granted over https alone")
            return Refused(Reason.PORT_NOT_GRANTED, None, f"public hosts are granted on {_listed(self.ports)}")
        if self.methods and method not in self.methods:
            return Refused(Reason.METHOD_NOT_GRANTED, None, f"granted: {', '.join(sorted(self.methods))}")
        return allowed

    def reaches(self, scheme: str, port: int) -> bool:
        """Tell whether a connection of this kind may be kept; it is one without a granted range."""
        return (scheme, port) in self._origins


def _listed(ports: Iterable[int]) -> str:
    numbers = [str(port) for port in ports]
    return f"port {numbers[0]} alone" if len(numbers) == 1 else f"ports {', '.join(numbers)}"
