"""Request bodies that come in pieces, over every wire."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from fazt.core.call import Phases, Upload
from fazt.errors import FaztError, Reason
from fazt.net.http1 import encode_head
from tests.net.origin import (
    HOST,
    LOOPS,
    OK,
    WIRES,
    Peer,
    Script,
    nothing,
    run,
    send,
    serve,
    sockets,
    soon,
    target,
    until,
    wire,
)

HEAD = b"HTTP/1.1 200 OK\r\n"
KINDS = [*WIRES, "asyncio-sync", "uvloop-sync"]
"""Every wire, with asynchronous bodies where it is asynchronous, and asynchronous wires with synchronous bodies."""


def body(kind: str, *pieces: bytes, raising: Exception | None = None) -> Callable[[], Any]:
    def plain() -> Iterator[bytes]:
        yield from pieces
        if raising is not None:
            raise raising

    async def asynchronous() -> AsyncIterator[bytes]:
        for piece in pieces:
            await asyncio.sleep(0)
            yield piece
        if raising is not None:
            raise raising

    return plain if kind.endswith("sync") else asynchronous


def chunked(peer: Peer) -> bytes:
    """Read a chunked body, raw."""
    held = b""
    while not held.endswith(b"0\r\n\r\n"):
        data = peer.sock.recv(65536)
        if not data:
            break
        held += data
    return held


async def post(net: Any, port: int, upload: Upload, *, phases: Phases | None = None) -> tuple[int, bytes, Any]:
    connection = await net.acquire(target(port), deadline=soon(), on_attempt=nothing)
    try:
        head = await send(connection, "POST", upload=upload, phases=phases)
        return head.status, await connection.read(cap=64 << 20, deadline=soon()), connection
    finally:
        connection.release()


def answer(kind: str, script: Script, upload: Upload, *, rcvbuf: int = 0) -> tuple[int, bytes, bool]:
    """Make one call; returns status, body and whether the connection was kept."""

    async def main(port: int) -> tuple[int, bytes, bool]:
        net = wire()
        try:
            status, content, connection = await post(net, port, upload)
            assert upload.opened
            return status, content, connection.reused
        finally:
            await net.close()
            assert not net.live

    before = sockets()
    with serve(script, rcvbuf=rcvbuf) as origin:
        got = run(kind.removesuffix("-sync"), lambda: main(origin.port))
    assert sockets() == before
    return got


# --- without I/O


def test_the_head_says_how_the_body_comes() -> None:
    def head(upload: Upload) -> bytes:
        return encode_head("PUT", "/", authority=HOST, fields=(), body=None, upload=upload)

    assert b"\r\nTransfer-Encoding: chunked\r\n" in head(Upload(list))
    assert b"Content-Length" not in head(Upload(list))
    assert b"\r\nContent-Length: 0\r\n" in head(Upload(list, length=0))
    assert b"\r\nContent-Length: 5\r\n" in head(Upload(list, length=5))


# --- bodies


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"",),
        (b"one",),
        (b"one", b"", b"two"),
        (b"x" * 200_000, b"y" * 65_536, b"z"),
        tuple([b"ab"] * 500),
    ],
)
def test_a_body_of_known_length(kind: str, pieces: tuple[bytes, ...]) -> None:
    whole = b"".join(pieces)

    def script(peer: Peer) -> None:
        while request := peer.request():
            peer.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(whole) + request.partition(b"\r\n\r\n")[2])

    status, content, kept = answer(kind, script, Upload(body(kind, *pieces), len(whole)))
    assert (status, content) == (200, whole)
    assert kept or not whole  # what has no bytes may be answered before its iterator has ended


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pieces", [(), (b"",), (b"one", b"", b"two"), (b"x" * 200_000, b"y")])
def test_a_body_of_unknown_length_is_chunked(kind: str, pieces: tuple[bytes, ...]) -> None:
    def script(peer: Peer) -> None:
        assert b"Transfer-Encoding: chunked\r\n" in peer.head()
        raw = chunked(peer)
        peer.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(raw) + raw)
        peer.wait_for_end()

    status, raw, kept = answer(kind, script, Upload(body(kind, *pieces)))
    assert (status, kept) == (200, True)
    assert raw == b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("length", "pieces"), [(5, (b"four",)), (3, (b"four",)), (3, (b"abc", b"d")), (1, ())])
def test_a_body_that_is_not_as_long_as_was_said_is_our_error(kind: str, length: int, pieces: tuple[bytes, ...]) -> None:
    seen: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.head()
        while data := peer.sock.recv(100):
            seen.append(data)

    with pytest.raises(FaztError) as caught:
        answer(kind, script, Upload(body(kind, *pieces), length))
    assert caught.value.reason is Reason.BAD_OPTION
    assert len(b"".join(seen)) <= length  # what is too much never leaves


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pieces", [(), (b"some",), (b"x" * 100_000,)])
def test_what_the_body_raises_goes_back_to_the_caller(kind: str, pieces: tuple[bytes, ...]) -> None:
    class MineError(Exception):
        pass

    with pytest.raises(MineError):
        answer(kind, lambda peer: peer.wait_for_end(), Upload(body(kind, *pieces, raising=MineError())))


def test_an_asynchronous_body_is_not_for_the_synchronous_wire() -> None:
    with pytest.raises(FaztError) as caught:
        answer("sync", lambda peer: peer.wait_for_end(), Upload(body("asyncio", b"x")))
    assert caught.value.reason is Reason.BAD_OPTION


# --- the answer comes early


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["half-close", "close", "reset", "open"])
def test_an_answer_that_comes_early_is_returned(kind: str, how: str) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        if how == "reset":
            peer.reset()
        elif how == "half-close":
            peer.sock.shutdown(socket.SHUT_WR)
            peer.wait_for_end()
        elif how == "open":
            peer.wait_for_end()

    upload = Upload(body(kind, *[b"x" * 65_536] * 500))
    status, content, kept = answer(kind, script, upload, rcvbuf=4096)
    assert (status, content, kept) == (413, b"big", False)


@pytest.mark.parametrize("loop", WIRES)
def test_an_answer_that_comes_before_the_next_piece_does_ends_the_upload(loop: str) -> None:
    """Nobody reads on; the body would be endless."""
    taken: list[int] = []

    def script(peer: Peer) -> None:
        peer.head()
        peer.sock.recv(10)
        peer.send(OK)
        peer.wait_for_end()

    def plain() -> Iterator[bytes]:
        while True:
            taken.append(1)
            yield b"x" * 1000

    async def asynchronous() -> AsyncIterator[bytes]:
        for piece in plain():
            await asyncio.sleep(0)
            yield piece

    assert answer(loop, script, Upload(plain if loop == "sync" else asynchronous))[:2] == (200, b"ok")
    assert taken


@pytest.mark.parametrize("kind", KINDS)
def test_upload_and_answer_larger_than_all_buffers_don_t_deadlock(kind: str) -> None:
    """The server echoes as it reads and stops reading while its own writes block."""
    size = 12 << 20

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(HEAD + b"Content-Length: %d\r\n\r\n" % size)
        left = size
        while left:
            data = peer.sock.recv(65536)
            peer.send(data)
            left -= len(data)
        peer.wait_for_end()

    pieces = [bytes([number % 256]) * 65_536 for number in range(size // 65_536)]
    status, content, kept = answer(kind, script, Upload(body(kind, *pieces), size))
    assert (status, kept) == (200, True)
    assert content == b"".join(pieces)


# --- limits and ends


@pytest.mark.parametrize("kind", KINDS)
def test_an_upload_that_nobody_takes_ends_at_its_limit(kind: str) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.origin.go.wait(10)

    async def main(port: int) -> None:
        net = wire()
        with pytest.raises(FaztError) as caught:
            await post(net, port, Upload(body(kind, *[b"x" * 65_536] * 200)), phases=Phases(write=0.05))
        assert caught.value.reason is Reason.WRITE
        assert not net.live
        await net.close()

    with serve(script, rcvbuf=4096) as origin:
        run(kind.removesuffix("-sync"), lambda: main(origin.port))


@pytest.mark.parametrize("loop", WIRES)
def test_a_body_that_comes_slowly_is_the_caller_s_own_affair(loop: str) -> None:
    go = threading.Event()

    def plain() -> Iterator[bytes]:
        for _ in range(4):
            go.wait(0.05)
            yield b"x"

    async def asynchronous() -> AsyncIterator[bytes]:
        for _ in range(4):
            await asyncio.sleep(0.05)
            yield b"x"

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(OK)
        peer.wait_for_end()

    async def main(port: int) -> bytes:
        net = wire()
        upload = Upload(plain if loop == "sync" else asynchronous, 4)
        _, content, _ = await post(net, port, upload, phases=Phases(write=0.1, read=0.1))
        await net.close()
        return content

    with serve(script) as origin:
        assert run(loop, lambda: main(origin.port)) == b"ok"


@pytest.mark.parametrize("loop", LOOPS)
def test_cancelling_an_upload_leaves_nothing(loop: str) -> None:
    before = sockets()
    closed: list[bool] = []

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                await asyncio.sleep(0)
                yield b"x" * 1000
        finally:
            closed.append(True)

    async def main(port: int) -> None:
        net = wire()
        task = asyncio.ensure_future(post(net, port, Upload(endless)))
        await until(lambda: any(connection._fed > 3 for connection in net.live))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not net.live
        await until(lambda: closed == [True])
        assert len(asyncio.all_tasks()) == 1
        await net.close()

    with serve(lambda peer: peer.wait_for_end()) as origin:
        run(loop, lambda: main(origin.port))
    assert sockets() == before
