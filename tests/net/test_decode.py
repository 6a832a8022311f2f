"""Content decoding: the same bytes as httpx2 says, whatever the pieces, and never more than the limits allow."""

from __future__ import annotations

import gzip
import itertools
import random
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace

import brotli
import httpx
import httpx2
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from fazt.errors import FaztError, Reason
from fazt.net import decode_library
from fazt.net.decode import MAX_CODINGS, RATIO_FLOOR, Decoder, Joined, Stepped, accept_encoding, decoder, supported

MIB = 1024 * 1024
CODINGS = ("gzip", "x-gzip", "deflate", "br", "zstd")


def _raw_deflate(data: bytes) -> bytes:
    pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return pack.compress(data) + pack.flush()


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda data: bytes(brotli.compress(data, quality=5)),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def pack(codings: str, data: bytes) -> bytes:
    for name in codings.split(","):
        data = PACK[name.strip()](data)
    return data


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def unpack(codings: str, pieces: list[bytes], **limits: float | None) -> bytes:
    made = decoder(codings, **{"max_ratio": None, **limits})  # type: ignore[arg-type]
    return b"".join([made.feed(piece) for piece in pieces]) + made.finish()


def refusal(act: Callable[[], object]) -> FaztError:
    with pytest.raises(FaztError) as caught:
        act()
    return caught.value


@pytest.fixture(params=["backports.zstd", "zstandard"])
def zstd_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for other in {"compression.zstd", "backports.zstd", "zstandard"} - {request.param}:
        monkeypatch.setitem(sys.modules, other, None)
    decode_library.zstd_reader.cache_clear()
    yield request.param
    decode_library.zstd_reader.cache_clear()


@pytest.fixture(params=["brotli", "brotlicffi"])
def brotli_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    other = {"brotli": "brotlicffi", "brotlicffi": "brotli"}[request.param]
    monkeypatch.setitem(sys.modules, other, None)
    decode_library._brotli.cache_clear()
    yield request.param
    decode_library._brotli.cache_clear()


# --- what can be decoded


def test_all_that_can_be_decoded_is_asked_for() -> None:
    assert supported() == ("gzip", "deflate", "br", "zstd")
    assert accept_encoding() == "gzip, deflate, br, zstd"


def test_what_has_no_library_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_library, "_module", lambda *names: None)
    for memo in (decode_library._brotli, decode_library.zstd_reader):
        memo.cache_clear()
    try:
        assert accept_encoding() == "gzip, deflate"
        for coding in ("br", "zstd", "gzip, br"):
            refused = refusal(lambda coding=coding: decoder(coding))  # type: ignore[misc]
            assert refused.reason is Reason.DECODE
            assert "install" in str(refused.detail)
    finally:
        for memo in (decode_library._brotli, decode_library.zstd_reader):
            memo.cache_clear()


def test_a_brotli_that_cannot_stop_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(Decompressor=lambda: SimpleNamespace(process=lambda data: b""), error=Exception)
    monkeypatch.setattr(decode_library, "_module", lambda *names: old)
    decode_library._brotli.cache_clear()
    try:
        assert decode_library.brotli_decompressor() is None
    finally:
        decode_library._brotli.cache_clear()


@pytest.mark.parametrize("coding", ["", "identity", " identity ,", ","])
def test_no_coding_leaves_the_body_alone(coding: str) -> None:
    assert unpack(coding, [b"ab", b"", b"c"]) == b"abc"


def test_an_unknown_coding_is_handed_on_or_refused() -> None:
    packed = gzip.compress(b"body")
    assert unpack("utf-8", [packed]) == packed
    assert unpack("none, gzip", [packed]) == b"body"
    assert unpack("gzip, none", [packed]) == packed
    for coding in ("utf-8", "none, gzip", "gzip, none"):
        assert refusal(lambda coding=coding: decoder(coding, strict=True)).reason is Reason.DECODE  # type: ignore[misc]


def test_codings_are_not_stacked_without_end() -> None:
    assert unpack(", ".join(["gzip"] * MAX_CODINGS), [pack(",".join(["gzip"] * MAX_CODINGS), b"x")]) == b"x"
    assert refusal(lambda: decoder(", ".join(["gzip"] * (MAX_CODINGS + 1)))).reason is Reason.DECODE


# --- the same as httpx2


class _Body(httpx2.SyncByteStream):
    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces


def by_httpx2(codings: str, pieces: list[bytes]) -> bytes:
    response = httpx2.Response(200, headers={"content-encoding": codings}, stream=_Body(pieces))
    return response.read()


@settings(max_examples=60, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=4000),
        st.integers(0, 300_000).map(lambda n: b"line of a log 0123\n" * (n // 19)),
        st.integers(0, 2**32).map(lambda seed: random.Random(seed).randbytes(200_000)),
    ),
    codings=st.lists(st.sampled_from(["gzip", "deflate", "br", "zstd"]), min_size=1, max_size=3).map(", ".join),
    size=st.sampled_from([1, 7, 1000, 65536, 10**7]),
)
def test_decodes_as_httpx2_does(data: bytes, codings: str, size: int) -> None:
    packed = pack(codings, data)
    pieces = cut(packed, max(size, len(packed) // 5000))
    assert unpack(codings, pieces) == data == by_httpx2(codings, pieces)


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=300),
    coding=st.sampled_from(["gzip", "deflate", "br", "zstd"]),
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), max_size=2),
    keep=st.integers(0, 500),
    size=st.integers(1, 50),
)
def test_what_is_accepted_is_what_httpx2_decodes(
    data: bytes, coding: str, flips: list[tuple[int, int]], keep: int, size: int
) -> None:
    broken = bytearray(pack(coding, data))
    for place, change in flips:
        broken[place % len(broken)] ^= change
    pieces = cut(bytes(broken[:keep]), size)
    try:
        ours = unpack(coding, pieces)
    except FaztError as error:
        assert error.reason is Reason.DECODE
        return
    # httpx2 takes the first piece of deflate alone to tell whether the wrapper is there
    assert ours == by_httpx2(coding, pieces if coding != "deflate" else [bytes(broken[:keep])])


def test_deflate_with_and_without_its_wrapper() -> None:
    data = random.Random(1).randbytes(1000) * 3
    for packed, size in itertools.product((zlib.compress(data), _raw_deflate(data), zlib.compress(b"")), (1, 3, 10**6)):
        expected = b"" if len(packed) < 20 else data
        assert unpack("deflate", cut(packed, size)) == expected


@pytest.mark.parametrize("size", [1, 2, 5, 10**6])
def test_gzip_of_several_members_and_rubbish_after_it(size: int) -> None:
    members = gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two")
    assert unpack("gzip", cut(members, size)) == b"one two"
    for rubbish in (b"\0" * 512, b"\x1f", b"rubbish" * 9999):
        packed = gzip.compress(b"one") + rubbish
        assert unpack("gzip", cut(packed, max(size, 2))) == b"one" == by_httpx2("gzip", cut(packed, max(size, 2)))
    assert unpack("deflate", cut(zlib.compress(b"one") + b"rubbish", size)) == b"one"


@pytest.mark.parametrize("coding", ["br", "zstd"])
def test_rubbish_after_the_others_is_refused_as_httpx2_does(coding: str) -> None:
    packed = [pack(coding, b"one") + b"rubbish"]
    assert refusal(lambda: unpack(coding, packed)).reason is Reason.DECODE
    with pytest.raises(httpx2.DecodingError):
        by_httpx2(coding, packed)


# --- what is broken


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_that_was_cut_short_is_refused(coding: str) -> None:
    packed = pack(coding, random.Random(2).randbytes(5000))
    for keep in (1, 2, 3, 8, len(packed) // 2, len(packed) - 1):
        assert refusal(lambda keep=keep: unpack(coding, [packed[:keep]])).reason is Reason.DECODE  # type: ignore[misc]


@pytest.mark.parametrize("coding", [*CODINGS, "gzip, br", "zstd, deflate"])
def test_a_body_of_nothing_is_whole(coding: str) -> None:
    assert unpack(coding, []) == unpack(coding, [b""]) == b""


@pytest.mark.parametrize("coding", CODINGS)
def test_rubbish_is_refused_and_the_decoder_stays_so(coding: str) -> None:
    made = decoder(coding)
    first = refusal(lambda: made.feed(b"this is nothing that was ever encoded") + made.finish())
    assert first.reason is Reason.DECODE
    assert first.detail or first.message
    assert refusal(lambda: made.feed(pack(coding, b"good"))).reason is Reason.DECODE
    assert refusal(made.finish).reason is Reason.DECODE


def test_a_sum_that_does_not_fit_is_refused() -> None:
    packed = bytearray(gzip.compress(b"x" * 100))
    packed[-8] ^= 1
    assert refusal(lambda: unpack("gzip", [bytes(packed)])).reason is Reason.DECODE


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_a_body_of_endless_empty_members_is_refused(coding: str) -> None:
    body = pack(coding, b"") * 5000
    assert refusal(lambda: unpack(coding, [body])).reason is Reason.DECODE
    assert unpack(coding, [pack(coding, b"x" * 2000) * 3000]) == b"x" * 6_000_000


# --- bombs


def _zeros(coding: str, size: int) -> bytes:
    step = bytes(MIB)
    if coding == "br":
        made = brotli.Compressor(quality=9)
        return b"".join([made.process(step) for _ in range(size // MIB)]) + bytes(made.finish())
    if coding == "zstd":
        packer = zstandard.ZstdCompressor(level=9).compressobj(size=size)
        return b"".join([packer.compress(step) for _ in range(size // MIB)]) + bytes(packer.flush())
    wbits = {"gzip": 31, "x-gzip": 31, "deflate": 15, "raw": -15}[coding]
    deflate = zlib.compressobj(9, zlib.DEFLATED, wbits)
    return b"".join([deflate.compress(step) for _ in range(size // MIB)]) + deflate.flush()


@pytest.fixture(scope="module")
def bombs() -> dict[str, bytes]:
    return {coding: _zeros(coding, 256 * MIB) for coding in ("gzip", "deflate", "raw", "br", "zstd")}


def peak_of(act: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw", "br", "zstd"])
def test_a_bomb_costs_no_more_than_its_limit(coding: str, bombs: dict[str, bytes]) -> None:
    made = decoder({"raw": "deflate"}.get(coding, coding), max_bytes=MIB, max_ratio=None)
    caught: list[FaztError] = []
    peak = peak_of(lambda: caught.append(refusal(lambda: made.feed(bombs[coding]))))
    assert caught[0].reason is Reason.DECODED_BODY
    assert peak < MIB + 320 * 1024  # a step of 64 KiB, the library's own state, and what Python's zlib over-allocates
    assert MIB < made.size <= MIB + 128 * 1024


def test_a_bomb_costs_no_more_by_any_library(bombs: dict[str, bytes], zstd_library: str, brotli_library: str) -> None:
    for coding in ("br", "zstd"):
        made = decoder(coding, max_bytes=MIB, max_ratio=None)
        assert refusal(lambda made=made, coding=coding: made.feed(bombs[coding])).reason is Reason.DECODED_BODY  # type: ignore[misc]
        assert made.size <= MIB + 128 * 1024
        assert sum(map(len, decoder(coding, max_ratio=None).pieces(bombs[coding]))) == 256 * MIB


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_bomb_has_a_limit_also_where_none_was_set(coding: str, bombs: dict[str, bytes]) -> None:
    made = decoder(coding)
    assert refusal(lambda: made.feed(bombs[coding])).reason is Reason.DECODED_BODY
    assert made.size <= max(RATIO_FLOOR, 200 * len(bombs[coding])) + 128 * 1024


@pytest.mark.parametrize("inner", ["gzip", "br", "zstd"])
@pytest.mark.parametrize("outer", ["gzip", "br", "zstd"])
def test_a_bomb_inside_a_bomb(inner: str, outer: str, bombs: dict[str, bytes]) -> None:
    body = pack(outer, bombs[inner])
    made = decoder(f"{inner}, {outer}", max_bytes=MIB, max_ratio=None)
    assert refusal(lambda: made.feed(body)).reason is Reason.DECODED_BODY
    assert made.size <= MIB + 128 * 1024
    assert refusal(lambda: decoder(f"{inner}, {outer}").feed(body)).reason is Reason.DECODED_BODY


def test_a_bomb_whose_inside_comes_to_nothing() -> None:
    nothing = _zeros("gzip", 64 * MIB)  # 64 MiB of zeros, which as gzip is rubbish that is never reached
    made = decoder("gzip, gzip", max_ratio=None, max_bytes=MIB)
    assert refusal(lambda: made.feed(nothing)).reason is Reason.DECODE
    members = gzip.compress(gzip.compress(b"") * 100_000)
    assert refusal(lambda: unpack("gzip, gzip", [members])).reason is Reason.DECODE
    assert made.size == 0


def test_a_short_body_of_one_letter_is_no_bomb() -> None:
    for coding in CODINGS:
        assert unpack(coding, [pack(coding, b" " * RATIO_FLOOR)], max_ratio=2.0) == b" " * RATIO_FLOOR
        over = pack(coding, b" " * (RATIO_FLOOR + 1))
        assert refusal(lambda c=coding, o=over: unpack(c, [o], max_ratio=2.0)).reason is Reason.DECODED_BODY  # type: ignore[misc]


def test_the_limit_itself_is_allowed() -> None:
    for coding in ("", *CODINGS):
        packed = pack(coding, b"x" * 1000) if coding else b"x" * 1000
        assert len(unpack(coding, [packed], max_bytes=1000)) == 1000
        refused = refusal(lambda c=coding, p=packed: unpack(c, [p], max_bytes=999))  # type: ignore[misc]
        assert refused.reason is Reason.DECODED_BODY
        assert "999" in refused.message


def test_a_window_beyond_8_mib_is_refused(zstd_library: str) -> None:
    def packed(window: int) -> bytes:
        settings = zstandard.ZstdCompressionParameters(window_log=window)
        made = zstandard.ZstdCompressor(compression_params=settings).compressobj()
        return bytes(made.compress(b"x" * 100) + made.flush())

    assert unpack("zstd", [packed(23)]) == b"x" * 100
    assert refusal(lambda: unpack("zstd", [packed(24)])).reason is Reason.DECODE


# --- both libraries of each coding


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 10**7])
def test_zstd_by_either_library(zstd_library: str, size: int) -> None:
    rng = random.Random(3)
    made = zstandard.ZstdCompressor(write_checksum=True)
    plain = zstandard.ZstdCompressor(write_content_size=False)
    skip = b"\x52\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    parts = [rng.randbytes(300), b"abc" * 50_000, b"", b"\0" * 400_000, rng.randbytes(70_000)]
    if size < 1000:
        parts = [part[:3000] for part in parts]
    body = skip + b"".join(made.compress(part) + plain.compress(part) for part in parts) + skip
    pieces = cut(body, size)
    whole = b"".join(part + part for part in parts)
    assert unpack("zstd", pieces) == whole
    assert refusal(lambda: unpack("zstd", cut(body[:-1], size))).reason is Reason.DECODE
    assert refusal(lambda: unpack("zstd", cut(body + b"\x28", size))).reason is Reason.DECODE
    damaged = bytearray(made.compress(b"some text"))
    damaged[-1] ^= 1
    assert refusal(lambda: unpack("zstd", cut(bytes(damaged), size))).reason is Reason.DECODE


@pytest.mark.parametrize("size", [1, 1000, 10**7])
def test_brotli_by_either_library(brotli_library: str, size: int) -> None:
    module: ModuleType | None = decode_library._brotli()
    assert module is not None
    assert module.__name__ == brotli_library
    data = random.Random(4).randbytes(20_000) + b"abc" * (10_000 if size == 1 else 100_000)
    packed = pack("br", data)
    assert unpack("br", cut(packed, size)) == data
    assert refusal(lambda: unpack("br", cut(packed[:-1], size))).reason is Reason.DECODE


# --- the habits of httpx and httpx2


class _OldBody(httpx.SyncByteStream):
    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "gzip, br", "deflate"])
def test_stands_in_for_the_decoders_of_both_families(coding: str) -> None:
    data = b"some text, " * 100_000
    pieces = cut(pack(coding, data), 1000)
    new = httpx2.Response(200, headers={"content-encoding": coding}, stream=_Body(pieces))
    new._decoder = Stepped(decoder(coding, max_ratio=None))  # type: ignore[assignment]
    assert max(map(len, new.iter_bytes())) <= 128 * 1024
    old = httpx.Response(200, headers={"content-encoding": coding}, stream=_OldBody(pieces))
    old._decoder = Joined(decoder(coding, max_ratio=None))  # type: ignore[assignment]
    assert old.read() == data
    again = httpx2.Response(200, headers={"content-encoding": coding}, stream=_Body(pieces))
    again._decoder = Stepped(decoder(coding, max_bytes=1000))  # type: ignore[assignment]
    assert refusal(again.read).reason is Reason.DECODED_BODY


def test_steps_come_one_by_one() -> None:
    made: Decoder = decoder("gzip", max_ratio=None)
    steps = made.pieces(_zeros("gzip", 8 * MIB))
    assert len(next(steps)) == made.size == 64 * 1024
    next(steps)
    assert made.size == 128 * 1024
