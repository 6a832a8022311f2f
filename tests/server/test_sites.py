"""Files and apps read from a real store."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fazt.errors import StoreError
from fazt.server.context import Site, StaleSiteError
from fazt.server.sites import StoredSites
from fazt.server.static import FileEntry
from fazt.stores.sqlite.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with Store.open(tmp_path / "data") as opened:
        yield opened


def put(store: Store, name: str, files: dict[str, bytes], **manifest: object) -> str:
    meta, _ = store.apps.ensure(name)
    content = [(path, body, hashlib.sha256(body).hexdigest()) for path, body in files.items()]
    store.deployments.deploy(meta.id, content, manifest=manifest)
    store.source.refresh()
    return meta.id


def sites_of(store: Store) -> StoredSites:
    return StoredSites(store.source, lambda: store.deployments)


async def read(sites: StoredSites, name: str, path: str) -> bytes | None:
    site = await sites.site(name)
    if site is None:
        return None
    entry = await sites.entry(site, path)
    return None if entry is None else b"".join([piece async for piece in sites.content(site, entry)])


def test_a_file_is_found_by_name_and_by_id(store):
    big = bytes(range(256)) * 8192
    app = put(store, "hello", {"index.html": b"one", "big.bin": big, "empty": b""}, spa=True)

    async def main() -> None:
        sites = sites_of(store)
        assert await read(sites, "hello", "index.html") == b"one"
        assert await read(sites, app, "index.html") == b"one"
        assert await read(sites, "hello", "big.bin") == big
        assert await read(sites, "hello", "empty") == b""
        assert await read(sites, "hello", "INDEX.html") is None
        assert await read(sites, "nobody", "index.html") is None
        site = await sites.site("hello")
        assert site is not None
        assert (site.app_id, site.name, site.spa) == (app, "hello", True)

    asyncio.run(main())


def test_an_app_that_was_never_deployed_has_no_files(store):
    store.apps.ensure("empty")
    store.source.refresh()

    async def main() -> None:
        sites = sites_of(store)
        site = await sites.site("empty")
        assert site is not None
        assert site.deployment is None
        assert await sites.entry(site, "index.html") is None

    asyncio.run(main())


def test_a_new_deployment_is_seen_and_the_old_one_forgotten(store):
    put(store, "hello", {"index.html": b"one", "old.txt": b"old"})

    async def main() -> None:
        sites = sites_of(store)
        assert await read(sites, "hello", "old.txt") == b"old"
        put(store, "hello", {"index.html": b"two"})
        assert await read(sites, "hello", "index.html") == b"two"
        assert await read(sites, "hello", "old.txt") is None

    asyncio.run(main())


def test_a_removed_app_is_gone_and_its_name_leads_to_the_new_one(store):
    first = put(store, "hello", {"index.html": b"one"})

    async def main() -> None:
        sites = sites_of(store)
        assert await read(sites, "hello", "index.html") == b"one"
        store.apps.remove("hello")
        store.source.refresh()
        assert await read(sites, "hello", "index.html") is None
        second = put(store, "hello", {"index.html": b"two"})
        assert second != first
        assert await read(sites, "hello", "index.html") == b"two"
        assert await sites.site(first) is None

    asyncio.run(main())


def test_a_deployment_that_went_away_under_a_request_is_stale_and_not_broken(store):
    put(store, "hello", {"index.html": b"one"})

    async def main() -> None:
        sites = sites_of(store)
        old = await sites.site("hello")
        assert old is not None
        entry = FileEntry("index.html", 3, hashlib.sha256(b"one").hexdigest())
        put(store, "hello", {"index.html": b"two"})
        with pytest.raises(StaleSiteError):
            await sites.entry(old, "index.html")
        with pytest.raises(StaleSiteError):
            _ = [piece async for piece in sites.content(old, entry)]
        fresh = await sites.site("hello", fresh=True)
        assert fresh is not None
        assert fresh.deployment != old.deployment

    asyncio.run(main())


def test_a_broken_store_is_an_error_and_never_an_empty_site(store, monkeypatch):
    put(store, "hello", {"index.html": b"one"})

    def broken(*_args: object, **_kwargs: object) -> None:
        raise StoreError("disk is gone")

    async def main() -> None:
        sites = sites_of(store)
        monkeypatch.setattr(type(store.deployments), "files", broken)
        with pytest.raises(StoreError):
            await read(sites, "hello", "index.html")
        monkeypatch.setattr(type(store.deployments), "live", broken)
        with pytest.raises(StoreError):
            await sites.site("hello", fresh=True)

    asyncio.run(main())


def test_requests_for_one_content_read_it_once(store, monkeypatch):
    put(store, "hello", {"a.bin": b"x" * 2_000_000, "b.bin": b"x" * 2_000_000, "c.txt": b"small"})
    reads: list[str] = []
    real = type(store.deployments).file

    def counted(self, app, path, **kwargs):
        reads.append(path)
        return real(self, app, path, **kwargs)

    monkeypatch.setattr(type(store.deployments), "file", counted)

    async def main() -> None:
        sites = sites_of(store)
        site = await sites.site("hello")
        assert site is not None
        await sites.entry(
            site, "a.bin"
        )  # known beforehand, so that all four ask for the content in one turn of the loop
        got = await asyncio.gather(*(read(sites, "hello", path) for path in ("a.bin", "b.bin", "a.bin", "a.bin")))
        assert {len(body or b"") for body in got} == {2_000_000}
        assert len(reads) == 1
        for _ in range(3):
            assert await read(sites, "hello", "c.txt") == b"small"
        assert reads.count("c.txt") == 1

    asyncio.run(main())


def test_memory_for_small_files_and_names_is_bounded(store, monkeypatch):
    from fazt.server import sites as module

    monkeypatch.setattr(module, "CACHED_BYTES", 1_000)
    monkeypatch.setattr(module, "CACHED_ENTRIES", 10)
    for number in range(5):
        put(store, f"app{number}", {f"{i}.txt": b"%d%d" % (number, i) * 100 for i in range(6)})

    async def main() -> None:
        sites = sites_of(store)
        for number in range(5):
            for i in range(6):
                assert await read(sites, f"app{number}", f"{i}.txt") == b"%d%d" % (number, i) * 100
        assert sites._small_bytes <= 1_000
        assert sites._listed_count <= 12

    asyncio.run(main())


def test_a_switch_between_two_looks_of_a_request_is_invisible(start):
    with start() as server:
        asked: list[bool] = []
        sites = server.sites
        real = type(sites).site

        async def site(name: str, *, fresh: bool = False) -> Site | None:
            asked.append(fresh)
            return await real(sites, name)

        entry = type(sites).entry

        async def stale_once(found: Site, path: str) -> FileEntry | None:
            if not asked[-1]:
                raise StaleSiteError
            return await entry(sites, found, path)

        sites.site, sites.entry = site, stale_once
        assert server.get("/about.html").body == b"about"
        assert server.get("/api/x").status == 200
        assert asked == [False, True] * 2

        async def always(_site: Site, _path: str) -> None:
            raise StaleSiteError

        sites.entry = always
        assert server.get("/about.html").status == 503
