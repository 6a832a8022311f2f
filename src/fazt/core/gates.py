"""The gates that need nothing but a policy: which rule allows a request, which secret it may carry, what stays open.

`explain` and the doors ask the same functions as the pipeline, so that a verdict is one wherever it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fazt.core.rules import ANY_PORT, ANY_SCHEME, Allowed, Rule
from fazt.core.url import Url
from fazt.errors import FaztError, Reason

if TYPE_CHECKING:
    from fazt.core.call import Target
    from fazt.core.policy import Policy, SecretMeta

_REFUSALS = {
    Reason.SCHEME_NOT_ALLOWED: "this scheme is not allowed for this host",
    Reason.HOST_NOT_GRANTED: "this host is not on the allowlist",
    Reason.DENIED_BY_RULE: "a rule denies this request",
    Reason.METHOD_NOT_GRANTED: "this method is not allowed for this host",
    Reason.PATH_NOT_GRANTED: "this path is not allowed for this host",
    Reason.PORT_NOT_GRANTED: "this port is not allowed for this host",
}


def judge_rule(policy: Policy, *, app: str, url: Url, method: str) -> Rule:
    """Return the one rule that allows this request.

    Raises:
        FaztError: NET_BLOCKED with the reason of the first gate that does not match.
    """
    if app and app not in policy.apps:
        raise FaztError(Reason.HOST_NOT_GRANTED, _REFUSALS[Reason.HOST_NOT_GRANTED], detail="no such app")
    found = policy.rules.decide(app=app, url=url, method=method)
    if isinstance(found, Allowed):
        return found.rule
    if policy.public is not None and found.reason is Reason.HOST_NOT_GRANTED:
        found = policy.public.decide(url, method)
        if isinstance(found, Allowed):
            return found.rule
    where = f"rule {found.rule.id}: {found.detail}" if found.rule is not None else found.detail
    raise FaztError(found.reason, _REFUSALS.get(found.reason, "the request is not allowed"), detail=where)


def secret_for(policy: Policy, *, app: str, name: str, url: Url) -> SecretMeta:
    """Return the secret that may go to this URL, without its value.

    Raises:
        FaztError: NET_AUTH when it does not exist for this app, host or scheme.
    """
    return policy.secret(app, name, url.host, url.scheme)


def still_granted(policy: Policy, target: Target) -> bool:
    """Tell whether a connection to this target may still be kept: some rule grants its origin and its ranges.

    Which requests may use it is decided for each of them; this only takes back what nothing could use any more.
    """
    if target.app and target.app not in policy.apps:
        return False
    granted: bool | None = None
    for rules in policy.rules.tiers(app=target.app, host=target.host):
        if any(_denies_all(rule, target) for rule in rules):
            return False
        allows = [rule for rule in rules if rule.action == "allow"]
        if granted is None and allows:
            granted = any(
                (rule.scheme, rule.port, rule.addresses) == (target.scheme, target.port, target.grant)
                for rule in allows
            )
    if granted is None and policy.public is not None:  # no rule allows anything of this host: it is a public one
        return not target.grant and policy.public.reaches(target.scheme, target.port)
    return bool(granted)


def _denies_all(rule: Rule, target: Target) -> bool:
    """Tell whether a rule denies whatever could be asked of this origin."""
    return (
        rule.action == "deny"
        and not (rule.methods or rule.path)
        and rule.scheme in (ANY_SCHEME, target.scheme)
        and rule.port in (ANY_PORT, target.port)
    )
