"""The fan-out: it takes without waiting, isolates its sinks, counts what it loses, and survives forks and exits."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.telemetry.sinks import Broken, Collected, call

from fazt.telemetry import Event, EventBuilder, Fanout, JsonlSink, Sink, Tee


@pytest.fixture
def made() -> Iterator[list[Fanout]]:
    fanouts: list[Fanout] = []
    yield fanouts
    for fanout in fanouts:
        fanout.close()


class Held(Sink):
    """A sink that waits to be let go."""

    name = "held"

    def __init__(self, *, slow: bool = False) -> None:
        self.slow = slow
        self.entered, self.go = threading.Event(), threading.Event()
        self.events: list[Event] = []

    def emit(self, events: Sequence[Event]) -> None:
        self.entered.set()
        assert self.go.wait(30)
        self.events += events


def test_R77_every_sink_gets_every_event_in_order(made: list[Fanout]) -> None:
    sinks = [Collected() for _ in range(3)]
    fanout = Fanout(sinks)
    made.append(fanout)
    for n in range(1000):
        fanout.append(call(n))
    assert fanout.flush()
    for sink in sinks:
        assert [event.request_id for event in sink.summaries] == [f"c_{n:04d}" for n in range(1000)]
        assert len(sink.attempts) == 1000
    assert fanout.dropped == 0 and fanout.lost == {"collected": 0}


def test_a_ready_made_event_goes_the_same_way(made: list[Fanout]) -> None:
    sink = Collected()
    fanout = Fanout([sink])
    made.append(fanout)
    event = EventBuilder("net.download").build()
    fanout.append(call())
    fanout.emit(event)
    assert fanout.flush()
    assert sink.events[-1] is event


@pytest.mark.parametrize("fault", [RuntimeError("SECRET"), OSError(28, "No space left"), SystemExit(1)], ids=repr)
def test_D49_a_failing_sink_hurts_nobody_and_is_named_once(
    made: list[Fanout], caplog: pytest.LogCaptureFixture, fault: BaseException
) -> None:
    broken, sink = Broken(fault), Collected()
    fanout = Fanout([broken, sink])
    made.append(fanout)
    with caplog.at_level(logging.WARNING, "fazt.telemetry"):
        for n in range(5):
            fanout.append(call(n))
            assert fanout.flush()
    assert broken.calls == 5 and len(sink.summaries) == 5
    assert fanout.lost == {"broken": 10, "collected": 0}
    assert len(caplog.records) == 1 and "broken" in caplog.text and "SECRET" not in caplog.text


def test_a_slow_sink_holds_up_no_other(made: list[Fanout]) -> None:
    held, sink = Held(slow=True), Collected()
    fanout = Fanout([held, sink], capacity=4)
    made.append(fanout)
    fanout.append(call(0))
    assert held.entered.wait(30)
    for n in range(1, 5):
        fanout.append(call(n))
        assert fanout._worker.flush(30)  # every sink but the held one
    assert not fanout.flush(0)
    assert len(sink.summaries) == 5
    assert fanout.dropped == 4, "eight events wait where there is room for four"
    held.go.set()
    assert fanout.flush()
    assert [event.request_id for event in held.events] == ["c_0000"] * 2 + ["c_0003"] * 2 + ["c_0004"] * 2


def test_a_full_queue_drops_the_oldest_and_counts(made: list[Fanout]) -> None:
    held = Held()
    fanout = Fanout([held], capacity=10)
    made.append(fanout)
    fanout.append(call(0))
    assert held.entered.wait(30)
    for n in range(1, 31):
        fanout.append(call(n))
    assert fanout.dropped == 20
    held.go.set()
    assert fanout.flush()
    assert [event.request_id for event in held.events if event.summary] == [
        "c_0000",
        *[f"c_{n:04d}" for n in range(21, 31)],
    ]


def test_a_record_of_the_wrong_shape_costs_only_itself(made: list[Fanout]) -> None:
    sink = Collected()
    fanout = Fanout([sink])
    made.append(fanout)
    fanout.append(call(0))
    fanout.append(object())  # type: ignore[arg-type]
    fanout.append(call(1))
    assert fanout.flush()
    assert len(sink.summaries) == 2 and fanout.dropped == 1


def test_what_comes_after_the_end_is_dropped() -> None:
    sink = Collected()
    fanout = Fanout([sink])
    fanout.append(call(0))
    fanout.close()
    fanout.append(call(1))
    assert fanout.flush()
    assert len(sink.summaries) == 1 and fanout.dropped == 1


def test_many_threads_lose_nothing(made: list[Fanout]) -> None:
    sink = Collected()
    fanout = Fanout([sink], capacity=100_000)
    made.append(fanout)

    def work(start: int) -> None:
        for n in range(start, start + 500):
            fanout.append(call(n))

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 4000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fanout.flush()
    assert {event.request_id for event in sink.summaries} == {f"c_{n:04d}" for n in range(4000)}
    assert len(sink.events) == 8000


def test_a_sink_of_two_fanouts_is_used_by_one_thread_at_a_time() -> None:
    inside: list[int] = []
    most: list[int] = []

    class Counting(Sink):
        def emit(self, events: Sequence[Event]) -> None:
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.001)  # lets the other thread in, if anything would
            inside.pop()

    sink = Counting()
    pair = [Fanout([sink], linger=0.0), Fanout([sink], linger=0.0)]
    for n in range(20):
        for fanout in pair:
            fanout.append(call(n))
    assert all(fanout.flush(30) for fanout in pair)
    assert max(most) == 1 and len(most) > 1
    for fanout in pair:
        fanout.close()


def test_sinks_that_are_not_its_own_are_flushed_and_stay_open() -> None:
    class Closing(Collected):
        closed = flushed = 0

        def flush(self) -> None:
            self.flushed += 1

        def close(self) -> None:
            self.closed += 1

    sink = Closing()
    fanout = Fanout([sink], own=False)
    fanout.append(call())
    fanout.close()
    assert (sink.closed, sink.flushed > 0, len(sink.summaries)) == (0, True, 1)
    Fanout([sink]).close()
    assert sink.closed == 1


def test_a_thread_is_started_at_the_first_record_only() -> None:
    before = threading.active_count()
    fanout = Fanout([Collected()])
    assert fanout.flush()
    assert threading.active_count() == before
    fanout.close()


def test_a_sink_that_flushes_the_fanout_does_not_wait_for_itself(made: list[Fanout]) -> None:
    answers: list[bool] = []

    class Flushing(Collected):
        def emit(self, events: Sequence[Event]) -> None:
            answers.append(fanout.flush(1))

    fanout = Fanout([Flushing()])
    made.append(fanout)
    fanout.append(call())
    assert fanout.flush()
    assert answers == [False]


def test_a_tee_gives_a_record_to_all() -> None:
    class Raises:
        def append(self, record: object) -> None:
            raise RuntimeError

    first, second = Collected(), Collected()
    Tee(first, Raises(), second).append(call())
    assert len(first.records) == len(second.records) == 1


def in_child(action: Any) -> int:
    """Run a function in a forked child, which ends without any cleaning up; answer its exit code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: there are threads; that is what is tested
        child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_starts_anew(tmp_path: Path) -> None:
    """What waited in the parent is written by the parent alone; the child has a thread of its own."""
    path = tmp_path / "net.jsonl"
    fanout = Fanout([JsonlSink(path)], linger=5.0)
    fanout.append(call(0))

    def child() -> None:
        fanout.append(call(1))
        assert fanout.flush()
        assert fanout.dropped == 0

    assert in_child(child) == 0
    assert path.read_text().count("c_0001") == 2 and "c_0000" not in path.read_text()
    assert fanout.flush()
    fanout.close()
    lines = path.read_text().splitlines()
    assert [sum(call_id in line for line in lines) for call_id in ("c_0000", "c_0001")] == [2, 2]


def test_a_fork_while_a_sink_is_at_work(made: list[Fanout]) -> None:
    held = Held()
    fanout = Fanout([held])
    made.append(fanout)
    fanout.append(call(0))
    assert held.entered.wait(30)

    def child() -> None:
        held.go.set()
        held.events.clear()
        fanout.append(call(1))
        assert fanout.flush()
        assert {event.request_id for event in held.events} == {"c_0001"}

    assert in_child(child) == 0
    held.go.set()
    assert fanout.flush()
    assert {event.request_id for event in held.events} == {"c_0000"}


SCRIPT = """
import sys
from tests.telemetry.sinks import call
from fazt.telemetry import Fanout, JsonlSink
fanout = Fanout([JsonlSink(sys.argv[1])], linger=60.0)
fanout.append(call(0))
"""


def test_the_end_of_the_process_flushes(tmp_path: Path) -> None:
    path = tmp_path / "net.jsonl"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", SCRIPT, str(path)], check=True, timeout=60, cwd=root, env=environment(root))
    assert path.read_text().count("c_0000") == 2


def environment(root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{root}:{root / 'src'}"}


def _child_work(path: str) -> None:
    _inherited.append(call(1))


_inherited = Fanout([], linger=60.0)


def test_the_end_of_a_multiprocessing_child_flushes(tmp_path: Path) -> None:
    """Such a child leaves by `os._exit`, where no exit handler runs."""
    global _inherited
    path = tmp_path / "net.jsonl"
    _inherited = Fanout([JsonlSink(path)], linger=60.0)
    process = multiprocessing.get_context("fork").Process(target=_child_work, args=(str(path),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    process.join(60)
    assert process.exitcode == 0
    assert path.read_text().count("c_0001") == 2
    _inherited.close()
