"""Constructor arguments of clients and transports: what they mean, and which of httpx's are refused and why."""

from __future__ import annotations

import math
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fazt.core.headers import is_token
from fazt.errors import ConfigError
from fazt.net.pool import PoolLimits
from fazt.net.tls import TlsConfig

if TYPE_CHECKING:
    from fazt.client.policies import Policy

POOL = PoolLimits(total=20, per_key=20, expiry=30.0, connections=64)
"""Connections of a client unless it says otherwise (contracts, "Doors differ only in their profile")."""

_INSTEAD = {
    "transport": (
        "it would go around the policy; give fazt.Transport(policy=…) to a client of your own, "
        "in tests name loopback: "
        "Policy([Rule('http://host', addresses=['127.0.0.1/32'])], resolve={'host': ['127.0.0.1']})"
    ),
    "mounts": "they would go around the policy; one policy holds for all hosts: Policy(allow=[…])",
    "proxy": "it would connect in place of the policy; a call goes out directly, to the address that was judged",
    "proxies": "it would connect in place of the policy; a call goes out directly, to the address that was judged",
    "app": "fazt's client is a client of its own; test an ASGI app with its own test client, or serve it on loopback",
    "uds": "an address that cannot be judged; serve on loopback and grant it: Rule(…, addresses=['127.0.0.1/32'])",
    "local_address": "the system chooses the address that a call leaves from",
    "socket_options": "the wire sets its own",
    "retries": "use retry=fazt.RetryPolicy(…)",
}
"""Arguments of httpx's clients and transports that are refused, and the supported way."""
BYPASSES = frozenset(_INSTEAD)
"""Their names."""


def header_names(names: Iterable[str]) -> frozenset[str]:
    """Return names of header fields in lower case.

    Raises:
        ConfigError: one is no name of a field.
    """
    if isinstance(names, str | bytes):
        raise ConfigError("sensitive_headers= takes a list of names of header fields")
    found = frozenset(str(name).lower() for name in names)
    for name in sorted(found):
        if not is_token(name):
            raise ConfigError(f"sensitive_headers: {name!r} is no name of a header field")
    return found


def refuse_bypasses(given: Mapping[str, Any]) -> None:
    """Refuse arguments that would go around the policy, and those that nobody knows.

    Args:
        given: arguments that the constructor does not take.

    Raises:
        ConfigError: one of httpx's that is not supported.
        TypeError: a name that nobody knows.
    """
    for name, value in given.items():
        instead = _INSTEAD.get(name)
        if instead is None:
            from fazt.client.keywords import ClientArguments

            raise unexpected(name, ClientArguments.__annotations__)
        if value is not None:
            raise ConfigError(f"{name}= is not supported: {instead}")


_REQUESTS = {
    "allow_redirects": "follow_redirects=",
    "stream": "with client.stream(METHOD, URL) as response",
    "verify": "fazt.Client(verify=…)",
    "cert": "fazt.Client(cert=…)",
}
"""What requests takes with a call, and how it is said here."""


def unexpected(name: str, known: Iterable[str]) -> TypeError:
    """Return the error of a keyword argument that nobody knows, with what was meant where that can be told."""
    import difflib

    near = difflib.get_close_matches(name, sorted(known), n=1)
    meant = _REQUESTS.get(name) or (f"did you mean {near[0]}=?" if near else "")
    return TypeError(f"unexpected keyword argument {name!r}" + (f"; {meant}" if meant else ""))


def refuse_environment(trust_env: bool) -> None:
    """Refuse `trust_env=True`.

    Raises:
        ConfigError: it is true.
    """
    if trust_env:
        raise ConfigError(
            "trust_env=True is not supported: proxies and roots of the environment would go around the policy; "
            "name roots with verify=PATH or Policy(ca_file=PATH), credentials with auth= or secret="
        )


def pool_limits(limits: Any) -> PoolLimits:
    """Return the limits of the pool.

    Args:
        limits: `httpx2.Limits`, `httpx.Limits` or None for fazt's own.

    Raises:
        ConfigError: a number below zero.
    """
    if limits is None:
        return POOL
    connections, idle, expiry = limits.max_connections, limits.max_keepalive_connections, limits.keepalive_expiry
    if any(number is not None and number < 0 for number in (connections, idle, expiry)) or connections == 0:
        raise ConfigError("limits= must not be below zero, and max_connections must be above it")
    kept = idle if idle is not None else connections if connections is not None else 1 << 16
    if connections is not None:
        kept = min(kept, connections)
    return PoolLimits(
        total=kept,
        per_key=kept,
        expiry=math.inf if expiry is None else float(expiry),
        connections=connections or 0,
    )


def tls_config(verify: Any, cert: Any, policy: Policy | None) -> TlsConfig:
    """Return what servers must prove, and what we show them.

    Args:
        verify: True for the system's roots and the policy's; a path for that root alone; a context that verifies.
        cert: path of a PEM file, or (certificate, key) or (certificate, key, password).
        policy: whose `ca_files` count beside the system's roots.

    Raises:
        ConfigError: `verify=False`, a context that does not verify, a file that cannot be used.
    """
    own = _cert(cert)
    if verify is True:
        return TlsConfig(() if policy is None else policy.ca_files, cert=own)
    if isinstance(verify, ssl.SSLContext):
        if own is not None:
            raise ConfigError("cert= goes into the SSLContext: context.load_cert_chain(…)")
        return TlsConfig(context=verify)
    if isinstance(verify, str | Path):
        return TlsConfig((verify,), only=True, cert=own)
    if verify is False:
        raise ConfigError(
            "verify=False is not supported: anybody on the way could answer; "
            "trust a root of your own with verify=PATH or Policy(ca_file=PATH)"
        )
    raise TypeError(f"verify must be True, a path or an ssl.SSLContext, not {type(verify).__name__}")


def _cert(cert: Any) -> tuple[str | Path, str | Path | None, str | None] | None:
    if cert is None:
        return None
    if isinstance(cert, str | Path):
        return cert, None, None
    if isinstance(cert, tuple) and 2 <= len(cert) <= 3:
        return cert[0], cert[1], cert[2] if len(cert) == 3 else None
    raise TypeError("cert must be a path, (certificate, key) or (certificate, key, password)")
