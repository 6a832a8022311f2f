"""The host's side of the zygote: start it, order workers, and start it again when it dies."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fazt.functions.channel import Channel
from fazt.functions.protocol import MAX_SMALL, Message
from fazt.functions.zygote import ZygoteConfig, unpair

_BOOT = "import sys; sys.path.append(sys.argv.pop()); from fazt.functions.zygote import main; main()"
_ROOT = str(Path(__file__).resolve().parents[2])
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0  # seconds between starts of a zygote that keeps dying
_GRACE = 2.0  # seconds a closed zygote has to end its workers before it is killed
_FROM_ZYGOTE = {Message.SERVING, Message.FAILED, Message.SPAWNED, Message.EXITED}


@dataclass(frozen=True, slots=True)
class Events:
    """What the spawner tells its owner. `on_exited` gets a wait status; `on_lost` means that all workers are gone."""

    on_serving: Callable[[], None]
    on_spawned: Callable[[int, int], None]
    on_exited: Callable[[int, int], None]
    on_lost: Callable[[str], None]


class Spawner:
    """Keeps one zygote alive.

    Args:
        config: how to start it.
        events: whom to tell.
    """

    def __init__(self, config: ZygoteConfig, events: Events) -> None:
        self._config = config
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._burials: set[asyncio.Task[None]] = set()
        self._pause = _FIRST_PAUSE
        self._again: asyncio.TimerHandle | None = None
        self._closed = False
        self.serving = False
        self.starts = 0
        self.pid: int | None = None
        self.engine_kind = ""
        self.fingerprint = ""
        self.failure: str | None = None

    def start(self) -> None:
        """Start a zygote in the calling thread, with which it dies (PR_SET_PDEATHSIG is bound to the thread).

        Raises:
            OSError: no process could be started.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-I", "-c", _BOOT, str(theirs.fileno()), _ROOT]
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    command,
                    env={},  # no secret of the host may reach a worker
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        self.starts += 1
        self._channel = Channel(
            self._loop,
            ours,
            cap=lambda kind: MAX_SMALL if kind in _FROM_ZYGOTE else -1,
            on_message=self._on_message,
            on_close=self._on_lost,
        )
        self._channel.send(Message.CONFIGURE, self._config.encode())

    def spawn(self, worker: int, sock: socket.socket) -> bool:
        """Order a worker that talks on `sock`; False when no zygote is serving."""
        if not self.serving or self._channel is None:
            return False
        try:
            self._channel.send_with_fd(Message.SPAWN, worker.to_bytes(8, "little"), sock.fileno())
        except OSError:  # it is dying; `on_lost` follows
            return False
        return True

    def kill(self, worker: int) -> None:
        """Kill a worker at once. The zygote does it because only there a process id can't have been used again."""
        self._order(Message.KILL, worker)

    def slow_down(self, worker: int) -> None:
        """Let other processes go first from now on."""
        self._order(Message.YIELD, worker)

    async def close(self) -> None:
        """End the zygote and every worker, and wait until they are gone."""
        self._closed = True
        self.serving = False
        if self._again is not None:
            self._again.cancel()
        if self._channel is not None:
            self._channel.close()  # it sees the end of the link, kills its workers, reaps them and exits
        if self._process is not None:
            await _bury(self._process)
            self._process = None
        if self._burials:
            await asyncio.wait(self._burials)

    def _order(self, kind: Message, worker: int) -> None:
        if self._channel is not None:
            self._channel.send(kind, worker.to_bytes(8, "little"))

    def _on_message(self, kind: int, payload: bytes) -> None:
        match kind:
            case Message.SERVING:
                told = json.loads(payload)
                self.pid, self.engine_kind, self.fingerprint = told["pid"], told["kind"], told["fingerprint"]
                self.serving = True
                self.failure = None
                self._events.on_serving()
            case Message.SPAWNED:
                self._pause = _FIRST_PAUSE
                self._events.on_spawned(*unpair(payload))
            case Message.EXITED:
                self._events.on_exited(*unpair(payload))
            case _:
                self.failure = payload.decode("utf-8", "replace")

    def _on_lost(self, why: str, _broke: bool = False) -> None:
        self.serving = False
        self.pid = None
        self._channel = None
        process, self._process = self._process, None
        if process is not None:
            task = self._loop.create_task(_bury(process))
            self._burials.add(task)
            task.add_done_callback(self._burials.discard)
        self._events.on_lost(self.failure or why)
        if not self._closed:
            self._again = self._loop.call_later(self._pause, self._start_again)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _start_again(self) -> None:
        if self._closed:
            return
        try:
            self.start()
        except OSError as exc:  # no process or descriptor to be had: the same as a zygote that died
            self.failure = f"no zygote could be started: {os.strerror(exc.errno or 0)}"
            self._on_lost(self.failure)


async def _bury(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process whose link is closed; kill it if it stays."""
    patience = _GRACE
    while process.poll() is None:
        if patience <= 0:
            process.kill()
        patience -= 0.005
        await asyncio.sleep(0.005)
