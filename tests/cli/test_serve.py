"""`fazt serve` as a process of its own, and what the command line asks of it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Fazt
from tests.cli.upstream import Upstream

from fazt.cli import admin


@contextmanager
def serving(*args: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server that is ready, and the first line it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fazt", "serve", "--port", "0", *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield process, line
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate()
        watchdog.cancel()


def get(port: int, path: str, host: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers={"host": f"{host}:{port}"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_a_server_says_where_it_is_and_is_asked_there(fazt: Fazt, upstream: Upstream, tmp_path: Path) -> None:
    (tmp_path / "shop" / "api").mkdir(parents=True)
    (tmp_path / "shop" / "api" / "main.js").write_text(
        f"respond(fazt.net.fetch({json.dumps(upstream.url())}, {{ timeout: 3000 }}).json().path)"
    )
    fazt("app", "deploy", str(tmp_path / "shop"), "--name", "shop")
    fazt("net", "allow", upstream.url(""), "--app", "shop", "--address", "127.0.0.1/32", "--cache-ttl", "60")
    fazt("limits", "set", "net.cache_max_items", "10")
    fazt("limits", "set", "net.cache_max_bytes", "100000")
    with serving("--json") as (process, line):
        said: dict[str, Any] = json.loads(line)
        assert said["url"] == f"http://127.0.0.1:{said['port']}"
        assert [(app["name"], app["url"]) for app in said["apps"]] == [
            ("shop", f"http://shop.localhost:{said['port']}/")
        ]
        assert said["adminToken"].startswith("fazt_admin_")
        where = fazt.data / "server.json"
        assert oct(where.stat().st_mode & 0o777) == "0o600"
        found = admin.running(fazt.data)
        assert found is not None
        assert (found.pid, found.url, found.listeners) == (process.pid, said["url"], (("127.0.0.1", said["port"]),))
        for _ in range(2):
            assert get(said["port"], "/api/x", "shop.localhost") == (200, b"/echo")
        assert len(upstream.requests) == 1
        assert fazt.json("net", "cache", "stats")["items"] == 1
        assert "items" in fazt("net", "cache", "stats").out
        assert fazt.json("net", "cache", "clear", "--app", "shop") == {"removed": 1}
        assert fazt("net", "cache", "clear").out == "Dropped 0 responses\n"
        # the command line may reach the server no more than an app may
        fazt("net", "allow", f"http://api.test:{said['port']}", "--address", "127.0.0.1/32")
        own = f"http://api.test:{said['port']}/"
        assert fazt.json("fetch", own, expect=2)["error"]["reason"] == "own_listener"
        explained = fazt.json("explain", own, expect=2)
        assert "own_listener" in explained["gates"][-1]["detail"]
        assert explained["fix"] is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not where.exists()
    with serving() as (process, line):
        assert line.startswith("listening on http://127.0.0.1:")
        assert process.stdout is not None
        assert "http://shop.localhost:" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "admin token" not in out


def test_a_killed_server_leaves_nothing_that_is_believed(fazt: Fazt) -> None:
    with serving("--json") as (process, _):
        process.kill()
        process.wait(30)
        assert (fazt.data / "server.json").exists()
        assert admin.running(fazt.data) is None
        assert "no server runs" in fazt("net", "cache", "stats", expect=1).err


def test_a_port_that_is_taken_is_one_clear_error(fazt: Fazt, upstream: Upstream) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fazt", "serve", "--port", str(upstream.port)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot listen" in done.stderr
    assert "hint: " in done.stderr
    assert "admin token: fazt_admin_" in done.stderr  # printed once, though it could not start
    assert done.stdout == ""


# The file that says where a server is


def test_only_the_holder_of_the_lock_is_the_server(tmp_path: Path) -> None:
    assert admin.running(tmp_path) is None
    with admin.announced(tmp_path) as first:
        assert first.first
        assert admin.running(tmp_path) is None  # it has not said where it is
        first.write("http://127.0.0.1:1", [("127.0.0.1", 1)])
        with admin.announced(tmp_path) as second:
            assert not second.first
            second.write("http://127.0.0.1:2", [("127.0.0.1", 2)])
        assert admin.running(tmp_path) == admin.RunningServer(os.getpid(), "http://127.0.0.1:1", (("127.0.0.1", 1),))
    assert admin.running(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_its_lock_is_not_believed_whatever_it_says(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text(json.dumps({"pid": 1, "url": "http://127.0.0.1:1", "listeners": []}))
    assert admin.running(tmp_path) is None


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "server.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError), admin.announced(tmp_path):
        raise AssertionError("followed")
    assert (tmp_path / "elsewhere").read_text() == "precious"


def test_completion_prints_a_script_for_each_shell(fazt: Fazt, monkeypatch: pytest.MonkeyPatch) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_FAZT_COMPLETE" in fazt("completion", shell).out
    fazt("completion", "tcsh", expect=1)
    monkeypatch.setenv("SHELL", "/usr/bin/zsh")
    assert fazt("completion").out == fazt("completion", "zsh").out
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert "fazt completion bash|zsh|fish" in fazt("completion", expect=1).err
    assert not fazt.data.exists()


def test_completion_knows_commands_apps_and_limits(fazt: Fazt, monkeypatch: pytest.MonkeyPatch) -> None:
    def complete(words: str) -> list[str]:
        monkeypatch.setenv("_FAZT_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        try:
            return [line.partition(",")[2] for line in fazt().out.splitlines() if line]
        finally:
            monkeypatch.delenv("_FAZT_COMPLETE")

    assert "explain" in complete("fazt ")
    assert complete("fazt net al") == ["allow"]
    assert complete("fazt app info s") == []
    assert not fazt.data.exists()
    fazt("env", "set", "A", "1", "--app", "shop")
    assert complete("fazt app info s") == ["shop"]
    assert complete("fazt net allow x.com --app s") == ["shop"]
    assert complete("fazt limits set net.max_ca") == ["net.max_calls"]
