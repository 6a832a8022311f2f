"""The bytes of a download on their way into its part: held for a moment, decoded if need be, hashed, written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fazt.client.download_part import PartFile
    from fazt.net.decode import Decoder

BATCH: Final = 1024 * 1024
"""Bytes that are held at most before they are written."""
_MANY: Final = 512
"""Pieces that are written at once at most."""
_LATEST: Final = 1.0
"""Seconds after which what came is written, however little it is."""


class Body:
    """What is written into a part, and the hash of all that is in it.

    Args:
        part: an open part.
        hashed: whether the SHA-256 of the file is wanted.
        clock: monotonic seconds.
        batch: bytes after which `take` asks for a flush.
    """

    __slots__ = ("_clock", "_hash", "_pending", "_waiting", "_written_at", "batch", "decoder", "hashed", "part")

    def __init__(self, part: PartFile, *, hashed: bool, clock: Callable[[], float], batch: int = BATCH) -> None:
        self.part = part
        self.hashed = hashed
        self.decoder: Decoder | None = None
        self.batch = batch
        self._hash: Any = hashlib.sha256() if hashed else None
        self._clock = clock
        self._pending: list[bytes] = []
        self._waiting = 0
        self._written_at = clock()

    def rewind(self) -> None:
        """Make the hash that of the bytes in the part."""
        if self.hashed:
            self._hash = hashlib.sha256()
            self.part.digest(self._hash)

    def take(self, data: bytes) -> bool:
        """Take a piece; tell whether it is time to `flush`."""
        self._pending.append(data)
        self._waiting += len(data)
        return self._waiting >= self.batch or len(self._pending) >= _MANY or self._clock() - self._written_at > _LATEST

    def flush(self) -> None:
        """Write what was taken.

        Raises:
            DownloadError: `file_write`.
            FaztError: `decode`, `decoded_body` of an encoded answer.
        """
        # taken out first: what an interrupt finds here is lost, which is better than written twice
        pieces, self._pending, self._waiting = self._pending, [], 0
        if not pieces:
            return
        if self.decoder is None:
            self._write(pieces)
        else:
            for data in pieces:
                for piece in self.decoder.pieces(data):
                    self._write([piece])
        self._written_at = self._clock()

    def finish(self) -> None:
        """Write the rest; raises as `flush`, and `decode` where an encoded answer broke off."""
        self.flush()
        if self.decoder is not None and (rest := self.decoder.finish()):
            self._write([rest])

    def drop(self) -> None:
        """Forget what was taken and not written."""
        self._pending, self._waiting = [], 0

    @property
    def digest(self) -> str | None:
        """The SHA-256 of all that was written, in hex; None when it is not wanted."""
        return None if self._hash is None else str(self._hash.hexdigest())

    def _write(self, pieces: list[bytes]) -> None:
        if self._hash is not None:
            for piece in pieces:
                self._hash.update(piece)
        self.part.write(pieces)
