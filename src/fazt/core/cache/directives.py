"""What `Cache-Control` says, in a response (RFC 9111 section 5.2.2) and in a request (section 5.2.1).

Names compare without case, values may be quoted (section 5.2: recipients ought to take both forms). Whatever cannot
be read is read as the stricter thing: a number as none left, an unbalanced quote as `no-store`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from fazt.core.cache.dates import FOREVER, parse_seconds

# Whatever stands there matches one of the three, a quote that is never closed included: no way back, linear time.
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*("?)|,|[^",]+', re.DOTALL)
_NAME_END = re.compile(r"[\s;]")
_ESCAPED = re.compile(r"\\(.)")
_TO_ESCAPE = re.compile(r'["\\]')
_FLAGS: Final = {
    "no-store": "no_store",
    "no-cache": "no_cache",
    "private": "private",
    "public": "public",
    "must-revalidate": "must_revalidate",
    "proxy-revalidate": "proxy_revalidate",
    "must-understand": "must_understand",
}
_TIMES: Final = {
    "max-age": "max_age",
    "s-maxage": "s_maxage",
    "stale-while-revalidate": "stale_while_revalidate",
    "stale-if-error": "stale_if_error",
}
_MEMO: Final = 256
"""Characters: longer fields are read every time, so that the memo stays small."""


@dataclass(frozen=True, slots=True)
class ResponseControl:
    """The directives of a response; times in seconds, None when absent, 0 when unreadable.

    `no_cache` and `private` are the unqualified forms; the field names of the qualified ones stand, in lower case,
    in `no_cache_fields` and `private_fields`.
    """

    no_store: bool = False
    no_cache: bool = False
    private: bool = False
    public: bool = False
    must_revalidate: bool = False
    proxy_revalidate: bool = False
    must_understand: bool = False
    max_age: int | None = None
    s_maxage: int | None = None
    stale_while_revalidate: int = 0
    stale_if_error: int | None = None
    no_cache_fields: frozenset[str] = frozenset()
    private_fields: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RequestControl:
    """The directives of a request; times in seconds, None when absent.

    `max_stale` without a value is `FOREVER`: a stale response of any age will do.
    """

    no_store: bool = False
    no_cache: bool = False
    only_if_cached: bool = False
    max_age: int | None = None
    min_fresh: int | None = None
    max_stale: int | None = None
    stale_if_error: int | None = None


NO_DIRECTIVES: Final = ResponseControl()
UNASKED: Final = RequestControl()


def response_control(values: Iterable[str]) -> ResponseControl:
    """Read the `Cache-Control` fields of a response."""
    text = ",".join(values)
    if not text:
        return NO_DIRECTIVES
    return _response(text) if len(text) > _MEMO else _known_response(text)


def request_control(cache_control: Iterable[str], pragma: Iterable[str]) -> RequestControl:
    """Read the `Cache-Control` fields of a request, or `Pragma` where there are none."""
    text = ",".join(cache_control)
    if not text:
        # RFC 9111 section 5.4: without Cache-Control, `Pragma: no-cache` is treated as `Cache-Control: no-cache`.
        pragmas = {member.strip().lower() for value in pragma for member in value.split(",")}
        return RequestControl(no_cache=True) if "no-cache" in pragmas else UNASKED
    return _request(text) if len(text) > _MEMO else _known_request(text)


def control_text(control: ResponseControl) -> str:
    """Return a `Cache-Control` field from which `response_control` reads the same again."""
    words = [name for name, attribute in _FLAGS.items() if getattr(control, attribute)]
    words += [
        f"{name}={value}" for name, attribute in _TIMES.items() if (value := getattr(control, attribute)) is not None
    ]
    for name, fields in (("no-cache", control.no_cache_fields), ("private", control.private_fields)):
        if fields:
            words.append(f'{name}="{", ".join(sorted(_quotable(field) for field in fields))}"')
    return ", ".join(words)


def _quotable(text: str) -> str:
    return _TO_ESCAPE.sub(r"\\\g<0>", text)


def _response(text: str) -> ResponseControl:
    members = _members(text)
    if members is None:
        return ResponseControl(no_store=True)
    flags: set[str] = set()
    times: dict[str, int] = {}
    named: dict[str, set[str]] = {"no-cache": set(), "private": set()}
    for name, value, exact in members:
        match name:
            case "no-cache" | "private":
                fields = {field.strip().lower() for field in value.split(",")} - {""}
                if fields:
                    named[name] |= fields
                else:
                    flags.add(name)
            case "max-age" | "s-maxage" | "stale-while-revalidate" | "stale-if-error":
                # RFC 9111 section 4.2.1: of several the smallest; what cannot be read makes it stale.
                seconds = (parse_seconds(value) if exact else None) or 0
                times[name] = min(seconds, times.get(name, seconds))
            case _:
                flags.add(name)
    return ResponseControl(
        no_store="no-store" in flags,
        no_cache="no-cache" in flags,
        private="private" in flags,
        public="public" in flags,
        must_revalidate="must-revalidate" in flags,
        proxy_revalidate="proxy-revalidate" in flags,
        must_understand="must-understand" in flags,
        max_age=times.get("max-age"),
        s_maxage=times.get("s-maxage"),
        stale_while_revalidate=times.get("stale-while-revalidate", 0),
        stale_if_error=times.get("stale-if-error"),
        no_cache_fields=frozenset(named["no-cache"]),
        private_fields=frozenset(named["private"]),
    )


def _request(text: str) -> RequestControl:
    members = _members(text)
    if members is None:
        return RequestControl(no_store=True)
    flags: set[str] = set()
    times: dict[str, int] = {}
    for name, value, exact in members:
        seconds = parse_seconds(value) if exact else None
        match name:
            case "max-age":
                times[name] = min(seconds or 0, times.get(name, FOREVER))
            case "min-fresh":
                times[name] = max(FOREVER if seconds is None else seconds, times.get(name, 0))
            case "max-stale":
                given = FOREVER if not value else seconds or 0
                times[name] = min(given, times.get(name, FOREVER))
            case "stale-if-error":
                times[name] = min(seconds or 0, times.get(name, FOREVER))
            case _:
                flags.add(name)
    return RequestControl(
        no_store="no-store" in flags,
        no_cache="no-cache" in flags,
        only_if_cached="only-if-cached" in flags,
        max_age=times.get("max-age"),
        min_fresh=times.get("min-fresh"),
        max_stale=times.get("max-stale"),
        stale_if_error=times.get("stale-if-error"),
    )


_known_response = lru_cache(maxsize=512)(_response)
_known_request = lru_cache(maxsize=128)(_request)


def _members(text: str) -> list[tuple[str, str, bool]] | None:
    """Return each directive: its name in lower case, its value unquoted, and whether no space stood around the `=`.

    The grammar knows no such space (RFC 9111 section 5.2); a number that has it is not believed. None when a quote is
    never closed: what stands behind it is unknown.
    """
    members: list[str] = [""]
    for piece in _PIECE.finditer(text):
        if piece[0] == ",":
            members.append("")
        elif piece[1] == "":
            return None
        else:
            members[-1] += piece[0]
    return [_directive(member.strip(" \t")) for member in members]


def _directive(member: str) -> tuple[str, str, bool]:
    written, _, value = member.partition("=")
    name = _NAME_END.split(written, maxsplit=1)[0]  # `no-store;x` forbids as much as `no-store`
    exact = name == written and value == value.lstrip(" \t")
    value = value.strip(" \t")
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = _ESCAPED.sub(r"\1", value[1:-1])
    return name.lower(), value, exact
