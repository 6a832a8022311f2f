"""Every limit that can be set for an app acts on the running server once the command line has set it (F22, F58)."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import LOOPBACK, Scene
from tests.e2e.stage import PROBE, Got, Stage, code_of, until

pytestmark = pytest.mark.xdist_group("e2e-scene")
APP = "bounded"
TO_APP = ("--app", APP)
MIB = 1024 * 1024
SOURCE = PROBE.replace(
    "default: respond(404);",
    """case "/api/spin": for (;;) {}
  case "/api/grow": { const all = []; for (;;) all.push("x".repeat(65536) + all.length); }
  case "/api/big": respond("x".repeat(2000));
  case "/api/chatter": for (let i = 1; i <= 9; i++) console.log("chatter line " + i); respond("said");
  case "/api/files": respond({ files: Object.keys(request.files) });
  default: respond(404);""",
)


@pytest.fixture(scope="module")
def stage(scene: Scene) -> Stage:
    stage = scene.stage
    stage.deploy(APP, source=SOURCE)
    stage.fazt("net", "allow", scene.upstream.origin(), *TO_APP, *LOOPBACK)
    stage.settle()
    return stage


@contextlib.contextmanager
def limited(stage: Stage, **values: int) -> Iterator[None]:
    """Give the app narrower limits for the time of the block; names with `__` for the dot."""
    names = {name.replace("__", "."): value for name, value in values.items()}
    for name, value in names.items():
        stage.fazt("limits", "set", name, str(value), *TO_APP)
    stage.settle()
    try:
        yield
    finally:
        for name in names:
            stage.fazt("limits", "reset", name, *TO_APP)
        stage.settle()


def get(stage: Stage, path: str) -> Got:
    return stage.ask("GET", path, app=APP)


def logged(stage: Stage, text: str) -> list[Any]:
    """Wait for a line in the app's log."""
    found: list[Any] = until(
        lambda: [one for one in stage.json("app", "logs", APP, "-n", "500") if text in one["message"]],
        what=f"the line {text!r}",
    )
    return found


def test_cpu_time(stage: Stage) -> None:
    with limited(stage, runtime__cpu_time=100):
        assert get(stage, "/api/spin").status == 500
    logged(stage, "cpu")


def test_exec_timeout(scene: Scene, stage: Stage) -> None:
    with limited(stage, runtime__exec_timeout=1600):
        outcome = stage.call(scene.upstream.url("/silent"), app=APP)
        assert code_of(outcome) == ("NET_TIMEOUT", "first_byte")
        row = stage.row(outcome["callId"])
        assert row["durationMs"] < 1500, "half a second is left for the handler"
    with limited(stage, runtime__exec_timeout=100):
        assert get(stage, "/api/spin").status == 500
    logged(stage, "timeout")


def test_max_memory(stage: Stage) -> None:
    with limited(stage, runtime__max_memory=16 * MIB):
        assert get(stage, "/api/grow").status == 500
    logged(stage, "memory")


def test_max_output(stage: Stage) -> None:
    assert get(stage, "/api/big").body == b"x" * 2000
    with limited(stage, runtime__max_output=1999):
        assert get(stage, "/api/big").status == 500
    logged(stage, "output")


def test_max_log_lines(stage: Stage) -> None:
    with limited(stage, runtime__max_log_lines=3):
        assert get(stage, "/api/chatter").body == b"said"
    logged(stage, "6 console lines were dropped")
    assert {one["message"] for one in logged(stage, "chatter line")} == {f"chatter line {n}" for n in (1, 2, 3)}


def test_max_upload(stage: Stage) -> None:
    form = b'--b\r\ncontent-disposition: form-data; name="f"; filename="f"\r\n\r\n' + b"x" * MIB + b"\r\n--b--\r\n"

    def upload() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", stage.port, timeout=30)
        with contextlib.closing(connection), contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.putrequest("POST", "/api/files", skip_host=True)
            fields = {"host": f"{APP}.localhost", "content-type": "multipart/form-data; boundary=b"}
            for name, value in {**fields, "content-length": str(len(form))}.items():
                connection.putheader(name, value)
            connection.endheaders()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the answer comes before the end
                connection.send(form)
            return connection.getresponse().status
        return 0

    assert upload() == 200
    with limited(stage, storage__max_upload=MIB):
        assert upload() == 413


def test_max_file_size_and_max_site_size(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "main.js").write_text(SOURCE)
    (tmp_path / "one.bin").write_bytes(b"x" * (MIB + 1))
    with limited(stage, storage__max_file_size=MIB):
        said = stage.fazt("app", "deploy", str(tmp_path), "--name", APP, expect=1).err
        assert "one.bin" in said
    for number in range(9):
        (tmp_path / f"{number}.bin").write_bytes(bytes([number]) * (MIB + MIB // 8))
    with limited(stage, storage__max_site_size=10 * MIB):
        said = stage.fazt("app", "deploy", str(tmp_path), "--name", APP, expect=1).err
        assert "max_site_size" in said or "larger" in said
    assert get(stage, "/one.bin").status == 404, "nothing of a refused deploy is served"


def test_max_calls(stage: Stage) -> None:
    with limited(stage, net__max_calls=2):
        outcomes = stage.calls(*[{"url": "https://x.e2e.test/"}] * 3, app=APP)
    assert [code_of(outcome)[1] for outcome in outcomes] == ["host_not_granted"] * 2 + ["calls_exceeded"]


def test_call_timeout(scene: Scene, stage: Stage) -> None:
    with limited(stage, net__call_timeout=1000):
        outcome = stage.call(scene.upstream.url("/silent"), app=APP)
    assert code_of(outcome) == ("NET_TIMEOUT", "first_byte")
    assert 900 <= stage.row(outcome["callId"])["durationMs"] < 3000


def test_budget(scene: Scene, stage: Stage) -> None:
    with limited(stage, net__budget=1000):
        outcomes = stage.calls({"url": scene.upstream.url("/silent")}, {"url": scene.upstream.url()}, app=APP)
    assert [code_of(outcome)[1] for outcome in outcomes] == ["first_byte", "net_budget_exhausted"]


def test_app_concurrency(scene: Scene, stage: Stage) -> None:
    scene.upstream.go.clear()
    with limited(stage, net__app_concurrency=1), ThreadPoolExecutor(1) as pool:
        first = pool.submit(stage.call, scene.upstream.url("/hold"), app=APP)
        try:
            until(lambda: scene.upstream.held == 1 or first.done())
            assert code_of(stage.call(scene.upstream.url(), app=APP)) == ("NET_LIMIT", "app_concurrency")
        finally:
            scene.upstream.go.set()
        assert first.result()["status"] == 200


def test_max_req_body_and_max_response(scene: Scene, stage: Stage) -> None:
    with limited(stage, net__max_req_body=2048, net__max_response=2048):
        post = {"method": "POST"}
        outcomes = stage.calls(
            {"url": scene.upstream.url("/status/200"), "options": {**post, "bodyOf": 2048}},
            {"url": scene.upstream.url("/status/200"), "options": {**post, "bodyOf": 2049}},
            {"url": scene.upstream.url("/bytes/2048")},
            {"url": scene.upstream.url("/bytes/2049")},
            app=APP,
        )
    assert [code_of(outcome)[1] for outcome in outcomes] == [None, "request_body", None, "response_body"]


@pytest.mark.parametrize("count", [0, 1])
def test_max_redirects(scene: Scene, stage: Stage, count: int) -> None:
    with limited(stage, net__max_redirects=count):
        outcomes = stage.calls(
            {"url": scene.upstream.url(f"/chain/{count}")}, {"url": scene.upstream.url(f"/chain/{count + 1}")}, app=APP
        )
    assert [code_of(outcome)[1] for outcome in outcomes] == [None, "redirect_limit"]


def test_rate_limit_and_rate_burst(scene: Scene, stage: Stage) -> None:
    calls = [{"url": scene.upstream.url()}] * 3
    with limited(stage, net__rate_limit=1):
        outcomes = stage.calls(*calls, app=APP)
        assert [code_of(outcome)[1] for outcome in outcomes] == [None, "host_rate", "host_rate"]
        assert 0 < outcomes[1]["retryAfter"] <= 60
        assert outcomes[1]["retryable"] is True
    stage.fazt("net", "allow", scene.upstream.origin("other.e2e.test"), *TO_APP, *LOOPBACK)
    calls = [{"url": scene.upstream.url(host="other.e2e.test")}] * 3
    with limited(stage, net__rate_limit=1, net__rate_burst=2):
        outcomes = stage.calls(*calls, app=APP)
        assert [code_of(outcome)[1] for outcome in outcomes] == [None, None, "host_rate"]
