"""The snapshot follows the database: within a second, across processes, and never into nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fazt.core.policy import Policy
from fazt.core.rules import Allowed, Refused, RuleIndex, expand_target
from fazt.core.url import parse_url
from fazt.errors import FaztError, StoreError
from fazt.stores.sqlite import NewSecret, PolicySource, Store, changes
from fazt.stores.sqlite.changes import Feed, Kind

URL = parse_url("https://api.example.com/")


def allow(store: Store, host: str, *, scope: str = "") -> None:
    store.rules.allow(expand_target(host, scope=scope), frozenset())


def allowed(policy: Policy, app: str = "") -> bool:
    return isinstance(policy.rules.decide(app=app, url=URL, method="GET"), Allowed)


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def same(one: Policy, two: Policy) -> bool:
    return (
        set(one.rules.rules()) == set(two.rules.rules())
        and (one.revision, one.secrets, one.apps) == (two.revision, two.secrets, two.apps)
        and (one.limits, one.overrides) == (two.limits, two.overrides)
    )


def fresh(store: Store) -> Policy:
    return PolicySource(store._policy, store.limits.base).current


def test_following_ends_where_loading_everything_ends(store: Store) -> None:
    source = store.source
    app, _ = store.apps.ensure("hello")
    steps: list[Callable[[], object]] = [
        lambda: allow(store, "api.example.com"),
        lambda: allow(store, "*.example.com", scope=app.id),
        lambda: store.rules.deny(expand_target("b.example.com", scope="", action="deny")),
        lambda: store.secrets.set(NewSecret("KEY", "value-of-secret", any_domain=True)),
        lambda: store.secrets.set(NewSecret("KEY", "value-of-secret-2", scope=app.id, domains=("a.example",))),
        lambda: store.limits.set("net.max_calls", 3),
        lambda: store.limits.set("net.max_calls", 2, app=app.id),
        lambda: store.apps.set_env(app.id, {"A": "1"}),
        lambda: store.deployments.deploy(app.id, []),
        lambda: store.secrets.remove("KEY"),
        lambda: store.rules.remove("api.example.com"),
        lambda: store.limits.reset("net.max_calls"),
        lambda: store.apps.ensure("second"),
        lambda: store.apps.remove("hello"),
    ]
    for step in steps:
        step()
        assert source.refresh()
        assert same(source.current, fresh(store))
    assert source.loads == 0


def test_a_snapshot_never_changes_and_is_kept_while_nothing_does(store: Store) -> None:
    source = store.source
    before = source.current
    assert source.refresh() and source.current is before
    allow(store, "api.example.com")
    assert source.refresh()
    assert not allowed(before) and allowed(source.current)
    assert source.current.revision == before.revision + 1


def test_listeners_hear_of_old_and_new_and_one_that_fails_harms_nobody(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    source = store.source
    heard: list[tuple[int, int]] = []
    feeds: list[Feed] = []

    def fails(old: Policy, new: Policy) -> None:
        raise ValueError("listener")

    source.listen(fails)
    source.listen(lambda old, new: heard.append((old.revision, new.revision)))
    source.watch(feeds.append)
    app, _ = store.apps.ensure("hello")
    store.deployments.deploy(app.id, [])
    assert source.refresh()
    first = source.current.revision
    assert heard == [(first - 2, first)]
    assert {change.kind for change in feeds[0].changes or ()} == {Kind.APP, Kind.DEPLOYMENT}
    assert "listener" in caplog.text


def test_a_reader_that_slept_too_long_loads_everything(store: Store) -> None:
    source = store.source
    for n in range(10):
        allow(store, f"h{n}.example.com")
    with store._policy.write() as connection:
        changes.trim(connection, keep=2)
    assert source.refresh()
    assert source.loads == 1
    assert same(source.current, fresh(store))


def test_F25_an_error_keeps_the_last_good_snapshot_and_says_so(
    store: Store, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    allow(store, "api.example.com")
    source = store.source
    good = source.current
    shutil.move(data / "policy.db", data / "elsewhere.db")
    started = time.time()
    assert not source.refresh()
    assert not source.refresh()
    assert source.current is good and allowed(good)
    assert source.error is not None and "gone" in source.error.message
    assert source.stale_since is not None and source.stale_since >= started
    assert caplog.text.count("going on with revision") == 1
    assert not (data / "policy.db").exists()
    shutil.move(data / "elsewhere.db", data / "policy.db")
    assert source.refresh()
    assert source.error is None and source.stale_since is None


def test_F25_rows_that_cannot_be_read_keep_the_last_good_snapshot(store: Store) -> None:
    allow(store, "api.example.com")
    source = store.source
    good = source.current
    with store._policy.write() as connection:
        connection.execute("UPDATE rules SET addresses = 'not json'")
        connection.execute("UPDATE revision SET value = value + 1")
        connection.execute(
            "INSERT INTO changes (revision, kind, scope, name) VALUES (3, 'rule', '', 'api.example.com')"
        )
    assert not source.refresh()
    assert source.current is good
    assert source.error is not None
    with pytest.raises(StoreError, match="cannot be read"):
        PolicySource(store._policy, store.limits.base)


def test_F25_the_first_load_of_a_damaged_database_is_an_error_and_not_an_empty_policy(store: Store) -> None:
    with store._policy.write() as connection:
        connection.execute("DROP TABLE rules")
    with pytest.raises(StoreError, match="rules"):
        _ = store.source


def test_F25_calls_never_wait_for_a_reload(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(store, "api.example.com")
    source = store.source
    loading, finish = threading.Event(), threading.Event()
    replacing = RuleIndex.replacing

    def slow(self: RuleIndex, changes: object) -> RuleIndex:
        loading.set()
        assert finish.wait(10)
        return replacing(self, changes)  # type: ignore[arg-type]

    monkeypatch.setattr(RuleIndex, "replacing", slow)
    allow(store, "b.example.com")
    thread = threading.Thread(target=source.refresh)
    thread.start()
    assert loading.wait(10)
    for _ in range(100):  # decided by the old snapshot, whole, while the new one is made
        assert allowed(source.current)
    finish.set()
    thread.join()
    assert len(source.current.rules) == 2


def test_a_database_put_back_from_a_backup_is_loaded_whole(store: Store, data: Path) -> None:
    allow(store, "old.example.com")
    store._policy.tidy()
    shutil.copy(data / "policy.db", data / "backup.db")
    source = store.source
    allow(store, "api.example.com")
    assert source.refresh() and allowed(source.current)
    store._policy.tidy()
    os.replace(data / "backup.db", data / "policy.db")
    assert source.refresh()
    assert source.loads == 1
    assert {rule.pattern for rule in source.current.rules.rules()} == {"old.example.com"}


def test_F25_an_empty_file_in_place_of_the_database_is_no_empty_policy(store: Store, data: Path) -> None:
    """As after a copy that was cut off; it must not become a new database either."""
    allow(store, "api.example.com")
    source = store.source
    (data / "nothing").write_bytes(b"")
    os.replace(data / "nothing", data / "policy.db")
    assert not source.refresh()
    assert source.error is not None and "is empty" in source.error.message
    assert allowed(source.current)
    assert (data / "policy.db").stat().st_size == 0


def test_the_log_takes_changed_limits_from_the_snapshot(store: Store) -> None:
    source = store.source
    log = store.log
    store.limits.set("net.log_buffer", 123)
    store.limits.set("storage.max_log_rows", 10_001)
    assert source.refresh()
    assert (log._capacity, log._max_rows) == (123, 10_001)


def test_a_change_in_the_same_process_is_seen_at_once(store: Store) -> None:
    source = PolicySource(store._policy, store.limits.base, poll=3600)
    store._policy.written = source.wake
    source.start()
    try:
        allow(store, "api.example.com")
        until(lambda: allowed(source.current))
    finally:
        source.stop()


def test_following_stops_when_told(store: Store) -> None:
    before = threading.active_count()
    source = store.source
    source.start()
    source.start()
    assert threading.active_count() == before + 1
    source.stop()
    source.stop()
    assert threading.active_count() == before


WATCHER = """
import sys
from pathlib import Path
from fazt.core.url import parse_url
from fazt.stores.sqlite import Store
with Store.open(Path(sys.argv[1])) as store:
    source = store.source
    url = parse_url("https://api.example.com/")
    def say(old, new):
        decision = type(new.rules.decide(app="", url=url, method="GET")).__name__
        secret = new.secrets.get(("", "KEY"))
        value = store.secrets.value("", "KEY") if secret else "-"
        print(decision, value, new.limits.net.max_calls, flush=True)
    source.listen(say)
    source.start()
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_F26_another_process_sees_rules_secrets_and_limits_within_a_second(data: Path) -> None:
    with Store.open(data) as store:
        store.limits.set("net.max_calls", 7)
        watcher = subprocess.Popen(
            [sys.executable, "-c", WATCHER, str(data)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert watcher.stdin is not None and watcher.stdout is not None
        assert watcher.stdout.readline() == "ready\n"
        waits = []

        def expect(change: Callable[[], object], line: str) -> None:
            assert watcher.stdout is not None
            change()
            started = time.monotonic()
            assert watcher.stdout.readline() == line + "\n"
            waits.append(time.monotonic() - started)

        expect(lambda: allow(store, "api.example.com"), "Allowed - 7")
        secret = NewSecret("KEY", "first-value-of-it", any_domain=True)
        expect(lambda: store.secrets.set(secret), "Allowed first-value-of-it 7")
        expect(lambda: store.secrets.set(NewSecret("KEY", "rotated-value-of-it")), "Allowed rotated-value-of-it 7")
        expect(lambda: store.limits.set("net.max_calls", 2), "Allowed rotated-value-of-it 2")
        expect(lambda: store.secrets.remove("KEY"), "Allowed - 2")
        expect(lambda: store.rules.remove("api.example.com"), "Refused - 2")
        watcher.stdin.close()
        assert watcher.wait(10) == 0
        watcher.stdout.close()
    assert sorted(waits)[len(waits) // 2] < 1.0  # the median: a busy machine may hold one of them up


def test_F26_revoking_ends_access_of_a_running_process(store: Store) -> None:
    allow(store, "api.example.com")
    store.secrets.set(NewSecret("KEY", "value-of-secret", domains=("api.example.com",)))
    source = store.source
    assert source.current.secret("", "KEY", "api.example.com", "https").name == "KEY"
    store.rules.remove("api.example.com")
    store.secrets.remove("KEY")
    assert source.refresh()
    assert isinstance(source.current.rules.decide(app="", url=URL, method="GET"), Refused)
    with pytest.raises(FaztError):
        source.current.secret("", "KEY", "api.example.com", "https")


def test_one_changed_host_among_many_is_not_a_full_load(store: Store) -> None:
    rules = [rule for n in range(1500) for rule in expand_target(f"h{n}.example.com", scope="")]
    store.rules.allow(rules, frozenset())
    source = store.source
    before = source.current.rules
    allow(store, "api.example.com")
    assert source.refresh()
    assert source.loads == 0
    shared = sum(old is new for old, new in zip(before._shards, source.current.rules._shards, strict=True))
    assert shared == len(before._shards) - 1
