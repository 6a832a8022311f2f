"""What both engines do alike: streams, retries, redirects with the caller's say, uploads; one record a call."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.engine.drivers import CANARY, Clock, Driver, body_of
from tests.fakes.calls import Answer, policy, rule, secret

from fazt.core.call import Earlier, Fields, Options, Upload
from fazt.core.retry import RetryPolicy
from fazt.core.url import Url
from fazt.errors import FaztError, Reason

URL = "https://api.example.com/v1/items?token=in-the-query"
GRANTED = policy(rule("api.example.com"), rule("other.example.com"), secrets=[secret("KEY")])
RETRY = RetryPolicy(attempts=3, base=1.0)

Make = Callable[..., Driver]


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[Driver] = []
    clock = Clock()

    async def sleep(seconds: float) -> None:
        clock.sleep(seconds)

    monkeypatch.setattr("fazt.engine.sync._sleep", clock.sleep)
    monkeypatch.setattr("fazt.engine.aio._sleep", sleep)

    def build(*answers: Answer, **options: Any) -> Driver:
        driver = Driver(kind, options.pop("held", GRANTED), *answers, clock=clock, **options)
        made.append(driver)
        return driver

    yield build
    for driver in made:
        driver.close()


def redirect(to: str, status: int = 302) -> Answer:
    return Answer(status, (("location", to),))


def refused(driver: Driver, *args: Any, **options: Any) -> FaztError:
    with pytest.raises(FaztError) as caught:
        driver.call(*args, **options)
    assert len(driver.ledger.rows) == 1
    assert driver.ledger.rows[0].reason == caught.value.reason.value
    assert caught.value.call_id == driver.ledger.rows[0].call_id
    return caught.value


# --- streams


def test_a_stream_gives_the_body_in_pieces_and_the_record_at_its_end(make: Make) -> None:
    driver = make(Answer(body=b"0123456789"))
    stream = driver.open(URL)
    assert stream.response.status == 200
    assert driver.ledger.rows == []
    assert stream.pieces() == [b"0123", b"4567", b"89"]
    (row,) = driver.ledger.rows
    assert (row.code, row.response_bytes, row.status) == (None, 10, 200)
    assert driver.wire.made[0].ended == ["release"]
    stream.close()
    assert len(driver.ledger.rows) == 1


def test_a_stream_can_be_read_whole(make: Make) -> None:
    driver = make(Answer(body=b"0123456789"))
    assert driver.open(URL).read() == b"0123456789"
    assert driver.ledger.rows[0].response_bytes == 10


def test_what_is_left_of_a_stream_can_be_read(make: Make) -> None:
    driver = make(Answer(body=b"0123456789"))
    stream = driver.open(URL)
    assert stream.read_some() == b"0123"
    assert stream.read() == b"456789"


def test_a_stream_closed_early_ends_the_call_and_its_connection(make: Make) -> None:
    driver = make(Answer(body=b"0123456789"))
    stream = driver.open(URL)
    assert stream.read_some() == b"0123"
    stream.close()
    (row,) = driver.ledger.rows
    assert (row.code, row.response_bytes) == (None, 4)
    assert driver.wire.made[0].ended == ["abort"]
    assert stream.read_some() == b""


def test_a_stream_that_fails_is_recorded_with_the_reason(make: Make) -> None:
    def step(name: str) -> None:
        if name == "read_some":
            raise FaztError(Reason.BODY, "too slow")

    driver = make(Answer(body=b"x"), step=step)
    stream = driver.open(URL)
    with pytest.raises(FaztError) as caught:
        stream.read_some()
    (row,) = driver.ledger.rows
    assert row.reason == "body"
    assert caught.value.call_id == row.call_id
    assert driver.wire.made[0].ended == ["abort"]


def test_a_stream_keeps_within_its_cap(make: Make) -> None:
    driver = make(Answer(body=b"0123456789"))
    stream = driver.open(URL, options=Options(stream=True, max_response=6))
    with pytest.raises(FaztError) as caught:
        stream.pieces()
    assert caught.value.reason is Reason.RESPONSE_BODY
    assert driver.ledger.rows[0].reason == "response_body"


def test_a_stream_that_nobody_holds_any_more_ends_its_call(make: Make) -> None:
    driver = make(Answer(body=b"0123456789"))
    stream = driver.open(URL)
    del stream
    gc.collect()
    driver.call(URL)  # the next call ends what the collector must not
    assert [row.reason for row in driver.ledger.rows][:1] == ["aborted"]
    assert driver.wire.made[0].ended == ["abort"]


def test_secrets_are_taken_out_of_a_stream_across_pieces(make: Make) -> None:
    driver = make(Answer(body=b"ab " + CANARY.encode() + b" cd"))
    stream = driver.open(URL, auth="KEY")
    body = b"".join(stream.pieces())
    assert CANARY.encode() not in body
    assert body.startswith(b"ab [redacted]")
    assert driver.ledger.rows[0].scrubbed == 1


def test_a_stream_has_no_total_deadline_unless_one_is_set(make: Make) -> None:
    driver = make(Answer())
    driver.open(URL).close()
    driver.open(URL, timeout_ms=2500).close()
    assert driver.wire.deadlines == [float("inf"), 1002.5]


def test_refusals_of_a_stream_come_at_once(make: Make) -> None:
    driver = make(Answer())
    with pytest.raises(FaztError) as caught:
        driver.open("https://nobody.example.com/")
    assert caught.value.reason is Reason.HOST_NOT_GRANTED
    assert driver.ledger.rows[0].reason == "host_not_granted"


# --- retries


def test_without_a_policy_nothing_is_tried_again(make: Make) -> None:
    driver = make(Answer(503), Answer(200))
    assert driver.call(URL).status == 503
    assert len(driver.wire.sent) == 1


def test_a_status_is_tried_again_and_each_trip_is_noted(make: Make) -> None:
    driver = make(Answer(503), Answer(500), Answer(200, body=b"at last"))
    response = driver.call(URL, options=Options(retry=RETRY))
    assert (response.status, response.body) == (200, b"at last")
    (row,) = driver.ledger.rows
    assert row.attempts is not None
    assert [(trip.number, trip.status) for trip in row.attempts] == [(1, 503), (2, 500)]
    assert row.number == 3
    assert len(driver.clock.slept) == 2
    assert 0 <= driver.clock.slept[0] <= 1 and 0 <= driver.clock.slept[1] <= 2


def test_the_last_answer_is_handed_out_when_attempts_are_used_up(make: Make) -> None:
    driver = make(Answer(503, body=b"still not"))
    response = driver.call(URL, options=Options(retry=RETRY))
    assert (response.status, response.body) == (503, b"still not")
    assert len(driver.wire.sent) == 3


def test_a_failure_is_tried_again(make: Make) -> None:
    failures = [FaztError(Reason.FIRST_BYTE, "slow")]

    def step(name: str) -> None:
        if name == "head" and failures:
            raise failures.pop()

    driver = make(Answer(200), step=step)
    assert driver.call(URL, options=Options(retry=RETRY)).status == 200
    trips = driver.ledger.rows[0].attempts
    assert trips is not None
    assert [trip.reason for trip in trips] == ["first_byte"]
    assert driver.wire.made[0].ended == ["abort"]


def test_the_last_failure_is_raised(make: Make) -> None:
    def step(name: str) -> None:
        if name == "head":
            raise FaztError(Reason.FIRST_BYTE, "slow")

    driver = make(step=step)
    assert refused(driver, URL, options=Options(retry=RETRY)).reason is Reason.FIRST_BYTE
    assert len(driver.wire.made) == 3


def test_D37_retry_after_is_waited_in_full(make: Make) -> None:
    driver = make(Answer(429, (("retry-after", "30"),)), Answer(200))
    assert driver.call(URL, options=Options(retry=RETRY)).status == 200
    assert driver.clock.slept == [30.0]


def test_D37_a_retry_after_beyond_the_deadline_is_handed_out(make: Make) -> None:
    driver = make(Answer(429, (("retry-after", "90"),)), Answer(200))
    assert driver.call(URL, options=Options(retry=RETRY)).status == 429
    assert driver.clock.slept == []


def test_D38_a_post_is_not_sent_twice(make: Make) -> None:
    driver = make(Answer(503), Answer(200))
    assert driver.call(URL, method="POST", body=b"once", options=Options(retry=RETRY)).status == 503
    assert len(driver.wire.sent) == 1


def test_a_post_with_a_key_is(make: Make) -> None:
    driver = make(Answer(503), Answer(200))
    headers = (("Idempotency-Key", "k-1"),)
    response = driver.call(URL, method="POST", body=b"x", headers=headers, options=Options(retry=RETRY))
    assert response.status == 200


def test_refusals_are_not_tried_again(make: Make) -> None:
    def step(name: str) -> None:
        if name == "acquire":
            raise FaztError(Reason.PRIVATE_ADDRESS, "no")

    driver = make(step=step)
    assert refused(driver, URL, options=Options(retry=RETRY)).reason is Reason.PRIVATE_ADDRESS
    assert driver.clock.slept == []
    assert driver.ledger.rows[0].attempt_ts is None


def test_a_stream_is_tried_again_before_its_body(make: Make) -> None:
    driver = make(Answer(503), Answer(200, body=b"0123456789"))
    stream = driver.open(URL, options=Options(stream=True, retry=RETRY))
    assert stream.response.status == 200
    assert b"".join(stream.pieces()) == b"0123456789"


# --- redirects


def test_redirects_are_followed_with_their_history(make: Make) -> None:
    driver = make(redirect("/v2?k=1"), Answer(200, body=b"there"))
    response = driver.call(URL)
    assert (response.status, response.body, str(response.url)) == (200, b"there", "https://api.example.com/v2?k=1")
    (earlier,) = response.history
    assert (earlier.method, str(earlier.url), earlier.head.status) == ("GET", URL, 302)
    (row,) = driver.ledger.rows
    assert row.attempts is not None
    assert [(trip.hop, trip.status, trip.redirect) for trip in row.attempts] == [
        (1, 302, "https://api.example.com/v2?…")
    ] or row.attempts[0].redirect is not None
    assert "k=1" not in repr(row.attempts)


def test_a_redirect_is_the_answer_where_none_is_followed(make: Make) -> None:
    driver = make(redirect("/v2"), Answer(200))
    response = driver.call(URL, options=Options(follow=False))
    assert response.status == 302
    assert len(driver.wire.sent) == 1


def test_credentials_stay_with_their_origin(make: Make) -> None:
    driver = make(redirect("https://other.example.com/"), Answer(200))
    headers = (
        ("Authorization", "Bearer mine"),
        ("Cookie", "a=b"),
        ("X-API-Key", "mine"),
        ("X-Mine", "mine"),
        ("X-Kept", "yes"),
    )
    driver.call(URL, headers=headers, options=Options(sensitive=frozenset({"x-mine"})))
    sent = driver.wire.sent[1][1].decode().lower()
    assert "mine" not in sent
    assert "a=b" not in sent
    assert "x-kept: yes" in sent


def test_the_caller_has_a_say_between_redirects(make: Make) -> None:
    def between(earlier: Earlier, method: str, url: Url, fields: Fields) -> Fields:
        assert (earlier.head.status, method, url.path) == (302, "GET", "/v2")
        return (*fields, ("Cookie", "jar=full"))

    driver = make(redirect("/v2"), Answer(200))
    response = driver.call(URL, between=between)
    assert b"Cookie: jar=full\r\n" in driver.wire.sent[1][1]
    assert response.sent == (("Cookie", "jar=full"),)


def test_what_the_caller_raises_between_redirects_comes_out_as_it_is(make: Make) -> None:
    def between(*_: Any) -> Fields:
        raise KeyError("mine")

    driver = make(redirect("/v2"), Answer(200))
    with pytest.raises(KeyError, match="mine"):
        driver.call(URL, between=between)
    (row,) = driver.ledger.rows
    assert (row.reason, row.detail) == ("aborted", "KeyError")


# --- uploads


def test_an_upload_is_sent(make: Make, kind: str) -> None:
    driver = make(Answer(200))
    driver.call(URL, method="POST", upload=Upload(body_of(kind, b"one", b"two"), 6))
    assert driver.wire.sent[0][2] == b"onetwo"
    assert b"content-length: 6\r\n" in driver.wire.sent[0][1].lower()


def test_an_upload_of_unknown_length_is_chunked(make: Make, kind: str) -> None:
    driver = make(Answer(200))
    driver.call(URL, method="POST", upload=Upload(body_of(kind, b"one")))
    assert b"transfer-encoding: chunked\r\n" in driver.wire.sent[0][1].lower()


def test_an_upload_that_can_be_sent_once_is_not_sent_twice(make: Make, kind: str) -> None:
    driver = make(Answer(503), Answer(200))
    upload = Upload(body_of(kind, b"one"), 3)
    assert driver.call(URL, method="PUT", upload=upload, options=Options(retry=RETRY)).status == 503
    again = make(Answer(503), Answer(200))
    upload = Upload(body_of(kind, b"one"), 3, replayable=True)
    assert again.call(URL, method="PUT", upload=upload, options=Options(retry=RETRY)).status == 200


def test_a_redirect_that_asks_for_the_upload_again_is_refused(make: Make, kind: str) -> None:
    driver = make(redirect("/v2", 307), Answer(200))
    error = refused(driver, URL, method="PUT", upload=Upload(body_of(kind, b"one"), 3))
    assert (error.reason, error.hop) == (Reason.REDIRECT_BODY, 1)


def test_what_an_upload_raises_comes_out_as_it_is(make: Make, kind: str) -> None:
    driver = make(Answer(200))
    with pytest.raises(OSError, match="gone"):
        driver.call(URL, method="PUT", upload=Upload(body_of(kind, b"one", OSError("gone"))))
    assert driver.ledger.rows[0].detail == "OSError"
    assert driver.wire.made[0].ended == ["abort"]
