"""Defects of the seed's client that none of the other files shows."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import fazt
from fazt.client import door, lean, registry
from fazt.client.asked import Asking
from fazt.engine import AsyncEngine, Engine
from fazt.errors import OperatorError
from tests.client.site import Kit, Reply, Seen, policy, site, text
from tests.telemetry.sinks import Collected

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
        before = registry.shared()  # of other tests' loops
        client, carrier = fazt.Client(policy=held), fazt.Transport(policy=held)
        fazt.get(where.url(), policy=held)
        fazt.fetch(where.url(), policy=held)
        engines: list[Any] = [client._intake.backend.engine, carrier._intake.backend.engine]
        engines += [backend.engine for backend in registry.shared() if backend not in before]
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


def test_D2_a_download_streams_through_a_client_of_fazts(tmp_path: Path, fresh_process: None) -> None:
    """The second piece is sent when the first has arrived: nothing waits for the whole body."""
    arrived = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"first"
        assert arrived.wait(30)
        yield b"second"

    with site({"/f": Reply(pieces=pieces())}) as where:
        got = fazt.download(
            where.url("/f"), tmp_path / "f", policy=policy(where), progress=lambda done, total: done and arrived.set()
        )
    assert got.path.read_bytes() == b"firstsecond"


def test_D3_D29_the_cache_is_active_and_says_so(kit: Kit, tmp_path: Path) -> None:
    async def main() -> None:
        with site({"/f": text("x", Cache_Control="max-age=60")}) as where:
            for given in (True, tmp_path / "kept"):
                async with kit.client(policy=policy(where), cache=given) as client:
                    assert client.introspect()["cache"] is True
                    found = [(await client.get(where.url("/f"))).extensions["fazt"]["cache"] for _ in range(2)]
                    assert found == ["miss", "hit"]
                    passed = await client.get(where.url("/f"), cache="bypass")
                    assert passed.extensions["fazt"]["cache"] == "bypass"
        (tmp_path / "file").write_text("no directory")
        with pytest.raises(OperatorError):  # what was asked for and cannot be had is no start without it
            kit.ours.Client(policy=fazt.Policy(), cache=tmp_path / "file").get("https://x.test/")

    kit.run(main)


def test_D28_a_file_has_the_mode_of_the_umask_and_its_place_is_judged(tmp_path: Path, fresh_process: None) -> None:
    with site({"/f": text("x")}) as where:
        held = policy(where)
        before = os.umask(0o027)
        try:
            got = fazt.download(where.url("/f"), tmp_path / "f", policy=held)
        finally:
            os.umask(before)
        assert got.path.stat().st_mode & 0o777 == 0o640
        for dest in ("/etc/fazt-of-the-tests", "/proc/x", tmp_path / ".." / "outside"):
            with pytest.raises(fazt.DownloadError) as caught:
                fazt.download(where.url("/f"), dest, policy=held, root=tmp_path)
            assert (caught.value.kind, caught.value.reason) == ("policy", fazt.Reason.PATH_REFUSED)
        with pytest.raises(KeyboardInterrupt):
            fazt.download(where.url("/f"), tmp_path / "g", policy=held, progress=_interrupt)
        assert [path.name for path in tmp_path.iterdir()] == ["f"]


def _interrupt(_done: int, _total: int | None) -> None:
    raise KeyboardInterrupt


def test_D40_no_setting_overrides_no_store_and_no_credential_sees_anothers(kit: Kit) -> None:
    def mine(seen: Seen) -> Reply:
        return text(seen.get("authorization") or "", Cache_Control="max-age=60")

    async def main() -> None:
        with site({"/no-store": text("x", Cache_Control="no-store"), "/mine": mine}) as where:
            async with kit.client(policy=policy(where, rules={"cache_ttl": 3600}), cache=True) as client:
                for _ in range(2):
                    assert (await client.get(where.url("/no-store"))).extensions["fazt"]["cache"] == "miss"
                for who in ("one", "two", "one"):
                    answer = await client.get(where.url("/mine"), headers={"Authorization": f"Bearer {who}"})
                    assert answer.text == f"Bearer {who}"
            assert [seen.path for seen in where.requests].count("/no-store") == 2

    kit.run(main)


def test_D41_a_role_is_one_name_for_cache_limits_and_events(kit: Kit) -> None:
    told = Collected()

    async def main() -> None:
        with site({"/f": text("x", Cache_Control="max-age=60")}) as where:
            limits = {"roles": {"artifact": {"rate": "1/hour", "wait": 0}}}
            async with kit.client(policy=policy(where), cache=True, traffic=limits, sinks=[told]) as client:
                for role, used in (("artifact", "miss"), ("artifact", "hit"), ("landing", "miss")):
                    answer = await client.get(where.url("/f"), role=role)
                    assert answer.extensions["fazt"]["cache"] == used
                with pytest.raises(fazt.FaztError) as caught:
                    await client.get(where.url("/other"), role="artifact")
                assert caught.value.reason is fazt.Reason.HOST_RATE

    kit.run(main)
    assert [event.role for event in told.summaries] == ["artifact", "artifact", "landing", "artifact"]


def test_D42_what_one_call_asks_of_the_cache_is_no_other_threads_affair(tmp_path: Path) -> None:
    """And no validator is sent without the body it belongs to: whoever sets no condition gets no bare 304."""

    def tagged(seen: Seen) -> Reply:
        fields = [("ETag", '"1"'), ("Cache-Control", "max-age=60")]
        return Reply(304, b"", fields) if seen.get("if-none-match") else Reply(200, b"x", fields)

    with site({"/f": tagged}) as where, fazt.Client(policy=policy(where), cache=fazt.Cache(tmp_path / "c")) as client:
        modes = ["default", "bypass", "validate", "reload"] * 8
        client.get(where.url("/f"))
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda mode: client.get(where.url("/f"), cache=mode), modes))
        # what is replaced at that moment may be a miss; nothing takes another call's mode
        used = {
            "default": {"hit", "miss"},
            "bypass": {"bypass"},
            "validate": {"revalidated", "miss"},
            "reload": {"miss"},
        }
        assert [mode for mode, answer in zip(modes, found, strict=True) if _used(answer) not in used[mode]] == []
        assert {(answer.status_code, answer.text) for answer in found} == {(200, "x")}
        fazt.Cache(tmp_path / "c").clear()
        assert client.get(where.url("/f"), cache="validate").text == "x"
        assert where.requests[-1].get("if-none-match") is None


def _used(answer: Any) -> str:
    used: str = answer.extensions["fazt"]["cache"]
    return used
