"""The narrowest commands after which a refused call would pass, tried out on the policy before they are suggested.

What is suggested is built from the same values that are tried: a command that would change nothing, that would be
refused, or that would not be enough is never shown.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fazt.core.addresses import classify, judge, parse_grant
from fazt.core.gates import secret_for
from fazt.core.policy import SECRET_NAME, Policy, SecretMeta
from fazt.core.rules import Allowed, Rule, expand_target, given, merge
from fazt.core.url import Url, rule_path
from fazt.errors import ConfigError, FaztError, Reason

_SETTINGS = {
    "rate": "--rate",
    "burst": "--burst",
    "timeout_ms": "--timeout",
    "max_response": "--max-response",
    "cache_ttl": "--cache-ttl",
    "inject": "--inject",
}
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class World:
    """What surrounds a call beside the policy.

    Args:
        static: addresses of names that are never looked up in DNS, so that naming them gives nothing away.
        own: fazt's own listeners, from `expand_listeners`.
        local: addresses of this machine's interfaces.
    """

    static: Mapping[str, Sequence[str]] = field(default_factory=dict)
    own: frozenset[tuple[str, int]] = frozenset()
    local: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Asked:
    """A call as the gates see it.

    Args:
        app: id of the app, "" for the operator's own calls; a name where `unknown`.
        url: its canonical URL.
        method: its method, in upper case.
        auth: name of a secret it asks for.
        unknown: the app does not exist, but a grant would make its record.
        commands: the policy is one that commands change, and that knows apps.
    """

    app: str
    url: Url
    method: str
    auth: str | None = None
    unknown: bool = False
    commands: bool = True


@dataclass(frozen=True, slots=True)
class Remedy:
    """Commands that make a call pass, and what else they change.

    Args:
        commands: for a shell, one after the other.
        notes: what else they change.
        rule: the rule that they make or change, where one is to be.
        secret: name of the secret and the hosts it is to be for, where one is to be set.
    """

    commands: tuple[str, ...]
    notes: tuple[str, ...] = ()
    rule: Rule | None = None
    secret: tuple[str, tuple[str, ...]] | None = None

    @property
    def command(self) -> str:
        """One line for a shell."""
        return " && ".join(self.commands)


@dataclass(frozen=True, slots=True)
class _Grant:
    command: str
    rule: Rule
    notes: tuple[str, ...]


def mend(policy: Policy, asked: Asked, world: World, *, addresses: Sequence[str] | None = None) -> Remedy | None:
    """Return what would make a call pass that rule, secret or address gate refuse; None when nothing should.

    Args:
        policy: the snapshot that refuses it.
        asked: the call.
        world: static names, own listeners, interfaces.
        addresses: what the host resolves to, None where it was not looked up.
    """
    decision = policy.decide(app=asked.app, url=asked.url, method=asked.method)
    rule = decision.rule if isinstance(decision, Allowed) and not asked.unknown else None
    commands: list[str] = []
    notes: tuple[str, ...] = ()
    made: Rule | None = None
    wanted: tuple[str, tuple[str, ...]] | None = None
    known = world.static.get(asked.url.host) if addresses is None else addresses
    ranges = _ranges(known, rule, asked, world)
    if ranges is None:
        return None
    if rule is None or ranges != rule.addresses:
        grant = _grant(policy, asked, rule=rule, ranges=ranges)
        if grant is None:
            return None
        commands.append(grant.command)
        rule, notes = grant.rule, grant.notes
        made = rule
    name = asked.auth or rule.inject
    if name:
        try:
            secret_for(policy, app=asked.app, name=name, url=asked.url)
        except FaztError as refused:
            domains = _domains(policy, asked, name, refused.reason)
            if domains is None:
                return None
            wanted = (name, domains)
            commands.append(_secret(policy, asked, name, domains, refused.reason))
    return Remedy(tuple(commands), notes, made, wanted)


def _ranges(addresses: Sequence[str] | None, rule: Rule | None, asked: Asked, world: World) -> tuple[str, ...] | None:
    """Return the ranges a rule needs for these addresses, None where one of them can be granted to no rule."""
    granted = rule.addresses if rule is not None else ()
    if not addresses or _reachable(addresses, granted, asked, world):
        return granted
    wanted = list(granted)
    for address in addresses:
        if _reachable([address], wanted, asked, world):
            continue
        try:
            wanted.append(parse_grant(f"{classify(address).address}/{128 if ':' in address else 32}"))
        except ConfigError:
            return None
    return tuple(sorted(set(wanted))) if _reachable(addresses, wanted, asked, world) else None


def _reachable(addresses: Sequence[str], grant: Sequence[str], asked: Asked, world: World) -> bool:
    try:
        judge(addresses, port=asked.url.port, grant=tuple(grant), own=world.own, local=world.local)
    except FaztError:
        return False
    return True


def _grant(policy: Policy, asked: Asked, *, rule: Rule | None, ranges: tuple[str, ...]) -> _Grant | None:
    """Return the narrowest rule for this call: its host, its origin, its method, its path.

    A narrower rule takes this call over from the one that holds now, so it takes that one's settings along.
    """
    url = asked.url
    tiers = policy.rules.tiers(app=asked.app, host=url.host)
    here = (asked.app, url.host)
    there = next((rules for rules in tiers if rules and (rules[0].scope, rules[0].pattern) == here), ())
    final = next((rules for rules in tiers if any(one.action == "allow" for one in rules)), ())
    shadowed = tuple(one for one in final if one.action == "allow" and (one.scope, one.pattern) != here)
    for path, encoded_slash in _paths(url):
        options: dict[str, Any] = {
            "methods": [asked.method],
            "paths": [path] if path else [],
            "addresses": ranges or None,
            "path_encoded_slash": True if encoded_slash else None,
        }
        target = url.host if (url.scheme, url.port) == ("https", 443) else url.origin
        try:
            (made,) = expand_target(target, scope=asked.app, **options)
            old = next((one for one in there if one.key == made.key), None)
            if rule is not None and old is None:
                options |= {name: getattr(rule, name) or None for name in _SETTINGS}
                (made,) = expand_target(target, scope=asked.app, **options)
        except ConfigError:
            continue
        made = merge(old, made, given(options))
        index = policy.rules.replacing({here: [*(one for one in there if one.key != made.key), made]})
        tried = index.decide(app=asked.app, url=url, method=asked.method)
        if not isinstance(tried, Allowed) or tried.rule != made:
            continue
        notes = [*_about_shadowed(policy, asked, shadowed, public=policy.public is not None and not final)]
        notes += _about_width(asked, made)
        return _Grant(_allow(target, _name(policy, asked), options), made, tuple(notes))
    return None


def _paths(url: Url) -> Iterator[tuple[str, bool]]:
    """Yield path prefixes with whether %2f has to count as a slash in them, the narrowest first, at last none."""
    form = rule_path(url)
    if not form.ambiguous:
        path = form.path.rstrip("/")
        while path:
            yield path.replace("%2F", "/"), form.encoded_slash
            path = path.rpartition("/")[0]
    yield "", False


def _allow(target: str, app: str, options: Mapping[str, Any]) -> str:
    words = ["fazt", "net", "allow", target]
    if app:
        words += ["--app", app]
    for flag, name in (("--method", "methods"), ("--path", "paths"), ("--address", "addresses")):
        for value in options.get(name) or ():
            words += [flag, value]
    if options.get("path_encoded_slash"):
        words.append("--path-encoded-slash")
    for name, flag in _SETTINGS.items():
        if options.get(name):
            words += [flag, str(options[name])]
    return shlex.join(words)


def _about_shadowed(policy: Policy, asked: Asked, shadowed: Sequence[Rule], *, public: bool) -> Iterator[str]:
    if public:
        yield (
            f"the fix makes the first rule for {asked.url.host}, to which the grant for public hosts then no longer "
            "applies: repeat there what is still needed"
        )
    if not shadowed:
        return
    listed = ", ".join(rule.id for rule in shadowed[:_SHOWN]) + (" and others" if len(shadowed) > _SHOWN else "")
    whom = f"of {_name(policy, asked)} " if asked.app else ""
    rules, apply = ("rule", "applies") if len(shadowed) == 1 else ("rules", "apply")
    yield (
        f"the fix makes the first rule {whom}for {asked.url.host} itself, "
        f"to which the wider {rules} {listed} then no longer {apply}: repeat there what is still needed"
    )


def _about_width(asked: Asked, made: Rule) -> Iterator[str]:
    if not asked.app and asked.commands:
        yield "the fix is for all apps: the operator's own calls know no other rules (--app narrows it)"
    if not made.path:
        yield "the fix covers every path: no rule can name this one alone"


def _domains(policy: Policy, asked: Asked, name: str, reason: Reason) -> tuple[str, ...] | None:
    """Return the hosts a secret has to be for so that it may be sent; None where no command helps."""
    if asked.url.scheme != "https" or not SECRET_NAME.fullmatch(name):
        return None
    if reason is Reason.SECRET_WRONG_HOST:
        return (*_held(policy, asked, name).domains, asked.url.host)
    return (asked.url.host,) if reason in (Reason.SECRET_UNKNOWN, Reason.SECRET_WRONG_APP) else None


def _secret(policy: Policy, asked: Asked, name: str, domains: Sequence[str], reason: Reason) -> str:
    words = ["fazt", "secret", "set", name]
    if reason is Reason.SECRET_WRONG_HOST:
        meta = _held(policy, asked, name)
        if meta.kind != "bearer":
            words += ["--as", meta.kind, "--key", meta.key]
    for domain in domains:
        words += ["--domain", domain]
    app = _name(policy, asked)
    return shlex.join([*words, "--app", app] if app else words)


def _held(policy: Policy, asked: Asked, name: str) -> SecretMeta:
    return policy.secrets.get((asked.app, name)) or policy.secrets["", name]


def _name(policy: Policy, asked: Asked) -> str:
    return app_name(policy, asked.app)


def app_name(policy: Policy, app: str) -> str:
    """Return what an operator calls an app: its name, or what stands for it where it has none."""
    meta = policy.apps.get(app)
    return meta.name if meta is not None and meta.name else app


def change_rule(policy: Policy, rule: Rule, **settings: int) -> str | None:
    """Return the command that changes settings of a stored rule and nothing else, None where there is none.

    Args:
        policy: the snapshot, for the app's name.
        rule: a stored allow.
        settings: `burst`, `max_response` and the like.
    """
    options: dict[str, Any] = {"methods": sorted(rule.methods), "paths": [rule.path] if rule.path else [], **settings}
    target = rule.pattern if (rule.scheme, rule.port) == ("https", 443) else rule.origin
    for shared in (False, True):
        try:
            made = expand_target(target, scope=rule.scope, shared_suffix=shared, **options)
        except ConfigError:
            continue
        if [one.key for one in made] == [rule.key]:
            command = _allow(target, app_name(policy, rule.scope), options)
            return f"{command} --shared-suffix" if shared else command
    return None
