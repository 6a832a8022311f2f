"""Secrets go through every door for Python programs in every way a call can end; then all that is kept is searched.

Those that fazt keeps may be seen by nobody but the host they are for. Those that the caller gives (userinfo, cookies,
Authorization, a key in the query, a body) may be seen by the caller's own objects, and in nothing that fazt writes or
says: logs, events, errors, caches.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import logging
import os
import pickle
import socket
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import httpx
import httpx2
import pytest

import fazt
import fazt.httpx
from fazt import telemetry
from fazt.client.data_policy import DataPolicy
from fazt.config import Settings
from fazt.errors import FaztError
from fazt.stores.sqlite.events import opener
from tests.e2e import python_doors
from tests.e2e.canary import Canary, in_files
from tests.e2e.conftest import LOOPBACK, NAMES, RESOLVE
from tests.e2e.stage import staged
from tests.e2e.test_canary import KINDS, Play, prepare, reprs, targets
from tests.e2e.upstream import Upstream
from tests.telemetry.collector import Collector
from tests.telemetry.sinks import Collected

pytestmark = pytest.mark.xdist_group("e2e-client-canary")


@dataclass
class Told:
    """Everything that came out."""

    said: list[str] = field(default_factory=list)
    """Of fazt: errors, tracebacks, pickles, reprs."""
    answers: list[str] = field(default_factory=list)
    """Of the servers, and the requests as the caller has them: what he gave himself is in there."""
    ends: set[str] = field(default_factory=set)

    def error(self, error: FaztError) -> None:
        self.ends.add(error.reason.value)
        seen: list[BaseException] = []
        following: BaseException | None = error
        while following is not None and following not in seen:
            seen.append(following)
            following = following.__cause__ or following.__context__
        for one in seen:
            own = {name: value for name, value in vars(one).items() if name != "_request"}
            self.said += [repr(one), str(one), repr(one.args), repr(own), *getattr(one, "__notes__", ())]
        self.said += traceback.format_exception(error)
        self.said += [
            *(str(error.public()), pickle.dumps(error).decode("latin-1"), repr(pickle.loads(pickle.dumps(error)))),
        ]

    def response(self, response: Any) -> None:
        self.ends.add(str(response.status_code))
        for one in (*response.history, response):
            self.answers += [repr(one.headers.multi_items()), repr(one.request.headers.multi_items()), str(one.url)]
        self.answers += [response.content.decode("latin-1"), repr(response.extensions), repr(response.cookies)]
        self.said.append(repr(response))

    def lean(self, answer: fazt.Response) -> None:
        self.ends.add(str(answer.status))
        self.said += [repr(answer), repr(answer.headers)]
        self.answers += [answer.text, repr(answer.headers.fields), answer.url, repr(answer.history)]


@dataclass
class Sinks:
    """One of every kind."""

    folder: Path
    collector: Collector = field(default_factory=Collector)
    console: io.StringIO = field(default_factory=io.StringIO)
    prometheus: Any = field(default_factory=telemetry.PrometheusSink)
    collected: Collected = field(default_factory=Collected)

    def __post_init__(self) -> None:
        self.all = [
            telemetry.LogSink(),
            telemetry.JsonlSink(self.folder / "net.jsonl"),
            telemetry.CsvSink(self.folder / "net.csv"),
            telemetry.SqliteSink(opener(self.folder / "events.db")),
            telemetry.ConsoleSink(self.console, attempts=True),
            telemetry.OtlpSink(self.collector.endpoint, all_logs=True),
            self.prometheus,
            self.collected,
        ]


@dataclass
class Ran:
    play: Play
    told: Told
    sinks: Sinks
    log: str
    scraped: str
    live: list[str]
    """How fazt's objects showed themselves in the middle of calls."""


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with contextlib.closing(Upstream(tmp_path_factory.mktemp("e2e-client-canary-https"), *NAMES)) as started:
        yield started


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with contextlib.closing(Upstream(tmp_path_factory.mktemp("e2e-client-canary-http"))) as started:
        yield started


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, plain: Upstream) -> Iterator[Ran]:
    """Make all the calls."""
    canaries = [Canary(name) for name in (*KINDS, "INJECTED", "IMPORTED", "TYPED", "GIVEN")]
    key = Canary("the key of the secrets")
    raw = os.urandom(32)
    key.value, key.forms = base64.b64encode(raw).decode(), {"base64": base64.b64encode(raw), "raw": raw}
    environment = {"FAZT_RESOLVE": RESOLVE, "FAZT_CA_FILE": str(upstream.ca), "FAZT_SECRETS_KEY": key.value}
    folder = tmp_path_factory.mktemp("e2e-client-canary")
    stream, root = io.StringIO(), logging.getLogger()
    handler, level = logging.StreamHandler(stream), root.level
    handler.addFilter(lambda line: line.name not in ("httpx", "httpx2"))  # whose own clients log the URL they call
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with staged(folder, environment) as stage, mock.patch.dict(os.environ, stage.environment):
            play = Play(stage, canaries, key, [])
            prepare(play, upstream, plain)
            with contextlib.closing(Upstream(folder, "api.e2e.test")) as stranger, socket.socket() as closed:
                closed.bind(("127.0.0.1", 0))
                ports = {"stranger": stranger.port, "closed": closed.getsockname()[1]}
                for port in ports.values():
                    play.stage.fazt("net", "allow", f"https://api.e2e.test:{port}", "--app", "probe", *LOOPBACK)
                yield played(play, ports, stream, upstream, plain)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def played(play: Play, ports: dict[str, int], stream: io.StringIO, upstream: Upstream, plain: Upstream) -> Ran:
    folder = play.stage.folder
    (folder / "sinks").mkdir()
    sinks, told = Sinks(folder / "sinks"), Told()
    live = run(play, told, sinks, upstream, [*asked(play, upstream, plain), *broken(play, ports, upstream)])
    scraped = sinks.prometheus.text()
    for sink in sinks.all:
        sink.close()
    sinks.collector.close()
    return Ran(play, told, sinks, stream.getvalue(), scraped, live)


def run(play: Play, told: Told, sinks: Sinks, upstream: Upstream, calls: list[Call]) -> list[str]:
    folder = play.stage.folder
    settings = Settings(play.stage.data, resolve=RESOLVE, ca_files=(upstream.ca,))
    policy = DataPolicy(app="probe", settings=settings)
    cache = fazt.Cache(folder / "cache")
    arguments = {"policy": policy, "sinks": sinks.all, "follow_redirects": True, "max_redirects": 5}
    with fazt.Client(**arguments, traffic={"retry": {"attempts": 2, "base": 0.001}}) as client:
        through_client(client, calls, told)
    with fazt.Client(**arguments, cache=cache) as client:
        through_client(client, keepable(calls), told)
        through_client(client.service("the-service"), keepable(calls)[:5], told)
        told.said += [repr(client), repr(client.introspect()), repr(client.policy)]
    with fazt.httpx.Client(**arguments) as client:
        through_client(client, calls, told)
    transport = fazt.Transport(policy=policy, sinks=sinks.all)
    with httpx2.Client(transport=transport) as client:
        through_client(client, calls, told, extensions=True)
        told.said.append(repr(transport))
    asyncio.run(through_loop(arguments, cache, policy, calls, told))
    through_functions(policy, calls, told, folder)
    live = in_the_middle(arguments, upstream)
    python_doors.close_all()
    told.said += [
        repr(policy),
        repr(policy.vault),
        str(policy.explain(upstream.url("/reflect"), app="", secret="BEARER")),
    ]
    policy.close()
    return live


Call = tuple[str, str, dict[str, Any], dict[str, Any]]
"""Method, URL, httpx's arguments, fazt's."""


def asked(play: Play, upstream: Upstream, plain: Upstream) -> Iterator[Call]:
    """Yield the calls: with a secret of fazt's, with the caller's own, with both."""
    given = play.of("GIVEN").value
    turns = count()
    for one in targets(upstream, plain):
        options = one.get("options", {})
        method = options.get("method", "GET")
        own: dict[str, Any] = {"deadline": 0.15} if "timeout" in options else {}
        turn = next(turns)
        name = list(KINDS)[turn % 3]
        headers = options.get("headers", {})
        content = options["body"].encode() if "body" in options else None
        yield method, one["url"], {"headers": headers, "content": content}, {**own, "secret": name}
        if "garbage/location" in one["url"]:
            continue  # a server may put what it was given into the path of a redirect, and paths are recorded
        mine = {**headers, "X-Mine": quote(given), "Cookie": f"a={quote(given)}"}
        if turn % 2:
            mine["Authorization"] = f"Bearer {quote(given)}"
        url = f"{one['url']}{'&' if '?' in one['url'] else '?'}mine={quote(given, safe='')}"
        yield method, url, {"headers": mine, "content": content and given.encode()}, {**own, "secret": name}
        if turn % 2:
            yield method, url, {"headers": mine, "content": content and given.encode()}, own
    word = quote(given, safe="")
    for host in ("api.e2e.test", "unlisted.e2e.test"):
        yield "GET", f"https://user:{word}@{host}:{upstream.port}/reflect?a={word}#{word}", {}, {"secret": "BEARER"}
    kept = upstream.url("/kept")
    for _ in range(2):
        for extra in ({}, {"secret": "BEARER"}, {"secret": "QUERY"}):
            yield "GET", f"{kept}?mine={word}", {"headers": {"Cookie": f"a={word}", "X-Mine": word}}, extra
            yield "GET", kept, {"headers": {"Authorization": f"Bearer {word}"}}, extra


def broken(play: Play, ports: dict[str, int], upstream: Upstream) -> Iterator[Call]:
    """Yield calls that fail below HTTP, and behind it."""
    word = quote(play.of("GIVEN").value, safe="")
    mine = {"Authorization": f"Bearer {word}", "Cookie": f"a={word}"}
    bases = [f"https://api.e2e.test:{port}/there" for port in ports.values()]
    for base in (*bases, upstream.url("/unpackable")):
        for name in KINDS:
            yield "GET", base, {}, {"secret": name}
        yield "GET", f"{base}?mine={word}", {"headers": mine}, {}


def keepable(calls: list[Call]) -> list[Call]:
    """Leave out calls whose answers hold what the caller gave: what a server says may be kept as it is."""
    return [one for one in calls if "mine=" not in one[1] or "/kept" in one[1]]


def through_client(client: Any, calls: list[Call], told: Told, *, extensions: bool = False) -> None:
    for number, (method, url, options, own) in enumerate(calls):
        more = {"extensions": {"fazt": own}} if extensions else own
        try:
            if number % 3 == 1:
                with client.stream(method, url, **options, **more) as response:
                    response.read()
            else:
                response = client.request(method, url, **options, **more)
        except FaztError as error:
            told.error(error)
        except (httpx2.InvalidURL, httpx.InvalidURL):
            continue
        else:
            told.response(response)


async def through_loop(arguments: dict[str, Any], cache: Any, policy: Any, calls: list[Call], told: Told) -> None:
    kinds: list[tuple[Any, dict[str, Any], list[Call]]] = [
        (fazt, {}, calls),
        (fazt.httpx, {}, calls),
        (fazt, {"cache": cache}, keepable(calls)),
    ]
    for module, more, mine in kinds:
        async with module.AsyncClient(**arguments, **more) as client:
            for number, (method, url, options, own) in enumerate(mine):
                try:
                    if number % 3 == 1:
                        async with client.stream(method, url, **options, **own) as response:
                            await response.aread()
                    else:
                        response = await client.request(method, url, **options, **own)
                except FaztError as error:
                    told.error(error)
                except (httpx2.InvalidURL, httpx.InvalidURL):
                    continue
                else:
                    told.response(response)
    for method, url, options, own in calls:
        try:
            told.lean(await fazt.afetch(url, method=method, policy=policy, follow_redirects=True, **options, **own))
        except FaztError as error:
            told.error(error)
    await fazt.aclose_client()


def through_functions(policy: Any, calls: list[Call], told: Told, folder: Path) -> None:
    names = count()
    for method, url, options, own in calls:
        try:
            told.lean(fazt.fetch(url, method=method, policy=policy, follow_redirects=True, **options, **own))
        except FaztError as error:
            told.error(error)
        place = folder / f"downloaded-{next(names)}"
        try:
            done = fazt.download(url, place, policy=policy, headers=options.get("headers"), **own)
        except FaztError as error:
            told.error(error)
        else:
            told.said.append(repr(done))
            told.answers.append(place.read_text("latin-1"))
            place.unlink()


def in_the_middle(arguments: dict[str, Any], upstream: Upstream) -> list[str]:
    """Look at fazt's objects while calls with secrets are under way, and at their errors when they are given up."""
    live: list[str] = []

    async def main() -> None:
        upstream.go.clear()
        try:
            async with fazt.AsyncClient(**arguments) as client:
                running = [asyncio.create_task(client.post(upstream.url("/hold"), secret=name)) for name in KINDS]
                async with asyncio.timeout(20):
                    while upstream.held < len(KINDS):
                        await asyncio.sleep(0.01)
                live.extend(reprs())
                for task in running:
                    task.cancel()
                done = await asyncio.gather(*running, return_exceptions=True)
                live.extend(
                    "".join(traceback.format_exception(error)) for error in done if isinstance(error, BaseException)
                )
                live.extend(reprs())
        finally:
            upstream.go.set()

    asyncio.run(main())
    return live


def finds(canaries: list[Canary], texts: list[str]) -> list[tuple[str, str]]:
    found = []
    for text in set(texts):
        data = text.encode("utf-8", "backslashreplace")
        plain = text.encode("latin-1", "replace")
        found += [(one.name, text[:200]) for one in canaries if one.found_in(data) or one.found_in(plain)]
    return found


def test_calls_ended_in_many_ways(ran: Ran) -> None:
    assert ran.told.ends >= {
        *("redirect_limit", "secret_needs_https", "protocol", "private_address", "host_not_granted", "ip_literal"),
        *("tls_failed", "connect_failed", "decode"),
        *("userinfo", "redirect_body", "body", "first_byte", "secret_wrong_host", "bad_option", "status", "200", "500"),
    }
    assert len(ran.sinks.collected.summaries) > 500


def test_the_host_they_are_for_got_them(ran: Ran, upstream: Upstream) -> None:
    got = repr([one for one in upstream.requests if one.values("host")[0].startswith("api.")]).encode()
    for name in (*KINDS, "GIVEN"):
        assert ran.play.of(name).found_in(got), name


def test_no_other_host_got_fazts(ran: Ran, upstream: Upstream, plain: Upstream) -> None:
    secrets = [canary for canary in ran.play.canaries if canary.name in KINDS]
    for one in [*upstream.requests, *plain.requests]:
        if one in plain.requests or not one.values("host")[0].startswith("api."):
            assert not [canary for canary in secrets if canary.found_in(repr(one).encode())], one.target


def test_what_fazt_says_holds_no_secret(ran: Ran) -> None:
    assert finds([*ran.play.canaries, ran.play.key], ran.told.said) == []
    assert finds([*ran.play.canaries, ran.play.key], ran.live) == []
    assert len(ran.live) > 10


def test_the_program_that_asks_never_sees_fazts(ran: Ran) -> None:
    secrets = [canary for canary in ran.play.canaries if canary.name != "GIVEN"]
    assert finds([*secrets, ran.play.key], ran.told.answers) == []
    assert any("[redacted]" in text for text in ran.told.answers)


def test_what_a_secret_was_sent_to_is_asked_for_plain_bodies(ran: Ran, upstream: Upstream) -> None:
    """In a coded one nobody finds what is to be taken out."""
    secrets = [canary for canary in ran.play.canaries if canary.name in KINDS]
    asked = [(one, one.values("accept-encoding")) for one in upstream.requests]
    with_secret = [codings for one, codings in asked if any(two.found_in(repr(one).encode()) for two in secrets)]
    assert with_secret
    assert all(codings == ["identity"] for codings in with_secret)
    assert any(codings != ["identity"] for _, codings in asked), "others are asked for what can be decoded"


def test_no_log_and_no_sink_holds_a_secret(ran: Ran) -> None:
    sinks = ran.sinks
    shown: dict[str, bytes] = {
        "logging": ran.log.encode(),
        "otlp": sinks.collector.raw,
        "prometheus": ran.scraped.encode(),
        "console": sinks.console.getvalue().encode(),
        "events": repr(sinks.collected.events).encode(),
        "objects": repr(sinks.all).encode(),
    }
    for name, data in shown.items():
        assert b"e2e.test" in data or name in ("objects",), f"{name} has the events at all"
        assert [(name, one) for one in [*ran.play.canaries, ran.play.key] if one.found_in(data)] == []


def test_no_file_holds_a_secret(ran: Ran) -> None:
    names = {path.name for path in ran.play.stage.folder.rglob("*")}
    assert {"policy.db", "log.db", "net.jsonl", "net.csv", "events.db", "cache"} <= names
    assert (ran.play.stage.folder / "cache").is_dir()
    assert in_files(ran.play.stage.folder, [*ran.play.canaries, ran.play.key]) == []


def test_answers_to_calls_with_credentials_answer_nobody_else(ran: Ran, upstream: Upstream) -> None:
    """The caller that gives another secret, or none, is not answered with what was kept for the first one."""
    kept = [one for one in upstream.requests if one.target.startswith("/kept")]
    assert len({one.values("authorization")[0] for one in kept if one.values("authorization")}) >= 2
