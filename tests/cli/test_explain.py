"""`fazt explain`: the fix is run as it is printed, and then this call passes and its siblings don't."""

from __future__ import annotations

import base64
import json
import shlex

import pytest
from tests.cli.conftest import Fazt
from tests.cli.upstream import Upstream

PUBLIC = ("--resolve", "api.example.com=93.184.215.14 www.example.com=93.184.215.14")
URL = "https://api.example.com/v1/orders"


def run(fazt: Fazt, line: str) -> None:
    """Run a fix as it is printed."""
    for command in line.split(" && "):
        words = shlex.split(command)
        assert words[0] == "fazt"
        fazt(*words[1:], stdin=b"a-value-for-a-secret")


def test_the_fix_of_a_url_is_run_and_the_siblings_stay_refused(fazt: Fazt) -> None:
    fazt("net", "allow", "other.example.com", "--app", "hello")
    found = fazt.json("explain", URL, "--app", "hello", *PUBLIC, expect=2)
    assert found["allowed"] is False
    assert found["rule"] is None
    assert [gate["verdict"] for gate in found["gates"] if gate["gate"] == "rule"] == ["refuse"]
    run(fazt, found["fix"])
    after = fazt.json("explain", URL, "--app", "hello", *PUBLIC)
    assert after["allowed"] is True
    assert after["fix"] is None
    assert after["rule"]["host"] == "api.example.com"
    for args in (
        ("https://api.example.com/v1/users", "--app", "hello"),
        ("https://api.example.com/v1", "--app", "hello"),
        (URL, "--app", "hello", "-X", "POST"),
        ("https://www.example.com/v1/orders", "--app", "hello"),
        ("https://api.example.com:8443/v1/orders", "--app", "hello"),
        ("http://api.example.com/v1/orders", "--app", "hello"),
        (URL, "--app", "other"),
        (URL,),
    ):
        assert fazt.json("explain", *args, *PUBLIC, expect=2)["allowed"] is False


def test_the_fix_of_a_call_that_was_made_is_run_and_the_call_passes(fazt: Fazt, upstream: Upstream) -> None:
    fazt("net", "allow", "unrelated.example.com", "--app", "hello")
    url = upstream.url("/echo/deep")
    call = fazt.json("fetch", url, "--app", "hello", "--auth", "KEY", expect=2)["error"]["callId"]
    found = fazt.json("explain", call, expect=2)
    assert found["gates"][0]["gate"] == "record"
    assert "host_not_granted" in found["gates"][0]["detail"]
    run(fazt, found["fix"])
    answer = fazt.json("fetch", url, "--app", "hello", "--auth", "KEY")
    assert answer["status"] == 200
    assert upstream.requests[0]["headers"]["authorization"] == "Bearer a-value-for-a-secret"  # type: ignore[index]
    for sibling in (
        (upstream.url("/echo"), "--app", "hello"),
        (url, "--app", "hello", "-X", "POST"),
        (upstream.url("/echo/deep", "other.test"), "--app", "hello"),
        (url, "--app", "stranger"),
        (url,),
    ):
        fazt("fetch", *sibling, expect=2)
    assert len(upstream.requests) == 1
    now = fazt("explain", call, expect=2)
    assert "the present rules allow it" in now.out
    assert "fix:" not in now.out


def test_a_redirect_that_was_refused_is_explained_at_its_target(fazt: Fazt, upstream: Upstream) -> None:
    fazt("net", "allow", upstream.url(""), "--address", "127.0.0.1/32")
    target = upstream.url("/echo", "other.test")
    call = fazt.json("fetch", upstream.url(f"/to?url={target}"), expect=2)["error"]["callId"]
    found = fazt.json("explain", call, expect=2)
    assert "on redirect 1" in found["gates"][0]["detail"]
    run(fazt, found["fix"])
    assert fazt.json("fetch", upstream.url(f"/to?url={target}"))["status"] == 200


def test_metadata_addresses_are_never_part_of_a_fix(fazt: Fazt, upstream: Upstream) -> None:
    assert fazt.json("explain", "https://metadata.test/", expect=2)["fix"] is None
    fazt("net", "allow", "metadata.test")
    done = fazt("explain", "https://metadata.test/", expect=2)
    assert "private_address: 169.254.169.254 is metadata" in done.out
    assert "fix:" not in done.out


def test_text_shows_every_gate_with_its_verdict(fazt: Fazt) -> None:
    fazt("net", "allow", "api.example.com")
    lines = fazt("explain", URL, *PUBLIC).out.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [
        ["pass", "url"],
        ["pass", "rule"],
        ["skip", "secret"],
        ["skip", "budget"],
        ["skip", "cache"],
        ["skip", "slot"],
        ["skip", "rate"],
        ["pass", "address"],
    ]
    assert lines[-1] == "allowed"


def test_a_name_without_a_rule_is_never_looked_up(fazt: Fazt, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def lookup(host: str, *_: object, **__: object) -> list[object]:
        asked.append(host)
        raise OSError("no network in tests")

    monkeypatch.setattr("socket.getaddrinfo", lookup)
    fazt("explain", URL, expect=2)
    assert asked == []
    fazt("net", "allow", "api.example.com")
    found = fazt.json("explain", URL, expect=2)
    assert asked == ["api.example.com"]
    assert found["gates"][-1]["detail"].startswith("dns_failed")


def test_the_fix_is_for_the_data_directory_that_was_asked(fazt: Fazt) -> None:
    where = str(fazt.folder / "else where")
    found = fazt.json("explain", URL, "--data", where, *PUBLIC, expect=2)
    run(fazt, found["fix"])
    assert fazt.json("explain", URL, "--data", where, *PUBLIC)["allowed"]
    assert not fazt.data.exists()


def test_an_app_that_does_not_exist_yet_can_be_granted_if_its_name_can_be_one(fazt: Fazt) -> None:
    found = fazt.json("explain", URL, "--app", "newcomer", *PUBLIC, expect=2)
    run(fazt, found["fix"])
    assert fazt.json("explain", URL, "--app", "newcomer", *PUBLIC)["allowed"]
    for name in ("Not A Name", "admin", "fazt_app_000000000000"):
        assert fazt.json("explain", URL, "--app", name, *PUBLIC, expect=2)["fix"] is None


def test_more_calls_than_the_limit_is_explained_from_the_record(fazt: Fazt) -> None:
    from fazt.core.record import CallRecord
    from fazt.stores.sqlite.store import Store

    fazt("net", "allow", "api.example.com", "--app", "hello")
    app = fazt.json("app", "list")[0]["id"]
    record = CallRecord("c_00000000000000000006", 1.0, app, "functions", code="NET_LIMIT", reason="calls_exceeded")
    with Store.open(fazt.data) as store:
        store.log.append(record)
        store.log.flush()
    found = fazt.json("explain", record.call_id, expect=2)
    assert found["fix"] == "fazt limits set net.max_calls 6"
    run(fazt, found["fix"])
    assert fazt.json("limits", "show")["net"]["max_calls"] == 6


def test_a_call_that_is_not_there_and_options_that_do_not_fit(fazt: Fazt) -> None:
    assert "the log has no call" in fazt("explain", "c_0123456789abcdef0123", expect=1).err
    assert "its own app" in fazt("explain", "c_0123456789abcdef0123", "--app", "hello", expect=1).err


def test_an_answered_call_is_explained_as_allowed(fazt: Fazt, upstream: Upstream) -> None:
    fazt("net", "allow", upstream.url(""), "--address", "127.0.0.1/32")
    call = fazt.json("fetch", upstream.url("/status/500"))["callId"]
    found = fazt.json("explain", call)
    assert found["allowed"] is True
    assert "answered with 500" in found["gates"][0]["detail"]


def test_a_part_of_an_id_is_not_taken_for_a_url(fazt: Fazt) -> None:
    for what in ("c_0123", "c_", "r_9564f26461a7"):
        told = fazt("explain", what, expect=1).err
        assert "not the whole id" in told
        assert "fazt net logs" in told


def test_a_secret_that_cannot_be_opened_is_told_beside_its_gate(fazt: Fazt, monkeypatch: pytest.MonkeyPatch) -> None:
    fazt("net", "allow", "api.example.com")
    fazt("secret", "set", "KEY", "--domain", "api.example.com", stdin=b"a-long-enough-value")
    args = ("explain", URL, "--auth", "KEY", *PUBLIC)
    assert "cannot open" not in fazt(*args).out
    monkeypatch.setenv("FAZT_SECRETS_KEY", base64.b64encode(bytes(32)).decode())
    told = fazt(*args).out
    assert "cannot open it" in told
    assert "FAZT_SECRETS_KEY" in told


def test_the_numbers_are_those_of_the_door(fazt: Fazt) -> None:
    asked = ("explain", "https://api.x.com/", "--resolve", "api.x.com=93.184.216.34")
    fazt("net", "allow", "api.x.com")
    fazt("net", "allow", "api.x.com", "--app", "shop")
    said = fazt(*asked).out
    assert "it may take 60000 ms" in said and "decided in the call: nothing is kept" in said
    assert "calls of one invocation share" in fazt(*asked, "--app", "shop").out


def test_a_host_that_is_left_alone_is_said_to_be_and_the_fix_is_run(fazt: Fazt) -> None:
    """What rules allow, an open breaker refuses; one of another role is told and refuses nothing here."""
    url = "https://x.example.com/"
    fazt("net", "allow", "x.example.com")
    named = ("--resolve", "x.example.com=93.184.216.34", "--json")
    fazt("breaker", "open", "x.example.com", "--seconds", "600", "--role", "artifact")
    found = json.loads(fazt("explain", url, *named).out)
    assert found["gates"][-1]["gate"] == "breaker"
    assert (found["allowed"], found["gates"][-1]["verdict"]) == (True, "skip")
    fazt("breaker", "open", "x.example.com", "--seconds", "600")
    found = json.loads(fazt("explain", url, *named, expect=2).out)
    assert (found["allowed"], found["gates"][-1]["verdict"]) == (False, "refuse")
    assert "s more" in found["gates"][-1]["detail"]
    fazt(*found["fix"].split()[1:])
    assert json.loads(fazt("explain", url, *named).out)["allowed"] is True
