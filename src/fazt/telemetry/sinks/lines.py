"""Events in files: JSON lines, and the trips as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from fazt.telemetry.event import Event
from fazt.telemetry.sinks.base import Sink
from fazt.telemetry.sinks.files import LockedFile

MAX_BYTES = 64 * 1024 * 1024
KEEP = 5

CSV_COLUMNS = (
    "ts",
    "request_id",
    "app",
    "service",
    "role",
    "method",
    "url",
    "host",
    "status_code",
    "status",
    "elapsed_ms",
    "ttfb_ms",
    "http_version",
    "bytes_read",
    "bytes_written",
    "error_code",
    "reason",
    "attempt",
    "hop",
    "redirect_target",
    "retry_after",
)
_encode = json.JSONEncoder(separators=(",", ":")).encode
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class _FileSink(Sink):
    def __init__(self, path: Path | str, *, max_bytes: int, keep: int, header: bytes = b"") -> None:
        self._file = LockedFile(Path(path), max_bytes=max_bytes, keep=keep, header=header)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._file.path}>"

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def after_fork(self) -> None:
        """Open the file anew: a lock belongs to the descriptor, and this one is shared with the parent."""
        self._file.close()


class JsonlSink(_FileSink):
    """Appends one JSON object a line; several processes may write to one file. Mode 0600.

    Args:
        path: the file.
        max_bytes: size at which it is moved to `path.1`.
        keep: how many old files stay.
    """

    name = "jsonl"

    def __init__(self, path: Path | str, *, max_bytes: int = MAX_BYTES, keep: int = KEEP) -> None:
        super().__init__(path, max_bytes=max_bytes, keep=keep)

    def emit(self, events: Sequence[Event]) -> None:
        """Append a batch."""
        # ASCII: whatever somebody's text holds, a line stays a line in every reader.
        self._file.write([_encode(event.to_dict()).encode() + b"\n" for event in events])


class CsvSink(_FileSink):
    """Appends one row for every trip to the network, with a head line; as `JsonlSink` in everything else."""

    name = "csv"

    def __init__(self, path: Path | str, *, max_bytes: int = MAX_BYTES, keep: int = KEEP) -> None:
        header = (",".join(CSV_COLUMNS) + "\n").encode()
        super().__init__(path, max_bytes=max_bytes, keep=keep, header=header)

    def emit(self, events: Sequence[Event]) -> None:
        """Append the trips of a batch."""
        rows = [_row(event) for event in events if not event.summary]
        if rows:
            self._file.write(rows)


def _row(event: Event) -> bytes:
    values = event.to_dict()
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([_cell(values[name]) for name in CSV_COLUMNS])
    return out.getvalue().encode("utf-8", "backslashreplace")


def _cell(value: object) -> object:
    if value is None:
        return ""
    # A spreadsheet runs what begins like a formula.
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
