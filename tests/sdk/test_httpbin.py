"""httpbin's endpoints through fazt's clients and through httpx2's and httpx's own: the answers are the same."""

from __future__ import annotations

import contextlib
import copy
import json
import pickle
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import fazt
from tests.client.site import KITS, Face, Kit
from tests.sdk.serving import HOST, OTHER, Authority, Calls, Served, served_wsgi

_NONCE = re.compile(r"(nonce|opaque|cnonce|response)=\"[0-9a-f]+\"|last_nonce=\w+")
ACCEPTED = {"User-Agent": "the tests", "Accept-Encoding": "gzip, deflate, br, zstd", "Accept": "*/*"}
UPLOAD = {"file": ("n\u00e4me.txt", b"some bytes\r\n\x00\xff", "text/plain"), "other": b"of no name"}


@dataclass(frozen=True)
class Ask:
    """A request: method, path, and what httpx's `request` takes beside them."""

    method: str
    path: str
    options: dict[str, Any]
    host: str = HOST


def ask(line: str, **options: Any) -> Ask:
    method, _, path = line.partition(" ")
    return Ask(method, path, options)


def groups(where: Served, lib: Any) -> dict[str, list[Ask]]:
    """Return requests by what they are about; those of one group are made by one client, one after the other."""
    there = where.url("/get?b=2", OTHER)
    follow = {"follow_redirects": True}
    digest = [
        ask(f"GET /digest-auth/{qop}/user/word/{algorithm}", auth=lib.DigestAuth("user", "word"))
        for qop in ("auth", "none")
        for algorithm in ("MD5", "SHA-256", "SHA-512")
    ]
    return {
        "methods": [
            *(ask(f"{method} /anything?a=1&a=2&%C3%BC=%20") for method in ("GET", "POST", "PUT", "PATCH", "DELETE")),
            *(ask(f"{method} /{method.lower()}") for method in ("GET", "POST", "PUT", "PATCH", "DELETE")),
            ask("HEAD /get"),
            ask("OPTIONS /get"),
            ask("POST /get"),
            ask("get /get"),
        ],
        "arguments": [
            ask("GET /get", params={"a": "b c", "d": ["1", "2"], "e": ""}),
            ask("GET /get?a=1", params={"b": "2"}),
            ask("GET /get", params=[("a", "\u00fc&=+"), ("a", "/")]),
            ask("GET /headers", headers={"X-A": "1", "x-b": "\u00fc".encode()}),
            ask("GET /headers", headers=[("X-A", "1"), ("X-A", "2")]),
            ask("GET /user-agent", headers={"User-Agent": "mine/1.0"}),
            ask("GET /ip"),
            ask("GET /anything/with%20space/%2F/\u00fc?q=\u00fc#part"),
            ask("GET /anything//twice/../once/./now"),
            ask("GET /response-headers", params={"X-One": "1", "X-Two": "a b"}),
            ask("GET /response-headers?X-Same=1&X-Same=2"),
            ask("GET /links/3/1"),
        ],
        "bodies": [
            ask("POST /post", json={"a": [1, None, "\u00fc"], "b": 1.5}),
            ask("POST /post", json=None),
            ask("POST /post", data={"a": "b c", "d": ["1", "2"], "\u00fc": "\u00df"}),
            ask("POST /post", content=b"\x00\xff raw"),
            ask("POST /post", content="text \u00fc"),
            ask("PUT /put", content=b"", headers={"Content-Type": "text/plain"}),
            ask("POST /post", content=b"x" * 300_000),
            ask("POST /post", files=UPLOAD, headers={"Content-Type": "multipart/form-data; boundary=line"}),
            ask(
                "POST /post",
                files=UPLOAD,
                data={"field": "value"},
                headers={"Content-Type": "multipart/form-data; boundary=line"},
            ),
            ask("DELETE /delete", content=b"a body"),
            ask("PATCH /patch", json=[1]),
        ],
        "authentication": [
            ask("GET /basic-auth/user/word", auth=("user", "word")),
            ask("GET /basic-auth/user/word", auth=("user", "wrong")),
            ask("GET /basic-auth/user/word"),
            ask("GET /hidden-basic-auth/user/word", auth=lib.BasicAuth("user", "word")),
            ask("GET /basic-auth/\u00fc/%20word", auth=("\u00fc", " word")),
            ask("GET /bearer", headers={"Authorization": "Bearer token"}),
            ask("GET /bearer", auth=_bearer),
            ask("GET /bearer"),
            ask("GET /bearer", auth=_two_steps(where, lib)),
            *digest,
            ask("GET /digest-auth/auth/user/word/MD5", auth=lib.DigestAuth("user", "wrong")),
        ],
        "redirects": [
            *(ask(f"GET /{kind}/{n}", **follow) for kind in ("redirect", "relative-redirect") for n in (1, 3)),
            ask("GET /absolute-redirect/3", **follow),
            ask("GET /redirect/2"),
            ask("GET /redirect/9", **follow),
            *(ask(f"GET /redirect-to?url=/get&status_code={code}", **follow) for code in (301, 302, 303, 307, 308)),
            *(
                ask(f"POST /redirect-to?url=/anything&status_code={code}", json={"a": 1}, **follow)
                for code in (307, 308)
            ),
            ask("GET /redirect-to", params={"url": there}, **follow),
            ask("GET /redirect-to", params={"url": there}, auth=("user", "word"), **follow),
            ask(
                "GET /redirect-to", params={"url": there}, headers={"Authorization": "mine", "Cookie": "a=b"}, **follow
            ),
            ask("GET /redirect-to", params={"url": "/get?c=3#there"}, **follow),
            ask("GET /redirect-to", params={"url": "?url=/get"}, **follow),
            ask("HEAD /redirect/2", **follow),
            ask("DELETE /redirect-to?url=/delete&status_code=307", **follow),
        ],
        "cookies": [
            ask("GET /cookies"),
            ask("GET /cookies/set?a=1&b=%C3%BC"),
            ask("GET /cookies"),
            ask("GET /cookies/set/c/3", **follow),
            ask("GET /cookies/delete?a", **follow),
            ask("GET /cookies"),
            ask("GET /cookies", headers={"Cookie": "mine=1"}),
            ask("GET /response-headers", params={"Set-Cookie": "deep=1; Path=/cookies/deep"}),
            ask("GET /response-headers", params={"Set-Cookie": f"wide=1; Domain={HOST}; Max-Age=100"}),
            ask("GET /response-headers", params={"Set-Cookie": "foreign=1; Domain=elsewhere.test"}),
            ask("GET /cookies"),
            ask("GET /redirect-to", params={"url": where.url("/cookies", OTHER)}, **follow),
        ],
        "codings": [
            *(ask(f"GET /{coding}") for coding in ("gzip", "deflate", "brotli")),
            ask("GET /gzip", headers={"Accept-Encoding": "identity"}),
            ask("GET /encoding/utf8"),
            ask("GET /html"),
            ask("GET /xml"),
            ask("GET /json"),
            ask("GET /robots.txt"),
            ask("GET /deny"),
            ask("GET /image/png"),
            ask("GET /base64/SGVsbG8g4pyT"),
            ask("GET /response-headers", params={"Content-Type": "text/plain; charset=iso-8859-1"}),
            ask("GET /response-headers", params={"Content-Encoding": "gzip"}),
        ],
        "bytes": [
            ask("GET /bytes/0?seed=1"),
            ask("GET /bytes/70000?seed=1"),
            ask("GET /stream-bytes/70000?seed=1&chunk_size=1000"),
            ask("GET /stream/5"),
            ask("GET /drip?numbytes=5&duration=0&delay=0"),
            ask("GET /range/1000"),
            ask("GET /range/1000", headers={"Range": "bytes=10-19"}),
            ask("GET /range/1000", headers={"Range": "bytes=-5"}),
            ask("GET /range/1000", headers={"Range": "bytes=2000-"}),
        ],
        "caching": [
            ask("GET /cache", headers={"If-None-Match": "x"}),
            ask("GET /cache", headers={"If-Modified-Since": "Sat, 21 Nov 2026 16:27:04 GMT"}),
            ask("GET /cache/60"),
            ask("GET /etag/abc"),
            ask("GET /etag/abc", headers={"If-None-Match": '"abc"'}),
            ask("GET /etag/abc", headers={"If-None-Match": 'W/"abc", "d"'}),
            ask("GET /etag/abc", headers={"If-Match": '"d"'}),
        ],
        "statuses": [
            *(ask(f"GET /status/{code}") for code in (200, 201, 202, 203, 206, 226, 300, 301, 304, 305, 400, 401, 402)),
            *(ask(f"GET /status/{code}") for code in (403, 404, 406, 407, 410, 418, 422, 429, 451, 500, 502, 503, 504)),
            ask("GET /status/204"),
            ask("POST /status/204"),
            ask("GET /status/599"),
            ask("GET /status/999"),
        ],
    }


def _two_steps(where: Served, lib: Any) -> Any:
    """An authentication that gets its token from another place first, and reads the answer."""

    class TwoSteps(lib.Auth):  # type: ignore[misc]
        requires_response_body = True

        def auth_flow(self, request: Any) -> Any:
            answer = yield lib.Request("GET", where.url("/base64/dG9rZW4="))
            request.headers["Authorization"] = f"Bearer {answer.text}"
            last = yield request
            assert last.json()["authenticated"] is True

    return TwoSteps()


def _bearer(request: Any) -> Any:
    request.headers["Authorization"] = "Bearer token"
    return request


@pytest.fixture(scope="module")
def where(tls: Authority | None) -> Iterator[Served]:
    from httpbin import app  # type: ignore[import-untyped]

    def without_connection(environ: dict[str, Any], start: Any) -> Any:
        """What a client says of the connection is its own business; httpbin would echo it."""
        environ.pop("HTTP_CONNECTION", None)
        environ["SERVER_SOFTWARE"] = "gunicorn/"  # of which httpbin knows that it takes chunked bodies
        return app(environ, start)

    with served_wsgi(without_connection, tls) as found:
        yield found


@pytest.fixture(params=KITS, ids=lambda kit: kit.name)
def kit(request: pytest.FixtureRequest) -> Kit:
    found: Kit = request.param
    return found


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the libraries' own clients find the names, too."""
    real = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        return real("127.0.0.1" if host in (HOST, OTHER, HOST.encode(), OTHER.encode()) else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@contextlib.asynccontextmanager
async def theirs(kit: Kit, where: Served) -> AsyncIterator[Any]:
    """The library's own client."""
    verify: Any = True if where.ca is None else ssl.create_default_context(cafile=where.ca)
    arguments = {"headers": ACCEPTED, "verify": verify, "trust_env": False, "max_redirects": 5}
    if kit.asynchronous:
        async with kit.lib.AsyncClient(**arguments) as client:
            yield Face(client, asynchronous=True)
    else:
        with kit.lib.Client(**arguments) as client:
            yield Face(client, asynchronous=False)


async def answers(client: Any, kit: Kit, where: Served, asks: list[Ask]) -> list[dict[str, Any]]:
    """Make requests, and return all that can be seen of what came of each."""
    found = []
    for one in asks:
        try:
            response = await client.request(one.method, where.url(one.path, one.host), **one.options)
        except (kit.lib.RequestError, kit.lib.InvalidURL) as error:
            found.append({"error": _name(error, kit)})
        else:
            found.append(
                told(response)
                | {
                    "jar": sorted(
                        (c.domain, c.path, c.name, c.value) for c in client.cookies.jar if c.name != "last_nonce"
                    )
                }
            )
    return found


def told(response: Any) -> dict[str, Any]:
    """Return what can be seen of a response."""
    request = response.request
    return {
        "status": response.status_code,
        "phrase": response.reason_phrase,
        "version": response.http_version,
        "fields": [one for one in _sent(response.headers.multi_items()) if one[0] != "date"],
        "body": _bodies(response.content),
        "text": None if b'"User-Agent"' in response.content else response.text,
        "encoding": response.encoding,
        "url": str(response.url),
        "request": (request.method, str(request.url), sorted(_sent(request.headers.multi_items())), request.read()),
        "history": [_bare(told(earlier)) for earlier in response.history],
        "next": response.next_request and str(response.next_request.url),
        "kind": (response.is_redirect, response.has_redirect_location, response.is_error, response.is_success),
        "cookies": sorted(name for name in response.cookies),
        "links": response.links,
        "closed": (response.is_closed, response.is_stream_consumed),
        "downloaded": response.num_bytes_downloaded,
        "elapsed": response.elapsed.total_seconds() >= 0,
    }


def _bare(found: dict[str, Any]) -> dict[str, Any]:
    """A redirect that was followed: its body is not read by fazt."""
    return {name: value for name, value in found.items() if name not in ("body", "text", "downloaded")}


def _sent(items: list[tuple[str, str]]) -> list[tuple[str, str]]:
    found = [(name, value) for name, value in items if name not in ("connection", "accept-encoding")]
    return [(name, _NONCE.sub("nonce", value)) for name, value in found]


def _bodies(content: bytes) -> Any:
    """Return a body; of one that echoes the request without the order of its fields."""
    try:
        return [_echoed(json.loads(line)) for line in content.splitlines()] or content
    except ValueError:
        pass
    try:
        return _echoed(json.loads(content))
    except ValueError:
        return content


def _echoed(said: Any) -> Any:
    if isinstance(said, dict) and isinstance(said.get("headers"), dict):
        said["headers"] = dict(_sent([(name.lower(), value) for name, value in said["headers"].items()]))
    return said


def _name(error: Any, kit: Kit) -> str:
    return next(one.__name__ for one in type(error).__mro__ if one.__module__.partition(".")[0] == kit.lib.__name__)


GROUPS = sorted(groups(Served("http", 1, None), __import__("httpx2")))


@pytest.mark.parametrize("group", GROUPS)
def test_the_answers_are_those_of_the_library(kit: Kit, where: Served, calls: Calls, names: None, group: str) -> None:
    asks, again = (groups(where, kit.lib)[group] for _ in range(2))  # a digest remembers what it was told

    async def main() -> None:
        async with theirs(kit, where) as client:
            expected = await answers(client, kit, where, asks)
        async with kit.client(
            policy=where.policy(HOST, OTHER), headers=ACCEPTED, max_redirects=5, sinks=calls.sink
        ) as client:
            got = await answers(client, kit, where, again)
        differing = [
            (one, {name: (a.get(name), b.get(name)) for name in {*a, *b} if a.get(name) != b.get(name)})
            for one, a, b in zip(asks, expected, got, strict=True)
            if a != b
        ]
        assert not differing, "\n".join(map(str, differing))

    kit.run(main)
    made = len(calls.reasons)
    assert made == len(asks) if group != "authentication" else made > len(asks), "a record each"


def test_a_post_that_becomes_a_get_says_nothing_of_the_body_it_lost(kit: Kit, where: Served) -> None:
    """Where httpx goes on naming its type (RFC 9110 section 15.4: what is specific to content is to be removed)."""

    async def main() -> None:
        async with kit.client(policy=where.policy(), follow_redirects=True) as client:
            for code in (301, 302, 303):
                response = await client.post(where.url(f"/redirect-to?url=/anything&status_code={code}"), json={"a": 1})
                said = response.json()
                assert (said["method"], said["data"]) == ("GET", "")
                assert "Content-Type" not in said["headers"]
                assert [earlier.status_code for earlier in response.history] == [code]

    kit.run(main)


def test_streams(kit: Kit, where: Served) -> None:
    async def main() -> None:
        async with kit.client(policy=where.policy()) as client:
            async with client.stream("GET", where.url("/stream/20")) as response:
                lines = [json.loads(line) async for line in response.iterate("lines")]
            assert [line["id"] for line in lines] == list(range(20))
            async with client.stream("GET", where.url("/stream-bytes/100000?seed=1&chunk_size=777")) as response:
                pieces = [piece async for piece in response.iterate("bytes", 4096)]
            assert {len(piece) for piece in pieces[:-1]} == {4096}
            whole = await client.get(where.url("/stream-bytes/100000?seed=1&chunk_size=777"))
            assert b"".join(pieces) == whole.content
            async with client.stream("GET", where.url("/gzip")) as response:
                raw = b"".join([piece async for piece in response.iterate("raw")])
            assert raw.startswith(b"\x1f\x8b")
            async with client.stream("GET", where.url("/gzip")) as response:
                assert json.loads(await response.read())["gzipped"] is True
            async with client.stream("GET", where.url("/drip?numbytes=50&duration=5&delay=0")) as response:
                async for piece in response.iterate("bytes"):
                    assert set(piece) == {ord("*")}
                    break
            assert (await client.get(where.url("/get"))).status_code == 200

    kit.run(main)


def test_an_answer_can_be_copied_and_pickled(kit: Kit, where: Served) -> None:
    async def main() -> None:
        async with kit.client(policy=where.policy(), follow_redirects=True) as client:
            answer = await client.get(where.url("/redirect/1"))
            for again in (pickle.loads(pickle.dumps(answer)), copy.deepcopy(answer)):
                assert (again.status_code, again.json(), again.url) == (200, answer.json(), answer.url)
                assert [earlier.status_code for earlier in again.history] == [302]
                assert again.request.method == "GET"

    kit.run(main)


def test_a_body_in_pieces_is_sent_as_it_comes(kit: Kit, where: Served) -> None:
    async def main() -> None:
        async with kit.client(policy=where.policy()) as client:
            said = (await client.post(where.url("/post"), content=kit.content(b"one ", b"two ", b"three"))).json()
            assert said["data"] == "one two three"
            assert said["headers"]["Transfer-Encoding"] == "chunked"

    kit.run(main)


def test_a_delay_is_a_read_timeout_and_a_deadline_ends_all(kit: Kit, where: Served, calls: Calls) -> None:
    async def main() -> None:
        async with kit.client(policy=where.policy(), sinks=calls.sink) as client:
            with pytest.raises(kit.lib.ReadTimeout):
                await client.get(where.url("/delay/5"), timeout=0.2)
            with pytest.raises(kit.lib.TimeoutException):
                await client.get(where.url("/delay/5"), deadline=0.2)
            with pytest.raises(kit.lib.TimeoutException):
                await client.get(where.url("/drip?numbytes=100&duration=10&delay=0"), deadline=0.3)
            assert (await client.get(where.url("/delay/0"), timeout=5)).status_code == 200

    kit.run(main)
    assert [event.error_code for event in calls.sink.summaries] == ["NET_TIMEOUT"] * 3 + [None]


def test_a_secret_is_put_where_it_belongs(kit: Kit, where: Served) -> None:
    if where.scheme == "http":
        pytest.skip("a secret goes nowhere in clear")
    secrets = {
        "TOKEN": fazt.Secret("token-of-httpbin-1234", domains=[HOST]),
        "KEY": fazt.Secret("key-of-httpbin-1234", domains=[HOST], kind="query", key="key"),
    }

    async def main() -> None:
        async with kit.client(policy=where.policy(secrets=secrets)) as client:
            said = (await client.get(where.url("/bearer"), secret="TOKEN")).json()
            assert said["authenticated"] is True
            said = (await client.get(where.url("/get?a=1"), secret="KEY")).json()
            assert sorted(said["args"]) == ["a", "key"]

    kit.run(main)
