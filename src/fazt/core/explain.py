"""Why a request is allowed or refused: the gates of the pipeline one by one, and the narrowest grant that would help.

Nothing is decided here: every verdict comes from the gate that the pipeline itself asks.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fazt.core.addresses import classify, judge
from fazt.core.exchange import judge_rule, secret_for
from fazt.core.headers import method as canonical_method
from fazt.core.policy import Policy
from fazt.core.rules import Rule
from fazt.core.url import Url, parse_url, rule_path
from fazt.errors import FaztError, Reason

_NARROW = frozenset(
    {
        Reason.HOST_NOT_GRANTED,
        Reason.SCHEME_NOT_ALLOWED,
        Reason.METHOD_NOT_GRANTED,
        Reason.PATH_NOT_GRANTED,
        Reason.PORT_NOT_GRANTED,
    }
)


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate and what it said: `verdict` is "pass", "refuse" or "skip" (not reached)."""

    gate: str
    verdict: str
    detail: str

    def as_dict(self) -> dict[str, str]:
        """Return the shape of `explain --json`."""
        return {"gate": self.gate, "verdict": self.verdict, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Explanation:
    """All gates in order, the deciding rule, and the narrowest command that would allow the request (or None).

    `url` is None when the text is no URL. `reason` is the first refusal's.
    """

    allowed: bool
    gates: tuple[Gate, ...]
    url: Url | None = None
    method: str = "GET"
    rule: Rule | None = None
    reason: Reason | None = None
    fix: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the shape of `explain --json`."""
        return {
            "allowed": self.allowed,
            "gates": [gate.as_dict() for gate in self.gates],
            "rule": None if self.rule is None else describe(self.rule),
            "fix": self.fix,
        }


def describe(rule: Rule) -> dict[str, Any]:
    """Return what an operator sees of a rule, in the names of `net list --json`."""
    return {
        "id": rule.id,
        "action": rule.action,
        "scope": rule.scope,
        "scheme": rule.scheme,
        "host": rule.pattern,
        "port": rule.port,
        "methods": sorted(rule.methods),
        "path": rule.path,
        "pathEncodedSlash": rule.path_encoded_slash,
        "rate": rule.rate,
        "burst": rule.burst,
        "timeoutMs": rule.timeout_ms,
        "maxResponse": rule.max_response,
        "cacheTtl": rule.cache_ttl,
        "inject": rule.inject or None,
        "addresses": list(rule.addresses),
        "createdAt": rule.created_at,
    }


def explain(
    policy: Policy, url_text: str, *, app: str = "", method: str = "GET", auth: str | None = None
) -> Explanation:
    """Ask the gates that need no network: URL, rule, secret.

    Args:
        policy: the snapshot that would decide.
        url_text: the URL as a caller would write it.
        app: id of the app, "" for the operator's own calls.
        method: the method.
        auth: name of a secret the caller would ask for.

    The address gate is still open in the result; `with_addresses` closes it. A name is to be looked up only when
    `rule` is set.
    """
    gates: list[Gate] = []
    try:
        url = parse_url(url_text)
        verb = canonical_method(method)
    except FaztError as refused:
        gates.append(Gate("url", "refuse", f"{refused.reason}: {refused.message}"))
        return _closed(gates, refused.reason)
    gates.append(Gate("url", "pass", f"canonical form {url.redacted()}"))
    try:
        rule = judge_rule(policy, app=app, url=url, method=verb)
    except FaztError as refused:
        gates.append(Gate("rule", "refuse", f"{refused.reason}: {refused.detail or refused.message}"))
        fix = grant_command(url, verb, app=_name(policy, app)) if refused.reason in _NARROW else None
        if app and app not in policy.apps:
            fix = None
        return replace(_closed(gates, refused.reason), url=url, method=verb, fix=fix)
    gates.append(Gate("rule", "pass", f"rule {rule.id} allows {_says(rule)}"))
    name = auth or rule.inject or None
    if name:
        try:
            meta = secret_for(policy, app=app, name=name, url=url)
        except FaztError as refused:
            gates.append(Gate("secret", "refuse", f"{refused.reason}: {refused.detail or refused.message}"))
            fix = _secret_fix(refused.reason, name, url, app=_name(policy, app))
            return replace(_closed(gates, refused.reason), url=url, method=verb, rule=rule, fix=fix)
        gates.append(Gate("secret", "pass", f"{meta.name} may go to {url.host} ({meta.kind})"))
    else:
        gates.append(Gate("secret", "skip", "no secret asked for"))
    return Explanation(True, tuple(gates), url=url, method=verb, rule=rule)


def with_addresses(
    found: Explanation,
    policy: Policy,
    addresses: Sequence[str] | FaztError,
    *,
    app: str = "",
    own: frozenset[tuple[str, int]] = frozenset(),
) -> Explanation:
    """Close the address gate with what DNS answered, or with the error it gave."""
    url, rule = found.url, found.rule
    assert url is not None
    assert rule is not None
    if isinstance(addresses, FaztError):
        gates = (*found.gates, Gate("address", "refuse", f"{addresses.reason}: {addresses.message}"))
        return replace(found, allowed=False, gates=gates, reason=addresses.reason)
    listed = ", ".join(f"{address} ({classify(address).klass})" for address in addresses)
    try:
        judge(addresses, port=url.port, grant=rule.addresses, own=own)
    except FaztError as refused:
        gates = (*found.gates, Gate("address", "refuse", f"{refused.reason}: {listed}"))
        fix = None
        verdicts = [classify(address) for address in addresses]
        if refused.reason is Reason.PRIVATE_ADDRESS and all(v.public or v.grantable for v in verdicts):
            ranges = tuple(_host_range(v.address) for v in verdicts if not v.public)
            known = tuple(item for item in rule.addresses if item not in ranges)
            fix = grant_command(url, found.method, app=_name(policy, app), addresses=(*known, *ranges))
        return replace(found, allowed=False, gates=gates, reason=refused.reason, fix=fix)
    return replace(found, gates=(*found.gates, Gate("address", "pass", listed)))


def grant_command(url: Url, method: str, *, app: str = "", addresses: Sequence[str] = ()) -> str:
    """Return the narrowest `fazt net allow` that covers this request: one origin, one method, one path."""
    plain_default = url.scheme == "https" and url.port == 443
    words = ["fazt", "net", "allow", url.host if plain_default else url.origin]
    if app:
        words += ["--app", app]
    words += ["--method", method]
    form = rule_path(url)
    if not form.ambiguous and form.path != "/":
        words += ["--path", form.path]
        if form.encoded_slash:
            words.append("--path-encoded-slash")
    for item in addresses:
        words += ["--address", item]
    return shlex.join(words)


def _secret_fix(reason: Reason, name: str, url: Url, *, app: str) -> str | None:
    scope = ["--app", app] if app else []
    match reason:
        case Reason.SECRET_UNKNOWN | Reason.SECRET_WRONG_HOST | Reason.SECRET_WRONG_APP:
            return shlex.join(["fazt", "secret", "set", name, "--domain", url.host, *scope])
        case _:
            return None


def _host_range(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"


def _name(policy: Policy, app: str) -> str:
    meta = policy.apps.get(app)
    return meta.name if meta is not None and meta.name else app


def _says(rule: Rule) -> str:
    methods = ",".join(sorted(rule.methods)) or "any method"
    where = f"{rule.scheme}://{rule.pattern}:{rule.port}{rule.path}"
    return f"{methods} {where} ({'global' if not rule.scope else rule.scope})"


def _closed(gates: Sequence[Gate], reason: Reason) -> Explanation:
    return Explanation(False, tuple(gates), reason=reason)
