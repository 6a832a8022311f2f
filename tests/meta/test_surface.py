"""What `import fazt` gives is a short sorted list that changes on purpose only."""

from __future__ import annotations

import subprocess
import sys

import fazt

SURFACE = ["Code", "FaztError", "Reason", "__version__"]


def test_the_public_surface_is_this_sorted_list() -> None:
    assert fazt.__all__ == SURFACE
    assert sorted(fazt.__all__) == fazt.__all__


def test_nothing_else_is_reachable_without_asking() -> None:
    """A fresh import leaves the names of the list and the module of errors, and loads no other part of fazt."""
    code = "import fazt, sys; print(sorted(n for n in vars(fazt) if not n.startswith('__')))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "['Code', 'FaztError', 'Reason', 'errors']"


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("fazt-net")
    except PackageNotFoundError:
        return
    assert fazt.__version__ == installed
