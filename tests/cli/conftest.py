"""The command line run in this process, on a data directory of its own, with a loopback HTTPS upstream."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cli.upstream import Upstream

from fazt.cli import main


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


class Stdin(io.TextIOWrapper):
    """A stdin that may say that it is a terminal."""

    tty = False

    def isatty(self) -> bool:
        return self.tty


class Fazt:
    """Runs commands; `expect` is the exit code that is asserted, None for any."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.seen: list[str] = []
        """Everything any command printed."""

    def __call__(self, *args: str, stdin: bytes = b"", expect: int | None = 0, tty: bool = False) -> Result:
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        given = Stdin(io.BytesIO(stdin), encoding="utf-8")
        given.tty = tty
        before, sys.stdin = sys.stdin, given
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(list(args))
        finally:
            sys.stdin = before
        raw = out.buffer.getvalue()  # type: ignore[attr-defined]
        said = err.buffer.getvalue().decode()  # type: ignore[attr-defined]
        self.seen += [raw.decode("utf-8", "replace"), said]
        if expect is not None:
            assert code == expect, f"{args}: {code}\n{raw.decode('utf-8', 'replace')}\n{said}"
        return Result(code, raw, said)

    def json(self, *args: str, **options: Any) -> Any:
        return self(*args, "--json", **options).json

    def files(self) -> dict[str, bytes]:
        """Every file that commands made, the key file included."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()
        }


@pytest.fixture
def fazt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fazt:
    """Run commands on an empty data directory."""
    monkeypatch.setenv("FAZT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Fazt(tmp_path)


@pytest.fixture(scope="session")
def _origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with contextlib.closing(Upstream(tmp_path_factory.mktemp("upstream"))) as started:
        yield started


@pytest.fixture
def upstream(_origin: Upstream, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    """An HTTPS upstream that every name under `test` leads to."""
    _origin.requests.clear()
    _origin.arrived.clear()
    _origin.go_on.clear()
    monkeypatch.setenv("FAZT_CA_FILE", str(_origin.ca))
    monkeypatch.setenv("FAZT_RESOLVE", "api.test=127.0.0.1 other.test=127.0.0.1 metadata.test=169.254.169.254")
    return _origin
