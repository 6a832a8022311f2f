"""Where the pipeline meets the cache: which calls are cached, as what, and the response that a stored one makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fazt.core.cache.request import CacheRequest
from fazt.core.call import Earlier, Fields, Hop, Request, Response, ResponseHead
from fazt.core.url import Url

if TYPE_CHECKING:
    from fazt.core.cache.responses import ResponseCache
    from fazt.core.policy import Policy, SecretMeta
    from fazt.core.record import CallRecord
    from fazt.core.rules import Rule


def cached_here(cache: ResponseCache, rule: Rule, hops: tuple[Hop, ...]) -> bool:
    """Tell whether calls under this rule are cached: in functions only where it has a TTL, after no redirect (A.6)."""
    return not cache.rules.per_rule or (rule.cache_ttl > 0 and not hops)


def as_cached(
    request: Request,
    *,
    cache: ResponseCache,
    policy: Policy,
    rule: Rule,
    method: str,
    url: Url,
    fields: Fields,
    body: bool,
    secret: SecretMeta | None,
    first: bool,
) -> CacheRequest | None:
    """Return one request of a call as the cache sees it; None when it goes past the cache.

    Args:
        request: the call.
        cache: its rules.
        policy: which names of fields hold secrets.
        rule: whose TTL bounds how long a response is used.
        method, url: of this hop.
        fields: as they are sent, without a secret of the vault.
        body: whether there is one.
        secret: which secret of the vault will be put in.
        first: whether no redirect came before, so that the fields are the caller's own.
    """
    options = request.options
    return CacheRequest.of(
        app=request.app,
        method=method,
        url=url,
        headers=fields,
        body=body,
        secret=f"{secret.scope}/{secret.name}/{secret.version}" if secret is not None else "",
        sensitive=policy.secret_headers | options.sensitive if options.sensitive else policy.secret_headers,
        partition=cache.partition,
        role=options.role,
        ttl=rule.cache_ttl,
        mode=options.cache,
        salt=cache.store.salt,
        credentials=cache.credentials,
        jar=request.jar if first else "",
    )


def stored(
    answer: tuple[ResponseHead, bytes],
    record: CallRecord,
    *,
    url: Url,
    method: str,
    sent: Fields,
    hops: tuple[Hop, ...],
    history: tuple[Earlier, ...],
) -> Response:
    """Return the response that a stored one makes, and note it.

    Args:
        answer: from the cache.
        record: of the call; its `cache` says how the stored response was used.
        url, method: of this hop.
        sent: the caller's own fields.
        hops, history: the redirects that led here.
    """
    head, body = answer
    record.status = head.status
    record.response_bytes = len(body)
    return Response(
        head.status,
        head.headers,
        body,
        url,
        record.call_id,
        hops,
        record.cache,
        method,
        head.phrase,
        head.version,
        history,
        sent,
    )
