"""The response cache of the clients: the four of them alike, in memory and in a directory."""

from __future__ import annotations

import asyncio
import gzip
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fazt
from fazt.client.cache import Cache, cache_from
from tests.client.site import HOST, LOOPBACK, Kit, Reply, Seen, Site, policy, site, text


def used(response: Any) -> str:
    found: str = response.extensions["fazt"]["cache"]
    return found


def counting(**fields: str) -> Any:
    """Answer with how many requests came before, and these fields."""
    count = iter(range(1, 1000))
    lock = threading.Lock()

    def handler(_seen: Seen) -> Reply:
        with lock:
            return text(str(next(count)), **fields)

    return handler


@pytest.fixture
def where() -> Iterator[Site]:
    def tagged(seen: Seen) -> Reply:
        if seen.get("if-none-match") == '"1"':
            return Reply(304, b"", [("ETag", '"1"'), ("Cache-Control", "no-cache")])
        return text("tagged", ETag='"1"', Cache_Control="no-cache")

    routes = {
        "/fresh": counting(Cache_Control="max-age=60"),
        "/private": counting(Cache_Control="private, max-age=60"),
        "/no-store": counting(Cache_Control="no-store, max-age=60"),
        "/silent": counting(),
        "/varies": counting(Cache_Control="max-age=60", Vary="Accept-Language"),
        "/cookie": counting(Cache_Control="max-age=60", Set_Cookie="a=b"),
        "/tagged": tagged,
        "/filter": lambda seen: text("", Set_Cookie=f"filter={seen.query}; Path=/"),
        "/packed": Reply(
            200,
            gzip.compress(b"unpacked"),
            [("Content-Encoding", "gzip"), ("Cache-Control", "max-age=60"), ("Vary", "Accept-Encoding")],
        ),
        "/gone": Reply(410, b"gone", [("Cache-Control", "max-age=60")]),
    }
    with site(routes) as running:
        yield running


def test_without_one_nothing_is_kept(kit: Kit, where: Site) -> None:
    async def main() -> None:
        async with kit.client(policy=policy(where)) as client:
            for _ in range(2):
                assert used(await client.get(where.url("/fresh"))) == ""
        async with kit.client(policy=policy(where), cache=False) as client:
            assert used(await client.get(where.url("/fresh"))) == ""

    kit.run(main)
    assert len(where.requests) == 3


def test_what_is_fresh_is_answered_from_it(kit: Kit, where: Site) -> None:
    async def main() -> None:
        async with kit.client(policy=policy(where), cache=True) as client:
            first = await client.get(where.url("/fresh"))
            again = await client.get(where.url("/fresh"))
            assert (used(first), used(again)) == ("miss", "hit")
            assert (first.text, again.text, again.status_code) == ("1", "1", 200)
            assert int(again.headers["age"]) >= 0
            assert again.headers["content-type"] == first.headers["content-type"]
            assert first.extensions["fazt"]["call_id"] != again.extensions["fazt"]["call_id"]

    kit.run(main)
    assert len(where.requests) == 1


@pytest.mark.parametrize(
    ("path", "uses"),
    [
        ("/private", ["miss", "hit"]),
        ("/no-store", ["miss", "miss"]),
        ("/silent", ["miss", "miss"]),
        ("/cookie", ["miss", "miss"]),
        ("/tagged", ["miss", "revalidated"]),
        ("/packed", ["miss", "hit"]),
        ("/gone", ["miss", "hit"]),
    ],
)
def test_the_server_decides(kit: Kit, where: Site, path: str, uses: list[str]) -> None:
    async def main() -> None:
        async with kit.client(policy=policy(where), cache=True) as client:
            answers = [await client.get(where.url(path)) for _ in uses]
            assert [used(answer) for answer in answers] == uses
            if "hit" in uses or "revalidated" in uses:
                assert answers[0].content == answers[1].content
                assert answers[0].status_code == answers[1].status_code

    kit.run(main)


def test_it_can_be_asked_otherwise_for_one_request_or_all(kit: Kit, where: Site) -> None:
    async def main() -> None:
        async with kit.client(policy=policy(where), cache=True) as client:
            with pytest.raises(fazt.FaztError) as caught:
                await client.get(where.url("/fresh"), cache="only-if-cached")
            assert caught.value.reason is fazt.Reason.NOT_CACHED
            assert isinstance(caught.value, kit.lib.RequestError)
            uses = [
                used(await client.get(where.url("/fresh"), cache=mode))
                for mode in ("default", "bypass", "reload", "only-if-cached", "default")
            ]
            assert uses == ["miss", "bypass", "miss", "hit", "hit"]
            assert (await client.get(where.url("/fresh"))).text == "3"
            by_extension = {"fazt": {"cache": "bypass"}}
            assert used(await client.get(where.url("/fresh"), extensions=by_extension)) == "bypass"
            gateway = await client.get(where.url("/none"), headers={"Cache-Control": "only-if-cached"})
            assert gateway.status_code == 504

    kit.run(main)


def test_a_stream_is_kept_at_its_end(kit: Kit, where: Site) -> None:
    async def main() -> None:
        async with kit.client(policy=policy(where), cache=True) as client:
            async with client.stream("GET", where.url("/fresh")) as response:
                assert used(response) == "miss"
                assert await response.read() == b"1"
            async with client.stream("GET", where.url("/fresh")) as response:
                assert used(response) == "hit"
                assert await response.read() == b"1"

    kit.run(main)


def test_credentials_do_not_share(kit: Kit, where: Site) -> None:
    async def main() -> None:
        async with kit.client(policy=policy(where), cache=True) as client:
            answers = {
                token: (await client.get(where.url("/private"), headers={"Authorization": token})).text
                for token in ("one", "two")
            }
            assert len(set(answers.values())) == 2
            again = await client.get(where.url("/private"), headers={"Authorization": "one"})
            assert (used(again), again.text) == ("hit", answers["one"])
            assert used(await client.get(where.url("/private"))) == "miss"

    kit.run(main)


@pytest.mark.parametrize("status", [400, 412, 416, 206])
def test_what_a_range_was_answered_is_no_answer_to_others(kit: Kit, status: int) -> None:
    def part(seen: Seen) -> Reply:
        return Reply(200 if seen.get("range") is None else status, b"whole", [("Cache-Control", "max-age=60")])

    async def main() -> None:
        with site({"/part": part}) as where:
            async with kit.client(policy=policy(where), cache=True) as client:
                assert (await client.get(where.url("/part"), headers={"Range": "bytes=10-20"})).status_code == status
                for uses in ("miss", "hit"):
                    response = await client.get(where.url("/part"))
                    assert (response.status_code, response.content, used(response)) == (200, b"whole", uses)

    kit.run(main)


def test_a_transport_caches_too(kit: Kit, where: Site) -> None:
    async def main() -> None:
        transport = {"policy": policy(where), "cache": True}
        async with kit.carried(transport=transport) as client:
            assert [used(await client.get(where.url("/fresh"))) for _ in range(2)] == ["miss", "hit"]

    kit.run(main)


def test_clients_of_one_cache_share_and_policies_do_not(kit: Kit, where: Site, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")

    async def main() -> None:
        for uses in (["miss", "hit"], ["hit", "hit"]):
            async with kit.client(policy=policy(where), cache=cache) as client:
                assert [used(await client.get(where.url("/fresh"))) for _ in range(2)] == uses
        async with kit.client(policy=policy(where, hosts=(HOST,)), cache=cache) as client:
            assert used(await client.get(where.url("/fresh"))) == "miss"

    kit.run(main)
    assert cache.stats().items == 2
    cache.close()
    again = Cache(tmp_path / "cache")
    assert again.stats().items == 2
    assert again.clear("elsewhere.test") == 0
    assert again.clear(HOST) == 2
    again.close()


def test_a_rule_with_a_ttl_is_cached_without_more(kit: Kit, where: Site) -> None:
    async def main() -> None:
        async with kit.client(policy=policy(where, rules={"cache_ttl": 60})) as client:
            assert [used(await client.get(where.url("/silent"))) for _ in range(2)] == ["miss", "hit"]
            assert [used(await client.get(where.url("/no-store"))) for _ in range(2)] == ["miss", "miss"]

    kit.run(main)


def test_a_hundred_at_once_make_one_request(where: Site) -> None:
    async def main() -> None:
        async with fazt.AsyncClient(policy=policy(where), cache=True) as client:
            answers = await asyncio.gather(*(client.get(where.url("/fresh")) for _ in range(100)))
            assert {answer.text for answer in answers} == {"1"}

    asyncio.run(main())
    assert len(where.requests) == 1


def test_a_rule_of_its_own_says_for_which_host(where: Site) -> None:
    rules = [
        fazt.Rule(f"http://{HOST}:{where.port}", addresses=LOOPBACK, cache_ttl=60),
        fazt.Rule(f"http://other.test:{where.port}", addresses=LOOPBACK),
    ]
    held = fazt.Policy(rules, resolve={host: ["127.0.0.1"] for host in (HOST, "other.test")})
    with fazt.Client(policy=held) as client:
        assert [used(client.get(where.url("/silent"))) for _ in range(2)] == ["miss", "hit"]
        assert [used(client.get(where.url("/silent", host="other.test"))) for _ in range(2)] == ["", ""]


# --- what a client takes


def test_what_may_be_given(tmp_path: Path) -> None:
    cache = Cache(max_bytes=1000)
    assert cache_from(cache) is cache
    assert cache_from(False) is None
    assert isinstance(cache_from(True), Cache)
    given = cache_from(tmp_path / "there")
    assert given is not None
    assert (tmp_path / "there" / "cache.db").exists()
    given.close()
    for wrong in (5, "somewhere", object()):
        with pytest.raises(fazt.ConfigError):
            cache_from(wrong)


@pytest.mark.parametrize("wrong", [{"max_bytes": -1}, {"stale_if_error": -1}, {"max_entry": True}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(fazt.ConfigError):
        Cache(**wrong)


def test_a_forked_child_begins_with_an_empty_memory(where: Site) -> None:
    cache = Cache()
    held = policy(where)
    with fazt.Client(policy=held, cache=cache) as client:
        client.get(where.url("/fresh"))
    assert cache.stats().items == 1
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with fazt.Client(policy=held, cache=cache) as client:
            os.write(writer, used(client.get(where.url("/fresh"))).encode())
        os._exit(0)
    os.close(writer)
    assert os.read(reader, 100) == b"miss"
    os.close(reader)
    assert os.waitpid(child, 0)[1] == 0
    assert cache.of(held.id).stats().items == 1


# --- cookies


def test_cookies_that_servers_set_by_themselves_do_not_part_a_client_from_its_cache(kit: Kit, where: Site) -> None:
    async def main() -> None:
        async with kit.client(policy=policy(where), cache=True) as client:
            assert used(await client.get(where.url("/fresh"))) == "miss"
            for value in ("1", "2"):
                await client.get(where.url(f"/filter?{value}"))
                answers = [await client.get(where.url(path)) for path in ("/fresh", "/private", "/private")]
                assert answers[0].request.headers["cookie"] == f"filter={value}"
                assert [used(answer) for answer in answers] == ["hit", "miss" if value == "1" else "hit", "hit"]

    kit.run(main)


def test_whoever_logs_in_does_not_see_what_was_answered_before(kit: Kit, where: Site) -> None:
    async def main() -> None:
        async with kit.client(policy=policy(where), cache=True) as client:
            texts = []
            for value in ("1", "2"):
                await client.post(where.url(f"/filter?{value}"))
                answers = [await client.get(where.url("/private")) for _ in range(2)]
                assert [used(answer) for answer in answers] == ["miss", "hit"]
                texts.append(answers[0].text)
            assert texts == ["1", "2"]

    kit.run(main)


def test_cookies_of_the_programs_own_are_credentials(kit: Kit, where: Site) -> None:
    cache = Cache()

    async def main() -> None:
        for value in ("one", "two"):
            async with kit.client(policy=policy(where), cache=cache, cookies={"session": value}) as client:
                assert [used(await client.get(where.url("/private"))) for _ in range(2)] == ["miss", "hit"]
        async with kit.client(policy=policy(where), cache=cache) as client:
            await client.get(where.url("/filter?1"))
            for value, use in (("one", "hit"), ("two", "hit"), ("three", "miss")):
                headers = {"Cookie": f"session={value}"}
                assert used(await client.get(where.url("/private"), headers=headers)) == use

    kit.run(main)


def test_one_clients_jar_is_not_anothers(kit: Kit, where: Site) -> None:
    cache = Cache()

    async def main() -> None:
        texts = set()
        for _ in range(2):
            async with kit.client(policy=policy(where), cache=cache) as client:
                await client.get(where.url("/filter?1"))
                answer = await client.get(where.url("/private"))
                assert used(answer) == "miss"
                texts.add(answer.text)
        assert len(texts) == 2

    kit.run(main)
