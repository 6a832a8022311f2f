"""The composition root: what a process keeps, and when it lets go of it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from fazt.app import LiveApps, engine_for, for_development, guest_cache
from fazt.config import Settings
from fazt.core.call import Target
from fazt.core.rules import expand_target
from fazt.functions.invocation import AppImage
from fazt.net.aio import Wire
from fazt.net.tls import TlsConfig
from fazt.stores.sqlite.changes import Change, Feed, Kind
from fazt.stores.sqlite.store import Store

APP = "fazt_app_000000000001"


class Shelf(LiveApps):
    """Reads a setting that a test changes; a read takes until the test says so."""

    def __init__(self) -> None:
        super().__init__(cast(Any, None), cast(Any, None))
        self.setting = "old"
        self.reads = 0
        self.reading = threading.Event()
        self.go = threading.Event()

    def _read(self, app_id: str, afresh: bool) -> Any:
        self.reads += 1
        setting = self.setting
        self.reading.set()
        assert self.go.wait(10)
        return AppImage(app_id, Path("/image"), "image"), "hello", {"SETTING": setting}


def feed(*kinds: Kind, app: str = APP) -> Feed:
    return Feed(2, tuple(Change(kind, app, "") for kind in kinds))


def setting(loaded: Any) -> str:
    return str(loaded[2]["SETTING"])


def changed_while_loading(change: Feed) -> tuple[list[str], int]:
    """Return what three requests see: two that began before a change, one after it; and the number of reads."""

    async def main() -> tuple[list[str], int]:
        shelf = Shelf()
        first, second = (asyncio.create_task(shelf.load(APP)) for _ in range(2))
        await asyncio.to_thread(shelf.reading.wait, 10)
        shelf.setting = "new"
        shelf.forget(change)
        shelf.go.set()
        seen = [setting(await first), setting(await second), setting(await shelf.load(APP))]
        assert setting(await shelf.load(APP)) == seen[-1]
        return seen, shelf.reads

    return asyncio.run(main())


def test_what_changed_while_it_was_loaded_is_not_kept() -> None:
    for kind in (Kind.ENV, Kind.APP, Kind.DEPLOYMENT):
        assert changed_while_loading(feed(kind)) == (["old", "old", "new"], 2)
    assert changed_while_loading(Feed(2, None)) == (["old", "old", "new"], 2)


def test_what_did_not_change_is_read_once() -> None:
    assert changed_while_loading(feed(Kind.RULE)) == (["old", "old", "old"], 1)
    assert changed_while_loading(feed(Kind.ENV, app="fazt_app_000000000002")) == (["old", "old", "old"], 1)


@pytest.mark.parametrize(
    ("engine", "sandbox", "said"),
    [
        ("wasm", {"seccomp": True}, []),
        ("jsbox", {"seccomp": True}, ["jsbox"]),
        ("wasm", {"seccomp": False}, ["no sandbox"]),
        ("jsbox", None, ["jsbox", "no sandbox"]),
    ],
)
def test_what_is_for_development_says_so(engine: str, sandbox: dict[str, Any] | None, said: list[str]) -> None:
    told = for_development({"engine": {"kind": engine}, "sandbox": sandbox})
    assert len(told) == len(said)
    assert all(part in text for part, text in zip(said, told, strict=True))


def test_a_server_makes_its_tls_context_before_the_first_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    ready = TlsConfig.ready

    async def noted(config: TlsConfig) -> Any:
        made.append(config.id)
        return await ready(config)

    monkeypatch.setattr(TlsConfig, "ready", noted)

    async def main(*, keep: bool) -> None:
        with Store.open(tmp_path / "data") as store:
            async with engine_for(store, Settings(tmp_path / "data"), keep=keep):
                pass

    asyncio.run(main(keep=False))
    assert made == []
    asyncio.run(main(keep=True))
    assert made == ["system"]


def test_a_running_engine_follows_the_rules_with_its_connections_and_its_cache(tmp_path: Path) -> None:
    """What a revoked rule stood for is let go, and limits of the cache take effect."""
    target = Target("https", "api.example.com", 443, "", "system")

    async def main() -> None:
        with Store.open(tmp_path / "data") as store:
            store.rules.allow(expand_target("api.example.com", scope=""), frozenset())
            async with engine_for(store, Settings(tmp_path / "data"), keep=True) as engine, asyncio.timeout(10):
                kept: list[bool] = []

                def drop_idle(keep: Any) -> int:
                    kept.append(keep(target))
                    return 0

                cast(Wire, engine.wire).drop_idle = drop_idle  # type: ignore[method-assign]
                before = engine.cache.generation
                store.limits.set("net.cache_max_items", 10)
                store.limits.set("net.cache_max_bytes", 10_000)
                while not engine.cache.enabled:
                    await asyncio.sleep(0.005)
                assert set(kept) == {True}
                assert engine.cache.generation == before
                store.rules.remove("api.example.com")
                while engine.cache.generation == before:
                    await asyncio.sleep(0.005)
                assert kept[-1] is False

    asyncio.run(main())


def test_a_service_without_a_home_keeps_the_compiled_guest_with_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert guest_cache(data) == tmp_path / "cache" / "fazt" / "guest"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert guest_cache(data) == tmp_path / "home" / ".cache" / "fazt" / "guest"
    (tmp_path / "file").write_text("no directory")
    for impossible in (str(tmp_path / "file"), "/proc/nonexistent"):
        monkeypatch.setenv("HOME", impossible)
        assert guest_cache(data) == data / "guest"
