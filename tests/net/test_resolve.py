"""The resolver: static names, deadlines, shared lookups, a short cache, a bounded number of threads."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence

import pytest

from fazt.errors import ConfigError, FaztError, Reason
from fazt.net import lookups as module
from fazt.net.lookups import system_lookup
from fazt.net.resolve import Resolver, parse_resolve
from tests.net.origin import LOOPS, run, soon, until


class Names:
    """A scripted lookup."""

    def __init__(self, **answers: Sequence[str] | BaseException) -> None:
        self.answers = {name.replace("_", "."): answer for name, answer in answers.items()}
        self.asked: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        assert self.gate.wait(10)
        answer = self.answers.get(host, ("192.0.2.1",))
        if isinstance(answer, BaseException):
            raise answer
        return answer


def test_parses_static_names() -> None:
    text = " API.Example.com.=192.0.2.1,2001:DB8::0001\n bücher.example=::1 a.test=127.0.0.1 "
    assert parse_resolve(text) == {
        "api.example.com": ("192.0.2.1", "2001:db8::1"),
        "xn--bcher-kva.example": ("::1",),
        "a.test": ("127.0.0.1",),
    }
    assert parse_resolve("") == {}


def test_the_last_entry_for_a_name_counts() -> None:
    assert parse_resolve("a.test=192.0.2.1 A.test=192.0.2.2") == {"a.test": ("192.0.2.2",)}


@pytest.mark.parametrize(
    "entry",
    [
        "a.test",
        "=192.0.2.1",
        "a.test=",
        "a.test=192.0.2.1,",
        "a.test=[::1]",
        "a.test=fe80::1%eth0",
        "a.test=127.1",
        "a.test=0x7f.0.0.1",
        "a.test=b.test",
        "a.test=192.0.2.1:80",
        "192.0.2.1=192.0.2.2",
        "a/b=192.0.2.1",
        "user@a.test=192.0.2.1",
    ],
)
def test_refuses_bad_static_names(entry: str) -> None:
    with pytest.raises(ConfigError):
        parse_resolve(f"good.test=192.0.2.1 {entry}")


@pytest.mark.parametrize("loop", LOOPS)
def test_static_names_never_fall_back(loop: str) -> None:
    names = Names()
    resolver = Resolver(parse_resolve("a.test=192.0.2.9"), lookup=names)
    assert run(loop, lambda: resolver.resolve("a.test", 443)) == ("192.0.2.9",)
    assert names.asked == []


@pytest.mark.parametrize("loop", LOOPS)
def test_concurrent_lookups_of_a_name_share_one(loop: str) -> None:
    names = Names(a_test=("192.0.2.1", "192.0.2.2"))

    async def main() -> None:
        names.gate.clear()
        resolver = Resolver(lookup=names)
        asking = [asyncio.ensure_future(resolver.resolve("a.test", deadline=soon())) for _ in range(20)]
        other = asyncio.ensure_future(resolver.resolve("b.test", deadline=soon()))
        await until(lambda: len(names.asked) == 2)
        names.gate.set()
        assert set(await asyncio.gather(*asking)) == {("192.0.2.1", "192.0.2.2")}
        await other
        assert sorted(names.asked) == ["a.test", "b.test"]

    run(loop, main)


def test_answers_are_kept_for_a_short_time_and_failures_are_not() -> None:
    names = Names(bad_test=socket.gaierror(-2, "Name or service not known"))

    async def main() -> None:
        resolver = Resolver(lookup=names, ttl=0.05)
        await resolver.resolve("a.test")
        await resolver.resolve("a.test")
        assert names.asked == ["a.test"]
        await asyncio.sleep(0.06)
        await resolver.resolve("a.test")
        assert names.asked == ["a.test", "a.test"]
        for _ in range(2):
            with pytest.raises(FaztError) as caught:
                await resolver.resolve("bad.test", 443)
            assert caught.value.reason is Reason.DNS_FAILED
            assert "bad.test" not in caught.value.message
            assert caught.value.detail is not None
            assert "not known" in caught.value.detail
        assert names.asked.count("bad.test") == 2

    asyncio.run(main())


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_ENTRIES", 3)

    async def main() -> None:
        resolver = Resolver(lookup=Names())
        for index in range(10):
            await resolver.resolve(f"n{index}.test")
        assert len(resolver._answers._found) == 3

    asyncio.run(main())


TOO_MANY = tuple(f"93.184.{n // 256}.{n % 256}" for n in range(257))


@pytest.mark.parametrize("answer", [(), TOO_MANY, UnicodeError("label too long"), OSError("broken"), ValueError("odd")])
def test_whatever_a_lookup_does_ends_coded(answer: Sequence[str] | BaseException) -> None:
    async def main() -> None:
        resolver = Resolver(lookup=Names(a_test=answer))
        with pytest.raises(FaztError) as caught:
            await resolver.resolve("a.test", deadline=soon())
        assert caught.value.reason is Reason.DNS_FAILED
        assert await resolver.resolve("b.test", deadline=soon()) == ("192.0.2.1",)

    asyncio.run(main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_hanging_lookup_neither_blocks_nor_leaks(loop: str) -> None:
    names = Names()

    async def main() -> None:
        names.gate.clear()
        resolver = Resolver(lookup=names, threads=3)
        for _ in range(5):  # the same names again and again: they join the lookups that hang
            results = await asyncio.gather(
                *(resolver.resolve(f"h{index}.test", deadline=soon(0.02)) for index in range(10)),
                return_exceptions=True,
            )
            assert {getattr(result, "reason", None) for result in results} == {Reason.DNS}
        await until(lambda: len(names.asked) == 3)
        assert resolver._threads._count == 3
        assert len(resolver._threads._queue) == 0  # nobody waits for the rest any more
        assert len(resolver._jobs) == 3
        names.gate.set()
        assert await resolver.resolve("later.test", deadline=soon()) == ("192.0.2.1",)
        await until(lambda: not resolver._jobs)

    run(loop, main)


def test_a_domain_whose_name_server_hangs_leaves_threads_to_the_others() -> None:
    names = Names()

    async def main() -> None:
        names.gate.clear()
        resolver = Resolver(
            lookup=lambda host: names(host) if host.endswith("slow.test") else ("192.0.2.7",), threads=8
        )
        for batch in range(4):  # made-up names, each given up while its lookup hangs
            await asyncio.gather(
                *(resolver.resolve(f"n{batch}-{index}.slow.test", deadline=soon(0.02)) for index in range(5)),
                return_exceptions=True,
            )
        await until(lambda: len(names.asked) == 2)
        patient = asyncio.ensure_future(resolver.resolve("last.slow.test", deadline=soon()))
        for index in range(20):
            assert await resolver.resolve(f"h{index}.test", deadline=soon()) == ("192.0.2.7",)
        more = [resolver.resolve(f"m{index}.test", deadline=soon()) for index in range(20)]  # all threads, and back
        assert set(await asyncio.gather(*more)) == {("192.0.2.7",)}
        assert await resolver.resolve("one.test", deadline=soon(5)) == ("192.0.2.7",)
        assert len(names.asked) == 2
        assert not patient.done()
        names.gate.set()
        assert await patient == ("192.0.2.1",)  # it waited for its turn and got it
        await until(lambda: not resolver._jobs and not resolver._threads._running)

    asyncio.run(main())


def test_too_many_waiting_names_fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 4)
    names = Names()

    async def main() -> None:
        names.gate.clear()
        resolver = Resolver(lookup=names, threads=1)
        asking = [asyncio.ensure_future(resolver.resolve(f"h{index}.test", deadline=soon())) for index in range(8)]
        await until(lambda: sum(task.done() for task in asking) >= 3)
        failed = [task.exception() for task in asking if task.done()]
        assert {getattr(error, "reason", None) for error in failed} == {Reason.DNS_FAILED}
        names.gate.set()
        await asyncio.gather(*asking, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.parametrize("loop", LOOPS)
def test_cancelling_a_waiter_leaves_the_others(loop: str) -> None:
    names = Names()

    async def main() -> None:
        names.gate.clear()
        resolver = Resolver(lookup=names)
        one = asyncio.ensure_future(resolver.resolve("a.test"))
        two = asyncio.ensure_future(resolver.resolve("a.test"))
        await until(lambda: bool(names.asked))
        one.cancel()
        await asyncio.sleep(0)
        names.gate.set()
        assert await two == ("192.0.2.1",)
        assert one.cancelled()
        assert not resolver._jobs

    run(loop, main)


def test_a_resolver_outlives_its_event_loop() -> None:
    names = Names()
    resolver = Resolver(lookup=names, ttl=0)

    async def give_up() -> None:
        names.gate.clear()
        with pytest.raises(FaztError):
            await resolver.resolve("a.test", deadline=soon(0.01))

    asyncio.run(give_up())
    names.gate.set()

    async def again() -> None:
        assert await resolver.resolve("a.test", deadline=soon()) == ("192.0.2.1",)

    asyncio.run(again())


def test_idle_threads_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE_THREAD_SECONDS", 0.01)

    async def main() -> None:
        resolver = Resolver(lookup=Names())
        await resolver.resolve("a.test")
        await until(lambda: resolver._threads._count == 0)
        await resolver.resolve("b.test")

    asyncio.run(main())


def test_the_system_is_asked_for_streams_only_and_answers_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    row = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    found = [(*row, ("192.0.2.1", 0)), (*row, ("192.0.2.1", 0)), (socket.AF_INET6, *row[1:], ("2001:db8::1", 0, 0, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, type: found)  # noqa: A006
    assert system_lookup("a.test") == ("192.0.2.1", "2001:db8::1")
