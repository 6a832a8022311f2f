"""Places in flight: caps hold, nobody is overtaken, no place is lost (C.9)."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.core.waitlist import Place, Ticket, Waitlist
from fazt.errors import Code, Reason


def nobody() -> None:
    raise AssertionError("nobody waits")


def enter(waitlist: Waitlist, woken: list[str], name: str, *, key: str = "h", cap: int = 1) -> Ticket:
    return waitlist.enter(key, cap, lambda: woken.append(name))


def test_places_are_handed_on_in_the_order_of_asking() -> None:
    waitlist, woken = Waitlist(), list[str]()
    first = enter(waitlist, woken, "first")
    second, third = enter(waitlist, woken, "second"), enter(waitlist, woken, "third")
    assert [ticket.granted for ticket in (first, second, third)] == [True, False, False]
    first.leave()
    assert woken == ["second"]
    assert [ticket.granted for ticket in (first, second, third)] == [False, True, False]
    second.leave()
    third.leave()
    assert woken == ["second", "third"]
    assert waitlist.lines() == {}


def test_keys_have_places_of_their_own() -> None:
    waitlist, woken = Waitlist(), list[str]()
    held = [enter(waitlist, woken, "", key=key, cap=2) for key in "aabb"]
    assert all(ticket.granted for ticket in held)
    assert not enter(waitlist, woken, "", key="a", cap=2).granted
    assert waitlist.lines() == {"a": (2, 1, 2), "b": (2, 0, 2)}
    assert (waitlist.in_flight("a"), waitlist.in_flight("none")) == (2, 0)


def test_whoever_stops_waiting_is_passed_over() -> None:
    waitlist, woken = Waitlist(), list[str]()
    first, second, third = (enter(waitlist, woken, name) for name in "123")
    second.leave()
    second.leave()
    first.leave()
    assert woken == ["3"]
    assert third.granted
    third.leave()
    assert waitlist.lines() == {}


def test_leaving_twice_gives_one_place_back() -> None:
    waitlist, woken = Waitlist(), list[str]()
    first = enter(waitlist, woken, "1")
    enter(waitlist, woken, "2")
    enter(waitlist, woken, "3")
    first.leave()
    first.leave()
    assert woken == ["2"]
    assert waitlist.lines() == {"h": (1, 1, 1)}


def test_a_cap_that_grew_has_room_for_those_who_came_first() -> None:
    waitlist, woken = Waitlist(), list[str]()
    enter(waitlist, woken, "1")
    second = enter(waitlist, woken, "2")
    third = enter(waitlist, woken, "3", cap=3)
    assert (second.granted, third.granted) == (True, True)
    assert woken == ["2"]  # the third one is told by what `enter` returns


def test_a_cap_that_shrank_lets_nobody_in_until_enough_have_left() -> None:
    waitlist, woken = Waitlist(), list[str]()
    held = [enter(waitlist, woken, "", cap=3) for _ in range(3)]
    waiting = enter(waitlist, woken, "w", cap=1)
    held[0].leave()
    held[1].leave()
    assert not waiting.granted
    held[2].leave()
    assert waiting.granted


def test_D45_a_place_goes_on_when_the_one_who_waited_is_gone() -> None:
    waitlist, woken = Waitlist(), list[str]()
    first = enter(waitlist, woken, "1")

    def gone() -> None:
        raise RuntimeError("the event loop is closed")

    dead = waitlist.enter("h", 1, gone)
    last = enter(waitlist, woken, "3")
    first.leave()
    assert woken == ["3"]
    assert (dead.granted, last.granted) == (False, True)


def test_many_who_gave_up_leave_nothing_behind() -> None:
    waitlist, woken = Waitlist(), list[str]()
    first = enter(waitlist, woken, "1")
    for _ in range(1000):
        enter(waitlist, woken, "x").leave()
    assert len(waitlist._lines["h"].queue) < 20
    first.leave()
    assert waitlist.lines() == {}


def test_waking_happens_outside_the_lock() -> None:
    lock = threading.Lock()
    waitlist = Waitlist(lock)
    first = waitlist.enter("h", 1, nobody)
    free: list[bool] = []
    waitlist.enter("h", 1, lambda: free.append(not lock.locked()))
    first.leave()
    assert free == [True]


@given(st.lists(st.tuples(st.sampled_from(["enter", "enter", "leave"]), st.sampled_from("ab"), st.integers(0, 30))))
def test_places_against_a_list(steps: list[tuple[str, str, int]]) -> None:
    caps = {"a": 1, "b": 3}
    waitlist = Waitlist()
    tickets: list[tuple[str, Ticket]] = []
    woken: list[int] = []
    model: dict[str, list[int]] = {"a": [], "b": []}  # those who have not left, in the order of asking
    told: set[int] = set()
    for what, key, index in steps:
        if what == "enter":
            number = len(tickets)
            tickets.append((key, waitlist.enter(key, caps[key], lambda number=number: woken.append(number))))  # type: ignore[misc]
            model[key].append(number)
            if tickets[number][1].granted:
                told.add(number)
        elif tickets:
            number = index % len(tickets)
            tickets[number][1].leave()
            owner = tickets[number][0]
            if number in model[owner]:
                model[owner].remove(number)
        for name, line in model.items():
            granted = [number for number in line if tickets[number][1].granted]
            assert granted == line[: caps[name]]
            assert waitlist.in_flight(name) == len(granted)
            # Everybody who holds a place was told so exactly once, by the answer or by being woken.
            assert all((number in told) != (number in woken) for number in granted)
    assert len(woken) == len(set(woken))


def test_threads_never_hold_more_than_there_are() -> None:
    waitlist = Waitlist(threading.Lock())
    counting = threading.Lock()
    inside, most, done = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, done
        for _ in range(50):
            woken = threading.Event()
            ticket = waitlist.enter("h", 3, woken.set)
            while not ticket.granted:
                assert woken.wait(20)
            with counting:
                inside += 1
                most = max(most, inside)
            with counting:
                inside -= 1
                done += 1
            ticket.leave()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (done, waitlist.lines()) == (400, {})
    assert 1 <= most <= 3


def place(waitlist: Waitlist, *caps: tuple[str, int], wake: Callable[[], None] = lambda: None) -> Place:
    return Place(waitlist, caps, wake=wake, patience=1.0)


def test_a_place_in_two_lines_is_taken_one_after_the_other() -> None:
    waitlist = Waitlist()
    wakes: list[int] = []
    host = place(waitlist, ("host", 1))
    assert host.granted
    both = place(waitlist, ("role", 1), ("host", 1), wake=lambda: wakes.append(1))
    assert not both.granted
    assert waitlist.lines() == {"host": (1, 1, 1), "role": (1, 0, 1)}
    next_of_role = place(waitlist, ("role", 1), ("host", 1), wake=lambda: wakes.append(2))
    assert not next_of_role.granted
    host.leave()
    assert wakes == [1]
    assert both.granted
    both.leave()
    assert wakes == [1, 2]
    assert next_of_role.granted
    next_of_role.leave()
    next_of_role.leave()
    assert waitlist.lines() == {}


def test_whoever_leaves_between_two_lines_leaves_both() -> None:
    waitlist = Waitlist()
    host = place(waitlist, ("host", 1))
    assert host.granted
    both = place(waitlist, ("role", 1), ("host", 1))
    assert not both.granted
    both.leave()
    assert not both.granted
    assert waitlist.lines() == {"host": (1, 0, 1)}


def test_a_place_that_was_never_asked_for_holds_nothing() -> None:
    waitlist = Waitlist()
    never = place(waitlist, ("host", 1))
    never.leave()
    assert not never.granted
    assert waitlist.lines() == {}


def test_waiting_in_vain_is_a_limit_that_may_be_tried_again() -> None:
    error = place(Waitlist(), ("host", 1)).crowded()
    assert (error.code, error.reason, error.retryable) == (Code.NET_LIMIT, Reason.POOL_WAIT, True)
    with pytest.raises(type(error)):
        raise error
