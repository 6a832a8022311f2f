"""The response cache: in memory, least recently used goes first, keyed by app (A.16)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self

from fazt.core import headers as fields_of
from fazt.core.cache.freshness import lifetime, parse_control, vary_names
from fazt.core.call import Fields, ResponseHead
from fazt.core.url import Url

ENTRY_OVERHEAD: Final = 200
"""Bytes that an entry is taken to cost beside its key, fields and body."""
MAX_VARIANTS: Final = 16
"""Most responses kept for one URL that differ by `Vary`."""

_METHODS = frozenset({"GET", "HEAD"})
# With credentials the answer is somebody's; with a range or a condition it is no whole answer.
_UNCACHEABLE = frozenset(
    {
        "authorization",
        "cookie",
        "cookie2",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "proxy-authorization",
        "range",
    }
)

Variant = tuple[tuple[str, tuple[str, ...]], ...]
"""The request fields that selected a response, with their values in the request that fetched it."""


class CacheKey(NamedTuple):
    """What a response belongs to. The app is part of it: apps never see each other's responses."""

    app: str
    method: str
    scheme: str
    host: str
    port: int
    target: str

    def __repr__(self) -> str:  # the query may hold a credential of the caller
        path, mark, _ = self.target.partition("?")
        return f"<CacheKey {self.app!r} {self.method} {self.scheme}://{self.host}:{self.port}{path}{mark and '?…'}>"


@dataclass(frozen=True, slots=True)
class CacheRequest:
    """A request that the cache may answer; equal ones may share one trip to the network.

    Args:
        key: the request without its fields.
        headers: the sanitised fields.
        refresh: whether the caller wants the network asked (`no-cache`); the answer is kept all the same.
    """

    key: CacheKey
    headers: Fields = field(repr=False)
    refresh: bool = False

    @classmethod
    def of(
        cls,
        *,
        app: str,
        method: str,
        url: Url,
        headers: Fields,
        body: bytes | None = None,
        auth: bool = False,
        sensitive: Collection[str] = (),
    ) -> Self | None:
        """Return the request as the cache sees it, or None when it must not be answered from there or kept.

        Args:
            app: id of the app.
            method: canonical method; only GET and HEAD are cacheable, each for itself.
            url: canonical URL.
            headers: the sanitised fields.
            body: the request body; any body makes the request uncacheable.
            auth: whether a secret will be injected.
            sensitive: names of further fields that hold credentials.
        """
        if method not in _METHODS or body is not None or auth:
            return None
        marked = {name.lower() for name in sensitive}
        controlled = False
        for name, _ in headers:
            lower = name.lower()
            if lower in _UNCACHEABLE or lower in marked:
                return None
            controlled = controlled or lower in ("cache-control", "pragma")
        refresh = False
        if controlled:
            control = parse_control(fields_of.values(headers, "cache-control"))
            if control.forbidden:
                return None
            pragma = ",".join(fields_of.values(headers, "pragma")).lower()
            refresh = control.revalidate or control.max_age == 0 or "no-cache" in pragma
        return cls(CacheKey(app, method, url.scheme, url.host, url.port, url.target), headers, refresh)

    def variant(self, names: Collection[str]) -> Variant:
        """Return the values that this request has for these fields."""
        given = self._by_name()
        return tuple((name, given.get(name, ())) for name in names)

    def matches(self, variants: Sequence[Variant]) -> Variant | None:
        """Return the first of these that this request has the values of, or None."""
        given: dict[str, tuple[str, ...]] | None = None
        for variant in variants:
            if variant:  # most responses depend on no field
                given = self._by_name() if given is None else given
                if any(given.get(name, ()) != values for name, values in variant):
                    continue
            return variant
        return None

    def _by_name(self) -> dict[str, tuple[str, ...]]:
        given: dict[str, tuple[str, ...]] = {}
        for name, value in self.headers:
            lower = name.lower()
            given[lower] = (*given.get(lower, ()), value)
        return given


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """A stored response. Immutable through and through, so it can be handed to anybody (F14).

    Args:
        stored_at: monotonic seconds.
        expires_at: monotonic seconds; from then on it is not used.
        ttl: the rule's TTL in seconds under which it was stored.
        size: bytes it counts for.
    """

    status: int
    headers: Fields = field(repr=False)
    body: bytes = field(repr=False)
    stored_at: float
    expires_at: float
    ttl: float
    size: int


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counters since the process began, and what is kept now."""

    items: int
    bytes: int
    max_items: int
    max_bytes: int
    hits: int
    misses: int


class ResponseCache:
    """Keeps responses for rules with a TTL. Does nothing unless both limits are above zero.

    Args:
        max_items: most responses kept (`net.cache_max_items`).
        max_bytes: most bytes kept (`net.cache_max_bytes`).
        lock: held around each step; a `threading.Lock` where threads share the cache, nothing on one event loop.
    """

    def __init__(
        self, max_items: int = 0, max_bytes: int = 0, *, lock: AbstractContextManager[Any] | None = None
    ) -> None:
        self._lock = lock if lock is not None else nullcontext()
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[CacheKey, Variant], CachedResponse] = OrderedDict()
        self._variants: dict[CacheKey, list[Variant]] = {}
        self._bytes = 0
        self._hits = 0
        self._misses = 0
        self.generation = 0
        """Number that changes with every purge; see `store`."""

    @property
    def enabled(self) -> bool:
        """Whether anything can be kept at all."""
        return self._max_items > 0 and self._max_bytes > 0

    def configure(self, *, max_items: int, max_bytes: int) -> None:
        """Change the limits; what no longer fits goes at once."""
        with self._lock:
            self._max_items = max_items
            self._max_bytes = max_bytes
            if not self.enabled:
                self._drop_all()
            self._shrink()

    def lookup(
        self, request: CacheRequest, *, ttl: float, now: float, max_body: int | None = None, again: bool = False
    ) -> CachedResponse | None:
        """Return a fresh response to this request, or None.

        Args:
            request: what is asked for.
            ttl: the rule's TTL now, in seconds; responses stored under another one are dropped.
            now: monotonic seconds.
            max_body: most body bytes the caller may be given.
            again: the call looked before and waited for another one's answer; it counts once, as what it ends with.
        """
        if not self.enabled or ttl <= 0:
            return None
        with self._lock:
            found = self._matching(request)
            if found is not None and not request.refresh:
                entry = self._entries[found]
                if entry.ttl != ttl or now >= entry.expires_at:
                    self._drop(found)
                elif max_body is None or len(entry.body) <= max_body:
                    self._entries.move_to_end(found)
                    self._hits += 1
                    self._misses -= again
                    return entry
            self._misses += not again
            return None

    def store(
        self,
        request: CacheRequest,
        *,
        ttl: float,
        head: ResponseHead,
        body: bytes,
        now: float,
        generation: int | None = None,
    ) -> bool:
        """Keep a whole response that came straight from the requested URL, if it may be kept; tell whether it is.

        Args:
            request: what was asked for.
            ttl: the rule's TTL in seconds.
            head: status and fields of the response.
            body: its whole body.
            now: monotonic seconds.
            generation: `generation` when the call began: a response that was on its way during a purge is not kept.
        """
        if not self.enabled:
            return False
        seconds = lifetime(head, ttl=ttl)
        names = vary_names(head.headers)
        with self._lock:
            replaced = self._matching(request)
            if replaced is not None:
                self._drop(replaced)
            if seconds <= 0 or names is None or generation not in (None, self.generation):
                return False
            variant = request.variant(names)
            size = _size(request.key, variant, head.headers, body)
            if size > self._max_bytes:
                return False
            variants = self._variants.setdefault(request.key, [])
            if len(variants) >= MAX_VARIANTS:
                self._drop((request.key, variants[0]))
                variants = self._variants.setdefault(request.key, [])
            variants.append(variant)
            self._entries[request.key, variant] = CachedResponse(
                status=head.status,
                headers=tuple((name, value) for name, value in head.headers),
                body=bytes(body),
                stored_at=now,
                expires_at=now + seconds,
                ttl=ttl,
                size=size,
            )
            self._bytes += size
            self._shrink()
            return True

    def purge(self, *, app: str | None = None, pattern: str | None = None) -> int:
        """Drop the responses that a changed or removed rule stood for; return how many.

        Args:
            app: only of this app; None: of all (a global rule).
            pattern: only of this host, or of the hosts of `*.suffix`; None: of all.
        """
        with self._lock:
            self.generation += 1
            doomed = [place for place in self._entries if _covers(place[0], app=app, pattern=pattern)]
            for place in doomed:
                self._drop(place)
            return len(doomed)

    def clear(self) -> int:
        """Drop everything; return how many."""
        return self.purge()

    def stats(self) -> CacheStats:
        """Return the counters."""
        with self._lock:
            return CacheStats(
                items=len(self._entries),
                bytes=self._bytes,
                max_items=self._max_items,
                max_bytes=self._max_bytes,
                hits=self._hits,
                misses=self._misses,
            )

    def _matching(self, request: CacheRequest) -> tuple[CacheKey, Variant] | None:
        """Return the place of the one response that answers this request (RFC 9111 section 4.1)."""
        variants = self._variants.get(request.key)
        found = None if variants is None else request.matches(variants)
        return None if found is None else (request.key, found)

    def _shrink(self) -> None:
        while len(self._entries) > self._max_items or self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop_all(self) -> None:
        self._entries.clear()
        self._variants.clear()
        self._bytes = 0

    def _drop(self, place: tuple[CacheKey, Variant]) -> None:
        self._bytes -= self._entries.pop(place).size
        variants = self._variants[place[0]]
        variants.remove(place[1])
        if not variants:
            del self._variants[place[0]]


def _size(key: CacheKey, variant: Variant, fields: Fields, body: bytes) -> int:
    size = ENTRY_OVERHEAD + len(body) + sum(len(part) for part in key if isinstance(part, str))
    size += sum(len(name) + len(value) for name, value in fields)
    return size + sum(len(name) + sum(map(len, values)) for name, values in variant)


def _covers(key: CacheKey, *, app: str | None, pattern: str | None) -> bool:
    if app is not None and key.app != app:
        return False
    if pattern is None:
        return True
    return key.host.endswith(pattern[1:]) if pattern.startswith("*.") else key.host == pattern
