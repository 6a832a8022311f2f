"""Limits: one table gives values, validation, help and schema; an app never gets more than the operator allows."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.core import limits as lim
from fazt.errors import ConfigError

GIB = 1024**3
BASE = lim.defaults(total_ram=4 * GIB, available_ram=3 * GIB, cpu_cores=2)
SETTABLE = [path for path in lim.paths() if not lim.info(path).read_only]

# Spec A.20 as contracts.md amends it: (default on 4 GiB and 2 cores, unit, min, max, read-only)
TABLE: dict[str, tuple[int, str, int | None, int | None, bool]] = {
    "hardware.total_ram": (4 * GIB, "bytes", None, None, True),
    "hardware.available_ram": (3 * GIB, "bytes", None, None, True),
    "hardware.cpu_cores": (2, "", None, None, True),
    "storage.max_upload": (104857600, "bytes", 1048576, 104857600, False),
    "storage.max_file_size": (104857600, "bytes", 1048576, 1073741824, False),
    "storage.max_site_size": (524288000, "bytes", 10485760, 5368709120, False),
    "storage.max_log_rows": (500000, "", 10000, 5000000, False),
    "runtime.exec_timeout": (5000, "ms", 100, 10000, False),
    "runtime.cpu_time": (2000, "ms", 50, 10000, False),
    "runtime.max_memory": (52428800, "bytes", 1048576, 268435456, False),
    "runtime.max_output": (1048576, "bytes", 1024, 10485760, False),
    "runtime.max_log_lines": (200, "", 0, 5000, False),
    "capacity.users": (100, "", None, None, True),
    "capacity.users_max": (200, "", None, None, True),
    "capacity.reads": (400, "req/s", None, None, True),
    "capacity.writes": (125, "req/s", None, None, True),
    "capacity.mixed": (300, "req/s", None, None, True),
    "capacity.max_requests": (500, "", 50, 5000, True),
    "capacity.timeout_ms": (5000, "ms", 1000, 30000, True),
    "net.max_calls": (5, "", 1, 20, False),
    "net.call_timeout": (4000, "ms", 1000, 10000, False),
    "net.budget": (4000, "ms", 1000, 10000, False),
    "net.app_concurrency": (5, "", 1, 20, False),
    "net.concurrency": (20, "", 5, 100, False),
    "net.max_req_body": (1048576, "bytes", 1024, 10485760, False),
    "net.max_response": (1048576, "bytes", 1024, 10485760, False),
    "net.max_redirects": (3, "", 0, 10, False),
    "net.rate_limit": (0, "", 0, 1000, False),
    "net.rate_burst": (0, "", 0, 100, False),
    "net.log_buffer": (1000, "", 100, 10000, False),
    "net.log_flush": (1000, "ms", 500, 10000, False),
    "net.cache_max_items": (0, "", 0, 10000, False),
    "net.cache_max_bytes": (0, "bytes", 0, 104857600, False),
}


def test_the_table_of_the_contract_holds() -> None:
    assert lim.paths() == tuple(TABLE)
    for path, (default, unit, low, high, read_only) in TABLE.items():
        about = lim.info(path)
        assert (lim.get(BASE, path), about.unit, about.low, about.high, about.read_only) == (
            default,
            unit,
            low,
            high,
            read_only,
        ), path


@pytest.mark.parametrize(("cores", "scale"), [(1, 1), (4, 4), (5, 4), (6, 5), (16, 10), (64, 34)])
def test_estimates_grow_slower_than_cores_past_the_fourth(cores: int, scale: int) -> None:
    limits = lim.defaults(total_ram=GIB, available_ram=GIB, cpu_cores=cores)
    assert limits.capacity.users == 50 * scale
    assert limits.capacity.writes == 100 + 25 * (scale - 1)
    assert limits.net.concurrency == max(20, min(10 * scale, 100))


def test_the_upload_default_follows_memory_within_its_range() -> None:
    sizes = [lim.defaults(total_ram=ram, available_ram=0, cpu_cores=1).storage.max_upload for ram in (1, GIB // 2)]
    assert sizes == [10 * 1024**2, GIB // 20]


@given(ram=st.integers(1, 2**50), cores=st.integers(-1, 4096))
def test_every_default_is_a_value_that_could_be_set(ram: int, cores: int) -> None:
    limits = lim.defaults(total_ram=ram, available_ram=ram // 2, cpu_cores=cores)
    for path in SETTABLE:
        assert lim.validate(path, lim.get(limits, path)) == lim.get(limits, path)


def test_limits_cannot_be_changed_in_place() -> None:
    with pytest.raises(FrozenInstanceError):
        BASE.net.max_calls = 99  # type: ignore[misc]


def test_F22_every_limit_that_is_not_read_only_can_be_set_across_its_whole_range() -> None:
    for path in SETTABLE:
        about = lim.info(path)
        for value in (about.low, about.high):
            changed = lim.with_values(BASE, {path: value})
            assert lim.get(changed, path) == value
            others = {other: lim.get(changed, other) for other in lim.paths() if other != path}
            assert others == {other: lim.get(BASE, other) for other in lim.paths() if other != path}


def test_F22_the_cache_and_the_default_rate_can_be_switched_on() -> None:
    changed = lim.with_values(
        BASE, {"net.cache_max_items": "100", "net.cache_max_bytes": 1 << 20, "net.rate_limit": 60}
    )
    assert (changed.net.cache_max_items, changed.net.cache_max_bytes, changed.net.rate_limit) == (100, 1 << 20, 60)


@pytest.mark.parametrize("path", SETTABLE)
def test_F22_out_of_range_is_refused_with_the_range_and_a_command_that_works(path: str) -> None:
    about = lim.info(path)
    assert about.low is not None
    assert about.high is not None
    for value in (about.low - 1, about.high + 1, str(about.high + 1)):
        with pytest.raises(ConfigError) as caught:
            lim.validate(path, value)
        assert str(about.low) in caught.value.message
        assert str(about.high) in caught.value.message
        assert caught.value.hint is not None
        _, _, command = caught.value.hint.partition("fazt limits set ")
        named, number = command.split()
        assert named == path
        assert lim.validate(path, number) in (about.low, about.high)


@pytest.mark.parametrize("value", [True, None, 3.0, "3.5", "3s", "", " 3", "3\n", "٣", "1e3", [], "9" * 5000])
def test_only_whole_numbers_are_taken(value: object) -> None:
    with pytest.raises(ConfigError, match="whole number"):
        lim.validate("net.max_calls", value)


@pytest.mark.parametrize("path", [path for path in lim.paths() if lim.info(path).read_only])
def test_what_is_measured_or_estimated_cannot_be_set(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot be set"):
        lim.validate(path, 1000)


@pytest.mark.parametrize("path", ["net.max_call", "net", "", "net.max_calls.x", "nonsense", "media.concurrency"])
def test_an_unknown_limit_is_named_with_a_way_on(path: str) -> None:
    for use in (lambda: lim.validate(path, 1), lambda: lim.get(BASE, path), lambda: lim.with_values(BASE, {path: 1})):
        with pytest.raises(ConfigError) as caught:
            use()
        assert caught.value.hint
    if path == "net.max_call":
        assert caught.value.hint == "did you mean net.max_calls?"


def test_F58_schema_values_and_validation_come_from_one_source() -> None:
    described, values = lim.schema(), lim.as_dict(BASE)
    assert {group: list(entries) for group, entries in described.items()} == {
        group: list(entries) for group, entries in values.items()
    }
    for path in lim.paths():
        group, name = path.split(".")
        entry = described[group][name]
        assert set(entry) <= {"label", "desc", "unit", "min", "max", "read_only"}
        for words in (entry["label"], entry["desc"]):
            assert isinstance(words, str)
            assert words.strip()
            assert "%%" not in words
        assert isinstance(entry["read_only"], bool)
        assert entry.get("unit", "") == lim.info(path).unit
        assert entry.get("unit") != ""
        if not entry["read_only"]:
            assert lim.validate(path, entry["min"]) == entry["min"]
            assert lim.validate(path, entry["max"]) == entry["max"]
            with pytest.raises(ConfigError):
                lim.validate(path, int(entry["max"]) + 1)


def test_F58_labels_are_distinct_and_the_schema_cannot_be_spoilt_by_a_reader() -> None:
    labels = [entry["label"] for entries in lim.schema().values() for entry in entries.values()]
    assert len(set(labels)) == len(labels)
    spoilt = lim.schema()
    spoilt["net"]["max_calls"]["max"] = 10**9
    del spoilt["runtime"]
    assert lim.schema()["net"]["max_calls"]["max"] == 20
    assert "runtime" in lim.schema()


def test_F58_available_memory_is_not_the_total() -> None:
    assert lim.as_dict(BASE)["hardware"] == {"total_ram": 4 * GIB, "available_ram": 3 * GIB, "cpu_cores": 2}


def test_an_app_may_be_given_less_or_as_much_but_not_more() -> None:
    assert lim.validate_override(BASE, "net.max_calls", "5") == 5
    assert lim.clamp_override(BASE, {"net.max_calls": 2, "runtime.cpu_time": 500}).net.max_calls == 2
    with pytest.raises(ConfigError, match="the limit for everybody is 5") as caught:
        lim.validate_override(BASE, "net.max_calls", 6)
    assert caught.value.hint == "raise it first: fazt limits set net.max_calls 6"


def test_lowering_the_operators_limit_lowers_every_app() -> None:
    stored = {"net.max_calls": 4, "net.call_timeout": 2000}
    lowered = lim.with_values(BASE, {"net.max_calls": 3})
    app = lim.clamp_override(lowered, stored)
    assert (app.net.max_calls, app.net.call_timeout) == (3, 2000)


def test_a_limit_of_the_whole_process_has_no_value_per_app() -> None:
    with pytest.raises(ConfigError, match="whole process"):
        lim.validate_override(BASE, "net.concurrency", 6)
    assert lim.clamp_override(BASE, {"net.concurrency": 6}) == BASE


@pytest.mark.parametrize(
    ("operator", "app", "effective"), [(0, 0, 0), (0, 30, 30), (60, 30, 30), (60, 90, 60), (60, 0, 60)]
)
def test_a_rate_of_0_means_no_rate_so_an_app_cannot_escape_to_it(operator: int, app: int, effective: int) -> None:
    base = lim.with_values(BASE, {"net.rate_limit": operator})
    assert lim.clamp_override(base, {"net.rate_limit": app}).net.rate_limit == effective
    if effective != app:
        with pytest.raises(ConfigError):
            lim.validate_override(base, "net.rate_limit", app)


def test_a_burst_is_bounded_only_where_the_operator_has_a_rate() -> None:
    assert lim.clamp_override(BASE, {"net.rate_limit": 30, "net.rate_burst": 10}).net.rate_burst == 10
    base = lim.with_values(BASE, {"net.rate_limit": 60, "net.rate_burst": 5})
    assert lim.clamp_override(base, {"net.rate_burst": 10}).net.rate_burst == 5


_PER_APP = [path for path in SETTABLE if lim.info(path).per_app]


@given(st.data())
def test_an_override_is_never_wider_than_the_operators_value(data: st.DataObject) -> None:
    def values(chosen: list[str]) -> dict[str, object]:
        return {p: data.draw(st.integers(lim.info(p).low, lim.info(p).high)) for p in chosen}

    some = st.lists(st.sampled_from(_PER_APP), unique=True, max_size=4)
    base = lim.with_values(BASE, values(data.draw(some)))
    app = lim.clamp_override(base, values(data.draw(some)))
    for path in lim.paths():
        operator, own = lim.get(base, path), lim.get(app, path)
        if path == "net.rate_limit":
            assert operator == 0 or 0 < own <= operator
        elif path != "net.rate_burst" or base.net.rate_limit:
            assert own <= operator
