"""Requests and answers as the cache tests tell them."""

from __future__ import annotations

from typing import Any

from fazt.core.cache.request import CacheRequest
from fazt.core.cache.responses import ResponseCache
from fazt.core.call import Fields, ResponseHead
from fazt.core.url import parse_url

URL = "https://api.test/v1?q=1"
NOW = 1_800_000_000.0


def asking(
    url: str = URL, *, app: str = "app1", method: str = "GET", fields: Fields = (), **more: Any
) -> CacheRequest | None:
    """Return a request as the cache sees it, None when it goes past the cache."""
    return CacheRequest.of(app=app, method=method, url=parse_url(url), headers=fields, **more)


def ask(url: str = URL, **more: Any) -> CacheRequest:
    """Return a request that the cache takes."""
    request = asking(url, **more)
    assert request is not None
    return request


def keep(
    cache: ResponseCache,
    request: CacheRequest,
    *fields: tuple[str, str],
    body: bytes = b"body",
    now: float = NOW,
    status: int = 200,
    generation: int | None = None,
    took: float = 0.0,
) -> bool:
    """Offer a response that came at this moment; tell whether it is kept."""
    found = cache.store.find(request.place, request.pick)
    recording = cache.record(
        request,
        ResponseHead(status, fields),
        requested_at=now - took,
        now=now,
        generation=cache.generation if generation is None else generation,
        known=found,
    )
    if recording is None:
        return False
    recording.feed(body)
    return recording.commit()


def body_of(cache: ResponseCache, request: CacheRequest, *, now: float = NOW) -> bytes | None:
    """Return the body that answers a request without the network, None when there is none."""
    found = cache.look(request, now=now)
    return found.body if found.head is not None else None
