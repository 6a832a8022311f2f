"""The pipeline under its driver: order of the gates, what each takes and gives back, one record whatever happens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.calls import (
    APP,
    OTHER,
    Answer,
    FixedPolicies,
    FixedVault,
    Ledger,
    ScriptedWire,
    policy,
    profile,
    rule,
    secret,
)

from fazt.core.budget import Invocation
from fazt.core.cache.responses import ResponseCache
from fazt.core.call import Request, Response
from fazt.core.concurrency import Slots
from fazt.core.limits import clamp_override
from fazt.core.ratelimit import Buckets
from fazt.core.record import CallRecord
from fazt.core.rules import expand_target
from fazt.engine import AsyncEngine
from fazt.errors import CODE_OF, FaztError, Reason, StaleConnectionError, StoreError
from fazt.stores.sqlite.secret_rows import NewSecret
from fazt.stores.sqlite.store import Store

CANARY = "canary-3f9d2c71b8e64a05"
URL = "https://api.example.com/v1/items?token=in-the-query"


class Clock:
    """Monotonic seconds under the test's control."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """An engine with scripted surroundings."""

    def __init__(self, held: Any, *answers: Answer, step: Any = None, values: dict[str, str] | None = None) -> None:
        self.policies = FixedPolicies(held)
        self.wire = ScriptedWire(*answers, step=step)
        self.ledger = Ledger()
        self.clock = Clock()
        self.engine = AsyncEngine(
            policies=self.policies,
            wire=self.wire,
            vault=FixedVault({"KEY": CANARY, **(values or {})}),
            sink=self.ledger,
            slots=Slots(),
            buckets=Buckets(),
            cache=ResponseCache.for_functions(10, 1 << 20),
            clock=self.clock,
            wall=lambda: 1_700_000_000.0,
        )

    def call(self, url: str = URL, *, invocation: Invocation | None = None, **options: Any) -> Response:
        request = Request(url, app=options.pop("app", APP.id), door="functions", **options)
        return asyncio.run(
            self.engine.call(request, profile=profile(self.policies.current, request.app), invocation=invocation)
        )

    def refused(self, url: str = URL, **options: Any) -> FaztError:
        with pytest.raises(FaztError) as caught:
            self.call(url, **options)
        return caught.value

    def at_rest(self) -> bool:
        """Whether nothing is held any more."""
        return self.engine.slots.in_flight() == 0 and all(connection.ended for connection in self.wire.made)


def granted(**settings: Any) -> Any:
    return policy(rule("api.example.com", **settings), secrets=[secret()])


def test_a_call_is_made_and_recorded() -> None:
    bench = Bench(granted(), Answer(201, (("content-type", "text/plain"),), b"made"))
    response = bench.call(method="post", body=b"abc")
    assert (response.status, response.body, str(response.url)) == (201, b"made", URL)
    (row,) = bench.ledger.rows
    assert (row.method, row.host, row.port, row.path) == ("POST", "api.example.com", 443, "/v1/items")
    assert (row.status, row.code, row.request_bytes, row.response_bytes) == (201, None, 3, 4)
    assert row.rule_id == next(bench.policies.current.rules.rules()).id
    assert row.call_id == response.call_id
    assert bench.at_rest()


def test_what_goes_on_the_wire_is_the_canonical_request() -> None:
    bench = Bench(granted())
    bench.call("https://API.example.com.:443/a/../b?x=1#f", headers=(("Host", "evil"), ("X-A", "1")))
    ((target, head, body),) = bench.wire.sent
    assert head.startswith(b"GET /b?x=1 HTTP/1.1\r\n")
    assert b"\r\nHost: api.example.com\r\n" in head
    assert b"evil" not in head
    assert b"\r\nX-A: 1\r\n" in head
    assert b"\r\nAccept-Encoding: identity\r\n" in head
    assert (target.host, target.port, target.app, body) == ("api.example.com", 443, APP.id, None)


GATES: list[tuple[str, dict[str, Any], Reason]] = [
    ("gopher://api.example.com/", {}, Reason.SCHEME_NOT_ALLOWED),
    ("https://user@api.example.com/", {}, Reason.USERINFO),
    ("https://127.1/", {}, Reason.IP_LITERAL),
    ("https:///", {}, Reason.BAD_URL),
    ("https://other.example.com/", {}, Reason.HOST_NOT_GRANTED),
    ("http://api.example.com/", {}, Reason.SCHEME_NOT_ALLOWED),
    ("https://api.example.com:8443/", {}, Reason.PORT_NOT_GRANTED),
    (URL, {"method": "TRACE"}, Reason.BAD_OPTION),
    (URL, {"headers": (("X", "a\r\nb"),)}, Reason.BAD_OPTION),
    (URL, {"timeout_ms": -1}, Reason.BAD_OPTION),
    (URL, {"auth": "NOPE"}, Reason.SECRET_UNKNOWN),
    (URL, {"app": OTHER.id}, Reason.HOST_NOT_GRANTED),
    (URL, {"app": "fazt_app_gone"}, Reason.HOST_NOT_GRANTED),
]


@pytest.mark.parametrize(("url", "options", "reason"), GATES)
def test_F11_every_refusal_is_recorded_once_and_touches_nothing(
    url: str, options: dict[str, Any], reason: Reason
) -> None:
    bench = Bench(granted(rate=1, burst=1))
    error = bench.refused(url, **options)
    assert error.reason is reason
    (row,) = bench.ledger.rows
    assert (row.code, row.reason) == (CODE_OF[reason].value, reason.value)
    assert row.call_id == error.call_id
    assert not bench.wire.made
    assert len(bench.engine.buckets) == 0
    assert bench.at_rest()


def test_a_body_over_the_limit_is_refused_before_dialling() -> None:
    bench = Bench(policy(rule("api.example.com"), limits={"net.max_req_body": 1024}))
    assert bench.refused(method="POST", body=b"x" * 1025).reason is Reason.REQUEST_BODY
    assert not bench.wire.made


def test_a_record_keeps_no_more_of_what_a_script_says_than_it_may_show() -> None:
    bench = Bench(granted())
    bench.refused(auth="A" * 250_000, method="M" * 250_000)
    assert bench.refused(auth="A" * 250_000).reason is Reason.SECRET_UNKNOWN
    for row in bench.ledger.rows:
        assert len(repr(row)) < 1500


def test_F21_no_rule_raises_the_response_cap_above_the_hard_cap() -> None:
    bench = Bench(granted(max_response=1 << 40))
    bench.call()
    assert bench.wire.caps == [10 * 1024 * 1024]


def test_F18_the_shortest_of_option_rule_and_limit_is_the_deadline() -> None:
    bench = Bench(granted(timeout_ms=3000))
    bench.call(timeout_ms=2500)
    bench.call(timeout_ms=60_000)
    assert [deadline - bench.clock.now for deadline in bench.wire.deadlines] == [2.5, 3.0]


def test_F18_the_rule_of_a_redirect_s_host_shortens_the_call() -> None:
    slow, fast = rule("api.example.com", timeout_ms=3000), rule("b.example.com", timeout_ms=1000)
    for first, second, deadlines in [(slow, fast, [3.0, 1.0]), (fast, slow, [1.0, 1.0])]:
        bench = Bench(policy(first, second), moved(f"https://{second.pattern}/"), Answer())
        bench.call(f"https://{first.pattern}/")
        assert [deadline - bench.clock.now for deadline in bench.wire.deadlines] == deadlines


def test_F19_calls_of_one_invocation_share_one_budget() -> None:
    bench = Bench(granted())
    run = Invocation(bench.clock.now + 5.0, net_ms=4000, max_calls=5)

    def slow(name: str) -> None:
        if name == "read":
            bench.clock.now += 2.0

    bench.wire.step = slow
    bench.call(invocation=run)
    bench.call(invocation=run)
    assert [round(d - 1000.0, 3) for d in bench.wire.deadlines] == [4.0, 4.0]
    assert bench.refused(invocation=run).reason is Reason.NET_BUDGET_EXHAUSTED


def test_the_sixth_call_is_refused_and_recorded() -> None:
    bench = Bench(granted())
    run = Invocation(bench.clock.now + 5.0, net_ms=4000, max_calls=5)
    for _ in range(5):
        bench.call(invocation=run)
    error = bench.refused(invocation=run)
    assert (error.reason, error.retryable) == (Reason.CALLS_EXCEEDED, False)
    assert len(bench.ledger.rows) == 6


def test_F23_a_refused_call_spends_no_token() -> None:
    def refuse(name: str) -> None:
        if name == "acquire":
            raise FaztError(Reason.PRIVATE_ADDRESS, "refused", address_class="private")

    bench = Bench(granted(rate=60, burst=1), step=refuse)
    assert bench.refused().reason is Reason.PRIVATE_ADDRESS
    assert bench.ledger.rows[-1].address_class == "private"
    bench.wire.step = lambda _name: None
    bench.call()  # the one token of the bucket is still there
    error = bench.refused()
    assert error.reason is Reason.HOST_RATE
    assert error.retry_after == pytest.approx(1.0)


def test_F23_a_failed_connection_spends_its_token() -> None:
    def fail(name: str) -> None:
        if name == "connect":
            raise FaztError(Reason.CONNECT_FAILED, "no")

    bench = Bench(granted(rate=60, burst=1), step=fail)
    assert bench.refused().reason is Reason.CONNECT_FAILED
    assert bench.refused().reason is Reason.HOST_RATE


def calls_passed(bench: Bench, url: str, **options: Any) -> int:
    """Make calls at one moment until one is refused."""
    for count in range(1000):
        try:
            bench.call(url, **options)
        except FaztError as error:
            assert error.reason is Reason.HOST_RATE
            return count
    raise AssertionError("no rate limit")


def test_F23_rules_of_one_host_keep_each_its_own_rate() -> None:
    slow = rule("api.example.com", paths=["/slow"], rate=6, burst=1)
    fast = rule("api.example.com", paths=["/fast"], rate=600, burst=20)
    bench = Bench(policy(slow, fast))
    slow_calls = fast_calls = 0
    for _ in range(60):
        bench.clock.now += 1.0
        fast_calls += calls_passed(bench, "https://api.example.com/fast")
        slow_calls += calls_passed(bench, "https://api.example.com/slow")
    assert slow_calls == 6
    assert fast_calls == 20 + 59 * 10


def test_F23_rules_of_one_command_share_a_bucket() -> None:
    pair = expand_target("api.example.com", scope=APP.id, http=True, paths=["/a", "/b"], rate=60, burst=3)
    bench = Bench(policy(*pair))
    bench.call("http://api.example.com/a")
    bench.call("https://api.example.com/b")
    assert calls_passed(bench, "https://api.example.com/a") == 1
    bench.policies.current = policy(*(replace(one, rate=600) for one in pair))
    bench.clock.now += 0.2
    assert calls_passed(bench, "http://api.example.com/b") == 0  # the live bucket: until now it filled at the old rate
    bench.clock.now += 0.2
    assert calls_passed(bench, "http://api.example.com/b") == 2


def test_F23_an_app_with_a_lower_rate_of_its_own_takes_nothing_from_the_others() -> None:
    held = policy(rule("api.example.com", app=""), limits={"net.rate_limit": 600, "net.rate_burst": 20})
    own = clamp_override(held.limits, {"net.rate_limit": 6, "net.rate_burst": 1})
    bench = Bench(replace(held, overrides={APP.id: own}))
    first = second = 0
    for _ in range(60):
        bench.clock.now += 1.0
        first += calls_passed(bench, URL)
        second += calls_passed(bench, URL, app=OTHER.id)
    assert first == 6
    assert second == 20 + 59 * 10


def test_F17_a_cache_hit_takes_neither_slot_nor_token_and_is_recorded() -> None:
    bench = Bench(granted(cache_ttl=60, rate=60, burst=1))
    first = bench.call()
    for _ in range(4):
        bench.engine.slots.acquire(APP.id, app_cap=None, global_cap=None)
    bench.engine.slots.acquire(APP.id, app_cap=None, global_cap=None)
    again = bench.call()
    assert (first.body, first.cache, again.body, again.cache) == (b"ok", "miss", b"ok", "hit")
    assert len(bench.wire.sent) == 1
    assert [row.cache for row in bench.ledger.rows] == ["miss", "hit"]


def test_concurrent_identical_misses_make_one_call() -> None:
    bench = Bench(granted(cache_ttl=60))

    async def main() -> list[Response]:
        gate = asyncio.Event()
        acquire = bench.wire.acquire

        async def slow(*args: Any, **options: Any) -> Any:
            await gate.wait()
            return await acquire(*args, **options)

        bench.wire.acquire = slow  # type: ignore[method-assign]
        request = Request(URL, app=APP.id, door="functions")
        held = profile(bench.policies.current)
        tasks = [asyncio.create_task(bench.engine.call(request, profile=held)) for _ in range(10)]
        for _ in range(5):
            await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(*tasks)

    assert {response.body for response in asyncio.run(main())} == {b"ok"}
    assert len(bench.wire.sent) == 1
    assert len(bench.ledger.rows) == 10
    assert len(bench.engine.flights) == 0
    stats = bench.engine.cache.stats()
    assert (stats.hits, stats.misses) == (9, 1)


def moved(where: str, status: int = 302) -> Answer:
    return Answer(status, (("location", where),), b"")


def test_F9_exactly_n_redirects_are_followed() -> None:
    held = policy(rule("api.example.com"), limits={"net.max_redirects": 3})
    hops = [moved(f"/{n}") for n in range(3)]
    assert Bench(held, *hops, Answer()).call().status == 200
    bench = Bench(held, *hops, moved("/4"), Answer())
    error = bench.refused()
    assert (error.reason, error.hop) == (Reason.REDIRECT_LIMIT, 4)
    assert [hop.url for hop in bench.ledger.rows[0].redirects] == [f"https://api.example.com/{n}" for n in range(3)]


def test_F30a_a_redirect_is_gated_like_a_first_request() -> None:
    for where, reason in [
        ("http://169.254.169.254/", Reason.IP_LITERAL),
        ("https://u:p@api.example.com/", Reason.USERINFO),
        ("https://api.example.com:444/", Reason.PORT_NOT_GRANTED),
        ("https://evil.example/", Reason.HOST_NOT_GRANTED),
        ("http://api.example.com/", Reason.SCHEME_NOT_ALLOWED),
        ("ftp://api.example.com/", Reason.SCHEME_NOT_ALLOWED),
    ]:
        bench = Bench(granted(), moved(where), Answer())
        error = bench.refused()
        assert (where, error.reason, error.hop) == (where, reason, 1)
        assert len(bench.wire.sent) == 1
        assert bench.at_rest()


def test_F30a_a_redirect_takes_a_token_of_its_own_host() -> None:
    held = policy(rule("api.example.com"), rule("b.example.com", rate=60, burst=1))
    bench = Bench(held, moved("https://b.example.com/"), Answer())
    bench.call()
    bench.wire.answers = [moved("https://b.example.com/"), Answer()]
    error = bench.refused()
    assert (error.reason, error.hop) == (Reason.HOST_RATE, 1)


@pytest.mark.parametrize(("kind", "key"), [("bearer", ""), ("header", "X-Api-Key"), ("query", "api_key")])
def test_F7_a_secret_never_follows_to_another_origin(kind: str, key: str) -> None:
    held = policy(rule("api.example.com"), rule("b.example.com"), secrets=[secret(kind=kind, key=key)])
    bench = Bench(held, moved("https://b.example.com/x"), Answer())
    bench.call(auth="KEY", headers=(("Cookie", "a=b"),))
    first, second = (head for _, head, _ in bench.wire.sent)
    assert CANARY.encode() in first
    assert CANARY.encode() not in second
    assert b"cookie" not in second.lower()
    assert b"referer" not in (first + second).lower()


def test_F6_no_referer_is_sent_after_a_redirect() -> None:
    held = policy(rule("api.example.com"), secrets=[secret(kind="query", key="api_key")])
    bench = Bench(held, moved("/next"), Answer())
    bench.call(auth="KEY")
    assert all(b"referer" not in head.lower() for _, head, _ in bench.wire.sent)
    assert all(CANARY.encode() in head for _, head, _ in bench.wire.sent)  # same origin: it stays


def test_F5_no_output_holds_the_secret_whatever_fails() -> None:
    for step in ("send", "head", "read"):

        def fail(name: str, step: str = step) -> None:
            if name == step:
                raise RuntimeError(f"while sending ?api_key={CANARY}")

        held = policy(rule("api.example.com"), secrets=[secret(kind="query", key="api_key")])
        bench = Bench(held, step=fail)
        error = bench.refused(auth="KEY")
        assert error.reason is Reason.INTERNAL
        seen = repr(error) + str(error) + str(error.detail) + repr(bench.ledger.rows) + repr(error.public())
        assert CANARY not in seen
        assert "in-the-query" not in seen


def test_F8_an_echoed_secret_is_scrubbed_and_counted() -> None:
    echo = Answer(200, (("x-echo", f"Bearer {CANARY}"),), f"you sent {CANARY}".encode())
    bench = Bench(granted(), echo)
    response = bench.call(auth="KEY")
    assert CANARY not in str(response.headers) + response.body.decode()
    assert bench.ledger.rows[0].scrubbed == 2
    assert bench.ledger.rows[0].auth == "KEY"


def test_a_rule_can_inject_a_secret_by_itself() -> None:
    bench = Bench(granted(inject="KEY"))
    bench.call(headers=(("authorization", "Bearer mine"),))
    ((_, head, _),) = bench.wire.sent
    assert f"Authorization: Bearer {CANARY}\r\n".encode() in head
    assert b"mine" not in head


def test_F29_a_secret_that_cannot_be_read_refuses_the_call() -> None:
    bench = Bench(granted())

    def broken(_scope: str, _name: str, **_version: int) -> str:
        raise StoreError("the key file is gone")

    bench.engine.vault.value = broken  # type: ignore[method-assign]
    assert bench.refused(auth="KEY").reason is Reason.STORE
    assert not bench.wire.sent
    assert bench.refused(auth="MISSING").reason is Reason.SECRET_UNKNOWN


def test_F8_a_secret_bound_elsewhere_between_decision_and_injection_is_not_sent(tmp_path: Path) -> None:
    """The value is asked for by the version that was judged, whatever the newest snapshot says."""
    old, new = "value-for-the-first-host", "value-for-another-host"
    with Store.open(tmp_path / "data") as store:
        app, _ = store.apps.ensure("hello")
        store.rules.allow([rule("api.example.com", app=app.id)], frozenset())
        store.secrets.set(NewSecret("KEY", old, domains=("api.example.com",)))
        source = store.source
        bench = Bench(source.current)
        bench.engine.policies, bench.engine.vault = source, store.secrets

        def rebind(name: str) -> None:
            if name == "acquire":
                store.secrets.set(NewSecret("KEY", new, domains=("other.example.com",)))
                assert source.refresh()

        bench.wire.step = rebind
        error = bench.refused(auth="KEY", app=app.id)
    assert (error.reason, error.retryable) == (Reason.STORE, True)
    assert not bench.wire.sent
    assert bench.at_rest()


def test_F24_one_snapshot_decides_a_call_to_its_end() -> None:
    bench = Bench(granted(), moved("/next"), Answer())

    def revoke(name: str) -> None:
        if name == "head":
            bench.policies.current = replace(policy(), revision=2)

    bench.wire.step = revoke
    assert bench.call().status == 200
    assert bench.ledger.rows[0].revision == 1
    assert bench.refused().reason is Reason.HOST_NOT_GRANTED
    assert bench.ledger.rows[1].revision == 2


@pytest.mark.parametrize(
    ("method", "sent", "again"), [("GET", True, True), ("POST", False, True), ("POST", True, False)]
)
def test_a_stale_connection_is_retried_once_when_that_is_safe(method: str, sent: bool, again: bool) -> None:
    failures = [StaleConnectionError(sent=sent)]

    def stale(name: str) -> None:
        if name == "send" and failures:
            raise failures.pop()

    bench = Bench(granted(), step=stale)
    if again:
        assert bench.call(method=method).status == 200
    else:
        assert bench.refused(method=method).reason is Reason.CONNECT_FAILED
    assert len(bench.ledger.rows) == 1
    assert bench.at_rest()


def test_a_cancelled_call_is_recorded_and_gives_everything_back() -> None:
    bench = Bench(granted(rate=60, burst=1))

    async def main() -> None:
        started = asyncio.Event()

        async def hang(*_args: Any, **_options: Any) -> Any:
            started.set()
            await asyncio.Event().wait()

        bench.wire.acquire = hang  # type: ignore[method-assign]
        request = Request(URL, app=APP.id, door="functions")
        task = asyncio.create_task(bench.engine.call(request, profile=profile(bench.policies.current)))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    (row,) = bench.ledger.rows
    assert (row.code, row.reason) == ("NET_TIMEOUT", "aborted")
    assert bench.at_rest()
    bench.wire.acquire = ScriptedWire().acquire  # type: ignore[method-assign]
    assert bench.call().status == 200  # the token came back: no connection was tried


def test_a_connection_that_cannot_be_closed_holds_nothing_back() -> None:
    """As when what is left of a call is collected after its event loop was closed."""

    def fail(name: str) -> None:
        if name == "read":
            raise FaztError(Reason.BODY, "scripted")

    def closed() -> None:
        raise RuntimeError("Event loop is closed")

    bench = Bench(granted(), step=fail)
    acquire = bench.wire.acquire

    async def broken(*args: Any, **options: Any) -> Any:
        connection = await acquire(*args, **options)
        connection.abort = closed  # type: ignore[method-assign]
        return connection

    bench.wire.acquire = broken  # type: ignore[method-assign]
    assert bench.refused().reason is Reason.BODY
    assert bench.engine.slots.in_flight() == 0
    assert [row.reason for row in bench.ledger.rows] == ["body"]


def test_a_call_that_is_collected_after_its_loop_ended_gives_everything_back() -> None:
    bench = Bench(granted(cache_ttl=9))
    loop = asyncio.new_event_loop()
    held = profile(bench.policies.current)

    async def hang(*_args: Any, **_options: Any) -> Any:
        await asyncio.Event().wait()

    bench.wire.acquire = hang  # type: ignore[method-assign]
    calls = [bench.engine.call(Request(URL, app=APP.id, door="functions"), profile=held) for _ in range(2)]

    async def main() -> None:
        for call in calls:  # the first asks the network, the second waits for its answer
            call.send(None)

    loop.run_until_complete(main())
    loop.close()
    for call in calls:
        call.close()
    assert bench.engine.slots.in_flight() == 0
    assert len(bench.engine.flights) == 0
    assert [row.reason for row in bench.ledger.rows] == ["aborted", "aborted"]


class Watchful:
    """A lock in the middle of which something happens, as when the collector runs; waiting for itself is an error."""

    def __init__(self) -> None:
        self.held = False
        self.meanwhile: Callable[[], None] | None = None

    def __enter__(self) -> None:
        assert not self.held, "the lock would be waited for by who holds it"
        self.held = True
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()

    def __exit__(self, *_: object) -> None:
        self.held = False


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("part", ["slots", "buckets"])
def test_a_call_that_is_collected_in_the_middle_of_another_waits_for_nothing(part: str, elsewhere: bool) -> None:
    bench = Bench(granted(rate=60, burst=2))
    lock = Watchful()
    setattr(bench.engine, part, {"slots": Slots, "buckets": Buckets}[part](lock))
    request = Request(URL, app=APP.id, door="functions")
    held = profile(bench.policies.current)
    acquire = bench.wire.acquire
    threads: set[int] = set()

    class Sink:
        def append(self, record: CallRecord) -> None:
            threads.add(threading.get_ident())
            bench.ledger.append(record)

    bench.engine.sink = Sink()

    async def hang(*_args: Any, **_options: Any) -> Any:
        await asyncio.Event().wait()

    async def main() -> None:
        bench.wire.acquire = hang  # type: ignore[method-assign]
        lost = bench.engine.call(request, profile=held)
        lost.send(None)  # it has a slot and a token
        bench.wire.acquire = acquire  # type: ignore[method-assign]

        def collect() -> None:
            if elsewhere:
                thread = threading.Thread(target=lost.close)
                thread.start()
                thread.join()
            else:
                lost.close()

        lock.meanwhile = collect
        assert (await bench.engine.call(request, profile=held)).status == 200
        await asyncio.sleep(0)
        assert (await bench.engine.call(request, profile=held)).status == 200  # with the token that came back

    asyncio.run(main())
    assert bench.engine.slots.in_flight() == 0
    assert threads == {threading.get_ident()}
    assert sorted(row.reason or "" for row in bench.ledger.rows) == ["", "", "aborted"]


FAULTS = st.one_of(
    st.sampled_from(list(Reason)).map(lambda reason: FaztError(reason, "scripted")),
    st.sampled_from([OSError(CANARY), ValueError(CANARY), StoreError(CANARY), KeyError(CANARY)]),
    st.sampled_from([True, False]).map(lambda sent: StaleConnectionError(sent=sent)),
    st.just(asyncio.CancelledError()),
)


@given(
    st.dictionaries(st.integers(0, 14), FAULTS, max_size=4),
    st.lists(st.sampled_from(["/next", "https://b.example.com/", "https://10.0.0.1/", "/v1/items"]), max_size=3),
    st.booleans(),
)
def test_whatever_fails_there_is_one_record_and_nothing_is_held(
    faults: dict[int, BaseException], hops: list[str], with_secret: bool
) -> None:
    """Hypothesis: let any effect fail at any step."""
    count = 0

    def step(_name: str) -> None:
        nonlocal count
        at, count = count, count + 1
        if at in faults:
            raise faults[at]

    held = policy(rule("api.example.com", rate=600, burst=9, cache_ttl=9), rule("b.example.com"), secrets=[secret()])
    bench = Bench(held, *[moved(where) for where in hops], Answer(200, (), CANARY.encode()), step=step)
    run = Invocation(bench.clock.now + 5.0, net_ms=4000, max_calls=5)
    outcome: object = None
    try:
        outcome = bench.call(auth="KEY" if with_secret else None, invocation=run)
        shown = repr(outcome)
    except FaztError as error:
        outcome = error
        assert error.code is CODE_OF[error.reason]
        assert error.call_id == bench.ledger.rows[0].call_id
        shown = repr(error) + str(error) + repr(error.public()) + str(error.detail)
        assert error.__cause__ is None
    except asyncio.CancelledError:
        shown = ""
    (row,) = bench.ledger.rows
    assert CANARY not in shown + repr(row)
    assert bench.at_rest()
    assert len(bench.engine.flights) == 0
    assert run.calls == 1
    if isinstance(outcome, Response):
        assert row.status == outcome.status
        assert row.code is None
    else:
        assert row.code is not None
