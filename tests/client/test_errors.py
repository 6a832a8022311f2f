"""Errors are FaztErrors and the library's own exceptions, so that `except` clauses written for httpx keep working."""

from __future__ import annotations

import pickle
import socket
from typing import Any

import pytest

import fazt
from fazt.client.failures import translate
from fazt.errors import CODE_OF, Code, FaztError, Reason, StaleConnectionError
from tests.client.site import HOST, LOOPBACK, Kit, Reply, policy, site
from tests.net.origin import Peer, serve
from tests.telemetry.sinks import Collected

POLICY_CODES = {Code.NET_BLOCKED, Code.NET_AUTH}


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.value)
def test_every_reason_is_a_request_error_and_keeps_what_it_carries(kit: Kit, reason: Reason) -> None:
    cause = OSError("below")
    request = kit.lib.Request("GET", "http://x.test/")
    try:
        raise FaztError(reason, "why", retry_after=3.0, hop=1, detail="more", call_id="c_1") from cause
    except FaztError as caught:
        error: Any = translate(kit.lib, caught, request)
    assert isinstance(error, kit.lib.RequestError)
    assert isinstance(error, FaztError)
    assert error.request is request
    assert error.__cause__ is cause
    assert (error.code, error.reason) == (CODE_OF[reason], reason)
    assert (error.retry_after, error.hop, error.detail, error.call_id) == (3.0, 1, "more", "c_1")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.reason, again.message, again.hop, again.call_id) == (reason, "why", 1, "c_1")
    assert again.request.url == request.url


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        (Reason.DNS, "ConnectTimeout"),
        (Reason.CONNECT, "ConnectTimeout"),
        (Reason.TLS_HANDSHAKE, "ConnectTimeout"),
        (Reason.FIRST_BYTE, "ReadTimeout"),
        (Reason.BODY, "ReadTimeout"),
        (Reason.WRITE, "WriteTimeout"),
        (Reason.POOL_WAIT, "PoolTimeout"),
        (Reason.TOTAL, "TimeoutException"),
        (Reason.DNS_FAILED, "ConnectError"),
        (Reason.CONNECT_FAILED, "ConnectError"),
        (Reason.TLS_FAILED, "ConnectError"),
        (Reason.PROTOCOL, "RemoteProtocolError"),
        (Reason.DECODE, "DecodingError"),
        (Reason.REDIRECT_LIMIT, "TooManyRedirects"),
        (Reason.BAD_OPTION, "LocalProtocolError"),
    ],
)
def test_the_library_has_a_name_for_it(kit: Kit, reason: Reason, name: str) -> None:
    error = translate(kit.lib, FaztError(reason, "x"), None)
    assert isinstance(error, getattr(kit.lib, name))


def test_a_policy_refusal_is_neither_a_network_error_nor_a_timeout(kit: Kit) -> None:
    for reason in Reason:
        if CODE_OF[reason] in POLICY_CODES and not reason.value.startswith("redirect_l"):
            error = translate(kit.lib, FaztError(reason, "x"), None)
            assert not isinstance(error, kit.lib.TransportError), reason


def test_a_connection_that_was_gone_is_a_protocol_error_as_in_httpx(kit: Kit) -> None:
    assert isinstance(translate(kit.lib, StaleConnectionError(sent=True), None), kit.lib.RemoteProtocolError)


def test_refusals_of_the_gates_write_one_record_and_open_no_connection(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            held = policy(where, hosts=[HOST])
            async with kit.client(policy=held) as client:
                refused = {
                    "http://other.test/": "host_not_granted",
                    f"http://{HOST}/": "port_not_granted",
                    f"https://{HOST}:{where.port}/": "scheme_not_allowed",
                    f"http://127.0.0.1:{where.port}/": "ip_literal",
                    f"http://user:pw@{HOST}:{where.port}/": "userinfo",
                }
                for url, reason in refused.items():
                    with pytest.raises(kit.lib.RequestError) as caught:
                        await client.get(url)
                    assert caught.value.reason == reason, url
                    assert caught.value.call_id.startswith("c_")
                    assert str(caught.value.request.url).startswith(url[:20])
                assert client.introspect()["pool"]["open"] == 0
            assert where.accepted == 0

    kit.run(main)


def test_D12_a_private_address_behind_a_granted_name_is_refused(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            names = {
                "inside.test": ["127.0.0.1"],
                "meta.test": ["169.254.169.254"],
                "mixed.test": ["1.1.1.1", "10.0.0.1"],
            }
            held = fazt.Policy([f"http://{name}:{where.port}" for name in names], resolve=names)
            async with kit.client(policy=held) as client:
                for name in names:
                    with pytest.raises(kit.lib.RequestError) as caught:
                        await client.get(f"http://{name}:{where.port}/")
                    assert caught.value.reason is Reason.PRIVATE_ADDRESS
                    assert caught.value.retryable is False
            assert where.accepted == 0

    kit.run(main)


def test_another_scheme_is_unsupported_as_in_httpx(kit: Kit) -> None:
    async def main() -> None:
        async with kit.client(policy=fazt.Policy.public()) as client:
            for url in ("ftp://x.test/", "/relative", "file:///etc/passwd"):
                with pytest.raises(kit.lib.UnsupportedProtocol):
                    await client.get(url)

    kit.run(main)


def test_a_url_that_the_library_cannot_read_is_a_refusal_with_a_record(kit: Kit) -> None:
    async def main() -> None:
        sink = Collected()
        cases = {
            "https://x.test:port/": "bad_url",
            "http://256.1.1.1/": "ip_literal",
            "http://[gg::1]/": "ip_literal",
        }
        async with kit.client(policy=fazt.Policy.public(), sinks=sink) as client:
            ids = []
            for url, reason in cases.items():
                with pytest.raises(kit.lib.InvalidURL) as caught:
                    await client.get(url)
                assert isinstance(caught.value, fazt.FaztError)
                assert isinstance(caught.value, kit.lib.RequestError)
                assert isinstance(caught.value.__cause__, kit.lib.InvalidURL)
                assert caught.value.reason == reason
                ids.append(caught.value.call_id)
        assert [event.request_id for event in sink.summaries] == ids

    kit.run(main)


def test_a_closed_port_is_a_connect_error(kit: Kit) -> None:
    async def main() -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            async with kit.client(policy=policy(port)) as client:
                with pytest.raises(kit.lib.ConnectError) as caught:
                    await client.get(f"http://{HOST}:{port}/")
                assert caught.value.reason is Reason.CONNECT_FAILED

    kit.run(main)


def test_a_server_that_is_silent_is_a_read_timeout(kit: Kit) -> None:
    async def main() -> None:
        with serve(lambda peer: peer.wait_for_end()) as where:
            async with kit.client(policy=policy(where.port)) as client:
                with pytest.raises(kit.lib.ReadTimeout) as caught:
                    await client.get(f"http://{HOST}:{where.port}/", timeout=kit.lib.Timeout(5, read=0.1))
                assert caught.value.reason is Reason.FIRST_BYTE
                with pytest.raises(kit.lib.TimeoutException):
                    await client.get(f"http://{HOST}:{where.port}/", deadline=0.1)

    kit.run(main)


def test_a_full_pool_is_a_pool_timeout(kit: Kit) -> None:
    async def main() -> None:
        with site({"/big": Reply(200, b"x" * 5_000_000)}) as where:
            limits, timeout = kit.lib.Limits(max_connections=1), kit.lib.Timeout(5, pool=0.1)
            async with kit.client(policy=policy(where), limits=limits, timeout=timeout) as client:
                async with client.stream("GET", where.url("/big")):
                    with pytest.raises(kit.lib.PoolTimeout) as caught:
                        await client.get(where.url())
                assert caught.value.reason is Reason.POOL_WAIT
                assert caught.value.retryable is True

    kit.run(main)


@pytest.mark.parametrize("answer", [b"nonsense\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"])
def test_what_is_no_http_is_a_remote_protocol_error(kit: Kit, answer: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer)

    async def main() -> None:
        with serve(script) as where:
            async with kit.client(policy=policy(where.port)) as client:
                with pytest.raises(kit.lib.RemoteProtocolError) as caught:
                    await client.get(f"http://{HOST}:{where.port}/")
                assert caught.value.request.method == "GET"

    kit.run(main)


def test_a_secret_goes_only_where_it_may(kit: Kit) -> None:
    async def main() -> None:
        with site() as where:
            rule = fazt.Rule(f"http://{HOST}:{where.port}", addresses=LOOPBACK)
            secrets = {"KEY": fazt.Secret("s3cret-value-1234", domains=["elsewhere.test"])}
            held = fazt.Policy([rule], resolve={HOST: ["127.0.0.1"]}, secrets=secrets)
            async with kit.client(policy=held) as client:
                for name, reason in (("KEY", "secret_wrong_host"), ("NONE", "secret_unknown")):
                    with pytest.raises(kit.lib.RequestError) as caught:
                        await client.get(where.url(), secret=name)
                    assert caught.value.reason == reason
                    assert "s3cret" not in repr(caught.value) + str(caught.value)
            assert where.requests == []

    kit.run(main)


def test_a_traceback_names_the_host_and_what_to_type_next_but_no_query(kit: Kit) -> None:
    async def main() -> None:
        async with kit.client(policy=fazt.Policy(allow=["api.test"], resolve={"api.test": ["127.0.0.1"]})) as client:
            with pytest.raises(FaztError) as refused:
                await client.get("https://other.test/x?token=s3cret")
            assert refused.value.__notes__ == [
                "host_not_granted for other.test; policy.explain(URL), or `fazt explain URL` for the data directory, "
                "says what would allow it"
            ]

    kit.run(main)
    dead = fazt.Policy(
        [fazt.Rule("http://api.test:9", addresses=["127.0.0.1/32"])], resolve={"api.test": ["127.0.0.1"]}
    )
    with pytest.raises(FaztError) as failed:
        fazt.fetch("http://api.test:9/x?token=s3cret", policy=dead)
    assert failed.value.__notes__ == ["connect_failed for api.test; error.detail says more"]
    assert "s3cret" not in str(failed.value.__notes__)
