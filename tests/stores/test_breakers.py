"""Circuits that processes share: what one tells the others hear, and the path of a call never waits (C.10)."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fazt.core.breaker import NONE, Cause, Deadlines, Key, State
from fazt.core.traffic import Traffic
from fazt.core.traffic_config import TrafficConfig
from fazt.errors import FaztError, Reason, StoreError
from fazt.stores.sqlite import breakers as module
from fazt.stores.sqlite.breakers import FILE, Breakers

HOST = Key("host", "api.test")


def about(seconds: float) -> Any:
    return pytest.approx(seconds)


class Wall:
    """The clock on the wall."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    clock = Wall()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def one(data: Path) -> Iterator[Breakers]:
    with Breakers.open(data, every=0.25) as opened:
        yield opened


@pytest.fixture
def two(data: Path, one: Breakers) -> Iterator[Breakers]:
    """Another process; its monotonic clock is 5000 seconds ahead in these tests."""
    with Breakers.open(data, every=0.25) as opened:
        yield opened


def told(reader: Breakers, now: float) -> dict[Key, Deadlines]:
    return dict(reader.changed(now))


def test_the_file_is_private_from_birth(data: Path, one: Breakers) -> None:
    assert stat.S_IMODE((data / FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert str(data) in repr(one)


def test_D48_deadlines_are_told_across_clocks(one: Breakers, two: Breakers, wall: Wall) -> None:
    assert told(two, 5000.0) == {}
    one.publish(HOST, NONE, Deadlines(open=160.0), 100.0)
    one.flush()
    wall.now += 10
    assert told(two, 5010.0) == {HOST: Deadlines(open=about(5060.0))}
    assert told(two, 5011.0) == {}


def test_only_what_changed_is_written_and_the_rest_is_kept(one: Breakers, two: Breakers, wall: Wall) -> None:
    one.publish(HOST, NONE, Deadlines(open=160.0), 100.0)
    one.flush()
    two.publish(HOST, NONE, Deadlines(cool=5030.0), 5000.0)
    two.flush()
    both = Deadlines(open=wall.now + 60, cool=wall.now + 30)
    assert [(row.key, row.deadlines) for row in one.circuits()] == [(HOST, both)]
    # The one that wrote last hears what was there before; the other one what is new.
    assert told(two, 5000.0) == {HOST: Deadlines(open=about(5060.0), cool=about(5030.0))}
    assert told(one, 100.0) == {HOST: Deadlines(open=about(160.0), cool=about(130.0))}
    two.publish(HOST, Deadlines(open=5060.0, cool=5030.0), Deadlines(cool=5030.0), 5061.0)
    two.flush()
    assert told(one, 161.0)[HOST].open == 0.0


def test_what_a_process_told_itself_it_does_not_hear_again(one: Breakers, wall: Wall) -> None:
    one.publish(HOST, NONE, Deadlines(open=160.0), 100.0)
    one.flush()
    assert told(one, 100.0) == {}
    one.publish(HOST, Deadlines(open=160.0), NONE, 161.0)
    one.flush()
    assert told(one, 161.0) == {}


def test_what_is_about_to_be_written_is_not_overruled_by_what_is_there(
    one: Breakers, two: Breakers, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.publish(HOST, NONE, Deadlines(open=5060.0), 5000.0)
    two.flush()
    with monkeypatch.context() as patched:
        patched.setattr(one, "_ask", lambda *_: None)  # the thread has not come to it yet
        one.publish(HOST, NONE, Deadlines(cool=130.0), 100.0)
        assert told(one, 100.0) == {}
    one.flush()
    wall.now += 1
    assert told(one, 101.0) == {HOST: Deadlines(open=about(160.0), cool=about(130.0))}


def test_the_file_is_looked_at_four_times_a_second_at_most(
    one: Breakers, two: Breakers, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    news = Breakers._news

    def counted(self: Breakers) -> list[sqlite3.Row]:
        looks.append(1)
        return news(self)

    monkeypatch.setattr(Breakers, "_news", counted)
    for n in range(1000):
        one.changed(100.0 + n / 1000)
    assert len(looks) == 4


def test_by_hand(one: Breakers, two: Breakers, wall: Wall) -> None:
    set_ = one.set_open(HOST, seconds=600, reason="they are moving", actor="cli:ann")
    assert (set_.state(wall.now), set_.remaining(wall.now), set_.cause(wall.now)) == (State.OPEN, 600.0, Cause.MANUAL)
    assert told(two, 5000.0) == {HOST: Deadlines(manual=about(5600.0), reason="they are moving")}
    assert one.set_closed(HOST, actor="cli:bob")
    assert told(two, 5001.0) == {HOST: NONE}
    assert not one.set_closed(HOST)
    assert one.circuits() == []
    assert not one.set_closed(Key("service", "never-heard-of"))


def test_rows_say_what_a_circuit_would(one: Breakers, wall: Wall) -> None:
    one.publish(HOST, NONE, Deadlines(open=160.0), 100.0)
    one.publish(Key("host", "api.test", "artifact"), NONE, Deadlines(rolling=130.0), 100.0)
    one.publish(Key("service", "crossref"), NONE, Deadlines(cool=110.0), 100.0)
    one.flush()
    wall.now += 20
    found = [
        (str(row.key), row.state(wall.now), row.cause(wall.now), row.remaining(wall.now)) for row in one.circuits()
    ]
    assert found == [
        ("host api.test", State.OPEN, Cause.FAILURES, about(40.0)),
        ("host api.test, role artifact", State.OPEN, Cause.ROLLING, about(10.0)),
        ("service crossref", State.CLOSED, None, 0.0),
    ]
    wall.now += 50
    assert one.circuits()[0].state(wall.now) is State.HALF_OPEN


def test_a_clock_that_is_set_back_makes_nothing_longer(one: Breakers, two: Breakers, wall: Wall) -> None:
    one.publish(HOST, NONE, Deadlines(open=160.0), 100.0)
    one.flush()
    wall.now -= 3600
    assert told(two, 5000.0) == {HOST: Deadlines(open=about(5060.0))}


def test_what_is_long_over_is_not_told_to_a_process_that_begins_and_is_dropped_in_the_end(
    data: Path, one: Breakers, wall: Wall
) -> None:
    one.publish(HOST, NONE, Deadlines(open=160.0), 100.0)
    one.flush()
    wall.now += 3600 + 61
    with Breakers.open(data) as fresh:
        assert told(fresh, 0.0) == {}
        wall.now += 86_400
        fresh.publish(Key("host", "other.test"), NONE, Deadlines(open=60.0), 0.0)
        fresh.flush()
        assert [row.key.name for row in fresh.circuits()] == ["other.test"]


def test_many_changes_of_one_circuit_become_one(
    one: Breakers, two: Breakers, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(one, "_ask", lambda *_: None)
        for n in range(100):
            one.publish(HOST, NONE, Deadlines(open=160.0 + n), 100.0)
            one.publish(HOST, Deadlines(open=160.0 + n), Deadlines(open=160.0 + n, cool=120.0), 100.0)
        for n in range(module._AT_MOST + 10):
            one.publish(Key("host", f"h{n}.test"), NONE, Deadlines(open=160.0), 100.0)
    assert len(one._waiting) == module._AT_MOST
    one._waiting = {HOST: one._waiting[HOST]}
    one.flush()
    assert told(two, 5000.0) == {HOST: Deadlines(open=about(5159.0), cool=about(5020.0))}


class Held:
    """Another process that holds the file."""

    def __init__(self, data: Path) -> None:
        self._connection = sqlite3.connect(data / FILE, isolation_level=None)

    def __enter__(self) -> None:
        self._connection.execute("BEGIN EXCLUSIVE")

    def __exit__(self, *_: object) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


def test_a_file_that_is_locked_stops_nobody_and_is_written_later(data: Path, one: Breakers, two: Breakers) -> None:
    with Held(data):
        one.publish(HOST, NONE, Deadlines(open=160.0), 100.0)
        with pytest.raises(StoreError, match="locked"):
            one.flush()
        assert list(two.changed(5000.0)) == []  # readers are not in the way of writers
    assert isinstance(one.error, StoreError)
    one.publish(HOST, Deadlines(open=160.0), Deadlines(open=160.0, cool=110.0), 100.0)
    one.flush()
    assert one.error is None
    assert sorted(told(two, 5001.0)) == [HOST]
    assert [row.deadlines.open > 0 for row in two.circuits()] == [True]


def test_a_file_that_is_gone_stops_nobody_and_is_said_once(
    data: Path, one: Breakers, caplog: pytest.LogCaptureFixture
) -> None:
    (data / FILE).unlink()
    for n in range(5):
        assert list(one.changed(100.0 + n)) == []
    assert isinstance(one.error, StoreError)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "breakers are not shared with other processes"
    ]
    with pytest.raises(StoreError):
        one.circuits()


def test_a_file_that_is_none_of_ours_is_an_error_at_once(data: Path) -> None:
    data.mkdir(mode=0o700)
    (data / FILE).write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match="not a database"):
        Breakers.open(data)


def test_a_file_is_made_when_there_is_something_to_tell(data: Path, wall: Wall) -> None:
    with Breakers.follow(data) as follower, Breakers.follow(data) as other:
        traffic = Traffic(shared=follower)
        assert (entered(traffic, 100.0), follower.error) == ("", None)
        assert not data.exists()
        other.publish(HOST, NONE, Deadlines(open=60.0), 0.0)
        other.flush()
        assert stat.S_IMODE((data / FILE).stat().st_mode) == 0o600
        assert not follower.due(100.2)
        assert (entered(traffic, 100.2), entered(traffic, 100.3)) == ("", "refused")
    assert not list(follower.changed(200.0))  # closed
    assert isinstance(follower.error, StoreError)


def test_closing_writes_what_waits(data: Path, two: Breakers) -> None:
    with Breakers.open(data) as third:
        third.publish(HOST, NONE, Deadlines(open=160.0), 100.0)
    assert sorted(told(two, 5000.0)) == [HOST]
    third.publish(HOST, NONE, Deadlines(cool=160.0), 100.0)  # too late, and no harm
    third.close()


@pytest.mark.parametrize("broken", ["write", "start"])
def test_a_fault_in_the_thread_does_not_end_it(
    one: Breakers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    with monkeypatch.context() as patched:
        if broken == "write":
            patched.setattr(module, "_merge", lambda *_, **__: 1 / 0)
        else:
            patched.setattr(threading.Thread, "start", _no_threads)
        one.publish(HOST, NONE, Deadlines(open=160.0), 100.0)
        if broken == "write":
            one.flush()
            assert "lost" in caplog.text
    one.publish(HOST, NONE, Deadlines(cool=160.0), 100.0)
    one.flush()
    (row,) = one.circuits()
    assert bool(row.deadlines.open) == (broken == "start")


def _no_threads(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


# ---- with Traffic, as processes use it


def entered(traffic: Traffic, now: float, host: str = "api.test") -> str:
    try:
        passed = traffic.enter(host, now=now)
    except FaztError as error:
        assert error.reason is Reason.BREAKER_OPEN
        return "refused"
    passed.refund(now)
    return passed.state


def test_one_process_finds_out_and_all_leave_the_host_alone(one: Breakers, two: Breakers, wall: Wall) -> None:
    config = TrafficConfig.of({"breaker": {"fail_max": 2}})
    here, there = Traffic(config, shared=one), Traffic(config, shared=two)
    assert (entered(here, 100.0), entered(there, 5000.0)) == ("closed", "closed")
    for _ in range(2):
        here.enter("api.test", now=100.0).settle(status=503, now=100.0)
    one.flush()
    assert entered(there, 5000.1) == "closed"  # it has just looked
    assert entered(there, 5000.3) == "refused"
    wall.now += 60
    trial = there.enter("api.test", now=5060.3)
    assert trial.state == "half_open"
    trial.settle(status=200, now=5060.3)
    two.flush()
    assert entered(here, 160.5) == "closed"
    assert one.circuits() == []


def test_an_operator_acts_on_a_process_that_has_no_breakers(one: Breakers, two: Breakers, wall: Wall) -> None:
    traffic = Traffic(shared=one)
    assert entered(traffic, 100.0) == ""
    two.set_open(Key("host", "api.test"), seconds=30, reason="x")
    assert entered(traffic, 100.3) == "refused"
    assert entered(traffic, 100.3, "other.test") == ""
    two.set_closed(Key("host", "api.test"))
    assert entered(traffic, 100.6) == "closed"


def test_D45_threads_share_the_breakers_while_they_open_and_close(data: Path) -> None:
    with Breakers.open(data, every=0.0) as mine, Breakers.open(data) as other:
        traffic = Traffic(TrafficConfig.of({"breaker": {"fail_max": 1}}), lock=threading.Lock(), shared=mine)
        faults: list[BaseException] = []

        def work(index: int) -> None:
            try:
                for n in range(60):
                    now = 100.0 + n + index / 10
                    if entered(traffic, now, f"h{index}.test") != "refused":
                        traffic.enter(f"h{index}.test", now=now).settle(status=(503, 200)[n % 2], now=now)
                    else:
                        traffic.close_circuit(host=f"h{index}.test", now=now)
            except BaseException as fault:
                faults.append(fault)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        mine.flush()
        assert faults == []
        state = {row["name"]: row["state"] for row in traffic.stats(1e9)["breakers"]}
        shared = {row.key.name: row.deadlines for row in other.circuits()}
        assert set(shared) == {name for name, found in state.items() if found != "closed"}


def test_another_process_hears_of_it(data: Path, one: Breakers) -> None:
    code = """
import sys, time
from pathlib import Path
from fazt.core.breaker import Key
from fazt.stores.sqlite.breakers import Breakers
with Breakers.open(Path(sys.argv[1])) as breakers:
    for key, deadlines in breakers.changed(time.monotonic()):
        print(key, 0 < deadlines.manual - time.monotonic() <= 100)
    breakers.set_open(Key("service", "back"), seconds=50)
"""
    one.set_open(HOST, seconds=100)
    done = subprocess.run(
        [sys.executable, "-c", code, str(data)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "host api.test True\n"
    found = told(one, 100.0)
    assert found[Key("service", "back")].manual == pytest.approx(150.0, abs=45.0)


def test_a_forked_child_opens_the_file_anew_and_leaves_the_parents_alone(data: Path, one: Breakers) -> None:
    one.set_open(HOST, seconds=100)
    assert sorted(told(one, 100.0)) == [HOST]
    one.publish(Key("host", "parent.test"), NONE, Deadlines(open=160.0), 100.0)
    one.flush()
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        result = b"failed"
        try:
            found = sorted(key.name for key, _ in one.changed(100.1))
            one.publish(Key("host", "child.test"), NONE, Deadlines(open=160.0), 100.1)
            one.flush()
            result = ",".join(found).encode()
        finally:
            os.write(theirs, result)
            os._exit(0)
    os.close(theirs)
    assert os.waitpid(child, 0)[1] == 0
    with os.fdopen(ours, "rb") as pipe:
        assert pipe.read() == b"api.test,parent.test"
    assert sorted(key.name for key in told(one, 101.0)) == ["child.test"]
    one.publish(Key("host", "again.test"), NONE, Deadlines(open=160.0), 100.0)
    one.flush()
    names = sorted(row.key.name for row in one.circuits())
    assert names == ["again.test", "api.test", "child.test", "parent.test"]


def test_a_look_opens_nothing_and_waits_for_nobody(
    data: Path, one: Breakers, two: Breakers, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.changed(100.0)
    two.set_open(HOST, seconds=10)
    monkeypatch.setattr(sqlite3, "connect", lambda *_, **__: pytest.fail("a look opens no connection"))
    monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("a look starts no thread"))
    assert one._file is not None
    held = one._file._idle[-1]  # the one that every look takes
    assert list(one.changed(100.1)) == []
    assert sorted(told(one, 100.3)) == [HOST]
    assert one._file._idle[-1] is held
