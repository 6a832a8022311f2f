"""What to do with a request: answer it from the store, or ask the network, and with what (RFC 9111 section 4)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Literal

from fazt.core import headers as fields_of
from fazt.core.cache.dates import parse_date
from fazt.core.cache.entry import Entry
from fazt.core.cache.ranges import part
from fazt.core.cache.request import CacheRequest
from fazt.core.cache.storing import CacheRules, merged
from fazt.core.call import Fields, ResponseHead
from fazt.errors import Reason

ERRORS: Final = frozenset({500, 502, 503, 504})
"""Codes that `stale-if-error` stands in for (RFC 5861 section 4)."""
UNREACHED: Final = frozenset(
    {
        Reason.BREAKER_OPEN,
        Reason.CONNECT,
        Reason.CONNECT_FAILED,
        Reason.DNS,
        Reason.DNS_FAILED,
        Reason.FIRST_BYTE,
        Reason.PROTOCOL,
        Reason.TLS_HANDSHAKE,
        Reason.TOTAL,
        Reason.WRITE,
    }
)
"""Failures that count as one of them: no answer came. No refusal does, nor a certificate that is not believed."""

_SLACK = 2.0  # seconds a clock may step back before what it says of ages is not believed any more
_TAG = re.compile(r'(?:[Ww]/)?("[^"]*"|[^",\s]+)')


class Verdict(Enum):
    """How a stored response may be used for a request."""

    FRESH = auto()
    STALE = auto()
    STALE_MEANWHILE = auto()
    """As it is, while the network is asked in the background (RFC 5861 section 3)."""
    VALIDATE = auto()


@dataclass(slots=True, eq=False)
class Found:
    """What the cache has for a request.

    Args:
        head, body: the answer, when there is one that needs no network.
        cache: "hit" or "stale"; "miss" where the answer is a 504 for want of a stored one.
        refresh: whether the stored response is to be validated in the background.
        entry: what is stored, when the network must be asked all the same.
        fields: the conditions to ask it with.
    """

    head: ResponseHead | None = None
    body: bytes = field(default=b"", repr=False)
    cache: Literal["hit", "stale", "miss"] = "miss"
    refresh: bool = False
    entry: Entry | None = None
    fields: Fields = field(default=(), repr=False)


GATEWAY_TIMEOUT: Final = ResponseHead(504, (("content-length", "0"),), "Gateway Timeout")
"""The answer to `only-if-cached` without a stored response (RFC 9111 section 5.2.1.7)."""


def judge(entry: Entry, request: CacheRequest, *, rules: CacheRules, now: float) -> Verdict:
    """Say how a stored response may be used (RFC 9111 sections 4.2 and 5.2).

    Args:
        entry: what is stored and answers this request by its key.
        request: what is asked.
        rules: of this cache.
        now: seconds since the epoch.
    """
    wanted, control = request.control, entry.control
    if wanted.no_cache or control.no_cache or now < entry.received_at - _SLACK:
        return Verdict.VALIDATE
    age = now - entry.born
    if wanted.max_age is not None and age > wanted.max_age and wanted.max_stale is None:
        return Verdict.VALIDATE
    left = fresh_left(entry, ttl=request.ttl, now=now)
    if wanted.min_fresh is not None and left < wanted.min_fresh:
        return Verdict.VALIDATE
    if left > 0:
        return Verdict.FRESH
    if wanted.max_age is not None and age > wanted.max_age and age - wanted.max_age > (wanted.max_stale or 0):
        return Verdict.VALIDATE
    if firm(entry, rules):
        return Verdict.VALIDATE
    if wanted.max_stale is not None and -left <= wanted.max_stale:
        return Verdict.STALE
    if wanted.max_age is None and -left < control.stale_while_revalidate:
        return Verdict.STALE_MEANWHILE
    return Verdict.VALIDATE


def fresh_left(entry: Entry, *, ttl: float, now: float) -> float:
    """Return for how many seconds an entry is still fresh; negative when it is stale.

    A rule's TTL bounds what the server said, and stands in where it said nothing.
    """
    if entry.lifetime is None:
        return entry.received_at + ttl - now if ttl > 0 else min(0.0, entry.received_at - now)
    left = entry.born + entry.lifetime - now
    return min(left, entry.received_at + ttl - now) if ttl > 0 else left


def firm(entry: Entry, rules: CacheRules) -> bool:
    """Tell whether a stale entry may on no account be used without validation (RFC 9111 section 4.2.4)."""
    control = entry.control
    if control.must_revalidate or control.no_cache:  # sections 5.2.2.2, 5.2.2.4
        return True
    # section 5.2.2.8; section 5.2.2.10: s-maxage implies proxy-revalidate
    return rules.shared and (control.proxy_revalidate or control.s_maxage is not None)


def may_stand_in(entry: Entry, request: CacheRequest, *, rules: CacheRules, now: float) -> bool:
    """Tell whether a stale entry may answer because the server cannot be reached or fails (RFC 5861 section 4)."""
    wanted = request.control
    if firm(entry, rules) or wanted.no_cache or request.reload or now < entry.received_at - _SLACK:
        return False
    windows = (entry.control.stale_if_error, wanted.stale_if_error)
    given = [window for window in windows if window is not None]
    allowed = max(given) if given else rules.stale_if_error
    return allowed > 0 and -fresh_left(entry, ttl=request.ttl, now=now) < allowed


def answer(entry: Entry, request: CacheRequest, *, now: float) -> tuple[ResponseHead, bytes]:
    """Return the response a stored one makes for a request (RFC 9111 section 4): with `Age`, and as 304 or part."""
    age = ("age", str(max(0, int(now - entry.born))))
    fields, body, status, phrase = entry.headers, entry.body, entry.status, entry.phrase
    if request.conditional and status == 200 and not_modified(entry, request):
        # RFC 9110 section 15.4.5: no field that tells of a body which is not there
        kept = tuple(item for item in fields if item[0] not in ("content-length", "content-type", "content-encoding"))
        return ResponseHead(304, (*kept, age), "Not Modified", entry.version), b""
    if request.span is not None and status == 200 and entry.method == "GET":
        status, fields, body = part(request.span, fields, body)
        phrase = "Partial Content" if status == 206 else "Range Not Satisfiable"
    if request.method == "HEAD":
        body = b""
    return ResponseHead(status, (*fields, age), phrase, entry.version), body


def conditions(entry: Entry, request: CacheRequest) -> Fields:
    """Return the fields with which to validate a stored response (RFC 9111 section 4.3.1).

    None for one without a validator. A request with conditions of its own, for a part, or for a HEAD goes as it is.
    """
    if request.conditional or request.span is not None or request.method != "GET" or request.reload:
        return ()
    tag = fields_of.first(entry.headers, "etag")
    modified = fields_of.first(entry.headers, "last-modified")
    found: list[tuple[str, str]] = []
    if tag:
        found.append(("If-None-Match", tag))
    if modified and parse_date(modified, now=entry.received_at) is not None:
        found.append(("If-Modified-Since", modified))
    return tuple(found)


def not_modified(entry: Entry, request: CacheRequest) -> bool:
    """Tell whether the caller's own condition says that it has this response already (RFC 9110 section 13.2.2)."""
    wanted = fields_of.values(request.headers, "if-none-match")
    if wanted:  # section 13.1.2: If-Modified-Since is then ignored; tags compare weakly
        tag = fields_of.first(entry.headers, "etag")
        text = ",".join(wanted).strip(" \t")
        return text == "*" or (
            tag is not None and opaque(tag) in {found[1].strip('"') for found in _TAG.finditer(text)}
        )
    since = fields_of.values(request.headers, "if-modified-since")
    moment = parse_date(since[0], now=entry.received_at) if len(since) == 1 else None
    if moment is None:  # section 13.1.3: what is no date, or stands twice, is ignored
        return False
    for name in ("last-modified", "date"):  # RFC 9111 section 4.3.2: in this order, and at last the moment of receipt
        text = fields_of.first(entry.headers, name) or ""
        found = parse_date(text, now=entry.received_at)
        if found is not None:
            return found <= moment
    return entry.received_at <= moment


def opaque(tag: str) -> str:
    """Return an entity tag without its weakness and quotes, for weak comparison (RFC 9110 section 8.8.3.2)."""
    found = _TAG.fullmatch(tag.strip(" \t"))
    return (found[1] if found is not None else tag).strip('"')


def meant(entry: Entry, fields: Fields) -> bool:
    """Tell whether a 304 speaks of this entry (RFC 9111 section 4.3.4)."""
    tag = fields_of.first(fields, "etag")
    if tag is not None:
        stored = fields_of.first(entry.headers, "etag")
        if stored is None:
            return True  # only Last-Modified was asked with, and it holds
        return tag == stored if not tag.startswith("W/") else opaque(tag) == opaque(stored)
    modified = fields_of.first(fields, "last-modified")
    stored = fields_of.first(entry.headers, "last-modified")
    return modified is None or stored is None or modified == stored


def renewed(entry: Entry, head: ResponseHead) -> ResponseHead:
    """Return the response that a 304, or a HEAD, makes of a stored one."""
    return ResponseHead(entry.status, merged(entry.headers, head.headers), entry.phrase, entry.version)
