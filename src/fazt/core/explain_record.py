"""Why a recorded call ended as it did: what was written down of it, and what the present policy says of the same."""

from __future__ import annotations

import shlex
from dataclasses import replace

from fazt.core.explain import Explanation, Gate
from fazt.core.limits import HARD_MAX_RESPONSE, clamp_override, get, info, validate
from fazt.core.policy import Policy
from fazt.core.record import CallRecord
from fazt.core.remedy import Remedy, app_name, change_rule
from fazt.core.rules import Rule
from fazt.errors import ConfigError, Reason

_RESERVE_MS = 500


def request_of(record: CallRecord) -> tuple[str, str, str | None] | None:
    """Return URL, method and secret of the request that decided a recorded call, without its query.

    That is the redirect target that was refused, or else the first request. None when it is not known: the URL could
    not be read, or a redirect was refused before its target was.
    """
    if not record.host:
        return None
    port = "" if (record.scheme, record.port) in (("https", 443), ("http", 80)) else f":{record.port}"
    first = f"{record.scheme}://{record.host}{port}{record.path}"
    if not record.hop:
        return first, record.method, record.auth
    if len(record.redirects) < record.hop:
        return None
    method = record.method
    followed = record.redirects[: record.hop]
    for hop in followed:
        if (hop.status == 303 and method != "HEAD") or (hop.status in (301, 302) and method == "POST"):
            method = "GET"
    origin = f"{record.scheme}://{record.host}{port}/"
    kept = all(hop.url.startswith(origin) for hop in followed)  # the caller's secret stays within its origin
    return followed[-1].url, method, record.auth if kept else None


def with_record(found: Explanation | None, policy: Policy, record: CallRecord) -> Explanation:
    """Put what was recorded before what the gates say now.

    Args:
        found: what the present policy says of `request_of(record)`; None when that is not known.
        policy: the present policy.
        record: the recorded call.

    The verdict is the recorded one: a call that was refused stays refused. `fix` is what would make its like pass.
    """
    refused = record.code is not None
    said = _recorded(policy, record)
    fix = found.fix if found is not None and refused else None
    if refused and (found is None or found.allowed):
        helped = runtime_remedy(policy, record, None if found is None else found.rule)
        if helped is not None:
            fix = helped.command
            said = "; ".join([said, *helped.notes])
        elif found is not None and record.code in ("NET_BLOCKED", "NET_AUTH"):
            said += "; the present rules allow it"
    gate = Gate("record", "refuse" if refused else "pass", said)
    gates = () if found is None else found.gates
    reason = Reason(record.reason) if record.reason in set(Reason) else None
    base = Explanation(not refused, ()) if found is None else found
    return replace(base, allowed=not refused, gates=(gate, *gates), reason=reason, fix=fix)


def _recorded(policy: Policy, record: CallRecord) -> str:
    whom = app_name(policy, record.app) if record.app else "the operator"
    parts = [f"{record.method or 'a call'} by {whom} through {record.door}"]
    if record.code is None:
        parts.append(f"answered with {record.status}{' from the cache' if record.cache == 'hit' else ''}")
    else:
        hop = f" on redirect {record.hop}" if record.hop else ""
        parts.append(f"ended with {record.code} ({record.reason}){hop}")
    if record.redirects:
        parts.append("redirected to " + ", ".join(f"{hop.url} ({hop.status})" for hop in record.redirects))
    if record.address:
        parts.append(f"last connected to {record.address}")
    if record.detail or record.address_class:
        parts.append(record.detail or f"the refused address is {record.address_class}")
    parts.append(f"rule {record.rule_id or 'none'}, revision {record.revision}")
    return "; ".join(parts)


def runtime_remedy(policy: Policy, record: CallRecord, rule: Rule | None) -> Remedy | None:
    """Return what would let a call pass that a number refused: calls, slots, rate, time, sizes, redirects.

    Args:
        policy: the present policy.
        record: the refused call.
        rule: the rule that would decide it now, None where none would.
    """
    app = record.app
    limits = policy.limits_for(app)
    match record.reason:
        case Reason.CALLS_EXCEEDED:
            return _limit(policy, app, "net.max_calls", limits.net.max_calls + 1)
        case Reason.APP_CONCURRENCY:
            return _limit(policy, app, "net.app_concurrency", limits.net.app_concurrency + 1)
        case Reason.GLOBAL_CONCURRENCY:
            return _limit(policy, app, "net.concurrency", limits.net.concurrency + 1)
        case Reason.REDIRECT_LIMIT:
            return _limit(policy, app, "net.max_redirects", limits.net.max_redirects + 1)
        case Reason.NET_BUDGET_EXHAUSTED:
            # more than an invocation lasts would be no more
            most = min(2 * limits.net.budget, limits.runtime.exec_timeout - _RESERVE_MS)
            return _limit(policy, app, "net.budget", most) if most > limits.net.budget else None
        case Reason.WALL_EXHAUSTED:
            most = min(2 * limits.runtime.exec_timeout, info("runtime.exec_timeout").high or 0)
            return _limit(policy, app, "runtime.exec_timeout", most) if most > limits.runtime.exec_timeout else None
        case Reason.REQUEST_BODY if record.door == "functions" and record.request_bytes > limits.net.max_req_body:
            return _limit(policy, app, "net.max_req_body", record.request_bytes)
        case Reason.RESPONSE_BODY if record.door == "functions" and rule is not None:
            return _larger_response(policy, app, rule)
        case Reason.HOST_RATE if rule is not None:
            return _larger_burst(policy, app, rule)
        case _:
            return None


def _larger_response(policy: Policy, app: str, rule: Rule) -> Remedy | None:
    if (rule.max_response or policy.limits_for(app).net.max_response) >= HARD_MAX_RESPONSE:
        return None
    command = change_rule(policy, rule, max_response=HARD_MAX_RESPONSE)
    note = f"the fix raises what rule {rule.id} lets through to the most there is; how long the response is, is unknown"
    return None if command is None else Remedy((command,), (note,))


def _larger_burst(policy: Policy, app: str, rule: Rule) -> Remedy | None:
    net = policy.limits_for(app).net
    if rule.rate or rule.burst:
        burst = max(1, rule.burst or net.rate_burst) + 1
        command = change_rule(policy, rule, burst=burst)
        return None if command is None else Remedy((command,), ("waiting helps too",))
    if not net.rate_limit:
        return None  # the rate that refused it is gone
    helped = _limit(policy, app, "net.rate_burst", max(1, net.rate_burst) + 1)
    return None if helped is None else replace(helped, notes=(*helped.notes, "waiting helps too"))


def _limit(policy: Policy, app: str, path: str, value: int) -> Remedy | None:
    """Return the command that raises a limit, for the app alone where it is below everybody's already."""
    try:
        validate(path, value)
    except ConfigError:
        return None
    words = ["fazt", "limits", "set", path, str(value)]
    narrower = app and info(path).per_app and get(policy.limits_for(app), path) < get(policy.limits, path)
    if narrower and get(clamp_override(policy.limits, {path: value}), path) == value:
        return Remedy((shlex.join([*words, "--app", app_name(policy, app)]),))
    if narrower:
        return None  # everybody's value would have to be raised first, and the app's after it
    return Remedy((shlex.join(words),), ("the fix raises the limit for everybody: an app's own can only be lower",))
