"""Which connections are used again, which never, and what becomes of the idle ones."""

from __future__ import annotations

import asyncio
import os
import socket
import time
import warnings
from typing import Any

import pytest

from fazt.core.addresses import AddressClass, classify, expand_listeners
from fazt.errors import FaztError, Reason, StaleConnectionError
from fazt.hardware import interface_addresses
from fazt.net.pool import NONE, PoolLimits
from tests.net.origin import (
    GRANT,
    HOST,
    LOOPS,
    OK,
    WIRES,
    Origin,
    Peer,
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
    wait_for_kernel,
    wire,
)

HEAD = b"HTTP/1.1 200 OK\r\n"
STOLEN = HEAD + b"Content-Length: 6\r\n\r\nstolen"


@pytest.mark.parametrize("loop", WIRES)
def test_a_connection_is_used_again_and_says_so(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire()
        for turn in range(5):
            connection = await net.acquire(target(port), deadline=soon(), on_attempt=nothing)
            assert connection.reused is (turn > 0)
            await send(connection)
            await connection.read(cap=10, deadline=soon())
            connection.release()
            connection.release()
            connection.abort()  # given back already: no business of ours
            assert len(net.pool) == 1
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))
        assert origin.accepted == 1


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize(
    "change",
    [
        {"app": "other"},
        {"grant": ("127.0.0.1/32",)},
        {"host": "www.example.com"},
        {"tls": "system+1"},
    ],
)
def test_no_other_target_gets_it(loop: str, change: dict[str, Any]) -> None:
    async def main(port: int) -> None:
        net = wire(static={HOST: ("127.0.0.1",), "www.example.com": ("127.0.0.1",)})
        await call(net, target(port))
        await call(net, target(port, **change))
        assert len(net.pool) == 2
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))
        assert origin.accepted == 2


@pytest.mark.parametrize("loop", WIRES)
def test_fresh_leaves_the_pool_alone(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire()
        await call(net, target(port))
        connection = await net.acquire(target(port), deadline=soon(), on_attempt=nothing, fresh=True)
        assert not connection.reused
        assert len(net.pool) == 1
        connection.abort()
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", WIRES)
def test_attempts_are_announced_only_when_one_is_made(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire()
        attempts: list[int] = []
        for _ in range(2):
            connection = await net.acquire(target(port), deadline=soon(), on_attempt=lambda: attempts.append(1))
            await send(connection)
            await connection.read(cap=10, deadline=soon())
            connection.release()
        assert attempts == [1]
        with pytest.raises(FaztError):
            await net.acquire(target(port, grant=()), deadline=soon(), on_attempt=lambda: attempts.append(1))
        assert attempts == [1]
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))


# --- bytes nobody asked for


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize(
    "answer",
    [
        OK + STOLEN,
        OK + b"\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + STOLEN,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n\r\n",
        b"HTTP/1.1 204 No\r\nContent-Length: 6\r\n\r\nstolen",
        HEAD + b"Content-Length: 0\r\n\r\n" + STOLEN,
    ],
)
def test_bytes_behind_an_answer_poison_the_connection(loop: str, answer: bytes) -> None:
    """The answer itself is delivered; the rest is never taken for the answer to the next request."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer if peer.number == 1 else OK)
        peer.wait_for_end()

    async def main(port: int) -> None:
        net = wire()
        assert (await call(net, target(port))).body in (b"ok", b"")
        assert len(net.pool) == 0
        assert not net.live
        assert (await call(net, target(port))).body == b"ok"
        await net.close()

    with serve(script) as origin:
        run(loop, lambda: main(origin.port))
        assert origin.accepted == 2


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize("loop_turns", [True, False])
def test_a_second_answer_while_idle_poisons_the_connection(loop: str, loop_turns: bool) -> None:
    """Also when the event loop has had no chance to see it: the kernel is asked before reuse."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(OK)
        if peer.number == 1:
            peer.origin.go.wait(5)
            peer.send(STOLEN)
        peer.wait_for_end()

    async def main(port: int, origin: Origin) -> None:
        net = wire()
        await call(net, target(port))
        assert len(net.pool) == 1
        origin.go.set()
        if loop_turns and loop != "sync":
            await until(lambda: len(net.pool) == 0)
            assert not net.live
        else:
            wait_for_kernel(*net.live)
            assert len(net.pool) == 1
        got = await call(net, target(port))
        assert got.body == b"ok"
        await net.close()

    with serve(script) as origin:
        run(loop, lambda: main(origin.port, origin))
        assert origin.accepted == 2


# --- connections that died


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("loop_turns", [True, False])
def test_a_connection_closed_while_idle_is_not_handed_out(loop: str, how: str, loop_turns: bool) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(OK)
        if peer.number == 1:
            peer.origin.go.wait(5)
            if how == "reset":
                peer.reset()
            elif how == "half-close":
                peer.sock.shutdown(socket.SHUT_WR)
                peer.wait_for_end()
        else:
            peer.wait_for_end()

    async def main(port: int, origin: Origin) -> None:
        net = wire()
        await call(net, target(port))
        origin.go.set()
        if loop_turns and loop != "sync":
            await until(lambda: len(net.pool) == 0)
        else:
            wait_for_kernel(*net.live)
        assert (await call(net, target(port))).body == b"ok"
        await net.close()

    with serve(script) as origin:
        run(loop, lambda: main(origin.port, origin))
        assert origin.accepted == 2


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_reused_connection_that_dies_unanswered_is_stale(loop: str, how: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(OK)
        peer.request()
        if how == "reset":
            peer.reset()

    async def main(port: int) -> None:
        net = wire()
        await call(net, target(port))
        with pytest.raises(StaleConnectionError) as caught:
            await call(net, target(port))
        assert caught.value.sent
        assert not net.live
        await net.close()

    with serve(script) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_that_dies_between_acquire_and_send_is_stale_and_nothing_was_sent(loop: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(OK)
        peer.origin.go.wait(5)

    async def main(port: int, origin: Origin) -> None:
        net = wire()
        await call(net, target(port))
        connection = await net.acquire(target(port), deadline=soon(), on_attempt=nothing)
        origin.go.set()
        await until(lambda: not net.live)
        sent: list[int] = []
        with pytest.raises(StaleConnectionError) as caught:
            await connection.send(b"GET / HTTP/1.1\r\n\r\n", None, deadline=soon(), on_sent=lambda: sent.append(1))
        assert not caught.value.sent
        assert not sent
        await net.close()

    with serve(script) as origin:
        run(loop, lambda: main(origin.port, origin))


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 2"])
def test_only_a_reused_connection_without_a_byte_of_answer_is_stale(loop: str, answer: bytes) -> None:
    def script(peer: Peer) -> None:
        if peer.number == 2:
            peer.request()
            peer.send(OK)
        peer.request()
        peer.send(answer)

    async def main(port: int) -> None:
        net = wire()
        with pytest.raises(FaztError) as caught:
            await call(net, target(port))  # fresh
        assert not isinstance(caught.value, StaleConnectionError)
        assert caught.value.reason is Reason.PROTOCOL
        await call(net, target(port))
        with pytest.raises(FaztError) as caught:
            await call(net, target(port))  # reused
        assert isinstance(caught.value, StaleConnectionError) is (answer == b"")
        await net.close()

    with serve(script) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", WIRES)
def test_a_deadline_on_a_reused_connection_is_a_timeout_not_a_stale_one(loop: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(OK)
        peer.wait_for_end()

    async def main(port: int) -> None:
        net = wire()
        await call(net, target(port))
        with pytest.raises(FaztError) as caught:
            await call(net, target(port), deadline=soon(0.05))
        assert caught.value.reason is Reason.FIRST_BYTE
        await net.close()

    with serve(script) as origin:
        run(loop, lambda: main(origin.port))


# --- the idle


@pytest.mark.parametrize("loop", LOOPS)
def test_idle_connections_end_by_themselves(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire(limits=PoolLimits(total=20, per_key=2, expiry=0.05))
        await call(net, target(port))
        await call(net, target(port, app="other"))
        await until(lambda: not net.live)
        assert len(net.pool) == 0
        await call(net, target(port))
        await until(lambda: not net.live)
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))
        assert origin.accepted == 3


@pytest.mark.parametrize("loop", WIRES)
def test_surplus_connections_are_closed(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire(limits=PoolLimits(total=3, per_key=2, expiry=10))

        async def several(app: str) -> None:
            where = target(port, app=app)
            connections = [await net.acquire(where, deadline=soon(), on_attempt=nothing) for _ in range(4)]
            for connection in connections:
                await send(connection)
                await connection.read(cap=10, deadline=soon())
            for connection in connections:
                connection.release()

        await several("a")
        assert len(net.pool) == 2
        await several("b")
        assert len(net.pool) == 3
        assert net.live == {*net.pool._order}
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", WIRES)
def test_nothing_is_kept_where_the_profile_keeps_nothing(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire(limits=NONE)
        await call(net, target(port))
        assert not net.live
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", WIRES)
def test_a_revoked_host_loses_its_idle_connections(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire()
        await call(net, target(port))
        await call(net, target(port, app="other"))
        assert net.drop_idle(lambda where: where.app == "other") == 1
        assert net.drop_idle(lambda where: where.app == "other" and where.grant == GRANT) == 0
        assert [connection.target.app for connection in net.live] == ["other"]
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))
        assert origin.accepted == 2


@pytest.mark.parametrize("loop", LOOPS)
def test_a_host_revoked_while_in_use_is_not_kept_afterwards(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire()
        busy = await net.acquire(target(port), deadline=soon(), on_attempt=nothing)
        opening = asyncio.ensure_future(net.acquire(target(port), deadline=soon(), on_attempt=nothing))
        other = await net.acquire(target(port, app="other"), deadline=soon(), on_attempt=nothing)
        await asyncio.sleep(0)
        assert net.drop_idle(lambda where: where.app == "other") == 0
        for connection in (busy, await opening, other):
            await send(connection)
            assert await connection.read(cap=10, deadline=soon()) == b"ok"  # the call itself goes on
            connection.release()
        assert [connection.target.app for connection in net.live] == ["other"]
        assert len(net.pool) == 1
        await call(net, target(port, app="other"))
        assert len(net.pool) == 1
        await call(net, target(port))  # decided before the change, and begun after it
        assert [connection.target.app for connection in net.live] == ["other"]
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", LOOPS)
def test_closing_the_wire_closes_everything(loop: str) -> None:
    before = sockets()

    async def main(port: int) -> None:
        net = wire()
        await call(net, target(port))
        busy = await net.acquire(target(port), deadline=soon(), on_attempt=nothing, fresh=True)
        waiting = asyncio.ensure_future(busy.send(b"GET / HTTP/1.1\r\n", None, deadline=soon(), on_sent=nothing))
        await asyncio.sleep(0)
        await net.close()
        with pytest.raises(FaztError):
            await waiting
        assert not net.live
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))
    assert sockets() == before


@pytest.mark.parametrize("loop", WIRES)
def test_a_connection_is_not_used_out_of_turn(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire()
        got = await call(net, target(port))
        with pytest.raises(FaztError) as caught:  # given back: it is in the pool
            await send(got.connection)
        assert caught.value.reason is Reason.INTERNAL
        assert (await call(net, target(port))).connection is got.connection
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # as error it would keep uvloop from closing
def test_a_wire_outlives_its_event_loop(loop: str) -> None:
    net = wire()
    where: dict[str, int] = {}

    async def main() -> None:
        assert (await call(net, target(where["port"]))).body == b"ok"
        assert len(net.pool) == 1

    with serve(answering(OK)) as origin:
        where["port"] = origin.port
        run(loop, main)
        run(loop, main)
        assert origin.accepted == 2


# --- judging


@pytest.mark.parametrize("loop", WIRES)
@pytest.mark.parametrize(
    ("addresses", "grant", "reason"),
    [
        (("127.0.0.1",), (), Reason.PRIVATE_ADDRESS),
        (("93.184.215.14", "10.0.0.1"), (), Reason.PRIVATE_ADDRESS),
        (("127.0.0.1", "10.0.0.1"), ("127.0.0.0/8",), Reason.PRIVATE_ADDRESS),
        (("::ffff:127.0.0.1",), (), Reason.PRIVATE_ADDRESS),
        (("169.254.169.254",), ("127.0.0.0/8",), Reason.PRIVATE_ADDRESS),
        (("fe80::1%eth0",), GRANT, Reason.PRIVATE_ADDRESS),
        (("not an address",), GRANT, Reason.PRIVATE_ADDRESS),
        (("127.0.0.1",), GRANT, None),
    ],
)
def test_every_address_is_judged_before_any_is_connected_to(
    loop: str, addresses: tuple[str, ...], grant: tuple[str, ...], reason: Reason | None
) -> None:
    async def main(port: int) -> None:
        net = wire(*addresses)
        if reason is None:
            assert (await call(net, target(port, grant=grant))).connection.address == "127.0.0.1"
        else:
            with pytest.raises(FaztError) as caught:
                await call(net, target(port, grant=grant))
            assert caught.value.reason is reason
            assert caught.value.address_class
            assert not any(address in caught.value.message for address in addresses)
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))
        assert origin.accepted == (reason is None)


@pytest.mark.parametrize("loop", WIRES)
def test_own_listeners_are_refused_whatever_is_granted(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire(own_listeners=expand_listeners([("127.0.0.1", port)], ["127.0.0.1"]))
        with pytest.raises(FaztError) as caught:
            await call(net, target(port))
        assert caught.value.reason is Reason.OWN_LISTENER
        net.own_listeners = frozenset()
        await call(net, target(port))
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", WIRES)
def test_own_listeners_are_refused_at_addresses_that_came_later(loop: str) -> None:
    """An interface got its address after the wildcard bind was expanded."""
    address = next((a for a in sorted(interface_addresses()) if classify(a).klass is AddressClass.PRIVATE), None)
    if address is None:
        pytest.skip("no interface has a private address")

    async def main(port: int) -> None:
        net = wire(address, own_listeners=expand_listeners([("::" if ":" in address else "0.0.0.0", port)], []))
        where = target(port, grant=(f"{address}/{128 if ':' in address else 32}",))
        with pytest.raises(FaztError) as caught:
            await call(net, where)
        assert caught.value.reason is Reason.OWN_LISTENER
        assert not net.live
        net.own_listeners = frozenset()
        await call(net, where)
        await net.close()

    with serve(answering(OK), host=address) as origin:
        run(loop, lambda: main(origin.port))
        assert len(origin.requests) == 1


@pytest.mark.parametrize("loop", WIRES)
def test_a_connection_that_is_reset_at_once_is_a_coded_error(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire()
        for _ in range(20):
            with pytest.raises(FaztError) as caught:
                await call(net, target(port))
            assert caught.value.reason in (Reason.CONNECT_FAILED, Reason.PROTOCOL)
        assert not net.live
        await net.close()

    with serve(lambda peer: peer.reset()) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", WIRES)
def test_a_name_that_changes_its_address_is_judged_again(loop: str) -> None:
    """DNS rebinding: what was public is loopback the next time."""
    answers = [("127.0.0.1",), ("10.0.0.1",)]

    async def main(port: int) -> None:
        net = wire(lookup=lambda host: answers.pop(0), ttl=0, limits=NONE)
        await call(net, target(port))
        with pytest.raises(FaztError) as caught:
            await call(net, target(port))
        assert caught.value.reason is Reason.PRIVATE_ADDRESS
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", WIRES)
def test_F28_the_other_judged_addresses_are_tried(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire("::1", "127.0.0.2", "127.0.0.1", attempt_delay=0.01)
        assert (await call(net, target(port))).connection.address == "127.0.0.1"
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))


@pytest.mark.parametrize("loop", WIRES)
def test_ipv6(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire("::1")
        assert (await call(net, target(port))).connection.address == "::1"
        await net.close()

    try:
        with serve(answering(OK), host="::1") as origin:
            run(loop, lambda: main(origin.port))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")


@pytest.mark.parametrize("loop", WIRES)
def test_a_hanging_resolver_ends_at_the_deadline(loop: str) -> None:
    def hanging(host: str) -> tuple[str, ...]:
        time.sleep(0.3)
        return ()

    async def main() -> None:
        net = wire(lookup=hanging)
        with pytest.raises(FaztError) as caught:
            await call(net, target(1), deadline=soon(0.05))
        assert caught.value.reason is Reason.DNS
        await net.close()

    run(loop, main)


@pytest.mark.parametrize("loop", WIRES)
def test_the_environment_s_proxies_are_not_used(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def main(port: int) -> None:
        net = wire()
        assert (await call(net, target(port))).body == b"ok"
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))
        assert origin.requests[0].startswith(b"GET / HTTP/1.1\r\nHost: api.example.com\r\n")


@pytest.mark.parametrize("loop", LOOPS)
def test_cancelling_while_resolving_or_connecting_leaves_nothing(loop: str) -> None:
    before = sockets()

    async def main(port: int) -> None:
        net = wire("127.0.0.1", "127.0.0.2")
        for turns in range(12):  # cut the way to the connection at each of its steps
            task = asyncio.ensure_future(net.acquire(target(port), deadline=soon(), on_attempt=nothing))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            try:
                (await task).abort()
            except asyncio.CancelledError:
                pass
            assert not net.live
        await asyncio.sleep(0.02)
        await net.close()

    with serve(once(OK)) as origin:
        run(loop, lambda: main(origin.port))
    assert sockets() == before


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("answer", [OK, HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"])
def test_cancelling_a_call_at_any_turn_leaves_nothing(loop: str, answer: bytes) -> None:
    before = sockets()

    async def main(port: int) -> None:
        net = wire()
        for turns in range(30):
            task = asyncio.ensure_future(call(net, target(port)))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert len(net.live) == len(net.pool) <= 1
        await net.close()

    with serve(answering(answer)) as origin:
        run(loop, lambda: main(origin.port))
    assert sockets() == before


@pytest.mark.parametrize("loop", LOOPS)
def test_one_event_loop_at_a_time(loop: str) -> None:
    async def main(port: int) -> None:
        net = wire()
        await call(net, target(port))

        def elsewhere() -> None:
            asyncio.run(call(net, target(port)))

        with pytest.raises(RuntimeError):
            await asyncio.to_thread(elsewhere)
        assert (await call(net, target(port))).body == b"ok"
        await net.close()

    with serve(answering(OK)) as origin:
        run(loop, lambda: main(origin.port))
        assert origin.accepted == 1


# --- fork


@pytest.mark.parametrize("loop", LOOPS)
def test_a_forked_child_leaves_its_parent_s_connections_alone(loop: str) -> None:
    net: Any = wire()

    async def main(port: int) -> int:
        got = await call(net, target(port))
        assert got.body == b"ok"
        return len(net.pool)

    def in_child(port: int) -> int:
        inherited = list(net.live)
        for connection in inherited:
            connection.abort()
            connection.close()
            connection.shut()
        run("asyncio", lambda: main(port))
        return 0 if len(net.pool) == 1 and not set(inherited) & net.live else 3

    factory: Any = asyncio.new_event_loop
    if loop == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop
    with serve(answering(OK)) as origin, asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(main(origin.port)) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the origin's threads; the child doesn't touch them
            child = os.fork()
        if child == 0:
            code = 4
            try:
                code = in_child(origin.port)
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert origin.accepted == 2
        assert runner.run(main(origin.port)) == 1
        assert origin.accepted == 2  # the parent's own connection is as it was
        runner.run(net.close())
