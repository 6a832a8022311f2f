"""`fazt fetch`: one call through the whole pipeline, its shapes, its exit codes, its record."""

from __future__ import annotations

import base64
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Fazt
from tests.cli.upstream import Upstream

LOOPBACK = ("--address", "127.0.0.1/32")
VALUE = b"sk_live_abcdefghijklmnop123"


@pytest.fixture
def granted(fazt: Fazt, upstream: Upstream) -> Fazt:
    fazt("net", "allow", upstream.url(""), *LOOPBACK)
    return fazt


def test_a_response_of_any_status_is_success_and_its_body_comes_as_it_was(granted: Fazt, upstream: Upstream) -> None:
    assert granted("fetch", upstream.url("/echo")).json["method"] == "GET"
    assert granted("fetch", upstream.url("/binary")).raw == b"\xff\x00\xfe"
    done = granted("fetch", upstream.url("/status/503"))
    assert done.err == "status 503\n"
    assert done.json["path"] == "/status/503"


def test_the_document_has_the_agreed_shape(granted: Fazt, upstream: Upstream) -> None:
    found = granted.json("fetch", upstream.url("/twice?q=1"))
    assert list(found) == ["status", "ok", "url", "headers", "headersAll", "body", "callId", "redirects"]
    assert (found["status"], found["ok"], found["url"]) == (200, True, upstream.url("/twice?q=1"))
    assert found["headers"]["x-many"] == "1"
    assert found["headersAll"]["x-many"] == ["1", "2"]
    assert found["body"] == "plain"
    assert found["callId"].startswith("c_")
    binary = granted.json("fetch", upstream.url("/binary"))
    assert "body" not in binary
    assert base64.b64decode(binary["bodyBase64"]) == b"\xff\x00\xfe"


def test_method_header_fields_and_body(granted: Fazt, upstream: Upstream, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"from a file")
    url = upstream.url("/echo")
    assert granted("fetch", url, "-d", "text").json["method"] == "POST"
    assert granted("fetch", url, "-d", "text", "-X", "put").json["method"] == "PUT"
    assert granted("fetch", "-d", f"@{tmp_path / 'body'}", url).json["body"] == "from a file"
    assert granted("fetch", url, "-d", "@-", stdin=b"from\nstdin\n").json["body"] == "from\nstdin\n"
    found = granted("fetch", url, "-H", "X-One: 1", "-H", "x-two:2").json["headers"]
    assert (found["x-one"], found["x-two"]) == ("1", "2")
    assert "cannot read the body" in granted("fetch", url, "-d", "@/no/such/file", expect=1).err


def test_include_and_output(granted: Fazt, upstream: Upstream, tmp_path: Path) -> None:
    shown = granted("fetch", upstream.url("/twice"), "-i").out
    assert shown.startswith("HTTP/1.1 200 OK\n")
    assert shown.endswith("\n\nplain")
    where = tmp_path / "out"
    assert granted("fetch", upstream.url("/binary"), "-o", str(where)).raw == b""
    assert where.read_bytes() == b"\xff\x00\xfe"
    found = granted.json("fetch", upstream.url("/binary"), "-o", str(where))
    assert "body" not in found
    assert "bodyBase64" not in found
    where.unlink()
    granted("fetch", "https://elsewhere.test/", "-o", str(where), expect=2)
    assert not where.exists()


def test_a_refusal_ends_with_2_and_names_the_call(granted: Fazt, upstream: Upstream) -> None:
    done = granted("fetch", "https://elsewhere.test/", "--json", expect=2)
    error = done.json["error"]
    assert list(error) == ["code", "reason", "message", "retryable", "retryAfter", "callId"]
    assert (error["code"], error["reason"], error["retryable"]) == ("NET_BLOCKED", "host_not_granted", False)
    assert f"fazt explain {error['callId']}" in done.err
    text = granted("fetch", "https://elsewhere.test/", expect=2)
    assert text.raw == b""
    assert text.err.startswith("refused: NET_BLOCKED (host_not_granted): ")
    granted("net", "allow", "https://metadata.test", *LOOPBACK)
    assert granted.json("fetch", "https://metadata.test/", expect=2)["error"]["reason"] == "private_address"
    assert granted.json("fetch", "https://user:pw@api.test/", expect=2)["error"]["reason"] == "userinfo"


def test_failures_of_the_network_are_coded_too(fazt: Fazt, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    fazt("net", "allow", "https://api.test:1", *LOOPBACK)
    assert fazt.json("fetch", "https://api.test:1/", expect=2)["error"]["reason"] == "connect_failed"
    assert fazt("fetch", "https://api.test:1/", expect=2).err.startswith("failed: NET_ERROR (connect_failed)")
    monkeypatch.delenv("FAZT_CA_FILE")
    fazt("net", "allow", upstream.url(""), *LOOPBACK)
    assert fazt.json("fetch", upstream.url(), expect=2)["error"]["reason"] == "tls_failed"
    assert fazt("fetch", upstream.url(), "--ca-file", str(upstream.ca)).json["method"] == "GET"
    assert "does not exist" in fazt("fetch", upstream.url(), "--ca-file", "/no/such.pem", expect=1).err


def test_redirects_are_followed_under_the_same_rules(granted: Fazt, upstream: Upstream) -> None:
    found = granted.json("fetch", upstream.url(f"/to?url={upstream.url('/echo')}"))
    assert found["url"] == upstream.url("/echo")
    assert found["redirects"] == [{"status": 302, "url": upstream.url("/echo")}]
    refused = granted.json("fetch", upstream.url(f"/to?url={upstream.url('/echo', 'other.test')}"), expect=2)
    assert refused["error"]["reason"] == "host_not_granted"
    assert len(upstream.requests) == 3


def test_an_app_is_judged_by_its_own_rules_and_an_unknown_one_has_none(granted: Fazt, upstream: Upstream) -> None:
    granted("net", "allow", upstream.url("", "other.test"), *LOOPBACK, "--app", "shop")
    url = upstream.url("/echo", "other.test")
    assert granted("fetch", url, "--app", "shop").json["path"] == "/echo"
    assert granted.json("fetch", url, expect=2)["error"]["reason"] == "host_not_granted"
    refused = granted.json("fetch", upstream.url(), "--app", "nobody", expect=2)
    assert (refused["error"]["code"], refused["error"]["reason"]) == ("NET_BLOCKED", "host_not_granted")
    assert [app["name"] for app in granted.json("app", "list")] == ["shop"]


def test_a_secret_goes_along_and_does_not_come_back(granted: Fazt, upstream: Upstream) -> None:
    granted("secret", "set", "KEY", "--domain", "api.test", stdin=VALUE)
    done = granted("fetch", upstream.url("/echo"), "--auth", "KEY")
    assert VALUE not in done.raw
    assert upstream.requests[0]["headers"]["authorization"] == f"Bearer {VALUE.decode()}"  # type: ignore[index]
    assert granted.json("fetch", upstream.url(), "--auth", "NONE", expect=2)["error"]["reason"] == "secret_unknown"
    (row, *_) = granted.json("net", "logs", "--domain", "api.test", "-n", "2")[1:]
    assert (row["auth"], row["scrubbed"]) == ("KEY", 1)


def test_the_record_is_written_before_the_command_ends(granted: Fazt, upstream: Upstream) -> None:
    call = granted.json("fetch", upstream.url("/status/404?token=hidden"))["callId"]
    (row,) = granted.json("net", "logs")
    assert row["callId"] == call
    assert (row["door"], row["app"], row["method"], row["status"], row["code"]) == ("cli", "", "GET", 404, None)
    assert (row["host"], row["port"], row["path"]) == ("api.test", upstream.port, "/status/404")
    assert "hidden" not in str(granted.files())


def test_a_time_limit_is_a_number_above_zero(granted: Fazt, upstream: Upstream) -> None:
    assert granted("fetch", upstream.url(), "--timeout", "5000").json["method"] == "GET"
    granted("fetch", upstream.url(), "--timeout", "0", expect=1)


def test_an_interrupted_call_ends_with_130_and_is_recorded(granted: Fazt, upstream: Upstream) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "fazt", "fetch", upstream.url("/slow")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert upstream.arrived.wait(20)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        upstream.go_on.set()
        process.kill()
        process.communicate()
    assert (process.returncode, out, err.strip()) == (130, b"", b"interrupted")
    (row,) = granted.json("net", "logs")
    assert (row["code"], row["reason"], row["path"]) == ("NET_TIMEOUT", "aborted", "/slow")


def test_on_a_terminal_nothing_of_a_body_steers_it(
    granted: Fazt, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fazt.cli import invoke, output
    from fazt.functions.model import AppResponse

    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    output.print_body(b"\x1b[31mred\x1b[0m\xc2\x9b\tok\r\n")
    assert capsys.readouterr().out == "\\x1b[31mred\\x1b[0m\\x9b\tok\n"
    output.print_body(b"\xff\x00")
    assert "-o FILE" in capsys.readouterr().err
    answer = AppResponse(200, (("x-title", "\x9bJ"),), b"\x1b]0;title\x07answer")
    assert invoke._say(answer, as_json=False, include=True) == 0
    assert capsys.readouterr().out == "HTTP/1.1 200\nx-title: \\x9bJ\n\n\\x1b]0;title\\x07answer\n"
