"""fazt's transports under the library's own clients."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import fazt
from tests.client.site import Kit, Reply, policy, redirect, site, text


def test_a_client_of_ones_own_is_carried_under_the_policy(kit: Kit) -> None:
    async def main() -> None:
        with site({"/t": text("carried")}) as where:
            async with kit.carried(transport={"policy": policy(where)}) as client:
                assert type(client.real) in (kit.lib.Client, kit.lib.AsyncClient)
                response = await client.get(where.url("/t"))
                assert response.text == "carried"
                assert response.extensions["fazt"]["call_id"].startswith("c_")
                assert response.http_version == "HTTP/1.1"
                with pytest.raises(kit.lib.RequestError) as caught:
                    await client.get("http://ungranted.test/")
                assert caught.value.reason is fazt.Reason.HOST_NOT_GRANTED
                assert caught.value.request.url.host == "ungranted.test"
            assert where.accepted == 1

    kit.run(main)


def test_the_transport_follows_no_redirect_and_the_client_does_with_every_hop_judged(kit: Kit) -> None:
    async def main() -> None:
        routes = {"/a": redirect("/b"), "/b": text("end"), "/out": redirect("http://ungranted.test/")}
        with site(routes) as where:
            async with kit.carried(transport={"policy": policy(where)}) as client:
                assert (await client.get(where.url("/a"))).status_code == 302
                response = await client.get(where.url("/a"), follow_redirects=True)
                assert (response.text, len(response.history)) == ("end", 1)
                with pytest.raises(kit.lib.RequestError) as caught:
                    await client.get(where.url("/out"), follow_redirects=True)
                assert caught.value.reason is fazt.Reason.HOST_NOT_GRANTED

    kit.run(main)


def test_fazts_options_travel_in_the_extensions(kit: Kit) -> None:
    async def main() -> None:
        with site({"/": text("x" * 100)}) as where:
            async with kit.carried(transport={"policy": policy(where)}) as client:
                with pytest.raises(fazt.FaztError) as caught:
                    await client.get(where.url(), extensions={"fazt": {"max_bytes": 10}})
                assert caught.value.reason is fazt.Reason.RESPONSE_BODY
                with pytest.raises(TypeError, match="maxbytes"):
                    await client.get(where.url(), extensions={"fazt": {"maxbytes": 10}})

    kit.run(main)


def test_defaults_of_the_transport_hold_for_its_calls(kit: Kit) -> None:
    async def main() -> None:
        with site({"/": text("x" * 100)}) as where:
            async with kit.carried(transport={"policy": policy(where), "max_bytes": 10}) as client:
                with pytest.raises(fazt.FaztError):
                    await client.get(where.url())

    kit.run(main)


def test_bodies_are_streamed_decoded_and_given_back(kit: Kit) -> None:
    async def main() -> None:
        go = threading.Event()

        def pieces() -> Iterator[bytes]:
            yield b"one"
            assert go.wait(10)
            yield b"two"

        with site({"/": lambda _: Reply(200, pieces=pieces())}) as where:
            async with kit.carried(transport={"policy": policy(where)}) as client:
                async with client.stream("GET", where.url()) as streamed:
                    got = []
                    async for piece in streamed.iterate("raw"):
                        got.append(piece)
                        go.set()
                    assert b"".join(got) == b"onetwo"
                response = await client.post(where.url("/echo"), content=kit.content(b"a", b"b"))
                assert response.json()["body"] == "ab"
            assert where.accepted == 1

    kit.run(main)


def test_timeouts_of_the_client_are_limits_of_single_waits(kit: Kit) -> None:
    from tests.net.origin import serve

    async def main() -> None:
        with serve(lambda peer: peer.wait_for_end()) as where:
            async with kit.carried(transport={"policy": policy(where.port)}, timeout=0.1) as client:
                with pytest.raises(kit.lib.ReadTimeout):
                    await client.get(f"http://origin.test:{where.port}/")

    kit.run(main)


def test_what_a_transport_really_uses_can_be_seen(kit: Kit) -> None:
    kind: Any = kit.ours.Transport
    carrier = kind(policy=fazt.Policy(), limits=kit.lib.Limits(max_connections=3))
    assert carrier.introspect()["pool"]["max_connections"] == 3
    assert carrier.policy == fazt.Policy()
    carrier.close()
