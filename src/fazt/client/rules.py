"""What a Python program writes into a policy: rules and secrets, read by the same parser as `fazt net allow`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from fazt.core.grants import Rule as CoreRule
from fazt.core.grants import RuleKey, expand_target, host_pattern
from fazt.core.injection import validate_secret, validate_value
from fazt.core.policy import SECRET_NAME, SecretKind, SecretMeta
from fazt.core.rules import Action
from fazt.errors import ConfigError

_MAX_TIMEOUT = 86_400.0

# How the refusals of the command line name things, and what a program writes instead. Longer ones come first.
_SPELLINGS = tuple(
    (re.compile(pattern), said)
    for pattern, said in (
        (r"--resolve NAME=ADDRESS", 'resolve={"NAME": ["ADDRESS"]}'),
        (r"fazt net allow (\S+) --port N\b", r'fazt.Rule("\1", ports=[N])'),
        (r"--address CIDR", 'addresses=["CIDR"]'),
        (r"--path /PREFIX", 'paths=["/PREFIX"]'),
        (r"repeat --method for each", 'methods=["GET", "POST"]'),
        (r"--domain HOST \(or --any-domain, ", 'domains=["HOST"] (or any_domain=True, '),
        (r"fazt net (?:allow|deny) (\S+)", r'fazt.Rule("\1")'),
        (r"store them with `fazt secret set`", "hand them over in secrets="),
        (r"--(path-encoded-slash|shared-suffix|http)", lambda found: found[1].replace("-", "_") + "=True"),
        (r"--(path|method|port|domain)\b", r"\1s"),
        (r"--address\b", "addresses"),
        (r"--as\b", "kind"),
        (r"--([a-z]+)-([a-z]+)", r"\1_\2"),
        (r"--([a-z]+)", r"\1"),
    )
)


@dataclass(frozen=True, slots=True)
class Rule:
    """What calls to one host may do, for `Policy(allow=…)`; or which calls are denied, for `Policy(deny=…)`.

    Args:
        target: `DOMAIN`, `*.DOMAIN` or an origin such as `https://host:8443`. A bare domain allows https on 443 and
            denies every scheme and port.
        addresses: private ranges (CIDR) that the host may resolve to; none: public addresses alone.
        methods: the only methods meant; none for all.
        paths: the only path prefixes meant; none for all.
        ports: ports in place of the scheme's own.
        http: allow plain http beside https.
        rate: requests a minute, or text such as "10/second"; 0 for no limit of its own.
        burst: requests that may come at once; as many as the rate names unless said.
        timeout: time limit of a call in seconds; None for the client's.
        max_response: largest response body in bytes; 0 for the client's.
        cache_ttl: most seconds a response may be kept; 0: the caller and the server say.
        inject: name of a secret to send with every call; "" for none.
        path_encoded_slash: %2f in a path counts as a slash instead of refusing the call.
        shared_suffix: permit a wildcard over a suffix whose names belong to strangers (github.io).

    Raises:
        ConfigError: it can be used neither to allow nor to deny.
    """

    target: str
    _: KW_ONLY
    addresses: Sequence[str] = ()
    methods: Sequence[str] = ()
    paths: Sequence[str] = ()
    ports: Sequence[int] = ()
    http: bool = False
    rate: int | str = 0
    burst: int | None = None
    timeout: float | None = None
    max_response: int = 0
    cache_ttl: int = 0
    inject: str = ""
    path_encoded_slash: bool = False
    shared_suffix: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.target, str):
            raise ConfigError(f"a rule names its host as text, not as {type(self.target).__name__}")
        for name, kind in (("addresses", str), ("methods", str), ("paths", str), ("ports", int)):
            object.__setattr__(self, name, listed(getattr(self, name), name, kind))
        for name in ("http", "path_encoded_slash", "shared_suffix"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is True or False, not {getattr(self, name)!r}")
        if not isinstance(self.inject, str):
            raise ConfigError("inject is the name of a secret", hint='inject="API_KEY", with secrets={"API_KEY": …}')
        try:
            self.expand("allow")
        except ConfigError:
            try:
                self.expand("deny")
            except ConfigError:
                pass
            else:
                return
            raise

    def expand(self, action: Action) -> tuple[CoreRule, ...]:
        """Return the rules of the core that this one stands for: schemes by ports by paths.

        Raises:
            ConfigError: it cannot be used for this action; in the words of `fazt net allow` and `fazt net deny`.
        """
        rate, burst = pace(self.rate, self.burst)
        settings: dict[str, Any] = {
            "rate": rate,
            "burst": burst,
            "timeout_ms": milliseconds(self.timeout),
            "max_response": self.max_response,
            "cache_ttl": self.cache_ttl,
            "inject": self.inject or None,
            "addresses": self._ranges(),
            "path_encoded_slash": self.path_encoded_slash or None,
        }
        if action == "deny":  # what was left at its default was not said
            settings = {name: value or None for name, value in settings.items()}
        try:
            return expand_target(
                self.target,
                scope="",
                action=action,
                http=self.http,
                methods=self.methods,
                paths=self.paths,
                ports=self.ports,
                shared_suffix=self.shared_suffix,
                **settings,
            )
        except ConfigError as refused:
            raise in_python(refused) from None

    def _ranges(self) -> tuple[str, ...] | None:
        if "none" in self.addresses:  # at the command line that takes stored ranges back
            raise ConfigError("'none' is not a network", hint="leave addresses out: public addresses need none")
        return tuple(self.addresses) or None


@dataclass(frozen=True, slots=True)
class Secret:
    """A credential that fazt puts into calls to the hosts it is for, and takes out of what they answer.

    Args:
        value: the value; shown nowhere.
        domains: hosts or `*.HOST` it may be sent to, over https alone.
        kind: "bearer" (Authorization), "header" or "query".
        key: name of the header or of the query parameter.
        any_domain: said aloud: it may be sent to every host that a rule allows.

    Raises:
        ConfigError: no domain, or something that cannot be used; the value is not in the message.
    """

    value: str = field(repr=False)
    domains: Sequence[str] = ()
    _: KW_ONLY
    kind: SecretKind = "bearer"
    key: str | None = None
    any_domain: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.value, str):
            raise ConfigError(f"the value of a secret is text, not {type(self.value).__name__}")
        if not isinstance(self.kind, str) or not isinstance(self.key, str | None):
            raise ConfigError("kind and key of a secret are text", hint='kind="header", key="X-Api-Key"')
        if not isinstance(self.any_domain, bool):
            raise ConfigError(f"any_domain is True or False, not {self.any_domain!r}")
        object.__setattr__(self, "domains", listed(self.domains, "domains", str))
        try:
            validate_value(self.value)
            validate_secret(self.kind, self.key)
            object.__setattr__(self, "domains", tuple(sorted({host_pattern(domain) for domain in self.domains})))
        except ConfigError as refused:
            raise in_python(refused) from None
        if self.any_domain and self.domains:
            raise ConfigError("domains and any_domain exclude each other")
        if not self.any_domain and not self.domains:
            raise ConfigError(
                "a secret needs a host that it may be sent to",
                hint='domains=["HOST"] (or any_domain=True, to send it to every host a rule allows)',
            )

    def meta(self, name: str, version: int) -> SecretMeta:
        """Return what the policy knows of it.

        Raises:
            ConfigError: the name cannot be used.
        """
        if not isinstance(name, str) or not SECRET_NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} cannot be the name of a secret",
                hint="letters, digits, underscores, dots and hyphens, a letter or underscore first",
            )
        return SecretMeta(name, "", tuple(self.domains), self.any_domain, self.kind, self.key or "", version)


def compiled(rules: Iterable[Rule | str], action: Action) -> tuple[CoreRule, ...]:
    """Return the core's rules of an `allow` or `deny` argument.

    Raises:
        ConfigError: one cannot be used, or two of them say different things of the same calls.
    """
    if isinstance(rules, str | Rule) or not isinstance(rules, Iterable):
        raise ConfigError(f"{action} is a list of rules", hint=f'{action}=["api.example.com", fazt.Rule("…")]')
    found: dict[RuleKey, CoreRule] = {}
    for one in rules:
        if isinstance(one, str):
            one = Rule(one)
        if not isinstance(one, Rule):
            raise ConfigError(
                f"{action}: {type(one).__name__} is no rule", hint='write "api.example.com" or fazt.Rule("…")'
            )
        for rule in one.expand(action):
            if found.setdefault(rule.key, rule) != rule:
                raise ConfigError(f"two rules say different things: {rule}", hint="make one rule of them")
    return tuple(found.values())


def listed(value: object, name: str, kind: type) -> tuple[Any, ...]:
    """Return a list of texts or numbers as a tuple.

    Raises:
        ConfigError: it is something else. One text alone is, too: its letters would be taken for the items.
    """
    what = "texts" if kind is str else "numbers"
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise ConfigError(f"{name} is a list of {what}, not {value!r}", hint=f"{name}=[{value!r}]")
    items = tuple(value)
    for item in items:
        if not isinstance(item, kind) or isinstance(item, bool):
            raise ConfigError(f"{name} is a list of {what}; {item!r} is none of them")
    return items


def pace(rate: int | str, burst: int | None) -> tuple[int, int]:
    """Return requests a minute, and how many of them may come at once: as many as the rate names unless said.

    Raises:
        ConfigError: not a rate, or one that the two numbers cannot express.
    """
    if isinstance(rate, str):
        count, a_minute = _rate(rate)
    elif isinstance(rate, int) and not isinstance(rate, bool) and rate >= 0:
        count = a_minute = rate
    else:
        raise ConfigError(f"rate is a number of requests a minute, not {rate!r}", hint='rate=60, or rate="10/second"')
    if burst is None:
        return a_minute, count
    if isinstance(burst, bool) or not isinstance(burst, int) or burst < 0:
        raise ConfigError(f"burst takes a whole number, 0 or more, not {burst!r}")
    if burst and not a_minute:
        raise ConfigError("burst has no effect without a rate", hint="add rate=N")
    return a_minute, burst


def _rate(text: str) -> tuple[int, int]:
    from fazt.core.rates import parse_rates

    rates = parse_rates(text, "rate")
    if not rates:
        return 0, 0
    if len(rates) > 1:
        raise ConfigError(
            f"rate={text!r}: a rule has one rate", hint="several windows belong to the traffic settings of the client"
        )
    most, seconds = rates[0]
    a_minute = most * 60 / seconds
    if a_minute < 1 or a_minute != int(a_minute):
        raise ConfigError(
            f"rate={text!r} is no whole number of requests a minute", hint=f'rate="{max(1, round(a_minute))}/minute"'
        )
    return most, int(a_minute)


def milliseconds(seconds: float | None) -> int:
    """Return a time limit in whole milliseconds, 0 for none.

    Raises:
        ConfigError: not a number of seconds above zero and within a day.
    """
    if seconds is None:
        return 0
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= _MAX_TIMEOUT:
        raise ConfigError(f"timeout is a number of seconds above 0, at most {_MAX_TIMEOUT:g}, not {seconds!r}")
    return math.ceil(seconds * 1000)


def in_python(refused: ConfigError) -> ConfigError:
    """Return a refusal of the command line in the names that a program uses."""
    message, hint = refused.message, refused.hint
    for pattern, said in _SPELLINGS:
        message = pattern.sub(said, message)
        hint = hint and pattern.sub(said, hint)
    return ConfigError(message, hint=hint)


def spelled(rule: CoreRule) -> dict[str, Any]:
    """Return what `Rule` takes to make this one rule, without what it takes for granted."""
    said = {
        "target": rule.pattern if (rule.scheme, rule.port) == ("https", 443) else rule.origin,
        "addresses": list(rule.addresses),
        "methods": sorted(rule.methods),
        "paths": [rule.path] if rule.path else [],
        "rate": rule.rate,
        "timeout": rule.timeout_ms / 1000,
        "max_response": rule.max_response,
        "cache_ttl": rule.cache_ttl,
        "inject": rule.inject,
        "path_encoded_slash": rule.path_encoded_slash,
    }
    named = {name: value for name, value in said.items() if value}
    return named | ({"burst": rule.burst} if rule.rate and rule.burst != rule.rate else {})
