"""Who answers a request: an app by its host or its path, or the admin API. Names route, ids decide (F41, F53)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from fazt.server.answers import RefusalError
from fazt.server.paths import SitePath

PATH_PREFIX = "_app"
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?)(?::[0-9]{1,5})?")
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_APP_DOMAIN = ".localhost"
_FORWARDING = re.compile(rb"forwarded|via|x-forwarded-.*|x-real-ip|cf-connecting-ip|true-client-ip")


@dataclass(frozen=True, slots=True)
class ToAdmin:
    """The host names no app: the admin API answers, to whoever shows the token (F43)."""

    path: SitePath


@dataclass(frozen=True, slots=True)
class ToApp:
    """An app answers.

    Args:
        name: its name, or its id where the path gave one.
        path: the path inside the app.
        prefix: what stands before it in the client's URL, "" or `/_app/NAME`.
    """

    name: str
    path: SitePath
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """What is known of the other side.

    Args:
        address: address of the TCP peer.
        forwarded: whether any field says that a proxy stands between; then the peer is the proxy, not the client.
    """

    address: str
    forwarded: bool

    @property
    def local(self) -> bool:
        """Whether the client itself sits on this machine, as far as anybody can tell."""
        if self.forwarded:
            return False
        try:
            address = ipaddress.ip_address(self.address.partition("%")[0])
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return (mapped or address).is_loopback


def peer_of(client: tuple[str, int] | None, fields: Iterable[tuple[bytes, bytes]]) -> Peer:
    """Read the peer off a connection and the fields of a request (names in lower case)."""
    return Peer(client[0] if client else "", any(_FORWARDING.fullmatch(name) for name, _ in fields))


def host_of(fields: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the host a request names, lower-case, without port and trailing dot.

    Raises:
        RefusalError: 400 when there is none, more than one (RFC 9112 section 3.2), or it is not a host.
    """
    values = [value for name, value in fields if name == b"host"]
    match = _AUTHORITY.fullmatch(values[0].decode("latin-1").lower()) if len(values) == 1 else None
    if match is None:
        raise RefusalError(400, "BAD_HOST", "the Host field names no host", close=True)
    return match[1].removesuffix(".")


def names_app(host: str) -> bool:
    """Answer whether a host belongs to an app, existing or not."""
    return host.endswith(_APP_DOMAIN)


def route(host: str, path: SitePath, *, peer: Peer, path_routing: bool) -> ToApp | ToAdmin:
    """Decide who answers.

    `NAME.localhost` is an app. `/_app/NAME/…` is one too: for a client on this machine that names it by a loopback
    name (so that no web page can reach it by a name of its own that it points here), or for everybody with
    `path_routing`. Any other host has no app label.

    Raises:
        RefusalError: 404 where nothing is to be found, which says nothing about what exists.
    """
    if names_app(host):
        label = host.removesuffix(_APP_DOMAIN)
        if "." in label:
            raise not_found()
        return ToApp(label, path)
    parts = path.parts
    if parts[:1] != (PATH_PREFIX,):
        return ToAdmin(path)
    if not path_routing and not (peer.local and host in _LOOPBACK_NAMES):
        raise not_found()
    if len(parts) < 2:
        raise not_found()
    return ToApp(parts[1], path.below(2), f"/{PATH_PREFIX}/{parts[1]}")


def not_found() -> RefusalError:
    """Say that nothing is there; the answer echoes nothing of the request (F60)."""
    return RefusalError(404, "NOT_FOUND", "not found")
