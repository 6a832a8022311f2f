"""The far side for the examples: a small Internet in a network namespace, under the names that the documents use.

Every name resolves to a public address on which real web applications answer, in clear and over TLS with certificates
of an authority of the tests; the one private name is a host of a company's own network.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import ssl
import sys
import threading
from pathlib import Path
from typing import Any

import trustme
import uvicorn
from dnslib import QTYPE, RR, A, DNSHeader, DNSRecord
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Host, Mount, Route

from tests.adversary.servers import DNS, open_link
from tests.docs.blocks import ROOT
from tests.sdk.llm import Service

PUBLIC, INTRANET = "93.184.216.34", "10.1.2.3"
NAMES = (
    "api.github.com",
    "api.crossref.org",
    "api.openai.com",
    "api.anthropic.com",
    "mcp.example.com",
    "example.com",
    "www.example.com",
    "files.example.com",
    "www.apache.org",
    "hooks.example.net",
)
ADDRESSES = {**dict.fromkeys(NAMES, PUBLIC), "intranet.corp": INTRANET, "sneaky.example.org": "169.254.169.254"}
DATA = b"".join(b"%d,%d\n" % (number, number * number) for number in range(100_000))
"""A file to download; its digest stands in the documents."""
LICENSE = (ROOT / "LICENSE").read_bytes()
"""What stands at www.apache.org to the byte."""


async def repository(request: Request) -> Response:
    owner, name = request.path_params["owner"], request.path_params["name"]
    found = {"full_name": f"{owner}/{name}", "default_branch": "main", "private": False}
    etag = '"' + hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16] + '"'
    fields = {"Cache-Control": "public, max-age=60", "ETag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=fields)
    return JSONResponse(found, headers=fields)


async def user(request: Request) -> Response:
    if not request.headers.get("authorization", "").startswith("Bearer "):
        return JSONResponse({"message": "Requires authentication"}, 401)
    return JSONResponse({"login": "octocat"})


async def zen(request: Request) -> Response:
    return PlainTextResponse("Keep it logically awesome.")


async def page(request: Request) -> Response:
    return Response("<title>Example Domain</title>", media_type="text/html")


async def large(request: Request) -> Response:
    return Response(bytes(4_000_000), media_type="application/octet-stream")


async def ticks(request: Request) -> Response:
    async def events() -> Any:
        for number in range(3):
            yield f"data: tick {number}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def hook(request: Request) -> Response:
    return JSONResponse({"received": len(await request.body())})


async def works(request: Request) -> Response:
    return JSONResponse({"message": {"title": ["A title"]}})


async def data(request: Request) -> Response:
    """Serve a file, or the part that is asked for."""
    content = LICENSE if request.url.path.startswith("/licenses/") else DATA
    fields = {"ETag": '"1"', "Accept-Ranges": "bytes", "Content-Type": "text/csv"}
    asked = request.headers.get("range")
    if asked is None or request.headers.get("if-range", '"1"') != '"1"':
        return Response(content, headers=fields)
    start = int(asked.removeprefix("bytes=").partition("-")[0])
    fields["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return Response(content[start:], 206, headers=fields)


def application() -> Starlette:
    """Return all the sites, told apart by their names."""
    from mcp.server import MCPServer

    server = MCPServer("tools")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    tools = server.streamable_http_app(host="mcp.example.com")
    model = Service().app
    github = [
        Route("/repos/{owner}/{name}", repository),
        Route("/user", user),
        Route("/zen", zen),
    ]
    plain = [
        Route("/", page),
        Route("/old", lambda request: RedirectResponse("https://example.com/", 301)),
        Route("/to-intranet", lambda request: RedirectResponse("https://intranet.corp:8443/v1/")),
        Route("/large", large),
        Route("/ticks", ticks),
        Route("/hook", hook, methods=["POST"]),
        Route("/v1/report", zen),
    ]
    hosts = {
        "api.github.com": github,
        "api.crossref.org": [Route("/works/{doi:path}", works)],
        "www.apache.org": [Route("/licenses/LICENSE-2.0.txt", data)],
        "files.example.com": [Route("/squares.csv", data), Route("/more/squares.csv", data)],
    }
    routes: list[Any] = [Host(name, Starlette(routes=list(found))) for name, found in hosts.items()]
    routes += [Host("api.openai.com", model), Host("api.anthropic.com", model)]
    routes += [Host("mcp.example.com", tools), Mount("/", Starlette(routes=plain))]
    return Starlette(routes=routes, lifespan=lambda app: tools.router.lifespan_context(tools))


def answer_questions() -> None:
    """Answer DNS questions: only these names exist."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((DNS, 53))
    while True:
        asked, peer = sock.recvfrom(4096)
        question = DNSRecord.parse(asked)
        name = str(question.q.qname).rstrip(".").lower()
        reply = DNSRecord(DNSHeader(id=question.header.id, qr=1, aa=1, ra=1), q=question.q)
        if name not in ADDRESSES:
            reply.header.rcode = 3
        elif QTYPE[question.q.qtype] == "A":
            reply.add_answer(RR(question.q.qname, question.q.qtype, ttl=60, rdata=A(ADDRESSES[name])))
        sock.sendto(reply.pack(), peer)


async def serve(folder: Path) -> None:
    """Serve on http and https of the public address, and on the intranet's port."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued = authority.issue_cert(*ADDRESSES)
    chain = folder / "server.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    app = application()
    servers = []
    for address, port, tls in ((PUBLIC, 80, False), (PUBLIC, 443, True), (INTRANET, 8443, True)):
        files: dict[str, Any] = {"ssl_certfile": chain} if tls else {}
        lifespan: Any = "on" if not servers else "off"
        config = uvicorn.Config(
            app, host=address, port=port, log_level="error", access_log=False, lifespan=lifespan, ws="none", **files
        )
        servers.append(uvicorn.Server(config))
    running = [asyncio.ensure_future(server.serve()) for server in servers]
    while not all(server.started for server in servers):
        for task in running:
            if task.done():
                task.result()
        await asyncio.sleep(0.01)
    print("serving", flush=True)
    await asyncio.gather(*running)


def main() -> None:
    """Wait until the link is there, then serve for ever."""
    print("namespace", flush=True)
    sys.stdin.readline()
    open_link()
    threading.Thread(target=answer_questions, daemon=True).start()
    asyncio.run(serve(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
