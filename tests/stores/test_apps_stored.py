"""Apps: ids that last, names that route, settings that arrive."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from fazt.core.policy import AppMeta
from fazt.core.rules import expand_target
from fazt.errors import ConfigError, NotFoundError, StoreError
from fazt.stores.sqlite import NewSecret, Store


def test_an_app_is_made_at_its_first_mention_and_found_by_name_or_id(store: Store) -> None:
    app, created = store.apps.ensure("hello", actor="cli:ann")
    assert created
    assert re.fullmatch(r"fazt_app_[0-9A-Za-z]{12}", app.id)
    assert store.apps.ensure("hello") == (app, False)
    assert store.apps.ensure(app.id) == (app, False)
    assert store.apps.find("hello") == store.apps.find(app.id) == app
    assert store.apps.find("other") is None
    assert [info.meta for info in store.apps.list()] == [app]


def test_an_unknown_id_is_not_made(store: Store) -> None:
    with pytest.raises(NotFoundError):
        store.apps.ensure("fazt_app_000000000000")
    with pytest.raises(NotFoundError):
        store.apps.get("nobody")


@pytest.mark.parametrize(
    "name", ["", "A", "a_b", "-a", "a-", "a" * 64, "www", "api", "localhost", "a.b", "a\n", "xn--a"]
)
def test_a_name_that_cannot_route_is_refused(store: Store, name: str) -> None:
    with pytest.raises((ConfigError, NotFoundError)):
        store.apps.ensure(name)
    assert store.apps.list() == []


def test_processes_that_make_the_same_app_get_one_id(data: Path) -> None:
    Store.open(data).close()
    found: list[tuple[AppMeta, bool]] = []
    barrier = threading.Barrier(4)

    def maker() -> None:
        with Store.open(data) as store:
            barrier.wait()
            found.append(store.apps.ensure("hello"))

    threads = [threading.Thread(target=maker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({app.id for app, _ in found}) == 1
    assert sum(created for _, created in found) == 1


def test_removing_an_app_retires_its_id_with_all_that_was_its(store: Store) -> None:
    app, _ = store.apps.ensure("hello")
    other, _ = store.apps.ensure("other")
    for scope in (app.id, other.id, ""):
        store.rules.allow(expand_target("api.example.com", scope=scope), frozenset())
        store.secrets.set(NewSecret("KEY", "secret-value-here", scope=scope, domains=("api.example.com",)))
    store.apps.set_env(app.id, {"A": "1"})
    store.limits.set("net.max_calls", 1, app=app.id)
    store.deployments.deploy(app.id, [])
    source = store.source
    store.apps.remove("hello", actor="cli:ann")
    assert source.refresh() and source.loads == 0
    policy = source.current
    assert {rule.scope for rule in policy.rules.rules()} == {other.id, ""}
    assert {scope for scope, _ in policy.secrets} == {other.id, ""}
    assert set(policy.apps) == {other.id} and policy.overrides == {}
    assert store.apps.env(app.id) == {}
    assert store.deployments.live(app.id) is None and store.deployments.files(app.id) == []
    for gone in ("hello", app.id):
        assert store.apps.find(gone) is None
        with pytest.raises(NotFoundError):
            store.apps.remove(gone)
    again, created = store.apps.ensure("hello")
    assert created and again.id != app.id
    assert store.rules.list(again.id) == store.rules.list("")


def test_nothing_can_be_stored_for_an_app_that_does_not_live(store: Store) -> None:
    app, _ = store.apps.ensure("hello")
    store.apps.remove("hello")
    for call in (
        lambda: store.rules.allow(expand_target("a.example.com", scope=app.id), frozenset()),
        lambda: store.secrets.set(NewSecret("K", "secret-value-here", scope=app.id, any_domain=True)),
        lambda: store.limits.set("net.max_calls", 1, app=app.id),
        lambda: store.apps.set_env(app.id, {"A": "1"}),
        lambda: store.deployments.deploy(app.id, []),
    ):
        with pytest.raises(NotFoundError):
            call()


def test_F34_settings_are_filled(store: Store) -> None:
    app, _ = store.apps.ensure("hello")
    store.apps.set_env(app.id, {"GREETING": "hi", "MODE": "a\nb"})
    store.apps.set_env(app.id, {"GREETING": "hello"})
    assert store.apps.env(app.id) == {"GREETING": "hello", "MODE": "a\nb"}
    store.apps.remove_env(app.id, "MODE")
    assert store.apps.env(app.id) == {"GREETING": "hello"}
    with pytest.raises(NotFoundError):
        store.apps.remove_env(app.id, "MODE")


def test_F34_a_failing_query_is_an_error_and_not_an_empty_answer(store: Store) -> None:
    app, _ = store.apps.ensure("hello")
    store.apps.set_env(app.id, {"GREETING": "hi"})
    with store._policy.write() as connection:
        connection.execute("ALTER TABLE env RENAME COLUMN name TO key")
    with pytest.raises(StoreError, match="name"):
        store.apps.env(app.id)


@pytest.mark.parametrize(
    "values", [{"1A": "x"}, {"": "x"}, {"A B": "x"}, {"A": "x\0"}, {"A": "\ud800"}, {"A": "x" * 70_000}]
)
def test_a_bad_setting_is_refused_with_all_that_came_with_it(store: Store, values: dict[str, str]) -> None:
    app, _ = store.apps.ensure("hello")
    with pytest.raises(ConfigError):
        store.apps.set_env(app.id, {"GOOD": "1", **values})
    assert store.apps.env(app.id) == {}


def test_an_app_has_a_bounded_number_of_settings(store: Store) -> None:
    app, _ = store.apps.ensure("hello")
    with pytest.raises(ConfigError):
        store.apps.set_env(app.id, {f"N{n}": "" for n in range(300)})
    assert store.apps.env(app.id) == {}
