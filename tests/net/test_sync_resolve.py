"""The resolver for callers that block: deadlines, lookups that threads share, a short cache, few threads."""

from __future__ import annotations

import threading
import time

import pytest

from fazt.errors import FaztError, Reason
from fazt.net import lookups as module
from fazt.net.resolve import parse_resolve
from fazt.net.sync_resolve import SyncResolver
from tests.net.test_resolve import Names


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


def in_threads(*calls: object) -> list[object]:
    """Run calls at the same time; returns what each returned or raised, in their order."""
    out: list[object] = [None] * len(calls)

    def run(index: int, call: object) -> None:
        try:
            out[index] = call()  # type: ignore[operator]
        except FaztError as error:
            out[index] = error.reason

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return out


def test_static_names_never_fall_back() -> None:
    names = Names()
    resolver = SyncResolver(parse_resolve("a.test=192.0.2.9"), lookup=names)
    assert resolver.resolve("a.test", 443) == ("192.0.2.9",)
    assert names.asked == []


def test_a_name_is_looked_up_once_for_a_while() -> None:
    names = Names(a_test=("192.0.2.1", "2001:db8::1"))
    resolver = SyncResolver(lookup=names)
    assert resolver.resolve("a.test") == resolver.resolve("a.test") == ("192.0.2.1", "2001:db8::1")
    assert names.asked == ["a.test"]


def test_without_a_cache_it_is_looked_up_each_time() -> None:
    names = Names()
    resolver = SyncResolver(lookup=names, ttl=0)
    resolver.resolve("a.test")
    resolver.resolve("a.test")
    assert names.asked == ["a.test", "a.test"]


def test_threads_that_ask_for_one_name_share_the_lookup() -> None:
    names = Names(a_test=("192.0.2.7",))
    names.gate.clear()
    resolver = SyncResolver(lookup=names)

    def open_gate() -> None:
        end = soon()
        while not (job := resolver._jobs.get("a.test")) or job.waiting < 5:
            assert time.monotonic() < end
            time.sleep(0.001)
        names.gate.set()

    calls = [lambda: resolver.resolve("a.test", deadline=soon())] * 5
    assert in_threads(*calls, open_gate)[:5] == [("192.0.2.7",)] * 5
    assert names.asked == ["a.test"]
    assert not resolver._jobs


@pytest.mark.parametrize(
    "answer", [OSError(-2, "Name or service not known"), (), ("192.0.2.1",) * 257, ValueError("x")]
)
def test_a_name_that_cannot_be_resolved(answer: BaseException | tuple[str, ...]) -> None:
    resolver = SyncResolver(lookup=Names(a_test=answer))
    with pytest.raises(FaztError) as caught:
        resolver.resolve("a.test", 443, deadline=soon())
    assert caught.value.reason is Reason.DNS_FAILED
    assert caught.value.detail is not None
    assert caught.value.detail.startswith("a.test port 443: ")
    assert not resolver._jobs


def test_the_deadline_ends_waiting_and_the_answer_serves_the_next() -> None:
    names = Names(a_test=("192.0.2.7",))
    names.gate.clear()
    resolver = SyncResolver(lookup=names)
    for deadline in (soon(0.02), soon(-1)):
        with pytest.raises(FaztError) as caught:
            resolver.resolve("a.test", deadline=deadline)
        assert caught.value.reason is Reason.DNS
    names.gate.set()
    assert resolver.resolve("a.test", deadline=soon()) == ("192.0.2.7",)
    assert len(names.asked) <= 2


def test_a_lookup_that_nobody_waits_for_any_more_is_not_begun() -> None:
    names = Names()
    names.gate.clear()
    resolver = SyncResolver(lookup=names, threads=1)
    calls = [
        lambda: resolver.resolve("a.test", deadline=soon(0.1)),
        lambda: resolver.resolve("b.test", deadline=soon(0.1)),
    ]
    assert in_threads(*calls) == [Reason.DNS, Reason.DNS]
    names.gate.set()
    assert resolver.resolve("c.test", deadline=soon()) == ("192.0.2.1",)
    assert len([name for name in names.asked if name != "c.test"]) == 1


def test_beyond_the_queue_a_lookup_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    names = Names()
    names.gate.clear()
    resolver = SyncResolver(lookup=names, threads=1)
    calls = [lambda name=name: resolver.resolve(name, deadline=soon(0.3)) for name in ("a.a", "b.b", "c.c", "d.d")]
    outcome = in_threads(*calls)
    assert Reason.DNS_FAILED in outcome
    assert outcome.count(Reason.DNS) >= 2
    names.gate.set()
