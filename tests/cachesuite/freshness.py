"""Ages and lifetimes: RFC 9111 sections 4.2, 5.1, 5.2.2.1, 5.2.2.10, 5.3, and how their fields are read."""

from __future__ import annotations

from tests.cachesuite.case import SOON_STALE, Ask, Case, Value, control, then_origin, then_stored

DATE = ("Date", 0)

MAX_AGE = (
    then_origin("freshness-none", kind="check"),
    then_stored("freshness-max-age", *control("max-age=3600")),
    then_origin("freshness-max-age-stale", *SOON_STALE),
    then_origin("freshness-max-age-0", *control("max-age=0")),
    then_stored("freshness-max-age-max-minus-1", *control("max-age=2147483647")),
    then_stored("freshness-max-age-max", *control("max-age=2147483648")),
    then_stored("freshness-max-age-max-plus-1", *control("max-age=2147483649")),
    then_stored("freshness-max-age-max-plus", *control("max-age=99999999999")),
    then_origin("freshness-max-age-age", *control("max-age=3600", ("Age", "7200")), DATE),
    then_origin("freshness-max-age-date", *control("max-age=3600", ("Date", -7200)), kind="check"),
    then_stored("freshness-max-age-expires", *control("max-age=3600", ("Expires", -7200)), DATE),
    then_stored("freshness-max-age-expires-invalid", *control("max-age=3600", ("Expires", "0")), DATE),
    then_origin("freshness-max-age-0-expires", *control("max-age=0", ("Expires", 3600)), DATE),
    then_stored("freshness-max-age-extension", *control("foobar, max-age=3600")),
    then_stored("freshness-max-age-case-insenstive", *control("MaX-aGe=3600")),
    then_origin("freshness-max-age-negative", *control("max-age=-3600")),
    then_origin("freshness-max-age-s-maxage-private", *control("s-maxage=3600, max-age=1"), mode="private"),
    then_origin(
        "freshness-max-age-s-maxage-private-multiple",
        *control("s-maxage=3600"),
        *control("max-age=1"),
        mode="private",
    ),
    then_stored("freshness-s-maxage-shared", *control("s-maxage=3600"), mode="shared"),
    then_origin("freshness-max-age-s-maxage-shared-longer", *control("max-age=3600, s-maxage=1"), mode="shared"),
    then_origin(
        "freshness-max-age-s-maxage-shared-longer-reversed", *control("s-maxage=1, max-age=3600"), mode="shared"
    ),
    then_origin(
        "freshness-max-age-s-maxage-shared-longer-multiple",
        *control("max-age=3600"),
        *control("s-maxage=1"),
        mode="shared",
    ),
    then_stored("freshness-max-age-s-maxage-shared-shorter", *control("max-age=1, s-maxage=3600"), mode="shared"),
    then_stored(
        "freshness-max-age-s-maxage-shared-shorter-expires",
        *control("max-age=0, s-maxage=3600", ("Expires", -10)),
        mode="shared",
    ),
)

PARSING = (
    then_origin("freshness-max-age-two-fresh-stale-sameline", *control("max-age=1800, max-age=1"), kind="check"),
    then_origin(
        "freshness-max-age-two-fresh-stale-sepline", *control("max-age=1800"), *control("max-age=1"), kind="check"
    ),
    then_origin("freshness-max-age-two-stale-fresh-sameline", *control("max-age=1, max-age=1800"), kind="check"),
    then_origin(
        "freshness-max-age-two-stale-fresh-sepline", *control("max-age=1"), *control("max-age=1800"), kind="check"
    ),
    then_stored("freshness-max-age-quoted", *control('max-age="3600"'), kind="check"),
    then_origin("freshness-max-age-ignore-quoted", *control('extension="max-age=3600", max-age=1')),
    then_origin("freshness-max-age-ignore-quoted-rev", *control('max-age=1, extension="max-age=3600"')),
    then_origin("freshness-max-age-space-before-equals", *control("max-age =3600"), kind="check"),
    then_origin("freshness-max-age-space-after-equals", *control("max-age= 3600"), kind="check"),
    then_stored("freshness-max-age-leading-zero", *control("max-age=003600"), kind="required"),
    then_origin("freshness-max-age-single-quoted", *control("max-age='3600'")),
    then_origin("freshness-max-age-decimal-zero", *control("max-age=3600.0"), kind="check"),
    then_origin("freshness-max-age-decimal-five", *control("max-age=3600.5"), kind="check"),
    then_origin("freshness-max-age-a100", *control("max-age=a3600"), kind="check"),
    then_origin("freshness-max-age-100a", *control("max-age=3600a"), kind="check"),
)


def _aged(name: str, *ages: str, stored: bool, lifetime: int = 3600) -> Case:
    fields: tuple[tuple[str, Value], ...] = (DATE, *control(f"max-age={lifetime}"), *(("Age", age) for age in ages))
    return then_stored(name, *fields, kind="required") if stored else then_origin(name, *fields)


AGE = (
    _aged("age-parse-nonnumeric", "abc", stored=True),
    _aged("age-parse-negative", "-7200", stored=True),
    _aged("age-parse-float", "7200.0", stored=True),
    _aged("age-parse-large-minus-one", "2147483647", stored=False),
    _aged("age-parse-large", "2147483648", stored=False),
    _aged("age-parse-larger", "2147483649", stored=False),
    _aged("age-parse-suffix", "7200, 0", stored=False),
    _aged("age-parse-prefix", "0, 7200", stored=True),
    _aged("age-parse-suffix-twoline", "7200", "0", stored=False),
    _aged("age-parse-prefix-twoline", "0", "7200", stored=True),
    _aged("age-parse-dup-0", "0, 0", stored=True),
    _aged("age-parse-dup-0-twoline", "0", "0", stored=True),
    _aged("age-parse-dup-old", "3600", "3600", stored=True, lifetime=10000),
)

MONTH = 30 * 24 * 3600
EXPIRES = (
    then_stored("freshness-expires-future", ("Expires", MONTH), DATE),
    then_origin("freshness-expires-past", ("Expires", -MONTH), DATE),
    Case("freshness-expires-present", "required", (Ask((("Expires", 0), DATE)), Ask(expect="origin"))),
    then_origin("freshness-expires-old-date", ("Expires", 300), ("Date", 400)),
    then_origin("freshness-expires-invalid", ("Expires", "0"), DATE),
    Case("freshness-expires-invalid-date", "optimal", (Ask((("Date", "foo"), ("Expires", 10))), Ask(expect="stored"))),
    then_origin("freshness-expires-age-slow-date", ("Date", -10), ("Expires", 10), ("Age", "25")),
    then_origin("freshness-expires-age-fast-date", ("Date", 10), ("Expires", 20), ("Age", "15")),
)


def _expires(name: str, *values: str, stored: bool) -> Case:
    fields: tuple[tuple[str, Value], ...] = (*(("Expires", value) for value in values), DATE)
    return (
        then_stored(f"freshness-expires-{name}", *fields)
        if stored
        else then_origin(f"freshness-expires-{name}", *fields)
    )


EXPIRES_PARSING = (
    _expires("32bit", "Tue, 19 Jan 2038 14:14:08 GMT", stored=True),
    _expires("far-future", "Sun, 21 Nov 2286 04:46:39 GMT", stored=True),
    _expires("rfc850", "Thursday, 18-Aug-50 02:01:18 GMT", stored=True),
    _expires("ansi-c", "Thu Aug  8 02:01:18 2050", stored=True),
    _expires("wrong-case-weekday", "THU, 18 Aug 2050 02:01:18 GMT", stored=True),
    _expires("wrong-case-month", "Thu, 18 AUG 2050 02:01:18 GMT", stored=True),
    _expires("wrong-case-tz", "Thu, 18 Aug 2050 02:01:18 gMT", stored=True),
    _expires("invalid-utc", "Thu, 18 Aug 2050 02:01:18 UTC", stored=False),
    _expires("invalid-aest", "Thu, 18 Aug 2050 02:01:18 AEST", stored=False),
    _expires("invalid-2-digit-year", "Thu, 18 Aug 50 02:01:18 GMT", stored=False),
    _expires("invalid-no-comma", "Thu 18 Aug 2050 02:01:18 GMT", stored=False),
    _expires("invalid-multiple-spaces", "Thu, 18  Aug  2050 02:01:18 GMT", stored=False),
    _expires("invalid-date-dashes", "Thu, 18-Aug-2050 02:01:18 GMT", stored=False),
    _expires("invalid-time-periods", "Thu, 18 Aug 2050 02.01.18 GMT", stored=False),
    _expires("invalid-1-digit-hour", "Thu, 18 Aug 2050 2:01:18 GMT", stored=False),
    _expires("invalid-multiple-lines", "Thu, 18 Aug 2050 2:01:18 GMT", "Thu, 18 Aug 2050 2:01:19 GMT", stored=False),
)


def _guessed(status: int, *, stored: bool, public: bool = False) -> Case:
    fields = (("Last-Modified", -24 * 3600), DATE, *(control("public") if public else ()))
    expect = "stored" if stored else "origin"
    text = "" if status == 204 else f"body of {status}"
    return Case(
        f"heuristic-{status}-{'cached' if stored else 'not_cached'}",
        "optimal" if stored else "required",
        (
            Ask(fields, status=status, text=text),
            Ask(expect=expect, status=status, text=text),  # type: ignore[arg-type]
        ),
        "guessing" if stored else "any",
    )


HEURISTIC = (
    *(_guessed(status, stored=True) for status in (200, 203, 204, 404, 405, 410, 414, 501)),
    *(_guessed(status, stored=False) for status in (201, 202, 403, 502, 503, 504, 599)),
    _guessed(599, stored=True, public=True),
    *(
        Case(
            f"heuristic-delta-{delta}",
            "check",
            (Ask((("Last-Modified", -delta), DATE)), Ask(expect="stored")),
            "guessing",
        )
        for delta in (10, 60, 600, 3600, 43200, 86400)
    ),
)
