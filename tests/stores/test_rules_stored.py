"""Rules in the database: upserts, removal, feed and activity in one transaction."""

from __future__ import annotations

from typing import Any

import pytest

from fazt.core.rules import Rule, expand_target, given
from fazt.errors import NotFoundError, StoreError
from fazt.stores.sqlite import Store, changes
from fazt.stores.sqlite.changes import Change, Kind


def allow(store: Store, target: str, *, scope: str = "", **settings: Any) -> list[Rule]:
    rules = expand_target(target, scope=scope, **settings)
    return list(store.rules.allow(rules, given(settings), actor="cli:ann"))


def deny(store: Store, target: str, *, scope: str = "") -> list[Rule]:
    return list(store.rules.deny(expand_target(target, scope=scope, action="deny"), actor="cli:ann"))


def revision(store: Store) -> int:
    with store._policy.read() as connection:
        return changes.current(connection)


def feed(store: Store, since: int) -> changes.Feed:
    with store._policy.read() as connection:
        return changes.since(connection, since)


def test_F2_a_global_rule_is_one_row_however_often_it_is_set(store: Store) -> None:
    allow(store, "api.example.com", rate=60)
    (again,) = allow(store, "api.example.com", rate=10)
    assert store.rules.list() == [again]
    assert again.rate == 10


def test_F2_the_scope_is_part_of_the_key(store: Store) -> None:
    app, _ = store.apps.ensure("hello")
    allow(store, "api.example.com", rate=1)
    allow(store, "api.example.com", scope=app.id, rate=2)
    assert [(rule.scope, rule.rate) for rule in store.rules.list()] == [("", 1), (app.id, 2)]


def test_F27_settings_land_on_the_canonical_host_in_one_transaction(store: Store) -> None:
    allow(store, "api.stripe.com")
    allow(store, "API.Stripe.com.", rate=60, timeout_ms=900)
    (rule,) = store.rules.list()
    assert (rule.pattern, rule.rate, rule.timeout_ms) == ("api.stripe.com", 60, 900)


def test_F27_a_batch_with_one_bad_rule_changes_nothing(store: Store) -> None:
    before = revision(store)
    good = expand_target("api.example.com", scope="")
    orphan = expand_target("api.example.com", scope="fazt_app_000000000000")
    with pytest.raises(NotFoundError):
        store.rules.allow([*good, *orphan], frozenset())
    assert store.rules.list() == []
    assert revision(store) == before
    assert store.activity() == []


def test_settings_not_named_stay_and_zero_resets(store: Store) -> None:
    (first,) = allow(store, "api.example.com", rate=60, burst=5, addresses=("10.0.0.0/8",), inject="KEY")
    (second,) = allow(store, "api.example.com", burst=0)
    assert (second.rate, second.burst, second.addresses, second.inject) == (60, 0, ("10.0.0.0/8",), "KEY")
    assert second.created_at == first.created_at > 0
    (third,) = allow(store, "api.example.com", addresses=("none",))
    assert third.addresses == ()
    assert store.rules.list() == [third]


def test_every_field_comes_back_as_it_was_stored(store: Store) -> None:
    stored = allow(
        store,
        "https://*.example.com:8443",
        methods=("get", "POST"),
        paths=("/v1", "/v2/x"),
        rate=1,
        burst=2,
        timeout_ms=3,
        max_response=4,
        cache_ttl=5,
        inject="KEY",
        addresses=("10.0.0.0/8", "192.168.0.0/16"),
        path_encoded_slash=True,
    )
    assert len(stored) == 2
    assert store.rules.list() == sorted(stored, key=lambda rule: rule.path)


def test_removing_touches_one_scope_and_what_is_named(store: Store) -> None:
    app, _ = store.apps.ensure("hello")
    allow(store, "api.example.com", http=True)
    allow(store, "api.example.com", scope=app.id)
    deny(store, "api.example.com")
    (gone,) = store.rules.remove("api.example.com", action="allow", scheme="http")
    assert (gone.scheme, gone.port) == ("http", 80)
    assert {rule.action for rule in store.rules.remove("api.example.com")} == {"allow", "deny"}
    assert [rule.scope for rule in store.rules.list()] == [app.id]


def test_removing_what_is_not_there_is_an_error_and_changes_nothing(store: Store) -> None:
    allow(store, "api.example.com")
    before = revision(store)
    for call in (
        lambda: store.rules.remove("other.example.com"),
        lambda: store.rules.remove("api.example.com", scheme="http"),
        lambda: store.rules.remove("api.example.com", scope="fazt_app_000000000000"),
        lambda: store.rules.remove_ids(["r_000000000000"]),
    ):
        with pytest.raises(NotFoundError):
            call()
    assert len(store.rules.list()) == 1
    assert revision(store) == before


def test_removing_by_id_is_all_or_nothing(store: Store) -> None:
    (rule,) = allow(store, "api.example.com")
    with pytest.raises(NotFoundError):
        store.rules.remove_ids([rule.id, "r_000000000000"])
    assert store.rules.list() == [rule]
    assert store.rules.remove_ids([rule.id]) == [rule]
    assert store.rules.list() == []


def test_an_allow_and_a_deny_of_one_host_are_two_rules(store: Store) -> None:
    allow(store, "api.example.com")
    deny(store, "api.example.com")
    assert {rule.action for rule in store.rules.list()} == {"allow", "deny"}


def test_a_listing_for_an_app_holds_its_own_and_the_global_rules(store: Store) -> None:
    one, _ = store.apps.ensure("one")
    two, _ = store.apps.ensure("two")
    allow(store, "b.example.com", scope=one.id)
    allow(store, "c.example.com", scope=two.id)
    allow(store, "a.example.com")
    assert [rule.pattern for rule in store.rules.list()] == ["a.example.com", "b.example.com", "c.example.com"]
    assert [rule.pattern for rule in store.rules.list(one.id)] == ["a.example.com", "b.example.com"]
    assert [rule.pattern for rule in store.rules.list("")] == ["a.example.com"]


def test_a_change_writes_revision_feed_and_activity_together(store: Store) -> None:
    before = revision(store)
    allow(store, "api.example.com", http=True)
    assert revision(store) == before + 1
    assert feed(store, before) == changes.Feed(before + 1, (Change(Kind.RULE, "", "api.example.com"),))
    (entry,) = store.activity()
    assert (entry.actor, entry.action, entry.subject, entry.revision) == (
        "cli:ann",
        "rule.allow",
        "api.example.com",
        before + 1,
    )
    assert entry.ts > 0
    assert entry.details["count"] == 2


def test_a_reader_that_is_too_far_behind_loads_everything(store: Store) -> None:
    start = revision(store)
    for n in range(12):
        allow(store, f"h{n}.example.com")
    now = revision(store)
    with store._policy.write() as connection:
        changes.trim(connection, keep=5, keep_activity=3)
    assert feed(store, start).changes is None
    assert feed(store, now - 6).changes is None
    assert len(feed(store, now - 5).changes or ()) == 5
    assert feed(store, now) == changes.Feed(now, ())
    assert feed(store, now + 1).changes is None  # the database was put back to an older state
    assert [entry.revision for entry in store.activity()] == [now, now - 1, now - 2]


def test_a_revision_that_was_cut_in_half_counts_as_gone(store: Store) -> None:
    start = revision(store)
    both = (*expand_target("a.example.com", scope=""), *expand_target("b.example.com", scope=""))
    store.rules.allow(both, frozenset())
    with store._policy.write() as connection:
        changes.trim(connection, keep=1)
    assert feed(store, start).changes is None
    assert feed(store, start + 1).changes == ()


def test_a_huge_change_is_told_as_everything(store: Store) -> None:
    start = revision(store)
    many = [rule for n in range(changes.MOST_CHANGES + 1) for rule in expand_target(f"h{n}.example.com", scope="")]
    store.rules.allow(many, frozenset())
    assert feed(store, start).changes is None
    assert len(store.rules.list()) == len(many)


def test_a_failing_write_is_a_store_error_and_changes_nothing(store: Store) -> None:
    allow(store, "a.example.com")
    with store._policy.write() as connection:
        connection.execute("CREATE TRIGGER full BEFORE INSERT ON activity BEGIN SELECT raise(ABORT, 'no room'); END")
    with pytest.raises(StoreError, match="no room"):
        allow(store, "b.example.com")
    assert [rule.pattern for rule in store.rules.list()] == ["a.example.com"]
