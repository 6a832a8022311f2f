"""What is kept: a response, where it belongs, and whom it may answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from fazt.core.cache.directives import ResponseControl
from fazt.core.call import Fields

OVERHEAD: Final = 200
"""Bytes that an entry is taken to cost beside its key, fields and body."""


class Place(NamedTuple):
    """What a response belongs to, and what an unsafe request to the same URL takes away (RFC 9111 section 4.4).

    Apps and policies never see each other's responses: `partition` names what else than the app decides where a
    request goes (the policy, its CA files, its static names).
    """

    app: str
    partition: str
    scheme: str
    host: str
    port: int
    target: str

    def __repr__(self) -> str:  # the query may hold a credential of the caller
        path, mark, _ = self.target.partition("?")
        return f"<Place {self.app!r} {self.scheme}://{self.host}:{self.port}{path}{mark and '?…'}>"


@dataclass(slots=True, eq=False)
class Entry:
    """A stored response. Nobody changes it or what it holds, so it can be handed to anybody (F14).

    Times are seconds since the epoch. Not frozen: making a frozen object costs three times as much.

    Args:
        place: the URL it answers, and for whom.
        method: GET, or HEAD for one without a body, which answers HEAD alone.
        role: what the call was for; calls for something else do not get it.
        who: digest of the credentials that the request carried, "" for none.
        vary: names of the request fields that selected it, lower case, sorted (RFC 9111 section 4.1).
        variant: digest of their values.
        headers: the fields that may be kept (section 3.1), names in lower case.
        requested_at, received_at: when it was asked for, and when its head came.
        born: `received_at` less the age that it had then (section 4.2.3).
        lifetime: seconds it is fresh from `born` on (section 4.2.1); None when the server did not say.
        control: its directives.
        size: bytes it counts for.
        ident: for the store.
    """

    place: Place
    method: str
    role: str
    who: str
    vary: tuple[str, ...]
    variant: bytes = field(repr=False)
    status: int
    phrase: str
    version: str
    headers: Fields = field(repr=False)
    body: bytes = field(repr=False)
    requested_at: float
    received_at: float
    born: float
    lifetime: float | None
    control: ResponseControl = field(repr=False)
    size: int = 0
    ident: int = 0

    def same_as(self, other: Entry) -> bool:
        """Tell whether both answer exactly the same requests, so that one of them is enough."""
        return (
            self.method == other.method
            and self.role == other.role
            and self.who == other.who
            and self.vary == other.vary
            and self.variant == other.variant
        )


def cost(entry: Entry) -> int:
    """Return the bytes an entry counts for."""
    place = entry.place
    size = OVERHEAD + len(entry.body) + len(place.app) + len(place.partition) + len(place.host) + len(place.target)
    size += len(entry.role) + len(entry.who) + len(entry.variant) + sum(map(len, entry.vary))
    return size + sum(len(name) + len(value) + 4 for name, value in entry.headers)


Pick = Callable[[Sequence[Entry]], Entry | None]
"""Chooses the entry that answers a request, by everything but its body."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a store holds: entries, bytes, and the most of both (0 items: no limit of their number)."""

    items: int
    bytes: int
    max_items: int
    max_bytes: int


class ResponseStore(Protocol):
    """Where entries are kept. Steps are atomic; none raises: what cannot be read is not there.

    `blocking` says whether a step may touch a disk; `salt` is the key of the digests in keys, 16 bytes and more, the
    same for as long as the entries live.
    """

    blocking: bool
    salt: bytes

    @property
    def max_entry(self) -> int:
        """Most bytes one entry may count for; 0 when nothing can be kept."""

    def find(self, place: Place, pick: Pick) -> Entry | None:
        """Return the entry of a place that `pick` chooses, newest first, whole; it counts as used."""

    def put(self, entry: Entry, *, replaces: Entry | None = None) -> bool:
        """Keep an entry in place of those it is the same as, and of `replaces`; make room; tell whether it is kept.

        Nothing is kept that was asked for before its place was last emptied by `forget`.
        """

    def drop(self, entry: Entry) -> None:
        """Remove one entry, unless another has taken its place."""

    def forget(self, place: Place, *, at: float) -> int:
        """Remove every entry of a place, and keep none that was asked for at or before this moment; return how many."""

    def purge(self, *, app: str | None = None, pattern: str | None = None) -> int:
        """Remove what belongs to an app (None: to any) and to a host or the hosts of `*.suffix` (None: to any)."""

    def configure(self, *, max_items: int, max_bytes: int) -> None:
        """Change the limits; what no longer fits goes at once."""

    def kept(self) -> Kept:
        """Return how much is kept."""


def covers(place: Place, *, app: str | None, pattern: str | None) -> bool:
    """Tell whether a purge of this app and host pattern means this place."""
    if app is not None and place.app != app:
        return False
    if pattern is None:
        return True
    return place.host.endswith(pattern[1:]) if pattern.startswith("*.") else place.host == pattern
