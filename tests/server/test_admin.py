"""The admin API: the token always, the envelope always (A.21, F43, F58)."""

from __future__ import annotations

import pytest

from fazt.core.limits import as_dict, schema
from fazt.server.admin import ENDPOINTS

PATHS = sorted({path for _, path in ENDPOINTS})


@pytest.mark.parametrize("path", [*PATHS, "/api", "/api/nothing", "/api/system", "//api/system/limits", "/%61pi/x"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST.:80", "example.com", "10.0.0.1"])
def test_F43_no_host_is_trusted(server, path, host):
    for token in (None, "", "wrong", "token-for-tests"):
        answer = server.admin("GET", path, token=token, host=host)
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json["error"]["code"] == "UNAUTHORIZED"
        assert set(answer.json) == {"error"}


@pytest.mark.parametrize("value", ["Basic {}", "{}", "Bearer", "Bearer x{}", "Bearer {}x", "Token {}", "Bearer {}\xff"])
def test_F43_only_the_exact_token_opens(server, value):
    from_conftest = "token-for-tests-0123456789abcdef0123456789"
    answer = server.ask(
        "GET", "/api/system/limits", host="localhost", headers={"Authorization": value.format(from_conftest)}
    )
    assert answer.status == 401
    assert from_conftest.encode() not in answer.body


def test_F43_an_app_host_has_no_admin_api(server):
    answer = server.admin("GET", "/api/system/limits", host="hello.localhost")
    assert answer.json["path"] == "/api/system/limits"  # the app's own handler
    assert server.admin("GET", "/_app/hello/api/system/limits").json["path"] == "/api/system/limits"


def test_an_empty_token_opens_nothing(start):
    with start(admin_token="") as server:
        assert server.admin("GET", "/api/system/limits", token="").status == 401
        assert (
            server.ask("GET", "/api/system/limits", host="localhost", headers={"Authorization": "Bearer "}).status
            == 401
        )


def test_F58_limits_in_their_envelope(server, limits):
    answer = server.admin("GET", "/api/system/limits")
    assert answer.json == {"data": as_dict(limits())}
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"].startswith("application/json")


def test_F58_the_schema_enveloped_and_raw(server):
    assert server.admin("GET", "/api/system/limits/schema").json == {"data": schema()}
    assert server.admin("GET", "/api/system/limits/schema?raw=1").json == schema()
    assert "%%" not in server.admin("GET", "/api/system/limits/schema").body.decode()


def test_F58_capacity_is_the_deprecated_alias_of_limits(server):
    answer = server.admin("GET", "/api/system/capacity")
    assert answer.json == server.admin("GET", "/api/system/limits").json
    assert "deprecation" in answer.headers


def test_F58_health(start, limits):
    with start(
        health=lambda: {"database": {"path": "/x"}, "runtime": {"workers": 2}, "net": {"in_flight": 0}}
    ) as server:
        data = server.admin("GET", "/api/system/health").json["data"]
    assert data["status"] == "ok"
    assert data["uptime_seconds"] >= 0
    assert (data["version"], data["mode"]) == ("9.9.9", "production")
    assert data["memory"]["limit_mb"] == limits().hardware.total_ram // 2**20
    assert data["memory"]["used_mb"] > 0
    assert (data["database"], data["runtime"], data["net"]) == ({"path": "/x"}, {"workers": 2}, {"in_flight": 0})


@pytest.mark.parametrize("part", [{"database": {"error": "locked"}}, {"runtime": {"failure": "no worker"}}])
def test_health_says_when_something_is_wrong(start, part):
    with start(health=lambda: {"net": {"in_flight": 1}, **part}) as server:
        assert server.admin("GET", "/api/system/health").json["data"]["status"] == "degraded"


def test_the_cache_of_the_running_process_is_seen_and_cleared(start):
    cleared: list[str | None] = []

    def clear(app: str | None) -> int:
        cleared.append(app)
        return 3

    with start(cache_stats=lambda: {"items": 3, "hits": 1}, clear_cache=clear) as server:
        assert server.admin("GET", "/api/system/cache").json == {"data": {"items": 3, "hits": 1}}
        assert server.admin("DELETE", "/api/system/cache").json == {"data": {"removed": 3}}
        server.admin("DELETE", "/api/system/cache?app=fazt_app_x")
    assert cleared == [None, "fazt_app_x"]


def test_methods_and_unknown_endpoints(server):
    answer = server.admin("POST", "/api/system/limits")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert answer.json["error"]["code"] == "METHOD_NOT_ALLOWED"
    assert server.admin("PUT", "/api/system/cache").headers["allow"] == "DELETE, GET, HEAD"
    assert server.admin("GET", "/api/system/nothing").json["error"]["code"] == "NOT_FOUND"
    head = server.admin("HEAD", "/api/system/limits")
    assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize("path", ["/api/%2fsystem", "/%zz", "/.."])
def test_refusals_on_an_admin_host_keep_the_envelope(server, path):
    answer = server.get(path, host="localhost")
    assert (answer.status, answer.json["error"]["code"]) == (400, "BAD_PATH")


def test_the_rest_of_an_admin_host_says_little(server):
    assert b"fazt is running" in server.get("/", host="localhost").body
    for path in ("/index.html", "/private/x", "/_app", "/_app/"):
        assert server.get(path, host="localhost").status == 404


def test_an_admin_fault_keeps_the_envelope(start):
    def broken() -> dict[str, int]:
        raise RuntimeError("10.0.0.1 /secret/path")

    with start(health=broken) as server:
        answer = server.admin("GET", "/api/system/health")
    assert answer.status == 500
    assert answer.json == {"error": {"code": "INTERNAL", "message": "an internal error"}}
