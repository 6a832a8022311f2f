"""F42: one canonical path, made before any decision."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.server.answers import RefusalError
from fazt.server.paths import NEVER_STATIC, SitePath, canonical

CANARIES = (b"PRIVATE", b"SECRET SOURCE", b"WORKER", b"MANIFEST", b"DOTFILE")

HIDDEN = [
    f"{lead}{name}"
    for lead in ("/", "//", "/./", "/a/../", "/%2e/", "/a/%2e%2e/", "/a/.%2E/", "///.//", "/docs/../", "/%61/../")
    for name in (
        "private/x",
        "Private/x",
        "PRIVATE/x",
        "%70rivate/x",
        "private%2fx",
        "private%2Fx",
        "private%5cx",
        "private\\x",
        "private//x",
        "private/./x",
        "private/y/../x",
        "private/",
        "private",
        "private/index.html",
        "%2570rivate/x",
        "private%00/x",
        "private;/x",
        "private%3b/x",
        "private/x%00.html",
        "private/x/",
        "workers/job.js",
        "WORKERS/job.js",
        "manifest.json",
        "Manifest.JSON",
        "%6danifest.json",
        ".env",
        "%2eenv",
        "docs/../.env",
        "API/main.js",
        "Api/main.js",
        "%41pi/main.js",
        "api%2fmain.js",
        "api\\main.js",
        "_app/hello/private/x",
    )
]


def test_F42_nothing_hidden_is_ever_a_file(server):
    for path in HIDDEN:
        answer = server.get(path)
        assert answer.status in (301, 400, 404), path
        assert not any(canary in answer.body for canary in CANARIES), path
    assert server.runtime.calls == []


@pytest.mark.parametrize(
    "path",
    ["/api/main.js", "//api/main.js", "/./api/main.js", "/x/../api/main.js", "/%61pi/main.js", "/api//main.js", "/api"],
)
def test_F42_every_path_under_api_runs_the_handler(server, path):
    answer = server.get(path)
    assert answer.status == 200
    assert answer.json["path"] in ("/api/main.js", "/api")
    assert b"SECRET SOURCE" not in answer.body


@pytest.mark.parametrize(
    "path",
    ["/../private/x", "/..", "/%2e%2e/x", "/%", "/%4", "/%zz", "/%ff", "/%c0%af", "/%25%32%66", "/a%252fb", "/%0a"],
)
def test_F42_a_path_with_two_readings_is_refused(server, path):
    assert server.get(path).status == 400
    with pytest.raises(RefusalError) as refused:
        canonical(path.encode())
    assert refused.value.code == "BAD_PATH"


def test_bytes_beyond_ascii_on_the_wire_are_refused(server):
    assert b" 400 " in server.raw(b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: hello.localhost\r\n\r\n").split(b"\r\n")[0]


@pytest.mark.parametrize(
    ("raw", "text", "slash"),
    [
        (b"/", "/", False),
        (b"//", "/", False),
        (b"/a", "/a", False),
        (b"/a/", "/a", True),
        (b"/a/.", "/a", True),
        (b"/a/b/..", "/a", True),
        (b"/a//b/./c", "/a/b/c", False),
        (b"/a%20b", "/a b", False),
        (b"/caf%C3%A9", "/caf\u00e9", False),
        (b"/100%25", "/100%", False),
        (b"/a;b=c", "/a;b=c", False),
        (b"/...", "/...", False),
    ],
)
def test_canonical_forms(raw, text, slash):
    assert canonical(raw) == SitePath(text, slash)


@given(st.text(alphabet="ab./%2fF5cCeE0PpivtrRAI\\;é ", max_size=40))
def test_F42_property_one_reading_only(text):
    try:
        path = canonical(b"/" + text.encode())
    except RefusalError:
        return
    parts = path.parts
    assert all(part not in ("", ".", "..") and "/" not in part and "\\" not in part for part in parts)
    assert canonical(path.encoded.encode()) == SitePath(path.text)
    assert not path.encoded.startswith("//")
    name = path.file_name
    if name:
        assert name.split("/")[0].casefold() not in NEVER_STATIC
        assert not any(part.startswith(".") for part in name.split("/"))


def test_a_request_for_a_file_with_special_characters_finds_it(server):
    assert server.get("/caf%C3%A9%20men%C3%BC.txt").body == b"menu"
    assert server.get("/100%25.txt").body == b"percent"
