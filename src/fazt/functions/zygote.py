"""The zygote: a small single-threaded process that opens the engine once and forks workers from it.

It is started by the host with an empty environment, so no secret is in its memory or its children's. It never sees
anything of an app: images and requests go from the host to a worker directly. It dies with the host, and the workers
die with it.
"""

from __future__ import annotations

import codecs
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from fazt.functions import guestapi, worker
from fazt.functions.libc import PR_SET_PDEATHSIG, prctl
from fazt.functions.protocol import MAX_SMALL, Link, Message
from fazt.functions.sandbox import ADDRESS_SPACE, DATA, NICE, SandboxPlan, freeze_code, memory_now

if TYPE_CHECKING:
    from collections.abc import Callable

    from fazt.functions.guestapi import GuestEngine

_UIDS = 1_900_000_000  # a range that systemd's table of user ids leaves unused; each worker gets one of its own
_UID_COUNT = 100_000
_SPARE_FILES = 4  # an app's image, its copy, and slack
_FORK_FAILED = 0xFF00  # a wait status: exit code 255
_YIELDED = 15  # nice value of a worker that keeps a processor busy for long


@dataclass(frozen=True, slots=True)
class ZygoteConfig:
    """How to start a zygote.

    Args:
        host: process id of the host.
        engine: "auto", "wasm", "jsbox", or "module:function" naming a function without arguments (for tests).
        cache_dir: where the compiled guest is kept.
        path: entries of the host's module search path.
        data: bytes of private writable memory that a worker may have beyond the zygote's.
        address_space: bytes of address space that a worker may have beyond the zygote's.
        nice: `SandboxPlan.nice` of the workers.
    """

    host: int
    engine: str = "auto"
    cache_dir: str | None = None
    path: tuple[str, ...] = ()
    data: int = DATA
    address_space: int = ADDRESS_SPACE
    nice: int = NICE

    def encode(self) -> bytes:
        """Make the payload of a CONFIGURE message."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, payload: bytes) -> ZygoteConfig:
        """Read what `encode` made."""
        data = json.loads(payload)
        return cls(**{**data, "path": tuple(data["path"])})


def main() -> NoReturn:
    """Serve the host on the descriptor named by the first argument until it goes away."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The host decides when its workers end, not a Ctrl-C or a service manager that signals every process at once
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.environ.clear()  # the interpreter adds LC_CTYPE by itself (PEP 538)
    link = Link(socket.socket(fileno=int(sys.argv[1])))
    try:
        _, payload = link.receive()
        config = ZygoteConfig.decode(payload)
        if os.getppid() == config.host:
            _Zygote(link, config).run()
    except (EOFError, ConnectionError):  # the host is gone
        pass
    except BaseException as exc:  # noqa: BLE001 - the last edge of this process: the host reports it
        link.send(Message.FAILED, f"{type(exc).__name__}: {exc}".encode("utf-8", "replace")[:MAX_SMALL])
    os._exit(0)


def open_engine(config: ZygoteConfig) -> GuestEngine:
    """Open the engine that a configuration names, and load what a worker, which opens no file, might want later."""
    for encoding in ("ascii", "latin-1", "utf-8-sig", "utf-16-le"):
        codecs.lookup(encoding)
    sys.path.extend(entry for entry in config.path if entry not in sys.path)
    if ":" in config.engine:
        module, _, name = config.engine.partition(":")
        factory = cast("Callable[[], GuestEngine]", getattr(importlib.import_module(module), name))
        return factory()
    kind = cast("Any", config.engine)
    return guestapi.open_engine(kind, cache_dir=Path(config.cache_dir) if config.cache_dir else None)


class _Zygote:
    def __init__(self, link: Link, config: ZygoteConfig) -> None:
        self.link = link
        self.config = config
        before = _descriptors()
        self.engine = open_engine(config)
        freeze_code()
        self.engine_files = _descriptors() - before  # wasmtime maps initial memory from the compiled guest
        self.size, self.data = memory_now()  # a child starts with the same
        self.pids: dict[int, int] = {}  # process id -> worker id
        self.workers: dict[int, int] = {}  # worker id -> process id
        self.forks = 0
        self.woken, self.wake = os.pipe()
        os.set_blocking(self.woken, False)
        os.set_blocking(self.wake, False)

    def run(self) -> None:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake, warn_on_full_buffer=False)
        threads = _threads()
        if threads > 1:  # fork would leave the child with locks that nobody holds
            raise RuntimeError(f"the engine started {threads - 1} thread(s) in the zygote")
        serving = {"pid": os.getpid(), "kind": self.engine.kind, "fingerprint": self.engine.fingerprint}
        gc.collect()
        gc.freeze()  # workers share these pages as long as no collection touches them
        self.link.send(Message.SERVING, json.dumps(serving).encode())
        poll = select.poll()
        poll.register(self.link.sock, select.POLLIN)
        poll.register(self.woken, select.POLLIN)
        try:
            while True:
                ready = [fd for fd, _ in poll.poll()]
                if self.woken in ready:
                    self._reap()
                if self.link.sock.fileno() in ready:
                    self._obey()
        finally:
            self._end()

    def _obey(self) -> None:
        kind, payload, fd = self.link.receive_with_fd()
        name = int.from_bytes(payload, "little")
        if kind == Message.SPAWN and fd is not None:
            self._spawn(name, fd)
        elif kind == Message.KILL and name in self.workers:
            os.kill(self.workers[name], signal.SIGKILL)  # not reaped yet, so the id is still this worker's
        elif kind == Message.YIELD and name in self.workers:
            with contextlib.suppress(OSError):  # it has just ended; or its priority isn't ours to change
                os.setpriority(os.PRIO_PROCESS, self.workers[name], _YIELDED)

    def _spawn(self, name: int, fd: int) -> None:
        plan = SandboxPlan(
            profile="strict" if self.engine.kind != "jsbox" else "development",
            data=self.data + self.config.data,
            address_space=self.size + self.config.address_space,
            uid=_UIDS + self.forks % _UID_COUNT,
            nice=self.config.nice,
            open_files=max((fd, *self.engine_files)) + _SPARE_FILES,
        )
        self.forks += 1
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError:  # out of processes or memory; the host tries again later
            os.close(fd)
            self.link.send(Message.EXITED, _pair(name, _FORK_FAILED))
            return
        if pid == 0:
            try:
                self.link.sock.detach()  # its number may mean something else from here on
                _keep_only(self.engine_files | {fd})
                worker.serve(socket.socket(fileno=fd), self.engine, plan, parent=parent)
            finally:  # whatever happens, the child never runs the zygote's loop
                os._exit(1)
        os.close(fd)
        self.pids[pid] = name
        self.workers[name] = pid
        self.link.send(Message.SPAWNED, _pair(name, pid))

    def _reap(self) -> None:
        try:
            while os.read(self.woken, 512):
                pass
        except BlockingIOError:
            pass
        while self.pids:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            name = self.pids.pop(pid)
            del self.workers[name]
            self.link.send(Message.EXITED, _pair(name, status))

    def _end(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        for pid in self.pids:
            os.waitpid(pid, 0)


def _keep_only(kept: frozenset[int]) -> None:
    """Reduce a forked child to the standard descriptors, pointing nowhere, and those given."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    low = 3
    for number in sorted(kept):
        os.closerange(low, number)
        low = number + 1
    os.closerange(low, min(os.sysconf("SC_OPEN_MAX"), 1 << 20))


def _descriptors() -> frozenset[int]:
    """Return the open descriptors above the standard ones."""
    try:
        found = {int(name) for name in os.listdir("/proc/self/fd")}
    except OSError:  # not Linux
        found = set(range(3, 64))
    return frozenset(number for number in found if number > 2 and _is_open(number))


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _pair(name: int, value: int) -> bytes:
    return name.to_bytes(8, "little") + value.to_bytes(8, "little")


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:  # not Linux
        return 1


def unpair(payload: bytes) -> tuple[int, int]:
    """Read what a SPAWNED or EXITED message carries: worker id, and process id or wait status."""
    return int.from_bytes(payload[:8], "little"), int.from_bytes(payload[8:16], "little")


if __name__ == "__main__":
    main()
