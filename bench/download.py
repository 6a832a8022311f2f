"""Rows of downloads: 1 GiB to disk over http and https, beside httpx2 streaming to a file; peak memory of ours."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import httpx2
import trustme

import fazt
from bench.measure import Row, paired

SIZE = 1 << 30
_PIECE = bytes(1 << 20)


def _serve(pipe: Connection, cert: str | None) -> None:
    context = None
    if cert is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert)
    server = socket.create_server(("127.0.0.1", 0))
    pipe.send(server.getsockname()[1])

    def answer(plain: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) if context else plain as sock:
            while sock.recv(65536):
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
                for _ in range(SIZE // len(_PIECE)):
                    sock.sendall(_PIECE)

    while True:
        connection, _ = server.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


@contextlib.contextmanager
def big_origin(cert: Path | None = None) -> Iterator[int]:
    """Run an origin of one large file while the block runs; gives its port."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, str(cert) if cert else None), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


_ALONE = """
import sys
import fazt
url, address, ca, dest = sys.argv[1:]
origin = url.rsplit("/", 1)[0]
policy = fazt.Policy(allow=[fazt.Rule(origin, addresses=["127.0.0.1/32"])], resolve={"origin.test": [address]},
                     ca_file=ca or None)
fazt.download(url, dest, policy=policy)
status = open("/proc/self/status").read()  # ru_maxrss would be that of the process which started this one
print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""


def _rows(scheme: str, port: int, *, ca: Path | None, target: float, folder: Path) -> list[Row]:
    url = f"{scheme}://origin.test:{port}/file"
    rule = fazt.Rule(f"{scheme}://origin.test:{port}", addresses=["127.0.0.1/32"])
    policy = fazt.Policy(allow=[rule], resolve={"origin.test": ["127.0.0.1"]}, ca_file=ca)
    verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=str(ca)) if ca else True
    ours, theirs = folder / "ours", folder / "theirs"

    with httpx2.Client(trust_env=False, verify=verify) as client:

        def mine(n: int) -> None:
            for _ in range(n):
                fazt.download(url, ours, policy=policy)
                assert ours.stat().st_size == SIZE
                ours.unlink()

        def peer(n: int) -> None:
            for _ in range(n):
                address = f"{scheme}://127.0.0.1:{port}/file"
                extensions = {"sni_hostname": "origin.test"}
                with (
                    client.stream("GET", address, headers={"Host": "origin.test"}, extensions=extensions) as answer,
                    theirs.open("wb") as file,
                ):
                    for piece in answer.iter_raw():
                        file.write(piece)
                assert theirs.stat().st_size == SIZE
                theirs.unlink()

        contenders: list[Callable[[int], None]] = [mine, peer]
        a, b = (cost / 1e6 for cost in paired(contenders, 1, rounds=3))
    alone = [sys.executable, "-c", _ALONE, url, "127.0.0.1", str(ca or ""), str(ours)]
    done = subprocess.run(alone, check=True, capture_output=True, text=True)
    ours.unlink()
    memory = float(done.stdout)
    return [
        Row(f"1 GiB to disk, {scheme}", a, "s", f"≤ {target}x", a <= target * b, "httpx2", b),
        Row(f"1 GiB to disk, {scheme}: peak memory", memory, "MB", "≤ 60 MB", memory <= 60),
    ]


def downloads() -> list[Row]:
    """1 GiB over http and https."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=".")))
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        authority.issue_cert("origin.test").private_key_and_cert_chain_pem.write_to_path(str(folder / "cert.pem"))
        plain = stack.enter_context(big_origin())
        secure = stack.enter_context(big_origin(folder / "cert.pem"))
        return _rows("http", plain, ca=None, target=0.4, folder=folder) + _rows(
            "https", secure, ca=folder / "ca.pem", target=0.6, folder=folder
        )
