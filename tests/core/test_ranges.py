"""Which answers may be put behind a part that is there: RFC 9110 sections 8.8, 13.1.5, 14 and 15.3.7, read strictly."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.core.call import Fields
from fazt.core.ranges import (
    Anew,
    Asked,
    Complete,
    ContentRange,
    Refused,
    Rest,
    Validator,
    Whole,
    content_length,
    content_range,
    judge,
    validator,
)

NOW = 1_790_000_000.0
DATE = ("date", "Mon, 21 Sep 2026 12:00:00 GMT")
OLDER = ("last-modified", "Mon, 21 Sep 2026 11:59:00 GMT")
TAG = Validator(etag='"v1"')
DAY = Validator(modified=OLDER[1])


def fields(**named: str) -> Fields:
    return tuple((name.replace("_", "-"), value) for name, value in named.items())


# --- validators


@pytest.mark.parametrize("tag", ['"a"', '""', '"a/b:c"', '"\xe4"', '"W/x"'])
def test_a_strong_tag_is_a_validator(tag: str) -> None:
    assert validator((("etag", tag), OLDER, DATE), wall_now=NOW) == Validator(etag=tag)


@pytest.mark.parametrize("tag", ['W/"a"', 'w/"a"', "a", '"a', 'a"', '"a b"', '"a""', "", '"a", "b"', '"\x7f"'])
def test_with_any_other_tag_nothing_is_one(tag: str) -> None:
    """A client that has an entity tag must not use the date, and must not use a weak tag (section 13.1.5)."""
    assert validator((("etag", tag), OLDER, DATE), wall_now=NOW) is None


def test_two_tags_are_none() -> None:
    assert validator((("etag", '"a"'), ("etag", '"b"')), wall_now=NOW) is None
    assert validator((("etag", '"a"'), ("etag", '"a"')), wall_now=NOW) == Validator(etag='"a"')


@pytest.mark.parametrize(
    ("modified", "date", "strong"),
    [
        (OLDER[1], DATE[1], True),
        ("Mon, 21 Sep 2026 11:59:01 GMT", DATE[1], False),
        (DATE[1], DATE[1], False),
        ("Mon, 21 Sep 2026 13:00:00 GMT", DATE[1], False),
        (OLDER[1], "", False),
        ("yesterday", DATE[1], False),
        ("Monday, 21-Sep-26 11:00:00 GMT", DATE[1], True),
    ],
)
def test_a_date_is_one_when_it_is_old_enough(modified: str, date: str, strong: bool) -> None:
    found = validator(fields(last_modified=modified, date=date), wall_now=NOW)
    assert found == (Validator(modified=modified) if strong else None)
    if found is not None:
        assert found.text == modified


def test_a_date_without_date_or_twice_is_none() -> None:
    assert validator((OLDER,), wall_now=NOW) is None
    assert validator((OLDER, ("last-modified", "Mon, 21 Sep 2026 10:00:00 GMT"), DATE), wall_now=NOW) is None
    assert validator((), wall_now=NOW) is None


# --- fields


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-9/10", ContentRange(0, 9, 10)),
        ("bytes 5-9/*", ContentRange(5, 9, None)),
        ("BYTES 0-0/1", ContentRange(0, 0, 1)),
        (" bytes 0-9/10\t", ContentRange(0, 9, 10)),
        ("bytes */10", ContentRange(None, None, 10)),
        ("bytes */0", ContentRange(None, None, 0)),
        ("bytes */*", None),
        ("bytes 9-0/10", None),
        ("bytes 0-10/10", None),
        ("bytes 0-9/9", None),
        ("items 0-9/10", None),
        ("bytes=0-9/10", None),
        ("bytes  0-9/10", None),
        ("bytes 0 - 9/10", None),
        ("bytes -9/10", None),
        ("bytes 0-/10", None),
        ("bytes +0-9/10", None),
        ("bytes 0-٩/10", None),
        ("bytes 0-9", None),
        ("0-9/10", None),
        ("", None),
        (f"bytes 0-9/{'9' * 19}", None),
    ],
)
def test_content_range(text: str, expected: ContentRange | None) -> None:
    assert content_range((("content-range", text),)) == expected


def test_two_content_ranges_are_none() -> None:
    assert content_range((("content-range", "bytes 0-9/10"), ("content-range", "bytes 1-9/10"))) is None
    assert content_range(()) is None


@given(st.text(max_size=40))
def test_content_range_never_raises_and_is_consistent(text: str) -> None:
    found = content_range((("content-range", text),))
    if found is not None and found.first is not None and found.last is not None:
        assert 0 <= found.first <= found.last
        assert found.total is None or found.last < found.total


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0), ("12", 12), ("-1", None), ("1_0", None), ("٣", None), ("", None)]
)
def test_content_length(text: str, expected: int | None) -> None:
    assert content_length((("content-length", text),)) == expected


def test_what_is_asked_for() -> None:
    assert Asked(7, TAG, 10).fields() == (("Range", "bytes=7-"), ("If-Range", '"v1"'))
    assert Asked(7, DAY, None).fields() == (("Range", "bytes=7-"), ("If-Range", OLDER[1]))


# --- answers


@pytest.mark.parametrize("asked", [None, Asked(5, TAG, 10)])
@pytest.mark.parametrize("status", [200, 203])
def test_the_whole_file_is_always_good(status: int, asked: Asked | None) -> None:
    assert judge(status, fields(content_length="10"), asked=asked) == Whole(10)
    assert judge(status, (), asked=asked) == Whole(None)


@pytest.mark.parametrize("status", [100, 201, 202, 204, 205, 207, 226, 300, 304, 400, 404, 412, 451, 500, 599])
def test_anything_else_is_no_file(status: int) -> None:
    for asked in (None, Asked(5, TAG, 10)):
        verdict = judge(status, (), asked=asked)
        assert isinstance(verdict, Refused)
        assert str(status) in verdict.why
        assert not verdict.ranged


def test_unasked_parts_are_refused() -> None:
    verdict = judge(206, fields(content_range="bytes 0-9/10", etag='"v1"'), asked=None)
    assert isinstance(verdict, Refused)
    assert verdict.ranged
    assert isinstance(judge(416, fields(content_range="bytes */10"), asked=None), Refused)


GOOD = {"content_range": "bytes 5-9/10", "etag": '"v1"', "content_length": "5"}


@pytest.mark.parametrize(
    "asked",
    [Asked(5, TAG, 10), Asked(5, TAG, None), Asked(5, TAG, 10, checked=True)],
)
def test_the_missing_part_is_good(asked: Asked) -> None:
    assert judge(206, fields(**GOOD), asked=asked) == Rest(10)
    assert judge(206, fields(**{**GOOD, "content_length": ""}), asked=asked) == Rest(10)


@pytest.mark.parametrize(
    "change",
    [
        {"content_range": ""},
        {"content_range": "bytes 4-9/10"},
        {"content_range": "bytes 6-9/10"},
        {"content_range": "bytes 5-8/10"},
        {"content_range": "bytes 5-10/11"},
        {"content_range": "bytes */10"},
        {"content_range": "other 5-9/10"},
        {"content_length": "6"},
        {"etag": '"v2"'},
        {"etag": 'W/"v1"'},
        {"content_encoding": "gzip"},
        {"content_type": "multipart/byteranges; boundary=b"},
        {"content_type": "Multipart/ByteRanges"},
    ],
)
def test_a_part_that_cannot_be_joined_is_asked_for_anew(change: dict[str, str]) -> None:
    assert isinstance(judge(206, fields(**{**GOOD, **change}), asked=Asked(5, TAG, 10, checked=True)), Anew)


def test_a_part_of_unknown_total_needs_a_known_one() -> None:
    said = fields(**{**GOOD, "content_range": "bytes 5-9/*"})
    assert judge(206, said, asked=Asked(5, TAG, 10)) == Rest(10)
    assert isinstance(judge(206, said, asked=Asked(5, TAG, None)), Anew)


def test_a_tag_must_be_said_again_unless_a_checksum_follows() -> None:
    said = tuple(item for item in fields(**GOOD) if item[0] != "etag")
    assert isinstance(judge(206, said, asked=Asked(5, TAG, 10)), Anew)
    assert judge(206, said, asked=Asked(5, TAG, 10, checked=True)) == Rest(10)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"last_modified": OLDER[1]}, True),
        ({"last_modified": DATE[1]}, False),
        ({"etag": '"new"'}, False),
    ],
)
def test_a_date_need_not_be_said_again_but_must_not_differ(change: dict[str, str], same: bool) -> None:
    said = fields(content_range="bytes 5-9/10", **change)
    verdict = judge(206, said, asked=Asked(5, DAY, 10))
    assert (verdict == Rest(10)) is same
    assert isinstance(verdict, Rest if same else Anew)


@pytest.mark.parametrize(
    ("said", "asked", "complete"),
    [
        ({"content_range": "bytes */10", "etag": '"v1"'}, Asked(10, TAG, 10), True),
        ({"content_range": "bytes */10", "etag": '"v1"'}, Asked(10, TAG, None), True),
        ({"content_range": "bytes */10"}, Asked(10, TAG, 10), False),
        ({"content_range": "bytes */10"}, Asked(10, TAG, None, checked=True), True),
        ({"content_range": "bytes */10"}, Asked(10, DAY, 10), False),
        ({"content_range": "bytes */10"}, Asked(10, DAY, 10, checked=True), True),
        ({"content_range": "bytes */10", "etag": '"v2"'}, Asked(10, TAG, 10, checked=True), False),
        ({"content_range": "bytes */9", "etag": '"v1"'}, Asked(10, TAG, 10), False),
        ({"content_range": "bytes */10", "etag": '"v1"'}, Asked(10, TAG, 11), False),
        ({"content_range": "bytes 0-9/10", "etag": '"v1"'}, Asked(10, TAG, 10), True),
        ({"etag": '"v1"'}, Asked(10, TAG, 10), False),
    ],
)
def test_416_is_complete_only_with_proof(said: dict[str, Any], asked: Asked, complete: bool) -> None:
    verdict = judge(416, fields(**said), asked=asked)
    assert isinstance(verdict, Complete if complete else Anew)


@given(
    offset=st.integers(1, 50),
    total=st.integers(1, 60),
    first=st.integers(0, 60),
    last=st.integers(0, 60),
    said=st.one_of(st.none(), st.integers(0, 60)),
    length=st.integers(0, 60),
)
def test_whatever_is_joined_makes_a_whole(
    offset: int, total: int, first: int, last: int, said: int | None, length: int
) -> None:
    named = "*" if said is None else str(said)
    answer = fields(content_range=f"bytes {first}-{last}/{named}", etag='"v1"', content_length=str(length))
    verdict = judge(206, answer, asked=Asked(offset, TAG, total))
    if isinstance(verdict, Rest):
        assert (first, last, verdict.total, length) == (offset, total - 1, total, total - offset)
