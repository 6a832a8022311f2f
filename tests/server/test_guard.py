"""Clients that mean no good: slow, endless, oversized."""

from __future__ import annotations

import contextlib
import resource
import socket
import time

import pytest

from fazt.server import guard, serve

HOST = b"Host: hello.localhost\r\n"


@pytest.fixture
def hasty(monkeypatch):
    """Servers whose patience is short."""
    monkeypatch.setattr(guard.GuardedProtocol, "head_seconds", 0.3)
    monkeypatch.setattr(guard.GuardedProtocol, "stall_seconds", 0.5)


def timed(server, data: bytes, *, drip: bytes = b"") -> tuple[bytes, float]:
    began = time.monotonic()
    with server.connect() as connection:
        connection.sendall(data)
        connection.settimeout(0.05)
        out = b""
        while time.monotonic() - began < 5:
            try:
                piece = connection.recv(65_536)
                out += piece
                if not piece:
                    break
            except TimeoutError:
                pass
            except ConnectionResetError:
                break
            if drip:
                try:
                    connection.sendall(drip)
                except OSError:
                    break
    return out, time.monotonic() - began


@pytest.mark.parametrize(
    ("data", "drip"),
    [
        (b"", b""),
        (b"GET /", b"x"),
        (b"GET / HTTP/1.1\r\n", b"X-A: b\r\n"),
        (b"\r\n", b"\r\n"),
        (b"GET /about.html HTTP/1.1\r\n" + HOST + b"\r\n", b"\r\n"),
        (b"GET /about.html HTTP/1.1\r\n" + HOST + b"\r\nGET / HT", b"x"),
    ],
    ids=["silent", "slow target", "slow fields", "newlines", "newlines after an answer", "slow second head"],
)
@pytest.mark.usefixtures("hasty")
def test_slow_heads_are_cut_off(start, data, drip):
    with start() as server:
        out, took = timed(server, data, drip=drip)
    assert took < 4
    if data.startswith(b"GET /about.html"):
        assert b"about" in out


def test_a_body_that_does_not_come_is_a_408_within_the_window(start):
    with start(window=0.3) as server:
        out, took = timed(server, b"POST /api/x HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\nab")
        assert b" 408 " in out.split(b"\r\n")[0]
        assert b"connection: close" in out.lower()
        assert took < 3
        assert server.runtime.calls == []


def test_a_body_that_drips_is_a_408_within_the_window(start):
    with start(window=0.4) as server:
        head = b"POST /api/x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        out, took = timed(server, head, drip=b"1\r\nx\r\n")
        assert b" 408 " in out.split(b"\r\n")[0]
        assert took < 3


def test_a_body_behind_an_answered_request_is_not_listened_to(server):
    out, took = timed(
        server, b"GET /about.html HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n", drip=b"x" * 100
    )
    assert b"about" in out
    assert took < 3


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000,
        b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"X-%d: y\r\n" % i for i in range(200)) + b"\r\n",
    ],
    ids=["target", "endless field", "large field", "many fields"],
)
def test_oversized_heads_are_a_431(server, head):
    assert server.raw(head).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"Bad Name: x\r\n\r\n",
        b"GET / HTTP/1.1\nHost: hello.localhost\n\n",
        b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n",
        b"CONNECT hello.localhost:443 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"POST /api/x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: identity\r\n\r\n",
        b"POST /api/x HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET http://localhost/api/x HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http://user@hello.localhost/api/x HTTP/1.1\r\n" + HOST + b"\r\n",
    ],
)
def test_requests_that_are_not_http_get_a_bare_400(server, request_bytes):
    out = server.raw(request_bytes, shut=True)
    assert out.split(b"\r\n")[0] in (b"HTTP/1.1 400 Bad Request", b"HTTP/1.1 405 Method Not Allowed")
    assert b"Invalid" not in out
    assert server.runtime.calls == []


def test_idle_connections_make_room_for_one_that_asks(start, monkeypatch):
    monkeypatch.setattr(guard.GuardedProtocol, "most_connections", 4)
    asking = b"GET /about.html HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    with start() as server, contextlib.ExitStack() as idle:
        for _ in range(20):
            idle.enter_context(server.connect()).sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(10):
            assert server.raw(asking).endswith(b"about")


def test_connections_leave_descriptors_for_everything_else(monkeypatch):
    def most(soft: int, hard: int) -> int:
        now = [soft, hard]
        monkeypatch.setattr("resource.getrlimit", lambda _which: tuple(now))
        monkeypatch.setattr("resource.setrlimit", lambda _which, pair: now.__setitem__(slice(None), pair))
        return serve._protocol().most_connections

    assert most(256, 256) == 128
    assert most(1_024, 4_096) == 4_096 - serve.RESERVED_FILES
    assert most(1_024, resource.RLIM_INFINITY) == guard.MAX_CONNECTIONS
    assert most(1 << 20, 1 << 20) == guard.MAX_CONNECTIONS


def test_a_target_in_absolute_form_names_the_same_host_as_the_field(server):
    out = server.raw(b"GET http://Hello.localhost/about.html HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    assert out.endswith(b"about")


def test_trailers_do_not_pass_for_header_fields(server):
    trailers = b"Authorization: Bearer stolen\r\nHost: localhost\r\nX-Seen: trailer\r\n"
    request = (
        b"POST /api/x HTTP/1.1\r\n" + HOST + b"X-Seen: head\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    out = server.raw(request + b"2\r\nhi\r\n0\r\n" + trailers + b"\r\n")
    assert out.startswith(b"HTTP/1.1 200")
    (_, seen), *_ = server.runtime.calls
    assert seen.headers["x-seen"] == "head"
    assert "authorization" not in seen.headers


@pytest.mark.parametrize(
    "endless", [b"0\r\nX-A: " + b"a" * 400_000, b"0\r\n" + b"X-A: b\r\n" * 50_000, b"1;" + b"a" * 400_000], ids=len
)
def test_what_stands_around_a_body_is_bounded(server, endless):
    head = b"POST /api/x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head)
        time.sleep(0.05)  # the head by itself, as a patient attacker sends it
        connection.settimeout(5)
        try:
            connection.sendall(endless)
            answer = connection.recv(100)
        except (ConnectionResetError, BrokenPipeError):
            answer = b"HTTP/1.1 4"
    assert answer.startswith(b"HTTP/1.1 4")
    assert server.runtime.calls == []


def test_small_chunks_are_no_attack(server):
    head = b"POST /api/x HTTP/1.1\r\n" + HOST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head)
        for _ in range(20):
            connection.sendall(b"1\r\nx\r\n" * 5_000)
        connection.sendall(b"0\r\n\r\n")
        connection.settimeout(10)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert len(server.runtime.calls[0][1].body) == 100_000


@pytest.mark.usefixtures("hasty")
def test_a_reader_that_does_not_read_is_cut_off(start):
    body = b"x" * 30_000_000
    with start() as server:
        server.sites.put("big", "fazt_app_big000000000", {"big.bin": body})
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(b"GET /big.bin HTTP/1.1\r\nHost: big.localhost\r\n\r\n")
            time.sleep(1.2)
            connection.settimeout(10)
            got = 0
            try:
                while piece := connection.recv(1 << 20):
                    got += len(piece)
            except ConnectionResetError:
                pass
        assert got < len(body)


def test_pipelined_requests_are_answered_in_order(server):
    one = b"GET /about.html HTTP/1.1\r\n" + HOST + b"\r\n"
    last = b"GET /docs HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    out = server.raw(one * 3 + last)
    assert out.count(b"HTTP/1.1 200") == 4
    assert out.endswith(b"docs")


def test_an_upgrade_is_declined_by_a_plain_answer(server):
    fields = b"Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n"
    out = server.raw(b"GET /about.html HTTP/1.1\r\n" + HOST + fields, shut=True)
    assert out.startswith(b"HTTP/1.1 200")
