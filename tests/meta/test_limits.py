"""A limit is shown only if something obeys it: each has a test that sees it act."""

from __future__ import annotations

from tests.meta.names import missing

from fazt.core.limits import info, paths

ACT = "tests/e2e/test_limits_act.py"
CONSUMERS: dict[str, tuple[str, ...]] = {
    "storage.max_upload": (
        f"{ACT}::test_max_upload",
        "tests/server/test_bodies.py::test_multipart_may_be_larger_than_other_bodies_up_to_max_upload",
    ),
    "storage.max_file_size": (
        f"{ACT}::test_max_file_size_and_max_site_size",
        "tests/functions/test_deploy.py::test_F54_sizes_are_limited",
    ),
    "storage.max_site_size": (
        f"{ACT}::test_max_file_size_and_max_site_size",
        "tests/functions/test_deploy.py::test_F54_sizes_are_limited",
    ),
    "storage.max_log_rows": (
        "tests/stores/test_log.py::test_F30c_rows_beyond_the_limit_go_the_excess_only",
        "tests/stores/test_source.py::test_the_log_takes_changed_limits_from_the_snapshot",
    ),
    "runtime.exec_timeout": (f"{ACT}::test_exec_timeout",),
    "runtime.cpu_time": (f"{ACT}::test_cpu_time",),
    "runtime.max_memory": (f"{ACT}::test_max_memory",),
    "runtime.max_output": (f"{ACT}::test_max_output",),
    "runtime.max_log_lines": (f"{ACT}::test_max_log_lines",),
    "net.max_calls": (f"{ACT}::test_max_calls",),
    "net.call_timeout": (f"{ACT}::test_call_timeout",),
    "net.budget": (f"{ACT}::test_budget",),
    "net.app_concurrency": (f"{ACT}::test_app_concurrency",),
    "net.concurrency": ("tests/e2e/test_matrix.py::test_A22_17_the_twenty_first_call_of_all_apps_at_once_is_refused",),
    "net.max_req_body": (f"{ACT}::test_max_req_body_and_max_response",),
    "net.max_response": (f"{ACT}::test_max_req_body_and_max_response",),
    "net.max_redirects": (f"{ACT}::test_max_redirects",),
    "net.rate_limit": (f"{ACT}::test_rate_limit_and_rate_burst",),
    "net.rate_burst": (f"{ACT}::test_rate_limit_and_rate_burst",),
    "net.log_buffer": (
        "tests/stores/test_log.py::test_F30c_a_full_buffer_drops_the_oldest_and_logs_how_many",
        "tests/stores/test_source.py::test_the_log_takes_changed_limits_from_the_snapshot",
    ),
    "net.log_flush": (
        "tests/stores/test_log.py::test_the_interval_flushes_by_itself",
        "tests/stores/test_source.py::test_the_log_takes_changed_limits_from_the_snapshot",
    ),
    "net.cache_max_items": (
        "tests/e2e/test_operator.py::test_F17_the_cache_is_seen_and_cleared_from_the_command_line",
        "tests/core/cache/test_store.py::test_F15_the_least_recently_used_goes_until_both_limits_hold",
    ),
    "net.cache_max_bytes": (
        "tests/e2e/test_operator.py::test_F17_the_cache_is_seen_and_cleared_from_the_command_line",
        "tests/core/cache/test_store.py::test_F15_the_least_recently_used_goes_until_both_limits_hold",
    ),
}


def test_every_limit_has_a_consumer_with_a_test() -> None:
    assert set(CONSUMERS) == {path for path in paths() if not info(path).read_only}
    assert [one for shown in CONSUMERS.values() for one in missing(" ".join(shown))] == []


def test_what_is_read_only_is_measured_or_estimated() -> None:
    assert {path.partition(".")[0] for path in paths() if info(path).read_only} == {"hardware", "capacity"}
