"""huggingface_hub over fazt's client: files of a hub on loopback, its redirect to another host, its retries."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils import _http as hub_http
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

import fazt
from fazt.errors import FaztError, Reason
from tests.sdk.serving import HOST, OTHER, Authority, Calls, Served, served

COMMIT = "a" * 40
SMALL = json.dumps({"model": "tiny"}).encode()
LARGE = bytes(range(256)) * 8192
TOKEN = "hf_token_of_the_tests_0123456789"


class Hub:
    """A hub with one repository, whose large file lies on another host."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.busy = 0
        self.store = ""
        """Origin of the host that the large file lies on."""
        self.app = Starlette(
            routes=[
                Route("/api/models/us/tiny/revision/{revision}", self.model),
                Route("/api/models/us/tiny", self.model),
                Route("/api/models/us/tiny/tree/{revision}", self.tree),
                Route("/us/tiny/resolve/{revision}/{name:path}", self.resolve, methods=["GET", "HEAD"]),
                Route("/stored/{name:path}", self.stored, methods=["GET", "HEAD"]),
            ]
        )

    def _note(self, request: Request) -> None:
        self.seen.append((request.method, request.url.path, dict(request.headers)))

    async def model(self, request: Request) -> Response:
        self._note(request)
        if self.busy:
            self.busy -= 1
            return Response("busy", 503)
        files = [{"rfilename": "config.json"}, {"rfilename": "model.bin"}]
        return JSONResponse({"id": "us/tiny", "modelId": "us/tiny", "sha": COMMIT, "siblings": files, "tags": []})

    async def tree(self, request: Request) -> Response:
        self._note(request)
        small = {"type": "file", "path": "config.json", "size": len(SMALL), "oid": hashlib.sha1(SMALL).hexdigest()}
        linked = {"oid": hashlib.sha256(LARGE).hexdigest(), "size": len(LARGE), "pointerSize": 100}
        large = {"type": "file", "path": "model.bin", "size": len(LARGE), "oid": "b" * 40, "lfs": linked}
        return JSONResponse([small, large])

    async def resolve(self, request: Request) -> Response:
        self._note(request)
        fields = {"X-Repo-Commit": COMMIT}
        if request.path_params["name"] == "config.json":
            return _ranged(request, SMALL, {**fields, "ETag": f'"{hashlib.sha1(SMALL).hexdigest()}"'})
        digest = hashlib.sha256(LARGE).hexdigest()
        fields |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(LARGE))}
        return RedirectResponse(f"{self.store}/stored/model.bin", 302, fields)

    async def stored(self, request: Request) -> Response:
        self._note(request)
        return _ranged(request, LARGE, {"ETag": '"stored"'})


def _ranged(request: Request, data: bytes, fields: dict[str, str]) -> Response:
    fields["Accept-Ranges"] = "bytes"
    wanted = request.headers.get("range", "").removeprefix("bytes=")
    if not wanted:
        return Response(data, headers=fields)
    first, _, last = wanted.partition("-")
    begin, end = int(first), int(last) if last else len(data) - 1
    fields["Content-Range"] = f"bytes {begin}-{end}/{len(data)}"
    return Response(data[begin : end + 1], 206, fields)


@pytest.fixture(scope="module")
def hosted(tls: Authority | None) -> Iterator[tuple[Hub, Served]]:
    hub = Hub()
    with served(hub.app, tls) as where:
        hub.store = where.origin(OTHER)
        yield hub, where


@pytest.fixture
def hub(hosted: tuple[Hub, Served], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hosted[0].seen.clear()
    hosted[0].busy = 0
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    yield hosted[0]
    huggingface_hub.close_session()
    huggingface_hub.set_client_factory(hub_http.default_client_factory)
    huggingface_hub.set_async_client_factory(hub_http.default_async_client_factory)


@pytest.fixture
def where(hosted: tuple[Hub, Served]) -> Served:
    return hosted[1]


def use(policy: fazt.Policy, calls: Calls) -> None:
    """Let the package make its calls under a policy."""
    huggingface_hub.set_client_factory(
        lambda: fazt.Client(
            policy=policy,
            event_hooks={"request": [hub_http.hf_request_event_hook]},
            follow_redirects=True,
            timeout=None,
            sinks=calls.sink,
        )
    )


def test_a_file_that_lies_on_another_host(hub: Hub, where: Served, calls: Calls, tmp_path: Path) -> None:
    use(where.policy(HOST, OTHER), calls)
    api = huggingface_hub.HfApi(endpoint=where.origin(), token=TOKEN)
    for name, data in (("config.json", SMALL), ("model.bin", LARGE)):
        found = api.hf_hub_download("us/tiny", name, cache_dir=tmp_path)
        assert Path(found).read_bytes() == data
    huggingface_hub.close_session()
    assert {event.reason for event in calls.sink.summaries if event.host in (HOST, OTHER)} == {None}
    elsewhere = {event.reason for event in calls.sink.summaries if event.host not in (HOST, OTHER)}
    assert elsewhere <= {"host_not_granted"}, "what the package asks of its maker's own hosts"
    assert [fields["authorization"] for _, path, fields in hub.seen if "/resolve/" in path]
    stored = [fields for _, path, fields in hub.seen if path.startswith("/stored/")]
    assert stored
    assert not any("authorization" in fields for fields in stored), "the token stays with the hub"


def test_a_whole_repository_in_several_threads(hub: Hub, where: Served, calls: Calls, tmp_path: Path) -> None:
    use(where.policy(HOST, OTHER), calls)
    api = huggingface_hub.HfApi(endpoint=where.origin(), token=False)
    assert api.model_info("us/tiny").sha == COMMIT
    folder = Path(api.snapshot_download("us/tiny", cache_dir=tmp_path))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"config.json": SMALL, "model.bin": LARGE}


def test_what_the_hub_says_no_to_is_tried_again(hub: Hub, where: Served, calls: Calls) -> None:
    use(where.policy(), calls)
    hub.busy = 2
    with pytest.raises(Exception, match="503"):
        huggingface_hub.HfApi(endpoint=where.origin(), token=False).model_info("us/tiny")
    response = hub_http.http_backoff("GET", where.url("/api/models/us/tiny"))
    assert response.status_code == 200
    huggingface_hub.close_session()
    assert [status for _, status in calls.all] == [503, 503, 200]


def test_a_host_that_is_not_granted_gets_nothing_and_is_asked_once(
    hub: Hub, where: Served, calls: Calls, tmp_path: Path
) -> None:
    use(where.policy(HOST), calls)
    api = huggingface_hub.HfApi(endpoint=where.origin(), token=TOKEN)
    with pytest.raises(FaztError) as caught:
        api.hf_hub_download("us/tiny", "model.bin", cache_dir=tmp_path)
    assert caught.value.reason is Reason.HOST_NOT_GRANTED
    huggingface_hub.close_session()
    # by host: at its first use in a process the library also asks a host of its own
    assert [event.reason for event in calls.sink.summaries if event.host == OTHER] == ["host_not_granted"]
    assert not any(path.startswith("/stored/") for _, path, _ in hub.seen)
    assert not [path for path in tmp_path.rglob("blobs/*") if path.stat().st_size]


def test_a_refused_hub_is_asked_once(hub: Hub, where: Served, calls: Calls) -> None:
    use(where.policy(OTHER), calls)
    for call in (
        lambda: huggingface_hub.HfApi(endpoint=where.origin(), token=False).model_info("us/tiny"),
        lambda: hub_http.http_backoff("GET", where.url("/api/models/us/tiny")),
    ):
        with pytest.raises(FaztError) as caught:
            call()
        assert caught.value.reason is Reason.HOST_NOT_GRANTED
    huggingface_hub.close_session()
    assert calls.reasons == ["host_not_granted"] * 2
    assert hub.seen == []


def test_the_asynchronous_session(hub: Hub, where: Served, calls: Calls) -> None:
    import asyncio

    huggingface_hub.set_async_client_factory(
        lambda: fazt.AsyncClient(
            policy=where.policy(),
            event_hooks={
                "request": [hub_http.async_hf_request_event_hook],
                "response": [hub_http.async_hf_response_event_hook],
            },
            follow_redirects=True,
            timeout=None,
            sinks=calls.sink,
        )
    )

    async def main() -> Any:
        async with hub_http.get_async_session() as session:
            return (await session.get(where.url("/api/models/us/tiny"))).json()

    assert asyncio.run(main())["sha"] == COMMIT
    assert calls.all == [(None, 200)]
