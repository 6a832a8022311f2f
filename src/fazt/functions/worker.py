"""A worker process: confined at birth, bound to one app for its life, one invocation at a time.

It runs in a child of the zygote (`fazt.functions.zygote`) and talks to the host over one socket. It parses nothing of
what it relays, so that the loop stays lean and there is little here to attack.
"""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, NoReturn

from fazt.functions import sandbox
from fazt.functions.guestapi import AppBundle, BakeError, FrameError, ImageError, pack, unpack
from fazt.functions.protocol import MAX_SMALL, Link, Message, decode_invoke

if TYPE_CHECKING:
    from fazt.functions.guestapi import GuestEngine, Image


class AbortedError(Exception):
    """The host will not answer this call: the invocation is over."""


def serve(sock: socket.socket, engine: GuestEngine, plan: sandbox.SandboxPlan, *, parent: int) -> NoReturn:
    """Confine this process, then work for the host until it goes away. Never returns.

    Args:
        sock: the socket to the host; every other descriptor but 0, 1 and 2 is closed by now.
        engine: opened by the zygote.
        plan: what to confine to.
        parent: process id of the zygote.
    """
    link = Link(sock)
    try:
        report = sandbox.confine(plan, parent=parent)
        engine.start_watchdog()
        report = sandbox.seal(report, sock=sock.fileno())
        link.send(Message.READY, json.dumps(report.as_dict()).encode())
        if report.usable:
            _work(link, engine)
    except EOFError:  # the host closed the link: this worker is retired
        pass
    except BaseException as exc:  # noqa: BLE001 - the last edge of this process: tell the host, never unwind the fork
        _tell(link, exc)
    os._exit(0)


def _work(link: Link, engine: GuestEngine) -> None:
    kind, payload, fd = link.receive_with_fd()
    if kind == Message.BAKE:
        _bake(link, engine, payload)
        return  # a stranger's code has run: this worker is spent
    if kind != Message.OPEN or fd is None:
        raise FrameError("the first message to a worker binds it to an app")
    try:
        image = engine.open_image(fd)
    except ImageError as exc:
        _refuse(link, "image", str(exc))
        return
    os.close(fd)
    while True:
        kind, payload = link.receive()
        if kind != Message.INVOKE:
            raise FrameError("a worker between invocations takes nothing but the next one")
        link.send(Message.RESULT, _invoke(link, engine, image, payload))


def _invoke(link: Link, engine: GuestEngine, image: Image, payload: bytes) -> bytes:
    limits, seed, request = decode_invoke(payload)

    def call(frame: bytes) -> bytes:
        link.send(Message.CALL, frame)
        kind, reply = link.receive()
        if kind != Message.REPLY:
            raise AbortedError
        return reply

    def post(frame: bytes) -> None:
        link.send(Message.POST, frame)

    return engine.invoke(
        image,
        request,
        host=call,
        post=post,
        cpu_ms=limits.cpu_ms,
        wall_ms=limits.wall_ms,
        memory=limits.memory,
        max_output=limits.max_output,
        max_log_lines=limits.max_log_lines,
        seed=seed,
    )


def _bake(link: Link, engine: GuestEngine, payload: bytes) -> None:
    bundle, memory, cpu_ms = decode_bake(payload)
    try:
        data = engine.bake(bundle, memory=memory, cpu_ms=cpu_ms)
    except BakeError as exc:
        _refuse(link, exc.kind, exc.message, path=exc.path)
        return
    link.send(Message.BAKED, data)


def encode_bake(bundle: AppBundle, *, memory: int, cpu_ms: float) -> bytes:
    """Make the payload of a BAKE message."""
    files, parts, at = [], [], 0
    for path, data in bundle.files.items():
        files.append([path, at, len(data)])
        parts.append(data)
        at += len(data)
    header = {"id": bundle.app_id, "name": bundle.name, "version": bundle.version, "files": files}
    return pack({**header, "memory": memory, "cpuMs": cpu_ms}, b"".join(parts))


def decode_bake(payload: bytes) -> tuple[AppBundle, int, float]:
    """Return bundle, memory limit in bytes and CPU limit in ms of a BAKE payload."""
    header, blob = unpack(payload)
    files = {path: blob[start : start + size] for path, start, size in header["files"]}
    bundle = AppBundle(header["id"], header["name"], files, header["version"])
    return bundle, int(header["memory"]), float(header["cpuMs"])


def _refuse(link: Link, kind: str, message: str, *, path: str | None = None) -> None:
    text = json.dumps({"kind": kind, "message": message[:8_192], "path": path and path[:1_024]})
    link.send(Message.REFUSED, text.encode()[:MAX_SMALL])


def _tell(link: Link, exc: BaseException) -> None:
    try:
        link.send(Message.FAILED, f"{type(exc).__name__}: {exc}".encode("utf-8", "replace")[:MAX_SMALL])
    except OSError:  # the host is gone as well
        pass
