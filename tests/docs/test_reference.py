"""docs/client.md names everything that is public: names, arguments, options, sinks, kinds of failure."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from typing import get_args

import pytest

import fazt
from fazt import telemetry
from fazt.client import door
from fazt.client.asked import MODES, Asking
from fazt.client.download_error import Kind
from fazt.client.download_plan import Wishes
from fazt.core.traffic_config import TrafficConfig
from fazt.telemetry.config import KEYS
from tests.docs.blocks import ROOT

TEXT = (ROOT / "docs" / "client.md").read_text("utf-8")
OWN = {"url", "dest", "self", "cls", "others", "app", "http1"}
"""Arguments that need no word, or whose word is another one's."""
PUBLIC = {
    "names": {*fazt.__all__} - {"__version__", "Reason", "Code", "Response"},
    "arguments of clients": {*inspect.signature(door.setup_of).parameters},
    "options of a request": {*Asking.__annotations__},
    "uses of the cache": {*MODES},
    "arguments of a policy": {*inspect.signature(fazt.Policy).parameters},
    "arguments of a public policy": {*inspect.signature(fazt.Policy.public).parameters},
    "keys of a rule": {field.name for field in fields(fazt.Rule)} - {"shared_suffix"} | {"shared_suffix"},
    "arguments of a cache": {*inspect.signature(fazt.Cache).parameters} - {"_rules"},
    "arguments of a download": {*inspect.signature(fazt.download).parameters, *Wishes.__annotations__} - {"wishes"},
    "kinds of a failed download": {*get_args(Kind)},
    "settings of traffic": {field.name for field in fields(TrafficConfig)} - {"limit"}
    | {"rate", "wait", "concurrency"},
    "sinks": {name for name in telemetry.__all__ if name.endswith("Sink")} - {"Sink"},
    "tables of telemetry": {*KEYS},
}


@pytest.mark.parametrize("kind", PUBLIC)
def test_everything_public_has_a_word(kind: str) -> None:
    assert sorted(name for name in PUBLIC[kind] - OWN if not re.search(rf"\b{re.escape(name)}\b", TEXT)) == []
