"""What every change of the policy writes beside itself, in its own transaction: revision, feed, activity.

The feed lets a running process recompile only what changed. It is cut at the old end; a reader that is further behind
than the feed reaches loads everything.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, NamedTuple

KEPT_CHANGES = 20_000
"""Rows of the feed that are kept at least."""
MOST_CHANGES = 2_000
"""A transaction that changes more than this says "everything" instead."""
KEPT_ACTIVITY = 500_000
_TRIM_EVERY = 256


class Kind(StrEnum):
    """What a change is about; `scope` and `name` of the change say which one."""

    EVERYTHING = "everything"
    RULE = "rule"
    SECRET = "secret"  # noqa: S105 - a kind, not a secret
    LIMIT = "limit"
    APP = "app"
    ENV = "env"
    DEPLOYMENT = "deployment"


class Weight(IntEnum):
    """How much an entry of the activity table matters (spec B.12)."""

    DEPLOY = 6
    CONFIG = 7
    SECURITY = 9


class Change(NamedTuple):
    """One changed thing: a host's rules in a scope, a secret, the limits of a scope, an app."""

    kind: Kind
    scope: str
    name: str


class Feed(NamedTuple):
    """What changed since a revision; `changes` is None when everything must be loaded."""

    revision: int
    changes: tuple[Change, ...] | None


@dataclass(frozen=True, slots=True)
class Activity:
    """Who changed what, and when (seconds since the epoch)."""

    id: int
    ts: float
    actor: str
    action: str
    scope: str
    subject: str
    weight: int
    revision: int
    details: Mapping[str, Any]


def next_revision(connection: sqlite3.Connection) -> int:
    """Raise the revision by one and return it; inside the transaction of the change."""
    row = connection.execute("UPDATE revision SET value = value + 1 RETURNING value").fetchone()
    return int(row[0])


def note(
    connection: sqlite3.Connection,
    revision: int,
    changes: Sequence[Change],
    *,
    actor: str,
    action: str,
    scope: str,
    subject: str,
    weight: Weight,
    details: Mapping[str, Any] | None = None,
    keep: int = KEPT_CHANGES,
) -> None:
    """Write the feed and the activity row of a change.

    Args:
        connection: inside the transaction of the change.
        revision: what `next_revision` gave.
        changes: what processes must load again.
        actor: who did it, `cli:NAME` or `admin`.
        action: what was done, `rule.allow`.
        scope: app id or "".
        subject: what it was done to; never a secret value.
        weight: for retention and filters.
        details: further JSON; never a secret value.
        keep: rows of the feed to keep at least.
    """
    rows = sorted(set(changes)) if len(changes) <= MOST_CHANGES else [Change(Kind.EVERYTHING, "", "")]
    connection.executemany(
        "INSERT INTO changes (revision, kind, scope, name) VALUES (?, ?, ?, ?)",
        [(revision, row.kind.value, row.scope, row.name) for row in rows],
    )
    connection.execute(
        "INSERT INTO activity (ts, actor, action, scope, subject, weight, revision, details) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (time.time(), actor, action, scope, subject, int(weight), revision, json.dumps(details or {}, sort_keys=True)),
    )
    if revision % _TRIM_EVERY == 0:
        trim(connection, keep=keep)


def trim(connection: sqlite3.Connection, *, keep: int, keep_activity: int = KEPT_ACTIVITY) -> None:
    """Cut the feed and the activity table at their old ends; the excess only."""
    (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM changes").fetchone()
    (gone,) = connection.execute("SELECT max(revision) FROM changes WHERE seq <= ?", (last - keep,)).fetchone()
    if gone is not None:
        connection.execute("DELETE FROM changes WHERE seq <= ?", (last - keep,))
        connection.execute("UPDATE revision SET pruned = max(pruned, ?)", (gone,))
    connection.execute(
        "DELETE FROM activity WHERE id <= (SELECT coalesce(max(id), 0) FROM activity) - ?", (keep_activity,)
    )


def current(connection: sqlite3.Connection) -> int:
    """Return the revision."""
    return int(connection.execute("SELECT value FROM revision").fetchone()[0])


def since(connection: sqlite3.Connection, revision: int) -> Feed:
    """Return what changed after a revision; inside the read transaction in which it is then loaded."""
    now, pruned = connection.execute("SELECT value, pruned FROM revision").fetchone()
    if revision < pruned or revision > now:  # too far behind, or the database was put back to an older state
        return Feed(now, None)
    rows = connection.execute(
        "SELECT DISTINCT kind, scope, name FROM changes WHERE revision > ? ORDER BY kind, scope, name", (revision,)
    ).fetchall()
    known = {kind.value for kind in Kind}
    if any(row["kind"] not in known or row["kind"] == Kind.EVERYTHING for row in rows):
        return Feed(now, None)
    return Feed(now, tuple(Change(Kind(row["kind"]), row["scope"], row["name"]) for row in rows))


def activity(
    connection: sqlite3.Connection, *, scope: str | None = None, least_weight: int = 0, limit: int = 20
) -> list[Activity]:
    """Return the newest entries of the activity table, newest first.

    Args:
        connection: in a read transaction.
        scope: only those of one app id, or of "" (global); all when None.
        least_weight: leave out lighter ones.
        limit: at most so many.
    """
    rows = connection.execute(
        "SELECT * FROM activity WHERE (? IS NULL OR scope = ?) AND weight >= ? ORDER BY id DESC LIMIT ?",
        (scope, scope, least_weight, limit),
    )
    return [
        Activity(
            id=row["id"],
            ts=row["ts"],
            actor=row["actor"],
            action=row["action"],
            scope=row["scope"],
            subject=row["subject"],
            weight=row["weight"],
            revision=row["revision"],
            details=json.loads(row["details"]),
        )
        for row in rows
    ]
