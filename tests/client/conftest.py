"""The one suite of the clients runs over blocking and asynchronous, httpx2 and httpx."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fazt.client import registry
from tests.client.site import KITS, Kit


@pytest.fixture(params=KITS, ids=lambda kit: kit.name)
def kit(request: pytest.FixtureRequest) -> Kit:
    found: Kit = request.param
    return found


@pytest.fixture
def fresh_process() -> Iterator[None]:
    """What the process shares is closed after the test."""
    registry.close_client()
    yield
    registry.close_client()
