"""What a comparison with httpx2 and httpx, call for call, and an attack on the clients have found."""

from __future__ import annotations

import gc
import io
import math
import os
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

import fazt
from fazt.core.record import CallRecord
from fazt.errors import ConfigError, FaztError
from tests.client.site import OTHER, Handler, Kit, Reply, policy, redirect, site


class Kept:
    """Records, and a sign for each."""

    def __init__(self) -> None:
        self.records: list[CallRecord] = []
        self.came = threading.Event()

    def append(self, record: CallRecord) -> None:
        self.records.append(record)
        self.came.set()


def test_a_stream_that_was_closed_says_how_long_it_took(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where)) as client:
                async with client.stream("GET", where.url()) as response:
                    with pytest.raises(RuntimeError):
                        _ = response.elapsed
                    await response.read()
                assert response.elapsed.total_seconds() > 0
                client.event_hooks = {"response": [kit.hook(lambda response: None)]}
                hooked = await client.get(where.url())
                assert hooked.elapsed.total_seconds() > 0

    kit.run(main)


@pytest.mark.parametrize("wrong", ["text", 5, None])
def test_a_body_in_pieces_that_are_no_bytes_is_the_callers_mistake(kit: Kit, wrong: Any) -> None:
    async def pieces() -> AsyncIterator[Any]:
        yield wrong

    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where)) as client:
                with pytest.raises(TypeError, match=type(wrong).__name__):
                    await client.post(where.url(), content=pieces() if kit.asynchronous else iter([wrong]))

    kit.run(main)


def test_a_file_of_text_is_no_body() -> None:
    with (
        site() as where,
        fazt.Client(policy=policy(where)) as client,
        pytest.raises(TypeError, match="must be bytes, not str"),
    ):
        client.post(where.url(), content=io.StringIO("text"))


def test_pieces_of_other_kinds_of_bytes_are_sent(kit: Kit) -> None:
    async def pieces() -> AsyncIterator[Any]:
        for piece in given:
            yield piece

    given: list[Any] = [bytearray(b"ab"), memoryview(b"cdXX")[:2], b"ef"]

    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where)) as client:
                response = await client.post(where.url(), content=pieces() if kit.asynchronous else iter(given))
                assert response.json()["body"] == "abcdef"

    kit.run(main)


def test_a_redirect_does_not_choose_who_gets_the_programs_own_cookies(kit: Kit) -> None:
    async def main() -> None:
        routes: dict[str, Handler | Reply] = {"/near": redirect("/end")}
        with site(routes) as where:
            routes["/away"] = redirect(where.url("/back", OTHER))
            routes["/back"] = redirect(where.url("/end"))
            async with kit.client(policy=policy(where), cookies={"session": "s"}, follow_redirects=True) as client:
                client.cookies.set("theirs", "t", domain=OTHER)
                await client.get(where.url("/near"))
                assert [seen.get("cookie") for seen in where.requests] == ["session=s", "session=s"]
                where.requests.clear()
                await client.get(where.url("/away"))
                assert [(seen.path, seen.get("cookie")) for seen in where.requests] == [
                    ("/away", "session=s"),
                    ("/back", "theirs=t"),
                    ("/end", None),
                ]

    kit.run(main)


def test_the_next_request_of_a_redirect_carries_no_credentials_to_another_origin(kit: Kit) -> None:
    async def main() -> None:
        routes: dict[str, Handler | Reply] = {"/near": redirect("/there")}
        with site(routes) as where:
            routes["/away"] = redirect(where.url("/there", OTHER))
            given = {"X-Api-Key": "k", "Authorization": "a", "X-Other": "o"}
            async with kit.client(policy=policy(where), headers=given, cookies={"session": "s"}) as client:
                found = (await client.get(where.url("/away"))).next_request
                assert found is not None
                assert {"x-api-key", "authorization", "cookie"}.isdisjoint(found.headers)
                assert found.headers["x-other"] == "o"
                await client.send(found)
                assert (where.requests[-1].get("host") or "").startswith(OTHER)
                near = (await client.get(where.url("/near"))).next_request
                assert near is not None
                assert [near.headers[name] for name in ("x-api-key", "authorization", "cookie")] == [
                    "k",
                    "a",
                    "session=s",
                ]

    kit.run(main)


def _watched(client: fazt.Client) -> Kept:
    kept = Kept()
    client._intake.backend.engine.sink = kept
    return kept


def test_a_response_that_was_dropped_gives_its_connection_to_who_waits() -> None:
    import httpx2

    with site({"/large": Reply(200, b"x" * 2_000_000)}) as where:
        limits = httpx2.Limits(max_connections=1)
        with fazt.Client(policy=policy(where), limits=limits, timeout=httpx2.Timeout(20)) as client:
            dropped = client.send(client.build_request("GET", where.url("/large")), stream=True)
            found: list[int] = []
            waiting = threading.Thread(target=lambda: found.append(client.get(where.url()).status_code))
            waiting.start()
            turns = client._intake.backend.engine.wire.turns
            while not turns.waiting:
                assert waiting.is_alive()
            del dropped
            gc.collect()
            waiting.join(20)
            assert found == [200]


def test_a_dropped_response_of_a_dropped_client_has_its_record() -> None:
    with site({"/large": Reply(200, b"x" * 2_000_000)}) as where:
        client = fazt.Client(policy=policy(where))
        kept = _watched(client)
        response = client.send(client.build_request("GET", where.url("/large")), stream=True)
        del response, client
        gc.collect()
        assert kept.came.wait(20)
        assert [record.reason for record in kept.records] == ["aborted"]


def test_a_forked_child_takes_nothing_of_an_answer_that_its_parent_reads() -> None:
    with site({"/large": Reply(200, b"x" * 2_000_000)}) as where, fazt.Client(policy=policy(where)) as client:
        kept = _watched(client)
        response = client.send(client.build_request("GET", where.url("/large")), stream=True)
        out, into = os.pipe()
        child = os.fork()
        if not child:
            said = b"nothing"
            try:
                response.read()
                said = b"read"
            except FaztError as error:
                said = error.reason.value.encode()
            finally:
                os.write(into, said)
                os._exit(0)
        os.waitpid(child, 0)
        assert os.read(out, 100) == b"aborted"
        assert len(response.read()) == 2_000_000
        os.close(out)
        os.close(into)
        assert [record.code for record in kept.records] == [None]


@pytest.mark.parametrize("name", ["proxy", "mounts", "transport", "trust_env", "verify", "cert", "http2", "limits"])
def test_the_functions_say_why_they_do_not_take_what_httpx_takes(name: str) -> None:
    given: dict[str, Any] = {name: name != "verify"}
    with pytest.raises(ConfigError, match=name):
        fazt.get("http://origin.test/", policy=fazt.Policy(), **given)


def test_a_read_timeout_without_end_is_none(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where)) as client:
                assert (await client.get(where.url(), timeout=math.inf)).status_code == 200

    kit.run(main)


@pytest.mark.parametrize(
    "wrong",
    [
        {"headers": {"X-A": 5}},
        {"headers": {"X-A": b"b"}},
        {"timeout": (1, 2)},
        {"timeout": "5"},
        {"params": "a=b"},
        {"data": "a=b"},
    ],
    ids=str,
)
@pytest.mark.usefixtures("fresh_process")
def test_wrong_arguments_of_the_lean_functions_are_the_callers_mistake(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"must be|take names"):
        fazt.fetch("http://origin.test/", policy=fazt.Policy(), **wrong)


@pytest.mark.usefixtures("fresh_process")
def test_the_lean_functions_write_queries_and_forms_as_httpx_does() -> None:
    given: dict[str, Any] = {"a": ["1", 2], "n": None, "t": True, "f": False, "s": "ä b"}
    with site() as where:
        rules = policy(where)
        sent = fazt.fetch(where.url("/?q=1"), policy=rules, params=given).json()
        assert sent["target"] == "/?q=1&a=1&a=2&n=&t=true&f=false&s=%C3%A4+b"
        sent = fazt.fetch(where.url(), policy=rules, method="POST", data=given).json()
        assert sent["body"] == "a=1&a=2&n=&t=true&f=false&s=%C3%A4+b"
