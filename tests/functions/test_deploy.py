"""Deploying a directory: staging, checking, baking, switching (F54)."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from fazt.core.limits import Limits, defaults, with_values
from fazt.errors import DeployError, StoreError
from fazt.functions import staging
from fazt.functions.deploy import Baker, bundle_of, deploy, ensure_image, stage
from fazt.functions.guestapi import AppBundle, BakeError
from fazt.functions.images import Images
from fazt.functions.invocation import InvokeError
from fazt.functions.names import app_name
from fazt.stores.sqlite.store import Store

MIB = 1024 * 1024
LIMITS = with_values(
    defaults(total_ram=512 * MIB, available_ram=256 * MIB, cpu_cores=2),
    {"storage.max_file_size": MIB, "storage.max_site_size": 10 * MIB},
)
HELLO = {"api/main.js": "respond('hi')", "index.html": "<h1>hi</h1>", "api/lib/a.json": "{}", "private/n.txt": "n"}


@dataclass
class FakeBaker:
    """Bakes by hashing; fails on demand."""

    fingerprint: str = "fp1"
    error: Exception | None = None
    bundles: list[AppBundle] = field(default_factory=list)

    def bake(self, bundle: AppBundle, *, memory: int) -> bytes:
        self.bundles.append(bundle)
        if self.error is not None:
            raise self.error
        return b"IMAGE" + repr(sorted(bundle.files)).encode() + bundle.version.encode()


def make(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    root.mkdir(exist_ok=True)
    return root


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return make(tmp_path / "app", dict(HELLO))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with Store.open(tmp_path / "data", base=LIMITS) as opened:
        yield opened


def paths(directory: Path, limits: Limits = LIMITS, **options) -> list[str]:
    with stage(directory, limits=limits, **options) as staged:
        return [file.path for file in staged.files]


# -- staging -----------------------------------------------------------------------------------------------------------


def test_a_snapshot_holds_path_content_size_and_hash(app):
    with stage(app, limits=LIMITS) as staged:
        assert {file.path: staged.read(file).decode() for file in staged.files} == HELLO
        for file in staged.files:
            assert file.sha256 == hashlib.sha256(HELLO[file.path].encode()).hexdigest()
            assert file.size == len(HELLO[file.path])
        assert staged.total == sum(map(len, HELLO.values()))
        assert staged.bundle == {name: HELLO[name].encode() for name in ("api/main.js", "api/lib/a.json")}
        assert staged.has_handler


def test_a_snapshot_does_not_change_with_the_directory(app):
    with stage(app, limits=LIMITS) as staged:
        (app / "index.html").write_text("other")
        (app / "api" / "main.js").unlink()
        assert {file.path: staged.read(file).decode() for file in staged.files} == HELLO


def test_what_is_left_out(tmp_path):
    root = make(
        tmp_path / "app",
        {
            "index.html": "x",
            ".env": "SECRET",
            ".git/config": "x",
            "node_modules/a/index.js": "x",
            "sub/node_modules/b.js": "x",
            "debug.log": "x",
            "sub/NPM-DEBUG.LOG": "x",
            "sub/.DS_Store": "x",
            "sub/log": "kept",
        },
    )
    os.symlink("/etc/passwd", root / ".hidden-link")
    assert paths(root) == ["index.html", "sub/log"]


def test_private_goes_along_unless_it_is_not_wanted(app):
    assert "private/n.txt" in paths(app)
    assert "private/n.txt" not in paths(app, include_private=False)


def test_the_directory_itself_may_be_a_link(app, tmp_path):
    os.symlink(app, tmp_path / "link")
    assert "index.html" in paths(tmp_path / "link")


@pytest.mark.parametrize("target", ["/etc/passwd", "/etc", "index.html", "api", "nowhere", "."])
@pytest.mark.parametrize("where", ["link", "api/link"])
def test_F54_every_link_is_refused(app, target, where):
    os.symlink(target, app / where)
    with pytest.raises(DeployError, match="symbolic link"):
        paths(app)


def test_F54_a_directory_that_becomes_a_link_is_not_followed(app, tmp_path, monkeypatch):
    secret = make(tmp_path / "secret", {"key.txt": "SECRET"})
    real = os.open

    def swap(path, flags, *args, **kwargs):
        if path == "api":
            (app / "api").rename(app / "gone")
            os.symlink(secret, app / "api")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(staging.os, "open", swap)
    with pytest.raises(DeployError, match="changed while it was read"):
        paths(app)


def test_F54_a_file_that_becomes_another_is_refused(app, monkeypatch):
    real = os.open

    def swap(path, flags, *args, **kwargs):
        if path == "index.html":
            os.link(app / "api" / "main.js", app / "x")
            os.replace(app / "x", app / "index.html")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(staging.os, "open", swap)
    with pytest.raises(DeployError, match="changed while it was read"):
        paths(app)


def test_F54_special_files_are_refused_and_not_waited_for(app):
    os.mkfifo(app / "pipe")
    with pytest.raises(DeployError, match="neither a file nor a directory"):
        paths(app)
    (app / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(app)  # the path of a socket is short
        try:
            listener.bind("sock")
        finally:
            os.chdir(here)
        with pytest.raises(DeployError, match="neither a file nor a directory"):
            paths(app)


@pytest.mark.parametrize(
    "name", [b"a\\b", b"a\nb", b"a\x7fb", b"\xff\xfe", "a\u0085b".encode(), "a\u202eb".encode(), b"a%41b", b"a%2fb"]
)
def test_F54_names_that_are_not_plain_are_refused(app, name):
    (Path(os.fsdecode(os.fsencode(app) + b"/" + name))).write_bytes(b"x")
    with pytest.raises(DeployError):
        paths(app)


@pytest.mark.parametrize("name", ["100%.txt", "a b.txt", "caf\u00e9.txt", "a;b", "a+b", "-x", "~x"])
def test_other_names_are_fine(app, name):
    (app / name).write_text("x")
    assert name in paths(app)


@pytest.mark.parametrize(("one", "two"), [("a.txt", "A.txt"), ("sub/x", "SUB/y"), ("stra\u00dfe", "STRASSE")])
def test_F54_names_that_differ_in_case_alone_are_refused(app, one, two):
    make(app, {one: "1", two: "2"})
    with pytest.raises(DeployError, match="differ only"):
        paths(app)


def test_F54_names_that_differ_in_normal_form_alone_are_refused(app):
    make(app, {"caf\u00e9": "1", "cafe\u0301": "2"})
    with pytest.raises(DeployError, match="differ only"):
        paths(app)


@pytest.mark.parametrize("name", ["API/x.js", "Private/x", "WORKERS/x", "Manifest.json", "_app/x", "_ws", "_App/x"])
def test_F54_reserved_names_are_refused(tmp_path, name):
    root = make(tmp_path / "app", {name: "{}"})
    with pytest.raises(DeployError):
        paths(root)
    assert paths(make(tmp_path / "other", {f"sub/{name}": "{}"})) == [f"sub/{name}"]


def test_F54_sizes_are_limited(app):
    (app / "big.bin").write_bytes(b"x" * (MIB + 1))
    with pytest.raises(DeployError, match="max_file_size"):
        paths(app)
    (app / "big.bin").write_bytes(b"x" * MIB)
    assert "big.bin" in paths(app)
    for number in range(10):
        (app / f"big{number}.bin").write_bytes(b"x" * MIB)
    with pytest.raises(DeployError, match="max_site_size"):
        paths(app)


def test_F54_the_limit_holds_for_a_file_that_grows_while_it_is_read(app, monkeypatch):
    real = os.fstat

    def small(handle):
        found = real(handle)
        return found if stat.S_ISDIR(found.st_mode) else os.stat_result((*found[:6], 1, *found[7:10]))

    (app / "index.html").write_bytes(b"x" * (MIB + 1))
    monkeypatch.setattr(staging.os, "fstat", small)
    with pytest.raises(DeployError):
        paths(app)


def test_F54_counts_and_depth_are_limited(app, monkeypatch):
    monkeypatch.setattr(staging, "MAX_ENTRIES", 20)
    for number in range(30):
        (app / f"dir{number}").mkdir()
    with pytest.raises(DeployError, match="more than 20"):
        paths(app)


def test_F54_depth_is_limited(tmp_path):
    root = make(tmp_path / "app", {"/".join("d" * 33) + "/x": "x"})
    with pytest.raises(DeployError, match="directories deep"):
        paths(root)
    assert paths(make(tmp_path / "fine", {"/".join("d" * 32) + "/x": "x"})) == ["/".join("d" * 32) + "/x"]


def test_F54_the_length_of_a_path_is_limited(tmp_path):
    root = make(tmp_path / "app", {"/".join(["d" * 100] * 6): "x"})
    with pytest.raises(DeployError, match="longer than"):
        paths(root)


def test_code_is_held_in_memory_and_so_it_is_limited(app, monkeypatch):
    monkeypatch.setattr(staging, "MAX_CODE", 100)
    (app / "api" / "big.json").write_text("x" * 101)
    with pytest.raises(DeployError, match="api/ is larger"):
        paths(app)


def test_directories_that_cannot_be_used(tmp_path):
    for wrong in (tmp_path / "missing", make(tmp_path / "x", {"file": "x"}) / "file"):
        with pytest.raises(DeployError, match="cannot read the directory"):
            paths(wrong)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DeployError, match="nothing to deploy"):
        paths(tmp_path / "empty")


def test_no_descriptor_is_left_open(app):
    before = len(os.listdir("/proc/self/fd"))
    paths(app)
    os.symlink("x", app / "link")
    with pytest.raises(DeployError):
        paths(app)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "manifest.json:1:"),
        ("[]", "must hold an object"),
        ('{"name": 1}', "name must be a string"),
        ('{"name": "Not A Name"}', "cannot be the name"),
        ('{"name": "api"}', "reserved"),
        ('{"spa": "yes"}', "spa must be"),
        ('{"spa": 1}', "spa must be"),
        ('{"analytics": true}', "analytics must be"),
        ('{"analytics": {"enabled": "no"}}', "analytics must be"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[" * 60_000, "nests too deeply"),
        (b"\xff", "not UTF-8"),
        (" " * 70_000 + "{}", "larger than"),
    ],
)
def test_manifests_that_are_none(app, text, says):
    make(app, {"manifest.json": text})
    with pytest.raises(DeployError, match=says):
        paths(app)


def test_a_manifest_is_read(app):
    make(app, {"manifest.json": '\ufeff{"name": "shop", "spa": true, "analytics": {"enabled": false}, "other": [1]}'})
    with stage(app, limits=LIMITS) as staged:
        assert staged.manifest == staging.Manifest("shop", True)


@pytest.mark.parametrize("name", ["a", "my-app", "0", "a" * 63, "404", "root", "a--b"])
def test_names_of_apps(name):
    assert app_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-a",
        "a-",
        "A",
        "a_b",
        "a.b",
        "a" * 64,
        "caf\u00e9",
        "a b",
        "xn--caf-dma",
        "_app",
        "a\n",
        "fazt_app_000000000000",
        *("www", "api", "mail", "ftp", "smtp", "pop", "imap", "ns1", "ns2", "localhost", "admin"),
    ],
)
def test_names_that_no_app_has(name):
    with pytest.raises(DeployError):
        app_name(name)


# -- deploying ---------------------------------------------------------------------------------------------------------


def live_files(store: Store, app: str) -> dict[str, bytes]:
    found = {}
    for entry in store.deployments.files(app):
        body = store.deployments.file(app, entry.path)
        assert body is not None
        found[entry.path] = body.body
    return found


def images(store: Store) -> list[str]:
    directory = store.data_dir / "images"
    return sorted(os.listdir(directory)) if directory.exists() else []


def test_a_deploy_makes_the_app_its_files_and_its_image(app, store):
    baker = FakeBaker()
    typed: Baker = baker
    done = deploy(store, app, baker=typed, name="hello", actor="test")
    assert done.created
    assert done.app.name == "hello"
    assert live_files(store, done.app.id) == {name: text.encode() for name, text in HELLO.items()}
    live = store.deployments.live(done.app.id)
    assert live is not None
    assert live.id == done.deployment.id
    assert (baker.bundles[0].app_id, baker.bundles[0].version) == (done.app.id, live.id)
    path = Images(store.data_dir).path(live.image_key)
    assert path.read_bytes().startswith(b"IMAGE")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_id_stays_from_deploy_to_deploy(app, store):
    first = deploy(store, app, baker=FakeBaker(), name="hello")
    (app / "index.html").write_text("second")
    (app / "private" / "n.txt").unlink()
    second = deploy(store, app, baker=FakeBaker(), name="hello")
    third = deploy(store, app, baker=FakeBaker(), name=first.app.id)
    assert first.app == second.app == third.app
    assert (first.created, second.created, third.created) == (True, False, False)
    files = live_files(store, first.app.id)
    assert files["index.html"] == b"second"
    assert "private/n.txt" not in files


def test_the_manifest_names_the_app_when_nobody_else_does(app, store):
    with pytest.raises(DeployError, match="no name"):
        deploy(store, app, baker=FakeBaker())
    make(app, {"manifest.json": '{"name": "from-manifest", "spa": true}'})
    done = deploy(store, app, baker=FakeBaker())
    assert done.app.name == "from-manifest"
    assert done.deployment.manifest["spa"] is True
    assert deploy(store, app, baker=FakeBaker(), name="given", spa=False).deployment.manifest["spa"] is False


def test_an_app_without_a_handler_is_not_baked(app, store):
    (app / "api" / "main.js").unlink()
    baker = FakeBaker()
    done = deploy(store, app, baker=baker, name="static")
    assert (baker.bundles, done.deployment.image_key, images(store)) == ([], "", [])


FAILURES = {
    "bake": BakeError("api/main.js:3:7: unexpected token", "syntax", path="api/main.js"),
    "worker": InvokeError("unavailable", "no worker could be started"),
    "store": StoreError("disk full"),
    "fault": RuntimeError("a bug"),
    "interrupt": KeyboardInterrupt(),
}


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("first", [True, False], ids=["first deploy", "later deploy"])
def test_F54_nothing_changes_when_baking_fails(app, store, error, first):
    if not first:
        deploy(store, app, baker=FakeBaker(), name="hello")
    before = _state(store)
    (app / "index.html").write_text("new")
    with pytest.raises((DeployError, StoreError, RuntimeError, KeyboardInterrupt)) as failed:
        deploy(store, app, baker=FakeBaker(error=error), name="hello")
    assert _state(store) == before
    if isinstance(error, BakeError):
        assert "api/main.js:3:7" in str(failed.value)


@pytest.mark.parametrize("step", ["write", "switch", "stage"])
def test_F54_nothing_changes_when_a_later_step_fails(app, store, step, monkeypatch):
    deploy(store, app, baker=FakeBaker(), name="hello")
    before = _state(store)
    (app / "index.html").write_text("new")
    whom = Images if step == "write" else type(store.deployments)

    def broken(*_args, **_kwargs):
        raise StoreError("disk full")

    monkeypatch.setattr(whom, step, broken)
    with pytest.raises(StoreError):
        deploy(store, app, baker=FakeBaker(), name="hello")
    monkeypatch.undo()
    assert _state(store) == before


def _state(store: Store) -> object:
    apps = store.apps.list()
    with store.deployments._content.read() as connection:
        blobs = connection.execute("SELECT count(*) FROM blobs").fetchone()[0]
        stages = connection.execute("SELECT count(*) FROM stages").fetchone()[0]
    return apps, {app.id: live_files(store, app.id) for app in apps}, images(store), blobs, stages


def test_F54_a_bad_directory_is_refused_before_the_store_is_touched(app, store):
    revision = store.source.current.revision
    os.symlink("/etc/passwd", app / "link")
    with pytest.raises(DeployError):
        deploy(store, app, baker=FakeBaker(), name="hello")
    with pytest.raises(DeployError):
        deploy(store, app, baker=FakeBaker(), name="Not A Name")
    store.source.refresh()
    assert store.source.current.revision == revision
    assert store.apps.list() == []


def test_an_app_has_its_own_limits(app, store):
    done = deploy(store, app, baker=FakeBaker(), name="hello")
    store.limits.set("storage.max_file_size", 2 * MIB)
    (app / "big.bin").write_bytes(b"x" * (MIB + 1))
    deploy(store, app, baker=FakeBaker(), name="hello")
    store.limits.set("storage.max_file_size", MIB, app=done.app.id)
    with pytest.raises(DeployError, match="max_file_size"):
        deploy(store, app, baker=FakeBaker(), name="hello")


def test_images_that_nothing_names_go_with_time(app, store):
    first = deploy(store, app, baker=FakeBaker(), name="hello").deployment
    second = deploy(store, app, baker=FakeBaker(), name="hello").deployment
    # the one before stays for a server that has not seen the switch; others wait for an hour
    assert images(store) == sorted([first.image_key, second.image_key])
    kept = Images(store.data_dir)
    assert kept.prune({second.id}) == 0
    old = os.stat(kept.path(first.image_key)).st_mtime
    assert kept.prune({second.id}, now=old + 4000) == 1
    assert images(store) == [second.image_key]
    kept.discard("never there")


def test_an_image_is_baked_again_when_it_is_missing_or_the_engine_is_another(app, store):
    baker = FakeBaker()
    done = deploy(store, app, baker=baker, name="hello")
    path = ensure_image(store, done.deployment, baker=baker, name="hello")
    assert path == Images(store.data_dir).path(done.deployment.image_key)
    assert len(baker.bundles) == 1
    path.unlink()
    assert ensure_image(store, done.deployment, baker=baker, name="hello") == path
    assert len(baker.bundles) == 2
    assert baker.bundles[1].files == baker.bundles[0].files
    other = ensure_image(store, done.deployment, baker=replace(baker, fingerprint="fp2"), name="hello")
    assert other is not None
    assert other != path
    assert other.exists()


def test_an_app_without_a_handler_has_no_image(app, store):
    (app / "api" / "main.js").unlink()
    done = deploy(store, app, baker=FakeBaker(), name="static")
    assert ensure_image(store, done.deployment, baker=FakeBaker(), name="static") is None
    assert "api/main.js" not in bundle_of(store, done.deployment, name="static").files
