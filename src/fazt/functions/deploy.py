"""Deploy a directory: stage, check, bake, then make it live in one transaction; nothing changes on any failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fazt.errors import DeployError, StoreError
from fazt.functions.guestapi import AppBundle, BakeError
from fazt.functions.images import Images
from fazt.functions.invocation import InvokeError
from fazt.functions.names import app_name
from fazt.functions.staging import SKIPPED, Manifest, StagedApp, StagedFile, stage

if TYPE_CHECKING:
    from fazt.core.policy import AppMeta
    from fazt.stores.sqlite.deployments import Deployment
    from fazt.stores.sqlite.store import Store

__all__ = [
    "SKIPPED",
    "Baker",
    "Deployed",
    "Manifest",
    "StagedApp",
    "StagedFile",
    "app_name",
    "bundle_of",
    "deploy",
    "ensure_image",
    "stage",
]


class Baker(Protocol):
    """Makes images: an engine, or a sandboxed worker that has one."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever images made earlier can no longer be run."""

    def bake(self, bundle: AppBundle, *, memory: int) -> bytes:
        """Compile an app into an image; raises `BakeError`, or `InvokeError` where no worker is to be had."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """What a deploy did.

    Args:
        app: the app.
        created: whether it had no record before.
        deployment: what is live now.
    """

    app: AppMeta
    created: bool
    deployment: Deployment


def deploy(
    store: Store,
    directory: Path,
    *,
    baker: Baker,
    name: str | None = None,
    actor: str = "",
    include_private: bool = True,
    spa: bool | None = None,
) -> Deployed:
    """Make a directory the live version of an app.

    Args:
        store: the data directory.
        directory: what to deploy.
        baker: makes the image of the part that runs.
        name: name (or id) of the app, made when there is none; by default the manifest's.
        actor: who deploys, for the activity table.
        include_private: whether `private/` goes along.
        spa: overrides the manifest's.

    Raises:
        DeployError: the directory, the name or the code cannot be deployed; the live version stays.
        StoreError: the data directory cannot be written; the live version stays.
    """
    given = store.apps.find(name) if name is not None else None
    limits = store.limits.show(given.id if given is not None else "")
    with ExitStack() as undo:
        staged = undo.enter_context(stage(directory, limits=limits, include_private=include_private))
        wanted = name if name is not None else staged.manifest.name
        if wanted is None:
            raise DeployError("the app has no name", hint='--name NAME, or {"name": "my-app"} in manifest.json')
        if given is None:
            wanted = app_name(wanted)
        meta, created = store.apps.ensure(wanted, actor=actor)
        if created:
            undo.callback(_forget, store, meta.id, actor)
        written = store.deployments.stage(meta.id, _contents(staged))
        undo.callback(store.deployments.discard, written)
        images = Images(store.data_dir)
        key = ""
        if staged.has_handler:
            bundle = AppBundle(meta.id, meta.name, staged.bundle, written.deployment)
            memory = store.limits.show(meta.id).runtime.max_memory
            image = _bake(baker, bundle, memory=memory)
            key = images.key(written.deployment, baker.fingerprint)
            undo.callback(images.discard, key)
            images.write(key, image)
        before = store.deployments.live(meta.id)
        live = store.deployments.switch(
            written,
            manifest={"name": meta.name, "spa": staged.manifest.spa if spa is None else spa},
            image_key=key,
            actor=actor,
        )
        undo.pop_all()
        staged.close()
    _prune(store, images, keep=before.id if before is not None else "")
    return Deployed(meta, created, live)


def ensure_image(store: Store, deployment: Deployment, *, baker: Baker, name: str) -> Path | None:
    """Return the image of a live deployment for this engine, baked again when there is none.

    An upgrade of fazt changes the engine; a backup brings files but no images.

    Args:
        store: the data directory.
        deployment: the live one.
        baker: makes the image.
        name: name of the app.

    Returns: where the image is; None when the app has no handler.

    Raises:
        DeployError: the app cannot be baked any more, or was deployed anew meanwhile.
        StoreError: files cannot be read or the image not written.
    """
    images = Images(store.data_dir)
    key = images.key(deployment.id, baker.fingerprint)
    if images.path(key).exists():
        return images.path(key)
    bundle = bundle_of(store, deployment, name=name)
    if "api/main.js" not in bundle.files:
        return None
    memory = store.limits.show(deployment.app).runtime.max_memory
    return images.write(key, _bake(baker, bundle, memory=memory))


def bundle_of(store: Store, deployment: Deployment, *, name: str) -> AppBundle:
    """Read the part of a live deployment that runs: `.js` and `.json` under `api/`.

    Raises:
        DeployError: the app was deployed anew meanwhile.
        StoreError: the files cannot be read.
    """
    files: dict[str, bytes] = {}
    for entry in store.deployments.files(deployment.app, deployment=deployment.id):
        if entry.path.startswith("api/") and entry.path.endswith((".js", ".json")):
            found = store.deployments.file(deployment.app, entry.path, deployment=deployment.id)
            if found is None:
                raise DeployError("the app was deployed anew meanwhile", hint="try again")
            files[entry.path] = found.body
    return AppBundle(deployment.app, name, files, deployment.id)


def _bake(baker: Baker, bundle: AppBundle, *, memory: int) -> bytes:
    try:
        return baker.bake(bundle, memory=memory)
    except BakeError as wrong:
        where = f"{wrong.path}: " if wrong.path and wrong.path not in wrong.message else ""
        raise DeployError(f"{where}{wrong.message}", hint=_HINTS.get(wrong.kind)) from None
    except InvokeError as failed:
        raise DeployError(f"the app could not be compiled: {failed.message}", hint="try again") from None


_HINTS = {
    "cpu": "the code outside of functions runs once at deploy; move long work into the handler",
    "memory": "`fazt limits set runtime.max_memory BYTES` raises the limit",
    "missing": "every request under /api runs api/main.js",
}


def _contents(staged: StagedApp) -> Iterator[tuple[str, bytes, str]]:
    for file in staged.files:
        yield file.path, staged.read(file), file.sha256


def _prune(store: Store, images: Images, *, keep: str) -> None:
    try:
        live = {app.deployment for app in store.apps.list() if app.deployment is not None}
    except StoreError:  # the new version is live; what is left over goes with the next deploy
        return
    # a server that has not seen the switch yet may still start a worker with the image before
    images.prune(live | {keep})


def _forget(store: Store, app: str, actor: str) -> None:
    if store.apps.get(app).deployment is None:
        store.apps.remove(app, actor=actor)
