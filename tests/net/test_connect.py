"""Happy Eyeballs over judged addresses."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Iterator

import pytest

from fazt.errors import FaztError, Reason
from fazt.net import connect as module
from fazt.net.connect import connect, interleave
from tests.net.origin import LOOPS, Peer, run, serve, sockets, soon, until


def silent(peer: Peer) -> None:
    peer.wait_for_end()


@contextlib.contextmanager
def full_backlog(host: str, port: int) -> Iterator[None]:
    """Listen without accepting, the queue full: connecting there hangs, as to a host that drops packets."""
    listener = socket.socket()
    listener.bind((host, port))
    listener.listen(0)
    fillers = []
    for _ in range(3):
        filler = socket.socket()
        filler.setblocking(False)
        assert filler.connect_ex((host, port)) in (0, errno.EINPROGRESS)
        fillers.append(filler)
    time.sleep(0.01)
    try:
        yield
    finally:
        for sock in [listener, *fillers]:
            sock.close()


@pytest.mark.parametrize(
    ("given", "order"),
    [
        ([], []),
        (["1.1.1.1"], ["1.1.1.1"]),
        (["::1", "::2", "1.1.1.1"], ["::1", "1.1.1.1", "::2"]),
        (["1.1.1.1", "1.1.1.2", "1.1.1.3", "::1"], ["1.1.1.1", "::1", "1.1.1.2", "1.1.1.3"]),
        (["::1", "::1", "1.1.1.1"], ["::1", "1.1.1.1"]),
    ],
)
def test_interleaves_families(given: list[str], order: list[str]) -> None:
    assert interleave(given) == order


@pytest.mark.parametrize("loop", LOOPS)
def test_F28_the_next_address_is_tried_when_the_first_refuses(loop: str) -> None:
    async def main(port: int) -> None:
        begun = time.monotonic()
        sock, address = await connect(["127.0.0.2", "127.0.0.3", "127.0.0.1"], port, deadline=soon(), delay=30)
        assert time.monotonic() - begun < 5  # a refusal does not wait for the delay
        assert address == "127.0.0.1"
        assert sock.getpeername() == ("127.0.0.1", port)
        assert not sock.getblocking()
        sock.close()

    with serve(silent) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_dead_family_does_not_stop_the_other(loop: str) -> None:
    async def main(port: int) -> None:
        sock, address = await connect(["::1", "127.0.0.1"], port, deadline=soon(), delay=30)
        assert address == "127.0.0.1"
        sock.close()

    with serve(silent) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_hanging_address_is_overtaken_and_closed(loop: str) -> None:
    async def main(port: int) -> None:
        before = sockets()
        sock, address = await connect(["127.0.0.2", "127.0.0.1"], port, deadline=soon(), delay=0.02)
        assert address == "127.0.0.1"
        sock.close()
        await until(lambda: sockets() <= before + 1)  # the origin's end of ours may still be open

    with serve(silent) as origin, full_backlog("127.0.0.2", origin.port):
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", LOOPS)
def test_all_failing_says_so_and_names_addresses_to_the_operator_only(loop: str) -> None:
    async def main(port: int) -> None:
        before = sockets()
        with pytest.raises(FaztError) as caught:
            await connect(["127.0.0.2", "::1", "127.0.0.3"], port, deadline=soon(), delay=0.001)
        assert caught.value.reason is Reason.CONNECT_FAILED
        assert "127" not in caught.value.message
        assert caught.value.detail is not None
        assert "127.0.0.2: Connection refused" in caught.value.detail
        assert "127.0.0.3: Connection refused" in caught.value.detail
        assert sockets() == before

    with serve(silent) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("addresses", [["127.0.0.2"], ["127.0.0.2", "127.0.0.3"]])
def test_the_deadline_ends_connecting(loop: str, addresses: list[str]) -> None:
    async def main(port: int) -> None:
        before = sockets()
        with pytest.raises(FaztError) as caught:
            await connect(addresses, port, deadline=soon(0.05), delay=0.01)
        assert caught.value.reason is Reason.CONNECT
        await until(lambda: sockets() == before)

    with serve(silent) as origin, full_backlog("127.0.0.2", origin.port), full_backlog("127.0.0.3", origin.port):
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", LOOPS)
def test_cancelling_closes_every_attempt(loop: str) -> None:
    async def main(port: int) -> None:
        before = sockets()
        task = asyncio.ensure_future(connect(["127.0.0.2", "127.0.0.3"], port, deadline=soon(), delay=0.001))
        await until(lambda: sockets() == before + 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: sockets() == before)

    with serve(silent) as origin, full_backlog("127.0.0.2", origin.port), full_backlog("127.0.0.3", origin.port):
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", LOOPS)
def test_the_loser_of_a_dead_heat_is_closed(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []

    async def attempt(address: str, port: int, *, failures: list[str]) -> tuple[socket.socket, str]:
        sock = socket.socket()
        made.append(sock)
        try:
            await asyncio.sleep(0.01)
        except BaseException:
            sock.close()
            raise
        return sock, address

    monkeypatch.setattr(module, "_attempt", attempt)

    async def main() -> None:
        winner, _ = await connect(["127.0.0.1", "127.0.0.2", "127.0.0.3"], 1, deadline=soon(), delay=0)
        await until(lambda: sum(sock.fileno() >= 0 for sock in made) == 1)
        assert winner.fileno() >= 0
        winner.close()

    run(loop, main)


def test_only_so_many_addresses_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    async def attempt(address: str, port: int, *, failures: list[str]) -> None:
        tried.append(address)

    monkeypatch.setattr(module, "_attempt", attempt)
    with pytest.raises(FaztError):
        asyncio.run(connect([f"192.0.2.{index}" for index in range(100)], 1, deadline=1e12))
    assert len(tried) == module.MAX_ATTEMPTS


class _Pretender:
    """A socket that claims to be connected elsewhere."""

    def __init__(self, peer: tuple[str, int], own: tuple[str, int] = ("127.0.0.1", 5)) -> None:
        self.peer, self.own = peer, own

    def getpeername(self) -> tuple[str, int]:
        return self.peer

    def getsockname(self) -> tuple[str, int]:
        return self.own


def test_whom_we_reached_is_verified() -> None:
    assert module.wrong_peer(_Pretender(("127.0.0.1", 80)), "127.0.0.1", 80) == ""  # type: ignore[arg-type]
    assert module.wrong_peer(_Pretender(("::1", 80)), "0:0::1", 80) == ""  # type: ignore[arg-type]
    assert module.wrong_peer(_Pretender(("10.0.0.1", 80)), "127.0.0.1", 80)  # type: ignore[arg-type]
    assert module.wrong_peer(_Pretender(("127.0.0.1", 81)), "127.0.0.1", 80)  # type: ignore[arg-type]
    assert module.wrong_peer(_Pretender(("127.0.0.1", 80), ("127.0.0.1", 80)), "127.0.0.1", 80)  # type: ignore[arg-type]
