"""A store in memory: what was used longest ago goes first, until bytes and entries are within their limits."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from fazt.core.cache.entry import Entry, Kept, Pick, Place, cost, covers

MAX_VARIANTS: Final = 64
"""Most entries of one URL, which differ by `Vary`, role or credentials."""
_MAX_FORGOTTEN = 4096


class MemoryStore:
    """Keeps entries in memory.

    Args:
        max_bytes: most bytes kept.
        max_items: most entries kept, 0 for no limit of their number.
        max_entry: most bytes of one entry; default: `max_bytes`.
        salt: key of the digests in keys; without one, responses to requests with credentials are not kept.
        lock: held around each step; a `threading.Lock` where threads share the store, nothing on one event loop.
    """

    blocking = False

    def __init__(
        self,
        max_bytes: int,
        *,
        max_items: int = 0,
        max_entry: int | None = None,
        salt: bytes = b"",
        lock: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.salt = salt
        self._lock = lock if lock is not None else nullcontext()
        self._max_bytes = max_bytes
        self._max_items = max_items
        self._max_entry = max_entry
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        """By id, the one used longest ago first."""
        self._places: dict[Place, list[Entry]] = {}
        """Newest first."""
        self._forgotten: OrderedDict[Place, float] = OrderedDict()
        self._forgotten_before = float("-inf")
        self._bytes = 0
        self._next = 0

    @property
    def max_entry(self) -> int:
        """Most bytes one entry may count for."""
        return self._max_bytes if self._max_entry is None else min(self._max_entry, self._max_bytes)

    def find(self, place: Place, pick: Pick) -> Entry | None:
        """Return the entry of a place that `pick` chooses; it counts as used."""
        with self._lock:
            entries = self._places.get(place)
            entry = pick(entries) if entries is not None else None
            if entry is not None:
                self._entries.move_to_end(entry.ident)
            return entry

    def put(self, entry: Entry, *, replaces: Entry | None = None) -> bool:
        """Keep an entry in place of those it is the same as, and of `replaces`; tell whether it is kept."""
        entry.size = cost(entry)
        with self._lock:
            if replaces is not None:
                self._remove(replaces)
            if entry.requested_at <= self._forgotten.get(entry.place, self._forgotten_before):
                return False
            for other in self._places.get(entry.place, ())[:]:
                if other.same_as(entry):
                    self._remove(other)
            if entry.size > self.max_entry:
                return False
            entries = self._places.setdefault(entry.place, [])
            if len(entries) >= MAX_VARIANTS:
                self._remove(entries[-1])
                entries = self._places.setdefault(entry.place, [])
            self._next += 1
            entry.ident = self._next
            entries.insert(0, entry)
            self._entries[entry.ident] = entry
            self._bytes += entry.size
            self._shrink()
            return True

    def drop(self, entry: Entry) -> None:
        """Remove one entry."""
        with self._lock:
            self._remove(entry)

    def forget(self, place: Place, *, at: float) -> int:
        """Remove every entry of a place, and keep none that was asked for at or before this moment; return how many."""
        with self._lock:
            self._forgotten[place] = at
            self._forgotten.move_to_end(place)
            if len(self._forgotten) > _MAX_FORGOTTEN:
                _, moment = self._forgotten.popitem(last=False)
                self._forgotten_before = max(self._forgotten_before, moment)
            doomed = self._places.get(place, [])[:]
            for entry in doomed:
                self._remove(entry)
            return len(doomed)

    def purge(self, *, app: str | None = None, pattern: str | None = None) -> int:
        """Remove what belongs to an app and to a host or the hosts of `*.suffix`; return how many."""
        with self._lock:
            doomed = [entry for entry in self._entries.values() if covers(entry.place, app=app, pattern=pattern)]
            for entry in doomed:
                self._remove(entry)
            return len(doomed)

    def configure(self, *, max_items: int, max_bytes: int) -> None:
        """Change the limits; what no longer fits goes at once."""
        with self._lock:
            self._max_items, self._max_bytes = max_items, max_bytes
            self._shrink()

    def kept(self) -> Kept:
        """Return how much is kept."""
        with self._lock:
            return Kept(len(self._entries), self._bytes, self._max_items, self._max_bytes)

    def _shrink(self) -> None:
        while self._bytes > self._max_bytes or (self._max_items and len(self._entries) > self._max_items):
            self._remove(next(iter(self._entries.values())))

    def _remove(self, entry: Entry) -> None:
        if self._entries.get(entry.ident) is not entry:
            return
        del self._entries[entry.ident]
        self._bytes -= entry.size
        entries = self._places[entry.place]
        entries.remove(entry)  # entries compare by identity
        if not entries:
            del self._places[entry.place]
