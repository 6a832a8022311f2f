"""How a failed invocation looks from outside: A.12, F3, F37, F40."""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import socket
from dataclasses import replace

import pytest

from fazt.errors import CODE_OF, RETRYABLE, FaztError, Reason
from fazt.functions.frames import decode_result
from fazt.functions.guestapi import pack
from fazt.functions.model import AppResponse, FailureKind, NetFailure
from fazt.server import asgi
from fazt.server.answers import RefusalError
from fazt.server.bodies import PLAIN_CAP, UploadSpace

INTERNAL = "boom at https://10.0.0.7:8443/secret?key=sk_live_abc in api/main.js:3"


def thrown(reason: Reason, **fields):
    """The result frame of a handler that let a call's error through, as the guest writes it."""
    error = FaztError(reason, INTERNAL, call_id="c_1", **fields)
    return pack(
        {
            "error": {
                "kind": "exception",
                "name": "TypeError",
                "message": INTERNAL,
                "stack": "at x",
                "net": error.public(),
            }
        }
    )


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.value)
def test_F3_every_code_reaches_http_through_a_real_handler(server, reason):
    server.runtime.outcomes["x"] = decode_result(thrown(reason))
    answer = server.get("/api/x")
    retryable = reason in RETRYABLE
    assert answer.status == (503 if retryable else 500)
    assert answer.headers.get("retry-after") == ("1" if retryable else None)
    assert answer.json["code"] == CODE_OF[reason].value
    assert answer.json.get("retryable") == (True if retryable else None)
    assert answer.json["requestId"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(("wait", "shown"), [(0.2, "1"), (1.0, "1"), (12.01, "13"), (None, "1")])
def test_F3_retry_after_is_the_real_wait_of_a_rate_rounded_up(server, wait, shown):
    server.runtime.outcomes["x"] = decode_result(thrown(Reason.HOST_RATE, retry_after=wait))
    answer = server.get("/api/x")
    assert (answer.status, answer.headers["retry-after"]) == (503, shown)


def test_F3_other_retryable_codes_wait_a_second(server):
    server.runtime.outcomes["x"] = decode_result(thrown(Reason.APP_CONCURRENCY, retry_after=30.0))
    assert server.get("/api/x").headers["retry-after"] == "1"


def test_F3_a_retryable_call_that_says_it_is_not_is_a_500(server):
    server.runtime.outcomes["x"] = decode_result(thrown(Reason.HOST_RATE, retryable=False))
    assert server.get("/api/x").status == 500


@pytest.mark.parametrize("kind", list(FailureKind), ids=lambda kind: kind.value)
def test_every_kind_of_failure_has_its_status(server, failure, kind):
    server.runtime.outcomes["x"] = failure(kind, INTERNAL)
    answer = server.get("/api/x")
    special = {
        FailureKind.NO_HANDLER: 404,
        FailureKind.OVERLOAD: 503,
        FailureKind.STORE: 503,
        FailureKind.REQUEST: 413,
    }
    assert answer.status == special.get(kind, 500)
    if answer.status == 503:
        assert answer.headers["retry-after"] == "1"
        assert answer.json["retryable"] is True


@pytest.mark.parametrize("kind", list(FailureKind), ids=lambda kind: kind.value)
def test_F37_public_bodies_hold_nothing_internal(server, failure, kind):
    server.runtime.outcomes["x"] = failure(kind, INTERNAL, NetFailure("NET_ERROR", "dns_failed", False, None, "c_1"))
    answer = server.get("/api/x")
    shown = answer.body.decode() + "".join(f"{k}: {v}\n" for k, v in answer.headers.items())
    for word in ("boom", "10.0.0.7", "sk_live", "main.js", "https", "fazt_app", "c_1", "logs", "Traceback"):
        assert word not in shown
    if kind is not FailureKind.NO_HANDLER:
        # the operator finds the text under the id that the visitor was given
        assert [(app, request, found.message) for app, request, found in server.reports] == [
            ("fazt_app_hello0000000", answer.headers["x-request-id"], INTERNAL)
        ]


def test_F37_a_fault_of_the_server_itself_shows_no_traceback(server, caplog):
    server.runtime.outcomes["x"] = RuntimeError(INTERNAL)
    answer = server.get("/api/x")
    assert answer.status == 500
    assert answer.json == {
        "error": "an internal error",
        "code": "INTERNAL",
        "requestId": answer.headers["x-request-id"],
    }
    assert answer.json["requestId"] in caplog.text


@pytest.mark.parametrize("status", [7, 99, 100, 101, 199, 600, 1000, -1, 200.5, "200", True, None, [], math.inf])
def test_F40_a_status_that_is_none_is_a_500_and_a_log_line(server, status):
    header = {"status": status, "headers": [], "bodyKind": "text"}
    server.runtime.outcomes["x"] = decode_result(pack(header, b"hi") if status != math.inf else b"junk")
    answer = server.get("/api/x")
    assert answer.status == 500
    assert len(server.reports) == 1
    assert server.reports[0][2].kind is FailureKind.RESPONSE


def test_no_handler_is_a_404_in_text(server):
    answer = server.get("/api/x", host="bare.localhost")
    assert (answer.status, answer.body) == (404, b"not found\n")
    assert answer.headers["content-type"].startswith("text/plain")
    assert server.runtime.calls == []


def test_an_answer_goes_out_as_the_app_made_it(server):
    server.runtime.outcomes["x"] = AppResponse(
        418, (("content-type", "text/plain"), ("set-cookie", "a=1"), ("x-latin", "caf\u00e9")), b"short"
    )
    answer = server.ask("POST", "/api/x", body=b"")
    assert (answer.status, answer.body) == (418, b"short")
    assert answer.headers["content-length"] == "5"
    assert answer.headers["set-cookie"] == "a=1"
    assert answer.headers["x-latin"] == "caf\u00e9"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-request-id"].startswith("r_")
    assert "server" not in answer.headers


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_content_keep_the_connection_usable(server, status):
    server.runtime.outcomes["x"] = AppResponse(status)
    out = server.raw(
        b"GET /api/x HTTP/1.1\r\nHost: hello.localhost\r\n\r\n"
        b"GET /about.html HTTP/1.1\r\nHost: hello.localhost\r\nConnection: close\r\n\r\n"
    )
    head, _, rest = out.partition(b"\r\n\r\n")
    assert f" {status} ".encode() in head
    assert rest.startswith(b"HTTP/1.1 200")
    assert rest.endswith(b"about")


def test_head_runs_the_handler_and_sends_no_body(server):
    out = server.raw(b"HEAD /api/x HTTP/1.1\r\nHost: hello.localhost\r\nConnection: close\r\n\r\n")
    head, _, rest = out.partition(b"\r\n\r\n")
    assert b" 200 " in head
    assert int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) > 0
    assert rest == b""
    assert server.runtime.calls[0][1].method == "HEAD"


def test_a_handler_that_outlives_the_window_is_a_500(start):
    with start(window=0.2) as server:
        server.runtime.outcomes["x"] = lambda _request: asyncio.sleep(30)
        answer = server.get("/api/x")
        assert answer.status == 500
        assert server.reports[0][2].kind is FailureKind.TIMEOUT


def test_more_requests_than_the_capacity_are_put_off(start, limits, drain):
    inside: queue.Queue[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def wait(_request):
        gate = asyncio.Event()
        inside.put((asyncio.get_running_loop(), gate))
        await gate.wait()
        return AppResponse(200, (), b"done")

    with start(limits=limits(max_requests=1)) as server, server.connect() as first:
        server.runtime.outcomes["slow"] = wait
        first.sendall(b"GET /api/slow HTTP/1.1\r\nHost: hello.localhost\r\nConnection: close\r\n\r\n")
        loop, gate = inside.get(timeout=10)
        answer = server.get("/about.html")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert answer.json["code"] == "OVERLOADED"
        # whoever looks after the machine still gets in
        assert server.admin("GET", "/api/system/health").status == 200
        loop.call_soon_threadsafe(gate.set)
        assert drain(first).endswith(b"done")
        assert server.get("/about.html").status == 200


def test_clients_that_are_waited_for_hold_no_place(start, limits):
    with start(limits=limits(max_requests=1)) as server, contextlib.ExitStack() as slow:
        for _ in range(5):
            waiting = slow.enter_context(server.connect())
            waiting.sendall(b"POST /api/x HTTP/1.1\r\nHost: hello.localhost\r\nContent-Length: 9\r\n\r\nabc")
        server.sites.put("big", "fazt_app_big000000000", {"big.bin": b"x" * 30_000_000})
        reader = slow.enter_context(socket.socket())
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(("127.0.0.1", server.port))
        reader.sendall(b"GET /big.bin HTTP/1.1\r\nHost: big.localhost\r\n\r\n")
        assert reader.recv(12) == b"HTTP/1.1 200"
        assert server.get("/about.html").status == 200
        assert server.ask("POST", "/api/x", body=b"text", headers={"Content-Type": "text/plain"}).status == 200


def test_a_few_uploads_that_never_end_leave_room_for_others():
    space = UploadSpace(8 * PLAIN_CAP)
    with space.share() as one, space.share() as two, space.share() as other:
        one(PLAIN_CAP)
        one(4 * PLAIN_CAP)
        two(PLAIN_CAP)
        with pytest.raises(RefusalError):
            two(PLAIN_CAP)
        other(PLAIN_CAP)
    assert space.used == 0


def test_bodies_are_held_in_proportion_to_the_machine(limits):
    def room(ram: int, max_upload: int) -> int:
        base = limits()
        changed = replace(base.hardware, total_ram=ram), replace(base.storage, max_upload=max_upload)
        return asgi._room_for_bodies(replace(base, hardware=changed[0], storage=changed[1])) >> 20

    assert room(64 << 30, 100 << 20) == 400
    assert room(2 << 30, 100 << 20) == 128
    assert room(256 << 20, 100 << 20) == 64
    assert room(256 << 20, 1 << 20) == 4


def test_the_place_of_a_finished_request_is_free_again(start, limits):
    with start(limits=limits(max_requests=1)) as server:
        server.runtime.outcomes["bad"] = RuntimeError("x")
        for path in ("/api/x", "/api/bad", "/nothing", "/about.html", "/api/x"):
            assert server.get(path).status != 503
