"""The path gate (C.4): where a download may be put."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fazt.client import paths
from fazt.client.download_error import DownloadError
from fazt.client.paths import REFUSED, Destination, name_from, open_destination, place, within
from fazt.errors import Code, Reason
from tests.client.download_site import names


def gate(path: str | Path, *, root: str | Path | None = None) -> Path:
    """Pass the gate and return where the file would be."""
    destination = open_destination(place(path, url="http://x.test/name.bin"), root=root)
    try:
        return destination.path
    finally:
        destination.close()


def refused(path: str | Path, *, root: str | Path | None = None) -> DownloadError:
    with pytest.raises(DownloadError) as caught:
        gate(path, root=root)
    assert caught.value.path
    return caught.value


@pytest.mark.parametrize("folder", REFUSED)
@pytest.mark.parametrize("name", ["f", "deep/er/f", "../{}/f"])
def test_D28_directories_of_the_system_are_refused(folder: str, name: str) -> None:
    error = refused(f"{folder}/{name.format(folder[1:])}")
    assert (error.kind, error.code, error.reason) == ("policy", Code.NET_BLOCKED, Reason.PATH_REFUSED)
    assert not os.path.exists(f"{folder}/deep")


def test_D54_whole_components_are_compared() -> None:
    assert within("/etc/x", "/etc")
    assert within("/etc", "/etc")
    assert not within("/etcetera", "/etc")
    assert not within("/srv/etc", "/etc")
    assert within("/any", "/")


def test_a_directory_whose_name_only_begins_alike_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "REFUSED", (str(tmp_path / "etc"),))
    assert gate(tmp_path / "etcetera" / "f") == tmp_path / "etcetera" / "f"
    assert refused(tmp_path / "etc" / "f").reason is Reason.PATH_REFUSED
    assert names(tmp_path) == ["etcetera"]


def test_links_on_the_way_are_resolved_before_they_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("/etc")
    assert refused(tmp_path / "link" / "f").reason is Reason.PATH_REFUSED
    (tmp_path / "real").mkdir()
    (tmp_path / "good").symlink_to(tmp_path / "real")
    assert gate(tmp_path / "good" / "f") == tmp_path / "real" / "f"
    monkeypatch.setattr(paths, "REFUSED", (str(tmp_path / "good"),))  # as where /etc itself is a link
    assert refused(tmp_path / "real" / "f").reason is Reason.PATH_REFUSED


def test_the_root_holds(tmp_path: Path) -> None:
    root = tmp_path / "root"
    assert gate(root / "a" / "f", root=root) == root / "a" / "f"
    assert gate(root / "f", root=root) == root / "f"
    for outside in (tmp_path / "f", root / ".." / "f", tmp_path / "rootless" / "f", Path(f"{root}x") / "f"):
        assert refused(outside, root=root).reason is Reason.PATH_REFUSED
    (root / "out").symlink_to(tmp_path)
    assert refused(root / "out" / "f", root=root).reason is Reason.PATH_REFUSED
    assert not (tmp_path / "rootless").exists()


def test_a_root_that_is_a_link_is_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    assert gate(tmp_path / "root" / "f", root=tmp_path / "root") == tmp_path / "real" / "f"


def test_a_root_does_not_open_the_system(tmp_path: Path) -> None:
    assert refused("/etc/fazt/f", root="/etc/fazt").reason is Reason.PATH_REFUSED
    assert refused("/root/f", root="/").reason is Reason.PATH_REFUSED


def test_a_directory_that_is_exchanged_meanwhile_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between judging and opening somebody puts a link in the place of a directory."""
    (tmp_path / "forbidden").mkdir()
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(paths, "REFUSED", (str(tmp_path / "forbidden"),))
    real = os.makedirs

    def exchange(path: str, exist_ok: bool) -> None:
        real(path, exist_ok=exist_ok)
        os.rmdir(path)
        os.symlink(tmp_path / "forbidden", path)

    monkeypatch.setattr(os, "makedirs", exchange)
    assert refused(tmp_path / "folder" / "f").reason is Reason.PATH_REFUSED


def test_without_proc_the_same_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_proc(_path: str) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(os, "readlink", no_proc)
    assert gate(tmp_path / "f") == tmp_path / "f"
    monkeypatch.setattr(os.path, "realpath", lambda path: str(path))
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    assert refused(tmp_path / "f").reason is Reason.PATH_REFUSED


@pytest.mark.parametrize("path", ["", "a\0b", ".", "..", "/", "x/..", "nowhere/."])
def test_what_names_no_file(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if path in (".", "..", "/", "x/.."):  # directories, which may take a file
        (tmp_path / "x").mkdir()
        assert place(path, url="http://x.test/n").endswith("/n")
        return
    with pytest.raises(DownloadError) as caught:
        place(path, url="http://x.test/n")
    assert caught.value.reason is Reason.PATH_REFUSED


def test_bytes_are_no_path() -> None:
    with pytest.raises(DownloadError):
        place(b"/tmp/x")  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["fifo", "directory"])
def test_what_a_rename_would_not_replace_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "f"
    if what == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
        assert gate(path) == path / "name.bin"
        destination = Destination(os.open(tmp_path, os.O_RDONLY), str(tmp_path), "f")
        with pytest.raises(DownloadError):
            paths._judge_existing(destination, str(path))
        destination.close()
        return
    assert refused(path).reason is Reason.PATH_REFUSED


def test_a_link_at_the_destination_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "f").symlink_to("/etc/passwd")
    assert gate(tmp_path / "f") == tmp_path / "f"


def test_a_file_where_a_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    error = refused(tmp_path / "file" / "f")
    assert (error.kind, error.reason) == ("write", Reason.FILE_WRITE)
    assert isinstance(error.__cause__, OSError)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "fifo").parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / "fifo")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        gate(tmp_path / "f")
        refused(tmp_path / "fifo")
        refused("/etc/x")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/a/b.tar.gz", "b.tar.gz"),
        ("https://h/a/b?x=/c", "b"),
        ("https://h/a/b#/c", "b"),
        ("https://h/a/", "download"),
        ("https://h", "download"),
        ("https://h/%2e%2e", "download"),
        ("https://h/..", "download"),
        ("https://h/a%2Fb", "a_b"),
        ("https://h/a%00b%0ac", "a_b_c"),
        ("https://h/.bashrc", "bashrc"),
        ("https://h/C:%5Cx", "C__x"),
        ("https://h/%E2%82%AC.txt", "€.txt"),
        ("https://h/%ff.txt", "\ufffd.txt"),
        ("https://h/" + "a" * 300 + ".tar", "a" * 196 + ".tar"),
        ("https://h.test/a." + "b" * 199, "b" * 199),  # what is cut does not make a hidden file
        ("https://h.test/" + "a" * 2_000_000 + ".bin", "a" * 196 + ".bin"),
        ("https://h.test/%E2%80%AEgpj.exe", "_gpj.exe"),  # nor a name that reads backwards
    ],
)
def test_names_from_urls_are_harmless(url: str, name: str) -> None:
    assert name_from(url) == name
