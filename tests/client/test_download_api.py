"""The public functions: policies, clients, many files at once."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fazt
from fazt.client.download import at_once
from fazt.errors import Reason
from tests.client.download_site import CONTENT, HOST, OTHER, Answer, Request, Site, names, serving

DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site()) as started:
        yield started
    fazt.close_client()


def policy(site: Site) -> fazt.Policy:
    return fazt.Policy(
        allow=[fazt.Rule(f"http://{host}:{site.port}", addresses=["127.0.0.0/8"]) for host in (HOST, OTHER)],
        resolve={HOST: ["127.0.0.1"], OTHER: ["127.0.0.1"]},
    )


def test_download_under_a_policy(site: Site, tmp_path: Path) -> None:
    got = fazt.download(site.url(), tmp_path / "f", policy=policy(site), sha256=DIGEST)
    assert isinstance(got, fazt.Download)
    assert got.path.read_bytes() == CONTENT
    with pytest.raises(fazt.DownloadError) as caught:
        fazt.download("https://elsewhere.test/x", tmp_path / "g", policy=policy(site))
    assert caught.value.kind == "policy"
    assert isinstance(caught.value, fazt.FaztError)
    assert caught.value.call_id


def test_download_with_a_client(site: Site, tmp_path: Path) -> None:
    with fazt.Client(policy=policy(site)) as client:
        assert fazt.download(site.url(), tmp_path / "f", client=client).bytes == len(CONTENT)
        with pytest.raises(fazt.ConfigError):
            fazt.download(site.url(), tmp_path / "f", client=client, policy=policy(site))
    with pytest.raises(TypeError, match=r"fazt\.Client"):
        fazt.download(site.url(), tmp_path / "f", client=object())


def test_adownload(site: Site, tmp_path: Path) -> None:
    async def main() -> None:
        got = await fazt.adownload(site.url(), tmp_path / "f", policy=policy(site), sha256=DIGEST, rate_limit=1e9)
        assert got.path.read_bytes() == CONTENT
        async with fazt.AsyncClient(policy=policy(site)) as client:
            assert (await fazt.adownload(site.url(), tmp_path / "g", client=client)).bytes == len(CONTENT)
        with fazt.Client(policy=policy(site)) as wrong, pytest.raises(TypeError, match="AsyncClient"):
            await fazt.adownload(site.url(), tmp_path / "h", client=wrong)
        await fazt.aclose_client()

    asyncio.run(main())
    assert names(tmp_path) == ["f", "g"]


def test_a_cancelled_download_leaves_a_part_and_goes_on(site: Site, tmp_path: Path) -> None:
    site.hold = 100_000
    allowed = policy(site)

    async def main() -> None:
        enough = asyncio.Event()

        def told(done: int, _total: int | None) -> None:
            if done >= 100_000:
                enough.set()

        task = asyncio.create_task(fazt.adownload(site.url(), tmp_path / "f", policy=allowed, progress=told))
        await enough.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (tmp_path / ".f.fazt-part").read_bytes() == CONTENT[:100_000]
        site.go.set()
        assert (await fazt.adownload(site.url(), tmp_path / "f", policy=allowed, sha256=DIGEST)).resumed
        await fazt.aclose_client()

    asyncio.run(main())


def items(site: Site, folder: Path, count: int, host: str = HOST) -> list[tuple[str, Path]]:
    return [(site.url(f"/{number}", host), folder / str(number)) for number in range(count)]


def test_many_files_come_in_order(site: Site, tmp_path: Path) -> None:
    told: set[int] = set()
    found = fazt.download_many(
        [
            *items(site, tmp_path, 5),
            (site.url("/x"), tmp_path / "x", DIGEST),
            (site.url("/y"), tmp_path / "y", "0" * 64),
        ],
        policy=policy(site),
        progress=lambda index, done, total: told.add(index),
        rate_limit=1e9,
    )
    assert [type(one) for one in found] == [*([fazt.Download] * 6), fazt.DownloadError]
    assert found[6].kind == "checksum"  # type: ignore[union-attr]
    assert told == set(range(7))
    assert names(tmp_path) == ["0", "1", "2", "3", "4", "x"]
    assert fazt.download_many([], policy=policy(site)) == []


def test_many_files_on_a_loop(site: Site, tmp_path: Path) -> None:
    async def main() -> None:
        found = await fazt.adownload_many(items(site, tmp_path, 6), policy=policy(site), jobs=2, sha256=DIGEST)
        assert [one.sha256 for one in found if isinstance(one, fazt.Download)] == [DIGEST] * 6
        with pytest.raises(RuntimeError, match="adownload_many"):
            fazt.download_many(items(site, tmp_path, 1), policy=policy(site))
        await fazt.aclose_client()

    asyncio.run(main())


@pytest.mark.parametrize("wrong", [{"jobs": 0}, {"per_host": 0}, {"rate_limit": 0}])
def test_limits_must_make_sense(site: Site, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least|above"):
        fazt.download_many(items(site, tmp_path, 1), policy=policy(site), **wrong)
    assert site.requests == []


def test_no_more_at_once_than_allowed() -> None:
    """Per host and in all; who waits for a busy host holds up nobody else."""
    running: dict[str, int] = {}
    most: dict[str, int] = {}
    order: list[str] = []

    async def main() -> None:
        gate = asyncio.Event()

        async def one(host: str) -> str:
            running[host] = running.get(host, 0) + 1
            most[host] = max(most.get(host, 0), running[host])
            most["all"] = max(most.get("all", 0), sum(running.values()))
            order.append(host)
            if len(order) == 3:
                gate.set()
            await gate.wait()
            running[host] -= 1
            return host

        def begin(host: str) -> Any:
            return lambda: one(host)

        work = [(f"https://{host}/f", begin(host)) for host in ["a"] * 6 + ["b"] * 3]
        assert await at_once(work, jobs=3, per_host=2) == ["a"] * 6 + ["b"] * 3

    asyncio.run(main())
    assert most == {"a": 2, "b": 1, "all": 3} or most == {"a": 2, "b": 2, "all": 3}
    assert order[:3] == ["a", "a", "b"]


def test_a_fault_of_one_ends_all_in_good_order(site: Site, tmp_path: Path) -> None:
    site.etag = None
    lock = threading.Lock()

    def told(index: int, done: int, _total: int | None) -> None:
        with lock:
            if index == 2 and done:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fazt.download_many(items(site, tmp_path, 4), policy=policy(site), progress=told)
    assert all(not name.startswith(".") for name in names(tmp_path))


def test_a_bad_item_is_found_before_anything_is_asked_for(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sha256"):
        fazt.download_many([*items(site, tmp_path, 2), (site.url(), tmp_path / "x", "abc")], policy=policy(site))
    assert site.requests == []


def test_a_data_directory_decides_without_a_policy(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAZT_DATA", str(tmp_path / "data"))
    with pytest.raises(fazt.DownloadError) as caught:
        fazt.download(site.url(), tmp_path / "f")
    assert caught.value.reason is Reason.HOST_NOT_GRANTED
    fazt.close_client()


def test_rules_can_cap_a_download(site: Site, tmp_path: Path) -> None:
    capped = fazt.Policy(
        allow=[fazt.Rule(f"http://{HOST}:{site.port}", addresses=["127.0.0.0/8"], max_response=1000)],
        resolve={HOST: ["127.0.0.1"]},
    )
    with pytest.raises(fazt.DownloadError) as caught:
        fazt.download(site.url(), tmp_path / "f", policy=capped)
    assert (caught.value.kind, caught.value.reason) == ("size", Reason.RESPONSE_BODY)
    assert names(tmp_path) == []
    site.answers = [Answer(200, {}, b"small")]
    assert fazt.download(site.url(), tmp_path / "f", policy=capped).bytes == 5


@pytest.mark.parametrize("asynchronous", [False, True])
def test_D23_a_cache_may_answer_and_be_asked_whether_it_still_holds(
    site: Site, tmp_path: Path, asynchronous: bool
) -> None:
    age = 60

    def cacheable(answer: Answer, request: Request) -> Answer:
        fields = {**answer.fields, "Cache-Control": f"max-age={age}"}
        return Answer(304, fields) if "if-none-match" in request else Answer(answer.status, fields, answer.body)

    site.change = cacheable
    wishes: Any = {"cache": "default", "sha256": DIGEST, "expected_length": len(CONTENT)}

    def fetch(url: str) -> fazt.Download:
        if not asynchronous:
            return fazt.download(url, tmp_path / "f", client=client, **wishes)
        return runner.run(fazt.adownload(url, tmp_path / "f", client=client, **wishes))

    with asyncio.Runner() as runner:
        client: Any = (fazt.AsyncClient if asynchronous else fazt.Client)(policy=policy(site), cache=True)
        assert [fetch(site.url("/a")).status for _ in range(2)] == [200, 200]
        assert len(site.requests) == 1
        age = 0
        assert [fetch(site.url("/b")).status for _ in range(2)] == [200, 200]
        assert len(site.requests) == 3
        assert site.requests[-1]["if-none-match"] == '"v1"'
        if asynchronous:
            runner.run(client.aclose())
        else:
            client.close()
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("large", [1, 1 << 40])
def test_on_uvloop(site: Site, tmp_path: Path, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    uvloop = pytest.importorskip("uvloop")
    monkeypatch.setattr("fazt.client.download_body.LARGE", large)
    site.content = CONTENT * 20

    async def main() -> fazt.Download:
        try:
            return await fazt.adownload(site.url(), tmp_path / "f", policy=policy(site))
        finally:
            await fazt.aclose_client()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()).path.read_bytes() == site.content
