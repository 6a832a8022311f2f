"""A data directory, a real `fazt serve` in a process of its own, and the commands of its operator."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from fazt.cli import main

PROBE = """
// Does what its visitor asks, and tells everything it can see of the outcome.
const told = (answer) => {
  const seen = { status: answer.status, ok: answer.ok, url: answer.url, redirected: answer.redirected,
    headers: Object.assign({}, answer.headers), headersAll: Object.assign({}, answer.headersAll),
    size: answer.bytes().length };
  if (seen.size < 65536) seen.bytes = Array.from(answer.bytes());
  for (const name of ["text", "json"]) {
    try { seen[name] = seen.size < 65536 ? answer[name]() : undefined; }
    catch (e) { seen[name + "Error"] = { name: e.name, message: e.message, code: e.code, reason: e.reason }; }
  }
  return seen;
};
const tell = (call) => {
  let outcome;
  const options = Object.assign({}, call.options);
  if (options.bodyOf) options.body = "x".repeat(options.bodyOf);
  try { outcome = told(fazt.net.fetch(call.url, options)); }
  catch (e) {
    outcome = { type: e instanceof TypeError, code: e.code, reason: e.reason, message: e.message,
      retryable: e.retryable, retryAfter: e.retryAfter, callId: e.callId, text: String(e), stack: e.stack };
  }
  if (call.log) console.log("outcome", outcome);
  return outcome;
};
switch (request.path) {
  case "/api/calls": respond(request.body.map(tell));
  case "/api/throw":
    console.error("about to call", request.body);
    fazt.net.fetch(request.body.url, request.body.options);
  case "/api/env": respond({ value: fazt.env.get(request.body.name, null) });
  default: respond(404);
}
"""


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Got:
    """What the server answered."""

    status: int
    headers: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def until(condition: Callable[[], Any], *, seconds: float = 20.0, what: str = "it") -> Any:
    """Wait for something that happens elsewhere; return what the condition gave."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"{what} did not happen within {seconds} s"
        time.sleep(0.01)


def descendants(pid: int) -> set[int]:
    """Return the processes below one, their own ones included."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                text = Path("/proc", name, "stat").read_text("ascii", "replace")
                parents[int(name)] = int(text.rpartition(")")[2].split()[1])
    found: set[int] = set()
    fresh = {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


class Stage:
    """One data directory with its commands and, between `serve()` and `stop()`, its server.

    Args:
        folder: everything is below it.
        environment: what commands and server get beside the usual.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.said: list[str] = []
        """Everything that commands and the server printed and that the server answered."""
        self.server: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.ready: dict[str, Any] = {}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FAZT_")},
            "FAZT_DATA": str(self.data),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "COLUMNS": "250",
            "SSL_CERT_FILE": str(folder / "no-roots"),  # reading the system's costs 30 ms a command
            "SSL_CERT_DIR": str(folder / "no-roots"),
            **(environment or {}),
        }

    def fazt(self, *args: str, expect: int | None = 0, stdin: str = "") -> Done:
        """Run a command in this process."""
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        given = io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8")
        with (
            mock.patch.dict(os.environ, self.environment, clear=True),
            mock.patch.object(sys, "stdin", given),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = main(list(args))
        done = Done(code, *(stream.buffer.getvalue().decode("utf-8", "replace") for stream in (out, err)))  # type: ignore[attr-defined]
        self.said += [done.out, done.err]
        assert expect is None or code == expect, f"fazt {args}: {done}"
        return done

    def json(self, *args: str, **options: Any) -> Any:
        return self.fazt(*args, "--json", **options).json

    def deploy(self, *names: str, source: str = PROBE) -> None:
        """Deploy one source under these names."""
        folder = self.folder / "source"
        (folder / "api").mkdir(parents=True, exist_ok=True)
        (folder / "api" / "main.js").write_text(source)
        for name in names:
            self.fazt("app", "deploy", str(folder), "--name", name)

    def serve(self, *args: str) -> None:
        """Start the server and wait until it says that it is ready."""
        with open(self.folder / "server.err", "ab") as errors:
            self.server = subprocess.Popen(
                [sys.executable, "-m", "fazt", "serve", "--port", "0", "--json", *args],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        assert self.server.stdout is not None
        line = self.server.stdout.readline().decode()
        assert line, (self.folder / "server.err").read_text()
        self.ready = json.loads(line)
        self.port = self.ready["port"]
        self.said.append(line)

    def family(self) -> set[int]:
        """Return the processes of the running server but itself."""
        assert self.server is not None
        return descendants(self.server.pid)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the server; return its exit code."""
        server, self.server = self.server, None
        if server is None:
            return 0
        if server.poll() is None:
            server.send_signal(number)
        try:
            rest, _ = server.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.communicate()
            raise
        self.said += [rest.decode(), (self.folder / "server.err").read_text()]
        return server.returncode

    def ask(self, method: str, path: str, *, app: str = "probe", body: Any = None, **headers: str) -> Got:
        """Make a request to the server, to an app or (app="") to the admin API."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        fields = {"host": f"{app}.localhost" if app else "localhost", "content-type": "application/json", **headers}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), fields)
            answer = connection.getresponse()
            got = Got(answer.status, str(answer.headers), answer.read())
        finally:
            connection.close()
        self.said += [got.headers, got.body.decode("utf-8", "replace")]
        return got

    def calls(self, *calls: Mapping[str, Any], app: str = "probe") -> list[dict[str, Any]]:
        """Let an app make calls, one after the other in one request, and return what it saw of each."""
        got = self.ask("POST", "/api/calls", app=app, body=calls)
        assert got.status == 200, got
        found: list[dict[str, Any]] = got.json
        return found

    def call(self, url: str, *, app: str = "probe", **options: Any) -> dict[str, Any]:
        """Let an app make one call and return what it saw."""
        return self.calls({"url": url, "options": options}, app=app)[0]

    def admin(self, path: str, *, method: str = "GET") -> Any:
        """Ask the admin API."""
        token = (self.data / "admin.token").read_text().strip()
        got = self.ask(method, path, app="", authorization=f"Bearer {token}")
        assert got.status == 200, got
        return got.json

    def settle(self) -> None:
        """Wait until the running server decides on what commands have changed."""
        with contextlib.closing(sqlite3.connect(self.data / "policy.db")) as database:
            (wanted,) = database.execute("SELECT value FROM revision").fetchone()
        until(lambda: self.admin("/api/system/health")["data"]["database"]["revision"] >= wanted, what="the reload")

    def rows(self, *filters: str) -> list[dict[str, Any]]:
        """Return the network log, newest first."""
        found: list[dict[str, Any]] = self.json("net", "logs", *filters)
        return found

    def row(self, call_id: str) -> dict[str, Any]:
        """Wait for the one row of a call."""

        def found() -> list[dict[str, Any]]:
            return [row for row in self.rows() if row["callId"] == call_id]

        (only,) = until(found, what=f"the row of {call_id}")
        return only


@contextlib.contextmanager
def staged(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Stage]:
    """Give a stage whose server is ended with the block."""
    stage = Stage(folder, environment)
    try:
        yield stage
    finally:
        stage.stop()


def code_of(outcome: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return code and reason of a call that an app made, or the status and None."""
    return (outcome["code"], outcome["reason"]) if "code" in outcome else (outcome["status"], None)
