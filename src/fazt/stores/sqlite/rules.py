"""Rules as stored: upserted by their key in one transaction, seen by every process through the revision."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from fazt.core.rules import Rule, merge
from fazt.errors import NotFoundError
from fazt.stores.sqlite.apps import require_app
from fazt.stores.sqlite.changes import Change, Kind, Weight, next_revision, note
from fazt.stores.sqlite.database import Database

_SHOWN = 20
_KEY = "scope = ? AND pattern = ? AND action = ? AND scheme = ? AND port = ? AND methods = ? AND path = ?"
_COLUMNS = (
    "id, scope, action, scheme, pattern, port, methods, path, path_encoded_slash, rate, burst, "
    "timeout_ms, max_response, cache_ttl, inject, addresses, created_at, updated_at"
)
_SELECT = f"SELECT {_COLUMNS} FROM rules"  # noqa: S608 - constants, here and below
_UPSERT = f"""
INSERT INTO rules ({_COLUMNS})
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (scope, pattern, action, scheme, port, methods, path) DO UPDATE SET
    path_encoded_slash = excluded.path_encoded_slash, rate = excluded.rate, burst = excluded.burst,
    timeout_ms = excluded.timeout_ms, max_response = excluded.max_response, cache_ttl = excluded.cache_ttl,
    inject = excluded.inject, addresses = excluded.addresses, updated_at = excluded.updated_at
"""  # noqa: S608


class Rules:
    """Rules of a data directory.

    Args:
        policy: the policy database.
    """

    def __init__(self, policy: Database) -> None:
        self._policy = policy

    def allow(self, rules: Sequence[Rule], given: frozenset[str], *, actor: str = "") -> Sequence[Rule]:
        """Store rules, all or none; a stored rule of the same key keeps the settings that were not given.

        Args:
            rules: from `core.rules.expand_target`.
            given: names of the settings the operator named, from `core.rules.given`.
            actor: who does it.

        Returns:
            the rules as they are stored now.

        Raises:
            NotFoundError: a rule is for an app that does not exist.
            StoreError: the database cannot be read or written; nothing changed.
        """
        return self._put(rules, given, actor=actor, action="rule.allow")

    def deny(self, rules: Sequence[Rule], given: frozenset[str] = frozenset(), *, actor: str = "") -> Sequence[Rule]:
        """Store denials, all or none; arguments and errors as for `allow`."""
        return self._put(rules, given, actor=actor, action="rule.deny")

    def remove(
        self,
        pattern: str,
        *,
        scope: str = "",
        action: str | None = None,
        scheme: str | None = None,
        port: int | None = None,
        methods: Iterable[str] | None = None,
        path: str | None = None,
        actor: str = "",
    ) -> Sequence[Rule]:
        """Remove every rule of a host in one scope, or those of them that the further arguments name.

        Args:
            pattern: canonical host or `*.` and a canonical host.
            scope: id of an app, "" for the global scope; no other scope is touched.
            action: only "allow" or only "deny".
            scheme, port, methods, path: only rules with exactly these; None for any.
            actor: who does it.

        Returns:
            the rules that are gone.

        Raises:
            NotFoundError: no rule matches.
            StoreError: the database cannot be read or written.
        """
        wanted = None if methods is None else frozenset(methods)
        with self._policy.write() as connection:
            gone = [
                rule
                for rule in rules_of(connection, scope, pattern)
                if action in (None, rule.action)
                and scheme in (None, rule.scheme)
                and port in (None, rule.port)
                and wanted in (None, rule.methods)
                and path in (None, rule.path)
            ]
            if not gone:
                where = f"for the app {scope}" if scope else "for all apps"
                raise NotFoundError(
                    f"there is no such rule for {pattern} {where}", hint="`fazt net list` shows the ones there are"
                )
            self._delete(connection, gone, actor)
        return gone

    def remove_ids(self, ids: Iterable[str], *, actor: str = "") -> Sequence[Rule]:
        """Remove rules by id, all or none.

        Raises:
            NotFoundError: there is no rule with one of the ids.
            StoreError: the database cannot be read or written.
        """
        gone = []
        with self._policy.write() as connection:
            for rule_id in dict.fromkeys(ids):
                row = connection.execute(f"{_SELECT} WHERE id = ?", (rule_id,)).fetchone()
                if row is None:
                    raise NotFoundError(
                        f"there is no rule {rule_id!r}", hint="`fazt net list` shows the ones there are"
                    )
                gone.append(_rule(row))
            if gone:
                self._delete(connection, gone, actor)
        return gone

    def list(self, app: str | None = None) -> Sequence[Rule]:
        """Return rules sorted by host.

        Args:
            app: id of an app: its rules and the global ones; "" for the global ones alone; None for all.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._policy.read() as connection:
            rows = connection.execute(
                f"{_SELECT} WHERE ? IS NULL OR scope = ? OR scope = '' "
                "ORDER BY pattern, scope, action, scheme DESC, port, methods, path",
                (app, app),
            ).fetchall()
        return [_rule(row) for row in rows]

    def _put(self, rules: Sequence[Rule], given: frozenset[str], *, actor: str, action: str) -> Sequence[Rule]:
        if not rules:
            return []
        now = time.time()
        stored = []
        with self._policy.write() as connection:
            for scope in {rule.scope for rule in rules}:
                require_app(connection, scope)
            for rule in rules:
                old = _same_key(connection, rule)
                merged = merge(old, rule, given)
                if old is None and not merged.created_at:
                    merged = replace(merged, created_at=now)
                connection.execute(_UPSERT, _values(merged, now))
                stored.append(merged)
            _note(connection, stored, actor=actor, action=action)
        return stored

    def _delete(self, connection: sqlite3.Connection, gone: Sequence[Rule], actor: str) -> None:
        connection.executemany("DELETE FROM rules WHERE id = ?", [(rule.id,) for rule in gone])
        _note(connection, gone, actor=actor, action="rule.remove")


def all_rules(connection: sqlite3.Connection) -> Iterable[Rule]:
    """Yield every rule; in a read transaction."""
    return map(_rule, connection.execute(_SELECT))


def rules_of(connection: sqlite3.Connection, scope: str, pattern: str) -> Sequence[Rule]:
    """Return the rules of one host in one scope; in a transaction."""
    rows = connection.execute(f"{_SELECT} WHERE scope = ? AND pattern = ?", (scope, pattern)).fetchall()
    return [_rule(row) for row in rows]


def _same_key(connection: sqlite3.Connection, rule: Rule) -> Rule | None:
    key = (rule.scope, rule.pattern, rule.action, rule.scheme, rule.port, _methods(rule), rule.path)
    row = connection.execute(f"{_SELECT} WHERE {_KEY}", key).fetchone()
    return None if row is None else _rule(row)


def _methods(rule: Rule) -> str:
    return ",".join(sorted(rule.methods))


def _values(rule: Rule, now: float) -> tuple[str | int | float, ...]:
    return (
        rule.id,
        rule.scope,
        rule.action,
        rule.scheme,
        rule.pattern,
        rule.port,
        _methods(rule),
        rule.path,
        int(rule.path_encoded_slash),
        rule.rate,
        rule.burst,
        rule.timeout_ms,
        rule.max_response,
        rule.cache_ttl,
        rule.inject,
        json.dumps(rule.addresses),
        rule.created_at,
        now,
    )


def _rule(row: sqlite3.Row) -> Rule:
    # By position: looking columns up by name takes half the time of loading a hundred thousand rules.
    (
        rule_id,
        scope,
        action,
        scheme,
        pattern,
        port,
        methods,
        path,
        encoded_slash,
        rate,
        burst,
        timeout_ms,
        max_response,
        cache_ttl,
        inject,
        addresses,
        created_at,
        _,
    ) = row
    return Rule(
        id=rule_id,
        scope=scope,
        action=action,
        scheme=scheme,
        pattern=pattern,
        port=port,
        methods=frozenset(methods.split(",")) if methods else frozenset(),
        path=path,
        rate=rate,
        burst=burst,
        timeout_ms=timeout_ms,
        max_response=max_response,
        cache_ttl=cache_ttl,
        inject=inject,
        addresses=tuple(json.loads(addresses)) if addresses != "[]" else (),
        path_encoded_slash=bool(encoded_slash),
        created_at=created_at,
    )


def _note(connection: sqlite3.Connection, rules: Sequence[Rule], *, actor: str, action: str) -> None:
    scopes = {rule.scope for rule in rules}
    patterns = sorted({rule.pattern for rule in rules})
    note(
        connection,
        next_revision(connection),
        [Change(Kind.RULE, rule.scope, rule.pattern) for rule in rules],
        actor=actor,
        action=action,
        scope=scopes.pop() if len(scopes) == 1 else "",
        subject=", ".join(patterns[:_SHOWN]),
        weight=Weight.SECURITY,
        details={"count": len(rules), "rules": [str(rule) for rule in rules[:_SHOWN]]},
    )
