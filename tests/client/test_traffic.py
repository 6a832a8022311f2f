"""Retries, rates, breakers and services as a program meets them: four clients, real sockets (C.8-C.11)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fazt
from fazt.cli import main
from fazt.errors import ConfigError, Reason
from tests.client.forking import Parent, forked
from tests.client.site import HOST, OTHER, Kit, Reply, Seen, policy, site, text

AT_ONCE: dict[str, Any] = {"base": 0.0}
"""Retries that wait for nothing."""


def then(*replies: Reply) -> Callable[[Seen], Reply]:
    """Answer one after the other; the last one again and again."""
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def broken(status: int = 503, **fields: str) -> Reply:
    return Reply(status, b"no", [(name.replace("_", "-"), value) for name, value in fields.items()], phrase="No")


async def refused(client: Any, url: str, **arguments: Any) -> fazt.FaztError:
    with pytest.raises(fazt.FaztError) as caught:
        await client.get(url, **arguments)
    return caught.value


def test_D38_what_may_be_repeated_is_tried_again_and_a_post_is_not(kit: Kit) -> None:
    async def run() -> None:
        with site({"/get": then(broken(), broken(), text("at last")), "/post": broken()}) as there:
            async with kit.client(policy=policy(there), traffic={"retry": AT_ONCE}) as client:
                response = await client.get(there.url("/get"))
                assert (response.status_code, response.text) == (200, "at last")
                assert [seen.path for seen in there.requests] == ["/get"] * 3
                assert (await client.post(there.url("/post"), content=b"once")).status_code == 503
                assert len(there.requests) == 4
                keyed = {"Idempotency-Key": "1"}
                assert (await client.post(there.url("/post"), content=b"x", headers=keyed)).status_code == 503
                assert [seen.body for seen in there.requests[4:]] == [b"x"] * 4

    kit.run(run)


def test_each_call_can_say_itself_when_it_is_tried_again(kit: Kit) -> None:
    async def run() -> None:
        with site({"/": broken()}) as there:
            async with kit.client(policy=policy(there), traffic={"retry": AT_ONCE}) as client:
                await client.get(there.url("/"), retry=False)
                assert len(there.requests) == 1
                await client.get(there.url("/"), retry=fazt.RetryPolicy(attempts=2, base=0.0))
                assert len(there.requests) == 3

    kit.run(run)


def test_D37_a_retry_after_beyond_the_deadline_is_handed_out_with_its_field(kit: Kit) -> None:
    async def run() -> None:
        with site({"/": broken(429, retry_after="120")}) as there:
            async with kit.client(policy=policy(there), traffic={"retry": AT_ONCE}) as client:
                response = await client.get(there.url("/"), deadline=30)
                assert (response.status_code, response.headers["retry-after"]) == (429, "120")
                assert len(there.requests) == 1

    kit.run(run)


def test_D35_a_stream_is_tried_again_before_its_body(kit: Kit) -> None:
    async def run() -> None:
        with site({"/": then(broken(), Reply(200, pieces=[b"in ", b"pieces"]))}) as there:
            async with (
                kit.client(policy=policy(there), traffic={"retry": AT_ONCE, "breaker": True}) as client,
                client.stream("GET", there.url("/")) as response,
            ):
                assert await response.read() == b"in pieces"
            assert len(there.requests) == 2

    kit.run(run)


def test_D36_a_pair_of_timeouts_is_not_needed_and_all_four_can_be_set(kit: Kit) -> None:
    async def run() -> None:
        with site({"/": text("fine")}) as there:
            async with kit.client(policy=policy(there), traffic={"retry": AT_ONCE}) as client:
                for timeout in (5, (5, 30, 5, 5), kit.lib.Timeout(5, read=30), kit.lib.Timeout(30, connect=5)):
                    assert (await client.get(there.url("/"), timeout=timeout)).status_code == 200

    kit.run(run)


def test_D32_D34_a_breaker_opens_after_as_many_attempts_as_it_says(kit: Kit) -> None:
    async def run() -> None:
        with site({"/": broken(), "/missing": broken(404)}) as there:
            async with kit.client(policy=policy(there), traffic={"breaker": {"fail_max": 3}}) as client:
                for path in ("/", "/missing", "/", "/"):
                    assert (await client.get(there.url(path))).status_code in (503, 404)
                error = await refused(client, there.url("/"))
                assert (error.code, error.reason) == ("NET_RATE", Reason.BREAKER_OPEN)
                assert error.retryable
                assert 0 < (error.retry_after or 0) <= 60.001
                assert error.call_id
                assert isinstance(error, kit.lib.RequestError)
                assert len(there.requests) == 4
                assert (await client.get(there.url("/missing", host=OTHER))).status_code == 404

    kit.run(run)


def test_a_rate_refuses_what_would_wait_too_long(kit: Kit) -> None:
    async def run() -> None:
        with site({"/": text("fine")}) as there:
            async with kit.client(policy=policy(there), traffic={"rate": "2/hour", "wait": 1}) as client:
                for _ in range(2):
                    await client.get(there.url("/"))
                error = await refused(client, there.url("/"))
                assert error.reason is Reason.HOST_RATE
                assert 3500 < (error.retry_after or 0) <= 3600
                await client.head(there.url("/"))

    kit.run(run)


def test_D55_a_service_of_a_client_has_limits_of_its_own_also_for_streams(kit: Kit) -> None:
    async def run() -> None:
        services = {
            "crossref": {"rate": {"capacity": 2, "burst": 0, "per_second": 0.001}, "max_wait": 0, "retry": False}
        }
        with site({"/": text("fine")}) as there:
            async with kit.client(policy=policy(there), services=services) as client:
                crossref = client.service("crossref")
                first = crossref.get(there.url("/"))
                assert (await first if kit.asynchronous else first).status_code == 200
                async with client.stream("GET", there.url("/"), service="crossref") as response:
                    assert await response.read() == b"fine"
                error = await refused(client, there.url("/"), service="crossref")
                assert error.reason is Reason.HOST_RATE
                assert (await client.get(there.url("/"))).status_code == 200

    kit.run(run)


def test_services_are_policies_or_tables_and_nothing_else(kit: Kit) -> None:
    async def run() -> None:
        with site() as there:
            granted = policy(there)
            async with kit.client(policy=granted, services={"a": fazt.ServicePolicy(), "b": {}, "c": True}):
                pass
            wrong: Any
            for wrong in ({"a": 5}, {"a": {"rates": 1}}, {"": {}}):
                with pytest.raises(ConfigError, match=r"traffic\.services"):
                    async with kit.client(policy=granted, services=wrong):
                        pass
            with pytest.raises(ConfigError, match=r"traffic\.rate"):
                async with kit.client(policy=granted, traffic={"rate": "10/fortnight"}):
                    pass

    kit.run(run)


def test_places_of_a_host_are_held_until_the_body_is_closed(kit: Kit) -> None:
    async def run() -> None:
        with site({"/": Reply(200, pieces=[b"a", b"b"]), "/two": text("two")}) as there:
            async with kit.client(policy=policy(there), traffic={"concurrency": 1, "wait": 0}) as client:
                async with client.stream("GET", there.url("/")):
                    assert (await refused(client, there.url("/two"))).reason is Reason.POOL_WAIT
                assert (await client.get(there.url("/two"))).text == "two"

    kit.run(run)


async def looked(held: Any) -> None:
    """Let a policy file be read again, and the client hear of it on its loop."""
    held.look(settled=True)
    await asyncio.sleep(0)


def test_a_policy_file_changes_the_limits_of_a_client_in_use(kit: Kit, tmp_path: Path) -> None:
    async def run() -> None:
        with site({"/": text("fine")}) as there:
            path = tmp_path / "policy.toml"
            grant = (
                f'[[allow]]\ntarget = "http://{HOST}:{there.port}"\naddresses = ["127.0.0.1/32"]\n'
                f'[resolve]\n"{HOST}" = ["127.0.0.1"]\n'
            )
            path.write_text(grant)
            held = fazt.Policy.from_file(path)
            async with kit.client(policy=held) as client:
                for _ in range(3):
                    await client.get(there.url("/"))
                path.write_text(grant + '[traffic]\nrate = "1/hour"\nwait = 0\n')
                await looked(held)
                await client.get(there.url("/"))
                assert (await refused(client, there.url("/"))).reason is Reason.HOST_RATE
                path.write_text(grant + '[traffic]\nrate = "1/fortnight"\n')
                await looked(held)
                assert (await refused(client, there.url("/"))).reason is Reason.HOST_RATE
                path.write_text(grant)
                await looked(held)
                await client.get(there.url("/"))
            held.close()

    kit.run(run)


def test_an_operator_opens_a_breaker_and_closes_it_again(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAZT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("FAZT_RESOLVE", f"{HOST}=127.0.0.1")
    monkeypatch.setattr("fazt.stores.sqlite.breakers.READ_EVERY", 0.0)

    async def run() -> None:
        with site({"/": text("fine")}) as there:
            assert main(["net", "allow", f"http://{HOST}:{there.port}", "--address", "127.0.0.1/32"]) == 0
            async with kit.client() as client:
                assert (await client.get(there.url("/"))).text == "fine"
                assert main(["breaker", "open", HOST, "--reason", "they are moving"]) == 0
                assert (await refused(client, there.url("/"))).reason is Reason.BREAKER_OPEN
                assert main(["breaker", "close", HOST]) == 0
                assert (await client.get(there.url("/"))).text == "fine"

    kit.run(run)


def test_a_forked_child_goes_on_though_a_thread_of_its_parent_held_the_lock() -> None:
    with site({"/": text("fine")}) as there:
        limits = {"rate": "100/second", "breaker": True, "concurrency": 2}
        with fazt.Client(policy=policy(there), traffic=limits) as client:
            client.get(there.url("/"))
            traffic = client._intake.backend.setup.traffic

            def work(parent: Parent) -> None:
                parent.say(client.get(there.url("/")).text)

            with traffic._lock, forked(work) as child:
                assert child.hear() == "fine"
