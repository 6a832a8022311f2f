"""Options anywhere, left-overs are errors, exit codes, JSON of errors, and nothing written on error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Fazt

from fazt.cli.base import COMMANDS


def test_F1_options_stand_before_or_after_arguments_and_mean_the_same(fazt: Fazt) -> None:
    fazt("net", "allow", "api.openai.com", "--app", "myapp", "--rate", "60")
    fazt("net", "allow", "--app", "myapp", "--rate", "60", "api.stripe.com")
    rules = fazt.json("net", "list")
    assert [(rule["host"], rule["app"], rule["rate"]) for rule in rules] == [
        ("api.openai.com", "myapp", 60),
        ("api.stripe.com", "myapp", 60),
    ]
    fazt(
        "secret", "set", "K", "--as", "header", "--key", "X-Key", "--domain", "api.x.com", stdin=b"value-of-the-secret"
    )
    (stored,) = fazt.json("secret", "list")
    assert (stored["as"], stored["key"], stored["domains"]) == ("header", "X-Key", ["api.x.com"])


@pytest.mark.parametrize(
    "args",
    [
        ("net", "allow", "api.x.com", "left-over"),
        ("net", "allow", "api.x.com", "--no-such-option"),
        ("net", "allow", "api.x.com", "--app", ""),
        ("net", "allow", "api.x.com", "--rate", "many"),
        ("net", "allow", "api.x.com", "--rate", "-1"),
        ("net", "allow", "10.0.0.1", "--app", "shop"),
        ("net", "allow", "https://api.x.com/path", "--app", "shop"),
        ("net", "allow", "api.x.com", "--address", "169.254.0.0/16", "--app", "shop"),
        ("net", "allow", "api.x.com", "--app", "Not A Name"),
        ("net", "deny", "api.x.com", "--rate", "5"),
        ("net", "remove", "api.x.com", "and", "more"),
        ("secret", "set", "K", "value", "left-over", "--domain", "api.x.com"),
        ("secret", "set", "K", "--domain", "api.x.com", "--as", "cookie"),
        ("secret", "set", "K", "value", "--domain", "api.x.com", "--key", "X-Key", "--app", "shop"),
        ("secret", "set", "K", "value", "--app", "shop"),
        ("limits", "set", "net.max_calls", "1000", "--app", "shop"),
        ("limits", "set", "net.max_calls", "3", "4"),
        ("limits", "set", "net.nothing", "3"),
        ("limits", "set", "capacity.users", "3"),
        ("env", "set", "A", "1"),
        ("env", "set", "1A", "1", "--app", "shop"),
        ("env", "set", "A", "1", "2", "--app", "shop"),
        ("fetch", "https://api.x.com/", "left-over"),
        ("fetch", "https://api.x.com/", "-H", "no colon"),
        ("explain", "https://api.x.com/", "left-over"),
        ("net", "logs", "--since", "yesterday-ish"),
        ("net", "logs", "left-over"),
        ("app", "deploy"),
        ("nothing",),
        ("net", "nothing"),
    ],
)
def test_F1_what_is_wrong_or_left_over_is_an_error_and_nothing_is_written(fazt: Fazt, args: tuple[str, ...]) -> None:
    done = fazt(*args, expect=1)
    assert done.raw == b""
    assert done.err.startswith("error: ")
    assert fazt.json("net", "list") == fazt.json("secret", "list") == fazt.json("app", "list") == []
    assert fazt.json("limits", "show")["net"]["max_calls"] == 5


def test_a_usage_error_does_not_even_make_the_data_directory(fazt: Fazt) -> None:
    fazt("net", "allow", "api.x.com", "left-over", expect=1)
    fazt("net", "allow", "not a host", expect=1)
    fazt("limits", "set", "net.max_calls", "0", expect=1)
    assert not fazt.data.exists()


def test_data_may_stand_at_the_root_at_the_group_and_at_the_command(fazt: Fazt, tmp_path: Path) -> None:
    for number, args in enumerate(
        [
            ("--data", "{}", "net", "allow", "a.example.com"),
            ("net", "--data", "{}", "allow", "a.example.com"),
            ("net", "allow", "a.example.com", "--data", "{}"),
            ("--data", "/nowhere", "net", "allow", "--data", "{}", "a.example.com"),
        ]
    ):
        where = tmp_path / f"elsewhere{number}"
        fazt(*(arg.format(where) for arg in args))
        assert len(fazt.json("net", "list", "--data", str(where))) == 1
        assert oct(where.stat().st_mode & 0o777) == "0o700"
    assert not fazt.data.exists()
    assert fazt("--data", "", "net", "list", expect=1).err.startswith("error: ")


def test_no_arguments_and_help_are_no_errors(fazt: Fazt) -> None:
    for args in ((), ("help",), ("--help",), ("net",), ("net", "-h"), ("help", "net", "allow"), ("help", "help")):
        assert fazt(*args).out.startswith("Usage: fazt")
    assert "did you mean 'fetch'" in fazt("fetsch", expect=1).err
    assert "did you mean 'allow'" in fazt("net", "alow", expect=1).err
    for words, meant in {"net rm": "remove", "net ls": "list", "env get": "list", "curl": "fetch"}.items():
        assert f"did you mean '{meant}'" in fazt(*words.split(), expect=1).err
    fazt("help", "nothing", expect=1)
    assert not fazt.data.exists()


def test_every_command_has_a_help_with_an_example_and_takes_data(fazt: Fazt) -> None:
    from tests.cli.test_examples import leaves

    for path, command in leaves():
        shown = fazt(*path, "--help").out
        assert "Example" in shown, path
        if path[0] not in ("help", "completion", "demo"):
            assert "--data" in shown, path
        assert command.help, path
    assert {path[0] for path, _ in leaves()} >= set(COMMANDS)


def test_errors_under_json_are_json_on_stdout_and_text_on_stderr(fazt: Fazt) -> None:
    for args, code in (
        (("net", "allow", "10.0.0.1"), "CONFIG"),
        (("app", "info", "nobody"), "NOTFOUND"),
        (("net", "allow"), "USAGE"),
        (("net", "list", "--nope"), "USAGE"),
    ):
        done = fazt(*args, "--json", expect=1)
        assert set(done.json["error"]) == {"code", "message", "hint"}
        assert done.json["error"]["code"] == code
        assert done.err.startswith("error: ")


def test_a_data_directory_that_cannot_be_used_is_one_clear_error(fazt: Fazt, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = fazt("net", "list", "--data", str(tmp_path / "file"), expect=1)
    assert str(tmp_path / "file") in done.err
    assert "hint: " in done.err
    assert "Traceback" not in done.err


def test_colours_only_on_a_terminal(fazt: Fazt, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in fazt("net", "allow", "10.0.0.1", expect=1).err
    from fazt.cli import output

    monkeypatch.setenv("NO_COLOR", "1")
    assert output.colours() is False
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "xterm")
    assert output.colours() is None


def test_json_holds_nothing_that_steers_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from fazt.cli.output import print_json

    text = "\x1b[31m \x9b \u202e \x7f ü"
    print_json({"text": text})
    said = capsys.readouterr().out
    assert not any(mark in said for mark in ("\x1b", "\x9b", "\u202e", "\x7f"))
    assert "ü" in said
    assert json.loads(said)["text"] == text


def _run(*args: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "fazt", *args], capture_output=True, check=False, **options)  # type: ignore[call-overload]


def test_the_real_process_ends_with_the_same_codes(fazt: Fazt) -> None:
    assert _run("net", "list").returncode == 0
    assert _run("net", "allow", "10.0.0.1").returncode == 1
    assert _run("net", "check", "https://api.example.com/").returncode == 2


def test_a_reader_that_goes_away_is_no_error(fazt: Fazt) -> None:
    command = f"{sys.executable} -m fazt limits schema; echo $? >&2"
    piped = subprocess.run(
        ["bash", "-c", f"set -o pipefail; ({command}) | head -1"],
        capture_output=True,
        check=False,
    )
    assert piped.stderr.decode().strip() in ("0", "141")
    assert b"Traceback" not in piped.stderr


def test_help_imports_no_command_and_nothing_heavy(fazt: Fazt) -> None:
    code = (
        "import sys; from fazt.cli import main; main(['--help']); "
        "heavy = {'fazt.app', 'fazt.core.rules', 'sqlite3', 'asyncio', 'ssl', 'rich', 'uvicorn', 'wasmtime', "
        "'cryptography', 'fazt.cli.net', 'http.client', 'socket'}; "
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stderr.decode().strip() == "[]"
    done = subprocess.run(
        [sys.executable, "-c", "import sys, fazt; print(sorted(m for m in sys.modules if m.startswith('fazt')))"],
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().strip() == "['fazt', 'fazt.errors', 'fazt.version']"


def test_D51_no_variable_of_the_environment_breaks_a_command(fazt: Fazt, monkeypatch: pytest.MonkeyPatch) -> None:
    """And text that looks like a number stays the text it is: a name, a value, a host's label."""
    for name in ("FAZT_CONFIG", "FAZT_FEATURE_RETRIES", "FAZT_DRY_RUN", "FAZT_TELEMETRY__SINKS"):
        monkeypatch.setenv(name, "1")
    fazt("net", "allow", "123.example.com", "--app", "2024")
    fazt("env", "set", "NUMBER", "007", "--app", "2024")
    (rule,) = fazt.json("net", "list")
    assert (rule["host"], rule["app"]) == ("123.example.com", "2024")
    assert [one["value"] for one in fazt.json("env", "list", "--app", "2024")] == ["007"]


@pytest.mark.parametrize(
    ("command", "library"),
    [(("serve",), "uvicorn"), (("app", "invoke", "shop"), "python_multipart"), (("app", "deploy", "."), "wasmtime")],
)
def test_what_the_core_does_not_install_is_named_with_what_to_type(
    tmp_path: Path, command: tuple[str, ...], library: str
) -> None:
    """In a process of its own, since modules are loaded once in each."""
    without = "jsbox", "python_multipart", "python_multipart.exceptions", "uvicorn", "wasmtime"
    code = (
        "import importlib.util, sys;"
        f"sys.modules.update(dict.fromkeys({without!r}));"
        "importlib.util.find_spec = lambda name, *_: None;"
        "from fazt.cli import main; sys.exit(main())"
    )
    environ = {**os.environ, "FAZT_DATA": str(tmp_path / "data")}
    done = subprocess.run(
        [sys.executable, "-c", code, *command], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"{library}, which is not installed" in done.stderr
    assert "pip install 'fazt-net[server]'" in done.stderr
