"""Deployments: staged file by file beside the live one, then made live by one transaction.

Content lies in `apps.db`, addressed by its hash; which deployment of an app is live is one column of the policy
database. A process killed at any moment leaves the old deployment live or the new one, never a mix; what it had staged
is swept later.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fazt.errors import DeployError, StoreError
from fazt.stores.sqlite.apps import require_app
from fazt.stores.sqlite.changes import Change, Kind, Weight, next_revision, note
from fazt.stores.sqlite.database import Database

_logger = logging.getLogger("fazt.stores")
MAX_PATH = 512
"""Longest path of a file, in bytes of UTF-8."""
_BATCH_BYTES = 8 * 1024 * 1024
_ABANDONED = 3600.0
"""Seconds after which a stage that nobody touched is taken for abandoned."""

StagedFile = tuple[str, bytes, str]
"""Path inside the app, content, hex SHA-256 of the content."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment of an app. `image_key` names the baked image, "" when there is none."""

    id: str
    app: str
    created_at: float
    actor: str
    file_count: int
    total_bytes: int
    manifest: Mapping[str, Any]
    image_key: str


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of a deployment without its content."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a deployment."""

    path: str
    sha256: str
    body: bytes
    deployment: str

    def __repr__(self) -> str:
        return f"<StoredFile {self.path!r} {len(self.body)}B>"


@dataclass(frozen=True, slots=True)
class Stage:
    """Files written but not live."""

    deployment: str
    app: str
    file_count: int
    total_bytes: int


class Deployments:
    """Deployments of all apps of a data directory.

    Args:
        policy: the policy database.
        content: the database of files.
    """

    def __init__(self, policy: Database, content: Database) -> None:
        self._policy = policy
        self._content = content

    def deploy(
        self,
        app: str,
        files: Iterable[StagedFile],
        *,
        manifest: Mapping[str, Any] | None = None,
        image_key: str = "",
        actor: str = "",
    ) -> Deployment:
        """Stage files and make them live.

        Raises:
            DeployError, NotFoundError, StoreError: as `stage` and `switch`; nothing changed.
        """
        stage = self.stage(app, files)
        try:
            return self.switch(stage, manifest=manifest, image_key=image_key, actor=actor)
        except BaseException:
            self.discard(stage)
            raise

    def stage(self, app: str, files: Iterable[StagedFile]) -> Stage:
        """Write the files of a new deployment beside the live one.

        Args:
            app: id of the app.
            files: path, content, hash; each path once.

        Raises:
            DeployError: a path that is no plain relative one or stands twice, or a hash that is not the content's.
            StoreError: the files cannot be written.
        """
        deployment = "d_" + secrets.token_hex(10)
        count = size = 0
        try:
            self._open_stage(deployment, app)
            batch: list[StagedFile] = []
            waiting = 0
            seen: set[str] = set()
            for path, body, sha256 in files:
                _check(path, body, sha256, seen=seen)
                batch.append((path, body, sha256))
                waiting += len(body)
                count += 1
                size += len(body)
                if waiting >= _BATCH_BYTES or len(batch) >= 500:
                    self._write(deployment, batch)
                    batch, waiting = [], 0
            self._write(deployment, batch)
        except BaseException:
            self.drop([deployment])
            raise
        return Stage(deployment, app, count, size)

    def switch(
        self,
        stage: Stage,
        *,
        manifest: Mapping[str, Any] | None = None,
        image_key: str = "",
        actor: str = "",
    ) -> Deployment:
        """Make staged files the live deployment of their app, in one transaction.

        Args:
            stage: what `stage` returned.
            manifest: the app's manifest, JSON.
            image_key: name of the baked image.
            actor: who deploys.

        Raises:
            NotFoundError: the app was removed meanwhile.
            StoreError: the database cannot be written, or the stage is gone.
        """
        self._touch(stage)
        now = time.time()
        text = json.dumps(manifest or {}, sort_keys=True)
        with self._policy.write() as connection:
            require_app(connection, stage.app)
            (old,) = connection.execute("SELECT deployment FROM apps WHERE id = ?", (stage.app,)).fetchone()
            connection.execute(
                "INSERT INTO deployments (id, app, created_at, actor, file_count, total_bytes, manifest, image_key) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (stage.deployment, stage.app, now, actor, stage.file_count, stage.total_bytes, text, image_key),
            )
            connection.execute("UPDATE apps SET deployment = ? WHERE id = ?", (stage.deployment, stage.app))
            connection.execute("DELETE FROM deployments WHERE app = ? AND id <> ?", (stage.app, stage.deployment))
            revision = next_revision(connection)
            note(
                connection,
                revision,
                [Change(Kind.DEPLOYMENT, stage.app, stage.deployment)],
                actor=actor,
                action="app.deploy",
                scope=stage.app,
                subject=stage.deployment,
                weight=Weight.DEPLOY,
                details={"files": stage.file_count, "bytes": stage.total_bytes},
            )
        self.drop([] if old is None else [old])
        return Deployment(
            stage.deployment, stage.app, now, actor, stage.file_count, stage.total_bytes, json.loads(text), image_key
        )

    def discard(self, stage: Stage) -> None:
        """Throw staged files away; a deployment that is live stays."""
        with self._policy.read() as connection:
            if _known(connection, stage.deployment):
                return
        self.drop([stage.deployment])

    def live(self, app: str) -> Deployment | None:
        """Return the live deployment of an app by id, None before the first.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._policy.read() as connection:
            row = connection.execute(
                "SELECT d.* FROM apps a JOIN deployments d ON d.id = a.deployment WHERE a.id = ?", (app,)
            ).fetchone()
        return None if row is None else _deployment(row)

    def files(self, app: str, *, deployment: str | None = None) -> list[FileEntry]:
        """Return the files of an app's live deployment, by path; none before the first.

        Args:
            app: id of the app.
            deployment: read this one instead, which must still be kept.

        Raises:
            StoreError: the database cannot be read.
        """
        while True:
            wanted = deployment or self._live_id(app)
            if wanted is None:
                return []
            with self._content.read() as connection:
                there = connection.execute("SELECT 1 FROM stages WHERE deployment = ?", (wanted,)).fetchone()
                rows = connection.execute(
                    "SELECT f.path, b.sha256, f.size FROM files f JOIN blobs b ON b.id = f.blob "
                    "WHERE f.deployment = ? ORDER BY f.path",
                    (wanted,),
                ).fetchall()
            if there is not None:
                return [FileEntry(row["path"], row["sha256"], row["size"]) for row in rows]
            self._only_if_switched(app, wanted, deployment)

    def file(self, app: str, path: str, *, deployment: str | None = None) -> StoredFile | None:
        """Return one file of an app's live deployment, None when there is none at this exact path.

        Args:
            app: id of the app.
            path: relative path as deployed.
            deployment: read this one instead, which must still be kept.

        Raises:
            StoreError: the database cannot be read.
        """
        while True:
            wanted = deployment or self._live_id(app)
            if wanted is None:
                return None
            with self._content.read() as connection:
                row = connection.execute(
                    "SELECT b.sha256, b.body FROM files f JOIN blobs b ON b.id = f.blob "
                    "WHERE f.deployment = ? AND f.path = ?",
                    (wanted, path),
                ).fetchone()
                there = row is not None or (
                    connection.execute("SELECT 1 FROM stages WHERE deployment = ?", (wanted,)).fetchone() is not None
                )
            if row is not None:
                return StoredFile(path, row["sha256"], row["body"], wanted)
            if there:
                return None
            self._only_if_switched(app, wanted, deployment)

    def sweep(self, *, now: float | None = None) -> int:
        """Remove what was staged, never made live and not touched for an hour; answer how many stages went.

        Raises:
            StoreError: a database cannot be read or written.
        """
        cutoff = (time.time() if now is None else now) - _ABANDONED
        with self._content.read() as connection:
            rows = connection.execute("SELECT deployment FROM stages WHERE touched_at < ?", (cutoff,)).fetchall()
        with self._policy.read() as connection:
            gone = [row["deployment"] for row in rows if not _known(connection, row["deployment"])]
        return self._drop(gone, untouched_since=cutoff)

    def drop(self, deployments: Sequence[str]) -> None:
        """Remove the files of deployments that nothing points at any more; what fails is swept later."""
        try:
            self._drop(deployments)
            self.sweep()
        except StoreError as error:
            _logger.warning("old files were not removed: %s", error.message)

    def _live_id(self, app: str) -> str | None:
        with self._policy.read() as connection:
            row = connection.execute("SELECT deployment FROM apps WHERE id = ?", (app,)).fetchone()
        return None if row is None else row["deployment"]

    def _only_if_switched(self, app: str, wanted: str, asked: str | None) -> None:
        """Let the caller look again if another deployment went live between its two reads."""
        if asked is None and self._live_id(app) != wanted:
            return
        raise StoreError(
            f"the files of deployment {wanted} are missing",
            hint="deploy the app again: fazt app deploy DIR --name NAME",
        )

    def _open_stage(self, deployment: str, app: str) -> None:
        with self._content.write() as connection:
            connection.execute(
                "INSERT INTO stages (deployment, app, touched_at) VALUES (?, ?, ?)", (deployment, app, time.time())
            )

    def _touch(self, stage: Stage) -> None:
        with self._content.write() as connection:
            touched = connection.execute(
                "UPDATE stages SET touched_at = ? WHERE deployment = ?", (time.time(), stage.deployment)
            ).rowcount
        if touched == 0:
            raise StoreError("the staged files are gone", hint="deploy again")

    def _write(self, deployment: str, batch: Sequence[StagedFile]) -> None:
        with self._content.write() as connection:
            for path, body, sha256 in batch:
                connection.execute("INSERT OR IGNORE INTO blobs (sha256, body) VALUES (?, ?)", (sha256, body))
                connection.execute(
                    "INSERT INTO files (deployment, path, blob, size) SELECT ?, ?, id, ? FROM blobs WHERE sha256 = ?",
                    (deployment, path, len(body), sha256),
                )
            connection.execute("UPDATE stages SET touched_at = ? WHERE deployment = ?", (time.time(), deployment))

    def _drop(self, deployments: Sequence[str], *, untouched_since: float | None = None) -> int:
        dropped = 0
        for deployment in deployments:
            with self._content.write() as connection:
                # Asked again under the lock: whoever touched the stage since is about to make it live.
                there = connection.execute(
                    "SELECT 1 FROM stages WHERE deployment = ? AND (? IS NULL OR touched_at < ?)",
                    (deployment, untouched_since, untouched_since),
                ).fetchone()
                if there is None:
                    continue
                rows = connection.execute("SELECT DISTINCT blob FROM files WHERE deployment = ?", (deployment,))
                blobs = [(row["blob"],) for row in rows]
                connection.execute("DELETE FROM stages WHERE deployment = ?", (deployment,))
                connection.executemany(
                    "DELETE FROM blobs WHERE id = ? AND NOT EXISTS (SELECT 1 FROM files WHERE blob = blobs.id)", blobs
                )
                dropped += 1
        return dropped


def _check(path: str, body: bytes, sha256: str, *, seen: set[str]) -> None:
    parts = path.split("/")
    if (
        not path.isprintable()
        or "\\" in path
        or len(path.encode()) > MAX_PATH
        or any(part in ("", ".", "..") for part in parts)
        or path in seen
    ):
        why = "stands twice" if path in seen else "is no plain relative path"
        raise DeployError(f"{path!r} {why}")
    seen.add(path)
    # A hash that is believed would let one app put its content under another's.
    if hashlib.sha256(body).hexdigest() != sha256:
        raise DeployError(f"the content of {path!r} changed while it was read", hint="deploy again")


def _known(connection: sqlite3.Connection, deployment: str) -> bool:
    return connection.execute("SELECT 1 FROM deployments WHERE id = ?", (deployment,)).fetchone() is not None


def _deployment(row: sqlite3.Row) -> Deployment:
    return Deployment(
        id=row["id"],
        app=row["app"],
        created_at=row["created_at"],
        actor=row["actor"],
        file_count=row["file_count"],
        total_bytes=row["total_bytes"],
        manifest=json.loads(row["manifest"]),
        image_key=row["image_key"],
    )
