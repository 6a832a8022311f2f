"""Applies a suggested `net allow`, `secret set` or `limits set` line to a policy in memory, as the stores would."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any, cast

import click

from fazt.core.limits import clamp_override, with_values
from fazt.core.policy import AppMeta, Policy, SecretMeta
from fazt.core.rules import expand_target, given, merge


def applied(policy: Policy, line: str) -> Policy:
    """Return the policy after the commands of a line."""
    for command in line.split(" && "):
        words = shlex.split(command)
        assert words[0] == "fazt"
        policy = _APPLY[words[1], words[2]](policy, _params(words))
    return policy


def _params(words: list[str]) -> dict[str, Any]:
    from fazt.cli.base import root

    parent = click.Context(root)
    group = cast("click.Group", root.get_command(parent, words[1]))
    command = group.get_command(click.Context(group, parent=parent), words[2])
    assert command is not None
    return command.make_context(words[2], words[3:], parent=parent).params


def _scope(policy: Policy, params: dict[str, Any]) -> tuple[Policy, str]:
    name = params.get("app_name")
    if name is None:
        return policy, ""
    meta = policy.app_named(name)
    if meta is not None:
        return policy, meta.id
    meta = AppMeta(f"fazt_app_new{name:0>9}", name)
    return replace(policy, apps={**policy.apps, meta.id: meta}), meta.id


def _allow(policy: Policy, params: dict[str, Any]) -> Policy:
    policy, scope = _scope(policy, params)
    params = {key: value for key, value in params.items() if key not in ("app_name", "as_json", "data")}
    params["addresses"] = params["addresses"] or None
    made = expand_target(params.pop("target"), scope=scope, **params)
    index = policy.rules
    for rule in made:
        tiers = index.tiers(app=scope, host=rule.pattern)
        stored = [one for tier in tiers for one in tier if (one.scope, one.pattern) == (scope, rule.pattern)]
        old = next((one for one in stored if one.key == rule.key), None)
        rest = [one for one in stored if one.key != rule.key]
        index = index.replacing({(scope, rule.pattern): [*rest, merge(old, rule, given(params))]})
    return replace(policy, rules=index)


def _secret(policy: Policy, params: dict[str, Any]) -> Policy:
    policy, scope = _scope(policy, params)
    meta = SecretMeta(
        params["name"], scope, tuple(params["domains"]), False, params["kind"] or "bearer", params["key"] or "", 1
    )
    return replace(policy, secrets={**policy.secrets, (scope, meta.name): meta})


def _limit(policy: Policy, params: dict[str, Any]) -> Policy:
    policy, scope = _scope(policy, params)
    values = {params["name"]: params["value"]}
    if not scope:
        return replace(policy, limits=with_values(policy.limits, values))
    return replace(policy, overrides={**policy.overrides, scope: clamp_override(policy.limits, values)})


_APPLY = {("net", "allow"): _allow, ("secret", "set"): _secret, ("limits", "set"): _limit}
