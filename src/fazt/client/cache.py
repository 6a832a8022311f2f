"""The response cache of clients: in memory, or in a directory that outlives the process."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fazt.core.cache.entry import ResponseStore
from fazt.core.cache.memory import MemoryStore
from fazt.core.cache.request import SAFE
from fazt.core.cache.responses import CacheStats, ResponseCache
from fazt.core.cache.storing import CacheRules
from fazt.core.call import Fields
from fazt.errors import ConfigError

MAX_BYTES: Final = 64 * 1024 * 1024
"""Bytes kept, unless said otherwise."""
_MOST_COOKIES = 1000
_RULED: Final = CacheRules(per_rule=True)


class Cache:
    """Keep responses as RFC 9111 says, for as long as it says; for any number of clients at once.

    What must not be kept is not: `no-store`, what comes with `Set-Cookie`, parts, anything behind an unreadable
    `Vary`. Responses to requests with credentials answer the same credentials alone, of which only a digest is kept.
    Clients with different policies do not see each other's responses.

    Args:
        directory: where they are kept (made 0700 when missing), for all processes that name it; None: in memory.
        max_bytes: most bytes kept; what was used longest ago goes first.
        max_entry: most bytes of one response; default: a quarter of `max_bytes`.
        shared: whether many people are answered from it: `private` is then not kept, nor anything asked with
            credentials, and `s-maxage` counts.
        heuristics: whether a response that does not say how long it is fresh may be taken to be so for a tenth of
            the time since it was last modified, at most a day (RFC 9111 section 4.2.2).
        stale_if_error: seconds that a stale response may stand in for a server that cannot be reached or fails, where
            neither side says so itself.
        credentials: whether responses to requests with credentials are kept at all.
        targets: fields of RFC 9213 that speak to this cache ("CDN-Cache-Control"), the most specific first.

    Raises:
        ConfigError: a number out of range.
        StoreError: the directory cannot be used.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        max_bytes: int = MAX_BYTES,
        max_entry: int | None = None,
        shared: bool = False,
        heuristics: bool = False,
        stale_if_error: float = 0.0,
        credentials: bool = True,
        targets: tuple[str, ...] = (),
        _rules: CacheRules | None = None,
    ) -> None:
        for name, number in (("max_bytes", max_bytes), ("max_entry", max_entry), ("stale_if_error", stale_if_error)):
            if number is not None and (isinstance(number, bool) or not number >= 0):
                raise ConfigError(f"{name} cannot be {number!r}", hint="give 0 or more")
        self.directory = None if directory is None else Path(directory)
        self._max_bytes = max_bytes
        self._max_entry = max_bytes // 4 if max_entry is None else max_entry
        self._rules = _rules or CacheRules(
            shared=shared,
            heuristics=heuristics,
            stale_if_error=float(stale_if_error),
            targets=tuple(target.lower() for target in targets),
        )
        self._credentials = credentials and not shared
        self._lock = threading.Lock()
        self._begin()

    @classmethod
    def of_rules(cls) -> Cache:
        """Return a small cache in memory for calls whose rule has a `cache_ttl`, and for no others."""
        return cls(max_bytes=MAX_BYTES // 4, _rules=_RULED)

    def __repr__(self) -> str:
        return f"<fazt.Cache {self.directory or 'in memory'}>"

    def of(self, partition: str) -> ResponseCache:
        """Return this cache as an engine uses it.

        Args:
            partition: id of the policy under which calls are made.
        """
        if self._pid != os.getpid():  # memory of the parent's, perhaps in the middle of a change
            self._lock = threading.Lock()
            self._begin()
        with self._lock:
            found = self._parts.get(partition)
            if found is None:
                found = ResponseCache(self._store, self._rules, partition=partition, credentials=self._credentials)
                self._parts[partition] = found
            return found

    def clear(self, host: str | None = None) -> int:
        """Remove all responses, or those of a host or of the hosts of `*.suffix`; return how many."""
        with self._lock:
            parts = list(self._parts.values())
        for part in parts:
            part.generation += 1
        return self._store.purge(pattern=host)

    def stats(self) -> CacheStats:
        """Return how much is kept, and how often this process was answered from it since it began."""
        kept = self._store.kept()
        with self._lock:
            counted = [part.stats() for part in self._parts.values()]
        hits, misses = sum(part.hits for part in counted), sum(part.misses for part in counted)
        return CacheStats(kept.items, kept.bytes, kept.max_items, kept.max_bytes, hits, misses)

    def close(self) -> None:
        """Let go of the directory; clients that use the cache go on without."""
        close: Any = getattr(self._store, "close", None)
        if close is not None:
            close()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._parts: dict[str, ResponseCache] = {}
        self._store: ResponseStore
        if self.directory is None:
            self._store = MemoryStore(
                self._max_bytes, max_entry=self._max_entry, salt=os.urandom(32), lock=threading.Lock()
            )
            return
        from fazt.stores.sqlite.responses import SqliteResponses

        self._store = SqliteResponses(self.directory, max_bytes=self._max_bytes, max_entry=self._max_entry)


class OwnCookies:
    """Tells cookies that servers set by themselves from those that say whom a client speaks for.

    The first come in answers to safe requests: a load balancer's, a bot filter's. They change all the time, and a
    cache that went by their values would find nothing again. What the program sets, and what comes in answer to a
    login, is a credential like any other.
    """

    __slots__ = ("_jar", "_pairs")

    def __init__(self) -> None:
        self._jar = os.urandom(8).hex()
        self._pairs: set[str] = set()

    def learn(self, method: str, fields: Fields) -> None:
        """Take in the `Set-Cookie` fields of an answer."""
        if method not in SAFE or len(self._pairs) > _MOST_COOKIES:
            self.__init__()  # type: ignore[misc]  # somebody else may speak from now on
            return
        self._pairs.update(value.partition(";")[0].strip() for name, value in fields if name == "set-cookie")

    def jar(self, headers: Mapping[str, str]) -> str:
        """Return the id of the jar that the cookies of a request are of, "" where one of them is not."""
        if not self._pairs:
            return ""
        given = headers.get("cookie")
        if not given or not self._pairs.issuperset(pair.strip() for pair in given.split(";")):
            return ""
        return self._jar


def cache_from(given: Any) -> Cache | None:
    """Return the cache that a client's `cache=` argument means; None for none.

    Args:
        given: a `Cache`, a path, True for one in memory, False for none, None for what rules with a `cache_ttl` grant.

    Raises:
        ConfigError: something else.
    """
    if given is None:
        return Cache.of_rules()
    if given is False:
        return None
    if given is True:
        return Cache()
    if isinstance(given, Cache):
        return given
    if isinstance(given, os.PathLike):
        return Cache(given)
    raise ConfigError(
        f"cache= cannot be {type(given).__name__}",
        hint='give a fazt.Cache, True, False, a pathlib.Path, or a mode: "bypass", "validate", "reload"',
    )
