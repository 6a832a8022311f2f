"""What may be kept and for whom: RFC 9111 sections 3, 4.1, 5.2.2; and which fields of it (3.1, 3.2)."""

from __future__ import annotations

from tests.cachesuite.case import FRESH, STALE, STORED, Ask, Case, Value, control, then_origin

DATE = ("Date", 0)
TAG = ("ETag", '"abcd"')


def _newer_not_kept(name: str, newer: str) -> Case:
    old = Ask((*control("max-age=10000"), ("Expires", 10000), DATE, ("A", "1")), pause=True)
    new = Ask((*control(newer), DATE, ("A", "2")), pause=True, want_text=None)
    return Case(name, "required", (old, new, Ask(expect="stored", want={"a": "1"})))


RESPONSE = (
    Case("cc-resp-private-shared", "required", (Ask(control("private, max-age=3600")), Ask(expect="origin")), "shared"),
    Case("cc-resp-private-private", "optimal", (Ask(control("private, max-age=3600")), STORED), "private"),
    then_origin("cc-resp-no-store", *control("no-store")),
    then_origin("cc-resp-no-store-case-insensitive", *control("No-StOrE")),
    then_origin("cc-resp-no-store-fresh", *control("max-age=10000, no-store"), ("Expires", 10000), DATE),
    _newer_not_kept("cc-resp-no-store-old-new", "no-store"),
    _newer_not_kept("cc-resp-no-store-old-max-age", "no-store, max-age=0"),
    then_origin("cc-resp-no-cache", *control("max-age=10000, no-cache"), ("Expires", 10000), DATE),
    then_origin("cc-resp-no-cache-case-insensitive", *control("max-age=10000, No-CaChE"), ("Expires", 10000), DATE),
    Case("cc-resp-no-cache-revalidate", "optimal", (Ask((*control("no-cache"), TAG)), Ask(expect="etag"))),
    Case(
        "cc-resp-no-cache-revalidate-fresh",
        "optimal",
        (Ask((*control("max-age=10000, no-cache"), ("Expires", 10000), DATE, TAG)), Ask(expect="etag")),
    ),
    Case(
        "headers-omit-headers-listed-in-Cache-Control-no-cache-single",
        "check",
        (
            Ask((*control('no-cache="a"'), ("a", "1"), ("b", "2"), *control("max-age=3600"), DATE), pause=True),
            Ask(expect="stored", want={"b": "2", "a": None}),
        ),
    ),
    Case(
        "headers-omit-headers-listed-in-Cache-Control-no-cache",
        "check",
        (
            Ask(
                (*control('no-cache="a, b"'), ("a", "1"), ("b", "2"), ("c", "3"), *control("max-age=3600"), DATE),
                pause=True,
            ),
            Ask(expect="stored", want={"c": "3", "a": None, "b": None}),
        ),
    ),
    Case("cc-resp-must-revalidate-fresh", "optimal", (Ask((*control("max-age=10000, must-revalidate"), TAG)), STORED)),
    Case(
        "cc-resp-must-revalidate-stale",
        "required",
        (
            Ask((*control("max-age=2, must-revalidate"), TAG)),
            Ask((*control("max-age=2, must-revalidate"), TAG), expect="stored", pause=True),
            Ask(expect="etag"),
        ),
    ),
)


def _status(status: int) -> tuple[Case, Case]:
    text = "" if status == 204 else f"body of {status}"
    return (
        Case(
            f"status-{status}-fresh",
            "optimal",
            (
                Ask(FRESH, status=status, text=text, pause=True),
                Ask(expect="stored", status=status, text=text),
            ),
        ),
        Case(
            f"status-{status}-stale",
            "required",
            (Ask(STALE, status=status, text=text), Ask(expect="origin", text="another")),
        ),
    )


STATUS = (
    *(
        case
        for status in (200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 502, 503, 504, 599)
        for case in _status(status)
    ),
    Case(
        "status-599-must-understand",
        "required",
        (Ask(control("max-age=3600, no-store, must-understand"), status=599), Ask(expect="origin")),
    ),
    Case("status-200-must-understand", "optimal", (Ask(control("max-age=3600, no-store, must-understand")), STORED)),
)

VARIED: tuple[tuple[str, Value], ...] = (("Cache-Control", "max-age=5000"), ("Last-Modified", -3000), DATE)
FOO = (("Foo", "1"),)
TWO = (("Foo", "1"), ("Bar", "abc"))
THREE = (*TWO, ("Baz", "789"))


def _vary(name: str, first: tuple, second: tuple, *vary: str, kind: str = "required", stored: bool = False) -> Case:  # type: ignore[type-arg]
    fields = (*VARIED, *(("Vary", value) for value in vary))
    expect = "stored" if stored else "origin"
    return Case(f"vary-{name}", kind, (Ask(fields, send=first), Ask(send=second, expect=expect)))  # type: ignore[arg-type]


def _same(name: str, first: tuple, second: tuple, *vary: str) -> Case:  # type: ignore[type-arg]
    return _vary(name, first, second, *vary, kind="optimal", stored=True)


LANGUAGES = (("Accept-Language", "en, de"),)
VARY = (
    _same("match", FOO, FOO, "Foo"),
    _vary("no-match", FOO, (("Foo", "2"),), "Foo"),
    _vary("omit-stored", (), FOO, "Foo"),
    _vary("omit", FOO, (), "Foo"),
    Case(
        "vary-invalidate",
        "optimal",
        (
            Ask((*VARIED, ("Vary", "Foo")), send=FOO, text="one"),
            Ask((*VARIED, ("Vary", "Foo")), send=(("Foo", "2"),), text="two", expect="origin"),
            Ask(send=FOO, text="one", expect="stored"),
        ),
    ),
    _same("cache-key", (*FOO, ("Other", "2")), (*FOO, ("Other", "3")), "Foo"),
    _same("2-match", TWO, TWO, "Foo, Bar"),
    _vary("2-no-match", TWO, (("Foo", "2"), ("Bar", "abc")), "Foo, Bar"),
    _vary("2-match-omit", TWO, (), "Foo, Bar"),
    _same("3-match", THREE, THREE, "Foo, Bar, Baz"),
    _vary("3-no-match", THREE, (("Foo", "2"), *THREE[1:]), "Foo, Bar, Baz"),
    _vary("3-order", THREE, (("Foo", "1"), ("Baz", "789"), ("Bar", "abcde")), "Foo, Bar, Baz"),
    _same("3-omit", (FOO[0], THREE[2]), (FOO[0], THREE[2]), "Foo, Bar, Baz"),
    _vary("star", (FOO[0], THREE[2]), (FOO[0], THREE[2]), "*"),
    _same("normalise-combine", (("Foo", "1, 2"),), (("Foo", "1"), ("Foo", "2")), "Foo"),
    _same("normalise-lang-case", LANGUAGES, (("Accept-Language", "eN, De"),), "Accept-Language"),
    _same("normalise-lang-space", LANGUAGES, (("Accept-Language", " en ,   de"),), "Accept-Language"),
    *(
        _vary(f"syntax-{name}", (FOO[0], THREE[2]), (FOO[0], THREE[2]), *vary)
        for name, vary in {
            "star": ("*",),
            "star-star": ("*, *",),
            "star-star-lines": ("*", "*"),
            "empty-star": (", *",),
            "empty-star-lines": ("", "*"),
            "star-foo": ("*, Foo",),
            "foo-star": ("Foo, *",),
        }.items()
    ),
)

TEXT = "abcdefghijklm"
KEPT = {
    "Test-Header": TEXT,
    "X-Test-Header": TEXT,
    "Content-Foo": TEXT,
    "X-Content-Foo": TEXT,
    "Cache-Control": "max-age=3600",
    "Content-Encoding": TEXT,
    "Content-Location": "/bar",
    "Content-MD5": "N7UdGUp1E+RbVvZSTy1R8g==",
    "Content-Range": TEXT,
    "Content-Security-Policy": "default-src 'self' cdn.example.com",
    "Content-Type": "text/plain;charset=utf-8",
    "Clear-Site-Data": "cookies",
    "ETag": '"ghijkl"',
    "Expires": "Mon, 11 Jan 2038 11:11:11 GMT",
    "Public-Key-Pins": TEXT,
    "Set-Cookie": "a=c",
    "Set-Cookie2": "a=c",
    "X-Frame-Options": "sameorigin",
    "X-XSS-Protection": "1; mode=block",
}
NOT_KEPT = (
    "Keep-Alive",
    "Proxy-Authenticate",
    "Proxy-Authentication-Info",
    "Proxy-Authorization",
    "Proxy-Connection",
    "TE",
    "Upgrade",
)
HEADERS = (
    Case(
        "headers-omit-headers-listed-in-Connection",
        "required",
        (
            Ask((*FRESH, ("Connection", "a, b"), ("a", "1"), ("b", "2"), ("c", "3")), pause=True),
            Ask(expect="stored", want={"c": "3", "a": None, "b": None}),
        ),
    ),
    *(
        Case(
            f"headers-store-{name}",
            "required",
            (
                Ask((DATE, (name, value), *(control("max-age=3600") if name != "Cache-Control" else ())), pause=True),
                Ask(expect="stored", want={name: value}),
            ),
        )
        for name, value in KEPT.items()
    ),
    *(
        Case(
            f"headers-store-{name}",
            "required",
            (
                Ask((DATE, (name, TEXT), *control("max-age=3600")), pause=True),
                Ask(expect="stored", want={name: None}),
            ),
        )
        for name in NOT_KEPT
    ),
)
