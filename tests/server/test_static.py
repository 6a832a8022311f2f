"""Files over HTTP (B.11)."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from fazt.server.answers import RefusalError
from fazt.server.paths import canonical
from fazt.server.static import FileEntry, cache_control, content_type, etag, find, matches

ENTRY = FileEntry("a.txt", 1, hashlib.sha256(b"a").hexdigest())


@pytest.mark.parametrize(
    ("path", "body", "kind", "cache"),
    [
        ("/", b"<!doctype html><title>hello</title>", "text/html; charset=utf-8", "no-cache, must-revalidate"),
        (
            "/index.html",
            b"<!doctype html><title>hello</title>",
            "text/html; charset=utf-8",
            "no-cache, must-revalidate",
        ),
        ("/docs", b"docs", "text/html; charset=utf-8", "no-cache, must-revalidate"),
        ("/app.js", b"console.log(1)", "text/javascript; charset=utf-8", "public, max-age=300"),
        ("/assets/app-3f9c2b1a.js", b"hashed", "text/javascript; charset=utf-8", "public, max-age=31536000, immutable"),
        ("/assets/plain.css", b"a{}", "text/css; charset=utf-8", "public, max-age=300"),
        ("/data.bin", b"\x00\x01", "application/octet-stream", "public, max-age=300"),
        ("/empty.txt", b"", "text/plain; charset=utf-8", "public, max-age=300"),
    ],
)
def test_files_and_their_fields(server, path, body, kind, cache):
    answer = server.get(path)
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["content-type"] == kind
    assert answer.headers["cache-control"] == cache
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-length"] == str(len(body))
    head = server.ask("HEAD", path)
    assert head.body == b""
    same = ("content-type", "content-length", "etag", "cache-control")
    assert {name: head.headers[name] for name in same} == {name: answer.headers[name] for name in same}
    again = server.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert again.headers["etag"] == answer.headers["etag"]
    assert server.ask("HEAD", path, headers={"If-None-Match": f"W/{answer.headers['etag']}"}).status == 304


def test_the_etag_is_the_content_and_changes_with_it(server):
    before = server.get("/about.html").headers["etag"]
    server.sites.files["fazt_app_hello0000000"]["about.html"] = b"other"
    try:
        answer = server.get("/about.html", headers={"If-None-Match": before})
        assert (answer.status, answer.body) == (200, b"other")
    finally:
        server.sites.files["fazt_app_hello0000000"]["about.html"] = b"about"


@pytest.mark.parametrize(
    ("field", "hit"),
    [
        ("*", True),
        (etag(ENTRY), True),
        (f"W/{etag(ENTRY)}", True),
        (f'"x", {etag(ENTRY)}', True),
        ('"x"', False),
        ("", False),
        (etag(ENTRY)[1:-1], False),
    ],
)
def test_if_none_match(field, hit):
    assert matches(field, etag(ENTRY)) is hit


def test_a_slash_at_the_end_is_redirected_away(server):
    for path, place in (("/docs/", "/docs"), ("/docs/?a=1&b", "/docs?a=1&b"), ("/a%20b/", "/a%20b"), ("/x/./", "/x")):
        answer = server.get(path)
        assert (answer.status, answer.headers["location"]) == (301, place)


@pytest.mark.parametrize("path", ["//evil.example/", "/%2e/evil.example/", "/.//evil.example/", "///evil.example/"])
def test_a_redirect_never_leaves_the_host(server, path):
    assert server.get(path).headers["location"] == "/evil.example"


def test_single_page_apps_answer_with_their_page_but_for_assets(server):
    for path in ("/", "/deep/link", "/users/jane.doe"):
        assert server.get(path, host="single.localhost").body == b"spa"
    for path in ("/missing.js", "/missing.png", "/private/x", "/workers", "/.env"):
        assert server.get(path, host="single.localhost").status == 404
    assert server.get("/deep/link").status == 404


def test_files_are_read_with_get_and_head_only(server):
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
        answer = server.ask(method, "/about.html")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_a_large_file_arrives_whole(start):
    body = bytes(range(256)) * 20_000
    with start() as server:
        server.sites.put("big", "fazt_app_big000000000", {"big.bin": body})
        assert server.get("/big.bin", host="big.localhost").body == body


def test_a_store_that_fails_is_a_500_without_a_word(start, caplog):
    with start() as server:

        async def broken(_site, _entry):
            raise OSError("/var/lib/fazt/apps.db is gone")
            yield b""

        server.sites.content = broken
        answer = server.get("/about.html")
        assert answer.status == 500
        assert b"apps.db" not in answer.body
        assert "apps.db" in caplog.text


def test_types_do_not_depend_on_the_machine():
    assert content_type("a/b.JS") == "text/javascript; charset=utf-8"
    assert content_type("dir.js/file") == "application/octet-stream"
    assert content_type("noextension") == "application/octet-stream"
    assert cache_control("assets/x-1/plain.txt") == "public, max-age=300"
    assert cache_control("static/app-1.js") == "public, max-age=300"
    assert cache_control("assets/deep/app-1.js").endswith("immutable")
    assert cache_control("assets/page-1.html") == "no-cache, must-revalidate"


@pytest.mark.parametrize("name", ["api/main.js", "private/x", "workers/w.js", "manifest.json", ".git/config", "_app/x"])
def test_F42_find_never_asks_for_what_is_never_static(name):
    async def lookup(path):
        raise AssertionError(f"looked for {path}")

    with pytest.raises(RefusalError) as refused:
        asyncio.run(find(canonical(f"/{name}".encode()), lookup, spa=True))
    assert refused.value.status == 404
