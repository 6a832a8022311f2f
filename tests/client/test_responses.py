"""What comes back: responses that are httpx's own, decoded within limits, whole or as they come."""

from __future__ import annotations

import gc
import gzip
import pickle
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

import fazt
from fazt.client.families import family
from fazt.net.decode import supported
from tests.client.site import Kit, Reply, policy, site, text
from tests.net.origin import serve
from tests.telemetry.sinks import Collected


def encoded(coding: str, body: bytes) -> bytes:
    if coding == "gzip":
        return gzip.compress(body)
    if coding == "deflate":
        return zlib.compress(body)
    if coding == "br":
        import brotli

        packed: bytes = brotli.compress(body)
        return packed
    import zstandard

    return zstandard.compress(body)


def coded(coding: str, body: bytes, **fields: str) -> Reply:
    return Reply(200, encoded(coding, body), [("Content-Encoding", coding), *fields.items()])


def test_a_response_is_the_librarys_own_and_says_all_it_knows(kit: Kit) -> None:
    async def main() -> None:
        fields = [
            ("Content-Type", "text/plain; charset=latin-1"),
            ("X-Two", "a"),
            ("X-Two", "b"),
            ("Link", '<https://x.test/2>; rel="next"'),
        ]
        with site({"/": Reply(203, "grün".encode("latin-1"), fields)}) as where:
            async with kit.client(policy=policy(where)) as client:
                response = await client.get(where.url("/?q=1"))
            assert type(response) is kit.lib.Response
            assert response.status_code == 203
            assert response.text == "grün"
            assert response.headers.get_list("x-two") == ["a", "b"]
            assert response.headers["X-Two"] == "a, b"
            assert response.links["next"]["url"] == "https://x.test/2"
            assert response.http_version == "HTTP/1.1"
            assert response.reason_phrase
            assert response.is_success
            assert response.is_closed
            assert response.is_stream_consumed
            assert response.elapsed.total_seconds() >= 0
            assert response.num_bytes_downloaded == 4
            assert response.request.method == "GET"
            assert str(response.url) == where.url("/?q=1")
            assert list(response.iter_bytes(3)) == [b"gr\xfc", b"n"]
            with pytest.raises(kit.lib.StreamConsumed):
                next(response.iter_raw())
            known = response.extensions["fazt"]
            assert known["call_id"].startswith("c_")
            assert known["rule"].startswith("r_")

    kit.run(main)


def test_a_response_can_be_pickled(kit: Kit) -> None:
    async def main() -> None:
        with site({"/": text("body")}) as where:
            async with kit.client(policy=policy(where)) as client:
                response = await client.get(where.url())
        again = pickle.loads(pickle.dumps(response))
        assert (again.status_code, again.text, again.url) == (200, "body", response.url)

    kit.run(main)


def test_raise_for_status_and_json(kit: Kit) -> None:
    async def main() -> None:
        with site({"/gone": Reply(404, b'{"a": 1}', phrase="Not Found")}) as where:
            async with kit.client(policy=policy(where)) as client:
                response = await client.get(where.url("/gone"))
                assert response.json() == {"a": 1}
                with pytest.raises(kit.lib.HTTPStatusError, match="404 Not Found") as caught:
                    response.raise_for_status()
                assert caught.value.response is response

    kit.run(main)


@pytest.mark.parametrize("coding", supported())
def test_every_coding_that_is_asked_for_is_decoded(kit: Kit, coding: str) -> None:
    async def main() -> None:
        body = b"many words " * 500
        with site({"/": coded(coding, body)}) as where:
            async with kit.client(policy=policy(where)) as client:
                response = await client.get(where.url())
                assert response.content == body
                assert response.num_bytes_downloaded < len(body)
                async with client.stream("GET", where.url()) as streamed:
                    assert b"".join([piece async for piece in streamed.iterate("bytes")]) == body
                async with client.stream("GET", where.url()) as streamed:
                    assert b"".join([piece async for piece in streamed.iterate("raw")]) == encoded(coding, body)
            asked = where.requests[0].get("accept-encoding") or ""
            assert coding in asked.split(", ")

    kit.run(main)


def test_D5_only_what_can_be_decoded_is_asked_for(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where)) as client:
                await client.get(where.url())
                await client.get(where.url(), headers={"Accept-Encoding": "gzip, made-up, br;q=0.5"})
                await client.get(where.url(), headers={"Accept-Encoding": "made-up"})
                await client.get(where.url(), headers={"Accept-Encoding": "identity"})
            asked = [seen.get("accept-encoding") for seen in where.requests]
            assert asked == [", ".join(supported()), "gzip, br;q=0.5", "identity", "identity"]

    kit.run(main)


def test_a_broken_body_is_a_decoding_error(kit: Kit) -> None:
    async def main() -> None:
        with site({"/": Reply(200, b"no gzip", [("Content-Encoding", "gzip")])}) as where:
            async with kit.client(policy=policy(where)) as client:
                with pytest.raises(kit.lib.DecodingError) as caught:
                    await client.get(where.url())
                assert caught.value.reason is fazt.Reason.DECODE
                assert caught.value.call_id.startswith("c_")
                async with client.stream("GET", where.url()) as streamed:
                    with pytest.raises(kit.lib.DecodingError) as again:
                        await streamed.read()
                assert again.value.call_id.startswith("c_")
                assert again.value.request is streamed.request

    kit.run(main)


def test_D26_a_bomb_is_stopped_whole_and_as_a_stream(kit: Kit) -> None:
    async def main() -> None:
        bomb = Reply(200, gzip.compress(b"0" * 40_000_000), [("Content-Encoding", "gzip")])
        with site({"/": bomb}) as where:
            async with kit.client(policy=policy(where)) as client:
                with pytest.raises(fazt.FaztError) as caught:
                    await client.get(where.url())
                assert caught.value.reason is fazt.Reason.DECODED_BODY
                with pytest.raises(fazt.FaztError) as caught:
                    await client.get(where.url(), max_bytes=1_000_000)
                assert caught.value.reason is fazt.Reason.DECODED_BODY
                got: list[int] = []

                async def count() -> None:
                    async with client.stream("GET", where.url()) as streamed:
                        async for piece in streamed.iterate("bytes"):
                            got.append(len(piece))

                with pytest.raises(kit.lib.DecodingError):
                    await count()
                assert sum(got) < 40_000_000

    kit.run(main)


def test_a_body_that_cannot_be_decoded_is_recorded_as_the_failure_it_is(kit: Kit) -> None:
    async def main() -> None:
        bomb = Reply(200, gzip.compress(b"0" * 40_000_000), [("Content-Encoding", "gzip")])
        broken = Reply(200, gzip.compress(b"whole")[:-4], [("Content-Encoding", "gzip")])
        with site({"/bomb": bomb, "/broken": broken}) as where:
            ledger = Collected()
            async with kit.client(policy=policy(where), sinks=[ledger]) as client:
                ids = []
                for path in ("/bomb", "/broken"):
                    with pytest.raises(fazt.FaztError) as caught:
                        await client.get(where.url(path))
                    ids.append(caught.value.call_id)
            assert [(event.request_id, event.reason) for event in ledger.summaries] == [
                (ids[0], "decoded_body"),
                (ids[1], "decode"),
            ]

    kit.run(main)


def test_max_bytes_holds_for_the_wire_and_for_what_is_decoded(kit: Kit) -> None:
    async def main() -> None:
        routes = {"/plain": text("x" * 1000), "/coded": coded("gzip", b"y" * 1000)}
        with site(routes) as where:
            async with kit.client(policy=policy(where), max_bytes=999) as client:
                for path, reason in (("/plain", "response_body"), ("/coded", "decoded_body")):
                    with pytest.raises(kit.lib.RequestError) as caught:
                        await client.get(where.url(path))
                    assert caught.value.reason == reason
                    response = await client.get(where.url(path), max_bytes=1000)
                    assert len(response.content) == 1000
                    async with client.stream("GET", where.url(path)) as streamed:
                        with pytest.raises(fazt.FaztError):
                            await streamed.read()

    kit.run(main)


def test_a_stream_comes_piece_by_piece(kit: Kit) -> None:
    async def main() -> None:
        go = threading.Event()

        def pieces() -> Iterator[bytes]:
            yield b"first\nse"
            assert go.wait(10)
            yield b"cond\nthird"

        with site({"/": lambda _: Reply(200, pieces=pieces())}) as where:
            async with kit.client(policy=policy(where)) as client, client.stream("GET", where.url()) as streamed:
                lines = []
                assert not streamed.is_closed
                async for line in streamed.iterate("lines"):
                    lines.append(line)
                    go.set()
                assert lines == ["first", "second", "third"]
                assert streamed.is_closed
                assert streamed.elapsed.total_seconds() > 0 if kit.name.startswith("httpx2") else True

    kit.run(main)


def test_a_stream_that_is_left_early_ends_its_call(kit: Kit) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 10_000

    async def main() -> None:
        with site({"/": lambda _: Reply(200, pieces=endless())}) as where:
            async with kit.client(policy=policy(where)) as client:
                async with client.stream("GET", where.url()) as streamed:
                    async for _ in streamed.iterate("bytes"):
                        break
                with pytest.raises((kit.lib.StreamClosed, kit.lib.StreamConsumed)):
                    await streamed.read()
                assert client.introspect()["pool"]["idle"] == 0
                assert (await client.get(where.url("/next"))).status_code == 200
            assert where.accepted == 2

    kit.run(main)


def test_a_stream_that_is_dropped_gives_its_connection_back(kit: Kit) -> None:
    """`send(stream=True)` and nothing more: the collector ends the call, and a pool of one is not used up."""

    async def main() -> None:
        with site({"/": text("z" * 200_000)}) as where:
            limits = kit.lib.Limits(max_connections=1)
            async with kit.client(policy=policy(where), limits=limits, timeout=5) as client:
                for _ in range(3):
                    response = await client.send(client.build_request("GET", where.url()), stream=True)
                    assert response.status_code == 200
                    del response
                    gc.collect()
                assert (await client.get(where.url("/next"))).status_code == 200

    kit.run(main)


def test_a_silent_stream_ends_at_its_idle_limit(kit: Kit) -> None:
    def script(peer: Any) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        peer.wait_for_end()

    async def main() -> None:
        with serve(script) as where:
            async with kit.client(policy=policy(where.port)) as client:
                with pytest.raises(kit.lib.ReadTimeout) as caught:
                    async with client.stream("GET", f"http://origin.test:{where.port}/", timeout=0.2) as streamed:
                        await streamed.read()
                assert caught.value.reason is fazt.Reason.BODY
                with pytest.raises(kit.lib.TimeoutException) as caught:
                    async with client.stream("GET", f"http://origin.test:{where.port}/", deadline=0.2) as streamed:
                        await streamed.read()
                assert caught.value.code is fazt.Code.NET_TIMEOUT

    kit.run(main)


def test_head_and_answers_without_a_body(kit: Kit) -> None:
    async def main() -> None:
        fields = [("Content-Encoding", "gzip"), ("Content-Length", "55")]
        with site({"/": Reply(200, b"", fields), "/none": Reply(204, phrase="No Content")}) as where:
            async with kit.client(policy=policy(where)) as client:
                response = await client.head(where.url())
                assert (response.content, response.headers["content-length"]) == (b"", "55")
                assert (await client.get(where.url("/none"))).content == b""

    kit.run(main)


def test_quickly_made_objects_are_those_the_constructors_make(kit: Kit) -> None:
    """The templates set what the libraries' own constructors set: a new release that sets more is seen here."""
    known, lib = family(kit.lib.__name__), kit.lib
    slow = lib.Response(
        200, headers=[(b"a", b"b")], stream=lib.ByteStream(b""), request=lib.Request("GET", "http://x/")
    )
    slow.read()
    slow.elapsed = None
    fast = known.whole(200, known.received((("a", "b"),)), b"", request=slow.request, extensions={})
    fast.elapsed = None
    ignored = {"_decoder"}
    assert set(vars(slow)) - ignored == set(vars(fast))
    assert slow.headers._list == fast.headers._list
    assert set(vars(slow.headers)) == set(vars(fast.headers))
    request = lib.Request("GET", "http://x.test/a?b", headers={"k": "v"})
    items = [(b"Host", b"host", b"x.test"), (b"k", b"k", b"v")]
    quick = known.bodiless("GET", known.place("http://x.test/a?b").url, known.headers(items), {})
    assert set(vars(request)) == set(vars(quick))
    assert request.headers == quick.headers
    assert request.headers.raw == quick.headers.raw
    assert (request.url, request.content, request.method) == (quick.url, quick.content, quick.method)
    other = known.bodiless("GET", quick.url, known.headers(items), {})
    other.headers["x"] = "y"
    other.extensions["x"] = "y"
    assert "x" not in quick.headers
    assert "x" not in quick.extensions
