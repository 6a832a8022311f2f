"""Tables of a configuration: every key is asked for, every error names it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fazt.core.tables import Table, check_number, check_statuses, check_whole
from fazt.errors import ConfigError


@pytest.mark.parametrize("value", [True, "1", None, math.nan, math.inf, -math.inf, 10**400, -0.1])
def test_only_finite_numbers_in_range_are_numbers(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^a\.b "):
        check_number(value, "a.b")


def test_the_ends_of_a_range_are_in_it_or_not() -> None:
    assert check_number(0, "n") == 0.0
    with pytest.raises(ConfigError, match="must be above 0"):
        check_number(0, "n", above=0)
    assert check_whole(1, "n", least=1) == 1
    for wrong in (0, 1.0, True, "1"):
        with pytest.raises(ConfigError, match=r"^n "):
            check_whole(wrong, "n", least=1)


@pytest.mark.parametrize("value", ["429", b"429", 429, {429: 1}, [99], [600], ["429"], [True], [429.0]])
def test_only_statuses_are_statuses(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^s"):
        check_statuses(value, "s")


def test_statuses_come_from_lists_and_sets() -> None:
    assert check_statuses([429, 503], "s") == check_statuses({503, 429}, "s") == frozenset({429, 503})
    assert check_statuses([], "s") == frozenset()


def test_values_and_defaults() -> None:
    table = Table({"n": 1.5, "w": 2, "f": False, "s": [429], "inner": {"n": 1}, "none": None}, "top")
    assert (table.number("n", 9), table.number("absent", 9)) == (1.5, 9)
    assert (table.whole("w", 9), table.whole("absent", 9)) == (2, 9)
    assert (table.flag("f", True), table.flag("absent", True)) == (False, True)
    assert table.statuses("s", frozenset()) == frozenset({429})
    assert table.statuses("absent", frozenset({1})) == frozenset({1})
    inner = table.table("inner")
    assert inner is not None
    assert (inner.where, inner.number("n", 9)) == ("top.inner", 1)
    assert table.table("none") is None
    assert [table.switch(key) for key in ("f", "absent")] == [False, None]
    table.done()
    inner.done()


def test_the_name_of_the_key_is_in_every_error() -> None:
    table = Table({"n": "x", "f": 1, "inner": 5, "deep": {"w": -1}}, "top")
    with pytest.raises(ConfigError, match=r"^top\.n "):
        table.number("n", 0)
    with pytest.raises(ConfigError, match=r"^top\.f "):
        table.flag("f", False)
    with pytest.raises(ConfigError, match=r"^top\.inner "):
        table.table("inner")
    with pytest.raises(ConfigError, match=r"^top\.inner "):
        table.switch("inner")
    deep = table.table("deep")
    assert deep is not None
    with pytest.raises(ConfigError, match=r"^top\.deep\.w "):
        deep.whole("w", 0)


def test_unknown_keys_are_refused_with_a_guess() -> None:
    table = Table({"rat": 1}, "top")
    table.raw("rate")
    with pytest.raises(ConfigError) as caught:
        table.done()
    assert "'top.rat'" in caught.value.message
    assert caught.value.hint == "did you mean rate?"
    table = Table({"zebra": 1}, "")
    table.raw("rate")
    with pytest.raises(ConfigError) as caught:
        table.done()
    assert (caught.value.message, caught.value.hint) == ("unknown key 'zebra'", "known keys: rate")


def test_inner_tables_have_names() -> None:
    table = Table({"a": {"n": 1}, "b": {}}, "hosts")
    assert [(key, inner.where) for key, inner in table.tables()] == [("a", "hosts.a"), ("b", "hosts.b")]
    table.done()
    wrong: Any
    for wrong in ({"": {}}, {1: {}}, {"a": 1}):
        with pytest.raises(ConfigError, match=r"^hosts"):
            list(Table(wrong, "hosts").tables())
