"""Whatever a script does ends within its limits, with a named outcome, and the engine goes on (spec B.9)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fazt.functions.watchdog import Watchdog

HOSTILE = sorted((Path(__file__).parent.parent / "hostile").glob("*.js"))
CPU_MS = 120.0


@pytest.mark.parametrize("program", HOSTILE, ids=lambda path: path.stem)
def test_a_hostile_program_ends_within_its_limits(wasm: Any, replies: Any, program: Path) -> None:
    text = program.read_text()
    expected = set(text.splitlines()[0].removeprefix("// ends:").split())
    host, _ = replies.host(replies.refusal())
    cpu_ms = CPU_MS if "cpu" in expected else 20 * CPU_MS
    cpu = time.thread_time()
    result = wasm.run(text, host=host, cpu_ms=cpu_ms, wall_ms=60_000, memory=16 << 20, max_output=1 << 20)
    assert (result.error.kind if result.error else "answer") in expected
    assert (time.thread_time() - cpu) * 1000 < cpu_ms + 250  # baking and one slow native step included
    assert len(wasm.logs) <= 100
    assert wasm.text("'the next one'") == "the next one"


def test_there_are_at_least_the_23_programs() -> None:
    assert len(HOSTILE) >= 23


def test_cpu_and_wall_are_separate(wasm: Any, replies: Any) -> None:
    image = wasm.app("for (;;) {}")
    assert wasm.run(image, cpu_ms=50, wall_ms=60_000).error.kind == "cpu"
    assert wasm.run(image, cpu_ms=60_000, wall_ms=50).error.kind == "wall"

    def slow(frame: bytes) -> bytes:
        time.sleep(0.06)
        return replies.ok(b"late")

    waiting = wasm.app("respond(fazt.net.fetch('https://a.example/').text())")
    assert wasm.run(waiting, host=slow, cpu_ms=40, wall_ms=10_000).body == b"late"  # waiting costs no CPU
    assert wasm.run(waiting, host=slow, cpu_ms=10_000, wall_ms=30).error.kind == "wall"


def test_waiting_for_the_host_past_the_limit_can_not_be_caught(wasm: Any, replies: Any) -> None:
    def slow(frame: bytes) -> bytes:
        time.sleep(0.03)
        return replies.ok()

    script = "for (;;) try { fazt.net.fetch('https://a.example/') } catch {}"
    result = wasm.run(script, host=slow, cpu_ms=10_000, wall_ms=70)
    assert result.error.kind == "wall"
    assert result.usage.wall_ms < 5_000


def test_memory_is_counted_from_what_the_runtime_needs(wasm: Any) -> None:
    keep = wasm.app("const kept = new Uint8Array(request.query.n * 1024).fill(1); respond(String(kept.length))")
    for limit, size, fits in [(1, 512, True), (1, 1100, False), (8, 7_000, True), (8, 8_300, False)]:
        result = wasm.run(keep, memory=limit << 20, request={"query": [("n", str(size))]})
        assert (result.error is None) is fits, (limit, size)
    assert wasm.run(keep, memory=64 << 20, request={"query": [("n", "60000")]}).usage.memory < 72 << 20


def test_running_out_of_memory_can_be_caught_and_is_told_when_it_is_not(wasm: Any) -> None:
    script = """
    const all = [];
    try { for (;;) all.push(new Array(1000).fill(1)) } catch (e) { all.length = 0; respond(e.message) }
    """
    assert wasm.text(script, memory=4 << 20) == "out of memory"
    result = wasm.run("const all = []; for (;;) all.push('x' + all.length)", memory=2 << 20)
    assert result.error.kind == "memory"


def test_recursion_ends_in_an_error_that_can_be_caught(guest: Any) -> None:
    script = "let n = 0; const f = () => { n++; f() }; try { f() } catch (e) { respond([e.name, n > 500]) }"
    assert guest.text(script) == '["RangeError",true]'


def test_a_large_request_needs_the_apps_memory(wasm: Any) -> None:
    request = {"method": "POST", "body_kind": "bytes", "body": bytes(6 << 20)}
    assert wasm.text("respond(String(request.body.length))", request=request, memory=24 << 20) == str(6 << 20)
    assert wasm.run("respond('x')", request=request, memory=4 << 20).error.kind == "memory"


def test_jsbox_stops_what_it_can(guest: Any) -> None:
    assert guest.run("for (;;) {}", cpu_ms=60, wall_ms=5_000).error.kind == "cpu"
    assert guest.run("const a = []; for (;;) a.push(new Array(1000).fill(1))", memory=8 << 20).error.kind == "memory"
    assert guest.run("(function f() { f() })()").error.kind == "stack"
    assert guest.text("'still here'") == "still here"


# -- the watchdog ------------------------------------------------------------------------------------------------------


@pytest.fixture
def watched() -> Iterator[tuple[Watchdog, threading.Event]]:
    fired = threading.Event()
    dog = Watchdog(fired.set)
    dog.start()
    yield dog, fired
    dog.close()


def test_the_watchdog_fires_once_and_names_the_limit(watched: Any) -> None:
    dog, fired = watched
    dog.arm(cpu_ms=10_000, wall_ms=20)
    assert fired.wait(5)
    assert dog.disarm() == "wall"
    fired.clear()
    dog.arm(cpu_ms=10, wall_ms=10_000)
    while not fired.is_set():
        pass
    assert dog.disarm() == "cpu"


def test_the_watchdog_notices_a_shorter_limit_than_the_last(watched: Any) -> None:
    dog, fired = watched
    dog.arm(cpu_ms=60_000, wall_ms=60_000)
    assert dog.disarm() is None
    dog.arm(cpu_ms=60_000, wall_ms=10)
    assert fired.wait(5)


def test_a_disarmed_watchdog_does_not_fire(watched: Any) -> None:
    dog, fired = watched
    for _ in range(200):
        dog.arm(cpu_ms=5, wall_ms=5)
        assert dog.disarm() is None
    dog.arm(cpu_ms=60_000, wall_ms=60_000)
    assert not fired.wait(0.02)
    assert dog.disarm() is None
