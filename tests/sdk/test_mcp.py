"""The client of the Model Context Protocol over fazt's, against a real server: streamable HTTP and SSE."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import mcp
import pytest
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.transport_security import TransportSecuritySettings

import fazt
from fazt.errors import FaztError, Reason
from tests.sdk.serving import OTHER, Authority, Calls, Served, served

OPEN = TransportSecuritySettings(enable_dns_rebinding_protection=False)
WAYS = ["streamable", "json", "sse"]


def server() -> MCPServer:
    made = MCPServer("tests")

    @made.tool()
    def shout(text: str) -> str:
        return text.upper()

    @made.tool()
    def big(size: int) -> str:
        return "x" * size

    @made.tool()
    async def steps(count: int, ctx: Context[Any]) -> str:
        for number in range(count):
            await ctx.report_progress(number + 1, count)
        return "done"

    @made.resource("notes://today")
    def today() -> str:
        return "Gr\u00fc\u00dfe"

    return made


@pytest.fixture(scope="module", params=WAYS)
def hosted(request: pytest.FixtureRequest, tls: Authority | None) -> Iterator[tuple[str, Served]]:
    way = request.param
    application = (
        server().sse_app(transport_security=OPEN)
        if way == "sse"
        else server().streamable_http_app(transport_security=OPEN, json_response=way == "json")
    )
    with served(application, tls) as where:
        yield way, where


@contextlib.asynccontextmanager
async def connected(way: str, where: Served, mode: str, **client: Any) -> AsyncIterator[mcp.Client]:
    """An MCP client over fazt's."""
    if way == "sse":

        def factory(headers: Any = None, timeout: Any = None, auth: Any = None) -> httpx2.AsyncClient:
            return fazt.AsyncClient(headers=headers, timeout=timeout, auth=auth, **client)

        async with mcp.Client(sse_client(where.url("/sse"), httpx_client_factory=factory), mode=mode) as found:
            yield found
        return
    async with (
        fazt.AsyncClient(timeout=httpx2.Timeout(30, read=300), **client) as http,
        mcp.Client(streamable_http_client(where.url("/mcp"), http_client=http), mode=mode) as found,
    ):
        yield found


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_tools_and_resources(hosted: tuple[str, Served], calls: Calls, mode: str) -> None:
    way, where = hosted

    async def main() -> None:
        async with connected(way, where, mode, policy=where.policy(), sinks=calls.sink) as client:
            assert {tool.name for tool in (await client.list_tools()).tools} == {"shout", "big", "steps"}
            said: Any = await client.call_tool("shout", {"text": "gr\u00fc\u00dfe"})
            assert said.content[0].text == "GR\u00dcSSE"
            big: Any = await client.call_tool("big", {"size": 300_000})
            assert len(big.content[0].text) == 300_000
            several: Any = await asyncio.gather(*(client.call_tool("shout", {"text": str(n)}) for n in range(10)))
            assert [one.content[0].text for one in several] == [str(n) for n in range(10)]
            note: Any = await client.read_resource("notes://today")
            assert note.contents[0].text == "Gr\u00fc\u00dfe"

    asyncio.run(asyncio.wait_for(main(), 60))
    assert len(calls.all) >= 14
    # streams that stay open are ended by whoever leaves; everything else is answered
    assert {reason for reason, _ in calls.all} <= {None, "aborted"}


def test_progress_comes_while_a_tool_works(hosted: tuple[str, Served]) -> None:
    way, where = hosted
    if way == "json":
        pytest.skip("an answer that is no stream has no progress")
    seen: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async def main() -> None:
        async with connected(way, where, "legacy", policy=where.policy()) as client:
            said: Any = await client.call_tool("steps", {"count": 5}, progress_callback=note)
            assert said.content[0].text == "done"

    asyncio.run(asyncio.wait_for(main(), 60))
    assert seen == [1, 2, 3, 4, 5]


def test_a_server_that_is_not_granted_is_not_reached(hosted: tuple[str, Served], calls: Calls) -> None:
    way, where = hosted

    async def main() -> None:
        with pytest.raises((FaztError, ExceptionGroup)) as caught:
            async with connected(way, where, "auto", policy=where.policy(OTHER), sinks=calls.sink):
                pass
        assert [error.reason for error in _refusals(caught.value)] == [Reason.HOST_NOT_GRANTED]

    asyncio.run(asyncio.wait_for(main(), 60))
    assert calls.reasons == ["host_not_granted"]
    assert calls.trips == 0


def _refusals(error: BaseException) -> list[FaztError]:
    """Return fazt's errors in a group of errors."""
    if isinstance(error, BaseExceptionGroup):
        return [found for inner in error.exceptions for found in _refusals(inner)]
    return [error] if isinstance(error, FaztError) else []
