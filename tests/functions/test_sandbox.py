"""A worker gives up everything it doesn't need: tried from inside, looked at from outside."""

import asyncio
import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fazt.functions.host import FunctionHost, FunctionsUnavailableError
from fazt.functions.sandbox import SandboxReport, verify_outside

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sandbox is made of Linux parts")

FULL = SandboxReport(
    platform="linux",
    arch="x86_64",
    arch_verified=True,
    seccomp=True,
    landlock_abi=6,
    netns=True,
    uid_dropped=True,
    no_new_privs=True,
    capabilities_dropped=True,
    checks=40,
)

ESCAPES = {
    "an internet socket": "import socket; socket.socket()",
    "a unix socket": "import socket; socket.socket(socket.AF_UNIX)",
    "a socket pair": "import socket; socket.socketpair()",
    "reading a file": "open('/etc/passwd')",
    "reading itself": "open('/proc/self/environ')",
    "writing a file": "open('/tmp/escaped', 'w')",
    "listing a directory": "import os; os.listdir('/')",
    "stat": "import os; os.stat('/')",
    "a memory file": "import os; os.memfd_create('x')",
    "a pipe": "import os; os.pipe()",
    "fork": "import os; os.fork() or os._exit(0)",
    "a thread": "import _thread; _thread.start_new_thread(print, ())",
    "a program": "import os; os.execv('/bin/true', ['true'])",
    "a process": "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "signals to the host": "import os; os.kill(request['host'], 0)",
    "signals to itself by kill": "import os; os.kill(request['own'], 9)",
    "signals to everybody": "import os; os.kill(-1, 9)",
    "executable memory": "import mmap; mmap.mmap(-1, 4096, prot=7)",
    "more rights": "import os; os.setuid(0)",
    "wider limits": "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))",
    "another priority": "import os; os.nice(-5)",
    "waiting for others": "import os; os.waitpid(-1, 0)",
}


def test_escapes_are_refused_inside_a_worker(hosting) -> None:
    async def scenario() -> dict[str, str]:
        async with hosting() as bench:
            seen = {}
            for name, code in ESCAPES.items():
                # the exception's own errno, whatever Python makes of it
                source = f"try:\n    {code}\n    answer = 'went through'\n"
                source += "except (OSError, RuntimeError, ValueError) as exc:\n"
                source += "    answer = str(getattr(exc, 'errno', type(exc).__name__))"
                seen[name] = await bench.text(bench.app(name, source), request={"host": os.getpid(), "own": 1})
            return seen

    seen = asyncio.run(scenario())
    refused = {str(errno.EPERM), str(errno.EACCES)}
    odd = {name: said for name, said in seen.items() if said not in refused}
    assert odd == {"a thread": "RuntimeError", "wider limits": "ValueError"}  # what Python makes of EPERM there
    assert not os.path.exists("/tmp/escaped")


def test_the_watchdogs_thread_is_under_the_filter_too(hosting) -> None:
    source = (
        "import time, socket\n"
        "LEAK['from_thread'] = lambda: socket.socket() and 'went through'\n"
        "while 'thread_said' not in LEAK: time.sleep(0.005)\n"
        "answer = str(LEAK['thread_said'])"
    )

    async def scenario() -> str:
        async with hosting() as bench:
            return await bench.text(bench.app("a", source))

    assert asyncio.run(scenario()) == str(errno.EPERM)


def test_a_worker_seen_from_outside(hosting, tmp_path: Path) -> None:
    source = "import os; answer = str(os.getpid())"

    async def scenario() -> tuple[dict[str, str], dict[str, str], list[str], bytes]:
        async with hosting() as bench:
            pid = await bench.text(bench.app("a", source))
            with open(f"/proc/{pid}/status", encoding="ascii") as lines:
                facts = dict(line.rstrip("\n").split(":\t", 1) for line in lines if ":\t" in line)
            with open(f"/proc/{pid}/limits", encoding="ascii") as lines:
                limits = {line[:26].strip(): line[26:].split()[1] for line in lines}
            with open(f"/proc/{pid}/oom_score_adj", encoding="ascii") as file:
                limits["oom"] = file.read().strip()
            links = []
            if os.getuid() == 0:
                links = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
                links.append(os.readlink(f"/proc/{pid}/ns/net"))
            zygote = bench.host.report()["zygote"]["pid"]
            with open(f"/proc/{zygote}/environ", "rb") as file:
                return facts, limits, links, file.read()

    os.environ["FAZT_SECRETS_KEY"] = "c2VjcmV0"
    try:
        facts, limits, links, environment = asyncio.run(scenario())
    finally:
        del os.environ["FAZT_SECRETS_KEY"]
    assert environment == b""
    assert (facts["Seccomp"], facts["NoNewPrivs"], facts["CapEff"], facts["CapPrm"]) == ("2", "1", "0" * 16, "0" * 16)
    assert limits["Max core file size"] == limits["Max file size"] == limits["Max processes"] == "0"
    assert int(limits["Max open files"]) <= 32
    assert limits["Max address space"] != limits["Max data size"] != "unlimited"
    assert limits["oom"] == "1000"
    if os.getuid() == 0:
        assert str(os.getuid()) not in facts["Uid"].split()
        assert links.pop() != os.readlink("/proc/self/ns/net")
        assert links.count("/dev/null") == 3
        assert sum(str(tmp_path) in link for link in links) == 1  # the app's image
        assert sum(link.startswith("socket:") for link in links) == 1


def test_no_environment_reaches_a_worker(hosting) -> None:
    source = "import os, sys; answer = repr((dict(os.environ), [k for k in sys.argv if 'KEY' in k]))"

    async def scenario() -> str:
        async with hosting() as bench:
            return await bench.text(bench.app("a", source))

    os.environ["FAZT_SECRETS_KEY"] = "c2VjcmV0"
    try:
        assert asyncio.run(scenario()) == "({}, [])"
    finally:
        del os.environ["FAZT_SECRETS_KEY"]


def test_memory_beyond_the_cap_is_refused_inside_the_worker(hosting) -> None:
    source = "try:\n    x = bytearray(600 << 20)\n    answer = 'had it'\nexcept MemoryError:\n    answer = 'refused'"

    async def scenario() -> str:
        async with hosting() as bench:
            return await bench.text(bench.app("a", source))

    assert asyncio.run(scenario()) == "refused"


@pytest.mark.parametrize("flags", ["0x21", "0x122", "0x22"], ids=["shared", "growing downwards", "private"])
def test_no_kind_of_memory_escapes_the_cap(hosting, flags: str) -> None:
    source = f"import mmap\ntry:\n    x = mmap.mmap(-1, 600 << 20, flags={flags}, prot=3)\n    answer = 'had it'\n"
    source += "except OSError:\n    answer = 'refused'"

    async def scenario() -> str:
        async with hosting() as bench:
            return await bench.text(bench.app("a", source))

    assert asyncio.run(scenario()) == "refused"


@pytest.mark.parametrize("engine", ["wasm", "jsbox"])
def test_no_memory_of_a_worker_is_both_writable_and_executable(engine: str) -> None:
    # the kernel refuses new memory of this kind; what ctypes needs for callbacks was there before
    async def scenario() -> list[str]:
        host = FunctionHost(engine_kind=engine, workers=1, spare=1)
        await host.start()
        try:
            zygote = host.report()["zygote"]["pid"]
            pids = Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split()
            assert pids
            maps = [line for pid in pids for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
            return [line for line in maps if line.split()[1].startswith(("rwx", "-wx"))]
        finally:
            await host.close()

    try:
        assert asyncio.run(scenario()) == []
    except FunctionsUnavailableError as missing:
        pytest.skip(str(missing))
    except PermissionError:
        pytest.skip("only root sees the memory of a worker")


def test_without_the_filter_every_attempt_would_be_noticed() -> None:
    code = (
        "import json, os; from fazt.functions import seccomp, selfcheck\n"
        "tries = selfcheck.attempts(seccomp.current_arch().name, pid=os.getpid(), parent=os.getppid())\n"
        "print(json.dumps([[a.name for a in tries], selfcheck.run(tries)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=30)
    tried, holes = json.loads(done.stdout)
    # a machine may refuse a few of them by itself (containers: mount, ptrace, keyrings); never most
    refused_anyway = set(tried) - set(holes)
    assert len(tried) >= 40
    assert refused_anyway <= {"trace", "mount", "bpf", "userfaultfd", "performance counters", "keyring", "io_uring"} | {
        "namespace",
        "enter a namespace",
        "open a file, new call",
        "fork, new call",
        "signal the parent",
    }


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("leaky", "network socket"),
        ("no_tsync", "TSYNC"),
        ("no_filter_on_thread", "thread without Seccomp"),
        ("broken", "no such engine"),
    ],
)
def test_a_worker_that_is_not_confined_is_never_used(hosting, factory: str, said: str) -> None:
    async def scenario() -> None:
        async with hosting(f"fake_engine:{factory}"):
            pass

    with pytest.raises(FunctionsUnavailableError, match=said):
        asyncio.run(scenario())


def test_a_full_sandbox_can_be_required(hosting) -> None:
    async def scenario() -> None:
        async with hosting("fake_engine:native", require="full"):
            pass

    with pytest.raises(FunctionsUnavailableError, match="for development"):
        asyncio.run(scenario())


def test_the_fallback_engine_is_reported_as_development(hosting) -> None:
    async def scenario() -> dict:
        async with hosting("fake_engine:native") as bench:
            return bench.host.report()["sandbox"]

    sandbox = asyncio.run(scenario())
    assert (sandbox["profile"], sandbox["seccomp"], sandbox["full"]) == ("development", True, False)


def test_a_report_names_what_is_missing() -> None:
    assert FULL.full
    assert FULL.missing() == ()
    for change in ({"landlock_abi": 0}, {"netns": False}, {"uid_dropped": False}, {"arch_verified": False}):
        less = replace(FULL, **change)
        assert less.usable
        assert not less.full
        assert len(less.missing()) == 1
    assert not replace(FULL, seccomp=False).usable
    assert not replace(FULL, holes=("fork",)).usable
    assert replace(FULL, seccomp=False, platform="darwin").usable
    assert SandboxReport.from_dict(json.loads(json.dumps(FULL.as_dict()))) == FULL


def test_what_a_worker_claims_is_checked_from_outside() -> None:
    assert verify_outside(os.getpid(), replace(FULL, seccomp=False)) == ()
    assert "thread without NoNewPrivs" in verify_outside(os.getpid(), FULL)
