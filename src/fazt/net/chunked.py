"""The chunked transfer coding, decoded without I/O (RFC 9112 section 7.1).

Not left to llhttp, which neither limits chunk extensions nor tells where exactly a message ended.
"""

from __future__ import annotations

MAX_EXTENSIONS = 16 * 1024
"""Bytes of chunk extensions in one body; they carry nothing that we use."""

MAX_FRAMING = 256 * 1024
"""Bytes of chunk lines in one body beyond a quarter of what they carry: each chunk, however small, costs a few µs."""

_MAX_SIZE_DIGITS = 15
_MAX_LINE = _MAX_SIZE_DIGITS + 2 + MAX_EXTENSIONS
_HEX = b"0123456789abcdefABCDEF"
_TEXT = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))


class ChunkedBody:
    """Decodes one chunked body, strictly: exact CRLFs, hexadecimal sizes without signs or spaces."""

    __slots__ = ("_extensions", "_left", "_spare", "_tail")

    def __init__(self) -> None:
        self._tail = b""
        # bytes of the chunk still to come with the two of its CRLF; 0 between chunks
        self._left = 0
        self._extensions = 0
        self._spare = MAX_FRAMING

    def feed(self, data: bytes, into: list[bytes]) -> bytes | None:
        """Append decoded pieces to `into`; return what follows the last chunk's line once that came, else None.

        Raises:
            ValueError: the coding is broken, its extensions are too long, or its chunks too small.
        """
        if self._tail:
            data, self._tail = self._tail + data, b""
        pos, end = 0, len(data)
        while pos < end:
            left = self._left
            if left:
                stop = pos + left - 2
                if end < stop + 2:
                    self._part(data, pos, stop=stop, into=into)
                    return None
                into.append(data[pos:stop])
                pos = stop + 2
                if data[stop:pos] != b"\r\n":
                    raise ValueError("chunk data does not end with CRLF")
                self._left = 0
            stop = data.find(b"\n", pos)
            if stop < 0:
                self._tail = data[pos:]
                if len(self._tail) > _MAX_LINE:
                    raise ValueError("chunk extensions too long")
                return None
            size = self._size(data[pos : stop + 1])
            pos = stop + 1
            if size == 0:
                return data[pos:]
            self._left = size + 2
        return None

    def _part(self, data: bytes, pos: int, *, stop: int, into: list[bytes]) -> None:
        """Take an unfinished chunk; a lone CR of its end waits in the tail."""
        piece = data[pos:stop]  # no copy where it is all of it
        if piece:
            into.append(piece)
        self._left -= len(piece)
        self._tail = data[stop:] if len(data) > stop else b""
        if self._tail and self._tail != b"\r":
            raise ValueError("chunk data does not end with CRLF")

    def _size(self, line: bytes) -> int:
        if not line.endswith(b"\r\n"):
            raise ValueError("chunk size does not end with CRLF")
        digits, mark, extension = line[:-2].partition(b";")
        if mark:
            self._extensions += len(extension) + 1
            if self._extensions > MAX_EXTENSIONS:
                raise ValueError("chunk extensions too long")
            if extension.translate(None, _TEXT):
                raise ValueError("control character in a chunk extension")
            digits = digits.rstrip(b" \t")  # RFC 9112 section 7.1.1: bad whitespace before ";" is to be removed
        if not digits or len(digits) > _MAX_SIZE_DIGITS or digits.translate(None, _HEX):
            raise ValueError("chunk size is not a hexadecimal number")
        size = int(digits, 16)
        self._spare -= len(line) + 2 - (size >> 2)
        if self._spare < 0:
            raise ValueError("the chunks are too small")
        return size
