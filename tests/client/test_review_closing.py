"""A client that is closed under its calls: they end, each with an error of its own, and nothing is left open."""

from __future__ import annotations

import asyncio
import ssl
import threading
from typing import Any

import pytest

import fazt
from fazt.errors import FaztError, Reason
from tests.client.site import HOST, LOOPBACK, policy, site
from tests.net.origin import Peer, serve


def _endless(begun: threading.Event, over: threading.Event) -> Any:
    def script(peer: Peer) -> None:
        peer.head()
        peer.send(b"HTTP/1.0 200 OK\r\n\r\npart")  # its end is the connection's
        begun.set()
        over.wait(20)

    return script


def test_a_body_that_ends_with_its_connection_is_not_whole_when_the_client_is_closed() -> None:
    begun, over = threading.Event(), threading.Event()
    found: list[Any] = []
    with serve(_endless(begun, over)) as origin:
        client = fazt.Client(policy=policy(origin.port))

        def read() -> None:
            try:
                found.append(client.get(f"http://{HOST}:{origin.port}/").content)
            except FaztError as error:
                found.append(error.reason)

        reading = threading.Thread(target=read)
        reading.start()
        try:
            assert begun.wait(20)
            client.close()
            reading.join(20)
        finally:
            over.set()
    assert found == [Reason.ABORTED]


def test_the_same_on_an_event_loop() -> None:
    begun, over = threading.Event(), threading.Event()

    async def main(port: int) -> None:
        client = fazt.AsyncClient(policy=policy(port))
        reading = asyncio.create_task(client.get(f"http://{HOST}:{port}/"))
        assert await asyncio.to_thread(begun.wait, 20)
        await client.aclose()
        with pytest.raises(FaztError) as caught:
            await reading
        assert caught.value.reason is Reason.ABORTED

    with serve(_endless(begun, over)) as origin:
        try:
            asyncio.run(main(origin.port))
        finally:
            over.set()


def _few() -> Any:
    import httpx2

    return httpx2.Limits(max_connections=2)


def test_calls_under_way_and_calls_that_wait_leave_no_connection_behind_a_closed_client() -> None:
    found: list[Any] = []
    with site() as where:
        client = fazt.Client(policy=policy(where), limits=_few())
        busy = threading.Barrier(9, timeout=20)

        def ask() -> None:
            client.get(where.url())
            busy.wait()
            try:
                while True:
                    client.get(where.url())
            except FaztError as error:
                found.append(error.reason)
            except RuntimeError as error:
                found.append(str(error))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        busy.wait()
        wire = client._intake.backend.engine.wire
        client.close()
        for thread in threads:
            thread.join(20)
        assert len(found) == 8
        assert set(found) <= {Reason.ABORTED, "Cannot send a request, as the client has been closed."}
        assert not wire.live
        assert not len(wire.pool)


def test_the_same_for_tasks() -> None:
    async def main() -> None:
        with site() as where:
            client = fazt.AsyncClient(policy=policy(where), limits=_few())
            wire = client._intake.backend.engine.wire

            async def ask() -> Any:
                while True:
                    try:
                        await client.get(where.url())
                    except FaztError as error:
                        return error.reason
                    except RuntimeError:
                        return None

            tasks = [asyncio.create_task(ask()) for _ in range(8)]
            while not wire.turns.waiting:
                await asyncio.sleep(0)
            await client.aclose()
            assert set(await asyncio.gather(*tasks)) <= {Reason.ABORTED, None}
            assert not wire.live
            assert not len(wire.pool)

    asyncio.run(main())


def test_a_context_that_no_longer_verifies_is_said_to_be_the_reason() -> None:
    context = ssl.create_default_context()
    rules = fazt.Policy([fazt.Rule(f"https://{HOST}:1", addresses=LOOPBACK)], resolve={HOST: ["127.0.0.1"]})
    with fazt.Client(policy=rules, verify=context) as client:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with pytest.raises(FaztError) as caught:
            client.get(f"https://{HOST}:1/")
    assert caught.value.reason is Reason.BAD_OPTION
    assert "does not verify" in str(caught.value.detail)


def test_a_hook_that_is_interrupted_leaves_no_answer_open() -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    with site() as where, fazt.Client(policy=policy(where), on_response=interrupt) as client:
        wire = client._intake.backend.engine.wire
        with pytest.raises(KeyboardInterrupt) as caught:
            client.send(client.build_request("GET", where.url("/", HOST)), stream=True)
        assert caught.value is not None  # with its traceback, which has the response
        assert not wire.live
