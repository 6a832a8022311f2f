"""`fazt breaker`: what is left alone, opened and closed by hand."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path

import pytest
from tests.cli.conftest import Fazt
from tests.cli.test_serve import get, serving
from tests.cli.upstream import Upstream

from fazt.core.breaker import NONE, Deadlines, Key
from fazt.stores.sqlite.breakers import FILE, Breakers


def test_nothing_is_left_alone_at_first(fazt: Fazt) -> None:
    assert fazt("breaker", "show").out == "Nothing is left alone: every breaker is closed.\n"
    assert fazt.json("breaker", "show") == []


def test_open_show_close(fazt: Fazt) -> None:
    opened = fazt("breaker", "open", "API.Example.com", "--seconds", "900", "--reason", "they are moving")
    assert opened.out.startswith("The breaker of host api.example.com is open until 20")
    (row,) = fazt.json("breaker", "show")
    assert {key: row[key] for key in ("kind", "name", "role", "state", "cause", "reason")} == {
        "kind": "host",
        "name": "api.example.com",
        "role": "",
        "state": "open",
        "cause": "manual",
        "reason": "they are moving",
    }
    assert 0 < row["remainingMs"] <= 900_000
    assert row["actor"].startswith("cli")
    shown = fazt("breaker", "show").out.splitlines()
    assert shown[0].split() == ["Kind", "Name", "Role", "State", "Cause", "Left", "Reason", "By", "Since"]
    assert shown[1].split()[:5] == ["host", "api.example.com", "-", "open", "manual"]
    assert fazt("breaker", "close", "api.example.com").out == "The breaker of host api.example.com is closed\n"
    assert fazt.json("breaker", "show") == []
    again = fazt("breaker", "close", "api.example.com")
    assert "no process had told that it was open" in again.err
    assert stat.S_IMODE((fazt.data / FILE).stat().st_mode) == 0o600


def test_hosts_roles_and_services(fazt: Fazt) -> None:
    fazt("breaker", "open", "bücher.example", "--role", "artifact", "--seconds", "60")
    fazt("breaker", "open", "--service", "crossref")
    fazt("breaker", "open", "plain.example")
    everything = [(row["kind"], row["name"], row["role"]) for row in fazt.json("breaker", "show")]
    assert everything == [
        ("host", "plain.example", ""),
        ("host", "xn--bcher-kva.example", "artifact"),
        ("service", "crossref", ""),
    ]
    for options, count in (
        (["--host", "BÜCHER.example"], 1),
        (["--service", "crossref"], 1),
        (["--role", "artifact"], 1),
        (["--host", "plain.example", "--role", "artifact"], 0),
        (["--host", "crossref.example"], 0),
    ):
        assert len(fazt.json("breaker", "show", *options)) == count, options
    closed = fazt.json("breaker", "close", "--service", "crossref")
    assert closed == {"kind": "service", "name": "crossref", "role": "", "state": "closed", "wasOpen": True}
    assert len(fazt.json("breaker", "show")) == 2


def test_what_processes_found_out_is_shown(fazt: Fazt) -> None:
    fazt("breaker", "show")
    with Breakers.open(fazt.data) as process:
        process.publish(Key("host", "down.example"), NONE, Deadlines(open=160.0), 100.0)
        process.publish(Key("host", "slow.example"), NONE, Deadlines(cool=110.0), 100.0)
        process.publish(Key("host", "tried.example"), NONE, Deadlines(open=99.0), 100.0)
        process.publish(Key("host", "over.example"), NONE, Deadlines(cool=99.0), 100.0)
        process.flush()
    found = {row["name"]: (row["state"], row["cause"]) for row in fazt.json("breaker", "show")}
    assert found == {
        "down.example": ("open", "failures"),
        "slow.example": ("open", "cool_down"),
        "tried.example": ("half_open", None),
    }
    assert "half open" in fazt("breaker", "show", "--host", "tried.example").out
    assert fazt.json("breaker", "close", "down.example")["wasOpen"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["open"], "either a host or a service"),
        (["close"], "either a host or a service"),
        (["open", "a.example", "--service", "s"], "either a host or a service"),
        (["open", "--service", "s", "--role", "r"], "a service has no roles"),
        (["open", "10.0.0.1"], "not a host name"),
        (["open", "https://a.example/"], "not a host name"),
        (["show", "--host", "a b"], "not a host name"),
        (["open", "--service", ""], "--service"),
        (["open", "a.example", "--seconds", "0"], "--seconds"),
        (["open", "a.example", "--seconds", "-5"], "--seconds"),
        (["open", "a.example", "--seconds", "nan"], "--seconds"),
        (["open", "a.example", "--seconds", "1e9"], "--seconds"),
        (["open", "a.example", "--seconds", "soon"], "--seconds"),
    ],
)
def test_what_cannot_be_meant_is_refused(fazt: Fazt, arguments: list[str], said: str) -> None:
    assert said in fazt("breaker", *arguments, expect=1).err
    if (fazt.data / FILE).exists():
        assert fazt.json("breaker", "show") == []


def test_what_a_terminal_would_obey_is_shown_as_text(fazt: Fazt) -> None:
    fazt("breaker", "open", "a.example", "--reason", "\x1b[31mred\x07")
    shown = fazt("breaker", "show").out
    assert "\x1b" not in shown
    assert "\\x1b[31mred" in shown


def test_the_data_directory_may_stand_anywhere(fazt: Fazt) -> None:
    elsewhere = str(fazt.folder / "elsewhere")
    fazt("--data", elsewhere, "breaker", "open", "a.example")
    fazt("breaker", "open", "b.example", "--data", elsewhere)
    assert fazt.json("breaker", "show") == []
    assert [row["name"] for row in fazt.json("breaker", "--data", elsewhere, "show")] == ["a.example", "b.example"]


def test_a_running_server_obeys_and_tells_what_it_measures(fazt: Fazt, upstream: Upstream, tmp_path: Path) -> None:
    (tmp_path / "shop" / "api").mkdir(parents=True)
    (tmp_path / "shop" / "api" / "main.js").write_text(
        f"const url = {json.dumps(upstream.url())}; let said\n"
        "try { said = fazt.net.fetch(url, { timeout: 3000 }).status } catch (e) { said = e.reason }\n"
        "respond(String(said))"
    )
    fazt("app", "deploy", str(tmp_path / "shop"), "--name", "shop")
    fazt("net", "allow", upstream.url(""), "--app", "shop", "--address", "127.0.0.1/32")
    assert "fazt serve" in fazt("net", "stats", "--live", expect=1).err
    (fazt.data / "fazt.toml").write_text('[traffic]\nrate = "100/minute"\nbreaker = true\nconcurrency = 4\n')
    with serving("--json") as (_process, line):
        port = json.loads(line)["port"]
        assert get(port, "/api/x", "shop.localhost") == (200, b"200")
        live = fazt.json("net", "stats", "--live")
        assert live["traffic"]["totals"]["attempts"] == 1
        (limit,) = live["traffic"]["limits"]
        assert (limit["name"], limit["rate"], limit["attempts"]) == ("api.test", "100/minute", 1)
        shown = fazt("net", "stats", "--live").out
        assert "100/minute" in shown
        assert "closed" in shown
        fazt("breaker", "open", "api.test", "--reason", "they are moving")
        deadline = time.monotonic() + 20
        while get(port, "/api/x", "shop.localhost") != (200, b"breaker_open"):
            assert time.monotonic() < deadline
        assert "they are moving" in fazt("net", "stats", "--live").out
        fazt("breaker", "close", "api.test")
        while get(port, "/api/x", "shop.localhost") != (200, b"200"):
            assert time.monotonic() < deadline
    assert fazt("net", "stats", "--live", "--app", "shop", expect=1).err
    assert fazt.json("net", "logs", "--errors")[0]["reason"] == "breaker_open"
