"""What goes out: methods, URLs, bodies, fields, cookies, credentials, as httpx users know them."""

from __future__ import annotations

import asyncio
import functools
import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest

import fazt
from tests.client.site import Kit, Reply, Seen, policy, site, text


def test_every_method_arrives_as_it_is_called(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where)) as client:
                for verb in ("get", "head", "options", "post", "put", "patch", "delete"):
                    response = await getattr(client, verb)(where.url("/x"))
                    assert response.status_code == 200
                await client.request("patch", where.url("/x"))
            methods = [seen.method for seen in where.requests]
            assert methods == ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "PATCH"]

    kit.run(main)


def test_the_default_fields_are_fazts_own(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where)) as client:
                await client.get(where.url())
            seen = where.requests[0]
            assert seen.get("user-agent") == f"fazt/{fazt.__version__}"
            assert seen.get("accept") == "*/*"
            assert seen.get("host") == f"origin.test:{where.port}"
            assert "gzip" in (seen.get("accept-encoding") or "")

    kit.run(main)


@pytest.mark.parametrize(
    ("options", "body", "kind"),
    [
        ({"content": b"abc"}, b"abc", None),
        ({"content": "ä"}, "ä".encode(), None),
        ({"json": {"a": [1, "b"]}}, None, "application/json"),
        ({"data": {"a": "1", "b": ["x", "y"]}}, b"a=1&b=x&b=y", "application/x-www-form-urlencoded"),
        ({}, b"", None),
    ],
    ids=["bytes", "text", "json", "form", "none"],
)
def test_bodies_are_those_of_httpx(kit: Kit, options: dict[str, Any], body: bytes | None, kind: str | None) -> None:
    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where)) as client:
                await client.post(where.url(), **options)
            seen = where.requests[0]
            assert seen.get("content-type") == kind
            assert seen.get("content-length") == str(len(seen.body))
            if body is None:
                assert json.loads(seen.body) == options["json"]
            else:
                assert seen.body == body

    kit.run(main)


def test_a_body_in_pieces_is_sent_chunked(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where)) as client:
                await client.post(where.url(), content=kit.content(b"one ", b"two ", b"three"))
                response = await client.get(where.url())
                assert response.status_code == 200
            assert where.requests[0].body == b"one two three"
            assert where.requests[0].get("transfer-encoding") == "chunked"
            assert where.requests[0].get("content-length") is None

    kit.run(main)


def test_a_file_is_uploaded_as_multipart(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where)) as client:
                files = {"f": ("name.txt", io.BytesIO(b"the file"), "text/plain")}
                await client.post(where.url(), data={"k": "v"}, files=files)
            seen = where.requests[0]
            assert (seen.get("content-type") or "").startswith("multipart/form-data; boundary=")
            assert b'name="f"; filename="name.txt"' in seen.body
            assert b"the file" in seen.body
            assert b'name="k"' in seen.body

    kit.run(main)


def test_what_the_callers_body_raises_comes_out_as_it_is(kit: Kit) -> None:
    class MineError(Exception):
        pass

    def broken() -> Any:
        yield b"x"
        raise MineError

    async def broken_async() -> Any:
        yield b"x"
        raise MineError

    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where)) as client:
                with pytest.raises(MineError):
                    await client.post(where.url(), content=broken_async() if kit.asynchronous else broken())

    kit.run(main)


def test_fields_parameters_and_base_url_are_merged_with_the_clients(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            async with kit.client(
                policy=policy(where),
                base_url=where.url("/api/"),
                headers={"X-One": "client", "X-Two": "client"},
                params={"a": "1"},
            ) as client:
                response = await client.get("items", headers={"x-two": "call"}, params={"b": "2"})
                assert str(response.url) == where.url("/api/items?a=1&b=2")
                await client.get("/more")
            seen = where.requests[0]
            assert seen.target == "/api/items?a=1&b=2"
            assert (seen.get("x-one"), seen.get("x-two")) == ("client", "call")
            assert where.requests[1].target == "/api/more?a=1"

    kit.run(main)


def test_changed_defaults_of_a_client_count_for_the_next_request(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where)) as client:
                await client.get(where.url())
                client.headers["X-Later"] = "yes"
                await client.get(where.url())
                del client.headers["x-later"]
                client.headers["User-Agent"] = "mine/1"
                await client.get(where.url())
            assert [seen.get("x-later") for seen in where.requests] == [None, "yes", None]
            assert where.requests[2].get("user-agent") == "mine/1"

    kit.run(main)


def test_a_request_that_was_built_before_is_sent(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where), timeout=3) as client:
                request = client.build_request("POST", where.url("/b"), json={"x": 1}, deadline=9)
                assert request.extensions["timeout"] == {"connect": 3, "read": 3, "write": 3, "pool": 3}
                assert request.extensions["fazt"] == {"deadline": 9}
                assert isinstance(request, kit.lib.Request)
                response = await client.send(request)
                assert response.request is request
                own = kit.lib.Request("GET", where.url("/own"))
                assert (await client.send(own)).json()["target"] == "/own"

    kit.run(main)


def test_cookies_are_kept_and_sent_where_they_belong(kit: Kit) -> None:
    async def main() -> None:
        routes: Any = {"/login": Reply(200, b"", [("Set-Cookie", "s=1; Path=/"), ("Set-Cookie", "p=2; Path=/private")])}
        with site(routes) as where:
            async with kit.client(policy=policy(where), cookies={"own": "0"}) as client:
                response = await client.get(where.url("/login"))
                assert response.cookies["s"] == "1"
                assert client.cookies["s"] == "1"
                await client.get(where.url("/open"))
                await client.get(where.url("/private/x"))
                await client.get(where.url("/open", host="other.test"))
            sent = [set((seen.get("cookie") or "").split("; ")) for seen in where.requests]
            assert sent == [{"own=0"}, {"own=0", "s=1"}, {"own=0", "s=1", "p=2"}, {"own=0"}]

    kit.run(main)


def test_basic_and_own_authentication(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where), auth=("user", "word")) as client:
                await client.get(where.url())
                await client.get(where.url(), auth=None)

                def mine(request: Any) -> Any:
                    request.headers["Authorization"] = "Mine"
                    return request

                await client.get(where.url(), auth=mine)
            assert [seen.get("authorization") for seen in where.requests] == ["Basic dXNlcjp3b3Jk", None, "Mine"]

    kit.run(main)


def test_digest_authentication_answers_a_challenge(kit: Kit) -> None:
    def challenge(seen: Seen) -> Reply:
        if seen.get("authorization") is None:
            nonce = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5, opaque="o"'
            return Reply(401, b"who?", [("WWW-Authenticate", nonce)], phrase="Unauthorized")
        return text("in")

    async def main() -> None:
        with site({"/": challenge}) as where:
            async with kit.client(policy=policy(where)) as client:
                response = await client.post(where.url(), auth=kit.lib.DigestAuth("user", "word"), content=b"body")
                assert response.text == "in"
                assert [r.status_code for r in response.history] == [401]
            assert (where.requests[1].get("authorization") or "").startswith("Digest username=")
            assert [seen.body for seen in where.requests] == [b"body", b"body"]

    kit.run(main)


def test_event_hooks_see_and_change_requests(kit: Kit) -> None:
    async def main() -> None:
        seen: list[Any] = []

        def before(request: Any) -> None:
            request.headers["X-Hook"] = "1"
            seen.append(request.method)

        def after(response: Any) -> None:
            assert not response.is_closed
            seen.append(response.status_code)

        with site() as where:
            hooks = {"request": [kit.hook(before)], "response": [kit.hook(after)]}
            async with kit.client(policy=policy(where), event_hooks=hooks) as client:
                response = await client.get(where.url())
                assert response.json()["method"] == "GET"
            assert where.requests[0].get("x-hook") == "1"
        assert seen == ["GET", 200]

    kit.run(main)


def test_a_hook_that_raises_ends_the_request(kit: Kit) -> None:
    async def main() -> None:
        def after(response: Any) -> None:
            response.raise_for_status()

        with site({"/": Reply(404, b"no", phrase="Not Found"), "/ok": text("fine")}) as where:
            async with kit.client(policy=policy(where), event_hooks={"response": [kit.hook(after)]}) as client:
                with pytest.raises(kit.lib.HTTPStatusError):
                    await client.get(where.url())
                assert (await client.get(where.url("/ok"))).text == "fine"

    kit.run(main)


def test_a_closed_client_sends_nothing(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where)) as client:
                await client.get(where.url())
            assert client.is_closed
            with pytest.raises(RuntimeError, match="closed"):
                await client.get(where.url())

    kit.run(main)


def test_a_body_for_the_other_kind_of_client_is_refused(kit: Kit) -> None:
    async def other() -> Any:
        yield b"x"

    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where)) as client:
                content = iter([b"x"]) if kit.asynchronous else other()
                with pytest.raises(RuntimeError):
                    await client.post(where.url(), content=content)

    kit.run(main)


def test_connections_are_kept_and_used_again(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where)) as client:
                for _ in range(5):
                    await client.get(where.url())
                assert client.introspect()["pool"]["open"] == 1
            assert where.accepted == 1

    kit.run(main)


def test_a_host_field_of_ones_own_is_refused(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where)) as client:
                with pytest.raises(kit.lib.LocalProtocolError, match="Host") as caught:
                    await client.get(where.url(), headers={"Host": "internal.corp"})
                assert caught.value.reason is fazt.Reason.BAD_OPTION
            assert where.requests == []

    kit.run(main)


def test_a_get_takes_no_body(kit: Kit) -> None:
    async def main() -> None:
        async with kit.client(policy=fazt.Policy()) as client:
            with pytest.raises(TypeError, match="json"):
                await client.get("https://x.test/", json={})

    kit.run(main)


def test_assigned_fields_are_added_to_fazts_defaults(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where)) as client:
                client.real.headers = {"X-Mine": "1"}
                await client.get(where.url())
            seen = where.requests[0]
            assert seen.get("x-mine") == "1"
            assert seen.get("user-agent") == f"fazt/{fazt.__version__}"

    kit.run(main)


def test_server_sent_events(kit: Kit) -> None:
    if kit.lib.__name__ != "httpx2":
        pytest.skip("httpx 0.28 reads no server-sent events")

    async def main() -> None:
        events = Reply(200, b"data: one\n\nevent: x\ndata: two\n\n", [("Content-Type", "text/event-stream")])
        with site({"/": events}) as where:
            async with kit.client(policy=policy(where)) as client:
                if kit.asynchronous:
                    async with client.sse(where.url()) as source:
                        found = [(event.event, event.data) async for event in source]
                else:
                    with client.sse(where.url()) as source:
                        found = [(event.event, event.data) for event in source]
            assert found == [("message", "one"), ("x", "two")]
            assert where.requests[0].get("accept") == "text/event-stream"

    kit.run(main)


def test_a_policy_file_that_changes_is_followed(kit: Kit, tmp_path: Path) -> None:
    """Rules, static names and roots of the new text hold for the next call; idle connections go."""

    async def main() -> None:
        with site() as where:
            file = tmp_path / "policy.toml"
            rule = f'[[allow]]\ntarget = "http://origin.test:{where.port}"\naddresses = ["127.0.0.1/32"]\n'
            file.write_text('[resolve]\n"origin.test" = ["127.0.0.1"]\n' + rule)
            held = fazt.Policy.from_file(file)
            async with kit.client(policy=held) as client:
                assert (await client.get(where.url())).status_code == 200
                changed = threading.Event()
                stop = held.watch(lambda change: changed.set())
                (tmp_path / "new").write_text('[resolve]\n"origin.test" = ["127.0.0.2"]\n' + rule)
                (tmp_path / "new").replace(file)
                assert await asyncio.to_thread(changed.wait, 20)
                stop()
                await asyncio.sleep(0)
                with pytest.raises(kit.lib.RequestError) as caught:
                    await client.get(where.url())
                assert caught.value.reason is fazt.Reason.PRIVATE_ADDRESS
            held.close()
            assert len(where.requests) == 1

    kit.run(main)


def test_many_callers_share_a_small_pool(kit: Kit) -> None:
    """Threads or tasks wait for a place; no more connections are opened than the limits say."""

    async def main() -> None:
        with site() as where:
            limits = kit.lib.Limits(max_connections=2)
            async with kit.client(policy=policy(where), limits=limits, timeout=20) as client:

                async def one(number: int) -> int:
                    get = client.real.get
                    path = where.url(f"/{number}")
                    response = await get(path) if kit.asynchronous else await asyncio.to_thread(get, path)
                    assert response.json()["target"] == f"/{number}"
                    return int(response.status_code)

                assert await asyncio.gather(*map(one, range(40))) == [200] * 40
                assert client.introspect()["pool"]["open"] <= 2
            assert where.accepted <= 2

    kit.run(main)


def test_default_encoding_may_be_a_function(kit: Kit) -> None:
    async def main() -> None:
        with site({"/": Reply(200, "grün".encode("latin-1"))}) as where:
            async with kit.client(policy=policy(where), default_encoding=lambda content: "latin-1") as client:
                assert (await client.get(where.url())).text == "grün"

    kit.run(main)


def test_a_client_is_entered_once(kit: Kit) -> None:
    async def main() -> None:
        async with kit.client(policy=fazt.Policy()) as client:
            enter = (
                client.real.__aenter__
                if kit.asynchronous
                else functools.partial(asyncio.to_thread, client.real.__enter__)
            )
            with pytest.raises(RuntimeError, match="more than once"):
                await enter()

    kit.run(main)
