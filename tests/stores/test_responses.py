"""Where stored responses are kept: what holds of every store, and what the one on disk promises beside."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.core.cache.asked import NOW, ask, body_of, keep

from fazt.core.cache.entry import ResponseStore
from fazt.core.cache.memory import MemoryStore
from fazt.core.cache.responses import ResponseCache
from fazt.errors import StoreError
from fazt.stores.sqlite.responses import NAME, SqliteResponses

FRESH = ("Cache-Control", "max-age=60")
CANARY = "canary-93fe01"

Make = Callable[..., Any]


class Wall:
    """Seconds under the test's control."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    made: list[Any] = []

    def build(max_bytes: int = 1 << 20, **limits: Any) -> ResponseStore:
        if request.param == "memory":
            return MemoryStore(max_bytes, salt=b"salt" * 4, **limits)
        limits.setdefault("max_entry", max_bytes)
        store = SqliteResponses(tmp_path / "cache", max_bytes=max_bytes, wall=Wall(), **limits)
        made.append(store)
        return store

    yield build
    for store in made:
        store.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., SqliteResponses]]:
    made: list[SqliteResponses] = []

    def build(**limits: Any) -> SqliteResponses:
        limits.setdefault("max_bytes", 1 << 20)
        store = SqliteResponses(tmp_path / "cache", wall=Wall(), **limits)
        made.append(store)
        return store

    yield build
    for store in made:
        store.close()


def url(n: object) -> str:
    return f"https://api.test/{n}"


# --- every store


def test_what_is_put_is_found_whole(make: Make) -> None:
    cache = ResponseCache(make())
    request = ask(fields=(("Accept-Language", "de"),))
    fields = (
        ("Cache-Control", 'max-age=60, stale-if-error=5, no-cache="x-a"'),
        ("Vary", "Accept-Language"),
        ("X-Caf\xe9", "caf\xe9"),
        ("X-Two", "1"),
        ("X-Two", "2"),
    )
    assert keep(cache, request, *fields, body=bytes(range(256)))
    entry = cache.store.find(request.place, request.pick)
    assert entry is not None
    assert (entry.status, entry.body, entry.vary) == (200, bytes(range(256)), ("accept-language",))
    assert entry.headers == tuple((name.lower(), value) for name, value in fields)
    assert (entry.lifetime, entry.control.stale_if_error, entry.control.max_age) == (60.0, 5, 60)
    assert entry.control.no_cache_fields == {"x-a"}
    assert (entry.born, entry.requested_at, entry.received_at) == (NOW, NOW, NOW)
    assert body_of(cache, ask(fields=(("Accept-Language", "en"),))) is None


def test_what_answers_the_same_is_there_once(make: Make) -> None:
    cache = ResponseCache(make())
    for body in (b"1", b"2", b"3"):
        assert keep(cache, ask(), FRESH, body=body)
    assert body_of(cache, ask()) == b"3"
    assert cache.stats().items == 1


def test_bytes_are_bounded_and_what_was_used_longest_ago_goes(make: Make) -> None:
    cache = ResponseCache(make(4000))
    for n in range(4):
        assert keep(cache, ask(url(n)), FRESH, body=b"x" * 600)
    assert body_of(cache, ask(url(0))) is not None
    assert keep(cache, ask(url(4)), FRESH, body=b"x" * 600)
    kept = {n for n in range(5) if body_of(cache, ask(url(n))) is not None}
    assert {0, 4} <= kept
    assert 1 not in kept
    assert cache.stats().bytes <= 4000


def test_one_entry_is_bounded(make: Make) -> None:
    cache = ResponseCache(make(10_000, max_entry=1000))
    keep(cache, ask(), FRESH, body=b"old")
    assert not keep(cache, ask(url(1)), FRESH, body=b"x" * 1001)
    assert body_of(cache, ask()) == b"old"


def test_the_number_of_entries_is_bounded(make: Make) -> None:
    cache = ResponseCache(make(max_items=3))
    for n in range(5):
        keep(cache, ask(url(n)), FRESH)
    assert cache.stats().items == 3
    cache.store.configure(max_items=1, max_bytes=1 << 20)
    assert cache.stats().items == 1


def test_variants_are_bounded(make: Make) -> None:
    cache = ResponseCache(make())
    for n in range(70):
        keep(cache, ask(fields=(("X", str(n)),)), FRESH, ("Vary", "x"))
    assert cache.stats().items == 64
    assert body_of(cache, ask(fields=(("X", "69"),))) is not None
    assert body_of(cache, ask(fields=(("X", "0"),))) is None


def test_a_place_is_forgotten_whole_and_what_was_on_its_way_is_not_kept(make: Make) -> None:
    cache = ResponseCache(make())
    for method in ("GET", "HEAD"):
        keep(cache, ask(method=method), FRESH)
    assert cache.store.forget(ask().place, at=NOW + 1) == 2
    assert not keep(cache, ask(), FRESH, now=NOW + 2, took=1.5)
    assert keep(cache, ask(), FRESH, now=NOW + 4, took=1.5)


@pytest.mark.parametrize(
    ("app", "pattern", "left"),
    [
        (None, None, set()),
        ("app1", None, {"app2 api.test"}),
        (None, "api.test", {"app1 x.api.test", "app1 xapi.test"}),
        ("app1", "api.test", {"app1 x.api.test", "app1 xapi.test", "app2 api.test"}),
        (None, "*.api.test", {"app1 api.test", "app2 api.test", "app1 xapi.test"}),
        ("app1", "*.api.test", {"app1 api.test", "app2 api.test", "app1 xapi.test"}),
        ("app3", "api.test", {"app1 api.test", "app1 x.api.test", "app1 xapi.test", "app2 api.test"}),
    ],
)
def test_purging_follows_the_rule_that_changed(
    make: Make, app: str | None, pattern: str | None, left: set[str]
) -> None:
    cache = ResponseCache(make())
    places = ["app1 api.test", "app1 x.api.test", "app1 xapi.test", "app2 api.test"]
    requests = {place: ask(f"https://{place.split()[1]}/", app=place.split()[0]) for place in places}
    for request in requests.values():
        keep(cache, request, FRESH)
    assert cache.purge(app=app, pattern=pattern) == len(places) - len(left)
    assert {place for place in places if body_of(cache, requests[place]) is not None} == left


def test_an_entry_that_was_replaced_is_not_dropped_with_the_old_one(make: Make) -> None:
    cache = ResponseCache(make())
    keep(cache, ask(), FRESH, body=b"old")
    old = cache.store.find(ask().place, ask().pick)
    assert old is not None
    keep(cache, ask(), FRESH, body=b"new")
    cache.store.drop(old)
    assert body_of(cache, ask()) == b"new"


# --- on disk


def test_it_outlives_the_process(disk: Callable[..., SqliteResponses]) -> None:
    first = disk()
    keep(ResponseCache(first), ask(), FRESH)
    first.close()
    assert first.max_entry == 0
    assert body_of(ResponseCache(first), ask()) is None
    again = disk()
    assert again.salt == first.salt
    assert body_of(ResponseCache(again), ask()) == b"body"


def test_nobody_else_may_read_it(disk: Callable[..., SqliteResponses]) -> None:
    store = disk()
    keep(ResponseCache(store), ask(), FRESH)
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    for file in store.path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_no_credential_and_no_query_is_written_down(disk: Callable[..., SqliteResponses]) -> None:
    store = disk()
    cache = ResponseCache(store, credentials=True)
    request = ask(
        f"https://api.test/?token={CANARY}-query",
        fields=(("Authorization", f"Bearer {CANARY}"), ("X-Api-Key", CANARY), ("X-Other", CANARY)),
        salt=store.salt,
        credentials=True,
    )
    assert keep(cache, request, FRESH, ("Vary", "Authorization, X-Other"))
    assert body_of(cache, request) == b"body"
    for file in store.path.parent.iterdir():
        assert CANARY.encode() not in file.read_bytes()


@pytest.mark.parametrize("column", ["body", "head"])
def test_a_corrupted_entry_is_a_miss_and_goes(disk: Callable[..., SqliteResponses], column: str) -> None:
    store = disk()
    cache = ResponseCache(store)
    keep(cache, ask(), FRESH)
    with sqlite3.connect(store.path) as connection:
        damaged: object = b"evil" if column == "body" else '["GET","","",[],"",200'
        connection.execute(f"UPDATE entries SET {column} = ?", (damaged,))
    connection.close()
    assert body_of(cache, ask()) is None
    assert keep(cache, ask(), FRESH)
    assert body_of(cache, ask()) == b"body"


def test_a_changed_head_is_not_believed(disk: Callable[..., SqliteResponses]) -> None:
    store = disk()
    cache = ResponseCache(store)
    keep(cache, ask(), FRESH)
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE entries SET head = replace(head, 'max-age=60', 'max-age=99')")
    connection.close()
    assert body_of(cache, ask()) is None
    assert store.kept().items == 0


def test_a_damaged_file_is_thrown_away_at_opening(disk: Callable[..., SqliteResponses]) -> None:
    first = disk()
    keep(ResponseCache(first), ask(), FRESH)
    first.close()
    first.path.write_bytes(b"not a database at all" * 500)
    cache = ResponseCache(disk())
    assert body_of(cache, ask()) is None
    assert keep(cache, ask(), FRESH)
    assert body_of(cache, ask()) == b"body"


def test_a_file_that_is_damaged_in_use_is_thrown_away(disk: Callable[..., SqliteResponses]) -> None:
    store = disk()
    cache = ResponseCache(store)
    keep(cache, ask(), FRESH)
    store._writer.close()
    store._reader.close()
    for file in store.path.parent.iterdir():
        file.write_bytes(b"not a database at all" * 500)
    assert body_of(cache, ask()) is None
    assert keep(cache, ask(), FRESH)
    assert body_of(cache, ask()) == b"body"


def test_a_file_that_vanished_costs_no_call(disk: Callable[..., SqliteResponses]) -> None:
    store = disk()
    cache = ResponseCache(store)
    for file in list(store.path.parent.iterdir()):
        file.unlink()
    keep(cache, ask(), FRESH)
    assert cache.look(ask(), now=NOW) is not None


def test_a_file_of_a_newer_release_is_thrown_away(disk: Callable[..., SqliteResponses]) -> None:
    first = disk()
    first.close()
    with sqlite3.connect(first.path) as connection:
        connection.execute("INSERT INTO migrations VALUES (99, 'later', 0)")
    connection.close()
    assert keep(ResponseCache(disk()), ask(), FRESH)


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    (open_to_all / "theirs").touch()
    open_to_all.chmod(0o777)
    with pytest.raises(StoreError):
        SqliteResponses(open_to_all, max_bytes=1000)
    with pytest.raises(StoreError):
        SqliteResponses(Path("/proc/nothing/here"), max_bytes=1000)


def test_a_writer_that_stays_costs_no_call(disk: Callable[..., SqliteResponses]) -> None:
    store = disk()
    cache = ResponseCache(store)
    keep(cache, ask(), FRESH)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert not keep(cache, ask(url(2)), FRESH)
        assert body_of(cache, ask()) == b"body"  # readers do not wait
    finally:
        other.execute("ROLLBACK")
        other.close()
    assert keep(cache, ask(url(2)), FRESH)


def _fill(directory: str, number: int, barrier: Any) -> None:
    store = SqliteResponses(Path(directory), max_bytes=1 << 20)
    cache = ResponseCache(store)
    barrier.wait()
    for n in range(40):
        keep(cache, ask(url(f"{number}-{n}")), FRESH, body=b"x" * 100)
        keep(cache, ask(url("common")), FRESH, body=b"x" * 100)
    store.close()


def test_several_processes_keep_and_find_at_once(disk: Callable[..., SqliteResponses]) -> None:
    store = disk()
    spawn = multiprocessing.get_context("fork")
    barrier = spawn.Barrier(3)
    others = [spawn.Process(target=_fill, args=(str(store.path.parent), n, barrier)) for n in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
    assert [other.exitcode for other in others] == [0, 0, 0]
    cache = ResponseCache(store)
    assert body_of(cache, ask(url("common"))) == b"x" * 100
    kept = store.kept()
    with sqlite3.connect(store.path) as connection:
        assert connection.execute("SELECT count(*), sum(size) FROM entries").fetchone() == (kept.items, kept.bytes)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert kept.items > 40  # a write that finds the file locked for long is given up


def _in_child(store: SqliteResponses, found: Any) -> None:
    cache = ResponseCache(store)
    found.put((body_of(cache, ask()), keep(cache, ask(url(2)), FRESH, body=b"of the child")))


def test_a_forked_child_opens_the_file_for_itself(disk: Callable[..., SqliteResponses]) -> None:
    store = disk()
    cache = ResponseCache(store)
    keep(cache, ask(), FRESH)
    fork = multiprocessing.get_context("fork")
    found = fork.SimpleQueue()
    with store._reader.lock, store._writer.lock:  # as a thread of the parent may hold them
        child = fork.Process(target=_in_child, args=(store, found))
        child.start()
        child.join(60)
    assert child.exitcode == 0
    assert found.get() == (b"body", True)
    assert body_of(cache, ask(url(2))) == b"of the child"
    assert os.getpid() != child.pid


def test_threads_share_it(disk: Callable[..., SqliteResponses]) -> None:
    store = disk()
    cache = ResponseCache(store)
    wrong: list[object] = []

    def work(number: int) -> None:
        for n in range(30):
            keep(cache, ask(url(f"{number}-{n}")), FRESH, body=b"%d" % n)
            if (found := body_of(cache, ask(url(f"{number}-{n}")))) != b"%d" % n:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert store.kept().items == 120


def test_its_name_is_no_secret(disk: Callable[..., SqliteResponses]) -> None:
    assert repr(disk()).endswith(f"{NAME}>")


def test_a_full_disk_costs_no_call(disk: Callable[..., SqliteResponses]) -> None:
    store = disk()
    cache = ResponseCache(store)
    keep(cache, ask(), FRESH)
    connection = store._writer.connection
    assert connection is not None
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    assert not keep(cache, ask(url(2)), FRESH, body=b"x" * 200_000)
    assert body_of(cache, ask()) == b"body"
    connection.execute("PRAGMA max_page_count = 1000000")
    assert keep(cache, ask(url(2)), FRESH, body=b"x" * 200_000)


def _write_for_ever(directory: str, begun: Any) -> None:
    cache = ResponseCache(SqliteResponses(Path(directory), max_bytes=1 << 20))
    n = 0
    while True:
        keep(cache, ask(url(n % 20)), FRESH, body=bytes([n % 256]) * 5000)
        n += 1
        if n == 40:
            begun.set()


def test_what_a_killed_process_leaves_is_whole(disk: Callable[..., SqliteResponses]) -> None:
    store = disk()
    fork = multiprocessing.get_context("fork")
    begun = fork.Event()
    writer = fork.Process(target=_write_for_ever, args=(str(store.path.parent), begun))
    writer.start()
    assert begun.wait(60)
    writer.kill()
    writer.join(60)
    cache = ResponseCache(store)
    found = [body_of(cache, ask(url(n))) for n in range(20)]
    assert all(body is not None and len(body) == 5000 and len(set(body)) == 1 for body in found)
    assert store.kept().items == 20
