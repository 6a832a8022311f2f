"""Who answers: names route, ids decide; no trust in hosts, peers or prefixes."""

from __future__ import annotations

import pytest

from fazt.functions.model import AppResponse
from fazt.server.answers import RefusalError
from fazt.server.hosting import Peer, ToAdmin, ToApp, host_of, peer_of, route
from fazt.server.paths import SitePath, canonical

LOCAL = Peer("127.0.0.1", False)
FAR = Peer("192.0.2.7", False)


def go(host: str, path: str, *, peer: Peer = LOCAL, path_routing: bool = False) -> ToApp | ToAdmin | None:
    try:
        return route(host, canonical(path.encode()), peer=peer, path_routing=path_routing)
    except RefusalError as refusal:
        assert refusal.status == 404
        return None


def test_host_names_an_app_whatever_its_case_port_and_trailing_dot(server):
    for host in ("hello.localhost", "HELLO.localhost:1234", "hello.LocalHost.", f"hello.localhost:{server.port}"):
        assert server.get("/about.html", host=host).body == b"about"


def test_unknown_and_nested_names_are_404(server):
    for host in ("nobody.localhost", "a.hello.localhost", "-.localhost"):
        assert server.get("/", host=host).status == 404


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b"host", b"a"), (b"host", b"b")],
        [(b"host", b"")],
        [(b"host", b"a b")],
        [(b"host", b"a/b")],
        [(b"host", b"user@hello.localhost")],
        [(b"host", b"hello.localhost:port")],
        [(b"host", "h\u00e9llo.localhost".encode())],
        [(b"host", b"..localhost")],
    ],
)
def test_a_request_names_exactly_one_host(fields):
    with pytest.raises(RefusalError) as refused:
        host_of(fields)
    assert refused.value.status == 400


def test_F53_app_paths_are_for_clients_of_this_machine_only():
    assert go("localhost", "/_app/hello/x") == ToApp("hello", canonical(b"/x"), "/_app/hello")
    assert go("127.0.0.1", "/_app/hello/") == ToApp("hello", SitePath("/", True), "/_app/hello")
    assert go("localhost", "/_app/hello/x", peer=FAR) is None
    assert go("localhost", "/_app/hello/x", peer=Peer("127.0.0.1", True)) is None
    assert go("evil.example", "/_app/hello/x") is None  # a page that points its own name at this machine
    assert go("localhost", "/_app/hello/x", peer=Peer("", False)) is None
    assert isinstance(go("evil.example", "/_app/hello/x", peer=FAR, path_routing=True), ToApp)


@pytest.mark.parametrize(
    "name", ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Anything", "Forwarded", "Via", "X-Real-IP"]
)
def test_F53_a_proxy_in_between_makes_nobody_local(server, name):
    assert server.get("/_app/hello/about.html", host="localhost").body == b"about"
    answer = server.get("/_app/hello/about.html", host="localhost", headers={name: "127.0.0.1"})
    assert answer.status == 404
    assert b"about" not in answer.body


def test_F53_path_routing_is_a_switch(start):
    with start(path_routing=True) as server:
        answer = server.get("/_app/hello/about.html", host="example.com", headers={"X-Forwarded-For": "192.0.2.1"})
        assert answer.body == b"about"


def test_peers_are_told_apart():
    assert peer_of(("127.8.9.10", 1), []).local
    assert peer_of(("::1", 1), []).local
    assert peer_of(("::ffff:127.0.0.1", 1), []).local
    assert not peer_of(("::ffff:10.0.0.1", 1), []).local
    assert not peer_of(("10.0.0.1", 1), []).local
    assert not peer_of(None, []).local
    assert not peer_of(("127.0.0.1", 1), [(b"via", b"1.1 x")]).local


def test_F41_the_id_decides_and_the_name_only_routes(server):
    server.get("/api/x")
    server.get("/_app/fazt_app_hello0000000/api/x", host="localhost")
    server.get("/_app/hello/api/x", host="localhost")
    assert [app for app, _ in server.runtime.calls] == ["fazt_app_hello0000000"] * 3
    assert [request.path for _, request in server.runtime.calls] == ["/api/x"] * 3
    # files are found by the id as well
    assert server.get("/_app/fazt_app_hello0000000/about.html", host="localhost").body == b"about"


def test_F41_a_name_that_moves_takes_nothing_along(start):
    with start() as server:
        server.sites.put("moving", "fazt_app_old000000000", {"index.html": b"old", "api/main.js": b""})
        server.get("/api/x", host="moving.localhost")
        server.sites.put("moving", "fazt_app_new000000000", {"index.html": b"new", "api/main.js": b""})
        server.get("/api/x", host="moving.localhost")
        assert [app for app, _ in server.runtime.calls] == ["fazt_app_old000000000", "fazt_app_new000000000"]


def test_the_root_of_an_app_path_gets_its_slash(server):
    answer = server.get("/_app/hello?q=1", host="localhost")
    assert (answer.status, answer.headers["location"]) == (301, "/_app/hello/?q=1")
    assert server.get("/_app/hello/", host="localhost").body.startswith(b"<!doctype html>")
    assert server.get("/_app/hello/docs/", host="localhost").headers["location"] == "/_app/hello/docs"


def test_an_app_under_a_path_does_not_speak_for_the_origin_it_shares(server):
    fields = (("service-worker-allowed", "/"), ("clear-site-data", '"*"'), ("x-kept", "1"))
    server.runtime.outcomes["x"] = AppResponse(200, fields, b"")
    own = server.get("/api/x").headers
    shared = server.get("/_app/hello/api/x", host="localhost").headers
    assert {"service-worker-allowed", "clear-site-data", "x-kept"} <= set(own)
    assert "x-kept" in shared
    assert not {"service-worker-allowed", "clear-site-data"} & set(shared)


def test_F60_a_404_has_its_status_and_echoes_nothing(server):
    for host, path in (
        ("<b>x.localhost", "/"),
        ("nobody.localhost", "/<script>"),
        ("hello.localhost", "/%3Cscript%3E"),
    ):
        answer = server.get(path, host=host)
        assert answer.status in (400, 404)
        assert answer.headers["content-type"].startswith("application/json")
        assert b"script" not in answer.body
        assert b"<" not in answer.body
        assert b"nobody" not in answer.body


def test_absolute_targets_and_odd_methods(server):
    absolute = b"GET http://%s/about.html HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"
    nobody = server.raw(absolute % (b"nobody.localhost", b"nobody.localhost")).split(b"\r\n")[0]
    # which of two different hosts is meant is not for guessing (stricter than RFC 9112 section 3.2.2)
    two_hosts = server.raw(absolute % (b"other.example", b"nobody.localhost")).split(b"\r\n")[0]
    assert b" 404 " in nobody or b" 400 " in nobody
    assert b" 400 " in two_hosts
    assert b" 405 " in server.raw(b"TRACE /api/x HTTP/1.1\r\nHost: hello.localhost\r\n\r\n").split(b"\r\n")[0]
    assert server.runtime.calls == []
