"""A program forks with everything open: a stream over TLS, sinks, a cache on disk, breakers, the data directory."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from fazt.cli import main
from tests.sdk.forking_program import PIECES, SIZE
from tests.sdk.serving import Authority, Served, served

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def where(certified: Authority) -> Iterator[Served]:
    async def who(request: Request) -> Response:
        assert request.client is not None
        return JSONResponse({"port": request.client.port, "query": request.url.query})

    async def long(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(PIECES):
                yield b"x" * SIZE

        return StreamingResponse(pieces())

    async def kept(request: Request) -> Response:
        return Response("kept", headers={"Cache-Control": "max-age=600"})

    app = Starlette(routes=[Route("/who", who), Route("/long", long), Route("/kept", kept)])
    with served(app, certified) as found:
        yield found


@pytest.fixture
def run(tmp_path: Path, where: Served) -> Any:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("FAZT_")},
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "SSL_CERT_FILE": str(tmp_path / "no-roots"),
        "SSL_CERT_DIR": str(tmp_path / "no-roots"),
    }
    command = [sys.executable, "-W", "error", "-m", "tests.sdk.forking_program", str(tmp_path), where.origin()]

    def go(way: str) -> Any:
        allowed = main(["net", "allow", where.origin(), "--address", "127.0.0.1/32", "--data", str(tmp_path / "data")])
        assert allowed == 0
        done = subprocess.run(
            [*command, str(where.ca), way],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return json.loads(done.stdout)

    return go


def _rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


def test_a_child_that_ends_as_programs_do_leaves_the_parents_stream_and_connections_alone(
    run: Any, tmp_path: Path
) -> None:
    said = run("fork")
    assert said["child"] == 0
    assert said["stream"] is True, "the stream that was open at the fork came to its end"
    assert said["before"]["port"] == said["after"]["port"], "so did the connection that was idle"
    assert said["kept"] == "hit", "what the child kept answers the parent"
    queries = [json.loads(line) for line in (tmp_path / "net.jsonl").read_text().splitlines()]
    calls = [
        (one["request_id"], one["url"].rpartition("/")[2]) for one in queries if one["event_type"].endswith("summary")
    ]
    assert sorted(path for _, path in calls) == ["kept", "kept", "long", "who", "who", "who"]
    assert len({call for call, _ in calls}) == 6
    logged = _rows(tmp_path / "data" / "log.db", "SELECT call_id FROM calls")
    assert sorted(call for (call,) in logged) == sorted(call for call, _ in calls), "each call once, wherever made"
    events = _rows(tmp_path / "events.db", "SELECT DISTINCT request_id FROM net_request")
    assert {call for (call,) in events} == {call for call, _ in calls}


def test_workers_of_a_pool_use_what_they_inherit_and_their_refusals_come_back(run: Any, tmp_path: Path) -> None:
    said = run("pool")
    assert said["child"] == ["worker", ["host_not_granted", "c_"]] * 3
    assert said["stream"] is True
    assert said["before"]["port"] == said["after"]["port"]
    assert len(_rows(tmp_path / "data" / "log.db", "SELECT call_id FROM calls")) == 3 + 1 + 6
