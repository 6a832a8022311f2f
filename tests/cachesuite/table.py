"""All cases, by category."""

from __future__ import annotations

from tests.cachesuite import freshness, storing, using
from tests.cachesuite.case import Case

TABLE: dict[str, tuple[Case, ...]] = {
    "max-age": freshness.MAX_AGE,
    "cc-parse": freshness.PARSING,
    "age": freshness.AGE,
    "expires": freshness.EXPIRES,
    "expires-parse": freshness.EXPIRES_PARSING,
    "heuristic": freshness.HEURISTIC,
    "cc-response": storing.RESPONSE,
    "status": storing.STATUS,
    "vary": storing.VARY,
    "headers": storing.HEADERS,
    "cc-request": using.REQUEST,
    "conditional": using.CONDITIONAL,
    "update": using.UPDATE,
    "invalidation": using.INVALIDATION,
    "partial": using.PARTIAL,
    "stale": using.STALENESS,
    "auth": using.AUTHORIZATION,
    "interim": using.INTERIM,
    "other": using.OTHER,
    "targeted": using.TARGETED,
}
