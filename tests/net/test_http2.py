"""HTTP/2 on both wires, against a real server of it: one connection for many calls, each with its own limits."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import h2.settings
import hpack
import httpcore2
import pytest

from fazt.core.call import Phases, Target, Upload
from fazt.errors import FaztError, Reason, StaleConnectionError
from fazt.net import http2_link, http2_sharing
from fazt.net.aio import Wire
from fazt.net.http1 import encode_head
from fazt.net.http2_frames import GOAWAY, FrameReader, encode
from fazt.net.http2_mux import Mux
from fazt.net.pool import NONE, PoolLimits
from fazt.net.sync import SyncWire
from fazt.net.tls import TlsConfig
from tests.net.h2_origin import H2Origin, H2Peer, Request, h2_context, serve_h2
from tests.net.origin import (
    HOST,
    LOOPS,
    OK,
    WIRES,
    Got,
    answering,
    authority,
    call,
    nothing,
    run,
    serve,
    server_context,
    sockets,
    soon,
    target,
    until,
    wire,
)

EVERYWHERE = pytest.mark.parametrize("loop", WIRES)
MIB = 1024 * 1024
CANCEL, REFUSED, INTERNAL, NO_ERROR, HTTP_1_1 = 8, 7, 2, 0, 13


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsConfig:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority().cert_pem.write_to_path(str(path))
    return TlsConfig([path])


@pytest.fixture(autouse=True)
def _no_socket_is_left() -> Iterator[None]:
    before = sockets()
    yield
    assert sockets() <= before


class Net:
    """A wire of HTTP/2 and one origin."""

    def __init__(self, tls: TlsConfig, port: int, **options: Any) -> None:
        self.wire = wire(tls=tls, http2=True, **options)
        self.target: Target = target(port, scheme="https", tls=tls.id)

    async def begin(
        self,
        path: str = "/",
        method: str = "GET",
        *,
        body: bytes | None = None,
        upload: Upload | None = None,
        seconds: float = 20.0,
        phases: Phases | None = None,
        fresh: bool = False,
        fields: tuple[tuple[str, str], ...] = (),
    ) -> tuple[Any, Any]:
        connection = await self.wire.acquire(
            self.target, deadline=soon(seconds), on_attempt=nothing, fresh=fresh, phases=phases
        )
        head = await connection.send(
            encode_head(method, path, authority=HOST, fields=fields, body=body, upload=upload),
            body,
            deadline=soon(seconds),
            on_sent=nothing,
            method=method,
            upload=upload,
            phases=phases,
        )
        return connection, head

    async def get(self, path: str = "/", method: str = "GET", *, cap: int = 1 << 30, **options: Any) -> Got:
        connection, head = await self.begin(path, method, **options)
        try:
            return Got(head, await connection.read(cap=cap, deadline=soon(20)), connection)
        finally:
            connection.release()

    async def fails(self, path: str = "/", method: str = "GET", **options: Any) -> FaztError:
        with pytest.raises(FaztError) as caught:
            await self.get(path, method, **options)
        return caught.value


Main = Callable[[Net], Coroutine[Any, Any, None]]


def on(loop: str, tls: TlsConfig, origin: H2Origin | Any, main: Main, **options: Any) -> None:
    """Run a scenario with a wire, which is closed at the end."""

    async def whole() -> None:
        net = Net(tls, origin.port, **options)
        try:
            await main(net)
        finally:
            await net.wire.close()

    run(loop, whole)


def echo(request: Request) -> None:
    request.answer(f"{request.field(':method')} {request.path} ".encode() + request.body)


def sizes(text: str) -> int:
    return int(text.rpartition("/")[2])


# --- the ordinary


@EVERYWHERE
def test_calls_over_one_connection(loop: str, tls: TlsConfig) -> None:
    async def main(net: Net) -> None:
        got = await net.get("/one?q=1", fields=(("X-Thing", "a b"), ("x-two", "2"), ("X-Two", "3")))
        assert got.head.status == 200
        assert got.head.version == "HTTP/2"
        assert got.body == b"GET /one?q=1 "
        assert (await net.get("/two", "POST", body=b"body")).body == b"POST /two body"
        assert (await net.get("/three", "POST")).body == b"POST /three "
        assert (await net.get("/four", "DELETE")).body == b"DELETE /four "

    with serve_h2(echo) as origin:
        on(loop, tls, origin, main)
    assert origin.accepted == 1
    assert origin.goodbyes == 1
    assert not origin.resets
    first, second, third, fourth = origin.requests
    assert first.headers == [
        (":method", "GET"),
        (":authority", HOST),
        (":scheme", "https"),
        (":path", "/one?q=1"),
        ("x-thing", "a b"),
        ("x-two", "2"),
        ("x-two", "3"),
    ]
    assert second.field("content-length") == "4"
    assert third.field("content-length") == "0"
    assert fourth.field("content-length") is None


@EVERYWHERE
def test_what_belongs_to_http1_is_not_sent(loop: str, tls: TlsConfig) -> None:
    fields = (("Connection", "keep-alive, x"), ("Keep-Alive", "5"), ("TE", "trailers"), ("Upgrade", "h2c"), ("A", "b"))

    async def main(net: Net) -> None:
        assert (await net.get(fields=fields)).head.status == 200

    with serve_h2(echo) as origin:
        on(loop, tls, origin, main)
    assert [name for name, _ in origin.requests[0].headers if not name.startswith(":")] == ["a"]


@EVERYWHERE
def test_answers_without_a_body(loop: str, tls: TlsConfig) -> None:
    def handler(request: Request) -> None:
        if request.path == "/204":
            request.answer(b"", status=204)
        elif request.path == "/304":
            request.answer(b"", status=304, headers=[("etag", '"x"'), ("content-length", "5")])
        else:
            request.answer(b"", headers=[("content-length", "1000"), ("x", " spaced\t")])

    async def main(net: Net) -> None:
        assert (await net.get("/204")).head.status == 204
        head = (await net.get("/", "HEAD")).head
        assert head.headers == (("content-length", "1000"), ("x", "spaced"))
        assert (await net.get("/", "HEAD", cap=10)).body == (await net.get("/304", cap=1)).body == b""
        connection, head = await net.begin("/", "HEAD")
        connection.release()  # as the engine does, which knows that nothing comes
        assert (await net.get("/204")).connection.reused

    with serve_h2(handler) as origin:
        on(loop, tls, origin, main)
    assert origin.accepted == 1


@EVERYWHERE
def test_large_bodies_both_ways(loop: str, tls: TlsConfig) -> None:
    sent = os.urandom(3 * MIB)

    async def main(net: Net) -> None:
        got = await net.get("/", "POST", body=sent)
        assert got.body == b"POST / " + sent
        connection, _ = await net.begin("/", "POST", body=sent)
        parts = []
        while part := await connection.read_some(deadline=soon(20)):
            parts.append(part)
        assert b"".join(parts) == b"POST / " + sent
        assert connection.complete
        assert await connection.read_some(deadline=soon(20)) == b""
        connection.release()

    with serve_h2(echo) as origin:
        on(loop, tls, origin, main)
    assert origin.accepted == 1


@EVERYWHERE
def test_trailers_and_interim_answers(loop: str, tls: TlsConfig) -> None:
    def handler(request: Request) -> None:
        for _ in range(3):
            request.peer.conn.send_headers(request.stream, [(":status", "103"), ("link", "</a>")])
        request.answer(b"body", headers=[("trailer", "x-sum")], trailers=[("x-sum", "1"), ("x-more", "2")])

    async def main(net: Net) -> None:
        got = await net.get()
        assert got.head.status == 200
        assert got.body == b"body"
        assert got.connection.trailers == (("x-sum", "1"), ("x-more", "2"))
        assert got.head.headers == (("trailer", "x-sum"),)

    with serve_h2(handler) as origin:
        on(loop, tls, origin, main)


# --- uploads


@EVERYWHERE
@pytest.mark.parametrize("known", [True, False])
def test_uploads_in_pieces(loop: str, tls: TlsConfig, known: bool) -> None:
    pieces = [b"a" * 10, b"", b"b" * 200_000, b"c"]
    length = sum(map(len, pieces)) if known else None

    async def main(net: Net) -> None:
        upload = Upload(lambda: iter(pieces), length)
        assert (await net.get("/", "PUT", upload=upload)).body == b"PUT / " + b"".join(pieces)
        assert upload.opened

    with serve_h2(echo) as origin:
        on(loop, tls, origin, main)
    assert origin.requests[0].field("content-length") == (None if length is None else str(length))
    assert origin.requests[0].field("transfer-encoding") is None


@EVERYWHERE
@pytest.mark.parametrize("length", [5, 50])
def test_an_upload_that_is_not_as_long_as_it_said(loop: str, tls: TlsConfig, length: int) -> None:
    async def main(net: Net) -> None:
        upload = Upload(lambda: iter([b"0123456789"]), length)
        assert (await net.fails("/", "PUT", upload=upload)).reason is Reason.BAD_OPTION
        assert (await net.get()).body == b"GET / "

    with serve_h2(echo) as origin:
        on(loop, tls, origin, main)
        assert origin.accepted == 1
        assert [code for _, code in origin.resets] == [CANCEL]


@EVERYWHERE
def test_what_the_caller_s_iterator_raises_comes_back(loop: str, tls: TlsConfig) -> None:
    def failing() -> Iterator[bytes]:
        yield b"first"
        raise ZeroDivisionError("mine")

    async def main(net: Net) -> None:
        with pytest.raises(ZeroDivisionError, match="mine"):
            await net.get("/", "PUT", upload=Upload(failing))
        assert (await net.get()).body == b"GET / "

    with serve_h2(echo) as origin:
        on(loop, tls, origin, main)
        assert origin.accepted == 1


@EVERYWHERE
def test_an_iterator_is_used_in_the_thread_of_its_caller(loop: str, tls: TlsConfig) -> None:
    names: list[str] = []

    def pieces() -> Iterator[bytes]:
        for _ in range(3):
            names.append(threading.current_thread().name)
            yield b"x" * 100_000

    async def main(net: Net) -> None:
        assert len((await net.get("/", "PUT", upload=Upload(pieces))).body) > 300_000

    with serve_h2(echo) as origin:
        on(loop, tls, origin, main)
    assert "fazt-http2" not in names
    assert len(names) == 3


@EVERYWHERE
def test_an_answer_may_come_before_the_request_is_written(loop: str, tls: TlsConfig) -> None:
    """The server refuses a large upload, and does not take it either."""

    def ready(peer: H2Peer) -> None:
        peer.grant = False

    def handler(request: Request) -> None:
        if request.path == "/early-413":
            request.answer(b"too large", status=413)
            request.reset(NO_ERROR)
        else:
            request.answer()

    async def main(net: Net) -> None:
        got = await net.get("/early-413", "POST", body=bytes(4 * MIB))
        assert (got.head.status, got.body) == (413, b"too large")
        assert (await net.get()).head.status == 200

    with serve_h2(handler, ready=ready) as origin:
        on(loop, tls, origin, main)
    assert origin.accepted == 1


@EVERYWHERE
def test_a_request_may_go_on_after_its_answer_began(loop: str, tls: TlsConfig) -> None:
    asked = threading.Event()

    def handler(request: Request) -> None:
        if not request.ended:
            request.head(200)
            asked.set()

    def ready(peer: H2Peer) -> None:
        take = peer.take

        def finish(event: Any) -> None:
            take(event)
            if type(event).__name__ == "StreamEnded":
                request = peer.open[event.stream_id]
                peer.queue(event.stream_id, str(len(request.body)).encode())

        peer.take = finish  # type: ignore[method-assign]

    def pieces() -> Iterator[bytes]:
        yield b"x" * 1000
        assert asked.wait(20)
        yield b"y" * 500_000

    async def main(net: Net) -> None:
        connection, head = await net.begin("/early", "POST", upload=Upload(pieces))
        assert head.status == 200
        assert await connection.read(cap=1000, deadline=soon(20)) == b"501000"
        connection.release()

    with serve_h2(handler, ready=ready) as origin:
        if loop == "sync":
            on(loop, tls, origin, main)
        else:
            _async_pieces(loop, tls, origin, asked)


def _async_pieces(loop: str, tls: TlsConfig, origin: H2Origin, asked: threading.Event) -> None:
    async def pieces() -> Any:
        yield b"x" * 1000
        while not asked.is_set():
            await asyncio.sleep(0.001)
        yield b"y" * 500_000

    async def main(net: Net) -> None:
        connection, head = await net.begin("/early", "POST", upload=Upload(pieces))
        assert head.status == 200
        assert await connection.read(cap=1000, deadline=soon(20)) == b"501000"
        connection.release()

    on(loop, tls, origin, main)


# --- many calls


@EVERYWHERE
def test_many_calls_share_one_connection(loop: str, tls: TlsConfig) -> None:
    async def main(net: Net) -> None:
        bodies = [
            got.body
            for got in await asyncio.gather(*(net.get(f"/{n}", "POST", body=b"x" * n * 999) for n in range(40)))
        ]
        assert bodies == [f"POST /{n} ".encode() + b"x" * n * 999 for n in range(40)]

    with serve_h2(echo) as origin:
        on(loop, tls, origin, main, limits=PoolLimits(total=20, per_key=20, expiry=30.0, connections=64))
    assert origin.accepted == 1
    assert len(origin.requests) == 40


@EVERYWHERE
def test_no_more_streams_than_the_server_allows(loop: str, tls: TlsConfig) -> None:
    """h2's server ends a connection that opens more."""
    most = h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS

    async def main(net: Net) -> None:
        await net.get()  # its settings are known from here on
        answers = await asyncio.gather(*(net.get(f"/{n}") for n in range(20)))
        assert [got.head.status for got in answers] == [200] * 20
        assert {got.connection.target for got in answers} == {net.target}

    with serve_h2(echo, settings={most: 3}) as origin:
        on(loop, tls, origin, main)
    assert origin.accepted > 1


@EVERYWHERE
def test_calls_that_wait_for_settings_keep_to_them(loop: str, tls: TlsConfig) -> None:
    most = h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS

    async def main(net: Net) -> None:
        answers = await asyncio.gather(*(net.get(f"/{n}") for n in range(20)))
        assert [got.head.status for got in answers] == [200] * 20

    with serve_h2(echo, settings={most: 2}) as origin:
        on(loop, tls, origin, main)


@EVERYWHERE
def test_a_late_call_leaves_the_others_alone(loop: str, tls: TlsConfig) -> None:
    def handler(request: Request) -> None:
        if request.path.startswith("/never"):
            return
        if request.path.startswith("/half"):
            request.head(200, [("content-length", "10")])
            request.peer.conn.send_data(request.stream, b"12345")
            return
        request.answer()

    async def main(net: Net) -> None:
        await net.get()
        waiting = asyncio.ensure_future(net.begin("/never-2"))
        late = await asyncio.gather(
            net.fails("/never", seconds=0.05),
            net.fails("/never", phases=Phases(read=0.05)),
            *(net.get(f"/{n}") for n in range(5)),
        )
        assert [one.reason for one in late[:2]] == [Reason.FIRST_BYTE] * 2
        connection, _ = await net.begin("/half")
        assert await connection.read_some(deadline=soon(20)) == b"12345"
        with pytest.raises(FaztError) as caught:
            await connection.read_some(deadline=soon(20), idle=0.05)
        assert caught.value.reason is Reason.BODY
        connection, _ = await net.begin("/half")
        with pytest.raises(FaztError) as caught:
            await connection.read(cap=100, deadline=soon(0.05))
        assert caught.value.reason is Reason.BODY
        assert (await net.get()).head.status == 200
        assert not waiting.done()
        await net.wire.close()
        with pytest.raises(FaztError):
            await waiting

    with serve_h2(handler) as origin:
        on(loop, tls, origin, main)
    assert origin.accepted == 1
    assert [code for _, code in origin.resets] == [CANCEL] * 4


@pytest.mark.parametrize("loop", LOOPS)
def test_a_cancelled_call_leaves_the_others_alone(loop: str, tls: TlsConfig) -> None:
    def handler(request: Request) -> None:
        if not request.path.startswith("/never"):
            request.answer()

    async def main(net: Net) -> None:
        await net.get()
        doomed = [asyncio.ensure_future(net.get(f"/never-{n}")) for n in range(5)]
        await until(lambda: len(origin.requests) == 6)
        for task in doomed[:3]:
            task.cancel()
        assert (await net.get("/other")).head.status == 200
        for task in doomed:
            task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)
        assert (await net.get("/other")).head.status == 200
        await until(lambda: len(origin.resets) == 5)

    with serve_h2(handler) as origin:
        on(loop, tls, origin, main)
    assert origin.accepted == 1


@EVERYWHERE
def test_a_server_that_does_not_take_the_request(loop: str, tls: TlsConfig) -> None:
    def ready(peer: H2Peer) -> None:
        peer.grant = False

    async def main(net: Net) -> None:
        failed = await net.fails("/", "POST", body=bytes(MIB), phases=Phases(write=0.05))
        assert failed.reason is Reason.WRITE

    with serve_h2(lambda request: None, ready=ready) as origin:
        on(loop, tls, origin, main)
        origin.wait(lambda: len(origin.resets) == 1)


# --- limits


@EVERYWHERE
def test_a_body_over_the_cap_ends_its_stream_alone(loop: str, tls: TlsConfig) -> None:
    def handler(request: Request) -> None:
        size = sizes(request.path)
        headers = [("content-length", str(size))] if "told" in request.path else []
        request.answer(b"x" * size, headers=headers)

    async def main(net: Net) -> None:
        assert (await net.fails("/told/2000", cap=1999)).reason is Reason.RESPONSE_BODY
        assert (await net.fails(f"/untold/{MIB}", cap=100_000)).reason is Reason.RESPONSE_BODY
        assert len((await net.get("/told/2000", cap=2000)).body) == 2000
        assert len((await net.get("/untold/2000", cap=2000)).body) == 2000

    with serve_h2(handler) as origin:
        on(loop, tls, origin, main)
    assert origin.accepted == 1


@EVERYWHERE
def test_what_nobody_reads_does_not_stop_the_others(loop: str, tls: TlsConfig) -> None:
    """Forty times 1 MiB is more than the window of the whole connection; each was given up after its head."""

    async def main(net: Net) -> None:
        for _ in range(40):
            connection, _ = await net.begin(f"/{MIB}")
            connection.abort()
        assert len((await net.get(f"/{MIB}")).body) == MIB

    with serve_h2(lambda request: request.answer(b"x" * sizes(request.path))) as origin:
        on(loop, tls, origin, main)
    assert origin.accepted == 1


def many_fields(request: Request) -> None:
    request.answer(headers=[(f"x-{n}", "y") for n in range(129)])


def long_fields(request: Request) -> None:
    request.answer(headers=[(f"x-{n}", "y" * 8000) for n in range(9)])


def interim(request: Request) -> None:
    for _ in range(40):
        request.peer.conn.send_headers(request.stream, [(":status", "103")])
    request.answer()


@EVERYWHERE
@pytest.mark.parametrize("handler", [many_fields, long_fields, interim])
def test_too_many_or_too_long_fields(loop: str, tls: TlsConfig, handler: Callable[[Request], None]) -> None:
    async def main(net: Net) -> None:
        assert (await net.fails()).reason is Reason.RESPONSE_HEADERS

    with serve_h2(handler) as origin:
        on(loop, tls, origin, main)


def _bomb(sock: ssl.SSLSocket) -> None:
    """A small frame that says one long field very often (RFC 7541's table makes that cheap)."""
    _begin_raw(sock)
    coder = hpack.Encoder()
    block = coder.encode([(":status", "200"), ("x", "y" * 4000)])
    block += coder.encode([("x", "y" * 4000)]) * 8000
    sock.sendall(encode(1, block, stream=1, flags=4))
    _until_gone(sock)


def _endless(sock: ssl.SSLSocket) -> None:
    """Fields that never end."""
    _begin_raw(sock)
    block = hpack.Encoder().encode([(":status", "200")])
    sock.sendall(encode(1, block, stream=1))
    for _ in range(1000):
        sock.sendall(encode(9, b"\x00\x01a\x01b" * 20, stream=1))
    _until_gone(sock)


def _begin_raw(sock: ssl.SSLSocket) -> None:
    sock.sendall(encode(4, b""))
    held = b""
    while b"\x00\x00\x00\x01" not in held[24:] and len(held) < 200:
        held += sock.recv(65536)


def _until_gone(sock: ssl.SSLSocket) -> None:
    with contextlib.suppress(OSError):
        while sock.recv(65536):
            pass


@EVERYWHERE
@pytest.mark.parametrize("bomb", [_bomb, _endless])
def test_bombs_of_fields(loop: str, tls: TlsConfig, bomb: Callable[[ssl.SSLSocket], None]) -> None:
    async def main(net: Net) -> None:
        assert (await net.fails()).reason in (Reason.RESPONSE_HEADERS, Reason.PROTOCOL)

    with serve_h2(echo, raw=bomb) as origin:
        on(loop, tls, origin, main)


@EVERYWHERE
@pytest.mark.parametrize(
    "field",
    [
        ("X-Upper", "a"),
        ("x y", "a"),
        ("x", "a\r\nset-cookie: b"),
        ("x", "a\0b"),
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("content-length", "+5"),
        ("content-length", "5 5"),
    ],
)
def test_a_malformed_answer_is_refused(loop: str, tls: TlsConfig, field: tuple[str, str]) -> None:
    async def main(net: Net) -> None:
        assert (await net.fails()).reason is Reason.PROTOCOL

    with serve_h2(lambda request: request.answer(headers=[field])) as origin:
        on(loop, tls, origin, main)


@EVERYWHERE
@pytest.mark.parametrize("length", ["1", "3"])
def test_a_length_that_does_not_fit_the_body(loop: str, tls: TlsConfig, length: str) -> None:
    async def main(net: Net) -> None:
        assert (await net.fails()).reason is Reason.PROTOCOL

    with serve_h2(lambda request: request.answer(b"ok", headers=[("content-length", length)])) as origin:
        on(loop, tls, origin, main)


@EVERYWHERE
def test_what_is_no_http2_is_refused(loop: str, tls: TlsConfig) -> None:
    def script(sock: ssl.SSLSocket) -> None:
        sock.sendall(OK)
        _until_gone(sock)

    async def main(net: Net) -> None:
        failed = await net.fails()
        assert failed.reason is Reason.PROTOCOL
        assert not isinstance(failed, StaleConnectionError)

    with serve_h2(echo, raw=script) as origin:
        on(loop, tls, origin, main)


# --- ends


@EVERYWHERE
@pytest.mark.parametrize("code", [REFUSED, INTERNAL])
def test_a_stream_that_the_server_resets(loop: str, tls: TlsConfig, code: int) -> None:
    def handler(request: Request) -> None:
        if request.path == "/reset":
            request.reset(code)
        else:
            request.answer()

    async def main(net: Net) -> None:
        failed = await net.fails("/reset", "POST", body=b"x")
        if code == REFUSED:
            assert isinstance(failed, StaleConnectionError)
            assert not failed.sent  # nobody has looked at it: it may be sent again
        else:
            assert failed.reason is Reason.PROTOCOL
        assert (await net.get()).head.status == 200

    with serve_h2(handler) as origin:
        on(loop, tls, origin, main)
    assert origin.accepted == 1


@EVERYWHERE
def test_a_reset_in_the_middle_of_a_body(loop: str, tls: TlsConfig) -> None:
    def handler(request: Request) -> None:
        request.head(200)
        request.peer.conn.send_data(request.stream, b"half")
        request.reset(REFUSED)

    async def main(net: Net) -> None:
        failed = await net.fails()
        assert failed.reason is Reason.PROTOCOL
        assert not isinstance(failed, StaleConnectionError)

    with serve_h2(handler) as origin:
        on(loop, tls, origin, main)


@EVERYWHERE
def test_goodbye_lets_what_is_under_way_finish(loop: str, tls: TlsConfig) -> None:
    """GOAWAY with NO_ERROR: streams up to the last one go on, later ones may be sent again elsewhere."""

    def handler(request: Request) -> None:
        peer = request.peer
        if request.path == "/second":
            peer.raw(encode(GOAWAY, (1).to_bytes(4, "big") + bytes(4)))
            first = peer.open[1]
            first.answer(b"first")
        elif request.path != "/first":
            request.answer(b"later")

    async def main(net: Net) -> None:
        first = asyncio.ensure_future(net.get("/first"))
        await until(lambda: len(origin.requests) == 1)
        failed = await net.fails("/second", "POST", body=b"x")
        assert isinstance(failed, StaleConnectionError)
        assert not failed.sent
        assert (await first).body == b"first"
        assert (await net.get("/later")).body == b"later"
        assert origin.accepted == 2

    with serve_h2(handler) as origin:
        on(loop, tls, origin, main)


@EVERYWHERE
def test_goodbye_to_an_idle_connection(loop: str, tls: TlsConfig) -> None:
    async def main(net: Net) -> None:
        await net.get()
        peer = origin.peers[0]
        peer.raw(encode(GOAWAY, (1).to_bytes(4, "big") + bytes(4)))
        got = await net.get()
        assert got.head.status == 200
        assert not got.connection.reused
        assert origin.accepted == 2

    with serve_h2(echo) as origin:
        on(loop, tls, origin, main)


@EVERYWHERE
def test_an_idle_connection_that_the_server_closed(loop: str, tls: TlsConfig) -> None:
    async def main(net: Net) -> None:
        await net.get()
        origin.peers[0].sock.shutdown(socket.SHUT_RDWR)
        got = await net.get()
        assert got.head.status == 200
        assert not got.connection.reused

    with serve_h2(echo) as origin:
        on(loop, tls, origin, main)
    assert origin.accepted == 2


@EVERYWHERE
def test_a_connection_that_breaks_ends_all_its_calls(loop: str, tls: TlsConfig) -> None:
    def handler(request: Request) -> None:
        if request.path == "/first":
            request.answer()
        elif request.path == "/half":
            request.head(200)
            request.peer.conn.send_data(request.stream, b"half")
        elif len(origin.requests) == 5:
            request.peer.sock.shutdown(socket.SHUT_RDWR)

    async def main(net: Net) -> None:
        await net.get("/first")
        connection, _ = await net.begin("/half")
        failures = await asyncio.gather(*(net.fails(f"/{n}") for n in range(3)))
        for failed in failures:
            assert isinstance(failed, StaleConnectionError)
            assert failed.sent
        with pytest.raises(FaztError) as caught:
            await connection.read(cap=100, deadline=soon(20))
        assert caught.value.reason is Reason.PROTOCOL
        assert len({id(one) for one in failures}) == 3  # the engine writes each call's id on its error
        assert (await net.get("/first")).head.status == 200

    with serve_h2(handler) as origin:
        on(loop, tls, origin, main)


@EVERYWHERE
def test_pings_are_answered_also_while_nobody_calls(loop: str, tls: TlsConfig) -> None:
    async def main(net: Net) -> None:
        await net.get()
        origin.peers[0].raw(encode(6, b"12345678"))
        await until(lambda: origin.pings == 1)

    with serve_h2(echo) as origin:
        on(loop, tls, origin, main)


@EVERYWHERE
def test_nothing_is_kept_where_nothing_shall_be(loop: str, tls: TlsConfig) -> None:
    async def main(net: Net) -> None:
        await net.get()
        await until(lambda: origin.goodbyes == 1)
        await net.get()

    with serve_h2(echo) as origin:
        on(loop, tls, origin, main, limits=NONE)
    assert origin.accepted == 2


# --- beside HTTP/1.1


@EVERYWHERE
def test_a_server_that_speaks_http1_alone(loop: str, tls: TlsConfig) -> None:
    async def main(net: Net) -> None:
        for _ in range(3):
            got = await call(net.wire, net.target, "POST", body=b"x")
            assert got.head.version == "HTTP/1.1"
            assert got.body == b"ok"
        await asyncio.gather(*(call(net.wire, net.target) for _ in range(5)))

    with serve(answering(OK), tls=server_context()) as origin:
        on(loop, tls, origin, main)
        assert len(origin.requests) == 8


@EVERYWHERE
def test_plain_http_stays_as_it_was(loop: str, tls: TlsConfig) -> None:
    async def main(net: Net) -> None:
        got = await call(net.wire, target(origin.port, tls=tls.id))
        assert got.head.version == "HTTP/1.1"

    with serve(answering(OK)) as origin:
        on(loop, tls, origin, main)


@EVERYWHERE
def test_a_server_that_wants_http1_after_all(loop: str, tls: TlsConfig) -> None:
    def script(sock: ssl.SSLSocket) -> None:
        if sock.selected_alpn_protocol() == "h2":
            peer = H2Peer(sock, origin, lambda request: request.reset(HTTP_1_1), {})
            peer.run()
            return
        while b"\r\n\r\n" in sock.recv(65536):
            sock.sendall(OK)

    async def main(net: Net) -> None:
        failed = await net.fails()
        assert isinstance(failed, StaleConnectionError)
        assert not failed.sent
        got = await net.get(fresh=True)
        assert (got.head.version, got.body) == ("HTTP/1.1", b"ok")

    with serve_h2(echo, raw=script) as origin:
        on(loop, tls, origin, main)


# --- the guard


@EVERYWHERE
def test_addresses_are_judged_as_ever(loop: str, tls: TlsConfig) -> None:
    async def main(net: Net) -> None:
        net.target = net.target._replace(grant=())
        failed = await net.fails()
        assert failed.reason is Reason.PRIVATE_ADDRESS

    with serve_h2(echo) as origin:
        on(loop, tls, origin, main)
    assert not origin.accepted


@EVERYWHERE
def test_connections_are_not_shared_between_grants_or_apps(loop: str, tls: TlsConfig) -> None:
    async def main(net: Net) -> None:
        await net.get()
        for change in ({"app": "other"}, {"grant": ("127.0.0.0/16",)}):
            net.target = net.target._replace(**change)
            assert not (await net.get()).connection.reused

    with serve_h2(echo) as origin:
        on(loop, tls, origin, main)
    assert origin.accepted == 3


@EVERYWHERE
def test_a_certificate_for_another_name_is_refused(loop: str, tls: TlsConfig) -> None:
    async def main(net: Net) -> None:
        assert (await net.fails()).reason is Reason.TLS_FAILED
        assert (await net.fails()).reason is Reason.TLS_FAILED

    with serve_h2(echo, context=h2_context("other.example.com")) as origin:
        on(loop, tls, origin, main)


@EVERYWHERE
def test_a_revoked_rule_ends_sharing(loop: str, tls: TlsConfig) -> None:
    def handler(request: Request) -> None:
        if request.path == "/slow":
            request.head(200)
        else:
            request.answer()

    async def main(net: Net) -> None:
        connection, _ = await net.begin("/slow")
        net.wire.drop_idle(lambda _: False)
        await net.get()
        assert origin.accepted == 2
        connection.abort()
        await until(lambda: origin.goodbyes == 2)
        assert net.wire.drop_idle(lambda _: True) == 0

    with serve_h2(handler) as origin:
        on(loop, tls, origin, main)


@EVERYWHERE
def test_names_roots_and_listeners_may_be_replaced_while_it_is_in_use(loop: str, tls: TlsConfig) -> None:
    async def main(net: Net) -> None:
        await net.get()
        before = net.wire.resolver
        net.wire.resolver = type(before)({HOST: ("127.0.0.2",)})
        net.wire.own_listeners = frozenset({("127.0.0.2", origin.port)})
        net.wire.drop_idle(lambda _: False)
        assert (await net.fails()).reason is Reason.OWN_LISTENER
        net.wire.resolver = before
        net.wire.tls = TlsConfig()
        assert (await net.fails()).reason is Reason.INTERNAL  # the target still names the other
        net.target = net.target._replace(tls=net.wire.tls_id)
        assert (await net.fails()).reason is Reason.TLS_FAILED

    with serve_h2(echo) as origin:
        on(loop, tls, origin, main)


# --- without the extra


@pytest.mark.parametrize("kind", [Wire, SyncWire])
def test_without_the_libraries_there_is_one_warning_and_http1(
    kind: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def missing(name: str) -> Any:
        if name == "h2":
            raise ImportError(name)
        return real(name)

    monkeypatch.setattr(http2_sharing.importlib, "import_module", missing)
    monkeypatch.setattr(http2_sharing, "_warned", False)
    with pytest.warns(RuntimeWarning, match=r"fazt-net\[http2\]"):
        kind(http2=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kind(http2=True)


def test_an_httpcore2_that_has_changed_is_not_guessed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2_sharing, "_warned", False)
    monkeypatch.setattr(http2_sharing, "_STEPS", (*http2_sharing._STEPS, "_a_step_of_the_future"))
    with pytest.warns(RuntimeWarning, match="httpcore2"):
        Wire(http2=True)


def test_the_steps_that_are_done_in_another_way_are_those_that_are_looked_for() -> None:
    own = {name for name in vars(Mux) if hasattr(httpcore2.AsyncHTTP2Connection, name) and not name.startswith("__")}
    assert own | {"_receive_remote_settings_change"} == set(http2_sharing._STEPS)


# --- floods


@pytest.mark.parametrize("loop", LOOPS)
def test_a_server_that_asks_without_listening(loop: str, tls: TlsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pings are answered; whoever never takes the answers is left."""
    monkeypatch.setattr(http2_link, "_MAX_ANSWERS", 50_000)

    def script(sock: ssl.SSLSocket) -> None:
        _begin_raw(sock)
        assert origin.go.wait(20)
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(encode(6, b"12345678") * 4000)

    async def main(net: Net) -> None:
        failing = asyncio.ensure_future(net.fails())
        await until(lambda: len(net.wire.live) == 1)
        for link in net.wire.live:
            link._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        origin.go.set()
        failed = await failing
        assert failed.reason is Reason.PROTOCOL
        assert "takes" in failed.message

    with serve_h2(echo, raw=script, rcvbuf=4096) as origin:
        on(loop, tls, origin, main)


# --- forks


def test_a_child_leaves_the_parent_s_streams_alone(tls: TlsConfig) -> None:
    """Both use the wire after the fork; the parent's connection goes on as if nothing had been."""

    async def scenario(net: Net) -> None:
        assert (await net.get("/parent-1")).head.status == 200
        blocking: SyncWire = net.wire.blocking
        assert blocking.count() == (1, 1)
        left, _ = await net.begin("/parent-left")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                import time

                left.blocking.release()
                with pytest.raises(FaztError):
                    left.blocking.read(cap=100, deadline=time.monotonic() + 20)
                deadline = time.monotonic() + 20
                connection = blocking.acquire(net.target, deadline=deadline, on_attempt=nothing)
                head = encode_head("GET", "/child", authority=HOST, fields=(), body=None)
                answer = connection.send(head, None, deadline=deadline, on_sent=nothing)
                connection.read(cap=100, deadline=deadline)
                blocking.close()
                code = 0 if answer.status == 200 and not connection.reused else 2
            finally:
                os._exit(code)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert await left.read(cap=100, deadline=soon(20)) == b"GET /parent-left "
        left.release()
        got = await net.get("/parent-2")
        assert got.head.status == 200
        assert got.connection.reused

    with serve_h2(echo) as origin:
        on("sync", tls, origin, scenario)
    assert origin.accepted == 2


def test_a_child_leaves_the_parent_s_streams_alone_on_a_loop(tls: TlsConfig) -> None:
    with serve_h2(echo) as origin, asyncio.Runner() as runner:
        net = runner.run(_made(tls, origin.port))
        runner.run(net.get("/parent-1"))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                got = asyncio.run(net.get("/child"))
                code = 0 if got.head.status == 200 and not got.connection.reused else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert runner.run(net.get("/parent-2")).connection.reused
        runner.run(net.wire.close())
    assert origin.accepted == 2


async def _made(tls: TlsConfig, port: int) -> Net:
    return Net(tls, port)


# --- frames


@pytest.mark.parametrize("size", [1, 2, 9, 10, 1000])
def test_frames_are_cut_wherever_the_bytes_are(size: int) -> None:
    frames = [encode(4, b""), encode(0, b"x" * 100, stream=5, flags=1), encode(7, bytes(8)), encode(0, b"", stream=3)]
    data = b"".join(frames)
    reader = FrameReader()
    got = [frame for start in range(0, len(data), size) for frame in reader.feed(data[start : start + size])]
    assert [frame.raw for frame in got] == frames
    assert [(frame.kind, frame.stream, frame.flags) for frame in got] == [(4, 0, 0), (0, 5, 1), (7, 0, 0), (0, 3, 0)]


def test_a_frame_that_is_too_long_is_refused_by_its_header() -> None:
    reader = FrameReader()
    reader.feed(encode(4, b""))
    with pytest.raises(FaztError) as caught:
        reader.feed((16385).to_bytes(3, "big") + bytes(6))
    assert caught.value.reason is Reason.PROTOCOL
