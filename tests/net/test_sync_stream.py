"""Bodies as they come, over the synchronous wire: into the caller's buffer, without end, and what they may hold."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fazt.errors import FaztError, Reason
from fazt.net.http1 import encode_head
from fazt.net.sync import SyncConnection, SyncWire
from fazt.net.sync_resolve import SyncResolver
from fazt.net.tls import TlsConfig
from tests.net.origin import HOST, Peer, Script, authority, nothing, serve, server_context, target, wait_for_kernel

HEAD = b"HTTP/1.1 200 OK\r\n"
BODY = bytes(range(256)) * 4096


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[SyncWire]:
    ca = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(str(ca))
    net = SyncWire(tls=TlsConfig([ca]), resolver=SyncResolver({HOST: ("127.0.0.1",)}))
    yield net
    net.close()
    assert not net.live


def begin(net: SyncWire, port: int, *, scheme: str = "http") -> SyncConnection:
    where = target(port, scheme=scheme, tls=net.tls_id)
    connection = net.acquire(where, deadline=soon(), on_attempt=nothing)
    assert isinstance(connection, SyncConnection)
    head = encode_head("GET", "/", authority=HOST, fields=(), body=None)
    connection.send(head, None, deadline=soon(), on_sent=nothing)
    return connection


def drain(connection: SyncConnection, room: int) -> bytes:
    buffer = memoryview(bytearray(room))
    got = b""
    while piece := connection.read_view(buffer, deadline=soon(), idle=10):
        got += piece
    return got


def chunks(body: bytes, size: int) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def answering(answer: bytes, *, close: bool = False) -> Script:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer)
        if not close:
            peer.wait_for_end()

    return script


ANSWERS = {
    "length": HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY,
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(BODY, 100_000),
    "small chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(BODY, 999),
    "end": HEAD + b"\r\n" + BODY,
    "empty": HEAD + b"Content-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("room", [1, 70_000, 1 << 20])
@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_body_comes_whole_through_a_buffer_of_any_size(wire: SyncWire, name: str, room: int, scheme: str) -> None:
    if room == 1 and name != "empty" and scheme == "http":
        room = 1000  # a byte at a time takes a second

    def script(peer: Peer) -> None:
        answering(ANSWERS[name], close=name == "end")(peer)
        if name == "end" and isinstance(peer.sock, ssl.SSLSocket):
            peer.sock.settimeout(0.2)
            try:
                peer.sock.unwrap()
            except OSError:
                pass

    context = server_context() if scheme == "https" else None
    with serve(script, tls=context) as origin:
        connection = begin(wire, origin.port, scheme=scheme)
        assert drain(connection, room) == (b"" if name == "empty" else BODY)
        assert connection.complete
        connection.release()
        assert connection.reused is (name != "end")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_body_that_is_cut_off_is_an_error(wire: SyncWire, how: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD + b"Content-Length: 999999\r\n\r\n" + b"x" * 200_000)
        peer.origin.go.wait(5)
        if how == "reset":
            peer.reset()

    with serve(script) as origin:
        connection = begin(wire, origin.port)
        buffer = memoryview(bytearray(1 << 20))
        got = 0
        while got < 200_000:
            got += len(connection.read_view(buffer, deadline=soon()))
        origin.go.set()
        with pytest.raises(FaztError) as caught:
            connection.read_view(buffer, deadline=soon())
        assert caught.value.reason is Reason.PROTOCOL


def test_a_reset_is_not_the_end_of_a_body_without_length(wire: SyncWire) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD + b"\r\n" + b"x" * 200_000)
        peer.origin.go.wait(5)
        peer.reset()

    with serve(script) as origin:
        connection = begin(wire, origin.port)
        buffer = memoryview(bytearray(1 << 20))
        got = 0
        while got < 200_000:
            got += len(connection.read_view(buffer, deadline=soon()))
        origin.go.set()
        with pytest.raises(FaztError) as caught:
            connection.read_view(buffer, deadline=soon())
        assert caught.value.reason is Reason.PROTOCOL


@pytest.mark.parametrize("how", ["deadline", "idle"])
def test_waiting_for_more_ends(wire: SyncWire, how: str) -> None:
    with serve(answering(HEAD + b"Content-Length: 999999\r\n\r\n")) as origin:
        connection = begin(wire, origin.port)
        deadline, idle = (soon(0.05), None) if how == "deadline" else (soon(), 0.05)
        with pytest.raises(FaztError) as caught:
            connection.read_view(memoryview(bytearray(100_000)), deadline=deadline, idle=idle)
        assert caught.value.reason is Reason.BODY
        assert not wire.live


@pytest.mark.parametrize("how", ["read", "read_some", "read_view"])
def test_a_deadline_ends_a_body_that_never_stops_coming(wire: SyncWire, how: str) -> None:
    """There is always something to read, so that nobody ever waits."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD + b"\r\n")
        peer.flood(b"x" * (1 << 20), 1 << 20)

    with serve(script) as origin:
        connection = begin(wire, origin.port)
        deadline = soon(0.1)
        buffer = memoryview(bytearray(1 << 18))

        def endless() -> None:
            while how == "read_some":
                connection.read_some(deadline=deadline)
            while how == "read_view":
                connection.read_view(buffer, deadline=deadline)
            connection.read(cap=1 << 40, deadline=deadline)

        with pytest.raises(FaztError) as caught:
            endless()
        assert caught.value.reason is Reason.BODY
        assert not wire.live


def test_a_server_that_nobody_reads_waits(wire: SyncWire) -> None:
    """What is held is what the kernel holds, and one piece."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD + b"\r\n")
        peer.flood(b"x" * 65536, 2000)

    with serve(script) as origin:
        connection = begin(wire, origin.port)
        wait_for_kernel(connection)
        for _ in range(20):
            assert len(connection.read_some(deadline=soon())) <= 1 << 18
            assert connection._reader.size == 0
        connection.abort()


def test_bytes_behind_the_body_poison_the_connection(wire: SyncWire) -> None:
    """They stay in the kernel, where the next call finds them before it sends anything."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY + HEAD + b"Content-Length: 6\r\n\r\nstolen")
        peer.wait_for_end()

    with serve(script) as origin:
        connection = begin(wire, origin.port)
        assert drain(connection, 1 << 20) == BODY
        connection.release()
        again = begin(wire, origin.port)
        assert again is not connection
        again.abort()


def test_the_end_of_the_answer_is_known_when_the_last_byte_came(wire: SyncWire) -> None:
    with serve(answering(ANSWERS["length"])) as origin:
        connection = begin(wire, origin.port)
        buffer = memoryview(bytearray(1 << 20))
        got = 0
        while not connection.complete:
            got += len(connection.read_view(buffer, deadline=soon()))
        assert got == len(BODY)
        assert connection.read_view(buffer, deadline=soon()) == b""
        connection.release()
        assert len(wire.pool) == 1


@pytest.mark.parametrize("how", ["more", "cut", "notified"])
def test_what_tls_says_beyond_or_short_of_a_body_is_noticed(wire: SyncWire, how: str) -> None:
    """Decrypted straight into the buffer, a body still ends where it says, and only there."""
    size = 300_000

    def script(peer: Peer) -> None:
        peer.request()
        sent = size + 10 if how == "more" else size - 10
        peer.send(HEAD + b"Content-Length: %d\r\n\r\n" % size + b"x" * sent)
        if how == "notified" and isinstance(peer.sock, ssl.SSLSocket):
            peer.sock.settimeout(0.2)
            try:
                peer.sock.unwrap()
            except OSError:
                pass
        if how == "more":
            peer.wait_for_end()

    with serve(script, tls=server_context()) as origin:
        connection = begin(wire, origin.port, scheme="https")
        if how == "more":
            assert drain(connection, 1 << 20) == b"x" * size
            connection.release()
            assert not connection.reused
            return
        with pytest.raises(FaztError) as caught:
            drain(connection, 1 << 20)
        assert caught.value.reason is Reason.PROTOCOL
        assert not wire.live
