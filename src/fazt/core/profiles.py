"""The numbers of each door (contracts, "Doors differ only in their profile"). Verdicts are equal at all of them."""

from __future__ import annotations

from functools import lru_cache

from fazt.core.call import UNLIMITED, Profile
from fazt.core.limits import HARD_MAX_RESPONSE, Limits

CLI_CALL_MS = 60_000.0
"""Total deadline of a call from the command line, in ms."""
CLIENT_CALL_MS = 60_000.0
"""Total deadline of a call from Python whose body is not streamed, in ms."""
CLIENT_REDIRECTS = 5
"""Redirects followed from Python unless the caller says otherwise (C.3)."""
STREAM_IDLE = 60.0
"""Seconds between two reads of a streamed body, unless the caller says otherwise."""
CLI_MAX_BODY = 100 * 1024 * 1024
"""Largest request and response body at the command line, in bytes."""


@lru_cache(maxsize=256)
def functions(limits: Limits) -> Profile:
    """Return the profile of JavaScript functions under these limits (the app's own where it has any)."""
    net = limits.net
    return Profile(
        door="functions",
        call_ms=float(net.call_timeout),
        max_request=net.max_req_body,
        max_response=net.max_response,
        hard_response=HARD_MAX_RESPONSE,
        max_redirects=net.max_redirects,
        app_slots=net.app_concurrency,
        global_slots=net.concurrency,
        rate=net.rate_limit,
        burst=net.rate_burst,
        cacheable=True,
    )


@lru_cache(maxsize=16)
def cli(limits: Limits) -> Profile:
    """Return the profile of the command line: one call by the operator's own hand, no slots, no cache."""
    net = limits.net
    return Profile(
        door="cli",
        call_ms=CLI_CALL_MS,
        max_request=CLI_MAX_BODY,
        max_response=CLI_MAX_BODY,
        hard_response=CLI_MAX_BODY,
        max_redirects=net.max_redirects,
        app_slots=None,
        global_slots=None,
        rate=net.rate_limit,
        burst=net.rate_burst,
        cacheable=False,
    )


@lru_cache(maxsize=16)
def client(limits: Limits) -> Profile:
    """Return the profile of Python programs: no cap of its own, no slots; connections are limited by the pool."""
    net = limits.net
    return Profile(
        door="client",
        call_ms=CLIENT_CALL_MS,
        max_request=UNLIMITED,
        max_response=UNLIMITED,
        hard_response=UNLIMITED,
        max_redirects=CLIENT_REDIRECTS,
        app_slots=None,
        global_slots=None,
        rate=net.rate_limit,
        burst=net.rate_burst,
        cacheable=True,
    )
