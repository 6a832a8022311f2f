"""Deployed apps and their files from the store, remembered for as long as they cannot have changed."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from fazt.errors import StoreError
from fazt.server.context import Site, StaleSiteError
from fazt.server.static import FileEntry

if TYPE_CHECKING:
    from fazt.ports import Policies
    from fazt.stores.sqlite.deployments import Deployments

_PIECE = 262_144
_SMALL = 1_048_576
CACHED_BYTES = 32 * 1024 * 1024
"""Content of small files that is kept in memory."""
CACHED_ENTRIES = 100_000
"""Names of files that are kept in memory."""


@dataclass(eq=False)
class _Blob:
    body: bytes = field(repr=False)


class StoredSites:
    """Apps of a data directory, for one event loop.

    A name is looked up in the policy snapshot; what is live under it is asked once per revision of the policy; the
    files of a deployment never change, so they are asked once.

    Args:
        policies: where the snapshot comes from.
        deployed: opens the store of deployments; called off the loop.
    """

    def __init__(self, policies: Policies, deployed: Callable[[], Deployments]) -> None:
        self._policies = policies
        self._deployed = deployed
        self._revision = -1
        self._sites: dict[str, Site] = {}
        self._listed: OrderedDict[str, dict[str, FileEntry]] = OrderedDict()
        self._listed_count = 0
        self._small: OrderedDict[str, _Blob] = OrderedDict()
        self._small_bytes = 0
        self._blobs: WeakValueDictionary[str, _Blob] = WeakValueDictionary()
        self._reading: dict[str, asyncio.Task[_Blob]] = {}

    async def site(self, name: str, *, fresh: bool = False) -> Site | None:
        """Find an app by its name or its id; `fresh` asks the store even if nothing seems to have changed."""
        policy = self._policies.current
        meta = policy.app_named(name)
        if meta is None:
            return None
        if policy.revision != self._revision or fresh:
            self._revision = policy.revision
            self._sites = {}
        site = self._sites.get(meta.id)
        if site is None:
            live = await asyncio.to_thread(lambda: self._deployed().live(meta.id))
            site = Site(meta.id, meta.name)
            if live is not None:
                site = Site(meta.id, meta.name, live.id, live.manifest.get("spa") is True)
            if self._revision == policy.revision:
                self._sites[meta.id] = site
        return site

    async def entry(self, site: Site, path: str) -> FileEntry | None:
        """Find a file of the live deployment by its exact path."""
        if site.deployment is None:
            return None
        listed = self._listed.get(site.deployment)
        if listed is None:
            listed = await self._list(site, site.deployment)
        else:
            self._listed.move_to_end(site.deployment)
        return listed.get(path)

    async def _list(self, site: Site, deployment: str) -> dict[str, FileEntry]:
        try:
            found = await asyncio.to_thread(lambda: self._deployed().files(site.app_id, deployment=deployment))
        except StoreError as fault:
            raise await self._stale(site, fault) from fault
        listed = {entry.path: FileEntry(entry.path, entry.size, entry.sha256) for entry in found}
        if deployment not in self._listed:
            self._listed[deployment] = listed
            self._listed_count += len(listed)
            while self._listed_count > CACHED_ENTRIES and len(self._listed) > 1:
                self._listed_count -= len(self._listed.popitem(last=False)[1])
        return listed

    async def _stale(self, site: Site, fault: StoreError) -> Exception:
        """Tell a deployment that was replaced a moment ago from a store that is broken."""
        live = await asyncio.to_thread(lambda: self._deployed().live(site.app_id))
        return StaleSiteError() if live is None or live.id != site.deployment else fault

    async def content(self, site: Site, entry: FileEntry) -> AsyncIterator[bytes]:
        """Yield the content of a file in pieces; requests for the same content share one copy."""
        blob = self._small.get(entry.sha256) or self._blobs.get(entry.sha256)
        if blob is None:
            blob = await self._read(site, entry)
        if entry.sha256 in self._small:
            self._small.move_to_end(entry.sha256)
        for start in range(0, len(blob.body), _PIECE):
            yield blob.body[start : start + _PIECE]

    async def _read(self, site: Site, entry: FileEntry) -> _Blob:
        task = self._reading.get(entry.sha256)
        if task is None:
            task = asyncio.create_task(self._load(site, entry))
            self._reading[entry.sha256] = task
            task.add_done_callback(lambda _task: self._reading.pop(entry.sha256, None))
        return await asyncio.shield(task)

    async def _load(self, site: Site, entry: FileEntry) -> _Blob:
        try:
            found = await asyncio.to_thread(
                lambda: self._deployed().file(site.app_id, entry.path, deployment=site.deployment)
            )
        except StoreError as fault:
            raise await self._stale(site, fault) from fault
        if found is None or found.sha256 != entry.sha256:
            raise StaleSiteError
        blob = self._blobs[entry.sha256] = _Blob(found.body)
        if len(found.body) <= _SMALL:
            self._small[entry.sha256] = blob
            self._small_bytes += len(found.body)
            while self._small_bytes > CACHED_BYTES:
                self._small_bytes -= len(self._small.popitem(last=False)[1].body)
        return blob
