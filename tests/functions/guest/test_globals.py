"""What a handler finds (spec B.2, B.4): request, console, fazt, and the few names of the web platform."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fazt.functions.guestapi import UploadedFile, pack, parse_result


def test_the_request(guest: Any) -> None:
    request = {
        "method": "POST",
        "path": "/api/orders",
        "query": [("a", "1"), ("b", "x y"), ("a", "2"), ("__proto__", "p")],
        "headers": [("Content-Type", "application/json"), ("X-Two", "1"), ("x-two", "2")],
        "body_kind": "json",
        "body": '{"n": [1, "é"]}'.encode(),
    }
    script = """
    ({method: request.method, path: request.path, query: request.query, all: request.queryAll.a,
      own: Object.keys(request.query), two: request.headers['x-two'], twoAll: request.headersAll['x-two'],
      body: request.body, files: request.files})
    """
    assert json.loads(guest.text(script, request=request)) == {
        "method": "POST",
        "path": "/api/orders",
        "query": {"a": "1", "b": "x y", "__proto__": "p"},
        "all": ["1", "2"],
        "own": ["a", "b", "__proto__"],
        "two": "1",
        "twoAll": ["1", "2"],
        "body": {"n": [1, "é"]},
        "files": {},
    }


def test_F39_header_names_are_lower_case_and_found_in_any_case(guest: Any) -> None:
    script = """
    const h = request.headers;
    [Object.keys(h), h['content-type'], h['Content-Type'], h['CONTENT-TYPE'], 'X-A' in h, 'X-B' in h, h['x-b'] ?? null,
     request.headersAll['X-A'], typeof h.hasOwnProperty]
    """
    got = json.loads(guest.text(script, request={"headers": [("Content-Type", "t"), ("X-a", "1")]}))
    assert got == [["content-type", "x-a"], "t", "t", "t", True, False, None, ["1"], "function"]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"body_kind": "none"}, "null"),
        ({"body_kind": "text", "body": "é\n".encode()}, '"é\\n"'),
        ({"body_kind": "bytes", "body": b"\x00\xff"}, "[0,255]"),
        ({"body_kind": "form", "form": [("a", "1"), ("b", "2"), ("a", "3")]}, '{"a":"1","b":"2"}'),
        ({"body_kind": "json", "body": b"null"}, "null"),
    ],
)
def test_kinds_of_bodies(guest: Any, request_: dict[str, Any], expected: str) -> None:
    script = "const b = request.body; respond(JSON.stringify(b instanceof Uint8Array ? Array.from(b) : b))"
    assert guest.text(script, request={"method": "POST", **request_}) == expected


def test_uploaded_files(guest: Any) -> None:
    files = (
        UploadedFile("doc", "a.txt", "text/plain", b"first"),
        UploadedFile("doc", "b.txt", "text/plain", b"second"),
        UploadedFile("pic", "p.png", "image/png", b"\x89PNG"),
    )
    script = """
    const text = new TextDecoder();
    [request.files.doc.name, request.files.doc.size, text.decode(request.files.doc.data),
     request.filesAll.doc.map((f) => f.name), Array.from(request.files.pic.data), request.body]
    """
    request = {"method": "POST", "body_kind": "form", "form": [("title", "t")], "files": files}
    assert guest.text(script, request=request) == ('["a.txt",5,"first",["a.txt","b.txt"],[137,80,78,71],{"title":"t"}]')


def test_F36_console_joins_by_spaces_without_formats(guest: Any) -> None:
    guest.run("console.log('100%', '%s %d', 5, 'x'); console.info('%'); console.warn(1, null, undefined, true, 7n)")
    assert guest.logs == [("info", "100% %s %d 5 x"), ("info", "%"), ("warn", "1 null undefined true 7n")]


def test_F36_console_prints_objects_as_json(guest: Any) -> None:
    script = """
    const loop = {a: 1}; loop.self = loop;
    console.debug({a: [1, 'x', null, undefined], b: undefined, 'c d': {e: 1.5}}, []);
    console.error(loop, new Date(0), () => 1, Symbol('s'));
    console.log(new Proxy({}, {ownKeys() { throw 1 }}), {get a() { throw 1 }}, Object.create(null));
    console.log(new TypeError('wrong').toString(), [new RangeError('in a list')]);
    """
    guest.run(script)
    assert guest.logs == [
        ("debug", '{"a":[1,"x",null,null],"c d":{"e":1.5}} []'),
        ("error", '{"a":1,"self":"[circular]"} "1970-01-01T00:00:00.000Z" [function] Symbol(s)'),
        ("info", '"[unprintable]" {"[unprintable]" {}'),
        ("info", "TypeError: wrong [RangeError: in a list]"),
    ]


def test_errors_are_printed_with_their_stack(guest: Any) -> None:
    guest.run("function here() { console.error('failed:', new Error('x')) }\nhere()")
    level, line = guest.logs[0]
    assert level == "error"
    assert line.startswith("failed: Error: x\n")
    assert "here" in line


def test_F35_fazt_log_is_logged(guest: Any) -> None:
    guest.run("fazt.log.info('a', {b: 1}); fazt.log.warn('w'); fazt.log.error('e'); fazt.log.debug('d')")
    assert guest.logs == [("info", 'a {"b":1}'), ("warn", "w"), ("error", "e"), ("debug", "d")]


def test_log_lines_are_capped_in_number_and_size(guest: Any) -> None:
    result = guest.run("for (let i = 0; i < 1000; i++) console.log(i); respond('done')", max_log_lines=10)
    assert [line for _, line in guest.logs] == [str(n) for n in range(10)]
    assert (result.body, result.logs_dropped) == (b"done", 990)
    guest.run("console.log('x'.repeat(1e6)); console.log({a: 'x'.repeat(1e6)}); console.log(Array(1e5).fill(1))")
    assert all(len(line) <= 8192 for _, line in guest.logs)
    guest.run("for (let i = 0; i < 90; i++) console.log('x'.repeat(8000))", max_log_lines=100)
    assert sum(len(line) for _, line in guest.logs) <= (256 << 10) + 8192
    assert guest.run("console.log(1)", max_log_lines=0).logs_dropped == 1


def test_F34_fazt_names_the_app_and_shows_its_settings(guest: Any) -> None:
    request = {"env": {"MODE": "live", "EMPTY": "", "toString": "own"}, "version": "0.9.1"}
    script = """
    const {app, env, version} = fazt;
    [app.id, app.name, version, env.get('MODE'), env.get('NONE') ?? null, env.get('NONE', 'dflt'),
     env.get('EMPTY', 'x'), env.has('MODE'), env.has('NONE'), env.has('constructor'), env.get('constructor') ?? null,
     env.get('toString')]
    """
    assert json.loads(guest.text(script, request=request)) == [
        "app_1", "shop", "0.9.1", "live", None, "dflt", "", True, False, False, None, "own",
    ]  # fmt: skip


def test_nothing_of_the_plumbing_is_reachable(guest: Any) -> None:
    script = """
    const seen = [];
    for (const name of Object.getOwnPropertyNames(globalThis)) {
      if (/native|host|__|fazt_|std|os$/i.test(name)) seen.push(name);
    }
    [seen, typeof native, typeof api, typeof api_begin, typeof fetch, Object.keys(fazt), Object.keys(fazt.net)]
    """
    assert json.loads(guest.text(script)) == [
        [], "undefined", "undefined", "undefined", "undefined", ["app", "env", "log", "net", "version"], ["fetch"],
    ]  # fmt: skip


def test_globals_may_be_shadowed(guest: Any) -> None:
    assert (
        guest.text("const request = 1, fazt = 2, require = 3, console = 4; request + fazt + require + console") == "10"
    )
    assert guest.text("function respond(x) { return x } respond('mine')") == "mine"


def test_text_and_base64(guest: Any) -> None:
    script = r"""
    const bytes = (...n) => new Uint8Array(n), d = new TextDecoder();
    let fatal, label;
    try { new TextDecoder('utf-8', {fatal: true}).decode(bytes(0xff)) } catch (e) { fatal = e.constructor.name }
    try { new TextDecoder('latin1') } catch (e) { label = e.constructor.name }
    [Array.from(new TextEncoder().encode('é€😀')), d.decode(bytes(0xc3, 0xa9)), d.decode(bytes(0xef, 0xbb, 0xbf, 65)),
     d.decode(bytes(0xf0, 0x9f, 0x98, 65)), d.decode(bytes(0xed, 0xa0, 0x80)), d.decode(bytes(0xc0, 0xaf)),
     fatal, label, Array.from(new TextEncoder().encode('\ud800')), btoa('hi'), atob('aGk=')]
    """
    assert json.loads(guest.text(script)) == [
        [195, 169, 226, 130, 172, 240, 159, 152, 128], "é", "A",
        "\ufffdA", "\ufffd\ufffd\ufffd", "\ufffd\ufffd", "TypeError", "RangeError",
        [239, 191, 189], "aGk=", "hi",
    ]  # fmt: skip


def test_text_decoding_agrees_with_python(guest: Any) -> None:
    # Python's "replace" follows the same rule (one U+FFFD for each maximal subpart)
    image = guest.app("respond(new TextDecoder('utf-8', {ignoreBOM: true}).decode(request.body))")
    for seed in range(40):
        data = bytes((seed * 37 + i * i * 11 + (i >> 2) * 77) % 256 for i in range(60))
        data += b"\xe2\x82" + "é€😀".encode() + b"\xf4\x90\x80\x80\xf0\x80\x80\xc1"
        assert guest.text(image, request={"body_kind": "bytes", "body": data}) == data.decode("utf-8", "replace")


def test_random_numbers_differ_between_invocations_and_follow_the_seed(guest: Any) -> None:
    image = guest.app(
        "[Math.random(), Math.random(), crypto.randomUUID(), Array.from(crypto.getRandomValues(new Uint8Array(8)))]"
    )
    rows = [json.loads(guest.text(image)) for _ in range(20)]
    assert len({row[0] for row in rows}) == len({row[2] for row in rows}) == 20
    assert all(row[0] != row[1] and 0 <= row[0] < 1 for row in rows)
    assert all(row[2][14] == "4" and row[2][19] in "89ab" and len(row[2]) == 36 for row in rows)


def test_the_seed_decides_math_random(wasm: Any) -> None:
    image = wasm.app("Math.random()")
    same = {wasm.text(image, seed=b"a" * 16) for _ in range(3)}
    assert len(same) == 1
    assert wasm.text(image, seed=b"a" * 15 + b"b") not in same
    assert wasm.text(image, seed=b"b" + b"a" * 15) not in same
    values = [float(wasm.text(image, seed=n.to_bytes(16, "little"))) for n in range(200)]
    assert 0.4 < sum(values) / len(values) < 0.6


def test_clocks_are_those_of_the_invocation(wasm: Any) -> None:
    image = wasm.app("const t = performance.now(); [Date.now(), new Date().getTime(), t, performance.timeOrigin]")
    first = json.loads(wasm.text(image))
    second = json.loads(wasm.text(image))
    assert first[0] > 1.6e12
    assert second[0] >= first[0]
    assert 0 <= first[2] < 1000
    assert abs(first[3] - first[0]) < 1000


def test_a_request_frame_that_does_not_fit_is_the_hosts_mistake(wasm: Any) -> None:
    image = wasm.app("respond('x')")
    for frame in (b"", b"\0\0\0\0", pack({}), b"\xff\xff\xff\x7f{}", pack({"request": {}, "app": {}})):
        raw = wasm.engine.invoke(
            image, frame, host=lambda f: f, post=lambda f: None, cpu_ms=1000, wall_ms=1000, memory=8 << 20,
            max_output=1000, max_log_lines=1, seed=b"",
        )  # fmt: skip
        error = parse_result(raw).error
        assert error is not None
        assert error.kind == "request"


def test_code_that_makes_code_works_inside(guest: Any) -> None:
    assert guest.text("eval('1 + 1') + new Function('return 2')()") == "4"
    assert guest.run("import('node:fs')").error is not None
