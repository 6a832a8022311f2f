"""The codec without I/O: what is accepted, what is refused, and that segmentation changes neither."""

from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.errors import FaztError, Reason
from fazt.net.http1 import MAX_HEAD, ResponseReader, encode_head
from fazt.net.http1_fields import MAX_FIELDS

HEAD = b"HTTP/1.1 200 OK\r\n"
END = b"\r\n\r\n"


def read(data: bytes, *, step: int = 0, head_only: bool = False, eof: bool = False) -> ResponseReader:
    reader = ResponseReader()
    reader.begin(head_only=head_only)
    for start in range(0, len(data), step or len(data)):
        reader.feed(data[start : start + (step or len(data))])
    if eof:
        reader.eof(clean=True)
    return reader


def refusal(data: bytes, *, step: int = 0) -> Reason:
    with pytest.raises(FaztError) as caught:
        read(data, step=step)
    return caught.value.reason


REFUSED = {
    "length and coding": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked" + END + b"0\r\n\r\n",
    "coding and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 2" + END + b"0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3" + END + b"ok",
    "list of lengths": HEAD + b"Content-Length: 2, 2" + END + b"ok",
    "signed length": HEAD + b"Content-Length: +2" + END + b"ok",
    "negative length": HEAD + b"Content-Length: -2" + END + b"ok",
    "hexadecimal length": HEAD + b"Content-Length: 0x2" + END + b"ok",
    "empty length": HEAD + b"Content-Length:" + END + b"ok",
    "huge length": HEAD + b"Content-Length: 99999999999999999999" + END + b"ok",
    "bare LF everywhere": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "bare LF after the status line": b"HTTP/1.1 200 OK\nA: b" + END,
    "bare LF after a field": HEAD + b"A: b\nC: d" + END,
    "bare LF as the empty line": HEAD + b"A: b\r\n\nContent-Length: 0" + END,
    "bare CR in a value": HEAD + b"A: b\rC: d" + END,
    "folded with a space": HEAD + b"A: b\r\n c: d" + END,
    "folded with a tab": HEAD + b"A: b\r\n\tc" + END,
    "folded first line": HEAD + b" A: b" + END,
    "NUL in a value": HEAD + b"A: b\0c" + END,
    "NUL in a name": HEAD + b"A\0: b" + END,
    "NUL in the reason phrase": b"HTTP/1.1 200 O\0K" + END,
    "control character in a value": HEAD + b"A: b\x01c" + END,
    "DEL in a value": HEAD + b"A: b\x7fc" + END,
    "space before the colon": HEAD + b"A : b" + END,
    "tab before the colon": HEAD + b"A\t: b" + END,
    "space in a name": HEAD + b"A B: c" + END,
    "empty name": HEAD + b": b" + END,
    "no colon": HEAD + b"Abc" + END,
    "name with a bracket": HEAD + b"A(: b" + END,
    "name beyond ASCII": HEAD + b"A\xe9: b" + END,
    "coding before chunked": HEAD + b"Transfer-Encoding: gzip, chunked" + END + b"0\r\n\r\n",
    "other coding": HEAD + b"Transfer-Encoding: gzip" + END + b"x",
    "identity coding": HEAD + b"Transfer-Encoding: identity" + END + b"x",
    "coding after chunked": HEAD + b"Transfer-Encoding: chunked, gzip" + END + b"x",
    "chunked twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked" + END + b"0\r\n\r\n",
    "misspelt chunked": HEAD + b"Transfer-Encoding: xchunked" + END + b"x",
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked" + END + b"0\r\n\r\n",
    "HTTP/0.9": b"HTTP/0.9 200 OK" + END,
    "HTTP/2.0": b"HTTP/2.0 200 OK" + END,
    "HTTP/1.2": b"HTTP/1.2 200 OK" + END,
    "lower-case protocol": b"http/1.1 200 OK" + END,
    "RTSP": b"RTSP/1.0 200 OK" + END,
    "ICY": b"ICY 200 OK" + END,
    "another protocol's greeting": b"SSH-2.0-OpenSSH_9.6\r\n",
    "leading empty line": b"\r\n" + HEAD + b"Content-Length: 0" + END,
    "leading space": b" " + HEAD + b"Content-Length: 0" + END,
    "status of two digits": b"HTTP/1.1 20 OK" + END,
    "status of four digits": b"HTTP/1.1 2000 OK" + END,
    "status 099": b"HTTP/1.1 099 OK" + END,
    "status 000": b"HTTP/1.1 000 OK" + END,
    "two spaces before the status": b"HTTP/1.1  200 OK" + END,
    "upgrade nobody asked for": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade" + END,
}

CHUNKED = HEAD + b"Transfer-Encoding: chunked" + END
BROKEN_CHUNKS = {
    "size missing": b"\r\nok\r\n",
    "size signed": b"+2\r\nok\r\n",
    "size with prefix": b"0x2\r\nok\r\n",
    "size with underscore": b"1_0\r\n" + b"x" * 16 + b"\r\n",
    "size not hexadecimal": b"g\r\nok\r\n",
    "size too large": b"fffffffffffffffff\r\n",
    "space after the size": b"2 \r\nok\r\n",
    "space before the size": b" 2\r\nok\r\n",
    "bare LF after the size": b"2\nok\r\n",
    "CR inside an extension": b"2;a\rb\r\nok\r\n",
    "control character in an extension": b"2;a\x01\r\nok\r\n",
    "no CRLF after the data": b"2\r\nokxx",
    "bare LF after the data": b"2\r\nok\n0\r\n\r\n",
    "folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "trailer without colon": b"0\r\nAbc\r\n\r\n",
    "NUL in a trailer": b"0\r\nA: \0\r\n\r\n",
    "bare LF in the trailers": b"0\r\nA: b\n\r\n",
    "space before a trailer's colon": b"0\r\nA : b\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("step", [0, 1, 3])
def test_refuses_what_is_not_strict(name: str, step: int) -> None:
    assert refusal(REFUSED[name], step=step) is Reason.PROTOCOL


@pytest.mark.parametrize("name", BROKEN_CHUNKS)
@pytest.mark.parametrize("step", [0, 1, 3])
def test_refuses_broken_chunks(name: str, step: int) -> None:
    assert refusal(CHUNKED + BROKEN_CHUNKS[name], step=step) is Reason.PROTOCOL


def test_refuses_before_the_block_ends_rather_than_wait() -> None:
    assert refusal(b"220 mail.example.com ESMTP\r\n") is Reason.PROTOCOL
    assert refusal(HEAD + b"A: b\nC") is Reason.PROTOCOL
    assert refusal(HEAD + b"A: \0") is Reason.PROTOCOL
    assert refusal(HEAD + b"A: b\r\n" * 200) is Reason.RESPONSE_HEADERS
    assert refusal(HEAD + b"A: b\r\n" * 200, step=1) is Reason.RESPONSE_HEADERS


def test_reads_fields_in_order_with_lower_case_names() -> None:
    reader = read(
        HEAD + b"Set-Cookie: a=1\r\nX: \t y \t\r\nSet-Cookie: b=\xe9\r\nE:\r\nContent-Length: 2" + END + b"ok"
    )
    assert reader.head is not None
    assert reader.head.status == 200
    assert reader.head.headers == (
        ("set-cookie", "a=1"),
        ("x", "y"),
        ("set-cookie", "b=é"),
        ("e", ""),
        ("content-length", "2"),
    )
    assert reader.done
    assert reader.keep
    assert reader.take() == b"ok"


@pytest.mark.parametrize("line", [b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.1 999 odd \xe9"])
def test_accepts_unusual_status_lines(line: bytes) -> None:
    assert read(line + b"\r\nContent-Length: 0" + END).done


@pytest.mark.parametrize(
    ("head", "keep"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x, Close", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\nConnection: keep-alive", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive", True),
    ],
)
def test_reads_the_keep_alive_flag(head: bytes, keep: bool) -> None:
    reader = read(head + END + b"ok")
    assert reader.done
    assert reader.keep is keep


@pytest.mark.parametrize("field", [b"Content-Length: 8", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("head_only", [False, True])
def test_a_204_that_speaks_of_a_body_is_the_last_of_its_connection(field: bytes, head_only: bool) -> None:
    reader = read(b"HTTP/1.1 204 No\r\n" + field + END, head_only=head_only)
    assert reader.done
    assert not reader.keep
    assert read(b"HTTP/1.1 204 No\r\nContent-Length: 0" + END).keep


@pytest.mark.parametrize("line", [b"HTTP/1.1 204 No", b"HTTP/1.1 304 Not"])
@pytest.mark.parametrize("field", [b"Content-Length: 5", b"A: b"])
def test_no_body_by_status(line: bytes, field: bytes) -> None:
    reader = read(line + b"\r\n" + field + END)
    assert reader.done
    assert reader.keep is (b"304" in line or field == b"A: b")
    assert reader.length is None


@pytest.mark.parametrize("field", [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"A: b"])
def test_no_body_after_head(field: bytes) -> None:
    reader = read(HEAD + field + END, head_only=True)
    assert reader.done
    assert reader.keep
    assert not read(HEAD + field + b"\r\nConnection: close" + END, head_only=True).keep


@pytest.mark.parametrize("step", [0, 1, 5])
def test_interim_responses_are_passed_over(step: int) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    reader = read(interim + HEAD + b"Content-Length: 2" + END + b"ok", step=step)
    assert reader.head is not None
    assert reader.head.headers == (("content-length", "2"),)
    assert reader.take() == b"ok"


def test_interim_responses_are_counted_and_weighed() -> None:
    assert refusal(b"HTTP/1.1 103 E\r\n\r\n" * 50_000) is Reason.RESPONSE_HEADERS
    assert refusal((b"HTTP/1.1 103 E\r\nLink: " + b"x" * 5000 + END) * 20) is Reason.RESPONSE_HEADERS


@pytest.mark.parametrize("step", [0, 4096])
def test_fields_are_counted_and_weighed(step: int) -> None:
    full = b"".join(b"A%d: b\r\n" % index for index in range(MAX_FIELDS - 1))
    assert read(HEAD + full + b"Content-Length: 0" + END, step=step).done
    assert refusal(HEAD + full + b"B: c\r\nContent-Length: 0" + END, step=step) is Reason.RESPONSE_HEADERS
    assert refusal(HEAD + b"A: " + b"x" * MAX_HEAD + END, step=step) is Reason.RESPONSE_HEADERS
    assert refusal(HEAD + b"A: " + b"x" * MAX_HEAD, step=step) is Reason.RESPONSE_HEADERS


@pytest.mark.parametrize("step", [0, 1, 2, 3, 7])
def test_chunks_and_trailers(step: int) -> None:
    body = b"2;x=y\r\nok\r\n1 ;a\r\n!\r\n000a\r\n0123456789\r\n0;last\r\nDigest: abc\r\nX: y\r\n\r\n"
    reader = read(CHUNKED + body, step=step)
    assert reader.done
    assert reader.keep
    assert not reader.extra
    assert reader.take() == b"ok!0123456789"
    assert reader.trailers == (("digest", "abc"), ("x", "y"))
    assert reader.head is not None
    assert reader.head.headers == (("transfer-encoding", "chunked"),)


@pytest.mark.parametrize("step", [0, 1000])
def test_chunk_extensions_are_weighed(step: int) -> None:
    assert refusal(CHUNKED + b"2;" + b"x" * 100_000 + b"\r\nok\r\n0\r\n\r\n", step=step) is Reason.PROTOCOL
    assert refusal(CHUNKED + (b"1;" + b"x" * 1000 + b"\r\nx\r\n") * 100, step=step) is Reason.PROTOCOL


@pytest.mark.parametrize("step", [0, 1000])
def test_trailers_are_counted_and_weighed(step: int) -> None:
    assert refusal(CHUNKED + b"0\r\n" + b"A: b\r\n" * 200 + b"\r\n", step=step) is Reason.RESPONSE_HEADERS
    assert refusal(CHUNKED + b"0\r\nA: " + b"x" * MAX_HEAD + END, step=step) is Reason.RESPONSE_HEADERS


def test_F5_a_refused_head_leaves_nothing_of_itself_in_the_error() -> None:
    fields = (("Authorization", "Bearer canary-3f9d2c71b8e64a05"),)
    with pytest.raises(FaztError) as caught:
        encode_head("GET", "/\u1234", authority="a", fields=fields, body=None)
    assert caught.value.reason is Reason.BAD_OPTION
    assert caught.value.__context__ is None


@pytest.mark.parametrize("chunk", [b"1\r\nx\r\n", b"0000000000001\r\nx\r\n", b"5;\r\nabcde\r\n"])
def test_a_flood_of_tiny_chunks_ends_early(chunk: bytes) -> None:
    assert refusal(CHUNKED + chunk * 200_000) is Reason.PROTOCOL
    reader = read(CHUNKED + chunk * 10_000 + b"0\r\n\r\n")
    assert reader.done


def test_chunks_of_an_ordinary_stream_may_be_as_many_as_they_like() -> None:
    reader = read(CHUNKED + (b"20\r\n" + b"x" * 32 + b"\r\n") * 100_000 + b"0\r\n\r\n")
    assert reader.done
    assert reader.size == 3_200_000


def test_small_chunks_don_t_multiply_memory() -> None:
    reader = read(CHUNKED + b"2\r\nok\r\n" * 50_000)
    assert reader.size == 100_000
    assert len(reader.take()) == 100_000
    assert reader.size == 0


@pytest.mark.parametrize(
    "message",
    [
        HEAD + b"Content-Length: 2" + END + b"ok",
        HEAD + b"Content-Length: 0" + END,
        b"HTTP/1.1 204 No" + END,
        CHUNKED + b"0\r\n\r\n",
        CHUNKED + b"0\r\nA: b\r\n\r\n",
    ],
)
@pytest.mark.parametrize("tail", [b"H", b"\r\n", HEAD])
@pytest.mark.parametrize("apart", [False, True])
def test_bytes_after_the_message_are_noticed_and_not_read(message: bytes, tail: bytes, apart: bool) -> None:
    reader = read(message)
    assert not reader.extra
    body = reader.take()
    if apart:
        reader.feed(tail)
    else:
        reader = read(message + tail)
        assert reader.take() == body
    assert reader.done
    assert reader.extra


def test_body_that_ends_with_the_connection() -> None:
    reader = read(HEAD + b"A: b" + END + b"one")
    assert (reader.done, reader.size) == (False, 3)
    reader.feed(b"two")
    assert not reader.keep
    reader.eof(clean=True)
    assert reader.done
    assert reader.take() == b"onetwo"


@pytest.mark.parametrize(
    ("data", "clean"),
    [
        (b"", True),
        (b"HTT", True),
        (HEAD + b"A: b", True),
        (HEAD + b"Content-Length: 3" + END + b"ok", True),
        (CHUNKED + b"2\r\nok\r\n", True),
        (CHUNKED + b"2\r\nok\r\n0\r\n", True),
        (HEAD + b"A: b" + END + b"half", False),
    ],
)
def test_an_early_end_is_an_error(data: bytes, clean: bool) -> None:
    reader = ResponseReader()
    reader.begin(head_only=False)
    if data:
        reader.feed(data)
    with pytest.raises(FaztError) as caught:
        reader.eof(clean=clean)
    assert caught.value.reason is Reason.PROTOCOL
    assert not reader.done


def test_a_reader_forgets_the_message_before() -> None:
    reader = read(CHUNKED + b"2\r\nok\r\n0\r\nA: b\r\n\r\n")
    reader.begin(head_only=False)
    assert reader.head is None
    assert not reader.done
    assert reader.untouched
    reader.feed(HEAD + b"Content-Length: 1" + END + b"x")
    assert reader.take() == b"x"
    assert reader.trailers == ()
    assert not reader.untouched


def _head(fields: list[tuple[str, str]]) -> bytes:
    return HEAD + b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in fields)


_names = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,12}", fullmatch=True).filter(
    lambda name: (
        name.lower() not in {"content-length", "transfer-encoding", "connection", "upgrade", "proxy-connection"}
    )
)
_values = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20).filter(
    lambda value: all(not 0x7F <= ord(char) < 0xA0 for char in value)
)


@given(
    fields=st.lists(st.tuples(_names, _values), max_size=8),
    pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    chunked=st.booleans(),
    cuts=st.lists(st.integers(1, 400), max_size=6),
)
def test_property_any_segmentation_reads_as_h11_does(
    fields: list[tuple[str, str]], pieces: list[bytes], chunked: bool, cuts: list[int]
) -> None:
    body = b"".join(pieces)
    if chunked:
        coded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        data = _head(fields) + b"Transfer-Encoding: chunked\r\n\r\n" + coded
    else:
        data = _head(fields) + b"Content-Length: %d\r\n\r\n" % len(body) + body
    reader = ResponseReader()
    reader.begin(head_only=False)
    edges = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    for start, end in itertools.pairwise(edges):
        reader.feed(data[start:end])

    oracle = h11.Connection(h11.CLIENT)
    oracle.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    oracle.send(h11.EndOfMessage())
    oracle.receive_data(data)
    expected = oracle.next_event()
    assert isinstance(expected, h11.Response)
    seen = b""
    while isinstance(event := oracle.next_event(), h11.Data):
        seen += bytes(event.data)
    assert reader.done
    assert reader.head is not None
    assert [(name.encode(), value.encode("latin-1")) for name, value in reader.head.headers] == list(expected.headers)
    assert reader.take() == seen == body


@given(data=st.binary(max_size=300), prefix=st.sampled_from([b"", HEAD, CHUNKED, HEAD + b"Content-Length: 3\r\n"]))
def test_property_garbage_ends_in_a_coded_error_or_not_at_all(data: bytes, prefix: bytes) -> None:
    reader = ResponseReader()
    reader.begin(head_only=False)
    try:
        reader.feed(prefix + data)
        reader.eof(clean=True)
    except FaztError as error:
        assert error.reason in (Reason.PROTOCOL, Reason.RESPONSE_HEADERS)


def test_encodes_a_request() -> None:
    fields = (("Accept", "*/*"), ("X", "é"))
    head = encode_head("GET", "/a?b=c", authority="example.com:8080", fields=fields, body=None)
    assert head == b"GET /a?b=c HTTP/1.1\r\nHost: example.com:8080\r\nAccept: */*\r\nX: \xe9\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [("GET", None, None), ("POST", None, b"0"), ("PUT", b"", b"0"), ("DELETE", b"abc", b"3"), ("GET", b"ab", b"2")],
)
def test_says_how_long_the_body_is(method: str, body: bytes | None, length: bytes | None) -> None:
    head = encode_head(method, "/", authority="h", fields=(), body=body)
    assert head.count(b"Content-Length") == (length is not None)
    if length is not None:
        assert b"\r\nContent-Length: " + length + b"\r\n" in head


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ("/a b", ("A", "b")),
        ("/a\r\nX: y", ("A", "b")),
        ("/\0", ("A", "b")),
        ("http://h/", ("A", "b")),
        ("/☃", ("A", "b")),
        ("/", ("A\r\nB", "c")),
        ("/", ("A", "b\r\nC: d")),
        ("/", ("A", "b\nC: d")),
        ("/", ("A", "b\0")),
        ("/", ("A", "☃")),
    ],
)
def test_never_writes_what_would_end_a_line(target: str, field: tuple[str, str]) -> None:
    with pytest.raises(FaztError) as caught:
        encode_head("GET", target, authority="h", fields=(field,), body=None)
    assert caught.value.reason is Reason.BAD_OPTION


# --- the head as the caller sees it, and heads that come again


@pytest.mark.parametrize(
    ("line", "phrase", "version"),
    [
        (b"HTTP/1.1 200 OK", "OK", "HTTP/1.1"),
        (b"HTTP/1.0 200 OK", "OK", "HTTP/1.0"),
        (b"HTTP/1.1 404 Nichts da", "Nichts da", "HTTP/1.1"),
        (b"HTTP/1.1 418 I'm a Teapot", "I'm a Teapot", "HTTP/1.1"),
        (b"HTTP/1.1 200 ", "", "HTTP/1.1"),
        (b"HTTP/1.1 299 caf\xe9", "caf\xe9", "HTTP/1.1"),
    ],
)
def test_phrase_and_version_are_as_sent(line: bytes, phrase: str, version: str) -> None:
    head = read(line + b"\r\nContent-Length: 0" + END).head
    assert head is not None
    assert (head.phrase, head.version) == (phrase, version)


def test_the_same_head_again_says_the_same_and_another_does_not() -> None:
    reader = ResponseReader()
    plain = HEAD + b"Content-Length: 2" + END
    closing = HEAD + b"Content-Length: 3\r\nConnection: close" + END
    for head_only, message, body, keep in [
        (False, plain + b"ab", b"ab", True),
        (False, plain + b"cd", b"cd", True),
        (True, plain, b"", True),
        (False, plain + b"ef", b"ef", True),
        (False, closing + b"ghi", b"ghi", False),
        (False, plain + b"jk", b"jk", True),
    ]:
        reader.begin(head_only=head_only)
        reader.feed(message)
        assert (reader.done, reader.extra, reader.keep, reader.take()) == (True, False, keep, body)


@given(st.lists(st.sampled_from(sorted(REFUSED)), min_size=1, max_size=3), st.booleans())
def test_what_is_refused_is_refused_again(names: list[str], good_first: bool) -> None:
    reader = ResponseReader()
    for name in names:
        if good_first:
            reader.begin(head_only=False)
            reader.feed(HEAD + b"Content-Length: 0" + END)
            assert reader.done
        reader.begin(head_only=False)
        with pytest.raises(FaztError):
            reader.feed(REFUSED[name])


@given(st.lists(st.integers(0, 12_000), max_size=12), st.booleans())
def test_pieces_of_any_size_come_out_as_they_went_in(sizes: list[int], at_once: bool) -> None:
    """Small pieces are collected, large ones are not copied; neither shows."""
    pieces = [bytes([index]) * size for index, size in enumerate(sizes)]
    whole = b"".join(pieces)
    reader = read(HEAD + b"Content-Length: %d" % len(whole) + END)
    got = b""
    for piece in pieces:
        if piece:
            reader.feed(piece)
        if not at_once:
            got += reader.take()
    assert got + reader.take() == whole
    assert reader.done
    assert reader.size == 0
