"""The lean functions, `fazt.get()` and its like: one call each, connections shared by all calls of a policy."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import fazt
from fazt.client import registry
from tests.client.site import HOST, Reply, policy, redirect, site, text

pytestmark = pytest.mark.usefixtures("fresh_process")


def blocking(*args: Any, **kwargs: Any) -> fazt.Response:
    return fazt.fetch(*args, **kwargs)


def awaited(*args: Any, **kwargs: Any) -> fazt.Response:
    async def main() -> fazt.Response:
        try:
            return await fazt.afetch(*args, **kwargs)
        finally:
            await fazt.aclose_client()

    return asyncio.run(main())


@pytest.fixture(params=[blocking, awaited], ids=["fetch", "afetch"])
def fetch(request: pytest.FixtureRequest) -> Callable[..., fazt.Response]:
    found: Callable[..., fazt.Response] = request.param
    return found


Fetch = Callable[..., fazt.Response]


def test_a_response_says_what_came(fetch: Fetch) -> None:
    fields = [("Content-Type", "text/plain; charset=latin-1"), ("X-Two", "a"), ("X-Two", "b")]
    with site({"/": Reply(201, "grün".encode("latin-1"), fields, phrase="Created")}) as where:
        response = fetch(where.url("/?q=1"), policy=policy(where))
    assert (response.status, response.ok, response.text) == (201, True, "grün")
    assert response.headers["X-TWO"] == "a"
    assert response.headers.all("x-two") == ["a", "b"]
    assert response.headers_all["x-two"] == ["a", "b"]
    assert "x-none" not in response.headers
    assert response.url == where.url("/?q=1")
    assert response.call_id.startswith("c_")
    assert (response.rule or "").startswith("r_")
    assert (response.method, response.version, response.redirected) == ("GET", "HTTP/1.1", False)
    assert "grün" not in repr(response)
    assert response.raise_for_status() is response


def test_what_is_sent(fetch: Fetch) -> None:
    with site() as where:
        held = policy(where)
        fetch(
            where.url("/a?x=1"), method="POST", json={"k": "ä"}, params={"y": [2, 3]}, headers={"X-A": "1"}, policy=held
        )
        fetch(where.url(), method="PUT", data={"a": "1 2"}, policy=held)
        fetch(where.url(), method="PUT", content="text", headers=[("Content-Type", "x/y")], policy=held)
    one, two, three = where.requests
    assert (one.method, one.target, one.get("x-a")) == ("POST", "/a?x=1&y=2&y=3", "1")
    assert (one.get("content-type"), json.loads(one.body)) == ("application/json", {"k": "ä"})
    assert (two.get("content-type"), two.body) == ("application/x-www-form-urlencoded", b"a=1+2")
    assert (three.get("content-type"), three.body) == ("x/y", b"text")
    with pytest.raises(TypeError, match="one of"):
        fetch("https://x.test/", content=b"", json=1, policy=fazt.Policy())


def test_bodies_are_decoded_within_limits(fetch: Fetch) -> None:
    packed = Reply(200, gzip.compress(b"y" * 1000), [("Content-Encoding", "gzip")])
    with site({"/": packed}) as where:
        assert fetch(where.url(), policy=policy(where)).content == b"y" * 1000
        with pytest.raises(fazt.FaztError) as caught:
            fetch(where.url(), policy=policy(where), max_bytes=999)
    assert caught.value.reason is fazt.Reason.DECODED_BODY


def test_redirects_are_followed_when_asked(fetch: Fetch) -> None:
    with site({"/a": redirect("/b"), "/b": text("end")}) as where:
        assert fetch(where.url("/a"), policy=policy(where)).status == 302
        response = fetch(where.url("/a"), policy=policy(where), follow_redirects=True)
    assert (response.text, response.redirected, response.url) == ("end", True, where.url("/b"))
    assert [earlier.head.status for earlier in response.history] == [302]


def test_refusals_failures_and_statuses_are_errors_of_fazts_own(fetch: Fetch) -> None:
    with site({"/gone": Reply(410, b"no")}) as where:
        held = policy(where)
        with pytest.raises(fazt.FaztError) as caught:
            fetch("http://ungranted.test/", policy=held)
        assert caught.value.reason is fazt.Reason.HOST_NOT_GRANTED
        response = fetch(where.url("/gone"), policy=held)
        with pytest.raises(fazt.FaztError) as caught:
            response.raise_for_status()
        assert caught.value.reason is fazt.Reason.STATUS
    with pytest.raises(TypeError, match="dedline"):
        fetch("https://x.test/", policy=held, dedline=1)


def test_calls_of_one_policy_share_connections() -> None:
    others = registry.shared()
    with site() as where:
        for _ in range(3):
            fazt.fetch(where.url(), policy=policy(where))  # an equal policy each time
            fazt.get(where.url(), policy=policy(where))
        assert where.accepted == 1
        fazt.fetch(where.url(), policy=policy(where, name="another"))
        assert len([backend for backend in registry.shared() if backend not in others]) <= 2

        async def several() -> None:
            held = policy(where)
            for _ in range(3):
                await fazt.afetch(where.url(), policy=held)
            await fazt.aclose_client()

        before = where.accepted
        asyncio.run(several())
        assert where.accepted == before + 1


def test_the_functions_of_httpx2_under_a_policy() -> None:
    import httpx2

    with site({"/t": text("t"), "/s": Reply(200, b"", [("Set-Cookie", "a=1")])}) as where:
        held = policy(where)
        for verb in ("get", "post", "put", "patch", "delete", "head", "options"):
            response = getattr(fazt, verb)(where.url("/t"), policy=held)
            assert type(response) is httpx2.Response
            assert response.status_code == 200
        assert fazt.request("PURGE", where.url("/e"), policy=held).json()["method"] == "PURGE"
        with fazt.stream("GET", where.url("/t"), policy=held) as streamed:
            assert streamed.read() == b"t"
        fazt.get(where.url("/s"), policy=held)
        fazt.get(where.url("/e"), policy=held)
        assert where.requests[-1].get("cookie") is None, "cookies are not shared between calls"
        with pytest.raises(httpx2.RequestError):
            fazt.get(f"http://{HOST}/", policy=held)


def test_only_so_many_policies_keep_connections() -> None:
    others = registry.shared()  # of other tests' loops
    with site() as where:
        for number in range(registry.MAX_POLICIES + 3):
            fazt.fetch(where.url(), policy=policy(where, name=str(number), deny=[f"x{number}.test"]))
        assert len([one for one in registry.shared() if one not in others]) == registry.MAX_POLICIES


def test_many_tasks_share_the_backend_of_their_loop() -> None:
    async def main() -> None:
        with site() as where:
            held = policy(where)
            before = registry.shared()
            found = await asyncio.gather(*[fazt.afetch(where.url(f"/{n}"), policy=held) for n in range(50)])
            assert sorted(r.json()["target"] for r in found) == sorted(f"/{n}" for n in range(50))
            assert len([backend for backend in registry.shared() if backend not in before]) == 1
            await fazt.aclose_client()

    coroutine: Coroutine[Any, Any, None] = main()
    asyncio.run(coroutine)
