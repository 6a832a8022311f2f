"""Calls in flight are counted in one atomic step (A.9)."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.core.concurrency import Slots
from fazt.errors import Code, FaztError, Reason


def refusal(slots: Slots, app: str, app_cap: int | None, global_cap: int | None) -> FaztError:
    with pytest.raises(FaztError) as caught:
        slots.acquire(app, app_cap=app_cap, global_cap=global_cap)
    return caught.value


def test_the_sixth_of_an_app_and_the_twenty_first_of_all_are_refused() -> None:
    slots = Slots()
    for app in "abcd":
        for _ in range(5):
            slots.acquire(app, app_cap=5, global_cap=20)
        error = refusal(slots, app, 5, 20)
        assert (error.code, error.reason) == (Code.NET_LIMIT, Reason.APP_CONCURRENCY)
        assert error.retryable
        assert error.retry_after == 1
    error = refusal(slots, "e", 5, 20)
    assert (error.reason, error.retryable, error.retry_after) == (Reason.GLOBAL_CONCURRENCY, True, 1)
    assert slots.in_flight("e") == 0
    assert slots.release("a")
    slots.acquire("e", app_cap=5, global_cap=20)
    assert slots.in_flight() == 20


def test_idle_apps_leave_nothing_behind() -> None:
    slots = Slots()
    for n in range(1000):
        slots.acquire(f"app{n}", app_cap=1, global_cap=None)
        assert slots.release(f"app{n}")
    assert slots.apps() == {}
    assert slots.in_flight() == 0


def test_counts_never_go_below_zero() -> None:
    slots = Slots()
    assert not slots.release("a")
    slots.acquire("a", app_cap=1, global_cap=1)
    assert not slots.release("b")
    assert slots.release("a")
    assert not slots.release("a")
    assert slots.in_flight() == slots.in_flight("a") == 0


def test_a_lowered_cap_acts_at_once_and_no_cap_is_no_cap() -> None:
    slots = Slots()
    for _ in range(50):
        slots.acquire("a", app_cap=None, global_cap=None)
    assert refusal(slots, "a", 5, None).reason is Reason.APP_CONCURRENCY
    assert refusal(slots, "b", 5, 20).reason is Reason.GLOBAL_CONCURRENCY
    assert slots.apps() == {"a": 50}


class Restless(str):
    """An app's id that lets another thread run whenever a dict looks at it: between every read and its write."""

    __slots__ = ()

    def __hash__(self) -> int:
        time.sleep(0)
        return str.__hash__(self)

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other)


def test_F10_two_hundred_threads_never_exceed_the_caps() -> None:
    slots = Slots(threading.Lock())
    watch = threading.Lock()
    running: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    refused: Counter[Reason] = Counter()
    passed = 0
    start = threading.Barrier(200)

    def call(app: str) -> None:
        nonlocal passed
        name = str(app)
        start.wait()
        for _ in range(4):
            try:
                slots.acquire(app, app_cap=5, global_cap=20)
            except FaztError as error:
                with watch:
                    refused[error.reason] += 1
                continue
            with watch:
                passed += 1
                running[name] += 1
                seen[name] = max(seen[name], running[name])
                seen["*"] = max(seen["*"], sum(running.values()))
            with watch:
                running[name] -= 1
            assert slots.release(app)

    threads = [threading.Thread(target=call, args=(Restless(f"app{n % 8}"),)) for n in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert passed + sum(refused.values()) == 200 * 4
    assert passed
    assert max(seen[app] for app in seen if app != "*") <= 5
    assert seen["*"] <= 20
    assert slots.in_flight() == 0
    assert slots.apps() == {}


def test_F10_all_at_once_exactly_the_caps_pass() -> None:
    slots = Slots(threading.Lock())
    start = threading.Barrier(200)
    passed: list[str] = []

    def call(app: str) -> None:
        start.wait()
        try:
            slots.acquire(app, app_cap=5, global_cap=20)
        except FaztError:
            return
        passed.append(app)

    threads = [threading.Thread(target=call, args=(Restless(f"app{n % 5}"),)) for n in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == 20
    assert max(Counter(passed).values()) <= 5
    assert slots.apps() == Counter(passed)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), st.integers(1, 3), st.integers(1, 5)), max_size=60))
def test_slots_against_two_counters(steps: list[tuple[bool, str, int, int]]) -> None:
    slots = Slots()
    model: Counter[str] = Counter()
    for taking, app, app_cap, global_cap in steps:
        if not taking:
            assert slots.release(app) == (model[app] > 0)
            model[app] = max(0, model[app] - 1)
        elif model[app] < app_cap and model.total() < global_cap:
            slots.acquire(app, app_cap=app_cap, global_cap=global_cap)
            model[app] += 1
        else:
            refusal(slots, app, app_cap, global_cap)
        assert slots.in_flight() == model.total()
        assert slots.apps() == +model
