"""A data directory of its own for every test, and a key that no file holds."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from fazt.stores.sqlite import Store
from fazt.stores.sqlite.keys import EnvironmentKey

KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(data: Path) -> Iterator[Store]:
    with Store.open(data, keys=EnvironmentKey(KEY)) as opened:
        yield opened
