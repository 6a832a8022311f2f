"""`fazt download`: files, lists of files, exit codes, what is printed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Fazt
from tests.client.download_site import CONTENT, HOST, OTHER, Answer, Site, serving
from tests.meta.names import ROOT
from tests.net.origin import authority, server_context

from fazt.cli import transfers
from fazt.cli.manifest import Entry, read_manifest
from fazt.cli.transfers import _Bar, _Lines
from fazt.errors import ConfigError

DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site(fazt: Fazt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server that a rule grants, and an empty directory to work in."""
    roots = tmp_path / "roots.pem"
    authority().cert_pem.write_to_path(roots)
    monkeypatch.setenv("FAZT_CA_FILE", str(roots))
    monkeypatch.setenv("FAZT_RESOLVE", f"{HOST}=127.0.0.1 {OTHER}=127.0.0.1")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with serving(Site(), tls=server_context(HOST)) as started:
        fazt("net", "allow", f"https://{HOST}:{started.port}", "--address", "127.0.0.0/8")
        yield started


def names() -> list[str]:
    return sorted(os.listdir("."))


def test_a_file_is_named_as_in_its_url(fazt: Fazt, site: Site) -> None:
    done = fazt("download", site.url("/a/data.bin?x=1"))
    assert Path(done.out.strip()).read_bytes() == CONTENT
    assert names() == ["data.bin"]
    assert "256.0 KiB" in done.err
    (row,) = fazt.json("net", "logs")
    assert (row["door"], row["status"], row["responseBytes"]) == ("cli", 200, len(CONTENT))


def test_json_is_one_document(fazt: Fazt, site: Site) -> None:
    found = fazt.json("download", site.url(), "-o", "out", "--sha256", DIGEST)
    assert found == {
        "path": str(Path("out").absolute()),
        "bytes": len(CONTENT),
        "sha256": DIGEST,
        "resumed": False,
        "status": 200,
        "url": site.url(),
        "callId": found["callId"],
    }


def test_a_directory_as_output(fazt: Fazt, site: Site) -> None:
    fazt("download", site.url("/x.bin"), "-o", "new/dir/")
    assert Path("new/dir/x.bin").read_bytes() == CONTENT
    fazt("download", site.url("/y.bin"), "-o", "new")
    assert Path("new/y.bin").exists()


def test_several_urls_go_into_a_directory(fazt: Fazt, site: Site) -> None:
    found = fazt.json("download", site.url("/a"), site.url("/b"), "-o", "d", "--jobs", "2", "--rate-limit", "900M")
    assert [Path(one["path"]).name for one in found] == ["a", "b"]
    assert sorted(os.listdir("d")) == ["a", "b"]


def test_an_error_page_is_a_failed_call(fazt: Fazt, site: Site) -> None:
    site.answers = [Answer(404, {}, b"no")]
    done = fazt("download", site.url(), "-o", "f", "--json", expect=2)
    assert done.json["error"]["code"] == "NET_ERROR"
    assert done.json["error"]["reason"] == "status"
    assert (done.json["error"]["kind"], done.json["error"]["status"]) == ("http", 404)
    assert "404" in done.err
    assert "fazt explain c_" in done.err
    assert names() == []


def test_refusals_have_code_2_and_local_troubles_code_1(fazt: Fazt, site: Site) -> None:
    assert "host_not_granted" in fazt("download", "https://elsewhere.test/x", expect=2).err
    assert "path_refused" in fazt("download", site.url(), "-o", "/etc/fazt-test", expect=1).err
    Path("file").write_bytes(b"")
    assert "file_write" in fazt("download", site.url(), "-o", "file/x", expect=1).err
    assert "checksum" in fazt("download", site.url(), "--sha256", "0" * 64, expect=2).err
    found = fazt("download", site.url("/a"), "https://elsewhere.test/x", "-o", "d", "--json", expect=2)
    assert [sorted(one)[:1] for one in found.json] == [["bytes"], ["error"]]
    assert found.json[1]["url"] == "https://elsewhere.test/x"
    assert "1 file of 2 failed" in found.err


def test_it_goes_on_where_it_broke_off(fazt: Fazt, site: Site) -> None:
    site.cuts = [100_000]
    done = fazt("download", site.url(), "-o", "f", expect=2)
    assert "97.7 KiB are kept" in done.err
    done = fazt("download", site.url(), "-o", "f", "--sha256", DIGEST)
    assert "resumed" in done.err
    assert site.asked == [None, "bytes=100000-"]
    assert Path("f").read_bytes() == CONTENT
    site.cuts = [100_000]
    done = fazt("download", site.url(), "-o", "g", "--no-resume", expect=2)
    assert names() == ["f"]


def test_retries_go_on_by_range(fazt: Fazt, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fazt.client.download_transfer.random.random", lambda: 0.0)
    site.cuts = [100_000, 50_000]
    fazt("download", site.url(), "-o", "f", "--retries", "3")
    assert site.asked == [None, "bytes=100000-", "bytes=150000-"]
    assert Path("f").read_bytes() == CONTENT


def test_no_overwrite(fazt: Fazt, site: Site) -> None:
    Path("f").write_bytes(b"old")
    assert "file_exists" in fazt("download", site.url(), "-o", "f", "--no-overwrite", expect=1).err
    Path("f").write_bytes(CONTENT)
    done = fazt("download", site.url(), "-o", "f", "--no-overwrite", "--sha256", DIGEST)
    assert "it was there already" in done.err
    assert site.requests == []


def test_max_bytes_and_headers(fazt: Fazt, site: Site) -> None:
    assert "response_body" in fazt("download", site.url(), "--max-bytes", "255K", expect=2).err
    fazt("download", site.url(), "--max-bytes", "256K", "-H", "X-One: 1")
    assert site.requests[-1]["x-one"] == "1"
    assert "set by the download" in fazt("download", site.url(), "-H", "Range: bytes=0-1", expect=1).err


def test_a_secret_goes_along(fazt: Fazt, site: Site) -> None:
    fazt("secret", "set", "KEY", "canary-3f9d2c71b8e64a05", "--domain", HOST)
    fazt("download", site.url(), "--auth", "KEY")
    assert site.requests[0]["authorization"] == "Bearer canary-3f9d2c71b8e64a05"
    assert "canary" not in "".join(fazt.seen)


def test_an_app_has_its_own_rules(fazt: Fazt, site: Site) -> None:
    assert "host_not_granted" in fazt("download", site.url(), "--app", "nobody", expect=2).err
    fazt("net", "allow", f"https://{HOST}:{site.port}", "--address", "127.0.0.0/8", "--app", "shop")
    fazt("download", site.url(), "--app", "shop")
    assert fazt.json("net", "logs")[0]["app"].startswith("fazt_app_")


def test_a_manifest_of_text(fazt: Fazt, site: Site) -> None:
    Path("list").write_text(
        f"# files\n\n{site.url('/a.bin')}\n{site.url('/b')} sub/b.bin\n{site.url('/c')} - {DIGEST}\n"
        f"{site.url('/d')} {DIGEST}\n"
    )
    found = fazt.json("download", "--manifest", "list", "-o", "d")
    assert [os.path.relpath(one["path"], "d") for one in found] == ["a.bin", "sub/b.bin", "c", "d"]
    assert [one["sha256"] for one in found] == [None, None, DIGEST, DIGEST]


def test_a_manifest_of_json_on_stdin(fazt: Fazt, site: Site) -> None:
    lines = [{"url": site.url("/a"), "name": "with space", "sha256": DIGEST}, {"url": site.url("/b")}]
    text = "\n".join(json.dumps(line) for line in lines)
    fazt("download", "--manifest", "-", "-o", "d", stdin=text.encode())
    assert sorted(os.listdir("d")) == ["b", "with space"]


def test_names_of_a_manifest_stay_below_the_directory(fazt: Fazt, site: Site) -> None:
    for name in ("../out", "/tmp/fazt-out", "a/../../out"):
        Path("list").write_text(f"{site.url()} {name}\n")
        assert "path_refused" in fazt("download", "--manifest", "list", "-o", "d", expect=1).err
        Path("list").write_text(f"{site.url()} {name}\n")
        assert "path_refused" in fazt("download", "--manifest", "list", expect=1).err
    assert site.requests == []
    assert not Path("../out").exists()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("https://h/x a b c", "names with spaces"),
        ("https://h/x name 123", "64 hexadecimal"),
        ('{"url": "https://h/x", "nam": "a"}', "nam"),
        ('{"url": 1}', "no text"),
        ("{}", "no url"),
        ("{", "no JSON"),
        ('{"url": ' + "[" * 100_000, "no JSON"),
        ('{"url": "https://h/x", "name": ""}', "empty"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(fazt: Fazt, site: Site, line: str, why: str) -> None:
    Path("list").write_text(f"# first\n{line}\n")
    done = fazt("download", "--manifest", "list", expect=1)
    assert "line 2" in done.err
    assert why in done.err


def test_lines_are_read_as_they_say() -> None:
    text = ["\ufeffhttps://h/a", "  # no", "", f"https://h/b x SHA256:{DIGEST}".replace("SHA256", "sha256")]
    assert list(read_manifest(text, where="list")) == [
        Entry("https://h/a"),
        Entry("https://h/b", "x", f"sha256:{DIGEST}"),
    ]
    with pytest.raises(ConfigError):
        list(read_manifest(['["url"]', "https://h/a b c d"], where="list"))


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["https://h/a", "https://h/b", "--sha256", DIGEST],
        ["https://h/a", "https://other/a"],
        ["https://h/a", "--sha256", "abc"],
        ["https://h/a", "-o", ""],
        ["https://h/a", "-o", "-"],
        ["https://h/a", "--rate-limit", "0"],
        ["https://h/a", "--rate-limit", "fast"],
        ["https://h/a", "--max-bytes", "-1"],
        ["https://h/a", "--jobs", "0"],
        ["--manifest", "nowhere"],
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_is_asked_for(fazt: Fazt, site: Site, words: list[str]) -> None:
    assert fazt("download", *words, expect=1).err
    assert fazt.json("net", "logs") == []
    assert names() == []


def test_ctrl_c_ends_with_130_and_a_part_that_goes_on(fazt: Fazt, site: Site) -> None:
    site.hold = 200_000
    process = subprocess.Popen(
        [sys.executable, "-c", _ALONE, "download", site.url(), "-o", "f"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"there\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert b"run the same command again" in err
    assert names() == [".f.fazt-part", ".f.fazt-part.json"]
    assert Path(".f.fazt-part").read_bytes() == CONTENT[:200_000]
    site.hold = None
    assert "resumed" in fazt("download", site.url(), "-o", "f", "--sha256", DIGEST).err
    assert [row["reason"] for row in fazt.json("net", "logs")] == [None, "aborted"]


_ALONE = """
import signal, sys
from fazt.cli import main, transfers
signal.signal(signal.SIGINT, signal.default_int_handler)
class Telling:
    def __init__(self, name): pass
    def __call__(self, done, total):
        if done >= 200_000: print("there", flush=True)
transfers._Lines = Telling
sys.exit(main(sys.argv[1:]))
"""


# --- what is shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with transfers.shown(quiet=False) as begin:
        first, second = begin("[red]a.bin"), begin("x" * 60)
        assert isinstance(first, _Bar)
        first(0, 1_000_000)
        first(10, 1_000_000)
        first(500_000, 1_000_000)
        second(0, None)
        second(5_000_000, None)
        first(1_000_000, 1_000_000)
    assert "[red]a.bin" in screen.getvalue()
    assert "…" in screen.getvalue()


def test_lines_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    lines = _Lines("a\x1b.bin", clock=lambda: now[0])
    for second, done in ((1.0, 10), (11.0, 512 * 1024), (12.0, 600 * 1024), (30.0, 1024 * 1024)):
        now[0] = second
        lines(done, 1024 * 1024)
    now[0] = 60.0
    lines(5, None)
    assert capsys.readouterr().err.splitlines() == [
        "a\\x1b.bin: 512.0 KiB of 1.0 MiB (50 %)",
        "a\\x1b.bin: 1.0 MiB of 1.0 MiB (100 %)",
        "a\\x1b.bin: 5 B",
    ]


def test_nothing_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    told: Any
    with transfers.shown(quiet=True) as begin:
        told = begin("a")
        assert told(1, 2) is None
    with transfers.shown(quiet=False) as begin:
        assert isinstance(begin("a"), _Lines)
    assert capsys.readouterr().err == ""
