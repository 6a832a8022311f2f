"""The shapes of the log's rows, and what is done to foreign text before it becomes one.

Everything in a call record that came from a script, a peer or a URL is escaped and cut here, so that no reader of the
log (a terminal, a page, `grep`) is steered by it.
"""

from __future__ import annotations

import json
import re
import sqlite3
from dataclasses import dataclass

from fazt.core.call import Hop
from fazt.core.record import CallRecord

PATH_CAP = 2048
MESSAGE_CAP = 8192
DETAIL_CAP = 1024
NAME_CAP = 256
LEVELS = ("debug", "info", "warn", "error")
_MOST = 2**63 - 1
_QUERY = re.compile(r"[?#]")
# Controls, line and paragraph separators, bidirectional overrides, lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_IN_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

INSERT_CALL = (
    "INSERT INTO calls (call_id, ts, app, door, method, scheme, host, port, path, status, code, reason, duration_ms, "
    "request_bytes, response_bytes, cache, redirects, rule_id, revision, auth, scrubbed, address, address_class, hop, "
    "detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
INSERT_LINE = "INSERT INTO lines (ts, app, level, message, invocation) VALUES (?, ?, ?, ?, ?)"

Row = tuple[str | int | float | None, ...]


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """A call record and its place in the log; ids grow with time, so `after=id` asks for newer ones."""

    id: int
    record: CallRecord


@dataclass(frozen=True, slots=True)
class LogLine:
    """One console line of an app. `ts` is seconds since the epoch; `invocation` is the id of the HTTP request."""

    id: int
    ts: float
    app: str
    level: str
    message: str
    invocation: str


class PendingLine:
    """A console line on its way to the log."""

    __slots__ = ("app", "invocation", "level", "message", "ts")

    def __init__(self, app: str, level: str, message: str, ts: float, invocation: str) -> None:
        self.app = app
        self.level = level
        self.message = message
        self.ts = ts
        self.invocation = invocation


def call_row(record: CallRecord) -> Row:
    """Build the row of a record, in the order of `INSERT_CALL`."""
    redirects = [[hop.status, printable(_without_query(hop.url), PATH_CAP)] for hop in record.redirects]
    return (
        printable(record.call_id, NAME_CAP),
        float(record.ts),
        printable(record.app, NAME_CAP),
        printable(record.door, NAME_CAP),
        printable(record.method, NAME_CAP),
        printable(record.scheme, NAME_CAP),
        printable(record.host, NAME_CAP),
        _whole(record.port),
        printable(_without_query(record.path), PATH_CAP),
        None if record.status is None else _whole(record.status),
        _maybe(record.code, NAME_CAP),
        _maybe(record.reason, NAME_CAP),
        float(record.duration_ms),
        _whole(record.request_bytes),
        _whole(record.response_bytes),
        printable(record.cache, NAME_CAP),
        json.dumps(redirects) if redirects else "[]",
        _maybe(record.rule_id, NAME_CAP),
        _whole(record.revision),
        _maybe(record.auth, NAME_CAP),
        _whole(record.scrubbed),
        _maybe(record.address, NAME_CAP),
        _maybe(record.address_class, NAME_CAP),
        None if record.hop is None else _whole(record.hop),
        _maybe(record.detail, DETAIL_CAP),
    )


def line_row(line: PendingLine) -> Row:
    """Build the row of a console line, in the order of `INSERT_LINE`."""
    level = line.level if line.level in LEVELS else "info"
    message = _UNSAFE_IN_TEXT.sub(_escaped, line.message[: MESSAGE_CAP + 1])
    if len(message) > MESSAGE_CAP:
        message = message[: MESSAGE_CAP - 1] + "…"
    return float(line.ts), printable(line.app, NAME_CAP), level, message, printable(line.invocation, NAME_CAP)


def logged_call(row: sqlite3.Row) -> LoggedCall:
    """Read a row of `calls`."""
    record = CallRecord(
        call_id=row["call_id"],
        ts=row["ts"],
        app=row["app"],
        door=row["door"],
        method=row["method"],
        scheme=row["scheme"],
        host=row["host"],
        port=row["port"],
        path=row["path"],
        status=row["status"],
        code=row["code"],
        reason=row["reason"],
        duration_ms=row["duration_ms"],
        request_bytes=row["request_bytes"],
        response_bytes=row["response_bytes"],
        cache=row["cache"],
        redirects=[Hop(status, url) for status, url in json.loads(row["redirects"])],
        rule_id=row["rule_id"],
        revision=row["revision"],
        auth=row["auth"],
        scrubbed=row["scrubbed"],
        address=row["address"],
        address_class=row["address_class"],
        hop=row["hop"],
        detail=row["detail"],
    )
    return LoggedCall(row["id"], record)


def log_line(row: sqlite3.Row) -> LogLine:
    """Read a row of `lines`."""
    return LogLine(row["id"], row["ts"], row["app"], row["level"], row["message"], row["invocation"])


def printable(text: str, cap: int) -> str:
    """Escape what could steer a reader and cut at `cap` characters."""
    if len(text) > cap:
        text = text[: cap - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    escaped = _UNSAFE.sub(_escaped, text)
    return escaped if len(escaped) <= cap else escaped[: cap - 1] + "…"


def _maybe(text: str | None, cap: int) -> str | None:
    return None if text is None else printable(text, cap)


def _escaped(match: re.Match[str]) -> str:
    point = ord(match[0])
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"


def _without_query(text: str) -> str:
    return _QUERY.split(text, maxsplit=1)[0]


def _whole(number: float) -> int:
    return max(-_MOST, min(int(number), _MOST))
