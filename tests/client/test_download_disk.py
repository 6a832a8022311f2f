"""Disks that are full, read-only, gone, and processes that are killed: for real, with mounts and signals."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from fazt.errors import Reason
from tests.client.download_site import CONTENT, KINDS, Fetch, Site, names, serving
from tests.meta.names import ROOT

DIGEST = hashlib.sha256(CONTENT).hexdigest()
PART, SIDECAR = ".f.fazt-part", ".f.fazt-part.json"
ALONE = [sys.executable, "-m", "tests.client.download_alone"]


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site()) as started:
        yield started


def alone(site: Site, kind: str, dest: Path, *, before: str = "", after: str = "", **wishes: Any) -> dict[str, Any]:
    """Download in a process with mounts of its own.

    Args:
        before, after: shell commands around the download, in which $D is the destination's directory.
    """
    command = [*ALONE, kind, str(site.port), site.url(), str(dest), json.dumps(wishes)]
    script = f'set -e\n{before}\n"$@" || true\n{after}'
    environment = {**os.environ, "D": str(dest.parent), "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    done = subprocess.run(
        [*_own_mounts(), "sh", "-c", script, "sh", *command],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env=environment,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    found: dict[str, Any] = json.loads(lines[0])
    found["after"] = lines[1:]
    return found


@lru_cache(maxsize=1)
def _own_mounts() -> list[str]:
    """Return the command that gives a process a mount namespace of its own; skip where the kernel gives none."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare command")
    command = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    done = subprocess.run(
        [*command, "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True, check=False, timeout=20
    )
    if done.returncode != 0:
        pytest.skip(f"the kernel gives no mount namespace: {done.stderr.decode().strip()}")
    return command


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_leaves_the_old_file_and_room(site: Site, kind: str, tmp_path: Path) -> None:
    found = alone(
        site,
        kind,
        tmp_path / "d" / "f",
        before='mkdir "$D"; mount -t tmpfs -o size=128k none "$D"; echo old >"$D/f"',
        after='ls -A "$D"; cat "$D/f"; df --output=avail -B1 "$D" | tail -1',
    )
    assert (found["kind"], found["code"], found["reason"]) == ("write", "NET_ERROR", "file_write")
    assert (found["cause"], found["detail"]) == ("OSError", "ENOSPC")
    assert found["events"] == ["file_write"]
    assert found["kept"] == 0
    *left, old, room = found["after"]
    assert left == ["f"]
    assert old == "old"
    assert int(room) >= 100_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_without_room_for_anything(site: Site, kind: str, tmp_path: Path) -> None:
    found = alone(
        site,
        kind,
        tmp_path / "d" / "f",
        before='mkdir "$D"; mount -t tmpfs -o size=4k,nr_inodes=2 none "$D"; echo old >"$D/f"',
        after='ls -A "$D"',
    )
    assert (found["kind"], found["detail"], found["events"]) == ("write", "ENOSPC", ["file_write"])
    assert found["after"] == ["f"]
    assert site.requests == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_read_only_mount(site: Site, kind: str, tmp_path: Path) -> None:
    found = alone(
        site,
        kind,
        tmp_path / "d" / "f",
        before='mkdir "$D"; echo old >"$D/f"; mount --bind "$D" "$D"; mount -o remount,bind,ro "$D"',
        after='ls -A "$D"',
    )
    assert (found["kind"], found["detail"], found["events"]) == ("write", "EROFS", ["file_write"])
    assert found["after"] == ["f"]
    assert site.requests == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_without_permission(site: Site, kind: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's own directories let nobody else through
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "d").mkdir(mode=0o555)
        wishes: dict[str, Any] = {"uid": 65534} if os.geteuid() == 0 else {}
        if wishes and not _readable_by_others():
            pytest.skip("another user cannot read this checkout")
        found = _plain(site, kind, folder / "d" / "f", **wishes)
        assert (found["kind"], found["detail"], found["events"]) == ("write", "EACCES", ["file_write"])
        found = _plain(site, kind, folder / "d" / "new" / "f", **wishes)
        assert (found["kind"], found["detail"]) == ("write", "EACCES")
        (folder / "d").chmod(0o755)
    assert site.requests == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_mount_that_vanishes_is_no_success(site: Site, kind: str, tmp_path: Path) -> None:
    """The file would be written to a disk that nobody sees any more."""
    site.hold = 100_000
    folder = tmp_path / "d"
    with _started(site, kind, folder / "f", before='mkdir "$D"; mount -t tmpfs none "$D"; echo mounted') as (
        process,
        shell,
    ):
        assert site.arrived.wait(30)
        subprocess.run(
            ["nsenter", f"--mount=/proc/{shell}/ns/mnt", "umount", "-l", str(folder)],
            check=True,
            timeout=20,
        )
        site.go.set()
        said = json.loads(process.communicate(timeout=30)[0].decode().splitlines()[-1])
    assert (said["kind"], said["reason"], said["events"]) == ("rename", "file_rename", ["file_rename"])
    assert names(folder) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_that_is_deleted_is_no_success(site: Site, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    fetch = Fetch(kind, site.port)

    def delete(done: int, _total: int | None) -> None:
        if done:
            shutil.rmtree(folder, ignore_errors=True)

    error = fetch.failing(site.url(), folder / "f", progress=delete)
    assert (error.kind, error.reason) == ("rename", Reason.FILE_RENAME)
    assert not folder.exists()
    assert len(fetch.ledger.rows) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_that_is_moved_is_no_success(site: Site, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    fetch = Fetch(kind, site.port)

    def move(done: int, _total: int | None) -> None:
        if done and folder.exists():
            folder.rename(tmp_path / "elsewhere")

    error = fetch.failing(site.url(), folder / "f", progress=move)
    assert (error.kind, error.reason) == ("rename", Reason.FILE_RENAME)


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_at_the_destination_when_it_is_finished(site: Site, kind: str, tmp_path: Path) -> None:
    fetch = Fetch(kind, site.port)

    def occupy(done: int, _total: int | None) -> None:
        if done:
            (tmp_path / "f").mkdir(exist_ok=True)

    error = fetch.failing(site.url(), tmp_path / "f", progress=occupy)
    assert (error.kind, error.reason, error.detail) == ("rename", Reason.FILE_RENAME, "EISDIR")
    assert error.kept == len(CONTENT)
    (tmp_path / "f").rmdir()
    got = fetch(site.url(), tmp_path / "f", sha256=DIGEST)
    assert got.resumed
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_on_the_size_of_files(site: Site, kind: str, tmp_path: Path) -> None:
    found = _plain(site, kind, tmp_path / "f", before="ulimit -f 100")
    assert (found["kind"], found["detail"], found["events"]) == ("write", "EFBIG", ["file_write"])
    assert names(tmp_path) == []


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_R68_memory_does_not_grow_with_the_file(site: Site, kind: str, packed: bool, tmp_path: Path) -> None:
    peaks, draw = [], random.Random(8)
    for size in (1_000_000, 90_000_000):
        content = b"".join(draw.randbytes(500) + bytes(9500) for _ in range(size // 10_000))
        site.content = gzip.compress(content, 1) if packed else content
        site.change = lambda answer, _: (
            replace(answer, fields={**answer.fields, "Content-Encoding": "gzip"}) if packed else answer
        )
        found = _plain(site, kind, tmp_path / "f")
        assert found["bytes"] == size
        peaks.append(found["peak"])
    assert peaks[1] - peaks[0] < 12_000, peaks


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_leaves_a_part_that_goes_on(site: Site, kind: str, tmp_path: Path) -> None:
    site.hold = 150_000
    (tmp_path / "f").write_bytes(b"old")
    process = _start(site, kind, tmp_path / "f", mark=150_000)
    assert process.stdout is not None
    assert process.stdout.readline() == b"there\n"
    process.send_signal(signal.SIGINT)
    said = json.loads(process.communicate(timeout=30)[0])
    assert said["interrupted"]
    assert said["events"] == ["aborted"]
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names(tmp_path) == [PART, SIDECAR, "f"]
    part = (tmp_path / PART).read_bytes()
    assert CONTENT.startswith(part)
    assert len(part) >= 64 * 1024  # what was on its way to the disk may be missing
    site.hold = None
    assert Fetch(kind, site.port)(site.url(), tmp_path / "f", sha256=DIGEST).resumed
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("kind", KINDS)
def test_kill_9_at_any_moment(kind: str, tmp_path: Path) -> None:
    """Killed again and again: the old file, the new file, or bytes that the next try goes on behind."""
    content = random.Random(7).randbytes(3_000_000)
    digest = hashlib.sha256(content).hexdigest()
    draw = random.Random(kind)
    old = b"old"
    resumed = killed = 0
    with serving(Site(content=content)) as site:
        for _ in range(6):
            (tmp_path / "f").write_bytes(old)
            site.arrived.clear()
            site.go.clear()
            site.hold = draw.choice([1, 70_000, 1_300_000, 2_900_000])
            process = _start(site, kind, tmp_path / "f", sha256=digest)
            assert site.arrived.wait(30)
            if draw.random() < 0.5:
                site.go.set()  # killed somewhere on its way, perhaps in the midst of the rename
                _spin(draw.random())
            process.kill()
            killed += process.wait(30) == -signal.SIGKILL
            process.stdout.close()  # type: ignore[union-attr]
            site.go.set()
            there = (tmp_path / "f").read_bytes()
            assert there in (old, content)
            assert set(names(tmp_path)) <= {"f", PART, SIDECAR}
            if (tmp_path / PART).exists():
                assert content.startswith((tmp_path / PART).read_bytes())
            site.hold = None
            got = Fetch(kind, site.port)(site.url(), tmp_path / "f", sha256=digest)
            resumed += got.resumed
            assert got.path.read_bytes() == content
            assert names(tmp_path) == ["f"]
    assert killed >= 1


def _spin(amount: float) -> None:
    """Pass a little time, for nothing but a random moment."""
    for _ in range(int(amount * 200_000)):
        pass


def _start(site: Site, kind: str, dest: Path, **wishes: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    command = [*ALONE, kind, str(site.port), site.url(), str(dest), json.dumps(wishes)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment)


def _plain(site: Site, kind: str, dest: Path, *, before: str = ":", **wishes: Any) -> dict[str, Any]:
    """Download in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*ALONE, kind, str(site.port), site.url(), str(dest), json.dumps(wishes)]
    done = subprocess.run(
        ["sh", "-c", f'{before}; exec "$@"', "sh", *command],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env=environment,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextlib.contextmanager
def _started(site: Site, kind: str, dest: Path, *, before: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a download in a mount namespace of its own; give its process and the id of one inside."""
    environment = {**os.environ, "D": str(dest.parent), "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    command = [*ALONE, kind, str(site.port), site.url(), str(dest)]
    if shutil.which("nsenter") is None or os.geteuid() != 0:
        pytest.skip("entering another process's mounts takes root and nsenter")
    process = subprocess.Popen(
        [*_own_mounts(), "sh", "-c", f'set -e\n{before}\nexec "$@"', "sh", *command],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=environment,
    )
    try:
        yield process, process.pid
    finally:
        site.go.set()
        process.kill()
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()


@lru_cache(maxsize=1)
def _readable_by_others() -> bool:
    """Whether another user could run the tests of this checkout."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534); import tests.client.download_alone",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    return done.returncode == 0
