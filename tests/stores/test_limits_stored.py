"""Limits in the database: checked at writing, narrowed per app, tolerant of other releases."""

from __future__ import annotations

import pytest

from fazt.errors import ConfigError, NotFoundError
from fazt.stores.sqlite import Store


def test_a_limit_is_set_shown_and_reset(store: Store) -> None:
    default = store.limits.show().net.max_calls
    assert store.limits.set("net.max_calls", "3", actor="cli:ann") == 3
    assert store.limits.show().net.max_calls == 3
    assert store.limits.stored() == {"net.max_calls": 3}
    store.limits.reset("net.max_calls")
    assert store.limits.show().net.max_calls == default
    with pytest.raises(NotFoundError):
        store.limits.reset("net.max_calls")
    assert [entry.action for entry in store.activity()] == ["limit.reset", "limit.set"]


@pytest.mark.parametrize(("path", "value"), [("net.max_calls", 10**9), ("net.no_such", 1), ("hardware.cpu_cores", 1)])
def test_a_bad_limit_is_refused_and_nothing_is_written(store: Store, path: str, value: int) -> None:
    with pytest.raises(ConfigError):
        store.limits.set(path, value)
    assert store.limits.stored() == {}


def test_an_app_gets_less_and_never_more(store: Store) -> None:
    app, _ = store.apps.ensure("hello")
    store.limits.set("net.max_calls", 4)
    store.limits.set("net.max_calls", 2, app=app.id)
    with pytest.raises(ConfigError):
        store.limits.set("net.max_calls", 5, app=app.id)
    assert store.limits.show(app.id).net.max_calls == 2
    assert store.limits.show("fazt_app_other0000000").net.max_calls == 4
    store.limits.set("net.max_calls", 1)  # lowered for everybody: the app's own is no way around it
    assert store.limits.show(app.id).net.max_calls == 1
    with pytest.raises(NotFoundError):
        store.limits.set("net.max_calls", 1, app="fazt_app_000000000000")


def test_values_of_another_release_neither_stop_fazt_nor_lift_a_limit(store: Store) -> None:
    with store._policy.write() as connection:
        connection.executemany(
            "INSERT INTO limits VALUES (?, ?, ?, 0)",
            [("", "net.gone", 7), ("", "net.max_calls", 10**9), ("", "hardware.cpu_cores", 99)],
        )
    limits = store.limits.show()
    assert limits.net.max_calls == 20
    assert limits.hardware.cpu_cores != 99
    assert store.source.current.limits == limits
