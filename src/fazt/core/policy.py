"""One immutable revision of everything that decides a call: rules, secrets without their values, apps, limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from fazt.core.limits import Limits
from fazt.core.public import PublicGrant
from fazt.core.rules import Decision, Refused, RuleIndex, covers
from fazt.core.url import Url
from fazt.errors import FaztError, Reason

SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
"""What a secret may be called."""

SecretKind = Literal["bearer", "header", "query"]


@dataclass(frozen=True, slots=True)
class SecretMeta:
    """What is known of a secret beside its value, which never enters a policy.

    Args:
        name: what `--auth` and `--inject` call it.
        scope: id of the app it is for; "" for all apps.
        domains: canonical hosts or "*.x" it may be sent to; empty only with `any_domain`.
        any_domain: said aloud by the operator: it may be sent to every granted host.
        kind: how it is sent.
        key: name of the header or query parameter; "" with bearer.
        version: grows with every change of the value, so that a cached value is known to be old.
    """

    name: str
    scope: str
    domains: tuple[str, ...]
    any_domain: bool
    kind: SecretKind
    key: str
    version: int


@dataclass(frozen=True, slots=True)
class AppMeta:
    """An app: its id decides, its name only routes."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Policy:
    """The snapshot that decides a call from its first gate to its last hop.

    Args:
        revision: number of the state of the policy database it was made from.
        rules: every rule.
        secrets: by (scope, name).
        apps: by id.
        limits: the operator's.
        overrides: limits of apps that have their own, by id; within the operator's already.
        public: what is granted of hosts that no rule names; None: nothing.
    """

    revision: int
    rules: RuleIndex
    secrets: Mapping[tuple[str, str], SecretMeta]
    apps: Mapping[str, AppMeta]
    limits: Limits
    overrides: Mapping[str, Limits] = field(default_factory=dict)
    public: PublicGrant | None = None
    _app_by_name: Mapping[str, AppMeta] = field(init=False, repr=False, compare=False)
    _secret_names: frozenset[str] = field(init=False, repr=False, compare=False)
    secret_headers: frozenset[str] = field(init=False, repr=False, compare=False)
    """Lower-case names of the headers that secrets fill: sensitive, whoever sets them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_app_by_name", {app.name: app for app in self.apps.values()})
        object.__setattr__(self, "_secret_names", frozenset(name for _, name in self.secrets))
        keys = frozenset(meta.key.lower() for meta in self.secrets.values() if meta.kind == "header")
        object.__setattr__(self, "secret_headers", keys)

    def decide(self, *, app: str, url: Url, method: str) -> Decision:
        """Return the one rule that grants a call, or why none does; the grant for public hosts comes last.

        Args:
            app: id of the app, which is taken to exist; "" for the operator's own calls.
            url: where the call goes.
            method: its method, in upper case.
        """
        found = self.rules.decide(app=app, url=url, method=method)
        if self.public is None or not isinstance(found, Refused) or found.reason is not Reason.HOST_NOT_GRANTED:
            return found
        return self.public.decide(url, method)

    def limits_for(self, app: str) -> Limits:
        """Return the limits of one app ("" for the operator's own calls)."""
        return self.overrides.get(app, self.limits)

    def app_named(self, name_or_id: str) -> AppMeta | None:
        """Return the app with this id or, since no name may stand in for an id, else the one with this name."""
        return self.apps.get(name_or_id) or self._app_by_name.get(name_or_id)

    def secret(self, app: str, name: str, host: str, scheme: str) -> SecretMeta:
        """Return the secret that a call may carry: the app's own before one for all apps.

        The app's own secret is final: one for all apps of the same name is not tried when its hosts do not match.

        Args:
            app: id of the calling app; "" for the operator's own calls, which see secrets for all apps alone.
            name: name of the secret.
            host: canonical host of the request, or of this hop.
            scheme: its scheme.

        Raises:
            FaztError: `secret_unknown`, `secret_wrong_app`, `secret_wrong_host` or `secret_needs_https`. The message
                repeats nothing that the caller did not say; hosts and scopes stand in the detail.
        """
        meta = self.secrets.get((app, name)) or self.secrets.get(("", name))
        if meta is None:
            self._no_secret(app, name)
        if not meta.any_domain and not any(covers(domain, host) for domain in meta.domains):
            raise FaztError(
                Reason.SECRET_WRONG_HOST,
                "this secret may not be sent to this host",
                detail=f"secret {name} is for {', '.join(meta.domains) or 'no host'}, not {host}",
            )
        if scheme != "https":
            raise FaztError(
                Reason.SECRET_NEEDS_HTTPS,
                "a secret is sent over https only",
                detail=f"secret {name} to {scheme}://{host}",
            )
        return meta

    def _no_secret(self, app: str, name: str) -> NoReturn:
        message = "there is no secret of this name here"  # the same for both: other apps' names are not for telling
        if name in self._secret_names:
            whom = f"app {app}" if app else "calls without an app"
            raise FaztError(
                Reason.SECRET_WRONG_APP, message, detail=f"secret {name} exists for another app, not for {whom}"
            )
        raise FaztError(Reason.SECRET_UNKNOWN, message, detail=f"no secret is named {name[:128]!r}")
