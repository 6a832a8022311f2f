"""What goes wrong in the middle: a worker is killed, a visitor leaves, a deploy comes, a certificate is no good."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import LOOPBACK, NAMES, Scene
from tests.e2e.stage import Got, Stage, code_of, until
from tests.e2e.upstream import Upstream

pytestmark = pytest.mark.xdist_group("e2e-scene")
APP = "mishap"


@pytest.fixture(scope="module")
def stage(scene: Scene) -> Stage:
    scene.stage.deploy(APP)
    scene.stage.fazt("net", "allow", scene.upstream.origin(), "--app", APP, *LOOPBACK)
    scene.stage.settle()
    return scene.stage


@pytest.fixture
def holding(scene: Scene) -> Iterator[Upstream]:
    scene.upstream.go.clear()
    yield scene.upstream
    scene.upstream.go.set()


def at_rest(stage: Stage) -> None:
    until(lambda: stage.admin("/api/system/net")["data"]["in_flight"] == 0, what="giving back the slot")


def ended(stage: Stage, path: str) -> dict[str, Any]:
    """Wait for the one row of the call to a path."""
    (row,) = until(lambda: [row for row in stage.rows("--app", APP) if row["path"] == path], what="the row")
    return dict(row)


def test_F33_a_worker_that_is_killed_in_a_call_leaves_nothing_behind(scene: Scene, stage: Stage) -> None:
    upstream = scene.upstream
    got: list[Got] = []
    body = [{"url": upstream.url("/silent/killed")}]
    visitor = threading.Thread(target=lambda: got.append(stage.ask("POST", "/api/calls", app=APP, body=body)))
    visitor.start()
    (used,) = until(lambda: [seen.connection for seen in upstream.requests if seen.target == "/silent/killed"])
    zygote = stage.admin("/api/system/health")["data"]["runtime"]["zygote"]["pid"]
    for pid in stage.family() - {zygote}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    # well before the call's own deadline
    until(lambda: used not in upstream.open, seconds=2.5, what="closing the connection of the call")
    visitor.join(20)
    assert got[0].status in (500, 503)
    assert b"killed" not in got[0].body
    at_rest(stage)
    row = ended(stage, "/silent/killed")
    assert (row["code"], row["reason"]) == ("NET_TIMEOUT", "aborted")
    assert stage.call(upstream.url(), app=APP)["status"] == 200, "another worker takes over"


def test_a_visitor_that_leaves_ends_nothing_that_is_not_his(stage: Stage, holding: Upstream) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", stage.port, timeout=20)
    body = json.dumps([{"url": holding.url("/hold/left")}])
    fields = {"host": f"{APP}.localhost", "content-type": "application/json"}
    connection.request("POST", "/api/calls", body, fields)
    until(lambda: holding.held == 1)
    connection.close()
    assert stage.ask("POST", "/api/calls", app=APP, body=[]).json == []
    holding.go.set()
    at_rest(stage)
    assert ended(stage, "/hold/left")


def test_F54_visitors_notice_nothing_of_a_deploy(stage: Stage) -> None:
    """Every answer is whole and comes from one deployment or the next."""
    stage.deploy("steady", source='respond("0")')
    stage.settle()
    answers: list[tuple[int, bytes]] = []
    over = threading.Event()

    def visit() -> None:
        while not over.is_set():
            got = stage.ask("GET", "/api/", app="steady")
            answers.append((got.status, got.body))

    visitors = [threading.Thread(target=visit, daemon=True) for _ in range(2)]
    for visitor in visitors:
        visitor.start()
    try:
        for number in (1, 2):
            stage.deploy("steady", source=f'respond("{number}")')
            until(lambda number=number: answers and answers[-1][1] == b"%d" % number)
    finally:
        over.set()
        for visitor in visitors:
            visitor.join(20)
    assert {status for status, _ in answers} == {200}
    bodies = [body for _, body in answers]
    assert set(bodies) == {b"0", b"1", b"2"}
    assert bodies.index(b"1") < bodies.index(b"2")


def test_an_upstream_that_nobody_vouches_for_gets_nothing(stage: Stage, tmp_path: Path) -> None:
    with contextlib.closing(Upstream(tmp_path, *NAMES)) as stranger:
        stage.fazt("net", "allow", stranger.origin(), "--app", APP, *LOOPBACK)
        stage.fazt("secret", "set", "STRANGE", "--domain", "api.e2e.test", "--app", APP, stdin="a-secret-0123456789")
        stage.settle()
        outcome = stage.call(stranger.url(), app=APP, auth="STRANGE")
        assert code_of(outcome) == ("NET_ERROR", "tls_failed")
        fetched = stage.fazt("fetch", stranger.url(), "--app", APP, "--auth", "STRANGE", "--json", expect=2).json
        assert (fetched["error"]["reason"], fetched["error"]["message"]) == ("tls_failed", outcome["message"])
        assert stranger.requests == []
        trusted = ("--ca-file", str(stranger.ca))
        assert stage.json("fetch", stranger.url(), "--app", APP, "--auth", "STRANGE", *trusted)["status"] == 200


def test_a_database_that_is_locked_widens_nothing_and_stops_nobody(scene: Scene, stage: Stage) -> None:
    with contextlib.closing(sqlite3.connect(stage.data / "policy.db", isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        try:
            assert stage.call(scene.upstream.url(), app=APP)["status"] == 200
            assert code_of(stage.call("https://nowhere.e2e.test/", app=APP))[1] == "host_not_granted"
            assert len(stage.json("net", "list", "--app", APP)) >= 1
        finally:
            database.execute("ROLLBACK")
