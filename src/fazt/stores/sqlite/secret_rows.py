"""What is stored of a secret beside its value: the row, the checks of what goes into it, what listings show."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field

from fazt.core.injection import validate_secret, validate_value
from fazt.core.policy import SECRET_NAME, SecretMeta
from fazt.core.rules import host_pattern
from fazt.errors import ConfigError


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A secret to be stored.

    Args:
        name: what `--auth` and `--inject` call it.
        value: the value; never shown.
        scope: id of an app, "" for all.
        domains: hosts or `*.HOST` it may be sent to; None keeps what is stored.
        any_domain: it may be sent to every granted host; said aloud.
        kind: bearer, header or query; None keeps what is stored, else bearer.
        key: name of the header or parameter; None keeps what is stored.
    """

    name: str
    value: str = field(repr=False)
    scope: str = ""
    domains: tuple[str, ...] | None = None
    any_domain: bool = False
    kind: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class SecretInfo:
    """A secret as listings show it; `masked` is None when the key is missing or does not fit."""

    meta: SecretMeta
    masked: str | None
    created_at: float
    updated_at: float


def check_secret(secret: NewSecret) -> None:
    """Check name and value of a secret before anything is opened.

    Raises:
        ConfigError: one of them cannot be used.
    """
    if not SECRET_NAME.fullmatch(secret.name):
        raise ConfigError(
            f"{secret.name!r} cannot be the name of a secret",
            hint="letters, digits, underscores, dots and hyphens, a letter or underscore first",
        )
    validate_value(secret.value)


def all_metas(connection: sqlite3.Connection) -> Iterable[SecretMeta]:
    """Yield what is known of every secret; in a read transaction."""
    return map(meta_of, connection.execute("SELECT * FROM secrets"))


def find_meta(connection: sqlite3.Connection, scope: str, name: str) -> SecretMeta | None:
    """Return what is known of one secret; in a read transaction."""
    row = secret_row(connection, scope, name)
    return None if row is None else meta_of(row)


def meta_of(row: sqlite3.Row) -> SecretMeta:
    """Read a row without its value."""
    return SecretMeta(
        name=row["name"],
        scope=row["scope"],
        domains=tuple(json.loads(row["domains"])),
        any_domain=bool(row["any_domain"]),
        kind=row["kind"],
        key=row["key"],
        version=row["version"],
    )


def canonical_domains(domains: Iterable[str]) -> tuple[str, ...]:
    """Return hosts and `*.HOST` patterns in canonical form, sorted.

    Raises:
        ConfigError: one is no host, or reaches too far.
    """
    found = set()
    for domain in domains:
        try:
            found.add(host_pattern(domain))
        except ConfigError as error:
            raise ConfigError(f"--domain: {error.message}", hint="name the host that is to receive it") from None
    return tuple(sorted(found))


def meta_for(secret: NewSecret, row: sqlite3.Row | None, version: int) -> SecretMeta:
    """Return what is to be stored of a secret; what was not named stays as in the row of the same name.

    Raises:
        ConfigError: no domain, or a domain, kind or key that cannot be used.
    """
    old = None if row is None else meta_of(row)
    if secret.any_domain and secret.domains:
        raise ConfigError("--domain and --any-domain exclude each other")
    domains = canonical_domains(secret.domains or ())
    any_domain = secret.any_domain
    if not domains and not any_domain:
        if old is None or secret.domains is not None:
            raise ConfigError(
                f"the secret {secret.name!r} needs a host that it may be sent to",
                hint="add --domain HOST (or --any-domain, to send it to every host a rule allows)",
            )
        domains, any_domain = old.domains, old.any_domain
    # A new kind does not inherit the key of the old one.
    inherited = old if old is not None and secret.kind in (None, old.kind) else None
    kind = secret.kind or (inherited.kind if inherited else "bearer")
    key = secret.key if secret.key is not None else (inherited.key if inherited else "")
    return SecretMeta(
        name=secret.name,
        scope=secret.scope,
        domains=domains,
        any_domain=any_domain,
        kind=validate_secret(kind, key),
        key=key,
        version=version,
    )


def columns(meta: SecretMeta) -> tuple[str | int, ...]:
    """Return a meta as the first seven columns of its row."""
    domains = json.dumps(meta.domains)
    return meta.scope, meta.name, meta.kind, meta.key, domains, int(meta.any_domain), meta.version


def secret_row(connection: sqlite3.Connection, scope: str, name: str) -> sqlite3.Row | None:
    """Return the row of one secret; in a transaction."""
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM secrets WHERE scope = ? AND name = ?", (scope, name)
    ).fetchone()
    return row
