"""The examples of the README and of docs/client.md do what they say, as a user types them, against a small Internet."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fazt import config
from fazt.client.failures import _NAMES
from fazt.core.traffic_config import TrafficConfig
from fazt.stores.sqlite.events import opener
from fazt.telemetry import sinks_from_config
from tests.docs.blocks import ROOT, Block, blocks, examples

UNSHARE = ["unshare", "-Urnmpf", "--mount-proc", "--kill-child", "--"]
SECONDS = 500


@cache
def _missing() -> str:
    for program in ("unshare", "ip", "mount", "bash"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    return f"this kernel grants no namespaces: {tried.stderr.strip()}" if tried.returncode else ""


@cache
def world() -> dict[str, Any]:
    """Return what came of every example by document and line; under "failed", why there is nothing."""
    command = [*UNSHARE, sys.executable, "-m", "tests.docs.near"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as late:
        return {"failed": f"not done after {SECONDS} s: {late.stderr!r}"}
    if done.returncode:
        return {"failed": done.stderr}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.xdist_group("examples")
@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("block", examples("python", "sh"), ids=lambda block: block.name)
def test_F61_an_example_does_what_it_says(block: Block) -> None:
    if _missing():
        pytest.skip(_missing())
    assert "failed" not in world(), world()["failed"]
    came = world()[block.document][str(block.line)]
    assert not came["failed"], came["failed"]
    for expected in (block.printed, block.told) if block.language == "python" else ():
        shown = came["shown"].splitlines()
        for said in expected:
            assert said in shown, f"{said!r} is not among what was printed: {came['shown']}"
            del shown[: shown.index(said) + 1]


@pytest.mark.parametrize("block", examples("python"), ids=lambda block: block.name)
def test_every_example_stands_for_itself(block: Block) -> None:
    """It imports what it uses, so that it can be pasted anywhere."""
    tree = ast.parse(block.text)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    known = {
        alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not {"fazt", "asyncio", "os", "openai", "anthropic", "httpx", "httpx2"} & used - known


def test_there_are_examples_of_everything_people_come_for() -> None:
    written = "\n".join(block.text for block in examples("python", "sh") if block.document == "docs/client.md")
    for said in (
        "Policy(allow=",
        "Policy.public(",
        "fazt.download(",
        "fazt download ",
        "cache=",
        "openai",
        "anthropic",
        "mcp",
    ):
        assert said in written


def test_the_table_of_errors_is_that_of_the_code() -> None:
    text = (ROOT / "docs/client.md").read_text("utf-8")
    rows = re.findall(r"^\| ((?:`\w+` ?)+)\| `(\w+)` \|$", text, re.MULTILINE)
    written = {reason: name for reasons, name in rows for reason in re.findall(r"`(\w+)`", reasons)}
    assert written == {reason.value: name for reason, name in _NAMES.items()}


@pytest.mark.parametrize(
    "block", [one for one in blocks("docs/operate.md") if one.language == "toml"], ids=lambda block: block.name
)
def test_settings_in_the_documents_are_understood(block: Block, tmp_path: Path) -> None:
    tables = tomllib.loads(block.text)
    (directory := tmp_path / "data").mkdir(mode=0o700)
    (directory / "fazt.toml").write_text(block.text)
    settings = config.load(data=str(directory), environ={})
    TrafficConfig.of(settings.traffic, "traffic")
    for sink in sinks_from_config(settings.telemetry, directory=directory, sqlite=opener(directory)):
        sink.close()
    assert tables.keys() <= config.FILE_KEYS.keys()
