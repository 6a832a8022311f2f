"""Calls and console lines as text and JSON, listed or followed live."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fazt.cli.options import names_of
from fazt.cli.output import print_json, printable, say, sayable, when

if TYPE_CHECKING:
    from fazt.core.record import CallRecord
    from fazt.stores.sqlite.log_rows import LoggedCall, LogLine
    from fazt.stores.sqlite.store import Store

CALL_COLUMNS = ("Time", "App", "Method", "Host", "Path", "Result", "ms", "Bytes", "Cache", "Call")
CALL_RIGHT = (6, 7)
LINE_COLUMNS = ("Time", "App", "Level", "Message", "Request")
POLL_SECONDS = 0.25
_BATCH = 1000
_COLOURS = {"error": "red", "warn": "yellow", "debug": "bright_black"}


def result_of(record: CallRecord) -> str:
    """Return what became of a call in a few words."""
    result = f"{record.code} {record.reason}" if record.code else str(record.status or "-")
    return f"{result} (hop {record.hop})" if record.hop else result


def call_cells(record: CallRecord, names: dict[str, str]) -> list[str]:
    """Return a call as cells of the log's table."""
    port = "" if record.port in (0, 80, 443) else f":{record.port}"
    return [
        when(record.ts),
        names.get(record.app, record.app) or "-",
        printable(record.method) or "-",
        printable(record.host + port) or "-",
        printable(record.path) or "-",
        result_of(record),
        f"{record.duration_ms:.1f}",
        str(record.response_bytes),
        record.cache or "-",
        record.call_id,
    ]


def call_text(record: CallRecord, names: dict[str, str]) -> str:
    """Return a call as one line of a live log."""
    ts, app, method, host, path, result, ms, _, cached, call = call_cells(record, names)
    shown = f"{ts}  {app}  {method} {host}{path if path != '-' else ''}  {result}  {ms} ms"
    text = shown + ("  cache hit" if cached == "hit" else "") + f"  {call}"
    return sayable(text, "red") if record.code else text


def line_dict(line: LogLine) -> dict[str, Any]:
    """Return a console line as JSON shows it."""
    return {
        "ts": line.ts,
        "app": line.app,
        "level": line.level,
        "message": line.message,
        "requestId": line.invocation or None,
    }


def line_cells(line: LogLine, names: dict[str, str]) -> list[str]:
    """Return a console line as cells of a table."""
    app = names.get(line.app, line.app) or "-"
    return [when(line.ts), app, line.level, " ⏎ ".join(line.message.splitlines()), line.invocation or "-"]


def line_text(line: LogLine, names: dict[str, str]) -> str:
    """Return a console line as one line of a live log."""
    ts, app, level, message, request = line_cells(line, names)
    text = f"{ts}  {app}  {level}: {message}" + (f"  {request}" if request != "-" else "")
    colour = _COLOURS.get(level)
    return sayable(text, colour) if colour else text


@dataclass
class Feed:
    """What is listed or followed: which rows, and how they are printed.

    Args:
        store: the data directory.
        app: only rows of this app id; None for all.
        calls, lines: whether to show calls, and console lines.
        call_filter, line_filter: further arguments of the log's queries (`host`, `errors`, `level`, `since`).
    """

    store: Store
    app: str | None = None
    calls: bool = True
    lines: bool = True
    call_filter: dict[str, Any] = field(default_factory=dict)
    line_filter: dict[str, Any] = field(default_factory=dict)

    def newest(self, limit: int) -> list[LoggedCall | LogLine]:
        """Return the newest rows, newest first."""
        log = self.store.log
        found: list[LoggedCall | LogLine] = []
        if self.calls:
            found += log.calls(app=self.app, limit=limit, **self.call_filter)
        if self.lines:
            found += log.lines(app=self.app, limit=limit, **self.line_filter)
        return sorted(found, key=_ts, reverse=True)[:limit]

    def follow(self, limit: int, *, as_json: bool, typed: bool, sleep: Callable[[float], None] = time.sleep) -> None:
        """Print the newest rows, oldest first, and then every new one, until interrupted.

        Args:
            limit: rows of the past to begin with.
            as_json: one object a line.
            typed: whether an object says what it is, because calls and lines are mixed.
            sleep: waits between two looks.
        """
        log = self.store.log
        last_call, last_line = log.newest()
        self._print(self.newest(limit) if limit else [], as_json=as_json, typed=typed, behind=(last_call, last_line))
        while True:
            calls = log.calls(app=self.app, after=last_call, limit=_BATCH, **self.call_filter) if self.calls else []
            lines = log.lines(app=self.app, after=last_line, limit=_BATCH, **self.line_filter) if self.lines else []
            self._print([*calls, *lines], as_json=as_json, typed=typed)
            last_call = max([last_call, *(call.id for call in calls)])
            last_line = max([last_line, *(line.id for line in lines)])
            if len(calls) < _BATCH and len(lines) < _BATCH:
                sleep(POLL_SECONDS)

    def _print(
        self,
        rows: list[LoggedCall | LogLine],
        *,
        as_json: bool,
        typed: bool,
        behind: tuple[int, int] | None = None,
    ) -> None:
        if not rows:
            return
        names = {} if as_json else names_of(self.store)
        for row in sorted(rows, key=_ts):
            if behind is not None and row.id > behind[not _is_call(row)]:
                continue  # it came between the two looks, and the next one shows it
            if as_json:
                print_json(row_dict(row, typed=typed), indent=False)
            else:
                say(row_text(row, names))


def row_dict(row: LoggedCall | LogLine, *, typed: bool) -> dict[str, Any]:
    """Return a row as JSON shows it; with `typed` it says whether it is a call or a line."""
    record: CallRecord | None = getattr(row, "record", None)
    kind = {"type": "line" if record is None else "call"} if typed else {}
    return kind | (line_dict(row) if record is None else record.public())  # type: ignore[arg-type]


def row_text(row: LoggedCall | LogLine, names: dict[str, str]) -> str:
    """Return a row as one line of text."""
    record: CallRecord | None = getattr(row, "record", None)
    return line_text(row, names) if record is None else call_text(record, names)  # type: ignore[arg-type]


def _is_call(row: LoggedCall | LogLine) -> bool:
    return hasattr(row, "record")


def _ts(row: LoggedCall | LogLine) -> float:
    record: CallRecord | None = getattr(row, "record", None)
    return row.ts if record is None else record.ts  # type: ignore[union-attr]
