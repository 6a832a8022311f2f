"""A secret's value appears in nothing that a command prints and in no file it leaves, whatever goes wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from urllib.parse import quote

from tests.cli.conftest import Fazt
from tests.cli.upstream import Upstream

CANARY = "sk_live/canary+value=0123456789"
OTHER = "second-canary-abcdefghijk"


def forms(value: str) -> Iterator[bytes]:
    """Yield a value as it is and in the forms that programs turn it into."""
    raw = value.encode()
    yield raw
    yield raw.hex().encode()
    yield quote(value, safe="").encode()
    yield json.dumps(value)[1:-1].encode()
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + raw)
        inner = coded[4 if shift else 0 : -4]  # what does not depend on the neighbours
        yield inner
        yield inner.replace(b"+", b"-").replace(b"/", b"_")
    yield raw[:16]
    yield raw[-12:]


def leaks(fazt: Fazt) -> list[str]:
    found = []
    for value in (CANARY, OTHER):
        for form in forms(value):
            found += [f"printed: {text[:200]}" for text in fazt.seen if form.decode() in text]
            found += [f"file {name}" for name, body in fazt.files().items() if form in body]
    return found


def test_the_canary_itself_would_be_found(fazt: Fazt) -> None:
    fazt("env", "set", "A", CANARY, "--app", "shop")
    fazt("env", "list", "--app", "shop")
    assert any(leak.startswith("printed") for leak in leaks(fazt))
    assert any(leak.startswith("file") for leak in leaks(fazt))


def test_F30d_no_command_shows_or_leaves_a_value(fazt: Fazt, upstream: Upstream) -> None:
    secret, given = CANARY.encode(), ("--domain", "api.test")
    fazt("net", "allow", upstream.url(""), "--address", "127.0.0.1/32")
    fazt("net", "allow", upstream.url("", "other.test"), "--address", "127.0.0.1/32", "--method", "GET")
    fazt("net", "allow", "https://api.test:1", "--address", "127.0.0.1/32")

    # stored, in every way
    fazt("secret", "set", "BEARER", *given, stdin=secret)
    fazt("secret", "set", "HEADER", CANARY, *given, "--as", "header", "--key", "X-Key")
    fazt("secret", "set", "QUERY", "-", *given, "--as", "query", "--key", "key", stdin=secret + b"\n")
    fazt("secret", "set", "OWN", "--app", "shop", *given, "--json", stdin=OTHER.encode())
    fazt("secret", "import", *given, stdin=f"ONE={CANARY}\nTWO='{OTHER}'\n".encode())
    fazt("secret", "import", *given, "--json", stdin=json.dumps({"THREE": CANARY}).encode())

    # mistyped
    for args in (
        ("KEY", CANARY, "more", *given),
        ("KEY", "more", CANARY, OTHER, *given),
        ("KEY", f"--{CANARY}", *given),
        ("KEY", f"-{CANARY}", *given),
        (CANARY, *given),
        (f"KEY={CANARY}", *given),
        (f"{CANARY} ", *given),
        ("KEY", "--as", CANARY, *given),
        ("KEY", CANARY),
        ("KEY", CANARY, "--domain", "10.0.0.1"),
        ("KEY", CANARY, *given, "--key", "X"),
        ("KEY", f"{CANARY}\n", *given),
    ):
        fazt("secret", "set", *args, "--json", stdin=secret, expect=1)  # says it on stderr as text too
    for text in (
        f"ONE={CANARY}\n{CANARY}\n",
        f"ONE={CANARY} # {OTHER}",
        f"ONE='{CANARY}",
        f"{CANARY}=1",
        f'{{"ONE": "{CANARY}"',
        f'{{"{CANARY}": "x"}}',
        f'{{"ONE": ["{CANARY}"]}}',
        f"ONE={CANARY}\nTWO=\x01{OTHER}",
    ):
        fazt("secret", "import", *given, "--json", stdin=text.encode(), expect=1)
    fazt("secret", "import", CANARY, *given, expect=1)
    fazt("secret", "remove", CANARY, expect=1)
    fazt("fetch", upstream.url(), "-H", CANARY, expect=1)

    # sent, echoed, redirected, refused, failed
    for name in ("BEARER", "HEADER", "QUERY"):
        fazt("fetch", upstream.url("/echo"), "--auth", name, "-i")
        fazt("fetch", upstream.url("/status/500"), "--auth", name)
        fazt("fetch", upstream.url(f"/to?url={upstream.url('/echo')}"), "--auth", name, "--json")
        fazt("fetch", upstream.url(f"/to?url={upstream.url('/echo', 'other.test')}"), "--auth", name)
        fazt("fetch", upstream.url("/echo", "other.test"), "--auth", name, "--json", expect=2)
        fazt("fetch", upstream.url("/echo"), "--auth", name, "--timeout", "1", expect=None)
        fazt("fetch", "https://api.test:1/", "--auth", name, "--json", expect=2)
    assert any(CANARY in str(seen) for seen in upstream.requests)
    fazt("fetch", f"https://u:{OTHER}@api.test/", "--json", expect=2)
    fazt("fetch", f"https://elsewhere.test/?token={OTHER}", "-H", f"authorization: Bearer {OTHER}", expect=2)

    # looked at
    for listing in (
        ("secret", "list"),
        ("net", "list"),
        ("net", "logs"),
        ("net", "stats"),
        ("log",),
        ("app", "info", "shop"),
        ("limits", "show"),
    ):
        fazt(*listing)
        fazt(*listing, "--json")
    for number, row in enumerate(fazt.json("net", "logs")):
        fazt("explain", row["callId"], *(("--json",) if number % 2 else ()), expect=None)
    fazt("secret", "rekey")
    fazt("secret", "remove", "BEARER")

    assert leaks(fazt) == []
    names = {info["name"] for info in fazt.json("secret", "list")}
    assert names == {"HEADER", "QUERY", "OWN", "ONE", "TWO", "THREE"}
