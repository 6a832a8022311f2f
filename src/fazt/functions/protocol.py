"""What the host, the zygote and the workers say to each other: framing, message types, and checks of what comes in.

Two links use it. *Control* (host and zygote) carries small JSON messages. *Work* (host and one worker) carries guest
frames unparsed. A message is a 5-byte head (payload length, little-endian, and one byte of type) and the payload; a
descriptor may ride on a message that the host sends.

The host believes nothing that a worker says once a stranger's code has run in it: every type has a cap and a moment
in which it may come, and JSON is measured before it is parsed.
"""

from __future__ import annotations

import array
import re
import socket
import struct
from enum import IntEnum
from typing import Final

from fazt.functions.guestapi import MAX_CALL_BODY, FrameError, unpack
from fazt.functions.invocation import InvokeLimits

HEAD: Final = struct.Struct("<IB")
MAX_SMALL: Final = 64 * 1024
"""Cap in bytes of a control message and of a worker's report."""
MAX_POST: Final = 64 * 1024
"""Cap in bytes of one post: a log line of `MAX_LOG_LINE`, every character of it escaped."""
MAX_CALL_HEADER: Final = 256 * 1024
"""Cap in bytes of the JSON part of a host call: URL and headers."""
MAX_RESULT_HEADER: Final = 1024 * 1024
"""Cap in bytes of the JSON part of a result."""
MAX_DEPTH: Final = 16
"""How deeply the JSON of a guest's frame may nest."""
MAX_STRUCTURE: Final = 8 * 1024
"""Characters outside of strings, and quotes, in the JSON of a guest's frame: some ten times what 128 header fields
need. Small objects cost a thousand times what a long string costs, and it is the host's loop that parses them."""

_CHUNK: Final = 64 * 1024
_LIMITS = struct.Struct("<ddQQQ")  # cpu_ms, wall_ms, memory, max_output, max_log_lines
SEED_BYTES: Final = 16


class Message(IntEnum):
    """Types of messages; the comment names who sends it."""

    # control
    CONFIGURE = 1  # host: JSON, how to start
    SERVING = 2  # zygote: JSON, the engine that was opened
    FAILED = 3  # zygote: text, why it can't serve; worker: text, why it can't be used
    SPAWN = 4  # host: worker id, with the worker's socket
    SPAWNED = 5  # zygote: worker id and process id
    KILL = 6  # host: worker id
    YIELD = 7  # host: worker id; lower its priority
    EXITED = 8  # zygote: worker id and wait status
    # work
    READY = 16  # worker: JSON, its sandbox report
    OPEN = 17  # host: JSON, with the image's descriptor
    INVOKE = 18  # host: limits, seed, request frame
    CALL = 19  # worker: host-call frame
    REPLY = 20  # host: reply frame
    ABORT = 21  # host: there will be no reply; end the invocation
    POST = 22  # worker: frame without reply
    RESULT = 23  # worker: result frame
    REFUSED = 24  # worker: JSON, why it can't open the image or bake the app
    BAKE = 25  # host: bundle to bake
    BAKED = 26  # worker: an image


def encode(kind: Message, payload: bytes = b"") -> bytes:
    """Make the bytes of one message."""
    return HEAD.pack(len(payload), kind) + payload


def cap_of(kind: int, *, answer: int) -> int:
    """Return the most bytes a worker's message of this type may have; -1 for a type that no worker sends.

    Args:
        kind: the type.
        answer: bytes that the body of a result, or an image, may have.
    """
    match kind:
        case Message.READY | Message.FAILED | Message.REFUSED:
            return MAX_SMALL
        case Message.POST:
            return MAX_POST
        case Message.CALL:
            return 4 + MAX_CALL_HEADER + MAX_CALL_BODY
        case Message.RESULT:
            return 4 + MAX_RESULT_HEADER + answer
        case Message.BAKED:
            return answer
        case _:
            return -1


def encode_invoke(limits: InvokeLimits, *, wall_ms: float, seed: bytes, request: bytes) -> bytes:
    """Make an INVOKE message; `wall_ms` is what is left of the limit when the worker gets it."""
    fixed = _LIMITS.pack(limits.cpu_ms, wall_ms, limits.memory, limits.max_output, limits.max_log_lines)
    return encode(Message.INVOKE, fixed + seed + request)


def decode_invoke(payload: bytes) -> tuple[InvokeLimits, bytes, bytes]:
    """Return limits, seed and request frame of an INVOKE payload."""
    cpu_ms, wall_ms, memory, max_output, max_log_lines = _LIMITS.unpack_from(payload)
    at = _LIMITS.size + SEED_BYTES
    limits = InvokeLimits(cpu_ms, wall_ms, memory, max_output, max_log_lines)
    return limits, payload[_LIMITS.size : at], payload[at:]


# -- the blocking end: zygote and worker -------------------------------------------------------------------------------


class Link:
    """The blocking end of a link. One peer, one thread; EOFError when the peer is gone."""

    __slots__ = ("_held", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._held = b""

    def send(self, kind: Message, payload: bytes = b"") -> None:
        """Send one message."""
        if len(payload) < _CHUNK:
            self.sock.sendall(HEAD.pack(len(payload), kind) + payload)
        else:  # a copy of a large body costs more than a second system call
            self.sock.sendall(HEAD.pack(len(payload), kind))
            self.sock.sendall(payload)

    def receive(self) -> tuple[int, bytes]:
        """Wait for one message; a descriptor on it is lost (see `receive_with_fd`)."""
        data = self._held or self._more()
        while len(data) < HEAD.size:
            data += self._more()
        length, kind = HEAD.unpack_from(data)
        end = HEAD.size + length
        if len(data) >= end:
            self._held = data[end:]
            return kind, data[HEAD.size : end]
        self._held = b""
        return kind, data[HEAD.size :] + self._exactly(end - len(data))

    def receive_with_fd(self) -> tuple[int, bytes, int | None]:
        """Wait for one message and take the descriptor that rides on its first byte, if there is one.

        Nothing behind the message is read: a descriptor on the next one would be lost.
        """
        fds = array.array("i")
        head, ancillary, _, _ = self.sock.recvmsg(HEAD.size, socket.CMSG_SPACE(fds.itemsize))
        for level, what, raw in ancillary:
            if level == socket.SOL_SOCKET and what == socket.SCM_RIGHTS:
                fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
        if len(head) < HEAD.size:
            head += self._exactly(HEAD.size - len(head))
        length, kind = HEAD.unpack(head)
        return kind, self._exactly(length), fds[0] if fds else None

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count > 0:
            chunk = self.sock.recv(min(count, 1 << 20))
            if not chunk:
                raise EOFError
            parts.append(chunk)
            count -= len(chunk)
        return b"".join(parts)

    def _more(self) -> bytes:
        chunk = self.sock.recv(_CHUNK)
        if not chunk:
            raise EOFError
        return chunk


def send_fd(sock: socket.socket, message: bytes, fd: int) -> None:
    """Send a small message with a descriptor on it.

    Raises:
        OSError: the peer is gone, or its buffer is full (which an idle link's never is).
    """
    sent = sock.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    if sent != len(message):
        raise BlockingIOError("the link's buffer is full")


# -- checks of a guest's frame -----------------------------------------------------------------------------------------

_BRACKETS = re.compile(rb"[\[\]{}]")


def check_frame(frame: bytes, *, max_header: int) -> None:
    """Measure the JSON part of a guest's frame without parsing it.

    Raises:
        FrameError: shorter than it says, larger than allowed, nested too deeply, or of more parts than a guest needs.
    """
    size = int.from_bytes(frame[:4], "little")
    if len(frame) < 4 or size > len(frame) - 4:
        raise FrameError("the header is longer than the frame")
    if size > max_header:
        raise FrameError(f"the header is larger than {max_header} bytes")
    header = frame[4 : 4 + size]
    if size <= MAX_STRUCTURE and header.count(b"{") + header.count(b"[") <= MAX_DEPTH:
        return  # nearly always
    structure = _structure(header)
    if _depth(structure[:MAX_STRUCTURE]) > MAX_DEPTH:
        raise FrameError(f"the header nests deeper than {MAX_DEPTH}")
    if len(structure) > MAX_STRUCTURE:
        raise FrameError("the header has too many parts")


def checked_unpack(frame: bytes, *, max_header: int) -> tuple[dict[str, object], bytes]:
    """Measure, then split a guest's frame into its JSON object and raw bytes.

    Raises:
        FrameError: as `check_frame`, or not a JSON object.
    """
    check_frame(frame, max_header=max_header)
    return unpack(frame)


def _structure(header: bytes) -> bytes:
    """Return what stands outside of strings, in plain operations on bytes: a pattern would cost as much as parsing."""
    text = header.replace(rb"\\", b"").replace(rb"\"", b"")  # in this order: a backslash may stand before a quote
    if text.count(b'"') > MAX_STRUCTURE:
        raise FrameError("the header has too many parts")
    return b"".join(text.split(b'"')[::2])


def _depth(structure: bytes) -> int:
    deepest = depth = 0
    for bracket in _BRACKETS.finditer(structure):
        depth += 1 if bracket[0] in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest
