"""One timer for many waits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fazt.net.deadlines import GRAIN, Deadlines


class Clock:
    """An event loop's clock and timers, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.set = 0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        self.set += 1
        timer = Timer(when, callback, self)
        self.timers.append(timer)
        return timer

    def advance(self, to: float) -> None:
        while due := sorted((timer for timer in self.timers if timer.when <= to), key=lambda timer: timer.when):
            timer = due[0]
            self.timers.remove(timer)
            self.now = max(self.now, timer.when)
            timer.callback()
        self.now = to


@dataclass(eq=False)
class Timer:
    """One timer of the clock."""

    when: float
    callback: Callable[[], None]
    clock: Clock

    def cancel(self) -> None:
        if self in self.clock.timers:
            self.clock.timers.remove(self)


class Wait:
    """Something that waits."""

    def __init__(self) -> None:
        self.expired = False

    def expire(self) -> None:
        self.expired = True


def _deadlines() -> tuple[Clock, Deadlines]:
    clock = Clock()
    return clock, Deadlines(clock)  # type: ignore[arg-type]


def test_each_wait_ends_at_its_own_deadline() -> None:
    clock, deadlines = _deadlines()
    waits = [Wait() for _ in range(3)]
    for wait, deadline in zip(waits, [2.0, 1.0, 3.0], strict=True):
        deadlines.add(wait, deadline)
    seen = []
    for now in (0.99, 1 + GRAIN, 2 + GRAIN, 3 + GRAIN):
        clock.advance(now)
        seen.append([wait.expired for wait in waits])
    assert seen == [[False] * 3, [False, True, False], [True, True, False], [True] * 3]
    assert not clock.timers


def test_a_wait_that_ended_is_left_alone() -> None:
    clock, deadlines = _deadlines()
    wait = Wait()
    deadlines.add(wait, 1.0)
    deadlines.discard(wait)
    deadlines.discard(wait)
    clock.advance(5)
    assert not wait.expired


def test_a_run_of_quick_waits_sets_one_timer_a_timeout() -> None:
    clock, deadlines = _deadlines()
    for _ in range(1000):
        wait = Wait()
        deadlines.add(wait, clock.now + 4)
        clock.advance(clock.now + 0.01)
        deadlines.discard(wait)
    assert clock.set <= 4


def test_no_deadline_needs_no_timer() -> None:
    clock, deadlines = _deadlines()
    deadlines.add(Wait(), math.inf)
    assert not clock.timers


def test_a_deadline_in_the_past_expires_in_the_next_turn() -> None:
    clock, deadlines = _deadlines()
    clock.now = 10
    wait = Wait()
    deadlines.add(wait, 3)
    clock.advance(10)
    assert wait.expired


def test_many_deadlines_close_together_are_looked_at_together() -> None:
    clock, deadlines = _deadlines()
    waits = [Wait() for _ in range(1000)]
    for index, wait in enumerate(waits):
        deadlines.add(wait, 1 + index / 100_000)
    set_before = clock.set
    clock.advance(1.1)
    assert all(wait.expired for wait in waits)
    assert clock.set - set_before <= 4


def test_closing_stops_the_timer() -> None:
    clock, deadlines = _deadlines()
    deadlines.add(Wait(), 1.0)
    deadlines.close()
    assert not clock.timers
