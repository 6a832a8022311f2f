"""Redirects of the clients: off by default; on, one call and one record whose every hop passed the gates."""

from __future__ import annotations

from typing import Any

import pytest

import fazt
from fazt.core.record import CallRecord
from tests.client.site import HOST, OTHER, Kit, Reply, Seen, policy, redirect, site, text


class Records:
    """A sink of records in place of the log."""

    def __init__(self) -> None:
        self.rows: list[CallRecord] = []

    def append(self, record: CallRecord) -> None:
        self.rows.append(record)


def recorded(client: Any) -> Records:
    """Keep the records of a client."""
    records = Records()
    client._intake.backend.engine.sink = records
    return records


def test_redirects_are_not_followed_unless_asked(kit: Kit) -> None:
    async def main() -> None:
        with site({"/a": redirect("/b?x=1#frag", 303)}) as where:
            async with kit.client(policy=policy(where)) as client:
                response = await client.post(where.url("/a"), content=b"x")
                assert response.status_code == 303
                assert response.has_redirect_location
                assert response.history == []
                following = response.next_request
                assert (following.method, str(following.url)) == ("GET", where.url("/b?x=1#frag"))
                assert (await client.send(following)).json()["target"] == "/b?x=1"

    kit.run(main)


def test_a_followed_chain_is_one_call_with_its_history(kit: Kit) -> None:
    async def main() -> None:
        with site({"/a": redirect("/b", 301), "/b": redirect("/c", 307), "/c": text("end")}) as where:
            async with kit.client(policy=policy(where), follow_redirects=True) as client:
                records = recorded(client)
                response = await client.get(where.url("/a"))
                assert response.text == "end"
                assert str(response.url) == where.url("/c")
                assert [(r.status_code, str(r.url)) for r in response.history] == [
                    (301, where.url("/a")),
                    (307, where.url("/b")),
                ]
                assert response.history[1].history == [response.history[0]]
                assert response.history[0].headers["location"] == "/b"
                assert response.request.method == "GET"
            assert len(records.rows) == 1
            (record,) = records.rows
            assert [hop.status for hop in record.redirects] == [301, 307]
            assert record.attempts is not None
            assert [trip.status for trip in record.attempts] == [301, 307]
            assert record.call_id == response.extensions["fazt"]["call_id"]

    kit.run(main)


def test_D39_the_request_hook_does_not_lead_a_redirect_back(kit: Kit) -> None:
    """Every hop is shown to the hooks as a request of its own, which they may change, and as a response."""

    async def main() -> None:
        seen: list[str] = []

        def before(request: Any) -> None:
            request.headers["X-Hop"] = str(len(seen))
            seen.append(str(request.url))

        def after(response: Any) -> None:
            seen.append(f"{response.status_code} {response.url}")

        hooks = {"request": [kit.hook(before)], "response": [kit.hook(after)]}
        with site({"/a": redirect("/b"), "/b": text("end")}) as where:
            async with kit.client(policy=policy(where), follow_redirects=True, event_hooks=hooks) as client:
                response = await client.get(where.url("/a"))
                assert response.text == "end"
            one, two = where.url("/a"), where.url("/b")
            assert seen == [one, f"302 {one}", two, f"200 {two}"]
            assert [request.get("x-hop") for request in where.requests] == ["0", "2"]

    kit.run(main)


def test_what_a_hook_raises_between_two_hops_comes_out_as_it_is(kit: Kit) -> None:
    class MineError(Exception):
        pass

    async def main() -> None:
        def after(response: Any) -> None:
            raise MineError

        with site({"/a": redirect("/b")}) as where:
            hooks = {"response": [kit.hook(after)]}
            async with kit.client(policy=policy(where), follow_redirects=True, event_hooks=hooks) as client:
                records = recorded(client)
                with pytest.raises(MineError):
                    await client.get(where.url("/a"))
            assert [seen.path for seen in where.requests] == ["/a"]
            assert [record.reason for record in records.rows] == ["aborted"]

    kit.run(main)


def test_cookies_of_every_hop_are_kept_and_sent_where_they_belong(kit: Kit) -> None:
    async def main() -> None:
        routes: Any = {"/login": redirect("/home", Set_Cookie="sid=1; Path=/")}
        with site(routes) as where:
            routes["/away"] = redirect(where.url("/", host=OTHER))
            async with kit.client(policy=policy(where), follow_redirects=True) as client:
                response = await client.get(where.url("/login"), headers={"Cookie": "mine=1"})
                assert response.status_code == 200
                assert client.cookies["sid"] == "1"
                await client.get(where.url("/away"))
            assert [seen.get("cookie") for seen in where.requests] == ["mine=1", "sid=1", "sid=1", None]

    kit.run(main)


def test_D8_credentials_do_not_go_to_another_origin(kit: Kit) -> None:
    async def main() -> None:
        routes: Any = {}
        with site(routes) as where:
            routes["/a"] = redirect(where.url("/b", host=OTHER), 307)
            routes["/same"] = redirect("/b", 307)
            fields = {
                "Authorization": "Bearer s3cret",
                "Cookie": "sid=1",
                "X-API-Key": "k",
                "Proxy-Authorization": "p",
                "X-Plain": "kept",
            }
            async with kit.client(policy=policy(where), follow_redirects=True) as client:
                await client.get(where.url("/a"), headers=fields)
                await client.get(where.url("/same"), headers={"Authorization": "Bearer s3cret"})
                await client.get(where.url("/a"), auth=("user", "word"))
            away = where.requests[1]
            assert away.get("host") == f"{OTHER}:{where.port}"
            for name in ("authorization", "cookie", "x-api-key", "proxy-authorization"):
                assert away.get(name) is None, name
            assert away.get("x-plain") == "kept"
            assert where.requests[3].get("authorization") == "Bearer s3cret"
            assert where.requests[5].get("authorization") is None

    kit.run(main)


def test_fields_that_the_program_calls_sensitive_stay_with_their_origin(kit: Kit) -> None:
    async def main() -> None:
        routes: Any = {}
        with site(routes) as where:
            routes["/a"] = redirect(where.url("/b", host=OTHER), 307)
            routes["/same"] = redirect("/b", 307)
            fields = {"X-Tenant": "acme", "X-Plain": "kept"}
            arguments: Any = {"policy": policy(where), "sensitive_headers": ["X-Tenant"]}
            async with kit.client(follow_redirects=True, **arguments) as client:
                await client.get(where.url("/a"), headers=fields)
                await client.get(where.url("/same"), headers=fields)
            async with kit.client(**arguments) as client:
                answer = await client.get(where.url("/a"), headers=fields)
                assert "x-tenant" not in answer.next_request.headers
            seen = [(one.get("x-tenant"), one.get("x-plain")) for one in where.requests]
            assert seen == [("acme", "kept"), (None, "kept"), ("acme", "kept"), ("acme", "kept"), ("acme", "kept")]

    kit.run(main)
    for wrong in ("X-Tenant", ["no name"]):
        with pytest.raises(fazt.ConfigError, match="sensitive_headers"):
            kit.ours.Client(policy=fazt.Policy(), sensitive_headers=wrong)


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        (303, "POST", "GET"),
        (303, "PUT", "GET"),
        (303, "HEAD", "HEAD"),
        (302, "POST", "GET"),
        (301, "POST", "GET"),
        (307, "POST", "POST"),
        (308, "PUT", "PUT"),
        (302, "GET", "GET"),
    ],
)
def test_the_method_and_body_of_the_next_hop(kit: Kit, status: int, method: str, then: str) -> None:
    async def main() -> None:
        with site({"/a": redirect("/b", status)}) as where:
            async with kit.client(policy=policy(where), follow_redirects=True) as client:
                body = {} if method in ("GET", "HEAD") else {"content": b"body"}
                response = await client.request(method, where.url("/a"), **body)
                assert response.request.method == then
            first, second = where.requests
            assert second.method == then
            assert second.body == (first.body if then == method else b"")
            if then == "GET" and method != "GET":
                assert second.get("content-type") is None

    kit.run(main)


def test_a_body_that_can_be_sent_once_is_not_sent_again(kit: Kit) -> None:
    async def main() -> None:
        with site({"/a": redirect("/b", 307)}) as where:
            async with kit.client(policy=policy(where), follow_redirects=True) as client:
                with pytest.raises(fazt.FaztError) as caught:
                    await client.post(where.url("/a"), content=kit.content(b"once"))
                assert caught.value.reason is fazt.Reason.REDIRECT_BODY
                assert isinstance(caught.value, kit.lib.RequestError)

    kit.run(main)


def test_D9_five_redirects_are_five_redirects(kit: Kit) -> None:
    def on(seen: Seen) -> Reply:
        number = int(seen.path[1:])
        return redirect(f"/{number - 1}") if number else text("end")

    async def main() -> None:
        routes = {f"/{number}": on for number in range(8)}
        with site(routes) as where:
            async with kit.client(policy=policy(where), follow_redirects=True, max_redirects=5) as client:
                assert (await client.get(where.url("/5"))).text == "end"
                with pytest.raises(kit.lib.TooManyRedirects) as caught:
                    await client.get(where.url("/6"))
                assert caught.value.hop == 6
                assert str(caught.value.request.url) == where.url("/1")
                assert caught.value.reason is fazt.Reason.REDIRECT_LIMIT

    kit.run(main)


def test_D11_a_circle_is_seen_and_every_connection_given_back(kit: Kit) -> None:
    async def main() -> None:
        with site({"/a": redirect("/b"), "/b": redirect("/a")}) as where:
            async with kit.client(policy=policy(where), follow_redirects=True, max_redirects=20) as client:
                with pytest.raises(kit.lib.TooManyRedirects) as caught:
                    await client.get(where.url("/a"))
                assert caught.value.reason is fazt.Reason.REDIRECT_LOOP
                assert (await client.get(where.url("/c"))).status_code == 200
                assert client.introspect()["pool"]["open"] == 1
            assert [seen.path for seen in where.requests] == ["/a", "/b", "/c"]

    kit.run(main)


def test_a_page_that_asks_for_a_cookie_first_is_no_circle(kit: Kit) -> None:
    def page(seen: Seen) -> Reply:
        return text("let in") if seen.get("cookie") == "ok=1" else redirect("/check")

    async def main() -> None:
        routes = {"/": page, "/check": redirect("/", Set_Cookie="ok=1; Path=/")}
        with site(routes) as where:
            async with kit.client(policy=policy(where), follow_redirects=True) as client:
                response = await client.get(where.url("/"))
                assert response.text == "let in"
                assert len(response.history) == 2

    kit.run(main)


def test_a_circle_that_sets_a_cookie_at_every_turn_ends_at_the_limit(kit: Kit) -> None:
    async def main() -> None:
        with site({"/": redirect("/", Set_Cookie="n=1")}) as where:
            async with kit.client(policy=policy(where), follow_redirects=True, max_redirects=4) as client:
                with pytest.raises(kit.lib.TooManyRedirects) as caught:
                    await client.get(where.url("/"))
                assert caught.value.reason is fazt.Reason.REDIRECT_LIMIT
            assert len(where.requests) == 5

    kit.run(main)


@pytest.mark.parametrize("status", [300, 304, 305])
def test_D10_only_the_five_codes_redirect(kit: Kit, status: int) -> None:
    async def main() -> None:
        with site({"/a": Reply(status, b"", [("Location", "/b")])}) as where:
            async with kit.client(policy=policy(where), follow_redirects=True) as client:
                response = await client.get(where.url("/a"))
                assert response.status_code == status
                assert response.history == []
            assert len(where.requests) == 1

    kit.run(main)


def test_D7_every_url_is_judged_the_first_and_those_of_redirects(kit: Kit) -> None:
    async def main() -> None:
        with site({"/a": redirect("http://ungranted.test/"), "/b": redirect("http://127.0.0.1/")}) as where:
            held = policy(where, hosts=[HOST])
            async with kit.client(policy=held, follow_redirects=True) as client:
                for path, reason in (("/a", "host_not_granted"), ("/b", "ip_literal")):
                    with pytest.raises(kit.lib.RequestError) as caught:
                        await client.get(where.url(path))
                    assert (caught.value.reason, caught.value.hop) == (reason, 1)
                with pytest.raises(kit.lib.RequestError) as caught:
                    await client.get("http://ungranted.test/")
                assert (caught.value.reason, caught.value.hop) == ("host_not_granted", None)

    kit.run(main)


def test_a_target_that_is_no_url_is_the_servers_fault(kit: Kit) -> None:
    async def main() -> None:
        with site({"/a": redirect("http://no where/")}) as where:
            async with kit.client(policy=policy(where), follow_redirects=True) as client:
                with pytest.raises(kit.lib.RemoteProtocolError):
                    await client.get(where.url("/a"))

    kit.run(main)


def test_redirects_of_a_stream_are_followed_too(kit: Kit) -> None:
    async def main() -> None:
        with site({"/a": redirect("/b"), "/b": Reply(200, pieces=[b"one", b"two"])}) as where:
            async with (
                kit.client(policy=policy(where)) as client,
                client.stream("GET", where.url("/a"), follow_redirects=True) as response,
            ):
                assert len(response.history) == 1
                assert await response.read() == b"onetwo"

    kit.run(main)


def test_the_fragment_goes_along(kit: Kit) -> None:
    async def main() -> None:
        with site({"/a": redirect("/b"), "/c": redirect("/d#new")}) as where:
            async with kit.client(policy=policy(where), follow_redirects=True) as client:
                assert (await client.get(where.url("/a#here"))).url.fragment == "here"
                assert (await client.get(where.url("/c#here"))).url.fragment == "new"

    kit.run(main)
