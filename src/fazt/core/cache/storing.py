"""What may be stored (RFC 9111 section 3), which of its fields (3.1), and how news of it changes them (3.2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fazt.core import headers as fields_of
from fazt.core.cache.age import HEURISTIC, born, lifetime
from fazt.core.cache.directives import ResponseControl, response_control
from fazt.core.cache.entry import Entry
from fazt.core.cache.request import CacheRequest
from fazt.core.call import Fields, ResponseHead

MAX_VARY: Final = 32
"""Request fields that a response kept may depend on."""

UNDERSTOOD: Final = frozenset(
    {200, 203, 204, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 410, 414, 421, 451, 500, 501, 502, 503, 504}
)
"""Codes whose meaning for a cache is known, as `must-understand` asks (RFC 9111 section 5.2.2.3)."""

# RFC 9111 section 3.1: fields of one connection or one proxy. `Age` is told anew whenever the response is used.
_NEVER_KEPT = frozenset(
    {
        "age",
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "set-cookie",
        "te",
        "transfer-encoding",
        "upgrade",
    }
)
# RFC 9111 section 3.2: what the stored body depends on is not changed by a response that brings none.
_NOT_UPDATED = frozenset({"content-encoding", "content-length", "content-range"})


@dataclass(frozen=True, slots=True)
class CacheRules:
    """How a cache behaves beyond what the RFC settles.

    Args:
        shared: whether it answers several users (RFC 9111 section 1): `private` is not kept, `s-maxage` counts.
        per_rule: whether only calls whose rule has a TTL are cached.
        successes: whether only codes 200 to 299 are kept.
        heuristics: whether `Last-Modified` may be guessed from where nothing says how long a response is fresh.
        stale_if_error: seconds that a stale response may stand in for a server that cannot be reached or fails, where
            neither side says so itself (RFC 9111 section 4.2.4); 0: not at all.
        targets: names in lower case of fields of RFC 9213 that speak to this cache, the most specific first.
    """

    shared: bool = False
    per_rule: bool = False
    successes: bool = False
    heuristics: bool = False
    stale_if_error: float = 0.0
    targets: tuple[str, ...] = ()


FUNCTIONS: Final = CacheRules(shared=True, per_rule=True, successes=True)
"""Functions: one app answers many people, only rules with a TTL, only successes (A.16)."""
PRIVATE: Final = CacheRules()
"""A program on its own behalf."""
_PRAGMA: Final = ResponseControl(no_cache=True)


def control_of(fields: Fields, rules: CacheRules) -> tuple[ResponseControl, bool]:
    """Return the directives that hold for this cache, and whether a targeted field gave them."""
    for target in rules.targets:
        values = fields_of.values(fields, target)
        found = _targeted(values) if values else None
        if found is not None:
            return found, True
    given = fields_of.values(fields, "cache-control")
    if not given and any("no-cache" in value.lower() for value in fields_of.values(fields, "pragma")):
        return _PRAGMA, False  # RFC 9111 section 5.4 gives it no meaning in a response; those who send it mean this
    return response_control(given), False


def draft(
    request: CacheRequest, head: ResponseHead, *, rules: CacheRules, requested_at: float, received_at: float
) -> Entry | None:
    """Return a response as it would be kept, still without its body; None when it may not be.

    Args:
        request: what was asked.
        head: status and fields of what came.
        rules: of this cache.
        requested_at, received_at: seconds since the epoch, when it was asked for and when its head came.
    """
    fields, status = head.headers, head.status
    if request.span is not None and status != 200:
        return None  # it may speak of the part alone (416), and would answer those who ask for all of it
    names = {name.lower() for name, _ in fields}
    if "set-cookie" in names:  # A.16: what starts somebody's session is for nobody else, and a cookie is a credential
        return None
    control, targeted = control_of(fields, rules)
    if targeted:  # RFC 9213 section 2.2: it stands in place of Cache-Control and of Expires
        names.discard("expires")
    if not _storable(status, names, control, rules=rules, ttl=request.ttl):
        return None
    fresh_for = lifetime(
        status,
        tuple(field for field in fields if field[0].lower() != "expires") if targeted else fields,
        control,
        shared=rules.shared,
        heuristics=rules.heuristics,
        received_at=received_at,
    )
    if fresh_for is None and request.ttl > 0 and not (status in HEURISTIC or rules.successes):
        fresh_for = 0.0
    validators = "etag" in names or "last-modified" in names
    if not validators and (control.no_cache or (fresh_for is None and request.ttl <= 0)):
        return None  # it could never be used
    if fresh_for == 0 and not validators and not (control.stale_while_revalidate or _stale_allowed(control, rules)):
        return None
    vary = vary_names(fields) if "vary" in names else ()
    if vary is None:
        return None
    return Entry(
        place=request.place,
        method=request.method,
        role=request.role,
        who=request.who,
        vary=vary,
        variant=request.variant(vary),
        status=status,
        phrase=head.phrase,
        version=head.version,
        headers=kept_fields(fields, control, shared=rules.shared),
        body=b"",
        requested_at=requested_at,
        received_at=received_at,
        born=born(fields, requested_at=requested_at, received_at=received_at),
        lifetime=fresh_for,
        control=control,
    )


def _storable(status: int, names: set[str], control: ResponseControl, *, rules: CacheRules, ttl: float) -> bool:
    """Tell whether a response may be stored at all (RFC 9111 section 3)."""
    # section 3.3: parts are not combined here, so they are not kept; 412 and 416 answer a condition, or a range
    if status < 200 or status in (206, 304, 412, 416):
        return False
    if rules.successes and status > 299:
        return False
    if control.must_understand:  # section 5.2.2.3: it stands in place of no-store where the code is known
        if status not in UNDERSTOOD:
            return False
    elif control.no_store:  # section 5.2.2.5
        return False
    if rules.shared and control.private:  # section 5.2.2.7
        return False
    if control.no_cache or control.public or control.private or control.max_age is not None or "expires" in names:
        return True
    if rules.shared and control.s_maxage is not None:
        return True
    return status in HEURISTIC or (ttl > 0 and rules.successes)


def _stale_allowed(control: ResponseControl, rules: CacheRules) -> bool:
    return bool(control.stale_if_error or rules.stale_if_error)


def kept_fields(fields: Fields, control: ResponseControl, *, shared: bool) -> Fields:
    """Return the fields that may be stored, names in lower case (RFC 9111 section 3.1)."""
    dropped = _NEVER_KEPT | control.no_cache_fields  # section 5.2.2.4: such a field is not used unasked
    if shared:
        dropped |= control.private_fields  # section 5.2.2.7
    listed = [part.strip().lower() for value in fields_of.values(fields, "connection") for part in value.split(",")]
    dropped = dropped.union(listed)
    return tuple((lower, value) for name, value in fields if (lower := name.lower()) not in dropped)


def merged(stored: Fields, news: Fields) -> Fields:
    """Return stored fields with those of a 304, or of a HEAD, in place of theirs (RFC 9111 section 3.2)."""
    listed = {part.strip().lower() for value in fields_of.values(news, "connection") for part in value.split(",")}
    changed: list[tuple[str, str]] = []
    names: set[str] = set()
    for name, value in news:
        lower = name.lower()
        if lower not in _NOT_UPDATED and lower not in listed:
            names.add(lower)
            changed.append((lower, value))
    return (*(field for field in stored if field[0] not in names), *changed)


def vary_names(fields: Fields) -> tuple[str, ...] | None:
    """Return the request fields that selected this response, lower-case and sorted; None when nobody can tell (`*`).

    More than `MAX_VARY` count as that too: each costs time whenever the cache is asked.
    """
    names = {part.strip().lower() for value in fields_of.values(fields, "vary") for part in value.split(",")}
    names.discard("")
    if len(names) > MAX_VARY or not all(fields_of.is_token(name) for name in names) or "*" in names:
        return None
    return tuple(sorted(names))


def _targeted(values: Iterable[str]) -> ResponseControl | None:
    """Read a targeted field (RFC 9213 section 2.1), a structured dictionary; None when it is to be ignored."""
    text = ",".join(values)
    for member in text.split(","):
        name, equals, value = member.strip(" \t").partition("=")
        value = value.partition(";")[0]
        if not name.partition(";")[0].replace("-", "").replace("_", "").isalnum():
            return None
        # a number where one is meant; elsewhere whatever a bare item may be
        if name.lower() in ("max-age", "s-maxage") and not (equals and value.lstrip("-").isdigit()):
            return None
    return response_control([text])
