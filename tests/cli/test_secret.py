"""`fazt secret`: values from stdin, mandatory domains, masks, imports that are all or nothing."""

from __future__ import annotations

import json

import pytest
from tests.cli.conftest import Fazt

from fazt.cli.secret_file import read_secrets
from fazt.errors import ConfigError

VALUE = "sk_live_abcdefghijklmnop123"


def test_F30d_the_value_comes_from_stdin_less_one_line_break(fazt: Fazt) -> None:
    for given in (VALUE.encode(), VALUE.encode() + b"\n", VALUE.encode() + b"\r\n"):
        fazt("secret", "set", "KEY", "--domain", "api.x.com", stdin=given)
        assert _value(fazt) == VALUE
        fazt("secret", "set", "KEY", "-", "--domain", "api.x.com", stdin=given)
        assert _value(fazt) == VALUE
    assert "line break" in fazt("secret", "set", "KEY", "--domain", "a.com", stdin=b"value-with\n\n", expect=1).err
    assert "UTF-8" in fazt("secret", "set", "KEY", "--domain", "a.com", stdin=b"\xff" * 20, expect=1).err
    assert "empty" in fazt("secret", "set", "KEY", "--domain", "a.com", stdin=b"\n", expect=1).err
    assert _value(fazt) == VALUE


def _value(fazt: Fazt, name: str = "KEY", scope: str = "") -> str:
    from fazt.stores.sqlite.store import Store

    with Store.open(fazt.data) as store:
        return store.secrets.value(scope, name)


def test_F30d_on_a_terminal_the_value_is_asked_for_unseen(fazt: Fazt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.termui.hidden_prompt_func", lambda _prompt: VALUE)
    fazt("secret", "set", "KEY", "--domain", "api.x.com", tty=True)
    assert _value(fazt) == VALUE


def test_F30d_a_value_as_an_argument_is_taken_with_a_warning(fazt: Fazt) -> None:
    done = fazt("secret", "set", "KEY", VALUE, "--domain", "api.x.com")
    assert "shell's history" in done.err
    assert _value(fazt) == VALUE
    assert "history" not in fazt("secret", "set", "KEY", "-", "--domain", "api.x.com", stdin=VALUE.encode()).err


def test_F30d_listings_show_at_most_a_quarter_of_a_value(fazt: Fazt) -> None:
    fazt("secret", "set", "LONG", "--domain", "api.x.com", stdin=VALUE.encode())
    fazt("secret", "set", "SHORT", "--domain", "api.x.com", stdin=b"abcdefg")
    shown = {entry["name"]: entry["masked"] for entry in fazt.json("secret", "list")}
    assert sum(not mark.startswith("*") for mark in shown["LONG"]) <= len(VALUE) // 4
    assert set(shown["SHORT"]) == {"*"}
    text = fazt("secret", "list").out
    assert VALUE not in text
    assert "abcdefg" not in text
    for column in ("Name", "Value", "Type", "Scope", "Domain", "2 secrets"):
        assert column in text


def test_a_domain_has_to_be_named_or_its_absence_said_aloud(fazt: Fazt) -> None:
    done = fazt("secret", "set", "KEY", "--app", "shop", stdin=VALUE.encode(), expect=1)
    assert "--domain HOST" in done.err
    assert fazt.json("app", "list") == []
    fazt("secret", "set", "KEY", "--any-domain", stdin=VALUE.encode())
    assert fazt.json("secret", "list")[0]["anyDomain"] is True
    fazt("secret", "set", "KEY", "--any-domain", "--domain", "api.x.com", stdin=VALUE.encode(), expect=1)


def test_the_value_is_not_asked_for_when_the_rest_is_wrong(fazt: Fazt, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_prompt: str) -> str:
        raise AssertionError("asked")

    monkeypatch.setattr("click.termui.hidden_prompt_func", never)
    for args in (
        ("--as", "header", "--domain", "a.com"),
        ("--domain", "10.0.0.1"),
        ("--key", "X", "--domain", "a.com"),
        (),
    ):
        fazt("secret", "set", "KEY", *args, tty=True, expect=1)


def test_F2_setting_again_replaces_the_value_and_keeps_the_rest(fazt: Fazt) -> None:
    fazt("secret", "set", "KEY", "--domain", "api.x.com", "--as", "query", "--key", "k", stdin=b"the-first-value")
    fazt("secret", "set", "KEY", stdin=b"the-second-value")
    (entry,) = fazt.json("secret", "list")
    assert (entry["as"], entry["key"], entry["domains"]) == ("query", "k", ["api.x.com"])
    assert _value(fazt) == "the-second-value"
    fazt("secret", "set", "KEY", "--app", "shop", "--domain", "api.y.com", stdin=b"the-third-value")
    assert len(fazt.json("secret", "list")) == 2
    assert _value(fazt) == "the-second-value"


def test_key_and_kind_have_to_fit(fazt: Fazt) -> None:
    assert "bearer" in fazt("secret", "set", "K", "--domain", "a.com", "--key", "X", stdin=b"v" * 20, expect=1).err
    fazt("secret", "set", "K", "--domain", "a.com", "--as", "header", stdin=b"v" * 20, expect=1)
    fazt("secret", "set", "K", "--domain", "a.com", "--as", "header", "--key", "Host", stdin=b"v" * 20, expect=1)
    done = fazt("secret", "set", "K", "--domain", "a.com", "--as", "header", "--key", "X-K", stdin=b"v" * 20)
    assert done.out == "Stored K (header X-K, global) for a.com\n"


def test_a_value_too_short_to_scrub_is_noted(fazt: Fazt) -> None:
    assert "shorter than 12" in fazt("secret", "set", "K", "--domain", "a.com", stdin=b"short").err
    assert "shorter" not in fazt("secret", "set", "K", "--domain", "a.com", stdin=b"long-enough-value").err


def test_remove_is_for_one_scope(fazt: Fazt) -> None:
    fazt("secret", "set", "KEY", "--domain", "a.com", stdin=VALUE.encode())
    fazt("secret", "set", "KEY", "--domain", "a.com", "--app", "shop", stdin=VALUE.encode())
    fazt("secret", "remove", "KEY", "--app", "shop")
    assert [entry["app"] for entry in fazt.json("secret", "list")] == [None]
    fazt("secret", "remove", "KEY", "--app", "shop", expect=1)
    fazt("secret", "remove", "KEY")
    assert "No secrets" in fazt("secret", "list").out


def test_rekey_keeps_the_values(fazt: Fazt) -> None:
    fazt("secret", "set", "KEY", "--domain", "a.com", stdin=VALUE.encode())
    before = [body for name, body in fazt.files().items() if name.endswith(".key")]
    assert fazt("secret", "rekey").out == "Sealed 1 secret with a new key\n"
    after = [body for name, body in fazt.files().items() if name.endswith(".key")]
    assert before != after
    assert _value(fazt) == VALUE


def test_a_lost_key_is_one_clear_error_and_names_stay_visible(fazt: Fazt) -> None:
    fazt("secret", "set", "KEY", "--domain", "a.com", stdin=VALUE.encode())
    for path in fazt.folder.rglob("*.key"):
        path.unlink()
    done = fazt("secret", "list")
    assert "(unreadable)" in done.out
    assert "KEY" in done.out
    assert "is missing" in fazt("secret", "set", "NEW", "--domain", "a.com", stdin=VALUE.encode(), expect=1).err


# Imports

ENV_FILE = f"""
# keys of the shop
export STRIPE={VALUE}
PLAIN=value-one-of-many
SINGLE='it is $5 # not a comment'
DOUBLE="with \\"quotes\\" and \\$"
"""


def test_import_takes_lines_and_json(fazt: Fazt) -> None:
    done = fazt("secret", "import", "-", "--domain", "api.x.com", "--app", "shop", stdin=ENV_FILE.encode())
    assert done.out.count("Stored ") == 4
    app = fazt.json("app", "list")[0]["id"]
    assert _value(fazt, "SINGLE", app) == "it is $5 # not a comment"
    assert _value(fazt, "DOUBLE", app) == 'with "quotes" and $'
    document = json.dumps({"A": "first-long-value", "B": "second-long-value"}).encode()
    stored = fazt.json("secret", "import", "--domain", "api.x.com", "--as", "header", "--key", "X-K", stdin=document)
    assert [(entry["name"], entry["as"], entry["app"]) for entry in stored] == [
        ("A", "header", None),
        ("B", "header", None),
    ]


def test_import_reads_a_file(fazt: Fazt) -> None:
    (fazt.folder / "keys.env").write_text(ENV_FILE)
    assert len(fazt.json("secret", "import", str(fazt.folder / "keys.env"), "--domain", "api.x.com")) == 4
    assert "cannot be read" in fazt("secret", "import", "/no/such/file", "--domain", "api.x.com", expect=1).err


def test_import_is_all_or_nothing(fazt: Fazt) -> None:
    for text in (f"GOOD={VALUE}\nBAD=\n", f"GOOD={VALUE}\nnot a line\n", f"GOOD={VALUE}\nBAD=\x01control\n"):
        done = fazt("secret", "import", "--domain", "a.com", "--app", "shop", stdin=text.encode(), expect=1)
        assert VALUE not in done.err
        assert "BAD" in done.err or "line 2" in done.err
    fazt("secret", "import", stdin=f"GOOD={VALUE}\n".encode(), expect=1)
    assert fazt.json("secret", "list") == []
    assert fazt.json("app", "list") == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "{}",
        "{",
        '{"A": 1}',
        '{"A": "x", "A": "y"}',
        '{"not a name": "x"}',
        "A=1\nA=2",
        "A=value # comment",
        "A='unclosed",
        "A='a'b'",
        'A="a" b',
        'A="a\\n"',
        "=value",
        "just words",
        "A-value",
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_secrets(text)
    assert "value" not in caught.value.message.replace("the value of A", "")


def test_names_and_values_as_files_of_this_kind_have_them() -> None:
    assert read_secrets("\ufeffA=b=c\r\nB = spaced \n export C=d#e") == {"A": "b=c", "B": "spaced", "C": "d#e"}
