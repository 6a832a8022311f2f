"""The authority of the servers, and both ways to reach one: in clear and over TLS."""

from __future__ import annotations

import pytest

from tests.sdk.serving import Authority, Calls, authority


@pytest.fixture(scope="session")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("sdk-tls"))


@pytest.fixture(scope="session", params=["http", "https"])
def tls(request: pytest.FixtureRequest, certified: Authority) -> Authority | None:
    return certified if request.param == "https" else None


@pytest.fixture
def calls() -> Calls:
    return Calls()
