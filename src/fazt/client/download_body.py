"""The bytes of a download on their way into its part: held for a moment, decoded if need be, hashed, written."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from fazt.client.download_part import ALIGNED

if TYPE_CHECKING:
    from fazt.client.download_part import PartFile
    from fazt.net.decode import Decoder

BATCH: Final = 1024 * 1024
"""Bytes that are held at most before they are written."""
_MANY: Final = 512
"""Pieces that are written at once at most."""
_LATEST: Final = 1.0
"""Seconds after which what came is written, however little it is."""
LARGE: Final = 32 * 1024 * 1024
"""Bytes from which on a file is written past the page cache: that takes half the CPU and pushes nothing else out of
memory, and since the file is synced before it has its name, it takes no longer."""


class Body:
    """What is written into a part, and the hash of all that is in it.

    Args:
        part: an open part.
        hashed: whether the SHA-256 of the file is wanted.
        clock: monotonic seconds.
        batch: bytes after which `take` asks for a flush.
    """

    __slots__ = (
        "_buffer",
        "_clock",
        "_filled",
        "_hash",
        "_pending",
        "_start",
        "_waiting",
        "_written_at",
        "batch",
        "decoder",
        "hashed",
        "part",
    )

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
        self._buffer: memoryview | None = None
        """For large files, aligned as the disk wants it; what stands from `_start` to `_filled` is to be written."""
        self._start = self._filled = 0

    def begin(self, missing: int | None) -> None:
        """Prepare for so many bytes (None: nobody knows) behind those that are in the part."""
        self.drop()
        if missing is None or missing < LARGE or self.decoder is not None or not self.part.bypass_cache():
            self._buffer = None
            self.part.use_cache()  # an earlier attempt, with more to come, may have gone past it
            return
        if self._buffer is None:
            self._buffer = memoryview(mmap.mmap(-1, BATCH))
        self._start = self._filled = self.part.size % ALIGNED

    @property
    def room(self) -> memoryview | None:
        """Where the next piece may be put before it is given to `take`; None where pieces are taken as they come."""
        return None if self._buffer is None else self._buffer[self._filled :]

    def rewind(self) -> None:
        """Make the hash that of the bytes in the part."""
        if self.hashed:
            self._hash = hashlib.sha256()
            self.part.digest(self._hash)

    def take(self, data: bytes | memoryview) -> bool:
        """Take a piece, or what of `room` was filled; tell whether it is time to `flush`."""
        if self._buffer is not None:
            if isinstance(data, memoryview):
                self._filled += len(data)
            else:
                self._copy(data)
            return self._filled == BATCH or self._clock() - self._written_at > _LATEST
        self._pending.append(bytes(data))
        self._waiting += len(data)
        return self._waiting >= self.batch or len(self._pending) >= _MANY or self._clock() - self._written_at > _LATEST

    def flush(self) -> None:
        """Write what was taken.

        Raises:
            DownloadError: `file_write`.
            FaztError: `decode`, `decoded_body` of an encoded answer.
        """
        if self._buffer is not None:
            self._flush_buffer(self._buffer)
            return
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

    def flush_all(self) -> None:
        """Write what was taken, also what found no room in the buffer; raises as `flush`."""
        self.flush()
        while self._buffer is not None and self._filled > self._start:
            self.flush()

    def finish(self) -> None:
        """Write the rest; raises as `flush`, and `decode` where an encoded answer broke off."""
        self.flush_all()
        if self.decoder is not None and (rest := self.decoder.finish()):
            self._write([rest])

    def drop(self) -> None:
        """Forget what was taken and not written."""
        self._pending, self._waiting = [], 0
        self._start = self._filled = 0

    def _copy(self, data: bytes) -> None:
        """Put a piece into the buffer, and what finds no room there aside until it is written."""
        assert self._buffer is not None
        room = BATCH - self._filled
        taken = data[:room]
        self._buffer[self._filled : self._filled + len(taken)] = taken
        self._filled += len(taken)
        if len(data) > room:
            self._pending.append(data[room:])

    def _flush_buffer(self, buffer: memoryview) -> None:
        start, end = self._start, self._filled
        aside, self._pending = self._pending, []
        self._start = self._filled = 0
        if end > start:
            view = buffer[start:end]
            if self._hash is not None:
                self._hash.update(view)
            self.part.write_past_cache(view)
        self._start = self._filled = self.part.size % ALIGNED
        for data in aside:
            self._copy(data)
        self._written_at = self._clock()

    @property
    def digest(self) -> str | None:
        """The SHA-256 of all that was written, in hex; None when it is not wanted."""
        return None if self._hash is None else str(self._hash.hexdigest())

    def _write(self, pieces: list[bytes]) -> None:
        if self._hash is not None:
            for piece in pieces:
                self._hash.update(piece)
        self.part.write(pieces)
