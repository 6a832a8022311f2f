"""Why a policy allows or refuses a call, and what to write so that a refused one passes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fazt.client.rules import spelled
from fazt.core import profiles
from fazt.core.explain import Explanation, explain, with_addresses
from fazt.errors import FaztError

if TYPE_CHECKING:
    from fazt.client.policies import Policy
    from fazt.core.remedy import Remedy

LOOKUP_SECONDS = 5.0


def explained(
    policy: Policy, url: str, *, method: str, app: str, secret: str | None, may_create: bool = False
) -> Explanation:
    """Ask every gate of a policy that is no data directory's; the resolver only when a rule matches.

    Args:
        policy: the policy.
        url: as a caller would write it.
        method: its method.
        app: id of an app, "" for none.
        secret: name of a secret that the call would ask for.
        may_create: an app that does not exist may be granted something, which makes its record.
    """
    held, world = policy.current, policy.world()
    found = explain(
        held,
        url,
        app=app,
        method=method,
        auth=secret,
        world=world,
        may_create=may_create,
        profile=profiles.client(held.limits_for(app)),
        command_line=policy.by_command,
    )
    if found.address_open and found.url is not None:
        addresses = looked_up(found.url.host, found.url.port, world.static)
        found = with_addresses(found, held, addresses, world=world)
    return replace(found, fix=policy.fix(found.remedy) if found.remedy is not None else None)


def looked_up(host: str, port: int, static: Mapping[str, Sequence[str]]) -> tuple[str, ...] | FaztError:
    """Return the addresses of a host, or why it has none; the system's resolver gets `LOOKUP_SECONDS`.

    Args:
        host: canonical name.
        port: named in the operator's detail only.
        static: addresses of names that are never looked up.
    """
    from fazt.net.sync_resolve import SyncResolver

    try:
        return SyncResolver(static).resolve(host, port, deadline=time.monotonic() + LOOKUP_SECONDS)
    except FaztError as failed:
        return failed


def in_source(remedy: Remedy) -> str:
    """Return a remedy as the arguments of `fazt.Policy`."""
    parts = []
    if remedy.rule is not None:
        said = spelled(remedy.rule)
        named = [
            f"{name}={'True' if value is True else _literal(value)}" for name, value in said.items() if name != "target"
        ]
        parts.append(f"allow=[{_call('fazt.Rule', [_literal(said['target']), *named])}]")
    if remedy.secret is not None:
        name, domains = remedy.secret
        made = _call("fazt.Secret", ["…", f"domains={_literal(list(domains))}"])
        parts.append(f"secrets={{{_literal(name)}: {made}}}")
    return ", ".join(parts)


def in_toml(remedy: Remedy) -> str:
    """Return a remedy as tables of a policy file."""
    lines = []
    if remedy.rule is not None:
        lines += ["[[allow]]", *(f"{name} = {_literal(value)}" for name, value in spelled(remedy.rule).items())]
    if remedy.secret is not None:
        name, domains = remedy.secret
        key = name if "." not in name else _literal(name)
        lines += [f"[secrets.{key}]", 'value_env = "…"', f"domains = {_literal(list(domains))}"]
    return "\n".join(lines)


def _call(name: str, arguments: Sequence[str]) -> str:
    return f"{name}({', '.join(arguments)})"


def _literal(value: Any) -> str:
    """Return a value as Python and TOML both write it; the texts of rules need no escapes that differ."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{value:g}" if isinstance(value, float) else str(value)
