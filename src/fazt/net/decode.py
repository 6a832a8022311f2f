"""Content decoding in steps (RFC 9110 section 8.4): a body is never unpacked further than its limits allow.

A kilobyte can unpack to a gigabyte, so a library is only asked for the next step of output, and what has come out is
held against the limits before more is asked for.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from fazt.errors import FaztError, Reason
from fazt.net.decode_library import STEP, ZstdReader, brotli_decompressor, zstd_reader

RATIO = 200.0
"""Bytes out per byte in, where the caller sets no other limit; text rarely packs better than 50 to 1."""
RATIO_FLOOR = 1024 * 1024
"""Bytes of output below which the ratio does not count: a short body may well be nothing but spaces."""
MAX_CODINGS = 5
"""Codings applied one after the other."""
_INNER_RATIO = 20.0
"""The same for what is unpacked only to be unpacked again: what was packed before does not pack well."""
_SLICE = 16 * 1024
"""Bytes given to a library at a time; it copies what it leaves over."""
_BROTLI_STEP = 32 * 1024 - 16
"""Bytes of output asked of brotli at a time: one of its blocks, the second would be twice as large."""
_MEMBERS = 1024
"""Members (frames) of one body that may be smaller than a kilobyte; each costs a decompressor."""

_ALIASES = {"x-gzip": "gzip"}  # RFC 9110 section 8.4.1.3: a recipient SHOULD consider them equal
_KNOWN = ("gzip", "deflate", "br", "zstd")
_ENDED_EARLY = "The body of the answer ends before its coding does."


def supported() -> tuple[str, ...]:
    """Return the content codings that can be decoded here, the most common first.

    `br` needs brotli or brotlicffi (1.2 or newer: older ones cannot stop in the middle of a bomb), `zstd` Python's own
    module (3.14), backports.zstd or zstandard.
    """
    here = {"br": brotli_decompressor() is not None, "zstd": zstd_reader() is not None}
    return tuple(name for name in _KNOWN if here.get(name, True))


def accept_encoding() -> str:
    """Return the value of `Accept-Encoding` that asks for what can be decoded."""
    return ", ".join(supported())


def decoder(
    codings: str, *, max_bytes: int | None = None, max_ratio: float | None = RATIO, strict: bool = False
) -> Decoder:
    """Return what decodes a body.

    Args:
        codings: value of `Content-Encoding`: the codings in the order in which they were applied.
        max_bytes: bytes that may come out at most.
        max_ratio: bytes out per byte in, judged once more than `RATIO_FLOOR` have come out; None: any.
        strict: whether a coding that nobody knows refuses the body. Otherwise it and what lies beneath it are handed on
            as they are, as browsers do: servers send `utf-8`, `none` and other things that are no codings.

    Raises:
        FaztError: `decode` for a coding whose library is not installed, and for more than `MAX_CODINGS`.
    """
    names = [name for part in codings.split(",") if (name := part.strip().lower()) and name != "identity"]
    if len(names) > MAX_CODINGS:
        raise FaztError(Reason.DECODE, f"The answer is encoded more than {MAX_CODINGS} times.")
    layers: list[Layer] = []
    for name in reversed(names):
        name = _ALIASES.get(name, name)
        if name not in _KNOWN:
            if strict:
                raise FaztError(Reason.DECODE, "The answer has a content coding that is not known here.")
            break
        layers.append(_LAYERS[name]())
    return Decoder(layers, max_bytes=max_bytes, max_ratio=max_ratio)


class Layer(Protocol):
    """One coding of a body."""

    members: int
    """Members or frames that were begun."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes and yield what comes out, one step after the other."""

    def end(self) -> None:
        """Say that there is no more; refuse if there should be."""


class Decoder:
    """Decodes one body, piece by piece. After an error it stays failed.

    Attributes:
        size: bytes that came out so far.
    """

    __slots__ = ("_error", "_layers", "_max_bytes", "_max_ratio", "_sizes", "_taken")

    def __init__(self, layers: list[Layer], *, max_bytes: int | None, max_ratio: float | None) -> None:
        self._layers = layers
        self._max_bytes = max_bytes
        self._max_ratio = max_ratio
        self._taken = 0
        self._sizes = [0] * max(1, len(layers))
        self._error: FaztError | None = None

    @property
    def size(self) -> int:
        """Bytes that came out so far."""
        return self._sizes[-1]

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Take bytes of the body and yield what they decode to, in steps of about 64 KiB; none of them is empty.

        Each step is only decoded when it is asked for; all have to be before more is given.

        Raises:
            FaztError: `decode` when it is broken, `decoded_body` beyond the limits.
        """
        if self._error is not None:
            raise self._error
        self._taken += len(data)
        stream = iter((data,)) if not self._layers else _slices(data)
        for index in range(len(self._sizes)):
            stream = self._through(index, stream)
        try:
            yield from stream
        except FaztError as error:
            self._error = error
            raise

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the body and return all that they decode to; raises as `pieces`."""
        pieces = list(self.pieces(data))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def finish(self) -> bytes:
        """Say that the body has ended; returns what was held back: nothing, in the codings there are.

        Raises:
            FaztError: `decode` when the body was cut short. One of no bytes at all is whole.
        """
        if self._error is not None:
            raise self._error
        if self._taken:
            for layer in self._layers:
                layer.end()
        return b""

    def _through(self, index: int, stream: Iterator[bytes]) -> Iterator[bytes]:
        layer = self._layers[index] if self._layers else None
        last = index == len(self._sizes) - 1
        for data in stream:
            for piece in layer.feed(data) if layer is not None else (data,):
                if piece:
                    self._count(index, len(piece), last=last)
                    yield piece
            if layer is not None and layer.members > _MEMBERS + self._sizes[index] // 1024:
                raise FaztError(Reason.DECODE, "The body of the answer consists of too many small members.")

    def _count(self, index: int, size: int, *, last: bool) -> None:
        self._sizes[index] = total = self._sizes[index] + size
        limit, ratio = self._max_bytes, self._max_ratio
        if limit is not None and total > (limit if last else 2 * limit + RATIO_FLOOR):
            raise FaztError(Reason.DECODED_BODY, f"The decoded body is larger than {limit} bytes.")
        if ratio is None or total <= RATIO_FLOOR or not self._layers:
            return
        if total > self._taken * (ratio if last else min(ratio, _INNER_RATIO)):
            message = "The body of the answer unpacks to far more than was sent."
            raise FaztError(Reason.DECODED_BODY, message, detail=f"more than {ratio:g} bytes out per byte in")


def _slices(data: bytes) -> Iterator[bytes]:
    if len(data) <= _SLICE:
        return iter((data,))
    return (data[start : start + _SLICE] for start in range(0, len(data), _SLICE))


class Joined:
    """A decoder for whoever expects whole pieces: `decode` and `flush` return bytes (the habit of httpx 0.28)."""

    __slots__ = ("decoder",)

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def decode(self, data: bytes) -> bytes:
        """As `Decoder.feed`."""
        return self.decoder.feed(data)

    def flush(self) -> bytes:
        """As `Decoder.finish`."""
        return self.decoder.finish()


class Stepped:
    """A decoder for whoever takes steps: `decode` and `flush` return iterators (the habit of httpx2)."""

    __slots__ = ("decoder",)

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def decode(self, data: bytes) -> Iterator[bytes]:
        """As `Decoder.pieces`."""
        return self.decoder.pieces(data)

    def flush(self) -> Iterator[bytes]:
        """As `Decoder.finish`."""
        rest = self.decoder.finish()
        return iter((rest,) if rest else ())


# --- the codings


def _broken(coding: str, error: Exception) -> FaztError:
    return FaztError(Reason.DECODE, f"The body of the answer is not valid {coding}.", detail=str(error))


def _inflate(unpack: zlib._Decompress, data: bytes, coding: str) -> Iterator[bytes]:
    """Yield what comes out of this slice of a zlib stream, up to the end of the stream."""
    while True:
        try:
            piece = unpack.decompress(data, STEP)
        except zlib.error as error:
            raise _broken(coding, error) from None
        yield piece
        data = unpack.unconsumed_tail
        if unpack.eof or (not data and len(piece) < STEP):
            return


class _Gzip:
    """RFC 1952: members one after the other. What follows the last and is no member is ignored, as clients do."""

    __slots__ = ("_ended", "_held", "_unpack", "members")

    def __init__(self) -> None:
        self.members = 0
        self._unpack: zlib._Decompress | None = None
        self._held = b""
        self._ended = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data and not self._ended:
            if self._unpack is None:
                data = self._held + data
                if self.members and not b"\x1f\x8b".startswith(data[:2]):
                    self._ended = True
                    return
                if len(data) < 2:
                    self._held = data
                    return
                self._held = b""
                self.members += 1
                self._unpack = zlib.decompressobj(zlib.MAX_WBITS | 16)
            unpack = self._unpack
            yield from _inflate(unpack, data, "gzip")
            data = b""
            if unpack.eof:
                data, self._unpack = unpack.unused_data, None

    def end(self) -> None:
        if self._unpack is not None or (self._held and not self.members):
            raise FaztError(Reason.DECODE, _ENDED_EARLY)


class _Deflate:
    """RFC 9110 section 8.4.1.2: the zlib format (RFC 1950); some send deflate (RFC 1951) without the wrapper."""

    __slots__ = ("_held", "_unpack", "members")

    def __init__(self) -> None:
        self.members = 0
        self._unpack: zlib._Decompress | None = None
        self._held = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._unpack is None:
            data = self._held = self._held + data
            if len(data) < 2:
                return
            # RFC 1950 section 2.2: method 8, window up to 32 KiB, no dictionary, and the two bytes a multiple of 31
            wrapped = data[0] & 0x8F == 8 and not data[1] & 0x20 and (data[0] << 8 | data[1]) % 31 == 0
            self._unpack = zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
            self._held = b""
        if not self._unpack.eof:
            yield from _inflate(self._unpack, data, "deflate")

    def end(self) -> None:
        if self._held and self._unpack is None:  # one byte: an empty stream has two
            self._unpack = zlib.decompressobj(-zlib.MAX_WBITS)
        if self._unpack is not None and not self._unpack.eof:
            raise FaztError(Reason.DECODE, _ENDED_EARLY)


class _Brotli:
    """RFC 7932: one stream, and nothing after it."""

    __slots__ = ("_error", "_unpack", "members")

    def __init__(self) -> None:
        library = brotli_decompressor()
        if library is None:
            message = "The answer is encoded with br, which cannot be decoded here."
            raise FaztError(Reason.DECODE, message, detail="install brotli 1.2 or newer")
        self.members = 0
        self._unpack, self._error = library

    def feed(self, data: bytes) -> Iterator[bytes]:
        unpack = self._unpack
        while True:
            try:
                piece = unpack.process(data, output_buffer_limit=_BROTLI_STEP)
            except self._error as error:
                raise _broken("br", error) from None
            yield piece
            if not piece and unpack.can_accept_more_data():
                return
            data = b""

    def end(self) -> None:
        if not self._unpack.is_finished():
            raise FaztError(Reason.DECODE, _ENDED_EARLY)


class _Zstd:
    """RFC 8878: frames one after the other, windows up to 8 MiB (RFC 9659)."""

    __slots__ = ("_begin", "_error", "_unpack", "members")

    def __init__(self) -> None:
        library = zstd_reader()
        if library is None:
            message = "The answer is encoded with zstd, which cannot be decoded here."
            raise FaztError(Reason.DECODE, message, detail="install backports.zstd")
        self.members = 0
        self._begin: Callable[[], ZstdReader]
        self._begin, self._error = library
        self._unpack: ZstdReader | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._unpack is None:
                self._unpack = self._begin()
                self.members += 1
            unpack = self._unpack
            while True:
                try:
                    piece = unpack.decompress(data, STEP)
                except self._error as error:
                    raise _broken("zstd", error) from None
                yield piece
                data = b""
                if unpack.eof:
                    data, self._unpack = unpack.unused_data, None
                    break
                if unpack.needs_input:
                    break

    def end(self) -> None:
        if self._unpack is not None:
            raise FaztError(Reason.DECODE, _ENDED_EARLY)


_LAYERS: dict[str, Callable[[], Layer]] = {"gzip": _Gzip, "deflate": _Deflate, "br": _Brotli, "zstd": _Zstd}
