"""The cache as the engine uses it: look, keep, renew, invalidate. No clock, no network; the store does the keeping."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from fazt.core import headers as fields_of
from fazt.core.cache import decision
from fazt.core.cache.decision import GATEWAY_TIMEOUT, Found, Verdict
from fazt.core.cache.entry import Entry, Place, ResponseStore
from fazt.core.cache.memory import MemoryStore
from fazt.core.cache.request import CacheRequest
from fazt.core.cache.storing import FUNCTIONS, PRIVATE, CacheRules, draft
from fazt.core.call import Fields, ResponseHead
from fazt.core.url import Url, parse_url
from fazt.errors import FaztError, Reason

_GONE: Final = frozenset({404, 410})


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counters since the process began, and what is kept now."""

    items: int
    bytes: int
    max_items: int
    max_bytes: int
    hits: int
    misses: int


class Recording:
    """A response on its way into the cache, piece by piece; kept by `commit()` and by nothing else.

    Holds no more than the largest entry: with the first byte beyond, everything is let go.
    """

    __slots__ = ("_cache", "_entry", "_generation", "_left", "_pieces", "_replaces")

    def __init__(self, cache: ResponseCache, entry: Entry, *, replaces: Entry | None, generation: int) -> None:
        self._cache = cache
        self._entry: Entry | None = entry
        self._replaces = replaces
        self._generation = generation
        self._pieces: list[bytes] = []
        self._left = cache.store.max_entry

    @property
    def active(self) -> bool:
        """Whether it may still be kept."""
        return self._entry is not None

    @property
    def blocking(self) -> bool:
        """Whether `commit` may touch a disk."""
        return self._cache.store.blocking

    def feed(self, piece: bytes) -> None:
        """Take the next piece of the body."""
        if self._entry is None:
            return
        self._left -= len(piece)
        if self._left < 0:
            self.drop()
        else:
            self._pieces.append(bytes(piece))

    def commit(self) -> bool:
        """Keep the response, whose body is whole; tell whether it is kept (RFC 9111 section 3.3: no other is)."""
        entry, self._entry = self._entry, None
        if entry is None:
            return False
        entry.body = b"".join(self._pieces)
        self._pieces.clear()
        return self._cache.keep(entry, replaces=self._replaces, generation=self._generation)

    def drop(self) -> None:
        """Let go of everything; may be repeated."""
        self._entry = None
        self._pieces.clear()


class ResponseCache:
    """Answers requests from stored responses, and decides which are stored.

    Args:
        store: where entries are kept.
        rules: how it behaves beyond what the RFC settles.
        partition: what else than the app decides where requests go (the id of the policy).
        credentials: whether responses to requests with credentials may be kept, each for its own credentials alone.
    """

    def __init__(
        self,
        store: ResponseStore,
        rules: CacheRules = PRIVATE,
        *,
        partition: str = "",
        credentials: bool = False,
    ) -> None:
        self.store = store
        self.rules = rules
        self.partition = partition
        self.credentials = credentials and not rules.shared
        self.generation = 0
        """Number that changes with every purge; see `record`."""
        self._hits = 0
        self._misses = 0

    @classmethod
    def for_functions(
        cls, max_items: int = 0, max_bytes: int = 0, *, lock: AbstractContextManager[Any] | None = None
    ) -> Self:
        """Return a cache in memory for calls whose rule has a TTL; off unless both limits are above zero.

        Args:
            max_items: most responses kept (`net.cache_max_items`).
            max_bytes: most bytes kept (`net.cache_max_bytes`).
            lock: held around each step; a `threading.Lock` where threads share the cache, nothing on one event loop.
        """
        cache = cls(MemoryStore(0, lock=lock), FUNCTIONS)
        cache.configure(max_items=max_items, max_bytes=max_bytes)
        return cache

    @property
    def enabled(self) -> bool:
        """Whether anything can be kept at all."""
        return self.store.max_entry > 0

    def look(self, request: CacheRequest, *, now: float, max_body: int | None = None, again: bool = False) -> Found:
        """Return what the cache has for a request.

        Args:
            request: what is asked.
            now: seconds since the epoch.
            max_body: most body bytes the caller may be given.
            again: the call looked before and waited for another one's answer; it counts once, as what it ends with.

        Raises:
            FaztError: `not_cached`: the caller wants a stored answer or none, and there is none.
        """
        found = self._look(request, now=now, max_body=max_body)
        if found.cache != "miss":
            self._hits += 1
            self._misses -= again
        else:
            self._misses += not again
        return found

    def _look(self, request: CacheRequest, *, now: float, max_body: int | None) -> Found:
        wanted = request.control
        entry = self.store.find(request.place, request.pick)
        if entry is not None and max_body is not None and len(entry.body) > max_body:
            entry = None
        if entry is not None and not request.reload:
            verdict = decision.judge(entry, request, rules=self.rules, now=now)
            if verdict is not Verdict.VALIDATE:
                head, body = decision.answer(entry, request, now=now)
                if verdict is Verdict.FRESH:
                    return Found(head, body, "hit")
                refresh = verdict is Verdict.STALE_MEANWHILE
                return Found(head, body, "stale", refresh and not (request.only_stored or wanted.only_if_cached))
        if request.only_stored:
            raise FaztError(Reason.NOT_CACHED, "the cache holds no response to this request")
        if wanted.only_if_cached:
            return Found(GATEWAY_TIMEOUT, b"", "miss")
        if entry is None:
            return Found()
        return Found(entry=entry, fields=decision.conditions(entry, request))

    def record(
        self,
        request: CacheRequest,
        head: ResponseHead,
        *,
        requested_at: float,
        now: float,
        generation: int,
        known: Entry | None = None,
    ) -> Recording | None:
        """Return where to put the body of a response that came from the network; None when it may not be kept.

        Args:
            request: what was asked.
            head: status and fields of what came, secrets scrubbed.
            requested_at, now: seconds since the epoch, when it was asked for, and when its head came.
            generation: `generation` when the call began: a response that was on its way during a purge is not kept.
            known: the entry found before; it goes when what came is news and may not be kept.
        """
        if not self.enabled:
            return None
        if head.status == 304 and known is not None and request.conditional:
            self._passed(request, known, head, requested_at=requested_at, now=now, generation=generation)
            return None
        if request.method == "HEAD":
            self._head(request, head, requested_at=requested_at, now=now, generation=generation)
        entry = draft(request, head, rules=self.rules, requested_at=requested_at, received_at=now)
        if entry is None:
            # What came is newer, so what is stored is known to be out of date; an error or a part says nothing of it.
            if known is not None and known.method == request.method and _tells(head.status):
                self.store.drop(known)
            return None
        if request.method != "HEAD":
            length = fields_of.first(head.headers, "content-length") or ""
            if length.isdigit() and int(length) > self.store.max_entry:
                return None
        return Recording(self, entry, replaces=known, generation=generation)

    def keep(self, entry: Entry, *, replaces: Entry | None, generation: int) -> bool:
        """Store an entry, unless there was a purge since; tell whether it is stored."""
        if generation != self.generation:
            return False
        return self.store.put(entry, replaces=replaces)

    def renew(
        self,
        request: CacheRequest,
        entry: Entry,
        head: ResponseHead,
        *,
        requested_at: float,
        now: float,
        generation: int,
    ) -> tuple[ResponseHead, bytes] | None:
        """Take in a 304 to `Found.fields` (RFC 9111 section 4.3.4); return the answer it makes of the stored response.

        None when the 304 speaks of another response than the stored one, which is then gone: ask without conditions.
        """
        if not decision.meant(entry, head.headers):
            self.store.drop(entry)
            return None
        whole = decision.renewed(entry, head)
        kept = ResponseHead(
            whole.status,
            tuple(item for item in whole.headers if item[0] != "set-cookie"),  # for the caller, not for the store
            whole.phrase,
            whole.version,
        )
        fresh = draft(request, kept, rules=self.rules, requested_at=requested_at, received_at=now)
        if fresh is None or generation != self.generation:
            self.store.drop(entry)
        else:
            fresh.body = entry.body
            self.store.put(fresh, replaces=entry)
        return whole, entry.body

    def stand_in(self, request: CacheRequest, entry: Entry, *, now: float) -> tuple[ResponseHead, bytes] | None:
        """Return a stale answer in place of a failure, where that is allowed (RFC 5861 section 4)."""
        if not decision.may_stand_in(entry, request, rules=self.rules, now=now):
            return None
        return decision.answer(entry, request, now=now)

    def invalidate(self, *, app: str, url: Url, status: int, fields: Fields, now: float) -> int:
        """Remove what an unsafe request has changed (RFC 9111 section 4.4); return how many entries.

        Args:
            app: on whose behalf it was made.
            url: where it went.
            status, fields: of its answer; an error changes nothing.
            now: seconds since the epoch.
        """
        if not 200 <= status <= 399:
            return 0
        targets = [url.target]
        for name in ("location", "content-location"):
            for value in fields_of.values(fields, name):
                target = _same_origin(url, value)
                if target is not None and target not in targets:
                    targets.append(target)
        return sum(
            self.store.forget(Place(app, self.partition, url.scheme, url.host, url.port, target), at=now)
            for target in targets
        )

    def purge(self, *, app: str | None = None, pattern: str | None = None) -> int:
        """Drop the responses that a changed or removed rule stood for; return how many.

        Args:
            app: only of this app; None: of all (a global rule).
            pattern: only of this host, or of the hosts of `*.suffix`; None: of all.
        """
        self.generation += 1
        return self.store.purge(app=app, pattern=pattern)

    def clear(self) -> int:
        """Drop everything; return how many."""
        return self.purge()

    def configure(self, *, max_items: int, max_bytes: int) -> None:
        """Change the limits; what no longer fits goes at once, and everything with either limit at zero."""
        self.store.configure(max_items=max_items, max_bytes=max_bytes if max_items else 0)

    def stats(self) -> CacheStats:
        """Return the counters."""
        kept = self.store.kept()
        return CacheStats(kept.items, kept.bytes, kept.max_items, kept.max_bytes, self._hits, self._misses)

    def _passed(
        self,
        request: CacheRequest,
        entry: Entry,
        head: ResponseHead,
        *,
        requested_at: float,
        now: float,
        generation: int,
    ) -> None:
        """Take in a 304 to conditions of the caller's own, which goes to the caller as it is."""
        names = {name.lower() for name, _ in head.headers}
        if names.isdisjoint(("etag", "last-modified")) or not decision.meant(entry, head.headers):
            return  # it speaks of whatever response the caller has, which need not be the stored one
        plain = replace(request, conditional=False)
        self.renew(plain, entry, head, requested_at=requested_at, now=now, generation=generation)

    def _head(
        self, request: CacheRequest, head: ResponseHead, *, requested_at: float, now: float, generation: int
    ) -> None:
        """Take in what a HEAD tells of a stored GET (RFC 9111 section 4.3.5)."""
        get = replace(request, method="GET", conditional=False)
        entry = self.store.find(get.place, get.pick)
        if entry is None or head.status == 304:
            return
        if head.status != entry.status:
            if head.status in _GONE or head.status < 400:
                self.store.drop(entry)
            return
        length = fields_of.first(head.headers, "content-length")
        same = length is None or not length.isdigit() or int(length) == len(entry.body)
        for name in ("etag", "last-modified"):
            said = fields_of.first(head.headers, name)
            same = same and (said is None or said == fields_of.first(entry.headers, name))
        if same:
            self.renew(get, entry, head, requested_at=requested_at, now=now, generation=generation)
        else:
            self.store.drop(entry)


def _tells(status: int) -> bool:
    return (status < 400 and status not in (206, 304)) or status in _GONE


def _same_origin(url: Url, reference: str) -> str | None:
    """Return the target a field names, when it is of the same origin (RFC 9111 section 4.4); None for any other."""
    try:
        named = parse_url(reference, base=url)
    except FaztError:
        return None
    return named.target if (named.scheme, named.host, named.port) == (url.scheme, url.host, url.port) else None
