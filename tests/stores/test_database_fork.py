"""While a process forks, no connection to SQLite is open: what a child opens then is its own in every respect."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.client.forking import Parent, forked

from fazt.stores.sqlite.database import Database
from fazt.stores.sqlite.migrations import Migration
from fazt.stores.sqlite.responses import SqliteResponses

THINGS = (Migration(1, "things", "CREATE TABLE things (a INTEGER) STRICT;"),)
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def opened(path: Path) -> Database:
    return Database(path, "things", migrations=THINGS)


def add(database: Database, number: int) -> None:
    with database.write() as connection:
        connection.execute("INSERT INTO things VALUES (?)", (number,))


def numbers(database: Database) -> list[int]:
    with database.read() as connection:
        return [row["a"] for row in connection.execute("SELECT a FROM things ORDER BY a")]


def descriptors(path: Path) -> list[str]:
    links = [f"/proc/self/fd/{entry}" for entry in os.listdir("/proc/self/fd")]
    return [os.readlink(link) for link in links if os.path.islink(link) and str(path) in os.readlink(link)]


def test_a_child_inherits_no_open_file_and_works_after_its_parent_has_closed(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    parents = opened(path)
    add(parents, 1)

    def child(parent: Parent) -> None:
        inherited = descriptors(path)
        mine = opened(path)
        parent.say((inherited, numbers(mine)))
        parent.wait()
        add(mine, 3)
        parent.say(numbers(mine))
        parent.wait()

    with forked(child) as far:
        assert far.hear() == ([], [1])
        add(parents, 2)
        parents.close()  # with a lock that the child only believed to have, this would take its write-ahead log away
        far.go()
        assert far.hear() == [1, 2, 3]
        with sqlite3.connect(path) as other:
            assert other.execute("SELECT count(*) FROM things").fetchone() == (3,)
        other.close()
        far.go()


def test_the_parent_goes_on_as_before(tmp_path: Path) -> None:
    database = opened(tmp_path / "x.db")
    for number in range(3):
        with forked(lambda parent: parent.say("here")) as far:
            assert far.hear() == "here"
        add(database, number)
    assert numbers(database) == [0, 1, 2]
    database.close()


def test_a_fork_waits_for_threads_inside_and_keeps_others_out(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    database = opened(path)
    inside, go_on, written = threading.Event(), threading.Event(), threading.Event()

    def write() -> None:
        with database.write() as connection:
            inside.set()
            go_on.wait(30)
            connection.execute("INSERT INTO things VALUES (1)")
        written.set()

    writer = threading.Thread(target=write)
    writer.start()
    inside.wait(30)

    def child(parent: Parent) -> None:
        parent.say((written.is_set(), descriptors(path)))

    # the fork begins while the writer is inside, and can only come about after it is out
    threading.Timer(0.05, go_on.set).start()
    with forked(child) as far:
        done, inherited = far.hear()
    writer.join()
    assert inherited == []
    assert done or numbers(database) == [1]
    assert numbers(database) == [1]
    database.close()


def test_who_forks_inside_a_transaction_waits_for_nobody(tmp_path: Path) -> None:
    database = opened(tmp_path / "x.db")
    with database.write() as connection:
        connection.execute("INSERT INTO things VALUES (1)")
        with forked(lambda parent: parent.say("here")) as far:
            assert far.hear() == "here"
        assert numbers(database) == []  # a read inside does not wait either
    assert numbers(database) == [1]
    database.close()


def test_a_grandchild_is_not_held_up_by_what_its_grandparent_had(tmp_path: Path) -> None:
    database = opened(tmp_path / "x.db")

    def child(parent: Parent) -> None:
        with forked(lambda inner: inner.say("grandchild")) as far:
            parent.say(far.hear())

    with forked(child) as far:
        assert far.hear() == "grandchild"
    database.close()


def test_a_database_that_another_thread_is_opening_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What SQLite locks in memory while it opens a file would stay locked in the child for ever."""
    opening, go_on, made = threading.Event(), threading.Event(), threading.Event()
    real = Database._connect

    def slowly(self: Database) -> Any:
        opening.set()
        go_on.wait(30)
        return real(self)

    monkeypatch.setattr(Database, "_connect", slowly)

    def make() -> None:
        opened(tmp_path / "x.db").close()
        made.set()

    maker = threading.Thread(target=make)
    maker.start()
    opening.wait(30)
    threading.Timer(0.05, go_on.set).start()
    with forked(lambda parent: parent.say(made.is_set() or descriptors(tmp_path / "x.db") == [])) as far:
        assert far.hear() is True
    maker.join()


def test_a_child_that_was_forked_inside_a_transaction_gets_out_of_it(tmp_path: Path) -> None:
    database = opened(tmp_path / "x.db")

    def child(parent: Parent) -> None:
        parent.say("inside")
        mine = opened(tmp_path / "y.db")
        add(mine, 1)
        parent.say(numbers(mine))

    with database.read(), forked(child) as far:
        assert far.hear() == "inside"
        assert far.hear() == [1]
    database.close()


def test_the_cache_is_closed_while_a_process_forks_and_waited_for_when_it_is_in_use(tmp_path: Path) -> None:
    store = SqliteResponses(tmp_path / "cache", max_bytes=1 << 20)
    store.kept()
    inside, go_on = threading.Event(), threading.Event()

    def use() -> None:
        def step(connection: sqlite3.Connection) -> None:
            inside.set()
            go_on.wait(30)

        store._do(store._reader, step, None)

    user = threading.Thread(target=use)
    user.start()
    inside.wait(30)

    def child(parent: Parent) -> None:
        parent.say(descriptors(tmp_path / "cache"))
        parent.say(store.kept().items)

    threading.Timer(0.05, go_on.set).start()
    with forked(child) as far:
        assert far.hear() == []
        assert far.hear() == 0
    user.join()
    assert store.kept().items == 0
    store.close()
