"""Fair shares of a limited number of workers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.functions.schedule import Full, Schedule, Stage, Ticket


def running(tickets: list[Ticket]) -> int:
    return sum(ticket.stage is Stage.RUNNING for ticket in tickets)


def test_one_app_never_gets_every_place() -> None:
    plan = Schedule(workers=6)
    flood = [plan.request("flood", 0) for _ in range(20)]
    assert running(flood) == 4
    assert plan.request("other", 0).stage is Stage.RUNNING
    assert plan.request("third", 0).stage is Stage.RUNNING


def test_a_single_worker_serves_whoever_comes() -> None:
    plan = Schedule(workers=1)
    first = plan.request("a", 0)
    second = plan.request("b", 0)
    assert (first.stage, second.stage) == (Stage.RUNNING, Stage.WAITING)
    assert plan.finish(first, 1) == [second]


def test_free_places_go_round_the_waiting_apps() -> None:
    plan = Schedule(workers=2)
    held = [plan.request("x", 0), plan.request("y", 0)]
    lines = {app: [plan.request(app, 0) for _ in range(3)] for app in "abc"}
    order = []
    current = held
    for _ in range(9):
        granted = plan.finish(current.pop(0), 1)
        order += [ticket.app for ticket in granted]
        current += granted
    assert order[:3] == ["a", "b", "c"]
    assert sorted(order[:6]) == ["a", "a", "b", "b", "c", "c"]
    assert all(ticket.stage in (Stage.DONE, Stage.RUNNING) for line in lines.values() for ticket in line)


def test_a_slow_invocation_leaves_its_place() -> None:
    plan = Schedule(workers=2)
    slow = [plan.request("a", 0), plan.request("b", 0)]
    waiting = plan.request("c", 0)
    assert waiting.stage is Stage.WAITING
    assert plan.slow_down(slow[0], 1) == [waiting]
    assert slow[0].stage is Stage.SLOW
    assert plan.finish(slow[0], 2) == []
    assert plan.slow == 0
    assert plan.running == 2


def test_the_slow_lane_is_limited() -> None:
    plan = Schedule(workers=1)
    first = plan.request("a", 0)
    plan.slow_down(first, 1)
    second = plan.request("b", 1)
    assert plan.slow_down(second, 2) == []
    assert second.stage is Stage.RUNNING


def test_slow_places_count_for_the_share_of_an_app() -> None:
    plan = Schedule(workers=6)
    for _ in range(4):
        plan.slow_down(plan.request("hang", 0), 1)
    assert plan.request("hang", 1).stage is Stage.WAITING
    assert plan.request("other", 1).stage is Stage.RUNNING


def test_apps_that_hit_limits_share_half_of_the_places() -> None:
    plan = Schedule(workers=4, heavy_s=30)
    for app in "abcdef":
        plan.finish(plan.request(app, 0), 1, limit_hit=True)
    hostile = [plan.request(app, 2) for app in "abcdef"]
    assert running(hostile) == 2
    assert plan.request("neighbour", 2).stage is Stage.RUNNING


def test_a_heavy_app_is_forgiven_after_a_while() -> None:
    plan = Schedule(workers=4, heavy_s=30)
    plan.finish(plan.request("a", 0), 1, limit_hit=True)
    assert plan.is_heavy("a", 30.9)
    assert not plan.is_heavy("a", 31)


def test_a_full_queue_refuses_at_once() -> None:
    plan = Schedule(workers=1, queue=3, app_queue=2)
    plan.request("a", 0)
    plan.request("a", 0)
    plan.request("a", 0)
    with pytest.raises(Full):
        plan.request("a", 0)
    plan.request("b", 0)
    with pytest.raises(Full):
        plan.request("c", 0)


def test_leaving_the_queue_makes_room() -> None:
    plan = Schedule(workers=1, app_queue=1)
    first = plan.request("a", 0)
    waiting = plan.request("a", 0)
    assert plan.finish(waiting, 0) == []
    assert plan.finish(waiting, 0) == []
    later = plan.request("a", 0)
    assert plan.finish(first, 1) == [later]


@given(
    workers=st.integers(1, 6),
    steps=st.lists(st.tuples(st.sampled_from(["ask", "slow", "end", "crash"]), st.integers(0, 40)), max_size=80),
)
def test_the_numbers_always_add_up(workers: int, steps: list[tuple[str, int]]) -> None:
    plan = Schedule(workers=workers, queue=10, app_queue=4)
    tickets: list[Ticket] = []
    for now, (step, pick) in enumerate(steps):
        if step == "ask":
            try:
                tickets.append(plan.request("abcde"[pick % 5], now))
            except Full:
                pass
        elif tickets and step == "slow":
            plan.slow_down(tickets[pick % len(tickets)], now)
        elif tickets:
            plan.finish(tickets[pick % len(tickets)], now, limit_hit=step == "crash")
        stages = [ticket.stage for ticket in tickets]
        assert plan.running == stages.count(Stage.RUNNING) <= workers
        assert plan.slow == stages.count(Stage.SLOW) <= workers
        assert plan.waiting == stages.count(Stage.WAITING)
        # nobody waits for nothing: an app with no place at all starts as soon as one is free, unless it is heavy
        if plan.running < workers:
            held = {ticket.app for ticket in tickets if ticket.stage in (Stage.RUNNING, Stage.SLOW)}
            idle = {ticket.app for ticket in tickets if ticket.stage is Stage.WAITING} - held
            assert all(plan.is_heavy(app, now) for app in idle)
    for ticket in tickets:
        plan.finish(ticket, 10_000)
    for ticket in tickets:
        plan.finish(ticket, 10_000)
    assert (plan.running, plan.slow, plan.waiting) == (0, 0, 0)
