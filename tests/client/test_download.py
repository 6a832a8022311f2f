"""Downloads: the whole file, verified, in its place at once, or an error that says why and nothing left behind."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fazt.client.download_error import DownloadError
from fazt.client.download_pace import Pacer
from fazt.core.retry import RetryPolicy
from fazt.errors import Code, FaztError, Reason
from tests.client.download_site import CONTENT, HOST, KEPT, KINDS, OTHER, Answer, Fetch, Site, names, serving
from tests.net.origin import authority, server_context

DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site()) as started:
        yield started


@pytest.fixture(params=KINDS)
def fetch(request: pytest.FixtureRequest, site: Site) -> Fetch:
    return Fetch(request.param, site.port)


def test_D2_a_file_arrives_whole_with_its_digest(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    got = fetch(site.url(), tmp_path / "out.bin", sha256=DIGEST.upper())
    assert got.path == tmp_path / "out.bin"
    assert got.path.read_bytes() == CONTENT
    assert (got.bytes, got.sha256, got.resumed, got.status) == (len(CONTENT), DIGEST, False, 200)
    assert names(tmp_path) == ["out.bin"]
    (record,) = fetch.ledger.rows
    assert record.call_id == got.call_id
    assert (record.code, record.status, record.response_bytes) == (None, 200, len(CONTENT))
    assert record.role == "artifact"
    assert site.requests[0]["accept-encoding"] == "identity"


def test_no_digest_is_computed_unless_asked_for(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    assert fetch(site.url(), tmp_path / "f").sha256 is None


def test_a_directory_gets_the_name_of_the_url(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    assert fetch(site.url("/a/b%20c.tar?sig=1#x"), tmp_path).path == tmp_path / "b c.tar"
    assert fetch(site.url("/"), f"{tmp_path}/new/").path == tmp_path / "new" / "download"


def test_an_old_file_is_replaced_at_once(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    seen: list[bytes] = []
    fetch(site.url(), path, progress=lambda done, total: seen.append(path.read_bytes()))
    assert set(seen) == {b"old"}
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("umask", "mode", "expected"), [(0o022, None, 0o644), (0o077, None, 0o600), (0o022, 0o640, 0o640)]
)
def test_D28_the_mode_is_that_of_the_umask_or_as_asked(
    site: Site, fetch: Fetch, tmp_path: Path, umask: int, mode: int | None, expected: int
) -> None:
    before = os.umask(umask)
    try:
        got = fetch(site.url(), tmp_path / "f", mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE(got.path.stat().st_mode) == expected


@pytest.mark.parametrize("length", [True, False])
def test_an_empty_file_is_a_file(site: Site, fetch: Fetch, tmp_path: Path, length: bool) -> None:
    site.answers = [Answer(200, {}, b"", length=length)]
    got = fetch(site.url(), tmp_path / "f", expected_length=0, sha256=hashlib.sha256(b"").hexdigest())
    assert got.bytes == 0
    assert got.path.read_bytes() == b""


@pytest.mark.parametrize("answer", [Answer(200, {}, CONTENT, length=False), Answer(200, {}, CONTENT, chunked=True)])
def test_a_file_of_unknown_length(site: Site, fetch: Fetch, tmp_path: Path, answer: Answer) -> None:
    site.answers = [answer]
    told: list[tuple[int, int | None]] = []
    fetch(site.url(), tmp_path / "f", progress=lambda *at: told.append(at), expected_length=len(CONTENT))
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert told[0] == (0, None)
    assert told[-1] == (len(CONTENT), None)


def test_progress_grows_to_the_total(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    fetch(site.url(), tmp_path / "f", progress=lambda *at: told.append(at))
    assert told[0] == (0, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted(done for done, _ in told)


# --- what is no file


@pytest.mark.parametrize("status", [204, 202, 300, 304, 401, 404, 410, 416, 429, 500, 503])
def test_D53_a_page_of_an_error_is_never_saved(site: Site, fetch: Fetch, tmp_path: Path, status: int) -> None:
    body = b"" if status in (204, 304) else b"<h1>no</h1>"
    site.answers = [Answer(status, {"Retry-After": "7"}, body, length=status != 204)]
    (tmp_path / "f").write_bytes(b"old")
    error = fetch.failing(site.url("/x?token=of-the-query"), tmp_path / "f")
    assert (error.kind, error.reason, error.status, error.retry_after) == ("http", Reason.STATUS, status, 7.0)
    assert error.path == str(tmp_path / "f")
    assert "of-the-query" not in f"{error!r}{error}{error.public()}{error.url}"
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names(tmp_path) == ["f"]
    assert len(fetch.ledger.rows) == 1


def test_D24_a_part_that_nobody_asked_for_is_refused(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.answers = [Answer(206, {"Content-Range": "bytes 0-9/10", "ETag": '"v1"'}, b"0123456789")]
    error = fetch.failing(site.url(), tmp_path / "f")
    assert (error.kind, error.reason, error.status) == ("http", Reason.RANGE, 206)
    assert names(tmp_path) == []


def test_D23_304_to_the_callers_own_condition_is_a_success(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    site.answers = [Answer(304, {"ETag": '"v1"'})]
    got = fetch(site.url(), path, headers={"If-None-Match": '"v1"'}, sha256=DIGEST)
    assert (got.status, got.bytes, got.sha256) == (304, len(CONTENT), DIGEST)
    assert site.requests[0]["if-none-match"] == '"v1"'
    assert names(tmp_path) == ["f"]
    assert fetch.ledger.rows[0].code is None


def test_304_without_the_file_it_speaks_of_is_an_error(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.answers = [Answer(304)]
    assert fetch.failing(site.url(), tmp_path / "f", headers={"If-None-Match": '"v1"'}).kind == "http"
    site.answers = [Answer(304)]
    (tmp_path / "f").write_bytes(b"other")
    assert fetch.failing(site.url(), tmp_path / "f", headers={"If-None-Match": "*"}, sha256=DIGEST).kind == "checksum"


def test_redirects_are_followed_and_the_final_place_is_told(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.answers = [Answer(302, {"Location": site.url("/there?sig=1", OTHER)})]
    got = fetch(site.url(), tmp_path / "f", headers={"Authorization": "Basic eDp5"})
    assert got.url == site.url("/there?sig=1", OTHER)
    assert "sig" not in repr(got)
    assert "authorization" in site.requests[0]
    assert "authorization" not in site.requests[1]
    assert len(fetch.ledger.rows) == 1


def test_D20_D19_one_record_with_measured_values(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.answers = [Answer(302, {"Location": site.url("/there")})]
    got = fetch(site.url(), tmp_path / "f", service="mirror", role="dataset")
    (record,) = fetch.ledger.rows
    assert record.call_id == got.call_id
    assert record.duration_ms > 0
    assert record.ttfb_ms is not None
    assert 0 < record.ttfb_ms <= record.duration_ms
    assert (record.number, record.version, record.service, record.role) == (1, "HTTP/1.1", "mirror", "dataset")
    (hop,) = record.attempts or ()
    assert (hop.hop, hop.number, hop.status, hop.redirect) == (1, 1, 302, site.url("/there"))
    assert hop.duration_ms > 0


@pytest.mark.parametrize("status", [200, 404])
def test_D22_no_token_of_the_url_is_told(
    site: Site, fetch: Fetch, tmp_path: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    site.answers = [Answer(status, {"ETag": '"v1"'}, CONTENT, cut=KEPT)]
    error = fetch.failing(site.url("/f?token=hush-4711"), tmp_path / "f")
    told = [f"{error!r} {error} {error.public()} {error.url} {error.detail}", repr(fetch.ledger.rows), caplog.text]
    told += [path.read_bytes().decode("latin-1") for path in tmp_path.iterdir()]
    assert all("hush" not in text for text in told)


# --- every class of failure


def test_D21_what_the_policy_refuses_is_a_download_error_and_one_event(
    site: Site, fetch: Fetch, tmp_path: Path
) -> None:
    error = fetch.failing("http://secret.internal/x", tmp_path / "f")
    assert (error.kind, error.code, error.reason) == ("policy", Code.NET_BLOCKED, Reason.HOST_NOT_GRANTED)
    assert isinstance(error.__cause__, FaztError)
    assert len(fetch.ledger.rows) == 1
    assert fetch.failing("http://127.0.0.1/", tmp_path / "f").reason is Reason.IP_LITERAL
    assert fetch.failing("not a url", tmp_path / "f").kind == "policy"
    assert len(fetch.ledger.rows) == 3
    assert names(tmp_path) == []
    assert site.requests == []


def test_no_server_is_a_network_failure(fetch: Fetch, site: Site, tmp_path: Path) -> None:
    fetch.policy = Fetch(fetch.kind, 1).policy
    error = fetch.failing(f"http://{HOST}:1/x", tmp_path / "f")
    assert (error.kind, error.reason) == ("network", Reason.CONNECT_FAILED)
    assert names(tmp_path) == []


def test_D21_a_server_that_says_nothing_is_a_timeout(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.hold = 10
    error = fetch.failing(site.url(), tmp_path / "f", deadline=0.3, resume=False)
    assert (error.kind, error.code) == ("timeout", Code.NET_TIMEOUT)
    assert error.reason in (Reason.BODY, Reason.TOTAL)
    assert names(tmp_path) == []


@pytest.mark.parametrize("chunked", [False, True])
def test_D25_a_body_that_breaks_off_is_a_read_failure(site: Site, fetch: Fetch, tmp_path: Path, chunked: bool) -> None:
    site.answers = [Answer(200, {}, CONTENT, cut=KEPT, chunked=chunked)]
    (tmp_path / "f").write_bytes(b"old")
    error = fetch.failing(site.url(), tmp_path / "f")
    assert error.kind == "read"
    assert error.kept == 0
    assert names(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"
    assert len(fetch.ledger.rows) == 1


@pytest.mark.parametrize("length", [True, False])
def test_D26_max_bytes_holds_before_and_while_reading(site: Site, fetch: Fetch, tmp_path: Path, length: bool) -> None:
    site.change = lambda answer, _: Answer(200, answer.fields, CONTENT, length=length)
    error = fetch.failing(site.url(), tmp_path / "f", max_bytes=len(CONTENT) - 1)
    assert (error.kind, error.code, error.reason) == ("size", Code.NET_SIZE, Reason.RESPONSE_BODY)
    assert names(tmp_path) == []
    assert fetch(site.url(), tmp_path / "f", max_bytes=len(CONTENT)).bytes == len(CONTENT)


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("expected", [0, len(CONTENT) - 1, len(CONTENT) + 1])
def test_D27_another_length_than_expected_is_refused(
    site: Site, fetch: Fetch, tmp_path: Path, length: bool, expected: int
) -> None:
    site.change = lambda answer, _: Answer(200, answer.fields, CONTENT, length=length)
    error = fetch.failing(site.url(), tmp_path / "f", expected_length=expected)
    assert (error.kind, error.reason) == ("size", Reason.LENGTH)
    assert names(tmp_path) == []


def test_a_wrong_checksum_leaves_the_old_file_and_one_event(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    error = fetch.failing(site.url(), tmp_path / "f", sha256="0" * 64)
    assert (error.kind, error.reason, error.status) == ("checksum", Reason.CHECKSUM, 200)
    assert names(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"
    (record,) = fetch.ledger.rows
    assert (record.status, record.reason, record.response_bytes) == (200, "checksum", len(CONTENT))


def test_an_exception_of_the_callers_own_passes_and_nothing_is_left(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.etag = None

    def stop(done: int, _total: int | None) -> None:
        if done:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fetch(site.url(), tmp_path / "f", progress=stop)
    assert names(tmp_path) == []
    (record,) = fetch.ledger.rows
    assert record.reason == "aborted"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_D28_an_interrupt_cleans_up(site: Site, tmp_path: Path, kind: type[BaseException]) -> None:
    site.etag = None
    fetch = Fetch("threads", site.port)

    def stop(done: int, _total: int | None) -> None:
        if done:
            raise kind

    with pytest.raises(kind):
        fetch(site.url(), tmp_path / "f", progress=stop)
    assert names(tmp_path) == []


# --- what must not be replaced


def test_overwrite_false_keeps_what_is_there(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    error = fetch.failing(site.url(), tmp_path / "f", overwrite=False)
    assert (error.kind, error.reason) == ("rename", Reason.FILE_EXISTS)
    assert site.requests == []
    assert names(tmp_path) == ["f"]
    assert len(fetch.ledger.rows) == 1
    assert fetch(site.url(), tmp_path / "g", overwrite=False).bytes == len(CONTENT)


def test_overwrite_false_takes_the_right_file_for_the_result(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    got = fetch(site.url(), tmp_path / "f", overwrite=False, sha256=DIGEST)
    assert (got.status, got.bytes, got.call_id) == (0, len(CONTENT), "")
    assert site.requests == []


def test_overwrite_false_never_replaces_what_appears_meanwhile(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    path = tmp_path / "f"
    error = fetch.failing(
        site.url(), path, overwrite=False, progress=lambda done, _: path.write_bytes(b"other") if done else None
    )
    assert (error.kind, error.reason) == ("rename", Reason.FILE_EXISTS)
    assert path.read_bytes() == b"other"
    assert names(tmp_path) == ["f"]


def test_overwrite_false_works_where_only_links_do(
    site: Site, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fazt.client.download_rename._renameat2", lambda: None)
    path = tmp_path / "f"
    assert fetch(site.url(), path, overwrite=False).bytes == len(CONTENT)
    assert names(tmp_path) == ["f"]
    assert path.stat().st_nlink == 1
    path.unlink()
    fetch.failing(
        site.url(), path, overwrite=False, progress=lambda done, _: path.write_bytes(b"other") if done else None
    )
    assert path.read_bytes() == b"other"
    assert names(tmp_path) == ["f"]


# --- content codings


def test_D5_an_answer_that_is_encoded_all_the_same_is_decoded(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT)
    site.change = lambda answer, _: Answer(200, {**answer.fields, "Content-Encoding": "gzip"}, packed)
    got = fetch(site.url(), tmp_path / "f", sha256=DIGEST, expected_length=len(packed))
    assert got.bytes == len(CONTENT)
    assert got.path.read_bytes() == CONTENT
    assert fetch.failing(site.url(), tmp_path / "f", expected_length=len(CONTENT)).reason is Reason.LENGTH


def test_max_bytes_holds_for_what_is_decoded(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    packed = gzip.compress(bytes(5_000_000))
    site.change = lambda answer, _: Answer(200, {**answer.fields, "Content-Encoding": "gzip"}, packed)
    error = fetch.failing(site.url(), tmp_path / "f", max_bytes=1_000_000)
    assert (error.kind, error.reason) == ("size", Reason.DECODED_BODY)
    assert names(tmp_path) == []


def test_a_packed_file_is_not_unpacked(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT)
    site.change = lambda answer, _: Answer(200, {**answer.fields, "Content-Encoding": "x-gzip"}, packed)
    assert fetch(site.url("/a.tar.gz"), tmp_path / "f").path.read_bytes() == packed


@pytest.mark.parametrize("coding", ["gzip", "compress", "aes128gcm"])
def test_what_cannot_be_decoded_is_not_saved(site: Site, fetch: Fetch, tmp_path: Path, coding: str) -> None:
    site.change = lambda answer, _: Answer(200, {**answer.fields, "Content-Encoding": coding}, CONTENT)
    error = fetch.failing(site.url(), tmp_path / "f")
    assert (error.kind, error.reason) == ("read", Reason.DECODE)
    assert names(tmp_path) == []


# --- the rest


def test_two_downloads_to_one_file_do_not_mix(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.hold = 1000
    done: list[Any] = []
    first = Fetch(fetch.kind, site.port)
    thread = threading.Thread(target=lambda: done.append(first(site.url(), tmp_path / "f")))
    thread.start()
    assert site.arrived.wait(20)
    error = fetch.failing(site.url(), tmp_path / "f")
    assert (error.kind, error.reason, error.retryable) == ("write", Reason.FILE_LOCKED, True)
    site.go.set()
    thread.join(20)
    assert done[0].path.read_bytes() == CONTENT
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_secret_that_comes_back_is_taken_out(kind: str, tmp_path: Path) -> None:
    value = "canary-3f9d2c71b8e64a05"
    roots = tmp_path / "roots.pem"
    authority().cert_pem.write_to_path(roots)
    folder = tmp_path / "out"
    with serving(Site(), tls=server_context(HOST)) as site:
        fetch = Fetch(kind, site.port, secrets={"KEY": value}, roots=roots)
        site.change = lambda answer, asked: Answer(
            200, answer.fields, asked["authorization"].encode() * 9000, cut=150_000
        )
        error = fetch.failing(site.url(), folder / "f", secret="KEY")
        assert error.kind == "read"
        assert error.kept == 0  # what is saved is not what was sent: nothing can be put behind it
        assert names(folder) == []
        site.requests.clear()
        fetch.failing(site.url(), folder / "f", secret="KEY", retry=RetryPolicy(base=0.0, attempts=2))
        assert site.asked == [None, None]
        site.change = lambda answer, asked: Answer(200, answer.fields, asked["authorization"].encode() * 9000)
        got = fetch(site.url(), folder / "f", secret="KEY")
        assert value.encode() not in got.path.read_bytes()


def test_the_rate_is_kept(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    class Counting(Pacer):
        asked = 0

        def pause(self, size: int, now: float) -> float:
            Counting.asked += size
            return 0.0

    fetch(site.url(), tmp_path / "f", pacer=Counting(1000.0))
    assert Counting.asked == len(CONTENT)


def test_a_pacer_spreads_bytes_over_time() -> None:
    pacer = Pacer(100.0)
    assert pacer.pause(50, 10.0) == pytest.approx(0.5)
    assert pacer.pause(50, 10.2) == pytest.approx(0.8)
    assert pacer.pause(10, 20.0) == pytest.approx(0.1)
    for rate in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="rate"):
            Pacer(rate)


@pytest.mark.parametrize(
    ("wishes", "kind"),
    [
        ({"sha256": "abc"}, ValueError),
        ({"max_bytes": -1}, ValueError),
        ({"max_bytes": 1.5}, TypeError),
        ({"expected_length": True}, TypeError),
        ({"mode": 0o4755}, ValueError),
        ({"deadline": 0}, ValueError),
        ({"deadline": float("nan")}, ValueError),
        ({"headers": {"Range": "bytes=0-1"}}, ValueError),
        ({"headers": [("accept-encoding", "gzip")]}, ValueError),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_once(
    site: Site, fetch: Fetch, tmp_path: Path, wishes: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(
        kind, match=next(iter(wishes)).split("_")[0].rstrip("s") if "headers" not in wishes else "set by"
    ):
        fetch(site.url(), tmp_path / "f", **wishes)
    assert site.requests == []


def test_a_failure_before_an_answer_is_tried_again_by_the_engine(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.answers = [Answer(503), Answer(503)]
    got = fetch(site.url(), tmp_path / "f", retry=RetryPolicy(base=0.0))
    assert got.bytes == len(CONTENT)
    assert len(fetch.ledger.rows) == 1
    assert len(fetch.ledger.rows[0].attempts or ()) == 2
    site.answers = [Answer(503), Answer(503)]
    assert fetch.failing(site.url(), tmp_path / "f", retry=False).status == 503


def test_every_reason_has_a_kind() -> None:
    kinds = {reason: DownloadError(reason, "").kind for reason in Reason}
    assert kinds[Reason.POOL_WAIT] == "timeout"
    assert kinds[Reason.BREAKER_OPEN] == "policy"
    assert kinds[Reason.PATH_REFUSED] == "policy"
    assert set(kinds.values()) == {
        "http",
        "timeout",
        "network",
        "policy",
        "read",
        "write",
        "size",
        "checksum",
        "rename",
    }


def test_an_error_crosses_processes(site: Site, fetch: Fetch, tmp_path: Path) -> None:
    site.answers = [Answer(503, {"Retry-After": "7"}, b"no")]
    error = fetch.failing(site.url(), tmp_path / "f")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, DownloadError)
    assert again.public() == error.public()
    assert (str(again), again.retry_after, again.url) == (str(error), 7.0, error.url)
