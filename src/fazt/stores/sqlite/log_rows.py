"""The shapes of the log's rows, and what is done to foreign text before it becomes one.

Everything in a call record that came from a script, a peer or a URL is escaped and cut here, so that no reader of the
log (a terminal, a page, `grep`) is steered by it.
"""

from __future__ import annotations

import json
import re
import sqlite3
from dataclasses import MISSING, dataclass, fields
from itertools import chain

from fazt.core.call import Hop
from fazt.core.record import Attempt, CallRecord

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

_COLUMNS = (
    "call_id",
    "ts",
    "app",
    "door",
    "method",
    "scheme",
    "host",
    "port",
    "path",
    "status",
    "code",
    "reason",
    "duration_ms",
    "request_bytes",
    "response_bytes",
    "cache",
    "rule_id",
    "revision",
    "address",
    "extra",
)
_INSERT_CALL = f"INSERT INTO calls ({', '.join(_COLUMNS)}) VALUES "  # noqa: S608 - our own names
# Python's sqlite3 takes longer over one None than over ten numbers, so what most calls don't have comes as 0.
_RARE = frozenset({"code", "reason", "extra"})
_ONE_CALL = "(" + ", ".join(["nullif(?, 0)" if name in _RARE else "?" for name in _COLUMNS]) + ")"
_AT_ONCE = (512, 256, 128, 64, 32, 16, 8, 4, 2, 1)
"""How many calls one statement writes: any number of them takes few statements."""
INSERT_LINE = "INSERT INTO lines (ts, app, level, message, invocation) VALUES (?, ?, ?, ?, ?)"

_LONE = re.compile("[\ud800-\udfff]")

_INSERT_CALLS = {size: _INSERT_CALL + ", ".join([_ONE_CALL] * size) for size in _AT_ONCE}

_ATTEMPT = tuple(field.name for field in fields(Attempt))
_ATTEMPT_NEEDED = frozenset(field.name for field in fields(Attempt) if field.default is MISSING)
_ATTEMPT_TEXTS = {"method": NAME_CAP, "host": NAME_CAP, "path": PATH_CAP, "redirect": PATH_CAP}

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
    """Build the row of a record, in the order of the table's columns.

    Runs once for every call, so it only escapes what somebody else wrote; whether SQLite takes the rest is seen when
    it is written (`bindable`).
    """
    method, host, path = record.method, record.host, record.path
    if "?" in path or "#" in path:
        path = _without_query(path)
    foreign = method + host + path
    if len(foreign) > NAME_CAP or not (foreign.isascii() and foreign.isprintable()):
        method, host, path = printable(method, NAME_CAP), printable(host, NAME_CAP), printable(path, PATH_CAP)
    return (
        record.call_id,
        record.ts,
        record.app,
        record.door,
        method,
        record.scheme,
        host,
        record.port,
        path,
        record.status,
        record.code or 0,
        record.reason or 0,
        record.duration_ms,
        record.request_bytes,
        record.response_bytes,
        record.cache,
        record.rule_id,
        record.revision,
        record.address,
        _extra(record) or 0,
    )


def insert_calls(connection: sqlite3.Connection, rows: list[Row]) -> None:
    """Write rows of calls, as `call_row` builds them.

    Many in one statement: other threads may run during each, and one that computes gives the interpreter back after
    5 ms only. One row at a time, a busy process would write 200 calls a second and throw the others away.
    """
    start = 0
    for size in _AT_ONCE:
        while len(rows) - start >= size:
            connection.execute(_INSERT_CALLS[size], list(chain.from_iterable(rows[start : start + size])))
            start += size


def bindable(row: tuple[object, ...]) -> bool:
    """Tell whether SQLite takes every value of a row."""
    return all(map(_bindable, row))


def line_row(line: PendingLine) -> Row:
    """Build the row of a console line, in the order of `INSERT_LINE`."""
    level = line.level if line.level in LEVELS else "info"
    message = _UNSAFE_IN_TEXT.sub(_escaped, line.message[: MESSAGE_CAP + 1])
    if len(message) > MESSAGE_CAP:
        message = message[: MESSAGE_CAP - 1] + "…"
    return float(line.ts), printable(line.app, NAME_CAP), level, message, printable(line.invocation, NAME_CAP)


def logged_call(row: sqlite3.Row) -> LoggedCall:
    """Read a row of `calls`."""
    extra = json.loads(row["extra"]) if row["extra"] is not None else {}
    attempts = [Attempt(**fields) for fields in extra.pop("attempts", ())]
    record = CallRecord(
        **{name: row[name] for name in _COLUMNS[:-1]},
        redirects=[Hop(status, url) for status, url in extra.pop("redirects", ())],
        attempts=attempts or None,
        **extra,
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


def _extra(record: CallRecord) -> str | None:
    """Return the fields that most calls don't have, as JSON; None where there are none."""
    if not (
        record.redirects
        or record.auth
        or record.scrubbed
        or record.address_class
        or record.hop
        or record.detail
        or record.service
        or record.role
        or record.attempts
        or record.waited_ms
        or record.breaker not in ("", "closed")  # the usual state is not worth a text in every row
        or record.error
    ):
        return None
    extra: dict[str, object] = {
        "redirects": [(hop.status, printable(_without_query(hop.url), PATH_CAP)) for hop in record.redirects],
        "auth": record.auth and printable(record.auth, NAME_CAP),
        "scrubbed": record.scrubbed,
        "address_class": record.address_class,
        "hop": record.hop,
        "detail": record.detail and printable(record.detail, DETAIL_CAP),
        "service": record.service and printable(record.service, NAME_CAP),
        "role": record.role and printable(record.role, NAME_CAP),
        "number": record.number if record.attempts else 0,
        "attempts": [_attempt(attempt) for attempt in record.attempts or ()],
        "waited_ms": round(record.waited_ms, 3),
        "breaker": record.breaker and printable(record.breaker, NAME_CAP),
        "error": record.error and printable(record.error, DETAIL_CAP),
    }
    return json.dumps({name: value for name, value in extra.items() if value})


def _attempt(attempt: Attempt) -> dict[str, object]:
    """Return the fields of a trip that say something."""
    values = {name: getattr(attempt, name) for name in _ATTEMPT}
    for name, cap in _ATTEMPT_TEXTS.items():
        values[name] = values[name] and printable(_without_query(values[name]), cap)
    return {name: value for name, value in values.items() if name in _ATTEMPT_NEEDED or value}


def _escaped(match: re.Match[str]) -> str:
    point = ord(match[0])
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}"


def _without_query(text: str) -> str:
    return _QUERY.split(text, maxsplit=1)[0]


def _bindable(value: object) -> bool:
    match value:
        case None:
            return True
        case str():
            return value.isascii() or _LONE.search(value) is None
        case int():
            return -_MOST <= value <= _MOST
        case float():
            return value == value  # SQLite would store NaN as NULL
        case _:
            return False
