"""Identical misses: one asks the network, the others wait for it (A.16)."""

from __future__ import annotations

from collections.abc import Hashable

from fazt.core.cache.flight import Flight, Flights
from fazt.core.cache.request import CacheRequest
from fazt.core.call import Fields
from fazt.core.url import parse_url


def key(app: str = "a", fields: Fields = ()) -> Hashable:
    made = CacheRequest.of(app=app, method="GET", url=parse_url("https://api.test/"), headers=fields)
    assert made is not None
    return made.sharing


def test_the_first_leads_and_the_others_follow() -> None:
    flights = Flights()
    parts = [flights.begin(key()) for _ in range(3)]
    assert [part.leader for part in parts] == [True, False, False]
    assert flights.finish(parts[0]) == (parts[1], parts[2])
    assert len(flights) == 0


def test_apps_and_differing_fields_do_not_share() -> None:
    flights = Flights()
    asked = [key("a"), key("b"), key("a", (("Accept-Language", "de"),))]
    assert all(flights.begin(request).leader for request in asked)
    assert len(flights) == 3


def test_finishing_is_the_leaders_alone_and_counts_once() -> None:
    flights = Flights()
    leader, follower = flights.begin(key()), flights.begin(key())
    assert flights.finish(follower) == ()
    assert flights.finish(leader) == (follower,)
    next_leader = flights.begin(key())
    assert next_leader.leader
    assert flights.finish(leader) == ()
    assert not flights.begin(key()).leader


def test_whoever_left_is_not_woken() -> None:
    flights = Flights()
    leader, first, second = (flights.begin(key()) for _ in range(3))
    flights.leave(first)
    flights.leave(first)
    flights.leave(leader)
    assert flights.finish(leader) == (second,)
    flights.leave(second)


def test_a_part_shows_nothing_of_the_request() -> None:
    part = Flight(key(fields=(("X", "canary"),)), leader=True, wake=lambda: None)
    assert "canary" not in repr(part)
