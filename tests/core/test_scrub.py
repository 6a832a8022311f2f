"""Echoes of secrets are taken out of bodies, headers and texts (contracts, "Functions"; A.13)."""

from __future__ import annotations

import base64
import json
import pickle
import re
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.core.injection import MARKER, Scrubber

SECRET = "sk_live_4eC39HqLyjWDarjt"
ODD = 'p+s/w=d "x"&<~é>\\!'
MARK = MARKER.decode()


def test_F8_an_echoed_value_is_replaced_and_counted() -> None:
    body, count = Scrubber([SECRET]).scrub(f'{{"auth":"Bearer {SECRET}","again":"{SECRET}"}}'.encode())
    assert body == f'{{"auth":"Bearer {MARK}","again":"{MARK}"}}'.encode()
    assert count == 2


def test_a_body_without_it_is_handed_back_as_it_is() -> None:
    body = b"nothing here"
    assert Scrubber([SECRET]).scrub(body)[0] is body


@pytest.mark.parametrize("value", ["elevenchars", "", "x"])
def test_short_values_are_left_alone(value: str) -> None:
    scrubber = Scrubber([value])
    assert not scrubber
    assert scrubber.scrub(b"elevenchars x") == (b"elevenchars x", 0)
    assert scrubber.stream().feed(b"abc") == b"abc"


def test_twelve_bytes_are_enough() -> None:
    assert Scrubber(["exactlytwelv"]).scrub(b"<exactlytwelv>") == (b"<[redacted]>", 1)


@pytest.mark.parametrize("secret", [SECRET, ODD, "exactlytwelv"])
@pytest.mark.parametrize("before", [b"", b"u", b"us", b"user:", b"some more"])
@pytest.mark.parametrize("after", [b"", b"x", b"xy", b"xyz", b":xyzx"])
@pytest.mark.parametrize("urlsafe", [False, True])
def test_F8_base64_in_every_alignment(secret: str, before: bytes, after: bytes, urlsafe: bool) -> None:
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    text = encode(before + secret.encode() + after)
    for spelled in (text, text.rstrip(b"=")):
        clean, count = Scrubber([secret]).scrub(b'{"x":"' + spelled + b'"}')
        assert count == 1
        left = clean.replace(MARKER, b"")
        # What is left is what stands for the neighbours alone.
        assert len(left) - len(b'{"x":""}') <= 4 * (len(before) + len(after) + 2) // 3
        assert clean.endswith(b'"}')
        if not before and not after:
            assert clean == b'{"x":"[redacted]"}'


@pytest.mark.parametrize("secret", [ODD, "a/b+c=d&e f~g*h"])
def test_F8_url_encoded_in_the_usual_dialects(secret: str) -> None:
    scrubber = Scrubber([secret])
    spelled = {
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        quote(secret, safe="").replace("%20", "+"),
        quote(secret, safe="!'()*~"),  # encodeURIComponent
        quote(secret, safe="!'()*~;,/?:@&=+$#"),  # encodeURI
    }
    spelled |= {"%".join(p if n == 0 else p[:2].lower() + p[2:] for n, p in enumerate(s.split("%"))) for s in spelled}
    for text in spelled:
        assert scrubber.scrub(f"key={text}".encode()) == (b"key=[redacted]", 1), text


def test_F8_json_text() -> None:
    scrubber = Scrubber([ODD])
    for text in (json.dumps(ODD), json.dumps(ODD, ensure_ascii=False), json.dumps(ODD).replace("/", "\\/")):
        assert scrubber.scrub(text.encode()) == (b'"[redacted]"', 1), text


def test_the_value_as_it_went_over_the_wire_is_latin1() -> None:
    secret = "caf\xe9-caf\xe9-caf\xe9"
    scrubber = Scrubber([secret])
    assert scrubber.scrub(secret.encode("latin-1")) == (MARKER, 1)
    assert scrubber.scrub(secret.encode()) == (MARKER, 1)


def test_credentials_behind_a_scheme_count_alone_too() -> None:
    assert Scrubber([f"Token {SECRET}"]).scrub(SECRET.encode()) == (MARKER, 1)


def test_overlapping_values_become_one_marker() -> None:
    scrubber = Scrubber(["abcdefghijklmn", "hijklmnopqrstuv"])
    assert scrubber.scrub(b"<abcdefghijklmnopqrstuv>") == (b"<[redacted]>", 1)
    assert Scrubber(["aaaaaaaaaaaa"]).scrub(b"b" + b"a" * 100 + b"b") == (b"b[redacted]b", 1)


@given(
    st.text("ab", min_size=1, max_size=7),
    st.integers(12, 40),
    st.lists(st.sampled_from(["a", "b", "ab", "c", "SECRET", "HALF"]), max_size=12),
)
def test_a_value_that_repeats_itself_is_found_wherever_it_begins(unit: str, length: int, parts: list[str]) -> None:
    secret = (unit * 40)[:length]
    places = {"SECRET": secret, "HALF": secret[: length // 2 + 1]}
    body = "".join(places.get(part, part) for part in parts)
    starts = [at for at in range(len(body)) if body.startswith(secret, at)]
    covered = {at + offset for at in starts for offset in range(length)}
    wanted = "".join("*" if at in covered else char for at, char in enumerate(body))
    clean, _ = Scrubber([secret]).scrub(body.encode())
    shape = re.sub(r"\*+", MARKER.decode(), wanted)
    assert re.sub(r"(\[redacted\])+", MARKER.decode(), clean.decode()) == shape  # side by side they are as many


def test_a_body_made_of_a_value_that_repeats_itself_costs_no_more_than_another() -> None:
    """It would take minutes if every place at which the value begins were looked at."""
    assert Scrubber(["ab" * 16_000]).scrub(b"ab" * (1 << 19)) == (MARKER, 1)


def test_texts_and_fields() -> None:
    scrubber = Scrubber([SECRET])
    assert scrubber.scrub_text(f"GET /?k={SECRET} 😀") == (f"GET /?k={MARK} 😀", 1)
    fields = (("X-Echo", SECRET), ("X-Plain", "caf\xe9"), ("X-Two", f"{SECRET},{SECRET}"), (SECRET, "n"))
    assert scrubber.scrub_fields(fields) == (
        (("X-Echo", MARK), ("X-Plain", "caf\xe9"), ("X-Two", f"{MARK},{MARK}"), (MARK, "n")),
        4,
    )
    plain = (("A", "b"),)
    assert scrubber.scrub_fields(plain) == (plain, 0)
    assert scrubber.scrub_fields(plain)[0] is plain


def test_a_scrubber_shows_and_stores_nothing() -> None:
    scrubber = Scrubber([SECRET])
    assert SECRET not in repr(scrubber)
    with pytest.raises(TypeError):
        pickle.dumps(scrubber)


def test_the_stream_keeps_back_only_its_reach() -> None:
    scrubber = Scrubber([SECRET])
    stream = scrubber.stream()
    sent = sum(len(stream.feed(b"x" * 1000)) for _ in range(10))
    assert sent == 10_000 - scrubber.reach


def test_the_stream_holds_no_more_while_a_value_repeats() -> None:
    scrubber = Scrubber(["aaaaaaaaaaaa"])
    stream = scrubber.stream()
    out = b"".join(stream.feed(b"a" * 1000) for _ in range(10)) + stream.feed(b"b" * 1000) + stream.finish()
    assert out == MARKER + b"b" * 1000
    assert stream.count == 1


VALUES = ["aaaaaaaaaaaa", "abababababab", "abaabaabaabaab+/", 'quo"te/and sp\xe9ce']
PIECES = st.sampled_from(
    [
        form
        for value in VALUES
        for form in (value.encode(), value.encode("latin-1"), quote(value).encode(), quote_plus(value).encode())
    ]
    + [
        base64.b64encode(b"x" * pad + value.encode() + tail)
        for value in VALUES
        for pad in range(3)
        for tail in (b"", b"y")
    ]
    + [b"a", b"ab", b"=", b"==", b"A", b"\n", b"YWFh", b"%"]
) | st.binary(max_size=6)


@given(
    data=st.lists(PIECES, max_size=12).map(b"".join),
    cuts=st.lists(st.integers(min_value=0, max_value=40), min_size=1, max_size=12),
    drop=st.integers(min_value=0, max_value=8),
)
def test_any_cutting_gives_what_the_whole_gives(data: bytes, cuts: list[int], drop: int) -> None:
    data = data[drop:]
    scrubber = Scrubber(VALUES)
    whole, count = scrubber.scrub(data)
    stream = scrubber.stream()
    out, at, turn = [], 0, 0
    while at < len(data):
        size = cuts[turn % len(cuts)] or 1
        out.append(stream.feed(data[at : at + size]))
        at, turn = at + size, turn + 1
    out.append(stream.finish())
    assert b"".join(out) == whole
    assert stream.count == count
    for value in VALUES:
        assert value.encode() not in whole
