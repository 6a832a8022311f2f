"""`fazt limits`: one table behind values, ranges, help and schema."""

from __future__ import annotations

from tests.cli.conftest import Fazt

from fazt.core import limits as limits_of


def test_F22_every_limit_that_is_not_read_only_can_be_set_and_reset(fazt: Fazt) -> None:
    from fazt.stores.sqlite.store import Store

    fazt("net", "list")
    for path in limits_of.paths():
        about = limits_of.info(path)
        if about.read_only:
            assert "cannot be set" in fazt("limits", "set", path, "1", expect=1).err
            continue
        with Store.open(fazt.data) as store:  # the values of both ends through the store, one through the command
            for value in (about.low, about.high):
                assert store.limits.set(path, value) == value
            store.limits.reset(path)
    assert fazt("limits", "set", "net.max_calls", "7").out == "net.max_calls is 7 for everybody\n"
    assert fazt.json("limits", "show")["net"]["max_calls"] == 7
    assert fazt("limits", "reset", "net.max_calls").out == "net.max_calls is 5 again for everybody\n"
    assert "was not set" in fazt("limits", "reset", "net.max_calls", expect=1).err


def test_F22_a_value_that_changes_nothing_is_said(fazt: Fazt) -> None:
    assert "stays off" in fazt("limits", "set", "net.cache_max_items", "10").err
    assert "warning" not in fazt("limits", "set", "net.cache_max_bytes", "1000").err
    assert "net.rate_limit is 0" in fazt("limits", "set", "net.rate_burst", "10").err
    assert "runtime.exec_timeout" in fazt("limits", "set", "net.budget", "9000").err
    assert "runtime.exec_timeout" in fazt("limits", "set", "runtime.cpu_time", "9000").err


def test_show_is_the_nested_object_itself_and_the_schema_nests_alike(fazt: Fazt) -> None:
    values, schema = fazt.json("limits", "show"), fazt.json("limits", "schema")
    assert list(values) == list(schema) == ["hardware", "storage", "runtime", "capacity", "net"]
    for group, entries in schema.items():
        assert list(entries) == list(values[group])
        for about in entries.values():
            assert {"label", "desc", "read_only"} <= set(about) <= {"label", "desc", "unit", "min", "max", "read_only"}
    assert fazt.json("limits", "show", "net.max_calls") == {"net": {"max_calls": 5}}
    assert list(fazt.json("limits", "show", "runtime")) == ["runtime"]
    assert "did you mean net.max_calls" in fazt("limits", "show", "net.max_call", expect=1).err


def test_an_app_can_be_given_less_and_not_more(fazt: Fazt) -> None:
    done = fazt("limits", "set", "net.max_calls", "3", "--app", "shop")
    assert "created the app shop" in done.err
    assert fazt.json("limits", "show", "--app", "shop")["net"]["max_calls"] == 3
    assert fazt.json("limits", "show")["net"]["max_calls"] == 5
    refused = fazt("limits", "set", "net.max_calls", "6", "--app", "shop", expect=1)
    assert "the limit for everybody is 5" in refused.err
    assert "leave --app out" in fazt("limits", "set", "net.concurrency", "6", "--app", "other", expect=1).err
    assert [app["name"] for app in fazt.json("app", "list")] == ["shop"]
    shown = fazt("limits", "show", "net.max_calls", "--app", "shop").out
    assert "app" in shown.splitlines()[1]


def test_out_of_range_names_the_range_and_the_nearest(fazt: Fazt) -> None:
    done = fazt("limits", "set", "net.max_calls", "1000", expect=1)
    assert "1 to 20" in done.err
    assert "fazt limits set net.max_calls 20" in done.err
    fazt("limits", "set", "net.max_calls", "three", expect=1)


def test_the_help_lists_every_limit_with_its_range(fazt: Fazt) -> None:
    shown = fazt("limits", "set", "--help").out
    text = fazt("limits", "schema").out
    for path in limits_of.paths():
        about = limits_of.info(path)
        assert path in text
        assert about.desc in text
        assert (path in shown) is not about.read_only
