"""fazt.net.fetch() as a handler sees it (spec A.1, A.12)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fazt.functions.guestapi import MAX_CALL_BODY, pack, unpack


def test_a_call_carries_every_option(guest: Any, replies: Any) -> None:
    host, asked = replies.host(replies.ok())
    guest.run(
        """fazt.net.fetch('https://api.example/v1?q=ü', {
           method: 'post', headers: {'X-A': 1, 'x-b': ['2', '3'], c: null}, body: 'é', timeout: 1500, auth: 'KEY',
           unknown: 1})""",
        host=host,
    )
    header, body = asked[0]
    assert header == {
        "op": "fetch",
        "url": "https://api.example/v1?q=ü",
        "method": "post",
        "headers": [["X-A", "1"], ["x-b", "2"], ["x-b", "3"]],
        "timeout": 1500,
        "auth": "KEY",
        "hasBody": True,
        "bodySize": 2,
        "invalid": None,
    }
    assert body == "é".encode()


def test_defaults(guest: Any, replies: Any) -> None:
    host, asked = replies.host(replies.ok())
    guest.run("fazt.net.fetch('https://api.example/'); fazt.net.fetch('https://api.example/', {body: null})", host=host)
    for header, body in asked:
        assert (header["method"], header["headers"], header["timeout"], header["auth"]) == ("GET", [], None, None)
        assert (header["hasBody"], header["bodySize"], body) == (False, 0, b"")


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ("new Uint8Array([0, 255])", b"\x00\xff"),
        ("new Uint8Array([1, 2, 3, 4]).subarray(1, 3)", b"\x02\x03"),
        ("new Uint8Array([5]).buffer", b"\x05"),
        ("''", b""),
    ],
)
def test_bodies_are_strings_or_bytes(guest: Any, replies: Any, body: str, sent: bytes) -> None:
    host, asked = replies.host(replies.ok())
    guest.run(f"fazt.net.fetch('https://a.example/', {{method: 'POST', body: {body}}})", host=host)
    assert (asked[0][0]["hasBody"], asked[0][1]) == (True, sent)


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        ("", "url"),
        ("5", "url"),
        ("null", "url"),
        ("'https://a.example/', 'POST'", "options"),
        ("'https://a.example/', {body: {a: 1}}", "body"),
        ("'https://a.example/', {body: 5}", "body"),
        ("'https://a.example/', {body: true}", "body"),
        ("'https://a.example/', {method: 5}", "method"),
        ("'https://a.example/', {timeout: 0}", "timeout"),
        ("'https://a.example/', {timeout: -1}", "timeout"),
        ("'https://a.example/', {timeout: '5'}", "timeout"),
        ("'https://a.example/', {timeout: NaN}", "timeout"),
        ("'https://a.example/', {timeout: Infinity}", "timeout"),
        ("'https://a.example/', {auth: {}}", "auth"),
        ("'https://a.example/', {headers: 'a: b'}", "headers"),
        ("'https://a.example/', {headers: [['a']]}", "headers"),
        ("'https://a.example/', {headers: {a: Symbol('x')}}", "header"),
        ("'https://a.example/', {headers: {a: 'x'.repeat(3e5)}}", "large"),
        ("'https://a.example/', {get body() { throw new Error('boom') }}", "boom"),
        ("{toString() { throw new Error('boom') }}", "boom"),
    ],
)
def test_bad_options_are_refused_by_the_host_which_counts_the_call(
    guest: Any, replies: Any, arguments: str, about: str
) -> None:
    reply = replies.refusal(code="NET_ERROR", reason="bad_option", message="said by the host")
    host, asked = replies.host(reply)
    script = (
        f"try {{ fazt.net.fetch({arguments}) }} catch (e) {{ [e.code, e.reason, e.message, e instanceof TypeError] }}"
    )
    assert guest.text(script, host=host) == '["NET_ERROR","bad_option","said by the host",true]'
    assert about in asked[0][0]["invalid"]
    assert asked[0][0]["hasBody"] is False


def test_bad_options_are_refused_even_if_the_host_does_not(guest: Any, replies: Any) -> None:
    host, _ = replies.host(replies.ok())
    error = guest.run("fazt.net.fetch('https://a.example/', {body: 5})", host=host).error
    assert (error.net["code"], error.net["reason"], error.retryable) == ("NET_ERROR", "bad_option", False)


def test_a_body_that_is_far_too_large_is_told_but_not_carried(wasm: Any, replies: Any) -> None:
    host, asked = replies.host(replies.refusal(code="NET_SIZE", reason="request_body"))
    script = f"fazt.net.fetch('https://a.example/', {{body: new Uint8Array({MAX_CALL_BODY} + 1)}})"
    assert wasm.run(script, host=host, memory=64 << 20).error.net["reason"] == "request_body"
    header, body = asked[0]
    assert (header["hasBody"], header["bodySize"], body) == (True, MAX_CALL_BODY + 1, b"")


def test_the_response(guest: Any, replies: Any) -> None:
    headers = [["content-type", "application/json"], ["set-cookie", "a=1"], ["set-cookie", "b=2"], ["__proto__", "x"]]
    body = '\ufeff{"z": 1, "a": [true, "é"]}'.encode()
    host, _ = replies.host(replies.ok(body, status=201, url="https://b.example/x", redirected=True, headers=headers))
    script = """
    const r = fazt.net.fetch('https://a.example/');
    [r.status, r.ok, r.url, r.redirected, r.headers['set-cookie'], r.headers['Set-Cookie'], r.headersAll['set-cookie'],
     Object.keys(r.headers), r.text(), Object.keys(r.json()), r.bytes().length, r.headers['x-none'] ?? null]
    """
    assert json.loads(guest.text(script, host=host)) == [
        201, True, "https://b.example/x", True, "a=1", "a=1", ["a=1", "b=2"],
        ["content-type", "set-cookie", "__proto__"], '{"z": 1, "a": [true, "é"]}', ["z", "a"], len(body), None,
    ]  # fmt: skip


@pytest.mark.parametrize(("status", "is_ok"), [(199, False), (200, True), (299, True), (300, False), (404, False)])
def test_ok_is_2xx(guest: Any, replies: Any, status: int, is_ok: bool) -> None:
    host, _ = replies.host(replies.ok(status=status))
    assert guest.text("String(fazt.net.fetch('https://a.example/').ok)", host=host) == str(is_ok).lower()


def test_bodies_are_private_copies_and_text_is_decoded_with_replacement(guest: Any, replies: Any) -> None:
    host, _ = replies.host(replies.ok(b"a\xffb"))
    script = """
    const r = fazt.net.fetch('https://a.example/'), first = r.bytes();
    first[0] = 0; r.headers.x = 'changed';
    [Array.from(r.bytes()), r.text(), first[0], fazt.net.fetch('https://a.example/').headers.x ?? null]
    """
    assert json.loads(guest.text(script, host=host)) == [[97, 255, 98], "a\ufffdb", 0, None]


def test_json_throws_on_what_is_no_json(guest: Any, replies: Any) -> None:
    host, _ = replies.host(replies.ok(b"<html>"))
    assert (
        guest.text("try { fazt.net.fetch('https://a.example/').json() } catch (e) { e.name }", host=host)
        == "SyntaxError"
    )


@pytest.mark.parametrize("coding", ["gzip", "br, identity", "identity, Zstd"])
def test_a_coded_body_is_raw_bytes_only(guest: Any, replies: Any, coding: str) -> None:
    host, _ = replies.host(replies.ok(b"\x1f\x8b", headers=[["content-encoding", coding]]))
    script = """
    const r = fazt.net.fetch('https://a.example/'), seen = [Array.from(r.bytes())];
    for (const read of ['text', 'json']) {
      try { r[read]() } catch (e) { seen.push([e.code, e.reason, e.retryable, e.callId]) }
    }
    seen
    """
    failure = ["NET_ERROR", "decode", False, "c_1"]
    assert json.loads(guest.text(script, host=host)) == [[31, 139], failure, failure]
    error = guest.run("fazt.net.fetch('https://a.example/').text()", host=host).error
    assert (error.net["reason"], error.retryable) == ("decode", False)


def test_identity_is_no_coding(guest: Any, replies: Any) -> None:
    host, _ = replies.host(replies.ok(b"plain", headers=[["content-encoding", "identity"]]))
    assert guest.text("fazt.net.fetch('https://a.example/').text()", host=host) == "plain"


CODES = [
    ("NET_BLOCKED", "private_address", False, None),
    ("NET_TIMEOUT", "first_byte", False, None),
    ("NET_LIMIT", "calls_exceeded", False, None),
    ("NET_LIMIT", "app_concurrency", True, 1),
    ("NET_BUDGET", "wall_exhausted", True, None),
    ("NET_SIZE", "response_body", False, None),
    ("NET_ERROR", "connect_failed", False, None),
    ("NET_AUTH", "secret_unknown", False, None),
    ("NET_RATE", "host_rate", True, 2.5),
]


@pytest.mark.parametrize(("code", "reason", "retryable", "retry_after"), CODES)
def test_F4_errors_carry_what_a_script_branches_on(
    guest: Any, replies: Any, code: str, reason: str, retryable: bool, retry_after: float | None
) -> None:
    fields = {"code": code, "reason": reason, "retryable": retryable, "retryAfter": retry_after, "message": "why"}
    host, _ = replies.host(replies.refusal(**fields))
    script = """
    try { fazt.net.fetch('https://a.example/') }
    catch (e) { [e instanceof TypeError, e.code, e.reason, e.message, e.retryable, e.retryAfter, e.callId, String(e)] }
    """
    assert json.loads(guest.text(script, host=host)) == [
        True, code, reason, "why", retryable, retry_after, "c_1", f"{code}: why",
    ]  # fmt: skip


@pytest.mark.parametrize(("code", "reason", "retryable", "retry_after"), CODES)
@pytest.mark.parametrize(
    "script",
    [
        "fazt.net.fetch('https://a.example/')",
        "try { fazt.net.fetch('https://a.example/') } catch (e) { throw e }",
        "try { fazt.net.fetch('https://a.example/') } catch (e) { throw new Error('wrapped', {cause: e}) }",
        "try { fazt.net.fetch('https://a.example/') } catch (e) { throw {cause: new Error('2', {cause: e})} }",
        "(async () => { await null; fazt.net.fetch('https://a.example/') })()",
    ],
)
def test_F3_an_uncaught_error_keeps_its_cause(
    wasm: Any, replies: Any, script: str, code: str, reason: str, retryable: bool, retry_after: float | None
) -> None:
    host, _ = replies.host(replies.refusal(code=code, reason=reason, retryable=retryable, retryAfter=retry_after))
    error = wasm.run(script, host=host).error
    assert (error.kind, error.net["code"], error.net["reason"]) == ("exception", code, reason)
    assert (error.retryable, error.retry_after) == (retryable, retry_after)


@pytest.mark.parametrize(
    "script",
    [
        "throw Object.assign(new TypeError('x'), {code: 'NET_RATE', retryable: true, retryAfter: 9, callId: 'c_1'})",
        "try { fazt.net.fetch('https://a.example/') } catch (e) { throw new Error('other') }",
        "try { fazt.net.fetch('https://a.example/') } catch (e) { throw {...e} }",
        "try { fazt.net.fetch('https://a.example/') } catch (e) { throw Object.create(e) }",
        "WeakMap.prototype.get = () => ({code: 'NET_RATE', retryable: true}); throw new Error('x')",
    ],
)
def test_F3_an_error_that_a_script_made_up_is_no_network_error(guest: Any, replies: Any, script: str) -> None:
    host, _ = replies.host(replies.refusal(code="NET_RATE", reason="host_rate", retryable=True, retryAfter=5))
    error = guest.run(script, host=host).error
    assert error.net is None
    assert not error.retryable


def test_F3_changing_the_error_changes_nothing(guest: Any, replies: Any) -> None:
    host, _ = replies.host(replies.refusal())
    script = (
        "try { fazt.net.fetch('https://a.example/') } catch (e) { e.retryable = true; e.code = 'NET_RATE'; throw e }"
    )
    error = guest.run(script, host=host).error
    assert (error.net["code"], error.retryable) == ("NET_BLOCKED", False)


def test_an_error_that_was_caught_does_not_count(guest: Any, replies: Any) -> None:
    host, _ = replies.host(replies.refusal(retryable=True), replies.ok(b"second"))
    script = """
    try { fazt.net.fetch('https://a.example/') } catch {}
    respond(fazt.net.fetch('https://b.example/').text())
    """
    assert guest.text(script, host=host) == "second"


def test_F5_a_message_says_what_the_host_said_and_no_more(guest: Any, replies: Any) -> None:
    canary = "hunter2-canary"
    host, _ = replies.host(replies.refusal(message="the call was refused"))
    script = f"fazt.net.fetch('https://u:{canary}@a.example/?key={canary}', {{headers: {{'X-K': '{canary}'}}}})"
    result = guest.run(f"\n\n{script}", host=host)
    assert canary not in repr(result) + result.error.message + result.error.stack + repr(guest.logs)
    caught = guest.text(f"try {{ {script} }} catch (e) {{ e.message + e.stack + String(e) }}", host=host)
    assert canary not in caught


def test_nothing_is_sent_after_respond(guest: Any, replies: Any) -> None:
    host, asked = replies.host(replies.ok())
    result = guest.run("new Promise(() => respond('first')); fazt.net.fetch('https://a.example/')", host=host)
    assert (result.body, asked) == (b"first", [])


@pytest.mark.parametrize(
    "reply", [b"", b"\xff\xff\xff\xff", b"\x02\0\0\0[]", b"\x02\0\0\0{}", b"\x01\0\0\0x", pack({"error": 5})]
)
def test_a_broken_reply_is_an_error_and_no_more(guest: Any, reply: bytes) -> None:
    assert guest.run("fazt.net.fetch('https://a.example/')", host=lambda frame: reply).error is not None


def test_a_host_that_fails_ends_the_invocation(wasm: Any) -> None:
    def broken(frame: bytes) -> bytes:
        raise ConnectionResetError("the parent is gone")

    result = wasm.run("try { fazt.net.fetch('https://a.example/') } catch {} respond('x')", host=broken)
    assert result.error.kind == "killed"
    assert "parent" not in result.error.message


def test_large_bodies_both_ways(guest: Any, replies: Any) -> None:
    data = bytes(range(256)) * 4096
    host, asked = replies.host(replies.ok(data))
    script = """
    const r = fazt.net.fetch('https://a.example/', {method: 'POST', body: request.body});
    respond(200, r.bytes())
    """
    result = guest.run(script, host=host, request={"body_kind": "bytes", "body": data}, max_output=2 << 20)
    assert (result.body, asked[0][1]) == (data, data)


def test_frames_with_lone_surrogates_never_leave_the_guest(guest: Any, replies: Any) -> None:
    host, asked = replies.host(replies.ok())
    guest.run(
        "fazt.net.fetch('https://a.example/\\ud800', {headers: {a: '\\udfff'}}); console.log('\\ud800')", host=host
    )
    assert asked[0][0]["url"] == "https://a.example/\ufffd"
    assert guest.logs == [("info", "\ufffd")]
    with pytest.raises(ValueError, match="well-formed"):
        unpack(b'\x0c\0\0\0{"a":"\\ud8"}'.replace(b'\\ud8"}', b'\\ud800"}').replace(b"\x0c", b"\x0e"))


@pytest.mark.parametrize(
    "headers", ["Object.fromEntries(list.map((_, i) => ['x-' + i, 'v']))", "{a: list}", "list.map(() => ['a', 'v'])"]
)
def test_too_many_header_fields_are_a_counted_call_without_them(guest: Any, replies: Any, headers: str) -> None:
    host, asked = replies.host(replies.ok())
    script = """const list = new Array(%d).fill('v');
        try { fazt.net.fetch('https://a.example/', {headers: %s}); respond('sent'); }
        catch (e) { respond(e.reason + ' ' + e.message); }"""
    assert guest.text(script % (128, headers), host=host) == "sent"
    assert len(asked[0][0]["headers"]) == 128
    assert guest.text(script % (129, headers), host=host) == "bad_option the request has more than 128 header fields"
    assert asked[1][0]["headers"] == []
    assert asked[1][0]["invalid"] == "the request has more than 128 header fields"
