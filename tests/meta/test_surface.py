"""What `import fazt` gives is a short sorted list that changes on purpose only."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fazt

SURFACE = [
    "AsyncClient",
    "AsyncTransport",
    "Cache",
    "Client",
    "Code",
    "ConfigError",
    "DataPolicy",
    "Download",
    "DownloadError",
    "FaztError",
    "Policy",
    "Reason",
    "Response",
    "RetryPolicy",
    "Rule",
    "Secret",
    "ServicePolicy",
    "Transport",
    "__version__",
    "aclose_client",
    "adownload",
    "adownload_many",
    "afetch",
    "close_client",
    "delete",
    "download",
    "download_many",
    "fetch",
    "get",
    "get_async_client",
    "get_client",
    "head",
    "httpx",
    "options",
    "patch",
    "post",
    "put",
    "request",
    "stream",
    "telemetry",
]


def test_the_public_surface_is_this_sorted_list() -> None:
    assert fazt.__all__ == [name for name in SURFACE if name != "httpx"]  # that one needs an extra
    assert sorted(fazt.__all__) == fazt.__all__


def test_every_name_of_the_surface_is_there_and_says_what_it_is() -> None:
    for name in SURFACE:
        found = getattr(fazt, name)
        assert name == "__version__" or found.__doc__, name
    assert dir(fazt) == SURFACE


def test_nothing_is_loaded_before_it_is_asked_for() -> None:
    """A fresh import leaves errors and the version, and loads no other part of fazt and none of its libraries."""
    code = (
        "import fazt, sys;"
        "print(sorted(n for n in vars(fazt) if not n.startswith('_') and n not in ('Any', 'annotations')));"
        "print(sorted(n for n in sys.modules if n.startswith('fazt')));"
        "print([n for n in ('httpx', 'httpx2', 'ssl', 'asyncio', 'sqlite3', 'socket') if n in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [
        "['Code', 'ConfigError', 'FaztError', 'Reason', 'TYPE_CHECKING', 'errors', 'version']",
        "['fazt', 'fazt.errors', 'fazt.version']",
        "[]",
    ]


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        fazt.nonsense  # noqa: B018


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("fazt-net")
    except PackageNotFoundError:
        return
    assert fazt.__version__ == installed
