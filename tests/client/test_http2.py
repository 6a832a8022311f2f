"""HTTP/2 through the clients: asked for, used where the server has it, the same responses, errors and policy."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path
from typing import Any

import pytest

import fazt
from tests.client.site import LOOPBACK, Kit, site
from tests.net.h2_origin import H2Origin, Request, h2_context, serve_h2
from tests.net.origin import authority

HOST = "api.example.com"


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("roots") / "ca.pem"
    authority().cert_pem.write_to_path(str(path))
    return path


def granting(port: int, roots: Path) -> fazt.Policy:
    rule = fazt.Rule(f"https://{HOST}:{port}", addresses=LOOPBACK)
    return fazt.Policy([rule], resolve={HOST: ["127.0.0.1"]}, ca_file=roots)


def handler(request: Request) -> None:
    if request.path == "/packed":
        request.answer(gzip.compress(b"y" * 1000), headers=[("content-encoding", "gzip")])
    elif request.path == "/away":
        request.answer(b"", status=302, headers=[("location", "/there"), ("set-cookie", "a=1; Path=/")])
    else:
        said = f"{request.field(':method')} {request.path} {request.field('cookie')} {len(request.body)}"
        request.answer(said.encode())


def test_the_same_client_over_one_connection(kit: Kit, roots: Path) -> None:
    async def main() -> None:
        with serve_h2(handler) as origin:
            url = f"https://{HOST}:{origin.port}"
            async with kit.client(policy=granting(origin.port, roots), http2=True, follow_redirects=True) as client:
                assert client.introspect()["http2"] is True
                response = await client.get(f"{url}/x")
                assert (response.http_version, response.text) == ("HTTP/2", "GET /x None 0")
                assert (await client.get(f"{url}/packed")).content == b"y" * 1000
                response = await client.get(f"{url}/away")
                assert (response.text, len(response.history)) == ("GET /there a=1 0", 1)
                response = await client.post(f"{url}/up", content=kit.content(b"one", b"two"))
                assert response.text == "POST /up a=1 6"
                async with client.stream("GET", f"{url}/s") as streamed:
                    assert await streamed.read() == b"GET /s a=1 0"
                with pytest.raises(kit.lib.RequestError) as caught:
                    await client.get("https://ungranted.test/")
                assert caught.value.reason is fazt.Reason.HOST_NOT_GRANTED
            assert _connections(origin) == 1

    kit.run(main)


def test_many_calls_at_once_share_it(kit: Kit, roots: Path) -> None:
    async def main() -> None:
        with serve_h2(handler) as origin:
            url = f"https://{HOST}:{origin.port}"
            async with kit.client(policy=granting(origin.port, roots), http2=True, timeout=20) as client:
                get = client.real.get
                await client.get(f"{url}/first")

                async def one(number: int) -> str:
                    path = f"{url}/{number}"
                    response = await get(path) if kit.asynchronous else await asyncio.to_thread(get, path)
                    return str(response.text)

                found = await asyncio.gather(*map(one, range(30)))
                assert found == [f"GET /{number} None 0" for number in range(30)]
            assert _connections(origin) == 1

    kit.run(main)


def test_a_server_without_it_is_spoken_to_in_http11(kit: Kit, roots: Path) -> None:
    async def main() -> None:
        with site(tls=h2_context(HOST, protocols=("http/1.1",))) as where:
            async with kit.client(policy=granting(where.port, roots), http2=True) as client:
                response = await client.get(where.url(host=HOST))
                assert response.http_version == "HTTP/1.1"

    kit.run(main)


def test_it_is_not_used_unless_asked_for(kit: Kit, roots: Path) -> None:
    async def main() -> None:
        with site(tls=h2_context(HOST)) as where:
            async with kit.client(policy=granting(where.port, roots)) as client:
                assert (await client.get(where.url(host=HOST))).http_version == "HTTP/1.1"
                assert client.introspect()["http2"] is False

    kit.run(main)


def test_where_its_libraries_are_missing_there_is_one_warning_and_http11(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str, *args: Any) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("fazt.net.http2_sharing._warned", False)
    monkeypatch.setattr("fazt.net.http2_sharing.importlib.import_module", missing)
    with pytest.warns(RuntimeWarning, match=r"pip install 'fazt-net\[http2\]'.*HTTP/1.1"):
        client = kit.ours.Client(policy=fazt.Policy(), http2=True)
    other = kit.ours.Client(policy=fazt.Policy(), http2=True)
    monkeypatch.undo()
    for one in (client, other):
        assert one.introspect()["http2"] is False
        one.close()


def _connections(origin: H2Origin) -> int:
    return origin.accepted
