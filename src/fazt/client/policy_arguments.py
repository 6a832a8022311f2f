"""What a policy is made of: each argument checked by itself, then all of them together as one snapshot."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from os import PathLike, fspath
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fazt.client.rules import Rule, Secret, compiled
from fazt.core import limits as limits_of
from fazt.core.policy import Policy as Snapshot
from fazt.core.policy import SecretMeta
from fazt.core.public import PORTS, PublicGrant
from fazt.core.rules import RuleIndex
from fazt.errors import ConfigError, FaztError, Reason

_SMALL_MACHINE = 512 * 1024 * 1024
# A program's own policy has no operator's limits: the same numbers on every machine.
LIMITS = limits_of.defaults(total_ram=_SMALL_MACHINE, available_ram=_SMALL_MACHINE, cpu_cores=1)
NOTHING: Mapping[str, Any] = MappingProxyType({})
_ODD = re.compile(r"[\s,=]")  # what the entries of FAZT_RESOLVE are parted by

Resolve = Mapping[str, Sequence[str] | str]
CaFile = str | PathLike[str]


@dataclass(frozen=True, slots=True)
class Made:
    """What the arguments of a policy come to."""

    snapshot: Snapshot
    resolve: Mapping[str, tuple[str, ...]]
    ca_files: tuple[Path, ...]


class MemoryVault:
    """Values of secrets by name and version; they leave it one at a time, at the moment of sending."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, tuple[int, str]]) -> None:
        self._values = dict(values)

    def __repr__(self) -> str:
        return f"<MemoryVault of {len(self._values)}>"

    def replace(self, values: Mapping[str, tuple[int, str]]) -> None:
        """Take new values; the old ones are never given out again."""
        self._values = dict(values)

    def value(self, scope: str, name: str, *, version: int | None = None) -> str:
        """Return the value of a secret (`ports.Vault`).

        Raises:
            FaztError: `secret_unknown`; `store` (retryable) when it changed while the call was running.
        """
        held = self._values.get(name) if not scope else None
        if held is None:
            raise FaztError(
                Reason.SECRET_UNKNOWN, "there is no secret of this name here", detail=f"secret {name[:128]!r}"
            )
        if version is not None and held[0] != version:
            raise FaztError(
                Reason.STORE,
                "the secret was changed while the call was running",
                retryable=True,
                detail=f"secret {name}: version {version} is gone",
            )
        return held[1]


class Arguments:
    """What a policy is made of, each thing checked by itself.

    Raises:
        ConfigError: one of them cannot be used.
    """

    __slots__ = ("allow", "ca_files", "deny", "name", "public", "resolve", "secrets")

    def __init__(
        self,
        allow: Iterable[Rule | str],
        deny: Iterable[Rule | str],
        public: PublicGrant | None,
        resolve: Resolve | None,
        ca_file: CaFile | Sequence[CaFile] | None,
        secrets: Mapping[str, Secret] | None,
        name: str,
    ) -> None:
        if not isinstance(name, str):
            raise ConfigError(f"name is text, not {name!r}")
        self.allow = compiled(allow, "allow")
        self.deny = compiled(deny, "deny")
        self.public = public
        self.resolve = _static(resolve)
        self.ca_files = _files(ca_file)
        self.secrets = _checked(secrets)
        self.name = name

    def __repr__(self) -> str:  # the secrets are in it
        return f"<Arguments of {self.name!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickled, tuple(dict(value) if isinstance(value, Mapping) else value for value in self._values())

    def _values(self) -> tuple[Any, ...]:
        return self.allow, self.deny, self.public, self.resolve, self.ca_files, self.secrets, self.name


def _unpickled(*values: Any) -> Arguments:
    """Return arguments that were checked in another process, as they were there."""
    made = Arguments.__new__(Arguments)
    for name, value in zip(("allow", "deny", "public", "resolve", "ca_files", "secrets", "name"), values, strict=True):
        setattr(made, name, value)
    return made


def compose(given: Arguments, secrets: Iterable[SecretMeta], *, revision: int = 0) -> Made:
    """Return the snapshot of a policy, and how its calls reach the network.

    Args:
        given: what it is made of.
        secrets: what is known of its secrets beside the values.
        revision: which one of a policy that changes.

    Raises:
        ConfigError: the arguments do not fit each other.
    """
    metas = {("", meta.name): meta for meta in secrets}
    for rule in given.allow:
        if rule.inject and ("", rule.inject) not in metas:
            raise ConfigError(
                f"the rule for {rule.origin} injects {rule.inject!r}, which is no secret of this policy",
                hint=f'secrets={{"{rule.inject}": fazt.Secret(…, domains=["{rule.pattern}"])}}',
            )
    snapshot = Snapshot(
        revision=revision,
        rules=RuleIndex.build((*given.allow, *given.deny)),
        secrets=metas,
        apps={},
        limits=LIMITS,
        public=given.public,
    )
    return Made(snapshot, given.resolve, given.ca_files)


def public_grant(
    *,
    ports: Sequence[int] = PORTS,
    https_only: bool = False,
    methods: Sequence[str] = (),
    rate: int | str = 0,
    burst: int | None = None,
    max_bytes: int = 0,
    timeout: float | None = None,
    cache_ttl: int = 0,
) -> PublicGrant:
    """Return the grant for all public hosts, read by the parser that reads rules.

    Raises:
        ConfigError: as `Rule`.
    """
    if not isinstance(https_only, bool):
        raise ConfigError(f"https_only is True or False, not {https_only!r}")
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 0:
        raise ConfigError(f"max_bytes takes a whole number, 0 or more, not {max_bytes!r}")
    read = Rule(
        "public.invalid",  # stands for any host: RFC 2606 section 2 keeps it from being one
        ports=ports,
        methods=methods,
        rate=rate,
        burst=burst,
        max_response=max_bytes,
        timeout=timeout,
        cache_ttl=cache_ttl,
    )
    rules = read.expand("allow")
    return PublicGrant(
        ports=tuple(rule.port for rule in rules) if read.ports else (),
        https_only=https_only,
        methods=rules[0].methods,
        rate=rules[0].rate,
        burst=rules[0].burst,
        timeout_ms=rules[0].timeout_ms,
        max_response=rules[0].max_response,
        cache_ttl=rules[0].cache_ttl,
    )


def _checked(secrets: Mapping[str, Secret] | None) -> Mapping[str, Secret]:
    if secrets is None:
        return NOTHING
    if not isinstance(secrets, Mapping):
        raise ConfigError(
            "secrets is a dict of fazt.Secret by name", hint='secrets={"KEY": fazt.Secret(value, domains=["HOST"])}'
        )
    for name, secret in secrets.items():
        if not isinstance(secret, Secret):  # not shown: it may be the value itself
            raise ConfigError(
                f"the secret {name!r} is no fazt.Secret", hint=f'"{name}": fazt.Secret(value, domains=["HOST"])'
            )
        secret.meta(name, 1)
    return dict(secrets)


def _static(resolve: Resolve | None) -> Mapping[str, tuple[str, ...]]:
    """Return static names as `FAZT_RESOLVE` gives them, read by its parser."""
    if not resolve:
        if resolve is None or isinstance(resolve, Mapping):
            return NOTHING
        raise ConfigError("resolve is a dict of addresses by name", hint='resolve={"api.example.com": ["192.0.2.1"]}')
    from fazt.net.resolve import parse_resolve

    if not isinstance(resolve, Mapping):
        raise ConfigError("resolve is a dict of addresses by name", hint='resolve={"api.example.com": ["192.0.2.1"]}')
    found: dict[str, tuple[str, ...]] = {}
    for name, value in resolve.items():
        addresses = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
        texts = (name, *addresses)
        if len(texts) < 2 or not all(isinstance(text, str) and text and not _ODD.search(text) for text in texts):
            raise ConfigError(f"resolve: {name!r} needs addresses", hint='resolve={"api.example.com": ["192.0.2.1"]}')
        for host, listed in parse_resolve(f"{name}={','.join(addresses)}").items():
            if found.setdefault(host, listed) != listed:
                raise ConfigError(f"resolve names {host} twice")
    return MappingProxyType(found)


def _files(given: CaFile | Sequence[CaFile] | None) -> tuple[Path, ...]:
    if given is None:
        return ()
    names = [given] if isinstance(given, str | PathLike) else given
    if not isinstance(names, Iterable):
        raise ConfigError(f"ca_file is the path of a PEM file, or a list of them, not {names!r}")
    paths = []
    for name in names:
        if not isinstance(name, str | PathLike):
            raise ConfigError(f"ca_file is the path of a PEM file, or a list of them, not {name!r}")
        path = Path(fspath(name)).expanduser().absolute()
        if not path.is_file():
            raise ConfigError(f"the CA file {path} does not exist", hint="name a PEM file: ca_file=PATH")
        paths.append(path)
    return tuple(paths)


def digest(made: Made) -> str:
    """Return what tells one policy from another in every process; secrets count by name and hosts, not by value."""
    held = made.snapshot
    said = {
        "rules": sorted(json.dumps(_plain(rule), sort_keys=True) for rule in held.rules.rules()),
        "public": None if held.public is None else _plain(held.public),
        "secrets": sorted(json.dumps(_plain(meta), sort_keys=True) for meta in held.secrets.values()),
        "resolve": {host: list(addresses) for host, addresses in made.resolve.items()},
        "ca_files": [str(path) for path in made.ca_files],
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def _plain(value: Any) -> dict[str, Any]:
    """Return the fields of a value in an order that every process agrees on."""
    plain = {item.name: getattr(value, item.name) for item in fields(value) if item.compare}
    return {name: sorted(held) if isinstance(held, frozenset) else held for name, held in plain.items()}
