"""starlette's test client beside fazt's: an application that calls out through fazt, tested as its authors would."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

import fazt
import fazt.httpx
from fazt.client import registry
from tests.sdk.serving import HOST, OTHER, Authority, Calls, Served, served

VERSIONS = ["httpx2", "httpx"]


def _ours(name: str) -> Any:
    return fazt if name == "httpx2" else fazt.httpx


@pytest.fixture(scope="module")
def where(tls: Authority | None) -> Iterator[Served]:
    async def answer(request: Request) -> Response:
        body = await request.body()
        return JSONResponse({"path": request.url.path, "body": body.decode(), "host": request.headers["host"]})

    async def pieces(request: Request) -> Response:
        async def give() -> AsyncIterator[bytes]:
            for number in range(100):
                yield b"%03d " % number

        return StreamingResponse(give())

    with served(
        Starlette(routes=[Route("/pieces", pieces), Route("/{rest:path}", answer, methods=["GET", "POST"])]), tls
    ) as found:
        yield found


def application(where: Served, policy: fazt.Policy, ours: Any, calls: Calls) -> Starlette:
    """An application that calls out: from coroutines, from threads, and passing a stream through."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        with ours.Client(policy=policy, sinks=calls.sink) as client:
            async with ours.AsyncClient(policy=policy, sinks=calls.sink) as async_client:
                yield {"client": client, "async_client": async_client}

    async def through_coroutine(request: Request) -> Response:
        answer = await request.state.async_client.get(request.query_params["url"])
        return JSONResponse({"status": answer.status_code, "said": answer.json()})

    def through_thread(request: Request) -> Response:
        answer = request.state.client.post(request.query_params["url"], content=b"hello")
        return JSONResponse({"status": answer.status_code, "said": answer.json()})

    async def within(request: Request) -> Response:
        answer = await run_in_threadpool(request.state.client.get, request.query_params["url"])
        return JSONResponse({"status": answer.status_code, "said": answer.json()})

    async def passed_through(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            async with request.state.async_client.stream("GET", where.url("/pieces")) as answer:
                async for piece in answer.aiter_bytes():
                    yield piece

        return StreamingResponse(body())

    async def shared(request: Request) -> Response:
        answer = await fazt.get_async_client(policy=policy).get(request.query_params["url"])
        await fazt.aclose_client()
        return JSONResponse({"status": answer.status_code, "said": answer.json()})

    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, fazt.FaztError)
        return JSONResponse(error.public(), 403 if error.code == "NET_BLOCKED" else 502)

    return Starlette(
        routes=[
            Route("/coroutine", through_coroutine),
            Route("/thread", through_thread),
            Route("/within", within),
            Route("/stream", passed_through),
            Route("/shared", shared),
        ],
        exception_handlers={fazt.FaztError: refused},
        lifespan=lifespan,
    )


@pytest.mark.parametrize("name", VERSIONS)
def test_an_application_calls_out_under_its_policy(where: Served, calls: Calls, name: str) -> None:
    with TestClient(application(where, where.policy(), _ours(name), calls)) as client:
        for way in ("coroutine", "thread", "within", "shared"):
            found = client.get(f"/{way}", params={"url": where.url("/there")})
            assert found.status_code == 200, found.text
            assert found.json()["said"]["path"] == "/there"
        assert client.get("/stream").text == "".join(f"{number:03d} " for number in range(100))
        refused = client.get("/coroutine", params={"url": where.url("/there", OTHER)})
        assert refused.status_code == 403
        assert refused.json()["reason"] == "host_not_granted"
        assert client.get("/thread", params={"url": "http://169.254.169.254/"}).json()["reason"] == "ip_literal"
    assert sorted(calls.reasons) == ["", "", "", "", "host_not_granted", "ip_literal"]


@pytest.mark.parametrize("name", VERSIONS)
def test_the_test_client_does_not_go_through_fazt_and_fazt_not_through_it(
    where: Served, calls: Calls, name: str
) -> None:
    """The test client is a client of httpx2's itself: neither changes what the other does."""
    app = application(where, where.policy(), _ours(name), calls)
    with _ours(name).Client(policy=where.policy()) as beside, TestClient(app, base_url=f"http://{HOST}") as client:
        assert beside.get(where.url("/one")).json()["path"] == "/one"
        assert client.get("/coroutine", params={"url": where.url("/two")}).json()["said"]["path"] == "/two"
        assert beside.get(where.url("/three")).json()["path"] == "/three"
        assert client.get("/nowhere").status_code == 404


def test_a_client_of_the_application_under_test_is_refused_by_name() -> None:
    """A transport of one's own would go around the policy; the message says what to do in tests."""
    import httpx2

    around: Any = {"transport": httpx2.ASGITransport(app=Starlette())}
    with pytest.raises(fazt.ConfigError, match="in tests name loopback"):
        fazt.Client(policy=fazt.Policy(), **around)


@pytest.fixture(autouse=True)
def fresh_process() -> Iterator[None]:
    registry.close_client()
    yield
    registry.close_client()
