"""What every test gets: an environment without the developer's own fazt, and hypothesis profiles."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("quick", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "fuzz",
    deadline=None,
    max_examples=int(os.environ.get("FAZT_FUZZ_EXAMPLES", "2000")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let `xdist_group` marks count: pytest-xdist 3.8 writes them where pytest 9.2 no longer looks."""
    if config.getoption("loadgroup", default=False):
        for item in items:
            named = getattr(item, "_nodeid", None)
            identity = getattr(item, "_id", None)
            if named is not None and identity is not None and str(identity) != named:
                item._id = type(identity).parse(named)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep keys, data and settings of the person who runs the tests out of them."""
    home = tmp_path_factory.getbasetemp() / "home"
    home.mkdir(mode=0o700, exist_ok=True)
    for name in list(os.environ):
        if name.startswith("FAZT_") and name != "FAZT_FUZZ_EXAMPLES":
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return home
