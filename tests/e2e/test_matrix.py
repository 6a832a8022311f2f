"""The acceptance matrix (spec A.22), case by case: a deployed app calls a real HTTPS upstream through a real server."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.conftest import LOOPBACK, Scene
from tests.e2e.stage import Stage, code_of, until
from tests.e2e.upstream import GZIPPED

pytestmark = pytest.mark.xdist_group("e2e-scene")
MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _quiet(scene: Scene) -> Iterator[None]:
    scene.upstream.requests.clear()
    scene.upstream.sni.clear()
    scene.upstream.go.clear()
    yield
    scene.upstream.go.set()


def refused(scene: Scene, url: str, reason: str, *, code: str = "NET_BLOCKED", **options: Any) -> dict[str, Any]:
    """Let the app call; it must be refused with this reason and reach nobody."""
    before = len(scene.upstream.requests)
    outcome = scene.stage.call(url, **options)
    assert code_of(outcome) == (code, reason), outcome
    assert len(scene.upstream.requests) == before
    return outcome


def test_A22_01_an_app_calls_a_real_https_upstream(scene: Scene) -> None:
    url = scene.upstream.url("/echo?a=1&b=%20")
    outcome = scene.stage.call(url, method="post", headers={"X-Asked": "yes"}, body="h\u00fc\u2713")
    assert (outcome["status"], outcome["ok"], outcome["url"], outcome["redirected"]) == (200, True, url, False)
    assert outcome["json"]["method"] == "POST"
    assert outcome["json"]["target"] == "/echo?a=1&b=%20"
    assert outcome["json"]["body"].encode("latin-1") == "h\u00fc\u2713".encode()
    assert ["x-asked", "yes"] in outcome["json"]["headers"]
    assert ["host", f"api.e2e.test:{scene.upstream.port}"] in outcome["json"]["headers"]


@pytest.mark.parametrize("host", ["localhost", "loopback.e2e.test"])
def test_A22_02_loopback_is_blocked(scene: Scene, host: str) -> None:
    if host == "localhost":  # nothing names it; granting it alone is not enough either
        refused(scene, f"https://localhost:{scene.upstream.port}/", "host_not_granted")
    else:
        refused(scene, scene.upstream.url(host=host), "private_address")


def test_A22_03_a_private_address_is_blocked(scene: Scene) -> None:
    outcome = refused(scene, scene.upstream.url(host="private.e2e.test"), "private_address")
    assert "10.0.0.7" not in str(outcome)
    scene.stage.row(outcome["callId"])
    explained = scene.stage.fazt("explain", outcome["callId"], expect=2).out
    assert "10.0.0.7" in explained


def test_A22_04_the_metadata_service_is_blocked(scene: Scene) -> None:
    refused(scene, scene.upstream.url(host="meta.e2e.test"), "private_address")
    refused(scene, "http://169.254.169.254/latest/meta-data/", "ip_literal")
    for never in ("169.254.169.254/32", "169.254.0.0/16", "100.100.100.200/32", "fd00:ec2::254/128", "168.63.129.16"):
        scene.stage.fazt("net", "allow", "meta.e2e.test", "--address", never, expect=1)


def test_A22_05_loopback_of_ipv6_is_blocked(scene: Scene) -> None:
    refused(scene, scene.upstream.url(host="six.e2e.test"), "private_address")
    refused(scene, f"https://[::1]:{scene.upstream.port}/", "ip_literal")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::ffff:127.0.0.1]", "１２７.0.0.1", "8.8.8.8"],
)
def test_A22_06_an_address_is_no_host(scene: Scene, host: str) -> None:
    refused(scene, f"https://{host}:{scene.upstream.port}/", "ip_literal")


def test_A22_07_a_host_that_nothing_names_is_blocked_and_not_looked_up(scene: Scene) -> None:
    outcome = refused(scene, scene.upstream.url(host="unlisted.e2e.test"), "host_not_granted")
    row = scene.stage.row(outcome["callId"])
    assert (row["host"], row["ruleId"]) == ("unlisted.e2e.test", None)


@pytest.mark.parametrize("host", ["a.wild.e2e.test", "b.sub.wild.e2e.test"])
def test_A22_08_a_wildcard_matches_any_depth(scene: Scene, host: str) -> None:
    assert scene.stage.call(scene.upstream.url(host=host))["status"] == 200


def test_A22_09_a_wildcard_does_not_match_its_apex(scene: Scene) -> None:
    refused(scene, scene.upstream.url(host="wild.e2e.test"), "host_not_granted")


def test_A22_10_a_redirect_to_a_private_address_is_blocked(scene: Scene) -> None:
    for to, reason in (
        (scene.upstream.url(host="private.e2e.test"), "private_address"),
        (scene.upstream.url(host="unlisted.e2e.test"), "host_not_granted"),
        ("https://10.0.0.7/", "ip_literal"),
        ("https://user@other.e2e.test/", "userinfo"),
        ("https://other.e2e.test:9/", "port_not_granted"),
    ):
        outcome = scene.stage.call(scene.upstream.to(to))
        assert code_of(outcome) == ("NET_BLOCKED", reason), to
    assert scene.upstream.paths() == ["/to"] * 5


def test_A22_11_a_redirect_from_https_to_http_is_blocked_unless_a_rule_grants_http(scene: Scene) -> None:
    outcome = scene.stage.call(scene.upstream.to(f"http://api.e2e.test:{scene.plain.port}/echo"))
    assert code_of(outcome)[1] in ("scheme_not_allowed", "port_not_granted")
    outcome = scene.stage.call(scene.upstream.to(f"http://api.e2e.test:{scene.upstream.port}/echo"))
    assert code_of(outcome) == ("NET_BLOCKED", "scheme_not_allowed")
    before = len(scene.plain.requests)
    outcome = scene.stage.call(scene.upstream.to(scene.plain.url(host="other.e2e.test")))
    assert (outcome["status"], outcome["redirected"]) == (200, True)
    assert len(scene.plain.requests) == before + 1


def test_A22_12_three_redirects_are_followed_and_a_fourth_is_not(scene: Scene) -> None:
    outcome = scene.stage.call(scene.upstream.url("/chain/3"))
    assert (outcome["status"], outcome["text"], outcome["redirected"]) == (200, "end", True)
    assert outcome["url"] == scene.upstream.url("/chain/0")
    outcome = scene.stage.call(scene.upstream.url("/chain/4"))
    assert code_of(outcome) == ("NET_BLOCKED", "redirect_limit")
    row = scene.stage.row(outcome["callId"])
    assert [hop["status"] for hop in row["redirects"]] == [302] * 3


def test_A22_13_a_response_above_1_mib_is_refused(scene: Scene) -> None:
    assert scene.stage.call(scene.upstream.url(f"/bytes/{MIB}"))["size"] == MIB
    outcome = scene.stage.call(scene.upstream.url(f"/bytes/{MIB + 1}"))
    assert code_of(outcome) == ("NET_SIZE", "response_body")
    assert outcome["retryable"] is False


def test_A22_14_the_sixth_call_of_a_request_is_refused(scene: Scene) -> None:
    outcomes = scene.stage.calls(*[{"url": scene.upstream.url("/count")}] * 6)
    assert [code_of(outcome) for outcome in outcomes] == [(200, None)] * 5 + [("NET_LIMIT", "calls_exceeded")]
    assert outcomes[5]["retryable"] is False
    assert scene.upstream.paths() == ["/count"] * 5
    outcomes = scene.stage.calls(*[{"url": "http://10.0.0.1/"}] * 5, {"url": scene.upstream.url()})
    assert code_of(outcomes[5]) == ("NET_LIMIT", "calls_exceeded"), "a refused call is a call"


def test_A22_15_with_less_than_a_second_left_no_call_is_begun(scene: Scene) -> None:
    scene.stage.deploy("late")
    scene.stage.fazt("net", "allow", scene.upstream.origin(), "--app", "late", *LOOPBACK)
    scene.stage.fazt("limits", "set", "runtime.exec_timeout", "990", "--app", "late")
    scene.stage.settle()
    late = scene.stage.call(scene.upstream.url(), app="late")
    assert code_of(late) == ("NET_BUDGET", "wall_exhausted")
    assert (late["retryable"], late["retryAfter"]) == (True, 1)
    uncaught = scene.stage.ask("POST", "/api/throw", app="late", body={"url": scene.upstream.url()})
    assert uncaught.status == 503
    assert "retry-after: 1" in uncaught.headers.lower()


@pytest.fixture(scope="module")
def crowd(scene: Scene) -> tuple[str, ...]:
    """Five apps whose calls may wait for longer than the shipped limits allow, and a global cap of 20."""
    stage = scene.stage
    for name, value in (("runtime.exec_timeout", 10_000), ("net.call_timeout", 10_000), ("net.budget", 10_000)):
        stage.fazt("limits", "set", name, str(value))
    for name, value in (("runtime.exec_timeout", 5000), ("net.call_timeout", 4000), ("net.budget", 4000)):
        stage.fazt("limits", "set", name, str(value), "--app", "probe")
    assert stage.json("limits", "show", "net.app_concurrency") == {"net": {"app_concurrency": 5}}
    stage.fazt("limits", "set", "net.concurrency", "20")
    names = ("one", "two", "three", "four", "five")
    stage.deploy(*names)
    for name in names:
        stage.fazt("net", "allow", scene.upstream.origin(), "--app", name, *LOOPBACK)
    stage.settle()
    return names


def held(scene: Scene, pool: ThreadPoolExecutor, *apps: str) -> list[Future[dict[str, Any]]]:
    """Begin calls that wait at the upstream; return when all of them are there."""
    waiting = [pool.submit(scene.stage.call, scene.upstream.url("/hold"), app=app) for app in apps]
    until(lambda: scene.upstream.held == len(apps) or any(call.done() for call in waiting))
    assert scene.upstream.held == len(apps), [call.result() for call in waiting if call.done()]
    return waiting


def test_A22_16_the_sixth_call_of_an_app_at_once_is_refused(scene: Scene, crowd: tuple[str, ...]) -> None:
    with ThreadPoolExecutor(6) as pool:
        waiting = held(scene, pool, *["one"] * 5)
        try:
            sixth = scene.stage.call(scene.upstream.url(), app="one")
            assert code_of(sixth) == ("NET_LIMIT", "app_concurrency")
            assert sixth["retryable"] is True
            assert scene.stage.call(scene.upstream.url(), app="two")["status"] == 200
        finally:
            scene.upstream.go.set()
        assert [call.result()["status"] for call in waiting] == [200] * 5
    assert scene.stage.call(scene.upstream.url(), app="one")["status"] == 200


def test_A22_17_the_twenty_first_call_of_all_apps_at_once_is_refused(scene: Scene, crowd: tuple[str, ...]) -> None:
    with ThreadPoolExecutor(20) as pool:
        waiting = held(scene, pool, *crowd[:4] * 5)
        try:
            last = scene.stage.call(scene.upstream.url(), app=crowd[4])
            assert code_of(last) == ("NET_LIMIT", "global_concurrency")
            assert last["retryable"] is True
            assert scene.stage.admin("/api/system/net")["data"]["in_flight"] == 20
        finally:
            scene.upstream.go.set()
        assert [call.result()["status"] for call in waiting] == [200] * 20
    assert until(lambda: scene.stage.admin("/api/system/net")["data"]["in_flight"] == 0)
    assert scene.stage.call(scene.upstream.url(), app=crowd[4])["status"] == 200


def test_A22_18_one_private_address_in_an_answer_refuses_the_connection(scene: Scene) -> None:
    before = scene.upstream.connections
    refused(scene, scene.upstream.url(host="mixed.e2e.test"), "private_address")
    refused(scene, scene.upstream.url(host="private.e2e.test"), "private_address")
    assert scene.upstream.connections == before


def test_A22_19_a_timeout_in_mid_transfer_leaves_nothing_behind(scene: Scene) -> None:
    net = scene.stage.admin("/api/system/net")["data"]
    opened = set(scene.upstream.open)
    for path, reason in (("/stall", "body"), ("/silent", "first_byte")):
        outcome = scene.stage.call(scene.upstream.url(path), timeout=600)
        assert code_of(outcome) == ("NET_TIMEOUT", reason)
    until(lambda: scene.upstream.open <= opened, what="closing what was cut off")
    now = scene.stage.admin("/api/system/net")["data"]
    assert now["in_flight"] == 0
    assert now["idle_connections"] <= max(1, net["idle_connections"])
    assert scene.stage.call(scene.upstream.url())["status"] == 200


def test_A22_20_json_is_parsed(scene: Scene) -> None:
    outcome = scene.stage.call(scene.upstream.url("/echo?json"))
    assert outcome["json"]["target"] == "/echo?json"
    assert list(outcome["json"]) == ["method", "target", "headers", "body"], "the order of keys is the upstream's"


def test_A22_21_json_that_is_none_throws(scene: Scene) -> None:
    outcome = scene.stage.call(scene.upstream.url("/invalid"))
    assert outcome["status"] == 200
    assert outcome["text"] == '{"a":'
    assert outcome["jsonError"]["name"] == "SyntaxError"


def test_A22_22_proxies_of_the_environment_are_not_used(scene: Scene) -> None:
    assert scene.stage.environment["HTTPS_PROXY"] == scene.trap.url
    assert scene.stage.call(scene.upstream.url())["status"] == 200
    assert scene.stage.call(scene.plain.url(host="other.e2e.test"))["status"] == 200
    assert scene.stage.json("fetch", scene.upstream.url(), "--app", "probe")["status"] == 200
    assert not scene.trap.visited()


def test_A22_23_gzip_comes_as_it_is(scene: Scene) -> None:
    outcome = scene.stage.call(scene.upstream.url("/gzip"), headers={"Accept-Encoding": "gzip, br"})
    assert bytes(outcome["bytes"]) == GZIPPED
    for reading in ("text", "json"):
        assert (outcome[f"{reading}Error"]["code"], outcome[f"{reading}Error"]["reason"]) == ("NET_ERROR", "decode")
    assert scene.upstream.requests[-1].values("accept-encoding") == ["identity"]


@pytest.mark.parametrize(
    ("number", "origin"),
    [
        (24, "HTTPS://API.e2e.TEST:{port}"),
        (25, "https://api.e2e.test.:{port}"),
        (26, "https://API.E2E.TEST.:0{port}"),
    ],
)
def test_A22_24_25_26_every_spelling_of_a_host_is_one_host(scene: Scene, number: int, origin: str) -> None:
    outcome = scene.stage.call(origin.format(port=scene.upstream.port) + "/echo")
    assert outcome["status"] == 200, outcome
    assert outcome["url"] == scene.upstream.url()
    assert scene.upstream.requests[-1].values("host") == [f"api.e2e.test:{scene.upstream.port}"]
    assert set(scene.upstream.sni) <= {"api.e2e.test"}


def test_A22_26_the_default_port_said_or_not_is_one_port(scene: Scene) -> None:
    spellings = ("https://api.e2e.test/x", "https://API.E2E.TEST.:443/x", "https://api.e2e.test:/x")
    rows = []
    for url in spellings:  # granted, but not at a loopback address
        rows.append(scene.stage.row(refused(scene, url, "private_address")["callId"]))
    assert {(row["host"], row["port"], row["path"], row["ruleId"]) for row in rows} == {
        ("api.e2e.test", 443, "/x", rows[0]["ruleId"])
    }


def test_A22_27_what_a_response_is_made_of(scene: Scene) -> None:
    outcome = scene.stage.call(scene.upstream.url("/text"))
    assert outcome["text"] == "gr\u00fc\u00dfe \u2713\ufffd"
    outcome = scene.stage.call(scene.upstream.url("/many"))
    assert (outcome["headers"]["x-many"], outcome["headers"]["set-cookie"]) == ("1", "a=1")
    assert (outcome["headersAll"]["x-many"], outcome["headersAll"]["set-cookie"]) == (["1", "2"], ["a=1", "b=2"])
    outcome = scene.stage.call(scene.upstream.url("/status/404"))
    assert (outcome["status"], outcome["ok"], outcome["text"]) == (404, False, "as asked")


def test_A22_28_a_request_body_above_1_mib_is_refused_before_anything_is_sent(scene: Scene) -> None:
    assert scene.stage.call(scene.upstream.url("/status/200"), method="POST", bodyOf=MIB)["status"] == 200
    assert len(scene.upstream.requests[-1].body) == MIB
    connections = scene.upstream.connections
    refused(scene, scene.upstream.url(), "request_body", code="NET_SIZE", method="POST", bodyOf=MIB + 1)
    assert scene.upstream.connections == connections


def test_what_calls_share_is_used_up_by_the_first(scene: Scene, crowd: tuple[str, ...]) -> None:
    scene.stage.fazt("limits", "set", "net.budget", "1000", "--app", "five")
    calls = [{"url": scene.upstream.url("/silent")}, {"url": scene.upstream.url()}]
    scene.stage.settle()
    spent = scene.stage.calls(*calls, app="five")
    assert code_of(spent[0]) == ("NET_TIMEOUT", "first_byte")
    assert code_of(spent[1]) == ("NET_BUDGET", "net_budget_exhausted")


def test_every_counted_call_has_one_row_whatever_became_of_it(scene: Scene) -> None:
    scene.stage.deploy("counted")
    scene.stage.fazt("net", "allow", scene.upstream.origin(), "--app", "counted", *LOOPBACK)
    scene.stage.settle()
    outcomes = scene.stage.calls(
        {"url": scene.upstream.url("/status/500?secret=1")},
        {"url": "https://user:pass@api.e2e.test/"},
        {"url": scene.upstream.url("/chain/1")},
        {"url": scene.upstream.url("/stall"), "options": {"timeout": 200}},
        {"url": scene.upstream.url(), "options": {"method": "CONNECT"}},
        {"url": scene.upstream.url(), "options": {"body": 7}},
        app="counted",
    )
    rows = until(lambda: len(found := scene.stage.rows("--app", "counted")) == 6 and found, what="six rows")[::-1]
    assert [(row["status"], row["code"], row["reason"]) for row in rows] == [
        (500, None, None),
        (None, "NET_BLOCKED", "userinfo"),
        (200, None, None),
        (200, "NET_TIMEOUT", "body"),
        (None, "NET_ERROR", "bad_option"),
        (None, "NET_LIMIT", "calls_exceeded"),
    ]
    assert [row["callId"] for row in rows if row["code"]] == [one["callId"] for one in outcomes if "callId" in one]
    assert {row["door"] for row in rows} == {"functions"}
    assert rows[2]["redirects"] == [{"status": 302, "url": scene.upstream.url("/chain/0")}]
    assert "secret" not in str(rows)
    assert "pass" not in str(rows)


def schema_of(stage: Stage) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = stage.admin("/api/system/limits/schema")["data"]
    return found


def test_S1_every_limit_says_what_it_is(scene: Scene) -> None:
    schema = schema_of(scene.stage)
    assert schema == scene.stage.json("limits", "schema")
    for fields in schema.values():
        for about in fields.values():
            assert about["label"]
            assert about["desc"]
            assert isinstance(about["read_only"], bool)


def test_S2_ranges_are_enforced(scene: Scene) -> None:
    schema = schema_of(scene.stage)
    assert all(
        about["min"] < about["max"] for group in ("storage", "runtime", "net") for about in schema[group].values()
    )
    for name, about in schema["net"].items():
        for wrong in (about["min"] - 1, about["max"] + 1):
            said = scene.stage.fazt("limits", "set", f"net.{name}", "--", str(wrong), expect=1)
            assert str(about["min"]) in said.err
            assert str(about["max"]) in said.err


def test_S3_what_is_read_only_cannot_be_set(scene: Scene) -> None:
    for group, fields in schema_of(scene.stage).items():
        for name, about in fields.items():
            assert about["read_only"] is (group in ("hardware", "capacity")), name
    scene.stage.fazt("limits", "set", "hardware.cpu_cores", "4", expect=1)
    scene.stage.fazt("limits", "set", "capacity.users", "4", expect=1)


def test_S4_limits_are_nested_by_group(scene: Scene) -> None:
    limits = scene.stage.admin("/api/system/limits")["data"]
    assert set(limits) == {"hardware", "storage", "runtime", "capacity", "net"}
    shown = scene.stage.json("limits", "show")
    for measured in (limits, shown):  # when each process started
        measured["hardware"].pop("available_ram")
    assert limits == shown
    schema = schema_of(scene.stage)
    assert schema["hardware"].pop("available_ram")
    assert {group: set(values) for group, values in limits.items()} == {
        group: set(fields) for group, fields in schema.items()
    }
    assert limits["net"]["max_calls"] == 5
    assert limits["net"]["max_redirects"] == 3
    assert limits["net"]["max_response"] == MIB


def test_S5_the_schema_says_no_more_than_it_knows(scene: Scene) -> None:
    for fields in schema_of(scene.stage).values():
        for about in fields.values():
            assert {"label", "desc", "read_only"} <= set(about) <= {"label", "desc", "unit", "min", "max", "read_only"}
            assert about.get("unit") != ""
            assert ("min" in about) == ("max" in about)


def test_a_neighbour_is_answered_while_calls_wait(scene: Scene, crowd: tuple[str, ...]) -> None:
    with ThreadPoolExecutor(5) as pool:
        waiting = held(scene, pool, *["three"] * 5)
        try:
            assert scene.stage.call(scene.upstream.url(), app="four")["status"] == 200
            assert scene.stage.ask("POST", "/api/calls", app="four", body=[]).json == []
        finally:
            scene.upstream.go.set()
        assert [call.result()["status"] for call in waiting] == [200] * 5
