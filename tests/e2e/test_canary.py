"""One secret of each kind is used in every way that a call can end; then every sink is searched for it (F5, F8)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import itertools
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from fazt import app as composition
from fazt.config import Settings
from fazt.core import profiles
from fazt.core.call import Request
from fazt.errors import FaztError
from fazt.server.admin import ENDPOINTS
from tests.e2e.canary import Canary, in_files, in_process
from tests.e2e.conftest import LOOPBACK, NAMES, RESOLVE
from tests.e2e.stage import Stage, code_of, staged, until
from tests.e2e.upstream import Upstream

pytestmark = pytest.mark.xdist_group("e2e-canary")
KINDS = {"BEARER": (), "HEADER": ("--as", "header", "--key", "X-API-Key"), "QUERY": ("--as", "query", "--key", "key")}
PATHS = (
    "/reflect",
    "/reflect?status=500",
    "/reflect?key=mine&a=1",
    "/chain/2",
    "/chain/9",
    "/reset",
    "/gzip",
    "/bytes/2000000",
    *(f"/garbage/{how}" for how in ("line", "field", "length", "chunk", "userinfo", "location")),
)


@dataclass
class Play:
    stage: Stage
    canaries: list[Canary]
    key: Canary
    outcomes: list[dict[str, Any]]

    def of(self, name: str) -> Canary:
        return next(one for one in self.canaries if one.name == name)


def targets(upstream: Upstream, plain: Upstream) -> list[dict[str, Any]]:
    """Return calls that succeed, fail, are redirected, refused, or run into their time."""
    calls: list[dict[str, Any]] = [{"url": upstream.url(path)} for path in PATHS]
    onward = [upstream.url("/reflect"), upstream.url("/reflect", "other.e2e.test"), upstream.url("/reflect?key=1")]
    onward += [upstream.url(host=host) for host in ("private.e2e.test", "unlisted.e2e.test")]
    onward += [
        "https://10.0.0.7/",
        plain.url("/reflect", "other.e2e.test"),
        plain.url("/reflect"),
        "https://a@other.e2e.test/",
    ]
    calls += [{"url": upstream.to(url)} for url in onward]
    calls += [{"url": upstream.to(onward[1], status=307), "options": {"method": "POST", "body": "b"}}]
    calls += [{"url": upstream.to(upstream.to(onward[1]))}]
    calls += [{"url": upstream.to(upstream.to(upstream.url("/reflect?back=1"), host="other.e2e.test"))}]
    calls += [{"url": upstream.url(path), "options": {"timeout": 500}} for path in ("/stall", "/silent")]
    calls += [{"url": upstream.url("/reflect", "other.e2e.test")}, {"url": upstream.url(host="unlisted.e2e.test")}]
    calls += [{"url": plain.url("/reflect", "other.e2e.test")}, {"url": plain.url("/reflect")}]
    calls += [{"url": upstream.url(), "options": {"method": "TRACE"}}]
    calls += [
        {"url": upstream.url("/reflect"), "options": {"method": "POST", "body": "x", "headers": {"X-API-Key": "y"}}}
    ]
    calls += [{"url": upstream.url("/reflect"), "options": {"headers": {"bad name": "x"}}}]
    return calls


def batches(calls: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    iterator = iter(calls)
    while batch := list(itertools.islice(iterator, 20)):
        yield batch


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with contextlib.closing(Upstream(tmp_path_factory.mktemp("e2e-canary-https"), *NAMES)) as started:
        yield started


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with contextlib.closing(Upstream(tmp_path_factory.mktemp("e2e-canary-http"))) as started:
        yield started


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, plain: Upstream) -> Iterator[Play]:
    """Use the secrets at both doors in all these ways, and stop the server in the middle of nothing."""
    canaries = [Canary(name) for name in (*KINDS, "INJECTED", "IMPORTED", "TYPED", "GIVEN")]
    key = Canary("the key of the secrets")
    raw = os.urandom(32)
    key.value, key.forms = base64.b64encode(raw).decode(), {"base64": base64.b64encode(raw), "raw": raw}
    environment = {
        "FAZT_RESOLVE": RESOLVE,
        "FAZT_CA_FILE": str(upstream.ca),
        "FAZT_SECRETS_KEY": key.value,
    }
    folder = tmp_path_factory.mktemp("e2e-canary")
    with staged(folder, environment) as stage:
        made = Play(stage, canaries, key, [])
        prepare(made, upstream, plain)
        stage.serve("--workers", "4")
        through_functions(made, upstream, plain)
        through_commands(made, upstream, plain)
        yield made


def prepare(play: Play, upstream: Upstream, plain: Upstream) -> None:
    stage, app = play.stage, ("--app", "probe")
    stage.deploy("probe")
    for origin in (
        upstream.origin(),
        upstream.origin("other.e2e.test"),
        plain.origin("other.e2e.test"),
        plain.origin(),
    ):
        stage.fazt("net", "allow", origin, *app, *LOOPBACK, "--cache-ttl", "60")
    stage.fazt("net", "allow", upstream.origin("private.e2e.test"), *app)
    for name, value in (("max_calls", 20), ("call_timeout", 10_000), ("budget", 10_000)):
        stage.fazt("limits", "set", f"net.{name}", str(value))
    stage.fazt("limits", "set", "runtime.exec_timeout", "10000")
    stage.fazt("limits", "set", "net.cache_max_items", "100")
    stage.fazt("limits", "set", "net.cache_max_bytes", "10000000")
    for name, options in KINDS.items():
        stage.fazt("secret", "set", name, *app, "--domain", "api.e2e.test", *options, stdin=play.of(name).value + "\n")
    stage.fazt("secret", "set", "INJECTED", "--domain", "*.wild.e2e.test", stdin=play.of("INJECTED").value)
    stage.fazt("net", "allow", upstream.origin("a.wild.e2e.test"), *LOOPBACK, "--inject", "INJECTED")
    line = f"IMPORTED='{play.of('IMPORTED').value}'\n"
    stage.fazt("secret", "import", "-", "--domain", "api.e2e.test", stdin=line)
    typed = play.of("TYPED").value
    stage.fazt("secret", "set", "TYPED", typed, "--domain", "api.e2e.test")
    for wrong in (
        ("TYPED", typed, typed, "--domain", "api.e2e.test"),
        (typed, "TYPED", "--domain", "api.e2e.test"),
        ("TYPED", typed, "--domain", "10.0.0.1"),
        ("TYPED", typed, "--as", "header", "--domain", "api.e2e.test"),
        ("TYPED", typed, "--as", typed, "--domain", "api.e2e.test"),
        ("TYPED", f"{typed}\n", "--domain", "api.e2e.test"),
        ("TYPED", typed, f"--{typed}"),
        ("ANOTHER", typed),
    ):
        stage.fazt("secret", "set", *wrong, expect=1)
        stage.fazt("secret", "set", *wrong, "--json", expect=1)
    stage.fazt("secret", "import", "-", "--domain", "api.e2e.test", stdin=f"{line}\nnonsense {typed}\n", expect=1)


def through_functions(play: Play, upstream: Upstream, plain: Upstream) -> None:
    stage = play.stage
    for name in KINDS:
        calls = [
            {**call, "log": True, "options": {**call.get("options", {}), "auth": name}}
            for call in targets(upstream, plain)
        ]
        for batch in batches(calls):
            play.outcomes += stage.calls(*batch)
        for path in ("/reset", "/garbage/line"):
            stage.ask("POST", "/api/throw", body={"url": upstream.url(path), "options": {"auth": name}})
    play.outcomes += stage.calls(
        {"url": upstream.url("/reflect", "a.wild.e2e.test"), "log": True},
        {"url": upstream.url("/reset", "a.wild.e2e.test"), "log": True},
        {"url": upstream.url("/reflect"), "options": {"auth": "IMPORTED"}, "log": True},
        {"url": upstream.url("/reflect"), "options": {"auth": "TYPED"}, "log": True},
        {"url": upstream.url("/reflect"), "options": {"auth": "MISSING"}, "log": True},
        *[{"url": upstream.url("/count"), "log": True}] * 2,
    )


def through_commands(play: Play, upstream: Upstream, plain: Upstream) -> None:
    stage = play.stage
    for number, call in enumerate(targets(upstream, plain)):
        options = call.get("options", {})
        args = ["--app", "probe", "--auth", list(KINDS)[number % 3]]
        args += ["-X", options["method"]] if "method" in options else []
        args += ["-d", options["body"]] if "body" in options else []
        args += ["--timeout", "500"] if "timeout" in options else []
        stage.fazt("fetch", call["url"], *args, "--json" if number % 2 else "-i", expect=None)
    given = play.of("GIVEN").value
    done = stage.fazt(
        *("fetch", upstream.url(f"/status/200?token={given}"), "--app", "probe", "-d", given),
        *("-H", f"Authorization: Bearer {given}", "-H", f"X-Mine: {given}", "-H", f"Cookie: {given}"),
    )
    assert done.out == "as asked"
    stage.fazt("fetch", upstream.url(f"/x?token={given}", "unlisted.e2e.test"), "--app", "probe", "-d", given, expect=2)
    body = f'[{{"url": "{upstream.url("/reflect")}", "options": {{"auth": "BEARER"}}, "log": true}}]'
    for shape in ((), ("--json",), ("-i",)):
        stage.fazt("app", "invoke", "probe", "/api/calls", "-d", body, "-H", "content-type: application/json", *shape)
    failing = [row["callId"] for row in stage.rows() if row["code"]]
    assert len(failing) > 40
    for call_id in failing[:: len(failing) // 10]:
        stage.fazt("explain", call_id, expect=None)
        stage.fazt("explain", call_id, "--json", expect=None)
    stage.fazt("explain", upstream.url("/reflect"), "--app", "probe", "--json")
    stage.fazt("net", "check", upstream.url(), "--app", "probe", "--auth", "QUERY")
    for command in (
        *(("secret", "list"), ("secret", "list", "--app", "probe"), ("net", "list"), ("net", "logs", "-n", "500")),
        *(("net", "stats"), ("log", "-n", "500"), ("app", "logs", "probe", "-n", "500"), ("app", "info", "probe")),
        *(("app", "list"), ("app", "files", "probe"), ("env", "list", "--app", "probe"), ("limits", "show")),
        *(("net", "cache", "stats"), ("net", "list", "--app", "probe")),
    ):
        stage.fazt(*command)
        stage.fazt(*command, "--json")


def test_the_canary_would_be_found() -> None:
    one = Canary("X")
    raw = one.value.encode()
    for data in (raw, raw.hex().encode(), base64.b64encode(b"a" + raw), base64.b64encode(b"Bearer " + raw + b"tail")):
        assert one.found_in(b"<" + data + b">")


def test_the_upstream_got_every_secret_in_its_place(play: Play, upstream: Upstream) -> None:
    seen = [seen for seen in upstream.requests if seen.target.startswith("/reflect")]
    got = {value for one in seen for value in one.values("authorization")}
    for name in ("BEARER", "INJECTED", "IMPORTED", "TYPED"):
        assert f"Bearer {play.of(name).value}" in got, name
    header, query = play.of("HEADER"), play.of("QUERY")
    with_header = [one.values("x-api-key") for one in seen if header.found_in(repr(one).encode())]
    assert with_header
    assert all(values == [header.value] for values in with_header), "in place of what the app set itself"
    with_query = [one for one in seen if query.found_in(repr(one).encode())]
    assert with_query
    assert all(one.query["key"] == [query.value] for one in with_query)
    assert any(re.fullmatch(r"/reflect\?key=[^&]+&a=1", one.target) for one in with_query), "where it stood"


def test_a_secret_that_was_dropped_on_the_way_does_not_come_back(play: Play, upstream: Upstream) -> None:
    back = [one for one in upstream.requests if one.target == "/reflect?back=1"]
    assert len(back) >= len(KINDS)
    assert [canary for one in back for canary in play.canaries if canary.found_in(repr(one).encode())] == []


def test_no_other_host_got_any(play: Play, upstream: Upstream, plain: Upstream) -> None:
    for one in [*upstream.requests, *plain.requests]:
        host = one.values("host")[0].partition(":")[0]
        # GIVEN is no secret of fazt's: the caller sends it where he likes
        secrets = [canary for canary in play.canaries if canary.name != "GIVEN"]
        mine = [canary for canary in secrets if canary.found_in(repr(one).encode())]
        if host == "a.wild.e2e.test":
            assert [canary.name for canary in mine] == ["INJECTED"]
        elif host != "api.e2e.test" or one in plain.requests:
            assert mine == [], host


def test_calls_ended_in_many_ways(play: Play) -> None:
    ends = {code_of(outcome) for outcome in play.outcomes}
    assert {reason for _, reason in ends} >= {
        *("redirect_limit", "secret_needs_https", "response_body", "protocol", "private_address", "host_not_granted"),
        *("ip_literal", "userinfo", "redirect_body", "body", "first_byte", "secret_wrong_host", "bad_option"),
        "secret_unknown",
    }
    assert (500, None) in ends
    assert (200, None) in ends


def test_F5_what_commands_and_server_said_holds_no_secret(play: Play) -> None:
    for method, path in ENDPOINTS:
        if method == "GET":
            play.stage.admin(path)
    said = "\x00".join(play.stage.said).encode()
    assert len(said) > 100_000
    assert [(one, one.found_in(said)) for one in [*play.canaries, play.key] if one.found_in(said)] == []
    assert b"[redacted]" in said


def test_F5_no_file_holds_a_secret(play: Play) -> None:
    play.stage.fazt("net", "logs")  # what the CLI wrote is flushed; the server writes within its interval
    until(lambda: play.stage.rows("-n", "1"))
    names = {path.name for path in play.stage.data.rglob("*")}
    assert {"policy.db", "log.db", "apps.db", "admin.token"} <= names
    assert in_files(play.stage.folder, [*play.canaries, play.key]) == []


def test_no_process_below_the_server_holds_a_secret(play: Play) -> None:
    finds: list[Any] = []
    read = 0
    family = play.stage.family()
    assert len(family) >= 2, "a zygote and a worker"
    for pid in family:
        found, size = in_process(pid, [*play.canaries, play.key])
        finds += found
        read += size
    assert finds == []
    if os.geteuid() == 0:
        assert read > 10 << 20, "their memory was read"


def test_the_server_kept_no_response_to_a_call_with_a_secret(play: Play) -> None:
    stats = play.stage.json("net", "cache", "stats")
    assert stats["items"] >= 1, "the call without a secret was kept"
    rows = [row for row in play.stage.rows("-n", "1000") if row["auth"]]
    assert rows
    assert {row["cache"] for row in rows} <= {"", "bypass"}


def test_objects_and_tracebacks_hold_no_secret(play: Play, upstream: Upstream, plain: Upstream, tmp_path: Path) -> None:
    texts: list[str] = []
    settings = Settings(play.stage.data, resolve=RESOLVE, ca_files=(upstream.ca,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAZT_SECRETS_KEY", play.key.value)
        asyncio.run(in_this_process(play, settings, targets(upstream, plain), upstream, texts))
    assert len(texts) > 100
    finds = [
        text[:200]
        for text in set(texts)
        if any(one.found_in(text.encode("utf-8", "backslashreplace")) for one in [*play.canaries, play.key])
    ]
    assert finds == []


async def in_this_process(
    play: Play, settings: Settings, calls: list[dict[str, Any]], upstream: Upstream, texts: list[str]
) -> None:
    given = play.of("GIVEN").value
    with composition.open_store(settings) as store:
        app = store.apps.get("probe").id
        async with composition.engine_for(store, settings, keep=True) as engine:

            async def call(url: str, auth: str, **options: Any) -> None:
                fields = {"X-Mine": given, "Cookie": f"a={given}", **options.get("headers", {})}
                request = Request(
                    f"{url}{'&' if '?' in url else '?'}mine={quote(given)}",
                    options.get("method", "GET"),
                    tuple(fields.items()),
                    given.encode() if "body" in options else None,
                    options.get("timeout"),
                    auth,
                    app,
                )
                try:
                    texts.append(repr(await engine.call(request, profile=profiles.cli(store.source.current.limits))))
                except FaztError as refused:
                    texts.extend(traceback.format_exception(refused))
                    texts.extend((repr(refused), str(refused), repr(vars(refused)), str(refused.public())))

            for number, one in enumerate(calls):
                await call(one["url"], list(KINDS)[number % 3], **one.get("options", {}))
            kept = Request(upstream.url(f"/count?mine={quote(given)}"), app=app)
            for _ in range(2):
                answer = await engine.call(kept, profile=profiles.functions(store.source.current.limits))
            assert answer.cache == "hit"
            upstream.go.clear()
            running = [asyncio.create_task(call(upstream.url("/hold"), name, method="POST", body="")) for name in KINDS]
            try:
                async with asyncio.timeout(20):
                    while upstream.held < len(KINDS):
                        await asyncio.sleep(0.01)
                texts.extend(reprs())
                running[0].cancel()
            finally:
                upstream.go.set()
            await asyncio.gather(*running, return_exceptions=True)
            texts.extend(reprs())
            texts.extend(repr(info) for info in store.secrets.list())
            texts.extend(repr(row) for row in store.log.calls(limit=50))


def reprs() -> Iterator[str]:
    """Return how fazt's own live objects show themselves."""
    for thing in gc.get_objects():
        module = type(thing).__module__
        if isinstance(module, str) and module.partition(".")[0] == "fazt":
            with contextlib.suppress(ReferenceError):
                yield repr(thing)


def test_a_crash_of_the_process_shows_no_secret(play: Play, upstream: Upstream) -> None:
    """A signal in the middle of a call ends the command with a traceback at most of code, never of values."""
    upstream.go.clear()
    try:
        running = subprocess.Popen(
            [sys.executable, "-m", "fazt", "fetch", upstream.url("/hold"), "--app", "probe", "--auth", "BEARER"],
            env=play.stage.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        until(lambda: upstream.held or running.poll() is not None)
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=20)
    finally:
        upstream.go.set()
    assert running.returncode == 130
    assert b"Traceback" not in said
    assert [one for one in [*play.canaries, play.key] if one.found_in(said)] == []
