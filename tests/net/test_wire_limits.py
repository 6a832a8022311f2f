"""Limits of single waits, and of the number of connections, over every wire."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from fazt.core.call import Phases
from fazt.errors import Code, FaztError, Reason
from fazt.net.pool import CLIENT, PoolLimits
from tests.net.origin import (
    HOST,
    LOOPS,
    OK,
    WIRES,
    Origin,
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
from tests.net.test_connect import full_backlog

HEAD = b"HTTP/1.1 200 OK\r\n"
FEW = PoolLimits(total=20, per_key=20, expiry=10.0, connections=2)


def failure(
    loop: str, script: Script, phases: Phases, *, body: bytes | None = None, idle: float | None = None
) -> Reason:
    """Make a call under these limits and a far deadline; returns why it failed."""

    async def main(port: int) -> Reason:
        net = wire()
        connection = await net.acquire(target(port), deadline=soon(), on_attempt=nothing, phases=phases)
        try:
            await send(connection, "POST" if body else "GET", body=body, phases=phases)
            await connection.read(cap=1 << 20, deadline=soon(), idle=idle)
        except FaztError as error:
            assert error.code is Code.NET_TIMEOUT
            return error.reason
        finally:
            assert not net.live
            await net.close()
        raise AssertionError

    with serve(script, rcvbuf=4096) as origin:
        return run(loop, lambda: main(origin.port))


# --- one wait


@pytest.mark.parametrize("loop", WIRES)
def test_the_answer_has_to_begin_in_time(loop: str) -> None:
    assert failure(loop, lambda peer: peer.wait_for_end(), Phases(read=0.05)) is Reason.FIRST_BYTE


@pytest.mark.parametrize("loop", WIRES)
def test_the_head_has_to_go_on(loop: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD)
        peer.wait_for_end()

    assert failure(loop, script, Phases(read=0.05)) is Reason.FIRST_BYTE


@pytest.mark.parametrize("loop", WIRES)
def test_the_body_has_to_go_on(loop: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(HEAD + b"Content-Length: 9\r\n\r\nhalf")
        peer.wait_for_end()

    assert failure(loop, script, Phases(), idle=0.05) is Reason.BODY


@pytest.mark.parametrize("loop", WIRES)
def test_the_request_has_to_be_taken(loop: str) -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.origin.go.wait(10)

    limits = Phases(write=0.05, read=20)
    assert failure(loop, script, limits, body=b"x" * (8 << 20)) is Reason.WRITE


@pytest.mark.parametrize("loop", WIRES)
def test_what_goes_on_may_take_longer_than_any_one_wait(loop: str) -> None:
    """Each piece comes well within the limit, all of them do not."""
    pieces = 12

    def script(peer: Peer) -> None:
        peer.request()
        for part in (b"HTTP/1.1 200", b" OK\r\n", b"Content-Length: %d\r\n\r\n" % pieces, *[b"x"] * pieces):
            peer.origin.go.wait(0.05)
            peer.send(part)

    async def main(port: int) -> bytes:
        net = wire()
        connection = await net.acquire(target(port), deadline=soon(), on_attempt=nothing)
        await send(connection, phases=Phases(read=0.4))
        got = b""
        while piece := await connection.read_some(deadline=soon(), idle=0.4):
            got += piece
        connection.release()
        await net.close()
        return got

    with serve(script) as origin:
        assert run(loop, lambda: main(origin.port)) == b"x" * pieces


@pytest.mark.parametrize("loop", WIRES)
def test_a_slow_reader_of_the_request_is_borne_with(loop: str) -> None:
    size = 8 << 20

    def script(peer: Peer) -> None:
        peer.head()
        left = size
        while left:
            peer.origin.go.wait(0.02)
            left -= len(peer.sock.recv(min(left, 256_000)))
        peer.send(OK)
        peer.wait_for_end()

    async def main(port: int) -> int:
        net = wire()
        connection = await net.acquire(target(port), deadline=soon(), on_attempt=nothing)
        head = await send(connection, "POST", body=b"x" * size, phases=Phases(write=0.3))
        connection.abort()
        await net.close()
        return head.status

    with serve(script) as origin:
        assert run(loop, lambda: main(origin.port)) == 200


@pytest.mark.parametrize("loop", WIRES)
def test_connecting_has_a_limit_of_its_own(loop: str) -> None:
    async def main(port: int) -> Reason:
        net = wire("127.0.0.2")
        with pytest.raises(FaztError) as caught:
            await net.acquire(target(port), deadline=soon(), on_attempt=nothing, phases=Phases(connect=0.05))
        await net.close()
        return caught.value.reason

    with serve(answering(OK)) as origin, full_backlog("127.0.0.2", origin.port):
        assert run(loop, lambda: main(origin.port)) is Reason.CONNECT


@pytest.mark.parametrize("loop", WIRES)
def test_the_handshake_counts_as_connecting(loop: str) -> None:
    async def main(port: int) -> Reason:
        net = wire()
        where = target(port, scheme="https", tls=net.tls_id)
        assert net.tls.context  # made before the clock runs
        with pytest.raises(FaztError) as caught:
            await net.acquire(where, deadline=soon(), on_attempt=nothing, phases=Phases(connect=0.3))
        assert not net.live
        await net.close()
        return caught.value.reason

    with serve(lambda peer: peer.wait_for_end()) as origin:
        assert run(loop, lambda: main(origin.port)) is Reason.TLS_HANDSHAKE


@pytest.mark.parametrize("loop", WIRES)
def test_the_name_counts_as_connecting(loop: str) -> None:
    gate = threading.Event()

    def lookup(host: str) -> tuple[str, ...]:
        gate.wait(10)
        return ()

    async def main() -> Reason:
        net = wire(lookup=lookup)
        with pytest.raises(FaztError) as caught:
            await net.acquire(target(1), deadline=soon(), on_attempt=nothing, phases=Phases(connect=0.05))
        gate.set()
        await net.close()
        return caught.value.reason

    assert run(loop, main) is Reason.DNS


# --- how many connections


def take(net: Any, port: int, *, app: str = "app", phases: Phases | None = None, fresh: bool = False) -> Any:
    return net.acquire(target(port, app=app), deadline=soon(), on_attempt=nothing, phases=phases, fresh=fresh)


async def finish(connection: Any) -> None:
    await send(connection)
    await connection.read(cap=10, deadline=soon())
    connection.release()


async def wait_until_waiting(net: Any, number: int) -> None:
    await until(lambda: len(net.turns._waiting) == number)


def test_the_client_door_has_64() -> None:
    assert (CLIENT.connections, CLIENT.total, CLIENT.per_key, CLIENT.expiry) == (64, 20, 20, 30.0)


@pytest.mark.parametrize("loop", WIRES)
def test_who_comes_beyond_the_limit_waits_for_a_turn_and_gets_the_connection(loop: str) -> None:
    async def main(origin: Origin) -> None:
        net = wire(limits=FEW)
        one, two = await take(net, origin.port), await take(net, origin.port)
        third = asyncio.ensure_future(take(net, origin.port))
        await wait_until_waiting(net, 1)
        await finish(one)
        got = await third
        assert got is one
        assert got.reused
        assert net.turns.open == 2
        await finish(got)
        await finish(two)
        assert len(net.pool) == 2
        await net.close()
        assert net.turns.open == 0

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin))
        assert origin.accepted == 2


@pytest.mark.parametrize("loop", WIRES)
def test_waiting_for_a_turn_ends_at_its_limit(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire(limits=FEW)
        held = [await take(net, port), await take(net, port)]
        with pytest.raises(FaztError) as caught:
            await take(net, port, phases=Phases(pool=0.05))
        assert (caught.value.code, caught.value.reason) == (Code.NET_LIMIT, Reason.POOL_WAIT)
        with pytest.raises(FaztError) as caught:
            await net.acquire(target(port), deadline=soon(0.05), on_attempt=nothing)
        assert caught.value.reason is Reason.POOL_WAIT
        assert not net.turns.waiting
        for connection in held:
            await finish(connection)
        await finish(await take(net, port))
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", WIRES)
def test_turns_come_in_order_and_an_idle_connection_to_elsewhere_gives_way(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire(limits=FEW)
        for app in ("a", "b"):
            await finish(await take(net, port, app=app))
        assert len(net.pool) == 2
        one = await take(net, port, app="c")  # a's, idle longest, was closed for it
        assert [connection.target.app for connection in net.pool._order] == ["b"]
        two = await take(net, port, app="d")
        order: list[str] = []

        async def later(app: str) -> None:
            connection = await take(net, port, app=app)
            order.append(app)
            await finish(connection)

        tasks = []
        for number, app in enumerate(("e", "f", "g")):
            tasks.append(asyncio.ensure_future(later(app)))
            await wait_until_waiting(net, number + 1)
        await finish(one)  # c's: nobody wants it
        await asyncio.wait(tasks)
        assert order == ["e", "f", "g"]
        assert net.turns.open == 2
        two.abort()
        assert net.turns.open == 1
        await net.close()
        assert net.turns.open == 0

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize("how", ["refused", "judged", "aborted", "handshake"])
def test_a_connection_that_fails_makes_room(loop: str, how: str) -> None:
    async def main(port: int) -> None:
        net = wire(limits=PoolLimits(total=2, per_key=2, expiry=10, connections=1))
        for _ in range(3):
            if how == "aborted":
                (await take(net, port)).abort()
                continue
            with pytest.raises(FaztError):
                await net.acquire(
                    {
                        "refused": target(1),
                        "judged": target(port, grant=()),
                        "handshake": target(port, scheme="https", tls=net.tls_id),
                    }[how],
                    deadline=soon(),
                    on_attempt=nothing,
                )
        assert net.turns.open == 0
        await finish(await take(net, port))
        await net.close()

    def script(peer: Peer) -> None:
        if how == "handshake" and peer.number <= 3:
            return
        answering(OK)(peer)

    with serve(script) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", WIRES)
def test_a_dead_connection_that_was_handed_over_costs_no_turn(loop: str) -> None:
    def script(peer: Peer) -> None:
        (once if peer.number == 1 else answering)(OK)(peer)

    async def main(port: int) -> None:
        net = wire(limits=PoolLimits(total=2, per_key=2, expiry=10, connections=1))
        one = await take(net, port)
        await send(one)
        await one.read(cap=10, deadline=soon())
        second = asyncio.ensure_future(take(net, port))
        await wait_until_waiting(net, 1)
        one.release()  # the origin closes it at the same time
        got = await second
        try:
            await finish(got)
        except FaztError:
            got.abort()
        await finish(await take(net, port))
        assert net.turns.open == 1
        await net.close()

    with serve(script) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", LOOPS)
def test_who_is_cancelled_while_waiting_passes_the_turn_on(loop: str) -> None:
    before = sockets()

    async def main(port: int) -> None:
        net = wire(limits=PoolLimits(total=2, per_key=2, expiry=10, connections=1))
        for turns in range(8):
            one = await take(net, port)
            second = asyncio.ensure_future(take(net, port))
            await wait_until_waiting(net, 1)
            await finish(one)
            for _ in range(turns):
                await asyncio.sleep(0)
            second.cancel()
            try:
                (await second).abort()
            except asyncio.CancelledError:
                pass
            assert not net.turns.waiting
            assert net.turns.open == len(net.live) <= 1
        await finish(await take(net, port))
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))
    assert sockets() == before


@pytest.mark.parametrize("loop", WIRES)
def test_many_calls_through_few_connections_all_come_through(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire(limits=PoolLimits(total=3, per_key=3, expiry=10, connections=3))

        async def one(number: int) -> None:
            for turn in range(3):
                connection = await take(net, port, app=f"app{(number + turn) % 4}", fresh=turn == 2)
                assert net.turns.open <= 3
                await send(connection)
                if number % 5 == 0:
                    connection.abort()
                    continue
                assert await connection.read(cap=10, deadline=soon()) == b"ok"
                connection.release()

        await asyncio.gather(*(one(number) for number in range(30)))
        assert not net.turns.waiting
        assert net.turns.open == len(net.live) == len(net.pool)
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", WIRES)
def test_limits_do_not_touch_a_quick_call(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire(limits=CLIENT)
        limits = Phases(connect=5, read=5, write=5, pool=5)
        for _ in range(3):
            connection = await take(net, port, phases=limits)
            await send(connection, phases=limits)
            assert await connection.read(cap=10, deadline=soon(), idle=5) == b"ok"
            connection.release()
        assert (await call(net, target(port))).body == b"ok"
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))
        assert origin.accepted == 1
        assert HOST.encode() in origin.requests[0]
