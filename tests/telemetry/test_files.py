"""Events in files: whole lines, whoever writes; rotation; private; nothing torn."""

from __future__ import annotations

import csv
import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.telemetry.sinks import call, trip

from fazt.core.call import Hop
from fazt.errors import ConfigError, StoreError
from fazt.telemetry import CsvSink, Event, JsonlSink, events_of

ROOT = Path(__file__).parents[2]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def files(folder: Path, name: str = "net.jsonl") -> list[Path]:
    return sorted(folder.glob(f"{name}*"))


def test_R87_one_record_a_line_readable_by_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "net.jsonl"
    sink = JsonlSink(path)
    events = events_of(call(0)) + events_of(call(1, path="/\u2028\nx"))
    sink.emit(events)
    sink.close()
    assert lines(path) == [event.to_dict() for event in events]
    assert path.read_bytes().count(b"\n") == len(events)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_would_grow_too_long_is_moved_away(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "net.jsonl", max_bytes=2048, keep=2)
    for n in range(12):
        sink.emit(events_of(call(n)))
    sink.close()
    found = files(tmp_path)
    assert [path.name for path in found] == ["net.jsonl", "net.jsonl.1", "net.jsonl.2"]
    assert all(path.stat().st_size <= 2048 for path in found)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in found)
    newest = [entry["request_id"] for path in reversed(found) for entry in lines(path)]
    assert newest == sorted(newest) and newest[-1] == "c_0011"


def test_no_old_file_is_kept_when_none_is_wanted(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "net.jsonl", max_bytes=1024, keep=0)
    for n in range(9):
        sink.emit(events_of(call(n)))
    sink.close()
    assert [path.name for path in files(tmp_path)] == ["net.jsonl"]


def test_a_line_longer_than_a_file_may_be_is_written_all_the_same(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "net.jsonl", max_bytes=1024, keep=5)
    sink.emit([*events_of(call(0))[:1], Event(1.0, url="x" * 5000), *events_of(call(1))[:1]])
    sink.close()
    assert [len(lines(path)) for path in files(tmp_path)] == [1, 1, 1]


WRITER = """
import sys
from tests.telemetry.sinks import call
from fazt.telemetry import JsonlSink, events_of
path, who = sys.argv[1], int(sys.argv[2])
sink = JsonlSink(path, max_bytes=64 * 1024, keep=100)
sys.stdin.read()
for n in range(100):
    sink.emit([event for m in range(3) for event in events_of(call(who * 1000 + n * 3 + m))])
"""


def test_R87_several_processes_write_at_once_and_rotate(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "net.jsonl"), str(who)],
            stdin=subprocess.PIPE,
            env=env,
            cwd=ROOT,
        )
        for who in range(4)
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()  # all begin together
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    found = files(tmp_path)
    assert len(found) > 5
    assert all(path.stat().st_size <= 64 * 1024 for path in found)
    told = sorted(str(entry["request_id"]) for path in found for entry in lines(path))
    assert told == sorted(2 * [f"c_{who * 1000 + n:04d}" for who in range(4) for n in range(300)])


def test_half_a_line_of_a_killed_writer_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "net.jsonl"
    path.write_bytes(b'{"ts":"2026')
    sink = JsonlSink(path)
    sink.emit(events_of(call()))
    sink.close()
    first, *rest = path.read_text().splitlines()
    assert first == '{"ts":"2026' and [json.loads(line)["request_id"] for line in rest] == ["c_0000", "c_0000"]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.jsonl"
    sink = JsonlSink(path)
    sink.emit(events_of(call(0)))
    before = path.read_bytes()
    really = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 50:
            return really(descriptor, bytes(data)[:50])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        sink.emit(events_of(call(1))[:1])
    monkeypatch.undo()
    assert path.read_bytes() == before
    sink.emit(events_of(call(2)))
    sink.close()
    assert [entry["request_id"] for entry in lines(path)] == ["c_0000", "c_0000", "c_0002", "c_0002"]


def test_a_file_that_somebody_moves_or_removes_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "net.jsonl"
    sink = JsonlSink(path)
    sink.emit(events_of(call(0)))
    path.rename(tmp_path / "elsewhere")
    sink.emit(events_of(call(1)))
    assert [entry["request_id"] for entry in lines(path)] == ["c_0001", "c_0001"]
    path.unlink()
    sink.emit(events_of(call(2)))
    sink.close()
    assert len(lines(path)) == 2


def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(StoreError, match="not a regular file"):
        JsonlSink(tmp_path / "pipe").emit(events_of(call()))
    with pytest.raises(OSError, match="symbolic links"):
        JsonlSink(tmp_path / "link").emit(events_of(call()))
    assert not (tmp_path / "target").exists()
    for wrong in ({"max_bytes": 10}, {"keep": -1}):
        with pytest.raises(ConfigError):
            JsonlSink(tmp_path / "x", **wrong)


def test_csv_has_one_row_for_every_trip_and_runs_no_formula(tmp_path: Path) -> None:
    path = tmp_path / "attempts.csv"
    sink = CsvSink(path)
    record = call(
        method="-SUM",
        attempts=[trip(status=302, redirect="https://b.example/")],
        redirects=[Hop(302, "https://b.example/")],
        service='a,"b"\nc',
    )
    sink.emit(events_of(record))
    sink.emit(events_of(call(1, attempt_ts=None)))
    sink.close()
    with path.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["status"], first["redirect_target"], second["hop"]) == ("redirect", "https://b.example/", "2")
    assert second["method"] == "'-SUM" and second["service"] == 'a,"b"\nc'
    assert second["redirect_target"] == "" and second["elapsed_ms"] == "11.0"


def test_every_csv_file_begins_with_the_head_line(tmp_path: Path) -> None:
    sink = CsvSink(tmp_path / "a.csv", max_bytes=1024, keep=9)
    for n in range(12):
        sink.emit(events_of(call(n)))
    sink.close()
    found = files(tmp_path, "a.csv")
    assert len(found) > 2
    assert all(path.read_text().startswith("ts,request_id,") and path.stat().st_size <= 1024 for path in found)
    assert sum(len(path.read_text().splitlines()) - 1 for path in found) == 12
