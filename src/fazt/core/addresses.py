"""Say what kind of place an IP address is, and whether a call may go there.

An address is public only if nothing says otherwise: no registry row that is not globally reachable, no extra row of
ours, and in IPv6 a place inside the one block of global unicast. Everything else is refused unless a rule grants a
private or loopback range.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from fazt.core.addresses_iana import ROWS
from fazt.errors import ConfigError, FaztError, Reason

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class AddressClass(StrEnum):
    """What an address is: the named reason of a verdict, shown to callers as `addressClass`."""

    PUBLIC = "public"
    PRIVATE = "private"
    SHARED = "shared"
    LOOPBACK = "loopback"
    OWN_INTERFACE = "own_interface"
    LINK_LOCAL = "link_local"
    SITE_LOCAL = "site_local"
    METADATA = "metadata"
    UNSPECIFIED = "unspecified"
    BROADCAST = "broadcast"
    MULTICAST = "multicast"
    DOCUMENTATION = "documentation"
    BENCHMARKING = "benchmarking"
    PROTOCOL = "protocol"
    TRANSITION = "transition"
    DISCARD = "discard"
    RESERVED = "reserved"
    SCOPED = "scoped"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an address is and who may reach it.

    Args:
        address: the address in canonical spelling, as it was given.
        klass: its class; that of the IPv4 address inside, where one is embedded.
        public: every rule may reach it.
        grantable: a rule with a range that holds it may reach it.
        source: the registry row or document that decided.
    """

    address: str
    klass: AddressClass
    public: bool
    grantable: bool
    source: str


# Contracts: a rule can be granted "a private or loopback range", and nothing else that isn't public.
_GRANTABLE = frozenset({AddressClass.PRIVATE, AddressClass.SHARED, AddressClass.LOOPBACK})

# The class of each registry row that is not globally reachable. A row that is new there is RESERVED until named here.
_IANA_CLASS: dict[str, AddressClass] = {
    "0.0.0.0/8": AddressClass.UNSPECIFIED,
    "0.0.0.0/32": AddressClass.UNSPECIFIED,
    "10.0.0.0/8": AddressClass.PRIVATE,
    "100.64.0.0/10": AddressClass.SHARED,
    "127.0.0.0/8": AddressClass.LOOPBACK,
    "169.254.0.0/16": AddressClass.LINK_LOCAL,
    "172.16.0.0/12": AddressClass.PRIVATE,
    "192.0.0.0/24": AddressClass.PROTOCOL,
    "192.0.0.0/29": AddressClass.PROTOCOL,
    "192.0.0.8/32": AddressClass.PROTOCOL,
    "192.0.0.170/32": AddressClass.PROTOCOL,
    "192.0.0.171/32": AddressClass.PROTOCOL,
    "192.0.2.0/24": AddressClass.DOCUMENTATION,
    "192.88.99.0/24": AddressClass.TRANSITION,
    "192.88.99.2/32": AddressClass.TRANSITION,
    "192.168.0.0/16": AddressClass.PRIVATE,
    "198.18.0.0/15": AddressClass.BENCHMARKING,
    "198.51.100.0/24": AddressClass.DOCUMENTATION,
    "203.0.113.0/24": AddressClass.DOCUMENTATION,
    "240.0.0.0/4": AddressClass.RESERVED,
    "255.255.255.255/32": AddressClass.BROADCAST,
    "::1/128": AddressClass.LOOPBACK,
    "::/128": AddressClass.UNSPECIFIED,
    "::ffff:0:0/96": AddressClass.TRANSITION,  # never looked up: the IPv4 inside is
    "64:ff9b:1::/48": AddressClass.TRANSITION,
    "100::/64": AddressClass.DISCARD,
    "100:0:0:1::/64": AddressClass.DISCARD,
    "2001::/23": AddressClass.PROTOCOL,
    "2001::/32": AddressClass.TRANSITION,
    "2001:2::/48": AddressClass.BENCHMARKING,
    "2001:10::/28": AddressClass.PROTOCOL,
    "2001:db8::/32": AddressClass.DOCUMENTATION,
    "2002::/16": AddressClass.TRANSITION,
    "3fff::/20": AddressClass.DOCUMENTATION,
    "5f00::/16": AddressClass.RESERVED,
    "fc00::/7": AddressClass.PRIVATE,
    "fe80::/10": AddressClass.LINK_LOCAL,
}

_EXTRA: tuple[tuple[str, AddressClass, str], ...] = (
    ("224.0.0.0/4", AddressClass.MULTICAST, "Multicast (RFC5771)"),
    ("169.254.169.254/32", AddressClass.METADATA, "metadata service of most clouds, inside Link Local (RFC3927)"),
    ("168.63.129.16/32", AddressClass.METADATA, "Azure's host, a public address that leads into it"),
    ("100.100.100.200/32", AddressClass.METADATA, "Alibaba Cloud's metadata service"),
    ("192.0.0.192/32", AddressClass.METADATA, "Oracle Cloud's metadata service"),
    ("fd00:ec2::254/128", AddressClass.METADATA, "EC2's metadata service over IPv6"),
    ("::/96", AddressClass.TRANSITION, "IPv4-compatible (RFC4291, Section 2.5.5.1, deprecated)"),
    ("fec0::/10", AddressClass.SITE_LOCAL, "Site-local (RFC3879, deprecated)"),
    ("ff00::/8", AddressClass.MULTICAST, "Multicast (RFC4291, Section 2.7)"),
)

# RFC 4291 section 2.4 and IANA's IPv6 address space: the one block from which global unicast is allocated.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_OUTSIDE = (AddressClass.RESERVED, "outside 2000::/3, global unicast (RFC4291, Section 2.4)")

_EMBEDDED = {
    int(ipaddress.IPv6Address("::ffff:0:0")) >> 32: "IPv4-mapped (RFC4291, Section 2.5.5.2)",
    int(ipaddress.IPv6Address("64:ff9b::")) >> 32: "NAT64 (RFC6052, Section 2.1)",
}

_ANY_V4 = "0.0.0.0"  # noqa: S104 - compared with, not bound to
_ANY_V6 = "::"
_LOOPBACK_V4 = ipaddress.IPv4Network("127.0.0.0/8")


def _refused_rows() -> Iterator[tuple[Network, AddressClass, str]]:
    """Yield every block that is not public.

    Rows marked reachable are left out, so a reachable block inside a refused one (192.0.0.9, 2001:20::/28) is refused
    with it: our list of ranges beats the registry's exceptions.
    """
    for block, name, source, reachable in ROWS:
        if not reachable:
            klass = _IANA_CLASS.get(block, AddressClass.RESERVED)
            yield ipaddress.ip_network(block), klass, f"{block} {name} ({source})"
    for block, klass, source in _EXTRA:
        yield ipaddress.ip_network(block), klass, f"{block} {source}"


_REFUSED = tuple(_refused_rows())
_Table = list[tuple[int, dict[int, tuple[AddressClass, str]]]]


def _table(version: int) -> _Table:
    """Index the refused blocks of one IP version by prefix, the longest first."""
    out: dict[int, dict[int, tuple[AddressClass, str]]] = {}
    for network, klass, source in _REFUSED:
        if network.version == version:
            shift = network.max_prefixlen - network.prefixlen
            out.setdefault(shift, {})[int(network.network_address) >> shift] = (klass, source)
    return sorted(out.items())


_TABLES: dict[int, _Table] = {4: _table(4), 6: _table(6)}


def classify(address: str | Address) -> Verdict:
    """Say what an address is.

    Args:
        address: an address, or its text as `getaddrinfo` gives it; text that is no address is INVALID, one with a
            zone id (fe80::1%eth0) is never public.

    Source: the IANA special-purpose registries, the extra rows of this file, RFC 4291 section 2.4.
    """
    parsed = _parse(address) if isinstance(address, str) else address
    if parsed is None:
        return Verdict(str(address)[:64], AddressClass.INVALID, public=False, grantable=False, source="not an address")
    inner, embedding = _decode(parsed)
    klass, source = _lookup(inner)
    if embedding:
        source = f"{embedding} of {inner}: {source}"
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.scope_id is not None:
        # RFC 4007: a zone id picks an interface of this machine, which no name on the internet has a say in.
        if klass is AddressClass.PUBLIC or klass in _GRANTABLE:
            klass = AddressClass.SCOPED
        source = f"zone id (RFC4007); {source}"
    return Verdict(
        address=str(parsed),
        klass=klass,
        public=klass is AddressClass.PUBLIC,
        grantable=klass in _GRANTABLE,
        source=source,
    )


def parse_grant(cidr: str) -> str:
    """Return the canonical form of a range that a rule is to be granted.

    Args:
        cidr: a network such as "10.0.0.0/8", or a single address; IPv4-mapped ranges become their IPv4 range.

    Raises:
        ConfigError: it is not a network, or it is not wholly public and not wholly inside one private, shared or
            loopback range (so it can't hold link-local, unspecified, broadcast or multicast addresses), or it is a
            metadata service. A metadata address inside a broader private range is refused by `judge`.
    """
    network = _parse_network(cidr)
    if any(_within(network, block) and klass in _GRANTABLE for block, klass, _ in _REFUSED):
        first = classify(network.network_address)
        if network.num_addresses == 1 and not first.grantable:
            raise ConfigError(f"{cidr!r} can't be granted to any rule: {first.source}.")
        return str(network)
    clash = next((row for row in _REFUSED if network.version == row[0].version and network.overlaps(row[0])), None)
    if clash is not None:
        raise ConfigError(
            f"{cidr!r} can't be granted: it holds addresses of {clash[2]}.",
            hint="Name the one private or loopback network that is meant, for example 10.1.0.0/16 or 127.0.0.1/32.",
        )
    if not (network.version == 4 or _within(network, _GLOBAL_UNICAST)):
        raise ConfigError(f"{cidr!r} can't be granted: it reaches {_OUTSIDE[1]}.")
    return str(network)


def judge(
    addresses: Sequence[str],
    *,
    port: int,
    grant: Sequence[str] = (),
    own: Collection[tuple[str, int]] = frozenset(),
    local: Collection[str] = frozenset(),
) -> None:
    """Accept an answer of the resolver, or refuse it whole for its first bad address.

    Args:
        addresses: every address of the answer.
        port: the port that is to be connected to.
        grant: ranges of the rule, as `parse_grant` returned them; one that can't be read grants nothing.
        own: (address, port) of fazt's own listeners, as `expand_listeners` returned them; never reachable.
        local: addresses of this machine's interfaces, which need a grant even where they are public.

    Raises:
        FaztError: `own_listener`, or `private_address` with `address_class`; `dns_failed` for an empty answer.
    """
    if not addresses:
        raise FaztError(Reason.DNS_FAILED, "The host name has no address.")
    networks = _networks(tuple(grant)) if grant else ()
    here = _inners(frozenset(local)) if local else ()
    for text in addresses:
        verdict = classify(text)
        parsed = _parse(text)
        inner = None if parsed is None else _decode(parsed)[0]
        mine = inner in here
        if inner is not None and own and _is_own(inner, port, own, mine=mine):
            raise FaztError(
                Reason.OWN_LISTENER,
                "The host name leads to fazt itself.",
                detail=f"{verdict.address} port {port} is a listener of this fazt",
            )
        klass, source = verdict.klass, verdict.source
        if verdict.public and mine:
            klass, source = AddressClass.OWN_INTERFACE, "an interface of this machine"
        elif verdict.public:
            continue
        reachable = verdict.grantable or klass is AddressClass.OWN_INTERFACE
        if reachable and inner is not None and any(inner in network for network in networks):
            continue
        raise FaztError(
            Reason.PRIVATE_ADDRESS,
            "The host name leads to an address that may not be reached.",
            address_class=klass.value,
            detail=f"{verdict.address} is {klass.value}: {source}",
        )


def expand_listeners(
    binds: Iterable[tuple[str, int]], interface_addresses: Iterable[str]
) -> frozenset[tuple[str, int]]:
    """Return every (address, port) at which fazt itself can be reached.

    Args:
        binds: address and port of each listening socket; "0.0.0.0", "::" and "" stand for all interfaces.
        interface_addresses: the addresses of this machine.

    A wildcard stays in the result beside its addresses: `judge` takes it for all of 127.0.0.0/8, every address of
    which reaches it, and for what the interfaces are given later. "::" counts for IPv4 as well, since Linux accepts
    both on such a socket by default.

    Raises:
        ConfigError: a bind is neither an address nor "localhost".
    """
    local = [inner for inner in map(_inner, interface_addresses) if inner is not None]
    out: set[tuple[str, int]] = set()
    for host, port in binds:
        if host == "localhost":
            out |= {("127.0.0.1", port), ("::1", port)}
            continue
        address = _inner(host or _ANY_V6)
        if address is None:
            raise ConfigError(f"{host!r} is not an address that can be listened on.")
        out.add((str(address), port))
        if str(address) in (_ANY_V4, _ANY_V6):
            wild_v6 = address.version == 6
            out |= {(_ANY_V4, port), ("127.0.0.1", port)} | ({("::1", port)} if wild_v6 else set())
            out |= {(str(other), port) for other in local if wild_v6 or other.version == 4}
    return frozenset(out)


@lru_cache(maxsize=4096)
def _parse(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _decode(address: Address) -> tuple[Address, str]:
    """Return the address to judge and how it was embedded; any other embedding than these two is refused."""
    if isinstance(address, ipaddress.IPv6Address):
        value = int(address)
        embedding = _EMBEDDED.get(value >> 32)
        if embedding:
            return ipaddress.IPv4Address(value & 0xFFFFFFFF), embedding
    return address, ""


def _inner(text: str) -> Address | None:
    """Return the address to compare: decoded, without zone id."""
    address = _parse(text.partition("%")[0])
    return None if address is None else _decode(address)[0]


@lru_cache(maxsize=8)
def _inners(texts: frozenset[str]) -> frozenset[Address | None]:
    return frozenset(map(_inner, texts)) - {None}


def _lookup(address: Address) -> tuple[AddressClass, str]:
    value = int(address)
    for shift, blocks in _TABLES[address.version]:
        row = blocks.get(value >> shift)
        if row is not None:
            return row
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_UNICAST:
        return _OUTSIDE
    return AddressClass.PUBLIC, "in no special-purpose block"


def _is_own(address: Address, port: int, own: Collection[tuple[str, int]], *, mine: bool) -> bool:
    bare = ipaddress.IPv6Address(int(address)) if isinstance(address, ipaddress.IPv6Address) else address
    anywhere = _ANY_V4 if address.version == 4 else _ANY_V6
    return (str(bare), port) in own or ((mine or bare in _LOOPBACK_V4) and (anywhere, port) in own)


def _within(network: Network, block: Network) -> bool:
    if isinstance(network, ipaddress.IPv4Network):
        return isinstance(block, ipaddress.IPv4Network) and network.subnet_of(block)
    return isinstance(block, ipaddress.IPv6Network) and network.subnet_of(block)


_CIDR = re.compile(r"[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?")  # no netmasks, hostmasks and zone ids


def _parse_network(cidr: str) -> Network:
    hint = "Give a network as ADDRESS/PREFIX, for example 10.1.0.0/16 or 127.0.0.1/32."
    try:
        loose = ipaddress.ip_network(cidr, strict=False) if _CIDR.fullmatch(cidr) else None
    except ValueError:
        loose = None
    if loose is None:
        raise ConfigError(f"{cidr!r} is not a network.", hint=hint)
    address = cidr.partition("/")[0]
    if loose.network_address != ipaddress.ip_address(address):
        raise ConfigError(
            f"{cidr!r} is an address inside a network, not the network itself.",
            hint=f"Say {loose} for the whole network or {address} for the one address.",
        )
    mapped = loose.network_address.ipv4_mapped if isinstance(loose, ipaddress.IPv6Network) else None
    if mapped is not None and loose.prefixlen >= 96:
        return ipaddress.IPv4Network((int(mapped), loose.prefixlen - 96))
    return loose


@lru_cache(maxsize=1024)
def _networks(grant: tuple[str, ...]) -> tuple[Network, ...]:
    out: list[Network] = []
    for cidr in grant:
        try:
            out.append(ipaddress.ip_network(parse_grant(cidr)))
        except ConfigError:  # a stored row that can't be granted (any more) grants nothing
            continue
    return tuple(out)
