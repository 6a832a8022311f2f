"""Why a request is allowed or refused: the gates of the pipeline one by one, and the narrowest grant that would help.

Nothing is decided here: every verdict comes from the gate that the pipeline itself asks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fazt.core.addresses import classify, judge
from fazt.core.call import Profile
from fazt.core.gates import judge_rule, secret_for
from fazt.core.headers import method as canonical_method
from fazt.core.policy import Policy
from fazt.core.ratelimit import effective
from fazt.core.remedy import Asked, Remedy, World, app_name, mend
from fazt.core.rules import Rule
from fazt.core.url import Url, parse_url
from fazt.errors import FaztError, Reason

GATES = ("url", "rule", "secret", "budget", "cache", "slot", "rate", "address")
"""Every gate in the order of the pipeline; an explanation has each of them once."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate and what it said: `verdict` is "pass", "refuse" or "skip" (not asked, or decided only in a call)."""

    gate: str
    verdict: str
    detail: str

    def as_dict(self) -> dict[str, str]:
        """Return the shape of `explain --json`."""
        return {"gate": self.gate, "verdict": self.verdict, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Explanation:
    """All gates in order, the deciding rule, and the narrowest command that would allow the request (or None).

    `asked` is None when the text is no URL. `reason` is the first refusal's. While `address_open`, the name may be
    looked up, and `with_addresses` closes the last gate. `remedy` is what `fix` was written from.
    """

    allowed: bool
    gates: tuple[Gate, ...]
    asked: Asked | None = None
    rule: Rule | None = None
    reason: Reason | None = None
    fix: str | None = None
    address_open: bool = False
    remedy: Remedy | None = None

    def __bool__(self) -> bool:
        return self.allowed

    def __str__(self) -> str:
        width = max((len(gate.gate) for gate in self.gates), default=0)
        lines = [f"{gate.verdict:6}  {gate.gate:{width}}  {gate.detail}" for gate in self.gates]
        lines.append("allowed" if self.allowed else f"refused: {self.reason}")
        return "\n".join([*lines, f"fix: {self.fix}"] if self.fix else lines)

    @property
    def url(self) -> Url | None:
        """The canonical URL."""
        return None if self.asked is None else self.asked.url

    def json(self) -> str:
        """Return what `fazt explain --json` prints."""
        return json.dumps(self.as_dict(), ensure_ascii=False, indent=2)

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
    policy: Policy,
    url_text: str,
    *,
    app: str = "",
    method: str = "GET",
    auth: str | None = None,
    world: World | None = None,
    may_create: bool = False,
    profile: Profile | None = None,
    command_line: bool = True,
) -> Explanation:
    """Ask the gates that need no network: URL, rule, secret.

    Args:
        policy: the snapshot that would decide.
        url_text: the URL as a caller would write it.
        app: id of the app, "" for the operator's own calls.
        method: the method.
        auth: name of a secret the caller would ask for.
        world: what surrounds the call; nothing by default.
        may_create: an app that does not exist may be granted something, which makes its record.
        profile: numbers of the door the call would go through; those of functions by default.
        command_line: whether the policy is one that commands change; else the gates name none.
    """
    world = world or World()
    gates: list[Gate] = []
    try:
        url = parse_url(url_text)
        verb = canonical_method(method)
    except FaztError as refused:
        return _refused(gates, "url", refused)
    gates.append(Gate("url", "pass", f"canonical form {url.redacted()}"))
    unknown = bool(app) and app not in policy.apps
    asked = Asked(app, url, verb, auth, unknown=unknown, commands=command_line)

    def remedy() -> Remedy | None:
        return mend(policy, asked, world) if may_create or not unknown else None

    try:
        rule = judge_rule(policy, app=app, url=url, method=verb)
    except FaztError as refused:
        found = _refused(gates, "rule", refused, remedy())
        if refused.reason is Reason.DENIED_BY_RULE and command_line:
            found = _noted(found, ["no allow lifts a deny: `fazt net remove` takes the rule back"])
        return replace(found, asked=asked)
    gates.append(Gate("rule", "pass", f"rule {rule.id} allows {_says(policy, rule, scope=command_line)}"))
    name = auth if auth is not None else rule.inject or None
    if name is not None:
        try:
            meta = secret_for(policy, app=app, name=name, url=url)
        except FaztError as refused:
            found = _refused(gates, "secret", refused, remedy())
            return replace(found, asked=asked, rule=rule)
        gates.append(Gate("secret", "pass", f"{meta.name} may go to {url.host} ({meta.kind})"))
    else:
        gates.append(Gate("secret", "skip", "no secret asked for"))
    gates += _run_gates(policy, app=app, rule=rule, profile=profile)
    return Explanation(True, tuple(gates), asked=asked, rule=rule, address_open=True)


def with_addresses(
    found: Explanation,
    policy: Policy,
    addresses: Sequence[str] | FaztError,
    *,
    world: World | None = None,
) -> Explanation:
    """Close the address gate with what DNS answered, or with the error it gave."""
    asked, rule = found.asked, found.rule
    assert asked is not None
    assert rule is not None
    world = world or World()
    closed = replace(found, address_open=False)
    if isinstance(addresses, FaztError):
        said = addresses.detail or addresses.message
        gate = Gate("address", "refuse", f"{addresses.reason}: {said}")
        return replace(closed, allowed=False, gates=(*found.gates, gate), reason=addresses.reason)
    listed = ", ".join(f"{address} ({classify(address).klass})" for address in addresses)
    try:
        judge(addresses, port=asked.url.port, grant=rule.addresses, own=world.own, local=world.local)
    except FaztError as refused:
        said = refused.detail or refused.message
        among = f" (among {listed})" if len(addresses) > 1 else ""
        gate = Gate("address", "refuse", f"{refused.reason}: {said}{among}")
        helped = mend(policy, asked, world, addresses=addresses)
        done = replace(closed, allowed=False, gates=(*found.gates, gate), reason=refused.reason)
        return _helped(done, helped)
    return replace(closed, gates=(*found.gates, Gate("address", "pass", listed)))


def _run_gates(policy: Policy, *, app: str, rule: Rule, profile: Profile | None) -> list[Gate]:
    """Return the gates that only a running call can ask, with the numbers it would meet."""
    net = policy.limits_for(app).net
    rate, burst = effective(rule.rate, rule.burst, default_rate=net.rate_limit, default_burst=net.rate_burst)
    time = min(rule.timeout_ms or net.call_timeout, net.call_timeout)
    kept = bool(rule.cache_ttl and net.cache_max_items and net.cache_max_bytes)
    said = {
        "budget": f"{net.max_calls} calls of one invocation share {net.budget} ms; this one may take {time} ms",
        "cache": f"responses are kept for {rule.cache_ttl} s" if kept else "nothing is kept",
        "slot": f"{net.app_concurrency} calls of the app and {net.concurrency} of all apps at once",
        "rate": f"{rate} a minute, {max(1, burst)} at once" if rate > 0 else "no rate is set",
    }
    if profile is not None and profile.door != "functions":
        most = min(rule.timeout_ms or profile.call_ms, profile.call_ms)
        said["budget"] = f"it may take {most:.0f} ms unless the caller says otherwise"
        used = f"at most {rule.cache_ttl} s, where a cache is used" if rule.cache_ttl else "as the caller says"
        said["cache"] = used if profile.door == "client" else "nothing is kept"
        said["slot"] = "no limit but the pool's"
    return [Gate(name, "skip", f"decided in the call: {text}") for name, text in said.items()]


def _refused(gates: Sequence[Gate], gate: str, refused: FaztError, helped: Remedy | None = None) -> Explanation:
    said = [*gates, Gate(gate, "refuse", f"{refused.reason}: {refused.detail or refused.message}")]
    after = GATES[GATES.index(gate) + 1 :]
    said += [Gate(name, "skip", "not reached") for name in after[:-1]]
    said.append(Gate(after[-1], "skip", "not reached: the name was not looked up"))
    return _helped(Explanation(False, tuple(said), reason=refused.reason), helped)


def _helped(found: Explanation, helped: Remedy | None) -> Explanation:
    if helped is None:
        return found
    return _noted(replace(found, fix=helped.command, remedy=helped), helped.notes)


def _noted(found: Explanation, notes: Sequence[str]) -> Explanation:
    """Say in the refusing gate what else its fix changes."""
    if not notes:
        return found
    gates = tuple(
        replace(gate, detail="; ".join([gate.detail, *notes])) if gate.verdict == "refuse" else gate
        for gate in found.gates
    )
    return replace(found, gates=gates)


def _says(policy: Policy, rule: Rule, *, scope: bool) -> str:
    said = f"{','.join(sorted(rule.methods)) or 'any method'} {rule.origin}{rule.path}"
    if not scope:
        return said
    return f"{said} for {f'app {app_name(policy, rule.scope)}' if rule.scope else 'all apps'}"
