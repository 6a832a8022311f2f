"""The data directory as a policy: names and ids, one store for all, changes, secrets, and forks."""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fazt import config
from fazt.client.data_policy import DataPolicy
from fazt.client.open_stores import STORES
from fazt.client.own_listeners import OwnListeners
from fazt.client.policies import Policy, PolicyChange
from fazt.core.addresses import judge
from fazt.core.gates import judge_rule
from fazt.core.record import CallRecord
from fazt.core.rules import expand_target
from fazt.core.url import parse_url
from fazt.errors import ConfigError, FaztError, Reason, StoreError
from fazt.stores.announcement import announced
from fazt.stores.sqlite.secret_rows import NewSecret
from fazt.stores.sqlite.store import Store
from tests.client.forking import Parent, forked

PATIENCE = 30.0
VALUE = "s3cr3t-0123456789"


@pytest.fixture
def data(tmp_path: Path) -> Iterator[str]:
    others = set(STORES._open)  # a client that the process shares may hold one of another test's
    yield str(tmp_path / "data")
    assert set(STORES._open) <= others  # every test gives its store back


def allow(store: Store, target: str, app: str | None = None) -> str:
    """Store a rule as `fazt net allow` does; return the app's id."""
    scope = "" if app is None else store.apps.ensure(app)[0].id
    store.rules.allow(expand_target(target, scope=scope), frozenset())
    assert store.source.refresh()
    return scope


def reason(policy: Policy, url: str) -> str | Reason:
    try:
        return judge_rule(policy.current, app=policy.app_id, url=parse_url(url), method="GET").id
    except FaztError as refused:
        return refused.reason


def granted(policy: Policy, url: str) -> bool:
    return str(reason(policy, url)).startswith("r_")


class Changes:
    """What a policy tells, in order."""

    def __init__(self, policy: Policy) -> None:
        self._told: queue.Queue[PolicyChange] = queue.Queue()
        self.stop = policy.watch(self._told.put)

    def next(self) -> PolicyChange:
        return self._told.get(timeout=PATIENCE)


def test_the_directory_is_made_and_allows_nothing(data: str) -> None:
    policy = DataPolicy(data=data)
    assert Path(data).stat().st_mode & 0o777 == 0o700
    assert (policy.app, policy.app_id, policy.error) == (None, "", None)
    assert reason(policy, "https://x.com/") is Reason.HOST_NOT_GRANTED
    assert isinstance(policy, Policy)
    policy.close()


def test_an_apps_rules_are_for_the_app(data: str) -> None:
    shop, other, mine = DataPolicy("shop", data=data), DataPolicy("other", data=data), DataPolicy(data=data)
    scope = allow(shop.store, "shop.com", "shop")
    allow(shop.store, "all.com")
    assert (shop.app, shop.app_id) == ("shop", scope)
    assert [granted(policy, "https://shop.com/") for policy in (shop, other, mine)] == [True, False, False]
    assert granted(shop, "https://all.com/")
    assert granted(mine, "https://all.com/")
    by_id = DataPolicy(scope, data=data)
    assert (by_id.app_id, granted(by_id, "https://shop.com/")) == (scope, True)
    for policy in (shop, other, mine, by_id):
        policy.close()


def test_a_call_for_an_app_that_does_not_exist_is_refused_until_it_does(data: str) -> None:
    policy = DataPolicy("later", data=data)
    allow(policy.store, "all.com")
    assert policy.app_id == "later"
    assert reason(policy, "https://all.com/") is Reason.HOST_NOT_GRANTED
    first = allow(policy.store, "later.com", "later")
    assert policy.app_id == first
    assert granted(policy, "https://later.com/")
    assert granted(policy, "https://all.com/")
    policy.store.apps.remove("later")
    assert policy.store.source.refresh()
    assert reason(policy, "https://all.com/") is Reason.HOST_NOT_GRANTED
    second = allow(policy.store, "other.com", "later")
    assert second != first
    assert policy.app_id == second
    assert not granted(policy, "https://later.com/")
    policy.close()


@pytest.mark.parametrize("app", ["", 3, b"shop"])
def test_an_app_that_cannot_be_named_is_an_error(data: str, app: object) -> None:
    with pytest.raises(ConfigError):
        DataPolicy(app, data=data)  # type: ignore[arg-type]


def test_a_directory_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    others = set(STORES._open)
    with pytest.raises((StoreError, ConfigError)):
        DataPolicy(data=str(tmp_path / "file"))
    assert set(STORES._open) <= others


def test_settings_of_file_and_environment_count(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(data).mkdir(mode=0o700)
    Path(data, "fazt.toml").write_text('resolve = "a.corp=10.0.0.1"\n[traffic]\nx = 1\n[telemetry]\ny = 2\n')
    monkeypatch.setenv("FAZT_DATA", data)
    monkeypatch.setenv("FAZT_RESOLVE", "b.corp=10.0.0.2,::1")
    policy = DataPolicy()
    assert policy.resolve == {"a.corp": ("10.0.0.1",), "b.corp": ("10.0.0.2", "::1")}
    assert (policy.traffic, policy.telemetry, policy.settings.data) == ({"x": 1}, {"y": 2}, Path(data))
    policy.close()
    given = DataPolicy(settings=config.load(data=data, environ={}))
    assert given.resolve == {"a.corp": ("10.0.0.1",)}
    given.close()
    monkeypatch.setenv("FAZT_RESOLVE", "nonsense")
    with pytest.raises(ConfigError):
        DataPolicy()


def test_all_policies_of_a_directory_share_one_store(data: str, tmp_path: Path) -> None:
    watchers = [thread.name for thread in threading.enumerate()].count("fazt-policy")
    one, two = DataPolicy(data=data), DataPolicy("shop", data=data)
    elsewhere = DataPolicy(data=str(tmp_path / "elsewhere"))
    assert one.store is two.store
    assert elsewhere.store is not one.store
    assert one.id == two.id != elsewhere.id
    assert one != two
    assert [thread.name for thread in threading.enumerate()].count("fazt-policy") == watchers + 2
    store = one.store
    one.close()
    one.close()
    with pytest.raises(FaztError) as caught:
        _ = one.current
    assert (caught.value.reason, caught.value.retryable) == (Reason.STORE, False)
    assert two.store is store
    with store.log._database.read():
        pass
    two.close()
    elsewhere.close()
    with pytest.raises(StoreError, match="closed"):
        store.rules.list()
    again = DataPolicy(data=data)
    assert again.store is not store
    again.close()


def test_changes_are_told_with_the_hosts_they_are_about(data: str) -> None:
    policy, other = DataPolicy("shop", data=data), DataPolicy(data=data)
    told, also = Changes(policy), Changes(other)
    scope = allow(policy.store, "shop.com", "shop")
    seen = [told.next()]
    while not seen[-1].hosts:  # the app's record and its rule may come in one change or in two
        seen.append(told.next())
    assert seen[-1].hosts == ((scope, "shop.com"),)
    assert (scope,) in [change.apps for change in seen]
    assert seen[0].old.revision < seen[-1].new.revision == policy.current.revision
    assert [also.next().hosts for _ in seen] == [change.hosts for change in seen]
    told.stop()
    policy.store.rules.remove("shop.com", scope=scope)
    assert also.next().hosts == ((scope, "shop.com"),)
    assert told._told.empty()
    policy.close()
    other.close()


def test_a_change_by_another_process_is_followed(data: str) -> None:
    policy = DataPolicy(data=data)
    told = Changes(policy)
    command = [sys.executable, "-m", "fazt", "net", "allow", "x.com", "--data", data]
    subprocess.run(command, check=True, capture_output=True)
    assert told.next().hosts == (("", "x.com"),)
    assert granted(policy, "https://x.com/")
    policy.close()


def test_secrets_come_out_of_the_vault_alone(data: str) -> None:
    policy = DataPolicy(data=data)
    meta = policy.store.secrets.set(NewSecret("K", VALUE, domains=("x.com",)))
    assert policy.store.source.refresh()
    assert policy.current.secret("", "K", "x.com", "https") == meta
    assert policy.vault.value("", "K", version=meta.version) == VALUE
    assert VALUE not in repr(policy) + repr(policy.vault)
    allow(policy.store, "x.com")
    found = policy.explain("https://x.com/", secret="K")
    assert "K may go to x.com" in str(found)
    policy.close()
    with pytest.raises(FaztError):
        policy.vault.value("", "K")


def test_records_go_to_the_log_of_the_directory(data: str) -> None:
    policy = DataPolicy(data=data)
    sink, store = policy.sink, policy.store
    sink.append(CallRecord("c_00000000000000000001", 1.0, "", "client"))
    policy.close()
    sink.append(CallRecord("c_00000000000000000002", 1.0, "", "client"))  # lost, but no error for who made the call
    assert store is not None
    with Store.open(Path(data)) as again:
        assert [row.record.call_id for row in again.log.calls()] == ["c_00000000000000000001"]


def test_limits_of_the_app(data: str) -> None:
    policy, everybody = DataPolicy("shop", data=data), DataPolicy(data=data)
    scope = allow(policy.store, "x.com", "shop")
    policy.store.limits.set("net.rate_limit", 7, app=scope)
    assert policy.store.source.refresh()
    assert (policy.limits.net.rate_limit, everybody.limits.net.rate_limit) == (7, 0)
    policy.close()
    everybody.close()


def test_explain_names_the_command(data: str) -> None:
    policy = DataPolicy("shop", data=data, settings=config.load(data=data, resolve="x.com=93.184.215.14"))
    found = policy.explain("https://x.com/v1", "POST")
    assert found.reason is Reason.HOST_NOT_GRANTED
    assert found.fix == f"fazt net allow x.com --app shop --method POST --path /v1 --data {data}"
    subprocess.run([sys.executable, "-m", *found.fix.split()], check=True, capture_output=True)
    assert policy.store.source.refresh()
    assert policy.explain("https://x.com/v1", "POST").allowed
    assert not policy.explain("https://x.com/v1", "POST", app="other").allowed
    assert policy.explain("https://x.com/v1", "POST", app="not a name!").fix is None
    policy.close()


def test_the_server_of_the_directory_is_reached_under_no_rule(data: str) -> None:
    policy = DataPolicy(settings=config.load(data=data, environ={}, resolve="x.com=127.0.0.1 y.com=127.0.0.2"))
    for host in ("x.com", "y.com"):
        rules = expand_target(f"http://{host}:7878", scope="", addresses=["127.0.0.0/8"])
        policy.store.rules.allow(rules, frozenset({"addresses"}))
    assert policy.store.source.refresh()
    assert list(policy.own_listeners) == []
    assert policy.explain("http://x.com:7878/").allowed
    with announced(Path(data)) as file:
        file.write("http://0.0.0.0:7878", [("0.0.0.0", 7878)])
        other = OwnListeners(Path(data))
        assert ("127.0.0.1", 7878) in other
        assert ("127.0.0.1", 7879) not in other
        assert len(other) > 1
        for host in ("x.com", "y.com"):
            with pytest.raises(FaztError) as caught:
                judge(policy.resolve[host], port=7878, grant=("127.0.0.0/8",), own=other)
            assert caught.value.reason is Reason.OWN_LISTENER
        policy._set("_own", other)  # else it is found within half a second
        found = policy.explain("http://x.com:7878/")
        assert (found.reason, found.fix) == (Reason.OWN_LISTENER, None)
    policy.close()


def test_it_pickles_as_what_it_was_made_of(data: str) -> None:
    policy = DataPolicy("shop", data=data)
    again = pickle.loads(pickle.dumps(policy))
    assert (again.app, again.id, again.store) == ("shop", policy.id, policy.store)
    again.close()
    policy.close()


def test_a_forked_child_opens_its_own_and_outlives_its_parents(data: str) -> None:
    policy = DataPolicy("shop", data=data)
    allow(policy.store, "before.com", "shop")
    told: list[PolicyChange] = []
    policy.watch(told.append)
    vault, sink, parents = policy.vault, policy.sink, policy.store
    policy.store.secrets.set(NewSecret("K", VALUE, domains=("x.com",)))

    def child(parent: Parent) -> None:
        inherited = [thread.name for thread in threading.enumerate()]
        descriptors = _open_files(data)
        seen = granted(policy, "https://before.com/")
        again, before = Changes(policy), len(told)
        parent.say((inherited, descriptors, seen, policy.store is not parents, vault.value("", "K")))
        parent.wait()  # the parent has closed its store; another process writes
        while not granted(policy, "https://after.com/"):
            again.next()
        sink.append(CallRecord("c_00000000000000000003", 1.0, policy.app_id, "client"))
        policy.close()
        parent.say(len(told) == before)  # who watched in the parent is not told here

    with forked(child) as far:
        assert far.hear() == (["MainThread"], [], True, True, VALUE)
        assert granted(policy, "https://before.com/")  # the parent goes on as before
        with parents.rules._policy.write():
            pass
        policy.close()
        command = [sys.executable, "-m", "fazt", "net", "allow", "after.com", "--app", "shop", "--data", data]
        subprocess.run(command, check=True, capture_output=True)
        far.go()
        assert far.hear()
    with Store.open(Path(data)) as store:
        assert [row.record.call_id for row in store.log.calls()] == ["c_00000000000000000003"]


def test_a_child_that_cannot_open_the_directory_says_so_by_a_coded_error(data: str) -> None:
    policy = DataPolicy(data=data)

    def child(parent: Parent) -> None:
        os.rename(data, data + ".gone")
        Path(data).write_text("")
        try:
            _ = policy.current
        except FaztError as refused:
            parent.say((refused.reason.value, refused.code.value))
        policy.sink.append(CallRecord("c_00000000000000000004", 1.0, "", "client"))  # must not raise
        os.unlink(data)
        os.rename(data + ".gone", data)
        parent.say(policy.current.revision)

    with forked(child) as far:
        assert far.hear() == ("store", "NET_ERROR")
        assert far.hear() == 1
    policy.close()


SCRIPT = """
import multiprocessing, sys
from fazt.client.data_policy import DataPolicy
from fazt.core.record import CallRecord

def work(policy, number):
    policy.current
    policy.sink.append(CallRecord(f"c_{number:020x}", 1.0, "", "client"))

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    policy = DataPolicy(data=sys.argv[2])
    work(policy, 1)
    children = [context.Process(target=work, args=(policy, number)) for number in (2, 3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    sys.exit(max(child.exitcode for child in children))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing_lose_no_record_at_their_end(data: str, tmp_path: Path, method: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script), method, data], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with Store.open(Path(data)) as store:  # none of them closed its policy
        found = sorted(row.record.call_id for row in store.log.calls())
    assert found == [f"c_{number:020x}" for number in (1, 2, 3)]


def _open_files(below: str) -> list[str]:
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{entry}"))
        except OSError:
            continue
    return [name for name in found if name.startswith(below)]
