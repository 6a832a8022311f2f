"""A policy in a TOML file: strict reading, and changes that every process sees while a broken edit changes nothing."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import queue
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trustme

from fazt.client import policy_file
from fazt.client.policies import Policy, PolicyChange, Rule
from fazt.client.policy_file import FilePolicy
from fazt.core.gates import judge_rule
from fazt.core.public import PUBLIC_RULE
from fazt.core.url import parse_url
from fazt.errors import ConfigError, FaztError, Reason
from tests.client.forking import Parent, forked

PATIENCE = 30.0
WHOLE = """
name = "crawler"
ca_file = "ca.pem"
allow = ["api.github.com", { target = "*.example.com", methods = ["GET"] }]

[[deny]]
target = "*.tracker.example"

[[deny]]
target = "api.github.com"
paths = ["/admin"]

[public]
ports = [443, 8443]
rate = "2/second"
burst = 5
max_bytes = 1000
https_only = true

[resolve]
"intranet.corp" = ["10.1.2.3"]
"x.corp" = "10.1.2.4"

[secrets.GITHUB]
value_env = "GITHUB_TOKEN"
domains = ["api.github.com"]

[secrets."a.b"]
value_file = "b.token"
any_domain = true
kind = "header"
key = "X-Key"

[traffic]
wait = 1

[telemetry.console]
attempts = true
"""
VALUE = "t0ken-0123456789"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with all that `WHOLE` names."""
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    (tmp_path / "b.token").write_text("file-value-0123456789\n")
    monkeypatch.setenv("GITHUB_TOKEN", VALUE)
    return tmp_path


def put(path: Path, text: str) -> None:
    """Write a file as an editor does: beside it, then in its place."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    os.replace(beside, path)


def reason(policy: Policy, url: str, method: str = "GET") -> str | Reason:
    try:
        return judge_rule(policy.current, app="", url=parse_url(url), method=method).id
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

    def empty(self) -> bool:
        return self._told.empty()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_everything_a_file_may_say(home: Path) -> None:
    path = home / "policy.toml"
    path.write_text(WHOLE)
    policy = Policy.from_file(path)
    assert isinstance(policy, FilePolicy)
    assert (policy.name, policy.path, policy.error, policy.current.revision) == ("crawler", path, None, 1)
    assert granted(policy, "https://api.github.com/x")
    assert reason(policy, "https://api.github.com/admin/x") is Reason.DENIED_BY_RULE
    assert reason(policy, "https://a.example.com/", "POST") is Reason.METHOD_NOT_GRANTED
    assert reason(policy, "https://a.tracker.example/") is Reason.DENIED_BY_RULE
    assert reason(policy, "https://other.com:8443/") == PUBLIC_RULE
    assert reason(policy, "http://other.com/") is Reason.SCHEME_NOT_ALLOWED
    public = policy.current.public
    assert public is not None
    assert (public.ports, public.rate, public.burst, public.max_response) == ((443, 8443), 120, 5, 1000)
    assert policy.resolve == {"intranet.corp": ("10.1.2.3",), "x.corp": ("10.1.2.4",)}
    assert policy.ca_files == (home / "ca.pem",)
    assert policy.vault.value("", "GITHUB") == VALUE
    assert policy.vault.value("", "a.b") == "file-value-0123456789"
    assert policy.current.secret("", "a.b", "x.com", "https").key == "X-Key"
    assert (policy.traffic, policy.telemetry) == ({"wait": 1}, {"console": {"attempts": True}})
    assert VALUE not in repr(policy) + repr(policy.vault) + repr(policy.current)


def test_an_empty_file_allows_nothing(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text("")
    policy = Policy.from_file(str(path))
    assert policy.name == "p.toml"
    assert reason(policy, "https://x.com/") is Reason.HOST_NOT_GRANTED


def test_every_argument_of_a_rule_has_a_key(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(
        '[[allow]]\ntarget = "x.com"\naddresses = ["10.0.0.0/8"]\nmethods = ["GET"]\npaths = ["/a", "/b"]\n'
        'ports = [8443]\nrate = "1/second"\nburst = 2\ntimeout = 1.5\nmax_response = 10\ncache_ttl = 3\n'
        "http = true\npath_encoded_slash = true\nshared_suffix = true\n"
    )
    wanted = Rule(
        "x.com",
        addresses=["10.0.0.0/8"],
        methods=["GET"],
        paths=["/a", "/b"],
        ports=[8443],
        rate="1/second",
        burst=2,
        timeout=1.5,
        max_response=10,
        cache_ttl=3,
        http=True,
        path_encoded_slash=True,
        shared_suffix=True,
    )
    found = set(Policy.from_file(path).current.rules.rules())
    assert found == set(wanted.expand("allow"))


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        ("x = ", "", "cannot be read", "toml.io"),
        ("name = 3", ", line 1", "name is text", ""),
        ('\nalow = ["x.com"]', ", line 2", "unknown key 'alow'", "did you mean allow?"),
        ("zzz = 1", ", line 1", "unknown key 'zzz'", "known keys: name"),
        ('allow = "x.com"', ", line 1", "allow is a list", "[[allow]]"),
        ("allow = [3]", ", line 1", "no rule", ""),
        ('[[allow]]\nport = 3\ntarget = "x.com"', ", line 2", "[[allow]] number 1: unknown key 'port'", "ports?"),
        (
            '[[allow]]\ntarget = "y.com"\n\n[[allow]]  # two\ntarget = "x.com"\nadresses = []',
            ", line 6",
            "[[allow]] number 2: unknown key 'adresses'",
            "did you mean addresses?",
        ),
        ('[[deny]]\nmethods = ["GET"]', ", line 1", "[[deny]] number 1: a rule needs a target", "target ="),
        ('[[deny]]\ntarget = "x.com"\nrate = 3', ", line 1", "a deny takes no settings", ""),
        ('[[allow]]\ntarget = "*.com"', ", line 1", "anybody can register", ""),
        ('[[allow]]\ntarget = "x.com:80"', ", line 1", "which scheme port 80", 'target = "http://x.com:80"'),
        ('[[allow]]\ntarget = "https://x.com"\nports = [1]', ", line 1", "names its port", "with ports = [N]"),
        ('[[allow]]\ntarget = "x.com"\npaths = "/v1"', ", line 1", "paths is a list", "paths = ['/v1']"),
        ('[[allow]]\ntarget = "u:p@x.com"', ", line 1", "without user name", "[secrets.NAME]"),
        ('[[allow]]\ntarget = "10.0.0.1"', ", line 1", "IP address", '[resolve] "NAME" = ["ADDRESS"]'),
        ('[[allow]]\ntarget = "x.com"\ninject = "K"', "", "no secret of this policy", "[secrets.K] with domains"),
        ("public = 3", ", line 1", "public is no table", "[public]"),
        ("[public]\nport = [80]", ", line 2", "[public]: unknown key 'port'", "did you mean ports?"),
        ('[public]\nrate = "x"', ", line 1", "[public]: rate", ""),
        ('[public]\naddresses = ["10.0.0.0/8"]', ", line 2", "unknown key 'addresses'", ""),
        ("[resolve]\nx = 3", ", line 1", "needs addresses", ""),
        ('[resolve]\n"x.com" = ["y"]', "", "is not an IP address", '"api.example.com" = ["192.0.2.1"]'),
        ("resolve = 3", ", line 1", "resolve is no table", "[resolve]"),
        ("ca_file = 3", ", line 1", "ca_file is the path", ""),
        ('ca_file = "nope.pem"', ", line 1", "does not exist", "PEM"),
        ("traffic = 3", ", line 1", "traffic is no table", "[traffic]"),
        ('[traffic]\nrate = "10"', ", line 2", "traffic.rate: '10' is no rate", "10/second"),
        ("[traffic]\nwait = 1\n[traffic.retry]\nattempt = 3", ", line 4", "'traffic.retry.attempt'", "attempts"),
        ('[traffic.hosts."x.com"]\nrte = "1/second"', ", line 2", "'traffic.hosts.x.com.rte'", "rate?"),
        ("[services.x]\nretry = true", ", line 1", "unknown key 'services'", "[traffic.services]"),
        ('[telemetry.jsnl]\npath = "x"', ", line 1", "no sink 'jsnl'", "jsonl"),
        ("[telemetry]\n[telemetry.jsonl]\nmax_bytes = 1", ", line 2", "telemetry.jsonl: path is missing", ""),
        ('allow = ["x.com:80"]', ", line 1", "which scheme port 80", ""),
        ("[secrets]\nK = 'v'", ", line 2", "secrets.K is no table", "value_env"),
        ('[secrets.K]\nvalue = "v4lu3-in-file"\n', ", line 2", "holds no secret's value", "value_env"),
        ('[secrets.K]\ndomains = ["x.com"]\n', ", line 1", "either value_env or value_file", "value_env"),
        ('[secrets.K]\nvalue_env = "A"\nvalue_file = "b"', ", line 1", "either value_env or value_file", ""),
        ("[secrets.K]\nvalue_env = 3", ", line 1", "as text", ""),
        ('[secrets.K]\nvalue_env = "NOT_SET"\n', ", line 1", "NOT_SET is not set", ""),
        ('[secrets.K]\nvalue_file = "nope"\n', ", line 1", "nope cannot be read", ""),
        ('[secrets.K]\nvalue_file = "binary"\n', ", line 1", "holds no text", ""),
        ('[secrets.K]\nvalue_env = "SET"\n', ", line 1", "needs a host", ""),
        ('[secrets.K]\nvalue_env = "SET"\ndomain = ["x.com"]', ", line 3", "unknown key 'domain'", "domains?"),
        ('[secrets."1 2"]\nvalue_env = "SET"\nany_domain = true', "", "cannot be the name", ""),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, place: str, message: str, hint: str
) -> None:
    monkeypatch.setenv("SET", VALUE)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Policy.from_file(path)
    error = caught.value
    assert error.message.startswith(f"{path}{place}")
    assert message in error.message
    assert hint in (error.hint or "")
    said = "".join(traceback.format_exception_only(error))
    assert VALUE not in said
    assert "v4lu3" not in said
    assert "--" not in error.message


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Policy.from_file(tmp_path / "nope.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        Policy.from_file(tmp_path)
    (tmp_path / "latin.toml").write_bytes('name = "é"'.encode("latin-1"))
    with pytest.raises(ConfigError, match="cannot be read"):
        Policy.from_file(tmp_path / "latin.toml")


def test_a_change_is_seen_and_told(home: Path) -> None:
    path = home / "policy.toml"
    path.write_text('allow = ["a.com", "b.com"]\n')
    policy = Policy.from_file(path)
    before = policy.current
    told = Changes(policy)
    put(path, 'allow = ["b.com", "c.com"]\n[resolve]\n"c.com" = ["10.0.0.1"]\n')
    change = told.next()
    assert (change.old, change.new) == (before, policy.current)
    assert change.hosts == (("", "a.com"), ("", "c.com"))
    assert change.network
    assert policy.current.revision == 2
    assert reason(policy, "https://a.com/") is Reason.HOST_NOT_GRANTED
    assert policy.resolve == {"c.com": ("10.0.0.1",)}
    put(path, 'allow = ["b.com", "c.com"]\n[resolve]\n"c.com" = ["10.0.0.1"]\n[public]\n')
    change = told.next()
    assert (change.hosts, change.network) == (None, False)
    assert reason(policy, "https://a.com/") == PUBLIC_RULE
    told.stop()
    put(path, "")
    until(lambda: policy.current.revision == 4)
    assert told.empty()


def test_a_file_written_in_place_is_seen_too(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('allow = ["a.com"]')
    policy = Policy.from_file(path)
    for name in ("b.com", "c.com", "a.com"):  # of one size, and perhaps within one tick of the file system's clock
        path.write_text(f'allow = ["{name}"]')
        until(partial(granted, policy, f"https://{name}/"))


def test_a_broken_edit_keeps_the_last_good_policy_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('allow = ["a.com"]')
    policy = Policy.from_file(path)
    told = Changes(policy)
    good = policy.current
    with caplog.at_level(logging.INFO, "fazt.policy"):
        put(path, 'alow = ["b.com"]')
        until(lambda: policy.error is not None)
        assert policy.current is good
        assert "unknown key 'alow'" in str(policy.error)
        os.utime(path)  # looked at again, and no better
        until(lambda: _looked(policy))
        path.unlink()
        until(lambda: "cannot be read" in str(policy.error))
        assert policy.current is good
        put(path, 'allow = ["a.com"]')
        until(lambda: policy.error is None)
        assert policy.current is good  # nothing changed in the end
        put(path, 'allow = ["b.com"]')
        assert told.next().new is policy.current
    said = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "fazt.policy"]
    assert [level for level, _ in said] == ["WARNING", "WARNING", "INFO"]
    assert "did you mean allow?" in said[0][1]
    assert "last good policy, revision 1" in said[0][1]


def test_a_secret_is_taken_anew_when_its_file_changes(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first-value-0123\n")
    (tmp_path / "other").write_text("other-value-0123")
    path = tmp_path / "policy.toml"
    path.write_text(
        '[secrets.K]\nvalue_file = "token"\ndomains = ["x.com"]\n'
        '[secrets.O]\nvalue_file = "other"\ndomains = ["x.com"]\n'
    )
    policy = Policy.from_file(path)
    told = Changes(policy)
    old, kept = (policy.current.secret("", name, "x.com", "https") for name in ("K", "O"))
    put(tmp_path / "token", "second-value-0123\r\n")
    change = told.next()
    assert change.hosts == ()
    new = policy.current.secret("", "K", "x.com", "https")
    assert policy.vault.value("", "K", version=new.version) == "second-value-0123"
    with pytest.raises(FaztError) as caught:  # a call that was judged before must not send what it was not judged for
        policy.vault.value("", "K", version=old.version)
    assert (caught.value.reason, caught.value.retryable) == (Reason.STORE, True)
    assert policy.current.secret("", "O", "x.com", "https") == kept
    assert policy.vault.value("", "O", version=kept.version) == "other-value-0123"


def test_other_certificate_authorities_are_told_as_a_change_of_the_network(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    path = tmp_path / "policy.toml"
    path.write_text('ca_file = ["ca.pem"]')
    policy = Policy.from_file(path)
    told = Changes(policy)
    put(tmp_path / "ca.pem", trustme.CA().cert_pem.bytes().decode())
    change = told.next()
    assert (change.network, change.hosts) == (True, ())


def test_one_who_fails_does_not_keep_others_from_being_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("")
    policy = Policy.from_file(path)

    def fail(change: PolicyChange) -> None:
        raise RuntimeError(str(change.new.revision))

    policy.watch(fail)
    told = Changes(policy)
    put(path, 'allow = ["a.com"]')
    assert told.next().new.revision == 2
    assert "a listener to changes" in caplog.text
    put(path, "")
    assert told.next().new.revision == 3


def test_a_call_never_looks_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('allow = ["a.com"]')
    policy = Policy.from_file(path)
    policy.close()
    monkeypatch.setattr(os, "stat", lambda *_: pytest.fail("a call looked at the file"))
    monkeypatch.setattr(Path, "read_bytes", lambda *_: pytest.fail("a call read the file"))
    assert granted(policy, "https://a.com/")


def test_a_closed_policy_keeps_its_last_good_state(tmp_path: Path) -> None:
    path, other = tmp_path / "policy.toml", tmp_path / "other.toml"
    path.write_text('allow = ["a.com"]')
    other.write_text("")
    policy, witness = Policy.from_file(path), Policy.from_file(other)
    told = Changes(witness)
    policy.close()
    policy.close()
    put(path, "")
    put(other, 'allow = ["a.com"]')
    told.next()
    assert granted(policy, "https://a.com/")


def test_one_thread_follows_all_files_and_holds_none_of_the_policies(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text("")
    policies = [Policy.from_file(tmp_path / name) for name in "abc"]
    assert [thread.name for thread in threading.enumerate()].count("fazt-policy-files") == 1
    gone = [weakref.ref(policy) for policy in policies]
    policies.clear()
    until(lambda: gc.collect() >= 0 and all(reference() is None for reference in gone))


def test_two_of_one_file_are_two_policies_with_one_id(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("")
    one, two = Policy.from_file(path), Policy.from_file(path)
    assert one != two
    assert len({one, two}) == 2
    assert one.id == two.id
    again = pickle.loads(pickle.dumps(one))
    assert (again.id, again.path) == (one.id, path)


def test_a_forked_child_sees_changes_made_since_and_follows_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('allow = ["a.com"]')
    policy = Policy.from_file(path)
    told = Changes(policy)

    def child(parent: Parent) -> None:
        inherited = [thread.name for thread in threading.enumerate()]
        parent.wait()  # the file changes while nobody in this process looks
        seen = str(reason(policy, "https://b.com/"))
        parent.say((inherited, seen, [thread.name for thread in threading.enumerate()]))
        parent.wait()
        until(lambda: granted(policy, "https://c.com/"))
        parent.say(told.empty())

    with forked(child) as far:
        put(path, 'allow = ["b.com"]')
        far.go()
        inherited, seen, threads = far.hear()
        assert inherited == ["MainThread"]
        assert seen.startswith("r_")
        assert "fazt-policy-files" in threads
        put(path, 'allow = ["c.com"]')
        far.go()
        assert far.hear()  # who watched in the parent is not told by the child
    until(lambda: granted(policy, "https://c.com/"))


def test_explain_writes_tables(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('[resolve]\n"x.com" = ["10.0.0.1"]\n')
    policy = Policy.from_file(path)
    found = policy.explain("https://x.com:8443/v1", "POST", secret="K")
    assert found.fix is not None
    os.environ["TOKEN"] = VALUE
    try:
        put(path, f'{found.fix.replace("…", "TOKEN")}\n[resolve]\n"x.com" = ["10.0.0.1"]\n')
        assert Policy.from_file(path).explain("https://x.com:8443/v1", "POST", secret="K").allowed
    finally:
        del os.environ["TOKEN"]


def _looked(policy: Policy) -> bool:
    assert isinstance(policy, FilePolicy)
    return policy._seen == policy_file._stamp(policy._files)
