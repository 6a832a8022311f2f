"""Deployments: staged beside the live one, switched in one transaction, never a mix."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fazt.errors import DeployError, NotFoundError, StoreError
from fazt.stores.sqlite import Store
from fazt.stores.sqlite.deployments import StagedFile


def staged(path: str, text: str) -> StagedFile:
    body = text.encode()
    return path, body, hashlib.sha256(body).hexdigest()


def site(version: int, *, count: int = 3) -> list[StagedFile]:
    return [staged(f"page{n}.html", f"{n} of version {version}") for n in range(count)]


@pytest.fixture
def app(store: Store) -> str:
    return store.apps.ensure("hello")[0].id


def blobs(store: Store) -> int:
    content = store.deployments._content
    with content.read() as connection:
        return int(connection.execute("SELECT count(*) FROM blobs").fetchone()[0])


def test_files_and_figures_come_back(store: Store, app: str) -> None:
    assert store.deployments.live(app) is None
    assert store.deployments.files(app) == []
    assert store.deployments.file(app, "index.html") is None
    files = [staged("index.html", "<p>hi"), staged("api/main.js", "respond(1)"), staged("copy.html", "<p>hi")]
    made = store.deployments.deploy(app, files, manifest={"spa": True}, image_key="img", actor="cli:ann")
    assert store.deployments.live(app) == made
    assert (made.file_count, made.total_bytes, made.manifest, made.image_key) == (3, 20, {"spa": True}, "img")
    assert [(entry.path, entry.size) for entry in store.deployments.files(app)] == [
        ("api/main.js", 10),
        ("copy.html", 5),
        ("index.html", 5),
    ]
    found = store.deployments.file(app, "index.html")
    assert found is not None
    assert (found.body, found.sha256, found.deployment) == (b"<p>hi", files[0][2], made.id)
    for missing in ("INDEX.html", "index", "/index.html", "api/../index.html", "%"):
        assert store.deployments.file(app, missing) is None
    assert blobs(store) == 2
    assert store.apps.get(app).deployment == made.id
    assert store.activity()[0].details == {"files": 3, "bytes": 20}


def test_F54_the_old_one_stays_live_until_the_switch(store: Store, app: str) -> None:
    old = store.deployments.deploy(app, site(1))
    stage = store.deployments.stage(app, site(2))
    assert store.deployments.live(app) == old
    assert (store.deployments.file(app, "page0.html") or old).body == b"0 of version 1"  # type: ignore[union-attr]
    new = store.deployments.switch(stage)
    assert store.deployments.live(app) == new
    assert (store.deployments.file(app, "page0.html") or old).body == b"0 of version 2"  # type: ignore[union-attr]
    assert blobs(store) == 3  # what the old one had is gone


def test_F54_a_deploy_that_fails_changes_nothing(store: Store, app: str) -> None:
    old = store.deployments.deploy(app, site(1))

    def breaks() -> Iterator[StagedFile]:
        yield staged("page0.html", "half")
        raise OSError("the directory went away")

    for files in (
        breaks(),
        [staged("a", "x"), staged("a", "y")],
        [staged("../a", "x")],
        [staged("/a", "x")],
        [staged("a//b", "x")],
        [staged("a\\b", "x")],
        [staged("a\0", "x")],
        [staged("", "x")],
        [staged("x" * 600, "x")],
        [("a", b"x", hashlib.sha256(b"y").hexdigest())],
    ):
        with pytest.raises((DeployError, OSError)):
            store.deployments.deploy(app, files)
    assert store.deployments.live(app) == old
    assert [entry.path for entry in store.deployments.files(app)] == ["page0.html", "page1.html", "page2.html"]
    assert blobs(store) == 3


def test_F54_a_stage_of_an_app_that_was_removed_does_not_go_live(store: Store, app: str) -> None:
    stage = store.deployments.stage(app, site(1))
    store.apps.remove(app)
    with pytest.raises(NotFoundError):
        store.deployments.switch(stage)
    store.deployments.discard(stage)
    assert blobs(store) == 0


def test_a_hash_is_never_believed(store: Store, app: str) -> None:
    other, _ = store.apps.ensure("other")
    good = staged("index.html", "good")
    with pytest.raises(DeployError, match="changed"):
        store.deployments.deploy(other.id, [("index.html", b"evil", good[2])])
    store.deployments.deploy(app, [good])
    found = store.deployments.file(app, "index.html")
    assert found is not None and found.body == b"good"


def test_apps_share_content_and_nothing_else(store: Store, app: str) -> None:
    other, _ = store.apps.ensure("other")
    store.deployments.deploy(app, site(1))
    store.deployments.deploy(other.id, [*site(1), staged("own.html", "own")])
    assert blobs(store) == 4
    assert store.deployments.file(app, "own.html") is None
    store.apps.remove("other")
    assert blobs(store) == 3
    assert len(store.deployments.files(app)) == 3


def test_reading_while_another_process_switches_gives_one_version_or_the_other(store: Store, app: str) -> None:
    store.deployments.deploy(app, site(0))
    stop = threading.Event()
    seen: set[bytes] = set()
    errors: list[Exception] = []

    def reader() -> None:
        try:
            while not stop.is_set():
                found = store.deployments.file(app, "page0.html")
                assert found is not None
                seen.add(found.body)
                assert len(store.deployments.files(app)) == 3
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=reader)
    thread.start()
    for version in range(1, 25):
        store.deployments.deploy(app, site(version))
    stop.set()
    thread.join()
    assert errors == []
    assert seen <= {b"0 of version %d" % version for version in range(25)}


def test_lost_files_are_an_error_and_not_an_empty_site(store: Store, app: str) -> None:
    store.deployments.deploy(app, site(1))
    with store.deployments._content.write() as connection:
        connection.execute("DELETE FROM stages")
    with pytest.raises(StoreError, match="missing"):
        store.deployments.file(app, "page0.html")
    with pytest.raises(StoreError, match="missing"):
        store.deployments.files(app)


def test_what_was_staged_and_forgotten_is_swept_and_what_is_being_staged_is_not(store: Store, app: str) -> None:
    store.deployments.deploy(app, site(1))
    stage = store.deployments.stage(app, site(2))
    assert store.deployments.sweep() == 0
    with store.deployments._content.read() as connection:
        touched = connection.execute("SELECT max(touched_at) FROM stages").fetchone()[0]
    assert store.deployments.sweep(now=touched + 3601) == 1
    assert blobs(store) == 3
    assert len(store.deployments.files(app)) == 3
    with pytest.raises(StoreError, match="gone"):
        store.deployments.switch(stage)


DEPLOYER = """
import hashlib, sys
from pathlib import Path
from fazt.stores.sqlite import Store
store = Store.open(Path(sys.argv[1]))
app = store.apps.ensure("hello")[0].id
for version in range(int(sys.argv[2]), 100000):
    files = []
    for n in range(40):
        body = (b"%d " % version) * 300 + b"%d" % n
        files.append((f"f{n}", body, hashlib.sha256(body).hexdigest()))
    store.deployments.deploy(app, files, manifest={"version": version})
    print(version, flush=True)
"""


def test_F54_kill_9_during_deploys_leaves_the_old_one_or_the_new_one(data: Path) -> None:
    version = 0
    for round_ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", DEPLOYER, str(data), str(version + 1)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        done = [int(process.stdout.readline()) for _ in range(3 + round_)]
        os.kill(process.pid, signal.SIGKILL)
        done += [int(line) for line in process.stdout.read().split()]
        process.stdout.close()
        process.wait()
        with Store.open(data) as store:
            app = store.apps.get("hello").id
            live = store.deployments.live(app)
            assert live is not None
            assert live.manifest["version"] in (done[-1], done[-1] + 1)
            version = live.manifest["version"]
            files = store.deployments.files(app)
            assert len(files) == 40
            for entry in files:
                found = store.deployments.file(app, entry.path)
                assert found is not None
                assert found.body.startswith(b"%d " % version)
                assert hashlib.sha256(found.body).hexdigest() == entry.sha256
