"""Happy Eyeballs over judged addresses, for callers that block."""

from __future__ import annotations

import math
import threading
import time

import pytest

from fazt.errors import FaztError, Reason
from fazt.net import connect as module
from fazt.net import sync_connect
from fazt.net.sync_connect import connect, milliseconds
from tests.net.origin import Peer, serve, sockets
from tests.net.test_connect import full_backlog


def silent(peer: Peer) -> None:
    peer.wait_for_end()


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


def test_a_wait_is_never_shorter_than_asked_nor_without_bounds() -> None:
    assert [milliseconds(seconds) for seconds in (-1, 0, 0.0001, 0.001, 1.5)] == [0, 0, 1, 1, 1500]
    assert milliseconds(math.inf) == milliseconds(1e12) == 3_600_000


def test_F28_the_next_address_is_tried_when_the_first_refuses() -> None:
    with serve(silent) as origin:
        begun = time.monotonic()
        sock, address = connect(["127.0.0.2", "127.0.0.3", "127.0.0.1"], origin.port, deadline=soon(), delay=30)
        assert time.monotonic() - begun < 5  # a refusal does not wait for the delay
        assert address == "127.0.0.1"
        assert sock.getpeername() == ("127.0.0.1", origin.port)
        assert not sock.getblocking()
        sock.close()


def test_a_dead_family_does_not_stop_the_other() -> None:
    with serve(silent) as origin:
        sock, address = connect(["::1", "127.0.0.1"], origin.port, deadline=soon(), delay=30)
        assert address == "127.0.0.1"
        sock.close()


def test_a_hanging_address_is_overtaken_and_closed() -> None:
    with serve(silent) as origin, full_backlog("127.0.0.2", origin.port):
        before = sockets()
        sock, address = connect(["127.0.0.2", "127.0.0.1"], origin.port, deadline=soon(), delay=0.02)
        assert address == "127.0.0.1"
        sock.close()
        assert sockets() <= before + 1  # the origin's end of ours may still be open


def test_all_failing_says_so_and_names_addresses_to_the_operator_only() -> None:
    with serve(silent) as origin:
        before = sockets()
        with pytest.raises(FaztError) as caught:
            connect(["127.0.0.2", "::1", "127.0.0.3"], origin.port, deadline=soon(), delay=0.001)
        assert caught.value.reason is Reason.CONNECT_FAILED
        assert "127" not in caught.value.message
        assert caught.value.detail is not None
        assert "127.0.0.2: Connection refused" in caught.value.detail
        assert "127.0.0.3: Connection refused" in caught.value.detail
        assert sockets() == before


@pytest.mark.parametrize("addresses", [["127.0.0.2"], ["127.0.0.2", "127.0.0.3"]])
def test_the_deadline_ends_connecting(addresses: list[str]) -> None:
    with serve(silent) as origin, full_backlog("127.0.0.2", origin.port), full_backlog("127.0.0.3", origin.port):
        before = sockets()
        with pytest.raises(FaztError) as caught:
            connect(addresses, origin.port, deadline=soon(0.05), delay=0.01)
        assert caught.value.reason is Reason.CONNECT
        assert "tried 127.0.0.2" in (caught.value.detail or "")
        assert sockets() == before


def test_no_address_is_a_failure() -> None:
    with pytest.raises(FaztError) as caught:
        connect([], 1, deadline=soon())
    assert caught.value.reason is Reason.CONNECT_FAILED


def test_an_interrupt_closes_every_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(race: object, seconds: float) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(sync_connect._Race, "wait", interrupted)
    with serve(silent) as origin, full_backlog("127.0.0.2", origin.port):
        before = sockets()
        with pytest.raises(KeyboardInterrupt):
            connect(["127.0.0.2"], origin.port, deadline=soon())
        assert sockets() == before


def test_only_so_many_addresses_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def begin(address: str, port: int, *, failures: list[str]) -> tuple[None, int]:
        tried.append(address)
        return None, 0

    monkeypatch.setattr(sync_connect, "begin", begin)
    with pytest.raises(FaztError):
        connect([f"192.0.2.{index}" for index in range(100)], 1, deadline=soon())
    assert len(tried) == module.MAX_ATTEMPTS


def test_threads_connect_at_the_same_time() -> None:
    made: list[str] = []

    def one(port: int) -> None:
        sock, address = connect(["127.0.0.2", "127.0.0.1"], port, deadline=soon(), delay=0.01)
        made.append(address)
        sock.close()

    with serve(silent) as origin:
        threads = [threading.Thread(target=one, args=(origin.port,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert made == ["127.0.0.1"] * 8
