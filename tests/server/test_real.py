"""The same promises with nothing scripted: a deployed app, sandboxed workers, the real engine, raw HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fazt import app as composition
from fazt.config import Settings
from fazt.core.grants import expand_target
from fazt.server.local import LocalServer
from fazt.server.serve import Bound, Serving
from fazt.stores.sqlite.store import Store

pytestmark = pytest.mark.xdist_group("real-server")

TOKEN = "token-for-tests-0123456789abcdef0123456789"
HANDLER = """
var does = {
  echo: function () {
    console.log("echo was here");
    return respond(200, {
      method: request.method, path: request.path, query: request.query, header: request.headers["x-seen"],
      body: request.body, files: Object.keys(request.files || {}), app: fazt.app.id, env: fazt.env.get("GREETING"),
    });
  },
  blocked: function () { fazt.net.fetch("https://nowhere.test/path?token=hidden"); },
  address: function () { fazt.net.fetch("http://169.254.169.254/latest"); },
  internal: function () { fazt.net.fetch("https://internal.test/"); },
  secret: function () { fazt.net.fetch("https://rated.test/", {auth: "NO_SUCH_SECRET"}); },
  many: function () {
    for (var i = 0; i < 1000; i++) { try { fazt.net.fetch("https://nowhere.test/"); } catch (e) {} }
    return respond("done");
  },
  sixth: function () {
    for (var i = 0; i < 5; i++) { try { fazt.net.fetch("https://nowhere.test/"); } catch (e) {} }
    fazt.net.fetch("https://nowhere.test/");
  },
  rated: function () {
    try { fazt.net.fetch("https://rated.test/"); } catch (e) { if (e.code === "NET_RATE") throw e; }
    fazt.net.fetch("https://rated.test/");
  },
  caught: function () {
    try { fazt.net.fetch("https://nowhere.test/"); } catch (e) {
      return respond(200, {code: e.code, reason: e.reason, retryable: e.retryable, id: typeof e.callId});
    }
  },
  boom: function () { throw new Error("boom at 10.1.2.3 with sk_live_abc"); },
  faked: function () {
    var e = new TypeError("x");
    e.code = "NET_RATE"; e.reason = "host_rate"; e.retryable = true; e.retryAfter = 5;
    throw e;
  },
  seven: function () { respond(7); },
  base64: function () { return respond(200, "test", {"content-type": "text/plain"}); },
  header: function () { return respond(200, "x", {"x-a": "b\\r\\nset-cookie: c"}); },
  loop: function () { for (;;) {} },
};
var name = request.path.slice("/api/".length);
does[name] ? does[name]() : respond(404, {error: "no such route"});
"""


@dataclass
class Live:
    store: Store
    bound: Bound
    app_id: str

    def ask(self, method: str, path: str, *, body: bytes | None = None, **headers: str) -> tuple[int, Any, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.bound.port, timeout=30)
        try:
            fields = {"Host": "real.localhost"} | {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body=body, headers=fields)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> tuple[int, Any, bytes]:
        return self.ask("GET", path, **headers)

    def health(self) -> Any:
        return json.loads(self.get("/api/system/health", Host="localhost", Authorization=f"Bearer {TOKEN}")[2])["data"]

    def lines(self, request_id: str) -> str:
        self.store.log.flush()
        return "\n".join(f"{line.level} {line.message}" for line in self.store.log.lines(invocation=request_id))


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder: Path = tmp_path_factory.mktemp("real")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody_listens = closed.getsockname()[1]
    source = folder / "app"
    (source / "api").mkdir(parents=True)
    (source / "private").mkdir()
    (source / "api" / "main.js").write_text(
        HANDLER.replace("https://rated.test/", f"https://rated.test:{nobody_listens}/")
    )
    (source / "index.html").write_text("<h1>real</h1>")
    (source / "private" / "x").write_text("PRIVATE")
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    settings = Settings(folder / "data", resolve="rated.test=127.0.0.1 internal.test=10.0.0.7", workers=2)
    with contextlib.ExitStack() as stack:
        stack.callback(patch.undo)
        store = stack.enter_context(composition.open_store(settings))
        done = asyncio.run(composition.deploy_app(store, settings, source, name="real", actor="test"))
        (source / "api" / "main.js").write_text('respond(200, "fine")')
        asyncio.run(composition.deploy_app(store, settings, source, name="neighbour"))
        app = done.app.id
        store.apps.set_env(app, {"GREETING": "hello"})
        store.limits.set("runtime.cpu_time", 300, app=app)
        rated = expand_target(
            f"https://rated.test:{nobody_listens}", scope=app, rate=1, burst=1, addresses=("127.0.0.1/32",)
        )
        store.rules.allow(rated, frozenset({"rate", "burst", "addresses"}))
        store.rules.allow(expand_target("internal.test", scope=app), frozenset())
        up = threading.Event()
        bound: list[Bound] = []
        faults: list[BaseException] = []
        context = LocalServer(store, settings, admin_token=TOKEN).context()
        serving = Serving(context, ready=lambda where: (bound.append(where), up.set()))

        def run() -> None:
            try:
                serving.run()
            except BaseException as fault:
                faults.append(fault)
                up.set()

        thread = threading.Thread(target=run)
        thread.start()
        stack.callback(thread.join, 30)
        stack.callback(serving.stop)
        assert up.wait(60)
        if faults:
            raise faults[0]
        yield Live(store, bound[0], app)


def test_a_deployed_app_answers(live):
    status, headers, body = live.ask(
        "POST", "/api/echo?a=1&a=2", body=b'{"k":[1,null]}', content_type="application/json", X_SEEN="yes"
    )
    assert status == 200
    assert json.loads(body) == {
        "method": "POST",
        "path": "/api/echo",
        "query": {"a": "1"},
        "header": "yes",
        "body": {"k": [1, None]},
        "files": [],
        "app": live.app_id,
        "env": "hello",
    }
    assert "echo was here" in live.lines(headers["x-request-id"])
    assert live.get("/")[2] == b"<h1>real</h1>"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("blocked", 500, "NET_BLOCKED"),
        ("address", 500, "NET_BLOCKED"),
        ("internal", 500, "NET_BLOCKED"),
        ("secret", 500, "NET_AUTH"),
        ("sixth", 500, "NET_LIMIT"),
        ("rated", 503, "NET_RATE"),
    ],
)
def test_F3_uncaught_codes_reach_http_from_javascript(live, path, status, code):
    found, headers, body = live.get(f"/api/{path}")
    said = json.loads(body)
    assert (found, said["code"]) == (status, code)
    if status == 503:
        assert 1 <= int(headers["retry-after"]) <= 60
        assert said["retryable"] is True
    for word in ("nowhere", "hidden", "169.254", "10.0.0", "internal.test", "allowlist", "NO_SUCH_SECRET", "main.js"):
        assert word not in body.decode() + str(headers)
    assert said["requestId"] == headers["x-request-id"]
    assert "script:" in live.lines(said["requestId"])


def test_F3_an_error_that_the_app_caught_does_not_count(live):
    status, _, body = live.get("/api/caught")
    assert status == 200
    assert json.loads(body) == {"code": "NET_BLOCKED", "reason": "host_not_granted", "retryable": False, "id": "string"}


def test_F3_a_code_that_a_script_made_up_is_a_plain_500(live):
    status, headers, body = live.get("/api/faked")
    assert status == 500
    assert "code" not in json.loads(body)
    assert "retry-after" not in headers


def test_F37_the_text_of_an_error_is_in_the_log_and_not_in_the_answer(live):
    status, headers, body = live.get("/api/boom")
    assert status == 500
    assert b"boom" not in body
    assert b"sk_live" not in body
    assert "boom at 10.1.2.3" in live.lines(headers["x-request-id"])


def test_F38_text_that_looks_like_base64_stays_text(live):
    assert live.get("/api/base64")[2] == b"test"


def test_F40_a_status_of_7_is_a_500_and_a_log_line(live):
    status, headers, _ = live.get("/api/seven")
    assert status == 500
    assert "status" in live.lines(headers["x-request-id"])


def test_a_header_with_a_line_break_never_reaches_the_wire(live):
    status, headers, _ = live.get("/api/header")
    assert status == 500
    assert "set-cookie" not in headers


def test_F42_private_files_and_sources_stay_inside(live):
    for path in ("/private/x", "//private/x", "/a/../private/x", "/API/main.js", "/manifest.json"):
        status, _, body = live.get(path)
        assert status == 404
        assert b"PRIVATE" not in body
    assert b"does" not in live.get("//api/main.js")[2]


def test_F58_health_shows_the_sandbox_and_the_workers(live):
    _, _, body = live.get("/api/system/health", Host="localhost", Authorization=f"Bearer {TOKEN}")
    data = json.loads(body)["data"]
    assert data["runtime"]["sandbox"]
    assert data["runtime"]["workers"]
    assert data["memory"]["limit_mb"] > 0
    assert data["database"]["path"]
    assert "net" in data


def test_a_loop_of_refused_calls_does_not_fill_the_log(live):
    def logged() -> int:
        live.store.log.flush()
        return len(live.store.log.calls(app=live.app_id, limit=10_000))

    before = logged()
    status, headers, _ = live.get("/api/many")
    assert status == 500
    assert "calls" in live.lines(headers["x-request-id"])
    assert before + 5 <= logged() <= before + 100


def test_a_changed_setting_is_seen_without_a_restart(live):
    live.store.apps.set_env(live.app_id, {"GREETING": "changed"})
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if json.loads(live.get("/api/echo")[2]).get("env") == "changed":
            return
    pytest.fail("the running server did not notice")


def test_a_request_that_does_not_fit_is_a_413_and_costs_no_worker(live):
    def ask() -> int:
        return live.ask("POST", "/api/echo", body=b"x" * 700_000, content_type="text/plain")[0]

    def until(status: int) -> bool:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if ask() == status:
                return True
        return False

    assert ask() == 200
    live.store.limits.set("runtime.max_memory", 1 << 20, app=live.app_id)
    try:
        assert until(413)
        before = live.health()["runtime"]["counts"]
        assert ask() == 413
        assert live.health()["runtime"]["counts"] == before
    finally:
        live.store.limits.reset("runtime.max_memory", app=live.app_id)
    assert until(200)


def test_a_handler_that_never_ends_is_stopped_while_other_apps_are_answered(live):
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(live.get("/api/loop")[0]))
    thread.start()
    for _ in range(5):
        assert live.get("/api/x", Host="neighbour.localhost")[2] == b"fine"
    thread.join(30)
    assert found == [500]
