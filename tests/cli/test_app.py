"""`fazt app` and `fazt env`: deploy, look, invoke, remove."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from tests.cli.conftest import Fazt
from tests.cli.upstream import Upstream

MAIN = """
console.log("called", request.method, request.path);
if (request.path === "/api/throw") throw new Error("on purpose");
if (request.path === "/api/fetch") respond([fazt.net.fetch(request.query.url).status]);
respond(request.path === "/api/teapot" ? 418 : 200, { region: fazt.env.get("REGION"), body: request.body });
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A directory that can be deployed."""
    (tmp_path / "shop" / "api").mkdir(parents=True)
    (tmp_path / "shop" / "api" / "main.js").write_text(MAIN)
    (tmp_path / "shop" / "index.html").write_text("<h1>shop</h1>")
    return tmp_path / "shop"


def test_an_app_from_deploy_to_removal(fazt: Fazt, shop: Path) -> None:
    assert "No apps" in fazt("app", "list").out
    fazt("env", "set", "REGION", "eu-west-1", "--app", "shop")
    deployed = fazt.json("app", "deploy", str(shop), "--name", "shop")
    assert (deployed["name"], deployed["created"], deployed["files"], deployed["handler"]) == ("shop", False, 2, True)
    (listed,) = fazt.json("app", "list")
    assert (listed["id"], listed["deployment"]) == (deployed["id"], deployed["deployment"])
    assert [entry["path"] for entry in fazt.json("app", "files", "shop")] == ["api/main.js", "index.html"]
    about = fazt.json("app", "info", deployed["id"])
    assert about["env"] == ["REGION"]
    assert [change["action"] for change in about["activity"]] == ["app.deploy", "env.set", "app.create"]
    for args in (("list",), ("info", "shop"), ("files", "shop")):
        assert "shop" in fazt("app", *args).out or "api/main.js" in fazt("app", *args).out

    found = fazt.json(
        "app", "invoke", "shop", "/api/orders?x=1", "-H", "content-type: application/json", "-d", '{"a": 1}'
    )
    assert found["status"] == 200
    assert found["body"] == '{"region":"eu-west-1","body":{"a":1}}'
    shown = fazt("app", "invoke", "shop", "/api/teapot", "-i")
    assert shown.out.startswith("HTTP/1.1 418\n")
    assert "called GET /api/teapot" in shown.err
    failed = fazt("app", "invoke", "shop", "/api/throw", "--json", expect=2)
    assert failed.json["error"]["kind"] == "script"
    assert "on purpose" in failed.err

    lines = fazt.json("app", "logs", "shop")
    assert [(line["level"], line["message"]) for line in lines][:2] == [
        ("error", lines[0]["message"]),
        ("info", "called GET /api/throw"),
    ]
    assert "on purpose" in lines[0]["message"]
    assert [line["level"] for line in fazt.json("app", "logs", "shop", "--level", "error")] == ["error"]
    assert "called POST /api/orders" in fazt("app", "logs", "shop").out
    assert len(fazt.json("app", "logs", "shop", "--request", lines[0]["requestId"])) == 2

    assert fazt("app", "remove", "shop").out == f"Removed shop ({deployed['id']})\n"
    assert fazt.json("app", "list") == []
    assert len(fazt.json("app", "logs", deployed["id"])) == 4
    assert "there is no app" in fazt("app", "logs", "shop", expect=1).err


def test_a_call_of_the_handler_is_refused_and_can_be_explained(fazt: Fazt, shop: Path, upstream: Upstream) -> None:
    fazt("app", "deploy", str(shop), "--name", "shop")
    done = fazt("app", "invoke", "shop", f"/api/fetch?url={upstream.url()}", "--json", expect=2)
    error = done.json["error"]
    assert (error["code"], error["reason"]) == ("NET_BLOCKED", "host_not_granted")
    fix = fazt.json("explain", error["callId"], expect=2)["fix"]
    assert "--app shop --method GET --path /echo --address 127.0.0.1/32" in fix
    fazt(*fix.split()[1:])
    assert fazt.json("app", "invoke", "shop", f"/api/fetch?url={upstream.url()}")["body"] == "[200]"
    assert [row["door"] for row in fazt.json("net", "logs", "--app", "shop")] == ["functions", "functions"]


def test_what_cannot_be_deployed_changes_nothing(fazt: Fazt, shop: Path) -> None:
    before = fazt.json("app", "deploy", str(shop), "--name", "shop")["deployment"]
    (shop / "api" / "main.js").write_text("respond(")
    assert "api/main.js" in fazt("app", "deploy", str(shop), "--name", "shop", expect=1).err
    (shop / "api" / "main.js").unlink()
    (shop / "api" / "main.js").symlink_to("/etc/passwd")
    assert "symbolic link" in fazt("app", "deploy", str(shop), "--name", "shop", expect=1).err
    fazt("app", "deploy", str(shop), "--name", "Not A Name", expect=1)
    fazt("app", "deploy", str(shop / "nothing"), "--name", "new", expect=1)
    assert [(app["name"], app["deployment"]) for app in fazt.json("app", "list")] == [("shop", before)]


def test_an_app_without_a_handler_is_not_invoked(fazt: Fazt, shop: Path) -> None:
    fazt("env", "set", "A", "1", "--app", "shop")
    assert "fazt app deploy" in fazt("app", "invoke", "shop", expect=1).err
    fazt("app", "files", "shop")
    assert "begins with /api" in fazt("app", "invoke", "shop", "/index.html", expect=1).err
    assert "would refuse" in fazt("app", "invoke", "shop", "/api/%2f", expect=1).err


def test_removal_asks_on_a_terminal(fazt: Fazt, shop: Path) -> None:
    fazt("env", "set", "A", "1", "--app", "shop")
    assert fazt("app", "remove", "shop", stdin=b"n\n", tty=True, expect=1).raw == b""
    assert len(fazt.json("app", "list")) == 1
    fazt("app", "remove", "shop", "--yes", tty=True)
    fazt("app", "remove", "shop", expect=1)


def test_removal_takes_rules_and_secrets_along_and_the_next_owner_starts_empty(fazt: Fazt) -> None:
    fazt("net", "allow", "api.x.com", "--app", "shop")
    fazt("secret", "set", "KEY", "--domain", "api.x.com", "--app", "shop", stdin=b"a-long-enough-value")
    first = fazt.json("app", "remove", "shop")["id"]
    fazt("env", "set", "A", "1", "--app", "shop")
    assert fazt.json("net", "list") == fazt.json("secret", "list") == []
    assert fazt.json("app", "list")[0]["id"] != first


def test_settings_are_set_listed_and_removed(fazt: Fazt) -> None:
    done = fazt("env", "set", "REGION", "eu-west-1", "--app", "shop")
    assert "created the app shop" in done.err
    fazt("env", "set", "TEXT", "--app", "shop", stdin=b"two\nlines\n")
    fazt("env", "set", "EMPTY", "", "--app", "shop")
    assert fazt.json("env", "list", "--app", "shop") == [
        {"name": "EMPTY", "value": ""},
        {"name": "REGION", "value": "eu-west-1"},
        {"name": "TEXT", "value": "two\nlines"},
    ]
    assert "two\\nlines" in fazt("env", "list", "--app", "shop").out
    fazt("env", "remove", "REGION", "--app", "shop")
    fazt("env", "remove", "REGION", "--app", "shop", expect=1)
    fazt("env", "list", expect=1)
    fazt("env", "list", "--app", "nobody", expect=1)
    fazt("env", "set", "A", "--app", "other", stdin=b"\xff", expect=1)
    assert [app["name"] for app in fazt.json("app", "list")] == ["shop"]
    assert "is a secret" in fazt("env", "set", "API_KEY", "x", "--app", "shop").err


def test_what_is_shown_while_something_goes_on_is_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    from fazt.cli.output import working

    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    with working("deploying ./[/x] [bold] \x1b[31m"):  # a directory may be called so
        pass
    assert "[/x] [bold] \\x1b[31m" in shown.getvalue()
