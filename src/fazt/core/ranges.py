"""Going on with a body that was cut off: which answers may be put behind the bytes that are there already.

The rules of RFC 9110 for validators (section 8.8), ranges (section 14) and If-Range (section 13.1.5), read strictly:
where it is not certain that both parts are of one representation, the file begins anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fazt.core.dates import parse_http_date
from fazt.core.headers import content_coding, values

if TYPE_CHECKING:
    from fazt.core.call import Fields

CLOCK_SLACK: Final = 60.0
"""Seconds that Last-Modified must be older than Date to tell one version of a file from the next."""

_ETAG = re.compile(r'"[\x21\x23-\x7e\x80-\xff]*"')  # RFC 9110 section 8.8.3: opaque-tag
_RANGE = re.compile(
    r"(?P<unit>[!#$%&'*+.^_`|~0-9A-Za-z-]+) (?:(?P<first>[0-9]+)-(?P<last>[0-9]+)|\*)/(?P<total>[0-9]+|\*)"
)
_MOST_DIGITS = 18  # beyond any file; int() of a long text is slow


@dataclass(frozen=True, slots=True)
class Validator:
    """What tells one version of a file from the next, strongly enough to join parts; one of both is set.

    Args:
        etag: a strong entity tag, in its quotes.
        modified: the text of a Last-Modified that is strong in the sense of RFC 9110 section 8.8.2.2.
    """

    etag: str = ""
    modified: str = ""

    @property
    def text(self) -> str:
        """The value for `If-Range`."""
        return self.etag or self.modified


@dataclass(frozen=True, slots=True)
class ContentRange:
    """A `Content-Range` in bytes. `first` and `last` are None when no part of the file was sent (416)."""

    first: int | None
    last: int | None
    total: int | None


@dataclass(frozen=True, slots=True)
class Asked:
    """The range that a request asked for: everything from `offset` on.

    Args:
        offset: bytes that are there already.
        validator: of the file those are from.
        total: its length, None when that is not known.
        checked: whether a checksum of the whole file will be compared at the end.
    """

    offset: int
    validator: Validator
    total: int | None
    checked: bool = False

    def fields(self) -> Fields:
        """Return the fields that ask for it."""
        # "If-Range ... 'if the representation is unchanged, send me the part(s) that I am requesting in Range;
        # otherwise, send me the entire representation'." (RFC 9110 section 13.1.5)
        return (("Range", f"bytes={self.offset}-"), ("If-Range", self.validator.text))


@dataclass(frozen=True, slots=True)
class Whole:
    """The body is the whole file. `length` is None when the server doesn't say."""

    length: int | None


@dataclass(frozen=True, slots=True)
class Rest:
    """The body is what is missing of a file of `total` bytes."""

    total: int


@dataclass(frozen=True, slots=True)
class Complete:
    """The bytes that are there are the whole file."""


@dataclass(frozen=True, slots=True)
class Anew:
    """The answer cannot be joined to what is there: ask again, for the whole file."""

    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The answer is no file, or one that must not be kept.

    Args:
        why: for people.
        ranged: whether it is the range that is wrong, not the status.
    """

    why: str
    ranged: bool = False


Verdict = Whole | Rest | Complete | Anew | Refused


def validator(fields: Fields, *, wall_now: float) -> Validator | None:
    """Return the validator of a response that parts may be joined by, None when there is none.

    Args:
        fields: of the response, names in lower case.
        wall_now: seconds since the epoch.
    """
    tags = set(values(fields, "etag"))
    if tags:
        # "A client MUST NOT generate an If-Range header field containing an HTTP-date unless ... the client has no
        # entity tag for the corresponding representation" and "... MUST NOT generate ... an entity tag that is marked
        # as weak" (RFC 9110 section 13.1.5): with a weak tag neither will do.
        tag = tags.pop().strip(" \t")
        return Validator(etag=tag) if not tags and _ETAG.fullmatch(tag) else None
    found, dates = set(values(fields, "last-modified")), set(values(fields, "date"))
    if len(found) != 1 or len(dates) != 1:
        return None
    text = found.pop().strip(" \t")
    modified, date = parse_http_date(text, wall_now=wall_now), parse_http_date(dates.pop(), wall_now=wall_now)
    # A Last-Modified is "implicitly weak unless" Date is later by at least a second and "there is enough difference
    # between the Last-Modified and Date values to make clock synchronization issues unlikely" (section 8.8.2.2).
    if modified is None or date is None or date - modified < CLOCK_SLACK:
        return None
    return Validator(modified=text)


def content_range(fields: Fields) -> ContentRange | None:
    """Return the one range of bytes that a response says it holds; None when it says none, several or nonsense."""
    found = set(values(fields, "content-range"))
    if len(found) != 1:
        return None
    match = _RANGE.fullmatch(found.pop().strip(" \t"))
    if match is None or match["unit"].lower() != "bytes":
        return None
    if any(len(part or "") > _MOST_DIGITS for part in (match["first"], match["last"], match["total"])):
        return None
    total = None if match["total"] == "*" else int(match["total"])
    if match["first"] is None:
        return None if total is None else ContentRange(None, None, total)
    first, last = int(match["first"]), int(match["last"])
    # "A Content-Range field value is invalid if it contains a range-resp that has a last-pos value less than its
    # first-pos value, or a complete-length value less than or equal to its last-pos value." (section 14.4)
    if last < first or (total is not None and total <= last):
        return None
    return ContentRange(first, last, total)


def content_length(fields: Fields) -> int | None:
    """Return the length that a response declares, None when it declares none that can be read."""
    found = set(values(fields, "content-length"))
    text = found.pop() if len(found) == 1 else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def judge(status: int, fields: Fields, *, asked: Asked | None) -> Verdict:
    """Say what an answer is to a file of which perhaps a part is there.

    Args:
        status: of the answer.
        fields: of the answer, names in lower case.
        asked: the range that was asked for; None for the whole file.
    """
    if status in (200, 203):
        # also the answer to a range whose condition failed, or of a server that knows no ranges (section 14.2)
        return Whole(content_length(fields))
    if status == 206:
        if asked is None:
            # a 206 answers a Range field (section 15.3.7); a part nobody asked for is not the file
            return Refused("it sent a part of the file that was not asked for", ranged=True)
        return _part(fields, asked)
    if status == 416 and asked is not None:
        return _unsatisfied(fields, asked)
    return Refused(f"it answered with status {status}")


def _part(fields: Fields, asked: Asked) -> Verdict:
    kinds = [value.lower().strip() for value in values(fields, "content-type")]
    if any(kind.startswith("multipart/byteranges") for kind in kinds):
        # "A server MUST NOT generate a multipart response to a request for a single range" (section 15.3.7.2)
        return Anew("several parts instead of one")
    found = content_range(fields)
    if found is None or found.first is None or found.last is None:
        # "The recipient of an invalid Content-Range MUST NOT attempt to recombine the received content with a stored
        # representation", and the same of a unit it does not understand (section 14.4)
        return Anew("it does not say which part it sent")
    if found.first != asked.offset:
        return Anew("it sent another part")
    total = asked.total if found.total is None else found.total
    if total is None or found.last != total - 1:
        return Anew("it did not send all that is missing")
    if asked.total is not None and total != asked.total:
        return Anew("the file has another length now")
    length = content_length(fields)
    if length is not None and length != total - asked.offset:
        return Anew("the part is not as long as it says")
    if content_coding(fields):
        return Anew("the part is encoded")
    why = _differs(fields, asked)
    return Rest(total) if why is None else Anew(why)


def _unsatisfied(fields: Fields, asked: Asked) -> Verdict:
    """Judge a 416: nothing stands behind what is there, or what is there is not of this file.

    "A server generating a 416 response to a byte-range request SHOULD generate a Content-Range header field specifying
    the current length of the selected representation." (section 15.5.17)
    """
    found = content_range(fields)
    if found is None or found.total != asked.offset or asked.total not in (None, asked.offset):
        return Anew("the part does not fit the file")
    tagged = asked.validator.etag and asked.validator.etag in values(fields, "etag")
    if _differs(fields, asked) is None and (tagged or asked.checked):
        return Complete()
    return Anew("nothing proves that the part is of this file")


def _differs(fields: Fields, asked: Asked) -> str | None:
    """Return why an answer is of another version of the file than what is there, None when it is of the same.

    Parts may be combined only if all have the same strong validator (section 15.3.7.3). A tag must be sent again with
    a part (section 15.3.7); a date need not, If-Range has compared it.
    """
    tags = set(values(fields, "etag"))
    known = asked.validator
    if known.etag:
        if tags == {known.etag} or (not tags and asked.checked):
            return None
        return "the file has changed" if tags else "it does not say of which version the part is"
    dates = set(values(fields, "last-modified"))
    if tags or (dates and dates != {known.modified}):
        return "the file has changed"
    return None
