"""What an operator sees and does while a server runs: the live log, the cache, the admin API; and `fazt demo`."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import LOOPBACK, Scene
from tests.e2e.stage import Stage, code_of, until

pytestmark = pytest.mark.xdist_group("e2e-scene")


class Reader:
    """Reads a process's lines in the background."""

    def __init__(self, stage: Stage, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fazt", *args],
            env=stage.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.decode())

    def find(self, *words: str) -> str:
        """Wait for a line that holds these words."""
        while True:
            line = self.lines.get(timeout=20)
            if all(word in line for word in words):
                return line

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return self.process.returncode


def test_F56_the_live_log_shows_calls_and_console_lines_as_they_come(scene: Scene) -> None:
    stage = scene.stage
    stage.deploy("spoken")
    stage.fazt("net", "allow", scene.upstream.origin(), "--app", "spoken", *LOOPBACK)
    stage.settle()
    stage.call(scene.upstream.url("/echo/past"), app="spoken")
    until(lambda: stage.rows("--app", "spoken"))
    reader = Reader(stage, "log", "-f", "--json", "--app", "spoken")
    try:
        assert json.loads(reader.find("/echo/past"))["type"] == "call"
        stage.calls({"url": scene.upstream.url("/echo/live"), "log": True}, app="spoken")
        seen = [json.loads(reader.find("echo/live")) for _ in range(2)]
        assert {one["type"] for one in seen} == {"call", "line"}
        call = next(one for one in seen if one["type"] == "call")
        assert (call["path"], call["status"], call["door"]) == ("/echo/live", 200, "functions")
        refused = stage.call("https://nowhere.e2e.test/", app="spoken")
        assert json.loads(reader.find(refused["callId"]))["reason"] == "host_not_granted"
    finally:
        assert reader.end() == 130


def test_F17_the_cache_is_seen_and_cleared_from_the_command_line(scene: Scene) -> None:
    stage = scene.stage
    stage.deploy("keeper")
    stage.fazt("limits", "set", "net.cache_max_items", "10")
    stage.fazt("limits", "set", "net.cache_max_bytes", "100000")
    stage.fazt("net", "allow", scene.upstream.origin(), "--app", "keeper", *LOOPBACK, "--cache-ttl", "300")
    stage.settle()

    def number() -> Any:
        return stage.call(scene.upstream.url("/count"), app="keeper")["json"]["n"]

    try:
        first = number()
        assert [number() for _ in range(3)] == [first] * 3
        until(lambda: [row["cache"] for row in stage.rows("--app", "keeper")][:1] == ["hit"])
        stats = stage.json("net", "cache", "stats")
        assert (stats["items"], stats["hits"]) == (1, 3)
        assert stage.admin("/api/system/cache")["data"]["hits"] == 3
        stage.fazt("net", "cache", "clear")
        second = number()
        assert second > first
        stage.fazt("net", "allow", scene.upstream.origin(), "--app", "keeper", "--cache-ttl", "0")
        stage.settle()
        until(lambda: number() > second)
    finally:
        stage.fazt("limits", "set", "net.cache_max_items", "0")
        stage.fazt("limits", "set", "net.cache_max_bytes", "0")


def test_what_lives_in_the_server_cannot_be_asked_for_without_one(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    said = stage.fazt("net", "cache", "stats", expect=1).err
    assert "fazt serve" in said


def test_the_log_explains_itself(scene: Scene) -> None:
    stage = scene.stage
    refused = stage.call("https://nowhere.e2e.test/x")
    stage.row(refused["callId"])
    explained = stage.fazt("explain", refused["callId"], expect=2).out
    assert "nowhere.e2e.test" in explained
    fix = stage.fazt("explain", refused["callId"], "--json", expect=2).json["fix"]
    assert fix
    stats = stage.json("net", "stats")
    mine = next(one for one in stats if one["host"] == "nowhere.e2e.test")
    assert mine["calls"] >= 1
    assert mine["errorRate"] == 1


def test_F5_uncaught_refusals_show_the_public_nothing_and_the_owner_everything(scene: Scene) -> None:
    got = scene.stage.ask("POST", "/api/throw", body={"url": "https://nowhere.e2e.test/a?token=hidden"})
    assert got.status == 500
    assert got.json["code"] == "NET_BLOCKED"
    for word in (b"nowhere", b"hidden", b"main.js", b"about to call"):
        assert word not in got.body
    lines = until(
        lambda: [one for one in scene.stage.json("app", "logs", "probe") if "not on the allowlist" in str(one)]
    )
    assert lines


def test_F52_what_a_stranger_says_of_where_he_comes_from_changes_nothing(scene: Scene) -> None:
    for field in ("x-forwarded-for", "x-real-ip", "forwarded"):
        got = scene.stage.ask("GET", "/api/system/health", app="", **{field: "127.0.0.1", "host": "localhost"})
        assert got.status == 401
    outcome = scene.stage.call(scene.upstream.url(), headers={"X-Forwarded-For": "10.0.0.1", "Via": "1.1 x"})
    assert {"x-forwarded-for", "via"}.isdisjoint(name for name, _ in outcome["json"]["headers"])


def test_the_server_is_no_target(scene: Scene) -> None:
    """fazt's own listener is never reachable, whatever range a rule grants."""
    stage = scene.stage
    stage.deploy("inward")
    url = f"http://api.e2e.test:{stage.port}/api/system/health"
    stage.fazt("net", "allow", f"http://api.e2e.test:{stage.port}", "--app", "inward", *LOOPBACK)
    stage.settle()
    assert code_of(stage.call(url, app="inward")) == ("NET_BLOCKED", "own_listener")
    assert stage.fazt("fetch", url, "--app", "inward", "--json", expect=2).json["error"]["reason"] == "own_listener"


@pytest.fixture
def session(tmp_path: Path) -> dict[str, str]:
    """The environment of a stranger: nothing of fazt in it, and a place for temporary files of its own."""
    (tmp_path / "tmp").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FAZT_")}
    return {**kept, "TMPDIR": str(tmp_path / "tmp"), "HOME": str(tmp_path), "NO_COLOR": "1"}


def processes_of(session: int) -> list[str]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path("/proc", name, "stat").read_text("ascii", "replace").rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(name)
    return found


def test_the_demo_does_what_it_says_and_cleans_up(session: dict[str, str]) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "fazt", "demo"],
        env=session,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    out, err = running.communicate(timeout=90)
    said = out.decode()
    assert running.returncode == 0, said + err.decode()
    headings = re.findall(r"^\d\. (.*)$", said, re.MULTILINE)
    assert len(headings) == 7
    for claim in ("the upstream received the key", "ip_literal", "private_address", "the sixth did not", "one row"):
        assert claim in said
    assert "Now type" in said
    assert "Traceback" not in said + err.decode()
    assert os.listdir(session["TMPDIR"]) == []
    assert until(lambda: not processes_of(running.pid))
