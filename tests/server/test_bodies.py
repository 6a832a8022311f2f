"""B.2: bodies are read under caps, parsed once, and refused before any handler runs (F39)."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from fazt.server.answers import RefusalError
from fazt.server.bodies import MAX_NESTING, PLAIN_CAP, base_name, parse, query_values

MIB = 1024 * 1024


def post(server, body: bytes, content_type: str | None, **kwargs):
    headers = {"Content-Type": content_type} if content_type else {}
    return server.ask("POST", "/api/x", body=body, headers=headers, **kwargs)


@pytest.mark.parametrize(
    ("body", "content_type", "seen"),
    [
        (b'{"a":[1,2.5,null,"\xc3\xa9"]}', "application/json", {"a": [1, 2.5, None, "\u00e9"]}),
        (b'{"a":1}', "application/problem+json; charset=utf-8", {"a": 1}),
        (b'"text"', "application/json", "text"),
        (b"null", "application/json", None),
        (b"", "application/json", None),
        (b"a=1&b=%C3%A9+x&a=2&c=", "application/x-www-form-urlencoded", {"a": "1", "b": "\u00e9 x", "c": ""}),
        (b"plain \xc3\xa9", "text/plain", "plain \u00e9"),
        (b"plain \xe9", "text/plain; charset=iso-8859-1", "plain \u00e9"),
        (b"<a/>", "application/xml", {"bytes": b"<a/>".hex()}),
        (b"\x00\xff", None, {"bytes": "00ff"}),
    ],
)
def test_bodies_by_their_type(server, body, content_type, seen):
    answer = post(server, body, content_type)
    assert answer.status == 200
    assert answer.json["body"] == seen


@pytest.mark.parametrize(
    "body", [b"{", b"{'a':1}", b"NaN", b"[Infinity]", b"1e999", b"\xff", b"[" * 100_000, b"1" * 5_000, b"{}x"]
)
def test_F39_json_that_is_none_is_a_400_with_a_stable_code(server, body):
    answer = post(server, body, "application/json")
    assert (answer.status, answer.json["code"]) == (400, "BAD_JSON")
    assert server.runtime.calls == []


@pytest.mark.parametrize("pad", [0, 70_000], ids=["on the loop", "on a thread"])
def test_F39_nesting_has_one_limit_wherever_it_is_read(server, pad):
    def nested(depth: int) -> bytes:
        return b" " * pad + b'{"\\"[":' * (depth // 2) + b"[" * (depth - depth // 2) + b'"[[{"' + close(depth)

    def close(depth: int) -> bytes:
        return b"]" * (depth - depth // 2) + b"}" * (depth // 2)

    assert post(server, nested(MAX_NESTING), "application/json").status == 200
    for depth in (MAX_NESTING + 1, 970, 985):
        answer = post(server, nested(depth), "application/json")
        assert (answer.status, answer.json["code"]) == (400, "BAD_JSON")
    flat = json.dumps([[], {}] * 1_000).encode()
    assert post(server, b" " * pad + flat, "application/json").json["body"] == [[], {}] * 1_000


@pytest.mark.parametrize("charset", ["punycode", "idna", "unicode_escape", "utf-7", "hex", "a\0b", "x" * 5_000, "../x"])
def test_F39_a_codec_is_not_a_charset(charset):
    began = time.process_time()
    with pytest.raises(RefusalError) as refused:
        parse(b"a" * 500_000 + b"-b9", f"text/plain; charset={charset}")
    assert (refused.value.status, refused.value.code) == (400, "BAD_TEXT")
    assert time.process_time() - began < 1  # punycode would take many times that


@pytest.mark.parametrize(("kind", "code"), [("text/plain", "BAD_TEXT"), ("multipart/form-data", "BAD_FORM")])
def test_options_without_end_are_not_read(kind, code):
    began = time.process_time()
    with pytest.raises(RefusalError) as refused:
        parse(b"text", kind + ";" * 60_000)
    assert refused.value.code == code
    assert time.process_time() - began < 0.02  # on the loop, where everybody waits


@pytest.mark.parametrize("charset", ["UTF-8", "utf8", "latin1", "windows-1252", "us-ascii", "Shift_JIS", "gb18030"])
def test_charsets_by_their_usual_names(charset):
    assert parse(b"text", f'text/plain; charset="{charset}"').body == "text"


@pytest.mark.parametrize("content_type", ["text/plain; charset=nonsense", "text/plain; charset=zlib", "text/plain"])
def test_F39_text_that_is_none_is_a_400(server, content_type):
    answer = post(server, b"\xff\xfe\xfd", content_type)
    assert (answer.status, answer.json["code"]) == (400, "BAD_TEXT")


def test_F39_header_names_are_lower_case_and_the_first_value_counts(server):
    out = server.raw(
        b"GET /api/x HTTP/1.1\r\nHost: hello.localhost\r\nX-MiXed: one\r\nX-MIXED: two\r\nConnection: close\r\n\r\n"
    )
    seen = json.loads(out.partition(b"\r\n\r\n")[2])
    assert seen["headers"]["x-mixed"] == "one"
    assert all(name == name.lower() for name in seen["headers"])


def test_query_has_the_first_value_of_each_name(server):
    assert server.get("/api/x?a=1&a=2&b=%C3%A9&c").json["query"] == {"a": "1", "b": "\u00e9", "c": ""}


def test_too_many_parameters_are_refused(server):
    assert server.get("/api/x?" + "&".join(f"a{i}" for i in range(1100))).json["code"] == "BAD_QUERY"
    with pytest.raises(RefusalError):
        query_values(b"&".join(b"a%d=1" % i for i in range(1100)))


def test_get_and_head_have_no_body(server):
    answer = server.ask("GET", "/api/x", body=b"{", headers={"Content-Type": "application/json"})
    assert answer.json["body"] is None


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/octet-stream", None])
def test_F39_a_body_over_its_cap_is_a_413_before_the_handler(server, content_type):
    answer = post(server, b"x" * (PLAIN_CAP + 1), content_type)
    assert (answer.status, answer.json["code"]) == (413, "BODY_TOO_LARGE")
    assert answer.headers["connection"] == "close"
    assert server.runtime.calls == []
    assert post(server, b"x" * PLAIN_CAP, "application/octet-stream").status == 200


def test_F39_a_chunked_body_over_its_cap_is_a_413(server):
    head = b"POST /api/x HTTP/1.1\r\nHost: hello.localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    piece = b"%x\r\n" % 65_536 + b"x" * 65_536 + b"\r\n"
    out = server.raw(head + piece * 17 + b"0\r\n\r\n")
    assert b" 413 " in out.split(b"\r\n")[0]
    assert server.runtime.calls == []


def test_an_announced_length_over_the_cap_is_refused_without_reading(server):
    out = server.raw(
        b"POST /api/x HTTP/1.1\r\nHost: hello.localhost\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
    )
    assert out.startswith(b"HTTP/1.1 413")  # and no 100 before it


def multipart(*parts: bytes, boundary: str = "XX") -> tuple[bytes, str]:
    lines = b"".join(b"--" + boundary.encode() + b"\r\n" + part + b"\r\n" for part in parts)
    return lines + b"--" + boundary.encode() + b"--\r\n", f"multipart/form-data; boundary={boundary}"


def part(name: str, content: bytes, filename: str | None = None, kind: str | None = None) -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        head += f'; filename="{filename}"'
    if kind:
        head += f"\r\nContent-Type: {kind}"
    return head.encode() + b"\r\n\r\n" + content


def test_multipart_gives_fields_and_files(server):
    body, kind = multipart(
        part("title", "h\u00e9llo".encode()),
        part("title", b"second"),
        part("pic", b"\x89PNG", "a.png", "image/png"),
        part("pic", b"two", "b.bin"),
        part("doc", b"", ""),
    )
    seen = post(server, body, kind).json
    assert seen["body"] == {"title": "h\u00e9llo"}
    assert seen["files"]["pic"] == [
        {"name": "a.png", "type": "image/png", "size": 4, "data": b"\x89PNG".hex()},
        {"name": "b.bin", "type": "application/octet-stream", "size": 3, "data": b"two".hex()},
    ]
    assert seen["files"]["doc"][0]["name"] == "file"


def test_multipart_without_fields_has_no_body(server):
    body, kind = multipart(part("pic", b"x", "a.png"))
    seen = post(server, body, kind).json
    assert seen["body"] is None
    assert list(seen["files"]) == ["pic"]


def test_multipart_may_be_larger_than_other_bodies_up_to_max_upload(server):
    body, kind = multipart(part("big", b"x" * (PLAIN_CAP + 5), "big.bin"))
    assert post(server, body, kind).json["files"]["big"][0]["size"] == PLAIN_CAP + 5
    body, kind = multipart(part("big", b"x" * (2 * MIB), "big.bin"))
    answer = post(server, body, kind)
    assert (answer.status, answer.json["code"]) == (413, "BODY_TOO_LARGE")


def test_nothing_is_read_that_no_handler_could_hold(start, limits):
    room = replace(limits(), storage=replace(limits().storage, max_upload=64 * MIB))
    room = replace(room, runtime=replace(room.runtime, max_memory=4 * MIB))
    with start(limits=room) as server:
        for size, status in ((2 * MIB - 1_000, 200), (2 * MIB, 413)):
            body, kind = multipart(part("big", b"x" * size, "big.bin"))
            assert post(server, body, kind).status == status
        assert len(server.runtime.calls) == 1


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "..\\..\\x\\passwd",
        "C:\\temp\\passwd",
        "a/b/passwd",
        "\x00pass\x1fwd",
        "passwd",
    ],
)
def test_file_names_are_reduced_to_a_base_name(name):
    assert base_name(name) == "passwd"


@pytest.mark.parametrize("name", ["", "..", ".", "/", "a/..", "\\", " "])
def test_file_names_are_never_empty(name):
    assert base_name(name) == "file"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"nonsense", "multipart/form-data; boundary=XX"),
        (b"--XX\r\n", "multipart/form-data; boundary=XX"),
        (b"--XX--", "multipart/form-data"),
        (b"--XX--", "multipart/form-data; boundary=" + "x" * 71),
        (b"--XX\r\nContent-Disposition: form-data\r\n\r\nx\r\n--XX--\r\n", "multipart/form-data; boundary=XX"),
        (b'--XX\r\nContent-Disposition: form-data; name="a"\r\n\r\nunfinished', "multipart/form-data; boundary=XX"),
        (b"--XX\r\n" + b"X: y\r\n" * 500 + b"\r\n\r\n--XX--\r\n", "multipart/form-data; boundary=XX"),
        (b"&".join(b"a%d=1" % i for i in range(1100)), "application/x-www-form-urlencoded"),
        (b"a=\xff", "application/x-www-form-urlencoded"),
    ],
)
def test_forms_that_are_none_are_refused(body, kind):
    with pytest.raises(RefusalError) as refused:
        parse(body, kind)
    assert (refused.value.status, refused.value.code) == (400, "BAD_FORM")


def test_a_form_of_too_many_parts_is_refused():
    body, kind = multipart(*(part(f"f{i}", b"x") for i in range(1001)))
    with pytest.raises(RefusalError):
        parse(body, kind)
