"""What a client can be asked for acts: retries, cache, services and roles, limits, sinks, the data directory's apps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fazt
from fazt.core.rules import expand_target
from fazt.stores.sqlite.store import Store
from tests.client.site import HOST, Kit, Reply, Seen, policy, site, text
from tests.telemetry.sinks import Collected

QUICK = {"base": 0.001, "cap": 0.002}


def failing(times: int) -> Any:
    """Answer 503 so many times, then 200."""
    left = [times]

    def answer(_: Seen) -> Reply:
        left[0] -= 1
        return Reply(503, b"busy", phrase="Busy") if left[0] >= 0 else text("there")

    return answer


def test_a_retry_is_one_call_with_several_attempts(kit: Kit) -> None:
    async def main() -> None:
        sink = Collected()
        with site({"/": failing(2), "/post": failing(1)}) as where:
            retry = fazt.RetryPolicy(attempts=3, **QUICK)
            async with kit.client(policy=policy(where), retry=retry, sinks=[sink]) as client:
                assert (await client.get(where.url())).text == "there"
                assert (await client.post(where.url("/post"), content=b"x")).status_code == 503
            assert [seen.path for seen in where.requests] == ["/", "/", "/", "/post"]
        assert [(event.attempt, event.status_code) for event in sink.attempts] == [
            (1, 503),
            (2, 503),
            (3, 200),
            (1, 503),
        ]
        assert len(sink.summaries) == 2

    kit.run(main)


def test_a_retry_of_one_request_and_none_at_all(kit: Kit) -> None:
    async def main() -> None:
        with site({"/a": failing(1), "/b": failing(1)}) as where:
            retry = fazt.RetryPolicy(attempts=2, **QUICK)
            async with kit.client(policy=policy(where), traffic={"retry": {"attempts": 2, **QUICK}}) as client:
                assert (await client.get(where.url("/a"), retry=False)).status_code == 503
                assert (await client.get(where.url("/b"))).text == "there"
            async with kit.client(policy=policy(where)) as client:
                assert (await client.get(where.url("/c"), retry=retry)).status_code == 200

    kit.run(main)


def test_service_and_role_reach_limits_and_events(kit: Kit) -> None:
    async def main() -> None:
        sink = Collected()
        with site({"/x": failing(1)}) as where:
            services = {"crossref": {"retry": {"attempts": 2, **QUICK}}}
            async with kit.client(policy=policy(where), services=services, sinks=sink, role="metadata") as client:
                assert (await client.get(where.url("/x"), service="crossref")).text == "there"
                await client.get(where.url("/y"), role="artifact")
        assert [(event.service or "", event.role) for event in sink.summaries] == [
            ("crossref", "metadata"),
            ("", "artifact"),
        ]

    kit.run(main)


def test_limits_of_hosts_refuse_what_is_too_much(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            traffic = {"hosts": {HOST: {"rate": "2/hour", "wait": 0}}}
            async with kit.client(policy=policy(where), traffic=traffic) as client:
                for _ in range(2):
                    assert (await client.get(where.url())).status_code == 200
                with pytest.raises(kit.lib.RequestError) as caught:
                    await client.get(where.url())
                assert caught.value.reason is fazt.Reason.HOST_RATE
                assert caught.value.retryable
                assert caught.value.retry_after > 0
            assert len(where.requests) == 2

    kit.run(main)


def test_an_open_breaker_refuses_without_a_request(kit: Kit) -> None:
    async def main() -> None:
        with site({"/": Reply(503, b"", phrase="Busy")}) as where:
            traffic = {"breaker": {"fail_max": 2, "reset": 60}}
            async with kit.client(policy=policy(where), traffic=traffic) as client:
                for _ in range(2):
                    assert (await client.get(where.url())).status_code == 503
                with pytest.raises(kit.lib.RequestError) as caught:
                    await client.get(where.url())
                assert caught.value.reason is fazt.Reason.BREAKER_OPEN
            assert len(where.requests) == 2

    kit.run(main)


def test_the_cache_answers_in_place_of_the_server(kit: Kit) -> None:
    async def main() -> None:
        with site({"/": text("kept", Cache_Control="max-age=60")}) as where:
            async with kit.client(policy=policy(where), cache=True) as client:
                found = []
                for mode in (None, None, "bypass", "reload", "only-if-cached"):
                    response = await client.get(where.url(), cache=mode)
                    assert response.text == "kept"
                    found.append(response.extensions["fazt"]["cache"])
                async with client.stream("GET", where.url()) as streamed:
                    assert await streamed.read() == b"kept"
                    assert streamed.extensions["fazt"]["cache"] == "hit"
            assert found[:3] == ["miss", "hit", "bypass"]
            assert found[4] == "hit"
            assert len(where.requests) == 3

    kit.run(main)


def test_a_client_of_the_data_directory_has_its_rules_and_writes_its_log(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAZT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FAZT_RESOLVE", f"{HOST}=127.0.0.1")
    monkeypatch.setenv("FAZT_SECRETS_KEY", "A" * 43 + "=")

    async def main() -> None:
        with site() as where:
            async with kit.client() as client:
                with pytest.raises(kit.lib.RequestError) as caught:
                    await client.get(where.url())
                assert caught.value.reason is fazt.Reason.HOST_NOT_GRANTED, "nothing granted is nothing reachable"
            with Store.open(tmp_path / "data") as store:
                scope = store.apps.ensure("reports")[0].id
                rules = expand_target(f"http://{HOST}:{where.port}", scope=scope, addresses=["127.0.0.1/32"])
                store.rules.allow(rules, frozenset())
            async with kit.client(app="reports") as client:
                response = await client.get(where.url("/granted"))
                assert response.status_code == 200
                assert client.introspect()["app"] == scope
            call_id = response.extensions["fazt"]["call_id"]
            with Store.open(tmp_path / "data") as store:
                kept = [row.record for row in store.log.calls(call_id=call_id)]
            assert [(row.app, row.door, row.status, row.path) for row in kept] == [(scope, "client", 200, "/granted")]
            async with kit.client(app="unknown") as client:
                with pytest.raises(kit.lib.RequestError) as caught:
                    await client.get(where.url())
                assert caught.value.reason is fazt.Reason.HOST_NOT_GRANTED

    kit.run(main)
