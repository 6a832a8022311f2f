"""Constructor arguments and per-request options: what they do, and what is refused by name."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

import fazt
from fazt.client.asked import DEFAULT_TIMEOUTS, NOTHING, Settler, asked
from tests.client.site import HOST, LOOPBACK, Kit, policy, site, text


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("transport", object()),
        ("mounts", {"all://": None}),
        ("proxy", "http://proxy.test:3128"),
        ("proxies", {"http": "http://proxy.test"}),
        ("trust_env", True),
        ("verify", False),
        ("uds", "/run/x.sock"),
        ("http1", False),
    ],
)
def test_arguments_that_go_around_the_policy_are_refused_by_name(kit: Kit, argument: str, value: Any) -> None:
    for kind in (kit.ours.Client, kit.ours.AsyncClient, kit.ours.Transport, kit.ours.AsyncTransport):
        with pytest.raises(fazt.ConfigError, match=argument):
            kind(policy=fazt.Policy(), **{argument: value})


def test_unknown_arguments_are_refused_by_name(kit: Kit) -> None:
    for kind in (kit.ours.Client, kit.ours.AsyncClient, kit.ours.Transport, kit.ours.AsyncTransport):
        with pytest.raises(TypeError, match="dedline"):
            kind(policy=fazt.Policy(), dedline=3)
    with pytest.raises(fazt.ConfigError, match="app"):
        kit.ours.Client(policy=fazt.Policy(), app="x")
    with pytest.raises(fazt.ConfigError, match="policy"):
        kit.ours.Client(policy="api.github.com")


def test_arguments_that_say_nothing_are_accepted(kit: Kit) -> None:
    """Factories pass them on (mcp, huggingface_hub)."""
    client = kit.ours.Client(
        policy=fazt.Policy(), transport=None, mounts=None, proxy=None, trust_env=False, verify=True
    )
    client.close()


def test_D1_a_client_can_be_made_and_has_the_defaults_of_the_contracts(kit: Kit) -> None:
    with kit.ours.Client(policy=fazt.Policy()) as client:
        assert isinstance(client, kit.lib.Client)
        assert client.timeout == kit.lib.Timeout(connect=5, read=30, write=30, pool=5)
        assert client.follow_redirects is False
        assert client.max_redirects == 20  # as httpx has it
        assert client.trust_env is False
    assert issubclass(kit.ours.AsyncClient, kit.lib.AsyncClient)


def test_D4_the_limits_of_the_pool_are_those_in_use(kit: Kit) -> None:
    with kit.ours.Client(policy=fazt.Policy()) as client:
        pool = client.introspect()["pool"]
        assert (pool["max_connections"], pool["max_idle"], pool["idle_expiry"]) == (64, 20, 30.0)
        assert client._intake.backend.engine.wire.pool.limits.connections == 64
    limits = kit.lib.Limits(max_connections=7, max_keepalive_connections=3, keepalive_expiry=2)
    with kit.ours.Client(policy=fazt.Policy(), limits=limits) as client:
        pool = client.introspect()["pool"]
        assert (pool["max_connections"], pool["max_idle"], pool["idle_expiry"]) == (7, 3, 2.0)
        inner = client._intake.backend.engine.wire.pool.limits
        assert (inner.connections, inner.total, inner.expiry) == (7, 3, 2.0)
    with pytest.raises(fazt.ConfigError, match="limits"):
        kit.ours.Client(policy=fazt.Policy(), limits=kit.lib.Limits(max_connections=-1))


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"deadline": 0}, ValueError, "deadline"),
        ({"deadline": float("nan")}, ValueError, "deadline"),
        ({"deadline": "5"}, TypeError, "deadline"),
        ({"max_bytes": -1}, ValueError, "max_bytes"),
        ({"max_bytes": 1.5}, TypeError, "max_bytes"),
        ({"cache": "always"}, ValueError, "cache"),
        ({"retry": 3}, TypeError, "retry"),
        ({"secret": b"x"}, TypeError, "secret"),
        ({"service": None}, TypeError, "service"),
        ({"extensions": {"fazt": {"dedline": 3}}}, TypeError, "dedline"),
        ({"nonsense": 1}, TypeError, "nonsense"),
    ],
)
def test_options_that_cannot_be_used_are_refused_by_name(
    kit: Kit, options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    async def main() -> None:
        async with kit.client(policy=fazt.Policy()) as client:
            with pytest.raises(kind, match=said):
                await client.get("https://x.test/", **options)
            request = kit.lib.Request("GET", "https://x.test/", extensions=options.get("extensions"))
            rest = {name: value for name, value in options.items() if name != "extensions"}
            with pytest.raises(kind, match=said):
                await client.send(request, **rest)

    kit.run(main)


def test_options_are_taken_wherever_httpx_takes_its_own(kit: Kit) -> None:
    async def main() -> None:
        with site({"/": text("x" * 100)}) as where:
            async with kit.client(policy=policy(where)) as client:
                small = {"max_bytes": 10}
                with pytest.raises(fazt.FaztError):
                    await client.get(where.url(), **small)
                with pytest.raises(fazt.FaztError):
                    await client.request("GET", where.url(), **small)
                with pytest.raises(fazt.FaztError):
                    await client.get(where.url(), extensions={"fazt": small})
                with pytest.raises(fazt.FaztError):
                    await client.send(client.build_request("GET", where.url(), **small))
                with pytest.raises(fazt.FaztError):
                    await client.send(client.build_request("GET", where.url()), **small)
                with pytest.raises(fazt.FaztError):
                    async with client.stream("GET", where.url(), **small) as streamed:
                        await streamed.read()
                assert (await client.get(where.url())).status_code == 200

    kit.run(main)


def test_what_is_asked_of_a_client_holds_unless_a_request_says_otherwise() -> None:
    base = asked({"deadline": 10, "max_bytes": 5, "service": "s"})
    assert asked({}, base) is base
    assert asked({"retry": True}).retry == fazt.RetryPolicy()
    one = asked({"max_bytes": None}, base)
    assert (one.deadline, one.max_bytes, one.service) == (10, None, "s")


def test_the_total_time_of_a_call() -> None:
    settle = Settler(None)

    def total(given: dict[str, Any], timeouts: Any = DEFAULT_TIMEOUTS, **more: Any) -> float | None:
        found = settle(asked(given, NOTHING), timeouts, coding="identity", stream=False, max_redirects=None, **more)
        return found.timeout_ms

    assert total({}) == 60_000
    assert total({"deadline": 300}) == 300_000
    assert total({"deadline": None}) is None
    assert total({}, (5, 600, 600, 5)) == 600_000, "who waits ten minutes for a byte means the call to take as long"
    assert total({}, (5, 1, 1, 5)) == 60_000
    assert total({}, (None, None, None, None)) is None
    assert total({}, total=False) is None, "a stream has none"
    assert total({"deadline": 3}, total=False) == 3000


def test_a_stream_may_be_silent_for_a_minute_unless_a_timeout_is_set() -> None:
    settle = Settler(None)

    def idle(timeouts: Any, *, total: bool) -> float | None:
        found = settle(NOTHING, timeouts, coding="identity", stream=True, max_redirects=None, total=total)
        assert found.options.phases is not None
        return found.options.phases.read

    assert idle(DEFAULT_TIMEOUTS, total=False) == 60
    assert idle(DEFAULT_TIMEOUTS, total=True) == 30
    assert idle((5, 7, 7, 5), total=False) == 7
    assert idle((None, None, None, None), total=False) is None


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_side(authority: trustme.CA, *, ask: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    if ask:
        context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(context)
    return context


def test_roots_of_ones_own_and_client_certificates(kit: Kit, authority: trustme.CA, tmp_path: Path) -> None:
    roots = tmp_path / "roots.pem"
    authority.cert_pem.write_to_path(str(roots))
    own = authority.issue_cert("client.test")
    own.cert_chain_pems[0].write_to_path(str(tmp_path / "own.pem"))
    own.private_key_pem.write_to_path(str(tmp_path / "own.key"))
    pair = (tmp_path / "own.pem", tmp_path / "own.key")

    async def main() -> None:
        context = ssl.create_default_context(cafile=str(roots))
        with site(tls=server_side(authority)) as where:
            rule = fazt.Rule(f"https://{HOST}:{where.port}", addresses=LOOPBACK)
            bare = fazt.Policy([rule], resolve={HOST: ["127.0.0.1"]})
            trusting = fazt.Policy([rule], resolve={HOST: ["127.0.0.1"]}, ca_file=roots)
            async with kit.client(policy=bare) as client:
                with pytest.raises(kit.lib.ConnectError) as caught:
                    await client.get(where.url())
                assert caught.value.reason is fazt.Reason.TLS_FAILED
            for arguments in (
                {"policy": trusting},
                {"policy": bare, "verify": str(roots)},
                {"policy": bare, "verify": context},
            ):
                async with kit.client(**arguments) as client:
                    assert (await client.get(where.url())).status_code == 200
        with site(tls=server_side(authority, ask=True)) as where:
            rule = fazt.Rule(f"https://{HOST}:{where.port}", addresses=LOOPBACK)
            trusting = fazt.Policy([rule], resolve={HOST: ["127.0.0.1"]}, ca_file=roots)
            async with kit.client(policy=trusting) as client:
                with pytest.raises(kit.lib.RequestError):
                    await client.get(where.url())
            async with kit.client(policy=trusting, cert=pair) as client:
                assert (await client.get(where.url())).status_code == 200
                assert "cert" in client.introspect()["tls"]

    kit.run(main)


def test_what_a_certificate_opened_is_for_nobody_else(kit: Kit, authority: trustme.CA, tmp_path: Path) -> None:
    roots, pair = tmp_path / "roots.pem", tmp_path / "pair.pem"
    authority.cert_pem.write_to_path(str(roots))
    authority.issue_cert("client.test").private_key_and_cert_chain_pem.write_to_path(str(pair))
    cache = fazt.Cache(tmp_path / "cache")

    async def main() -> None:
        with site({"/": text("ours", Cache_Control="max-age=60")}, tls=server_side(authority, ask=True)) as where:
            rule = fazt.Rule(f"https://{HOST}:{where.port}", addresses=LOOPBACK)
            trusting = fazt.Policy([rule], resolve={HOST: ["127.0.0.1"]}, ca_file=roots)
            for used in ("miss", "hit"):
                async with kit.client(policy=trusting, cert=str(pair), cache=cache) as client:
                    assert (await client.get(where.url())).extensions["fazt"]["cache"] == used
            async with kit.client(policy=trusting, cache=cache) as client:
                with pytest.raises(kit.lib.RequestError):
                    await client.get(where.url())
            context = ssl.create_default_context(cafile=roots)
            async with kit.client(policy=trusting, verify=context, cache=cache) as client:
                with pytest.raises(kit.lib.RequestError):
                    await client.get(where.url())

    kit.run(main)
    cache.close()


def test_a_context_that_does_not_verify_is_refused(kit: Kit, tmp_path: Path) -> None:
    careless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    careless.check_hostname = False
    with pytest.raises(fazt.ConfigError, match="verify"):
        kit.ours.Client(policy=fazt.Policy(), verify=careless)
    with pytest.raises(fazt.ConfigError, match="cert"):
        kit.ours.Client(policy=fazt.Policy(), cert=str(tmp_path / "missing.pem"))
    with pytest.raises(fazt.ConfigError, match="missing"):
        kit.ours.Client(policy=fazt.Policy(), verify=str(tmp_path / "missing.pem"))


def test_a_client_for_a_service_shares_everything_but_its_name(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            async with kit.client(policy=policy(where)) as client:
                await client.get(where.url())
                service = client.real.service("crossref")
                assert service._intake.defaults.service == "crossref"
                assert client.real._intake.defaults.service == ""
                if kit.asynchronous:
                    async with service as inner:
                        assert (await inner.get(where.url())).status_code == 200
                    await service.aclose()
                else:
                    with service as inner:
                        assert inner.get(where.url()).status_code == 200
                    service.close()
                assert (await client.get(where.url())).status_code == 200
            assert where.accepted == 1
            assert service.is_closed

    kit.run(main)


def test_hooks_of_the_client_see_each_call_once(kit: Kit) -> None:
    async def main() -> None:
        seen: list[str] = []
        with site() as where:
            async with kit.client(
                policy=policy(where),
                on_request=lambda request: seen.append(f"request {request.url.path}"),
                on_response=lambda response: seen.append(f"response {response.status_code}"),
                on_error=lambda error: seen.append(f"error {error.reason}"),
            ) as client:
                await client.get(where.url("/a"))
                with pytest.raises(fazt.FaztError):
                    await client.get("http://ungranted.test/b")
        assert seen == ["request /a", "response 200", "request /b", "error host_not_granted"]

    kit.run(main)


@pytest.mark.parametrize("name", ["on_request", "on_response"])
def test_a_call_that_is_cancelled_in_a_hook_leaves_nothing_open(name: str) -> None:
    async def main() -> None:
        errors: list[BaseException] = []
        begun = asyncio.Event()

        async def stay(_subject: object) -> None:
            begun.set()
            await asyncio.Event().wait()

        with site() as where:
            async with fazt.AsyncClient(policy=policy(where), on_error=errors.append, **{name: stay}) as client:
                task = asyncio.ensure_future(client.send(client.build_request("GET", where.url()), stream=True))
                await begun.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert [type(error) for error in errors] == [asyncio.CancelledError] * (name == "on_request")
                pool = client.introspect()["pool"]
                assert pool["open"] == pool["idle"]

    asyncio.run(main())


def test_a_wrong_argument_is_named_with_the_right_one(kit: Kit) -> None:
    nothing = fazt.Policy()
    with pytest.raises(TypeError, match=r"'polcy'; did you mean policy=\?"):
        kit.ours.Client(polcy=nothing)
    for kind in (kit.ours.Client, kit.ours.AsyncClient):
        with pytest.raises(TypeError, match=f"{kind.__name__} takes arguments by name: policy=<Policy"):
            kind(nothing)
    with kit.ours.Client(policy=nothing) as client:
        for wrong, right in (
            ("allow_redirects", "follow_redirects="),
            ("stream", "with client.stream"),
            ("max_byte", "max_bytes"),
            ("verify", r"fazt.Client\(verify="),
        ):
            with pytest.raises(TypeError, match=f"unexpected keyword argument '{wrong}'.*{right}"):
                client.get("https://x.test/", **{wrong: True})


def test_what_is_no_sink_is_refused_when_the_client_is_made(kit: Kit) -> None:
    for wrong in (print, [print], "calls.jsonl", {"jsonl": {}}):
        with pytest.raises(fazt.ConfigError, match="sinks= takes sinks, not"):
            kit.ours.Client(policy=fazt.Policy(), sinks=wrong)
