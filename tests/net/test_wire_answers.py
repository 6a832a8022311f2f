"""What a server may answer, and every way of misbehaving with an answer, on real sockets and both event loops."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time

import pytest

from fazt.errors import Code, FaztError, Reason
from tests.net.origin import (
    LOOPS,
    OK,
    WIRES,
    Got,
    Peer,
    Script,
    answering,
    call,
    nothing,
    once,
    run,
    send,
    serve,
    sockets,
    soon,
    target,
    until,
    wire,
)
from tests.net.test_http1 import BROKEN_CHUNKS, CHUNKED, REFUSED

HEAD = b"HTTP/1.1 200 OK\r\n"


def exchange(loop: str, script: Script, method: str = "GET", *, cap: int = 1 << 20, body: bytes | None = None) -> Got:
    """Make one call to a fresh origin that runs `script`."""

    async def main(port: int) -> Got:
        net = wire()
        try:
            return await call(net, target(port), method, cap=cap, body=body)
        finally:
            await net.close()
            assert not net.live

    with serve(script) as origin:
        return run(loop, lambda: main(origin.port))


def failure(loop: str, script: Script, *, cap: int = 1 << 20, body: bytes | None = None) -> FaztError:
    with pytest.raises(FaztError) as caught:
        exchange(loop, script, "POST" if body else "GET", cap=cap, body=body)
    for leak in ("127.0.0.1", "llhttp", "fields"):
        assert leak not in caught.value.message.replace("The fields of the server's answer", "")
    return caught.value


# --- answers that are fine


@pytest.mark.parametrize("loop", WIRES)
def test_reads_an_answer_and_pools_the_connection(loop: str) -> None:
    got = exchange(loop, answering(OK))
    assert (got.head.status, got.body) == (200, b"ok")
    assert got.connection.reused
    assert got.connection.address == "127.0.0.1"


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_reads_an_answer_in_any_segmentation(loop: str, size: int) -> None:
    body = bytes(range(256)) * 4
    chunks = b"".join(b"%x;e\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:]))
    answer = CHUNKED + chunks + b"0\r\nDigest: x\r\n\r\n"

    def script(peer: Peer) -> None:
        peer.request()
        for start in range(0, len(answer), size):
            peer.send(answer[start : start + size])
        peer.wait_for_end()

    got = exchange(loop, script)
    assert got.body == body
    assert got.head.headers == (("transfer-encoding", "chunked"),)
    assert got.connection.trailers == (("digest", "x"),)


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", HEAD + b"Content-Length: 5000\r\n\r\n"),
        ("HEAD", HEAD + b"Transfer-Encoding: chunked\r\n\r\n"),
        ("HEAD", HEAD + b"\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5000\r\n\r\n"),
    ],
)
def test_answers_without_a_body_end_with_the_head_and_the_connection_stays(
    loop: str, method: str, answer: bytes
) -> None:
    got = exchange(loop, answering(answer), method, cap=10)
    assert got.body == b""
    assert got.connection.reused


@pytest.mark.parametrize("loop", WIRES)
def test_body_that_ends_with_the_connection(loop: str) -> None:
    got = exchange(loop, once(HEAD + b"\r\n" + b"x" * 100_000))
    assert got.body == b"x" * 100_000
    assert not got.connection.reused


@pytest.mark.parametrize("loop", WIRES)
def test_gzip_although_identity_was_asked_is_delivered_raw(loop: str) -> None:
    packed = gzip.compress(b"secret" * 100)
    answer = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed
    got = exchange(loop, answering(answer))
    assert got.body == packed
    assert ("content-encoding", "gzip") in got.head.headers


@pytest.mark.parametrize("loop", WIRES)
def test_a_few_interim_answers_are_passed_over(loop: str) -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\n" + b"HTTP/1.1 103 Early Hints\r\nLink: </s>\r\n\r\n" * 3
    got = exchange(loop, answering(early + OK))
    assert got.head.status == 200
    assert got.head.headers == (("content-length", "2"),)


@pytest.mark.parametrize("loop", WIRES)
def test_half_close_after_the_answer_delivers_it_and_closes(loop: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(OK)
        peer.sock.shutdown(socket.SHUT_WR)
        peer.wait_for_end()

    assert exchange(loop, script).body == b"ok"


@pytest.mark.parametrize("loop", WIRES)
def test_connection_close_is_obeyed(loop: str) -> None:
    got = exchange(loop, answering(HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\nok"))
    assert got.body == b"ok"
    assert not got.connection.reused


# --- answers that are refused


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_is_not_strict(loop: str, name: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(REFUSED[name])
        peer.wait_for_end()  # no end of ours helps: the client must see by itself that it is wrong

    assert failure(loop, script).reason is Reason.PROTOCOL


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize("name", BROKEN_CHUNKS)
def test_refuses_broken_chunks(loop: str, name: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED + BROKEN_CHUNKS[name])
        peer.wait_for_end()

    assert failure(loop, script).reason is Reason.PROTOCOL


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize(
    ("part", "times", "reason"),
    [
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", 50_000, Reason.RESPONSE_HEADERS),
        (b"HTTP/1.1 103 E\r\nLink: " + b"x" * 10_000 + b"\r\n\r\n", 100, Reason.RESPONSE_HEADERS),
        (HEAD + b"A: b\r\n" * 200, 1, Reason.RESPONSE_HEADERS),
        (HEAD + b"A: " + b"x" * 100_000, 1, Reason.RESPONSE_HEADERS),
        (HEAD + b"A: " + b"x" * 70_000 + b"\r\n\r\n", 1, Reason.RESPONSE_HEADERS),
        (CHUNKED + b"2;" + b"x" * 100_000 + b"\r\nok\r\n0\r\n\r\n", 1, Reason.PROTOCOL),
        (CHUNKED + b"0\r\n" + b"A: b\r\n" * 200 + b"\r\n", 1, Reason.RESPONSE_HEADERS),
        (CHUNKED + b"0\r\nA: " + b"x" * 100_000, 1, Reason.RESPONSE_HEADERS),
    ],
)
def test_refuses_floods_of_fields_early(loop: str, part: bytes, times: int, reason: Reason) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        # the end of the block, where there is one, must not be what makes it stop
        peer.flood(part * 50, times // 50) if times > 50 else peer.flood(part, times)
        peer.wait_for_end()

    assert failure(loop, script).reason is reason


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200", HEAD + b"Content-Length: 9\r\n\r\nhalf", CHUNKED + b"2\r\nok\r\n", CHUNKED + b"5\r\nok"],
)
@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
def test_a_truncated_answer_is_an_error_however_it_ends(loop: str, answer: bytes, how: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer)
        if how == "half-close":
            peer.sock.shutdown(socket.SHUT_WR)
            peer.wait_for_end()
        elif how == "reset":
            peer.origin.go.wait(0.02)  # let the answer be read first
            peer.reset()

    assert failure(loop, script).reason is Reason.PROTOCOL


@pytest.mark.parametrize("loop", WIRES)
def test_reset_in_a_body_without_length_is_not_its_end(loop: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD + b"\r\nhalf of it")
        peer.origin.go.wait(0.02)
        peer.reset()

    assert failure(loop, script).reason is Reason.PROTOCOL


@pytest.mark.parametrize("loop", LOOPS)
def test_greeting_before_the_request_is_refused(loop: str) -> None:
    def script(peer: Peer) -> None:
        peer.send(OK)
        peer.wait_for_end()

    async def main(port: int) -> None:
        net = wire()
        connection = await net.acquire(target(port), deadline=soon(), on_attempt=nothing)
        await until(lambda: not net.live)
        with pytest.raises(FaztError) as caught:
            await send(connection)
        assert caught.value.reason is Reason.PROTOCOL
        await net.close()

    with serve(script) as origin:
        run(loop, lambda: main(origin.port))


# --- sizes


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"Content-Length: 11\r\n\r\n",  # not one byte of it has to come
        HEAD + b"Content-Length: 11\r\n\r\n" + b"x" * 11,
        CHUNKED + b"b\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n",
        CHUNKED + b"6\r\nxxxxxx\r\n6\r\nxxxxxx\r\n",
        HEAD + b"\r\n" + b"x" * 11,
    ],
)
def test_a_body_over_the_cap_is_refused(loop: str, answer: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer)
        peer.wait_for_end()

    error = failure(loop, script, cap=10)
    assert (error.code, error.reason) == (Code.NET_SIZE, Reason.RESPONSE_BODY)


@pytest.mark.parametrize("loop", WIRES)
def test_a_body_of_exactly_the_cap_passes(loop: str) -> None:
    assert len(exchange(loop, answering(HEAD + b"Content-Length: 10\r\n\r\n" + b"x" * 10), cap=10).body) == 10


@pytest.mark.parametrize("loop", LOOPS)
def test_a_fast_server_can_t_fill_memory(loop: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD + b"\r\n")
        peer.flood(b"x" * 65536, 2000)

    async def main(port: int, sent: object) -> None:
        net = wire()
        connection = await net.acquire(target(port), deadline=soon(), on_attempt=nothing)
        await send(connection)
        await until(lambda: connection._paused)  # nobody reads: our buffer and the kernel's fill up, the server waits
        held = connection._reader.size
        assert held < 1 << 20
        await asyncio.sleep(0.02)
        assert connection._reader.size == held
        got = 0
        while got < 30 << 20:
            piece = await connection.read_some(deadline=soon())
            assert len(piece) < 1 << 20
            got += len(piece)
        with pytest.raises(FaztError) as caught:
            await connection.read(cap=1 << 20, deadline=soon())
        assert caught.value.reason is Reason.RESPONSE_BODY
        await net.close()

    with serve(script) as origin:
        run(loop, lambda: main(origin.port, origin))


@pytest.mark.parametrize("loop", WIRES)
def test_streams_a_body_and_then_pools_the_connection(loop: str) -> None:
    def script(peer: Peer) -> None:
        while peer.request():
            peer.send(CHUNKED + b"3\r\none\r\n")
            peer.origin.go.wait(5)
            peer.send(b"3\r\ntwo\r\n0\r\nA: b\r\n\r\n")

    async def main(port: int, go: object) -> None:
        net = wire()
        connection = await net.acquire(target(port), deadline=soon(), on_attempt=nothing)
        await send(connection)
        assert await connection.read_some(deadline=soon()) == b"one"
        assert not connection.complete
        origin.go.set()
        assert await connection.read_some(deadline=soon()) == b"two"
        assert await connection.read_some(deadline=soon()) == b""
        assert connection.complete
        assert connection.trailers == (("a", "b"),)
        connection.release()
        assert len(net.pool) == 1
        await net.close()

    with serve(script) as origin:
        run(loop, lambda: main(origin.port, origin))


# --- uploads


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize("how", ["drained", "closed", "reset"])
def test_early_413_to_a_large_upload_is_read(loop: str, how: str) -> None:
    """The server answers after the head and never reads the body: writing fails, the answer must not be lost."""
    answer = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig"

    def script(peer: Peer) -> None:
        peer.head()
        peer.send(answer)
        if how == "reset":
            peer.reset()
        elif how == "drained":
            peer.sock.shutdown(socket.SHUT_WR)
            peer.wait_for_end()

    async def main(port: int) -> None:
        net = wire()
        got = await call(net, target(port), "POST", body=b"x" * (8 << 20))
        assert (got.head.status, got.body) == (413, b"big")
        assert not net.live
        await net.close()

    with serve(script, rcvbuf=4096) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", LOOPS)
def test_answer_is_read_from_the_kernel_when_writing_fails(loop: str) -> None:
    """The loop is kept busy while answer and reset arrive, so that the first it learns of is the failed write."""
    answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig"

    async def main(port: int, ready: object) -> None:
        net = wire()
        connection = await net.acquire(target(port), deadline=soon(), on_attempt=nothing)
        sending = asyncio.ensure_future(send(connection, "POST", body=b"x" * (8 << 20)))
        await asyncio.sleep(0.02)
        assert connection._transport is not None
        connection._transport.pause_reading()
        origin.go.set()
        head = await sending
        assert head.status == 413
        assert await connection.read(cap=10, deadline=soon()) == b"big"
        connection.release()
        assert not net.live
        await net.close()

    def script(peer: Peer) -> None:
        peer.head()
        peer.origin.go.wait(5)
        peer.send(answer)
        peer.sock.close()  # with unread data in its buffer the kernel sends RST

    with serve(script, rcvbuf=4096) as origin:
        run(loop, lambda: main(origin.port, origin))


@pytest.mark.parametrize("loop", WIRES)
def test_upload_and_answer_larger_than_all_buffers_don_t_deadlock(loop: str) -> None:
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

    body = bytes(range(256)) * (size // 256)
    got = exchange(loop, script, "PUT", body=body, cap=size)
    assert got.body == body
    assert got.connection.reused


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize("size", [100, 70_000, 3 << 20])
def test_sends_bodies_of_any_size_whole(loop: str, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

    async def main(port: int) -> None:
        net = wire()
        for _ in range(2):
            assert (await call(net, target(port), "PUT", body=body)).body == b"ok"
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))
        assert origin.accepted == 1
        assert [request.partition(b"\r\n\r\n")[2] == body for request in origin.requests] == [True, True]


@pytest.mark.parametrize("loop", WIRES)
def test_answer_before_the_upload_is_done_leaves_nothing_to_reuse(loop: str) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(OK)
        peer.origin.go.wait(5)

    async def main(port: int) -> None:
        net = wire()
        assert (await call(net, target(port), "POST", body=b"x" * (8 << 20))).body == b"ok"
        assert len(net.pool) == 0
        assert not net.live
        await net.close()

    with serve(script, rcvbuf=4096) as origin:
        run(loop, lambda: main(origin.port))


# --- deadlines


def late(loop: str, script: Script, *, body: bytes | None = None, after: float = 0.15) -> FaztError:
    async def main(port: int) -> None:
        net = wire()
        begun = time.monotonic()
        try:
            await call(net, target(port), "POST" if body else "GET", body=body, deadline=soon(after))
        finally:
            assert after * 0.9 < time.monotonic() - begun < after + 15
            assert not net.live
            await net.close()

    with serve(script, rcvbuf=4096) as origin, pytest.raises(FaztError) as caught:
        run(loop, lambda: main(origin.port))
    assert caught.value.code is Code.NET_TIMEOUT
    return caught.value


def _drip(peer: Peer, data: bytes) -> None:
    for index in range(len(data)):
        if peer.origin.go.wait(0.01):
            return
        peer.send(data[index : index + 1])


@pytest.mark.parametrize("loop", WIRES)
def test_slow_fields_end_at_the_deadline(loop: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        _drip(peer, HEAD + b"A: b\r\n" * 1000)

    assert late(loop, script).reason is Reason.FIRST_BYTE


@pytest.mark.parametrize("loop", WIRES)
def test_no_answer_ends_at_the_deadline(loop: str) -> None:
    assert late(loop, lambda peer: peer.wait_for_end()).reason is Reason.FIRST_BYTE


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize("framing", [b"Content-Length: 9999\r\n", b"Transfer-Encoding: chunked\r\n", b""])
def test_F20_deadline_in_the_body_is_a_timeout(loop: str, framing: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD + framing + b"\r\n")
        _drip(peer, b"1\r\nx\r\n" * 1000)

    async def main(port: int) -> None:
        net = wire()
        connection = await net.acquire(target(port), deadline=soon(), on_attempt=nothing)
        await send(connection)
        with pytest.raises(FaztError) as caught:
            await connection.read(cap=1 << 20, deadline=soon(0.05))
        assert (caught.value.code, caught.value.reason) == (Code.NET_TIMEOUT, Reason.BODY)
        assert not net.live
        await net.close()

    with serve(script) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", WIRES)
def test_deadline_covers_an_upload_that_nobody_reads(loop: str) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.origin.go.wait(10)

    assert late(loop, script, body=b"x" * (8 << 20)).reason is Reason.FIRST_BYTE


@pytest.mark.parametrize("loop", WIRES)
def test_interim_answers_don_t_extend_the_deadline(loop: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        for _ in range(20):
            peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")
            if peer.origin.go.wait(0.02):
                return

    assert late(loop, script).reason is Reason.FIRST_BYTE


# --- cancellation


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("stage", ["head", "body", "stream", "upload"])
def test_cancelling_leaves_no_socket(loop: str, stage: str) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        if stage in ("body", "stream"):
            peer.send(HEAD + b"Content-Length: 100\r\n\r\nhalf")
        if stage == "upload":
            peer.origin.go.wait(10)
        peer.wait_for_end()

    async def main(port: int) -> None:
        net = wire()
        connection = await net.acquire(target(port), deadline=soon(), on_attempt=nothing)

        async def work() -> None:
            await send(connection, "POST", body=b"x" * (8 << 20) if stage == "upload" else None)
            if stage == "stream":
                assert await connection.read_some() == b"half"
                await connection.read_some()
            await connection.read(cap=1000, deadline=soon())

        task = asyncio.ensure_future(work())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not net.live
        assert len(net.pool) == 0
        connection.abort()  # both are idempotent
        connection.release()
        await asyncio.sleep(0.01)
        assert connection._transport is None
        await net.close()

    before = sockets()
    with serve(script, rcvbuf=4096) as origin:
        run(loop, lambda: main(origin.port))
        assert stage == "upload" or origin.ended.acquire(timeout=5)
    assert sockets() == before


@pytest.mark.parametrize("loop", WIRES)
def test_release_of_an_unread_answer_closes(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire()
        connection = await net.acquire(target(port), deadline=soon(), on_attempt=nothing)
        await send(connection)
        connection.release()
        assert len(net.pool) == 0
        assert not net.live
        await net.close()

    with serve(once(HEAD + b"Content-Length: 99\r\n\r\nhalf")) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", WIRES)
def test_release_of_a_whole_but_unread_answer_pools(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire()
        connection = await net.acquire(target(port), deadline=soon(), on_attempt=nothing)
        await send(connection)
        connection.release()
        assert len(net.pool) == 1
        assert (await call(net, target(port))).body == b"ok"
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))
        assert origin.accepted == 1
