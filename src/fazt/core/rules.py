"""Decide whether a call is granted: the tiers of hosts, and inside the final one scheme, port, method and path.

The order (contracts, "Rules"): the app's rule for the exact host, the app's wildcards from the longest to the
shortest, then the same for rules of all apps. The first of these with any allow is final: what it does not grant is
refused with its own reason, and no wider tier is asked. A deny that matches wins over every allow, whatever its tier.

The index costs the same with ten rules and with a hundred thousand: a call looks up its host and the wildcards above
it, and nothing else. It is immutable; a change makes a new one that shares all but the touched shards.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fazt.core.grants import (
    ANY_PORT,
    ANY_SCHEME,
    SETTINGS,
    Action,
    Rule,
    RuleKey,
    covers,
    expand_target,
    given,
    host_pattern,
    merge,
    rule_id,
)
from fazt.core.url import RulePath, Url, rule_path
from fazt.errors import Reason

__all__ = [
    "ANY_PORT",
    "ANY_SCHEME",
    "SETTINGS",
    "Action",
    "Allowed",
    "Decision",
    "Refused",
    "Rule",
    "RuleIndex",
    "RuleKey",
    "covers",
    "expand_target",
    "given",
    "host_pattern",
    "merge",
    "rule_id",
]

HostKey = tuple[str, str]
"""Scope ("" or app id) and host pattern."""

_SHARDS = 1021  # prime, so that the keys of one shard still spread over its dict's own low bits
_EAGER = 16  # above this many rules for one host, compile when the index is built and not in the first call
_REMEMBERED = 1024  # callers and hosts whose tiers an index keeps at hand
_PARAMETERS = re.compile(r";[^/]*")
_SLASHES = re.compile(r"/{2,}")


@dataclass(frozen=True, slots=True)
class Allowed:
    """The call is granted; this one rule supplies every setting."""

    rule: Rule


@dataclass(frozen=True, slots=True)
class Refused:
    """The call is not granted.

    Args:
        reason: the first gate that failed.
        rule: the deny that matched, or the allow that was chosen and could not be applied; None if there is none.
        detail: what the operator may read; never for the script.
    """

    reason: Reason
    rule: Rule | None
    detail: str


Decision = Allowed | Refused


class RuleIndex:
    """All rules of one revision, found by host."""

    __slots__ = ("_asked", "_count", "_shards", "_wildcards")

    def __init__(self, shards: tuple[dict[HostKey, _Host], ...], *, wildcards: Mapping[int, int], count: int) -> None:
        self._shards = shards
        self._wildcards = wildcards
        """Labels below the star, to how many patterns have so many: no other suffix of a host is looked up."""
        self._count = count
        self._asked: dict[HostKey, _Asked] = {}
        """What was found for (app, host), where something was: as immutable as the index, so never out of date."""

    @classmethod
    def build(cls, rules: Iterable[Rule]) -> RuleIndex:
        """Return the index of these rules; no two of them may have the same key."""
        by_host: defaultdict[HostKey, list[Rule]] = defaultdict(list)
        for rule in rules:
            by_host[rule.scope, rule.pattern].append(rule)
        return cls(({},) * _SHARDS, wildcards={}, count=0).replacing(by_host)

    def replacing(self, changes: Mapping[HostKey, Sequence[Rule]]) -> RuleIndex:
        """Return an index in which the named hosts have these rules and no others.

        Costs as much as the shards of the named hosts hold, however many rules there are.

        Args:
            changes: (scope, pattern) to all rules of that host; none removes it.

        Raises:
            ValueError: a rule does not belong to the key it stands under.
        """
        shards = list(self._shards)
        wildcards = dict(self._wildcards)
        count = self._count
        for key, rules in changes.items():
            if any((rule.scope, rule.pattern) != key for rule in rules):
                raise ValueError(f"a rule of another host stands under {key}")
            at = hash(key) % _SHARDS
            if shards[at] is self._shards[at]:
                shards[at] = dict(shards[at])
            old = shards[at].pop(key, None)
            count += len(rules) - (len(old.rules) if old is not None else 0)
            if rules:
                shards[at][key] = _Host(tuple(rules))
            if key[1].startswith("*."):
                labels = key[1].count(".")
                wildcards[labels] = wildcards.get(labels, 0) + bool(rules) - (old is not None)
        wildcards = {labels: patterns for labels, patterns in wildcards.items() if patterns}
        return RuleIndex(tuple(shards), wildcards=wildcards, count=count)

    def decide(self, *, app: str, url: Url, method: str) -> Decision:
        """Return the one rule that grants a call, or why none does.

        Args:
            app: id of the app; "" for the operator's own calls, to which only rules of all apps apply.
            url: where the call goes.
            method: its method, in upper case.
        """
        key = (app, url.host)
        denies, final = self._asked.get(key) or self._ask(key)
        for deny in denies:
            if (rule := deny.match(url, method)) is not None:
                return Refused(Reason.DENIED_BY_RULE, rule, str(rule))
        if final is None:
            return Refused(Reason.HOST_NOT_GRANTED, None, f"no rule allows {url.host}")
        return final.pick(url, method)

    def tiers(self, *, app: str, host: str) -> tuple[tuple[Rule, ...], ...]:
        """Return the rules that name a host, one tuple for each tier, in the order in which they are asked.

        Args:
            app: as for `decide`.
            host: a canonical host.
        """
        return tuple(found.rules for found in self._tiers(app, host))

    def bucket(self, rule: Rule) -> tuple[str, str]:
        """Return the key of the token bucket that the calls of a rule draw on (A.14).

        Rules of one scope and host pattern share a bucket while their rate and burst are equal: one `net allow` may
        make several. Where they differ each has its own, since neither's calls may be counted at the other's rate.
        """
        key = (rule.scope, rule.pattern)
        host = self._shards[hash(key) % _SHARDS].get(key)
        return rule.scope, rule.id if host is None else host.bucket(rule)

    def rules(self) -> Iterator[Rule]:
        """Yield every rule, in no particular order."""
        for shard in self._shards:
            for host in shard.values():
                yield from host.rules

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<RuleIndex of {self._count} rules>"

    def _ask(self, key: HostKey) -> _Asked:
        """Return the denies and the final allows for (app, host), and remember them where there are any."""
        tiers = self._tiers(*key)
        all_denies: tuple[_Denies, ...] = ()
        final: _Allows | None = None
        for host in tiers:
            allows, denies = host.tables()
            if denies is not None:
                all_denies += (denies,)
            if final is None:
                final = allows
        asked = (all_denies, final)
        if tiers:
            if len(self._asked) >= _REMEMBERED:  # a wildcard has any number of hosts
                self._asked.clear()
            self._asked[key] = asked
        return asked

    def _tiers(self, app: str, host: str) -> list[_Host]:
        patterns = [host]
        if self._wildcards:
            labels = host.count(".")
            dot = host.find(".")
            while dot >= 0:  # every suffix, longest first; a URL's host holds no star, so it equals no wildcard
                if labels in self._wildcards:
                    patterns.append("*" + host[dot:])
                labels -= 1
                dot = host.find(".", dot + 1)
        shards = self._shards
        tiers: list[_Host] = []
        for scope in (app, "") if app else ("",):
            for pattern in patterns:
                key = (scope, pattern)
                found = shards[hash(key) % _SHARDS].get(key)
                if found is not None:
                    tiers.append(found)
        return tiers


class _Host:
    """The rules of one host key. They are put in tables at their first use: most hosts are never called."""

    __slots__ = ("_buckets", "_tables", "rules")

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = rules
        self._buckets: dict[tuple[int, int], str] | None = None
        self._tables: tuple[_Allows | None, _Denies | None] | None = None
        if len(rules) > _EAGER:
            self._compile()

    def tables(self) -> tuple[_Allows | None, _Denies | None]:
        """Return the allows and the denies of this host key, None where there are none."""
        return self._tables or self._compile()

    def bucket(self, rule: Rule) -> str:
        """Return the name of a rule's token bucket: the first id of those with its rate and burst."""
        names = self._buckets
        if names is None:
            names = {}
            for one in self.rules:
                if one.action == "allow":
                    pace = (one.rate, one.burst)
                    names[pace] = min(one.id, names.get(pace, one.id))
            self._buckets = names
        return names.get((rule.rate, rule.burst), rule.id)

    def _compile(self) -> tuple[_Allows | None, _Denies | None]:
        allows = [rule for rule in self.rules if rule.action == "allow"]
        denies = [rule for rule in self.rules if rule.action == "deny"]
        # Two threads may both do this; the results are equal and either may stay.
        tables = self._tables = (_Allows(allows) if allows else None, _Denies(denies) if denies else None)
        return tables


class _Allows:
    """The allows of one tier."""

    __slots__ = ("_origins", "_schemes")

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._origins = _by_origin(rules)
        self._schemes = frozenset(rule.scheme for rule in rules)

    def pick(self, url: Url, method: str) -> Decision:
        """Return the decision of this tier, which is final."""
        origin = self._origins.get((url.scheme, url.port))
        if origin is None:
            if url.scheme not in self._schemes:
                return Refused(Reason.SCHEME_NOT_ALLOWED, None, f"granted: {self._granted()}")
            return Refused(Reason.PORT_NOT_GRANTED, None, f"granted: {self._granted()}")
        if not origin.depth:  # most hosts: no rule names a path
            for methods, allowed in origin.pathless:
                if not methods or method in methods:
                    return allowed
        if not origin.has_method(method):
            return Refused(Reason.METHOD_NOT_GRANTED, None, f"granted: {_few(sorted(origin.methods))}")
        path = rule_path(url)
        rule = origin.longest(path.path, method) if not path.encoded_slash else _longest_of_two(origin, path, method)
        if rule is None:
            return Refused(Reason.PATH_NOT_GRANTED, None, f"granted: {_few(sorted(origin.paths))}")
        if rule.path and path.ambiguous:
            return Refused(Reason.PATH_NOT_GRANTED, rule, "servers differ in what this path names")
        if rule.path and path.encoded_slash and not rule.path_encoded_slash:
            return Refused(Reason.PATH_NOT_GRANTED, rule, "the path holds an encoded slash (--path-encoded-slash)")
        return Allowed(rule)

    def _granted(self) -> str:
        return _few([f"{scheme} on port {port}" for scheme, port in sorted(self._origins)])


class _Denies:
    """The denies of one host key."""

    __slots__ = ("_origins",)

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._origins = _by_origin(rules)

    def match(self, url: Url, method: str) -> Rule | None:
        """Return a deny that covers the call, or None.

        Where servers may differ in what a path names, it counts as the denied one; doubled slashes and segment
        parameters, which many servers ignore, don't lead around a deny either.
        """
        for scheme in (url.scheme, ANY_SCHEME):
            for port in (url.port, ANY_PORT):
                origin = self._origins.get((scheme, port))
                if origin is not None and (rule := _denied(origin, url, method)) is not None:
                    return rule
        return None


_Asked = tuple[tuple[_Denies, ...], _Allows | None]
"""Every deny that can match a call, and the allows of the tier that is final."""


def _denied(origin: _Origin, url: Url, method: str) -> Rule | None:
    if not origin.has_method(method):
        return None
    if not origin.depth:
        return origin.longest("", method)
    path = rule_path(url)
    plain = path.path.replace("%2F", "/")
    loose = _SLASHES.sub("/", _PARAMETERS.sub("", plain))
    for reading in (path.path, plain, loose):
        if (rule := origin.longest(reading, method)) is not None:
            return rule
    for rule in origin.restricted if path.ambiguous or path.encoded_slash else ():
        # A rule that reads %2f as a slash had its say above, unless the path is unclear for another reason.
        if _has_method(rule, method) and (path.ambiguous or not rule.path_encoded_slash):
            return rule
    return None


class _Origin:
    """The rules of one tier, action, scheme and port, found by path prefix."""

    __slots__ = ("depth", "methods", "pathless", "paths", "restricted")

    def __init__(self, rules: list[Rule]) -> None:
        self.methods: frozenset[str] = frozenset().union(*(rule.methods for rule in rules))
        """Empty when some rule takes every method."""
        if not all(rule.methods for rule in rules):
            self.methods = frozenset()
        self.restricted = tuple(rule for rule in rules if rule.path)
        self.depth = max(rule.path.count("/") for rule in rules)
        """Segments of the longest path of a rule: no more of a request's path is looked at."""
        # Equal paths: fewer methods are more specific, all of them least; the id only makes the choice stable.
        rules.sort(key=_specificity)
        by_path: defaultdict[str, list[Rule]] = defaultdict(list)
        for rule in rules:
            by_path[rule.path].append(rule)
        self.paths = {path: tuple(group) for path, group in by_path.items()}
        self.pathless = tuple((rule.methods, Allowed(rule)) for rule in self.paths.get("", ()))
        """The rules without a path as the answers they are, under the methods they are for."""

    def has_method(self, method: str) -> bool:
        return not self.methods or method in self.methods

    def longest(self, path: str, method: str, *, encoded_slash: bool | None = None) -> Rule | None:
        """Return the rule with the longest prefix of `path`, on segment boundaries.

        Args:
            path: canonical; "" matches rules without a path alone.
            method: the call's method.
            encoded_slash: only rules whose `path_encoded_slash` is this; None for all.
        """
        for prefix in _prefixes(path, self.depth):
            for rule in self.paths.get(prefix, ()):
                if _has_method(rule, method) and encoded_slash in (None, rule.path_encoded_slash):
                    return rule
        return None


def _by_origin(rules: Sequence[Rule]) -> dict[tuple[str, int], _Origin]:
    grouped: defaultdict[tuple[str, int], list[Rule]] = defaultdict(list)
    for rule in rules:
        grouped[rule.scheme, rule.port].append(rule)
    return {origin: _Origin(group) for origin, group in grouped.items()}


def _longest_of_two(origin: _Origin, path: RulePath, method: str) -> Rule | None:
    """Match a path with %2f: to some rules that is a slash, to the others an ordinary character."""
    found = (
        origin.longest(path.path, method, encoded_slash=False),
        origin.longest(path.path.replace("%2F", "/"), method, encoded_slash=True),
    )
    return min(
        (rule for rule in found if rule is not None),
        key=lambda rule: (-len(rule.path), _specificity(rule)),
        default=None,
    )


def _specificity(rule: Rule) -> tuple[bool, int, str]:
    return (not rule.methods, len(rule.methods), rule.id)


def _has_method(rule: Rule, method: str) -> bool:
    return not rule.methods or method in rule.methods


def _prefixes(path: str, depth: int) -> Iterator[str]:
    """Yield the prefixes of a path that end between segments, longest first, at most `depth` segments, then ""."""
    ends: list[int] = []
    end = 0
    while path and len(ends) < depth:
        end = path.find("/", end + 1)
        if end < 0:
            ends.append(len(path))
            break
        ends.append(end)
    for end in reversed(ends):
        yield path[:end]
    yield ""


def _few(names: Sequence[str]) -> str:
    """Return names for an operator, however many there are."""
    shown = ", ".join(name or "/" for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
