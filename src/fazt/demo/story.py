"""The steps of the demo, each with the check that it did what it says."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from fazt.demo.upstream import Upstream, make_authority

API = "api.demo.test"
INTERNAL = "internal.demo.test"
NAMES = ("--resolve", f"{API}=127.0.0.1", "--resolve", f"{INTERNAL}=10.0.0.7")
HERE = Path(__file__).parent


class StepFailedError(Exception):
    """A step of the demo did not do what it says."""


class Stage:
    """A data directory, an upstream and a running `fazt serve` for one demo; `close()` removes all three."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fazt-demo-")
        self.folder = Path(self._folder.name)
        ca, certificate, key = make_authority(self.folder, names=(API, INTERNAL))
        self.upstream = Upstream(certificate, key, moved_to=f"https://{INTERNAL}/admin")
        self.ca = ca
        self.secret = "demo-" + secrets.token_hex(16)
        self._server: subprocess.Popen[str] | None = None
        self.port = 0
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("FAZT_")},
            "FAZT_DATA": str(self.folder / "data"),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "PYTHONWARNINGS": "ignore",
        }

    @property
    def origin(self) -> str:
        """The upstream's origin."""
        return f"https://{API}:{self.upstream.port}"

    def fazt(self, *args: str, expect: int = 0, stdin: str | None = None, show: bool = True) -> str:
        """Run one fazt command, show it with what it prints, and return its stdout."""
        if show:
            piped = 'printf %s "$KEY" | ' if stdin is not None else ""
            click.secho(f"$ {piped}fazt {shlex.join(args)}", fg="cyan")
        done = subprocess.run(
            [sys.executable, "-m", "fazt", *args],
            env=self.environment,
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if show:
            click.echo("".join(f"  {line}\n" for line in (done.stdout + done.stderr).splitlines()), nl=False)
        if done.returncode != expect:
            raise StepFailedError(
                f"`fazt {shlex.join(args)}` ended with {done.returncode}, not {expect}: {done.stderr}"
            )
        return done.stdout

    def serve(self) -> None:
        """Start `fazt serve` on a free port and wait until it says where it listens."""
        arguments = ["serve", "--port", "0", "--ca-file", str(self.ca), *NAMES]
        click.secho(f"$ fazt {shlex.join(arguments)}", fg="cyan")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "fazt", *arguments, "--json"],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        if not line:
            _, said = self._server.communicate(timeout=10)
            raise StepFailedError(f"`fazt serve` did not start: {said}")
        self.port = json.loads(line)["port"]
        click.echo(f"  serving http://hello.localhost:{self.port}/")

    def get(self, path: str) -> tuple[int, Any]:
        """GET a path of the deployed app and show what it answered."""
        click.secho(f"$ curl http://hello.localhost:{self.port}{path}", fg="cyan")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path, headers={"host": f"hello.localhost:{self.port}"})
            answer = connection.getresponse()
            raw = answer.read()
        finally:
            connection.close()
        click.echo("".join(f"  {line}\n" for line in raw.decode("utf-8", "replace").splitlines()), nl=False)
        if answer.status >= 500:
            raise StepFailedError(f"{path} answered {answer.status}; the app's log:\n{self._app_log()}")
        try:
            return answer.status, json.loads(raw)
        except ValueError:
            raise StepFailedError(f"{path} answered {answer.status} with something that is not JSON") from None

    def _app_log(self) -> str:
        if self._server is not None:  # it writes what waits when it ends
            self._server.send_signal(signal.SIGTERM)
            self._server.wait(timeout=15)
        return self.fazt("app", "logs", "hello", show=False)

    def close(self) -> None:
        """Stop the server and the upstream and remove every file."""
        if self._server is not None:
            self._server.send_signal(signal.SIGTERM)
            try:
                self._server.communicate(timeout=15)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.communicate()
        self.upstream.close()
        self._folder.cleanup()


def check(true: bool, claim: str) -> None:
    """Say that a claim holds; fail the demo when it does not."""
    if not true:
        raise StepFailedError(f"this did not hold: {claim}")
    click.secho(f"  ✓ {claim}", fg="green")


def act(number: int, title: str) -> None:
    """Print the heading of a step."""
    click.echo()
    click.secho(f"{number}. {title}", bold=True)


def _set_up(stage: Stage) -> None:
    act(1, "Say what the app may reach, give it a key it cannot read, deploy it")
    stage.fazt("net", "allow", stage.origin, "--app", "hello", "--address", "127.0.0.1/32")
    stage.fazt("net", "allow", INTERNAL, "--app", "hello")
    stage.fazt("secret", "set", "DEMO_KEY", "--domain", API, "--app", "hello", stdin=stage.secret)
    stage.fazt("env", "set", "UPSTREAM", stage.origin, "--app", "hello")
    stage.fazt("app", "deploy", str(HERE / "hello"), "--name", "hello")
    stage.serve()


def _works(stage: Stage) -> None:
    act(2, "A call that works: the upstream sees the key, the app does not")
    status, said = stage.get("/api/hello")
    answer = said["answer"]
    check(status == 200 and answer.get("status") == 200, "the app called a real HTTPS upstream")
    check(stage.upstream.seen == [f"Bearer {stage.secret}"], "the upstream received the key")
    hidden = stage.secret not in json.dumps(said) and said["inEnv"] is False
    check(hidden, "the app cannot read it: the upstream's echo was scrubbed on its way back")


def _refusals(stage: Stage) -> str:
    act(3, "An attack: the app is told to read the cloud's metadata service")
    _, said = stage.get("/api/get?url=http%3A%2F%2F169.254.169.254%2Flatest%2Fmeta-data%2F")
    refusal = (said.get("code"), said.get("reason"))
    check(refusal == ("NET_BLOCKED", "ip_literal"), "refused: an address is no host name")
    _, said = stage.get(f"/api/get?url=https%3A%2F%2F{INTERNAL}%2Fadmin")
    check(said.get("reason") == "private_address", "refused: an allowed name that answers with 10.0.0.7")
    act(4, "A trusted upstream redirects into the private network")
    _, said = stage.get("/api/redirect")
    check(said.get("code") == "NET_BLOCKED" and said.get("reason") == "private_address", "refused on the second hop")
    refused = str(said["callId"])
    act(5, "A request has five calls; the sixth is refused")
    _, answers = stage.get("/api/six")
    check([a.get("status") for a in answers[:5]] == [200] * 5, "five calls passed")
    check(answers[5].get("code") == "NET_LIMIT" and answers[5].get("reason") == "calls_exceeded", "the sixth did not")
    check(stage.upstream.counted == 5, "the upstream saw five")
    return refused


def _log(stage: Stage, refused: str) -> None:
    act(6, "The log of all of it")
    stage.fazt("net", "logs", "--app", "hello")
    rows: list[Mapping[str, Any]] = json.loads(stage.fazt("net", "logs", "--app", "hello", "--json", show=False))
    check(len(rows) == 10, "ten calls were counted and each has one row")
    check(stage.secret not in json.dumps(rows), "no row holds the key")
    act(7, "Why was the redirect refused?")
    text = stage.fazt("explain", refused, *NAMES, expect=2)
    check("private_address" in text, "explain names the gate")


def _leave(number: int, _frame: object) -> NoReturn:
    """End as by Ctrl-C, through every clean-up: a signal's own way would leave the server and the files behind."""
    raise SystemExit(128 + number)


def run() -> int:
    """Run the demo; return 0 only if every step did what it says."""
    click.secho("fazt demo: a deployed JavaScript app calls out", bold=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    stage = Stage()
    try:
        _set_up(stage)
        _works(stage)
        refused = _refusals(stage)
        _log(stage, refused)
    except (StepFailedError, OSError, KeyError, ValueError, subprocess.TimeoutExpired) as failed:
        click.secho(f"\nthe demo failed: {failed}", fg="red", err=True)
        return 1
    finally:
        stage.close()
    click.echo()
    click.secho("Everything above was real, and is cleaned up. Now type:", bold=True)
    click.echo("  fazt net allow api.github.com          # grant one host")
    click.echo("  fazt fetch https://api.github.com/zen  # call it through the same pipeline")
    click.echo("  fazt explain https://example.com/      # why not, and the narrowest command that would allow it")
    click.echo("  fazt app deploy DIR --name hello && fazt serve")
    return 0
