"""Policies behind real clients: what a change takes back, and what is never connected to."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import fazt
from fazt.core.rules import expand_target
from fazt.errors import FaztError, Reason
from fazt.stores.sqlite.store import Store
from tests.client.site import HOST, LOOPBACK, OTHER, Kit, site

PATIENCE = 30.0


async def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def put(path: Path, *origins: str) -> None:
    rules = [f'[[allow]]\ntarget = "{origin}"\naddresses = {LOOPBACK}\n' for origin in origins]
    names = f'[resolve]\n"{HOST}" = "127.0.0.1"\n"{OTHER}" = "127.0.0.1"\n'
    beside = path.with_suffix(".new")
    beside.write_text("".join(rules) + names)
    os.replace(beside, path)


def idle(client: object) -> int:
    found: int = client._intake.backend.introspect()["pool"]["idle"]  # type: ignore[attr-defined]
    return found


def test_a_host_taken_out_of_the_file_loses_its_idle_connections_and_is_refused(kit: Kit, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"

    async def main() -> None:
        with site() as where:
            kept, gone = where.url("", OTHER), where.url("", HOST)
            put(path, kept, gone)
            policy = fazt.Policy.from_file(path)
            async with kit.client(policy=policy) as client:
                for url in (kept, gone):
                    assert (await client.get(f"{url}/")).status_code == 200
                assert idle(client) == 2
                put(path, kept)
                await until(lambda: idle(client) == 1)
                with pytest.raises(FaztError) as caught:
                    await client.get(f"{gone}/")
                assert caught.value.reason is Reason.HOST_NOT_GRANTED
                assert isinstance(caught.value, kit.lib.RequestError)
                assert (await client.get(f"{kept}/")).status_code == 200
                assert where.accepted == 2  # the kept one over its old connection
                put(path, kept, gone)
                await until(lambda: policy.current.revision == 3)
                assert (await client.get(f"{gone}/")).status_code == 200
            policy.close()

    kit.run(main)


def test_a_public_policy_connects_to_no_address_that_is_not_public(kit: Kit) -> None:
    async def main() -> None:
        with site() as canary:
            names = {"rebound.test": "127.0.0.1", "mixed.test": ["93.184.215.14", "127.0.0.1"], "six.test": "::1"}
            policy = fazt.Policy.public(ports=[80, 443, canary.port], resolve=names)
            async with kit.client(policy=policy) as client:
                for url in (*(f"http://{name}:{canary.port}/" for name in names), f"http://localhost:{canary.port}/"):
                    with pytest.raises(FaztError) as caught:
                        await client.get(url)
                    assert caught.value.reason is Reason.PRIVATE_ADDRESS
                with pytest.raises(FaztError) as caught:
                    await client.get(f"http://127.0.0.1:{canary.port}/")
                assert caught.value.reason is Reason.IP_LITERAL
            assert canary.accepted == 0

    kit.run(main)


def test_a_rule_of_the_data_directory_works_within_a_second_and_the_log_has_the_call(kit: Kit, tmp_path: Path) -> None:
    data = tmp_path / "data"

    async def main() -> None:
        with site() as where:
            policy = fazt.DataPolicy("reports", data=str(data))
            async with kit.client(policy=policy) as client:
                with pytest.raises(FaztError) as caught:
                    await client.get(where.url())
                assert caught.value.reason is Reason.HOST_NOT_GRANTED
                scope, _ = policy.store.apps.ensure("reports")
                rules = expand_target(where.url(""), scope=scope.id, addresses=LOOPBACK)
                policy.store.rules.allow(rules, frozenset({"addresses"}))
                await until(lambda: len(policy.current.rules) == 1)
                assert (await client.get(where.url())).status_code == 200
                policy.store.rules.remove_ids([rules[0].id])
                await until(lambda: idle(client) == 0)
                with pytest.raises(FaztError):
                    await client.get(where.url())
                assert where.accepted == 1
            policy.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAZT_RESOLVE", f"{HOST}=127.0.0.1")
        kit.run(main)
    with Store.open(data) as store:
        rows = [(row.record.door, row.record.reason, row.record.status) for row in store.log.calls()]
    assert rows == [("client", "host_not_granted", None), ("client", None, 200), ("client", "host_not_granted", None)]
