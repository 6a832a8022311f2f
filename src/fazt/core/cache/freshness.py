"""How long a response may be kept: the operator's TTL, shortened by whatever the server says (A.16).

Deliberately narrower than RFC 9111: nothing is revalidated or served stale, and what cannot be read counts as a no.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from fazt.core import headers as fields_of
from fazt.core.call import Fields, ResponseHead

MAX_VARY = 32
"""Request fields that a response kept may depend on."""

_DIRECTIVE = re.compile(r'([^\s,;="]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|[^\s,;"]*))?')
_MAX_SECONDS = 2**31  # RFC 9111 section 1.2.2: larger numbers of seconds count as this
_IMF_DATE = re.compile(r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True)
class Control:
    """What `Cache-Control` says, as far as a private cache without revalidation needs it.

    Args:
        forbidden: whether the message may be neither kept nor taken from a store (no-store).
        revalidate: whether what is kept may not be used unasked (no-cache).
        private: whether it is meant for one user.
        max_age: seconds, the smallest when several are given, 0 when unreadable, None when absent.
    """

    forbidden: bool = False
    revalidate: bool = False
    private: bool = False
    max_age: int | None = None


_NOTHING = Control()


def parse_control(values: Iterable[str]) -> Control:
    """Read `Cache-Control` fields (RFC 9111 section 5.2), with tolerance for case, spaces and quotes.

    Qualified forms (`private="x"`) count as unqualified, and an unbalanced quote as `no-store`: what stands behind it
    is unknown. `s-maxage` is for shared caches and is ignored.
    """
    text = ",".join(values)
    if not text:
        return _NOTHING
    if text.count('"') % 2:
        return Control(forbidden=True)
    forbidden = revalidate = private = False
    max_age: int | None = None
    for found in _DIRECTIVE.finditer(text):
        match found[1].lower():
            case "no-store":
                forbidden = True
            case "no-cache":
                revalidate = True
            case "private":
                private = True
            case "max-age":
                given = parse_seconds((found[2] or "").strip('"')) or 0  # RFC 9111 section 4.2.1: unreadable is stale
                max_age = given if max_age is None else min(max_age, given)
            case _:
                pass
    return Control(forbidden=forbidden, revalidate=revalidate, private=private, max_age=max_age)


def parse_seconds(text: str) -> int | None:
    """Return delta-seconds (RFC 9111 section 1.2.2), or None when it is no such number."""
    if not text.isascii() or not text.isdigit():
        return None
    return min(int(text), _MAX_SECONDS) if len(text) <= 10 else _MAX_SECONDS


def parse_date(text: str) -> float | None:
    """Return an IMF-fixdate (RFC 9110 section 5.6.7) in seconds since the epoch; None for anything else.

    The two obsolete forms are not read: a cache that takes them for unreadable only keeps less.
    """
    found = _IMF_DATE.fullmatch(text.strip())
    if found is None or found[2] not in _MONTHS:
        return None
    day, year, hour, minute, second = (int(found[group]) for group in (1, 3, 4, 5, 6))
    try:
        return datetime(year, _MONTHS.index(found[2]) + 1, day, hour, minute, min(second, 59), tzinfo=UTC).timestamp()
    except ValueError:
        return None


def lifetime(head: ResponseHead, *, ttl: float) -> float:
    """Return for how many seconds this response may be used again; 0 when it must not be kept.

    Args:
        head: the response.
        ttl: what the rule allows, in seconds.
    """
    fields = head.headers
    if not 200 <= head.status <= 299 or head.status == 206:  # a part is no answer to anybody else's request
        return 0.0
    if fields_of.first(fields, "set-cookie") is not None:
        return 0.0
    control = parse_control(fields_of.values(fields, "cache-control"))
    if control.forbidden or control.revalidate or control.private or _pragma(fields):
        return 0.0
    declared = float(control.max_age) if control.max_age is not None else _expires_in(fields)
    if declared is None:
        return max(0.0, ttl)
    ages = (parse_seconds(text.strip()) for text in fields_of.values(fields, "age"))
    age = max((seconds for seconds in ages if seconds is not None), default=0)
    return max(0.0, min(ttl, declared - age))


def vary_names(fields: Fields) -> tuple[str, ...] | None:
    """Return the request fields that selected this response, lower-case and sorted; None when nobody can tell (`*`).

    More than `MAX_VARY` count as that too: each costs time whenever the cache is asked.
    """
    names = {part.strip().lower() for value in fields_of.values(fields, "vary") for part in value.split(",")}
    names.discard("")
    if len(names) > MAX_VARY or not all(fields_of.is_token(name) for name in names) or "*" in names:
        return None
    return tuple(sorted(names))


def _pragma(fields: Fields) -> bool:
    return any("no-cache" in value.lower() for value in fields_of.values(fields, "pragma"))


def _expires_in(fields: Fields) -> float | None:
    """Return `Expires` minus `Date` in seconds, None without `Expires`; both are the server's clock, never ours.

    An unreadable `Expires` means the past (RFC 9111 section 5.3); so does one that has no `Date` to be compared with.
    """
    values = fields_of.values(fields, "expires")
    if not values:
        return None
    date = parse_date(fields_of.first(fields, "date") or "")
    expires = [parse_date(value) for value in values]
    known = [moment for moment in expires if moment is not None]
    if date is None or len(known) < len(expires):
        return 0.0
    return min(known) - date
