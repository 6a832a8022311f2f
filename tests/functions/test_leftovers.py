"""Nothing is left behind: no process, no zombie, however the host ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)

HOST = """
import asyncio, os, sys
from pathlib import Path
from fazt.functions.guestapi import pack
from fazt.functions.host import AppImage, FunctionHost, InvokeLimits

async def main():
    host = FunctionHost(engine_kind="fake_engine:make", workers=3, search_path=(sys.argv[1],))
    await host.start(seconds=20)
    hang = Path(sys.argv[2]) / "hang"
    hang.write_text("import os, time; call({'pid': os.getpid()})\\nwhile True: pass")
    async def told(header, body):
        print(header["pid"], host.report()["zygote"]["pid"], flush=True)
        return pack({"ok": {}})
    limits = InvokeLimits(wall_ms=60_000, memory=1 << 20)
    await host.invoke(AppImage("a", hang, "1"), pack({}), limits=limits, on_host_call=told, on_log=print)

asyncio.run(main())
"""


def gone(pid: int, *, within: float = 10.0) -> bool:
    """Whether a process ends; a zombie that its new parent hasn't collected yet counts as ended."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_host(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-c", HOST, HERE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        worker, zygote = (int(word) for word in process.stdout.readline().split())
        family = [worker, zygote, *children(zygote)]
        assert len(family) >= 4
        process.send_signal(number)
        process.wait(timeout=10)
    assert [pid for pid in family if not gone(pid)] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_to_the_whole_group_are_the_hosts_business(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-c", HOST, HERE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        worker, zygote = (int(word) for word in process.stdout.readline().split())
        assert os.getsid(zygote) == zygote != os.getsid(process.pid)
        for pid in (zygote, worker):
            os.kill(pid, number)
        assert not gone(worker, within=0.1)
        assert not gone(zygote, within=0.1)
        process.kill()
    assert gone(worker)
    assert gone(zygote)


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]
