"""The verdict of every boundary address, expected by a plain reading of the registries and of contracts.md.

Nothing here uses the implementation's own table: blocks come from the CSV files, the sentences of contracts.md and the
list of spec section A.5 stand below as networks.
"""

from __future__ import annotations

import csv
import ipaddress
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fazt.core.addresses import Address, AddressClass, Network, classify
from fazt.core.addresses_iana import ROWS

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = ROOT / "scripts" / "data" / "iana-special"


def networks(*texts: str) -> list[Network]:
    return [ipaddress.ip_network(text) for text in texts]


def registry() -> list[tuple[Network, bool]]:
    """Return every block with whether the registry calls it globally reachable, "True" being the only yes."""
    out = []
    for name in ("iana-ipv4-special-registry-1.csv", "iana-ipv6-special-registry-1.csv"):
        with (REGISTRY / name).open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                blocks = re.findall(r"[0-9a-f.:]+/\d+", row["Address Block"])
                out += [(block, row["Globally Reachable"].split(" ")[0] == "True") for block in networks(*blocks)]
    return out


BLOCKS = registry()
DECODED = networks("::ffff:0:0/96", "64:ff9b::/96")

# contracts.md: refused beyond the registry ("multicast", "::/96", "fec0::/10", the named metadata addresses).
NAMED = networks(
    *["224.0.0.0/4", "ff00::/8", "::/96", "fec0::/10", "64:ff9b:1::/48", "2002::/16", "2001::/32"],
    *["168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32", "fd00:ec2::254/128", "169.254.0.0/16"],
)
# spec A.5, seed set and REQ; contracts.md: it "beats IANA rows marked reachable".
A5 = networks(
    *["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10", "0.0.0.0/8"],
    *["::1/128", "fc00::/7", "fe80::/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15"],
    *["198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32", "::/128", "::/96"],
    *["64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "fec0::/10", "ff00::/8"],
)
GLOBAL_V6 = ipaddress.ip_network("2000::/3")
# contracts.md: "a private or loopback range"; never: the addresses named there.
PRIVATE = networks(
    *["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "::1/128", "fc00::/7"]
)
NEVER = networks("100.100.100.200/32", "fd00:ec2::254/128")


def expected(address: Address) -> tuple[bool, bool]:
    """Return (public, grantable)."""
    if any(address in block for block in DECODED):
        return expected(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    refused = (
        any(address in block for block in NAMED + A5)
        or any(address in block and not reachable for block, reachable in BLOCKS)
        or (address.version == 6 and address not in GLOBAL_V6)
    )
    grantable = any(address in block for block in PRIVATE) and not any(address in block for block in NEVER)
    return not refused, grantable


def boundaries() -> list[Address]:
    """Return the first and the last address of every block, and their neighbours outside."""
    out: set[Address] = set()
    for block in [*(block for block, _ in BLOCKS), *NAMED, *A5, *DECODED, *networks("2000::/3", "0.0.0.0/0", "::/0")]:
        top = (1 << block.max_prefixlen) - 1
        first, last = int(block.network_address), int(block.broadcast_address)
        make = ipaddress.IPv4Address if block.version == 4 else ipaddress.IPv6Address
        out |= {make(value) for value in (first - 1, first, last, last + 1) if 0 <= value <= top}
    embedded = {
        ipaddress.IPv6Address(int(prefix.network_address) | int(address))
        for address in out
        if address.version == 4
        for prefix in DECODED
    }
    return sorted(out | embedded, key=lambda address: (address.version, int(address)))


TABLE = [(str(address), *expected(address)) for address in boundaries()]


def test_the_table_is_worth_its_name() -> None:
    assert len(TABLE) > 300
    assert sum(public for _, public, _ in TABLE) > 40
    assert sum(grantable for _, _, grantable in TABLE) > 20


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_every_boundary_address_has_the_expected_verdict(family: str) -> None:
    wrong = []
    for text, public, grantable in TABLE:
        if (":" in text) == (family == "v6"):
            verdict = classify(text)
            if (verdict.public, verdict.grantable) != (public, grantable):
                wrong.append((text, public, grantable, verdict))
            assert verdict == classify(ipaddress.ip_address(text))
            assert (verdict.klass is AddressClass.PUBLIC) == verdict.public
    assert wrong == []


def test_reachable_rows_are_public_unless_the_spec_says_otherwise() -> None:
    public = {str(block) for block, reachable in BLOCKS if reachable and classify(block.network_address).public}
    assert public == {"192.31.196.0/24", "192.52.193.0/24", "192.175.48.0/24", "2620:4f:8000::/48"}


def test_every_refused_row_has_a_class_of_its_own_choosing() -> None:
    # Otherwise a new row would silently be called "reserved".
    reserved = {
        block for block, _, _, reachable in ROWS if not reachable and classify(block.split("/")[0]).klass == "reserved"
    }
    assert reserved == {"240.0.0.0/4", "5f00::/16"}


def test_the_generated_table_is_what_the_registries_say() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "gen-addresses"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {ipaddress.ip_network(block): reachable for block, _, _, reachable in ROWS} == dict(BLOCKS)
