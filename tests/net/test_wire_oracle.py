"""Our wires against httpcore2's: what an ordinary server answers reads the same, on real sockets."""

from __future__ import annotations

import random
from dataclasses import dataclass

import httpcore2
import pytest

from fazt.net.http1 import encode_head
from tests.net.origin import HOST, WIRES, Peer, nothing, run, serve, soon, target, wire

NUMBER = 60
NAMES = ["Content-Type", "ETag", "Set-Cookie", "X-Empty", "Vary", "date", "X-Latin", "Cache-Control", "LINK"]
VALUES = [
    "text/plain; charset=utf-8",
    '"a:b"',
    "a=1; Path=/",
    "",
    "*",
    "Sat, 21 Nov 2026 16:00:00 GMT",
    "caf\xe9",
    "a\tb",
    "x" * 3000,
]
STATUSES = [
    (200, "OK"),
    (201, "Created"),
    (204, "No Content"),
    (304, "Not Modified"),
    (404, "Not Found"),
    (299, "Odd"),
    (500, ""),
]


@dataclass(frozen=True)
class Answer:
    """One answer, and how it is cut into segments."""

    method: str
    pieces: tuple[bytes, ...]
    closes: bool


@dataclass(frozen=True)
class Seen:
    """What a client made of it."""

    status: int
    phrase: str
    version: str
    fields: tuple[tuple[str, str], ...]
    body: bytes


def answers(seed: int) -> list[Answer]:
    """Make answers that any strict client must take."""
    draw = random.Random(seed)
    return [_answer(draw) for _ in range(NUMBER)]


def _answer(draw: random.Random) -> Answer:
    method = draw.choice(["GET", "GET", "GET", "HEAD"])
    status, phrase = draw.choice(STATUSES)
    body = draw.randbytes(draw.choice([0, 1, 2, 200, 5000, 70_000, 300_000]))
    fields = [(draw.choice(NAMES), draw.choice(VALUES)) for _ in range(draw.randrange(6))]
    framing = draw.choice(["length", "length", "chunked", "end"])
    if status in (204, 304):
        framing, body = ("length" if status == 304 else "none"), b""
    if framing == "length":
        fields.insert(draw.randrange(len(fields) + 1), ("Content-Length", str(len(body))))
    elif framing == "chunked":
        fields.insert(draw.randrange(len(fields) + 1), ("Transfer-Encoding", "chunked"))
        body = _chunks(draw, body)
    closes = framing == "end" and method != "HEAD"
    if closes or draw.random() < 0.1:
        fields.append(("Connection", "close"))
        closes = True
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}:{' ' * draw.randrange(3)}{value}" for name, value in fields)]
    whole = b"".join(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" for _ in range(draw.choice([0, 0, 0, 2])))
    whole += "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if method == "HEAD" else body)
    return Answer(method, tuple(_cut(draw, whole)), closes)


def _chunks(draw: random.Random, body: bytes) -> bytes:
    out = b""
    while body:
        size = draw.choice([1, 7, 4096, 100_000]) if len(body) < 10_000 else draw.choice([4096, 100_000])
        part, body = body[:size], body[size:]
        out += b"%x%b\r\n%b\r\n" % (len(part), draw.choice([b"", b"", b";a=b"]), part)
    return out + b"0\r\n" + draw.choice([b"", b"X-Trailer: t\r\n"]) + b"\r\n"


def _cut(draw: random.Random, whole: bytes) -> list[bytes]:
    if draw.random() < 0.5:
        return [whole]
    places = sorted({draw.randrange(len(whole) + 1) for _ in range(draw.randrange(1, 8))})
    return [whole[start:end] for start, end in zip([0, *places], [*places, len(whole)], strict=True)]


def _script(listed: list[Answer]) -> object:
    def script(peer: Peer) -> None:
        while request := peer.request():
            answer = listed[int(request.split(b" ")[1].removeprefix(b"/"))]
            for piece in answer.pieces:
                peer.send(piece)
            if answer.closes:
                return

    return script


def _theirs(listed: list[Answer], port: int) -> list[Seen]:
    out = []
    with httpcore2.ConnectionPool() as pool:
        for index, answer in enumerate(listed):
            got = pool.request(answer.method, f"http://127.0.0.1:{port}/{index}", headers={"Host": HOST})
            fields = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in got.headers)
            phrase = got.extensions["reason_phrase"].decode("latin-1")
            out.append(Seen(got.status, phrase, got.extensions["http_version"].decode(), fields, got.content))
    return out


def _ours(loop: str, listed: list[Answer], port: int) -> list[Seen]:
    async def main() -> list[Seen]:
        net = wire()
        out = []
        for index, answer in enumerate(listed):
            connection = await net.acquire(target(port), deadline=soon(), on_attempt=nothing)
            request = encode_head(answer.method, f"/{index}", authority=HOST, fields=(), body=None)
            head = await connection.send(request, None, deadline=soon(), on_sent=nothing, method=answer.method)
            if index % 2:
                body = await connection.read(cap=1 << 20, deadline=soon())
            else:
                body = b""
                while piece := await connection.read_some(deadline=soon()):
                    body += piece
            connection.release()
            assert len(net.pool) == (0 if answer.closes else 1)
            out.append(Seen(head.status, head.phrase, head.version, head.headers, body))
        await net.close()
        return out

    return run(loop, main)


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize("seed", range(5))
def test_ordinary_answers_read_as_httpcore2_reads_them(loop: str, seed: int) -> None:
    listed = answers(seed)
    with serve(_script(listed)) as origin:  # type: ignore[arg-type]
        theirs = _theirs(listed, origin.port)
        ours = _ours(loop, listed, origin.port)
    assert len(theirs) == NUMBER
    for answer, one, other in zip(listed, ours, theirs, strict=True):
        assert one == other, answer.pieces[0][:300]
