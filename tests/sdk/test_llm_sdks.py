"""The openai and anthropic SDKs over fazt's clients: answers, streams, retries, and refusals that end at once."""

from __future__ import annotations

import contextlib
import pickle
import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

import fazt
from fazt.errors import CODE_OF, Code, FaztError, Reason
from tests.sdk.llm import TOKENS, Service
from tests.sdk.llm_kits import KEY, LLM_KITS, LlmKit, without_waits
from tests.sdk.serving import HOST, LOOPBACK, OTHER, Authority, Calls, Served, served

HELLO = "".join(TOKENS)
TIMEOUTS = {one for one in Reason if CODE_OF[one] is Code.NET_TIMEOUT and one is not Reason.ABORTED} | {
    Reason.POOL_WAIT
}


@pytest.fixture(scope="module")
def hosted(tls: Authority | None) -> Iterator[tuple[Service, Served]]:
    service = Service()
    with served(service.app, tls) as where:
        service.elsewhere = where.url("/v1/elsewhere", OTHER)
        yield service, where


@pytest.fixture
def service(hosted: tuple[Service, Served]) -> Service:
    hosted[0].seen.clear()
    hosted[0].go.clear()
    hosted[0]._busy.clear()
    return hosted[0]


@pytest.fixture
def where(hosted: tuple[Service, Served]) -> Served:
    return hosted[1]


@pytest.fixture(params=LLM_KITS, ids=lambda kit: kit.name)
def kit(request: pytest.FixtureRequest) -> LlmKit:
    found: LlmKit = request.param
    return found


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waits(monkeypatch)


def test_an_answer_and_one_record_a_call(kit: LlmKit, service: Service, where: Served, calls: Calls) -> None:
    async def main() -> None:
        async with kit.sdk_over(where.origin(), policy=where.policy(), sinks=[calls.sink]) as asker:
            assert await asker.ask() == HELLO
            assert await asker.ask() == HELLO

    kit.run(main)
    assert calls.all == [(None, 200), (None, 200)]
    fields = service.seen[0][1]
    assert fields["authorization"] == f"Bearer {KEY}"
    assert [event.url for event in calls.sink.summaries] == [where.url(service.seen[0][0])] * 2


def test_tokens_come_as_they_are_said(kit: LlmKit, service: Service, where: Served, calls: Calls) -> None:
    async def main() -> None:
        async with kit.sdk_over(where.origin(), policy=where.policy(), sinks=[calls.sink]) as asker:
            said: list[str] = []
            async for token in asker.tokens("gated"):
                said.append(token)
                service.go.set()  # the service waits for this after its first token
            assert said == TOKENS

    kit.run(main)
    assert calls.all == [(None, 200)]


def test_a_stream_that_is_left_early_gives_its_connection_back(
    kit: LlmKit, service: Service, where: Served, calls: Calls
) -> None:
    async def main() -> None:
        client = kit.client_class()(policy=where.policy(), sinks=[calls.sink])
        async with kit.over(client, where.origin()) as asker:
            async with contextlib.aclosing(asker.tokens("endless")) as tokens:
                async for token in tokens:
                    assert token == "and "
                    break
            assert await asker.ask() == HELLO
            assert client.introspect()["pool"]["open"] <= 1

    kit.run(main)
    assert len(calls.all) == 2
    assert calls.all[1] == (None, 200)


def test_a_stream_has_an_idle_limit(kit: LlmKit, service: Service, where: Served, calls: Calls) -> None:
    async def main() -> None:
        library: Any = __import__("httpx" if kit.legacy else "httpx2")
        timeout = library.Timeout(10, read=0.3)
        async with kit.sdk_over(where.origin(), policy=where.policy(), sinks=[calls.sink]) as asker:
            said: list[str] = []
            with pytest.raises((library.ReadTimeout, kit.error)) as caught:
                await asker.collect(said, "stalls", timeout=timeout)
            assert said == TOKENS[:1]
            assert _chain(caught.value)[-1].reason is Reason.BODY

    kit.run(main)
    assert calls.all == [("body", 200)], "a stream that broke off is not asked for again"


def test_a_stream_has_a_total_deadline_only_when_one_is_set(
    kit: LlmKit, service: Service, where: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fazt.engine import AsyncEngine, Engine

    totals: list[float | None] = []
    for engine in (Engine, AsyncEngine):

        def spy(self: Any, call: Any, *, profile: Any, _open: Any = engine.open, **more: Any) -> Any:
            totals.append(call.timeout_ms or profile.call_ms or None)
            return _open(self, call, profile=profile, **more)

        monkeypatch.setattr(engine, "open", spy)

    async def main() -> None:
        async with kit.sdk_over(where.origin(), policy=where.policy()) as asker:
            assert [token async for token in asker.tokens()] == TOKENS
        async with kit.sdk_over(where.origin(), sdk={"max_retries": 0}, policy=where.policy(), deadline=0.5) as asker:
            with pytest.raises((FaztError, kit.error)) as caught:
                await asker.collect([], "endless")
            assert _chain(caught.value)[-1].code is Code.NET_TIMEOUT

    kit.run(main)
    assert totals == [None, 500.0]


@pytest.mark.parametrize(("given", "waits"), [({}, 600.0), ({"timeout": 7}, 7.0)])
def test_a_client_without_timeouts_leaves_a_model_the_time_that_the_sdk_does(
    kit: LlmKit, service: Service, where: Served, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], waits: float
) -> None:
    """The SDKs compare a client's timeouts with httpx's own to tell whether somebody chose them."""
    from fazt.engine import AsyncEngine, Engine

    if kit.legacy and not given:
        pytest.skip("openai 3 copies the numbers of a client for httpx 0.28, whoever chose them: give it timeout=")
    waited: list[tuple[Any, Any]] = []
    for engine in (Engine, AsyncEngine):

        def spy(self: Any, call: Any, *, profile: Any, _call: Any = engine.call, **more: Any) -> Any:
            waited.append((call.options.phases.read, call.timeout_ms))
            return _call(self, call, profile=profile, **more)

        monkeypatch.setattr(engine, "call", spy)

    async def main() -> None:
        async with kit.sdk_over(where.origin(), policy=where.policy(), **given) as asker:
            assert await asker.ask() == HELLO

    kit.run(main)
    assert waited == [(waits, max(waits, 60.0) * 1000)]


def test_timeouts_that_nobody_chose_are_shown_as_they_are() -> None:
    with fazt.Client(policy=fazt.Policy()) as client:
        assert client.timeout == httpx2.Timeout(connect=5, read=30, write=30, pool=5)
        assert repr(client.timeout) == repr(httpx2.Timeout(connect=5.0, read=30.0, write=30.0, pool=5.0))
        assert client.timeout != httpx2.Timeout(7)
        client.timeout = 5.0
        assert client.timeout.read == 5


def test_the_sdks_own_retries_go_on_working(kit: LlmKit, service: Service, where: Served, calls: Calls) -> None:
    async def main() -> None:
        async with kit.sdk_over(where.origin(), policy=where.policy(), sinks=[calls.sink]) as asker:
            assert await asker.ask("busy-2") == HELLO
            with pytest.raises(kit.sdk.BadRequestError):
                await asker.ask("said-no")

    kit.run(main)
    assert calls.all == [(None, 503), (None, 503), (None, 200), (None, 400)]


def test_failures_of_the_network_are_the_sdks_own_errors_and_are_retried(kit: LlmKit, calls: Calls) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = Served("http", closed.getsockname()[1], None)

        async def main() -> None:
            client = {"policy": nowhere.policy(), "sinks": [calls.sink]}
            async with kit.sdk_over(nowhere.origin(), sdk={"max_retries": 1}, **client) as asker:
                with pytest.raises(kit.sdk.APIConnectionError) as caught:
                    await asker.ask()
                assert _chain(caught.value)[-1].reason is Reason.CONNECT_FAILED

        kit.run(main)
    assert calls.reasons == ["connect_failed"] * 2


def test_a_silent_service_is_the_sdks_own_timeout(kit: LlmKit, service: Service, where: Served, calls: Calls) -> None:
    async def main() -> None:
        client = {"policy": where.policy(), "sinks": [calls.sink]}
        async with kit.sdk_over(where.origin(), sdk={"max_retries": 1, "timeout": 0.3}, **client) as asker:
            with pytest.raises(kit.sdk.APITimeoutError) as caught:
                await asker.ask("mute")
            assert _chain(caught.value)[-1].reason is Reason.FIRST_BYTE

    kit.run(main)
    assert calls.reasons == ["first_byte"] * 2


def refusals(where: Served) -> dict[str, tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return what refuses a call, by reason: where the SDK believes the service, arguments of client and call."""
    resolve = {HOST: ["127.0.0.1"], OTHER: ["127.0.0.1"], "inside.sdk.test": ["10.0.0.7"]}
    granted = fazt.Rule(where.origin(), addresses=LOOPBACK)
    keys = {
        "THERE": fazt.Secret("secret-of-elsewhere", domains=["elsewhere.sdk.test"]),
    }

    def held(*allow: Any, **more: Any) -> dict[str, Any]:
        return {"policy": fazt.Policy([*(allow or (granted,))], resolve=resolve, ca_file=where.ca, **more)}

    inside = f"{where.scheme}://inside.sdk.test:{where.port}"
    broken = {"breaker": {"fail_max": 1, "reset": 600}, "retry": {"attempts": 1}}
    return {
        "host_not_granted": (where.origin("unlisted.sdk.test"), held(), {}),
        "port_not_granted": (f"{where.scheme}://{HOST}:9", held(), {}),
        "scheme_not_allowed": (f"{'http' if where.ca else 'https'}://{HOST}:{where.port}", held(), {}),
        "ip_literal": (f"{where.scheme}://127.0.0.1:{where.port}", held(), {}),
        "userinfo": (f"{where.scheme}://user:word@{HOST}:{where.port}", held(), {}),
        "private_address": (inside, held(inside), {}),
        "path_not_granted": (
            where.origin(),
            held(fazt.Rule(where.origin(), addresses=LOOPBACK, paths=["/v9"])),
            {},
        ),
        "method_not_granted": (
            where.origin(),
            held(fazt.Rule(where.origin(), addresses=LOOPBACK, methods=["GET"])),
            {},
        ),
        "denied_by_rule": (where.origin(), held(deny=[where.origin()]), {}),
        "secret_unknown": (where.origin(), {**held(), "secret": "NOBODY"}, {}),
        "secret_wrong_host": (where.origin(), {**held(secrets=keys), "secret": "THERE"}, {}),
        "response_body": (where.origin(), {**held(), "max_bytes": 10}, {}),
        "bad_option": (where.origin(), held(), {"extra_headers": {"Host": "evil.test"}}),
        "breaker_open": (where.origin(), {**held(), "traffic": broken}, {"model": "busy-9"}),
    }


REFUSALS = sorted(refusals(Served("http", 1, None)))


@pytest.mark.parametrize("reason", REFUSALS)
def test_a_refusal_is_one_call_and_one_record(
    kit: LlmKit, service: Service, where: Served, calls: Calls, reason: str
) -> None:
    base, client, call = refusals(where)[reason]

    async def main() -> None:
        async with kit.sdk_over(base, sdk={"max_retries": 4}, sinks=[calls.sink], **client) as asker:
            if reason == "breaker_open":
                with pytest.raises(kit.error):  # one failure opens it; the SDK's second attempt finds it open
                    await asker.ask(**call)
                assert calls_of(service) == 1
                service.seen.clear()
            with pytest.raises(FaztError) as caught:
                await asker.ask(**call)
            error: Any = caught.value
            assert error.reason == reason
            assert isinstance(error, kit.error), "who catches the SDK's errors catches it"
            assert isinstance(error, __import__("httpx" if kit.legacy else "httpx2").RequestError)
            assert error.call_id.startswith("c_")

    kit.run(main)
    expected = ["", "breaker_open", "breaker_open"] if reason == "breaker_open" else [reason]
    assert calls.reasons == expected
    assert calls_of(service) == (1 if reason == "response_body" else 0)


@pytest.mark.parametrize("reason", ["host_not_granted", "private_address", "secret_unknown", "breaker_open"])
def test_so_is_the_refusal_of_a_stream(kit: LlmKit, service: Service, where: Served, calls: Calls, reason: str) -> None:
    base, client, call = refusals(where)[reason]
    if reason == "breaker_open":
        call = {"model": "breaker-is-open-already"}
        client["traffic"] = {"breaker": {"fail_max": 1, "reset": 600}}

    async def main() -> None:
        async with kit.sdk_over(base, sdk={"max_retries": 4}, sinks=[calls.sink], **client) as asker:
            if reason == "breaker_open":
                with pytest.raises(kit.error):
                    await asker.ask("busy-9")
                calls.sink.events.clear()
            with pytest.raises(FaztError) as caught:
                await asker.collect([], **call)
            assert caught.value.reason == reason
            assert isinstance(caught.value, kit.error)

    kit.run(main)
    assert calls.reasons[-1:] == [reason]
    assert reason == "breaker_open" or len(calls.reasons) == 1


def test_a_rate_that_is_used_up_says_when_to_ask_again_and_is_not_retried_before(
    kit: LlmKit, service: Service, where: Served, calls: Calls
) -> None:
    async def main() -> None:
        policy = where.policy(rules={"rate": 1, "burst": 1}, resolve={HOST: ["127.0.0.1"], f"{kit.name}.test": ["::1"]})
        async with kit.sdk_over(where.origin(), policy=policy, sinks=[calls.sink]) as asker:
            assert await asker.ask() == HELLO
            with pytest.raises(kit.error) as caught:
                await asker.ask()
            error: Any = caught.value
            assert error.reason is Reason.HOST_RATE
            assert error.retryable is True
            assert 0 < error.retry_after <= 60

    kit.run(main)
    assert calls.reasons == ["", "host_rate"]


def test_what_fazt_refuses_ends_at_once_and_what_the_network_does_is_the_sdks(
    kit: LlmKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every reason there is: who else adds one has to say here whether an SDK may ask again."""
    from fazt.engine import AsyncEngine, Engine

    refused = {Code.NET_BLOCKED, Code.NET_AUTH, Code.NET_SIZE, Code.NET_BUDGET, Code.NET_RATE}
    reasons, tried = list(Reason), [0]

    def fail(self: Any, call: Any, **_: Any) -> Any:
        tried[0] += 1
        raise FaztError(reasons[len(found)], "as asked")

    async def afail(self: Any, call: Any, **_: Any) -> Any:
        fail(self, call)

    monkeypatch.setattr(Engine, "call", fail)
    monkeypatch.setattr(AsyncEngine, "call", afail)
    found: dict[Reason, tuple[int, str]] = {}

    async def main() -> None:
        async with kit.sdk_over("http://x.test", policy=fazt.Policy()) as asker:
            for reason in reasons:
                tried[0] = 0
                with pytest.raises(kit.error) as caught:
                    await asker.ask()
                error = caught.value
                found[reason] = (tried[0], "refusal" if isinstance(error, FaztError) else type(error).__name__)

    kit.run(main)
    expected = {
        one: (1, "refusal")
        if CODE_OF[one] in refused or one in (Reason.BAD_OPTION, Reason.NOT_CACHED)
        else (3, "APITimeoutError" if one in TIMEOUTS else "APIConnectionError")
        for one in Reason
    }
    assert found == expected


def test_a_redirect_that_the_policy_refuses_is_not_retried(
    kit: LlmKit, service: Service, where: Served, calls: Calls
) -> None:
    async def main() -> None:
        client: dict[str, Any] = {"policy": where.policy(), "follow_redirects": True, "sinks": [calls.sink]}
        async with kit.sdk_over(where.origin(), **client) as asker:
            with pytest.raises(kit.error) as caught:
                await asker.ask("moved")
            error: Any = caught.value
            assert (error.reason, error.hop) == (Reason.HOST_NOT_GRANTED, 1)

    kit.run(main)
    assert calls.reasons == ["host_not_granted"]
    assert calls_of(service) == 1


def test_a_key_of_the_policy_takes_the_place_of_the_sdks(kit: LlmKit, service: Service, where: Served) -> None:
    """The program knows no key: fazt puts it in, for the granted host alone."""
    if where.scheme == "http":
        pytest.skip("a secret goes nowhere in clear")
    keys = {"MODEL": fazt.Secret("the-real-key-of-the-service", domains=[HOST])}  # both SDKs send theirs as a bearer

    async def main() -> None:
        async with kit.sdk_over(where.origin(), policy=where.policy(secrets=keys), secret="MODEL") as asker:
            assert await asker.ask() == HELLO

    kit.run(main)
    fields = service.seen[0][1]
    assert fields["authorization"] == "Bearer the-real-key-of-the-service"
    assert KEY not in str(fields)


def test_openai_lists_uploads_and_downloads(service: Service, where: Served, calls: Calls, tmp_path: Any) -> None:
    import openai

    big = tmp_path / "big.bin"
    big.write_bytes(bytes(range(256)) * 4096)
    with fazt.Client(policy=where.policy(), sinks=[calls.sink]) as client:
        sdk = openai.OpenAI(api_key=KEY, base_url=where.url("/v1"), http_client=client)
        assert [model.id for model in sdk.models.list()] == ["echo"]
        with big.open("rb") as file:
            made = sdk.files.create(file=file, purpose="batch")
        assert (made.bytes, made.filename) == (1 << 20, "big.bin")
        assert sdk.files.content("ab").read() == b"ab" * 10_000
        with sdk.files.with_streaming_response.content("ab") as streamed:
            assert b"".join(streamed.iter_bytes(1000)) == b"ab" * 10_000
    assert calls.all == [(None, 200)] * 4


def test_an_sdk_that_is_closed_leaves_the_shared_client_open(service: Service, where: Served) -> None:
    import anthropic
    import openai

    policy = where.policy()
    try:
        client = fazt.get_client(policy=policy)
        with openai.OpenAI(api_key=KEY, base_url=where.url("/v1"), http_client=client) as first:
            assert [model.id for model in first.with_options(max_retries=0).models.list()] == ["echo"]
        with anthropic.Anthropic(api_key=KEY, base_url=where.origin(), http_client=client) as second:
            said: Any = second.messages.create(model="echo", max_tokens=9, messages=[{"role": "user", "content": "hi"}])
            assert said.content[0].text == HELLO
        assert client.get(where.url("/v1/models")).status_code == 200
    finally:
        fazt.close_client()


def test_a_refusal_that_an_sdk_passes_on_comes_back_from_another_process(kit: LlmKit) -> None:
    async def main() -> Any:
        async with kit.sdk_over("http://unlisted.test", policy=fazt.Policy()) as asker:
            with pytest.raises(kit.error) as caught:
                await asker.ask()
            return caught.value

    error = kit.run(main)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.reason, again.call_id, str(again)) == (error.reason, error.call_id, str(error))
    assert KEY in str(error.request.headers.multi_items())
    assert KEY not in str(again.request.headers.multi_items()), "a pickle may lie about anywhere"


def test_a_client_is_what_the_sdks_ask_for() -> None:
    with fazt.Client(policy=fazt.Policy()) as client:
        assert isinstance(client, httpx2.Client)


def calls_of(service: Service) -> int:
    return len(service.seen)


def _chain(error: BaseException) -> list[Any]:
    """Return an error and what caused it, down to fazt's."""
    found: list[Any] = [error]
    while not isinstance(found[-1], FaztError) and found[-1].__cause__ is not None:
        found.append(found[-1].__cause__)
    return found
