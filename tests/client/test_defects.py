"""Defects of the seed's client that none of the other files shows."""

from __future__ import annotations

import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import fazt
from fazt.client import door, lean, registry
from fazt.client.asked import Asking
from fazt.engine import AsyncEngine, Engine
from tests.client.site import Kit, policy, site

HERE = Path(__file__).parent


def test_D15_a_bad_port_is_a_refusal_and_no_value_error() -> None:
    for url in ("https://x.test:99999/", "https://x.test:0/", "https://x.test:port/"):
        with pytest.raises(fazt.FaztError) as caught:
            fazt.fetch(url, policy=fazt.Policy.public())
        assert caught.value.reason is fazt.Reason.BAD_URL
    registry.close_client()


def test_D29_every_option_of_a_client_has_a_test_that_uses_it() -> None:
    """No argument without a consumer: each is named in the tests of this directory, or of another door's."""
    written = "".join(path.read_text("utf-8") for path in [*HERE.glob("*.py"), *(HERE.parent / "cache").glob("*.py")])
    for others in ("cachesuite", "sdk", "telemetry", "engine", "e2e"):
        written += "".join(path.read_text("utf-8") for path in (HERE.parent / others).rglob("*.py"))
    arguments = {
        *inspect.signature(door.setup_of).parameters,
        *inspect.signature(lean.fetch).parameters,
        *Asking.__annotations__,
        *("on_request", "on_response", "on_error"),
    } - {"others", "asking", "url"}
    unused = {name for name in arguments if not re.search(rf"[\"'\s({{,]{name}[\"']?\s*[=:,]", written)}
    assert unused == set()


def test_D30_there_is_one_stack_beneath_everything(fresh_process: None) -> None:
    """Clients, transports, functions: the same engine, pool limits and record for all of them."""
    with site() as where:
        held = policy(where)
        client, carrier = fazt.Client(policy=held), fazt.Transport(policy=held)
        fazt.get(where.url(), policy=held)
        fazt.fetch(where.url(), policy=held)
        engines: list[Any] = [client._intake.backend.engine, carrier._intake.backend.engine]
        engines += [backend.engine for backend in registry.shared()]
        assert {type(engine) for engine in engines} == {Engine}
        assert len({engine.wire.pool.limits for engine in engines}) == 1
        client.close()
        carrier.close()

        async def main() -> None:
            async with fazt.AsyncClient(policy=held) as other:
                assert type(other._intake.backend.engine) is AsyncEngine
                await fazt.afetch(where.url(), policy=held)
                await fazt.aclose_client()

        asyncio.run(main())


def test_D31_proxies_of_a_client_are_refused_by_name(kit: Kit) -> None:
    for argument in ("proxies", "proxy"):
        with pytest.raises(fazt.ConfigError, match=argument):
            kit.ours.Client(policy=fazt.Policy(), **{argument: "http://proxy.test:3128"})


def test_proxies_of_the_environment_are_not_used(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where)) as client:
                assert (await client.get(where.url())).status_code == 200

    kit.run(main)


def test_D36_timeouts_may_be_a_tuple_and_all_four_count(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where), timeout=(1, 2, 3, 4)) as client:
                request = client.build_request("GET", where.url())
                assert request.extensions["timeout"] == {"connect": 1, "read": 2, "write": 3, "pool": 4}
                call, _ = client._intake.take(request, stream=False)
                phases = call.options.phases
                assert (phases.connect, phases.read, phases.write, phases.pool) == (1, 2, 3, 4)
                assert (await client.get(where.url(), timeout=(1, 2))).status_code == 200

    kit.run(main)


def test_http2_where_it_is_not_to_be_had_is_said_once_and_http11_used(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fazt.client.door.importlib.util.find_spec", lambda name: None)
    with pytest.warns(RuntimeWarning, match="HTTP/1.1"):
        client = kit.ours.Client(policy=fazt.Policy(), http2=True)
    assert client.introspect()["http2"] is False
    client.close()
