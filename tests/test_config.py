"""Settings: a file, then the environment, then flags; the later one wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from fazt.config import FILE_KEYS, Settings, load
from fazt.errors import ConfigError
from fazt.net.resolve import parse_resolve


def test_the_data_directory_comes_from_flag_environment_or_home(tmp_path: Path) -> None:
    assert load(environ={"HOME": "/x"}).data == Path("~/.fazt").expanduser()
    assert load(environ={"FAZT_DATA": str(tmp_path / "env")}).data == tmp_path / "env"
    assert load(data=str(tmp_path / "flag"), environ={"FAZT_DATA": str(tmp_path / "env")}).data == tmp_path / "flag"


def test_file_environment_and_flags_in_that_order(tmp_path: Path) -> None:
    ca = {name: tmp_path / f"{name}.pem" for name in ("file", "env", "flag")}
    for path in ca.values():
        path.write_text("x")
    (tmp_path / "fazt.toml").write_text(
        f'port = 9000\nhost = "::1"\nca_file = "{ca["file"]}"\nresolve = "a.test=1.1.1.1"\n'
    )
    settings = load(data=str(tmp_path), environ={})
    assert (settings.port, settings.host, settings.ca_files) == (9000, "::1", (ca["file"],))
    settings = load(data=str(tmp_path), environ={"FAZT_CA_FILE": str(ca["env"])}, port=1234, host=None)
    assert (settings.port, settings.host, settings.ca_files) == (1234, "::1", (ca["env"],))
    settings = load(data=str(tmp_path), environ={"FAZT_CA_FILE": str(ca["env"])}, ca_files=(str(ca["flag"]),))
    assert settings.ca_files == (ca["flag"],)


def test_a_flag_wins_over_the_environment_for_the_same_name(tmp_path: Path) -> None:
    settings = load(
        data=str(tmp_path), environ={"FAZT_RESOLVE": "a.test=1.1.1.1 b.test=1.1.1.2"}, resolve="A.test.=2.2.2.2"
    )
    assert parse_resolve(settings.resolve) == {"a.test": ("2.2.2.2",), "b.test": ("1.1.1.2",)}


@pytest.mark.parametrize("text", ["port = ", "prot = 1", 'port = "1"', "path_routing = 1", "port = true"])
def test_a_file_that_cannot_be_used_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "fazt.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"fazt\.toml"):
        load(data=str(tmp_path), environ={})


def test_a_missing_ca_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no-such"):
        load(data=str(tmp_path), ca_files=("/no-such.pem",), environ={})


def test_every_key_of_the_file_is_a_setting() -> None:
    fields = set(Settings.__slots__) | {"ca_file"}
    assert set(FILE_KEYS) <= fields
