"""What an operator grants or denies: one rule, and how a line typed by a person becomes rules."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from fazt.core.addresses import parse_grant
from fazt.core.suffixes import SuffixKind, suffix_kind
from fazt.core.url import DEFAULT_PORTS, Url, parse_host, parse_url, rule_path
from fazt.errors import ConfigError, FaztError, Reason

Action = Literal["allow", "deny"]
RuleKey = tuple[str, str, str, str, int, tuple[str, ...], str]

ANY_SCHEME = "*"
"""Scheme of a deny that covers every scheme. In an allow it matches nothing."""
ANY_PORT = 0
"""Port of a deny that covers every port. In an allow it matches nothing."""

SETTINGS = (
    "rate",
    "burst",
    "timeout_ms",
    "max_response",
    "cache_ttl",
    "inject",
    "addresses",
    "path_encoded_slash",
)
"""Fields of a rule that an upsert may change; the others are its key."""

_MAX_COUNT = 2**53
_TOKEN = re.compile(r"[A-Z0-9!#$%&'+.^_`|~-]+")  # RFC 9110 section 5.6.2; "*" is left to mean a mistake
_TARGET = re.compile(r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://)?(?P<rest>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rule:
    """One grant or denial.

    Args:
        id: stable name, derived from the key.
        scope: id of the app it holds for; "" for every app.
        action: "allow" or "deny".
        scheme: "https" or "http"; "*" in a deny of every scheme.
        pattern: canonical host, or "*." and a canonical host: any depth below it, never itself.
        port: 1 to 65535; 0 in a deny of every port.
        methods: upper-case names; empty for every method.
        path: canonical prefix without trailing slash, matched on segment boundaries; "" for every path.
        rate: requests a minute; 0 inherits, as in all numbers below.
        burst: requests that may follow each other without waiting.
        timeout_ms: time limit of a call in milliseconds.
        max_response: largest response body in bytes.
        cache_ttl: seconds a response may be cached; 0 for no caching.
        inject: name of a secret sent with every call; "" for none.
        addresses: private ranges (CIDR) that the host may resolve to.
        path_encoded_slash: %2f in a path counts as a slash instead of refusing the call.
        created_at: seconds since the epoch (UTC).
    """

    id: str
    scope: str
    action: Action
    scheme: str
    pattern: str
    port: int
    methods: frozenset[str] = frozenset()
    path: str = ""
    rate: int = 0
    burst: int = 0
    timeout_ms: int = 0
    max_response: int = 0
    cache_ttl: int = 0
    inject: str = ""
    addresses: tuple[str, ...] = ()
    path_encoded_slash: bool = False
    created_at: float = 0.0

    @property
    def key(self) -> RuleKey:
        """What makes it this rule: an upsert with an equal key changes it instead of adding another."""
        return (self.scope, self.action, self.scheme, self.pattern, self.port, tuple(sorted(self.methods)), self.path)

    @property
    def origin(self) -> str:
        """Scheme, host pattern and port as an operator writes them, without what the scheme implies."""
        if self.scheme == ANY_SCHEME:
            return self.pattern if self.port == ANY_PORT else f"{self.pattern}:{self.port}"
        implied = self.port in (ANY_PORT, DEFAULT_PORTS.get(self.scheme))
        return f"{self.scheme}://{self.pattern}" + ("" if implied else f":{self.port}")

    def __str__(self) -> str:
        methods = ",".join(sorted(self.methods)) + " " if self.methods else ""
        scope = f"app {self.scope}" if self.scope else "all apps"
        return f"{self.action} {methods}{self.origin}{self.path} for {scope}"


def rule_id(key: RuleKey) -> str:
    """Return the id of the rule with this key; equal keys have equal ids in every process."""
    text = repr(key).encode("utf-8", "surrogatepass")
    return "r_" + hashlib.sha256(text).hexdigest()[:12]


def covers(pattern: str, host: str) -> bool:
    """Tell whether a host pattern covers a canonical host: `*.x` any depth below x, never x itself."""
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def given(settings: Mapping[str, object]) -> frozenset[str]:
    """Return which settings an operator named: those that are not None (and for `addresses` not empty).

    Args:
        settings: the keyword arguments that go to `expand_target`; names that are no settings are ignored.
    """
    named = {name for name in SETTINGS if settings.get(name) is not None}
    return frozenset(name for name in named if name != "addresses" or settings[name] != ())


def merge(old: Rule | None, new: Rule, named: frozenset[str]) -> Rule:
    """Return what an upsert stores: the stored rule with the named settings replaced (A.15).

    Args:
        old: the stored rule of the same key, or None.
        new: the rule as `expand_target` made it.
        named: settings the operator named, from `given`; the others keep their stored values.
    """
    if old is None:
        return new
    if old.key != new.key:
        raise ValueError(f"{old} and {new} are two rules")
    return replace(old, **{name: getattr(new, name) for name in named})


def host_pattern(text: str, *, shared_suffix: bool = False, deny: bool = False) -> str:
    """Return the canonical form of `HOST` or `*.HOST`.

    Args:
        text: as typed, without scheme, port and path.
        shared_suffix: permit a wildcard over a suffix whose names belong to strangers (github.io).
        deny: the pattern is for a deny, which may be as wide as it likes.

    Raises:
        ConfigError: not a host name, or a wildcard that reaches too far.
    """
    wildcard, name = _split_star(text)
    try:
        host = parse_host(name)
    except FaztError as refused:
        raise _bad_host(text, refused) from None
    return _pattern(host, wildcard=wildcard, shared_suffix=shared_suffix, deny=deny)


def expand_target(
    target: str,
    *,
    scope: str,
    action: Action = "allow",
    http: bool = False,
    methods: Iterable[str] = (),
    paths: Iterable[str] = (),
    ports: Iterable[int] = (),
    shared_suffix: bool = False,
    rate: int | None = None,
    burst: int | None = None,
    timeout_ms: int | None = None,
    max_response: int | None = None,
    cache_ttl: int | None = None,
    inject: str | None = None,
    addresses: Sequence[str] | None = None,
    path_encoded_slash: bool | None = None,
    created_at: float = 0.0,
) -> tuple[Rule, ...]:
    """Return the rules that one `net allow` or `net deny` stands for: schemes by ports by paths.

    A bare `DOMAIN` allows https on 443 and denies every scheme and port; an origin means that origin alone. Settings
    that are None were not named: `merge` keeps what is stored. 0 and "" reset, as does `("none",)` for addresses.

    Args:
        target: `DOMAIN`, `*.DOMAIN` or an origin such as `https://host:8443`.
        scope: id of an app, or "" for all apps.
        action: "allow" or "deny"; a deny takes no settings but `path_encoded_slash`.
        http: allow plain http beside https; on 80 unless `ports` are named.
        methods: the only methods meant; none for all.
        paths: the only path prefixes meant; none for all.
        ports: ports in place of the scheme's own.
        shared_suffix: permit a wildcard over a suffix whose names belong to strangers.
        rate, burst, timeout_ms, max_response, cache_ttl, inject, path_encoded_slash, created_at: as in `Rule`.
        addresses: private ranges that the host may resolve to.

    Raises:
        ConfigError: names what cannot be used and what to type instead.
    """
    settings: dict[str, object] = {
        "rate": _count("--rate", rate),
        "burst": _count("--burst", burst),
        "timeout_ms": _count("--timeout", timeout_ms),
        "max_response": _count("--max-response", max_response),
        "cache_ttl": _count("--cache-ttl", cache_ttl),
        "inject": inject,
        "addresses": _addresses(addresses),
        "path_encoded_slash": path_encoded_slash,
    }
    named = {name: value for name, value in settings.items() if value is not None}
    if action == "deny" and named.keys() - {"path_encoded_slash"}:
        raise ConfigError("a deny takes no settings: it refuses every call that it matches")
    paths = tuple(paths)
    if path_encoded_slash and not paths:
        raise ConfigError(
            "--path-encoded-slash has no effect on a rule that does not restrict paths", hint="add --path"
        )
    parsed = _parse_target(target, shared_suffix=shared_suffix, deny=action == "deny")
    origins = _origins(parsed, deny=action == "deny", http=http, ports=[_port(port) for port in ports])
    if inject and any(scheme == "http" for scheme, _ in origins):
        raise ConfigError(
            "a secret is never sent over plain http, so a rule that injects one cannot allow http",
            hint="make two rules: one for https with --inject, one for http without",
        )
    wanted_methods = frozenset(_method(name) for name in methods)
    wanted_paths = dict.fromkeys(_path(path, encoded_slash=bool(path_encoded_slash)) for path in paths) or {"": None}
    rules: list[Rule] = []
    for scheme, port in origins:
        for path in wanted_paths:
            key = (scope, action, scheme, parsed.pattern, port, tuple(sorted(wanted_methods)), path)
            rule = Rule(
                rule_id(key), scope, action, scheme, parsed.pattern, port, wanted_methods, path, created_at=created_at
            )
            rules.append(replace(rule, **named))  # type: ignore[arg-type]
    return tuple(rules)


class _Target(NamedTuple):
    scheme: str | None
    pattern: str
    port: int | None
    """None unless the target names one that its scheme does not imply."""


def _parse_target(text: str, *, shared_suffix: bool, deny: bool) -> _Target:
    match = _TARGET.fullmatch(text)
    assert match is not None  # the pattern takes any text
    scheme: str | None = match["scheme"].lower() if match["scheme"] else None
    rest: str = match["rest"]
    if scheme is not None and scheme not in DEFAULT_PORTS:
        raise ConfigError("a rule is for https or http; no other scheme is ever fetched", hint="https://HOST")
    if "@" in rest:  # not shown back: what stands before it may be a password
        raise ConfigError(
            "a rule names a host without user name and password", hint="store them with `fazt secret set`"
        )
    if scheme is not None:
        rest = rest.removesuffix("/")  # an origin is often copied with the slash a browser adds
    if any(mark in rest for mark in "/?#"):
        raise ConfigError(
            f"{text!r} has a path or query", hint="name the host, and add --path /PREFIX to restrict paths"
        )
    wildcard, name = _split_star(rest)
    try:
        url = parse_url(f"{scheme or 'https'}://{name}")
    except FaztError as refused:
        raise _bad_host(text, refused) from None
    pattern = _pattern(url.host, wildcard=wildcard, shared_suffix=shared_suffix, deny=deny)
    return _Target(scheme, pattern, None if url.port == DEFAULT_PORTS[url.scheme] else url.port)


def _split_star(text: str) -> tuple[bool, str]:
    wildcard = text.startswith("*.")
    name = text[2:] if wildcard else text
    if text in ("*", "*."):
        raise ConfigError(
            "a rule for every host would be no rule", hint="name the hosts, or *.DOMAIN for those below one"
        )
    if "*" in name:
        raise ConfigError(f"{text!r}: a star stands only for the whole first part", hint="*.DOMAIN")
    return wildcard, name


def _pattern(host: str, *, wildcard: bool, shared_suffix: bool, deny: bool) -> str:
    if not wildcard:
        return host
    kind = SuffixKind.OWN if deny else suffix_kind(host)
    if kind is SuffixKind.REGISTRY:
        raise ConfigError(f"*.{host} would grant names that anybody can register", hint="name the domain you mean")
    if kind is SuffixKind.SHARED and not shared_suffix:
        raise ConfigError(
            f"the names below {host} belong to customers who don't know each other",
            hint="name the host you mean, or add --shared-suffix to trust them all",
        )
    return f"*.{host}"


def _bad_host(text: str, refused: FaztError) -> ConfigError:
    if refused.reason is Reason.IP_LITERAL:
        return ConfigError(
            f"{text!r} is an IP address; rules are for names",
            hint="name the host (--resolve NAME=ADDRESS), and let its rule reach a private range with --address CIDR",
        )
    if refused.reason is Reason.USERINFO:
        return ConfigError("a rule names a host without user name and password")
    return ConfigError(f"{text!r} is not a host name: {refused.message}", hint="DOMAIN, *.DOMAIN or https://HOST:PORT")


def _origins(target: _Target, *, deny: bool, http: bool, ports: Sequence[int]) -> list[tuple[str, int]]:
    """Return the (scheme, port) pairs that a target stands for."""
    scheme, pattern, port = target
    if ports and (scheme is not None or port is not None):
        raise ConfigError("the target names its port already", hint=f"fazt net allow {pattern} --port N")
    if scheme is not None:
        if http and (deny or scheme != "http"):
            raise ConfigError("an origin stands for itself alone", hint=f"add a rule for http://{pattern}")
        return [(scheme, DEFAULT_PORTS[scheme] if port is None else port)]
    if deny:
        if http:
            raise ConfigError("a deny covers http already", hint=f"to deny http alone: fazt net deny http://{pattern}")
        # Of the readings of a bare name the stricter one: every scheme, and every port unless one is named.
        named = dict.fromkeys([*ports, *([] if port is None else [port])])
        return [(ANY_SCHEME, each) for each in named or [ANY_PORT]]
    if port is not None:
        if http or port == DEFAULT_PORTS["http"]:
            raise ConfigError(
                f"it is unclear which scheme port {port} is for", hint=f"fazt net allow http://{pattern}:{port}"
            )
        return [("https", port)]
    schemes = ("https", "http") if http else ("https",)
    return [(each, number) for each in schemes for number in dict.fromkeys(ports or [DEFAULT_PORTS[each]])]


def _port(port: int) -> int:
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise ConfigError(f"--port takes a number from 1 to 65535, not {port!r}")
    return port


def _method(name: str) -> str:
    method = name.upper()
    if not name.isascii() or not _TOKEN.fullmatch(method):  # upper() turns some other letters into ASCII ones
        raise ConfigError(f"{name!r} is not an HTTP method", hint="repeat --method for each; leave it out for all")
    if method in ("CONNECT", "TRACE"):
        raise ConfigError(f"{method} is never sent, so no rule can allow it")
    return method


def _path(text: str, *, encoded_slash: bool) -> str:
    """Return the canonical prefix for a path as typed; `/v1/` and `/v1` are one prefix, `/` is every path."""
    if not text.startswith("/") or any(mark in text for mark in "?#"):
        raise ConfigError(f"--path {text!r} is not a path", hint="a prefix such as /v1, without query")
    if "*" in text:
        raise ConfigError(f"--path {text!r}: a path is a prefix, not a pattern", hint="/v1 covers everything below /v1")
    try:
        url: Url = parse_url(f"https://x.invalid{text}")
    except FaztError as refused:
        raise ConfigError(f"--path {text!r} cannot be matched: {refused.message}") from None
    path = rule_path(url)
    if path.ambiguous:
        raise ConfigError(
            f"--path {text!r} means different things to different servers", hint="write it without escapes"
        )
    if path.encoded_slash and not encoded_slash:
        raise ConfigError(f"--path {text!r} holds an encoded slash", hint="write a slash, and add --path-encoded-slash")
    return path.path.replace("%2F", "/").rstrip("/")


def _count(flag: str, value: int | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_COUNT:
        raise ConfigError(f"{flag} takes a whole number, 0 or more, not {value!r}", hint=f"{flag} 0 resets it")
    return value


def _addresses(values: Sequence[str] | None) -> tuple[str, ...] | None:
    if not values:
        return None
    if tuple(values) == ("none",):
        return ()
    return tuple(sorted({parse_grant(value) for value in values}))
