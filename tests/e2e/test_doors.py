"""The same request gets the same verdict, message and record at every door: functions, command line, Python."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import httpx2
import pytest

import fazt
from fazt.client.data_policy import DataPolicy
from fazt.config import Settings
from tests.e2e import python_doors
from tests.e2e.conftest import LOOPBACK, RESOLVE, Scene
from tests.e2e.python_doors import Outcome, PythonDoor, all_through, side_by_side
from tests.e2e.stage import until

pytestmark = pytest.mark.xdist_group("e2e-scene")
APP = "pair"
SECRET = "pair-secret-0123456789/+="
SAME = (
    *("method", "host", "port", "path", "status", "code", "reason", "requestBytes", "responseBytes"),
    *("redirects", "ruleId", "auth", "scrubbed", "app", "cache"),
)


@dataclass(frozen=True)
class Case:
    """A request and what becomes of it: a status or a reason."""

    url: str
    expected: int | str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> list[str]:
        """The request as `fazt fetch` takes it."""
        found = ["--app", APP]
        for option, name in (("-X", "method"), ("-d", "body"), ("--auth", "auth"), ("--timeout", "timeout")):
            if name in self.options:
                found += [option, str(self.options[name])]
        for name, value in self.options.get("headers", {}).items():
            found += ["-H", f"{name}: {value}"]
        return found


def rules(scene: Scene) -> Iterator[tuple[str, ...]]:
    """Yield the commands that make the policy."""
    up, app = scene.upstream, ("--app", APP)
    yield ("net", "allow", up.origin(), *app, *LOOPBACK)
    yield ("net", "deny", up.origin(), *app, "--path", "/status/403")
    yield ("net", "deny", up.origin(), *app, "--method", "DELETE")
    yield (
        "net",
        "allow",
        up.origin("other.e2e.test"),
        *app,
        *LOOPBACK,
        "--method",
        "GET",
        "--path",
        "/echo",
        "--path",
        "/to",
    )
    yield ("net", "allow", up.origin("*.wild.e2e.test"), *app, *LOOPBACK, "--max-response", "2048", "--timeout", "700")
    yield ("net", "allow", up.origin("a.wild.e2e.test"), *app, *LOOPBACK, "--path", "/status", "--inject", "PAIR")
    yield ("net", "allow", scene.plain.origin("other.e2e.test"), *app, *LOOPBACK)
    yield ("net", "allow", up.origin("mixed.e2e.test"), *app, *LOOPBACK)
    for host in ("private", "loopback", "meta", "six"):
        yield ("net", "allow", up.origin(f"{host}.e2e.test"), *app)
    yield ("net", "allow", "wild.e2e.test", *app)
    yield ("net", "allow", "https://nobody.e2e.test", *app)
    yield ("secret", "set", "PAIR", SECRET, "--domain", "api.e2e.test", "--domain", "a.wild.e2e.test", *app)
    yield ("secret", "set", "WIDE", SECRET, "--any-domain", "--as", "header", "--key", "X-Key", *app)
    yield ("secret", "set", "ELSE", SECRET, "--domain", "api.e2e.test", "--app", "somebody-else")


def cases(scene: Scene) -> list[Case]:
    up, plain = scene.upstream, scene.plain
    api, port = up.origin(), up.port
    get = [
        *((f"{api}/status/{status}", status) for status in (200, 204, 404, 500)),
        (f"{api.upper()}/status/200", 200),
        (f"https://api.e2e.test.:{port}/status/200#fragment", 200),
        (f"{api}/status/../status/200", 200),
        (f"{api}/status/%2e%2e/status/200", "denied_by_rule"),  # it could be read as what is denied
        ("", "bad_url"),
        ("nonsense", "bad_url"),
        ("//api.e2e.test/", "bad_url"),
        ("https://", "bad_url"),
        (f"https://api.e2e.test:{port}0/", "bad_url"),
        (f"https:\\\\api.e2e.test:{port}/", "bad_url"),
        (f"https://a b.e2e.test:{port}/", "bad_url"),
        (f"{api}/a b", "bad_url"),
        ("https://-\u00e9\u0301.xn--a/", "bad_url"),
        ("ftp://api.e2e.test/", "scheme_not_allowed"),
        ("file:///etc/passwd", "scheme_not_allowed"),
        ("data:text/plain,x", "scheme_not_allowed"),
        (f"http://api.e2e.test:{port}/", "scheme_not_allowed"),
        (f"https://user:word@api.e2e.test:{port}/", "userinfo"),
        (f"https://api.e2e.test@other.e2e.test:{port}/echo", "userinfo"),
        (f"https://127.0.0.1:{port}/", "ip_literal"),
        (f"https://[::1]:{port}/", "ip_literal"),
        ("http://169.254.169.254/", "ip_literal"),
        ("https://0x7f000001/", "ip_literal"),
        (up.url(host="unlisted.e2e.test"), "host_not_granted"),
        (f"https://localhost:{port}/", "host_not_granted"),
        (f"{api}/status/403", "denied_by_rule"),
        (f"{api}/status/403/x", "denied_by_rule"),
        (f"{api}/status/%34%303", "denied_by_rule"),
        (up.url("/echo/below", "other.e2e.test"), 200),
        (up.url("/echoes", "other.e2e.test"), "path_not_granted"),
        (up.url("/echo/%2e%2e/status/200", "other.e2e.test"), "path_not_granted"),
        (up.url("/echo%2f..%2fstatus", "other.e2e.test"), "path_not_granted"),
        ("https://other.e2e.test:9/", "port_not_granted"),
        ("https://api.e2e.test/", "port_not_granted"),
        (up.url("/bytes/2048", "b.sub.wild.e2e.test"), 200),
        (up.url("/bytes/2049", "b.sub.wild.e2e.test"), "response_body"),
        (up.url("/silent", "b.sub.wild.e2e.test"), "first_byte"),
        (up.url("/stall", "b.sub.wild.e2e.test"), "body"),
        (up.url("/status/202", "a.wild.e2e.test"), 202),
        (up.url("/echo", "a.wild.e2e.test"), "path_not_granted"),
        (up.url(host="private.e2e.test"), "private_address"),
        (up.url(host="loopback.e2e.test"), "private_address"),
        (up.url(host="meta.e2e.test"), "private_address"),
        (up.url(host="six.e2e.test"), "private_address"),
        (up.url(host="mixed.e2e.test"), "private_address"),
        (up.url("/chain/3"), 200),
        (up.url("/chain/4"), "redirect_limit"),
        (up.to(up.url(host="private.e2e.test")), "private_address"),
        (up.to(up.url(host="unlisted.e2e.test")), "host_not_granted"),
        (up.to("http://10.0.0.1/"), "ip_literal"),
        (up.to(f"http://api.e2e.test:{port}/"), "scheme_not_allowed"),
        (up.to(up.url("/status/200", "other.e2e.test")), "path_not_granted"),
        (up.to(plain.url("/status/200", "other.e2e.test")), 200),
        (up.url("/self"), "redirect_loop"),
        (up.to("/echo"), 200),
        (up.to("//other.e2e.test/echo"), "port_not_granted"),
        (up.url("/reset"), "protocol"),
        (up.url("/garbage/line"), "protocol"),
        (up.url("/gzip"), 200),
    ]
    found = [Case(url, expected) for url, expected in get]
    found += [
        Case(up.url(), 200, {"method": "post", "body": "x"}),
        Case(up.url(), 200, {"method": "PATCH", "headers": {"Host": "evil.test", "X-A": "1"}}),
        Case(up.url(), "denied_by_rule", {"method": "DELETE"}),
        Case(up.url(host="other.e2e.test"), "method_not_granted", {"method": "POST"}),
        *(Case(up.url(), "bad_option", {"method": method}) for method in ("CONNECT", "trace", "B AD")),
        Case(up.url(), "bad_option", {"headers": {"bad name": "x"}}),
        Case(up.url("/silent"), "first_byte", {"timeout": 700}),
        Case(up.url("/reflect"), 200, {"auth": "PAIR"}),
        Case(up.url("/reflect"), 200, {"auth": "WIDE"}),
        Case(up.url("/status/200"), "secret_unknown", {"auth": "NONE"}),
        Case(up.url("/status/200"), "secret_unknown", {"auth": ""}),
        Case(up.url("/status/200"), "secret_wrong_app", {"auth": "ELSE"}),
        Case(up.url(host="other.e2e.test"), "secret_wrong_host", {"auth": "PAIR"}),
        Case(plain.url(host="other.e2e.test"), "secret_needs_https", {"auth": "WIDE"}),
        Case(up.to(up.url("/echo", "other.e2e.test"), status=307), 200, {"auth": "WIDE"}),
        Case(
            up.to(up.url("/echo", "other.e2e.test"), status=307),
            "redirect_body",
            {"auth": "WIDE", "method": "POST", "body": "x"},
        ),
        Case(
            up.to(up.url("/echo", "other.e2e.test"), status=307), "method_not_granted", {"method": "POST", "body": "x"}
        ),
        Case(up.to(up.url("/echo", "other.e2e.test"), status=303), 200, {"method": "POST", "body": "x"}),
    ]
    return found


@pytest.fixture(scope="module")
def policy(scene: Scene) -> None:
    scene.stage.deploy(APP)
    for command in rules(scene):
        scene.stage.fazt(*command)
    scene.stage.settle()


def test_both_doors_agree_on_verdict_message_and_record(scene: Scene, policy: None) -> None:
    stage = scene.stage
    table = cases(scene)
    through_app: list[dict[str, Any]] = []
    for begin in range(0, len(table), 5):
        batch = [{"url": case.url, "options": case.options} for case in table[begin : begin + 5]]
        through_app += stage.calls(*batch, app=APP)
    rows = until(lambda: len(found := stage.rows("--app", APP, "-n", "1000")) == len(table) and found, what="all rows")
    of_app = rows[::-1]
    wrong: list[Any] = []
    for case, seen in zip(table, through_app, strict=True):
        said = stage.fazt("fetch", case.url, *case.arguments, "--json", expect=None)
        answer = said.json
        error = answer.get("error", {})
        there = (
            error.get("code"),
            error.get("reason"),
            error.get("message"),
            error.get("retryable"),
            answer.get("status"),
        )
        here = tuple(seen.get(name) for name in ("code", "reason", "message", "retryable", "status"))
        if here != there or case.expected not in (here[1], here[4]) or said.code != (2 if error else 0):
            wrong.append((case, here, there))
    assert wrong == []
    of_cli = [row for row in stage.rows("--app", APP, "-n", "1000") if row["door"] == "cli"][::-1]
    assert {row["door"] for row in of_app} == {"functions"}
    assert len(of_cli) == len(table)
    differing = [
        (case.url, {name: (a[name], b[name]) for name in SAME if a[name] != b[name]})
        for case, a, b in zip(table, of_app, of_cli, strict=True)
        if any(a[name] != b[name] for name in SAME)
    ]
    assert differing == []


def fits(case: Case, door: PythonDoor, where: Scene) -> bool:
    """Whether this door can be asked for it in the same words."""
    options = case.options
    if door.files and (
        options.keys() & {"method", "body"} or (isinstance(case.expected, int) and case.expected != 200)
    ):
        return False
    if door.files and "/chain/4" in case.url:  # the number of redirects is this door's own
        return False
    if door.httpx and not python_doors.read_by_httpx(case.url):
        return False
    if not door.follows and any(f"/{way}" in case.url for way in ("to?", "chain/", "self")):
        return False
    # httpx has a Host of its own in every request, so that another one is a contradiction there: see below
    return not (door.httpx and "Host" in options.get("headers", {}))


def test_the_python_doors_agree_with_the_command_line(scene: Scene, policy: None, tmp_path: Path) -> None:
    stage = scene.stage
    table = cases(scene)
    settings = Settings(stage.data, resolve=RESOLVE, ca_files=(scene.upstream.ca,))
    with mock.patch.dict(os.environ, stage.environment, clear=True):
        held = DataPolicy(app=APP, settings=settings)
        asked = {door: [case for case in table if fits(case, door, scene)] for door in python_doors.doors(tmp_path)}
        works = [
            partial(all_through, door, held, [(case.url, case.options) for case in mine])
            for door, mine in asked.items()
        ]
        found = dict(zip(asked, side_by_side(works), strict=True))
        python_doors.close_all()
        held.close()
    before = {row["callId"] for row in stage.rows("--app", APP, "-n", "5000") if row["door"] == "cli"}
    wanted = _through_commands(scene, table)
    rows = {row["callId"]: row for row in stage.rows("--app", APP, "-n", "5000")}
    of_cli = [row for row in reversed(rows.values()) if row["door"] == "cli" and row["callId"] not in before]
    assert len(of_cli) == len(table)
    wrong: list[Any] = []
    for door, mine in asked.items():
        for case, got in zip(mine, found[door], strict=True):
            place = table.index(case)
            row = rows.get(got.call_id, {})
            there, here = _compared(wanted[place], of_cli[place]), _compared(got, row)
            differing = {name: (there[name], here[name]) for name in there if there[name] != here[name]}
            if "echo" in case.url or door.streams:  # echoed codings are the door's own; streams count what came
                differing.pop("row.responseBytes", None)
            if differing:
                wrong.append((door.name, case.url, case.options, differing))
    assert not wrong, "\n".join(map(str, wrong))
    assert {door.name: len(mine) for door, mine in asked.items()}["fetch"] == len(table)
    assert min(len(mine) for mine in asked.values()) > 40
    of_python = [row for row in rows.values() if row["door"] == "client"]
    assert len(of_python) == sum(map(len, found.values())), "one record a call"


def _through_commands(scene: Scene, table: list[Case]) -> list[Outcome]:
    found: list[Outcome] = []
    for case in table:
        answer = scene.stage.fazt("fetch", case.url, *case.arguments, "--json", expect=None).json
        error = answer.get("error", {})
        found.append(
            Outcome(
                error.get("callId") or answer.get("callId"),
                answer.get("status"),
                error.get("code"),
                error.get("reason"),
                error.get("message"),
                error.get("retryable"),
            )
        )
    return found


def _compared(outcome: Outcome, row: dict[str, Any]) -> dict[str, Any]:
    """Return what a call has in common with the same call at another door."""
    names = ("code", "reason", "message", "retryable", "status")
    found = {**dict(zip(names, outcome.verdict, strict=True)), **{f"row.{name}": row.get(name) for name in SAME}}
    return {**found, "row.method": str(row.get("method")).upper()}  # httpx writes it so before anybody asks


def test_what_httpx_reads_in_its_own_way_is_judged_as_it_reads_it(scene: Scene, policy: None) -> None:
    """A URL that httpx refuses makes no call; one that it spells anew gets the verdict of that spelling."""
    stage = scene.stage
    settings = Settings(stage.data, resolve=RESOLVE, ca_files=(scene.upstream.ca,))
    odd = [case for case in cases(scene) if not python_doors.read_by_httpx(case.url) and not case.options]
    assert len(odd) > 10
    with mock.patch.dict(os.environ, stage.environment, clear=True):
        held = DataPolicy(app=APP, settings=settings)
        with fazt.Client(policy=held, follow_redirects=True, max_redirects=python_doors.REDIRECTS) as client:
            for case in odd:
                try:
                    spelled = str(client.build_request("GET", case.url).url)
                except httpx2.InvalidURL:
                    continue
                try:
                    got: Any = client.get(case.url).status_code
                except fazt.FaztError as error:
                    got = error.reason
                try:
                    expected: Any = fazt.fetch(spelled, policy=held, follow_redirects=True).status
                except fazt.FaztError as error:
                    expected = error.reason
                assert got == expected, (case, spelled)
        python_doors.close_all()
        held.close()


def test_a_host_that_is_not_the_urls_is_a_contradiction_for_httpx_and_recorded(scene: Scene, policy: None) -> None:
    """Functions and the lean door drop the field, as browsers do; httpx would send it, so it is refused there."""
    stage = scene.stage
    settings = Settings(stage.data, resolve=RESOLVE, ca_files=(scene.upstream.ca,))
    with mock.patch.dict(os.environ, stage.environment, clear=True):
        held = DataPolicy(app=APP, settings=settings)
        with fazt.Client(policy=held) as client, pytest.raises(fazt.FaztError) as caught:
            client.get(scene.upstream.url(), headers={"Host": "evil.test"})
        held.close()
    assert caught.value.reason == "bad_option"
    row = stage.row(caught.value.call_id or "")
    assert (row["host"], row["reason"], row["door"]) == ("api.e2e.test", "bad_option", "client")


def test_rates_sizes_and_times_of_a_rule_hold_alike(scene: Scene, tmp_path: Path) -> None:
    """Each door has a policy of its own here, since all that use equal policies draw on one rate."""
    plain = scene.plain
    host = "other.e2e.test"

    def through(door: PythonDoor) -> list[tuple[Any, ...]]:
        rule = fazt.Rule(plain.origin(host), addresses=["127.0.0.1/32"], rate=1, burst=5, max_response=2048, timeout=2)
        own = {host: ["127.0.0.1"], f"{door.name}.test": ["127.0.0.1"]}
        call = door.make(fazt.Policy([rule], resolve=own))
        asked: list[tuple[str, dict[str, Any]]] = [
            ("/bytes/2048", {}),
            ("/bytes/2049", {}),
            ("/bytes/2048", {"max_bytes": 2047}),
            ("/silent", {}),
            ("/stall", {}),
            ("/status/200", {}),
        ]
        return [call(plain.url(path, host), options).verdict for path, options in asked]

    every = python_doors.doors(tmp_path)
    found = side_by_side([partial(through, door) for door in every])
    python_doors.close_all()
    assert [reason for _, reason, *_ in found[0]] == [
        *(None, "response_body", "response_body", "first_byte", "body", "host_rate")
    ]
    for door, verdicts in zip(every, found, strict=True):
        for got, expected in zip(verdicts, found[0], strict=True):
            if door.files and expected[1] == "response_body":  # a download says how long the file is
                got, expected = (*got[:2], *got[3:]), (*expected[:2], *expected[3:])
            assert got == expected, door.name


def test_explain_says_beforehand_what_a_call_would_be_told(scene: Scene, policy: None) -> None:
    """Every refusal before the connection is one that `explain` gives without making the call."""
    for case in cases(scene):
        if any(
            f"/{way}" in case.url for way in ("to?", "chain/", "self", "reset", "garbage", "bytes", "silent", "stall")
        ):
            continue  # decided by what the upstream answers
        if "headers" in case.options:
            continue
        args = [arg for arg in case.arguments if arg not in ("-d", "x")]
        done = scene.stage.fazt("explain", case.url, *args, "--json", expect=None)
        said = done.json
        refused = isinstance(case.expected, str)
        assert (said["allowed"], done.code) == (not refused, 2 if refused else 0), case
        if refused:
            assert case.expected in str(said["gates"]), (case, said)
