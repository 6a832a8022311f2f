"""The Python door against names and servers that lie: in network namespaces of the test's own, with real DNS.

Every address exists there; whatever is no public address is a canary, and nobody may touch it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.adversary.servers import INTERNAL_4, INTERNAL_6

ROOT = Path(__file__).resolve().parents[2]
DOORS = ("Client", "httpx.Client", "AsyncClient", "httpx.AsyncClient", "fetch", "afetch", "download")
EVERY = [f"{policy}/{door}" for policy in ("public", "named") for door in DOORS]
UNSHARE = ["unshare", "-Urnm", "--"]

pytestmark = pytest.mark.xdist_group("adversary")


def _missing() -> str:
    for program in ("unshare", "ip", "mount"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    return f"this kernel grants no namespaces: {tried.stderr.strip()}" if tried.returncode else ""


MISSING = _missing()
if MISSING:
    pytest.skip(MISSING, allow_module_level=True)


@cache
def world() -> dict[str, Any]:
    command = [*UNSHARE, sys.executable, "-m", "tests.adversary.world", "tests.adversary.scenarios"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def found(way: str, name: str) -> list[str]:
    results: list[str] = world()["results"]["found"][way][name]
    return results


def test_no_canary_was_ever_touched() -> None:
    assert [what for kind, what in world()["seen"] if kind == "canary"] == []
    assert world()["results"]["near"] == []


def test_what_is_no_address_of_a_rule_is_not_looked_up() -> None:
    asked = {what for kind, what in world()["seen"] if kind == "dns"}
    assert "good.test" in asked
    assert not any(name[0].isdigit() for name in asked)


@pytest.mark.parametrize("way", EVERY)
class TestEveryWay:
    def test_public_hosts_are_reached(self, way: str) -> None:
        assert found(way, "good") == ["200"]
        assert found(way, "good6") == ["200"]
        assert found(way, "kept") == ["200", "200"]
        assert found(way, "redirect on") == ["200"]

    def test_every_answer_is_judged_when_a_name_moves(self, way: str) -> None:
        assert found(way, "rebind-at-once") == ["200", "private_address"]
        assert found(way, "rebind-later") == ["200", "200", "private_address"]
        assert found(way, "rebind-back") == ["private_address", "200"]

    def test_one_bad_address_refuses_all(self, way: str) -> None:
        for name in ("mixed", "mixed-families", "mixed-last"):
            assert found(way, name) == ["private_address"]

    @pytest.mark.parametrize("address", INTERNAL_4)
    def test_names_of_internal_ipv4_addresses(self, way: str, address: str) -> None:
        assert found(way, f"v4 {address}") == ["private_address"]
        assert found(way, f"literal {address}") == ["ip_literal"]

    @pytest.mark.parametrize("address", INTERNAL_6)
    def test_names_of_internal_ipv6_addresses(self, way: str, address: str) -> None:
        assert found(way, f"v6 {address}") == ["private_address"]
        assert found(way, f"literal {address}") == ["ip_literal"]

    def test_the_machines_own_address_is_internal_however_public_it_looks(self, way: str) -> None:
        assert found(way, "own") == ["private_address"]

    def test_addresses_are_no_hosts_in_any_spelling(self, way: str) -> None:
        assert set(found(way, "spelled")) == {"ip_literal"}
        assert found(way, "literal public") == ["ip_literal"]

    def test_ports_need_a_grant(self, way: str) -> None:
        assert found(way, "port") == ["port_not_granted"]
        assert found(way, "redirect to another port") == ["port_not_granted"]

    def test_redirects_are_gated(self, way: str) -> None:
        assert found(way, "redirect to a literal") == ["ip_literal"]
        assert found(way, "redirect to a private name") == ["private_address"]
        assert found(way, "redirect to the metadata service") == ["private_address"]

    def test_a_name_that_nobody_has(self, way: str) -> None:
        reason = {"public": "dns_failed", "named": "host_not_granted"}[way.split("/")[0]]
        assert found(way, "nowhere") == [reason]
