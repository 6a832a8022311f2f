"""Answering, validating, invalidating: RFC 9111 sections 4 and 5.2.1, RFC 5861, RFC 9110 sections 13 and 14."""

from __future__ import annotations

from tests.cachesuite.case import FRESH, SOON_STALE, STALE, STORED, Ask, Case, Value, control, then_stored

DATE = ("Date", 0)
HOUR = control("max-age=3600")


def _request(
    name: str, stored: tuple[tuple[str, Value], ...], directive: str, expect: str, *, pause: bool = False
) -> Case:
    second = Ask(send=control(directive), expect=expect)  # type: ignore[arg-type]
    return Case(f"ccreq-{name}", "check", (Ask(stored, pause=pause), second))


REQUEST = (
    _request("ma0", FRESH, "max-age=0", "modified", pause=True),
    _request("ma1", FRESH, "max-age=1", "modified", pause=True),
    _request("magreaterage", (*HOUR, ("Age", "1800")), "max-age=600", "origin"),
    _request("max-stale", control("max-age=1"), "max-stale=1000", "stored", pause=True),
    _request("max-stale-age", (*control("max-age=1500"), ("Age", "2000")), "max-stale=1000", "stored"),
    _request("min-fresh", control("max-age=1500"), "min-fresh=2000", "origin"),
    _request("min-fresh-age", (*control("max-age=1500"), ("Age", "1000")), "min-fresh=1000", "origin"),
    _request("no-cache", HOUR, "no-cache", "origin"),
    _request("no-cache-lm", (*HOUR, ("Last-Modified", -10000), DATE), "no-cache", "modified"),
    _request("no-cache-etag", (*HOUR, ("ETag", "abcdef")), "no-cache", "etag"),
    _request("no-store", HOUR, "no-store", "origin"),
    Case("ccreq-oic", "check", (Ask(send=control("only-if-cached"), want_status=504, want_text=None),)),
    Case("pragma-request-no-cache", "check", (Ask(HOUR), Ask(send=(("Pragma", "no-cache"),), expect="origin"))),
    Case("pragma-request-extension", "check", (Ask(HOUR), Ask(send=(("Pragma", "other"),), expect="stored"))),
    Case("pragma-response-no-cache", "check", (Ask((*HOUR, ("Pragma", "no-cache"))), STORED)),
    Case("pragma-response-extension", "check", (Ask((*HOUR, ("Pragma", "other"))), STORED)),
)


def _tag(name: str, stored: str, sent: str, *, kind: str = "optimal", expect: int = 304) -> Case:
    return Case(
        f"conditional-etag-{name}",
        kind,  # type: ignore[arg-type]
        (
            Ask((*FRESH, ("ETag", stored)), pause=True),
            Ask(
                send=(("If-None-Match", sent),),
                expect="stored",
                want_status=expect,
                want={"etag": stored},
                want_text=None,
            ),
        ),
    )


def _since(name: str, fields: tuple[tuple[str, Value], ...], since: Value, expect: str = "stored") -> Case:
    return Case(
        f"conditional-lm-{name}",
        "optimal",
        (
            Ask(fields, pause=True),
            Ask(send=(("If-Modified-Since", since),), expect=expect, want_status=304, want_text=None),  # type: ignore[arg-type]
        ),
    )


MODIFIED = ("Last-Modified", -3000)
CONDITIONAL = (
    _tag("strong-respond", '"abcdef"', '"abcdef"'),
    Case("conditional-304-etag", "required", _tag("x", '"abcdef"', '"abcdef"').asks),
    Case(
        "conditional-etag-precedence",
        "required",
        (
            Ask((*HOUR, ("Last-Modified", -5000), ("ETag", '"abcdef"')), pause=True),
            Ask(
                send=(("If-None-Match", '"abcdef"'), ("If-Modified-Since", -9000)),
                expect="stored",
                want_status=304,
                want_text=None,
            ),
        ),
    ),
    _tag("strong-respond-obs-text", '"abcdef\xfc"', '"abcdef\xfc"', kind="check"),
    _tag("quoted-respond-unquoted", '"abcdef"', "abcdef", kind="check"),
    _tag("unquoted-respond-unquoted", "abcdef", "abcdef", kind="check"),
    _tag("unquoted-respond-quoted", "abcdef", '"abcdef"', kind="check"),
    _tag("weak-respond", 'W/"abcdef"', 'W/"abcdef"'),
    _tag("weak-respond-lowercase", 'w/"abcdef"', 'w/"abcdef"', kind="check"),
    _tag("strong-respond-multiple-first", '"abcdef"', '"abcdef", "1234", "5678"'),
    _tag("strong-respond-multiple-second", '"abcdef"', '"1234", "abcdef", "5678"'),
    _tag("strong-respond-multiple-last", '"abcdef"', '"1234", "5678", "abcdef"'),
    Case(
        "conditional-etag-vary-headers",
        "required",
        (
            Ask((("Expires", 1), ("ETag", '"abcdef"'), DATE, ("Vary", "Abc")), send=(("Abc", "123"),), pause=True),
            Ask(send=(("Abc", "123"),), expect="etag", want_sent={"abc": "123"}),
        ),
    ),
    Case(
        "conditional-etag-strong-generate",
        "optimal",
        (Ask((*SOON_STALE, ("ETag", '"abcdef"')), pause=True), Ask(expect="etag")),
    ),
    Case(
        "conditional-etag-weak-generate-weak",
        "optimal",
        (Ask((*SOON_STALE, ("ETag", 'W/"abcdef"')), pause=True), Ask(expect="etag")),
    ),
    Case(
        "conditional-etag-forward",
        "check",
        (Ask(send=(("If-None-Match", '"abcdef"'),), want_sent={"if-none-match": '"abcdef"'}),),
    ),
    _since("fresh", (*control("max-age=100000"), MODIFIED, DATE), -3000),
    _since("fresh-earlier", (*control("max-age=100000"), MODIFIED, DATE), -2000),
    _since("stale", (*control("max-age=2"), MODIFIED, DATE), -3000, "modified"),
    _since("fresh-no-lm", (*control("max-age=10000"), DATE), 0),
)

LM = ("Last-Modified", "Wed, 01 Jan 2020 00:00:00 GMT")


def _update(name: str, old: str, new: str, *, kept: bool = False) -> Case:
    def fields(value: str, *validator: tuple[str, str]) -> tuple[tuple[str, Value], ...]:
        control_too = () if name == "Cache-Control" else control("max-age=2")
        return (DATE, (name, value), *control_too, *validator)

    tag = ("ETag", f'"{name}-1"')
    text = None if name == "Content-Length" else ""
    expected = old if kept else new
    return Case(
        f"304-etag-update-response-{name}",
        "required",
        (
            Ask(fields(old, tag), pause=True, want_text=text),
            Ask(fields(new, tag), expect="etag", want={name: expected}, want_text=text),
            Ask(expect="stored", want={name: expected}, want_text=text),
        ),
    )


UPDATE = (
    Case(
        "304-lm-use-stored-Test-Header",
        "required",
        (
            Ask((*control("max-age=2"), LM, DATE, ("Test-Header", "a")), pause=True),
            Ask((LM, DATE), expect="modified", want={"test-header": "a"}),
        ),
    ),
    *(_update(name, "old", "new") for name in ("Test-Header", "X-Test-Header", "Content-Foo", "X-Content-Foo")),
    _update("Cache-Control", "max-age=1", "max-age=3600"),
    _update("Content-Length", "5", "10", kept=True),
    Case(
        "304-of-another-response-is-not-taken-for-this-one",
        "required",
        (
            Ask((*control("max-age=1"), ("ETag", '"one"')), pause=True, text="one"),
            Ask((*control("max-age=1"), ("ETag", '"two"')), status=304, want_status=200, want_text=None, text="two"),
        ),
    ),
    Case("head-writethrough", "check", (Ask(SOON_STALE, pause=True), Ask(method="HEAD", expect="origin"))),
    Case(
        "head-200-update",
        "check",
        (
            Ask(SOON_STALE, pause=True),
            Ask((("Template-A", "2"), *control("max-age=1000")), method="HEAD"),
            Ask(expect="stored", want={"template-a": "2"}),
        ),
    ),
    Case("head-from-get", "optimal", (Ask(FRESH), Ask(method="HEAD", expect="stored", want_text=""))),
)


def _invalidation(method: str) -> tuple[Case, ...]:
    unsafe = {"method": method, "body": "abc"}
    named = (("Location", "/{token}/other"), ("Content-Location", "/{token}/another"))
    return (
        Case(f"invalidate-{method}", "required", (Ask(FRESH), Ask(**unsafe), Ask(expect="origin"))),  # type: ignore[arg-type]
        Case(f"invalidate-{method}-failed", "optimal", (Ask(FRESH), Ask(**unsafe, status=500), STORED)),  # type: ignore[arg-type]
        Case(
            f"invalidate-{method}-location",
            "check",
            (Ask(FRESH, path="/other"), Ask(named, **unsafe), Ask(path="/other", expect="origin")),  # type: ignore[arg-type]
        ),
        Case(
            f"invalidate-{method}-cl",
            "check",
            (Ask(FRESH, path="/another"), Ask(named, **unsafe), Ask(path="/another", expect="origin")),  # type: ignore[arg-type]
        ),
    )


INVALIDATION = tuple(case for method in ("POST", "PUT", "DELETE", "M-SEARCH") for case in _invalidation(method))


def _part(name: str, asked: str, text: str) -> Case:
    return Case(
        f"partial-store-complete-reuse-partial{name}",
        "optimal",
        (
            Ask(HOUR, text="0123456789A"),
            Ask(send=(("Range", f"bytes={asked}"),), expect="stored", want_status=206, want_text=text),
        ),
    )


PARTIAL = (
    _part("", "0-1", "01"),
    _part("-no-last", "1-", "123456789A"),
    _part("-suffix", "-1", "A"),
    Case(
        "partial-is-not-kept",
        "required",
        (
            Ask(
                (*HOUR, ("Content-Range", "bytes 4-8/9")),
                send=(("Range", "bytes=-5"),),
                status=206,
                text="01234",
            ),
            Ask(expect="origin", text="whole"),
        ),
    ),
    *(
        Case(
            f"partial-use-{name}",
            "required",
            (
                Ask((*HOUR, ("A", "1")), text="0123456789A"),
                Ask(send=(("Range", "bytes=0-1"),), expect="stored", want_status=206, want_text="01", want={"a": "1"}),
            ),
        )
        for name in ("headers", "stored-headers")
    ),
)

STALENESS = (
    Case("stale-close", "check", (Ask(SOON_STALE, pause=True), Ask(cut=True, want_status=502, want_text=None))),
    Case("stale-503", "check", (Ask(SOON_STALE, pause=True), Ask(status=503, expect="origin"))),
    Case(
        "stale-while-revalidate",
        "optimal",
        (Ask((*control("max-age=1, stale-while-revalidate=3600"), ("ETag", '"abc"')), pause=True), STORED),
    ),
    Case(
        "stale-while-revalidate-window",
        "required",
        (
            Ask((*control("max-age=1, stale-while-revalidate=4"), ("ETag", '"abc"')), pause=True),
            Ask((*control("no-cache"), ("ETag", '"def"')), expect="stored", pause=True),
            Ask(expect="origin"),
        ),
    ),
    Case(
        "stale-sie-close",
        "check",
        (Ask(control("max-age=2, stale-if-error=60"), pause=True), Ask(cut=True, expect="stored")),
    ),
    Case(
        "stale-sie-503",
        "check",
        (Ask(control("max-age=2, stale-if-error=60"), pause=True), Ask(status=503, expect="stored", want_status=200)),
    ),
    Case(
        "stale-if-error-cc-response-expired",
        "required",
        (Ask(control("max-age=0, stale-if-error=1"), pause=True), Ask(status=500, expect="origin")),
    ),
    Case(
        "stale-if-error-cc-request-expired",
        "required",
        (Ask(control("max-age=0"), pause=True), Ask(send=control("stale-if-error=1"), status=500, expect="origin")),
    ),
    *(
        Case(
            f"stale-close-{directive}",
            "required",
            (
                Ask(control(f"max-age=2, {directive}"), pause=True),
                Ask(cut=True, want_status=502, want_text=None, want={"server-request-count": None}),
            ),
            mode,  # type: ignore[arg-type]
        )
        for directive, mode in {
            "must-revalidate": "any",
            "proxy-revalidate": "shared",
            "no-cache": "any",
            "s-maxage=2": "shared",
        }.items()
    ),
)

AUTHORIZATION = (
    Case(
        "other-authorization",
        "required",
        (Ask(FRESH, send=(("Authorization", "FOO"),), want_sent={"authorization": "FOO"}), Ask(expect="origin")),
    ),
)

INTERIM = (
    Case("interim-102", "optimal", (Ask((*control("max-age=100000"), DATE), interim=(102,), pause=True), STORED)),
    Case("interim-103", "optimal", (Ask((*control("max-age=100000"), DATE), interim=(103,), pause=True), STORED)),
)

OTHER = (
    Case("other-age-gen", "required", (Ask(FRESH, pause=True), Ask(expect="stored", want={"age": 2}))),
    Case(
        "other-age-update-expires",
        "required",
        (Ask((("Expires", 30 * 24 * 3600), DATE, ("Age", "30")), pause=True), Ask(expect="stored", want={"age": 32})),
    ),
    Case(
        "other-age-update-max-age",
        "required",
        (Ask((*FRESH, ("Age", "30")), pause=True), Ask(expect="stored", want={"age": 32})),
    ),
    Case(
        "other-date-update", "required", (Ask(FRESH, pause=True), Ask(expect="stored", want={"date": "the origin's"}))
    ),
    Case(
        "other-date-update-expires",
        "required",
        (
            Ask((("Expires", 30 * 24 * 3600), DATE), pause=True),
            Ask(expect="stored", want={"date": "the origin's"}),
        ),
    ),
    Case(
        "query-args-different",
        "required",
        (Ask(FRESH, query="test=1", pause=True), Ask(query="test=2", expect="origin")),
    ),
    Case("query-args-same", "optimal", (Ask(FRESH, query="test=1", pause=True), Ask(query="test=1", expect="stored"))),
    then_stored(
        "other-fresh-content-disposition-attachment",
        *FRESH,
        ("Content-Disposition", "attachment; filename=example.txt"),
        kind="check",
    ),
    Case("other-set-cookie", "check", (Ask((*FRESH, ("Set-Cookie", "a=b")), pause=True), Ask(expect="origin"))),
    Case("other-cookie", "check", (Ask(FRESH, pause=True), Ask(send=(("Cookie", "a=b"),), expect="origin"))),
    Case("other-stale-needs-asking", "required", (Ask(STALE), Ask(expect="modified"))),
)


def _targeted(name: str, *fields: tuple[str, Value], stored: bool, kind: str = "required") -> Case:
    expect = "stored" if stored else "origin"
    return Case(f"cdn-{name}", kind, (Ask(fields, pause=True), Ask(expect=expect)), "shared")  # type: ignore[arg-type]


def _cdn(value: str) -> tuple[str, str]:
    return ("CDN-Cache-Control", value)


TARGETED = (
    _targeted("max-age", _cdn("max-age=3600"), stored=True, kind="optimal"),
    _targeted("max-age-age", DATE, _cdn("max-age=3600"), ("Age", "7200"), stored=False),
    _targeted("max-age-0", _cdn("max-age=0"), stored=False),
    _targeted("max-age-extension", _cdn("foobar, max-age=3600"), stored=True, kind="optimal"),
    _targeted("max-age-expires", _cdn("max-age=3600"), ("Expires", -10000), DATE, stored=True, kind="optimal"),
    _targeted("max-age-0-expires", _cdn("max-age=0"), ("Expires", 10000), DATE, stored=False),
    _targeted("max-age-short-cc-max-age", *control("max-age=1"), _cdn("max-age=3600"), stored=True, kind="optimal"),
    _targeted("max-age-long-cc-max-age", *control("max-age=3600"), _cdn("max-age=1"), stored=False),
    _targeted("private", _cdn("private"), *control("max-age=10000"), ("Expires", 10000), DATE, stored=False),
    _targeted("no-cache", _cdn("no-cache"), *control("max-age=10000"), ("Expires", 10000), DATE, stored=False),
    _targeted("no-store-cc-fresh", *control("max-age=10000"), _cdn("no-store"), ("Expires", 10000), DATE, stored=False),
    _targeted("fresh-cc-nostore", *control("no-store"), _cdn("max-age=10000"), stored=True),
    _targeted("cc-invalid-sh-type-unknown", _cdn("max-age=10000, &&&&&"), *control("no-store"), stored=False),
    _targeted("cc-invalid-sh-type-wrong", _cdn('max-age="10000"'), *control("no-store"), stored=False),
)
