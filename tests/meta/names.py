"""The names of all tests, read from the sources without importing them."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
CITED = re.compile(r"(tests/[\w/]+\.py)::(test_\w+)")


@lru_cache(maxsize=1)
def all_tests() -> frozenset[tuple[str, str]]:
    """Return (path from the root, name) of every test function."""
    found = set()
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found.add((path.relative_to(ROOT).as_posix(), node.name))
    return frozenset(found)


def missing(text: str) -> list[str]:
    """Return the tests that a text cites and that there are not."""
    known = all_tests()
    return [f"{path}::{name}" for path, name in CITED.findall(text) if (path, name) not in known]
