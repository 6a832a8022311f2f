"""The words in which a case is told: requests in order, what the origin answers to each, what must come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["required", "optimal", "check"]
"""A rule of the RFC; what a good cache does beside; what the RFC leaves open."""
Value = str | int
"""Of a header field; a number is a date that many seconds from now."""
Expect = Literal["stored", "origin", "etag", "modified", ""]
"""From the store; from the origin; validated with If-None-Match, or If-Modified-Since; whatever comes."""
Mode = Literal["any", "shared", "private", "guessing"]
"""Which caches a case is for: all; one of many users; one of one user; one that guesses from Last-Modified."""

BODY = "the body of this case"
PAUSE = 3.1


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, and what the origin answers should it be asked.

    Args:
        fields: of the origin's answer, in order.
        send: of the request.
        expect: where the answer must come from.
        status: of the origin's answer.
        want_status: of the answer, where it is not the origin's.
        want: fields of the answer: a value, None for no such field, or a number which it must exceed.
        want_sent: fields the origin must see: a value, or None for no such field.
        text: body of the origin's answer.
        want_text: of the answer, where it is not the origin's; None for any.
        pause: whether time passes afterwards.
        cut: whether the origin closes the connection instead of answering.
        interim: codes of the interim answers that come first.
    """

    fields: Sequence[tuple[str, Value]] = ()
    send: Sequence[tuple[str, Value]] = ()
    expect: Expect = ""
    method: str = "GET"
    status: int = 200
    want_status: int = 0
    want: Mapping[str, str | int | None] = field(default_factory=dict)
    want_sent: Mapping[str, str | None] = field(default_factory=dict)
    text: str = BODY
    want_text: str | None = ""
    pause: bool = False
    cut: bool = False
    path: str = ""
    query: str = ""
    body: str = ""
    interim: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """One rule and the requests that show it."""

    name: str
    kind: Kind
    asks: tuple[Ask, ...]
    mode: Mode = "any"


def control(value: str, *more: tuple[str, Value]) -> tuple[tuple[str, Value], ...]:
    """Return the fields of an answer with this Cache-Control."""
    return (("Cache-Control", value), *more)


STORED = Ask(expect="stored")
ORIGIN = Ask(expect="origin")
FRESH: tuple[tuple[str, Value], ...] = (("Cache-Control", "max-age=100000"), ("Last-Modified", 0), ("Date", 0))
STALE: tuple[tuple[str, Value], ...] = (("Expires", -5000), ("Last-Modified", -100000), ("Date", 0))
SOON_STALE: tuple[tuple[str, Value], ...] = (("Cache-Control", "max-age=2"), ("Template-A", "1"))


def then_stored(name: str, *fields: tuple[str, Value], kind: Kind = "optimal", mode: Mode = "any") -> Case:
    """Tell of an answer with these fields that is used again."""
    return Case(name, kind, (Ask(fields, pause=True), STORED), mode)


def then_origin(name: str, *fields: tuple[str, Value], kind: Kind = "required", mode: Mode = "any") -> Case:
    """Tell of an answer with these fields that must not be used again."""
    return Case(name, kind, (Ask(fields, pause=True), ORIGIN), mode)
