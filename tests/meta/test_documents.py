"""The documents say what there is: codes, limits, commands, endpoints, links, make targets."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from tests.cli.test_examples import fazt_commands, leaves, parse
from tests.meta.names import ROOT

from fazt.core.limits import paths
from fazt.errors import CODE_OF, Code, Reason
from fazt.server.admin import ENDPOINTS

DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def test_every_code_and_reason_is_documented() -> None:
    codes = text("docs/codes.md")
    for reason in Reason:
        assert re.search(rf"\| `?{CODE_OF[reason]}`? \| `?{reason.value}`? \|", codes), reason
    assert set(CODE_OF) == set(Reason)
    assert set(CODE_OF.values()) == set(Code)


def test_every_limit_and_command_is_documented() -> None:
    limits, commands = text("docs/limits.md"), text("docs/commands.md")
    assert [path for path in paths() if path not in limits] == []
    assert [path for path, _ in leaves() if f"fazt {' '.join(path)}" not in commands] == []


def test_every_endpoint_is_documented() -> None:
    operate = text("docs/operate.md")
    assert [f"{method} {path}" for method, path in ENDPOINTS if f"{method} {path}" not in operate] == []


def test_the_reference_is_in_step_with_the_code() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "gen-docs", "--check"], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_of_the_readme_parses() -> None:
    lines = [
        line
        for block in re.findall(r"```sh\n(.*?)```", text("README.md"), re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    commands = [words for line in lines if "fazt " in line for words in fazt_commands(line)]
    assert len(commands) >= 8
    for words in commands:
        parse(words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: object) -> None:
    path = ROOT / str(document)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text("utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (path.parent / target).exists(), target


def test_make_targets_that_documents_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    named = {
        name
        for path in DOCUMENTS
        for name in re.findall(r"(?:`|^)make ([a-z-]+)", path.read_text("utf-8"), re.MULTILINE)
    }
    assert {"demo", "test", "check", "bench"} <= named
    assert named <= targets


RESERVED = {Reason.PLACEHOLDER_MISPLACED}
"""Reasons of doors and parts that come later; the reference says so."""


def test_every_reason_is_one_that_a_test_sees() -> None:
    here = "tests/meta/test_documents.py"
    sources = [path for path in (ROOT / "tests").rglob("*.py") if path != ROOT / here]
    seen = "\n".join(path.read_text("utf-8") for path in sources)
    unseen = {one for one in Reason if f'"{one.value}"' not in seen and not re.search(rf"Reason\.{one.name}\b", seen)}
    assert unseen <= RESERVED
    codes = text("docs/codes.md")
    assert {one for one in Reason if re.search(rf"`{one.value}`.*reserved", codes)} == RESERVED
