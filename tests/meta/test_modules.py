"""Every module can be imported, and none hides another."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

from tests.meta.names import ROOT

SOURCE = ROOT / "src" / "fazt"


def test_D52_no_module_has_the_name_of_a_package_beside_it() -> None:
    packages = {path.parent for path in SOURCE.rglob("__init__.py")}
    assert [path for path in SOURCE.rglob("*.py") if path.with_suffix("") in packages] == []
    assert {path.parent for path in SOURCE.rglob("*.py")} == packages, "every directory is a package"


def test_D52_every_module_can_be_imported() -> None:
    """In one fresh process; what needs an extra that is not installed says which."""
    names = [
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(SOURCE.rglob("*.py"))
        if path.name != "__main__.py"
    ]
    assert all(importlib.util.find_spec(name.partition(".")[0]) for name in names)
    code = f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
