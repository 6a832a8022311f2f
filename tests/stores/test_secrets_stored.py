"""Secrets at rest: sealed, bound to their row, opened at use, useless in a copy."""

from __future__ import annotations

import base64
import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from fazt.errors import ConfigError, FaztError, NotFoundError, Reason, StoreError
from fazt.stores.sqlite import NewSecret, Store
from fazt.stores.sqlite.keys import EnvironmentKey, KeyFile, key_provider

CANARY = "sk_live_CANARY0123456789abcdef"
HOST = ("api.example.com",)


def put(store: Store, value: str = CANARY, *, name: str = "KEY", **fields: object) -> NewSecret:
    secret = replace(NewSecret(name, value, domains=HOST), **fields)  # type: ignore[arg-type]
    store.secrets.set(secret, actor="cli:ann")
    return secret


def forms(value: str) -> list[bytes]:
    """Return a value as it might lie in a file: plain, reversed, hex, base64 in its three alignments."""
    raw = value.encode()
    found = [raw, raw[::-1], raw.hex().encode()]
    for pad in range(3):
        text = base64.b64encode(b"\0" * pad + raw).rstrip(b"=")
        found.append(text[4:-4])
    return found


def test_a_secret_comes_back_and_is_masked_in_listings(store: Store) -> None:
    put(store, kind="header", key="X-Api-Key")
    (info,) = store.secrets.list()
    assert store.secrets.value("", "KEY") == CANARY
    assert (info.meta.kind, info.meta.key, info.meta.domains) == ("header", "X-Api-Key", HOST)
    assert info.masked is not None and CANARY not in info.masked and "****" in info.masked
    assert CANARY not in repr(info) + repr(store.secrets) + repr(NewSecret("KEY", CANARY))


def test_F2_rotating_a_global_secret_is_effective_at_once(store: Store) -> None:
    put(store, "first-value-of-it")
    put(store, "second-value-of-it")
    assert store.secrets.value("", "KEY") == "second-value-of-it"
    assert len(store.secrets.list()) == 1


def test_a_copied_data_directory_holds_no_usable_secret(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    with Store.open(data) as store:
        app, _ = store.apps.ensure("hello")
        put(store)
        put(store, scope=app.id, name="SECOND")
        put(store, "replacement-" + CANARY)
        store.secrets.remove("SECOND", scope=app.id)
        assert store.warnings == []
        shutil.copytree(data, copy)  # while it is open: with the write-ahead log
        content = b"".join(path.read_bytes() for path in copy.iterdir())
        key_files = [path for path in copy.iterdir() if "key" in path.name]
    for form in forms(CANARY):
        assert form not in content
    assert key_files == []
    with Store.open(copy, keys=EnvironmentKey(base64.b64encode(os.urandom(32)).decode())) as stolen:
        with pytest.raises(StoreError, match="does not fit"):
            stolen.secrets.value("", "KEY")
        assert [info.masked for info in stolen.secrets.list()] == [None]


def test_the_key_file_is_private_and_outside_the_data_directory(data: Path) -> None:
    with Store.open(data) as store:
        put(store)
        path = Path(os.environ["XDG_CONFIG_HOME"]) / "fazt" / "keys" / f"{store.data_id}.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(base64.b64decode(path.read_text())) == 32
    with Store.open(data) as store:
        assert store.secrets.value("", "KEY") == CANARY


def test_a_key_file_that_others_may_read_is_refused(data: Path) -> None:
    with Store.open(data) as store:
        put(store)
        path = Path(os.environ["XDG_CONFIG_HOME"]) / "fazt" / "keys" / f"{store.data_id}.key"
    path.chmod(0o640)
    with Store.open(data) as store, pytest.raises(StoreError, match="others may read"):
        store.secrets.value("", "KEY")


def test_a_lost_key_is_one_clear_error_and_never_a_new_key(data: Path) -> None:
    with Store.open(data) as store:
        put(store)
        path = Path(os.environ["XDG_CONFIG_HOME"]) / "fazt" / "keys" / f"{store.data_id}.key"
    path.unlink()
    with Store.open(data) as store:
        for attempt in (
            lambda: store.secrets.value("", "KEY"),
            lambda: put(store, name="OTHER"),
            store.secrets.rekey,
            store.secrets.warm,
        ):
            with pytest.raises(StoreError, match="is missing") as caught:
                attempt()
            assert str(path) in str(caught.value)
            assert "FAZT_SECRETS_KEY" in (caught.value.hint or "")
        assert not path.exists()
        store.secrets.remove("KEY")  # the way out that the hint names
        put(store, "a-new-beginning")
        assert store.secrets.value("", "KEY") == "a-new-beginning"


def test_without_a_home_the_key_lies_in_the_data_directory_with_a_warning(data: Path, tmp_path: Path) -> None:
    data.mkdir(mode=0o700)
    for environ in ({}, {"HOME": str(tmp_path / "nowhere")}, {"XDG_CONFIG_HOME": "/proc/no/such"}):
        provider = key_provider("abc", data, environ=environ)
        key = provider.create()
        assert provider.load() == (key,)
        assert "beside them" in provider.warnings[0]
        assert stat.S_IMODE((data / "secrets.key").stat().st_mode) == 0o600
    assert not (tmp_path / "nowhere").exists()


def test_a_key_whose_home_lies_in_the_data_directory_is_warned_about(data: Path) -> None:
    """As in a container with one volume, HOME=/data and FAZT_DATA=/data: a copy of it holds secrets and key."""
    data.mkdir(mode=0o700)
    (data.parent / "link").symlink_to(data)
    for home in (data, data / "home", data.parent / "link"):
        home.mkdir(exist_ok=True)
        provider = key_provider(f"{home.name}0", data, environ={"HOME": str(home)})
        key = provider.create()
        assert "beside them" in provider.warnings[0]
        again = key_provider(f"{home.name}0", data, environ={"HOME": str(home)})
        assert again.load() == (key,)
        assert "beside them" in again.warnings[0]


def test_two_processes_that_need_the_first_key_agree(tmp_path: Path) -> None:
    one = KeyFile("abc", directory=tmp_path / "config" / "fazt" / "keys", fallback=tmp_path)
    two = KeyFile("abc", directory=tmp_path / "config" / "fazt" / "keys", fallback=tmp_path)
    assert one.create() == two.create() == two.load()[0]


@pytest.mark.parametrize("text", ["short", "!" * 44, base64.b64encode(b"x" * 31).decode(), "ä" * 44])
def test_a_bad_key_in_the_environment_is_refused_without_being_repeated(data: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        key_provider("abc", data, environ={"FAZT_SECRETS_KEY": text})
    assert text not in str(caught.value) + str(caught.value.hint)


def test_rows_cannot_be_swapped_or_redirected(store: Store) -> None:
    app, _ = store.apps.ensure("hello")
    put(store)
    put(store, "another-value-here", name="OTHER", scope=app.id)
    with store._policy.write() as connection:
        nonce, sealed = connection.execute("SELECT nonce, sealed FROM secrets WHERE name = 'KEY'").fetchone()
        connection.execute("UPDATE secrets SET nonce = ?, sealed = ? WHERE name = 'OTHER'", (nonce, sealed))
        connection.execute("UPDATE secrets SET domains = '[\"evil.example\"]' WHERE name = 'KEY'")
    for scope, name in (("", "KEY"), (app.id, "OTHER")):
        with pytest.raises(StoreError, match="altered") as caught:
            store.secrets.value(scope, name)
        assert CANARY not in str(caught.value)
    assert [info.masked for info in store.secrets.list()] == [None, None]


@pytest.mark.parametrize("column", ["scope", "name", "key", "kind", "any_domain", "version"])
def test_every_column_that_decides_is_bound(store: Store, column: str) -> None:
    put(store, kind="header", key="X-Key")
    change = {"scope": "'x'", "name": "'NEW'", "key": "'X-Other'", "kind": "'query'", "any_domain": "1"}
    with store._policy.write() as connection:
        connection.execute(f"UPDATE secrets SET {column} = {change.get(column, '99')}")
        scope, name = connection.execute("SELECT scope, name FROM secrets").fetchone()
    with pytest.raises(StoreError, match="altered"):
        store.secrets.value(scope, name)


def test_a_secret_needs_a_host_or_the_word(store: Store) -> None:
    with pytest.raises(ConfigError, match="needs a host") as caught:
        store.secrets.set(NewSecret("KEY", CANARY))
    assert CANARY not in str(caught.value) + repr(caught.value)
    with pytest.raises(ConfigError, match="exclude"):
        put(store, any_domain=True)
    assert store.secrets.set(NewSecret("KEY", CANARY, any_domain=True)).any_domain
    assert store.secrets.set(NewSecret("K2", CANARY, domains=("API.Example.com.", "*.b.example"))).domains == (
        "*.b.example",
        "api.example.com",
    )


@pytest.mark.parametrize("domain", ["*.com", "*", "127.0.0.1", "a b", "https://x.example", "*.github.io"])
def test_a_domain_that_is_none_or_too_wide_is_refused(store: Store, domain: str) -> None:
    with pytest.raises(ConfigError, match="--domain"):
        put(store, domains=(domain,))


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "cookie"},
        {"kind": "header"},
        {"kind": "query", "key": ""},
        {"kind": "bearer", "key": "X"},
        {"kind": "header", "key": "Host"},
        {"name": "no good"},
        {"value": "line\nbreak"},
        {"value": ""},
        {"scope": "fazt_app_000000000000"},
    ],
)
def test_what_cannot_be_injected_is_refused_at_writing(store: Store, fields: dict[str, object]) -> None:
    with pytest.raises((ConfigError, NotFoundError)):
        put(store, **fields)
    assert store.secrets.list() == []


def test_rotating_keeps_what_is_not_named(store: Store) -> None:
    put(store, kind="header", key="X-Key", domains=("*.example.com",))
    meta = store.secrets.set(NewSecret("KEY", "rotated-value"))
    assert (meta.kind, meta.key, meta.domains) == ("header", "X-Key", ("*.example.com",))
    meta = store.secrets.set(NewSecret("KEY", "rotated-value", kind="bearer"))
    assert (meta.kind, meta.key) == ("bearer", "")
    with pytest.raises(ConfigError):
        store.secrets.set(NewSecret("KEY", "rotated-value", domains=()))


def test_importing_many_is_all_or_nothing(store: Store) -> None:
    good = NewSecret("ONE", "value-number-one", domains=HOST)
    with pytest.raises(ConfigError):
        store.secrets.set_many([good, NewSecret("TWO", "value-number-two")])
    assert store.secrets.list() == []
    store.secrets.set_many([good, NewSecret("TWO", "value-number-two", domains=HOST)])
    assert [info.meta.name for info in store.secrets.list()] == ["ONE", "TWO"]


def test_removing_a_secret_that_is_not_there_is_an_error(store: Store) -> None:
    put(store)
    with pytest.raises(NotFoundError):
        store.secrets.remove("KEY", scope="fazt_app_000000000000")
    store.secrets.remove("KEY")
    with pytest.raises(FaztError) as caught:
        store.secrets.value("", "KEY")
    assert caught.value.reason is Reason.SECRET_UNKNOWN


def test_a_value_bound_to_other_hosts_since_is_not_given_to_a_running_call(data: Path) -> None:
    keys = EnvironmentKey(base64.b64encode(bytes(32)).decode())
    with Store.open(data, keys=keys) as server, Store.open(data, keys=keys) as cli:
        put(cli)
        meta = server.source.current.secrets["", "KEY"]
        put(cli, "value-for-another-host", domains=("other.example",))
        with pytest.raises(FaztError) as caught:
            server.secrets.value("", "KEY", version=meta.version)
        assert caught.value.reason is Reason.STORE and caught.value.retryable
        with pytest.raises(FaztError):  # the snapshot's version is asked for even when the caller names none
            server.secrets.value("", "KEY")
        assert server.source.refresh()
        assert server.secrets.value("", "KEY") == "value-for-another-host"


def test_a_value_opened_before_a_backup_was_put_back_is_not_taken_for_the_one_set_since(data: Path) -> None:
    keys = EnvironmentKey(base64.b64encode(bytes(32)).decode())
    with Store.open(data, keys=keys) as server:
        source = server.source
        server._policy.tidy()
        shutil.copy(data / "policy.db", data / "backup.db")
        put(server, "old-value-for-this-host")
        assert source.refresh()
        assert server.secrets.value("", "KEY") == "old-value-for-this-host"
        server._policy.tidy()
        os.replace(data / "backup.db", data / "policy.db")
        with Store.open(data, keys=keys) as cli:  # as many changes since the backup as before
            put(cli, "new-value-for-another", domains=("other.example",))
        assert source.refresh()
        meta = source.current.secrets["", "KEY"]
        assert meta.domains == ("other.example",)
        assert server.secrets.value("", "KEY", version=meta.version) == "new-value-for-another"


def test_an_opened_value_serves_running_calls_until_the_next_change_and_removal_ends_it(store: Store) -> None:
    put(store, "first-value-of-it")
    source = store.source
    old = source.current.secrets["", "KEY"].version
    assert store.secrets.value("", "KEY") == "first-value-of-it"
    put(store, "second-value-of-it")
    assert source.refresh()
    assert store.secrets.value("", "KEY", version=old) == "first-value-of-it"
    assert store.secrets.value("", "KEY") == "second-value-of-it"
    store.secrets.remove("KEY")
    assert source.refresh()
    for version in (old, None):
        with pytest.raises(FaztError):
            store.secrets.value("", "KEY", version=version)


def test_a_known_value_costs_no_query(store: Store) -> None:
    put(store)
    version = store.source.current.secrets["", "KEY"].version
    assert store.secrets.value("", "KEY") == CANARY
    store._policy.close()
    assert store.secrets.value("", "KEY") == CANARY
    assert store.secrets.value("", "KEY", version=version) == CANARY


def test_rekey_seals_everything_anew_and_other_processes_follow(data: Path) -> None:
    with Store.open(data) as one, Store.open(data) as two:
        put(one)
        put(one, "second-secret-value", name="SECOND")
        assert two.secrets.value("", "KEY") == CANARY
        path = Path(os.environ["XDG_CONFIG_HOME"]) / "fazt" / "keys" / f"{one.data_id}.key"
        before = path.read_text()
        with one._policy.read() as connection:
            sealed = connection.execute("SELECT sealed FROM secrets").fetchone()[0]
        assert one.secrets.rekey(actor="cli:ann") == 2
        assert path.read_text() != before
        assert len(path.read_text().split()) == 1
        assert two.secrets.value("", "SECOND") == "second-secret-value"
        assert not any(sealed in file.read_bytes() for file in data.iterdir())
    with Store.open(data) as again:
        assert again.secrets.value("", "KEY") == CANARY


@pytest.mark.parametrize("moment", ["before the commit", "after the commit"])
def test_a_rekey_that_is_cut_off_leaves_a_key_that_fits(
    data: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    class CutOffError(Exception):
        pass

    with Store.open(data) as store:
        put(store)
        real = KeyFile.replace
        calls = 0

        def replace_then_die(self: KeyFile, keys: list[bytes]) -> None:
            nonlocal calls
            calls += 1
            if moment == "before the commit":
                real(self, keys)
                raise CutOffError
            if calls == 2:
                raise CutOffError
            real(self, keys)

        with monkeypatch.context() as patch:
            patch.setattr(KeyFile, "replace", replace_then_die)
            with pytest.raises(CutOffError):
                store.secrets.rekey()
    with Store.open(data) as store:
        assert store.secrets.value("", "KEY") == CANARY
        assert store.secrets.rekey() == 1
        assert store.secrets.value("", "KEY") == CANARY


def test_rekey_with_a_key_from_the_environment_takes_the_next_one(data: Path) -> None:
    first, second = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
    with Store.open(data, keys=EnvironmentKey(first)) as store:
        put(store)
        with pytest.raises(ConfigError, match="FAZT_SECRETS_KEY"):
            store.secrets.rekey()
    with Store.open(data, keys=EnvironmentKey(first, following=second)) as store:
        store.secrets.rekey()
        assert store.secrets.value("", "KEY") == CANARY
    with Store.open(data, keys=EnvironmentKey(second)) as store:
        assert store.secrets.value("", "KEY") == CANARY


def test_the_activity_names_the_secret_and_never_its_value(store: Store) -> None:
    put(store)
    store.secrets.remove("KEY")
    entries = store.activity()
    assert [entry.action for entry in entries] == ["secret.remove", "secret.set"]
    assert CANARY not in repr(entries)
