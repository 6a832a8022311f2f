"""Frames: what the guest is told, and what is believed of its answer (B.3, F38, F40)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.errors import CODE_OF, FaztError, Reason
from fazt.functions.frames import DROPPED, MAX_HEADERS, decode_result, encode_request
from fazt.functions.guestapi import pack, unpack
from fazt.functions.model import AppRequest, AppResponse, FailureKind, InvocationFailure, NetFailure, UploadedFile


def sent(request: AppRequest) -> tuple[dict, bytes]:
    header, raw = unpack(encode_request(request, app_id="fazt_app_x", app_name="x", env={"A": "b"}, version="1"))
    return header, raw


def answer(status=200, headers=(), kind="text", body=b"hi", **rest):
    return decode_result(
        pack({"status": status, "headers": [list(h) for h in headers], "bodyKind": kind, **rest}, body)
    )


def test_the_request_frame_carries_everything():
    header, raw = sent(
        AppRequest(
            method="POST",
            path="/api/x",
            query={"a": "1"},
            headers={"x-a": "b"},
            body={"k": [1]},
            files={"f": (UploadedFile("n.png", "image/png", 3, b"png"), UploadedFile("m", "t", 2, b"xy"))},
        )
    )
    assert header["app"] == {"id": "fazt_app_x", "name": "x"}
    assert (header["env"], header["version"]) == ({"A": "b"}, "1")
    request = header["request"]
    assert (request["method"], request["path"]) == ("POST", "/api/x")
    assert (request["query"], request["headers"]) == ([["a", "1"]], [["x-a", "b"]])
    body = request["body"]
    assert body["kind"] == "json"
    assert json.loads(raw[body["start"] : body["start"] + body["length"]]) == {"k": [1]}
    files = [(f["field"], f["name"], f["type"], raw[f["start"] : f["start"] + f["length"]]) for f in request["files"]]
    assert files == [("f", "n.png", "image/png", b"png"), ("f", "m", "t", b"xy")]


@pytest.mark.parametrize(
    ("body", "kind", "raw"),
    [
        (None, "none", b""),
        ("", "text", b""),
        ("h\u00e9", "text", "h\u00e9".encode()),
        ("\ud800", "json", b'"\\ud800"'),
        (b"\x00\xff", "bytes", b"\x00\xff"),
        ([1, None, "\ud800"], "json", b'[1,null,"\\ud800"]'),
        (0, "json", b"0"),
        (False, "json", b"false"),
        ({}, "json", b"{}"),
    ],
)
def test_bodies_keep_their_kind(body, kind, raw):
    header, data = sent(AppRequest("POST", "/api", body=body))
    assert (header["request"]["body"]["kind"], data) == (kind, raw)


@pytest.mark.parametrize("text", [b"test", b"aGVsbG8=", b"abcd", b"AAAA", b"", b"1234"])
@pytest.mark.parametrize("kind", ["text/plain", "text/html", "image/png", "application/octet-stream", None])
def test_F38_text_that_looks_like_base64_stays_text(text, kind):
    headers = [("content-type", kind)] if kind else []
    found = answer(headers=headers, kind="text", body=text)
    assert isinstance(found, AppResponse)
    assert found.body == text


def test_bytes_go_out_raw():
    found = answer(kind="bytes", body=b"\x00\xff\x80", headers=[("Content-Type", "image/png")])
    assert found == AppResponse(200, (("content-type", "image/png"),), b"\x00\xff\x80")


@pytest.mark.parametrize("kind", ["json", "text", "bytes"])
def test_the_default_type_is_json(kind):
    found = answer(kind=kind, body=b"1")
    assert isinstance(found, AppResponse)
    assert dict(found.headers)["content-type"].startswith("application/json")


def test_an_empty_answer_has_no_type():
    assert answer(kind="none", body=b"") == AppResponse(200)
    assert answer(kind="none", body=b"smuggled") == AppResponse(200)


@pytest.mark.parametrize(
    "status", [7, 0, -1, 99, 100, 101, 103, 199, 600, 999, 10**30, 200.0, 200.5, "200", True, None]
)
def test_F40_a_status_that_is_no_final_one_is_a_failure(status):
    found = answer(status=status)
    assert isinstance(found, InvocationFailure)
    assert found.kind is FailureKind.RESPONSE
    assert not found.retryable


@pytest.mark.parametrize("status", [200, 299, 404, 418, 500, 599])
def test_final_statuses_pass(status):
    assert answer(status=status).status == status


@pytest.mark.parametrize("status", [204, 205, 304])
def test_statuses_without_content_have_none(status):
    assert answer(status=status).body == b""


@pytest.mark.parametrize(
    "header",
    [
        ("x", "a\r\nset-cookie: b"),
        ("x", "a\nb"),
        ("x", "a\x00b"),
        ("x", "a\x7f"),
        ("x", "\u20ac"),
        ("x y", "a"),
        ("x:", "a"),
        ("", "a"),
        ("x\r\n", "a"),
        ("caf\u00e9", "a"),
        ("x" * 300, "a"),
        ("x", "a" * 70_000),
    ],
)
def test_headers_that_http_does_not_allow_are_a_failure(header):
    found = answer(headers=[header])
    assert isinstance(found, InvocationFailure)
    assert found.kind is FailureKind.RESPONSE
    assert "\n" not in found.message
    assert "\x00" not in found.message


def test_too_many_headers_are_a_failure():
    assert isinstance(answer(headers=[("x", "y")] * MAX_HEADERS), InvocationFailure | AppResponse)
    assert isinstance(answer(headers=[("x", "y")] * (MAX_HEADERS + 1)), InvocationFailure)


@pytest.mark.parametrize("name", sorted(DROPPED))
def test_framing_and_hop_by_hop_headers_are_left_out(name):
    found = answer(headers=[(name.title(), "chunked"), ("X-Kept", "1"), ("Set-Cookie", "a"), ("Set-Cookie", "b")])
    assert isinstance(found, AppResponse)
    names = [key for key, _ in found.headers]
    assert name not in names
    assert names.count("set-cookie") == 2
    assert ("x-kept", "1") in found.headers


def test_a_body_over_the_cap_is_a_failure():
    frame = pack({"status": 200, "headers": [], "bodyKind": "bytes"}, b"x" * 11)
    found = decode_result(frame, max_output=10)
    assert isinstance(found, InvocationFailure)
    assert found.kind is FailureKind.OUTPUT
    assert isinstance(decode_result(frame, max_output=11), AppResponse)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("exception", FailureKind.SCRIPT),
        ("cpu", FailureKind.CPU),
        ("wall", FailureKind.TIMEOUT),
        ("memory", FailureKind.MEMORY),
        ("stack", FailureKind.STACK),
        ("output", FailureKind.OUTPUT),
        ("request", FailureKind.REQUEST),
        ("killed", FailureKind.WORKER),
    ],
)
def test_errors_keep_their_kind_and_text(kind, expected):
    found = decode_result(pack({"error": {"kind": kind, "name": "Error", "message": "m", "stack": "at f"}}))
    assert found == InvocationFailure(expected, "Error: m\nat f")


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.value)
def test_F3_coded_errors_survive_the_frame(reason):
    error = FaztError(reason, "m", retry_after=2.5, call_id="c_1")
    found = decode_result(pack({"error": {"kind": "exception", "name": "E", "message": "m", "net": error.public()}}))
    assert isinstance(found, InvocationFailure)
    assert found.net == NetFailure.of(error)
    assert found.net.code == CODE_OF[reason].value
    assert found.retryable == error.retryable


@pytest.mark.parametrize(
    "net",
    [
        {"code": "NET_MADE_UP", "reason": "host_rate", "retryable": True},
        {"code": "NET_RATE", "reason": "made up", "retryable": True},
        {"code": ["NET_RATE"], "reason": {}, "retryable": True},
        {},
        "text",
        [1],
    ],
)
def test_a_coded_error_that_fazt_never_gives_is_not_believed(net):
    found = decode_result(pack({"error": {"kind": "exception", "name": "E", "message": "m", "net": net}}))
    assert isinstance(found, InvocationFailure)
    assert found.net is None
    assert not found.retryable


@pytest.mark.parametrize("after", [-1, 1e9, "5", True, [], float("inf"), float("nan")])
def test_numbers_out_of_range_are_dropped(after):
    fields = {"code": "NET_RATE", "reason": "host_rate", "retryable": True, "retryAfter": after, "callId": "x" * 100}
    found = NetFailure.known(fields)
    assert found is not None
    assert (found.retry_after, found.call_id) == (None, None)


def test_a_lone_surrogate_in_an_error_does_not_reach_the_log():
    found = decode_result(pack({"error": {"kind": "exception", "name": "E", "message": "\ud800"}}))
    assert isinstance(found, InvocationFailure)
    assert found.message.encode()


@pytest.mark.parametrize("usage", [{"memory": float("inf")}, {"cpuMs": 10**400}, {"wallMs": float("nan")}])
def test_numbers_that_overflow_do_not_take_the_host_along(usage):
    assert decode_result(pack({"status": 200, "headers": [], "bodyKind": "none", "usage": usage})) is not None


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"abc",
        b"\xff\xff\xff\xffjunk",
        pack({}),
        b"\x02\x00\x00\x00[]",
        b"\x04\x00\x00\x00nope",
        pack({"status": 200, "headers": {}, "bodyKind": "text"}),
        pack({"status": 200, "headers": [["a"]], "bodyKind": "text"}),
        pack({"status": 200, "headers": [[1, 2]], "bodyKind": "text"}),
        pack({"status": 200, "headers": [], "bodyKind": "video"}),
        pack({"error": "text"}),
        pack({"error": {"kind": "made up"}}),
        pack({"error": {"kind": ["exception"]}}),
    ],
)
def test_nonsense_is_a_failure_and_never_an_exception(frame):
    found = decode_result(frame)
    assert isinstance(found, InvocationFailure)
    assert found.kind is FailureKind.RESPONSE


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=6,
)
headers_like = st.lists(st.lists(st.text(max_size=8), max_size=3), max_size=3) | json_values


@given(
    header=st.fixed_dictionaries(
        {},
        optional={
            "status": st.integers(0, 700) | json_values,
            "headers": headers_like,
            "bodyKind": st.sampled_from(["json", "text", "bytes", "none"]) | json_values,
            "error": json_values
            | st.fixed_dictionaries(
                {"kind": st.sampled_from(["exception", "cpu"]) | json_values},
                optional={"net": json_values, "message": json_values, "name": json_values, "stack": json_values},
            ),
            "usage": json_values
            | st.fixed_dictionaries({}, optional=dict.fromkeys(("cpuMs", "wallMs", "memory"), json_values)),
            "logsDropped": json_values,
        },
    ),
    body=st.binary(max_size=20),
)
def test_property_any_frame_gives_something_safe_to_send(header, body):
    found = decode_result(pack(header, body), max_output=10)
    if isinstance(found, InvocationFailure):
        return
    assert 200 <= found.status <= 599
    assert len(found.body) <= 10
    for name, value in found.headers:
        assert name == name.lower()
        assert not set(name + value) & set("\r\n\x00")
        value.encode("latin-1")


def test_requests_do_not_show_what_visitors_sent():
    assert "secret" not in repr(
        AppRequest("GET", "/api", query={"k": "secret"}, headers={"a": "secret"}, body="secret")
    )
    assert "secret" not in repr(UploadedFile("n", "t", 6, b"secret"))
    assert "secret" not in repr(AppResponse(200, (("a", "secret"),), b"secret"))


def test_the_owners_line_names_the_call_that_was_let_through() -> None:
    net = NetFailure("NET_BLOCKED", "host_not_granted", False, call_id="c_1")
    failure = InvocationFailure(FailureKind.SCRIPT, "TypeError: not on the list\n    at main.js:1\n", net)
    assert failure.said == "script: TypeError: not on the list (NET_BLOCKED host_not_granted c_1)\n    at main.js:1"
    assert InvocationFailure(FailureKind.CPU, "too long").said == "cpu: too long"
