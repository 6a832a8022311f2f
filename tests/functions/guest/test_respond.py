"""What an invocation answers (spec B.3): respond(), else the completion value."""

from __future__ import annotations

import json
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("call", "status", "kind", "body"),
    [
        ("respond()", 200, "none", b""),
        ("respond('hi')", 200, "text", b"hi"),
        ("respond({a: 1})", 200, "json", b'{"a":1}'),
        ("respond([1, 2])", 200, "json", b"[1,2]"),
        ("respond(204)", 204, "none", b""),
        ("respond(404, {error: 'gone'})", 404, "json", b'{"error":"gone"}'),
        ("respond(200, 5)", 200, "json", b"5"),
        ("respond(200, null)", 200, "none", b""),
        ("respond(200, new Uint8Array([0, 255]))", 200, "bytes", b"\x00\xff"),
        ("respond(200, new Uint8Array([1, 2, 3, 4]).subarray(1, 3))", 200, "bytes", b"\x02\x03"),
        ("respond(200, new Uint8Array([7]).buffer)", 200, "bytes", b"\x07"),
        ("respond(200, new Uint8Array(0))", 200, "bytes", b""),
        ("respond(200, '')", 200, "text", b""),
        ("respond({base64: 'AP8='})", 200, "bytes", b"\x00\xff"),
        ("respond({status: 201, body: 'made', headers: {}})", 201, "text", b"made"),
        ("respond({status: 302})", 302, "none", b""),
        ("respond({body: 'x'})", 200, "text", b"x"),
        ("respond({status: 'open', body: 'x'})", 200, "json", b'{"status":"open","body":"x"}'),
        ("respond({status: 200, body: 'x', id: 5})", 200, "json", b'{"status":200,"body":"x","id":5}'),
        ("respond({headers: 1})", 200, "json", b'{"headers":1}'),
        ("respond('é\\ud800')", 200, "text", "é\N{REPLACEMENT CHARACTER}".encode()),
    ],
)
def test_the_forms_of_respond(guest: Any, call: str, status: int, kind: str, body: bytes) -> None:
    result = guest.run(call)
    assert (result.error, result.status, result.body_kind, result.body) == (None, status, kind, body)


@pytest.mark.parametrize(
    ("script", "status", "body"),
    [
        ("({status: 418, body: 'tea'})", 418, b"tea"),
        ("const x = 2; x * 21", 200, b"42"),
        ("'text'", 200, b"text"),
        ("const a = {b: [true]}; a", 200, b'{"b":[true]}'),
        ("null", 200, b""),
        ("var unused = 1", 200, b""),
        ("function handler() { return 1 }", 200, b""),
        ("(() => 1)", 200, b""),
        ("for (const n of [1, 2]) { n }", 200, b"2"),
    ],
)
def test_the_completion_value_answers_when_respond_was_not_called(
    guest: Any, script: str, status: int, body: bytes
) -> None:
    result = guest.run(script)
    assert (result.error, result.status, result.body) == (None, status, body)


def test_F32_the_first_respond_fixes_the_response_and_ends_the_handler(guest: Any) -> None:
    script = "respond(201, 'first'); console.log('not reached'); respond(500, 'second'); 'last expression'"
    result = guest.run(script)
    assert (result.status, result.body, guest.logs) == (201, b"first", [])


def test_F32_respond_ends_the_handler_from_any_depth(guest: Any) -> None:
    files = {"lib/answer.js": "module.exports = (n) => { if (n === 0) respond(202, 'deep'); module.exports(n - 1) }"}
    result = guest.run("[1].forEach(() => require('./lib/answer')(5)); respond(500)", files)
    assert (result.status, result.body) == (202, b"deep")


def test_F32_top_level_return_is_allowed(guest: Any) -> None:
    script = "if (request.method === 'GET') { respond('got'); return }\nrespond('other')"
    assert guest.text(script) == "got"
    assert guest.text(script, request={"method": "POST"}) == "other"
    assert guest.text("return {status: 200, body: 'by value'}") == "by value"


def test_F32_a_script_may_have_both_a_return_and_a_completion_value(wasm: Any) -> None:
    script = "const id = request.path.split('/')[2]; if (!id) return {status: 404}; ({status: 200, body: id})"
    assert wasm.text(script, request={"path": "/api/7"}) == "7"
    assert wasm.run(script, request={"path": "/api"}).status == 404
    # functions inside may return, and a string that looks like code is left alone
    assert wasm.text("const f = () => { return 'a' }; `${f()} return`") == "a return"


def test_F32_neither_catch_nor_finally_runs_after_respond(wasm: Any) -> None:
    script = """
    try { respond(200, 'kept') }
    catch (e) { respond(500, 'caught') }
    finally { console.log('finally'); respond(501, 'finally') }
    """
    result = wasm.run(script)
    assert (result.status, result.body, wasm.logs) == (200, b"kept", [])


def test_a_second_respond_is_logged_and_changes_nothing(guest: Any) -> None:
    # a promise's executor is the one place where the end of the handler does not come through
    result = guest.run("new Promise(() => respond(200, 'first')); respond(500, 'second')")
    assert (result.status, result.body) == (200, b"first")
    assert [level for level, _ in guest.logs] == ["error"]
    assert "respond() was called again" in guest.logs[0][1]


@pytest.mark.parametrize("status", ["7", "99", "600", "200.5", "NaN", "'200'", "-1", "1e9"])
def test_F40_a_status_outside_100_to_599_is_an_error_with_status_500(guest: Any, status: str) -> None:
    result = guest.run(f"respond({status}, 'body')")
    assert (result.status, result.body) == (500, b"")
    assert result.error is not None
    assert result.error.kind == "exception"
    assert "the status must be an integer from 100 to 599" in result.error.message


def test_F40_the_same_for_a_completion_value(guest: Any) -> None:
    result = guest.run("({status: 7, body: 'x'})")
    assert result.error is not None
    assert "100 to 599" in result.error.message
    assert guest.run("respond(7)").status == 500


@pytest.mark.parametrize("text", ["test", "abcd", "aGVsbG8=", "dGVzdA==", "1234"])
def test_F38_text_that_happens_to_be_base64_stays_text(guest: Any, text: str) -> None:
    result = guest.run(f"respond(200, {text!r}, {{'Content-Type': 'text/plain'}})")
    assert (result.body_kind, result.body) == ("text", text.encode())


def test_F38_bytes_come_only_from_bytes_or_the_explicit_wrapper(guest: Any) -> None:
    assert guest.run("({body: {base64: 'dGVzdA=='}})").body == b"test"
    assert guest.run("respond(200, {base64: 'dGVzdA==', more: 1})").body_kind == "json"
    error = guest.run("respond(200, {base64: '***'})").error
    assert error is not None
    assert "base64" in error.message


def test_headers_are_text_lists_repeat_and_invalid_ones_are_refused(guest: Any) -> None:
    script = "respond(200, '', {'X-Number': 5, 'Set-Cookie': ['a=1', 'b=2'], 'X-Skipped': undefined})"
    assert guest.run(script).headers == (("X-Number", "5"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"))
    for name, value in [("X A", "1"), ("", "1"), ("X", "a\\r\\nY: 1"), ("X", "\\0"), ("X", "☃"), ("X:", "1")]:
        result = guest.run(f"respond(200, '', {{'{name}': '{value}'}})")
        assert result.error is not None, (name, value)
        assert "header" in result.error.message


def test_a_body_that_is_no_json_is_an_error_at_the_call(guest: Any) -> None:
    result = guest.run("try { respond(200, 10n) } catch (e) { respond(400, e.constructor.name) }")
    assert (result.status, result.body) == (400, b"TypeError")
    loop = guest.run("const a = {}; a.a = a; a").error
    assert loop is not None
    assert loop.name == "TypeError"


def test_output_is_capped(guest: Any) -> None:
    assert guest.run("respond('x'.repeat(1000))", max_output=1000).status == 200
    for script in ("respond('x'.repeat(1001))", "'x'.repeat(1001)", "respond(200, '', {a: 'x'.repeat(1000)})"):
        result = guest.run(script, max_output=1000)
        assert result.error is not None
        assert result.error.kind == "output"
    # it can't be caught either
    assert guest.run("try { respond('x'.repeat(1e4)) } catch {} finally { respond('y') }", max_output=100).status == 500


def test_promises_as_completion_values(guest: Any) -> None:
    assert guest.text("(async () => { await null; return {status: 200, body: 'later'} })()") == "later"
    assert guest.text("const go = async () => { await 1; await 2; respond('from inside') }; go()") == "from inside"
    assert guest.text("Promise.resolve().then(() => respond('then')); undefined") == "then"
    result = guest.run("(async () => { await 1; throw new RangeError('late') })()")
    assert result.error is not None
    assert (result.error.kind, result.error.name, result.error.message) == ("exception", "RangeError", "late")
    stuck = guest.run("new Promise(() => {})").error
    assert stuck is not None
    assert "nothing will settle" in stuck.message


def test_an_async_function_that_fails_unnoticed_is_no_empty_success(wasm: Any) -> None:
    error = wasm.run("const go = async () => { await 1; throw new Error('lost') }; go(); undefined").error
    assert (error.kind, error.message) == ("exception", "lost")
    assert wasm.text("Promise.reject(new Error('x')).catch(() => respond('handled')); 'too early'") == "handled"
    assert wasm.text("const p = Promise.reject(1); p.catch(() => {}); 'fine'") == "fine"
    assert wasm.text("Promise.reject(new Error('x')); respond('answered first')") == "answered first"


@pytest.mark.parametrize(
    "poison",
    [
        "Object.prototype.toJSON = () => 'stolen'",
        "String.prototype.toJSON = () => 'stolen'",
        "Array.prototype.toJSON = () => 'stolen'",
        "Object.defineProperty(Object.prototype, 'status', {get: () => 999, set() {}})",
        "Object.defineProperty(Object.prototype, '0', {get: () => 'stolen', set() {}})",
        "Object.defineProperty(Array.prototype, '0', {get: () => 'stolen', set() {}})",
        "Array.prototype[Symbol.iterator] = function* () { yield 'stolen' }",
        "JSON.stringify = JSON.parse = () => 'stolen'",
        "for (const k of Object.getOwnPropertyNames(String.prototype)) delete String.prototype[k]",
        "String.prototype.toWellFormed = String.prototype.slice = () => 'stolen'",
        "Function.prototype.call = Function.prototype.apply = Function.prototype.bind = () => 'stolen'",
        "WeakMap.prototype.get = Map.prototype.get = () => 'stolen'",
        "globalThis.Uint8Array = globalThis.TypeError = globalThis.Object = globalThis.Proxy = undefined",
        "Object.keys = Object.defineProperty = Object.setPrototypeOf = () => 'stolen'",
        "Object.setPrototypeOf(Object.prototype.constructor, null)",
        "Promise.prototype.then = () => { throw 1 }",
    ],
)
def test_a_script_that_spoils_its_own_realm_still_answers_what_it_said(guest: Any, poison: str) -> None:
    result = guest.run(f"{poison}; console.log('a', 1); respond(201, 'body', {{'X-A': 'b'}})")
    assert (result.error, result.status, result.body) == (None, 201, b"body")
    assert result.headers == (("X-A", "b"),)
    assert guest.logs == [("info", "a 1")]


def test_an_uncaught_error_is_told_with_name_message_and_place(guest: Any) -> None:
    result = guest.run("\nfunction inner() { throw new SyntaxError('bad') }\ninner()")
    assert result.error is not None
    assert (result.error.kind, result.error.name, result.error.message) == ("exception", "SyntaxError", "bad")
    assert "inner" in result.error.stack
    assert result.error.net is None


@pytest.mark.parametrize(
    ("thrown", "message"),
    [
        ("'text'", "uncaught: text"),
        ("{a: 1}", 'uncaught: {"a":1}'),
        ("undefined", "uncaught: undefined"),
        ("Symbol('s')", "uncaught: Symbol(s)"),
        ("{get message() { throw 1 }}", None),
        ("new Proxy({}, {get() { throw 1 }, ownKeys() { throw 2 }})", None),
        ("Object.assign(new Error('x'), {toString() { throw 1 }, name: {toString() { throw 2 }}})", "x"),
    ],
)
def test_anything_can_be_thrown(guest: Any, thrown: str, message: str | None) -> None:
    result = guest.run(f"throw {thrown}")
    assert result.error is not None
    assert result.error.kind == "exception"
    assert message is None or result.error.message == message


def test_getters_that_respond_while_a_response_is_made(guest: Any) -> None:
    result = guest.run("({status: 200, get body() { respond(201, 'inner'); return 'outer' }})")
    assert result.error is None
    assert result.body in (b"inner", b"outer")
    assert guest.run("respond({toJSON() { respond(202, 'nested'); return 1 }})").status == 202


def test_numbers_of_the_completion_value_are_bodies_not_statuses(guest: Any) -> None:
    result = guest.run("404")
    assert (result.status, json.loads(result.body)) == (200, 404)


@pytest.mark.parametrize("headers", ["Object.fromEntries(list.map((_, i) => ['x-' + i, 'v']))", "{a: list}"])
def test_more_headers_than_the_host_sends_are_an_error_at_the_call(guest: Any, headers: str) -> None:
    script = "const list = new Array(%d).fill('v'); respond(200, 'x', %s)"
    assert len(guest.run(script % (128, headers)).headers) == 128
    failed = guest.run(script % (20_000, headers))
    assert failed.error is not None
    assert failed.error.message == "respond: more than 128 headers"
