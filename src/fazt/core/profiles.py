"""The numbers of each door (contracts, "Doors differ only in their profile"). Verdicts are equal at all of them."""

from __future__ import annotations

from functools import lru_cache

from fazt.core.call import Profile
from fazt.core.limits import HARD_MAX_RESPONSE, Limits

CLI_CALL_MS = 60_000.0
"""Total deadline of a call from the command line, in ms."""
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
