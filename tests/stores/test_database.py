"""Files, pragmas, migrations, transactions and the errors of one database."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from fazt.errors import StoreError
from fazt.stores.sqlite import Store
from fazt.stores.sqlite.database import Database
from fazt.stores.sqlite.migrations import Migration, migrate, shipped, statements

THINGS = (Migration(1, "things", "CREATE TABLE things (n INTEGER NOT NULL) STRICT;\n"),)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def open_things(path: Path, **options: float) -> Database:
    return Database(path, "policy", migrations=THINGS, **options)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_F30e_every_file_is_0600_and_the_directory_0700_from_birth(tmp_path: Path, umask: int) -> None:
    data = tmp_path / "state" / "data"
    before = os.umask(umask)
    try:
        with Store.open(data) as store:
            app, _ = store.apps.ensure("hello")
            store.apps.set_env(app.id, {"A": "1"})
            store.deployments.deploy(app.id, [])
            store.log.write_line(app.id, "info", "hi", ts=1.0)
            store.log.flush()
            store.admin_token()
            files = sorted(path.name for path in data.iterdir())
            modes = {path.name: oct(mode(path)) for path in data.iterdir()}
    finally:
        os.umask(before)
    assert {"policy.db-wal", "policy.db-shm", "apps.db", "log.db", "log.db-wal", "admin.token"} <= set(files)
    assert set(modes.values()) == {"0o600"}
    assert mode(data) == 0o700


def test_F30e_an_open_database_file_of_ours_is_closed_to_others_before_it_is_used(data: Path) -> None:
    Store.open(data).close()
    os.chmod(data, 0o755)
    os.chmod(data / "policy.db", 0o644)
    Store.open(data).close()
    assert (mode(data), mode(data / "policy.db")) == (0o700, 0o600)


def test_F30e_pragmas_hold_on_every_connection(tmp_path: Path) -> None:
    database = open_things(tmp_path / "x.db")
    with database.read() as one, database.read() as two:
        assert one is not two
        for connection in (one, two):
            assert connection.execute("PRAGMA foreign_keys").fetchone()[0] == 1
            assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
            assert connection.execute("PRAGMA busy_timeout").fetchone()[0] == 5000
            assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
            assert connection.execute("PRAGMA trusted_schema").fetchone()[0] == 0
            assert connection.execute("PRAGMA secure_delete").fetchone()[0] == 1
    database.close()


def test_F30e_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    broken = (
        *THINGS,
        Migration(2, "broken", "CREATE TABLE more (n INTEGER) STRICT;\nINSERT INTO nowhere VALUES (1);\n"),
    )
    with pytest.raises(StoreError, match="nowhere"):
        Database(tmp_path / "x.db", "policy", migrations=broken)
    database = open_things(tmp_path / "x.db")
    with database.read() as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        versions = [row[0] for row in connection.execute("SELECT version FROM migrations")]
    database.close()
    assert tables == {"things", "migrations"}
    assert versions == [1]


def test_migrations_run_once_and_in_order(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    more = (*THINGS, Migration(2, "more", "ALTER TABLE things ADD COLUMN m INTEGER;\n"))
    assert migrate(connection, THINGS, label="x.db") == 1
    assert migrate(connection, more, label="x.db") == 1
    assert migrate(connection, more, label="x.db") == 0
    assert [tuple(row) for row in connection.execute("SELECT version, name FROM migrations")] == [
        (1, "things"),
        (2, "more"),
    ]
    connection.close()


def test_every_shipped_migration_is_cut_into_whole_statements() -> None:
    for family in ("policy", "apps", "log"):
        for migration in shipped(family):
            assert all(sqlite3.complete_statement(part) for part in statements(migration.sql))


def test_a_database_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    newer = (*THINGS, Migration(2, "later", "CREATE TABLE later (n INTEGER) STRICT;\n"))
    Database(tmp_path / "x.db", "policy", migrations=newer).close()
    with pytest.raises(StoreError, match="newer release") as caught:
        open_things(tmp_path / "x.db")
    assert "upgrade" in (caught.value.hint or "")


def test_many_openers_of_a_new_directory_agree(data: Path) -> None:
    ids: list[str] = []
    errors: list[Exception] = []
    barrier = threading.Barrier(6)

    def opener() -> None:
        barrier.wait()
        try:
            with Store.open(data) as store:
                ids.append(store.data_id)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=opener) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(ids) == 6 and len(set(ids)) == 1


def test_a_database_may_be_used_from_many_threads(tmp_path: Path) -> None:
    database = open_things(tmp_path / "x.db")

    def writer(first: int) -> None:
        for n in range(first, first + 20):
            with database.write() as connection:
                connection.execute("INSERT INTO things VALUES (?)", (n,))

    threads = [threading.Thread(target=writer, args=(at,)) for at in (0, 100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as connection:
        assert connection.execute("SELECT count(*) FROM things").fetchone()[0] == 80
    database.close()


def test_an_exception_undoes_the_whole_transaction(tmp_path: Path) -> None:
    database = open_things(tmp_path / "x.db")

    def fail_halfway() -> None:
        with database.write() as connection:
            connection.execute("INSERT INTO things VALUES (1)")
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()
    with database.read() as connection:
        assert connection.execute("SELECT count(*) FROM things").fetchone()[0] == 0
    with database.write() as connection:
        connection.execute("INSERT INTO things VALUES (2)")
    database.close()


def test_reading_sees_one_moment(tmp_path: Path) -> None:
    database = open_things(tmp_path / "x.db")
    with database.read() as reader:
        assert reader.execute("SELECT count(*) FROM things").fetchone()[0] == 0
        with database.write() as writer:
            writer.execute("INSERT INTO things VALUES (1)")
        assert reader.execute("SELECT count(*) FROM things").fetchone()[0] == 0
    database.close()


def test_a_locked_database_is_an_error_with_a_hint(tmp_path: Path) -> None:
    database = open_things(tmp_path / "x.db", patience=0.05)
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked") as caught, database.write():
        pass
    assert "fuser" in (caught.value.hint or "")
    with database.read() as connection:  # readers of a write-ahead log don't wait for the writer
        assert connection.execute("SELECT count(*) FROM things").fetchone()[0] == 0
    other.execute("COMMIT")
    other.close()
    with database.write():
        pass
    database.close()


@pytest.mark.parametrize("content", [b"this is not a database" * 100, b"SQLite format 3\0" + b"\xff" * 4080])
def test_a_damaged_policy_database_is_an_error_at_opening(data: Path, content: bytes) -> None:
    Store.open(data).close()
    for extra in ("policy.db-wal", "policy.db-shm"):
        (data / extra).unlink(missing_ok=True)
    (data / "policy.db").write_bytes(content)
    with pytest.raises(StoreError, match="damaged") as caught:
        Store.open(data)
    assert "backup" in (caught.value.hint or "")
    assert (data / "policy.db").read_bytes() == content


@pytest.mark.parametrize("left", ["gone", "empty"])
def test_a_lost_policy_database_is_not_replaced_by_an_empty_one(data: Path, left: str) -> None:
    with Store.open(data) as store:
        store.log.write_line("", "info", "x", ts=1.0)
    (data / "policy.db").unlink()
    if left == "empty":
        (data / "policy.db").touch(0o600)
    with pytest.raises(StoreError, match="used before"):
        Store.open(data)


def test_a_database_put_back_from_a_backup_is_noticed(tmp_path: Path) -> None:
    database = open_things(tmp_path / "x.db")
    database.close()
    shutil.copy(tmp_path / "x.db", tmp_path / "backup.db")
    database = open_things(tmp_path / "x.db")
    with database.write() as connection:
        connection.execute("INSERT INTO things VALUES (1)")
    generation = database.generation
    database.tidy()
    os.replace(tmp_path / "backup.db", tmp_path / "x.db")
    with database.read() as connection:
        assert connection.execute("SELECT count(*) FROM things").fetchone()[0] == 0
    assert database.generation == generation + 1
    os.unlink(tmp_path / "x.db")
    with pytest.raises(StoreError, match="gone"), database.read():
        pass
    assert not (tmp_path / "x.db").exists()
    database.close()


def test_a_symbolic_link_in_place_of_a_database_is_refused(data: Path, tmp_path: Path) -> None:
    data.mkdir(mode=0o700)
    (data / "policy.db").symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(StoreError):
        Store.open(data)
    assert not (tmp_path / "elsewhere.db").exists()


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "letter.txt").write_text("mine")
    shared.chmod(0o777)
    with pytest.raises(StoreError, match="others may write"):
        Store.open(shared)
    assert mode(shared) == 0o777
    shared.chmod(0o755)  # not ours alone, but nobody can put another database in place of ours
    Store.open(shared).close()
    assert mode(shared / "policy.db") == 0o600


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="not a directory"):
        Store.open(tmp_path / "file")


def test_a_closed_database_says_so(tmp_path: Path) -> None:
    database = open_things(tmp_path / "x.db")
    database.close()
    with pytest.raises(StoreError, match="closed"), database.read():
        pass


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_touch_the_database_of_its_parent(tmp_path: Path) -> None:
    database = open_things(tmp_path / "x.db")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with database.write():
                pass
        except StoreError as error:
            database.close()
            status = 0 if "forked" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with database.write() as connection:
        connection.execute("INSERT INTO things VALUES (1)")
    database.close()
