"""Events for people: the log and the terminal."""

from __future__ import annotations

import io
import logging

import pytest
from tests.telemetry.sinks import call, trip

from fazt.core.call import Hop
from fazt.telemetry import ConsoleSink, LogSink, events_of


def failed(**fields: object) -> object:
    return call(status=None, code="NET_TIMEOUT", reason="first_byte", **fields)


def test_the_log_has_trips_at_debug_and_failed_calls_at_info(caplog: pytest.LogCaptureFixture) -> None:
    events = events_of(call(0)) + events_of(failed())  # type: ignore[arg-type]
    with caplog.at_level(logging.DEBUG, "fazt.net"):
        LogSink().emit(events)
    assert [record.levelname for record in caplog.records] == ["DEBUG", "DEBUG", "DEBUG", "INFO"]
    assert caplog.records[0].message == "GET https://api.example.com/v1 200 11.0ms c_0000"
    assert caplog.records[3].message.startswith("GET https://api.example.com/v1 timeout 12.3ms NET_TIMEOUT(first_byte)")
    assert caplog.records[3].fazt_event is events[3]  # type: ignore[attr-defined]


def test_a_logger_of_ones_own(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mine"):
        LogSink(logging.getLogger("mine")).emit(events_of(call(0)))
    assert caplog.records == []


def test_the_terminal_shows_a_line_for_every_call() -> None:
    record = call(
        attempts=[trip(), trip(number=2, status=302, redirect="https://b.example/\x1b[2J")],
        redirects=[Hop(302, "https://b.example/x")],
        cache="miss",
    )
    stream = io.StringIO()
    ConsoleSink(stream).emit(events_of(record))
    assert stream.getvalue() == (
        "22:13:20.500Z GET https://api.example.com/v1 200 12.3ms miss retries=1 -> https://b.example/x c_0000\n"
    )
    full = io.StringIO()
    ConsoleSink(full, attempts=True).emit(events_of(record))
    assert len(full.getvalue().splitlines()) == 4
    assert "hop=1 attempt=2 -> https://b.example/\\x1b[2J" in full.getvalue()


def test_a_terminal_that_lacks_a_character_gets_an_escape() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    ConsoleSink(stream).emit(events_of(call(path="/é")))
    assert b"/\\xe9 200" in raw.getvalue()


def test_stderr_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleSink().emit(events_of(call()))
    said = capsys.readouterr()
    assert said.out == "" and "c_0000" in said.err
