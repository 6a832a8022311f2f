"""Going on where a download broke off: only behind bytes of the same version, whatever the server says."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import json
import os
import random
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from fazt.client.download_body import Body
from fazt.client.download_drivers import arun
from fazt.client.download_part import PartFile, open_part, part_name
from fazt.client.download_plan import Plan
from fazt.client.paths import open_destination
from fazt.core.retry import RetryPolicy
from fazt.engine import AsyncEngine
from fazt.errors import Reason
from fazt.net.aio import Wire
from fazt.net.resolve import Resolver
from tests.client.download_site import CONTENT, HOST, KEPT, KINDS, OTHER, Answer, Fetch, Request, Site, names, serving

DIGEST = hashlib.sha256(CONTENT).hexdigest()
CHANGED = CONTENT[::-1]
OLD = formatdate(1_700_000_000, usegmt=True)
PART, SIDECAR = ".f.fazt-part", ".f.fazt-part.json"


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site()) as started:
        yield started


@pytest.fixture(params=[*KINDS, *(f"{kind}, past the cache" for kind in KINDS)])
def fetch(request: pytest.FixtureRequest, site: Site, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    kind, _, past = request.param.partition(", ")
    if past:
        monkeypatch.setattr("fazt.client.download_body.LARGE", 1)
    return Fetch(kind, site.port)


def break_off(site: Site, fetch: Fetch, folder: Path, *, at: int = KEPT, **wishes: Any) -> None:
    """Begin a download that breaks off."""
    site.cuts = [at]
    error = fetch.failing(site.url(), folder / "f", **wishes)
    assert error.kind == "read"
    assert error.kept == at
    assert (folder / PART).read_bytes() == site.content[:at]
    assert names(folder) == [PART, SIDECAR]
    fetch.ledger.rows.clear()
    site.requests.clear()


def test_a_download_goes_on_where_it_broke_off(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    break_off(site, fetch, tmp_path)
    told: list[tuple[int, int | None]] = []
    got = fetch(site.url(), tmp_path / "f", sha256=DIGEST, progress=lambda *at: told.append(at))
    assert got.resumed
    assert (got.status, got.bytes, got.sha256) == (206, len(CONTENT), DIGEST)
    assert got.path.read_bytes() == CONTENT
    assert site.requests[0]["range"] == f"bytes={KEPT}-"
    assert site.requests[0]["if-range"] == '"v1"'
    assert told[0] == (KEPT, len(CONTENT))
    assert names(tmp_path) == ["f"]
    assert [row.response_bytes for row in fetch.ledger.rows] == [len(CONTENT) - KEPT]


def test_last_modified_serves_where_there_is_no_tag(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.etag, site.modified = None, OLD
    break_off(site, fetch, tmp_path)
    got = fetch(site.url(), tmp_path / "f")
    assert got.resumed
    assert site.requests[0]["if-range"] == OLD
    assert got.path.read_bytes() == CONTENT


@pytest.mark.parametrize("etag", [None, 'W/"v1"', "v1", '"a', ""])
def test_without_a_strong_validator_nothing_is_kept(site: Site, fetch: Fetch, tmp_path: Path, etag: str | None) -> None:
    site.etag = etag
    site.modified = OLD if etag is not None else formatdate(usegmt=True)
    site.cuts = [KEPT]
    assert fetch.failing(site.url(), tmp_path / "f").kept == 0
    assert names(tmp_path) == []
    assert not fetch(site.url(), tmp_path / "f").resumed
    assert site.asked == [None, None]


@pytest.mark.parametrize("digest", [None, DIGEST])
def test_a_changed_file_begins_anew(site: Site, fetch: Fetch, tmp_path: Path, digest: str | None) -> None:
    break_off(site, fetch, tmp_path)
    site.content, site.etag = CHANGED, '"v2"'
    wanted = None if digest is None else hashlib.sha256(CHANGED).hexdigest()
    got = fetch(site.url(), tmp_path / "f", sha256=wanted)
    assert not got.resumed
    assert got.status == 200
    assert got.path.read_bytes() == CHANGED
    assert site.asked == [f"bytes={KEPT}-"]
    assert names(tmp_path) == ["f"]


def test_a_server_without_ranges_begins_anew(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    break_off(site, fetch, tmp_path)
    site.ranges = False
    got = fetch(site.url(), tmp_path / "f")
    assert not got.resumed
    assert got.path.read_bytes() == CONTENT


def test_a_server_that_ignores_the_condition_is_found_out(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    break_off(site, fetch, tmp_path)
    site.content, site.etag = CHANGED, '"v2"'

    def ignoring(answer: Answer, request: Request) -> Answer:
        return site.file({**request, "if-range": '"v2"'})

    site.change = ignoring
    got = fetch(site.url(), tmp_path / "f")
    assert got.path.read_bytes() == CHANGED
    assert site.asked == [f"bytes={KEPT}-", None]
    assert len(fetch.ledger.rows) == 2


LAST = len(CONTENT) - 1


@pytest.mark.parametrize(
    "fields",
    [
        {"Content-Range": f"bytes {KEPT - 1}-{LAST}/{len(CONTENT)}"},
        {"Content-Range": f"bytes {KEPT + 1}-{LAST}/{len(CONTENT)}"},
        {"Content-Range": f"bytes {KEPT}-{LAST - 1}/{len(CONTENT)}"},
        {"Content-Range": f"bytes {KEPT}-{LAST}/{len(CONTENT) + 1}"},
        {"Content-Range": f"bytes {KEPT}-{LAST + 1}/{len(CONTENT) + 2}"},
        {"Content-Range": f"items {KEPT}-{LAST}/{len(CONTENT)}"},
        {"Content-Range": f"bytes={KEPT}-{LAST}/{len(CONTENT)}"},
        {"Content-Range": f"bytes {LAST}-{KEPT}/{len(CONTENT)}"},
        {"Content-Range": f"bytes */{len(CONTENT)}"},
        {"Content-Range": "nonsense"},
        {"Content-Range": ""},
        {"ETag": '"v2"'},
        {"ETag": ""},
        {"Content-Encoding": "gzip"},
        {"Content-Type": "multipart/byteranges; boundary=x"},
    ],
    ids=lambda fields: "=".join(next(iter(fields.items()))),
)
def test_a_part_that_does_not_fit_begins_anew(site: Site, fetch: Fetch, tmp_path: Path, fields: dict[str, str]) -> None:
    break_off(site, fetch, tmp_path)

    def wrong(answer: Answer, _request: Request) -> Answer:
        if answer.status != 206:
            return answer
        changed = {name: value for name, value in {**answer.fields, **fields}.items() if value}
        return replace(answer, fields=changed)

    site.change = wrong
    got = fetch(site.url(), tmp_path / "f", sha256=DIGEST if fields == {"ETag": '"v2"'} else None)
    assert not got.resumed
    assert got.path.read_bytes() == CONTENT
    assert site.asked == [f"bytes={KEPT}-", None]
    assert names(tmp_path) == ["f"]


def test_a_part_of_unknown_total_fits_a_file_of_known_length(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    break_off(site, fetch, tmp_path)
    site.change = lambda answer, _: replace(answer, fields={**answer.fields, "Content-Range": f"bytes {KEPT}-{LAST}/*"})
    assert fetch(site.url(), tmp_path / "f").resumed


def test_a_file_that_was_sent_in_chunks_goes_on(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.change = lambda answer, _: replace(answer, chunked=answer.status == 200)
    break_off(site, fetch, tmp_path)
    got = fetch(site.url(), tmp_path / "f")
    assert got.resumed
    assert got.path.read_bytes() == CONTENT


def test_the_whole_file_is_there_but_for_its_name(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    break_off(site, fetch, tmp_path)
    (tmp_path / PART).write_bytes(CONTENT)
    got = fetch(site.url(), tmp_path / "f", sha256=DIGEST)
    assert got.resumed
    assert site.asked == [f"bytes={LAST}-"]  # the last byte once more proves the version
    assert got.path.read_bytes() == CONTENT


@pytest.mark.parametrize("tagged", [True, False])
def test_416_means_complete_only_when_that_is_proved(site: Site, fetch: Fetch, tmp_path: Path, tagged: bool) -> None:
    site.change = lambda answer, _: replace(answer, chunked=answer.status == 200)  # so that no total is known
    break_off(site, fetch, tmp_path)
    (tmp_path / PART).write_bytes(CONTENT)
    if not tagged:

        def untagged(answer: Answer, _request: Request) -> Answer:
            del answer.fields["ETag"]
            return answer

        site.change = untagged
    got = fetch(site.url(), tmp_path / "f")
    assert got.path.read_bytes() == CONTENT
    assert site.asked == ([f"bytes={len(CONTENT)}-"] if tagged else [f"bytes={len(CONTENT)}-", None])
    assert got.resumed is tagged


def test_416_is_complete_when_the_checksum_says_so(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.change = lambda answer, _: replace(answer, chunked=answer.status == 200)
    break_off(site, fetch, tmp_path)
    (tmp_path / PART).write_bytes(CHANGED)
    error = fetch.failing(site.url(), tmp_path / "f", sha256=DIGEST)
    assert error.kind == "checksum"
    assert names(tmp_path) == []  # the next try begins anew
    assert fetch(site.url(), tmp_path / "f", sha256=DIGEST).path.read_bytes() == CONTENT


def test_416_for_a_file_that_shrank_begins_anew(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    break_off(site, fetch, tmp_path)
    site.content = CONTENT[:1000]
    got = fetch(site.url(), tmp_path / "f")
    assert got.path.read_bytes() == CONTENT[:1000]
    assert site.asked == [f"bytes={KEPT}-", None]


@pytest.mark.parametrize("status", [404, 500, 503])
def test_an_error_page_leaves_the_part_for_the_next_try(site: Site, fetch: Fetch, tmp_path: Path, status: int) -> None:
    break_off(site, fetch, tmp_path)
    site.answers = [Answer(status, {}, b"no")]
    error = fetch.failing(site.url(), tmp_path / "f")
    assert (error.kind, error.kept) == ("http", KEPT)
    assert fetch(site.url(), tmp_path / "f", sha256=DIGEST).resumed


def test_a_refused_call_leaves_the_part_too(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    break_off(site, fetch, tmp_path)
    allowed, fetch.policy = fetch.policy, Fetch(fetch.kind, 1).policy
    error = fetch.failing(site.url(), tmp_path / "f")
    assert (error.kind, error.kept) == ("policy", KEPT)
    fetch.policy = allowed
    assert fetch(site.url(), tmp_path / "f").resumed


def test_another_url_does_not_go_on_behind_this_one(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    break_off(site, fetch, tmp_path)
    got = fetch(site.url("/data/file.bin?v=2"), tmp_path / "f")
    assert not got.resumed
    assert site.asked == [None]


def test_a_part_from_another_place_is_no_part_of_this_file(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.answers = [Answer(302, {"Location": site.url("/mirror-a/f?sig=1", OTHER)})]
    site.cuts = [KEPT]
    assert fetch.failing(site.url(), tmp_path / "f").kept == KEPT
    fetch.ledger.rows.clear()
    site.answers = [Answer(302, {"Location": site.url("/mirror-a/f?sig=2", OTHER)})]
    site.cuts = [1000]
    assert fetch.failing(site.url(), tmp_path / "f").kept == KEPT + 1000  # another signature is the same place
    moved = Answer(302, {"Location": site.url("/mirror-b/f", OTHER)})
    site.answers = [moved]
    site.requests.clear()
    got = fetch(site.url(), tmp_path / "f")
    assert not got.resumed
    assert [request.get("range") is None for request in site.requests] == [False, False, True]
    assert got.path.read_bytes() == CONTENT


def test_with_a_checksum_any_mirror_will_do(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.answers = [Answer(302, {"Location": site.url("/mirror-a/f", OTHER)})]
    site.cuts = [KEPT]
    fetch.failing(site.url(), tmp_path / "f")
    site.answers = [Answer(302, {"Location": site.url("/mirror-b/f", OTHER)})]
    assert fetch(site.url(), tmp_path / "f", sha256=DIGEST).resumed


def test_resume_false_keeps_and_uses_nothing(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    break_off(site, fetch, tmp_path)
    site.cuts = [KEPT]
    assert fetch.failing(site.url(), tmp_path / "f", resume=False).kept == 0
    assert names(tmp_path) == []
    assert site.asked == [None]


def test_small_files_are_not_kept(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.content = CONTENT[:60_000]
    site.cuts = [50_000]
    assert fetch.failing(site.url(), tmp_path / "f").kept == 0
    assert names(tmp_path) == []


def test_a_wrong_checksum_of_joined_parts_removes_them(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    break_off(site, fetch, tmp_path)
    (tmp_path / PART).write_bytes(bytes(KEPT))
    error = fetch.failing(site.url(), tmp_path / "f", sha256=DIGEST)
    assert (error.kind, error.status, error.kept) == ("checksum", 206, 0)
    assert names(tmp_path) == []


SPOIL: dict[str, Callable[[Path], object]] = {
    "no sidecar": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "empty": lambda path: path.write_bytes(b""),
    "no JSON": lambda path: path.write_bytes(b"\xff{}"),
    "a list": lambda path: path.write_text("[]"),
    "too deep": lambda path: path.write_text("[" * 16_000),
    "two lines": lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "etag": '"a"\r\nX: y'})),
    "another version": lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99})),
    "more fields": lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "more": 1})),
    "wrong types": lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "total": "9"})),
    "no validator": lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "etag": ""})),
    "a smaller total": lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "total": 10})),
}


@pytest.mark.parametrize("how", SPOIL)
def test_a_sidecar_that_cannot_be_trusted_is_not(site: Site, fetch: Fetch, tmp_path: Path, how: str) -> None:
    break_off(site, fetch, tmp_path)
    SPOIL[how](tmp_path / SIDECAR)
    got = fetch(site.url(), tmp_path / "f")
    assert not got.resumed
    assert site.asked == [None]
    assert got.path.read_bytes() == CONTENT
    assert names(tmp_path) == ["f"]


def test_the_sidecar_holds_no_token_and_is_private(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.cuts = [KEPT]
    fetch.failing(site.url("/f?token=hush"), tmp_path / "f")
    assert "hush" not in (tmp_path / SIDECAR).read_text()
    assert (tmp_path / SIDECAR).stat().st_mode & 0o077 == 0


def test_an_interrupt_leaves_a_part_that_goes_on(site: Site, tmp_path: Path) -> None:
    fetch = Fetch("threads", site.port)

    def stop(done: int, _total: int | None) -> None:
        if done >= KEPT:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(site.url(), tmp_path / "f", progress=stop)
    assert names(tmp_path) == [PART, SIDECAR]
    (record,) = fetch.ledger.rows
    assert record.reason == "aborted"
    assert fetch(site.url(), tmp_path / "f", sha256=DIGEST).resumed


# --- within one download


def test_a_retry_goes_on_by_range(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.cuts = [KEPT, 1000, 2000]
    got = fetch(site.url(), tmp_path / "f", sha256=DIGEST, retry=RetryPolicy(base=0.0))
    assert got.resumed
    assert got.path.read_bytes() == CONTENT
    assert site.asked == [None, f"bytes={KEPT}-", f"bytes={KEPT + 1000}-", f"bytes={KEPT + 3000}-"]
    assert [row.reason for row in fetch.ledger.rows] == [*([fetch.ledger.rows[0].reason] * 3), None]
    assert fetch.ledger.rows[0].code == "NET_ERROR"
    assert names(tmp_path) == ["f"]


def test_retries_end_with_the_policy(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.cuts = [KEPT, 1000, 1000, 1000]
    error = fetch.failing(site.url(), tmp_path / "f", retry=RetryPolicy(base=0.0, attempts=2))
    assert error.kept == KEPT + 1000
    assert len(site.requests) == 2
    assert len(fetch.ledger.rows) == 2


def test_progress_gives_new_attempts(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.content = bytes(5_000_000)
    site.cuts = [1_200_000] * 4
    got = fetch(site.url(), tmp_path / "f", retry=RetryPolicy(base=0.0, attempts=2))
    assert got.bytes == 5_000_000
    assert len(site.requests) == 5


def test_a_retry_without_validators_begins_anew(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.etag = None
    site.cuts = [KEPT]
    got = fetch(site.url(), tmp_path / "f", sha256=DIGEST, retry=RetryPolicy(base=0.0))
    assert not got.resumed
    assert site.asked == [None, None]


@pytest.mark.parametrize("large", [200_000, 100_000])
def test_a_retry_may_take_another_way_to_the_disk(
    site: Site, fetch: Fetch, tmp_path: Path, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First past the cache, then, since less is missing, not any more."""
    monkeypatch.setattr("fazt.client.download_body.BATCH", 20_480)
    monkeypatch.setattr("fazt.client.download_body.LARGE", large)
    site.cuts = [KEPT, 50_001, 3]
    got = fetch(site.url(), tmp_path / "f", sha256=DIGEST, retry=RetryPolicy(base=0.0))
    assert got.resumed
    assert site.asked == [None, f"bytes={KEPT}-", f"bytes={KEPT + 50_001}-", f"bytes={KEPT + 50_004}-"]


def test_a_file_that_changes_between_two_attempts_begins_anew(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    def swap(answer: Answer, _request: Request) -> Answer:
        site.content, site.etag = CHANGED, '"v2"'
        return answer

    site.change = swap
    site.cuts = [KEPT]
    got = fetch(site.url(), tmp_path / "f", sha256=hashlib.sha256(CHANGED).hexdigest(), retry=RetryPolicy(base=0.0))
    assert not got.resumed
    assert got.path.read_bytes() == CHANGED


# --- large files, which go past the page cache


def offsets(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Where and how much is written past the cache from now on."""
    seen: list[tuple[int, int]] = []
    real = PartFile.write_past_cache

    def noting(part: PartFile, view: memoryview) -> None:
        seen.append((part.size, len(view)))
        real(part, view)

    monkeypatch.setattr(PartFile, "write_past_cache", noting)
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_file_goes_past_the_page_cache(
    site: Site, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.content = random.Random(3).randbytes(36_567_891)
    digest = hashlib.sha256(site.content).hexdigest()
    seen = offsets(monkeypatch)
    fetch = Fetch(kind, site.port)
    site.cuts = [1_234_567]
    assert fetch.failing(site.url(), tmp_path / "f").kept == 1_234_567
    got = fetch(site.url(), tmp_path / "f", sha256=digest)
    assert got.resumed
    assert got.path.stat().st_size == len(site.content)
    assert hashlib.sha256(got.path.read_bytes()).hexdigest() == digest
    assert seen[-1][0] + seen[-1][1] == len(site.content)
    assert len(seen) < 100


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("when", ["at once", "on writing"])
def test_a_file_system_that_cannot_do_that_is_written_to_as_usual(
    site: Site, kind: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fazt.client.download_body.LARGE", 1)
    site.content = random.Random(4).randbytes(2_500_001)
    if when == "at once":
        monkeypatch.setattr(os, "O_DIRECT", 0, raising=False)
    else:
        real = os.write

        def picky(fd: int, data: bytes | memoryview) -> int:
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
                raise OSError(errno.EINVAL, "alignment")
            return real(fd, data)

        monkeypatch.setattr(os, "write", picky)
    got = Fetch(kind, site.port)(site.url(), tmp_path / "f")
    assert got.path.read_bytes() == site.content


@pytest.mark.parametrize("hashed", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_pieces_of_any_size_end_up_in_order(
    tmp_path: Path, seed: int, hashed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever came is written after a second, at whatever length it is: what follows is aligned all the same."""
    monkeypatch.setattr("fazt.client.download_body.LARGE", 1)
    draw = random.Random(seed)
    content = draw.randbytes(3_000_000 + seed)
    seen = offsets(monkeypatch)
    destination = open_destination(str(tmp_path / "f"))
    part = open_part(destination, mode=None, resume=False)
    body = Body(part, hashed=hashed, clock=lambda: 0.0)
    head = draw.choice([1, 5000])
    part.write([content[:head]])
    body.rewind()
    body.begin(len(content) - head)
    left = memoryview(content)[head:]
    while left:
        size = min(draw.choice([1, 100, 4096, 65_536, 500_000, 2_000_000]), len(left))
        room = body.room
        assert room is not None
        if draw.random() < 0.5 and len(room):
            size = min(size, len(room))
            room[:size] = left[:size]
            due = body.take(room[:size])
        else:
            due = body.take(bytes(left[:size]))
        left = left[size:]
        if due or draw.random() < 0.2:
            body.flush()
    body.finish()
    if hashed:
        body.rewind()  # reads what was written, through the cache again
    part.commit(overwrite=True)
    destination.close()
    assert (tmp_path / "f").read_bytes() == content
    assert body.digest == (hashlib.sha256(content).hexdigest() if hashed else None)
    assert any(offset % 4096 for offset, _ in seen)


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_write_is_continued(site: Site, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, draw = os.write, random.Random(6)
    monkeypatch.setattr(os, "writev", lambda fd, pieces: real(fd, b"".join(pieces)[: draw.randint(1, 9000)]))
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[: draw.choice([1, 4096, 5000, 1 << 20])]))
    assert Fetch(kind, site.port)(site.url(), tmp_path / "f").path.read_bytes() == CONTENT
    monkeypatch.setattr("fazt.client.download_body.LARGE", 1)
    assert Fetch(kind, site.port)(site.url(), tmp_path / "g").path.read_bytes() == CONTENT


# --- the part itself


def test_a_part_that_is_another_file_too_is_left_alone(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    """As after a kill between link and unlink."""
    (tmp_path / "finished").write_bytes(CONTENT)
    os.link(tmp_path / "finished", tmp_path / PART)
    site.content = CHANGED
    assert fetch(site.url(), tmp_path / "f").path.read_bytes() == CHANGED
    assert (tmp_path / "finished").read_bytes() == CONTENT
    assert names(tmp_path) == ["f", "finished"]


@pytest.mark.parametrize("what", ["link", "dangling", "fifo", "directory"])
def test_what_is_no_part_is_not_written_to(site: Site, fetch: Fetch, tmp_path: Path, what: str) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    path = tmp_path / PART
    match what:
        case "link":
            path.symlink_to(other)
        case "dangling":
            path.symlink_to(tmp_path / "nowhere")
        case "fifo":
            os.mkfifo(path)
        case _:
            path.mkdir()
    error = fetch.failing(site.url(), tmp_path / "f")
    assert (error.kind, error.reason) == ("write", Reason.FILE_WRITE)
    assert other.read_bytes() == b"precious"
    assert names(tmp_path) == sorted([PART, "other"])
    assert site.requests == []


def test_a_part_that_is_taken_away_is_missed(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    def steal(done: int, _total: int | None) -> None:
        if done and (tmp_path / PART).exists():
            (tmp_path / PART).unlink()

    error = fetch.failing(site.url(), tmp_path / "f", progress=steal)
    assert (error.kind, error.reason) == ("rename", Reason.FILE_RENAME)
    assert not (tmp_path / "f").exists()


def test_a_finished_part_is_not_gone_on_with(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    """Many downloads to one file at once: each succeeds or says that another is under way; the file is always whole."""
    outcomes: list[str] = []
    start = threading.Barrier(4)

    def one() -> None:
        mine = Fetch(fetch.kind, site.port)
        start.wait(20)
        for _ in range(5):
            try:
                mine(site.url(), tmp_path / "f", sha256=DIGEST)
                outcomes.append("done")
            except Exception as error:
                outcomes.append(getattr(error, "reason", type(error).__name__))
            if (tmp_path / "f").exists():
                assert (tmp_path / "f").read_bytes() == CONTENT

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(outcomes) == 20
    assert set(outcomes) <= {"done", "file_locked"}
    assert "done" in outcomes
    assert names(tmp_path) == ["f"]


def test_long_names_have_short_parts() -> None:
    assert part_name("a" * 200) == f".{'a' * 200}.fazt-part"
    long = part_name("ä" * 120)
    assert len(os.fsencode(long)) + len(".json") <= 255
    assert long != part_name("ä" * 119 + "b")


def test_a_child_that_was_forked_meanwhile_holds_no_lock(site: Site, tmp_path: Path) -> None:
    fetch = Fetch("threads", site.port)
    site.cuts = [KEPT]
    children: list[tuple[int, int]] = []

    def fork(done: int, _total: int | None) -> None:
        if done and not children:
            ours, theirs = os.pipe()
            pid = os.fork()
            if pid == 0:  # lives on with all that it inherited, until the test is over
                os.close(theirs)
                os.read(ours, 1)
                os._exit(0)
            os.close(ours)
            children.append((pid, theirs))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: forked beside the server's threads
        fetch.failing(site.url(), tmp_path / "f", progress=fork)
    try:
        assert fetch(site.url(), tmp_path / "f", sha256=DIGEST).resumed
    finally:
        for pid, pipe in children:
            os.close(pipe)
            os.waitpid(pid, 0)


def test_a_coroutine_that_is_thrown_away_waits_for_its_thread(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor may be another file's by the time the thread writes."""
    writing, closing = threading.Event(), threading.Event()
    order: list[str] = []
    real_write, real_discard = PartFile.write, PartFile.discard

    def write(part: PartFile, pieces: Sequence[bytes]) -> None:
        with part._guard("write"):
            writing.set()
            assert closing.wait(20)
            real_write(part, pieces)
            order.append("written")

    def discard(part: PartFile) -> None:
        closing.set()
        real_discard(part)
        order.append("closed")

    monkeypatch.setattr(PartFile, "write", write)
    monkeypatch.setattr(PartFile, "discard", discard)
    site.etag = None

    async def main() -> None:
        fetch = Fetch("loop", site.port)
        engine = AsyncEngine(wire=Wire(resolver=Resolver({HOST: ("127.0.0.1",)})), **fetch._common())
        coroutine = arun(engine, Plan(site.url(), tmp_path / "f"), profile=fetch.profile)
        task = asyncio.get_running_loop().create_task(coroutine)
        while not writing.is_set():
            await asyncio.sleep(0)
        coroutine.close()
        with pytest.raises(RuntimeError):
            await task
        await engine.close()

    asyncio.run(main())
    assert order == ["written", "closed"]
    assert names(tmp_path) == []
