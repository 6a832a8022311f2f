"""A small origin in a process of its own: keep-alive, a fixed 200-byte JSON body, as little work as can be."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import ssl
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import cast

BODY = b'{"pad":"' + b"x" * 190 + b'"}'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY


class Origin(asyncio.Protocol):
    """Answers every request head with the same response."""

    def __init__(self, answer: bytes = ANSWER) -> None:
        self.answer = answer
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        data = self.rest + data
        heads = data.count(b"\r\n\r\n")
        self.rest = data[data.rfind(b"\r\n\r\n") + 4 :] if heads else data
        if heads:
            self.transport.write(self.answer * heads)


def _run(pipe: Connection, cert: tuple[str, str] | None, headers: bytes) -> None:
    answer = ANSWER.replace(b"\r\n", b"\r\n" + headers, 1)

    async def main() -> None:
        context = None
        if cert is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*cert)
        server = await asyncio.get_running_loop().create_server(
            lambda: Origin(answer), "127.0.0.1", 0, ssl=context, backlog=1024
        )
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())


@contextlib.contextmanager
def origin(cert: tuple[str, str] | None = None, *, headers: bytes = b"") -> Iterator[int]:
    """Run an origin while the block runs; gives its port.

    `cert` is (certificate file, key file) for https; `headers` are further lines of its answer.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(theirs, cert, headers), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()
