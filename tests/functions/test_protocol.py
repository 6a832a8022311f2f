"""Framing, and the checks that an untrusted frame goes through before anything parses it."""

import asyncio
import os
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fazt.functions.channel import Channel
from fazt.functions.guestapi import MAX_CALL_BODY, FrameError, pack
from fazt.functions.invocation import InvokeLimits
from fazt.functions.protocol import (
    HEAD,
    MAX_DEPTH,
    MAX_POST,
    SEED_BYTES,
    Link,
    Message,
    cap_of,
    check_frame,
    checked_unpack,
    decode_invoke,
    encode,
    encode_invoke,
    send_fd,
)


def test_an_invocation_survives_the_way_to_the_worker() -> None:
    limits = InvokeLimits(cpu_ms=1.5, wall_ms=9, memory=3, max_output=4, max_log_lines=5)
    seed = bytes(range(SEED_BYTES))
    message = encode_invoke(limits, wall_ms=7.25, seed=seed, request=b"frame")
    got, got_seed, request = decode_invoke(message[HEAD.size :])
    assert (got.cpu_ms, got.wall_ms, got.memory, got.max_output, got.max_log_lines) == (1.5, 7.25, 3, 4, 5)
    assert (got_seed, request) == (seed, b"frame")


def test_only_what_a_worker_says_has_a_cap_and_the_caps_are_small() -> None:
    from_worker = {Message.READY, Message.FAILED, Message.REFUSED, Message.POST, Message.CALL, Message.RESULT}
    for kind in Message:
        cap = cap_of(kind, answer=1_000)
        assert (cap >= 0) == (kind in from_worker | {Message.BAKED})
    assert cap_of(99, answer=1) == -1
    assert cap_of(Message.POST, answer=1) == MAX_POST
    assert cap_of(Message.CALL, answer=1) < MAX_CALL_BODY + (1 << 20)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\1\0\0",
        b"\5\0\0\0{}",
        b"\xff\xff\xff\xff{}",
        pack({"a": "x" * 300}),
        b"\2\0\0\0[]",
        b"\3\0\0\0nul",
        b"\0\0\0\0{}",
    ],
)
def test_a_frame_that_is_not_one_is_refused(frame: bytes) -> None:
    with pytest.raises(FrameError):
        checked_unpack(frame, max_header=256)


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    text = b'{"a":' + opening * depth + closing * depth + b"}"
    return len(text).to_bytes(4, "little") + text


def test_depth_is_measured_before_parsing() -> None:
    check_frame(nested(MAX_DEPTH - 1), max_header=1 << 20)
    for depth in (MAX_DEPTH, 100_000):
        with pytest.raises(FrameError, match="deeper"):
            check_frame(nested(depth), max_header=1 << 20)


def test_brackets_in_strings_are_not_depth() -> None:
    header, body = checked_unpack(pack({"a": "[" * 1_000 + '\\"{' * 50, "b": ["}"] * 40}, b"raw"), max_header=1 << 16)
    assert header["a"] == "[" * 1_000 + '\\"{' * 50
    assert body == b"raw"


@pytest.mark.parametrize("filling", [b'\\"', b'"', b"\\", b"[", b'"["', b'"\\\\'])
def test_measuring_takes_time_in_proportion_to_the_size(filling: bytes) -> None:
    text = b"[" * (MAX_DEPTH + 1) + (filling * (1 << 18))[: 1 << 18]
    frame = len(text).to_bytes(4, "little") + text
    began = time.process_time()
    with pytest.raises(FrameError):
        check_frame(frame, max_header=1 << 20)
    assert time.process_time() - began < 2  # a quadratic pattern would take minutes


def test_a_link_carries_small_large_and_glued_messages() -> None:
    ours, theirs = socket.socketpair()
    large = os.urandom(1 << 20)
    sent = [(Message.POST, b""), (Message.CALL, large), (Message.POST, b"x"), (Message.RESULT, large[:70_000])]

    def write() -> None:
        link = Link(theirs)
        for kind, payload in sent:
            link.send(kind, payload)
        theirs.close()

    with ours:
        writer = threading.Thread(target=write)
        writer.start()
        link = Link(ours)
        assert [link.receive() for _ in sent] == sent
        with pytest.raises(EOFError):
            link.receive()
        writer.join()


def test_descriptors_ride_on_their_own_message_even_when_several_wait() -> None:
    ours, theirs = socket.socketpair()
    pipes = [os.pipe() for _ in range(3)]
    with ours, theirs:
        link = Link(ours)
        for number, (read, _) in enumerate(pipes):
            send_fd(theirs, encode(Message.SPAWN, bytes([number])), read)
        theirs.sendall(encode(Message.KILL, b"none"))
        for number, (_, write) in enumerate(pipes):
            kind, payload, fd = link.receive_with_fd()
            assert (kind, payload) == (Message.SPAWN, bytes([number]))
            assert fd is not None
            os.write(write, bytes([65 + number]))
            assert os.read(fd, 1) == bytes([65 + number])
            for done in (fd, *pipes[number]):
                os.close(done)
        assert link.receive_with_fd() == (Message.KILL, b"none", None)


def converse(chunks: list[bytes], cap: int = 1_000) -> tuple[list[tuple[int, bytes]], list[str]]:
    """Feed a channel; return what it handed over and why it closed."""

    async def scenario() -> tuple[list[tuple[int, bytes]], list[str]]:
        got: list[tuple[int, bytes]] = []
        closed: list[str] = []
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        channel = Channel(
            loop,
            ours,
            cap=lambda kind: cap if kind == Message.POST else -1,
            on_message=lambda kind, payload: got.append((kind, payload)),
            on_close=lambda why, _: closed.append(why),
        )
        with theirs:
            for chunk in chunks:
                try:
                    await loop.sock_sendall(theirs, chunk)
                except OSError:
                    break
                await asyncio.sleep(0)
            theirs.shutdown(socket.SHUT_WR)
            while not closed:
                await asyncio.sleep(0)
        assert channel.closed
        return got, closed

    return asyncio.run(scenario())


@given(
    payloads=st.lists(st.binary(max_size=40), max_size=8), cuts=st.lists(st.integers(1, 30), min_size=1, max_size=20)
)
def test_a_channel_finds_the_messages_however_the_bytes_arrive(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(encode(Message.POST, payload) for payload in payloads)
    chunks, at = [], 0
    while at < len(stream):
        step = cuts[len(chunks) % len(cuts)]
        chunks.append(stream[at : at + step])
        at += step
    got, closed = converse(chunks)
    assert got == [(Message.POST, payload) for payload in payloads]
    assert closed == ["the process ended"]


def test_a_channel_refuses_by_the_head_alone() -> None:
    good = encode(Message.POST, b"ok")
    for bad in (HEAD.pack(1_001, Message.POST), HEAD.pack(0, Message.RESULT), HEAD.pack(0xFFFFFFFF, Message.POST)):
        got, closed = converse([good + bad, good])
        assert got == [(Message.POST, b"ok")]
        assert len(closed) == 1
        assert "not allowed" in closed[0]


def test_a_channel_writes_more_than_the_socket_takes() -> None:
    async def scenario() -> bool:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        channel = Channel(loop, ours, cap=lambda _: 0, on_message=lambda *_: None, on_close=lambda *_: None)
        payload = os.urandom(3 << 20)
        channel.send(Message.REPLY, payload)
        channel.send(Message.ABORT)
        wanted = encode(Message.REPLY, payload) + encode(Message.ABORT)
        got = bytearray()
        with theirs:
            while len(got) < len(wanted):
                got += await loop.sock_recv(theirs, 1 << 20)
        channel.close()
        channel.close()
        channel.send(Message.ABORT)
        return bytes(got) == wanted

    assert asyncio.run(scenario())


@pytest.mark.parametrize(
    "part", ['["a","b"],', "[],", "{},", "1,", '"",', '{"a":0},', '"\\"",', "1e9,"], ids=lambda part: part.strip(",")
)
def test_many_small_parts_are_refused_before_they_cost_anything(part: str) -> None:
    text = ('{"op":"fetch","headers":[' + part * ((200 << 10) // len(part)) + "0]}").encode()
    frame = len(text).to_bytes(4, "little") + text
    began = time.process_time()
    with pytest.raises(FrameError, match="parts"):
        checked_unpack(frame, max_header=1 << 20)
    assert time.process_time() - began < 0.1  # parsing it would hold up the host's loop for longer than that


def test_the_largest_frame_of_an_honest_guest_is_no_bomb() -> None:
    fields = [[f"x-name-{n}", '"\\[{' * 100] for n in range(128)]
    sent = {"op": "fetch", "url": "https://a.test/?" + '["' * 4_000, "headers": fields, "timeout": None}
    assert checked_unpack(pack(sent), max_header=1 << 20)[0] == sent
    odd = {"a": ["\\", '\\"', '"', "[\\\\\\", "]" * 9_000], "b": "\\" * 9_000}
    assert checked_unpack(pack(odd), max_header=1 << 20)[0] == odd


@pytest.mark.parametrize("waiting", [b"", b"x" * (8 << 20)], ids=["at once", "when there is room"])
def test_last_words_are_heard_when_nothing_can_be_sent_any_more(waiting: bytes) -> None:
    async def scenario() -> list[object]:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        heard: list[object] = []
        ended = loop.create_future()

        def gone(why: str, broke: bool) -> None:
            heard.append((why, broke))
            ended.set_result(None)

        channel = Channel(
            loop, ours, cap=lambda _: 100, on_message=lambda kind, data: heard.append((kind, data)), on_close=gone
        )
        if waiting:
            channel.send(Message.INVOKE, waiting)
            loop.remove_reader(ours.fileno())  # so that it is the sending that fails first
        theirs.send(encode(Message.REFUSED, b"why"))
        theirs.close()
        channel.send(Message.INVOKE, b"request")
        await asyncio.wait_for(ended, 5)
        return heard

    heard = asyncio.run(scenario())
    assert heard[0] == (Message.REFUSED, b"why")
    assert len(heard) == 2
