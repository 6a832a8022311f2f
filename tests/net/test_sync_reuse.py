"""What only the synchronous wire has: threads, locks, no event loop that watches the idle, and a fork among them."""

from __future__ import annotations

import gc
import os
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from fazt.errors import FaztError, Reason, StaleConnectionError
from fazt.net import sync as module
from fazt.net.http1 import encode_head
from fazt.net.pool import PoolLimits
from fazt.net.sync import SyncConnection, SyncWire
from fazt.net.sync_resolve import SyncResolver
from tests.net.origin import HOST, OK, Peer, answering, nothing, once, serve, sockets, target, wait_for_kernel

HEAD = b"HTTP/1.1 200 OK\r\n"
LIMITS = PoolLimits(total=20, per_key=4, expiry=10.0)


def wire(**options: Any) -> SyncWire:
    options.setdefault("limits", LIMITS)
    return SyncWire(resolver=SyncResolver({HOST: ("127.0.0.1",)}), **options)


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


def acquire(net: SyncWire, port: int, *, app: str = "app", **options: Any) -> SyncConnection:
    connection = net.acquire(target(port, app=app), deadline=soon(), on_attempt=nothing, **options)
    assert isinstance(connection, SyncConnection)
    return connection


def send(connection: SyncConnection, **options: Any) -> int:
    head = encode_head("GET", "/", authority=HOST, fields=(), body=None)
    options = {"deadline": soon(), "on_sent": nothing, **options}
    return connection.send(head, None, **options).status


def call(net: SyncWire, port: int) -> bytes:
    connection = acquire(net, port)
    try:
        send(connection)
        return connection.read(cap=1 << 20, deadline=soon())
    finally:
        connection.release()


def test_many_threads_share_a_wire() -> None:
    """Each reads its own answers, whatever the others do, and the books are right in the end."""

    def script(peer: Peer) -> None:
        while request := peer.request():
            name = request.split(b" ")[1]
            peer.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(name) + name)

    wrong: list[object] = []

    def work(net: SyncWire, port: int, number: int) -> None:
        for turn in range(50):
            path = f"/{number}/{turn}"
            connection = acquire(net, port)
            head = encode_head("GET", path, authority=HOST, fields=(), body=None)
            connection.send(head, None, deadline=soon(), on_sent=nothing)
            if turn % 10 == 9:
                connection.abort()
            elif connection.read(cap=100, deadline=soon()) != path.encode():
                wrong.append(path)
            connection.release()

    before = sockets()
    net = wire()
    with serve(script) as origin:
        threads = [threading.Thread(target=work, args=(net, origin.port, number)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not wrong
        assert set(net.pool._order) == net.live
        assert len(net.live) <= LIMITS.per_key
        net.close()
        assert not net.live
    assert sockets() == before


def test_the_idle_expire_when_the_wire_is_next_used(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(module, "monotonic", lambda: now)
    net = wire()
    with serve(answering(OK)) as origin:
        call(net, origin.port)
        first = next(iter(net.live))
        now += LIMITS.expiry - 1
        call(net, origin.port)
        assert net.live == {first}
        now += LIMITS.expiry
        other = net.acquire(target(origin.port, app="other"), deadline=now + 10, on_attempt=nothing)
        assert first.closing
        assert net.live == {other}
        other.abort()
    net.close()


def test_a_connection_that_dies_between_acquire_and_send_is_stale_and_nothing_was_sent() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(OK)
        peer.origin.go.wait(5)

    net = wire()
    with serve(script) as origin:
        call(net, origin.port)
        connection = acquire(net, origin.port)
        assert connection.reused
        origin.go.set()
        wait_for_kernel(connection)
        connection._looked = 0.0  # long ago
        sent: list[int] = []
        with pytest.raises(StaleConnectionError) as caught:
            send(connection, on_sent=lambda: sent.append(1))
        assert not caught.value.sent
        assert not sent
        assert not net.live
    net.close()


def test_a_connection_that_was_reset_before_the_first_byte_is_stale_and_nothing_was_sent() -> None:
    """The reset came after the kernel had been asked whether the connection is alive."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(OK)
        peer.origin.go.wait(5)
        peer.reset()

    net = wire()
    with serve(script) as origin:
        call(net, origin.port)
        connection = acquire(net, origin.port)
        origin.go.set()
        wait_for_kernel(connection)
        connection._looked = soon()
        with pytest.raises(StaleConnectionError) as caught:
            send(connection)
        assert not caught.value.sent
    net.close()


def test_greeting_before_the_request_is_refused() -> None:
    def script(peer: Peer) -> None:
        peer.send(OK)
        peer.wait_for_end()

    net = wire()
    with serve(script) as origin:
        connection = acquire(net, origin.port)
        wait_for_kernel(connection)
        with pytest.raises(FaztError) as caught:
            send(connection)
        assert caught.value.reason is Reason.PROTOCOL
        assert not net.live
    net.close()


def test_a_revoked_host_is_not_kept_after_its_last_call() -> None:
    net = wire()
    with serve(answering(OK)) as origin:
        busy = acquire(net, origin.port)
        other = acquire(net, origin.port, app="other")
        assert net.drop_idle(lambda where: where.app == "other") == 0
        for connection in (busy, other):
            assert send(connection) == 200
            assert connection.read(cap=10, deadline=soon()) == b"ok"  # the call itself goes on
            connection.release()
        assert net.live == {other}
        assert len(net.pool) == 1
    net.close()


def test_closing_the_wire_ends_what_another_thread_waits_for() -> None:
    before = sockets()
    net = wire()
    failures: list[FaztError] = []

    def work(port: int) -> None:
        connection = acquire(net, port, fresh=True)
        try:
            send(connection)
        except FaztError as error:
            failures.append(error)

    with serve(lambda peer: peer.wait_for_end()) as origin:
        thread = threading.Thread(target=work, args=(origin.port,))
        thread.start()
        _until(lambda: any(connection._busy for connection in list(net.live)))
        net.close()
        thread.join(10)
        assert not thread.is_alive()
    assert [error.reason for error in failures] == [Reason.ABORTED]
    assert not net.live
    assert sockets() == before


def test_a_connection_in_use_is_not_kept_by_a_wire_that_was_closed() -> None:
    net = wire()
    with serve(answering(OK)) as origin:
        connection = acquire(net, origin.port)
        send(connection)
        assert connection.read(cap=10, deadline=soon()) == b"ok"
        net.close()
        connection.release()
        assert not net.live
        assert len(net.pool) == 0


class _Holder:
    """Gives its connection back when it is collected, as an abandoned stream does."""

    def __init__(self, connection: SyncConnection) -> None:
        self.connection = connection
        self.me = self

    def __del__(self) -> None:
        self.connection.abort()


def test_the_collector_may_give_a_connection_back_while_the_books_are_open() -> None:
    net = wire()
    with serve(answering(OK)) as origin:
        connection = acquire(net, origin.port)
        _Holder(connection)
        with net._lock:  # as when the collector runs inside of the pool's own bookkeeping
            gc.collect()
            assert connection.closing
        assert call(net, origin.port) == b"ok"
        assert not net._news
        assert set(net.pool._order) == net.live
    net.close()


def test_an_interrupt_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sockets()
    net = wire()

    class Interrupting:
        def poll(self, timeout: int | None = None) -> list[tuple[int, int]]:
            if timeout == 0:
                return []
            raise KeyboardInterrupt

    with serve(once(OK)) as origin:
        connection = acquire(net, origin.port)
        connection._poll = Interrupting()  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt):
            send(connection)
        assert not net.live
    assert sockets() == before


# --- fork


def _in_child(check: Callable[[], bool]) -> int:
    """Fork, and return the child's exit code: 0 when the check held."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the origin's threads; the child doesn't touch them
        child = os.fork()
    if child == 0:
        code = 4
        try:
            code = 0 if check() else 3
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize("told", [True, False])
def test_a_forked_child_leaves_its_parent_s_connections_alone(told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether Python was told of the fork or not (uWSGI does not)."""
    net = wire()
    with serve(answering(OK)) as origin:
        call(net, origin.port)
        busy = acquire(net, origin.port, fresh=True)
        (idle,) = net.pool._order
        if not told:
            monkeypatch.setattr(SyncWire, "start_anew", lambda self: None)

        def check() -> bool:
            if not told:
                monkeypatch.undo()
            for connection in (idle, busy):
                connection.abort()
                connection.release()
                connection.close()
                connection.shut()
            if idle._sock.fileno() < 0 or busy._sock.fileno() < 0:
                return False
            ok = call(net, origin.port) == b"ok"
            return ok and len(net.pool) == 1 and not {idle, busy} & net.live

        assert _in_child(check) == 0
        assert origin.accepted == 3
        if not told:
            monkeypatch.undo()
        assert send(busy) == 200  # the parent's are as they were
        busy.read(cap=10, deadline=soon())
        busy.release()
        assert call(net, origin.port) == b"ok"
        assert origin.accepted == 3
    net.close()


def test_a_fork_while_another_thread_is_at_the_books() -> None:
    net = wire()
    with serve(answering(OK)) as origin:
        call(net, origin.port)
        with net._lock, net.resolver._lock:
            assert _in_child(lambda: call(net, origin.port) == b"ok") == 0
        assert call(net, origin.port) == b"ok"
    net.close()


def test_a_stream_that_was_open_at_the_fork_is_not_ended_by_the_child() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD + b"Content-Length: 4\r\n\r\nha")
        peer.origin.go.wait(5)
        peer.send(b"lf")
        peer.wait_for_end()

    net = wire()
    with serve(script) as origin:
        connection = acquire(net, origin.port)
        send(connection)
        assert connection.read_some(deadline=soon()) == b"ha"

        def check() -> bool:
            connection.release()
            return connection._sock.fileno() >= 0 and not len(net.pool)

        assert _in_child(check) == 0
        origin.go.set()
        assert connection.read(cap=10, deadline=soon()) == b"lf"
        connection.release()
        assert len(net.pool) == 1
    net.close()


def _until(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)
