"""How old a response is and how long it is fresh (RFC 9111 section 4.2)."""

from __future__ import annotations

from fazt.core import headers as fields_of
from fazt.core.cache.dates import FOREVER, parse_date, parse_seconds
from fazt.core.cache.directives import ResponseControl
from fazt.core.call import Fields

# RFC 9110 section 15.1: the codes whose responses may be kept although nothing says how long.
HEURISTIC = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
_FRACTION = 0.1  # RFC 9111 section 4.2.2: "a typical setting of this fraction might be 10%"
_MOST = 86_400.0


def age_field(fields: Fields) -> int:
    """Return what `Age` says in seconds, 0 when it says nothing that can be read.

    RFC 9111 section 5.1: of several values the first counts; one that is no number is ignored.
    """
    value = fields_of.first(fields, "age")
    if value is None:
        return 0
    return parse_seconds(value.partition(",")[0].strip(" \t")) or 0


def born(fields: Fields, *, requested_at: float, received_at: float) -> float:
    """Return the moment at which a response was made, as far as its fields tell (RFC 9111 section 4.2.3).

    Args:
        fields: of the response.
        requested_at, received_at: seconds since the epoch, when it was asked for and when its head came.
    """
    date = date_of(fields, received_at)
    apparent_age = max(0.0, received_at - date)
    corrected_age_value = age_field(fields) + max(0.0, received_at - requested_at)
    return received_at - max(apparent_age, corrected_age_value)


def date_of(fields: Fields, received_at: float) -> float:
    """Return `Date`, or the moment of receipt where there is none that can be read (RFC 9110 section 6.6.1)."""
    text = fields_of.first(fields, "date")
    date = parse_date(text, now=received_at) if text is not None else None
    return received_at if date is None else date


def lifetime(
    status: int,
    fields: Fields,
    control: ResponseControl,
    *,
    shared: bool,
    heuristics: bool,
    received_at: float,
) -> float | None:
    """Return for how many seconds from its birth a response is fresh (RFC 9111 section 4.2.1); None: nothing says so.

    Args:
        status: its code.
        fields: its fields.
        control: its directives.
        shared: whether the cache serves several users.
        heuristics: whether `Last-Modified` may be guessed from (section 4.2.2).
        received_at: seconds since the epoch.
    """
    if shared and control.s_maxage is not None:
        return float(control.s_maxage)
    if control.max_age is not None:
        return float(control.max_age)
    expires = fields_of.values(fields, "expires")
    if expires:
        # RFC 9111 section 5.3: what is no date, "0" above all, lies in the past. So do two of a field that stands once.
        moment = parse_date(expires[0], now=received_at) if len(expires) == 1 else None
        return 0.0 if moment is None else min(max(0.0, moment - date_of(fields, received_at)), float(FOREVER))
    if heuristics and (control.public or status in HEURISTIC):
        text = fields_of.first(fields, "last-modified")
        modified = parse_date(text, now=received_at) if text is not None else None
        if modified is not None:
            return min(max(0.0, date_of(fields, received_at) - modified) * _FRACTION, _MOST)
    return None
