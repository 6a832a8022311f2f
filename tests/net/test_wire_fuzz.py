"""Whatever a server sends, a call ends: with an answer or with a coded error, and without a connection left over."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fazt.errors import FaztError
from fazt.net.tls import TlsConfig
from tests.net.origin import (
    OK,
    WIRES,
    Peer,
    authority,
    call,
    run,
    send,
    serve,
    server_context,
    sockets,
    soon,
    target,
    wire,
)
from tests.net.test_http1 import BROKEN_CHUNKS, CHUNKED, REFUSED

TRIES = 60
GOOD = [
    OK,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n" + b"z" * 300,
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nfour",
    b"HTTP/1.1 200 OK\r\nA: b\r\nConnection: close\r\n\r\nto the end",
    *REFUSED.values(),
    *(CHUNKED + chunk for chunk in BROKEN_CHUNKS.values()),
]
SPICE = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"0\r\n\r\n",
    b"Content-Length: 5\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n",
    b"\xff",
]


def mutated(draw: random.Random) -> bytes:
    """Return noise, or an answer with something wrong in it."""
    if draw.random() < 0.15:
        return draw.randbytes(draw.randrange(400))
    data = bytearray(draw.choice(GOOD))
    for _ in range(draw.randrange(4)):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(5):
            case 0:
                data[at:at] = draw.choice(SPICE)
            case 1:
                del data[at : at + draw.randrange(1, 9)]
            case 2 if at < len(data):
                data[at] ^= 1 << draw.randrange(8)
            case 3:
                data[at:at] = data[: draw.randrange(len(data) + 1)]
            case _:
                data = data[:at]
    return bytes(data)


def _script(seed: int) -> object:
    def script(peer: Peer) -> None:
        draw = random.Random(seed * 100_000 + peer.number)
        while peer.head():
            data = mutated(draw)
            cut = draw.randrange(len(data) + 1)
            peer.send(data[:cut])
            peer.send(data[cut:])
            if draw.random() < 0.1:
                peer.reset()
            if draw.random() < 0.95:
                return

    return script


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize("seed", range(3))
def test_any_answer_ends_the_call(loop: str, seed: int) -> None:
    before = sockets()

    async def main(port: int) -> int:
        net = wire()
        answered = 0
        draw = random.Random(seed)
        for _ in range(TRIES):
            until = soon(0.2)
            connection = await net.acquire(target(port), deadline=soon(), on_attempt=lambda: None)
            try:
                method = draw.choice(["GET", "HEAD", "POST"])
                await send(connection, method, body=b"x" * 100_000 if method == "POST" else None, deadline=until)
                if draw.random() < 0.5:
                    await connection.read(cap=1 << 16, deadline=until)
                else:
                    while await connection.read_some(deadline=until):
                        pass
                answered += 1
            except FaztError:
                assert connection not in net.live
            finally:
                connection.release()
        await net.close()
        assert not net.live
        return answered

    with serve(_script(seed)) as origin:  # type: ignore[arg-type]
        assert 0 < run(loop, lambda: main(origin.port)) < TRIES
    assert sockets() == before


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize("when", ["handshake", "records"])
def test_noise_in_place_of_tls_ends_the_call(loop: str, when: str, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(str(ca))
    roots = TlsConfig([ca])
    assert roots.context
    before = sockets()

    def script(peer: Peer) -> None:
        draw = random.Random(peer.number)
        sock = peer.sock
        if when == "records":
            secure = server_context().wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            secure.do_handshake()
            secure.recv(65536)
            sock = type(peer.sock)(fileno=secure.detach())  # what follows goes around TLS
        else:
            sock.recv(65536)
        start = b"\x17\x03\x03" if draw.random() < 0.5 else b""
        try:
            sock.sendall(start + draw.randbytes(draw.randrange(1, 600)))
        finally:
            sock.close()

    async def main(port: int) -> None:
        net = wire(tls=roots)
        for _ in range(20):
            with pytest.raises(FaztError):
                await call(net, target(port, scheme="https", tls=roots.id), deadline=soon(5))
            assert not net.live
        await net.close()

    with serve(script) as origin:
        run(loop, lambda: main(origin.port))
    assert sockets() == before
